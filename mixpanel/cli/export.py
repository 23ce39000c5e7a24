"""Write tables of the local database as files that other tools read."""

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated

import typer

from mixpanel._runtime.temporary_folders import temporary_folder
from mixpanel.cli._options.database import Account, Db, opened
from mixpanel.cli._output.terminal import say, visible

EXAMPLE = "Example: mp export parquet events lake --partition-by day"
PARQUET = """Examples:

mp export parquet events events.parquet

mp export parquet events lake --partition-by day

mp export parquet events s3://bucket/lake --partition-by day --overwrite
"""
# What errors of the library name -> how that is asked for here.
ARGUMENTS = {"overwrite=True": "--overwrite", "partition_by=None": "leave out --partition-by"}
CSV = """Examples:

mp export csv events events.csv

mp export csv events - | head
"""


class By(StrEnum):
    """What a folder of files is divided by."""

    DAY = "day"


Table = Annotated[str, typer.Argument(metavar="TABLE", show_default=False, help="The table.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]


def export() -> None:
    """Write tables of the local database as files, without any call to Mixpanel."""


def parquet(
    table: Table,
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH", show_default=False,
            help="A file, or with --partition-by a folder; s3://… and others through fsspec.",
        ),
    ],
    *,
    partition_by: Annotated[
        By | None, typer.Option(help="Write a folder for each, as day=2026-01-31.")
    ] = None,
    overwrite: Overwrite = False,
    _account: Account = None,
    db: Db = None,
) -> None:  # fmt: skip
    """Write a table as Parquet, in one file or one folder a day, as Spark and others read it.

    Days are those of event_time, in UTC. Properties are text in JSON.
    """
    with _in_shell_words(), opened(db) as database:
        written = database.export_parquet(
            table,
            _expanded(path),
            partition_by=None if partition_by is None else "day",
            overwrite=overwrite,
        )
    _tell(written, table, path)


def csv(
    table: Table,
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH|-", show_default=False,
            help="A file, compressed when it ends in .gz; - is stdout.",
        ),
    ],
    *,
    overwrite: Overwrite = False,
    _account: Account = None,
    db: Db = None,
) -> None:  # fmt: skip
    """Write a table as CSV.

    Text that a spreadsheet would run as a formula gets a ' in front.
    """
    with _in_shell_words(), opened(db) as database:
        if path != "-":
            _tell(database.export_csv(table, _expanded(path), overwrite=overwrite), table, path)
            return
        with temporary_folder() as folder:
            file = folder / "table.csv"
            database.export_csv(table, file)
            sys.stdout.flush()
            if sys.stdout.isatty():  # which would obey control characters
                with file.open(encoding="utf-8", errors="replace", newline="\n") as text:
                    sys.stdout.writelines(map(visible, text))
            else:
                with file.open("rb") as lines:
                    shutil.copyfileobj(lines, sys.stdout.buffer)
            sys.stdout.flush()


COMMANDS: tuple[tuple[str, Callable[..., None], str], ...] = (
    ("parquet", parquet, PARQUET),
    ("csv", csv, CSV),
)


@contextmanager
def _in_shell_words() -> Iterator[None]:
    from mixpanel.data.exceptions import ConfigError

    try:
        yield
    except ConfigError as error:
        for argument, option in ARGUMENTS.items():
            if argument in error.message:
                error.add_note(f"in the shell: {option}")
        raise


def _expanded(path: str) -> str:
    from mixpanel.data._paths import expand_home

    return str(expand_home(path)) if path.startswith("~") else path


def _tell(written: list[str], table: str, path: str) -> None:
    files = "1 file" if len(written) == 1 else f"{len(written)} files"
    say(f"wrote {table} to {path}: {files}", "green")
