"""Each answer belongs to the request it was given to, and each failure knows what had left."""

import socket
import ssl
import threading
import time
from contextlib import contextmanager

import anyio
import anyio.to_thread
import httpx
import pytest
import trustme

from mixpanel._exchange import Answer, Failure
from mixpanel._route import Request, Transport
from mixpanel._wire import BlockingWire, StreamingWire, Wire

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

    def __init__(self, *, shape=whole, together=b"", greeting=b"", tls=None, mute=()):
        self.shape, self.together, self.greeting, self.tls = shape, together, greeting, tls
        self.mute = mute
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
            speak = Plain(connection) if self.tls is None else Tls(connection, self.tls)
            while head := speak.receive():
                path = head.split(b" ")[1]
                self.paths.append(path)
                if path in self.mute:
                    return
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
            connection.close() if connection.fileno() < 0 else shut(connection)
        for thread in self.threads:
            thread.join()


def shut(connection):
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    connection.close()


class Plain:
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


class Tls(Plain):
    """TLS whose records leave when they are told to, several in one segment."""

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
    wire = BlockingWire(transport or Transport(), answer_bytes=1000)
    try:
        yield lambda request: wire.send(request, end=time.monotonic() + 5)
    finally:
        wire.close()


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
def test_a_surplus_in_the_same_segment_is_not_the_next_answer_blocking(shape, extra):
    """The connection is closed instead; nothing is credited to the second request."""
    with serving(shape=shape, together=extra) as server, blocking() as send:
        assert bodies(*[send(get(server, n)) for n in (1, 2, 3)]) == [b"/1", b"/2", b"/3"]
        assert len(server.sockets) == 2


@shapes()
@extras()
@pytest.mark.anyio
async def test_a_surplus_in_the_same_segment_is_not_the_next_answer(anyio_backend, shape, extra):
    """Nor on a loop."""
    with serving(shape=shape, together=extra) as server:
        wire = Wire(Transport(), deadline=5, answer_bytes=1000)
        got = [await wire.send(get(server, n)) for n in (1, 2, 3)]
        await wire.aclose()
        assert bodies(*got) == [b"/1", b"/2", b"/3"]
        assert len(server.sockets) == 2


def test_a_surplus_that_comes_while_idle_is_not_the_next_answer_blocking():
    """Neither some time after the answer nor right before the next request."""
    with serving() as server, blocking() as send:
        first = send(get(server, 1))
        server.push(SURPLUS)
        second = send(get(server, 2))
        server.push(SURPLUS[:5])
        assert bodies(first, second, send(get(server, 3))) == [b"/1", b"/2", b"/3"]
        assert len(server.sockets) == 3


@pytest.mark.anyio
async def test_a_surplus_that_comes_while_idle_is_not_the_next_answer(anyio_backend):
    """Nor on a loop, whether or not it had a turn in between."""
    with serving() as server:
        wire = Wire(Transport(), deadline=5, answer_bytes=1000)
        got = [await wire.send(get(server, 1))]
        server.push(SURPLUS)
        got.append(await wire.send(get(server, 2)))
        await anyio.to_thread.run_sync(server.push, SURPLUS)
        await anyio.sleep(0.02)
        got.append(await wire.send(get(server, 3)))
        await wire.aclose()
        assert bodies(*got) == [b"/1", b"/2", b"/3"]
        assert len(server.sockets) == 3


@shapes()
def test_a_surplus_under_tls_is_not_the_next_answer_blocking(authority, shape):
    """In a record of its own, in the same segment."""
    theirs, ours = contexts(authority)
    with serving(tls=theirs, shape=shape, together=SURPLUS) as server:
        with blocking(Transport(ssl_context=ours)) as send:
            assert bodies(*[send(get(server, n)) for n in (1, 2, 3)]) == [b"/1", b"/2", b"/3"]
        assert len(server.sockets) == 2


@shapes()
@pytest.mark.anyio
async def test_a_surplus_under_tls_is_not_the_next_answer(anyio_backend, authority, shape):
    """Where the socket has nothing left to read, as TLS has taken it all."""
    theirs, ours = contexts(authority)
    with serving(tls=theirs, shape=shape, together=SURPLUS) as server:
        wire = Wire(Transport(ssl_context=ours), deadline=5, answer_bytes=1000)
        got = [await wire.send(get(server, n)) for n in (1, 2, 3)]
        await wire.aclose()
        assert bodies(*got) == [b"/1", b"/2", b"/3"]
        assert len(server.sockets) == 2


@pytest.mark.anyio
async def test_a_callers_client_is_given_no_surplus_either(anyio_backend):
    """Its connections are httpx's too."""
    with serving(together=SURPLUS) as server:
        async with httpx.AsyncClient() as client:
            wire = Wire(Transport(client=client), deadline=5, answer_bytes=1000)
            got = [await wire.send(get(server, n)) for n in (1, 2, 3)]
        assert bodies(*got) == [b"/1", b"/2", b"/3"]


@pytest.mark.anyio
async def test_long_answers_leave_no_surplus(anyio_backend):
    """What streams to a file is paired with its request as well."""
    with serving(together=SURPLUS) as server:
        wire = StreamingWire(Transport(), deadline=5, answer_bytes=1000)
        got = [
            await wire.receive(get(server, n), lambda _: None, first=5, idle=5, overall=5)
            for n in (1, 2, 3)
        ]
        await wire.aclose()
        assert bodies(*got) == [b"/1", b"/2", b"/3"]


@pytest.mark.anyio
async def test_without_a_surplus_connections_are_reused(anyio_backend, authority):
    """The watch over surplus bytes costs no connection, in the clear or under TLS."""
    theirs, ours = contexts(authority)
    for options, transport in (({}, Transport()), ({"tls": theirs}, Transport(ssl_context=ours))):
        with serving(**options) as server:
            wire = Wire(transport, deadline=5, answer_bytes=1000)
            for n in range(5):
                assert (await wire.send(get(server, n))).body == b"/%d" % n
            await wire.aclose()
            assert len(server.sockets) == 1
        with serving(**options) as server, blocking(transport) as send:
            assert bodies(*[send(get(server, n)) for n in range(3)]) == [b"/0", b"/1", b"/2"]
            assert len(server.sockets) == 1
