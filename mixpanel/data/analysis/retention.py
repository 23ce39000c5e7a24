"""Retention and frequency: how many users came back, and how often they are active."""

from __future__ import annotations

import calendar
from collections import defaultdict
from datetime import date, datetime, timedelta
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

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

RetentionMode = Literal["none", "carry_back", "carry_forward", "consecutive_forward"]

UNITS = get_args(TimeUnit)
LONGEST_MONTH = timedelta(days=31)
# The one interval of a user in which a return counts; those before or after it follow.
CARRIED = {
    "carry_back": "max(cell)",
    "carry_forward": "min(cell)",
    "consecutive_forward": (
        "len(list_filter(list_sort(list(DISTINCT cell)), lambda each, place: each = place - 1)) - 1"
    ),
}
DAYS = {"day": 1, "week": 7, "month": 30}
MAX_LENGTH = 90  # days of an interval; Mixpanel's own limit
MAX_INTERVALS = 730
HOURS = 24
EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - UTC, as all here
MICROSECOND = timedelta(microseconds=1)


class Intervals(NamedTuple):
    """The intervals after a birth: their length in microseconds, and the number of the last.

    With `strictly`, an event at the time of the birth is the birth itself, and no return. `cell` is
    SQL of the interval of a return, for users with one birth.
    """

    ticks: int
    most: int
    strictly: bool
    mode: RetentionMode
    cell: str


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

    `mode` is how a return counts elsewhere: "carry_back" in all intervals before it, which is what
    `unbounded` means, "carry_forward" in all after it, and with "consecutive_forward" a user counts
    in an interval only after returns in all before it. `buckets` are the ends of intervals in
    `unit`s, as (1, 3, 7), instead of equal ones. With the `alignment` "calendar" an interval is one
    of the calendar, and the first that of the first event.

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
    mode = mode or ("carry_back" if unbounded else "none")
    check_choice("mode", mode, get_args(RetentionMode))
    check_choice("alignment", alignment, ["birth", "calendar"])
    if buckets and (list(buckets) != sorted({*buckets}) or buckets[0] < 1):
        raise ConfigError(f"buckets={buckets!r} must be ends of intervals, rising from 1 on")
    plain = not buckets and alignment == "birth" and mode in ("none", "carry_back")
    if compounded and not plain:
        raise ConfigError("compounded retention has equal intervals: leave out mode and buckets")
    scope = Scope(source)
    length = timedelta(days=interval * DAYS[unit])
    starts = [n * length for n in range(interval_count + 1)]
    if buckets:
        starts = [timedelta(days=DAYS[unit]) * each for each in (0, *buckets[:-1])]
    longest = timedelta(days=DAYS[unit]) * buckets[-1] if buckets else starts[-1] + length
    if alignment == "calendar":
        longest += LONGEST_MONTH
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
        period.after(longest),
        where=return_where,
        extra=users,
    )
    if on is not None:
        births = scope.segmented(births, on)
    has_segments = on is not None
    births = _births(
        births, period, unit, interval, compounded=compounded, has_segments=has_segments
    )
    returns = f"SELECT distinct_id, time\nFROM {block(returns)}"
    intervals = Intervals(
        length // MICROSECOND,
        len(starts) - 1,
        return_event in (None, first),
        mode,
        _cell(period, unit, length, interval, buckets, alignment),
    )
    cells = (
        _cells_by_slots(returns, intervals, period.start, has_segments=has_segments)
        if compounded
        else _cells(returns, intervals, has_segments=has_segments)
    )
    statement = _retained(births, cells, has_segments=has_segments)

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
            None if on is None else segment_name(on),
            {name: groups[name] for name in names[:limit]},
            limit_hit=len(names) > limit,
            **common_fields(period, query),
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
    if not buckets and alignment == "birth":
        return f"(epoch_us(time) - epoch_us(birth)) // {length // MICROSECOND}"
    if alignment == "calendar":
        at = [f"date_trunc('{unit}', {period.local(column)})" for column in ("birth", "time")]
        passed = f"date_diff('{unit}', {at[0]}, {at[1]})"
    else:
        passed = f"(epoch_us(time) - epoch_us(birth)) // {length // interval // MICROSECOND}"
    if not buckets:
        return f"{passed} // {interval}"
    whens = " ".join(f"WHEN {passed} < {end} THEN {n}" for n, end in enumerate(buckets))
    return f"CASE {whens} END"


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


def _retained(births: str, cells: dict[str, str], *, has_segments: bool) -> str:
    """Return the query of the size of each cohort (cell NULL), and of each of its cells.

    The last of the queries `cells` returns the users of each cell, by segment where `has_segments`.
    """
    users = list(cells)[-1]
    parts = []
    for name in ["NULL", "segment"] if has_segments else ["NULL"]:
        group = "cohort" if name == "NULL" else "segment, cohort"
        head = f"SELECT {name}::VARCHAR AS segment, cohort"
        parts += [
            f"{head}, NULL AS cell, count(*) AS users\nFROM births\nGROUP BY {group}",
            f"{head}, cell, sum(users)::BIGINT AS users\nFROM {users}\nGROUP BY {group}, cell",
        ]
    last = "\nUNION ALL\n".join(parts) + "\nORDER BY ALL"
    return with_queries(last, births=births, **cells)


def _cells(returns: str, intervals: Intervals, *, has_segments: bool) -> dict[str, str]:
    """Return the queries of the cells of users who are in one cohort each."""
    columns = "segment, cohort" if has_segments else "cohort"
    cell = intervals.cell
    returned = (
        f"SELECT {columns}, distinct_id, {cell} AS cell\n"
        "FROM births JOIN returns USING (distinct_id)\n"
        f"WHERE time {'>' if intervals.strictly else '>='} birth AND {cell} <= {intervals.most}"
    )
    if intervals.mode != "none":
        returned = (
            f"SELECT {columns}, distinct_id, {CARRIED[intervals.mode]} AS cell\n"
            f"FROM {block(returned)}\nGROUP BY {columns}, distinct_id\nHAVING cell >= 0"
        )
    cells = (
        f"SELECT {columns}, cell, count(DISTINCT distinct_id) AS users\n"
        f"FROM returned\nGROUP BY {columns}, cell"
    )
    return {"returns": returns, "returned": returned, "cells": cells}


def _cells_by_slots(
    returns: str, intervals: Intervals, start: datetime, *, has_segments: bool
) -> dict[str, str]:
    """Return the queries of the cells of users who may be in every cohort.

    To join each event of a user with each cohort would be slow. So time since `start` is cut into
    slots as long as an interval, and of a user's events in a slot only the earliest and the latest
    offset count: the interval that began `n` slots before, at the offset `birth_offset`, holds an
    event of this slot if `latest >= birth_offset`, and the interval before it if
    `earliest < birth_offset`.
    """
    columns = "segment, cohort" if has_segments else "cohort"
    offset = f"epoch_us({{}}) - {(start - EPOCH) // MICROSECOND}"
    begun, happened = offset.format("birth"), offset.format("time")
    ticks, most = intervals.ticks, intervals.most
    placed = (
        f"SELECT {columns}, distinct_id,\n"
        f"    ({begun}) // {ticks} AS slot, ({begun}) % {ticks} AS birth_offset\nFROM births"
    )
    slots = (
        f"SELECT distinct_id, ({happened}) // {ticks} AS slot,\n"
        f"    min(({happened}) % {ticks}) AS earliest, max(({happened}) % {ticks}) AS latest\n"
        "FROM returns\nGROUP BY distinct_id, slot"
    )
    neighbours = (
        "SELECT *, CASE WHEN lag(slot) OVER past = slot - 1 THEN lag(latest) OVER past END\n"
        "    AS latest_before\nFROM slots\n"
        "WINDOW past AS (PARTITION BY distinct_id ORDER BY slot)"
    )
    here = _reaches("latest", 0, strictly=intervals.strictly)
    counted = _reaches("latest_before", 1, strictly=intervals.strictly)
    pairs = (
        f"SELECT {columns}, distinct_id, neighbours.slot - placed.slot AS n,\n"
        f"    {here} AS here, n > 0 AND earliest < birth_offset AS before,\n"
        f"    coalesce({counted}, FALSE) AS counted\n"
        "FROM placed JOIN neighbours USING (distinct_id)\n"
        f"WHERE neighbours.slot BETWEEN placed.slot AND placed.slot + {most + 1}"
    )
    if intervals.mode != "none":
        last = f"max(CASE WHEN here AND n <= {most} THEN n WHEN before THEN n - 1 END)"
        each = f"SELECT {columns}, {last} AS cell\nFROM pairs\nGROUP BY {columns}, distinct_id"
        cells = (
            f"SELECT {columns}, cell, count(*) AS users\nFROM {block(each)}\n"
            f"WHERE cell IS NOT NULL\nGROUP BY {columns}, cell"
        )
    else:
        # One pass over the pairs: DuckDB stores the rows of a query that is named twice.
        slot_counts = (
            f"SELECT {columns}, n, count_if(here) AS these,\n"
            "    count_if(before AND NOT counted) AS those\n"
            f"FROM pairs\nGROUP BY {columns}, n"
        )
        cells = (
            f"SELECT {columns}, n + shift AS cell, if(shift = 0, these, those) AS users\n"
            f"FROM {block(slot_counts)}, (VALUES (0), (-1)) AS shifts (shift)\n"
            f"WHERE n + shift BETWEEN 0 AND {most}"
        )
    return {
        "returns": returns, "placed": placed, "slots": slots, "neighbours": neighbours,
        "pairs": pairs, "cells": cells,
    }  # fmt: skip


def _reaches(latest: str, first: int, *, strictly: bool) -> str:
    """Return SQL of whether the latest event of a slot is in the interval that began before.

    In the pairs whose `n` is `first`, that is the interval of the birth itself.
    """
    return (
        f"({latest} > birth_offset OR {latest} = birth_offset AND n > {first})"
        if strictly
        else (f"{latest} >= birth_offset")
    )


def _cohort_days(period: Period, unit: TimeUnit, interval: int) -> list[date]:
    """Return the first day of each cohort."""
    day, days = begin(period.from_date, unit), []
    while day <= period.to_date:
        days.append(day)
        for _ in range(interval):
            day = _after(day, unit)
    return days


def _intervals_until(start: datetime, until: datetime | None, starts: Sequence[timedelta]) -> int:
    """Return how many intervals of a cohort begin before the events end, at least one."""
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
    for cohorts in found.values():
        for _, counts in cohorts.values():
            if mode == "carry_forward":
                counts[:] = accumulate(counts)
            elif mode != "none":
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
