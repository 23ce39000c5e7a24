"""Turn the responses of the Query API into results.

Responses vary more than their documentation says: dates come out of order, numbers as text, and
days without events may be missing.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, cast

from mixpanel.data._queries.response_values import (
    as_list,
    as_object,
    as_series,
    common_fields,
    count,
    dates_of,
    is_dated,
    label,
    number,
    share,
    unexpected,
)
from mixpanel.data.query_results import (
    ActivityFeedResult,
    EngageStatsResult,
    EventCountsResult,
    FlowEdge,
    FlowNode,
    FlowPath,
    FlowsResult,
    FlowStep,
    InsightsResult,
    JQLResult,
    NumericAverageResult,
    NumericBucketResult,
    NumericSumResult,
    PropertyCountsResult,
    SavedReportResult,
    SegmentationResult,
    UserEvent,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mixpanel.data.query_results import QueryResult, SavedReportType


INSIGHTS_HEADERS = frozenset({"$metric", "$event"})
FlowCount = Literal["unique", "total", "session"]


# ---- segmentation -------------------------------------------------------------------------------


def segmentation(
    response: Any, params: Mapping[str, Any], segment: str | None, timezone: str | None
) -> SegmentationResult:
    """Return how often an event happened."""
    series, known = as_series(response), common_fields(response, timezone)
    limit, size = params["limit"], response.get("legend_size")
    if limit is not None:
        hidden = isinstance(size, int) and size > len(series)
        known["limit_hit"] |= hidden or len(series) >= limit
    adds_up = params["type"] == "general" and not known["limit_hit"]
    total = sum(int(value) for dates in series.values() for value in dates.values())
    return SegmentationResult(
        event=params["event"],
        from_date=params["from_date"],
        to_date=params["to_date"],
        unit=params["unit"],
        segment_property=segment,
        total=total if adds_up else None,
        series=series,
        type=params["type"],
        **known,
    )


def event_counts(
    response: Any, params: Mapping[str, Any], timezone: str | None
) -> EventCountsResult:
    """Return how often events happened; one that never did has zeros."""
    series = as_series(response)
    dates = list(next(iter(series.values()), {}))
    return EventCountsResult(
        events=tuple(params["event"]),
        from_date=params["from_date"],
        to_date=params["to_date"],
        unit=params["unit"],
        type=params["type"],
        series={name: series.get(name, dict.fromkeys(dates, 0)) for name in params["event"]},
        **common_fields(response, timezone),
    )


def property_counts(
    response: Any, params: Mapping[str, Any], timezone: str | None
) -> PropertyCountsResult:
    """Return how often an event happened, by the values of a property."""
    series, known = as_series(response), common_fields(response, timezone)
    known["limit_hit"] |= len(series) >= params["limit"]
    return PropertyCountsResult(
        event=params["event"],
        property_name=params["name"],
        from_date=params["from_date"],
        to_date=params["to_date"],
        unit=params["unit"],
        type=params["type"],
        series=series,
        **known,
    )


def numeric_buckets(
    response: Any, params: Mapping[str, Any], timezone: str | None
) -> NumericBucketResult:
    """Return counts by numeric range, in order of the ranges."""
    series = as_series(response)
    return NumericBucketResult(
        event=params["event"],
        from_date=params["from_date"],
        to_date=params["to_date"],
        property_expr=params["on"],
        unit=params["unit"],
        series={bucket: series[bucket] for bucket in sorted(series, key=_lower_bound)},
        type=params["type"] or "general",
        **common_fields(response, timezone),
    )


def _lower_bound(bucket: str) -> tuple[bool, float, str]:
    found = re.match(r"\s*(-?[\d,]*\.?\d+)", bucket)
    return found is None, float(found[1].replace(",", "")) if found else 0.0, bucket


def numeric_sum(response: Any, params: Mapping[str, Any], timezone: str | None) -> NumericSumResult:
    """Return a sum by date."""
    return NumericSumResult(**_numeric(response, params), **common_fields(response, timezone))


def numeric_average(
    response: Any, params: Mapping[str, Any], timezone: str | None
) -> NumericAverageResult:
    """Return an average by date."""
    return NumericAverageResult(**_numeric(response, params), **common_fields(response, timezone))


def _numeric(response: Any, params: Mapping[str, Any]) -> dict[str, Any]:
    results = as_object(as_object(response, "the response").get("results"), "results")
    return {
        "event": params["event"],
        "from_date": params["from_date"],
        "to_date": params["to_date"],
        "property_expr": params["on"],
        "unit": params["unit"],
        "results": {date: number(results[date]) for date in sorted(results)},
    }


# ---- insights, saved reports, flows -------------------------------------------------------------


def insights(
    response: Any, *, unit: str | None = None, timezone: str | None = None
) -> InsightsResult:
    """Return an insights report, with dates in order and as the older endpoints write them."""
    data = as_object(response, "the response")
    from_date, to_date = dates_of(data)
    headers = [str(each) for each in as_list(data.get("headers", ["$metric"]), "headers")]
    return InsightsResult(
        from_date=from_date,
        to_date=to_date,
        headers=tuple(headers),
        series=_with_short_dates(as_object(data.get("series"), "series")),
        unit=unit,
        **common_fields(data, timezone),
    )


def _with_short_dates(below: Any) -> Any:
    if not isinstance(below, dict):
        return number(below)
    if is_dated(below) and not any(isinstance(value, dict) for value in below.values()):
        return {label(date): number(below[date]) for date in sorted(below)}
    return {str(key): _with_short_dates(inner) for key, inner in below.items()}


def saved_report(
    response: Any, bookmark_id: int, kind: str, report: QueryResult
) -> SavedReportResult:
    """Return a saved report, both as it was sent and as a typed result."""
    data = as_object(response, "the response")
    from_date, to_date = dates_of(data)
    series = data.get("series")
    return SavedReportResult(
        bookmark_id=bookmark_id,
        from_date=from_date or getattr(report, "from_date", None),
        to_date=to_date or getattr(report, "to_date", None),
        headers=tuple(str(each) for each in as_list(data.get("headers") or [], "headers")),
        series=series if isinstance(series, dict) else {},
        report_type=cast("SavedReportType", kind),
        report=report,
        timezone=report.timezone,
        computed_at=report.computed_at,
        sampling_factor=report.sampling_factor,
        limit_hit=report.limit_hit,
    )


def kind_of_report(response: Any, kind: str) -> SavedReportType:
    """Return the type of a normalised report: by its headers, else as it was saved."""
    headers = response.get("headers") if isinstance(response, dict) else None
    named = set(headers) if isinstance(headers, list) else set()
    if "$funnel" in named or (kind == "funnels" and not named & INSIGHTS_HEADERS):
        return "funnel"
    if "$retention" in named or (kind == "retention" and not named & INSIGHTS_HEADERS):
        return "retention"
    return "insights"


def flows(
    response: Any,
    *,
    bookmark_id: int | None = None,
    event: str | None = None,
    dates: tuple[str | None, str | None] = (None, None),
    count_type: FlowCount = "unique",
    timezone: str | None = None,
) -> FlowsResult:
    """Return flows; counts are sent as text, and a rate may be "NaN"."""
    data = as_object(response, "the response")
    steps = as_list(data.get("steps", []), "steps")
    nodes = [_nodes(as_object(step, "a step").get("nodes", [])) for step in steps]
    anchor = next(
        (at for at, each in enumerate(nodes) if any(node.type == "ANCHOR" for node in each)), 0
    )
    first, last = dates_of(data)
    return FlowsResult(
        bookmark_id=bookmark_id,
        steps=tuple(FlowStep(at - anchor, each) for at, each in enumerate(nodes)),
        breakdowns=tuple(as_list(data.get("breakdowns") or [], "breakdowns")),
        overall_conversion_rate=share(data.get("overallConversionRate")),
        metadata=as_object(data.get("metadata") or {}, "metadata"),
        paths=tuple(_path(each) for each in as_list(data.get("flows") or [], "flows")),
        trees=tuple(as_list(data.get("trees") or [], "trees")),
        event=event,
        from_date=dates[0] or first,
        to_date=dates[1] or last,
        count_type=count_type,
        **common_fields(data, timezone),
    )


def _nodes(nodes: Any) -> tuple[FlowNode, ...]:
    rows = [as_object(node, "a node") for node in as_list(nodes, "nodes")]
    return tuple(
        FlowNode(
            event=str(row.get("event", "")),
            type=str(row.get("type", "NORMAL")),
            count=count(row.get("totalCount"), "totalCount"),
            edges=tuple(
                FlowEdge(
                    event=str(edge.get("event", "")),
                    step=count(edge.get("step"), "a step's number"),
                    type=str(edge.get("type", "NORMAL")),
                    count=count(edge.get("totalCount"), "totalCount"),
                )
                for edge in as_list(row.get("edges") or [], "edges")
            ),
        )
        for row in rows
    )


def _path(flow: Any) -> FlowPath:
    found = as_list(as_object(flow, "a flow").get("flowSteps") or [], "flowSteps")
    steps = [as_object(step, "a step") for step in found]
    counts = [count(step.get("totalCount"), "totalCount") for step in steps]
    return FlowPath(tuple(str(step.get("event", "")) for step in steps), min(counts, default=0))


# ---- users, and scripts -------------------------------------------------------------------------


def feed_page(response: Any) -> tuple[list[UserEvent], Any]:
    """Return the events of one page, and the start of the next; None for the last page."""
    results = as_object(as_object(response, "the response").get("results"), "results")
    events = [_user_event(each) for each in as_list(results.get("events"), "events")]
    return events, results.get("sentinel_event")


def _user_event(event: Any) -> UserEvent:
    row = as_object(event, "an event")
    properties = dict(as_object(row.get("properties") or {}, "properties"))
    distinct_id = properties.pop("$distinct_id", None)
    if "distinct_id" not in properties and distinct_id is not None:
        properties["distinct_id"] = distinct_id
    return UserEvent(str(row.get("event", "")), _epoch(properties.pop("time", None)), properties)


def _epoch(value: Any) -> datetime | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:  # seconds, or milliseconds in some projects: 1e11 s would be the year 5138
        return datetime.fromtimestamp(value / 1000 if abs(value) >= 1e11 else value, UTC)
    except (OverflowError, OSError, ValueError):
        return None


def activity_feed(
    events: Sequence[UserEvent],
    distinct_ids: Sequence[str],
    dates: tuple[str | None, str | None],
    *,
    limit_hit: bool,
    timezone: str | None,
    read_from: str | None = None,
) -> ActivityFeedResult:
    """Return the events of all pages in order of time, with those without a time last."""
    latest = datetime.max.replace(tzinfo=UTC)
    return ActivityFeedResult(
        distinct_ids=tuple(distinct_ids),
        from_date=dates[0],
        to_date=dates[1],
        events=tuple(sorted(events, key=lambda event: event.time or latest)),
        read_from=read_from,
        timezone=timezone,
        limit_hit=limit_hit,
    )


def jql(response: Any, timezone: str | None) -> JQLResult:
    """Return the result of a script."""
    return JQLResult(raw=tuple(as_list(response, "the response")), timezone=timezone)


def engage_stats(
    response: Any, params: Mapping[str, Any], timezone: str | None
) -> EngageStatsResult:
    """Return an aggregate over profiles."""
    data = as_object(response, "the response")
    if "results" not in data:
        raise unexpected("engage/stats has no results")
    return EngageStatsResult(
        action=params["action"], results=data["results"], **common_fields(data, timezone)
    )


def latest(result: ActivityFeedResult, limit: int) -> ActivityFeedResult:
    """Return the feed with the latest `limit` events only."""
    return replace(result, events=result.events[-limit:], limit_hit=True)
