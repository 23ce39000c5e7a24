"""How many users came back, and how often users are active."""

from __future__ import annotations

import calendar
from collections import defaultdict
from datetime import date, datetime, timedelta
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal, get_args

from mixpanel.data.analysis.arguments import (
    MOST_SEGMENTS,
    about,
    among,
    count,
    event_name,
    written,
)
from mixpanel.data.analysis.layout import block, with_queries
from mixpanel.data.analysis.period import begin, label
from mixpanel.data.analysis.query import Query
from mixpanel.data.analysis.source import Scope
from mixpanel.data.exceptions import ConfigError
from mixpanel.data.query_results import (
    CohortInfo,
    FrequencyResult,
    HourDayUnit,
    RetentionResult,
    RetentionType,
    TimeUnit,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mixpanel.data.analysis.period import Period
    from mixpanel.data.analysis.source import Condition, EventSource

__all__ = ["frequency", "retention"]

RetentionMode = Literal["none", "carry_back", "carry_forward", "consecutive_forward"]

UNITS = get_args(TimeUnit)
ONE_DAY = timedelta(days=1)
# The one interval of a user in which a return counts; those before or after it follow.
CARRIED = {
    "carry_back": "max(cell)",
    "carry_forward": "min(cell)",
    "consecutive_forward": (
        "len(list_filter(list_sort(list(DISTINCT cell)), lambda each, place: each = place - 1)) - 1"
    ),
}
DAYS = {"day": 1, "week": 7, "month": 30}
LONGEST = 90  # days of an interval; Mixpanel's own limit
MOST_INTERVALS = 730
HOURS = 24


def retention(
    source: EventSource,
    period: Period,
    born_event: str | None,
    return_event: str | None = None,
    *,
    born_where: Condition | None = None,
    return_where: Condition | None = None,
    unit: TimeUnit = "day",
    interval: int = 1,
    interval_count: int = 10,
    retention_type: RetentionType = "birth",
    unbounded: bool = False,
    on: Condition | tuple[Condition, ...] | None = None,
    limit: int = 1000,
    until: datetime | None = None,
    mode: RetentionMode | None = None,
    buckets: Sequence[int] = (),
    alignment: Literal["birth", "calendar"] = "birth",
) -> Query[RetentionResult]:
    """Count the users who came back in each interval after their first event.

    With "birth", a user is in the cohort of the first `born_event` in the period. With
    "compounded" there is no `born_event`, and a user is in the cohort of each date with a
    `return_event`. Without a `return_event`, any event counts. Cohorts begin every `interval`
    `unit`s; a week's on Monday, a month's on its first day.

    Intervals are counted from each user's own first event, whatever the clock says: a day is 24
    hours, a week 7 days and a month 30. Interval 0 holds what follows at once, and there are
    `interval_count` more. The first event is not itself a return; one of another name may happen
    at the same time. With `unbounded`, interval N counts those who came back in N or later.

    `on` parts users by their first event; `born_where` and `return_where` choose events. `until`
    is when the events end, in UTC without a zone: a cohort has no intervals that begin after it.

    `mode` is how a return counts elsewhere: "carry_back" in all intervals before it, which is what
    `unbounded` means, "carry_forward" in all after it, and with "consecutive_forward" a user counts
    in an interval only after returns in all before it. `buckets` are the ends of intervals in
    `unit`s, as (1, 3, 7), instead of equal ones. With the `alignment` "calendar" an interval is one
    of the calendar, and the first that of the first event.

    :raises ConfigError: for arguments that cannot work.
    """
    among("retention_type", retention_type, get_args(RetentionType))
    compounded = retention_type == "compounded"
    if compounded and (born_event is not None or born_where is not None):
        raise ConfigError("compounded retention has no born_event: give the return_event alone")
    first = return_event if compounded else event_name(born_event, "born_event")
    if return_event is not None:
        event_name(return_event, "return_event")
    among("unit", unit, UNITS)
    count("interval", interval, 1, LONGEST // DAYS[unit])
    count("interval_count", interval_count, 1, MOST_INTERVALS)
    count("limit", limit, 1, MOST_SEGMENTS)
    mode = mode or ("carry_back" if unbounded else "none")
    among("mode", mode, get_args(RetentionMode))
    among("alignment", alignment, ["birth", "calendar"])
    if buckets and (list(buckets) != sorted({*buckets}) or buckets[0] < 1):
        raise ConfigError(f"buckets={buckets!r} must be ends of intervals, rising from 1 on")
    scope = Scope(source)
    length = timedelta(days=interval * DAYS[unit])
    starts = [n * length for n in range(interval_count + 1)]
    if buckets:
        starts = [timedelta(days=DAYS[unit]) * each for each in (0, *buckets[:-1])]
    longest = timedelta(days=DAYS[unit]) * buckets[-1] if buckets else starts[-1] + length
    users = ["distinct_id IS NOT NULL"]
    births = scope.events(
        None if first is None else [first],
        period.start,
        period.end,
        where=return_where if compounded else born_where,
        extra=users,
    )
    returns = scope.events(
        None if return_event is None else [return_event],
        period.start,
        period.after(longest + (31 * ONE_DAY if alignment == "calendar" else 0 * ONE_DAY)),
        where=return_where,
        extra=users,
    )
    if on is not None:
        births = scope.segmented(births, on)
    statement = _retained(
        births=_births(
            births, period, unit, interval, compounded=compounded, parted=on is not None
        ),
        returns=f"SELECT distinct_id, time\nFROM {block(returns)}",
        later=">" if return_event in (None, first) else ">=",
        cell=_cell(period, unit, length, interval, buckets, alignment),
        intervals=len(starts) - 1,
        mode=mode,
        parted=on is not None,
    )

    def read(rows: Sequence[tuple[Any, ...]]) -> RetentionResult:
        days = _cohort_days(period, unit, interval)
        known = [_intervals_until(period.instant(day), until, starts) for day in days]
        found = _cohorts(rows, len(starts) - 1, mode)
        groups = {
            segment: tuple(_cohort(day, *cohorts[n], known[n]) for n, day in enumerate(days))
            for segment, cohorts in found.items()
        }
        sizes = {name: -sum(each.size for each in group) for name, group in groups.items()}
        every = groups.pop(None, None) or tuple(
            _cohort(day, 0, [0] * len(starts), most) for day, most in zip(days, known, strict=True)
        )
        names = sorted(
            (name for name in groups if name is not None), key=lambda name: (sizes[name], name)
        )
        return RetentionResult(
            None if compounded else born_event,
            return_event,
            str(period.from_date),
            str(period.to_date),
            unit,
            every,
            interval,
            len(starts) - 1,
            retention_type,
            mode != "none",
            None if on is None else written(on),
            {name: groups[name] for name in names[:limit]},
            limit_hit=len(names) > limit,
            **about(period, query),
        )

    names = tuple(name for name in (born_event, return_event) if name is not None)
    query = Query(statement, scope.parameters, read, names)
    return query


def _cell(
    period: Period,
    unit: TimeUnit,
    length: timedelta,
    interval: int,
    buckets: Sequence[int],
    alignment: str,
) -> str:
    """Return SQL of the interval of a return, counted from 0; NULL after the last bucket."""
    if alignment == "calendar":
        at = [f"date_trunc('{unit}', {period.local(column)})" for column in ("birth", "time")]
        passed = f"date_diff('{unit}', {at[0]}, {at[1]})"
    else:
        one = length // interval // timedelta(microseconds=1)
        passed = f"(epoch_us(time) - epoch_us(birth)) // {one}"
    if not buckets:
        return f"{passed} // {interval}" if interval > 1 else passed
    whens = " ".join(f"WHEN {passed} < {end} THEN {n}" for n, end in enumerate(buckets))
    return f"CASE {whens} END"


def _births(
    events: str, period: Period, unit: TimeUnit, interval: int, *, compounded: bool, parted: bool
) -> str:
    """Return the query of each user's cohort and birth."""
    anchor = begin(period.from_date, unit)
    between = (
        f"date_diff('{unit}', TIMESTAMP '{anchor}', date_trunc('{unit}', {period.local('time')}))"
    )
    cohort = f"{between} // {interval}"
    segment = ", first(segment ORDER BY time, segment) AS segment" if parted else ""
    if compounded:
        return (
            f"SELECT distinct_id, {cohort} AS cohort, min(time) AS birth{segment}\n"
            f"FROM {block(events)}\nGROUP BY distinct_id, cohort"
        )
    first = (
        f"SELECT distinct_id, min(time) AS time{segment}\nFROM {block(events)}\n"
        "GROUP BY distinct_id"
    )
    columns = f"distinct_id, {cohort} AS cohort, time AS birth"
    return f"SELECT {columns}{', segment' if parted else ''}\nFROM {block(first)}"


def _retained(
    *,
    births: str,
    returns: str,
    later: str,
    cell: str,
    intervals: int,
    mode: RetentionMode,
    parted: bool,
) -> str:
    """Return the query of the size of each cohort (cell NULL), and of each of its cells."""
    column = "segment, " if parted else ""
    returned = (
        f"SELECT {column}cohort, distinct_id, {cell} AS cell\n"
        f"FROM births JOIN returns USING (distinct_id)\n"
        f"WHERE time {later} birth AND {cell} <= {intervals}"
    )
    if mode != "none":
        returned = (
            f"SELECT {column}cohort, distinct_id, {CARRIED[mode]} AS cell\n"
            f"FROM {block(returned)}\nGROUP BY {column}cohort, distinct_id\nHAVING cell >= 0"
        )
    groups = ["NULL", "segment"] if parted else ["NULL"]
    parts = []
    for group in groups:
        key = "cohort" if group == "NULL" else f"{group}, cohort"
        name = f"{group}::VARCHAR AS segment, cohort"
        sizes = f"SELECT {name}, NULL AS cell, count(*) AS users\nFROM births\nGROUP BY {key}"
        users = f"SELECT {name}, cell, count(DISTINCT distinct_id) AS users"
        parts += [sizes, f"{users}\nFROM returned\nGROUP BY {key}, cell"]
    last = "\nUNION ALL\n".join(parts) + "\nORDER BY ALL"
    return with_queries(last, births=births, returns=returns, returned=returned)


def _cohort_days(period: Period, unit: TimeUnit, interval: int) -> list[date]:
    """Return the first day of each cohort."""
    day, days = begin(period.from_date, unit), []
    while day <= period.to_date:
        days.append(day)
        for _ in range(interval):
            day = _after(day, unit)
    return days


def _intervals_until(start: datetime, until: datetime | None, starts: Sequence[timedelta]) -> int:
    """Return how many intervals of a cohort begin before the events end; one at least."""
    if until is None:
        return len(starts)
    return max(1, sum(start + each < until for each in starts))


def _after(day: date, unit: TimeUnit) -> date:
    if unit == "month":
        return day.replace(day=1) + timedelta(days=_days_of_month(day))
    return day + timedelta(days=DAYS[unit])


def _days_of_month(day: date) -> int:
    return calendar.monthrange(day.year, day.month)[1]


def _cohorts(
    rows: Iterable[tuple[Any, ...]], intervals: int, mode: RetentionMode
) -> dict[str | None, dict[int, tuple[int, list[int]]]]:
    """Return the size and the counts of each cohort of each segment."""
    found: dict[str | None, dict[int, tuple[int, list[int]]]] = defaultdict(
        lambda: defaultdict(lambda: (0, [0] * (intervals + 1)))
    )
    for segment, cohort, cell, users in rows:
        size, counts = found[segment][cohort]
        if cell is None:
            size = users
        else:
            counts[cell] = users
        found[segment][cohort] = (size, counts)
    for cohorts in found.values():
        for _, counts in cohorts.values():
            if mode == "carry_forward":
                counts[:] = accumulate(counts)
            elif mode != "none":
                _accumulate(counts)
    return found


def _accumulate(counts: list[int]) -> None:
    """Add to each count all that follow it."""
    for number in range(len(counts) - 2, -1, -1):
        counts[number] += counts[number + 1]


def _cohort(day: date, size: int, counts: Sequence[int], most: int) -> CohortInfo:
    kept = tuple(counts[:most])
    shares = tuple(users / size if size else 0.0 for users in kept)
    return CohortInfo(label(day), size, shares, kept)


# ---- frequency ----------------------------------------------------------------------------------


def frequency(
    source: EventSource,
    period: Period,
    event: str | None = None,
    *,
    unit: TimeUnit = "day",
    addiction_unit: HourDayUnit = "hour",
    where: Condition | None = None,
    on: Condition | None = None,
    limit: int = 1000,
) -> Query[FrequencyResult]:
    """Count in how many hours, or on how many days, of each period users did an event.

    Hours and days are those of the project's clock. Without an `event`, any event counts. Each
    period has as many counts as it has `addiction_unit`s: 24 hours a day, 28 to 31 days a month.
    With `on`, a user is counted in each segment by the events that are in it.

    :raises ConfigError: for arguments that cannot work.
    """
    if event is not None:
        event_name(event)
    among("unit", unit, UNITS)
    among("addiction_unit", addiction_unit, get_args(HourDayUnit))
    count("limit", limit, 1, MOST_SEGMENTS)
    scope = Scope(source)
    events = scope.events(
        None if event is None else [event],
        period.start,
        period.end,
        where=where,
        extra=["distinct_id IS NOT NULL"],
    )
    if on is not None:
        events = scope.segmented(events, on)
    statement = _active(events, period, unit, addiction_unit, parted=on is not None)

    def read(rows: Sequence[tuple[Any, ...]]) -> FrequencyResult:
        nothing = {day: [0] * _units_of(day, unit, addiction_unit) for day in period.buckets(unit)}
        found: dict[str | None, dict[str, list[int]]] = {}
        for segment, bucket, active, users in rows:
            dates = found.setdefault(segment, {day: [*counts] for day, counts in nothing.items()})
            dates[label(bucket)][active - 1] = users
        for dates in found.values():
            for counts in dates.values():
                _accumulate(counts)
        every = found.pop(None, nothing)
        sizes = {name: sum(counts[0] for counts in dates.values()) for name, dates in found.items()}
        names = sorted(
            (name for name in found if name is not None), key=lambda name: (-sizes[name], name)
        )
        return FrequencyResult(
            event,
            str(period.from_date),
            str(period.to_date),
            unit,
            addiction_unit,
            _frozen(every),
            None if on is None else written(on),
            {name: _frozen(found[name]) for name in names[:limit]},
            limit_hit=len(names) > limit,
            **about(period, query),
        )

    query = Query(statement, scope.parameters, read, () if event is None else (event,))
    return query


def _active(
    events: str, period: Period, unit: TimeUnit, addiction_unit: HourDayUnit, *, parted: bool
) -> str:
    """Return the query of how many users were active in how many sub-units of each bucket."""
    column = "segment, " if parted else ""
    active = (
        f"SELECT DISTINCT {column}distinct_id, {period.bucket('time', unit)} AS bucket, "
        f"{period.bucket('time', addiction_unit)} AS active\nFROM {block(events)}"
    )
    parts = []
    for group in ["NULL", "segment"] if parted else ["NULL"]:
        key = "" if group == "NULL" else "segment, "
        # Of all segments together, an hour counts once.
        hours = "count(*)" if group == "segment" or not parted else "count(DISTINCT active)"
        users = (
            f"SELECT {key}bucket, distinct_id, {hours} AS hours\nFROM active\n"
            f"GROUP BY {key}bucket, distinct_id"
        )
        parts.append(
            f"SELECT {group}::VARCHAR AS segment, bucket, hours, count(*) AS users\n"
            f"FROM {block(users)}\nGROUP BY {key}bucket, hours"
        )
    return with_queries("\nUNION ALL\n".join(parts) + "\nORDER BY ALL", active=active)


def _units_of(day: str, unit: TimeUnit, addiction_unit: HourDayUnit) -> int:
    days = _days_of_month(date.fromisoformat(day)) if unit == "month" else DAYS[unit]
    return days * HOURS if addiction_unit == "hour" else days


def _frozen(dates: dict[str, list[int]]) -> dict[str, tuple[int, ...]]:
    return {day: tuple(counts) for day, counts in dates.items()}
