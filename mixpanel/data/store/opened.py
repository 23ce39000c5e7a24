"""Open a database, lend out its cursors, and close it."""

from __future__ import annotations

import shutil
import tempfile
import threading
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mixpanel.data.exceptions import ConfigError, SQLError
from mixpanel.data.store import ledger
from mixpanel.data.store.engine import MEMORY_LIMIT, connect, engine, reader_folder, reported

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    from duckdb import DuckDBPyConnection

__all__ = ["Opened"]


class Opened:
    """One DuckDB file that is open, or one in memory."""

    def __init__(
        self,
        connection: DuckDBPyConnection,
        *,
        path: Path | None,
        parts: Path,
        read_only: bool,
        owns_parts: bool,
    ) -> None:
        self.path, self.parts, self.read_only = path, parts, read_only
        self._connection = connection
        self._owns_parts = owns_parts
        self._lock = threading.Lock()
        self._closed = False
        self._loading: list[DuckDBPyConnection] = []

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

        `parts` is the folder of part files, the only one that SQL may read and write: by default
        beside the file, with `.parts` behind its name. `memory_limit` is what DuckDB may hold; what
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
            folder = Path(tempfile.mkdtemp(prefix="mixpanel-"))
        else:
            folder = reader_folder() if read_only else path.with_name(path.name + ".parts")
        try:
            connection = connect(
                path,
                read_only=read_only,
                external_access=external_access,
                parts=folder,
                memory_limit=memory_limit,
            )
        except BaseException:
            if owned:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        database = cls(connection, path=path, parts=folder, read_only=read_only, owns_parts=owned)
        if not read_only:
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                with reported():
                    ledger.prepare(connection, datetime.now(UTC))
            except BaseException:
                database.close()
                raise
        return database

    def close(self) -> None:
        """Close the file, and remove the folder of parts when it is empty; again does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        # The file stays locked until the last cursor is closed, also that of a load that stopped.
        for cursor in (*self._loading, self._connection):
            cursor.close()
        if self._owns_parts:
            shutil.rmtree(self.parts, ignore_errors=True)
        else:
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

    @contextmanager
    def _asking(self) -> Iterator[DuckDBPyConnection]:
        with self._cursor() as cursor:
            try:
                yield cursor
            except engine().Error as error:
                raise SQLError(str(error)) from error

    def _loader(self) -> DuckDBPyConnection:
        with self._lock:
            cursor = self.connection.cursor()
            self._loading.append(cursor)
        return cursor
