"""Count the outcome of every message, and report losses to the callbacks or the log."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mixpanel._runtime import native_threads
from mixpanel._runtime.safe_logging import logger
from mixpanel.exceptions import DeliveryError
from mixpanel.settings import checked_callback

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from mixpanel._delivery.health import Health
    from mixpanel._records.record import Record

__all__ = ["DeliveryStats", "FlushResult", "OnDrop", "OnError", "Stats"]

OnError = Callable[["DeliveryError", list[dict[str, Any]]], object]
OnDrop = Callable[[str, list[dict[str, Any]]], object]

INTENTIONAL = frozenset({"sampled", "before_send", "disabled"})
LOG_INTERVAL = 60.0
MAX_KEYS = 50  # different lines that are limited each for itself
MAX_KEY = 200
VALUES = re.compile(r"'[^']*'|\"[^\"]*\"|\d+")


@dataclass(frozen=True, slots=True)
class Stats:
    """The outcome of every message so far, in numbers.

    Always and exactly: `accepted == delivered + rejected + sum(dropped) + pending`.

    - `rejected`: the server looked at the message and did not take it.
    - `dropped`, by reason: `queue_full`, `expired` (older than `RetryPolicy.max_age`), `ambiguous`
      (sent without a trustworthy response, and either not safe to repeat or repeated once with the
      same result), `too_large`, `raised` (the error went to the caller), `closed` (the client was
      closed first), `exit` (the process ended first), `before_send_error` (the hook raised), and
      by choice `sampled`, `before_send`, `disabled`.
    - `requests` counts attempts, `retried` those that repeated an earlier one.
    - `warnings` counts messages that broke a rule (`invalid`) or lost something in JSON
      (`coerced`).
    - `health` is what `health()` returned then: what each queue was doing, and the spool.

    With a spool, `accepted` includes the messages that were found there, and those that a closed
    client has left there are still `pending`. Further reasons: `corrupt` (in a damaged file), and
    `no_credentials` (authorized by a secret of an earlier process, which is not written).
    """

    accepted: int = 0
    delivered: int = 0
    rejected: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    pending: int = 0
    requests: int = 0
    retried: int = 0
    warnings: Mapping[str, int] = field(default_factory=dict)
    health: Health | None = field(default=None, compare=False, repr=False)

    @property
    def lost(self) -> int:
        """Return how many messages were rejected, or dropped other than by choice."""
        chosen = sum(n for reason, n in self.dropped.items() if reason in INTENTIONAL)
        return self.rejected + sum(self.dropped.values()) - chosen

    @property
    def balanced(self) -> bool:
        """Return True if the counts add up, as they always do."""
        settled = self.delivered + self.rejected + sum(self.dropped.values())
        return self.accepted == settled + self.pending


@dataclass(frozen=True, slots=True)
class FlushResult:
    """The outcome of the messages settled during a flush or close, and how many are pending."""

    delivered: int
    rejected: int
    dropped: Mapping[str, int]
    pending: int
    errors: tuple[DeliveryError, ...] = ()

    @property
    def ok(self) -> bool:
        """Return True if every message was delivered."""
        return not (self.rejected or self.pending or sum(self.dropped.values()))

    def raise_for_loss(self) -> None:
        """Raise unless every message was delivered, at the first attempt or a later one.

        :raises DeliveryError: the last error, when messages were rejected, dropped or are pending.
        """
        if self.ok:
            return
        if self.errors:
            raise self.errors[-1]
        dropped = f"{sum(self.dropped.values())} dropped"
        if self.dropped:
            dropped += f" ({', '.join(self._reasons())})"
        raise DeliveryError(f"{self.rejected} rejected, {dropped}, {self.pending} pending")

    def _reasons(self) -> Iterator[str]:
        several = len(self.dropped) > 1
        for reason, count in sorted(self.dropped.items()):
            yield f"{count} {reason}" if several else reason


class DeliveryStats:
    """Keep the counts of one consumer and report its losses.

    `lock` is also the buffer's: a message is moved and counted under one acquisition of it.
    """

    def __init__(self, on_error: OnError | None = None, on_drop: OnDrop | None = None) -> None:
        checked_callback(on_error, "on_error")
        checked_callback(on_drop, "on_drop")
        self.lock: AbstractContextManager[Any] = native_threads.new_rlock()
        self.deferred: Sequence[Record] = ()  # accepted, but not yet counted
        self.on_error = on_error
        self.on_drop = on_drop
        self.health: Callable[[], Health] | None = None
        self.recent_errors: list[DeliveryError] = []
        self.last_error: DeliveryError | None = None  # None after a delivery
        self._logged: dict[str, tuple[float, int]] = {}
        self._in_on_drop: set[int] = set()  # threads, or greenlets where gevent has patched them
        self.clear()

    def clear(self) -> None:
        """Start from zero, as a forked child does."""
        # True under the lock while counts and queues are changed: what a signal handler or
        # finalizer tracks in between is `deferred`.
        self.changing = False
        self.accepted = self.delivered = self.rejected = 0
        self.pending = self.requests = self.retried = 0
        self.dropped: dict[str, int] = {}
        self.warnings: Counter[str] = Counter()

    def snapshot(self) -> Stats:
        """Return the counts as they are now."""
        with self.lock:
            interrupted, self.changing = self.changing, True
            try:
                late, accepted = len(self.deferred), self.accepted
                if interrupted:
                    # This is a signal handler that interrupted this thread between two changes
                    # that belong together: `accepted` is derived from the others.
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
                    None if self.health is None else self.health(),
                )
            finally:
                self.changing = interrupted

    def count_dropped(self, reason: str, count: int = 1) -> None:
        """Count messages that are dropped before they reach the buffer."""
        with self.lock:
            outer, self.changing = self.changing, True
            try:
                self.dropped.setdefault(reason, 0)
                self.accepted += count
                self.dropped[reason] += count
            finally:
                self.changing = outer

    def count_captured(self, count: int) -> None:
        """Count messages that a test captured: for their client they are delivered."""
        with self.lock:
            outer, self.changing = self.changing, True
            try:
                self.accepted += count
                self.delivered += count
            finally:
                self.changing = outer

    def note(self, kind: str, text: str) -> None:
        """Count what the composer noticed about a message.

        Each problem is logged at most once a minute, whatever the values in its text.
        """
        if kind in INTENTIONAL or kind == "before_send_error":
            self.count_dropped(kind)
            return
        with self.lock:
            self.warnings[kind] += 1
        key = f"{kind} {VALUES.sub('', text)[:MAX_KEY]}"
        with self.lock:
            if key not in self._logged and len(self._logged) >= MAX_KEYS:
                key = kind
        self.log_limited(logging.WARNING, f"{kind} message: {text}", key=key)

    def report(self, error: DeliveryError, records: Sequence[Record]) -> None:
        """Call `on_error` with an error and the messages it is about; without one, log it.

        An error that a person has to mend is always logged: not every callback does that.
        """
        with self.lock:
            self.recent_errors = [*self.recent_errors[-9:], error]
            self.last_error = error
        name, attention = type(error).__name__, error.needs_attention
        if self.on_error is None or attention:
            level = logging.ERROR if records or attention else logging.WARNING
            # One that a person has to mend must not be left out because of a passing one.
            key = f"{name} {error.status}" if attention else name
            self.log_limited(level, f"{name}: {error}", key=key)
        if self.on_error is not None:
            self._call(self.on_error, error, records)

    def report_drop(self, reason: str, records: Sequence[Record]) -> None:
        """Call `on_drop` with dropped messages; without one, log how many there were."""
        # A callback that tracks into a full buffer causes another drop: that one is only logged.
        thread = threading.get_ident()
        nested = thread in self._in_on_drop
        if self.on_drop is not None and not nested:
            self._in_on_drop.add(thread)
            try:
                self._call(self.on_drop, reason, records)
            finally:
                self._in_on_drop.discard(thread)
        elif nested or self.on_error is None or reason not in ("ambiguous", "expired"):
            self.log_limited(logging.ERROR, self.drop_text(reason, len(records)), key=reason)

    def drop_text(self, reason: str, count: int) -> str:
        """Return a line about dropped messages, with the error that kept them from being sent."""
        text, error = f"{count} message(s) dropped: {reason}", self.last_error
        if error is None or reason not in ("closed", "exit", "expired"):
            return text
        return f"{text}; last error: {type(error).__name__}: {error}"

    def log_limited(self, level: int, text: str, *, key: str) -> None:
        """Log at most once a minute per `key`, with the number of lines left out in between."""
        now = time.monotonic()
        with self.lock:
            last, suppressed = self._logged.get(key, (-LOG_INTERVAL, 0))
            if now - last < LOG_INTERVAL:
                self._logged[key] = (last, suppressed + 1)
                return
            self._logged[key] = (now, 0)
        more = f" (and {suppressed} more like it)" if suppressed else ""
        logger.log(level, "%s%s", text, more)

    def _call(
        self, callback: Callable[..., object], what: object, records: Sequence[Record]
    ) -> None:
        try:
            callback(what, [record.decoded() for record in records])
        except KeyboardInterrupt:
            raise
        except BaseException:
            # Users' code must stop neither the sender nor the event loop that it runs in.
            logger.exception("on_error or on_drop raised an exception")
