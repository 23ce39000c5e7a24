"""Watch a small shop's day travel into a local Mixpanel."""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from rich.console import Console, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mixpanel.cli._output.terminal import BAR, bars, megabytes, out, pairs, sparkline

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mixpanel import AsyncMixpanel, DeliveryError, Mixpanel
    from mixpanel.bulk import ImportResult
    from mixpanel.cli._demo_shop import Shop
    from mixpanel.emulator import Emulator

EXAMPLE = "Example: mp demo"
PAUSE = 0.4  # seconds between the steps, for whoever watches
OUTAGE = 1.8
LOOK = 0.05
LATENCY = 0.04
NARROW = 90
CROWD = 300  # about as many events as wait in the end
DATA = "flights.ndjson"
FLAG = "free-shipping"


def demo() -> None:
    """Watch a small shop's day travel into a local Mixpanel.

    It takes less than ten seconds and needs neither an account nor a network: a Mixpanel is
    started on this machine, and real events travel to it over a real socket.
    """
    anyio.run(_play, out())


@dataclass(slots=True)
class Day:
    """What the steps share."""

    console: Console
    emulator: "Emulator"
    shop: "Shop"
    visitors: "AsyncMixpanel"
    office: "Mixpanel"
    strict: "AsyncMixpanel"
    refusals: list[str]
    imported: "ImportResult | None" = None

    def tell(self, what: RenderableType) -> None:
        """Print below the title of the step."""
        self.console.print(Padding(what, (0, 0, 0, 4)))


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to watch: its title, the line of code that does it, and the doing."""

    title: str
    code: str
    play: Callable[[Day], Awaitable[None]]


@asynccontextmanager
async def _opened(console: Console) -> "AsyncIterator[Day]":
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

    refusals: list[str] = []

    def refused(error: "DeliveryError", _messages: list[dict[str, Any]]) -> None:
        refusals.extend(
            f"record {one.index}, {one.record and one.record['event']}: {one.message}"
            for one in error.rejected_records
        )

    async with Emulator(latency=LATENCY) as emulator:
        background = AsyncBufferedConsumer(
            max_size=50,
            flush_after=0.1,
            retry=RetryPolicy(first_wait=0.2, max_wait=0.4),
            on_error=lambda _error, _messages: None,
            base_url=emulator.url,
        )
        visitors = AsyncMixpanel(
            TOKEN,
            background,
            super_properties={"shop": "Corner Books"},
            local_flags_config=LocalFlagsConfig(polling_interval_in_seconds=0.1),
        )
        batches = BufferedConsumer(200, base_url=emulator.url)
        strict = AsyncMixpanel(
            TOKEN,
            ingestion="import",
            credentials=ServiceAccountCredentials("demo", "demo", "1"),
            validation="off",  # so that the server is the one to complain
            on_error=refused,
            base_url=emulator.url,
        )
        async with strict:
            try:
                office = Mixpanel(TOKEN, batches)
                yield Day(console, emulator, Shop(), visitors, office, strict, refusals)
            finally:
                await visitors.aclose()
                await background.aclose()
                await anyio.to_thread.run_sync(lambda: batches.close())  # noqa: PLW0108


async def _play(console: Console) -> None:
    began = time.monotonic()
    async with _opened(console) as day:
        console.print("\n[bold]A small shop's day[/bold]")
        console.print("All of it travels over a real socket, to a Mixpanel on this machine.")
        for number, step in enumerate(STEPS, 1):
            console.print(f"\n[bold cyan]{number}[/]  [bold]{step.title}[/]")
            if step.code:
                day.tell(Text(step.code, "green"))
            if console.is_terminal:
                await anyio.sleep(PAUSE)
            await step.play(day)
    console.print(f"\nThat took {time.monotonic() - began:.1f} s. Now yours:", style="bold")
    console.print(Padding(pairs(NEXT), (0, 0, 1, 4)))
    console.print(Padding(Text(INSTALL, "dim"), (0, 0, 1, 4)))


NEXT = (
    ("mp emulator", "run this local Mixpanel for your own program"),
    ("mp import events FILE", "bring events in from NDJSON, CSV or Parquet"),
    ("mp fetch events", "bring your project's events into DuckDB, then SQL"),
    ("examples/", "short programs to copy from"),
)
INSTALL = """\
`mp` comes with pip install 'mixpanel-async[all]'
or, from a clone, python3 -m pip install '.[all]'"""


# ---- the steps ----------------------------------------------------------------------------------


async def _start(day: Day) -> None:
    day.tell(f"It answers at {day.emulator.url}, by the rules that Mixpanel documents.")


async def _visitors(day: Day) -> None:
    await day.shop.all_visit(day.visitors, day.shop.visitors(120))
    meanwhile = day.visitors.stats()
    await day.visitors.flush()
    stats = day.visitors.stats()
    day.tell(
        f"{meanwhile.accepted:,} events accepted while {meanwhile.delivered:,} were delivered: "
        f"nobody waits for a server. A background task brought them all, {stats.delivered:,} in "
        f"{stats.requests} requests."
    )


async def _office(day: Day) -> None:
    # The office is sync code; in an async program it has a thread of its own.
    await anyio.to_thread.run_sync(day.shop.ship, day.office)
    await anyio.to_thread.run_sync(day.office.flush)
    stats, orders = day.office.stats(), len(day.shop.orders)
    profiles, groups = len(day.emulator.profiles()), len(day.emulator.groups())
    day.tell(
        f"{orders} orders shipped: {stats.delivered} messages in {stats.requests} requests "
        f"keep {profiles} customer profiles and {groups} groups up to date."
    )


async def _real_events(day: Day) -> None:
    from mixpanel.data.store import read_events

    result = await day.strict.import_events(read_events(flights()))
    day.imported = result
    day.tell(
        f"{result.imported:,} departures, arrivals and cancellations at New York's airports on "
        f"9 February 2013, the morning after a blizzard: {megabytes(result.bytes_sent)} gzipped, "
        f"in {result.seconds:.1f} s."
    )


async def _outage(day: Day) -> None:
    from mixpanel.emulator import Fault

    emulator, shop, mp = day.emulator, day.shop, day.visitors
    before = mp.stats()
    end = time.monotonic() + OUTAGE
    emulator.play(Fault.reset("after") * 2, path="/track")
    emulator.play(Fault.status(503).forever(), path="/track", when=lambda _: time.monotonic() < end)
    waiting: list[int] = []

    def picture() -> Table:
        stats = mp.stats()
        state = Text("down", "bold red") if time.monotonic() < end else Text("up", "bold green")
        grid = Table.grid(padding=(0, 2))
        grid.add_row(Text("server", "dim"), state)
        grid.add_row(Text("waiting", "dim"), Text(sparkline(waiting, full=CROWD), "yellow"))
        grid.add_row(
            "", f"{stats.pending:,} events wait, {stats.retried - before.retried} attempts repeated"
        )
        return grid

    async def watch(live: Live | None) -> None:
        while time.monotonic() < end or mp.stats().pending:
            waiting.append(mp.stats().pending)
            if live is not None:
                live.update(Padding(picture(), (0, 0, 0, 4)), refresh=True)
            await anyio.sleep(LOOK)
        waiting.append(0)

    async def arrive() -> None:
        for visitor in shop.visitors(80, first=121):
            await shop.visit(mp, visitor)
            await anyio.sleep(OUTAGE / 90)

    day.tell("The line breaks after two requests; then every answer is 503. The shop stays open.")
    if day.console.is_terminal:
        with Live(console=day.console, auto_refresh=False, transient=True) as live:
            await _together(arrive, partial(watch, live))
    else:
        await _together(arrive, partial(watch, None))
    after = mp.stats()
    came = after.accepted - before.accepted
    twice = len(emulator.events(raw=True)) - len(emulator.events())
    day.tell(pairs([("waiting", sparkline(waiting)), ("", f"{max(waiting):,} at the most")]))
    day.tell(
        f"{came:,} events came in, {after.delivered - before.delivered:,} were delivered; "
        f"{after.retried - before.retried} attempts were repeated. {twice} events arrived twice: "
        "Mixpanel knows them by their $insert_id and counts one."
    )


async def _one_bad(day: Day) -> None:
    before = day.strict.stats()
    for who, properties in day.shop.ten_orders():
        await day.strict.track(who, "Gift Ordered", properties)
    await day.strict.flush()
    stats = day.strict.stats()
    day.tell(
        f"{stats.delivered - before.delivered} delivered, "
        f"{stats.rejected - before.rejected} rejected. The server says why, and which:"
    )
    for refusal in day.refusals:
        day.tell(Text(refusal, "red"))


async def _flag(day: Day) -> None:
    flags, visitors = day.visitors.local_flags, [f"visitor-{n}" for n in range(1, 201)]

    def who() -> set[str]:
        # What a request handler does: a plain call, no await, no socket.
        return {one for one in visitors if flags.is_enabled(FLAG, {"distinct_id": one})}

    rows, seen = [], set[str]()
    for share in (0.1, 0.5):
        day.emulator.set_flags(_free_shipping(share))
        await flags.astart_polling_for_definitions()
        with anyio.move_on_after(2):
            while FLAG not in flags.definitions.flags or (seen and who() == seen):  # noqa: ASYNC110
                await anyio.sleep(LOOK)
        now = who()  # this round reports the exposures; the next is timed
        began = time.perf_counter()
        who()
        each = (time.perf_counter() - began) / len(visitors) * 1e6
        stayed = f"; all {len(seen)} from before too" if seen and seen <= now else ""
        rows.append(
            (f"{share:.0%}", f"{len(now)} of 200 visitors get it{stayed} ({each:.1f} µs a check)")
        )
        seen = now
    day.tell("A rollout goes up while the shop is open; handlers never wait for it:")
    day.tell(pairs(rows))
    await day.visitors.flush()
    day.tell("Who was shown it is an event like any other, reported once for each visitor.")


async def _books(day: Day) -> None:
    rows = [
        ("AsyncMixpanel, visitors", day.visitors.stats()),
        ("Mixpanel, back office", day.office.stats()),
        ("AsyncMixpanel, gifts", day.strict.stats()),
    ]
    numbers = [
        (who, s.accepted, s.delivered, s.rejected, sum(s.dropped.values()), s.pending, s.retried)
        for who, s in rows
    ]
    one = day.imported
    if one is not None:
        total = one.imported + one.rejected
        numbers.append(
            ("import_events, flights", total, one.imported, one.rejected, 0, 0, one.retried)
        )
    space = 3 if day.console.width > NARROW else 1
    table = Table(box=None, pad_edge=False, padding=(0, space, 0, 0), header_style="dim")
    table.add_column("", no_wrap=True)
    for name in ("accepted", "delivered", "rejected", "dropped", "pending", "retried"):
        table.add_column(name, justify="right")
    for who, *counts in numbers:
        table.add_row(who, *(f"{count:,}" for count in counts))
    day.tell(table)
    accepted, delivered, rejected, dropped, pending, _ = (
        sum(column) for column in list(zip(*numbers, strict=True))[1:]
    )
    holds = accepted == delivered + rejected + dropped + pending
    day.tell("")
    day.tell(
        Text(
            f"{accepted:,} accepted = {delivered:,} delivered + {rejected:,} rejected "
            f"+ {dropped:,} dropped + {pending:,} pending  {'✓' if holds else '✗'}",
            "bold green" if holds else "bold red",
        )
    )


async def _arrived(day: Day) -> None:
    emulator = day.emulator
    names = Counter(event["event"] for event in emulator.events())
    day.tell(bars(names.most_common(), width=28))
    profiles = emulator.profiles()
    best = max(profiles, key=lambda who: profiles[who].get("spent", 0))
    (key, group), facts = next(iter(sorted(emulator.groups().items())))
    day.tell("")
    day.tell(
        pairs(
            [
                ("events", f"{names.total():,}, each once"),
                ("profiles", f"{len(profiles):,}; best customer: {_facts(profiles[best])}"),
                ("groups", f"{len(emulator.groups())}; {key} {group}: {_facts(facts)}"),
            ]
        )
    )


async def _sql(day: Day) -> None:
    from mixpanel import ServiceAccountCredentials
    from mixpanel.data import AsyncWorkspace

    who = ServiceAccountCredentials("demo", "demo", "1")
    opened = datetime.fromtimestamp(day.shop.opened, UTC).date()
    async with AsyncWorkspace.memory(credentials=who, base_url=day.emulator.url) as ws:
        got = await ws.fetch_events(
            "shop", from_date=opened, to_date=datetime.now(UTC).date(), progress=False
        )
        rows = ws.sql_rows(CHANNELS).rows
    day.tell(
        f"{got.rows:,} events came back, {megabytes(got.bytes)} in {got.requests} "
        f"call{'s' if got.requests > 1 else ''}. Each is a row in DuckDB; which channel pays?"
    )
    day.tell("")
    day.tell(Text(CHANNELS, "green"))
    day.tell("")
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for name in ("channel", "visitors", "orders", "revenue"):
        table.add_column(name, justify="left" if name == "channel" else "right")
    table.add_column("")
    most = max(revenue for *_, revenue in rows)
    for channel, visitors, orders, revenue in rows:
        bar = Text(BAR * round(28 * revenue / most), "cyan")
        table.add_row(channel, f"{visitors:,}", f"{orders:,}", f"{revenue:,.2f}", bar)
    day.tell(table)


CHANNELS = """\
SELECT properties->>'$.channel' AS channel,
       count(DISTINCT distinct_id) AS visitors,
       count(*) FILTER (event_name = 'Order Paid') AS orders,
       sum(CAST(properties->>'$.amount' AS DOUBLE)) AS revenue
FROM shop WHERE channel IS NOT NULL GROUP BY channel ORDER BY revenue DESC"""


STEPS = (
    Step("A Mixpanel of your own", "with Emulator() as emu:", _start),
    Step(
        "120 visitors at once, through AsyncMixpanel",
        'with context("visitor-7"): await mp.track(None, "Book Viewed", {...})',
        _visitors,
    ),
    Step(
        "The back office, through Mixpanel: events, profiles, groups",
        'mp.people_increment("visitor-7", {"orders": 1})',
        _office,
    ),
    Step("A file of real events", "await mp.import_events(rows)", _real_events),
    Step("The server fails, in front of you", "", _outage),
    Step(
        "One bad event among ten",
        'await mp.track("undefined", "Gift Ordered", {"amount": 16.0})',
        _one_bad,
    ),
    Step(
        "A flag changes under running handlers",
        'if mp.local_flags.is_enabled("free-shipping", {"distinct_id": "visitor-7"}):',
        _flag,
    ),
    Step("Nothing is lost in silence", "mp.stats()", _books),
    Step("What arrived", "emu.events(), emu.profiles(), emu.groups()", _arrived),
    Step(
        "Fetched once, asked in SQL",
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
    """Return where the real events are: in the installed package, or in a checkout's examples."""
    installed = Path(__file__).parent / "data" / DATA
    checkout = Path(__file__).parents[2] / "examples" / "data" / DATA
    return installed if installed.exists() else checkout


def _facts(properties: dict[str, Any]) -> str:
    return ", ".join(f"{name.lstrip('$')} {value}" for name, value in properties.items())
