"""Validate messages to Customer.io and Hightouch by the rules that they document.

Does no I/O. Where the documentation is open, this module chooses: a kilobyte is 1,000 bytes, sizes
are those of the uncompressed bytes as sent, an empty batch is refused, and a timestamp must be
ISO 8601.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from json import JSONDecoder
from typing import Any, ClassVar, Literal, NamedTuple

from mixpanel._records.json_stream import JSONStream
from mixpanel.emulator._rules.access import basic
from mixpanel.emulator._rules.decode import RefusedRequest
from mixpanel.emulator._rules.oauth import OAuthRules, is_among
from mixpanel.emulator._server.responses import ErrorShape

Vendor = Literal["customerio", "hightouch", "segment", "rudderstack"]
Mode = Literal["mixed", "strict", "permissive"]
Region = Literal["us-east-1", "eu-west-1", "ap-south-1"]

KINDS = ("identify", "track", "page", "screen", "group", "alias")
ENDPOINTS = (*KINDS, "batch")
PREFIXED = re.compile(r"(?:pk|sk)_(us|eu)_\S")
OBJECTS = ("traits", "properties", "context", "integrations")
TIMES = ("timestamp", "originalTimestamp", "sentAt")

# Fields that Customer.io's schemas require in its own events, besides an id. Two need no id.
PERSON = ("userId",)
DEVICE = ("userId", "context.device.token")
REQUIRED: Mapping[str, tuple[str, ...]] = {
    "Device Created or Updated": DEVICE,
    "Device Deleted": DEVICE,
    "User Deleted": PERSON,
    "User Suppressed": PERSON,
    "User Unsuppressed": PERSON,
    "Object Deleted": ("anonymousId", "properties.objectId"),
    "Relationship Deleted": ("userId", "properties.objectId"),
    "Report Delivery Event": ("properties",),
    "Report Content Event": ("properties",),
}
WITHOUT_ID = frozenset({"Report Delivery Event", "Report Content Event"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRules:
    """The rules of both vendors.

    - `keys`: the accepted write keys; None accepts any that is not empty.
    - `max_message_bytes`, `max_batch_bytes`: the maximum sizes of one message and of one request,
      uncompressed.
    - `rate`: requests, and the seconds in which they may arrive; more are answered with 429. None
      means no limit.
    - `whole_batch`: whether one rejected message rejects its whole batch. Otherwise the others are
      accepted, and the response is an error nevertheless. Neither is documented.
    - `success_status`, `empty_body`: the response to a valid request; 204 never has a body.
    """

    vendor: ClassVar[Vendor]

    keys: Collection[str] | None = None
    max_message_bytes: int = 32_000
    max_batch_bytes: int = 500_000
    rate: tuple[int, float] | None = None
    whole_batch: bool = True
    success_status: int = 200
    empty_body: bool = False

    def accepts_key(self, key: Any) -> bool:
        """Return True if a write key is valid."""
        return is_among(self.keys, key)


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerIORules(SegmentRules):
    """The rules of `emu.customerio_url`: with `X-Strict-Mode: 1` errors, otherwise always 200.

    The documented `rate` is (3000, 3). `oversize_status`, for strict mode, is not documented; 400
    is the only documented status that fits.

    With a `region`, messages with prefixed keys of the other region are answered with 200 and
    dropped, even in strict mode.
    """

    vendor: ClassVar[Vendor] = "customerio"

    region: Literal["us", "eu"] | None = None
    oversize_status: int = 400

    def key(self, authorization: str) -> str | None:
        """Return the write key of a request, None without a valid one.

        Any key may be the username of HTTP Basic; only prefixed ones (`sk_us_...`) may be a Bearer.
        """
        scheme, _, value = authorization.partition(" ")
        if scheme.lower() == "bearer":
            bearer = value.strip()
            return bearer if PREFIXED.match(bearer) and self.accepts_key(bearer) else None
        credentials = basic(authorization)
        if (
            credentials is None
            or credentials.password
            or not self.accepts_key(credentials.username)
        ):
            return None
        return credentials.username

    def is_foreign(self, key: str) -> bool:
        """Return True if a key is for another region than this host's."""
        named = PREFIXED.match(key)
        return bool(self.region and named and named[1] != self.region)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """The contract of one event; Hightouch blocks events that violate it.

    - `versions`: the accepted schema versions, None in it for an event without one; None instead
      accepts any version.
    - `required`: the properties that an event must have; they may be null.
    """

    versions: Collection[str | None] | None = None
    required: Collection[str] = ()

    def violation(self, message: Mapping[str, Any], version_at: str) -> str | None:
        """Return how an event violates the contract, None if it does not."""
        version = _at(message, version_at)
        known = (self.versions,) if isinstance(self.versions, str) else self.versions
        if known is not None and not any(version == each for each in known):
            return f"{version_at} is {version!r}, not one of its versions"
        properties = message.get("properties") or {}
        wanted = (self.required,) if isinstance(self.required, str) else self.required
        missing = [f"properties.{name}" for name in wanted if name not in properties]
        return f"{missing[0]} is required" if missing else None


@dataclass(frozen=True, slots=True, kw_only=True)
class HightouchRules(SegmentRules):
    """The rules of `emu.hightouch_url`, by `mode`; exceeding the rate is 429 in every mode.

    - "mixed": invalid messages are answered with 200 and dropped. An invalid key or token is 401, a
      token without the scope 403, an unreadable request 400, an oversize one `oversize_status`.
    - "strict": the same, but 400 for invalid messages.
    - "permissive": always 200; anything invalid is dropped.

    Not documented and chosen here are `oversize_status`, for a request in which anything is too
    large, and `error_shape`, the form of its body: "code" is `{"code", "message"}`, "error" is
    `{"error", "error_description"}`, "text" is plain text.

    With a `region`, messages with write keys of another region, by `key_regions`, are answered with
    200 and dropped in all modes. `contracts`, by the exact names of events, make events that
    violate them invalid; `version_at` is the path of an event's schema version. `oauth` are the
    rules of `emu.hightouch_oauth_url`.
    """

    vendor: ClassVar[Vendor] = "hightouch"

    mode: Mode = "mixed"
    region: Region | None = None
    key_regions: Mapping[str, Region] = field(default_factory=dict)
    contracts: Mapping[str, Contract] = field(default_factory=dict)
    version_at: str = "context.protocols.schemaVersion"
    oversize_status: int = 413
    error_shape: ErrorShape = "code"
    oauth: OAuthRules = field(default_factory=OAuthRules)

    def is_foreign(self, key: str) -> bool:
        """Return True if a key is known to be for another region than this host's."""
        return bool(self.region) and self.key_regions.get(key, self.region) != self.region

    def violation(self, message: Mapping[str, Any]) -> str | None:
        """Return how an event violates its contract, None if it does not or has none."""
        event = message.get("event", "") if message["type"] == "track" else ""
        contract = self.contracts.get(event)
        why = contract.violation(message, self.version_at) if contract else None
        return f"contract of {event}: {why}" if why else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSourceRules(HightouchRules):
    """The rules of `emu.segment_url`, which are those of Hightouch."""

    vendor: ClassVar[Vendor] = "segment"


@dataclass(frozen=True, slots=True, kw_only=True)
class RudderStackRules(HightouchRules):
    """The rules of `emu.rudderstack_url`, which are those of Hightouch but for the size."""

    vendor: ClassVar[Vendor] = "rudderstack"

    max_batch_bytes: int = 4_000_000


Rules = CustomerIORules | HightouchRules


class Item(NamedTuple):
    """One message, and its size in bytes."""

    value: Any
    size: int


class Body(NamedTuple):
    """A parsed request: its top-level fields, and its messages."""

    fields: dict[str, Any]
    items: list[Item]


class ValidatedMessage(NamedTuple):
    """One message, and the reason for which it is rejected; None if it is accepted."""

    message: Any
    size: int
    why: str | None = None
    oversize: bool = False


def read_body(body: bytes, endpoint: str) -> Body:
    """Parse a request's body, and measure its messages as they were sent.

    :raises RefusedRequest: 400: it is not a JSON object, or a batch without messages.
    """
    try:
        fields, items = _parse(body)
    except (ValueError, RecursionError) as error:
        raise RefusedRequest(400, f"invalid JSON: {error}") from error
    if endpoint != "batch":
        return Body(fields, [Item(fields, len(body))])
    if not items:
        raise RefusedRequest(400, "batch must be a list of at least one message")
    return Body(fields, items)


def validate_message(
    item: Item, endpoint: str, fields: Mapping[str, Any], rules: Rules
) -> ValidatedMessage:
    """Validate one message, and return it as the vendor would store it.

    `type` is that of the path; in a batch, that of the message. The `context` and `integrations` of
    a batch apply to its messages, whose own take precedence.
    """
    message, size = item
    if size > rules.max_message_bytes:
        large = f"message of {size} bytes exceeds the limit of {rules.max_message_bytes}"
        return ValidatedMessage(message, size, large, oversize=True)
    if not isinstance(message, dict):
        return ValidatedMessage(message, size, "message must be an object")
    kind = message.get("type") if endpoint == "batch" else endpoint
    if not isinstance(kind, str) or kind not in KINDS:
        return ValidatedMessage(
            message, size, f"type must be one of {', '.join(KINDS)}, not {kind!r}"
        )
    kept = {**message, "type": kind}
    if endpoint == "batch":
        for name in ("context", "integrations"):
            of_batch, own = fields.get(name), message.get(name)
            if isinstance(of_batch, dict) and (own is None or isinstance(own, dict)):
                kept[name] = {**of_batch, **(own or {})}
    why = (
        _invalid_shape(kept) or _missing_field(kept, kind, rules) or _missing_id(kept, kind, rules)
    )
    if why is None and isinstance(rules, HightouchRules):
        why = rules.violation(kept)
    if kind == "track" and why is None:
        kept["event"] = kept["event"].strip()
    return ValidatedMessage(kept, size, why)


def _invalid_shape(message: dict[str, Any]) -> str | None:
    for name in OBJECTS:
        if not isinstance(message.get(name), dict | None):
            return f"{name} must be an object"
    for name in TIMES:
        if message.get(name) is not None and not _is_iso(message[name]):
            return f"{name} must be an ISO 8601 time"
    if not isinstance(message.get("messageId"), str | None):
        return "messageId must be a string"
    return None


def _missing_field(message: dict[str, Any], kind: str, rules: Rules) -> str | None:
    if rules.vendor == "hightouch" and not message.get("messageId"):
        return "messageId is required"
    if kind == "group" and not _is_id(message.get("groupId")):
        return "groupId is required"
    if kind == "alias":
        missing = [name for name in ("userId", "previousId") if not _is_id(message.get(name))]
        return f"{missing[0]} is required" if missing else None
    if kind != "track":
        return None
    event = message.get("event")
    if not isinstance(event, str) or not event.strip():
        return "event is required"
    for path in REQUIRED.get(event.strip(), ()) if rules.vendor == "customerio" else ():
        if _at(message, path) in (None, ""):
            return f"{path} is required by {event.strip()}"
    return None


def _missing_id(message: dict[str, Any], kind: str, rules: Rules) -> str | None:
    if _is_id(message.get("userId")) or _is_id(message.get("anonymousId")):
        return None
    if rules.vendor == "customerio":
        if kind == "group" or (kind == "track" and _is_id(message.get("groupId"))):
            return None
        if kind == "track" and message["event"].strip() in WITHOUT_ID:
            return None
        empty = "" in (message.get("userId"), message.get("anonymousId"))
        if kind == "identify" and empty and _at(message, "traits.email"):
            return None
    return "userId or anonymousId is required"


def _at(message: Any, path: str) -> Any:
    for name in path.split("."):
        message = message.get(name) if isinstance(message, dict) else None
    return message


def _is_id(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and value != ""


def _is_iso(value: Any) -> bool:
    try:
        datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return False
    return True


def _reject_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER = JSONDecoder(parse_constant=_reject_constant)


def _parse(body: bytes) -> tuple[dict[str, Any], list[Item]]:
    """Return the members of the outermost object, and the items of `batch` with their sizes."""
    stream = JSONStream(body, decoder=_DECODER)
    fields: dict[str, Any] = {}
    items: list[Item] = []
    for _ in stream.members("{", "}"):
        name = stream.value()
        if not isinstance(name, str):
            raise ValueError("the name of a field must be text")  # noqa: TRY004 - as of JSON
        stream.take(":")
        if name == "batch" and stream.peek() == "[":
            items = [Item(*stream.sized_value()) for _ in stream.members("[", "]")]
            fields[name] = [item.value for item in items]
        else:
            fields[name] = stream.value()
    if stream.peek():
        raise ValueError("unexpected text after the object")
    return fields, items
