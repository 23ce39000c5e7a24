"""Open a DuckDB database, hand out cursors, and close it.

The file is open only while something uses it, and a moment longer, so that other processes can open
it in between: DuckDB lets one process write, or several read.
"""

from __future__ import annotations

import atexit
import os
import shutil
import time
from collections import Counter
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from weakref import WeakSet

from mixpanel._runtime import fork, native_threads
from mixpanel._runtime.private_files import make_folder
from mixpanel._runtime.temporary_folders import make_temporary_folder, remove_temporary_folder
from mixpanel.data.exceptions import ConfigError, DatabaseLockedError, SQLError
from mixpanel.data.store import fetch_log
from mixpanel.data.store.attachments import Attachments
from mixpanel.data.store.engine import (
    OPEN_READ_ONLY,
    connect,
    database_errors,
    load_duckdb,
    memory_error,
    read_only_database,
    read_only_folder,
    restrict_wal,
)
from mixpanel.data.store.part_files import remove_abandoned, unreadable_folder
from mixpanel.data.store.quoting import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping
    from types import TracebackType
    from typing import Self

    from duckdb import DuckDBPyConnection

    from mixpanel.data.store.attachments import Lookup

    class _Load(Protocol):
        def stop(self) -> None: ...


__all__ = ["Connection"]

LINGER = 0.2  # seconds an unused file stays open: opening it takes longer than many a statement
MAX_HOLD = 1.0  # seconds; a file open for longer is closed as soon as it is unused
TURN = 0.05  # seconds for which it then stays closed, so that a waiting process can open it
LOCK_TIMEOUT = 3.0  # seconds to wait for another process to close the file
RETRY_EVERY = 0.01  # seconds between two attempts to open it

# DuckDB shares one instance between all handles of a file in a process, and so its locked settings
# and our folder of parts. Without this lock a handle could open between the first one's connect and
# its lock-down, or while the last one that closes removes the folder.
_open_lock = native_threads.new_lock()
_open_handles: Counter[Path] = Counter()  # by folder of parts
_connected_handles: Counter[Path] = Counter()  # those whose file is open, likewise
# Files that are open, as the database of a handle and as attached by one. DuckDB 1 would open one
# file in both ways, and closing it in one way would release the lock of the other.
_connected_files: Counter[Path] = Counter()
_attached_files: Counter[Path] = Counter()
_connections: WeakSet[Connection] = WeakSet()
_at_exit = False


class Connection:
    """A DuckDB database, in a file or in memory.

    A file is closed while nothing uses it, unless `connection` was handed out or SQL has external
    access, since what it attaches or loads would be lost.
    """

    def __init__(
        self,
        connect_to: Callable[..., tuple[DuckDBPyConnection, Path]],
        *,
        path: Path | None,
        parts: Path,
        read_only: bool,
        stays_open: bool,
        owns_parts: bool,
        project_id: str | None,
    ) -> None:
        self.path: Path | None = path
        self.parts: Path = parts
        self.read_only: bool = read_only
        self._connect_to = connect_to
        self._project_id = project_id
        self._exchange = parts  # the only folder DuckDB may read and write; set with each connect
        self._connection: DuckDBPyConnection | None = None
        self._only_reads = False  # the connection is read-only, although this database is not
        self._owns_parts = owns_parts
        self._attachments = Attachments()
        self._connected_paths: list[tuple[Counter[Path], Path]] = []
        self._lock = native_threads.new_lock()
        self._tables_lock = native_threads.new_lock()  # one thread replaces tables at a time
        self._closed = False
        self._cursors: set[DuckDBPyConnection] = set()  # of running statements
        self._uses = 0
        self._stays_open = stays_open
        self._connected_at = self._unused_since = self._closed_until = 0.0
        self._prepared: tuple[int, int] | None = None  # device and inode of the file
        self._closer_runs = False
        self._closer_sleep = native_threads.new_lock()
        self._closer_sleep.acquire()
        self._load_cursors: list[DuckDBPyConnection] = []
        self._loads: WeakSet[_Load] = WeakSet()
        # Equal for two handles of one file, different for two databases in memory.
        self._identity: Hashable = object() if path is None else path.resolve()
        with _open_lock:
            _connections.add(self)

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
        project_id: str | None = None,
    ) -> Self:
        """Open the database at `path`, creating it if needed; None opens one in memory.

        `parts` is the folder of part files, by default the database's path with `.parts` appended;
        SQL cannot access it. `memory_limit` bounds DuckDB's buffers, in bytes or as in "2GB"
        (else `MP_MEMORY_LIMIT`, else half of the memory of the machine or container); statements
        that need more spill to disk. `threads` are those of DuckDB (else `MP_THREADS`, else one for
        each processor and 300 MB of memory). The first handle of a file in a process decides both.

        The file is closed between statements, and opened again by the next one. A statement waits
        for up to three seconds while another process writes to it; one that writes, also while
        another process reads it.

        `project_id` is the project whose data is fetched into it: a file has the data of one.

        :raises DatabaseNotFoundError: if `read_only` and the file does not exist.
        :raises DatabaseLockedError: if another process has it open.
        :raises ConfigError: if the file is not a database or has another project's data, or DuckDB
            is not installed.
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
        connect_to = partial(
            connect,
            path,
            read_only=read_only,
            external_access=external_access,
            parts=folder,
            memory_limit=memory_limit,
            threads=threads,
        )
        database = cls(
            connect_to,
            path=path,
            parts=folder,
            read_only=read_only,
            stays_open=path is None or external_access,
            owns_parts=owned,
            project_id=project_id,
        )
        with _open_lock:
            _open_handles[folder] += 1
        try:
            database._acquire(writes=False)
        except BaseException:
            database.close()
            raise
        database._release()
        return database

    # ---- the file -------------------------------------------------------------------------------

    def _acquire(self, *, writes: bool = True) -> DuckDBPyConnection:
        """Return the connection, which stays open until `_release`.

        While another process has the file open to read, it is opened read-only, unless `writes`.

        :raises ConfigError: if the database is closed, or the file cannot be opened.
        :raises DatabaseLockedError: if another process has the file open.
        """
        end = time.monotonic() + LOCK_TIMEOUT
        while True:
            if (connection := self._acquire_if_connected(writes=writes)) is not None:
                return connection
            if (wait := self._closed_until - time.monotonic()) > 0:
                time.sleep(wait)
            try:
                with _open_lock:
                    # Another thread may have connected meanwhile. This is a use, too: to look again
                    # without returning it would count it twice, and the file would stay open.
                    if (connection := self._acquire_if_connected(writes=writes)) is not None:
                        return connection
                    self._connect_to_use(writes=writes)
            except DatabaseLockedError:
                if time.monotonic() > end:
                    raise
                time.sleep(RETRY_EVERY)

    def _acquire_if_connected(self, *, writes: bool) -> DuckDBPyConnection | None:
        with self._lock:
            if self._closed:
                raise ConfigError("the database is closed: open it again")
            if self._connection is None or (writes and self._only_reads):
                return None
            self._uses += 1
            return self._connection

    def _connect_to_use(self, *, writes: bool) -> None:
        """Open the file, which is closed or open to read; the caller holds `_open_lock`."""
        with self._lock:
            if self._connection is not None:
                if self._uses:
                    raise DatabaseLockedError(self.path or Path(), os.getpid())
                self._disconnect()
        try:
            self._connect()
        except DatabaseLockedError:
            if writes or self.read_only or self.path is None:
                raise
            self._connect(only_reads=True)

    def _connect(self, *, only_reads: bool = False) -> None:
        """Open the file; the caller holds `_open_lock`."""
        attached = self._attachments.paths()
        connected = self._paths(attached)
        mode = {"read_only": True} if only_reads else {}
        is_open = self.path is not None and _connected_files[self.path.resolve()] > 0
        connection, self._exchange = self._connect_to(attached=attached, is_open=is_open, **mode)
        try:
            make_folder(self.parts)  # DuckDB spills into it, and creates no parents
            self._prepare(connection, read_only=only_reads or self.read_only)
            self._attachments.attach_copies(connection, self._exchange)
        except BaseException:
            connection.close()
            self._remove_exchange()
            raise
        _connected_handles[self.parts] += 1
        for files, path in connected:
            files[path] += 1
        self._connected_paths = connected
        self._connected_at = self._unused_since = time.monotonic()
        self._connection, self._only_reads = connection, only_reads

    def _paths(self, attached: Mapping[str, Path]) -> list[tuple[Counter[Path], Path]]:
        """Return the files that will be open, each with the counter of its use.

        :raises DatabaseLockedError: if one is open in this process for another use.
        """
        own = [] if self.path is None else [(_connected_files, self.path.resolve())]
        others = [(_attached_files, path.resolve()) for path in attached.values()]
        for used, paths in ((_attached_files, own), (_connected_files, others)):
            for _, path in paths:
                if used[path]:
                    raise DatabaseLockedError(path, os.getpid())
        return own + others

    def _prepare(self, connection: DuckDBPyConnection, *, read_only: bool) -> None:
        found = None
        if self.path is not None:
            status = self.path.stat()
            found = (status.st_dev, status.st_ino)
        if found is None or found != self._prepared:
            with database_errors():
                if not read_only:
                    fetch_log.prepare(connection, datetime.now(UTC))
                self._check_project(fetch_log.project_id(connection))
        if not read_only:
            restrict_wal(self.path)
        if not read_only or self.read_only:
            self._prepared = found

    def _check_project(self, found: str | None) -> None:
        if found is not None and self._project_id not in (None, found):
            raise ConfigError(
                f"{self.path} has data of the project {found}, not of {self._project_id}: use one "
                "file for each project, and attach the other one to join them"
            )

    def _record_project(self, cursor: DuckDBPyConnection) -> None:
        """Record the project of a load, so that the data of another one is not mixed into it."""
        if self._project_id is not None:
            with database_errors():
                fetch_log.record_project_id(cursor, self._project_id)
                self._check_project(fetch_log.project_id(cursor))

    def _release(self) -> None:
        """End a use of the connection, and let the file be closed if it was the last one."""
        with self._lock:
            self._uses -= 1
            if self._uses or self._stays_open or self._connection is None:
                return
            self._unused_since = time.monotonic()
            at_once = _at_exit or self._unused_since - self._connected_at > MAX_HOLD
            starts_closer = not at_once and not self._closer_runs
            self._closer_runs = self._closer_runs or starts_closer
        if starts_closer:
            try:
                native_threads.start_thread(self._close_unused, "mixpanel-database")
            except RuntimeError:  # no thread can start at the end of the interpreter
                self._closer_runs, at_once = False, True
        if at_once:
            self._disconnect_if_unused(time.monotonic())
            self._closed_until = time.monotonic() + TURN

    def _close_unused(self) -> None:
        """Close the file when it was unused for a moment; the body of a thread."""
        while True:
            with self._lock:
                wait = self._unused_since + LINGER - time.monotonic()
                if self._closed or self._uses or self._connection is None or wait <= 0:
                    self._closer_runs = False  # the next release starts another
                    break
            self._closer_sleep.acquire(timeout=wait)
        self._disconnect_if_unused(time.monotonic() - LINGER)

    def _disconnect_if_unused(self, since: float) -> None:
        with _open_lock, self._lock:
            if not (self._uses or self._stays_open) and self._unused_since <= since:
                self._disconnect()

    def _disconnect(self) -> None:
        """Close the file; the caller holds both locks."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if _connected_handles[self.parts] > 1:  # the others would keep the copies of files open
            for lookup in self._attachments.lookups.values():
                with suppress(load_duckdb().Error):
                    connection.execute(f"DETACH {quoted(lookup.alias)}")
        connection.close()
        _connected_handles[self.parts] -= 1
        for files, path in self._connected_paths:
            files[path] -= 1
        self._connected_paths = []
        self._remove_exchange()

    @contextmanager
    def _disconnected(self) -> Iterator[None]:
        """Close the file for the block, when no statement uses it; the next one opens it again.

        :raises ConfigError: if the file has to stay open, or statements keep running.
        """
        end = time.monotonic() + LOCK_TIMEOUT
        while True:
            with _open_lock, self._lock:
                if self._closed:
                    raise ConfigError("the database is closed: open it again")
                if self._stays_open:
                    raise ConfigError(
                        "a database in memory, or one whose `connection` was used, has to stay "
                        "open: attach other databases before, to a workspace with a file"
                    )
                if not self._uses:
                    self._disconnect()
                    yield
                    return
            if time.monotonic() > end:
                raise ConfigError("statements are running: attach other databases after them")
            time.sleep(RETRY_EVERY)

    def _remove_exchange(self) -> None:
        if not self._owns_parts and not _connected_handles[self.parts]:
            shutil.rmtree(self._exchange, ignore_errors=True)

    def close(self) -> None:
        """Close the database, and remove the folder of parts if it is empty. Idempotent."""
        with _open_lock:
            with self._lock:
                if self._closed:
                    return
                self._closed = True
            for load in tuple(self._loads):
                load.stop()
            # DuckDB keeps the file locked until the last cursor is closed, including those of loads
            # that were stopped.
            for cursor in self._load_cursors:
                cursor.close()
            with self._lock:
                self._disconnect()
                if self._closer_runs:
                    self._closer_sleep.release()
            _open_handles[self.parts] -= 1
            for lookup in self._attachments.lookups.values():
                shutil.rmtree(lookup.copy.parent, ignore_errors=True)
            if self._owns_parts:
                remove_temporary_folder(self.parts)
            elif not _open_handles[self.parts]:
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
        return unreadable_folder(self.path)

    @property
    def connection(self) -> DuckDBPyConnection:
        """The DuckDB connection; it may write, and is confined to the same files as SQL.

        From then on the file stays open until `close`.
        """
        self._stays_open = True
        connection = self._acquire()
        self._release()
        return connection

    def interrupt(self) -> None:
        """End the statements that run in other threads; they raise an error."""
        for cursor in tuple(self._cursors):
            cursor.interrupt()

    @contextmanager
    def _cursor(
        self, *, with_files: bool = True, writes: bool = True
    ) -> Iterator[DuckDBPyConnection]:
        """Yield a cursor for a statement; `with_files`, it has the views of attached files."""
        connection = self._acquire(writes=writes)
        try:
            with self._lock:
                cursor = connection.cursor()
            try:
                with self._interruptible(cursor):
                    if with_files:
                        self._attachments.define_views(cursor)
                    yield cursor
            finally:
                cursor.close()
                if not self.read_only:
                    restrict_wal(self.path)
        finally:
            self._release()

    @contextmanager
    def _interruptible(self, connection: DuckDBPyConnection) -> Iterator[None]:
        """Let `interrupt` end the statements of a connection while the block runs."""
        self._cursors.add(connection)
        try:
            yield
        finally:
            self._cursors.discard(connection)

    def _add_lookup(self, lookup: Lookup) -> None:
        """Attach the copy of a file to the open connection, and whenever it is opened again."""
        with self._lock:
            assert self._connection is not None, "call it while a cursor is open"
            self._attachments.lookups[lookup.name.lower()] = lookup
            self._attachments.attach_copies(self._connection, self._exchange)

    def _remove_lookup(self, cursor: DuckDBPyConnection, lookup: Lookup) -> None:
        """Detach the copy of a file, and remove it."""
        with self._lock:
            del self._attachments.lookups[lookup.name.lower()]
            assert self._connection is not None, "call it while a cursor is open"
            self._connection.execute(f"DROP VIEW IF EXISTS temp.{quoted(lookup.name)}")
        cursor.execute(f"DETACH DATABASE IF EXISTS {quoted(lookup.alias)}")
        shutil.rmtree(lookup.copy.parent, ignore_errors=True)

    @contextmanager
    def _query_cursor(self, *, writes: bool = True) -> Iterator[DuckDBPyConnection]:
        with self._cursor(with_files=False, writes=writes) as cursor:
            try:
                yield cursor
            except load_duckdb().OutOfMemoryException as error:
                raise memory_error(error) from error
            except load_duckdb().Error as error:
                if read_only_database(error) is not None:
                    raise ConfigError(OPEN_READ_ONLY) from error
                raise SQLError(str(error)) from error

    @contextmanager
    def _load_cursor(self) -> Iterator[DuckDBPyConnection]:
        """Yield a cursor for a step of a load; closing the database closes it."""
        if self.read_only:
            raise ConfigError(
                "the database is open read-only: open it with read_only=False to load data"
            )
        with self._cursor(with_files=False) as cursor:
            self._load_cursors.append(cursor)
            try:
                yield cursor
            finally:
                self._load_cursors.remove(cursor)


def _close_at_exit() -> None:
    """Close the files that nothing uses, before the interpreter ends.

    A thread that is within DuckDB then, to close one, would abort the process when it returns.
    """
    global _at_exit
    _at_exit = True
    with _open_lock:
        for connection in [*_connections]:
            with connection._lock:
                if not (connection._uses or connection._stays_open):
                    connection._disconnect()


def _after_fork() -> None:
    """Leave the files to the parent: DuckDB would wait for threads that only the parent has."""
    global _open_lock
    _open_lock = native_threads.new_lock()
    _connections.clear()


atexit.register(_close_at_exit)
fork.register(fork.Order.LOCKS, after_in_child=_after_fork)
