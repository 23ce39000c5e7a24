"""Bring one batch to the server and count what became of it, from a loop or from a plain thread.

The exchange says what to do next; the two drivers here, one async and one blocking, do it. Between
an answer and its booking they run no code of the user's: what is to be logged or handed to a
callback waits until all of the answer is counted.
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
    exchange,
)
from mixpanel._http.connections import LoopConnections, build_request, send_guarded, sleep_out
from mixpanel._http.request import Send
from mixpanel._http.responses import (
    TransportFailure,
)
from mixpanel._runtime import event_loop
from mixpanel._runtime.safe_logging import logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from mixpanel._delivery.buffer import Batch, Buffer
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
    from mixpanel.exceptions import DeliveryError
    from mixpanel.settings import RetryPolicy

__all__ = ["BatchDispatcher"]

PAUSE = 60.0  # seconds between attempts when only a human can help
ONE_PACKET = 1024  # bytes that are not worth compressing
FEW = 4


class BatchDispatcher:
    """Carry batches of one buffer; `landed` is called after each, however it ended."""

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

    # ---- what is due ------------------------------------------------------------------------

    async def send_due(self, take: Callable[[Claim], Batch | None] | None = None) -> bool:
        """Take a batch that is due and send it; return False if there was none.

        The batch is taken here, in the task that sends it, and given back however this ends.
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
        """Do as `send_due`, in the calling thread."""
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
        """End the batch of a claim; for a caller who hears the errors, the rest is dropped."""
        try:
            self._finish(claim, raised)
        except BaseException:  # Ctrl-C just now: a batch that was not ended would never end
            self._finish(claim, raised)
            raise

    def _finish(self, claim: Claim, raised: list[DeliveryError] | None) -> None:
        batch = claim.batch
        if batch is None or not batch.live:
            return
        if raised is not None:
            records = batch.open
            if self.buffer.settle(batch, records, "dropped", "raised"):
                self.buffer.announce(records, "dropped", "raised", quiet=True)
        self.buffer.finish(batch)
        self._on_finished()

    # ---- one batch --------------------------------------------------------------------------

    async def send(self, batch: Batch, raised: list[DeliveryError] | None = None) -> None:
        """Drive the exchange of one batch; whoever took it has to `land` it afterwards.

        With `raised`, errors are collected there for the caller instead of being reported.
        """
        sending = _Sending(self, batch, raised)
        try:
            step = sending.advance(None)
            while step is not None:
                reply = None
                if isinstance(step, Send):
                    # Another batch may have been told to wait; that holds for the whole lane.
                    await sleep_out(lambda: batch.queue.paused_until - self.buffer.clock())
                    if not batch.live:
                        break  # taken back meanwhile: another task or thread sends its messages
                    reply = await self._attempt(batch, step, sending)
                else:
                    await anyio.sleep(step.seconds)
                step = sending.advance(reply)
        except Exception:
            if raised is not None:
                raise
            sending.fail()

    def send_blocking(
        self,
        batch: Batch,
        transport: SyncTransport,
        *,
        raised: list[DeliveryError] | None = None,
        until: float = math.inf,
    ) -> None:
        """Do as `send`, blocking, and not beyond `until` on the monotonic clock."""
        sending = _Sending(self, batch, raised)
        try:
            step = sending.advance(None)
            while step is not None:
                reply = None
                if isinstance(step, Send):
                    _rest(batch.queue.paused_until - self.buffer.clock(), until)
                    if time.monotonic() >= until or not batch.live:
                        break
                    reply = self._attempt_blocking(batch, step, transport, until, sending)
                else:
                    _rest(step.seconds, until)
                step = sending.advance(reply)
        except Exception:
            if raised is not None:
                raise
            sending.fail()

    def exchange(self, batch: Batch) -> Steps:
        """Return the steps that bring a batch to the server."""
        queue = batch.queue
        return exchange(
            batch.records,
            policy=self.policy,
            clock=self.buffer.clock,
            random=random.random,
            gzip=queue.gzip if self.is_worth_gzip(batch) else False,
            repeat_ambiguous=self._repeat_ambiguous,
            classify=self.api.classify,
        )

    def is_worth_gzip(self, batch: Batch) -> bool:
        """Return True if a batch is large enough to gain by compression, and may be compressed."""
        if not self.api.takes_gzip(batch.queue.endpoint):
            return False
        few = batch.records[:FEW]
        return len(batch.records) > FEW or sum(len(record.body) for record in few) > ONE_PACKET

    # ---- one attempt ------------------------------------------------------------------------

    async def _attempt(
        self, batch: Batch, step: Send, sending: _Sending
    ) -> Response | TransportFailure:
        return await send_guarded(
            self.api.guard, self._connections, lambda: self._send(batch, step, sending)
        )

    async def _send(
        self, batch: Batch, step: Send, sending: _Sending
    ) -> Response | TransportFailure:
        request = await build_request(self.api, step)
        self.stats.requests += 1

        def left() -> None:  # from here on, what is cut off may have been applied
            batch.sending = step.records

        unsafe = False in [record.repeatable for record in step.records]
        reply = await self._connections.attempt(request, on_sent=left if unsafe else None)
        batch.sending = []
        sending.log_attempt(request, step, reply)
        return reply

    def _attempt_blocking(
        self, batch: Batch, step: Send, transport: SyncTransport, until: float, sending: _Sending
    ) -> Response | TransportFailure:
        if self.api.guard is None:
            return self._send_blocking(batch, step, transport, until, sending)
        reply = None
        with closing(self.api.guard.run()) as passage:
            while True:
                try:
                    what = passage.send(reply)
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]
                reply = None
                if isinstance(what, float | int):
                    _rest(what, until)
                elif what is None:
                    reply = self._send_blocking(batch, step, transport, until, sending)
                else:
                    reply = transport.send(what, end=self._deadline(until))

    def _deadline(self, until: float) -> float:
        return min(until, time.monotonic() + self.buffer.limits.request_timeout)

    def _send_blocking(
        self, batch: Batch, step: Send, transport: SyncTransport, until: float, sending: _Sending
    ) -> Response | TransportFailure:
        end = self._deadline(until)
        request = self.api.request(step)
        self.stats.requests += 1
        batch.sending = step.records
        try:
            reply = transport.send(request, end=end)
        finally:  # Ctrl-C comes this way, too
            if not transport.has_sent:
                batch.sending = []
        batch.sending = []
        sending.log_attempt(request, step, reply)
        return reply


class _Sending:
    """The exchange of one batch: what it counts at once, and what is to be reported after that."""

    def __init__(
        self, dispatcher: BatchDispatcher, batch: Batch, raised: list[DeliveryError] | None
    ) -> None:
        self._dispatcher = dispatcher
        self._buffer = dispatcher.buffer
        self._stats = dispatcher.stats
        self._batch = batch
        self._raised = raised
        self._steps = dispatcher.exchange(batch)
        self._reports: list[Callable[[], object]] = []

    def advance(self, reply: Response | TransportFailure | None) -> Send | Wait | None:
        """Count what a reply means, then report it; return the next step that takes time."""
        try:
            return advance(self._steps, reply, self._apply)
        finally:
            reports, self._reports = self._reports, []
            for report in reports:
                report()
            if self._buffer.watchers:
                self._buffer.notify()

    def log_attempt(self, request: Request, step: Send, reply: Response | TransportFailure) -> None:
        """Remember to log an attempt, without anything that is in it."""
        if logger.isEnabledFor(logging.DEBUG):
            url, bytes_ = request.url.partition("?")[0], len(request.content)
            came = reply.error if isinstance(reply, TransportFailure) else f"HTTP {reply.status}"
            text = "POST %s: %d message(s), %d bytes: %s"
            self._reports.append(partial(logger.debug, text, url, len(step.records), bytes_, came))

    def fail(self) -> None:
        """Handle an error of ours, not the network's: keep the messages and log it loudly."""
        self._pause(PAUSE)
        logger.exception("a batch could not be sent")

    def _apply(self, step: Step) -> None:
        queue, reports = self._batch.queue, self._reports
        raised = self._raised
        if isinstance(step, Resolve):
            self._settle(step)
        elif isinstance(step, Wait):
            self._stats.retried += 1
            self._pause(step.seconds)
            if raised is None:
                reports.append(partial(self._stats.report, step.error, []))
        elif isinstance(step, ReduceBatchBytes):
            queue.max_bytes = min(queue.max_bytes, step.max_bytes)
        elif isinstance(step, DisableGzip):
            queue.gzip = False
        elif isinstance(step, Stop) and raised is not None:
            raised.append(step.error)
        elif isinstance(step, Stop):
            queue.paused_by = step.error
            self._pause(PAUSE)
            reports.append(partial(self._stats.report, step.error, []))

    def _pause(self, seconds: float) -> None:
        """Hold the queue back, unless the batch was taken back: whoever has it now knows better."""
        if self._batch.live:
            queue = self._batch.queue
            queue.paused_until = max(queue.paused_until, self._buffer.clock() + seconds)

    def _settle(self, step: Resolve) -> None:
        batch, raised = self._batch, self._raised
        settled = self._buffer.settle(batch, step.records, step.fate, step.reason)
        if step.fate == "delivered":
            if batch.queue.paused_by is not None:
                batch.queue.paused_by, batch.queue.paused_until = None, 0.0
            if batch.queue.gzip is None and self._dispatcher.is_worth_gzip(batch):
                batch.queue.gzip = True
        elif raised is not None and step.error is not None:
            raised.append(step.error)
        if settled and (step.fate != "delivered" or self._buffer.reports_deliveries):
            announce = self._buffer.announce
            what = (step.records, step.fate, step.reason, step.error)
            self._reports.append(partial(announce, *what, quiet=raised is not None))


def _rest(seconds: float, until: float) -> None:
    left = min(seconds, until - time.monotonic())
    if left > 0:
        time.sleep(left)
