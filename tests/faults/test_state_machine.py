"""Buffer, sender and retries in one process, on a clock that jumps, in any order of events."""

import asyncio
import gc
import json
import os
import random
import selectors
import shutil
import tempfile
import threading
from collections import Counter, deque
from contextlib import suppress
from itertools import chain, count
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mixpanel import DeliveryError, Limits, RetryPolicy, TransportError
from mixpanel._delivery.buffer import Buffer
from mixpanel._delivery.sender import Sender
from mixpanel._delivery.spool import spooled_buffer, writer
from mixpanel._delivery.spool.blocks import RecordCodec
from mixpanel._delivery.spool.folder import Destination
from mixpanel._delivery.spool.options import SpoolOptions
from mixpanel._delivery.spool.spooled_buffer import SpooledBuffer
from mixpanel._delivery.spool.store import SpoolStore
from mixpanel._delivery.stats import DeliveryStats
from mixpanel._http.ingestion import (
    IngestionApi,
)
from mixpanel._http.proxies import (
    TransportOptions,
)
from mixpanel._http.responses import (
    Response,
    TransportFailure,
)
from mixpanel._records.record import Record
from mixpanel._runtime import shutdown
from mixpanel.settings import Endpoints
from tests.effort import cases
from tests.faults.oracle import REFUSALS

pytestmark = [pytest.mark.slow, pytest.mark.heavy]

PLACES = ("events", "imports", "people", "add")
FAULTS = (
    "late", "reset", "lost response", "not sent", "hang", "429", "503", "500", "400", "401", "413",
    "partial", "HTML", "odd",
)  # fmt: skip
OWN = b'{"code": 503, "error": "try again", "status": "error"}'


# ---- a transport without a network, and a clock without time -------------------------------------


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


class JumpingSelector(selectors.DefaultSelector):
    """Let the loop believe that it waited."""

    def __init__(self, clock):
        super().__init__()
        self._clock = clock

    def select(self, timeout=None):
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("the loop would wait for ever")
        if not ready and timeout > 0:
            self._clock.now += timeout
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop on a clock of ours, which jumps to whatever is waited for."""

    def __init__(self, clock):
        super().__init__(JumpingSelector(clock))
        self.time = clock


class Connections:
    """Replace the client's connections: respond as scripted, and record the requests."""

    def __init__(self):
        self.transport = TransportOptions()
        self.faults = deque()
        self.applied = Counter()
        self.unanswered = set()  # applied by a request whose response may never have been read
        self.order = []

    async def attempt(self, request, on_sent=None):
        messages = json.loads(request.content)
        fault = self.faults.popleft() if self.faults else "ok"
        await anyio.lowlevel.checkpoint()
        if on_sent is not None and fault != "not sent":
            on_sent()
        if fault in ("ok", "late", "lost response"):
            self._apply(messages)
            self.unanswered |= {message["m"] for message in messages}
        await anyio.sleep({"late": 3.0, "lost response": 10.0}.get(fault, 0.01))
        if fault == "hang":
            await anyio.sleep(10.0)
        if fault == "ok":
            self.unanswered -= {message["m"] for message in messages}
        if fault == "partial":
            self._apply(messages[1:])
            failed = {"failed_records": [{"index": 0, "message": "bad"}]}
            return Response(400, {}, json.dumps({"code": 400, **failed}).encode())
        return self._reply(fault, len(messages))

    def _reply(self, fault, count):
        if fault in ("reset", "lost response", "hang"):
            return TransportFailure(TransportError("broke"), may_have_been_sent=True)
        if fault == "not sent":
            return TransportFailure(TransportError("refused"), may_have_been_sent=False)
        if fault in ("HTML", "odd"):
            return Response(200, {}, b"<html>" if fault == "HTML" else b'{"hello": 1}')
        if fault.isdigit():
            return Response(int(fault), {}, OWN if fault in ("429", "503") else b"")
        return Response(
            200, {}, b'{"code": 200, "num_records_imported": %d, "status": "OK"}' % count
        )

    def _apply(self, messages):
        for message in messages:
            self.applied[message["m"]] += 1
            self.order.append(message["m"])

    async def warm(self):
        pass

    async def aclose(self):
        pass


def record(number, place):
    endpoint = "people" if place == "add" else place
    return Record(endpoint, b'{"m": %d}' % number, repeatable=place != "add")


class System:
    """One sender with all that belongs to it, and what is known of each message."""

    def __init__(self, clock):
        self.clock = clock
        self.connections = Connections()
        self.places = {}  # of each accepted message, by number
        self.fates = {}
        self.numbers = iter(range(10**9))
        self.sender = self._made()

    def _made(self):
        limits = Limits(
            max_batch_size=3,
            flush_after=1.0,
            max_queue_size=500,
            request_timeout=10.0,
            concurrency=2,
        )
        sender = Sender(
            self._buffer(limits, DeliveryStats(self._on_error, self._on_drop)),
            IngestionApi(Endpoints.resolve(base_url="http://127.0.0.1:9")),
            RetryPolicy(first_wait=0.5, max_wait=5.0, max_age=10**6),
            TransportOptions(),
            buffered=True,
            background=True,
        )
        sender.connections = sender.dispatcher._connections = self.connections
        return sender

    def _buffer(self, limits, stats):
        return Buffer(limits, stats, clock=self.clock)

    def start(self):
        """Do what waits for a loop: nothing, without a spool."""

    def _on_error(self, error, messages):
        if isinstance(error, REFUSALS):
            for message in messages:
                self.fates.setdefault(message["m"], []).append("rejected")

    def _on_drop(self, reason, messages):
        for message in messages:
            self.fates.setdefault(message["m"], []).append(reason)

    def new_record(self, place):
        number = next(self.numbers)
        self.places[number] = place
        return record(number, place)

    def track(self, place):
        self.sender.accept(self.new_record(place))

    async def deliver(self, place):
        """Deliver one message at once; its error is its outcome."""
        one = self.new_record(place)
        try:
            await self.sender.deliver([one])
        except DeliveryError:
            self.fates[json.loads(one.body)["m"]] = ["raised"]
        except BaseException:
            self.fates[json.loads(one.body)["m"]] = ["raised"]
            raise

    def forget(self):
        """Be a forked child: nothing of the parent's is ours."""
        self.sender.after_fork()
        self.places.clear()
        self.fates.clear()
        self.connections.applied.clear()
        self.connections.order.clear()

    # ---- what always holds ----------------------------------------------------------------------

    def check_counts(self):
        buffer = self.sender.buffer
        with buffer.lock:
            stats = self.sender.stats.snapshot()
            queues = buffer.queues.values()
            queued = [one for queue in queues for one in queue.unsent]
            sent = [one for queue in queues for batch in queue.in_flight for one in batch.unsettled]
            assert stats.balanced, stats
            assert stats.accepted == len(self.places), stats
            assert stats.pending == len(queued) + len(sent), stats
            assert buffer.bytes == sum(len(one.body) for one in queued + sent)
            for queue in queues:
                assert queue.bytes == sum(len(one.body) for one in queue.unsent)
                assert len(queue.in_flight) <= queue.max_in_flight + 1, (
                    "more requests than the queue may have in flight"
                )
        known = set(self.connections.applied) | set(self.fates)
        assert stats.delivered <= len(known), "more delivered than was ever applied"
        for number, times in self.connections.applied.items():
            assert times <= 1 or self.places[number] != "add", "$add was applied twice"
        assert all(len(fates) == 1 for fates in self.fates.values()), self.fates

    def check_owners(self):
        """Each batch in flight belongs to a task of this loop."""
        held = set()
        for task in asyncio.all_tasks():
            held |= _held_by(task.get_coro())
        for queue in self.sender.buffer.queues.values():
            for batch in queue.in_flight:
                assert id(batch) in held, f"a batch of {queue.endpoint} has no owner"

    def check_end(self):
        """All is healthy, and all has been flushed."""
        stats = self.sender.stats.snapshot()
        assert not stats.pending, stats
        for number in self.places:
            arrived, lost = self.connections.applied[number], number in self.fates
            assert arrived or lost, f"message {number} has no fate: {stats}"
            if self.fates.get(number) == ["rejected"] and number not in self.connections.unanswered:
                assert not arrived, f"message {number} was reported rejected, and was applied"


def _held_by(coroutine):
    """Return the ids of all that a suspended coroutine, and what it awaits, holds in variables."""
    held, waiting = set(), [coroutine]
    seen = set()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        frame = getattr(one, "cr_frame", None)
        awaited = getattr(one, "cr_await", None)
        if awaited is not None:
            waiting.append(awaited)
        if frame is None:
            continue
        for value in frame.f_locals.values():
            held.add(id(value))
            if asyncio.iscoroutine(value):
                waiting.append(value)
            if isinstance(value, (list, tuple)):
                held.update(map(id, value))
    return held


# ---- in any order -------------------------------------------------------------------------------

ticks = st.integers(0, 25)
act = st.one_of(
    st.tuples(st.just("track"), st.sampled_from(PLACES)),
    st.tuples(st.just("track"), st.sampled_from(PLACES)),
    st.tuples(st.just("ticks"), ticks),
    st.tuples(st.just("sleep"), st.sampled_from([0.005, 0.02, 1.1, 4.0, 11.0, 70.0])),
    st.tuples(st.just("fault"), st.sampled_from(FAULTS)),
    st.tuples(st.just("flush"), st.sampled_from([0.0, 0.005, 0.3, 20.0])),
    st.tuples(st.just("sweep"), st.integers(1, 2)),
    st.tuples(st.just("thread"), st.integers(1, 4)),
    st.tuples(st.just("deliver"), st.sampled_from(PLACES)),
    st.tuples(st.just("cancelled deliver"), ticks),
)


class Delivery(RuleBasedStateMachine):
    """Loops come and go, tasks are cancelled, clocks jump, processes fork; the counts hold."""

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        self.system = self._new_system()
        self.loop = None

    def _new_system(self):
        return System(self.clock)

    @initialize()
    def begin(self):
        self.loop = self._new_loop()

    def _new_loop(self):
        return asyncio.Runner(loop_factory=lambda: JumpingLoop(self.clock))

    def _run(self, coroutine):
        with suppress(asyncio.CancelledError):
            self.loop.run(coroutine)

    @rule(acts=st.lists(act, min_size=1, max_size=10), ends=st.booleans())
    def live(self, acts, ends):
        """Let the loop run for a while; it may end in the very tick of the last act."""
        self._run(self._live(acts))
        if ends:
            self._end_loop()

    def _end_loop(self):
        self.loop.close()
        self.loop = self._new_loop()

    async def _live(self, acts):
        self.system.start()
        for name, value in acts:
            await getattr(self, "_" + name.replace(" ", "_"))(value)
            self.system.check_counts()

    async def _track(self, place):
        self.system.track(place)

    async def _ticks(self, count):
        for _ in range(count):
            await asyncio.sleep(0)
        if count > 20 and self.system.sender.has_loop:
            self.system.check_owners()

    async def _sleep(self, seconds):
        await asyncio.sleep(seconds)

    async def _fault(self, kind):
        self.system.connections.faults.append(kind)

    async def _flush(self, timeout):
        await self.system.sender.flush(timeout)

    async def _sweep(self, times):
        for _ in range(times):
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.sleep(0)

    async def _thread(self, count):
        self._in_thread(count)
        self.system.start()

    async def _deliver(self, place):
        await self.system.deliver(place)

    async def _cancelled_deliver(self, count):
        task = asyncio.ensure_future(self.system.deliver("events"))
        for _ in range(count):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    def _in_thread(self, count):
        def work():
            for n in range(count):
                self.system.track(PLACES[n % len(PLACES)])

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    @rule(count=st.integers(1, 5))
    def thread(self, count):
        """Track from a thread while no loop runs."""
        self._in_thread(count)

    @rule(seconds=st.sampled_from([0.5, 5.0, 61.0, 400.0, 90_000.0]))
    def jump(self, seconds):
        """Let the clock jump, as after a suspend."""
        self.clock.now += seconds

    @rule(kind=st.sampled_from(FAULTS), times=st.integers(1, 3))
    def fault(self, kind, times):
        """Script faults for the next requests."""
        self.system.connections.faults.extend([kind] * times)

    @rule()
    def fork(self):
        """Be the child from now on; what was before is the parent's."""
        self._end_loop()
        self.system.forget()

    @rule()
    def close(self):
        """Close, account for everything, and open another."""
        self.system.connections.faults.clear()
        self._run(self.system.sender.aclose(30))
        self.system.check_counts()
        self.system.check_end()
        self.system = self._new_system()

    @invariant()
    def counts_hold(self):
        self.system.check_counts()

    def teardown(self):
        """A healthy server gets all that waits, and a fresh message too."""
        if self.loop is None:
            return
        try:
            self.system.connections.faults.clear()
            self._run(self._recover())
            self.system.check_counts()
            self.system.check_end()
        finally:
            with suppress(asyncio.CancelledError):
                self.loop.run(self.system.sender.aclose(0))
            self.loop.close()
            shutdown.unregister(self.system.sender)

    async def _recover(self):
        for _ in range(3):
            if not (await self.system.sender.flush(200)).pending:
                break
        fresh = len(self.system.places) and max(self.system.places) + 1
        self.system.numbers = iter(range(fresh, 10**9))
        self.system.track("events")
        with anyio.move_on_after(200):  # without a flush
            while self.system.sender.stats.pending:
                await asyncio.sleep(0.05)
        assert self.system.connections.applied[fresh], "a fresh message does not arrive"


TestDelivery = Delivery.TestCase
TestDelivery.settings = settings(
    max_examples=cases(100, 2000),
    stateful_step_count=cases(20, 50),
    suppress_health_check=list(HealthCheck),
)


# ---- with a spool -------------------------------------------------------------------------------


class LoopWriter(writer.SpoolWriter):
    """Work in the event loop, between its tasks, instead of in a thread."""

    scheduled = None  # the loop that has the next cycle

    def wake(self, *, at_once=False):
        with suppress(RuntimeError):  # no loop runs in this thread: `poke` follows
            loop = asyncio.get_running_loop()
            if self.scheduled is not loop:
                self.scheduled = loop
                loop.call_soon(self._cycle_in_loop, loop)

    def _cycle_in_loop(self, loop):
        if self.scheduled is loop:
            self.scheduled = None
        if not self._closed.done():
            self._cycle()


class UnsyncedStore(SpoolStore):
    """A file that is never synced: no power fails here."""

    def _prepare(self, durability):
        self._connection.execute("PRAGMA synchronous = OFF")
        super()._prepare(durability)
        self._connection.execute("PRAGMA synchronous = OFF")


def new_folder():
    """Return a new folder, in memory where the machine has one: thousands of files are made."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))


class DurableSystem(System):
    """A sender with a spool, which a killed process leaves to the next one."""

    def __init__(self, clock, before=None, folder=None):
        self.folder = folder or new_folder()
        self.committed = set() if before is None else before.committed
        self.may_be_lost = set() if before is None else before.may_be_lost
        self.tracked = self.adopted = 0
        self.reported = set()  # by processes that have ended
        super().__init__(clock)
        if before is not None:
            self.reported = before.reported | set(before.fates)
            self.connections, self.places = before.connections, before.places
            self.numbers = before.numbers
            self.sender.connections = self.sender.dispatcher._connections = self.connections

    def _buffer(self, limits, stats):
        options = SpoolOptions(
            self.folder, Destination("mixpanel", ("x",), {}), "process", limits, RecordCodec()
        )
        buffer = SpooledBuffer(limits, stats, options, clock=self.clock)
        adopted = buffer.adopted

        def count_adopted(endpoint, count, size, age):
            self.adopted += count
            adopted(endpoint, count, size, age)

        buffer.adopted = count_adopted
        return buffer

    def start(self):
        self.sender.start()

    @property
    def writer(self):
        return self.sender.buffer.writer

    def files(self):
        return list(self.folder.rglob("*.db"))

    def new_record(self, place):
        self.tracked += 1
        return super().new_record(place)

    async def deliver(self, place):
        """What skips the spool ends with its process."""
        self.may_be_lost.add(self.next_number())
        await super().deliver(place)

    def next_number(self):
        number = next(self.numbers)
        self.numbers = chain([number], self.numbers)
        return number

    async def commit(self):
        """All that was accepted is on disk, whatever happens next."""
        accepted = set(self.places)
        await self.sender.commit()
        self.committed |= accepted

    def check_counts(self):
        buffer = self.sender.buffer
        with buffer.lock:
            stats = self.sender.stats.snapshot()
            queues = buffer.queues.values()
            loaded = [one for queue in queues for one in queue.unsent]
            loaded += [
                one for each in queues for batch in each.in_flight for one in batch.unsettled
            ]
            waiting = [one for queue in queues for one in (*queue.staged, *queue.writing)]
            on_disk = sum(queue.on_disk for queue in queues)
            in_memory = [one for one in loaded if one.block is None and one.index >= 0]
            assert stats.balanced, stats
            assert stats.accepted == self.tracked + self.adopted, stats
            assert stats.pending == len(loaded) + len(waiting) + on_disk + buffer.kept, stats
            assert buffer.bytes == sum(len(one.body) for one in loaded + waiting)
            assert not in_memory, "a message is sent before it is on disk"
        for number, times in self.connections.applied.items():
            assert times <= 1 or self.places[number] != "add", "$add was applied twice"
        assert all(len(fates) == 1 for fates in self.fates.values()), self.fates

    def check_end(self):
        """All is healthy: what was committed has arrived, or its loss was reported."""
        assert not self.sender.stats.pending, self.sender.stats.snapshot()
        for number in self.places:
            arrived, reported = self.connections.applied[number], number in self.fates
            reported = reported or number in self.reported
            if number in self.committed or number not in self.may_be_lost:
                assert arrived or reported, f"message {number} is lost"

    def copy_of_files(self):
        """Return a folder with the files as they are now, and no lock."""
        folder = new_folder()
        for path in self.folder.rglob("*"):
            if path.is_file() and not path.name.endswith(("-shm", ".lock")):
                target = folder / path.relative_to(self.folder)
                target.parent.mkdir(mode=0o700, exist_ok=True)
                shutil.copy(path, target)
        return folder

    def let_go(self):
        """Let the file descriptors of a killed process go."""
        shutdown.unregister(self.sender)
        self.writer._files.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def continued(self, folder):
        """Return the next process, with the files of this one."""
        self.may_be_lost |= set(self.places)
        return DurableSystem(self.clock, self, folder)


class DurableDelivery(Delivery):
    """The same with a spool: processes are killed, and what was committed is not lost."""

    def __init__(self):
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(spooled_buffer, "SpoolWriter", LoopWriter)
        self.patch.setattr(spooled_buffer, "LOADED", 6)  # others are read back from the disk
        self.patch.setattr(writer, "SpoolStore", UnsyncedStore)
        self.patch.setattr(writer, "ADOPT_EVERY", -1.0)
        super().__init__()

    def _new_system(self):
        return DurableSystem(self.clock)

    fork = None  # of a spool: tests/delivery/test_spool.py

    @rule()
    def commit(self):
        """What was accepted so far is on disk."""
        self._run(self._live([("commit", None)]))

    async def _commit(self, _value):
        await self.system.commit()

    @rule(place=st.sampled_from(PLACES), fault=st.sampled_from(["late", "lost response", "hang"]))
    def kill_amid_a_request(self, place, fault):
        """End while the server has the request, and its response is not there yet."""
        self.system.connections.faults.clear()
        self.kill([("fault", fault), ("track", place), ("flush", 0.3)])

    @rule(acts=st.lists(act, min_size=1, max_size=5))
    def kill(self, acts):
        """End amid requests, without any code of ours; another process finds the files."""
        self._run(self._live(acts))
        before, folder = self.system, self.system.copy_of_files()
        self._end_loop()
        before.let_go()
        self.system = before.continued(folder)

    @rule()
    def close(self):
        """Close with a healthy server, and continue with the same folder."""
        self.system.connections.faults.clear()
        self._run(self._live([]))
        self._run(self.system.sender.aclose(30))
        self.system.check_counts()
        self.system.committed |= set(self.system.places)
        self.system = self.system.continued(self.system.folder)

    async def _recover(self):
        self.system.start()
        for _ in range(30):
            await self.system.sender.flush(200)
            if not self.system.sender.stats.pending and len(self.system.files()) < 2:
                break
        await super()._recover()

    def teardown(self):
        try:
            super().teardown()
        finally:
            self.patch.undo()
            shutil.rmtree(self.system.folder, ignore_errors=True)


TestDurableDelivery = DurableDelivery.TestCase
TestDurableDelivery.settings = settings(
    max_examples=cases(40, 800),
    stateful_step_count=cases(20, 40),
    suppress_health_check=list(HealthCheck),
)


# ---- random schedules ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(cases(8, 60)))
def test_random_schedules_account_for_each_message(seed):
    """trio runs tasks in any order, and its clock jumps: hours of faults take seconds."""
    chance = random.Random(seed)
    clock = trio.testing.MockClock(autojump_threshold=0)
    moments = count()
    # Time passes while code runs: else a wait below the clock's resolution never ends.
    system = System(lambda: clock.current_time() + next(moments) * 1e-6)

    async def work():
        for _ in range(chance.randint(5, 30)):
            await trio.sleep(chance.choice([0, 0, 0.001, 0.4, 3, 200]))
            what = chance.random()
            if what < 0.6:
                system.track(chance.choice(PLACES))
            elif what < 0.75:
                with trio.move_on_after(chance.choice([0, 0.005, 1, 30])):
                    await system.sender.flush()
            elif what < 0.85:
                with trio.move_on_after(chance.choice([0.005, 20])):
                    await system.deliver(chance.choice(PLACES))
            else:
                system.connections.faults.append(chance.choice(FAULTS))
            system.check_counts()

    async def main():
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(work)
        system.connections.faults.clear()
        for _ in range(5):
            if not (await system.sender.flush(300)).pending:
                break
        system.check_counts()
        system.check_end()
        await system.sender.aclose(5)

    trio._core._run._r.seed(seed)  # what trio shuffles its tasks by
    random.seed(seed)
    trio.run(main, clock=clock)
    gc.collect()
