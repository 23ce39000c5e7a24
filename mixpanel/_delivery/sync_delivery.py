"""Deliver from sync code: into the buffer; what is due is sent by this thread or in the background.

On the thread of a running event loop, and in a signal handler or finalizer that interrupted the
buffer's own code, a buffered message is accepted without waiting: the code that would have to go on
is the code that waits. An interactive session, such as a notebook, may wait.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from mixpanel._delivery import capture
from mixpanel._runtime import event_loop
from mixpanel._runtime.background_loop import (
    _is_starting_here,
    call_on_background_loop,
    on_background_thread,
    refuse_in_async,
    run,
    start_on_background_loop,
)
from mixpanel.exceptions import QueueFullError, SyncInAsyncError

if TYPE_CHECKING:
    from mixpanel._delivery.sender import Sender
    from mixpanel._delivery.stats import FlushResult
    from mixpanel._records.record import Record

__all__ = ["accept", "close", "deliver", "enqueue", "flush"]

GATHER_TIME = 0.5  # seconds in which exposures gather before they are sent
SPACE_TIMEOUT = 30.0  # seconds a sync caller waits for space with `when_full="wait"`


def enqueue(sender: Sender[Any], record: Record) -> None:
    """Give a record to any sender without waiting; what is due is sent by the background loop.

    Used for exposures, and wherever the calling thread must not wait.

    :raises QueueFullError: with `when_full="raise"`, or "wait", when the buffer is full.
    """
    _send_in_background(sender, sender.accept(record))


def _send_in_background(sender: Sender[Any], signal: bool | None) -> None:  # noqa: FBT001
    """Have the background loop send what is due, as `Sender.accept` returned."""
    if signal is None:
        if event_loop.is_running() and not on_background_thread():
            refuse_in_async(
                'when_full="wait" with a full buffer',
                'use AsyncMixpanel and await it, or when_full="drop_newest", "drop_oldest" or '
                '"raise"',
            )
        raise QueueFullError(
            "the buffer is full, and a callback or signal handler cannot wait for space"
        )
    if not signal or (sender.background and sender.has_loop):
        return
    if sender.background:
        call_on_background_loop(sender.start_here)
    elif not sender.buffered:
        start_on_background_loop(lambda: _flush_later(sender))
    elif sender.buffer.due():
        hook = sender.flush_endpoint
        start_on_background_loop(sender.send_due if hook is None else lambda: _call_hook(sender))


def deliver(sender: Sender[Any], records: list[Record]) -> None:
    """Send records now; where this thread must not wait, in the background within a second.

    :raises DeliveryError: for the first batch that was not delivered.
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
    await asyncio.sleep(GATHER_TIME)
    if not sender.closed:
        await sender.flush(SPACE_TIMEOUT)


def flush(sender: Sender[Any], timeout: float | None, endpoint: str | None = None) -> FlushResult:
    """Send everything accepted so far, or that of one endpoint, and return the result."""
    if sender.flush_hooks.are_called_at_end:
        return sender.flush_at_end()
    if _must_not_wait(sender):
        return sender.skip_flush()
    _refuse_own_loop(sender, "flush")
    return run(sender.flush, timeout, endpoint)


def close(sender: Sender[Any], timeout: float | None) -> FlushResult:
    """Flush, then close; return the result of the flush."""
    if _must_not_wait(sender):
        return sender.skip_flush()
    _refuse_own_loop(sender, "aclose")
    return run(sender.aclose, timeout)


def _refuse_own_loop(sender: Sender[Any], method: str) -> None:
    """Refuse to wait, in a notebook, for an async client that sends in the notebook's loop."""
    if event_loop.is_running() and sender.sends_in_this_loop:
        raise SyncInAsyncError(
            "an async client that shares this consumer sends from the event loop of this thread, "
            f"which this call would block: await {method}() of the async client instead"
        )


def _must_not_wait(sender: Sender[Any]) -> bool:
    return sender.is_interrupted or _is_starting_here()


def accept(sender: Sender[Any], record: Record) -> None:
    """Give a record to a buffered sender; send the batch that it fills, or flush to make space.

    On the thread of a running event loop it never waits.

    :raises QueueFullError: when flushing made no space, or at once with `when_full="raise"`.
    :raises SyncInAsyncError: on the thread of a running event loop, with `when_full="wait"`, when
        the buffer is full.
    """
    signal = sender.accept(record)
    if signal is False and (sender.background or sender.buffer.limits.flush_after is None):
        return  # first, because nearly all messages end here
    if capture.active is not None and not signal:
        return  # captured
    if event_loop.is_running() and (on_background_thread() or not event_loop.is_interactive()):
        _send_in_background(sender, signal)
        return
    if signal is None:
        signal = _accept_after_flush(sender, record)
    if sender.background or (not signal and sender.buffer.limits.flush_after is None):
        return
    # Inside a blocking send of this very thread (a callback), that send continues with what is due
    # when it returns; a second one here could wait for a lock that the first one holds.
    if not sender.is_interrupted and sender.buffer.due():
        if sender.flush_endpoint is not None:
            _call_hook_here(sender)
            return
        transport = sender.sync_transport()
        run(sender.send_due) if transport is None else sender.send_due_blocking(transport)


async def _call_hook(sender: Sender[Any]) -> None:
    await event_loop.in_worker_thread(lambda: _call_hook_here(sender))


def _call_hook_here(sender: Sender[Any]) -> None:
    """Let a subclass's own methods send what is due."""
    assert sender.flush_endpoint is not None
    for endpoint in sender.buffer.due_endpoints():
        sender.flush_endpoint(endpoint)


def _accept_after_flush(sender: Sender[Any], record: Record) -> bool:
    if _must_not_wait(sender):
        raise QueueFullError(
            "the buffer is full, and a callback or signal handler cannot wait for space"
        )
    run(sender.flush, SPACE_TIMEOUT)
    signal = sender.accept(record)
    if signal is None:
        raise QueueFullError(
            "the buffer is full, and flushing it made no space: raise "
            "Limits.max_queue_size or send less"
        )
    return signal
