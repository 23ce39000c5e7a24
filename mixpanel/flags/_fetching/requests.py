"""Ask for flags: the two requests, and what their answers say. Pure."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from mixpanel._delivery import capture
from mixpanel._http.request import USER_AGENT, Request
from mixpanel._http.responses import (
    Response,
    TransportFailure,
)
from mixpanel._records.encoding import dumps, loads
from mixpanel.credentials import ProjectToken, Secret, ServiceAccountCredentials, checked_text
from mixpanel.exceptions import MixpanelException, TransportError
from mixpanel.settings import Endpoints, is_loopback

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

    from mixpanel._http.connections import LoopConnections
    from mixpanel.flags.types import FlagsConfig

__all__ = ["FlagsApi", "FlagsError"]

DEFAULT_HOST = "api.mixpanel.com"


class FlagsError(MixpanelException):
    """Flags could not be fetched; the text holds neither URL nor token.

    `status` is the HTTP status if there was an answer, `retry_after` the seconds it asked for.
    """

    def __init__(
        self, text: str, status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after = retry_after

    def again(self) -> FlagsError:
        """Return the same error for another caller: raised twice, its traceback would grow."""
        return FlagsError(str(self), self.status, self.retry_after)


class FlagsApi:
    """Make the requests of one project."""

    def __init__(
        self,
        token: str,
        config: FlagsConfig,
        version: str,
        credentials: ServiceAccountCredentials | None,
        origin: str | None,
    ) -> None:
        self._token = checked_text(token, "token")
        self._version = version
        self._credentials = credentials
        api_host = None if config.api_host in (DEFAULT_HOST, "") else config.api_host
        given = api_host, config.region, config.base_url
        if origin is None or any(each is not None for each in given):
            origin = Endpoints.resolve(
                region=config.region, api_host=api_host, base_url=config.base_url
            ).origin
        self.origin = origin

    def __reduce__(self) -> NoReturn:
        raise TypeError("what asks for flags is not pickled: it may hold credentials")

    def definitions(self, etag: str | None = None) -> Request:
        """Ask for all definitions, unless they are still those of `etag`."""
        return self._request(
            "/flags/definitions", {}, {"If-None-Match": etag} if etag and etag.isascii() else {}
        )

    def evaluation(self, context: Mapping[str, Any], flag_key: str | None = None) -> Request:
        """Ask for the variants of one user, of one flag or of all."""
        body, _ = dumps(dict(context))
        query = {"context": body.decode()}
        if flag_key is not None:
            query["flag_key"] = flag_key
        return self._request("/flags", query, {})

    def _request(self, path: str, query: dict[str, str], more: dict[str, str]) -> Request:
        query = {"mp_lib": "python", "lib_version": self._version, "token": self._token, **query}
        authority: ServiceAccountCredentials | ProjectToken = ProjectToken(self._token)
        if self._credentials is not None:
            authority = self._credentials
            query["project_id"] = self._credentials.project_id
        headers: dict[str, str | Secret] = {
            "Authorization": Secret(authority.authorization()),
            "Content-Type": "application/json",
            "User-Agent": USER_AGENT,
            "Accept-Encoding": "identity",
            "X-Scheme": "https",
            "X-Forwarded-Proto": "https",
            "traceparent": f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-01",
            **more,
        }
        return Request("GET", f"{self.origin}{path}?{urlencode(query)}", headers)


async def send(connections: LoopConnections, request: Request) -> Response | TransportFailure:
    """Send a request for flags; while a test captures events, to a server on this machine only."""
    if capture.active is not None and not is_loopback(urlsplit(request.url).hostname or ""):
        text = "flags are not fetched while events are captured: use FixedFlags or override_flags"
        return TransportFailure(TransportError(text), may_have_been_sent=False)
    return await connections.send(request)


def decoded(reply: Response | TransportFailure, most: int) -> Any:
    """Return the JSON of a success of at most so many bytes.

    :raises FlagsError: for anything else.
    """
    if isinstance(reply, TransportFailure):
        # Not chained: the cause of a transport error may hold the URL, and that the token.
        raise FlagsError(str(reply.error).partition(" (")[0]) from None
    if reply.status != 200:
        from mixpanel._http.responses import (
            retry_after,
        )

        raise FlagsError(
            f"HTTP {reply.status}{_reason(reply)}", reply.status, retry_after(reply.headers)
        )
    if len(reply.body) > most:
        raise FlagsError(f"HTTP 200: the answer has more than {most:,} bytes", 200)
    try:
        return loads(reply.body)
    except (ValueError, RecursionError):
        raise FlagsError("HTTP 200: the answer is not JSON", 200) from None


def _reason(reply: Response) -> str:
    try:
        told = loads(reply.body)["error"]
    except (ValueError, RecursionError, KeyError, TypeError, IndexError):
        return ""
    return f": {''.join(c for c in told[:200] if c.isprintable())}" if isinstance(told, str) else ""
