"""Convert values as JavaScript does: truth, numbers, text and equality.

JsonLogic is defined by its JavaScript implementation; these are the conversions of the language
that it relies on. None stands for null and for a missing value. Nothing here raises on JSON values.
"""

import re
from decimal import Decimal
from math import isinf, isnan, nan
from typing import Any, Final

from mixpanel.flags._rules.budget import charge, charge_parsing, charge_text

_FLOAT: Final = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_DECIMAL: Final = re.compile(rf"[+-]?{_FLOAT}")
_LEADING_NUMBER: Final = re.compile(rf"[+-]?(?:Infinity|{_FLOAT})")
_RADIX: Final = re.compile(r"0(?:[xX][0-9a-fA-F]+|[oO][0-7]+|[bB][01]+)")
_NUMBERS: Final = (int, float)
_SCALARS: Final = (int, float, str)
_ARRAYS: Final = (list, tuple)
_CONTAINERS: Final = (list, tuple, dict)
_SIZED: Final = (bool, int, str, list, tuple)
_EXACT_DIGITS: Final = 300
_FIXED_BELOW: Final = 10**21
_FIXED_FROM: Final = 1e-6


def is_number(value: Any) -> bool:
    """Return True if a value is a number; a boolean is not."""
    return isinstance(value, _NUMBERS) and not isinstance(value, bool)


def is_array(value: Any) -> bool:
    """Return True if a value is a list or a tuple."""
    return isinstance(value, _ARRAYS)


def is_truthy(value: Any) -> bool:
    """Return True for all values but null, false, 0, NaN, "" and [], as JsonLogic does."""
    if isinstance(value, float):
        return value != 0 and not isnan(value)
    if isinstance(value, _SIZED):
        return bool(value)
    return value is not None


def to_number(value: Any) -> float:
    """Convert as `Number(value)` does: null is 0, text must be a number as a whole, else NaN."""
    if value is None:
        return 0
    if isinstance(value, _NUMBERS):
        return value
    if is_array(value):
        value = to_text(value)
    return _number_of_text(value) if isinstance(value, str) else nan


def _number_of_text(value: str) -> float:
    charge_parsing(value)
    value = value.strip()
    if not value:
        return 0
    if _RADIX.fullmatch(value):
        return int(value, 0)
    if _DECIMAL.fullmatch(value):
        digits = value.lstrip("+-")
        return int(value) if digits.isdigit() and len(digits) <= _EXACT_DIGITS else float(value)
    return float(value) if value in {"Infinity", "+Infinity", "-Infinity"} else nan


def parse_leading_number(value: Any) -> float:
    """Convert as `parseFloat(value)` does: "3px" is 3; null, true and "px" are NaN."""
    if is_number(value):
        return to_double(value)
    written_out = to_text(value)
    charge_parsing(written_out)
    found = _LEADING_NUMBER.match(written_out.lstrip())
    return float(found[0]) if found else nan


def to_double(value: Any) -> float:
    """Convert to a double, where a number too large for one is infinite."""
    value = to_number(value)
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def to_text(value: Any) -> str:
    """Convert as `String(value)` does: 1.0 is "1", true is "true", a list is joined by commas."""
    if isinstance(value, str):
        return value
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, _NUMBERS):
        return _text_of_number(value)
    if is_array(value):
        return join_array(value, ",")
    return "[object Object]"


def join_array(values: Any, separator: str) -> str:
    """Join as `Array.join` does: null leaves a gap."""
    charge(len(values))
    parts = []
    for value in values:
        part = "" if value is None else to_text(value)
        charge_text(part)  # before they are joined: each may be the same long text
        parts.append(part)
    return separator.join(parts)


def _text_of_number(value: float) -> str:
    if isinstance(value, int) and abs(value) < _FIXED_BELOW:
        return str(int(value))
    value = to_double(value)
    if isnan(value):
        return "NaN"
    if isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    if value.is_integer() and abs(value) < _FIXED_BELOW:
        return str(int(value))
    if _FIXED_FROM <= abs(value) < _FIXED_BELOW:
        return format(Decimal(repr(value)), "f")
    mantissa, _, exponent = repr(value).partition("e")
    return f"{mantissa}e{int(exponent):+d}"


def strict_equal(a: Any = None, b: Any = None, *_: Any) -> bool:
    """Compare as `===` does: same kind and same value; 5 is 5.0, a list equals only itself."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, _NUMBERS):
        return isinstance(b, _NUMBERS) and a == b
    if isinstance(a, str):
        return isinstance(b, str) and a == b
    if isinstance(a, _CONTAINERS):
        return a is b
    return a is b or (type(a) is type(b) and bool(a == b))


def loose_equal(a: Any = None, b: Any = None, *_: Any) -> bool:
    """Compare as `==` does, Mixpanel's fuzzy type: "5" is 5.0, "1" is true, null is only null."""
    if a is None or b is None:
        return a is b
    if isinstance(a, str) and isinstance(b, str):
        return a == b
    if isinstance(a, _CONTAINERS) == isinstance(b, _CONTAINERS):
        if isinstance(a, _SCALARS) and isinstance(b, _SCALARS):
            return to_number(a) == to_number(b)
        return strict_equal(a, b)
    if isinstance(a, _CONTAINERS):
        return loose_equal(to_text(a), b)
    return loose_equal(a, to_text(b))
