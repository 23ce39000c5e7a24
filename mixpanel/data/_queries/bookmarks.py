"""Build the parameters of reports, as Mixpanel stores them in bookmarks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from mixpanel.data._queries.arguments import Where, check_dates, event_names, one_of, whole
from mixpanel.data._queries.inline_filters import (
    any_or_all,
    filters_of,
    flow_filter,
    property_entry,
    step_filter,
)
from mixpanel.data.exceptions import ConfigError
from mixpanel.data.expressions import Expression
from mixpanel.data.inline_queries import (
    Breakdown,
    Chart,
    Exclusion,
    Formula,
    FunnelMath,
    Metric,
    RetentionMath,
    Step,
    TimeRange,
    TimeUnit,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mixpanel.data._fetch.plan import Day

__all__ = ["flow", "funnel", "insights", "kind_of", "retention", "time_range"]

Bookmark = dict[str, Any]
Order = Literal["loose", "any"]
Unbounded = Literal["none", "carry_back", "carry_forward", "consecutive_forward"]
MAX_METRICS, MAX_STEPS, MAX_HELD_CONSTANT, MAX_BUCKETS = 26, 100, 3, 730
MAX_WINDOW = {
    "month": 12, "session": 12, "week": 52, "day": 367,
    "hour": 8_808, "minute": 528_480, "second": 31_708_800,
}  # fmt: skip
FLOW_COUNTS = ("unique", "total", "session")
FLOW_MERGES = {"flows_sankey": "graph", "flows_top_paths": "list", "flows": "tree"}


# ---- time ---------------------------------------------------------------------------------------


def time_range(
    from_date: Day | None, to_date: Day | None, last: int | None, last_unit: str = "day"
) -> TimeRange:
    """Return the checked dates of a report; the last 30 days if none are given.

    :raises ConfigError: for invalid dates, or dates together with `last`.
    """
    one_of("last_unit", last_unit, TimeUnit)
    if last is not None and (from_date is not None or to_date is not None):
        raise ConfigError("pass either last, or from_date and to_date")
    whole("last", last, 1, 10_000)
    if from_date is None and to_date is None:
        return TimeRange(last=last or 30, last_unit=last_unit)  # type: ignore[arg-type]  # checked above
    if from_date is None or to_date is None:
        raise ConfigError("pass both from_date and to_date, or last, as last=30")
    first, final = check_dates(from_date, to_date)
    return TimeRange(str(first), str(final))


def _time(days: TimeRange, unit: str) -> Bookmark:
    if days.last is not None:
        window = {"unit": days.last_unit, "value": days.last}
        return {"dateRangeType": "in the last", "unit": unit, "window": window}
    return {"dateRangeType": "between", "unit": unit, "value": [days.from_date, days.to_date]}


# ---- insights -----------------------------------------------------------------------------------


def insights(
    show: Sequence[Metric | Formula | str] | Metric | str,
    days: TimeRange,
    *,
    unit: TimeUnit = "day",
    where: Where = None,
    by: Sequence[Breakdown | Expression | str] | Breakdown | Expression | str | None = None,
    formula: Formula | str | None = None,
    chart: Chart = "line",
    rolling: int | None = None,
    cumulative: bool = False,
) -> Bookmark:
    """Return the parameters of an insights report.

    :raises ConfigError: for arguments that no such report can have.
    """
    metrics, formulas = _report_link(show, formula)
    if rolling is not None and cumulative:
        raise ConfigError("pass either rolling or cumulative, not both")
    whole("rolling", rolling, 2, 366)
    display: Bookmark = {"chartType": one_of("chart", chart, Chart), "analysis": "linear"}
    if rolling is not None:
        display |= {"analysis": "rolling", "rollingWindowSize": rolling}
    elif cumulative:
        display["analysis"] = "cumulative"
    used = set().union(*(each.letters() for each in formulas))
    letters = [chr(ord("A") + number) for number in range(len(metrics))]
    if unknown := used - set(letters):
        raise ConfigError(
            f"the formula uses {', '.join(sorted(unknown))}, but the metrics are "
            f"{', '.join(letters)}"
        )
    return {
        "sections": {
            "show": [
                *(
                    _metric(each, hidden=each.hidden or letter in used)
                    for letter, each in zip(letters, metrics, strict=True)
                ),
                *map(_formula, formulas),
            ],
            "time": [_time(days, one_of("unit", unit, TimeUnit))],
            "filter": filters_of(where),
            "group": breakdowns(by),
        },
        "displayOptions": display,
    }


def _report_link(
    show: Sequence[Metric | Formula | str] | Metric | str, formula: Formula | str | None
) -> tuple[list[Metric], list[Formula]]:
    several = [show] if isinstance(show, (str, Metric)) else list(show)
    metrics = [Metric(each) if isinstance(each, str) else each for each in several]
    formulas = [each for each in metrics if isinstance(each, Formula)]
    metrics = [each for each in metrics if not isinstance(each, Formula)]
    if formula is not None:
        formulas.append(Formula(formula) if isinstance(formula, str) else formula)
    for each in metrics:
        if not isinstance(each, Metric):
            raise ConfigError(f"show={each!r} must be a Metric, a Formula or the name of an event")
    if not 0 < len(metrics) <= MAX_METRICS:
        raise ConfigError(f"a report has 1 to {MAX_METRICS} metrics, not {len(metrics)}")
    return metrics, formulas  # type: ignore[return-value] # checked above


def _metric(metric: Metric, *, hidden: bool) -> Bookmark:
    measurement: Bookmark = {"math": metric.math}
    if metric.property is not None:
        name, resource = property_entry(metric.property)
        measurement["property"] = {"name": name, "resourceType": resource}
    if metric.per_user is not None:
        measurement["perUserAggregation"] = metric.per_user
    if metric.percentile is not None:
        measurement["percentile"] = metric.percentile
    entry: Bookmark = {
        "type": "metric",
        "behavior": {"type": "event", **_event(metric.event, metric.where, metric.label)},
        "measurement": measurement,
    }
    return entry | {"isHidden": True} if hidden else entry


def _event(name: str, where: Where, label: str | None = None) -> Bookmark:
    filters, determiner = any_or_all(where)
    event = {
        "name": name,
        "resourceType": "events",
        "filtersDeterminer": determiner,
        "filters": filters,
    }
    return event if label is None else event | {"renamed": label}


def _formula(formula: Formula) -> Bookmark:
    entry: Bookmark = {
        "type": "formula",
        "definition": formula.definition,
        "measurement": {},
        "referencedMetrics": [],
    }
    return entry if formula.label is None else entry | {"name": formula.label}


def breakdowns(
    by: Sequence[Breakdown | Expression | str] | Breakdown | Expression | str | None,
) -> list[Bookmark]:
    """Return the breakdowns of a report.

    :raises ConfigError: for anything but a property.
    """
    if by is None:
        return []
    several = [by] if isinstance(by, (str, Breakdown, Expression)) else list(by)
    each = [one if isinstance(one, Breakdown) else Breakdown(one) for one in several]
    return [_group(one) for one in each]


def _group(breakdown: Breakdown) -> Bookmark:
    name, resource = property_entry(breakdown.property)
    group: Bookmark = {
        "value": name,
        "propertyName": name,
        "resourceType": resource,
        "propertyType": breakdown.type,
        "propertyDefaultType": breakdown.type,
    }
    if breakdown.type == "number" and breakdown.bucket_size is not None:
        bucket = {
            "bucketSize": breakdown.bucket_size,
            "min": breakdown.least,
            "max": breakdown.most,
        }
        group["customBucket"] = {key: value for key, value in bucket.items() if value is not None}
    return group


# ---- funnels and retention ----------------------------------------------------------------------


def funnel(
    steps: Sequence[Step | str],
    days: TimeRange,
    *,
    window: int = 14,
    window_unit: str = "day",
    order: Order = "loose",
    exclude: Iterable[Exclusion | str] = (),
    hold_constant: Sequence[str] | str | None = None,
    where: Where = None,
    by: Sequence[Breakdown | Expression | str] | Breakdown | Expression | str | None = None,
    unit: TimeUnit = "day",
    math: FunnelMath = "conversion_rate_unique",
    trend: bool = False,
) -> Bookmark:
    """Return the parameters of a funnel report.

    :raises ConfigError: for arguments that no funnel can have.
    """
    each = [_step(step) for step in ([steps] if isinstance(steps, (str, Step)) else steps)]
    if not 2 <= len(each) <= MAX_STEPS:
        raise ConfigError(f"a funnel has 2 to {MAX_STEPS} steps, not {len(each)}")
    _check_window(window, window_unit)
    one_of("order", order, Order)
    held = [] if hold_constant is None else event_names(hold_constant, "hold_constant")
    if len(held) > MAX_HELD_CONSTANT:
        raise ConfigError(
            f"at most {MAX_HELD_CONSTANT} properties are held constant, not {len(held)}"
        )
    out = [Exclusion(one) if isinstance(one, str) else one for one in exclude]
    behavior = {
        "type": "funnel",
        "resourceType": "events",
        "behaviors": [_member(step) | {"funnelOrder": order} for step in each],
        "conversionWindowDuration": window,
        "conversionWindowUnit": window_unit,
        "funnelOrder": order,
        "exclusions": [_exclusion(one, len(each)) for one in out],
        "aggregateBy": [{"value": name, "resourceType": "events"} for name in held],
        "filter": [],
    }
    measurement = {"math": one_of("math", math, FunnelMath), "property": None, "stepIndex": None}
    chart = "line" if trend else "funnel-steps"
    return _report(behavior, measurement, _time(days, one_of("unit", unit, TimeUnit)),
                   where, by, chart)  # fmt: skip


def retention(
    born: Step | str,
    return_: Step | str,
    days: TimeRange,
    *,
    unit: Literal["day", "week", "month"] = "day",
    buckets: Sequence[int] = (),
    alignment: Literal["birth", "interval_start"] = "birth",
    unbounded: Unbounded = "none",
    where: Where = None,
    by: Sequence[Breakdown | Expression | str] | Breakdown | Expression | str | None = None,
    math: RetentionMath = "retention_rate",
) -> Bookmark:
    """Return the parameters of a retention report.

    :raises ConfigError: for arguments that no such report can have.
    """
    one_of("unit", unit, ("day", "week", "month"))
    for bucket in buckets:
        whole("buckets", bucket, 1, MAX_BUCKETS)
    if len(buckets) > MAX_BUCKETS or list(buckets) != sorted(set(buckets)):
        raise ConfigError(f"buckets must be in ascending order, and {MAX_BUCKETS} at most")
    behavior: Bookmark = {
        "type": "retention",
        "resourceType": "events",
        "behaviors": [_member(_step(born)), _member(_step(return_))],
        "retentionUnit": unit,
        "retentionAlignmentType": one_of("alignment", alignment, ("birth", "interval_start")),
        "retentionCustomBucketSizes": list(buckets),
        "filter": [],
    }
    if one_of("unbounded", unbounded, Unbounded) != "none":
        behavior["retentionUnboundedMode"] = unbounded
    measurement = {"math": one_of("math", math, RetentionMath)}
    return _report(behavior, measurement, _time(days, unit), where, by, "retention-curve")


def _report(
    behavior: Bookmark,
    measurement: Bookmark,
    time: Bookmark,
    where: Where,
    by: Sequence[Breakdown | Expression | str] | Breakdown | Expression | str | None,
    chart: str,
) -> Bookmark:
    return {
        "sections": {
            "show": [{"type": "metric", "behavior": behavior, "measurement": measurement}],
            "time": [time],
            "filter": filters_of(where),
            "group": breakdowns(by),
            "formula": [],
        },
        "displayOptions": {"chartType": chart, "analysis": "linear"},
    }


def _step(step: Step | str) -> Step:
    if isinstance(step, str):
        return Step(step)
    if not isinstance(step, Step):
        raise ConfigError(f"{step!r} must be a Step or the name of an event")
    return step


def _member(step: Step) -> Bookmark:
    return {"type": "event", "id": None, **_event(step.event, step.where, step.label)}


def _exclusion(exclusion: Exclusion, steps: int) -> Bookmark:
    first, last = exclusion.from_step or 1, exclusion.to_step or steps
    if not first < last <= steps:
        raise ConfigError(
            f"{exclusion.event!r} is excluded between steps {first} and {last}, but the funnel has "
            f"{steps} steps"
        )
    return {"event": exclusion.event, "steps": {"from": first, "to": last}}


def _check_window(window: int, unit: str) -> None:
    one_of("window_unit", unit, tuple(MAX_WINDOW))
    whole("window", window, 2 if unit == "second" else 1, MAX_WINDOW[unit])


# ---- flows --------------------------------------------------------------------------------------


def flow(
    steps: Sequence[Step | str] | Step | str,
    days: TimeRange,
    *,
    forward: int = 3,
    reverse: int = 0,
    count_type: Literal["unique", "total", "session"] = "unique",
    cardinality: int = 3,
    window: int = 7,
    window_unit: str = "day",
    collapse_repeated: bool = False,
    hidden_events: Sequence[str] | str | None = None,
    exclude: Sequence[str] | str | None = None,
    where: Where = None,
    query_type: str = "flows_sankey",
) -> Bookmark:
    """Return the parameters of a flows report, which are one flat object.

    :raises ConfigError: for arguments that no flow can have.
    """
    each = [_step(step) for step in ([steps] if isinstance(steps, (str, Step)) else steps)]
    if not each:
        raise ConfigError("a flow needs at least one event")
    whole("forward", forward, 0, 5)
    whole("reverse", reverse, 0, 5)
    whole("cardinality", cardinality, 1, 50)
    if forward == reverse == 0:
        raise ConfigError("forward or reverse must be at least 1")
    _check_window(window, window_unit)
    bookmark: Bookmark = {
        "steps": [
            _flow_step(step, forward if step is each[-1] else 0, reverse if step is each[0] else 0)
            for step in each
        ],
        "date_range": _flow_range(days),
        "chartType": {"list": "top-paths"}.get(FLOW_MERGES.get(query_type, ""), "sankey"),
        "flows_merge_type": FLOW_MERGES.get(query_type, "graph"),
        "count_type": one_of("count_type", count_type, FLOW_COUNTS),
        "cardinality_threshold": cardinality,
        "version": 2,
        "conversion_window": {"unit": window_unit, "value": window},
        "anchor_position": 1,
        "collapse_repeated": collapse_repeated,
        "show_custom_events": True,
        "hidden_events": [] if hidden_events is None else event_names(hidden_events),
        "exclusions": [] if exclude is None else event_names(exclude, "exclude"),
    }
    filters = [flow_filter(one) for one in filters_of(where)]
    if filters:
        bookmark["filter_by_event"] = {"operator": "and", "children": filters}
    return bookmark


def _flow_step(step: Step, forward: int, reverse: int) -> Bookmark:
    filters, determiner = any_or_all(step.where)
    return {
        "event": step.event,
        "step_label": step.label or step.event,
        "forward": forward,
        "reverse": reverse,
        "bool_op": "or" if determiner == "any" else "and",
        "property_filter_params_list": [step_filter(one) for one in filters],
    }


def _flow_range(days: TimeRange) -> Bookmark:
    if days.last is not None:
        start = {"unit": days.last_unit, "value": days.last}
        return {"type": "in the last", "from_date": start, "to_date": "$now"}
    return {"type": "between", "from_date": days.from_date, "to_date": days.to_date}


# ---- parameters from elsewhere -----------------------------------------------------------------


def kind_of(bookmark: Any) -> Literal["insights", "funnels", "retention", "flows"]:
    """Return the kind of report that a bookmark's parameters describe.

    :raises ConfigError: for what cannot be parameters of a report.
    """
    if not isinstance(bookmark, dict):
        raise ConfigError(f"bookmark must be the parameters of a report, not {bookmark!r}")
    if "sections" not in bookmark:
        if isinstance(bookmark.get("steps"), list):
            return "flows"
        raise ConfigError("bookmark has neither sections nor steps: it is not a report's")
    sections = bookmark["sections"]
    show = sections.get("show") if isinstance(sections, dict) else None
    if not isinstance(show, list) or not show or not isinstance(show[0], dict):
        raise ConfigError("bookmark shows nothing: sections.show must be a list of metrics")
    behavior = show[0].get("behavior")
    type_ = behavior.get("type") if isinstance(behavior, dict) else None
    return "funnels" if type_ == "funnel" else "retention" if type_ == "retention" else "insights"
