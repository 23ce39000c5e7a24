"""The entries of the live feed: one for each record of a request, with its outcome.

Does no I/O. A lane is the kind of the records of an endpoint. Records of all lanes are entries, so
that an event that is missing in a report can be found here together with the reason.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

__all__ = [
    "BY_CHOICE",
    "CDP_LANES",
    "LANES",
    "VERDICTS",
    "Description",
    "Entry",
    "Exchange",
    "Lane",
    "RequestRecord",
    "Verdict",
    "describe",
    "json_type",
    "lane_of",
    "preview",
    "summary",
]

Lane = Literal[
    "events", "imports", "profiles", "groups", "flags", "customerio", "hightouch", "segment",
    "rudderstack", "tables", "queries",
]  # fmt: skip
Verdict = Literal[
    "accepted", "duplicate", "rejected", "faulted", "queued", "retrying", "dropped"
]  # fmt: skip

LANES: tuple[Lane, ...] = Lane.__args__  # type: ignore[attr-defined] # of a Literal
VERDICTS: tuple[Verdict, ...] = Verdict.__args__  # type: ignore[attr-defined]
CDP_LANES: tuple[Lane, ...] = ("customerio", "hightouch", "segment", "rudderstack")
BY_PATH: dict[str, Lane] = {
    "track": "events",
    "import": "imports",
    "engage": "profiles",
    "groups": "groups",
    "flags": "flags",
    "lookup-tables": "tables",
    "customerio": "customerio",
    "hightouch": "hightouch",
    "segment": "segment",
    "rudderstack": "rudderstack",
}

BY_CHOICE: dict[str, str] = {
    "disabled": "the client is disabled: nothing is sent",
    "sampled": "left out by sample_rate",
    "before_send": "before_send returned None",
}
"""The reasons of `stats().dropped` that a program chose, each with its text on the page."""
MAX_LABEL = 200  # characters of a name, an id or a reason
MAX_VALUE = 60
MAX_PREVIEW = 400
MAX_MEMBERS = 5  # of an object or list in a preview
HIDDEN = frozenset({"token", "time", "distinct_id", "$insert_id", "mp_lib", "$lib_version", "ip"})
OF_PROFILES = ("$token", "$distinct_id", "$group_key", "$group_id", "$time", "$ip", "$ignore_time",
               "$ignore_alias")  # fmt: skip


class Exchange(Protocol):
    """One request as it was received, and its response if there is one yet."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    received_at: float
    body: bytes
    status: int | None
    response_body: bytes


class RequestRecord(NamedTuple):
    """One record of a request, and the reason if it was rejected.

    Records with the same `key` are copies of one message.
    """

    record: Any
    reason: str | None = None
    key: Hashable = None
    note: str | None = None


@dataclass(slots=True, eq=False)
class Entry:
    """One record in the feed. `seq` increases with every entry and every change of one."""

    id: int
    seq: int
    at: float
    lane: Lane
    verdict: Verdict
    record: Any
    exchange: Exchange
    event: str | None = None
    distinct_id: str | None = None
    insert_id: str | None = None
    properties: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None
    status: int | None = None
    """The HTTP status of the response, None without one."""
    fault: str | None = None
    notes: list[tuple[str, str]] = field(default_factory=list)
    """The problems that were found: the kind of each, and its text for this entry."""
    index: int = 0
    count: int = 1
    """How many records the request has."""
    size: int = 0
    tries: int = 0
    """How often it was sent, if that is known: retries, and polls with the same response."""
    last: float | None = None
    """The time at which it was last sent."""
    via: str | None = None
    """The program that reported what it sends, for entries that did not arrive here."""


class Description(NamedTuple):
    """The name, ids and properties of a record, those that it has."""

    event: str | None = None
    distinct_id: str | None = None
    insert_id: str | None = None
    properties: Mapping[str, Any] = {}


def lane_of(path: str) -> Lane:
    """Return the lane of a request path.

    >>> lane_of("/customerio/v1/batch")
    'customerio'
    """
    return BY_PATH.get(path.lstrip("/").partition("/")[0], "queries")


def describe(lane: Lane, record: Any) -> Description:
    """Return the name, ids and properties of a record, which may have any form."""
    if not isinstance(record, dict):
        return Description()
    if lane in ("profiles", "groups"):
        return _describe_update(record)
    if lane in CDP_LANES:
        return _describe_message(record)
    if lane == "flags":
        variants = {
            key: value.get("variant_key") if isinstance(value, dict) else value
            for key, value in _mapping(record.get("variants")).items()
        }
        name = _label(record.get("flag_key")) or "all flags"
        return Description(name, _label(record.get("distinct_id")), None, variants)
    if lane in ("tables", "queries"):
        return Description(None, None, None, record)
    properties = _mapping(record.get("properties"))
    user = next(
        (properties[name] for name in ("distinct_id", "$user_id", "$device_id", "$identified_id")
         if properties.get(name) is not None),
        None,
    )  # fmt: skip
    return Description(
        _label(record.get("event")), _label(user), _label(properties.get("$insert_id")), properties
    )


def preview(properties: Mapping[str, Any]) -> str:
    """Return properties as one line of text, without those that every event has.

    >>> preview({"token": "T", "amount": 12.5, "plan": "pro"})
    'amount 12.5 · plan pro'
    """
    parts: list[str] = []
    length = 0
    for name, value in properties.items():
        if name in HIDDEN:
            continue
        parts.append(f"{_cut(name, MAX_VALUE)} {_short(value)}")
        length += len(parts[-1])
        if length > MAX_PREVIEW:
            return _cut(" · ".join(parts), MAX_PREVIEW)
    return " · ".join(parts)


def summary(entry: Entry) -> dict[str, Any]:
    """Return an entry for the stream: everything but the record and the request."""
    return {
        "id": entry.id,
        "at": round(entry.at, 3),
        "lane": entry.lane,
        "verdict": entry.verdict,
        "event": entry.event,
        "distinct_id": entry.distinct_id,
        "insert_id": entry.insert_id,
        "reason": None if entry.reason is None else _cut(entry.reason, MAX_LABEL),
        "fault": entry.fault,
        "problems": [kind for kind, _ in entry.notes],
        "note": _cut(entry.notes[0][1], MAX_LABEL) if entry.notes else None,
        "method": entry.exchange.method,
        "path": _cut(entry.exchange.path, MAX_LABEL),
        "status": entry.status,
        "bytes": entry.size,
        "index": entry.index,
        "count": entry.count,
        "tries": entry.tries,
        "last": entry.last,
        "via": entry.via,
        "preview": preview(entry.properties),
    }


def json_type(value: Any) -> str | None:
    """Return the name of a value's JSON type, None for null.

    >>> json_type(12.5)
    'number'
    """
    if value is None:
        return None
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "list" if isinstance(value, list | tuple) else "object"


def _describe_update(record: Mapping[str, Any]) -> Description:
    operation = next(
        (name for name in record if name.startswith("$") and name not in OF_PROFILES), None
    )
    value = record.get(operation) if operation else None
    properties = value if isinstance(value, dict) else {}
    if isinstance(value, list):
        properties = {str(name): None for name in value[:MAX_MEMBERS]}
    if "$group_key" in record or "$group_id" in record:
        owner = f"{_text(record.get('$group_key'))} {_text(record.get('$group_id'))}"
        return Description(_label(operation), _label(owner), None, properties)
    return Description(_label(operation), _label(record.get("$distinct_id")), None, properties)


def _describe_message(record: Mapping[str, Any]) -> Description:
    kind, name = record.get("type"), record.get("event") or record.get("name")
    event = _label(name) if kind == "track" else _label(kind)
    if kind in ("page", "screen") and isinstance(name, str):
        event = _label(f"{kind} {name}")
    user = record.get("userId") or record.get("anonymousId")
    properties = _mapping(record.get("properties") or record.get("traits"))
    return Description(event, _label(user), _label(record.get("messageId")), properties)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _label(value: Any) -> str | None:
    return None if value is None else _cut(_text(value), MAX_LABEL)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict | list):
        return _short(value)
    return json.dumps(value, default=str)


def _short(value: Any) -> str:
    """Return a short text for a value, without reading all of a long one."""
    if isinstance(value, str):
        return _cut(value, MAX_VALUE)
    if isinstance(value, dict):
        names = [_cut(str(name), MAX_VALUE) for name in list(value)[:MAX_MEMBERS]]
        return "{" + ", ".join(names) + (", …}" if len(value) > MAX_MEMBERS else "}")
    if isinstance(value, list):
        few = [each for each in value[:MAX_MEMBERS] if not isinstance(each, dict | list)]
        if len(few) < len(value):
            return f"[{len(value):,} items]"
        return "[" + ", ".join(_short(each) for each in few) + "]"
    return json.dumps(value, default=str)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
