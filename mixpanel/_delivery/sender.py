"""Send the buffer's batches: in the background, on request, and at the end of the process."""

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
from mixpanel._delivery.flush_hooks import FlushHooks
from mixpanel._delivery.stats import FlushResult
from mixpanel._http.connections import LoopConnections
from mixpanel._http.request import Api
from mixpanel._runtime import background_loop, event_loop, native_threads, shutdown
from mixpanel._runtime.import_lock import import_lock
from mixpanel._runtime.safe_logging import logger
from mixpanel.exceptions import (
    ClosedError,
    ConfigurationError,
    DeliveryError,
    QueueFullError,
    SpoolError,
    TransportError,
)
from mixpanel.settings import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mixpanel._delivery.buffer import Batch, Buffer, Claim
    from mixpanel._delivery.observer import Observer
    from mixpanel._http.proxies import (
        TransportOptions,
    )
    from mixpanel._http.sync_transport import (
        SyncTransport,
    )
    from mixpanel._records.record import Record

__all__ = ["Sender"]

R = TypeVar("R", bound=Api)

IDLE_TIMEOUT = 5.0  # seconds without a message after which the background task ends
RESTART_DELAY = 0.1  # seconds until the background task starts again after it was cancelled
CANCEL_TIMEOUT = 0.1  # seconds that cancelled requests may take to unwind
POLL_INTERVAL = 0.01  # seconds
LOOK_INTERVAL = 0.25  # seconds after which code that waits looks again, whatever happens
LOOP_CHECK_INTERVAL = 0.5  # seconds between looks whether the background task's loop has ended
COMMIT_TIMEOUT = 30.0  # seconds that the disk may take

# At exit there are a few seconds in all: short waits, and messages of any age.
EXIT_RETRY = RetryPolicy(attempts=4, first_wait=0.2, max_retry_after=1.0, max_age=math.inf)

# Of the parent process: a forked child neither uses nor closes them, nor lets them be collected.
_has_warned = False  # that uWSGI runs no threads

_inherited_transports: list[SyncTransport | None] = []


class Sender(Generic[R]):
    """Own a buffer and send what is in it.

    With `background`, a task starts in the event loop of the first message, runs there while there
    is something to send, and starts again in the next loop when that one is gone. Without, the
    caller that fills a batch calls `send_due`.
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
        self._refuses_records = False  # closed, or the last drain at exit is over
        self.buffered = buffered
        self.background = background
        self.in_background_loop = False  # True for sync clients: never start in a caller's loop
        self._loop: event_loop.Loop | None = None  # where the background task runs
        self._wake: anyio.Event | None = None
        self._sync_transport: SyncTransport | None = None
        self._send_scopes: set[anyio.CancelScope] = set()
        self._sending_threads: set[int] = set()  # those inside a blocking send
        self._draining = False  # the last drain at exit is in progress
        # Called with an endpoint instead of sending its batch, for a consumer whose class replaces
        # the method that does so.
        self.flush_endpoint: Callable[[str], object] | None = None
        self.flush_hooks = FlushHooks(self.stats)
        self.observer: Observer | None = None
        limits = buffer.limits
        self.connections = LoopConnections(
            transport, deadline=limits.request_timeout, max_response_bytes=limits.max_response_bytes
        )
        self.dispatcher = BatchDispatcher(
            buffer,
            api,
            policy,
            self.connections,
            self._batch_finished,
            repeat_ambiguous=repeat_ambiguous,
        )
        if buffer.is_durable:
            buffer.attach(self._spool_is_ready, lambda: not self.background)
        shutdown.senders.add(self)
        if shutdown.is_over:
            self._discard()

    def observe(self, observer: Observer) -> None:
        """Report each message from now on; without an observer, nothing is paid for that."""
        self.observer = self.dispatcher.observer = observer
        self.buffer.observe(observer)

    def name_of(self, endpoint: str) -> str:
        """Return the name of an endpoint's messages outside: that of its vendor, if it has one."""
        return self.api.captured_as(endpoint)

    def _spool_is_ready(self) -> None:
        if self.background:
            self.wake()

    def start(self) -> None:
        """Send what an earlier process has left in the spool; do nothing without one."""
        if self.buffer.is_durable:
            self.buffer.start()
            if self.background:
                self.start_here()

    # ---- in ---------------------------------------------------------------------------------

    def accept(self, record: Record) -> bool | None:
        """Accept a message without waiting and without I/O, from any thread.

        Return True if the caller should call `send_due` (without a background task); None when the
        buffer is full and `when_full` is "wait": the message was not accepted.

        :raises ClosedError: after `aclose`.
        :raises QueueFullError: with `when_full="raise"`.
        """
        if self._refuses_records:
            return self._accept_at_exit(record)
        if capture.active is not None and self.captures([record]):
            return False
        signal = self.buffer.put(record)
        if signal:
            shutdown.register(self)
            if self.background:
                self.wake()
        elif self.background:
            loop = self._loop
            if loop is None or not loop.is_running():
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

    def _accept_at_exit(self, record: Record) -> bool:
        """Send a message of another `atexit` handler at once, until the drain's time is over."""
        if self.closed:
            raise ClosedError("the client is closed: this message was not accepted")
        on_main = threading.current_thread() is threading.main_thread()
        if (
            on_main
            and time.monotonic() < shutdown.drain_deadline
            and self.connections.transport.client is None
        ):
            claims: list[Claim] = []
            transport = self._make_transport()
            try:
                self.buffer.claim_directly([record], claims, event_loop.alive_check())
                for claim in claims:
                    assert claim.batch is not None
                    self.dispatcher.send_blocking(
                        claim.batch, transport, until=shutdown.drain_deadline
                    )
            finally:
                transport.close()
                for claim in claims:
                    self.dispatcher.finish(claim)
                self.buffer.drop_all("exit", end_reason="exit")
        else:
            self.buffer.put(record)  # counts it as dropped
        return False

    @property
    def is_interrupted(self) -> bool:
        """Return True in a signal handler, finalizer or callback inside this client's own code.

        A message is accepted there; anything that waited for the interrupted code would never
        return.
        """
        return self.buffer.is_held_here() or threading.get_ident() in self._sending_threads

    def skip_flush(self) -> FlushResult:
        """Do nothing but log a warning, where `is_interrupted`; return a result that says so."""
        logger.warning(
            "flush or close was called inside this client's own code, by a signal handler, a "
            "finalizer or a callback: nothing was sent. Call it again later, or leave the messages "
            "to the end of the process"
        )
        return FlushResult(0, 0, {}, self.stats.snapshot().pending)

    @property
    def has_loop(self) -> bool:
        """Return True if a running event loop has the background task."""
        return self._loop is not None and self._loop.is_running()

    def serve_sync_client(self) -> None:
        """Send from the background loop, never from a caller's; without threads, in the calls."""
        global _has_warned
        if not self.background:
            return
        if native_threads.run_between_requests():
            self.in_background_loop = True
            return
        self.background = False
        if not _has_warned:
            _has_warned = True
            logger.warning(
                "uWSGI runs no threads between requests: messages are sent in the request that "
                "finds them due. Start uWSGI with --enable-threads to send them in the background"
            )

    @property
    def sends_in_this_loop(self) -> bool:
        """Return True if the background task is in the event loop that runs in this thread."""
        loop, here = self._loop, event_loop.running_loop()
        return loop is not None and here is not None and here.key is loop.key

    def wake(self) -> None:
        """Make the background task look at the buffer; start it in this loop if it has none."""
        loop = self._loop
        if loop is not None and loop.is_running():
            loop.call_soon(self._notify_task)
            return
        if not self.in_background_loop:
            self.start_here()
        elif self.stats.pending or self.stats.deferred:
            # No thread can start at the end of the interpreter, and no loop without a file
            # descriptor. The message is accepted: the next one tries again, or the drain at exit.
            with suppress(RuntimeError, OSError):
                background_loop.call_on_background_loop(self.start_here)

    def start_here(self) -> None:
        """Start the background task in the event loop of this thread, unless another has it."""
        loop, here = self._loop, event_loop.running_loop()
        if self.buffer.end_reason is not None or (loop is not None and loop.is_running()):
            return
        if here is None:
            return  # the next call from a loop starts it, or the drain at exit sends the messages
        with self.buffer.lock:
            if self._loop is not loop or self._draining:
                return
            self._loop, self._wake, self._send_scopes = here, None, set()
            self.flush_hooks.backend = here.backend
        # The task looks at once, and first takes back what the previous loop had in flight.
        here.spawn(lambda: self._run(here), on_done=lambda: self._task_ended(here))

    def _notify_task(self) -> None:
        if self._wake is not None:
            self._wake.set()

    # ---- the background task ----------------------------------------------------------------

    async def _run(self, loop: event_loop.Loop) -> None:
        try:
            while self._loop is loop:
                self._wake = anyio.Event()
                # Each task takes its batch itself: one cancelled before it starts has none to lose.
                due = self.buffer.due()
                for _ in range(due):
                    loop.spawn(lambda: self._send_one_due(loop))
                if due:
                    # They take their batches now; until then, those are still due.
                    await anyio.lowlevel.checkpoint()
                pending = self.stats.pending
                with anyio.move_on_after(
                    self.buffer.seconds_until_due() if pending else IDLE_TIMEOUT
                ):
                    await self._wake.wait()
                    continue
                with self.buffer.lock:
                    if not self.stats.pending and not pending and self._loop is loop:
                        self._loop = None
        except Exception:
            logger.exception("the background sender failed and will be restarted")

    async def _send_one_due(self, loop: event_loop.Loop) -> None:
        in_flight = self._send_scopes
        with anyio.CancelScope() as scope:
            in_flight.add(scope)
            try:
                await self.dispatcher.send_due(partial(self._take_in, loop))
            finally:
                in_flight.discard(scope)

    def _cancel_sends(self) -> None:
        for scope in tuple(self._send_scopes):
            scope.cancel()

    def _task_ended(self, loop: event_loop.Loop) -> None:
        """Forget the loop whose task has ended, and start again there if messages are pending."""
        with self.buffer.lock:
            if self._loop is not loop:
                return
            self._loop = self._wake = None
        # The task was cancelled, as when all tasks of the loop are. If the loop ends as well, the
        # call below never runs, and the next loop or the drain at exit takes over.
        if self.stats.pending and not self._draining and loop.is_running():
            loop.call_later(RESTART_DELAY, self._wake_if_needed)

    def _wake_if_needed(self) -> None:
        if self.stats.pending:
            self.wake()

    def _take_in(self, loop: event_loop.Loop, claim: Claim) -> Batch | None:
        return self.buffer.take(claim) if self._loop is loop else None

    def _batch_finished(self) -> None:
        if not self.stats.pending:
            with self.buffer.lock:
                if not self.stats.pending:
                    shutdown.unregister(self)
        if self.background:
            loop = self._loop
            if loop is not None:
                loop.call_soon(self._notify_task)

    # ---- on request -------------------------------------------------------------------------

    async def deliver(self, records: list[Record]) -> None:
        """Send these records now, in order.

        :raises DeliveryError: for the first batch that was not delivered as a whole; later ones are
            not tried and count as dropped.
        """
        if self.captures(records):
            return
        try:
            await event_loop.in_own_task(lambda: self._deliver(records))
        except event_loop.TaskEndedError as error:
            raise TransportError(str(error)) from error

    async def _deliver(self, records: list[Record]) -> None:
        with self._claimed(records) as (claims, raised):
            for claim in claims:
                assert claim.batch is not None
                await self.dispatcher.send(claim.batch, raised)
                if raised:
                    raise raised[0]

    @contextmanager
    def _claimed(self, records: list[Record]) -> Iterator[tuple[list[Claim], list[DeliveryError]]]:
        """Accept records that skip the queue; what is unsettled at the end counts as dropped."""
        if self.closed:
            raise ClosedError("the client is closed: this message was not accepted")
        claims: list[Claim] = []
        try:
            self.buffer.claim_directly(records, claims, event_loop.alive_check())
            yield claims, []
        finally:
            for claim in claims:
                self.dispatcher.finish(claim, [])

    async def send_due(self) -> None:
        """Send, here and now, every batch that is due."""
        with suppress(event_loop.TaskEndedError):  # its batch is back in the queue
            await event_loop.in_own_task(self._send_all_due)

    async def _send_all_due(self) -> None:
        while await self.dispatcher.send_due():
            pass

    async def flush(self, timeout: float | None = None, endpoint: str | None = None) -> FlushResult:
        """Send everything accepted so far, or that of one endpoint, and return the result.

        Return early when the timeout (in seconds) has passed, or when only a human can help, as
        with wrong credentials: the rest is `pending` in the result.
        """
        if self.flush_hooks.are_called_at_end:
            return self.flush_at_end()
        before = self.buffer.snapshot()
        mark = self._mark_for_flush(endpoint)
        event_loop.running_loop()  # imports the backend that the next line needs
        with anyio.move_on_after(timeout):
            if self.buffer.is_durable:
                with suppress(SpoolError):  # what is in memory is sent all the same
                    await self.buffer.commit()
                mark = self._mark_for_flush(endpoint)  # with what an earlier process has left
            if self.background:
                self.wake()
                await self._wait_up_to(mark, endpoint)
            else:
                await self._send_up_to(mark, endpoint)
        return self.buffer.result_since(before)

    def _mark_for_flush(self, endpoint: str | None) -> int:
        if endpoint is None:
            return self.buffer.mark_for_flush()
        return self.buffer.mark_endpoint_for_flush(endpoint)

    async def _wait_up_to(self, mark: int, endpoint: str | None) -> None:
        here = event_loop.running_loop()
        assert here is not None
        changed = anyio.Event()

        def set_changed() -> None:
            changed.set()  # the event of the wait that is current by then

        notify = partial(here.call_soon, set_changed)
        self.buffer.watchers.add(notify)
        try:
            while self.buffer.has_unsettled(mark, endpoint):
                # No event says that the sender's loop has ended.
                with anyio.move_on_after(LOOP_CHECK_INTERVAL):
                    await changed.wait()
                    changed = anyio.Event()
                    continue
                self.wake()
        finally:
            self.buffer.watchers.discard(notify)

    async def _send_up_to(self, mark: int, endpoint: str | None) -> None:
        while self.buffer.has_unsettled(mark, endpoint):
            async with anyio.create_task_group() as in_flight:
                for _ in range(self.buffer.due()):
                    in_flight.start_soon(self.dispatcher.send_due)
            if self.buffer.has_unsettled(mark, endpoint):
                seconds = self.buffer.seconds_until_due() or POLL_INTERVAL
                await anyio.sleep(min(seconds, LOOK_INTERVAL))

    def check_durable(self, what: str) -> bool:
        """Return True if messages outlive the process once committed; False if they are sent first.

        :raises ConfigurationError: naming `what` needs a spool, for a buffer in memory.
        """
        if not self.buffered or capture.active is not None:
            return False
        if not self.buffer.is_durable:
            raise ConfigurationError(
                f"{what} needs a spool, which keeps messages on disk: pass spool=FOLDER to the "
                "client or consumer, or set MP_SPOOL"
            )
        return True

    async def commit(self, timeout: float | None = COMMIT_TIMEOUT) -> None:
        """Wait until everything accepted so far is on disk.

        :raises SpoolError: if it is not, because the disk failed, or after the timeout.
        """
        if self.check_durable("commit()"):
            event_loop.running_loop()  # imports the backend
            await self.buffer.commit(timeout)

    def commit_blocking(self, timeout: float | None = COMMIT_TIMEOUT) -> None:
        """Like `commit`, in the calling thread."""
        if self.check_durable("commit()") and not self.is_interrupted:
            self.buffer.commit_blocking(timeout)

    def check_accepted(self, records: Sequence[Record]) -> None:
        """Check that no record was dropped instead of being accepted, for callers that rely on it.

        :raises QueueFullError: if one was.
        """
        dropped = sum(not getattr(record, "sequence", 0) for record in records)
        # A record of a signal handler is accepted when the code that it interrupted continues.
        if dropped and not self.is_interrupted:
            error = QueueFullError(
                f"{dropped:,} of {len(records):,} message(s) were dropped and are not on disk, "
                "because the buffer or the spool is full: raise max_spool_bytes and max_queue_size "
                'of Limits, or choose when_full="wait"'
            )
            error.accepted = len(records) - dropped
            raise error

    async def wait_for_space(self) -> None:
        """Flush the buffer and wait until a batch is settled, or for a quarter of a second."""
        here = event_loop.running_loop()
        assert here is not None
        changed = anyio.Event()

        def notify() -> None:
            here.call_soon(changed.set)

        self.buffer.watchers.add(notify)
        self.buffer.mark_for_flush()
        self.wake()
        try:
            with anyio.move_on_after(LOOK_INTERVAL):
                await changed.wait()
        finally:
            self.buffer.watchers.discard(notify)

    async def aclose(self, timeout: float | None = 5.0) -> FlushResult:
        """Flush, then close the connections; what was not delivered in time is dropped.

        Return within the timeout plus 0.25 s, whatever the server does, and use that time even
        when the surrounding scope is cancelled.
        """
        self.closed = self._refuses_records = True
        before = self.buffer.snapshot()
        with anyio.CancelScope(shield=True):
            await self.flush(timeout)
            loop, self._loop = self._loop, None
            if loop is not None and self.buffer.has_in_flight():
                loop.call_soon(self._cancel_sends)
                with anyio.move_on_after(CANCEL_TIMEOUT):
                    while self.buffer.has_in_flight():  # noqa: ASYNC110
                        await anyio.sleep(POLL_INTERVAL)
            self.buffer.drop_all("closed", end_reason="closed")
            await self.connections.aclose()
            self.close_sync()
        shutdown.unregister(self)
        return self.buffer.result_since(before)

    # ---- in the calling thread --------------------------------------------------------------

    def sync_transport(self) -> SyncTransport | None:
        """Return the connections of calling threads; None when only an event loop can send.

        That is so with the user's own `http_client`, and behind a proxy: only httpx supports those.
        """
        transport = self.connections.transport
        if self._sync_transport is None and transport.client is None and transport.proxy is None:
            with self.buffer.lock:
                if self._sync_transport is None and not getproxies():
                    self._sync_transport = self._make_transport()
        return self._sync_transport

    def _make_transport(self) -> SyncTransport:
        with import_lock:
            from mixpanel._http.sync_transport import (
                SyncTransport,
            )

        return SyncTransport(
            self.connections.transport, max_response_bytes=self.buffer.limits.max_response_bytes
        )

    def deliver_blocking(self, records: list[Record], transport: SyncTransport) -> None:
        """Like `deliver`, in the calling thread."""
        with self._blocking_send(), self._claimed(records) as (claims, raised):
            for claim in claims:
                assert claim.batch is not None
                self.dispatcher.send_blocking(claim.batch, transport, raised=raised)
                if raised:
                    raise raised[0]
        if shutdown.is_over:
            self.close_sync()  # no later handler would close it

    def send_due_blocking(self, transport: SyncTransport) -> None:
        """Like `send_due`, in the calling thread."""
        with self._blocking_send():
            while self.dispatcher.send_due_blocking(transport):
                pass

    @contextmanager
    def _blocking_send(self) -> Iterator[None]:
        """Mark this thread as inside a blocking send, for signal handlers and callbacks.

        httpcore and the standard library hold locks that are not reentrant: a handler that sent as
        well could wait for a lock of the very code that it interrupted.
        """
        thread = threading.get_ident()
        is_outer = thread not in self._sending_threads  # of a signal handler's, inside another
        try:
            self._sending_threads.add(thread)
            yield
        finally:
            if is_outer:
                self._sending_threads.discard(thread)

    # ---- the end of the process -------------------------------------------------------------

    def prepare_drain(self) -> None:
        """Import what the drain at exit needs; during `atexit` an import may fail."""
        with import_lock:
            import mixpanel._http.sync_transport  # noqa: F401

    def holds_lock(self) -> bool:
        """Return True in a signal handler that interrupted this thread inside the buffer."""
        return self.buffer.is_held_here()

    def flush_blocking(self, end: float) -> None:
        """Send what is not in flight from this thread until `end`, and then each message at once.

        Called in a signal handler, whose process is going to end, but not yet.
        """
        in_this_thread = self.sends_in_this_loop or self.is_interrupted
        self.buffer.put_deferred()
        self.buffer.stop_gathering()
        send_rest = partial(self._send_until, end, in_this_thread=in_this_thread)
        self.flush_hooks.call_at_end(end, send_rest)
        send_rest()

    def _send_until(self, end: float, *, in_this_thread: bool) -> None:
        if not self.stats.pending or self.connections.transport.client is not None:
            return
        # Connections of its own: the handler may have interrupted the ones that are in use.
        transport = self._make_transport()
        policy, self.dispatcher.policy = self.dispatcher.policy, EXIT_RETRY
        try:
            with self._blocking_send():
                while time.monotonic() < end:
                    if self.dispatcher.send_due_blocking(transport, until=end, everything=True):
                        continue
                    if in_this_thread or not self.buffer.has_in_flight():
                        break
                    time.sleep(POLL_INTERVAL)  # another thread is sending
        finally:
            self.dispatcher.policy = policy
            transport.close()

    def drain_at_exit(self, end: float) -> None:
        """Send what is left from this thread until `end` on the monotonic clock.

        Nothing is accepted after that: what other threads track then counts as dropped.
        """
        self.buffer.put_deferred()
        self.flush_hooks.call_at_end(end, lambda: self._drain(end, waiting=False))
        if self.stats.pending:
            in_this_thread = self.sends_in_this_loop or self.is_interrupted
            with self.buffer.lock:
                # A loop in another thread may still run. From here on its background task takes no
                # batch (`_take_in` looks at `_loop`): the process would end before it is sent.
                self._draining = True
                loop, self._loop = self._loop, None
                waiting = (loop is None or loop.is_running()) and not in_this_thread
            try:
                self._drain(end, waiting=waiting)
            finally:
                self._draining = False
        self._discard()

    def _discard(self) -> None:
        self._refuses_records = True
        self.buffer.drop_all("exit", end_reason="exit")

    def _drain(self, end: float, *, waiting: bool) -> None:
        # Requests of a loop that still runs in another thread may get their response yet. They have
        # half of the time: sending them again at once could deliver them twice.
        halfway = time.monotonic() + (end - time.monotonic()) / 2
        while waiting and self.buffer.has_in_flight() and time.monotonic() < halfway:
            time.sleep(POLL_INTERVAL)
        self.buffer.reclaim()
        self.buffer.clear_pauses()
        if self.connections.transport.client is not None:
            # The user's own client may be a mock or have a proxy of its own: do not bypass it. It
            # needs an event loop, and there is none at exit.
            return
        self.dispatcher.policy = EXIT_RETRY
        # Those in use may be what a signal handler interrupted.
        own = None if self.is_interrupted else self._sync_transport
        transport = own or self._make_transport()
        while time.monotonic() < end:
            with self._blocking_send():
                sent = self.dispatcher.send_due_blocking(transport, until=end, everything=True)
            if sent:
                continue
            if not self.buffer.has_in_flight():
                break
            time.sleep(POLL_INTERVAL)  # another thread is sending: what it gives back is sent here
        transport.close()

    def flush_at_end(self) -> FlushResult:
        """Send what is left from this thread, in a replaced `flush` at the end of the process."""
        before = self.buffer.snapshot()
        self.flush_hooks.send_rest()
        return self.buffer.result_since(before)

    def close_sync(self) -> None:
        """Close the connections of calling threads, unless this interrupts code that uses them.

        That code, whose signal handler ends the process, holds their lock, which is not reentrant.
        """
        if self.is_interrupted:
            return
        blocking, self._sync_transport = self._sync_transport, None
        if blocking is not None:
            blocking.close()

    def after_fork(self) -> None:
        """Start empty in a forked child: the messages in the copy are the parent's to send."""
        _inherited_transports.append(self._sync_transport)
        self._loop = self._wake = self._sync_transport = None
        self._send_scopes = set()
        self._sending_threads = set()
        self._refuses_records = self.closed
        self._draining = False
        self.flush_hooks.after_fork()
        if self.api.guard is not None:
            self.api.guard.after_fork()
        self.buffer.clear()
