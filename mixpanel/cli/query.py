"""Ask the local database."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

from mixpanel._runtime.checked_files import read_at_most
from mixpanel.cli._options.database import Account, Db, opened
from mixpanel.cli._output.format import As, Format, Jq, Options, write, write_csv_line
from mixpanel.cli._output.terminal import say

MOST_BYTES = 16_000_000  # of a query
EXAMPLE = "Example: mp query sql 'SELECT event_name, count(*) FROM events GROUP BY ALL'"
SQL = """Examples:

mp query sql 'SELECT event_name, count(*) FROM events GROUP BY ALL' --format table

mp query sql "SELECT properties->>'$.plan' AS plan, count(*) FROM events GROUP BY ALL"

mp query sql --scalar 'SELECT count(DISTINCT distinct_id) FROM events' --format plain

mp query sql --file funnel.sql --format csv > funnel.csv
"""


def query() -> None:
    """Query the local database with `sql`; every other command is answered by Mixpanel."""


def sql(
    query: Annotated[
        str | None,
        typer.Argument(metavar="QUERY", show_default=False, help="One statement of SQL."),
    ] = None,
    *,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-F", metavar="FILE", help="Read it from here; - is stdin."),
    ] = None,
    scalar: Annotated[
        bool, typer.Option("--scalar", "-s", help="Only the first column of the first row.")
    ] = False,
    write_: Annotated[
        bool, typer.Option("--write", help="Let it change the database too, not only read.")
    ] = False,
    external: Annotated[
        bool, typer.Option("--external", help="Let it reach files, extensions and the network.")
    ] = False,
    _account: Account = None,
    db: Db = None,
    format: As = None,  # noqa: A002
    jq: Jq = None,
) -> None:
    """Ask the local database in DuckDB's SQL.

    A table of events has the columns event_name, event_time (UTC), distinct_id, insert_id and
    properties, one of profiles distinct_id, properties and last_seen; a property is read as
    properties->>'$.plan'. Unless told otherwise, a query only reads, and nothing but the database.
    Several may run at the same time.
    """
    from mixpanel.data.exceptions import UnsafeSQLError

    options = Options(format, jq)
    text = _text(query, file)
    with opened(db, write=write_, external=external) as database:
        try:
            found = database.sql_rows(text, write=write_, limit=1 if scalar else None)
        except UnsafeSQLError as error:
            if not write_ and "write=True" in str(error):
                error.add_note("in the shell: --write")
            if not external and "external_access=True" in str(error):
                error.add_note("in the shell: --external")
            raise
    if scalar:
        value = found.rows[0][0] if found.rows else None
        write({"value": value}, options)
        return
    columns = _apart(found.columns)
    rows = [dict(zip(columns, row, strict=True)) for row in found.rows]
    if not rows and options.written is Format.CSV:
        write_csv_line(columns)
        return
    write(rows, options)
    if not rows and options.written is Format.TABLE:
        say("no rows", "dim")


COMMANDS: tuple[tuple[str, Callable[..., None], str], ...] = (("sql", sql, SQL),)


def _text(query: str | None, file: Path | None) -> str:
    if query is not None and file is not None:
        raise typer.BadParameter("QUERY and --file exclude each other")
    if file is None:
        text = query
    elif str(file) == "-":
        text = sys.stdin.read()
    else:
        from mixpanel.data._paths import expand_home

        text = _read(expand_home(file))
    if text is None or not text.strip():
        raise typer.BadParameter("what is the query? Give it as QUERY, or with --file")
    return text


def _read(file: Path) -> str:
    from mixpanel.data.exceptions import MixpanelDataError

    try:
        return read_at_most(file, MOST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{file} is no text in UTF-8", param_hint="--file") from None
    except OSError as error:
        kind = "FILE_NOT_FOUND" if isinstance(error, FileNotFoundError) else "FILE_UNREADABLE"
        raise MixpanelDataError(f"{file}: {error.strerror}", code=kind) from error


def _apart(columns: Iterable[str]) -> list[str]:
    """Give each column a name of its own, so that none hides another: n, n_2."""
    names: dict[str, None] = {}
    for column in columns:
        name, number = column, 1
        while name in names:
            number += 1
            name = f"{column}_{number}"
        names[name] = None
    return list(names)
