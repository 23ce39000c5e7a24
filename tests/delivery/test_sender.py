"""Messages are delivered whatever ends, is cancelled, raises or interrupts."""

import asyncio
import contextlib
import dis
import gc
import gzip
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import anyio
import anyio.lowlevel
import pytest

from mixpanel import (
    AsyncBufferedConsumer,
    AsyncConsumer,
    AsyncMixpanel,
    BufferedConsumer,
    Consumer,
    Limits,
    Mixpanel,
    QueueFullError,
    RetryPolicy,
)
from mixpanel._delivery import dispatcher
from mixpanel._delivery.sender import Sender
from mixpanel._http.responses import (
    Response,
)
from mixpanel._runtime import background_loop, event_loop
from mixpanel.cdp import AsyncCustomerIO, CustomerIO
from mixpanel.emulator import Fault
from mixpanel.flags import RemoteFlagsConfig
from tests.cli.cli_data import wait_until

pytestmark = pytest.mark.slow

QUICK = RetryPolicy(first_wait=0.02, max_wait=0.05, max_age=20)


def numbers(emu):
    return sorted(event["properties"]["n"] for event in emu.events(raw=True))


def is_balanced(stats):
    settled = stats.delivered + stats.rejected + sum(stats.dropped.values())
    return stats.accepted == settled + stats.pending


# ---- loops that end -----------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["track", "people_set"])
def test_a_thousand_loops_that_each_track_once_lose_nothing(emu, verb):
    """One `asyncio.run` per message, ending at once; a single flush delivers them all."""
    consumer = AsyncBufferedConsumer(base_url=emu.url)
    mp = AsyncMixpanel("t", consumer)

    async def visit(n):
        if verb == "track":
            await mp.track("u", "Visit", {"n": n})
        else:
            await mp.people_set(f"u{n}", {"n": n})

    for n in range(1000):
        asyncio.run(visit(n))
    result = asyncio.run(consumer.flush(60))
    assert (0, 1000) == (result.pending, mp.stats().delivered)
    asyncio.run(consumer.aclose())


@pytest.mark.parametrize("turns", range(6))
@pytest.mark.parametrize("endpoint", ["events", "people"])
def test_a_loop_may_end_at_any_step_of_the_sender(emu, turns, endpoint):
    """Also between the sender's taking a batch and the first step of the task that sends it."""
    consumer = AsyncBufferedConsumer(max_size=1, base_url=emu.url)
    mp = AsyncMixpanel("t", consumer)

    async def visit(n):
        await (mp.track if endpoint == "events" else mp.people_set)(*arguments(n))
        for _ in range(turns):
            await asyncio.sleep(0)

    def arguments(n):
        return ("u", "Visit", {"n": n}) if endpoint == "events" else ("u", {"n": n})

    for n in range(8):
        asyncio.run(visit(n))
    result = asyncio.run(consumer.flush(10))
    assert (0, 0) == (result.pending, sum(mp.stats().dropped.values()))
    assert mp.stats().delivered == 8
    asyncio.run(consumer.aclose())


def test_a_batch_whose_loop_died_is_sent_by_another(emu):
    """A loop closed in the middle of a request reports nothing; its batch is reclaimed."""
    consumer = AsyncBufferedConsumer(max_size=1, base_url=emu.url, retry=QUICK)
    mp = AsyncMixpanel("t", consumer)
    emu.play(Fault.silence() * 4, path="/track")

    async def visit(n):
        await mp.track("u", "Visit", {"n": n})
        await asyncio.sleep(0.05)

    for n in range(4):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(visit(n))
        loop._ready.clear()  # nothing of it runs ever again
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False
        loop.close()
    emu.clear_faults()
    assert asyncio.run(consumer.flush(10)).pending == 0
    assert set(range(4)) <= set(numbers(emu))
    asyncio.run(consumer.aclose())
    gc.collect()


# ---- cancellation -------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", range(4))
def test_cancelling_every_task_does_not_stop_delivery(emu, turns):
    """The background task starts again without another message or a flush."""
    consumer = AsyncBufferedConsumer(flush_after=0.02, base_url=emu.url, retry=QUICK)
    mp = AsyncMixpanel("t", consumer)

    async def main():
        for n in range(101):
            await mp.track("u", "Visit", {"n": n})
            if n == 0:
                for _ in range(turns):
                    await asyncio.sleep(0)
                for task in asyncio.all_tasks() - {asyncio.current_task()}:
                    task.cancel()
        with anyio.fail_after(5):
            while mp.stats().pending:
                await asyncio.sleep(0.01)
        await consumer.aclose()

    asyncio.run(main())
    assert numbers(emu) == list(range(101))


def open_sockets():
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            count += str(entry.readlink()).startswith("socket:")
    return count


def tracks(emu):
    mp = AsyncMixpanel("t", AsyncConsumer(base_url=emu.url, request_timeout=5))
    return lambda: mp.track("u", "Visit", {"n": 1}), mp.consumer


def remote_flags(emu):
    emu.set_flags([])
    config = RemoteFlagsConfig(api_host=emu.url, request_timeout_in_seconds=5)
    mp = AsyncMixpanel("t", remote_flags_config=config, base_url=emu.url)
    return lambda: mp.remote_flags.aget_variant_value("no", 1, {"distinct_id": "u"}), mp


def direct_cdp(emu):
    client = AsyncCustomerIO("k", send_immediately=True, base_url=emu.customerio_url)
    return lambda: client.track("u", "Visit", {"n": 1}), client


def pumps(emu):
    mp = AsyncMixpanel("t", BufferedConsumer(max_size=20, base_url=emu.url))
    return lambda: mp.track("u", "Visit", {"n": 1}), mp


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open sockets")
@pytest.mark.parametrize("face", [tracks, direct_cdp, pumps, remote_flags])
@pytest.mark.parametrize("how", ["cancelled twice", "nested timeouts"])
# An older anyio leaves the socket of an attempt to connect that was cancelled twice to the garbage
# collector. How many stay open is counted.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_thousand_doubly_cancelled_calls_leave_the_client_working(emu, face, how):
    """No connection is lost, whenever in a request the two cancellations strike."""
    emu.play(Fault.latency(0.004).forever())

    async def twice(call, n):
        task = asyncio.ensure_future(call())
        await asyncio.sleep((n % 10) * 0.0005)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def nested(call, n):
        seconds = (n % 10) * 0.0005
        try:
            async with asyncio.timeout(seconds), asyncio.timeout(seconds):
                await call()
        except TimeoutError:
            pass

    async def main():
        call, owner = face(emu)
        await call()
        before = open_sockets()
        cancel = twice if how == "cancelled twice" else nested
        for first in range(0, 1000, 20):
            await asyncio.gather(*[cancel(call, n) for n in range(first, first + 20)])
        emu.clear_faults()
        async with asyncio.timeout(20):
            await call()
        assert open_sockets() <= before + 80  # both ends of them are in this process
        if isinstance(owner, AsyncMixpanel) and isinstance(owner.consumer, BufferedConsumer):
            await owner.aclose()
            await owner.consumer._sender.aclose()
        else:
            await owner.aclose()

    asyncio.run(main())


@pytest.mark.anyio
async def test_a_response_is_counted_even_if_its_caller_is_cancelled(anyio_backend):
    """A call that has its result when the cancellation comes has also done its work."""
    done = []

    async def call():
        await anyio.lowlevel.checkpoint()
        done.append(True)

    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(event_loop.in_own_task, call)
            await anyio.sleep(0.01)
            scope.cancel()
    assert [True] == done


@pytest.mark.anyio
async def test_a_call_in_its_own_task_passes_on_its_result_or_exception(anyio_backend):
    """Also exceptions that would end the event loop, such as SystemExit."""

    async def gives():
        return 7

    async def exits():
        raise SystemExit(3)

    assert 7 == await event_loop.in_own_task(gives)
    with pytest.raises(SystemExit):
        await event_loop.in_own_task(exits)


# ---- what the application's own code does -------------------------------------------------------


class Handler(logging.Handler):
    """A log handler as applications have them: it raises, or it tracks."""

    def __init__(self, act):
        super().__init__(logging.DEBUG)
        self.act = act

    def handle(self, record):  # not `emit`: that of a careful handler would be caught
        self.act(record)


@pytest.fixture
def handler():
    """Add a handler to the package's logger for one test."""
    logger = logging.getLogger("mixpanel")
    level, added = logger.level, []

    def add(act):
        added.append(Handler(act))
        logger.addHandler(added[-1])
        logger.setLevel(logging.DEBUG)

    yield add
    for one in added:
        logger.removeHandler(one)
    logger.setLevel(level)


@pytest.mark.parametrize("kind", [ValueError, SystemExit, asyncio.CancelledError])
@pytest.mark.parametrize("face", ["async", "sync"])
def test_a_log_handler_that_raises_does_not_disturb_delivery(emu, handler, capsys, kind, face):
    """Each event is sent as often as the server asks for, and counted once."""

    def fail(record):
        raise kind("a handler's own")

    handler(fail)
    emu.play(Fault.status(503), path="/track")
    if face == "sync":
        mp = Mixpanel("t", BufferedConsumer(base_url=emu.url, retry_backoff_factor=0.01))
        for n in range(5):
            mp.track("u", "Visit", {"n": n})
        mp.flush()
        mp.consumer.close()
    else:

        async def main():
            async with AsyncMixpanel("t", base_url=emu.url, retry=QUICK) as mp:
                for n in range(5):
                    await mp.track("u", "Visit", {"n": n})
                await mp.flush()
                return mp

        mp = asyncio.run(main())
    assert numbers(emu) == list(range(5))
    assert (5, 5, 0) == (mp.stats().accepted, mp.stats().delivered, mp.stats().pending)
    assert 2 == mp.stats().requests
    assert "a handler's own" in capsys.readouterr().err


def test_a_log_handler_may_track(emu, handler):
    """Its events are delivered like any other, and nothing is sent twice."""
    consumer = BufferedConsumer(base_url=emu.url, retry_backoff_factor=0.01)
    mp = Mixpanel("t", consumer)
    seen = []

    def track(record):
        if len(seen) < 5:
            seen.append(record)
            mp.track("u", "Visit", {"n": 100 + len(seen)})

    handler(track)
    emu.play(Fault.status(503), path="/track")
    mp.track("u", "Visit", {"n": 0})
    wait_until(lambda: mp.flush().ok and len(seen) == 5)
    consumer.close()
    assert numbers(emu) == [0, *range(101, 106)]
    assert is_balanced(mp.stats())


@pytest.mark.parametrize("kind", [Consumer, BufferedConsumer, AsyncBufferedConsumer])
def test_the_sync_client_never_waits_on_the_background_thread(emu, kind):
    """As in a callback of a background sender, a log handler or a finalizer."""
    mp = Mixpanel("t", kind(base_url=emu.url))

    async def call_on_background_loop():
        for n in range(60):
            mp.track("u", "Visit", {"n": n})

    background_loop.run(call_on_background_loop)
    mp.flush()
    assert numbers(emu) == list(range(60))
    mp.consumer.close() if kind is not AsyncBufferedConsumer else background_loop.run(
        mp.consumer.aclose
    )


def test_the_sync_cdp_client_never_waits_on_the_background_thread(emu):
    """Sending at once or buffered."""
    for send_immediately in (True, False):
        client = CustomerIO("k", send_immediately=send_immediately, base_url=emu.customerio_url)

        async def call_on_background_loop(client=client):
            client.track("u", "Visit", {"n": 1})

        background_loop.run(call_on_background_loop)
        client.close()
        assert 1 == client.stats().delivered


def test_finalizers_on_the_background_thread_lose_nothing(emu):
    """The garbage collector runs them on whatever thread happens to allocate."""
    mp = Mixpanel("t", BufferedConsumer(base_url=emu.url))

    class Thing:
        def __init__(self, n):
            self.n, self.me = n, self

        def __del__(self):
            mp.track("u", "Gone", {"n": self.n})

    async def collect():
        gc.collect()

    for n in range(200):
        Thing(n)
    background_loop.run(collect)
    mp.flush()
    mp.consumer.close()
    assert numbers(emu) == list(range(200))


# ---- full buffers -------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("face", ["track", "send", "cdp"])
async def test_a_tight_loop_on_a_full_buffer_lets_the_sender_work(emu, anyio_backend, face):
    """With `when_full="raise"` and no other await, most of the messages get through."""
    limits = Limits(max_queue_size=100, max_batch_size=50)
    if face == "cdp":
        client = AsyncCustomerIO("k", limits=limits, when_full="raise", base_url=emu.customerio_url)

        def call(n):
            return client.track("u", "Visit", {"n": n})
    else:
        consumer = AsyncBufferedConsumer(limits=limits, when_full="raise", base_url=emu.url)
        client = AsyncMixpanel("t", consumer)

        def call(n):
            if face == "track":
                return client.track("u", "Visit", {"n": n})
            message = {"event": "Visit", "properties": {"n": n, "distinct_id": "u", "token": "t"}}
            return consumer.send("events", json.dumps(message))

    accepted = refused = 0
    end = time.monotonic() + 20
    while accepted < 1000 and time.monotonic() < end:
        try:
            await call(accepted)
            accepted += 1
        except QueueFullError:
            refused += 1
    assert 1000 == accepted
    assert refused
    await client.aclose()
    if face != "cdp":
        await consumer.aclose()
    assert 1000 == client.stats().delivered


# ---- signal handlers, finalizers, Ctrl-C: an interruption anywhere -------------------------------


class AsyncTransport:
    """Replies to every request at once with success, and counts messages by id."""

    has_sent = True

    def __init__(self):
        self.seen = []

    def send(self, request, *, end):
        body = request.content
        body = gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
        self.seen += [message["properties"]["n"] for message in json.loads(body)]
        return Response(200, {}, b'{"status": 1}')


def interrupted(work, interrupt, at, *, anywhere=True):
    """Run `work`, and `interrupt` before the opcode number `at` of our delivery code in it.

    Without `anywhere`, only where CPython lets signal handlers run: after calls, at jumps back and
    where functions begin. Return whether there was such an opcode.
    """
    count = 0
    struck = False
    opcodes = {}

    def is_point(frame):
        code = frame.f_code
        if code not in opcodes:
            named = [one for one in dis.get_instructions(code) if one.opname != "CACHE"]
            opcodes[code] = {
                after.offset
                for one, after in itertools.pairwise(named)
                if one.opname.startswith(("CALL", "RESUME", "JUMP_BACKWARD"))
            } | {one.argval for one in named if one.opname.startswith("JUMP_BACKWARD")}
        return frame.f_lasti in opcodes[code]

    def each(frame, event, _arg):
        nonlocal count, struck
        # Python 3.13 takes opcodes into account only for a frame that has its function already.
        frame.f_trace = each
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode" and not struck and (anywhere or is_point(frame)):
            count += 1
            if count == at:
                struck = True
                sys.settrace(None)
                interrupt()
        return each

    def begin(frame, _event, _arg):
        name = frame.f_code.co_filename
        return each(frame, "call", None) if name.endswith(("buffer.py", "stats.py")) else None

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # Python 3.12 looks for one such frame in `settrace`
    sys.settrace(begin)
    try:
        work()
    finally:
        sys.settrace(before)
    return struck


def checked(sender):
    """Check the invariants that hold while no critical section is in progress."""
    buffer, stats = sender.buffer, sender.stats
    total = 0
    for queue in buffer.queues.values():
        assert queue.bytes == sum(len(record.body) for record in queue.unsent)
        in_flight = [record for batch in queue.in_flight for record in batch.unsettled]
        total += len(queue.unsent) + len(in_flight)
    assert total + len(stats.deferred) == stats.snapshot().pending
    assert is_balanced(stats.snapshot())


WORK = ["put", "full", "drop_oldest", "send", "flush", "give_up"]


def worked(kind, mp, transport):
    sender = mp.consumer._sender

    def put():
        mp._composer  # noqa: B018
        sender.accept(record(mp, 100))

    def send():
        while sender.dispatcher.send_due_blocking(transport, everything=True):
            pass

    def flush():
        sender.buffer.mark_for_flush()
        send()
        sender.buffer.result_since(sender.buffer.snapshot())

    return {
        "put": put,
        "full": put,
        "drop_oldest": put,
        "send": send,
        "flush": flush,
        "give_up": lambda: sender.buffer.drop_all("test"),
    }[kind]


def record(mp, n):
    return mp._composer.event("u", "Visit", {"n": n}, endpoint="events")


def made(kind):
    full = kind in ("full", "drop_oldest")
    consumer = BufferedConsumer(
        limits=Limits(flush_after=None, max_queue_size=3 if full else 1000),
        when_full="drop_oldest" if kind == "drop_oldest" else "drop_newest",
        on_drop=lambda *_: None,
    )
    mp = Mixpanel("t", consumer)
    for n in range(3):
        consumer._sender.accept(record(mp, n))
    return mp


@pytest.mark.parametrize("kind", WORK)
def test_a_signal_handler_may_track_at_any_point(kind):
    """Every message is accepted once, sent once, and the counts agree throughout."""
    at = 0
    while True:
        at += 1
        assert at < 5000
        mp, transport = made(kind), AsyncTransport()
        sender = mp.consumer._sender

        def handler(sender=sender, mp=mp):
            sender.accept(record(mp, 200))
            assert is_balanced(sender.stats.snapshot())

        struck = interrupted(worked(kind, mp, transport), handler, at)
        checked(sender)
        while sender.dispatcher.send_due_blocking(transport, everything=True):
            pass
        checked(sender)
        stats = mp.stats()
        assert 0 == stats.pending
        assert len(transport.seen) == len(set(transport.seen)) == stats.delivered
        assert stats.accepted == 3 + (kind in ("put", "full", "drop_oldest")) + struck
        if not struck:
            break
    assert at > 50


@pytest.mark.parametrize("error", [KeyboardInterrupt, TimeoutError])
@pytest.mark.parametrize("kind", WORK)
def test_a_signal_handler_may_raise_at_any_point(kind, error):
    """Ctrl-C or an alarm: no message that was accepted is lost, no batch stays in flight."""
    at = 0
    while True:
        at += 1
        assert at < 5000
        mp, transport = made(kind), AsyncTransport()
        sender = mp.consumer._sender

        def handler():
            raise error

        try:
            struck = interrupted(worked(kind, mp, transport), handler, at, anywhere=False)
        except error:
            struck = True
        checked(sender)
        assert not sender.buffer.has_in_flight()
        sender.buffer.queues["events"].paused_until = 0.0  # an alarm in our code pauses the lane
        while sender.dispatcher.send_due_blocking(transport, everything=True):
            pass
        checked(sender)
        assert 0 == mp.stats().pending
        if kind in ("put", "send", "flush"):
            assert {0, 1, 2} <= set(transport.seen)
        if not struck:
            break
    assert at > 5


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs signal.setitimer")
@pytest.mark.parametrize("kind", [BufferedConsumer, AsyncBufferedConsumer])
def test_a_real_signal_handler_tracks_while_the_program_tracks(emu, kind):
    """Thousands of each at the same time: all are delivered."""
    mp = Mixpanel("t", kind(base_url=emu.url, limits=Limits(max_queue_size=200_000)))
    handled = 0

    def handler(*_):
        nonlocal handled
        handled += 1
        mp.track("u", "Handled", {"n": -handled})

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        for n in range(4000):
            mp.track("u", "Visit", {"n": n})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    result = mp.flush(30)
    assert 0 == result.pending
    assert 0 < handled
    assert numbers(emu) == [*range(-handled, 0), *range(4000)]
    mp.consumer.close() if kind is BufferedConsumer else background_loop.run(mp.consumer.aclose)


@pytest.mark.parametrize("face", [Mixpanel, CustomerIO])
def test_a_flush_inside_the_interrupted_buffer_returns_instead_of_waiting_for_ever(
    emu, face, caplog
):
    """It would wait for a lock that its own thread holds; the result says what is pending."""
    if face is Mixpanel:
        mp = Mixpanel("t", BufferedConsumer(base_url=emu.url))
        sender = mp.consumer._sender
    else:
        mp = CustomerIO("k", base_url=emu.customerio_url)
        sender = mp._sender
    mp.track("u", "Visit", {"n": 0})
    with sender.buffer.lock:
        assert not mp.flush().ok
        mp.track("u", "Visit", {"n": 1})
    assert "nothing was sent" in caplog.text
    assert mp.flush().pending == 0
    assert 2 == mp.stats().delivered
    (mp.consumer if face is Mixpanel else mp).close()


@pytest.mark.anyio
async def test_the_old_owner_of_a_reclaimed_batch_does_not_send_it(emu, anyio_backend, monkeypatch):
    """Nor does it pause the queue: the batch is sent once, by its new owner."""
    waiting, over = anyio.Event(), anyio.Event()

    async def held_sleep(seconds):
        if waiting.is_set():
            await anyio.sleep(seconds)
        else:
            waiting.set()
            await over.wait()

    monkeypatch.setattr(dispatcher, "anyio", SimpleNamespace(sleep=held_sleep))
    mp = AsyncMixpanel("t", AsyncBufferedConsumer(max_size=1, base_url=emu.url))
    emu.play(Fault.status(503))
    await mp.track("u", "Visit", {"n": 1})
    await waiting.wait()
    buffer = mp.consumer._sender.buffer
    buffer.reclaim()
    buffer.clear_pauses()
    assert (await mp.flush()).pending == 0
    over.set()
    await anyio.sleep(0.1)  # closing the client would end its task
    assert len(emu.requests("/track")) == 2
    await mp.aclose()


# ---- a living owner -----------------------------------------------------------------------------


def test_each_batch_in_flight_always_has_a_living_owner(emu, monkeypatch):
    """Checked at every step, while loops end, tasks are cancelled and threads track."""
    watched = []
    take, finish = Sender._take_in, Sender._task_ended

    def look(sender):
        for queue in list(sender.buffer.queues.values()):
            for batch in queue.in_flight:
                watched.append(batch)
                assert batch.owner_is_alive() or not sender.has_loop

    def taken(sender, home, claim):
        batch = take(sender, home, claim)
        look(sender)
        return batch

    def left(sender, home):
        finish(sender, home)
        sender.buffer.reclaim(dead_only=True)
        look(sender)

    monkeypatch.setattr(Sender, "_take_in", taken)
    monkeypatch.setattr(Sender, "_task_ended", left)
    consumer = AsyncBufferedConsumer(max_size=3, base_url=emu.url, retry=QUICK)
    mp = AsyncMixpanel("t", consumer)

    async def visit(first):
        for n in range(first, first + 10):
            await mp.track("u", "Visit", {"n": n})
            if n % 4 == 0:
                await asyncio.sleep(0)
            if n % 7 == 0:
                for task in asyncio.all_tasks() - {asyncio.current_task()}:
                    task.cancel()

    for first in range(0, 400, 10):
        asyncio.run(visit(first))
    threads = [
        threading.Thread(target=lambda first=first: asyncio.run(visit(first)))
        for first in range(400, 480, 10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asyncio.run(consumer.flush(20)).pending == 0
    assert set(numbers(emu)) == set(range(480))
    assert watched
    asyncio.run(consumer.aclose())
    wait_until(lambda: not consumer._sender.buffer.has_in_flight())


# ---- the end of the process ---------------------------------------------------------------------

DAEMON = """
import os, sys, threading, time
from mixpanel import *

def dropped(reason, messages):
    for message in messages:
        os.write(1, b"dropped %d %s\\n" % (message["properties"]["n"], reason.encode()))

mp = Mixpanel("t", {consumer}(on_drop=dropped))
numbers = iter(range(1_000_000))

def work():
    while True:
        n = next(numbers)
        mp.track("u", "Visit", {{"n": n}})
        os.write(1, b"accepted %d\\n" % n)
        time.sleep(0.0005)

for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
"""


@pytest.mark.parametrize("consumer", ["BufferedConsumer", "AsyncBufferedConsumer"])
def test_messages_of_daemon_threads_at_exit_are_delivered_or_counted(emu, consumer):
    """Each message whose call returned is at the server, or was passed to `on_drop`."""
    done = subprocess.run(
        [sys.executable, "-c", DAEMON.format(consumer=consumer)],
        env={**os.environ, "MP_BASE_URL": emu.url},
        capture_output=True,
        timeout=120,
        check=True,
    )
    lines = [line.split() for line in done.stdout.decode().splitlines() if line.count(" ")]
    accepted = {int(line[1]) for line in lines if line[0] == "accepted"}
    dropped = {int(line[1]) for line in lines if line[0] == "dropped"}
    assert len(accepted) > 50
    assert not accepted - dropped - set(numbers(emu))
    assert {"exit"} >= {line[2] for line in lines if line[0] == "dropped"}


LATE = """
import atexit, os
from mixpanel import *

def dropped(reason, messages):
    print("dropped", reason, len(messages), flush=True)

def late():
    for n in range(10, 13):
        mp.track("u", "Visit", {{"n": n}})

atexit.register(late)  # runs after the drain, which is registered later
mp = Mixpanel("t", {consumer}(on_drop=dropped, base_url=os.environ["URL"]))
mp.track("u", "Visit", {{"n": 1}})
"""


@pytest.mark.parametrize("consumer", ["BufferedConsumer", "AsyncBufferedConsumer", "Consumer"])
def test_messages_of_later_exit_handlers_are_sent_at_once(emu, consumer):
    """Within the time of the drain."""
    done = subprocess.run(
        [sys.executable, "-c", LATE.format(consumer=consumer)],
        env={**os.environ, "URL": emu.url},
        capture_output=True,
        timeout=120,
        check=True,
    )
    assert (b"", b"") == (done.stdout, done.stderr)
    assert numbers(emu) == [1, 10, 11, 12]


FIRST = """
import atexit, os
from mixpanel import *

def late():
    mp = make()
    for n in range(3):
        mp.track("u", "Visit", {{"n": n}})
    assert mp.stats().delivered == 3, mp.stats()

def make():
    return Mixpanel("t", {consumer}(base_url=os.environ["URL"]))

{before}
atexit.register(late)
"""


@pytest.mark.parametrize("before", ["", "mp = make(); make = lambda: mp"])
@pytest.mark.parametrize("consumer", ["BufferedConsumer", "AsyncBufferedConsumer"])
def test_the_first_messages_of_a_process_may_be_those_of_an_exit_handler(emu, consumer, before):
    """No exit handler that is registered then would be called."""
    done = subprocess.run(
        [sys.executable, "-c", FIRST.format(consumer=consumer, before=before)],
        env={**os.environ, "URL": emu.url},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert (b"", b"") == (done.stdout, done.stderr)
    assert numbers(emu) == [0, 1, 2]


@pytest.mark.parametrize("consumer", ["BufferedConsumer", "AsyncBufferedConsumer"])
def test_messages_that_cannot_be_sent_after_the_drain_are_counted(consumer):
    """When the server does not respond."""
    done = subprocess.run(
        [sys.executable, "-c", LATE.format(consumer=consumer)],
        env={**os.environ, "URL": "http://127.0.0.1:9"},
        capture_output=True,
        timeout=120,
        check=True,
    )
    counts = [line.split() for line in done.stdout.decode().splitlines()]
    assert {"exit"} == {line[1] for line in counts}
    assert 4 == sum(int(line[2]) for line in counts)
