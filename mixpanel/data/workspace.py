"""A project's data on your own machine: fetch it once, then query it with SQL."""

from __future__ import annotations

import atexit
import copy
import functools
import os
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Self, TypeVar, Unpack

from mixpanel._runtime import background_loop
from mixpanel._runtime.signatures import named_like, without_await
from mixpanel._runtime.sync_methods import sync_twin
from mixpanel._runtime.temporary_folders import make_temporary_folder, remove_temporary_folder
from mixpanel.data._paths import default_database, expand_home
from mixpanel.data._queries.live import LiveQueries
from mixpanel.data._workspace.core import (
    TemporaryWorkspaceOptions,
    WorkspaceCore,
    resolve_credentials,
)
from mixpanel.data._workspace.local_methods import LocalMethods
from mixpanel.data._workspace.reconciliation import ReconcileMethods
from mixpanel.data._workspace.remote_methods import (
    RemoteMethods,
    stream_events,
    stream_profiles,
    synced_rows,
)
from mixpanel.data.api import AsyncAPI
from mixpanel.data.config import Config
from mixpanel.data.results import CredentialsCheck

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator

    from mixpanel.credentials import ServiceAccountCredentials
    from mixpanel.data._project.faces import AsyncProject, Project
    from mixpanel.data.credentials import AnyCredentials
    from mixpanel.settings import Region

__all__ = ["AsyncWorkspace", "Workspace"]

P = ParamSpec("P")
R = TypeVar("R")


class API:
    """Client for Mixpanel's reading APIs, for sync code: `Workspace.api`."""

    def __init__(self, api: AsyncAPI) -> None:
        self._async = api
        self.project_id: str = api.project_id
        self.region: Region = api.region

    @sync_twin(AsyncAPI.request)
    def request(self) -> Any: ...
    @sync_twin(AsyncAPI.query)
    def query(self) -> Any: ...


class AsyncWorkspace(RemoteMethods, ReconcileMethods, LocalMethods):
    """Discover, fetch and query one Mixpanel project.

    >>> async with AsyncWorkspace() as ws:  # doctest: +SKIP
    ...     await ws.fetch_events("january", from_date="2026-01-01", to_date="2026-01-31")
    ...     ws.sql("SELECT event_name, count(*) FROM january GROUP BY ALL")

    Calls to Mixpanel are awaited; the local database is used without awaiting.

    Credentials are resolved once, here: `credentials`, else the `account` of that name, else the
    environment (`MP_PROJECT_ID`, `MP_REGION` and either `MP_USERNAME` and `MP_SECRET` or
    `MP_OAUTH_TOKEN`), else the default account of `mp auth`; `project_id` and `region` override
    theirs. `credentials` may be a `TokenCredentials`, for an access token.

    The database file is `path`, else `MP_DB`, else `~/.mp/data/{project_id}.db`, and is opened on
    first use. It is closed again while nothing uses it, unless `connection` was used or SQL has
    external access. `read_only` lets several processes use it at once; nothing can be fetched into
    it then. `external_access` lets SQL read and write files and load extensions.

    `base_url` sends every call to another server, such as the emulator. `on_wait(seconds, why)` is
    called when a call waits for a rate limit; one that would wait longer than `max_wait` seconds
    (default: 65 minutes) raises `RateLimitError`. `workspace_id` is the data view to query (else
    `MP_WORKSPACE_ID`, else the whole project).

    `memory_limit` bounds the memory of the database, as "2GB" (else `MP_MEMORY_LIMIT`, else half of
    that of the machine or container); `threads` are those of its queries (else `MP_THREADS`, else
    one for each processor).

    A copy, and a pickle for a process of your own, has the credentials and the other arguments, and
    connections of its own. A copy of a workspace in memory begins empty.

    :raises ConfigError: when no credentials are found, or an argument is invalid.
    :raises AccountNotFoundError: when there is no account of that name.
    """

    _core: WorkspaceCore

    def __init__(
        self,
        account: str | None = None,
        project_id: str | None = None,
        region: Region | None = None,
        path: str | Path | None = None,
        read_only: bool = False,  # noqa: FBT001, FBT002 - mixpanel_data takes it positionally
        *,
        credentials: AnyCredentials | ServiceAccountCredentials | None = None,
        base_url: str | None = None,
        external_access: bool = False,
        on_wait: Callable[[float, str], object] | None = None,
        max_wait: float | None = None,
        workspace_id: int | None = None,
        memory_limit: str | int | None = None,
        threads: int | None = None,
    ) -> None:
        found = resolve_credentials(credentials, account, project_id, region)
        self._core = WorkspaceCore(
            found,
            Path(path) if path else default_database(found.project_id),
            read_only=read_only,
            base_url=base_url,
            external_access=external_access,
            on_wait=on_wait,
            max_wait=max_wait,
            workspace_id=workspace_id,
            memory_limit=memory_limit,
            threads=threads,
        )

    @classmethod
    @asynccontextmanager
    async def ephemeral(
        cls,
        account: str | None = None,
        project_id: str | None = None,
        region: Region | None = None,
        **options: Unpack[TemporaryWorkspaceOptions],
    ) -> AsyncGenerator[Self]:
        """Open a workspace with a temporary database, which is deleted at the end.

        >>> async with AsyncWorkspace.ephemeral() as ws:  # doctest: +SKIP
        ...     await ws.fetch_profiles()
        ...     ws.sql_scalar("SELECT count(*) FROM profiles")

        `options` are the other arguments of the workspace, except `path`.
        """
        with _temporary_database() as path:
            async with cls(account, project_id, region, path, **options) as workspace:
                yield workspace

    @classmethod
    @asynccontextmanager
    async def memory(
        cls,
        account: str | None = None,
        project_id: str | None = None,
        region: Region | None = None,
        **options: Unpack[TemporaryWorkspaceOptions],
    ) -> AsyncGenerator[Self]:
        """Open a workspace with a database in memory, without a file.

        >>> async with AsyncWorkspace.memory() as ws:  # doctest: +SKIP
        ...     await ws.fetch_profiles()
        ...     ws.sql_scalar("SELECT count(*) FROM profiles")

        `options` are the other arguments of the workspace, except `path`.
        """
        async with cls(account, project_id, region, **options) as workspace:
            workspace._core.unexpanded_path = None
            yield workspace

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        read_only: bool = True,
        memory_limit: str | int | None = None,
        threads: int | None = None,
    ) -> Self:
        """Open an existing database without credentials; nothing can be fetched.

        >>> ws = AsyncWorkspace.open("events.db")  # doctest: +SKIP

        :raises FileNotFoundError: when the file does not exist.
        """
        workspace = cls.__new__(cls)
        workspace._core = _open_existing(
            path, read_only=read_only, memory_limit=memory_limit, threads=threads
        )
        return workspace

    @staticmethod
    async def test_credentials(
        account: str | None = None, *, base_url: str | None = None
    ) -> CredentialsCheck:
        """Check that Mixpanel accepts the credentials; costs none of the hourly queries.

        >>> check = await AsyncWorkspace.test_credentials()  # doctest: +SKIP
        >>> check.project_id, check.source  # doctest: +SKIP
        ('12345', 'default account prod')

        :raises AuthenticationError: when it does not.
        :raises ConfigError: when no credentials are found.
        """
        credentials = Config().resolve_credentials(account)
        async with AsyncAPI(credentials, base_url=base_url) as api:
            await api.check()
        return CredentialsCheck(
            success=True,
            account=credentials.account,
            project_id=credentials.project_id,
            region=credentials.region,
            source=credentials.source,
        )

    @property
    def api(self) -> AsyncAPI:
        """The API client; `await api.request(...)` calls any endpoint.

        :raises ConfigError: for a workspace that was opened without credentials.
        :raises MixpanelDataError: when the workspace is closed.
        """
        return self._core.api

    # Names of mixpanel_data, see `_compatibility`.
    events: Final = LiveQueries.list_events
    properties: Final = LiveQueries.list_properties
    property_values: Final = LiveQueries.list_property_values
    funnels: Final = LiveQueries.list_funnels
    cohorts: Final = LiveQueries.list_cohorts
    query_saved_report: Final = LiveQueries.saved_report
    clear_cache: Final = LiveQueries.clear_discovery_cache

    @property
    def project(self) -> AsyncProject:
        """What the project has saved: reports, boards, cohorts, the lexicon, flags and so on.

        :raises ConfigError: in its calls, for a workspace that was opened without credentials.
        """
        from mixpanel.data._project.faces import AsyncProject

        return AsyncProject(self._core, self._data_view_id, self.project_timezone)

    async def aclose(self) -> None:
        """Close the database and the connections; later calls do nothing.

        A fetch in progress ends with an error; the same call continues it later.
        """
        await self._core.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _static_sync_twin(
    call: Callable[P, Coroutine[Any, Any, R]],
) -> Callable[[Callable[..., Any]], Callable[P, R]]:
    """Return a decorator that makes a static method the blocking twin of an async one."""

    def decorate(declared: Callable[..., Any]) -> Callable[P, R]:
        @functools.wraps(call)
        def twin(*args: P.args, **kwargs: P.kwargs) -> R:
            background_loop.refuse_in_async(f"Workspace.{call.__name__}")
            return background_loop.run(call, *args, **kwargs)

        twin.__doc__ = (without_await(call.__doc__) or "").replace("AsyncWorkspace", "Workspace")
        return named_like(declared, twin)

    return decorate


class Workspace(LocalMethods):
    """Discover, fetch and query one Mixpanel project from sync code.

    >>> with Workspace() as ws:  # doctest: +SKIP
    ...     ws.fetch_events("january", from_date="2026-01-01", to_date="2026-01-31")
    ...     ws.sql("SELECT event_name, count(*) FROM january GROUP BY ALL")

    Arguments and errors are those of `AsyncWorkspace`: see `help(AsyncWorkspace)`.
    """

    _async: AsyncWorkspace

    def __init__(
        self,
        account: str | None = None,
        project_id: str | None = None,
        region: Region | None = None,
        path: str | Path | None = None,
        read_only: bool = False,  # noqa: FBT001, FBT002 - mixpanel_data takes it positionally
        *,
        credentials: AnyCredentials | ServiceAccountCredentials | None = None,
        base_url: str | None = None,
        external_access: bool = False,
        on_wait: Callable[[float, str], object] | None = None,
        max_wait: float | None = None,
        workspace_id: int | None = None,
        memory_limit: str | int | None = None,
        threads: int | None = None,
    ) -> None:
        self._async = AsyncWorkspace(
            account, project_id, region, path, read_only,
            credentials=credentials, base_url=base_url,
            external_access=external_access, on_wait=on_wait, max_wait=max_wait,
            workspace_id=workspace_id,
            memory_limit=memory_limit,
            threads=threads,
        )  # fmt: skip
        self._core = self._async._core

    def __copy__(self) -> Self:
        new = super().__copy__()
        new._async = copy.copy(self._async)
        new._core = new._async._core
        return new

    @classmethod
    @contextmanager
    def ephemeral(
        cls,
        account: str | None = None,
        project_id: str | None = None,
        region: Region | None = None,
        **options: Unpack[TemporaryWorkspaceOptions],
    ) -> Generator[Self]:
        """Open a workspace with a temporary database, which is deleted at the end.

        >>> with Workspace.ephemeral() as ws:  # doctest: +SKIP
        ...     ws.fetch_profiles()
        ...     ws.sql_scalar("SELECT count(*) FROM profiles")

        `options` are the other arguments of the workspace, except `path`.
        """
        with (
            _temporary_database() as path,
            cls(account, project_id, region, path, **options) as workspace,
        ):
            yield workspace

    @classmethod
    @contextmanager
    def memory(
        cls,
        account: str | None = None,
        project_id: str | None = None,
        region: Region | None = None,
        **options: Unpack[TemporaryWorkspaceOptions],
    ) -> Generator[Self]:
        """Open a workspace with a database in memory, without a file.

        >>> with Workspace.memory() as ws:  # doctest: +SKIP
        ...     ws.fetch_profiles()
        ...     ws.sql_scalar("SELECT count(*) FROM profiles")

        `options` are the other arguments of the workspace, except `path`.
        """
        with cls(account, project_id, region, **options) as workspace:
            workspace._core.unexpanded_path = None
            yield workspace

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        read_only: bool = True,
        memory_limit: str | int | None = None,
        threads: int | None = None,
    ) -> Self:
        """Open an existing database without credentials; nothing can be fetched.

        >>> ws = Workspace.open("events.db")  # doctest: +SKIP

        :raises FileNotFoundError: when the file does not exist.
        """
        workspace = cls.__new__(cls)
        workspace._async = AsyncWorkspace.open(
            path, read_only=read_only, memory_limit=memory_limit, threads=threads
        )
        workspace._core = workspace._async._core
        return workspace

    @staticmethod
    @_static_sync_twin(AsyncWorkspace.test_credentials)
    def test_credentials() -> Any: ...

    @property
    def api(self) -> API:
        """The API client; `api.request(...)` calls any endpoint.

        :raises ConfigError: for a workspace that was opened without credentials.
        :raises MixpanelDataError: when the workspace is closed.
        """
        return API(self._core.api)

    @property
    def project(self) -> Project:
        """What the project has saved: reports, boards, cohorts, the lexicon, flags and so on.

        :raises ConfigError: in its calls, for a workspace that was opened without credentials.
        """
        from mixpanel.data._project.faces import Project

        return Project(self._async.project)

    @sync_twin(AsyncWorkspace.fetch_events)
    def fetch_events(self) -> Any: ...
    @sync_twin(AsyncWorkspace.plan_events)
    def plan_events(self) -> Any: ...
    @sync_twin(AsyncWorkspace.sync_events)
    def sync_events(self) -> Any: ...
    @sync_twin(AsyncWorkspace.plan_sync)
    def plan_sync(self) -> Any: ...
    @sync_twin(AsyncWorkspace.fetch_profiles)
    def fetch_profiles(self) -> Any: ...
    @sync_twin(AsyncWorkspace.plan_profiles)
    def plan_profiles(self) -> Any: ...
    @sync_twin(AsyncWorkspace.sync_profiles)
    def sync_profiles(self) -> Any: ...
    @sync_twin(AsyncWorkspace.plan_profile_sync)
    def plan_profile_sync(self) -> Any: ...
    @synced_rows(stream_events)
    def stream_events(self) -> Any: ...
    @synced_rows(stream_profiles)
    def stream_profiles(self) -> Any: ...

    @sync_twin(AsyncWorkspace.list_events)
    def list_events(self) -> Any: ...
    @sync_twin(AsyncWorkspace.list_properties)
    def list_properties(self) -> Any: ...
    @sync_twin(AsyncWorkspace.list_property_values)
    def list_property_values(self) -> Any: ...
    @sync_twin(AsyncWorkspace.list_events_with_properties)
    def list_events_with_properties(self) -> Any: ...
    @sync_twin(AsyncWorkspace.list_funnels)
    def list_funnels(self) -> Any: ...
    @sync_twin(AsyncWorkspace.list_cohorts)
    def list_cohorts(self) -> Any: ...
    @sync_twin(AsyncWorkspace.list_bookmarks)
    def list_bookmarks(self) -> Any: ...
    @sync_twin(AsyncWorkspace.top_events)
    def top_events(self) -> Any: ...
    @sync_twin(AsyncWorkspace.lexicon_schemas)
    def lexicon_schemas(self) -> Any: ...
    @sync_twin(AsyncWorkspace.lexicon_schema)
    def lexicon_schema(self) -> Any: ...
    @sync_twin(AsyncWorkspace.project_timezone)
    def project_timezone(self) -> Any: ...
    @sync_twin(AsyncWorkspace.segmentation)
    def segmentation(self) -> Any: ...
    @sync_twin(AsyncWorkspace.segmentation_numeric)
    def segmentation_numeric(self) -> Any: ...
    @sync_twin(AsyncWorkspace.segmentation_sum)
    def segmentation_sum(self) -> Any: ...
    @sync_twin(AsyncWorkspace.segmentation_average)
    def segmentation_average(self) -> Any: ...
    @sync_twin(AsyncWorkspace.event_counts)
    def event_counts(self) -> Any: ...
    @sync_twin(AsyncWorkspace.property_counts)
    def property_counts(self) -> Any: ...
    @sync_twin(AsyncWorkspace.funnel)
    def funnel(self) -> Any: ...
    @sync_twin(AsyncWorkspace.retention)
    def retention(self) -> Any: ...
    @sync_twin(AsyncWorkspace.frequency)
    def frequency(self) -> Any: ...
    @sync_twin(AsyncWorkspace.saved_report)
    def saved_report(self) -> Any: ...
    @sync_twin(AsyncWorkspace.query_flows)
    def flows(self) -> Any: ...
    @sync_twin(AsyncWorkspace.query_flows)
    def query_flows(self) -> Any: ...
    @sync_twin(AsyncWorkspace.activity_feed)
    def activity_feed(self) -> Any: ...
    @sync_twin(AsyncWorkspace.engage_stats)
    def engage_stats(self) -> Any: ...
    @sync_twin(AsyncWorkspace.jql)
    def jql(self) -> Any: ...
    @sync_twin(AsyncWorkspace.query)
    def query(self) -> Any: ...
    @sync_twin(AsyncWorkspace.query_funnel)
    def query_funnel(self) -> Any: ...
    @sync_twin(AsyncWorkspace.query_retention)
    def query_retention(self) -> Any: ...
    @sync_twin(AsyncWorkspace.query_flow)
    def query_flow(self) -> Any: ...
    @sync_twin(AsyncWorkspace.query_bookmark)
    def query_bookmark(self) -> Any: ...
    @sync_twin(AsyncWorkspace.reconcile)
    def reconcile(self) -> Any: ...
    @sync_twin(AsyncWorkspace.see_in_mixpanel)
    def see_in_mixpanel(self) -> Any: ...

    def clear_discovery_cache(self) -> None:
        """Clear the cache, so that the next discovery calls Mixpanel."""
        self._async.clear_discovery_cache()

    # Names of mixpanel_data, see `_compatibility`.
    events: Final = list_events
    properties: Final = list_properties
    property_values: Final = list_property_values
    funnels: Final = list_funnels
    cohorts: Final = list_cohorts
    query_saved_report: Final = saved_report
    clear_cache: Final = clear_discovery_cache

    def close(self) -> None:
        """Close the database and the connections; later calls do nothing.

        A fetch in progress ends with an error; the same call continues it later.

        :raises SyncInAsyncError: in a callback of a fetch.
        """
        core = self._core
        # Without connections and fetches, there is nothing to wait for on an event loop.
        if core.needs_loop_to_close:
            background_loop.run_anywhere(core.aclose, "Workspace.close()")
        core.close_database()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open_existing(path: str | Path, *, read_only: bool, **options: Any) -> WorkspaceCore:
    file = expand_home(path)
    if not file.is_file():
        raise FileNotFoundError(
            f"there is no database {file}: check the path, or create it with Workspace(path=...)"
        )
    return WorkspaceCore(None, file, read_only=read_only, **options)


@contextmanager
def _temporary_database() -> Iterator[Path]:
    folder, own_pid = make_temporary_folder(), os.getpid()

    def remove() -> None:
        # Registered for exit too, as the block may never end. A forked child inherits that, and
        # must not delete the database of its parent.
        if os.getpid() == own_pid:
            remove_temporary_folder(folder)

    atexit.register(remove)
    try:
        yield folder / "workspace.db"
    finally:
        remove()
        atexit.unregister(remove)
