"""Read files of events through DuckDB.

A file is streamed: a few thousand rows are held at a time, however long it is.
"""

from __future__ import annotations

import glob
import math
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mixpanel._records.encoding import loads
from mixpanel._records.record import deterministic_id, to_api_time
from mixpanel._records.validation import BANNED_IDS, INSERT_ID
from mixpanel.data.readers.csv import FORM, checked, misread, problem
from mixpanel.data.store.engine import quieten
from mixpanel.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path
    from types import ModuleType

    import duckdb

__all__ = ["Columns", "count_rows", "read_events", "read_rows"]

ROWS = 2000
CONFIG: dict[str, bool | str] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "memory_limit": "500MB",
    "temp_directory": "",
}
MILLISECONDS = 1e11  # above it a number cannot be seconds
MICROSECONDS = 1e14

USUAL: dict[str, tuple[str, ...]] = {
    "event": ("event", "event_name", "name"),
    "time": ("time", "timestamp", "event_time", "ts"),
    "distinct_id": ("distinct_id", "user_id"),
    "insert_id": ("$insert_id", "insert_id", "id"),
}
OPTIONAL = frozenset({"insert_id"})


@dataclass(frozen=True, slots=True)
class Columns:
    """Say which columns of a flat file hold what; all others become properties.

    None looks for the usual names, in any case: `event`, `event_name`, `name`; `time`,
    `timestamp`, `event_time`, `ts`; `distinct_id`, `user_id`; `$insert_id`, `insert_id`, `id`.
    "" says that there is none: for `distinct_id`, events that belong to no user. `event_name` is
    one name for all rows, in place of a column.
    """

    event: str | None = None
    time: str | None = None
    distinct_id: str | None = None
    insert_id: str | None = None
    event_name: str | None = None


def read_events(path: Path, columns: Columns | None = None) -> Iterator[dict[str, Any]]:
    """Read the events of an NDJSON, CSV or Parquet file, compressed or not, one by one.

    They come as `{"event": name, "properties": {...}}`. Lines of NDJSON that have that shape, as
    in Mixpanel's exports, are left as they are; other rows are flat, and `columns` says what is
    in them. Their times (ISO 8601, UTC unless they say otherwise; or seconds or milliseconds since
    1970) become whole milliseconds; an id that Mixpanel would not take as `$insert_id` is hashed;
    empty cells are left out. A line that is no JSON comes as `{}`, so that positions hold.

    :raises ConfigurationError: for a file that cannot be read, and a column that is missing.
    """
    shape = _Shape(columns or Columns(), path.name)
    for row in read_rows(path, shape.ids):
        yield row if _kind(path) == "ndjson" and _is_wire(row) else shape.flat(row)


def read_rows(path: Path, ids: Callable[[tuple[str, ...]], Iterable[str]]) -> Iterator[Any]:
    """Read the rows of an NDJSON, CSV or Parquet file, compressed or not, one by one.

    An object of NDJSON is left as it is; a line that is no JSON comes as `{}`, so that positions
    hold. The first line of a CSV file names its columns, and all others have as many cells.

    :param ids: told the names of the columns of a table, and returns which hold ids: those of a
        CSV file stay text. Others are numbers or booleans if all of their cells are, and written
        so that nobody could mean anything else: `0123`, `1e5`, `yes` and `12:30` are text.
    :raises ConfigurationError: for a file that cannot be read, and whatever `ids` raises.
    """
    duckdb = _duckdb()
    kind = _kind(path)
    try:
        with _connected(duckdb) as connection:
            if kind == "ndjson":
                yield from _objects(connection, path)
            else:
                yield from _table(connection, kind, path, ids)
    except duckdb.Error as error:
        raise _unreadable(path, error) from error


def count_rows(path: Path) -> int:
    """Count the rows of a file that `read_events` takes.

    :raises ConfigurationError: for a file that cannot be read.
    """
    duckdb = _duckdb()
    kind = _kind(path)
    source = "read_parquet(?)" if kind == "parquet" else f"read_csv(?, {FORM}, all_varchar = true)"
    source = _json_source(path) if kind == "ndjson" else source
    try:
        with _connected(duckdb) as connection:
            query = f"SELECT count(*) FROM {source}"  # noqa: S608 - no input of anybody's
            row = connection.execute(query, [_name(path)]).fetchone()
    except duckdb.Error as error:
        raise _unreadable(path, error) from error
    return int(row[0]) if row else 0


# ---- reading ------------------------------------------------------------------------------------


def _duckdb() -> ModuleType:
    try:
        import duckdb
    except ModuleNotFoundError as error:
        raise ConfigurationError("this needs: pip install 'mixpanel-async[data]'") from error
    return duckdb


def _connected(library: ModuleType) -> duckdb.DuckDBPyConnection:
    connection: duckdb.DuckDBPyConnection = library.connect(config=CONFIG)
    quieten(connection)
    return connection


def _kind(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
    if name.endswith((".ndjson", ".jsonl", ".json")):
        return "ndjson"
    if name.endswith((".csv", ".tsv")):
        return "csv"
    if name.endswith((".parquet", ".pq")):
        return "parquet"
    raise ConfigurationError(
        f"{path.name}: the name must end in .ndjson, .jsonl, .json, .csv, .tsv or .parquet"
    )


def _name(path: Path) -> str:
    return glob.escape(str(path))


def _json_source(path: Path) -> str:
    # A .json may hold one array; only line by line can what is no JSON be passed over.
    if ".json" in path.suffixes:
        return "read_json_objects(?, format = 'auto')"
    return "read_ndjson_objects(?, ignore_errors = true)"


def _objects(connection: duckdb.DuckDBPyConnection, path: Path) -> Iterator[Any]:
    # Read as they stand: a schema over all lines would bend values and invent columns.
    query = f"SELECT json FROM {_json_source(path)}"  # noqa: S608 - no input of anybody's
    for (text,) in _each(connection.execute(query, [_name(path)])):
        row = None
        with suppress(ValueError, RecursionError):  # it has too many digits, or is too deep
            row = None if text is None else loads(text)
        yield row if isinstance(row, dict) else {}


def _table(
    connection: duckdb.DuckDBPyConnection,
    kind: str,
    path: Path,
    ids: Callable[[tuple[str, ...]], Iterable[str]],
) -> Iterator[dict[str, Any]]:
    whole = f"read_csv($path, {FORM}, sample_size = -1"
    source = "read_parquet($path)" if kind == "parquet" else f"{whole})"
    parameters: dict[str, Any] = {"path": _name(path)}
    described = connection.execute(f"DESCRIBE FROM {source}", parameters).fetchall()
    types = {row[0]: row[1] for row in described}
    if kind == "csv":
        checked(path, list(types))
    texts = set(ids(tuple(types)))
    if kind == "csv":
        texts |= misread(
            connection, _name(path), {k: v for k, v in types.items() if k not in texts}
        )
    if kind == "csv" and texts:
        source = f"{whole}, types = $types)"
        parameters["types"] = dict.fromkeys(texts, "VARCHAR")
        types |= parameters["types"]
    chosen = ", ".join(_column(name, type_) for name, type_ in types.items())
    query = f"SELECT {chosen} FROM {source}"  # noqa: S608 - names are quoted
    for row in _each(connection.execute(query, parameters)):
        yield dict(zip(types, row, strict=True))


def _column(name: str, type_: str) -> str:
    quoted = '"' + name.replace('"', '""') + '"'
    if type_ == "TIMESTAMP WITH TIME ZONE":
        return f"make_timestamp(epoch_us({quoted}))"
    if "WITH TIME ZONE" in type_:
        return f"CAST({quoted} AS VARCHAR)"
    return quoted


def _each(cursor: duckdb.DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
    while rows := cursor.fetchmany(ROWS):
        yield from rows


def _unreadable(path: Path, error: Exception) -> ConfigurationError:
    said = str(error)
    why = problem(path, said) if _kind(path) == "csv" else said.strip().partition("\n")[0]
    return ConfigurationError(f"{path.name}: {why}")


# ---- flat rows to events ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Roles:
    event: str | None
    time: str | None
    distinct_id: str | None
    insert_id: str | None

    @property
    def taken(self) -> frozenset[str | None]:
        return frozenset({self.event, self.time, self.distinct_id, self.insert_id})


class _Shape:
    """Know what the columns of one file mean."""

    def __init__(self, columns: Columns, file: str) -> None:
        self._columns = columns
        self._file = file
        self._first = True
        self.roles = lru_cache(maxsize=1000)(self._roles)

    def ids(self, names: tuple[str, ...]) -> list[str]:
        """Return the columns that hold ids."""
        roles = self.roles(names)
        return [name for name in (roles.distinct_id, roles.insert_id) if name]

    def flat(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Make an event of a flat row."""
        if not row:
            return {}
        roles = self.roles(tuple(row))
        taken = roles.taken
        properties = {k: v for k, v in row.items() if k not in taken and v is not None}
        name = row.get(roles.event) if roles.event else self._columns.event_name
        event = None if name is None else str(name)
        when = row.get(roles.time) if roles.time else None
        properties["time"] = None if when is None else _milliseconds(when)
        who = row.get(roles.distinct_id) if roles.distinct_id else None
        if who is not None:
            properties["distinct_id"] = str(who)
        which = row.get(roles.insert_id) if roles.insert_id else None
        if which is not None:
            properties["$insert_id"] = _insert_id(event, who, str(which))
        return {"event": event, "properties": properties}

    def _roles(self, names: tuple[str, ...]) -> _Roles:
        # In NDJSON each row has names of its own: only the first may say that all are wrong.
        first, self._first = self._first, False
        by_lower = {name.lower(): name for name in reversed(names)}

        def find(role: str, given: str | None) -> str | None:
            if given == "":
                return None
            usual = USUAL[role]
            found = given if given in names else None
            if given is None:
                found = next((by_lower[name] for name in usual if name in by_lower), None)
            if found is None and first and (given is not None or role not in OPTIONAL):
                looked_for = repr(given) if given else " or ".join(map(repr, usual))
                raise ConfigurationError(
                    f"{self._file} has no column {looked_for} for the {role}; "
                    f"it has {', '.join(map(repr, names))}: give Columns({role}=...)"
                )
            return found

        columns = self._columns
        event = None if columns.event_name is not None else find("event", columns.event)
        return _Roles(
            event,
            find("time", columns.time),
            find("distinct_id", columns.distinct_id),
            find("insert_id", columns.insert_id),
        )


def _is_wire(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("event"), str) and isinstance(row.get("properties"), dict)


def _insert_id(event: str | None, who: Any, which: str) -> str:
    if INSERT_ID.fullmatch(which) and which.lower() not in BANNED_IDS:
        return which
    return deterministic_id(event or "", who, which)


def _milliseconds(when: Any) -> Any:
    """Return whole milliseconds since 1970; what is no time comes back as it is."""
    if isinstance(when, str):
        try:
            when = float(when)
        except ValueError:
            try:
                when = datetime.fromisoformat(when.strip())
            except ValueError:
                return when
    if isinstance(when, date) and not isinstance(when, datetime):
        when = datetime(when.year, when.month, when.day, tzinfo=UTC)
    if isinstance(when, datetime):
        return to_api_time(when)
    if isinstance(when, bool) or not isinstance(when, (int, float)) or not math.isfinite(when):
        return when
    while abs(when) > MICROSECONDS:
        when /= 1000
    return round(when if abs(when) > MILLISECONDS else when * 1000)
