"""The parts of the parameters of a bookmark. Does no I/O."""

import math
from collections.abc import Collection, Mapping
from datetime import date, timedelta
from typing import Any

from mixpanel.emulator._rules.decode import RefusedRequest
from mixpanel.emulator._rules.query_parameters import read_day

UNITS = ("hour", "day", "week", "month", "quarter")
WINDOW_DAYS = {"hour": 1 / 24, "day": 1, "week": 7, "month": 30, "quarter": 91}
TITLES = {
    "total": "Total Events", "unique": "Unique Users", "dau": "DAU", "wau": "WAU", "mau": "MAU",
    "sessions": "Total Sessions", "cumulative_unique": "Cumulative Unique Users",
}  # fmt: skip


def section_of(params: Any, name: str) -> list[Any]:
    """Return a section of a bookmark, which is a list of objects.

    :raises RefusedRequest: 400: it is malformed.
    """
    sections = params.get("sections") if isinstance(params, Mapping) else None
    found = sections.get(name) if isinstance(sections, Mapping) else None
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(each, Mapping) for each in found):
        raise RefusedRequest(400, f"bookmark.sections.{name} must be a list of objects")
    return found


def metrics_of(params: Any) -> list[dict[str, Any]]:
    """Return what a bookmark shows, at least one entry.

    :raises RefusedRequest: 400: it is malformed.
    """
    found = section_of(params, "show")
    if not found:
        raise RefusedRequest(400, "bookmark.sections.show must hold at least one metric")
    return found


def behavior_of(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the behavior of an entry.

    :raises RefusedRequest: 400: it is malformed.
    """
    behavior = entry.get("behavior") or {}
    if not isinstance(behavior, Mapping):
        raise RefusedRequest(400, "behavior must be an object")
    return behavior


def members_of(behavior: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the events of a funnel or of retention.

    :raises RefusedRequest: 400: it is malformed.
    """
    members = behavior.get("behaviors")
    if not isinstance(members, list) or not all(isinstance(each, Mapping) for each in members):
        raise RefusedRequest(400, "behavior.behaviors must be a list of events")
    return members


def days_of(time: list[Any], today: date) -> tuple[tuple[date, date], str]:
    """Return the first and last day of a report, and its unit.

    :raises RefusedRequest: 400: it is malformed.
    """
    entry = time[0] if time else {"dateRangeType": "in the last", "window": {"value": 30}}
    unit = entry.get("unit", "day")
    if unit not in UNITS:
        raise RefusedRequest(400, f"unit must be one of {', '.join(UNITS)}, not {unit!r}")
    match entry:
        case {"dateRangeType": "between", "value": [first, last]}:
            days = read_day(first, "value"), read_day(last, "value")
        case {"dateRangeType": "in the last", "window": {"value": int(length), **window}}:
            days = last_days(length, str(window.get("unit", "day")), today)
        case {"dateRangeType": "since", "value": first}:
            days = read_day(first, "value"), today
        case _:
            raise RefusedRequest(400, "sections.time must be between, since or in the last")
    if days[0] > days[1]:
        raise RefusedRequest(400, f"the range begins on {days[0]}, after its end {days[1]}")
    return days, unit


def flow_days(entry: Mapping[Any, Any], today: date) -> tuple[date, date]:
    """Return the first and last day of a flow.

    :raises RefusedRequest: 400: it is malformed.
    """
    match entry:
        case {"type": "in the last", "from_date": {"unit": str(unit), "value": int(length)}}:
            return last_days(length, unit, today)
        case {"from_date": str(first), "to_date": str(last)}:
            return read_day(first, "from_date"), read_day(last, "to_date")
        case _:
            raise RefusedRequest(400, "date_range must be between or in the last")


def last_days(length: int, unit: str, today: date) -> tuple[date, date]:
    """Return the first and the last day of the `length` units that end today."""
    days = max(1, math.ceil(length * WINDOW_DAYS.get(unit, 1)))
    return today - timedelta(days=days - 1), today


def name_of(group: Mapping[str, Any]) -> str:
    """Return the name of a group."""
    if cohorts := group.get("cohorts"):
        return ", ".join(dict.fromkeys(str(each.get("name") or each.get("id")) for each in cohorts))
    return str(group.get("propertyName") or group.get("value"))


def title_of(entry: Mapping[str, Any]) -> str:
    """Return the name of a metric in an answer."""
    behavior: Mapping[str, Any] = behavior_of(entry)
    measurement: Mapping[str, Any] = entry.get("measurement") or {}
    if behavior.get("renamed"):
        return str(behavior["renamed"])
    of: Any = measurement.get("property")
    how = str(measurement.get("math"))
    what = TITLES.get(how, how)
    if isinstance(of, Mapping):
        what = f"{how.capitalize()} of {of.get('name') or of.get('value')}"
    return f"{behavior.get('name') or 'All Events'} [{what}]"


def unique_name(name: str, taken: Collection[str]) -> str:
    """Return a name that is not taken yet."""
    unique, number = name, 2
    while unique in taken:
        unique, number = f"{name} #{number}", number + 1
    return unique
