"""Check the arguments of an endpoint, and make of them what is sent. Pure."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from mixpanel.data._fetch.plan import as_day, is_relative
from mixpanel.data.exceptions import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mixpanel.data._project.table import Endpoint, Field

__all__ = ["bound", "checked"]

DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
TIME = "%Y-%m-%d %H:%M:%S"


def bound(endpoint: Endpoint, where: str, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Return the arguments of a call by name, checked; `where` begins errors.

    :raises ConfigError: for unknown, missing, superfluous or invalid arguments.
    """
    fields = {each.name: each for each in endpoint.arguments}
    positional = [each for each in endpoint.arguments if each.positional]
    if len(args) > len(positional):
        names = ", ".join(each.name for each in positional) or "none"
        raise ConfigError(
            f"{where} takes {len(positional)} positional arguments ({names}), not {len(args)}: "
            "pass the others by name"
        )
    given = {each.name: value for each, value in zip(positional, args, strict=False)}
    twice = [name for name in given if named.get(name) is not None]
    if twice:
        raise ConfigError(f"{where}: {twice[0]} is passed twice")
    given |= {name: value for name, value in named.items() if value is not None}
    unknown = [name for name in given if name not in fields]
    if unknown:
        raise ConfigError(_unknown(where, unknown[0], list(fields)))
    for each in fields.values():
        if each.name not in given and each.env and os.environ.get(each.env, "").strip():
            given[each.name] = os.environ[each.env].strip()
    missing = [each for each in fields.values() if each.required and each.name not in given]
    if missing:
        lacking = [
            f"{each.name}=..." + (f" (or {each.env})" if each.env else "") for each in missing
        ]
        raise ConfigError(f"{where} needs {', '.join(lacking)}")
    return {name: checked(fields[name], value, where) for name, value in given.items()}


def _unknown(where: str, name: str, known: list[str]) -> str:
    similar = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {similar[0]}?" if similar else f"it takes {', '.join(known) or 'none'}"
    return (
        f"{where} has no argument {name}: {hint} A field that is missing here can be passed in "
        "extra={...}"
    )


def checked(known: Field, value: Any, where: str) -> Any:
    """Return a value as it is sent.

    :raises ConfigError: for a value of another type.
    """
    try:
        sent = CHECKS[known.kind](value)
    except (TypeError, ValueError) as error:
        shown = (
            "the value" if known.is_secret or known.kind in UNSHOWN else f"{known.name}={value!r}"
        )
        what = f"{known.name}: " if shown == "the value" else ""
        raise ConfigError(f"{where}: {what}{shown} {error}") from None
    if known.choices and sent not in known.choices:
        raise ConfigError(
            f"{where}: {known.name}={value!r} is unknown: choose {', '.join(known.choices)}"
        )
    return sent


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("must be text")
    if not value.strip():
        raise ValueError("must not be empty")
    value.encode()  # a lone surrogate cannot be sent
    return value


def _any_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("must be text")
    return value


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("must be a whole number")
    return value


def _number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError("must be a number")
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("must be True or False")
    return value


def _id(value: Any) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError("must be an id: a number or text")
    if isinstance(value, str):
        return _text(value)
    if value < 0:
        raise ValueError("must be an id: a number from 0")
    return value


def _document(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError("must be a JSON object")
    return dict(_json(value))


def _items(value: Any) -> list[Any]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise TypeError("must be a list")
    return list(_json(list(value)))


def _json(value: Any) -> Any:
    """Return a value if JSON can represent it.

    :raises TypeError: if it cannot.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError("must not hold NaN or infinity")
        return value
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            raise TypeError("must have text as its keys")
        return {name: _json(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_json(each) for each in value]
    if isinstance(value, datetime | date):
        return value.isoformat()
    raise TypeError(f"must be JSON, without a {type(value).__name__}")


def _texts(value: Any) -> list[str]:
    several = [value] if isinstance(value, str) else _items(value)
    if not several:
        raise ValueError("must not be empty")
    return [_text(each) for each in several]


def _ids(value: Any) -> list[int | str]:
    several = [value] if isinstance(value, int | str) else _items(value)
    if not several:
        raise ValueError("must not be empty")
    return [_id(each) for each in several]


def _day(value: Any) -> str:
    if isinstance(value, datetime):
        raise TypeError("must be a day, without a time")
    if isinstance(value, date):
        return value.isoformat()
    if is_relative(value):
        return str(as_day(value, "day"))
    if not isinstance(value, str) or not DAY.fullmatch(value):
        raise TypeError("must be a day, as 2026-01-31, today, yesterday, -7d, -4w or -3m")
    return _existing(value, date.fromisoformat)


def _time(value: Any) -> str:
    if isinstance(value, datetime):
        if value.tzinfo is not None:
            raise ValueError("must have no timezone: it is a time in the project's")
        return value.strftime(TIME)
    if isinstance(value, date):
        return f"{value.isoformat()} 00:00:00"
    if not isinstance(value, str):
        raise TypeError("must be a time, as 2026-01-31 09:30:00")
    if DAY.fullmatch(value):
        return f"{_existing(value, date.fromisoformat)} 00:00:00"
    try:
        return datetime.strptime(value.replace("T", " "), TIME).strftime(TIME)  # noqa: DTZ007
    except ValueError:
        raise ValueError("must be a time, as 2026-01-31 09:30:00") from None


def _timestamp(value: Any) -> str:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if not isinstance(value, str):
        raise TypeError("must be a time in ISO 8601, as 2026-01-31T09:30:00Z")
    return _existing(value, datetime.fromisoformat)


def _existing(value: str, read: Callable[[str], object]) -> str:
    try:
        read(value)
    except ValueError:
        raise ValueError("does not exist, or is not ISO 8601, as 2026-01-31") from None
    return value


CHECKS: dict[str, Callable[[Any], Any]] = {
    "text": _any_text,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "id": _id,
    "document": _document,
    "items": _items,
    "texts": _texts,
    "ids": _ids,
    "day": _day,
    "time": _time,
    "timestamp": _timestamp,
}
UNSHOWN = frozenset({"document", "items", "texts", "ids"})  # they may hold personal data
