"""Compute inline reports: the parameters of a bookmark in, figures out."""

import ast
import math
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import date, timedelta
from typing import Any, NamedTuple

from mixpanel.data.analysis import flows, funnel, retention
from mixpanel.data.analysis.layout import block
from mixpanel.data.analysis.period import Period, label
from mixpanel.data.analysis.source import Scope
from mixpanel.data.exceptions import ConfigError
from mixpanel.data.query_results import FlowsResult, RetentionResult
from mixpanel.emulator._rules import query_responses
from mixpanel.emulator._rules.decode import RefusedRequest
from mixpanel.emulator._rules.inline_filters import accessor, joined, step_where, where_of
from mixpanel.emulator._rules.query_parameters import read_day
from mixpanel.emulator._storage.event_reports import EventReports, source
from mixpanel.emulator._storage.profile_query import Profiles

MAX_LIMIT = 50_000
UNITS = ("hour", "day", "week", "month", "quarter")
WINDOW_DAYS = {"hour": 1 / 24, "day": 1, "week": 7, "month": 30, "quarter": 91}
TITLES = {"total": "Total Events", "unique": "Unique Users", "dau": "DAU"}
OF_EVENTS = {"total": "count(*)", "unique": "count(distinct distinct_id)"}
OF_EVENTS["dau"] = OF_EVENTS["unique"]
OF_NUMBERS = {
    "total": "coalesce(sum(number), 0)",
    "average": "avg(number)",
    "median": "median(number)",
    "min": "min(number)",
    "max": "max(number)",
    "unique_values": "count(distinct value)",
}
OF_NUMBERS |= {f"p{n}": f"quantile_cont(number, {n / 100})" for n in (25, 75, 90, 99)}
PER_USER = {
    "total": "coalesce(sum(number), 0)",
    "average": "avg(number)",
    "min": "min(number)",
    "max": "max(number)",
    "unique_values": "count(distinct value)",
}
SIGNS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}


class Shown(NamedTuple):
    """What all metrics of a report share."""

    days: tuple[date, date]
    unit: str
    where: str | None
    groups: list[dict[str, Any]]
    is_series: bool
    limit: int


class InlineReports:
    """Reports by the parameters of bookmarks."""

    def __init__(self, reports: EventReports, profiles: Profiles) -> None:
        self._reports = reports
        self._profiles = profiles

    def respond(self, params: Any, today: date, *, now: float, limit: Any) -> dict[str, Any]:
        """Return the answer of the insights endpoint: insights, a funnel or retention.

        :raises RefusedRequest: 400: the parameters are malformed, or of a kind not known here.
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise RefusedRequest(400, f"queryLimits.limit must be at least 1, not {limit!r}")
        if limit > MAX_LIMIT:
            message = f"Query limit exceeds max limit of {MAX_LIMIT} ({limit} was given)"
            raise RefusedRequest(400, message)
        metrics = _metrics(params)
        shown = self._shown(params, today, limit)
        kind = _behavior(metrics[0]).get("type")
        if kind == "funnel":
            return self._funnel(params, shown, now)
        if kind == "retention":
            result = self.retention(params, today)
            headers = ["$retention", *(_name(group) for group in shown.groups)]
            found = query_responses.inline_retention(result)
            limit_hit = result.limit_hit
        else:
            headers = ["$metric", *(_name(group) for group in shown.groups)]
            found, limit_hit = self._insights(params, metrics, shown, today)
        return query_responses.inline(
            found, now=now, days=shown.days, headers=headers, limit_hit=limit_hit
        )

    # Funnels and retention

    def funnel_options(self, params: Any) -> dict[str, Any]:
        """Return the steps, the window and the condition of a funnel, for the local report.

        :raises RefusedRequest: 400: the parameters are not those of a funnel.
        """
        behavior = _behavior(_metrics(params)[0])
        if behavior.get("type") != "funnel":
            raise RefusedRequest(400, "the report is not a funnel")
        for name, usual in (("funnelOrder", "loose"), ("exclusions", []), ("aggregateBy", [])):
            if behavior.get(name) not in (None, usual):
                raise RefusedRequest(400, f"{name} is not supported by the emulator")
        today = date.max
        steps = [
            funnel.Step(
                str(each.get("name")), self._event_where(each, today), each.get("renamed") or None
            )
            for each in _members(behavior)
        ]
        return {
            "steps": steps,
            "window": behavior.get("conversionWindowDuration", 14),
            "window_unit": behavior.get("conversionWindowUnit", "day"),
            "where": self._where(_section(params, "filter"), today),
        }

    def _funnel(self, params: Any, shown: Shown, now: float) -> dict[str, Any]:
        options = self.funnel_options(params)
        trend = params.get("displayOptions", {}).get("chartType") == "line"
        on = self._single_group(shown)
        unit: Any = shown.unit if trend else None
        result = self._reports.run(
            lambda events, period: funnel.funnel(
                events, period, on=on, unit=unit, limit=min(shown.limit, 10_000), **options
            ),
            shown.days, on, options["where"], options["steps"],
        )  # fmt: skip
        return query_responses.inline(
            query_responses.inline_funnel(result, trend=trend),
            now=now,
            days=shown.days,
            headers=["$funnel", *(_name(group) for group in shown.groups)],
            limit_hit=result.limit_hit,
        )

    def retention(self, params: Any, today: date) -> RetentionResult:
        """Compute retention.

        :raises RefusedRequest: 400: the parameters are malformed, or of a kind not known here.
        """
        behavior = _behavior(_metrics(params)[0])
        if behavior.get("type") != "retention":
            raise RefusedRequest(400, "the report is not retention")
        if behavior.get("retentionAlignmentType", "birth") != "birth":
            raise RefusedRequest(400, "retentionAlignmentType must be birth in the emulator")
        mode = behavior.get("retentionUnboundedMode", "none")
        if mode not in ("none", "carry_back"):
            raise RefusedRequest(400, f"retentionUnboundedMode {mode!r} is not supported")
        if behavior.get("retentionCustomBucketSizes"):
            raise RefusedRequest(400, "retentionCustomBucketSizes are not supported")
        shown = self._shown(params, today, 1000)
        members = _members(behavior)
        if len(members) != 2:
            raise RefusedRequest(400, "retention has two behaviors: born, and return")
        born, back = members
        unit: Any = behavior.get("retentionUnit", "day")
        conditions = [joined(self._event_where(each, today), shown.where) for each in members]
        on = self._single_group(shown)
        days = (shown.days[1] - shown.days[0]).days
        return self._reports.run(
            lambda events, period: retention.retention(
                events, period, str(born.get("name")), str(back.get("name")),
                born_where=conditions[0], return_where=conditions[1], unit=unit,
                interval_count=max(1, days // {"day": 1, "week": 7}.get(unit, 30)),
                unbounded=mode == "carry_back", on=on, until=self._reports.last_time(),
            ),
            shown.days, on, *conditions,
        )  # fmt: skip

    def flows(self, params: Any, today: date) -> FlowsResult:
        """Compute flows.

        :raises RefusedRequest: 400: the parameters are malformed, or of a kind not known here.
        """
        match params:
            case {"steps": [{"event": str(event)} as step], "date_range": {**days}}:
                pass
            case {"steps": [_, _, *_]}:
                raise RefusedRequest(400, "a flow of several steps is not supported here")
            case _:
                raise RefusedRequest(400, "a flow requires steps and date_range")
        count: Any = params.get("count_type", "unique")
        filters = (params.get("filter_by_event") or {}).get("children")
        if filters:
            raise RefusedRequest(400, "filter_by_event is not supported by the emulator")
        window = params.get("conversion_window") or {"value": 7, "unit": "day"}
        where = step_where(
            step.get("property_filter_params_list"),
            members=self._members_of,
            today=today,
            word=step.get("bool_op", "and"),
        )
        return self._reports.run(
            lambda events, period: flows.flows(
                events, period, event, forward=step.get("forward", 3),
                reverse=step.get("reverse", 0), count_type=count, window=window["value"],
                window_unit=window["unit"], where=where,
                hidden_events=params.get("hidden_events") or (),
                collapse_repeated=bool(params.get("collapse_repeated")),
                events_per_step=params.get("cardinality_threshold", 3),
            ),
            _flow_days(days, today), where,
        )  # fmt: skip

    # Insights

    def _insights(
        self, params: Any, metrics: list[dict[str, Any]], shown: Shown, today: date
    ) -> tuple[dict[str, Any], bool]:
        by_letter: dict[str, Any] = {}
        found: dict[str, Any] = {}
        limit_hit = False
        for entry in metrics:
            if entry.get("type") == "formula":
                continue
            below, hit = self._metric(entry, shown, today)
            limit_hit |= hit
            by_letter[chr(ord("A") + len(by_letter))] = below
            if not entry.get("isHidden"):
                found[_unique(_title(entry), found)] = below
        for entry in metrics:
            if entry.get("type") == "formula":
                definition = str(entry.get("definition", ""))
                title = _unique(str(entry.get("name") or definition), found)
                found[title] = _formula(definition, by_letter)
        display = params.get("displayOptions") or {}
        analysis = display.get("analysis", "linear")
        if analysis == "cumulative":
            found = {name: _leaves(below, _cumulative) for name, below in found.items()}
        elif analysis == "rolling":
            size = display.get("rollingWindowSize", 7)
            found = {
                name: _leaves(below, lambda dates: _rolling(dates, size))
                for name, below in found.items()
            }
        return found, limit_hit

    def _metric(self, entry: Mapping[str, Any], shown: Shown, today: date) -> tuple[Any, bool]:
        behavior = _behavior(entry)
        measurement = entry.get("measurement") or {}
        where = joined(self._event_where(behavior, today), shown.where)
        of = measurement.get("property")
        texts = [where, *map(accessor, shown.groups), None if of is None else accessor(of)]
        try:
            scope, period = Scope(source(*texts)), Period.checked(*shown.days)
            name = behavior.get("name")
            names = None if name in (None, "$all_events") else [str(name)]
            events = scope.events(names, period.start, period.end, where=where)
            for number, group in enumerate(shown.groups):
                events = _grouped(scope, events, group, number)
            bucket = "'all'" if not shown.is_series else period.bucket("time", shown.unit)  # type: ignore[arg-type] # a quarter is for date_trunc alone
            columns = f"{bucket} as bucket"
            if of is not None:
                columns += (
                    f", {scope.number(accessor(of))} as number, {scope.json(accessor(of))} as value"
                )
            rows = f"select *, {columns} from {block(events)}"
            keys = [f"g{number}" for number in range(len(shown.groups))]
            statement = _measured(rows, keys, measurement)
        except ConfigError as error:
            raise RefusedRequest(400, str(error)) from error
        found = self._reports.rows(statement, scope.parameters)
        buckets = _buckets(period, shown.unit) if shown.is_series else ["all"]
        return _nested(found, keys, buckets, shown)

    # Parts

    def _shown(self, params: Any, today: date, limit: int) -> Shown:
        days, unit = _days(_section(params, "time"), today)
        groups = _section(params, "group")
        chart = (params.get("displayOptions") or {}).get("chartType", "line")
        where = self._where(_section(params, "filter"), today)
        return Shown(days, unit, where, groups, chart not in ("bar", "table", "pie"), limit)

    def _single_group(self, shown: Shown) -> str | None:
        if len(shown.groups) > 1:
            raise RefusedRequest(400, "funnels and retention take one group in the emulator")
        return accessor(shown.groups[0]) if shown.groups else None

    def _event_where(self, event: Mapping[str, Any], today: date) -> str | None:
        determiner = event.get("filtersDeterminer") or "all"
        return self._where(event.get("filters"), today, determiner)

    def _where(self, filters: Any, today: date, determiner: str = "all") -> str | None:
        return where_of(filters, members=self._members_of, today=today, determiner=determiner)

    def _members_of(self, cohort: Any) -> Collection[str]:
        members = self._profiles.cohorts.get(str(cohort))
        if members is None:
            raise RefusedRequest(400, f"cohort {cohort} does not exist")
        return members


def _section(params: Any, name: str) -> list[Any]:
    sections = params.get("sections") if isinstance(params, Mapping) else None
    found = sections.get(name) if isinstance(sections, Mapping) else None
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(each, Mapping) for each in found):
        raise RefusedRequest(400, f"bookmark.sections.{name} must be a list of objects")
    return found


def _metrics(params: Any) -> list[dict[str, Any]]:
    found = _section(params, "show")
    if not found:
        raise RefusedRequest(400, "bookmark.sections.show must hold at least one metric")
    return found


def _behavior(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    behavior = entry.get("behavior") or {}
    if not isinstance(behavior, Mapping):
        raise RefusedRequest(400, "behavior must be an object")
    return behavior


def _members(behavior: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    members = behavior.get("behaviors")
    if not isinstance(members, list) or not all(isinstance(each, Mapping) for each in members):
        raise RefusedRequest(400, "behavior.behaviors must be a list of events")
    return members


def _days(time: list[Any], today: date) -> tuple[tuple[date, date], str]:
    entry = time[0] if time else {"dateRangeType": "in the last", "window": {"value": 30}}
    unit = entry.get("unit", "day")
    if unit not in UNITS:
        raise RefusedRequest(400, f"unit must be one of {', '.join(UNITS)}, not {unit!r}")
    match entry:
        case {"dateRangeType": "between", "value": [first, last]}:
            days = read_day(first, "value"), read_day(last, "value")
        case {"dateRangeType": "in the last", "window": {"value": int(length), **window}}:
            days = _last(length, str(window.get("unit", "day")), today)
        case {"dateRangeType": "since", "value": first}:
            days = read_day(first, "value"), today
        case _:
            raise RefusedRequest(400, "sections.time must be between, since or in the last")
    if days[0] > days[1]:
        raise RefusedRequest(400, f"the range begins on {days[0]}, after its end {days[1]}")
    return days, unit


def _flow_days(entry: Mapping[Any, Any], today: date) -> tuple[date, date]:
    match entry:
        case {"type": "in the last", "from_date": {"unit": str(unit), "value": int(length)}}:
            return _last(length, unit, today)
        case {"from_date": str(first), "to_date": str(last)}:
            return read_day(first, "from_date"), read_day(last, "to_date")
        case _:
            raise RefusedRequest(400, "date_range must be between or in the last")


def _last(length: int, unit: str, today: date) -> tuple[date, date]:
    days = max(1, math.ceil(length * WINDOW_DAYS.get(unit, 1)))
    return today - timedelta(days=days - 1), today


def _name(group: Mapping[str, Any]) -> str:
    return str(group.get("propertyName") or group.get("value"))


def _title(entry: Mapping[str, Any]) -> str:
    behavior: Mapping[str, Any] = _behavior(entry)
    measurement: Mapping[str, Any] = entry.get("measurement") or {}
    if behavior.get("renamed"):
        return str(behavior["renamed"])
    of: Any = measurement.get("property")
    how = str(measurement.get("math"))
    what = TITLES.get(how, how)
    if isinstance(of, Mapping):
        what = f"{how.capitalize()} of {of.get('name') or of.get('value')}"
    return f"{behavior.get('name') or 'All Events'} [{what}]"


def _unique(name: str, taken: Collection[str]) -> str:
    unique, number = name, 2
    while unique in taken:
        unique, number = f"{name} #{number}", number + 1
    return unique


def _grouped(scope: Scope, events: str, group: Mapping[str, Any], number: int) -> str:
    """Return the query of the same events with a column of a group's values."""
    on, buckets = accessor(group), group.get("customBucket") or {}
    if "bucketSize" in buckets:
        size = float(buckets["bucketSize"])
        low = scope.parameter(f"bucket{number}", size)
        start = f"(floor(({scope.number(on)}) / {low}) * {low})"
        segment = f"coalesce(printf('%g - %g', {start}, {start} + {low}), 'undefined')"
        return f"select *, {segment} as g{number} from {block(events)}"
    return f"select * exclude (segment), segment as g{number} from {block(scope.segmented(events, on))}"  # noqa: E501


def _measured(rows: str, keys: Sequence[str], measurement: Mapping[str, Any]) -> str:
    """Return the query of a figure by groups and date; of all groups, a key is NULL."""
    how, of, per = (measurement.get(each) for each in ("math", "property", "perUserAggregation"))
    known = OF_EVENTS if of is None and per is None else OF_NUMBERS
    figure = known.get(str(how))
    if how == "custom_percentile" and known is OF_NUMBERS:
        share = float(measurement.get("percentile") or 50) / 100
        figure = f"quantile_cont(number, {share})"
    if figure is None:
        raise RefusedRequest(400, f"math {how!r} is not supported by the emulator")
    sets = ", ".join(f"({', '.join([*keys[:n], 'bucket'])})" for n in range(len(keys) + 1))
    chosen = ", ".join([*keys, "bucket"])
    grouping = ", ".join(f"grouping({key}) as all_{key}" for key in keys)
    if per is not None:
        inner = PER_USER.get(str(per))
        if inner is None:
            raise RefusedRequest(400, f"perUserAggregation {per!r} is not known")
        rows = (
            f"select {chosen}, distinct_id, {inner} as number from {block(rows)}"
            f" where distinct_id is not null group by {chosen}, distinct_id"
        )
    columns = f"{chosen}, {figure} as n, count(*) as events"
    if grouping:
        columns = f"{columns}, {grouping}"
    return f"select {columns} from {block(rows)} group by grouping sets ({sets}) order by all"


def _buckets(period: Period, unit: str) -> list[str]:
    if unit != "quarter":
        return [query_responses.instant(each) for each in period.buckets(unit)]  # type: ignore[arg-type] # is one of them
    months = [date.fromisoformat(each) for each in period.buckets("month")]
    starts = [each.replace(month=(each.month - 1) // 3 * 3 + 1) for each in months]
    return [query_responses.instant(str(each)) for each in dict.fromkeys(starts)]


def _nested(
    rows: Sequence[tuple[Any, ...]], keys: Sequence[str], buckets: Sequence[str], shown: Shown
) -> tuple[Any, bool]:
    """Return figures by group and date, `$overall` first, and whether the limit left some out."""
    depth = len(keys)
    leaves: dict[tuple[str, ...], dict[str, Any]] = {}
    sizes: dict[str, int] = {}
    for row in rows:
        groups, bucket, n, events, everything = (
            row[:depth], row[depth], row[depth + 1], row[depth + 2], row[depth + 3 :]
        )  # fmt: skip
        path = tuple(str(each) for each, all_ in zip(groups, everything, strict=True) if not all_)
        clock = shown.unit == "hour"
        at = query_responses.instant(label(bucket, clock=clock)) if shown.is_series else "all"
        leaves.setdefault(path, dict.fromkeys(buckets, 0))[at] = n
        if len(path) == 1:
            sizes[path[0]] = sizes.get(path[0], 0) + events
    leaves.setdefault((), dict.fromkeys(buckets, 0))
    if not keys:
        return leaves[()], False
    kept = sorted(sizes, key=lambda each: (-sizes[each], each))[: shown.limit]
    found: dict[str, Any] = {query_responses.OVERALL: leaves[()]}
    for name in kept:
        found[name] = _level(leaves, (name,), depth)
    return found, len(sizes) > len(kept)


def _level(leaves: Mapping[tuple[str, ...], Any], path: tuple[str, ...], depth: int) -> Any:
    if len(path) == depth:
        return leaves[path]
    below = {each[len(path)]: None for each in leaves if each[: len(path)] == path != each}
    inner = {name: _level(leaves, (*path, name), depth) for name in below}
    return {query_responses.OVERALL: leaves[path], **inner}


# Formulas and analyses


def _formula(definition: str, metrics: Mapping[str, Any]) -> Any:
    try:
        tree = ast.parse(definition.strip(), mode="eval").body
        return _evaluated(tree, metrics)
    except (SyntaxError, ValueError, KeyError, RecursionError) as error:
        raise RefusedRequest(400, f"formula {definition!r} cannot be computed") from error


def _evaluated(node: ast.expr, metrics: Mapping[str, Any]) -> Any:
    match node:
        case ast.Name(id=name):
            return metrics[name]
        case ast.Constant(value=int() | float() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _combined(operator.sub, 0, _evaluated(operand, metrics))
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return _combined(_divided, _evaluated(left, metrics), _evaluated(right, metrics))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in SIGNS:
            sign = SIGNS[type(op)]
            return _combined(sign, _evaluated(left, metrics), _evaluated(right, metrics))
    raise ValueError("not part of a formula")


def _divided(one: float, other: float) -> float:
    return one / other if other else 0.0


def _combined(sign: Callable[[float, float], float], one: Any, other: Any) -> Any:
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: _combined(sign, one.get(key, 0), other.get(key, 0)) for key in one | other}
    if isinstance(one, dict):
        return {key: _combined(sign, each, other) for key, each in one.items()}
    if isinstance(other, dict):
        return {key: _combined(sign, one, each) for key, each in other.items()}
    return sign(one or 0, other or 0)


def _leaves(below: Any, change: Callable[[dict[str, float]], dict[str, float]]) -> Any:
    if isinstance(below, dict) and any(isinstance(each, dict) for each in below.values()):
        return {key: _leaves(each, change) for key, each in below.items()}
    return change(below)


def _cumulative(dates: dict[str, float]) -> dict[str, float]:
    total, found = 0.0, {}
    for day, n in dates.items():
        total += n or 0
        found[day] = total
    return found


def _rolling(dates: dict[str, float], size: int) -> dict[str, float]:
    values = [each or 0 for each in dates.values()]
    return {
        day: sum(values[max(0, n - size + 1) : n + 1]) / len(values[max(0, n - size + 1) : n + 1])
        for n, day in enumerate(dates)
    }
