"""Carry the buffer's batches to the server: in the background, on request, and at the very end."""

from __future__ import annotations

import logging
import math
import random
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.request import getproxies

import anyio

from mixpanel import _exit, _loop
from mixpanel._exchange import Halt, Plain, Send, Settle, Shrink, Step, Wait, exchange
from mixpanel._route import Route, Transport, takes_gzip
from mixpanel._wires import Wires, compressed_off_loop
from mixpanel.exceptions import ClosedError, DeliveryError
from mixpanel.settings import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mixpanel._buffer import Batch, Buffer
    from mixpanel._exchange import Answer, Failure, Steps
    from mixpanel._ledger import FlushResult
    from mixpanel._wire import BlockingWire
    from mixpanel.messages import Record

__all__ = ["Sender"]

logger = logging.getLogger("mixpanel")

IDLE = 5.0  # seconds without a message after which a background sender goes home
HALTED = 60.0  # seconds between attempts when only a human can help
LEAVING = 0.1  # seconds that cancelled requests may take to unwind
POLL = 0.01
ONE_PACKET = 1024  # bytes that are not worth compressing
FEW = 4

_inherited: list[BlockingWire | None] = []  # a forked child neither uses nor closes them
HURRIED = RetryPolicy(attempts=4, first_wait=0.2, longest_retry_after=1.0, max_age=math.inf)


class Sender:
    """Own a buffer and bring what is in it to the server.

    In the `background`, a task starts in the loop that first puts a message, lives there while
    there is something to do, and starts again in the next loop when that one is gone. Otherwise
    whoever fills a batch calls `pump`.
    """

    def __init__(
        self,
        buffer: Buffer,
        route: Route,
        policy: RetryPolicy,
        transport: Transport,
        *,
        buffered: bool,
        background: bool,
        repeat_ambiguous: bool = False,
    ) -> None:
        self.buffer = buffer
        self.ledger = buffer.ledger
        self.route = route
        self.policy = policy
        self.closed = False
        self.buffered = buffered
        self.background = background
        self._repeat_ambiguous = repeat_ambiguous
        self._home: _loop.Loop | None = None
        self._wake: anyio.Event | None = None
        self._blocking: BlockingWire | None = None
        self._flights: anyio.abc.TaskGroup | None = None
        limits = buffer.limits
        self.wires = Wires(transport, deadline=limits.attempt, answer_bytes=limits.answer_bytes)
        _exit.everyone.add(self)

    # ---- in ---------------------------------------------------------------------------------

    def accept(self, record: Record) -> bool | None:
        """Take a message and return; never waits, never does I/O, works from any thread.

        Returns whether somebody should pump; None when it is full and the mode is "wait".

        :raises ClosedError: after `aclose`.
        :raises QueueFullError: with `when_full="raise"`.
        """
        if self.closed:
            raise ClosedError("the client is closed: this message was not accepted")
        signal = self.buffer.put(record)
        if signal:
            _exit.hold(self)
            if self.background:
                self.wake()
        return signal

    @property
    def has_home(self) -> bool:
        """Tell whether a loop is there to send in the background."""
        return self._home is not None and self._home.is_running()

    def wake(self) -> None:
        """Let the background sender look at the buffer, starting it here when it has no home."""
        home = self._home
        if home is not None and home.is_running():
            home.call_soon(self._rouse)
            return
        here = _loop.running()
        if here is None:
            return  # the next call from a loop, or the end of the process, takes it from here
        with self.buffer.lock:
            if self._home is not home:
                return
            self._home = here
        if home is not None:
            self._forget_loops()
        here.spawn(self._run)

    def _rouse(self) -> None:
        if self._wake is not None:
            self._wake.set()

    def _forget_loops(self) -> None:
        """Take back what a loop that is gone had in flight; its sockets went with it."""
        self.wires.abandon()
        self.buffer.reclaim()

    # ---- the background task ----------------------------------------------------------------

    async def _run(self) -> None:
        home = self._home
        try:
            async with anyio.create_task_group() as flights:
                self._flights = flights
                while self._home is home and home is not None:
                    self._wake = anyio.Event()
                    while (batch := self.buffer.take()) is not None:
                        flights.start_soon(self._fly, batch)
                    pending = self.ledger.pending
                    with anyio.move_on_after(self.buffer.next_look() if pending else IDLE):
                        await self._wake.wait()
                        continue
                    with self.buffer.lock:
                        if not self.ledger.pending and not pending and self._home is home:
                            self._home = None
        except Exception:
            logger.exception("the sender failed; it starts again with the next message")
        finally:
            with self.buffer.lock:
                if self._home is home:
                    self._home = None

    # ---- one batch --------------------------------------------------------------------------

    async def _fly(self, batch: Batch, raised: list[DeliveryError] | None = None) -> None:
        """Drive the exchange of one batch; however it ends, nothing stays unaccounted.

        With `raised`, errors are collected there for the caller instead of being reported.
        """
        steps = self._exchange(batch)
        reply: Answer | Failure | None = None
        try:
            while True:
                try:
                    step = steps.send(reply)
                except StopIteration:
                    break
                reply = None
                if isinstance(step, Send):
                    await self._hold_back(batch)
                    reply = await self._attempt(batch, step)
                elif isinstance(step, Wait):
                    self._carry_out(batch, step, raised)
                    await anyio.sleep(step.seconds)
                else:
                    self._carry_out(batch, step, raised)
        except Exception:  # ours, not the network's: keep the messages and say it loudly
            if raised is not None:
                raise
            logger.exception("a batch could not be sent")
            batch.lane.not_before = self.buffer.clock() + HALTED
        finally:
            self._landed(batch, raised)

    def _landed(self, batch: Batch, raised: list[DeliveryError] | None) -> None:
        if raised is not None:
            self.buffer.settle(batch, batch.open, "dropped", "raised", quiet=True)
        self.buffer.land(batch)
        self._settled()

    def _exchange(self, batch: Batch) -> Steps:
        lane = batch.lane
        return exchange(
            batch.records,
            policy=self.policy,
            clock=self.buffer.clock,
            random=random.random,
            gzip=lane.gzip if _is_worth_gzip(batch) else False,
            repeat_ambiguous=self._repeat_ambiguous,
        )

    async def _hold_back(self, batch: Batch) -> None:
        # Another batch of this lane may have been told to wait; that holds for the whole lane.
        for _ in range(100):
            seconds = batch.lane.not_before - self.buffer.clock()
            if seconds <= 0:
                return
            await anyio.sleep(seconds)

    async def _attempt(self, batch: Batch, step: Send) -> Answer | Failure:
        request = await compressed_off_loop(self.route, step.records, compress=step.gzip)
        watch = not all(record.repeatable for record in step.records)
        self.ledger.requests += 1
        batch.sending = step.records
        reply = await self.wires.send(request, watch=watch)
        batch.sending = []
        return reply

    def _carry_out(  # noqa: C901 - a step each
        self, batch: Batch, step: Step, raised: list[DeliveryError] | None = None
    ) -> None:
        lane = batch.lane
        if isinstance(step, Settle):
            if step.fate == "delivered":
                lane.halted = None
                if lane.gzip is None and _is_worth_gzip(batch):
                    lane.gzip = True
            elif raised is not None and step.error is not None:
                raised.append(step.error)
            quiet = raised is not None
            self.buffer.settle(batch, step.records, step.fate, step.reason, step.error, quiet=quiet)
        elif isinstance(step, Wait):
            self.ledger.retried += 1
            lane.not_before = max(lane.not_before, self.buffer.clock() + step.seconds)
            if raised is None:
                self.ledger.report(step.error, [])
        elif isinstance(step, Shrink):
            lane.max_bytes = min(lane.max_bytes, step.max_bytes)
        elif isinstance(step, Plain):
            lane.gzip = False
        elif isinstance(step, Halt) and raised is not None:
            raised.append(step.error)
        elif isinstance(step, Halt):
            lane.halted = step.error
            lane.not_before = self.buffer.clock() + HALTED
            self.ledger.report(step.error, [])

    def _settled(self) -> None:
        if not self.ledger.pending:
            with self.buffer.lock:
                if not self.ledger.pending:
                    _exit.release(self)
        if self.background:
            home = self._home
            if home is not None:
                home.call_soon(self._rouse)

    # ---- on request -------------------------------------------------------------------------

    async def deliver(self, records: list[Record]) -> None:
        """Send these records now, in order, and raise what went wrong.

        :raises DeliveryError: for the first batch that was not delivered as a whole; those after
            it are not tried and count as dropped.
        """
        with self._directly(records) as (batches, raised):
            for batch in batches:
                await self._fly(batch, raised)
                if raised:
                    raise raised[0]

    @contextmanager
    def _directly(self, records: list[Record]) -> Iterator[tuple[list[Batch], list[DeliveryError]]]:
        """Count records that skip the queue; whatever is open at the end counts as dropped."""
        if self.closed:
            raise ClosedError("the client is closed: this message was not accepted")
        batches = self.buffer.direct(records)
        try:
            yield batches, []
        finally:
            for batch in batches:
                self._landed(batch, [])

    async def pump(self) -> None:
        """Send, here and now, every batch that is due."""
        batch = self.buffer.take()
        while batch is not None:
            await self._fly(batch)
            batch = self.buffer.take()

    async def flush(self, timeout: float | None = None) -> FlushResult:
        """Send everything accepted so far; return what became of it.

        Ends early when the timeout (in seconds) has passed, or when only a human can help, as
        with wrong credentials: what still waits is `pending` in the result.
        """
        before = self.buffer.snapshot()
        mark = self.buffer.mark()
        with anyio.move_on_after(timeout):
            if self.background:
                self.wake()
                await self._settled_up_to(mark)
            else:
                await self._pump_up_to(mark)
        return self.buffer.result_since(before)

    async def _settled_up_to(self, mark: int) -> None:
        here = _loop.running()
        assert here is not None
        while self.buffer.waiting_for(mark):
            changed = anyio.Event()

            def rouse(event: anyio.Event = changed) -> None:
                here.call_soon(event.set)

            self.buffer.watchers.add(rouse)
            try:
                if self.buffer.waiting_for(mark):
                    # Now and then look whether the sender's loop has gone away meanwhile.
                    with anyio.move_on_after(0.5):
                        await changed.wait()
                    self.wake()
            finally:
                self.buffer.watchers.discard(rouse)

    async def _pump_up_to(self, mark: int) -> None:
        while self.buffer.waiting_for(mark):
            async with anyio.create_task_group() as flights:
                while (batch := self.buffer.take()) is not None:
                    flights.start_soon(self._fly, batch)
            if self.buffer.waiting_for(mark):
                await anyio.sleep(min(self.buffer.next_look() or POLL, 0.25))

    async def room(self) -> None:
        """Wait until the buffer has room again."""
        here = _loop.running()
        assert here is not None
        changed = anyio.Event()

        def rouse() -> None:
            here.call_soon(changed.set)

        self.buffer.watchers.add(rouse)
        self.buffer.mark()
        self.wake()
        try:
            with anyio.move_on_after(0.25):
                await changed.wait()
        finally:
            self.buffer.watchers.discard(rouse)

    async def aclose(self, timeout: float | None = 5.0) -> FlushResult:
        """Flush, then let go of sender and connections; what did not arrive in time is dropped.

        Returns within the timeout plus a quarter of a second, whatever the server does, and takes
        that time even when the surrounding scope is cancelled.
        """
        self.closed = True
        with anyio.CancelScope(shield=True):
            before = self.buffer.snapshot()
            await self.flush(timeout)
            home, self._home = self._home, None
            flights, self._flights = self._flights, None
            if home is not None and flights is not None:
                home.call_soon(flights.cancel_scope.cancel)
                with anyio.move_on_after(LEAVING):
                    while self.buffer.flying():  # noqa: ASYNC110
                        await anyio.sleep(POLL)
            self.buffer.give_up("closed")
            await self.wires.aclose()
            self.let_go()
        _exit.release(self)
        return self.buffer.result_since(before)

    # ---- in the calling thread --------------------------------------------------------------

    def blocking_wire(self) -> BlockingWire | None:
        """Return connections for the calling thread; None when only a loop can send.

        So it is with an `http_client` of the caller's own, and behind a proxy that only the
        environment names: httpx knows how to read that.
        """
        transport = self.wires.transport
        if self._blocking is None and transport.client is None and not getproxies():
            self._blocking = self._made_wire()
        return self._blocking

    def _made_wire(self) -> BlockingWire:
        from mixpanel._wire import BlockingWire

        return BlockingWire(self.wires.transport, answer_bytes=self.buffer.limits.answer_bytes)

    def deliver_blocking(self, records: list[Record], wire: BlockingWire) -> None:
        """Do as `deliver`, in the calling thread."""
        with self._directly(records) as (batches, raised):
            for batch in batches:
                self._drive(batch, wire, raised=raised)
                if raised:
                    raise raised[0]

    def pump_blocking(self, wire: BlockingWire) -> None:
        """Do as `pump`, in the calling thread."""
        while (batch := self.buffer.take()) is not None:
            self._drive(batch, wire)

    def _drive(
        self,
        batch: Batch,
        wire: BlockingWire,
        *,
        raised: list[DeliveryError] | None = None,
        until: float = math.inf,
    ) -> None:
        """Do as `_fly`, blocking, and not beyond `until` on the monotonic clock."""
        steps = self._exchange(batch)
        reply: Answer | Failure | None = None
        try:
            while True:
                try:
                    step = steps.send(reply)
                except StopIteration:
                    break
                reply = None
                if isinstance(step, Send):
                    pause = batch.lane.not_before - self.buffer.clock()
                    _rest(pause, until)
                    self.ledger.requests += 1
                    batch.sending = step.records
                    end = min(until, time.monotonic() + self.buffer.limits.attempt)
                    request = self.route.request(step.records, compress=step.gzip)
                    reply = wire.send(request, end=end)
                    batch.sending = []
                    continue
                self._carry_out(batch, step, raised)
                if isinstance(step, Wait):
                    _rest(step.seconds, until)
        except Exception:  # ours, not the network's: keep the messages and say it loudly
            if raised is not None:
                raise
            logger.exception("a batch could not be sent")
            batch.lane.not_before = self.buffer.clock() + HALTED
        finally:
            self._landed(batch, raised)

    # ---- the end of the process -------------------------------------------------------------

    def last_drain(self, end: float) -> None:
        """Send what is left from this thread until `end` on the monotonic clock."""
        if not self.ledger.pending:
            return
        home, self._home = self._home, None
        with self.buffer.lock:
            waiting = self.buffer.flying() and (home is None or home.is_running())
        # Requests of a loop that still runs in another thread may be about to be answered.
        halfway = time.monotonic() + (end - time.monotonic()) / 2
        while waiting and self.buffer.flying() and time.monotonic() < halfway:
            time.sleep(POLL)
        self.buffer.reclaim()
        self.buffer.hurry()
        self.policy = HURRIED
        wire = self._blocking or self._made_wire()
        while time.monotonic() < end and (batch := self.buffer.take(everything=True)):
            self._drive(batch, wire, until=end)
        wire.close()
        self.buffer.give_up("exit")

    def let_go(self) -> None:
        """Close the connections of calling threads."""
        blocking, self._blocking = self._blocking, None
        if blocking is not None:
            blocking.close()

    def after_fork(self) -> None:
        """Start afresh in a forked child: what the copy holds is the parent's to send."""
        self.wires.abandon()
        _inherited.append(self._blocking)
        self._home = self._wake = self._flights = self._blocking = None
        self.buffer.clear()


def _rest(seconds: float, until: float) -> None:
    left = min(seconds, until - time.monotonic())
    if left > 0:
        time.sleep(left)


def _is_worth_gzip(batch: Batch) -> bool:
    if not takes_gzip(batch.lane.endpoint):
        return False
    few = batch.records[:FEW]
    return len(batch.records) > FEW or sum(len(record.body) for record in few) > ONE_PACKET
