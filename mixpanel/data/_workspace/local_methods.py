"""The methods of both workspaces on the local database."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar, cast

from mixpanel.data._workspace.local_analysis import LocalAnalysis
from mixpanel.data.results import WorkspaceInfo
from mixpanel.data.store import Database

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import duckdb

    from mixpanel.data._workspace.core import WorkspaceCore
    from mixpanel.data.credentials import AnyCredentials

__all__ = ["LocalMethods"]

P = ParamSpec("P")
R = TypeVar("R")


def _local(method: Callable[Concatenate[Database, P], R]) -> Callable[Concatenate[Any, P], R]:
    """Return a method of the database as one of the workspace, with signature and docstring."""

    @functools.wraps(method)
    def call(self: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        return method(self.database, *args, **kwargs)

    return cast("Callable[Concatenate[Any, P], R]", call)


class LocalMethods:
    """Query the local database: plain methods in both workspaces, as they wait for no server."""

    _core: WorkspaceCore

    @property
    def database(self) -> Database:
        """The database, opened on first use.

        :raises MixpanelDataError: when the workspace is closed.
        """
        return self._core.open_database()

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """DuckDB's own connection, for everything that has no method here; it may also write."""
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
        """Mixpanel's reports, computed over a table that was fetched: see `help(LocalAnalysis)`."""
        return LocalAnalysis(self.database)

    sql: Final = _local(Database.sql_df)
    sql_scalar: Final = _local(Database.sql_scalar)
    sql_rows: Final = _local(Database.sql_rows)
    sql_arrow: Final = _local(Database.sql_arrow)
    tables: Final = _local(Database.tables)
    schema: Final = _local(Database.schema)
    table_schema: Final = schema
    sample: Final = _local(Database.sample_df)
    summarize: Final = _local(Database.summarize)
    event_breakdown: Final = _local(Database.event_breakdown)
    property_keys: Final = _local(Database.property_keys)
    column_stats: Final = _local(Database.column_stats)
    typed_view: Final = _local(Database.typed_view)
    drop: Final = _local(Database.drop)
    drop_all: Final = _local(Database.drop_all)
    export_parquet: Final = _local(Database.export_parquet)
    export_csv: Final = _local(Database.export_csv)

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
