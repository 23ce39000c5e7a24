"""Mixpanel's documented limits and rules, checked before anything is sent.

Sources: Mixpanel's API reference, "Import Events" (sizes, names, ids, times, banned ids) and
"User Profile Limits". A message that breaks one is rejected by `/import?strict=1`; `/track` reports
success and drops it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mixpanel._records.values import serial_date

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["BANNED_IDS", "INSERT_ID", "event_problems", "update_problems"]

MAX_BYTES = 1_048_576
MAX_PROPERTIES = 255
MAX_NAME_LENGTH = 255
MAX_DEPTH = 3
MAX_TRACK_AGE = 5 * 86_400
EARLIEST_IMPORT = 31_536_000  # 1971-01-01
MAX_FUTURE = 3_600
MAX_TIMESTAMP = 1e15
MILLISECONDS_FROM = 1e11  # larger numbers are milliseconds: as seconds they are past the year 5000

BANNED_IDS = frozenset(
    [
        "anon",
        "anonymous",
        "nil",
        "none",
        "null",
        "n/a",
        "na",
        "undefined",
        "unknown",
        "<nil>",
        "0",
        "-1",
        "true",
        "false",
        "[]",
        "{}",
        "00000000-0000-0000-0000-000000000000",
    ]
)
INSERT_ID = re.compile(r"[A-Za-z0-9-]{1,36}")
_IDENTITY_EVENTS = frozenset({"$identify", "$create_alias", "$merge"})


def event_problems(  # noqa: C901
    name: Any,
    properties: Mapping[str, Any],
    size: int,
    now: float | None,
    *,
    importing: bool,
    flat: Mapping[str, Any] | None = None,
) -> list[str]:
    """Return a sentence for each rule that this event breaks; `size` is that of its JSON.

    `now` is None when time and `$insert_id` are this package's own, and need no check. `flat` holds
    the properties that are not its own, if none of their values is nested.
    """
    problems: list[str] = []
    if type(name) is not str or not 0 < len(name) <= MAX_NAME_LENGTH:
        problems.append(f"the event name must be text of 1 to {MAX_NAME_LENGTH} characters")
    if type(name) is str and name in _IDENTITY_EVENTS:
        return problems
    distinct_id = properties.get("distinct_id")
    if distinct_id is None or distinct_id == "":
        if not properties.get("$user_id") and not properties.get("$device_id"):
            problems.append("distinct_id is missing: the event will belong to no user")
    elif _is_banned(distinct_id):
        problems.append(f"distinct_id {distinct_id!r} is not accepted by Mixpanel")
    if "$device_id" in properties or "$user_id" in properties:
        _check_ids(properties, problems)
    if now is not None:
        _check_key(properties, now, problems, importing=importing)
    names = _names(properties) if flat is None else flat
    count = len(properties)
    # Nearly all events pass here, without a call. The length of all names together bounds each.
    if size > MAX_BYTES or count > MAX_PROPERTIES or len("".join(names)) > MAX_NAME_LENGTH:
        _check_size(count, names, size, problems)
    # Within this size, the number of values is small enough to visit them all.
    if flat is None and size <= MAX_BYTES:
        for key, value in properties.items():
            _check_nesting(key, value, 1, problems)
    return problems


def _check_ids(properties: Mapping[str, Any], problems: list[str]) -> None:
    # The server derives distinct_id from these, so the same values are banned.
    for key in ("$device_id", "$user_id"):
        value = properties.get(key)
        if isinstance(value, float):
            problems.append(f"{key} {value!r} is a float: pass an id as text")
        elif value is not None and _is_banned(value):
            problems.append(f"{key} {value!r} is not accepted by Mixpanel")


def _check_key(
    properties: Mapping[str, Any], now: float, problems: list[str], *, importing: bool
) -> None:
    insert_id = properties.get("$insert_id")
    if type(insert_id).__name__ == "UUID":
        insert_id = str(insert_id)  # as it is sent
    if insert_id is not None and (
        type(insert_id) is not str
        or not INSERT_ID.fullmatch(insert_id)
        or insert_id.lower() in BANNED_IDS
    ):
        problems.append(
            "$insert_id must be 1 to 36 letters, digits and hyphens, and not a banned id: it is "
            f"{_text(insert_id)!r:.60}"
        )
    if not _is_time_accepted(properties.get("time"), now, importing=importing):
        window = "between 1971 and" if importing else "in the last 5 days, or at most"
        text = _text(properties.get("time"))
        looks_like = serial_date(properties.get("time"))
        problems.append(
            f"time {looks_like}"
            if looks_like
            else f"time must be {window} one hour from now: it is {text:.60}"
        )


def update_problems(update: Mapping[str, Any], size: int) -> list[str]:
    """Return a sentence for each rule that this profile or group update breaks."""
    problems: list[str] = []
    for key in ("$distinct_id", "$group_id", "$group_key"):
        if key in update:
            value = update[key]
            if value is None or value == "":
                problems.append(f"{key} is missing")
            elif isinstance(value, (list, tuple, set, dict)):
                problems.append(f"{key} must be one id, not a {type(value).__name__}")
            elif key == "$distinct_id" and _is_banned(value):
                problems.append(f"{key} {value!r} is not accepted by Mixpanel")
    increments = update.get("$add")
    if isinstance(increments, dict):
        problems += [
            f"$add takes numbers: {name!r} is {type(value).__name__}"
            for name, value in increments.items()
            if isinstance(value, (str, bytes, dict, list, tuple, set, type(None)))
        ]
    _check_size(len(update), _names(update), size, problems)
    if size <= MAX_BYTES:
        for key, value in update.items():
            _check_nesting(key, value, 0, problems)
    return problems


def _is_banned(value: object) -> bool:
    return (value if type(value) is str else _text(value)).lower() in BANNED_IDS


def _text(value: object) -> str:
    """Return the text of a value for a message; `str` fails for integers of 5,000 digits."""
    try:
        return str(value)
    except Exception:
        return f"a {type(value).__name__}"


def _names(properties: Mapping[Any, Any]) -> list[str]:
    return [name if isinstance(name, str) else "" for name in properties]


def _is_time_accepted(time: Any, now: float, *, importing: bool) -> bool:
    if isinstance(time, bool) or not isinstance(time, (int, float)):
        return time is None and not importing
    if not -MAX_TIMESTAMP < time < MAX_TIMESTAMP:
        return False  # an integer that is too large to divide, or NaN
    seconds = time / 1000 if time > MILLISECONDS_FROM else time
    oldest = EARLIEST_IMPORT if importing else now - MAX_TRACK_AGE
    return oldest <= seconds <= now + MAX_FUTURE


def _check_size(count: int, names: Collection[str], size: int, problems: list[str]) -> None:
    if size > MAX_BYTES:
        problems.append(f"the message has {size:,} bytes; Mixpanel accepts {MAX_BYTES:,}")
    if count > MAX_PROPERTIES:
        problems.append(f"{count} properties; Mixpanel accepts {MAX_PROPERTIES}")
    # The length of all together first: checking one by one takes four times as long.
    if len("".join(names)) > MAX_NAME_LENGTH and max(map(len, names)) > MAX_NAME_LENGTH:
        problems.append(f"a property name is longer than {MAX_NAME_LENGTH} characters")


def _check_nesting(name: Any, value: Any, depth: int, problems: list[str]) -> None:
    if not isinstance(value, (dict, list, tuple, set, frozenset)):
        return
    if depth > MAX_DEPTH:
        problems.append(f"{name!r} is nested deeper than {MAX_DEPTH} levels")
        return
    if len(value) > MAX_PROPERTIES:
        problems.append(f"{name!r} has {len(value)} items; Mixpanel accepts {MAX_PROPERTIES}")
    for item in value.values() if isinstance(value, dict) else value:
        _check_nesting(name, item, depth + 1, problems)
        if problems and problems[-1].endswith("levels"):
            return
