"""Threads and locks of the operating system, also where gevent or eventlet replace them.

After `monkey.patch_all()` a new "thread" is a greenlet: it runs in the thread that started it, and
only while that one waits. The background event loop needs a thread of its own, and what it shares
with others needs locks that hold between real threads. A lock from here must be held for short
computations only: a greenlet that waited while it holds one would stop all others of its thread.
"""

from __future__ import annotations

import _thread
import socket
import sys
import threading
import time
from collections import deque
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

__all__ = [
    "Mailbox",
    "get_ident",
    "is_patched",
    "new_future",
    "new_lock",
    "new_rlock",
    "run_between_requests",
    "start_thread",
    "wait_for",
    "wait_for_all",
]

T = TypeVar("T")

WAKE_UP_INTERVAL = 1.0  # seconds; on Windows a signal is handled only between two waits


def _original(name: str) -> Any:
    """Return a function of `_thread` as it was before gevent or eventlet replaced it."""
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_module_patched("_thread"):
        return gevent.get_original("_thread", name)
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        return getattr(eventlet.original("_thread"), name)
    return getattr(_thread, name)


# Found once: they stay the originals when the modules are patched after this import.
_start_new_thread: Callable[..., int] = _original("start_new_thread")
new_lock: Callable[[], Any] = _original("allocate_lock")
new_rlock: Callable[[], Any] = _original("RLock")
get_ident: Callable[[], int] = _original("get_ident")


def is_patched() -> bool:
    """Return True if new threads are greenlets."""
    return _thread.start_new_thread is not _start_new_thread


def run_between_requests() -> bool:
    """Return False under uWSGI without `--enable-threads`: its threads run within requests only."""
    options = getattr(sys.modules.get("uwsgi"), "opt", None)
    return options is None or any(
        name in options for name in ("enable-threads", "threads", "gevent", "asyncio")
    )


class NativeThread:
    """A daemon thread of the operating system, with the methods of `threading.Thread` used here."""

    def __init__(self, run: Callable[[], None]) -> None:
        self._run = run
        self._running = new_lock()
        self._running.acquire()
        _start_new_thread(self._run_and_release, ())

    def _run_and_release(self) -> None:
        try:
            self._run()
        finally:
            self._running.release()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the thread has ended, blocking even other greenlets."""
        if self._running.acquire(timeout=-1 if timeout is None else timeout):
            self._running.release()

    def is_alive(self) -> bool:
        """Return True until the thread has ended."""
        return bool(self._running.locked())


def start_thread(run: Callable[[], None], name: str) -> threading.Thread | NativeThread:
    """Start a daemon thread of the operating system.

    :raises RuntimeError: when no thread can start, as at the end of the interpreter.
    """
    if is_patched():
        return NativeThread(run)
    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


class Mailbox:
    """Calls that other threads leave for the one that waits here.

    The waiting is a read from a socket: gevent and eventlet let other greenlets run meanwhile, and
    in a plain thread Ctrl-C interrupts it. Any thread may wake it, whatever runs there.
    """

    def __init__(self) -> None:
        self._calls: deque[Callable[[], object]] = deque()
        self._receiver, self._sender = socket.socketpair()
        self._receiver.settimeout(WAKE_UP_INTERVAL)
        self._sender.setblocking(False)  # noqa: FBT003

    def put(self, call: Callable[[], object]) -> None:
        """Leave a call, from any thread."""
        self._calls.append(call)
        self.wake()

    def wake(self) -> None:
        """Let the waiting thread look whether it is done, from any thread."""
        # A full buffer (BlockingIOError) means that the wake-up is on its way already.
        with suppress(OSError):
            self._sender.send(b"\0")

    def run_until(self, is_done: Callable[[], bool], end: float | None = None) -> bool:
        """Run the calls until `is_done()` or `end` on the monotonic clock; return `is_done()`."""
        while True:
            while self._calls:
                self._calls.popleft()()
            if is_done():
                return True
            if end is not None:
                left = end - time.monotonic()
                if left <= 0:
                    return False
                self._receiver.settimeout(min(WAKE_UP_INTERVAL, left))
            with suppress(TimeoutError):
                self._receiver.recv(4096)

    def close(self) -> None:
        """Close the sockets; calls that come later are ignored."""
        self._receiver.close()
        self._sender.close()


def new_future() -> Future[Any]:
    """Return a future that threads and greenlets may share; wait for it with `wait_for`."""
    future: Future[Any] = Future()
    future._condition = threading.Condition(new_rlock())
    return future


def wait_for(future: Future[T], timeout: float | None = None) -> T:
    """Return the result of a future, letting other greenlets run until it is done.

    :raises TimeoutError: after `timeout` seconds.
    """
    if is_patched() and wait_for_all([future], timeout):
        raise TimeoutError
    return future.result(timeout)


def wait_for_all(
    futures: Iterable[Future[Any]], timeout: float | None = None
) -> Collection[Future[Any]]:
    """Wait until all futures are done; return those that are not after `timeout` seconds."""
    waiting = [future for future in futures if not future.done()]
    if not is_patched():
        return wait(waiting, timeout).not_done
    end = None if timeout is None else time.monotonic() + timeout
    mailbox = Mailbox()
    try:
        for future in waiting:
            future.add_done_callback(lambda _: mailbox.wake())
        mailbox.run_until(lambda: all(future.done() for future in waiting), end)
    finally:
        mailbox.close()
    return [future for future in waiting if not future.done()]
