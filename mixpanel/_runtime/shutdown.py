"""Send what is left when the process exits.

`atexit` handlers run after the last event loop has ended, when no loop can resolve a name and no
thread can start. So the last drain is blocking, in the main thread, with one deadline for all
consumers. Children of `multiprocessing`, and of `billiard`, Celery's copy of it, skip `atexit`; for
them the drain is a finalizer of that module. The workers of a billiard pool skip that as well, but
call their `on_exit`. A process that is ended by an unhandled signal runs none of them.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Protocol

from mixpanel._runtime import fork
from mixpanel._runtime.import_lock import import_lock
from mixpanel._runtime.safe_logging import logger

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Drainable",
    "drain",
    "flush",
    "is_draining",
    "is_interrupted",
    "on_shutdown",
    "register",
    "senders",
    "unregister",
    "wait_first",
]

EXIT_TIMEOUT = 2.0  # seconds, for all consumers together


class Drainable(Protocol):
    """An object with messages to send before the process exits: a sender."""

    def prepare_drain(self) -> None:
        """Import what `drain_at_exit` needs."""
        ...

    def drain_at_exit(self, end: float) -> None:
        """Send what is left, until `end` on the monotonic clock; accept nothing afterwards."""
        ...

    def flush_blocking(self, end: float) -> None:
        """Send what is not in flight until `end`, and from then on each message at once."""
        ...

    def holds_lock(self) -> bool:
        """Return True in a signal handler that interrupted this thread inside the sender."""
        ...

    def close_sync(self) -> None:
        """Close the connections of sync callers."""
        ...

    def after_fork(self) -> None:
        """Start afresh in a forked child."""
        ...


senders: weakref.WeakSet[Drainable] = weakref.WeakSet()
_with_messages: set[Drainable] = set()  # strong: a consumer may be dropped while it has messages
_registered_pid = 0  # the process in which the exit handlers are registered
is_over = False  # True after the last drain
drain_deadline = 0.0  # monotonic; what later exit handlers track is sent until then
_callbacks: list[Callable[[], None]] = []
_waits: list[Callable[[float], object]] = []


def register(sender: Drainable) -> None:
    """Keep a sender alive that has messages, and drain it when the process exits."""
    global _registered_pid
    if sender in _with_messages:
        return
    _with_messages.add(sender)
    if _registered_pid == os.getpid():
        return
    first = _registered_pid == 0
    _registered_pid = os.getpid()
    # A forked child inherits the `atexit` handler, but children of `multiprocessing` never run it.
    # They run the finalizers of that module, which they do not inherit.
    if first:
        atexit.register(drain)
    for name in ("multiprocessing.util", "billiard.util"):
        if name in sys.modules:
            sys.modules[name].Finalize(None, drain, exitpriority=10)
    if "billiard.process" in sys.modules:
        _register_in_billiard_worker(sys.modules["billiard.process"].current_process())
    if "uwsgi" in sys.modules:
        _register_in_uwsgi(sys.modules["uwsgi"])
    if not threading.main_thread().is_alive():
        drain()  # `atexit` handlers are running; one that is registered now is never called


def _register_in_uwsgi(uwsgi: Any) -> None:
    """Drain in uWSGI's own exit hook: with threads, its workers run no `atexit` handlers."""
    hook = getattr(uwsgi, "atexit", None)

    def drain_after() -> None:
        try:
            if hook is not None:
                hook()
        finally:
            drain()

    uwsgi.atexit = drain_after


def _register_in_billiard_worker(process: Any) -> None:
    worker: Any = getattr(process, "_target", None)
    if not hasattr(worker, "on_exit"):
        return  # not a worker of a pool
    on_exit = worker.on_exit  # Celery's sends `worker_process_shutdown`

    def drain_after(pid: int, exitcode: int) -> None:
        try:
            if on_exit is not None:
                on_exit(pid, exitcode)
        finally:
            drain()

    worker.on_exit = drain_after


def unregister(sender: Drainable) -> None:
    """Release a sender that has no messages left."""
    _with_messages.discard(sender)


def on_shutdown(callback: Callable[[], None]) -> None:
    """Call a function after the last drain."""
    _callbacks.append(callback)


def wait_first(wait: Callable[[float], object]) -> None:
    """Call a function before anything is sent, with the time on the monotonic clock to end by."""
    _waits.append(wait)


def is_draining() -> bool:
    """Return True once the last drain has begun."""
    return drain_deadline > 0


def is_interrupted() -> bool:
    """Return True in a signal handler that must not wait for the code that it interrupted."""
    return import_lock.is_held_here() or any(sender.holds_lock() for sender in list(senders))


def flush() -> None:
    """Send what all consumers have buffered, and from then on each of their messages at once."""
    end = time.monotonic() + EXIT_TIMEOUT
    for wait in _waits:
        wait(end)
    for sender in list(senders):
        try:
            sender.flush_blocking(end)
        except Exception:  # the other consumers are flushed all the same
            logger.exception("a consumer could not be flushed")


def drain() -> None:
    """Send what all consumers hold, and let them accept nothing afterwards: the last drain."""
    global drain_deadline, is_over
    for sender in list(_with_messages)[:1]:
        sender.prepare_drain()  # imports may be slow: not at the expense of the server's time
    end = drain_deadline = time.monotonic() + EXIT_TIMEOUT
    for wait in _waits:
        wait(end)
    while _with_messages:
        _drain_one(_with_messages.pop(), end)
    for sender in list(senders):
        _drain_one(sender, end)  # has no messages, but must stop accepting
        sender.close_sync()
    is_over = True
    for callback in _callbacks:
        callback()


def _drain_one(sender: Drainable, end: float) -> None:
    try:
        sender.drain_at_exit(end)
    except Exception:  # the other consumers are drained all the same
        logger.exception("a consumer could not be drained at exit")


def _after_fork() -> None:
    global drain_deadline, is_over
    drain_deadline, is_over = 0.0, False
    _with_messages.clear()
    for sender in list(senders):
        sender.after_fork()


fork.register(fork.Order.SENDERS, after_in_child=_after_fork)
