"""What a caller knows about a file, and how its text becomes values."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from mixpanel._records.rows import loads, to_milliseconds
from mixpanel._runtime.safe_logging import logger
from mixpanel.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["TYPES", "DecimalIds", "MixedColumn", "ReadOptions", "converted", "parse_date"]

# As JSON writes a number, and `.5`: whatever else a number would lose, such as the zeros of 017.
NUMBER: Final = re.compile(r"(-?(?:0|[1-9]\d*))(\.\d+)?([eE][+-]?\d+)?|-?\.\d+", re.ASCII)
LEADING_ZEROS: Final = re.compile(r"[+-]?0\d+(\.\d*)?", re.ASCII)
EXACT_DIGITS: Final = 15  # of a floating-point number
MAX_DIGITS: Final = 308  # of a whole one, which JSON parsers may hold as a floating-point number
TRUE_AND_FALSE: Final = {"true": True, "false": False, "1": True, "0": False}


@dataclass(frozen=True, slots=True)
class MixedColumn:
    """A CSV column that stays text because few of its cells are not of the type of the others.

    `offenders` of `cells` are not; the first of them is the text `first`, in the row number `row`,
    counted from 1 without the line of names.
    """

    file: str
    column: str
    type: str
    offenders: int
    cells: int
    first: str
    row: int

    def __str__(self) -> str:
        are = "is not a" if self.offenders == 1 else "are not"
        ending = "" if self.offenders == 1 else "s"
        return (
            f"{self.file}: the column {self.column!r} stays text, because {self.offenders:,} of "
            f"{self.cells:,} cells {are} {self.type}{ending}; the first is {self.first!r} in row "
            f"{self.row:,}"
        )


@dataclass(frozen=True, slots=True)
class DecimalIds:
    """A CSV column of ids, some of which are whole numbers written as decimals, such as 17.0.

    Tools that hold integers as floats write them so, as pandas does for columns with gaps. The
    first of them is the text `first`, in the row number `row`, counted as in `MixedColumn`.
    """

    file: str
    column: str
    offenders: int
    cells: int
    first: str
    row: int

    def __str__(self) -> str:
        whole = self.first.partition(".")[0]
        return (
            f"{self.file}: {self.offenders:,} of {self.cells:,} ids in the column {self.column!r} "
            f"end in .0; the first is {self.first!r} in row {self.row:,}. They are sent as they "
            f"are, and {self.first} and {whole} are different ids"
        )


def _log(column: MixedColumn | DecimalIds) -> None:
    if isinstance(column, DecimalIds):
        logger.warning(
            "%s. types={%r: 'number'} sends whole numbers, 'text' omits this warning",
            column,
            column.column,
        )
        return
    logger.warning(
        "%s. State its type with types={%r: %r} or 'text'", column, column.column, column.type
    )


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What a caller knows about a file.

    :param types: the types of CSV columns, `{"amount": "number"}`: "text", "number", "boolean",
        "date" or "json". A row with a cell of another kind is rejected, and so is a number that
        would not be the same: `017`, `1e400`. Other columns get their types from their cells.
    :param date_format: how times are written, as for `strptime`: `%d/%m/%Y %H:%M`; in UTC unless
        there is a `%z`. None reads ISO 8601 and numbers.
    :param encoding: of text files; None is UTF-8, or UTF-16 and UTF-32 with a byte order mark.
    :param keep_ragged: yield a CSV line with too many or too few cells as an unreadable row,
        instead of refusing the file.
    :param on_mixed: called with each CSV column that stays text because of a few cells, and with
        each column of ids such as 17.0; the default logs a warning.
    :param memory_limit: of DuckDB, which reads CSV and Parquet, and `threads`, as for
        `Database.open`.
    :raises ConfigurationError: for an unknown type or encoding.
    """

    types: Mapping[str, str] = field(default_factory=dict)
    date_format: str | None = None
    encoding: str | None = None
    keep_ragged: bool = False
    on_mixed: Callable[[MixedColumn | DecimalIds], object] = _log
    memory_limit: str | int | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        for column, type_ in self.types.items():
            if type_ not in TYPES:
                raise ConfigurationError(
                    f"the type of {column!r} is {type_!r}; choose one of {', '.join(TYPES)}"
                )
        if self.encoding is not None:
            try:
                "".encode(self.encoding)
            except (LookupError, ValueError):
                raise ConfigurationError(
                    f"unknown encoding {self.encoding!r}; use a name such as utf-8, utf-16, "
                    "latin-1 or cp1252"
                ) from None
        if self.date_format is not None:
            try:
                datetime.strptime("", self.date_format).replace(tzinfo=UTC)
            except ValueError as error:
                if "does not match" not in str(error) and "unconverted" not in str(error):
                    raise ConfigurationError(f"date_format={self.date_format!r}: {error}") from None


# ---- the cells of a column with a stated type ---------------------------------------------------


class _LossError(ValueError):
    """A number would not be the text that it is written as; the error says why."""


def _number(text: str, _date_format: str | None) -> int | float:
    stripped = text.strip()
    found = NUMBER.fullmatch(stripped)
    if found is None:
        if LEADING_ZEROS.fullmatch(stripped):
            raise _LossError("has leading zeros, which a number would lose")
        if stripped.startswith("+") and NUMBER.fullmatch(stripped[1:]):
            raise _LossError("has a plus sign, which a number would lose")
        raise ValueError(text)
    whole, *rest = found.groups()
    if whole is not None and not any(rest):
        if len(whole) > MAX_DIGITS:
            raise _LossError("is too large for a number")
        return float(whole) if whole == "-0" else int(whole)
    number = float(stripped)
    digits = stripped.lower().partition("e")[0]
    if not math.isfinite(number) or (number == 0 and any(each in "123456789" for each in digits)):
        raise _LossError("is too large or too small for a number")
    if whole is not None and len(whole.lstrip("-")) > EXACT_DIGITS:
        raise _LossError("has more digits than a number with decimals holds")
    return number


def _boolean(text: str, _date_format: str | None) -> bool:
    return TRUE_AND_FALSE[text.strip().lower()]


def _date(text: str, date_format: str | None) -> datetime:
    return parse_date(text, date_format)


def _json(text: str, _date_format: str | None) -> Any:
    return loads(text)


_CONVERTERS: Final[Mapping[str, tuple[Callable[[str, str | None], Any], str]]] = {
    "text": (lambda text, _date_format: text, "text"),
    "number": (_number, "a number"),
    "boolean": (_boolean, "true or false"),
    "date": (_date, "a date"),
    "json": (_json, "JSON"),
}
TYPES: Final = tuple(_CONVERTERS)


def converted(column: str, text: str, type_: str, date_format: str | None) -> Any:
    """Return a cell as a value of a type.

    :raises ValueError: with the name of the column, if it is of another kind.
    """
    convert, name = _CONVERTERS[type_]
    try:
        return convert(text, date_format)
    except _LossError as error:
        raise ValueError(f"{column} {error}") from error
    except (ValueError, KeyError, RecursionError) as error:
        # Without the cell, which would make a reason of each; it is in the rejected row.
        if type_ == "date" and date_format is not None:
            raise ValueError(f"{column} is not of the form {date_format}") from error
        raise ValueError(f"{column} is not {name}") from error


def parse_date(text: str, date_format: str | None) -> datetime:
    """Return the time that a text is, in UTC unless it has an offset.

    :raises ValueError: if it is not of this form.
    """
    if date_format is not None:
        parsed = datetime.strptime(text.strip(), date_format)  # noqa: DTZ007 - it may have a zone
        return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    exact = text.strip()
    if exact[4:5] == "-":  # text keeps its microseconds
        with suppress(ValueError):
            parsed = datetime.fromisoformat(exact)
            return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    elif NUMBER.fullmatch(exact) is None and exact[:1].isdigit() and exact.isalnum():
        raise ValueError(text)  # 017, or digits of another script
    milliseconds = to_milliseconds(text)
    if not isinstance(milliseconds, int):
        raise ValueError(text)  # noqa: TRY004 - of the text, not of its type
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
