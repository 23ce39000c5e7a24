"""Read the parts of Mixpanel's answers: numbers sent as text, dates, and what every report has.

What has no known shape raises `ServerError`, never an `AttributeError` further on. Pure.
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
    "OVERALL", "a_list", "a_series", "about", "an_object", "check_error", "count", "dates_of",
    "group_of", "is_date", "is_dated", "label", "moment", "number", "share", "unexpected",
]  # fmt: skip

OVERALL = "$overall"
DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ].*)?")


def is_date(text: str) -> bool:
    """Return True for a date, with or without a time."""
    return DATE.fullmatch(text) is not None


def check_error(answer: Any, sent: RequestInfo) -> None:
    """Refuse an error that came with status 200, as insights and flows send it.

    :raises QueryError: with Mixpanel's reason.
    """
    if isinstance(answer, dict) and answer.get("error"):
        known = {"results", "data", "series", "steps"} & answer.keys()
        if not known:
            reason = answer["error"]
            text = reason if isinstance(reason, str) else str(reason)
            reason = sent.without_payload(" ".join(text.split()))[:300]
            fields: dict[str, Any] = {**sent.error_fields(), "status_code": 200}
            raise QueryError(sent.text("HTTP 200", reason), **fields)


def unexpected(what: str) -> ServerError:
    """Return the error for an answer that has no known shape."""
    return ServerError(f"Mixpanel's answer has no known shape: {what}", status_code=200)


def an_object(value: Any, what: str) -> dict[str, Any]:
    """Return a JSON object.

    :raises ServerError: for anything else.
    """
    if not isinstance(value, dict):
        raise unexpected(f"{what} is not an object")
    return value


def a_list(value: Any, what: str) -> list[Any]:
    """Return a JSON array.

    :raises ServerError: for anything else.
    """
    if not isinstance(value, list):
        raise unexpected(f"{what} is not a list")
    return value


def number(value: Any, what: str = "a figure") -> float:
    """Return a number, which may have come as text; NaN for what has none.

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
    """Return a whole number, which may have come as text; 0 for what has none.

    :raises ServerError: for anything else.
    """
    found = number(value, what)
    return 0 if math.isnan(found) or math.isinf(found) else int(found)


def share(value: Any) -> float | None:
    """Return a share or duration; None for what has none, as NaN."""
    found = number(value)
    return found if math.isfinite(found) else None


def moment(value: Any) -> datetime | None:
    """Return when figures were computed, aware and in UTC; None if the answer does not have it."""
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)


def about(answer: Any, timezone: str | None) -> dict[str, Any]:
    """Return what every result carries."""
    data = answer if isinstance(answer, dict) else {}
    meta = data.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    factor = meta.get("min_sampling_factor", 1.0)
    return {
        "timezone": timezone,
        "computed_at": moment(data.get("computed_at")),
        "sampling_factor": float(factor) if isinstance(factor, (int, float)) else 1.0,
        "limit_hit": bool(meta.get("is_segmentation_limit_hit")),
    }


def label(date: str) -> str:
    """Return a date as Mixpanel's classic answers write it: without the zone, nor midnight.

    >>> label("2026-01-31T00:00:00-08:00"), label("2026-01-31T13:00:00")
    ('2026-01-31', '2026-01-31 13:00:00')
    """
    if len(date) <= 10 or not is_date(date):
        return date
    day, time = date[:10], date[11:19]
    return day if time in ("", "00:00:00") else f"{day} {time}"


def a_series(answer: Any) -> Series:
    """Return figures by segment and date, in the order of dates, with 0 for those missing."""
    data = an_object(an_object(answer, "it").get("data"), "data")
    values = an_object(data.get("values"), "values")
    named = [str(date) for date in a_list(data.get("series", []), "series")]
    dates = sorted({*named, *(date for each in values.values() for date in an_object(each, "it"))})
    return {
        segment: {date: number(each[date]) if date in each else 0 for date in dates}
        for segment, each in values.items()
    }


def dates_of(answer: Any) -> tuple[str | None, str | None]:
    """Return the first and last day that a report covers."""
    found = answer.get("date_range") if isinstance(answer, dict) else None
    found = found if isinstance(found, dict) else {}
    first, last = found.get("from_date"), found.get("to_date")
    return (
        first[:10] if isinstance(first, str) else None,
        last[:10] if isinstance(last, str) else None,
    )


def group_of(answer: Any, segments: Mapping[str, Any]) -> str | None:
    """Return the group that a report is broken down by, as its headers name it."""
    headers = answer.get("headers") if isinstance(answer, dict) else None
    names = [str(each) for each in headers or () if not str(each).startswith("$")]
    return (names[0] if names else "segment") if segments else None


def is_dated(data: Mapping[str, Any]) -> bool:
    """Return True if the keys are dates, those that begin with a dollar aside."""
    return bool(data) and all(is_date(key) for key in data if not key.startswith("$"))
