"""Figures over profiles: `count()`, `extremes(...)`, `percentile(...)`, `numeric_summary(...)`."""

import re
import statistics
from collections.abc import Callable, Mapping
from typing import Any

from mixpanel.emulator._rules.decode import RefusedRequest
from mixpanel.emulator._storage.profile_query import Profiles, read_field

ACTION = re.compile(
    r"""(?P<name>extremes|percentile|numeric_summary)\(\s*
    properties\[\s*(?P<quote>["'])(?P<property>.+?)(?P=quote)\s*\]\s*
    (?:,\s*(?P<share>\d+(?:\.\d+)?)\s*)?\)""",
    re.VERBOSE,
)
COUNT = re.compile(r"count\(\s*\)")


def profile_statistics(profiles: Profiles, form: Mapping[str, Any], *, now: float) -> Any:
    """Return the figure that a form's `action` names, over the profiles that it selects.

    With `segment_by_cohorts`, one for each of these cohorts, by its id.

    :raises RefusedRequest: 400: the action or a condition is invalid.
    """
    figure = _figure(str(form.get("action") or "count()"))
    selected = {name: value for name, value in form.items() if name != "selector"}
    selected |= {"where": form["selector"]} if form.get("selector") else {}
    if "segment_by_cohorts" not in form:
        return figure(profiles.selected(selected, now=now))
    cohorts = read_field(form["segment_by_cohorts"], "segment_by_cohorts")
    if not isinstance(cohorts, dict):
        raise RefusedRequest(400, 'segment_by_cohorts must be an object, as {"5": true}')
    return {
        str(each): figure(
            profiles.selected({**selected, "filter_by_cohort": {"id": each}}, now=now)
        )
        for each, wanted in cohorts.items()
        if wanted
    }


def _figure(action: str) -> Callable[[list[dict[str, Any]]], Any]:
    if COUNT.fullmatch(action.strip()):
        return len
    found = ACTION.fullmatch(action.strip())
    if found is None or (found["name"] == "percentile") != (found["share"] is not None):
        message = (
            'action must be count(), extremes(properties["x"]), percentile(properties["x"], 95)'
            f' or numeric_summary(properties["x"]), not {action!r}'
        )
        raise RefusedRequest(400, message)

    def figure(profiles: list[dict[str, Any]]) -> Any:
        values = sorted(
            each[found["property"]]
            for each in profiles
            if isinstance(each.get(found["property"]), int | float)
            and not isinstance(each[found["property"]], bool)
        )
        if found["name"] == "extremes":
            return {"min": min(values, default=None), "max": max(values, default=None)}
        if found["name"] == "percentile":
            share = float(found["share"])
            return {"percentile": share, "result": _percentile(values, share)}
        return {
            "count": len(values),
            "mean": statistics.fmean(values) if values else None,
            "var": statistics.pvariance(values) if values else None,
            "sum_of_squares": sum(each * each for each in values),
        }

    return figure


def _percentile(values: list[float], share: float) -> float | None:
    if not values or not 0 <= share <= 100:
        return None
    place = (len(values) - 1) * share / 100
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)
