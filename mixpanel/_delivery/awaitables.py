"""What fire-and-forget methods return to async callers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from mixpanel._delivery.sender import Sender
    from mixpanel._records.record import Record
    from mixpanel.exceptions import QueueFullError

__all__ = [
    "YIELD_EVERY",
    "already_done",
    "deliver_and_commit",
    "enqueue_when_space",
    "raise_after_yield",
    "yield_to_loop",
]

YIELD_EVERY = 128  # messages after which even a tight loop of calls yields to the event loop


async def already_done() -> None:
    """Return at once: the message was accepted by the call that returned this coroutine."""


async def yield_to_loop() -> None:
    """Let other tasks run, among them the one that sends."""
    await anyio.lowlevel.checkpoint()


async def raise_after_yield(error: QueueFullError) -> None:
    """Let other tasks run, then raise that the buffer is full.

    Without the yield, a tight loop that continues after this error would never let the buffer be
    emptied.
    """
    await anyio.lowlevel.checkpoint()
    raise error


async def enqueue_when_space(sender: Sender[Any], records: list[Record]) -> None:
    """Accept records one by one, waiting for space in the buffer where there is none."""
    for record in records:
        while sender.accept(record) is None:
            await sender.wait_for_space()


async def deliver_and_commit(
    client: Any, delivery: Coroutine[Any, Any, None], records: Sequence[Record]
) -> None:
    """Wait until a client has accepted records, and then until they are on disk."""
    await delivery
    await client._commit_records(records)
