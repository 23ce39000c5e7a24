"""Read the figures of Mixpanel's answers: counts that are strings, steps that carry a number."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["as_count", "as_rate", "in_step_order"]

_NUMBERED = re.compile(r"\s*(\d+)\.\s*(.*)", re.DOTALL)


def as_count(value: Any) -> int:
    """Read a count, which flows send as text: `"10254"`.

    :raises ValueError: for anything but a whole number of 0 or more.
    """
    number = int(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, (int, float)) or number != int(number):
        raise ValueError(f"{value!r} is not a count")
    if number < 0:
        raise ValueError(f"{value!r} is not a count: it is negative")
    return int(number)


def as_rate(value: Any) -> float | None:
    """Read a rate, which Mixpanel sends as a number, as text or as `"NaN"`; that is None.

    :raises ValueError: for text that is not a number.
    """
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def in_step_order(names: Iterable[str]) -> list[tuple[str, str]]:
    """Sort steps such as `"10. Order Paid"` by their number, each with its event's own name.

    Those without a number follow, in the order they came.
    """
    found = []
    for name in names:
        match = _NUMBERED.fullmatch(name)
        position = (0, int(match[1])) if match else (1, 0)
        found.append((position, name, match[2] if match else name))
    found.sort(key=lambda each: each[0])
    return [(name, event) for _, name, event in found]
