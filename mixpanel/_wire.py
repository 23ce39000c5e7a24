"""Put requests on the wire: the only room that knows httpx.

One attempt is one request under one deadline, from connecting to the last byte of the answer,
because httpx's own timeouts start anew with every byte that drips in. Redirects are not followed,
answers are not decompressed and are read up to a cap.
"""

from __future__ import annotations

import ssl
import threading
import time
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any
from urllib.request import getproxies

import anyio
import httpcore
import httpx

from mixpanel._exchange import Answer, Failure
from mixpanel.exceptions import AttemptTimeoutError, TransportError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from mixpanel._route import Request, Transport

__all__ = ["BlockingWire", "Wire"]

NOT_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
)


@cache
def _default_tls() -> ssl.SSLContext:
    return httpx.create_ssl_context()


class _Body(httpx.AsyncByteStream):
    """A body in one piece; httpx's own is a generator, which a broken connection leaves open."""

    def __init__(self, content: bytes) -> None:
        self._content: bytes | None = content

    def __aiter__(self) -> _Body:
        return self

    async def __anext__(self) -> bytes:
        if self._content is None:
            raise StopAsyncIteration
        content, self._content = self._content, None
        return content


_parsed = lru_cache(maxsize=32)(httpx.URL)


class Wire:
    """Send requests on the event loop it was first used on."""

    def __init__(self, transport: Transport, *, deadline: float, answer_bytes: int) -> None:
        self._deadline = deadline
        self._answer_bytes = answer_bytes
        self._own = transport.client is None
        self._direct: httpx.AsyncHTTPTransport | None = None
        if transport.client is not None:
            self._client = transport.client
            return
        limits = httpx.Limits(max_connections=transport.connections, keepalive_expiry=KEEP_ALIVE)
        tls = transport.ssl_context or _default_tls()
        if transport.proxy is None and not getproxies():
            self._direct = httpx.AsyncHTTPTransport(verify=tls, limits=limits)
        self._client = httpx.AsyncClient(
            proxy=transport.proxy,
            verify=tls,
            transport=self._direct,
            timeout=None,  # noqa: S113 - the deadline of the attempt stands above it
            limits=limits,
        )

    async def aclose(self) -> None:
        """Close the connections, unless the client is the caller's own."""
        if self._own:
            await self._client.aclose()

    async def send(self, request: Request, *, watch: bool = False) -> Answer | Failure:
        """Make one attempt. With `watch`, find out whether a failed request had left at all."""
        sent = not watch
        extensions: dict[str, Any] = {}
        if watch:

            async def trace(event: str, _info: object) -> None:
                nonlocal sent
                sent = sent or event.endswith("send_request_headers.started")

            extensions["trace"] = trace
        error: TransportError
        with anyio.move_on_after(self._deadline) as scope:
            try:
                response = await self._answer(request, extensions)
                try:
                    body = await self._capped(response.aiter_raw())
                finally:
                    with anyio.move_on_after(CLOSING, shield=True):
                        await response.aclose()
                return Answer(response.status_code, response.headers, body)
            except httpx.HTTPError as failure:
                not_sent = isinstance(failure, NOT_SENT) or not sent
                error = TransportError(f"{describe(failure)} ({request.url.partition('?')[0]})")
                error.__cause__ = failure
                return Failure(error, not not_sent, _is_certificate(failure))
        assert scope.cancelled_caught
        error = AttemptTimeoutError(f"no complete answer within {self._deadline:g} s")
        return Failure(error, sent)

    async def _answer(self, request: Request, extensions: dict[str, Any]) -> httpx.Response:
        headers, url = dict(request.headers), _parsed(request.url)
        if self._direct is not None:
            # Past httpx's client: merging headers, cookies and redirects that we have none of
            # takes a third of a small request's time.
            headers["Host"] = url.netloc.decode("ascii")
            headers["Content-Length"] = str(len(request.content))
            outgoing = httpx.Request(
                request.method, url, headers=headers, stream=_Body(request.content),
                extensions=extensions,
            )  # fmt: skip
            return await self._direct.handle_async_request(outgoing)
        outgoing = self._client.build_request(
            request.method, url, headers=headers, content=request.content,
            extensions=extensions, timeout=None,
        )  # fmt: skip
        outgoing.stream = _Body(request.content)
        return await self._client.send(outgoing, stream=True, auth=None, follow_redirects=False)

    async def _capped(self, chunks: AsyncIterator[bytes]) -> bytes:
        body = bytearray()
        async for chunk in chunks:
            body += chunk
            if len(body) > self._answer_bytes:
                break
        return bytes(body[: self._answer_bytes])


CLOSING = 0.1  # seconds that letting go of an answer may take
KEEP_ALIVE = 4.0  # seconds; below the idle limit of common servers, so that none closes first


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


# ---- without a loop -----------------------------------------------------------------------------


class _Until(threading.local):
    """When this thread's attempt ends, on the monotonic clock, and whether its request left."""

    end = 0.0
    sent = False


class _UntilDeadline(httpcore.NetworkStream):
    """A connection whose every wait ends at one moment, however slowly bytes drip in."""

    def __init__(self, stream: httpcore.NetworkStream, until: _Until) -> None:
        self._stream = stream
        self._until = until
        self._held = b""

    def _left(self) -> float:
        left = self._until.end - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the deadline has passed")
        return left

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        held, self._held = self._held, b""
        if held:
            self._until.sent = True
            self._stream.write(held, self._left())
        return self._stream.read(max_bytes, self._left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        self._held += buffer  # head and body leave together, before the first read

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        tls = self._stream.start_tls(ssl_context, server_hostname, self._left())
        return _UntilDeadline(tls, self._until)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Network(httpcore.SyncBackend):
    def __init__(self, until: _Until) -> None:
        self._until = until

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        left = max(0.01, self._until.end - time.monotonic())
        stream = super().connect_tcp(host, port, left, local_address, socket_options)
        return _UntilDeadline(stream, self._until)


BLOCKING_FAILURES = (
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
)


class BlockingWire:
    """Send from the calling thread, without an event loop: for sync callers, and at the end.

    At interpreter exit no loop can resolve a name and no thread can start; and a sync caller that
    waits for its request anyway is served twice as fast without a trip to another thread. Any
    number of threads may share one. Resolving a name is the one wait that no deadline bounds.
    """

    def __init__(self, transport: Transport, *, answer_bytes: int) -> None:
        self._answer_bytes = answer_bytes
        self._until = _Until()
        self._pool = httpcore.ConnectionPool(
            ssl_context=transport.ssl_context or _default_tls(),
            proxy=httpcore.Proxy(transport.proxy) if transport.proxy else None,
            max_connections=transport.connections,
            keepalive_expiry=KEEP_ALIVE,
            network_backend=_Network(self._until),
        )

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    def send(self, request: Request, *, end: float) -> Answer | Failure:
        """Make one attempt until `end` on the monotonic clock."""
        self._until.end, self._until.sent = end, False
        headers: dict[bytes | str, bytes | str] = {
            "Host": _parsed(request.url).netloc.decode("ascii"),
            "Content-Length": str(len(request.content)),
        }
        headers.update(request.headers.items())
        pool_wait = {"timeout": {"pool": max(0.0, end - time.monotonic())}}
        try:
            with self._pool.stream(
                request.method, request.url, headers=headers, content=request.content,
                extensions=pool_wait,
            ) as response:  # fmt: skip
                body = bytearray()
                for chunk in response.iter_stream():
                    body += chunk
                    if len(body) > self._answer_bytes:
                        break
                found = {
                    k.decode("latin-1").lower(): v.decode("latin-1") for k, v in response.headers
                }
                return Answer(response.status, found, bytes(body[: self._answer_bytes]))
        except BLOCKING_FAILURES as failure:
            kind = TransportError
            if isinstance(failure, httpcore.TimeoutException) and time.monotonic() >= end:
                kind = AttemptTimeoutError
            error = kind(f"{describe(failure)} ({request.url.partition('?')[0]})")
            error.__cause__ = failure
            return Failure(error, self._until.sent, _is_certificate(failure))
