"""Judge events by the rules Mixpanel documents: what is stored, what is refused, and why.

A room without I/O: the clock, the caller's address and the token check are passed in. The rules are
those of the public reference pages for `/track`, `/import` and their identity events.
"""

import hashlib
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from pydantic_core import to_json

Wire = Literal["track", "import"]
Accepted = TypeVar("Accepted")

BANNED_IDS = frozenset(
    {
        *("anon", "anonymous", "nil", "none", "null", "n/a", "na", "undefined", "unknown", "<nil>"),
        *("0", "-1", "true", "false", "[]", "{}", "00000000-0000-0000-0000-000000000000"),
    }
)
IDENTITY_EVENTS = frozenset({"$identify", "$create_alias", "$merge"})
MAX_NAME = 255
MAX_STRING = 255
MAX_MEMBERS = 255
MAX_DEPTH = 3
MAX_RECORD_BYTES = 1_000_000
OLDEST_TRACKED = 5 * 24 * 3600
OLDEST_IMPORTED = 365 * 24 * 3600
FUTURE = 3600
MILLISECONDS_FROM = 1e11
LATEST = 1e15
TOLD = ("token", "time")
# What has a column of its own, is read for its place on the map, or is the server's to say.
CONSUMED = ("distinct_id", "$insert_id", "ip", "mp_processing_time_ms")
INSERT_ID = re.compile(r"[A-Za-z0-9-]{1,36}", re.ASCII)


class Event(NamedTuple):
    """One event as it is stored: the four-part key, and its properties as JSON text.

    `told` holds, also as JSON, the token and the time as they were sent; `properties` the rest.
    """

    event: str
    time: int
    distinct_id: str
    insert_id: str
    told: str
    properties: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """One record that was not stored, in the words of `failed_records`."""

    index: int
    insert_id: str | None
    field: str
    message: str


@dataclass(slots=True)
class Judgement(Generic[Accepted]):
    """What became of one request's records.

    `good` counts the records that were found valid, those dropped by `$ignore` included. `aliases`
    are (id, canonical id) pairs told by identity events.
    """

    accepted: list[Accepted] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)
    good: int = 0
    unauthorized: int = 0


class Refused(Exception):  # noqa: N818  # a verdict on a record, not a failure of ours
    """Say which field of a record breaks which rule."""

    def __init__(self, field: str, message: str, *, unauthorized: bool = False) -> None:
        super().__init__(field, message)
        self.field = field
        self.message = message
        self.unauthorized = unauthorized


def judge_events(
    records: Sequence[Any],
    *,
    wire: Wire,
    now: float,
    strict: bool = True,
    address: str = "127.0.0.1",
    accepts: Callable[[str], bool] = bool,
    refuse: Mapping[int, str] | None = None,
) -> Judgement[Event]:
    """Sort one request's events into those to store and those to refuse.

    `accepts` is asked for the token of each `/track` record. `refuse` forces records, by their
    index, to be refused with the message given.
    """
    judgement: Judgement[Event] = Judgement()
    rules = _Rules(wire, now, address, accepts, demand_insert_id=wire == "import" and strict)
    for index, record in enumerate(records):
        try:
            spare(index, refuse)
            event = rules.examine(record, judgement.aliases)
        except Refused as refused:
            judgement.unauthorized += refused.unauthorized
            insert_id = told_insert_id(record)
            judgement.refusals.append(Refusal(index, insert_id, refused.field, refused.message))
        else:
            judgement.good += 1
            if event is not None:
                judgement.accepted.append(event)
    return judgement


def spare(index: int, refuse: Mapping[int, str] | None) -> None:
    """Refuse a record that a fault has chosen."""
    if refuse and index in refuse:
        raise Refused("", refuse[index])


def told_insert_id(record: Any) -> str | None:
    """Return the `$insert_id` a record came with, however broken the record is."""
    properties = record.get("properties") if isinstance(record, dict) else None
    insert_id = properties.get("$insert_id") if isinstance(properties, dict) else None
    return insert_id if isinstance(insert_id, str) else None


def identifier(value: Any, field: str) -> str:
    """Return an id as text, or refuse the placeholders that would merge strangers into one user."""
    text = value if isinstance(value, str) else to_json(value).decode()
    if text.lower() in BANNED_IDS:
        raise Refused(field, f"'{field}' is invalid: {text!r} is not allowed as an id")
    if isinstance(value, (dict, list)):
        raise Refused(field, f"'{field}' is invalid: must be a string")
    return text[:MAX_STRING]


def json_text(value: Any) -> str:
    """Write a value as JSON, the way it is stored."""
    return to_json(value, inf_nan_mode="null").decode()


def milliseconds(value: Any) -> int:
    """Read a time in seconds or milliseconds; what is too large for seconds is milliseconds."""
    if type(value) not in (int, float) or not -LATEST < value < LATEST:
        raise Refused(
            "properties.time",
            "'properties.time' is invalid: must be seconds or milliseconds since epoch",
        )
    return int(round(value if abs(value) >= MILLISECONDS_FROM else value * 1000))  # noqa: RUF046


def settled(value: Any, field: str, depth: int = 1) -> Any:
    """Return a property value as it is stored: strings cut at 255, nesting within its limits.

    The documentation does not say whether lists count towards the depth of three. Here they do.
    """
    if isinstance(value, str):
        return value[:MAX_STRING]
    if not isinstance(value, (dict, list)):
        return value
    if depth > MAX_DEPTH:
        raise Refused(field, f"'{field}' is invalid: nested deeper than {MAX_DEPTH}")
    if len(value) >= MAX_MEMBERS:
        kind, parts = ("object", "keys") if isinstance(value, dict) else ("list", "items")
        raise Refused(field, f"'{field}' is invalid: {kind} must have fewer than 255 {parts}")
    if isinstance(value, dict):
        return {name: settled(member, field, depth + 1) for name, member in value.items()}
    return [settled(member, field, depth + 1) for member in value]


@dataclass(slots=True)
class _Rules:
    wire: Wire
    now: float
    address: str
    accepts: Callable[[str], bool]
    demand_insert_id: bool

    def examine(self, record: Any, aliases: dict[str, str]) -> Event | None:
        name, properties = self._shape(record)
        if properties.get("$ignore"):
            return None
        identity = name in IDENTITY_EVENTS
        distinct_id, alias = _identity(name, properties) if identity else self._who(properties)
        time = self._time(properties, identity=identity)
        insert_id = self._insert_id(properties, identity=identity)
        told = {key: properties.pop(key) for key in TOLD if key in properties}
        for key in CONSUMED:
            properties.pop(key, None)
        for key, value in properties.items():
            if len(key) > MAX_NAME:
                message = f"property name is longer than {MAX_NAME}: {key[:40]!r}"
                raise Refused("properties", message)
            kind = type(value)
            if kind is dict or kind is list or (kind is str and len(value) > MAX_STRING):
                properties[key] = settled(value, f"properties.{key}")
        text = json_text(properties)
        if len(text) > MAX_RECORD_BYTES // 4 and len(text.encode()) > MAX_RECORD_BYTES:
            raise Refused("", f"event is larger than {MAX_RECORD_BYTES} bytes")
        if alias is not None:
            aliases[alias] = distinct_id
        return Event(name, time, distinct_id, insert_id, json_text(told), text)

    def _shape(self, record: Any) -> tuple[str, dict[str, Any]]:
        if not isinstance(record, dict):
            raise Refused("", "record must be an object")
        name = record.get("event")
        if not isinstance(name, str) or not name:
            raise Refused("event", "'event' is invalid: must be a non-empty string")
        if len(name) > MAX_NAME:
            raise Refused("event", f"'event' is invalid: longer than {MAX_NAME}")
        properties = record.get("properties")
        if not isinstance(properties, dict):
            raise Refused("properties", "'properties' is invalid: must be an object")
        if len(properties) >= MAX_MEMBERS:
            raise Refused("properties", "event must have fewer than 255 properties")
        if self.wire == "track":
            token = properties.get("token")
            if not isinstance(token, str) or not self.accepts(token):
                message = "'properties.token' is missing or invalid"
                raise Refused("properties.token", message, unauthorized=True)
        return name, dict(properties)

    def _time(self, properties: dict[str, Any], *, identity: bool) -> int:
        value = properties.get("time")
        if value is None:
            if self.wire == "import" and not identity:
                raise Refused("properties.time", "'properties.time' is missing")
            properties["time"] = value = int(self.now)
        time = milliseconds(value)
        if time > (self.now + FUTURE) * 1000:
            message = "'properties.time' is invalid: more than one hour in the future"
            raise Refused("properties.time", message)
        if self.wire == "track" and time < (self.now - OLDEST_TRACKED) * 1000:
            message = "'properties.time' is invalid: older than five days, use /import"
            raise Refused("properties.time", message)
        if time < OLDEST_IMPORTED * 1000:
            raise Refused("properties.time", "'properties.time' is invalid: before 1971-01-01")
        return time

    def _insert_id(self, properties: dict[str, Any], *, identity: bool) -> str:
        value = properties.get("$insert_id")
        field = "properties.$insert_id"
        if value is None:
            if self.demand_insert_id and not identity:
                raise Refused(field, "'properties.$insert_id' is missing")
            return str(uuid.uuid4())
        if not isinstance(value, str) or not INSERT_ID.fullmatch(value):
            message = "must be a string of at most 36 characters out of A-Z, a-z, 0-9 and -"
            raise Refused(field, f"'{field}' is invalid: {message}")
        return identifier(value, field)

    def _who(self, properties: dict[str, Any]) -> tuple[str, str | None]:
        """Return the distinct_id and, in a project with Simplified ID Merge, what it stands for."""
        device, user = properties.get("$device_id"), properties.get("$user_id")
        alias = None
        if device:
            device = alias = f"$device:{identifier(device, 'properties.$device_id')}"
        if user:
            user = identifier(user, "properties.$user_id")
        value = properties.get("distinct_id")
        if value is not None:
            told = identifier(value, "properties.distinct_id")
            return told, alias if told == user else None
        if user:
            return user, alias
        if device:
            return device, None
        return hashlib.sha256(self.address.encode()).hexdigest()[:36], None


def _identity(name: str, properties: dict[str, Any]) -> tuple[str, str]:
    """Read an identity event: the id that stays, and the id that now stands for it."""
    if name == "$merge":
        ids = properties.get("$distinct_ids")
        if not isinstance(ids, list) or len(ids) != 2:
            message = "'properties.$distinct_ids' is invalid: must be exactly two distinct_ids"
            raise Refused("properties.$distinct_ids", message)
        canonical, other = (identifier(each, "properties.$distinct_ids") for each in ids)
    elif name == "$create_alias":
        canonical, other = _pair(properties, "distinct_id", "alias")
    else:
        canonical, other = _pair(properties, "$identified_id", "$anon_id")
        if not _is_uuid4(other):
            message = "'properties.$anon_id' is invalid: must be a UUIDv4"
            raise Refused("properties.$anon_id", message)
    return canonical, other


def _pair(properties: dict[str, Any], *names: str) -> list[str]:
    for name in names:
        if not properties.get(name):
            raise Refused(f"properties.{name}", f"'properties.{name}' is missing")
    return [identifier(properties[name], f"properties.{name}") for name in names]


def _is_uuid4(text: str) -> bool:
    try:
        return uuid.UUID(text).version == 4
    except ValueError:
        return False
