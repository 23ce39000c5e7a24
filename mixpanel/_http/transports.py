"""Put requests on the wire: the only room that knows httpx.

One attempt is one request under one deadline, from connecting to the last byte of the answer,
because httpx's own timeouts start anew with every byte that drips in. Redirects are not followed,
answers are not decompressed and are read up to a cap.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 - TLS loads it with the first name, on a loop
import ipaddress
import socket
import ssl
import sys
import threading
import time
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies

import anyio
import httpcore
import httpx

from mixpanel._delivery.retry import Answer, Failure
from mixpanel._http.request import environment_proxy
from mixpanel._runtime.import_lock import loading
from mixpanel._runtime.redaction import without_frames
from mixpanel.credentials import Secret
from mixpanel.exceptions import AttemptTimeoutError, ConfigurationError, TransportError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

    from mixpanel._http.request import Proxy, Request, Transport

__all__ = ["BlockingWire", "StreamingWire", "Wire"]

NOT_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
    httpx.InvalidURL,
    UnicodeError,
)
# The deadline of the attempt stands above these. A free connection is there at once, unless lost.
POOL_TIMEOUT = {"pool": 2.0}
NO_TIMEOUT = httpx.Timeout(None, pool=2.0)
# Newer versions of anyio import a name when it is first used: here that is guarded against forks.
for _name in dir(anyio):
    with suppress(ImportError):
        getattr(anyio, _name)


@cache
def _default_tls() -> ssl.SSLContext:
    # OpenSSL has locks of its own: a child that is forked while they are held hangs at its first
    # use, so a fork waits for this as it does for imports.
    with loading:
        return _made_tls()


def _made_tls() -> ssl.SSLContext:
    try:
        return httpx.create_ssl_context()
    except OSError as error:  # of `ssl` too
        raise ConfigurationError(
            f"cannot load the trusted certificates ({error.strerror or type(error).__name__}): "
            "check SSL_CERT_FILE and SSL_CERT_DIR, or pass ssl_context="
        ) from error


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


def _revealed(headers: Mapping[str, str | Secret]) -> list[tuple[str, str]]:
    return [
        (name, value.reveal() if isinstance(value, Secret) else value)
        for name, value in headers.items()
    ]


class Wire:
    """Send requests on the event loop it was first used on."""

    def __init__(self, transport: Transport, *, deadline: float, answer_bytes: int) -> None:
        self._deadline = deadline
        self._answer_bytes = answer_bytes
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
        tls = transport.ssl_context or _default_tls()
        try:
            if transport.proxy is not None or not getproxies():
                proxy = None if transport.proxy is None else _proxy_url(transport.proxy)
                self._direct = httpx.AsyncHTTPTransport(verify=tls, limits=limits, proxy=proxy)
                pool: Any = getattr(self._direct, "_pool", None)  # httpx offers no other way in
                if proxy is None and hasattr(pool, "_network_backend"):
                    pool._network_backend = _WaryNetwork(pool._network_backend)
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
    ) -> Answer | Failure:
        """Make one attempt, until `end` on the loop's clock or for the usual time.

        With `watch`, find out whether a failed request had left at all. `on_sent` is called when
        it leaves; with a client of the caller's at once, as that may not say when.
        """
        seen = _Watch(on_sent) if watch or on_sent is not None else None
        if on_sent is not None and not self._own:
            on_sent()
        extensions: dict[str, Any] = {} if seen is None else {"trace": seen}
        error: TransportError
        if not self._own and self._client.is_closed:
            error = TransportError("the http_client is closed: give one that is open")
            return Failure(error, maybe_sent=False, hopeless=True)
        outer = sys.exception()
        with anyio.CancelScope() as scope:
            scope.deadline = anyio.current_time() + self._deadline if end is None else end
            try:
                response = await self._answer(request, extensions)
                try:
                    body = await self._capped(response)
                finally:
                    with anyio.move_on_after(CLOSING, shield=True):
                        await response.aclose()
                return Answer(response.status_code, response.headers, body)
            except Exception as failure:  # libraries raise more than they document
                self.is_exhausted = self._own and isinstance(failure, httpx.PoolTimeout)
                hopeless = _is_hopeless(failure)
                maybe_sent = self._may_be_sent(seen, failure)
                error = TransportError(f"{describe(failure)} ({request.url.partition('?')[0]})")
                error.__cause__ = _cause(failure, outer, keep_callers=not self._own)
                return Failure(error, maybe_sent, hopeless)
        assert scope.cancelled_caught
        error = AttemptTimeoutError(f"no complete answer within {self._deadline:g} s")
        return Failure(error, self._may_be_sent(seen))

    def _may_be_sent(self, seen: _Watch | None, failure: Exception | None = None) -> bool:
        """Return True unless not a byte of a request can have left."""
        if self._own:
            return not isinstance(failure, NOT_SENT) and (seen is None or seen.sent)
        # A caller's transport may try several times, or not say what it does.
        if seen is not None and seen.heard:
            return seen.sent
        return not isinstance(failure, NOT_SENT)

    async def _answer(self, request: Request, extensions: dict[str, Any]) -> httpx.Response:
        outer = sys.exception()
        try:
            return await self._sent(request, extensions)
        except BaseException as error:  # a cancellation comes this way, too
            without_frames(error, outer, keep_callers=not self._own)
            raise

    async def _sent(self, request: Request, extensions: dict[str, Any]) -> httpx.Response:
        headers, url = _revealed(request.headers), _parsed(request.url)
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
        async for chunk in _chunks(response):
            body += chunk
            if len(body) > self._answer_bytes:
                break
        else:
            retire_if_surplus(response.stream)
        return bytes(body[: self._answer_bytes])


def _chunks(response: httpx.Response) -> httpx.AsyncByteStream:
    if not isinstance(response.stream, httpx.AsyncByteStream):
        raise httpx.StreamError("the http_client answers with a stream that is not async")
    return response.stream


class SpokeFirst(httpcore.ConnectError):
    """Bytes came on a connection, or its end, before a request was sent on it."""


class _Watch:
    """Follow what becomes of one request: whether any of its bytes may have left."""

    def __init__(self, on_sent: Callable[[], object] | None = None) -> None:
        self.heard = self.sent = False
        self._on_sent = on_sent

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        self.heard = True
        if event.endswith("send_request_headers.started"):
            # Asking a proxy for a tunnel sends nothing of the request itself.
            self.sent = self.sent or getattr(info.get("request"), "method", b"") != b"CONNECT"
            if self.sent and self._on_sent is not None:
                self._on_sent()


class _WaryNetwork(httpcore.AsyncNetworkBackend):
    """Connect, and send nothing where the server has spoken first: it would count as the answer.

    Only the first write of a connection is looked at; the pool looks after idle ones.
    """

    def __init__(self, network: httpcore.AsyncNetworkBackend) -> None:
        self._network = network

    async def connect_tcp(self, *where: Any, **how: Any) -> httpcore.AsyncNetworkStream:
        stream: Any = await self._network.connect_tcp(*where, **how)
        write = stream.write

        async def first_write(buffer: bytes, timeout: float | None = None) -> None:
            stream.write = write
            if stream.get_extra_info("is_readable") or _queued(stream):
                raise SpokeFirst("it would count as the answer")
            await write(buffer, timeout)

        start_tls = stream.start_tls

        async def started_tls(*what: Any, **how: Any) -> httpcore.AsyncNetworkStream:
            try:
                return await start_tls(*what, **how)  # type: ignore[no-any-return]
            except BaseException:  # httpcore leaves the socket open when it is cancelled
                with anyio.move_on_after(CLOSING, shield=True):
                    await stream.aclose()
                raise

        stream.write, stream.start_tls = first_write, started_tls
        return stream  # type: ignore[no-any-return]

    async def connect_unix_socket(self, *where: Any, **how: Any) -> httpcore.AsyncNetworkStream:
        return await self._network.connect_unix_socket(*where, **how)

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)


def _queued(stream: Any) -> bool:
    """Return True if anyio has read what nobody has asked for: asyncio reads while it connects."""
    protocol = getattr(getattr(stream, "_stream", None), "_protocol", None)
    return bool(getattr(protocol, "read_queue", None))


def retire_if_surplus(stream: object) -> None:
    """Let a connection be closed, not reused, when more came on it than the whole answer.

    HTTP/1.1 pairs answers with requests by their order alone, so the surplus would count as the
    answer to the next request. What comes later, while the connection is idle, is noticed when it
    is about to be reused. What cannot be excluded: a surplus that arrives together with the next
    request's own answer, after that request was sent.
    """
    for _ in range(8):
        if isinstance(stream, (httpcore.AsyncHTTP11Connection, httpcore.HTTP11Connection)):
            break
        for name in ("_stream", "_httpcore_stream", "_connection"):
            inner = getattr(stream, name, None)
            if inner is not None:
                stream = inner
                break
        else:
            return
    else:
        return
    state: Any = getattr(stream, "_h11_state", None)  # httpcore offers no other way in
    if state is None:
        return
    if state.trailing_data[0] or _has_read_ahead(stream._network_stream):
        state.send_failed()  # the connection is closed with the answer: it ended in an error


def _has_read_ahead(stream: httpcore.AsyncNetworkStream | httpcore.NetworkStream) -> bool:
    """Return True if anyio or TLS has taken more off the socket than was read from it."""
    if _queued(stream):
        return True
    tls = stream.get_extra_info("ssl_object")
    if isinstance(tls, ssl.SSLSocket):
        return tls.pending() > 0
    if not isinstance(tls, ssl.SSLObject):
        return False
    try:
        tls.read(1)  # whatever that is, the connection is not used again
    except ssl.SSLWantReadError:
        return False
    except ssl.SSLError:
        return True
    return True


LONGEST = 86_400.0  # seconds; a socket takes no timeout of more than 24 days
CLOSING = 0.1  # seconds that letting go of an answer may take
KEEP_ALIVE = 4.0  # seconds; below the idle limit of common servers, so that none closes first


def _cause(
    failure: Exception, outer: BaseException | None, *, keep_callers: bool = False
) -> Exception | None:
    """Return a failure as the cause of our error: without frames, and not if it quotes a header."""
    kind = httpcore.LocalProtocolError, httpx.LocalProtocolError, UnicodeError
    if isinstance(failure, kind):
        return None
    return without_frames(failure, outer, keep_callers=keep_callers)


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
        "SpokeFirst": "the server sent something, or closed, before the request was sent",
        "LocalProtocolError": "the URL or a header is not fit for HTTP",
    }
    if isinstance(failure, UnicodeError):
        return names["LocalProtocolError"]
    text = names.get(type(failure).__name__, type(failure).__name__)
    if _is_refused_by_proxy(failure):
        return "the proxy wants a user name and password, or others (407)"
    return f"TLS certificate not accepted: {text}" if _is_certificate(failure) else text


def _is_hopeless(failure: BaseException) -> bool:
    if isinstance(failure, (UnicodeError, httpx.InvalidURL)):
        return True
    return _is_certificate(failure) or _is_refused_by_proxy(failure)


def _is_refused_by_proxy(failure: BaseException) -> bool:
    return type(failure).__name__ == "ProxyError" and str(failure).startswith("407")


def _is_certificate(failure: BaseException) -> bool:
    seen: BaseException | None = failure
    for _ in range(8):
        if seen is None:
            return False
        if isinstance(seen, ssl.SSLCertVerificationError):
            return True
        with suppress(Exception):  # of a caller's own, which has no text
            if "CERTIFICATE_VERIFY_FAILED" in str(seen):
                return True
        seen = seen.__cause__ or seen.__context__
    return False


# ---- without a loop -----------------------------------------------------------------------------


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
                raise SpokeFirst("it would count as the answer")
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


def _proxy_url(proxy: Proxy | str) -> str:
    return proxy if isinstance(proxy, str) else proxy.reveal()


def _proxy(proxy: Proxy | str | None) -> httpcore.Proxy | None:
    if proxy is None:
        return None
    parts = urlsplit(_proxy_url(proxy))
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


class BlockingWire:
    """Send from the calling thread, without an event loop: for sync callers, and at the end.

    At interpreter exit no loop can resolve a name and no thread can start; and a sync caller that
    waits for its request anyway is served twice as fast without a trip to another thread. Any
    number of threads may share one.
    """

    def __init__(self, transport: Transport, *, answer_bytes: int) -> None:
        self._answer_bytes = answer_bytes
        self._until = _Until()
        self._transport = transport
        self._pools: dict[Proxy | str | None, httpcore.ConnectionPool] = {}  # by proxy
        self._chosen: dict[str, httpcore.ConnectionPool] = {}  # by URL without its query

    def _pool(self, url: str) -> httpcore.ConnectionPool:
        chosen = self._chosen.get(url)
        if chosen is not None:
            return chosen
        proxy = self._transport.proxy or environment_proxy(url)
        pool = self._pools.get(proxy)
        if pool is None:
            new = httpcore.ConnectionPool(
                ssl_context=self._transport.ssl_context or _default_tls(),
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

    def send(self, request: Request, *, end: float) -> Answer | Failure:
        """Make one attempt until `end` on the monotonic clock."""
        end = min(end, time.monotonic() + LONGEST)
        self._until.end, self._until.sent = end, False
        self._until.begin = f"{request.method} ".encode()
        outer = sys.exception()
        try:
            pool = self._pool(request.url.partition("?")[0])
        except ConfigurationError as unusable:
            return Failure(TransportError(str(unusable)), maybe_sent=False, hopeless=True)
        try:
            return self._answer(pool, request, end)
        except BLOCKING_FAILURES as failure:
            kind = TransportError
            if isinstance(failure, httpcore.TimeoutException) and time.monotonic() >= end:
                kind = AttemptTimeoutError
            hopeless = _is_hopeless(failure)
            error = kind(f"{describe(failure)} ({request.url.partition('?')[0]})")
            error.__cause__ = _cause(failure, outer)
            return Failure(error, self._until.sent, hopeless)
        except BaseException as error:  # Ctrl-C comes this way, too
            without_frames(error, outer)
            raise

    def _answer(self, pool: httpcore.ConnectionPool, request: Request, end: float) -> Answer:
        headers: list[tuple[bytes | str, bytes | str]] = [
            ("Host", _parsed(request.url).netloc.decode("ascii")),
            ("Content-Length", str(len(request.content))),
            *_revealed(request.headers),
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
            return Answer(response.status, found, bytes(body[: self._answer_bytes]))


# ---- long answers -------------------------------------------------------------------------------

PIECE = 512 * 1024  # bytes that are handed on at once, as each may be a trip to another thread
ERROR_BYTES = 64 * 1024  # that an answer which is no success may have


class StreamingWire(Wire):
    """Send requests whose answers may be longer than memory is large, or take an hour."""

    async def receive(
        self,
        request: Request,
        into: Callable[[Answer], Callable[[bytes], Awaitable[object]] | None],
        *,
        first: float,
        idle: float,
        overall: float,
    ) -> Answer | Failure:
        """Make one attempt, and hand the body on in pieces while it comes.

        `into` gets status and headers. It returns what takes the pieces; or None, to have the
        body in the answer, up to a cap. The headers must come within `first` seconds, each
        chunk within `idle` after the last, everything within `overall`. A body that ends before
        its announced end is a `Failure`; what taking a piece raises is raised here.
        """
        outer = sys.exception()
        watch, began = _Watch(), anyio.current_time()
        error: TransportError
        theirs: list[Exception] = []  # what the code that takes the answer raised
        with anyio.CancelScope(deadline=began + min(first, overall)) as scope:
            try:
                response = await self._answer(request, {"trace": watch})
                try:
                    with _noting(theirs):
                        take = into(Answer(response.status_code, response.headers, b""))
                    reading = _Reading(response, scope, theirs, idle=idle, end=began + overall)
                    success = 200 <= response.status_code < 300
                    cap = self._answer_bytes if success else ERROR_BYTES
                    body = await (reading.capped(cap) if take is None else reading.passed_on(take))
                finally:
                    with anyio.move_on_after(CLOSING, shield=True):
                        await response.aclose()
                return Answer(response.status_code, response.headers, body)
            except Exception as failure:  # libraries raise more than they document
                if failure in theirs:
                    raise
                hopeless = _is_hopeless(failure)
                maybe_sent = self._may_be_sent(watch, failure)
                error = TransportError(f"{describe(failure)} ({request.url.partition('?')[0]})")
                error.__cause__ = _cause(failure, outer, keep_callers=not self._own)
                return Failure(error, maybe_sent, hopeless)
        assert scope.cancelled_caught
        took = anyio.current_time() - began
        late = "no complete answer" if took >= overall else "nothing more came"
        error = AttemptTimeoutError(f"{late} within {overall if took >= overall else idle:g} s")
        return Failure(error, self._may_be_sent(watch))


@contextmanager
def _noting(errors: list[Exception]) -> Iterator[None]:
    """Add what is raised inside to a list."""
    try:
        yield
    except Exception as error:
        errors.append(error)
        raise


class _Reading:
    """Read one body, pushing the deadline ahead while bytes come."""

    def __init__(
        self,
        response: httpx.Response,
        scope: anyio.CancelScope,
        theirs: list[Exception],
        *,
        idle: float,
        end: float,
    ) -> None:
        self._response = response
        self._scope = scope
        self._theirs = theirs
        self._idle = idle
        self._end = end

    async def capped(self, most: int) -> bytes:
        body = bytearray()

        async def keep(piece: bytes) -> None:
            body.extend(piece)

        await self._read(keep, piece=1, most=most)
        return bytes(body[:most])

    async def passed_on(self, take: Callable[[bytes], Awaitable[object]]) -> bytes:
        await self._read(take, piece=PIECE, most=None)
        return b""

    async def _read(
        self, take: Callable[[bytes], Awaitable[object]], *, piece: int, most: int | None
    ) -> None:
        held: list[bytes] = []
        size = seen = 0
        pushed = -self._idle
        broken: Exception | None = None
        # A loop that is left half-way leaves httpx's nested generators open. So a read that shall
        # end early is cancelled where it waits, and ends from inside.
        with anyio.CancelScope() as stop:
            async for chunk in _chunks(self._response):
                now = anyio.current_time()
                if now - pushed > min(1.0, self._idle / 8):
                    self._scope.deadline = min(self._end, now + self._idle)
                    pushed = now
                if stop.cancel_called:
                    continue
                held.append(chunk)
                size, seen = size + len(chunk), seen + len(chunk)
                if size >= piece:
                    try:
                        with _noting(self._theirs):
                            await take(b"".join(held))
                    except Exception as error:
                        broken = error
                    held, size = [], 0
                if broken is not None or (most is not None and seen > most):
                    stop.cancel()
            retire_if_surplus(self._response.stream)
            if held and broken is None:
                with _noting(self._theirs):
                    await take(b"".join(held))
        if broken is not None:
            raise broken
