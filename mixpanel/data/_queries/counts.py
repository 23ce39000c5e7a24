"""Count events: by date, by segment, by ranges of a number."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from mixpanel.data._queries import answers, bookmarks, requests
from mixpanel.data._queries.arguments import (
    ACCESSOR,
    property_name,
)
from mixpanel.data._queries.links import ReportLink
from mixpanel.data._queries.sending import QuerySender
from mixpanel.data.exceptions import ConfigError
from mixpanel.data.expressions import Property
from mixpanel.data.inline_queries import Breakdown, Metric

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mixpanel.data._fetch.plan import Day
    from mixpanel.data._queries.arguments import Where
    from mixpanel.data._queries.requests import QueryRequest
    from mixpanel.data.expressions import Expression
    from mixpanel.data.inline_queries import InsightsMath
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
        type: CountType = "general",  # noqa: A002 - the API's name
        limit: int = 1000,
    ) -> SegmentationResult:
        """Count an event by date, and by the values of `on`.

        - `from_date` and `to_date`: days in the project's timezone, both included.
        - `on`: the name of a property, or an expression as of `mixpanel.data.expressions`.
        - `where`: an expression, or its text.
        - `type`: "general" events, "unique" users, or the "average" events per user.
        - `limit`: so many segments at most (10,000); `limit_hit` is True if there are more.

        :raises ConfigError: for arguments that cannot work; before anything is sent.
        :raises EventNotFoundError: with similar names.
        :raises PropertyNotFoundError: with similar names.
        :raises APIError: when Mixpanel refuses.
        """
        request = requests.segmentation(
            event, from_date, to_date, on=on, unit=unit, where=where, type=type, limit=limit
        )
        answer, timezone = await self._answer(request, [event])
        result = answers.segmentation(answer, request.query, property_name(on), timezone)
        await self._check_events([event], result.series)
        await self._check_segments(event, on, result.series)
        return self._linked(result, self._shown(request, event, on, where, MATHS.get(type), unit))

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
        answer, timezone = await self._answer(request, [event])
        result = answers.numeric_buckets(answer, request.query, timezone)
        await self._check_events([event], result.series)
        by = partial(_number_breakdown, on)
        return self._linked(result, self._shown(request, event, by, where, MATHS.get(type), unit))

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
        answer, timezone = await self._answer(request, [event])
        result = answers.numeric_sum(answer, request.query, timezone)
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
        answer, timezone = await self._answer(request, [event])
        result = answers.numeric_average(answer, request.query, timezone)
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
        names = request.query["event"]
        answer, timezone = await self._answer(request, names)
        result = answers.event_counts(answer, request.query, timezone)
        await self._check_events(
            [name for name in names if not any(result.series[name].values())], None
        )
        days = request.days
        return self._linked(
            result,
            ReportLink(
                "insights",
                params=lambda: bookmarks.insights(
                    [Metric(name, _shown_math(MATHS.get(type))) for name in names],
                    days,
                    unit=_unit(unit),
                ),
            ),
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

        Only those in `values`, if given; at most `limit` (255), and `limit_hit` is True if there
        may be more. Other arguments as in `segmentation`.

        :raises ConfigError: for arguments that cannot work; before anything is sent.
        :raises EventNotFoundError: with similar names.
        :raises PropertyNotFoundError: with similar names.
        :raises APIError: when Mixpanel refuses.
        """
        request = requests.property_counts(
            event, property_name, from_date, to_date,
            type=type, unit=unit, values=values, limit=limit,
        )  # fmt: skip
        answer, timezone = await self._answer(request, [event])
        result = answers.property_counts(answer, request.query, timezone)
        await self._check_events([event], result.series)
        if values is None and result.series.keys() <= UNSET:
            await self._check_property(event, property_name)
        on = Property(property_name)
        return self._linked(result, self._shown(request, event, on, None, MATHS.get(type), unit))

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
        math: InsightsMath | None,
        unit: str,
        property: Expression | str | None = None,  # noqa: A002 - the API's name
    ) -> ReportLink:
        """Return where a count of one event can be seen: in an insights report."""
        days = request.days

        def params() -> dict[str, Any]:
            metric = Metric(event, _shown_math(math), property=property, where=where)
            group: Any = by() if callable(by) else by
            return bookmarks.insights(metric, days, unit=_unit(unit), by=group)

        return ReportLink("insights", params=params)


def _shown_math(math: InsightsMath | None) -> InsightsMath:
    """Return the math of an insights report.

    :raises ConfigError: for the average per user, which such reports do not count.
    """
    if math is None:
        raise ConfigError("no report of Mixpanel shows the average number of events per user")
    return math


def _unit(unit: str) -> Any:
    """Return the unit of an insights report; none has minutes."""
    return "hour" if unit == "minute" else unit


def _number_breakdown(on: Expression | str) -> Breakdown:
    return Breakdown(on, type="number")
