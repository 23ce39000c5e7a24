"""Fetch a project's events and profiles once into DuckDB, then SQL; discover and query it live.

Needs `pip install 'mixpanel-async[data]'`. Importing this package loads none of that: each name
loads its room when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_ROOMS = {
    "_fetch.tasks": ["Progress"],
    "api": ["AsyncAPI"],
    "config": ["AccountInfo", "Config"],
    "credentials": ["Credentials"],
    "exceptions": [
        "APIError",
        "AccountExistsError",
        "AccountNotFoundError",
        "AuthenticationError",
        "ConfigError",
        "DatabaseLockedError",
        "DatabaseNotFoundError",
        "DateRangeTooLargeError",
        "EventNotFoundError",
        "InterruptedFetchError",
        "JQLSyntaxError",
        "MixpanelDataError",
        "PlanError",
        "QueryError",
        "RateLimitError",
        "SQLError",
        "ServerError",
        "TableExistsError",
        "TableNotFoundError",
        "TruncatedError",
        "UnreadablePartError",
        "UnsafeSQLError",
    ],
    "results": [
        "BatchProgress",
        "ColumnInfo",
        "ColumnStatsResult",
        "ColumnSummary",
        "EventBreakdownResult",
        "EventStats",
        "FetchPlan",
        "FetchResult",
        "ProfileProgress",
        "Result",
        "SQLResult",
        "SummaryResult",
        "TableInfo",
        "TableSchema",
        "TableType",
        "WorkspaceInfo",
    ],
    "workspace": ["AsyncWorkspace", "Workspace"],
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}

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


def __getattr__(name: str) -> Any:
    room = _HOME.get(name)
    if room is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{room}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
