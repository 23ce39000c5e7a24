"""Convert values for the Segment spec: ids, timestamps, and JSON.

JSON is encoded as in `mixpanel._records.json_encoding`, except for datetimes: customer data
platforms need the time zone, so they are sent as `2026-01-31T12:00:00.000Z`, with microseconds and
the offset of an aware datetime if it has them. A naive datetime is taken as UTC. The timestamp of a
message itself is in UTC, to the millisecond.
"""

from __future__ import annotations

import math
import operator
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from pydantic_core import to_json

from mixpanel._records.json_encoding import Converter, dumps_plain, plain_depth
from mixpanel._records.validation import MILLISECONDS_FROM
from mixpanel._records.values import is_missing, plain_id, plain_scalar, serial_date
from mixpanel.exceptions import ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Timestamp",
    "UserId",
    "dumps",
    "id_text",
    "milliseconds_text",
    "now_text",
    "timestamp_text",
]

UserId = str | int | UUID
Timestamp = datetime | date | float | str


def dumps(record: dict[str, Any], given: dict[str, Any] | None = None) -> tuple[bytes, list[str]]:
    """Return a record as JSON in UTF-8, and a note for each value that was converted with a loss.

    :param given: the part of the record that may hold arbitrary values, if the rest is known to be
        text; only this part is inspected then.
    """
    if plain_depth(record if given is None else given):
        body = dumps_plain(record)
        if body is not None:
            return body, []
    notes: list[str] = []
    return to_json(_UtcWalk(notes).value(record, 0)), notes


class _UtcWalk(Converter):
    """Encode datetimes with their time zone, and other values as usual."""

    def _convert_object(self, value: Any, depth: int) -> Any:
        if not is_missing(value):
            value = plain_scalar(value)
            if isinstance(value, datetime):
                return _format_exactly(value)
        return super()._convert_object(value, depth)


def id_text(  # noqa: C901
    value: Any, what: str, note: Callable[[str], object] | None = None
) -> str | None:
    """Return an id as text; None for a missing value.

    Zero is an id. A whole float is a whole number, and `note` is called: in a column with missing
    values `17` becomes `17.0`, which would be the id of another person.

    :raises ValidationError: for empty text, and for anything but text, whole numbers and UUIDs.
    """
    if value is None:
        return None
    if type(value) is str and value and not value.isspace():
        return value
    if is_missing(value):
        if note is not None:
            note(f"{what} was a missing value ({type(value).__name__})")
        return None
    value = plain_scalar(value)
    if isinstance(value, (float, Decimal)) and math.isfinite(value) and value == int(value):
        text, remark = plain_id(value, what)
        if note is not None:
            note(remark)
        return text
    if isinstance(value, str):
        text = str.__str__(value)
        if text and not text.isspace():
            return text
        raise ValidationError([f"{what} is empty: pass an id, or leave it out"])
    if isinstance(value, UUID):
        return str(value)
    if not isinstance(value, bool):
        try:
            return str(operator.index(cast("Any", value)))
        except (TypeError, ValueError):
            pass
    raise ValidationError(
        [f"{what} must be text, a whole number or a UUID, not {type(value).__name__}"]
    )


def timestamp_text(timestamp: Timestamp, what: str = "timestamp") -> str:
    """Return a timestamp as `2026-01-31T12:00:00.000Z`.

    :param timestamp: a datetime (naive is UTC), a date (midnight UTC), ISO 8601 text, or a number
        of seconds or milliseconds since 1970.
    :raises ValidationError: for anything else.
    """
    given = timestamp
    try:
        timestamp = plain_scalar(timestamp)
        if isinstance(timestamp, str):
            timestamp = datetime.fromisoformat(timestamp)
        if isinstance(timestamp, datetime):
            if not is_missing(timestamp):
                return _format_utc(timestamp)
        elif isinstance(timestamp, date):
            return _format_utc(datetime(timestamp.year, timestamp.month, timestamp.day, tzinfo=UTC))
        elif not isinstance(timestamp, bool) and not serial_date(float(timestamp)):
            seconds = timestamp / 1000 if timestamp > MILLISECONDS_FROM else timestamp
            return _format_utc(datetime.fromtimestamp(float(seconds), UTC))
    except (TypeError, ValueError, OverflowError, OSError):
        pass
    looks_like = _serial_date(given)
    if looks_like:
        raise ValidationError([f"{what} {looks_like}"])
    known = "a datetime, ISO 8601 text, or seconds or milliseconds since 1970"
    raise ValidationError([f"{what} must be {known}, not this {type(given).__name__}"])


def _serial_date(timestamp: Any) -> str:
    """Return what a number, also as text, looks like if it is a spreadsheet's serial date."""
    try:
        number = float(timestamp)
        return serial_date(int(number) if number == int(number) else number)
    except (TypeError, ValueError, OverflowError):
        return ""


def now_text(seconds: float) -> str:
    """Return a clock's seconds since 1970 as `2026-01-31T12:00:00.000Z`."""
    return milliseconds_text(round(seconds * 1e6) // 1000)


def milliseconds_text(milliseconds: int) -> str:
    """Return whole milliseconds since 1970 as `2026-01-31T12:00:00.000Z`."""
    whole, rest = divmod(milliseconds, 1000)
    return f"{_format_second(whole)}.{rest:03d}Z"


@lru_cache(maxsize=4)
def _format_second(whole: int) -> str:
    # Cached because formatting takes longer than the rest, and many messages share a second.
    return datetime.fromtimestamp(whole, UTC).isoformat()[: -len("+00:00")]


def _format_utc(timestamp: datetime) -> str:
    if timestamp.tzinfo is None:
        timestamp = timestamp.replace(tzinfo=UTC)
    return f"{timestamp.astimezone(UTC).isoformat(timespec='milliseconds')[:-6]}Z"


def _format_exactly(value: datetime) -> str:
    """Return a datetime with its offset, in milliseconds, or microseconds if it has them."""
    if value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    precision = "microseconds" if value.microsecond % 1000 else "milliseconds"
    text = value.isoformat(timespec=precision)
    return f"{text[:-6]}Z" if text.endswith("+00:00") else text
