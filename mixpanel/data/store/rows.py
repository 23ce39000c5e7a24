"""Rows of a query as they come: as tuples, or as the bytes of CSV and JSON that DuckDB writes.

Both need the memory of a few batches, whatever the number of rows.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mixpanel._records.spreadsheets import guarded, guarded_sql
from mixpanel._runtime import native_threads
from mixpanel.data.exceptions import UnsafeSQLError
from mixpanel.data.store.engine import load_duckdb
from mixpanel.data.store.part_files import scratch_folder
from mixpanel.data.store.plans import multiplies_rows
from mixpanel.data.store.quoting import literal, quoted
from mixpanel.data.store.statements import check_statement, statement_body

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from duckdb import DuckDBPyConnection

__all__ = [
    "ROWS_FORMATS",
    "NotAQueryError",
    "RowStream",
    "RowsFormat",
    "copied",
    "copy_bytes",
    "copy_stream",
    "csv_select",
    "fetched",
    "in_small_batches",
    "query_source",
    "unique_names",
]

RowsFormat = Literal["csv", "json", "jsonl"]
ROWS_FORMATS = {
    "csv": "FORMAT csv, HEADER",
    "json": "FORMAT json, ARRAY true",
    "jsonl": "FORMAT json",
}
EMPTY_ARRAY = b"[\n\t\n]\n"
BATCH_ROWS = 2_048
PIPE_BYTES = 1_048_576
HELD_BYTES = 100_000  # more than the names of the columns, which are written first
F_SETPIPE_SZ = 1031  # Linux
INTERRUPT_EVERY = 0.02  # seconds; a statement may begin just after it was interrupted
UNKNOWN_START = 1.0  # seconds to wait for a thread that may not have been started

# Types whose values a spreadsheet never runs as a formula.
_SAFE_TYPES = re.compile(
    r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL\(.*\)|BIGNUM|BOOLEAN|UUID|DATE"
    r"|TIME( WITH TIME ZONE)?|INTERVAL"
)
_NESTED_TYPES = re.compile(r"(STRUCT|MAP|UNION)\(.*|.*\[\d*\]", re.DOTALL)
# Types that DuckDB writes in JSON as we do; decimals with more digits than a double has are text.
_JSON_TYPES = re.compile(
    r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|DECIMAL\(1?[0-5],\d+\)|BOOLEAN|UUID|DATE|VARCHAR|BIT"
    r"|ENUM\(.*\)",
    re.DOTALL,
)
# DuckDB accepts NaN and infinities in JSON: where one may be, and all parts of a text with one.
_MAY_BE_NAN = r"(^|[\[:,\s])-?(?i:nan|inf)"
_NAN = "-?(?i:nan|inf(?:inity)?)"
_JSON_PARTS = rf'(?s)"(?:[^"\\]|\\.)*"|{_NAN}|[^"nNiI-]+|.'
_ZONED = "TIMESTAMP WITH TIME ZONE"


@dataclass(frozen=True, slots=True)
class RowStream:
    """The rows of a running query: `batches` yields lists of tuples."""

    columns: list[str]
    types: list[str]
    batches: Iterator[list[tuple[Any, ...]]]


def fetched(result: Any) -> RowStream:
    """Return the rows of a statement that was executed."""
    columns = result.description or []

    def batches() -> Iterator[list[tuple[Any, ...]]]:
        while columns and (rows := result.fetchmany(BATCH_ROWS)):
            yield rows

    return RowStream([each[0] for each in columns], [str(each[1]) for each in columns], batches())


class NotAQueryError(UnsafeSQLError):
    """A statement that cannot stand in FROM, such as EXPLAIN."""


def query_source(
    connection: DuckDBPyConnection, query: str
) -> tuple[str, list[tuple[str, str, str]]]:
    """Return SQL for FROM of a query, and each column's title, expression and type.

    :raises UnsafeSQLError: if it does more than read.
    :raises NotAQueryError: if it is a statement of another kind, or DuckDB rejects it.
    """
    duckdb = load_duckdb()
    statement = check_statement(connection, query, write=False)
    if statement.type != duckdb.StatementType.SELECT:
        raise NotAQueryError(f"{statement.type.name} is not a query: use a SELECT")
    body = statement_body(query)
    try:
        rows = connection.execute(f"DESCRIBE {body}\n").fetchall()
        source = f"(\n{body}\n) AS _rows({', '.join(f'c{n}' for n in range(len(rows)))})"
        connection.execute(f"DESCRIBE SELECT * FROM {source}")
    except duckdb.Error:
        connection.execute(query)  # for an error that shows the query as it was written
        raise NotAQueryError("this statement is not a query: use a SELECT") from None
    titles = unique_names(row[0] for row in rows)
    return source, [
        (title, f"c{n}", row[1]) for n, (title, row) in enumerate(zip(titles, rows, strict=True))
    ]


def copied(
    connection: DuckDBPyConnection,
    query: str,
    form: RowsFormat,
    exchange: Path,
    limit: int | None = None,
) -> Iterator[bytes] | None:
    """Return the rows of a query as CSV or JSON, or None if DuckDB would write them otherwise."""
    try:
        source, by_position = query_source(connection, query)
    except NotAQueryError:
        return None
    if limit is not None:
        source = f"(FROM {source} LIMIT {limit:d})"
    if form == "csv":
        selected = csv_select(by_position)
    else:
        found = [_json_expression(connection, column, type_) for _, column, type_ in by_position]
        if None in found:
            return None
        selected = ", ".join(
            f"{expression} AS {quoted(title)}"
            for expression, (title, _, _) in zip(found, by_position, strict=True)
        )
    query = f"SELECT {selected} FROM {source}"
    chunks = copy_stream(connection, query, ROWS_FORMATS[form], exchange)
    return _without_empty_row(chunks) if form == "json" else chunks


def _without_empty_row(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Write an array without rows as [], where DuckDB writes an empty line between the brackets."""
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) > len(EMPTY_ARRAY):
            break
    yield b"[]\n" if head.split() == [b"[", b"]"] else head
    yield from chunks


def copy_stream(
    connection: DuckDBPyConnection, query: str, options: str, exchange: Path
) -> Iterator[bytes]:
    """Yield the bytes of `copy_bytes`; without enough memory in small batches from the start."""
    held: list[bytes] | None = []  # what would be repeated if it ended here
    chunks = copy_bytes(connection, query, options, exchange)
    try:
        for chunk in chunks:
            if held is None:
                yield chunk
            else:
                held.append(chunk)
                if sum(map(len, held)) > HELD_BYTES:
                    yield b"".join(held)
                    held = None
        if held:
            yield b"".join(held)
        return
    except load_duckdb().OutOfMemoryException:
        if held is None:
            raise
    finally:
        chunks.close()  # type: ignore[attr-defined]
    yield from copy_bytes(connection, in_small_batches(connection, query), options, exchange)


def in_small_batches(connection: DuckDBPyConnection, query: str) -> str:
    """Return a query of the same rows in the same order, of which COPY writes a few at a time.

    With several threads, DuckDB holds all that comes of a row group of 122,880 rows before it
    writes it, unless one source of rows cannot be divided among threads: here an empty aggregate.
    """
    columns = connection.execute(f"DESCRIBE {query}").fetchall()
    nulls = ", ".join("NULL" for _ in columns)
    empty = f"SELECT {nulls} FROM (SELECT count(*) AS n FROM range(0)) WHERE n > 0"
    return f"{query} UNION ALL {empty}"


def copy_bytes(
    connection: DuckDBPyConnection, query: str, options: str, exchange: Path
) -> Iterator[bytes]:
    """Yield the bytes that `COPY (query) TO … (options)` writes, while it writes them."""
    if multiplies_rows(connection, query):
        query = in_small_batches(connection, query)
    with scratch_folder(exchange) as folder:
        path = folder / "rows"
        statement = f"COPY ({query}) TO {literal(str(path))} ({options})"
        if not hasattr(os, "mkfifo"):  # Windows: by way of a file
            connection.execute(statement)
            with path.open("rb") as file:
                while chunk := file.read(PIPE_BYTES):
                    yield chunk
            return
        os.mkfifo(path, 0o600)
        yield from _piped(connection, statement, path)


def _piped(connection: DuckDBPyConnection, statement: str, path: Path) -> Iterator[bytes]:
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    # Held open so that reading waits for DuckDB to open the pipe, and ends if it never does.
    guard = os.open(path, os.O_WRONLY)
    os.set_blocking(reader, True)
    with suppress(OSError, ImportError):
        import fcntl

        fcntl.fcntl(reader, F_SETPIPE_SZ, PIPE_BYTES)
    failed: list[BaseException] = []
    guards, running = [guard], native_threads.new_lock()
    running.acquire()

    def run() -> None:
        try:
            if guards:
                connection.execute(statement)
        except BaseException as error:  # raised again by the reader
            failed.append(error)
        finally:
            while guards:
                os.close(guards.pop())
            running.release()

    state = "new"
    try:
        native_threads.start_thread(run, "mixpanel-copy")
        state = "running"
        while chunk := os.read(reader, PIPE_BYTES):
            if state == "running":  # DuckDB has the pipe open: without a name, none can be left
                state = "writing"
                path.unlink(missing_ok=True)
            yield chunk
        state = "finished"
    finally:
        if state == "finished":
            running.acquire()
        else:
            # Ctrl-C may have come while the thread was being started.
            _stop(connection, reader, running, patience=UNKNOWN_START if state == "new" else None)
            while guards:
                os.close(guards.pop())
        os.close(reader)
    if failed:
        raise failed[0]


def _stop(
    connection: DuckDBPyConnection, reader: int, running: Any, *, patience: float | None
) -> None:
    """Interrupt the statement that writes into a pipe until its thread has ended.

    The pipe is emptied meanwhile: neither opening it nor writing into it can be interrupted.
    """
    os.set_blocking(reader, False)
    end = None if patience is None else time.monotonic() + patience
    while not running.acquire(timeout=INTERRUPT_EVERY):
        connection.interrupt()
        with suppress(BlockingIOError):
            while os.read(reader, PIPE_BYTES):
                pass
        if end is not None and time.monotonic() > end:
            return


# ---- expressions --------------------------------------------------------------------------------


def csv_select(columns: Sequence[tuple[str, str, str]]) -> str:
    """Return the SQL list of columns as cells of CSV; each is (title, expression, type).

    Text that a spreadsheet would run is guarded, nested values are JSON, and times have one format
    with six digits of a second, as pandas requires.
    """
    return ", ".join(
        f"{_csv_expression(expression, type_)} AS {quoted(guarded(title))}"
        for title, expression, type_ in columns
    )


def _csv_expression(expression: str, type_: str) -> str:
    if type_.startswith("TIMESTAMP"):
        return _time(expression, "%Y-%m-%d %H:%M:%S.%f", type_)
    if _SAFE_TYPES.fullmatch(type_):
        return expression
    if _NESTED_TYPES.fullmatch(type_):
        expression = f"to_json({expression})"
    return guarded_sql(expression)


def _json_expression(connection: DuckDBPyConnection, expression: str, type_: str) -> str | None:
    """Return a value of a type that DuckDB writes in JSON as Python does, or None."""
    if not _NESTED_TYPES.fullmatch(type_):
        return _json_scalar(expression, type_)
    try:
        parsed = connection.type(type_)
    except load_duckdb().Error:  # not all types can be parsed
        return None
    return _json_nested(expression, parsed)


def _json_nested(expression: str, type_: Any, depth: int = 0) -> str | None:
    """Return a list or a struct with the values that `_json_expression` returns."""
    if str(type_) == "JSON":
        return f"CAST({expression} AS VARCHAR)"
    if type_.id not in ("list", "struct"):
        return _json_scalar(expression, str(type_))
    names, item = [name for name, _ in type_.children], f"item{depth}"
    if type_.id == "list":
        parts = [item]
    elif all(names):
        parts = [f"struct_extract({expression}, {literal(name)})" for name in names]
    else:
        return None
    found = [
        _json_nested(part, child, depth + 1)
        for part, (_, child) in zip(parts, type_.children, strict=True)
    ]
    if None in found or found == parts:
        return None if None in found else expression
    if type_.id == "list":
        return f"list_transform({expression}, lambda {item}: {found[0]})"
    packed = ", ".join(f"{quoted(n)} := {each}" for n, each in zip(names, found, strict=True))
    return f"CASE WHEN {expression} IS NOT NULL THEN struct_pack({packed}) END"


def _json_scalar(expression: str, type_: str) -> str | None:
    if type_ == "JSON":
        parts = f"regexp_extract_all({expression}, {literal(_JSON_PARTS)})"
        part = f"CASE WHEN regexp_full_match(part, {literal(_NAN)}) THEN 'null' ELSE part END"
        valid = f"array_to_string(list_transform({parts}, lambda part: {part}), '')"
        return (
            f"CASE WHEN regexp_matches({expression}, {literal(_MAY_BE_NAN)}) "
            f"THEN CAST({valid} AS JSON) ELSE {expression} END"
        )
    if _JSON_TYPES.fullmatch(type_):
        return expression
    if type_ in ("DOUBLE", "FLOAT"):
        return f"CASE WHEN isfinite({expression}) THEN {expression} END"
    if type_ == "INTERVAL":
        return f"CAST({expression} AS VARCHAR)"
    if type_.startswith("DECIMAL"):
        # A number if a double has all of its digits, else text.
        double = f"CAST(CAST({expression} AS DOUBLE) AS VARCHAR)"
        return (
            f"CASE WHEN {expression} = floor({expression}) "
            f"THEN to_json(CAST({expression} AS HUGEINT)) "
            f"WHEN TRY_CAST({double} AS {type_}) = {expression} THEN to_json({expression}) "
            f"ELSE to_json(CAST({expression} AS VARCHAR)) END"
        )
    if type_.startswith("TIMESTAMP"):
        whole = _time(expression, "%Y-%m-%dT%H:%M:%S", type_)
        fraction = _time(expression, "%Y-%m-%dT%H:%M:%S.%f", type_)
        whole = f"WHEN microsecond({expression}) % 1000000 = 0 THEN {whole}"
        if type_ == "TIMESTAMP_NS":
            nanoseconds = _time(expression, "%Y-%m-%dT%H:%M:%S.%n", type_)
            whole = (
                f"WHEN epoch_ns({expression}) % 1000 <> 0 THEN {nanoseconds} "
                f"WHEN epoch_ns({expression}) % 1000000000 = 0 THEN "
                + _time(expression, "%Y-%m-%dT%H:%M:%S", type_)
            )
        return f"CASE {whole} ELSE {fraction} END"
    return None


def _time(expression: str, form: str, type_: str) -> str:
    text = f"strftime({expression}, {literal(form)})"
    if type_ == _ZONED:  # an infinite time has no offset
        text = f"CASE WHEN isfinite({expression}) THEN {text} || '+00:00' ELSE {text} END"
    return text


def unique_names(columns: Iterator[str] | Sequence[str]) -> list[str]:
    """Return column names with a number added to repeated ones: n, n_2.

    A name that occurs once stays as it is, also if it looks like one with a number.
    """
    given = list(columns)
    taken, first = set(given), set(given)
    names = []
    for column in given:
        name, number = column, 1
        if column in first:
            first.remove(column)
        else:
            while name in taken:
                number += 1
                name = f"{column}_{number}"
            taken.add(name)
        names.append(name)
    return names
