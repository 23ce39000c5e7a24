"""`mp export`: tables of the local database as files."""

import shutil
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from mixpanel._runtime.temporary_folders import temporary_folder
from mixpanel.cli._options.database import AccountOption, DatabaseOption, open_database
from mixpanel.cli._output.terminal import escape_controls, say

if TYPE_CHECKING:
    from mixpanel.cli.app import Command

HELP = "No request is sent to Mixpanel."
EXAMPLE = "mp export parquet events lake --partition-by day"
PARQUET = """
mp export parquet events events.parquet
mp export parquet events lake --partition-by day
mp export parquet events s3://bucket/lake --partition-by day --overwrite
"""
CSV = """
mp export csv events events.csv
mp export csv events - | head
"""


class PartitionBy(StrEnum):
    """What the files of a folder are divided by."""

    DAY = "day"


Table = Annotated[str, typer.Argument(metavar="TABLE", show_default=False, help="The table.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")]


def parquet(
    table: Table,
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH", show_default=False,
            help="A file, or with --partition-by a folder; also s3://… and others of fsspec.",
        ),
    ],
    *,
    partition_by: Annotated[
        PartitionBy | None,
        typer.Option(
            metavar="COLUMN", help="Write one folder for each `day`, such as day=2026-01-31."
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    _account: AccountOption = None,
    db: DatabaseOption = None,
) -> None:  # fmt: skip
    """Export a table as Parquet, to one file or to one folder a day.

    The folders are Hive partitions, as Spark and others read them. Days are those of event_time in
    UTC. Properties are JSON text.
    """
    with open_database(db) as database:
        written = database.export_parquet(
            table,
            _expanded(path),
            partition_by=None if partition_by is None else "day",
            overwrite=overwrite,
        )
    _say_written(written, table, path)


def csv(
    table: Table,
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH|-", show_default=False,
            help="A file, compressed if it ends in .gz; - is stdout.",
        ),
    ],
    *,
    overwrite: OverwriteOption = False,
    _account: AccountOption = None,
    db: DatabaseOption = None,
) -> None:  # fmt: skip
    """Export a table as CSV.

    Text that a spreadsheet would run as a formula is preceded by a '.
    """
    with open_database(db) as database:
        if path != "-":
            written = database.export_csv(table, _expanded(path), overwrite=overwrite)
            _say_written(written, table, path)
            return
        with temporary_folder() as folder:
            file = folder / "table.csv"
            database.export_csv(table, file)
            sys.stdout.flush()
            if sys.stdout.isatty():  # which would act on control characters
                with file.open(encoding="utf-8", errors="replace", newline="\n") as text:
                    sys.stdout.writelines(map(escape_controls, text))
            else:
                with file.open("rb") as lines:
                    shutil.copyfileobj(lines, sys.stdout.buffer)
            sys.stdout.flush()


COMMANDS: "tuple[Command, ...]" = (("parquet", parquet, PARQUET), ("csv", csv, CSV))


def _expanded(path: str) -> str:
    from mixpanel.data._paths import expand_home

    return str(expand_home(path)) if path.startswith("~") else path


def _say_written(written: list[str], table: str, path: str) -> None:
    files = "1 file" if len(written) == 1 else f"{len(written)} files"
    say(f"wrote {table} to {path}: {files}", "green")
