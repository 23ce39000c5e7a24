"""Nothing is lost when loops, threads and processes come and go."""

import asyncio
import gc
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import anyio
import pytest
from asgiref.sync import sync_to_async

from mixpanel import (
    AsyncBufferedConsumer,
    AsyncConsumer,
    AsyncMixpanel,
    BufferedConsumer,
    ClosedError,
    Consumer,
    Mixpanel,
    SyncInAsyncError,
)
from mixpanel.emulator import Fault
from mixpanel.flags import LocalFlagsConfig
from tests.cli.cli_data import wait_until

pytestmark = pytest.mark.slow


def names(emu, raw=True):
    return sorted(event["properties"]["n"] for event in emu.events(raw=raw))


# ---- loops --------------------------------------------------------------------------------------


def test_one_client_serves_two_event_loops(emu):
    """`asyncio.run` twice with one client delivers both runs' events."""
    mp = AsyncMixpanel("t", base_url=emu.url)

    async def visit(n):
        await mp.track("u", "Visit", {"n": n})
        await mp.flush()

    asyncio.run(visit(1))
    asyncio.run(visit(2))
    asyncio.run(mp.aclose())
    assert names(emu) == [1, 2]


def test_what_a_closed_loop_left_is_sent_in_the_next(emu):
    """An event tracked just before a loop ended is sent in the next one."""
    mp = AsyncMixpanel("t", base_url=emu.url)

    async def visit(n):
        await mp.track("u", "Visit", {"n": n})

    asyncio.run(visit(1))
    asyncio.run(visit(2))
    assert mp.stats().pending == 2
    asyncio.run(mp.aclose())
    assert names(emu) == [1, 2]
    assert mp.stats().balanced


def test_the_sender_starts_again_in_the_next_loop_without_a_flush(emu):
    """What one loop left is sent by its age in the next."""
    mp = AsyncMixpanel("t", AsyncBufferedConsumer(flush_after=0.05, base_url=emu.url))

    async def visit(n, seconds):
        await mp.track("u", "Visit", {"n": n})
        with anyio.move_on_after(seconds):
            while mp.stats().pending:
                await anyio.sleep(0.01)

    asyncio.run(visit(1, 0))
    asyncio.run(visit(2, 5))
    assert names(emu) == [1, 2]
    asyncio.run(mp.consumer.aclose())


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the loop was closed under its sockets
def test_closed_loops_leave_no_sockets_open(emu):
    """A program that makes a loop for each piece of work does not run out of files."""
    consumer = AsyncBufferedConsumer(base_url=emu.url)
    mp = AsyncMixpanel("t", consumer)

    async def work(n):
        await mp.track("u", "Visit", {"n": n})
        await mp.flush()

    def open_files():
        return len(list(Path("/proc/self/fd").iterdir()))

    most = 0
    for n in range(12):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(work(n))
        loop.close()
        gc.collect()
        most = max(most, open_files()) if n < 4 else most
    wait_until(lambda: open_files() <= most)  # the emulator closes its ends a moment later
    assert len(consumer._sender.connections._by_loop) == 1
    asyncio.run(consumer.aclose())
    gc.collect()
    assert names(emu) == list(range(12))


@pytest.mark.anyio
async def test_tracking_without_async_with_starts_the_sender(emu, anyio_backend):
    """A lazily started sender delivers a batch by its age alone, on every event loop."""
    consumer = AsyncBufferedConsumer(flush_after=0.05, base_url=emu.url)
    mp = AsyncMixpanel("t", consumer)
    await mp.track("u", "Visit", {"n": 1})
    with anyio.fail_after(5):
        while mp.stats().delivered < 1:
            await anyio.sleep(0.01)
    assert names(emu) == [1]
    await consumer.aclose()


@pytest.mark.anyio
async def test_an_idle_sender_ends_and_starts_again(emu, anyio_backend, monkeypatch):
    """An idle client keeps neither a task nor a connection; the next event starts the sender."""
    monkeypatch.setattr("mixpanel._delivery.sender.IDLE_TIMEOUT", 0.05)
    monkeypatch.setattr("mixpanel._http.connections.IDLE_TIMEOUT", 0.05)
    consumer = AsyncBufferedConsumer(flush_after=0.01, base_url=emu.url)
    mp = AsyncMixpanel("t", consumer)
    for n in range(2):
        await mp.track("u", "Visit", {"n": n})
        assert mp._delivery.has_loop
        with anyio.fail_after(5):
            while mp._delivery.has_loop or mp._delivery.connections._by_loop:
                await anyio.sleep(0.01)
        assert mp.stats().delivered == n + 1
    assert names(emu) == [0, 1]


@pytest.mark.anyio
async def test_open_and_close_in_different_tasks(emu, anyio_backend):
    """A fixture or lifespan may enter in one task and leave in another."""
    mp = AsyncMixpanel("t", base_url=emu.url)

    async def enter():
        await mp.__aenter__()
        await mp.track("u", "Visit", {"n": 1})

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(enter)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(mp.__aexit__, None, None, None)
    assert names(emu) == [1]


@pytest.mark.anyio
async def test_a_flush_after_close_starts_no_task(emu, anyio_backend):
    """As where the consumer is closed before the client: nothing can be left to send."""
    consumer = AsyncBufferedConsumer(base_url=emu.url)
    async with AsyncMixpanel("t", consumer) as mp:
        await mp.track("u", "Visit", {"n": 1})
        await consumer.aclose()
    await mp.flush()
    assert not mp._delivery.has_loop
    assert names(emu) == [1]


@pytest.mark.anyio
async def test_tracking_after_close_raises(emu, anyio_backend):
    """It is an error, not a silent loss."""
    async with AsyncMixpanel("t", base_url=emu.url) as mp:
        pass
    with pytest.raises(ClosedError):
        await mp.track("u", "Late")


# ---- cancellation -------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("delay", [0.0, 0.01, 0.05, 0.1])
async def test_cancelling_a_flush_keeps_the_events(emu, anyio_backend, delay):
    """A flush that is cancelled at any point leaves every event for the next one."""
    emu.play(Fault.latency(0.06) * 3)
    async with AsyncMixpanel("t", base_url=emu.url) as mp:
        for n in range(20):
            await mp.track("u", "Visit", {"n": n})
        with anyio.move_on_after(delay):
            await mp.flush()
        assert mp.stats().balanced
    assert mp.stats().delivered == 20
    assert names(emu, raw=False) == list(range(20))


@pytest.mark.anyio
async def test_closing_in_a_cancelled_scope_still_flushes(emu, anyio_backend):
    """`async with` delivers even when its surroundings were cancelled."""
    with anyio.CancelScope() as scope:
        async with AsyncMixpanel("t", base_url=emu.url) as mp:
            await mp.track("u", "Visit", {"n": 1})
            scope.cancel()
    assert names(emu) == [1]


@pytest.mark.anyio
async def test_closing_in_a_cancelled_scope_closes_the_flags_too(emu, anyio_backend):
    """All that the client opened is closed, and it accepts no message any more."""
    mp = AsyncMixpanel("t", base_url=emu.url, local_flags_config=LocalFlagsConfig())
    await mp.local_flags.astart_polling_for_definitions()
    await mp.track("u", "Visit", {"n": 1})
    with anyio.CancelScope() as scope:
        scope.cancel()
        await mp.aclose()
    assert names(emu) == [1]
    with pytest.raises(ClosedError):
        await mp.track("u", "Visit", {"n": 2})


def test_native_cancellation_of_an_awaited_send_is_counted(emu):
    """Cancelling the asyncio task that awaits a consumer leaves the statistics balanced."""
    emu.play(Fault.silence())

    async def main():
        consumer = AsyncConsumer(base_url=emu.url)
        mp = AsyncMixpanel("t", consumer)
        task = asyncio.ensure_future(mp.track("u", "Visit", {"n": 1}))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        stats = mp.stats()
        await consumer.aclose(1)
        return stats

    stats = asyncio.run(main())
    assert stats.balanced
    assert dict(stats.dropped) == {"raised": 1}


# ---- threads ------------------------------------------------------------------------------------


def test_eight_threads_share_one_buffered_client(emu):
    """8 threads x 400 events through one sync BufferedConsumer: none lost, none twice."""
    mp = Mixpanel("t", BufferedConsumer(base_url=emu.url))

    def work(thread):
        for n in range(400):
            mp.track("u", "Visit", {"n": thread * 400 + n})

    threads = [threading.Thread(target=work, args=(t,)) for t in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mp.flush().ok
    assert names(emu) == list(range(3200))
    assert mp.stats().delivered == mp.stats().accepted == 3200
    mp.consumer.close()


def test_threads_feed_an_async_client(emu):
    """`accept` works from any thread while the sender lives in one loop."""
    consumer = AsyncBufferedConsumer(base_url=emu.url)
    mp = AsyncMixpanel("t", consumer)

    def work(thread):
        for n in range(200):
            coroutine = mp.track("u", "Visit", {"n": thread * 200 + n})
            coroutine.close()

    async def main():
        async with anyio.create_task_group() as tasks:
            for thread in range(4):
                tasks.start_soon(anyio.to_thread.run_sync, work, thread)
        await consumer.aclose()

    anyio.run(main)
    assert names(emu) == list(range(800))


def test_a_sync_client_may_send_in_the_background(emu):
    """A sync client on the async buffered consumer never waits for a request."""
    consumer = AsyncBufferedConsumer(flush_after=0.05, base_url=emu.url)
    mp = Mixpanel("t", consumer)
    for n in range(10):
        mp.track("u", "Visit", {"n": n})
    assert mp.flush().ok
    assert names(emu) == list(range(10))
    mp.close()


# ---- the two worlds -----------------------------------------------------------------------------


def test_a_sync_client_in_a_running_loop_names_the_async_class(emu):
    """Blocking a loop is refused, with the class to use instead."""
    mp = Mixpanel("t", base_url=emu.url)

    async def main():
        with pytest.raises(SyncInAsyncError, match="AsyncMixpanel"):
            mp.track("u", "Visit")

    anyio.run(main)
    anyio.run(main, backend="trio")
    mp.close()


@pytest.mark.parametrize("consumer", [Consumer, BufferedConsumer])
def test_a_sync_client_works_under_sync_to_async(emu, consumer):
    """asgiref's own calls and those of this package do not interfere."""
    mp = Mixpanel("t", consumer(base_url=emu.url))

    async def main():
        for n in range(5):
            await sync_to_async(mp.track)("u", "Visit", {"n": n})
        await sync_to_async(mp.flush)()

    asyncio.run(main())
    mp.consumer.close()
    assert names(emu) == list(range(5))


@pytest.mark.anyio
@pytest.mark.parametrize("consumer", [Consumer, BufferedConsumer])
async def test_an_async_client_uses_a_sync_consumer_without_blocking(emu, anyio_backend, consumer):
    """The sync consumer's core is async."""
    given = consumer(base_url=emu.url)
    mp = AsyncMixpanel("t", given)
    for n in range(60):
        await mp.track("u", "Visit", {"n": n})
    await mp.flush()
    await mp._delivery.aclose()
    assert names(emu) == list(range(60))


# ---- fork ---------------------------------------------------------------------------------------

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def forked(work):
    """Run `work` in a forked child that leaves like a program, and wait for it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@needs_fork
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fork_with_buffered_events_delivers_each_once(emu):
    """The child starts empty, the parent keeps its ten events, and both can go on."""
    mp = Mixpanel("t", BufferedConsumer(base_url=emu.url))
    for n in range(10):
        mp.track("u", "Visit", {"n": n})

    def child():
        assert mp.stats().pending == 0
        mp.track("u", "Visit", {"n": 100})
        assert mp.flush().ok

    forked(child)
    assert mp.flush().ok
    mp.consumer.close()
    assert names(emu) == [*range(10), 100]


@needs_fork
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fork_while_a_request_is_in_flight(emu):
    """A fork in the middle of a request neither repeats nor loses it."""
    emu.play(Fault.latency(0.3))
    mp = Mixpanel("t", BufferedConsumer(base_url=emu.url))
    for n in range(10):
        mp.track("u", "Visit", {"n": n})
    thread = threading.Thread(target=mp.flush)
    thread.start()
    time.sleep(0.1)

    def child():
        mp.track("u", "Visit", {"n": 100})
        assert mp.flush().ok

    forked(child)
    thread.join()
    mp.consumer.close()
    assert names(emu) == [*range(10), 100]


@needs_fork
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_makes_ids_of_its_own(emu):
    """Nor do two programs that seed `random` alike."""
    mp = Mixpanel("t", BufferedConsumer(base_url=emu.url))
    read, write = os.pipe()

    def child():
        os.write(write, mp._make_insert_id().encode())

    forked(child)
    random.seed(1)
    first = mp._make_insert_id()
    random.seed(1)
    assert len({os.read(read, 32).decode(), first, mp._make_insert_id()}) == 3
    os.close(read)
    os.close(write)


def _child_tracks(url, n):
    mp = Mixpanel("t", BufferedConsumer(base_url=url))
    mp.track("u", "Visit", {"n": n})  # left in the buffer: the child's exit must send it


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_multiprocessing_child_sends_its_events_at_exit(emu, method):
    """Children of `multiprocessing` skip atexit; their events are sent all the same."""
    context = multiprocessing.get_context(method)
    children = [context.Process(target=_child_tracks, args=(emu.url, n)) for n in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
        assert child.exitcode == 0
    assert names(emu) == [0, 1]


@needs_fork
def test_fork_while_another_thread_imports_modules(emu):
    """The child waits for no lock of a thread that it does not have; both clients work in it."""
    out, err, _ = program(
        emu,
        """
        import os, signal, sys, threading, time
        from mixpanel._runtime.import_lock import import_lock
        from mixpanel.cdp import CustomerIO, Hightouch

        loading, unguarded = threading.Event(), []

        class Watch:
            def find_spec(self, name, path=None, target=None):
                if threading.current_thread() is not threading.main_thread():
                    if not import_lock.is_held_here():
                        unguarded.append(name)
                    if name == "httpcore":
                        loading.set()
                        time.sleep(0.2)

        clients = [CustomerIO("k", limits=Limits(flush_after=0.01)), Hightouch("k")]
        sys.meta_path.insert(0, Watch())
        for client in clients:
            client.track("u", "Visit", {"n": "parent"})
        assert loading.wait(10)
        pid = os.fork()
        signal.alarm(100)
        for client in clients:
            client.track("u", "Visit", {"n": "child"} if pid == 0 else {"n": "parent"})
        if pid != 0:
            assert os.waitpid(pid, 0) == (pid, 0)
            for client in clients:
                client.flush()
            print(*unguarded)
        """,
        env={
            "MP_CUSTOMERIO_BASE_URL": emu.customerio_url,
            "MP_HIGHTOUCH_BASE_URL": emu.hightouch_url,
        },
    )
    assert ("\n", "") == (out, err)
    for vendor in ("customerio", "hightouch"):
        visits = [entry["message"]["properties"]["n"] for entry in emu.cdp_messages(vendor)]
        assert ["child", "parent", "parent"] == sorted(visits)


@needs_fork
@pytest.mark.parametrize("consumer", ["AsyncBufferedConsumer", "AsyncConsumer"])
def test_what_a_loop_in_another_thread_imports_late_is_guarded_against_forks(emu, consumer):
    """A child forked while that thread sends its first event can use every module."""
    out, err, _ = program(
        emu,
        f"""
        import asyncio, os, signal, sys, threading, time
        from mixpanel._runtime.import_lock import import_lock

        async def nothing():
            await asyncio.to_thread(int)
            await asyncio.wait_for(asyncio.sleep(0), 1)

        asyncio.run(nothing())
        importing, unguarded = threading.Event(), []

        class Watch:
            def find_spec(self, name, path=None, target=None):
                if threading.current_thread() is not threading.main_thread():
                    if not import_lock.is_held_here():
                        unguarded.append(name)
                    importing.set()
                    time.sleep(0.01)

        mp = AsyncMixpanel("t", {consumer}())
        sys.meta_path.insert(0, Watch())

        async def visit(n):
            await mp.track("u", "Visit", {{"n": n}})
            await mp.track("u", "Visit", {{"n": n}})
            await mp.flush()

        thread = threading.Thread(target=lambda: asyncio.run(visit(1)))
        thread.start()
        assert importing.wait(10)
        pid = os.fork()
        signal.alarm(100)
        if pid == 0:
            asyncio.run(visit(2))
            asyncio.run(mp.consumer.aclose())
            os._exit(0)
        assert os.waitpid(pid, 0) == (pid, 0)
        thread.join()
        asyncio.run(mp.consumer.aclose())
        print(*unguarded)
        """,
    )
    assert ("\n", "") == (out, err)
    assert [1, 1, 2, 2] == names(emu)


# ---- the end of the process ---------------------------------------------------------------------


def program(emu, body, *, expect=0, send=None, env=None):
    """Run a program against the emulator and return its output and the seconds it took."""
    source = "from mixpanel import *\n" + textwrap.dedent(body)
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", source],
        env={**os.environ, "MP_BASE_URL": emu.url, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        if send is not None:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(send)
        began = time.monotonic()
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == expect, err
    return out, err, time.monotonic() - began


def test_interpreter_exit_sends_what_a_sync_buffer_holds(emu):
    """A script that forgets to flush loses nothing."""
    program(
        emu,
        """
        mp = Mixpanel("t", BufferedConsumer())
        for n in range(10):
            mp.track("u", "Visit", {"n": n})
        """,
    )
    assert names(emu) == list(range(10))


def test_a_client_that_was_garbage_collected_still_delivers(emu):
    """Events outlive the variable that held their client."""
    program(
        emu,
        """
        import gc
        def helper():
            Mixpanel("t", BufferedConsumer()).track("u", "Visit", {"n": 1})
        helper()
        gc.collect()
        """,
    )
    assert names(emu) == [1]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_interpreter_exit_sends_what_an_async_buffer_holds(emu, backend):
    """`asyncio.run` and exit without close loses nothing."""
    program(
        emu,
        f"""
        import anyio
        async def main():
            mp = AsyncMixpanel("t")
            for n in range(10):
                await mp.track("u", "Visit", {{"n": n}})
        anyio.run(main, backend="{backend}")
        """,
    )
    assert names(emu) == list(range(10))


def test_the_background_loop_takes_nothing_that_interpreter_exit_sends(emu):
    """However long imports take, a batch that becomes due meanwhile is not lost between the two."""
    _, err, _ = program(
        emu,
        """
        import time
        from mixpanel._delivery.sender import Sender

        made = Sender._make_transport
        Sender._make_transport = lambda sender: time.sleep(0.3) or made(sender)
        Mixpanel("t", AsyncBufferedConsumer(flush_after=0.05)).track("u", "Visit", {"n": 1})
        """,
    )
    assert "" == err
    assert names(emu) == [1]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_interpreter_exit_delivers_what_the_background_loop_has_just_begun_to_send(emu, host):
    """No thread can start by then to load httpx or to look up a name; nothing is lost or logged."""
    _, err, _ = program(
        emu,
        """
        import os
        mp = Mixpanel("t", AsyncBufferedConsumer(5, base_url=os.environ["URL"], flush_after=60))
        for n in range(22):
            mp.track("u", "Visit", {"n": n})
        """,
        env={"URL": emu.url.replace("127.0.0.1", host)},
    )
    assert "" == err
    assert names(emu) == list(range(22))


def test_sys_exit_in_a_thread_ends_only_that_thread(emu):
    """The client works on in the others."""
    program(
        emu,
        """
        import sys, threading
        mp = Mixpanel("t", BufferedConsumer())
        def work():
            mp.track("u", "Visit", {"n": 1})
            sys.exit(3)
        thread = threading.Thread(target=work)
        thread.start(); thread.join()
        mp.track("u", "Visit", {"n": 2})
        """,
    )
    assert names(emu) == [1, 2]


def test_sigterm_with_a_handler_that_exits_sends_the_buffer(emu):
    """`sys.exit` in the handler runs the drain at exit."""
    program(
        emu,
        """
        import signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        mp = Mixpanel("t", BufferedConsumer())
        mp.track("u", "Visit", {"n": 1})
        print("ready", flush=True)
        time.sleep(20)
        """,
        send=signal.SIGTERM,
    )
    assert names(emu) == [1]


@pytest.mark.parametrize(
    "fault",
    [Fault.silence(), Fault.drip(0.2), Fault.status(503), Fault.reset("before")],
    ids=lambda f: f.name,
)
def test_exit_ends_in_time_and_reports_what_was_lost(emu, fault):
    """Whatever the server does, the process ends and the loss is logged."""
    emu.play(fault.forever())
    out, err, _seconds = program(
        emu,
        """
        import atexit, time
        mp = Mixpanel("t", BufferedConsumer(on_drop=lambda why, gone: print(why, len(gone))))
        atexit.register(lambda: print(time.monotonic() - began < 2.5, mp.stats().balanced))
        mp.track("u", "Visit", {"n": 1})
        began = time.monotonic()
        import mixpanel._runtime.shutdown
        atexit.unregister(mixpanel._runtime.shutdown.drain)
        atexit.register(mixpanel._runtime.shutdown.drain)
        """,
    )
    assert "exit 1" in out, (out, err)


@pytest.mark.anyio
@pytest.mark.parametrize("fault", [Fault.silence(), Fault.drip(0.2)], ids=lambda f: f.name)
async def test_close_returns_in_time_whatever_the_server_does(emu, anyio_backend, fault):
    """A server that never responds, or drips, cannot block `aclose`; the rest is counted."""
    emu.play(fault.forever())
    mp = AsyncMixpanel("t", base_url=emu.url)
    for n in range(10):
        await mp.track("u", "Visit", {"n": n})
    result = await mp.aclose(timeout=0.3)
    assert result.dropped == {"closed": 10}
    assert mp.stats().balanced
