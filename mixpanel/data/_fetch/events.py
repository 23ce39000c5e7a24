"""Fetch events into the local database.

A range of days becomes chunks; a chunk is one call of the export API, whose response goes byte for
byte into a part file; DuckDB reads the part files, so Python never parses an event. Parts are
loaded into a staging table, and the fetch log notes their days in the same transaction. That is
why an interrupted fetch continues where it stopped, and why the table appears, in one transaction
at the end, only when all of it is there.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import anyio

from mixpanel._runtime.safe_logging import logger
from mixpanel.data._fetch.plan import (
    CLOCK_SKEW,
    Chunk,
    Part,
    as_day,
    chunks,
    end_of_day,
    is_reusable,
    ranges,
    today,
    whole,
)
from mixpanel.data._fetch.progress import Progress, log_exceptions
from mixpanel.data._fetch.query import EventQuery
from mixpanel.data._fetch.tasks import unwrap_exception_group, when_unlocked
from mixpanel.data.exceptions import (
    APIError,
    ConfigError,
    InterruptedFetchError,
    RateLimitError,
    ServerError,
    TruncatedError,
    UnreadablePartError,
)
from mixpanel.data.results import BatchProgress, FetchPlan, FetchResult
from mixpanel.data.store.part_files import GZIP, PLAIN

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from mixpanel.data._fetch.tasks import WriterThread
    from mixpanel.data.api import AsyncAPI
    from mixpanel.data.results import TypedTable
    from mixpanel.data.store import Database, Load, Staged

__all__ = ["create_sync_query", "fetch_events", "plan_events"]

ATTEMPTS = 3  # for a chunk whose response arrives whole but cannot be loaded
MAX_LOOKBACK_DAYS = 36_500
MAX_CONSECUTIVE_FAILURES = 3  # chunks; after that the rest is not tried
PARTS_PER_LOAD = 16


def create_sync_query(
    database: Database,
    name: str = "events",
    *,
    lookback_days: int = 5,
    from_date: str | date | None = None,
    to_date: str | date | None = None,
    events: Sequence[str] | str | None = None,
    where: str | None = None,
    max_workers: int | None = None,
    chunk_days: int | None = None,
    project_timezone: str | None = None,
) -> EventQuery:
    """Return a query for the days that a table lacks, and those fetched too early to be complete.

    :raises ConfigError: without a `from_date` when the table has no days yet, and for an argument
        that is invalid or does not fit the table.
    """
    whole("lookback_days", lookback_days, 0, MAX_LOOKBACK_DAYS)
    fetched_at = database.fetched_days(name)
    if from_date is None and not fetched_at:
        raise ConfigError(f"{name} has no days yet: pass from_date, the first day to fetch")
    query = EventQuery.create(
        name,
        from_date=min(fetched_at) if from_date is None else as_day(from_date, "from_date"),
        to_date=today(project_timezone) if to_date is None else to_date,
        events=events,
        where=where,
        max_workers=max_workers,
        chunk_days=chunk_days,
        project_timezone=project_timezone,
    )
    # Also when no day is missing: other filters must be refused every time or never.
    database.check_events(name, filters=query.filters, mode="sync")
    lookback, latest = timedelta(days=lookback_days), datetime.now(UTC) + CLOCK_SKEW
    complete = {
        day
        for day, at in fetched_at.items()
        if end_of_day(day, project_timezone) + lookback <= at <= latest
    }
    return replace(query, days=tuple(day for day in query.days if day not in complete), mode="sync")


def plan_events(api: AsyncAPI, database: Database, query: EventQuery) -> FetchPlan:
    """Return what a fetch would do and cost, without a call."""
    done = database.staged_days(query.name, query.filters, query.mode)
    calls_left = api.export_limiter.remaining()
    missing = _missing_chunks(query, done, calls_left)
    days = query.days or (today(query.filters.project_timezone),)  # up to date: nothing to do
    return FetchPlan(
        table=query.name,
        from_date=days[0],
        to_date=days[-1],
        chunks=tuple((chunk.from_date, chunk.to_date) for chunk in missing),
        days=sum(chunk.days for chunk in missing),
        calls=len(missing),
        calls_left=calls_left,
        already_done=len(done),
    )


def _missing_chunks(query: EventQuery, done: Collection[date], calls: int) -> list[Chunk]:
    days = [day for day in query.days if day not in done]
    return chunks(days, calls, size=query.chunk_days)


async def fetch_events(
    api: AsyncAPI,
    database: Database,
    writer: WriterThread,
    query: EventQuery,
    *,
    on_progress: Callable[[Progress], object] | None = None,
    on_batch: Callable[[BatchProgress], object] | None = None,
) -> FetchResult:
    """Fetch events into the table of the query, as `AsyncWorkspace.fetch_events` describes."""
    return await _EventFetch(api, database, writer, query, on_progress, on_batch).run()


class _EventFetch:
    """One fetch of events, from the first call to the finished table.

    Downloads run concurrently, one task for each chunk. Loading is serial: each task puts its part
    into `queue` and waits; one loader task takes up to 16 at a time, because one transaction for
    16 parts costs far less than 16 transactions.
    """

    def __init__(
        self,
        api: AsyncAPI,
        database: Database,
        writer: WriterThread,
        query: EventQuery,
        on_progress: Callable[[Progress], object] | None,
        on_batch: Callable[[BatchProgress], object] | None,
    ) -> None:
        self.api, self.database, self.writer, self.query = api, database, writer, query
        self.on_progress, self.on_batch = log_exceptions(on_progress), log_exceptions(on_batch)
        self.started = time.monotonic()
        self.days = self.days_done = self.rows = self.bytes = 0
        self.calls = self.downloads = self.batches = self.batches_done = 0
        self.repaired = self.without_time = self.unreadable = 0
        self.unreadable_files: list[str] = []
        self.consecutive_failures = 0
        self.failed: list[tuple[Chunk, APIError]] = []
        self.downloading = anyio.Semaphore(query.concurrency)
        self.queue: list[_QueuedPart] = []
        self.queue_filled = anyio.Event()
        self.load: Load

    async def run(self) -> FetchResult:
        """Fetch the days, load them, and put the table in place."""
        query = self.query
        if not query.days:
            return self._result(0, 0)
        self.load = await self.writer(self._begin)
        try:
            return await self._run()
        finally:
            self.load.stop()

    async def _run(self) -> FetchResult:
        query = self.query
        with unwrap_exception_group():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._load_queued_parts)
                done = (
                    set(await self.writer(lambda: self.load.done))
                    | await self._load_left_over_parts()
                )
                missing = _missing_chunks(query, done, self.api.export_limiter.remaining())
                self.days, self.batches = sum(chunk.days for chunk in missing), len(missing)
                self._report_progress()
                if query.filters.limit is None:
                    await self._fetch_all(missing)
                else:
                    await self._fetch_in_order(missing, query.filters.limit)
                tasks.cancel_scope.cancel()  # the loader would wait for more parts forever
        if self.failed:
            failed = ranges(day for chunk, _ in self.failed for day in chunk)
            _, error = self.failed[0]
            spans = [(str(chunk.from_date), str(chunk.to_date)) for chunk in failed]
            raise InterruptedFetchError(query.name, spans, error.message) from error
        loaded = await self.writer(lambda: self.load.finish(limit=query.filters.limit))
        return self._result(loaded.rows, loaded.merged, loaded.typed)

    def _result(self, rows: int, merged: int, typed: TypedTable | None = None) -> FetchResult:
        days = self.query.days
        return FetchResult(
            table=self.query.name,
            rows=rows,
            type="events",
            duration_seconds=time.monotonic() - self.started,
            date_range=(str(days[0]), str(days[-1])) if days else None,
            fetched_at=datetime.now(UTC),
            merged=merged,
            repaired=self.repaired,
            without_time=self.without_time,
            unreadable=self.unreadable,
            unreadable_files=tuple(sorted(set(self.unreadable_files))),
            requests=self.calls,
            retried=self.calls - self.downloads,
            bytes=self.bytes,
            chunks=self.batches_done,
            typed=typed,
        )

    def _begin(self) -> Load:
        query = self.query
        return self.database.begin_events(
            query.name,
            filters=query.filters,
            mode=query.mode,
            days=query.days,
            mixed=query.mixed,
        )

    # ---- download -----------------------------------------------------------------------------

    async def _fetch_all(self, missing: Sequence[Chunk]) -> None:
        async with anyio.create_task_group() as fetches:
            for chunk in missing:
                fetches.start_soon(self._fetch, chunk)

    async def _fetch_in_order(self, missing: Sequence[Chunk], limit: int) -> None:
        """Fetch chunk after chunk until the limit is reached, so that no call is wasted."""
        for chunk in missing:
            await self._fetch(chunk)
            if self.rows >= limit or self.failed:
                return

    async def _fetch(self, chunk: Chunk) -> None:
        """Download and load a chunk.

        The API client has retried failed requests already. What is repeated here are exports that
        arrived as a success, and turned out to be truncated, unreadable or the web page of a proxy.
        """
        error: APIError | None = None
        for _ in range(ATTEMPTS):
            try:
                async with self.downloading:
                    # Checked with the slot in hand: earlier chunks may have failed meanwhile.
                    if self.consecutive_failures >= MAX_CONSECUTIVE_FAILURES:
                        return self._chunk_failed(chunk, self.failed[-1][1])
                    part = await self._download(chunk)
            except (ServerError, RateLimitError, TruncatedError) as failure:
                error = failure
                if failure.status_code == 200:  # a proxy's web page: the next may be the export
                    continue
                break
            if isinstance(error, TruncatedError):
                part = replace(part, earlier_end=error.tail)
            staged = await self._stage(part)
            if staged.error is None:
                self.consecutive_failures = 0
                return self._chunk_ended(chunk, staged.rows, None)
            was_unreadable = isinstance(error, UnreadablePartError)
            error = staged.error
            if was_unreadable and isinstance(error, UnreadablePartError):
                break  # unreadable twice: a third download would be the same
        assert error is not None
        return self._chunk_failed(chunk, error)

    async def _download(self, chunk: Chunk) -> Part:
        path = self.database.parts / f"{self.load.key}_{chunk.from_date}_{chunk.to_date}.partial"
        downloaded = await self.api.download(
            path, self.query.params(chunk), on_bytes=self._bytes_arrived
        )
        self.calls += downloaded.attempts
        self.downloads += 1
        part = Part(
            path.with_suffix(GZIP if downloaded.gzip else PLAIN),
            chunk,
            downloaded.bytes,
            downloaded.gzip,
            digest=downloaded.digest,
        )

        # Recorded before it gets its final name, as files that are not in the log are not trusted.
        # Shielded, as a cancellation in between would leave a file without its final name.
        def record() -> None:
            self.database.record_part(self.load, part)
            downloaded.path.rename(part.path)

        await when_unlocked(record, shield=True)
        return part

    def _bytes_arrived(self, count: int) -> None:
        self.bytes += count
        self._report_progress()

    # ---- load ---------------------------------------------------------------------------------

    async def _load_left_over_parts(self) -> set[date]:
        """Load what an interrupted fetch had downloaded but not loaded; return its days."""
        done: set[date] = set()
        for part in await self.writer(self._left_over_parts):
            staged = await self._stage(part)
            if staged.error is None:
                done.update(part.chunk)
        return done

    def _left_over_parts(self) -> list[Part]:
        wanted = set(self.query.days) - self.load.done
        now, zone = datetime.now(UTC), self.query.filters.project_timezone
        parts = []
        for part in self.database.reusable_parts(self.load):
            received_at = part.received_at or now
            if wanted.issuperset(part.chunk) and all(
                is_reusable(day, received_at, now, zone) for day in part.chunk
            ):
                wanted -= set(part.chunk)
                parts.append(part)
            else:
                part.path.unlink(missing_ok=True)
        return parts

    async def _stage(self, part: Part) -> Staged:
        """Queue a part for the loader, and wait until it is in the staging table."""
        queued = _QueuedPart(part)
        self.queue.append(queued)
        self.queue_filled.set()
        await queued.loaded.wait()
        staged = queued.staged
        assert staged is not None
        self.repaired += staged.repaired
        self.without_time += staged.without_time
        self.unreadable += staged.unreadable
        if staged.kept_in is not None:
            self.unreadable_files.append(str(staged.kept_in))
            logger.warning(
                "%s lines of the export of %s cannot be read as events; they are kept in %s",
                staged.unreadable,
                part.chunk,
                staged.kept_in,
            )
        return staged

    async def _load_queued_parts(self) -> None:
        while True:
            await self.queue_filled.wait()
            # Renewed before the queue is emptied: a part that arrives meanwhile sets the new event.
            self.queue_filled = anyio.Event()
            while self.queue:
                batch, self.queue = self.queue[:PARTS_PER_LOAD], self.queue[PARTS_PER_LOAD:]
                results = await self.writer(
                    partial(self._load_parts, [queued.part for queued in batch])
                )
                for queued, staged in zip(batch, results, strict=True):
                    queued.staged = staged
                    queued.loaded.set()

    def _load_parts(self, parts: list[Part]) -> list[Staged]:
        staged = self.load.stage(parts)
        for part in parts:
            part.path.unlink()
        return staged

    # ---- progress -----------------------------------------------------------------------------

    def _chunk_failed(self, chunk: Chunk, error: APIError) -> None:
        self.consecutive_failures += 1
        self.failed.append((chunk, error))
        self._chunk_ended(chunk, 0, error)

    def _chunk_ended(self, chunk: Chunk, rows: int, error: APIError | None) -> None:
        self.batches_done += 1
        self.rows += rows
        self.days_done += chunk.days
        if self.on_batch is not None:
            self.on_batch(
                BatchProgress(
                    from_date=str(chunk.from_date),
                    to_date=str(chunk.to_date),
                    batch_index=self.batches_done - 1,
                    total_batches=self.batches,
                    rows=rows,
                    success=error is None,
                    error=None if error is None else error.message,
                )
            )
        self._report_progress()

    def _report_progress(self) -> None:
        if self.on_progress is not None:
            self.on_progress(
                Progress(
                    self.query.name,
                    self.days_done,
                    self.days,
                    self.rows,
                    self.bytes,
                    self.calls,
                    time.monotonic() - self.started,
                )
            )


class _QueuedPart:
    """A downloaded part that waits for the loader."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.loaded = anyio.Event()
        self.staged: Staged | None = None
