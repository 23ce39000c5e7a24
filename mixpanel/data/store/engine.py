"""Open DuckDB so that SQL cannot leave it, and say in our words why it cannot be opened."""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import contextmanager, suppress
from functools import cache
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import uuid4

from mixpanel._runtime.private_files import make_folder, restrict
from mixpanel.data.exceptions import (
    ConfigError,
    DatabaseLockedError,
    DatabaseNotFoundError,
    MixpanelDataError,
)
from mixpanel.data.store.part_files import scratch_name
from mixpanel.data.store.quoting import literal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    import duckdb

__all__ = [
    "MEMORY_LIMIT",
    "connect",
    "count",
    "engine",
    "first_line",
    "is_content",
    "keep_private",
    "quieten",
    "reader_folder",
    "reported",
    "transaction",
]

MEMORY = ":memory:"
OLDEST = (1, 4, 4)  # before that, /./../ leads out of the allowed folders
# DuckDB counts its own buffers only: readers and Python come on top of it.
MEMORY_LIMIT = "500MB"
# Nobody else may know where a reader's files will be; all readers of this process share them.
_SECRET = uuid4().hex
_PID = re.compile(r"\(PID (\d+)\)")


def engine() -> ModuleType:
    """Return DuckDB, loaded when first needed.

    :raises ConfigError: when it is not installed, or too old to confine SQL to the database.
    """
    try:
        import duckdb
    except ModuleNotFoundError as error:
        raise ConfigError("this needs: pip install 'mixpanel-async[data]'") from error
    if _numbers(duckdb.__version__) < OLDEST:
        raise ConfigError(
            f"DuckDB {duckdb.__version__} is too old: its SQL can read any file of this machine. "
            "Upgrade it: pip install 'duckdb>=1.4.4'"
        )
    return duckdb


@cache
def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(each) for each in re.findall(r"\d+", version)[:3])


def connect(
    path: Path | None, *, read_only: bool, external_access: bool, parts: Path, memory_limit: str
) -> tuple[duckdb.DuckDBPyConnection, Path]:
    """Open a database, and return it with the only folder through which it exchanges files.

    That folder, inside `parts`, has a random name and holds a file only while it is loaded or
    exported: DuckDB has one set of allowed folders for our statements and those of users.

    :raises DatabaseNotFoundError: when reading only, without a file.
    :raises DatabaseLockedError: when another process has it open.
    :raises ConfigError: when the file is no database, or cannot be opened.
    """
    library = engine()
    if read_only and (path is None or not path.exists()):
        raise DatabaseNotFoundError(path or MEMORY)
    if path is not None and "?" in path.as_posix().removeprefix("//?/"):
        raise ConfigError(f"{path} has a ? in it, where DuckDB keeps no database")
    if path is not None and not read_only:
        make_folder(path.parent)
    made = path is not None and not path.exists()
    config: dict[str, Any] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "memory_limit": memory_limit,
        "temp_directory": str(parts / scratch_name("spill")),
        "python_enable_replacements": False,
    }
    try:
        connection: duckdb.DuckDBPyConnection = library.connect(
            str(path or MEMORY), read_only=read_only, config=config
        )
        if made and path is not None:
            restrict(path.resolve(), 0o600)
    except (library.Error, OSError) as error:
        _refuse(path or Path(MEMORY), error)
    try:
        exchange = _confine(connection, external_access=external_access, parts=parts)
    except BaseException:
        connection.close()
        raise
    return connection, exchange


@contextmanager
def reported() -> Iterator[None]:
    """Turn what DuckDB says while it works for us into an error of ours."""
    try:
        yield
    except engine().Error as error:
        raise MixpanelDataError(f"the database says: {first_line(error)}") from error


def is_content(error: Exception) -> bool:
    """Return True if what is loaded is to blame for an error, and not the disk or the database."""
    library = engine()
    own = (
        library.IOException,
        library.FatalException,
        library.ConnectionException,
        library.TransactionException,
        library.InterruptException,
        library.PermissionException,
    )
    return not isinstance(error, own)


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
    row = connection.execute(
        "SELECT path FROM duckdb_databases() WHERE database_name = current_database()"
    ).fetchone()
    keep_private(Path(row[0]) if row and row[0] else None)


def keep_private(path: Path | None) -> None:
    """Let nobody read what waits to be written into a database but who may read the database."""
    if path is not None:
        with suppress(OSError):  # it comes and goes
            restrict(path.with_name(path.name + ".wal"), path.stat().st_mode & 0o777)


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


def _confine(connection: duckdb.DuckDBPyConnection, *, external_access: bool, parts: Path) -> Path:
    # A second connection of this process to the same file finds the settings locked already.
    query = "SELECT current_setting('lock_configuration'), current_setting('allowed_directories')"
    locked, allowed = connection.execute(query).fetchone() or (False, [])
    if locked:
        for folder in map(Path, allowed):
            if folder.parent == parts and folder.name.startswith("load-"):
                return folder
        raise ConfigError(f"this database is open here already, with its parts in {allowed}")
    quieten(connection)
    exchange = parts / scratch_name("load", uuid4().hex)
    if not external_access:
        # Files are named with their glob characters escaped, and DuckDB looks at names as they are.
        folders = {f"{exchange}{os.sep}", escape(f"{exchange}{os.sep}")}
        listed = ", ".join(map(literal, sorted(folders)))
        connection.execute(f"SET allowed_directories = [{listed}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
    return exchange


def quieten(connection: duckdb.DuckDBPyConnection) -> None:
    """Turn off DuckDB's progress bar, which goes to stdout, among the data.

    In a notebook without ipywidgets it is off, and DuckDB refuses every word about it.
    """
    shown = connection.execute("SELECT current_setting('enable_progress_bar')").fetchone()
    if shown == (True,):
        connection.execute("SET enable_progress_bar = false")


def _refuse(path: Path, error: Exception) -> NoReturn:
    said = str(error)
    if "Could not set lock" in said or "Conflicting lock" in said or "being used by" in said:
        holder = _PID.search(said)
        raise DatabaseLockedError(path, int(holder[1]) if holder else None) from error
    if "different configuration" in said:
        raise DatabaseLockedError(path, os.getpid()) from error
    raise ConfigError(f"{path} cannot be opened: {first_line(error)}") from error
