"""Open DuckDB for a warehouse: in a file, or in a database of its own in memory."""

import itertools
import weakref
from functools import cache
from pathlib import Path

import duckdb

from mixpanel._runtime import fork
from mixpanel.data.store.engine import disable_progress_bar, file_state
from mixpanel.emulator._storage.tables import MIGRATION, SCHEMA

ATTEMPTS = 5

_numbers = itertools.count(1)


class Database:
    """An open database with a warehouse's tables; one in memory is dropped with its object.

    Starting DuckDB takes longer than most tests do, so all in-memory warehouses of a process share
    one DuckDB, each in an attached database of its own.

    :raises duckdb.IOException: the file is not a database, or another process has opened it.
    """

    def __init__(self, path: str | None = None) -> None:
        self._name: str | None = None
        if path is None:
            self._name = f"memory_{next(_numbers)}"
            self.connection = _memory().cursor()
            self.connection.execute(f"attach ':memory:' as {self._name}")
            weakref.finalize(self, _detach, self.connection, self._name).atexit = False
        else:
            self.connection = _connect(path)
        self._configure(self.connection)
        if path is not None:
            _migrate(self.connection)
        self.connection.execute(SCHEMA)

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Return another connection, for concurrent readers."""
        cursor = self.connection.cursor()
        self._configure(cursor)
        return cursor

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def _configure(self, connection: duckdb.DuckDBPyConnection) -> None:
        disable_progress_bar(connection)
        if self._name is not None:
            connection.execute(f"use {self._name}")


@cache
def _memory() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(":memory:")


# A forked child would crash at exit: closing DuckDB waits for threads that only the parent has.
fork.register(fork.Order.LOCKS, before=_memory.cache_clear)


def _connect(path: str) -> duckdb.DuckDBPyConnection:
    """Open a file, again if another process has written to it meanwhile: see `file_state`.

    If it changes each time, this process has it open already, and writes to it.
    """
    for _ in range(ATTEMPTS - 1):
        before = file_state(Path(path))
        connection = duckdb.connect(path)
        if not before or before == file_state(Path(path)):
            return connection
        connection.close()
    return duckdb.connect(path)


def _detach(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    connection.execute("use memory")
    connection.execute(f"detach {name}")
    connection.close()


def _migrate(connection: duckdb.DuckDBPyConnection) -> None:
    """Update a file that was written before events had a column `sent_fields`."""
    ((columns,),) = connection.execute(
        "select list(column_name) from duckdb_columns() where table_name = 'events'"
    ).fetchall()
    if columns and "told" in columns:
        connection.execute("alter table events rename column told to sent_fields")
    elif columns and "sent_fields" not in columns:
        connection.execute(MIGRATION)
