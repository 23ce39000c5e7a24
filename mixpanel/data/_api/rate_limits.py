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
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

import anyio

from mixpanel._runtime import event_loop, fork
from mixpanel._runtime.safe_logging import logger
from mixpanel.data._api.quota import tripped
from mixpanel.data.exceptions import RateLimitError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from mixpanel.data._api.quota import Quota

__all__ = ["MAX_WAIT", "ApiRateLimiter", "RateWindows", "Slot", "in_words", "shared"]

HOUR = 3600.0
MAX_WAIT = 65 * 60.0  # seconds: an hour's budget has come back by then
MIN_REPORTED_WAIT = 4.0  # seconds of waiting that pass without a word
FIRST_REFUSED, LONGEST_REFUSED = 5.0, 600.0  # seconds to wait after a 429 that names none
MARGIN = 30.0  # seconds by which our window may be longer than the server's
LOOK = 15.0  # seconds of waiting after which another process may have changed everything
POLL = 0.25  # seconds until another look at what other processes do
LONG_HOLD = 60.0  # seconds of waiting, asked for by the server, that mean an hour's budget is spent


# ---- the rules, pure ----------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class Start:
    """One call under way, and since when; `counted` if it takes one from the windows.

    No two calls have the same `key`, of whatever process they are; `pid` is its process, 0 for
    this one.
    """

    at: float
    key: str = ""
    counted: bool = True
    pid: int = 0


class RateWindows:
    """Say when the next call may start; every reading of the clock is passed in.

    `windows` are pairs of a number of calls and the seconds in which no more may start, wherever
    those seconds begin. After a refusal one call at a time may start, until one is accepted. Calls
    that are not counted heed only how many may be under way at once.
    """

    is_shared = False  # with other processes

    def __init__(self, *windows: tuple[int, float], concurrent: int) -> None:
        self._windows = list(windows)
        self._concurrent = concurrent
        self._starts: list[Start] = []  # in the order of time
        self._running: dict[str, Start] = {}
        self._held_until = self._crowded_until = -math.inf
        self._rejections = self._crowds = 0
        self._rejected_at = -math.inf
        self._scout: str | None = None

    @property
    def _free(self) -> int:
        return self._concurrent - len(self._running)

    def opens(self, now: float, *, counted: bool = True) -> float:
        """Return when the next call may start; infinity while that hangs on a running call."""
        if self._free <= 0 or (counted and self._scout is not None):
            return math.inf
        if not counted:
            return max(now, self._crowded_until)
        spent = self.spent()
        return max(now, self._held_until, self._crowded_until, spent[0] if spent else now)

    def spent(self) -> tuple[float, int, float] | None:
        """Return when the last of the full windows opens, and which one: calls and seconds."""
        full = [
            (self._starts[-calls].at + seconds, calls, seconds)
            for calls, seconds in self._windows
            if len(self._starts) >= calls
        ]
        return max(full, default=None)

    def start(self, now: float, *, counted: bool = True) -> Start:
        """Count one call."""
        start = Start(now, uuid4().hex, counted)
        self._running[start.key] = start
        if counted:
            self._prune(now)
            self._starts.append(start)
            if self._rejections:
                self._scout = start.key
        return start

    def try_start(self, now: float, *, counted: bool = True) -> Start | float:
        """Start a call if that may be now, else return when it may be."""
        opens = self.opens(now, counted=counted)
        return self.start(now, counted=counted) if opens <= now else opens

    def end(self, start: Start) -> None:
        """Make room for another."""
        self._running.pop(start.key, None)
        if self._scout == start.key:
            self._scout = None

    def accept(self, start: Start) -> None:
        """Take note that a call was let in."""
        self._crowds = 0
        if start.counted and start.at > self._rejected_at:
            self._rejections, self._scout = 0, None

    def uncount(self, start: Start) -> None:
        """Take back a call that the server does not count."""
        self._starts = [each for each in self._starts if each.key != start.key]

    def refuse(self, start: Start, now: float, retry_after: float | None) -> None:
        """Take note of a 429. Calls that were under way together count as one refusal."""
        if start.at > self._rejected_at:
            self._rejections += 1
            self._rejected_at = now
        if retry_after is None:
            wait = min(LONGEST_REFUSED, FIRST_REFUSED * 4.0 ** min(self._rejections - 1, 9))
        else:  # a server that says "0" again and again is not taken at its word
            wait = max(retry_after, min(60.0, 2.0 ** min(self._rejections - 1, 9)))
        self.hold(now, wait)

    def crowd(self, now: float, retry_after: float | None) -> None:
        """Take note of a 429 because too many calls are under way at once: a short wait does."""
        self._crowds += 1
        wait = max(retry_after or 0.0, min(60.0, 2.0 ** min(self._crowds - 1, 9)))
        self._crowded_until = max(self._crowded_until, now + min(wait, HOUR))

    def hold(self, now: float, seconds: float) -> None:
        """Let nothing start for some seconds, up to an hour, and then one call first."""
        self._held_until = max(self._held_until, now + min(seconds, HOUR))
        self._rejections = max(self._rejections, 1)

    def learn(self, now: float, quotas: Sequence[Quota]) -> None:  # noqa: ARG002 - see the file's
        """Take over the limits that the server names."""
        for quota in quotas:
            if quota.concurrent:
                self._concurrent = quota.calls or self._concurrent
            elif quota.calls and quota.seconds:
                self._windows = [
                    (quota.calls, seconds)
                    if 0 <= seconds - quota.seconds < MARGIN
                    else (calls, seconds)
                    for calls, seconds in self._windows
                ]

    def why(self, what: str) -> str:
        """Say what the next call waits for; `what` names calls in the plural."""
        spent = self.spent()
        if spent is None or spent[0] < self._held_until:
            return f"Mixpanel says that the project makes too many {what}"
        _, calls, seconds = spent
        span = "an hour" if seconds >= HOUR else "a second"
        return f"the project's budget of {calls} {what} {span} is spent"

    def remaining(self, now: float) -> int | None:
        """Return how many calls of the longest window are left; None without windows."""
        if not self._windows:
            return None
        calls, seconds = self.longest
        if self._held_until - now > LONG_HOLD:
            return 0  # others have spent what we have not
        return max(0, calls - self.used(now, seconds))

    @property
    def longest(self) -> tuple[int, float]:
        """The calls and seconds of the longest window."""
        return max(self._windows, key=lambda window: window[1], default=(0, 0.0))

    def used(self, now: float, seconds: float) -> int:
        """Return how many calls were counted in the last seconds."""
        return sum(1 for start in self._starts if start.at > now - seconds)

    def opens_for(self, position: int, now: float, *, counted: bool = True) -> float:
        """Return when the call at a position in line, counted from 0, may expect to start."""
        opens = self.opens(now, counted=counted)
        opens = now if opens == math.inf else opens
        calls, seconds = self.longest
        if not counted or not calls:
            return opens
        starts = [start.at for start in self._starts if start.at > now - seconds]
        turn, slot = divmod(len(starts) + position, calls)
        return max(opens, (starts[slot] if slot < len(starts) else now) + turn * seconds)

    def restart(self) -> None:
        """Forget the calls under way: they are another process's."""
        self._running, self._scout = {}, None

    def _prune(self, now: float) -> None:
        """Forget starts that no window looks back to; never so many that one could be exceeded."""
        oldest, most = now - self.longest[1], max((calls for calls, _ in self._windows), default=0)
        while len(self._starts) > most and self._starts[0].at <= oldest:
            del self._starts[0]


# ---- the queue ----------------------------------------------------------------------------------


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
    ) -> None:
        self.what = what
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
        return cls("requests", concurrent=10, **time)

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
            if limit is not None and limit.concurrent:
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
        if self._on_wait is None or self.reported or seconds <= MIN_REPORTED_WAIT:
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
