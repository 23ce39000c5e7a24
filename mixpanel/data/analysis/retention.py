"""Retention and frequency: how many users came back, and how often they are active."""

from __future__ import annotations

import calendar
from collections import defaultdict
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any, get_args

from mixpanel.data.analysis.arguments import (
    MAX_SEGMENTS,
    check_choice,
    checked_int,
    common_fields,
    event_name,
    segment_name,
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

UNITS = get_args(TimeUnit)
DAYS = {"day": 1, "week": 7, "month": 30}
MAX_LENGTH = 90  # days of an interval; Mixpanel's own limit
MAX_INTERVALS = 730
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
    on: Condition | None = None,
    limit: int = 1000,
    until: datetime | None = None,
) -> Query[RetentionResult]:
    """Count the users who came back in each interval after their first event.

    With "birth", a user is in the cohort of their first `born_event` in the period. With
    "compounded" there is no `born_event`, and a user is in the cohort of each date with a
    `return_event`. Without a `return_event`, any event counts. A cohort begins every `interval`
    `unit`s: weeks on Monday, months on their first day.

    Intervals are counted from the time of each user's first event: a day is 24 hours, a week 7 days
    and a month 30. Interval 0 begins with the first event, and `interval_count` more follow. The
    first event is not a return; another event at the same time is one. With `unbounded`, interval N
    counts the users who came back in N or later.

    `on` segments users by their first event; `born_where` and `return_where` filter events. `until`
    is the time at which the events end, in UTC without a timezone: a cohort has no intervals that
    begin after it.

    :raises ConfigError: for invalid arguments.
    """
    check_choice("retention_type", retention_type, get_args(RetentionType))
    compounded = retention_type == "compounded"
    if compounded and (born_event is not None or born_where is not None):
        raise ConfigError("compounded retention has no born_event: pass only return_event")
    first = return_event if compounded else event_name(born_event, "born_event")
    if return_event is not None:
        event_name(return_event, "return_event")
    check_choice("unit", unit, UNITS)
    checked_int("interval", interval, 1, MAX_LENGTH // DAYS[unit])
    checked_int("interval_count", interval_count, 1, MAX_INTERVALS)
    checked_int("limit", limit, 1, MAX_SEGMENTS)
    scope = Scope(source)
    length = timedelta(days=interval * DAYS[unit])
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
        period.after((interval_count + 1) * length),
        where=return_where,
        extra=users,
    )
    if on is not None:
        births = scope.segmented(births, on)
    statement = _retained(
        births=_births(
            births, period, unit, interval, compounded=compounded, has_segments=on is not None
        ),
        returns=f"SELECT distinct_id, time\nFROM {block(returns)}",
        later=">" if return_event in (None, first) else ">=",
        cell=f"(epoch_us(time) - epoch_us(birth)) // {length // timedelta(microseconds=1)}",
        intervals=interval_count,
        unbounded=unbounded,
        has_segments=on is not None,
    )

    def read(rows: Sequence[tuple[Any, ...]]) -> RetentionResult:
        days = _cohort_days(period, unit, interval)
        known = [
            _intervals_until(period.instant(day), until, length, interval_count) for day in days
        ]
        found = _cohorts(rows, interval_count, unbounded=unbounded)
        groups = {
            segment: tuple(_cohort(day, *cohorts[n], known[n]) for n, day in enumerate(days))
            for segment, cohorts in found.items()
        }
        sizes = {name: -sum(each.size for each in group) for name, group in groups.items()}
        every = groups.pop(None, None) or tuple(
            _cohort(day, 0, [0] * (interval_count + 1), most)
            for day, most in zip(days, known, strict=True)
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
            interval_count,
            retention_type,
            unbounded,
            None if on is None else segment_name(on),
            {name: groups[name] for name in names[:limit]},
            limit_hit=len(names) > limit,
            **common_fields(period, query),
        )

    names = tuple(name for name in (born_event, return_event) if name is not None)
    query = Query(statement, scope.parameters, read, names)
    return query


def _births(
    events: str,
    period: Period,
    unit: TimeUnit,
    interval: int,
    *,
    compounded: bool,
    has_segments: bool,
) -> str:
    """Return the query of the cohort and the first event (birth) of each user."""
    anchor = begin(period.from_date, unit)
    between = (
        f"date_diff('{unit}', TIMESTAMP '{anchor}', date_trunc('{unit}', {period.local('time')}))"
    )
    cohort = f"{between} // {interval}"
    segment = ", first(segment ORDER BY time, segment) AS segment" if has_segments else ""
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
    return f"SELECT {columns}{', segment' if has_segments else ''}\nFROM {block(first)}"


def _retained(
    *,
    births: str,
    returns: str,
    later: str,
    cell: str,
    intervals: int,
    unbounded: bool,
    has_segments: bool,
) -> str:
    """Return the query of the size of each cohort (cell NULL), and the users in each cell."""
    column = "segment, " if has_segments else ""
    returned = (
        f"SELECT {column}cohort, distinct_id, {cell} AS cell\n"
        f"FROM births JOIN returns USING (distinct_id)\n"
        f"WHERE time {later} birth AND {cell} <= {intervals}"
    )
    # Unbounded counts add up later intervals (see `_accumulate`), so a user must be in one interval
    # only: the last.
    if unbounded:
        returned = (
            f"SELECT {column}cohort, distinct_id, max(cell) AS cell\n"
            f"FROM {block(returned)}\nGROUP BY {column}cohort, distinct_id"
        )
    groups = ["NULL", "segment"] if has_segments else ["NULL"]
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


def _intervals_until(start: datetime, until: datetime | None, length: timedelta, most: int) -> int:
    """Return how many intervals of a cohort begin before the events end, at least one."""
    if until is None:
        return most + 1
    return min(most + 1, max(1, -((start - until) // length)))


def _after(day: date, unit: TimeUnit) -> date:
    if unit == "month":
        return day.replace(day=1) + timedelta(days=_days_of_month(day))
    return day + timedelta(days=DAYS[unit])


def _days_of_month(day: date) -> int:
    return calendar.monthrange(day.year, day.month)[1]


def _cohorts(
    rows: Iterable[tuple[Any, ...]], intervals: int, *, unbounded: bool
) -> dict[str | None, dict[int, tuple[int, list[int]]]]:
    """Return the size and the counts of each cohort, by segment."""
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
    if unbounded:
        for cohorts in found.values():
            for _, counts in cohorts.values():
                _accumulate(counts)
    return found


def _accumulate(counts: list[int]) -> None:
    """Add to each count the counts after it."""
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
    With `on`, each segment counts the users of its own events.

    :raises ConfigError: for invalid arguments.
    """
    if event is not None:
        event_name(event)
    check_choice("unit", unit, UNITS)
    check_choice("addiction_unit", addiction_unit, get_args(HourDayUnit))
    checked_int("limit", limit, 1, MAX_SEGMENTS)
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
    statement = _active(events, period, unit, addiction_unit, has_segments=on is not None)

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
            None if on is None else segment_name(on),
            {name: _frozen(found[name]) for name in names[:limit]},
            limit_hit=len(names) > limit,
            **common_fields(period, query),
        )

    query = Query(statement, scope.parameters, read, () if event is None else (event,))
    return query


def _active(
    events: str, period: Period, unit: TimeUnit, addiction_unit: HourDayUnit, *, has_segments: bool
) -> str:
    """Return the query that counts users by the number of active sub-units in a bucket."""
    column = "segment, " if has_segments else ""
    active = (
        f"SELECT DISTINCT {column}distinct_id, {period.bucket('time', unit)} AS bucket, "
        f"{period.bucket('time', addiction_unit)} AS active\nFROM {block(events)}"
    )
    parts = []
    for group in ["NULL", "segment"] if has_segments else ["NULL"]:
        key = "" if group == "NULL" else "segment, "
        # For all segments together, an hour counts once.
        hours = "count(*)" if group == "segment" or not has_segments else "count(DISTINCT active)"
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
