"""Put requests on the wire: the only room that knows httpx.

One attempt is one request under one deadline, from connecting to the last byte of the answer,
because httpx's own timeouts start anew with every byte that drips in. Redirects are not followed,
answers are not decompressed and are read up to a cap.
"""

from __future__ import annotations

import gzip
import ssl
import time
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode

import anyio
import anyio.to_thread
import httpcore
import httpx

from mixpanel._exchange import Answer, Failure
from mixpanel._version import __version__
from mixpanel.credentials import ApiSecret, ServiceAccountCredentials, token_authorization
from mixpanel.exceptions import AttemptTimeoutError, TransportError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from mixpanel.messages import Record
    from mixpanel.settings import Endpoint, Endpoints

__all__ = ["LastWords", "Request", "Route", "Transport", "Wire"]

USER_AGENT = f"mixpanel-async/{__version__}"
COMPRESSION = 1  # level 6 takes three times as long for a tenth less
IN_A_THREAD = 64 * 1024
NOT_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
)


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, ready to go; its repr shows neither body nor credentials."""

    method: str
    url: str
    headers: Mapping[str, str]
    content: bytes = b""

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.url.partition('?')[0]} {len(self.content)} bytes>"


@dataclass(frozen=True, slots=True)
class Route:
    """Know where each endpoint is, who asks, and how its bodies look.

    Events and imports take gzip; `/engage` and `/groups` do not. `geolocate` lets Mixpanel place
    users where the request comes from, which is right on a device and wrong on a server.
    """

    endpoints: Endpoints
    credentials: ServiceAccountCredentials | None = None
    token: str | None = None
    geolocate: bool = False

    def request(self, records: list[Record], *, compress: bool) -> Request:
        """Return the request that carries these records of one endpoint."""
        endpoint = records[0].endpoint
        body = b"[" + b",".join([record.body for record in records]) + b"]"
        headers = {"Content-Type": "application/json", "User-Agent": USER_AGENT,
                   "Accept-Encoding": "identity"}  # fmt: skip
        if compress and takes_gzip(endpoint):
            body = gzip.compress(body, COMPRESSION, mtime=0)
            headers["Content-Encoding"] = "gzip"
        query: dict[str, str] = {"ip": "1" if self.geolocate else "0", "verbose": "1"}
        if endpoint != "events":
            query["strict"] = "1"
        if endpoint == "imports":
            headers["Authorization"] = self.authorize(query, records[0].auth)
        return Request("POST", f"{self.endpoints.url(endpoint)}?{urlencode(query)}", headers, body)

    def authorize(self, query: dict[str, str], auth: ApiSecret | None = None) -> str:
        """Return the `Authorization` header, and add what the query needs with it."""
        if self.credentials is not None:
            query["project_id"] = self.credentials.project_id
            return self.credentials.authorization()
        if auth is not None:
            if auth.api_key:
                query["api_key"] = auth.api_key
            return auth.authorization()
        return token_authorization(self.token or "")


def takes_gzip(endpoint: Endpoint) -> bool:
    """Tell whether an endpoint's bodies may be compressed."""
    return endpoint in ("events", "imports")


@dataclass(frozen=True, slots=True)
class Transport:
    """Say how to reach the network: a client of your own, or a proxy and a TLS context.

    `client` is used as it is and never closed; without one, httpx's environment variables
    (`HTTPS_PROXY`, `NO_PROXY`, `SSL_CERT_FILE`) are heeded.
    """

    client: httpx.AsyncClient | None = None
    proxy: str | None = None
    ssl_context: ssl.SSLContext | None = None
    connections: int = 32


@cache
def _default_tls() -> ssl.SSLContext:
    return httpx.create_ssl_context()


class Wire:
    """Send requests on the event loop it was first used on."""

    def __init__(self, transport: Transport, *, deadline: float, answer_bytes: int) -> None:
        self._deadline = deadline
        self._answer_bytes = answer_bytes
        self._own = transport.client is None
        self._client = transport.client or httpx.AsyncClient(
            proxy=transport.proxy,
            verify=transport.ssl_context or _default_tls(),
            timeout=None,  # noqa: S113
            limits=httpx.Limits(max_connections=transport.connections, keepalive_expiry=KEEP_ALIVE),
        )

    async def aclose(self) -> None:
        """Close the connections, unless the client is the caller's own."""
        if self._own:
            await self._client.aclose()

    async def send(
        self, request: Request, *, deadline: float | None = None, watch: bool = False
    ) -> Answer | Failure:
        """Make one attempt. With `watch`, find out whether a failed request had left at all."""
        sent = not watch
        extensions: dict[str, Any] = {}
        if watch:

            async def trace(event: str, _info: object) -> None:
                nonlocal sent
                sent = sent or event.endswith("send_request_headers.started")

            extensions["trace"] = trace
        error: TransportError
        with anyio.move_on_after(self._deadline if deadline is None else deadline) as scope:
            try:
                outgoing = self._client.build_request(
                    request.method, request.url, headers=dict(request.headers),
                    content=request.content, extensions=extensions, timeout=None,
                )  # fmt: skip
                response = await self._client.send(
                    outgoing, stream=True, auth=None, follow_redirects=False
                )
                try:
                    body = await self._capped(response.aiter_raw())
                finally:
                    with anyio.CancelScope(shield=True):
                        await response.aclose()
                return Answer(response.status_code, response.headers, body)
            except httpx.HTTPError as failure:
                not_sent = isinstance(failure, NOT_SENT) or not sent
                error = TransportError(f"{describe(failure)} ({request.url.partition('?')[0]})")
                error.__cause__ = failure
                return Failure(error, not not_sent, _is_certificate(failure))
        assert scope.cancelled_caught
        seconds = self._deadline if deadline is None else deadline
        error = AttemptTimeoutError(f"no complete answer within {seconds:g} s")
        return Failure(error, sent)

    async def _capped(self, chunks: AsyncIterator[bytes]) -> bytes:
        body = bytearray()
        async for chunk in chunks:
            body += chunk
            if len(body) > self._answer_bytes:
                break
        return bytes(body[: self._answer_bytes])


KEEP_ALIVE = 4.0  # seconds; below the idle limit of common servers, so that none closes first


async def compressed_off_loop(route: Route, records: list[Record], *, compress: bool) -> Request:
    """Build a request; a large body is compressed in a thread, so the loop is never held up."""
    size = sum([len(record.body) for record in records])
    if not compress or size < IN_A_THREAD:
        return route.request(records, compress=compress)
    return await anyio.to_thread.run_sync(lambda: route.request(records, compress=True))


def describe(failure: Exception) -> str:
    """Name a transport failure in words that hold neither URL nor payload."""
    names = {
        "ConnectError": "cannot connect",
        "ConnectTimeout": "cannot connect in time",
        "PoolTimeout": "no free connection",
        "ReadTimeout": "no answer in time",
        "WriteTimeout": "could not send in time",
        "ReadError": "the connection broke before the answer came",
        "WriteError": "the connection broke while sending",
        "RemoteProtocolError": "the server closed the connection or did not speak HTTP",
        "ProxyError": "the proxy refused",
    }
    text = names.get(type(failure).__name__, type(failure).__name__)
    return f"TLS certificate not accepted: {text}" if _is_certificate(failure) else text


def _is_certificate(failure: BaseException) -> bool:
    seen: BaseException | None = failure
    for _ in range(8):
        if seen is None:
            return False
        if isinstance(seen, ssl.SSLCertVerificationError):
            return True
        text = str(seen)
        if "CERTIFICATE_VERIFY_FAILED" in text:
            return True
        seen = seen.__cause__ or seen.__context__
    return False


# ---- the last drain -----------------------------------------------------------------------------


class _UntilDeadline(httpcore.NetworkStream):
    """A connection whose every wait ends at one moment, however slowly bytes drip in."""

    def __init__(self, stream: httpcore.NetworkStream, end: float) -> None:
        self._stream = stream
        self._end = end

    def _left(self) -> float:
        left = self._end - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the deadline has passed")
        return left

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        return self._stream.read(max_bytes, self._left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        self._stream.write(buffer, self._left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        tls = self._stream.start_tls(ssl_context, server_hostname, self._left())
        return _UntilDeadline(tls, self._end)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Network(httpcore.SyncBackend):
    def __init__(self, end: float) -> None:
        self._end = end

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        left = max(0.01, self._end - time.monotonic())
        stream = super().connect_tcp(host, port, left, local_address, socket_options)
        return _UntilDeadline(stream, self._end)


class LastWords:
    """Send without an event loop and without threads, for the end of the process.

    At interpreter exit no loop can resolve a name and no thread can start, so this speaks plain
    blocking sockets, all of them under one deadline.
    """

    def __init__(self, transport: Transport, *, end: float, answer_bytes: int) -> None:
        self._answer_bytes = answer_bytes
        self._pool = httpcore.ConnectionPool(
            ssl_context=transport.ssl_context or _default_tls(),
            proxy=httpcore.Proxy(transport.proxy) if transport.proxy else None,
            network_backend=_Network(end),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()

    def send(self, request: Request) -> Answer | Failure:
        """Make one attempt within what is left of the deadline."""
        headers: dict[bytes | str, bytes | str] = {
            "Host": httpx.URL(request.url).netloc.decode("ascii"),
            "Content-Length": str(len(request.content)),
        }
        headers.update(request.headers.items())
        try:
            with self._pool.stream(
                request.method, request.url, headers=headers, content=request.content
            ) as response:
                body = bytearray()
                for chunk in response.iter_stream():
                    body += chunk
                    if len(body) > self._answer_bytes:
                        break
                found = {k.decode("latin-1").lower(): v.decode("latin-1")
                         for k, v in response.headers}  # fmt: skip
                return Answer(response.status, found, bytes(body[: self._answer_bytes]))
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as failure:
            return Failure(TransportError(describe(failure)), maybe_sent=False)
        except (
            httpcore.NetworkError,
            httpcore.TimeoutException,
            httpcore.ProtocolError,
        ) as failure:
            return Failure(TransportError(describe(failure)), maybe_sent=True)
