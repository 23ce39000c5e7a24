"""Hold messages until they are settled: one queue per endpoint, bounded by count and bytes.

Any thread may put a message. The owner of a batch keeps it until each of its records is settled or
back in the queue. These invariants hold whenever the lock is free:

- A message is in exactly one place: the `unsent` of its queue, the `unsettled` of one batch that is
  in flight, or counted as settled.
- `accepted == delivered + rejected + sum(dropped) + pending`, and `pending` is the number of
  messages in the queues and batches; `bytes` is the sum of their bodies.
- A queue with one batch in flight at a time (profiles) keeps its messages in order: what a batch
  gives back goes to the head of the queue.

Code may be interrupted anywhere, by cancellation, Ctrl-C, a signal handler or a finalizer. Three
rules keep the invariants:

- A batch is in its owner's `Claim` before it leaves the queue, and the owner gives back what its
  claim holds in a `finally`. A task that is cancelled before its first step has taken nothing.
- A batch knows the event loop or thread that sends it. When that is gone, the batch is reclaimed.
- A signal handler or finalizer may put a message while its own thread is inside a critical section
  here, which `stats.changing` marks. Such a message waits in `_deferred` until the section is over.
  CPython runs handlers only after calls and at jumps, so changes that belong together are in lines
  without calls and jumps.
  If an exception (of a handler) strikes between them nevertheless, `_recount` derives all counts
  from the records themselves.
"""

from __future__ import annotations

import functools
import sys
import time
from collections import deque
from collections.abc import Callable
from itertools import islice, repeat
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar, cast

from mixpanel._delivery.stats import DeliveryStats, FlushResult
from mixpanel._runtime import native_threads
from mixpanel._runtime.import_lock import import_lock
from mixpanel.exceptions import AmbiguousDeliveryError, ClosedError, QueueFullError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mixpanel._delivery.health import Health, QueueHealth, QueueState, SpoolHealth
    from mixpanel._delivery.observer import Observer
    from mixpanel._records.record import Record
    from mixpanel.exceptions import DeliveryError
    from mixpanel.settings import Limits, WhenFull

__all__ = ["Batch", "Buffer", "Claim", "EndpointQueue", "locked"]

Fate = Literal["delivered", "rejected", "dropped"]
OnOutcome = Callable[["Sequence[Record]", Fate, str], object]


B = TypeVar("B", bound="Buffer")
P = ParamSpec("P")
R = TypeVar("R")


class Claim:
    """A place for one batch, made by its owner before it is taken.

    `owner_is_alive` returns False when the event loop or thread that sends it is gone.
    """

    __slots__ = ("batch", "owner_is_alive")

    def __init__(self, owner_is_alive: Callable[[], bool]) -> None:
        self.owner_is_alive = owner_is_alive
        self.batch: Batch | None = None


class Batch:
    """Records of one queue in flight.

    `unsettled` are those without an outcome, `sending` those in a request whose response has not
    come: cut off now, they may or may not have been applied. `bytes` is the sum of the bodies of
    `unsettled`. `live` is True while the batch is among its queue's `in_flight`: a batch that was
    reclaimed settles nothing any more.
    """

    __slots__ = ("bytes", "live", "owner_is_alive", "queue", "records", "sending", "unsettled")

    def __init__(
        self,
        queue: EndpointQueue,
        records: list[Record],
        size: int,
        owner_is_alive: Callable[[], bool],
    ) -> None:
        self.queue = queue
        self.records = records
        self.unsettled = records
        self.bytes = size
        self.sending: list[Record] = []
        self.owner_is_alive = owner_is_alive
        self.live = False


class EndpointQueue:
    """The messages of one endpoint, in order.

    Up to `max_in_flight` batches are sent at once: 1 for profiles, so that an old `$set` that is
    sent again never overtakes a newer one. `max_bytes` shrinks after a 413. The queue sends nothing
    before `paused_until` (on the buffer's clock) after a failure; `paused_by` is the error when
    only a human can help. `gzip` is None until the server has shown whether it takes it.
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
        self.flush_marker = 0

    def oldest_sequence(self) -> int | None:
        """Return the sequence number of the oldest message that is not settled."""
        heads = [batch.unsettled[0].sequence for batch in self.in_flight if batch.unsettled]
        if self.unsent:
            heads.append(self.unsent[0].sequence)
        return min(heads, default=None)


_sequence = attrgetter("sequence")


def locked(
    method: Callable[Concatenate[B, P], R],
) -> Callable[Concatenate[B, P], R]:
    """Run a method under the lock, then put what was deferred meanwhile; recount after an error."""

    @functools.wraps(method)
    def wrapper(self: B, *args: P.args, **kwargs: P.kwargs) -> R:
        stats = self.stats
        try:
            with self.lock:
                outer, stats.changing = stats.changing, True
                try:
                    result = method(self, *args, **kwargs)
                finally:
                    stats.changing = outer
        except BaseException as error:
            if not isinstance(error, QueueFullError):
                self._recount()
            raise
        finally:
            self.put_deferred()
        return result

    return cast("Callable[Concatenate[B, P], R]", wrapper)


class Buffer:
    """Keep the messages of one consumer, queue by queue, within its limits.

    `max_in_flight` names the endpoints and how many batches of each may be in flight; without it
    they are Mixpanel's. `on_outcome(records, fate, reason)` is called once for every record that
    was accepted.
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
        self._max_in_flight = max_in_flight or {
            "events": limits.concurrency,
            "imports": limits.concurrency,
            "people": 1,
            "groups": 1,
        }
        self.stats = stats
        self._on_outcome = on_outcome
        stats.health = self.health
        self.when_full = when_full
        self.clock = clock
        self.watchers: set[Callable[[], None]] = set()
        self.clear()

    def clear(self) -> None:
        """Forget everything without settling it, as a forked child does with its copy."""
        self._deferred: deque[Record] = deque()
        self._putting_deferred = False
        self.stats.lock = self.lock = native_threads.new_rlock()
        self.is_held_here: Callable[[], bool] = self.lock._is_owned
        self.stats.deferred = self._deferred
        self.stats.clear()
        self.bytes = 0
        self.end_reason: Literal["closed", "exit"] | None = None
        self._max_queue_size = self.limits.max_queue_size
        self.flush_marker = 0
        self.watchers.clear()
        self.queues = {
            endpoint: EndpointQueue(endpoint, max_in_flight, self.limits.max_batch_bytes)
            for endpoint, max_in_flight in self._max_in_flight.items()
        }

    is_durable: bool = False  # True in a buffer whose messages outlive the process

    def attach(self, on_ready: Callable[[], object], in_caller: Callable[[], bool]) -> None:
        """Do nothing; a buffer with a spool calls `on_ready` when there is more to send."""

    def start(self) -> None:
        """Do nothing: a buffer with a spool looks for what an earlier process has left."""

    def observe(self, observer: Observer) -> None:
        """Report what is put and its outcome. Other buffers keep their methods, which pay nothing.

        Call it before any message is put.
        """
        put, claim_directly, on_outcome = self.put, self.claim_directly, self._on_outcome
        count_dropped = self.stats.count_dropped

        def observed_put(record: Record) -> bool | None:
            observer.queued([record])
            return put(record)

        def observed_claim(
            records: list[Record], claims: list[Claim], owner_is_alive: Callable[[], bool]
        ) -> None:
            observer.queued(records)
            claim_directly(records, claims, owner_is_alive)

        def observed_outcome(records: Sequence[Record], fate: Fate, reason: str) -> None:
            observer.settled(records, fate, reason)
            if on_outcome is not None:
                on_outcome(records, fate, reason)

        def observed_count(reason: str, count: int = 1) -> None:
            count_dropped(reason, count)
            observer.discarded(reason, count)

        self.put = observed_put  # type: ignore[method-assign]
        self.claim_directly = observed_claim  # type: ignore[method-assign]
        self._on_outcome = observed_outcome
        self.stats.count_dropped = observed_count  # type: ignore[method-assign]

    # ---- in ---------------------------------------------------------------------------------

    def put(self, record: Record) -> bool | None:
        """Accept a record; return True if the caller should look for a batch that is due.

        Return None when the buffer is full and `when_full` is "wait": the record was not accepted.
        May be called anywhere: in any thread, in a signal handler, in a finalizer.

        :raises QueueFullError: when the buffer is full and `when_full` is "raise".
        :raises ClosedError: when the client was closed.
        """
        # Every message of every client comes through here: a line of this costs a percent.
        size = len(record.body)
        record.enqueued_at = self.clock()
        stats, limits = self.stats, self.limits
        evicted: tuple[Record, ...] = ()
        reason = ""
        signal = False
        try:
            with self.lock:
                if stats.changing:
                    # Only the thread that has the lock changes anything: a signal handler or a
                    # finalizer interrupted this very thread.
                    self._deferred.append(record)
                    return True
                stats.changing = True
                try:
                    if (
                        stats.pending >= self._max_queue_size
                        or self.bytes + size > limits.max_queue_bytes
                    ):
                        reason, evicted = self._make_space(record, size)
                        if reason == "wait":
                            return None
                    if not evicted or evicted[0] is not record:
                        queue = self.queues[record.endpoint]
                        before, most = queue.bytes, queue.max_bytes
                        # From here to the append there is no call and no jump: no signal handler
                        # runs in between, so the counts and the queue change together.
                        record.sequence = stats.accepted = stats.accepted + 1
                        stats.pending += 1
                        queue.bytes = before + size
                        self.bytes += size
                        queue.unsent.append(record)
                        # True for the first message, whose age starts the clock, and once for each
                        # full batch: a look takes all that is due.
                        waiting = len(queue.unsent)
                        signal = (
                            waiting == 1
                            or waiting % limits.max_batch_size == 0
                            or before % most + size >= most
                        )
                finally:
                    stats.changing = False
        except (QueueFullError, ClosedError):
            raise
        except BaseException:
            self._recount()
            raise
        if self._deferred and not self._putting_deferred:
            self._put_deferred()
        if evicted:
            if evicted[0] is record:
                stats.count_dropped(reason)
            stats.report_drop(reason, list(evicted))
            self._report_outcome(evicted, "dropped", reason)
        return signal

    def put_deferred(self) -> None:
        """Put what was deferred, unless this thread is inside the buffer.

        Each change here ends with this, but for the counts of `stats`: a message that a signal
        handler tracked while those were read would wait for the next change.
        """
        if self._deferred and not self._putting_deferred and not self.is_held_here():
            self._put_deferred()

    def _put_deferred(self) -> None:
        """Put what signal handlers and finalizers deferred while this thread held the lock."""
        self._putting_deferred = True
        try:
            while self._deferred:
                try:
                    record = self._deferred.popleft()
                except IndexError:  # another thread was faster
                    return
                self._put_one_deferred(record)
        finally:
            self._putting_deferred = False

    def _put_one_deferred(self, record: Record) -> None:
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
        # Its caller has returned: there is nothing to raise to, and nothing that could wait.
        self._drop_unqueued([record], reason)

    def _drop_unqueued(self, records: list[Record], reason: str) -> None:
        self.stats.count_dropped(reason, len(records))
        self.stats.report_drop(reason, records)
        self._report_outcome(records, "dropped", reason)

    def _recount(self) -> None:
        """Derive all counts from the records, as an exception may have struck between changes."""
        stats, count, size = self.stats, 0, 0
        with self.lock:
            outer, stats.changing = stats.changing, True
            try:
                for queue in self.queues.values():
                    for batch in queue.in_flight:
                        batch.live = True
                        batch.bytes = sum([len(record.body) for record in batch.unsettled])
                    in_flight = [record for batch in queue.in_flight for record in batch.unsettled]
                    taken = {id(record) for record in in_flight}
                    queue.unsent = deque([one for one in queue.unsent if id(one) not in taken])
                    queue.bytes = sum([len(record.body) for record in queue.unsent])
                    count += len(queue.unsent) + len(in_flight)
                    size += queue.bytes + sum([len(record.body) for record in in_flight])
                settled = stats.delivered + stats.rejected + sum(stats.dropped.values())
                self.bytes, stats.pending, stats.accepted = size, count, settled + count
            finally:
                stats.changing = outer

    @locked
    def ensure_space(self, records: list[Record]) -> None:
        """Check that all of these records fit if `when_full` is "raise"; else do nothing.

        :raises QueueFullError: when they do not.
        """
        if self.when_full != "raise":
            return
        limits, size = self.limits, sum([len(record.body) for record in records])
        if (
            self.stats.pending + len(records) > limits.max_queue_size
            or self.bytes + size > limits.max_queue_bytes
        ):
            raise self._queue_full_error(f"none of {len(records):,} was accepted: ")

    def _queue_full_error(self, what: str = "") -> QueueFullError:
        limits, pending = self.limits, self.stats.pending
        return QueueFullError(
            f"{what}{pending:,} messages ({self.bytes:,} bytes) are waiting; the limits are "
            f"{limits.max_queue_size:,} messages and {limits.max_queue_bytes:,} bytes"
        )

    @locked
    def _make_space(self, record: Record, size: int) -> tuple[str, tuple[Record, ...]]:
        """Return why which messages are dropped: the new one, older ones, or none yet ("wait").

        Older ones are counted as dropped here, one by one, until the new one fits.
        """
        limits = self.limits
        if self.end_reason == "closed":
            raise ClosedError("the client is closed: this message was not accepted")
        if self.end_reason is not None:
            return self.end_reason, (record,)
        if size > limits.max_queue_bytes:
            return "too_large", (record,)
        if self.when_full == "raise":
            raise self._queue_full_error()
        if self.when_full == "wait":
            return "wait", ()
        if self.when_full == "drop_newest":
            return "queue_full", (record,)
        evicted: list[Record] = []
        while (
            self.stats.pending >= limits.max_queue_size
            or self.bytes + size > limits.max_queue_bytes
        ):
            heads = [queue for queue in self.queues.values() if queue.unsent]
            if not heads:
                break  # all are in flight; the new one may exceed the limit meanwhile
            queue = min(heads, key=lambda queue: queue.unsent[0].sequence)
            oldest = queue.unsent[0]
            evicted.append(oldest)
            # All calls come first; the changes that belong together follow without a call between.
            length, dropped = len(oldest.body), self.stats.dropped
            dropped.setdefault("queue_full", 0)
            queue.bytes -= length
            self.bytes -= length
            self.stats.pending -= 1
            dropped["queue_full"] += 1
            queue.unsent.popleft()
        return "queue_full", tuple(evicted)

    # ---- out --------------------------------------------------------------------------------

    def take(self, claim: Claim, *, everything: bool = False) -> Batch | None:
        """Take the next batch that is due into a claim; return it, or None.

        With `everything`, whatever is queued is due. Code that interrupted this very thread inside
        the buffer (a signal handler) gets None.
        """
        if self._is_interrupted():
            return None
        self.reclaim(dead_only=True)
        return self._take(claim, everything=everything)

    @locked
    def _take(self, claim: Claim, *, everything: bool) -> Batch | None:
        now = self.clock()
        for queue in self.queues.values():
            if self._is_due(queue, now, everything=everything):
                return self._take_from(queue, claim)
        return None

    def _take_from(self, queue: EndpointQueue, claim: Claim) -> Batch:
        records, size = self._pack(queue.unsent, queue.max_bytes)
        batch = Batch(queue, records, size, claim.owner_is_alive)
        in_flight = [*queue.in_flight, batch]
        removal = map(deque.popleft, repeat(queue.unsent, len(records)))
        # The claim is first: the owner's `finally` finds the batch in it. The only call from here
        # on is in C throughout, so no signal handler runs before all of it is done. A copy of what
        # is left would take as long as the queue is long.
        claim.batch = batch
        queue.in_flight = in_flight
        batch.live = True
        queue.bytes -= size
        deque(removal, maxlen=0)
        return batch

    def _is_interrupted(self) -> bool:
        """Return True in a signal handler or finalizer that interrupted a critical section."""
        with self.lock:
            return self.stats.changing

    def due(self) -> int:
        """Return a lower bound of how many batches may be taken now."""
        if self._is_interrupted():
            return 0
        self.reclaim(dead_only=True)
        return self._due()

    @locked
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
        if everything or unsent[0].sequence <= max(self.flush_marker, queue.flush_marker):
            return True
        if len(unsent) >= self.limits.max_batch_size or queue.bytes >= queue.max_bytes:
            return True
        age = self.limits.flush_after
        return age is not None and now - unsent[0].enqueued_at >= age

    @locked
    def due_endpoints(self) -> list[str]:
        """Return the endpoints of which a batch may be taken now."""
        now = self.clock()
        queues = self.queues.values()
        return [one.endpoint for one in queues if self._is_due(one, now, everything=False)]

    @locked
    def seconds_until_due(self) -> float | None:
        """Return the seconds until a queue becomes due by age; None when none will."""
        now = self.clock()
        waits = []
        for queue in self.queues.values():
            if not queue.unsent or len(queue.in_flight) >= queue.max_in_flight:
                continue
            at = queue.paused_until
            if not (
                queue.unsent[0].sequence <= max(self.flush_marker, queue.flush_marker)
                or len(queue.unsent) >= self.limits.max_batch_size
                or queue.bytes >= queue.max_bytes
            ):
                if self.limits.flush_after is None:
                    continue
                at = max(at, queue.unsent[0].enqueued_at + self.limits.flush_after)
            waits.append(max(0.0, at - now))
        return min(waits, default=None)

    def _pack(self, unsent: Iterable[Record], max_bytes: int) -> tuple[list[Record], int]:
        """Return the first records of a queue that fit in one request, and the sum of their bytes.

        All have the endpoint and credentials of the first.
        """
        waiting = list(islice(unsent, self.limits.max_batch_size))
        first = waiting[0]
        auth, endpoint, count = first.auth, first.endpoint, 0
        space = whole = max_bytes - 1  # the brackets, less one comma
        for record in waiting:
            left = space - len(record.body) - 1
            # `is` before `!=`: this loop sees every message, and nearly all share both objects.
            if left < 0 or record.auth is not auth or record.endpoint is not endpoint:
                other = record.auth != auth or record.endpoint != endpoint
                if count and (left < 0 or other):
                    break
            space = left
            count += 1
        del waiting[count:]
        return waiting, whole - space - count

    # ---- settling ---------------------------------------------------------------------------

    @locked
    def settle(
        self,
        batch: Batch,
        records: list[Record],
        fate: Fate,
        reason: str = "",
    ) -> bool:
        """Count the outcome of some records of a batch; return False if it is no longer in flight.

        This runs no code of the user's; `announce` does, once everything is counted.
        """
        if not batch.live or not records:
            return False
        if records is batch.unsettled or len(records) == len(batch.unsettled):
            left, size = [], batch.bytes
        else:
            settled_ids = {id(record) for record in records}
            left = [record for record in batch.unsettled if id(record) not in settled_ids]
            size = sum([len(record.body) for record in records])
        count = len(records)
        stats, dropped = self.stats, self.stats.dropped
        if fate == "dropped":
            dropped.setdefault(reason, 0)
        batch.unsettled = left
        batch.bytes -= size
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
        """Report the outcome of settled records; `quiet` when their caller gets the error."""
        if error is not None and not quiet:
            self.stats.report(error, records)
        if fate == "dropped" and not quiet:
            self.stats.report_drop(reason, records)
        self._report_outcome(records, fate, reason or str(error or ""))

    def finish(self, batch: Batch) -> None:
        """End a batch: what is unsettled goes back to the head of its queue, in order.

        Records in a request whose response never came, and which are not safe to repeat, are
        dropped as ambiguous instead.
        """
        ambiguous = self._finish(batch)
        if ambiguous:
            error = AmbiguousDeliveryError(
                f"{len(ambiguous)} update(s) were cut off while being sent; they may have been "
                "applied and are not safe to repeat",
                endpoint=batch.queue.endpoint,
            )
            self.announce(ambiguous, "dropped", "ambiguous", error)
        self.notify()

    @locked
    def _finish(self, batch: Batch) -> list[Record]:
        if not batch.live:
            return []
        being_sent = {id(record) for record in batch.sending}
        ambiguous = [r for r in batch.unsettled if not r.repeatable and id(r) in being_sent]
        if ambiguous:
            self.settle(batch, ambiguous, "dropped", "ambiguous")
        queue, nothing = batch.queue, list[Any]()
        unsent = queue.unsent
        if batch.unsettled:
            returned = [*batch.unsettled, *unsent]
            if unsent and unsent[0].sequence < batch.unsettled[-1].sequence:
                # Another batch came back first. The head must be the oldest, or a flush that waits
                # for it would end too early.
                returned.sort(key=_sequence)
            unsent = deque(returned)
        in_flight = [one for one in queue.in_flight if one is not batch]
        queue.unsent = unsent
        queue.in_flight = in_flight
        batch.live = False
        queue.bytes += batch.bytes
        batch.bytes = 0
        batch.unsettled = batch.sending = nothing
        return ambiguous

    def reclaim(self, *, dead_only: bool = False) -> None:
        """Take back every batch in flight; with `dead_only`, those whose owner is gone."""
        for queue in self.queues.values():
            # `in_flight` is replaced, never changed in place: this loop sees one consistent list.
            for batch in queue.in_flight:
                if not (dead_only and batch.owner_is_alive()):
                    self.finish(batch)

    def drop_all(self, reason: str, end_reason: Literal["closed", "exit"] | None = None) -> None:
        """Drop everything that is still here, counted under one reason.

        With `end_reason`, nothing is accepted from then on: after "closed" `put` raises, after
        "exit" it counts the message as dropped.
        """
        self.reclaim()
        records = self._drop_all(reason, end_reason)
        if records:
            self.announce(records, "dropped", reason)
        self.notify()

    @locked
    def _drop_all(self, reason: str, end_reason: Literal["closed", "exit"] | None) -> list[Record]:
        records = [record for queue in self.queues.values() for record in queue.unsent]
        size, count = sum([len(record.body) for record in records]), len(records)
        stats, dropped = self.stats, self.stats.dropped
        if records:
            dropped.setdefault(reason, 0)
        if end_reason is not None:
            self.end_reason, self._max_queue_size = end_reason, -1
        for queue in self.queues.values():
            queue.unsent, queue.bytes = deque(), 0
        if records:
            self.bytes -= size
            stats.pending -= count
            dropped[reason] += count
        return records

    @locked
    def claim_directly(
        self, records: list[Record], claims: list[Claim], owner_is_alive: Callable[[], bool]
    ) -> None:
        """Accept records that skip the queue: put them into claims, as batches in flight."""
        now = self.clock()
        waiting = deque(records)
        for record in records:
            record.enqueued_at = now
        while waiting:
            queue = self.queues[waiting[0].endpoint]
            packed, size = self._pack(waiting, queue.max_bytes)
            waiting = deque(islice(waiting, len(packed), None))
            claim, count, stats = Claim(owner_is_alive), len(packed), self.stats
            claim.batch = batch = Batch(queue, packed, size, owner_is_alive)
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
        """End the pauses that only wait for time to pass, as at exit."""
        for queue in self.queues.values():
            if queue.paused_by is None:
                queue.paused_until = 0.0

    # ---- durability: only for a buffer with a spool ---------------------------------------------

    async def mark_attempted(self, records: Sequence[Record]) -> DeliveryError | None:
        """Write that updates are about to be sent; return the error if that failed."""
        raise NotImplementedError

    def mark_attempted_blocking(
        self, records: Sequence[Record], timeout: float
    ) -> DeliveryError | None:
        """Like `mark_attempted`, in the calling thread."""
        raise NotImplementedError

    def unmark(self, records: Sequence[Record]) -> None:
        """Write that updates were provably not applied."""
        raise NotImplementedError

    def commit_blocking(self, timeout: float | None = None) -> None:
        """Wait until everything accepted so far is on disk."""
        raise NotImplementedError

    async def commit(self, timeout: float | None = None) -> None:
        """Wait until everything accepted so far is on disk."""
        raise NotImplementedError

    # ---- waiting ----------------------------------------------------------------------------

    @locked
    def mark_for_flush(self) -> int:
        """Make everything accepted so far due; return the sequence number to wait for.

        Queues that were paused for an error that only a human can mend are tried once more.
        """
        marker = self.stats.accepted
        self.flush_marker = max(self.flush_marker, marker)
        for queue in self.queues.values():
            if queue.paused_by is not None:
                queue.paused_by, queue.paused_until = None, 0.0
        return marker

    def stop_gathering(self) -> None:
        """From now on, make each message due at once, as in a process that is to end soon."""
        self.flush_marker = sys.maxsize

    @locked
    def mark_endpoint_for_flush(self, endpoint: str) -> int:
        """Like `mark_for_flush`, for the messages of one endpoint."""
        queue = self.queues[endpoint]
        queue.flush_marker = self.stats.accepted
        if queue.paused_by is not None:
            queue.paused_by, queue.paused_until = None, 0.0
        return queue.flush_marker

    @locked
    def has_unsettled(self, up_to: int, endpoint: str | None = None) -> bool:
        """Return True if messages up to this sequence number are unsettled in a queue that sends.

        A queue that only a human can start again does not count: a flush would wait for ever.
        """
        for queue in self.queues.values() if endpoint is None else [self.queues[endpoint]]:
            oldest = queue.oldest_sequence()
            if oldest is not None and oldest <= up_to and queue.paused_by is None:
                return True
        return False

    @locked
    def result_since(self, before: tuple[int, int, dict[str, int]]) -> FlushResult:
        """Return what was settled since `snapshot()` returned `before`."""
        delivered, rejected, dropped = before
        stats = self.stats
        newly_dropped = {k: n - dropped.get(k, 0) for k, n in stats.dropped.items()}
        errors, stats.recent_errors = tuple(stats.recent_errors), []
        return FlushResult(
            stats.delivered - delivered,
            stats.rejected - rejected,
            {reason: count for reason, count in newly_dropped.items() if count},
            stats.pending,
            errors,
        )

    @locked
    def snapshot(self) -> tuple[int, int, dict[str, int]]:
        """Return the counts for `result_since`, and forget the errors so far."""
        stats = self.stats
        stats.recent_errors = []
        return stats.delivered, stats.rejected, dict(stats.dropped)

    def count_captured(self, records: Sequence[Record]) -> None:
        """Count messages that a test captured before they were queued, and report their outcome."""
        self.stats.count_captured(len(records))
        self._report_outcome(records, "delivered", "")

    def _report_outcome(self, records: Sequence[Record], fate: Fate, reason: str) -> None:
        if self._on_outcome is not None:
            self._on_outcome(records, fate, reason)

    # ---- health -----------------------------------------------------------------------------

    def health(self) -> Health:
        """Return what is pending, and what each queue is doing."""
        # Clients whose health is never read do without the import.
        with import_lock:
            from mixpanel._delivery.health import Health, error_text

        with self.lock:
            queues = {name: self._queue_health(queue) for name, queue in self.queues.items()}
            ages = [each.oldest_age for each in queues.values() if each.oldest_age is not None]
            spool = self._spool_health()
            halted = any(each.state == "halted" for each in queues.values())
            degraded = spool is not None and spool.degraded is not None
            return Health(
                not (halted or degraded),
                self.stats.pending + len(self._deferred),
                max(ages, default=None),
                error_text(self.stats.last_error),
                queues,
                spool,
            )

    def _queue_health(self, queue: EndpointQueue) -> QueueHealth:
        from mixpanel._delivery.health import QueueHealth, error_text

        now, in_flight = self.clock(), [batch for batch in queue.in_flight if batch.unsettled]
        times = [batch.unsettled[0].enqueued_at for batch in in_flight]
        times += self._oldest_waiting(queue)
        pending = self._pending_of(queue)
        wait = queue.paused_until - now if queue.paused_until > now else None
        state: QueueState = "gathering"
        if queue.paused_by is not None:
            state = "halted"
        elif not pending:
            state = "idle"
        elif wait is not None:
            state = "waiting"
        elif in_flight:
            state = "sending"
        return QueueHealth(
            state,
            pending,
            len(in_flight),
            max(0.0, now - min(times)) if times else None,
            wait if pending else None,
            error_text(queue.paused_by),
        )

    def _pending_of(self, queue: EndpointQueue) -> int:
        return len(queue.unsent) + sum([len(batch.unsettled) for batch in queue.in_flight])

    def _oldest_waiting(self, queue: EndpointQueue) -> list[float]:
        """Return when messages that are not in flight were accepted, the oldest among them."""
        return [queue.unsent[0].enqueued_at] if queue.unsent else []

    def _spool_health(self) -> SpoolHealth | None:
        return None

    @property
    def reports_deliveries(self) -> bool:
        """Return True if `on_outcome` is to be called for deliveries, not only for losses."""
        return self._on_outcome is not None

    def notify(self) -> None:
        """Call the watchers: those that wait for space, or for messages to be settled."""
        for watcher in tuple(self.watchers):
            watcher()
