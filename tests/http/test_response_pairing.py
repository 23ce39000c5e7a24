"""Responses are paired with their own requests, and failures state whether anything was sent."""

import errno
import socket
import ssl
import threading
import time
from contextlib import contextmanager, suppress
from random import Random

import anyio
import anyio.to_thread
import httpcore
import httpx
import pytest
import trustme

from mixpanel import ConfigurationError
from mixpanel._http.async_transport import (
    AsyncTransport,
)
from mixpanel._http.proxies import (
    TransportOptions,
)
from mixpanel._http.request import (
    Request,
)
from mixpanel._http.responses import (
    Response,
    TransportFailure,
)
from mixpanel._http.streaming import (
    StreamingTransport,
)
from mixpanel._http.sync_transport import (
    SyncTransport,
)

SURPLUS = b'HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"surplus"'


def whole(text, head=b""):
    return b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n%b" % (head, len(text), text)


def chunked(text):
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(text), text)


class Server:
    """Answer each request with its own path; do `after_first` once, after the first answer.

    With `together` the bytes of both leave at once, in one segment.
    """

    def __init__(self, *, shape=whole, together=b"", greeting=b"", tls=None):
        self.shape, self.together, self.greeting, self.tls = shape, together, greeting, tls
        self.greeted = threading.Event()
        self.paths, self.sockets, self.threads = [], [], []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://localhost:{self.port}"
        self.start(self.accept)

    def start(self, work, *args):
        thread = threading.Thread(target=work, args=args)
        self.threads.append(thread)
        thread.start()

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.sockets.append(connection)
            self.start(self.serve, connection)

    def serve(self, connection):
        try:
            if self.greeting:
                connection.sendall(self.greeting)
                self.greeted.set()
            speak = DisableGzip(connection) if self.tls is None else Tls(connection, self.tls)
            while head := speak.receive():
                path = head.split(b" ")[1]
                self.paths.append(path)
                extra, self.together = self.together, b""
                speak.send(self.shape(path), extra)
        except (OSError, ssl.SSLError):
            return

    def push(self, content):
        """Send more on the last connection, and return once it has arrived."""
        self.sockets[-1].sendall(content)
        time.sleep(0.02)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.sockets:
            shut(connection)
        for thread in self.threads:
            thread.join()


def shut(connection):
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


class DisableGzip:
    def __init__(self, connection):
        self.connection = connection

    def read(self):
        return self.connection.recv(65536)

    def receive(self):
        got = b""  # the body of the request before may come first
        while b"\r\n\r\n" not in got:
            more = self.read()
            if not more:
                return b""
            got += more
        return got

    def send(self, *parts):
        self.connection.sendall(b"".join(parts))


class Tls(DisableGzip):
    """TLS whose records a test sends when it wants, several in one segment."""

    def __init__(self, connection, context):
        super().__init__(connection)
        self.come, self.go = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.come, self.go, server_side=True)
        self.until(self.tls.do_handshake)

    def until(self, step):
        while True:
            try:
                done = step()
                self.connection.sendall(self.go.read())
                return done
            except ssl.SSLWantReadError:
                self.connection.sendall(self.go.read())
                more = self.connection.recv(65536)
                if not more:
                    raise ConnectionResetError from None
                self.come.write(more)

    def read(self):
        return self.until(lambda: self.tls.read(65536))

    def send(self, *parts):
        for part in parts:
            if part:
                self.tls.write(part)  # a record each
        self.connection.sendall(self.go.read())


@contextmanager
def serving(**options):
    server = Server(**options)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


def contexts(authority):
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


def get(server, n):
    return Request("POST", f"{server.url}/{n}", {}, b"[]")


@contextmanager
def blocking(transport=None):
    transport = SyncTransport(transport or TransportOptions(), max_response_bytes=1000)
    try:
        yield lambda request: transport.send(request, end=time.monotonic() + 5)
    finally:
        transport.close()


def shapes():
    return pytest.mark.parametrize("shape", [whole, chunked], ids=["length", "chunked"])


def extras():
    return pytest.mark.parametrize(
        "extra", [SURPLUS, SURPLUS[:9], b"\r\n", b"x"], ids=["whole", "half", "line", "byte"]
    )


def bodies(*answers):
    return [answer.body for answer in answers]


@shapes()
@extras()
def test_sync_surplus_in_the_same_segment_is_not_read_as_the_next_response(shape, extra):
    """The connection is closed, and the second request is sent on a new one."""
    with serving(shape=shape, together=extra) as server, blocking() as send:
        assert bodies(*[send(get(server, n)) for n in (1, 2, 3)]) == [b"/1", b"/2", b"/3"]
        assert len(server.sockets) == 2


def without_body(_path):
    return b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"


@pytest.mark.anyio
async def test_data_after_a_response_without_a_body_is_not_read_as_the_next_response(anyio_backend):
    """What follows a 204 is neither its body nor the next response."""
    with serving(shape=without_body, together=SURPLUS) as server:
        transport = AsyncTransport(TransportOptions(), deadline=5, max_response_bytes=1000)
        got = [await transport.send(get(server, n)) for n in (1, 2)]
        await transport.aclose()
    with serving(shape=without_body, together=SURPLUS) as server, blocking() as send:
        got += [send(get(server, n)) for n in (1, 2)]
    assert [(one.status, one.body) for one in got] == [(204, b"")] * 4


@pytest.mark.slow
@shapes()
@extras()
@pytest.mark.anyio
async def test_async_surplus_in_the_same_segment_is_not_read_as_the_next_response(
    anyio_backend, shape, extra
):
    """The connection is closed, also on an event loop."""
    with serving(shape=shape, together=extra) as server:
        transport = AsyncTransport(TransportOptions(), deadline=5, max_response_bytes=1000)
        got = [await transport.send(get(server, n)) for n in (1, 2, 3)]
        await transport.aclose()
        assert bodies(*got) == [b"/1", b"/2", b"/3"]
        assert len(server.sockets) == 2


def test_sync_surplus_on_an_idle_connection_is_not_read_as_the_next_response():
    """Whether it arrives soon after the response or right before the next request."""
    with serving() as server, blocking() as send:
        first = send(get(server, 1))
        server.push(SURPLUS)
        second = send(get(server, 2))
        server.push(SURPLUS[:5])
        assert bodies(first, second, send(get(server, 3))) == [b"/1", b"/2", b"/3"]
        assert len(server.sockets) == 3


@pytest.mark.anyio
async def test_async_surplus_on_an_idle_connection_is_not_read_as_the_next_response(anyio_backend):
    """Whether or not the loop ran in between."""
    with serving() as server:
        transport = AsyncTransport(TransportOptions(), deadline=5, max_response_bytes=1000)
        got = [await transport.send(get(server, 1))]
        server.push(SURPLUS)
        got.append(await transport.send(get(server, 2)))
        await anyio.to_thread.run_sync(server.push, SURPLUS)
        await anyio.sleep(0.02)
        got.append(await transport.send(get(server, 3)))
        await transport.aclose()
        assert bodies(*got) == [b"/1", b"/2", b"/3"]
        assert len(server.sockets) == 3


@shapes()
def test_sync_surplus_under_tls_is_not_read_as_the_next_response(authority, shape):
    """In a TLS record of its own, in the same segment."""
    theirs, ours = contexts(authority)
    with serving(tls=theirs, shape=shape, together=SURPLUS) as server:
        with blocking(TransportOptions(ssl_context=ours)) as send:
            assert bodies(*[send(get(server, n)) for n in (1, 2, 3)]) == [b"/1", b"/2", b"/3"]
        assert len(server.sockets) == 2


@shapes()
@pytest.mark.anyio
async def test_async_surplus_under_tls_is_not_read_as_the_next_response(
    anyio_backend, authority, shape
):
    """Also when TLS has already read it from the socket."""
    theirs, ours = contexts(authority)
    with serving(tls=theirs, shape=shape, together=SURPLUS) as server:
        transport = AsyncTransport(
            TransportOptions(ssl_context=ours), deadline=5, max_response_bytes=1000
        )
        got = [await transport.send(get(server, n)) for n in (1, 2, 3)]
        await transport.aclose()
        assert bodies(*got) == [b"/1", b"/2", b"/3"]
        assert len(server.sockets) == 2


@pytest.mark.anyio
async def test_surplus_on_a_callers_client_is_not_read_as_the_next_response(anyio_backend):
    """Connections of the caller's own httpx client are checked, too."""
    with serving(together=SURPLUS) as server:
        async with httpx.AsyncClient() as client:
            transport = AsyncTransport(
                TransportOptions(client=client), deadline=5, max_response_bytes=1000
            )
            got = [await transport.send(get(server, n)) for n in (1, 2, 3)]
        assert bodies(*got) == [b"/1", b"/2", b"/3"]


@pytest.mark.anyio
async def test_surplus_of_a_streamed_response_is_not_read_as_the_next_response(anyio_backend):
    """Responses that are streamed to a file are paired with their requests as well."""
    with serving(together=SURPLUS) as server:
        transport = StreamingTransport(TransportOptions(), deadline=5, max_response_bytes=1000)
        got = [
            await transport.receive(
                get(server, n), lambda _: None, headers_timeout=5, idle_timeout=5, total_timeout=5
            )
            for n in (1, 2, 3)
        ]
        await transport.aclose()
        assert bodies(*got) == [b"/1", b"/2", b"/3"]


@pytest.mark.anyio
async def test_connections_without_surplus_are_reused(anyio_backend, authority):
    """The check for surplus data costs no connection, with or without TLS."""
    theirs, ours = contexts(authority)
    for options, settings in (
        ({}, TransportOptions()),
        ({"tls": theirs}, TransportOptions(ssl_context=ours)),
    ):
        with serving(**options) as server:
            transport = AsyncTransport(settings, deadline=5, max_response_bytes=1000)
            for n in range(5):
                assert (await transport.send(get(server, n))).body == b"/%d" % n
            await transport.aclose()
            assert len(server.sockets) == 1
        with serving(**options) as server, blocking(settings) as send:
            assert bodies(*[send(get(server, n)) for n in range(3)]) == [b"/0", b"/1", b"/2"]
            assert len(server.sockets) == 1


# ---- before the request -------------------------------------------------------------------------


def test_sync_data_before_the_request_is_not_read_as_its_response(monkeypatch):
    """Nothing is sent on a connection on which the server has already sent data."""
    connect = httpcore.SyncBackend.connect_tcp

    def slowly(self, *where, **how):
        stream = connect(self, *where, **how)
        assert server.greeted.wait(5)
        return stream

    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", slowly)
    with serving(greeting=SURPLUS) as server, blocking() as send:
        response = send(get(server, 1))
    assert isinstance(response, TransportFailure)
    assert not response.may_have_been_sent
    assert server.paths == []


@pytest.mark.parametrize("detect_sent", [True, False])
@pytest.mark.anyio
async def test_async_data_before_the_request_is_not_read_as_its_response(
    anyio_backend, detect_sent, monkeypatch
):
    """Also when asyncio has already read it."""
    connect = httpcore.AnyIOBackend.connect_tcp
    other = httpcore.TrioBackend.connect_tcp

    async def slowly(self, *where, **how):
        original = connect if isinstance(self, httpcore.AnyIOBackend) else other
        stream = await original(self, *where, **how)
        await anyio.to_thread.run_sync(server.greeted.wait, 5)
        return stream

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", slowly)
    monkeypatch.setattr(httpcore.TrioBackend, "connect_tcp", slowly)
    with serving(greeting=SURPLUS) as server:
        transport = AsyncTransport(TransportOptions(), deadline=5, max_response_bytes=1000)
        response = await transport.send(get(server, 1), detect_sent=detect_sent)
        await transport.aclose()
    assert isinstance(response, TransportFailure)
    assert not response.may_have_been_sent
    assert server.paths == []


# ---- what had left when it failed ---------------------------------------------------------------

TUNNEL = b"HTTP/1.1 200 Connection established\r\n\r\n"


@contextmanager
def answering(*scripts):
    """Answer each connection as its script says: bytes after what it reads, None to fall silent."""
    done, sockets = threading.Event(), []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        for n in range(100):
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            sockets.append(connection)
            connection.settimeout(5)
            for part in scripts[min(n, len(scripts) - 1)]:
                if part is None:
                    done.wait(5)
                elif not connection.recv(65536):
                    break
                else:
                    connection.sendall(part)
            connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        done.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


UNSENT = pytest.mark.parametrize(
    ("script", "proxied"),
    [
        ([], False),
        ([None], False),
        ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], False),
        ([], True),
        ([None], True),
        ([b"HTTP/1.1 502 Bad Gateway\r\n\r\n"], True),
        ([b"garbage\r\n\r\n"], True),
        ([TUNNEL], True),
        ([TUNNEL, None], True),
        ([TUNNEL, b"this is not TLS\r\n\r\n"], True),
    ],
    ids=[
        "closed", "silent handshake", "no TLS", "proxy closes", "silent proxy", "proxy refuses",
        "proxy talks nonsense", "tunnel closes", "silent tunnel", "no TLS in the tunnel",
    ],
)  # fmt: skip


def way(port, proxied):
    if proxied:
        return "https://127.0.0.1:9/engage", TransportOptions(proxy=f"http://127.0.0.1:{port}")
    return f"https://127.0.0.1:{port}/engage", TransportOptions()


@UNSENT
def test_a_sync_failure_before_the_first_byte_counts_as_not_sent(script, proxied):
    """TLS handshakes and proxies come before the request, which is not sent when they fail."""
    with answering(script) as port:
        url, transport = way(port, proxied)
        transport = SyncTransport(transport, max_response_bytes=1000)
        response = transport.send(Request("POST", url, {}, b"[]"), end=time.monotonic() + 0.1)
        transport.close()
    assert isinstance(response, TransportFailure)
    assert not response.may_have_been_sent


@pytest.mark.slow
@UNSENT
@pytest.mark.anyio
async def test_an_async_failure_before_the_first_byte_counts_as_not_sent(
    anyio_backend, script, proxied
):
    """With a client of this package or of the caller."""
    with answering(script) as port:
        url, options = way(port, proxied)
        request = Request("POST", url, {}, b"[]")
        transport = AsyncTransport(options, deadline=0.1, max_response_bytes=1000)
        response = await transport.send(request, detect_sent=True)
        await transport.aclose()
        responses = [response]
        if script != [None] or proxied:  # there httpcore by itself leaves the socket open
            proxy = None if options.proxy is None else options.proxy.reveal()
            async with httpx.AsyncClient(proxy=proxy) as client:
                transport = AsyncTransport(
                    TransportOptions(client=client), deadline=0.1, max_response_bytes=1000
                )
                responses.append(await transport.send(request, detect_sent=True))
    assert {(type(one), one.may_have_been_sent) for one in responses} == {(TransportFailure, False)}


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, "too many open files"),
        OSError(errno.EHOSTUNREACH, "no route"),
        ConnectionRefusedError(),
        socket.gaierror("unknown"),
    ],
    ids=lambda error: type(error).__name__ + str(error.errno or ""),
)
@pytest.mark.anyio
async def test_a_failure_to_connect_counts_as_not_sent(anyio_backend, error, monkeypatch):
    """No file descriptor, no route, no listener, no such name: the request can be retried."""

    async def fails(*_args, **_options):
        raise error

    def fails_at_once(*_args, **_options):
        raise error

    monkeypatch.setattr(anyio, "connect_tcp", fails)
    monkeypatch.setattr("trio.open_tcp_stream", fails)
    monkeypatch.setattr(socket, "create_connection", fails_at_once)
    request = Request("POST", "http://127.0.0.1:9/engage", {}, b"[]")
    transport = AsyncTransport(TransportOptions(), deadline=5, max_response_bytes=1000)
    responses = [
        await transport.send(request, detect_sent=detect_sent) for detect_sent in (True, False)
    ]
    await transport.aclose()
    with blocking() as send:
        responses.append(send(request))
    assert [(one.may_have_been_sent, one.permanent) for one in responses] == [(False, False)] * 3


def test_certificates_that_cannot_be_loaded_are_a_permanent_failure(monkeypatch, tmp_path):
    """Nothing was sent; the error names the variables to check."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with blocking() as send:
        response = send(Request("POST", "https://127.0.0.1:9/engage", {}, b"[]"))
    assert (response.may_have_been_sent, response.permanent) == (False, True)
    assert "SSL_CERT_FILE" in str(response.error)
    with pytest.raises(ConfigurationError, match="SSL_CERT_FILE"):
        AsyncTransport(TransportOptions(), deadline=5, max_response_bytes=1000)


@pytest.mark.anyio
async def test_a_failure_after_the_first_byte_counts_as_sent(anyio_backend):
    """Also through a proxy tunnel, and with the caller's own client."""
    request = Request("POST", "http://127.0.0.1:{}/engage", {}, b"[]")
    with answering([b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"]) as port:
        request = Request("POST", f"http://127.0.0.1:{port}/engage", {}, b"[]")
        transport = AsyncTransport(TransportOptions(), deadline=5, max_response_bytes=1000)
        responses = [
            await transport.send(request, detect_sent=detect_sent) for detect_sent in (True, False)
        ]
        await transport.aclose()
        async with httpx.AsyncClient() as client:
            transport = AsyncTransport(
                TransportOptions(client=client), deadline=5, max_response_bytes=1000
            )
            responses.append(await transport.send(request, detect_sent=True))
        with blocking() as send:
            responses.append(send(request))
    assert [(isinstance(one, TransportFailure), one.may_have_been_sent) for one in responses] == [
        (True, True)
    ] * 4


class WordlessError(Exception):
    def __str__(self):
        raise ValueError


class Broken(httpx.AsyncBaseTransport):
    """A transport of the caller's, which tries as often as there are errors, in its own way."""

    def __init__(self, *errors, traced=False):
        self.errors, self.traced = errors, traced

    async def handle_async_request(self, request):
        if self.traced:
            trace = request.extensions["trace"]
            await trace("connection.connect_tcp.started", {"request": request})
            if self.traced == "sent":
                await trace("http11.send_request_headers.started", {"request": request})
        raise self.errors[-1]


@pytest.mark.parametrize(
    ("error", "traced", "may_have_been_sent"),
    [
        (httpx.ConnectError("refused"), False, False),
        (httpx.ConnectTimeout("late"), False, False),
        (httpx.PoolTimeout("none free"), False, False),
        (httpx.ReadError("broke"), False, True),
        (httpx.WriteError("broke"), False, True),
        (httpx.RemoteProtocolError("closed"), False, True),
        (OSError("broke"), False, True),
        (RuntimeError("of the caller's own"), False, True),
        (KeyError("of the caller's own"), False, True),
        (WordlessError(), False, True),
        (httpx.ReadError("broke"), True, False),
        (OSError("broke"), True, False),
        (httpx.ConnectError("refused, at the second try"), "sent", True),
        (httpx.PoolTimeout("none free, at the second try"), "sent", True),
    ],
)
@pytest.mark.anyio
async def test_any_exception_of_a_callers_transport_is_a_failure(
    anyio_backend, error, traced, may_have_been_sent
):
    """Only errors that certainly precede the request count as not sent."""
    async with httpx.AsyncClient(transport=Broken(error, traced=traced)) as client:
        transport = AsyncTransport(
            TransportOptions(client=client), deadline=5, max_response_bytes=1000
        )
        response = await transport.send(
            Request("POST", "http://localhost/engage", {}, b"[]"), detect_sent=True
        )
    assert isinstance(response, TransportFailure)
    assert response.may_have_been_sent is may_have_been_sent
    assert response.error.__cause__ is error


@pytest.mark.anyio
async def test_a_closed_client_of_the_caller_is_a_permanent_failure(anyio_backend):
    """Nothing is sent; the messages are kept."""
    client = httpx.AsyncClient()
    await client.aclose()
    transport = AsyncTransport(TransportOptions(client=client), deadline=5, max_response_bytes=1000)
    response = await transport.send(Request("POST", "http://localhost:9/engage", {}, b"[]"))
    assert (response.may_have_been_sent, response.permanent) == (False, True)
    assert "closed" in str(response.error)


@pytest.mark.anyio
async def test_an_event_hook_may_read_the_response(anyio_backend):
    """A caller's client may log each body."""

    async def read(response):
        await response.aread()

    with serving() as server:
        async with httpx.AsyncClient(event_hooks={"response": [read]}) as client:
            transport = AsyncTransport(
                TransportOptions(client=client), deadline=5, max_response_bytes=1000
            )
            response = await transport.send(get(server, 1))
    assert isinstance(response, Response)
    assert response.body == b"/1"


# ---- anything at all ----------------------------------------------------------------------------

PIECES = [
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200\r\n", b"HTTP/1.1 999 X\r\n", b"HTTP/1.1 101 S\r\n",
    b"HTTP/1.1 100 C\r\n\r\n", b"HTTP/1.1 204 No\r\n\r\n", b"HTTP/2 200\r\n",
    b"content-length: 12\r\n", b"content-length: -1\r\n", b"content-length: 99999999999999\r\n",
    b"transfer-encoding: chunked\r\n", b"transfer-encoding: gzip, chunked\r\n",
    b"retry-after: \xff\xfe\r\n", b"x\x00y: z\r\n", b"connection: close\r\n", b"\r\n", b"\r\n",
    b'{"status":1}', b'c\r\n{"status":1}\r\n0\r\n\r\n', b"zz\r\n", b"\xff\xfe\x00",
]  # fmt: skip


def anything(seed):
    """Return what 40 connections answer, before they are closed."""
    random = Random(seed)
    return [[b"".join(random.choices(PIECES, k=random.randint(1, 8)))] for _ in range(40)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.anyio
async def test_any_bytes_from_the_server_end_the_attempt_as_sent(anyio_backend, seed):
    """As a response or as a failure; nothing is raised."""
    scripts = anything(seed)
    with answering(*scripts) as port:
        request = Request("POST", f"http://127.0.0.1:{port}/track", {}, b"[]")
        transport = AsyncTransport(TransportOptions(), deadline=5, max_response_bytes=1000)
        responses = [await transport.send(request, detect_sent=True) for _ in range(20)]
        await transport.aclose()
        with blocking() as send:
            responses += [send(request) for _ in range(20)]
    assert all(isinstance(one, Response) or one.may_have_been_sent for one in responses)
    assert {type(one) for one in responses} == {Response, TransportFailure}
