"""`mp query`: SQL over the local database; `live_query` has the commands sent to Mixpanel."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixpanel._runtime.checked_files import read_at_most
from mixpanel.cli._options.database import (
    AccountOption,
    AttachOption,
    DatabaseOption,
    attach_all,
    open_database,
)
from mixpanel.cli._options.shared import with_options
from mixpanel.cli._output.format import (
    Format,
    OutputOptions,
    default_limit,
    json_value,
    output_options,
    takes_bytes,
    write_bytes,
    write_rows,
    write_value,
)
from mixpanel.cli._output.terminal import say
from mixpanel.cli.live_query import COMMANDS as LIVE_COMMANDS

if TYPE_CHECKING:
    from mixpanel.cli.app import Command
    from mixpanel.data.store import Database
    from mixpanel.data.store.rows import RowsFormat

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
mp query sql --attach plans=plans.csv 'FROM users JOIN plans USING (distinct_id)'
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
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", "-n", metavar="N", min=1, show_default="10,000 in a table, else all",
            help="Show at most this many rows.",
        ),
    ] = None,
    write_: Annotated[
        bool, typer.Option("--write", help="Allow statements that change the database.")
    ] = False,
    external_access: Annotated[
        bool, typer.Option("--external", help="Allow files, extensions and the network.")
    ] = False,
    attach: AttachOption = None,
    _account: AccountOption = None,
    db: DatabaseOption = None,
    output: OutputOptions,
) -> None:  # fmt: skip
    """Run a query in DuckDB's SQL.

    A table of events has the columns event_name, event_time (UTC), distinct_id, insert_id and
    properties; one of profiles has distinct_id, properties and last_seen. A property is
    properties->>'$.plan'. A query only reads, and only the database, unless --write or --external
    allow more. Several queries can run at the same time.

    Rows are written as they come, so that a result may be larger than memory. A terminal and a
    table show the first 10,000 unless --limit says otherwise.
    """
    text = _query_text(query, file)
    with open_database(db, write=write_, external=external_access) as database:
        attach_all(database, attach)
        if scalar:
            _write_scalar(database, text, output, write=write_)
            return
        if not write_ and takes_bytes(output):
            with database.sql_copy(text, _FORMS[output.format], limit=limit) as chunks:
                lines = None if chunks is None else write_bytes(chunks)
            if lines is not None:
                if limit is not None and lines >= limit:  # a row has a line or more
                    _say_more(database, text, limit, write=False)
                return
        from mixpanel.data.store.rows import unique_names

        shown = default_limit(output) if limit is None else limit
        with database.sql_stream(text, write=write_) as found:
            rows = _Limited(found.batches, shown)
            write_rows(unique_names(found.columns), found.types, rows, output)
        if rows.has_more:
            _say_more(database, text, rows.count, write=write_)


class _Limited:
    """Batches of at most `limit` rows together; `has_more` is True if there were more."""

    def __init__(self, batches: Iterable[list[Any]], limit: int | None) -> None:
        self._batches, self._limit = batches, limit
        self.count = 0
        self.has_more = False

    def __iter__(self) -> Iterator[list[Any]]:
        for batch in self._batches:
            room = len(batch) if self._limit is None else self._limit - self.count
            self.count += min(room, len(batch))
            self.has_more = room < len(batch)
            if room:
                yield batch[:room]
            if self.has_more:
                return


def _say_more(database: "Database", text: str, shown: int, *, write: bool) -> None:
    total = None if write else database.sql_count(text)
    if total is not None and total <= shown:
        return
    more = "more" if total is None else f"{total - shown:,} more"
    say(f"showing the first {shown:,} rows; there are {more}: --limit N shows N rows", "dim")


def _write_scalar(database: "Database", text: str, output: OutputOptions, *, write: bool) -> None:
    """Write one value and no name: JSON in json, else text."""
    with database.sql_stream(text, write=write) as found:
        first = next(iter(found.batches), [])
        types = found.types[:1]
    value = first[0][0] if first else None
    if types == ["JSON"] and isinstance(value, str):
        value = json_value(value)
    write_value(value, output)


_FORMS: "dict[Format, RowsFormat]" = {
    Format.CSV: "csv", Format.JSON: "json", Format.JSONL: "jsonl",
}  # fmt: skip
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
