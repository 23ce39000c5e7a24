"""Repeat a coroutine function at an interval, on the background loop.

Since it does not run in the caller's event loop, one poller serves sync and async code, and
survives when a caller's loop is closed. A fork stops it in the child (threads do not survive a
fork); the child resumes it when it first evaluates a flag.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import TYPE_CHECKING

from mixpanel._runtime import background_loop, fork, native_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Future
    from typing import Any

__all__ = ["Poller"]

FIRST_RETRY = 1.0  # seconds, doubling with each failure, while nothing can be served yet
MAX_BACKOFF = 8  # polling intervals between two attempts while the server fails


class Poller:
    """Call `refresh` once per interval, with jitter, and less often while it fails.

    When `refresh` raises, `on_error(error, failures)` is called; it returns the seconds of the
    server's Retry-After, if any. Until `is_ready` returns True, failures are retried quickly. With
    `repeat=False` it stops after the first success.
    """

    def __init__(
        self,
        refresh: Callable[[], Coroutine[Any, Any, None]],
        interval: float,
        *,
        is_ready: Callable[[], bool],
        on_error: Callable[[Exception, int], float | None],
        repeat: bool = True,
    ) -> None:
        self._refresh = refresh
        self._interval = interval
        self._is_ready = is_ready
        self._on_error = on_error
        self._repeat = repeat
        self._lock = native_threads.new_lock()
        self._future: Future[None] | None = None
        self._first_attempt: Future[None] = native_threads.new_future()
        self._stop: asyncio.Event | None = None
        self.stopped_by_fork = False
        fork.register_instance(fork.Order.CLIENTS, self)

    @property
    def running(self) -> bool:
        """True if it was started, in this process."""
        return self._future is not None and not self._future.done() and not self.stopped_by_fork

    def start(self) -> Future[None]:
        """Start unless it is running; the returned future is done after the first attempt."""
        with self._lock:
            if not self.running:
                self.stopped_by_fork = False
                self._first_attempt = native_threads.new_future()
                self._future = background_loop.submit(self._run)
            return self._first_attempt

    def resume(self) -> None:
        """Start again in a forked child, if the parent had started it."""
        if self.stopped_by_fork:
            self.start()

    def stop(self) -> Future[None] | None:
        """Stop; return a future that is done when nothing runs any more, None if nothing ran."""
        with self._lock:
            future, self._future = self._future, None
            if future is None or self.stopped_by_fork:
                self.stopped_by_fork = False
                return None
            background_loop.submit_if_running(self._set_stop)
            return future

    def after_fork(self) -> None:
        """Record that the parent's thread does not poll for this process."""
        # A thread that the child does not have may hold the old lock.
        self._lock = native_threads.new_lock()
        if self._future is not None:
            self.stopped_by_fork = True

    async def _set_stop(self) -> None:
        if self._stop is not None:
            self._stop.set()

    async def _run(self) -> None:
        stop = self._stop = asyncio.Event()
        first_attempt, failures = self._first_attempt, 0
        attempt: asyncio.Task[None] | None = None
        try:
            while not stop.is_set():
                # A task of its own: stopping does not wait for the server's response.
                attempt = asyncio.ensure_future(self._refresh())
                stopped = asyncio.ensure_future(stop.wait())
                await asyncio.wait({attempt, stopped}, return_when=asyncio.FIRST_COMPLETED)
                stopped.cancel()
                if not attempt.done():
                    return
                error = attempt.exception()
                retry_after: float | None = None
                if isinstance(error, Exception):
                    failures += 1
                    retry_after = self._on_error(error, failures)
                else:
                    failures = 0
                if not first_attempt.done():
                    first_attempt.set_result(None)
                if not self._repeat and self._is_ready():
                    return
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), self._pause(failures, retry_after))
        finally:
            # Also when the loop ends: no request may outlive it, and no caller may wait for a first
            # attempt that will never be made.
            if attempt is not None and not attempt.done():
                attempt.cancel()
                with suppress(BaseException):
                    await attempt
            if not first_attempt.done():
                first_attempt.set_result(None)

    def _pause(self, failures: int, retry_after: float | None) -> float:
        # Jitter at each step: processes that start together, or see one failure together, drift
        # apart.
        if not failures:
            return self._interval * random.uniform(0.9, 1.0)
        if not self._is_ready():
            pause = min(FIRST_RETRY * 2.0 ** min(failures - 1, 30), self._interval)
        else:
            pause = self._interval * min(2 ** min(failures - 1, 30), MAX_BACKOFF)
        return max(pause * random.uniform(0.5, 1.0), min(retry_after or 0.0, 600.0))
