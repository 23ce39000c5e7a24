"""Receive answers that are longer than memory is large, on each event loop's own connections."""

from __future__ import annotations

import hashlib
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio.to_thread

from mixpanel._http.connections import LoopConnections
from mixpanel._runtime.private_files import create_replacing
from mixpanel.data._api.responses import MOST_BYTES
from mixpanel.data._paths import write_errors
from mixpanel.data.exceptions import ConfigError
from mixpanel.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

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

__all__ = ["Part", "StreamingConnections"]


class StreamingConnections(LoopConnections):
    """Receive from the running loop; the answers come in pieces."""

    def __init__(self, transport: TransportOptions) -> None:
        super().__init__(transport, deadline=0.0, max_response_bytes=MOST_BYTES + 1)

    def _create_transport(self) -> StreamingTransport:
        from mixpanel._http.streaming import (
            StreamingTransport,
        )

        return StreamingTransport(
            self.transport, deadline=0.0, max_response_bytes=self._max_response_bytes
        )

    async def receive(
        self,
        request: Request,
        into: Callable[[Response], Callable[[bytes], Awaitable[object]] | None],
        *,
        first: float,
        idle: float,
        overall: float,
    ) -> Response | TransportFailure:
        """Make one attempt from the running loop; see `StreamingTransport.receive`."""
        try:
            return await self.send_in_own_task(
                lambda: self._with_transport(
                    lambda transport, _: transport.receive(
                        request,
                        into,
                        headers_timeout=first,
                        idle_timeout=idle,
                        total_timeout=overall,
                    )
                )
            )
        except ConfigurationError as error:  # the environment's proxy
            raise ConfigError(str(error)) from error


class Part:
    """One file in the making, written by threads, readable for its owner alone."""

    def __init__(self, path: Path, on_bytes: Callable[[int], object] | None) -> None:
        self.bytes = 0
        self._path = path
        self._on_bytes = on_bytes
        self._file: int | None = None
        self._made = self._discarded = False
        self._digest = hashlib.sha256()
        # A cancelled caller may discard the file while a thread still writes the last piece.
        self._lock = threading.Lock()

    @property
    def digest(self) -> str:
        """The SHA-256 of the bytes so far: taken here, so that nobody reads the file for it."""
        return self._digest.hexdigest()

    def restart(self) -> None:
        if self.bytes:
            self._tell(-self.bytes)
        self._close()
        self.bytes = 0
        self._digest = hashlib.sha256()

    async def write(self, piece: bytes) -> None:
        with write_errors(self._path):
            await anyio.to_thread.run_sync(self._write, piece)
        self.bytes += len(piece)
        self._tell(len(piece))

    async def finish(self) -> None:
        with write_errors(self._path):
            await anyio.to_thread.run_sync(self._write, b"")  # an empty export is a file, too
            self._close()

    def discard(self) -> None:
        self._discarded = True
        with suppress(OSError):
            self._close()
        if self._made:
            with suppress(OSError):
                self._path.unlink()

    def _write(self, piece: bytes) -> None:
        with self._lock:
            if self._discarded:
                return
            if self._file is None:
                self._file = create_replacing(self._path)
                self._made = True
            self._digest.update(piece)
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(self._file, rest) :]

    def _close(self) -> None:
        with self._lock:
            file, self._file = self._file, None
            if file is not None:
                os.close(file)

    def _tell(self, count: int) -> None:
        if self._on_bytes is not None:
            with suppress(Exception):  # a progress bar must not stop what it shows
                self._on_bytes(count)
