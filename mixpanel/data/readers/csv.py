"""Read CSV strictly: no line is skipped, and only the delimiter and the escape are detected.

DuckDB's sniffer chooses the dialect that fits most lines. By default it skips lines with another
number of cells as a preamble, so that one extra cell in the last line makes all lines before it
disappear. Here the first line names the columns, the quote is `"`, there are no comments, and a
line that does not fit is an error.
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

__all__ = ["CSV_OPTIONS", "check_layout", "explain_error", "mistyped_columns"]

CSV_OPTIONS = "header = true, skip = 0, quote = '\"', comment = ''"
INTEGER = r"-?(0|[1-9]\d*)"
# How a cell must be written for its column to keep the type that DuckDB detected.
WRITTEN_FORMS = {
    "BOOLEAN": r"(?i)true|false",
    "BIGINT": INTEGER,
    "HUGEINT": INTEGER,
    "DOUBLE": rf"(?i){INTEGER}(\.\d+)?(e[+-]\d+)?|-?\.\d+|[+-]?(nan|inf|infinity)",
    "TIME": r"\b\B",  # matches nothing: a time of day without a date stays text
}
DELIMITERS = ",;\t|"
MAX_HEADER_LENGTH = 1 << 20  # characters


def check_layout(path: Path, names: list[str]) -> None:
    """Raise if the first line is empty, or lines have different numbers of cells.

    DuckDB would invent column names for the former, and read each line of the latter as one cell.

    :raises ConfigurationError: with the number of the line.
    """
    with _open_text(path) as file:
        first = file.readline(MAX_HEADER_LENGTH) if file else "?"
    if not first.strip():
        raise ConfigurationError(f"{path.name}: the first line is empty; it must name the columns")
    if len(names) == 1 and any(each in names[0] for each in DELIMITERS):
        bad_line = _find_bad_line(path)
        if bad_line is not None:
            raise ConfigurationError(f"{path.name}: {bad_line}")


def mistyped_columns(
    connection: duckdb.DuckDBPyConnection, name: str, types: Mapping[str, str]
) -> set[str]:
    """Return the columns whose cells are not written in the way of the type DuckDB detected.

    DuckDB reads `0123` as 123, `yes` as true and `5e3` as 5000.0, which are codes as often.
    """
    patterns = {
        column: WRITTEN_FORMS[type_] for column, type_ in types.items() if type_ in WRITTEN_FORMS
    }
    if not patterns:
        return set()
    quoted = ['"' + column.replace('"', '""') + '"' for column in patterns]
    checks = ", ".join(f"bool_and(regexp_full_match(trim({each}), ?))" for each in quoted)
    query = f"SELECT {checks} FROM read_csv(?, {CSV_OPTIONS}, all_varchar = true)"
    result = connection.execute(query, [*patterns.values(), name]).fetchone() or ()
    return {column for column, fits in zip(patterns, result, strict=True) if fits is False}


def explain_error(path: Path, message: str) -> str:
    """Return in one line why a file cannot be read, given DuckDB's error message."""
    bad_line = _find_bad_line(path)
    if bad_line is not None:
        return bad_line
    lines = message.strip().partition("\n\n")[0].splitlines()
    if "sniffing" in lines[0]:
        return "lines have different numbers of cells, or a quote is not closed"
    return ": ".join(line for line in lines if not line.startswith("Original Line:"))


@contextmanager
def _open_text(path: Path) -> Iterator[IO[str] | None]:
    """Open a file as text; yield None for compression that only DuckDB can read."""
    if path.suffix == ".zst":
        yield None
        return
    open_file: Any = gzip.open if path.suffix == ".gz" else open
    with open_file(path, "rt", encoding="utf-8-sig", errors="replace", newline="") as file:
        yield file


def _find_bad_line(path: Path) -> str | None:
    """Describe the first line with more or fewer cells than the header, if there is one."""
    with suppress(OSError, EOFError), _open_text(path) as file:
        if file is not None:
            delimiter = max(DELIMITERS, key=file.readline(MAX_HEADER_LENGTH).count)
            file.seek(0)
            return _check_rows(csv.reader(file, delimiter=delimiter, strict=True))
    return None


def _check_rows(rows: Any) -> str | None:
    line = 0
    try:
        count = len(next(rows, []))
        line = rows.line_num
        for row in rows:
            if row and len(row) != count:
                return f"line {line + 1} has {_cells(len(row))}, the first line has {count}"
            line = rows.line_num
    except csv.Error as error:
        if "field limit" in str(error):  # a limit of Python's reader, not an error of the file
            return None
        unclosed = "unexpected end" in str(error)
        return f"line {line + 1}: {'a quote is not closed' if unclosed else error}"
    return None


def _cells(count: int) -> str:
    return "1 cell" if count == 1 else f"{count} cells"
