"""Send requests from the calling thread, without an event loop, with httpcore."""

from __future__ import annotations

import ipaddress
import socket
import sys
import threading
import time
from contextlib import suppress
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from mixpanel._http.async_transport import (
    parse_url,
    reveal_headers,
    reveal_proxy_url,
)
from mixpanel._http.failures import (
    as_cause,
    describe,
    is_permanent,
    needs_attention,
)
from mixpanel._http.libraries import httpcore, httpx
from mixpanel._http.proxies import (
    proxy_from_environment,
)
from mixpanel._http.response_pairing import (
    KEEP_ALIVE,
    UnsolicitedDataError,
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
from mixpanel.exceptions import ConfigurationError, RequestTimeoutError, TransportError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable

    from mixpanel._http.proxies import (
        Proxy,
        TransportOptions,
    )
    from mixpanel._http.request import (
        Request,
    )

__all__ = ["SyncTransport"]

MAX_TIMEOUT = 86_400.0  # seconds; sockets refuse timeouts of more than 24 days


class _Attempt:
    """An attempt: its end on the monotonic clock, and whether the request was sent.

    `request_start` is how the bytes of the request begin. A CONNECT to a proxy before it begins
    differently, and does not count as sent.
    """

    __slots__ = ("end", "request_start", "sent")

    def __init__(self, end: float, request_start: bytes) -> None:
        self.end = end
        self.request_start = request_start
        self.sent = False


# Of this thread or greenlet: a `threading.local` that was made before gevent patched it would be
# shared by all greenlets of a thread.
_attempt: ContextVar[_Attempt] = ContextVar("mixpanel_attempt")


class _DeadlineStream(httpcore.NetworkStream):
    """A connection on which every wait ends at the attempt's deadline, however slow the peer is.

    Writes are buffered until the first read, so that head and body leave in one packet.
    """

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream
        self._write_buffer = b""
        self._is_unused = True

    def _remaining(self) -> float:
        remaining = _attempt.get().end - time.monotonic()
        if remaining <= 0:
            raise httpcore.ReadTimeout("the deadline has passed")
        return remaining

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        buffered, self._write_buffer = self._write_buffer, b""
        if buffered:
            if self._is_unused and self._has_unread():
                raise UnsolicitedDataError("it would be read as the response")
            self._is_unused = False  # httpcore's pool checks idle connections
            attempt = _attempt.get()
            attempt.sent = attempt.sent or buffered.startswith(attempt.request_start)
            self._stream.write(buffered, self._remaining())
        return self._stream.read(max_bytes, self._remaining())

    def _has_unread(self) -> bool:
        tls = self._stream.get_extra_info("ssl_object")
        # Under TLS a readable socket may just hold the end of the handshake.
        return tls is None and bool(self._stream.get_extra_info("is_readable"))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        self._write_buffer += buffer

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        try:
            tls = self._stream.start_tls(ssl_context, server_hostname, self._remaining())
        except BaseException:  # the deadline may have passed before the handshake began
            self._stream.close()
            raise
        return _DeadlineStream(tls)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _DeadlineBackend(httpcore.SyncBackend):
    """Connect to one address after the other, within the attempt's deadline."""

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        end = _attempt.get().end
        addresses = _resolve(host, port, end)
        failure: Exception | None = None
        for tried, address in enumerate(addresses):
            # An unreachable address must leave time for those that come after it.
            share = (end - time.monotonic()) / (len(addresses) - tried)
            try:
                stream = super().connect_tcp(
                    address, port, max(0.01, share), local_address, socket_options
                )
                return _DeadlineStream(stream)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure or httpcore.ConnectError(f"{host} has no address")


def _resolve(host: str, port: int, end: float) -> list[str]:
    """Return the addresses of a host, waiting until `end` on the monotonic clock.

    The lookup runs in a thread, because `getaddrinfo` has no timeout. At interpreter exit no thread
    can start; there the lookup may take longer.
    """
    with suppress(ValueError):
        return [str(ipaddress.ip_address(host))]
    response_headers: list[str] = []
    failed: list[Exception] = []

    def resolve() -> None:
        try:
            for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                response_headers.append(str(address[0]))
        except (OSError, UnicodeError) as error:
            failed.append(error)

    thread = threading.Thread(target=resolve, name="mixpanel-resolve", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        resolve()
    else:
        thread.join(max(0.0, end - time.monotonic()))
        if thread.is_alive():
            raise httpcore.ConnectTimeout(f"looking up {host} took too long")
    if failed:
        raise httpcore.ConnectError(str(failed[0])) from failed[0]
    return response_headers


class _MaskedBytes(bytes):
    """Bytes with a masked repr: httpcore logs SOCKS passwords at DEBUG."""

    def __repr__(self) -> str:
        return "b'***'"


def _httpcore_proxy(proxy: Proxy | str | None) -> httpcore.Proxy | None:
    if proxy is None:
        return None
    parts = urlsplit(reveal_proxy_url(proxy))
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    auth = (
        (_MaskedBytes(user.encode()), _MaskedBytes(password.encode())) if user or password else None
    )
    return httpcore.Proxy(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", auth=auth)


@lru_cache(maxsize=32)
def _url_and_host(url: str) -> tuple[httpcore.URL, str]:
    """Return a URL as httpcore parses it, which takes a while, and the value of `Host`."""
    return httpcore.URL(url), parse_url(url).netloc.decode("ascii")


FAILURES = (
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
    OSError,
    httpx.InvalidURL,
    UnicodeError,
)


class SyncTransport:
    """Send requests from the calling thread; any number of threads may share one.

    At interpreter exit no event loop can resolve a name and no thread can start. And a sync caller
    that waits for its request anyway is twice as fast without a switch to a loop's thread.
    """

    def __init__(self, options: TransportOptions, *, max_response_bytes: int) -> None:
        self._max_response_bytes = max_response_bytes
        self._options = options
        self._pool_by_proxy: dict[Proxy | str | None, httpcore.ConnectionPool] = {}
        self._pool_by_url: dict[str, httpcore.ConnectionPool] = {}  # without the query

    def _pool(self, url: str) -> httpcore.ConnectionPool:
        known = self._pool_by_url.get(url)
        if known is not None:
            return known
        proxy = self._options.proxy or proxy_from_environment(url)
        pool = self._pool_by_proxy.get(proxy)
        if pool is None:
            new = httpcore.ConnectionPool(
                ssl_context=self._options.ssl_context or default_tls_context(),
                proxy=_httpcore_proxy(proxy),
                max_connections=self._options.connections,
                keepalive_expiry=KEEP_ALIVE,
                network_backend=_DeadlineBackend(),
            )
            pool = self._pool_by_proxy.setdefault(proxy, new)
        self._pool_by_url[url] = pool
        return pool

    @property
    def has_sent(self) -> bool:
        """Return True if any byte of this thread's last request may have been sent."""
        attempt = _attempt.get(None)
        return attempt is not None and attempt.sent

    def close(self) -> None:
        """Close the connections."""
        for pool in self._pool_by_proxy.values():
            pool.close()

    def send(self, request: Request, *, end: float) -> Response | TransportFailure:
        """Make one attempt until `end` on the monotonic clock."""
        end = min(end, time.monotonic() + MAX_TIMEOUT)
        attempt = _Attempt(end, f"{request.method} ".encode())
        _attempt.set(attempt)
        outer = sys.exception()
        try:
            pool = self._pool(request.url.partition("?")[0])
        except ConfigurationError as problem:
            return TransportFailure(
                TransportError(str(problem)), may_have_been_sent=False, permanent=True
            )
        try:
            return self._send(pool, request, end)
        except FAILURES as failure:
            error_type = TransportError
            if isinstance(failure, httpcore.TimeoutException) and time.monotonic() >= end:
                error_type = RequestTimeoutError
            permanent = is_permanent(failure)
            error = error_type(f"{describe(failure)} ({request.url.partition('?')[0]})")
            error.needs_attention = needs_attention(failure)
            error.__cause__ = as_cause(failure, outer)
            return TransportFailure(error, attempt.sent, permanent)
        except BaseException as error:  # also Ctrl-C
            strip_tracebacks(error, outer)
            raise

    def _send(self, pool: httpcore.ConnectionPool, request: Request, end: float) -> Response:
        url, host = _url_and_host(request.url)
        headers: list[tuple[bytes | str, bytes | str]] = [
            ("Host", host),
            ("Content-Length", str(len(request.content))),
            *reveal_headers(request.headers),
        ]
        pool_wait = {"timeout": {"pool": max(0.0, end - time.monotonic())}}
        with pool.stream(
            request.method, url, headers=headers, content=request.content,
            extensions=pool_wait,
        ) as response:  # fmt: skip
            body = bytearray()
            for chunk in response.iter_stream():
                body += chunk
                if len(body) > self._max_response_bytes:
                    break
            else:
                retire_if_surplus(response.stream)
            response_headers = {
                k.decode("latin-1").lower(): v.decode("latin-1") for k, v in response.headers
            }
            return Response(
                response.status, response_headers, bytes(body[: self._max_response_bytes])
            )
