"""The interface by which a sender reports its messages to the live page.

A sender without an observer reports nothing.
"""

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
        """Handle records that are about to be queued, or sent without a queue."""
        ...

    def attempted(
        self,
        records: Sequence[Record],
        request: Request,
        retries: int,
        reply: Response | TransportFailure,
    ) -> None:
        """Handle a request with records, which followed `retries` others, and its response."""
        ...

    def settled(self, records: Sequence[Record], fate: str, reason: str) -> None:
        """Handle the outcome of records: delivered, rejected or dropped."""
        ...

    def discarded(self, reason: str, count: int) -> None:
        """Handle messages that were dropped before they were queued, as by `before_send`."""
        ...
