"""Casefold rules and properties, so that they compare whatever their case.

Mixpanel compares text and property names without regard to case: a rule is casefolded when the
definitions load, the properties of a user when a flag is checked.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from mixpanel.flags._rules.budget import charge

__all__ = ["casefolded_names", "fold", "fold_key", "fold_names", "get_casefolded"]

_MAX_CASEFOLDED_NAMES: Final = 10_000


def fold(value: Any) -> Any:
    """Casefold text and keys, through dicts and lists.

    An aware datetime becomes RFC 3339 text and a Decimal a number, since no rule can match them
    as they are.
    """
    if isinstance(value, str):
        return value.casefold()
    if isinstance(value, dict):
        _charge_folding(value, value.values())
        return {fold_key(key): fold(item) for key, item in value.items()}
    if isinstance(value, list):
        _charge_folding(value, value)
        return [fold(item) for item in value]
    if isinstance(value, datetime) and value.utcoffset() is not None:
        return value.astimezone(UTC).isoformat().casefold()
    return float(value) if isinstance(value, Decimal) else value


def _charge_folding(value: Any, items: Iterable[Any]) -> None:
    charge(len(value))
    charge(sum([len(item) for item in items if type(item) is str]) >> 8)


def fold_key(key: Any) -> Any:
    """Casefold a key that is text."""
    return key.casefold() if isinstance(key, str) else key


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
    if casefolded_names.issuperset(properties):
        return None
    return fold_names(properties).get(name)
