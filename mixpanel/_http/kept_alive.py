"""Keep surplus bytes of one answer from counting as the answer to the next request."""

from __future__ import annotations

import encodings.idna  # noqa: F401 - TLS loads it with the first name, on a loop
import socket
import ssl
import threading
from typing import Any

import anyio
import httpcore

__all__ = ["CLOSING", "KEEP_ALIVE", "SpokeFirst", "retire_if_surplus"]

CLOSING = 0.1  # seconds that letting go of an answer may take
KEEP_ALIVE = 4.0  # seconds; below the idle limit of common servers, so that none closes first


class SpokeFirst(httpcore.ConnectError):
    """Bytes came on a connection, or its end, before a request was sent on it."""


class _WaryNetwork(httpcore.AsyncNetworkBackend):
    """Connect, and send nothing where the server has spoken first: it would count as the answer.

    Only the first write of a connection is looked at; the pool looks after idle ones.
    """

    def __init__(self, network: httpcore.AsyncNetworkBackend) -> None:
        self._network = network

    async def connect_tcp(
        self, host: str, port: int, *how: Any, **more: Any
    ) -> httpcore.AsyncNetworkStream:
        try:
            stream: Any = await self._network.connect_tcp(host, port, *how, **more)
        except RuntimeError:
            if threading.main_thread().is_alive():
                raise
            # The interpreter is ending: asyncio gets no thread any more to look up the name.
            stream = await self._connect_at_exit(host, port, *how, **more)
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

    async def _connect_at_exit(self, host: str, port: int, *how: Any, **more: Any) -> Any:
        failure: Exception | None = None
        try:
            for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                try:
                    return await self._network.connect_tcp(str(address[0]), port, *how, **more)
                except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                    failure = error
        except (OSError, UnicodeError) as error:
            failure = httpcore.ConnectError(str(error))
        raise failure or httpcore.ConnectError(f"{host} has no address")

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
