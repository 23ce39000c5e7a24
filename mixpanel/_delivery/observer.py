"""The seam of the live page: what a sender reports while it is watched, and nothing otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mixpanel._http.request import Request
    from mixpanel._http.responses import Response, TransportFailure
    from mixpanel._records.record import Record

__all__ = ["Observer"]


class Observer(Protocol):
    """Watches the messages of one sender, from any thread; its methods never raise."""

    def queued(self, records: Sequence[Record]) -> None:
        """Take records that are about to be queued, or sent without a queue."""
        ...

    def attempted(
        self,
        records: Sequence[Record],
        request: Request,
        retries: int,
        reply: Response | TransportFailure,
    ) -> None:
        """Take the request that carried records, after `retries` others, and its response."""
        ...

    def settled(self, records: Sequence[Record], fate: str, reason: str) -> None:
        """Take the outcome of records: delivered, rejected or dropped."""
        ...

    def discarded(self, reason: str, count: int) -> None:
        """Take how many messages were dropped before they were queued, as by `before_send`."""
        ...
