"""Read NDJSON, CSV and Parquet files of events through DuckDB.

Files are streamed, a few thousand rows at a time, so that memory does not grow with their length.
"""

from __future__ import annotations

import glob
import math
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mixpanel._records.json_encoding import loads
from mixpanel._records.record import deterministic_id
from mixpanel._records.validation import BANNED_IDS, INSERT_ID
from mixpanel._records.values import is_missing, plain_id, serial_date, to_api_time
from mixpanel.data.readers.csv import CSV_OPTIONS, check_layout, explain_error, mistyped_columns
from mixpanel.data.store.engine import disable_progress_bar
from mixpanel.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path
    from types import ModuleType

    import duckdb

__all__ = ["Columns", "count_rows", "read_events", "read_rows"]

FETCH_SIZE = 2000
DUCKDB_CONFIG: dict[str, bool | str] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "memory_limit": "500MB",
    "temp_directory": "",
}
MIN_MILLISECONDS = 1e11  # a larger number is not in seconds: that would be the year 5138
MIN_MICROSECONDS = 1e14

DEFAULT_NAMES: dict[str, tuple[str, ...]] = {
    "event": ("event", "event_name", "name"),
    "time": ("time", "timestamp", "event_time", "ts"),
    "distinct_id": ("distinct_id", "user_id"),
    "insert_id": ("$insert_id", "insert_id", "id"),
}
OPTIONAL_ROLES = frozenset({"insert_id"})


@dataclass(frozen=True, slots=True)
class Columns:
    """Map the columns of a flat file to the fields of an event; all others become properties.

    None looks for the usual names, ignoring case: `event`, `event_name`, `name`; `time`,
    `timestamp`, `event_time`, `ts`; `distinct_id`, `user_id`; `$insert_id`, `insert_id`, `id`.
    "" means that there is no such column: for `distinct_id`, that events belong to no user.
    `event_name` is one event name for all rows, instead of a column.
    """

    event: str | None = None
    time: str | None = None
    distinct_id: str | None = None
    insert_id: str | None = None
    event_name: str | None = None


def read_events(path: Path, columns: Columns | None = None) -> Iterator[dict[str, Any]]:
    """Yield the events of an NDJSON, CSV or Parquet file, compressed or not.

    Events are `{"event": name, "properties": {...}}`. NDJSON lines of that shape, as in Mixpanel's
    exports, are unchanged; other rows are flat, and `columns` maps them. Their times (ISO 8601, UTC
    unless they have an offset; or seconds or milliseconds since 1970) become whole milliseconds. An
    id that Mixpanel would reject as `$insert_id` is hashed. Empty cells are left out. A line that
    is not JSON yields `{}`, so that the n-th event is the n-th line.

    :raises ConfigurationError: if the file cannot be read, or a column is missing.
    """
    converter = _EventConverter(columns or Columns(), path.name)
    is_ndjson = _file_format(path) == "ndjson"
    for row in read_rows(path, converter.ids):
        yield row if is_ndjson and _is_export_event(row) else converter.to_event(row)


def read_rows(path: Path, ids: Callable[[tuple[str, ...]], Iterable[str]]) -> Iterator[Any]:
    """Yield the rows of an NDJSON, CSV or Parquet file, compressed or not.

    NDJSON objects are unchanged; a line that is not JSON yields `{}`, so that the n-th row is the
    n-th line. The first line of a CSV file names its columns, and all others have as many cells.

    :param ids: called with the column names of a CSV or Parquet file; returns those that hold ids,
        which stay text in CSV. Other CSV columns become numbers or booleans only if all of their
        cells are written unambiguously as such: `0123`, `1e5`, `yes` and `12:30` stay text.
    :raises ConfigurationError: if the file cannot be read; `ids` may raise other errors.
    """
    duckdb = _duckdb()
    file_format = _file_format(path)
    try:
        with _connect(duckdb) as connection:
            if file_format == "ndjson":
                yield from _objects(connection, path)
            else:
                yield from _table(connection, file_format, path, ids)
    except duckdb.Error as error:
        raise _unreadable(path, error) from error


def count_rows(path: Path) -> int:
    """Return the number of rows of a file that `read_events` can read.

    :raises ConfigurationError: if the file cannot be read.
    """
    duckdb = _duckdb()
    file_format = _file_format(path)
    source = (
        "read_parquet(?)"
        if file_format == "parquet"
        else f"read_csv(?, {CSV_OPTIONS}, all_varchar = true)"
    )
    source = _json_source(path) if file_format == "ndjson" else source
    try:
        with _connect(duckdb) as connection:
            query = f"SELECT count(*) FROM {source}"
            row = connection.execute(query, [_escaped(path)]).fetchone()
    except duckdb.Error as error:
        raise _unreadable(path, error) from error
    return int(row[0]) if row else 0


# ---- reading ------------------------------------------------------------------------------------


def _duckdb() -> ModuleType:
    try:
        import duckdb
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "DuckDB is not installed: pip install 'mixpanel-async[data]'"
        ) from error
    return duckdb


def _connect(library: ModuleType) -> duckdb.DuckDBPyConnection:
    connection: duckdb.DuckDBPyConnection = library.connect(config=DUCKDB_CONFIG)
    disable_progress_bar(connection)
    return connection


def _file_format(path: Path) -> str:
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


def _escaped(path: Path) -> str:
    return glob.escape(str(path))


def _json_source(path: Path) -> str:
    # A .json file may be one array. In the others, errors of single lines can be ignored.
    if ".json" in path.suffixes:
        return "read_json_objects(?, format = 'auto')"
    return "read_ndjson_objects(?, ignore_errors = true)"


def _objects(connection: duckdb.DuckDBPyConnection, path: Path) -> Iterator[Any]:
    # Read as text, not columns: DuckDB's common schema of all lines would convert values and add
    # the keys of other lines.
    query = f"SELECT json FROM {_json_source(path)}"
    for (text,) in _iter_rows(connection.execute(query, [_escaped(path)])):
        row = None
        with suppress(ValueError, RecursionError):  # too many digits, or nested too deeply
            row = None if text is None else loads(text)
        yield row if isinstance(row, dict) else {}


def _table(
    connection: duckdb.DuckDBPyConnection,
    file_format: str,
    path: Path,
    ids: Callable[[tuple[str, ...]], Iterable[str]],
) -> Iterator[dict[str, Any]]:
    csv_source = f"read_csv($path, {CSV_OPTIONS}, sample_size = -1"
    source = "read_parquet($path)" if file_format == "parquet" else f"{csv_source})"
    parameters: dict[str, Any] = {"path": _escaped(path)}
    described = connection.execute(f"DESCRIBE FROM {source}", parameters).fetchall()
    types = {row[0]: row[1] for row in described}
    if file_format == "csv":
        check_layout(path, list(types))
    texts = set(ids(tuple(types)))
    if file_format == "csv":
        texts |= mistyped_columns(
            connection, _escaped(path), {k: v for k, v in types.items() if k not in texts}
        )
    if file_format == "csv" and texts:
        source = f"{csv_source}, types = $types)"
        parameters["types"] = dict.fromkeys(texts, "VARCHAR")
        types |= parameters["types"]
    select_list = ", ".join(_column(name, type_) for name, type_ in types.items())
    query = f"SELECT {select_list} FROM {source}"
    for row in _iter_rows(connection.execute(query, parameters)):
        yield dict(zip(types, row, strict=True))


def _column(name: str, type_: str) -> str:
    quoted = '"' + name.replace('"', '""') + '"'
    if type_ == "TIMESTAMP WITH TIME ZONE":
        return f"make_timestamp(epoch_us({quoted}))"
    if "WITH TIME ZONE" in type_:
        return f"CAST({quoted} AS VARCHAR)"
    return quoted


def _iter_rows(cursor: duckdb.DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
    while rows := cursor.fetchmany(FETCH_SIZE):
        yield from rows


def _unreadable(path: Path, error: Exception) -> ConfigurationError:
    message = str(error)
    reason = (
        explain_error(path, message)
        if _file_format(path) == "csv"
        else message.strip().partition("\n")[0]
    )
    return ConfigurationError(f"{path.name}: {reason}")


# ---- flat rows to events ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _ColumnRoles:
    event: str | None
    time: str | None
    distinct_id: str | None
    insert_id: str | None

    @property
    def used(self) -> frozenset[str | None]:
        return frozenset({self.event, self.time, self.distinct_id, self.insert_id})


class _EventConverter:
    """Convert the flat rows of one file to events."""

    def __init__(self, columns: Columns, file: str) -> None:
        self._columns = columns
        self._file = file
        self._first = True
        self.roles = lru_cache(maxsize=1000)(self._roles)

    def ids(self, names: tuple[str, ...]) -> list[str]:
        """Return the columns that hold ids."""
        roles = self.roles(names)
        return [name for name in (roles.distinct_id, roles.insert_id) if name]

    def to_event(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a flat row as an event."""
        if not row:
            return {}
        roles = self.roles(tuple(row))
        used = roles.used
        properties = {k: v for k, v in row.items() if k not in used and v is not None}
        name = row.get(roles.event) if roles.event else self._columns.event_name
        event = None if name is None else str(name)
        time_value = row.get(roles.time) if roles.time else None
        properties["time"] = None if is_missing(time_value) else to_milliseconds(time_value)
        distinct_id = row.get(roles.distinct_id) if roles.distinct_id else None
        if not is_missing(distinct_id):
            properties["distinct_id"] = distinct_id = plain_id(distinct_id, "distinct_id")[0]
        insert_id = row.get(roles.insert_id) if roles.insert_id else None
        if not is_missing(insert_id):
            own_id = plain_id(insert_id, "insert_id")[0]
            properties["$insert_id"] = _insert_id(event, distinct_id, own_id)
        return {"event": event, "properties": properties}

    def _roles(self, names: tuple[str, ...]) -> _ColumnRoles:
        # Every NDJSON row has its own keys. Only the first must have all columns, so that a wrong
        # mapping fails at once, and a single odd row does not stop the import.
        first, self._first = self._first, False
        by_lower = {name.lower(): name for name in reversed(names)}

        def find(role: str, column_name: str | None) -> str | None:
            if column_name == "":
                return None
            default_names = DEFAULT_NAMES[role]
            found = column_name if column_name in names else None
            if column_name is None:
                found = next((by_lower[name] for name in default_names if name in by_lower), None)
            if found is None and first and (column_name is not None or role not in OPTIONAL_ROLES):
                looked_for = (
                    repr(column_name) if column_name else " or ".join(map(repr, default_names))
                )
                raise ConfigurationError(
                    f"{self._file} has no column {looked_for} for the {role}; "
                    f"it has {', '.join(map(repr, names))}: pass Columns({role}=...)"
                )
            return found

        columns = self._columns
        event = None if columns.event_name is not None else find("event", columns.event)
        return _ColumnRoles(
            event,
            find("time", columns.time),
            find("distinct_id", columns.distinct_id),
            find("insert_id", columns.insert_id),
        )


def _is_export_event(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("event"), str) and isinstance(row.get("properties"), dict)


def _insert_id(event: str | None, distinct_id: Any, insert_id: str) -> str:
    if INSERT_ID.fullmatch(insert_id) and insert_id.lower() not in BANNED_IDS:
        return insert_id
    return deterministic_id(event or "", distinct_id, insert_id)


def to_milliseconds(time_value: Any) -> Any:
    """Return a time as whole milliseconds since 1970, and anything else unchanged."""
    if isinstance(time_value, str):
        try:
            time_value = float(time_value)
        except ValueError:
            try:
                time_value = datetime.fromisoformat(time_value.strip())
            except ValueError:
                return time_value
    if isinstance(time_value, date) and not isinstance(time_value, datetime):
        time_value = datetime(time_value.year, time_value.month, time_value.day, tzinfo=UTC)
    if isinstance(time_value, datetime):
        return to_api_time(time_value)
    if (
        isinstance(time_value, bool)
        or not isinstance(time_value, (int, float))
        or not math.isfinite(time_value)
    ):
        return time_value
    if serial_date(time_value):
        return time_value  # refused by name when it is imported
    while abs(time_value) > MIN_MICROSECONDS:
        time_value /= 1000
    return round(time_value if abs(time_value) > MIN_MILLISECONDS else time_value * 1000)
