"""Send requests on an event loop, with httpx.

One attempt is one request under one deadline, from connecting to the last byte of the response:
httpx's own read timeout starts again with every byte that arrives. Redirects are not followed.
Responses are not decompressed, and are read up to a cap.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.request import getproxies

import anyio

from mixpanel._http.failures import (
    NOT_SENT,
    as_cause,
    describe,
    is_permanent,
    needs_attention,
)
from mixpanel._http.libraries import httpx
from mixpanel._http.response_pairing import (
    CLOSE_TIMEOUT,
    KEEP_ALIVE,
    CheckedNetworkBackend,
    retire_if_surplus,
)
from mixpanel._http.responses import (
    Response,
    TransportFailure,
)
from mixpanel._http.tls import (
    default_tls_context,
)
from mixpanel._runtime.redaction import strip_tracebacks
from mixpanel.credentials import Secret
from mixpanel.exceptions import ConfigurationError, RequestTimeoutError, TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mixpanel._http.proxies import (
        Proxy,
        TransportOptions,
    )
    from mixpanel._http.request import (
        Request,
    )

__all__ = ["AsyncTransport"]

# Each attempt has a deadline of its own, so httpx needs none. Callers send only when a connection
# is free; one that is still not free after 2 s was lost, and the pool is replaced.
POOL_TIMEOUT = {"pool": 2.0}
NO_TIMEOUT = httpx.Timeout(None, pool=2.0)
# Newer versions of anyio import a name when it is first used. Do it here, under the import lock.
for _name in dir(anyio):
    with suppress(ImportError):
        getattr(anyio, _name)
# glibc returns freed memory to the kernel at a threshold of twice the largest block that was freed.
# The body of a full batch and the buffer for its response are just above twice the body: each
# request would take a hundred page faults. One larger block, never touched, raises the threshold.
bytes(1024 * 1024)


class _SingleChunkBody(httpx.AsyncByteStream):
    """A request body; httpx's own is a generator, which a broken connection leaves open."""

    def __init__(self, content: bytes) -> None:
        self._content: bytes | None = content

    def __aiter__(self) -> _SingleChunkBody:
        return self

    async def __anext__(self) -> bytes:
        if self._content is None:
            raise StopAsyncIteration
        content, self._content = self._content, None
        return content


parse_url = lru_cache(maxsize=32)(httpx.URL)


def reveal_headers(headers: Mapping[str, str | Secret]) -> list[tuple[str, str]]:
    """Return header names and values, with those of `Secret`s in clear."""
    return [
        (name, value.reveal() if isinstance(value, Secret) else value)
        for name, value in headers.items()
    ]


class AsyncTransport:
    """Send requests on one event loop, the one that it was first used on."""

    def __init__(
        self, options: TransportOptions, *, deadline: float, max_response_bytes: int
    ) -> None:
        self._deadline = deadline
        self._max_response_bytes = max_response_bytes
        self._owns_client = options.client is None
        self.in_flight = 0
        self.is_exhausted = False  # no connection was free although fewer were in use
        self._direct_transport: httpx.AsyncHTTPTransport | None = None
        if options.client is not None:
            self._client = options.client
            return
        limits = httpx.Limits(max_connections=options.connections + 1, keepalive_expiry=KEEP_ALIVE)
        tls = options.ssl_context or default_tls_context()
        try:
            if options.proxy is not None or not getproxies():
                proxy = None if options.proxy is None else reveal_proxy_url(options.proxy)
                self._direct_transport = httpx.AsyncHTTPTransport(
                    verify=tls, limits=limits, proxy=proxy
                )
                # httpx has no public access to the network backend of its pool.
                pool: Any = getattr(self._direct_transport, "_pool", None)
                if proxy is None and hasattr(pool, "_network_backend"):
                    pool._network_backend = CheckedNetworkBackend(pool._network_backend)
                del proxy
            self._client = httpx.AsyncClient(
                verify=tls,
                transport=self._direct_transport,
                timeout=NO_TIMEOUT,
                limits=limits,
            )
        except (ValueError, ImportError, httpx.InvalidURL):
            # Raised outside of this block: the exception could hold the proxy's password, and must
            # not become the context of ours.
            is_invalid_proxy = True
        else:
            is_invalid_proxy = False
        if is_invalid_proxy:
            raise ConfigurationError("invalid proxy URL in HTTPS_PROXY, HTTP_PROXY or ALL_PROXY")

    async def aclose(self) -> None:
        """Close the connections, unless the client is the caller's own."""
        if self._owns_client:
            await self._client.aclose()

    async def send(
        self,
        request: Request,
        *,
        detect_sent: bool = False,
        on_sent: Callable[[], object] | None = None,
        end: float | None = None,
    ) -> Response | TransportFailure:
        """Make one attempt, until `end` on the loop's clock, by default the transport's deadline.

        With `detect_sent`, a failure states whether the request had been sent. `on_sent` is called
        when it is sent; with a client of the caller's before, since that may not report it.
        """
        trace = SendTrace(on_sent) if detect_sent or on_sent is not None else None
        if on_sent is not None and not self._owns_client:
            on_sent()
        extensions: dict[str, Any] = {} if trace is None else {"trace": trace}
        error: TransportError
        if not self._owns_client and self._client.is_closed:
            error = TransportError("the http_client is closed: pass one that is open")
            return TransportFailure(error, may_have_been_sent=False, permanent=True)
        outer = sys.exception()
        with anyio.CancelScope() as scope:
            scope.deadline = anyio.current_time() + self._deadline if end is None else end
            try:
                response = await self._open_response(request, extensions)
                try:
                    body = await self._read_capped(response)
                finally:
                    with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
                        await response.aclose()
                return Response(response.status_code, response.headers, body)
            except Exception as failure:  # libraries raise more than they document
                self.is_exhausted = self._owns_client and isinstance(failure, httpx.PoolTimeout)
                permanent = is_permanent(failure)
                may_have_been_sent = self._may_have_been_sent(trace, failure)
                error = TransportError(f"{describe(failure)} ({request.url.partition('?')[0]})")
                error.needs_attention = needs_attention(failure)
                error.__cause__ = as_cause(failure, outer, keep_callers=not self._owns_client)
                return TransportFailure(error, may_have_been_sent, permanent)
        assert scope.cancelled_caught
        error = RequestTimeoutError(f"no complete response within {self._deadline:g} s")
        return TransportFailure(error, self._may_have_been_sent(trace))

    def _may_have_been_sent(
        self, trace: SendTrace | None, failure: Exception | None = None
    ) -> bool:
        """Return True unless it is certain that no byte of the request was sent."""
        if self._owns_client:
            return not isinstance(failure, NOT_SENT) and (trace is None or trace.sent)
        # The caller's own transport may try several times, or report nothing.
        if trace is not None and trace.is_traced:
            return trace.sent
        return not isinstance(failure, NOT_SENT)

    async def _open_response(self, request: Request, extensions: dict[str, Any]) -> httpx.Response:
        outer = sys.exception()
        try:
            return await self._send_request(request, extensions)
        except BaseException as error:  # also cancellation
            strip_tracebacks(error, outer, keep_callers=not self._owns_client)
            raise

    async def _send_request(self, request: Request, extensions: dict[str, Any]) -> httpx.Response:
        headers, url = reveal_headers(request.headers), parse_url(request.url)
        if self._direct_transport is not None:
            # Without httpx's client: it merges headers, cookies and redirects, which takes a third
            # of a small request's time, and it logs URLs, which may hold a token.
            headers.append(("Host", url.netloc.decode("ascii")))
            headers.append(("Content-Length", str(len(request.content))))
            extensions["timeout"] = POOL_TIMEOUT
            httpx_request = httpx.Request(
                request.method, url, headers=headers, stream=_SingleChunkBody(request.content),
                extensions=extensions,
            )  # fmt: skip
            return await self._direct_transport.handle_async_request(httpx_request)
        httpx_request = self._client.build_request(
            request.method, url, headers=headers, content=request.content,
            extensions=extensions, timeout=NO_TIMEOUT if self._owns_client else None,
        )  # fmt: skip
        httpx_request.stream = _SingleChunkBody(request.content)
        return await self._client.send(
            httpx_request, stream=True, auth=None, follow_redirects=False
        )

    async def _read_capped(self, response: httpx.Response) -> bytes:
        if response.is_stream_consumed:  # by an event hook of the caller's client
            return response.content[: self._max_response_bytes]
        body = bytearray()
        # Not `aiter_raw`: it returns the connection to the pool before surplus data is looked for.
        async for chunk in raw_stream(response):
            body += chunk
            if len(body) > self._max_response_bytes:
                break
        else:
            retire_if_surplus(response.stream)
        return bytes(body[: self._max_response_bytes])


def raw_stream(response: httpx.Response) -> httpx.AsyncByteStream:
    """Return the stream of a response's undecoded bytes."""
    if not isinstance(response.stream, httpx.AsyncByteStream):
        raise httpx.StreamError("the http_client returned a response with a sync stream")
    return response.stream


class SendTrace:
    """A trace extension for httpcore that notes whether a request may have been sent."""

    def __init__(self, on_sent: Callable[[], object] | None = None) -> None:
        self.is_traced = self.sent = False
        self._on_sent = on_sent

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        self.is_traced = True
        if event.endswith("send_request_headers.started"):
            # CONNECT asks a proxy for a tunnel, and sends nothing of the request itself.
            self.sent = self.sent or getattr(info.get("request"), "method", b"") != b"CONNECT"
            if self.sent and self._on_sent is not None:
                self._on_sent()


def reveal_proxy_url(proxy: Proxy | str) -> str:
    """Return the URL of a proxy, password included."""
    return proxy if isinstance(proxy, str) else proxy.reveal()
