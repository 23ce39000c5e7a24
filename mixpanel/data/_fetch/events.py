"""Fetch events and profiles once, into the local database.

A range of days becomes chunks, a chunk becomes one call, its answer a part file with the bytes as
they were sent, and DuckDB reads the parts: Python never parses an event. What is loaded is noted
in the ledger in the same transaction, so an interrupted fetch goes on where it stopped, and the
table appears only when all of it is there.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from mixpanel._runtime.safe_logging import logger
from mixpanel.data._fetch.plan import (
    SKEW,
    Chunk,
    Part,
    as_day,
    chunks,
    end,
    holds,
    ranges,
    today,
    whole,
)
from mixpanel.data._fetch.query import EventQuery
from mixpanel.data._fetch.tasks import Progress, guarded, unwrap_exception_group
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
    from datetime import date

    from mixpanel.data._fetch.plan import Day
    from mixpanel.data._fetch.tasks import Writer
    from mixpanel.data.api import AsyncAPI
    from mixpanel.data.store import Database, Load, Staged

__all__ = ["fetch_events", "plan_events", "plan_sync", "to_sync"]

ATTEMPTS = 3  # for a day whose answer arrives whole but cannot be read
CENTURY = 36_500  # days
HOPELESS = 3  # days in a row that fail before the rest is not even tried
TOGETHER = 16  # parts that one load takes


def to_sync(
    database: Database,
    name: str,
    lookback_days: int,
    from_date: Day | None,
    to_date: Day | None,
    **options: Any,
) -> EventQuery:
    """Choose the days that a table lacks, and those that were fetched too early to be final.

    :raises ConfigError: without a `from_date` when the table has no days yet, and for what cannot
        be added to the table.
    """
    whole("lookback_days", lookback_days, 0, CENTURY)
    has = database.fetched_days(name)
    if from_date is None and not has:
        raise ConfigError(f"{name} has no days yet: say from_date, where to begin")
    first = min(has) if from_date is None else as_day(from_date, "from_date")
    zone = options.get("project_timezone")
    last = today(zone) if to_date is None else to_date
    asked = EventQuery.checked(name, first, last, **options)
    database.check_events(name, filters=asked.filters, mode="sync")
    patience, latest = timedelta(days=lookback_days), datetime.now(UTC) + SKEW
    final = {day for day, at in has.items() if end(day, zone) + patience <= at <= latest}
    return replace(asked, days=tuple(day for day in asked.days if day not in final), mode="sync")


def plan_sync(
    api: AsyncAPI,
    database: Database,
    name: str,
    lookback_days: int,
    from_date: Day | None,
    to_date: Day | None,
    **options: Any,
) -> FetchPlan:
    """Say what bringing a table up to date would do and cost; arguments and errors as `to_sync`."""
    asked = to_sync(database, name, lookback_days, from_date, to_date, **options)
    return plan_events(api, database, asked)


def plan_events(api: AsyncAPI, database: Database, asked: EventQuery) -> FetchPlan:
    """Say what a fetch would do and cost, without asking the server anything."""
    done = database.staged_days(asked.name, asked.filters, asked.mode)
    left = api.export_budget.remaining()
    todo = _planned(asked, done, left)
    days = asked.days or (today(asked.filters.project_timezone),)  # up to date: nothing to do
    return FetchPlan(
        table=asked.name,
        from_date=days[0],
        to_date=days[-1],
        chunks=tuple((chunk.from_date, chunk.to_date) for chunk in todo),
        days=sum(chunk.days for chunk in todo),
        calls=len(todo),
        calls_left=left,
        already_done=len(done),
    )


def _planned(asked: EventQuery, done: Collection[date], calls: int) -> list[Chunk]:
    days = [day for day in asked.days if day not in done]
    return chunks(days, calls, size=asked.chunk_days)


async def fetch_events(
    api: AsyncAPI,
    database: Database,
    writer: Writer,
    asked: EventQuery,
    *,
    on_progress: Callable[[Progress], object] | None = None,
    on_batch: Callable[[BatchProgress], object] | None = None,
) -> FetchResult:
    """Fetch events; `AsyncWorkspace.fetch_events` says more."""
    return await _Events(api, database, writer, asked, on_progress, on_batch).run()


class _Events:
    """One fetch of events, from the first call to the table."""

    def __init__(
        self,
        api: AsyncAPI,
        database: Database,
        writer: Writer,
        asked: EventQuery,
        on_progress: Callable[[Progress], object] | None,
        on_batch: Callable[[BatchProgress], object] | None,
    ) -> None:
        self.api, self.database, self.writer, self.asked = api, database, writer, asked
        self.on_progress, self.on_batch = guarded(on_progress), guarded(on_batch)
        self.began = time.monotonic()
        self.days = self.days_done = self.rows = self.bytes = 0
        self.calls = self.downloads = self.batches = self.batches_done = 0
        self.repaired = self.without_time = self.unreadable = 0
        self.unreadable_files: list[str] = []
        self.in_a_row = 0
        self.failed: list[tuple[Chunk, APIError]] = []
        self.downloading = anyio.Semaphore(asked.workers)
        self.queue: list[_Arrived] = []
        self.arrived = anyio.Event()
        self.load: Load

    async def run(self) -> FetchResult:
        """Fetch, load, and swap the table in."""
        asked = self.asked
        if not asked.days:
            return self._result(0, 0)
        self.load = await self.writer(self._begin)
        try:
            return await self._run()
        finally:
            self.load.stop()

    async def _run(self) -> FetchResult:
        asked = self.asked
        with unwrap_exception_group():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._stage_what_arrives)
                done = set(self.load.done) | await self._load_left_over()
                todo = _planned(asked, done, self.api.export_budget.remaining())
                self.days, self.batches = sum(chunk.days for chunk in todo), len(todo)
                self._tell()
                if asked.filters.limit is None:
                    await self._fetch_all(todo)
                else:
                    await self._fetch_some(todo, asked.filters.limit)
                tasks.cancel_scope.cancel()
        if self.failed:
            lost = ranges(day for chunk, _ in self.failed for day in chunk)
            _, why = self.failed[0]
            spans = [(str(chunk.from_date), str(chunk.to_date)) for chunk in lost]
            raise InterruptedFetchError(asked.name, spans, why.message) from why
        loaded = await self.writer(lambda: self.load.finish(limit=asked.filters.limit))
        return self._result(loaded.rows, loaded.merged)

    def _result(self, rows: int, merged: int) -> FetchResult:
        days = self.asked.days
        return FetchResult(
            table=self.asked.name,
            rows=rows,
            type="events",
            duration_seconds=time.monotonic() - self.began,
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
        )

    def _begin(self) -> Load:
        asked = self.asked
        return self.database.begin_events(
            asked.name,
            filters=asked.filters,
            mode=asked.mode,
            days=asked.days,
            mixed=asked.mixed,
        )

    # ---- from the server ----------------------------------------------------------------------

    async def _fetch_all(self, todo: Sequence[Chunk]) -> None:
        async with anyio.create_task_group() as fetches:
            for chunk in todo:
                fetches.start_soon(self._fetch, chunk)

    async def _fetch_some(self, todo: Sequence[Chunk], limit: int) -> None:
        for chunk in todo:
            await self._fetch(chunk)
            if self.rows >= limit or self.failed:
                return

    async def _fetch(self, chunk: Chunk) -> None:
        error: APIError | None = None
        for _ in range(ATTEMPTS):
            try:
                async with self.downloading:
                    if self.in_a_row >= HOPELESS:
                        return self._lost(chunk, self.failed[-1][1])
                    part = await self._download(chunk)
            except (ServerError, RateLimitError, TruncatedError) as failure:
                error = failure
                if failure.status_code == 200:  # somebody's web page: the next may be the export
                    continue
                break
            staged = await self._staged(part)
            if staged.error is None:
                self.in_a_row = 0
                return self._landed(chunk, staged.rows, None)
            again = isinstance(error, UnreadablePartError)
            error = staged.error
            if again and isinstance(error, UnreadablePartError):
                break  # once more is enough: it is the same each time
        assert error is not None
        return self._lost(chunk, error)

    async def _download(self, chunk: Chunk) -> Part:
        path = self.database.parts / f"{self.load.key}_{chunk.from_date}_{chunk.to_date}.partial"
        got = await self.api.download(path, self.asked.params(chunk), on_bytes=self._arriving)
        self.calls += got.attempts
        self.downloads += 1
        part = Part(
            path.with_suffix(GZIP if got.gzip else PLAIN),
            chunk,
            got.bytes,
            got.gzip,
            digest=got.digest,
        )
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.database.note_part, self.load, part)
            got.path.rename(part.path)
        return part

    def _arriving(self, count: int) -> None:
        self.bytes += count
        self._tell()

    # ---- into the database --------------------------------------------------------------------

    async def _load_left_over(self) -> set[date]:
        """Load what an interrupted fetch had received, but not loaded yet."""
        done: set[date] = set()
        for part in await self.writer(self._left_over):
            staged = await self._staged(part)
            if staged.error is None:
                done.update(part.chunk)
        return done

    def _left_over(self) -> list[Part]:
        wanted = set(self.asked.days) - self.load.done
        now, zone = datetime.now(UTC), self.asked.filters.project_timezone
        found = []
        for part in self.database.left_over(self.load):
            at = part.received_at or now
            if wanted.issuperset(part.chunk) and all(
                holds(day, at, now, zone) for day in part.chunk
            ):
                wanted -= set(part.chunk)
                found.append(part)
            else:
                part.path.unlink(missing_ok=True)
        return found

    async def _staged(self, part: Part) -> Staged:
        arrived = _Arrived(part)
        self.queue.append(arrived)
        self.arrived.set()
        await arrived.known.wait()
        assert arrived.staged is not None
        self.repaired += arrived.staged.repaired
        self.without_time += arrived.staged.without_time
        self.unreadable += arrived.staged.unreadable
        if arrived.staged.kept_in is not None:
            self.unreadable_files.append(str(arrived.staged.kept_in))
            logger.warning(
                "%s lines of the export of %s cannot be read as events: they are kept in %s",
                arrived.staged.unreadable,
                part.chunk,
                arrived.staged.kept_in,
            )
        return arrived.staged

    async def _stage_what_arrives(self) -> None:
        while True:
            await self.arrived.wait()
            self.arrived = anyio.Event()
            while self.queue:
                several, self.queue = self.queue[:TOGETHER], self.queue[TOGETHER:]
                staged = await self.writer(partial(self._stage, [one.part for one in several]))
                for one, result in zip(several, staged, strict=True):
                    one.staged = result
                    one.known.set()

    def _stage(self, parts: list[Part]) -> list[Staged]:
        staged = self.load.stage(parts)
        for part in parts:
            part.path.unlink()
        return staged

    # ---- telling ------------------------------------------------------------------------------

    def _lost(self, chunk: Chunk, error: APIError) -> None:
        self.in_a_row += 1
        self.failed.append((chunk, error))
        self._landed(chunk, 0, error)

    def _landed(self, chunk: Chunk, rows: int, error: APIError | None) -> None:
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
        self._tell()

    def _tell(self) -> None:
        if self.on_progress is not None:
            self.on_progress(
                Progress(
                    self.asked.name,
                    self.days_done,
                    self.days,
                    self.rows,
                    self.bytes,
                    self.calls,
                    time.monotonic() - self.began,
                )
            )


class _Arrived:
    """A part on its way into the database."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.known = anyio.Event()
        self.staged: Staged | None = None
