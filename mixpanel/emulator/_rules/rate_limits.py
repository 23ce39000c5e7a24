"""Rate limits: calls per second and hour, calls at once. Does no I/O: the clock is passed in."""

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class RollingWindow:
    """Limit an amount in a rolling window of `seconds`; a `limit` of None means no limit."""

    limit: int | None
    seconds: float
    _entries: deque[tuple[float, int]] = field(default_factory=deque)
    _total: int = 0

    def try_add(self, amount: int, now: float) -> bool:
        """Add an amount; return False, and add nothing, if that would exceed the limit."""
        if self.limit is None:
            return True
        self._expire(now)
        # What is refused is not counted: else a client that repeats at once would never get in.
        if self._total + amount > self.limit:
            return False
        self._entries.append((now, amount))
        self._total += amount
        return True

    def wait(self, now: float) -> float:
        """Return the seconds until an amount of one can be added."""
        self._expire(now)
        if self.limit is None or self._total < self.limit:
            return 0.0
        if not self._entries:
            return self.seconds
        return max(0.0, self._entries[0][0] + self.seconds - now)

    def used(self, now: float) -> int:
        """Return the amount in the window."""
        self._expire(now)
        return self._total

    def undo(self) -> None:
        """Remove the amount that was added last."""
        if self._entries:
            self._total -= self._entries.pop()[1]

    def clear(self) -> None:
        """Forget all amounts."""
        self._entries.clear()
        self._total = 0

    def _expire(self, now: float) -> None:
        while self._entries and self._entries[0][0] <= now - self.seconds:
            self._total -= self._entries.popleft()[1]


@dataclass(frozen=True, slots=True)
class Limits:
    """How often a group of endpoints may be called, per project; None means no limit.

    `Limits.export()` and `Limits.query()` are those that Mixpanel documents.
    """

    per_hour: int | None = None
    per_second: int | None = None
    concurrent: int | None = None

    @classmethod
    def export(cls) -> "Limits":
        """Return the limits of the raw export: 60 per hour, 3 per second, 100 at once."""
        return cls(per_hour=60, per_second=3, concurrent=100)

    @classmethod
    def query(cls) -> "Limits":
        """Return the limits of the Query API: 60 per hour, 5 at once."""
        return cls(per_hour=60, concurrent=5)


MAX_COUNTED = 1_000_000


class CallLimiter:
    """Apply limits to the calls of one group of endpoints."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._windows = (
            RollingWindow(self._limits.per_second, 1),
            RollingWindow(self._limits.per_hour, 3600),
        )
        self._calls = RollingWindow(MAX_COUNTED, 3600)  # counted with and without limits
        self._running = 0

    def enter(self, now: float, *, counted: bool = True) -> float | None:
        """Start a call, to be ended with `leave`; or return the seconds until it may be retried.

        A call that is not `counted` is limited by those at the same time only.
        """
        if self._is_full():
            return 1.0
        if counted:
            # Every window is checked before one counts the call: a call that the limit of the hour
            # refuses must not use up that of the second.
            wait = max(window.wait(now) for window in self._windows)
            if wait > 0:
                return wait
            for window in (*self._windows, self._calls):
                window.try_add(1, now)
        self._running += 1
        return None

    def refund(self) -> None:
        """Do not count the latest call."""
        for window in (*self._windows, self._calls):
            window.undo()

    def headers(self, now: float) -> dict[str, str]:
        """Return the headers that state the limits, none without limits."""
        policies, left = [], []
        if (calls := self._limits.per_hour) is not None:
            policies.append(f'"project";q={calls};w=3600')
            left.append(f'"project";r={max(0, calls - self._windows[1].used(now))}')
        if (concurrent := self._limits.concurrent) is not None:
            policies.append(f'"project-concurrency";q={concurrent};qu="concurrent-requests"')
            if self._is_full():
                left.insert(0, '"project-concurrency";r=0')
        headers = {"ratelimit-policy": ", ".join(policies), "ratelimit": ", ".join(left)}
        return {name: value for name, value in headers.items() if value}

    def left(self, now: float) -> dict[str, int | None]:
        """Return the limit per hour, the calls of the last hour, and how many are left.

        Without a limit, None are left.
        """
        calls, used = self._limits.per_hour, self._calls.used(now)
        left = None if calls is None else max(0, calls - used)
        return {"limit": calls, "left": left, "used": used}

    def _is_full(self) -> bool:
        return self._limits.concurrent is not None and self._running >= self._limits.concurrent

    def leave(self) -> None:
        """End a call that was started."""
        self._running -= 1

    def clear(self) -> None:
        """Forget the calls that have ended."""
        for window in (*self._windows, self._calls):
            window.clear()
