"""What goes wrong around a client, not on the network: loops, tasks, forks, signals, callbacks.

Each scenario gets a `World`: a server, and an account of what was tracked. Those that need a fresh
interpreter run a program of their own.
"""

import asyncio
import gc
import logging
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import anyio
from asgiref.sync import async_to_sync

from mixpanel import (
    AsyncBufferedConsumer,
    AsyncConsumer,
    AsyncMixpanel,
    BufferedConsumer,
    ClosedError,
    DeliveryError,
    Limits,
    Mixpanel,
    QueueFullError,
    Stats,
    SyncInAsyncError,
)
from mixpanel._runtime import background_loop
from mixpanel.cdp import AsyncCustomerIO
from mixpanel.flags import RemoteFlagsConfig
from mixpanel.flags.types import SelectedVariant
from tests.faults.kinds import KINDS
from tests.faults.matrix import BACKENDS, BACKGROUND, CALLER
from tests.faults.oracle import DeliveryAudit, Outcome, Watch
from tests.faults.server import FaultServer

SCENARIOS = {}
LOOPS = ("asyncio", "uvloop", "trio")


def scenario(name):
    def keep(function):
        assert name not in SCENARIOS, name
        SCENARIOS[name] = function
        return function

    return keep


def on_each(name, values):
    """Keep a scenario once for each value of its second argument."""

    def keep(function):
        for value in values:
            scenario(f"{name}: {value}")(partial(_with, function, value))
        return function

    return keep


def _with(function, value, world, small):
    return function(world, value, small)


def run(name, function, *, small):
    """Run one scenario and return its outcome."""
    began, outcome = time.monotonic(), Outcome(name)
    with World() as world:
        try:
            function(world, small)
            if world.audit.stats is not None:
                world.audit.finish()
        except StuckError as error:
            world.audit.fault("stuck", str(error))
        except Exception as error:
            world.audit.fault("wrong", f"{type(error).__name__}: {error}")
        outcome.merged(world.audit, *world.rounds)
    outcome.seconds = time.monotonic() - began
    return outcome


class StuckError(Exception):
    """Something still waits, or does not arrive, though all is healthy: no more is tried."""


class World:
    """A server, a client to be, and the account of both."""

    def __init__(self):
        self._stack = ExitStack()
        self.rounds = []  # accounts of clients that are done with

    def __enter__(self):
        self.server = self._stack.enter_context(FaultServer())
        self.audit = DeliveryAudit(self.server.record)
        self.watch = self._stack.enter_context(Watch())
        return self

    def __exit__(self, *_):
        self._stack.close()

    def play(self, *kinds):
        self.server.script.extend(KINDS[kind] for kind in kinds)

    def client(
        self, made=AsyncMixpanel, consumer=AsyncBufferedConsumer, *, audited=True, **options
    ):
        """Make a client; unless `audited`, its losses go to the log instead of the audit."""
        if audited:
            options = {
                "on_error": self.audit.on_error,
                "on_drop": self.audit.on_drop,
                **options,
            }
        options.setdefault("retry", BACKGROUND)
        options.setdefault("limits", Limits(request_timeout=1.0, flush_after=0.01))
        mp = made("t", consumer(base_url=self.server.url, **options))
        self.audit.stats = mp.stats
        self.watch.over(self.audit)
        return mp

    def track(self, mp, marker):
        """Track one message; return what the client returns."""
        self.audit.accepted(marker)
        try:
            return mp.track("u", "Visit", {"m": marker})
        except (QueueFullError, ClosedError, SyncInAsyncError):
            self.audit.refused(marker)
            raise

    async def flushed(self, mp):
        """Flush until nothing waits; a healthy server was never this slow."""
        for _ in range(3):
            await mp.flush(5)
            if not mp.stats().pending:
                return
        raise StuckError(f"three flushes later: {mp.stats()}")

    def flushed_sync(self, mp):
        for _ in range(3):
            mp.flush(5)
            if not mp.stats().pending:
                return
        raise StuckError(f"three flushes later: {mp.stats()}")

    async def probe(self, mp, seconds=8):
        """See whether a fresh message arrives by itself."""
        marker = f"probe-{len(self.audit.calls)}"
        await self.track(mp, marker)
        with anyio.move_on_after(seconds):
            while not self.server.record.applied[marker]:
                await anyio.sleep(0.005)
            return
        raise StuckError(f"a fresh message does not arrive: {self.audit.stats()}")

    def check(self, column, *, holds, what):
        if not holds:
            self.audit.fault(column, what)


# ---- loops --------------------------------------------------------------------------------------


@on_each("loops that track once and end", [*LOOPS, "async_to_sync"])
def loops_that_end(world, backend, small):
    """Each loop ends in the tick of its track; then one flush brings all of it."""
    limits = Limits(request_timeout=2.0, flush_after=0.01, max_batch_size=1)
    mp = world.client(limits=limits)

    async def visit(n):
        await world.track(mp, f"m-{n}")

    count = 200 if small else 1000
    for n in range(count):
        if backend == "async_to_sync":
            async_to_sync(visit)(n)
        else:
            anyio.run(visit, n, **BACKENDS[backend])

    async def end():
        await world.flushed(mp)
        await world.probe(mp)
        await mp.consumer.aclose()

    anyio.run(end)


@scenario("loops that end with a profile update on its way")
def loops_that_end_with_profiles(world, small):
    """One request at a time: a single batch without an owner stops the queue for good."""
    mp = world.client(limits=Limits(request_timeout=2.0, flush_after=0.01, max_batch_size=1))

    async def visit(n):
        world.audit.accepted(f"m-{n}")
        await mp.people_set("u", {"m": f"m-{n}"})
        for _ in range(n % 7):
            await asyncio.sleep(0)

    for n in range(60):
        asyncio.run(visit(n))

    async def end():
        await world.flushed(mp)
        await mp.consumer.aclose()

    asyncio.run(end())


@scenario("loops in several threads share a client")
def loops_in_threads(world, small):
    """Loops begin and end in four threads at once, under faults."""
    world.play("503 own", "reset after request, applied", "500", "cut in body")
    mp = world.client()

    async def visit(thread, n):
        await world.track(mp, f"m-{thread}-{n}")
        if n % 3 == 0:
            await mp.flush(5)

    def work(thread):
        for n in range(30):
            asyncio.run(visit(thread, n))

    _together(work, range(4))

    async def end():
        await world.flushed(mp)
        await world.probe(mp)
        await mp.consumer.aclose()

    asyncio.run(end())


def _together(work, values):
    failures = []

    def guarded(value):
        try:
            work(value)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(each,), daemon=True) for each in values]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads), "a thread does not come back"
    if failures:
        raise failures[0]


# ---- cancellation -------------------------------------------------------------------------------


@on_each("a sweep cancels every task", ["asyncio", "uvloop"])
def sweeps(world, backend, small):
    """Whenever all tasks are cancelled, the sender starts again with the next message."""

    async def main():
        mp = world.client()
        for n in range(40 if small else 150):
            await world.track(mp, f"m-{n}")
            for _ in range(n % 20):
                await asyncio.sleep(0)
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            if n % 10 == 9:
                await world.probe(mp)
        await world.probe(mp)
        await world.flushed(mp)
        await mp.consumer.aclose()

    anyio.run(main, **BACKENDS[backend])


@on_each("sweeps while connections break", ["asyncio", "uvloop"])
def sweeps_under_faults(world, backend, small):
    """Cancelled at any point of a request that fails, nothing is lost and nothing is left over."""
    chance = random.Random(5)
    harmless = [
        name for name, kind in KINDS.items()
        if not name.startswith(("surplus", "stall", "1xx", "chunks", "4", "3", "20"))
        and name != "501"
        and not kind.lies
    ]  # fmt: skip

    async def main():
        mp = world.client(limits=Limits(request_timeout=0.3, flush_after=0.005, max_batch_size=5))
        for n in range(60 if small else 300):
            world.play(chance.choice(harmless))
            await world.track(mp, f"m-{n}")
            await asyncio.sleep(chance.random() * 0.01)
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                if chance.random() < 0.7:
                    task.cancel()
        world.server.script.clear()
        await world.probe(mp)
        await world.flushed(mp)
        await mp.consumer.aclose()

    anyio.run(main, **BACKENDS[backend])


@on_each("calls cancelled twice", ["AsyncConsumer", "CDP direct", "aget_variant"])
def double_cancels(world, face, small):
    """A thousand calls are cancelled twice in a row; then one works at once."""
    count = 250 if small else 1000
    world.server.script.extend([KINDS["stall after request"]] * count)

    async def main():
        call, close, works = _awaited(world, face)
        for n in range(count):
            if n % 2:
                task = asyncio.ensure_future(call(f"m-{n}"))
                for _ in range(n % 12):
                    await asyncio.sleep(0)
                await asyncio.sleep(0.001 if n % 3 else 0)
                task.cancel()
                await asyncio.sleep(0)
                task.cancel()
                with suppress(asyncio.CancelledError, DeliveryError):
                    await task
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.002), asyncio.timeout(0.002):
                        await call(f"m-{n}")
        world.server.script.clear()
        await asyncio.sleep(0.2)
        open_now = world.server.open
        world.check("stuck", holds=open_now <= 40, what=f"{open_now} connections are still open")
        try:
            async with asyncio.timeout(4):
                world.check("stuck", holds=await works(), what="the next call does not work")
        except TimeoutError:
            world.audit.fault("stuck", "the next call does not return")
        await close()

    asyncio.run(main())
    # A cancelled caller gets no error; the outcome of those calls is in the counts alone.
    stats, calls = world.audit.stats(), world.audit.calls
    counted = stats.rejected + sum(stats.dropped.values())
    # A response may have been on its way when its caller was cancelled: such calls come last.
    for marker in sorted(calls, key=lambda one: bool(world.server.record.applied[one]))[:counted]:
        for reason in stats.dropped:
            world.audit.fates.setdefault(marker, [reason])


def _awaited(world, face):
    """Return a call to make, how to close its client, and one that shows that it works."""
    limits = Limits(request_timeout=5.0, flush_after=None)
    if face == "aget_variant":
        config = RemoteFlagsConfig(request_timeout_in_seconds=5)
        consumer = AsyncBufferedConsumer(base_url=world.server.url)
        mp = AsyncMixpanel("t", consumer, remote_flags_config=config)
        world.audit.stats = mp.stats
        nothing = SelectedVariant(None)

        async def ask(marker):
            return await mp.remote_flags.aget_variant("f", nothing, {"distinct_id": marker})

        async def close():
            await mp.remote_flags.ashutdown()
            await consumer.aclose()

        async def is_answered():
            await ask("probe")
            return mp.remote_flags.last_error is None

        return ask, close, is_answered
    if face == "CDP direct":
        client = AsyncCustomerIO(
            "k",
            base_url=f"{world.server.url}/cio",
            send_immediately=True,
            limits=limits,
            retry=CALLER,
        )
        world.audit.stats, close = client.stats, client.aclose
    else:
        client = world.client(consumer=AsyncConsumer, audited=False, limits=limits, retry=CALLER)
        close = client.consumer.aclose

    async def call(marker):
        await world.track(client, marker)

    async def works():
        await call("probe")
        return world.server.record.applied["probe"] == 1

    return call, close, works


@on_each("flushes cancelled at any moment", LOOPS)
def cancelled_flushes(world, backend, small):
    """A flush that is cut off leaves each message for the next."""
    chance = random.Random(7)

    async def main():
        mp = world.client(limits=Limits(request_timeout=0.5, flush_after=None, max_batch_size=4))
        for n in range(120 if small else 500):
            await world.track(mp, f"m-{n}")
            with anyio.move_on_after(chance.random() * 0.004):
                await mp.flush()
        await world.track(mp, "probe")
        await world.flushed(mp)
        await mp.consumer.aclose()

    anyio.run(main, **BACKENDS[backend])


# ---- threads and signals ------------------------------------------------------------------------


@on_each("threads track under faults", ["BufferedConsumer", "AsyncBufferedConsumer"])
def threads_track(world, face, small):
    """Eight threads, one client, connections that break again and again."""
    consumer = {"BufferedConsumer": BufferedConsumer}.get(face, AsyncBufferedConsumer)
    each = 300 if small else 2500
    for _ in range(6):
        world.play("503 own", "reset after request, applied", "500", "cut in body", "429", "413")
    mp = world.client(Mixpanel, consumer, limits=Limits(request_timeout=1.0, flush_after=0.02))

    def work(thread):
        for n in range(each):
            world.track(mp, f"m-{thread}-{n}")

    _together(work, range(8))
    world.flushed_sync(mp)
    background_loop.run(mp.consumer._sender.aclose)


SIGNALS = """
import itertools, signal, sys, time
limits = Limits(request_timeout=5.0, flush_after=0.01, max_batch_size=40)
consumer = {"BufferedConsumer": lambda: BufferedConsumer(40, limits=limits),
            "AsyncBufferedConsumer": lambda: AsyncBufferedConsumer(limits=limits)}[sys.argv[1]]()
mp = Mixpanel("t", consumer)
handled = n = depth = 0
numbers, failures = itertools.count(), []

def handler(*_):
    global handled, depth
    if depth == 3:
        return
    depth += 1
    try:
        mp.track("u", "Visit", {"m": f"s-{next(numbers)}"})
        handled += 1
    except Exception as error:
        failures.append(f"{type(error).__name__}: {error}")
    finally:
        depth -= 1

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.0007, 0.0007)
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end and n < 20_000:
    mp.track("u", "Visit", {"m": f"m-{n}"})
    n += 1
    if n % 500 == 0:
        mp.flush(5)
signal.setitimer(signal.ITIMER_REAL, 0)
for failure in failures[:3]:
    print("wrong", "in a signal handler:", failure)
buffer = consumer._sender.buffer
for name, queue in buffer.queues.items():
    with buffer.lock:
        size = sum(len(record.body) for record in queue.unsent)
        if queue.bytes != size:
            print("wrong", f"{name}: counts {queue.bytes} bytes, holds {size}")
for _ in range(3):
    if not mp.flush(10).pending:
        break
stats = mp.stats()
if stats.delivered != stats.accepted or stats.accepted < n + handled:
    print("lost", f"{n} and {handled} tracked: {stats}")
print("tracked", n + handled)
"""


@on_each("a signal handler tracks", ["BufferedConsumer", "AsyncBufferedConsumer"])
def signals(world, face, small):
    """In the middle of any other `track`, of a batch being packed or sent, of a flush."""
    if not hasattr(signal, "setitimer"):
        return
    out = _program(world, SIGNALS, face, 2 if small else 10, seconds=60)
    *found, last = out.splitlines() or [""]
    for line in found:
        column, _, what = line.partition(" ")
        world.audit.fault(column, what)
    arrived = len(world.server.record.applied)
    if last != f"tracked {arrived}":
        world.audit.fault("lost", f"{last}, {arrived} arrived")
    for marker in world.server.record.applied:
        world.audit.accepted(marker)
    world.audit.stats = lambda: _all_applied(world.audit)


# ---- full buffers -------------------------------------------------------------------------------


@on_each("a full buffer in a tight loop", ["drop_newest", "drop_oldest", "wait", "raise"])
def full_buffers(world, when_full, small):
    """Whatever the mode, the sender gets its turn, and what goes is counted."""
    limits = Limits(request_timeout=2.0, flush_after=0.01, max_queue_size=400, max_batch_size=100)

    async def main():
        mp = world.client(when_full=when_full, limits=limits)
        started, n, refused = time.monotonic(), 0, 0
        end, last = started + (2 if small else 6), started + 60  # busy machines need longer
        while len(world.audit.calls) < 60_000:
            if end < time.monotonic() and (
                mp.stats().delivered >= 3 * 400 or last < time.monotonic()
            ):
                break
            try:
                await world.track(mp, f"m-{n}")
            except QueueFullError:
                world.audit.refused(f"m-{n}")
                refused += 1
            n += 1
        taken = mp.stats().delivered
        world.check(
            "stuck", holds=taken >= 3 * 400, what=f"{taken} delivered while {n} were tracked"
        )
        world.check(
            "wrong", holds=n == refused + mp.stats().accepted, what=f"{n} calls, {mp.stats()}"
        )
        await world.flushed(mp)
        await world.probe(mp)
        await mp.consumer.aclose()

    anyio.run(main)


@scenario("tracking while the client is closed")
def tracking_while_closing(world, small):
    """A message is either accepted and accounted for, or refused with an error."""
    for _ in range(10 if small else 40):
        with World() as each:
            _track_while_closing(each)
            each.audit.finish()
            world.rounds.append(each.audit)


def _track_while_closing(world):
    mp = world.client(Mixpanel, AsyncBufferedConsumer)
    begun = threading.Event()

    def work(thread):
        with suppress(ClosedError):
            for n in range(10_000):
                world.track(mp, f"m-{thread}-{n}")
                begun.set()

    threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(3)]
    for thread in threads:
        thread.start()
    begun.wait(10)
    background_loop.run(mp.consumer.aclose)
    for thread in threads:
        thread.join(30)


def _all_applied(audit):
    count = len(audit.calls)
    bad = [fate for fates in audit.fates.values() for fate in fates]
    dropped = {reason: bad.count(reason) for reason in set(bad)}
    return Stats(accepted=count, delivered=count - len(bad), dropped=dropped)


# ---- the user's own code ------------------------------------------------------------------------


class Handler(logging.Handler):
    """Do something at each line of the log."""

    def __init__(self, act):
        super().__init__(logging.DEBUG)
        self._act = act

    def emit(self, record):
        self._act()


@contextmanager
def _logging(act):
    logger = logging.getLogger("mixpanel")
    handler, level, propagate = Handler(act), logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


class Meddling:
    """Be called by the client; track, or raise, or both."""

    def __init__(self, world, what):
        self.world, self.what, self.client = world, what, None
        self.left = 40
        self.failures = []

    def __call__(self, *_):
        if "track" in self.what and self.left > 0 and self.client is not None:
            self.left -= 1
            try:
                taken = self.world.track(self.client, f"inner-{self.left}")
            except Exception as error:
                self.failures.append(f"{type(error).__name__}: {error}")
            else:
                if taken is not None:
                    taken.close()
        if "raise" in self.what:
            raise RuntimeError("a handler of the user's own")


FAULTY = ("503 own", "429", "reset after request, applied", "400", "500", "502 HTML")


@on_each(
    "user code that meddles",
    [
        f"{face}, {place}, {what}"
        for face in ("AsyncBufferedConsumer", "BufferedConsumer", "background sync")
        for place in ("callbacks", "log handler")
        for what in ("raise", "track", "track and raise")
    ],
)
def meddling(world, value, small):
    """Callbacks and log handlers that track or raise change nothing about what arrives."""
    face, place, what = value.split(", ")
    world.play(*FAULTY)
    act = Meddling(world, what)
    options = {
        "audited": False,
        "limits": Limits(request_timeout=1.0, flush_after=0.01, max_batch_size=5),
    }
    refused = []
    if place == "callbacks":

        def on_error(error, messages):
            refused.extend(messages if type(error).__name__ == "RejectedError" else ())
            act()

        options |= {"on_error": on_error, "on_drop": act}
    made = AsyncMixpanel if face == "AsyncBufferedConsumer" else Mixpanel
    consumer = BufferedConsumer if face == "BufferedConsumer" else AsyncBufferedConsumer
    mp = act.client = world.client(made, consumer, **options)

    async def main():
        for n in range(40):
            await world.track(mp, f"m-{n}")
        await mp.flush(10)
        await world.probe(mp)
        act.left = 0  # with each line of the log a message more, nothing would ever be over
        await world.flushed(mp)
        await mp.consumer.aclose()

    def sync_main():
        for n in range(40):
            world.track(mp, f"m-{n}")
        mp.flush(10)
        act.left = 0
        world.flushed_sync(mp)
        background_loop.run(mp.consumer._sender.aclose)

    with _logging(act if place == "log handler" else lambda: None):
        if made is AsyncMixpanel:
            anyio.run(main)
        else:
            sync_main()
    for failure in act.failures[:3]:
        world.audit.fault("wrong", f"tracking from there: {failure}")
    for marker, times in world.server.record.applied.items():
        # The faults explain three copies at most; with more, a response was not counted.
        world.check("wrong", holds=times <= 3, what=f"{marker} was sent {times} times")
    # Losses were not reported to the audit, so it takes the client's count of the rejected.
    missing = [m for m in world.audit.calls if not world.server.record.applied[m]]
    for marker in missing[: mp.stats().rejected]:
        world.audit.fates[marker] = ["rejected"]


@scenario("finalizers that track, on the background thread")
def finalizers(world, small):
    """What a collected object tracks is kept, whichever thread happens to collect it."""
    mp = world.client(
        Mixpanel, BufferedConsumer, limits=Limits(request_timeout=2.0, flush_after=None)
    )
    failures = []

    class Forgotten:
        def __init__(self, n):
            self.n, self.me = n, self

        def __del__(self):
            try:
                world.track(mp, f"d-{self.n}")
            except Exception as error:
                failures.append(f"{type(error).__name__}: {error}")

    async def collect():
        gc.collect()

    for n in range(200):
        Forgotten(n)
        if n % 50 == 49:
            background_loop.run(collect)
    gc.collect()
    for failure in failures[:3]:
        world.audit.fault("lost", f"in a finalizer: {failure}")
    world.flushed_sync(mp)
    mp.consumer.close()


# ---- what only a human can help with ------------------------------------------------------------


@on_each("a refusal meets a delivery", LOOPS)
def refusal_beside_delivery(world, backend, small):
    """A batch that arrives beside one refused for its credentials holds nothing up afterwards."""
    world.play("late but in time", "401")

    async def main():
        limits = Limits(request_timeout=2.0, flush_after=0.01, max_batch_size=5)
        mp = world.client(limits=limits)
        for n in range(20):
            await world.track(mp, f"m-{n}")
        await anyio.sleep(0.5)
        await world.flushed(mp)
        await mp.consumer.aclose()

    anyio.run(main, **BACKENDS[backend])


# ---- processes ----------------------------------------------------------------------------------


def _program(world, body, *args, seconds=60):
    """Run a program of its own against the world's server; return what it printed."""
    root = Path(__file__).parent.parent.parent
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))
    process = subprocess.Popen(
        [sys.executable, "-c", "from mixpanel import *\n" + textwrap.dedent(body), *map(str, args)],
        env={**os.environ, "MP_BASE_URL": world.server.url, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        world.audit.fault("stuck", f"a program does not end: {err[-200:]}")
        return out
    if process.returncode:
        world.audit.fault("wrong", f"a program failed ({process.returncode}): {err[-300:]}")
    return out


FORKS = """
import os, signal, sys, threading, time
name, delay = sys.argv[1], float(sys.argv[2])
made = {"sync": lambda: BufferedConsumer(5), "background": lambda: AsyncBufferedConsumer(5, 0.01)}
mp = Mixpanel("t", made[sys.argv[3]]())
signal.alarm(40)

def work():
    for n in range(50):
        mp.track("u", "Visit", {"m": f"{name}-t{n}"})

thread = threading.Thread(target=work)
thread.start()
time.sleep(delay)
for n in range(4):
    pid = os.fork()
    if pid == 0:
        signal.alarm(15)
        mp.track("u", "Visit", {"m": f"{name}-c{n}"})
        os._exit(0 if mp.flush(10).ok else 3)
    mp.track("u", "Visit", {"m": f"{name}-p{n}"})
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        print(f"child {n}: {code}")
thread.join()
mp.flush(10)
stats = mp.stats()
print("balanced" if stats.balanced and stats.delivered == 54 else f"parent: {stats}")
"""


@on_each("forks soon after another thread's first track", ["sync", "background"])
def forks(world, face, small):
    """Parent and children go on, whatever the other thread was doing; each message comes once."""
    if not hasattr(os, "fork"):
        return
    delays = [0.0, 0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.08, 0.12]
    few = delays[::3]
    for n, delay in enumerate(few if small else delays * 4):
        name = f"f{n}"
        for marker in [f"{name}-t{at}" for at in range(50)] + [
            f"{name}-{who}{at}" for who in "cp" for at in range(4)
        ]:
            world.audit.accepted(marker)
        for line in _program(world, FORKS, name, delay, face).splitlines():
            if line != "balanced":
                world.audit.fault("stuck" if "child" in line else "wrong", f"{delay} s: {line}")
    _expect_all(world, once=True)


def _expect_all(world, *, once):
    """Close the account of programs that are gone: everything they tracked was to arrive."""
    record, calls = world.server.record, world.audit.calls
    for marker, times in record.applied.items():
        if once and times > 1:
            world.audit.fault("twice", f"{marker} was applied {times} times")
    for marker in [marker for marker in calls if not record.applied[marker]]:
        world.audit.fault("lost", f"{marker} did not arrive")
        del calls[marker]
    world.audit.stats = lambda: _all_applied(world.audit)


DAEMONS = """
import atexit, os, sys, threading, time
dropped = []
mp = Mixpanel("t", {"sync": BufferedConsumer, "background": AsyncBufferedConsumer}[sys.argv[2]](
    on_error=lambda *_: None, on_drop=lambda why, gone: os.write(1, b"d" * len(gone))))

tracked = [0] * 4

def work(thread):
    while True:
        try:
            mp.track("u", "Visit", {"m": f"{sys.argv[1]}-{thread}-{tracked[thread]}"})
        except Exception:
            return
        os.write(1, b"a")
        tracked[thread] += 1
        time.sleep(0.0005)

for thread in range(4):
    threading.Thread(target=work, args=(thread,), daemon=True).start()
time.sleep(0.3)
deadline = time.monotonic() + 20
while sum(tracked) < 200 and time.monotonic() < deadline:  # on a busy machine
    time.sleep(0.01)
"""


@on_each("daemon threads track while the process ends", ["sync", "background"])
def daemons(world, face, small):
    """What was accepted arrives, or is counted and reported; nothing is accepted after that."""
    for n in range(2 if small else 20):
        before = len(world.server.record.applied)
        out = _program(world, DAEMONS, f"x{n}", face)
        arrived = len(world.server.record.applied) - before
        accepted, dropped = out.count("a"), out.count("d")
        world.check(
            "lost", holds=accepted <= arrived + dropped,
            what=f"{accepted} accepted, {arrived} arrived, {dropped} reported as dropped",
        )  # fmt: skip
        world.check("wrong", holds=accepted > 100, what=f"only {accepted} tracked: {out[:80]}")
    for marker in world.server.record.applied:
        world.audit.accepted(marker)
    world.audit.stats = lambda: _all_applied(world.audit)
