"""Share the calls that a project may make: so many an hour, so many a second, so many at once.

Mixpanel counts all calls of a project together. One `ApiRateLimiter` for each project and kind of
call is shared by all threads and event loops of the process, and through a file by the other
processes of this user. Within a process, calls start in the order in which they came. Calls of
other machines show as a 429: then all calls wait, and one goes ahead to see whether it is over.
"""

from __future__ import annotations

import math
import os
import random
import threading
import time
from bisect import insort
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Any, Self

import anyio

from mixpanel._runtime import event_loop, fork
from mixpanel._runtime.safe_logging import logger
from mixpanel.data._api.quota import tripped
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

__all__ = ["MAX_WAIT", "ApiRateLimiter", "Slot", "in_words", "shared"]

MAX_WAIT = 65 * 60.0  # seconds: an hour's budget has come back by then
MIN_REPORTED_WAIT = 4.0  # seconds of waiting that pass without a word
MIN_REPORTED_APP_WAIT = 0.5  # the same, where waiting is the exception
LOOK = 15.0  # seconds of waiting after which another process may have changed everything
POLL = 0.25  # seconds until another look at what other processes do


class ApiRateLimiter:
    """Let calls start in the order they came, as soon as the project may make them.

    `what` names the calls in the plural. Safe to share between threads and event loops; with
    `shared_in`, a file, with the other processes that use it, too. `free_refusals` says that the
    server does not count a call that it refuses for its rate.
    """

    def __init__(
        self,
        what: str,
        *windows: tuple[int, float],
        concurrent: int,
        clock: Callable[[], float] | None = None,
        sleep: Callable[[float], Awaitable[object]] = anyio.sleep,
        free_refusals: bool = False,
        shared_in: Path | None = None,
        min_reported_wait: float = MIN_REPORTED_WAIT,
    ) -> None:
        self.what = what
        self.min_reported_wait = min_reported_wait
        self.free_refusals = free_refusals
        self._windows_state = RateWindows(*windows, concurrent=concurrent)
        if shared_in is not None:
            from mixpanel.data._api.shared_rate_windows import SharedRateWindows

            self._windows_state = SharedRateWindows(shared_in, *windows, concurrent=concurrent)
        # Processes have but the time of day in common.
        self._clock = clock or (time.monotonic if shared_in is None else time.time)
        self._sleep = sleep
        self._lock = threading.Lock()
        self._line: list[Slot] = []
        self._free_line: list[Slot] = []  # of calls that are not counted, and never wait an hour
        self._numbers = count()

    # The windows are a little longer than Mixpanel's: not all requests take equally long to it.

    @classmethod
    def export(cls, **time: Any) -> ApiRateLimiter:
        """Return the budget of raw exports: 60 an hour, 3 a second, 100 at once."""
        windows = (60, HOUR + 2.0), (3, 1.1)
        return cls("exports", *windows, concurrent=100, **time)

    @classmethod
    def query(cls, **time: Any) -> ApiRateLimiter:
        """Return the budget of queries: 60 an hour unless a project has more, 5 at once."""
        calls = query_limit()
        return cls("queries", (calls, HOUR + 2.0), concurrent=5, free_refusals=True, **time)

    @classmethod
    def app(cls, **time: Any) -> ApiRateLimiter:
        """Return what stands for a budget where Mixpanel publishes none."""
        return cls("requests", concurrent=10, min_reported_wait=MIN_REPORTED_APP_WAIT, **time)

    def remaining(self) -> int:
        """Return how many calls are left in this hour, as far as this process knows."""
        with self._lock:
            left = self._windows_state.remaining(self._clock())
        return 1_000_000 if left is None else left

    def penalize(self, seconds: float) -> None:
        """Let nobody start for some seconds."""
        with self._lock:
            self._windows_state.hold(self._clock(), seconds)

    def call(
        self,
        *,
        on_wait: Callable[[float, str], object] | None = None,
        max_wait: float = MAX_WAIT,
        counted: bool = True,
    ) -> Slot:
        """Return a place in line, to be entered with `async with` once for each attempt."""
        return Slot(self, next(self._numbers), on_wait, max_wait, counted=counted)

    def __repr__(self) -> str:
        return f"<ApiRateLimiter of {self.what}: {self.remaining()} left>"

    async def _started(self, call: Slot) -> Start:
        line = self._line if call.counted else self._free_line
        with self._lock:
            insort(line, call, key=lambda waiting: waiting.number)
        try:
            while True:
                with self._lock:
                    now, first = self._clock(), line[0] is call
                    opens: Start | float = (
                        self._windows_state.try_start(now, counted=call.counted)
                        if first
                        else self._windows_state.opens(now, counted=call.counted)
                    )
                    if isinstance(opens, Start):
                        return opens
                    expected = self._windows_state.opens_for(
                        line.index(call), now, counted=call.counted
                    )
                    if not first or opens == math.inf:
                        call.waiter = _Waiter()
                    why = self._windows_state.why(self.what)
                if now < opens < math.inf:
                    self._check_max_wait(call, now, opens, why)
                call.tell(expected - now, f"{why}: waiting {in_words(expected - now)}")
                await self._waiter_of(call, opens - now)
                call.waiter = None
        finally:
            call.waiter, call.reported = None, False
            with self._lock:
                line.remove(call)
            self._next()

    async def _waiter_of(self, call: Slot, seconds: float) -> None:
        """Wait until this call may look again."""
        if call.waiter is None:
            await self._sleep(min(seconds, LOOK) if self._windows_state.is_shared else seconds)
        elif self._windows_state.is_shared:  # another process may make room, too
            with anyio.move_on_after(POLL):
                await call.waiter.wait()
        else:
            await call.waiter.wait()

    def _next(self) -> None:
        with self._lock:
            turns = [line[0].waiter for line in (self._line, self._free_line) if line]
        for turn in turns:
            if turn is not None:
                turn.come()

    def _check_max_wait(self, call: Slot, now: float, opens: float, why: str) -> None:
        since = now if call.rejected_at is None else call.rejected_at
        if opens - since <= call.max_wait:
            return
        with self._lock:
            calls, seconds = self._windows_state.longest
            used = self._windows_state.used(now, seconds)
        wait = opens - now
        raise RateLimitError(
            f"{why}; it opens again in {in_words(wait)}",
            retry_after=wait,
            sent=call.rejected_at is not None,
            next_slot_at=datetime.now(UTC) + timedelta(seconds=wait),
            limit=calls or None,
            used=used if calls else None,
            window_seconds=int(seconds) or None,
        )

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self._line, self._free_line = [], []
        self._windows_state.restart()


class Slot:
    """One place in line. A repeated attempt enters it again, ahead of whoever came later."""

    def __init__(
        self,
        budget: ApiRateLimiter,
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
        self._limiter = budget
        self._on_wait = on_wait
        self._start: Start | None = None

    async def __aenter__(self) -> Self:
        """Wait for room.

        :raises RateLimitError: when that would take longer than the call's patience.
        """
        self._start = await self._limiter._started(self)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        assert self._start is not None
        with self._limiter._lock:
            self._limiter._windows_state.end(self._start)
        self._limiter._next()

    def accepted(self) -> None:
        """Say that the server took the call, however it may end."""
        assert self._start is not None
        with self._limiter._lock:
            self._limiter._windows_state.accept(self._start)
        self._limiter._next()

    def rejected(self, retry_after: float | None, quotas: Sequence[Quota] = ()) -> None:
        """Say that the server answered with a 429: every call of this budget will wait.

        A limit that the answer names says for which reason.
        """
        assert self._start is not None
        limit = tripped(quotas)
        with self._limiter._lock:
            now, allowance = self._limiter._clock(), self._limiter._windows_state
            if self.rejected_at is None:
                self.rejected_at = now
            jittered = None if retry_after is None else retry_after + random.random()
            # A call that is not counted does not heed the windows, so it waits for nothing else.
            if not self.counted or (limit is not None and limit.concurrent):
                allowance.crowd(now, jittered)
            else:
                allowance.refuse(self._start, now, jittered)
            if self._limiter.free_refusals:
                allowance.uncount(self._start)

    def uncounted(self) -> None:
        """Say that the server does not count this attempt, or never saw it."""
        assert self._start is not None
        with self._limiter._lock:
            self._limiter._windows_state.uncount(self._start)
        self._limiter._next()

    def learn(self, quotas: Sequence[Quota]) -> None:
        """Take over the limits that an answer names."""
        if quotas:
            with self._limiter._lock:
                self._limiter._windows_state.learn(self._limiter._clock(), quotas)

    def tell(self, seconds: float, why: str) -> None:
        if self._on_wait is None or self.reported or seconds <= self._limiter.min_reported_wait:
            return
        self.reported = True
        try:
            self._on_wait(seconds, why)
        except Exception:
            logger.exception("on_wait failed")


class _Waiter:
    """Wait, in one event loop, for a word from any thread."""

    def __init__(self) -> None:
        here = event_loop.running_loop()
        assert here is not None
        self._loop = here
        self._event = anyio.Event()

    async def wait(self) -> None:
        await self._event.wait()

    def come(self) -> None:
        self._loop.call_soon(self._event.set)


def in_words(seconds: float) -> str:
    """Say a time the way a person would: "40 s", "12 min".

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

    Mixpanel raises it for some projects. What a 429 says about it counts more.
    """
    text = os.environ.get("MP_QUERY_LIMIT", "").strip()
    return int(text) if text.isdigit() and 0 < int(text) < 1_000_000 else 60


def shared(family: str, origin: str, project_id: str) -> ApiRateLimiter:
    """Return the budget that everything on this machine shares for a project.

    It is kept in a file of this user; see `shared_file` for where, and for the exceptions.
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
    for budget in list(_shared.values()):
        budget._after_fork()


fork.register(fork.Order.SENDERS, after_in_child=_after_fork)
