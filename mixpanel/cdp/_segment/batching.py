"""Pack messages into batches that the server takes, to the byte."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mixpanel.cdp._segment.composer import Message
    from mixpanel.cdp._segment.dialect import Dialect

__all__ = ["Packed", "pack", "room"]

SENT_AT = "2026-01-31T12:00:00.000Z"  # every moment is as long as any other


class Packed(NamedTuple):
    """Batches in the order given, and the messages that no request can carry."""

    batches: list[list[Message]]
    oversize: list[Message]


def room(dialect: Dialect, write_key: str | None = None) -> int:
    """Return how many bytes a batch has for its items and the commas between them."""
    before, after = dialect.envelope(SENT_AT, write_key)
    return dialect.max_batch_bytes - len(before) - len(after)


def pack(messages: Iterable[Message], dialect: Dialect, write_key: str | None = None) -> Packed:
    """Pack messages into as few batches as their order allows.

    A batch holds at most `max_batch_size` messages, and its whole body, envelope and commas
    included, at most `max_batch_bytes` bytes. What is larger than `max_message_bytes` is set aside:
    sent, it would be dropped behind a 200, or have its whole batch refused.

    :param write_key: given where it stands in the body, which then has less room.
    """
    most = room(dialect, write_key)
    largest = min(dialect.max_message_bytes, most)
    packed = Packed([], [])
    batch: list[Message] = []
    left = most
    for message in messages:
        size = len(message.body)
        if size > largest:
            packed.oversize.append(message)
            continue
        if not batch or len(batch) == dialect.max_batch_size or size + 1 > left:
            batch, left = [message], most - size
            packed.batches.append(batch)
        else:
            batch.append(message)
            left -= size + 1
    return packed
