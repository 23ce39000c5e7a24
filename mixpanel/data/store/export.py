"""Export tables as Parquet and CSV, to local folders or object storage.

DuckDB writes to the only folder it can access; from there the files are moved to their target.
"""

from __future__ import annotations

import re
import shutil
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from mixpanel._records.spreadsheets import guarded, guarded_sql
from mixpanel.data.exceptions import ConfigError
from mixpanel.data.store import tables
from mixpanel.data.store.part_files import scratch_folder
from mixpanel.data.store.quoting import literal, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from duckdb import DuckDBPyConnection

__all__ = ["csv", "parquet"]

# Further packages that fsspec needs for a scheme.
FSSPEC_PACKAGES = {"s3": " s3fs", "s3a": " s3fs", "gs": " gcsfs", "gcs": " gcsfs", "abfs": " adlfs"}
_EXPORTED_FILE = re.compile(r"day=[^/]+/[^/]+\.parquet")
# Types whose values a spreadsheet never runs as a formula.
_SAFE_TYPES = re.compile(
    r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL\(.*\)|BIGNUM|BOOLEAN|UUID|DATE|TIME.*"
)


def parquet(
    connection: DuckDBPyConnection,
    table: str,
    path: Path | str,
    exchange: Path,
    *,
    database_path: Path | None,
    partition_by: Literal["day"] | None,
    overwrite: bool,
    storage_options: Mapping[str, Any],
) -> list[str]:
    """Write a table as Parquet, never over `database_path`; see `Database.export_parquet`."""
    schema = tables.schema(connection, table)
    # As text, because not every engine knows the annotation for JSON in Parquet.
    columns = [
        f"CAST({quoted(c.name)} AS VARCHAR) AS {quoted(c.name)}"
        if c.type == "JSON"
        else quoted(c.name)
        for c in schema.columns
    ]
    options = "FORMAT parquet, COMPRESSION zstd"
    if partition_by is not None:
        if partition_by != "day" or "event_time" not in {c.name for c in schema.columns}:
            raise ConfigError(
                f"{schema.table_name} cannot be partitioned by {partition_by!r}: only tables with "
                "a column event_time can be, by 'day'; partition_by=None writes one file"
            )
        if str(path).lower().endswith(".parquet"):
            raise ConfigError(
                f"partition_by={partition_by!r} writes a folder, but {path} is named like a file: "
                "use the path of a folder; partition_by=None writes one file"
            )
        columns.append("CAST(event_time AS DATE) AS day")
        options += f", PARTITION_BY (day), FILENAME_PATTERN 'part-{uuid4().hex}-{{i}}'"
    query = f"SELECT {', '.join(columns)} FROM {quoted(schema.table_name)}"
    target = _target(path, storage_options, database_path)
    target.check(folder=partition_by is not None, overwrite=overwrite)
    with scratch_folder(exchange) as folder:
        output = folder / ("table.parquet" if partition_by is None else "table")
        connection.execute(f"COPY ({query}) TO {literal(str(output))} ({options})")
        if partition_by is not None:
            output.mkdir(exist_ok=True)  # DuckDB creates no folder for a table without rows
        return target.publish(output)


def csv(
    connection: DuckDBPyConnection,
    table: str,
    path: Path | str,
    exchange: Path,
    *,
    database_path: Path | None,
    overwrite: bool,
    storage_options: Mapping[str, Any],
) -> list[str]:
    """Write a table as CSV, never over `database_path`; see `Database.export_csv`."""
    schema = tables.schema(connection, table)
    columns = ", ".join(
        f"{quoted(c.name) if _SAFE_TYPES.fullmatch(c.type) else guarded_sql(quoted(c.name))} "
        f"AS {quoted(guarded(c.name))}"
        for c in schema.columns
    )
    query = f"SELECT {columns} FROM {quoted(schema.table_name)}"
    target = _target(path, storage_options, database_path)
    target.check(folder=False, overwrite=overwrite)
    name = "table.csv.gz" if str(path).endswith(".gz") else "table.csv"
    with scratch_folder(exchange) as folder:
        output = folder / name
        connection.execute(f"COPY ({query}) TO {literal(str(output))} (FORMAT csv, HEADER)")
        return target.publish(output)


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

    def publish(self, output: Path) -> list[str]:
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
