"""Connecting to the server: proxies, name lookup and addresses, within one deadline."""

import base64
import math
import socket
import ssl
import threading
import time
from contextlib import contextmanager

import httpcore
import pytest
from httpcore._backends.sync import SyncStream

from mixpanel import (
    AsyncConsumer,
    AsyncMixpanel,
    BufferedConsumer,
    ConfigurationError,
    Consumer,
    Mixpanel,
    RequestTimeoutError,
    ServerError,
    TransportError,
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
from mixpanel._http.sync_transport import (
    SyncTransport,
    _Attempt,
    _attempt,
    _DeadlineStream,
)

MESSAGE = '{"event":"E","properties":{"token":"t"}}'
REAL_LOOKUP = socket.getaddrinfo


@contextmanager
def proxy(answer):
    """Answer every connection with the same bytes; yield its port and the heads it saw."""
    heads = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    heads.append(connection.recv(65536).decode("latin-1"))
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1], heads
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


OK = b'HTTP/1.1 200 OK\r\ncontent-length: 12\r\nconnection: close\r\n\r\n{"status":1}'
WANTS = (
    b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
)


@pytest.mark.parametrize("client", [AsyncMixpanel, Mixpanel, AsyncConsumer, BufferedConsumer])
@pytest.mark.parametrize("given", ["garbage", "", "ftp://proxy", "http://", "http://h:port", 7])
def test_an_invalid_proxy_url_is_refused_at_construction(client, given):
    """Not at the first request."""
    token = ("t",) if client in (AsyncMixpanel, Mixpanel) else ()
    with pytest.raises(ConfigurationError, match="proxy"):
        client(*token, proxy=given)


def test_the_password_of_a_proxy_is_never_shown():
    """Neither in a repr nor in an error."""
    transport = TransportOptions(proxy="http://user:canary@proxy.example:3128")
    assert repr(transport) == "<TransportOptions proxy='http://***@proxy.example:3128'>"
    for given in ("ftp://user:canary@proxy", "user:canary@proxy", "http://user:can ary@proxy"):
        with pytest.raises(ConfigurationError) as raised:
            TransportOptions(proxy=given)
        assert "ary" not in str(raised.value)
    with pytest.raises(ConfigurationError) as raised:
        Consumer(base_url="https://user:canary@proxy.example")
    assert "canary" not in str(raised.value)


@pytest.mark.parametrize("host", ["http://127.0.0.1:9", "https://127.0.0.1:9"])
def test_a_proxy_that_requires_a_password_is_a_permanent_failure(host):
    """407 is not retried, with or without a tunnel."""
    with proxy(WANTS) as (port, heads):
        consumer = Consumer(base_url=host, proxy=f"http://127.0.0.1:{port}")
        with pytest.raises((ServerError, TransportError), match="407"):
            consumer.send("events", MESSAGE)
        consumer.close()
    assert len(heads) == 1


def test_an_invalid_proxy_in_the_environment_is_a_transport_error(monkeypatch):
    """Like any failure to connect, and without the password."""
    monkeypatch.setenv("HTTP_PROXY", "ftp://user:canary@proxy.example")
    consumer = Consumer(base_url="http://127.0.0.1:9")
    with pytest.raises(TransportError, match="PROXY") as raised:
        consumer.send("events", MESSAGE)
    assert "canary" not in str(raised.value)
    consumer.close()


def test_the_drain_at_exit_uses_the_proxy_of_the_environment(monkeypatch):
    """With its user name and password."""
    with proxy(OK) as (port, heads):
        monkeypatch.setenv("HTTP_PROXY", f"http://user:p%40ss@127.0.0.1:{port}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        consumer = BufferedConsumer(base_url="http://localhost:9")
        consumer.send("events", MESSAGE)
        consumer._sender.drain_at_exit(time.monotonic() + 5)
        assert consumer.stats().delivered == 1
        consumer.close()
    assert heads[0].startswith("POST http://localhost:9/track")
    assert base64.b64encode(b"user:p@ss").decode() in heads[0]


def test_a_slow_name_lookup_ends_with_the_attempt(monkeypatch):
    """The resolver hangs; the caller does not."""
    answer = threading.Event()

    def hanging(*args, **options):
        answer.wait(10)
        return REAL_LOOKUP(*args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    transport = SyncTransport(TransportOptions(), max_response_bytes=1000)
    response = transport.send(
        Request("GET", "http://localhost:9/", {}), end=time.monotonic() + 0.05
    )
    answer.set()
    transport.close()
    assert isinstance(response, TransportFailure)
    assert isinstance(response.error, RequestTimeoutError)
    assert not response.may_have_been_sent


def test_an_unknown_host_is_a_transport_error(monkeypatch):
    """Nothing was sent."""

    def unknown(*_args, **_options):
        raise socket.gaierror("unknown")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    transport = SyncTransport(TransportOptions(), max_response_bytes=1000)
    response = transport.send(
        Request("GET", "http://nowhere.invalid/", {}), end=time.monotonic() + 1
    )
    assert isinstance(response.error, TransportError)
    assert not response.may_have_been_sent


@pytest.mark.slow
def test_an_unreachable_address_leaves_time_for_the_next_one(emu, monkeypatch):
    """The deadline is divided among all addresses of a name."""
    port = int(emu.url.rpartition(":")[2])

    def two(host, *args, **options):
        if host != "two.example":
            return REAL_LOOKUP(host, *args, **options)
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, ("127.0.0.2", port)), (*kind, ("127.0.0.1", port))]

    connect = socket.create_connection

    def dead(address, timeout, **options):
        if address[0] == "127.0.0.2":
            time.sleep(timeout)
            raise TimeoutError
        return connect(address, timeout, **options)

    monkeypatch.setattr(socket, "getaddrinfo", two)
    monkeypatch.setattr(socket, "create_connection", dead)
    transport = SyncTransport(TransportOptions(), max_response_bytes=1000)
    request = Request("GET", f"http://two.example:{port}/", {})
    response = transport.send(request, end=time.monotonic() + 1.0)
    transport.close()
    assert isinstance(response, Response)


def test_an_attempt_may_have_no_deadline(emu):
    """Sockets accept no infinite timeout, so a day is used."""
    transport = SyncTransport(TransportOptions(), max_response_bytes=1000)
    response = transport.send(Request("GET", f"{emu.url}/", {}), end=math.inf)
    transport.close()
    assert isinstance(response, Response)


def test_a_deadline_that_passes_before_the_tls_handshake_closes_the_socket():
    """Nobody else would: httpcore closes what fails in a handshake that has begun."""
    ours, theirs = socket.socketpair()
    _attempt.set(_Attempt(0.0, b""))  # whose deadline is long ago
    stream = _DeadlineStream(SyncStream(ours))
    with pytest.raises(httpcore.ReadTimeout):
        stream.start_tls(ssl.create_default_context(), "example.com")
    assert ours.fileno() == -1
    theirs.close()
