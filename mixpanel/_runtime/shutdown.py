"""The end of the process, and the beginning of a forked one.

`atexit` runs after the last loop is gone, when no name can be resolved in a loop and no thread can
start; the last drain is therefore blocking, in the main thread, under one deadline for all
consumers. Forked `multiprocessing` children skip `atexit`, so theirs hangs on that module's own
finalizers. A process ended by an unhandled signal runs neither.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
import weakref
from typing import TYPE_CHECKING, Any

from mixpanel._runtime.import_lock import loading
from mixpanel._runtime.safe_logging import logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from mixpanel._delivery.sender import Sender

__all__ = ["afterwards", "everyone", "hold", "release"]

PATIENCE = 2.0  # seconds, for all consumers together

everyone: weakref.WeakSet[Sender[Any]] = weakref.WeakSet()
_holding: set[Sender[Any]] = set()  # keeps a forgotten consumer alive while it has messages
_watched_by = 0
over = False  # whether the last drain is behind us
drain_end = 0.0  # on the monotonic clock: until when what other exit handlers track is sent
_then: list[Callable[[], None]] = []


def hold(sender: Sender[Any]) -> None:
    """Keep a sender that has messages, and see to it that they leave before the process does."""
    global _watched_by
    if sender in _holding:
        return
    _holding.add(sender)
    if _watched_by == os.getpid():
        return
    first = _watched_by == 0
    _watched_by = os.getpid()
    if first:
        atexit.register(_drain)
    if "multiprocessing.util" in sys.modules:
        from multiprocessing.util import Finalize

        Finalize(None, _drain, exitpriority=10)


def release(sender: Sender[Any]) -> None:
    """Let go of a sender that has nothing left."""
    _holding.discard(sender)


def afterwards(callback: Callable[[], None]) -> None:
    """Run something once the last drain is over."""
    _then.append(callback)


def _drain() -> None:
    global drain_end, over
    if _holding:
        with loading:  # takes its time on a busy machine, which is not the server's
            import mixpanel._http.transports  # noqa: F401
    end = drain_end = time.monotonic() + PATIENCE
    while _holding:
        _drain_one(_holding.pop(), end)
    for sender in list(everyone):
        _drain_one(sender, end)  # nothing waits there, and nothing will be accepted
        sender.let_go()
    over = True
    for callback in _then:
        callback()


def _drain_one(sender: Sender[Any], end: float) -> None:
    try:
        sender.last_drain(end)
    except Exception:  # one consumer's trouble is not the next one's
        logger.exception("the last messages of a consumer could not be sent")


def _after_fork() -> None:
    global over
    over = False
    _holding.clear()
    for sender in list(everyone):
        sender.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
