"""Fetch a project's events and profiles once into DuckDB, then SQL; discover and query it live.

Needs `pip install 'mixpanel-async[data]'`. Importing this package loads none of that: each name
is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mixpanel._lazy import load_lazily

if TYPE_CHECKING or not load_lazily(__name__):
    from mixpanel.data._fetch.tasks import Progress
    from mixpanel.data.api import AsyncAPI
    from mixpanel.data.config import AccountInfo, Config
    from mixpanel.data.credentials import Credentials
    from mixpanel.data.exceptions import (
        AccountExistsError,
        AccountNotFoundError,
        APIError,
        AuthenticationError,
        ConfigError,
        DatabaseLockedError,
        DatabaseNotFoundError,
        DateRangeTooLargeError,
        EventNotFoundError,
        InterruptedFetchError,
        JQLSyntaxError,
        MixpanelDataError,
        PlanError,
        QueryError,
        RateLimitError,
        ServerError,
        SQLError,
        TableExistsError,
        TableNotFoundError,
        TruncatedError,
        UnreadablePartError,
        UnsafeSQLError,
    )
    from mixpanel.data.results import (
        BatchProgress,
        ColumnInfo,
        ColumnStatsResult,
        ColumnSummary,
        EventBreakdownResult,
        EventStats,
        FetchPlan,
        FetchResult,
        ProfileProgress,
        Result,
        SQLResult,
        SummaryResult,
        TableInfo,
        TableSchema,
        TableType,
        WorkspaceInfo,
    )
    from mixpanel.data.workspace import AsyncWorkspace, Workspace

__all__ = [
    "APIError",
    "AccountExistsError",
    "AccountInfo",
    "AccountNotFoundError",
    "AsyncAPI",
    "AsyncWorkspace",
    "AuthenticationError",
    "BatchProgress",
    "ColumnInfo",
    "ColumnStatsResult",
    "ColumnSummary",
    "Config",
    "ConfigError",
    "Credentials",
    "DatabaseLockedError",
    "DatabaseNotFoundError",
    "DateRangeTooLargeError",
    "EventBreakdownResult",
    "EventNotFoundError",
    "EventStats",
    "FetchPlan",
    "FetchResult",
    "InterruptedFetchError",
    "JQLSyntaxError",
    "MixpanelDataError",
    "PlanError",
    "ProfileProgress",
    "Progress",
    "QueryError",
    "RateLimitError",
    "Result",
    "SQLError",
    "SQLResult",
    "ServerError",
    "SummaryResult",
    "TableExistsError",
    "TableInfo",
    "TableNotFoundError",
    "TableSchema",
    "TableType",
    "TruncatedError",
    "UnreadablePartError",
    "UnsafeSQLError",
    "Workspace",
    "WorkspaceInfo",
]
