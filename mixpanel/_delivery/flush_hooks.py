"""Call the `flush` methods that subclasses override, when messages are sent without them.

A subclass of a consumer or client may log, filter or count in `flush`. At exit, in a signal handler
and at the end of a job, the package sends what all senders have buffered; it calls these first.
"""

from __future__ import annotations

import inspect
import threading
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from mixpanel._runtime import background_loop, event_loop, native_threads
from mixpanel._runtime.safe_logging import logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from mixpanel._delivery.stats import DeliveryStats

__all__ = ["FlushHooks", "timeout_of"]


class FlushHooks:
    """The `flush` methods that override the sender's own; clients' are called before consumers'."""

    def __init__(self, stats: DeliveryStats) -> None:
        self._stats = stats
        self._methods: list[Callable[[], Callable[..., Any] | None]] = []
        # During `call_at_end`: its thread, and the function that sends there.
        self._at_end: tuple[int, Callable[[], None]] | None = None
        self.backend = "asyncio"  # that runs async methods: the one in which the sender ran last

    def add(self, method: Callable[..., Any]) -> None:
        """Add a bound method of the sender's owner, which lives as long as the sender."""
        self._methods.append(lambda: method)
        event_loop.load_backend("asyncio")  # at the end of the process an import may fail

    def add_weak(self, method: Callable[..., Any]) -> None:
        """Add a bound method of an object that may be collected before the sender."""
        self._methods = [each for each in self._methods if each() is not None]
        self._methods.append(weakref.WeakMethod(method))
        event_loop.load_backend("asyncio")

    def call(self, timeout: float) -> None:
        """Call them from sync code, where threads and event loops still run; never raises."""
        end = time.monotonic() + timeout
        for method in self._with_messages():
            try:
                result = method(*timeout_of(method, max(0.0, end - time.monotonic())))
                if inspect.isawaitable(result):
                    background_loop.run(_awaited, result, end)
            except Exception:
                logger.exception("the flush() of %s failed", _owner_of(method))

    def call_at_end(self, end: float, send_rest: Callable[[], None]) -> None:
        """Call them at the end of the process, or in a signal handler; never raises.

        No other thread and no event loop may run then, so inside these calls the sender's `flush`
        calls `send_rest`. The caller sends what they leave.

        :param end: the deadline, on the monotonic clock.
        """
        for method in self._with_messages():
            call = partial(self._call_at_end, method, end, send_rest)
            if event_loop.is_running():
                # A signal handler inside an event loop: another cannot run in this thread.
                thread = native_threads.start_thread(call, "mixpanel-flush")
                thread.join(max(0.0, end - time.monotonic()))
            else:
                call()

    @property
    def are_called_at_end(self) -> bool:
        """Return True inside `call_at_end`, in the thread of the call."""
        return self._at_end is not None and self._at_end[0] == threading.get_ident()

    def send_rest(self) -> None:
        """Call the `send_rest` that was passed to `call_at_end`."""
        # Not set while sending: a callback that flushes must not send recursively.
        at_end, self._at_end = self._at_end, None
        try:
            if self._stats.pending and at_end is not None:
                at_end[1]()
        finally:
            self._at_end = at_end

    def after_fork(self) -> None:
        """Forget a call that was in progress in the parent."""
        self._at_end = None

    def _with_messages(self) -> list[Callable[..., Any]]:
        """Return the methods to call, if there is anything to send."""
        if not self._stats.pending:
            return []
        found = [each() for each in reversed(self._methods)]
        return [method for method in found if method is not None]

    def _call_at_end(
        self, method: Callable[..., Any], end: float, send_rest: Callable[[], None]
    ) -> None:
        if not self._stats.pending:
            return
        self._at_end = (threading.get_ident(), send_rest)
        try:
            result = method(*timeout_of(method, max(0.0, end - time.monotonic())))
            if inspect.isawaitable(result):
                anyio.run(_awaited, result, end, backend=self.backend)
        except Exception:
            logger.exception("the flush() of %s failed at exit", _owner_of(method))
        finally:
            self._at_end = None


def timeout_of(flush: Any, timeout: float | None) -> tuple[float | None, ...]:
    """Return the argument for a `flush`, whose official form takes none."""
    try:
        inspect.signature(flush).bind(timeout)
    except (TypeError, ValueError):
        return ()
    return (timeout,)


async def _awaited(result: Any, end: float) -> None:
    with anyio.move_on_after(end - time.monotonic()):
        await result


def _owner_of(method: Any) -> str:
    return type(getattr(method, "__self__", method)).__name__
