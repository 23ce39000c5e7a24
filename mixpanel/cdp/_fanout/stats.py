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

__all__ = ["Account", "SinkStats", "reason"]

_REASONS: list[tuple[type[Exception], str]] = [
    (ValidationError, "invalid"),
    (QueueFullError, "queue_full"),
    (ClosedError, "closed"),
    (PayloadTooLargeError, "too_large"),
    (RejectedError, "rejected"),
    (DeliveryError, "undelivered"),
]


def reason(error: Exception) -> str:
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

    offered: int
    taken: int
    withheld: Mapping[str, int]
    refused: Mapping[str, int]
    pending: int
    client: Stats

    @property
    def balanced(self) -> bool:
        """Tell whether the account balances; it always does."""
        left_out = sum(self.withheld.values()) + sum(self.refused.values())
        return self.offered == self.taken + left_out + self.pending


class Account:
    """Keep the counts of one sink; from any thread."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Start from zero, as a forked child does."""
        self._lock = threading.RLock()  # a signal handler may call while its own thread holds it
        self._taken = self._pending = 0
        self._withheld: dict[str, int] = {}
        self._refused: dict[str, int] = {}

    def withhold(self, why: str) -> None:
        """Count a call that is not for this sink."""
        with self._lock:
            self._withheld.setdefault(why, 0)
            self._withheld[why] += 1

    def begin(self) -> None:
        """Count a call that is on its way to the client."""
        with self._lock:
            self._pending += 1

    def take(self) -> None:
        """Count a call that the client has taken."""
        with self._lock:
            self._pending -= 1
            self._taken += 1

    def refuse(self, why: str) -> None:
        """Count a call that was on its way and did not get there."""
        with self._lock:
            self._refused.setdefault(why, 0)
            self._pending -= 1
            self._refused[why] += 1

    def stats(self, client: Stats) -> SinkStats:
        """Return the counts of this moment, beside those of the client."""
        with self._lock:
            withheld, refused = dict(self._withheld), dict(self._refused)
            left_out = sum(withheld.values()) + sum(refused.values())
            offered = self._taken + left_out + self._pending
            return SinkStats(offered, self._taken, withheld, refused, self._pending, client)
