"""Count the calls of a fan-out, sink by sink."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mixpanel._runtime import native_threads
from mixpanel.exceptions import (
    ClosedError,
    DeliveryError,
    PayloadTooLargeError,
    QueueFullError,
    RejectedError,
    ValidationError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mixpanel._delivery.stats import Stats

__all__ = ["SinkCounters", "SinkStats", "rejection_reason"]

_REASONS: list[tuple[type[Exception], str]] = [
    (ValidationError, "invalid"),
    (QueueFullError, "queue_full"),
    (ClosedError, "closed"),
    (PayloadTooLargeError, "too_large"),
    (RejectedError, "by_server"),
    (DeliveryError, "undelivered"),
]


def rejection_reason(error: Exception) -> str:
    """Return the key under which `SinkStats.rejected` counts an error."""
    return next((reason for kind, reason in _REASONS if isinstance(error, kind)), "failed")


@dataclass(frozen=True, slots=True)
class SinkStats:
    """The calls that one sink received, and what happened to them.

    Always: `received == accepted + sum(filtered) + sum(rejected) + pending`.

    - `accepted`: calls that the sink's client accepted. `client` has that client's own stats, which
      count messages: one call may be no message (sampled out by the client) or two (a group at
      Mixpanel).
    - `filtered`: calls that the sink was not meant to get, by reason: `integrations` (of the call),
      `routing` (`calls` and `events` of the sink), `action` (an action of Customer.io, ignored by
      other vendors), `consent`, `sampling`, `unsupported` (the vendor has no such message),
      `before_send` (the hook returned None), `before_send_error` (it failed).
    - `rejected`: calls that the client did not accept, by reason: `invalid` (breaks a rule of this
      sink), `queue_full`, `closed`, `too_large`, `by_server`, `undelivered`, `interrupted` (by a
      cancellation or Ctrl-C), `failed` (an error of your own consumer).
    - `pending`: calls that a sink is sending now, or that wait for space in its buffer.
    """

    received: int
    accepted: int
    filtered: Mapping[str, int]
    rejected: Mapping[str, int]
    pending: int
    client: Stats

    @property
    def balanced(self) -> bool:
        """Return True if every received call is counted exactly once, which always holds."""
        not_accepted = sum(self.filtered.values()) + sum(self.rejected.values())
        return self.received == self.accepted + not_accepted + self.pending


class SinkCounters:
    """The counters of one sink; safe to use from any thread."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start from zero, with a new lock, as a forked child must."""
        # Reentrant: a signal handler may track an event while its thread holds the lock.
        self._lock = native_threads.new_rlock()
        self._accepted = self._pending = 0
        self._filtered: dict[str, int] = {}
        self._rejected: dict[str, int] = {}

    def add_filtered(self, reason: str) -> None:
        """Count a call that this sink does not get."""
        with self._lock:
            self._filtered.setdefault(reason, 0)
            self._filtered[reason] += 1

    def start(self) -> None:
        """Count a call as pending, before it is passed to the client."""
        with self._lock:
            self._pending += 1

    def add_accepted(self) -> None:
        """Count a pending call as accepted."""
        with self._lock:
            self._pending -= 1
            self._accepted += 1

    def add_rejected(self, reason: str) -> None:
        """Count a pending call as rejected."""
        with self._lock:
            self._rejected.setdefault(reason, 0)
            self._pending -= 1
            self._rejected[reason] += 1

    def stats(self, client: Stats) -> SinkStats:
        """Return a snapshot of the counters, with the stats of the client."""
        with self._lock:
            filtered, rejected = dict(self._filtered), dict(self._rejected)
            not_accepted = sum(filtered.values()) + sum(rejected.values())
            received = self._accepted + not_accepted + self._pending
            return SinkStats(received, self._accepted, filtered, rejected, self._pending, client)
