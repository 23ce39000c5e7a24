"""What charts and plots say beside the figures: titles, numbers, durations and series to draw."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from mixpanel.data.exceptions import ConfigError
from mixpanel.data.exploration_results import (
    DailyCountsResult,
    EngagementDistributionResult,
    PropertyCoverageResult,
    PropertyDistributionResult,
)
from mixpanel.data.query_results import (
    EventCountsResult,
    FlowsResult,
    FrequencyResult,
    FunnelResult,
    InsightsResult,
    NumericAverageResult,
    NumericBucketResult,
    NumericSumResult,
    PropertyCountsResult,
    RetentionResult,
    SavedReportResult,
    SegmentationResult,
)

if TYPE_CHECKING:
    from mixpanel.data.query_results import QueryResult, Series

__all__ = [
    "BETWEEN",
    "bars_of",
    "duration",
    "figure",
    "no_picture",
    "series_of",
    "share",
    "shown",
    "subtitle",
    "title",
]

COUNTED = {"general": "events", "unique": "unique users", "average": "events per user"}
UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
ANY = "any event"
PROPERTY = re.compile(r'(?:properties|user)\[("(?:[^"\\]|\\["\\])*")\]')
BETWEEN = " · "  # parts of a subtitle


def no_picture(result: QueryResult) -> ConfigError:
    """Return the error for a result that has no figures to draw."""
    return ConfigError(f"a {type(result).__name__} cannot be drawn: use .df")


def shown(result: QueryResult) -> QueryResult:
    """Return the result that is to be drawn: of a saved report, the report."""
    return result.report if isinstance(result, SavedReportResult) else result


def bars_of(result: QueryResult) -> dict[str, float] | None:
    """Return what is to be drawn as bars by name, None for a result of another kind."""
    match result:
        case NumericBucketResult(type="general"):
            return {name: sum(dates.values()) for name, dates in result.series.items()}
        case PropertyDistributionResult():
            return {_written(each.value): each.count for each in result.values}
        case EngagementDistributionResult():
            return {each.bucket_label: each.user_count for each in result.buckets}
        case PropertyCoverageResult():
            return {each.property: each.coverage_percentage for each in result.coverage}
    return None


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def series_of(result: QueryResult) -> Series | None:
    """Return what is to be drawn by date, None for a result of another kind."""
    match result:
        case SegmentationResult() | EventCountsResult() | PropertyCountsResult():
            return result.series
        case NumericBucketResult():
            return result.series
        case DailyCountsResult():
            found: Series = {}
            for each in result.counts:
                found.setdefault(each.event, {})[each.date] = each.count
            return found
        case NumericSumResult():
            return {f"sum of {_property(result.property_expr)}": result.results}
        case NumericAverageResult():
            return {f"average of {_property(result.property_expr)}": result.results}
        case InsightsResult():
            return _insights(result)
    return None


def _insights(result: InsightsResult) -> Series:
    """Return the figures by the names that tell them apart: of one metric, those of its groups."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in result._rows():
        *names, date, value = row.values()
        if isinstance(value, (int, float)):
            found.setdefault(tuple(map(str, names)), {})[str(date)] = value
    levels = list(zip(*found, strict=True))
    varied = [n for n, names in enumerate(levels) if len(set(names)) > 1] or range(len(levels))
    return {BETWEEN.join(names[n] for n in varied): values for names, values in found.items()}


def _property(expression: str) -> str:
    """Return the name of a property, and any other expression unchanged."""
    found = PROPERTY.fullmatch(expression)
    return json.loads(found[1]) if found else expression


def title(result: QueryResult) -> str:
    """Return in one line what was computed."""
    match result:
        case FunnelResult():
            ends = result.steps[:1] + result.steps[-1:]
            names = dict.fromkeys(step.label or step.event for step in ends)
            return result.funnel_name or " → ".join(names) or "Funnel"
        case RetentionResult():
            born = result.born_event or result.return_event or ANY
            return f"{born}, then {result.return_event or ANY}"
        case FrequencyResult():
            return f"Frequency of {result.event or ANY}"
        case FlowsResult():
            return f"Flows of {result.event}" if result.event else "Flows"
    return _title_of_series(result)


def _title_of_series(result: QueryResult) -> str:
    match result:
        case SegmentationResult():
            by = f" by {result.segment_property}" if result.segment_property else ""
            return f"{result.event}{by}"
        case EventCountsResult():
            return ", ".join(result.events)
        case PropertyCountsResult():
            return f"{result.event} by {result.property_name}"
        case NumericBucketResult():
            return f"{result.event} by {_property(result.property_expr)}"
        case NumericSumResult() | NumericAverageResult():
            kind = "Sum" if isinstance(result, NumericSumResult) else "Average"
            return f"{kind} of {_property(result.property_expr)}: {result.event}"
        case InsightsResult():
            return ", ".join(result.series) or "Insights"
    return _title_of_exploration(result)


def _title_of_exploration(result: QueryResult) -> str:
    match result:
        case PropertyDistributionResult():
            return f"{result.event} by {result.property_name}"
        case PropertyCoverageResult():
            return f"Properties of {result.event}"
        case DailyCountsResult() | EngagementDistributionResult():
            return ", ".join(result.events) if result.events else "All events"
    raise no_picture(result)


def subtitle(result: QueryResult) -> str:
    """Return in one line what was counted, of which days, and what limits it."""
    known: Any = result
    first, last = known.from_date, known.to_date
    zone = f" ({result.timezone})" if result.timezone else ""
    parts = [
        _measure(result),
        f"{first[:10]} to {last[:10]}{zone}" if first and last else "",
        f"sampled at {share(result.sampling_factor)}" if result.sampling_factor < 1 else "",
        "there are more than the limit" if result.limit_hit else "",
    ]
    return BETWEEN.join(filter(None, parts))


def _measure(result: QueryResult) -> str:
    match result:
        case FunnelResult():
            plural = "s" if result.window and result.window > 1 else ""
            within = (
                f" within {result.window} {result.window_unit}{plural}" if result.window else ""
            )
            return f"{share(result.conversion_rate)} converted{within}"
        case RetentionResult():
            every = f"{result.interval} {result.unit}s" if result.interval > 1 else result.unit
            return f"retention per {every}" + (" or later" if result.unbounded else "")
        case FrequencyResult():
            return f"users by active {result.addiction_unit}s per {result.unit}"
        case FlowsResult():
            return {"unique": "users", "total": "occurrences"}.get(result.count_type, "sessions")
        case NumericSumResult() | NumericAverageResult():
            return f"per {result.unit}"
        case EngagementDistributionResult():
            return "users by number of events"
        case PropertyCoverageResult():
            return f"percent of {figure(result.total_events)} events"
        case PropertyDistributionResult() | DailyCountsResult():
            return "events"
    kind, unit = getattr(result, "type", None), getattr(result, "unit", None)
    return f"{COUNTED[kind]} per {unit}" if kind in COUNTED else ""


def figure(value: float) -> str:
    """Return a number in few characters: `12,345`, `1.2M`, `8.64`."""
    if value != value or value in (float("inf"), float("-inf")):  # noqa: PLR0124 - NaN
        return "-"
    for power, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if abs(value) >= power:
            return f"{value / power:.4g}{letter}"
    if float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def share(rate: float) -> str:
    """Return a share as a percentage: `25.0%`."""
    return f"{100 * rate:.1f}%"


def duration(seconds: float | None) -> str:
    """Return a length of time in its two largest units: `2 h 3 min`."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{seconds:.2g} s" if seconds else "0 s"
    left, parts = round(seconds), []
    for size, name in UNITS:
        if left >= size:
            parts.append((left // size, name))
            left %= size
        elif parts:
            break
    return " ".join(f"{count} {name}" for count, name in parts[:2])
