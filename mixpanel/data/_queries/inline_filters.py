"""Turn conditions into the filters of inline queries.

A filter compares one property with constants; all filters of a list must hold. That is less than
expression text can express, so the rest is refused with the reason, never approximated.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

from mixpanel.data._queries.expression_nodes import (
    Constant,
    Expression,
    Function,
    Junction,
    Not,
    Operation,
    Property,
    Values,
)
from mixpanel.data._queries.expression_parser import parsed
from mixpanel.data.exceptions import ExpressionError

__all__ = ["any_or_all", "filters_of", "flow_filter", "property_entry", "step_filter"]

Filter = dict[str, Any]
RESOURCES = {"properties": "events", "event": "events", "user": "people"}
MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
ORDER = {"<": "is less than", "<=": "is at most", ">": "is greater than", ">=": "is at least"}
OPPOSITE = {
    "==": "!=", "!=": "==", "in": "not in", "not in": "in",
    "contains": "does not contain", "does not contain": "contains",
}  # fmt: skip
# In a step of a flow, the operator compares the operand with the value: dates are reversed.
OF_STEPS = {
    "equals": "==", "does not equal": "!=", "contains": "in", "does not contain": "not in",
    "is set": "set", "is not set": "not set", "is greater than": ">", "is less than": "<",
    "is at least": ">=", "is at most": "<=",
    "was on": "==", "was not on": "!=", "was before": ">", "was since": "<",
}  # fmt: skip
ANYWAY = "use a classic query, as segmentation(), whose `where` takes any expression"


def filters_of(condition: Expression | str | None) -> list[Filter]:
    """Return the filters that are equivalent to a condition.

    :raises ExpressionError: for a condition that filters cannot express.
    """
    filters, determiner = any_or_all(condition)
    if determiner == "any":
        raise ExpressionError(
            f"filters of a whole query must all hold, so they cannot express `or`: "
            f"{condition!r}; put the condition on the metric, or {ANYWAY}"
        )
    return filters


def any_or_all(condition: Expression | str | None) -> tuple[list[Filter], Literal["all", "any"]]:
    """Return the filters of a condition, and whether all or any of them must hold.

    :raises ExpressionError: for a condition that filters cannot express.
    """
    if condition is None:
        return [], "all"
    if isinstance(condition, str):
        condition = parsed(condition)
    if not isinstance(condition, Expression):
        raise ExpressionError(f"a condition is an expression or text, not {condition!r}")
    parts, word = _parts(condition, negated=False)
    return [_filter(part, negated) for part, negated in parts], "any" if word == "or" else "all"


def property_entry(value: Expression | str) -> tuple[str, str]:
    """Return a property's name and its resource type: "events" or "people".

    :raises ExpressionError: for anything but a property.
    """
    if isinstance(value, str):
        value = Property(value)
    if not isinstance(value, Property) or value.source not in RESOURCES:
        raise ExpressionError(
            f"inline queries take a property here, not {value}: name one, or {ANYWAY}"
        )
    return value.name, RESOURCES[value.source]


def flow_filter(entry: Filter) -> Filter:
    """Return a filter in the form of flows, for all their events."""
    return {"propertyName": entry["value"]} | {k: v for k, v in entry.items() if k != "value"}


def step_filter(entry: Filter) -> Filter:
    """Return a filter in the form of flows, for one of their steps.

    :raises ExpressionError: for a comparison that steps do not know.
    """
    kind, operator, operand = entry["filterType"], entry["filterOperator"], entry["filterValue"]
    if operator in ("true", "false"):
        comparison = {"operand": operator}
    else:
        if operator not in OF_STEPS:
            raise ExpressionError(f"the steps of a flow do not know {operator!r}: use contains()")
        if kind == "number":
            operand = str(operand)
        elif kind == "datetime":
            operand = f"{operand[5:7]}/{operand[8:10]}/{operand[:4]}"
        comparison = {"operator": OF_STEPS[operator], "operand": "" if operand is None else operand}
    source = "user" if entry["resourceType"] == "people" else "properties"
    return {
        "property": {"name": entry["value"], "source": source, "type": kind},
        "type": kind,
        "selected_property_type": kind,
        "filter": comparison,
    }


def _parts(part: Expression, *, negated: bool) -> tuple[list[tuple[Expression, bool]], str]:
    """Return simple conditions, each with True if it is negated, and the operator between them."""
    if isinstance(part, Not):
        return _parts(part.operand, negated=not negated)
    if not isinstance(part, Junction):
        return [(part, negated)], ""
    # De Morgan: not (a and b) is (not a or not b). Filters have one operator for all conditions.
    word = {"and": "or", "or": "and"}[part.word] if negated else part.word
    if word == "or" and not negated and (merged := _one_property(part)) is not None:
        return [(merged, False)], ""
    found: list[tuple[Expression, bool]] = []
    for operand in part.operands:
        inner, its = _parts(operand, negated=negated)
        if its not in ("", word):
            raise ExpressionError(f"filters cannot mix `and` and `or`: {part!r}; {ANYWAY}")
        found += inner
    return found, word


def _one_property(part: Junction) -> Operation | None:
    """Return `x == 1 or x == 2` as `x in [1, 2]`, None for anything else."""
    pairs = [
        (each.left, each.right)
        for each in part.operands
        if isinstance(each, Operation) and each.operator == "=="
    ]
    first = pairs[0][0] if pairs else None
    same = all(isinstance(one, Property) and str(one) == str(first) for one, _ in pairs)
    texts = all(isinstance(other, Constant) and isinstance(other.value, str) for _, other in pairs)
    if first is None or len(pairs) != len(part.operands) or not (same and texts):
        return None
    return Operation("in", first, Values(tuple(other for _, other in pairs)))


def _filter(part: Expression, negated: bool) -> Filter:  # noqa: FBT001 - of a pair
    if isinstance(part, Function) and part.name == "defined":
        return _entry(part.argument, "string", "is not set" if negated else "is set", None)
    if isinstance(part, Property):  # alone: a boolean
        return _entry(part, "boolean", "false" if negated else "true", None)
    if not isinstance(part, Operation):
        raise ExpressionError(f"filters cannot express {part!r}: {ANYWAY}")
    operator, left, right = part.operator, part.left, part.right
    if operator == "in" and isinstance(left, Constant) and not isinstance(right, Values):
        operator, left, right = "contains", right, left
    elif isinstance(left, Constant) and operator in MIRRORED:
        operator, left, right = MIRRORED[operator], right, left
    if negated:
        if operator not in OPPOSITE:
            raise ExpressionError(
                f"filters cannot negate {part!r}: events without the property would count too; "
                "write the opposite comparison"
            )
        operator = OPPOSITE[operator]
    if operator in ("in", "not in") and isinstance(right, Values):
        return _one_of(part, left, operator, right)
    if not isinstance(right, Constant) or operator in ("+", "-", "*", "/", "%"):
        raise ExpressionError(
            f"filters compare a property with a constant, unlike {part!r}: {ANYWAY}"
        )
    return _compared(part, left, operator, right.value)


def _one_of(part: Expression, left: Expression, operator: str, right: Values) -> Filter:
    values = [each.value for each in right.values if isinstance(each, Constant)]
    if len(values) != len(right.values) or not all(isinstance(value, str) for value in values):
        raise ExpressionError(f"filters know lists of text only, unlike {part!r}: {ANYWAY}")
    return _entry(left, "string", "equals" if operator == "in" else "does not equal", values)


def _compared(part: Expression, left: Expression, operator: str, value: Any) -> Filter:
    equality = {"==": "equals", "!=": "does not equal"}.get(operator)
    if isinstance(value, bool):
        if equality is None:
            raise ExpressionError(f"a boolean is compared with == or !=, unlike {part!r}")
        return _entry(left, "boolean", str(value is (operator == "==")).lower(), None)
    if value is None:
        raise ExpressionError(f"test with is_defined() whether a property is set, unlike {part!r}")
    if isinstance(value, datetime):
        raise ExpressionError(f"filters know whole days only, give a date, unlike {part!r}")
    if isinstance(value, date):
        return _of_day(left, operator, value)
    if isinstance(value, (int, float, Decimal)):
        number = float(value) if isinstance(value, Decimal) else value
        word = equality or ORDER.get(operator)
        if word is None:
            raise ExpressionError(f"a number cannot be used with {operator!r}: {part!r}")
        return _entry(left, "number", word, number)
    if equality is not None:
        return _entry(left, "string", equality, [value])
    if operator in ("contains", "does not contain", "starts with", "ends with"):
        return _entry(left, "string", operator, value)
    raise ExpressionError(f"text is compared with ==, != or contains(), unlike {part!r}")


def _of_day(left: Expression, operator: str, day: date) -> Filter:
    if operator in (
        "<=",
        ">",
    ):  # filters compare whole days: "up to a day" is "before the next day"
        operator, day = {"<=": "<", ">": ">="}[operator], day + timedelta(days=1)
    words = {"==": "was on", "!=": "was not on", "<": "was before", ">=": "was since"}
    return _entry(left, "datetime", words[operator], str(day))


def _entry(left: Expression, kind: str, operator: str, value: Any) -> Filter:
    name, resource = property_entry(left)
    return {
        "resourceType": resource,
        "filterType": kind,
        "defaultType": kind,
        "filterOperator": operator,
        "filterValue": value,
        "value": name,
    }
