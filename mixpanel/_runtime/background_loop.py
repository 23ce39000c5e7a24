"""Call async code from sync code: one home loop a process, on a daemon thread.

asgiref's `async_to_sync` would start a new thread and loop for each call, and connections belong to
one loop. It looks for a loop to use in `SyncToAsync.threadlocal.main_event_loop`; for the length
of a call that is pointed at the home loop. The only room that knows asgiref.
"""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import suppress
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import anyio
from asgiref.sync import AsyncToSync, SyncToAsync

from mixpanel._runtime import event_loop, fork, shutdown
from mixpanel._runtime.import_lock import import_lock
from mixpanel._runtime.safe_logging import logger
from mixpanel.exceptions import SyncInAsyncError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Future

__all__ = [
    "background_loop",
    "call_in_caller_thread",
    "on_background_thread",
    "refuse_in_async",
    "run",
    "run_anywhere",
    "soon",
    "stop_background_loop",
    "submit",
]

P = ParamSpec("P")
R = TypeVar("R")


class _Home:
    """The loop that the sync faces share, started at the first call."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._live, name="mixpanel-home", daemon=True)
        self.thread.start()
        shutdown.on_shutdown(self.leave)

    def _live(self) -> None:
        # On a loop of its own: what a first call does to this one is for the code below.
        with import_lock, asyncio.Runner() as elsewhere:
            elsewhere.run(_warm())
        asyncio.set_event_loop(self.loop)
        while True:
            try:
                self.loop.run_forever()
                return
            except BaseException:  # a task's own, which has it; the loop is everybody's
                logger.debug("a task on the home loop wanted to exit", exc_info=True)

    def leave(self) -> None:
        """Cancel what runs, let it close its connections, and stop."""
        if self.pid != os.getpid() or self.loop.is_closed():
            return

        async def cancel_all() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=0.25) if tasks else None
            self.loop.stop()

        Context().run(asyncio.run_coroutine_threadsafe, cancel_all(), self.loop)
        self.thread.join(timeout=0.5)
        if not self.thread.is_alive():
            self.loop.close()


async def _warm() -> None:
    event_loop.load_backend("asyncio")
    async with anyio.create_task_group():
        pass


TIDYING = 10.0  # seconds that a call may take to end after Ctrl-C; a second one waits no longer

_home: _Home | None = None
_starting = threading.RLock()
_when_started: list[Callable[[], object]] = []  # what signal handlers wanted meanwhile
_inherited: list[_Home] = []  # a forked child has the objects, but not the thread


def background_loop() -> asyncio.AbstractEventLoop:
    """Return the home loop, starting it in this process if need be."""
    global _home
    home = _home
    if home is None or home.loop.is_closed():
        with _starting:
            if _home is None or _home.loop.is_closed():
                _home = _Home()
            home = _home
        while _when_started:
            home.loop.call_soon_threadsafe(_when_started.pop())
    return home.loop


def _is_starting_here() -> bool:
    """Return True in a signal handler that interrupted this thread while it starts the loop."""
    return bool(_starting._is_owned())  # type: ignore[attr-defined]


def call_on_background_loop(callback: Callable[[], object]) -> None:
    """Run a callback on the home loop soon, without waiting: from any thread and signal handler."""
    if _is_starting_here():
        _when_started.append(callback)
    else:
        # In a context of its own: the caller's may say that the current library is trio.
        Context().run(background_loop().call_soon_threadsafe, callback)


def start_on_background_loop(call: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Start an async function on the home loop soon; it must not raise."""

    def start() -> None:
        task = asyncio.ensure_future(call())
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)

    call_on_background_loop(start)


_tasks: set[asyncio.Task[Any]] = set()  # a loop alone does not keep its tasks alive


def stop_background_loop() -> None:
    """Stop the home loop; the next call starts another."""
    global _home
    with _starting:
        home, _home = _home, None
    if home is not None:
        home.leave()


def _after_fork() -> None:
    global _home, _starting
    _starting = threading.RLock()
    _when_started.clear()
    _tasks.clear()
    if _home is not None:
        _inherited.append(_home)
        _home = None


fork.register(fork.Order.LOOPS, after_in_child=_after_fork)


def submit(call: Callable[[], Coroutine[Any, Any, R]]) -> Future[R]:
    """Start an async function on the home loop; return its future without waiting for it."""
    # In a context of its own: the caller's may say that the current library is trio.
    return Context().run(asyncio.run_coroutine_threadsafe, call(), background_loop())


def soon(call: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Start an async function on the home loop, if there is one."""
    if _home is not None and not _home.loop.is_closed():
        submit(call)


def on_background_thread() -> bool:
    """Return True on the thread of the home loop: in a callback, a log handler or a finalizer."""
    return _home is not None and threading.current_thread() is _home.thread


def refuse_in_async(name: str, instead: str = "", *, allow_background_loop: bool = False) -> None:
    """Refuse a blocking call on the thread of a running event loop; perhaps not on the home loop.

    :raises SyncInAsyncError: naming what to use there.
    """
    if event_loop.is_running() and not (allow_background_loop and on_background_thread()):
        instead = instead or f"use Async{name.partition('.')[0]} and await it"
        raise SyncInAsyncError(
            f"{name} blocks, and an event loop runs in this thread: {instead}, "
            "or call it through asgiref's sync_to_async or in a worker thread"
        )


class _Caller:
    """A sync caller who waits in `run`, and what stopped it there."""

    def __init__(self) -> None:
        self.stop: BaseException | None = None
        self._task: asyncio.Task[Any] | None = None
        self._left = False
        self._ended = threading.Event()

    def waited_for(
        self, call: Callable[P, Coroutine[Any, Any, R]]
    ) -> Callable[P, Coroutine[Any, Any, R]]:
        """Let the caller leave the call before it has ended."""

        async def working(*args: P.args, **kwargs: P.kwargs) -> R:
            self._task = task = asyncio.current_task()
            assert task is not None
            task.add_done_callback(lambda _: self._ended.set())
            try:
                if self._left:
                    raise asyncio.CancelledError
                return await self._unstopped(call(*args, **kwargs))
            finally:
                self._task = None

        return working

    async def _unstopped(self, work: Coroutine[Any, Any, R]) -> R:
        try:
            return await work
        except (Exception, asyncio.CancelledError):
            raise
        except BaseException as stop:
            raise self._stopped(stop) from stop

    def leave(self) -> None:
        """Cancel what nobody waits for any more, and let it put things in order."""
        self._left = True
        task = self._task
        if task is None:  # not begun, or over
            return
        with suppress(RuntimeError):  # the loop is closed
            task.get_loop().call_soon_threadsafe(task.cancel)
            self._ended.wait(TIDYING)

    def end(self) -> None:
        """Cancel the call as a whole, when a task of it was asked to stop by the caller."""
        task = self._task
        if self.stop is not None and task is not None and task is not asyncio.current_task():
            task.cancel()

    def called(self, function: Callable[[], R]) -> R:
        if self.stop is not None:
            raise asyncio.CancelledError
        try:
            return function()
        except Exception:
            raise
        except BaseException as stop:
            raise self._stopped(stop) from stop

    def _stopped(self, stop: BaseException) -> asyncio.CancelledError:
        # KeyboardInterrupt and SystemExit are the caller's; they would end the home loop.
        self.stop = stop
        return asyncio.CancelledError()


_caller: ContextVar[_Caller | None] = ContextVar("mixpanel_caller", default=None)


async def call_in_caller_thread(function: Callable[[], R]) -> R:
    """Call a function of the caller's own in the caller's thread.

    For an async caller that is here; for a sync one it is the thread that waits in `run`: many an
    iterator, as of sqlite3 or an ORM, works in no other.
    """
    caller = _caller.get()
    if caller is None:
        return function()
    try:
        return await SyncToAsync(caller.called, thread_sensitive=True)(function)
    except asyncio.CancelledError:
        caller.end()
        raise


def run(call: Callable[P, Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run an async function on the home loop and return what it returns.

    What interrupts the wait, such as Ctrl-C, cancels the function, and is raised when it has ended.
    """
    caller = _Caller()
    token = _caller.set(caller)
    try:
        result = _run(caller.waited_for(call), *args, **kwargs)
    except asyncio.CancelledError:
        if caller.stop is None:
            raise
        raise caller.stop from None
    except BaseException:
        caller.leave()
        raise
    finally:
        _caller.reset(token)
    if caller.stop is not None:
        raise caller.stop
    return result


def run_anywhere(call: Callable[[], Coroutine[Any, Any, R]], name: str) -> R:
    """Run a short async function on the home loop, even where it holds up another loop.

    :raises SyncInAsyncError: on the home loop itself, as in a callback.
    """
    if not event_loop.is_running():
        return run(call)
    if on_background_thread():
        refuse_in_async(name, "leave it to the code after the call")
    return submit(call).result()


def _run(call: Callable[P, Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs) -> R:
    loop = background_loop()
    local = SyncToAsync.threadlocal
    # Under sync_to_async these hold the outer loop, whose cancellation must not reach into ours.
    outer = {name: getattr(local, name, None) for name in _POINTERS}
    local.main_event_loop, local.main_event_loop_pid, local.task_context = loop, os.getpid(), None
    try:
        return AsyncToSync(call)(*args, **kwargs)
    finally:
        for name, value in outer.items():
            setattr(local, name, value)


_POINTERS = ("main_event_loop", "main_event_loop_pid", "task_context")
