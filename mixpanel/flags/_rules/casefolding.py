"""Casefold rules and properties, so that they compare whatever their case.

Mixpanel compares text and property names without regard to case: a rule is casefolded when the
definitions load, the properties of a user when a flag is checked.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Final

from mixpanel._records.json_encoding import Converter
from mixpanel._records.values import is_missing, plain_scalar
from mixpanel.flags._rules.budget import charge

__all__ = [
    "casefolded_names",
    "fold",
    "fold_key",
    "fold_names",
    "fold_texts",
    "get_casefolded",
    "has_json_form",
]

_MAX_CASEFOLDED_NAMES: Final = 10_000
_NUMBERS: Final = (bool, int, float)


def fold(value: Any) -> Any:
    """Casefold text and keys, through dicts and lists.

    Values of other types are compared as their JSON: a UUID as text, an Enum as its value, scalars
    of numpy as numbers, a tuple or a set as a list, a missing value as null. A datetime is RFC 3339
    text, as `datetime_compare` takes it; a naive one is UTC.
    """
    if isinstance(value, str):
        return value.casefold()
    if isinstance(value, dict):
        _charge_folding(value, value.values())
        return {fold_key(key): fold(item) for key, item in value.items()}
    if isinstance(value, list):
        _charge_folding(value, value)
        return [fold(item) for item in value]
    if type(value) in _NUMBERS:
        return value if value == value else None  # noqa: PLR0124 - NaN is null in JSON
    if value is None:
        return None
    return _fold_other(value)


def _fold_other(value: Any) -> Any:
    if is_missing(value):
        return None
    value = plain_scalar(value)
    if isinstance(value, datetime):
        value = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        return value.isoformat().casefold()
    if isinstance(value, Enum):
        return fold(value.value)
    if isinstance(value, tuple):
        return fold(list(value))
    if isinstance(value, int | float):
        return value
    if isinstance(value, Decimal):
        return float(value)
    notes: list[str] = []
    converted = Converter(notes).value(value, 0)
    if notes and not isinstance(converted, dict | list):
        return value  # it has no JSON form: as it is, no rule can match it
    return fold(converted)


def has_json_form(value: Any) -> bool:
    """Return False for a value that no rule can match, such as a function."""
    folded = fold(value)
    return folded is None or isinstance(folded, str | int | float | list | dict)


def _charge_folding(value: Any, items: Iterable[Any]) -> None:
    charge(len(value))
    # As for other work on text that is done in C: a step for 256 characters.
    charge(sum([len(item) for item in items if type(item) is str]) >> 8)


def fold_key(key: Any) -> Any:
    """Casefold a key that is text."""
    return key.casefold() if isinstance(key, str) else key


def fold_texts(value: Any, *, keys: bool) -> Any:
    """Casefold texts, through dicts and lists only, and with `keys` the keys of dicts."""
    if isinstance(value, str):
        return value.casefold()
    if isinstance(value, dict):
        return {
            fold_key(key) if keys else key: fold_texts(item, keys=keys)
            for key, item in value.items()
        }
    return [fold_texts(item, keys=keys) for item in value] if isinstance(value, list) else value


casefolded_names: Final[set[Any]] = set()
"""Names seen so far that are casefolded already: an application uses few, and most of them are.

With all of a user's names in this set, one `issuperset` replaces folding them for each check.
"""


def fold_names(properties: dict[Any, Any]) -> dict[Any, Any]:
    """Return properties under casefolded names.

    Of several names that casefold alike, the one that is casefolded already wins, else the last.
    """
    charge(len(properties))
    unchanged = [name for name in properties if fold_key(name) == name]
    # Names may come from requests: the set must not grow without end.
    if len(casefolded_names) < _MAX_CASEFOLDED_NAMES:
        casefolded_names.update(unchanged)
    folded = {fold_key(name): value for name, value in properties.items()}
    folded.update([(name, properties[name]) for name in unchanged])
    return folded


def get_casefolded(properties: dict[Any, Any], name: str) -> Any:
    """Return the property under a casefolded name, whatever its case; None without one."""
    if name in properties:
        return properties[name]
    charge(len(properties) >> 4)
    # Every name is casefolded already, so the property is missing in any case of letters.
    if casefolded_names.issuperset(properties):
        return None
    return fold_names(properties).get(name)
