"""Open a database, lend out its cursors, and close it."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet

from mixpanel._runtime.private_files import make_folder
from mixpanel._runtime.temporary_folders import make_temporary_folder, remove_temporary_folder
from mixpanel.data.exceptions import ConfigError, SQLError
from mixpanel.data.store import fetch_log
from mixpanel.data.store.engine import (
    MEMORY_LIMIT,
    connect,
    engine,
    keep_private,
    reader_folder,
    reported,
)

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator
    from types import TracebackType
    from typing import Self

    from duckdb import DuckDBPyConnection

    from mixpanel.data.store.staging import Staging

__all__ = ["Connection"]

# Handles of one file share its settings and its folder: they come and go one at a time.
_DOOR = threading.Lock()
_folders: Counter[Path] = Counter()  # how many handles use each


class Connection:
    """One DuckDB file that is open, or one in memory."""

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
        self._exchange = exchange  # the only folder that DuckDB reaches
        self._connection = connection
        self._owns_parts = owns_parts
        self._lock = threading.Lock()
        self._closed = False
        self._loading: list[DuckDBPyConnection] = []
        self._loads: WeakSet[Staging] = WeakSet()
        # What two handles of one file agree in, and two databases in memory do not.
        self._place: Hashable = object() if path is None else path.resolve()
        _folders[parts] += 1

    @classmethod
    def open(
        cls,
        path: Path | str | None = None,
        *,
        read_only: bool = False,
        external_access: bool = False,
        parts: Path | None = None,
        memory_limit: str = MEMORY_LIMIT,
    ) -> Self:
        """Open the database at `path`, made if it is not there; None is one in memory.

        `parts` is the folder of part files, by default beside the file, with `.parts` behind its
        name; SQL reaches none of them. `memory_limit` is what DuckDB may hold; what
        needs more spills to disk.

        :raises DatabaseNotFoundError: when reading only, without a file.
        :raises DatabaseLockedError: when another process has it open.
        :raises ConfigError: when the file is no database, or DuckDB is not installed.
        """
        engine()
        path = None if path is None else Path(path).expanduser().absolute()
        owned = path is None and parts is None
        if parts is not None:
            folder = Path(parts).expanduser().absolute()
        elif path is None:
            folder = make_temporary_folder()
        else:
            folder = reader_folder() if read_only else path.with_name(path.name + ".parts")
        with _DOOR:
            try:
                connection, exchange = connect(
                    path,
                    read_only=read_only,
                    external_access=external_access,
                    parts=folder,
                    memory_limit=memory_limit,
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
                database._shut()
                raise
        return database

    def _prepare(self) -> None:
        if self.read_only:
            return
        make_folder(self.parts)
        with reported():
            fetch_log.prepare(self._connection, datetime.now(UTC))
        keep_private(self.path)

    def close(self) -> None:
        """Close the file, and remove the folder of parts when it is empty; again does nothing."""
        with _DOOR:
            self._shut()

    def _shut(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        for load in tuple(self._loads):
            load.stop()
        # The file stays locked until the last cursor is closed, also that of a load that stopped.
        for cursor in (*self._loading, self._connection):
            cursor.close()
        _folders[self.parts] -= 1
        if self._owns_parts:
            remove_temporary_folder(self.parts)
        elif not _folders[self.parts]:
            shutil.rmtree(self._exchange, ignore_errors=True)
            with suppress(OSError):
                self.parts.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def unreadable(self) -> Path:
        """Where lines of exports are kept that cannot be loaded; in memory they go at the end."""
        if self.path is None:
            return self.parts / "unreadable"
        return self.path.with_name(self.path.name + ".unreadable")

    @property
    def connection(self) -> DuckDBPyConnection:
        """DuckDB's own connection: it may write, but reaches no more files than SQL does."""
        if self._closed:
            raise ConfigError("this database is closed: open it again")
        return self._connection

    @contextmanager
    def _cursor(self) -> Iterator[DuckDBPyConnection]:
        with self._lock:
            cursor = self.connection.cursor()
        try:
            yield cursor
        finally:
            cursor.close()
            if not self.read_only:
                keep_private(self.path)

    @contextmanager
    def _asking(self) -> Iterator[DuckDBPyConnection]:
        with self._cursor() as cursor:
            try:
                yield cursor
            except engine().Error as error:
                raise SQLError(str(error)) from error

    def _loader(self) -> DuckDBPyConnection:
        if self.read_only:
            raise ConfigError("this database was opened for reading only")
        with self._lock:
            cursor = self.connection.cursor()
            self._loading.append(cursor)
        return cursor
