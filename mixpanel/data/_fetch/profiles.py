"""Ask for profiles, page by page."""

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
from mixpanel.data._fetch.tasks import Progress, guarded, unwrap_exception_group
from mixpanel.data._paths import write_errors
from mixpanel.data.exceptions import ServerError, UnreadablePartError
from mixpanel.data.results import FetchResult, ProfileProgress
from mixpanel.data.store.parts import LONGEST, SURE_TO_FIT, private_file, repair_line

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from mixpanel.data._fetch.query import ProfileQuery
    from mixpanel.data._fetch.tasks import Writer
    from mixpanel.data.api import AsyncAPI
    from mixpanel.data.store import Database, Mode, ProfilesLoad

__all__ = ["Page", "fetch_profiles", "pages"]

PAGE_SIZE = 1000


@dataclass(frozen=True, slots=True)
class Page:
    """One page of profiles, as the API sends them; `of` so many, if it says so."""

    index: int
    of: int | None
    profiles: list[dict[str, Any]]


async def pages(api: AsyncAPI, asked: ProfileQuery) -> AsyncGenerator[Page]:
    """Yield every page, in order; after the first, several are fetched at a time.

    Their total says which page is the last one. Without it that is the first one that is not full,
    and only then a call may be spent on an empty page.
    """
    if asked.nobody:
        return
    first = await _page(api, asked, 0, None)
    session, size, of = first.session_id, first.page_size, first.page.of
    yield first.page
    last = len(first.page.profiles) < size
    index = 1
    while not last and index != of:
        width = 1 if of is None else min(asked.workers, of - index)
        wave: list[Page | None] = [None] * width

        async def fetch(slot: int, start: int, wave: list[Page | None]) -> None:
            wave[slot] = (await _page(api, asked, start + slot, session)).page

        with unwrap_exception_group():
            async with anyio.create_task_group() as calls:
                for slot in range(width):
                    calls.start_soon(fetch, slot, index, wave)
        for page in wave:
            assert page is not None
            yield Page(page.index, of, page.profiles)
            last = last or len(page.profiles) < size
        index += width


@dataclass(frozen=True, slots=True)
class _Reply:
    page: Page
    session_id: str | None
    page_size: int


async def _page(api: AsyncAPI, asked: ProfileQuery, index: int, session: str | None) -> _Reply:
    form = asked.form()
    if index:
        form |= {"page": str(index)} | ({"session_id": session} if session else {})
    reply = await api.query("engage", form=form, method="POST")
    results = reply.get("results") if isinstance(reply, dict) else None
    if not isinstance(results, list) or not all(isinstance(one, dict) for one in results):
        raise ServerError(f"page {index} of the profiles came without a list of results")
    size, total, given = reply.get("page_size"), reply.get("total"), reply.get("session_id")
    size = size if isinstance(size, int) and size > 0 else PAGE_SIZE
    known = total if isinstance(total, int) and total >= len(results) else None
    return _Reply(
        Page(index, None if known is None else max(1, -(-known // size)), results),
        given if isinstance(given, str) else None,
        size,
    )


async def fetch_profiles(
    api: AsyncAPI,
    database: Database,
    writer: Writer,
    name: str,
    mode: Mode,
    asked: ProfileQuery,
    *,
    mixed: bool = False,
    on_progress: Callable[[Progress], object] | None = None,
    on_page: Callable[[ProfileProgress], object] | None = None,
) -> FetchResult:
    """Fetch profiles; `AsyncWorkspace.fetch_profiles` says more."""
    tell, tell_page = guarded(on_progress), guarded(on_page)
    began, rows, sent, calls, repaired = time.monotonic(), 0, 0, 0, 0
    kept_in: list[str] = []
    unreadable = 0
    load = await writer(
        lambda: database.begin_profiles(name, filters=asked.filters, mode=mode, mixed=mixed)
    )
    try:
        if tell is not None:
            tell(Progress(name, 0, 0, 0, 0, 0, 0.0))
        async with aclosing(pages(api, asked)) as each:
            async for page in each:
                path = database.parts / f"{load.key}_{page.index}.ndjson"
                stored = await writer(partial(_store, load, path, page.profiles))
                rows, sent, calls = rows + stored.rows, sent + stored.bytes, page.index + 1
                repaired += stored.repaired
                if stored.kept_in is not None:
                    unreadable += stored.unreadable
                    kept_in.append(str(stored.kept_in))
                    logger.warning(
                        "%s profiles of page %s cannot be loaded: they are kept in %s",
                        stored.unreadable,
                        page.index,
                        stored.kept_in,
                    )
                if tell_page is not None:
                    tell_page(ProfileProgress(page.index, page.of, stored.rows, True, None, rows))  # noqa: FBT003
                if tell is not None:
                    seconds = time.monotonic() - began
                    tell(Progress(name, calls, page.of or 0, rows, sent, calls, seconds))
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
        unreadable=unreadable,
        unreadable_files=tuple(kept_in),
        requests=calls,
        bytes=sent,
        chunks=calls,
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
        return _store_up_to(LONGEST, load, path, profiles)
    except UnreadablePartError:  # long ones may need more memory than there is
        return _store_up_to(SURE_TO_FIT, load, path, profiles)


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
    """Write a profile as JSON, repaired as events are, and tell whether it had to be."""
    try:
        line = to_json(profile, inf_nan_mode="constants")
    except PydanticSerializationError:  # half a surrogate pair
        line = json.dumps(profile).encode()
    else:
        if b"NaN" not in line and b"Infinity" not in line:
            return line, False
    good = repair_line(line)
    return good, good != line
