"""The results of fetches and of the local database.

Each is a frozen dataclass: `.to_dict()` can be written as JSON, `.df` is a pandas DataFrame, made
on first use, and notebooks show the rows as a table. Times are aware and in UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mixpanel.data._compatibility import ParallelResultNames
from mixpanel.data._result import Result, Rows, plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import date, datetime
    from pathlib import Path

    from mixpanel.settings import Region

__all__ = [
    "Attached",
    "AttachedKind",
    "BatchProgress",
    "ColumnInfo",
    "ColumnStatsResult",
    "ColumnSummary",
    "CredentialsCheck",
    "EventBreakdownResult",
    "EventStats",
    "FailedDays",
    "FetchPlan",
    "FetchResult",
    "ParquetSync",
    "ProfilePlan",
    "ProfileProgress",
    "ReconcileResult",
    "ReconciledDay",
    "Result",
    "SQLResult",
    "SummaryResult",
    "TableInfo",
    "TableSchema",
    "TableType",
    "TypedColumn",
    "TypedTable",
    "UnreadableLines",
    "WorkspaceInfo",
]

TableType = Literal["events", "profiles"]
AttachedKind = Literal["csv", "parquet", "json", "database"]

# ---- SQL ----------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class SQLResult(Result):
    """The result of a SQL query; iterating yields its rows as tuples.

    `truncated` is True if there were more rows than the limit.
    """

    columns: list[str]
    rows: list[tuple[Any, ...]]
    truncated: bool = False

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return each row as a dict; of columns with the same name, the last is kept."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def to_dict(self) -> dict[str, Any]:
        """Return columns, rows and `row_count` as values that JSON can represent."""
        return super().to_dict() | {"row_count": len(self.rows)}

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self.rows)

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        return self.to_dicts()

    def _columns(self) -> list[str] | None:
        return list(dict.fromkeys(self.columns))

    def _scalars(self) -> dict[str, Any]:
        return {"truncated": self.truncated, "row_count": len(self.rows)}

    def _first_rows(self, limit: int) -> tuple[list[dict[str, Any]], int]:
        first = [dict(zip(self.columns, row, strict=True)) for row in self.rows[:limit]]
        return [plain(row) for row in first], len(self.rows)


# ---- credentials --------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class CredentialsCheck(Result):
    """Credentials that Mixpanel has accepted; `source` is where they were found.

    `account` is None for credentials that are not from an account of the configuration file.
    """

    success: bool
    account: str | None
    project_id: str
    region: Region
    source: str


# ---- fetching -----------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class FailedDays(Result):
    """Days that a fetch of events could not fetch, and the reason.

    `state` is "missing" if the table lacks them, "outdated" if it keeps them as an earlier fetch
    has left them, and "future" if they have not begun in the project's time zone.
    """

    from_date: str
    to_date: str
    state: Literal["missing", "outdated", "future"]
    reason: str


@dataclass(frozen=True, repr=False)
class FetchResult(ParallelResultNames, Result):
    """The result of a fetch into a table.

    - `rows` were written, after `merged` copies of the same event were dropped.
    - `repaired` rows contained invalid JSON, and `without_time` have no `event_time`.
    - `unreadable` lines could not be loaded; they are kept unchanged in `unreadable_files`.
    - `chunks` of days, or pages of profiles, were fetched in `requests` calls, of which `retried`
      were repeated attempts; `bytes` were received. An interrupted fetch that was resumed counts
      the pages of before, and only the requests of now.
    - `new`, `changed` and `unchanged` compare the rows with those that the table had before.
      `vanished` rows of it did not come again, because they were deleted or no longer match; of
      profiles the first 1,000 are `vanished_ids`. They are None for a new table, and `vanished`
      also when other rows than those of the table were selected.
    - `failed` are days of events that could not be fetched. Those that are "missing" are `gaps` of
      the table, see `partial=True` of `fetch_events`.
    - `typed` is the typed table beside it, brought up to date, with what has changed in it.
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
    new: int | None = None
    changed: int | None = None
    unchanged: int | None = None
    vanished: int | None = None
    vanished_ids: tuple[str | None, ...] = ()
    failed: tuple[FailedDays, ...] = ()
    typed: TypedTable | None = None

    def _scalars(self) -> dict[str, Any]:
        named = [f"{each.from_date} to {each.to_date} {each.state}" for each in self.failed]
        return super()._scalars() | ({"failed": ", ".join(named)} if named else {})

    @property
    def gaps(self) -> tuple[tuple[str, str], ...]:
        """First and last day of each range that the table lacks, as it could not be fetched."""
        return tuple(
            (each.from_date, each.to_date) for each in self.failed if each.state == "missing"
        )


@dataclass(frozen=True, repr=False)
class BatchProgress(Result):
    """The outcome of one chunk of a fetch of events, for `on_batch_complete`."""

    from_date: str
    to_date: str
    batch_index: int
    total_batches: int
    rows: int
    success: bool
    error: str | None = None


@dataclass(frozen=True, repr=False)
class ProfileProgress(Result):
    """The outcome of one page of a fetch of profiles, for `on_page_complete`."""

    page_index: int
    total_pages: int | None
    rows: int
    success: bool
    error: str | None
    cumulative_rows: int


@dataclass(frozen=True, repr=False)
class FetchPlan(Result):
    """The calls that a fetch of events would make: `calls`, one for each of `chunks`.

    A chunk is a pair of first and last day. `calls_left` of this hour's calls are left;
    `already_done` days need no call, because an interrupted fetch has them.
    """

    table: str
    from_date: date
    to_date: date
    chunks: tuple[tuple[date, date], ...]
    days: int
    calls: int
    calls_left: int
    already_done: int


@dataclass(frozen=True, repr=False)
class ProfilePlan(Result):
    """What a fetch of profiles would cost.

    `calls` of the `calls_left` queries of this hour: one however many profiles there are, and none
    when it resumes an interrupted fetch, of which `pages_done` of `pages` have arrived. How many
    pages there are is not known before the first one. `since` is the time from which profiles are
    fetched again, None for all of them.
    """

    table: str
    calls: int
    calls_left: int
    pages_done: int
    pages: int | None
    since: datetime | None


@dataclass(frozen=True, repr=False)
class UnreadableLines(Result):
    """Lines of a streamed export that are not events, kept unchanged in the file `path`."""

    from_date: date
    to_date: date
    lines: int
    path: str


# ---- the database -------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class TableInfo(Result):
    """A table; `gaps` are the ranges between `from_date` and `to_date` that were not fetched.

    `filters` are those it was fetched with, one entry for each combination. `state` is "incomplete"
    until an interrupted fetch is repeated, and "partial" while some of the gaps are days that could
    not be fetched. `type` is "other" for a table that was not fetched.

    A view is "broken" if it cannot be read, for instance because SQL has dropped its table.

    A table of type "typed" or "history" belongs to the table `source`. A typed table is "stale"
    while its source has other rows: the next fetch, or `typed_table(source)`, brings it up to date.
    """

    name: str
    type: Literal["events", "profiles", "typed", "history", "view", "other"]
    row_count: int
    fetched_at: datetime | None
    from_date: date | None = None
    to_date: date | None = None
    gaps: tuple[tuple[date, date], ...] = ()
    filters: tuple[dict[str, Any], ...] = ()
    state: Literal["complete", "incomplete", "partial", "stale", "broken"] = "complete"
    source: str | None = None


@dataclass(frozen=True, repr=False)
class Attached(Result):
    """A file or another database that SQL can join with; `rows` are None for a database."""

    name: str
    kind: AttachedKind
    path: Path
    rows: int | None


@dataclass(frozen=True, repr=False)
class ParquetSync(Result):
    """What was done to bring a folder of Parquet files up to date.

    `written` and `removed` are days, `kept` is the number of those that had not changed, and
    `paths` are the files written. The day of rows without a time is None.
    """

    written: tuple[str | None, ...]
    kept: int
    removed: tuple[str, ...]
    paths: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class ColumnInfo(Result):
    """A column of a table."""

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
class TypedColumn(Result):
    """A column of a typed table; `outliers` of the `values` of its property are NULL in it."""

    name: str
    property: str
    type: str
    values: int
    outliers: int
    pinned: bool


@dataclass(frozen=True, repr=False)
class TypedTable(Rows):
    """A typed table and how its columns have changed since it was last built.

    `new` columns were added, and those `vanished` have no value any more. `changed` are columns
    that keep their type although the recent values have another: name, type and that other type.
    `omitted` properties have no column, because there are too many.
    """

    _FIELD = "columns"

    table: str
    name: str
    rows: int
    columns: tuple[TypedColumn, ...]
    new: tuple[str, ...] = ()
    vanished: tuple[str, ...] = ()
    changed: tuple[tuple[str, str, str], ...] = ()
    omitted: int = 0


@dataclass(frozen=True, repr=False)
class ReconciledDay(Result):
    """A day's number of events in a table and at Mixpanel; `difference` is local minus Mixpanel.

    `state` is "missing" if the day was not fetched as a whole, "running" if it is not over, else
    "same" or "different".
    """

    day: str
    local: int
    mixpanel: int
    difference: int
    state: Literal["same", "different", "missing", "running"]

    def _differs(self) -> bool:
        """Return True if the day has another number of events, or is missing and has some."""
        is_empty = self.local == self.mixpanel == 0
        return self.state == "different" or (self.state == "missing" and not is_empty)


@dataclass(frozen=True, repr=False)
class ReconcileResult(Rows):
    """The days of a table of events, compared with Mixpanel's own counts.

    Days are those of `timezone`. `local_time` says that the table has the project's local times,
    as of a project from before 2023, and should be fetched with its `project_timezone`.
    """

    _FIELD = "days"

    table: str
    timezone: str
    days: tuple[ReconciledDay, ...]
    local_time: bool = False

    @property
    def ok(self) -> bool:
        """True if each day that is over has as many events as at Mixpanel, and none is missing.

        A missing day that has no events at Mixpanel either is no difference.
        """
        return not self._differing()

    def _differing(self) -> list[ReconciledDay]:
        return [each for each in self.days if each._differs()]

    @property
    def difference(self) -> int:
        """The sum of the differences."""
        return sum(each.difference for each in self.days)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, `ok` and `difference` as values that JSON can represent."""
        return super().to_dict() | {"ok": self.ok, "difference": self.difference}


@dataclass(frozen=True, repr=False)
class WorkspaceInfo(Rows):
    """A workspace's database, project and account; `path` is None in memory."""

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
    """Statistics of a column; `min`, `max` and the quartiles are text, as DuckDB writes them."""

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
    """Statistics of each column of a table."""

    table: str
    row_count: int
    columns: list[ColumnSummary]


@dataclass(frozen=True, repr=False)
class EventStats(Result):
    """An event's share of a table; `pct_of_total` is a percentage with two decimals."""

    event_name: str | None
    count: int
    unique_users: int
    first_seen: datetime | None
    last_seen: datetime | None
    pct_of_total: float


@dataclass(frozen=True, repr=False)
class EventBreakdownResult(Rows):
    """The events of a table, most frequent first; `date_range` is None if no row has a time."""

    _FIELD = "events"

    table: str
    total_events: int
    total_users: int
    date_range: tuple[datetime, datetime] | None
    events: list[EventStats]


@dataclass(frozen=True, repr=False)
class ColumnStatsResult(Result):
    """Statistics of a column or property.

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
