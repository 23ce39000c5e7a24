"""The interface by which a client reports its messages and requests to the live page.

A client without an observer reports nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mixpanel._http.request import Request
    from mixpanel._http.responses import Response, TransportFailure
    from mixpanel._records.record import Record

__all__ = ["Observer"]


class Observer(Protocol):
    """Watches what one client sends, from any thread; its methods never raise."""

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

    def refused(self, endpoint: str, message: Any, reason: str) -> None:
        """Handle a message that breaks a rule, and was rejected before it was queued."""
        ...

    def requested(self, request: Request, reply: Response | TransportFailure) -> None:
        """Handle a request that carries no messages, such as one for flags, and its response."""
        ...
