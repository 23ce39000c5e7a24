"""Send from the calling thread, without an event loop: for sync callers, and at exit."""

from __future__ import annotations

import ipaddress
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import httpcore
import httpx

from mixpanel._http.async_transport import (
    parse_url,
    reveal_headers,
    reveal_proxy_url,
)
from mixpanel._http.failures import (
    as_cause,
    describe,
    is_permanent,
)
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

LONGEST = 86_400.0  # seconds; a socket takes no timeout of more than 24 days


class _Until(threading.local):
    """When this thread's attempt ends, on the monotonic clock, and whether its request left.

    `begin` is how the request begins, unlike what a proxy is asked before it.
    """

    end = 0.0
    begin = b""
    sent = False


class _UntilDeadline(httpcore.NetworkStream):
    """A connection whose every wait ends at one moment, however slowly bytes drip in."""

    def __init__(self, stream: httpcore.NetworkStream, until: _Until) -> None:
        self._stream = stream
        self._until = until
        self._held = b""
        self._fresh = True

    def _left(self) -> float:
        left = self._until.end - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the deadline has passed")
        return left

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        held, self._held = self._held, b""
        if held:
            if self._fresh and self._has_unread():
                raise UnsolicitedDataError("it would count as the answer")
            self._fresh = False  # the pool looks after idle connections
            self._until.sent = self._until.sent or held.startswith(self._until.begin)
            self._stream.write(held, self._left())
        return self._stream.read(max_bytes, self._left())

    def _has_unread(self) -> bool:
        tls = self._stream.get_extra_info("ssl_object")
        # Under TLS the socket is readable with what belongs to the handshake.
        return tls is None and bool(self._stream.get_extra_info("is_readable"))

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
        addresses = _resolved(host, port, self._until.end)
        failure: Exception | None = None
        for tried, address in enumerate(addresses):
            # A dead address must not use up the time of the living one behind it.
            share = (self._until.end - time.monotonic()) / (len(addresses) - tried)
            try:
                stream = super().connect_tcp(
                    address, port, max(0.01, share), local_address, socket_options
                )
                return _UntilDeadline(stream, self._until)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure or httpcore.ConnectError(f"{host} has no address")


def _resolved(host: str, port: int, end: float) -> list[str]:
    """Return the addresses of a host, waiting until `end` on the monotonic clock.

    At interpreter exit no thread can start; there, looking up a name is not bounded.
    """
    with suppress(ValueError):
        return [str(ipaddress.ip_address(host))]
    found: list[str] = []
    failed: list[Exception] = []

    def resolve() -> None:
        try:
            for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                found.append(str(address[0]))
        except (OSError, UnicodeError) as error:
            failed.append(error)

    resolving = threading.Thread(target=resolve, name="mixpanel-resolve", daemon=True)
    try:
        resolving.start()
    except RuntimeError:
        resolve()
    else:
        resolving.join(max(0.0, end - time.monotonic()))
        if resolving.is_alive():
            raise httpcore.ConnectTimeout(f"looking up {host} took too long")
    if failed:
        raise httpcore.ConnectError(str(failed[0])) from failed[0]
    return found


class _Masked(bytes):
    """Bytes that a log of httpcore does not show: at DEBUG it shows what a SOCKS proxy is sent."""

    def __repr__(self) -> str:
        return "b'***'"


def _proxy(proxy: Proxy | str | None) -> httpcore.Proxy | None:
    if proxy is None:
        return None
    parts = urlsplit(reveal_proxy_url(proxy))
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    auth = (_Masked(user.encode()), _Masked(password.encode())) if user or password else None
    return httpcore.Proxy(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", auth=auth)


BLOCKING_FAILURES = (
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
    """Send from the calling thread, without an event loop: for sync callers, and at the end.

    At interpreter exit no loop can resolve a name and no thread can start; and a sync caller that
    waits for its request anyway is served twice as fast without a trip to another thread. Any
    number of threads may share one.
    """

    def __init__(self, transport: TransportOptions, *, max_response_bytes: int) -> None:
        self._answer_bytes = max_response_bytes
        self._until = _Until()
        self._transport = transport
        self._pools: dict[Proxy | str | None, httpcore.ConnectionPool] = {}  # by proxy
        self._chosen: dict[str, httpcore.ConnectionPool] = {}  # by URL without its query

    def _pool(self, url: str) -> httpcore.ConnectionPool:
        chosen = self._chosen.get(url)
        if chosen is not None:
            return chosen
        proxy = self._transport.proxy or proxy_from_environment(url)
        pool = self._pools.get(proxy)
        if pool is None:
            new = httpcore.ConnectionPool(
                ssl_context=self._transport.ssl_context or default_tls_context(),
                proxy=_proxy(proxy),
                max_connections=self._transport.connections,
                keepalive_expiry=KEEP_ALIVE,
                network_backend=_Network(self._until),
            )
            pool = self._pools.setdefault(proxy, new)
        self._chosen[url] = pool
        return pool

    @property
    def has_sent(self) -> bool:
        """Return True if any byte of this thread's last request may have left."""
        return self._until.sent

    def close(self) -> None:
        """Close the connections."""
        for pool in self._pools.values():
            pool.close()

    def send(self, request: Request, *, end: float) -> Response | TransportFailure:
        """Make one attempt until `end` on the monotonic clock."""
        end = min(end, time.monotonic() + LONGEST)
        self._until.end, self._until.sent = end, False
        self._until.begin = f"{request.method} ".encode()
        outer = sys.exception()
        try:
            pool = self._pool(request.url.partition("?")[0])
        except ConfigurationError as unusable:
            return TransportFailure(
                TransportError(str(unusable)), may_have_been_sent=False, permanent=True
            )
        try:
            return self._answer(pool, request, end)
        except BLOCKING_FAILURES as failure:
            kind = TransportError
            if isinstance(failure, httpcore.TimeoutException) and time.monotonic() >= end:
                kind = RequestTimeoutError
            permanent = is_permanent(failure)
            error = kind(f"{describe(failure)} ({request.url.partition('?')[0]})")
            error.__cause__ = as_cause(failure, outer)
            return TransportFailure(error, self._until.sent, permanent)
        except BaseException as error:  # Ctrl-C comes this way, too
            strip_tracebacks(error, outer)
            raise

    def _answer(self, pool: httpcore.ConnectionPool, request: Request, end: float) -> Response:
        headers: list[tuple[bytes | str, bytes | str]] = [
            ("Host", parse_url(request.url).netloc.decode("ascii")),
            ("Content-Length", str(len(request.content))),
            *reveal_headers(request.headers),
        ]
        pool_wait = {"timeout": {"pool": max(0.0, end - time.monotonic())}}
        with pool.stream(
            request.method, request.url, headers=headers, content=request.content,
            extensions=pool_wait,
        ) as response:  # fmt: skip
            body = bytearray()
            for chunk in response.iter_stream():
                body += chunk
                if len(body) > self._answer_bytes:
                    break
            else:
                retire_if_surplus(response.stream)
            found = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in response.headers}
            return Response(response.status, found, bytes(body[: self._answer_bytes]))
