"""Open DuckDB confined to its own database, and translate its errors."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import uuid4

from mixpanel._runtime.private_files import make_folder, restrict
from mixpanel.data.exceptions import (
    ConfigError,
    DatabaseLockedError,
    DatabaseNotFoundError,
    MemoryLimitError,
    MixpanelDataError,
)
from mixpanel.data.store import resources
from mixpanel.data.store.part_files import scratch_name
from mixpanel.data.store.quoting import literal, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from types import ModuleType

    import duckdb

__all__ = [
    "CONFLICT",
    "OPEN_READ_ONLY",
    "STORAGE_VERSION",
    "attach",
    "connect",
    "count",
    "database_errors",
    "disable_progress_bar",
    "error_message",
    "file_state",
    "is_conflict",
    "is_data_error",
    "load_duckdb",
    "memory_error",
    "read_only_database",
    "read_only_folder",
    "restrict_wal",
    "transaction",
]

MEMORY = ":memory:"
MINIMUM_VERSION = (1, 4, 4)  # older ones let /./../ escape from the allowed directories
# Of new files, so that each DuckDB from the minimum on opens them; 2.0 has a format of its own.
STORAGE_VERSION = f"v{MINIMUM_VERSION[0]}.{MINIMUM_VERSION[1]}.0"
# What ibis sets on `connection`; neither gives access to files, and SQL cannot set anything.
UNLOCKED = ("TimeZone", "python_enable_replacements")
# Unguessable, because the folder lies in the shared temporary directory. One per process, so that
# all read-only handles of a file agree on DuckDB's locked settings.
_RANDOM_SUFFIX = uuid4().hex
_USED = re.compile(r"\([\d.]+ \w+/(?P<limit>[\d.]+ \w+) used\)")
SPILL_SHARE = 0.9
OPEN_READ_ONLY = "the database is open read-only: open it with read_only=False to change it"
CONFLICT = (
    "another statement changed the same rows or tables at the same time, so this one changed "
    "nothing; run it again"
)
_READ_ONLY = re.compile(r'on database "(.*)" which is attached in read-only mode')
_PID = re.compile(r"\(PID (\d+)\)")


def load_duckdb() -> ModuleType:
    """Return the DuckDB module, imported on first use.

    :raises ConfigError: if it is not installed, or too old to confine SQL to the database.
    """
    try:
        import duckdb
    except ModuleNotFoundError as error:
        raise ConfigError("DuckDB is not installed: pip install 'mixpanel-async[data]'") from error
    if resources.version_tuple(duckdb.__version__) < MINIMUM_VERSION:
        raise ConfigError(
            f"DuckDB {duckdb.__version__} is too old: its SQL can read any file of this machine. "
            "Upgrade it: pip install 'duckdb>=1.4.4'"
        )
    return duckdb


def connect(
    path: Path | None,
    *,
    read_only: bool,
    external_access: bool,
    parts: Path,
    memory_limit: str | int | None,
    threads: int | None,
    attached: Mapping[str, Path],
    is_open: bool,
) -> tuple[duckdb.DuckDBPyConnection, Path]:
    """Open a database; return the connection and the only folder it may read and write.

    That folder, inside `parts`, has a random name and holds files only while they are loaded or
    exported, because DuckDB has one set of allowed directories for our statements and the user's.
    `attached` are the files of other databases, by name in SQL, which can be read. `is_open` is
    True if this process has the file open already.

    :raises DatabaseNotFoundError: if `read_only` and the file does not exist.
    :raises DatabaseLockedError: if another process has it open, or one of those attached, or has
        written to one meanwhile.
    :raises ConfigError: if the file is not a database, or cannot be opened.
    """
    duckdb_module = load_duckdb()
    if read_only and (path is None or not path.exists()):
        raise DatabaseNotFoundError(path or MEMORY)
    if path is not None and "?" in path.as_posix().removeprefix("//?/"):
        raise ConfigError(
            f"{path} contains a ?, which DuckDB reads as the start of options: choose another path"
        )
    if path is not None and not read_only:
        make_folder(path.parent)
    is_new = path is not None and not path.exists()
    memory = resources.memory_limit(memory_limit)
    # Set below instead of here: DuckDB refuses a second handle whose configuration differs.
    sizes: dict[str, int | str] = {
        "memory_limit": f"{memory}B",
        "threads": resources.threads(threads, memory=memory),
        "max_temp_directory_size": f"{_spill_bytes(parts)}B",
    }
    config: dict[str, Any] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "temp_directory": str(parts / scratch_name("spill")),
        "python_enable_replacements": False,
        "storage_compatibility_version": STORAGE_VERSION,
    }
    files = [*attached.values()]
    if path is not None and not is_new and not is_open:
        files.append(path)
    before = [*map(file_state, files)]
    try:
        connection: duckdb.DuckDBPyConnection = duckdb_module.connect(
            str(path or MEMORY), read_only=read_only, config=config
        )
        if is_new and path is not None:
            restrict(path.resolve(), 0o600)
    except (duckdb_module.Error, OSError) as error:
        _raise_open_error(path or Path(MEMORY), error)
    try:
        exchange = _lock_down(
            connection,
            path,
            external_access=external_access,
            parts=parts,
            sizes=sizes,
            attached=attached,
        )
        _require_unwritten(files, before)
    except BaseException:
        connection.close()
        raise
    return connection, exchange


def _require_unwritten(files: Iterable[Path], before: Iterable[object]) -> None:
    for file, state in zip(files, before, strict=True):
        if state != file_state(file):
            raise DatabaseLockedError(file)


def file_state(path: Path) -> tuple[object, ...]:
    """Return the size and time of a database file and of its log, one of which a writer changes.

    DuckDB 2.0 reads the header of a file before it locks it. If in between another process moves
    its log into the file and closes it, what that process wrote last seems to be missing, and would
    be lost if this process wrote, too.
    """
    states: list[object] = []
    for file in (path, path.with_name(path.name + ".wal")):
        with suppress(OSError):
            status = file.stat()
            states += [file.name, status.st_mtime_ns, status.st_size]
    return tuple(states)


def _spill_bytes(parts: Path) -> int:
    """Return how much may be spilled to disk: most of what is free, so that some stays free."""
    folder = parts
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return int(shutil.disk_usage(folder).free * SPILL_SHARE)


@contextmanager
def database_errors() -> Iterator[None]:
    """Turn DuckDB errors of our own statements into `MixpanelDataError`."""
    try:
        yield
    except load_duckdb().OutOfMemoryException as error:
        raise memory_error(error) from error
    except load_duckdb().Error as error:
        if read_only_database(error) is not None:
            raise ConfigError(OPEN_READ_ONLY) from error
        if is_conflict(error):
            raise MixpanelDataError(f"{error_message(error)}: {CONFLICT}") from error
        raise MixpanelDataError(f"database error: {error_message(error)}") from error


def memory_error(error: Exception) -> MemoryLimitError:
    """Return the error for a statement that needs more memory than its limit."""
    if "max_temp_directory_size" in str(error):
        return MemoryLimitError(
            "the statement needs more memory than its limit, and more disk than is free to spill "
            "to: free some space on the disk of the database, or allow more memory with "
            "memory_limit='8GB' (in a shell MP_MEMORY_LIMIT=8GB)"
        )
    used = _USED.search(str(error))
    limit = f" of {used['limit']}" if used else ""
    return MemoryLimitError(
        f"the statement needs more memory than the limit{limit}: allow more with "
        "memory_limit='8GB', or use fewer threads with threads=1 (in a shell MP_MEMORY_LIMIT=8GB "
        "and MP_THREADS=1)"
    )


def is_conflict(error: Exception) -> bool:
    """Return True if another transaction changed the same rows or tables meanwhile."""
    conflicts = load_duckdb().TransactionException
    return isinstance(error, conflicts) and "conflict" in str(error).lower()


def read_only_database(error: Exception) -> str | None:
    """Return the name of the database that a statement would write to, if it is read-only."""
    found = _READ_ONLY.search(str(error))
    return found[1] if found else None


def is_data_error(error: Exception) -> bool:
    """Return True if the data being loaded caused an error, not the disk or the database."""
    duckdb_module = load_duckdb()
    not_caused_by_data = (
        duckdb_module.IOException,
        duckdb_module.FatalException,
        duckdb_module.ConnectionException,
        duckdb_module.TransactionException,
        duckdb_module.InterruptException,
        duckdb_module.PermissionException,
    )
    return not isinstance(error, not_caused_by_data)


@contextmanager
def transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Run the block in one transaction; roll back if it raises."""
    connection.execute("BEGIN TRANSACTION")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # DuckDB may have ended the transaction already when a statement failed.
        with suppress(load_duckdb().Error):
            connection.execute("ROLLBACK")
        raise
    row = connection.execute(
        "SELECT path FROM duckdb_databases() WHERE database_name = current_database()"
    ).fetchone()
    restrict_wal(Path(row[0]) if row and row[0] else None)


def restrict_wal(path: Path | None) -> None:
    """Give the write-ahead log the permissions of the database file.

    DuckDB creates the log anew after each checkpoint, with the permissions of the umask.
    """
    if path is not None:
        with suppress(OSError):  # a checkpoint may remove it meanwhile
            restrict(path.with_name(path.name + ".wal"), path.stat().st_mode & 0o777)


def count(
    connection: duckdb.DuckDBPyConnection,
    source: str,
    parameters: Mapping[str, Any] | None = None,
) -> int:
    """Count the rows of a quoted table, or of a query in parentheses."""
    row = connection.execute(f"SELECT count(*) FROM {source}", parameters or {}).fetchone()
    return int(row[0]) if row else 0


def error_message(error: Exception) -> str:
    """Return the first line of a DuckDB error, without its type prefix."""
    line = str(error).splitlines()[0] if str(error) else type(error).__name__
    return line.partition("Error: ")[2] or line


def read_only_folder() -> Path:
    """Return the folder for temporary files of read-only handles."""
    return Path(tempfile.gettempdir(), f"mixpanel-{os.getpid()}-{_RANDOM_SUFFIX}")


def _lock_down(
    connection: duckdb.DuckDBPyConnection,
    path: Path | None,
    *,
    external_access: bool,
    parts: Path,
    sizes: Mapping[str, int | str],
    attached: Mapping[str, Path],
) -> Path:
    # A second connection of this process shares the instance, whose settings are locked already:
    # it must use the folder that the first one allowed.
    query = "SELECT current_setting('lock_configuration'), current_setting('allowed_directories')"
    locked, allowed = connection.execute(query).fetchone() or (False, [])
    if locked:
        if attached.keys() - _database_names(connection):
            raise DatabaseLockedError(path or MEMORY, os.getpid())
        for folder in map(Path, allowed):
            if folder.parent == parts and folder.name.startswith("load-"):
                return folder
        raise ConfigError(
            f"the database is already open in this process with its parts in {allowed}: "
            "open it with the same folder of parts"
        )
    disable_progress_bar(connection)
    for name, value in sizes.items():
        connection.execute(f"SET {name} = {literal(str(value))}")
    # Times are stored in UTC. With the machine's zone `event_time > now()` would compare them with
    # another clock.
    connection.execute("SET GLOBAL TimeZone = 'UTC'")
    for name, file in attached.items():
        attach(connection, name, file)
    exchange = parts / scratch_name("load", uuid4().hex)
    if not external_access:
        # We pass paths with glob characters escaped, and DuckDB compares them as given: allow
        # both spellings.
        folders = {f"{exchange}{os.sep}", escape(f"{exchange}{os.sep}")}
        listed = ", ".join(map(literal, sorted(folders)))
        connection.execute(f"SET allowed_directories = [{listed}]")
        connection.execute("SET enable_external_access = false")
        with suppress(load_duckdb().CatalogException):  # before DuckDB 1.5
            listed = ", ".join(map(literal, UNLOCKED))
            connection.execute(f"SET allowed_configs = [{listed}]")
        connection.execute("SET lock_configuration = true")  # SQL could undo the above otherwise
    return exchange


def attach(connection: duckdb.DuckDBPyConnection, name: str, path: Path) -> None:
    """Attach the file of another database, to be read.

    :raises DatabaseNotFoundError: if it does not exist.
    :raises DatabaseLockedError: if it is open in another process, or in this one.
    :raises ConfigError: if it is not a database.
    """
    if not path.exists():
        raise DatabaseNotFoundError(path)
    try:
        connection.execute(
            f"ATTACH IF NOT EXISTS {literal(str(path))} AS {quoted(name)} (READ_ONLY)"
        )
    except load_duckdb().Error as error:
        _raise_open_error(path, error)


def _database_names(connection: duckdb.DuckDBPyConnection) -> set[str]:
    query = "SELECT database_name FROM duckdb_databases()"
    return {name for (name,) in connection.execute(query).fetchall()}


def disable_progress_bar(connection: duckdb.DuckDBPyConnection) -> None:
    """Turn off DuckDB's progress bar, which is printed to stdout, among the data.

    In a notebook without ipywidgets it is off already, and setting it raises an error.
    """
    shown = connection.execute("SELECT current_setting('enable_progress_bar')").fetchone()
    if shown == (True,):
        connection.execute("SET enable_progress_bar = false")


def _raise_open_error(path: Path, error: Exception) -> NoReturn:
    message = str(error)
    if (
        "Could not set lock" in message
        or "Conflicting lock" in message
        or "being used by" in message
    ):
        holder = _PID.search(message)
        raise DatabaseLockedError(path, int(holder[1]) if holder else None) from error
    if "different configuration" in message or "already attached" in message:
        raise DatabaseLockedError(path, os.getpid()) from error
    if "database file with version number" in message:
        raise ConfigError(
            f"{path} was written by a newer DuckDB than {load_duckdb().__version__}: upgrade it "
            "with pip install --upgrade duckdb"
        ) from error
    raise ConfigError(f"{path} cannot be opened: {error_message(error)}") from error
