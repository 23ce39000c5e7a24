"""Run a fetch for a shell: check the options, show the progress, print the result."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from mixpanel.cli._options.database import database_path, display_path
from mixpanel.cli._options.global_options import global_options
from mixpanel.cli._options.shared import given, refuse_together, require_with
from mixpanel.cli._output.exit_codes import ExitCode
from mixpanel.cli._output.format import Format, OutputOptions, TableView, write
from mixpanel.cli._output.progress import FetchReporter, ProgressBar, progress_bar
from mixpanel.cli._output.terminal import confirm_or_abort, say, stdin_is_terminal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from mixpanel.data.results import FailedDays, FetchPlan, FetchResult, ProfilePlan, TypedTable
    from mixpanel.data.workspace import AsyncWorkspace

Plan = TypeVar("Plan")

COUNT_EVERY = 1000  # records of a stream between two updates of the count
FILES_NAMED = 3
UNCONFIRMED_REQUESTS = 30  # half of the hourly limit


def check_options(
    stored: dict[str, Any],
    *,
    replace: bool,
    append: bool,
    stdout: bool,
    raw: bool,
    output: OutputOptions,
) -> None:
    """Refuse options that contradict each other, or would have no effect.

    `stored` are options that only make sense for a table.

    :raises typer.BadParameter: with the options to leave out.
    """
    refuse_together({"--replace": replace, "--append": append})
    require_with("--raw", raw, {"--stdout": stdout})
    if not stdout:
        return
    without_effect = given(stored)
    if without_effect:
        raise typer.BadParameter(f"--stdout stores nothing: leave out {', '.join(without_effect)}")
    if output.jq is not None or output.requested not in (None, Format.JSONL):
        raise typer.BadParameter(
            "--stdout writes lines of JSON: leave out --format and --jq, and pipe it into jq"
        )


def workspace(
    db: Path | None, base_url: str | None, reporter: FetchReporter | None = None, **options: Any
) -> "AsyncWorkspace":
    """Return the workspace of the chosen account; its database is opened when first used."""
    from mixpanel.data.workspace import AsyncWorkspace

    path, _ = database_path(db, offline=False)
    on_wait = (reporter or FetchReporter(ProgressBar(""))).wait
    return AsyncWorkspace(
        global_options.account,
        path=path,
        base_url=base_url,
        on_wait=on_wait,
        memory_limit=global_options.memory_limit,
        threads=global_options.threads,
        **options,
    )


def run_fetch(
    table: str,
    unit: str,
    fetch: "Callable[[AsyncWorkspace, FetchReporter], Awaitable[FetchResult]]",
    output: OutputOptions,
    *,
    db: Path | None,
    base_url: str | None,
    no_progress: bool,
) -> None:
    """Fetch into a table and print the result; `unit` is what is counted, days or pages.

    Ends with `ExitCode.PARTIAL` if the table is there although days could not be fetched.
    """
    import asyncio

    from mixpanel.data.exceptions import TableExistsError

    async def fetch_all(reporter: FetchReporter) -> "FetchResult":
        async with workspace(db, base_url, reporter) as opened:
            return await fetch(opened, reporter)

    path, _ = database_path(db, offline=False)
    try:
        with progress_bar(table, quiet=no_progress) as bar:
            # Ctrl-C cancels the task, which finishes its transaction before it ends.
            result = asyncio.run(fetch_all(FetchReporter(bar, unit)))
    except TableExistsError as error:
        effect = "adds days to it, and replaces those it has already"
        error.add_note(f"--append {'updates its profiles' if unit == 'pages' else effect}")
        raise
    except KeyboardInterrupt:
        limit = " within an hour" if unit == "pages" else ""
        say(
            f"interrupted: finished {unit} are kept; the same command resumes from there{limit}",
            "yellow",
        )
        raise
    data = result.to_dict()
    rows = {
        name: value for name, value in data.items() if name == "rows" or (value and name != "typed")
    }
    rows |= {
        "duration_seconds": round(result.duration_seconds, 3),
        "fetched_at": f"{result.fetched_at:%Y-%m-%d %H:%M:%S}",
    }
    if result.failed:
        rows["failed"] = ", ".join(f"{_span(each)} ({each.state})" for each in result.failed)
    write(TableView(data, rows), output)
    _summarize(result, f"table {table} of {display_path(path)}")
    if result.has_failures:
        raise typer.Exit(ExitCode.PARTIAL)


def _summarize(result: "FetchResult", where: str) -> None:
    copies = f", {result.merged:,} copies merged" if result.merged else ""
    say(f"{result.rows:,} rows in {result.duration_seconds:.1f} s{copies}: {where}", "green")
    if result.new is not None:
        gone = "" if result.vanished is None else f", {result.vanished:,} vanished"
        say(
            f"{result.new:,} new, {result.changed:,} changed, {result.unchanged:,} as before{gone}",
            "dim",
        )
    if result.repaired:
        say(f"{result.repaired:,} rows held invalid JSON and were repaired", "yellow")
    if result.unreadable:
        files = " and ".join(result.unreadable_files[:FILES_NAMED])
        files += " …" if len(result.unreadable_files) > FILES_NAMED else ""
        say(f"{result.unreadable:,} lines could not be loaded and were saved to {files}", "yellow")
    if result.without_time:
        say(f"{result.without_time:,} rows have no time", "yellow")
    for failed in result.failed:
        say(_failure(failed, result.table), "yellow")
    if result.typed is not None:
        for line in schema_changes(result.typed):
            say(line, "yellow")


def _span(failed: "FailedDays") -> str:
    first, last = failed.from_date, failed.to_date
    return first if first == last else f"{first} to {last}"


def _failure(failed: "FailedDays", table: str) -> str:
    """Return the line about days that could not be fetched."""
    if failed.state == "future":
        return (
            f"{_span(failed)} was left out, as {failed.reason}; the next fetch includes it. For a "
            "project from before 2023 add --project-timezone, else an earlier --to"
        )
    effect = f"{table} lacks" if failed.state == "missing" else f"{table} keeps as it was"
    return f"{effect} {_span(failed)}, until the next fetch: {failed.reason}"


def confirm_requests(
    table: str,
    plan: "Callable[[AsyncWorkspace], Awaitable[FetchPlan]]",
    db: Path | None,
    base_url: str | None,
) -> None:
    """Ask whether a table that exists should be brought up to date, if that takes many requests.

    :raises typer.BadParameter: if it would, and stdin is not a terminal.
    :raises typer.Abort: if the answer is not yes.
    """
    path, _ = database_path(db, offline=False)
    if not path.is_file():
        return

    async def plan_for_table(opened: "AsyncWorkspace") -> "FetchPlan | None":
        return await plan(opened) if opened.database.has_table(table) else None

    found = _make_plan(plan_for_table, db, base_url)
    if found is None or not _needs_confirmation(found):
        return
    needed = "1 request" if found.calls == 1 else f"{found.calls} requests"
    need = (
        f"to fetch {found.from_date} to {found.to_date}, {table} needs {needed} for {found.days:,} "
        f"days; {found.calls_left} are left this hour"
    )
    if not stdin_is_terminal():
        raise typer.BadParameter(f"{need}: add --yes, --max-requests, or a later --from")
    confirm_or_abort(f"{need[0].upper()}{need[1:]}. Continue?", force=False, option="--yes")


def _needs_confirmation(plan: "FetchPlan") -> bool:
    uses_up = plan.calls >= plan.calls_left and plan.days > UNCONFIRMED_REQUESTS
    return plan.calls > UNCONFIRMED_REQUESTS or uses_up


def schema_changes(typed: "TypedTable") -> "list[str]":
    """Return a line about each kind of change in the columns of a typed table."""
    lines = []
    if typed.new:
        lines.append(f"{typed.name} has new columns: {', '.join(typed.new)}")
    if typed.vanished:
        lines.append(f"{typed.name} has columns without values now: {', '.join(typed.vanished)}")
    lines += [
        f"{typed.name}: {name} stays {type_}, but recent values are {now}; to change it, run "
        f"mp inspect typed-table {typed.table} --type {name}={now}"
        for name, type_, now in typed.changed
    ]
    outliers = [f"{each.name} ({each.outliers:,})" for each in typed.columns if each.outliers]
    if outliers:
        lines.append(
            f"{typed.name} has values that do not fit their column, kept in _outliers: "
            + ", ".join(outliers)
        )
    if typed.omitted:
        lines.append(f"{typed.omitted:,} rare properties have no column in {typed.name}")
    return lines


def show_plan(
    plan: "Callable[[AsyncWorkspace], Awaitable[FetchPlan]]",
    db: Path | None,
    base_url: str | None,
    output: OutputOptions,
) -> None:
    """Print which calls a fetch would make, without making any."""
    found = _make_plan(plan, db, base_url)
    rows = [
        {"from": str(first), "to": str(last), "days": (last - first).days + 1}
        for first, last in found.chunks
    ]
    write(TableView(found.to_dict(), rows), output)
    say(_plan_summary(found), "dim")


def show_profile_plan(
    plan: "Callable[[AsyncWorkspace], Awaitable[ProfilePlan]]",
    db: Path | None,
    base_url: str | None,
    output: OutputOptions,
) -> None:
    """Print what a fetch of profiles would cost, without a request."""
    found = _make_plan(plan, db, base_url)
    row = found.to_dict()
    write(TableView(row, {name: value for name, value in row.items() if value is not None}), output)
    calls = "no call" if not found.calls else "1 call"
    pages = "" if found.pages is None else f" of {found.pages:,}"
    resumed = f"; resumes after {found.pages_done:,}{pages} pages" if found.pages_done else ""
    say(
        f"dry run: {calls}, {found.calls_left} calls left this hour{resumed}; no request was sent",
        "dim",
    )


def _make_plan(
    plan: "Callable[[AsyncWorkspace], Awaitable[Plan]]", db: Path | None, base_url: str | None
) -> "Plan":
    import asyncio

    from mixpanel.data.workspace import AsyncWorkspace

    async def make_plan() -> "Plan":
        path, _ = database_path(db, offline=False)
        # A dry run neither creates a database nor locks out its readers.
        if path.is_file():
            async with workspace(path, base_url, read_only=True) as opened:
                return await plan(opened)
        async with AsyncWorkspace.memory(global_options.account, base_url=base_url) as opened:
            return await plan(opened)

    return asyncio.run(make_plan())


def _plan_summary(plan: "FetchPlan") -> str:
    days = "1 day" if plan.days == 1 else f"{plan.days} days"
    calls = "1 call" if plan.calls == 1 else f"{plan.calls} calls"
    present = f"; {plan.already_done} days are in the table already" if plan.already_done else ""
    if plan.days:
        days += f" ({plan.from_date} to {plan.to_date})"
    return (
        f"dry run: {days} in {calls}, {plan.calls_left} calls left this hour{present}; "
        "no request was sent"
    )


def run_stream(
    records: "Callable[[AsyncWorkspace], AsyncIterator[dict[str, Any]]]",
    what: str,
    *,
    db: Path | None,
    base_url: str | None,
) -> None:
    """Write records to stdout as they come, and their number to stderr."""
    import asyncio

    lines, count = OutputOptions(Format.JSONL), 0

    async def stream_all() -> None:
        nonlocal count
        # On one terminal with the records, a bar would be drawn between them.
        with progress_bar(what, quiet=sys.stdout.isatty()) as bar:
            async with workspace(db, base_url) as opened:
                async for record in records(opened):
                    write(record, lines)
                    count += 1
                    if count % COUNT_EVERY == 0:
                        bar.update(count, f"{count:,}")

    try:
        asyncio.run(stream_all())
    except KeyboardInterrupt:
        say(f"interrupted after {count:,} {what}", "yellow")
        raise
    say(f"{count:,} {what}", "dim")
