"""Read CSV strictly: no line is lost, and only the delimiter and the escape are detected.

DuckDB's sniffer chooses the dialect that fits most lines. By default it skips lines with another
number of cells as a preamble, so that one extra cell in the last line makes all lines before it
disappear. Here the first line names the columns, the quote is `"`, there are no comments, and a
line that does not fit is an error, or an unreadable row.
"""

from __future__ import annotations

import csv
import heapq
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from io import TextIOWrapper
from typing import IO, TYPE_CHECKING, Any

from mixpanel._records.rows import UnreadableRow
from mixpanel.data.readers.failed_rows import TYPE_NAMES, cells_record
from mixpanel.data.readers.options import DecimalIds, MixedColumn, ReadOptions, converted
from mixpanel.data.readers.text_files import MAX_LINE_BYTES, open_bytes
from mixpanel.data.store.quoting import quoted
from mixpanel.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import duckdb

__all__ = ["CSV_OPTIONS", "CSVReader", "RaggedCSVError", "explain_error"]

CSV_OPTIONS = "header = true, skip = 0, quote = '\"', comment = ''"
# For lines over DuckDB's own limit of 2 MB, as long as those of JSON may be. It needs more memory.
LONG_LINES = f", max_line_size = {MAX_LINE_BYTES}, buffer_size = 33000000"
LONG_LINE_ERROR, MEMORY_ERROR = "aximum line size", "Out of Memory"
MORE_MEMORY = "2GB"
INTEGER = r"0|-?[1-9]\d*"
EXACT_INTEGER = r"-?(0|[1-9]\d{0,14})"  # a longer one would lose digits in a floating-point number
DECIMAL = rf"{EXACT_INTEGER}(\.\d+)?(e[+-]\d{{1,2}})?|-?\.\d+"
DATE = r"\d{4}-\d\d-\d\d"
# How a cell must be written for its column to keep the type that DuckDB detected.
WRITTEN_FORMS = {
    "BOOLEAN": r"(?i)true|false",
    "BIGINT": INTEGER,
    "HUGEINT": INTEGER,
    "DOUBLE": rf"(?i){DECIMAL}|[+-]?(nan|inf|infinity)",
    "TIME": r"\b\B",  # matches nothing: a time of day without a date stays text
    "DATE": DATE,  # 01/02/2026 is a day in January or in February
    "TIMESTAMP": rf"{DATE}[ T]\d\d:\d\d(:\d\d(\.\d+)?)?Z?",
    "TIMESTAMP WITH TIME ZONE": rf"{DATE}[ T]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d(:?\d\d)?)?",
}
# Types of which a column must have mostly cells, for the others to be reported.
USUAL_FORMS = {"number": rf"(?i){DECIMAL}|{INTEGER}", "boolean": WRITTEN_FORMS["BOOLEAN"]}
DECIMAL_ID = r"-?\d+\.0+"
MIN_SHARE = 0.5
DELIMITERS = ",;\t|"
MAX_HEADER_LENGTH = 1 << 20  # characters
MAX_SHOWN = 20  # ragged lines in a message
MAX_RAGGED = 100_000  # kept in memory; a file with more has another delimiter
MAX_FIELD = 1 << 30
SHOWN_CHARS = 200  # of the cells of a line that is too long
TOO_LONG = f"has more than {MAX_LINE_BYTES:,} bytes"
_field_limit = threading.Lock()


class RaggedCSVError(ConfigurationError):
    """Lines of a CSV file have more or fewer cells than the first; they can be set aside."""


@dataclass(frozen=True, slots=True)
class _Ragged:
    """A line with another number of cells than the first, or one that is too long.

    `position` is its place among the rows.
    """

    position: int
    line: int
    problem: str
    cells: tuple[str, ...]
    truncated: bool = False


class CSVReader:
    """The rows of one CSV file in UTF-8.

    :param name: of the file in messages; `path` may be a copy of it.
    :param folder: makes a folder for temporary files.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        path: Path,
        name: str,
        options: ReadOptions,
        folder: Callable[[], Path],
    ) -> None:
        self._connection, self._path, self._name = connection, path, name
        self._options, self._folder = options, folder
        self._ragged: list[_Ragged] = []
        self._csv_options = CSV_OPTIONS

    def rows(
        self, ids: Callable[[tuple[str, ...]], Mapping[str, str]], escape: Callable[[Path], str]
    ) -> Iterator[dict[str, Any]]:
        """Yield the rows; see `read_rows`."""
        import duckdb

        try:
            plan = self._plan_of_any_length(ids, escape)
        except (duckdb.Error, RaggedCSVError):
            if not self._options.keep_ragged:
                raise
            clean = self._without_ragged_lines()
            if clean is None:
                raise
            self._path = clean
            plan = self._plan_of_any_length(ids, escape)
        rows = enumerate(self._converted(plan))
        if not self._ragged:
            yield from (row for _, row in rows)
            return
        # Each set-aside line gets its place again: rows before it are as many as in the file.
        gaps = [each.position for each in self._ragged]
        numbered = _with_gaps(rows, gaps)
        types = {
            name: plan.stated.get(name) or TYPE_NAMES.get(plan.types[key], "text")
            for key, name in zip(plan.keys, plan.names, strict=True)
        }
        ragged = ((each.position, _unreadable(each, types, plan.width)) for each in self._ragged)
        yield from (row for _, row in heapq.merge(numbered, ragged, key=lambda pair: pair[0]))

    def write_table(
        self, table: str, escape: Callable[[Path], str], check: Callable[[list[str]], object]
    ) -> None:
        """Write the rows into a new table of the connection; `check` gets the column names."""
        plan = self._plan_of_any_length(lambda _names: {}, escape)
        check(plan.names)
        source, parameters = self._source(plan)
        columns = ", ".join(
            f"{quoted(key)} AS {quoted(name)}"
            for key, name in zip(plan.keys, plan.names, strict=True)
        )
        query = f"CREATE TABLE {quoted(table)} AS SELECT {columns} FROM {source}"
        self._connection.execute(query, parameters)

    def _plan_of_any_length(
        self, ids: Callable[[tuple[str, ...]], Mapping[str, str]], escape: Callable[[Path], str]
    ) -> _Plan:
        import duckdb

        # What most files need is little; very long lines and thousands of columns need more.
        steps = [(LONG_LINE_ERROR, LONG_LINES), (MEMORY_ERROR, "")]
        while True:
            try:
                return self._plan(ids, escape)
            except duckdb.Error as error:
                step = next((each for each in steps if each[0] in str(error)), None)
                if step is None:
                    raise
                steps.remove(step)
                self._csv_options += step[1]
                self._connection.execute(f"SET threads = 1; SET memory_limit = '{MORE_MEMORY}'")

    def _plan(
        self, ids: Callable[[tuple[str, ...]], Mapping[str, str]], escape: Callable[[Path], str]
    ) -> _Plan:
        connection, source = self._connection, f"read_csv(?, {self._csv_options}, sample_size = -1"
        parameters = [escape(self._path)]
        described = connection.execute(f"DESCRIBE FROM {source})", parameters).fetchall()
        keys = [row[0] for row in described]  # DuckDB renames columns that differ only in case
        check_layout(self._path, self._name, keys)
        names = self._names(keys, parameters[0])
        keys, names = self._named(keys, names, parameters[0])
        stated = self._stated_types(names, ids)
        known = set(keys)
        types = {row[0]: row[1] for row in described if row[0] in known}
        by_key = dict(zip(keys, names, strict=True))
        detected = {key: types[key] for key in keys if by_key[key] not in stated}
        texts = {key for key in keys if by_key[key] in stated}
        texts |= mistyped_columns(connection, parameters[0], detected, self._csv_options)
        types |= dict.fromkeys(texts, "VARCHAR")
        open_texts = [
            key for key, type_ in types.items() if type_ == "VARCHAR" and by_key[key] not in stated
        ]
        for mixed in self._mixed_columns(parameters[0], open_texts, by_key):
            self._options.on_mixed(mixed)
        unstated = set(stated) - set(self._options.types)
        for decimal in self._decimal_ids(parameters[0], [k for k in keys if by_key[k] in unstated]):
            self._options.on_mixed(replace(decimal, column=by_key[decimal.column]))
        checked = {k: v for k, v in stated.items() if v != "text"}
        return _Plan(keys, names, types, checked, parameters, len(described))

    def _stated_types(
        self, names: list[str], ids: Callable[[tuple[str, ...]], Mapping[str, str]]
    ) -> dict[str, str]:
        for column in self._options.types:
            if column not in names:
                raise ConfigurationError(
                    f"{self._name} has no column {column!r} to give a type; it has "
                    f"{', '.join(map(repr, names))}"
                )
        return {**ids(tuple(names)), **self._options.types}

    def _names(self, keys: list[str], path: str) -> list[str]:
        """Return the names of the columns as they are in the file."""
        options = self._csv_options.replace("header = true", "header = false")
        query = f"FROM read_csv(?, {options}, all_varchar = true) LIMIT 1"
        first = self._connection.execute(query, [path]).fetchone() or ()
        if len(first) != len(keys):
            return keys
        names = ["" if name is None else name for name in first]
        twice = (
            sorted({name for name in names if name and names.count(name) > 1})
            if len(set(names)) < len(names)
            else []
        )
        if twice:
            raise ConfigurationError(
                f"{self._name}: several columns are named {', '.join(map(repr, twice))}; rename "
                "all but one"
            )
        return names

    def _named(self, keys: list[str], names: list[str], path: str) -> tuple[list[str], list[str]]:
        """Return the columns without those that have neither a name nor any cell.

        :raises ConfigurationError: for a column with cells, for which DuckDB would invent a name.
        """
        if all(names):
            return keys, names
        unnamed = [
            (n, key) for n, (key, name) in enumerate(zip(keys, names, strict=True), 1) if not name
        ]
        counts = ", ".join(f"count({quoted(key)})" for _, key in unnamed)
        source = f"read_csv(?, {self._csv_options}, all_varchar = true)"
        cells = self._connection.execute(f"SELECT {counts} FROM {source}", [path]).fetchone() or ()
        for (n, _), count in zip(unnamed, cells, strict=True):
            if count:
                raise ConfigurationError(
                    f"{self._name}: column {n} has cells, but no name in the first line: name it, "
                    "or remove it (pandas writes its index without a name: to_csv(index=False))"
                )
        kept = [(key, name) for key, name in zip(keys, names, strict=True) if name]
        return [key for key, _ in kept], [name for _, name in kept]

    def _source(self, plan: _Plan) -> tuple[str, dict[str, Any]]:
        """Return SQL for FROM and its parameters."""
        types = {key: type_ for key, type_ in plan.types.items() if type_ == "VARCHAR"}
        source = f"read_csv($path, {self._csv_options}, sample_size = -1, types = $types)"
        parameters: dict[str, Any] = {"path": plan.path[0], "types": types}
        if not types:
            source = source.replace(", types = $types", "")
            del parameters["types"]
        return source, parameters

    def _converted(self, plan: _Plan) -> Iterator[dict[str, Any]]:
        source, parameters = self._source(plan)
        select = ", ".join(column(key, plan.types[key]) for key in plan.keys)
        cursor = self._connection.execute(f"SELECT {select} FROM {source}", parameters)
        names, stated, date_format = plan.names, plan.stated, self._options.date_format
        while rows := cursor.fetchmany(FETCH_SIZE):
            if not stated:
                yield from (dict(zip(names, row, strict=True)) for row in rows)
                continue
            for row in rows:
                cells = dict(zip(names, row, strict=True))
                try:
                    values = {
                        name: converted(name, cells[name], type_, date_format)
                        for name, type_ in stated.items()
                        if cells[name] is not None
                    }
                except ValueError as error:
                    yield UnreadableRow(str(error), cells)  # as they are written, to be corrected
                else:
                    yield cells | values

    def _mixed_columns(
        self, path: str, keys: Sequence[str], names: Mapping[str, str]
    ) -> Iterator[MixedColumn]:
        """Yield the columns of which most cells are numbers, or true and false, and a few not."""
        if not keys:
            return
        source = f"read_csv(?, {self._csv_options}, all_varchar = true)"
        checks = ", ".join(
            f"count({quoted(key)}), "
            + ", ".join(
                f"count(*) FILTER (regexp_full_match(trim({quoted(key)}), ?))" for _ in USUAL_FORMS
            )
            for key in keys
        )
        patterns = [*USUAL_FORMS.values()]
        counts = self._connection.execute(
            f"SELECT {checks} FROM {source}", [*patterns * len(keys), path]
        ).fetchone()
        assert counts is not None
        width = 1 + len(patterns)
        for n, key in enumerate(keys):
            cells, *matches = counts[n * width : (n + 1) * width]
            for (type_, pattern), count in zip(USUAL_FORMS.items(), matches, strict=True):
                if count < cells and count > 1 and count >= MIN_SHARE * cells:
                    row, first = self._connection.execute(
                        "SELECT n, x FROM (SELECT row_number() OVER () AS n, "
                        f"{quoted(key)} AS x FROM {source}) "
                        "WHERE NOT regexp_full_match(trim(x), ?) ORDER BY n LIMIT 1",
                        [path, pattern],
                    ).fetchone() or (0, "")
                    yield MixedColumn(
                        self._name, names[key], type_, cells - count, cells, first, row
                    )

    def _decimal_ids(self, path: str, keys: Sequence[str]) -> Iterator[DecimalIds]:
        """Yield the columns, of ids, with whole numbers that are written as decimals."""
        source = f"read_csv(?, {self._csv_options}, all_varchar = true)"
        for key in keys:
            cells, offenders, first = self._connection.execute(
                "SELECT count(x), count(*) FILTER (found), "
                "min({'row': n, 'text': x}) FILTER (found) FROM "
                "(SELECT row_number() OVER () AS n, x, regexp_full_match(trim(x), ?) AS found "
                f"FROM (SELECT {quoted(key)} AS x FROM {source}))",
                [DECIMAL_ID, path],
            ).fetchone() or (0, 0, None)
            if first is not None:
                yield DecimalIds(self._name, key, offenders, cells, first["text"], first["row"])

    def _without_ragged_lines(self) -> Path | None:
        """Write the lines that fit into another file; return None if all fit."""
        target = self._folder() / "rows.csv"
        try:
            with (
                _reader(self._path) as (rows, _),
                target.open("w", encoding="utf-8", newline="") as out,
            ):
                writer = csv.writer(out)
                header: list[str] = next(rows, [])
                writer.writerow(header)
                line, position = rows.line_num, 0
                for row in rows:
                    problem = _problem(row, len(header))
                    if problem:
                        too_long = problem == TOO_LONG
                        cells = _shortened(row) if too_long else tuple(row)
                        self._ragged.append(_Ragged(position, line + 1, problem, cells, too_long))
                        if len(self._ragged) > MAX_RAGGED:
                            return None
                    elif row:
                        writer.writerow(row)
                    position += bool(row)
                    line = rows.line_num
        except (csv.Error, UnicodeDecodeError, OSError):
            return None
        return target if self._ragged else None


FETCH_SIZE = 2000


@dataclass(frozen=True, slots=True)
class _Plan:
    """How the rows of a file are read: DuckDB's names, the file's names, and types."""

    keys: list[str]
    names: list[str]
    types: dict[str, str]
    stated: dict[str, str]
    path: list[str]
    width: int  # columns, also those without a name


def column(name: str, type_: str) -> str:
    """Return the SQL for a column, without values that need other packages in Python."""
    if type_ == "TIMESTAMP WITH TIME ZONE":
        return f"make_timestamp(epoch_us({quoted(name)}))"
    if "WITH TIME ZONE" in type_:
        return f"CAST({quoted(name)} AS VARCHAR)"
    return quoted(name)


def _with_gaps(
    rows: Iterator[tuple[int, dict[str, Any]]], gaps: Sequence[int]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield rows with positions that leave out those of the gaps, which are sorted."""
    skipped = 0
    for n, row in rows:
        while skipped < len(gaps) and gaps[skipped] <= n + skipped:
            skipped += 1
        yield n + skipped, row


def _unreadable(ragged: _Ragged, types: Mapping[str, str], width: int) -> UnreadableRow:
    ending = "" if ragged.truncated else f", the first line has {width}"
    record = cells_record(ragged.line, types, list(ragged.cells))
    if ragged.truncated:
        record["truncated"] = True
    return UnreadableRow(f"the line {ragged.problem}{ending}", record)


def _problem(row: list[str], count: int) -> str:
    """Return what is wrong with a line, "" if it fits; an empty one has no cells."""
    if row and len(row) != count:
        return f"has {_cells(len(row))}"
    # Bytes are at most four times as many as characters.
    if sum(map(len, row)) * 4 > MAX_LINE_BYTES and _bytes(row) > MAX_LINE_BYTES:
        return TOO_LONG
    return ""


def _bytes(row: list[str]) -> int:
    return sum(len(cell.encode("utf-8", "surrogatepass")) for cell in row) + len(row)


def _shortened(row: list[str]) -> tuple[str, ...]:
    return tuple(cell[:SHOWN_CHARS] for cell in row)


def check_layout(path: Path, name: str, names: list[str]) -> None:
    """Raise if the first line is empty, or lines have different numbers of cells.

    DuckDB would invent column names for the former, and read each line of the latter as one cell.

    :raises ConfigurationError: with the number of the line.
    """
    error = _blank_header(path, name)
    if error is not None:
        raise error
    if len(names) == 1 and any(each in names[0] for each in DELIMITERS):
        error = _layout_error(path, name)
        if error is not None:
            raise error


def _blank_header(path: Path, name: str) -> ConfigurationError | None:
    with _open_text(path) as file:
        first = file.readline(MAX_HEADER_LENGTH) if file else "?"
    if first.strip():
        return None
    return ConfigurationError(f"{name}: the first line is empty; it must name the columns")


def mistyped_columns(
    connection: duckdb.DuckDBPyConnection, path: str, types: Mapping[str, str], options: str
) -> set[str]:
    """Return the columns whose cells are not written in the way of the type DuckDB detected.

    DuckDB reads `0123` as 123, `yes` as true and `5e3` as 5000.0, which are codes as often.
    """
    patterns = {key: WRITTEN_FORMS[type_] for key, type_ in types.items() if type_ in WRITTEN_FORMS}
    if not patterns:
        return set()
    checks = ", ".join(f"bool_and(regexp_full_match(trim({quoted(key)}), ?))" for key in patterns)
    query = f"SELECT {checks} FROM read_csv(?, {options}, all_varchar = true)"
    result = connection.execute(query, [*patterns.values(), path]).fetchone() or ()
    return {key for key, fits in zip(patterns, result, strict=True) if fits is False}


# ---- errors -------------------------------------------------------------------------------------


def explain_error(path: Path, name: str, message: str) -> ConfigurationError:
    """Return why a file cannot be read, in one line, given DuckDB's error message."""
    if "nvalid unicode" in message or "not utf-8" in message:
        where = message.partition("Line: ")[2].partition("\n")[0]
        return ConfigurationError(
            f"{name}: line {where or '?'} is not UTF-8; pass encoding=, such as cp1252, latin-1 "
            "or utf-16"
        )
    error = _blank_header(path, name) or _layout_error(path, name)
    if error is not None:
        return error
    lines = message.strip().partition("\n\n")[0].splitlines()
    if "sniffing" in lines[0]:
        reason = "lines have different numbers of cells, or a quote is not closed"
    else:
        lines = [line for line in lines if not line.startswith("Original Line:")]
        reason = ": ".join(lines)
    return ConfigurationError(f"{name}: {reason}")


@contextmanager
def _open_text(path: Path) -> Iterator[IO[str] | None]:
    """Open a file as text; yield None for compression that only DuckDB can read."""
    if path.name.lower().endswith(".zst"):
        yield None
        return
    with (
        open_bytes(path) as file,
        TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline="") as text,
    ):
        yield text


@contextmanager
def _reader(path: Path) -> Iterator[tuple[Any, str]]:
    """Open a file with Python's CSV reader, which takes cells of any length meanwhile."""
    with _open_text(path) as file:
        if file is None:
            raise csv.Error("only DuckDB can read .zst")
        delimiter = max(DELIMITERS, key=file.readline(MAX_HEADER_LENGTH).count)
        file.seek(0)
        with _field_limit:
            limit = csv.field_size_limit(MAX_FIELD)
            try:
                yield csv.reader(file, delimiter=delimiter, strict=True), delimiter
            finally:
                csv.field_size_limit(limit)


def _layout_error(path: Path, name: str) -> ConfigurationError | None:
    """Return an error with the lines that have more or fewer cells than the header, if any."""
    bad: list[str] = []
    line = count = found = 0
    with suppress(OSError, EOFError, ConfigurationError):
        try:
            with _reader(path) as (rows, _):
                count = len(next(rows, []))
                line = rows.line_num
                for row in rows:
                    problem = _problem(row, count)
                    if problem:
                        found += 1
                        bad += [f"line {line + 1} {problem}"] if found <= MAX_SHOWN else []
                    line = rows.line_num
        except csv.Error as error:
            if ".zst" in str(error):
                return None
            unclosed = "unexpected end" in str(error)
            why = "a quote is not closed" if unclosed else error
            return ConfigurationError(f"{name}: line {line + 1}: {why}")
    if not bad:
        return None
    lines = ", ".join(bad)
    more = f", and {found - len(bad):,} more lines" if found > len(bad) else ""
    return RaggedCSVError(f"{name}: {lines}{more}, the first line has {count}")


def _cells(count: int) -> str:
    return "1 cell" if count == 1 else f"{count} cells"
