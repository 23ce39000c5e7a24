"""Export tables as Parquet and CSV, to local folders or object storage.

DuckDB writes to the only folder it can access; from there the files are moved to their target.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from mixpanel.data.exceptions import ConfigError, MixpanelDataError
from mixpanel.data.store import tables
from mixpanel.data.store.engine import error_message, load_duckdb
from mixpanel.data.store.part_files import scratch_folder
from mixpanel.data.store.quoting import literal, quoted
from mixpanel.data.store.rows import copy_bytes, csv_select, query_source

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from duckdb import DuckDBPyConnection

__all__ = ["csv", "csv_bytes", "parquet"]

# Further packages that fsspec needs for a scheme.
FSSPEC_PACKAGES = {"s3": " s3fs", "s3a": " s3fs", "gs": " gcsfs", "gcs": " gcsfs", "abfs": " adlfs"}
_EXPORTED_FILE = re.compile(r"day=[^/]+/[^/]+\.parquet")


def parquet(
    connection: DuckDBPyConnection,
    table: str | None,
    path: Path | str,
    exchange: Path,
    *,
    query: str | None = None,
    database_path: Path | None,
    partition_by: Literal["day"] | None,
    overwrite: bool,
    storage_options: Mapping[str, Any],
) -> list[str]:
    """Write a table as Parquet, never over `database_path`; see `Database.export_parquet`."""
    source = _source(connection, table, query)
    # As text, because not every engine knows the annotation for JSON in Parquet.
    columns = [
        f"CAST({expression} AS VARCHAR) AS {quoted(title)}"
        if type_ == "JSON"
        else f"{expression} AS {quoted(title)}"
        for title, expression, type_ in source.columns
    ]
    options = "FORMAT parquet, COMPRESSION zstd"
    if partition_by is not None:
        times = [expression for title, expression, _ in source.columns if title == "event_time"]
        if partition_by != "day" or not times:
            raise ConfigError(
                f"{source.name} cannot be partitioned by {partition_by!r}: only tables with "
                "a column event_time can be, by 'day'; partition_by=None writes one file"
            )
        if str(path).lower().endswith(".parquet"):
            raise ConfigError(
                f"partition_by={partition_by!r} writes a folder, but {path} is named like a file: "
                "use the path of a folder; partition_by=None writes one file"
            )
        columns.append(f"CAST({times[0]} AS DATE) AS day")
        options += f", PARTITION_BY (day), FILENAME_PATTERN 'part-{uuid4().hex}-{{i}}'"
    statement = f"SELECT {', '.join(columns)} FROM {source.sql}"
    target = _target(path, storage_options, database_path)
    target.check(folder=partition_by is not None, overwrite=overwrite)
    if partition_by is None and isinstance(target, _LocalTarget):
        return target.write(copy_bytes(connection, statement, options, exchange))
    with scratch_folder(exchange) as folder:
        output = folder / ("table.parquet" if partition_by is None else "table")
        _copy_to(connection, statement, output, options)
        if partition_by is not None:
            output.mkdir(exist_ok=True)  # DuckDB creates no folder for a table without rows
        return target.publish(output)


def csv(
    connection: DuckDBPyConnection,
    table: str | None,
    path: Path | str,
    exchange: Path,
    *,
    query: str | None = None,
    database_path: Path | None,
    overwrite: bool,
    storage_options: Mapping[str, Any],
) -> list[str]:
    """Write a table as CSV, never over `database_path`; see `Database.export_csv`."""
    statement = _csv_statement(connection, table, query)
    options = "FORMAT csv, HEADER"
    target = _target(path, storage_options, database_path)
    target.check(folder=False, overwrite=overwrite)
    is_compressed = str(path).endswith(".gz")  # which DuckDB does for files only
    if isinstance(target, _LocalTarget) and not is_compressed:
        return target.write(copy_bytes(connection, statement, options, exchange))
    with scratch_folder(exchange) as folder:
        output = folder / ("table.csv.gz" if is_compressed else "table.csv")
        _copy_to(connection, statement, output, options)
        return target.publish(output)


def _copy_to(connection: DuckDBPyConnection, statement: str, output: Path, options: str) -> None:
    try:
        connection.execute(f"COPY ({statement}) TO {literal(str(output))} ({options})")
    except load_duckdb().IOException as error:
        folder = output.parent.parent.parent  # of the database's parts, which lasts
        where = folder.parent if folder.parent.exists() else folder
        raise MixpanelDataError(
            f"cannot write the temporary files of the export to {where}: "
            f"{error_message(error).rpartition(': ')[2]}",
            code="EXPORT_FAILED",
        ) from error


def csv_bytes(
    connection: DuckDBPyConnection, table: str | None, exchange: Path, *, query: str | None = None
) -> Iterator[bytes]:
    """Return a table as the bytes of a CSV file, as they are written."""
    statement = _csv_statement(connection, table, query)
    return copy_bytes(connection, statement, "FORMAT csv, HEADER", exchange)


def _csv_statement(connection: DuckDBPyConnection, table: str | None, query: str | None) -> str:
    source = _source(connection, table, query)
    return f"SELECT {csv_select(source.columns)} FROM {source.sql}"


# ---- sources ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Source:
    """What is exported: SQL for FROM, and each column's title, expression and type."""

    name: str
    sql: str
    columns: list[tuple[str, str, str]]


def _source(connection: DuckDBPyConnection, table: str | None, query: str | None) -> _Source:
    if query is not None and table is not None:
        raise ConfigError("an export is of a table or of a query: pass one of them")
    if query is None:
        schema = tables.schema(connection, table)  # type: ignore[arg-type] # it refuses None
        columns = [(c.name, quoted(c.name), c.type) for c in schema.columns]
        return _Source(schema.table_name, quoted(schema.table_name), columns)
    return _Source("the query", *query_source(connection, query))


# ---- targets ------------------------------------------------------------------------------------


def _target(
    path: Path | str, storage_options: Mapping[str, Any], database_path: Path | None
) -> _LocalTarget | _RemoteTarget:
    target: _LocalTarget | _RemoteTarget
    if isinstance(path, str) and "://" in path:
        target = _RemoteTarget(path, storage_options)
    elif storage_options:
        raise ConfigError(
            f"storage options ({', '.join(storage_options)}) need a path with a scheme, such as "
            "s3://bucket/lake"
        )
    else:
        target = _LocalTarget(Path(path).expanduser().absolute())
    local_path = target.local_path
    if database_path is not None and local_path is not None:
        for file in (database_path, database_path.with_name(database_path.name + ".wal")):
            same = local_path.exists() and file.exists() and local_path.samefile(file)
            if same or local_path.resolve() == file.resolve():
                raise ConfigError(f"{path} is the database itself: use another path")
    return target


class _LocalTarget:
    def __init__(self, path: Path) -> None:
        self.local_path = self._path = path

    def check(self, *, folder: bool, overwrite: bool) -> None:
        path = self._path
        if not path.exists() or (folder and path.is_dir() and not any(path.iterdir())):
            return
        if not path.is_dir() and not path.is_file():  # replacing it would remove the device
            raise ConfigError(
                f"{path} is a device or a pipe, not a file: use another path; `csv_bytes`, and "
                "`mp export csv -` in a shell, write to a stream"
            )
        if not overwrite:
            raise _already_exists(path)
        if path.is_dir() != folder:
            raise ConfigError(
                f"cannot overwrite {path}, which is a {'folder' if path.is_dir() else 'file'}: "
                "use another path"
            )
        if folder:
            inside = (p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
            _require_only_exports(str(path), inside)

    def write(self, chunks: Iterator[bytes]) -> list[str]:
        """Write a file, which gets its name only when it is complete."""
        path = self._path
        with self._named_in_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            incoming = path.with_name(f".{path.name}.{uuid4().hex}")
            file, descriptor = _new_file(incoming)
            try:
                with os.fdopen(descriptor, "wb") as out:
                    for chunk in chunks:
                        out.write(chunk)
                    out.flush()
                    if file is None:  # it has no name yet
                        name = f"/proc/self/fd/{out.fileno()}"
                        # With a directory Python calls linkat(), which follows the link.
                        os.link(name, incoming, src_dir_fd=out.fileno(), follow_symlinks=True)
                incoming.replace(path)
            finally:
                chunks.close()  # type: ignore[attr-defined]
                incoming.unlink(missing_ok=True)
        return [str(path)]

    @contextmanager
    def _named_in_errors(self) -> Iterator[None]:
        """Name the target in errors of the file system, not a temporary name beside it."""
        try:
            yield
        except OSError as error:
            raise MixpanelDataError(
                f"cannot write {self._path}: {error.strerror or error}", code="EXPORT_FAILED"
            ) from error

    def publish(self, output: Path) -> list[str]:
        """Move files to the target."""
        with self._named_in_errors():
            return self._publish(output)

    def _publish(self, output: Path) -> list[str]:
        path = self._path
        path.parent.mkdir(parents=True, exist_ok=True)
        # Moving to another disk is a copy, which takes time and may fail: the target gets its name
        # only when the copy is complete, in a rename.
        incoming = path.with_name(f".{path.name}.{uuid4().hex}")
        previous = path.with_name(f".{path.name}.{uuid4().hex}")
        try:
            shutil.move(output, incoming)
            if path.is_dir():
                path.rename(previous)
            incoming.replace(path)
        finally:
            if previous.exists() and not path.exists():  # interrupted between the two renames
                previous.rename(path)
            for leftover in (incoming, previous):
                if leftover.is_dir():
                    shutil.rmtree(leftover, ignore_errors=True)
                else:
                    leftover.unlink(missing_ok=True)
        if path.is_file():
            return [str(path)]
        return sorted(str(each) for each in path.rglob("*") if each.is_file())


def _new_file(path: Path) -> tuple[Path | None, int]:
    """Open a new file for writing; on Linux without a name, so that a killed process leaves none.

    Return its path, None without a name, and its descriptor.
    """
    mode = 0o666  # less the umask, as any other file of the user
    unnamed = getattr(os, "O_TMPFILE", None)
    if unnamed is not None and Path("/proc/self/fd").is_dir():
        with suppress(OSError):  # a file system without such files
            return None, os.open(path.parent, unnamed | os.O_WRONLY, mode)
    return path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)


class _RemoteTarget:
    """Object storage, which has no rename: write files under new names, then delete the old."""

    def __init__(self, url: str, storage_options: Mapping[str, Any]) -> None:
        scheme = url.partition("://")[0]
        try:
            fsspec_core = import_module("fsspec.core")
            self._files, self._root = fsspec_core.url_to_fs(url, **storage_options)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"{scheme}:// paths need fsspec: pip install fsspec"
                f"{FSSPEC_PACKAGES.get(scheme, '')} ({error})"
            ) from error
        except ImportError as error:  # it names the package that the scheme needs
            raise ConfigError(f"cannot access {scheme}:// paths: {error}") from error
        except ValueError as error:
            raise ConfigError(f"{url}: {error}") from error
        self._url = url
        local = "file" in (self._files.protocol, *self._files.protocol)
        self.local_path = Path(self._root) if local else None
        self._existing: list[str] = []

    def check(self, *, folder: bool, overwrite: bool) -> None:
        self._existing = self._files.find(self._root)
        if self._existing and not overwrite:
            raise _already_exists(self._url)
        if folder:
            root = self._root.rstrip("/") + "/"
            _require_only_exports(self._url, (each.removeprefix(root) for each in self._existing))
        elif self._existing not in ([], [self._root]):
            raise ConfigError(f"cannot overwrite {self._url}, which is a folder: use another path")

    def publish(self, output: Path) -> list[str]:
        root = self._root.rstrip("/")
        files = (
            [output] if output.is_file() else sorted(p for p in output.rglob("*") if p.is_file())
        )
        written = []
        for file in files:
            key = root if file == output else f"{root}/{file.relative_to(output).as_posix()}"
            self._files.makedirs(key.rpartition("/")[0], exist_ok=True)
            self._files.put_file(str(file), key)
            written.append(key)
        for key in set(self._existing) - set(written):
            self._files.rm_file(key)
        return [self._files.unstrip_protocol(key) for key in written]


def _already_exists(location: Path | str) -> ConfigError:
    return ConfigError(f"{location} already exists: use another path; overwrite=True replaces it")


def _require_only_exports(location: str, inside: Iterable[str]) -> None:
    """Raise if a folder to overwrite contains anything but files of an export."""
    for name in inside:
        if not _EXPORTED_FILE.fullmatch(name):
            raise ConfigError(
                f"refusing to overwrite {location}: it contains {name!r}, which export_parquet did "
                "not create; remove it, or use another path"
            )
