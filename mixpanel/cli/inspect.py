"""Look into the local database, and drop what is no longer needed."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixpanel.cli._options.database import Account, Db, Shown, located, opened, short
from mixpanel.cli._output.format import As, Format, Jq, Options, write
from mixpanel.cli._output.terminal import Force, say, sure

if TYPE_CHECKING:
    from mixpanel.data.results import Result, TableInfo
    from mixpanel.data.store import Database

EXAMPLE = "Example: mp inspect tables --format table"
COLUMN = """Examples:

mp inspect column events event_name

mp inspect column events "properties->>'$.plan'" --format table
"""
DROP = """Examples:

mp inspect drop january february

mp inspect drop january --force
"""
MOST = 100_000


class Kind(StrEnum):
    """What a fetched table holds."""

    EVENTS = "events"
    PROFILES = "profiles"


Table = Annotated[
    str | None, typer.Argument(metavar="TABLE", show_default=False, help="The table.")
]
TableOption = Annotated[
    str | None, typer.Option("--table", "-t", metavar="TABLE", help="The same as TABLE.")
]


def inspect() -> None:
    """Look into the local database, or list what the project has at Mixpanel.

    What only looks into the database may run several times at once, but not while a fetch writes.
    """


def info(
    *,
    _account: Account = None,
    db: Db = None,
    format: As = None,  # noqa: A002
    jq: Jq = None,
) -> None:
    """Say where the database is, whose, how big, and what is in it."""
    from mixpanel.data.results import WorkspaceInfo

    options = Options(format, jq)
    path, found = located(db)
    with opened(path) as database:
        told = WorkspaceInfo(
            path=database.path,
            project_id=found.project_id if found else None,
            region=found.region if found else None,
            account=found.account if found else None,
            tables=database.tables(),
            size_mb=database.size_mb,
            created_at=database.created_at,
        )
    data = told.to_dict() | {"source": found.source if found else None}
    write(Shown(data, data | {"tables": ", ".join(one.name for one in told.tables)}), options)


def tables(
    *,
    _account: Account = None,
    db: Db = None,
    format: As = None,  # noqa: A002
    jq: Jq = None,
) -> None:
    """List the tables: what kind, how many rows, which days, and which days are missing.

    A table that an interrupted fetch is still filling is incomplete; the same fetch goes on with
    it.
    """
    options = Options(format, jq)
    with opened(db) as database:
        found = database.tables()
    write([_in_words(one) for one in found] if options.written is Format.TABLE else found, options)
    if not found:
        say("no tables yet: mp fetch events", "dim")


def schema(
    table: Table = None,
    *,
    option: TableOption = None,
    sample: Annotated[
        bool, typer.Option("--sample", help="Show a value of each column beside it.")
    ] = False,
    _account: Account = None,
    db: Db = None,
    format: As = None,  # noqa: A002
    jq: Jq = None,
) -> None:
    """Show the columns of a table."""
    options = Options(format, jq)
    with _table(table, option, db) as (database, name):
        found = database.schema(name)
        row = _sampled(database, name, 1) if sample else []
    data = found.to_dict()
    for column in data["columns"] if sample else ():
        column["sample"] = row[0][column["name"]] if row else None
    _show(Shown(data, data["columns"]), options)


def sample(
    table: Table = None,
    *,
    option: TableOption = None,
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, max=MOST, help="How many rows.")] = 10,
    _account: Account = None,
    db: Db = None,
    format: As = None,  # noqa: A002
    jq: Jq = None,
) -> None:
    """Show some rows of a table, taken at random."""
    options = Options(format, jq)
    with _table(table, option, db) as (database, name):
        found = _sampled(database, name, rows)
    write(found, options)


def summarize(
    table: Table = None,
    *,
    option: TableOption = None,
    _account: Account = None,
    db: Db = None,
    format: As = None,  # noqa: A002
    jq: Jq = None,
) -> None:
    """Say what each column of a table holds: least and most, how many different, how many empty."""
    options = Options(format, jq)
    with _table(table, option, db) as (database, name):
        found = database.summarize(name)
    _show(found, options)


def breakdown(
    table: Table = None,
    *,
    option: TableOption = None,
    _account: Account = None,
    db: Db = None,
    format: As = None,  # noqa: A002
    jq: Jq = None,
) -> None:
    """Count each event of a table, and who did it, the most frequent first."""
    options = Options(format, jq)
    with _table(table, option, db) as (database, name):
        found = database.event_breakdown(name)
    if options.written is not Format.TABLE:
        _show(found, options)
        return
    rows = [
        {
            "event_name": one.event_name,
            "count": one.count,
            "users": one.unique_users,
            "first_seen": one.first_seen and f"{one.first_seen:%Y-%m-%d %H:%M}",
            "last_seen": one.last_seen and f"{one.last_seen:%Y-%m-%d %H:%M}",
            "pct_of_total": one.pct_of_total,
        }
        for one in found.events
    ]
    write(rows, options)  # a row fits into a line of 80 letters


def keys(
    table: Table = None,
    *,
    option: TableOption = None,
    event: Annotated[
        str | None,
        typer.Option("--event", "-e", metavar="NAME", help="Only those of this event."),
    ] = None,
    _account: Account = None,
    db: Db = None,
    format: As = None,  # noqa: A002
    jq: Jq = None,
) -> None:
    """List the names of all properties in a table."""
    options = Options(format, jq)
    with _table(table, option, db) as (database, name):
        found = database.property_keys(name, event)
    write(found, options)


def column(
    table: Table = None,
    column: Annotated[
        str | None,
        typer.Argument(
            metavar="COLUMN", show_default=False,
            help="The column, or a property as properties->>'$.plan'.",
        ),
    ] = None,
    *,
    option: TableOption = None,
    column_option: Annotated[
        str | None, typer.Option("--column", "-c", metavar="COLUMN", help="The same as COLUMN.")
    ] = None,
    top: Annotated[
        int, typer.Option(min=1, max=MOST, help="Show so many of its most frequent values.")
    ] = 10,
    _account: Account = None,
    db: Db = None,
    format: As = None,  # noqa: A002
    jq: Jq = None,
) -> None:  # fmt: skip
    """Say what a column or a property holds, and its most frequent values.

    How many different values there are is an estimate.
    """
    options = Options(format, jq)
    if option is not None and column is None and column_option is None:
        table, column = None, table  # mp inspect column -t events event_name
    wanted = _one("COLUMN", column, column_option)
    with _table(table, option, db) as (database, name):
        found = database.column_stats(name, wanted, top_n=top)
    _show(found, options)


def typed_view(
    table: Table = None,
    *,
    option: TableOption = None,
    _account: Account = None,
    db: Db = None,
) -> None:
    """Make a view `TABLE_typed`, with a column of a fitting type for each property.

    It knows the properties that the table has now: make it again after a fetch.
    """
    name = _one("TABLE", table, option)
    with opened(db, write=True) as database:
        made = database.typed_view(name)
        where = short(database.path)
    say(f"made {made} in {where}", "green")


def drop(
    tables: Annotated[
        list[str] | None,
        typer.Argument(metavar="TABLE...", show_default=False, help="The tables."),
    ] = None,
    *,
    option: Annotated[
        list[str] | None,
        typer.Option("--table", "-t", metavar="TABLE", help="The same as TABLE."),
    ] = None,
    force: Force = False,
    _account: Account = None,
    db: Db = None,
) -> None:
    """Drop tables, all of them or none; also what an interrupted fetch has left of one."""
    given: list[str] = [*(tables or []), *(option or [])]
    names = list(dict.fromkeys(given))
    if not names:
        raise typer.BadParameter("which TABLE?")
    with opened(db) as database:
        there = {one.name.lower(): one for one in database.tables()}
        found = [there[name.lower()] for name in names if name.lower() in there]
        where = short(database.path)
    if len(found) == len(names):
        _confirm(found, where, force=force)
    with opened(db, write=True) as database:
        database.drop(*names)
    say(f"dropped {', '.join(names)} of {where}", "green")


def drop_all(
    *,
    type: Annotated[  # noqa: A002
        Kind | None,
        typer.Option("--type", "-t", show_default="all", help="Only those that hold these."),
    ] = None,
    force: Force = False,
    _account: Account = None,
    db: Db = None,
) -> None:
    """Drop all tables."""
    with opened(db) as database:
        found = [one for one in database.tables() if type is None or one.type == type.value]
        where = short(database.path)
    if not found:
        say(f"nothing to drop in {where}", "dim")
        return
    _confirm(found, where, force=force)
    with opened(db, write=True) as database:
        database.drop_all(None if type is None else type.value)
    say(f"dropped {', '.join(one.name for one in found)} of {where}", "green")


COMMANDS: tuple[tuple[str, Callable[..., None], str], ...] = (
    ("info", info, "Example: mp inspect info"),
    ("tables", tables, "Example: mp inspect tables --format table"),
    ("schema", schema, "Example: mp inspect schema events --sample"),
    ("sample", sample, "Example: mp inspect sample events --rows 3"),
    ("summarize", summarize, "Example: mp inspect summarize events --format table"),
    ("breakdown", breakdown, "Example: mp inspect breakdown events --format table"),
    ("keys", keys, 'Example: mp inspect keys events --event "Order Paid"'),
    ("column", column, COLUMN),
    ("typed-view", typed_view, "Example: mp inspect typed-view events"),
    ("drop", drop, DROP),
    ("drop-all", drop_all, "Example: mp inspect drop-all --type profiles"),
)


@contextmanager
def _table(argument: str | None, option: str | None, db: Any) -> "Iterator[tuple[Database, str]]":
    name = _one("TABLE", argument, option)
    with opened(db) as database:
        yield database, name


def _show(found: "Result | Shown", options: Options) -> None:
    """Write a result; a file of CSV gets its rows, as a table does."""
    write(found.to_table_dict() if options.written is Format.CSV else found, options)


def _one(what: str, argument: str | None, option: str | None) -> str:
    """Return what was given in one of two ways."""
    if argument is not None and option is not None and argument != option:
        raise typer.BadParameter(f"which {what}: {argument} or {option}?")
    given = argument or option
    if not given:
        raise typer.BadParameter(f"which {what}?")
    return given


def _in_words(table: "TableInfo") -> dict[str, Any]:
    """Write what is known of a table the way people read it."""
    from mixpanel.data._fetch.plan import Chunk

    told = table.to_dict()
    days = ", ".join(str(Chunk(*gap)) for gap in table.gaps)
    return told | {
        "fetched_at": f"{table.fetched_at:%Y-%m-%d %H:%M}" if table.fetched_at else None,
        "gaps": days,
        "filters": "; ".join(map(_filter_in_words, table.filters)),
    }


def _filter_in_words(filters: dict[str, Any]) -> str:
    told = {name: json.dumps(value, ensure_ascii=False) for name, value in filters.items()}
    return ", ".join(f"{name} {value}" for name, value in told.items()) or "none"


def _sampled(database: "Database", table: str, rows: int) -> list[dict[str, Any]]:
    """Return some rows, properties as the objects they are."""
    nested = [one.name for one in database.schema(table).columns if one.type == "JSON"]
    found = database.sample(table, rows).to_dicts()
    for row in found:
        row |= {name: json.loads(row[name]) for name in nested if row[name] is not None}
    return found


def _confirm(found: "list[TableInfo]", where: str, *, force: bool) -> None:
    wanted = ", ".join(f"{one.name} ({one.row_count:,} rows)" for one in found)
    sure(f"Drop {wanted} from {where}?", force=force)
