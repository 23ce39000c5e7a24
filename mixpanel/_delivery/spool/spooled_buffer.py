"""A buffer that also keeps its messages in a file, from before they are sent until settled.

In addition to those of `Buffer`, these invariants hold whenever the lock is free:

- A message that is not settled is in exactly one place: `staged` or `writing` of its queue (not on
  disk yet), `unsent` or a batch in flight (in memory, and on disk unless `block` is None), or on
  disk only, where `on_disk` counts it.
- `unspooled` counts the messages that are not on disk: staged, being written, and those that stayed
  in memory because the disk failed (`memory_only`).
- While a queue has messages on disk only, new ones line up behind them on disk.
"""

from __future__ import annotations

from collections import deque
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal

import anyio

from mixpanel._delivery.buffer import Buffer, EndpointQueue, locked
from mixpanel._delivery.health import SpoolHealth
from mixpanel._delivery.spool.store import place_of
from mixpanel._delivery.spool.writer import SpoolWriter
from mixpanel._runtime import event_loop, native_threads
from mixpanel.exceptions import ClosedError, QueueFullError, SpoolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from mixpanel._delivery.buffer import Batch, Claim, Fate
    from mixpanel._delivery.spool.blocks import Block
    from mixpanel._delivery.spool.options import SpoolOptions
    from mixpanel._delivery.stats import DeliveryStats
    from mixpanel._records.record import Record
    from mixpanel.exceptions import DeliveryError
    from mixpanel.settings import Limits

__all__ = ["SpoolQueue", "SpooledBuffer"]

LOADED = 20_000  # messages of a queue that are kept in memory
LOADED_BYTES = 8 * 1024 * 1024
COMMIT_TIMEOUT = 30.0  # seconds
TAKE_TIMEOUT = 1.0  # seconds that a caller waits for the disk before it sends a batch itself
NEVER_SPOOLED = -1  # the index of a message that skips the spool
CLOSE_TIMEOUT = 0.2  # seconds to write the rest, in addition to the timeout of `close`

_sequence = attrgetter("sequence")


class SpoolQueue(EndpointQueue):
    """The messages of one endpoint: `unsent` are those that are in memory and may be sent.

    `disk_sequence` is a lower bound of the sequence numbers of those on disk only, and
    `disk_enqueued_at` of the times at which they were accepted.
    """

    def __init__(self, endpoint: str, max_in_flight: int, max_bytes: int) -> None:
        super().__init__(endpoint, max_in_flight, max_bytes)
        self.staged: deque[Record] = deque()
        self.writing: list[Record] = []
        self.on_disk = 0
        self.disk_sequence = 0
        self.disk_enqueued_at = 0.0

    def oldest_sequence(self) -> int | None:
        """Return the sequence number of the oldest message that is not settled."""
        heads = [batch.unsettled[0].sequence for batch in self.in_flight if batch.unsettled]
        if self.unsent:
            heads.append(self.unsent[0].sequence)
        if self.on_disk:
            heads.append(self.disk_sequence)
        if self.writing:
            heads.append(self.writing[0].sequence)
        if self.staged:
            heads.append(self.staged[0].sequence)
        return min(heads, default=None)

    def has_space(self) -> bool:
        """Return True if more messages may be held in memory."""
        return len(self.unsent) < LOADED and self.bytes < LOADED_BYTES


class SpooledBuffer(Buffer):
    """Keep the messages of one consumer in memory and in its spool."""

    is_durable = True
    queues: dict[str, SpoolQueue]  # type: ignore[assignment]

    def __init__(
        self, limits: Limits, stats: DeliveryStats, options: SpoolOptions, **settings: Any
    ) -> None:
        self.options = options
        self.writer: SpoolWriter | None = None
        self.on_ready: Callable[[], object] = lambda: None
        self.sends_in_caller: Callable[[], bool] = lambda: False
        super().__init__(limits, stats, **settings)

    def clear(self) -> None:
        """Forget everything without settling it, as a forked child does with its copy.

        A new writer replaces the one of the parent, whose file and thread the child must not use.
        """
        super().clear()
        self.queues = {
            name: SpoolQueue(name, each.max_in_flight, each.max_bytes)
            for name, each in self.queues.items()
        }
        self.unspooled = self.unspooled_bytes = self.memory_only = 0
        self.disk_bytes = 0
        self.adopted_bytes = 0
        self.kept = 0  # left in the spool when the client was closed
        self.is_closed = False
        self.writer = SpoolWriter(self, self.options)

    def attach(self, on_ready: Callable[[], object], in_caller: Callable[[], bool]) -> None:
        """Call `on_ready` when there is more to send; `in_caller` returns True if callers send."""
        self.on_ready, self.sends_in_caller = on_ready, in_caller

    def start(self) -> None:
        """Open the spool in the background, to send the messages of earlier processes."""
        if not self.is_closed:
            self._writer.wake()

    # ---- in ---------------------------------------------------------------------------------

    def put(self, record: Record) -> bool | None:
        """Accept a record; see `Buffer.put`. The writer commits it some milliseconds later."""
        size = len(record.body)
        record.enqueued_at = self.clock()
        stats, limits = self.stats, self.limits
        reason, signal, first = "", False, False
        try:
            with self.lock:
                if stats.changing:
                    self._deferred.append(record)
                    return True
                stats.changing = True
                try:
                    if (
                        # It is negative once the client is closed.
                        self.unspooled >= self._max_queue_size
                        or self.unspooled_bytes + size > limits.max_queue_bytes
                        or self.bytes + self.disk_bytes + size
                        > limits.max_spool_bytes + self.adopted_bytes
                    ):
                        reason = self._refusal(size)
                        if reason == "wait":
                            return None
                    else:
                        queue = self.queues[record.endpoint]
                        record.block, record.index = None, 0
                        # No call and no jump from here to the append, as in `Buffer.put`.
                        record.sequence = stats.accepted = stats.accepted + 1
                        stats.pending += 1
                        self.unspooled += 1
                        self.unspooled_bytes += size
                        self.bytes += size
                        queue.staged.append(record)
                        waiting = len(queue.staged)
                        first = waiting == 1
                        signal = first or (
                            (waiting + len(queue.unsent)) % limits.max_batch_size == 0
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
        if reason:
            stats.count_dropped(reason)
            stats.report_drop(reason, [record])
            self._report_outcome([record], "dropped", reason)
        elif first:
            self._writer.wake()
        return signal

    @property
    def _writer(self) -> SpoolWriter:
        assert self.writer is not None
        return self.writer

    def _refusal(self, size: int) -> str:
        """Return the reason to drop a message, or "wait" if there may be space later.

        :raises ClosedError: if the client is closed.
        :raises QueueFullError: with `when_full="raise"`.
        """
        if self.end_reason == "closed":
            raise ClosedError("the client is closed: this message was not accepted")
        if self.end_reason is not None:
            return self.end_reason
        if size > self.limits.max_queue_bytes:
            return "too_large"
        if self.when_full == "raise":
            raise self._queue_full_error()
        return "wait" if self.when_full == "wait" else "queue_full"

    @locked
    def ensure_space(self, records: list[Record]) -> None:
        """Check that all of these records fit if `when_full` is "raise"; see `Buffer`."""
        if self.when_full != "raise":
            return
        limits, size = self.limits, sum([len(record.body) for record in records])
        if (
            self.unspooled + len(records) > limits.max_queue_size
            or self.unspooled_bytes + size > limits.max_queue_bytes
            or self.bytes + self.disk_bytes + size > limits.max_spool_bytes + self.adopted_bytes
        ):
            raise self._queue_full_error(f"none of {len(records):,} was accepted: ")

    def _recount(self) -> None:
        stats, count, size = self.stats, self.kept, 0
        with self.lock:
            outer, stats.changing = stats.changing, True
            try:
                self.unspooled = self.unspooled_bytes = self.memory_only = 0
                for queue in self.queues.values():
                    for batch in queue.in_flight:
                        batch.live = True
                        batch.bytes = sum([len(record.body) for record in batch.unsettled])
                    in_flight = [record for batch in queue.in_flight for record in batch.unsettled]
                    taken = {id(record) for record in in_flight}
                    queue.unsent = deque([one for one in queue.unsent if id(one) not in taken])
                    queue.bytes = sum([len(record.body) for record in queue.unsent])
                    waiting = [*queue.staged, *queue.writing]
                    loaded = [*queue.unsent, *in_flight]
                    in_memory = [record for record in loaded if _is_refused(record)]
                    count += len(waiting) + len(loaded) + queue.on_disk
                    size += sum([len(record.body) for record in waiting + loaded])
                    self.memory_only += len(in_memory)
                    self.unspooled += len(waiting) + len(in_memory)
                    self.unspooled_bytes += sum([len(one.body) for one in waiting + in_memory])
                settled = stats.delivered + stats.rejected + sum(stats.dropped.values())
                self.bytes, stats.pending, stats.accepted = size, count, settled + count
            finally:
                stats.changing = outer

    # ---- out --------------------------------------------------------------------------------

    def due(self) -> int:
        """Return a lower bound of how many batches may be taken now."""
        if self.sends_in_caller() and not self._is_interrupted():
            self._commit_full_batches()
        return super().due()

    def take(self, claim: Claim, *, everything: bool = False) -> Batch | None:
        """Take the next batch that is due into a claim; see `Buffer.take`."""
        if everything and not self._is_interrupted():
            self._wait_until_written()
        return super().take(claim, everything=everything)

    def _commit_full_batches(self) -> None:
        """Wait until full batches are on disk, for a caller that sends them itself."""
        limits = self.limits
        for queue in self.queues.values():
            staged = len(queue.staged) + len(queue.writing)
            if staged and staged + len(queue.unsent) >= limits.max_batch_size:
                self._wait_until_written()
                return

    def _wait_until_written(self) -> None:
        if any(queue.staged or queue.writing for queue in self.queues.values()):
            native_wait(self._writer.request_commit(), TAKE_TIMEOUT)

    def claim_directly(
        self, records: list[Record], claims: list[Claim], owner_is_alive: Callable[[], bool]
    ) -> None:
        """Accept records that skip the queue and the spool; their caller gets the outcome."""
        for record in records:
            record.block, record.index = None, NEVER_SPOOLED
        super().claim_directly(records, claims, owner_is_alive)

    # ---- settling ---------------------------------------------------------------------------

    def settle(self, batch: Batch, records: list[Record], fate: Fate, reason: str = "") -> bool:
        """Count the outcome of some records of a batch; see `Buffer.settle`."""
        if not super().settle(batch, records, fate, reason):
            return False
        if self.memory_only:
            self._forget_memory_only(records)
        if self.adopted_bytes:
            self._free_adopted(records)
        if fate == "delivered":
            self._writer.retire(records)
        return True

    @locked
    def _forget_memory_only(self, records: Sequence[Record]) -> None:
        in_memory = [record for record in records if _is_refused(record)]
        count = min(len(in_memory), self.memory_only)
        size = min(sum([len(record.body) for record in in_memory]), self.unspooled_bytes)
        self.memory_only -= count
        self.unspooled -= count
        self.unspooled_bytes -= size

    @locked
    def _free_adopted(self, records: Sequence[Record]) -> None:
        found = [one for one in records if one.block is not None and one.block.source.is_adopted]
        size = sum([len(record.body) for record in found])
        self.adopted_bytes = max(0, self.adopted_bytes - size)

    def announce(
        self,
        records: Sequence[Record],
        fate: Fate,
        reason: str = "",
        error: DeliveryError | None = None,
        *,
        quiet: bool = False,
    ) -> None:
        """Report the outcome of settled records; rejected and dropped ones become dead letters."""
        if fate != "delivered" and reason != "raised":
            texts = _error_texts(records, error)
            self._writer.retire(records, reason or fate, texts)
        super().announce(records, fate, reason, error, quiet=quiet)

    @locked
    def _finish(self, batch: Batch) -> list[Record]:
        unsafe = [record for record in batch.unsettled if not record.repeatable]
        queue, before = batch.queue, batch.unsettled
        ambiguous = super()._finish(batch)
        if unsafe and before:
            cut_off = {id(record) for record in ambiguous}
            self._writer.unmark([record for record in unsafe if id(record) not in cut_off])
        if isinstance(queue, SpoolQueue) and queue.on_disk and queue.has_space():
            self._writer.wake()
        return ambiguous

    # ---- for the writer's thread ------------------------------------------------------------

    @locked
    def take_staged(self, *, respool: bool) -> dict[str, list[Record]]:
        """Return the records to write, by endpoint; with `respool`, also those of failed writes."""
        taken = {}
        for name, queue in self.queues.items():
            assert not queue.writing
            if respool and self.memory_only:
                self._stage_again(queue)
            if queue.staged:
                staged: deque[Record] = deque()
                queue.writing, queue.staged = list(queue.staged), staged
                taken[name] = queue.writing
        return taken

    def _stage_again(self, queue: SpoolQueue) -> None:
        refused = [record for record in queue.unsent if _is_refused(record)]
        if refused:
            size = sum([len(record.body) for record in refused])
            kept = deque([record for record in queue.unsent if not _is_refused(record)])
            staged = deque([*refused, *queue.staged])
            queue.unsent, queue.staged = kept, staged
            queue.bytes -= size
            self.memory_only -= len(refused)

    @locked
    def written(self, endpoint: str, runs: Sequence[tuple[Block, list[Record]]]) -> None:
        """Move records that were written to `unsent`, or leave them on disk only.

        Memory takes them if it has space and no earlier ones are on disk only: order is kept.
        """
        queue = self.queues[endpoint]
        for block, records in runs:
            size = sum([len(record.body) for record in records])
            place, read = place_of(block.id), block.source.position.get(endpoint, 0)
            # What is before the last block that was read would not be read again.
            if place < read or (queue.on_disk == 0 and queue.has_space()):
                if queue.unsent and queue.unsent[-1].sequence > records[0].sequence:
                    # Records of a failed write were written again, after later ones.
                    queue.unsent = deque(sorted([*queue.unsent, *records], key=_sequence))
                else:
                    queue.unsent.extend(records)
                queue.bytes += size
                block.source.position[endpoint] = max(place, read)
            else:
                if queue.on_disk == 0:
                    queue.disk_sequence = records[0].sequence
                    queue.disk_enqueued_at = records[0].enqueued_at
                queue.on_disk += len(records)
                self.disk_bytes += size
                self.bytes -= size
                block.source.left[endpoint] = block.source.left.get(endpoint, 0) + len(records)
            self.unspooled -= len(records)
            self.unspooled_bytes -= size
        queue.writing = []

    @locked
    def not_written(self) -> None:
        """Keep the records of a failed write in memory, or staged behind those on disk only."""
        for queue in self.queues.values():
            records, nothing = queue.writing, list[Any]()
            if not records:
                continue
            if queue.on_disk:
                queue.staged = deque([*records, *queue.staged])
            else:
                size = sum([len(record.body) for record in records])
                # Sorted: a message that lost its loop may be there already, tracked after these.
                queue.unsent = deque(sorted([*queue.unsent, *records], key=_sequence))
                queue.bytes += size
                self.memory_only += len(records)
            queue.writing = nothing

    @locked
    def refused_in_flight(self) -> dict[str, list[Record]]:
        """Return the records of failed writes that are in flight now, by endpoint."""
        found = {}
        for name, queue in self.queues.items():
            refused = [
                record
                for batch in queue.in_flight
                for record in batch.unsettled
                if _is_refused(record)
            ]
            if refused:
                found[name] = sorted(refused, key=_sequence)
        return found

    @locked
    def respooled(self, endpoint: str, block: Block, records: Sequence[Record]) -> list[Record]:
        """Set the block of records written while in flight; return those settled since."""
        queue = self.queues[endpoint]
        unsettled = {id(record) for record in queue.unsent}
        unsettled |= {id(record) for batch in queue.in_flight for record in batch.unsettled}
        settled = []
        for index, record in enumerate(records):
            record.index = index
            if id(record) not in unsettled:
                settled.append(record)
                continue
            record.block = block
            self.memory_only -= 1
            self.unspooled -= 1
            self.unspooled_bytes -= len(record.body)
        return settled

    @locked
    def adopted(self, endpoint: str, count: int, size: int, age: float) -> None:
        """Count the messages of an earlier process as accepted and pending."""
        queue, stats = self.queues[endpoint], self.stats
        accepted_at = self.clock() - age
        if queue.on_disk:
            accepted_at = min(accepted_at, queue.disk_enqueued_at)
        queue.disk_enqueued_at = accepted_at
        stats.accepted += count
        stats.pending += count
        queue.on_disk += count
        queue.disk_sequence = 0
        self.disk_bytes += size
        self.adopted_bytes += size

    @locked
    def loaded(self, endpoint: str, count: int, size: int, records: list[Record]) -> None:
        """Take a block from the disk into memory: `count` messages, those in `records` to send."""
        queue = self.queues[endpoint]
        taken = min(count, queue.on_disk)
        loaded_bytes = sum([len(record.body) for record in records])
        queue.unsent.extend(records)
        queue.bytes += loaded_bytes
        queue.on_disk -= taken
        self.bytes += loaded_bytes
        self.disk_bytes = max(0, self.disk_bytes - size)
        if records:
            queue.disk_sequence = records[-1].sequence
            queue.disk_enqueued_at = max(queue.disk_enqueued_at, records[-1].enqueued_at)

    @locked
    def lost(self, endpoint: str, count: int, reason: str, *, on_disk: bool, size: int = 0) -> None:
        """Count messages that are dropped without having been in memory; `size` may be unknown."""
        stats = self.stats
        stats.dropped.setdefault(reason, 0)
        if on_disk:
            queue = self.queues[endpoint]
            queue.on_disk -= count
            left = any(each.on_disk for each in self.queues.values())
            self.disk_bytes = max(0, self.disk_bytes - size) if left else 0
        stats.pending -= count
        stats.dropped[reason] += count

    @locked
    def forget_blocks(self, source: object) -> None:
        """Count the messages of a file that is gone as being in memory only."""
        for queue in self.queues.values():
            for record in [*queue.unsent, *(r for b in queue.in_flight for r in b.unsettled)]:
                if record.block is not None and record.block.source is source:
                    record.block = None
                    self.memory_only += 1
                    self.unspooled += 1
                    self.unspooled_bytes += len(record.body)

    # ---- health -----------------------------------------------------------------------------

    def _pending_of(self, queue: EndpointQueue) -> int:
        count = super()._pending_of(queue)
        if isinstance(queue, SpoolQueue):
            count += len(queue.staged) + len(queue.writing) + queue.on_disk
        return count

    def _oldest_waiting(self, queue: EndpointQueue) -> list[float]:
        times = super()._oldest_waiting(queue)
        if isinstance(queue, SpoolQueue):
            times += [
                waiting[0].enqueued_at for waiting in (queue.writing, queue.staged) if waiting
            ]
            if queue.on_disk:
                times.append(queue.disk_enqueued_at)
        return times

    def _spool_health(self) -> SpoolHealth:
        writer = self._writer
        on_disk = self.stats.pending - self.unspooled
        return SpoolHealth(
            str(self.options.folder),
            self.options.durability,
            on_disk,
            self.bytes + self.disk_bytes - self.unspooled_bytes,
            writer.file_bytes,
            self.unspooled,
            writer.dead_letters,
            writer.quarantined,
            None if writer.error is None else str(writer.error),
        )

    # ---- durability -------------------------------------------------------------------------

    def commit_blocking(self, timeout: float | None = COMMIT_TIMEOUT) -> None:
        """Wait until everything accepted so far is on disk.

        :raises SpoolError: if it is not, because the disk failed, or after the timeout.
        """
        native_wait(self._writer.request_commit(), timeout, raising=True)

    async def commit(self, timeout: float | None = COMMIT_TIMEOUT) -> None:
        """Wait until everything accepted so far is on disk.

        :raises SpoolError: if it is not, because the disk failed, or after the timeout.
        """
        await wait_in_loop(self._writer.request_commit(), timeout)

    async def mark_attempted(self, records: Sequence[Record]) -> SpoolError | None:
        """Write that updates which must not be repeated are about to be sent.

        Return the error if it cannot be written; they must not be sent then.
        """
        try:
            await wait_in_loop(self._writer.mark(records), COMMIT_TIMEOUT)
        except SpoolError as error:
            return error
        return None

    def mark_attempted_blocking(
        self, records: Sequence[Record], timeout: float
    ) -> SpoolError | None:
        """Like `mark_attempted`, in the calling thread."""
        try:
            native_wait(self._writer.mark(records), min(timeout, COMMIT_TIMEOUT), raising=True)
        except SpoolError as error:
            return error
        return None

    def unmark(self, records: Sequence[Record]) -> None:
        """Write that updates were provably not applied, so that they may be sent again."""
        self._writer.unmark([record for record in records if not record.repeatable])

    # ---- waiting ----------------------------------------------------------------------------

    def mark_for_flush(self) -> int:
        """Make everything accepted so far due; see `Buffer.mark_for_flush`."""
        marker = super().mark_for_flush()
        if not self.is_closed:
            self._writer.wake(at_once=True)
        return marker

    def mark_endpoint_for_flush(self, endpoint: str) -> int:
        """Like `mark_for_flush`, for the messages of one endpoint."""
        marker = super().mark_endpoint_for_flush(endpoint)
        if not self.is_closed:
            self._writer.wake(at_once=True)
        return marker

    # ---- the end ----------------------------------------------------------------------------

    def drop_all(self, reason: str, end_reason: Literal["closed", "exit"] | None = None) -> None:
        """Close the spool. Messages in it stay there and count as pending; all others are dropped.

        With `end_reason`, nothing is accepted from then on.
        """
        self.reclaim()
        if end_reason is not None:
            with self.lock:
                self.end_reason, self._max_queue_size = end_reason, -1
        if not self.is_closed:
            self.is_closed = True
            self._writer.close(CLOSE_TIMEOUT)
        records = self._keep_spooled(reason)
        if records:
            self.announce(records, "dropped", reason)
        self.notify()

    @locked
    def _keep_spooled(self, reason: str) -> list[Record]:
        """Forget the messages that are on disk; count all others as dropped, and return them."""
        stats, dropped = self.stats, self.stats.dropped
        lost: list[Record] = []
        kept = 0
        for queue in self.queues.values():
            in_memory = [record for record in queue.unsent if record.block is None]
            lost += [*in_memory, *queue.writing, *queue.staged]
            kept += len(queue.unsent) - len(in_memory) + queue.on_disk
            queue.unsent, queue.staged, queue.writing = deque(), deque(), []
            queue.bytes = queue.on_disk = 0
        if lost:
            dropped.setdefault(reason, 0)
            dropped[reason] += len(lost)
            stats.pending -= len(lost)
        self.kept += kept
        self.bytes = self.disk_bytes = self.unspooled = self.unspooled_bytes = 0
        self.memory_only = 0
        return lost


def _is_refused(record: Record) -> bool:
    """Return True for a message that is in memory only because the disk failed."""
    return record.block is None and record.index != NEVER_SPOOLED


def _error_texts(records: Sequence[Record], error: DeliveryError | None) -> list[str]:
    """Return the reason of each record: its own where the server gave one."""
    if error is None:
        return [""] * len(records)
    listed = error.rejected_records
    if len(listed) == len(records):
        return [each.message for each in listed]
    return [str(error)] * len(records)


def native_wait(future: Future[None], timeout: float | None, *, raising: bool = False) -> None:
    """Wait for the writer in this thread.

    :raises SpoolError: with `raising`, if it failed, or takes longer than `timeout`.
    """
    try:
        native_threads.wait_for(future, timeout)
    except TimeoutError:
        if raising:
            raise _too_slow(timeout) from None
    except SpoolError:
        if raising:
            raise


async def wait_in_loop(future: Future[None], timeout: float | None) -> None:
    """Wait for the writer in this event loop.

    :raises SpoolError: if it failed, or takes longer than `timeout`.
    """
    here = event_loop.running_loop()
    assert here is not None
    done = anyio.Event()
    future.add_done_callback(lambda _: here.call_soon(done.set))
    with anyio.move_on_after(timeout):
        await done.wait()
    if not future.done():
        raise _too_slow(timeout)
    error = future.exception()
    if error is not None:
        raise SpoolError(str(error)) from None


def _too_slow(timeout: float | None) -> SpoolError:
    return SpoolError(
        f"the spool was not written within {timeout:g} s: the disk is slow or full. Messages stay "
        "in memory, and are written when the disk responds"
    )
