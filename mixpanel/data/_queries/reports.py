"""Funnels, retention, frequency and saved reports."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from mixpanel.data._queries import on_demand, response_values
from mixpanel.data._queries.arguments import (
    identifier,
    property_name,
)
from mixpanel.data._queries.links import ReportLink
from mixpanel.data._queries.query_sender import QuerySender
from mixpanel.data.exceptions import APIError, ConfigError, QueryError

if TYPE_CHECKING:
    from mixpanel.data._fetch.plan import Day
    from mixpanel.data._queries.arguments import Where
    from mixpanel.data._queries.requests import QueryRequest
    from mixpanel.data.expressions import Expression
    from mixpanel.data.query_results import (
        FlowsResult,
        FrequencyResult,
        FunnelResult,
        HourDayUnit,
        QueryResult,
        RetentionResult,
        RetentionType,
        SavedReportResult,
        TimeUnit,
    )

__all__ = ["ReportQueries"]

SAVED_KINDS = ("insights", "funnels", "retention", "flows")


class ReportQueries(QuerySender):
    """Funnels, retention, frequency, and reports saved in Mixpanel."""

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
        """Compute a saved funnel; `list_funnels` returns the ids.

        The days are those on which users begin; they may complete it later, within `length` (as it
        was saved, unless given here; 90 days at most). With `unit` or `interval` (days) `dates`
        holds the steps of each period: then a user who began in two periods counts in both, and
        twice in `steps`.

        :raises ConfigError: for invalid arguments; nothing is sent then.
        :raises ReportNotFoundError: with the funnels there are.
        :raises APIError: when Mixpanel rejects the call.
        """
        from_date, to_date = await self._days(from_date, to_date)
        request = on_demand.requests.funnel(
            funnel_id, from_date, to_date,
            unit=unit, interval=interval, length=length, length_unit=length_unit,
            on=on, where=where, limit=limit,
        )  # fmt: skip
        number = request.query["funnel_id"]
        try:
            response, timezone = await self._query_with_timezone(request)
        except QueryError as error:
            await self._report_missing("funnel", number, error, self.list_funnels)
            raise
        if not response_values.as_object(response, "the response").get("data"):
            await self._check_report("funnel", number, self.list_funnels)
        known = self._cache.get("funnels") or ()
        name = next((each.name for each in known if each.id == number), "")
        result = on_demand.funnel_responses.funnel(
            response, request.query, name=name, segment=property_name(on), timezone=timezone
        )
        return self._with_link(result, ReportLink("funnels", number))

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

        :raises ConfigError: for invalid arguments; nothing is sent then.
        :raises EventNotFoundError: for an unknown event, with similar names.
        :raises APIError: when Mixpanel rejects the call.
        """
        from_date, to_date = await self._days(from_date, to_date)
        first = _one_spelling("born", born, born_event)
        then = _one_spelling("return_", return_, return_event, name="return_event")
        request = on_demand.requests.retention(
            first, then, from_date, to_date,
            born_where=born_where, return_where=return_where, interval=interval,
            interval_count=interval_count, unit=unit, retention_type=retention_type,
            unbounded=unbounded, on=on, limit=limit,
        )  # fmt: skip
        response, timezone = await self._query_with_timezone(request, [first, then])
        result = on_demand.retention_responses.retention(
            response, request.query, segment=property_name(on), timezone=timezone
        )
        if not any(cohort.size for cohort in result.cohorts) and not result.segments:
            await self._check_events([first, then], None)
        return self._with_link(
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

        :raises ConfigError: for invalid arguments; nothing is sent then.
        :raises EventNotFoundError: for an unknown event, with similar names.
        :raises APIError: when Mixpanel rejects the call.
        """
        from_date, to_date = await self._days(from_date, to_date)
        request = on_demand.requests.frequency(
            from_date, to_date, unit=unit, addiction_unit=addiction_unit,
            event=event, where=where, on=on, limit=limit,
        )  # fmt: skip
        response, timezone = await self._query_with_timezone(request, [event])
        result = on_demand.retention_responses.frequency(
            response, request.query, segment=property_name(on), timezone=timezone
        )
        await self._check_events([event], [result.data, result.segments])
        return result

    async def saved_report(
        self,
        bookmark_id: int,
        *,
        type: Literal["insights", "funnels", "retention", "flows"] | None = None,
        from_date: Day | None = None,
        to_date: Day | None = None,
    ) -> SavedReportResult:
        """Compute a saved report of any type; `list_bookmarks` returns the ids.

        `type` is looked up, unless given. The dates are for funnels: without them a funnel covers
        the days that it was saved with.

        :raises ConfigError: for invalid arguments; nothing is sent then.
        :raises ReportNotFoundError: with the reports there are.
        :raises APIError: when Mixpanel rejects the call.
        """
        number = identifier(bookmark_id, "bookmark_id")
        kind = type or await self._kind_of(number)
        if kind not in SAVED_KINDS:
            kind = "insights"
        from_date, to_date = await self._days(from_date, to_date)
        request = on_demand.requests.saved_report(number, kind, from_date, to_date)
        try:
            response, timezone = await self._query_with_timezone(request)
        except QueryError as error:
            await self._report_missing("report", number, error, self.list_bookmarks)
            raise
        result = self._saved(response, request, number, kind, timezone)
        app: Any = {"funnel": "funnels"}.get(result.report_type, result.report_type)
        return self._with_link(result, ReportLink(app, number))

    def _saved(
        self, response: Any, request: QueryRequest, number: int, kind: str, timezone: str | None
    ) -> SavedReportResult:
        report: QueryResult
        if request.path == "arb_funnels":
            report = on_demand.responses.flows(response, bookmark_id=number, timezone=timezone)
            return on_demand.responses.saved_report(response, number, "flows", report)
        if request.path == "funnels":
            report = on_demand.funnel_responses.funnel(
                response, request.query, name="", segment=None, timezone=timezone
            )
            return on_demand.responses.saved_report(response, number, "funnel", report)
        if request.path == "retention" and "series" not in response:
            report = on_demand.retention_responses.retention(
                response, {}, segment=None, timezone=timezone
            )
            return on_demand.responses.saved_report(response, number, "retention", report)
        named = on_demand.responses.kind_of_report(response, kind)
        if named == "funnel":
            report = on_demand.funnel_responses.inline_funnel(
                response, funnel_id=number, timezone=timezone
            )
        elif named == "retention":
            report = on_demand.retention_responses.inline_retention(response, {}, timezone=timezone)
        else:
            report = on_demand.responses.insights(response, timezone=timezone)
        return on_demand.responses.saved_report(response, number, named, report)

    async def _kind_of(self, number: int) -> str:
        """Return a saved report's type; "insights" if it cannot be determined."""
        try:
            known = await self.list_bookmarks()
        except APIError:
            return "insights"
        return next((each.type for each in known if each.id == number), "insights")

    async def query_flows(self, bookmark_id: int) -> FlowsResult:
        """Compute a saved flows report; `query_flow` computes one that is not saved.

        :raises ReportNotFoundError: for an unknown id, with the saved flows.
        :raises APIError: when Mixpanel rejects the call.
        """
        request = on_demand.requests.saved_flows(bookmark_id)
        number = request.query["bookmark_id"]
        try:
            response, timezone = await self._query_with_timezone(request)
        except QueryError as error:
            known = partial(self.list_bookmarks, "flows")
            await self._report_missing("flows report", number, error, known)
            raise
        result = on_demand.responses.flows(response, bookmark_id=number, timezone=timezone)
        return self._with_link(result, ReportLink("flows", number))

    flows = query_flows


def _one_spelling(
    argument: str, value: str | None, other: str | None, name: str = "born_event"
) -> str | None:
    if value is not None and other is not None:
        raise ConfigError(f"{argument} and {name} are the same: pass one of them")
    return value if other is None else other


def _retention_bookmark(
    request: QueryRequest, born: str, return_: str, born_where: Where, return_where: Where,
    unit: TimeUnit, interval: int, on: Expression | str | None,
) -> dict[str, Any]:  # fmt: skip
    from mixpanel.data.inline_queries import Step

    if interval != 1:
        raise ConfigError("Mixpanel's retention report has units, not intervals of several days")
    first, then = Step(born, born_where), Step(return_, return_where)
    return on_demand.bookmarks.retention(first, then, request.days, unit=unit, by=on)
