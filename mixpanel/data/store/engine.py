"""Open DuckDB so that SQL cannot leave it, and say in our words why it cannot be opened."""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import uuid4

from mixpanel.data.exceptions import (
    ConfigError,
    DatabaseLockedError,
    DatabaseNotFoundError,
    MixpanelDataError,
)
from mixpanel.data.store.names import literal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    import duckdb

MEMORY = ":memory:"
# DuckDB counts its own buffers only: readers and Python come on top of it.
MEMORY_LIMIT = "500MB"
# Nobody else may know where a reader's files will be; all readers of this process share them.
_SECRET = uuid4().hex
_PID = re.compile(r"\(PID (\d+)\)")


def engine() -> ModuleType:
    """Return DuckDB, loaded when first needed.

    :raises ConfigError: when it is not installed.
    """
    try:
        import duckdb
    except ModuleNotFoundError as error:
        raise ConfigError("this needs: pip install 'mixpanel-async[data]'") from error
    return duckdb


def connect(
    path: Path | None, *, read_only: bool, external_access: bool, parts: Path, memory_limit: str
) -> duckdb.DuckDBPyConnection:
    """Open a database of which SQL reaches no file but those in `parts`.

    :raises DatabaseNotFoundError: when reading only, without a file.
    :raises DatabaseLockedError: when another process has it open.
    :raises ConfigError: when the file is no database, or cannot be opened.
    """
    library = engine()
    if read_only and (path is None or not path.exists()):
        raise DatabaseNotFoundError(path or MEMORY)
    if path is not None and not read_only:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    config: dict[str, Any] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "memory_limit": memory_limit,
        "temp_directory": str(parts / f"spill-{os.getpid()}"),
        "python_enable_replacements": False,
    }
    try:
        connection: duckdb.DuckDBPyConnection = library.connect(
            str(path or MEMORY), read_only=read_only, config=config
        )
    except (library.Error, OSError) as error:
        _refuse(path or Path(MEMORY), error)
    try:
        _close_doors(connection, external_access=external_access, parts=parts)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def reported() -> Iterator[None]:
    """Turn what DuckDB says while it works for us into an error of ours."""
    try:
        yield
    except engine().Error as error:
        raise MixpanelDataError(f"the database says: {first_line(error)}") from error


@contextmanager
def transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Commit all of it, or nothing."""
    connection.execute("BEGIN TRANSACTION")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # A statement that failed may have ended the transaction itself.
        with suppress(engine().Error):
            connection.execute("ROLLBACK")
        raise


def count(connection: duckdb.DuckDBPyConnection, source: str) -> int:
    """Count the rows of a quoted table."""
    row = connection.execute(f"SELECT count(*) FROM {source}").fetchone()  # noqa: S608
    return int(row[0]) if row else 0


def first_line(error: Exception) -> str:
    """Return the first line of what DuckDB says, without its kind in front."""
    line = str(error).splitlines()[0] if str(error) else type(error).__name__
    return line.partition("Error: ")[2] or line


def reader_folder() -> Path:
    """Return where those who only read may put files: they may not write beside the database."""
    return Path(tempfile.gettempdir(), f"mixpanel-{os.getpid()}-{_SECRET}")


def _close_doors(
    connection: duckdb.DuckDBPyConnection, *, external_access: bool, parts: Path
) -> None:
    # A second connection of this process to the same file finds them closed already.
    query = "SELECT current_setting('lock_configuration'), current_setting('allowed_directories')"
    locked, allowed = connection.execute(query).fetchone() or (False, [])
    folder = f"{parts}{os.sep}"
    if locked:
        if folder not in allowed:
            raise ConfigError(f"this database is open here already, with its parts in {allowed}")
        return
    connection.execute("SET enable_progress_bar = false")
    if not external_access:
        connection.execute(f"SET allowed_directories = [{literal(folder)}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")


def _refuse(path: Path, error: Exception) -> NoReturn:
    said = str(error)
    if "Could not set lock" in said or "Conflicting lock" in said or "being used by" in said:
        holder = _PID.search(said)
        raise DatabaseLockedError(path, int(holder[1]) if holder else None) from error
    if "different configuration" in said:
        raise DatabaseLockedError(path, os.getpid()) from error
    raise ConfigError(f"{path} cannot be opened: {first_line(error)}") from error
