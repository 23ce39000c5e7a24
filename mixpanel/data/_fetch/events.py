"""Fetch events into the local database.

A range of days becomes chunks; a chunk is one call of the export API, whose response goes byte for
byte into a part file; DuckDB reads the part files, so Python never parses an event. Parts are
loaded into a staging table, and the fetch log notes their days in the same transaction. That is
why an interrupted fetch continues where it stopped, and why the table appears, in one transaction
at the end, only when all of it is there.

Days that keep failing are recorded, and tried last by the next fetch. A chunk of several days that
fails is fetched in halves, so that one day does not hold back the others. With `partial` the table
appears without the days that failed; a day that has not begun in the project's time zone is left
out in any case.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import anyio

from mixpanel._runtime.safe_logging import logger
from mixpanel.data._fetch.plan import (
    CLOCK_SKEW,
    Chunk,
    Part,
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
    QueryError,
    RateLimitError,
    RequestLimitError,
    ServerError,
    TruncatedError,
    UnreadablePartError,
)
from mixpanel.data.results import BatchProgress, FailedDays, FetchPlan, FetchResult
from mixpanel.data.store.part_files import GZIP, PLAIN

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from mixpanel.data._fetch.tasks import WriterThread
    from mixpanel.data.api import AsyncAPI
    from mixpanel.data.store import Database, Load, Loaded, Staged
    from mixpanel.data.store.fetch_log import FailedDay

__all__ = ["create_sync_query", "fetch_events", "fill_gaps", "plan_events"]

ATTEMPTS = 3  # for a chunk whose response arrives whole but cannot be loaded
MAX_LOOKBACK_DAYS = 36_500
MAX_CONSECUTIVE_FAILURES = 3  # chunks; after that the rest is not tried
MAX_DIVIDED = 16  # chunks that failed and are fetched in halves
MAX_REJECTED = 3  # of these while Mixpanel has accepted no call
MAX_SINGLE_DAYS = 10  # days that failed before are fetched alone, unless there are more
PARTS_PER_LOAD = 16
NOT_BEGUN = "it may not have begun in the project's time zone"
FETCH_AGAIN = (
    "repeat the fetch, which continues with the missing days, or pass partial=True to have the "
    "table without them"
)
NOTHING_FETCHED = "no other day was fetched either; repeat the fetch"
REPLACES_NOTHING = "the old table has these days, and stays; repeat the fetch"
NOT_BEGUN_HINT = (
    "the last day may not have begun in the project's time zone: pass "
    "project_timezone='America/Los_Angeles' or the like, or an earlier to_date=…"
)


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
    partial: bool = False,
    max_requests: int | None = None,
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
        from_date=database.first_day(name) if from_date is None else from_date,  # type: ignore[arg-type]
        to_date=today(project_timezone) if to_date is None else to_date,
        events=events,
        where=where,
        max_workers=max_workers,
        chunk_days=chunk_days,
        project_timezone=project_timezone,
        partial=partial,
        max_requests=max_requests,
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


def fill_gaps(database: Database, query: EventQuery) -> EventQuery:
    """Return the query for the missing days of a table that an equal fetch has left with gaps.

    Any other query is returned as it is.
    """
    failed = [each for each in database.failed_days(query.name, query.filters) if each.is_gap]
    if query.mode == "replace":
        failed = [each for each in failed if each.mode == "replace"]
    in_table = database.reusable_days(query.name, query.filters)
    days = tuple(day for day in query.days if day not in in_table)
    gaps = {each.day for each in failed}.intersection(days)
    if query.mode == "sync" or not gaps or not database.has_table(query.name):
        return query
    return replace(query, days=days, mode="append")


def plan_events(api: AsyncAPI, database: Database, query: EventQuery) -> FetchPlan:
    """Return what a fetch would do and cost, without a call."""
    done = database.staged_days(query.name, query.filters, query.mode)
    calls_left = api.export_limiter.remaining()
    failed = database.failed_days(query.name, query.filters)
    missing = _missing_chunks(query, done, calls_left, failed)
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


def _missing_chunks(
    query: EventQuery, done: Collection[date], calls: int, failed: Collection[FailedDay]
) -> list[Chunk]:
    """Return the chunks to fetch, those last that failed before."""
    days = [day for day in query.days if day not in done]
    failed_days = {each.day for each in failed if not each.skipped}.intersection(days)
    if not failed_days or query.filters.limit is not None:
        return chunks(days, calls, size=query.chunk_days)
    again = chunks(failed_days, MAX_SINGLE_DAYS, size=query.chunk_days)
    others = [day for day in days if day not in failed_days]
    return [*chunks(others, calls - len(again), size=query.chunk_days), *again]


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
        self.calls = self.downloads = self.batches = self.batches_done = self.loaded = 0
        self.repaired = self.without_time = self.unreadable = 0
        self.unreadable_files: list[str] = []
        self.consecutive_failures = 0
        self.accepted = False  # whether Mixpanel accepts such a query, at least for some days
        self.failed: list[_Failure] = []
        self.gaps: set[date] = set()
        self.downloading = anyio.Semaphore(query.concurrency)
        self.queue: list[_QueuedPart] = []
        self.queue_filled = anyio.Event()
        self.load: Load

    async def run(self) -> FetchResult:
        """Fetch the days, load them, and put the table in place."""
        query = self.query
        if not query.days:
            return self._result(None)
        if query.max_requests is not None:
            await self.writer(self._check_requests)
        self.load = await self.writer(self._begin)
        try:
            return await self._run()
        finally:
            self.load.stop()

    def _check_requests(self) -> None:
        query = fill_gaps(self.database, self.query)
        self.database.check_events(
            query.name, filters=query.filters, mode=query.mode, mixed=query.mixed
        )
        calls = plan_events(self.api, self.database, query).calls
        if query.max_requests is not None and calls > query.max_requests:
            raise RequestLimitError(query.name, calls, query.max_requests)

    async def _run(self) -> FetchResult:
        query = self.query
        with unwrap_exception_group():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._load_queued_parts)
                done = (
                    set(await self.writer(lambda: self.load.done))
                    | await self._load_left_over_parts()
                )
                self.accepted = bool(done) or await self.writer(lambda: self.load.extends_table)
                failed = await self.writer(
                    lambda: self.database.failed_days(query.name, query.filters)
                )
                self.gaps = {each.day for each in failed if each.is_gap}
                calls_left = self.api.export_limiter.remaining()
                missing = _missing_chunks(query, done, calls_left, failed)
                self.days, self.batches = sum(chunk.days for chunk in missing), len(missing)
                self._report_progress()
                if query.filters.limit is None:
                    await self._fetch_all(missing)
                    await self._retry_failed()
                else:
                    await self._fetch_in_order(missing, query.filters.limit)
                tasks.cancel_scope.cancel()  # the loader would wait for more parts forever
        return await self._finish()

    async def _finish(self) -> FetchResult:
        future = self._future_days()
        skipped = {day for each in self.failed if each.skipped for day in each.chunk}
        reasons = {
            day: each.reason for each in self.failed for day in each.chunk if day not in future
        }
        outdated = await self.writer(lambda: self.load.kept_days(reasons))
        staged = await self.writer(lambda: self.load.done)
        replaces = self.query.mode == "replace" and outdated
        # Without any day, there is a result only if the table is known to lack these days.
        has_result = staged or self.gaps.issuperset(reasons)
        if reasons and not (self.query.partial and has_result and not replaces):
            await self.writer(lambda: self.load.record_failed(reasons, skipped))
            if not staged:  # nothing to resume
                await self.writer(self.load.abandon)
            raise self._error(reasons, kept=bool(replaces and staged))
        loaded = None
        if staged:
            loaded = await self.writer(
                lambda: self.load.finish(
                    self.query.filters.limit, failed=reasons, skipped=skipped, future=future
                )
            )
        else:  # the days have not begun, or are gaps that stay
            await self.writer(lambda: self.load.record_failed(reasons, skipped))
            await self.writer(self.load.abandon)
        return self._result(loaded, self._failed_days(future, outdated))

    def _future_days(self) -> set[date]:
        """Return the days that were rejected because they have not begun for the project.

        East of the project it is tomorrow already: only the last days can be such days, and only
        if other days are accepted.
        """
        return {
            day
            for each in self.failed
            if self.accepted and each.may_be_future and each.chunk.from_date >= today()
            for day in each.chunk
        }

    def _failed_days(
        self, future: Collection[date], outdated: Collection[date]
    ) -> tuple[FailedDays, ...]:
        found = []
        for failure in sorted(self.failed, key=lambda each: each.chunk):
            days = {
                "future": [day for day in failure.chunk if day in future],
                "outdated": [day for day in failure.chunk if day in outdated],
                "missing": [
                    day for day in failure.chunk if day not in future and day not in outdated
                ],
            }
            found += [
                FailedDays(
                    str(chunk.from_date),
                    str(chunk.to_date),
                    state,  # type: ignore[arg-type]  # of the three above
                    NOT_BEGUN if state == "future" else failure.reason,
                )
                for state, some in days.items()
                for chunk in ranges(some)
            ]
        return tuple(found)

    def _error(self, days: Collection[date], *, kept: bool) -> Exception:
        """Return the error for days that could not be fetched; `kept`, if the old table stays."""
        first = self.failed[0].error
        last = max(days)
        may_be_future = self.failed[0].may_be_future and last >= today()
        if not self.accepted and isinstance(first, QueryError):
            if may_be_future:
                first.add_note(NOT_BEGUN_HINT)
            return first
        spans = [(str(chunk.from_date), str(chunk.to_date)) for chunk in ranges(days)]
        hint = FETCH_AGAIN
        if may_be_future:
            hint = NOT_BEGUN_HINT
        elif self.query.partial:
            hint = REPLACES_NOTHING if kept else NOTHING_FETCHED
        error = InterruptedFetchError(self.query.name, spans, first.message, hint)
        error.__cause__ = first
        return error

    def _result(self, loaded: Loaded | None, failed: tuple[FailedDays, ...] = ()) -> FetchResult:
        days = self.query.days
        changes = None if loaded is None else loaded.changes
        nothing = 0 if loaded is None else None  # a table that is up to date
        return FetchResult(
            table=self.query.name,
            rows=0 if loaded is None else loaded.rows,
            type="events",
            duration_seconds=time.monotonic() - self.started,
            date_range=(str(days[0]), str(days[-1])) if days else None,
            fetched_at=datetime.now(UTC),
            merged=0 if loaded is None else loaded.merged,
            repaired=self.repaired,
            without_time=self.without_time,
            unreadable=self.unreadable,
            unreadable_files=tuple(sorted(set(self.unreadable_files))),
            requests=self.calls,
            retried=self.calls - self.downloads,
            bytes=self.bytes,
            chunks=self.loaded,
            new=nothing if changes is None else changes.new,
            changed=nothing if changes is None else changes.changed,
            unchanged=nothing if changes is None else changes.unchanged,
            vanished=nothing if changes is None else changes.vanished,
            failed=failed,
            typed=None if loaded is None else loaded.typed,
        )

    def _begin(self) -> Load:
        self.query = query = fill_gaps(self.database, self.query)
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
            if self.rows >= limit or (self.failed and not self.query.partial):
                return

    async def _retry_failed(self) -> None:
        """Find the days that keep failing, and fetch those that were skipped because of them."""
        await self._try_skipped()
        await self._divide_failed()
        if await self._fetch_skipped():
            await self._divide_failed()

    async def _fetch_skipped(self) -> bool:
        """Fetch skipped chunks, if Mixpanel accepts other ones; return True if it did."""
        skipped = [each for each in self.failed if each.skipped]
        if not skipped or not self.accepted or self._server_is_down:
            return False
        await self._fetch_again(skipped)
        return True

    @property
    def _server_is_down(self) -> bool:
        return self.consecutive_failures >= MAX_CONSECUTIVE_FAILURES

    async def _try_skipped(self) -> None:
        """Try one chunk more if the first were all rejected, and then the others.

        The query may be wrong, or only those days, as days before those that the plan includes.
        """
        skipped = [each for each in self.failed if each.skipped]
        tried = [each for each in self.failed if not each.skipped]
        if self.accepted or not skipped or not all(each.is_rejected for each in tried):
            return
        await self._fetch_again([skipped[len(skipped) // 2]])
        await self._fetch_skipped()

    async def _fetch_again(self, failures: Collection[_Failure]) -> None:
        self.failed = [each for each in self.failed if each not in failures]
        self.days_done -= sum(each.chunk.days for each in failures)
        self.batches_done -= sum(each.skipped for each in failures)
        self.consecutive_failures = 0
        await self._fetch_all([each.chunk for each in failures])

    async def _divide_failed(self) -> None:
        """Fetch chunks that failed in halves, to find the days that keep failing.

        A chunk is given up when both of its halves fail, unless it is short.
        """
        for divided in range(MAX_DIVIDED):
            if divided == MAX_REJECTED and not self.accepted and self.failed[0].is_rejected:
                return  # the query itself must be wrong
            failure = next(filter(self._may_divide, self.failed), None)
            if failure is None:
                return
            self.failed.remove(failure)
            self.consecutive_failures = 0
            halves, before = _halves(failure.chunk), len(self.failed)
            self.days_done -= failure.chunk.days
            self.batches += len(halves)
            await self._fetch_all(halves)
            is_long = failure.chunk.days > MAX_DIVIDED
            if len(self.failed) == before + len(halves) and is_long:
                failure.is_final = True
                self.failed[before:] = [failure]

    def _may_divide(self, failure: _Failure) -> bool:
        if failure.is_final or failure.skipped or failure.chunk.days == 1:
            return False
        if failure.is_rejected and not self.accepted:  # the query itself may be wrong
            with_today = failure.may_be_future and failure.chunk.to_date >= today()
            return self.query.partial or with_today
        if isinstance(failure.error, TruncatedError | UnreadablePartError):
            return True  # an export that ends early may be too long
        return self.accepted and not self._server_is_down

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
                    if self._server_is_down:
                        return self._chunk_failed(chunk, self.failed[-1].error, skipped=True)
                    part = await self._download(chunk)
            except QueryError as failure:
                self.calls += 1
                self.downloads += 1
                return self._chunk_failed(chunk, failure)
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
                self.accepted = True
                self.loaded += 1
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

        async def load(part: Part) -> None:
            staged = await self._stage(part)
            if staged.error is None:
                done.update(part.chunk)

        async with anyio.create_task_group() as loads:
            for part in await self.writer(self._left_over_parts):
                loads.start_soon(load, part)
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

    def _chunk_failed(self, chunk: Chunk, error: APIError, *, skipped: bool = False) -> None:
        failure = _Failure(chunk, error, skipped=skipped)
        self.failed.append(failure)
        # A server that rejects one day, and accepts others, is not down.
        if not (failure.is_rejected and self.accepted):
            self.consecutive_failures += 1
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


@dataclass(slots=True, eq=False)
class _Failure:
    """A chunk that could not be fetched; `is_final` if its halves could not either."""

    chunk: Chunk
    error: APIError
    skipped: bool = False
    is_final: bool = False

    @property
    def is_rejected(self) -> bool:
        """Whether Mixpanel has rejected the call, which repeating would not change."""
        return isinstance(self.error, QueryError)

    @property
    def may_be_future(self) -> bool:
        """Whether Mixpanel may have rejected the call because a day has not begun."""
        return not self.skipped and self.is_rejected and self.error.status_code == 400

    @property
    def reason(self) -> str:
        """Why it could not be fetched."""
        if self.skipped:
            return f"not tried after other days had failed: {self.error.message}"
        return self.error.message


def _halves(chunk: Chunk) -> list[Chunk]:
    """Return the two halves of a chunk; days that may not have begun are one of them."""
    now = today()
    first, last = chunk.from_date, chunk.to_date
    is_split_today = first < now <= last
    second = now if is_split_today else first + timedelta(days=(chunk.days + 1) // 2)
    return [Chunk(first, second - timedelta(days=1)), Chunk(second, last)]


class _QueuedPart:
    """A downloaded part that waits for the loader."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.loaded = anyio.Event()
        self.staged: Staged | None = None
