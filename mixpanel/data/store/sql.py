"""Run one statement of a user: by default one that only reads, in a transaction that cannot write.

Which statements run is decided in `statements`, which files DuckDB reaches in `engine`.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from mixpanel.data.exceptions import ConfigError, SQLError, UnsafeSQLError
from mixpanel.data.results import SQLResult
from mixpanel.data.store.engine import engine
from mixpanel.data.store.statements import checked

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
    """Return the rows of a statement, at most `limit` of them."""
    with _answered(connection, query, parameters, write=write) as answer:
        columns = [column[0] for column in answer.description or []]
        if not columns:
            return SQLResult([], [])
        found = answer.fetchall() if limit is None else answer.fetchmany(limit + 1)
    truncated = limit is not None and len(found) > limit
    return SQLResult(columns, found[:limit] if truncated else found, truncated)


def data_frame(
    connection: DuckDBPyConnection,
    query: str,
    parameters: Sequence[Any] | Mapping[str, Any] | None,
    *,
    write: bool,
) -> pd.DataFrame:
    """Return the rows of a statement as a pandas DataFrame."""
    _needed("pandas", "pandas")
    with _answered(connection, query, parameters, write=write) as answer:
        return answer.df()


def arrow(
    connection: DuckDBPyConnection,
    query: str,
    parameters: Sequence[Any] | Mapping[str, Any] | None,
    *,
    write: bool,
) -> pa.Table:
    """Return the rows of a statement as a pyarrow Table."""
    _needed("pyarrow", "arrow")
    run = partial(_relation, connection)
    with _answered(connection, query, parameters, write=write, run=run) as answer:
        return answer.to_arrow_table()


def _relation(connection: DuckDBPyConnection, statement: Any, parameters: Any) -> DuckDBPyRelation:
    # A relation hands its rows to Arrow as they are, a cursor copies them.
    return connection.sql(statement, params=parameters)


@contextmanager
def _answered(
    connection: DuckDBPyConnection,
    query: str,
    parameters: Sequence[Any] | Mapping[str, Any] | None,
    *,
    write: bool,
    run: Callable[[Any, Any], Any] | None = None,
) -> Iterator[Any]:
    duckdb = engine()
    run = run or connection.execute
    given = parameters if parameters is None or isinstance(parameters, dict) else list(parameters)
    try:
        statement = checked(connection, query, write=write)
        if write:
            yield run(statement, given)
            return
        connection.execute("BEGIN TRANSACTION READ ONLY")
        try:
            yield run(statement, given)
        finally:
            connection.execute("ROLLBACK")
    except duckdb.PermissionException as error:
        raise UnsafeSQLError(
            f"{_said(error)}\nSQL reaches no files, extensions or other databases here. Open the "
            "database with external_access=True to allow it"
        ) from error
    except UnicodeError as error:
        raise SQLError(f"this SQL holds half a character: {error}") from error
    except duckdb.Error as error:
        if "read-only mode" in str(error):
            raise UnsafeSQLError(
                f"{_said(error)}\nSQL is read-only by default. Pass write=True to modify data"
            ) from error
        if "'pytz'" in str(error):
            raise SQLError(
                "Python gets a time with a zone only with pytz: pip install pytz, or write "
                "AT TIME ZONE 'UTC' behind it"
            ) from error
        raise SQLError(_said(error)) from error


def _said(error: Exception) -> str:
    return str(error).partition("Error: ")[2].strip() or str(error)


def _needed(module: str, extra: str) -> None:
    try:
        __import__(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"this needs {module}: pip install 'mixpanel-async[{extra}]'; `sql_rows` does without"
        ) from error
