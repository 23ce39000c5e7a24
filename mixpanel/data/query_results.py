"""Results of Mixpanel's reports, whether Mixpanel computed them or DuckDB did from a local table.

Dates are text as Mixpanel writes them, `2026-01-31` or `2026-01-31 13:00:00`, in the project's
timezone (`timezone`, where it is known). `.df`, `.arrow()` and `.polars()` hold one row for each
number. `$overall` is never among the segments, so that a column can be summed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from mixpanel.data._figures import figure as figures
from mixpanel.data._figures.numbers import COUNTED, SEPARATOR, percentage
from mixpanel.data._result import Result
from mixpanel.data._result_items import (
    CohortInfo,
    FlowEdge,
    FlowNode,
    FlowPath,
    FlowStep,
    FunnelStep,
)
from mixpanel.data.exceptions import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime

    import polars as pl
    import pyarrow as pa
    from matplotlib.axes import Axes

    _Content = figures.Lines | figures.Bars | figures.Funnel | figures.ShareTable | figures.Flows

__all__ = [
    "ActivityFeedResult",
    "CohortInfo",
    "CountType",
    "EngageStatsResult",
    "EventCountsResult",
    "FlowEdge",
    "FlowNode",
    "FlowPath",
    "FlowStep",
    "FlowsResult",
    "FrequencyResult",
    "FunnelResult",
    "FunnelStep",
    "HourDayUnit",
    "InsightsResult",
    "JQLResult",
    "NumericAverageResult",
    "NumericBucketResult",
    "NumericSumResult",
    "PropertyCountsResult",
    "QueryResult",
    "RetentionResult",
    "RetentionType",
    "SavedReportResult",
    "SavedReportType",
    "SegmentationResult",
    "SegmentationUnit",
    "Series",
    "TimeUnit",
    "UserEvent",
]

PROPERTY = re.compile(r'(?:properties|user)\[("(?:[^"\\]|\\["\\])*")\]')

CountType = Literal["general", "unique", "average"]
HourDayUnit = Literal["hour", "day"]
TimeUnit = Literal["day", "week", "month"]
SegmentationUnit = Literal["minute", "hour", "day", "week", "month"]
RetentionType = Literal["birth", "compounded"]
SavedReportType = Literal["insights", "funnel", "retention", "flows"]

Series = dict[str, dict[str, float]]
"""What is counted, by segment and date."""

OVERALL = "$overall"
ANY_EVENT = "any event"


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class QueryResult(Result):
    """The fields of every report.

    `computed_at` is when it was computed. A `sampling_factor` below 1 means that Mixpanel counted
    only that share of the events. `limit_hit` means that segments are missing, because there
    are more than the limit. `sql` is the statement that computed a local result, else None; neither
    it nor `computed_at` counts when results are compared.
    """

    timezone: str | None = None
    computed_at: datetime | None = field(default=None, compare=False, repr=False)
    sampling_factor: float = 1.0
    limit_hit: bool = False
    sql: str | None = field(default=None, compare=False, repr=False)

    def see_in_mixpanel(self) -> str:
        """Return the address at which Mixpanel shows this report, for a browser.

        A saved report has an address. For one that is not saved, a call creates one; it costs none
        of the hourly queries. In async code use
        `await workspace.see_in_mixpanel(result)`.

        :raises ConfigError: for a local result, or one that has no equivalent report in Mixpanel.
        :raises SyncInAsyncError: in an event loop, where a call would block.
        :raises APIError: when Mixpanel rejects the call.
        """
        address: Callable[[], str] | None = self.__dict__.get("_address")
        if address is None:
            raise ConfigError(
                "this result was computed locally, so there is no report of it in Mixpanel"
            )
        return address()

    def arrow(self) -> pa.Table:
        """Return the rows of `.df` as a pyarrow Table.

        :raises ConfigError: without pyarrow.
        """
        try:
            import pyarrow as pa
        except ModuleNotFoundError as error:
            raise ConfigError(
                "an Arrow table needs pyarrow: pip install 'mixpanel-async[arrow]'"
            ) from error
        rows = [dict(row) for row in self._rows()]
        names = list(rows[0]) if rows else self._columns() or []
        return pa.table({name: [row.get(name) for row in rows] for name in names})

    def polars(self) -> pl.DataFrame:
        """Return the rows of `.df` as a polars DataFrame.

        :raises ConfigError: without polars.
        """
        try:
            import polars as pl
        except ModuleNotFoundError as error:
            raise ConfigError(
                "a polars DataFrame needs polars: pip install 'mixpanel-async[polars]'"
            ) from error
        rows = [dict(row) for row in self._rows()]
        names = list(rows[0]) if rows else self._columns() or []
        columns = {name: [row.get(name) for row in rows] for name in names}
        return pl.DataFrame(columns, strict=False)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw with matplotlib, on new axes or given ones, and return them.

        Series become lines, funnels bars, retention a heat map, and flows bands between events.

        :raises ConfigError: without matplotlib, and for a result that cannot be drawn.
        """
        from mixpanel.data._figures.plot import plot

        return plot(self._figure(), ax)

    def chart(self, width: int = 80, *, color: bool = False) -> str:
        """Return a chart as text for a terminal of `width` columns, with colours where wanted.

        :raises ConfigError: for a result that cannot be drawn, and a width below 40.
        """
        from mixpanel.data._figures.terminal import chart

        return chart(self._figure(), width, color=color)

    def _figure(self) -> figures.Figure:
        """Return what `.plot()` and `.chart()` draw.

        :raises ConfigError: for a result that cannot be drawn, as this one unless overridden.
        """
        raise ConfigError(f"a {type(self).__name__} cannot be drawn: use .df")

    def _figure_of(self, content: _Content, title: str, measure: str) -> figures.Figure:
        """Return a figure whose subtitle names the measure, the dates, and what limits both."""
        known: Any = self  # every result that is drawn has dates
        first, last = known.from_date, known.to_date
        zone = f" ({self.timezone})" if self.timezone else ""
        notes = [
            measure,
            f"{first[:10]} to {last[:10]}{zone}" if first and last else "",
            f"sampled at {percentage(self.sampling_factor)}" if self.sampling_factor < 1 else "",
            "there are more than the limit" if self.limit_hit else "",
        ]
        return figures.Figure(title, [*filter(None, notes)], content)


# ---- series of dates ----------------------------------------------------------------------------


class _SeriesResult(QueryResult):
    """A result that is a number for each segment and date."""

    __slots__ = ()

    _SEGMENT = "segment"
    series: Series

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        return [
            {"date": date, self._SEGMENT: segment, "count": count}
            for segment, dates in self.series.items()
            for date, count in dates.items()
        ]

    def _columns(self) -> list[str]:
        return ["date", self._SEGMENT, "count"]

    def _lines(self, title: str, type: CountType, unit: str) -> figures.Figure:  # noqa: A002
        return self._figure_of(figures.Lines(self.series), title, f"{COUNTED[type]} per {unit}")


@dataclass(frozen=True, slots=True, repr=False)
class SegmentationResult(_SeriesResult):
    """How often an event happened, by date and, with `segment_property`, by segment.

    `type` is what was counted: "general" events, "unique" users, or the "average" events per user.
    `total` is the number of events; None for unique users and averages, which do not add up over
    dates, and where a limit left segments out.
    """

    event: str
    from_date: str
    to_date: str
    unit: SegmentationUnit
    segment_property: str | None
    total: int | None
    series: Series
    type: CountType = "general"

    def _figure(self) -> figures.Figure:
        by = f" by {self.segment_property}" if self.segment_property else ""
        return self._lines(f"{self.event}{by}", self.type, self.unit)


@dataclass(frozen=True, slots=True, repr=False)
class EventCountsResult(_SeriesResult):
    """How often several events happened, by event and date."""

    _SEGMENT = "event"

    events: tuple[str, ...]
    from_date: str
    to_date: str
    unit: SegmentationUnit
    type: CountType
    series: Series

    def _figure(self) -> figures.Figure:
        return self._lines(", ".join(self.events), self.type, self.unit)


@dataclass(frozen=True, slots=True, repr=False)
class PropertyCountsResult(_SeriesResult):
    """Count an event by the values of a property and date."""

    _SEGMENT = "value"

    event: str
    property_name: str
    from_date: str
    to_date: str
    unit: SegmentationUnit
    type: CountType
    series: Series

    def _figure(self) -> figures.Figure:
        return self._lines(f"{self.event} by {self.property_name}", self.type, self.unit)


@dataclass(frozen=True, slots=True, repr=False)
class NumericBucketResult(_SeriesResult):
    """How often an event happened, by ranges of a number (`"2,000 - 2,100"`) and date."""

    _SEGMENT = "bucket"

    event: str
    from_date: str
    to_date: str
    property_expr: str
    unit: HourDayUnit
    series: Series
    type: CountType = "general"

    def _figure(self) -> figures.Figure:
        title = f"{self.event} by {_property_name(self.property_expr)}"
        if self.type != "general":  # unique users and averages do not add up over dates
            return self._lines(title, self.type, self.unit)
        totals = {bucket: sum(dates.values()) for bucket, dates in self.series.items()}
        return self._figure_of(figures.Bars(totals), title, f"{COUNTED[self.type]} per {self.unit}")


class _NumericResult(QueryResult):
    """A result that is a number for each date."""

    __slots__ = ()

    _VALUE = "value"
    results: dict[str, float]

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        return [{"date": date, self._VALUE: value} for date, value in self.results.items()]

    def _columns(self) -> list[str]:
        return ["date", self._VALUE]

    def _line(self, event: str, number: str, unit: str) -> figures.Figure:
        name = f"{self._VALUE} of {_property_name(number)}"
        content = figures.Lines({name: self.results})
        return self._figure_of(content, f"{name[0].upper()}{name[1:]}: {event}", f"per {unit}")


@dataclass(frozen=True, slots=True, repr=False)
class NumericSumResult(_NumericResult):
    """The sum of a number over an event's occurrences, by date."""

    _VALUE = "sum"

    event: str
    from_date: str
    to_date: str
    property_expr: str
    unit: HourDayUnit
    results: dict[str, float]

    def _figure(self) -> figures.Figure:
        return self._line(self.event, self.property_expr, self.unit)


@dataclass(frozen=True, slots=True, repr=False)
class NumericAverageResult(_NumericResult):
    """The average of a number over an event's occurrences, by date."""

    _VALUE = "average"

    event: str
    from_date: str
    to_date: str
    property_expr: str
    unit: HourDayUnit
    results: dict[str, float]

    def _figure(self) -> figures.Figure:
        return self._line(self.event, self.property_expr, self.unit)


def _property_name(expression: str) -> str:
    """Return the name of a property, and any other expression unchanged."""
    found = PROPERTY.fullmatch(expression)
    return str(json.loads(found[1])) if found else expression


# ---- funnels ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class FunnelResult(QueryResult):
    """How many users did the steps of a funnel in order.

    `steps` are those of all users. `segments` are the steps of each value of `segment_property`,
    and `dates` those of the users who began in each period; a user may be in several of them, so
    neither adds up to `steps`. `conversion_rate` is the share that reached the last step.
    """

    funnel_id: int | None
    funnel_name: str
    from_date: str
    to_date: str
    conversion_rate: float
    steps: tuple[FunnelStep, ...]
    segment_property: str | None = None
    segments: dict[str, tuple[FunnelStep, ...]] = field(default_factory=dict)
    dates: dict[str, tuple[FunnelStep, ...]] = field(default_factory=dict)
    window: int | None = None
    window_unit: str | None = None

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        if self.segment_property is None:
            return [*_steps(self.steps)]
        return [
            {"segment": segment, **row}
            for segment, steps in self.segments.items()
            for row in _steps(steps)
        ]

    def _columns(self) -> list[str]:
        columns = ["step", "event", "count", "conversion_rate", "overall_conversion_rate"]
        columns += ["avg_time", "avg_time_from_start"]
        return columns if self.segment_property is None else ["segment", *columns]

    def _figure(self) -> figures.Figure:
        ends = self.steps[:1] + self.steps[-1:]
        names = dict.fromkeys(step.label or step.event for step in ends)
        by = f" by {self.segment_property}" if self.segments and self.segment_property else ""
        title = (self.funnel_name or " → ".join(names) or "Funnel") + by
        plural = "s" if self.window and self.window > 1 else ""
        within = f" within {self.window} {self.window_unit}{plural}" if self.window else ""
        measure = f"{percentage(self.conversion_rate)} converted{within}"
        return self._figure_of(figures.Funnel(self.steps, self.segments), title, measure)


def _steps(steps: Sequence[FunnelStep]) -> Iterator[dict[str, Any]]:
    for number, step in enumerate(steps, start=1):
        yield {
            "step": number,
            "event": step.event,
            "count": step.count,
            "conversion_rate": step.conversion_rate,
            "overall_conversion_rate": step.overall_conversion_rate,
            "avg_time": step.avg_time,
            "avg_time_from_start": step.avg_time_from_start,
        }


# ---- retention and frequency --------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class RetentionResult(QueryResult):
    """How many users came back, by the date of their first event.

    An interval is `interval` times `unit`. `return_event` is None where any event counts. With
    `segment_property`, `segments` holds the cohorts of each value, and `cohorts` those of all.
    With `unbounded`, interval N counts the users who came back in N or later.
    """

    born_event: str | None
    return_event: str | None
    from_date: str
    to_date: str
    unit: TimeUnit
    cohorts: tuple[CohortInfo, ...]
    interval: int = 1
    interval_count: int = 1
    retention_type: RetentionType = "birth"
    unbounded: bool = False
    segment_property: str | None = None
    segments: dict[str, tuple[CohortInfo, ...]] = field(default_factory=dict)

    @property
    def average(self) -> tuple[float, ...]:
        """The share of users who came back in each interval, over all cohorts that have it.

        A cohort weighs as many users as it has.
        """
        longest = max((len(cohort.counts) for cohort in self.cohorts), default=0)
        shares = []
        for number in range(longest):
            having = [cohort for cohort in self.cohorts if len(cohort.counts) > number]
            size = sum(cohort.size for cohort in having)
            came_back = sum(cohort.counts[number] for cohort in having)
            shares.append(came_back / size if size else 0.0)
        return tuple(shares)

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        if self.segment_property is None:
            return [self._row(cohort) for cohort in self.cohorts]
        return [
            {"segment": segment, **self._row(cohort)}
            for segment, cohorts in self.segments.items()
            for cohort in cohorts
        ]

    def _row(self, cohort: CohortInfo) -> dict[str, Any]:
        known = dict(enumerate(cohort.retention))
        return {
            "cohort_date": cohort.date,
            "cohort_size": cohort.size,
            **{f"period_{number}": known.get(number) for number in range(self._periods)},
        }

    @property
    def _periods(self) -> int:
        every = [*self.cohorts, *(each for group in self.segments.values() for each in group)]
        return max((len(cohort.retention) for cohort in every), default=0)

    def _columns(self) -> list[str]:
        columns = ["cohort_date", "cohort_size"]
        columns += [f"period_{number}" for number in range(self._periods)]
        return columns if self.segment_property is None else ["segment", *columns]

    def _figure(self) -> figures.Figure:
        born = self.born_event or self.return_event or ANY_EVENT
        every = f"{self.interval} {self.unit}s" if self.interval > 1 else self.unit
        later = " or later" if self.unbounded else ""
        periods = f"{self.unit}s" if self.interval == 1 else f"{every} each"
        size = sum(cohort.size for cohort in self.cohorts)
        content = figures.ShareTable(
            heading="cohort",
            axis_label=f"{periods}, since the first event{f' ({later[1:]})' if later else ''}",
            first_column=0,
            rows=_cohort_rows(self.cohorts),
            average=figures.ShareRow("average", size, self.average)
            if len(self.cohorts) > 1
            else None,
            segments={name: _cohort_rows(cohorts) for name, cohorts in self.segments.items()},
        )
        title = f"{born}, then {self.return_event or ANY_EVENT}"
        return self._figure_of(content, title, f"retention per {every}{later}")


def _cohort_rows(cohorts: Sequence[CohortInfo]) -> list[figures.ShareRow]:
    return [figures.ShareRow(each.date, each.size, each.retention) for each in cohorts]


@dataclass(frozen=True, slots=True, repr=False)
class FrequencyResult(QueryResult):
    """On how many days, or in how many hours, of a period users were active (addiction).

    Element k of a date's list is the number of users who were active in at least k + 1 different
    `addiction_unit`s of the `unit` that begins on that date. `event` is None where any counts. With
    `segment_property`, `segments` holds the same for each value, and `data` for all.
    """

    event: str | None
    from_date: str
    to_date: str
    unit: TimeUnit
    addiction_unit: HourDayUnit
    data: dict[str, tuple[int, ...]]
    segment_property: str | None = None
    segments: dict[str, dict[str, tuple[int, ...]]] = field(default_factory=dict)

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        if self.segment_property is None:
            return [self._row(date, counts) for date, counts in self.data.items()]
        return [
            {"segment": segment, **self._row(date, counts)}
            for segment, dates in self.segments.items()
            for date, counts in dates.items()
        ]

    def _row(self, date: str, counts: Sequence[int]) -> dict[str, Any]:
        known = dict(enumerate(counts))
        periods = {f"period_{number + 1}": known.get(number) for number in range(self._periods)}
        return {"date": date, **periods}

    @property
    def _periods(self) -> int:
        every = [self.data, *self.segments.values()]
        return max((len(counts) for dates in every for counts in dates.values()), default=0)

    def _columns(self) -> list[str]:
        columns = ["date", *(f"period_{number + 1}" for number in range(self._periods))]
        return columns if self.segment_property is None else ["segment", *columns]

    def _figure(self) -> figures.Figure:
        content = figures.ShareTable(
            heading="date",
            axis_label=f"active in at least … {self.addiction_unit}s",
            first_column=1,
            rows=_frequency_rows(self.data),
            segments={name: _frequency_rows(dates) for name, dates in self.segments.items()},
        )
        measure = f"users by active {self.addiction_unit}s per {self.unit}"
        return self._figure_of(content, f"Frequency of {self.event or ANY_EVENT}", measure)


def _frequency_rows(dates: Mapping[str, Sequence[int]]) -> list[figures.ShareRow]:
    """Return the shares of those who were active at all, without columns that are 0 everywhere."""
    used = max((sum(map(bool, counts)) for counts in dates.values()), default=0) or 1
    return [
        figures.ShareRow(
            date, counts[0], [n / counts[0] if counts[0] else 0.0 for n in counts[:used]]
        )
        for date, counts in dates.items()
    ]


# ---- flows --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class FlowsResult(QueryResult):
    """What users did before and after an event.

    `steps` are the events at each distance from the anchor; `paths` the most frequent sequences.
    `breakdowns`, `trees` and `metadata` are as Mixpanel sent them. `overall_conversion_rate` is
    None where Mixpanel has none.
    """

    bookmark_id: int | None
    steps: tuple[FlowStep, ...]
    breakdowns: tuple[Any, ...] = ()
    overall_conversion_rate: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    paths: tuple[FlowPath, ...] = ()
    trees: tuple[Any, ...] = ()
    event: str | None = None
    from_date: str | None = None
    to_date: str | None = None
    count_type: Literal["unique", "total", "session"] = "unique"

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        return [
            {"step": step.step, "event": node.event, "type": node.type, "count": node.count}
            for step in self.steps
            for node in step.nodes
        ]

    def _columns(self) -> list[str]:
        return ["step", "event", "type", "count"]

    def _figure(self) -> figures.Figure:
        title = f"Flows of {self.event}" if self.event else "Flows"
        measure = {"unique": "users", "total": "occurrences"}.get(self.count_type, "sessions")
        return self._figure_of(figures.Flows(self.steps, self.paths), title, measure)


# ---- what only Mixpanel computes ----------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class InsightsResult(QueryResult):
    """The figures of an insights query, by metric, groups and date.

    `headers` names the levels of `series`: the metric, then one for each group; below them is
    either a date or `all`. Each level of groups has a member `$overall`, which no sum over the
    others gives; rows leave it out, and `overall()` returns it.
    """

    from_date: str | None
    to_date: str | None
    headers: tuple[str, ...]
    series: dict[str, Any]
    unit: str | None = None

    def overall(self) -> Series:
        """Return the figures of each metric over all groups, by date."""
        return {metric: _overall(below) for metric, below in self.series.items()}

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        names = self._columns()
        return [
            dict(zip(names, row, strict=True))
            for row in _leaves(self.series, len(self.headers))
            if OVERALL not in row[:-2]
        ]

    def _columns(self) -> list[str]:
        groups = [name.removeprefix("$") for name in self.headers[1:]]
        return ["metric", *_distinct(groups, {"metric", "date", "value"}), "date", "value"]

    def _figure(self) -> figures.Figure:
        found: dict[tuple[str, ...], dict[str, float]] = {}
        for row in self._rows():
            *names, date, value = row.values()
            if isinstance(value, (int, float)):
                found.setdefault(tuple(map(str, names)), {})[str(date)] = value
        # Series are named by what tells them apart: with one metric, by its groups alone.
        levels = [len(set(level)) for level in zip(*found, strict=True)]
        varied = [n for n, count in enumerate(levels) if count > 1] or range(len(levels))
        series = {SEPARATOR.join(name[n] for n in varied): dates for name, dates in found.items()}
        return self._figure_of(figures.Lines(series), ", ".join(self.series) or "Insights", "")


def _overall(below: Any) -> dict[str, Any]:
    while isinstance(below, dict) and OVERALL in below:
        below = below[OVERALL]
    return dict(below) if isinstance(below, dict) else {"all": below}


def _leaves(below: Any, levels: int) -> Iterator[tuple[Any, ...]]:
    """Yield the names of all levels, the date and the value of each figure."""
    if levels == 0:
        yield from below.items() if isinstance(below, dict) else [("all", below)]
        return
    for name, inner in below.items():
        for leaf in _leaves(inner, levels - 1):
            yield (name, *leaf)


def _distinct(names: Sequence[str], taken: set[str]) -> Iterator[str]:
    for name in names:
        unique, number = name, 2
        while unique in taken:
            unique, number = f"{name}_{number}", number + 1
        taken.add(unique)
        yield unique


@dataclass(frozen=True, slots=True, repr=False)
class SavedReportResult(QueryResult):
    """A saved report: `headers` and `series` as Mixpanel sent them, and `report`, which is typed.

    Rows, plots and charts are those of `report`.
    """

    bookmark_id: int
    from_date: str | None
    to_date: str | None
    headers: tuple[str, ...]
    series: dict[str, Any]
    report_type: SavedReportType
    report: QueryResult

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        return self.report._rows()

    def _columns(self) -> list[str] | None:
        return self.report._columns()

    def _figure(self) -> figures.Figure:
        return self.report._figure()


@dataclass(frozen=True, slots=True, repr=False)
class UserEvent(Result):
    """One event of a user; `time` is aware and in UTC, None where the event has none."""

    event: str
    time: datetime | None
    properties: dict[str, Any]


@dataclass(frozen=True, slots=True, repr=False)
class ActivityFeedResult(QueryResult):
    """The events of some users, in order of time.

    `read_from` is the first day that was read, if the calls ended before `from_date`, else None.
    """

    distinct_ids: tuple[str, ...]
    from_date: str | None
    to_date: str | None
    events: tuple[UserEvent, ...]
    read_from: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return all fields and `event_count` as values that JSON can represent."""
        return QueryResult.to_dict(self) | {"event_count": len(self.events)}

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        columns = self._properties()
        return [
            {"event": each.event, "time": each.time}
            | {column: each.properties.get(name) for name, column in columns.items()}
            for each in self.events
        ]

    def _columns(self) -> list[str]:
        return ["event", "time", *self._properties().values()]

    def _properties(self) -> dict[str, str]:
        """Return the column of each property, by its name."""
        names = ["distinct_id", *(name for each in self.events for name in each.properties)]
        unique = list(dict.fromkeys(names))
        return dict(zip(unique, _distinct(unique, {"event", "time"}), strict=True))


@dataclass(frozen=True, slots=True, repr=False)
class JQLResult(QueryResult):
    """The result of a JQL script; `raw` is as it was sent.

    Rows of `groupBy`, which have a `key` list and a `value`, become columns `key_0`, … and `value`,
    or `value_0`, … where the value is a list; objects become rows, and anything else a `value`.
    """

    raw: tuple[Any, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return all fields and `row_count` as values that JSON can represent."""
        return QueryResult.to_dict(self) | {"row_count": len(self.raw)}

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        rows = [_jql_row(each) for each in self.raw]
        names = list(dict.fromkeys(name for row in rows for name in row))
        return [{name: row.get(name) for name in names} for row in rows]


@dataclass(frozen=True, slots=True, repr=False)
class EngageStatsResult(QueryResult):
    """An aggregate over profiles, as `count()` or `numeric_summary(properties["age"])`.

    `results` is as Mixpanel sent it: a number, or an object with a number for each of several.
    """

    action: str
    results: Any

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        if not isinstance(self.results, dict):
            return [{"name": self.action, "value": self.results}]
        return [{"name": str(name), "value": value} for name, value in self.results.items()]

    def _columns(self) -> list[str]:
        return ["name", "value"]


def _jql_row(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {"value": value}
    if value.keys() != {"key", "value"} or not isinstance(value["key"], list):
        return {str(name): inner for name, inner in value.items()}
    row = {f"key_{number}": each for number, each in enumerate(value["key"])}
    found = value["value"]
    if not isinstance(found, list):
        return row | {"value": found}
    return row | {f"value_{number}": each for number, each in enumerate(found)}
