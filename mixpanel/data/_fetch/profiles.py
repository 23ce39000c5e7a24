"""Fetch profiles, page by page, into the local database."""

from __future__ import annotations

import json
import time
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from pydantic_core import PydanticSerializationError, to_json

from mixpanel._runtime.safe_logging import logger
from mixpanel.data._fetch.progress import Progress, log_exceptions
from mixpanel.data._fetch.tasks import unwrap_exception_group
from mixpanel.data._paths import write_errors
from mixpanel.data.exceptions import ServerError, UnreadablePartError
from mixpanel.data.results import FetchResult, ProfileProgress
from mixpanel.data.store.parts import MAX_LINE_BYTES, SAFE_LINE_BYTES, private_file, repair_line

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from mixpanel.data._fetch.query import ProfileQuery
    from mixpanel.data._fetch.tasks import WriterThread
    from mixpanel.data.api import AsyncAPI
    from mixpanel.data.store import Database, ProfilesLoad

__all__ = ["Page", "fetch_profiles", "pages"]

PAGE_SIZE = 1000


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
    on_progress, on_page = log_exceptions(on_progress), log_exceptions(on_page)
    name, started = query.name, time.monotonic()
    rows = size = calls = repaired = unreadable = 0
    unreadable_files: list[str] = []
    load = await writer(
        lambda: database.begin_profiles(
            name, filters=query.filters, mode=query.mode, mixed=query.mixed
        )
    )
    try:
        if on_progress is not None:
            on_progress(Progress(name, 0, 0, 0, 0, 0, 0.0))
        async with aclosing(pages(api, query)) as each:
            async for page in each:
                path = database.parts / f"{load.key}_{page.index}.ndjson"
                stored = await writer(partial(_store, load, path, page.profiles))
                rows, size, calls = rows + stored.rows, size + stored.bytes, page.index + 1
                repaired += stored.repaired
                if stored.kept_in is not None:
                    unreadable += stored.unreadable
                    unreadable_files.append(str(stored.kept_in))
                    logger.warning(
                        "%s profiles of page %s cannot be loaded; they are kept in %s",
                        stored.unreadable,
                        page.index,
                        stored.kept_in,
                    )
                if on_page is not None:
                    on_page(
                        ProfileProgress(
                            page_index=page.index,
                            total_pages=page.page_count,
                            rows=stored.rows,
                            success=True,
                            error=None,
                            cumulative_rows=rows,
                        )
                    )
                if on_progress is not None:
                    seconds = time.monotonic() - started
                    steps = page.page_count or 0
                    on_progress(Progress(name, calls, steps, rows, size, calls, seconds))
        loaded = await writer(load.finish)
    except BaseException:
        # Pages belong to a session that has ended: the next fetch begins anew.
        with anyio.CancelScope(shield=True):
            await writer(load.abandon)
        raise
    return FetchResult(
        table=name,
        rows=loaded.rows,
        type="profiles",
        duration_seconds=time.monotonic() - started,
        date_range=None,
        fetched_at=datetime.now(UTC),
        merged=loaded.merged,
        repaired=repaired,
        unreadable=unreadable,
        unreadable_files=tuple(unreadable_files),
        requests=calls,
        bytes=size,
        chunks=calls,
        typed=loaded.typed,
    )


@dataclass(frozen=True, slots=True)
class _Stored:
    rows: int
    bytes: int
    repaired: int
    unreadable: int
    kept_in: Path | None


def _store(load: ProfilesLoad, path: Path, profiles: list[dict[str, Any]]) -> _Stored:
    try:
        return _store_up_to(MAX_LINE_BYTES, load, path, profiles)
    except UnreadablePartError:  # DuckDB may lack the memory for the longest profiles
        return _store_up_to(SAFE_LINE_BYTES, load, path, profiles)


def _store_up_to(
    longest: int, load: ProfilesLoad, path: Path, profiles: list[dict[str, Any]]
) -> _Stored:
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
        return _Stored(load.stage(path).rows, size, repaired, len(too_long), kept_in)
    finally:
        path.unlink(missing_ok=True)


def _line(profile: dict[str, Any]) -> tuple[bytes, bool]:
    """Return a profile as a line of JSON, and True if it had to be repaired as events are."""
    try:
        line = to_json(profile, inf_nan_mode="constants")
    except PydanticSerializationError:  # half a surrogate pair
        line = json.dumps(profile).encode()
    else:
        if b"NaN" not in line and b"Infinity" not in line:
            return line, False
    repaired = repair_line(line)
    return repaired, repaired != line
