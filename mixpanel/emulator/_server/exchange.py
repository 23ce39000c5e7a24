"""One request and its response: read it, let the app respond, or break it as a fault does.

Faults need what ASGI does not offer: raw bytes on the connection, or a TCP reset. For these it uses
the asyncio transport, which `server.Protocol` puts into the request's state.
"""

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mixpanel.emulator._server.responses import phrase
from mixpanel.emulator._storage.request_log import RecordedRequest, RequestLog

FIRST_ERROR_STATUS = 400


class BufferedResponse(NamedTuple):
    """A complete response, to be sent or to be changed first."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def raw(self, *, length: int | None = None) -> tuple[bytes, bytes]:
        """Return the response as HTTP/1.1: its head, with any Content-Length, and its body."""
        kept = [each for each in self.headers if each[0].lower() != b"content-length"]
        size = len(self.body) if length is None else length
        kept += [(b"content-length", b"%d" % size), (b"connection", b"close")]
        lines = [b"HTTP/1.1 %d %s" % (self.status, phrase(self.status).encode())]
        lines += [b"%s: %s" % header for header in kept]
        return b"\r\n".join(lines) + b"\r\n\r\n", self.body


class RequestExchange:
    """One request, its connection, and the app that responds to it.

    `headers` are added to every response. `publish` is called with the status and the beginning of
    the body once they are known and before they are sent, or with None and nothing where a fault
    leaves the request without them; it ignores all calls but the first.
    """

    def __init__(
        self,
        app: ASGIApp,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        request: RecordedRequest,
        request_log: RequestLog,
        limit: int,
        latency: float,
        publish: Callable[[int | None, bytes], None],
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        self.request = request
        self.headers = headers
        self._app = app
        self._scope = scope
        self._receive = receive
        self._send = send
        self._journal = request_log
        self._limit = limit
        self._latency = latency
        self._publish = publish
        self._chunks: list[bytes] = []
        self._size = 0
        self._more = True

    async def read(self, *, some: bool = False) -> None:
        """Read the body, at most one chunk more than an endpoint accepts; or `some` of it."""
        try:
            while self._more and self._size <= self._limit:
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnected
                self._more = message.get("more_body", False)
                self._chunks.append(message.get("body", b""))
                self._size += len(self._chunks[-1])
                if some and self._size:
                    return
        finally:
            self._journal.set_body(self.request, b"".join(self._chunks))

    async def serve(self, *, latency: float = 0) -> None:
        """Let the app handle the request, and send its response after the latency."""
        await self.read()
        delay = self._latency + latency

        start: list[Message] = []

        async def send(message: Message) -> None:
            # Held back until the first piece of the body: the latency comes before the status line,
            # and the log has the status only of what was sent.
            if message["type"] == "http.response.start":
                start.append(message)
                return
            body = message.get("body", b"")
            if start:
                head = start.pop()
                status = head["status"]
                self.request.response_body = body if status >= FIRST_ERROR_STATUS else b""
                self._publish(status, body)
                if delay:
                    await self.wait(delay)
                self.request.status = status
                await self._send(head)
            elif (self.request.status or 0) >= FIRST_ERROR_STATUS:
                self.request.response_body += body
            await self._send(message)

        await self._app(self._scope, self._receive, send)

    async def ingest(self) -> BufferedResponse:
        """Let the app handle the request, and return its response without sending it."""
        await self.read()
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        await self._app(self._scope, self._receive, keep)
        start, *rest = messages
        body = b"".join(message.get("body", b"") for message in rest)
        self._publish(start["status"], body)
        return BufferedResponse(start["status"], [*start["headers"], *self.headers], body)

    async def send(self, response: BufferedResponse) -> None:
        """Send a response after the usual latency."""
        self._publish(response.status, response.body)
        if self._latency:
            await self.wait(self._latency)
        self.request.status = response.status
        self.request.response_body = response.body if response.status >= FIRST_ERROR_STATUS else b""
        length = (b"content-length", b"%d" % len(response.body))
        headers = [*response.headers, length]
        await self._send(
            {"type": "http.response.start", "status": response.status, "headers": headers}
        )
        await self._send({"type": "http.response.body", "body": response.body})

    async def write(self, data: bytes) -> None:
        """Write raw bytes to the connection."""
        self._publish(None, b"")
        self._transport.write(data)

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait, and return False if the client disconnected. None waits until it does."""
        self._publish(None, b"")
        if self._transport.is_closing():
            return False
        gone = asyncio.ensure_future(self._disconnected())
        try:
            await asyncio.wait({gone}, timeout=seconds)
            return not gone.done()
        finally:
            gone.cancel()

    async def hang_up(self) -> None:
        """Close the connection after everything written was sent."""
        self._transport.close()
        await self._disconnected()

    async def reset(self) -> None:
        """Break the connection with a TCP reset, which the client cannot mistake for its end."""
        self._publish(None, b"")
        if self._transport.is_closing():
            return
        connection = self._transport.get_extra_info("socket")
        # With a linger time of zero, closing discards what is unsent and sends RST instead of FIN.
        linger = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._transport.abort()
        await self._disconnected()

    @property
    def _transport(self) -> asyncio.Transport:
        transport: asyncio.Transport = self._scope["state"]["transport"]
        return transport

    async def _disconnected(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


class ClientDisconnected(Exception):  # noqa: N818 - an end, not an error
    """The client closed the connection before its request was complete."""
