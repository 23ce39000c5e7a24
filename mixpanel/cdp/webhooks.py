"""Receive Customer.io's reporting webhooks: verify the signature and parse the event.

    event = webhooks.receive(body, headers, SIGNING_KEY, now=time.time())
    if isinstance(event, DeliveryEvent) and event.name == "email_bounced":
        ...

The functions need the raw bytes of the request and work with any framework. Respond within 4
seconds: otherwise Customer.io retries for seven days and holds back later events; after a 4xx or
5xx it may pause for an hour. So respond with 2xx also to events that you do not handle.

Source: Customer.io's API reference, "Reporting Webhooks".
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from mixpanel._records.json_encoding import loads
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
"""The metrics of the 54 documented events, by object type."""


class WebhookError(MixpanelException):
    """Invalid signature or malformed payload."""


class SignatureError(WebhookError):
    """The signature is missing, or does not match the body and the signing key."""


class StaleError(SignatureError):
    """The signature is valid but too old or too new: a replayed request, or a wrong clock."""


class PayloadError(WebhookError, ValueError):
    """The body is not a reporting event."""


@dataclass(frozen=True, slots=True)
class WebhookEvent:
    """A reporting event; this class itself for an unknown `object_type`.

    `event_id` is the same in each repetition of a delivery. `data` and `payload` hold everything
    that was received, also fields without a property here.
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
        """Return True if this is one of the 54 documented events."""
        return self.metric in METRICS.get(self.object_type, ())

    @property
    def customer_id(self) -> str | None:
        """Return the person's id; None if there is none."""
        return _text(self.data, "customer_id") or self.identifiers.get("id")

    @property
    def identifiers(self) -> dict[str, str]:
        """Return the person's identifiers: `id`, `email`, `cio_id`."""
        given = self.data.get("identifiers")
        if not isinstance(given, Mapping):
            return {}
        return {name: text for name in given if (text := _text(given, name)) is not None}


class PersonEvent(WebhookEvent):
    """A person changed their subscriptions."""

    __slots__ = ()

    @property
    def email_address(self) -> str | None:
        """Return the person's email address."""
        return _text(self.data, "email_address") or self.identifiers.get("email")


class DeliveryEvent(WebhookEvent):
    """A metric of a message, on any channel."""

    __slots__ = ()

    @property
    def delivery_id(self) -> str | None:
        """Return the id of this delivery, one message to one person."""
        return _text(self.data, "delivery_id")

    @property
    def recipient(self) -> str | None:
        """Return the address, phone number or device that the message was sent to."""
        return _text(self.data, "recipient")

    @property
    def campaign_id(self) -> str | None:
        """Return the id of the campaign that sent the message."""
        return _text(self.data, "campaign_id")

    @property
    def broadcast_id(self) -> str | None:
        """Return the id of the broadcast that sent the message."""
        return _text(self.data, "broadcast_id")

    @property
    def newsletter_id(self) -> str | None:
        """Return the id of the newsletter that sent the message."""
        return _text(self.data, "newsletter_id")

    @property
    def transactional_message_id(self) -> str | None:
        """Return the id of the transactional message."""
        return _text(self.data, "transactional_message_id")

    @property
    def action_id(self) -> str | None:
        """Return the id of the campaign's action that sent the message."""
        return _text(self.data, "action_id")

    @property
    def subject(self) -> str | None:
        """Return the subject of an email."""
        return _text(self.data, "subject")

    @property
    def href(self) -> str | None:
        """Return the link that was clicked."""
        return _text(self.data, "href")

    @property
    def failure_message(self) -> str | None:
        """Return why the message failed, bounced or was dropped."""
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
    """Verify a request and return its event.

    :param now: the current time in seconds since 1970.
    :raises SignatureError: if the signature is missing, wrong, too old or too new.
    :raises PayloadError: if the body is not a reporting event.
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
    """Verify that a body was signed with the key, at most `tolerance` seconds from `now`.

    :param body: the raw bytes; JSON that was parsed and serialised again has another signature.
    :param headers: a mapping or pairs, of text or bytes, with names in any case. The signature is
        the bare hexadecimal digest; the form `v0=…` is accepted, too.
    :param key: the webhook's signing key, or several while you rotate it.
    :raises SignatureError: if the signature is missing or wrong; `StaleError` if it is valid but
        too old or too new.
    """
    if not isinstance(body, (bytes, bytearray)):
        raise TypeError(f"body must be the raw bytes of the request, not {type(body).__name__}")
    keys = _keys(key)
    timestamp = _header(headers, "x-cio-timestamp")
    given = _header(headers, "x-cio-signature").removeprefix("v0=").lower()
    signature = given.encode("utf-8", "replace")
    # All keys are tried, each in constant time, so that the duration reveals nothing.
    matches = [
        hmac.compare_digest(_digest(body, each, timestamp).encode(), signature) for each in keys
    ]
    if not any(matches):
        raise SignatureError("X-CIO-Signature does not match this body and signing key")
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 20):
        raise SignatureError("X-CIO-Timestamp is not a number of seconds since 1970")
    difference = int(timestamp) - now
    if not abs(difference) <= tolerance:
        side = "after" if difference > 0 else "before"
        raise StaleError(
            f"the request was signed {abs(difference):.0f} s {side} the local time; at most "
            f"{tolerance:.0f} s are allowed"
        )


@hide_arguments
def sign(body: bytes, key: Key, timestamp: int) -> dict[str, str]:
    """Return the headers with which Customer.io would sign a body, for tests and emulators."""
    [secret] = _keys(key)
    return {
        "X-CIO-Timestamp": str(timestamp),
        "X-CIO-Signature": _digest(body, secret, str(timestamp)),
    }


def parse(body: bytes) -> WebhookEvent:
    """Return the event in a body; unknown events and fields are accepted.

    :raises PayloadError: if it is not a JSON object, or lacks `event_id`, `metric` or `timestamp`.
    """
    try:
        payload = loads(body)
    except (ValueError, RecursionError):
        raise PayloadError("the body is not JSON") from None
    if not isinstance(payload, dict):
        raise PayloadError(f"the body is a JSON {type(payload).__name__}, not an object")
    required = {name: _text(payload, name) for name in ("event_id", "metric", "timestamp")}
    missing = [name for name, text in required.items() if text is None]
    if missing:
        raise PayloadError(f"the body lacks {', '.join(missing)}")
    object_type = _text(payload, "object_type") or ""
    data = payload.get("data")
    kind = WebhookEvent
    if object_type in METRICS:
        kind = PersonEvent if object_type == "customer" else DeliveryEvent
    return kind(
        str(required["event_id"]),
        object_type,
        str(required["metric"]),
        _parse_timestamp(str(required["timestamp"])),
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
        raise ConfigurationError("the signing key is empty: copy it from the webhook's settings")
    try:
        return [each.encode() for each in keys]
    except UnicodeEncodeError:
        raise ConfigurationError("the signing key contains an invalid character") from None


def _digest(body: bytes, key: bytes, timestamp: str) -> str:
    signed = b"v0:" + timestamp.encode("utf-8", "replace") + b":" + body
    return hmac.new(key, signed, hashlib.sha256).hexdigest()


def _header(headers: Headers, name: str) -> str:
    pairs: Any = headers.items() if isinstance(headers, Mapping) else headers
    try:
        for header, value in pairs:
            if _decode(header).lower() != name:
                continue
            text = _decode(value).strip()
            if not text and not isinstance(value, (str, bytes)):
                kind = type(value).__name__
                raise SignatureError(f"the header {name} must be text, not {kind}: pass one value")
            return text
    except (TypeError, ValueError):
        raise SignatureError("headers must be a mapping, or pairs of a name and a value") from None
    raise SignatureError(f"the request has no header {name}")


def _decode(text: Any) -> str:
    """Return text; that of anything but text and bytes is empty."""
    if isinstance(text, bytes):
        return text.decode("latin-1")
    return text if isinstance(text, str) else ""


def _text(data: Mapping[str, Any], name: str) -> str | None:
    """Return a field as text; some ids are sent as numbers. None for anything else."""
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    return str(value) or None


def _parse_timestamp(text: str) -> datetime:
    try:
        return datetime.fromtimestamp(float(text), UTC)
    except (ValueError, OverflowError, OSError):
        raise PayloadError("timestamp is not a number of seconds since 1970") from None
