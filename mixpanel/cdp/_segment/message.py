"""One message of the Segment spec, serialised and ready to send."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from mixpanel._records.record import Record

if TYPE_CHECKING:
    from mixpanel.credentials import Authority

__all__ = ["KINDS", "DroppedMessage", "Kind", "Message"]

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
