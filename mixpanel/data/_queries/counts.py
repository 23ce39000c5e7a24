"""Count events: by date, by segment, by numeric range."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from mixpanel.data._queries import on_demand
from mixpanel.data._queries.arguments import (
    ACCESSOR,
    property_name,
)
from mixpanel.data._queries.links import ReportLink
from mixpanel.data._queries.query_sender import QuerySender
from mixpanel.data.exceptions import ConfigError
from mixpanel.data.expressions import Property

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mixpanel.data._fetch.plan import Day
    from mixpanel.data._queries.arguments import Where
    from mixpanel.data._queries.requests import QueryRequest
    from mixpanel.data.expressions import Expression
    from mixpanel.data.inline_queries import Breakdown, InsightsMath
    from mixpanel.data.query_results import (
        CountType,
        EventCountsResult,
        HourDayUnit,
        NumericAverageResult,
        NumericBucketResult,
        NumericSumResult,
        PropertyCountsResult,
        SegmentationResult,
        SegmentationUnit,
    )

__all__ = ["CountQueries"]

UNSET = frozenset({"undefined", "null", "", "None"})
MATHS: dict[str, InsightsMath] = {"general": "total", "unique": "unique"}


class CountQueries(QuerySender):
    """Counts, sums and averages of events."""

    async def segmentation(
        self,
        event: str,
        *,
        from_date: Day,
        to_date: Day,
        on: Expression | str | None = None,
        unit: SegmentationUnit = "day",
        where: Where = None,
        type: CountType = "general",
        limit: int = 1000,
    ) -> SegmentationResult:
        """Count an event by date, and by the values of `on`.

        - `from_date` and `to_date`: days in the project's timezone, both included, as "2026-01-31"
          or relative to today: "today", "yesterday", "-7d", "-4w" or "-3m".
        - `on`: the name of a property, or an expression as of `mixpanel.data.expressions`.
        - `where`: an expression, or its text.
        - `type`: "general" events, "unique" users, or the "average" events per user.
        - `limit`: the maximum of segments, up to 10,000; `limit_hit` is True if there are more.

        :raises ConfigError: for invalid arguments; nothing is sent then.
        :raises EventNotFoundError: for an unknown event, with similar names.
        :raises PropertyNotFoundError: for an unknown property, with similar names.
        :raises APIError: when Mixpanel rejects the call.
        """
        from_date, to_date = await self._days(from_date, to_date)
        request = on_demand.requests.segmentation(
            event, from_date, to_date, on=on, unit=unit, where=where, type=type, limit=limit
        )
        response, timezone = await self._query_with_timezone(request, [event])
        result = on_demand.responses.segmentation(
            response, request.query, property_name(on), timezone
        )
        await self._check_events([event], result.series)
        await self._check_segments(event, on, result.series)
        return self._with_link(
            result, self._report_link(request, event, on, where, MATHS.get(type), unit)
        )

    async def segmentation_numeric(
        self,
        event: str,
        *,
        from_date: Day,
        to_date: Day,
        on: Expression | str,
        unit: HourDayUnit = "day",
        where: Where = None,
        type: CountType = "general",
    ) -> NumericBucketResult:
        """Count an event by date and by numeric ranges, which Mixpanel chooses.

        Arguments as in `segmentation`; `on` is a numeric property, or a numeric expression.

        :raises ConfigError: for invalid arguments; nothing is sent then.
        :raises EventNotFoundError: for an unknown event, with similar names.
        :raises APIError: when Mixpanel rejects the call.
        """
        from_date, to_date = await self._days(from_date, to_date)
        request = on_demand.requests.numeric(
            "numeric", event, from_date, to_date, on=on, unit=unit, where=where, type=type
        )
        response, timezone = await self._query_with_timezone(request, [event])
        result = on_demand.responses.numeric_buckets(response, request.query, timezone)
        await self._check_events([event], result.series)
        by = partial(_number_breakdown, on)
        return self._with_link(
            result, self._report_link(request, event, by, where, MATHS.get(type), unit)
        )

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
        """Sum a numeric property over an event's occurrences, by date; other values count as 0.

        Arguments as in `segmentation`; `on` is a numeric property, or a numeric expression.

        :raises ConfigError: for invalid arguments; nothing is sent then.
        :raises EventNotFoundError: for an unknown event, with similar names.
        :raises APIError: when Mixpanel rejects the call.
        """
        from_date, to_date = await self._days(from_date, to_date)
        request = on_demand.requests.numeric(
            "sum", event, from_date, to_date, on=on, unit=unit, where=where
        )
        response, timezone = await self._query_with_timezone(request, [event])
        result = on_demand.responses.numeric_sum(response, request.query, timezone)
        await self._check_events([event], result.results)
        return self._with_link(
            result, self._report_link(request, event, None, where, "total", unit, on)
        )

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
        """Average a numeric property over an event's occurrences, by date.

        Arguments as in `segmentation`; `on` is a numeric property, or a numeric expression.

        :raises ConfigError: for invalid arguments; nothing is sent then.
        :raises EventNotFoundError: for an unknown event, with similar names.
        :raises APIError: when Mixpanel rejects the call.
        """
        from_date, to_date = await self._days(from_date, to_date)
        request = on_demand.requests.numeric(
            "average", event, from_date, to_date, on=on, unit=unit, where=where
        )
        response, timezone = await self._query_with_timezone(request, [event])
        result = on_demand.responses.numeric_average(response, request.query, timezone)
        await self._check_events([event], result.results)
        return self._with_link(
            result, self._report_link(request, event, None, where, "average", unit, on)
        )

    async def event_counts(
        self,
        events: Sequence[str] | str,
        *,
        from_date: Day,
        to_date: Day,
        type: CountType = "general",
        unit: SegmentationUnit = "day",
    ) -> EventCountsResult:
        """Count several events by date, in one query; arguments as in `segmentation`.

        :raises ConfigError: for invalid arguments; nothing is sent then.
        :raises EventNotFoundError: for an unknown event, with similar names.
        :raises APIError: when Mixpanel rejects the call.
        """
        from_date, to_date = await self._days(from_date, to_date)
        request = on_demand.requests.event_counts(events, from_date, to_date, type=type, unit=unit)
        names = request.query["event"]
        response, timezone = await self._query_with_timezone(request, names)
        result = on_demand.responses.event_counts(response, request.query, timezone)
        await self._check_events(
            [name for name in names if not any(result.series[name].values())], None
        )
        days = request.days

        def params() -> dict[str, Any]:
            from mixpanel.data.inline_queries import Metric

            metrics = [Metric(name, _report_math(MATHS.get(type))) for name in names]
            return on_demand.bookmarks.insights(metrics, days, unit=_unit(unit))

        return self._with_link(result, ReportLink("insights", params=params))

    async def property_counts(
        self,
        event: str,
        property_name: str,
        *,
        from_date: Day,
        to_date: Day,
        type: CountType = "general",
        unit: SegmentationUnit = "day",
        values: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> PropertyCountsResult:
        """Count an event by the values of a property and date.

        Only those in `values`, if given; at most `limit` (255), and `limit_hit` is True if there
        may be more. Other arguments as in `segmentation`.

        :raises ConfigError: for invalid arguments; nothing is sent then.
        :raises EventNotFoundError: for an unknown event, with similar names.
        :raises PropertyNotFoundError: for an unknown property, with similar names.
        :raises APIError: when Mixpanel rejects the call.
        """
        from_date, to_date = await self._days(from_date, to_date)
        request = on_demand.requests.property_counts(
            event, property_name, from_date, to_date,
            type=type, unit=unit, values=values, limit=limit,
        )  # fmt: skip
        response, timezone = await self._query_with_timezone(request, [event])
        result = on_demand.responses.property_counts(response, request.query, timezone)
        await self._check_events([event], result.series)
        if values is None and result.series.keys() <= UNSET:
            await self._check_property(event, property_name)
        on = Property(property_name)
        return self._with_link(
            result, self._report_link(request, event, on, None, MATHS.get(type), unit)
        )

    async def _check_segments(
        self, event: str, on: Expression | str | None, series: Mapping[str, Any]
    ) -> None:
        """Check for an unknown property if no event has a value of it."""
        name = on.name if isinstance(on, Property) and on.source == "properties" else on
        if (
            isinstance(name, str)
            and not ACCESSOR.search(name)
            and series
            and series.keys() <= UNSET
        ):
            await self._check_property(event, name)

    def _report_link(
        self,
        request: QueryRequest,
        event: str,
        by: Any,
        where: Where,
        math: InsightsMath | None,
        unit: str,
        property: Expression | str | None = None,
    ) -> ReportLink:
        """Return the link to a count of one event: an insights report."""
        days = request.days

        def params() -> dict[str, Any]:
            from mixpanel.data.inline_queries import Metric

            metric = Metric(event, _report_math(math), property=property, where=where)
            group: Any = by() if callable(by) else by
            return on_demand.bookmarks.insights(metric, days, unit=_unit(unit), by=group)

        return ReportLink("insights", params=params)


def _report_math(math: InsightsMath | None) -> InsightsMath:
    """Return the math of an insights report.

    :raises ConfigError: for the average per user, which insights reports do not offer.
    """
    if math is None:
        raise ConfigError("Mixpanel has no report of the average number of events per user")
    return math


def _unit(unit: str) -> Any:
    """Return the unit of an insights report, which has no minutes."""
    return "hour" if unit == "minute" else unit


def _number_breakdown(on: Expression | str) -> Breakdown:
    from mixpanel.data.inline_queries import Breakdown

    return Breakdown(on, type="number")
