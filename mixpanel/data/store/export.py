"""Write tables as files: into the folder that DuckDB may write to, then on to where they belong."""

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
from mixpanel.data.store.part_files import scratch
from mixpanel.data.store.quoting import literal, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from duckdb import DuckDBPyConnection

__all__ = ["csv", "parquet"]

# The library that fsspec needs for a scheme.
EXTRAS = {"s3": " s3fs", "s3a": " s3fs", "gs": " gcsfs", "gcs": " gcsfs", "abfs": " adlfs"}
_OURS = re.compile(r"day=[^/]+/[^/]+\.parquet")
# Types whose values no spreadsheet takes for a formula.
_HARMLESS = re.compile(
    r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL\(.*\)|BIGNUM|BOOLEAN|UUID|DATE|TIME.*"
)


def parquet(
    connection: DuckDBPyConnection,
    table: str,
    path: Path | str,
    exchange: Path,
    *,
    own: Path | None,
    partition_by: Literal["day"] | None,
    overwrite: bool,
    storage_options: Mapping[str, Any],
) -> list[str]:
    """Write a table as Parquet, but not over the database `own`; see `Database.export_parquet`."""
    schema = tables.schema(connection, table)
    # JSON is text to other engines: its annotation is not known to all of them.
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
                f"{schema.table_name} cannot be partitioned by {partition_by!r}: only a table with "
                "event_time, and by 'day'; partition_by=None writes one file"
            )
        if str(path).lower().endswith(".parquet"):
            raise ConfigError(
                f"partition_by={partition_by!r} makes a folder, and {path} is named like a file: "
                "choose the path of a folder; partition_by=None writes one file"
            )
        columns.append("CAST(event_time AS DATE) AS day")
        options += f", PARTITION_BY (day), FILENAME_PATTERN 'part-{uuid4().hex}-{{i}}'"
    query = f"SELECT {', '.join(columns)} FROM {quoted(schema.table_name)}"  # noqa: S608
    target = _target(path, storage_options, own)
    target.check(folder=partition_by is not None, overwrite=overwrite)
    with scratch(exchange) as folder:
        made = folder / ("table.parquet" if partition_by is None else "table")
        connection.execute(f"COPY ({query}) TO {literal(str(made))} ({options})")
        if partition_by is not None:
            made.mkdir(exist_ok=True)  # a table without rows makes no folder
        return target.take(made)


def csv(
    connection: DuckDBPyConnection,
    table: str,
    path: Path | str,
    exchange: Path,
    *,
    own: Path | None,
    overwrite: bool,
    storage_options: Mapping[str, Any],
) -> list[str]:
    """Write a table as CSV, but not over the database `own`; see `Database.export_csv`."""
    schema = tables.schema(connection, table)
    columns = ", ".join(
        f"{quoted(c.name) if _HARMLESS.fullmatch(c.type) else guarded_sql(quoted(c.name))} "
        f"AS {quoted(guarded(c.name))}"
        for c in schema.columns
    )
    query = f"SELECT {columns} FROM {quoted(schema.table_name)}"  # noqa: S608
    target = _target(path, storage_options, own)
    target.check(folder=False, overwrite=overwrite)
    name = "table.csv.gz" if str(path).endswith(".gz") else "table.csv"
    with scratch(exchange) as folder:
        made = folder / name
        connection.execute(f"COPY ({query}) TO {literal(str(made))} (FORMAT csv, HEADER)")
        return target.take(made)


# ---- where it goes ------------------------------------------------------------------------------


def _target(
    path: Path | str, storage_options: Mapping[str, Any], own: Path | None
) -> _Local | _Remote:
    target: _Local | _Remote
    if isinstance(path, str) and "://" in path:
        target = _Remote(path, storage_options)
    elif storage_options:
        raise ConfigError(f"{', '.join(storage_options)}: only a path with a scheme takes options")
    else:
        target = _Local(Path(path).expanduser().absolute())
    here = target.here
    if own is not None and here is not None:
        for file in (own, own.with_name(own.name + ".wal")):
            same = here.exists() and file.exists() and here.samefile(file)
            if same or here.resolve() == file.resolve():
                raise ConfigError(f"{path} is the database itself: choose another path")
    return target


class _Local:
    def __init__(self, path: Path) -> None:
        self.here = self._path = path

    def check(self, *, folder: bool, overwrite: bool) -> None:
        path = self._path
        if not path.exists() or (folder and path.is_dir() and not any(path.iterdir())):
            return
        if not overwrite:
            raise _there_already(path)
        if path.is_dir() != folder:
            raise ConfigError(f"{path} is {'a folder' if path.is_dir() else 'no folder'}")
        if folder:
            inside = (p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
            _ours_alone(str(path), inside)

    def take(self, made: Path) -> list[str]:
        path = self._path
        path.parent.mkdir(parents=True, exist_ok=True)
        # Another disk may take its time: only a whole copy gets the name.
        arriving = path.with_name(f".{path.name}.{uuid4().hex}")
        leaving = path.with_name(f".{path.name}.{uuid4().hex}")
        try:
            shutil.move(made, arriving)
            if path.is_dir():
                path.rename(leaving)
            arriving.replace(path)
        finally:
            if leaving.exists() and not path.exists():  # interrupted between the two
                leaving.rename(path)
            for left in (arriving, leaving):
                if left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    left.unlink(missing_ok=True)
        if path.is_file():
            return [str(path)]
        return sorted(str(each) for each in path.rglob("*") if each.is_file())


class _Remote:
    """Object storage: new files arrive under names of their own, then the old ones go."""

    def __init__(self, url: str, storage_options: Mapping[str, Any]) -> None:
        scheme = url.partition("://")[0]
        try:
            core = import_module("fsspec.core")
            self._files, self._root = core.url_to_fs(url, **storage_options)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"{scheme}:// is reached through fsspec: pip install fsspec"
                f"{EXTRAS.get(scheme, '')} ({error})"
            ) from error
        except ImportError as error:  # fsspec says which library the scheme needs
            raise ConfigError(f"{scheme}:// cannot be reached: {error}") from error
        except ValueError as error:
            raise ConfigError(f"{url}: {error}") from error
        self._url = url
        local = "file" in (self._files.protocol, *self._files.protocol)
        self.here = Path(self._root) if local else None
        self._old: list[str] = []

    def check(self, *, folder: bool, overwrite: bool) -> None:
        self._old = self._files.find(self._root)
        if self._old and not overwrite:
            raise _there_already(self._url)
        if folder:
            root = self._root.rstrip("/") + "/"
            _ours_alone(self._url, (each.removeprefix(root) for each in self._old))
        elif self._old not in ([], [self._root]):
            raise ConfigError(f"{self._url} is a folder")

    def take(self, made: Path) -> list[str]:
        root = self._root.rstrip("/")
        files = [made] if made.is_file() else sorted(p for p in made.rglob("*") if p.is_file())
        written = []
        for file in files:
            key = root if file == made else f"{root}/{file.relative_to(made).as_posix()}"
            self._files.makedirs(key.rpartition("/")[0], exist_ok=True)
            self._files.put_file(str(file), key)
            written.append(key)
        for key in set(self._old) - set(written):
            self._files.rm_file(key)
        return [self._files.unstrip_protocol(key) for key in written]


def _there_already(where: Path | str) -> ConfigError:
    return ConfigError(
        f"{where} is there already: choose another path; overwrite=True replaces what is there"
    )


def _ours_alone(where: str, inside: Iterable[str]) -> None:
    """Refuse to write over a folder that holds anything else than an export."""
    for name in inside:
        if not _OURS.fullmatch(name):
            raise ConfigError(
                f"{where} holds {name!r}, which no export made: it is not written over; remove it "
                "or choose another path"
            )
