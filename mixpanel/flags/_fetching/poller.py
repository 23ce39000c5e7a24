"""Do something again and again on the home loop, whatever loop the caller lives in.

The poller outlives event loops that come and go, serves sync and async code alike, and starts again
in a forked child when the child first asks for a flag.
"""

from __future__ import annotations

import asyncio
import random
import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING

from mixpanel._runtime import background_loop, fork

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

__all__ = ["Poller"]

FIRST_RETRY = 1.0  # seconds, doubling, while there is nothing to serve yet
MOST_BACKOFF = 8  # intervals between attempts while the server fails


class Poller:
    """Call `refresh` once an interval, jittered, and less often while it fails.

    `refresh` raises what went wrong; `failed(error, failures)` hears of it and returns the seconds
    that the server asked to wait, if any. `has_something` tells whether there is anything to serve:
    until then retries come quickly.
    """

    def __init__(
        self,
        refresh: Callable[[], Coroutine[Any, Any, None]],
        interval: float,
        *,
        has_something: Callable[[], bool],
        failed: Callable[[Exception, int], float | None],
        repeat: bool = True,
    ) -> None:
        self._refresh = refresh
        self._interval = interval
        self._has_something = has_something
        self._failed = failed
        self._repeat = repeat
        self._lock = threading.Lock()
        self._live: Future[None] | None = None
        self._first: Future[None] = Future()
        self._stop: asyncio.Event | None = None
        self.stopped_by_fork = False
        fork.register_instance(fork.Order.CLIENTS, self)

    @property
    def running(self) -> bool:
        """Tell whether it is started, in this process."""
        return self._live is not None and not self._live.done() and not self.stopped_by_fork

    def start(self) -> Future[None]:
        """Start unless it runs; the future is done when the first attempt is over."""
        with self._lock:
            if not self.running:
                self.stopped_by_fork = False
                self._first = Future()
                self._live = background_loop.submit(self._run)
            return self._first

    def resume(self) -> None:
        """Start again in a forked child, if the parent had started it."""
        if self.stopped_by_fork:
            self.start()

    def stop(self) -> Future[None] | None:
        """Stop; the future, if it ran here, is done when nothing runs any more."""
        with self._lock:
            live, self._live = self._live, None
            if live is None or self.stopped_by_fork:
                self.stopped_by_fork = False
                return None
            background_loop.soon(self._end)
            return live

    def after_fork(self) -> None:
        """Note that the parent's thread does not poll for this process."""
        self._lock = threading.Lock()
        if self._live is not None:
            self.stopped_by_fork = True

    async def _end(self) -> None:
        if self._stop is not None:
            self._stop.set()

    async def _run(self) -> None:
        stop = self._stop = asyncio.Event()
        first, failures = self._first, 0
        attempt: asyncio.Task[None] | None = None
        try:
            while not stop.is_set():
                attempt = asyncio.ensure_future(self._refresh())
                ended = asyncio.ensure_future(stop.wait())
                await asyncio.wait({attempt, ended}, return_when=asyncio.FIRST_COMPLETED)
                ended.cancel()
                if not attempt.done():
                    return
                error = attempt.exception()
                asked: float | None = None
                if isinstance(error, Exception):
                    failures += 1
                    asked = self._failed(error, failures)
                else:
                    failures = 0
                if not first.done():
                    first.set_result(None)
                if not self._repeat and self._has_something():
                    return
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), self._pause(failures, asked))
        finally:
            if attempt is not None and not attempt.done():
                attempt.cancel()
                with suppress(BaseException):
                    await attempt
            if not first.done():
                first.set_result(None)

    def _pause(self, failures: int, asked: float | None) -> float:
        if not failures:
            return self._interval * random.uniform(0.9, 1.0)
        if not self._has_something():
            pause = min(FIRST_RETRY * 2.0 ** min(failures - 1, 30), self._interval)
        else:
            pause = self._interval * min(2 ** min(failures - 1, 30), MOST_BACKOFF)
        return max(pause * random.uniform(0.5, 1.0), min(asked or 0.0, 600.0))
