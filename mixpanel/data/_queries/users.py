"""Query users: their events, aggregates over their profiles, and JQL."""

from __future__ import annotations

import warnings
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from mixpanel.data._fetch.plan import as_day, today
from mixpanel.data._queries import on_demand
from mixpanel.data._queries.arguments import (
    identifiers,
    whole,
)
from mixpanel.data._queries.query_sender import QuerySender
from mixpanel.data.exceptions import ConfigError, JQLDeprecationWarning, QueryError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date

    from mixpanel.data._fetch.plan import Day
    from mixpanel.data._queries.arguments import Where
    from mixpanel.data._queries.requests import QueryRequest
    from mixpanel.data.query_results import (
        ActivityFeedResult,
        EngageStatsResult,
        JQLResult,
        UserEvent,
    )

__all__ = ["UserQueries"]

GONE = (404, 405, 410)


class UserQueries(QuerySender):
    """Activity of users, aggregates over profiles, and JQL."""

    async def activity_feed(
        self,
        distinct_ids: Sequence[str] | str,
        *,
        from_date: Day | None = None,
        to_date: Day | None = None,
        events: Sequence[str] | str | None = None,
        exclude_events: Sequence[str] | str | None = None,
        search: str = "",
        limit: int = 1000,
        max_calls: int = 12,
    ) -> ActivityFeedResult:
        """Return the events of some users, in order of time; by default of the last 30 days.

        - `events`: only these; or all but `exclude_events`.
        - `search`: only events that contain this text.
        - `limit`: the maximum of events; the latest are kept. A call covers up to 15,000 events of
          30 days, the latest first, and at most `max_calls` are made. `limit_hit` is True if there
          may be more events; `read_from` is the first day that the calls have read.

        :raises ConfigError: for invalid arguments; nothing is sent then.
        :raises APIError: when Mixpanel rejects the call.
        """
        whole("limit", limit, 1, 1_000_000)
        whole("max_calls", max_calls, 1, 60)
        from_date, to_date = await self._days(from_date, to_date)
        options: dict[str, Any] = {
            "events": events,
            "exclude_events": exclude_events,
            "search": search,
            "project_id": self._core.api.project_id,
        }
        first = partial(
            on_demand.requests.activity_feed, distinct_ids, from_date, to_date, **options
        )
        max_events = on_demand.requests.MAX_FEED_EVENTS
        first(workspace_id=0, limit=min(limit, max_events))  # checks the arguments
        view = await self._data_view_id()
        found, more, read = None, False, None
        if view is not None:
            page = partial(first, workspace_id=view)
            last = today() if to_date is None else as_day(to_date, "to_date")
            found, more, read = await self._feed_pages(page, limit, max_calls, last)
        if found is None:
            if events is not None or exclude_events is not None or search:
                raise ConfigError(
                    "events, exclude_events and search need a data view: pass workspace_id= to the "
                    "workspace"
                )
            request = on_demand.requests.legacy_activity_feed(distinct_ids, from_date, to_date)
            found, _ = on_demand.responses.feed_page(await self._query(request))
        ids = identifiers(distinct_ids, "distinct_ids")
        dates = (
            None if from_date is None else str(from_date),
            None if to_date is None else str(to_date),
        )
        result = on_demand.responses.activity_feed(
            found, ids, dates, limit_hit=more, timezone=await self.project_timezone(),
            read_from=None if read is None else str(read),
        )  # fmt: skip
        return result if len(result.events) <= limit else on_demand.responses.latest(result, limit)

    async def _feed_pages(
        self, page: partial[QueryRequest], limit: int, max_calls: int, last: date
    ) -> tuple[list[UserEvent] | None, bool, date | None]:
        """Return the events of all pages (None without the endpoint), and if there are more.

        If that is because of `max_calls`, also return the first day that was read.
        """
        found: list[UserEvent] = []
        read = last + timedelta(days=1)
        sentinel: Any = None
        for call in range(max_calls):
            size = min(limit - len(found), on_demand.requests.MAX_FEED_EVENTS)
            try:
                response = await self._query(page(limit=size, sentinel=sentinel))
            except QueryError as error:
                if call or error.status_code not in GONE:
                    raise
                return None, False, None
            events, following = on_demand.responses.feed_page(response)
            found += events
            if following is None or (following == sentinel and not events):
                return found, False, None
            sentinel = following
            if len(found) >= limit:
                return found, True, None
            times = [event.time for event in events if event.time is not None]
            is_full = len(events) >= size and times
            read = (
                min(times).date()
                if is_full
                else read - timedelta(days=on_demand.requests.FEED_DAYS)
            )
        return found, True, read

    async def engage_stats(
        self,
        action: str = "count()",
        *,
        where: Where = None,
        cohort_id: int | None = None,
        segment_by_cohorts: Sequence[int] | None = None,
        group_id: str | None = None,
        as_of_timestamp: int | None = None,
        include_all_users: bool = False,
    ) -> EngageStatsResult:
        """Compute an aggregate over profiles.

        - `action`: `count()`, `extremes(properties["age"])`, `percentile(properties["age"], 95)` or
          `numeric_summary(properties["age"])`.
        - `where`: a condition on the profile, as `prop("plan") == "team"`.
        - `cohort_id`: only its members; `segment_by_cohorts`: one value for each of these cohorts.
        - `group_id`: the profiles of this group key instead of users'.

        :raises ConfigError: for invalid arguments; nothing is sent then.
        :raises APIError: when Mixpanel rejects the call.
        """
        request = on_demand.requests.engage_stats(
            action, where=where, cohort_id=cohort_id, segment_by_cohorts=segment_by_cohorts,
            group_id=group_id, as_of_timestamp=as_of_timestamp,
            include_all_users=include_all_users,
        )  # fmt: skip
        response, timezone = await self._query_with_timezone(request)
        assert request.form is not None
        return on_demand.responses.engage_stats(response, request.form, timezone)

    async def jql(self, script: str, params: Mapping[str, Any] | None = None) -> JQLResult:
        """Run a JQL script, whose `main()` reads `params`.

        Deprecated: Mixpanel keeps JQL in maintenance mode and may switch it off. Use `query`
        and the like, or fetch events and use SQL. Each call emits a `JQLDeprecationWarning`.

        :raises JQLSyntaxError: for a script that Mixpanel cannot run.
        :raises APIError: when Mixpanel rejects the call.
        """
        warnings.warn(
            "JQL is in maintenance mode at Mixpanel: use query(), or fetch events and use SQL",
            JQLDeprecationWarning,
            stacklevel=2,
        )
        response, timezone = await self._query_with_timezone(on_demand.requests.jql(script, params))
        return on_demand.responses.jql(response, timezone)
