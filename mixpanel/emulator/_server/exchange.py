"""One request on its way: read it, let the app answer it, or do something worse to it.

What a fault needs and ASGI does not offer (bytes of one's own, a TCP reset) reaches down to the
transport, which `server.Protocol` puts into the request's state.
"""

import asyncio
import os
import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mixpanel.emulator._server.responses import phrase
from mixpanel.emulator._storage.request_log import Journal, RecordedRequest

REFUSED = 400


class Answer(NamedTuple):
    """A whole answer, ready to be sent or spoiled."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def raw(self, *, length: int | None = None) -> tuple[bytes, bytes]:
        """Write the answer as HTTP/1.1: its head, which may lie about the length, and its body."""
        kept = [each for each in self.headers if each[0].lower() != b"content-length"]
        size = len(self.body) if length is None else length
        kept += [(b"content-length", b"%d" % size), (b"connection", b"close")]
        lines = [b"HTTP/1.1 %d %s" % (self.status, phrase(self.status).encode())]
        lines += [b"%s: %s" % header for header in kept]
        return b"\r\n".join(lines) + b"\r\n\r\n", self.body


class Stage:
    """One request, its connection, and the app that would answer it.

    `headers` are those that each answer has besides its own.
    """

    def __init__(
        self,
        app: ASGIApp,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        request: RecordedRequest,
        journal: Journal,
        limit: int,
        latency: float,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        self.request = request
        self.headers = headers
        self._app = app
        self._scope = scope
        self._receive = receive
        self._send = send
        self._journal = journal
        self._limit = limit
        self._latency = latency
        self._chunks: list[bytes] = []
        self._size = 0
        self._more = True

    async def read(self, *, some: bool = False) -> None:
        """Read the body, up to one piece more than any endpoint would take; or `some` of it."""
        try:
            while self._more and self._size <= self._limit:
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeft
                self._more = message.get("more_body", False)
                self._chunks.append(message.get("body", b""))
                self._size += len(self._chunks[-1])
                if some and self._size:
                    return
        finally:
            self._journal.fill(self.request, b"".join(self._chunks))

    async def serve(self, *, latency: float = 0) -> None:
        """Let the app take the request in, and send its answer after the latency."""
        await self.read()
        delay = self._latency + latency

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                if delay:
                    await self.wait(delay)
                self.request.status = message["status"]
            elif (self.request.status or 0) >= REFUSED:
                self.request.answer += message.get("body", b"")
            await self._send(message)

        await self._app(self._scope, self._receive, send)

    async def ingest(self) -> Answer:
        """Let the app take the request in, and keep its answer back."""
        await self.read()
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        await self._app(self._scope, self._receive, keep)
        start, *rest = messages
        body = b"".join(message.get("body", b"") for message in rest)
        return Answer(start["status"], [*start["headers"], *self.headers], body)

    async def send(self, answer: Answer) -> None:
        """Send an answer after the usual latency."""
        if self._latency:
            await self.wait(self._latency)
        self.request.status = answer.status
        self.request.answer = answer.body if answer.status >= REFUSED else b""
        length = (b"content-length", b"%d" % len(answer.body))
        headers = [*answer.headers, length]
        await self._send(
            {"type": "http.response.start", "status": answer.status, "headers": headers}
        )
        await self._send({"type": "http.response.body", "body": answer.body})

    async def write(self, data: bytes) -> None:
        """Put bytes of one's own on the wire."""
        self._transport.write(data)

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait, and say whether the client is still there. None waits until it leaves."""
        if self._transport.is_closing():
            return False
        gone = asyncio.ensure_future(self._gone())
        try:
            await asyncio.wait({gone}, timeout=seconds)
            return not gone.done()
        finally:
            gone.cancel()

    async def hang_up(self) -> None:
        """Close the connection once everything written has left."""
        self._transport.close()
        await self._gone()

    async def reset(self) -> None:
        """Break the connection with a TCP reset, so that the client cannot take it for an end."""
        if self._transport.is_closing():
            return
        connection = self._transport.get_extra_info("socket")
        linger = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._transport.abort()
        await self._gone()

    @property
    def _transport(self) -> asyncio.Transport:
        transport: asyncio.Transport = self._scope["state"]["transport"]
        return transport

    async def _gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


class ClientLeft(Exception):  # noqa: N818  # an end, not an error
    """The client closed the connection before its request was complete."""
