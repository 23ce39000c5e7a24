"""Compute reports from the events of a warehouse, by the SQL that local reports use too."""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar

from pydantic_core import from_json

from mixpanel.data.analysis.period import Period
from mixpanel.data.analysis.query import Query
from mixpanel.data.analysis.source import EventSource, Scope, accessor
from mixpanel.data.exceptions import ConfigError
from mixpanel.data.query_results import QueryResult
from mixpanel.emulator._rules.decode import RefusedRequest
from mixpanel.emulator._storage.warehouse import Warehouse

R = TypeVar("R", bound=QueryResult)
OF_USER = re.compile(r"\buser\s*\[")
# Times become timestamps, and aliases the users that they belong to.
EVENTS = """(
    select e.event, make_timestamp(e.time * 1000) as event_time,
        coalesce(owners.distinct_id, e.distinct_id) as distinct_id,
        e.insert_id, e.properties, e.seq{columns}
    from events e left join owners on owners.alias = e.distinct_id{joins}
)"""
PROFILES = """
    left join profiles on profiles.distinct_id = coalesce(owners.distinct_id, e.distinct_id)"""


class EventReports:
    """Reports over all events of a warehouse; days are those of UTC."""

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse

    def run(
        self,
        report: Callable[[EventSource, Period], Query[R]],
        days: tuple[date, date],
        *expressions: object,
    ) -> R:
        """Compute a report; `expressions` are those that it uses.

        :raises RefusedRequest: 400: its arguments, or an expression, cannot work.
        """
        try:
            query = report(source(*expressions), Period.checked(*days))
            return query.read(self._warehouse.query(query.statement, query.parameters))
        except (ConfigError, ValueError) as error:
            raise RefusedRequest(400, str(error)) from error

    def rows(self, statement: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
        """Run a statement of a report.

        :raises RefusedRequest: 400: an expression does not suit the values that it meets.
        """
        try:
            return self._warehouse.query(statement, parameters)
        except ValueError as error:
            raise RefusedRequest(400, str(error)) from error

    def last_time(self) -> datetime | None:
        """Return when the last event happened, in UTC without a zone."""
        ((found,),) = self.rows("select max(time) from events", {})
        return (
            None
            if found is None
            else datetime.fromtimestamp(found / 1000, UTC).replace(tzinfo=None)
        )

    # What there is

    def event_names(self, days: tuple[date, date], limit: int) -> list[str]:
        """Return the names of events, the most common first."""
        return [name for name, _ in self._counts(days)[:limit]]

    def top_events(self, today: date, kind: str, limit: int) -> list[dict[str, Any]]:
        """Return today's most frequent events, and how they changed since yesterday."""
        yesterday = today - timedelta(days=1)
        before = dict(self._counts((yesterday, yesterday), kind))
        return [
            {
                "event": name,
                "amount": amount,
                "percent_change": amount / before[name] - 1 if before.get(name) else 0.0,
            }
            for name, amount in self._counts((today, today), kind)[:limit]
        ]

    def _counts(self, days: tuple[date, date], kind: str = "general") -> list[tuple[str, float]]:
        measure = {
            "general": "count(*)",
            "unique": "count(distinct distinct_id)",
            "average": "coalesce(count(distinct_id) / nullif(count(distinct distinct_id), 0), 0.0)",
        }[kind]
        scope, period = Scope(source()), Period.checked(*days)
        events = scope.events(None, period.start, period.end)
        statement = (
            f"select event, {measure} as n from ({events}) group by event order by n desc, event"
        )
        return [(name, n) for name, n in self.rows(statement, scope.parameters)]

    def property_names(self, event: str | None = None) -> dict[str, dict[str, int]]:
        """Return the properties of each event, or of one, and how many occurrences have them."""
        names = self.rows(
            "select distinct event from events where $event is null or event = $event order by 1",
            {"event": event},
        )
        found: dict[str, dict[str, int]] = {name: {} for (name,) in names}
        rows = self.rows(
            "select event, name, count(*) as n from ("
            " select event, unnest(json_keys(properties)) as name from events"
            " where $event is null or event = $event"
            ") group by event, name order by event, n desc, name",
            {"event": event},
        )
        for each, name, n in rows:
            found[each][name] = n
        return found

    def property_values(self, name: str, event: str | None, limit: int) -> list[str]:
        """Return the values of a property as text, the most frequent first.

        :raises RefusedRequest: 400: the name cannot be one.
        """
        try:
            scope = Scope(source())
            every = scope.events(None if event is None else [event], datetime.min, datetime.max)  # noqa: DTZ901 - UTC
            values = scope.segmented(every, accessor(name, "name"))
        except ConfigError as error:
            raise RefusedRequest(400, str(error)) from error
        rows = self.rows(
            f"select segment from ({values}) where segment not in ('undefined', 'null')"
            f" group by segment order by count(*) desc, segment limit {limit}",
            scope.parameters,
        )
        return [value for (value,) in rows]

    def feed(
        self,
        distinct_ids: Sequence[str],
        low: int,
        high: int,
        *,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        search: str = "",
        limit: int,
        before: tuple[int, int] | None = None,
    ) -> list[tuple[int, int, dict[str, Any]]]:
        """Return the latest events of some users as (time in ms, seq, event), oldest first.

        `low` and `high` bound their time in milliseconds; `before` is the time and seq of an event
        that all of them precede.
        """
        parameters: dict[str, Any] = {
            "ids": [self._warehouse.canonical(each) for each in distinct_ids],
            "low": low,
            "high": high,
            "include": None if include is None else list(include),
            "exclude": list(exclude),
            "search": search.lower(),
            "limit": limit,
            "time": None if before is None else before[0],
            "seq": None if before is None else before[1],
        }
        rows = self.rows(
            "select e.time, max(e.seq) as seq, e.event, e.distinct_id, e.insert_id,"
            " arg_max(e.properties, e.seq)::varchar"
            " from events e left join owners on owners.alias = e.distinct_id"
            " where coalesce(owners.distinct_id, e.distinct_id) in"
            " (select unnest($ids::varchar[])) and e.time >= $low and e.time < $high"
            " and ($include::varchar[] is null or list_contains($include::varchar[], e.event))"
            " and not list_contains($exclude::varchar[], e.event)"
            " and (contains(lower(e.event), $search)"
            "   or contains(lower(e.properties::varchar), $search))"
            " group by e.event, e.time, e.distinct_id, e.insert_id,"
            " case when e.insert_id is null then e.seq end"
            " having $time::bigint is null or (e.time, max(e.seq)) < ($time::bigint, $seq::bigint)"
            " order by 1 desc, 2 desc limit $limit",
            parameters,
        )
        return [
            (
                time,
                seq,
                {
                    "event": event,
                    "properties": {
                        "time": time // 1000,
                        "distinct_id": who,
                        **({} if insert_id is None else {"$insert_id": insert_id}),
                        **from_json(properties),
                    },
                },
            )
            for time, seq, event, who, insert_id, properties in reversed(rows)
        ]


def source(*expressions: object) -> EventSource:
    """Return the table of events, with profiles if an expression uses them."""
    profile = any(OF_USER.search(str(each)) for each in expressions if each is not None)
    relation = EVENTS.format(
        columns=", profiles.properties as profile" if profile else "",
        joins=PROFILES if profile else "",
    )
    return EventSource(
        relation, event="event", profile="profile" if profile else None, version="seq"
    )
