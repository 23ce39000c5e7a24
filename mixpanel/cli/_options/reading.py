"""Options that say how the text of a file is to be read, for `mp import` and `mp cdp backfill`."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixpanel.cli._options.global_options import global_options
from mixpanel.cli._output.terminal import say

if TYPE_CHECKING:
    from mixpanel.data.readers import DecimalIds, MixedColumn, ReadOptions


@dataclass(frozen=True, slots=True)
class Reading:
    """The options, before they are checked: without them, no reader is loaded."""

    types: dict[str, str]
    date_format: str | None
    encoding: str | None

    @property
    def job(self) -> dict[str, Any]:
        """Return what changes the meaning of a file, for a checkpoint."""
        named = {"types": self.types, "date_format": self.date_format, "encoding": self.encoding}
        return {name: value for name, value in named.items() if value}

    def read_options(self, failed: Path | None) -> "ReadOptions":
        """Return options for a reader; with a file for failed rows, ragged lines go there.

        :raises ConfigurationError: for an unknown type or encoding.
        """
        from mixpanel.data.readers import ReadOptions

        return ReadOptions(
            self.types,
            self.date_format,
            self.encoding,
            failed is not None,
            _say_mixed,
            global_options.memory_limit,
            global_options.threads,
        )


def _say_mixed(mixed: "MixedColumn | DecimalIds") -> None:
    from mixpanel.data.readers import DecimalIds

    column = shlex.quote(mixed.column)
    if isinstance(mixed, DecimalIds):
        say(
            f"{mixed}. Correct the file, or pass --type {column}=number to send whole numbers; "
            f"--type {column}=text sends them as they are without this warning",
            "yellow",
        )
        return
    say(
        f"{mixed}. --type {column}={mixed.type} rejects such rows; --type {column}=text keeps "
        "text without this warning",
        "yellow",
    )


def reading_options(
    *,
    types: Annotated[
        list[str] | None,
        typer.Option(
            "--type", metavar="COLUMN=TYPE",
            help="The type of a CSV column: text, number, boolean, date or json; repeatable. A row "
            "with another cell is rejected. By default, types are detected.",
        ),
    ] = None,
    date_format: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT", show_default="ISO 8601",
            help="How times are written, as %d/%m/%Y %H:%M; in UTC unless there is a %z.",
        ),
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", show_default="UTF-8, or UTF-16 with a byte order mark",
            help="The encoding of a text file, as cp1252.",
        ),
    ] = None,
) -> Reading:  # fmt: skip
    """Return the options of reading a file.

    :raises typer.BadParameter: for a type without a column, or two of one column.
    """
    stated: dict[str, str] = {}
    for each in types or ():
        column, separator, type_ = each.rpartition("=")
        if not separator or not column:
            raise _bad(f"{each!r} must be COLUMN=TYPE, such as amount=number")
        if column in stated:
            raise _bad(f"{column} is given two types")
        stated[column] = type_
    return Reading(stated, date_format, encoding)


def _bad(message: str) -> typer.BadParameter:
    return typer.BadParameter(message, param_hint="--type")


@contextmanager
def ragged_lines_explained() -> Iterator[None]:
    """Add to the error of a CSV file with ragged lines how to send the others.

    :raises ConfigurationError: instead of that error.
    """
    from mixpanel.data.readers import RaggedCSVError

    try:
        yield
    except RaggedCSVError as error:
        raise RaggedCSVError(
            f"{error}. Correct them, or add --failed FILE to set them aside and send the rest"
        ) from error
