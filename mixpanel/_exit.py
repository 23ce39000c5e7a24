"""The end of the process, and the beginning of a forked one.

`atexit` runs after the last loop is gone, when no name can be resolved in a loop and no thread can
start; the last drain is therefore blocking, in the main thread, under one deadline for all
consumers. Forked `multiprocessing` children skip `atexit`, so theirs hangs on that module's own
finalizers. A process ended by an unhandled signal runs neither.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from mixpanel._sender import Sender

__all__ = ["afterwards", "everyone", "hold", "loading", "release"]

logger = logging.getLogger("mixpanel")

PATIENCE = 2.0  # seconds, for all consumers together
LOADING = 10.0  # seconds that a fork waits for modules that are being loaded

everyone: weakref.WeakSet[Sender[Any]] = weakref.WeakSet()
_holding: set[Sender[Any]] = set()  # keeps a forgotten consumer alive while it has messages
_watched_by = 0
_then: list[Callable[[], None]] = []

# Held by a thread of ours while it loads modules. A child that was forked meanwhile would wait
# for ever for the locks of modules that nobody goes on loading there.
loading = threading.RLock()
_held_back: list[bool] = []


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
    if _holding:
        with loading:  # takes its time on a busy machine, which is not the server's
            import mixpanel._wire  # noqa: F401
    end = time.monotonic() + PATIENCE
    while _holding:
        try:
            _holding.pop().last_drain(end)
        except Exception:  # one consumer's trouble is not the next one's
            logger.exception("the last messages of a consumer could not be sent")
    for sender in list(everyone):
        sender.let_go()
    for callback in _then:
        callback()


def _before_fork() -> None:
    _held_back.append(loading.acquire(timeout=LOADING))


def _after_fork_in_parent() -> None:
    if _held_back.pop():
        loading.release()


def _after_fork() -> None:
    global loading
    loading = threading.RLock()
    _held_back.clear()
    _holding.clear()
    for sender in list(everyone):
        sender.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork,
    )
