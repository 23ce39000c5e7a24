"""Put requests on the wire: the only room that knows httpx.

One attempt is one request under one deadline, from connecting to the last byte of the answer,
because httpx's own timeouts start anew with every byte that drips in. Redirects are not followed,
answers are not decompressed and are read up to a cap.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.request import getproxies

import anyio
import httpx

from mixpanel._http.failures import (
    NOT_SENT,
    as_cause,
    describe,
    is_permanent,
)
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

# The deadline of the attempt stands above these. A free connection is there at once, unless lost.
POOL_TIMEOUT = {"pool": 2.0}
NO_TIMEOUT = httpx.Timeout(None, pool=2.0)
# Newer versions of anyio import a name when it is first used: here that is guarded against forks.
for _name in dir(anyio):
    with suppress(ImportError):
        getattr(anyio, _name)


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


parse_url = lru_cache(maxsize=32)(httpx.URL)


def reveal_headers(headers: Mapping[str, str | Secret]) -> list[tuple[str, str]]:
    return [
        (name, value.reveal() if isinstance(value, Secret) else value)
        for name, value in headers.items()
    ]


class AsyncTransport:
    """Send requests on the event loop it was first used on."""

    def __init__(
        self, transport: TransportOptions, *, deadline: float, max_response_bytes: int
    ) -> None:
        self._deadline = deadline
        self._answer_bytes = max_response_bytes
        self._own = transport.client is None
        self.in_flight = 0
        self.is_exhausted = False  # no connection came free, though fewer were in use
        self._direct: httpx.AsyncHTTPTransport | None = None
        if transport.client is not None:
            self._client = transport.client
            return
        limits = httpx.Limits(
            max_connections=transport.connections + 1, keepalive_expiry=KEEP_ALIVE
        )
        tls = transport.ssl_context or default_tls_context()
        try:
            if transport.proxy is not None or not getproxies():
                proxy = None if transport.proxy is None else reveal_proxy_url(transport.proxy)
                self._direct = httpx.AsyncHTTPTransport(verify=tls, limits=limits, proxy=proxy)
                pool: Any = getattr(self._direct, "_pool", None)  # httpx offers no other way in
                if proxy is None and hasattr(pool, "_network_backend"):
                    pool._network_backend = CheckedNetworkBackend(pool._network_backend)
                del proxy
            self._client = httpx.AsyncClient(
                verify=tls,
                transport=self._direct,
                timeout=NO_TIMEOUT,
                limits=limits,
            )
        except (ValueError, ImportError, httpx.InvalidURL):
            # Not while the cause is handled: it would be the context, and may hold the password.
            unusable = True
        else:
            unusable = False
        if unusable:
            raise ConfigurationError(
                "the proxy of HTTPS_PROXY, HTTP_PROXY or ALL_PROXY is none that can be used"
            )

    async def aclose(self) -> None:
        """Close the connections, unless the client is the caller's own."""
        if self._own:
            await self._client.aclose()

    async def send(
        self,
        request: Request,
        *,
        watch: bool = False,
        on_sent: Callable[[], object] | None = None,
        end: float | None = None,
    ) -> Response | TransportFailure:
        """Make one attempt, until `end` on the loop's clock or for the usual time.

        With `watch`, find out whether a failed request had left at all. `on_sent` is called when
        it leaves; with a client of the caller's at once, as that may not say when.
        """
        seen = SendTrace(on_sent) if watch or on_sent is not None else None
        if on_sent is not None and not self._own:
            on_sent()
        extensions: dict[str, Any] = {} if seen is None else {"trace": seen}
        error: TransportError
        if not self._own and self._client.is_closed:
            error = TransportError("the http_client is closed: give one that is open")
            return TransportFailure(error, may_have_been_sent=False, permanent=True)
        outer = sys.exception()
        with anyio.CancelScope() as scope:
            scope.deadline = anyio.current_time() + self._deadline if end is None else end
            try:
                response = await self._answer(request, extensions)
                try:
                    body = await self._capped(response)
                finally:
                    with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
                        await response.aclose()
                return Response(response.status_code, response.headers, body)
            except Exception as failure:  # libraries raise more than they document
                self.is_exhausted = self._own and isinstance(failure, httpx.PoolTimeout)
                permanent = is_permanent(failure)
                may_have_been_sent = self._may_be_sent(seen, failure)
                error = TransportError(f"{describe(failure)} ({request.url.partition('?')[0]})")
                error.__cause__ = as_cause(failure, outer, keep_callers=not self._own)
                return TransportFailure(error, may_have_been_sent, permanent)
        assert scope.cancelled_caught
        error = RequestTimeoutError(f"no complete answer within {self._deadline:g} s")
        return TransportFailure(error, self._may_be_sent(seen))

    def _may_be_sent(self, seen: SendTrace | None, failure: Exception | None = None) -> bool:
        """Return True unless not a byte of a request can have left."""
        if self._own:
            return not isinstance(failure, NOT_SENT) and (seen is None or seen.sent)
        # A caller's transport may try several times, or not say what it does.
        if seen is not None and seen.is_traced:
            return seen.sent
        return not isinstance(failure, NOT_SENT)

    async def _answer(self, request: Request, extensions: dict[str, Any]) -> httpx.Response:
        outer = sys.exception()
        try:
            return await self._sent(request, extensions)
        except BaseException as error:  # a cancellation comes this way, too
            strip_tracebacks(error, outer, keep_callers=not self._own)
            raise

    async def _sent(self, request: Request, extensions: dict[str, Any]) -> httpx.Response:
        headers, url = reveal_headers(request.headers), parse_url(request.url)
        if self._direct is not None:
            # Past httpx's client: merging headers, cookies and redirects that we have none of
            # takes a third of a small request's time, and it logs URLs, which may hold a token.
            headers.append(("Host", url.netloc.decode("ascii")))
            headers.append(("Content-Length", str(len(request.content))))
            extensions["timeout"] = POOL_TIMEOUT
            outgoing = httpx.Request(
                request.method, url, headers=headers, stream=_Body(request.content),
                extensions=extensions,
            )  # fmt: skip
            return await self._direct.handle_async_request(outgoing)
        outgoing = self._client.build_request(
            request.method, url, headers=headers, content=request.content,
            extensions=extensions, timeout=NO_TIMEOUT if self._own else None,
        )  # fmt: skip
        outgoing.stream = _Body(request.content)
        return await self._client.send(outgoing, stream=True, auth=None, follow_redirects=False)

    async def _capped(self, response: httpx.Response) -> bytes:
        if response.is_stream_consumed:  # by a hook of the caller's client
            return response.content[: self._answer_bytes]
        body = bytearray()
        # Not `aiter_raw`: it hands the connection back before its surplus was looked for.
        async for chunk in raw_stream(response):
            body += chunk
            if len(body) > self._answer_bytes:
                break
        else:
            retire_if_surplus(response.stream)
        return bytes(body[: self._answer_bytes])


def raw_stream(response: httpx.Response) -> httpx.AsyncByteStream:
    if not isinstance(response.stream, httpx.AsyncByteStream):
        raise httpx.StreamError("the http_client answers with a stream that is not async")
    return response.stream


class SendTrace:
    """Follow what becomes of one request: whether any of its bytes may have left."""

    def __init__(self, on_sent: Callable[[], object] | None = None) -> None:
        self.is_traced = self.sent = False
        self._on_sent = on_sent

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        self.is_traced = True
        if event.endswith("send_request_headers.started"):
            # Asking a proxy for a tunnel sends nothing of the request itself.
            self.sent = self.sent or getattr(info.get("request"), "method", b"") != b"CONNECT"
            if self.sent and self._on_sent is not None:
                self._on_sent()


# ---- without a loop -----------------------------------------------------------------------------


def reveal_proxy_url(proxy: Proxy | str) -> str:
    return proxy if isinstance(proxy, str) else proxy.reveal()


# ---- long answers -------------------------------------------------------------------------------
