"""Validate events by the rules that Mixpanel documents, and reject invalid ones with a reason.

Does no I/O: the clock, the client's address and the token check are passed in. The rules are those
of the public reference pages for `/track`, `/import` and their identity events.
"""

import hashlib
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from pydantic_core import to_json

Endpoint = Literal["track", "import"]
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
SENT_FIELDS = ("token", "time")
# These have columns of their own, are only used for geolocation, or are set by the server.
CONSUMED = ("distinct_id", "$insert_id", "ip", "mp_processing_time_ms")
INSERT_ID = re.compile(r"[A-Za-z0-9-]{1,36}", re.ASCII)


class Event(NamedTuple):
    """One event as it is stored.

    The first four fields identify it: events that agree in them are copies of one. `sent_fields`
    holds the token and the time as they were sent, `properties` all others; both are JSON text.
    """

    event: str
    time: int
    distinct_id: str
    insert_id: str
    sent_fields: str
    properties: str


@dataclass(frozen=True, slots=True)
class RejectedRecord:
    """One record that was not stored, with the fields of an entry in `failed_records`."""

    index: int
    insert_id: str | None
    field: str
    message: str


@dataclass(slots=True)
class ValidationResult(Generic[Accepted]):
    """The accepted and the rejected records of one request.

    `good` counts the valid records, including those dropped because of `$ignore`. `aliases` are the
    (id, canonical id) pairs of identity events. `unauthorized` counts records without a valid
    token.
    """

    accepted: list[Accepted] = field(default_factory=list)
    rejected: list[RejectedRecord] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)
    good: int = 0
    unauthorized: int = 0


class InvalidRecord(Exception):  # noqa: N818 - about a record, not an error of the emulator
    """A field of a record violates a rule."""

    def __init__(self, field: str, message: str, *, unauthorized: bool = False) -> None:
        super().__init__(field, message)
        self.field = field
        self.message = message
        self.unauthorized = unauthorized


def validate_events(
    records: Sequence[Any],
    *,
    endpoint: Endpoint,
    now: float,
    strict: bool = True,
    address: str = "127.0.0.1",
    accepts: Callable[[str], bool] = bool,
    refuse: Mapping[int, str] | None = None,
) -> ValidationResult[Event]:
    """Validate one request's events.

    `accepts` returns True for the valid tokens of `/track` records. `refuse` maps the indexes of
    records that are rejected by a fault to the messages.
    """
    result: ValidationResult[Event] = ValidationResult()
    rules = _Rules(
        endpoint, now, address, accepts, require_insert_id=endpoint == "import" and strict
    )
    for index, record in enumerate(records):
        try:
            apply_forced_refusal(index, refuse)
            event = rules.validate(record, result.aliases)
        except InvalidRecord as refused:
            result.unauthorized += refused.unauthorized
            insert_id = insert_id_of(record)
            result.rejected.append(RejectedRecord(index, insert_id, refused.field, refused.message))
        else:
            result.good += 1
            if event is not None:
                result.accepted.append(event)
    return result


def apply_forced_refusal(index: int, refuse: Mapping[int, str] | None) -> None:
    """Reject a record that a fault has selected."""
    if refuse and index in refuse:
        raise InvalidRecord("", refuse[index])


def insert_id_of(record: Any) -> str | None:
    """Return the `$insert_id` of a record, which may be malformed."""
    properties = record.get("properties") if isinstance(record, dict) else None
    insert_id = properties.get("$insert_id") if isinstance(properties, dict) else None
    return insert_id if isinstance(insert_id, str) else None


def identifier(value: Any, field: str) -> str:
    """Return an id as text; reject placeholders, which would merge unrelated users into one."""
    text = value if isinstance(value, str) else to_json(value).decode()
    if text.lower() in BANNED_IDS:
        raise InvalidRecord(field, f"'{field}' is invalid: {text!r} is not allowed as an id")
    if isinstance(value, (dict, list)):
        raise InvalidRecord(field, f"'{field}' is invalid: must be a string")
    return text[:MAX_STRING]


def json_text(value: Any) -> str:
    """Return a value as the JSON text that is stored."""
    return to_json(value, inf_nan_mode="null").decode()


def milliseconds(value: Any) -> int:
    """Return a time in milliseconds; numbers too large for seconds are milliseconds already."""
    if type(value) not in (int, float) or not -LATEST < value < LATEST:
        raise InvalidRecord(
            "properties.time",
            "'properties.time' is invalid: must be seconds or milliseconds since epoch",
        )
    return int(round(value if abs(value) >= MILLISECONDS_FROM else value * 1000))  # noqa: RUF046


def truncate_values(value: Any, field: str, depth: int = 1) -> Any:
    """Return a property value with its strings truncated to 255 characters.

    Values that are nested too deep or have too many members are rejected. The documentation does
    not say whether lists count towards the depth of three; here they do.
    """
    if isinstance(value, str):
        return value[:MAX_STRING]
    if not isinstance(value, (dict, list)):
        return value
    if depth > MAX_DEPTH:
        raise InvalidRecord(field, f"'{field}' is invalid: nested deeper than {MAX_DEPTH}")
    if len(value) >= MAX_MEMBERS:
        kind, parts = ("object", "keys") if isinstance(value, dict) else ("list", "items")
        raise InvalidRecord(field, f"'{field}' is invalid: {kind} must have fewer than 255 {parts}")
    if isinstance(value, dict):
        return {name: truncate_values(member, field, depth + 1) for name, member in value.items()}
    return [truncate_values(member, field, depth + 1) for member in value]


@dataclass(slots=True)
class _Rules:
    endpoint: Endpoint
    now: float
    address: str
    accepts: Callable[[str], bool]
    require_insert_id: bool

    def validate(self, record: Any, aliases: dict[str, str]) -> Event | None:
        name, properties = self._check_record(record)
        if properties.get("$ignore"):
            return None
        identity = name in IDENTITY_EVENTS
        distinct_id, alias = _identity(name, properties) if identity else self._ids(properties)
        time = self._time(properties, identity=identity)
        insert_id = self._insert_id(properties, identity=identity)
        sent_fields = {key: properties.pop(key) for key in SENT_FIELDS if key in properties}
        for key in CONSUMED:
            properties.pop(key, None)
        for key, value in properties.items():
            if len(key) > MAX_NAME:
                message = f"property name is longer than {MAX_NAME}: {key[:40]!r}"
                raise InvalidRecord("properties", message)
            kind = type(value)
            if kind is dict or kind is list or (kind is str and len(value) > MAX_STRING):
                properties[key] = truncate_values(value, f"properties.{key}")
        text = json_text(properties)
        if len(text) > MAX_RECORD_BYTES // 4 and len(text.encode()) > MAX_RECORD_BYTES:
            raise InvalidRecord("", f"event is larger than {MAX_RECORD_BYTES} bytes")
        if alias is not None:
            aliases[alias] = distinct_id
        return Event(name, time, distinct_id, insert_id, json_text(sent_fields), text)

    def _check_record(self, record: Any) -> tuple[str, dict[str, Any]]:
        if not isinstance(record, dict):
            raise InvalidRecord("", "record must be an object")
        name = record.get("event")
        if not isinstance(name, str) or not name:
            raise InvalidRecord("event", "'event' is invalid: must be a non-empty string")
        if len(name) > MAX_NAME:
            raise InvalidRecord("event", f"'event' is invalid: longer than {MAX_NAME}")
        properties = record.get("properties")
        if not isinstance(properties, dict):
            raise InvalidRecord("properties", "'properties' is invalid: must be an object")
        if len(properties) >= MAX_MEMBERS:
            raise InvalidRecord("properties", "event must have fewer than 255 properties")
        if self.endpoint == "track":
            token = properties.get("token")
            if not isinstance(token, str) or not self.accepts(token):
                message = "'properties.token' is missing or invalid"
                raise InvalidRecord("properties.token", message, unauthorized=True)
        return name, dict(properties)

    def _time(self, properties: dict[str, Any], *, identity: bool) -> int:
        value = properties.get("time")
        if value is None:
            if self.endpoint == "import" and not identity:
                raise InvalidRecord("properties.time", "'properties.time' is missing")
            properties["time"] = value = int(self.now)
        time = milliseconds(value)
        if time > (self.now + FUTURE) * 1000:
            message = "'properties.time' is invalid: more than one hour in the future"
            raise InvalidRecord("properties.time", message)
        if self.endpoint == "track" and time < (self.now - OLDEST_TRACKED) * 1000:
            message = "'properties.time' is invalid: older than five days, use /import"
            raise InvalidRecord("properties.time", message)
        if time < OLDEST_IMPORTED * 1000:
            raise InvalidRecord(
                "properties.time", "'properties.time' is invalid: before 1971-01-01"
            )
        return time

    def _insert_id(self, properties: dict[str, Any], *, identity: bool) -> str:
        value = properties.get("$insert_id")
        field = "properties.$insert_id"
        if value is None:
            if self.require_insert_id and not identity:
                raise InvalidRecord(field, "'properties.$insert_id' is missing")
            return str(uuid.uuid4())
        if not isinstance(value, str) or not INSERT_ID.fullmatch(value):
            message = "must be a string of at most 36 characters from A-Z, a-z, 0-9 and -"
            raise InvalidRecord(field, f"'{field}' is invalid: {message}")
        return identifier(value, field)

    def _ids(self, properties: dict[str, Any]) -> tuple[str, str | None]:
        """Return the distinct_id and, for Simplified ID Merge, the device id that is its alias."""
        device, user = properties.get("$device_id"), properties.get("$user_id")
        alias = None
        if device:
            device = alias = f"$device:{identifier(device, 'properties.$device_id')}"
        if user:
            user = identifier(user, "properties.$user_id")
        value = properties.get("distinct_id")
        if value is not None:
            distinct_id = identifier(value, "properties.distinct_id")
            return distinct_id, alias if distinct_id == user else None
        if user:
            return user, alias
        if device:
            return device, None
        return hashlib.sha256(self.address.encode()).hexdigest()[:36], None


def _identity(name: str, properties: dict[str, Any]) -> tuple[str, str]:
    """Return the two ids of an identity event: the canonical one, and its new alias."""
    if name == "$merge":
        ids = properties.get("$distinct_ids")
        if not isinstance(ids, list) or len(ids) != 2:
            message = "'properties.$distinct_ids' is invalid: must be exactly two distinct_ids"
            raise InvalidRecord("properties.$distinct_ids", message)
        canonical, other = (identifier(each, "properties.$distinct_ids") for each in ids)
    elif name == "$create_alias":
        canonical, other = _pair(properties, "distinct_id", "alias")
    else:
        canonical, other = _pair(properties, "$identified_id", "$anon_id")
        if not _is_uuid4(other):
            message = "'properties.$anon_id' is invalid: must be a UUIDv4"
            raise InvalidRecord("properties.$anon_id", message)
    return canonical, other


def _pair(properties: dict[str, Any], *names: str) -> list[str]:
    for name in names:
        if not properties.get(name):
            raise InvalidRecord(f"properties.{name}", f"'properties.{name}' is missing")
    return [identifier(properties[name], f"properties.{name}") for name in names]


def _is_uuid4(text: str) -> bool:
    try:
        return uuid.UUID(text).version == 4
    except ValueError:
        return False
