"""A request, and the protocols of what makes, admits and classifies requests."""

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

    Headers with credentials are `Secret`s, which only a transport reveals. URL and body may hold a
    token, so `pickle` refuses a request.
    """

    method: str
    url: str
    headers: Mapping[str, str | Secret]
    content: bytes = b""

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.url.partition('?')[0]} {len(self.content)} bytes>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Request cannot be pickled: it may hold credentials")


@dataclass(frozen=True, slots=True)
class Send:
    """Records to send in one request; `retries` counts the attempts before it."""

    records: list[Record]
    gzip: bool
    retries: int = 0


class RequestGuard(Protocol):
    """Rate limiting and authentication around each request, as a generator without I/O."""

    def run(
        self,
    ) -> Generator[
        float | Request | None, Response | TransportFailure | None, Response | TransportFailure
    ]:
        """Yield seconds to sleep, requests of its own to send, and None to send the guarded one.

        After a request, or None, the caller sends in the response. The generator returns the
        response of the attempt.
        """
        ...

    def after_fork(self) -> None:
        """Start afresh in a forked child."""
        ...


class Api(Protocol):
    """The HTTP API of one kind of server, as a sender needs it."""

    @property
    def guard(self) -> RequestGuard | None:
        """Return the guard of each request; None sends all of them at once."""
        ...

    def request(self, step: Send) -> Request:
        """Return the request that carries these records."""
        ...

    def classify(
        self, response: Response | TransportFailure, records: list[Record]
    ) -> Classification:
        """Return what a response means for the records that were sent."""
        ...

    def takes_gzip(self, endpoint: str) -> bool:
        """Return True if request bodies for an endpoint may be compressed."""
        ...

    def captured_as(self, endpoint: str) -> str:
        """Return the name under which `mixpanel.testing.capture` keeps an endpoint's messages."""
        ...
