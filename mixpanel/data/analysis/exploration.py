"""Explore events: the values of properties, and the numbers of events and users."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mixpanel.data.analysis.arguments import (
    MAX_SEGMENTS,
    checked_int,
    common_fields,
    event_name,
    event_names,
)
from mixpanel.data.analysis.layout import block, with_queries
from mixpanel.data.analysis.period import label
from mixpanel.data.analysis.query import Query
from mixpanel.data.analysis.source import Scope, accessor
from mixpanel.data.exceptions import ConfigError
from mixpanel.data.exploration_results import (
    DailyCount,
    DailyCountsResult,
    EngagementBucket,
    EngagementDistributionResult,
    NumericPropertySummaryResult,
    PropertyCoverage,
    PropertyCoverageResult,
    PropertyDistributionResult,
    PropertyValueCount,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mixpanel.data.analysis.period import Period
    from mixpanel.data.analysis.source import EventSource

__all__ = [
    "daily_counts",
    "engagement_distribution",
    "numeric_summary",
    "property_coverage",
    "property_distribution",
]

PERCENTILES = (25, 50, 75, 90, 95, 99)
BUCKETS = (1, 2, 5, 10, 25, 50, 100)
MAX_PROPERTIES = 500


def property_distribution(
    source: EventSource, period: Period, event: str, property_name: str, *, limit: int = 20
) -> Query[PropertyDistributionResult]:
    """Count the values of a property, most frequent first, without missing ones and null.

    The number 1 and the text "1" are two values; `1` and `1.0` are one.

    :raises ConfigError: for invalid arguments.
    """
    event = event_name(event)
    checked_int("limit", limit, 1, MAX_SEGMENTS)
    scope = Scope(source)
    events = scope.events([event], period.start, period.end)
    value = scope.json(accessor(property_name, "property_name"), "property_name")
    text = (
        "CASE WHEN starts_with(value, '\"') THEN value::VARCHAR "
        "ELSE regexp_replace(value::VARCHAR, '\\.0$', '') END"
    )
    statement = with_queries(
        f"SELECT {text} AS value, count(*) AS n, sum(count(*)) OVER () AS total\n"
        "FROM found\nWHERE value IS NOT NULL AND value::VARCHAR != 'null'\nGROUP BY ALL\n"
        f"ORDER BY n DESC, value\nLIMIT {limit}",
        found=f"SELECT {value} AS value\nFROM {block(events)}",
    )

    def read(rows: Sequence[tuple[Any, ...]]) -> PropertyDistributionResult:
        total = int(rows[0][2]) if rows else 0
        return PropertyDistributionResult(
            event,
            property_name,
            str(period.from_date),
            str(period.to_date),
            total,
            tuple(
                PropertyValueCount(json.loads(value), n, _percentage(n, total))
                for value, n, _ in rows
            ),
            limit_hit=sum(n for _, n, _ in rows) < total,
            **common_fields(period, query),
        )

    query = Query(statement, scope.parameters, read, (event,))
    return query


def numeric_summary(
    source: EventSource,
    period: Period,
    event: str,
    property_name: str,
    *,
    percentiles: Sequence[int] | None = None,
) -> Query[NumericPropertySummaryResult]:
    """Summarise the numbers of a property; other values are ignored.

    :raises ConfigError: for invalid arguments.
    """
    event = event_name(event)
    wanted = tuple(PERCENTILES if percentiles is None else percentiles)
    for percentile in wanted:
        checked_int("percentiles", percentile, 0, 100)
    scope = Scope(source)
    events = scope.events([event], period.start, period.end)
    number = scope.number(accessor(property_name, "property_name"), "property_name")
    shares = ", ".join(str(each / 100) for each in wanted)
    quantiles = f"quantile_cont(number, [{shares}])" if wanted else "[]"
    statement = with_queries(
        "SELECT count(number), min(number), max(number), coalesce(sum(number), 0.0), "
        f"avg(number), stddev_pop(number), {quantiles}\nFROM numbers\nWHERE isfinite(number)",
        numbers=f"SELECT {number} AS number\nFROM {block(events)}",
    )

    def read(rows: Sequence[tuple[Any, ...]]) -> NumericPropertySummaryResult:
        n, low, high, total, mean, deviation, found = rows[0]
        return NumericPropertySummaryResult(
            event,
            property_name,
            str(period.from_date),
            str(period.to_date),
            n,
            low,
            high,
            total,
            mean,
            deviation,
            dict(zip(wanted, found or [None] * len(wanted), strict=True)),
            **common_fields(period, query),
        )

    query = Query(statement, scope.parameters, read, (event,))
    return query


def daily_counts(
    source: EventSource, period: Period, events: Sequence[str] | str | None = None
) -> Query[DailyCountsResult]:
    """Count events by day: the given ones, or all; days without events are left out.

    :raises ConfigError: for invalid arguments.
    """
    names = None if events is None else event_names(events)
    scope = Scope(source)
    chosen = scope.events(names, period.start, period.end)
    statement = (
        f"SELECT {period.bucket('time', 'day')} AS day, event, count(*) AS n\n"
        f"FROM {block(chosen)}\nGROUP BY ALL\nORDER BY day, event"
    )

    def read(rows: Sequence[tuple[Any, ...]]) -> DailyCountsResult:
        return DailyCountsResult(
            str(period.from_date),
            str(period.to_date),
            names,
            tuple(DailyCount(label(day), event or "", n) for day, event, n in rows),
            **common_fields(period, query),
        )

    query = Query(statement, scope.parameters, read, names or ())
    return query


def engagement_distribution(
    source: EventSource,
    period: Period,
    events: Sequence[str] | str | None = None,
    *,
    buckets: Sequence[int] | None = None,
) -> Query[EngagementDistributionResult]:
    """Count users by their number of events; `buckets` are lower bounds, beginning with 1.

    :raises ConfigError: for invalid arguments.
    """
    names = None if events is None else event_names(events)
    bounds = BUCKETS if buckets is None else _checked_buckets(buckets)
    scope = Scope(source)
    chosen = scope.events(names, period.start, period.end, extra=["distinct_id IS NOT NULL"])
    statement = with_queries(
        "SELECT (SELECT max(bound) FROM bounds WHERE bound <= n) AS bound, count(*) AS users\n"
        "FROM users\nGROUP BY bound\nORDER BY bound",
        users=f"SELECT distinct_id, count(*) AS n\nFROM {block(chosen)}\nGROUP BY distinct_id",
        bounds=f"SELECT unnest({scope.parameter('bounds', list(bounds))}::BIGINT[]) AS bound",
    )

    def read(rows: Sequence[tuple[Any, ...]]) -> EngagementDistributionResult:
        found = dict(rows)
        total = sum(found.values())
        return EngagementDistributionResult(
            str(period.from_date),
            str(period.to_date),
            names,
            total,
            tuple(
                EngagementBucket(
                    bound,
                    _bucket_label(bound, following),
                    found.get(bound, 0),
                    _percentage(found.get(bound, 0), total),
                )
                for bound, following in zip(bounds, [*bounds[1:], None], strict=True)
            ),
            **common_fields(period, query),
        )

    query = Query(statement, scope.parameters, read, names or ())
    return query


def property_coverage(
    source: EventSource, period: Period, event: str, properties: Sequence[str] | str
) -> Query[PropertyCoverageResult]:
    """Count how many of an event's occurrences have each property; null counts as missing.

    :raises ConfigError: for invalid arguments.
    """
    event = event_name(event)
    given = (properties,) if isinstance(properties, str) else properties
    if not hasattr(given, "__iter__"):
        raise ConfigError(f"properties={properties!r} must be a list of names of properties")
    names = tuple(dict.fromkeys(given))
    if not 1 <= len(names) <= MAX_PROPERTIES:
        raise ConfigError(f"properties must contain 1 to {MAX_PROPERTIES} names, not {len(names)}")
    scope = Scope(source)
    events = scope.events([event], period.start, period.end)
    columns = [scope.json(accessor(name, "properties"), "properties") for name in names]
    counts = ", ".join(f"count(nullif(value{n}, 'null'))" for n in range(len(names)))
    values = ", ".join(f"({column})::VARCHAR AS value{n}" for n, column in enumerate(columns))
    statement = with_queries(
        f"SELECT count(*), [{counts}]\nFROM found",
        found=f"SELECT {values}\nFROM {block(events)}",
    )

    def read(rows: Sequence[tuple[Any, ...]]) -> PropertyCoverageResult:
        total, defined = rows[0]
        return PropertyCoverageResult(
            event,
            str(period.from_date),
            str(period.to_date),
            total,
            tuple(
                PropertyCoverage(name, n, total - n, _percentage(n, total))
                for name, n in zip(names, defined, strict=True)
            ),
            **common_fields(period, query),
        )

    query = Query(statement, scope.parameters, read, (event,))
    return query


def _percentage(part: int, whole: int) -> float:
    return round(100 * part / whole, 2) if whole else 0.0


def _checked_buckets(buckets: Any) -> tuple[int, ...]:
    if isinstance(buckets, str) or not hasattr(buckets, "__iter__"):
        raise ConfigError(f"buckets={buckets!r} must be a list of integers, beginning with 1")
    bounds = tuple(checked_int("buckets", bound, 1, 10**9) for bound in buckets)
    if not bounds or bounds[0] != 1 or list(bounds) != sorted(set(bounds)):
        raise ConfigError(f"buckets={list(buckets)} must begin with 1 and ascend, as [1, 2, 5, 10]")
    return bounds


def _bucket_label(bound: int, following: int | None) -> str:
    if following is None:
        return f"{bound}+"
    return str(bound) if following == bound + 1 else f"{bound}-{following - 1}"
