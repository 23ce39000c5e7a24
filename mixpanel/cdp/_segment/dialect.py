"""How one vendor of the Segment spec differs from another: constants and a few functions.

A `Dialect` holds the hosts, the size limits, the envelope of a batch, the authorization, and the
fields that a message must have. It has no behaviour of its own; the composer and the clients read
it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic_core import to_json

from mixpanel._records.json_encoding import loads
from mixpanel._records.record import join_bodies
from mixpanel._runtime.redaction import hide_init_arguments
from mixpanel.credentials import Secret, _basic
from mixpanel.exceptions import ConfigurationError, ConfigurationTypeError
from mixpanel.settings import check_type, checked_callback, checked_origin

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mixpanel.cdp._segment.message import Message

__all__ = [
    "SENT_AT",
    "Dialect",
    "Kind",
    "WriteKey",
    "basic",
    "batch_envelope",
    "error_reasons",
    "key_in_body",
]

Kind = Literal["identify", "track", "page", "screen", "group", "alias"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SENT_AT = "2026-01-31T12:00:00.000Z"  # a placeholder: all timestamps have the same length
PROPERTIES = ("properties", "traits")


def basic(key: str) -> str:
    """Return the `Authorization` header with the write key as user name and no password."""
    return _basic(key, "")


def batch_envelope(sent_at: str, _write_key: str | None = None) -> tuple[bytes, bytes]:
    """Return the bytes before and after the messages of a batch: `{"batch":[…],"sentAt":…}`."""
    return b'{"batch":[', f'],"sentAt":"{sent_at}"}}'.encode()


def key_in_body(sent_at: str, write_key: str | None) -> tuple[bytes, bytes]:
    """Return the envelope of a batch with the write key, which is given with OAuth only."""
    before, after = batch_envelope(sent_at)
    if write_key is None:
        return before, after
    return before, after[:-1] + b"," + to_json({"writeKey": write_key})[1:]


def unknown_region(_key: str) -> str | None:
    """Return None: the key does not contain its region."""
    return None


@dataclass(frozen=True, slots=True)
class Dialect:
    """One vendor's variant of the Segment spec.

    - `hosts`: origins by region; the first is the default. Without any, a client needs `base_url`.
    - `max_message_bytes`, `max_batch_bytes`: the largest message and the largest request; the
      server rejects or drops what is larger.
    - `max_batch_size`: the most messages in a request. Customer.io and Hightouch document no such
      limit, Segment documents 2,500.
    - `rate`: the number of requests allowed within so many seconds.
    - `strict_headers`: headers that make the server report invalid messages.
    - `group_alone`: a group message needs no person.
    - `email_identifies`: an identify message needs no id if it has `traits.email`.
    - `actions`: the vendor acts on Customer.io's reserved events.
    - `no_user_events`: events that need no person.
    - `schema_version_path`: the path of the contract's version, from the top of the message:
      "context.protocols.schemaVersion" or "properties.apiVersion" (in identify and group messages
      the same field of `traits`).
    - `base_url_variable`: the environment variable that overrides the origin.
    - `timestamp_fields`: the fields that the time of the message is sent in.
    - `authorize(key)`: the `Authorization` header; `region_of(key)`: the region of a key, or None.
    - `envelope(sent_at, write_key)`: the bytes before and after the messages of a batch. The key is
      given with OAuth, where the header has an access token.
    - `prepare(message)`: returns a message with the vendor's own fields. The message has its `type`
      and all fields of the spec. It may be changed, but not the objects in it. Messages given as
      dicts may be prepared already, as those of a dead letter are.
    - `own_fields`: the fields that `prepare` adds.
    """

    name: str
    hosts: Mapping[str, str]
    batch_path: str = "/v1/batch"
    single_path: str = "/v1/{kind}"
    kinds: frozenset[Kind] = frozenset(KINDS)
    max_message_bytes: int = 32_000
    max_batch_bytes: int = 475_000
    max_batch_size: int = 2500
    rate: tuple[int, float] | None = None
    strict_headers: Mapping[str, str] = field(default_factory=dict)
    group_alone: bool = False
    email_identifies: bool = False
    actions: bool = False
    no_user_events: frozenset[str] = frozenset()
    schema_version_path: str | None = None
    base_url_variable: str | None = None
    timestamp_fields: tuple[str, ...] = ("timestamp",)
    authorize: Callable[[str], str] = basic
    region_of: Callable[[str], str | None] = unknown_region
    envelope: Callable[[str, str | None], tuple[bytes, bytes]] = batch_envelope
    prepare: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    own_fields: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Validate the hosts, the envelope and the path of the schema version.

        :raises ConfigurationError: for an unsafe host, an envelope that is not valid JSON around
            the messages, or a path that no message has.
        """
        for region, host in self.hosts.items():
            checked_origin(host, f"hosts[{region!r}]")
        checked_callback(self.prepare, "prepare")
        self._envelope_fields(SENT_AT, None)
        if self.schema_version_path is None:
            return
        check_type(self.schema_version_path, "schema_version_path", str, "a path as text")
        first, _, rest = self.schema_version_path.partition(".")
        if first not in ("context", *PROPERTIES) or not all(rest.split(".")):
            raise ConfigurationError(
                f"schema_version_path={self.schema_version_path!r} must be a path in a message, "
                "such as 'context.protocols.schemaVersion' or 'properties.apiVersion'"
            )

    def version_path(self, kind: Kind) -> tuple[str, ...] | None:
        """Return the path of the contract's version in messages of this kind; None without one."""
        if self.schema_version_path is None:
            return None
        first, *rest = self.schema_version_path.split(".")
        if first in PROPERTIES:
            first = "traits" if kind in ("identify", "group") else "properties"
        return first, *rest

    def path(self, kind: Kind) -> str:
        """Return the URL path of the endpoint for single messages of this kind."""
        return self.single_path.format(kind=kind)

    def origin(
        self, key: WriteKey, *, region: str | None = None, base_url: str | None = None
    ) -> str:
        """Return the origin to send to: `base_url`, the environment variable, or the region's host.

        The environment variable takes precedence over the region, so that it is enough to point a
        program to the emulator or a proxy. The default region is that of the key.

        :raises ConfigurationError: for an unknown region, or a URL that is not safe to send to.
        """
        if base_url is not None:
            return checked_origin(base_url)
        variable = self.base_url_variable
        if variable is not None and os.environ.get(variable):
            return checked_origin(os.environ[variable], variable)
        if not self.hosts:
            also = "" if variable is None else f" or set {variable}"
            raise ConfigurationError(
                f"{self.name} has no host that all customers share: pass base_url={also}"
            )
        chosen = region or self.region_of(key.reveal()) or next(iter(self.hosts))
        if not isinstance(chosen, str) or chosen not in self.hosts:
            known = ", ".join(map(repr, self.hosts))
            raise ConfigurationError(f"region={chosen!r} is unknown; choose one of {known}")
        return self.hosts[chosen]

    def region_warning(self, key: WriteKey, origin: str) -> str | None:
        """Return a warning if the key belongs to another region than the origin, else None.

        The wrong region answers 200 and stores nothing, so the server reports no error.
        """
        theirs = self.region_of(key.reveal())
        if theirs is None or origin not in self.hosts.values() or self.hosts[theirs] == origin:
            return None
        return (
            f"the write key belongs to region {theirs!r}, but the messages would go to {origin}, "
            f"where {self.name} answers 200 and stores nothing; pass region={theirs!r}"
        )

    def headers(self, key: WriteKey, token: Secret | None = None) -> dict[str, str | Secret]:
        """Return the headers of a request, authorized by an OAuth access token or by the key."""
        return {
            "Authorization": Secret(
                self.authorize(key.reveal()) if token is None else f"Bearer {token.reveal()}"
            ),
            "Content-Type": "application/json",
            **self.strict_headers,
        }

    def batch_body(
        self, messages: list[Message], sent_at: str, write_key: str | None = None
    ) -> bytes:
        """Return the body of a batch request."""
        before, after = self.envelope(sent_at, write_key)
        return join_bodies(before, messages, after)

    def single_body(self, message: Message, sent_at: str, write_key: str | None = None) -> bytes:
        """Return the body for the endpoint of a single message."""
        fields = to_json(self._envelope_fields(sent_at, write_key))
        separator = b"," if len(fields) > len("{}") else b""
        return fields[:-1] + separator + message.body_without_type

    def _envelope_fields(self, sent_at: str, write_key: str | None) -> dict[str, Any]:
        """Return the fields of the envelope without the list of messages.

        :raises ConfigurationError: if it is not valid JSON around a list.
        """
        mark = [{"mark": True}]
        try:
            before, after = self.envelope(sent_at, write_key)
            fields: dict[str, Any] = loads(before + to_json(mark)[1:-1] + after)
            [batch] = [name for name, value in fields.items() if value == mark]
        except (ValueError, TypeError, AttributeError) as error:
            raise ConfigurationError(
                f"envelope of {self.name} must return the bytes of a JSON object before and after "
                'the messages in it, such as b\'{"batch":[\' and b\'],"sentAt":"…"}\''
            ) from error
        del fields[batch]
        return fields


@hide_init_arguments
class WriteKey(Secret):
    """The write key of one source, stripped of white space such as a mounted file's last newline.

    :raises ConfigurationError: if it is empty, not text, or not valid in a header.
    """

    __slots__ = ()

    def __init__(self, value: str) -> None:
        if not isinstance(value, str):
            raise ConfigurationTypeError(f"write_key must be text, not {type(value).__name__}")
        key = value.strip()
        if not key:
            raise ConfigurationError("write_key is empty: copy it from your source's settings")
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigurationError("write_key contains characters that are not valid in a key")
        super().__init__(key)


def error_reasons(batch_body: bytes) -> list[str]:
    """Return why a request was rejected, from any of the error formats of these vendors.

    `{"meta": {"errors": [...]}}`, `{"meta": {"error": …}}`, `{"errors": [{"reason", "field",
    "message"}]}`, `{"code", "message"}`, `{"error", "error_description"}`, plain text; an empty
    list for an empty body.
    """
    try:
        response = loads(batch_body)
    except (ValueError, RecursionError):
        return _texts(batch_body.decode("utf-8", "replace"))
    if not isinstance(response, dict):
        return _texts(response)
    meta = response.get("meta")
    if isinstance(meta, dict) and (meta.get("errors") or meta.get("error")):
        return _texts(meta.get("errors") or meta.get("error"))
    if response.get("errors"):
        return _texts(response["errors"])
    join_bodies = ": ".join(
        str(response[name])
        for name in ("code", "error", "message", "error_description")
        if isinstance(response.get(name), (str, int))
    )
    return _texts(join_bodies)


def _texts(reason: Any) -> list[str]:
    if isinstance(reason, list):
        return [text for each in reason[:100] for text in _texts(each)]
    if isinstance(reason, dict):
        parts = (reason.get(name) for name in ("field", "reason", "message"))
        reason = ": ".join(part for part in parts if isinstance(part, str) and part)
    if not isinstance(reason, str):
        return []
    text = "".join(c for c in reason.strip()[:500] if c.isprintable())
    return [text] if text else []
