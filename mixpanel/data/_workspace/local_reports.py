"""Run reports over a table of the local database."""

from __future__ import annotations

import warnings
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from mixpanel.data._fetch import plan
from mixpanel.data._fetch.plan import Chunk
from mixpanel.data._queries.arguments import ACCESSOR
from mixpanel.data._queries.discovery_responses import similar
from mixpanel.data.analysis.period import Period
from mixpanel.data.analysis.source import COLUMNS as OWN_COLUMNS
from mixpanel.data.analysis.source import EventSource
from mixpanel.data.exceptions import (
    ConfigError,
    EventNotFoundError,
    IncompleteTableWarning,
    PropertyNotFoundError,
)
from mixpanel.data.exploration_results import PropertyDistributionResult
from mixpanel.data.query_results import (
    FlowsResult,
    FunnelResult,
    PropertyCountsResult,
    RetentionResult,
    SegmentationResult,
)
from mixpanel.data.store import fetch_log
from mixpanel.data.store import tables as catalog
from mixpanel.data.store.quoting import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from datetime import date

    from duckdb import DuckDBPyConnection

    from mixpanel.data._fetch.plan import Day
    from mixpanel.data.analysis.query import Query
    from mixpanel.data.query_results import QueryResult
    from mixpanel.data.store import Database

__all__ = ["LocalReports"]

R = TypeVar("R", bound="QueryResult")

RANGES_NAMED = 10  # in a warning; all are in its `missing`
ONE_DAY = timedelta(days=1)
COLUMNS = ("event_name", "event_time", "distinct_id", "insert_id", "properties")


class LocalReports:
    """Runs reports over tables of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def _run(
        self,
        report: Callable[[EventSource, Period], Query[R]],
        from_date: Day,
        to_date: Day,
        table: str,
        timezone: str | None,
        profiles: str | None,
    ) -> R:
        with self._database._query_cursor(writes=False) as cursor:
            name = _with_columns(cursor, table, COLUMNS)
            known = fetch_log.find(cursor, name)
            gaps = catalog.gaps(cursor, known) if known else set()
            people = None if profiles is None else _with_columns(cursor, profiles, COLUMNS[2::2])
        zone = timezone or (known.project_timezone if known else None)
        period = Period.checked(from_date, to_date, zone)
        _warn_about_missing(name, missing_days(known, gaps, period))
        query = report(_source(name, people), period)
        result = query.read(self._database.sql_rows(query.statement, query.parameters).rows)
        if _is_empty(result):
            self._check_events(name, query.events)
        if (property_name := _missing_property(result)) is not None:
            self._check_property(name, query.events[0], property_name)
        return result

    def _last_time(self, table: str) -> datetime | None:
        """Return the time of the last event of a table."""
        with self._database._query_cursor(writes=False) as cursor:
            name = _with_columns(cursor, table, COLUMNS)
        query = f"SELECT max(event_time) FROM main.{quoted(name)}"
        found: datetime | None = self._database.sql_scalar(query)
        return found

    def _check_events(self, table: str, names: Sequence[str]) -> None:
        """Check that the table has events of these names.

        :raises EventNotFoundError: with similar names.
        """
        statement = (
            f"SELECT DISTINCT event_name FROM main.{quoted(table)} WHERE event_name NOT NULL"
        )
        known = {name for (name,) in self._database.sql_rows(statement).rows}
        for name in names:
            if name not in known:
                raise EventNotFoundError(name, similar(name, sorted(known)))

    def _check_property(self, table: str, event: str, name: str) -> None:
        """Check that one of these events in the table has the property.

        :raises PropertyNotFoundError: with similar names.
        """
        known = self._database.property_keys(table, event)
        if name not in known:
            raise PropertyNotFoundError(name, event, similar(name, known))


def missing_days(
    table: fetch_log.Table | None, gaps: Collection[date], period: Period
) -> list[Chunk]:
    """Return the days of a period, up to today, that a table lacks; none of one not fetched."""
    if table is None or not (table.from_date and table.to_date):
        return []
    first, last = period.from_date, min(period.to_date, datetime.now(period.zone).date())
    lacking = plan.ranges(day for day in gaps if first <= day <= last)
    before = Chunk(first, min(last, table.from_date - ONE_DAY))
    after = Chunk(max(first, table.to_date + ONE_DAY), last)
    return [each for each in (before, *lacking, after) if each.from_date <= each.to_date]


def _warn_about_missing(table: str, missing: Sequence[Chunk]) -> None:
    """Warn, at the caller of the report's method, about days that were not fetched."""
    if missing:
        days = ", ".join(map(str, missing[:RANGES_NAMED]))
        days += f" and {len(missing) - RANGES_NAMED} more ranges" if missing[RANGES_NAMED:] else ""
        warnings.warn(
            IncompleteTableWarning(
                f"{table} lacks {days}, so the report is too low: fetch these days, or report on "
                "others",
                table,
                [(each.from_date, each.to_date) for each in missing],
            ),
            stacklevel=4,
        )


def _with_columns(cursor: DuckDBPyConnection, table: str, wanted: Sequence[str]) -> str:
    schema = catalog.schema(cursor, table)
    missing = [name for name in wanted if name not in {column.name for column in schema.columns}]
    if missing:
        raise ConfigError(
            f"{schema.table_name} has no column {' or '.join(missing)}: reports need a table as a "
            "fetch makes it"
        )
    return schema.table_name


def _source(table: str, profiles: str | None) -> EventSource:
    # The schema prevents a table from being confused with a common table expression of its name.
    relation = f"main.{quoted(table)}"
    if profiles is None:
        return EventSource(relation)
    people = (
        f"SELECT distinct_id, first(properties) AS profile FROM main.{quoted(profiles)} "
        "GROUP BY distinct_id"
    )
    joined = (
        f"SELECT events.*, people.profile FROM {relation} AS events "
        f"LEFT JOIN ({people}) AS people USING (distinct_id)"
    )
    return EventSource(f"({joined})", profile="profile")


def _missing_property(result: QueryResult) -> str | None:
    """Return the property of the report if none of the counted events has it, else None."""
    match result:
        case SegmentationResult(segment_property=str(name), series=series):
            is_missing = series.keys() == {"undefined"}
        case PropertyCountsResult(property_name=name, series=series):
            is_missing = series.keys() == {"undefined"}
        case PropertyDistributionResult(property_name=name, total_count=0):
            is_missing = True
        case _:
            return None
    written = ACCESSOR.search(name) or name in OWN_COLUMNS
    return name if is_missing and not written else None


def _is_empty(result: QueryResult) -> bool:
    """Return True if an event or step of the report was never counted."""
    match result:
        case FunnelResult(steps=steps):
            return not steps[-1].count
        case RetentionResult(cohorts=cohorts):
            return not any(number for cohort in cohorts for number in cohort.counts)
        case FlowsResult(steps=steps):
            return not any(node.count for step in steps for node in step.nodes)
    rows = result._rows()
    return not any(row[name] for row in rows for name in row if isinstance(row[name], (int, float)))
