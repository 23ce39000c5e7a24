"""Turn responses into funnel results: classic ones by date, and normalised ones."""

from __future__ import annotations

import re
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
    label,
    share,
)
from mixpanel.data.query_results import FunnelResult, FunnelStep

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


NUMBERED = re.compile(r"(\d+)\. ?(.*)", re.DOTALL)


def funnel(
    response: Any,
    params: Mapping[str, Any],
    *,
    name: str,
    segment: str | None,
    timezone: str | None,
) -> FunnelResult:
    """Return a classic funnel: its steps by date, or by date and segment."""
    data = as_object(as_object(response, "the response").get("data"), "data")
    by_date: dict[str, tuple[FunnelStep, ...]] = {}
    by_segment: dict[str, list[tuple[FunnelStep, ...]]] = {}
    for date in sorted(data):
        of_date = as_object(data[date], f"data of {date}")
        if "steps" in of_date:
            by_date[date] = _steps(of_date["steps"])
            continue
        each = {key: _steps(steps) for key, steps in of_date.items() if isinstance(steps, list)}
        if (overall := each.pop(OVERALL, None)) is not None:
            by_date[date] = overall
        for key, steps in each.items():
            by_segment.setdefault(key, []).append(steps)
    known = common_fields(response, timezone)
    known["limit_hit"] |= params["limit"] is not None and len(by_segment) >= params["limit"]
    steps = _joined(by_date.values())
    length = params.get("length")
    return FunnelResult(
        funnel_id=params["funnel_id"],
        funnel_name=name,
        from_date=params["from_date"],
        to_date=params["to_date"],
        conversion_rate=steps[-1].overall_conversion_rate if steps else 0.0,
        steps=steps,
        segment_property=segment,
        segments={key: _joined(each) for key, each in by_segment.items()},
        dates=by_date,
        window=length,
        window_unit=None if length is None else params["length_unit"],
        **known,
    )


def _steps(steps: Any) -> tuple[FunnelStep, ...]:
    rows = [as_object(step, "a step") for step in as_list(steps, "the steps")]
    return rates([
        FunnelStep(
            event=str(row.get("event") or row.get("goal") or ""),
            count=count(row.get("count"), "a step's count"),
            conversion_rate=0.0,
            avg_time=share(row.get("avg_time")),
            avg_time_from_start=share(row.get("avg_time_from_start")),
            label=row.get("step_label"),
        )
        for row in rows
    ])  # fmt: skip


def rates(steps: Sequence[FunnelStep]) -> tuple[FunnelStep, ...]:
    """Compute conversion rates from counts; that of the first step is 1.0 if its count is not 0."""
    found: list[FunnelStep] = []
    for step in steps:
        before, first = (found[-1].count, found[0].count) if found else (step.count, step.count)
        found.append(
            FunnelStep(
                event=step.event,
                count=step.count,
                conversion_rate=step.count / before if before else float(not found),
                overall_conversion_rate=step.count / first if first else float(not found),
                avg_time=step.avg_time if found else None,
                avg_time_from_start=step.avg_time_from_start if found else None,
                label=step.label,
            )
        )
    return tuple(found)


def _joined(several: Iterable[tuple[FunnelStep, ...]]) -> tuple[FunnelStep, ...]:
    """Add up the steps of several periods; times are averages weighted by the users of a step."""
    each = list(several)
    if len(each) <= 1:
        return each[0] if each else ()
    steps = []
    for at in range(max(map(len, each))):
        same = [one[at] for one in each if len(one) > at]
        steps.append(
            FunnelStep(
                event=same[0].event,
                count=sum(one.count for one in same),
                conversion_rate=0.0,
                avg_time=_average([(one.avg_time, one.count) for one in same]),
                avg_time_from_start=_average(
                    [(one.avg_time_from_start, one.count) for one in same]
                ),
                label=same[0].label,
            )
        )
    return rates(steps)


def _average(pairs: Sequence[tuple[float | None, int]]) -> float | None:
    known = [(value, weight) for value, weight in pairs if value is not None and weight]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else None


def inline_funnel(
    response: Any, *, segment: str | None = None, window: tuple[int, str] | None = None,
    timezone: str | None = None, name: str = "", funnel_id: int | None = None,
) -> FunnelResult:  # fmt: skip
    """Return the normalised funnel of an inline query or a saved report."""
    series = as_object(as_object(response, "the response").get("series"), "series")
    title, below = next(iter(series.items()), ("", {}))
    by_date: dict[str, tuple[FunnelStep, ...]] = {}
    overall, segments = _funnel_levels(as_object(below, "the funnel"), by_date)
    from_date, to_date = dates_of(response)
    return FunnelResult(
        funnel_id=funnel_id,
        funnel_name=name or title,
        from_date=from_date or "",
        to_date=to_date or "",
        conversion_rate=overall[-1].overall_conversion_rate if overall else 0.0,
        steps=overall,
        segment_property=segment or group_of(response, segments),
        segments=segments,
        dates=by_date,
        window=window[0] if window else None,
        window_unit=window[1] if window else None,
        **common_fields(response, timezone),
    )


def _funnel_levels(
    below: Mapping[str, Any], by_date: dict[str, tuple[FunnelStep, ...]]
) -> tuple[tuple[FunnelStep, ...], dict[str, tuple[FunnelStep, ...]]]:
    """Return the steps of all users and of each segment; add those of each date to `by_date`."""
    if _has_figures(below):
        return _numbered(below), {}
    if below and all(is_date(key) for key in below if not key.startswith("$")):
        for date in sorted(key for key in below if not key.startswith("$")):
            by_date[label(date)] = _funnel_levels(as_object(below[date], date), {})[0]
        overall = below.get(OVERALL)
        if isinstance(overall, dict) and _has_figures(overall):
            return _numbered(overall), {}
        return _joined(by_date.values()), {}
    segments = {
        key: _funnel_levels(as_object(inner, key), {})[0]
        for key, inner in below.items()
        if key != OVERALL
    }
    if OVERALL in below:
        return _funnel_levels(as_object(below[OVERALL], OVERALL), by_date)[0], segments
    return _joined(segments.values()), segments


def _has_figures(below: Mapping[str, Any]) -> bool:
    return isinstance(below.get("count"), dict) or isinstance(below.get("steps"), list)


def _numbered(figures: Mapping[str, Any]) -> tuple[FunnelStep, ...]:
    """Return steps from `{"1. Opened App": {"all": 200}, ...}`, in order of their numbers."""
    if isinstance(figures.get("steps"), list):
        return _steps(figures["steps"])
    counts = as_object(figures["count"], "count")
    times = figures.get("avg_time") or {}
    from_start = figures.get("avg_time_from_start") or {}
    return rates([
        FunnelStep(
            event=_step_name(key),
            count=count(_leaf(counts[key]), "a step's count"),
            conversion_rate=0.0,
            avg_time=share(_leaf(times.get(key))),
            avg_time_from_start=share(_leaf(from_start.get(key))),
        )
        for key in sorted(counts, key=_step_number)
        if not key.startswith("$")
    ])  # fmt: skip


def _leaf(value: Any) -> Any:
    while isinstance(value, dict):
        value = value.get("all", next(iter(value.values()), None))
    return value


def _step_number(key: str) -> tuple[int, str]:
    found = NUMBERED.fullmatch(key)
    return (int(found[1]), "") if found else (10**9, key)


def _step_name(key: str) -> str:
    found = NUMBERED.fullmatch(key)
    return found[2] if found else key
