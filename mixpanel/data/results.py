"""What fetching and asking the local database answer with.

Each is a frozen dataclass: `.to_dict()` can be written as JSON, `.df` is a pandas DataFrame, made
when first asked for, and notebooks show the rows as a table. Times are aware and in UTC.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from datetime import date, datetime, time
from decimal import Decimal
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from mixpanel.data.exceptions import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import pandas as pd

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

SHOWN = 10  # rows of a repr
SHOWN_IN_NOTEBOOK = 50
WIDEST = 40


class Result:
    """What all results can do."""

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as what JSON knows: times as ISO 8601, NaN as None."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return {name: plain(value) for name, value in own.items()}

    def to_table_dict(self) -> list[dict[str, Any]]:
        """Return the rows that `.df` and tables show, as what JSON knows."""
        return [plain(row) for row in self._rows()]

    @cached_property
    def df(self) -> pd.DataFrame:
        """The rows as a pandas DataFrame, made once.

        :raises ConfigError: without pandas.
        """
        try:
            import pandas as pd
        except ModuleNotFoundError as error:
            raise ConfigError(
                "a DataFrame needs pandas: pip install 'mixpanel-async[pandas]'"
            ) from error
        return pd.DataFrame(self._rows(), columns=self._columns())

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        """Return the rows of `.df`: those of the only list there is, else the one row of all."""
        return [{field.name: getattr(self, field.name) for field in fields(self)}]  # type: ignore[arg-type]

    def _columns(self) -> list[str] | None:
        return None

    def __repr__(self) -> str:
        known = ", ".join(
            f"{name}={_short(value)}"
            for name, value in self.to_dict().items()
            if not isinstance(value, (list, dict)) and value is not None
        )
        head = f"{type(self).__name__}({known})"
        rows = self.to_table_dict()
        if len(rows) == 1 and type(self)._rows is Result._rows:
            return head
        return "\n".join([head, *_aligned(rows[:SHOWN]), *_more(len(rows), SHOWN)])

    def _repr_html_(self) -> str:
        rows = self.to_table_dict()
        names = list(rows[0]) if rows else self._columns() or []
        head = "".join(f"<th>{escape(name)}</th>" for name in names)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(_text(row.get(name)))}</td>" for name in names) + "</tr>"
            for row in rows[:SHOWN_IN_NOTEBOOK]
        )
        more = "".join(f"<p>{line}</p>" for line in _more(len(rows), SHOWN_IN_NOTEBOOK))
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


class _Rows(Result):
    """A result whose rows are those of one of its fields."""

    _FIELD = "columns"

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        return [
            {field.name: getattr(row, field.name) for field in fields(row)}
            for row in getattr(self, self._FIELD)
        ]


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
class TableSchema(_Rows):
    """The columns of a table."""

    table_name: str
    columns: list[ColumnInfo]


@dataclass(frozen=True, repr=False)
class WorkspaceInfo(_Rows):
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
class SummaryResult(_Rows):
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
class EventBreakdownResult(_Rows):
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


# ---- JSON and text ------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """Return a value as what JSON knows."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, (float, Decimal)):
        number = float(value)
        return number if math.isfinite(number) else None
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, Result):
        return value.to_dict()
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(inner) for inner in value]
    return str(value)


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"


def _more(count: int, shown: int) -> list[str]:
    return [f"… {count - shown} more rows"] if count > shown else []


def _aligned(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return []
    cells = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)]
    cut = [
        [cell if len(cell) <= WIDEST else cell[: WIDEST - 1] + "…" for cell in line]
        for line in ([cell.replace("\n", " ") for cell in line] for line in cells)
    ]
    widths = [max(map(len, column)) for column in zip(*cut, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cut
    ]
