"""Make requests of records: where each endpoint is, who asks, and how its bodies look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mixpanel._version import __version__

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from typing import NoReturn

    from mixpanel._http.responses import (
        Classification,
        Response,
        TransportFailure,
    )
    from mixpanel._records.record import Record
    from mixpanel.credentials import Secret

__all__ = ["Api", "Request", "RequestGuard", "Send"]

USER_AGENT = f"mixpanel-async/{__version__}"


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, ready to go; its repr shows neither body nor credentials.

    A header that identifies somebody is a `Secret`, which only the transport reveals. URL and body
    may hold a token, so `pickle` refuses a request.
    """

    method: str
    url: str
    headers: Mapping[str, str | Secret]
    content: bytes = b""

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.url.partition('?')[0]} {len(self.content)} bytes>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a request is not pickled: it may hold credentials")


@dataclass(frozen=True, slots=True)
class Send:
    """Records to put on the wire in one request; `retries` counts the attempts before it."""

    records: list[Record]
    gzip: bool
    retries: int = 0


class RequestGuard(Protocol):
    """What a request passes before it leaves: a rate limit, or who hands out access tokens."""

    def run(
        self,
    ) -> Generator[
        float | Request | None, Response | TransportFailure | None, Response | TransportFailure
    ]:
        """Yield seconds to wait, requests of its own to make, and None to send the request itself.

        Requests are answered with their reply. Return what stands as the reply to the attempt.
        """
        ...

    def after_fork(self) -> None:
        """Start afresh in a forked child."""
        ...


class Api(Protocol):
    """How a sender speaks to one kind of server."""

    @property
    def guard(self) -> RequestGuard | None:
        """Return what each request has to pass; None lets all of them leave at once."""
        ...

    def request(self, step: Send) -> Request:
        """Return the request that carries these records."""
        ...

    def classify(self, reply: Response | TransportFailure, part: list[Record]) -> Classification:
        """Return what a reply means for the records that were sent."""
        ...

    def takes_gzip(self, endpoint: str) -> bool:
        """Tell whether an endpoint's bodies may be compressed."""
        ...
