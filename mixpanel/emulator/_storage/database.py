"""Open DuckDB for a warehouse: a file that is kept, or a place of its own in memory."""

import itertools
import weakref
from functools import cache

import duckdb

from mixpanel._runtime import fork
from mixpanel.data.store.engine import quieten
from mixpanel.emulator._storage.tables import MODERNISE, SCHEMA

_numbers = itertools.count(1)


class Database:
    """An open database with a warehouse's tables in it; one in memory lasts as long as its object.

    To start a DuckDB takes longer than most tests do, so all that a process keeps in memory lies
    in one, each warehouse in a database of its own.

    :raises duckdb.IOException: when the file is no database, or another process has it.
    """

    def __init__(self, path: str | None = None) -> None:
        self._place: str | None = None
        if path is None:
            self._place = f"memory_{next(_numbers)}"
            self.connection = _memory().cursor()
            self.connection.execute(f"attach ':memory:' as {self._place}")
            weakref.finalize(self, _leave, self.connection, self._place).atexit = False
        else:
            self.connection = duckdb.connect(path)
        self._settle_in(self.connection)
        if path is not None:
            _modernise(self.connection)
        self.connection.execute(SCHEMA)

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Return one more connection, for a reader beside others."""
        cursor = self.connection.cursor()
        self._settle_in(cursor)
        return cursor

    def close(self) -> None:
        """Let go of the file."""
        self.connection.close()

    def _settle_in(self, connection: duckdb.DuckDBPyConnection) -> None:
        quieten(connection)
        if self._place is not None:
            connection.execute(f"use {self._place}")


@cache
def _memory() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(":memory:")


# The end of a child takes its DuckDBs with it, and crashes on one whose threads it has not got.
fork.register(fork.Order.LOCKS, before=_memory.cache_clear)


def _leave(connection: duckdb.DuckDBPyConnection, place: str) -> None:
    connection.execute("use memory")
    connection.execute(f"detach {place}")
    connection.close()


def _modernise(connection: duckdb.DuckDBPyConnection) -> None:
    """Bring a file up to date that was written before events had a column `told`."""
    ((columns,),) = connection.execute(
        "select list(column_name) from duckdb_columns() where table_name = 'events'"
    ).fetchall()
    if columns and "told" not in columns:
        connection.execute(MODERNISE)
