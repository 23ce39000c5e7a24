"""Read CSV as it stands: nothing is skipped, and of its form only delimiter and escape are guessed.

DuckDB looks for the form that fits most lines. Left alone, it takes lines of another length for a
preamble, and one cell too many in the last line makes all before it disappear. So the first line
names the columns, a quote is `"`, nothing is a comment, and a line that does not fit is an error.
"""

from __future__ import annotations

import csv
import gzip
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any

from mixpanel.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import duckdb

__all__ = ["FORM", "checked", "misread", "problem"]

FORM = "header = true, skip = 0, quote = '\"', comment = ''"
WHOLE = r"-?(0|[1-9]\d*)"
AS_WRITTEN = {
    "BOOLEAN": r"(?i)true|false",
    "BIGINT": WHOLE,
    "HUGEINT": WHOLE,
    "DOUBLE": rf"(?i){WHOLE}(\.\d+)?(e[+-]\d+)?|-?\.\d+|[+-]?(nan|inf|infinity)",
    "TIME": r"\b\B",  # never: nothing but a moment has a time of its own
}
DELIMITERS = ",;\t|"
LINE = 1 << 20  # characters of the first line that are looked at


def checked(path: Path, names: list[str]) -> None:
    """Refuse a table without a first line, or whose lines have different numbers of cells.

    DuckDB makes up columns for the one, and takes each line of the other for one cell.

    :raises ConfigurationError: with the line.
    """
    with _opened(path) as file:
        first = file.readline(LINE) if file else "?"
    if not first.strip():
        raise ConfigurationError(f"{path.name}: its first line is empty: it must name the columns")
    if len(names) == 1 and any(each in names[0] for each in DELIMITERS):
        misfit = _misfit(path)
        if misfit is not None:
            raise ConfigurationError(f"{path.name}: {misfit}")


def misread(connection: duckdb.DuckDBPyConnection, name: str, types: Mapping[str, str]) -> set[str]:
    """Return the columns to which DuckDB gave a type that their cells are not written as."""
    asked = {column: AS_WRITTEN[type_] for column, type_ in types.items() if type_ in AS_WRITTEN}
    if not asked:
        return set()
    quoted = ['"' + column.replace('"', '""') + '"' for column in asked]
    checks = ", ".join(f"bool_and(regexp_full_match(trim({each}), ?))" for each in quoted)
    query = f"SELECT {checks} FROM read_csv(?, {FORM}, all_varchar = true)"  # noqa: S608 - quoted
    found = connection.execute(query, [*asked.values(), name]).fetchone() or ()
    return {column for column, fits in zip(asked, found, strict=True) if fits is False}


def problem(path: Path, said: str) -> str:
    """Return why a file cannot be read, given what DuckDB says of it, in one line."""
    misfit = _misfit(path)
    if misfit is not None:
        return misfit
    lines = said.strip().partition("\n\n")[0].splitlines()
    if "sniffing" in lines[0]:
        return "its lines have different numbers of cells, or a quote is not closed"
    return ": ".join(line for line in lines if not line.startswith("Original Line:"))


@contextmanager
def _opened(path: Path) -> Iterator[IO[str] | None]:
    """Open the text of a file; None is for what only DuckDB can read."""
    if path.suffix == ".zst":
        yield None
        return
    opened: Any = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8-sig", errors="replace", newline="") as file:
        yield file


def _misfit(path: Path) -> str | None:
    """Say which line has more or fewer cells than the first; None if all is well, or unreadable."""
    with suppress(OSError, EOFError), _opened(path) as file:
        if file is not None:
            delimiter = max(DELIMITERS, key=file.readline(LINE).count)
            file.seek(0)
            return _of_rows(csv.reader(file, delimiter=delimiter, strict=True))
    return None


def _of_rows(rows: Any) -> str | None:
    line = 0
    try:
        count = len(next(rows, []))
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
