"""Keep to the rate limits of a project: calls per hour, per second and at the same time.

Mixpanel counts all calls of a project together. One `ApiRateLimiter` for each project and kind of
call is shared by all threads and event loops of the process, and through a file by the other
processes of this user. Within a process, calls start in the order of arrival. Calls from other
machines are noticed by a 429: then all calls wait, and one is sent as a probe before the others.
"""

from __future__ import annotations

import math
import os
import random
import time
from bisect import insort
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Any, Self

import anyio

from mixpanel._runtime import event_loop, fork, native_threads
from mixpanel._runtime.safe_logging import logger
from mixpanel.data._api.quota import exceeded_quota
from mixpanel.data._api.rate_windows import (
    HOUR,
    RateWindows,
    Start,
)
from mixpanel.data.exceptions import RateLimitError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from mixpanel.data._api.quota import Quota

__all__ = ["MAX_WAIT", "ApiRateLimiter", "Slot", "duration_text", "shared"]

MAX_WAIT = 65 * 60.0  # seconds: by then the hourly limit has been reset
MIN_REPORTED_WAIT = 4.0  # seconds; a shorter wait is not reported
MIN_REPORTED_APP_WAIT = 0.5  # seconds; the same for the app API, where waiting is rare
RECHECK_AFTER = 15.0  # seconds; meanwhile another process may have changed the state
POLL_INTERVAL = 0.25  # seconds between looks at the state of other processes


class ApiRateLimiter:
    """Start calls in the order of arrival, as soon as the limits of the project allow.

    `what` names the calls in the plural. Safe to share between threads and event loops; with
    `shared_in`, a file, also between processes. With `rejections_are_free`, a call that got a 429
    does not count, as the server does not count it either.
    """

    def __init__(
        self,
        what: str,
        *windows: tuple[int, float],
        concurrent: int,
        clock: Callable[[], float] | None = None,
        sleep: Callable[[float], Awaitable[object]] = anyio.sleep,
        rejections_are_free: bool = False,
        shared_in: Path | None = None,
        min_reported_wait: float = MIN_REPORTED_WAIT,
    ) -> None:
        self.what = what
        self.min_reported_wait = min_reported_wait
        self.rejections_are_free = rejections_are_free
        self._windows = RateWindows(*windows, concurrent=concurrent)
        if shared_in is not None:
            from mixpanel.data._api.shared_rate_windows import SharedRateWindows

            self._windows = SharedRateWindows(shared_in, *windows, concurrent=concurrent)
        # Processes share no other clock than the time of day.
        self._clock = clock or (time.monotonic if shared_in is None else time.time)
        self._sleep = sleep
        self._lock = native_threads.new_lock()
        self._queue: list[Slot] = []
        self._uncounted_queue: list[Slot] = []  # not counted, so never waits an hour
        self._numbers = count()

    # Our windows are a little longer than Mixpanel's: it counts a call on arrival and we when it is
    # sent, so two calls may arrive closer together than they were sent.

    @classmethod
    def export(cls, **time: Any) -> ApiRateLimiter:
        """Return the limiter of raw exports: 60 an hour, 3 a second, 100 at the same time."""
        windows = (60, HOUR + 2.0), (3, 1.1)
        return cls("exports", *windows, concurrent=100, **time)

    @classmethod
    def query(cls, **time: Any) -> ApiRateLimiter:
        """Return the limiter of queries: 60 an hour unless a project has more, 5 at a time."""
        calls = query_limit()
        return cls("queries", (calls, HOUR + 2.0), concurrent=5, rejections_are_free=True, **time)

    @classmethod
    def app(cls, **time: Any) -> ApiRateLimiter:
        """Return the limiter of the app API, for which Mixpanel publishes no limits."""
        return cls("requests", concurrent=10, min_reported_wait=MIN_REPORTED_APP_WAIT, **time)

    def remaining(self) -> int:
        """Return how many calls are left in this hour, as far as this machine knows."""
        with self._lock:
            left = self._windows.remaining(self._clock())
        return 1_000_000 if left is None else left

    def seconds_to_next(self) -> float | None:
        """Return in how many seconds a call more will be left; None if all are left."""
        with self._lock:
            now = self._clock()
            returns = self._windows.next_return(now)
        return None if returns is None else max(0.0, returns - now)

    def call(
        self,
        *,
        on_wait: Callable[[float, str], object] | None = None,
        max_wait: float = MAX_WAIT,
        counted: bool = True,
    ) -> Slot:
        """Return a place in the queue, to be entered with `async with` for each attempt."""
        return Slot(self, next(self._numbers), on_wait, max_wait, counted=counted)

    def __repr__(self) -> str:
        return f"<ApiRateLimiter of {self.what}: {self.remaining()} left>"

    async def _wait_for_start(self, call: Slot) -> Start:
        line = self._queue if call.counted else self._uncounted_queue
        with self._lock:
            insort(line, call, key=lambda waiting: waiting.number)
        try:
            while True:
                with self._lock:
                    now, first = self._clock(), line[0] is call
                    next_start: Start | float = (
                        self._windows.try_start(now, counted=call.counted)
                        if first
                        else self._windows.next_start(now, counted=call.counted)
                    )
                    if isinstance(next_start, Start):
                        return next_start
                    expected = self._windows.expected_start(
                        line.index(call), now, counted=call.counted
                    )
                    if not first or next_start == math.inf:
                        call.waiter = _Waiter()
                    why = self._windows.why(self.what)
                if now < next_start < math.inf:
                    self._check_max_wait(call, now, next_start, why)
                call.report_wait(expected - now, f"{why}: waiting {duration_text(expected - now)}")
                await self._wait(call, next_start - now)
                call.waiter = None
        finally:
            call.waiter, call.reported = None, False
            with self._lock:
                line.remove(call)
            self._wake_next()

    async def _wait(self, call: Slot, seconds: float) -> None:
        """Wait until this call should check again whether it may start."""
        if call.waiter is None:
            await self._sleep(min(seconds, RECHECK_AFTER) if self._windows.is_shared else seconds)
        elif self._windows.is_shared:  # a call of another process may have ended, too
            with anyio.move_on_after(POLL_INTERVAL):
                await call.waiter.wait()
        else:
            await call.waiter.wait()

    def _wake_next(self) -> None:
        with self._lock:
            turns = [line[0].waiter for line in (self._queue, self._uncounted_queue) if line]
        for turn in turns:
            if turn is not None:
                turn.wake()

    def _check_max_wait(self, call: Slot, now: float, next_start: float, why: str) -> None:
        since = now if call.rejected_at is None else call.rejected_at
        if next_start - since <= call.max_wait:
            return
        with self._lock:
            calls, seconds = self._windows.longest
            used = self._windows.used(now, seconds)
        wait = next_start - now
        raise RateLimitError(
            f"{why}; the next call may start in {duration_text(wait)}",
            retry_after=wait,
            sent=call.rejected_at is not None,
            next_slot_at=datetime.now(UTC) + timedelta(seconds=wait),
            limit=calls or None,
            used=used if calls else None,
            window_seconds=int(seconds) or None,
        )

    def _after_fork(self) -> None:
        self._lock = native_threads.new_lock()
        self._queue, self._uncounted_queue = [], []
        self._windows.restart()


class Slot:
    """A place in the queue. A repeated attempt enters it again, ahead of calls that came later."""

    def __init__(
        self,
        limiter: ApiRateLimiter,
        number: int,
        on_wait: Callable[[float, str], object] | None,
        max_wait: float,
        *,
        counted: bool = True,
    ) -> None:
        self.number = number
        self.counted = counted
        self.max_wait = max_wait
        self.rejected_at: float | None = None
        self.waiter: _Waiter | None = None
        self.reported: bool = False
        self._limiter = limiter
        self._on_wait = on_wait
        self._start: Start | None = None

    async def __aenter__(self) -> Self:
        """Wait until the call may start.

        :raises RateLimitError: when that would take longer than `max_wait`.
        """
        self._start = await self._limiter._wait_for_start(self)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        assert self._start is not None
        with self._limiter._lock:
            self._limiter._windows.end(self._start)
        self._limiter._wake_next()

    def accepted(self) -> None:
        """Record that the server accepted the call, whatever its result will be."""
        assert self._start is not None
        with self._limiter._lock:
            self._limiter._windows.accept(self._start)
        self._limiter._wake_next()

    def rejected(self, retry_after: float | None, quotas: Sequence[Quota] = ()) -> None:
        """Record a 429: all calls of this limiter will wait.

        For how long depends on the limit that the response names, if any.
        """
        assert self._start is not None
        limit = exceeded_quota(quotas)
        with self._limiter._lock:
            now, windows = self._limiter._clock(), self._limiter._windows
            if self.rejected_at is None:
                self.rejected_at = now
            jittered = None if retry_after is None else retry_after + random.random()
            # A call that is not counted ignores the windows, so it waits for nothing else.
            if not self.counted or (limit is not None and limit.concurrent):
                windows.reject_for_concurrency(now, jittered)
            else:
                windows.reject(self._start, now, jittered)
            if self._limiter.rejections_are_free:
                windows.uncount(self._start)

    def uncounted(self) -> None:
        """Record that the server does not count this attempt, or never saw it."""
        assert self._start is not None
        with self._limiter._lock:
            self._limiter._windows.uncount(self._start)
        self._limiter._wake_next()

    def update_limits(self, quotas: Sequence[Quota]) -> None:
        """Adopt the limits that the headers of a response name."""
        if quotas:
            with self._limiter._lock:
                self._limiter._windows.update_limits(self._limiter._clock(), quotas)

    def report_wait(self, seconds: float, why: str) -> None:
        if self._on_wait is None or self.reported or seconds <= self._limiter.min_reported_wait:
            return
        self.reported = True
        try:
            self._on_wait(seconds, why)
        except Exception:
            logger.exception("on_wait failed")


class _Waiter:
    """Wait in an event loop until any thread calls `wake`."""

    def __init__(self) -> None:
        here = event_loop.running_loop()
        assert here is not None
        self._loop = here
        self._event = anyio.Event()

    async def wait(self) -> None:
        await self._event.wait()

    def wake(self) -> None:
        self._loop.call_soon(self._event.set)


def duration_text(seconds: float) -> str:
    """Return a duration as text, rounded up: "40 s", "12 min".

    >>> in_words(719.2)
    '12 min'
    """
    return f"{math.ceil(seconds)} s" if seconds <= 90 else f"{math.ceil(seconds / 60)} min"


# ---- one for each project -----------------------------------------------------------------------

_shared: dict[tuple[str, str, str], ApiRateLimiter] = {}
_MAKERS = {
    "export": ApiRateLimiter.export,
    "query": ApiRateLimiter.query,
    "app": ApiRateLimiter.app,
}


def query_limit() -> int:
    """Return how many queries an hour a project has: `MP_QUERY_LIMIT`, or 60.

    Mixpanel raises it for some projects. A limit that the headers of a response name replaces it.
    """
    text = os.environ.get("MP_QUERY_LIMIT", "").strip()
    return int(text) if text.isdigit() and 0 < int(text) < 1_000_000 else 60


def shared(family: str, origin: str, project_id: str) -> ApiRateLimiter:
    """Return the limiter that all code of this user on this machine shares for a project.

    Its state is kept in a file: see `shared_file` for where, and for the exceptions.
    """
    key = family, origin, project_id
    if (known := _shared.get(key)) is not None:
        return known
    path = None
    if family != "app":
        from mixpanel.data._api.shared_rate_windows import shared_file

        path = shared_file(origin, project_id, family)
    return _shared.setdefault(key, _MAKERS[family](shared_in=path))


def _after_fork() -> None:
    for limiter in list(_shared.values()):
        limiter._after_fork()


fork.register(fork.Order.SENDERS, after_in_child=_after_fork)
