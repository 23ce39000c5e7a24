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
from typing import TYPE_CHECKING, Protocol

from mixpanel._runtime import fork
from mixpanel._runtime.safe_logging import logger

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Drainable", "on_shutdown", "register", "senders", "unregister"]

EXIT_TIMEOUT = 2.0  # seconds, for all consumers together


class Drainable(Protocol):
    """What holds messages that must leave before the process does."""

    def prepare_drain(self) -> None:
        """Import what the drain needs."""
        ...

    def drain_at_exit(self, end: float) -> None:
        """Send what is left until `end` on the monotonic clock, and accept nothing from then on."""
        ...

    def close_sync(self) -> None:
        """Close the connections of calling threads."""
        ...

    def after_fork(self) -> None:
        """Start afresh in a forked child."""
        ...


senders: weakref.WeakSet[Drainable] = weakref.WeakSet()
_waiting: set[Drainable] = set()  # keeps a forgotten consumer alive while it has messages
_watched_by = 0
over = False  # whether the last drain is behind us
drain_end = 0.0  # on the monotonic clock: until when what other exit handlers track is sent
_then: list[Callable[[], None]] = []


def register(sender: Drainable) -> None:
    """Keep a sender that has messages, and see to it that they leave before the process does."""
    global _watched_by
    if sender in _waiting:
        return
    _waiting.add(sender)
    if _watched_by == os.getpid():
        return
    first = _watched_by == 0
    _watched_by = os.getpid()
    if first:
        atexit.register(_drain)
    if "multiprocessing.util" in sys.modules:
        from multiprocessing.util import Finalize

        Finalize(None, _drain, exitpriority=10)


def unregister(sender: Drainable) -> None:
    """Let go of a sender that has nothing left."""
    _waiting.discard(sender)


def on_shutdown(callback: Callable[[], None]) -> None:
    """Run something once the last drain is over."""
    _then.append(callback)


def _drain() -> None:
    global drain_end, over
    for sender in list(_waiting)[:1]:
        sender.prepare_drain()  # takes its time on a busy machine, which is not the server's
    end = drain_end = time.monotonic() + EXIT_TIMEOUT
    while _waiting:
        _drain_one(_waiting.pop(), end)
    for sender in list(senders):
        _drain_one(sender, end)  # nothing waits there, and nothing will be accepted
        sender.close_sync()
    over = True
    for callback in _then:
        callback()


def _drain_one(sender: Drainable, end: float) -> None:
    try:
        sender.drain_at_exit(end)
    except Exception:  # one consumer's trouble is not the next one's
        logger.exception("the last messages of a consumer could not be sent")


def _after_fork() -> None:
    global over
    over = False
    _waiting.clear()
    for sender in list(senders):
        sender.after_fork()


fork.register(fork.Order.SENDERS, after_in_child=_after_fork)
