"""The methods of both workspaces on the local database."""

from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar, cast

from mixpanel._runtime.signatures import named_like
from mixpanel.data.results import WorkspaceInfo
from mixpanel.data.store import Database

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import duckdb

    from mixpanel.data._workspace.core import WorkspaceCore
    from mixpanel.data._workspace.local_analysis import LocalAnalysis
    from mixpanel.data.credentials import AnyCredentials

__all__ = ["LocalMethods"]

P = ParamSpec("P")
R = TypeVar("R")


def database_method(
    method: Callable[Concatenate[Database, P], R],
) -> Callable[[Callable[..., Any]], Callable[Concatenate[Any, P], R]]:
    """Return a decorator that makes a method call the database's, with its signature and docs."""

    def decorate(declared: Callable[..., Any]) -> Callable[Concatenate[Any, P], R]:
        @functools.wraps(method)
        def call(self: Any, *args: P.args, **kwargs: P.kwargs) -> R:
            return method(self.database, *args, **kwargs)

        return cast("Callable[Concatenate[Any, P], R]", named_like(declared, call))

    return decorate


class LocalMethods:
    """Query the local database: plain methods in both workspaces, as they wait for no server."""

    _core: WorkspaceCore

    def __copy__(self) -> Self:
        new = type(self).__new__(type(self))
        vars(new).update(vars(self), _core=copy.copy(self._core))
        return new

    @property
    def database(self) -> Database:
        """The database, opened on first use.

        :raises MixpanelDataError: when the workspace is closed.
        """
        return self._core.open_database()

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """DuckDB's own connection, for everything that has no method here; it may also write.

        From then on the file stays open, and other processes cannot open it, until `close`.
        """
        return self.database.connection

    @property
    def credentials(self) -> AnyCredentials | None:
        """The credentials in use; None for a workspace that was opened without."""
        return self._core.credentials

    @property
    def db_path(self) -> Path | None:
        """The path of the database file; None in memory.

        :raises ConfigError: when the path begins with `~` and there is no home directory.
        """
        return self._core.path

    @property
    def local(self) -> LocalAnalysis:
        """Mixpanel's reports, computed over a table that was fetched: see `help(ws.local)`."""
        # Loaded here, as its modules take longer to load than the rest of a workspace.
        from mixpanel.data._workspace.local_analysis import LocalAnalysis

        return LocalAnalysis(self.database)

    @database_method(Database.sql_df)
    def sql(self) -> Any: ...
    @database_method(Database.sql_scalar)
    def sql_scalar(self) -> Any: ...
    @database_method(Database.sql_rows)
    def sql_rows(self) -> Any: ...
    @database_method(Database.sql_arrow)
    def sql_arrow(self) -> Any: ...
    @database_method(Database.sql_polars)
    def sql_polars(self) -> Any: ...
    @database_method(Database.attach_csv)
    def attach_csv(self) -> Any: ...
    @database_method(Database.attach_parquet)
    def attach_parquet(self) -> Any: ...
    @database_method(Database.attach_json)
    def attach_json(self) -> Any: ...
    @database_method(Database.attach)
    def attach(self) -> Any: ...
    @database_method(Database.attached)
    def attached(self) -> Any: ...
    @database_method(Database.detach)
    def detach(self) -> Any: ...
    @database_method(Database.tables)
    def tables(self) -> Any: ...
    @database_method(Database.schema)
    def schema(self) -> Any: ...
    @database_method(Database.schema)
    def table_schema(self) -> Any: ...
    @database_method(Database.sample_df)
    def sample(self) -> Any: ...
    @database_method(Database.summarize)
    def summarize(self) -> Any: ...
    @database_method(Database.event_breakdown)
    def event_breakdown(self) -> Any: ...
    @database_method(Database.property_keys)
    def property_keys(self) -> Any: ...
    @database_method(Database.column_stats)
    def column_stats(self) -> Any: ...
    @database_method(Database.typed_view)
    def typed_view(self) -> Any: ...
    @database_method(Database.typed_table)
    def typed_table(self) -> Any: ...
    @database_method(Database.drop)
    def drop(self) -> Any: ...
    @database_method(Database.drop_all)
    def drop_all(self) -> Any: ...
    @database_method(Database.export_parquet)
    def export_parquet(self) -> Any: ...
    @database_method(Database.sync_parquet)
    def sync_parquet(self) -> Any: ...
    @database_method(Database.export_csv)
    def export_csv(self) -> Any: ...

    def info(self) -> WorkspaceInfo:
        """Return the path, size and tables of the database, and the project and account."""
        credentials, database = self.credentials, self.database
        return WorkspaceInfo(
            path=database.path,
            project_id=credentials.project_id if credentials else None,
            region=credentials.region if credentials else None,
            account=credentials.account if credentials else None,
            tables=database.tables(),
            size_mb=database.size_mb,
            created_at=database.created_at,
        )

    def __repr__(self) -> str:
        core = getattr(self, "_core", None)  # missing when `__init__` has failed
        if core is None:
            return f"<{type(self).__name__}>"
        project = core.credentials.project_id if core.credentials else "no project"
        return f"<{type(self).__name__} {project} at {core.unexpanded_path or 'memory'}>"
