"""Open a DuckDB database, hand out cursors, and close it."""

from __future__ import annotations

import shutil
from collections import Counter
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet

from mixpanel._runtime import native_threads
from mixpanel._runtime.private_files import make_folder
from mixpanel._runtime.temporary_folders import make_temporary_folder, remove_temporary_folder
from mixpanel.data.exceptions import ConfigError, SQLError
from mixpanel.data.store import fetch_log
from mixpanel.data.store.engine import (
    connect,
    database_errors,
    load_duckdb,
    memory_error,
    read_only_folder,
    restrict_wal,
)
from mixpanel.data.store.part_files import remove_abandoned

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator
    from types import TracebackType
    from typing import Self

    from duckdb import DuckDBPyConnection

    from mixpanel.data.store.staging import Staging

__all__ = ["Connection"]

# DuckDB shares one instance between all handles of a file in a process, and so its locked settings
# and our folder of parts. Without this lock a handle could open between the first one's connect and
# its lock-down, or while the last one that closes removes the folder.
_open_lock = native_threads.new_lock()
_open_handles: Counter[Path] = Counter()  # by folder of parts


class Connection:
    """An open DuckDB database, in a file or in memory."""

    def __init__(
        self,
        connection: DuckDBPyConnection,
        *,
        path: Path | None,
        parts: Path,
        exchange: Path,
        read_only: bool,
        owns_parts: bool,
    ) -> None:
        self.path: Path | None = path
        self.parts: Path = parts
        self.read_only: bool = read_only
        self._exchange = exchange  # the only folder DuckDB may read and write
        self._connection = connection
        self._owns_parts = owns_parts
        self._lock = native_threads.new_lock()
        self._closed = False
        self._cursors: set[DuckDBPyConnection] = set()  # of running statements
        self._load_cursors: list[DuckDBPyConnection] = []
        self._loads: WeakSet[Staging] = WeakSet()
        # Equal for two handles of one file, different for two databases in memory.
        self._identity: Hashable = object() if path is None else path.resolve()
        _open_handles[parts] += 1

    @classmethod
    def open(
        cls,
        path: Path | str | None = None,
        *,
        read_only: bool = False,
        external_access: bool = False,
        parts: Path | None = None,
        memory_limit: str | int | None = None,
        threads: int | None = None,
    ) -> Self:
        """Open the database at `path`, creating it if needed; None opens one in memory.

        `parts` is the folder of part files, by default the database's path with `.parts` appended;
        SQL cannot access it. `memory_limit` bounds DuckDB's buffers, in bytes or as in "2GB"
        (else `MP_MEMORY_LIMIT`, else half of the memory of the machine or container); statements
        that need more spill to disk. `threads` are those of DuckDB (else `MP_THREADS`, else one for
        each processor and 300 MB of memory). The first handle of a file in a process decides both.

        :raises DatabaseNotFoundError: if `read_only` and the file does not exist.
        :raises DatabaseLockedError: if another process has it open.
        :raises ConfigError: if the file is not a database, or DuckDB is not installed.
        """
        load_duckdb()
        path = None if path is None else Path(path).expanduser().absolute()
        owned = path is None and parts is None
        if parts is not None:
            folder = Path(parts).expanduser().absolute()
        elif path is None:
            folder = make_temporary_folder()
        else:
            folder = read_only_folder() if read_only else path.with_name(path.name + ".parts")
        if read_only:
            remove_abandoned(folder.parent)
        with _open_lock:
            try:
                connection, exchange = connect(
                    path,
                    read_only=read_only,
                    external_access=external_access,
                    parts=folder,
                    memory_limit=memory_limit,
                    threads=threads,
                )
            except BaseException:
                if owned:
                    remove_temporary_folder(folder)
                raise
            database = cls(
                connection,
                path=path,
                parts=folder,
                exchange=exchange,
                read_only=read_only,
                owns_parts=owned,
            )
            try:
                database._prepare()
            except BaseException:
                database._close_locked()
                raise
        return database

    def _prepare(self) -> None:
        make_folder(self.parts)  # DuckDB spills into it, and creates no parents
        if self.read_only:
            return
        with database_errors():
            fetch_log.prepare(self._connection, datetime.now(UTC))
        restrict_wal(self.path)

    def close(self) -> None:
        """Close the database, and remove the folder of parts if it is empty. Idempotent."""
        with _open_lock:
            self._close_locked()

    def _close_locked(self) -> None:
        """Close; the caller holds `_open_lock`."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        for load in tuple(self._loads):
            load.stop()
        # DuckDB keeps the file locked until the last cursor is closed, including cursors of loads
        # that were stopped or never finished.
        for cursor in (*self._load_cursors, self._connection):
            cursor.close()
        _open_handles[self.parts] -= 1
        if self._owns_parts:
            remove_temporary_folder(self.parts)
        elif not _open_handles[self.parts]:
            shutil.rmtree(self._exchange, ignore_errors=True)
            with suppress(OSError):
                self.parts.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def unreadable(self) -> Path:
        """The folder of lines that could not be loaded; temporary for a database in memory."""
        if self.path is None:
            return self.parts / "unreadable"
        return self.path.with_name(self.path.name + ".unreadable")

    @property
    def connection(self) -> DuckDBPyConnection:
        """The DuckDB connection; it may write, and is confined to the same files as SQL."""
        if self._closed:
            raise ConfigError("the database is closed: open it again")
        return self._connection

    def interrupt(self) -> None:
        """End the statements that run in other threads; they raise an error."""
        for cursor in tuple(self._cursors):
            cursor.interrupt()

    @contextmanager
    def _cursor(self) -> Iterator[DuckDBPyConnection]:
        with self._lock:
            cursor = self.connection.cursor()
            self._cursors.add(cursor)
        try:
            yield cursor
        finally:
            self._cursors.discard(cursor)
            cursor.close()
            if not self.read_only:
                restrict_wal(self.path)

    @contextmanager
    def _query_cursor(self) -> Iterator[DuckDBPyConnection]:
        with self._cursor() as cursor:
            try:
                yield cursor
            except load_duckdb().OutOfMemoryException as error:
                raise memory_error(error) from error
            except load_duckdb().Error as error:
                raise SQLError(str(error)) from error

    def _load_cursor(self) -> DuckDBPyConnection:
        if self.read_only:
            raise ConfigError(
                "the database is open read-only: open it with read_only=False to load data"
            )
        with self._lock:
            cursor = self.connection.cursor()
            self._load_cursors.append(cursor)
        return cursor
