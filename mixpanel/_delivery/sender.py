"""Carry the buffer's batches to the server: in the background, on request, and at the very end."""

from __future__ import annotations

import math
import threading
import time
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar
from urllib.request import getproxies

import anyio

from mixpanel._delivery import capture
from mixpanel._delivery.dispatcher import BatchDispatcher
from mixpanel._delivery.stats import FlushResult
from mixpanel._http.connections import LoopConnections
from mixpanel._http.request import Api
from mixpanel._runtime import event_loop, shutdown
from mixpanel._runtime.import_lock import import_lock
from mixpanel._runtime.safe_logging import logger
from mixpanel.exceptions import ClosedError, DeliveryError, TransportError
from mixpanel.settings import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mixpanel._delivery.buffer import Batch, Buffer, Claim
    from mixpanel._http.proxies import (
        TransportOptions,
    )
    from mixpanel._http.sync_transport import (
        SyncTransport,
    )
    from mixpanel._records.record import Record

__all__ = ["Sender"]

R = TypeVar("R", bound=Api)

IDLE = 5.0  # seconds without a message after which a background sender goes home
AGAIN = 0.1  # seconds until the background task starts again after somebody cancelled it
LEAVING = 0.1  # seconds that cancelled requests may take to unwind
POLL = 0.01

HURRIED = RetryPolicy(attempts=4, first_wait=0.2, max_retry_after=1.0, max_age=math.inf)

_inherited: list[SyncTransport | None] = []  # a forked child neither uses nor closes them


class Sender(Generic[R]):
    """Own a buffer and bring what is in it to the server.

    In the `background`, a task starts in the loop that first puts a message, lives there while
    there is something to do, and starts again in the next loop when that one is gone. Otherwise
    whoever fills a batch calls `pump`.
    """

    def __init__(
        self,
        buffer: Buffer,
        api: R,
        policy: RetryPolicy,
        transport: TransportOptions,
        *,
        buffered: bool,
        background: bool,
        repeat_ambiguous: bool = False,
    ) -> None:
        self.buffer = buffer
        self.stats = buffer.stats
        self.api = api
        self.closed = False
        self._takes_nothing = False  # closed, or the process is past its last drain
        self.buffered = buffered
        self.background = background
        self._home: event_loop.Loop | None = None
        self._wake: anyio.Event | None = None
        self._blocking: SyncTransport | None = None
        self._send_scopes: set[anyio.CancelScope] = set()
        self._sending_threads: set[int] = set()  # that are inside a blocking send
        self._ending = False
        limits = buffer.limits
        self.connections = LoopConnections(
            transport, deadline=limits.request_timeout, max_response_bytes=limits.max_response_bytes
        )
        self.dispatcher = BatchDispatcher(
            buffer, api, policy, self.connections, self._settled, repeat_ambiguous=repeat_ambiguous
        )
        shutdown.senders.add(self)
        if shutdown.is_over:
            self._end()

    # ---- in ---------------------------------------------------------------------------------

    def accept(self, record: Record) -> bool | None:
        """Take a message and return; never waits, never does I/O, works from any thread.

        Returns whether somebody should pump; None when it is full and the mode is "wait".

        :raises ClosedError: after `aclose`.
        :raises QueueFullError: with `when_full="raise"`.
        """
        if self._takes_nothing:
            return self._accept_late(record)
        if capture.active is not None and self.captures([record]):
            return False
        signal = self.buffer.put(record)
        if signal:
            shutdown.register(self)
        home = self._home
        if self.background and (signal or home is None or not home.is_running()):
            self.wake()
        return signal

    def captures(self, records: list[Record]) -> bool:
        """Give messages to the capture of a test, if there is one; return True if it took them.

        :raises ClosedError: after `aclose`.
        """
        keep = capture.active
        if keep is None:
            return False
        if self.closed:
            raise ClosedError("the client is closed: this message was not accepted")
        for record in records:
            keep(self.api.captured_as(record.endpoint), record.body)
        self.buffer.count_captured(records)
        return True

    def _accept_late(self, record: Record) -> bool:
        """Send a message of another `atexit` handler at once, while the time of the drain lasts."""
        if self.closed:
            raise ClosedError("the client is closed: this message was not accepted")
        on_main = threading.current_thread() is threading.main_thread()
        if (
            on_main
            and time.monotonic() < shutdown.drain_deadline
            and self.connections.transport.client is None
        ):
            claims: list[Claim] = []
            transport = self._made_wire()
            try:
                self.buffer.direct([record], claims, event_loop.alive_check())
                for claim in claims:
                    assert claim.batch is not None
                    self.dispatcher.send_blocking(
                        claim.batch, transport, until=shutdown.drain_deadline
                    )
            finally:
                transport.close()
                for claim in claims:
                    self.dispatcher.finish(claim)
                self.buffer.drop_all("exit", shut="exit")
        else:
            self.buffer.put(record)  # counts it as dropped
        return False

    @property
    def is_interrupted(self) -> bool:
        """Return True in a signal handler, finalizer or callback inside this client's own code.

        A message is accepted there; anything that waits for the interrupted code would wait for
        ever.
        """
        return self.buffer.is_held_here() or threading.get_ident() in self._sending_threads

    def unflushed(self) -> FlushResult:
        """Return what a flush can do where `is_interrupted`: nothing, which is logged."""
        logger.warning(
            "flush or close was called inside this client's own code, by a signal handler, a "
            "finalizer or a callback: nothing was sent; call it again later, or leave it to the "
            "end of the process"
        )
        return FlushResult(0, 0, {}, self.stats.snapshot().pending)

    @property
    def has_loop(self) -> bool:
        """Tell whether a loop is there to send in the background."""
        return self._home is not None and self._home.is_running()

    def wake(self) -> None:
        """Let the background sender look at the buffer, starting it here when it has no home."""
        home = self._home
        if home is not None and home.is_running():
            home.call_soon(self._rouse)
            return
        here = event_loop.running_loop()
        if here is None:
            return  # the next call from a loop, or the end of the process, takes it from here
        with self.buffer.lock:
            if self._home is not home or self._ending:
                return
            self._home, self._wake, self._send_scopes = here, None, set()
        if home is not None:
            self.buffer.reclaim(dead_only=True)  # what a loop that is gone had in flight
        here.spawn(lambda: self._run(here), on_done=lambda: self._left(here))

    def _rouse(self) -> None:
        if self._wake is not None:
            self._wake.set()

    # ---- the background task ----------------------------------------------------------------

    async def _run(self, home: event_loop.Loop) -> None:
        try:
            while self._home is home:
                self._wake = anyio.Event()
                # Each task takes its batch itself: one that is cancelled first takes none.
                for _ in range(self.buffer.due()):
                    home.spawn(lambda: self._send_due(home))
                pending = self.stats.pending
                with anyio.move_on_after(self.buffer.next_look() if pending else IDLE):
                    await self._wake.wait()
                    continue
                with self.buffer.lock:
                    if not self.stats.pending and not pending and self._home is home:
                        self._home = None
        except Exception:
            logger.exception("the background sender failed and will be restarted")

    async def _send_due(self, home: event_loop.Loop) -> None:
        in_flight = self._send_scopes
        with anyio.CancelScope() as scope:
            in_flight.add(scope)
            try:
                await self.dispatcher.send_due(partial(self._taken_at, home))
            finally:
                in_flight.discard(scope)

    def _cancel_sends(self) -> None:
        for scope in tuple(self._send_scopes):
            scope.cancel()

    def _left(self, home: event_loop.Loop) -> None:
        """Forget the loop whose task has ended, and start again there if messages wait."""
        with self.buffer.lock:
            if self._home is not home:
                return
            self._home = self._wake = None
        # Somebody cancelled it, as with all tasks of the loop. If that ends the loop as well, this
        # never runs, and the next loop or the end of the process takes over.
        if self.stats.pending and not self._ending and home.is_running():
            home.call_later(AGAIN, self._wake_if_needed)

    def _wake_if_needed(self) -> None:
        if self.stats.pending and not self.has_loop:
            self.wake()

    def _taken_at(self, home: event_loop.Loop, claim: Claim) -> Batch | None:
        return self.buffer.take(claim) if self._home is home else None

    def _settled(self) -> None:
        if not self.stats.pending:
            with self.buffer.lock:
                if not self.stats.pending:
                    shutdown.unregister(self)
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
        if self.captures(records):
            return
        if self.closed:
            raise ClosedError("the client is closed: this message was not accepted")
        try:
            await event_loop.in_own_task(lambda: self._deliver(records))
        except event_loop.TaskEndedError as error:
            raise TransportError(str(error)) from error

    async def _deliver(self, records: list[Record]) -> None:
        with self._directly(records) as (claims, raised):
            for claim in claims:
                assert claim.batch is not None
                await self.dispatcher.send(claim.batch, raised)
                if raised:
                    raise raised[0]

    @contextmanager
    def _directly(self, records: list[Record]) -> Iterator[tuple[list[Claim], list[DeliveryError]]]:
        """Count records that skip the queue; whatever is open at the end counts as dropped."""
        if self.closed:
            raise ClosedError("the client is closed: this message was not accepted")
        claims: list[Claim] = []
        try:
            self.buffer.direct(records, claims, event_loop.alive_check())
            yield claims, []
        finally:
            for claim in claims:
                self.dispatcher.finish(claim, [])

    async def pump(self) -> None:
        """Send, here and now, every batch that is due."""
        with suppress(event_loop.TaskEndedError):  # what it had taken has been given back
            await event_loop.in_own_task(self._pump)

    async def _pump(self) -> None:
        while await self.dispatcher.send_due():
            pass

    async def flush(self, timeout: float | None = None) -> FlushResult:
        """Send everything accepted so far; return what became of it.

        Ends early when the timeout (in seconds) has passed, or when only a human can help, as
        with wrong credentials: what still waits is `pending` in the result.
        """
        before = self.buffer.snapshot()
        mark = self.buffer.mark_for_flush()
        event_loop.running_loop()  # loads what the next line needs, see there
        with anyio.move_on_after(timeout):
            if self.background:
                self.wake()
                await self._settled_up_to(mark)
            else:
                await self._pump_up_to(mark)
        return self.buffer.result_since(before)

    async def _settled_up_to(self, mark: int) -> None:
        here = event_loop.running_loop()
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
            async with anyio.create_task_group() as in_flight:
                for _ in range(self.buffer.due()):
                    in_flight.start_soon(self.dispatcher.send_due)
            if self.buffer.waiting_for(mark):
                await anyio.sleep(min(self.buffer.next_look() or POLL, 0.25))

    async def wait_for_space(self) -> None:
        """Wait until the buffer has room again."""
        here = event_loop.running_loop()
        assert here is not None
        changed = anyio.Event()

        def rouse() -> None:
            here.call_soon(changed.set)

        self.buffer.watchers.add(rouse)
        self.buffer.mark_for_flush()
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
        self.closed = self._takes_nothing = True
        before = self.buffer.snapshot()
        with anyio.CancelScope(shield=True):
            await self.flush(timeout)
            home, self._home = self._home, None
            if home is not None and self.buffer.has_in_flight():
                home.call_soon(self._cancel_sends)
                with anyio.move_on_after(LEAVING):
                    while self.buffer.has_in_flight():  # noqa: ASYNC110
                        await anyio.sleep(POLL)
            self.buffer.drop_all("closed", shut="closed")
            await self.connections.aclose()
            self.close_sync()
        shutdown.unregister(self)
        return self.buffer.result_since(before)

    # ---- in the calling thread --------------------------------------------------------------

    def sync_transport(self) -> SyncTransport | None:
        """Return connections for the calling thread; None when only a loop can send.

        So it is with an `http_client` of the caller's own, and behind a proxy: httpx knows how to
        speak to those.
        """
        transport = self.connections.transport
        if self._blocking is None and transport.client is None and transport.proxy is None:
            with self.buffer.lock:
                if self._blocking is None and not getproxies():
                    self._blocking = self._made_wire()
        return self._blocking

    def _made_wire(self) -> SyncTransport:
        with import_lock:
            from mixpanel._http.sync_transport import (
                SyncTransport,
            )

        return SyncTransport(
            self.connections.transport, max_response_bytes=self.buffer.limits.max_response_bytes
        )

    def deliver_blocking(self, records: list[Record], transport: SyncTransport) -> None:
        """Do as `deliver`, in the calling thread."""
        with self._sending_here(), self._directly(records) as (claims, raised):
            for claim in claims:
                assert claim.batch is not None
                self.dispatcher.send_blocking(claim.batch, transport, raised=raised)
                if raised:
                    raise raised[0]
        if shutdown.is_over:
            self.close_sync()  # nobody comes after us to close it

    def pump_blocking(self, transport: SyncTransport) -> None:
        """Do as `pump`, in the calling thread."""
        with self._sending_here():
            while self.dispatcher.send_due_blocking(transport):
                pass

    @contextmanager
    def _sending_here(self) -> Iterator[None]:
        """Remember that this thread is inside a blocking send, for signal handlers and callbacks.

        The libraries below hold locks that are not reentrant: a handler that sent as well could
        wait for a lock of the code that it interrupted.
        """
        thread = threading.get_ident()
        try:
            self._sending_threads.add(thread)
            yield
        finally:
            self._sending_threads.discard(thread)

    # ---- the end of the process -------------------------------------------------------------

    def prepare_drain(self) -> None:
        """Import what the last drain needs."""
        with import_lock:
            import mixpanel._http.sync_transport  # noqa: F401

    def drain_at_exit(self, end: float) -> None:
        """Send what is left from this thread until `end` on the monotonic clock.

        From then on nothing is accepted any more: what other threads still bring counts as dropped.
        """
        if self.stats.pending or self.stats.deferred:
            with self.buffer.lock:
                # A loop in another thread may still run: what it took now, nobody would wait for.
                self._ending = True
                home, self._home = self._home, None
                waiting = self.buffer.has_in_flight() and (home is None or home.is_running())
            try:
                self._drain(end, waiting=waiting)
            finally:
                self._ending = False
        self._end()

    def _end(self) -> None:
        self._takes_nothing = True
        self.buffer.drop_all("exit", shut="exit")

    def _drain(self, end: float, *, waiting: bool) -> None:
        # Requests of a loop that still runs in another thread may be about to be answered.
        halfway = time.monotonic() + (end - time.monotonic()) / 2
        while waiting and self.buffer.has_in_flight() and time.monotonic() < halfway:
            time.sleep(POLL)
        self.buffer.reclaim()
        self.buffer.clear_pauses()
        if self.connections.transport.client is not None:
            # Their client may be a mock, or know a proxy; going around it is not ours to decide.
            return
        self.dispatcher.policy = HURRIED
        transport = self._blocking or self._made_wire()
        while time.monotonic() < end:
            with self._sending_here():
                sent = self.dispatcher.send_due_blocking(transport, until=end, everything=True)
            if sent:
                continue
            if not self.buffer.has_in_flight():
                break
            time.sleep(POLL)  # a thread that flushes is just sending
        transport.close()

    def close_sync(self) -> None:
        """Close the connections of calling threads."""
        blocking, self._blocking = self._blocking, None
        if blocking is not None:
            blocking.close()

    def after_fork(self) -> None:
        """Start afresh in a forked child: what the copy holds is the parent's to send."""
        _inherited.append(self._blocking)
        self._home = self._wake = self._blocking = None
        self._send_scopes = set()
        self._sending_threads = set()
        self._takes_nothing = self.closed
        self._ending = False
        if self.api.guard is not None:
            self.api.guard.after_fork()
        self.buffer.clear()
