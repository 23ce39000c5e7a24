"""Send batches and count their outcomes, from an event loop or from a plain thread.

The generator in `retry` decides what to do next; the two drivers here, one async and one blocking,
do it. Between receiving a response and counting it they run no code of the user's: callbacks and
log lines are deferred until all of the response is counted, so that a callback which raises, or
which looks at `stats()`, never finds a batch half counted.
"""

from __future__ import annotations

import logging
import math
import random
import time
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import anyio

from mixpanel._delivery.buffer import Claim
from mixpanel._delivery.retry import (
    DisableGzip,
    ReduceBatchBytes,
    Resolve,
    Step,
    Stop,
    Wait,
    advance,
    delivery_steps,
)
from mixpanel._http.connections import LoopConnections, build_request, send_guarded, sleep_out
from mixpanel._http.request import Send
from mixpanel._http.responses import (
    TransportFailure,
)
from mixpanel._runtime import event_loop
from mixpanel._runtime.safe_logging import logger
from mixpanel.exceptions import DeliveryError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mixpanel._delivery.buffer import Batch, Buffer
    from mixpanel._delivery.observer import Observer
    from mixpanel._delivery.retry import (
        Steps,
    )
    from mixpanel._http.request import Api, Request
    from mixpanel._http.responses import (
        Response,
    )
    from mixpanel._http.sync_transport import (
        SyncTransport,
    )
    from mixpanel.settings import RetryPolicy

__all__ = ["BatchDispatcher"]

FATAL_PAUSE = 60.0  # seconds between attempts when only a human can help, as after a 401
MIN_GZIP_BYTES = 1024  # up to this size compression saves no packet
SMALL_BATCH = 4  # records up to which their bytes are summed


class BatchDispatcher:
    """Send the batches of one buffer; `on_finished` is called after each, however it ended."""

    def __init__(
        self,
        buffer: Buffer,
        api: Api,
        policy: RetryPolicy,
        connections: LoopConnections,
        on_finished: Callable[[], None],
        *,
        repeat_ambiguous: bool,
    ) -> None:
        self.buffer = buffer
        self.stats = buffer.stats
        self.api = api
        self.policy = policy
        self._connections = connections
        self._on_finished = on_finished
        self._repeat_ambiguous = repeat_ambiguous
        self.observer: Observer | None = None

    # ---- batches that are due ---------------------------------------------------------------

    async def send_due(self, take: Callable[[Claim], Batch | None] | None = None) -> bool:
        """Take a batch that is due and send it; return False if there was none.

        The task that sends the batch also takes it, and gives back what is left however this ends:
        a task that is cancelled before its first step has taken nothing.
        """
        claim = Claim(event_loop.alive_check())
        try:
            batch = (take or self.buffer.take)(claim)
            if batch is None:
                return False
            await self.send(batch)
        finally:
            self.finish(claim)
        return True

    def send_due_blocking(
        self, transport: SyncTransport, *, until: float = math.inf, everything: bool = False
    ) -> bool:
        """Like `send_due`, in the calling thread."""
        claim = Claim(event_loop.alive_check())
        try:
            batch = self.buffer.take(claim, everything=everything)
            if batch is None:
                return False
            self.send_blocking(batch, transport, until=until)
        finally:
            self.finish(claim)
        return True

    def finish(self, claim: Claim, raised: list[DeliveryError] | None = None) -> None:
        """End the batch of a claim; what is unsettled returns to the queue.

        With `raised`, whose errors go to a caller, it is dropped instead.
        """
        try:
            self._finish(claim, raised)
        except BaseException:
            # Ctrl-C struck in between. A batch that is not finished would stay in flight forever.
            self._finish(claim, raised)
            raise

    def _finish(self, claim: Claim, raised: list[DeliveryError] | None) -> None:
        batch = claim.batch
        if batch is None or not batch.live:
            return
        if raised is not None:
            records = batch.unsettled
            if self.buffer.settle(batch, records, "dropped", "raised"):
                self.buffer.announce(records, "dropped", "raised", quiet=True)
        self.buffer.finish(batch)
        self._on_finished()

    # ---- one batch --------------------------------------------------------------------------

    async def send(self, batch: Batch, raised: list[DeliveryError] | None = None) -> None:
        """Deliver one batch; the caller has to `finish` its claim afterwards.

        With `raised`, errors are collected there for the caller instead of being reported.
        """
        sending = _BatchDelivery(self, batch, raised)
        try:
            step = sending.advance(None)
            while step is not None:
                reply = None
                if isinstance(step, Send):
                    # Another batch may have hit a rate limit: that pauses the whole queue.
                    await sleep_out(lambda: batch.queue.paused_until - self.buffer.clock())
                    if not batch.live:
                        break  # reclaimed meanwhile: another task or thread sends its messages
                    reply = await self._attempt(batch, step, sending)
                else:
                    await anyio.sleep(step.seconds)
                step = sending.advance(reply)
        except Exception as error:
            if raised is not None:
                raise
            sending.fail(error)

    def send_blocking(
        self,
        batch: Batch,
        transport: SyncTransport,
        *,
        raised: list[DeliveryError] | None = None,
        until: float = math.inf,
    ) -> None:
        """Like `send`, blocking, and not beyond `until` on the monotonic clock."""
        sending = _BatchDelivery(self, batch, raised)
        try:
            step = sending.advance(None)
            while step is not None:
                reply = None
                if isinstance(step, Send):
                    _sleep(batch.queue.paused_until - self.buffer.clock(), until)
                    if time.monotonic() >= until or not batch.live:
                        break
                    reply = self._attempt_blocking(batch, step, transport, until, sending)
                else:
                    _sleep(step.seconds, until)
                step = sending.advance(reply)
        except Exception as error:
            if raised is not None:
                raise
            sending.fail(error)

    def delivery_steps(self, batch: Batch) -> Steps:
        """Return the steps that deliver a batch."""
        queue = batch.queue
        return delivery_steps(
            batch.records,
            policy=self.policy,
            clock=self.buffer.clock,
            random=random.random,
            gzip=queue.gzip if self.is_worth_gzip(batch) else False,
            repeat_ambiguous=self._repeat_ambiguous,
            classify=self.api.classify,
        )

    def is_worth_gzip(self, batch: Batch) -> bool:
        """Return True if a batch is large enough to gain by gzip, and its endpoint takes it."""
        if not self.api.takes_gzip(batch.queue.endpoint):
            return False
        few = batch.records[:SMALL_BATCH]
        return (
            len(batch.records) > SMALL_BATCH
            or sum(len(record.body) for record in few) > MIN_GZIP_BYTES
        )

    # ---- one attempt ------------------------------------------------------------------------

    async def _attempt(
        self, batch: Batch, step: Send, sending: _BatchDelivery
    ) -> Response | TransportFailure:
        return await send_guarded(
            self.api.guard, self._connections, lambda: self._send(batch, step, sending)
        )

    async def _send(
        self, batch: Batch, step: Send, sending: _BatchDelivery
    ) -> Response | TransportFailure:
        request = await build_request(self.api, step)
        self.stats.requests += 1

        def mark_sending() -> None:  # from here on, a request that is cut off may have been applied
            batch.sending = step.records

        # Only for records that are not safe to repeat does it matter whether the request left.
        unsafe = False in [record.repeatable for record in step.records]
        if unsafe and self.buffer.is_durable:
            failure = await self.buffer.mark_attempted(step.records)
            if failure is not None:
                return TransportFailure(failure, may_have_been_sent=False)
        reply = await self._connections.attempt(request, on_sent=mark_sending if unsafe else None)
        batch.sending = []
        sending.log_attempt(request, step, reply)
        return reply

    def _attempt_blocking(
        self,
        batch: Batch,
        step: Send,
        transport: SyncTransport,
        until: float,
        sending: _BatchDelivery,
    ) -> Response | TransportFailure:
        if self.api.guard is None:
            return self._send_blocking(batch, step, transport, until, sending)
        reply = None
        with closing(self.api.guard.run()) as requests:
            while True:
                try:
                    step_of_guard = requests.send(reply)
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]
                reply = None
                if isinstance(step_of_guard, float | int):
                    _sleep(step_of_guard, until)
                elif step_of_guard is None:
                    reply = self._send_blocking(batch, step, transport, until, sending)
                else:
                    reply = transport.send(step_of_guard, end=self._deadline(until))

    def _deadline(self, until: float) -> float:
        return min(until, time.monotonic() + self.buffer.limits.request_timeout)

    def _send_blocking(
        self,
        batch: Batch,
        step: Send,
        transport: SyncTransport,
        until: float,
        sending: _BatchDelivery,
    ) -> Response | TransportFailure:
        end = self._deadline(until)
        if self.buffer.is_durable and not all(record.repeatable for record in step.records):
            timeout = end - time.monotonic()
            failure = self.buffer.mark_attempted_blocking(step.records, timeout)
            if failure is not None:
                return TransportFailure(failure, may_have_been_sent=False)
        request = self.api.request(step)
        self.stats.requests += 1
        batch.sending = step.records
        try:
            reply = transport.send(request, end=end)
        finally:
            # Also after Ctrl-C: if the request had left, `sending` keeps its records, and `finish`
            # drops those that are not safe to repeat.
            if not transport.has_sent:
                batch.sending = []
        batch.sending = []
        sending.log_attempt(request, step, reply)
        return reply


class _BatchDelivery:
    """The delivery of one batch: counts outcomes at once, and reports them after that."""

    def __init__(
        self, dispatcher: BatchDispatcher, batch: Batch, raised: list[DeliveryError] | None
    ) -> None:
        self._dispatcher = dispatcher
        self._buffer = dispatcher.buffer
        self._stats = dispatcher.stats
        self._batch = batch
        self._raised = raised
        self._steps = dispatcher.delivery_steps(batch)
        self._reports: list[Callable[[], object]] = []

    def advance(self, reply: Response | TransportFailure | None) -> Send | Wait | None:
        """Count the outcome of a reply, then report it; return the next step that takes time."""
        try:
            return advance(self._steps, reply, self._apply)
        finally:
            reports, self._reports = self._reports, []
            for report in reports:
                report()
            if reply is not None and self._buffer.watchers:  # before the first one nothing changes
                self._buffer.notify()

    def log_attempt(self, request: Request, step: Send, reply: Response | TransportFailure) -> None:
        """Log an attempt after it is counted: its sizes and result, no content."""
        if (observer := self._dispatcher.observer) is not None:
            self._reports.append(
                partial(observer.attempted, step.records, request, step.retries, reply)
            )
        if logger.isEnabledFor(logging.DEBUG):
            url, bytes_ = request.url.partition("?")[0], len(request.content)
            result = reply.error if isinstance(reply, TransportFailure) else f"HTTP {reply.status}"
            text, count = "POST %s: %d message(s), %d bytes: %s", len(step.records)
            self._reports.append(partial(logger.debug, text, url, count, bytes_, result))

    def fail(self, error: Exception) -> None:
        """Handle a bug of this package, not an error of the network: keep the batch, report it."""
        logger.exception("a batch could not be sent; it is tried again in a minute")
        problem = DeliveryError(f"a batch could not be sent: {type(error).__name__}, see the log")
        self._batch.queue.paused_by = problem
        self._pause(FATAL_PAUSE)
        self._stats.report(problem, [])

    def _apply(self, step: Step) -> None:
        queue, reports = self._batch.queue, self._reports
        raised = self._raised
        if isinstance(step, Resolve):
            self._settle(step)
        elif isinstance(step, Wait):
            self._stats.retried += 1
            self._pause(step.seconds)
            self._unmark()
            if raised is None:
                reports.append(partial(self._stats.report, step.error, []))
        elif isinstance(step, ReduceBatchBytes):
            queue.max_bytes = min(queue.max_bytes, step.max_bytes)
        elif isinstance(step, DisableGzip):
            queue.gzip = False
        elif isinstance(step, Stop) and raised is not None:
            raised.append(step.error)  # `finish` drops what is left: the caller has the error
        elif isinstance(step, Stop):
            queue.paused_by = step.error
            self._pause(FATAL_PAUSE)
            self._unmark()
            reports.append(partial(self._stats.report, step.error, []))

    def _unmark(self) -> None:
        """Note that updates which are still here were not applied: else they would be ambiguous."""
        if self._buffer.is_durable:
            self._buffer.unmark(self._batch.unsettled)

    def _pause(self, seconds: float) -> None:
        """Pause the queue, unless the batch was reclaimed: its new owner decides then."""
        if self._batch.live:
            queue = self._batch.queue
            queue.paused_until = max(queue.paused_until, self._buffer.clock() + seconds)

    def _settle(self, step: Resolve) -> None:
        batch, raised = self._batch, self._raised
        settled = self._buffer.settle(batch, step.records, step.fate, step.reason)
        if step.fate == "delivered":
            self._stats.last_error = None
            if batch.queue.paused_by is not None:  # the settings were mended
                batch.queue.paused_by, batch.queue.paused_until = None, 0.0
            if batch.queue.gzip is None and self._dispatcher.is_worth_gzip(batch):
                batch.queue.gzip = True
        elif raised is not None and step.error is not None:
            raised.append(step.error)
        if settled and (step.fate != "delivered" or self._buffer.reports_deliveries):
            announce = self._buffer.announce
            outcome = (step.records, step.fate, step.reason, step.error)
            self._reports.append(partial(announce, *outcome, quiet=raised is not None))


def _sleep(seconds: float, until: float) -> None:
    """Sleep, but not beyond `until` on the monotonic clock."""
    left = min(seconds, until - time.monotonic())
    if left > 0:
        time.sleep(left)
