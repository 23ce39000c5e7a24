"""Plan a fetch: which days, in which calls, with which filters. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_left
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from mixpanel.data.exceptions import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path

__all__ = [
    "Chunk",
    "Day",
    "Filters",
    "Part",
    "as_day",
    "chunks",
    "days_of",
    "end_of_day",
    "is_relative",
    "is_reusable",
    "names",
    "ranges",
    "text",
    "today",
    "whole",
    "zone",
]

Day = str | date

ONE_DAY = timedelta(days=1)
NAMED_DAYS = {"today": 0, "yesterday": 1}
RELATIVE_DAY = re.compile(r"today|yesterday|-[0-9]{1,9}[dwmy]")

# Mixpanel accepts events up to five days late, so a day received earlier than that is incomplete.
# It may still be used while the interrupted fetch it belongs to is repeated, for a day.
COMPLETE_AFTER = timedelta(days=5)
REUSABLE_FOR = timedelta(days=1)
CLOCK_SKEW = timedelta(hours=1)  # by which the clock may have been set back since


@dataclass(frozen=True, slots=True, order=True)
class Chunk:
    """A range of whole days, both ends included, that one call fetches."""

    from_date: date
    to_date: date

    @property
    def days(self) -> int:
        """The number of days."""
        return (self.to_date - self.from_date).days + 1

    def __iter__(self) -> Iterator[date]:
        """Yield the days in order."""
        return iter(days_of(self.from_date, self.to_date))

    def __str__(self) -> str:
        if self.from_date == self.to_date:
            return str(self.from_date)
        return f"{self.from_date} to {self.to_date}"


@dataclass(frozen=True, slots=True)
class Part:
    """A file with the response of one call as Mixpanel sent it: one event or profile a line.

    `received_at` is None for a part that has just arrived. `digest` is the SHA-256 of the file, or
    empty. `earlier_end` is the end of an earlier download that seemed to be truncated.
    """

    path: Path
    chunk: Chunk
    bytes: int
    gzip: bool
    received_at: datetime | None = None
    digest: str = ""
    earlier_end: str | None = None


@dataclass(frozen=True, slots=True)
class Filters:
    """What a fetch selects besides the days; fetches with equal filters may share a table."""

    events: tuple[str, ...] = ()
    where: str | None = None
    cohort_id: int | None = None
    output_properties: tuple[str, ...] = ()
    group_id: str | None = None
    behaviors: str | None = None
    distinct_ids: tuple[str, ...] = ()
    include_all_users: bool = False
    limit: int | None = None
    project_timezone: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the filters that are set."""
        return {name: value for name, value in asdict(self).items() if value}

    def to_json(self) -> str:
        """Return canonical JSON: equal filters are equal text in the fetch log."""
        return json.dumps(self.to_dict(), ensure_ascii=False, sort_keys=True)

    def key(self) -> str:
        """Return a short hash that equal filters share."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


def as_day(value: Day, name: str, project_timezone: str | None = None) -> date:
    """Return a day given as a `date`, as text like 2026-01-31, or relative to today.

    Relative days are `today`, `yesterday` and, so many days, weeks, months or years ago, `-7d`,
    `-4w`, `-3m` and `-1y`; today is that of the project's time zone. A month ago is the same day of
    the last month, or its last day.

    :raises ConfigError: naming the argument, for anything else.
    """
    if isinstance(value, datetime):
        raise ConfigError(f"{name}={value!r} must be a date without a time, such as 2026-01-31")
    if isinstance(value, date):
        return value
    if isinstance(value, str):
        if is_relative(value):
            return _relative_day(value, name, today(project_timezone))
        if len(value) == len("2026-01-31"):
            with suppress(ValueError):
                return date.fromisoformat(value)
    raise ConfigError(
        f"{name}={value!r} is not a date; write it as 2026-01-31, or as today, yesterday, -7d, -4w "
        "or -3m"
    )


def is_relative(value: object) -> bool:
    """Return True for a day relative to today, such as `-7d`."""
    return isinstance(value, str) and RELATIVE_DAY.fullmatch(value.strip().lower()) is not None


def _relative_day(value: str, name: str, now: date) -> date:
    text = value.strip().lower()
    if text in NAMED_DAYS:
        return now - NAMED_DAYS[text] * ONE_DAY
    number, unit = int(text[1:-1]), text[-1]
    try:
        if unit in "dw":
            return now - number * (7 if unit == "w" else 1) * ONE_DAY
        months = now.year * 12 + now.month - 1 - number * (12 if unit == "y" else 1)
        first = date(months // 12, months % 12 + 1, 1)
        return min(first.replace(day=1) + (now.day - 1) * ONE_DAY, _last_of_month(first))
    except (OverflowError, ValueError):
        raise ConfigError(f"{name}={value!r} is before the year 1") from None


def _last_of_month(first: date) -> date:
    return (first + 31 * ONE_DAY).replace(day=1) - ONE_DAY


def days_of(from_date: date, to_date: date) -> list[date]:
    """Return the days of a range, both ends included."""
    return [from_date + n * ONE_DAY for n in range((to_date - from_date).days + 1)]


def chunks(days: Collection[date], calls: int, *, size: int | None = None) -> list[Chunk]:
    """Divide days into at most `calls` chunks: of one day each if they fit, else of more.

    Chunks never span a gap, so there may be more: at least one for each run of days. With `size`,
    each has up to that many days, however many calls that takes.
    """
    runs = ranges(days)
    if size is None:
        calls = max(1, calls)
        # The number of calls only falls as chunks grow, so the shortest size is found by halving:
        # counting them for every size would take minutes for thousands of gaps.
        sizes = range(max(1, -(-len(days) // calls)), max(1, len(days)))
        size = sizes.start + bisect_left(sizes, 1, key=lambda n: _calls(runs, n) <= calls)
    return _cut(runs, size)


def ranges(days: Iterable[date]) -> list[Chunk]:
    """Return the runs of consecutive days, in order."""
    runs: list[Chunk] = []
    for day in sorted(set(days)):
        if runs and runs[-1].to_date + ONE_DAY == day:
            runs[-1] = Chunk(runs[-1].from_date, day)
        else:
            runs.append(Chunk(day, day))
    return runs


def _calls(runs: Iterable[Chunk], size: int) -> int:
    return sum(-(-run.days // size) for run in runs)


def _cut(runs: Iterable[Chunk], size: int) -> list[Chunk]:
    return [
        Chunk(
            run.from_date + n * ONE_DAY, min(run.from_date + (n + size - 1) * ONE_DAY, run.to_date)
        )
        for run in runs
        for n in range(0, run.days, size)
    ]


def names(given: Iterable[str] | str | None, argument: str) -> tuple[str, ...]:
    """Return one name or several as a sorted tuple without duplicates.

    :raises ConfigError: for a name that is empty or not text.
    """
    try:
        several = (given,) if isinstance(given, str) else tuple(given or ())
    except TypeError:
        raise ConfigError(f"{argument}={given!r} must be a name or a list of names") from None
    for name in several:
        if not text(argument, name):
            raise ConfigError(f"{argument}={name!r}: a name must be text and not empty")
    return tuple(sorted(set(several)))


def text(argument: str, value: str | None) -> str | None:
    """Return text that can be encoded as UTF-8; None stays None.

    :raises ConfigError: for another type, or an unpaired surrogate.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise ConfigError(f"{argument}={value!r} must be text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"{argument}={value!r} holds an unpaired surrogate, which UTF-8 cannot encode"
        ) from None
    return value


def whole(name: str, value: int | None, least: int, most: int) -> None:
    """Check that a value is None or a whole number from `least` to `most`.

    :raises ConfigError: naming the argument.
    """
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigError(f"{name}={value!r} must be a whole number between {least} and {most:,}")


def zone(name: str | None) -> ZoneInfo | None:
    """Return the time zone of a project; None for UTC.

    :raises ConfigError: for a name that is not in the time zone database.
    """
    if name is None or name == "UTC":
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError, TypeError, AttributeError):
        raise ConfigError(
            f"project_timezone={name!r} is not a known time zone; use a name such as Europe/Oslo"
        ) from None


def today(project_timezone: str | None = None, now: float | None = None) -> date:
    """Return the current date in the project's time zone."""
    where = zone(project_timezone) or UTC
    return (datetime.now(where) if now is None else datetime.fromtimestamp(now, where)).date()


def end_of_day(day: date, project_timezone: str | None = None) -> datetime:
    """Return the time at which a day ends in the project's time zone."""
    return datetime.combine(day + ONE_DAY, time(), zone(project_timezone) or UTC)


def is_reusable(
    day: date, received_at: datetime, now: datetime, project_timezone: str | None = None
) -> bool:
    """Return True if a day that was received earlier need not be fetched again.

    That is so for a day after it was received, and for good if late events could no longer come.
    A time in the future is a clock that was wrong, and proves nothing.
    """
    age = now - received_at
    is_complete = received_at - end_of_day(day, project_timezone) >= COMPLETE_AFTER
    return age >= -CLOCK_SKEW and (age <= REUSABLE_FOR or is_complete)
