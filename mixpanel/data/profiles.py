"""Ask for profiles, page by page."""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from pydantic_core import to_json

from mixpanel.data._work import Progress, guarded, one_error
from mixpanel.data.exceptions import ServerError
from mixpanel.data.results import FetchResult, ProfileProgress

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from mixpanel.data._work import Writer
    from mixpanel.data.api import AsyncAPI
    from mixpanel.data.asked import ProfilesAsked
    from mixpanel.data.store import Database, Mode, ProfilesLoad, Staged

__all__ = ["Page", "fetch_profiles", "pages"]

PAGE_SIZE = 1000


@dataclass(frozen=True, slots=True)
class Page:
    """One page of profiles, as the API sends them."""

    index: int
    total: int | None
    profiles: list[dict[str, Any]]


async def pages(api: AsyncAPI, asked: ProfilesAsked) -> AsyncGenerator[Page]:
    """Yield every page, in order; after the first, several are fetched at a time.

    A page that is not full is the last one, so no call is spent on an empty one.
    """
    if asked.nobody:
        return
    first = await _page(api, asked, 0, None)
    session, size, total = first.session_id, first.page_size, first.page.total
    yield first.page
    last = len(first.page.profiles) < size
    index = 1
    while not last:
        width = 1
        if total is not None:
            width = min(asked.workers, max(1, -(-total // size) - index))
        wave: list[Page | None] = [None] * width

        async def fetch(slot: int, start: int, wave: list[Page | None]) -> None:
            wave[slot] = (await _page(api, asked, start + slot, session)).page

        with one_error():
            async with anyio.create_task_group() as calls:
                for slot in range(width):
                    calls.start_soon(fetch, slot, index, wave)
        for page in wave:
            assert page is not None
            if page.profiles:
                yield Page(page.index, total, page.profiles)
            last = last or len(page.profiles) < size
        index += width


@dataclass(frozen=True, slots=True)
class _Reply:
    page: Page
    session_id: str | None
    page_size: int


async def _page(api: AsyncAPI, asked: ProfilesAsked, index: int, session: str | None) -> _Reply:
    form = asked.form()
    if index:
        form |= {"page": str(index)} | ({"session_id": session} if session else {})
    reply = await api.query("engage", form=form, method="POST")
    results = reply.get("results") if isinstance(reply, dict) else None
    if not isinstance(results, list) or not all(isinstance(one, dict) for one in results):
        raise ServerError(f"page {index} of the profiles came without a list of results")
    size, total, given = reply.get("page_size"), reply.get("total"), reply.get("session_id")
    return _Reply(
        Page(index, total if isinstance(total, int) else None, results),
        given if isinstance(given, str) else None,
        size if isinstance(size, int) and size > 0 else PAGE_SIZE,
    )


async def fetch_profiles(
    api: AsyncAPI,
    database: Database,
    writer: Writer,
    name: str,
    mode: Mode,
    asked: ProfilesAsked,
    *,
    mixed: bool = False,
    on_progress: Callable[[Progress], object] | None = None,
    on_page: Callable[[ProfileProgress], object] | None = None,
) -> FetchResult:
    """Fetch profiles; `AsyncWorkspace.fetch_profiles` says more."""
    tell, tell_page = guarded(on_progress), guarded(on_page)
    began, rows, sent, calls, repaired = time.monotonic(), 0, 0, 0, 0
    load = await writer(
        lambda: database.begin_profiles(name, filters=asked.filters, mode=mode, mixed=mixed)
    )
    try:
        async with aclosing(pages(api, asked)) as each:
            async for page in each:
                path = database.parts / f"{load.key}_{page.index}.ndjson"
                size, staged = await writer(partial(_store, load, path, page.profiles))
                rows, sent, calls = rows + staged.rows, sent + size, page.index + 1
                repaired += staged.repaired
                count = None if page.total is None else -(-page.total // PAGE_SIZE)
                if tell_page is not None:
                    tell_page(ProfileProgress(page.index, count, staged.rows, True, None, rows))  # noqa: FBT003
                if tell is not None:
                    seconds = time.monotonic() - began
                    tell(Progress(name, calls, count or 0, rows, sent, calls, seconds))
        loaded = await writer(load.finish)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await writer(load.abandon)
        raise
    return FetchResult(
        table=name,
        rows=loaded.rows,
        type="profiles",
        duration_seconds=time.monotonic() - began,
        date_range=None,
        fetched_at=datetime.now(UTC),
        merged=loaded.merged,
        repaired=repaired,
        requests=calls,
        bytes=sent,
        chunks=calls,
    )


def _store(load: ProfilesLoad, path: Path, profiles: list[dict[str, Any]]) -> tuple[int, Staged]:
    with path.open("wb") as file:
        for profile in profiles:
            file.write(to_json(profile, inf_nan_mode="null") + b"\n")
        size = file.tell()
    try:
        return size, load.stage(path)
    finally:
        path.unlink()
