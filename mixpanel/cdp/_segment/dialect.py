"""What sets one vendor of the Segment spec apart: constants and a few functions.

A `Dialect` says where messages go, how large they may be, what stands around a batch, who is
asked for, and what a message must carry. It does nothing; the composer, the packer and the
senders read it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from mixpanel._records.encoding import loads
from mixpanel._records.record import join_bodies
from mixpanel._runtime.redaction import hide_init_arguments
from mixpanel.credentials import Secret, _basic
from mixpanel.exceptions import ConfigurationError, ConfigurationTypeError
from mixpanel.settings import checked_origin

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mixpanel.cdp._segment.composer import Message

__all__ = ["Dialect", "Kind", "WriteKey", "basic", "enveloped", "reasons"]

Kind = Literal["identify", "track", "page", "screen", "group", "alias"]
KINDS: tuple[Kind, ...] = get_args(Kind)
PROPERTIES = ("properties", "traits")


def basic(key: str) -> str:
    """Return the `Authorization` header of a write key as user name, without a password."""
    return _basic(key, "")


def enveloped(sent_at: str, _write_key: str | None = None) -> tuple[bytes, bytes]:
    """Return what stands before and after the items of a batch: `{"batch":[…],"sentAt":…}`."""
    return b'{"batch":[', f'],"sentAt":"{sent_at}"}}'.encode()


def no_region(_key: str) -> str | None:
    """Say that a key does not tell its region."""
    return None


@dataclass(frozen=True, slots=True)
class Dialect:
    """One vendor's way of speaking the Segment spec.

    `hosts` are the origins by region, the first being the default. A message of more than
    `max_message_bytes`, or a request of more than `max_batch_bytes`, is refused or dropped by the
    server. `max_batch_size` messages fit in a request: for that Customer.io and Hightouch document
    no limit but the bytes, Segment 2,500.
    `rate` is how many requests it takes within so many seconds. `truth` holds the headers that
    make it answer for what it was sent. `group_alone` takes a group without a member,
    `email_identifies` an identify without ids when `traits.email` is there. `actions` tells that
    it acts on Customer.io's reserved events, and `about_nobody` names events that need no person.
    `schema_version` is where, from the top of a message, the version of its contract stands:
    "context.protocols.schemaVersion", "properties.apiVersion" (`traits` are meant as well).
    `base_url_variable` names the environment variable that may say another origin. A message says
    when it happened under each of the names in `moments`.
    """

    name: str
    hosts: Mapping[str, str]
    batch_path: str = "/v1/batch"
    direct_path: str = "/v1/{kind}"
    kinds: frozenset[Kind] = frozenset(KINDS)
    max_message_bytes: int = 32_000
    max_batch_bytes: int = 475_000
    max_batch_size: int = 2500
    rate: tuple[int, float] | None = None
    truth: Mapping[str, str] = field(default_factory=dict)
    group_alone: bool = False
    email_identifies: bool = False
    actions: bool = False
    about_nobody: frozenset[str] = frozenset()
    schema_version: str | None = None
    base_url_variable: str | None = None
    moments: tuple[str, ...] = ("timestamp",)
    authorize: Callable[[str], str] = basic
    region_of: Callable[[str], str | None] = no_region
    envelope: Callable[[str, str | None], tuple[bytes, bytes]] = enveloped

    def __post_init__(self) -> None:
        """Refuse a place that no message has.

        :raises ConfigurationError: for a `schema_version` that is none.
        """
        if self.schema_version is None:
            return
        first, _, rest = self.schema_version.partition(".")
        if first not in ("context", *PROPERTIES) or not all(rest.split(".")):
            raise ConfigurationError(
                f"schema_version={self.schema_version!r} must be a place in a message, such as "
                "'context.protocols.schemaVersion' or 'properties.apiVersion'"
            )

    def version_path(self, kind: Kind) -> tuple[str, ...] | None:
        """Return where a message of this kind has the version of its contract."""
        if self.schema_version is None:
            return None
        first, *rest = self.schema_version.split(".")
        if first in PROPERTIES:
            first = "traits" if kind in ("identify", "group") else "properties"
        return first, *rest

    def path(self, kind: Kind) -> str:
        """Return the path of the endpoint that takes one message of this kind."""
        return self.direct_path.format(kind=kind)

    def origin(
        self, key: WriteKey, *, region: str | None = None, base_url: str | None = None
    ) -> str:
        """Return where to send: `base_url`, else what the environment says, else the region's host.

        The environment stands above the region, so that it alone turns a program to the emulator
        or a proxy. Without a region, that of the key counts.

        :raises ConfigurationError: for an unknown region, or a URL that is not safe to send to.
        """
        if base_url is not None:
            return checked_origin(base_url)
        variable = self.base_url_variable
        if variable is not None and os.environ.get(variable):
            return checked_origin(os.environ[variable], variable)
        chosen = region or self.region_of(key.reveal()) or next(iter(self.hosts))
        if not isinstance(chosen, str) or chosen not in self.hosts:
            known = ", ".join(map(repr, self.hosts))
            raise ConfigurationError(f"region={chosen!r} is unknown; choose one of {known}")
        return self.hosts[chosen]

    def region_warning(self, key: WriteKey, origin: str) -> str | None:
        """Say that the key belongs to another region than the host; None when all is well.

        The wrong region answers 200 and stores nothing, so nobody else would say it.
        """
        theirs = self.region_of(key.reveal())
        if theirs is None or origin not in self.hosts.values() or self.hosts[theirs] == origin:
            return None
        return (
            f"this write key is for region {theirs!r}, but messages go to {origin}: {self.name} "
            f"would answer 200 and keep nothing; give region={theirs!r}"
        )

    def headers(self, key: WriteKey, token: Secret | None = None) -> dict[str, str | Secret]:
        """Return the headers of a request; `token` is an OAuth access token to go with the key."""
        return {
            "Authorization": Secret(
                self.authorize(key.reveal()) if token is None else f"Bearer {token.reveal()}"
            ),
            "Content-Type": "application/json",
            **self.truth,
        }

    def body(self, messages: list[Message], sent_at: str, write_key: str | None = None) -> bytes:
        """Return the body of a batch request."""
        before, after = self.envelope(sent_at, write_key)
        return join_bodies(before, messages, after)

    def alone(self, message: Message, sent_at: str, write_key: str | None = None) -> bytes:
        """Return the body for the endpoint of one message's own kind."""
        _, after = self.envelope(sent_at, write_key)
        return b"{" + after[len("],") : -1] + b"," + message.untyped


@hide_init_arguments
class WriteKey(Secret):
    """The key of one source. White space around it, as from a mounted file, is taken off.

    :raises ConfigurationError: when it is empty, no text, or not fit for a header.
    """

    __slots__ = ()

    def __init__(self, value: str) -> None:
        if not isinstance(value, str):
            raise ConfigurationTypeError(f"write_key must be text, not {type(value).__name__}")
        key = value.strip()
        if not key:
            raise ConfigurationError("write_key is empty: take it from your source's settings")
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigurationError("write_key holds characters that no key has")
        super().__init__(key)


def reasons(body: bytes) -> list[str]:
    """Return why a request was refused, from any of the shapes that these vendors answer with.

    `{"meta": {"errors": [...]}}`, `{"meta": {"error": …}}`, `{"errors": [{"reason", "field",
    "message"}]}`, `{"code", "message"}`, `{"error", "error_description"}`, plain text; an empty
    list for an empty body.
    """
    try:
        answer = loads(body)
    except (ValueError, RecursionError):
        return _said(body.decode("utf-8", "replace"))
    if not isinstance(answer, dict):
        return _said(answer)
    meta = answer.get("meta")
    if isinstance(meta, dict) and (meta.get("errors") or meta.get("error")):
        return _said(meta.get("errors") or meta.get("error"))
    if answer.get("errors"):
        return _said(answer["errors"])
    join_bodies = ": ".join(
        str(answer[name])
        for name in ("code", "error", "message", "error_description")
        if isinstance(answer.get(name), (str, int))
    )
    return _said(join_bodies)


def _said(reason: Any) -> list[str]:
    if isinstance(reason, list):
        return [text for each in reason[:100] for text in _said(each)]
    if isinstance(reason, dict):
        parts = (reason.get(name) for name in ("field", "reason", "message"))
        reason = ": ".join(part for part in parts if isinstance(part, str) and part)
    if not isinstance(reason, str):
        return []
    text = "".join(c for c in reason.strip()[:500] if c.isprintable())
    return [text] if text else []
