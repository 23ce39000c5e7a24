"""Use the running event loop, asyncio's or trio's, where anyio has no function for it.

anyio runs tasks inside task groups. A sender that starts at the first `track` has no task group
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
    "alive_check",
    "in_own_task",
    "in_worker_thread",
    "is_interactive",
    "is_running",
    "load_backend",
    "running_loop",
]

R = TypeVar("R")

ANYIO_NAMES = (  # of anyio, in this package
    "CancelScope", "CapacityLimiter", "Event", "Lock", "Semaphore", "WouldBlock",
    "create_task_group", "current_effective_deadline", "current_time",
    "get_cancelled_exc_class", "lowlevel", "move_on_after", "sleep", "to_thread",
)  # fmt: skip
CLEANUP_TIMEOUT = 0.1  # seconds that a cancelled call may take to clean up


class Loop(Protocol):
    """An event loop, with what may be called from any thread and what only in its own."""

    @property
    def key(self) -> Any:
        """Return the library's own object for this loop, which identifies it."""
        ...

    @property
    def backend(self) -> str:
        """Return the name of the library, as anyio has it."""
        ...

    def is_running(self) -> bool:
        """Return True while the loop runs callbacks."""
        ...

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Run a callback in the loop: at once in its own thread. Do nothing if the loop ended."""
        ...

    def call_later(self, seconds: float, callback: Callable[[], object]) -> None:
        """Run a callback in the loop after a delay. To be called in the loop's own thread."""
        ...

    def spawn(
        self,
        run: Callable[[], Coroutine[Any, Any, None]],
        *,
        context: Context | None = None,
        on_done: Callable[[], object] | None = None,
    ) -> None:
        """Start a task, which must not raise. To be called in the loop's own thread.

        `on_done` is called when the task has ended. That includes a task that was cancelled before
        its first step, in which no code of its own, not even a `finally`, has run.
        """
        ...


class _AsyncioLoop:
    backend = "asyncio"

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.key = loop
        self.is_running = loop.is_running  # not wrapped, because it is called for each message
        self._thread = threading.get_ident()
        self._tasks: set[asyncio.Task[None]] = set()  # asyncio itself refers to tasks only weakly

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
        on_done: Callable[[], object] | None = None,
    ) -> None:
        # In a context of its own: the sender outlives the request that happened to start it.
        task = self.key.create_task(run(), context=context or Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if on_done is not None:
            task.add_done_callback(lambda _: on_done())


def _do_nothing() -> None:
    pass


class _TrioLoop:
    backend = "trio"

    def __init__(self, trio: Any) -> None:
        self._lowlevel = trio.lowlevel
        self._finished_error = trio.RunFinishedError
        self.key = trio.lowlevel.current_trio_token()
        self._thread = threading.get_ident()

    def is_running(self) -> bool:
        try:
            self.key.run_sync_soon(_do_nothing, idempotent=True)
        except self._finished_error:
            return False
        return True

    def call_soon(self, callback: Callable[[], object]) -> None:
        if threading.get_ident() == self._thread and _in_trio_run(self._lowlevel):
            callback()
            return
        try:
            self.key.run_sync_soon(callback)
        except self._finished_error:
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
        on_done: Callable[[], object] | None = None,
    ) -> None:
        async def run_to_end() -> None:
            try:
                await run()
            finally:
                if on_done is not None:
                    on_done()

        self._lowlevel.spawn_system_task(run_to_end, context=context)


_loaded: set[str] = set()


def load_backend(library: str) -> None:
    """Import anyio's backend for an async library, under the import lock.

    anyio does so at its first use in a loop, and newer versions import each of their names when it
    is first used. A child that was forked during such an import would wait for it forever.
    """
    if library not in _loaded:
        with import_lock:
            for name in ANYIO_NAMES:
                getattr(anyio, name)
            with suppress(ImportError):  # anyio reports what is missing
                import_module(f"anyio._backends._{library}")
        _loaded.add(library)


def running_loop() -> Loop | None:
    """Return the event loop that is running in this thread, or None."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None:
        loop = asyncio._get_running_loop()
        if loop is not None:
            load_backend("asyncio")
            return _AsyncioLoop(loop)
    trio = sys.modules.get("trio")
    lowlevel = getattr(trio, "lowlevel", None)  # trio may be half imported by another thread
    if lowlevel is not None and _in_trio_run(lowlevel):
        load_backend("trio")
        return _TrioLoop(trio)
    return None


def alive_check() -> Callable[[], bool]:
    """Return a function that returns True while this thread's loop, or else the thread, runs."""
    here = running_loop()
    if here is not None:
        return here.is_running
    thread = threading.current_thread()
    # `is_alive` of the main thread is False during `atexit` handlers, which run in it.
    return _always if thread is threading.main_thread() else thread.is_alive


def _always() -> bool:
    return True


class TaskEndedError(RuntimeError):
    """The task was cancelled from outside, as by code that cancels all tasks of a loop."""


class _TaskCall(Generic[R]):
    """A call in a task of its own, with its cancel scope and its result or error."""

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
            except BaseException as error:  # also SystemExit, which would end the loop
                self.error = error


async def in_own_task(call: Callable[[], Awaitable[R]]) -> R:
    """Await a call in a task of its own; cancelling the caller cancels it by an anyio scope.

    asyncio code cancels natively (`task.cancel()`), and may do so twice, as when two nested
    timeouts expire together. The second cancellation would interrupt the cleanup after the first,
    and httpcore would never free its connection. Here it only ends the caller's wait.

    :raises TaskEndedError: when the task itself was cancelled from outside.
    """
    here = running_loop()
    assert here is not None
    own = _TaskCall(call)
    here.spawn(own.run, context=copy_context(), on_done=own.done.set)
    try:
        await own.done.wait()
    except BaseException:
        own.scope.cancel()
        with anyio.move_on_after(CLEANUP_TIMEOUT, shield=True):
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


def is_interactive() -> bool:
    """Return True in code that a user enters in a session whose own event loop runs it.

    That is a cell of Jupyter, IPython or marimo, or a statement in `python -m asyncio`. The loop
    runs only the user's code: it may be blocked as any sync code in a cell blocks it. A subshell of
    a Jupyter kernel has a thread and a loop of its own.
    """
    thread = threading.current_thread()
    if thread is not threading.main_thread():
        return type(thread).__module__ == "ipykernel.subshell"
    ipython = sys.modules.get("IPython")
    if ipython is not None and ipython.get_ipython() is not None:
        return True
    marimo = sys.modules.get("marimo")
    if marimo is not None and marimo.running_in_notebook():
        return True
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name == "asyncio.__main__"


def _in_trio_run(lowlevel: Any) -> bool:
    try:
        return bool(lowlevel.in_trio_run())
    except AttributeError:  # trio before 0.28, or one that another thread is just importing
        token = getattr(lowlevel, "current_trio_token", None)
    try:
        return token is not None and bool(token())
    except RuntimeError:
        return False
