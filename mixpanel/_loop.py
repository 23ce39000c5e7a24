"""Speak to the running event loop, asyncio's or trio's: the few things anyio has no word for.

anyio runs tasks inside a block of code. A sender that starts at the first `track` has no block
around it, and must be woken from threads that run no loop at all.
"""

from __future__ import annotations

import sys
import threading
from contextvars import Context
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

__all__ = ["Loop", "running"]


class Loop(Protocol):
    """One event loop, as seen from any thread."""

    @property
    def key(self) -> Any:
        """Return the object that stands for this loop."""
        ...

    def is_running(self) -> bool:
        """Tell whether the loop still runs callbacks."""
        ...

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Run a callback in the loop; from its own thread at once. Quiet when the loop is gone."""
        ...

    def spawn(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a task; call it in the loop's own thread. The task must not raise."""
        ...


class _Asyncio:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.key = loop
        self.is_running = loop.is_running  # asked for each message
        self._thread = threading.get_ident()
        self._tasks: set[asyncio.Task[None]] = set()

    def call_soon(self, callback: Callable[[], object]) -> None:
        if threading.get_ident() == self._thread and self.key.is_running():
            callback()
            return
        try:
            self.key.call_soon_threadsafe(callback)
        except RuntimeError:  # closed
            return

    def spawn(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        # A context of its own: the sender outlives the request that happened to start it.
        task = self.key.create_task(run(), context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _nothing() -> None:
    pass


class _Trio:
    def __init__(self, trio: Any) -> None:
        self._lowlevel = trio.lowlevel
        self._gone = trio.RunFinishedError
        self.key = trio.lowlevel.current_trio_token()
        self._thread = threading.get_ident()

    def is_running(self) -> bool:
        try:
            self.key.run_sync_soon(_nothing, idempotent=True)
        except self._gone:
            return False
        return True

    def call_soon(self, callback: Callable[[], object]) -> None:
        if threading.get_ident() == self._thread and self._lowlevel.in_trio_run():
            callback()
            return
        try:
            self.key.run_sync_soon(callback)
        except self._gone:
            return

    def spawn(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._lowlevel.spawn_system_task(run)


def running() -> Loop | None:
    """Return the event loop that runs in this thread, if one does."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None:
        loop = asyncio._get_running_loop()
        if loop is not None:
            return _Asyncio(loop)
    trio = sys.modules.get("trio")
    lowlevel = getattr(trio, "lowlevel", None)  # trio may be half imported by another thread
    if lowlevel is not None and lowlevel.in_trio_run():
        return _Trio(trio)
    return None


def is_running() -> bool:
    """Tell whether this thread is inside an event loop."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        return True
    trio = sys.modules.get("trio")
    lowlevel = getattr(trio, "lowlevel", None)
    return lowlevel is not None and bool(lowlevel.in_trio_run())
