"""Rows of files and tables: their times and JSON as events, and rows that cannot be read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

from mixpanel._records.values import is_missing, serial_date, to_api_time

__all__ = ["DuplicateKeyError", "UnreadableRow", "event_of_table_row", "loads", "to_milliseconds"]

MIN_MILLISECONDS = 1e11  # a larger number is not in seconds: that would be the year 5138
MIN_MICROSECONDS = 1e14
# As BigQuery writes a time: `2026-01-31 12:00:00 UTC`.
_UTC_SUFFIX = re.compile(r"\s*(UTC|GMT)$", re.IGNORECASE)
_LOOSE_DATE = re.compile(r"(\d{4})[-/](\d{1,2})[-/](\d{1,2})(?=$|[ T])")
_LOOSE_HOUR = re.compile(r"(?<=[ T])(\d)(?=:)")
TABLE_COLUMNS = frozenset({"event_name", "event_time", "properties"})


class UnreadableRow(dict[str, Any]):
    """A row that cannot be read, in the place of the row: empty, with the reason and the text.

    It keeps the positions of the other rows, and is rejected with its reason.
    """

    def __init__(self, problem: str, record: Mapping[str, Any]) -> None:
        super().__init__()
        self.problem: str = problem
        self.record: dict[str, Any] = dict(record)


class DuplicateKeyError(ValueError):
    """A JSON object has the same key twice, so that one of the two values would be lost."""


def loads(text: str | bytes) -> Any:
    """Parse JSON.

    :raises DuplicateKeyError: if an object has the same key twice.
    :raises ValueError: if it is not valid.
    """
    return _decode(text if isinstance(text, str) else text.decode())


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise DuplicateKeyError(f"the key {key!r} occurs twice")
            seen.add(key)
    return unique


# Made once: `json.loads` would make one for each text.
_decode = json.JSONDecoder(object_pairs_hook=_unique).decode


def event_of_table_row(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the event in a row of an events table; None for another mapping.

    Such a row is `{event_name, event_time, distinct_id, insert_id, properties}`, as
    `Workspace.stream_events` yields it; `properties` may be JSON text.
    """
    if "event" in row or not row.keys() >= TABLE_COLUMNS:
        return None
    properties = row["properties"]
    if isinstance(properties, str):
        try:
            properties = loads(properties)
        except (ValueError, RecursionError):
            return None
    if not isinstance(properties, Mapping | None):
        return None
    event = dict(properties or {})
    if not is_missing(row["event_time"]):
        event["time"] = to_milliseconds(row["event_time"])
    for column, name in (("distinct_id", "distinct_id"), ("insert_id", "$insert_id")):
        if not is_missing(row.get(column)):
            event[name] = row[column]
    return {"event": row["event_name"], "properties": event}


def to_milliseconds(time_value: Any) -> Any:
    """Return a time as whole milliseconds since 1970, and anything else unchanged."""
    if isinstance(time_value, str):
        parsed = _parsed_time(time_value.strip())
        if parsed is None:
            return time_value
        time_value = parsed
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


def _parsed_time(text: str) -> float | datetime | None:
    if text[4:5] != "-":  # nearly all texts are dates, and an exception takes time
        try:
            return _plain_number(text)
        except ValueError:
            pass
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(_regular(text))
    except ValueError:
        pass
    try:
        return _plain_number(text)
    except ValueError:
        return None


def _plain_number(text: str) -> float:
    """Return the number that a text is; Python also takes `1_000` and digits of other scripts."""
    if "_" in text or not text.isascii():
        raise ValueError(text)
    return float(text)


def _regular(text: str) -> str:
    """Return a time in the form of ISO 8601, if it is nearly so: `2026/1/31 9:00:00 UTC`."""
    text, zones = _UTC_SUFFIX.subn("", text)
    text = _LOOSE_DATE.sub(lambda m: f"{m[1]}-{m[2]:0>2}-{m[3]:0>2}", text, count=1)
    return _LOOSE_HOUR.sub(r"0\1", text, count=1) + ("+00:00" if zones and ":" in text else "")
