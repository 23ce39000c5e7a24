"""Build conditions for `where` and values for `on` that are always quoted correctly.

>>> from mixpanel.data.expressions import prop, user_prop
>>> condition = (prop("plan") == "team") & ~prop("coupon").is_defined()
>>> print(condition)
(properties["plan"] == "team") and (not defined(properties["coupon"]))
>>> print(user_prop("$email").contains("@example.org"))
"@example.org" in user["$email"]

`str(condition)` is Mixpanel's expression language, as classic queries and exports take it. Inline
queries take filters: `to_filters` returns them, or explains what filters cannot express. `parse`
reads expression text, and reports the position of a mistake.

Join conditions with `&`, `|` and `~`; Python's `and`, `or`, `not` and `in` cannot be overloaded, so
they raise. A `date` stands for its whole day; a `datetime` is a time, in the project's timezone
unless it is aware.

The language: https://developer.mixpanel.com/reference/segmentation-expressions
"""

from __future__ import annotations

from typing import Any

from mixpanel.data._queries.expression_nodes import (
    Expression,
    Property,
    as_expression,
    ceil,
    defined,
    event_prop,
    floor,
    prop,
    raw,
    round_,
    to_boolean,
    to_number,
    to_string,
    user_prop,
)
from mixpanel.data._queries.expression_parser import parsed
from mixpanel.data._queries.inline_filters import filters_of
from mixpanel.data.exceptions import ExpressionError

__all__ = [
    "Expression",
    "ExpressionError",
    "Property",
    "as_expression",
    "ceil",
    "defined",
    "event_prop",
    "floor",
    "parse",
    "prop",
    "raw",
    "round_",
    "to_boolean",
    "to_filters",
    "to_number",
    "to_string",
    "user_prop",
]


def parse(text: str) -> Expression:
    """Parse text in Mixpanel's expression language.

    :raises ExpressionError: for a syntax error; `position` counts characters from 1.
    """
    return parsed(text)


def to_filters(condition: Expression | str) -> list[dict[str, Any]]:
    """Return a condition as the filters of an inline query, all of which must hold.

    :raises ExpressionError: for anything that filters cannot express, as `or` of two properties.
    """
    return filters_of(condition)
