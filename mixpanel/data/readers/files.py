"""Read NDJSON, CSV and Parquet files of events.

Files are streamed, a few thousand rows at a time, so that memory does not grow with their length.
"""

from __future__ import annotations

import glob
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from mixpanel._runtime.temporary_folders import temporary_folder
from mixpanel.data.readers.csv import CSV_OPTIONS, CSVReader, column, explain_error
from mixpanel.data.readers.events import TABLE, Columns, EventConverter
from mixpanel.data.readers.failed_rows import corrected_rows
from mixpanel.data.readers.options import ReadOptions
from mixpanel.data.readers.text_files import (
    MAX_LINE_BYTES,
    json_lines,
    json_row,
    rewritten_as_utf8,
    text_encoding,
)
from mixpanel.data.store import resources
from mixpanel.data.store.engine import disable_progress_bar, memory_error
from mixpanel.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from types import ModuleType

    import duckdb

__all__ = [
    "DUCKDB_CONFIG",
    "count_rows",
    "escaped",
    "format_of",
    "parquet_names",
    "read_events",
    "read_rows",
    "unreadable",
]

FETCH_SIZE = 2000
DUCKDB_CONFIG: dict[str, bool | str] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "temp_directory": "",
}
NO_OPTIONS = ReadOptions()


def read_events(
    path: Path, columns: Columns | None = None, options: ReadOptions = NO_OPTIONS
) -> Iterator[dict[str, Any]]:
    """Yield the events of an NDJSON, CSV or Parquet file, compressed or not.

    Events are `{"event": name, "properties": {...}}`. NDJSON lines of that shape, as in Mixpanel's
    exports, are unchanged; other rows are flat, and `columns` maps them. A column `properties` with
    JSON objects, as in an events table, its exports, and the JSON pipelines of Mixpanel, becomes
    the properties of the event again. Times (ISO 8601, UTC unless they have an offset; or seconds
    or milliseconds since 1970) become whole milliseconds. An id that Mixpanel would reject as
    `$insert_id` is hashed. Empty cells are left out. A row that cannot be read yields an empty
    `UnreadableRow`, so that the n-th event is the n-th row.

    A folder that `export_parquet` wrote yields the events of all its files. A file of failed rows,
    as `--failed` writes it, yields the events of its records, corrected or not.

    :raises ConfigurationError: if the file cannot be read, or a column is missing.
    """
    if path.is_dir():
        for file in _parquet_files(path):
            yield from read_events(file, columns, options)
        return
    converter = EventConverter(columns or Columns(), path.name, options)
    converter.is_csv = format_of(path) == "csv"
    is_ndjson = format_of(path) == "ndjson"
    for row in read_rows(path, converter.texts, options):
        yield converter.to_event(row, may_be_event=is_ndjson)


def read_rows(
    path: Path,
    ids: Callable[[tuple[str, ...]], Iterable[str] | Mapping[str, str]],
    options: ReadOptions = NO_OPTIONS,
) -> Iterator[Any]:
    """Yield the rows of an NDJSON, CSV or Parquet file, compressed or not.

    NDJSON objects are unchanged, and lines of a file of failed rows are the `FailedRecord` of each.
    The first line of a CSV file names its columns, and all others have as many cells. A row that
    cannot be read yields an `UnreadableRow`, which is empty, so that the n-th row is the n-th of
    the file.

    :param ids: called with the column names of a CSV or Parquet file; returns those that hold ids,
        which stay text in CSV, or a mapping with their types. Other CSV columns become numbers or
        booleans only if all of their cells are written unambiguously as such: `0123`, `1e5`, `yes`
        and `12:30` stay text.
    :raises ConfigurationError: if the file cannot be read; `ids` may raise other errors.
    """
    duckdb = _duckdb()
    file_format = format_of(path)
    if options.types and file_format == "parquet":
        raise ConfigurationError(
            f"{path.name}: types= are for CSV files; JSON and Parquet have types of their own"
        )
    with ExitStack() as stack:
        source = path
        if file_format != "parquet":
            encoding = text_encoding(path, options)
            if encoding is not None:
                folder = stack.enter_context(temporary_folder())
                source = rewritten_as_utf8(path, encoding, folder)
        try:
            connection = stack.enter_context(_connect(duckdb, options))
            if file_format == "ndjson":
                yield from corrected_rows(_objects(connection, source), path.name, options)
            elif file_format == "parquet":
                yield from _parquet(connection, source, ids)
            else:
                new_folder = partial(stack.enter_context, temporary_folder())
                reader = CSVReader(connection, source, path.name, options, new_folder)
                yield from reader.rows(lambda names: _as_types(ids(names)), escaped)
        except duckdb.Error as error:
            raise unreadable(source, path.name, error, is_csv=file_format == "csv") from error


def count_rows(path: Path) -> int:
    """Return the number of rows of a file that `read_events` can read.

    :raises ConfigurationError: if the file cannot be read.
    """
    if path.is_dir():
        return sum(map(count_rows, _parquet_files(path)))
    duckdb = _duckdb()
    file_format = format_of(path)
    source = (
        "read_parquet(?)"
        if file_format == "parquet"
        else f"read_csv(?, {CSV_OPTIONS}, all_varchar = true)"
    )
    source = _json_source(path) if file_format == "ndjson" else source
    try:
        with _connect(duckdb) as connection:
            query = f"SELECT count(*) FROM {source}"
            row = connection.execute(query, [escaped(path)]).fetchone()
    except duckdb.Error as error:
        raise unreadable(path, path.name, error, is_csv=file_format == "csv") from error
    return int(row[0]) if row else 0


# ---- reading ------------------------------------------------------------------------------------


def _as_types(columns: Iterable[str] | Mapping[str, str]) -> Mapping[str, str]:
    return columns if isinstance(columns, Mapping) else dict.fromkeys(columns, "text")


def _parquet_files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*.parquet") if path.is_file())
    if not files:
        raise ConfigurationError(f"{folder.name} is a folder without Parquet files")
    return files


def _duckdb() -> ModuleType:
    try:
        import duckdb
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "DuckDB is not installed: pip install 'mixpanel-async[data]'"
        ) from error
    return duckdb


def _connect(library: ModuleType, options: ReadOptions = NO_OPTIONS) -> duckdb.DuckDBPyConnection:
    memory = resources.memory_limit(options.memory_limit)
    sizes = {
        "memory_limit": f"{memory}B", "threads": resources.threads(options.threads, memory=memory)
    }  # fmt: skip
    connection: duckdb.DuckDBPyConnection = library.connect(config=DUCKDB_CONFIG | sizes)
    disable_progress_bar(connection)
    return connection


def format_of(path: Path) -> str:
    """Return "ndjson", "csv" or "parquet", by the name of a file.

    :raises ConfigurationError: for any other name.
    """
    name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
    if name.endswith((".ndjson", ".jsonl", ".json")):
        return "ndjson"
    if name.endswith((".csv", ".tsv")):
        return "csv"
    if name.endswith((".parquet", ".pq")):
        return "parquet"
    raise ConfigurationError(
        f"{path.name}: unknown file format; the name must end in .ndjson, .jsonl, .json, .csv, "
        ".tsv or .parquet"
    )


def escaped(path: Path) -> str:
    """Return a path for DuckDB, which takes the characters of patterns as they are."""
    return glob.escape(str(path))


def _is_json_document(path: Path) -> bool:
    return ".json" in (suffix.lower() for suffix in path.suffixes)


def _json_source(path: Path) -> str:
    # A .json file may be one array. In the others, errors of single lines can be ignored.
    if _is_json_document(path):
        return "read_json_objects(?, format = 'auto')"
    return "read_ndjson_objects(?, ignore_errors = true)"


def _objects(connection: duckdb.DuckDBPyConnection, path: Path) -> Iterator[Any]:
    if not _is_json_document(path) and not path.name.lower().endswith(".zst"):
        yield from json_lines(path)
        return
    # Read as text, not columns: DuckDB's common schema of all lines would convert values and add
    # the keys of other lines.
    query = f"SELECT json FROM {_json_source(path)}"
    rows = _iter_rows(connection.execute(query, [escaped(path)]))
    for number, (text,) in enumerate(rows, 1):
        yield json_row(text, {"row": number})


def _parquet(
    connection: duckdb.DuckDBPyConnection,
    path: Path,
    ids: Callable[[tuple[str, ...]], Iterable[str] | Mapping[str, str]],
) -> Iterator[dict[str, Any]]:
    parameters = [escaped(path)]
    described = connection.execute("DESCRIBE FROM read_parquet(?)", parameters).fetchall()
    names = parquet_names(connection, path)
    # Columns of folders such as `country=PT` come last.
    own, of_folders = described[: len(names)], described[len(names) :]
    if frozenset(names) >= TABLE:
        of_folders = []
    elif "event_time" in names:  # which `day` of a lake repeats
        of_folders = [row for row in of_folders if row[0] != "day"]
    described = [*own, *of_folders]
    names += [row[0] for row in of_folders]
    ids(tuple(names))
    select_list = ", ".join(column(row[0], row[1]) for row in described)
    query = f"SELECT {select_list} FROM read_parquet(?)"
    for row in _iter_rows(connection.execute(query, parameters)):
        yield dict(zip(names, row, strict=True))


def parquet_names(connection: duckdb.DuckDBPyConnection, path: Path) -> list[str]:
    """Return the names of the columns as they are in the file.

    DuckDB renames those that differ only in case, also within a struct.

    :raises ConfigurationError: for two equal names, and for such names within a struct.
    """
    nodes = iter(
        connection.execute(
            "SELECT name, num_children FROM parquet_schema(?)", [escaped(path)]
        ).fetchall()
    )

    def children(count: int, parent: str) -> list[str]:
        found = []
        for _ in range(count):
            name, below = next(nodes)
            found.append(name)
            inside = children(below or 0, f"{parent}.{name}" if parent else name)
            lower = [each.lower() for each in inside]
            twice = sorted({each for each in inside if lower.count(each.lower()) > 1})
            if twice:
                raise ConfigurationError(
                    f"{path.name}: the names {', '.join(map(repr, twice))} in the column "
                    f"{(f'{parent}.{name}' if parent else name)!r} differ only in case; rename "
                    "all but one, or write NDJSON"
                )
        return found

    root = next(nodes, ("", 0))
    names = children(root[1] or 0, "")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigurationError(
            f"{path.name}: several columns are named {', '.join(map(repr, twice))}; rename all "
            "but one"
        )
    return names


def _iter_rows(cursor: duckdb.DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
    while rows := cursor.fetchmany(FETCH_SIZE):
        yield from rows


def unreadable(path: Path, name: str, error: Exception, *, is_csv: bool) -> ConfigurationError:
    """Return why DuckDB cannot read a file, in one line."""
    message = str(error)
    if isinstance(error, _duckdb().OutOfMemoryException):
        return ConfigurationError(f"{name} cannot be read: {memory_error(error)}")
    if is_csv:
        return explain_error(path, name, message)
    if "maximum_object_size" in message:
        return ConfigurationError(f"{name}: an object has more than {MAX_LINE_BYTES:,} bytes")
    return ConfigurationError(f"{name}: {message.strip().partition(chr(10))[0]}")
