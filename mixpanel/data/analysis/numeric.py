"""Sums, averages and numeric ranges over the occurrences of an event."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from mixpanel.data.analysis.arguments import check_choice, common_fields, event_name
from mixpanel.data.analysis.layout import conditions, with_queries
from mixpanel.data.analysis.period import label
from mixpanel.data.analysis.query import Query
from mixpanel.data.analysis.segmentation import MEASURES, TYPES
from mixpanel.data.analysis.source import Scope, expression
from mixpanel.data.query_results import (
    CountType,
    HourDayUnit,
    NumericAverageResult,
    NumericBucketResult,
    NumericSumResult,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mixpanel.data.analysis.period import Period
    from mixpanel.data.analysis.source import Condition, EventSource

__all__ = ["segmentation_average", "segmentation_numeric", "segmentation_sum"]

UNITS = get_args(HourDayUnit)
RANGES = 10  # approximate number of ranges over the span of the values

R = TypeVar("R", NumericSumResult, NumericAverageResult)


def segmentation_sum(
    source: EventSource,
    period: Period,
    event: str,
    *,
    on: Condition,
    unit: HourDayUnit = "day",
    where: Condition | None = None,
) -> Query[NumericSumResult]:
    """Sum a numeric property of an event, by date; other values count as 0, as in Mixpanel.

    :raises ConfigError: for invalid arguments.
    """
    return _by_date(NumericSumResult, "sum", source, period, event, on, unit, where)


def segmentation_average(
    source: EventSource,
    period: Period,
    event: str,
    *,
    on: Condition,
    unit: HourDayUnit = "day",
    where: Condition | None = None,
) -> Query[NumericAverageResult]:
    """Average a numeric property of an event, by date; other values count as 0, as in Mixpanel.

    To exclude such events, filter them: `where='defined(properties["amount"])'`.

    :raises ConfigError: for invalid arguments.
    """
    return _by_date(NumericAverageResult, "avg", source, period, event, on, unit, where)


def _by_date(
    result: type[R],
    function: str,
    source: EventSource,
    period: Period,
    event: str,
    on: Condition,
    unit: HourDayUnit,
    where: Condition | None,
) -> Query[R]:
    event = event_name(event)
    check_choice("unit", unit, UNITS)
    scope = Scope(source)
    events = scope.events([event], period.start, period.end, where=where)
    number = scope.number(on)
    statement = with_queries(
        f"SELECT {period.bucket('time', unit)} AS bucket, {function}(coalesce({number}, 0.0))\n"
        "FROM events\nGROUP BY bucket\nORDER BY bucket",
        events=events,
    )

    def read(rows: Sequence[tuple[Any, ...]]) -> R:
        found = {label(bucket, clock=unit == "hour"): value for bucket, value in rows}
        results = dict.fromkeys(period.buckets(unit), 0.0) | found
        return result(
            event,
            str(period.from_date),
            str(period.to_date),
            expression(on, "on"),
            unit,
            results,
            **common_fields(period, query),
        )

    query: Query[R] = Query(statement, scope.parameters, read, (event,))
    return query


def segmentation_numeric(
    source: EventSource,
    period: Period,
    event: str,
    *,
    on: Condition,
    unit: HourDayUnit = "day",
    type: CountType = "general",
    where: Condition | None = None,
) -> Query[NumericBucketResult]:
    """Count an event by numeric range and date.

    There are about ten ranges of equal width: 1, 2 or 5 times a power of ten. A range includes its
    lower bound, but not its upper one. Values that are not numbers are in none.

    :raises ConfigError: for invalid arguments.
    """
    event = event_name(event)
    check_choice("unit", unit, UNITS)
    check_choice("type", type, TYPES)
    scope = Scope(source)
    events = scope.events([event], period.start, period.end, where=where)
    number = scope.number(on)
    power = f"pow(10.0, floor(log10(nullif(span, 0) / {RANGES})))"
    chosen = conditions("isfinite(number)")
    statement = with_queries(
        "SELECT floor(number / width)::HUGEINT AS range, width, bucket, "
        f"{MEASURES[type]} AS n\nFROM numbers, widths\nGROUP BY ALL\nORDER BY ALL",
        events=events,
        numbers=(
            f"SELECT distinct_id, {period.bucket('time', unit)} AS bucket, number\n"
            f"FROM (SELECT *, {number} AS number FROM events){chosen}"
        ),
        spans=f"SELECT max(number) - min(number) AS span, {power} AS power\nFROM numbers",
        widths=(
            "SELECT CASE WHEN span = 0 THEN 1.0 WHEN NOT isfinite(span) THEN 1e308\n"
            + "".join(
                f"    WHEN power * {n} >= span / {RANGES} THEN power * {n}\n" for n in (1, 2, 5)
            )
            + "    ELSE power * 10 END AS width\nFROM spans"
        ),
    )

    def read(rows: Sequence[tuple[Any, ...]]) -> NumericBucketResult:
        found: dict[str, dict[str, float]] = defaultdict(dict)
        for number, width, bucket, n in rows:
            found[_range(int(number), width)][label(bucket, clock=unit == "hour")] = n
        nothing = dict.fromkeys(period.buckets(unit), 0)
        return NumericBucketResult(
            event,
            str(period.from_date),
            str(period.to_date),
            expression(on, "on"),
            unit,
            {name: nothing | dates for name, dates in found.items()},
            type,
            **common_fields(period, query),
        )

    query = Query(statement, scope.parameters, read, (event,))
    return query


def _range(number: int, width: float) -> str:
    """Return the name of a range, as `2,000 - 2,100`."""
    return f"{_bound(number, width)} - {_bound(number + 1, width)}"


def _bound(number: int, width: float) -> str:
    return f"{number * round(width):,}" if width >= 1 else f"{number * width:,.12g}"
