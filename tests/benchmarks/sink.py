"""A loopback server that takes anything and answers at once, so that only clients are measured.

It runs in a process of its own, keeps the bodies, and counts the events in them when it is asked,
outside the timed section. It ends by itself when its parent closes the pipe, or dies.
"""

import argparse
import asyncio
import gzip
import json
import os
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs
from urllib.request import urlopen

HELD = 64 * 1024 * 1024  # bytes of bodies above which the oldest are counted at once
LIFETIME = 1800  # seconds, whatever happens


class Sink:
    """A running sink, as seen by the benchmark: `with Sink(latency=50) as sink`."""

    def __init__(self, latency: int = 0) -> None:
        self._latency = latency

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__), f"--latency={self._latency}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.url = f"http://127.0.0.1:{self._process.stdout.readline().strip()}"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def counts(self) -> dict[str, int]:
        """Return requests, bytes and events since the last time, and start from zero."""
        with urlopen(f"{self.url}/counts", timeout=60) as answer:
            return json.load(answer)


class Received:
    """What has come in, counted late."""

    def __init__(self) -> None:
        self.bodies: deque[tuple[bytes, bytes]] = deque()
        self.held = self.requests = self.bytes = self.events = 0

    def add(self, head: bytes, body: bytes) -> None:
        self.requests += 1
        self.bytes += len(body)
        self.held += len(body)
        self.bodies.append((head, body))
        while self.held > HELD:
            self._count_one()

    def _count_one(self) -> None:
        head, body = self.bodies.popleft()
        self.held -= len(body)
        self.events += events_in(head, body)

    def counts(self) -> bytes:
        while self.bodies:
            self._count_one()
        found = {"requests": self.requests, "bytes": self.bytes, "events": self.events}
        self.__init__()
        return json.dumps(found).encode()


def events_in(head: bytes, body: bytes) -> int:
    """Count the events of one request: a JSON list, a form's `data`, or a `batch`.

    PostHog and all that speak Segment's spec send the last.
    """
    if b"content-encoding: gzip" in head:
        body = gzip.decompress(body)
    if b"application/x-www-form-urlencoded" in head:
        body = parse_qs(body)[b"data"][0]
    message = json.loads(body)
    if isinstance(message, dict):
        message = message.get("batch", [message])
    return len(message)


def answer(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


TAKEN = answer(b'{"status":1,"error":null}')
IMPORTED = answer(b'{"code":200,"status":"OK"}')
GRANTED = answer(b'{"access_token":"a-token","token_type":"bearer","expires_in":3600}')


class Connection(asyncio.Protocol):
    """One connection: requests with a Content-Length, one after the other."""

    def __init__(self, received: Received, latency: float) -> None:
        self._received = received
        self._latency = latency
        self._head = b""
        self._parts: list[bytes] = []
        self._missing = 0

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if not self._missing:
            head, blank, data = (self._head + data).partition(b"\r\n\r\n")
            if not blank:
                self._head = head
                return
            self._head = head.lower()
            _, found, length = self._head.partition(b"content-length:")
            self._missing = int(length.partition(b"\r\n")[0]) if found else 0
        self._parts.append(data)
        self._missing -= len(data)
        if not self._missing:
            self._request(self._head, b"".join(self._parts))
            self._head, self._parts = b"", []

    def _request(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"get /counts"):
            self._transport.write(answer(self._received.counts()))
            return
        if head.startswith(b"post /token"):
            self._transport.write(GRANTED)
            return
        self._received.add(head, body)
        reply = IMPORTED if head.startswith(b"post /import") else TAKEN
        if self._latency:
            asyncio.get_running_loop().call_later(self._latency, self._transport.write, reply)
        else:
            self._transport.write(reply)


def leave_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


async def serve(latency: float) -> None:
    received = Received()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(received, latency), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    threading.Thread(target=leave_with_parent, daemon=True).start()
    await asyncio.sleep(LIFETIME)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", type=int, default=0, help="milliseconds before each answer")
    asyncio.run(serve(parser.parse_args().latency / 1000))
