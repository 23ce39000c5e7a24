"""Bring one batch to the server and close the books on it, from a loop or from a plain thread.

The exchange says what to do next; the two drivers here, one async and one blocking, do it.
"""

from __future__ import annotations

import logging
import math
import random
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import anyio

from mixpanel._exchange import (
    Failure,
    Halt,
    Plain,
    Send,
    Settle,
    Shrink,
    Step,
    Wait,
    exchange,
    onward,
)
from mixpanel._wires import Wires, compressed_off_loop, hold_back, let_through

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mixpanel._buffer import Batch, Buffer
    from mixpanel._exchange import Answer, Steps
    from mixpanel._route import AnyRoute, Request
    from mixpanel._wire import BlockingWire
    from mixpanel.exceptions import DeliveryError
    from mixpanel.settings import RetryPolicy

__all__ = ["Courier"]

logger = logging.getLogger("mixpanel")

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

    async def fly(self, batch: Batch, raised: list[DeliveryError] | None = None) -> None:
        """Drive the exchange of one batch; however it ends, nothing stays unaccounted.

        With `raised`, errors are collected there for the caller instead of being reported.
        """
        with self._accounted(batch, raised) as (steps, carry_out):
            step = onward(steps, None, carry_out)
            while step is not None:
                reply = None
                if isinstance(step, Send):
                    # Another batch may have been told to wait; that holds for the whole lane.
                    await hold_back(lambda: batch.lane.not_before - self.buffer.clock())
                    reply = await self._attempt(batch, step)
                else:
                    await anyio.sleep(step.seconds)
                step = onward(steps, reply, carry_out)

    def drive(
        self,
        batch: Batch,
        wire: BlockingWire,
        *,
        raised: list[DeliveryError] | None = None,
        until: float = math.inf,
    ) -> None:
        """Do as `fly`, blocking, and not beyond `until` on the monotonic clock."""
        with self._accounted(batch, raised) as (steps, carry_out):
            step = onward(steps, None, carry_out)
            while step is not None:
                reply = None
                if isinstance(step, Send):
                    _rest(batch.lane.not_before - self.buffer.clock(), until)
                    if time.monotonic() >= until:
                        break
                    reply = self._attempt_blocking(batch, step, wire, until)
                else:
                    _rest(step.seconds, until)
                step = onward(steps, reply, carry_out)

    @contextmanager
    def _accounted(
        self, batch: Batch, raised: list[DeliveryError] | None
    ) -> Iterator[tuple[Steps, Callable[[Step], None]]]:
        """Begin the exchange of a batch, and end it however the driver leaves."""
        try:
            yield self._exchange(batch), lambda step: self._carry_out(batch, step, raised)
        except Exception:  # ours, not the network's: keep the messages and say it loudly
            if raised is not None:
                raise
            logger.exception("a batch could not be sent")
            batch.lane.not_before = self.buffer.clock() + HALTED
        finally:
            self.land(batch, raised)

    def land(self, batch: Batch, raised: list[DeliveryError] | None) -> None:
        """End a batch; for a caller who hears the errors, what is open counts as dropped."""
        if raised is not None:
            self.buffer.settle(batch, batch.open, "dropped", "raised", quiet=True)
        self.buffer.land(batch)
        self._landed()

    def _exchange(self, batch: Batch) -> Steps:
        lane = batch.lane
        return exchange(
            batch.records,
            policy=self.policy,
            clock=self.buffer.clock,
            random=random.random,
            gzip=lane.gzip if self._is_worth_gzip(batch) else False,
            repeat_ambiguous=self._repeat_ambiguous,
            judge=self.route.judge,
        )

    async def _attempt(self, batch: Batch, step: Send) -> Answer | Failure:
        return await let_through(self.route.gate, self._wires, lambda: self._send(batch, step))

    async def _send(self, batch: Batch, step: Send) -> Answer | Failure:
        request = await compressed_off_loop(self.route, step)
        watch = False in [record.repeatable for record in step.records]
        self.ledger.requests += 1
        batch.sending = step.records
        reply = await self._wires.send(request, watch=watch)
        batch.sending = []
        _told(request, step, reply)
        return reply

    def _attempt_blocking(
        self, batch: Batch, step: Send, wire: BlockingWire, until: float
    ) -> Answer | Failure:
        if self.route.gate is None:
            return self._send_blocking(batch, step, wire, until)
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
                    reply = self._send_blocking(batch, step, wire, until)
                else:
                    reply = wire.send(what, end=self._deadline(until))

    def _deadline(self, until: float) -> float:
        return min(until, time.monotonic() + self.buffer.limits.attempt)

    def _send_blocking(
        self, batch: Batch, step: Send, wire: BlockingWire, until: float
    ) -> Answer | Failure:
        self.ledger.requests += 1
        batch.sending = step.records
        end = self._deadline(until)
        request = self.route.request(step)
        reply = wire.send(request, end=end)
        batch.sending = []
        _told(request, step, reply)
        return reply

    def _is_worth_gzip(self, batch: Batch) -> bool:
        if not self.route.takes_gzip(batch.lane.endpoint):
            return False
        few = batch.records[:FEW]
        return len(batch.records) > FEW or sum(len(record.body) for record in few) > ONE_PACKET

    def _carry_out(  # noqa: C901 - a step each
        self, batch: Batch, step: Step, raised: list[DeliveryError] | None = None
    ) -> None:
        lane = batch.lane
        if isinstance(step, Settle):
            if step.fate == "delivered":
                lane.halted = None
                if lane.gzip is None and self._is_worth_gzip(batch):
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


def _told(request: Request, step: Send, reply: Answer | Failure) -> None:
    """Log an attempt, without anything that is in it."""
    if logger.isEnabledFor(logging.DEBUG):
        url, bytes_, count = request.url.partition("?")[0], len(request.content), len(step.records)
        came = reply.error if isinstance(reply, Failure) else f"HTTP {reply.status}"
        logger.debug("POST %s: %d message(s), %d bytes: %s", url, count, bytes_, came)


def _rest(seconds: float, until: float) -> None:
    left = min(seconds, until - time.monotonic())
    if left > 0:
        time.sleep(left)
