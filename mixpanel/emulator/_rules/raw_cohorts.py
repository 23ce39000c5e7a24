"""Read the definition of a cohort: who did what how often, and has which properties. No I/O.

The definition is that of a saved cohort and of `filter_by_cohort={"raw_cohort": ...}`.
"""

import json
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from mixpanel.emulator._rules.decode import RefusedRequest
from mixpanel.emulator._rules.query_parameters import read_day

DAY_MS = 86_400_000
UNITS = {"hour": DAY_MS // 24, "day": DAY_MS, "week": 7 * DAY_MS, "month": 30 * DAY_MS}
COMPARISONS = ("==", "!=", ">", "<", ">=", "<=")

Members = Callable[[Any], Collection[str]]


class Counted(NamedTuple):
    """Events that are counted for each user, between two times in milliseconds."""

    name: str
    event: str
    where: str | None
    low: int
    high: int


class RawCohort(NamedTuple):
    """A cohort as a condition on profiles, and the counts that it uses as `behaviors["name"]`."""

    where: str | None
    counted: list[Counted]


def read_raw_cohort(definition: Any, *, members: Members, now: float) -> RawCohort:
    """Read a definition; `members` returns the distinct_ids of a saved cohort.

    :raises RefusedRequest: 400: it is malformed, or of a kind that is not known here.
    """
    if not isinstance(definition, Mapping):
        raise RefusedRequest(400, "raw_cohort must be an object with selector and behaviors")
    behaviors = definition.get("behaviors") or {}
    if not isinstance(behaviors, Mapping):
        raise RefusedRequest(400, "behaviors of a raw_cohort must be an object")
    counted = [_counted(str(name), each, round(now * 1000)) for name, each in behaviors.items()]
    selector = definition.get("selector")
    return RawCohort(None if not selector else _condition(selector, members), counted)


def _counted(name: str, behavior: Any, now: int) -> Counted:
    match behavior:
        case {"count": {"event_selector": {"event": str(event), **selector}}, **when}:
            pass
        case _:
            raise RefusedRequest(
                400, f"behavior {name!r} must count the events of an event_selector"
            )
    where = selector.get("selector")
    if where is not None and not isinstance(where, str):
        raise RefusedRequest(400, f"the selector of behavior {name!r} must be an expression")
    match when:
        case {"window": {"unit": str(unit), "value": int(value)}} if unit in UNITS:
            return Counted(name, event, where, now - value * UNITS[unit], now)
        case {"from_date": first, "to_date": last}:
            low, high = (_midnight(read_day(each, "from_date")) for each in (first, last))
            return Counted(name, event, where, low - 1, high + DAY_MS - 1)
        case _:
            raise RefusedRequest(400, f"behavior {name!r} requires a window or two dates")


def _midnight(day: Any) -> int:
    return round(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)


def _condition(node: Any, members: Members) -> str:
    match node:
        case {"operator": "and" | "or" as word, "children": [*children]}:
            parts = [f"({_condition(each, members)})" for each in children]
            return f" {word} ".join(parts) or "true"
        case {"property": "behaviors", "value": str(name), "operator": operator, "operand": n}:
            return _compared(f"behaviors[{json.dumps(name)}]", operator, n, "number")
        case {"property": "cohort", "value": cohort, "operator": "in" | "not in" as operator}:
            number = cohort.get("id") if isinstance(cohort, Mapping) else cohort
            ids = ", ".join(json.dumps(each) for each in members(number))
            return f'properties["$distinct_id"] {operator} [{ids}]'
        case {"property": "user", "value": str(name), "operator": operator, **rest}:
            kind = str(rest.get("type", "string"))
            left = f"properties[{json.dumps(name)}]"
            return _compared(left, operator, rest.get("operand"), kind)
    raise RefusedRequest(400, "a selector must be and, or, or about behaviors, user or cohort")


def _compared(left: str, operator: Any, operand: Any, kind: str) -> str:
    if operator in ("defined", "not defined"):
        return f"{operator}({left})"
    if operator in COMPARISONS:
        value = float(operand) if kind == "number" else operand
        return f"{left} {operator} {json.dumps(value)}"
    if operator in ("in", "not in"):
        if isinstance(operand, list):
            return f"{left} {operator} {json.dumps(operand)}"
        return f"{json.dumps(operand)} {operator} {left}"
    raise RefusedRequest(400, f"operator {operator!r} of a selector is not known here")
