"""One message of the Segment spec, serialised and ready to send."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal, get_args

from mixpanel._records.record import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mixpanel.credentials import Authority

__all__ = ["KINDS", "DroppedMessage", "Kind", "Message", "MessageCodec"]

Kind = Literal["identify", "track", "page", "screen", "group", "alias"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Message(Record):
    """One serialised message; it is sent in a batch, or alone to the endpoint of its kind.

    `kind` is the message's type. Servers de-duplicate by `message_id`, so a message may be sent
    again at any time. In the buffer all messages share one endpoint queue, "batch".
    """

    __slots__ = ("kind", "message_id")

    def __init__(self, kind: Kind, body: bytes, message_id: str) -> None:
        # Sets the fields of `Record` itself: calling super() would cost time on every message.
        self.endpoint = "batch"
        self.body = body
        self.repeatable = True
        self.auth: Authority | None = None
        self.kind: Kind = kind
        self.message_id: str = message_id

    @property
    def body_without_type(self) -> bytes:
        """Return the JSON after the opening brace and the type, which a single endpoint implies."""
        return self.body[len(f'{{"type":"{self.kind}",') :]

    def __repr__(self) -> str:
        return f"<Message {self.kind} {self.message_id} {len(self.body)} bytes>"


class DroppedMessage(Message):
    """A message that `before_send` dropped: it is counted under `reason`, and not sent."""

    __slots__ = ("reason",)

    def __init__(self, kind: Kind, body: bytes, message_id: str, reason: str) -> None:
        super().__init__(kind, body, message_id)
        self.reason = reason


class MessageCodec:
    """Keep the kind and the id of messages beside their bodies, where they are kept in a file."""

    def dump(self, records: Sequence[Record]) -> str | None:
        """Return the kinds and ids as JSON."""
        messages: Any = records
        return json.dumps([[each.kind, each.message_id] for each in messages])

    def load(self, endpoint: str, body: bytes, extra: Any) -> Record:  # noqa: ARG002
        """Return the message of a body, its kind and its id.

        :raises ValueError: for an unknown kind.
        """
        kind, message_id = extra
        if kind not in KINDS:
            raise ValueError(f"unknown kind {kind!r}")
        return Message(kind, body, message_id)
