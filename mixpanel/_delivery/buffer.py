"""Hold messages until they are settled: locked, bounded by count and bytes, one lane an endpoint.

Any thread may put. Whoever takes a batch owns it until each of its records is settled or put
back; the counts change together with the records, so they balance at every moment.

Three things make that hold for code that is interrupted anywhere:

- A batch is in its taker's `Claim` before it leaves the queue, and the taker gives back what its
  claim holds in a `finally`. A task that is cancelled before its first step has taken nothing.
- A batch also knows the loop or thread that sends it. When that has died, it is taken back.
- A signal handler or finalizer may put a message while its own thread is inside a critical section
  here. Such a message waits in `_deferred` until the lock is released. CPython runs handlers only
  after calls and at jumps, so changes that belong together stand in lines without either; should an
  exception strike there all the same, everything is counted anew from the records themselves.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from threading import get_ident
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar, cast

from mixpanel._delivery.stats import DeliveryStats, FlushResult
from mixpanel.exceptions import AmbiguousDeliveryError, ClosedError, QueueFullError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mixpanel._records.record import Record
    from mixpanel.exceptions import DeliveryError
    from mixpanel.settings import Limits, WhenFull

__all__ = ["Batch", "Buffer", "Claim", "EndpointQueue"]

Fate = Literal["delivered", "rejected", "dropped"]
OnOutcome = Callable[["Sequence[Record]", Fate, str], object]


P = ParamSpec("P")
R = TypeVar("R")


class Claim:
    """Who takes a batch: whether the loop or thread that will send it lives, and then the batch."""

    __slots__ = ("batch", "owner_is_alive")

    def __init__(self, owner_is_alive: Callable[[], bool]) -> None:
        self.owner_is_alive = owner_is_alive
        self.batch: Batch | None = None


class Batch:
    """Some records of one lane on their way; `sending` are those on the wire right now."""

    __slots__ = ("live", "open", "owner_is_alive", "queue", "records", "sending")

    def __init__(
        self, queue: EndpointQueue, records: list[Record], owner_is_alive: Callable[[], bool]
    ) -> None:
        self.queue = queue
        self.records = records
        self.open = records
        self.sending: list[Record] = []
        self.owner_is_alive = owner_is_alive
        self.live = False  # until it is among its lane's flights, and again when it has landed


class EndpointQueue:
    """The messages of one endpoint, in order.

    `wide` requests may be in flight at once: 1 for profiles, so that an old `$set` that is sent
    again never overtakes a newer one. `max_bytes` shrinks when the server says 413;
    `paused_until` holds the lane back after a failure, `paused_by` when only a human can help.
    """

    def __init__(self, endpoint: str, max_in_flight: int, max_bytes: int) -> None:
        self.endpoint = endpoint
        self.max_in_flight = max_in_flight
        self.max_bytes = max_bytes
        self.unsent: deque[Record] = deque()
        self.bytes = 0
        self.in_flight: list[Batch] = []
        self.paused_until = 0.0
        self.paused_by: DeliveryError | None = None
        self.gzip: bool | None = None

    def oldest_sequence(self) -> int | None:
        """Return the number of the oldest message that is not settled."""
        heads = [batch.open[0].sequence for batch in self.in_flight if batch.open]
        if self.unsent:
            heads.append(self.unsent[0].sequence)
        return min(heads, default=None)


def _locked(
    method: Callable[Concatenate[Buffer, P], R],
) -> Callable[Concatenate[Buffer, P], R]:
    """Run a method under the lock; see the top of this file for what comes before and after."""

    @functools.wraps(method)
    def locked(self: Buffer, *args: P.args, **kwargs: P.kwargs) -> R:
        outer = 0
        try:
            with self.lock:
                outer, self._inside = self._inside, get_ident()
                result = method(self, *args, **kwargs)
                self._inside = outer
        except BaseException as error:
            self._inside = outer
            if not isinstance(error, QueueFullError):
                self._recount()
            raise
        finally:
            if self._deferred and not self._putting_deferred and not self.is_held_here():
                self._put_deferred()
        return result

    return cast("Callable[Concatenate[Buffer, P], R]", locked)


class Buffer:
    """Keep a consumer's messages, lane by lane, within its limits.

    `wide` names the lanes, and how many requests of each may be in flight; Mixpanel's without.
    `told` hears the fate of every record that came here, once, and why when it is a loss.
    """

    def __init__(
        self,
        limits: Limits,
        stats: DeliveryStats,
        *,
        when_full: WhenFull = "drop_newest",
        clock: Callable[[], float] = time.monotonic,
        max_in_flight: Mapping[str, int] | None = None,
        on_outcome: OnOutcome | None = None,
    ) -> None:
        self.limits = limits
        parallel = limits.concurrency
        self._max_in_flight = max_in_flight or {
            "events": parallel,
            "imports": parallel,
            "people": 1,
            "groups": 1,
        }
        self.stats = stats
        self._on_outcome = on_outcome
        self.when_full = when_full
        self.clock = clock
        self.watchers: set[Callable[[], None]] = set()
        self.clear()

    def clear(self) -> None:
        """Forget everything without settling it: what a forked child does with a copy."""
        self._deferred: deque[Record] = deque()
        self._putting_deferred = False
        self.stats.lock = self.lock = threading.RLock()
        self.is_held_here: Callable[[], bool] = self.lock._is_owned  # type: ignore[attr-defined]
        self._inside = 0  # the thread that is changing the lanes, under the lock
        self.stats.deferred = self._deferred
        self.stats.clear()
        self.bytes = 0
        self.shut: Literal["closed", "exit"] | None = None
        self._max_queue_size = self.limits.max_queue_size
        self.flush_marker = 0
        self.watchers.clear()
        self.queues = {
            endpoint: EndpointQueue(endpoint, max_in_flight, self.limits.max_batch_bytes)
            for endpoint, max_in_flight in self._max_in_flight.items()
        }

    # ---- in ---------------------------------------------------------------------------------

    def put(self, record: Record) -> bool | None:
        """Accept a record; return True if somebody should look for a batch that is due.

        None means that the buffer is full and the mode is "wait". May be called anywhere: in any
        thread, in a signal handler, in a finalizer.

        :raises QueueFullError: when full and the mode is "raise".
        :raises ClosedError: when the buffer was shut because its client was closed.
        """
        size = len(record.body)
        stats, limits = self.stats, self.limits
        if self.is_held_here():
            # A signal handler or a finalizer interrupted this very thread inside the lock.
            self._deferred.append(record)
            return True
        reason = ""
        gone: tuple[Record, ...] = ()
        signal = False
        try:
            with self.lock:
                if (
                    stats.pending >= self._max_queue_size
                    or self.bytes + size > limits.max_queue_bytes
                ):
                    reason, gone = self._make_room(record, size)
                    if reason == "wait":
                        return None
                if not gone or gone[0] is not record:
                    queue = self.queues[record.endpoint]
                    unsent, most, max_batch_size = (
                        queue.unsent,
                        queue.max_bytes,
                        limits.max_batch_size,
                    )
                    record.enqueued_at = self.clock()
                    waiting, before = len(unsent) + 1, queue.bytes
                    # From here to the append no call and no jump: see the top of this file.
                    record.sequence = stats.accepted = stats.accepted + 1
                    stats.pending += 1
                    queue.bytes = before + size
                    self.bytes += size
                    unsent.append(record)
                    # Once for each batch that is full: whoever looks takes all that is due.
                    signal = (
                        waiting == 1
                        or waiting % max_batch_size == 0
                        or (before + size) // most != before // most
                    )
        except (QueueFullError, ClosedError):
            raise
        except BaseException:
            self._recount()
            raise
        if self._deferred and not self._putting_deferred:
            self._put_deferred()
        if gone:
            if gone[0] is record:
                stats.left_out(reason)
            stats.report_drop(reason, list(gone))
            self._report_outcome(gone, "dropped", reason)
        return signal

    def _put_deferred(self) -> None:
        """Put what signal handlers and finalizers brought while this thread held the lock."""
        self._putting_deferred = True
        try:
            while self._deferred:
                try:
                    record = self._deferred.popleft()
                except IndexError:  # another thread was faster
                    return
                self._put_late(record)
        finally:
            self._putting_deferred = False

    def _put_late(self, record: Record) -> None:
        reason = "queue_full"
        try:
            if self.put(record) is not None:
                return
        except QueueFullError:
            pass
        except ClosedError:
            reason = "closed"
        except BaseException:  # of one more signal handler
            if not record.sequence:
                self._deferred.appendleft(record)
            raise
        # Nobody is there to wait for room, or to hear of an error.
        self._leave_out([record], reason)

    def _leave_out(self, records: list[Record], reason: str) -> None:
        self.stats.left_out(reason, len(records))
        self.stats.report_drop(reason, records)
        self._report_outcome(records, "dropped", reason)

    def _recount(self) -> None:
        """Count everything anew, after an exception that may have struck between two changes."""
        with self.lock:
            stats, count, size = self.stats, 0, 0
            for queue in self.queues.values():
                for batch in queue.in_flight:
                    batch.live = True
                in_flight = [record for batch in queue.in_flight for record in batch.open]
                taken = {id(record) for record in in_flight}
                queue.unsent = deque([record for record in queue.unsent if id(record) not in taken])
                queue.bytes = sum([len(record.body) for record in queue.unsent])
                count += len(queue.unsent) + len(in_flight)
                size += queue.bytes + sum([len(record.body) for record in in_flight])
            settled = stats.delivered + stats.rejected + sum(stats.dropped.values())
            self.bytes, stats.pending, stats.accepted = size, count, settled + count

    @_locked
    def ensure_room(self, records: list[Record]) -> None:
        """See to it that all of these fit, when the mode is "raise"; in any other, do nothing.

        :raises QueueFullError: when they do not.
        """
        if self.when_full != "raise":
            return
        limits, size = self.limits, sum([len(record.body) for record in records])
        if (
            self.stats.pending + len(records) > limits.max_queue_size
            or self.bytes + size > limits.max_queue_bytes
        ):
            raise self._full(f"none of {len(records):,} was accepted: ")

    def _full(self, what: str = "") -> QueueFullError:
        limits, pending = self.limits, self.stats.pending
        return QueueFullError(
            f"{what}{pending:,} messages ({self.bytes:,} bytes) are waiting; the limits are "
            f"{limits.max_queue_size:,} messages and {limits.max_queue_bytes:,} bytes"
        )

    @_locked
    def _make_room(self, record: Record, size: int) -> tuple[str, tuple[Record, ...]]:
        """Return why and which messages must go: the new one, older ones, or none yet ("wait")."""
        limits = self.limits
        if self.shut == "closed":
            raise ClosedError("the client is closed: this message was not accepted")
        if self.shut is not None:
            return self.shut, (record,)
        if size > limits.max_queue_bytes:
            return "too_large", (record,)
        if self.when_full == "raise":
            raise self._full()
        if self.when_full == "wait":
            return "wait", ()
        if self.when_full == "drop_newest":
            return "queue_full", (record,)
        gone: list[Record] = []
        while (
            self.stats.pending >= limits.max_queue_size
            or self.bytes + size > limits.max_queue_bytes
        ):
            heads = [queue for queue in self.queues.values() if queue.unsent]
            if not heads:
                break  # all of it is in flight; a few more than the limit may wait meanwhile
            queue = min(heads, key=lambda queue: queue.unsent[0].sequence)
            oldest = queue.unsent[0]
            gone.append(oldest)
            length, dropped = len(oldest.body), self.stats.dropped
            dropped.setdefault("queue_full", 0)
            queue.bytes -= length
            self.bytes -= length
            self.stats.pending -= 1
            dropped["queue_full"] += 1
            queue.unsent.popleft()
        return "queue_full", tuple(gone)

    # ---- out --------------------------------------------------------------------------------

    def take(self, claim: Claim, *, everything: bool = False) -> Batch | None:
        """Take the next batch that is due into a claim; with `everything`, whatever waits is due.

        None too for code that interrupted this very thread inside the buffer.
        """
        if self._inside == get_ident():
            return None
        self.reclaim(dead_only=True)
        return self._take(claim, everything=everything)

    @_locked
    def _take(self, claim: Claim, *, everything: bool) -> Batch | None:
        now = self.clock()
        for queue in self.queues.values():
            if self._is_due(queue, now, everything=everything):
                return self._take_from(queue, claim)
        return None

    def _take_from(self, queue: EndpointQueue, claim: Claim) -> Batch:
        records, size = self._pack(queue.unsent, queue.max_bytes)
        batch = Batch(queue, records, claim.owner_is_alive)
        left = deque(islice(queue.unsent, len(records), None))
        in_flight = [*queue.in_flight, batch]
        claim.batch = batch
        queue.in_flight = in_flight
        batch.live = True
        queue.unsent = left
        queue.bytes -= size
        return batch

    def due(self) -> int:
        """Return how many batches may be taken now, at least."""
        if self._inside == get_ident():
            return 0
        self.reclaim(dead_only=True)
        return self._due()

    @_locked
    def _due(self) -> int:
        now, count = self.clock(), 0
        limits = self.limits
        for queue in self.queues.values():
            if self._is_due(queue, now, everything=False):
                full = max(
                    len(queue.unsent) // limits.max_batch_size, queue.bytes // queue.max_bytes
                )
                count += min(max(full, 1), queue.max_in_flight - len(queue.in_flight))
        return count

    def _is_due(self, queue: EndpointQueue, now: float, *, everything: bool) -> bool:
        unsent = queue.unsent
        if not unsent or len(queue.in_flight) >= queue.max_in_flight or now < queue.paused_until:
            return False
        if everything or unsent[0].sequence <= self.flush_marker:
            return True
        if len(unsent) >= self.limits.max_batch_size or queue.bytes >= queue.max_bytes:
            return True
        age = self.limits.flush_after
        return age is not None and now - unsent[0].enqueued_at >= age

    @_locked
    def next_look(self) -> float | None:
        """Return the seconds until a lane becomes due by itself; None when none will."""
        now = self.clock()
        waits = []
        for queue in self.queues.values():
            if not queue.unsent or len(queue.in_flight) >= queue.max_in_flight:
                continue
            at = queue.paused_until
            if not (
                queue.unsent[0].sequence <= self.flush_marker
                or len(queue.unsent) >= self.limits.max_batch_size
                or queue.bytes >= queue.max_bytes
            ):
                if self.limits.flush_after is None:
                    continue
                at = max(at, queue.unsent[0].enqueued_at + self.limits.flush_after)
            waits.append(max(0.0, at - now))
        return min(waits, default=None)

    def _pack(self, unsent: Iterable[Record], most_bytes: int) -> tuple[list[Record], int]:
        """Return the first records of a queue that fit one request, and the sum of their bytes."""
        waiting = list(islice(unsent, self.limits.max_batch_size))
        first = waiting[0]
        auth, endpoint, count = first.auth, first.endpoint, 0
        room = whole = most_bytes - 1  # the brackets, less one comma
        for record in waiting:
            left = room - len(record.body) - 1
            # Whether they are the very same first: each message is looked at, nearly all are.
            if left < 0 or record.auth is not auth or record.endpoint is not endpoint:
                other = record.auth != auth or record.endpoint != endpoint
                if count and (left < 0 or other):
                    break
            room = left
            count += 1
        del waiting[count:]
        return waiting, whole - room - count

    # ---- settling ---------------------------------------------------------------------------

    @_locked
    def settle(
        self,
        batch: Batch,
        records: list[Record],
        fate: Fate,
        reason: str = "",
    ) -> bool:
        """Count what became of some records of a batch; return False if it was taken away.

        This runs no code of the user's; `announce` does, once everything is counted.
        """
        if not batch.live or not records:
            return False
        if records is batch.open or len(records) == len(batch.open):
            left = []
        else:
            gone = {id(record) for record in records}
            left = [record for record in batch.open if id(record) not in gone]
        count, size = len(records), sum([len(record.body) for record in records])
        stats, dropped = self.stats, self.stats.dropped
        if fate == "dropped":
            dropped.setdefault(reason, 0)
        batch.open = left
        self.bytes -= size
        stats.pending -= count
        if fate == "delivered":
            stats.delivered += count
        elif fate == "rejected":
            stats.rejected += count
        else:
            dropped[reason] += count
        return True

    def announce(
        self,
        records: Sequence[Record],
        fate: Fate,
        reason: str = "",
        error: DeliveryError | None = None,
        *,
        quiet: bool = False,
    ) -> None:
        """Report what became of settled records; `quiet` when the caller hears of it otherwise."""
        if error is not None and not quiet:
            self.stats.report(error, records)
        if fate == "dropped" and not quiet:
            self.stats.report_drop(reason, records)
        self._report_outcome(records, fate, reason or str(error or ""))

    def finish(self, batch: Batch) -> None:
        """End a batch: what is still open goes back to the head of its lane, in order.

        Records that were on the wire without an answer and are not safe to repeat are dropped as
        ambiguous instead.
        """
        doubtful = self._finish(batch)
        if doubtful:
            error = AmbiguousDeliveryError(
                f"{len(doubtful)} update(s) were cut off while being sent; they may have been "
                "applied and are not safe to repeat",
                endpoint=batch.queue.endpoint,
            )
            self.announce(doubtful, "dropped", "ambiguous", error)
        self.notify()

    @_locked
    def _finish(self, batch: Batch) -> list[Record]:
        if not batch.live:
            return []
        on_wire = {id(record) for record in batch.sending}
        doubtful = [r for r in batch.open if not r.repeatable and id(r) in on_wire]
        if doubtful:
            self.settle(batch, doubtful, "dropped", "ambiguous")
        queue, nothing = batch.queue, list[Any]()
        unsent, size = queue.unsent, 0
        if batch.open:
            unsent = deque([*batch.open, *unsent])
            size = sum([len(record.body) for record in batch.open])
        in_flight = [one for one in queue.in_flight if one is not batch]
        queue.unsent = unsent
        queue.in_flight = in_flight
        batch.live = False
        queue.bytes += size
        batch.open = batch.sending = nothing
        return doubtful

    def reclaim(self, *, dead_only: bool = False) -> None:
        """Take back every batch in flight; with `dead_only`, those whose loop or thread is gone."""
        for queue in self.queues.values():
            for batch in queue.in_flight:  # a list that is replaced, never changed
                if not (dead_only and batch.owner_is_alive()):
                    self.finish(batch)

    def drop_all(self, reason: str, shut: Literal["closed", "exit"] | None = None) -> None:
        """Drop everything that is still here, counted under one reason.

        With `shut`, nothing is accepted from then on: "closed" refuses it, "exit" counts it as
        dropped.
        """
        self.reclaim()
        gone = self._drop_all(reason, shut)
        if gone:
            self.announce(gone, "dropped", reason)
        self.notify()

    @_locked
    def _drop_all(self, reason: str, shut: Literal["closed", "exit"] | None) -> list[Record]:
        gone = [record for queue in self.queues.values() for record in queue.unsent]
        size, count = sum([len(record.body) for record in gone]), len(gone)
        stats, dropped = self.stats, self.stats.dropped
        if gone:
            dropped.setdefault(reason, 0)
        if shut is not None:
            self.shut, self._max_queue_size = shut, -1
        for queue in self.queues.values():
            queue.unsent, queue.bytes = deque(), 0
        if gone:
            self.bytes -= size
            stats.pending -= count
            dropped[reason] += count
        return gone

    @_locked
    def direct(
        self, records: list[Record], claims: list[Claim], owner_is_alive: Callable[[], bool]
    ) -> None:
        """Count records that skip the queue, and put them into claims as batches in flight."""
        now = self.clock()
        waiting = deque(records)
        for record in records:
            record.enqueued_at = now
        while waiting:
            queue = self.queues[waiting[0].endpoint]
            packed, size = self._pack(waiting, queue.max_bytes)
            waiting = deque(islice(waiting, len(packed), None))
            claim, count, stats = Claim(owner_is_alive), len(packed), self.stats
            claim.batch = batch = Batch(queue, packed, owner_is_alive)
            for at, record in enumerate(packed, stats.accepted + 1):
                record.sequence = at
            in_flight = [*queue.in_flight, batch]
            claims.append(claim)
            stats.accepted += count
            stats.pending += count
            self.bytes += size
            queue.in_flight = in_flight
            batch.live = True

    def has_in_flight(self) -> bool:
        """Return True if any batch is in flight."""
        return any(queue.in_flight for queue in self.queues.values())

    def clear_pauses(self) -> None:
        """Lift every pause: this is the last chance."""
        for queue in self.queues.values():
            if queue.paused_by is None:
                queue.paused_until = 0.0

    # ---- waiting ----------------------------------------------------------------------------

    @_locked
    def mark_for_flush(self) -> int:
        """Make everything accepted so far due, and return the number to wait for."""
        self.flush_marker = self.stats.accepted
        for queue in self.queues.values():
            if queue.paused_by is not None:
                queue.paused_by, queue.paused_until = None, 0.0
        return self.flush_marker

    @_locked
    def waiting_for(self, mark: int) -> bool:
        """Tell whether messages up to `mark` are still open in lanes that are not halted."""
        for queue in self.queues.values():
            oldest = queue.oldest_sequence()
            if oldest is not None and oldest <= mark and queue.paused_by is None:
                return True
        return False

    @_locked
    def result_since(self, before: tuple[int, int, dict[str, int]]) -> FlushResult:
        """Return what was settled since `snapshot()` gave `before`."""
        delivered, rejected, dropped = before
        stats = self.stats
        gone = {k: n - dropped.get(k, 0) for k, n in stats.dropped.items()}
        errors, stats.recent = tuple(stats.recent), []
        return FlushResult(
            stats.delivered - delivered,
            stats.rejected - rejected,
            {reason: count for reason, count in gone.items() if count},
            stats.pending,
            errors,
        )

    @_locked
    def snapshot(self) -> tuple[int, int, dict[str, int]]:
        """Return the counts that `result_since` compares with."""
        stats = self.stats
        stats.recent = []
        return stats.delivered, stats.rejected, dict(stats.dropped)

    def count_captured(self, records: Sequence[Record]) -> None:
        """Count messages that a test captured before they were queued, and report their outcome."""
        self.stats.count_captured(len(records))
        self._report_outcome(records, "delivered", "")

    def _report_outcome(self, records: Sequence[Record], fate: Fate, reason: str) -> None:
        if self._on_outcome is not None:
            self._on_outcome(records, fate, reason)

    @property
    def reports_deliveries(self) -> bool:
        """Return True if somebody wants to hear of deliveries, too."""
        return self._on_outcome is not None

    def notify(self) -> None:
        """Wake whoever waits for room, or for messages to be settled."""
        for watcher in tuple(self.watchers):
            watcher()
