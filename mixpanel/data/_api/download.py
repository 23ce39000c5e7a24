"""Download responses that do not fit into memory, over each event loop's own connections."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio.to_thread

from mixpanel._http.connections import LoopConnections
from mixpanel._runtime import native_threads
from mixpanel._runtime.private_files import create_replacing
from mixpanel.data._api.responses import MAX_BYTES
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

__all__ = ["PartFile", "StreamingConnections"]


class StreamingConnections(LoopConnections):
    """Connections of each event loop that receive responses piece by piece."""

    def __init__(self, transport: TransportOptions) -> None:
        super().__init__(transport, deadline=0.0, max_response_bytes=MAX_BYTES + 1)

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


class PartFile:
    """A file that is being downloaded, readable by its owner only; worker threads write it.

    `on_bytes` gets the number of bytes of each piece, and a negative number when an attempt is
    discarded.
    """

    def __init__(self, path: Path, on_bytes: Callable[[int], object] | None) -> None:
        self.bytes = 0
        self._path = path
        self._on_bytes = on_bytes
        self._file: int | None = None
        self._created = self._discarded = False
        self._digest = hashlib.sha256()
        # A cancelled caller may discard the file while a thread still writes the last piece.
        self._lock = native_threads.new_lock()

    @property
    def digest(self) -> str:
        """The SHA-256 of the bytes so far; taken while writing, to save reading the file again."""
        return self._digest.hexdigest()

    def restart(self) -> None:
        """Discard the bytes of a failed attempt; the next write begins a new file."""
        if self.bytes:
            self._report(-self.bytes)
        self._close()
        self.bytes = 0
        self._digest = hashlib.sha256()

    async def write(self, piece: bytes) -> None:
        """Append a piece.

        :raises MixpanelDataError: when the file cannot be written.
        """
        with write_errors(self._path):
            await anyio.to_thread.run_sync(self._write, piece)
        self.bytes += len(piece)
        self._report(len(piece))

    async def finish(self) -> None:
        """Close the file; an empty download is a file, too.

        :raises MixpanelDataError: when the file cannot be written.
        """
        with write_errors(self._path):
            await anyio.to_thread.run_sync(self._write, b"")
            self._close()

    def discard(self) -> None:
        """Close and delete the file."""
        self._discarded = True
        with suppress(OSError):
            self._close()
        if self._created:
            with suppress(OSError):
                self._path.unlink()

    def _write(self, piece: bytes) -> None:
        with self._lock:
            if self._discarded:
                return
            if self._file is None:
                self._file = create_replacing(self._path)
                self._created = True
            self._digest.update(piece)
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(self._file, rest) :]

    def _close(self) -> None:
        with self._lock:
            file, self._file = self._file, None
            if file is not None:
                os.close(file)

    def _report(self, count: int) -> None:
        if self._on_bytes is not None:
            with suppress(Exception):  # a progress bar must not stop what it shows
                self._on_bytes(count)
