"""Carry the buffer's batches to the server: in the background, on request, and at the very end."""

from __future__ import annotations

import logging
import math
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar
from urllib.request import getproxies

import anyio

from mixpanel import _exit, _loop
from mixpanel._courier import Courier
from mixpanel._route import AnyRoute
from mixpanel._wires import Wires
from mixpanel.exceptions import ClosedError, DeliveryError
from mixpanel.settings import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mixpanel._buffer import Batch, Buffer
    from mixpanel._ledger import FlushResult
    from mixpanel._route import Transport
    from mixpanel._wire import BlockingWire
    from mixpanel.messages import Record

__all__ = ["Sender"]

R = TypeVar("R", bound=AnyRoute)

logger = logging.getLogger("mixpanel")

IDLE = 5.0  # seconds without a message after which a background sender goes home
LEAVING = 0.1  # seconds that cancelled requests may take to unwind
POLL = 0.01

HURRIED = RetryPolicy(attempts=4, first_wait=0.2, longest_retry_after=1.0, max_age=math.inf)

_inherited: list[BlockingWire | None] = []  # a forked child neither uses nor closes them


class Sender(Generic[R]):
    """Own a buffer and bring what is in it to the server.

    In the `background`, a task starts in the loop that first puts a message, lives there while
    there is something to do, and starts again in the next loop when that one is gone. Otherwise
    whoever fills a batch calls `pump`.
    """

    def __init__(
        self,
        buffer: Buffer,
        route: R,
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
        self.closed = False
        self.buffered = buffered
        self.background = background
        self._home: _loop.Loop | None = None
        self._wake: anyio.Event | None = None
        self._blocking: BlockingWire | None = None
        self._flights: anyio.abc.TaskGroup | None = None
        self._ending = False
        limits = buffer.limits
        self.wires = Wires(transport, deadline=limits.attempt, answer_bytes=limits.answer_bytes)
        self.courier = Courier(
            buffer, route, policy, self.wires, self._settled, repeat_ambiguous=repeat_ambiguous
        )
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
        home = self._home
        if self.background and (signal or home is None or not home.is_running()):
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
            if self._home is not home or self._ending:
                return
            self._home, self._wake, self._flights = here, None, None
        if home is not None:
            self.buffer.reclaim()  # what a loop that is gone had in flight
        here.spawn(self._run)

    def _rouse(self) -> None:
        if self._wake is not None:
            self._wake.set()

    # ---- the background task ----------------------------------------------------------------

    async def _run(self) -> None:
        home = self._home
        try:
            async with anyio.create_task_group() as flights:
                self._flights = flights
                while self._home is home and home is not None:
                    self._wake = anyio.Event()
                    while (batch := self._taken_at(home)) is not None:
                        flights.start_soon(self.courier.fly, batch)
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

    def _taken_at(self, home: _loop.Loop) -> Batch | None:
        with self.buffer.lock:
            return self.buffer.take() if self._home is home else None

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
                await self.courier.fly(batch, raised)
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
                self.courier.land(batch, [])

    async def pump(self) -> None:
        """Send, here and now, every batch that is due."""
        batch = self.buffer.take()
        while batch is not None:
            await self.courier.fly(batch)
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
                    flights.start_soon(self.courier.fly, batch)
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

        So it is with an `http_client` of the caller's own, and behind a proxy: httpx knows how to
        speak to those.
        """
        transport = self.wires.transport
        if self._blocking is None and transport.client is None and transport.proxy is None:
            with self.buffer.lock:
                if self._blocking is None and not getproxies():
                    self._blocking = self._made_wire()
        return self._blocking

    def _made_wire(self) -> BlockingWire:
        with _exit.loading:
            from mixpanel._wire import BlockingWire

        return BlockingWire(self.wires.transport, answer_bytes=self.buffer.limits.answer_bytes)

    def deliver_blocking(self, records: list[Record], wire: BlockingWire) -> None:
        """Do as `deliver`, in the calling thread."""
        with self._directly(records) as (batches, raised):
            for batch in batches:
                self.courier.drive(batch, wire, raised=raised)
                if raised:
                    raise raised[0]

    def pump_blocking(self, wire: BlockingWire) -> None:
        """Do as `pump`, in the calling thread."""
        while (batch := self.buffer.take()) is not None:
            self.courier.drive(batch, wire)

    # ---- the end of the process -------------------------------------------------------------

    def last_drain(self, end: float) -> None:
        """Send what is left from this thread until `end` on the monotonic clock."""
        if not self.ledger.pending:
            return
        with self.buffer.lock:
            # A loop in another thread may still run: what it took now, nobody would wait for.
            self._ending = True
            home, self._home = self._home, None
            waiting = self.buffer.flying() and (home is None or home.is_running())
        try:
            self._drain(end, waiting=waiting)
            self.buffer.give_up("exit")
        finally:
            self._ending = False

    def _drain(self, end: float, *, waiting: bool) -> None:
        # Requests of a loop that still runs in another thread may be about to be answered.
        halfway = time.monotonic() + (end - time.monotonic()) / 2
        while waiting and self.buffer.flying() and time.monotonic() < halfway:
            time.sleep(POLL)
        self.buffer.reclaim()
        self.buffer.hurry()
        if self.wires.transport.client is not None:
            # Their client may be a mock, or know a proxy; going around it is not ours to decide.
            return
        self.courier.policy = HURRIED
        wire = self._blocking or self._made_wire()
        while time.monotonic() < end:
            batch = self.buffer.take(everything=True)
            if batch is not None:
                self.courier.drive(batch, wire, until=end)
            elif self.buffer.flying():  # a thread that flushes is just sending
                time.sleep(POLL)
            else:
                break
        wire.close()

    def let_go(self) -> None:
        """Close the connections of calling threads."""
        blocking, self._blocking = self._blocking, None
        if blocking is not None:
            blocking.close()

    def after_fork(self) -> None:
        """Start afresh in a forked child: what the copy holds is the parent's to send."""
        _inherited.append(self._blocking)
        self._home = self._wake = self._flights = self._blocking = None
        self._ending = False
        if self.route.gate is not None:
            self.route.gate.after_fork()
        self.buffer.clear()
