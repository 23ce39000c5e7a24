"""Sync clients on the thread of a running event loop: what would block it raises, and no more."""

import asyncio
import os
import subprocess
import sys
import threading

import anyio
import pytest

from mixpanel import (
    AsyncBufferedConsumer,
    AsyncMixpanel,
    BufferedConsumer,
    Consumer,
    Limits,
    Mixpanel,
    ServiceAccountCredentials,
    SyncInAsyncError,
)
from mixpanel._runtime import event_loop
from mixpanel.data import Credentials, Workspace
from mixpanel.emulator import Fault

CREDENTIALS = ServiceAccountCredentials("user", "secret", "1")
ROBOT = Credentials(username="robot", secret="secret", project_id="1")


def numbers(emu):
    return sorted(event["properties"]["n"] for event in emu.events())


class Shell:
    """As much of IPython as says that code runs in a session."""

    @staticmethod
    def get_ipython():
        return Shell


@pytest.fixture
def notebook(monkeypatch):
    """Make this thread that of a session whose loop runs the user's code."""
    monkeypatch.setitem(sys.modules, "IPython", Shell)


@pytest.mark.anyio
@pytest.mark.parametrize("make", [AsyncBufferedConsumer, BufferedConsumer])
async def test_a_buffered_call_works_in_a_running_loop(emu, anyio_backend, make):
    """A helper without `await`, called from an async view, tracks more than a full batch."""
    consumer = make(max_size=5, base_url=emu.url, flush_after=0.01)
    mp = Mixpanel("t", consumer)
    for n in range(12):
        mp.track("u", "Visit", {"n": n})
    await anyio.to_thread.run_sync(mp.flush)
    await anyio.to_thread.run_sync(consumer.close if make is BufferedConsumer else mp.close)
    if make is AsyncBufferedConsumer:
        await consumer.aclose()
    assert numbers(emu) == list(range(12))
    assert consumer.stats().delivered == 12


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["flush", "close"])
async def test_what_blocks_a_running_loop_names_the_way_out(emu, anyio_backend, name):
    """Waiting for requests would stop all other tasks."""
    mp = Mixpanel("t", AsyncBufferedConsumer(base_url=emu.url))
    with pytest.raises(SyncInAsyncError, match="AsyncMixpanel"):
        getattr(mp, name)()
    await mp.consumer.aclose()


@pytest.mark.anyio
async def test_the_default_consumer_names_the_one_that_never_waits(anyio_backend):
    """`track` sends at once there, which blocks."""
    mp = Mixpanel("t", base_url="http://127.0.0.1:9")
    with pytest.raises(SyncInAsyncError, match=r"AsyncMixpanel.*or give Mixpanel an AsyncBuff"):
        mp.track("u", "Visit")


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("make", [AsyncBufferedConsumer, BufferedConsumer])
async def test_only_a_full_buffer_that_would_wait_raises(emu, anyio_backend, make):
    """Up to then `when_full="wait"` is as good as any other."""
    consumer = make(base_url=emu.url, when_full="wait", limits=Limits(max_queue_size=2))
    mp = Mixpanel("t", consumer)
    emu.play(Fault.latency(0.5))
    mp.track("u", "Visit", {"n": 0})
    mp.track("u", "Visit", {"n": 1})
    with pytest.raises(SyncInAsyncError, match='when_full="drop_newest"'):
        mp.track("u", "Visit", {"n": 2})
    await consumer._sender.aclose()
    assert numbers(emu) == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("make", [AsyncBufferedConsumer, BufferedConsumer, Consumer])
def test_every_call_works_in_a_notebook(emu, notebook, make):
    """Its loop waits for the cell, and nobody waits for the loop."""

    async def cell():
        with Mixpanel("t", make(base_url=emu.url)) as mp:
            for n in range(3):
                mp.track("u", "Visit", {"n": n})
            assert mp.flush().ok
            assert numbers(emu) == [0, 1, 2]
        if make is not AsyncBufferedConsumer:
            mp.consumer.close()

    asyncio.run(cell())


def test_a_notebook_may_read_its_own_iterator_in_an_import(emu, notebook):
    """The rows come from the cell's thread, as sqlite3 demands; an error in them reaches it."""
    rows = ({"event": "E", "properties": {"distinct_id": "u", "n": n, "time": 1e9}} for n in (0, 1))

    def broken():
        yield from ()
        raise KeyError("enough")

    async def cell():
        with Mixpanel("t", credentials=CREDENTIALS, base_url=emu.url) as mp:
            assert mp.import_events(rows).imported == 2
            with pytest.raises(Exception, match="enough"):
                mp.import_events(broken())

    asyncio.run(cell())


def test_a_notebook_that_shares_a_consumer_with_an_async_client_is_not_blocked(emu, notebook):
    """Its tasks cannot send while the cell waits for them."""

    async def cell():
        consumer = AsyncBufferedConsumer(base_url=emu.url)
        mp = AsyncMixpanel("t", consumer)
        await mp.track("u", "Visit", {"n": 0})
        with pytest.raises(SyncInAsyncError, match=r"await flush\(\) of the async client"):
            Mixpanel("t", consumer).flush()
        await consumer.aclose()

    asyncio.run(cell())
    assert numbers(emu) == [0]


def test_a_server_in_another_thread_of_a_notebook_is_not_blocked(notebook):
    """Only the session's own thread runs cells."""
    found = []

    async def view():
        found.append(event_loop.is_interactive())

    anyio.run(lambda: anyio.to_thread.run_sync(asyncio.run, view()))
    assert found == [False]


@pytest.mark.slow
def test_every_call_works_in_the_asyncio_repl(emu):
    """Its statements run in a loop, too."""
    statements = "mp = Mixpanel('t')", "mp.track('u', 'Visit', {'n': 0})", "mp.close()"
    source = "\n".join(["from mixpanel import *", *statements, ""])
    done = subprocess.run(
        [sys.executable, "-m", "asyncio"],
        input=source,
        env={**os.environ, "MP_BASE_URL": emu.url},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert numbers(emu) == [0]
    assert "Error" not in done.stderr


def test_a_thread_beside_a_running_loop_may_wait(emu):
    """As in a window's application, whose loop has the main thread, and in a page of Streamlit."""

    def work():
        with Mixpanel("t", base_url=emu.url) as mp:
            mp.track("u", "Visit", {"n": 0})
            assert mp.flush().ok
        with Workspace.memory(credentials=ROBOT, base_url=emu.url) as workspace:
            assert workspace.list_events() == ["Visit"]

    async def window():
        await asyncio.to_thread(work)

    asyncio.run(window())
    assert numbers(emu) == [0]


def test_a_subshell_of_a_kernel_is_a_session_of_its_own(emu):
    """Its cells run in a loop, too, which waits for them; it is not the main thread's."""

    async def cell():
        with Mixpanel("t", base_url=emu.url) as mp:
            mp.track("u", "Visit", {"n": 0})

    kind = type("SubshellThread", (threading.Thread,), {"__module__": "ipykernel.subshell"})
    thread = kind(target=lambda: asyncio.run(cell()))
    thread.start()
    thread.join()
    assert numbers(emu) == [0]
