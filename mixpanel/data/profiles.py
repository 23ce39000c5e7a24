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
from pydantic_core import to_json

from mixpanel.data._work import Progress, guarded, one_error
from mixpanel.data.exceptions import ConfigError, ServerError
from mixpanel.data.plan import Filters, names, positive
from mixpanel.data.results import FetchResult, ProfileProgress

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
    from pathlib import Path

    from mixpanel.data._work import Writer
    from mixpanel.data.api import AsyncAPI
    from mixpanel.data.store import Database, Mode, ProfilesLoad, Staged

__all__ = ["Page", "ProfilesAsked", "fetch_profiles", "pages"]

WORKERS = 5  # concurrent queries that Mixpanel allows a project
PAGE_SIZE = 1000


@dataclass(frozen=True, slots=True)
class Page:
    """One page of profiles, as the API sends them."""

    index: int
    total: int | None
    profiles: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class ProfilesAsked:
    """What profiles are asked for, checked before anything is sent."""

    filters: Filters
    as_of_timestamp: int | None = None
    workers: int = WORKERS

    @classmethod
    def checked(
        cls,
        *,
        where: str | None = None,
        cohort_id: int | None = None,
        output_properties: Sequence[str] | str | None = None,
        distinct_id: str | None = None,
        distinct_ids: Sequence[str] | None = None,
        group_id: str | None = None,
        behaviors: Sequence[Mapping[str, Any]] | str | None = None,
        as_of_timestamp: int | None = None,
        include_all_users: bool = False,
        max_workers: int | None = None,
    ) -> ProfilesAsked:
        """Check what a caller asks for.

        :raises ConfigError: for what excludes each other, and what cannot be asked for.
        """
        if distinct_id is not None and distinct_ids is not None:
            raise ConfigError("distinct_id and distinct_ids exclude each other")
        if behaviors is not None and cohort_id is not None:
            raise ConfigError("behaviors and cohort_id exclude each other")
        if behaviors is not None and not where:
            raise ConfigError('behaviors need a where that uses them, as behaviors["b1"] > 0')
        if include_all_users and cohort_id is None:
            raise ConfigError("include_all_users needs a cohort_id")
        if as_of_timestamp is not None and not 0 < as_of_timestamp <= time.time():
            raise ConfigError(
                f"as_of_timestamp={as_of_timestamp!r} must be a moment in the past, "
                "in seconds since 1970"
            )
        positive("max_workers", max_workers, 100)
        ids = (distinct_id,) if distinct_id is not None else tuple(distinct_ids or ())
        if distinct_ids is not None and not ids:
            ids = ("",)  # asked for nobody, which is not the same as for everybody
        filters = Filters(
            where=where or None,
            cohort_id=cohort_id,
            output_properties=names(output_properties, "output_properties"),
            group_id=group_id,
            behaviors=_behaviors(behaviors),
            distinct_ids=tuple(dict.fromkeys(ids)),
            include_all_users=include_all_users,
        )
        return cls(filters, as_of_timestamp, min(max_workers or WORKERS, WORKERS))

    @property
    def nobody(self) -> bool:
        """Tell whether nobody is asked for, so that no call is needed."""
        return self.filters.distinct_ids == ("",)

    def form(self) -> dict[str, str]:
        """Return the form fields of every page."""
        asked = self.filters
        ids = list(asked.distinct_ids)
        cohort = None
        if asked.cohort_id is not None:
            cohort = {"id": asked.cohort_id}
        fields: dict[str, Any] = {
            "where": asked.where,
            "filter_by_cohort": cohort,
            "include_all_users": None if cohort is None else asked.include_all_users,
            "output_properties": list(asked.output_properties) or None,
            "data_group_id": asked.group_id,
            "behaviors": asked.behaviors,
            "as_of_timestamp": self.as_of_timestamp,
            "distinct_id": ids[0] if len(ids) == 1 else None,
            "distinct_ids": ids if len(ids) > 1 else None,
        }
        return {
            name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for name, value in fields.items()
            if value is not None
        }


def _behaviors(given: Sequence[Mapping[str, Any]] | str | None) -> str | None:
    if given is None:
        return None
    wanted = 'behaviors must be a JSON list as [{"window": "30d", "name": "b1", '
    wanted += '"event_selectors": [{"event": "Order Paid"}]}]'
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            raise ConfigError(wanted) from None
    if not isinstance(given, (list, tuple)) or not all(
        isinstance(one, dict) and {"window", "name", "event_selectors"} <= set(one) for one in given
    ):
        raise ConfigError(wanted)
    return json.dumps(given, ensure_ascii=False, sort_keys=True)


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
