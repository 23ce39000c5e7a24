"""Count what became of every message, so that nothing is lost in silence."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mixpanel._runtime.safe_logging import logger
from mixpanel.exceptions import DeliveryError
from mixpanel.settings import checked_callback

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from mixpanel._records.record import Record

__all__ = ["DeliveryStats", "FlushResult", "OnDrop", "OnError", "Stats"]

OnError = Callable[["DeliveryError", list[dict[str, Any]]], object]
OnDrop = Callable[[str, list[dict[str, Any]]], object]

CHOSEN = frozenset({"sampled", "before_send", "disabled"})
LOG_EVERY = 60.0


@dataclass(frozen=True, slots=True)
class Stats:
    """Say what became of every message so far.

    Always and exactly: `accepted == delivered + rejected + sum(dropped) + pending`.

    `rejected` were refused by the server for what they are. `dropped` counts by reason:
    `queue_full`, `expired` (each message older than `RetryPolicy.max_age`), `ambiguous` (sent
    without a trustworthy answer, and either not safe to repeat or repeated once with the same
    result), `too_large`, `raised` (the error went to the caller), `closed`
    (the client was closed first), `exit` (the process ended first), `before_send_error` (the hook
    failed), and by choice `sampled`, `before_send`, `disabled`. `requests`
    counts attempts, `retried` those that repeated one. `warnings` counts messages that broke a
    rule (`invalid`) or lost something on the way to JSON (`coerced`).
    """

    accepted: int = 0
    delivered: int = 0
    rejected: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    pending: int = 0
    requests: int = 0
    retried: int = 0
    warnings: Mapping[str, int] = field(default_factory=dict)

    @property
    def lost(self) -> int:
        """Count what will not arrive although nobody chose so."""
        chosen = sum(n for reason, n in self.dropped.items() if reason in CHOSEN)
        return self.rejected + sum(self.dropped.values()) - chosen

    @property
    def balanced(self) -> bool:
        """Tell whether the books balance; they always do."""
        settled = self.delivered + self.rejected + sum(self.dropped.values())
        return self.accepted == settled + self.pending


@dataclass(frozen=True, slots=True)
class FlushResult:
    """Say what happened during a flush or close, and what is still waiting."""

    delivered: int
    rejected: int
    dropped: Mapping[str, int]
    pending: int
    errors: tuple[DeliveryError, ...] = ()

    @property
    def ok(self) -> bool:
        """Tell whether everything arrived."""
        return not (self.rejected or self.pending or sum(self.dropped.values()))

    def raise_for_loss(self) -> None:
        """Raise unless everything arrived; what was retried with success does not count.

        :raises DeliveryError: the last error, when something was refused, dropped or still waits.
        """
        if self.ok:
            return
        if self.errors:
            raise self.errors[-1]
        dropped = f"{sum(self.dropped.values())} dropped"
        if self.dropped:
            dropped += f" ({', '.join(self._reasons())})"
        raise DeliveryError(f"{self.rejected} rejected, {dropped}, {self.pending} waiting")

    def _reasons(self) -> Iterator[str]:
        several = len(self.dropped) > 1
        for reason, count in sorted(self.dropped.items()):
            yield f"{count} {reason}" if several else reason


class DeliveryStats:
    """Keep the counts of one consumer and tell its owner about losses.

    `lock` is the buffer's too: a message is counted in the same breath as it moves.
    """

    def __init__(self, on_error: OnError | None = None, on_drop: OnDrop | None = None) -> None:
        checked_callback(on_error, "on_error")
        checked_callback(on_drop, "on_drop")
        self.lock: AbstractContextManager[Any] = threading.RLock()
        self.deferred: Sequence[Record] = ()  # accepted, but not yet among the counts below
        self.on_error = on_error
        self.on_drop = on_drop
        self.recent: list[DeliveryError] = []
        self._logged: dict[str, tuple[float, int]] = {}
        self._telling = threading.local()
        self.clear()

    def clear(self) -> None:
        """Start from zero, as a forked child does."""
        self.accepted = self.delivered = self.rejected = 0
        self.pending = self.requests = self.retried = 0
        self.dropped: dict[str, int] = {}
        self.warnings: Counter[str] = Counter()

    def snapshot(self) -> Stats:
        """Return the counts of this moment."""
        # In a signal handler that interrupted a change of these counts, they are derived.
        interrupted = self.lock._is_owned()  # type: ignore[attr-defined]
        with self.lock:
            late, accepted = len(self.deferred), self.accepted
            if interrupted:
                settled = self.delivered + self.rejected + sum(self.dropped.values())
                accepted = settled + self.pending
            return Stats(
                accepted + late,
                self.delivered,
                self.rejected,
                {reason: count for reason, count in self.dropped.items() if count},
                self.pending + late,
                self.requests,
                self.retried,
                dict(self.warnings),
            )

    def left_out(self, reason: str, count: int = 1) -> None:
        """Count messages that never reach the buffer."""
        with self.lock:
            self.dropped.setdefault(reason, 0)
            self.accepted += count
            self.dropped[reason] += count

    def count_captured(self, count: int) -> None:
        """Count messages that a test captured: for their client they are delivered."""
        with self.lock:
            self.accepted += count
            self.delivered += count

    def note(self, kind: str, text: str) -> None:
        """Count what the composer noticed about a message, and say it now and then."""
        if kind in CHOSEN or kind == "before_send_error":
            self.left_out(kind)
            return
        with self.lock:
            self.warnings[kind] += 1
        self.say(logging.WARNING, f"{kind} message: {text}", key=kind)

    def report(self, error: DeliveryError, records: Sequence[Record]) -> None:
        """Hand an error and the messages it struck to `on_error`, or to the log without one."""
        with self.lock:
            self.recent = [*self.recent[-9:], error]
        if self.on_error is None:
            level = logging.ERROR if records else logging.WARNING
            self.say(level, f"{type(error).__name__}: {error}", key=type(error).__name__)
        else:
            self._call(self.on_error, error, records)

    def report_drop(self, reason: str, records: Sequence[Record]) -> None:
        """Hand dropped messages to `on_drop`, or say how many they were."""
        # A callback that tracks into a full buffer causes the next drop: that one is only said.
        telling = getattr(self._telling, "drop", False)
        if self.on_drop is not None and not telling:
            self._telling.drop = True
            try:
                self._call(self.on_drop, reason, records)
            finally:
                self._telling.drop = False
        elif telling or self.on_error is None or reason not in ("ambiguous", "expired"):
            self.say(logging.ERROR, f"{len(records)} message(s) dropped: {reason}", key=reason)

    def say(self, level: int, text: str, *, key: str) -> None:
        """Log at most once a minute for each kind of thing, with the number left unsaid."""
        now = time.monotonic()
        with self.lock:
            last, unsaid = self._logged.get(key, (-LOG_EVERY, 0))
            if now - last < LOG_EVERY:
                self._logged[key] = (last, unsaid + 1)
                return
            self._logged[key] = (now, 0)
        more = f" (and {unsaid} more like it)" if unsaid else ""
        logger.log(level, "%s%s", text, more)

    def _call(
        self, callback: Callable[..., object], what: object, records: Sequence[Record]
    ) -> None:
        try:
            callback(what, [record.decoded() for record in records])
        except KeyboardInterrupt:
            raise
        except BaseException:
            # A callback is not ours; it must never stop the sender, nor the loop it runs in.
            logger.exception("a delivery callback failed")
