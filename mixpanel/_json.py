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
| deeper than 16 levels, cycles | `null` |
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
from itertools import islice
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

__all__ = ["DatetimeSerializer", "dumps", "dumps_flat", "json_dumps", "loads", "utc_text"]

DEEPEST = 16
LONGEST_TEXT = 1024
MOST_ITEMS = 10_000

_SCALARS = frozenset({str, int, float, bool, type(None)})
_TEXT = frozenset({str})


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
    if is_plain(record):
        try:
            body = to_json(record, inf_nan_mode="constants")
        except (PydanticSerializationError, ValueError):
            pass
        else:
            if b"NaN" not in body and b"Infinity" not in body:
                return body, notes
    return to_json(coerce(record, notes), inf_nan_mode="null"), notes


def dumps_flat(record: dict[str, Any], inner: Mapping[str, Any]) -> bytes | None:
    """Return the record as JSON when `inner`, its one object, is flat and plain; else None.

    The way nearly every event takes, without a look at its values one by one.
    """
    if not (_TEXT.issuperset(map(type, inner)) and _SCALARS.issuperset(map(type, inner.values()))):
        return None
    try:
        body = to_json(record, inf_nan_mode="constants")
    except (PydanticSerializationError, ValueError):
        return None
    return None if b"NaN" in body or b"Infinity" in body else body


def loads(body: bytes | str) -> Any:
    """Read JSON.

    :raises ValueError: when it is none.
    """
    return json.loads(body)


def is_plain(value: Mapping[str, Any], depth: int = DEEPEST) -> bool:
    """Tell whether an object holds only what JSON knows, down to the bottom."""
    if not _TEXT.issuperset(map(type, value)):
        return False
    values = value.values()
    if _SCALARS.issuperset(map(type, values)):
        return True
    return depth > 0 and all(_is_plain_value(v, depth - 1) for v in values)


def _is_plain_value(value: Any, depth: int) -> bool:
    kind = type(value)
    if kind in _SCALARS:
        return True
    if kind is dict:
        return is_plain(value, depth)
    if kind is list and depth > 0:
        return _SCALARS.issuperset(map(type, value)) or all(
            _is_plain_value(v, depth - 1) for v in value
        )
    return False


def coerce(value: Any, notes: list[str], depth: int = 0) -> Any:
    """Return the value in terms that JSON knows, by the table at the top of this file."""
    kind = type(value)
    if kind is str:
        return _clean_text(value, notes)
    if kind is bool or value is None:
        return value
    if kind is int:
        return value
    if kind is float:
        return _finite(value, notes)
    if depth > DEEPEST:
        notes.append(f"nested deeper than {DEEPEST} levels")
        return None
    try:
        return _coerce_rich(value, notes, depth)
    except Exception as error:
        notes.append(f"{kind.__name__} could not be read ({type(error).__name__})")
        return None


def _coerce_rich(value: Any, notes: list[str], depth: int) -> Any:  # noqa: C901
    match value:
        case Enum():
            return coerce(value.value, notes, depth + 1)
        case str():
            return _clean_text(str.__str__(value), notes)
        case int():
            return int(value)
        case float() | Decimal() | Fraction():
            return _finite(float(value), notes)
        case datetime():
            return utc_text(value)
        case date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case bytes() | bytearray() | memoryview():
            return _text_of_bytes(bytes(value))
        case Mapping():
            pairs = islice(value.items(), MOST_ITEMS)
            return {_key(k, notes): coerce(v, notes, depth + 1) for k, v in pairs}
        case AbstractSet():
            return coerce(_in_order(value), notes, depth)
        case list() | tuple():
            return [coerce(v, notes, depth + 1) for v in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return coerce(fields, notes, depth)
    for method in ("model_dump", "tolist", "to_pydatetime", "isoformat"):
        convert = getattr(value, method, None)
        if callable(convert) and not isinstance(value, type):
            return coerce(convert(), notes, depth + 1)
    if isinstance(value, Iterable) and not isinstance(value, type):
        return [coerce(v, notes, depth + 1) for v in islice(value, MOST_ITEMS)]
    text = _clean_text(str(value), notes)
    if type(value).__module__ not in ("uuid", "ipaddress", "pathlib", "pathlib._local", "yarl"):
        notes.append(f"{type(value).__name__} was sent as text")
    return text[:LONGEST_TEXT]


def _key(key: Any, notes: list[str]) -> str:
    if key is None:
        return "null"
    if isinstance(key, bool):
        return "true" if key else "false"
    coerced = coerce(key, notes)
    return coerced if isinstance(coerced, str) else str(coerced)


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
        return to_json(coerce(json.loads(json_dumps(record, cls=serializer)), notes))
    return text.encode()
