"""Query Mixpanel's classic endpoints: the methods of both workspaces."""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from mixpanel.data._queries import answers, bookmarks, cohort_answers, funnel_answers, requests
from mixpanel.data._queries.arguments import (
    ACCESSOR,
    identifier,
    identifiers,
    property_name,
    whole,
)
from mixpanel.data._queries.asking import Asking
from mixpanel.data._queries.links import ReportLink
from mixpanel.data.exceptions import APIError, ConfigError, JQLDeprecationWarning, QueryError
from mixpanel.data.expressions import Property
from mixpanel.data.inline_queries import Breakdown, Metric, TimeRange

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mixpanel.data._fetch.plan import Day
    from mixpanel.data._queries.arguments import Where
    from mixpanel.data._queries.requests import QueryRequest
    from mixpanel.data.expressions import Expression
    from mixpanel.data.inline_queries import InsightsMath
    from mixpanel.data.query_results import (
        ActivityFeedResult,
        CountType,
        EngageStatsResult,
        EventCountsResult,
        FlowsResult,
        FrequencyResult,
        FunnelResult,
        HourDayUnit,
        JQLResult,
        NumericAverageResult,
        NumericBucketResult,
        NumericSumResult,
        PropertyCountsResult,
        QueryResult,
        RetentionResult,
        RetentionType,
        SavedReportResult,
        SegmentationResult,
        SegmentationUnit,
        TimeUnit,
        UserEvent,
    )

__all__ = ["LiveQueries"]

UNSET = frozenset({"undefined", "null", "", "None"})
GONE = (404, 405, 410)
SAVED_KINDS = ("insights", "funnels", "retention", "flows")
MATHS: dict[str, InsightsMath] = {"general": "total", "unique": "unique", "average": "total"}


class LiveQueries(Asking):
    """Reports that Mixpanel computes when asked; each costs one of the hourly queries."""

    # ---- segmentation ---------------------------------------------------------------------------

    async def segmentation(
        self,
        event: str,
        *,
        from_date: Day,
        to_date: Day,
        on: Expression | str | None = None,
        unit: SegmentationUnit = "day",
        where: Where = None,
        type: CountType = "general",  # noqa: A002 - the API's name
        limit: int = 1000,
    ) -> SegmentationResult:
        """Count an event by date, and by the values of `on`.

        - `from_date` and `to_date`: days in the project's timezone, both included.
        - `on`: the name of a property, or an expression as of `mixpanel.data.expressions`.
        - `where`: an expression, or its text.
        - `type`: "general" events, "unique" users, or the "average" events per user.
        - `limit`: so many segments at most (10,000); `limit_hit` says that there are more.

        :raises ConfigError: for arguments that cannot work; before anything is sent.
        :raises EventNotFoundError: with similar names.
        :raises PropertyNotFoundError: with similar names.
        :raises APIError: when Mixpanel refuses.
        """
        request = requests.segmentation(
            event, from_date, to_date, on=on, unit=unit, where=where, type=type, limit=limit
        )
        answer, timezone = await self._asked(request, [event])
        result = answers.segmentation(answer, _params(request), property_name(on), timezone)
        await self._check_events([event], result.series)
        await self._check_segments(event, on, result.series)
        return self._linked(result, self._shown(request, event, on, where, MATHS[type], unit))

    async def segmentation_numeric(
        self,
        event: str,
        *,
        from_date: Day,
        to_date: Day,
        on: Expression | str,
        unit: HourDayUnit = "day",
        where: Where = None,
        type: CountType = "general",  # noqa: A002 - the API's name
    ) -> NumericBucketResult:
        """Count an event by date and by ranges of a number, which Mixpanel chooses.

        Arguments as in `segmentation`; `on` is a numeric property, or a numeric expression.

        :raises ConfigError: for arguments that cannot work; before anything is sent.
        :raises EventNotFoundError: with similar names.
        :raises APIError: when Mixpanel refuses.
        """
        request = requests.numeric(
            "numeric", event, from_date, to_date, on=on, unit=unit, where=where, type=type
        )
        answer, timezone = await self._asked(request, [event])
        result = answers.numeric_buckets(answer, _params(request), timezone)
        await self._check_events([event], result.series)
        by = partial(_number_breakdown, on)
        return self._linked(result, self._shown(request, event, by, where, MATHS[type], unit))

    async def segmentation_sum(
        self,
        event: str,
        *,
        from_date: Day,
        to_date: Day,
        on: Expression | str,
        unit: HourDayUnit = "day",
        where: Where = None,
    ) -> NumericSumResult:
        """Add up a number over an event's occurrences, by date; what is no number counts as 0.

        Arguments as in `segmentation`; `on` is a numeric property, or a numeric expression.

        :raises ConfigError: for arguments that cannot work; before anything is sent.
        :raises EventNotFoundError: with similar names.
        :raises APIError: when Mixpanel refuses.
        """
        request = requests.numeric("sum", event, from_date, to_date, on=on, unit=unit, where=where)
        answer, timezone = await self._asked(request, [event])
        result = answers.numeric_sum(answer, _params(request), timezone)
        await self._check_events([event], result.results)
        return self._linked(result, self._shown(request, event, None, where, "total", unit, on))

    async def segmentation_average(
        self,
        event: str,
        *,
        from_date: Day,
        to_date: Day,
        on: Expression | str,
        unit: HourDayUnit = "day",
        where: Where = None,
    ) -> NumericAverageResult:
        """Return the average of a number over an event's occurrences, by date.

        Arguments as in `segmentation`; `on` is a numeric property, or a numeric expression.

        :raises ConfigError: for arguments that cannot work; before anything is sent.
        :raises EventNotFoundError: with similar names.
        :raises APIError: when Mixpanel refuses.
        """
        request = requests.numeric(
            "average", event, from_date, to_date, on=on, unit=unit, where=where
        )
        answer, timezone = await self._asked(request, [event])
        result = answers.numeric_average(answer, _params(request), timezone)
        await self._check_events([event], result.results)
        return self._linked(result, self._shown(request, event, None, where, "average", unit, on))

    async def event_counts(
        self,
        events: Sequence[str] | str,
        *,
        from_date: Day,
        to_date: Day,
        type: CountType = "general",  # noqa: A002 - the API's name
        unit: SegmentationUnit = "day",
    ) -> EventCountsResult:
        """Count several events by date, in one query; arguments as in `segmentation`.

        :raises ConfigError: for arguments that cannot work; before anything is sent.
        :raises EventNotFoundError: with similar names.
        :raises APIError: when Mixpanel refuses.
        """
        request = requests.event_counts(events, from_date, to_date, type=type, unit=unit)
        names = _params(request)["event"]
        answer, timezone = await self._asked(request, names)
        result = answers.event_counts(answer, _params(request), timezone)
        await self._check_events(
            [name for name in names if not any(result.series[name].values())], None
        )
        show = [Metric(name, MATHS[type]) for name in names]
        days = _days(request)
        return self._linked(
            result,
            ReportLink("insights", params=lambda: bookmarks.insights(show, days, unit=_unit(unit))),
        )

    async def property_counts(
        self,
        event: str,
        property_name: str,
        *,
        from_date: Day,
        to_date: Day,
        type: CountType = "general",  # noqa: A002 - the API's name
        unit: SegmentationUnit = "day",
        values: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> PropertyCountsResult:
        """Count an event by the values of a property and date.

        Only those in `values`, if given; at most `limit` (255), and `limit_hit` says that there may
        be more. Other arguments as in `segmentation`.

        :raises ConfigError: for arguments that cannot work; before anything is sent.
        :raises EventNotFoundError: with similar names.
        :raises PropertyNotFoundError: with similar names.
        :raises APIError: when Mixpanel refuses.
        """
        request = requests.property_counts(
            event, property_name, from_date, to_date,
            type=type, unit=unit, values=values, limit=limit,
        )  # fmt: skip
        answer, timezone = await self._asked(request, [event])
        result = answers.property_counts(answer, _params(request), timezone)
        await self._check_events([event], result.series)
        if values is None and result.series.keys() <= UNSET:
            await self._check_property(event, property_name)
        on = Property(property_name)
        return self._linked(result, self._shown(request, event, on, None, MATHS[type], unit))

    # ---- funnels, retention, frequency ----------------------------------------------------------

    async def funnel(
        self,
        funnel_id: int,
        *,
        from_date: Day,
        to_date: Day,
        unit: TimeUnit | None = None,
        on: Expression | str | None = None,
        where: Where = None,
        interval: int | None = None,
        length: int | None = None,
        length_unit: Literal["day", "hour", "minute", "second"] | None = None,
        limit: int = 1000,
    ) -> FunnelResult:
        """Compute a saved funnel; `list_funnels` has their numbers.

        The days are those on which users begin; they may complete it later, within `length` (as it
        was saved, unless given here; 90 days at most). With `unit` or `interval` (days) `dates`
        holds the steps of each period: then a user who began in two periods counts in both, and
        twice in `steps`.

        :raises ConfigError: for arguments that cannot work; before anything is sent.
        :raises ReportNotFoundError: with the funnels there are.
        :raises APIError: when Mixpanel refuses.
        """
        request = requests.funnel(
            funnel_id, from_date, to_date,
            unit=unit, interval=interval, length=length, length_unit=length_unit,
            on=on, where=where, limit=limit,
        )  # fmt: skip
        number = _params(request)["funnel_id"]
        try:
            answer, timezone = await self._asked(request)
        except QueryError as error:
            await self._report_missing("funnel", number, error, self.list_funnels)
            raise
        known = self._cache.get("funnels") or ()
        name = next((each.name for each in known if each.id == number), "")
        result = funnel_answers.funnel(
            answer, _params(request), name=name, segment=property_name(on), timezone=timezone
        )
        return self._linked(result, ReportLink("funnels", number))

    async def retention(
        self,
        born: str | None = None,
        return_: str | None = None,
        *,
        from_date: Day,
        to_date: Day,
        born_event: str | None = None,
        return_event: str | None = None,
        born_where: Where = None,
        return_where: Where = None,
        interval: int = 1,
        interval_count: int = 10,
        unit: TimeUnit = "day",
        retention_type: RetentionType = "birth",
        unbounded: bool = False,
        on: Expression | str | None = None,
        limit: int = 1000,
    ) -> RetentionResult:
        """Count the users who did one event, and came back to do another.

        - `born` and `return_`, or `born_event` and `return_event`: the two events; without the
          second any event counts.
        - `unit`: the length of an interval; or `interval`, which counts days.
        - `interval_count`: so many intervals after the first.
        - `retention_type`: "birth" begins with each user's first `born` event, "compounded" with
          every return event.
        - `unbounded`: interval N counts those who came back in N or later.
        - `on`: cohorts by the values of a property, `limit` of them at most.

        :raises ConfigError: for arguments that cannot work; before anything is sent.
        :raises EventNotFoundError: with similar names.
        :raises APIError: when Mixpanel refuses.
        """
        first = _one_spelling("born", born, born_event)
        then = _one_spelling("return_", return_, return_event, name="return_event")
        request = requests.retention(
            first, then, from_date, to_date,
            born_where=born_where, return_where=return_where, interval=interval,
            interval_count=interval_count, unit=unit, retention_type=retention_type,
            unbounded=unbounded, on=on, limit=limit,
        )  # fmt: skip
        answer, timezone = await self._asked(request, [first, then])
        result = cohort_answers.retention(
            answer, _params(request), segment=property_name(on), timezone=timezone
        )
        if not any(cohort.size for cohort in result.cohorts) and not result.segments:
            await self._check_events([first, then], None)
        return self._linked(
            result,
            None if first is None or then is None else
            ReportLink("retention", params=lambda: _retention_bookmark(
                request, first, then, born_where, return_where, unit, interval, on
            )),
        )  # fmt: skip

    async def frequency(
        self,
        *,
        from_date: Day,
        to_date: Day,
        unit: TimeUnit = "day",
        addiction_unit: HourDayUnit = "hour",
        event: str | None = None,
        where: Where = None,
        on: Expression | str | None = None,
        limit: int = 1000,
    ) -> FrequencyResult:
        """Count on how many days, or in how many hours, of each period users were active.

        An `addiction_unit` is a part of a `unit`; without `event` any event counts. `where`, `on`
        and `limit` as in `segmentation`.

        :raises ConfigError: for arguments that cannot work; before anything is sent.
        :raises EventNotFoundError: with similar names.
        :raises APIError: when Mixpanel refuses.
        """
        request = requests.frequency(
            from_date, to_date, unit=unit, addiction_unit=addiction_unit,
            event=event, where=where, on=on, limit=limit,
        )  # fmt: skip
        answer, timezone = await self._asked(request, [event])
        result = cohort_answers.frequency(
            answer, _params(request), segment=property_name(on), timezone=timezone
        )
        await self._check_events([event], [result.data, result.segments])
        return result

    # ---- saved reports --------------------------------------------------------------------------

    async def saved_report(
        self,
        bookmark_id: int,
        *,
        type: Literal["insights", "funnels", "retention", "flows"] | None = None,  # noqa: A002
        from_date: Day | None = None,
        to_date: Day | None = None,
    ) -> SavedReportResult:
        """Compute a saved report of any type; `list_bookmarks` has their numbers.

        `type` is looked up, unless given. The dates are for funnels: without them a funnel covers
        the days that it was saved with.

        :raises ConfigError: for arguments that cannot work; before anything is sent.
        :raises ReportNotFoundError: with the reports there are.
        :raises APIError: when Mixpanel refuses.
        """
        number = identifier(bookmark_id, "bookmark_id")
        kind = type or await self._kind_of(number)
        if kind not in SAVED_KINDS:
            kind = "insights"
        request = requests.saved_report(number, kind, from_date, to_date)
        try:
            answer, timezone = await self._asked(request)
        except QueryError as error:
            await self._report_missing("report", number, error, self.list_bookmarks)
            raise
        result = self._saved(answer, request, number, kind, timezone)
        app: Any = {"funnel": "funnels"}.get(result.report_type, result.report_type)
        return self._linked(result, ReportLink(app, number))

    def _saved(
        self, answer: Any, request: QueryRequest, number: int, kind: str, timezone: str | None
    ) -> SavedReportResult:
        report: QueryResult
        if request.path == "arb_funnels":
            report = answers.flows(answer, bookmark_id=number, timezone=timezone)
            return answers.saved_report(answer, number, "flows", report)
        if request.path == "funnels":
            report = funnel_answers.funnel(
                answer, _params(request), name="", segment=None, timezone=timezone
            )
            return answers.saved_report(answer, number, "funnel", report)
        if request.path == "retention" and "series" not in answer:
            report = cohort_answers.retention(answer, {}, segment=None, timezone=timezone)
            return answers.saved_report(answer, number, "retention", report)
        named = answers.kind_of_report(answer)
        if named == "insights" and kind in ("funnels", "retention"):
            named = "funnel" if kind == "funnels" else "retention"
        if named == "funnel":
            report = funnel_answers.inline_funnel(answer, funnel_id=number, timezone=timezone)
        elif named == "retention":
            report = cohort_answers.inline_retention(answer, {}, timezone=timezone)
        else:
            report = answers.insights(answer, timezone=timezone)
        return answers.saved_report(answer, number, named, report)

    async def _kind_of(self, number: int) -> str:
        """Return a saved report's type; "insights" where that cannot be found out."""
        try:
            known = await self.list_bookmarks()
        except APIError:
            return "insights"
        return next((each.type for each in known if each.id == number), "insights")

    async def query_flows(self, bookmark_id: int) -> FlowsResult:
        """Compute a saved flows report; `query_flow` computes one that is not saved.

        :raises ReportNotFoundError: with the flows there are.
        :raises APIError: when Mixpanel refuses.
        """
        request = requests.saved_flows(bookmark_id)
        number = _params(request)["bookmark_id"]
        try:
            answer, timezone = await self._asked(request)
        except QueryError as error:
            known = partial(self.list_bookmarks, "flows")
            await self._report_missing("flows report", number, error, known)
            raise
        result = answers.flows(answer, bookmark_id=number, timezone=timezone)
        return self._linked(result, ReportLink("flows", number))

    flows = query_flows

    # ---- users ----------------------------------------------------------------------------------

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
        """Return the events of some users, in the order of their time; the last 30 days by default.

        - `events`: only these; or all but `exclude_events`.
        - `search`: only events that hold this text.
        - `limit`: the latest so many events. A query covers up to 15,000 events of 30 days, and at
          most `max_calls` are made; `limit_hit` says that there are more events.

        :raises ConfigError: for arguments that cannot work; before anything is sent.
        :raises APIError: when Mixpanel refuses.
        """
        whole("limit", limit, 1, 1_000_000)
        whole("max_calls", max_calls, 1, 60)
        options: dict[str, Any] = {
            "events": events,
            "exclude_events": exclude_events,
            "search": search,
            "project_id": self._core.api.project_id,
        }
        first = partial(requests.activity_feed, distinct_ids, from_date, to_date, **options)
        first(workspace_id=0, limit=min(limit, requests.MOST_FEED_EVENTS))  # checks the arguments
        view = await self._view()
        found, more = None, False
        if view is not None:
            page = partial(first, workspace_id=view)
            found, more = await self._feed_pages(page, limit, max_calls)
        if found is None:
            if events is not None or exclude_events is not None or search:
                raise ConfigError(
                    "events, exclude_events and search need the number of a data view: give the "
                    "workspace its workspace_id"
                )
            request = requests.activity_feed_of_old(distinct_ids, from_date, to_date)
            found, _ = answers.feed_page(await self._query(request))
        ids = identifiers(distinct_ids, "distinct_ids")
        dates = (
            None if from_date is None else str(from_date),
            None if to_date is None else str(to_date),
        )
        result = answers.activity_feed(
            found, ids, dates, limit_hit=more, timezone=await self.project_timezone()
        )
        return result if len(result.events) <= limit else answers.latest(result, limit)

    async def _feed_pages(
        self, page: partial[QueryRequest], limit: int, max_calls: int
    ) -> tuple[list[UserEvent] | None, bool]:
        """Return the events of all pages, None where the endpoint is not there; and if more are."""
        found: list[UserEvent] = []
        sentinel: Any = None
        for call in range(max_calls):
            size = min(limit - len(found), requests.MOST_FEED_EVENTS)
            try:
                answer = await self._query(page(limit=size, sentinel=sentinel))
            except QueryError as error:
                if call or error.status_code not in GONE:
                    raise
                return None, False
            events, following = answers.feed_page(answer)
            found += events
            if following is None or (following == sentinel and not events):
                return found, False
            sentinel = following
            if len(found) >= limit:
                break
        return found, True

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
        """Compute one figure over profiles.

        - `action`: `count()`, `extremes(properties["age"])`, `percentile(properties["age"], 95)` or
          `numeric_summary(properties["age"])`.
        - `where`: a condition on the profile, as `prop("plan") == "team"`.
        - `cohort_id`: only its members; `segment_by_cohorts`: a figure for each of these cohorts.
        - `group_id`: profiles of this group key in place of users'.

        :raises ConfigError: for arguments that cannot work; before anything is sent.
        :raises APIError: when Mixpanel refuses.
        """
        request = requests.engage_stats(
            action, where=where, cohort_id=cohort_id, segment_by_cohorts=segment_by_cohorts,
            group_id=group_id, as_of_timestamp=as_of_timestamp,
            include_all_users=include_all_users,
        )  # fmt: skip
        answer, timezone = await self._asked(request)
        assert request.form is not None
        return answers.engage_stats(answer, request.form, timezone)

    async def jql(self, script: str, params: Mapping[str, Any] | None = None) -> JQLResult:
        """Run a JQL script, whose `main()` reads `params`.

        Deprecated: Mixpanel keeps JQL in maintenance mode and may switch it off. Use `query` and
        its kin, or fetch events and use SQL. Each call warns by `JQLDeprecationWarning`.

        :raises JQLSyntaxError: for a script that Mixpanel cannot run.
        :raises APIError: when Mixpanel refuses.
        """
        warnings.warn(
            "JQL is in maintenance mode at Mixpanel: use query(), or fetch events and use SQL",
            JQLDeprecationWarning,
            stacklevel=2,
        )
        answer, timezone = await self._asked(requests.jql(script, params))
        return answers.jql(answer, timezone)

    # ---- what they share ------------------------------------------------------------------------

    async def _asked(
        self, request: QueryRequest, events: Sequence[str | None] = ()
    ) -> tuple[Any, str | None]:
        """Send a query; return its answer and the project's timezone."""
        return await self._query(request, events), await self.project_timezone()

    async def _check_segments(
        self, event: str, on: Expression | str | None, series: Mapping[str, Any]
    ) -> None:
        """Look for an unknown property when no event has it."""
        name = on.name if isinstance(on, Property) and on.source == "properties" else on
        if (
            isinstance(name, str)
            and not ACCESSOR.search(name)
            and series
            and series.keys() <= UNSET
        ):
            await self._check_property(event, name)

    def _shown(
        self,
        request: QueryRequest,
        event: str,
        by: Any,
        where: Where,
        math: InsightsMath,
        unit: str,
        property: Expression | str | None = None,  # noqa: A002 - the API's name
    ) -> ReportLink:
        """Return where a count of one event can be seen: in an insights report."""
        days = _days(request)

        def params() -> dict[str, Any]:
            metric = Metric(event, math, property=property, where=where)
            group: Any = by() if callable(by) else by
            return bookmarks.insights(metric, days, unit=_unit(unit), by=group)

        return ReportLink("insights", params=params)


def _params(request: QueryRequest) -> Mapping[str, Any]:
    assert request.params is not None
    return request.params


def _days(request: QueryRequest) -> TimeRange:
    params = _params(request)
    return TimeRange(params["from_date"], params["to_date"])


def _unit(unit: str) -> Any:
    """Return the unit of an insights report; none has minutes."""
    return "hour" if unit == "minute" else unit


def _number_breakdown(on: Expression | str) -> Breakdown:
    return Breakdown(on, type="number")


def _one_spelling(
    argument: str, value: str | None, other: str | None, name: str = "born_event"
) -> str | None:
    if value is not None and other is not None:
        raise ConfigError(f"{argument} and {name} are the same: give one of them")
    return value if other is None else other


def _retention_bookmark(
    request: QueryRequest, born: str, return_: str, born_where: Where, return_where: Where,
    unit: TimeUnit, interval: int, on: Expression | str | None,
) -> dict[str, Any]:  # fmt: skip
    from mixpanel.data.inline_queries import Step

    if interval != 1:
        raise ConfigError("Mixpanel's retention report has units, not intervals of several days")
    first, then = Step(born, born_where), Step(return_, return_where)
    return bookmarks.retention(first, then, _days(request), unit=unit, by=on)
