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
    Halt,
    Plain,
    Settle,
    Shrink,
    Step,
    Wait,
    exchange,
    onward,
)
from mixpanel._http.connections import Wires, compressed_off_loop, hold_back, let_through
from mixpanel._http.request import Send
from mixpanel._http.responses import (
    Failure,
)
from mixpanel._runtime import event_loop
from mixpanel._runtime.safe_logging import logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from mixpanel._delivery.buffer import Batch, Buffer
    from mixpanel._delivery.retry import (
        Steps,
    )
    from mixpanel._http.request import AnyRoute, Request
    from mixpanel._http.responses import (
        Answer,
    )
    from mixpanel._http.sync_transport import (
        BlockingWire,
    )
    from mixpanel.exceptions import DeliveryError
    from mixpanel.settings import RetryPolicy

__all__ = ["Courier"]

HALTED = 60.0  # seconds between attempts when only a human can help
ONE_PACKET = 1024  # bytes that are not worth compressing
FEW = 4


class Courier:
    """Carry batches of one buffer; `landed` is called after each, however it ended."""

    def __init__(
        self,
        buffer: Buffer,
        route: AnyRoute,
        policy: RetryPolicy,
        wires: Wires,
        landed: Callable[[], None],
        *,
        repeat_ambiguous: bool,
    ) -> None:
        self.buffer = buffer
        self.ledger = buffer.ledger
        self.route = route
        self.policy = policy
        self._wires = wires
        self._landed = landed
        self._repeat_ambiguous = repeat_ambiguous

    # ---- what is due ------------------------------------------------------------------------

    async def send_due(self, take: Callable[[Claim], Batch | None] | None = None) -> bool:
        """Take a batch that is due and send it; return False if there was none.

        The batch is taken here, in the task that sends it, and given back however this ends.
        """
        claim = Claim(event_loop.owner())
        try:
            batch = (take or self.buffer.take)(claim)
            if batch is None:
                return False
            await self.send(batch)
        finally:
            self.land(claim)
        return True

    def send_due_blocking(
        self, wire: BlockingWire, *, until: float = math.inf, everything: bool = False
    ) -> bool:
        """Do as `send_due`, in the calling thread."""
        claim = Claim(event_loop.owner())
        try:
            batch = self.buffer.take(claim, everything=everything)
            if batch is None:
                return False
            self.send_blocking(batch, wire, until=until)
        finally:
            self.land(claim)
        return True

    def land(self, claim: Claim, raised: list[DeliveryError] | None = None) -> None:
        """End the batch of a claim; for a caller who hears the errors, the rest is dropped."""
        try:
            self._land(claim, raised)
        except BaseException:  # Ctrl-C just now: a batch that was not ended would never end
            self._land(claim, raised)
            raise

    def _land(self, claim: Claim, raised: list[DeliveryError] | None) -> None:
        batch = claim.batch
        if batch is None or not batch.live:
            return
        if raised is not None:
            records = batch.open
            if self.buffer.settle(batch, records, "dropped", "raised"):
                self.buffer.announce(records, "dropped", "raised", quiet=True)
        self.buffer.land(batch)
        self._landed()

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
                    await hold_back(lambda: batch.lane.not_before - self.buffer.clock())
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
        wire: BlockingWire,
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
                    _rest(batch.lane.not_before - self.buffer.clock(), until)
                    if time.monotonic() >= until:
                        break
                    reply = self._attempt_blocking(batch, step, wire, until, sending)
                else:
                    _rest(step.seconds, until)
                step = sending.advance(reply)
        except Exception:
            if raised is not None:
                raise
            sending.fail()

    def exchange(self, batch: Batch) -> Steps:
        """Return the steps that bring a batch to the server."""
        lane = batch.lane
        return exchange(
            batch.records,
            policy=self.policy,
            clock=self.buffer.clock,
            random=random.random,
            gzip=lane.gzip if self.is_worth_gzip(batch) else False,
            repeat_ambiguous=self._repeat_ambiguous,
            judge=self.route.judge,
        )

    def is_worth_gzip(self, batch: Batch) -> bool:
        """Return True if a batch is large enough to gain by compression, and may be compressed."""
        if not self.route.takes_gzip(batch.lane.endpoint):
            return False
        few = batch.records[:FEW]
        return len(batch.records) > FEW or sum(len(record.body) for record in few) > ONE_PACKET

    # ---- one attempt ------------------------------------------------------------------------

    async def _attempt(self, batch: Batch, step: Send, sending: _Sending) -> Answer | Failure:
        return await let_through(
            self.route.gate, self._wires, lambda: self._send(batch, step, sending)
        )

    async def _send(self, batch: Batch, step: Send, sending: _Sending) -> Answer | Failure:
        request = await compressed_off_loop(self.route, step)
        self.ledger.requests += 1

        def left() -> None:  # from here on, what is cut off may have been applied
            batch.sending = step.records

        unsafe = False in [record.repeatable for record in step.records]
        reply = await self._wires.attempt(request, on_sent=left if unsafe else None)
        batch.sending = []
        sending.came_back(request, step, reply)
        return reply

    def _attempt_blocking(
        self, batch: Batch, step: Send, wire: BlockingWire, until: float, sending: _Sending
    ) -> Answer | Failure:
        if self.route.gate is None:
            return self._send_blocking(batch, step, wire, until, sending)
        reply = None
        with closing(self.route.gate.passage()) as passage:
            while True:
                try:
                    what = passage.send(reply)
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]
                reply = None
                if isinstance(what, float):
                    _rest(what, until)
                elif what is None:
                    reply = self._send_blocking(batch, step, wire, until, sending)
                else:
                    reply = wire.send(what, end=self._deadline(until))

    def _deadline(self, until: float) -> float:
        return min(until, time.monotonic() + self.buffer.limits.attempt)

    def _send_blocking(
        self, batch: Batch, step: Send, wire: BlockingWire, until: float, sending: _Sending
    ) -> Answer | Failure:
        end = self._deadline(until)
        request = self.route.request(step)
        self.ledger.requests += 1
        batch.sending = step.records
        try:
            reply = wire.send(request, end=end)
        finally:  # Ctrl-C comes this way, too
            if not wire.has_sent:
                batch.sending = []
        batch.sending = []
        sending.came_back(request, step, reply)
        return reply


class _Sending:
    """The exchange of one batch: what it counts at once, and what is to be reported after that."""

    def __init__(self, courier: Courier, batch: Batch, raised: list[DeliveryError] | None) -> None:
        self._courier = courier
        self._buffer = courier.buffer
        self._ledger = courier.ledger
        self._batch = batch
        self._raised = raised
        self._steps = courier.exchange(batch)
        self._reports: list[Callable[[], object]] = []

    def advance(self, reply: Answer | Failure | None) -> Send | Wait | None:
        """Count what a reply means, then report it; return the next step that takes time."""
        try:
            return onward(self._steps, reply, self._carry_out)
        finally:
            reports, self._reports = self._reports, []
            for report in reports:
                report()
            if self._buffer.watchers:
                self._buffer.notify()

    def came_back(self, request: Request, step: Send, reply: Answer | Failure) -> None:
        """Remember to log an attempt, without anything that is in it."""
        if logger.isEnabledFor(logging.DEBUG):
            url, bytes_ = request.url.partition("?")[0], len(request.content)
            came = reply.error if isinstance(reply, Failure) else f"HTTP {reply.status}"
            text = "POST %s: %d message(s), %d bytes: %s"
            self._reports.append(partial(logger.debug, text, url, len(step.records), bytes_, came))

    def fail(self) -> None:
        """Handle an error of ours, not the network's: keep the messages and log it loudly."""
        self._batch.lane.not_before = self._buffer.clock() + HALTED
        logger.exception("a batch could not be sent")

    def _carry_out(self, step: Step) -> None:
        lane, buffer, reports = self._batch.lane, self._buffer, self._reports
        raised = self._raised
        if isinstance(step, Settle):
            self._settle(step)
        elif isinstance(step, Wait):
            self._ledger.retried += 1
            lane.not_before = max(lane.not_before, buffer.clock() + step.seconds)
            if raised is None:
                reports.append(partial(self._ledger.report, step.error, []))
        elif isinstance(step, Shrink):
            lane.max_bytes = min(lane.max_bytes, step.max_bytes)
        elif isinstance(step, Plain):
            lane.gzip = False
        elif isinstance(step, Halt) and raised is not None:
            raised.append(step.error)
        elif isinstance(step, Halt):
            lane.halted = step.error
            lane.not_before = buffer.clock() + HALTED
            reports.append(partial(self._ledger.report, step.error, []))

    def _settle(self, step: Settle) -> None:
        batch, raised = self._batch, self._raised
        settled = self._buffer.settle(batch, step.records, step.fate, step.reason)
        if step.fate == "delivered":
            if batch.lane.halted is not None:
                batch.lane.halted, batch.lane.not_before = None, 0.0
            if batch.lane.gzip is None and self._courier.is_worth_gzip(batch):
                batch.lane.gzip = True
        elif raised is not None and step.error is not None:
            raised.append(step.error)
        if settled and (step.fate != "delivered" or self._buffer.tells_all):
            announce = self._buffer.announce
            what = (step.records, step.fate, step.reason, step.error)
            self._reports.append(partial(announce, *what, quiet=raised is not None))


def _rest(seconds: float, until: float) -> None:
    left = min(seconds, until - time.monotonic())
    if left > 0:
        time.sleep(left)
