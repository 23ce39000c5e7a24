"""What a workspace asks of the local database, the same on both faces."""

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

    from mixpanel.data.credentials import Credentials
    from mixpanel.data.workspace import AsyncWorkspace

__all__ = ["Local"]

P = ParamSpec("P")
R = TypeVar("R")


def _local(method: Callable[Concatenate[Database, P], R]) -> Callable[Concatenate[Any, P], R]:
    """Offer a method of the database on the workspace, with its signature and documentation."""

    @functools.wraps(method)
    def asked(self: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        return method(self.database, *args, **kwargs)

    return cast("Callable[Concatenate[Any, P], R]", asked)


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
    def credentials(self) -> Credentials | None:
        """Who asks; None for a workspace that was opened without."""
        return self._core._credentials

    @property
    def db_path(self) -> Path | None:
        """Where the database is; None in memory.

        :raises ConfigError: when it is at home, and nobody knows where that is.
        """
        return self._core._path

    @property
    def local(self) -> LocalAnalysis:
        """Mixpanel's reports over a table that was fetched: see `help(LocalAnalysis)`."""
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
        """Say where the data is, for which project, and what there is."""
        who, database = self.credentials, self.database
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
        core = getattr(self, "_core", None)  # none yet, while it is being made
        if core is None:
            return f"<{type(self).__name__}>"
        project = core._credentials.project_id if core._credentials else "no project"
        return f"<{type(self).__name__} {project} at {core._where or 'memory'}>"
