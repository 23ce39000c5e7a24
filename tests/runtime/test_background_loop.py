"""Sync calls on the background loop, and the parts of asgiref that they rely on."""

import asyncio
import contextvars
import signal
import threading

import pytest
from asgiref.sync import SyncToAsync, async_to_sync

from mixpanel._runtime import background_loop
from mixpanel.exceptions import SyncInAsyncError


async def where():
    return asyncio.get_running_loop(), threading.current_thread().name


def test_every_call_runs_on_the_one_background_loop():
    """Connections belong to one loop; so do all calls."""
    (first, name), (second, _) = background_loop.run(where), background_loop.run(where)
    assert first is second
    assert name == "mixpanel-background-loop"


def test_asgiref_still_reads_the_attributes_that_name_its_loop():
    """A release that renames them is noticed here, not by users."""
    loop = background_loop.background_loop()
    local = SyncToAsync.threadlocal
    import os

    local.main_event_loop, local.main_event_loop_pid = loop, os.getpid()
    try:
        assert async_to_sync(where)()[0] is loop
    finally:
        del local.main_event_loop, local.main_event_loop_pid


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("inner", [False, True])
def test_an_exit_in_a_task_does_not_end_the_background_loop(stop, inner):
    """The waiting caller gets it, also from a child task, and the next call works."""
    loop = background_loop.background_loop()

    async def fail():
        raise stop("enough")

    async def work():
        await (asyncio.gather(fail()) if inner else fail())

    with pytest.raises(stop, match="enough"):
        background_loop.run(work)
    with pytest.raises(stop, match="enough"):
        background_loop.submit(fail).result(10)
    assert background_loop.run(where)[0] is loop


def test_a_short_call_may_block_another_loop():
    """But not the background loop, which would wait for itself."""

    async def outside():
        return background_loop.run_anywhere(where, "Thing.close()")[0]

    async def call_on_background_loop():
        background_loop.run_anywhere(where, "Thing.close()")

    assert asyncio.run(outside()) is background_loop.run_anywhere(where, "Thing.close()")[0]
    with pytest.raises(SyncInAsyncError, match="leave it to the code after the call"):
        background_loop.run(call_on_background_loop)


def test_the_attributes_of_asgiref_are_restored():
    """A web framework's own use of asgiref is not affected."""
    local = SyncToAsync.threadlocal
    local.main_event_loop = "theirs"
    try:
        background_loop.run(where)
        assert local.main_event_loop == "theirs"
    finally:
        local.main_event_loop = None


def test_context_goes_in_and_errors_come_out():
    """As if it had been called directly."""
    variable = contextvars.ContextVar("variable", default="unset")

    async def read():
        if variable.get() == "boom":
            raise KeyError("boom")
        return variable.get()

    variable.set("set")
    assert background_loop.run(read) == "set"
    variable.set("boom")
    with pytest.raises(KeyError):
        background_loop.run(read)


def test_many_threads_call_at_once():
    """None waits for another's call to end."""
    barrier = asyncio.Barrier(8)
    results = []

    async def meet():
        await barrier.wait()
        return 1

    threads = [
        threading.Thread(target=lambda: results.append(background_loop.run(meet))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert results == [1] * 8


def test_a_new_background_loop_starts_after_a_stop():
    """Stopping ends the thread; the next call starts another."""
    first, _ = background_loop.run(where)
    background_loop.stop_background_loop()
    assert first.is_closed()
    second, _ = background_loop.run(where)
    assert second is not first


@pytest.mark.anyio
async def test_blocking_a_running_loop_is_refused(anyio_backend):
    """On every backend, naming the class to use instead."""
    with pytest.raises(SyncInAsyncError, match="AsyncConsumer"):
        background_loop.refuse_in_async("Consumer.flush")


def test_an_interrupted_call_leaves_nothing_running():
    """Ctrl-C cancels the call, and is raised when it has cleaned up."""
    ended = []

    async def forever():
        try:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("in order")

    with pytest.raises(KeyboardInterrupt):
        background_loop.run(forever)
    assert ended == ["in order"]
    (loop, _), home = background_loop.run(where), background_loop.background_loop()
    assert loop is home
