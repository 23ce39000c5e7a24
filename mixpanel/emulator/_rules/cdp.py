"""Judge what Customer.io's and Hightouch's Segment wires are sent, by the rules they document.

A room without I/O. Where the documentation leaves a choice, it is made here and said so: sizes are
read in thousands (nobody says which kilobyte) and taken of the uncompressed bytes as they were
sent, an empty batch is refused, and a timestamp, where there is one, has to be ISO 8601.
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

Vendor = Literal["customerio", "hightouch"]
Mode = Literal["mixed", "strict", "permissive"]
Region = Literal["us-east-1", "eu-west-1", "ap-south-1"]

KINDS = ("identify", "track", "page", "screen", "group", "alias")
ENDPOINTS = (*KINDS, "batch")
PREFIXED = re.compile(r"(?:pk|sk)_(us|eu)_\S")
OBJECTS = ("traits", "properties", "context", "integrations")
TIMES = ("timestamp", "originalTimestamp", "sentAt")

# What Customer.io's schemas require of its own events, beside an id. Two require no id at all.
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
NOBODYS = frozenset({"Report Delivery Event", "Report Content Event"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRules:
    """What both wires let a test choose.

    - `keys`: the write keys taken; None takes any that is not empty.
    - `item_bytes`, `batch_bytes`: what one message and one request may hold, uncompressed.
    - `rate`: requests, and in how many seconds; beyond it is 429. None sets no limit.
    - `whole_batch`: whether one item that is refused takes its batch with it; else the others are
      kept, and the answer is an error all the same. Neither is documented.
    - `success_status`, `empty_body`: how a good request is answered; 204 has no body anyway.
    """

    vendor: ClassVar[Vendor]

    keys: Collection[str] | None = None
    item_bytes: int = 32_000
    batch_bytes: int = 500_000
    rate: tuple[int, float] | None = None
    whole_batch: bool = True
    success_status: int = 200
    empty_body: bool = False

    def takes_key(self, key: Any) -> bool:
        """Say whether a write key is good."""
        return is_among(self.keys, key)


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerIORules(SegmentRules):
    """How `emu.customerio_url` answers: strictly with `X-Strict-Mode: 1`, else 200 to anything.

    The documented `rate` is (3000, 3). Not documented for strict mode and chosen:
    `oversize_status`, for what is too large; 400 is the only documented one that fits.

    With a `region`, prefixed keys of the other one get 200 and are dropped, even in strict mode.
    """

    vendor: ClassVar[Vendor] = "customerio"

    region: Literal["us", "eu"] | None = None
    oversize_status: int = 400

    def key(self, authorization: str) -> str | None:
        """Return the write key of a request, or None when there is no good one.

        Any key may come as the user of HTTP Basic; as a bearer only prefixed ones, `sk_us_...`.
        """
        scheme, _, value = authorization.partition(" ")
        if scheme.lower() == "bearer":
            bearer = value.strip()
            return bearer if PREFIXED.match(bearer) and self.takes_key(bearer) else None
        told = basic(authorization)
        if told is None or told.password or not self.takes_key(told.username):
            return None
        return told.username

    def is_foreign(self, key: str) -> bool:
        """Say whether a key names another region than this host's."""
        named = PREFIXED.match(key)
        return bool(self.region and named and named[1] != self.region)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """What one event has to look like, or Hightouch blocks it.

    - `versions`: the schema versions taken; None among them takes an event without one, None
      instead of them any.
    - `required`: the properties an event must have, be they null.
    """

    versions: Collection[str | None] | None = None
    required: Collection[str] = ()

    def violation(self, message: Mapping[str, Any], version_at: str) -> str | None:
        """Return what an event lacks, None when it keeps the contract."""
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
    """How `emu.hightouch_url` answers, by its `mode`; only a rate exceeded is 429 in all of them.

    - "mixed": 200 to invalid messages, which it drops. A bad key or token is 401, a token without
      the scope 403, an unreadable request 400, an oversize one `oversize_status`.
    - "strict": the same, and 400 to invalid messages.
    - "permissive": 200 to anything, and what is wrong with it is dropped.

    Not documented and chosen: `oversize_status`, for a request in which anything is too large, and
    `error_shape`, how it is refused: "code" is `{"code", "message"}`, "error" is
    `{"error", "error_description"}`, "text" is plain text.

    With a `region`, write keys of another one by `key_regions` get 200 and are dropped, in all
    modes. `contracts`, by the exact names of events, make what violates them invalid; `version_at`
    is where an event has its schema version. `oauth` are the rules of `emu.hightouch_oauth_url`.
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
        """Say whether a key is known to be of another region than this host's."""
        return bool(self.region) and self.key_regions.get(key, self.region) != self.region

    def violation(self, message: Mapping[str, Any]) -> str | None:
        """Return how an event violates its contract, None when it does not or has none."""
        event = message.get("event", "") if message["type"] == "track" else ""
        contract = self.contracts.get(event)
        why = contract.violation(message, self.version_at) if contract else None
        return f"contract of {event}: {why}" if why else None


Rules = CustomerIORules | HightouchRules


class Item(NamedTuple):
    """One message, and how many bytes it took."""

    value: Any
    size: int


class Body(NamedTuple):
    """What a request says: its top-level fields, and its messages."""

    fields: dict[str, Any]
    items: list[Item]


class Verdict(NamedTuple):
    """One message, and why it is not kept; None when it is."""

    message: Any
    size: int
    why: str | None = None
    oversize: bool = False


def read_body(body: bytes, endpoint: str) -> Body:
    """Parse a request's body, and measure its messages as they stand there.

    :raises RefusedRequest: with 400 for what is no JSON object, or a batch without a message.
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


def judge(item: Item, endpoint: str, fields: Mapping[str, Any], rules: Rules) -> Verdict:
    """Judge one message, and return it as the vendor would keep it.

    `type` comes from the path, or from the message in a batch, where the `context` and
    `integrations` of the batch stand under those of the message.
    """
    message, size = item
    if size > rules.item_bytes:
        large = f"message of {size} bytes exceeds the limit of {rules.item_bytes}"
        return Verdict(message, size, large, oversize=True)
    if not isinstance(message, dict):
        return Verdict(message, size, "message must be an object")
    kind = message.get("type") if endpoint == "batch" else endpoint
    if not isinstance(kind, str) or kind not in KINDS:
        return Verdict(message, size, f"type must be one of {', '.join(KINDS)}, not {kind!r}")
    kept = {**message, "type": kind}
    if endpoint == "batch":
        for name in ("context", "integrations"):
            above, own = fields.get(name), message.get(name)
            if isinstance(above, dict) and (own is None or isinstance(own, dict)):
                kept[name] = {**above, **(own or {})}
    why = _misshapen(kept) or _lacks_own(kept, kind, rules) or _lacks_id(kept, kind, rules)
    if why is None and isinstance(rules, HightouchRules):
        why = rules.violation(kept)
    if kind == "track" and why is None:
        kept["event"] = kept["event"].strip()
    return Verdict(kept, size, why)


def _misshapen(message: dict[str, Any]) -> str | None:
    for name in OBJECTS:
        if not isinstance(message.get(name), dict | None):
            return f"{name} must be an object"
    for name in TIMES:
        if message.get(name) is not None and not _is_iso(message[name]):
            return f"{name} must be an ISO 8601 time"
    if not isinstance(message.get("messageId"), str | None):
        return "messageId must be a string"
    return None


def _lacks_own(message: dict[str, Any], kind: str, rules: Rules) -> str | None:
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


def _lacks_id(message: dict[str, Any], kind: str, rules: Rules) -> str | None:
    if _is_id(message.get("userId")) or _is_id(message.get("anonymousId")):
        return None
    if rules.vendor == "customerio":
        if kind == "group" or (kind == "track" and _is_id(message.get("groupId"))):
            return None
        if kind == "track" and message["event"].strip() in NOBODYS:
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


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER = JSONDecoder(parse_constant=_no_number)


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
        raise ValueError("more text after the object")
    return fields, items
