"""Run one SQL statement of the user, by default read-only and in a read-only transaction.

`statements` decides which statements may run, `engine` which files DuckDB can access.
"""

from __future__ import annotations

import re
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from mixpanel.data.exceptions import ConfigError, SQLError, UnsafeSQLError
from mixpanel.data.results import SQLResult
from mixpanel.data.store import typed_tables
from mixpanel.data.store.engine import (
    CONFLICT,
    OPEN_READ_ONLY,
    is_conflict,
    load_duckdb,
    memory_error,
    read_only_database,
)
from mixpanel.data.store.quoting import literal
from mixpanel.data.store.rows import RowStream, copied, fetched
from mixpanel.data.store.statements import check_statement, mentioned, statement_body

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    import polars as pl
    import pyarrow as pa
    from duckdb import DuckDBPyConnection, DuckDBPyRelation

    from mixpanel.data.store.rows import RowsFormat

__all__ = [
    "arrow",
    "copy",
    "count",
    "data_frame",
    "has_external_access",
    "polars",
    "rows",
    "stream",
    "translated",
]


def rows(
    connection: DuckDBPyConnection,
    query: str,
    parameters: Sequence[Any] | Mapping[str, Any] | None,
    *,
    write: bool,
    limit: int | None,
) -> SQLResult:
    """Run a statement and return its rows, at most `limit` of them."""
    with _executed(connection, query, parameters, write=write) as result:
        columns = [column[0] for column in result.description or []]
        if not columns:
            return SQLResult([], [])
        fetched = result.fetchall() if limit is None else result.fetchmany(limit + 1)
    truncated = limit is not None and len(fetched) > limit
    return SQLResult(columns, fetched[:limit] if truncated else fetched, truncated)


@contextmanager
def stream(
    connection: DuckDBPyConnection,
    query: str,
    parameters: Sequence[Any] | Mapping[str, Any] | None,
    *,
    write: bool,
) -> Iterator[RowStream]:
    """Run a statement and pass its rows to the block as they come."""
    with _executed(connection, query, parameters, write=write) as result:
        yield fetched(result)


def copy(
    connection: DuckDBPyConnection,
    query: str,
    form: RowsFormat,
    exchange: Path,
    *,
    limit: int | None = None,
) -> Iterator[bytes] | None:
    """Return the rows of a query as CSV or JSON, or None if only `stream` can give them."""
    with translated(connection):
        chunks = copied(connection, query, form, exchange, limit)
    return None if chunks is None else _translated_chunks(connection, chunks)


def count(connection: DuckDBPyConnection, query: str) -> int | None:
    """Return the number of rows of a query, or None if it cannot be counted."""
    try:
        counted = f"SELECT count(*) FROM (\n{statement_body(query)}\n)"
        found = rows(connection, counted, None, write=False, limit=None).rows
    except SQLError:
        return None
    return int(found[0][0])


def has_external_access(connection: DuckDBPyConnection) -> bool:
    """Return True if SQL can access files, and attach them."""
    query = "SELECT current_setting('enable_external_access')"
    return bool(connection.execute(query).fetchall() == [(True,)])


def _translated_chunks(connection: DuckDBPyConnection, chunks: Iterator[bytes]) -> Iterator[bytes]:
    with translated(connection):
        yield from chunks


def data_frame(
    connection: DuckDBPyConnection,
    query: str,
    parameters: Sequence[Any] | Mapping[str, Any] | None,
    *,
    write: bool,
) -> pd.DataFrame:
    """Run a statement and return its rows as a pandas DataFrame."""
    _require_module("pandas", "pandas")
    with _executed(connection, query, parameters, write=write) as result:
        return result.df()


def arrow(
    connection: DuckDBPyConnection,
    query: str,
    parameters: Sequence[Any] | Mapping[str, Any] | None,
    *,
    write: bool,
) -> pa.Table:
    """Run a statement and return its rows as a pyarrow Table."""
    _require_module("pyarrow", "arrow")
    run = partial(_relation, connection)
    with _executed(connection, query, parameters, write=write, run=run) as result:
        return result.to_arrow_table()


def polars(
    connection: DuckDBPyConnection,
    query: str,
    parameters: Sequence[Any] | Mapping[str, Any] | None,
    *,
    write: bool,
) -> pl.DataFrame:
    """Run a statement and return its rows as a polars DataFrame."""
    _require_module("polars", "polars")
    _require_module("pyarrow", "polars")  # by way of which DuckDB 1 passes rows to polars
    run = partial(_relation, connection)
    with _executed(connection, query, parameters, write=write, run=run) as result:
        frame: pl.DataFrame = result.pl()
        return frame


class _Frames:
    """The frames of a statement that is no query, which DuckDB 1 makes no relation of."""

    def __init__(self, result: DuckDBPyConnection) -> None:
        names = [column[0] for column in result.description or []]
        rows = result.fetchall() if names else []
        self._columns = {name: [row[n] for row in rows] for n, name in enumerate(names)}

    def to_arrow_table(self) -> pa.Table:
        import pyarrow as pa

        return pa.table(self._columns)

    def pl(self) -> pl.DataFrame:
        import polars as pl

        return pl.DataFrame(self._columns)


def _relation(
    connection: DuckDBPyConnection, statement: Any, parameters: Any
) -> DuckDBPyRelation | _Frames:
    if statement.type != load_duckdb().StatementType.SELECT:
        return _Frames(connection.execute(statement, parameters))
    # A relation passes its rows to Arrow without the copy that a cursor makes.
    return connection.sql(statement, params=parameters)


@contextmanager
def _executed(
    connection: DuckDBPyConnection,
    query: str,
    parameters: Sequence[Any] | Mapping[str, Any] | None,
    *,
    write: bool,
    run: Callable[[Any, Any], Any] | None = None,
) -> Iterator[Any]:
    run = run or connection.execute
    values = parameters if parameters is None or isinstance(parameters, dict) else list(parameters)
    with translated(connection):
        statement = check_statement(connection, query, write=write)
        for value in values.values() if isinstance(values, dict) else values or ():
            if isinstance(value, str):
                value.encode()  # an unpaired surrogate: DuckDB 1.4 raises a RuntimeError
        # A second line of defence: a write that passed the check fails in the transaction.
        if write:
            try:
                yield run(statement, values)
            finally:
                typed_tables.mark_written(connection, mentioned(query))
            return
        connection.execute("BEGIN TRANSACTION READ ONLY")
        try:
            yield run(statement, values)
        finally:
            connection.execute("ROLLBACK")


@contextmanager
def translated(connection: DuckDBPyConnection) -> Iterator[None]:
    """Turn DuckDB's errors about a statement into ours."""
    duckdb = load_duckdb()
    try:
        yield
    except duckdb.PermissionException as error:
        raise UnsafeSQLError(
            f"{_message(error)}\nSQL cannot access files, extensions or other databases. "
            "Open the database with external_access=True to allow it"
        ) from error
    except duckdb.OutOfMemoryException as error:
        raise memory_error(error) from error
    except UnicodeError as error:
        raise SQLError(
            f"the SQL contains an unpaired surrogate, which is not valid text: {error}"
        ) from error
    except duckdb.Error as error:
        if name := read_only_database(error):
            if name == _current_database(connection):
                raise UnsafeSQLError(f"{_message(error)}\n{OPEN_READ_ONLY}") from error
            raise UnsafeSQLError(
                f"{_message(error)}\nOther databases are attached to be read. Open that one in a "
                "workspace of its own to change it"
            ) from error
        if "read-only mode" in str(error):
            raise UnsafeSQLError(
                f"{_message(error)}\nSQL is read-only by default. Pass write=True to modify data"
            ) from error
        if is_conflict(error):
            raise SQLError(f"{_message(error)}\n{CONFLICT}") from error
        if "'pytz'" in str(error):
            raise SQLError(
                "a TIMESTAMP WITH TIME ZONE needs pytz: pip install pytz, or append "
                "AT TIME ZONE 'UTC' to the column"
            ) from error
        raise SQLError(_message(error) + _hint(connection, error)) from error


_MISSING_COLUMN = re.compile(
    r'[Cc]olumn (?:with name )?"?(?P<name>[^"\n]+?)"? (?:not found|does not exist)'
)
_PLAIN_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)


def _hint(connection: DuckDBPyConnection, error: Exception) -> str:
    """Return how to read a property, if a statement names one as if it were a column."""
    found = _MISSING_COLUMN.search(str(error))
    if found is None or not isinstance(error, load_duckdb().BinderException):
        return ""
    query = (
        "SELECT table_name FROM duckdb_columns() WHERE column_name = 'properties' "
        "AND data_type = 'JSON' AND NOT starts_with(table_name, '_') LIMIT 1"
    )
    try:
        table = connection.execute(query).fetchone()
    except load_duckdb().Error:
        return ""
    if table is None:
        return ""
    name = found["name"].rpartition(".")[2]
    path = name if _PLAIN_NAME.fullmatch(name) else '"' + name.replace('"', '\\"') + '"'
    expression = "properties->>" + literal(f"$.{path}")
    return (
        f"\nIf {name} is a property, write {expression}, or create a view with a column for each "
        "property: typed_view() in Python, mp inspect typed-view in a shell"
    )


def _current_database(connection: DuckDBPyConnection) -> str | None:
    with suppress(load_duckdb().Error):  # within a failed transaction
        row = connection.execute("SELECT current_database()").fetchone()
        return None if row is None else str(row[0])
    return None


def _message(error: Exception) -> str:
    return str(error).partition("Error: ")[2].strip() or str(error)


def _require_module(module: str, extra: str) -> None:
    try:
        __import__(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{module} is not installed: pip install 'mixpanel-async[{extra}]', or use `sql_rows`"
        ) from error
