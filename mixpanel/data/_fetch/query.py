"""What is asked for: checked as a whole, before the server or the database hears of it. Pure."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import timedelta
from types import NoneType
from typing import TYPE_CHECKING, Any

from mixpanel.data._fetch.plan import (
    Chunk,
    Filters,
    as_day,
    days_of,
    names,
    text,
    today,
    whole,
    zone,
)
from mixpanel.data.exceptions import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date

    from mixpanel.data._fetch.plan import Day
    from mixpanel.data.store import Mode

__all__ = ["EventQuery", "ProfileQuery"]

EXPORTS = 8  # under way at a time, unless somebody says another number
QUERIES = 5  # under way at a time, at most: what Mixpanel allows a project
MOST_ROWS = 100_000  # what one export call returns with `limit`


@dataclass(frozen=True, slots=True)
class EventQuery:
    """A fetch of events, checked before anything is asked of the server or the database."""

    name: str
    days: tuple[date, ...]
    filters: Filters
    mode: Mode
    mixed: bool = False
    workers: int = EXPORTS
    chunk_days: int | None = None

    @classmethod
    def checked(
        cls,
        name: str,
        from_date: Day,
        to_date: Day,
        *,
        events: Sequence[str] | str | None = None,
        where: str | None = None,
        limit: int | None = None,
        append: bool = False,
        replace: bool = False,
        mixed: bool = False,
        max_workers: int | None = None,
        chunk_days: int | None = None,
        project_timezone: str | None = None,
    ) -> EventQuery:
        """Check what a caller asks for.

        :raises ConfigError: for what cannot be asked for.
        """
        first, last = as_day(from_date, "from_date"), as_day(to_date, "to_date")
        if first > last:
            raise ConfigError(f"from_date={first} is later than to_date={last}")
        if last > today() + timedelta(days=1):  # tomorrow has begun for some projects
            raise ConfigError(f"to_date={last} is yet to come: it is {today()} in UTC")
        if append and replace:
            raise ConfigError("append and replace exclude each other")
        whole("limit", limit, 1, MOST_ROWS)
        whole("max_workers", max_workers, 1, 100)
        whole("chunk_days", chunk_days, 1, 100)
        zone(project_timezone)
        filters = Filters(
            events=names(events, "events"),
            where=text("where", where) or None,
            limit=limit,
            project_timezone=project_timezone,
        )
        mode: Mode = "append" if append else "replace" if replace else "new"
        days = tuple(days_of(first, last))
        return cls(name, days, filters, mode, mixed, max_workers or EXPORTS, chunk_days)

    @property
    def from_date(self) -> date:
        """Return the first day."""
        return self.days[0]

    @property
    def to_date(self) -> date:
        """Return the last day."""
        return self.days[-1]

    def params(self, chunk: Chunk) -> dict[str, str]:
        """Return the query of the call for some days."""
        asked = {
            "from_date": str(chunk.from_date),
            "to_date": str(chunk.to_date),
            "time_in_ms": "true",
        }
        if self.filters.events:
            asked["event"] = json.dumps(self.filters.events, ensure_ascii=False)
        if self.filters.where:
            asked["where"] = self.filters.where
        if self.filters.limit:
            asked["limit"] = str(self.filters.limit)
        return asked


@dataclass(frozen=True, slots=True)
class ProfileQuery:
    """What profiles are asked for, checked before anything is sent."""

    filters: Filters
    as_of_timestamp: int | None = None
    workers: int = QUERIES

    @classmethod
    def checked(
        cls,
        *,
        where: str | None = None,
        cohort_id: int | None = None,
        output_properties: Sequence[str] | str | None = None,
        distinct_id: str | None = None,
        distinct_ids: Sequence[str] | None = None,
        group_id: str | None = None,
        behaviors: Sequence[Mapping[str, Any]] | str | None = None,
        as_of_timestamp: int | None = None,
        include_all_users: bool = False,
        max_workers: int | None = None,
    ) -> ProfileQuery:
        """Check what a caller asks for.

        :raises ConfigError: for what excludes each other, and what cannot be asked for.
        """
        if distinct_id is not None and distinct_ids is not None:
            raise ConfigError("distinct_id and distinct_ids exclude each other")
        if behaviors is not None and cohort_id is not None:
            raise ConfigError("behaviors and cohort_id exclude each other")
        if behaviors is not None and not where:
            raise ConfigError('behaviors need a where that uses them, as behaviors["b1"] > 0')
        if include_all_users and cohort_id is None:
            raise ConfigError("include_all_users needs a cohort_id")
        number = isinstance(as_of_timestamp, (int, float, NoneType))
        if not number or (as_of_timestamp is not None and not 0 < as_of_timestamp <= time.time()):
            raise ConfigError(
                f"as_of_timestamp={as_of_timestamp!r} must be a moment in the past, "
                "in seconds since 1970"
            )
        whole("max_workers", max_workers, 1, 100)
        ids = (distinct_id,) if distinct_id is not None else tuple(distinct_ids or ())
        for each in ids:
            text("distinct_id", each)
        if distinct_ids is not None and not ids:
            ids = ("",)  # asked for nobody, which is not the same as for everybody
        filters = Filters(
            where=text("where", where) or None,
            cohort_id=cohort_id,
            output_properties=names(output_properties, "output_properties"),
            group_id=text("group_id", group_id),
            behaviors=_behaviors(behaviors),
            distinct_ids=tuple(dict.fromkeys(ids)),
            include_all_users=include_all_users,
        )
        return cls(filters, as_of_timestamp, min(max_workers or QUERIES, QUERIES))

    @property
    def nobody(self) -> bool:
        """Tell whether nobody is asked for, so that no call is needed."""
        return self.filters.distinct_ids == ("",)

    def form(self) -> dict[str, str]:
        """Return the form fields of every page."""
        asked = self.filters
        ids = list(asked.distinct_ids)
        cohort = None
        if asked.cohort_id is not None:
            cohort = {"id": asked.cohort_id}
        fields: dict[str, Any] = {
            "where": asked.where,
            "filter_by_cohort": cohort,
            "include_all_users": None if cohort is None else asked.include_all_users,
            "output_properties": list(asked.output_properties) or None,
            "data_group_id": asked.group_id,
            "behaviors": asked.behaviors,
            "as_of_timestamp": self.as_of_timestamp,
            "distinct_id": ids[0] if len(ids) == 1 else None,
            "distinct_ids": ids if len(ids) > 1 else None,
        }
        return {
            name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for name, value in fields.items()
            if value is not None
        }


def _behaviors(given: Sequence[Mapping[str, Any]] | str | None) -> str | None:
    if given is None:
        return None
    wanted = 'behaviors must be a JSON list as [{"window": "30d", "name": "b1", '
    wanted += '"event_selectors": [{"event": "Order Paid"}]}]'
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            raise ConfigError(wanted) from None
    if not isinstance(given, (list, tuple)) or not all(
        isinstance(one, dict) and {"window", "name", "event_selectors"} <= set(one) for one in given
    ):
        raise ConfigError(wanted)
    return json.dumps(given, ensure_ascii=False, sort_keys=True)
