"""Deliver from sync code: into the buffer, and what is due from this thread or the home loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from mixpanel._delivery import capture
from mixpanel._runtime.background_loop import (
    _is_starting_here,
    call_on_background_loop,
    on_background_thread,
    run,
    start_on_background_loop,
)
from mixpanel.exceptions import QueueFullError

if TYPE_CHECKING:
    from mixpanel._delivery.sender import Sender
    from mixpanel._delivery.stats import FlushResult
    from mixpanel._records.record import Record

__all__ = ["accept", "close", "deliver", "enqueue", "flush"]

GATHERING = 0.5  # seconds in which exposures gather before they leave


ROOM_TIMEOUT = 30.0  # seconds a sync caller waits for room with `when_full="wait"`


def enqueue(sender: Sender[Any], record: Record) -> None:
    """Give a record to any sender of ours without ever waiting: for exposures, and on our own loop.

    What is due leaves from the home loop, within about a second.

    :raises QueueFullError: with `when_full="raise"`, or "wait" when there is no room.
    """
    signal = sender.accept(record)
    if signal is None:
        raise QueueFullError("the buffer is full, and this call must not wait for room")
    if not signal or (sender.background and sender.has_loop):
        return
    if sender.background:
        call_on_background_loop(sender.wake)
    elif not sender.buffered:
        start_on_background_loop(lambda: _flush_later(sender))
    elif sender.buffer.due():
        start_on_background_loop(sender.pump)


def deliver(sender: Sender[Any], records: list[Record]) -> None:
    """Have records sent at once; where this thread must not wait, within about a second.

    That is on the home loop, as in a callback, and in a signal handler or finalizer that has
    interrupted the buffer's own code.

    :raises DeliveryError: when one did not arrive.
    """
    if sender.captures(records):
        return
    if on_background_thread() or _must_not_wait(sender):
        for record in records:
            enqueue(sender, record)
        return
    transport = sender.sync_transport()
    if transport is None:
        run(sender.deliver, records)
    else:
        sender.deliver_blocking(records, transport)


async def _flush_later(sender: Sender[Any]) -> None:
    await asyncio.sleep(GATHERING)
    if not sender.closed:
        await sender.flush(ROOM_TIMEOUT)


def flush(sender: Sender[Any], timeout: float | None) -> FlushResult:
    """Send everything accepted so far and return what became of it."""
    return sender.unflushed() if _must_not_wait(sender) else run(sender.flush, timeout)


def close(sender: Sender[Any], timeout: float | None) -> FlushResult:
    """Flush and close; return what became of what was waiting."""
    return sender.unflushed() if _must_not_wait(sender) else run(sender.aclose, timeout)


def _must_not_wait(sender: Sender[Any]) -> bool:
    return sender.is_interrupted or _is_starting_here()


def accept(sender: Sender[Any], record: Record) -> None:
    """Give a record to a buffered sender, and have sent what is due, or what makes room.

    On the home loop, as in a callback, it never waits.

    :raises QueueFullError: when flushing made no room, or at once with `when_full="raise"`.
    """
    if capture.active is not None and sender.captures([record]):
        return
    if on_background_thread():
        enqueue(sender, record)
        return
    signal = sender.accept(record)
    if signal is None:
        if _must_not_wait(sender):
            raise QueueFullError("the buffer is full, and this call must not wait for room")
        run(sender.flush, ROOM_TIMEOUT)
        signal = sender.accept(record)
        if signal is None:
            raise QueueFullError("the buffer is full, and flushing it made no room")
    if not signal and sender.buffer.limits.flush_after is None:
        return
    if not sender.background:
        # Inside a blocking send of this thread, that send takes what is due when it goes on.
        if not sender.is_interrupted and sender.buffer.due():
            transport = sender.sync_transport()
            run(sender.pump) if transport is None else sender.pump_blocking(transport)
    elif not sender.has_loop and sender.stats.pending:  # not past the drain at exit
        call_on_background_loop(sender.wake)
