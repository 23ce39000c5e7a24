"""The days of a report in the project's timezone, with their bounds in UTC and their buckets."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from mixpanel.data._fetch.plan import Day, as_day, zone
from mixpanel.data.exceptions import ConfigError

if TYPE_CHECKING:
    from datetime import tzinfo

__all__ = ["Bucket", "Period", "begin", "label"]

Bucket = Literal["minute", "hour", "day", "week", "month"]

ONE_DAY = timedelta(days=1)
MAX_DAYS = {"minute": 366, "hour": 3_660}
FIRST, LAST = datetime.min, datetime.max  # noqa: DTZ901 - UTC, as all here
SECOND = timedelta(seconds=1)
# No timezone changes its clock twice within this time.
BETWEEN_CHANGES = timedelta(hours=12)
# Offsets from UTC are multiples of this, so that steps of this size hit every bucket.
STEP = {"hour": timedelta(minutes=15), "minute": timedelta(minutes=1)}


@dataclass(frozen=True, slots=True)
class Period:
    """Whole days from `from_date` to `to_date`, both included, by the project's wall clock.

    When the clock goes back, the repeated hour is one bucket; when it goes forward, the skipped
    hour has none. Weeks begin on Monday; in the first week or month, days before `from_date` are
    not counted.
    """

    from_date: date
    to_date: date
    timezone: str = "UTC"
    _zone: tzinfo = field(default=UTC, repr=False, compare=False)

    @classmethod
    def checked(cls, from_date: Day, to_date: Day, timezone: str | None = None) -> Period:
        """Return the period for the arguments of a report.

        :raises ConfigError: for invalid or reversed dates, and unknown timezones.
        """
        try:
            found = zone(timezone)
        except ConfigError:
            raise ConfigError(
                f"timezone={timezone!r} is not a timezone; write it as Europe/Oslo"
            ) from None
        first, last = as_day(from_date, "from_date", timezone), as_day(to_date, "to_date", timezone)
        if first > last:
            raise ConfigError(f"from_date={first} is later than to_date={last}")
        if not date.min + ONE_DAY < first <= last < date.max - ONE_DAY:
            raise ConfigError(f"{first} to {last} is outside the range of dates")
        return cls(first, last, timezone or "UTC", found or UTC)

    @property
    def zone(self) -> tzinfo:
        """The time zone of its days."""
        return self._zone

    @property
    def start(self) -> datetime:
        """The first instant of the first day, in UTC without a zone."""
        return self.instant(self.from_date)

    @property
    def end(self) -> datetime:
        """The first instant after the last day, in UTC without a zone."""
        return self.instant(self.to_date + ONE_DAY)

    def before(self, length: timedelta) -> datetime:
        """Return the time `length` before the start, or the earliest that a datetime can be."""
        return max(self.start, FIRST + length) - length

    def after(self, length: timedelta) -> datetime:
        """Return the time `length` after the end, or the latest that a datetime can be."""
        return min(self.end, LAST - length) + length

    def local(self, column: str) -> str:
        """Return SQL of the wall clock time of a UTC timestamp in the period."""
        # Offsets are written into the SQL, so that days are those of Python's timezone data, and
        # DuckDB does not need its own (the ICU extension).
        pieces = self._offsets(self.start, self.end)
        if len(pieces) == 1:
            return _shifted(column, pieces[0][1])
        cases = [
            f"WHEN {column} < TIMESTAMP '{after:%Y-%m-%d %H:%M:%S}' THEN {_shifted(column, offset)}"
            for (_, offset), (after, _) in pairwise(pieces)
        ]
        return f"CASE {' '.join(cases)} ELSE {_shifted(column, pieces[-1][1])} END"

    def bucket(self, column: str, unit: Bucket) -> str:
        """Return SQL of the bucket of a UTC timestamp: the wall clock time at its start.

        :raises ConfigError: for a period with too many minutes or hours.
        """
        days, most = (self.to_date - self.from_date).days + 1, MAX_DAYS.get(unit)
        if most is not None and days > most:
            raise ConfigError(
                f"unit={unit!r} allows {most:,} days at most, not {days:,}: use a longer unit"
            )
        return f"date_trunc('{unit}', {self.local(column)})"

    def buckets(self, unit: Bucket) -> list[str]:
        """Return the labels of all buckets of the period, in order."""
        if unit in STEP:
            return self._clock_buckets(unit)
        days = [
            self.from_date + n * ONE_DAY for n in range((self.to_date - self.from_date).days + 1)
        ]
        existing = [day for day in days if self.instant(day) < self.instant(day + ONE_DAY)]
        return list(dict.fromkeys(label(begin(day, unit)) for day in existing))

    def _clock_buckets(self, unit: Bucket) -> list[str]:
        pieces = [*self._offsets(self.start, self.end), (self.end, timedelta())]
        found: dict[str, None] = {}
        for (start, offset), (end, _) in pairwise(pieces):
            instant = start
            while instant < end:
                wall = instant + offset
                begin = wall.replace(second=0, microsecond=0)
                found[label(begin.replace(minute=0) if unit == "hour" else begin, clock=True)] = (
                    None
                )
                instant += STEP[unit]
        return sorted(found)

    def instant(self, day: date) -> datetime:
        """Return the first instant of a day, in UTC without a zone."""
        # If the clock skips midnight, this is the time at which it does.
        return datetime.combine(day, time(), self._zone).astimezone(UTC).replace(tzinfo=None)

    def _offset(self, instant: datetime) -> timedelta:
        offset = instant.replace(tzinfo=UTC).astimezone(self._zone).utcoffset()
        assert offset is not None
        return offset

    def _offsets(self, start: datetime, end: datetime) -> list[tuple[datetime, timedelta]]:
        """Return the offsets of the wall clock from UTC, each with the time at which it begins."""
        pieces = [(start, self._offset(start))]
        low = start
        while low < end:
            high = min(low + BETWEEN_CHANGES, end)
            if self._offset(high) != pieces[-1][1]:
                pieces.append((self._change(low, high), self._offset(high)))
            low = high
        return pieces

    def _change(self, low: datetime, high: datetime) -> datetime:
        before = self._offset(low)
        while high - low > SECOND:
            middle = low + (high - low) // 2
            middle = middle.replace(microsecond=0)
            if middle <= low:
                break
            low, high = (middle, high) if self._offset(middle) == before else (low, middle)
        return high.replace(microsecond=0)


def label(start: date, *, clock: bool = False) -> str:
    """Return the label of a bucket, in Mixpanel's form: `2026-01-31` or `2026-01-31 13:00:00`."""
    if clock and isinstance(start, datetime):
        return start.isoformat(sep=" ", timespec="seconds")
    return start.isoformat()[: len("2026-01-31")]


def begin(day: date, unit: Bucket) -> date:
    """Return the first day of the week or month of a day; for other units, the day itself."""
    if unit == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if unit == "month" else day


def _shifted(column: str, offset: timedelta) -> str:
    seconds = round(offset.total_seconds())
    if not seconds:
        return column
    sign = "+" if seconds > 0 else "-"
    return f"{column} {sign} INTERVAL '{abs(seconds)} seconds'"
