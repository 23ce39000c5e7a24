"""Run one statement of a user: by default one that only reads, in a transaction that cannot write.

What a statement may reach besides is decided when the database is opened, see `engine`.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from mixpanel.data.exceptions import ConfigError, SQLError, UnsafeSQLError
from mixpanel.data.results import SQLResult
from mixpanel.data.store.engine import engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pandas as pd
    import pyarrow as pa
    from duckdb import DuckDBPyConnection, DuckDBPyRelation


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
        statement = _only(query, write=write)
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
            f"{_said(error)}\nSQL reaches no files, extensions or other databases here; open the "
            "database with external_access=True to allow it"
        ) from error
    except UnicodeError as error:
        raise SQLError(f"this SQL holds half a character: {error}") from error
    except duckdb.Error as error:
        if "read-only mode" in str(error):
            raise UnsafeSQLError(f"{_said(error)}\nto change data ask for write=True") from error
        if "'pytz'" in str(error):
            raise SQLError(
                "Python gets a time with a zone only with pytz: pip install pytz, or write "
                "AT TIME ZONE 'UTC' behind it"
            ) from error
        raise SQLError(_said(error)) from error


def _only(query: str, *, write: bool) -> Any:
    duckdb = engine()
    if not isinstance(query, str):
        raise SQLError(f"SQL is text, not {query!r}")
    query.encode()  # half a character
    statements = duckdb.extract_statements(query)
    if not statements:
        raise SQLError("there is no statement in this SQL")
    if len(statements) > 1:
        raise UnsafeSQLError(f"one statement at a time, please: these are {len(statements)}")
    kind = statements[0].type
    if kind == duckdb.StatementType.MULTI and not write:
        raise UnsafeSQLError("PIVOT needs its values named: PIVOT t ON plan IN ('free', 'pro') ...")
    reading = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
    if not write and kind not in reading:
        raise UnsafeSQLError(
            f"{kind.name} is not a question: only SELECT, WITH, FROM, DESCRIBE, SHOW, SUMMARIZE "
            "and EXPLAIN are run; to change data ask for write=True"
        )
    return statements[0]


def _said(error: Exception) -> str:
    return str(error).partition("Error: ")[2].strip() or str(error)


def _needed(module: str, extra: str) -> None:
    try:
        __import__(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"this needs {module}: pip install 'mixpanel-async[{extra}]'; `sql_rows` does without"
        ) from error
