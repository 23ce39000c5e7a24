"""Export tables as Parquet and CSV, to local folders or object storage.

DuckDB writes into a pipe, from which the bytes go to their target.
"""

from __future__ import annotations

import zlib
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mixpanel.data.exceptions import ConfigError
from mixpanel.data.store import lake, tables
from mixpanel.data.store.engine import load_duckdb
from mixpanel.data.store.export_targets import target_of
from mixpanel.data.store.quoting import quoted
from mixpanel.data.store.rows import (
    copy_bytes,
    copy_stream,
    csv_select,
    in_small_batches,
    query_source,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from duckdb import DuckDBPyConnection

    from mixpanel.data.results import ParquetSync

__all__ = ["csv", "csv_bytes", "parquet", "sync_parquet"]

GZIP_WBITS = 31  # of zlib: the largest window, in the format of gzip
OTHER_COMPRESSION = ("bz2", "xz", "zip", "zst")


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
    columns = _parquet_columns(source)
    if partition_by is None:
        target = target_of(path, storage_options, database_path)
        target.check(folder=False, overwrite=overwrite)
        listed = ", ".join(f"{sql} AS {quoted(title)}" for title, sql, _ in columns)
        statement = f"SELECT {listed} FROM {source.sql}"
        return target.write(copy_bytes(connection, statement, lake.PARQUET, exchange))
    found = _lake(connection, source, columns, path, exchange, partition_by)
    target = target_of(path, storage_options, database_path)
    target.check(folder=True, overwrite=overwrite)
    return found.write(target)


def sync_parquet(
    connection: DuckDBPyConnection,
    table: str | None,
    path: Path | str,
    exchange: Path,
    *,
    query: str | None = None,
    database_path: Path | None,
    storage_options: Mapping[str, Any],
) -> ParquetSync:
    """Bring a folder of Parquet by day up to date; see `Database.sync_parquet`."""
    source = _source(connection, table, query)
    found = _lake(connection, source, _parquet_columns(source), path, exchange, "day")
    return found.sync(target_of(path, storage_options, database_path))


def _lake(
    connection: DuckDBPyConnection,
    source: _Source,
    columns: list[tuple[str, str, str]],
    path: Path | str,
    exchange: Path,
    partition_by: str,
) -> lake.Lake:
    time = lake.time_of(source.columns, source.name, partition_by)
    if str(path).lower().endswith(".parquet"):
        raise ConfigError(
            f"partition_by={partition_by!r} writes a folder, but {path} is named like a file: "
            "use the path of a folder; partition_by=None writes one file"
        )
    return lake.Lake(connection, exchange, source.sql, columns, time, is_query=source.is_query)


def _parquet_columns(source: _Source) -> list[tuple[str, str, str]]:
    # JSON as text, as not every engine knows its annotation in Parquet; and Parquet has no integers
    # of 128 bits: DuckDB would write them as floating-point numbers of 15 digits.
    exact = {"JSON": "VARCHAR", "HUGEINT": "DECIMAL(38,0)", "UHUGEINT": "DECIMAL(38,0)"}
    return [
        (title, f"CAST({sql} AS {exact[type_]})" if type_ in exact else sql, type_)
        for title, sql, type_ in source.columns
    ]


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
    suffix = str(path).rpartition(".")[2].lower()
    if suffix in OTHER_COMPRESSION:
        raise ConfigError(f"{path}: CSV is compressed as .gz only, not as .{suffix}")
    target = target_of(path, storage_options, database_path)
    target.check(folder=False, overwrite=overwrite)

    def write(statement: str) -> list[str]:
        chunks = copy_bytes(connection, statement, "FORMAT csv, HEADER", exchange)
        return target.write(_compressed(chunks) if suffix == "gz" else chunks)

    try:
        return write(statement)
    except load_duckdb().OutOfMemoryException:
        return write(in_small_batches(connection, statement))


def _compressed(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield chunks as gzip. DuckDB compresses files only, and so would leave one if killed."""
    compressor = zlib.compressobj(wbits=GZIP_WBITS)
    with closing(chunks):  # type: ignore[type-var]
        for chunk in chunks:
            yield compressor.compress(chunk)
    yield compressor.flush()


def csv_bytes(
    connection: DuckDBPyConnection, table: str | None, exchange: Path, *, query: str | None = None
) -> Iterator[bytes]:
    """Return a table as the bytes of a CSV file, as they are written."""
    statement = _csv_statement(connection, table, query)
    return copy_stream(connection, statement, "FORMAT csv, HEADER", exchange)


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
    is_query: bool


def _source(connection: DuckDBPyConnection, table: str | None, query: str | None) -> _Source:
    if query is not None and table is not None:
        raise ConfigError("an export is of a table or of a query: pass one of them")
    if query is None:
        schema = tables.schema(connection, table)  # type: ignore[arg-type] # it refuses None
        columns = [(c.name, quoted(c.name), c.type) for c in schema.columns]
        is_view = tables.names(connection)[schema.table_name]
        return _Source(schema.table_name, quoted(schema.table_name), columns, is_view)
    return _Source("the query", *query_source(connection, query), is_query=True)
