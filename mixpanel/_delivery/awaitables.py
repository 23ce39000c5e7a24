"""What the callers of fire-and-forget methods await."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

if TYPE_CHECKING:
    from mixpanel._delivery.sender import Sender
    from mixpanel._records.record import Record
    from mixpanel.exceptions import QueueFullError

__all__ = ["YIELD_EVERY", "done", "enqueue_when_space", "refused", "turn"]

YIELD_EVERY = 128  # messages after which even a tight loop of tracks lets others run


async def done() -> None:
    """Be awaited; the message was accepted before."""


async def turn() -> None:
    """Be awaited, and give the sender and everybody else their turn."""
    await anyio.lowlevel.checkpoint()


async def refused(error: QueueFullError) -> None:
    """Give the sender its turn, then raise that the buffer was full.

    A tight loop that goes on after this error would otherwise never let anything be sent.
    """
    await anyio.lowlevel.checkpoint()
    raise error


async def enqueue_when_space(sender: Sender[Any], records: list[Record]) -> None:
    """Accept records as room is made for them."""
    for record in records:
        while sender.accept(record) is None:
            await sender.wait_for_space()
