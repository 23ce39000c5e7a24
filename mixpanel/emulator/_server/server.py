"""Serve the app on one listening socket, in a thread with its own event loop."""

import asyncio
import contextlib
import logging
import os
import socket
import threading
from concurrent.futures import Future
from typing import Any

from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

logger = logging.getLogger("mixpanel.emulator")

KEEP_ALIVE = 75
SHUTDOWN_TIMEOUT = 2.0
POLL_INTERVAL = 0.001
LOOP_TURNS = 8


class Protocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol, which passes its transport to the app."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = logger
        self.access_log = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in H11Protocol
        """Store the transport where faults find it."""
        self.app_state = {**self.app_state, "transport": transport}
        super().connection_made(transport)


class Server:
    """One listening socket, and the thread and event loop that serve it."""

    def __init__(self, app: ASGIApp, listener: socket.socket) -> None:
        # log_config=None: the levels and handlers of uvicorn's loggers belong to the application.
        self._config = Config(
            app,
            http=Protocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            proxy_headers=False,
            log_config=None,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE,
        )
        self._config.load()
        self._listener = listener
        self._stop = asyncio.Event()
        self._ready: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(target=self._run, name="mixpanel-emulator", daemon=True)
        self._thread.start()
        self._loop = self._ready.result()

    def stop(self) -> None:
        """Stop, and return when the thread, its sockets and its loop are closed."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
                runner.run(self._serve())
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)

    async def _serve(self) -> None:
        state = ServerState()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Protocol(config=self._config, server_state=state, app_state={}, _loop=loop),
            sock=self._listener,
        )
        self._ready.set_result(loop)
        await self._stop.wait()
        # A connection that was just accepted takes a few iterations of the loop until it is made;
        # if the server is closed before that, Python 3.11 leaks its socket.
        with contextlib.suppress(NotImplementedError):
            loop.remove_reader(self._listener)
        for _ in range(LOOP_TURNS):
            await asyncio.sleep(0)
        server.close()
        # Open connections are aborted: clients may keep them alive, or wait for a silent fault.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SHUTDOWN_TIMEOUT):
                while state.connections or state.tasks:
                    for connection in list(state.connections):
                        connection.transport.abort()
                    await asyncio.sleep(POLL_INTERVAL)


def listen(host: str, port: int) -> socket.socket:
    """Bind a port, any free one for 0."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol given, asyncio disables Nagle's algorithm: else responses take 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name != "nt":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener
