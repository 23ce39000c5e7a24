"""Turn responses into retention and frequency results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mixpanel.data._queries.response_values import (
    OVERALL,
    as_list,
    as_object,
    common_fields,
    count,
    dates_of,
    group_of,
    is_date,
    is_dated,
    label,
    unexpected,
)
from mixpanel.data.query_results import CohortInfo, FrequencyResult, RetentionResult

if TYPE_CHECKING:
    from collections.abc import Mapping


def retention(
    response: Any, params: Mapping[str, Any], *, segment: str | None, timezone: str | None
) -> RetentionResult:
    """Return classic retention: by date; with segments, either dates or segments come first."""
    data = as_object(response, "the response")
    data = data.get("results", data) if "results" in data and not is_dated(data) else data
    cohorts, segments = _cohort_levels(as_object(data, "results"))
    known = common_fields(response, timezone)
    known["limit_hit"] |= params.get("limit") is not None and len(segments) >= params["limit"]
    return RetentionResult(
        born_event=params.get("born_event"),
        return_event=params.get("event"),
        from_date=params.get("from_date") or (cohorts[0].date if cohorts else ""),
        to_date=params.get("to_date") or (cohorts[-1].date if cohorts else ""),
        unit=params.get("unit") or "day",
        cohorts=cohorts,
        interval=params.get("interval") or 1,
        interval_count=params.get("interval_count")
        or max((len(cohort.counts) for cohort in cohorts), default=1),
        retention_type=params.get("retention_type") or "birth",
        unbounded=bool(params.get("unbounded_retention")),
        segment_property=segment,
        segments=segments,
        **known,
    )


def inline_retention(
    response: Any,
    known: Mapping[str, Any],
    *,
    segment: str | None = None,
    timezone: str | None = None,
) -> RetentionResult:
    """Return the normalised retention of an inline query or a saved report.

    `known` are fields of the result that the response does not contain.
    """
    series = as_object(as_object(response, "the response").get("series"), "series")
    below = as_object(next(iter(series.values()), {}), "the retention")
    cohorts, segments = _cohort_levels(below)
    from_date, to_date = dates_of(response)
    fields: dict[str, Any] = {
        "born_event": None,
        "return_event": None,
        "unit": "day",
        "interval_count": max((len(cohort.counts) for cohort in cohorts), default=1),
        "from_date": from_date or "",
        "to_date": to_date or "",
    }
    return RetentionResult(
        cohorts=cohorts,
        segment_property=segment or group_of(response, segments),
        segments=segments,
        **fields | dict(known),
        **common_fields(response, timezone),
    )


def _cohort_levels(
    data: Mapping[str, Any],
) -> tuple[tuple[CohortInfo, ...], dict[str, tuple[CohortInfo, ...]]]:
    if is_dated(data):
        dates = sorted(key for key in data if not key.startswith("$"))
        if all("first" in as_object(data[date], date) for date in dates):
            return tuple(_cohort(date, data[date]) for date in dates), {}
        by_segment: dict[str, dict[str, Any]] = {}
        for date in dates:
            for segment, cohort in data[date].items():
                by_segment.setdefault(segment, {})[date] = cohort
        data = by_segment
    segments = {
        key: _cohort_levels(as_object(inner, key))[0]
        for key, inner in data.items()
        if not key.startswith("$") and isinstance(inner, dict)
    }
    overall = data.get(OVERALL)
    return (_cohort_levels(overall)[0] if isinstance(overall, dict) else ()), segments


def _cohort(date: str, cohort: Mapping[str, Any]) -> CohortInfo:
    size = count(cohort.get("first"), "a cohort's size")
    counts = [count(each) for each in as_list(cohort.get("counts", []), "counts")]
    return CohortInfo(
        date=label(date),
        size=size,
        retention=tuple(each / size if size else 0.0 for each in counts),
        counts=tuple(counts),
    )


def frequency(
    response: Any, params: Mapping[str, Any], *, segment: str | None, timezone: str | None
) -> FrequencyResult:
    """Return frequency; the API sends it with and without an enclosing `data`."""
    data = as_object(response, "the response")
    inner = data.get("data", data.get("results"))
    data = inner if isinstance(inner, dict) else data
    dated = {date: values for date, values in sorted(data.items()) if is_date(date)}
    segments: dict[str, dict[str, tuple[int, ...]]] = {}
    overall: dict[str, tuple[int, ...]] = {}
    if not dated and any(isinstance(values, dict) for values in data.values()):
        dated = {}
        for key, dates in data.items():
            for date, values in sorted(as_object(dates, key).items()):
                dated.setdefault(date, {})[key] = values
    for date, values in sorted(dated.items()):
        if isinstance(values, list):
            overall[date] = tuple(map(count, values))
            continue
        for key, each in as_object(values, date).items():
            into = overall if key == OVERALL else segments.setdefault(key, {})
            into[date] = tuple(map(count, as_list(each, "a frequency")))
    if not dated and data.keys() - {"status", "computed_at", "meta"}:
        raise unexpected("frequency has no dates")
    return FrequencyResult(
        event=params["event"],
        from_date=params["from_date"],
        to_date=params["to_date"],
        unit=params["unit"],
        addiction_unit=params["addiction_unit"],
        data=overall,
        segment_property=segment,
        segments=segments,
        **common_fields(response, timezone),
    )
