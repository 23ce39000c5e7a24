"""Run one SQL statement of the user, by default read-only and in a read-only transaction.

`statements` decides which statements may run, `engine` which files DuckDB can access.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from mixpanel.data.exceptions import ConfigError, SQLError, UnsafeSQLError
from mixpanel.data.results import SQLResult
from mixpanel.data.store.engine import load_duckdb
from mixpanel.data.store.statements import check_statement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pandas as pd
    import pyarrow as pa
    from duckdb import DuckDBPyConnection, DuckDBPyRelation

__all__ = ["arrow", "data_frame", "rows"]


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


def _relation(connection: DuckDBPyConnection, statement: Any, parameters: Any) -> DuckDBPyRelation:
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
    duckdb = load_duckdb()
    run = run or connection.execute
    values = parameters if parameters is None or isinstance(parameters, dict) else list(parameters)
    try:
        statement = check_statement(connection, query, write=write)
        # A second line of defence: a write that passed the check fails in the transaction.
        if write:
            yield run(statement, values)
            return
        connection.execute("BEGIN TRANSACTION READ ONLY")
        try:
            yield run(statement, values)
        finally:
            connection.execute("ROLLBACK")
    except duckdb.PermissionException as error:
        raise UnsafeSQLError(
            f"{_message(error)}\nSQL cannot access files, extensions or other databases. "
            "Open the database with external_access=True to allow it"
        ) from error
    except UnicodeError as error:
        raise SQLError(
            f"the SQL contains an unpaired surrogate, which is not valid text: {error}"
        ) from error
    except duckdb.Error as error:
        if "read-only mode" in str(error):
            raise UnsafeSQLError(
                f"{_message(error)}\nSQL is read-only by default. Pass write=True to modify data"
            ) from error
        if "'pytz'" in str(error):
            raise SQLError(
                "a TIMESTAMP WITH TIME ZONE needs pytz: pip install pytz, or append "
                "AT TIME ZONE 'UTC' to the column"
            ) from error
        raise SQLError(_message(error)) from error


def _message(error: Exception) -> str:
    return str(error).partition("Error: ")[2].strip() or str(error)


def _require_module(module: str, extra: str) -> None:
    try:
        __import__(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{module} is not installed: pip install 'mixpanel-async[{extra}]', or use `sql_rows`"
        ) from error
