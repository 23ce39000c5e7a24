"""Hold messages until they are settled: locked, bounded by count and bytes, one lane an endpoint.

Any thread may put. Whoever takes a batch owns it until each of its records is settled or put
back; the books change in the same breath, so they balance at every moment.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Literal

from mixpanel._ledger import FlushResult, Ledger
from mixpanel.exceptions import AmbiguousDeliveryError, QueueFullError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mixpanel.exceptions import DeliveryError
    from mixpanel.messages import Record
    from mixpanel.settings import Limits, WhenFull

__all__ = ["Batch", "Buffer", "Lane"]

Fate = Literal["delivered", "rejected", "dropped"]
Told = Callable[["Sequence[Record]", Fate, str], object]


class Batch:
    """Some records of one lane on their way; `sending` are those on the wire right now."""

    __slots__ = ("lane", "live", "open", "records", "sending")

    def __init__(self, lane: Lane, records: list[Record]) -> None:
        self.lane = lane
        self.records = records
        self.open = records
        self.sending: list[Record] = []
        self.live = True


class Lane:
    """The messages of one endpoint, in order.

    `wide` requests may be in flight at once: 1 for profiles, so that an old `$set` that is sent
    again never overtakes a newer one. `max_bytes` shrinks when the server says 413;
    `not_before` holds the lane back after a failure, `halted` when only a human can help.
    """

    def __init__(self, endpoint: str, wide: int, max_bytes: int) -> None:
        self.endpoint = endpoint
        self.wide = wide
        self.max_bytes = max_bytes
        self.queue: deque[Record] = deque()
        self.bytes = 0
        self.flights: list[Batch] = []
        self.not_before = 0.0
        self.halted: DeliveryError | None = None
        self.gzip: bool | None = None

    def oldest_seq(self) -> int | None:
        """Return the number of the oldest message that is not settled."""
        heads = [batch.open[0].seq for batch in self.flights if batch.open]
        if self.queue:
            heads.append(self.queue[0].seq)
        return min(heads, default=None)


class Buffer:
    """Keep a consumer's messages, lane by lane, within its limits.

    `wide` names the lanes, and how many requests of each may be in flight; Mixpanel's without.
    `told` hears the fate of every record that came here, once, and why when it is a loss.
    """

    def __init__(
        self,
        limits: Limits,
        ledger: Ledger,
        *,
        when_full: WhenFull = "drop_newest",
        clock: Callable[[], float] = time.monotonic,
        wide: Mapping[str, int] | None = None,
        told: Told | None = None,
    ) -> None:
        self.limits = limits
        parallel = limits.in_flight
        self._wide = wide or {"events": parallel, "imports": parallel, "people": 1, "groups": 1}
        self.ledger = ledger
        self._told = told
        self.when_full = when_full
        self.clock = clock
        self.watchers: set[Callable[[], None]] = set()
        self.clear()

    def clear(self) -> None:
        """Forget everything without settling it: what a forked child does with a copy."""
        self.ledger.lock = self.lock = threading.RLock()
        self.ledger.clear()
        self.bytes = 0
        self.flush_mark = 0
        self.watchers.clear()
        self.lanes = {
            endpoint: Lane(endpoint, wide, self.limits.batch_bytes)
            for endpoint, wide in self._wide.items()
        }

    # ---- in ---------------------------------------------------------------------------------

    def put(self, record: Record) -> bool | None:
        """Accept a record; tell whether somebody should look. None: full, and the mode is "wait".

        :raises QueueFullError: when full and the mode is "raise".
        """
        size = len(record.body)
        ledger, limits = self.ledger, self.limits
        gone: tuple[Record, ...] = ()
        with self.lock:
            if ledger.pending >= limits.queue_records or self.bytes + size > limits.queue_bytes:
                reason, gone = self._make_room(record, size)
                if reason == "wait":
                    return None
            if gone == (record,):
                ledger.left_out(reason)
                signal = False
            else:
                lane = self.lanes[record.endpoint]
                ledger.pending += 1
                record.seq = ledger.accepted = ledger.accepted + 1
                record.at = self.clock()
                queue, before, most = lane.queue, lane.bytes, lane.max_bytes
                queue.append(record)
                lane.bytes = before + size
                self.bytes += size
                waiting = len(queue)
                # Once for each batch that is full: whoever looks takes all that is due.
                signal = (
                    waiting == 1
                    or waiting % limits.batch_records == 0
                    or (before + size) // most != before // most
                )
        if gone:
            ledger.report_drop(reason, list(gone))
            self._tell(gone, "dropped", reason)
        return signal

    def ensure_room(self, records: list[Record]) -> None:
        """See to it that all of these fit, when the mode is "raise"; in any other, do nothing.

        :raises QueueFullError: when they do not.
        """
        if self.when_full != "raise":
            return
        limits, size = self.limits, sum([len(record.body) for record in records])
        with self.lock:
            if (
                self.ledger.pending + len(records) > limits.queue_records
                or self.bytes + size > limits.queue_bytes
            ):
                raise self._full(f"none of {len(records):,} was accepted: ")

    def _full(self, what: str = "") -> QueueFullError:
        limits, pending = self.limits, self.ledger.pending
        return QueueFullError(
            f"{what}{pending:,} messages ({self.bytes:,} bytes) are waiting; the limits are "
            f"{limits.queue_records:,} messages and {limits.queue_bytes:,} bytes"
        )

    def _make_room(self, record: Record, size: int) -> tuple[str, tuple[Record, ...]]:
        """Return why and which messages must go: the new one, older ones, or none yet ("wait")."""
        limits = self.limits
        if size > limits.queue_bytes:
            return "too_large", (record,)
        if self.when_full == "raise":
            raise self._full()
        if self.when_full == "wait":
            return "wait", ()
        if self.when_full == "drop_newest":
            return "queue_full", (record,)
        gone: list[Record] = []
        while self.ledger.pending >= limits.queue_records or self.bytes + size > limits.queue_bytes:
            heads = [lane for lane in self.lanes.values() if lane.queue]
            if not heads:
                break  # all of it is in flight; a few more than the limit may wait meanwhile
            lane = min(heads, key=lambda lane: lane.queue[0].seq)
            oldest = lane.queue.popleft()
            lane.bytes -= len(oldest.body)
            self._settled([oldest], "dropped", "queue_full")
            gone.append(oldest)
        return "queue_full", tuple(gone)

    # ---- out --------------------------------------------------------------------------------

    def take(self, *, everything: bool = False) -> Batch | None:
        """Take the next batch that is due; with `everything`, whatever waits is due."""
        now = self.clock()
        with self.lock:
            for lane in self.lanes.values():
                if self._is_due(lane, now, everything=everything):
                    batch = Batch(lane, self._pack(lane))
                    lane.flights.append(batch)
                    return batch
        return None

    def is_due(self) -> bool:
        """Tell whether a batch could be taken now."""
        now = self.clock()
        with self.lock:
            return any(self._is_due(lane, now, everything=False) for lane in self.lanes.values())

    def _is_due(self, lane: Lane, now: float, *, everything: bool) -> bool:
        queue = lane.queue
        if not queue or len(lane.flights) >= lane.wide or now < lane.not_before:
            return False
        if everything or queue[0].seq <= self.flush_mark:
            return True
        if len(queue) >= self.limits.batch_records or lane.bytes >= lane.max_bytes:
            return True
        age = self.limits.flush_after
        return age is not None and now - queue[0].at >= age

    def next_look(self) -> float | None:
        """Return the seconds until a lane becomes due by itself; None when none will."""
        now = self.clock()
        waits = []
        with self.lock:
            for lane in self.lanes.values():
                if not lane.queue or len(lane.flights) >= lane.wide:
                    continue
                at = lane.not_before
                if not (
                    lane.queue[0].seq <= self.flush_mark
                    or len(lane.queue) >= self.limits.batch_records
                    or lane.bytes >= lane.max_bytes
                ):
                    if self.limits.flush_after is None:
                        continue
                    at = max(at, lane.queue[0].at + self.limits.flush_after)
                waits.append(max(0.0, at - now))
        return min(waits, default=None)

    def _pack(self, lane: Lane) -> list[Record]:
        queue = lane.queue
        room = whole = lane.max_bytes - 1  # the brackets, less one comma
        auth, endpoint, count = queue[0].auth, queue[0].endpoint, 0
        for record in islice(queue, self.limits.batch_records):
            left = room - len(record.body) - 1
            # Whether they are the very same first: each message is looked at, nearly all are.
            if left < 0 or record.auth is not auth or record.endpoint is not endpoint:
                other = record.auth != auth or record.endpoint != endpoint
                if count and (left < 0 or other):
                    break
            room = left
            count += 1
        lane.bytes -= whole - room - count
        return [queue.popleft() for _ in range(count)]

    # ---- settling ---------------------------------------------------------------------------

    def settle(
        self,
        batch: Batch,
        records: list[Record],
        fate: Fate,
        reason: str = "",
        error: DeliveryError | None = None,
        *,
        quiet: bool = False,
    ) -> None:
        """Close the books on some records of a batch; `quiet` when the caller hears of it."""
        with self.lock:
            if not batch.live or not records:
                return
            if records is batch.open or len(records) == len(batch.open):
                batch.open = []
            else:
                gone = {id(record) for record in records}
                batch.open = [record for record in batch.open if id(record) not in gone]
            self._settled(records, fate, reason)
        if error is not None and not quiet:
            self.ledger.report(error, records)
        if fate == "dropped" and not quiet:
            self.ledger.report_drop(reason, records)
        self._tell(records, fate, reason or str(error or ""))
        self._notify()

    def _settled(self, records: Iterable[Record], fate: Fate, reason: str) -> None:
        lengths = [len(record.body) for record in records]
        count = len(lengths)
        self.bytes -= sum(lengths)
        ledger = self.ledger
        ledger.pending -= count
        if fate == "delivered":
            ledger.delivered += count
        elif fate == "rejected":
            ledger.rejected += count
        else:
            ledger.dropped[reason] += count

    def land(self, batch: Batch) -> None:
        """End a batch: what is still open goes back to the head of its lane, in order.

        Records that were on the wire without an answer and are not safe to repeat are dropped as
        ambiguous instead.
        """
        with self.lock:
            if not batch.live:
                return
            on_wire = {id(record) for record in batch.sending}
            doubtful = [r for r in batch.open if not r.repeatable and id(r) in on_wire]
            if not doubtful:
                self._put_back(batch)
        if doubtful:
            error = AmbiguousDeliveryError(
                f"{len(doubtful)} update(s) were cut off while being sent; they may have been "
                "applied and are not safe to repeat",
                endpoint=batch.lane.endpoint,
            )
            self.settle(batch, doubtful, "dropped", "ambiguous", error)
            with self.lock:
                if batch.live:
                    self._put_back(batch)
        self._notify()

    def _put_back(self, batch: Batch) -> None:
        lane = batch.lane
        for record in reversed(batch.open):
            lane.queue.appendleft(record)
            lane.bytes += len(record.body)
        batch.open = batch.sending = []
        batch.live = False
        lane.flights.remove(batch)

    def reclaim(self) -> None:
        """Land every flight whose owner will not come back, as when its loop is gone."""
        for lane in self.lanes.values():
            for batch in list(lane.flights):
                self.land(batch)

    def give_up(self, reason: str) -> None:
        """Drop everything that is still here, counted under one reason."""
        self.reclaim()
        with self.lock:
            gone = [record for lane in self.lanes.values() for record in lane.queue]
            for lane in self.lanes.values():
                lane.queue.clear()
                lane.bytes = 0
            if gone:
                self._settled(gone, "dropped", reason)
        if gone:
            self.ledger.report_drop(reason, gone)
            self._tell(gone, "dropped", reason)
        self._notify()

    def direct(self, records: list[Record]) -> list[Batch]:
        """Count records that skip the queue, and return them as batches in flight."""
        batches: list[Batch] = []
        with self.lock:
            for record in records:
                self.ledger.accepted += 1
                self.ledger.pending += 1
                self.bytes += len(record.body)
                record.seq = self.ledger.accepted
                record.at = self.clock()
            waiting = Lane("events", 1, self.limits.batch_bytes)
            waiting.queue.extend(records)
            while waiting.queue:
                lane = self.lanes[waiting.queue[0].endpoint]
                waiting.max_bytes = lane.max_bytes
                batch = Batch(lane, self._pack(waiting))
                lane.flights.append(batch)
                batches.append(batch)
        return batches

    def flying(self) -> bool:
        """Tell whether any batch is in flight."""
        return any(lane.flights for lane in self.lanes.values())

    def hurry(self) -> None:
        """Lift every pause: this is the last chance."""
        for lane in self.lanes.values():
            if lane.halted is None:
                lane.not_before = 0.0

    # ---- waiting ----------------------------------------------------------------------------

    def mark(self) -> int:
        """Make everything accepted so far due, and return the number to wait for."""
        with self.lock:
            self.flush_mark = self.ledger.accepted
            for lane in self.lanes.values():
                if lane.halted is not None:
                    lane.halted, lane.not_before = None, 0.0
            return self.flush_mark

    def waiting_for(self, mark: int) -> bool:
        """Tell whether messages up to `mark` are still open in lanes that are not halted."""
        with self.lock:
            for lane in self.lanes.values():
                oldest = lane.oldest_seq()
                if oldest is not None and oldest <= mark and lane.halted is None:
                    return True
        return False

    def result_since(self, before: tuple[int, int, dict[str, int]]) -> FlushResult:
        """Return what was settled since `snapshot()` gave `before`."""
        with self.lock:
            delivered, rejected, dropped = before
            ledger = self.ledger
            gone = {k: n - dropped.get(k, 0) for k, n in ledger.dropped.items()}
            errors, ledger.recent = tuple(ledger.recent), []
            return FlushResult(
                ledger.delivered - delivered,
                ledger.rejected - rejected,
                {reason: count for reason, count in gone.items() if count},
                ledger.pending,
                errors,
            )

    def snapshot(self) -> tuple[int, int, dict[str, int]]:
        """Return the counts that `result_since` compares with."""
        with self.lock:
            ledger = self.ledger
            ledger.recent = []
            return ledger.delivered, ledger.rejected, dict(ledger.dropped)

    def _tell(self, records: Sequence[Record], fate: Fate, reason: str) -> None:
        if self._told is not None:
            self._told(records, fate, reason)

    def _notify(self) -> None:
        for watcher in tuple(self.watchers):
            watcher()
