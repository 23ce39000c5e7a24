"""Serialize to JSON: fast for plain data, with a conversion for everything else.

| value | JSON |
|---|---|
| NaN, infinities, NaT, NA, nulls of pyarrow | `null` |
| aware `datetime` | UTC, `2026-01-31T12:00:00` |
| naive `datetime` | the same, as if it were UTC |
| `date`, `time` | ISO 8601 |
| `timedelta` | seconds |
| `Decimal`, `Fraction` | a number; digits beyond those of a float are noted |
| `UUID`, `Path`, `IPv4Address`, … | text |
| `Enum` | its value |
| `bytes` | text if it is UTF-8, else base64 |
| set, tuple, any iterable | a list (sets sorted where they can be) |
| dataclass, pydantic model, mapping | an object |
| numpy and pandas scalars and arrays | numbers, text, lists |
| lone surrogates | U+FFFD |
| deeper than 16 levels, cycles, more than 100,000 values | `null`, or omitted |
| whole numbers beyond the range of a float | `null` |
| functions | `null` |
| anything else | `str(value)`, at most 1,024 characters |

Each conversion that loses something (`null`, U+FFFD, `str`) adds a note, for the caller to count or
to reject.
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

from mixpanel._records.values import is_missing, plain_scalar

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "DatetimeSerializer",
    "dumps",
    "dumps_plain",
    "format_utc",
    "json_dumps",
    "loads",
    "plain_depth",
]

MAX_DEPTH = 16
MAX_TEXT_LENGTH = 1024
MAX_VALUES = 100_000
# Longer integers are valid JSON, but a server that parses numbers as floats would reject the batch.
LARGEST_INT = 10**308


def format_utc(value: datetime) -> str:
    """Return a date and time in Mixpanel's format: UTC, to the second, without an offset."""
    if value.tzinfo is not None:
        value = value.astimezone(UTC)
    return value.replace(tzinfo=None, microsecond=0).isoformat()


class DatetimeSerializer(json.JSONEncoder):
    """Encode `datetime` in Mixpanel's format; the default serializer, and a base for your own."""

    def default(self, o: Any) -> Any:
        """Return the text of a datetime.

        :raises TypeError: for any other type that JSON does not have.
        """
        if isinstance(o, datetime):
            return format_utc(o)
        return super().default(o)


def json_dumps(data: Any, cls: type[json.JSONEncoder] | None = None) -> str:
    """Return compact JSON, made by the standard library as in the official package."""
    return json.dumps(data, separators=(",", ":"), cls=cls)


def dumps(
    record: dict[str, Any], serializer: type[json.JSONEncoder] | None = None
) -> tuple[bytes, list[str]]:
    """Return the record as JSON in UTF-8, and a note for each value that lost something.

    :raises TypeError, ValueError: only what a custom `serializer` raises.
    """
    notes: list[str] = []
    if serializer is not None and serializer is not DatetimeSerializer:
        return _dumps_with(record, serializer, notes), notes
    body = dumps_plain(record) if plain_depth(record) else None
    return (to_json(Converter(notes).value(record, 0)) if body is None else body), notes


def dumps_plain(record: dict[str, Any]) -> bytes | None:
    """Return a plain record as JSON; None if a text in it contains lone surrogates."""
    try:
        return to_json(record, inf_nan_mode="null")
    except (PydanticSerializationError, ValueError):
        return None


def loads(body: bytes | str) -> Any:
    """Parse JSON.

    :raises ValueError: if it is not valid.
    """
    return json.loads(body)


def plain_depth(value: dict[str, Any]) -> int:
    """Return the nesting depth of a plain object; 0 if it is not plain.

    Plain objects consist of JSON's own types: text, finite numbers, booleans, null, lists and dicts
    with text keys. The depth is 1 when no value is a list or dict.
    """
    nested: list[Any] = []
    if not _is_plain(value, nested):
        return 0
    if not nested:  # of nearly all messages
        return 1
    depth, count = 1, 0
    while nested and depth < MAX_DEPTH:
        level, nested = nested, []
        for container in level:
            # Shared lists within shared lists would multiply without an end.
            count += len(container)
            if count > MAX_VALUES or not _is_plain(container, nested):
                return 0
        depth += 1
    return 0 if nested else depth


def _is_plain(container: Any, nested: list[Any]) -> bool:  # noqa: C901
    """Return True if all scalars in a container are plain; add the containers to `nested`."""
    if type(container) is dict:
        for name in container:
            if type(name) is not str:
                return False
        container = container.values()
    for item in container:
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
            nested.append(item)
        else:
            return False
    return True


class Converter:
    """Convert values to JSON's types, by the table at the top of this module.

    It keeps the containers around the current value, so that a cycle is noticed, and the number of
    values that remain, so that a graph of shared objects does not multiply.
    """

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes
        self._ancestors: set[int] = set()
        self._remaining = MAX_VALUES

    def value(self, value: Any, depth: int) -> Any:
        """Return the value converted to JSON's types."""
        kind = type(value)
        if kind is str:
            return _clean_text(value, self.notes)
        if kind is bool or value is None:
            return value
        if kind is int:
            return self._integer(value)
        if kind is float:
            return _finite(value, self.notes)
        identity = id(value)
        if identity in self._ancestors:
            self.notes.append(f"{kind.__name__} contains itself")
            return None
        if depth > MAX_DEPTH:
            self.notes.append(f"nested deeper than {MAX_DEPTH} levels")
            return None
        self._ancestors.add(identity)
        try:
            return self._convert_object(value, depth)
        except Exception as error:
            self.notes.append(f"{kind.__name__} could not be read ({type(error).__name__})")
            return None
        finally:
            self._ancestors.discard(identity)

    def _convert_object(self, value: Any, depth: int) -> Any:  # noqa: C901
        if is_missing(value):
            self.notes.append(f"a missing value ({type(value).__name__}) became null")
            return None
        value = plain_scalar(value)
        match value:
            case None | bool():
                return value
            case Enum():
                return self.value(value.value, depth + 1)
            case str():
                return _clean_text(str.__str__(value), self.notes)
            case int():
                return self._integer(int(value))
            case float() | Decimal() | Fraction():
                return self._number(value)
            case datetime():
                return format_utc(value)
            case date() | time():
                return value.isoformat()
            case timedelta():
                return value.total_seconds()
            case bytes() | bytearray() | memoryview():
                return _bytes_to_text(bytes(value))
            case Mapping():
                pairs = self._within_bounds(value.items())
                return {self._key(k, depth): self.value(v, depth + 1) for k, v in pairs}
            case AbstractSet():
                return self.value(_sorted(value), depth)
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
        if callable(value) and " at 0x" in text:
            self.notes.append(f"{type(value).__name__} has no JSON form and became null")
            return None
        if type(value).__module__ not in ("uuid", "ipaddress", "pathlib", "pathlib._local", "yarl"):
            self.notes.append(f"{type(value).__name__} was sent as text")
        return text[:MAX_TEXT_LENGTH]

    def _list(self, items: Iterable[Any], depth: int) -> list[Any]:
        return [self.value(item, depth + 1) for item in self._within_bounds(items)]

    def _within_bounds(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self._remaining -= 1
            if self._remaining < 0:
                if self._remaining == -1:
                    self.notes.append(f"more than {MAX_VALUES:,} values")
                return
            yield item

    def _key(self, key: Any, depth: int) -> str:
        if key is None:
            return "null"
        if isinstance(key, bool):
            return "true" if key else "false"
        text = self.value(key, depth + 1)
        if text is None:
            return "null"
        return text if isinstance(text, str) else str(text)

    def _number(self, number: float | Decimal | Fraction) -> float | None:
        if isinstance(number, float) or not math.isfinite(number):
            return _finite(float(number), self.notes)
        if number == int(number) != float(number):
            return self._integer(int(number))
        rounded = float(number)
        if isinstance(number, Decimal) and Decimal(repr(rounded)) != number:
            self.notes.append("a Decimal has more digits than a number of JSON: it was rounded")
        return _finite(rounded, self.notes)

    def _integer(self, number: int) -> int | None:
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


def _bytes_to_text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return b64encode(value).decode("ascii")


def _sorted(values: AbstractSet[Any]) -> list[Any]:
    try:
        return sorted(values)
    except TypeError:
        return list(values)


def _dumps_with(
    record: dict[str, Any], serializer: type[json.JSONEncoder], notes: list[str]
) -> bytes:
    try:
        text = json.dumps(record, separators=(",", ":"), cls=serializer, allow_nan=False)
    except ValueError:
        text = ""
    if not text or "\\ud" in text:
        # Not finite, or with lone surrogates: let the encoder write it, then convert the result.
        return to_json(Converter(notes).value(json.loads(json_dumps(record, cls=serializer)), 0))
    return text.encode()
