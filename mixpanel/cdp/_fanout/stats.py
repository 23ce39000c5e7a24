"""Count what became of the calls of a fan-out, sink by sink."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    (RejectedError, "rejected"),
    (DeliveryError, "undelivered"),
]


def rejection_reason(error: Exception) -> str:
    """Return the word that an account keeps for an error."""
    return next((word for kind, word in _REASONS if isinstance(error, kind)), "failed")


@dataclass(frozen=True, slots=True)
class SinkStats:
    """Say what became of the calls that one sink was offered.

    Always and exactly: `offered == taken + sum(withheld) + sum(refused) + pending`.

    `taken` is in the books of the sink's client, `client`, which count messages: one call may be
    none (sampled out by the client) or two (a group at Mixpanel). `pending` are with a sink that
    sends at once, or waits for room, right now.

    `withheld` by choice: `integrations` (of the call), `routing` (`calls` and `events` of the
    sink), `action` (Customer.io's own, nothing to others), `consent`, `sampling`, `unsupported`
    (the vendor has no such message). `refused`: `invalid` (this sink's rules), `queue_full`,
    `closed`, `too_large`, `rejected` (by the server), `undelivered`, `interrupted` (by a
    cancellation or Ctrl-C), `failed` (what a consumer of your own raised).
    """

    received: int
    accepted: int
    filtered: Mapping[str, int]
    rejected: Mapping[str, int]
    pending: int
    client: Stats

    @property
    def balanced(self) -> bool:
        """Tell whether the account balances; it always does."""
        not_sent = sum(self.filtered.values()) + sum(self.rejected.values())
        return self.received == self.accepted + not_sent + self.pending


class SinkCounters:
    """Keep the counts of one sink; from any thread."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start from zero, as a forked child does."""
        self._lock = threading.RLock()  # a signal handler may call while its own thread holds it
        self._accepted = self._pending = 0
        self._filtered: dict[str, int] = {}
        self._rejected: dict[str, int] = {}

    def add_filtered(self, reason: str) -> None:
        """Count a call that is not for this sink."""
        with self._lock:
            self._filtered.setdefault(reason, 0)
            self._filtered[reason] += 1

    def start(self) -> None:
        """Count a call that is on its way to the client."""
        with self._lock:
            self._pending += 1

    def add_accepted(self) -> None:
        """Count a call that the client has taken."""
        with self._lock:
            self._pending -= 1
            self._accepted += 1

    def add_rejected(self, reason: str) -> None:
        """Count a call that was on its way and did not get there."""
        with self._lock:
            self._rejected.setdefault(reason, 0)
            self._pending -= 1
            self._rejected[reason] += 1

    def stats(self, client: Stats) -> SinkStats:
        """Return the counts of this moment, beside those of the client."""
        with self._lock:
            filtered, rejected = dict(self._filtered), dict(self._rejected)
            not_sent = sum(filtered.values()) + sum(rejected.values())
            received = self._accepted + not_sent + self._pending
            return SinkStats(received, self._accepted, filtered, rejected, self._pending, client)
