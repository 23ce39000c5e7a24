"""Run async code for sync callers on one background event loop a process.

The loop runs on a daemon thread, and starts at the first call. Sync calls reach it through asgiref,
which this is the only module to import: its `async_to_sync` keeps context variables, and lets async
code call back into the waiting thread. Greenlets and notebook cells, in which asgiref cannot wait,
wait at a mailbox of their own.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

import anyio
from asgiref.sync import AsyncToSync, SyncToAsync

from mixpanel._runtime import event_loop, fork, native_threads, shutdown
from mixpanel._runtime.import_lock import import_lock
from mixpanel._runtime.safe_logging import logger
from mixpanel.exceptions import SyncInAsyncError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Future

    from mixpanel._runtime.native_threads import Mailbox

__all__ = [
    "background_loop",
    "call_in_caller_thread",
    "on_background_thread",
    "refuse_in_async",
    "run",
    "run_anywhere",
    "stop_background_loop",
    "submit",
    "submit_if_running",
]

P = ParamSpec("P")
R = TypeVar("R")


class _BackgroundLoop:
    """An asyncio event loop on a daemon thread of its own."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.thread_id = 0
        self._failure: BaseException | None = None
        has_loop = native_threads.new_lock()
        has_loop.acquire()
        self.thread = native_threads.start_thread(
            lambda: self._make_loop_and_run(has_loop), "mixpanel-background-loop"
        )
        # gevent and eventlet tie a selector to the thread that makes it, so that thread makes the
        # loop. This takes a millisecond.
        with has_loop:
            if self._failure is not None:
                raise self._failure
        shutdown.on_shutdown(self.stop)

    def _make_loop_and_run(self, has_loop: Any) -> None:
        self.thread_id = native_threads.get_ident()
        try:
            self.loop = asyncio.new_event_loop()
        except BaseException as error:
            self._failure = error
            return
        finally:
            has_loop.release()
        self._run()

    def _run(self) -> None:
        # On another loop: calls may be queued on this one already. They are run below, without the
        # import lock and with a handler for what they raise.
        with import_lock, asyncio.Runner() as runner:
            runner.run(_load_anyio())
        asyncio.set_event_loop(self.loop)
        while True:
            try:
                self.loop.run_forever()
                return
            except BaseException:
                # KeyboardInterrupt and SystemExit in a task end `run_forever`. The task keeps the
                # exception; the loop serves other tasks, so it goes back to work.
                logger.debug("a task on the background loop raised an exit", exc_info=True)

    def stop(self) -> None:
        """Cancel all tasks, give them a moment to close their connections, and end the thread."""
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


async def _load_anyio() -> None:
    event_loop.load_backend("asyncio")
    async with anyio.create_task_group():
        pass


CLEANUP_TIMEOUT = 10.0  # seconds that a call may take to end after a first Ctrl-C

_current: _BackgroundLoop | None = None
_start_lock = native_threads.new_rlock()
_queued_callbacks: list[Callable[[], object]] = []  # from signal handlers, while the loop starts
_inherited: list[_BackgroundLoop] = []  # of the parent process; their threads do not exist here


def background_loop() -> asyncio.AbstractEventLoop:
    """Return this process's background loop, and start it at the first call."""
    global _current
    current = _current
    if current is None or current.loop.is_closed():
        with _start_lock:
            if _current is None or _current.loop.is_closed():
                _current = _BackgroundLoop()
            current = _current
        while _queued_callbacks:
            current.loop.call_soon_threadsafe(_queued_callbacks.pop())
    return current.loop


def _is_starting_here() -> bool:
    """Return True in a signal handler that interrupted this thread while it starts the loop."""
    return bool(_start_lock._is_owned())


def call_on_background_loop(callback: Callable[[], object]) -> None:
    """Schedule a callback on the background loop, from any thread or signal handler."""
    if _is_starting_here():
        _queued_callbacks.append(callback)
    else:
        # In a context of its own: sniffio keeps the name of the async library in the context, and
        # the caller's may be trio.
        Context().run(background_loop().call_soon_threadsafe, callback)


def start_on_background_loop(call: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Start an async function, which must not raise, on the background loop."""
    _start_task(call, lambda _: None)


def _start_task(
    call: Callable[[], Coroutine[Any, Any, R]],
    on_done: Callable[[asyncio.Task[R]], object],
    context: Context | None = None,
) -> None:
    def start() -> None:
        task = asyncio.get_running_loop().create_task(call(), context=context)
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)
        task.add_done_callback(on_done)

    call_on_background_loop(start)


_tasks: set[asyncio.Task[Any]] = set()  # a loop holds its tasks only weakly


def stop_background_loop() -> None:
    """Stop the background loop; the next call starts another."""
    global _current
    with _start_lock:
        current, _current = _current, None
    if current is not None:
        current.stop()


def _after_fork() -> None:
    global _current, _start_lock
    _start_lock = native_threads.new_rlock()
    _queued_callbacks.clear()
    _tasks.clear()
    if _current is not None:
        _inherited.append(_current)
        _current = None


fork.register(fork.Order.LOOPS, after_in_child=_after_fork)


def submit(call: Callable[[], Coroutine[Any, Any, R]]) -> Future[R]:
    """Start an async function on the background loop; return a future without waiting for it.

    Wait for it with `native_threads.wait_for`. Cancelling it does not cancel the function.
    """
    future: Future[R] = native_threads.new_future()
    _start_task(call, lambda task: _copy_outcome(task, future))
    return future


def _copy_outcome(task: asyncio.Task[R], future: Future[R]) -> None:
    if task.cancelled():
        future.cancel()
        future.set_running_or_notify_cancel()
        return
    error = task.exception()
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(task.result())


def submit_if_running(call: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Start an async function on the background loop; do nothing if there is none."""
    if _current is not None and not _current.loop.is_closed():
        submit(call)


def on_background_thread() -> bool:
    """Return True on the background loop's thread, as in a callback, log handler or finalizer."""
    return _current is not None and native_threads.get_ident() == _current.thread_id


def refuse_in_async(name: str, instead: str = "", *, allow_background_loop: bool = False) -> None:
    """Refuse a blocking call on the thread of a running event loop.

    In an interactive session, such as a Jupyter notebook, the loop of the session runs nothing
    while a cell runs: there it is allowed.

    :param instead: what to do there instead; the default is the async class.
    :param allow_background_loop: allow the call on the background loop's own thread.
    :raises SyncInAsyncError: naming what to use there.
    """
    if not event_loop.is_running():
        return
    if on_background_thread():
        if allow_background_loop:
            return
    elif event_loop.is_interactive():
        return
    instead = instead or f"use Async{name.partition('.')[0]} and await it"
    raise SyncInAsyncError(
        f"{name} blocks, and an event loop runs in this thread: {instead}, "
        "or call it through asgiref's sync_to_async or in a worker thread"
    )


class _SyncCall:
    """A call of `run`: the task on the background loop, and the thread that waits for it.

    KeyboardInterrupt and SystemExit belong to the caller, and would end the background loop. So in
    the task they are replaced by a cancellation, kept in `stop`, and raised again in `run`.
    """

    def __init__(self, mailbox: Mailbox | None) -> None:
        self.stop: BaseException | None = None
        self._task: asyncio.Task[Any] | None = None
        self._is_abandoned = False
        self._has_ended = threading.Event()
        self._mailbox = mailbox

    def wrap(
        self, call: Callable[P, Coroutine[Any, Any, R]]
    ) -> Callable[P, Coroutine[Any, Any, R]]:
        """Return an async function whose task the caller can abandon."""

        async def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
            self._task = task = asyncio.current_task()
            assert task is not None
            if self._mailbox is None:
                task.add_done_callback(lambda _: self._has_ended.set())
            try:
                if self._is_abandoned:
                    raise asyncio.CancelledError
                return await self._await_keeping_stop(call(*args, **kwargs))
            finally:
                self._task = None

        return wrapped

    async def _await_keeping_stop(self, work: Coroutine[Any, Any, R]) -> R:
        try:
            return await work
        except (Exception, asyncio.CancelledError):
            raise
        except BaseException as stop:
            raise self._kept(stop) from stop

    def abandon(self) -> None:
        """Cancel the task after Ctrl-C in the waiting thread, and wait until it has cleaned up."""
        self._is_abandoned = True
        task = self._task
        if task is None:  # not started yet, or ended
            return
        with suppress(RuntimeError):  # the loop is closed
            task.get_loop().call_soon_threadsafe(task.cancel)
            if self._mailbox is None:
                self._has_ended.wait(CLEANUP_TIMEOUT)
            else:
                self._mailbox.run_until(task.done, time.monotonic() + CLEANUP_TIMEOUT)

    def cancel_if_stopped(self) -> None:
        """Cancel the whole call when a child task of it met the caller's exit."""
        task = self._task
        if self.stop is not None and task is not None and task is not asyncio.current_task():
            task.cancel()

    async def call_in_caller_thread(self, function: Callable[[], R]) -> R:
        """Call a function in the waiting thread, and return its result."""
        if self._mailbox is None:
            return await SyncToAsync(self.call_function, thread_sensitive=True)(function)
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[Callable[[], R]] = loop.create_future()

        def call() -> None:
            give: Callable[[], R]
            try:
                result = self.call_function(function)
                give = lambda: result  # noqa: E731
            except BaseException as error:
                give = partial(_raise, error)
            loop.call_soon_threadsafe(_set_if_waiting, outcome, give)

        self._mailbox.put(call)
        return (await outcome)()

    def call_function(self, function: Callable[[], R]) -> R:
        """Call a function in the waiting thread, keeping an exit that it raises."""
        if self.stop is not None or self._is_abandoned:
            raise asyncio.CancelledError
        try:
            return function()
        except Exception:
            raise
        except BaseException as stop:
            raise self._kept(stop) from stop

    def _kept(self, stop: BaseException) -> asyncio.CancelledError:
        self.stop = stop
        return asyncio.CancelledError()


_sync_call: ContextVar[_SyncCall | None] = ContextVar("mixpanel_sync_call", default=None)


async def call_in_caller_thread(function: Callable[[], R]) -> R:
    """Call a function, such as the caller's iterator, in the thread of the caller.

    For an async caller this is the current thread; for a sync one the thread that waits in `run`.
    Many iterators, as of sqlite3 or an ORM, work in no other thread.
    """
    call = _sync_call.get()
    if call is None:
        return function()
    try:
        return await call.call_in_caller_thread(function)
    except asyncio.CancelledError:
        call.cancel_if_stopped()
        raise


def run(call: Callable[P, Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run an async function on the background loop and return its result.

    What interrupts the wait, such as Ctrl-C, cancels the function and is raised when it has ended.

    :raises SyncInAsyncError: on the background loop itself, as in a callback.
    """
    mailbox = None
    if native_threads.is_patched() or event_loop.is_running():
        if on_background_thread():
            refuse_in_async("a sync method", "leave it to the code after the call")
        mailbox = native_threads.Mailbox()
    this = _SyncCall(mailbox)
    token = _sync_call.set(this)
    try:
        if mailbox is None:
            result = _run_with_asgiref(this.wrap(call), *args, **kwargs)
        else:
            result = _run_at_mailbox(mailbox, lambda: this.wrap(call)(*args, **kwargs))
    except asyncio.CancelledError:
        if this.stop is None:
            raise
        raise this.stop from None
    except BaseException:
        this.abandon()
        raise
    finally:
        _sync_call.reset(token)
        if mailbox is not None:
            mailbox.close()
    if this.stop is not None:
        raise this.stop
    return result


def run_anywhere(call: Callable[[], Coroutine[Any, Any, R]], name: str) -> R:
    """Run a short async function on the background loop, even if it blocks another running loop.

    :raises SyncInAsyncError: on the background loop itself, as in a callback.
    """
    if on_background_thread():
        refuse_in_async(name, "leave it to the code after the call")
    return run(call)


def _run_at_mailbox(mailbox: Mailbox, call: Callable[[], Coroutine[Any, Any, R]]) -> R:
    ended: list[asyncio.Task[R]] = []

    def end(task: asyncio.Task[R]) -> None:
        ended.append(task)
        mailbox.wake()

    context = copy_context()
    sniffio = sys.modules.get("sniffio")
    if sniffio is not None:  # the context may say that trio runs, which is true for the caller
        context.run(sniffio.current_async_library_cvar.set, None)
    _start_task(call, end, context)
    mailbox.run_until(lambda: bool(ended))
    return ended[0].result()


def _raise(error: BaseException) -> NoReturn:
    raise error


def _set_if_waiting(future: asyncio.Future[R], result: R) -> None:
    if not future.done():
        future.set_result(result)


def _run_with_asgiref(
    call: Callable[P, Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs
) -> R:
    # asgiref's `AsyncToSync` runs a call on the loop that these attributes name. Without them it
    # starts a loop for each call, and connections belong to one loop. A call takes 44 us this way,
    # 250 us at best by plain `async_to_sync` (15 interleaved rounds, busy machine, asgiref 3.13,
    # Python 3.11). `run_coroutine_threadsafe` takes 34 us, but cannot call back into this thread as
    # `call_in_caller_thread` does. A test notices when asgiref no longer reads the attributes.
    local = SyncToAsync.threadlocal
    # Inside `sync_to_async` they name the outer loop, whose cancellation must not reach ours.
    outer = {name: getattr(local, name, None) for name in _ASGIREF_ATTRIBUTES}
    local.main_event_loop = background_loop()
    local.main_event_loop_pid, local.task_context = os.getpid(), None
    try:
        return AsyncToSync(call)(*args, **kwargs)
    finally:
        for name, value in outer.items():
            setattr(local, name, value)


_ASGIREF_ATTRIBUTES = ("main_event_loop", "main_event_loop_pid", "task_context")
