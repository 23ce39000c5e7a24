"""Check the arguments of a report before any SQL is made of them, and repeat them in the result."""

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

__all__ = ["MOST_SEGMENTS", "about", "among", "count", "event_name", "event_names", "written"]

MOST_SEGMENTS = 10_000  # Mixpanel's own limit
MOST_EVENTS = 1_000


def among(name: str, value: Any, known: Sequence[str]) -> None:
    """Refuse a value that is not one of the known ones.

    :raises ConfigError: naming them.
    """
    if not isinstance(value, str) or value not in known:
        raise ConfigError(f"{name}={value!r} is not one of {', '.join(known)}")


def count(name: str, value: Any, least: int, most: int) -> int:
    """Return a whole number from `least` to `most`.

    :raises ConfigError: for anything else.
    """
    plan.whole(name, 0 if value is None else value, least, most)
    if value is None:
        raise ConfigError(f"{name}=None must be a whole number of at least {least}")
    return int(value)


def event_name(name: Any, argument: str = "event") -> str:
    """Return the name of an event.

    :raises ConfigError: for what is not text, is empty, or cannot be written as UTF-8.
    """
    found = plan.text(argument, name)
    if not found:
        raise ConfigError(f"{argument}={name!r} must be the name of an event")
    return found


def event_names(names: Any, argument: str = "events") -> tuple[str, ...]:
    """Return the names of several events, each once, in their order.

    :raises ConfigError: for no name at all, and what `event_name` refuses.
    """
    if isinstance(names, str):
        return (event_name(names, argument),)
    try:
        found = tuple(dict.fromkeys(event_name(name, argument) for name in names))
    except TypeError:
        raise ConfigError(f"{argument}={names!r} must be a list of names of events") from None
    if not found or len(found) > MOST_EVENTS:
        raise ConfigError(f"{argument} must hold 1 to {MOST_EVENTS:,} names, not {len(found)}")
    return found


def about(period: Period, query: Query[Any]) -> dict[str, Any]:
    """Return what every local result says about itself."""
    return {"timezone": period.timezone, "computed_at": datetime.now(UTC), "sql": query.sql}


def written(on: Condition | tuple[Condition, ...]) -> str:
    """Return how a result names what it is parted by; what was compiled before has no text."""
    if isinstance(on, tuple):
        return ", ".join(map(written, on))
    return str(property_name(on)) if isinstance(on, (str, Expression)) else "expression"
