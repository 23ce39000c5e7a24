"""Write the results of reports as the Query API documents them. Does no I/O.

Shapes: https://developer.mixpanel.com/reference/query-api. Where inline reports have no published
shape, it is that which Mixpanel's own client reads.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

from pydantic_core import from_json

from mixpanel.data.query_results import (
    CohortInfo,
    FlowNode,
    FlowsResult,
    FrequencyResult,
    FunnelResult,
    FunnelStep,
    RetentionResult,
    Series,
)

OVERALL = "$overall"


def computed_at(now: float) -> str:
    """Return the time of a computation as ISO 8601, in UTC."""
    return datetime.fromtimestamp(now, UTC).isoformat()


def series(found: Series, *, legend_size: int | None = None) -> dict[str, Any]:
    """Return counts by segment and date, as segmentation and event counts have them."""
    dates = sorted({each for values in found.values() for each in values})
    size = len(found) if legend_size is None else legend_size
    return {"data": {"series": dates, "values": found}, "legend_size": size}


def csv(found: Series) -> str:
    """Return the same counts as CSV: a row for each segment, a column for each date."""
    dates = sorted({each for values in found.values() for each in values})
    rows = [["segment", *dates]]
    rows += [[name, *(str(values.get(day, 0)) for day in dates)] for name, values in found.items()]
    return "".join(",".join(map(_quoted, row)) + "\n" for row in rows)


def _quoted(cell: str) -> str:
    needs_quotes = any(each in cell for each in ',"\r\n')
    return '"' + cell.replace('"', '""') + '"' if needs_quotes else cell


# Funnels


def funnel(
    found: Sequence[tuple[date, FunnelResult]], *, segmented: bool, limit_hit: bool = False
) -> dict[str, Any]:
    """Return a saved funnel by date; with a segmentation, by date and segment."""
    data: dict[str, Any] = {}
    for day, result in found:
        if segmented:
            segments = {name: _steps(steps) for name, steps in result.segments.items()}
            data[str(day)] = {OVERALL: _steps(result.steps), **segments}
        else:
            data[str(day)] = {"steps": _steps(result.steps), "analysis": _analysis(result.steps)}
    meta: dict[str, Any] = {"dates": [str(day) for day, _ in found]}
    if limit_hit:
        meta["is_segmentation_limit_hit"] = True
    return {"meta": meta, "data": data}


def _steps(steps: Sequence[FunnelStep]) -> list[dict[str, Any]]:
    return [
        {
            "count": step.count,
            "goal": step.event,
            "event": step.event,
            **({} if step.label is None else {"step_label": step.label}),
            "step_conv_ratio": step.conversion_rate,
            "overall_conv_ratio": step.overall_conversion_rate if number else 1,
            "avg_time": step.avg_time,
            "avg_time_from_start": step.avg_time_from_start,
        }
        for number, step in enumerate(steps)
    ]


def _analysis(steps: Sequence[FunnelStep]) -> dict[str, Any]:
    rates = [step.conversion_rate for step in steps[1:]]
    return {
        "completion": steps[-1].count,
        "starting_amount": steps[0].count,
        "steps": len(steps),
        "worst": rates.index(min(rates)) + 1 if rates else 0,
    }


def inline_funnel(results: Sequence[FunnelResult], *, trend: bool) -> dict[str, Any]:
    """Return a funnel as `series` of an inline report; each result has one more group-by."""
    result = results[-1]
    if trend:
        below = {instant(day): _numbered(steps) for day, steps in result.dates.items()}
        below[OVERALL] = _numbered(result.steps)
    elif result.segment_property is not None:
        segments = [each.segments for each in results]
        below = _by_group(_numbered(result.steps), segments, _numbered)
    else:
        below = _numbered(result.steps)
    title = " → ".join(step.label or step.event for step in result.steps)
    return {result.funnel_name or title: below}


def _numbered(steps: Sequence[FunnelStep]) -> dict[str, Any]:
    names = [f"{number}. {step.event}" for number, step in enumerate(steps, start=1)]
    figures: dict[str, list[Any]] = {
        "count": [step.count for step in steps],
        "step_conv_ratio": [step.conversion_rate for step in steps],
        "overall_conv_ratio": [step.overall_conversion_rate for step in steps],
        "avg_time": [step.avg_time for step in steps],
        "avg_time_from_start": [step.avg_time_from_start for step in steps],
    }
    return {
        figure: {name: {"all": value} for name, value in zip(names, values, strict=True)}
        for figure, values in figures.items()
    }


# Retention and frequency


def retention(result: RetentionResult, *, rates: bool = False) -> dict[str, Any]:
    """Return cohorts by date; with a segmentation, by date and segment."""
    if result.segment_property is None:
        return {cohort.date: _cohort(cohort, rates=rates) for cohort in result.cohorts}
    return {
        cohort.date: {
            OVERALL: _cohort(cohort, rates=rates),
            **{name: _cohort(cohorts[n], rates=rates) for name, cohorts in result.segments.items()},
        }
        for n, cohort in enumerate(result.cohorts)
    }


def inline_retention(results: Sequence[RetentionResult]) -> dict[str, Any]:
    """Return retention as `series` of an inline report; each result has one more group-by."""
    result = results[-1]
    below = _dated(result.cohorts)
    if result.segment_property is not None:
        below = _by_group(below, [each.segments for each in results], _dated)
    return {f"{result.born_event} and then {result.return_event}": below}


def _by_group(
    overall: Any, levels: Sequence[Mapping[str, Any]], write: Callable[[Any], Any]
) -> dict[str, Any]:
    """Return figures by groups, each level with its `$overall`.

    The first level has the names of its segments; those of a later one are JSON lists.
    """
    found: dict[str, Any] = {OVERALL: overall}
    for depth, segments in enumerate(levels, start=1):
        for name, each in segments.items():
            path = [name] if depth == 1 else from_json(name)
            place = found
            for key in path[:-1]:
                place = place.get(key, {})
            leaf = write(each)
            place[path[-1]] = leaf if depth == len(levels) else {OVERALL: leaf}
    return found


def _dated(cohorts: Sequence[CohortInfo]) -> dict[str, Any]:
    found: dict[str, Any] = {
        instant(cohort.date): _cohort(cohort, rates=True) for cohort in cohorts
    }
    longest = max((len(cohort.counts) for cohort in cohorts), default=0)
    having = [[each for each in cohorts if len(each.counts) > number] for number in range(longest)]
    sizes = [sum(each.size for each in group) for group in having]
    counts = [sum(each.counts[n] for each in group) for n, group in enumerate(having)]
    shares = [count / size if size else 0.0 for count, size in zip(counts, sizes, strict=True)]
    first = sum(cohort.size for cohort in cohorts)
    return found | {"$average": {"first": first, "counts": counts, "rates": shares}}


def _cohort(cohort: CohortInfo, *, rates: bool) -> dict[str, Any]:
    found = {"first": cohort.size, "counts": list(cohort.counts)}
    return found | {"rates": list(cohort.retention)} if rates else found


def frequency(result: FrequencyResult) -> dict[str, Any]:
    """Return how many users were active how often, by date."""
    if result.segment_property is None:
        return {"data": {day: list(counts) for day, counts in result.data.items()}}
    return {
        "data": {
            day: {
                OVERALL: list(counts),
                **{name: list(dates[day]) for name, dates in result.segments.items()},
            }
            for day, counts in result.data.items()
        }
    }


# Inline reports


def inline(
    found: Mapping[str, Any],
    *,
    now: float,
    days: tuple[date, date],
    headers: Sequence[str],
    limit_hit: bool = False,
) -> dict[str, Any]:
    """Return an inline report around its `series`."""
    first, last = days
    return {
        "computed_at": computed_at(now),
        "date_range": {
            "from_date": f"{first}T00:00:00+00:00",
            "to_date": f"{last}T23:59:59.999000+00:00",
        },
        "headers": list(headers),
        "meta": {
            "is_segmentation_limit_hit": limit_hit,
            "min_sampling_factor": 1,
            "sub_query_count": 1,
            "report_sections": {"group": [], "show": [{"metric_key": key} for key in found]},
        },
        "series": found,
    }


def flows(result: FlowsResult, *, now: float, tree: bool = False) -> dict[str, Any]:
    """Return flows, and on request the tree of all paths; counts are text, as Mixpanel's are."""
    rate = result.overall_conversion_rate
    return {
        "computed_at": computed_at(now),
        "date_range": {"from_date": result.from_date, "to_date": result.to_date},
        "steps": [{"nodes": [_node(node) for node in step.nodes]} for step in result.steps],
        "flows": [
            {
                "flowSteps": [
                    {"event": name, "type": "NORMAL", "totalCount": str(path.count)}
                    for name in path.events
                ]
            }
            for path in result.paths
        ],
        "trees": [_tree(result)] if tree else [],
        "breakdowns": [],
        "overallConversionRate": "NaN" if rate is None or math.isnan(rate) else rate,
        "metadata": {},
    }


def _tree(result: FlowsResult) -> dict[str, Any]:
    """Return the paths as a tree whose root is no event."""
    root: dict[str, Any] = {"n": 0, "ended": 0, "below": {}}
    anchor = next((step.step for step in result.steps if step.step == 0), 0)
    for path in result.paths:
        branch = root
        for event in path.events:
            branch["n"] += path.count
            branch = branch["below"].setdefault(event, {"n": 0, "ended": 0, "below": {}})
        branch["n"] += path.count
        branch["ended"] += path.count
    types = {node.event: node.type for step in result.steps for node in step.nodes}

    def shown(branch: Mapping[str, Any], number: int) -> list[dict[str, Any]]:
        return [
            {
                "step": {
                    "event": event,
                    "type": types.get(event, "FORWARD"),
                    "stepNumber": number,
                    "anchorType": "NORMAL",
                    "isComputed": False,
                },
                "totalCount": str(below["n"]),
                "dropOffTotalCount": str(below["ended"]),
                "convertedTotalCount": str(below["n"] - below["ended"]),
                "children": shown(below, number + 1),
            }
            for event, below in branch["below"].items()
        ]

    return {"root": {"step": None, "children": shown(root, anchor)}}


def _node(node: FlowNode) -> dict[str, Any]:
    return {
        "event": node.event,
        "type": node.type,
        "totalCount": str(node.count),
        "anchorType": "NORMAL",
        "isCustomEvent": False,
        "conversionRateChange": 0,
        "edges": [
            {
                "event": edge.event,
                "step": edge.step,
                "type": edge.type,
                "totalCount": str(edge.count),
            }
            for edge in node.edges
        ],
    }


def instant(label: str) -> str:
    """Return a date of a report with its time and offset.

    >>> instant("2026-01-31"), instant("2026-01-31 13:00:00")
    ('2026-01-31T00:00:00+00:00', '2026-01-31T13:00:00+00:00')
    """
    return f"{label.replace(' ', 'T') if len(label) > 10 else f'{label}T00:00:00'}+00:00"
