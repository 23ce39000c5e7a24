"""Read the local database in child processes, with limits of time and memory."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
from anyio.streams.buffered import BufferedByteReceiveStream

from mixpanel.data.exceptions import DatabaseNotFoundError, MixpanelDataError
from mixpanel.data.store import part_files, resources

if TYPE_CHECKING:
    from anyio.abc import Process

__all__ = ["LocalDatabase"]

TIMEOUT = 30.0  # seconds for one statement or report
STARTUP = 60.0  # seconds to import DuckDB on a busy machine
CONCURRENT = 2
MAX_LINE = 64 * 1024 * 1024
SECRETS = ("MP_SECRET", "MP_OAUTH_TOKEN", "MP_TOKEN", "MP_MCP_TOKEN")


@dataclass(slots=True)
class _Worker:
    process: Process
    responses: BufferedByteReceiveStream


class LocalDatabase:
    """The local database at `path`, read-only, for up to `CONCURRENT` calls at the same time.

    A call that takes longer than `timeout` seconds, or is cancelled, is ended by killing its
    process. Other processes are kept for the next call. Use it on one event loop, and close it.
    """

    def __init__(
        self,
        path: Path,
        *,
        timeout: float = TIMEOUT,
        memory_limit: str | None = None,
        threads: int | None = None,
    ) -> None:
        self.path = path
        self.timeout = timeout
        # The default is half of the machine's memory, here shared by all processes.
        share = max(resources.LEAST_MEMORY, resources.memory_limit(None) // CONCURRENT)
        self._memory = memory_limit or f"{share}B"
        self._threads = threads or 0
        self._idle: list[_Worker] = []
        self._busy: set[int] = set()
        self._limiter: anyio.Semaphore | None = None

    async def call(self, function: str, **arguments: Any) -> Any:
        """Call a function of `local` in a process, and return its result.

        :raises DatabaseNotFoundError: if there is no database yet.
        :raises MixpanelDataError: if that function raises it; with the code SQL_TIMEOUT after the
            timeout, and PROCESS_ENDED if the process ended without a result.
        """
        if not self.path.is_file():
            raise DatabaseNotFoundError(self.path)
        if self._limiter is None:
            self._limiter = anyio.Semaphore(CONCURRENT)
        async with self._limiter:
            worker = self._idle.pop() if self._idle else await self._start()
            finished = False
            try:
                found = await self._request(worker, {"function": function, "arguments": arguments})
                finished = True
            finally:
                if finished:
                    self._idle.append(worker)
                else:
                    await _end(worker)
        if "error" in found:
            error = found["error"]
            raise MixpanelDataError(
                error["message"], code=error["code"], details=error.get("details")
            )
        return found["result"]

    async def _start(self) -> _Worker:
        command = [sys.executable, "-P", "-m", "mixpanel._agents.worker"]
        environment = {name: value for name, value in os.environ.items() if name not in SECRETS}
        process = await anyio.open_process(
            [*command, str(self.path), self._memory, str(self._threads)],
            env=environment,
            stderr=None,
        )
        assert process.stdout is not None
        worker = _Worker(process, BufferedByteReceiveStream(process.stdout))
        try:
            with anyio.fail_after(STARTUP):
                await worker.responses.receive_until(b"\n", MAX_LINE)
        except BaseException as error:
            await _end(worker)
            if isinstance(error, anyio.IncompleteRead | TimeoutError):
                raise _process_error(process) from None
            raise
        return worker

    async def _request(self, worker: _Worker, request: dict[str, Any]) -> Any:
        assert worker.process.stdin is not None
        try:
            with anyio.fail_after(self.timeout):
                await worker.process.stdin.send(json.dumps(request).encode() + b"\n")
                line = await worker.responses.receive_until(b"\n", MAX_LINE)
        except TimeoutError:
            raise MixpanelDataError(
                f"stopped after {self.timeout:g} seconds", code="SQL_TIMEOUT"
            ) from None
        except (anyio.IncompleteRead, anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise _process_error(worker.process) from None
        return json.loads(line)

    async def aclose(self) -> None:
        """Kill the processes."""
        while self._idle:
            await _end(self._idle.pop())


def _process_error(process: Process) -> MixpanelDataError:
    return MixpanelDataError(
        f"the process that reads the database ended (exit code {process.returncode}), perhaps for "
        "lack of memory",
        code="PROCESS_ENDED",
    )


async def _end(worker: _Worker) -> None:
    """Kill a process, and remove the files that DuckDB spilled to disk for it."""
    with anyio.CancelScope(shield=True):
        with suppress(ProcessLookupError):
            worker.process.kill()
        await worker.process.aclose()
        folder = Path(tempfile.gettempdir())
        await anyio.to_thread.run_sync(part_files.remove_abandoned, folder)
