"""`mp demo`: a small shop's day, sent to a local Mixpanel."""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import typer
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mixpanel.cli._output.terminal import (
    BAR,
    bar_chart,
    format_bytes,
    key_value_table,
    sparkline,
    stdout_console,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rich.console import Console, RenderableType

    from mixpanel import AsyncMixpanel, DeliveryError, Mixpanel
    from mixpanel.bulk import ImportResult
    from mixpanel.cli._demo_shop import Shop
    from mixpanel.cli.app import Command
    from mixpanel.emulator import Emulator

PAUSE = 0.4  # seconds between the steps, on a terminal
OUTAGE = 1.8  # seconds
REFRESH = 0.05  # seconds
LATENCY = 0.04  # seconds of the emulator
NARROW = 90  # columns of a terminal
NARROWEST = 80  # for a table of all numbers
MARGIN = 4  # before what a step prints
BARS = 28  # columns of the longest bar
FULL_QUEUE = 300  # events waiting at the end of the outage, roughly
DATA = "flights.ndjson"
FLAG = "free-shipping"


def demo(
    stay: Annotated[
        bool,
        typer.Option(
            "--stay",
            help="Keep the server and its live page open afterwards, until Ctrl-C.",
        ),
    ] = False,
) -> None:
    """See a small shop's day arrive in a local Mixpanel.

    It takes less than ten seconds and needs neither an account nor a network: it starts a Mixpanel
    server on this machine and sends real events to it over a socket. Its live page shows all that
    arrives, with what became of it.
    """
    staying: list[bool] = []
    try:
        anyio.run(_play, stdout_console(), stay, staying)
    except KeyboardInterrupt:
        if not staying:
            raise


COMMAND: "Command" = ("demo", demo, "mp demo\nmp demo --stay")


@dataclass(slots=True)
class Day:
    """What the steps share."""

    console: "Console"
    emulator: "Emulator"
    shop: "Shop"
    visitors: "AsyncMixpanel"
    office: "Mixpanel"
    strict: "AsyncMixpanel"
    rejections: list[str]
    imported: "ImportResult | None" = None

    def show(self, what: "RenderableType") -> None:
        """Print below the title of the step."""
        self.console.print(Padding(what, (0, 0, 0, MARGIN)))


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the demo: its title, the line of code it is about, and what runs."""

    title: str
    code: str
    play: Callable[[Day], Awaitable[None]]


@asynccontextmanager
async def _opened(console: "Console") -> "AsyncIterator[Day]":
    from mixpanel import (
        AsyncBufferedConsumer,
        AsyncMixpanel,
        BufferedConsumer,
        LocalFlagsConfig,
        Mixpanel,
        RetryPolicy,
        ServiceAccountCredentials,
    )
    from mixpanel.cli._demo_shop import TOKEN, Shop
    from mixpanel.emulator import Emulator

    rejections: list[str] = []

    def on_error(error: "DeliveryError", _messages: list[dict[str, Any]]) -> None:
        rejections.extend(
            f"record {each.index}, {each.record and each.record['event']}: {each.message}"
            for each in error.rejected_records
        )

    async with Emulator(latency=LATENCY) as emulator:
        background = AsyncBufferedConsumer(
            max_size=50,
            flush_after=0.1,
            retry=RetryPolicy(first_wait=0.2, max_wait=0.4),
            on_error=lambda _error, _messages: None,
            base_url=emulator.url,
            spool=False,
        )
        visitors = AsyncMixpanel(
            TOKEN,
            background,
            super_properties={"shop": "Corner Books"},
            local_flags_config=LocalFlagsConfig(polling_interval_in_seconds=0.1),
        )
        batches = BufferedConsumer(200, base_url=emulator.url, spool=False)
        strict = AsyncMixpanel(
            TOKEN,
            ingestion="import",
            credentials=ServiceAccountCredentials("demo", "demo", "1"),
            validation="off",  # the server reports the invalid event
            on_error=on_error,
            base_url=emulator.url,
            spool=False,
        )
        async with strict:
            try:
                office = Mixpanel(TOKEN, batches)
                yield Day(console, emulator, Shop(), visitors, office, strict, rejections)
            finally:
                await visitors.aclose()
                await background.aclose()
                await anyio.to_thread.run_sync(lambda: batches.close())  # noqa: PLW0108


async def _play(
    console: "Console",
    stay: bool = False,
    staying: list[bool] | None = None,
) -> None:
    """Play all steps; with `stay` wait after them, with an item in `staying` meanwhile."""
    started = time.monotonic()
    async with _opened(console) as day:
        console.print("\n[bold]A small shop's day[/bold]")
        console.print("Everything is sent over a socket to a Mixpanel server on this machine.")
        for number, step in enumerate(STEPS, 1):
            console.print(f"\n[bold cyan]{number}[/]  [bold]{step.title}[/]")
            if step.code:
                day.show(Text(step.code, "green"))
            if console.is_terminal:
                await anyio.sleep(PAUSE)
            await step.play(day)
        console.print(f"\nThat took {time.monotonic() - started:.1f} s. Next:", style="bold")
        console.print(Padding(key_value_table(NEXT), (0, 0, 1, 4)))
        console.print(Padding(Text(INSTALL, "dim"), (0, 0, 1, 4)))
        if stay:
            console.print(f"The live page of all that arrived: [bold]{day.emulator.url}[/bold]")
            console.print("Ctrl-C ends it.", style="dim")
            if staying is not None:
                staying.append(True)
            await anyio.sleep_forever()
    console.print("To see it all on the live page, run [bold]mp demo --stay[/bold].")


NEXT = (
    ("mp emulator", "run this local Mixpanel for your own program"),
    ("mp import events FILE", "import events from NDJSON, CSV or Parquet"),
    ("mp fetch events", "fetch your project's events into DuckDB, for SQL"),
    ("examples/", "short programs to copy from"),
)
INSTALL = """\
To install `mp`: pip install 'mixpanel-async[all]'
or, from a clone: python3 -m pip install '.[all]'"""


# ---- the steps ----------------------------------------------------------------------------------


async def _start(day: Day) -> None:
    day.show("It follows the rules that Mixpanel documents. Its live page is at")
    day.show(day.emulator.url)


async def _visitors(day: Day) -> None:
    await day.shop.all_visit(day.visitors, day.shop.visitors(120))
    meanwhile = day.visitors.stats()
    await day.visitors.flush()
    stats = day.visitors.stats()
    day.show(
        f"{meanwhile.accepted:,} events were accepted while {meanwhile.delivered:,} were "
        "delivered: track() does not wait for the server. A background task delivered all "
        f"{stats.delivered:,} in {stats.requests} requests."
    )


async def _office(day: Day) -> None:
    # The office is sync code, which an async program runs in a thread.
    await anyio.to_thread.run_sync(day.shop.ship, day.office)
    await anyio.to_thread.run_sync(day.office.flush)
    stats, orders = day.office.stats(), len(day.shop.orders)
    profiles, groups = len(day.emulator.profiles()), len(day.emulator.groups())
    day.show(
        f"{orders} orders shipped: {stats.delivered} messages in {stats.requests} requests "
        f"keep {profiles} customer profiles and {groups} groups up to date."
    )


async def _real_events(day: Day) -> None:
    from mixpanel.data.readers import read_events

    result = await day.strict.import_events(read_events(flights()))
    day.imported = result
    day.show(
        f"{result.imported:,} departures, arrivals and cancellations at New York's airports on "
        "9 February 2013, the morning after a blizzard: "
        f"{format_bytes(result.bytes_sent)} gzipped, in {result.seconds:.1f} s."
    )


async def _outage(day: Day) -> None:
    from mixpanel.emulator import Fault

    emulator, shop, mp = day.emulator, day.shop, day.visitors
    before = mp.stats()
    end = time.monotonic() + OUTAGE
    emulator.play(Fault.reset("after") * 2, path="/track")
    emulator.play(Fault.status(503).forever(), path="/track", when=lambda _: time.monotonic() < end)
    waiting: list[int] = []

    def status() -> Table:
        stats = mp.stats()
        state = Text("down", "bold red") if time.monotonic() < end else Text("up", "bold green")
        grid = Table.grid(padding=(0, 2))
        grid.add_row(Text("server", "dim"), state)
        grid.add_row(Text("waiting", "dim"), Text(sparkline(waiting, full=FULL_QUEUE), "yellow"))
        grid.add_row(
            "", f"{stats.pending:,} events waiting, {stats.retried - before.retried} retries"
        )
        return grid

    async def watch(live: Live | None) -> None:
        while time.monotonic() < end or mp.stats().pending:
            waiting.append(mp.stats().pending)
            if live is not None:
                live.update(Padding(status(), (0, 0, 0, 4)), refresh=True)
            await anyio.sleep(REFRESH)
        waiting.append(0)

    async def arrive() -> None:
        for visitor in shop.visitors(80, first=121):
            await shop.visit(mp, visitor)
            await anyio.sleep(OUTAGE / 90)

    day.show("The connection breaks twice, then every response is 503. The shop stays open.")
    if day.console.is_terminal:
        with Live(console=day.console, auto_refresh=False, transient=True) as live:
            await _together(arrive, partial(watch, live))
    else:
        await _together(arrive, partial(watch, None))
    after = mp.stats()
    accepted = after.accepted - before.accepted
    duplicates = len(emulator.events(raw=True)) - len(emulator.events())
    chart = [("waiting", sparkline(waiting)), ("", f"at most {max(waiting):,}")]
    day.show(key_value_table(chart))
    day.show(
        f"{accepted:,} events were accepted and {after.delivered - before.delivered:,} delivered, "
        f"with {after.retried - before.retried} retries. {duplicates} events arrived twice: "
        "Mixpanel recognizes them by their $insert_id and counts one."
    )


async def _one_bad(day: Day) -> None:
    before = day.strict.stats()
    for who, properties in day.shop.ten_orders():
        await day.strict.track(who, "Gift Ordered", properties)
    await day.strict.flush()
    stats = day.strict.stats()
    day.show(
        f"{stats.delivered - before.delivered} delivered, "
        f"{stats.rejected - before.rejected} rejected. The server reports which one, and why:"
    )
    for each in day.rejections:
        day.show(Text(each, "red"))


async def _flag(day: Day) -> None:
    flags, visitors = day.visitors.local_flags, [f"visitor-{n}" for n in range(1, 201)]

    def enabled() -> set[str]:
        # As in a request handler: a plain call, without await and without I/O.
        return {each for each in visitors if flags.is_enabled(FLAG, {"distinct_id": each})}

    rows, seen = [], set[str]()
    for share in (0.1, 0.5):
        day.emulator.set_flags(_free_shipping(share))
        await flags.astart_polling_for_definitions()
        with anyio.move_on_after(2):
            while FLAG not in flags.definitions.flags or (seen and enabled() == seen):  # noqa: ASYNC110
                await anyio.sleep(REFRESH)
        now = enabled()  # reports the exposures; the next round is the one to time
        started = time.perf_counter()
        enabled()
        per_check = (time.perf_counter() - started) / len(visitors) * 1e6
        stayed = f", all {len(seen)} from before among them" if seen and seen <= now else ""
        rows.append(
            (
                f"{share:.0%}",
                f"{len(now)} of 200 visitors get it{stayed} ({per_check:.1f} µs a check)",
            )
        )
        seen = now
    day.show("A rollout is raised while the shop is open, without a request in any handler:")
    day.show(key_value_table(rows))
    await day.visitors.flush()
    day.show("Each exposure is an event like any other, reported once for each visitor.")


async def _accounting(day: Day) -> None:
    rows = [
        ("AsyncMixpanel, visitors", day.visitors.stats()),
        ("Mixpanel, back office", day.office.stats()),
        ("AsyncMixpanel, gifts", day.strict.stats()),
    ]
    numbers = [
        (name, s.accepted, s.delivered, s.rejected, sum(s.dropped.values()), s.pending, s.retried)
        for name, s in rows
    ]
    flights = day.imported
    if flights is not None:
        imported, rejected, retried = flights.imported, flights.rejected, flights.retried
        total = imported + rejected
        numbers.append(("import_events, flights", total, imported, rejected, 0, 0, retried))
    names = ("accepted", "delivered", "rejected", "dropped", "pending", "retried")
    if day.console.width < NARROWEST:
        day.show(key_value_table([(name, _counts(names, counts)) for name, *counts in numbers]))
    else:
        space = 3 if day.console.width > NARROW else 1
        table = Table(box=None, pad_edge=False, padding=(0, space, 0, 0), header_style="dim")
        table.add_column("", no_wrap=True)
        for name in names:
            table.add_column(name, justify="right")
        for name, *counts in numbers:
            table.add_row(name, *(f"{count:,}" for count in counts))
        day.show(table)
    accepted, delivered, rejected, dropped, pending, _ = (
        sum(column) for column in list(zip(*numbers, strict=True))[1:]
    )
    is_balanced = accepted == delivered + rejected + dropped + pending
    day.show("")
    day.show(
        Text(
            f"{accepted:,} accepted = {delivered:,} delivered + {rejected:,} rejected "
            f"+ {dropped:,} dropped + {pending:,} pending  {'✓' if is_balanced else '✗'}",
            "bold green" if is_balanced else "bold red",
        )
    )


async def _arrived(day: Day) -> None:
    emulator = day.emulator
    names = Counter(event["event"] for event in emulator.events())
    taken = max(map(len, names)) + 13 + MARGIN
    day.show(bar_chart(names.most_common(), width=_bar_width(day.console, taken)))
    profiles = emulator.profiles()
    best = max(profiles, key=lambda user: profiles[user].get("spent", 0))
    (key, group), facts = next(iter(sorted(emulator.groups().items())))
    day.show("")
    day.show(
        key_value_table(
            [
                ("events", f"{names.total():,} without duplicates"),
                ("profiles", f"{len(profiles):,}; best customer: {_facts(profiles[best])}"),
                ("groups", f"{len(emulator.groups())}; {key} {group}: {_facts(facts)}"),
            ]
        )
    )


async def _sql(day: Day) -> None:
    from mixpanel import ServiceAccountCredentials
    from mixpanel.data import AsyncWorkspace

    credentials = ServiceAccountCredentials("demo", "demo", "1")
    opened = datetime.fromtimestamp(day.shop.opened, UTC).date()
    async with AsyncWorkspace.memory(credentials=credentials, base_url=day.emulator.url) as ws:
        fetched = await ws.fetch_events(
            "shop", from_date=opened, to_date=datetime.now(UTC).date(), progress=False
        )
        rows = ws.sql_rows(CHANNELS).rows
    day.show(
        f"{fetched.rows:,} events were fetched, {format_bytes(fetched.bytes)} in "
        f"{fetched.requests} request{'s' if fetched.requests > 1 else ''}. Each is a row in "
        "DuckDB. Which channel pays?"
    )
    day.show("")
    day.show(Text(CHANNELS, "green"))
    day.show("")
    space = 3 if day.console.width > NARROW else 2
    table = Table(box=None, pad_edge=False, padding=(0, space, 0, 0), header_style="dim")
    for name in ("channel", "visitors", "orders", "revenue"):
        table.add_column(name, justify="left" if name == "channel" else "right")
    table.add_column("")
    largest = max(revenue for *_, revenue in rows)
    # Names, three columns of numbers of at most ten characters, and the space after each.
    taken = max(len(channel) for channel, *_ in rows) + 3 * 10 + 5 * space + MARGIN
    width = _bar_width(day.console, taken)
    for channel, visitors, orders, revenue in rows:
        bar = Text(BAR * round(width * revenue / largest), "cyan")
        table.add_row(channel, f"{visitors:,}", f"{orders:,}", f"{revenue:,.2f}", bar)
    day.show(table)


CHANNELS = """\
SELECT properties->>'$.channel' AS channel,
       count(DISTINCT distinct_id) AS visitors,
       count(*) FILTER (event_name = 'Order Paid') AS orders,
       sum(CAST(properties->>'$.amount' AS DOUBLE)) AS revenue
FROM shop WHERE channel IS NOT NULL GROUP BY channel ORDER BY revenue DESC"""


STEPS = (
    Step("A Mixpanel of your own", "with Emulator() as emu:", _start),
    Step(
        "120 visitors at once, with AsyncMixpanel",
        'with context("visitor-7"): await mp.track(None, "Book Viewed", {...})',
        _visitors,
    ),
    Step(
        "The back office, with Mixpanel: events, profiles, groups",
        'mp.people_increment("visitor-7", {"orders": 1})',
        _office,
    ),
    Step("A file of real events", "await mp.import_events(rows)", _real_events),
    Step("The server fails", "", _outage),
    Step(
        "One bad event among ten",
        'await mp.track("undefined", "Gift Ordered", {"amount": 16.0})',
        _one_bad,
    ),
    Step(
        "A flag changes while handlers run",
        'if mp.local_flags.is_enabled("free-shipping", {"distinct_id": "visitor-7"}):',
        _flag,
    ),
    Step("Every event is accounted for", "mp.stats()", _accounting),
    Step("What arrived", "emu.events(), emu.profiles(), emu.groups()", _arrived),
    Step(
        "Fetch once, query with SQL",
        'await ws.fetch_events("shop", from_date=...); ws.sql("SELECT ...")',
        _sql,
    ),
)


# ---- what the steps need ------------------------------------------------------------------------


def _free_shipping(share: float) -> list[dict[str, Any]]:
    return [
        {
            "key": FLAG,
            "context": "distinct_id",
            "ruleset": {
                "variants": [{"key": "on", "value": True, "split": 1.0}],
                "rollout": [{"rollout_percentage": share}],
            },
        }
    ]


async def _together(*tasks: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async with anyio.create_task_group() as group:
        for task in tasks:
            group.start_soon(task)


def flights() -> Path:
    """Return the file of real events, in the installed package or in a checkout's examples."""
    installed = Path(__file__).parent / "data" / DATA
    checkout = Path(__file__).parents[2] / "examples" / "data" / DATA
    return installed if installed.exists() else checkout


def _bar_width(console: "Console", taken: int) -> int:
    """Return the width of the longest bar beside columns of `taken` characters."""
    return max(1, min(BARS, console.width - taken))


def _counts(names: Sequence[str], counts: Sequence[int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in zip(names, counts, strict=True))


def _facts(properties: dict[str, Any]) -> str:
    return ", ".join(f"{name.lstrip('$')} {value}" for name, value in properties.items())
