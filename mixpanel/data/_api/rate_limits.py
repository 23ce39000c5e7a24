"""Share the calls that a project may make: so many an hour, so many a second, so many at once.

Mixpanel counts for each project, whoever asks. Here one `Budget` for each project and kind of call
is shared by everything in the process, whatever thread or event loop it runs in: who comes first
is served first, and nobody is refused for calls that this process could have held back. What other
programs spend shows as a 429: then everyone waits, and one call goes ahead to see.
"""

from __future__ import annotations

import math
import os
import random
import threading
import time
from bisect import insort
from collections import deque
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Self

import anyio

from mixpanel._runtime import event_loop
from mixpanel._runtime.safe_logging import logger
from mixpanel.data.exceptions import RateLimitError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["PATIENCE", "Allowance", "Budget", "Call", "in_words", "shared"]

HOUR = 3600.0
PATIENCE = 65 * 60.0  # seconds: an hour's budget has come back by then
WORTH_TELLING = 4.0  # seconds of waiting that pass without a word
FIRST_REFUSED, LONGEST_REFUSED = 5.0, 600.0  # seconds to wait after a 429 that names none
LONG_HOLD = 60.0  # seconds of waiting, asked for by the server, that mean an hour's budget is spent


# ---- the rules, pure ----------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class Start:
    """One call under way, and since when."""

    at: float


class Allowance:
    """Say when the next call may start; every reading of the clock is passed in.

    `windows` are pairs of a number of calls and the seconds in which no more may start, wherever
    those seconds begin. After a refusal one call at a time may start, until one is accepted.
    """

    def __init__(self, *windows: tuple[int, float], concurrent: int) -> None:
        self._windows = windows
        self._starts: deque[float] = deque(maxlen=max([calls for calls, _ in windows], default=1))
        self._free = self._concurrent = concurrent
        self._held_until = -math.inf
        self._refusals = 0
        self._refused_at = -math.inf
        self._scout: Start | None = None

    def opens(self, now: float) -> float:
        """Return when the next call may start; infinity while that hangs on a running call."""
        if self._free == 0 or self._scout is not None:
            return math.inf
        spent = self.spent()
        return max(now, self._held_until, spent[0] if spent else now)

    def spent(self) -> tuple[float, int, float] | None:
        """Return when the last of the full windows opens, and which one: calls and seconds."""
        full = [
            (self._starts[-calls] + seconds, calls, seconds)
            for calls, seconds in self._windows
            if len(self._starts) >= calls
        ]
        return max(full, default=None)

    def start(self, now: float) -> Start:
        """Count one call."""
        start = Start(now)
        self._starts.append(now)
        self._free -= 1
        if self._refusals:
            self._scout = start
        return start

    def end(self, start: Start) -> None:
        """Make room for another."""
        self._free += 1
        if self._scout is start:
            self._scout = None

    def accept(self, start: Start) -> None:
        """Take note that a call was let in."""
        if start.at > self._refused_at:
            self._refusals, self._scout = 0, None

    def refuse(self, start: Start, now: float, retry_after: float | None) -> None:
        """Take note of a 429. Calls that were under way together count as one refusal."""
        if start.at > self._refused_at:
            self._refusals += 1
            self._refused_at = now
        if retry_after is None:
            wait = min(LONGEST_REFUSED, FIRST_REFUSED * 4.0 ** min(self._refusals - 1, 9))
        else:  # a server that says "0" again and again is not taken at its word
            wait = max(retry_after, min(60.0, 2.0 ** min(self._refusals - 1, 9)))
        self.hold(now, wait)

    def hold(self, now: float, seconds: float) -> None:
        """Let nothing start for some seconds, an hour at the most, and then one call first."""
        self._held_until = max(self._held_until, now + min(seconds, HOUR))
        self._refusals = max(self._refusals, 1)

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
        calls, seconds = max(self._windows, key=lambda window: window[1])
        spent = sum(1 for at in self._starts if at > now - seconds)
        if self._held_until - now > LONG_HOLD:
            return 0  # others have spent what we have not
        return max(0, calls - spent)

    def restart(self) -> None:
        """Forget the calls under way: they are another process's."""
        self._free, self._scout = self._concurrent, None


# ---- the queue ----------------------------------------------------------------------------------


class Budget:
    """Let calls start in the order they came, as soon as the project may make them.

    `what` names the calls in the plural. Safe to share between threads and event loops.
    """

    def __init__(
        self,
        what: str,
        *windows: tuple[int, float],
        concurrent: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = anyio.sleep,
    ) -> None:
        self.what = what
        self._allowance = Allowance(*windows, concurrent=concurrent)
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._line: list[Call] = []
        self._numbers = count()

    # The windows are a little longer than Mixpanel's: not all requests take equally long to it.

    @classmethod
    def export(cls, **time: Any) -> Budget:
        """Return the budget of raw exports: 60 an hour, 3 a second, 100 at once."""
        windows = (60, HOUR + 2.0), (3, 1.1)
        return cls("exports", *windows, concurrent=100, **time)

    @classmethod
    def query(cls, **time: Any) -> Budget:
        """Return the budget of queries and profile pages: 60 an hour, 5 at once."""
        return cls("queries", (60, HOUR + 2.0), concurrent=5, **time)

    @classmethod
    def app(cls, **time: Any) -> Budget:
        """Return what stands for a budget where Mixpanel publishes none."""
        return cls("requests", concurrent=10, **time)

    def remaining(self) -> int:
        """Return how many calls are left in this hour, as far as this process knows."""
        with self._lock:
            left = self._allowance.remaining(self._clock())
        return 1_000_000 if left is None else left

    def penalize(self, seconds: float) -> None:
        """Let nobody start for some seconds."""
        with self._lock:
            self._allowance.hold(self._clock(), seconds)

    def call(
        self,
        *,
        on_wait: Callable[[float, str], object] | None = None,
        patience: float = PATIENCE,
    ) -> Call:
        """Return a place in line, to be entered with `async with` once for each attempt."""
        return Call(self, next(self._numbers), on_wait, patience)

    def __repr__(self) -> str:
        return f"<Budget of {self.what}: {self.remaining()} left>"

    async def _started(self, call: Call) -> Start:
        with self._lock:
            insort(self._line, call, key=lambda waiting: waiting.number)
        try:
            while True:
                with self._lock:
                    now = self._clock()
                    opens, first = self._allowance.opens(now), self._line[0] is call
                    if first and opens <= now:
                        return self._allowance.start(now)
                    if not first or opens == math.inf:
                        call.turn = _Turn()
                    why = self._allowance.why(self.what)
                if now < opens < math.inf:
                    _check_patience(call, now, opens, why)
                if call.turn is not None:
                    await call.turn.wait()
                else:
                    call.tell(opens - now, f"{why}: waiting {in_words(opens - now)}")
                    await self._sleep(opens - now)
                call.turn = None
        finally:
            call.turn, call.told = None, False
            with self._lock:
                self._line.remove(call)
            self._next()

    def _next(self) -> None:
        with self._lock:
            turn = self._line[0].turn if self._line else None
        if turn is not None:
            turn.come()

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self._line = []
        self._allowance.restart()


class Call:
    """One place in line. A repeated attempt enters it again, ahead of whoever came later."""

    def __init__(
        self,
        budget: Budget,
        number: int,
        on_wait: Callable[[float, str], object] | None,
        patience: float,
    ) -> None:
        self.number = number
        self.patience = patience
        self.refused_at: float | None = None
        self.turn: _Turn | None = None
        self.told: bool = False
        self._budget = budget
        self._on_wait = on_wait
        self._start: Start | None = None

    async def __aenter__(self) -> Self:
        """Wait for room.

        :raises RateLimitError: when that would take longer than the call's patience.
        """
        self._start = await self._budget._started(self)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        assert self._start is not None
        with self._budget._lock:
            self._budget._allowance.end(self._start)
        self._budget._next()

    def accepted(self) -> None:
        """Say that the server took the call, however it may end."""
        assert self._start is not None
        with self._budget._lock:
            self._budget._allowance.accept(self._start)
        self._budget._next()

    def refused(self, retry_after: float | None) -> None:
        """Say that the server answered with a 429: every call of this budget will wait."""
        assert self._start is not None
        with self._budget._lock:
            now = self._budget._clock()
            if self.refused_at is None:
                self.refused_at = now
            jittered = None if retry_after is None else retry_after + random.random()
            self._budget._allowance.refuse(self._start, now, jittered)

    def tell(self, seconds: float, why: str) -> None:
        if self._on_wait is None or self.told or seconds <= WORTH_TELLING:
            return
        self.told = True
        try:
            self._on_wait(seconds, why)
        except Exception:
            logger.exception("on_wait failed")


def _check_patience(call: Call, now: float, opens: float, why: str) -> None:
    since = now if call.refused_at is None else call.refused_at
    if opens - since > call.patience:
        wait = opens - now
        raise RateLimitError(f"{why}; it opens again in {in_words(wait)}", retry_after=wait)


class _Turn:
    """Wait, in one event loop, for a word from any thread."""

    def __init__(self) -> None:
        here = event_loop.running()
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

_shared: dict[tuple[str, str, str], Budget] = {}
_MAKERS = {"export": Budget.export, "query": Budget.query, "app": Budget.app}


def shared(family: str, origin: str, project_id: str) -> Budget:
    """Return the budget that everything in this process shares for a project."""
    key = family, origin, project_id
    return _shared.get(key) or _shared.setdefault(key, _MAKERS[family]())


def _after_fork() -> None:
    for budget in list(_shared.values()):
        budget._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
