"""A project's data on your own machine: fetch once, then SQL."""

from __future__ import annotations

import atexit
import functools
import os
import threading
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Self, TypeVar

import anyio
import anyio.to_thread

from mixpanel._runtime import background_loop
from mixpanel._runtime.redaction import hide_arguments
from mixpanel._runtime.sync_methods import (
    synced,
)
from mixpanel._runtime.temporary_folders import make_temporary_folder, remove_temporary_folder
from mixpanel.data._api.rate_limits import PATIENCE
from mixpanel.data._fetch.tasks import RunningFetches, Writer, checked_callback
from mixpanel.data._paths import expand_home
from mixpanel.data._queries.arguments import identifier
from mixpanel.data._queries.cache import Cache
from mixpanel.data._queries.live import LiveQueries
from mixpanel.data._workspace.local_methods import Local
from mixpanel.data._workspace.remote_methods import (
    RemoteMethods,
    stream_events,
    stream_profiles,
    synced_rows,
)
from mixpanel.data.api import AsyncAPI
from mixpanel.data.config import Config
from mixpanel.data.credentials import Credentials, checked
from mixpanel.data.exceptions import ConfigError, MixpanelDataError
from mixpanel.data.store import Database

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator

    from mixpanel.credentials import ServiceAccountCredentials
    from mixpanel.settings import Region

__all__ = ["AsyncWorkspace", "Workspace"]

DATA = Path("~/.mp/data")

P = ParamSpec("P")
R = TypeVar("R")


class API:
    """Ask any of Mixpanel's endpoints, from sync code."""

    def __init__(self, core: AsyncAPI) -> None:
        self._core = core
        self.project_id: str = core.project_id
        self.region: Region = core.region

    request: Final = synced(AsyncAPI.request)
    query: Final = synced(AsyncAPI.query)


class AsyncWorkspace(RemoteMethods, LiveQueries, Local):
    """Discover, fetch and query one Mixpanel project.

    >>> async with AsyncWorkspace() as ws:  # doctest: +SKIP
    ...     await ws.fetch_events("january", from_date="2026-01-01", to_date="2026-01-31")
    ...     ws.sql("SELECT event_name, count(*) FROM january GROUP BY ALL")

    What asks Mixpanel is awaited; what asks the local database is not. Credentials are found once,
    here: `credentials`, else the `account` of that name, else the environment (`MP_USERNAME`,
    `MP_SECRET`, `MP_PROJECT_ID`, `MP_REGION`), else the default account of `mp auth`; `project_id`
    and `region` override theirs.
    The database is at `path`, by default `~/.mp/data/{project_id}.db`, and opened when first used.
    `read_only` opens it so that several processes may at once, and nothing can be fetched into it.
    `base_url` leads every call elsewhere, as to an emulator. `external_access` lets SQL reach files
    and extensions.
    `on_wait(seconds, why)` is called when a spent budget of calls is waited for; what would wait
    longer than `max_wait` seconds (65 minutes) raises `RateLimitError`. `workspace_id` is the data
    view to query (else `MP_WORKSPACE_ID`, else the whole project).

    :raises ConfigError: when no credentials are found, or settings cannot work.
    :raises AccountNotFoundError: when there is no such account.
    """

    def __init__(
        self,
        account: str | None = None,
        project_id: str | None = None,
        region: Region | None = None,
        path: str | Path | None = None,
        read_only: bool = False,  # noqa: FBT001, FBT002 - its place is known
        *,
        credentials: Credentials | ServiceAccountCredentials | None = None,
        base_url: str | None = None,
        external_access: bool = False,
        on_wait: Callable[[float, str], object] | None = None,
        max_wait: float | None = None,
        workspace_id: int | None = None,
    ) -> None:
        checked_callback(on_wait, "on_wait")
        found = _credentials(credentials, account, project_id, region)
        where = Path(path or DATA / f"{found.project_id}.db")
        self._set(found, where, read_only=read_only)
        self._base_url, self._on_wait = base_url, on_wait
        self._external_access = external_access
        given = workspace_id if workspace_id is not None else os.environ.get("MP_WORKSPACE_ID")
        self._workspace_id = identifier(given, "workspace_id") if given else None
        self._max_wait = _checked_wait(max_wait)

    _core: AsyncWorkspace
    _base_url: str | None = None
    _on_wait: Callable[[float, str], object] | None = None
    _external_access = False
    _workspace_id: int | None = None
    _max_wait: float | None = None

    def _set(self, found: Credentials | None, path: Path | None, *, read_only: bool) -> None:
        self._core = self
        self._credentials = found
        self._where, self._read_only = path, read_only
        self._lock = threading.Lock()
        self._database: Database | None = None
        self._api: AsyncAPI | None = None
        self._writer = Writer()
        self._underway = RunningFetches()
        self._closed = False
        self._discovered = Cache()

    @property
    def _path(self) -> Path | None:
        # Not before it is asked for: without a home there is still memory.
        return None if self._where is None else expand_home(self._where)

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
            workspace._where = None
            yield workspace

    @classmethod
    def open(cls, path: str | Path, *, read_only: bool = True) -> Self:
        """Open a database that is there, without credentials.

        :raises FileNotFoundError: when it is not there.
        """
        workspace = cls.__new__(cls)
        where = expand_home(path)
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

    def _opened(self) -> Database:
        with self._lock:
            self._refuse_closed()
            if self._database is None:
                self._database = Database.open(
                    self._path, read_only=self._read_only, external_access=self._external_access
                )
            return self._database

    def _refuse_closed(self) -> None:
        if self._closed:
            raise MixpanelDataError("the workspace is closed: open another one", code="CLOSED")

    @contextmanager
    def _fetching(self) -> Iterator[None]:
        """Let a fetch end when the workspace is closed, and say so."""
        self._refuse_closed()
        cut_short = MixpanelDataError(
            "the workspace was closed before the fetch had ended: open it again, and run the same "
            "call again",
            code="CLOSED",
        )
        try:
            with self._underway.work() as scope:
                yield
        except Exception as error:
            if not self._closed:
                raise
            raise cut_short from error
        if scope.cancelled_caught:
            raise cut_short

    @property
    def api(self) -> AsyncAPI:
        """The gate to Mixpanel; `await api.request(...)` calls any endpoint.

        :raises ConfigError: for a workspace that was opened without credentials.
        :raises MixpanelDataError: for a workspace that was closed.
        """
        if self.credentials is None:
            raise ConfigError("this workspace was opened without credentials: use Workspace(...)")
        with self._lock:
            self._refuse_closed()
            if self._api is None:
                self._api = AsyncAPI(
                    self.credentials,
                    base_url=self._base_url,
                    on_wait=self._on_wait,
                    patience=PATIENCE if self._max_wait is None else self._max_wait,
                )
            return self._api

    async def aclose(self) -> None:
        """Close the database and the connections; a second time does nothing.

        A fetch that is under way ends with an error; run again later, it goes on from there.
        """
        with self._lock:
            self._closed = True
            api, self._api = self._api, None
        with anyio.CancelScope(shield=True):
            await self._underway.end()
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


def _synced_static(call: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, R]:
    @functools.wraps(call)
    def twin(*args: P.args, **kwargs: P.kwargs) -> R:
        background_loop.refuse_in_async(f"Workspace.{call.__name__}")
        return background_loop.run(call, *args, **kwargs)

    return twin


class Workspace(Local):
    """Discover, fetch and query one Mixpanel project from sync code.

    >>> with Workspace() as ws:  # doctest: +SKIP
    ...     ws.fetch_events("january", from_date="2026-01-01", to_date="2026-01-31")
    ...     ws.sql("SELECT event_name, count(*) FROM january GROUP BY ALL")

    Its arguments, and what it raises, are those of `AsyncWorkspace`: see `help(AsyncWorkspace)`.
    """

    def __init__(
        self,
        account: str | None = None,
        project_id: str | None = None,
        region: Region | None = None,
        path: str | Path | None = None,
        read_only: bool = False,  # noqa: FBT001, FBT002 - its place is known
        *,
        credentials: Credentials | ServiceAccountCredentials | None = None,
        base_url: str | None = None,
        external_access: bool = False,
        on_wait: Callable[[float, str], object] | None = None,
        max_wait: float | None = None,
        workspace_id: int | None = None,
    ) -> None:
        self._core = AsyncWorkspace(
            account, project_id, region, path, read_only,
            credentials=credentials, base_url=base_url,
            external_access=external_access, on_wait=on_wait, max_wait=max_wait,
            workspace_id=workspace_id,
        )  # fmt: skip

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
            workspace._core._where = None
            yield workspace

    @classmethod
    def open(cls, path: str | Path, *, read_only: bool = True) -> Self:
        """Open a database that is there, without credentials.

        :raises FileNotFoundError: when it is not there.
        """
        workspace = cls.__new__(cls)
        workspace._core = AsyncWorkspace.open(path, read_only=read_only)
        return workspace

    test_credentials: Final = staticmethod(_synced_static(AsyncWorkspace.test_credentials))

    @property
    def api(self) -> API:
        """The gate to Mixpanel; `api.request(...)` calls any endpoint.

        :raises ConfigError: for a workspace that was opened without credentials.
        :raises MixpanelDataError: for a workspace that was closed.
        """
        return API(self._core.api)

    fetch_events: Final = synced(AsyncWorkspace.fetch_events)
    plan_events: Final = synced(AsyncWorkspace.plan_events)
    sync_events: Final = synced(AsyncWorkspace.sync_events)
    plan_sync: Final = synced(AsyncWorkspace.plan_sync)
    fetch_profiles: Final = synced(AsyncWorkspace.fetch_profiles)
    stream_events: Final = synced_rows(stream_events)
    stream_profiles: Final = synced_rows(stream_profiles)

    list_events: Final = synced(AsyncWorkspace.list_events)
    list_properties: Final = synced(AsyncWorkspace.list_properties)
    list_property_values: Final = synced(AsyncWorkspace.list_property_values)
    list_events_with_properties: Final = synced(AsyncWorkspace.list_events_with_properties)
    list_funnels: Final = synced(AsyncWorkspace.list_funnels)
    list_cohorts: Final = synced(AsyncWorkspace.list_cohorts)
    list_bookmarks: Final = synced(AsyncWorkspace.list_bookmarks)
    top_events: Final = synced(AsyncWorkspace.top_events)
    lexicon_schemas: Final = synced(AsyncWorkspace.lexicon_schemas)
    lexicon_schema: Final = synced(AsyncWorkspace.lexicon_schema)
    project_timezone: Final = synced(AsyncWorkspace.project_timezone)
    segmentation: Final = synced(AsyncWorkspace.segmentation)
    segmentation_numeric: Final = synced(AsyncWorkspace.segmentation_numeric)
    segmentation_sum: Final = synced(AsyncWorkspace.segmentation_sum)
    segmentation_average: Final = synced(AsyncWorkspace.segmentation_average)
    event_counts: Final = synced(AsyncWorkspace.event_counts)
    property_counts: Final = synced(AsyncWorkspace.property_counts)
    funnel: Final = synced(AsyncWorkspace.funnel)
    retention: Final = synced(AsyncWorkspace.retention)
    frequency: Final = synced(AsyncWorkspace.frequency)
    saved_report: Final = synced(AsyncWorkspace.saved_report)
    flows: Final = synced(AsyncWorkspace.query_flows)
    query_flows: Final = flows
    activity_feed: Final = synced(AsyncWorkspace.activity_feed)
    engage_stats: Final = synced(AsyncWorkspace.engage_stats)
    jql: Final = synced(AsyncWorkspace.jql)
    query: Final = synced(AsyncWorkspace.query)
    query_funnel: Final = synced(AsyncWorkspace.query_funnel)
    query_retention: Final = synced(AsyncWorkspace.query_retention)
    query_flow: Final = synced(AsyncWorkspace.query_flow)
    query_bookmark: Final = synced(AsyncWorkspace.query_bookmark)
    see_in_mixpanel: Final = synced(AsyncWorkspace.see_in_mixpanel)

    def clear_discovery_cache(self) -> None:
        """Clear the cache, so that the next discovery calls Mixpanel."""
        self._core.clear_discovery_cache()

    def close(self) -> None:
        """Close the database and the connections; a second time does nothing.

        A fetch that is under way ends with an error; run again later, it goes on from there.

        :raises SyncInAsyncError: in a callback of a fetch.
        """
        core = self._core
        if core._api is not None or core._underway:
            background_loop.run_anywhere(core.aclose, "Workspace.close()")
        core._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _checked_wait(max_wait: float | None) -> float | None:
    number = isinstance(max_wait, (int, float)) and not isinstance(max_wait, bool)
    if max_wait is not None and not (number and max_wait >= 0):
        raise ConfigError(f"max_wait={max_wait!r} must be a number of seconds, 0 or more")
    return max_wait


@hide_arguments
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
    fields = {
        "username": given.username,
        "secret": given.secret,
        "project_id": project_id or given.project_id,
        "region": region or getattr(given, "region", "us"),
    }
    return checked(fields, "credentials", source="argument")


@contextmanager
def _temporary() -> Iterator[Path]:
    folder, ours = make_temporary_folder(), os.getpid()

    def remove() -> None:
        if os.getpid() == ours:  # a forked child leaves it to its parent
            remove_temporary_folder(folder)

    atexit.register(remove)
    try:
        yield folder / "workspace.db"
    finally:
        remove()
        atexit.unregister(remove)
