"""How often events happened, by date and segment."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, get_args

from mixpanel.data.analysis.arguments import (
    MAX_SEGMENTS,
    check_choice,
    checked_int,
    common_fields,
    event_name,
    event_names,
    segment_name,
)
from mixpanel.data.analysis.layout import block, conditions, with_queries
from mixpanel.data.analysis.period import label
from mixpanel.data.analysis.query import Query
from mixpanel.data.analysis.source import Scope, accessor, named
from mixpanel.data.exceptions import ConfigError
from mixpanel.data.query_results import (
    CountType,
    EventCountsResult,
    PropertyCountsResult,
    SegmentationResult,
    SegmentationUnit,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mixpanel.data.analysis.period import Bucket, Period
    from mixpanel.data.analysis.source import Condition, EventSource
    from mixpanel.data.query_results import Series

__all__ = ["event_counts", "property_counts", "segmentation"]

UNITS = get_args(SegmentationUnit)
TYPES = get_args(CountType)
SEGMENTS = 1_000
MAX_COUNTS = 10_000_000  # of a result, about 1 GB
# Average is that of events per user.
MEASURES = {
    "general": "count(*)",
    "unique": "count(DISTINCT distinct_id)",
    "average": "coalesce(count(distinct_id) / nullif(count(DISTINCT distinct_id), 0), 0.0)",
}


def segmentation(
    source: EventSource,
    period: Period,
    event: str,
    *,
    on: Condition | None = None,
    unit: SegmentationUnit = "day",
    type: CountType = "general",
    where: Condition | None = None,
    limit: int = SEGMENTS,
) -> Query[SegmentationResult]:
    """Count an event by date and, with `on`, by the values of a property or expression.

    Each bucket of the period is there, with 0 where nothing happened. Of the segments, the `limit`
    with the most events are returned, most frequent first. Unique users are counted within a
    bucket, and an event without a distinct_id counts for none.

    :raises ConfigError: for invalid arguments.
    """
    event = event_name(event)
    check_choice("unit", unit, UNITS)
    check_choice("type", type, TYPES)
    checked_int("limit", limit, 1, MAX_SEGMENTS)
    scope = Scope(source)
    events = scope.events([event], period.start, period.end, where=where)
    if on is not None:
        events = scope.segmented(events, on)
    segment = None if on is None else "segment"
    statement = _counted(events, segment, period, unit, type, limit)

    def read(rows: Sequence[tuple[Any, ...]]) -> SegmentationResult:
        names = [event] if on is None else None
        series, limit_hit = _series(rows, period, unit, limit, names)
        total = None if type != "general" or limit_hit else _total(series)
        return SegmentationResult(
            event,
            str(period.from_date),
            str(period.to_date),
            unit,
            None if on is None else segment_name(on),
            total,
            series,
            type,
            limit_hit=limit_hit,
            **common_fields(period, query),
        )

    query = Query(statement, scope.parameters, read, (event,))
    return query


def event_counts(
    source: EventSource,
    period: Period,
    events: Sequence[str] | str,
    *,
    unit: SegmentationUnit = "day",
    type: CountType = "general",
) -> Query[EventCountsResult]:
    """Count several events by date; each event and bucket is there, with 0 where nothing happened.

    :raises ConfigError: for invalid arguments.
    """
    names = event_names(events)
    check_choice("unit", unit, UNITS)
    check_choice("type", type, TYPES)
    scope = Scope(source)
    chosen = scope.events(names, period.start, period.end)
    statement = _counted(chosen, "event", period, unit, type, len(names))

    def read(rows: Sequence[tuple[Any, ...]]) -> EventCountsResult:
        series, _ = _series(rows, period, unit, len(names), names)
        return EventCountsResult(
            names,
            str(period.from_date),
            str(period.to_date),
            unit,
            type,
            series,
            **common_fields(period, query),
        )

    query = Query(statement, scope.parameters, read, names)
    return query


def property_counts(
    source: EventSource,
    period: Period,
    event: str,
    property_name: str,
    *,
    values: Sequence[str] | None = None,
    unit: SegmentationUnit = "day",
    type: CountType = "general",
    limit: int = 255,
) -> Query[PropertyCountsResult]:
    """Count an event by the values of a property and date.

    With `values`, only those are counted, in their order; numbers are given as text. Else the
    `limit` most frequent ones are returned, most frequent first.

    :raises ConfigError: for invalid arguments.
    """
    event = event_name(event)
    check_choice("unit", unit, UNITS)
    check_choice("type", type, TYPES)
    checked_int("limit", limit, 1, MAX_SEGMENTS)
    wanted = None if values is None else _values(values)
    scope = Scope(source)
    events = scope.events([event], period.start, period.end)
    events = scope.segmented(events, accessor(property_name, "property_name"), "property_name")
    if wanted is not None:
        parameter = scope.parameter("values", list(wanted))
        chosen = conditions(f"segment IN (SELECT unnest({parameter}::VARCHAR[]))")
        events, limit = f"SELECT *\nFROM {block(events)}{chosen}", len(wanted)
    statement = _counted(events, "segment", period, unit, type, limit)

    def read(rows: Sequence[tuple[Any, ...]]) -> PropertyCountsResult:
        series, limit_hit = _series(rows, period, unit, limit, wanted)
        return PropertyCountsResult(
            event,
            property_name,
            str(period.from_date),
            str(period.to_date),
            unit,
            type,
            series,
            limit_hit=limit_hit,
            **common_fields(period, query),
        )

    query = Query(statement, scope.parameters, read, (event,))
    return query


def _counted(
    events: str, segment: str | None, period: Period, unit: Bucket, measure: str, limit: int
) -> str:
    bucket = period.bucket("time", unit)
    if segment is None:
        return with_queries(
            f"SELECT NULL, {bucket} AS bucket, {MEASURES[measure]} AS n, 1\n"
            "FROM events\nGROUP BY bucket\nORDER BY bucket",
            events=events,
        )
    return with_queries(
        "SELECT segment, bucket, n, rank\nFROM counted JOIN segments USING (segment)\n"
        f"WHERE rank <= {limit + 1}\nORDER BY rank, bucket",
        events=events,
        counted=(
            f"SELECT {named(segment, 'segment')}, {bucket} AS bucket, {MEASURES[measure]} AS n, "
            "count(*) AS events\nFROM events\nGROUP BY ALL"
        ),
        segments=(
            "SELECT segment, row_number() OVER (ORDER BY sum(events) DESC, segment) AS rank\n"
            "FROM counted\nGROUP BY segment"
        ),
    )


def _series(
    rows: Sequence[tuple[Any, ...]],
    period: Period,
    unit: Bucket,
    limit: int,
    names: Sequence[str] | None,
) -> tuple[Series, bool]:
    """Return the counts of each segment and bucket, and True if there are more segments."""
    clock = unit in ("minute", "hour")
    found: dict[str, dict[str, float]] = defaultdict(dict)
    if names is not None:
        found |= {name: {} for name in names}
    limit_hit = False
    for segment, bucket, n, rank in rows:
        if rank > limit:
            limit_hit = True
            continue
        name = names[0] if segment is None and names else str(segment)
        found[name][label(bucket, clock=clock)] = n
    nothing = dict.fromkeys(period.buckets(unit), 0)
    if len(nothing) * len(found) > MAX_COUNTS:
        raise ConfigError(
            f"{len(found):,} segments of {len(nothing):,} {unit}s are more than {MAX_COUNTS:,} "
            "counts: lower the limit, or use a longer unit"
        )
    return {name: nothing | dates for name, dates in found.items()}, limit_hit


def _total(series: Series) -> int:
    return int(sum(n for dates in series.values() for n in dates.values()))


def _values(values: Sequence[str]) -> tuple[str, ...]:
    if isinstance(values, str) or not all(isinstance(value, str) for value in values):
        raise ConfigError(
            f"values={values!r} must be a list of text; write numbers as text, too: '1'"
        )
    found = tuple(dict.fromkeys(values))
    if not 1 <= len(found) <= MAX_SEGMENTS:
        raise ConfigError(f"values must contain 1 to {MAX_SEGMENTS:,} values, not {len(found)}")
    return found
