"""The server's documented rules, checked before anything is sent.

Sources: Mixpanel's API reference, "Import Events" (sizes, names, ids, times, banned ids) and
"User Profile Limits". A message that breaks one is refused by `/import?strict=1` and vanishes
behind a success on `/track`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["BANNED_IDS", "event_problems", "update_problems"]

LARGEST = 1_048_576
MOST_PROPERTIES = 255
LONGEST_NAME = 255
DEEPEST = 3
OLDEST_TRACK = 5 * 86_400
OLDEST_IMPORT = 31_536_000  # 1971-01-01
FUTURE = 3_600
LATEST = 1e15
MILLISECONDS = 1e11  # above it a number cannot be seconds: the year would be past 5000

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
_INSERT_ID = re.compile(r"[A-Za-z0-9-]{1,36}")
_IDENTITY_EVENTS = frozenset({"$identify", "$create_alias", "$merge"})


def event_problems(
    name: Any,
    properties: Mapping[str, Any],
    size: int,
    now: float | None,
    *,
    importing: bool,
    flat: Mapping[str, Any] | None = None,
) -> list[str]:
    """Return a sentence for each rule that this event breaks; `size` is that of its JSON.

    `now` is None when time and `$insert_id` are our own; `flat` are those of the properties
    that are not our own, when no value is nested.
    """
    problems: list[str] = []
    if type(name) is not str or not 0 < len(name) <= LONGEST_NAME:
        problems.append(f"the event name must be text of 1 to {LONGEST_NAME} characters")
    if type(name) is str and name in _IDENTITY_EVENTS:
        return problems
    distinct_id = properties.get("distinct_id")
    if distinct_id is None or distinct_id == "":
        if not properties.get("$user_id") and not properties.get("$device_id"):
            problems.append("distinct_id is missing: the event will belong to no user")
    elif _is_banned(distinct_id):
        problems.append(f"distinct_id {distinct_id!r} is one that Mixpanel refuses")
    if "$device_id" in properties or "$user_id" in properties:
        _check_ids(properties, problems)
    if now is not None:
        _check_key(properties, now, problems, importing=importing)
    names = _names(properties) if flat is None else flat
    _check_size(len(properties), names, size, problems)
    # A message within bounds has not so many values that a walk through them would take long.
    if flat is None and size <= LARGEST:
        for key, value in properties.items():
            _check_nesting(key, value, 1, problems)
    return problems


def _check_ids(properties: Mapping[str, Any], problems: list[str]) -> None:
    # What a distinct_id may not be, these may not either: it is made of them.
    for key in ("$device_id", "$user_id"):
        value = properties.get(key)
        if value is not None and _is_banned(value):
            problems.append(f"{key} {value!r} is one that Mixpanel refuses")


def _check_key(
    properties: Mapping[str, Any], now: float, problems: list[str], *, importing: bool
) -> None:
    insert_id = properties.get("$insert_id")
    if type(insert_id).__name__ == "UUID":
        insert_id = str(insert_id)  # as it travels
    if insert_id is not None and (
        type(insert_id) is not str
        or not _INSERT_ID.fullmatch(insert_id)
        or insert_id.lower() in BANNED_IDS
    ):
        problems.append(
            "$insert_id must be 1 to 36 letters, digits and hyphens, and no banned id: it is "
            f"{_text(insert_id)!r:.60}"
        )
    if not _in_time(properties.get("time"), now, importing=importing):
        window = "between 1971 and" if importing else "of the last 5 days, and at most"
        told = _text(properties.get("time"))
        problems.append(f"time must be {window} one hour from now: it is {told:.60}")


def update_problems(update: Mapping[str, Any], size: int) -> list[str]:
    """Return a sentence for each rule that this profile or group update breaks."""
    problems: list[str] = []
    for key in ("$distinct_id", "$group_id", "$group_key"):
        if key in update:
            value = update[key]
            if value is None or value == "":
                problems.append(f"{key} is missing")
            elif key == "$distinct_id" and _is_banned(value):
                problems.append(f"{key} {value!r} is one that Mixpanel refuses")
    increments = update.get("$add")
    if isinstance(increments, dict):
        problems += [
            f"$add takes numbers: {name!r} is {type(value).__name__}"
            for name, value in increments.items()
            if isinstance(value, (str, bytes, dict, list, tuple, set, type(None)))
        ]
    _check_size(len(update), _names(update), size, problems)
    if size <= LARGEST:
        for key, value in update.items():
            _check_nesting(key, value, 0, problems)
    return problems


def _is_banned(value: object) -> bool:
    return (value if type(value) is str else _text(value)).lower() in BANNED_IDS


def _text(value: object) -> str:
    """Return what a message may say of a value: `str` fails for integers of 5,000 digits."""
    try:
        return str(value)
    except Exception:
        return f"a {type(value).__name__}"


def _names(properties: Mapping[Any, Any]) -> list[str]:
    return [name if isinstance(name, str) else "" for name in properties]


def _in_time(time: Any, now: float, *, importing: bool) -> bool:
    if isinstance(time, bool) or not isinstance(time, (int, float)):
        return time is None and not importing
    if not -LATEST < time < LATEST:
        return False  # an integer that is too large to divide, or no number
    seconds = time / 1000 if time > MILLISECONDS else time
    oldest = OLDEST_IMPORT if importing else now - OLDEST_TRACK
    return oldest <= seconds <= now + FUTURE


def _check_size(count: int, names: Collection[str], size: int, problems: list[str]) -> None:
    if size > LARGEST:
        problems.append(f"the message has {size:,} bytes; Mixpanel takes {LARGEST:,}")
    if count > MOST_PROPERTIES:
        problems.append(f"{count} properties; Mixpanel takes {MOST_PROPERTIES}")
    # All together first: one by one takes four times as long.
    if len("".join(names)) > LONGEST_NAME and max(map(len, names)) > LONGEST_NAME:
        problems.append(f"a property name is longer than {LONGEST_NAME} characters")


def _check_nesting(name: Any, value: Any, depth: int, problems: list[str]) -> None:
    if not isinstance(value, (dict, list, tuple, set, frozenset)):
        return
    if depth > DEEPEST:
        problems.append(f"{name!r} is nested deeper than {DEEPEST} levels")
        return
    if len(value) > MOST_PROPERTIES:
        problems.append(f"{name!r} holds {len(value)} items; Mixpanel takes {MOST_PROPERTIES}")
    for inner in value.values() if isinstance(value, dict) else value:
        _check_nesting(name, inner, depth + 1, problems)
        if problems and problems[-1].endswith("levels"):
            return
