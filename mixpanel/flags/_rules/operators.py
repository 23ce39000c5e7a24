"""The operators of rules that take values, one function each; none of them raises.

JavaScript converts values of different types before it compares them, with results that no rule
means. Here, as Mixpanel documents it, a value that cannot be read as the other's type does not
match. Operators that choose which of their operands to evaluate are in `compiler`.
"""

import operator
from collections.abc import Callable
from math import fmod, inf, isinf, isnan, nan
from typing import Any, Final

from mixpanel.flags._rules.budget import charge, charge_text
from mixpanel.flags._rules.comparisons import datetime_compare, semver_compare
from mixpanel.flags._rules.js_conversions import (
    is_array,
    is_number,
    is_truthy,
    join_array,
    loose_equal,
    parse_leading_number,
    strict_equal,
    to_double,
    to_number,
    to_text,
)

Operator = Callable[..., Any]
_ABSENT: Final = object()
_NUMBERS: Final = (int, float)
_COLLECTIONS: Final = (list, tuple, set, frozenset)


def _compare(a: Any, b: Any, test: Callable[[Any, Any], bool]) -> bool:
    if isinstance(a, str) and isinstance(b, str):
        return test(a, b)
    if isinstance(a, str) and is_number(b):
        return bool(a.strip()) and test(to_number(a), b)
    if is_number(a) and isinstance(b, str):
        return bool(b.strip()) and test(a, to_number(b))
    return isinstance(a, _NUMBERS) and isinstance(b, _NUMBERS) and test(a, b)


def _less(a: Any = None, b: Any = None, c: Any = _ABSENT, *_: Any) -> bool:
    return _compare(a, b, operator.lt) and (c is _ABSENT or _compare(b, c, operator.lt))


def _at_most(a: Any = None, b: Any = None, c: Any = _ABSENT, *_: Any) -> bool:
    return _compare(a, b, operator.le) and (c is _ABSENT or _compare(b, c, operator.le))


def _more(a: Any = None, b: Any = None, *_: Any) -> bool:
    return _compare(a, b, operator.gt)


def _at_least(a: Any = None, b: Any = None, *_: Any) -> bool:
    return _compare(a, b, operator.ge)


def _in(needle: Any = None, haystack: Any = None, *_: Any) -> bool:
    if isinstance(haystack, str):
        charge_text(haystack)
        return needle is not None and to_text(needle) in haystack
    if isinstance(haystack, _COLLECTIONS):
        charge(len(haystack))
        return any(strict_equal(needle, item) for item in haystack)
    return False


def _plus(*terms: Any) -> float:
    return sum(map(parse_leading_number, terms), 0.0)


def _times(*factors: Any) -> float:
    product = 1.0
    for factor in factors:
        product *= parse_leading_number(factor)
    return product


def _minus(a: Any = _ABSENT, b: Any = _ABSENT, *_: Any) -> float:
    return -_double(a) if b is _ABSENT else _double(a) - _double(b)


def _divided(a: Any = _ABSENT, b: Any = _ABSENT, *_: Any) -> float:
    dividend, divisor = _double(a), _double(b)
    if divisor:
        return dividend / divisor
    return nan if not dividend or isnan(dividend) else dividend * inf


def _remainder(a: Any = _ABSENT, b: Any = _ABSENT, *_: Any) -> float:
    dividend, divisor = _double(a), _double(b)
    return nan if not divisor or isinf(dividend) else fmod(dividend, divisor)


def _double(value: Any) -> float:
    return nan if value is _ABSENT else to_double(value)


def _smallest(*values: Any) -> float:
    numbers = [to_double(value) for value in values]
    return nan if any(map(isnan, numbers)) else min(numbers, default=inf)


def _largest(*values: Any) -> float:
    numbers = [to_double(value) for value in values]
    return nan if any(map(isnan, numbers)) else max(numbers, default=-inf)


def _cat(*parts: Any) -> str:
    return join_array(parts, "")


def _substr(source: Any = None, start: Any = 0, length: Any = _ABSENT, *_: Any) -> str:
    whole = to_text(source)
    charge_text(whole)
    first = _position(start)
    rest = whole[max(len(whole) + first, 0) if first < 0 else first :]
    return rest if length is _ABSENT else rest[: _position(length)]


def _position(value: Any) -> int:
    place = to_double(value)
    return 0 if isnan(place) else int(max(min(place, 1e9), -1e9))


def _merge(*values: Any) -> list[Any]:
    merged: list[Any] = []
    for value in values:
        if is_array(value):
            charge(len(value))
            merged.extend(value)
        else:
            merged.append(value)
    return merged


BOOLEAN: Final[dict[str, Callable[..., bool]]] = {
    "==": loose_equal,
    "===": strict_equal,
    "!=": lambda *operands: not loose_equal(*operands),
    "!==": lambda *operands: not strict_equal(*operands),
    "<": _less,
    "<=": _at_most,
    ">": _more,
    ">=": _at_least,
    "!": lambda value=None, *_: not is_truthy(value),
    "!!": lambda value=None, *_: is_truthy(value),
    "in": _in,
    "semver_compare": semver_compare,
    "datetime_compare": datetime_compare,
}
"""Operators that return a boolean."""

OPERATORS: Final[dict[str, Operator]] = {
    **BOOLEAN,
    "+": _plus,
    "-": _minus,
    "*": _times,
    "/": _divided,
    "%": _remainder,
    "min": _smallest,
    "max": _largest,
    "cat": _cat,
    "substr": _substr,
    "merge": _merge,
    "log": lambda value=None, *_: value,
}
"""Operators whose operands are all evaluated first."""
