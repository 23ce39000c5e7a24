"""The requests to the flags API, and how their responses are decoded."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from mixpanel._delivery import capture
from mixpanel._http.request import USER_AGENT, Request
from mixpanel._http.responses import Response, TransportFailure, retry_after
from mixpanel._records.json_encoding import dumps, loads
from mixpanel.credentials import ProjectToken, Secret, ServiceAccountCredentials, checked_text
from mixpanel.exceptions import MixpanelException, TransportError
from mixpanel.settings import Endpoints, is_loopback

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

    from mixpanel._delivery.observer import Observer
    from mixpanel._http.connections import LoopConnections
    from mixpanel.flags.types import FlagsConfig

__all__ = ["FlagsApi", "FlagsError", "decode_response", "failure_reason", "send"]

DEFAULT_HOST = "api.mixpanel.com"
MAX_MESSAGE_LENGTH = 200
MAX_MESSAGE_BYTES = 1000
_ADDRESS = re.compile(r"\S*(://|token=|distinct_id=)\S*")  # a proxy may repeat the URL


class FlagsError(MixpanelException):
    """Flags could not be fetched; the message contains neither URL nor token.

    `status` is the HTTP status (None without a response), `retry_after` the seconds of the
    response's Retry-After header.
    """

    def __init__(
        self, text: str, status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after = retry_after

    def copy(self) -> FlagsError:
        """Return a copy for another caller: an error that is raised twice has both tracebacks."""
        return FlagsError(str(self), self.status, self.retry_after)


def failure_reason(error: Exception | None) -> object:
    """Return a key that is the same for failures of one kind, which are not logged each time."""
    status = getattr(error, "status", None)
    return str(error) if status is None else status


class FlagsApi:
    """Build the requests of one project."""

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
        configured = api_host, config.region, config.base_url
        if origin is None or any(each is not None for each in configured):
            origin = Endpoints.resolve(
                region=config.region, api_host=api_host, base_url=config.base_url
            ).origin
        self.origin = origin

    def __reduce__(self) -> NoReturn:
        raise TypeError("FlagsApi cannot be pickled: it may hold credentials")

    def definitions(self, etag: str | None = None) -> Request:
        """Return the request for all definitions; the server replies 304 if `etag` is current."""
        return self._request(
            "/flags/definitions", {}, {"If-None-Match": etag} if etag and etag.isascii() else {}
        )

    def evaluation(self, context: Mapping[str, Any], flag_key: str | None = None) -> Request:
        """Return the request for the variants of one user, of one flag or of all."""
        body, _ = dumps(dict(context))
        query = {"context": body.decode()}
        if flag_key is not None:
            query["flag_key"] = flag_key
        return self._request("/flags", query, {})

    def _request(self, path: str, query: dict[str, str], extra_headers: dict[str, str]) -> Request:
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
            **extra_headers,
        }
        return Request("GET", f"{self.origin}{path}?{urlencode(query)}", headers)


async def send(
    connections: LoopConnections, request: Request, observer: Observer | None = None
) -> Response | TransportFailure:
    """Send a request for flags; while a test captures events, to a server on this machine only."""
    if capture.active is not None and not is_loopback(urlsplit(request.url).hostname or ""):
        text = "flags are not fetched while events are captured: use FixedFlags or override_flags"
        return TransportFailure(TransportError(text), may_have_been_sent=False)
    reply = await connections.send(request)
    if observer is not None:
        observer.requested(request, reply)
    return reply


def decode_response(response: Response | TransportFailure, max_bytes: int) -> Any:
    """Return the JSON of a successful response.

    :raises FlagsError: the request failed, or the response is too long or not JSON.
    """
    if isinstance(response, TransportFailure):
        # Not chained: the cause of a transport error may hold the URL, and that the token.
        raise FlagsError(str(response.error).partition(" (")[0]) from None
    if response.status != 200:
        raise FlagsError(
            f"HTTP {response.status}{_server_message(response)}",
            response.status,
            retry_after(response.headers),
        )
    if len(response.body) > max_bytes:
        raise FlagsError(f"HTTP 200: the response has more than {max_bytes:,} bytes", 200)
    try:
        return loads(response.body)
    except (ValueError, RecursionError):
        raise FlagsError("HTTP 200: the response is not JSON", 200) from None


def _server_message(response: Response) -> str:
    """Return the error in the body of a response, or else the body, without URLs.

    Empty for a page of HTML.
    """
    text = response.body[:MAX_MESSAGE_BYTES].decode("utf-8", "replace").strip()
    try:
        message = loads(response.body)["error"]
    except (ValueError, RecursionError, KeyError, TypeError, IndexError):
        message = "" if text.startswith("<") else text
    if not isinstance(message, str):
        message = text
    message = _ADDRESS.sub("[…]", message)
    shown = "".join(c if c.isprintable() else " " for c in message[:MAX_MESSAGE_LENGTH])
    return f": {shown}" if shown else ""
