"""`mp query`: SQL over the local database; `live_query` has the commands sent to Mixpanel."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixpanel._runtime.checked_files import read_at_most
from mixpanel.cli._options.database import AccountOption, DatabaseOption, open_database
from mixpanel.cli._options.shared import with_options
from mixpanel.cli._output.format import (
    Format,
    OutputOptions,
    output_options,
    write,
    write_csv_line,
)
from mixpanel.cli._output.terminal import say
from mixpanel.cli.live_query import COMMANDS as LIVE_COMMANDS

if TYPE_CHECKING:
    from mixpanel.cli.app import Command

MAX_QUERY_BYTES = 16_000_000
HELP = """
`sql` sends no request. Each of the others costs one of the 60 queries an hour that Mixpanel allows
for a project, and waits when they are used up.
"""
EXAMPLE = "mp query sql 'SELECT event_name, count(*) FROM events GROUP BY ALL'"
SQL = """
mp query sql 'SELECT event_name, count(*) FROM events GROUP BY ALL'
mp query sql "SELECT properties->>'$.plan' AS plan, count(*) FROM events GROUP BY ALL"
mp query sql --scalar 'SELECT count(DISTINCT distinct_id) FROM events' --format plain
mp query sql --file funnel.sql --format csv > funnel.csv
"""


@with_options(output=output_options)
def sql(
    query: Annotated[
        str | None,
        typer.Argument(metavar="QUERY", show_default=False, help="One SQL statement."),
    ] = None,
    *,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", "-F", metavar="FILE", help="Read the query from a file; - is stdin."
        ),
    ] = None,
    scalar: Annotated[
        bool, typer.Option("--scalar", "-s", help="Print the first column of the first row.")
    ] = False,
    write_: Annotated[
        bool, typer.Option("--write", help="Allow statements that change the database.")
    ] = False,
    external_access: Annotated[
        bool, typer.Option("--external", help="Allow files, extensions and the network.")
    ] = False,
    _account: AccountOption = None,
    db: DatabaseOption = None,
    output: OutputOptions,
) -> None:
    """Run a query in DuckDB's SQL.

    A table of events has the columns event_name, event_time (UTC), distinct_id, insert_id and
    properties; one of profiles has distinct_id, properties and last_seen. A property is
    properties->>'$.plan'. A query only reads, and only the database, unless --write or --external
    allow more. Several queries can run at the same time.
    """
    text = _query_text(query, file)
    with open_database(db, write=write_, external=external_access) as database:
        found = database.sql_rows(text, write=write_, limit=1 if scalar else None)
    if scalar:
        value = found.rows[0][0] if found.rows else None
        write({"value": value}, output)
        return
    columns = _unique_names(found.columns)
    rows = [dict(zip(columns, row, strict=True)) for row in found.rows]
    if not rows and output.format is Format.CSV:
        write_csv_line(columns)  # a reader of the file still needs them
        return
    write(rows, output)
    if not rows and output.format is Format.TABLE:
        say("no rows", "dim")


COMMANDS: "tuple[Command, ...]" = (("sql", sql, SQL), *LIVE_COMMANDS)


def _query_text(query: str | None, file: Path | None) -> str:
    if query is not None and file is not None:
        raise typer.BadParameter("QUERY and --file cannot be used together")
    if file is None:
        text = query
    elif str(file) == "-":
        text = sys.stdin.read()
    else:
        from mixpanel.data._paths import expand_home

        text = _read(expand_home(file))
    if text is None or not text.strip():
        raise typer.BadParameter("the query is missing: give QUERY or --file")
    return text


def _read(file: Path) -> str:
    from mixpanel.data.exceptions import MixpanelDataError

    try:
        return read_at_most(file, MAX_QUERY_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{file} is not UTF-8", param_hint="--file") from None
    except OSError as error:
        code = "FILE_NOT_FOUND" if isinstance(error, FileNotFoundError) else "FILE_UNREADABLE"
        raise MixpanelDataError(f"{file}: {error.strerror}", code=code) from error


def _unique_names(columns: Iterable[str]) -> list[str]:
    """Return column names with a number added to repeated ones: n, n_2."""
    names: dict[str, None] = {}
    for column in columns:
        name, number = column, 1
        while name in names:
            number += 1
            name = f"{column}_{number}"
        names[name] = None
    return list(names)
