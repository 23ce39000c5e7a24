"""Validate the arguments of a report before any SQL is built, and describe them in the result."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mixpanel.data._fetch import plan
from mixpanel.data._queries.arguments import property_name
from mixpanel.data.exceptions import ConfigError
from mixpanel.data.expressions import Expression

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mixpanel.data.analysis.period import Period
    from mixpanel.data.analysis.query import Query
    from mixpanel.data.analysis.source import Condition

__all__ = [
    "MAX_SEGMENTS",
    "check_choice",
    "checked_int",
    "common_fields",
    "event_name",
    "event_names",
    "segment_name",
]

MAX_SEGMENTS = 10_000  # Mixpanel's own limit
MAX_EVENTS = 1_000


def check_choice(name: str, value: Any, known: Sequence[str]) -> None:
    """Check that a value is one of the known ones.

    :raises ConfigError: if not, with the known ones.
    """
    if not isinstance(value, str) or value not in known:
        raise ConfigError(f"{name}={value!r} is not one of {', '.join(known)}")


def checked_int(name: str, value: Any, least: int, most: int) -> int:
    """Return an integer from `least` to `most`.

    :raises ConfigError: for anything else.
    """
    plan.whole(name, 0 if value is None else value, least, most)
    if value is None:
        raise ConfigError(f"{name}=None must be an integer of at least {least}")
    return int(value)


def event_name(name: Any, argument: str = "event") -> str:
    """Return the name of an event.

    :raises ConfigError: for anything but text, empty text, and text that is not valid Unicode.
    """
    found = plan.text(argument, name)
    if not found:
        raise ConfigError(f"{argument}={name!r} must be the name of an event")
    return found


def event_names(names: Any, argument: str = "events") -> tuple[str, ...]:
    """Return the names of several events in their order, without duplicates.

    :raises ConfigError: for an empty list, and for names that `event_name` rejects.
    """
    if isinstance(names, str):
        return (event_name(names, argument),)
    try:
        found = tuple(dict.fromkeys(event_name(name, argument) for name in names))
    except TypeError:
        raise ConfigError(f"{argument}={names!r} must be a list of names of events") from None
    if not found or len(found) > MAX_EVENTS:
        raise ConfigError(f"{argument} must contain 1 to {MAX_EVENTS:,} names, not {len(found)}")
    return found


def common_fields(period: Period, query: Query[Any]) -> dict[str, Any]:
    """Return the fields that every local result has, see `QueryResult`."""
    return {"timezone": period.timezone, "computed_at": datetime.now(UTC), "sql": query.sql}


def segment_name(on: Condition | tuple[Condition, ...]) -> str:
    """Return what a result is segmented by; an expression compiled elsewhere has no text."""
    if isinstance(on, tuple):
        return ", ".join(map(segment_name, on))
    return str(property_name(on)) if isinstance(on, (str, Expression)) else "expression"
