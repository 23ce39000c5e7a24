"""Plan a fetch: which days, in which calls, under which filters. Pure."""

from __future__ import annotations

import hashlib
import json
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
    "ranges",
    "today",
    "zone",
]

Day = str | date

ONE = timedelta(days=1)

# Events come in up to five days late: a day received before that is fetched again after a while.
SETTLED = timedelta(days=5)
FRESH = timedelta(days=1)
SKEW = timedelta(hours=1)  # by so much a clock may have been put back


@dataclass(frozen=True, slots=True, order=True)
class Chunk:
    """Some whole days, both ends included, that one call fetches."""

    from_date: date
    to_date: date

    @property
    def days(self) -> int:
        """How many days these are."""
        return (self.to_date - self.from_date).days + 1

    def __iter__(self) -> Iterator[date]:
        """Yield each day."""
        return iter(days_of(self.from_date, self.to_date))

    def __str__(self) -> str:
        if self.from_date == self.to_date:
            return str(self.from_date)
        return f"{self.from_date} to {self.to_date}"


@dataclass(frozen=True, slots=True)
class Part:
    """A file with what one call returned, as it was sent: a line is one event or profile.

    `received_at` is when, if not just now; `digest` the SHA-256 of the file, if it was taken.
    """

    path: Path
    chunk: Chunk
    bytes: int
    gzip: bool
    received_at: datetime | None = None
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Filters:
    """What was asked for besides the days; two fetches with equal filters may share a table."""

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
        """Write them in one way only, for the ledger."""
        return json.dumps(self.to_dict(), ensure_ascii=False, sort_keys=True)

    def key(self) -> str:
        """Return a short name that equal filters share."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


def as_day(value: Day, name: str) -> date:
    """Read a day: a `date`, or text as 2026-01-31.

    :raises ConfigError: for anything else.
    """
    if isinstance(value, datetime):
        raise ConfigError(f"{name}={value!r} must be a day without a time, as 2026-01-31")
    if isinstance(value, date):
        return value
    if isinstance(value, str) and len(value) == len("2026-01-31"):
        with suppress(ValueError):
            return date.fromisoformat(value)
    raise ConfigError(f"{name}={value!r} is no day; write it as 2026-01-31")


def days_of(from_date: date, to_date: date) -> list[date]:
    """Return every day from one to the other, both included."""
    return [from_date + n * ONE for n in range((to_date - from_date).days + 1)]


def chunks(days: Collection[date], calls: int, *, size: int | None = None) -> list[Chunk]:
    """Gather days into at most so many `calls`: one day each while that fits, else longer chunks.

    Chunks never span a gap, so there are at least as many as runs of days. `size` is how many days
    a chunk takes, whatever that costs.
    """
    runs = ranges(days)
    if size is None:
        calls = max(1, calls)
        sizes = range(max(1, -(-len(days) // calls)), max(1, len(days)))
        size = sizes.start + bisect_left(sizes, 1, key=lambda n: _calls(runs, n) <= calls)
    return _cut(runs, size)


def ranges(days: Iterable[date]) -> list[Chunk]:
    """Return the runs of neighbouring days, in order."""
    runs: list[Chunk] = []
    for day in sorted(set(days)):
        if runs and runs[-1].to_date + ONE == day:
            runs[-1] = Chunk(runs[-1].from_date, day)
        else:
            runs.append(Chunk(day, day))
    return runs


def _calls(runs: Iterable[Chunk], size: int) -> int:
    return sum(-(-run.days // size) for run in runs)


def _cut(runs: Iterable[Chunk], size: int) -> list[Chunk]:
    return [
        Chunk(run.from_date + n * ONE, min(run.from_date + (n + size - 1) * ONE, run.to_date))
        for run in runs
        for n in range(0, run.days, size)
    ]


def names(given: Iterable[str] | str | None, argument: str) -> tuple[str, ...]:
    """Take one name or several; each once, in a fixed order.

    :raises ConfigError: for a name that is empty, or is none.
    """
    try:
        several = (given,) if isinstance(given, str) else tuple(given or ())
    except TypeError:
        raise ConfigError(f"{argument}={given!r} must be a name or a list of names") from None
    for name in several:
        if not text(argument, name):
            raise ConfigError(f"{argument}={name!r}: a name is text, and not empty")
    return tuple(sorted(set(several)))


def text(argument: str, value: str | None) -> str | None:
    """Take a text that can be sent; None is none.

    :raises ConfigError: for what is no text, and for half a surrogate pair.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise ConfigError(f"{argument}={value!r} must be text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{argument}={value!r} holds half a character: UTF-8 has none") from None
    return value


def whole(name: str, value: int | None, least: int, most: int) -> None:
    """Refuse what is no whole number from `least` to `most`; None is none.

    :raises ConfigError: naming the argument.
    """
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigError(
            f"{name}={value!r} must be a whole number and lie between {least} and {most:,}"
        )


def zone(name: str | None) -> ZoneInfo | None:
    """Return the time zone of a project; None for UTC.

    :raises ConfigError: for a name that the time zone database does not have.
    """
    if name is None or name == "UTC":
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError, TypeError, AttributeError):
        raise ConfigError(
            f"project_timezone={name!r} is no time zone; names are as Europe/Oslo"
        ) from None


def today(project_timezone: str | None = None, now: float | None = None) -> date:
    """Return the day it is in the project."""
    where = zone(project_timezone) or UTC
    return (datetime.now(where) if now is None else datetime.fromtimestamp(now, where)).date()


def end(day: date, project_timezone: str | None = None) -> datetime:
    """Return the moment at which a day is over in the project."""
    return datetime.combine(day + ONE, time(), zone(project_timezone) or UTC)


def holds(
    day: date, received_at: datetime, now: datetime, project_timezone: str | None = None
) -> bool:
    """Tell whether what was received of a day may still be used, without asking again."""
    age = now - received_at
    settled = received_at - end(day, project_timezone) >= SETTLED
    return age >= -SKEW and (age <= FRESH or settled)
