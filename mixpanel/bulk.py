"""Import any number of records: read a stream, send concurrent batches, in bounded memory.

Mixpanel recommends 10 to 20 requests in flight of up to 2,000 events each, and takes about 30,000
events a second per project. The concurrency adapts: one more after each batch, half after each 429.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

from mixpanel._delivery import capture
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
from mixpanel._http.connections import build_request, send_guarded, sleep_out
from mixpanel._http.request import Send
from mixpanel._http.responses import Response
from mixpanel._runtime import background_loop
from mixpanel._runtime.safe_logging import logger
from mixpanel.exceptions import (
    ConfigurationError,
    DeliveryError,
    RateLimitError,
    RejectedRecord,
    ValidationError,
)
from mixpanel.settings import Limits, RetryPolicy, checked_callback

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from mixpanel._delivery.observer import Observer
    from mixpanel._http.connections import LoopConnections
    from mixpanel._http.request import Api
    from mixpanel._http.responses import TransportFailure
    from mixpanel._records.record import Record

__all__ = [
    "ImportInterrupted",
    "ImportJob",
    "ImportProgress",
    "ImportResult",
    "Rows",
    "import_rows",
]

INTERRUPTED = "interrupted"
CHUNK_SIZE = 500  # rows of a plain iterable that are read before other tasks run
MAX_CONCURRENCY = 32  # requests in flight: as many as there are connections
MAX_REASONS = 100  # distinct ones counted; a reason may quote a value, so there could be millions

Rows = Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class ImportJob:
    """An import: how a row becomes a record, where records are sent, and in what batches.

    `compose` raises `ValidationError` for a row that is rejected, and returns None for one that is
    left out. `gzip` None tries it, and continues without when the server rejects it.
    """

    compose: Callable[[Any], Record | None]
    api: Api
    connections: LoopConnections
    max_batch_size: int = Limits().max_batch_size
    max_batch_bytes: int = Limits().max_batch_bytes
    gzip: bool | None = True
    observer: Observer | None = None


@dataclass(frozen=True, slots=True)
class ImportProgress:
    """The progress of an import; all rows before `position` are imported or rejected."""

    position: int
    imported: int
    rejected: int
    bytes_sent: int
    in_flight: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ImportResult:
    """The result of an import.

    `rejected_records` holds the first rejected rows, with `index` counted from the start of the
    stream; `reasons` counts all of them. `position` is where to resume.
    """

    imported: int
    rejected: int
    rejected_records: tuple[RejectedRecord, ...]
    reasons: Mapping[str, int]
    position: int
    requests: int
    retried: int
    bytes_sent: int
    seconds: float

    @property
    def ok(self) -> bool:
        """Return True if every row was imported."""
        return self.rejected == 0


class ImportInterrupted(DeliveryError):  # noqa: N818 - it names what happened to the import
    """An import could not continue; `result.position` is where to resume with `start_at`.

    `__cause__` is the `DeliveryError` that stopped it, or the exception of the source of rows.
    Records after that position may have been imported too. Importing them again does no harm if
    their ids and times are unchanged.
    """

    def __init__(self, error: Exception, result: ImportResult) -> None:
        known = error if isinstance(error, DeliveryError) else None
        why = str(known) if known else f"reading the records failed: {_describe_error(error)}"
        super().__init__(
            f"the import stopped after {result.imported:,} records; resume with "
            f"start_at={result.position}: {why}",
            endpoint=known.endpoint if known else None,
            status=known.status if known else None,
            retry_after=known.retry_after if known else None,
        )
        self.result = result


@dataclass(slots=True)
class _Batch:
    """Records of the stream that are sent together, with their positions in it."""

    records: list[Record] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    first: int = 0
    bytes: int = 0


class _Import:
    def __init__(
        self,
        job: ImportJob,
        *,
        concurrency: int,
        retry: RetryPolicy,
        start_at: int,
        keep_rejected: int,
        on_progress: Callable[[ImportProgress], object] | None,
        on_rejected: Callable[[RejectedRecord], object] | None,
    ) -> None:
        self.job = job
        self.max_batch_bytes, self.gzip = job.max_batch_bytes, job.gzip
        self.max_concurrency, self.max_in_flight = concurrency, min(4.0, concurrency)
        self.retry = retry
        self.start_at, self.keep_rejected = start_at, keep_rejected
        self.on_progress, self.on_rejected = on_progress, on_rejected
        self.began = time.monotonic()
        self.imported = self.rejected = self.requests = self.retried = self.bytes_sent = 0
        self.rejected_records: list[RejectedRecord] = []
        self.reasons: Counter[str] = Counter()
        self.open: dict[int, _Batch] = {}  # batches in flight, by their first position
        self.batch_start: int | None = None  # first position of the batch that is being filled
        self.read_to = self.valid_until = start_at
        self.paused_until = 0.0
        self.error: DeliveryError | None = None
        self.source_error: Exception | None = None
        self.unreported: list[RejectedRecord] = []
        self.callback_failed = False
        self.slot_freed = anyio.Event()

    async def run(self, rows: Rows) -> ImportResult:
        try:
            async with (
                aclosing(self._chunks(rows)) as chunks,
                aclosing(self._batches(chunks)) as batches,
                anyio.create_task_group() as in_flight,
            ):
                async for batch in batches:
                    self.open[batch.first] = batch
                    while len(self.open) > self.max_in_flight and self.error is None:
                        self.slot_freed = anyio.Event()
                        await self.slot_freed.wait()
                    if self.error is not None:
                        break
                    in_flight.start_soon(self._send_batch, batch)
        except BaseExceptionGroup as group:
            if len(group.exceptions) == 1:
                raise group.exceptions[0] from None
            raise
        await self._report_rejected()
        error, result = self.error or self.source_error, self.result()
        if isinstance(error, ConfigurationError) and self.read_to == self.start_at:
            raise error  # of a source in this package, such as a missing column: nothing was read
        if error is not None:
            raise ImportInterrupted(error, result) from error
        return result

    async def _chunks(self, rows: Rows) -> AsyncGenerator[list[Any]]:
        """Read the source in chunks, a plain iterable in the thread of the caller.

        An exception of the source ends the stream; the rows before it are still sent.
        """
        try:
            if isinstance(rows, AsyncIterable):
                async with AsyncExitStack() as stack:
                    close = getattr(rows, "aclose", None)
                    if close is not None:
                        stack.push_async_callback(close)
                    async for row in rows:
                        yield [row]
                return
            iterator = await background_loop.call_in_caller_thread(lambda: iter(rows))
        except Exception as error:
            self.source_error = error
            return
        more = True
        while more:
            chunk: list[Any] = []
            # `extend` keeps the rows that came before an exception of the source.
            read = partial(chunk.extend, islice(iterator, CHUNK_SIZE))
            try:
                await background_loop.call_in_caller_thread(read)
                more = len(chunk) == CHUNK_SIZE
            except Exception as error:
                self.source_error, more = error, False
            yield chunk
            await anyio.lowlevel.checkpoint()  # let other tasks of the loop run

    async def _batches(self, chunks: AsyncGenerator[list[Any]]) -> AsyncGenerator[_Batch]:
        batch = _Batch()
        position = -1
        async for chunk in chunks:
            for row in chunk:
                position += 1
                if position < self.start_at:
                    continue
                record = self._compose(position, row)
                self.read_to = position + 1
                if record is not None:
                    size = len(record.body) + 1
                    if batch.records and (
                        batch.bytes + size > self.max_batch_bytes
                        or len(batch.records) >= self.job.max_batch_size
                    ):
                        self.batch_start = position
                        yield batch
                        batch = _Batch()
                    if not batch.records:
                        batch.first = self.batch_start = position
                    batch.records.append(record)
                    batch.positions.append(position)
                    batch.bytes += size
                    self.valid_until = position + 1
            if self.read_to - self.valid_until >= CHUNK_SIZE:
                self.valid_until = self.read_to
                await self._report_progress()  # no batch is sent that would report it
            await self._report_rejected()
        if batch.records:
            yield batch
        self.batch_start = None
        if position + 1 < self.start_at and self.source_error is None:
            raise ConfigurationError(
                f"start_at={self.start_at} is beyond the source, which has {position + 1} rows"
            )

    def _compose(self, position: int, row: Any) -> Record | None:
        composed = None
        try:
            return self.job.compose(row)
        except ValidationError as error:
            why, composed = str(error), error.record
        except ConfigurationError:
            raise  # not about this row but about all
        except Exception as error:  # of a value whose own methods fail
            why = f"the row cannot be encoded as JSON: {_describe_error(error)}"
        rejected = RejectedRecord(position, why, record=composed or _describe_row(row))
        self._reject(rejected)
        if self.job.observer is not None:
            self.job.observer.refused("imports", rejected.record, why)
        return None

    async def _send_batch(self, batch: _Batch) -> None:
        position_of = dict(zip(map(id, batch.records), batch.positions, strict=True))
        now = time.monotonic()
        for record in batch.records:
            record.enqueued_at = now
        if self.job.observer is not None:
            self.job.observer.queued(batch.records)
        try:
            await self._deliver(batch, position_of)
        finally:
            if self.job.observer is not None:  # of those with an outcome, this changes nothing
                self.job.observer.settled(batch.records, "dropped", INTERRUPTED)
        await self._report_progress()

    async def _deliver(self, batch: _Batch, position_of: dict[int, int]) -> None:
        # The same retries as of any batch; only what the steps do is different: a rate limit halves
        # the concurrency of the whole import.
        steps = delivery_steps(
            batch.records,
            policy=self.retry,
            clock=time.monotonic,
            random=random.random,
            gzip=self.gzip,
            classify=self.job.api.classify,
        )

        def apply(step: Step) -> None:
            self._apply(step, position_of)

        step = advance(steps, None, apply)
        while step is not None and self.error is None:
            reply = None
            if isinstance(step, Send):
                await sleep_out(lambda: self.paused_until - time.monotonic())
                reply = await self._sent(step)
            else:
                await anyio.sleep(step.seconds)
            step = advance(steps, reply, apply)
        if self.error is None:
            del self.open[batch.first]
            self.max_in_flight = min(self.max_concurrency, self.max_in_flight + 1)
        self.slot_freed.set()

    async def _sent(self, step: Send) -> Response | TransportFailure:
        api, connections = self.job.api, self.job.connections
        keep = capture.active
        if keep is not None:
            for record in step.records:
                keep(api.captured_as(record.endpoint), record.body)
            return Response(200, {}, b'{"code": 200, "status": "OK"}')

        async def send() -> Response | TransportFailure:
            request = await build_request(api, step)
            self.requests += 1
            self.bytes_sent += len(request.content)
            reply = await connections.attempt(request)
            if self.job.observer is not None:
                self.job.observer.attempted(step.records, request, step.retries, reply)
            return reply

        return await send_guarded(api.guard, connections, send)

    def _apply(self, step: Step, position_of: dict[int, int]) -> None:
        if isinstance(step, Resolve):
            self._settle(step, position_of)
        elif isinstance(step, Wait):
            self.retried += 1
            if isinstance(step.error, RateLimitError):
                self.max_in_flight = max(1.0, self.max_in_flight / 2)
                self.paused_until = max(self.paused_until, time.monotonic() + step.seconds)
        elif isinstance(step, ReduceBatchBytes):
            self.max_batch_bytes = min(self.max_batch_bytes, step.max_bytes)
        elif isinstance(step, Stop):
            self.error = step.error
        else:
            assert isinstance(step, DisableGzip)
            self.gzip = False

    def _settle(self, step: Resolve, position_of: dict[int, int]) -> None:
        if self.job.observer is not None:
            self._observe_outcome(self.job.observer, step)
        if step.fate == "delivered":
            self.imported += len(step.records)
            return
        if step.fate == "dropped":
            # Records are dropped only when retries ran out: stop, rather than try all the others.
            self.error = step.error
            return
        why = {one.index: one for one in step.error.rejected_records} if step.error else {}
        for (_, one), record in zip(sorted(why.items()), step.records, strict=False):
            self._reject(
                RejectedRecord(
                    position_of[id(record)], one.message, one.field, one.insert_id, one.record
                )
            )

    def _observe_outcome(self, observer: Observer, step: Resolve) -> None:
        if step.fate != "rejected" or step.error is None:
            observer.settled(step.records, step.fate, step.reason)
            return
        why = sorted((one.index, one.message) for one in step.error.rejected_records)
        for (_, message), record in zip(why, step.records, strict=False):
            observer.settled([record], step.fate, message)

    def _reject(self, rejected: RejectedRecord) -> None:
        self.rejected += 1
        known = rejected.message in self.reasons or len(self.reasons) < MAX_REASONS
        self.reasons[rejected.message if known else "other reasons"] += 1
        if len(self.rejected_records) < self.keep_rejected:
            self.rejected_records.append(rejected)
        if self.on_rejected is not None:
            self.unreported.append(rejected)

    def _position(self) -> int:
        """Return the first position that is not settled: everything before it needs no repeat."""
        unsent = self.read_to if self.batch_start is None else self.batch_start
        return min([*self.open, unsent])

    async def _report_progress(self) -> None:
        await self._report_rejected()
        if self.on_progress is not None:
            now = ImportProgress(
                self._position(),
                self.imported,
                self.rejected,
                self.bytes_sent,
                len(self.open),
                time.monotonic() - self.began,
            )
            await self._call(self.on_progress, [now])

    async def _report_rejected(self) -> None:
        if self.unreported and self.on_rejected is not None:
            unreported, self.unreported = self.unreported, []
            await self._call(self.on_rejected, unreported)

    async def _call(self, callback: Callable[[Any], object], arguments: list[Any]) -> None:
        def call_each() -> None:
            for argument in arguments:
                try:
                    callback(argument)
                except Exception:  # an error of users' code must not stop the import
                    if not self.callback_failed:
                        self.callback_failed = True
                        logger.exception("on_progress or on_rejected raised an exception")

        await background_loop.call_in_caller_thread(call_each)

    def result(self) -> ImportResult:
        return ImportResult(
            self.imported,
            self.rejected,
            tuple(sorted(self.rejected_records, key=lambda one: one.index)),
            dict(self.reasons),
            self._position(),
            self.requests,
            self.retried,
            self.bytes_sent,
            time.monotonic() - self.began,
        )


def _describe_error(error: Exception) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # its __str__ raised, too
        return type(error).__name__


def _describe_row(event: Any) -> dict[str, Any]:
    try:
        return dict(event) if isinstance(event, Mapping) else {"value": repr(event)[:200]}
    except Exception:
        return {"value": f"<{type(event).__name__}>"}


async def import_rows(
    rows: Rows,
    job: ImportJob,
    *,
    concurrency: int = 20,
    start_at: int = 0,
    keep_rejected: int = 1000,
    retry: RetryPolicy | None = None,
    on_progress: Callable[[ImportProgress], object] | None = None,
    on_rejected: Callable[[RejectedRecord], object] | None = None,
) -> ImportResult:
    """Import a stream of rows; see `AsyncMixpanel.import_events`."""
    if isinstance(rows, (str, bytes, Mapping)):
        raise ConfigurationError(
            f"rows must be an iterable of mappings, not a {type(rows).__name__}"
        )
    for name, value in (("concurrency", concurrency), ("start_at", start_at)):
        if not isinstance(value, int):
            raise ConfigurationError(f"{name}={value!r} must be a whole number")
    if not 1 <= concurrency <= MAX_CONCURRENCY:
        raise ConfigurationError(
            f"concurrency={concurrency!r} must be between 1 and {MAX_CONCURRENCY}"
        )
    if start_at < 0:
        raise ConfigurationError(f"start_at={start_at!r} must not be negative")
    checked_callback(on_progress, "on_progress")
    checked_callback(on_rejected, "on_rejected")
    return await _Import(
        job,
        concurrency=concurrency,
        retry=retry or RetryPolicy(),
        start_at=start_at,
        keep_rejected=keep_rejected,
        on_progress=on_progress,
        on_rejected=on_rejected,
    ).run(rows)
