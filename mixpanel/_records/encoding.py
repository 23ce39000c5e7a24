"""Write JSON: fast for what is plain, forgiving for what is not.

| given | sent |
|---|---|
| NaN, infinities | `null` |
| aware `datetime` | UTC, `2026-01-31T12:00:00` |
| naive `datetime` | the same, taken to be UTC |
| `date`, `time` | ISO 8601 |
| `timedelta` | seconds |
| `Decimal`, `Fraction` | a number |
| `UUID`, `Path`, `IPv4Address`, … | text |
| `Enum` | its value |
| `bytes` | text when UTF-8, else base64 |
| set, tuple, any iterable | a list (sets sorted where they can be) |
| dataclass, pydantic model, mapping | an object |
| numpy and pandas scalars and arrays | numbers, text, lists |
| lone surrogates | U+FFFD |
| deeper than 16 levels, cycles, more than 100,000 values | `null`, or left out |
| whole numbers beyond the range of a float | `null` |
| anything else | `str(value)`, at most 1,024 characters |

Each line that loses something (`null`, U+FFFD, `str`) is noted for the caller to count or refuse.
"""

from __future__ import annotations

import dataclasses
import json
import math
from base64 import b64encode
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticSerializationError, to_json

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "DatetimeSerializer",
    "dumps",
    "dumps_plain",
    "json_dumps",
    "loads",
    "plain_depth",
    "utc_text",
]

DEEPEST = 16
LONGEST_TEXT = 1024
MOST_VALUES = 100_000
# A longer integer is valid JSON, but a server that reads numbers as floats would refuse the batch.
LARGEST_INT = 10**308


def utc_text(moment: datetime) -> str:
    """Write a date and time as Mixpanel reads it, in UTC and to the second."""
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC)
    return moment.replace(tzinfo=None, microsecond=0).isoformat()


class DatetimeSerializer(json.JSONEncoder):
    """Encode `datetime` as Mixpanel reads it; the default, and a parent for your own encoder."""

    def default(self, o: Any) -> Any:
        """Return the text of a datetime, and refuse the rest like any encoder."""
        if isinstance(o, datetime):
            return utc_text(o)
        return super().default(o)


def json_dumps(data: Any, cls: type[json.JSONEncoder] | None = None) -> str:
    """Write compact JSON with the standard library, as the official package's function does."""
    return json.dumps(data, separators=(",", ":"), cls=cls)


def dumps(
    record: dict[str, Any], serializer: type[json.JSONEncoder] | None = None
) -> tuple[bytes, list[str]]:
    """Return the record as JSON in UTF-8, and a note for each value that lost something.

    :raises TypeError, ValueError: only what a custom `serializer` raises.
    """
    notes: list[str] = []
    if serializer is not None and serializer is not DatetimeSerializer:
        return _by_encoder(record, serializer, notes), notes
    body = dumps_plain(record) if plain_depth(record) else None
    return (to_json(_Walk(notes).value(record, 0)) if body is None else body), notes


def dumps_plain(record: dict[str, Any]) -> bytes | None:
    """Return a plain record as JSON; None when a text in it holds lone surrogates."""
    try:
        return to_json(record, inf_nan_mode="null")
    except (PydanticSerializationError, ValueError):
        return None


def loads(body: bytes | str) -> Any:
    """Read JSON.

    :raises ValueError: when it is none.
    """
    return json.loads(body)


def plain_depth(value: dict[str, Any]) -> int:
    """Return how many levels deep a plain object is; 0 when it is not plain.

    Plain is what `json` itself writes in full: 1 for nothing but text, finite numbers, booleans
    and null by name.
    """
    inner: list[Any] = []
    if not _is_plain(value, inner):
        return 0
    depth, seen = 1, 0
    while inner and depth < DEEPEST:
        level, inner = inner, []
        for each in level:
            # The same lists within lists, over and over, would take for ever.
            seen += len(each)
            if seen > MOST_VALUES or not _is_plain(each, inner):
                return 0
        depth += 1
    return 0 if inner else depth


def _is_plain(each: Any, inner: list[Any]) -> bool:  # noqa: C901
    """Tell whether an object or list is plain but for those in it, which are added to `inner`."""
    if type(each) is dict:
        for name in each:
            if type(name) is not str:
                return False
        each = each.values()
    for item in each:
        kind = type(item)
        if kind is str or item is None or kind is bool:
            continue
        if kind is float:
            if item - item != 0.0:  # infinite, or no number
                return False
        elif kind is int:
            if item >= LARGEST_INT or item <= -LARGEST_INT:
                return False
        elif kind is dict or kind is list:
            inner.append(item)
        else:
            return False
    return True


class _Walk:
    """Say a value in terms that JSON knows, by the table at the top of this file.

    It knows what it is inside of, so that a cycle ends at once, and how many values it may still
    take, so that a graph of shared objects does not multiply.
    """

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes
        self._inside: set[int] = set()
        self._left = MOST_VALUES

    def value(self, value: Any, depth: int) -> Any:
        """Return the value as JSON will have it."""
        kind = type(value)
        if kind is str:
            return _clean_text(value, self.notes)
        if kind is bool or value is None:
            return value
        if kind is int:
            return self._whole(value)
        if kind is float:
            return _finite(value, self.notes)
        me = id(value)
        if me in self._inside:
            self.notes.append(f"{kind.__name__} contains itself")
            return None
        if depth > DEEPEST:
            self.notes.append(f"nested deeper than {DEEPEST} levels")
            return None
        self._inside.add(me)
        try:
            return self._rich(value, depth)
        except Exception as error:
            self.notes.append(f"{kind.__name__} could not be read ({type(error).__name__})")
            return None
        finally:
            self._inside.discard(me)

    def _rich(self, value: Any, depth: int) -> Any:  # noqa: C901
        match value:
            case Enum():
                return self.value(value.value, depth + 1)
            case str():
                return _clean_text(str.__str__(value), self.notes)
            case int():
                return self._whole(int(value))
            case float() | Decimal() | Fraction():
                return _finite(float(value), self.notes)
            case datetime():
                return utc_text(value)
            case date() | time():
                return value.isoformat()
            case timedelta():
                return value.total_seconds()
            case bytes() | bytearray() | memoryview():
                return _text_of_bytes(bytes(value))
            case Mapping():
                pairs = self._within_bounds(value.items())
                return {self._key(k, depth): self.value(v, depth + 1) for k, v in pairs}
            case AbstractSet():
                return self.value(_in_order(value), depth)
            case list() | tuple():
                return self._list(value, depth)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
            return self.value(fields, depth)
        for method in ("model_dump", "tolist", "to_pydatetime", "isoformat"):
            convert = getattr(value, method, None)
            if callable(convert) and not isinstance(value, type):
                return self.value(convert(), depth + 1)
        if isinstance(value, Iterable) and not isinstance(value, type):
            return self._list(value, depth)
        text = _clean_text(str(value), self.notes)
        if type(value).__module__ not in ("uuid", "ipaddress", "pathlib", "pathlib._local", "yarl"):
            self.notes.append(f"{type(value).__name__} was sent as text")
        return text[:LONGEST_TEXT]

    def _list(self, items: Iterable[Any], depth: int) -> list[Any]:
        return [self.value(item, depth + 1) for item in self._within_bounds(items)]

    def _within_bounds(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self._left -= 1
            if self._left < 0:
                if self._left == -1:
                    self.notes.append(f"more than {MOST_VALUES:,} values")
                return
            yield item

    def _key(self, key: Any, depth: int) -> str:
        if key is None:
            return "null"
        if isinstance(key, bool):
            return "true" if key else "false"
        said = self.value(key, depth + 1)
        return said if isinstance(said, str) else str(said)

    def _whole(self, number: int) -> int | None:
        if -LARGEST_INT < number < LARGEST_INT:
            return number
        self.notes.append("a whole number was beyond the range of a float")
        return None


def _clean_text(text: str, notes: list[str]) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        notes.append("text held lone surrogates")
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _finite(number: float, notes: list[str]) -> float | None:
    if math.isfinite(number):
        return number
    notes.append("a number was not finite")
    return None


def _text_of_bytes(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return b64encode(value).decode("ascii")


def _in_order(values: AbstractSet[Any]) -> list[Any]:
    try:
        return sorted(values)
    except TypeError:
        return list(values)


def _by_encoder(
    record: dict[str, Any], serializer: type[json.JSONEncoder], notes: list[str]
) -> bytes:
    try:
        text = json.dumps(record, separators=(",", ":"), cls=serializer, allow_nan=False)
    except ValueError:
        text = ""
    if not text or "\\ud" in text:
        # Something is not finite or not text: let the encoder speak, then clean what it wrote.
        return to_json(_Walk(notes).value(json.loads(json_dumps(record, cls=serializer)), 0))
    return text.encode()
