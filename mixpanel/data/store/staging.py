"""Stage a load beside its table, and move it there in one transaction.

Rows go to a staging table, one transaction per batch, so that an interrupted load can resume. The
table itself changes only in the last transaction: readers see the old rows or all of the new ones,
even after a crash.
"""

from __future__ import annotations

import functools
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Concatenate, Literal, ParamSpec, TypeVar
from weakref import WeakValueDictionary, finalize

from mixpanel._runtime import native_threads
from mixpanel._runtime.checked_files import UnsafeFileError
from mixpanel._runtime.file_lock import FileLock
from mixpanel._runtime.safe_logging import logger
from mixpanel.data.exceptions import ConfigError, TableExistsError
from mixpanel.data.store import fetch_log
from mixpanel.data.store.engine import database_errors, load_duckdb, transaction
from mixpanel.data.store.quoting import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator
    from datetime import date
    from pathlib import Path

    from duckdb import DuckDBPyConnection

    from mixpanel.data._fetch.plan import Filters
    from mixpanel.data.results import TypedTable
    from mixpanel.data.store.connection import Connection
    from mixpanel.data.store.fetch_log import Table

__all__ = [
    "STAGING_PREFIX",
    "Changes",
    "Loaded",
    "Mode",
    "Staging",
    "connected",
    "exclusive",
    "lock_table",
    "require_no_active_load",
]

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="Staging")

Mode = Literal["new", "replace", "append", "sync"]

STAGING_PREFIX = "_stage_"
PIECE_BYTES = (8_000_000, 1_000_000)

# The running loads of this process, by database and table. Weak, so that a load that was dropped
# without being ended does not block its table.
_active_loads: WeakValueDictionary[Hashable, Staging] = WeakValueDictionary()
_active_lock = native_threads.new_lock()


def require_no_active_load(database: Hashable, name: str) -> None:
    """Raise if a load into this table is running.

    :raises ConfigError: if one is.
    """
    if (database, name.lower()) in _active_loads:
        raise ConfigError(f"a fetch into {name} is running: wait until it ends, or stop it")


def lock_table(database: Connection, name: str) -> FileLock | None:
    """Lock a table against loads of other processes; None for a database in memory.

    :raises ConfigError: if another process is loading into it.
    """
    if database.path is None:
        return None
    lock = FileLock(database.parts / f"{name.lower()}.lock", remove=True)
    try:
        is_free = lock.acquire()
    except UnsafeFileError as error:
        raise ConfigError(f"{lock.path} cannot be used: {error.strerror}") from error
    except OSError:  # the file system has no locks
        return None
    if not is_free:
        raise ConfigError(
            f"a fetch into {name} is running in another process: wait until it ends, or stop it"
        )
    return lock


def connected(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Let a method of a load use its `_connection`; the file is closed again afterwards."""

    @functools.wraps(method)
    def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._connect():
            return method(self, *args, **kwargs)

    return call


def exclusive(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Let a method wait until no other thread replaces tables; two such transactions conflict."""

    @functools.wraps(method)
    def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._database._tables_lock:
            return method(self, *args, **kwargs)

    return call


@dataclass(frozen=True, slots=True)
class Changes:
    """How many rows are new, changed and as before, and how many did not come again.

    `vanished`, and the first of the ids of profiles, are None if that cannot be determined, because
    the load selects only some of the rows that it is compared with.
    """

    new: int
    changed: int
    unchanged: int
    vanished: int | None
    vanished_ids: tuple[str | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Loaded:
    """The result of a load; `merged` counts the duplicates that this process dropped.

    `changes` compares the rows with those that the table had; None for a new table.
    `typed` is the table's typed table, if it has one and that was brought up to date.
    """

    rows: int
    merged: int
    from_date: date | None
    to_date: date | None
    changes: Changes | None = None
    typed: TypedTable | None = None


class Staging:
    """A running load into a table.

    Until it is finished, abandoned or stopped, no other load into the table begins. Between its
    steps, each a transaction, other processes may open the database.
    """

    def __init__(
        self, database: Connection, name: str, filters: Filters, mode: Mode, now: datetime | None
    ) -> None:
        self.name: str = name
        self.mode: Mode = mode
        self.key: str = f"{name}-{mode}-{filters.key()}"
        self._database = database
        self._cursor: DuckDBPyConnection | None = None
        self._filters = filters.to_json()
        self._now = now
        self._unreadable = database.unreadable
        self._staging_table, self._table = quoted(STAGING_PREFIX + name), quoted(name)
        # DuckDB reads a file with as many threads as it has buffers of 32 MB: a piece gets one.
        self._piece_bytes: int | None = None
        self._smaller_pieces = list(PIECE_BYTES)
        self._slot = (database._identity, name.lower())
        with _active_lock:
            require_no_active_load(database._identity, name)
            self._table_lock = lock_table(database, name)
            _active_loads[self._slot] = self
        if self._table_lock is not None:  # also for a load that is dropped without being ended
            finalize(self, self._table_lock.release)

    @contextmanager
    def _connect(self) -> Iterator[None]:
        if self._cursor is not None:
            yield
            return
        with self._database._load_cursor() as cursor:
            self._cursor = cursor
            try:
                yield
            finally:
                self._cursor = None

    @property
    def _connection(self) -> DuckDBPyConnection:
        assert self._cursor is not None, "use it in a method that is `connected`"
        return self._cursor

    @property
    def _exchange(self) -> Path:
        return self._database._exchange

    @connected
    def abandon(self) -> None:
        """Drop the staged rows, and leave the table as it is."""
        try:
            with database_errors(), transaction(self._connection):
                self._discard()
        finally:
            self.stop()

    def stop(self) -> None:
        """End the load; the next one of this name, filters and mode resumes it."""
        with _active_lock:
            if _active_loads.get(self._slot) is self:
                del _active_loads[self._slot]
        if self._table_lock is not None:
            self._table_lock.release()

    def _insert_with_memory(self, insert: Callable[[], R], what: object) -> R:
        """Run `insert`; without enough memory again, with smaller `_piece_bytes` from then on."""
        while True:
            try:
                return insert()
            except load_duckdb().OutOfMemoryException:
                if not self._smaller_pieces:
                    raise
            self._piece_bytes = self._smaller_pieces.pop(0)
            logger.debug(
                "not enough memory to load %s at once: loading pieces of %s MB",
                what,
                self._piece_bytes // 1_000_000,
            )

    def _require_active(self) -> None:
        # Two loads with one staging table would mix their rows.
        if _active_loads.get(self._slot) is not self:
            raise ConfigError(f"this load into {self.name} has ended: begin a new one")

    def _current_time(self) -> datetime:
        return self._now or datetime.now(UTC)

    def _discard(self) -> None:
        self._connection.execute(f"DROP TABLE IF EXISTS {self._staging_table}")
        fetch_log.delete_days(self._connection, self.name, "staged")
        fetch_log.delete_pages(self._connection, self.name)

    def _check_name(self, known: Table | None) -> None:
        """Raise TableExistsError if SQL has created a table of that name since this load began."""
        exists = self._connection.execute(
            "SELECT 1 FROM information_schema.tables WHERE table_schema = 'main' "
            "AND table_catalog = current_database() AND lower(table_name) = lower(?)",
            [self.name],
        ).fetchone()
        if exists and (known is None or self.mode == "new"):
            raise TableExistsError(self.name)

    def _replace_table(self, known: Table | None) -> None:
        self._check_name(known)
        for state in ("done", "failed", "skipped"):
            fetch_log.delete_days(self._connection, self.name, state)
        self._connection.execute(f"DROP TABLE IF EXISTS {self._table}")
        self._connection.execute(f"ALTER TABLE {self._staging_table} RENAME TO {self._table}")
