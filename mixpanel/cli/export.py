"""`mp export`: tables of the local database as files."""

import codecs
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from mixpanel.cli._options.database import (
    AccountOption,
    AttachOption,
    DatabaseOption,
    attach_all,
    open_database,
)
from mixpanel.cli._output.format import write_bytes
from mixpanel.cli._output.terminal import escape_controls, say

if TYPE_CHECKING:
    from mixpanel.cli.app import Command

HELP = "No request is sent to Mixpanel."
EXAMPLE = "mp export parquet events lake --partition-by day"
PARQUET = """
mp export parquet events events.parquet
mp export parquet events lake --partition-by day
mp export parquet paid.parquet --sql "FROM events WHERE event_name = 'Order Paid'"
mp export parquet events s3://bucket/lake --partition-by day --overwrite
mp export parquet events lake --partition-by day --incremental
"""
CSV = """
mp export csv events events.csv
mp export csv events - | head
mp export csv counts.csv --sql "SELECT event_name, count(*) AS n FROM events GROUP BY 1"
"""


class PartitionBy(StrEnum):
    """What the files of a folder are divided by."""

    DAY = "day"


Table = Annotated[
    str | None,
    typer.Argument(metavar="TABLE", show_default=False, help="The table; left out with --sql."),
]
SqlOption = Annotated[
    str | None,
    typer.Option("--sql", metavar="QUERY", help="Export the rows of a query instead of a table."),
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")]


def parquet(
    table: Table = None,
    path: Annotated[
        str | None,
        typer.Argument(
            metavar="PATH", show_default=False,
            help="A file, or with --partition-by a folder; also s3://… and others of fsspec.",
        ),
    ] = None,
    *,
    sql: SqlOption = None,
    partition_by: Annotated[
        PartitionBy | None,
        typer.Option(
            metavar="COLUMN", help="Write one folder for each `day`, such as day=2026-01-31."
        ),
    ] = None,
    incremental: Annotated[
        bool,
        typer.Option(
            "--incremental",
            help="With --partition-by, write only the days that have changed since the last "
            "export, and remove those that are gone.",
        ),
    ] = False,
    attach: AttachOption = None,
    overwrite: OverwriteOption = False,
    _account: AccountOption = None,
    db: DatabaseOption = None,
) -> None:  # fmt: skip
    """Export a table as Parquet, to one file or to one folder a day.

    The folders are Hive partitions, as Spark and others read them. Days are those of event_time in
    UTC. Properties are JSON text. With --sql, PATH is the only argument.
    """
    source, path = _source_and_path(table, path, sql)
    if incremental and (partition_by is None or overwrite):
        raise typer.BadParameter("--incremental needs --partition-by day, and no --overwrite")
    with open_database(db) as database:
        attach_all(database, attach)
        if incremental:
            done = database.sync_parquet(source, _expanded(path), query=sql)
            say(
                f"brought {path} up to date with {source or 'the rows'}: "
                f"{_days(len(done.written))} written, {done.kept:,} kept, "
                f"{len(done.removed):,} removed",
                "green",
            )
            return
        written = database.export_parquet(
            source,
            _expanded(path),
            query=sql,
            partition_by=None if partition_by is None else "day",
            overwrite=overwrite,
        )
    _say_written(written, source, path)


def csv(
    table: Table = None,
    path: Annotated[
        str | None,
        typer.Argument(
            metavar="PATH|-", show_default=False,
            help="A file, compressed if it ends in .gz; - is stdout.",
        ),
    ] = None,
    *,
    sql: SqlOption = None,
    attach: AttachOption = None,
    overwrite: OverwriteOption = False,
    _account: AccountOption = None,
    db: DatabaseOption = None,
) -> None:  # fmt: skip
    """Export a table as CSV.

    Text that a spreadsheet would run as a formula is preceded by a '. Times are written as
    2026-01-31 09:30:00.000000. With --sql, PATH is the only argument.
    """
    source, path = _source_and_path(table, path, sql)
    with open_database(db) as database:
        attach_all(database, attach)
        if path != "-":
            written = database.export_csv(source, _expanded(path), query=sql, overwrite=overwrite)
            _say_written(written, source, path)
            return
        with database.csv_bytes(source, query=sql) as chunks:
            if sys.stdout.isatty():  # which would act on control characters
                for text in codecs.iterdecode(chunks, "utf-8", "replace"):
                    sys.stdout.write(escape_controls(text))
            else:
                write_bytes(chunks)


COMMANDS: "tuple[Command, ...]" = (("parquet", parquet, PARQUET), ("csv", csv, CSV))


def _source_and_path(
    table: str | None, path: str | None, sql: str | None
) -> tuple[str | None, str]:
    """Return the table, None with --sql, and the path: PATH is the only argument with --sql."""
    if table is None:
        missing = "TABLE and PATH are" if sql is None else "PATH is"
        raise typer.BadParameter(f"{missing} missing: give TABLE and PATH, or PATH and --sql")
    if sql is None:
        if path is None:
            raise typer.BadParameter("PATH is missing: give TABLE and PATH, or PATH and --sql")
        return table, path
    if path is not None:
        raise typer.BadParameter(f"TABLE {table} and --sql cannot be used together")
    if not sql.strip():
        raise typer.BadParameter("the query of --sql is empty")
    return None, table


def _expanded(path: str) -> str:
    from mixpanel.data._paths import expand_home

    return str(expand_home(path)) if path.startswith("~") else path


def _days(count: int) -> str:
    return "1 day" if count == 1 else f"{count:,} days"


def _say_written(written: list[str], table: str | None, path: str) -> None:
    files = "1 file" if len(written) == 1 else f"{len(written)} files"
    say(f"wrote {table or 'the rows'} to {path}: {files}", "green")
