"""Compare the days of a fetched table with Mixpanel's own counts."""

from __future__ import annotations

from collections import Counter
from datetime import date, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from mixpanel.data._api.rate_limits import query_limit
from mixpanel.data._fetch.plan import as_day, days_of, today
from mixpanel.data._queries import on_demand
from mixpanel.data._queries.live import LiveQueries
from mixpanel.data.exceptions import ConfigError, QueryError
from mixpanel.data.results import ReconciledDay, ReconcileResult

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from mixpanel.data._fetch.plan import Day
    from mixpanel.data.analysis.period import Period
    from mixpanel.data.store import Database, FetchedEvents

__all__ = ["ReconcileMethods"]

ALL_EVENTS = "$all_events"  # what insights reports call all events together
MAX_ROWS = 50_000
ONE_DAY = timedelta(days=1)


class ReconcileMethods(LiveQueries):
    """Compares local and live counts."""

    async def reconcile(
        self, table: str = "events", *, from_date: Day | None = None, to_date: Day | None = None
    ) -> ReconcileResult:
        """Compare the number of events of each day in a table with Mixpanel's own count.

        >>> found = await ws.reconcile("events")  # doctest: +SKIP
        >>> found.ok, found.difference  # doctest: +SKIP
        (False, -2)

        Days are those of the project's timezone, by default all days of the table that are over.
        Mixpanel counts with the filters of the table, in one query for the whole range; with event
        names and a `where`, in one for each 26 names. Events that
        arrived after a day was fetched are a difference: `sync_events` with a longer
        `lookback_days` fetches them.

        :raises TableNotFoundError: when there is no such table.
        :raises ConfigError: for a table that was not fetched, or that mixes filters or has a limit,
            or that needs more queries than an hour has; nothing is counted then.
        :raises APIError: when Mixpanel rejects the query.
        """
        # Loaded here, as the modules of local reports take longer to load than a workspace.
        from mixpanel.data.analysis.period import Period

        database: Database = self._core.open_database()
        fetched = await anyio.to_thread.run_sync(database.fetched_events, table)
        known_zone = await self.project_timezone()
        zone = known_zone or fetched.project_timezone or "UTC"
        now = today(zone)
        first = fetched.first if from_date is None else as_day(from_date, "from_date", zone)
        last = min(fetched.last, now - ONE_DAY)
        if to_date is not None:
            last = as_day(to_date, "to_date", zone)
        if from_date is None and to_date is None and first > last:
            raise ConfigError(f"{fetched.name} has no day that is over: pass from_date and to_date")
        period = Period.checked(first, last, zone)
        remote = await self._remote_counts(fetched, period)
        local, covered, is_local_time = await anyio.to_thread.run_sync(
            _local_counts, database, fetched, period, Period.checked(first, last), remote
        )
        labels = period.buckets("day")
        if from_date is None and to_date is None:
            # Days of UTC and of the project overlap: its first and last may be there in part, even
            # if no day has failed.
            by_utc = fetched.project_timezone is None and not is_local_time
            fetchable = set(days_of(fetched.first, fetched.last))
            within = _covered(period, fetchable) if by_utc else set(labels)
            labels = [each for each in labels if each in within] or labels
        return ReconcileResult(
            table=fetched.name,
            timezone=zone,
            days=tuple(
                _compared(label, local.get(label, 0), remote.get(label, 0), covered, now)
                for label in labels
            ),
            local_time=is_local_time,
        )

    async def _remote_counts(self, fetched: FetchedEvents, period: Period) -> dict[str, int]:
        """Return Mixpanel's own number of events by day."""
        if fetched.events and fetched.where is None:
            return await self._counts_by_name(fetched.events, period)
        names = list(dict.fromkeys(fetched.events or [ALL_EVENTS]))
        days = on_demand.bookmarks.time_range(period.from_date, period.to_date, None, "day")
        most = on_demand.bookmarks.MAX_METRICS
        size = min(most, max(1, MAX_ROWS // ((period.to_date - period.from_date).days + 1)))
        needed, hourly = -(-len(names) // size), query_limit()
        if needed > hourly:
            raise ConfigError(
                f"{fetched.name} has {len(names)} events and a where: Mixpanel counts {size} of "
                f"them in a query, so this needs {needed} of the {hourly} queries that a project "
                "has in an hour; none was sent. Reconcile a table of fewer events, or of fewer days"
            )
        sums: Counter[str] = Counter()
        try:
            for chosen in batched(names, size):
                # Not `self.query`, which raises if none of these events has happened.
                report = on_demand.bookmarks.insights(chosen, days, where=fetched.where)
                response, timezone = await self._inline(report, MAX_ROWS)
                found = on_demand.responses.insights(response, unit="day", timezone=timezone)
                sums.update(_summed(found.overall()))
            return dict(sums)
        except QueryError:
            if fetched.events or fetched.where is not None:
                raise
        # A server without the name of all events: count them by their own names.
        names = await self.list_events()
        return await self._counts_by_name(names, period) if names else {}

    async def _counts_by_name(self, names: Sequence[str], period: Period) -> dict[str, int]:
        """Return Mixpanel's number of these events by day, also if there was none of some."""
        request = on_demand.requests.event_counts(names, period.from_date, period.to_date)
        response, timezone = await self._query_with_timezone(request, request.query["event"])
        return _summed(on_demand.responses.event_counts(response, request.query, timezone).series)


def batched(names: Sequence[str], size: int) -> Iterator[list[str]]:
    """Yield the names in lists of this size, the last one shorter."""
    remaining = iter(names)
    while chosen := list(islice(remaining, size)):
        yield chosen


def _summed(series: dict[str, dict[str, Any]]) -> dict[str, int]:
    """Return counts by day of several events together; days are `2026-01-31` without a time."""
    sums: dict[str, int] = {}
    for counts in series.values():
        for label, count in counts.items():
            sums[label[:10]] = sums.get(label[:10], 0) + int(count or 0)
    return sums


def _local_counts(
    database: Database,
    fetched: FetchedEvents,
    period: Period,
    in_utc: Period,
    remote: dict[str, int],
) -> tuple[dict[str, int], set[str], bool]:
    """Return the numbers of events by day, the days that were fetched whole, and how to read times.

    Exports of projects from before 2023 have the project's local times. If the table was fetched
    without its timezone, these are taken for UTC, so its days are compared as they are if that
    matches better.
    """
    counts = database.daily_counts(fetched.name, period)
    if fetched.project_timezone is not None:
        return counts, _labels(period, fetched.days), False
    covered = _covered(period, fetched.days)
    if period.timezone == "UTC":
        return counts, covered, False
    others = database.daily_counts(fetched.name, in_utc)
    whole = _labels(period, fetched.days)
    if _distance(others, remote, whole) < _distance(counts, remote, covered):
        return others, whole, True
    return counts, covered, False


def _labels(period: Period, days: Collection[date]) -> set[str]:
    return {str(day) for day in days if period.from_date <= day <= period.to_date}


def _covered(period: Period, days: Collection[date]) -> set[str]:
    """Return the project's days all hours of which are in these days of UTC."""
    found = set()
    for label in period.buckets("day"):
        day = date.fromisoformat(label)
        first = period.instant(day).date()
        last = (period.instant(day + ONE_DAY) - timedelta(microseconds=1)).date()
        if first in days and last in days:
            found.add(label)
    return found


def _distance(local: dict[str, int], remote: dict[str, int], days: Collection[str]) -> float:
    """Return how much the counts of days differ, each on average."""
    if not days:
        return float("inf")
    return sum(abs(local.get(day, 0) - remote.get(day, 0)) for day in days) / len(days)


def _compared(
    label: str, local: int, remote: int, covered: Collection[str], now: date
) -> ReconciledDay:
    if label not in covered:
        state = "missing"
    elif date.fromisoformat(label) >= now:
        state = "running"
    else:
        state = "same" if local == remote else "different"
    return ReconciledDay(label, local, remote, local - remote, state)  # type: ignore[arg-type]
