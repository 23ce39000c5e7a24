"""Fetch profiles, page by page, into the local database."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from pydantic_core import PydanticSerializationError, to_json

from mixpanel._runtime.safe_logging import logger
from mixpanel.data._fetch.plan import whole
from mixpanel.data._fetch.progress import Progress, log_exceptions
from mixpanel.data._fetch.query import ProfileQuery
from mixpanel.data._fetch.tasks import unwrap_exception_group
from mixpanel.data._paths import write_errors
from mixpanel.data.exceptions import (
    MemoryLimitError,
    QueryError,
    ServerError,
    UnreadablePartError,
)
from mixpanel.data.results import FetchResult, ProfilePlan, ProfileProgress
from mixpanel.data.store.fetch_log import PageRecord
from mixpanel.data.store.parts import MAX_LINE_BYTES, SAFE_LINE_BYTES, private_file, repair_line

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from pathlib import Path

    from mixpanel.data._fetch.tasks import WriterThread
    from mixpanel.data.api import AsyncAPI
    from mixpanel.data.store import Database, ProfilesLoad
    from mixpanel.data.store.staging import Loaded

__all__ = ["Page", "create_profile_sync_query", "fetch_profiles", "pages", "plan_profiles"]

PAGE_SIZE = 1000
MAX_LOOKBACK_DAYS = 36_500


@dataclass(frozen=True, slots=True)
class Page:
    """One page of profiles as the API sends them; `page_count` is None if it sends no total."""

    index: int
    page_count: int | None
    profiles: list[dict[str, Any]]


async def pages(api: AsyncAPI, query: ProfileQuery) -> AsyncGenerator[Page]:
    """Yield all pages in order; after the first, several are fetched concurrently.

    The first response's total gives the number of pages. Without a total, pages are fetched one
    by one until one is not full, so that at most one call is spent on an empty page.
    """
    if query.selects_nothing:
        return
    first = await _fetch_page(api, query, 0, None)
    session, size, page_count = first.session_id, first.page_size, first.page.page_count
    yield first.page
    is_last = len(first.page.profiles) < size
    index = 1
    while not is_last and index != page_count:
        width = 1 if page_count is None else min(query.concurrency, page_count - index)
        wave: list[Page | None] = [None] * width

        async def fetch(slot: int, start: int, wave: list[Page | None]) -> None:
            wave[slot] = (await _fetch_page(api, query, start + slot, session)).page

        with unwrap_exception_group():
            async with anyio.create_task_group() as calls:
                for slot in range(width):
                    calls.start_soon(fetch, slot, index, wave)
        for page in wave:
            assert page is not None
            # Totals of later pages may differ while the project changes: the first one counts.
            yield Page(page.index, page_count, page.profiles)
            is_last = is_last or len(page.profiles) < size
        index += width


@dataclass(frozen=True, slots=True)
class _PageResponse:
    page: Page
    session_id: str | None
    page_size: int


async def _fetch_page(
    api: AsyncAPI, query: ProfileQuery, index: int, session: str | None
) -> _PageResponse:
    form = query.form()
    if index:
        form |= {"page": str(index)} | ({"session_id": session} if session else {})
    body = await api.query("engage", form=form, method="POST")
    results = body.get("results") if isinstance(body, dict) else None
    if not isinstance(results, list) or not all(isinstance(one, dict) for one in results):
        raise ServerError(f"the response for page {index} of the profiles has no list of results")
    size, total, session_id = body.get("page_size"), body.get("total"), body.get("session_id")
    size = size if isinstance(size, int) and size > 0 else PAGE_SIZE
    # A total smaller than this page cannot be true; it would end the fetch too early.
    known = total if isinstance(total, int) and total >= len(results) else None
    return _PageResponse(
        Page(index, None if known is None else max(1, -(-known // size)), results),
        session_id if isinstance(session_id, str) else None,
        size,
    )


def create_profile_sync_query(
    database: Database,
    name: str = "profiles",
    *,
    lookback_days: int = 1,
    where: str | None = None,
    cohort_id: int | None = None,
    output_properties: Sequence[str] | str | None = None,
    group_id: str | None = None,
    max_workers: int | None = None,
    history: bool = False,
) -> ProfileQuery:
    """Return a query for the profiles seen since a table was fetched, or for all if there is none.

    :raises ConfigError: for an argument that is invalid or does not fit the table.
    """
    whole("lookback_days", lookback_days, 0, MAX_LOOKBACK_DAYS)
    query = ProfileQuery.create(
        name,
        where=where,
        cohort_id=cohort_id,
        output_properties=output_properties,
        group_id=group_id,
        max_workers=max_workers,
        history=history,
    )
    database.check_profiles(name, filters=query.filters, mode="sync")
    fetched_at = database.profiles_fetched_at(name, query.filters)
    since = None
    if fetched_at is not None:
        # Whole minutes, so that an interrupted sync has the same query when it is repeated.
        since = fetched_at.replace(second=0, microsecond=0) - timedelta(days=lookback_days)
    return replace(query, mode="sync", since=since)


def plan_profiles(api: AsyncAPI, database: Database, query: ProfileQuery) -> ProfilePlan:
    """Return what a fetch would cost, without a call."""
    database.check_profiles(query.name, filters=query.filters, mode=query.mode, mixed=query.mixed)
    staged = database.staged_pages(query.name, query.filters, query.mode, query.key())
    return ProfilePlan(
        table=query.name,
        calls=0 if staged or query.selects_nothing else 1,
        calls_left=api.query_limiter.remaining() or 0,
        pages_done=len(staged),
        pages=staged[0].page_count if staged else None,
        since=query.since,
    )


async def fetch_profiles(
    api: AsyncAPI,
    database: Database,
    writer: WriterThread,
    query: ProfileQuery,
    *,
    on_progress: Callable[[Progress], object] | None = None,
    on_page: Callable[[ProfileProgress], object] | None = None,
) -> FetchResult:
    """Fetch profiles into the table of the query, as `AsyncWorkspace.fetch_profiles` describes."""
    return await _ProfileFetch(api, database, writer, query, on_progress, on_page).run()


class _SessionExpiredError(Exception):
    """The server no longer has the session of an interrupted fetch."""


class _ProfileFetch:
    """One fetch of profiles, from the first page to the finished table.

    The first page opens a session of the server, which all others read. A page is staged and
    recorded in one transaction as soon as it has arrived, so that an interrupted fetch continues
    in the same session with the pages that it lacks.
    """

    def __init__(
        self,
        api: AsyncAPI,
        database: Database,
        writer: WriterThread,
        query: ProfileQuery,
        on_progress: Callable[[Progress], object] | None,
        on_page: Callable[[ProfileProgress], object] | None,
    ) -> None:
        self.api, self.database, self.writer, self.query = api, database, writer, query
        self.on_progress, self.on_page = log_exceptions(on_progress), log_exceptions(on_page)
        self.started = time.monotonic()
        self.pages: dict[int, PageRecord] = {}
        self.reported = self.calls = 0
        self.is_resumed = False
        self.load: ProfilesLoad

    async def run(self) -> FetchResult:
        """Fetch the pages, and put the table in place."""
        query = self.query
        self.load = await self.writer(
            lambda: self.database.begin_profiles(
                query.name,
                filters=query.filters,
                mode=query.mode,
                mixed=query.mixed,
                query=query.key(),
                is_partial=query.since is not None,
                history=query.history,
            )
        )
        try:
            await self._fetch()
            loaded = await self.writer(self.load.finish)
        except BaseException:
            if not self.pages:  # there is nothing to resume
                with anyio.CancelScope(shield=True):
                    await self.writer(self.load.abandon)
            raise
        finally:
            self.load.stop()
        return self._result(loaded)

    async def _fetch(self) -> None:
        self._report_progress()
        if self.query.selects_nothing:
            return
        self.pages = {record.page: record for record in self.load.resumed}
        self.is_resumed = bool(self.pages)
        try:
            await self._fetch_pages()
        except _SessionExpiredError:
            logger.warning(
                "%s: Mixpanel no longer has the interrupted query; it starts over", self.query.name
            )
            await self.writer(self.load.restart)
            self.pages, self.reported, self.is_resumed = {}, 0, False
            await self._fetch_pages()

    async def _fetch_pages(self) -> None:
        self._report_pages()
        if not self.pages:
            await self._fetch_page(0)
        first = self.pages[min(self.pages)]
        if first.page_count is None:
            # Without a total, one after the other until a page is not full.
            while self.pages[index := max(self.pages)].is_full:
                await self._fetch_page(index + 1)
            return
        missing = iter([n for n in range(first.page_count) if n not in self.pages])

        async def work() -> None:
            for index in missing:
                await self._fetch_page(index)

        with unwrap_exception_group():
            async with anyio.create_task_group() as workers:
                for _ in range(self.query.concurrency):
                    workers.start_soon(work)

    async def _fetch_page(self, index: int) -> None:
        first = self.pages[min(self.pages)] if self.pages else None
        session = None if first is None else first.session_id
        try:
            response = await _fetch_page(self.api, self.query, index, session)
        except QueryError as error:
            # The class itself: a subclass says that something else is wrong than the request.
            if self.is_resumed and type(error) is QueryError:
                raise _SessionExpiredError from error
            raise
        if self.is_resumed and response.session_id not in (None, session):
            raise _SessionExpiredError
        self.calls += 1
        page = response.page
        path = self.database.parts / f"{self.load.key}_{index}.ndjson"
        record = PageRecord(
            self.load.key,
            self.load.query,
            index,
            # Totals of later pages may differ while the project changes: the first one counts.
            response.session_id if first is None else session,
            response.page_size,
            page.page_count if first is None else first.page_count,
            rows=len(page.profiles),
            bytes=0,
            repaired=0,
            unreadable=0,
            kept_in=None,
            is_full=len(page.profiles) >= response.page_size,
            received_at=datetime.now(UTC),
        )
        # Shielded, since another worker that fails should not cost a page that has arrived.
        store = partial(_store, self.load, path, page.profiles, record)
        stored = await self.writer(store, shield=True)
        if stored.kept_in is not None:
            logger.warning(
                "%s profiles of page %s cannot be loaded; they are kept in %s",
                stored.unreadable,
                index,
                stored.kept_in,
            )
        self.pages[index] = stored
        self._report_pages()

    # ---- reports ------------------------------------------------------------------------------

    def _report_pages(self) -> None:
        """Report the pages that have arrived, in the order of their numbers."""
        while (record := self.pages.get(self.reported)) is not None:
            self.reported += 1
            if self.on_page is not None:
                self.on_page(
                    ProfileProgress(
                        page_index=record.page,
                        total_pages=record.page_count,
                        rows=record.rows,
                        success=True,
                        error=None,
                        cumulative_rows=sum(self.pages[n].rows for n in range(self.reported)),
                    )
                )
            self._report_progress()

    def _report_progress(self) -> None:
        if self.on_progress is None:
            return
        done = [self.pages[n] for n in range(self.reported)]
        steps = done[0].page_count or 0 if done else 0
        rows, size = sum(page.rows for page in done), sum(page.bytes for page in done)
        seconds = time.monotonic() - self.started
        self.on_progress(
            Progress(self.query.name, len(done), steps, rows, size, len(done), seconds)
        )

    def _result(self, loaded: Loaded) -> FetchResult:
        pages = [self.pages[n] for n in sorted(self.pages)]
        changes = {} if loaded.changes is None else asdict(loaded.changes)
        return FetchResult(
            table=self.query.name,
            rows=loaded.rows,
            type="profiles",
            duration_seconds=time.monotonic() - self.started,
            date_range=None,
            fetched_at=datetime.now(UTC),
            merged=loaded.merged,
            repaired=sum(page.repaired for page in pages),
            unreadable=sum(page.unreadable for page in pages),
            unreadable_files=tuple(page.kept_in for page in pages if page.kept_in is not None),
            requests=self.calls,
            bytes=sum(page.bytes for page in pages),
            chunks=len(pages),
            typed=loaded.typed,
            **changes,
        )


def _store(
    load: ProfilesLoad, path: Path, profiles: list[dict[str, Any]], record: PageRecord
) -> PageRecord:
    """Stage a page, and return its record with what was found."""
    try:
        return _store_up_to(MAX_LINE_BYTES, load, path, profiles, record)
    except (UnreadablePartError, MemoryLimitError):  # of the longest profiles
        return _store_up_to(SAFE_LINE_BYTES, load, path, profiles, record)


def _store_up_to(
    longest: int,
    load: ProfilesLoad,
    path: Path,
    profiles: list[dict[str, Any]],
    record: PageRecord,
) -> PageRecord:
    repaired, too_long = 0, []
    try:
        with write_errors(path), private_file(path) as file:
            for profile in profiles:
                line, changed = _line(profile)
                if len(line) > longest:
                    too_long.append(line)
                    continue
                repaired += changed
                file.write(line + b"\n")
            size = file.tell()
        kept_in = load.set_aside(path.name, too_long) if too_long else None
        record = replace(
            record,
            bytes=size,
            repaired=repaired,
            unreadable=len(too_long),
            kept_in=None if kept_in is None else str(kept_in),
        )
        return replace(record, rows=load.stage(path, record=record).rows)
    finally:
        path.unlink(missing_ok=True)


def _line(profile: dict[str, Any]) -> tuple[bytes, bool]:
    """Return a profile as a line of JSON, and True if it had to be repaired as events are."""
    try:
        line = to_json(profile, inf_nan_mode="constants")
    except PydanticSerializationError:  # an unpaired surrogate
        line = json.dumps(profile).encode()
    else:
        if b"NaN" not in line and b"Infinity" not in line:
            return line, False
    repaired = repair_line(line)
    return repaired, repaired != line
