"""The sync faces' way into async code, and what it rests on."""

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


def test_every_call_runs_on_the_one_home_loop():
    """Connections belong to one loop; so do all calls."""
    (first, name), (second, _) = background_loop.run(where), background_loop.run(where)
    assert first is second
    assert name == "mixpanel-background-loop"


def test_asgiref_still_looks_where_we_point_it():
    """The pin: a release that moves these names is noticed here, not by users."""
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
def test_what_ends_a_task_does_not_end_the_loop(stop, inner):
    """It reaches who waits, from a task of the call's own too, and the next call works."""
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


def test_a_short_call_may_run_aside():
    """Another loop is held up for so long; our own would wait for itself."""

    async def outside():
        return background_loop.run_anywhere(where, "Thing.close()")[0]

    async def call_on_background_loop():
        background_loop.run_anywhere(where, "Thing.close()")

    assert asyncio.run(outside()) is background_loop.run_anywhere(where, "Thing.close()")[0]
    with pytest.raises(SyncInAsyncError, match="leave it to the code after the call"):
        background_loop.run(call_on_background_loop)


def test_the_pointers_are_put_back():
    """A web framework's own use of asgiref does not notice us."""
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


def test_home_is_made_anew_after_it_was_left():
    """Leaving ends the thread; the next call starts another."""
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


def test_who_is_interrupted_leaves_nothing_running():
    """Ctrl-C cancels the call, and comes out when it has put its things in order."""
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
