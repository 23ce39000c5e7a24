"""The methods of both workspaces that fetch from Mixpanel or stream from it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Unpack, cast

import anyio.to_thread

from mixpanel._runtime import background_loop
from mixpanel._runtime.signatures import named_like, without_await
from mixpanel.data._fetch import events, profiles, stream
from mixpanel.data._fetch.options import (
    FetchEventsOptions,
    FetchProfilesOptions,
    StreamEventsOptions,
    StreamProfilesOptions,
    SyncEventsOptions,
    SyncProfilesOptions,
    with_options,
)
from mixpanel.data._fetch.progress import Progress, checked_callback, progress_line
from mixpanel.data._fetch.query import EventQuery, ProfileQuery
from mixpanel.data._workspace.core import WorkspaceCore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator

    from mixpanel.data.results import (
        BatchProgress,
        FetchPlan,
        FetchResult,
        ProfilePlan,
        ProfileProgress,
        UnreadableLines,
    )

__all__ = ["RemoteMethods", "stream_events", "stream_profiles", "synced_rows"]

Row = dict[str, Any]
P = ParamSpec("P")
Blocks = Callable[Concatenate[WorkspaceCore, P], AsyncGenerator[list[Row], None]]


# ---- streams ------------------------------------------------------------------------------------

# Written once, as streams of blocks. A block is what one trip to the event loop brings: the async
# workspace yields its rows, and the sync one crosses to the background loop once a block instead
# of once a row.


@with_options(StreamEventsOptions, EventQuery.create)
async def stream_events(
    core: WorkspaceCore,
    *,
    raw: bool = False,
    on_unreadable: Callable[[UnreadableLines], object] | None = None,
    **options: Unpack[StreamEventsOptions],
) -> AsyncGenerator[list[Row]]:
    """Stream events without storing them.

    >>> async for event in ws.stream_events(  # doctest: +SKIP
    ...     from_date="2026-01-01", to_date="2026-01-07"
    ... ):
    ...     print(event["event_name"], event["event_time"])

    An event is `{event_name, event_time, distinct_id, insert_id, properties}`, with an aware time
    in UTC; with `raw`, it is as the API sends it, with its time in milliseconds. A day is
    downloaded completely before its first event is yielded. `limit` (up to 100,000) is exact.

    Lines of an export that are not events are kept in a file in `<database>.unreadable`, and
    `on_unreadable` is called with their days, number and path; for a workspace in memory, the file
    is removed when it closes. Other arguments as in `fetch_events`.

    :raises ConfigError: for invalid arguments.
    :raises TruncatedError: when the export of a day is truncated each time.
    :raises APIError: when Mixpanel rejects the call, or keeps failing.
    """
    checked_callback(on_unreadable, "on_unreadable")
    query = EventQuery.create(**options)
    blocks = stream.event_blocks(
        core.api, query, core.unreadable_folder, raw=raw, on_unreadable=on_unreadable
    )
    async with aclosing(blocks):
        async for block in blocks:
            yield block


@with_options(StreamProfilesOptions, ProfileQuery.create)
async def stream_profiles(
    core: WorkspaceCore, *, raw: bool = False, **options: Unpack[StreamProfilesOptions]
) -> AsyncGenerator[list[Row]]:
    """Stream profiles without storing them, as `{distinct_id, last_seen, properties}`.

    >>> async for profile in ws.stream_profiles(cohort_id=1234):  # doctest: +SKIP
    ...     print(profile["distinct_id"], profile["properties"].get("$email"))

    With `raw`, a profile is as the API sends it. Other arguments as in `fetch_profiles`.

    :raises ConfigError: for arguments that are invalid or exclude each other.
    :raises APIError: when Mixpanel rejects the call, or keeps failing.
    """
    query = ProfileQuery.create(**options)
    async with aclosing(stream.profile_blocks(core.api, query, raw=raw)) as blocks:
        async for block in blocks:
            yield block


def async_rows(
    blocks: Blocks[P],
) -> Callable[[Callable[..., Any]], Callable[Concatenate[Any, P], AsyncIterator[Row]]]:
    """Return a decorator for the method of `AsyncWorkspace` that yields the rows of the blocks."""

    def decorate(
        declared: Callable[..., Any],
    ) -> Callable[Concatenate[Any, P], AsyncIterator[Row]]:
        @functools.wraps(blocks)
        async def rows(self: Any, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[Row]:
            async with aclosing(blocks(self._core, *args, **kwargs)) as opened:
                async for block in opened:
                    for row in block:
                        yield row

        _set_signature(rows, "AsyncIterator[Row]")
        implemented = named_like(declared, rows)
        return cast("Callable[Concatenate[Any, P], AsyncIterator[Row]]", implemented)

    return decorate


def synced_rows(
    blocks: Blocks[P],
) -> Callable[[Callable[..., Any]], Callable[Concatenate[Any, P], Iterator[Row]]]:
    """Return a decorator for the method of `Workspace` that yields the rows of the blocks."""

    def decorate(declared: Callable[..., Any]) -> Callable[Concatenate[Any, P], Iterator[Row]]:
        @functools.wraps(blocks)
        def rows(self: Any, *args: P.args, **kwargs: P.kwargs) -> Generator[Row]:
            background_loop.refuse_in_async(f"{type(self).__name__}.{blocks.__name__}")
            opened = blocks(self._core, *args, **kwargs)

            async def next_block() -> list[Row] | None:
                return await anext(opened, None)

            async def close() -> None:
                await opened.aclose()

            try:
                while (block := background_loop.run(next_block)) is not None:
                    yield from block
            finally:
                background_loop.run(close)

        _set_signature(rows, "Iterator[Row]")
        rows.__doc__ = without_await(blocks.__doc__)
        implemented = named_like(declared, rows)
        return cast("Callable[Concatenate[Any, P], Iterator[Row]]", implemented)

    return decorate


def _set_signature(rows: Any, returns: str) -> None:
    """Show what the method takes and yields, in place of the blocks that it wraps."""
    own = inspect.signature(rows)
    first, *parameters = own.parameters.values()
    parameters.insert(0, first.replace(name="self", annotation=own.empty))
    returns = returns.replace("Row", "dict[str, Any]")
    rows.__signature__ = own.replace(parameters=parameters, return_annotation=returns)


# ---- fetches -----------------------------------------------------------------------------------


class RemoteMethods:
    """Fetch events and profiles into the database, plan that, and stream them."""

    _core: WorkspaceCore

    @with_options(FetchEventsOptions, EventQuery.create)
    async def fetch_events(
        self,
        name: str = "events",
        *,
        progress: bool | Callable[[Progress], object] = True,
        on_batch_complete: Callable[[BatchProgress], object] | None = None,
        parallel: bool = True,  # noqa: ARG002 - see data/_compatibility.py
        batch_size: int = 1000,  # noqa: ARG002 - see data/_compatibility.py
        **options: Unpack[FetchEventsOptions],
    ) -> FetchResult:
        """Fetch the events of whole days, both ends included, into the table `name`.

        >>> await ws.fetch_events(  # doctest: +SKIP
        ...     "january", from_date="2026-01-01", to_date="2026-01-31", events=["Order Paid"]
        ... )

        The table appears when all of it is there, and copies of one event (same event, time,
        distinct_id and `$insert_id`) are merged. After an interruption or failure, the same call
        continues with what is missing. A call fetches one day while the hourly limit of 60 exports
        allows it, else several.

        Days that keep failing, and days that Mixpanel rejects, do not stop the others: those are
        fetched, and kept for the next call. With `partial` the table appears without the days that
        failed: `failed` of the result has them with the reason, `tables()` has them as gaps, a
        report over them warns, and the same call again fetches them alone. A day that Mixpanel
        rejects because it has not begun in the project's time zone is left out in any case.

        - `from_date` and `to_date`: dates, text as "2026-01-31", or days relative to today in
          `project_timezone`, else UTC: "today", "yesterday", "-7d", "-4w" or "-3m".
        - `events`: names of events, by default all. `where`: an expression of Mixpanel's, such as
          `properties["plan"] == "team"`. `limit`: the maximum number of events, up to 100,000.
        - `replace` swaps the new table in at the end; `append` adds days to a table, and replaces
          those it has. A table with other filters is refused, unless `mixed` is True.
        - `progress`: True for a line on a terminal, or a function that is called with `Progress`.
          `on_batch_complete` is called with `BatchProgress` after each call.
        - `max_workers`: concurrent calls, by default 8. `chunk_days`: days fetched by one call.
          `max_requests`: the most calls that it may need, repeated ones aside; needing more is an
          error, and no call is made.
        - `project_timezone`: for projects created before 2023, whose events carry local time: makes
          `event_time` true UTC, and adds `event_time_local`.
        - `parallel` and `batch_size` are accepted and have no effect.

        :raises TableExistsError: when the table exists; before anything is fetched.
        :raises TableNotFoundError: when there is no table to append to.
        :raises ConfigError: for invalid arguments.
        :raises RequestLimitError: when it needs more calls than `max_requests`.
        :raises InterruptedFetchError: when some days could not be fetched, without `partial`.
        :raises APIError: when Mixpanel rejects the call: see `AuthenticationError`, `PlanError`,
            `QueryError`.
        """
        _check_callbacks(progress, on_batch_complete=on_batch_complete)
        query = EventQuery.create(name, **options)
        return await self._fetch_events(query, progress, on_batch_complete)

    @with_options(FetchEventsOptions, EventQuery.create)
    async def plan_events(
        self, name: str = "events", **options: Unpack[FetchEventsOptions]
    ) -> FetchPlan:
        """Return the calls that `fetch_events` would make with these arguments; makes none.

        >>> plan = await ws.plan_events(  # doctest: +SKIP
        ...     "quarter", from_date="2026-01-01", to_date="2026-03-31"
        ... )
        >>> plan.calls  # doctest: +SKIP
        45
        """
        query = EventQuery.create(name, **options)
        core = self._core

        def plan() -> FetchPlan:
            database = core.open_database()
            return events.plan_events(core.api, database, events.fill_gaps(database, query))

        return await core.writer(plan)

    @with_options(SyncEventsOptions, events.create_sync_query)
    async def sync_events(
        self,
        name: str = "events",
        *,
        progress: bool | Callable[[Progress], object] = True,
        on_batch_complete: Callable[[BatchProgress], object] | None = None,
        **options: Unpack[SyncEventsOptions],
    ) -> FetchResult:
        """Bring a table up to date; repeating the call fetches only what is new.

        >>> await ws.sync_events("events", from_date="2026-01-01")  # doctest: +SKIP

        Fetches the days that the table lacks, up to `to_date` (today), and once more those that
        were fetched less than `lookback_days` after they ended, because events arrive late. Each
        such day is replaced as a whole, and the result counts how many events are new, changed,
        unchanged and vanished. The first call needs `from_date`, the first day. Other arguments as
        in `fetch_events`; a table that ended long ago needs many calls, which `max_requests`
        bounds.

        :raises ConfigError: without a `from_date` for a table that does not exist yet.
        :raises RequestLimitError: when it needs more calls than `max_requests`.
        :raises InterruptedFetchError: when some days could not be fetched, without `partial`.
        :raises APIError: when Mixpanel rejects the call.
        """
        _check_callbacks(progress, on_batch_complete=on_batch_complete)
        core = self._core
        query = await core.writer(
            lambda: events.create_sync_query(core.open_database(), name, **options)
        )
        return await self._fetch_events(query, progress, on_batch_complete)

    @with_options(SyncEventsOptions, events.create_sync_query)
    async def plan_sync(
        self, name: str = "events", **options: Unpack[SyncEventsOptions]
    ) -> FetchPlan:
        """Return the calls that `sync_events` would make with these arguments; makes none.

        >>> (await ws.plan_sync("events")).calls  # doctest: +SKIP
        6
        """
        core = self._core

        def plan() -> FetchPlan:
            database = core.open_database()
            query = events.create_sync_query(database, name, **options)
            return events.plan_events(core.api, database, query)

        return await core.writer(plan)

    async def _fetch_events(
        self,
        query: EventQuery,
        progress: bool | Callable[[Progress], object],  # noqa: FBT001
        on_batch: Callable[[BatchProgress], object] | None,
    ) -> FetchResult:
        core = self._core
        with core.fetching(), progress_line(progress) as on_progress:
            database = await anyio.to_thread.run_sync(core.open_database)
            return await events.fetch_events(
                core.api, database, core.writer, query, on_progress=on_progress, on_batch=on_batch
            )

    @with_options(FetchProfilesOptions, ProfileQuery.create)
    async def fetch_profiles(
        self,
        name: str = "profiles",
        *,
        progress: bool | Callable[[Progress], object] = True,
        on_page_complete: Callable[[ProfileProgress], object] | None = None,
        parallel: bool = True,  # noqa: ARG002 - see data/_compatibility.py
        batch_size: int = 1000,  # noqa: ARG002 - see data/_compatibility.py
        **options: Unpack[FetchProfilesOptions],
    ) -> FetchResult:
        """Fetch profiles of users, or of a group, into the table `name`.

        >>> await ws.fetch_profiles("team", where='properties["plan"] == "team"')  # doctest: +SKIP

        A page has a thousand profiles; all pages together cost one of the 60 hourly queries. An
        interrupted fetch is resumed by the same call: for an hour, pages that have arrived are not
        fetched again. The result counts new, changed, unchanged and vanished profiles.

        - `append` updates a table: of several profiles with one distinct_id the latest is kept.
          `replace` swaps the new table in at the end.
        - `cohort_id`: only its members; `include_all_users` adds those without a profile.
        - `output_properties`: only these properties; much faster.
        - `group_id`: the profiles of this group key instead of users'.
        - `behaviors`: a list such as `[{"window": "30d", "name": "b1", "event_selectors":
          [{"event": "Order Paid"}]}]`, for a `where` such as `behaviors["b1"] > 0`;
          `as_of_timestamp` (in seconds) is the time from which their windows reach back.
        - `history` keeps the versions of profiles that this and later fetches find, for queries
          such as `FROM profiles_as_of(TIMESTAMP '2026-01-31')`, in a table `profiles_history`.
        - `on_page_complete` is called with `ProfileProgress` after each page.
        - `max_workers`: concurrent queries, by default and at most 5. `parallel` and `batch_size`
          are accepted and have no effect.

        :raises TableExistsError: when the table exists; before anything is fetched.
        :raises ConfigError: for arguments that are invalid or exclude each other.
        :raises APIError: when Mixpanel rejects the call or keeps failing; the table stays as it is.
        """
        query = ProfileQuery.create(name, **options)
        return await self._fetch_profiles(query, progress, on_page_complete)

    @with_options(FetchProfilesOptions, ProfileQuery.create)
    async def plan_profiles(
        self, name: str = "profiles", **options: Unpack[FetchProfilesOptions]
    ) -> ProfilePlan:
        """Return what `fetch_profiles` would cost with these arguments; makes no call.

        >>> (await ws.plan_profiles()).calls  # doctest: +SKIP
        1
        """
        query = ProfileQuery.create(name, **options)
        core = self._core
        return await core.writer(
            lambda: profiles.plan_profiles(core.api, core.open_database(), query)
        )

    @with_options(SyncProfilesOptions, profiles.create_profile_sync_query)
    async def sync_profiles(
        self,
        name: str = "profiles",
        *,
        progress: bool | Callable[[Progress], object] = True,
        on_page_complete: Callable[[ProfileProgress], object] | None = None,
        **options: Unpack[SyncProfilesOptions],
    ) -> FetchResult:
        """Update a table with the profiles seen since it was fetched; create it if there is none.

        >>> await ws.sync_profiles()  # doctest: +SKIP

        Selects by `$last_seen`, reaching back `lookback_days` before the last fetch. Deleted
        profiles, and updates sent with `$ignore_time`, are found by `fetch_profiles(replace=True)`
        only. Other arguments as in `fetch_profiles`.

        :raises ConfigError: for arguments that are invalid or do not fit the table.
        :raises APIError: when Mixpanel rejects the call or keeps failing.
        """
        core = self._core
        query = await core.writer(
            lambda: profiles.create_profile_sync_query(core.open_database(), name, **options)
        )
        return await self._fetch_profiles(query, progress, on_page_complete)

    @with_options(SyncProfilesOptions, profiles.create_profile_sync_query)
    async def plan_profile_sync(
        self, name: str = "profiles", **options: Unpack[SyncProfilesOptions]
    ) -> ProfilePlan:
        """Return what `sync_profiles` would cost with these arguments; makes no call.

        >>> (await ws.plan_profile_sync()).since  # doctest: +SKIP
        datetime.datetime(2026, 1, 30, 6, 0, tzinfo=datetime.timezone.utc)
        """
        core = self._core

        def plan() -> ProfilePlan:
            database = core.open_database()
            query = profiles.create_profile_sync_query(database, name, **options)
            return profiles.plan_profiles(core.api, database, query)

        return await core.writer(plan)

    async def _fetch_profiles(
        self,
        query: ProfileQuery,
        progress: bool | Callable[[Progress], object],  # noqa: FBT001
        on_page_complete: Callable[[ProfileProgress], object] | None,
    ) -> FetchResult:
        _check_callbacks(progress, on_page_complete=on_page_complete)
        core = self._core
        with core.fetching(), progress_line(progress) as on_progress:
            database = await anyio.to_thread.run_sync(core.open_database)
            return await profiles.fetch_profiles(
                core.api,
                database,
                core.writer,
                query,
                on_progress=on_progress,
                on_page=on_page_complete,
            )

    @async_rows(stream_events)
    def stream_events(self) -> Any: ...
    @async_rows(stream_profiles)
    def stream_profiles(self) -> Any: ...


def _check_callbacks(progress: object, **others: object) -> None:
    if not isinstance(progress, bool):
        checked_callback(progress, "progress")
    for name, callback in others.items():
        checked_callback(callback, name)
