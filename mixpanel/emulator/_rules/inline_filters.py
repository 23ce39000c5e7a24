"""Translate the filters of inline reports into the expression language. Does no I/O."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from mixpanel.data.exceptions import ExpressionError
from mixpanel.data.expressions import Property, as_expression
from mixpanel.emulator._rules.decode import RefusedRequest
from mixpanel.emulator._rules.query_parameters import read_day

Members = Callable[[Any], Collection[str]]
"""The distinct_ids of a cohort, by its id."""

ORDER = {
    "is greater than": ">",
    "is less than": "<",
    "is at least": ">=",
    "is at most": "<=",
}
ENDS = {"starts with": "_starts_with", "ends with": "_ends_with"}
DAYS = {"hour": 1 / 24, "day": 1, "week": 7, "month": 30}
OF_STEPS = {"starts_with": "starts with", "ends_with": "ends with",
            "==": "equals", "!=": "does not equal", "in": "contains", "not in": "does not contain",
            ">": "is greater than", "<": "is less than", ">=": "is at least",
            "<=": "is at most", "set": "is set", "not set": "is not set"}  # fmt: skip


def where_of(filters: Any, *, members: Members, today: date, determiner: str = "all") -> str | None:
    """Return the expression for a list of filters, None for none.

    :raises RefusedRequest: 400: a filter is malformed, or of a kind that is not known here.
    """
    if not filters:
        return None
    if not isinstance(filters, list):
        raise RefusedRequest(400, "filters must be a list")
    parts = [_condition(each, members, today) for each in filters if each.get("value") is not None]
    return (" or " if determiner == "any" else " and ").join(f"({part})" for part in parts) or None


def joined(*conditions: str | None) -> str | None:
    """Return the expression that all conditions hold, None without any."""
    return " and ".join(f"({each})" for each in conditions if each) or None


def accessor(entry: Mapping[str, Any]) -> str:
    """Return the expression of the property of a filter, measurement or group.

    :raises RefusedRequest: 400: it has no name.
    """
    name = entry.get("value") or entry.get("name") or entry.get("propertyName")
    people = entry.get("resourceType") in ("people", "user")
    try:
        return str(Property(name, "user" if people else "properties"))  # type: ignore[arg-type]
    except ExpressionError as error:
        raise RefusedRequest(400, str(error)) from error


def step_where(parameters: Any, *, members: Members, today: date, word: str) -> str | None:
    """Return the expression for the filters of a flow's step, which have a form of their own.

    :raises RefusedRequest: 400: a filter is malformed.
    """
    found = []
    for each in parameters or []:
        match each:
            case {"property": {"name": str(name), "source": source}, "filter": {**comparison}}:
                resource = "people" if source == "user" else "events"
            case _:
                raise RefusedRequest(400, "a filter of a step requires a property and a filter")
        kind, operand = each.get("type", "string"), comparison.get("operand")
        operator = OF_STEPS.get(str(comparison.get("operator")), str(operand))
        value: Any = operand
        if kind == "number" and isinstance(operand, str | int | float) and operand != "":
            value = float(operand)
        entry = {
            "value": name,
            "resourceType": resource,
            "filterType": kind,
            "filterOperator": operator,
            "filterValue": value,
        }
        found.append(entry)
    determiner = "any" if word == "or" else "all"
    return where_of(found, members=members, today=today, determiner=determiner)


def _condition(entry: Any, members: Members, today: date) -> str:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("filterOperator"), str):
        raise RefusedRequest(400, "a filter requires value and filterOperator")
    operator, value = entry["filterOperator"], entry.get("filterValue")
    if "behavior" in entry:
        raise RefusedRequest(400, "filters by frequency are not computed by the emulator")
    if "listItemFilters" in entry:
        return _items(entry)
    if entry.get("value") == "$cohorts":
        return _in_cohort(operator, value, members)
    left = accessor(entry)
    try:
        return _compared(left, operator, value, entry, today)
    except (ExpressionError, TypeError, ValueError) as error:
        raise RefusedRequest(400, f"filter {operator!r} cannot have {value!r}: {error}") from error


def _compared(left: str, operator: str, value: Any, entry: Mapping[str, Any], today: date) -> str:
    if operator in ("is set", "is not set"):
        return f"defined({left})" if operator == "is set" else f"not defined({left})"
    if operator in ("true", "false"):
        return f"{left} == {operator}"
    if operator in ("equals", "does not equal", "is equal to"):
        found = _equals(left, value)
        return f"not ({found})" if operator == "does not equal" else found
    if operator in ("contains", "does not contain", "list_contains"):
        found = " or ".join(f"({as_expression(each)} in {left})" for each in _list(value))
        return f"not ({found})" if operator == "does not contain" else found
    if operator in ENDS:
        tests = (f"{ENDS[operator]}({left}, {as_expression(str(each))})" for each in _list(value))
        return " or ".join(f"({test})" for test in tests)
    if operator in ORDER:
        return f"{left} {ORDER[operator]} {as_expression(float(_list(value)[0]))}"
    if operator in ("is between", "not between"):
        low, high = (as_expression(float(each)) for each in value)
        found = f"({left} >= {low}) and ({left} <= {high})"
        return f"not ({found})" if operator == "not between" else found
    if operator.startswith("was "):
        return _when(left, operator.removeprefix("was "), value, entry, today)
    raise RefusedRequest(400, f"filterOperator {operator!r} is not supported by the emulator")


def _items(entry: Mapping[str, Any]) -> str:
    """Return the expression that objects of a list property have certain values."""
    pairs = []
    for each in entry["listItemFilters"]:
        if not isinstance(each, Mapping) or each.get("filterOperator") != "equals":
            raise RefusedRequest(400, "listItemFilters are compared by equals in the emulator")
        values = ", ".join(str(as_expression(str(one))) for one in _list(each.get("filterValue")))
        pairs.append(f"{as_expression(str(each.get('value')))}, [{values}]")
    function = "_all_items" if entry.get("listQuantifier") == "all" else "_any_item"
    found = f"{function}({', '.join([accessor(entry), *pairs])})"
    return f"not ({found})" if entry.get("filterOperator") == "false" else found


def _equals(left: str, value: Any) -> str:
    return f"{left} in [{', '.join(str(as_expression(each)) for each in _list(value))}]"


def _when(left: str, operator: str, value: Any, entry: Mapping[str, Any], today: date) -> str:
    negated = operator.startswith("not ")
    operator = operator.removeprefix("not ")
    if operator == "in the":
        days = float(_list(value)[0]) * DAYS[entry.get("filterDateUnit") or "day"]
        low, high = today - timedelta(days=int(days) - 1), today
    elif operator == "in the next":
        days = float(_list(value)[0]) * DAYS[entry.get("filterDateUnit") or "day"]
        low, high = today, today + timedelta(days=int(days))
    else:
        low, high = (read_day(each, "filterValue") for each in (_list(value) * 2)[:2])
    begin, end = f'datetime("{low}")', f'datetime("{high + timedelta(days=1)}")'
    if operator == "before":
        found = f"{left} < {begin}"
    elif operator == "since":
        found = f"{left} >= {begin}"
    elif operator in ("on", "between", "in the", "in the next"):
        found = f"({left} >= {begin}) and ({left} < {end})"
    else:
        raise RefusedRequest(400, f"filterOperator 'was {operator}' is not known")
    return f"not ({found})" if negated else found


def _in_cohort(operator: str, value: Any, members: Members) -> str:
    parts = []
    for each in _list(value):
        cohort = each.get("cohort") if isinstance(each, Mapping) else None
        if not isinstance(cohort, Mapping) or "id" not in cohort:
            raise RefusedRequest(400, 'a cohort filter requires [{"cohort":{"id":5}}]')
        found = _equals('properties["distinct_id"]', list(members(cohort["id"])))
        parts.append(f"not ({found})" if cohort.get("negated") else f"({found})")
    condition = " or ".join(parts)
    return f"not ({condition})" if operator == "does not contain" else condition


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
