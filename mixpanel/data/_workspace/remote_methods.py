"""What a workspace asks of Mixpanel, written once for both faces."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, cast

import anyio.to_thread

from mixpanel._runtime import background_loop
from mixpanel.data._fetch import events as fetch
from mixpanel.data._fetch import stream
from mixpanel.data._fetch.profiles import fetch_profiles
from mixpanel.data._fetch.query import EventQuery, ProfileQuery
from mixpanel.data._fetch.tasks import Progress, checked_callback, terminal_line
from mixpanel.data.exceptions import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator, Mapping, Sequence

    from mixpanel.data._fetch.plan import Day
    from mixpanel.data.results import BatchProgress, FetchPlan, FetchResult, ProfileProgress
    from mixpanel.data.workspace import AsyncWorkspace

__all__ = ["RemoteMethods", "stream_events", "stream_profiles", "synced_rows"]

Row = dict[str, Any]
P = ParamSpec("P")


async def stream_events(
    self: AsyncWorkspace,
    *,
    from_date: Day,
    to_date: Day,
    events: Sequence[str] | str | None = None,
    where: str | None = None,
    limit: int | None = None,
    raw: bool = False,
    chunk_days: int | None = None,
) -> AsyncGenerator[list[Row]]:
    """Stream events without storing them.

    They come as `{event_name, event_time, distinct_id, insert_id, properties}`, the time aware and
    in UTC; with `raw` as the API sends them, time in milliseconds. A day is received whole before
    its first event comes; `limit` (up to 100,000) is exact. Other arguments as in `fetch_events`.

    :raises ConfigError: for arguments that cannot work.
    :raises TruncatedError: when a day keeps ending early.
    :raises APIError: when Mixpanel refuses, or keeps failing.
    """
    asked = EventQuery.checked(
        "stream", from_date, to_date,
        events=events, where=where, limit=limit, chunk_days=chunk_days,
    )  # fmt: skip
    async with aclosing(stream.event_blocks(self.api, asked, raw=raw)) as blocks:
        async for block in blocks:
            yield block


async def stream_profiles(
    self: AsyncWorkspace,
    *,
    where: str | None = None,
    cohort_id: int | None = None,
    output_properties: Sequence[str] | str | None = None,
    raw: bool = False,
    distinct_id: str | None = None,
    distinct_ids: Sequence[str] | None = None,
    group_id: str | None = None,
    behaviors: Sequence[Mapping[str, Any]] | str | None = None,
    as_of_timestamp: int | None = None,
    include_all_users: bool = False,
) -> AsyncGenerator[list[Row]]:
    """Stream profiles without storing them, as `{distinct_id, last_seen, properties}`.

    With `raw` as the API sends them. Arguments as in `fetch_profiles`.

    :raises ConfigError: for arguments that exclude each other.
    :raises APIError: when Mixpanel refuses, or keeps failing.
    """
    asked = ProfileQuery.checked(
        where=where, cohort_id=cohort_id, output_properties=output_properties,
        distinct_id=distinct_id, distinct_ids=distinct_ids, group_id=group_id,
        behaviors=behaviors, as_of_timestamp=as_of_timestamp, include_all_users=include_all_users,
    )  # fmt: skip
    async with aclosing(stream.profile_blocks(self.api, asked, raw=raw)) as blocks:
        async for block in blocks:
            yield block


Blocks = Callable[Concatenate["AsyncWorkspace", P], AsyncGenerator[list[Row], None]]


def _rows(blocks: Blocks[P]) -> Callable[Concatenate[Any, P], AsyncIterator[Row]]:
    """Turn an async stream of blocks into one of rows."""

    @functools.wraps(blocks)
    async def rows(self: Any, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[Row]:
        async with aclosing(blocks(self, *args, **kwargs)) as each:
            async for block in each:
                for row in block:
                    yield row

    _give(rows, "AsyncIterator[Row]")
    return cast("Callable[Concatenate[Any, P], AsyncIterator[Row]]", rows)


def _give(rows: Any, what: str) -> None:
    """Let help tell what a method gives, where what it wraps gives blocks."""
    own = inspect.signature(rows)
    self_, *parameters = own.parameters.values()
    parameters.insert(0, self_.replace(annotation=own.empty))
    rows.__signature__ = own.replace(parameters=parameters, return_annotation=what)


def synced_rows(blocks: Blocks[P]) -> Callable[Concatenate[Any, P], Iterator[Row]]:
    """Make the sync twin of a stream: one trip to the home loop a block."""

    @functools.wraps(blocks)
    def rows(self: Any, *args: P.args, **kwargs: P.kwargs) -> Generator[Row]:
        background_loop.refuse_in_async(f"{type(self).__name__}.{blocks.__name__}")
        each = blocks(self._core, *args, **kwargs)

        async def following() -> list[Row] | None:
            return await anext(each, None)

        async def done() -> None:
            await each.aclose()

        try:
            while (block := background_loop.run(following)) is not None:
                yield from block
        finally:
            background_loop.run(done)

    _give(rows, "Iterator[Row]")
    return cast("Callable[Concatenate[Any, P], Iterator[Row]]", rows)


def _check_callbacks(progress: object, **others: object) -> None:
    if not isinstance(progress, bool):
        checked_callback(progress, "progress")
    for name, callback in others.items():
        checked_callback(callback, name)


class RemoteMethods:
    """Fetch and stream; what waits for Mixpanel is awaited."""

    _core: AsyncWorkspace

    async def fetch_events(
        self,
        name: str = "events",
        *,
        from_date: Day,
        to_date: Day,
        events: Sequence[str] | str | None = None,
        where: str | None = None,
        limit: int | None = None,
        append: bool = False,
        replace: bool = False,
        mixed: bool = False,
        progress: bool | Callable[[Progress], object] = True,
        on_batch_complete: Callable[[BatchProgress], object] | None = None,
        max_workers: int | None = None,
        chunk_days: int | None = None,
        project_timezone: str | None = None,
        parallel: bool = True,  # noqa: ARG002 - accepted: fetching always is
        batch_size: int = 1000,  # noqa: ARG002 - accepted: DuckDB loads whole files
    ) -> FetchResult:
        """Fetch events of whole days, both ends included, into the table `name`.

        The table appears when all of it is there, and copies of one event (same event, time,
        distinct_id and `$insert_id`) are merged. Interrupted or failed, the same call goes on from
        what it had. A call is a day while the hourly budget of 60 exports allows, else several.

        - `events`: names; all without. `where`: an expression of Mixpanel's, as
          `properties["plan"] == "team"`. `limit`: so many rows at most, up to 100,000.
        - `replace` swaps the new table in at the end; `append` adds days to a table, or replaces
          those it has. Other filters than the table's are refused, unless `mixed`.
        - `progress`: a line on a terminal, or a function called with `Progress`.
        - `max_workers`: concurrent calls (8); `chunk_days`: how many days a call takes.
        - `project_timezone`: for projects from before 2023, whose events carry local time: makes
          `event_time` true UTC, and adds `event_time_local`.
        - `parallel` and `batch_size` are accepted and have no effect.

        :raises TableExistsError: when there is such a table; before anything is fetched.
        :raises TableNotFoundError: when there is none to append to.
        :raises ConfigError: for arguments that cannot work.
        :raises InterruptedFetchError: when some days could not be fetched.
        :raises APIError: when Mixpanel refuses: see `AuthenticationError`, `PlanError`,
            `QueryError`.
        """
        asked = EventQuery.checked(
            name, from_date, to_date,
            events=events, where=where, limit=limit, append=append, replace=replace, mixed=mixed,
            max_workers=max_workers, chunk_days=chunk_days, project_timezone=project_timezone,
        )  # fmt: skip
        return await self._fetch(asked, progress, on_batch_complete)

    async def plan_events(
        self,
        name: str = "events",
        *,
        from_date: Day,
        to_date: Day,
        events: Sequence[str] | str | None = None,
        where: str | None = None,
        limit: int | None = None,
        append: bool = False,
        replace: bool = False,
        mixed: bool = False,
        max_workers: int | None = None,
        chunk_days: int | None = None,
        project_timezone: str | None = None,
    ) -> FetchPlan:
        """Say which calls `fetch_events` would make with these arguments, without making any."""
        asked = EventQuery.checked(
            name, from_date, to_date,
            events=events, where=where, limit=limit, append=append, replace=replace, mixed=mixed,
            max_workers=max_workers, chunk_days=chunk_days, project_timezone=project_timezone,
        )  # fmt: skip
        core = self._core
        return await core._writer(lambda: fetch.plan_events(core.api, core.database, asked))

    async def sync_events(
        self,
        name: str = "events",
        *,
        lookback_days: int = 5,
        from_date: Day | None = None,
        to_date: Day | None = None,
        events: Sequence[str] | str | None = None,
        where: str | None = None,
        progress: bool | Callable[[Progress], object] = True,
        on_batch_complete: Callable[[BatchProgress], object] | None = None,
        max_workers: int | None = None,
        chunk_days: int | None = None,
        project_timezone: str | None = None,
    ) -> FetchResult:
        """Bring a table up to date, so that running it again changes nothing but what is new.

        Fetches the days that the table lacks, up to `to_date` (today), and once more those that
        were fetched less than `lookback_days` after they ended, because events arrive late; each
        such day is replaced as a whole. The first time, `from_date` says where to begin.

        :raises ConfigError: without a `from_date` for a table that is not there yet.
        :raises InterruptedFetchError: when some days could not be fetched.
        :raises APIError: when Mixpanel refuses.
        """
        _check_callbacks(progress, on_batch_complete=on_batch_complete)
        asked = await self._core._writer(
            lambda: fetch.to_sync(
                self._core.database, name, lookback_days, from_date, to_date,
                events=events, where=where, max_workers=max_workers, chunk_days=chunk_days,
                project_timezone=project_timezone,
            )
        )  # fmt: skip
        return await self._fetch(asked, progress, on_batch_complete)

    async def plan_sync(
        self,
        name: str = "events",
        *,
        lookback_days: int = 5,
        from_date: Day | None = None,
        to_date: Day | None = None,
        events: Sequence[str] | str | None = None,
        where: str | None = None,
        max_workers: int | None = None,
        chunk_days: int | None = None,
        project_timezone: str | None = None,
    ) -> FetchPlan:
        """Say which calls `sync_events` would make with these arguments, without making any."""
        core = self._core
        return await core._writer(
            lambda: fetch.plan_sync(
                core.api, core.database, name, lookback_days, from_date, to_date,
                events=events, where=where, max_workers=max_workers, chunk_days=chunk_days,
                project_timezone=project_timezone,
            )
        )  # fmt: skip

    async def _fetch(
        self,
        asked: EventQuery,
        progress: bool | Callable[[Progress], object],  # noqa: FBT001
        on_batch: Callable[[BatchProgress], object] | None,
    ) -> FetchResult:
        _check_callbacks(progress, on_batch_complete=on_batch)
        core = self._core
        with core._fetching(), terminal_line(progress) as tell:
            database = await anyio.to_thread.run_sync(core._opened)
            return await fetch.fetch_events(
                core.api, database, core._writer, asked, on_progress=tell, on_batch=on_batch
            )

    async def fetch_profiles(
        self,
        name: str = "profiles",
        *,
        where: str | None = None,
        cohort_id: int | None = None,
        output_properties: Sequence[str] | str | None = None,
        append: bool = False,
        replace: bool = False,
        mixed: bool = False,
        distinct_id: str | None = None,
        distinct_ids: Sequence[str] | None = None,
        group_id: str | None = None,
        behaviors: Sequence[Mapping[str, Any]] | str | None = None,
        as_of_timestamp: int | None = None,
        include_all_users: bool = False,
        progress: bool | Callable[[Progress], object] = True,
        on_page_complete: Callable[[ProfileProgress], object] | None = None,
        max_workers: int | None = None,
        parallel: bool = True,  # noqa: ARG002 - accepted: fetching always is
        batch_size: int = 1000,  # noqa: ARG002 - accepted: a page is a thousand
    ) -> FetchResult:
        """Fetch user profiles, or those of a group, into the table `name`.

        A page is a thousand profiles; all of them together cost one of the 60 hourly queries.

        - `append` updates a table: of profiles with one distinct_id the latest fetched wins.
        - `cohort_id`: only its members; `include_all_users` adds those without a profile.
        - `output_properties`: only these; much faster.
        - `group_id`: profiles of this group key in place of users'.
        - `behaviors`: a list as `[{"window": "30d", "name": "b1", "event_selectors":
          [{"event": "Order Paid"}]}]`, for a `where` such as `behaviors["b1"] > 0`;
          `as_of_timestamp` (seconds) is the moment they are counted back from.
        - `max_workers`: concurrent queries, at most and by default 5. `parallel` and `batch_size`
          are accepted and have no effect.

        :raises TableExistsError: when there is such a table; before anything is fetched.
        :raises ConfigError: for arguments that exclude each other.
        :raises APIError: when Mixpanel refuses, or keeps failing; nothing is stored then.
        """
        asked = ProfileQuery.checked(
            where=where, cohort_id=cohort_id, output_properties=output_properties,
            distinct_id=distinct_id, distinct_ids=distinct_ids, group_id=group_id,
            behaviors=behaviors, as_of_timestamp=as_of_timestamp,
            include_all_users=include_all_users, max_workers=max_workers,
        )  # fmt: skip
        if append and replace:
            raise ConfigError("append and replace exclude each other")
        mode: Any = "append" if append else "replace" if replace else "new"
        _check_callbacks(progress, on_page_complete=on_page_complete)
        core = self._core
        with core._fetching(), terminal_line(progress) as tell:
            database = await anyio.to_thread.run_sync(core._opened)
            return await fetch_profiles(
                core.api, database, core._writer, name, mode, asked,
                mixed=mixed, on_progress=tell, on_page=on_page_complete,
            )  # fmt: skip

    stream_events: Final = _rows(stream_events)
    stream_profiles: Final = _rows(stream_profiles)
