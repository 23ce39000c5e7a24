"""One rule for each kind of value, whichever library's type it has: missing values, ids, times.

A missing value is missing, whatever it is called: None, NaN of any type, `pandas.NA`, `NaT`, a null
of pyarrow, a masked number of numpy. As an id it is `""`, as a property null, as a time absent. The
types are recognized by their names, so that no such library is imported here.
"""

from __future__ import annotations

import math
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any

from mixpanel.exceptions import ValidationError

__all__ = ["is_missing", "plain_id", "plain_scalar", "serial_date", "to_api_time"]

# Serial dates of spreadsheets count days since 1899-12-30: these are 1982-01-01 to 2100-01-01. As
# seconds or milliseconds since 1970 the same numbers are hours of 1970.
FIRST_SERIAL, LAST_SERIAL = 29_952, 73_051
_PANDAS_NULLS = ("NAType", "NaTType")


def is_missing(value: Any) -> bool:
    """Return True for None and what stands for it in pandas, numpy, pyarrow and decimals."""
    kind = type(value)
    if kind is str or kind is int:
        return False
    if value is None:
        return True
    if isinstance(value, float):
        return math.isnan(value)
    if isinstance(value, Decimal):
        return value.is_nan()
    library = kind.__module__.partition(".")[0]
    if library == "pandas":
        return kind.__name__ in _PANDAS_NULLS
    if library == "numpy":
        return _is_missing_in_numpy(value)
    return library == "pyarrow" and getattr(value, "is_valid", True) is False


def _is_missing_in_numpy(value: Any) -> bool:
    if type(value).__name__ == "MaskedConstant":
        return True
    try:
        return getattr(value, "shape", None) == () and bool(value != value)  # noqa: PLR0124
    except (TypeError, ValueError):
        return False


def plain_scalar(value: Any) -> Any:
    """Return a scalar of numpy, pandas or pyarrow as Python's own; anything else unchanged."""
    kind = type(value)
    library = kind.__module__.partition(".")[0]
    if library == "numpy" and getattr(value, "shape", None) == ():
        if kind.__name__ == "datetime64":
            return value.astype("datetime64[us]").item()
        if kind.__name__ == "timedelta64":
            return value.astype("timedelta64[us]").item()
        return value.item()
    if library == "pyarrow" and callable(getattr(value, "as_py", None)):
        return value.as_py()
    return value


def plain_id(value: Any, name: str) -> tuple[str, str]:
    """Return an id as text, and a note if that is not simply the text of the value, else "".

    A missing value is `""`. A whole float is a whole number: a table with missing values turns 17
    into 17.0, which would be another user.

    :raises ValidationError: when `str` fails, as for an integer of 5,000 digits.
    """
    if type(value) is str:
        return value, ""
    try:
        return _plain_id(value, name)
    except Exception as error:
        raise ValidationError([f"{name} cannot be converted to text: {error}"]) from error


def _plain_id(value: Any, name: str) -> tuple[str, str]:
    if value is None:
        return "", ""
    if is_missing(value):
        return "", f"{name} was a missing value ({type(value).__name__})"
    value = plain_scalar(value)
    if isinstance(value, Enum) and not isinstance(value, str):
        return _plain_id(value.value, name)
    if isinstance(value, (float, Decimal)):
        if not math.isfinite(value):
            return "", f"{name} was not finite"
        if value == int(value):
            return str(int(value)), f"{name} {value} was sent as '{int(value)}'"
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("utf-8", "replace"), ""
    if isinstance(value, (list, tuple, set, frozenset, dict)):
        return str(value), f"{name} was a {type(value).__name__}, sent as text"
    return str.__str__(value) if isinstance(value, str) else str(value), ""


def to_api_time(time: Any) -> Any:
    """Return a time for Mixpanel: numbers unchanged, the rest in whole milliseconds since 1970.

    A naive datetime or ISO 8601 text is UTC, a date its midnight. None stands for a missing value.
    What is no time is returned unchanged.
    """
    if (type(time) is float and time == time) or type(time) is int:  # noqa: PLR0124
        return time
    if is_missing(time):
        return None
    with suppress(ValueError, OverflowError, TypeError, AttributeError):
        time = plain_scalar(time)
        if isinstance(time, str):
            return _milliseconds(datetime.fromisoformat(time.strip()))
        if isinstance(time, datetime):
            return _milliseconds(time)
        if isinstance(time, date):
            return _milliseconds(datetime(time.year, time.month, time.day, tzinfo=UTC))
        if isinstance(time, Decimal):
            return int(time) if time == int(time) else float(time)
    return time


def _milliseconds(time: datetime) -> int:
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    return round(time.timestamp() * 1000)


def serial_date(time: Any) -> str:
    """Return what a number looks like that can only be a spreadsheet's serial date, else "".

    >>> serial_date(45661.4)
    '45661.4 looks like the serial date of a spreadsheet (2025-01-04 09:36): pass that date as text'
    """
    if isinstance(time, bool) or not isinstance(time, (int, float)):
        return ""
    if not FIRST_SERIAL <= time < LAST_SERIAL:
        return ""
    # To the minute: days of a spreadsheet are fractions that hold no seconds exactly.
    at = datetime(1899, 12, 30, tzinfo=UTC) + timedelta(minutes=round(time * 1440))
    shown = f"{at:%Y-%m-%d}" if at.hour == at.minute == 0 else f"{at:%Y-%m-%d %H:%M}"
    return f"{time} looks like the serial date of a spreadsheet ({shown}): pass that date as text"
