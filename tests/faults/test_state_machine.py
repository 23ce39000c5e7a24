"""Buffer, sender and retries in one process, on a clock that jumps, in any order of events."""

import asyncio
import gc
import json
import random
import selectors
import threading
from collections import Counter, deque
from contextlib import suppress
from itertools import count

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
            Buffer(limits, DeliveryStats(self._on_error, self._on_drop), clock=self.clock),
            IngestionApi(Endpoints.resolve(base_url="http://127.0.0.1:9")),
            RetryPolicy(first_wait=0.5, max_wait=5.0, max_age=10**6),
            TransportOptions(),
            buffered=True,
            background=True,
        )
        sender.connections = sender.dispatcher._connections = self.connections
        return sender

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
        self.system = System(self.clock)
        self.loop = None

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
        self.system = System(self.clock)

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
