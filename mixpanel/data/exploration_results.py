"""Results of exploring the events of a table: values, counts and users.

They used to need JQL scripts; here SQL computes them from a fetched table.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mixpanel.data._figures.figure import Bars, Lines
from mixpanel.data._figures.numbers import short_number
from mixpanel.data._result import Result
from mixpanel.data.query_results import QueryResult

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mixpanel.data._figures.figure import Figure

__all__ = [
    "DailyCount",
    "DailyCountsResult",
    "EngagementBucket",
    "EngagementDistributionResult",
    "NumericPropertySummaryResult",
    "PropertyCoverage",
    "PropertyCoverageResult",
    "PropertyDistributionResult",
    "PropertyValueCount",
]


class _RowsResult(QueryResult):
    """A result whose rows are those of one of its fields."""

    __slots__ = ()

    _FIELD = "values"
    _NAMES: tuple[str, ...] = ()

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        return [
            {name: getattr(row, name) for name in self._NAMES} for row in getattr(self, self._FIELD)
        ]

    def _columns(self) -> list[str]:
        return list(self._NAMES)


@dataclass(frozen=True, slots=True, repr=False)
class PropertyValueCount(Result):
    """A value of a property; `percentage` is of all values, also those beyond the limit."""

    value: Any
    count: int
    percentage: float


@dataclass(frozen=True, slots=True, repr=False)
class PropertyDistributionResult(_RowsResult):
    """The values of a property, most frequent first.

    `total_count` is how many events have one; those without, or with null, are not counted.
    """

    _NAMES = ("value", "count", "percentage")

    event: str
    property_name: str
    from_date: str
    to_date: str
    total_count: int
    values: tuple[PropertyValueCount, ...]

    def _figure(self) -> Figure:
        bars = Bars({_value_name(each.value): each.count for each in self.values})
        return self._figure_of(bars, f"{self.event} by {self.property_name}", "events")


def _value_name(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True, slots=True, repr=False)
class NumericPropertySummaryResult(QueryResult):
    """A summary of the numbers of a property; None if no event has one.

    `stddev` is that of the population. `percentiles` are interpolated linearly between
    neighbouring values.
    """

    event: str
    property_name: str
    from_date: str
    to_date: str
    count: int
    min: float | None
    max: float | None
    sum: float
    avg: float | None
    stddev: float | None
    percentiles: dict[int, float | None]

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        row = {name: getattr(self, name) for name in self._columns()[:6]}
        return [row | {f"p{number}": value for number, value in self.percentiles.items()}]

    def _columns(self) -> list[str]:
        names = ["count", "min", "max", "sum", "avg", "stddev"]
        return [*names, *(f"p{number}" for number in self.percentiles)]


@dataclass(frozen=True, slots=True, repr=False)
class DailyCount(Result):
    """How often an event happened on a day."""

    date: str
    event: str
    count: int


@dataclass(frozen=True, slots=True, repr=False)
class DailyCountsResult(_RowsResult):
    """How often events happened each day; `events` is None where all were counted."""

    _FIELD = "counts"
    _NAMES = ("date", "event", "count")

    from_date: str
    to_date: str
    events: tuple[str, ...] | None
    counts: tuple[DailyCount, ...]

    def _figure(self) -> Figure:
        series: dict[str, dict[str, float]] = {}
        for each in self.counts:
            series.setdefault(each.event, {})[each.date] = each.count
        return self._figure_of(Lines(series), _event_names(self.events), "events")


def _event_names(events: tuple[str, ...] | None) -> str:
    return ", ".join(events) if events else "All events"


@dataclass(frozen=True, slots=True, repr=False)
class EngagementBucket(Result):
    """How many users did a number of events, such as `"2-4"` or `"100+"`."""

    bucket_min: int
    bucket_label: str
    user_count: int
    percentage: float


@dataclass(frozen=True, slots=True, repr=False)
class EngagementDistributionResult(_RowsResult):
    """Users by their number of events."""

    _FIELD = "buckets"
    _NAMES = ("bucket_min", "bucket_label", "user_count", "percentage")

    from_date: str
    to_date: str
    events: tuple[str, ...] | None
    total_users: int
    buckets: tuple[EngagementBucket, ...]

    def _figure(self) -> Figure:
        bars = Bars({each.bucket_label: each.user_count for each in self.buckets})
        return self._figure_of(bars, _event_names(self.events), "users by number of events")


@dataclass(frozen=True, slots=True, repr=False)
class PropertyCoverage(Result):
    """How many events have a property; null counts as missing."""

    property: str
    defined_count: int
    null_count: int
    coverage_percentage: float


@dataclass(frozen=True, slots=True, repr=False)
class PropertyCoverageResult(_RowsResult):
    """How many of an event's occurrences have each of several properties."""

    _FIELD = "coverage"
    _NAMES = ("property", "defined_count", "null_count", "coverage_percentage")

    event: str
    from_date: str
    to_date: str
    total_events: int
    coverage: tuple[PropertyCoverage, ...]

    def _figure(self) -> Figure:
        bars = Bars({each.property: each.coverage_percentage for each in self.coverage})
        measure = f"percent of {short_number(self.total_events)} events"
        return self._figure_of(bars, f"Properties of {self.event}", measure)
