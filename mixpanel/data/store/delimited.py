"""Read CSV as it stands: nothing is skipped, and of its form only delimiter and escape are guessed.

DuckDB looks for the form that fits most lines. Left alone, it takes lines of another length for a
preamble, and one cell too many in the last line makes all before it disappear. So the first line
names the columns, a quote is `"`, nothing is a comment, and a line that does not fit is an error.
"""

from __future__ import annotations

import csv
import gzip
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mixpanel.exceptions import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FORM", "checked", "problem"]

FORM = "header = true, skip = 0, quote = '\"', comment = ''"
DELIMITERS = ",;\t|"
NAMELESS = "column0"  # what DuckDB calls a column that nobody named


def checked(path: Path, names: list[str]) -> None:
    """Refuse a table without a first line, or whose lines have different numbers of cells.

    DuckDB makes up a column for the one, and takes each line of the other for one cell.

    :raises ConfigurationError: with the line.
    """
    if len(names) == 1 and (names == [NAMELESS] or any(each in names[0] for each in DELIMITERS)):
        misfit = _misfit(path)
        if misfit is not None:
            raise ConfigurationError(f"{path.name}: {misfit}")


def problem(path: Path, said: str) -> str:
    """Return why a file cannot be read, given what DuckDB says of it, in one line."""
    misfit = _misfit(path)
    if misfit is not None:
        return misfit
    lines = said.strip().partition("\n\n")[0].splitlines()
    if "sniffing" in lines[0]:
        return "its lines have different numbers of cells, or a quote is not closed"
    return ": ".join(line for line in lines if not line.startswith("Original Line:"))


def _misfit(path: Path) -> str | None:
    """Say which line has more or fewer cells than the first; None if all is well, or unreadable."""
    with suppress(OSError, EOFError, UnicodeDecodeError):
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            delimiter = max(DELIMITERS, key=file.readline().count)
            file.seek(0)
            return _of_rows(csv.reader(file, delimiter=delimiter, strict=True))
    return None


def _of_rows(rows: Any) -> str | None:
    line = 0
    try:
        count = len(next(rows, []))
        if not count:
            return "its first line is empty: it must name the columns"
        line = rows.line_num
        for row in rows:
            if row and len(row) != count:
                return f"line {line + 1} has {_cells(len(row))}, the first has {count}"
            line = rows.line_num
    except csv.Error as error:
        if "field limit" in str(error):  # Python's own, which says nothing of the file
            return None
        unclosed = "unexpected end" in str(error)
        return f"line {line + 1}: {'a quote is not closed' if unclosed else error}"
    return None


def _cells(count: int) -> str:
    return "1 cell" if count == 1 else f"{count} cells"
