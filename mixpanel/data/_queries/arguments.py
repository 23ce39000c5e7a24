"""Validate the arguments of queries before anything is sent."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any, get_args

from mixpanel.data._fetch.plan import as_day, text, today, whole
from mixpanel.data._queries.expression_nodes import Raw
from mixpanel.data.exceptions import ConfigError
from mixpanel.data.expressions import Expression, Property, parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date

    from mixpanel.data._fetch.plan import Day

__all__ = [
    "Where",
    "check_dates",
    "event_name",
    "event_names",
    "identifier",
    "identifiers",
    "on_text",
    "one_of",
    "property_name",
    "where_text",
    "whole",
]

Where = Expression | str | None
ACCESSOR = re.compile(r"""(?:properties|user|event)\[\s*["']""")


def check_dates(from_date: Day, to_date: Day) -> tuple[date, date]:
    """Return the first and last day of a query, both included.

    :raises ConfigError: for invalid, reversed or future dates.
    """
    first, last = as_day(from_date, "from_date"), as_day(to_date, "to_date")
    if first > last:
        raise ConfigError(f"from_date={first} is later than to_date={last}")
    if last > today() + timedelta(days=1):  # in some time zones it is tomorrow already
        raise ConfigError(f"to_date={last} is in the future: it is {today()} in UTC")
    return first, last


def one_of(name: str, value: Any, choices: Any) -> str:
    """Return the value if it is one of a `Literal`'s.

    :raises ConfigError: if not, with the choices.
    """
    known = choices if isinstance(choices, tuple) else get_args(choices)
    if value not in known or not isinstance(value, str):
        raise ConfigError(f"{name}={value!r} is unknown: choose {', '.join(known)}")
    return value


def event_name(value: str, name: str = "event") -> str:
    """Return the name of an event.

    :raises ConfigError: for anything but text, and for empty text.
    """
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{name}={value!r} must be the name of an event")
    return str(text(name, value))


def event_names(values: Iterable[str] | str, name: str = "events") -> list[str]:
    """Return one or several names in the given order, without duplicates.

    :raises ConfigError: for an empty list, and for anything but text.
    """
    try:
        several = [values] if isinstance(values, str) else list(values)
    except TypeError:
        raise ConfigError(f"{name}={values!r} must be a name or a list of names") from None
    if not several:
        raise ConfigError(f"{name} must contain at least one name")
    return list(dict.fromkeys(event_name(value, name) for value in several))


def identifier(value: Any, name: str) -> int:
    """Return the id of a report, funnel or cohort.

    :raises ConfigError: for anything but a positive integer.
    """
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ConfigError(f"{name}={value!r} must be a positive integer")
    return number


def identifiers(values: Sequence[str] | str, name: str) -> list[str]:
    """Return one or several distinct ids, without duplicates.

    :raises ConfigError: for an empty list, and for an empty id.
    """
    several = event_names(values, name)
    if any(not each.strip() for each in several):
        raise ConfigError(f"{name} must not contain an empty id")
    return several


def where_text(where: Where, name: str = "where") -> str | None:
    """Return a condition as expression text; None for none.

    :raises ExpressionError: for a syntax error; `raw(text)` is not parsed.
    :raises ConfigError: for anything but an expression or text.
    """
    if where is None or isinstance(where, Expression):
        return None if where is None else str(where)
    if not isinstance(where, str):
        raise ConfigError(f"{name}={where!r} must be an expression, or text of one")
    if not where.strip():
        return None
    text(name, where)
    parse(where)
    return where


def on_text(on: Expression | str | None, name: str = "on") -> str | None:
    """Return a value as expression text; text without an accessor names a property of the event.

    :raises ExpressionError: for a syntax error.
    :raises ConfigError: for anything but an expression or text.
    """
    if isinstance(on, str) and on and not ACCESSOR.search(on):
        text(name, on)
        return str(Property(on))
    return where_text(on, name)


def property_name(on: Expression | str | None) -> str | None:
    """Return what a result is segmented by: the name of a property, else the expression."""
    if isinstance(on, Property):
        return on.name
    if isinstance(on, str):
        try:
            found = parse(on) if ACCESSOR.search(on) else None
        except ConfigError:
            found = None
        return found.name if isinstance(found, Property) else on
    return on.text if isinstance(on, Raw) else None if on is None else str(on)
