"""Read the parameters of a query: from the URL, a form, or a JSON body. Does no I/O."""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from pydantic_core import from_json

from mixpanel.emulator._rules.decode import RefusedRequest

COUNT_TYPES = ("general", "unique", "average")
SEGMENTATION_UNITS = ("minute", "hour", "day", "week", "month")
HOUR_DAY = ("hour", "day")
TIME_UNITS = ("day", "week", "month")
DAYS = {"minute": 1 / 1440, "hour": 1 / 24, "day": 1, "week": 7, "month": 30}
EARLIEST = date(2000, 1, 1)
MAX_LIMIT = 10_000


class Parameters:
    """The parameters of one query; every error is a 400 that names the parameter."""

    def __init__(self, fields: Mapping[str, Any], *, today: date) -> None:
        self._fields = {name: value for name, value in fields.items() if value not in (None, "")}
        self.today = today

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    @property
    def fields(self) -> dict[str, Any]:
        """All parameters that are not empty."""
        return self._fields

    def text(self, name: str) -> str | None:
        """Return a parameter as text."""
        value = self._fields.get(name)
        return value if value is None or isinstance(value, str) else str(value)

    def required(self, name: str) -> str:
        """Return a parameter as text.

        :raises RefusedRequest: 400: it is missing.
        """
        value = self.text(name)
        if value is None:
            raise RefusedRequest(400, f"{name} is required")
        return value

    def choice(self, name: str, known: Sequence[str], default: str | None = None) -> str:
        """Return one of the known values.

        :raises RefusedRequest: 400: it is another one, or missing without a default.
        """
        value = self.text(name) or default
        if value is None:
            raise RefusedRequest(400, f"{name} is required: one of {', '.join(known)}")
        if value not in known:
            raise RefusedRequest(400, f"{name} must be one of {', '.join(known)}, not {value!r}")
        return value

    def whole(self, name: str, least: int, most: int, default: int) -> int:
        """Return a whole number between two bounds.

        :raises RefusedRequest: 400: it is not one.
        """
        value = self._fields.get(name, default)
        text = str(value)
        if isinstance(value, bool) or not (text.isascii() and text.lstrip("-").isdecimal()):
            raise RefusedRequest(400, f"{name} must be an integer, not {value!r}")
        number = int(text)
        if not least <= number <= most:
            raise RefusedRequest(400, f"{name} must be between {least} and {most}, not {number}")
        return number

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return a parameter that is true or false."""
        value = self._fields.get(name, default)
        return value if isinstance(value, bool) else str(value).lower() in ("1", "true")

    def day(self, name: str) -> date:
        """Return a date.

        :raises RefusedRequest: 400: it is missing, or not written as YYYY-MM-DD.
        """
        return read_day(self.required(name), name)

    def dates(self, *, interval: bool = False, default: int | None = None) -> tuple[date, date]:
        """Return the first and last day, both included.

        Without dates, those of the last `interval` units where the endpoint takes it, or the
        `default` number of days.

        :raises RefusedRequest: 400: they are missing, invalid, or reversed.
        """
        given = "from_date" in self or "to_date" in self
        if not given and interval and "interval" in self:
            unit = self.choice("unit", tuple(DAYS), "day")
            days = self.whole("interval", 1, 100_000, 1) * DAYS[unit]
            return self.today - timedelta(days=max(0, -int(-days // 1) - 1)), self.today
        if not given and default is not None:
            return self.today - timedelta(days=default - 1), self.today
        first, last = self.day("from_date"), self.day("to_date")
        if first > last:
            raise RefusedRequest(400, f"from_date {first} is after to_date {last}")
        if first < EARLIEST:
            raise RefusedRequest(400, f"from_date {first} is before {EARLIEST}")
        return first, last

    def names(self, name: str) -> list[str]:
        """Return a list of texts: JSON, or one plain text.

        :raises RefusedRequest: 400: it is missing or something else.
        """
        found = self.json(name)
        if not isinstance(found, list) or not found or not all(isinstance(n, str) for n in found):
            raise RefusedRequest(400, f'{name} must be a JSON array of texts, as ["Order Paid"]')
        return list(dict.fromkeys(found))

    def json(self, name: str) -> Any:
        """Return a value that a form or URL holds as JSON text.

        :raises RefusedRequest: 400: it is missing or not JSON.
        """
        value = self._fields.get(name)
        if value is None:
            raise RefusedRequest(400, f"{name} is required")
        if not isinstance(value, str):
            return value
        try:
            return from_json(value)
        except ValueError as error:
            raise RefusedRequest(400, f"{name} is not valid JSON") from error


def read_day(text: Any, name: str) -> date:
    """Return a date written as YYYY-MM-DD, with or without a time after it.

    :raises RefusedRequest: 400: it is not one.
    """
    try:
        return date.fromisoformat(text[:10])
    except (TypeError, ValueError) as error:
        message = f"{name} must be a date as YYYY-MM-DD, not {text!r}"
        raise RefusedRequest(400, message) from error


def periods(first: date, last: date, *, unit: str | None, interval: int) -> list[tuple[date, date]]:
    """Divide the days of a funnel: by week or month, or every `interval` days.

    :raises RefusedRequest: 400: there are more than 400.
    """
    found, start = [], first
    while start <= last:
        following = start + timedelta(days=interval)
        if unit == "week":
            following = start + timedelta(days=7 - start.weekday())
        elif unit == "month":
            following = (start.replace(day=1) + timedelta(days=32)).replace(day=1)
        found.append((start, min(last, following - timedelta(days=1))))
        start = following
        if len(found) > 400:
            raise RefusedRequest(400, "a funnel has at most 400 periods: choose a longer interval")
    return found
