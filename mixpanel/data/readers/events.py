"""Turn the rows of a file into events."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mixpanel._records.failed_rows import FailedRecord
from mixpanel._records.record import deterministic_id
from mixpanel._records.rows import UnreadableRow, loads, to_milliseconds
from mixpanel._records.spreadsheets import guarded
from mixpanel._records.validation import BANNED_IDS, INSERT_ID
from mixpanel._records.values import is_missing, plain_id, to_api_time
from mixpanel.data.readers.options import converted
from mixpanel.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mixpanel.data.readers.options import ReadOptions

__all__ = ["Columns", "EventConverter"]

DEFAULT_NAMES: dict[str, tuple[str, ...]] = {
    "event": ("event", "event_name", "name"),
    "time": ("time", "timestamp", "event_time", "ts"),
    "distinct_id": ("distinct_id", "user_id"),
    "insert_id": ("$insert_id", "insert_id", "id"),
    "properties": ("properties",),
}
# In our tables and their typed views, other columns are properties, also one named `event`.
OWN = frozenset({"event_name", "event_time"})
OWN_NAMES = DEFAULT_NAMES | {
    "event": ("event_name",), "time": ("event_time",), "insert_id": ("insert_id",),
}  # fmt: skip
OPTIONAL_ROLES = frozenset({"insert_id", "properties"})
# The columns of an events table, of which `event_time_local` repeats the time.
TABLE = frozenset({"event_name", "event_time", "properties"})
LOCAL_TIME = "event_time_local"
# The columns of Mixpanel's JSON pipelines that are reserved properties.
PIPELINE = frozenset({"event_name", "time", "properties"})
PIPELINE_PROPERTIES = {"device_id": "$device_id", "user_id": "$user_id"}


@dataclass(frozen=True, slots=True)
class Columns:
    """Map the columns of a flat file to the fields of an event; all others become properties.

    None looks for the usual names, ignoring case: `event`, `event_name`, `name`; `time`,
    `timestamp`, `event_time`, `ts`; `distinct_id`, `user_id`; `$insert_id`, `insert_id`, `id`;
    `properties`. "" means that there is no such column: for `distinct_id`, that events belong to no
    user; for `properties`, that this column is a property like others. `event_name` is one event
    name for all rows, instead of a column.
    """

    event: str | None = None
    time: str | None = None
    distinct_id: str | None = None
    insert_id: str | None = None
    event_name: str | None = None
    properties: str | None = None


@dataclass(frozen=True, slots=True)
class _ColumnRoles:
    event: str | None
    time: str | None
    distinct_id: str | None
    insert_id: str | None
    properties: str | None
    renamed: Mapping[str, str]  # other columns that are properties of another name
    repeated: frozenset[str]  # columns that repeat another one
    is_table: bool

    @property
    def used(self) -> frozenset[str | None]:
        roles = {self.event, self.time, self.distinct_id, self.insert_id, self.properties}
        return frozenset(roles) | self.repeated


class EventConverter:
    """Convert the flat rows of one file to events."""

    def __init__(self, columns: Columns, file: str, options: ReadOptions) -> None:
        self._columns = columns
        self._file = file
        self._date_format = options.date_format
        self._first = True
        self.is_csv = False
        self.roles: Callable[[tuple[str, ...]], _ColumnRoles] = lru_cache(maxsize=1000)(self._roles)

    def texts(self, names: tuple[str, ...]) -> list[str]:
        """Return the columns that stay text: those that hold ids, times and JSON objects."""
        roles = self.roles(names)
        columns = (
            roles.event, roles.time, roles.distinct_id, roles.insert_id, roles.properties,
            *roles.renamed,
        )  # fmt: skip
        return [name for name in columns if name]

    def to_event(self, row: Mapping[str, Any], *, may_be_event: bool) -> Any:
        """Return a row as an event; one that `may_be_event` is unchanged if it is."""
        if not row:
            return row
        if may_be_event and isinstance(row.get("properties"), dict):
            has_time = "time" in row["properties"] or not row.keys() & {*DEFAULT_NAMES["time"]}
            is_named = isinstance(row.get("event", 0), str | None)  # without a name, it is rejected
            if has_time and is_named and not row.keys() & OWN:
                return row
        roles = self.roles(tuple(row))
        is_csv = row.is_csv if isinstance(row, FailedRecord) else self.is_csv
        if roles.is_table and is_csv:
            row = {k: _unguarded(v) for k, v in row.items()}
        try:
            return self._event(row, roles)
        except ValueError as error:
            return UnreadableRow(str(error), row)

    def _event(self, row: Mapping[str, Any], roles: _ColumnRoles) -> dict[str, Any]:
        used = roles.used
        properties = {
            roles.renamed.get(k, k): v for k, v in row.items() if k not in used and v is not None
        }
        nested = _object(row.get(roles.properties)) if roles.properties else None
        if nested is not None:
            properties |= nested
        elif roles.properties and row.get(roles.properties) is not None:
            properties[roles.properties] = row[roles.properties]  # a property of that name
        name = row.get(roles.event) if roles.event else self._columns.event_name
        event = None if name is None else str(name)
        time_value = row.get(roles.time) if roles.time else None
        if not is_missing(time_value) or properties.get("time") is None:
            properties["time"] = None if is_missing(time_value) else self._time(roles, time_value)
        distinct_id = row.get(roles.distinct_id) if roles.distinct_id else None
        if not is_missing(distinct_id):
            properties["distinct_id"] = distinct_id = plain_id(distinct_id, "distinct_id")[0]
        insert_id = row.get(roles.insert_id) if roles.insert_id else None
        if not is_missing(insert_id):
            own_id = plain_id(insert_id, "insert_id")[0]
            properties["$insert_id"] = _insert_id(event, distinct_id, own_id)
        return {"event": event, "properties": properties}

    def _time(self, roles: _ColumnRoles, value: Any) -> Any:
        if self._date_format is not None and isinstance(value, str):
            return to_api_time(converted(roles.time or "time", value, "date", self._date_format))
        return to_milliseconds(value)

    def _roles(self, names: tuple[str, ...]) -> _ColumnRoles:
        # Every NDJSON row has its own keys. Only the first must have all columns, so that a wrong
        # mapping fails at once, and a single odd row does not stop the import.
        first, self._first = self._first, False
        by_lower = {name.lower(): name for name in reversed(names)}
        by_lower |= {name: name for name in names if name == name.lower()}
        known = frozenset(names)
        is_own = known >= OWN

        def find(role: str, column_name: str | None) -> str | None:
            if column_name == "":
                return None
            default_names = DEFAULT_NAMES[role] if not is_own else OWN_NAMES[role]
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
        is_table = known >= TABLE
        is_pipeline = known >= PIPELINE and columns.properties is None
        event = None if columns.event_name is not None else find("event", columns.event)
        distinct_id = find("distinct_id", columns.distinct_id)
        return _ColumnRoles(
            event,
            find("time", columns.time),
            distinct_id,
            find("insert_id", columns.insert_id),
            find("properties", columns.properties),
            {k: v for k, v in PIPELINE_PROPERTIES.items() if k in known and k != distinct_id}
            if is_pipeline
            else {},
            frozenset({LOCAL_TIME}) if is_table else frozenset(),
            is_table,
        )


def _object(value: Any) -> dict[str, Any] | None:
    """Return a cell as a JSON object; None if it is none.

    :raises ValueError: if it looks like one and cannot be read.
    """
    if isinstance(value, dict):
        return value
    if not isinstance(value, str) or not value.lstrip().startswith("{"):
        return None
    try:
        parsed = loads(value)
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"properties is not valid JSON: {why}") from error
    return parsed if isinstance(parsed, dict) else None


def _unguarded(value: Any) -> Any:
    """Return a cell without the `'` that our CSV exports put before a formula."""
    if isinstance(value, str) and value.startswith("'") and guarded(value[1:]) == value:
        return value[1:]
    return value


def _insert_id(event: str | None, distinct_id: Any, insert_id: str) -> str:
    if INSERT_ID.fullmatch(insert_id) and insert_id.lower() not in BANNED_IDS:
        return insert_id
    return deterministic_id(event or "", distinct_id, insert_id)
