"""What both workspaces share: credentials, connections, the local database and running fetches."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypedDict

import anyio
import anyio.to_thread

from mixpanel._runtime import native_threads
from mixpanel._runtime.rebuilding import Rebuilt
from mixpanel._runtime.redaction import hide_arguments
from mixpanel.data._api.rate_limits import MAX_WAIT
from mixpanel.data._fetch.progress import checked_callback
from mixpanel.data._fetch.tasks import RunningFetches, WriterThread
from mixpanel.data._paths import expand_home
from mixpanel.data._queries.arguments import identifier
from mixpanel.data._queries.cache import Cache
from mixpanel.data.api import AsyncAPI
from mixpanel.data.config import Config
from mixpanel.data.credentials import (
    Credentials,
    LoginCredentials,
    TokenCredentials,
    checked,
)
from mixpanel.data.exceptions import ConfigError, MixpanelDataError
from mixpanel.data.store import Database, resources
from mixpanel.data.store.part_files import unreadable_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mixpanel.credentials import ServiceAccountCredentials
    from mixpanel.data.credentials import AnyCredentials
    from mixpanel.settings import Region

__all__ = ["TemporaryWorkspaceOptions", "WorkspaceCore", "resolve_credentials"]


class TemporaryWorkspaceOptions(TypedDict, total=False):
    """The keyword arguments of `Workspace.ephemeral` and `memory`: those of `Workspace`."""

    read_only: bool
    credentials: AnyCredentials | ServiceAccountCredentials | None
    base_url: str | None
    external_access: bool
    on_wait: Callable[[float, str], object] | None
    max_wait: float | None
    workspace_id: int | None
    memory_limit: str | int | None
    threads: int | None


class WorkspaceCore(Rebuilt):
    """The state of a workspace. `AsyncWorkspace` and `Workspace` hold one and share its type.

    The database and the connections are opened on first use, from whichever thread comes first. A
    copy, and a pickle, has its own: that of a workspace in memory begins empty.
    """

    def __init__(
        self,
        credentials: AnyCredentials | None,
        path: Path | None,
        *,
        read_only: bool = False,
        base_url: str | None = None,
        external_access: bool = False,
        on_wait: Callable[[float, str], object] | None = None,
        max_wait: float | None = None,
        workspace_id: int | None = None,
        memory_limit: str | int | None = None,
        threads: int | None = None,
    ) -> None:
        checked_callback(on_wait, "on_wait")
        self.credentials = credentials
        self.unexpanded_path = path
        self.workspace_id = None if credentials is None else _workspace_id(workspace_id)
        self.writer = WriterThread()
        self.running_fetches = RunningFetches()
        self.discovery_cache = Cache()
        self._read_only, self._external_access = read_only, external_access
        self._memory_limit = None if memory_limit is None else resources.parsed_size(memory_limit)
        self._threads = None if threads is None else resources.threads(threads, memory=0)
        self._base_url, self._on_wait = base_url, on_wait
        self._max_wait = _checked_wait(max_wait)
        self._lock = native_threads.new_lock()
        self._database: Database | None = None
        self._api: AsyncAPI | None = None
        self._closed = False
        self._keep_settings(
            credentials=credentials,
            read_only=read_only,
            base_url=base_url,
            external_access=external_access,
            on_wait=on_wait,
            max_wait=max_wait,
            workspace_id=self.workspace_id,
            memory_limit=memory_limit,
            threads=threads,
        )

    def _rebuild(self, settings: dict[str, Any]) -> None:
        WorkspaceCore.__init__(self, **settings)

    def _current_settings(self) -> dict[str, Any]:
        return {**super()._current_settings(), "path": self.unexpanded_path}

    @property
    def path(self) -> Path | None:
        """The database file; None in memory.

        :raises ConfigError: when the path begins with `~` and there is no home directory.
        """
        # Expanded late: a workspace in memory, or one that is never queried, needs no home.
        return None if self.unexpanded_path is None else expand_home(self.unexpanded_path)

    def unreadable_folder(self) -> Path:
        """Return the folder of lines that cannot be read as events."""
        path = self.path
        return self.open_database().unreadable if path is None else unreadable_folder(path)

    def open_database(self) -> Database:
        """Return the database, opened by the first call."""
        with self._lock:
            self.check_open()
            if self._database is None:
                self._database = Database.open(
                    self.path,
                    read_only=self._read_only,
                    external_access=self._external_access,
                    memory_limit=self._memory_limit,
                    threads=self._threads,
                    project_id=self.credentials.project_id if self.credentials else None,
                )
            return self._database

    @property
    def api(self) -> AsyncAPI:
        """The API client, made by the first call.

        :raises ConfigError: for a workspace that was opened without credentials.
        :raises MixpanelDataError: when the workspace is closed.
        """
        if self.credentials is None:
            raise ConfigError("this workspace was opened without credentials: use Workspace(...)")
        with self._lock:
            self.check_open()
            if self._api is None:
                self._api = AsyncAPI(
                    self.credentials,
                    base_url=self._base_url,
                    on_wait=self._on_wait,
                    max_wait=MAX_WAIT if self._max_wait is None else self._max_wait,
                )
            return self._api

    def check_open(self) -> None:
        """Raise an error if the workspace is closed."""
        if self._closed:
            raise MixpanelDataError("the workspace is closed: open another one", code="CLOSED")

    @contextmanager
    def fetching(self) -> Iterator[None]:
        """Register the fetch inside the block, so that closing the workspace cancels it.

        :raises MixpanelDataError: when the workspace is closed before or during the fetch.
        """
        self.check_open()
        cut_short = MixpanelDataError(
            "the workspace was closed before the fetch had ended: open it again and repeat the "
            "call, which continues from what has arrived",
            code="CLOSED",
        )
        try:
            with self.running_fetches.register() as scope:
                yield
        except Exception as error:
            # Whatever failed first may be a consequence of closing: connections break, the
            # database is gone. The caller needs the cause, not the symptom.
            if not self._closed:
                raise
            raise cut_short from error
        if scope.cancelled_caught:
            raise cut_short

    @property
    def needs_loop_to_close(self) -> bool:
        """True when closing must wait for connections or fetches on an event loop."""
        return self._api is not None or bool(self.running_fetches)

    async def aclose(self) -> None:
        """Cancel running fetches, close connections and database; later calls do nothing."""
        with self._lock:
            self._closed = True
            api, self._api = self._api, None
        # Shielded: a cancelled caller must not leave a database file locked behind it.
        with anyio.CancelScope(shield=True):
            await self.running_fetches.cancel()
            if api is not None:
                await api.aclose()
            await anyio.to_thread.run_sync(self.close_database)

    def close_database(self) -> None:
        """Close the database, without touching the connections."""
        with self._lock:
            self._closed = True
            database, self._database = self._database, None
        if database is not None:
            database.close()


@hide_arguments
def resolve_credentials(
    given: AnyCredentials | ServiceAccountCredentials | None,
    account: str | None,
    project_id: str | None,
    region: Region | None,
) -> AnyCredentials:
    """Return the given credentials, else those that `Config.resolve_credentials` finds."""
    if given is None:
        return Config().resolve_credentials(account, project_id=project_id, region=region)
    if account is not None:
        raise ConfigError("account and credentials are mutually exclusive: pass one of them")
    project: dict[str, Any] = {
        "project_id": project_id or given.project_id,
        "region": region or getattr(given, "region", "us"),
    }
    if isinstance(given, TokenCredentials):
        fields = {**project, "token": given.token}
        return checked(fields, "credentials", source="argument", kind=TokenCredentials)
    if isinstance(given, LoginCredentials):
        fields = {**project, "tokens_path": given.tokens_path}
        return checked(
            fields, "credentials", source="argument", account=given.account, kind=LoginCredentials
        )
    fields = {**project, "username": given.username, "secret": given.secret}
    return checked(fields, "credentials", source="argument", kind=Credentials)


def _checked_wait(max_wait: float | None) -> float | None:
    is_number = isinstance(max_wait, (int, float)) and not isinstance(max_wait, bool)
    if max_wait is not None and not (is_number and max_wait >= 0):
        raise ConfigError(f"max_wait={max_wait!r} must be a number of seconds, 0 or more")
    return max_wait


def _workspace_id(given: int | None) -> int | None:
    value = given if given is not None else os.environ.get("MP_WORKSPACE_ID")
    return identifier(value, "workspace_id") if value else None
