"""A project's data on your own machine: fetch once, then SQL."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar, cast

import anyio.to_thread
from pydantic import SecretStr

from mixpanel import _bridge
from mixpanel._bridge import synced
from mixpanel.data import fetch, stream
from mixpanel.data._work import Progress, Writer, terminal_line
from mixpanel.data.api import AsyncAPI
from mixpanel.data.config import Config, Credentials
from mixpanel.data.exceptions import ConfigError, MixpanelDataError
from mixpanel.data.fetch import EventsAsked
from mixpanel.data.profiles import ProfilesAsked, fetch_profiles
from mixpanel.data.results import WorkspaceInfo
from mixpanel.data.store import Database

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterator,
        Generator,
        Iterator,
        Mapping,
        Sequence,
    )

    import duckdb

    from mixpanel.credentials import ServiceAccountCredentials
    from mixpanel.data.plan import Day
    from mixpanel.data.results import BatchProgress, FetchPlan, FetchResult, ProfileProgress
    from mixpanel.settings import Region

__all__ = ["AsyncWorkspace", "Workspace"]

DATA = Path("~/.mp/data")

Row = dict[str, Any]
P = ParamSpec("P")
R = TypeVar("R")


def _local(method: Callable[Concatenate[Database, P], R]) -> Callable[Concatenate[Any, P], R]:
    """Offer a method of the database on the workspace, with its signature and documentation."""

    @functools.wraps(method)
    def asked(self: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        return method(self.database, *args, **kwargs)

    return cast("Callable[Concatenate[Any, P], R]", asked)


class API:
    """Ask any of Mixpanel's endpoints, from sync code."""

    def __init__(self, core: AsyncAPI) -> None:
        self._core = core
        self.project_id, self.region = core.project_id, core.region

    request = synced(AsyncAPI.request)
    query = synced(AsyncAPI.query)


class Local:
    """Ask the local database: plain methods on both faces, for nothing here waits for a server."""

    _core: AsyncWorkspace

    @property
    def database(self) -> Database:
        """The database, opened when first asked for."""
        return self._core._opened()

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """DuckDB's own connection, for what is not offered here; through it you may write."""
        return self.database.connection

    @property
    def db_path(self) -> Path | None:
        """Where the database is; None in memory."""
        return self._core._path

    sql = _local(Database.sql_df)
    sql_scalar = _local(Database.sql_scalar)
    sql_rows = _local(Database.sql_rows)
    sql_arrow = _local(Database.sql_arrow)
    tables = _local(Database.tables)
    schema = table_schema = _local(Database.schema)
    sample = _local(Database.sample)
    summarize = _local(Database.summarize)
    event_breakdown = _local(Database.event_breakdown)
    property_keys = _local(Database.property_keys)
    column_stats = _local(Database.column_stats)
    typed_view = _local(Database.typed_view)
    drop = _local(Database.drop)
    drop_all = _local(Database.drop_all)
    export_parquet = _local(Database.export_parquet)
    export_csv = _local(Database.export_csv)

    def info(self) -> WorkspaceInfo:
        """Say where the data is, for which project, and what there is."""
        core, database = self._core, self.database
        who = core.credentials
        return WorkspaceInfo(
            path=database.path,
            project_id=who.project_id if who else None,
            region=who.region if who else None,
            account=who.account if who else None,
            tables=database.tables(),
            size_mb=database.size_mb,
            created_at=database.created_at,
        )

    def __repr__(self) -> str:
        project = self._core.credentials.project_id if self._core.credentials else "no project"
        return f"<{type(self).__name__} {project} at {self._core._path or 'memory'}>"


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
    asked = EventsAsked.checked(
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
    asked = ProfilesAsked.checked(
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

    return cast("Callable[Concatenate[Any, P], AsyncIterator[Row]]", rows)


def _synced_rows(blocks: Blocks[P]) -> Callable[Concatenate[Any, P], Iterator[Row]]:
    """Make the sync twin of a stream: one trip to the home loop a block."""

    @functools.wraps(blocks)
    def rows(self: Any, *args: P.args, **kwargs: P.kwargs) -> Generator[Row]:
        _bridge.refuse_in_async(f"{type(self).__name__}.{blocks.__name__}")
        each = blocks(self._core, *args, **kwargs)

        async def following() -> list[Row] | None:
            return await anext(each, None)

        async def done() -> None:
            await each.aclose()

        try:
            while (block := _bridge.run(following)) is not None:
                yield from block
        finally:
            _bridge.run(done)

    return cast("Callable[Concatenate[Any, P], Iterator[Row]]", rows)


class AsyncWorkspace(Local):
    """Discover, fetch and query one Mixpanel project.

    >>> async with AsyncWorkspace() as ws:  # doctest: +SKIP
    ...     await ws.fetch_events("january", from_date="2026-01-01", to_date="2026-01-31")
    ...     ws.sql("SELECT event_name, count(*) FROM january GROUP BY ALL")

    What asks Mixpanel is awaited; what asks the local database is not. Credentials are found once,
    here: `credentials`, else the `account` of that name, else the environment (`MP_USERNAME`,
    `MP_SECRET`, `MP_PROJECT_ID`, `MP_REGION`), else the default account of `mp auth`; `project_id`
    and `region` override theirs.
    The database is at `path`, by default `~/.mp/data/{project_id}.db`, and opened when first used.
    `base_url` leads every call elsewhere, as to an emulator. `external_access` lets SQL reach files
    and extensions. `on_wait` is told (seconds, why) when a spent budget of calls is waited for.

    :raises ConfigError: when no credentials are found, or settings cannot work.
    :raises AccountNotFoundError: when there is no such account.
    """

    def __init__(
        self,
        account: str | None = None,
        project_id: str | None = None,
        region: Region | None = None,
        path: str | Path | None = None,
        read_only: bool = False,  # noqa: FBT001, FBT002 - the seed's position
        *,
        credentials: Credentials | ServiceAccountCredentials | None = None,
        base_url: str | None = None,
        external_access: bool = False,
        on_wait: Callable[[float, str], object] | None = None,
    ) -> None:
        found = _credentials(credentials, account, project_id, region)
        default = DATA / f"{found.project_id}.db"
        self._set(found, Path(path or default).expanduser(), read_only=read_only)
        self._base_url, self._on_wait = base_url, on_wait
        self._external_access = external_access

    _base_url: str | None = None
    _on_wait: Callable[[float, str], object] | None = None
    _external_access = False

    def _set(self, found: Credentials | None, path: Path | None, *, read_only: bool) -> None:
        self._core = self
        self.credentials = found
        self._path, self._read_only = path, read_only
        self._lock = threading.Lock()
        self._database: Database | None = None
        self._api: AsyncAPI | None = None
        self._writer = Writer()
        self._closed = False

    @classmethod
    @asynccontextmanager
    async def ephemeral(
        cls,
        account: str | None = None,
        project_id: str | None = None,
        region: Region | None = None,
        **options: Any,
    ) -> AsyncGenerator[Self]:
        """Work in a temporary database, which is deleted at the end."""
        with _temporary() as path:
            async with cls(account, project_id, region, path, **options) as workspace:
                yield workspace

    @classmethod
    @asynccontextmanager
    async def memory(
        cls,
        account: str | None = None,
        project_id: str | None = None,
        region: Region | None = None,
        **options: Any,
    ) -> AsyncGenerator[Self]:
        """Work in memory, without any file."""
        async with cls(account, project_id, region, **options) as workspace:
            workspace._path = None
            yield workspace

    @classmethod
    def open(cls, path: str | Path, *, read_only: bool = True) -> Self:
        """Open a database that is there, without credentials.

        :raises FileNotFoundError: when it is not there.
        """
        workspace = cls.__new__(cls)
        where = Path(path).expanduser()
        if not where.is_file():
            raise FileNotFoundError(f"there is no database {where}")
        workspace._set(None, where, read_only=read_only)
        return workspace

    @staticmethod
    async def test_credentials(
        account: str | None = None, *, base_url: str | None = None
    ) -> dict[str, Any]:
        """Ask Mixpanel whether it takes the credentials; costs none of the hourly queries.

        Returns `{success, account, project_id, region, source}`; `source` says where they are from.

        :raises AuthenticationError: when it does not.
        """
        found = Config().resolve_credentials(account)
        api = AsyncAPI(found, base_url=base_url)
        try:
            await api.check()
        finally:
            await api.aclose()
        return {
            "success": True,
            "account": found.account,
            "project_id": found.project_id,
            "region": found.region,
            "source": found.source,
        }

    def _gate(self) -> AsyncAPI:
        if self.credentials is None:
            raise ConfigError("this workspace was opened without credentials: use Workspace(...)")
        with self._lock:
            if self._api is None:
                self._api = AsyncAPI(
                    self.credentials, base_url=self._base_url, on_wait=self._on_wait
                )
            return self._api

    def _opened(self) -> Database:
        with self._lock:
            if self._closed:
                raise MixpanelDataError("the workspace is closed", code="CLOSED")
            if self._database is None:
                self._database = Database.open(
                    self._path, read_only=self._read_only, external_access=self._external_access
                )
            return self._database

    @property
    def api(self) -> AsyncAPI:
        """The gate to Mixpanel; `await api.request(...)` calls any endpoint.

        :raises ConfigError: for a workspace that was opened without credentials.
        """
        return self._gate()

    # ---- fetching -----------------------------------------------------------------------------

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
        asked = EventsAsked.checked(
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
        asked = EventsAsked.checked(
            name, from_date, to_date,
            events=events, where=where, limit=limit, append=append, replace=replace, mixed=mixed,
            max_workers=max_workers, chunk_days=chunk_days, project_timezone=project_timezone,
        )  # fmt: skip
        return await self._writer(lambda: fetch.plan_events(self.api, self.database, asked))

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
        asked = await self._writer(
            lambda: fetch.to_sync(
                self.database, name, lookback_days, from_date, to_date,
                events=events, where=where, max_workers=max_workers, chunk_days=chunk_days,
                project_timezone=project_timezone,
            )
        )  # fmt: skip
        return await self._fetch(asked, progress, on_batch_complete)

    async def _fetch(
        self,
        asked: EventsAsked,
        progress: bool | Callable[[Progress], object],  # noqa: FBT001
        on_batch: Callable[[BatchProgress], object] | None,
    ) -> FetchResult:
        database = await anyio.to_thread.run_sync(self._opened)
        with terminal_line(progress) as tell:
            return await fetch.fetch_events(
                self.api, database, self._writer, asked, on_progress=tell, on_batch=on_batch
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

        A page is a thousand profiles and one of the 60 hourly queries.

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
        asked = ProfilesAsked.checked(
            where=where, cohort_id=cohort_id, output_properties=output_properties,
            distinct_id=distinct_id, distinct_ids=distinct_ids, group_id=group_id,
            behaviors=behaviors, as_of_timestamp=as_of_timestamp,
            include_all_users=include_all_users, max_workers=max_workers,
        )  # fmt: skip
        if append and replace:
            raise ConfigError("append and replace exclude each other")
        mode: Any = "append" if append else "replace" if replace else "new"
        database = await anyio.to_thread.run_sync(self._opened)
        with terminal_line(progress) as tell:
            return await fetch_profiles(
                self.api, database, self._writer, name, mode, asked,
                mixed=mixed, on_progress=tell, on_page=on_page_complete,
            )  # fmt: skip

    stream_events = _rows(stream_events)
    stream_profiles = _rows(stream_profiles)

    # ---- the end ------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close the database and the connections; a second time does nothing."""
        api, self._api = self._api, None
        if api is not None:
            await api.aclose()
        await anyio.to_thread.run_sync(self._close)

    def _close(self) -> None:
        with self._lock:
            self._closed = True
            database, self._database = self._database, None
        if database is not None:
            database.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class Workspace(Local):
    """Discover, fetch and query one Mixpanel project from sync code; see `AsyncWorkspace`.

    >>> with Workspace() as ws:  # doctest: +SKIP
    ...     ws.fetch_events("january", from_date="2026-01-01", to_date="2026-01-31")
    ...     ws.sql("SELECT event_name, count(*) FROM january GROUP BY ALL")
    """

    def __init__(
        self,
        account: str | None = None,
        project_id: str | None = None,
        region: Region | None = None,
        path: str | Path | None = None,
        read_only: bool = False,  # noqa: FBT001, FBT002 - the seed's position
        **options: Any,
    ) -> None:
        self._core = AsyncWorkspace(account, project_id, region, path, read_only, **options)

    @classmethod
    @contextmanager
    def ephemeral(
        cls,
        account: str | None = None,
        project_id: str | None = None,
        region: Region | None = None,
        **options: Any,
    ) -> Generator[Self]:
        """Work in a temporary database, which is deleted at the end."""
        with _temporary() as path, cls(account, project_id, region, path, **options) as workspace:
            yield workspace

    @classmethod
    @contextmanager
    def memory(
        cls,
        account: str | None = None,
        project_id: str | None = None,
        region: Region | None = None,
        **options: Any,
    ) -> Generator[Self]:
        """Work in memory, without any file."""
        with cls(account, project_id, region, **options) as workspace:
            workspace._core._path = None
            yield workspace

    @classmethod
    def open(cls, path: str | Path, *, read_only: bool = True) -> Self:
        """Open a database that is there, without credentials.

        :raises FileNotFoundError: when it is not there.
        """
        workspace = cls.__new__(cls)
        workspace._core = AsyncWorkspace.open(path, read_only=read_only)
        return workspace

    @staticmethod
    def test_credentials(
        account: str | None = None, *, base_url: str | None = None
    ) -> dict[str, Any]:
        """Ask Mixpanel whether it takes the credentials; see `AsyncWorkspace`."""
        _bridge.refuse_in_async("Workspace.test_credentials")
        return _bridge.run(AsyncWorkspace.test_credentials, account, base_url=base_url)

    @property
    def credentials(self) -> Credentials | None:
        """Who asks; None for a workspace that was opened without."""
        return self._core.credentials

    @property
    def api(self) -> API:
        """The gate to Mixpanel; `api.request(...)` calls any endpoint.

        :raises ConfigError: for a workspace that was opened without credentials.
        """
        return API(self._core.api)

    fetch_events = synced(AsyncWorkspace.fetch_events)
    plan_events = synced(AsyncWorkspace.plan_events)
    sync_events = synced(AsyncWorkspace.sync_events)
    fetch_profiles = synced(AsyncWorkspace.fetch_profiles)
    stream_events = _synced_rows(stream_events)
    stream_profiles = _synced_rows(stream_profiles)

    def close(self) -> None:
        """Close the database and the connections; a second time does nothing."""
        core = self._core
        if core._api is not None:
            _bridge.run(core.aclose)
        core._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _credentials(
    given: Credentials | ServiceAccountCredentials | None,
    account: str | None,
    project_id: str | None,
    region: Region | None,
) -> Credentials:
    if given is None:
        return Config().resolve_credentials(account, project_id=project_id, region=region)
    if account is not None:
        raise ConfigError("account and credentials exclude each other")
    theirs: Region = getattr(given, "region", "us")
    return Credentials(
        username=given.username,
        secret=SecretStr(given.secret) if isinstance(given.secret, str) else given.secret,
        project_id=project_id or given.project_id,
        region=region or theirs,
    )


@contextmanager
def _temporary() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="mixpanel-"))
    remove = functools.partial(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(remove)
    try:
        yield folder / "workspace.db"
    finally:
        remove()
        atexit.unregister(remove)
