"""Run a fetch for a person: refuse what contradicts itself, show how far it is, say what came."""

import asyncio
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mixpanel.cli._options.database import Shown, located, short
from mixpanel.cli._options.global_options import asked
from mixpanel.cli._output.format import Format, Options, write
from mixpanel.cli._output.progress import Teller, counted, told
from mixpanel.cli._output.terminal import say

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from mixpanel.data.results import FetchPlan, FetchResult
    from mixpanel.data.workspace import AsyncWorkspace

# What errors of the library name -> how that is called here.
ARGUMENTS = {
    "from_date": "--from", "to_date": "--to", "max_workers": "--workers", "cohort_id": "--cohort",
    "chunk_days": "--chunk-days", "lookback_days": "--lookback-days",
    "project_timezone": "--project-timezone", "as_of_timestamp": "--as-of-timestamp",
    "output_properties": "--output-properties",
}  # fmt: skip
ARGUMENT = re.compile(rf"\b({'|'.join(ARGUMENTS)})\b(=?)")


# ---- what cannot be asked for together ----------------------------------------------------------


def check(
    stored: dict[str, Any],
    *,
    replace: bool,
    append: bool,
    stdout: bool,
    raw: bool,
    options: Options,
) -> None:
    """Refuse options that exclude each other, or would be ignored in silence."""
    exclude({"--replace": replace, "--append": append})
    need("--raw", raw, {"--stdout": stdout})
    if not stdout:
        return
    vain = _given(stored)
    if vain:
        raise typer.BadParameter(f"--stdout stores nothing: leave out {', '.join(vain)}")
    if options.jq is not None or options.format not in (None, Format.JSONL):
        raise typer.BadParameter(
            "--stdout writes lines of JSON: leave out --format and --jq, and pipe it into jq"
        )


def exclude(options: dict[str, Any]) -> None:
    """Refuse more than one of these options."""
    if len(_given(options)) > 1:
        raise typer.BadParameter(f"{' and '.join(options)} exclude each other")


def need(option: str, value: Any, needed: dict[str, Any]) -> None:
    """Refuse an option without another one."""
    if _given({option: value}) and not _given(needed):
        raise typer.BadParameter(f"{option} needs {' or '.join(needed)}")


def _given(options: dict[str, Any]) -> list[str]:
    return [name for name, value in options.items() if value not in (None, False, [])]


# ---- fetching -----------------------------------------------------------------------------------


def workspace(
    db: Path | None, base_url: str | None, teller: Teller | None = None, **options: Any
) -> "AsyncWorkspace":
    """Return the project that was asked for; its database is opened when first used."""
    from mixpanel.data.workspace import AsyncWorkspace

    path, _ = located(db)
    wait = (teller or Teller()).wait
    return AsyncWorkspace(asked.account, path=path, base_url=base_url, on_wait=wait, **options)


def run(
    table: str,
    unit: str,
    fetch: "Callable[[AsyncWorkspace, Teller], Awaitable[FetchResult]]",
    options: Options,
    *,
    db: Path | None,
    base_url: str | None,
    no_progress: bool,
) -> None:
    """Fetch into a table, and say what came, or how to go on."""
    from mixpanel.data.exceptions import TableExistsError

    async def fetched(teller: Teller) -> "FetchResult":
        async with workspace(db, base_url, teller) as opened:
            return await fetch(opened, teller)

    path, _ = located(db)
    try:
        with in_shell_words(), told(table, unit, quietly=no_progress) as teller:
            # Ctrl-C cancels it, waits for a transaction to end, and only then comes up here.
            result = asyncio.run(fetched(teller))
    except TableExistsError as error:
        add = "updates its profiles" if unit == "pages" else "adds days to it"
        error.add_note(f"--replace puts a new one in its place, --append {add}")
        raise
    except KeyboardInterrupt:
        left = "what has arrived is kept, and" if unit == "days" else "nothing was stored;"
        goes = "goes on from there" if unit == "days" else "begins again"
        say(f"interrupted: {left} the same command {goes}", "yellow")
        raise
    data = result.to_dict()
    rows = {name: value for name, value in data.items() if value or name == "rows"}
    rows |= {
        "duration_seconds": round(result.duration_seconds, 3),
        "fetched_at": f"{result.fetched_at:%Y-%m-%d %H:%M:%S}",
    }
    write(Shown(data, rows), options)
    _summarize(result, f"table {table} of {short(path)}")


@contextmanager
def in_shell_words() -> "Iterator[None]":
    """Name in errors the option that was typed, not the argument that it became."""
    from mixpanel.data.exceptions import ConfigError

    try:
        yield
    except ConfigError as error:
        error.message = ARGUMENT.sub(
            lambda found: ARGUMENTS[found[1]] + (" " if found[2] else ""), error.message
        )
        error.args = (error.message,)
        if "mixed" in error.message:
            error.add_note("in the shell: --mixed")
        raise


def _summarize(result: "FetchResult", where: str) -> None:
    copies = f", {result.merged:,} copies merged" if result.merged else ""
    say(f"{result.rows:,} rows in {result.duration_seconds:.1f} s{copies}: {where}", "green")
    if result.repaired:
        say(f"{result.repaired:,} rows held what is no JSON, and were repaired", "yellow")
    if result.unreadable:
        files = " and ".join(result.unreadable_files[:3])
        files += " …" if len(result.unreadable_files) > 3 else ""
        say(f"{result.unreadable:,} lines cannot be loaded, and were kept in {files}", "yellow")
    if result.without_time:
        say(f"{result.without_time:,} rows have no time", "yellow")


def plan(
    ask: "Callable[[AsyncWorkspace], Awaitable[FetchPlan]]",
    db: Path | None,
    base_url: str | None,
    options: Options,
) -> None:
    """Say what a fetch would cost, without any call."""
    from mixpanel.data.workspace import AsyncWorkspace

    async def planned() -> "FetchPlan":
        path, _ = located(db)
        # What only looks makes no database, and holds none up.
        if path.is_file():
            async with workspace(path, base_url, read_only=True) as opened:
                return await ask(opened)
        async with AsyncWorkspace.memory(asked.account, base_url=base_url) as opened:
            return await ask(opened)

    with in_shell_words():
        found = asyncio.run(planned())
    rows = [
        {"from": str(first), "to": str(last), "days": (last - first).days + 1}
        for first, last in found.chunks
    ]
    write(Shown(found.to_dict(), rows), options)
    say(_in_words(found), "dim")


def _in_words(plan: "FetchPlan") -> str:
    already = f"; {plan.already_done} days are there already" if plan.already_done else ""
    days = "1 day" if plan.days == 1 else f"{plan.days} days"
    calls = "1 call" if plan.calls == 1 else f"{plan.calls} calls"
    left = f"{plan.calls_left} of this hour's calls are left"
    return f"a dry run: {days} in {calls}, {left}{already}; nothing was asked of Mixpanel"


def stream(
    records: "Callable[[AsyncWorkspace], AsyncIterator[dict[str, Any]]]",
    what: str,
    *,
    db: Path | None,
    base_url: str | None,
) -> None:
    """Write records on stdout as they come, and at the end how many."""
    lines, count = Options(Format.JSONL), 0

    async def streamed() -> None:
        nonlocal count
        with in_shell_words(), counted(what) as tell:
            async with workspace(db, base_url) as opened:
                async for record in records(opened):
                    write(record, lines)
                    count += 1
                    tell(count)

    try:
        asyncio.run(streamed())
    except KeyboardInterrupt:
        say(f"interrupted after {count:,} {what}", "yellow")
        raise
    say(f"{count:,} {what}", "dim")
