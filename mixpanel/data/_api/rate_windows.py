"""Decide when the next call of a project may start, without a clock: the time is an argument."""

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
FIRST_BACKOFF, MAX_BACKOFF = 5.0, 600.0  # seconds, after a 429 without Retry-After
MARGIN = 30.0  # seconds by which our window may be longer than the server's
LONG_PAUSE = 60.0  # seconds; a longer Retry-After means that the hourly limit is used up


@dataclass(eq=False, slots=True)
class Start:
    """The start of a call; `counted` if it counts against the windows.

    `key` is unique across processes; `pid` is the process of the call, 0 for this one.
    """

    at: float
    key: str = ""
    counted: bool = True
    pid: int = 0


class RateWindows:
    """Sliding windows: the calls that started, and when the next may start.

    `windows` are pairs `(calls, seconds)`: no more than `calls` start in any stretch of `seconds`.
    After a 429 one call at a time may start (the probe), until one is accepted. For calls that are
    not counted, only the limit of concurrent calls applies.
    """

    is_shared = False  # with other processes

    def __init__(self, *windows: tuple[int, float], concurrent: int) -> None:
        self._limits = list(windows)
        self._concurrent = concurrent
        self._starts: list[Start] = []  # in the order of time
        self._running: dict[str, Start] = {}
        self._paused_until = self._concurrency_paused_until = -math.inf
        self._rejections = self._concurrency_rejections = 0
        self._rejected_at = -math.inf
        self._probe: str | None = None

    @property
    def _free(self) -> int:
        return self._concurrent - len(self._running)

    def next_start(self, now: float, *, counted: bool = True) -> float:
        """Return when the next call may start; infinity while another must end first."""
        if self._free <= 0 or (counted and self._probe is not None):
            return math.inf
        if not counted:
            return max(now, self._concurrency_paused_until)
        spent = self.spent()
        return max(
            now, self._paused_until, self._concurrency_paused_until, spent[0] if spent else now
        )

    def spent(self) -> tuple[float, int, float] | None:
        """Return when all full windows have space, and calls and seconds of the last of them."""
        # A window of N calls is full while the N-th last start is younger than its seconds, and has
        # space again when that start leaves it.
        full = [
            (self._starts[-calls].at + seconds, calls, seconds)
            for calls, seconds in self._limits
            if len(self._starts) >= calls
        ]
        return max(full, default=None)

    def start(self, now: float, *, counted: bool = True) -> Start:
        """Start a call, and count it."""
        start = Start(now, uuid4().hex, counted)
        self._running[start.key] = start
        if counted:
            self._prune(now)
            self._starts.append(start)
            if self._rejections:
                self._probe = start.key
        return start

    def try_start(self, now: float, *, counted: bool = True) -> Start | float:
        """Start a call if it may start now, else return when it may."""
        next_start = self.next_start(now, counted=counted)
        return self.start(now, counted=counted) if next_start <= now else next_start

    def end(self, start: Start) -> None:
        """Record that a call ended, so that another may start."""
        self._running.pop(start.key, None)
        if self._probe == start.key:
            self._probe = None

    def accept(self, start: Start) -> None:
        """Record that the server accepted a call."""
        self._concurrency_rejections = 0
        # A call that started before the last 429 proves nothing: the limit may be exceeded since.
        if start.counted and start.at > self._rejected_at:
            self._rejections, self._probe = 0, None

    def uncount(self, start: Start) -> None:
        """Remove a call that the server does not count."""
        self._starts = [each for each in self._starts if each.key != start.key]

    def reject(self, start: Start, now: float, retry_after: float | None) -> None:
        """Record a 429. Those of calls that ran at the same time count as one."""
        if start.at > self._rejected_at:
            self._rejections += 1
            self._rejected_at = now
        if retry_after is None:
            wait = min(MAX_BACKOFF, FIRST_BACKOFF * 4.0 ** min(self._rejections - 1, 9))
        else:  # grows, too, in case a server sends `Retry-After: 0` again and again
            wait = max(retry_after, min(60.0, 2.0 ** min(self._rejections - 1, 9)))
        self.pause(now, wait)

    def reject_for_concurrency(self, now: float, retry_after: float | None) -> None:
        """Record a 429 for too many concurrent calls; a short wait is enough."""
        self._concurrency_rejections += 1
        wait = max(retry_after or 0.0, min(60.0, 2.0 ** min(self._concurrency_rejections - 1, 9)))
        self._concurrency_paused_until = max(self._concurrency_paused_until, now + min(wait, HOUR))

    def pause(self, now: float, seconds: float) -> None:
        """Start nothing for some seconds, up to an hour, and then one call as a probe."""
        self._paused_until = max(self._paused_until, now + min(seconds, HOUR))
        self._rejections = max(self._rejections, 1)

    def update_limits(self, now: float, quotas: Sequence[Quota]) -> None:  # noqa: ARG002 - used by `SharedRateWindows`
        """Adopt the limits that the server names."""
        for quota in quotas:
            if quota.concurrent:
                self._concurrent = quota.calls or self._concurrent
            # Our windows are a little longer than the server's, so they match by less than MARGIN.
            elif quota.calls and quota.seconds:
                self._limits = [
                    (quota.calls, seconds)
                    if 0 <= seconds - quota.seconds < MARGIN
                    else (calls, seconds)
                    for calls, seconds in self._limits
                ]

    def why(self, what: str) -> str:
        """Return what the next call waits for; `what` names calls in the plural."""
        spent = self.spent()
        if spent is None or spent[0] < self._paused_until:
            return f"Mixpanel reports too many {what} of this project"
        _, calls, seconds = spent
        span = "an hour" if seconds >= HOUR else "a second"
        return f"the project's limit of {calls} {what} {span} is used up"

    def remaining(self, now: float) -> int | None:
        """Return how many calls of the longest window are left; None without windows."""
        if not self._limits:
            return None
        calls, seconds = self.longest
        if self._paused_until - now > LONG_PAUSE:
            return 0  # other machines used them up
        return max(0, calls - self.used(now, seconds))

    def next_return(self, now: float) -> float | None:
        """Return when the oldest call leaves the longest window; None if no call is in it."""
        _, seconds = self.longest
        oldest = next((start.at for start in self._starts if start.at > now - seconds), None)
        if self._paused_until - now > LONG_PAUSE:
            return self._paused_until
        return None if oldest is None else oldest + seconds

    @property
    def longest(self) -> tuple[int, float]:
        """The calls and seconds of the longest window."""
        return max(self._limits, key=lambda window: window[1], default=(0, 0.0))

    def used(self, now: float, seconds: float) -> int:
        """Return how many calls were counted in the last seconds."""
        return sum(1 for start in self._starts if start.at > now - seconds)

    def expected_start(self, position: int, now: float, *, counted: bool = True) -> float:
        """Return when the call at a position in the queue, from 0, can be expected to start."""
        next_start = self.next_start(now, counted=counted)
        next_start = now if next_start == math.inf else next_start
        calls, seconds = self.longest
        if not counted or not calls:
            return next_start
        starts = [start.at for start in self._starts if start.at > now - seconds]
        # Windows repeat: position N takes the slot of the call that started N before the limit, one
        # window later, or several when the queue is longer than the limit.
        turn, slot = divmod(len(starts) + position, calls)
        return max(next_start, (starts[slot] if slot < len(starts) else now) + turn * seconds)

    def restart(self) -> None:
        """Forget the running calls: they belong to another process."""
        self._running, self._probe = {}, None

    def _prune(self, now: float) -> None:
        """Forget starts that are older than all windows, but keep enough to fill the largest."""
        oldest, most = now - self.longest[1], max((calls for calls, _ in self._limits), default=0)
        while len(self._starts) > most and self._starts[0].at <= oldest:
            del self._starts[0]
