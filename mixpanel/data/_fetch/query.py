"""Validated queries for events and profiles.

A fetch, its plan and a stream take one of these whole. Every argument has been checked by then, so
nothing invalid reaches the server or the database. Pure.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import date, datetime, timedelta
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

    from mixpanel.data.store import Mode

__all__ = ["EventQuery", "ProfileQuery"]

EXPORT_CONCURRENCY = 8  # by default
QUERY_CONCURRENCY = 5  # by default, and at most: Mixpanel's limit for a project
MAX_REQUESTS = 1_000_000
MAX_EXPORT_LIMIT = 100_000  # events of one export call with `limit`
# `distinct_ids=[]` in filters: not the same as no filter, and no profile has an empty id.
NO_PROFILES = ("",)


@dataclass(frozen=True, slots=True)
class EventQuery:
    """The events to fetch into the table `name`, or to stream."""

    name: str
    days: tuple[date, ...]
    filters: Filters
    mode: Mode
    mixed: bool = False
    concurrency: int = EXPORT_CONCURRENCY
    chunk_days: int | None = None
    partial: bool = False
    max_requests: int | None = None

    @classmethod
    def create(
        cls,
        name: str = "events",
        *,
        from_date: str | date,
        to_date: str | date,
        events: Sequence[str] | str | None = None,
        where: str | None = None,
        limit: int | None = None,
        append: bool = False,
        replace: bool = False,
        mixed: bool = False,
        max_workers: int | None = None,
        chunk_days: int | None = None,
        project_timezone: str | None = None,
        partial: bool = False,
        max_requests: int | None = None,
    ) -> EventQuery:
        """Return a query made from a caller's arguments.

        :raises ConfigError: for an argument that is invalid or excludes another one.
        """
        zone(project_timezone)
        first = as_day(from_date, "from_date", project_timezone)
        last = as_day(to_date, "to_date", project_timezone)
        if first > last:
            raise ConfigError(f"from_date={first} is later than to_date={last}")
        # East of UTC it may be tomorrow already.
        if last > today() + timedelta(days=1):
            raise ConfigError(f"to_date={last} is in the future: today is {today()} in UTC")
        whole("limit", limit, 1, MAX_EXPORT_LIMIT)
        whole("max_workers", max_workers, 1, 100)
        whole("chunk_days", chunk_days, 1, 100)
        whole("max_requests", max_requests, 0, MAX_REQUESTS)
        filters = Filters(
            events=names(events, "events"),
            where=text("where", where) or None,
            limit=limit,
            project_timezone=project_timezone,
        )
        return cls(
            name,
            tuple(days_of(first, last)),
            filters,
            _mode(append=append, replace=replace),
            mixed,
            max_workers or EXPORT_CONCURRENCY,
            chunk_days,
            partial,
            max_requests,
        )

    @property
    def from_date(self) -> date:
        """The first day."""
        return self.days[0]

    @property
    def to_date(self) -> date:
        """The last day, which is included."""
        return self.days[-1]

    def params(self, chunk: Chunk) -> dict[str, str]:
        """Return the query parameters of the export call for a chunk of days."""
        params = {
            "from_date": str(chunk.from_date),
            "to_date": str(chunk.to_date),
            "time_in_ms": "true",
        }
        if self.filters.events:
            params["event"] = json.dumps(self.filters.events, ensure_ascii=False)
        if self.filters.where:
            params["where"] = self.filters.where
        if self.filters.limit:
            params["limit"] = str(self.filters.limit)
        return params


@dataclass(frozen=True, slots=True)
class ProfileQuery:
    """The profiles to fetch into the table `name`, or to stream."""

    name: str
    filters: Filters
    mode: Mode
    mixed: bool = False
    as_of_timestamp: int | None = None
    concurrency: int = QUERY_CONCURRENCY
    since: datetime | None = None
    history: bool = False

    @classmethod
    def create(
        cls,
        name: str = "profiles",
        *,
        where: str | None = None,
        cohort_id: int | None = None,
        output_properties: Sequence[str] | str | None = None,
        append: bool = False,
        replace: bool = False,
        mixed: bool = False,
        distinct_id: str | None = None,
        distinct_ids: Sequence[str] | None = None,
        group_id: str | None = None,
        behaviors: Sequence[Mapping[str, Any]] | str | None = None,
        as_of_timestamp: int | None = None,
        include_all_users: bool = False,
        max_workers: int | None = None,
        history: bool = False,
    ) -> ProfileQuery:
        """Return a query made from a caller's arguments.

        :raises ConfigError: for an argument that is invalid, needs another one or excludes it.
        """
        if distinct_id is not None and distinct_ids is not None:
            raise _exclusive("distinct_id", "distinct_ids")
        if behaviors is not None and cohort_id is not None:
            raise _exclusive("behaviors", "cohort_id")
        if behaviors is not None and not where:
            raise ConfigError('behaviors need a where that uses them, such as behaviors["b1"] > 0')
        if include_all_users and cohort_id is None:
            raise ConfigError("include_all_users needs a cohort_id")
        is_number = isinstance(as_of_timestamp, (int, float, NoneType))
        if not is_number or (
            as_of_timestamp is not None and not 0 < as_of_timestamp <= time.time()
        ):
            raise ConfigError(
                f"as_of_timestamp={as_of_timestamp!r} must be a time in the past, in seconds since "
                "1970"
            )
        whole("max_workers", max_workers, 1, 100)
        ids = (distinct_id,) if distinct_id is not None else tuple(distinct_ids or ())
        for each in ids:
            text("distinct_id", each)
        if distinct_ids is not None and not ids:
            ids = NO_PROFILES
        filters = Filters(
            where=text("where", where) or None,
            cohort_id=cohort_id,
            output_properties=names(output_properties, "output_properties"),
            group_id=text("group_id", group_id),
            behaviors=_behaviors(behaviors),
            distinct_ids=tuple(dict.fromkeys(ids)),
            include_all_users=include_all_users,
        )
        return cls(
            name,
            filters,
            _mode(append=append, replace=replace),
            mixed,
            as_of_timestamp,
            min(max_workers or QUERY_CONCURRENCY, QUERY_CONCURRENCY),
            history=history,
        )

    @property
    def selects_nothing(self) -> bool:
        """True for `distinct_ids=[]`, which needs no call."""
        return self.filters.distinct_ids == NO_PROFILES

    def key(self) -> str:
        """Return text that is equal for equal queries: an interrupted one is then resumed."""
        return json.dumps(self.form(), ensure_ascii=False, sort_keys=True)

    def form(self) -> dict[str, str]:
        """Return the form fields that all pages have in common."""
        filters = self.filters
        where = filters.where
        if self.since is not None:
            seen = f'properties["$last_seen"] >= datetime("{self.since:%Y-%m-%dT%H:%M:%S}")'
            where = seen if where is None else f"({where}) and {seen}"
        ids = list(filters.distinct_ids)
        cohort = None if filters.cohort_id is None else {"id": filters.cohort_id}
        fields: dict[str, Any] = {
            "where": where,
            "filter_by_cohort": cohort,
            # The API's default is True, so False must be sent too.
            "include_all_users": None if cohort is None else filters.include_all_users,
            "output_properties": list(filters.output_properties) or None,
            "data_group_id": filters.group_id,
            "behaviors": filters.behaviors,
            "as_of_timestamp": self.as_of_timestamp,
            "distinct_id": ids[0] if len(ids) == 1 else None,
            "distinct_ids": ids if len(ids) > 1 else None,
        }
        return {
            name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for name, value in fields.items()
            if value is not None
        }


def _mode(*, append: bool, replace: bool) -> Mode:
    if append and replace:
        raise _exclusive("append", "replace")
    return "append" if append else "replace" if replace else "new"


def _exclusive(first: str, second: str) -> ConfigError:
    return ConfigError(f"{first} and {second} are mutually exclusive: pass one of them")


def _behaviors(given: Sequence[Mapping[str, Any]] | str | None) -> str | None:
    """Return behaviors as canonical JSON, so that equal ones make equal filters."""
    if given is None:
        return None
    expected = (
        'behaviors must be a JSON list such as [{"window": "30d", "name": "b1", '
        '"event_selectors": [{"event": "Order Paid"}]}]'
    )
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            raise ConfigError(expected) from None
    if not isinstance(given, (list, tuple)) or not all(
        isinstance(one, dict) and {"window", "name", "event_selectors"} <= set(one) for one in given
    ):
        raise ConfigError(expected)
    return json.dumps(given, ensure_ascii=False, sort_keys=True)
