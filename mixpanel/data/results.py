"""What fetching and asking the local database answer with.

Each is a frozen dataclass: `.to_dict()` can be written as JSON, `.df` is a pandas DataFrame, made
when first asked for, and notebooks show the rows as a table. Times are aware and in UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mixpanel.data._result import Result, Rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import date, datetime
    from pathlib import Path

__all__ = [
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
]

TableType = Literal["events", "profiles"]

# ---- SQL ----------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class SQLResult(Result):
    """The answer to a query; iterate for its rows as tuples.

    `truncated` says that there were more rows than the limit let through.
    """

    columns: list[str]
    rows: list[tuple[Any, ...]]
    truncated: bool = False

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return each row as a dictionary; of columns of one name the last counts."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def to_dict(self) -> dict[str, Any]:
        """Return columns, rows and `row_count` as what JSON knows."""
        return super().to_dict() | {"row_count": len(self.rows)}

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self.rows)

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        return self.to_dicts()

    def _columns(self) -> list[str] | None:
        return list(dict.fromkeys(self.columns))


# ---- fetching -----------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class FetchResult(Result):
    """What a fetch did.

    `rows` were written by this fetch, after `merged` copies of the same event were dropped;
    `repaired` rows held something that is no JSON, and `without_time` have no `event_time`.
    `unreadable` lines could not be loaded; they are kept, as they came, in `unreadable_files`.
    `chunks` were fetched whole, in `requests` calls, of which `retried` were repeats; `bytes` came
    over the wire. What could not be fetched is in `failed_date_ranges` (first and last day) and
    `failed_page_indices`.
    """

    table: str
    rows: int
    type: TableType
    duration_seconds: float
    date_range: tuple[str, str] | None
    fetched_at: datetime
    merged: int = 0
    repaired: int = 0
    without_time: int = 0
    unreadable: int = 0
    unreadable_files: tuple[str, ...] = ()
    requests: int = 0
    retried: int = 0
    bytes: int = 0
    chunks: int = 0
    failed_date_ranges: tuple[tuple[str, str], ...] = ()
    failed_page_indices: tuple[int, ...] = ()

    @property
    def total_rows(self) -> int:
        """The same as `rows`."""
        return self.rows

    @property
    def has_failures(self) -> bool:
        """Whether anything could not be fetched."""
        return bool(self.failed_date_ranges or self.failed_page_indices)

    @property
    def successful_batches(self) -> int:
        """The same as `chunks`."""
        return self.chunks

    @property
    def failed_batches(self) -> int:
        """How many chunks or pages could not be fetched."""
        return len(self.failed_date_ranges) + len(self.failed_page_indices)

    @property
    def successful_pages(self) -> int:
        """The same as `chunks`."""
        return self.chunks

    @property
    def failed_pages(self) -> int:
        """The same as `failed_batches`."""
        return self.failed_batches


@dataclass(frozen=True, repr=False)
class BatchProgress(Result):
    """One chunk of a fetch of events has ended, well or not."""

    from_date: str
    to_date: str
    batch_index: int
    total_batches: int
    rows: int
    success: bool
    error: str | None = None


@dataclass(frozen=True, repr=False)
class ProfileProgress(Result):
    """One page of a fetch of profiles has ended, well or not."""

    page_index: int
    total_pages: int | None
    rows: int
    success: bool
    error: str | None
    cumulative_rows: int


@dataclass(frozen=True, repr=False)
class FetchPlan(Result):
    """What a fetch of events would do: `chunks` (first and last day) in `calls` requests.

    `calls_left` of this hour's budget are left; `already_done` days are there from before.
    """

    table: str
    from_date: date
    to_date: date
    chunks: tuple[tuple[date, date], ...]
    days: int
    calls: int
    calls_left: int
    already_done: int


# ---- what is in the database --------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class TableInfo(Result):
    """One table; `gaps` are the ranges between `from_date` and `to_date` that nobody fetched.

    `filters` are those it was fetched with, one entry for each different fetch. A table that an
    interrupted fetch is still filling is "incomplete"; `type` is "other" for what was not fetched.
    """

    name: str
    type: Literal["events", "profiles", "view", "other"]
    row_count: int
    fetched_at: datetime | None
    from_date: date | None = None
    to_date: date | None = None
    gaps: tuple[tuple[date, date], ...] = ()
    filters: tuple[dict[str, Any], ...] = ()
    state: Literal["complete", "incomplete"] = "complete"


@dataclass(frozen=True, repr=False)
class ColumnInfo(Result):
    """One column of a table."""

    name: str
    type: str
    nullable: bool
    primary_key: bool


@dataclass(frozen=True, repr=False)
class TableSchema(Rows):
    """The columns of a table."""

    table_name: str
    columns: list[ColumnInfo]


@dataclass(frozen=True, repr=False)
class WorkspaceInfo(Rows):
    """Where a workspace keeps what, and for which project; `path` is None in memory."""

    _FIELD = "tables"

    path: Path | None
    project_id: str | None
    region: str | None
    account: str | None
    tables: list[TableInfo]
    size_mb: float
    created_at: datetime | None


@dataclass(frozen=True, repr=False)
class ColumnSummary(Result):
    """What one column holds; `min`, `max` and the quartiles are text, as DuckDB writes them."""

    column_name: str
    column_type: str
    min: str | None
    max: str | None
    approx_unique: int
    avg: str | None
    std: str | None
    q25: str | None
    q50: str | None
    q75: str | None
    count: int
    null_percentage: float


@dataclass(frozen=True, repr=False)
class SummaryResult(Rows):
    """What each column of a table holds."""

    table: str
    row_count: int
    columns: list[ColumnSummary]


@dataclass(frozen=True, repr=False)
class EventStats(Result):
    """One event's share of a table; `pct_of_total` has two decimals."""

    event_name: str | None
    count: int
    unique_users: int
    first_seen: datetime | None
    last_seen: datetime | None
    pct_of_total: float


@dataclass(frozen=True, repr=False)
class EventBreakdownResult(Rows):
    """The events of a table, most frequent first; `date_range` is None when no row has a time."""

    _FIELD = "events"

    table: str
    total_events: int
    total_users: int
    date_range: tuple[datetime, datetime] | None
    events: list[EventStats]


@dataclass(frozen=True, repr=False)
class ColumnStatsResult(Result):
    """What one column or property holds.

    `unique_count` is approximate; `top_values` are pairs of value and count, most frequent first;
    `min`, `max`, `mean` and `std` are None unless the column is numeric.
    """

    table: str
    column: str
    dtype: str
    count: int
    null_count: int
    null_pct: float
    unique_count: int
    unique_pct: float
    top_values: list[tuple[Any, int]]
    min: float | None
    max: float | None
    mean: float | None
    std: float | None

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        return [{"value": value, "count": count} for value, count in self.top_values]

    def _columns(self) -> list[str] | None:
        return ["value", "count"]
