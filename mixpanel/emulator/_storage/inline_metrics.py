"""Compute the metrics of inline insights: figures by groups and dates."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import date, timedelta
from typing import Any, NamedTuple

from mixpanel.data.analysis.layout import block
from mixpanel.data.analysis.period import Period, label
from mixpanel.data.analysis.sessions import events_in_sessions
from mixpanel.data.analysis.source import Scope
from mixpanel.data.exceptions import ConfigError
from mixpanel.data.expressions import as_expression
from mixpanel.emulator._rules import query_responses
from mixpanel.emulator._rules.bookmark_parts import behavior_of, members_of, title_of, unique_name
from mixpanel.emulator._rules.decode import RefusedRequest
from mixpanel.emulator._rules.formulas import cumulative, formula, leaves, rolling
from mixpanel.emulator._rules.inline_filters import accessor, joined
from mixpanel.emulator._storage.event_reports import EventReports, source

USERS = "count(distinct distinct_id)"
OF_EVENTS = {
    "total": "count(*)",
    "unique": USERS,
    "dau": USERS,
    "wau": USERS,
    "mau": USERS,
    "cumulative_unique": "count(*)",  # of each user's first date
    "sessions": "count(distinct (distinct_id, session))",
}
TRAILING = {"wau": 7, "mau": 30}  # days, the last of which is the date
OF_NUMBERS = {
    "total": "coalesce(sum(number), 0)",
    "average": "avg(number)",
    "median": "median(number)",
    "min": "min(number)",
    "max": "max(number)",
    "unique_values": "count(distinct value)",
    "histogram": "count(*)",
}
OF_NUMBERS |= {f"p{n}": f"quantile_cont(number, {n / 100})" for n in (25, 75, 90, 99)}
PER_USER = {
    "total": "coalesce(sum(number), 0)",
    "average": "avg(number)",
    "min": "min(number)",
    "max": "max(number)",
    "unique_values": "count(distinct value)",
}
BUCKETS = 10  # of a histogram

Where = Callable[[Any, date, str], str | None]
Members = Callable[[Any], Collection[str]]


class Shown(NamedTuple):
    """What all metrics of a report share."""

    days: tuple[date, date]
    unit: str
    where: str | None
    groups: list[dict[str, Any]]
    is_series: bool
    limit: int


class InlineMetrics:
    """The metrics of inline insights.

    `where` translates filters, and `members` returns the distinct_ids of a saved cohort.
    """

    def __init__(self, reports: EventReports, where: Where, members: Members) -> None:
        self._reports = reports
        self._where = where
        self._members = members

    def series(
        self, entries: list[dict[str, Any]], shown: Shown, today: date, display: Mapping[str, Any]
    ) -> tuple[dict[str, Any], bool]:
        """Return the figures of each metric and formula, and whether a limit left some out.

        :raises RefusedRequest: 400: they are malformed, or of a kind not known here.
        """
        by_letter: dict[str, Any] = {}
        found: dict[str, Any] = {}
        limit_hit = False
        for entry in entries:
            if entry.get("type") == "formula":
                continue
            below, hit = self._metric(entry, shown, today)
            limit_hit |= hit
            by_letter[chr(ord("A") + len(by_letter))] = below
            if not entry.get("isHidden"):
                found[unique_name(title_of(entry), found)] = below
        for entry in entries:
            if entry.get("type") == "formula":
                definition = str(entry.get("definition", ""))
                title = unique_name(str(entry.get("name") or definition), found)
                found[title] = formula(definition, by_letter)
        return _analysed(found, display), limit_hit

    def _metric(self, entry: Mapping[str, Any], shown: Shown, today: date) -> tuple[Any, bool]:
        behavior = behavior_of(entry)
        kind = behavior.get("type", "event")
        measurement = entry.get("measurement") or {}
        period = Period.checked(*shown.days)
        if kind == "cohort":
            return self._cohort_size(behavior, period, shown), False
        if kind not in ("event", "simple", "custom-event"):
            message = f"a metric of type {kind!r} is not computed by the emulator beside others"
            raise RefusedRequest(400, message)
        try:
            return self._measured(behavior, measurement, period, shown, today)
        except ConfigError as error:
            raise RefusedRequest(400, str(error)) from error

    def _measured(
        self,
        behavior: Mapping[str, Any],
        measurement: Mapping[str, Any],
        period: Period,
        shown: Shown,
        today: date,
    ) -> tuple[Any, bool]:
        math, of = measurement.get("math"), measurement.get("property")
        names, where = self._chosen(behavior, shown, today)
        properties = [each for each in shown.groups if not {"cohorts", "behavior"} & each.keys()]
        texts = [where, *map(accessor, properties), None if of is None else accessor(of)]
        scope = Scope(source(*texts))
        events = _events(scope, period, names, where, str(math))
        for number, group in enumerate(shown.groups):
            events = self._grouped(scope, events, group, number)
        bucket = "'all'"
        if shown.is_series:
            bucket = period.bucket("time", shown.unit)  # type: ignore[arg-type] # a quarter is for date_trunc alone
        columns = f"{bucket} as bucket"
        if of is not None:
            of_text = accessor(of)
            columns += f", {scope.number(of_text)} as number, {scope.json(of_text)} as value"
        rows = f"select *, {columns} from {block(events)}"
        keys = [f"g{number}" for number in range(len(shown.groups))]
        if math in TRAILING:
            if shown.unit != "day" or not shown.is_series:
                raise RefusedRequest(400, f"{math} is computed by day only, as a line")
            rows = _spread(rows, scope, period, TRAILING[math])
        if math == "histogram":
            rows, keys = self._histogram(rows, keys, measurement, scope)
            measurement = {"math": "total"}
        elif math == "cumulative_unique":
            rows = _first_dates(rows, keys)
        statement = _figures(rows, keys, measurement)
        found = self._reports.rows(statement, scope.parameters)
        buckets = _buckets(period, shown.unit) if shown.is_series else ["all"]
        nested, hit = _nested(found, keys, buckets, shown)
        return leaves(nested, cumulative) if math == "cumulative_unique" else nested, hit

    def _chosen(
        self, behavior: Mapping[str, Any], shown: Shown, today: date
    ) -> tuple[list[str] | None, str | None]:
        """Return the names of the events that are counted, and the condition that they meet."""
        determiner = behavior.get("filtersDeterminer") or "all"
        where = joined(self._where(behavior.get("filters"), today, determiner), shown.where)
        if behavior.get("type") != "simple":
            name = behavior.get("name")
            return (None if name in (None, "$all_events") else [str(name)]), where
        parts, names = [], []
        for each in members_of(behavior):
            names.append(str(each.get("name")))
            own = self._where(each.get("filters"), today, each.get("filtersDeterminer") or "all")
            parts.append(joined(f'event["$name"] == {as_expression(names[-1])}', own))
        either = " or ".join(f"({part})" for part in parts)
        return names, joined(either or None, where)

    def _cohort_size(self, behavior: Mapping[str, Any], period: Period, shown: Shown) -> Any:
        """Return how many are in a cohort: the same at all times, since no history is kept."""
        if shown.groups:
            raise RefusedRequest(400, "the size of a cohort is not broken down by the emulator")
        size = len(self._members(behavior.get("id")))
        buckets = _buckets(period, shown.unit) if shown.is_series else ["all"]
        return dict.fromkeys(buckets, size)

    def _grouped(self, scope: Scope, events: str, group: Mapping[str, Any], number: int) -> str:
        """Return the query of the same events with a column of a group's values."""
        if "cohorts" in group:
            segment = self._by_cohort(scope, group, number)
            return f"select *, {segment} as g{number} from {block(events)}"
        if "behavior" in group:
            raise RefusedRequest(400, "groups by frequency are not computed by the emulator")
        on, buckets = accessor(group), group.get("customBucket") or {}
        if "bucketSize" in buckets:
            size = float(buckets["bucketSize"])
            low = scope.parameter(f"bucket{number}", size)
            value = f"({scope.number(on)})"
            start = f"(floor({value} / {low}) * {low})"
            segment = f"printf('%g - %g', {start}, {start} + {low})"
            for name, sign in (("min", "<"), ("max", ">=")):
                if buckets.get(name) is not None:
                    bound = scope.parameter(f"{name}{number}", float(buckets[name]))
                    text = f"'{sign} ' || printf('%g', {bound})"
                    segment = f"case when {value} {sign} {bound} then {text} else {segment} end"
            segment = f"coalesce({segment}, 'undefined')"
            return f"select *, {segment} as g{number} from {block(events)}"
        segmented = block(scope.segmented(events, on))
        return f"select * exclude (segment), segment as g{number} from {segmented}"

    def _by_cohort(self, scope: Scope, group: Mapping[str, Any], number: int) -> str:
        """Return SQL of the names of the cohorts that an event's user is in, a row for each."""
        labels = group.get("value")
        cases = []
        for index, cohort in enumerate(group["cohorts"]):
            name = cohort.get("name") or f"Cohort {cohort.get('id')}"
            negated = bool(cohort.get("negated"))
            text = f"Not In {name}" if negated else name
            if isinstance(labels, list) and index < len(labels):
                text = str(labels[index])
            ids = scope.parameter(f"cohort{number}_{index}", list(self._members(cohort.get("id"))))
            shown = scope.parameter(f"label{number}_{index}", text)
            found = f"coalesce(list_contains({ids}::varchar[], distinct_id), false)"
            cases.append(f"case when {'not ' if negated else ''}{found} then {shown}::varchar end")
        return f"unnest(list_filter([{', '.join(cases)}], lambda each: each is not null))"

    def _histogram(
        self, rows: str, keys: list[str], measurement: Mapping[str, Any], scope: Scope
    ) -> tuple[str, list[str]]:
        """Return the query of users by the range of their figure, which is the last group."""
        rows = _per_user(rows, keys, str(measurement.get("perUserAggregation") or "total"))
        bounds = f"select min(number), max(number) from {block(rows)}"
        ((low, high),) = self._reports.rows(bounds, scope.parameters)
        width = _width(0 if low is None else high - low)
        start = f"(floor(number / {width}) * {width})"
        column = f"printf('%g - %g', {start}, {start} + {width}) as histogram"
        chosen = f"select *, {column} from {block(rows)} where number is not null"
        return chosen, [*keys, "histogram"]


def _analysed(found: dict[str, Any], display: Mapping[str, Any]) -> dict[str, Any]:
    if display.get("timeComparison"):
        raise RefusedRequest(400, "timeComparison is not computed by the emulator")
    analysis = display.get("analysis", "linear")
    if analysis == "cumulative":
        return {name: leaves(below, cumulative) for name, below in found.items()}
    if analysis == "rolling":
        size = display.get("rollingWindowSize", 7)
        return {
            name: leaves(below, lambda dates: rolling(dates, size)) for name, below in found.items()
        }
    if analysis != "linear":
        raise RefusedRequest(400, f"analysis {analysis!r} is not computed by the emulator")
    return found


def _events(
    scope: Scope, period: Period, names: list[str] | None, where: str | None, math: str
) -> str:
    """Return the query of a metric's events, or of more that its figure needs."""
    if math == "sessions":
        return events_in_sessions(scope, names, period.start, period.end, where=where)
    before = period.before(timedelta(days=TRAILING.get(math, 1) - 1))
    return scope.events(names, before, period.end, where=where)


def _spread(rows: str, scope: Scope, period: Period, days: int) -> str:
    """Return the query of each row at each of the days that it counts for."""
    low = scope.parameter("low", period.start)
    dates = f"generate_series(bucket, bucket + interval {days - 1} days, interval 1 day)"
    spread = f"select * replace (unnest({dates}) as bucket) from {block(rows)}"
    high = scope.parameter("high", period.end)
    return f"select * from {block(spread)} where bucket >= {low} and bucket < {high}"


def _sets(keys: Sequence[str], *columns: str) -> str:
    return ", ".join(f"({', '.join([*keys[:n], *columns])})" for n in range(len(keys) + 1))


def _first_dates(rows: str, keys: Sequence[str]) -> str:
    """Return the query of each user's first date, in each group and in all of them."""
    grouping = "".join(f", grouping({key}) as all_{key}" for key in keys)
    columns = f"{''.join(f'{key}, ' for key in keys)}distinct_id, min(bucket) as bucket{grouping}"
    return (
        f"select {columns} from {block(rows)} where distinct_id is not null"
        f" group by grouping sets ({_sets(keys, 'distinct_id')})"
    )


def _per_user(rows: str, keys: Sequence[str], per: str) -> str:
    figure = PER_USER.get(per)
    if figure is None:
        raise RefusedRequest(400, f"perUserAggregation {per!r} is not known")
    chosen = ", ".join([*keys, "bucket"])
    return (
        f"select {chosen}, distinct_id, {figure} as number from {block(rows)}"
        f" where distinct_id is not null group by {chosen}, distinct_id"
    )


def _figures(rows: str, keys: Sequence[str], measurement: Mapping[str, Any]) -> str:
    """Return the query of a figure by groups and date; of all groups, a key is NULL."""
    math, of, per = (measurement.get(each) for each in ("math", "property", "perUserAggregation"))
    known = OF_EVENTS if of is None and per is None else OF_NUMBERS
    figure = known.get(str(math))
    if math == "custom_percentile" and known is OF_NUMBERS:
        share = float(measurement.get("percentile") or 50) / 100
        figure = f"quantile_cont(number, {share})"
    if figure is None:
        raise RefusedRequest(400, f"math {math!r} is not computed by the emulator")
    chosen = ", ".join([*keys, "bucket"])
    if per is not None:
        rows = _per_user(rows, keys, str(per))
    columns = f"{chosen}, {figure} as n, count(*) as events"
    if math == "cumulative_unique":  # the rows are of all groups already
        sets = "".join(f", all_{key}" for key in keys)
        return f"select {columns}{sets} from {block(rows)} group by {chosen}{sets} order by all"
    if keys:
        columns += "".join(f", grouping({key}) as all_{key}" for key in keys)
    sets = _sets(keys, "bucket")
    return f"select {columns} from {block(rows)} group by grouping sets ({sets}) order by all"


def _width(extent: float) -> float:
    """Return the width of a histogram's ranges: 1, 2 or 5 times a power of ten."""
    power = 1.0
    while extent / (power * 10) > BUCKETS:
        power *= 10
    return next((power * n for n in (1, 2, 5) if extent / (power * n) <= BUCKETS), power * 10)


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
