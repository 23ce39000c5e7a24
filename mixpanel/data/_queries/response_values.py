"""Read the parts of Mixpanel's responses: numbers sent as text, dates, and common fields.

An unexpected structure raises `ServerError` here, and not an `AttributeError` later.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mixpanel.data.exceptions import QueryError, ServerError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mixpanel.data._api.responses import RequestInfo
    from mixpanel.data.query_results import Series

__all__ = [
    "OVERALL",
    "as_list",
    "as_object",
    "as_series",
    "check_error",
    "common_fields",
    "count",
    "dates_of",
    "group_of",
    "is_date",
    "is_dated",
    "label",
    "number",
    "share",
    "unexpected",
    "utc_time",
]  # fmt: skip

OVERALL = "$overall"
DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ].*)?")


def is_date(text: str) -> bool:
    """Return True for a date, with or without a time."""
    return DATE.fullmatch(text) is not None


def check_error(response: Any, sent: RequestInfo) -> None:
    """Raise the error in a response with status 200, as insights and flows send it.

    :raises QueryError: with Mixpanel's message.
    """
    if isinstance(response, dict) and response.get("error"):
        known = {"results", "data", "series", "steps"} & response.keys()
        if not known:
            reason = response["error"]
            text = reason if isinstance(reason, str) else str(reason)
            reason = sent.without_payload(" ".join(text.split()))[:300]
            fields: dict[str, Any] = {**sent.error_fields(), "status_code": 200}
            raise QueryError(sent.text("HTTP 200", reason), **fields)


def unexpected(what: str) -> ServerError:
    """Return the error for a response with an unexpected structure."""
    return ServerError(f"unexpected response from Mixpanel: {what}", status_code=200)


def as_object(value: Any, what: str) -> dict[str, Any]:
    """Return a JSON object.

    :raises ServerError: for anything else.
    """
    if not isinstance(value, dict):
        raise unexpected(f"{what} is not an object")
    return value


def as_list(value: Any, what: str) -> list[Any]:
    """Return a JSON array.

    :raises ServerError: for anything else.
    """
    if not isinstance(value, list):
        raise unexpected(f"{what} is not a list")
    return value


def number(value: Any, what: str = "a figure") -> float:
    """Return a number, which may be sent as text; NaN for null.

    :raises ServerError: for anything else.
    """
    if value is None:
        return math.nan
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, str):
        try:
            return int(value) if value.lstrip("-").isdigit() else float(value)
        except ValueError:
            pass
    raise unexpected(f"{what} is not a number")


def count(value: Any, what: str = "a count") -> int:
    """Return an integer, which may be sent as text; 0 for null and NaN.

    :raises ServerError: for anything else.
    """
    found = number(value, what)
    return 0 if math.isnan(found) or math.isinf(found) else int(found)


def share(value: Any) -> float | None:
    """Return a share or duration; None for null, NaN and infinity."""
    found = number(value)
    return found if math.isfinite(found) else None


def utc_time(value: Any) -> datetime | None:
    """Return a time as an aware datetime in UTC; None if the text is not a time."""
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)


def common_fields(response: Any, timezone: str | None) -> dict[str, Any]:
    """Return the fields that every result has, see `QueryResult`."""
    data = response if isinstance(response, dict) else {}
    meta = data.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    factor = meta.get("min_sampling_factor", 1.0)
    return {
        "timezone": timezone,
        "computed_at": utc_time(data.get("computed_at")),
        "sampling_factor": float(factor) if isinstance(factor, (int, float)) else 1.0,
        "limit_hit": bool(meta.get("is_segmentation_limit_hit")),
    }


def label(date: str) -> str:
    """Return a date as the older endpoints write it: without the offset, and without midnight.

    >>> label("2026-01-31T00:00:00-08:00"), label("2026-01-31T13:00:00")
    ('2026-01-31', '2026-01-31 13:00:00')
    """
    if len(date) <= 10 or not is_date(date):
        return date
    day, time = date[:10], date[11:19]
    return day if time in ("", "00:00:00") else f"{day} {time}"


def as_series(response: Any) -> Series:
    """Return numbers by segment and date, in order of date; missing dates count 0."""
    data = as_object(as_object(response, "the response").get("data"), "data")
    values = as_object(data.get("values"), "values")
    named = [str(date) for date in as_list(data.get("series", []), "series")]
    dates = sorted(
        {*named, *(date for each in values.values() for date in as_object(each, "the response"))}
    )
    return {
        segment: {date: number(each[date]) if date in each else 0 for date in dates}
        for segment, each in values.items()
    }


def dates_of(response: Any) -> tuple[str | None, str | None]:
    """Return the first and last day that a report covers."""
    found = response.get("date_range") if isinstance(response, dict) else None
    found = found if isinstance(found, dict) else {}
    first, last = found.get("from_date"), found.get("to_date")
    return (
        first[:10] if isinstance(first, str) else None,
        last[:10] if isinstance(last, str) else None,
    )


def group_of(response: Any, segments: Mapping[str, Any]) -> str | None:
    """Return the property that a report is broken down by, according to its headers."""
    headers = response.get("headers") if isinstance(response, dict) else None
    names = [str(each) for each in headers or () if not str(each).startswith("$")]
    return (names[0] if names else "segment") if segments else None


def is_dated(data: Mapping[str, Any]) -> bool:
    """Return True if all keys are dates, except those that begin with a dollar."""
    return bool(data) and all(is_date(key) for key in data if not key.startswith("$"))
