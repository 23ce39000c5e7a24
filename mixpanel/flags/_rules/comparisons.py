"""Compare versions and times: Mixpanel's own rule operators, the same for both engines.

An operand that is not a version, or not a time, never matches, not even under `!==`. Digits are
ASCII digits, as in Mixpanel's other SDKs.
"""

import operator
import re
from collections.abc import Callable
from datetime import date
from math import isfinite
from typing import Any, Final

_SYMBOLS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "===": operator.eq,
    "!==": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_OPERANDS: Final = 3
_MAX_VERSION_LENGTH: Final = 256
_MAX_TIME_LENGTH: Final = 256
_NUMBER: Final = "(?:0|[1-9][0-9]*)"
_IDENTIFIER: Final = f"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_VERSION: Final = re.compile(
    rf"({_NUMBER})\.({_NUMBER})\.({_NUMBER})"
    rf"(?:-({_IDENTIFIER}(?:\.{_IDENTIFIER})*))?"
    r"(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
)
_TIME: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.[0-9]+)?"
    r"(?:Z|([+-])([0-9]{2}):([0-9]{2}))"
)
_EPOCH: Final = date(1970, 1, 1).toordinal()

Version = tuple[tuple[int, ...], bool, tuple[tuple[bool, int, str], ...]]


def semver_compare(*operands: Any) -> bool:
    """Compare two versions by SemVer 2.0.0: `[actual, symbol, target]`.

    A leading `v` and missing minor or patch numbers are allowed, build metadata is ignored.
    """
    if len(operands) != _OPERANDS:
        return False
    actual, symbol, target = operands
    if not (isinstance(actual, str) and isinstance(symbol, str) and isinstance(target, str)):
        return False
    compare = _SYMBOLS.get(symbol)
    left, right = _parse_version(actual), _parse_version(target)
    return compare is not None and left is not None and right is not None and compare(left, right)


def datetime_compare(*operands: Any) -> bool:
    """Compare a time with epoch milliseconds, to the second: `[actual, symbol, target]`.

    The time is RFC 3339 text with an offset. Its fraction of a second is dropped, milliseconds are
    truncated towards zero.
    """
    if len(operands) != _OPERANDS:
        return False
    actual, symbol, target = operands
    if not (isinstance(actual, str) and isinstance(symbol, str)):
        return False
    compare = _SYMBOLS.get(symbol)
    left, right = _parse_time(actual), _to_seconds(target)
    return compare is not None and left is not None and right is not None and compare(left, right)


def _parse_version(text: str) -> Version | None:
    if len(text) > _MAX_VERSION_LENGTH:
        return None
    text = text.strip()
    text = text[1:] if text[:1] in {"v", "V"} else text
    end = next((i for i, letter in enumerate(text) if letter in "-+"), len(text))
    core = text[:end].split(".")
    core += ["0"] * (3 - len(core))
    found = _VERSION.fullmatch(".".join(core) + text[end:])
    if found is None:
        return None
    *numbers, prerelease = found.groups()
    identifiers = prerelease.split(".") if prerelease else []
    return (
        tuple(map(int, numbers)),
        not identifiers,
        tuple((False, int(i), "") if i.isdigit() else (True, 0, i) for i in identifiers),
    )


def _parse_time(text: str) -> int | None:
    if len(text) > _MAX_TIME_LENGTH:
        return None
    found = _TIME.fullmatch(text.strip().upper())
    if found is None:
        return None
    sign = -1 if found[7] == "-" else 1
    year, month, day, hour, minute, second = map(int, found.groups()[:6])
    offset_hour, offset_minute = int(found[8] or 0), int(found[9] or 0)
    if max(hour, offset_hour) > 23 or max(minute, second, offset_minute) > 59:
        return None
    try:
        days = date(year, month, day).toordinal() - _EPOCH
    except ValueError:
        return None
    offset = sign * (offset_hour * 3600 + offset_minute * 60)
    return days * 86_400 + hour * 3600 + minute * 60 + second - offset


def _to_seconds(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if abs(value) >= 2**63 or not isfinite(value):
        return None
    milliseconds = int(value)
    seconds = abs(milliseconds) // 1000
    return seconds if milliseconds >= 0 else -seconds
