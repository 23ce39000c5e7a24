"""Numbers and durations as people read them in charts, and words that several charts share."""

from __future__ import annotations

__all__ = ["COUNTED", "SEPARATOR", "duration", "percentage", "short_number"]

COUNTED = {"general": "events", "unique": "unique users", "average": "events per user"}
UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
SEPARATOR = " · "  # between parts of a subtitle, and of the name of a series


def short_number(value: float) -> str:
    """Return a number in a few characters: `12,345`, `1.2M`, `8.64`."""
    if value != value or value in (float("inf"), float("-inf")):  # noqa: PLR0124 - NaN
        return "-"
    for power, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if abs(value) >= power:
            return f"{value / power:.4g}{letter}"
    if float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def percentage(rate: float) -> str:
    """Return a share as a percentage: `25.0%`."""
    return f"{100 * rate:.1f}%"


def duration(seconds: float | None) -> str:
    """Return a length of time in its two largest units: `2 h 3 min`."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{seconds:.2g} s" if seconds else "0 s"
    left, parts = round(seconds), []
    for size, name in UNITS:
        if left >= size:
            parts.append((left // size, name))
            left %= size
        elif parts:
            break
    return " ".join(f"{count} {name}" for count, name in parts[:2])
