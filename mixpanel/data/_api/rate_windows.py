"""Decide when the next call of a project may start: pure; the time is an argument."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mixpanel.data._api.quota import Quota

__all__ = ["HOUR", "RateWindows", "Start"]

HOUR = 3600.0
FIRST_REFUSED, LONGEST_REFUSED = 5.0, 600.0  # seconds to wait after a 429 that names none
MARGIN = 30.0  # seconds by which our window may be longer than the server's
LONG_HOLD = 60.0  # seconds of waiting, asked for by the server, that mean an hour's budget is spent


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
