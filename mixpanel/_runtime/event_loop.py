"""Speak to the running event loop, asyncio's or trio's: the few things anyio has no word for.

anyio runs tasks inside a block of code. A sender that starts at the first `track` has no block
around it, and must be woken from threads that run no loop at all.
"""

from __future__ import annotations

import sys
import threading
from contextlib import suppress
from contextvars import Context, copy_context
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import anyio
import anyio.to_thread

from mixpanel._runtime.import_lock import import_lock

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Coroutine

__all__ = [
    "Loop",
    "TaskEndedError",
    "in_own_task",
    "in_worker_thread",
    "is_running",
    "load_backend",
    "owner",
    "running",
]

R = TypeVar("R")

USED_NAMES = (  # of anyio, in this package
    "CancelScope", "CapacityLimiter", "Event", "Lock", "Semaphore", "WouldBlock",
    "create_task_group", "current_effective_deadline", "current_time",
    "get_cancelled_exc_class", "lowlevel", "move_on_after", "sleep", "to_thread",
)  # fmt: skip
UNWINDING = 0.1  # seconds that a cancelled call may take to put things in order


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

    def call_later(self, seconds: float, callback: Callable[[], object]) -> None:
        """Run a callback in the loop, if it still runs then; call it in the loop's own thread."""
        ...

    def spawn(
        self,
        run: Callable[[], Coroutine[Any, Any, None]],
        *,
        context: Context | None = None,
        ended: Callable[[], object] | None = None,
    ) -> None:
        """Start a task; call it in the loop's own thread. The task must not raise.

        `ended` is called when it is over, also when it was cancelled before its first step: code
        in the task itself does not run then.
        """
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

    def call_later(self, seconds: float, callback: Callable[[], object]) -> None:
        self.key.call_later(seconds, callback)

    def spawn(
        self,
        run: Callable[[], Coroutine[Any, Any, None]],
        *,
        context: Context | None = None,
        ended: Callable[[], object] | None = None,
    ) -> None:
        # A context of its own: the sender outlives the request that happened to start it.
        task = self.key.create_task(run(), context=context or Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if ended is not None:
            task.add_done_callback(lambda _: ended())


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
        if threading.get_ident() == self._thread and _in_trio_run(self._lowlevel):
            callback()
            return
        try:
            self.key.run_sync_soon(callback)
        except self._gone:
            return

    def call_later(self, seconds: float, callback: Callable[[], object]) -> None:
        async def later() -> None:
            await anyio.sleep(seconds)
            callback()

        self._lowlevel.spawn_system_task(later)

    def spawn(
        self,
        run: Callable[[], Coroutine[Any, Any, None]],
        *,
        context: Context | None = None,
        ended: Callable[[], object] | None = None,
    ) -> None:
        async def whole() -> None:
            try:
                await run()
            finally:
                if ended is not None:
                    ended()

        self._lowlevel.spawn_system_task(whole, context=context)


_loaded: set[str] = set()


def load_backend(library: str) -> None:
    """Import what anyio knows of a loop's library, while no fork can happen.

    anyio does so at its first use in a loop, and newer versions import each of their names when it
    is first used. A child that was forked during such an import would wait for it for ever.
    """
    if library not in _loaded:
        with import_lock:
            for name in USED_NAMES:
                getattr(anyio, name)
            with suppress(ImportError):  # anyio says itself what is missing
                import_module(f"anyio._backends._{library}")
        _loaded.add(library)


def running() -> Loop | None:
    """Return the event loop that runs in this thread, if one does."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None:
        loop = asyncio._get_running_loop()
        if loop is not None:
            load_backend("asyncio")
            return _Asyncio(loop)
    trio = sys.modules.get("trio")
    lowlevel = getattr(trio, "lowlevel", None)  # trio may be half imported by another thread
    if lowlevel is not None and _in_trio_run(lowlevel):
        load_backend("trio")
        return _Trio(trio)
    return None


def owner() -> Callable[[], bool]:
    """Return what tells whether this thread, or the loop that runs in it, is still alive."""
    here = running()
    if here is not None:
        return here.is_running
    thread = threading.current_thread()
    # At exit the main thread counts as ended, while `atexit` handlers still run in it.
    return _always if thread is threading.main_thread() else thread.is_alive


def _always() -> bool:
    return True


class TaskEndedError(RuntimeError):
    """Somebody else cancelled the task that worked for us, as by cancelling all tasks."""


class _Call(Generic[R]):
    """One call in a task of its own: how to cancel it, and what it returned or raised."""

    def __init__(self, call: Callable[[], Awaitable[R]]) -> None:
        self.scope = anyio.CancelScope()
        self.done = anyio.Event()
        self.result: list[R] = []
        self.error: BaseException | None = None
        self._call = call

    async def run(self) -> None:
        with self.scope:
            try:
                self.result.append(await self._call())
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:  # also SystemExit: it is the caller's, not the loop's
                self.error = error


async def in_own_task(call: Callable[[], Awaitable[R]]) -> R:
    """Await a call in a task of our own, which the caller's cancellation ends by an anyio scope.

    asyncio code cancels natively (`task.cancel()`), and may do so twice, as two nested timeouts
    that end together. The second one would interrupt the cleanup of whatever was cancelled, and
    httpcore would never give back its connection. Here it only ends the waiting.

    :raises TaskEndedError: when somebody cancelled the task itself.
    """
    here = running()
    assert here is not None
    own = _Call(call)
    here.spawn(own.run, context=copy_context(), ended=own.done.set)
    try:
        await own.done.wait()
    except BaseException:
        own.scope.cancel()
        with anyio.move_on_after(UNWINDING, shield=True):
            await own.done.wait()
        raise
    error = own.error
    if error is not None:
        try:
            raise error
        finally:
            del own, error  # the traceback holds this frame
    if not own.result:
        raise TaskEndedError("the task of this call was cancelled")
    return own.result[0]


async def in_worker_thread(
    function: Callable[[], R],
    *,
    limiter: anyio.CapacityLimiter | None = None,
    abandon_on_cancel: bool = False,
) -> R:
    """Run a blocking function in a worker thread and return its result.

    At the end of the interpreter no thread can start any more (Python 3.12 refuses them as soon as
    the main thread has ended); what is still under way then runs here, on the loop.
    """
    started = False

    def run() -> R:
        nonlocal started
        started = True
        return function()

    try:
        return await anyio.to_thread.run_sync(
            run, limiter=limiter, abandon_on_cancel=abandon_on_cancel
        )
    except RuntimeError:
        if started or threading.main_thread().is_alive():
            raise
    return function()


def is_running() -> bool:
    """Return True if this thread is inside an event loop."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        return True
    trio = sys.modules.get("trio")
    lowlevel = getattr(trio, "lowlevel", None)
    return lowlevel is not None and _in_trio_run(lowlevel)


def _in_trio_run(lowlevel: Any) -> bool:
    try:
        return bool(lowlevel.in_trio_run())
    except AttributeError:  # trio before 0.28, or one that another thread is just importing
        token = getattr(lowlevel, "current_trio_token", None)
    try:
        return token is not None and bool(token())
    except RuntimeError:
        return False
