"""Keep surplus bytes of one response from being read as the response to the next request.

HTTP/1.1 pairs responses with requests by their order alone. So nothing is sent on a new connection
on which the server already sent something, and no connection is reused that has delivered more
than one whole response.
"""

from __future__ import annotations

import socket
import ssl
import threading
from typing import Any

import anyio

from mixpanel._http.libraries import httpcore

__all__ = [
    "CLOSE_TIMEOUT",
    "KEEP_ALIVE",
    "CheckedNetworkBackend",
    "UnsolicitedDataError",
    "retire_if_surplus",
]

CLOSE_TIMEOUT = 0.1  # seconds that closing a response or a connection may take
KEEP_ALIVE = 4.0  # seconds; below the idle limit of common servers, so that none closes first


class UnsolicitedDataError(httpcore.ConnectError):
    """The server sent data on a connection, or closed it, before a request was sent."""


class CheckedNetworkBackend(httpcore.AsyncNetworkBackend):
    """Connect, and refuse to send on a connection that already has unsolicited data.

    Only the first write on a connection is checked; httpcore's pool checks idle connections.
    """

    def __init__(self, network: httpcore.AsyncNetworkBackend) -> None:
        self._network = network

    async def connect_tcp(
        self, host: str, port: int, *args: Any, **options: Any
    ) -> httpcore.AsyncNetworkStream:
        try:
            stream: Any = await self._network.connect_tcp(host, port, *args, **options)
        except RuntimeError:
            if threading.main_thread().is_alive():
                raise
            # The interpreter is ending: asyncio can start no thread to look up the name.
            stream = await self._connect_at_exit(host, port, *args, **options)
        write = stream.write

        async def first_write(buffer: bytes, timeout: float | None = None) -> None:
            stream.write = write
            if stream.get_extra_info("is_readable") or _has_queued_data(stream):
                raise UnsolicitedDataError("it would be read as the response")
            await write(buffer, timeout)

        start_tls = stream.start_tls

        async def close_on_failure(*arguments: Any, **options: Any) -> httpcore.AsyncNetworkStream:
            try:
                return await start_tls(*arguments, **options)  # type: ignore[no-any-return]
            except BaseException:  # httpcore leaves the socket open when it is cancelled
                with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
                    await stream.aclose()
                raise

        stream.write, stream.start_tls = first_write, close_on_failure
        return stream  # type: ignore[no-any-return]

    async def _connect_at_exit(self, host: str, port: int, *args: Any, **options: Any) -> Any:
        failure: Exception | None = None
        try:
            for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                try:
                    return await self._network.connect_tcp(str(address[0]), port, *args, **options)
                except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                    failure = error
        except (OSError, UnicodeError) as error:
            failure = httpcore.ConnectError(str(error))
        raise failure or httpcore.ConnectError(f"{host} has no address")

    async def connect_unix_socket(
        self, *address: Any, **options: Any
    ) -> httpcore.AsyncNetworkStream:
        return await self._network.connect_unix_socket(*address, **options)

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)


def _has_queued_data(stream: Any) -> bool:
    """Return True if anyio has read data that httpcore has not: asyncio reads ahead."""
    protocol = getattr(getattr(stream, "_stream", None), "_protocol", None)
    return bool(getattr(protocol, "read_queue", None))


def retire_if_surplus(stream: object) -> None:
    """Have a connection closed, not reused, if it delivered more than the whole response.

    Data that arrives later, while the connection is idle, is noticed before it is reused. One case
    cannot be detected: surplus that arrives after the next request was sent, together with that
    request's own response.
    """
    # httpx, the pool and proxies each wrap the stream. Innermost is the HTTP/1.1 connection; with a
    # stream of the caller's own transport there may be none.
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
    state: Any = getattr(stream, "_h11_state", None)  # httpcore has no public access to it
    if state is None:
        return
    if state.trailing_data[0] or _has_read_ahead(stream._network_stream):
        state.send_failed()  # puts h11 into its error state, so httpcore closes the connection


def _has_read_ahead(stream: httpcore.AsyncNetworkStream | httpcore.NetworkStream) -> bool:
    """Return True if anyio or TLS holds data from the socket that was not read yet."""
    if _has_queued_data(stream):
        return True
    tls = stream.get_extra_info("ssl_object")
    if isinstance(tls, ssl.SSLSocket):
        return tls.pending() > 0
    if not isinstance(tls, ssl.SSLObject):
        return False
    try:
        tls.read(1)  # it may consume a byte: the connection is not used again then
    except ssl.SSLWantReadError:
        return False
    except ssl.SSLError:
        return True
    return True
