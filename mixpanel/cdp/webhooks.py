"""Receive Customer.io's reporting webhooks: check who signed them, and read what they say.

    event = webhooks.receive(body, headers, SIGNING_KEY, now=time.time())
    if isinstance(event, DeliveryEvent) and event.name == "email_bounced":
        ...

It wants the raw bytes of the request and knows no framework. Answer within 4 seconds: Customer.io
tries again for seven days, holds back what comes after, and after a 4xx or 5xx may pause for an
hour. So answer 2xx to what you merely do not know.

Source: Customer.io's API reference, "Reporting Webhooks".
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from mixpanel._records.encoding import loads
from mixpanel._runtime.redaction import hide_arguments
from mixpanel.credentials import Secret
from mixpanel.exceptions import ConfigurationError, ConfigurationTypeError, MixpanelException

__all__ = [
    "METRICS",
    "DeliveryEvent",
    "PayloadError",
    "PersonEvent",
    "SignatureError",
    "StaleError",
    "WebhookError",
    "WebhookEvent",
    "parse",
    "receive",
    "sign",
    "verify",
]

Headers = Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]]
Key = str | Secret

TOLERANCE = 300.0

METRICS: Final[Mapping[str, frozenset[str]]] = {
    kind: frozenset(metrics.split())
    for kind, metrics in {
        "email": "drafted attempted sent delivered opened clicked converted unsubscribed bounced "
        "dropped spammed failed undeliverable",
        "customer": "subscribed unsubscribed cio_subscription_preferences_changed",
        "sms": "drafted attempted sent delivered clicked converted bounced failed",
        "push": "drafted attempted sent delivered opened clicked converted bounced dropped failed "
        "undeliverable",
        "in_app": "drafted attempted sent opened clicked converted failed",
        "slack": "drafted attempted sent clicked failed dropped",
        "webhook": "drafted attempted sent clicked failed dropped",
    }.items()
}
"""The 54 events, by what they are about."""


class WebhookError(MixpanelException):
    """A request that is not to be believed, or not to be understood."""


class SignatureError(WebhookError):
    """The signature is missing, or does not belong to this body: whoever sent it lacks the key."""


class StaleError(SignatureError):
    """The signature is right but old: a copy sent again, or a clock that is wrong."""


class PayloadError(WebhookError, ValueError):
    """The body is no reporting event."""


@dataclass(frozen=True, slots=True)
class WebhookEvent:
    """What was reported; of an `object_type` that is not known yet, just this.

    `event_id` stays the same when a delivery is repeated. `data` and `payload` hold all that
    came, also what has no name here.
    """

    event_id: str
    object_type: str
    metric: str
    timestamp: datetime
    data: Mapping[str, Any] = field(repr=False)
    payload: Mapping[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        """Return the event's name, such as `email_opened`."""
        return f"{self.object_type}_{self.metric}"

    @property
    def known(self) -> bool:
        """Tell whether this is one of the 54 documented events."""
        return self.metric in METRICS.get(self.object_type, ())

    @property
    def customer_id(self) -> str | None:
        """Return the person's id, if there is one."""
        return _text(self.data, "customer_id") or self.identifiers.get("id")

    @property
    def identifiers(self) -> dict[str, str]:
        """Return what the person is known by: `id`, `email`, `cio_id`."""
        told = self.data.get("identifiers")
        if not isinstance(told, Mapping):
            return {}
        return {name: text for name in told if (text := _text(told, name)) is not None}


class PersonEvent(WebhookEvent):
    """A person changed what they are subscribed to."""

    __slots__ = ()

    @property
    def email_address(self) -> str | None:
        """Return the person's address."""
        return _text(self.data, "email_address") or self.identifiers.get("email")


class DeliveryEvent(WebhookEvent):
    """Something happened to a message, on any channel."""

    __slots__ = ()

    @property
    def delivery_id(self) -> str | None:
        """Return the id of this one message to this one person."""
        return _text(self.data, "delivery_id")

    @property
    def recipient(self) -> str | None:
        """Return the address, number or device that the message was for."""
        return _text(self.data, "recipient")

    @property
    def campaign_id(self) -> str | None:
        """Return the campaign that the message was part of."""
        return _text(self.data, "campaign_id")

    @property
    def broadcast_id(self) -> str | None:
        """Return the broadcast that the message was part of."""
        return _text(self.data, "broadcast_id")

    @property
    def newsletter_id(self) -> str | None:
        """Return the newsletter that the message was part of."""
        return _text(self.data, "newsletter_id")

    @property
    def transactional_message_id(self) -> str | None:
        """Return the transactional message that this was one of."""
        return _text(self.data, "transactional_message_id")

    @property
    def action_id(self) -> str | None:
        """Return the step of the campaign that sent it."""
        return _text(self.data, "action_id")

    @property
    def subject(self) -> str | None:
        """Return an email's subject."""
        return _text(self.data, "subject")

    @property
    def href(self) -> str | None:
        """Return the link that was followed."""
        return _text(self.data, "href")

    @property
    def failure_message(self) -> str | None:
        """Return why it failed, bounced or was dropped."""
        return _text(self.data, "failure_message")


@hide_arguments
def receive(
    body: bytes,
    headers: Headers,
    key: Key | Sequence[Key],
    *,
    now: float,
    tolerance: float = TOLERANCE,
) -> WebhookEvent:
    """Return the event of a request, after seeing to it that Customer.io sent it just now.

    :param now: seconds since 1970.
    :raises SignatureError: when the signature is missing or wrong, or is too old or too new.
    :raises PayloadError: when the body is no reporting event.
    """
    verify(body, headers, key, now=now, tolerance=tolerance)
    return parse(body)


@hide_arguments
def verify(
    body: bytes,
    headers: Headers,
    key: Key | Sequence[Key],
    *,
    now: float,
    tolerance: float = TOLERANCE,
) -> None:
    """See to it that a body was signed with the key, at most `tolerance` seconds from `now`.

    :param body: the raw bytes: JSON that was read and written again has another signature.
    :param headers: as any framework has them: names in any case, a mapping or pairs, also bytes.
    :param key: the webhook's signing key; several while one replaces another.
    :raises SignatureError: when they do not belong together; `StaleError` when they once did.
    """
    if not isinstance(body, (bytes, bytearray)):
        raise TypeError(f"body must be the raw bytes of the request, not {type(body).__name__}")
    keys = _keys(key)
    timestamp = _header(headers, "x-cio-timestamp")
    told = _header(headers, "x-cio-signature").removeprefix("v0=").lower()
    signature = told.encode("utf-8", "replace")
    # Every key is tried, and each compared in full: the time it takes tells nothing.
    matches = [
        hmac.compare_digest(_digest(body, each, timestamp).encode(), signature) for each in keys
    ]
    if not any(matches):
        raise SignatureError("X-CIO-Signature does not belong to this body and signing key")
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 20):
        raise SignatureError("X-CIO-Timestamp is not a number of seconds since 1970")
    away = int(timestamp) - now
    if not abs(away) <= tolerance:
        side = "ahead of" if away > 0 else "behind"
        raise StaleError(
            f"the request was signed {abs(away):.0f} s {side} our clock; {tolerance:.0f} s are "
            "allowed"
        )


@hide_arguments
def sign(body: bytes, key: Key, timestamp: int) -> dict[str, str]:
    """Return the headers that Customer.io would send with a body, for tests and emulators."""
    [secret] = _keys(key)
    return {
        "X-CIO-Timestamp": str(timestamp),
        "X-CIO-Signature": _digest(body, secret, str(timestamp)),
    }


def parse(body: bytes) -> WebhookEvent:
    """Return the event that a body holds; what is not known to us is let through.

    :raises PayloadError: for what is no JSON object, or lacks `event_id`, `metric` or `timestamp`.
    """
    try:
        payload = loads(body)
    except (ValueError, RecursionError):
        raise PayloadError("the body is not JSON") from None
    if not isinstance(payload, dict):
        raise PayloadError(f"the body is a JSON {type(payload).__name__}, not an object")
    told = {name: _text(payload, name) for name in ("event_id", "metric", "timestamp")}
    missing = [name for name, text in told.items() if text is None]
    if missing:
        raise PayloadError(f"the body lacks {', '.join(missing)}")
    object_type = _text(payload, "object_type") or ""
    data = payload.get("data")
    kind = WebhookEvent
    if object_type in METRICS:
        kind = PersonEvent if object_type == "customer" else DeliveryEvent
    return kind(
        str(told["event_id"]),
        object_type,
        str(told["metric"]),
        _parse_timestamp(str(told["timestamp"])),
        data if isinstance(data, dict) else {},
        payload,
    )


def _keys(key: Key | Sequence[Key]) -> list[bytes]:
    several = isinstance(key, Iterable) and not isinstance(key, (str, bytes))
    given: list[Any] = list(key) if several else [key]  # type: ignore[arg-type]
    for each in given:
        if not isinstance(each, (str, Secret)):
            raise ConfigurationTypeError(f"the signing key must be text, not {type(each).__name__}")
    keys = [(each.reveal() if isinstance(each, Secret) else each).strip() for each in given]
    if not keys or not all(keys):
        raise ConfigurationError("the signing key is empty: it stands in the webhook's settings")
    try:
        return [each.encode() for each in keys]
    except UnicodeEncodeError:
        raise ConfigurationError("the signing key holds a character that is no text") from None


def _digest(body: bytes, key: bytes, timestamp: str) -> str:
    signed = b"v0:" + timestamp.encode("utf-8", "replace") + b":" + body
    return hmac.new(key, signed, hashlib.sha256).hexdigest()


def _header(headers: Headers, name: str) -> str:
    pairs: Any = headers.items() if isinstance(headers, Mapping) else headers
    for theirs, value in pairs:
        if _decode(theirs).lower() == name:
            return _decode(value).strip()
    raise SignatureError(f"the request has no header {name}")


def _decode(text: str | bytes) -> str:
    return text.decode("latin-1") if isinstance(text, bytes) else text


def _text(data: Mapping[str, Any], name: str) -> str | None:
    """Return a field as text: ids come as numbers here and as text there."""
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    return str(value) or None


def _parse_timestamp(text: str) -> datetime:
    try:
        return datetime.fromtimestamp(float(text), UTC)
    except (ValueError, OverflowError, OSError):
        raise PayloadError("timestamp is not a number of seconds since 1970") from None
