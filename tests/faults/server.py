"""Serve HTTP over raw sockets, so that a response can be wrong in every way that bytes can be.

A `FaultServer` runs on a thread of its own, on a random loopback port. It responds to the n-th
request with the n-th fault of its script, and properly to later ones. It parses the requests
itself, and records how often each message was applied, and under which key.
"""

import asyncio
import contextlib
import gzip
import json
import math
import socket
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import urlsplit

PATHS = {"/track": "events", "/import": "imports", "/engage": "people", "/groups": "groups"}
SOURCES = {"/cio/": "customerio", "/ht/": "hightouch"}
CDP = frozenset(SOURCES.values())
OK = {
    "events": b'{"status": 1, "error": null}',
    "people": b'{"status": 1, "error": null}',
    "groups": b'{"status": 1, "error": null}',
    "customerio": b'{"success": true}',
    "hightouch": b'{"success": true}',
}
CROSSING = 0.1  # seconds that bytes may take to reach the client
RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time to linger: close() sends RST


def marker_of(message):
    """Return the name that the harness gave a message, wherever its kind carries it."""
    for place in ("properties", "traits", "$set"):
        found = message.get(place)
        if isinstance(found, dict) and "m" in found:
            return found["m"]
    if "$add" in message:
        return next(iter(message["$add"]))
    return None


def key_of(endpoint, message):
    """Return the key by which the real server recognises copies; None where it has none."""
    if endpoint in CDP:
        return message.get("messageId")
    if endpoint in ("events", "imports"):
        properties = message["properties"]
        return (
            message["event"], properties["time"], properties["distinct_id"],
            properties["$insert_id"],
        )  # fmt: skip
    return None


@dataclass
class Request:
    """One request as it was read."""

    path: str
    endpoint: str
    messages: list

    @property
    def markers(self):
        return [marker_of(message) for message in self.messages]


@dataclass
class Record:
    """What a server has applied; written by its thread, read by any."""

    applied: Counter = field(default_factory=Counter)  # how often, by marker
    keys: dict = field(default_factory=dict)  # the keys a marker came under
    order: list = field(default_factory=list)  # markers as they were applied
    lied: set = field(default_factory=set)  # the response was a success, but nothing was applied
    unsafe: set = field(default_factory=set)  # markers of `$add`, which must never come twice
    crossing: bool = (
        False  # a response may look like that of another request: only the end is exact
    )
    requests: int = 0
    connections: int = 0
    followed: int = 0  # redirects that were followed
    unreadable: list = field(default_factory=list)

    def apply(self, endpoint, messages):
        for message in messages:
            marker = marker_of(message)
            self.keys.setdefault(marker, set()).add(key_of(endpoint, message))
            if "$add" in message:
                self.unsafe.add(marker)
            self.order.append(marker)
            self.applied[marker] += 1


def head(status, body=b"", *, headers=(), length=None, version="HTTP/1.1"):
    """Return the head of a response; `length` None is the length of the body."""
    lines = [f"{version} {status}", "Content-Type: application/json", *headers]
    if length is None:
        length = len(body)
    if length != "":
        lines.append(f"Content-Length: {length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def response(status, body=b"", **options):
    """Return a whole response."""
    return head(status, body, **options) + body


def ok_body(request):
    """Return the body of a success of Mixpanel or the vendor."""
    if request.endpoint == "imports":
        count = len(request.messages)
        return b'{"code": 200, "num_records_imported": %d, "status": "OK"}' % count
    return OK[request.endpoint]


def ok(request, **options):
    return response("200 OK", ok_body(request), **options)


class PeerGoneError(Exception):
    """The client is gone, or the connection is over."""


class Connection:
    """One accepted connection, read and written byte by byte."""

    def __init__(self, server, sock):
        self.server = server
        self.sock = sock
        self.held = bytearray()
        self.swallow = False  # whether the next request here is read and thrown away
        self.misleads = 0.0  # until when a request may cross what was sent unasked

    async def more(self):
        try:
            data = await self.server.loop.sock_recv(self.sock, 65536)
        except OSError:
            raise PeerGoneError from None
        if not data:
            raise PeerGoneError
        self.held += data

    async def send(self, data):
        try:
            await self.server.loop.sock_sendall(self.sock, data)
        except OSError:
            raise PeerGoneError from None

    async def send_late(self, data):
        """Send bytes that no request waits for; return until when a request may cross them."""
        self.server.record.crossing = True
        with contextlib.suppress(OSError):  # the client is gone
            self.held += self.sock.recv(65536)
        await self.send(data)
        return math.inf if self.held else time.monotonic() + CROSSING

    def close(self):
        self.sock.close()

    def reset(self):
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.sock.close()

    async def until_gone(self):
        """Read and forget until the client leaves."""
        while True:
            self.held.clear()
            await self.more()

    async def at_least(self, count):
        while len(self.held) < count:
            await self.more()

    async def headers(self):
        """Read a head; return its request line and fields, and where the body starts."""
        while (end := self.held.find(b"\r\n\r\n")) < 0:
            await self.more()
        first, *lines = self.held[:end].decode("latin-1").split("\r\n")
        fields = {
            name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)
        }
        return first, fields, end + 4

    async def request(self):
        """Read one whole request."""
        first, fields, start = await self.headers()
        length = int(fields.get("content-length", 0))
        await self.at_least(start + length)
        body = bytes(self.held[start : start + length])
        del self.held[: start + length]
        if fields.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        path = urlsplit(first.split(" ")[1]).path
        endpoint = PATHS.get(path) or next(
            (name for prefix, name in SOURCES.items() if path.startswith(prefix)), ""
        )
        return Request(path, endpoint, self._messages(path, endpoint, body))

    def _messages(self, path, endpoint, body):
        if not endpoint:
            self.server.record.followed += path.startswith("/elsewhere")
            return []
        try:
            found = json.loads(body)
            if endpoint not in CDP:
                return found
            return found["batch"] if path.endswith("/batch") else [found]
        except (ValueError, KeyError) as error:
            self.server.record.unreadable.append(f"{path}: {error}")
            return []


class FaultServer:
    """Respond to the first requests as scripted, and to all others as a healthy server."""

    def __init__(self, script=(), *, deadline=0.3):
        self.script = list(script)
        self.deadline = deadline  # of the client's attempts: what "late" means
        self.record = Record()
        self.loop = None
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.open = 0  # connections right now
        self._stop = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fault-server", daemon=True)

    def __enter__(self):
        self._thread.start()
        assert self._started.wait(30)
        return self

    def __exit__(self, *_):
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    def _run(self):
        asyncio.run(self._serve())

    async def _serve(self):
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        tasks = set()
        self._started.set()

        async def accept():
            while True:
                try:
                    sock, _ = await self.loop.sock_accept(self._listener)
                except OSError:
                    return
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.record.connections += 1
                task = self.loop.create_task(self._attend(Connection(self, sock)))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

        accepting = self.loop.create_task(accept())
        await self._stop.wait()
        accepting.cancel()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(accepting, *tasks, return_exceptions=True)
        self._listener.close()

    async def _attend(self, connection):
        self.open += 1
        try:
            while True:
                if self.script and self.script[0].reads == "nothing":
                    await self._play(connection, self.script.pop(0))
                    return
                if not connection.held:
                    await connection.more()
                if connection.swallow:
                    crossing = time.monotonic() < connection.misleads
                    request = await connection.request()
                    if crossing:
                        self.record.lied.update(request.markers)
                    return
                if self.script:
                    await self._play(connection, self.script.pop(0))
                else:
                    request = await connection.request()
                    self.record.requests += 1
                    self.record.apply(request.endpoint, request.messages)
                    await connection.send(
                        ok(request) if request.endpoint else response("200 OK", b'{"flags": {}}')
                    )
        except PeerGoneError:
            pass
        finally:
            self.open -= 1
            connection.close()

    async def _play(self, connection, kind):
        request = None
        self.record.requests += 1
        if kind.reads == "head":
            await connection.headers()
        elif kind.reads == "half":
            _, fields, start = await connection.headers()
            await connection.at_least(start + int(fields.get("content-length", 0)) // 2)
        elif kind.reads == "whole":
            request = await connection.request()
            if kind.applied:
                self.record.apply(request.endpoint, request.messages)
            elif request.endpoint in kind.lies:
                self.record.lied.update(request.markers)
        await kind.act(connection, request)
        if kind.ends:
            raise PeerGoneError


class FaultProxy:
    """Pass bytes on to another server, and cut or slow them: `limits` by connection.

    The n-th connection ends with a reset after so many bytes of the request (`("up", n)`) or of
    the responses (`("down", n)`); `("slow", n)` passes responses on n bytes at a time. Later
    connections pass.
    """

    def __init__(self, target, limits=()):
        self.target = urlsplit(target)
        self.limits = list(limits)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open = set()
        self._threads = []
        self._leaving = False

    def __enter__(self):
        self._threads.append(threading.Thread(target=self._accept, daemon=True))
        self._threads[0].start()
        return self

    def __exit__(self, *_):
        self._leaving = True
        with contextlib.suppress(OSError):
            socket.create_connection(self._listener.getsockname(), 1).close()
        self._listener.close()
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # the proxy was stopped just now
                return
            if self._leaving:
                client.close()
                return
            limit = self.limits.pop(0) if self.limits else ("", 0)
            upstream = socket.create_connection((self.target.hostname, self.target.port), 5)
            pair = (client, upstream)
            self._open.update(pair)
            ended = threading.Semaphore(0)
            for source, sink, way in ((client, upstream, "up"), (upstream, client, "down")):
                options = (source, sink, limit[1] if limit[0] == way else None, ended)
                slow = limit[1] if limit[0] == "slow" and way == "down" else 65536
                thread = threading.Thread(target=self._pass, args=(*options, slow), daemon=True)
                thread.start()
                self._threads.append(thread)
            closer = threading.Thread(target=self._close, args=(pair, ended), daemon=True)
            closer.start()
            self._threads.append(closer)

    def _pass(self, source, sink, limit, ended, piece):
        passed = 0
        try:
            while data := source.recv(65536):
                if limit is not None and passed + len(data) >= limit:
                    sink.sendall(data[: limit - passed])
                    for sock in (source, sink):
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    return
                for at in range(0, len(data), piece):
                    sink.sendall(data[at : at + piece])
                passed += len(data)
        except OSError:
            pass
        finally:
            for sock in (source, sink):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            ended.release()

    def _close(self, pair, ended):
        ended.acquire()
        ended.acquire()
        self._open.difference_update(pair)
        for sock in pair:
            sock.close()
