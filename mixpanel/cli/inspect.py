"""`mp inspect`: the local database; `live_inspect` has the commands about the project."""

import json
import shlex
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixpanel.cli._options.database import (
    AccountOption,
    DatabaseOption,
    database_path,
    display_path,
    open_database,
)
from mixpanel.cli._options.fetching import schema_changes, workspace
from mixpanel.cli._options.project import BaseUrlOption
from mixpanel.cli._options.shared import argument_or_option, with_options
from mixpanel.cli._output.exit_codes import ExitCode
from mixpanel.cli._output.format import Format, OutputOptions, TableView, output_options, write
from mixpanel.cli._output.terminal import ForceOption, confirm_or_abort, say
from mixpanel.cli.live_inspect import COMMANDS as LIVE_COMMANDS
from mixpanel.cli.local_inspect import COMMANDS as LOCAL_COMMANDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date

    from mixpanel.cli.app import Command
    from mixpanel.data.results import ReconcileResult, TableInfo
    from mixpanel.data.store import Database

HELP = """
Commands about the local database send no request, but for `reconcile`; several can run at once, but
not while a fetch writes to it. `events` to `lexicon-schema` list what the project has at Mixpanel.
"""
EXAMPLE = "mp inspect tables"
COLUMN = """
mp inspect column events event_name
mp inspect column events "properties->>'$.plan'"
"""
TYPED = """
mp inspect typed-table events
mp inspect typed-table events --type "amount=DECIMAL(18,2)"
"""
DROP = """
mp inspect drop january february
mp inspect drop january --force
"""
RECONCILE = """
mp inspect reconcile events
mp inspect reconcile events --from -30d --to yesterday
"""
MAX_ROWS = 100_000


class TableType(StrEnum):
    """What a fetched table holds."""

    EVENTS = "events"
    PROFILES = "profiles"


Table = Annotated[
    str | None, typer.Argument(metavar="TABLE", show_default=False, help="The table.")
]
TableOption = Annotated[
    str | None, typer.Option("--table", "-t", metavar="TABLE", help="The same as TABLE.")
]


@with_options(output=output_options)
def info(
    *, _account: AccountOption = None, db: DatabaseOption = None, output: OutputOptions
) -> None:
    """Show the path, project, size and tables of the database."""
    from mixpanel.data.results import WorkspaceInfo

    path, credentials = database_path(db)
    with open_database(path) as database:
        found = WorkspaceInfo(
            path=database.path,
            project_id=credentials.project_id if credentials else None,
            region=credentials.region if credentials else None,
            account=credentials.account if credentials else None,
            tables=database.tables(),
            size_mb=database.size_mb,
            created_at=database.created_at,
        )
    data = found.to_dict() | {"source": credentials.source if credentials else None}
    names = ", ".join(each.name for each in found.tables)
    write(TableView(data, data | {"tables": names}), output)


@with_options(output=output_options)
def tables(
    *, _account: AccountOption = None, db: DatabaseOption = None, output: OutputOptions
) -> None:
    """List the tables: type, rows, days and missing days.

    A table that an interrupted fetch has begun is incomplete; run the same fetch again to resume
    it. A typed table is stale while its table has other rows; `mp inspect typed-table` brings it up
    to date. A view is broken if it cannot be read, as when its table was dropped.
    """
    with open_database(db) as database:
        found = database.tables()
    is_table = output.format is Format.TABLE
    write([_table_row(each) for each in found] if is_table else found, output, empty=None)
    if not found:
        say("no tables yet: fetch some with mp fetch events", "dim")


@with_options(output=output_options)
def schema(
    table: Table = None,
    *,
    table_option: TableOption = None,
    sample: Annotated[
        bool, typer.Option("--sample", help="Add a sample value for each column.")
    ] = False,
    _account: AccountOption = None,
    db: DatabaseOption = None,
    output: OutputOptions,
) -> None:
    """Show the columns of a table."""
    with _table(table, table_option, db) as (database, name):
        found = database.schema(name)
        rows = _sampled(database, name, 1) if sample else []
    data = found.to_dict()
    for column in data["columns"] if sample else ():
        column["sample"] = rows[0][column["name"]] if rows else None
    _write(TableView(data, data["columns"]), output)


@with_options(output=output_options)
def sample(
    table: Table = None,
    *,
    table_option: TableOption = None,
    rows: Annotated[
        int, typer.Option("--rows", "-n", metavar="N", min=1, max=MAX_ROWS, help="How many rows.")
    ] = 10,
    _account: AccountOption = None,
    db: DatabaseOption = None,
    output: OutputOptions,
) -> None:
    """Show a random sample of rows."""
    with _table(table, table_option, db) as (database, name):
        found = _sampled(database, name, rows)
    write(found, output)


@with_options(output=output_options)
def summarize(
    table: Table = None,
    *,
    table_option: TableOption = None,
    _account: AccountOption = None,
    db: DatabaseOption = None,
    output: OutputOptions,
) -> None:
    """Show min, max, distinct and null counts per column."""
    with _table(table, table_option, db) as (database, name):
        found = database.summarize(name)
    _write(found, output)


@with_options(output=output_options)
def breakdown(
    table: Table = None,
    *,
    table_option: TableOption = None,
    _account: AccountOption = None,
    db: DatabaseOption = None,
    output: OutputOptions,
) -> None:
    """Count events and users by event name."""
    with _table(table, table_option, db) as (database, name):
        found = database.event_breakdown(name)
    if output.format is not Format.TABLE:
        _write(found, output)
        return
    # Short names and times, so that a row fits into 80 columns.
    rows = [
        {
            "event_name": each.event_name,
            "count": each.count,
            "users": each.unique_users,
            "first_seen": each.first_seen and f"{each.first_seen:%Y-%m-%d %H:%M}",
            "last_seen": each.last_seen and f"{each.last_seen:%Y-%m-%d %H:%M}",
            "pct_of_total": each.pct_of_total,
        }
        for each in found.events
    ]
    write(rows, output)


@with_options(output=output_options)
def keys(
    table: Table = None,
    *,
    table_option: TableOption = None,
    event: Annotated[
        str | None,
        typer.Option("--event", "-e", metavar="NAME", help="Only properties of this event."),
    ] = None,
    _account: AccountOption = None,
    db: DatabaseOption = None,
    output: OutputOptions,
) -> None:
    """List the property names in a table."""
    with _table(table, table_option, db) as (database, name):
        found = database.property_keys(name, event)
    write(found, output)


@with_options(output=output_options)
def column(
    table: Table = None,
    column: Annotated[
        str | None,
        typer.Argument(
            metavar="COLUMN", show_default=False,
            help="The column, or a property such as properties->>'$.plan'.",
        ),
    ] = None,
    *,
    table_option: TableOption = None,
    column_option: Annotated[
        str | None, typer.Option("--column", "-c", metavar="COLUMN", help="The same as COLUMN.")
    ] = None,
    top_n: Annotated[
        int,
        typer.Option(
            "--top", metavar="N", min=1, max=MAX_ROWS, help="How many frequent values to show."
        ),
    ] = 10,
    _account: AccountOption = None,
    db: DatabaseOption = None,
    output: OutputOptions,
) -> None:  # fmt: skip
    """Show statistics and frequent values of a column.

    It may be a property too. The number of distinct values is an estimate.
    """
    if table_option is not None and column is None and column_option is None:
        table, column = None, table  # mp inspect column -t events event_name
    wanted = argument_or_option("COLUMN", column, column_option)
    with _table(table, table_option, db) as (database, name):
        found = database.column_stats(name, wanted, top_n=top_n)
    _write(found, output)


def typed_view(
    table: Table = None,
    *,
    table_option: TableOption = None,
    _account: AccountOption = None,
    db: DatabaseOption = None,
) -> None:
    """Create a view with a typed column for each property.

    The view is called `TABLE_typed`. It has the properties of the table as it is now; create it
    again after a fetch.
    """
    name = argument_or_option("TABLE", table, table_option)
    with open_database(db, write=True) as database:
        created = database.typed_view(name)
        where = display_path(database.path)
    say(f"created {created} in {where}", "green")


@with_options(output=output_options)
def typed_table(
    table: Table = None,
    *,
    table_option: TableOption = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", metavar="NAME", show_default="TABLE_typed",
            help="The name of the typed table.",
        ),
    ] = None,
    types: Annotated[
        list[str] | None,
        typer.Option(
            "--type", metavar="PROPERTY=TYPE", show_default=False,
            help="State a type, as in amount=DECIMAL(18,2); can be repeated.",
        ),
    ] = None,
    infer_again: Annotated[
        bool,
        typer.Option(
            "--infer-again", help="Discard recorded names and types, but not stated ones."
        ),
    ] = False,
    _account: AccountOption = None,
    db: DatabaseOption = None,
    output: OutputOptions,
) -> None:  # fmt: skip
    """Create a table with a typed column for each property.

    Fetches keep it current, and report new columns. A value that does not fit its column is NULL
    there, and kept in the column `_outliers`. Names and types stay, once they are recorded.
    """
    wanted = argument_or_option("TABLE", table, table_option)
    pins = {}
    for given in types or []:
        key, equals, type_ = given.rpartition("=")
        if not equals:
            raise typer.BadParameter(f"--type {given} has no =: write it as amount=BIGINT")
        pins[key] = type_
    with open_database(db, write=True) as database:
        found = database.typed_table(wanted, name, types=pins, infer_again=infer_again)
        where = display_path(database.path)
    data = found.to_dict()
    _write(TableView(data, data["columns"]), output)
    say(f"created {found.name} ({found.rows:,} rows) in {where}", "green")
    for line in schema_changes(found):
        say(line, "yellow")


def drop(
    tables: Annotated[
        list[str] | None,
        typer.Argument(metavar="TABLE...", show_default=False, help="The tables."),
    ] = None,
    *,
    table_option: Annotated[
        list[str] | None,
        typer.Option("--table", "-t", metavar="TABLE", help="The same as TABLE."),
    ] = None,
    force: ForceOption = False,
    _account: AccountOption = None,
    db: DatabaseOption = None,
) -> None:
    """Drop tables. If one of the names is unknown, nothing is dropped.

    What an interrupted fetch has left of them is deleted too.
    """
    given: list[str] = [*(tables or []), *(table_option or [])]
    names = list(dict.fromkeys(given))
    if not names:
        raise typer.BadParameter("TABLE is missing")
    with open_database(db) as database:
        by_name = {each.name.lower(): each for each in database.tables()}
        found = [by_name[name.lower()] for name in names if name.lower() in by_name]
        where = display_path(database.path)
    # With an unknown name nothing is dropped, so there is nothing to confirm.
    if len(found) == len(names):
        _confirm(found, where, force=force)
    with open_database(db, write=True) as database:
        database.drop(*names)
    say(f"dropped {', '.join(names)} from {where}", "green")


def drop_all(
    *,
    type: Annotated[
        TableType | None,
        typer.Option(
            "--type", "-t", metavar="TYPE", show_default="all",
            help="Only tables of this type, events or profiles.",
        ),
    ] = None,
    force: ForceOption = False,
    _account: AccountOption = None,
    db: DatabaseOption = None,
) -> None:  # fmt: skip
    """Drop all tables."""
    with open_database(db) as database:
        found = [each for each in database.tables() if type is None or each.type == type.value]
        where = display_path(database.path)
    if not found:
        say(f"nothing to drop in {where}", "dim")
        return
    _confirm(found, where, force=force)
    with open_database(db, write=True) as database:
        database.drop_all(None if type is None else type.value)
    say(f"dropped {', '.join(each.name for each in found)} from {where}", "green")


@with_options(output=output_options)
def reconcile(
    table: Table = None,
    *,
    table_option: TableOption = None,
    from_date: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="DAY", show_default="the first day of the table",
            help="The first day in the project's timezone, as 2026-01-31 or -30d.",
        ),
    ] = None,
    to_date: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="DAY", show_default="its last day that is over",
            help="The last day, included.",
        ),
    ] = None,
    _account: AccountOption = None,
    db: DatabaseOption = None,
    base_url: BaseUrlOption = None,
    output: OutputOptions,
) -> None:  # fmt: skip
    """Compare the events of each day in a fetched table with Mixpanel's count.

    Costs one of the hourly queries. The exit code is 6 if a day that is over differs.
    """
    import asyncio

    name = argument_or_option("TABLE", table, table_option)

    async def compare() -> "ReconcileResult":
        async with workspace(db, base_url, read_only=True) as opened:
            return await opened.reconcile(name, from_date=from_date, to_date=to_date)

    found = asyncio.run(compare())
    _write(TableView(found.to_dict(), found.to_table_dict()), output)
    days = "1 day" if len(found.days) == 1 else f"{len(found.days):,} days"
    if found.local_time:
        say(
            f"{found.table} has the project's local times: fetch it with --project-timezone "
            f"{found.timezone}",
            "yellow",
        )
    if found.ok:
        say(f"{found.table}: {days} ({found.timezone}) as at Mixpanel", "green")
        return
    wrong = found._differing()
    first = _first_in_utc(wrong[0].day, found.timezone)
    say(
        f"{found.table}: {len(wrong):,} of {days} ({found.timezone}) differ, {found.difference:+,} "
        f"events in all; mp fetch sync {shlex.quote(found.table)} --from {first} --lookback-days "
        f"{_age(first)} fetches them again",
        "yellow",
    )
    raise typer.Exit(ExitCode.PARTIAL)


COMMANDS: "tuple[Command, ...]" = (
    ("info", info, "mp inspect info"),
    ("tables", tables, "mp inspect tables"),
    ("schema", schema, "mp inspect schema events --sample"),
    ("sample", sample, "mp inspect sample events --rows 3 --format json"),
    ("summarize", summarize, "mp inspect summarize events"),
    ("breakdown", breakdown, "mp inspect breakdown events"),
    ("keys", keys, 'mp inspect keys events --event "Order Paid"'),
    ("column", column, COLUMN),
    ("typed-view", typed_view, "mp inspect typed-view events"),
    ("typed-table", typed_table, TYPED),
    ("reconcile", reconcile, RECONCILE),
    ("drop", drop, DROP),
    ("drop-all", drop_all, "mp inspect drop-all --type profiles"),
    *LOCAL_COMMANDS,
    *LIVE_COMMANDS,
)


@contextmanager
def _table(argument: str | None, option: str | None, db: Any) -> "Iterator[tuple[Database, str]]":
    name = argument_or_option("TABLE", argument, option)
    with open_database(db) as database:
        yield database, name


def _write(found: Any, output: OutputOptions) -> None:
    """Write a result whose CSV has the rows of its table."""
    if output.format is Format.CSV:
        found = found.rows if isinstance(found, TableView) else found.to_table_dict()
    write(found, output)


def _first_in_utc(day: str, timezone: str) -> "date":
    """Return the day of UTC on which a day of a time zone begins, or the day itself if earlier."""
    from datetime import date

    from mixpanel.data.analysis.period import Period

    local = date.fromisoformat(day)
    return min(local, Period.checked(local, local, timezone).start.date())


def _age(day: "date") -> int:
    """Return how many days ago a day was."""
    from mixpanel.data._fetch.plan import today

    return max(0, (today() - day).days)


def _table_row(table: "TableInfo") -> dict[str, Any]:
    """Return what is known of a table as text, for people."""
    from mixpanel.data._fetch.plan import Chunk

    row = table.to_dict()
    source = row.pop("source")
    return row | {
        "type": f"{table.type} of {source}" if source else table.type,
        "fetched_at": f"{table.fetched_at:%Y-%m-%d %H:%M}" if table.fetched_at else None,
        "gaps": ", ".join(str(Chunk(*gap)) for gap in table.gaps),
        "filters": "; ".join(map(_filter_text, table.filters)),
    }


def _filter_text(filters: dict[str, Any]) -> str:
    values = {name: json.dumps(value, ensure_ascii=False) for name, value in filters.items()}
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "none"


def _sampled(database: "Database", table: str, rows: int) -> list[dict[str, Any]]:
    """Return sample rows with properties as objects, not as JSON text."""
    nested = [each.name for each in database.schema(table).columns if each.type == "JSON"]
    found = database.sample(table, rows).to_dicts()
    for row in found:
        row |= {name: json.loads(row[name]) for name in nested if row[name] is not None}
    return found


def _confirm(found: "list[TableInfo]", where: str, *, force: bool) -> None:
    tables = ", ".join(f"{each.name} ({each.row_count:,} rows)" for each in found)
    confirm_or_abort(f"Drop {tables} from {where}?", force=force)
