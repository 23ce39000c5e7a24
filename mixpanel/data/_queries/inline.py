"""Compute reports that are not saved: the methods of both workspaces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from mixpanel.data._queries import on_demand
from mixpanel.data._queries.links import ReportLink
from mixpanel.data._queries.query_sender import QuerySender
from mixpanel.data.exceptions import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mixpanel.data._fetch.plan import Day
    from mixpanel.data._queries.arguments import Where
    from mixpanel.data.expressions import Expression
    from mixpanel.data.inline_queries import (
        Breakdown,
        Chart,
        Exclusion,
        Formula,
        FunnelMath,
        Metric,
        RetentionMath,
        Step,
        TimeUnit,
    )
    from mixpanel.data.query_results import (
        FlowsResult,
        FunnelResult,
        InsightsResult,
        QueryResult,
        RetentionResult,
    )

    By = Sequence[Breakdown | Expression | str] | Breakdown | Expression | str | None

__all__ = ["InlineQueries"]


class InlineQueries(QuerySender):
    """Reports that are described in Python instead of saved in Mixpanel; each costs one query."""

    async def query(
        self,
        show: Sequence[Metric | Formula | str] | Metric | str,
        *,
        from_date: Day | None = None,
        to_date: Day | None = None,
        last: int | None = None,
        last_unit: TimeUnit = "day",
        unit: TimeUnit = "day",
        where: Where = None,
        by: By = None,
        formula: Formula | str | None = None,
        chart: Chart = "line",
        rolling: int | None = None,
        cumulative: bool = False,
        limit: int = 3000,
    ) -> InsightsResult:
        """Compute an insights report that is not saved.

        >>> result = await ws.query(  # doctest: +SKIP
        ...     [Metric("Order Paid", "unique"), Metric("Opened App", "unique")],
        ...     formula="(A / B) * 100", last=30, where=prop("plan") == "team", by="country",
        ... )

        - `show`: the names of events, or `Metric`s; `formula` computes with them, as A, B, C.
        - the days: `from_date` to `to_date`, or the `last` so many `last_unit`s; else 30 days.
        - `where`: a condition for the whole report; `by`: properties to break down by.
        - `chart`: "line" for a figure each `unit`, "bar" or "table" for one of the whole time.
        - `rolling`: averages over so many units; `cumulative`: running totals.
        - `limit`: so many rows at most (50,000); `limit_hit` is True if there are more.

        :raises ConfigError: for invalid arguments; nothing is sent then.
        :raises EventNotFoundError: for an unknown event, with similar names.
        :raises APIError: when Mixpanel rejects the call.
        """
        from_date, to_date = await self._days(from_date, to_date)
        days = on_demand.bookmarks.time_range(from_date, to_date, last, last_unit)
        bookmark = on_demand.bookmarks.insights(
            show, days,
            unit=unit, where=where, by=by, formula=formula, chart=chart,
            rolling=rolling, cumulative=cumulative,
        )  # fmt: skip
        result = await self._insights(bookmark, limit, unit if chart == "line" else None)
        return self._with_link(result, ReportLink("insights", params=lambda: bookmark))

    async def query_funnel(
        self,
        steps: Sequence[Step | str],
        *,
        from_date: Day | None = None,
        to_date: Day | None = None,
        last: int | None = None,
        last_unit: TimeUnit = "day",
        window: int = 14,
        window_unit: Literal["second", "minute", "hour", "day", "week", "month", "session"] = "day",
        order: Literal["loose", "any"] = "loose",
        exclude: Iterable[Exclusion | str] = (),
        hold_constant: Sequence[str] | str | None = None,
        where: Where = None,
        by: By = None,
        math: FunnelMath = "conversion_rate_unique",
        trend: bool = False,
        unit: TimeUnit = "day",
        limit: int = 3000,
    ) -> FunnelResult:
        """Compute a funnel that is not saved.

        - `steps`: the names of events, or `Step`s; 2 to 100.
        - `window`: the time in which a user may complete it.
        - `order`: "loose" lets other events happen in between, "any" takes the steps in any order.
        - `exclude`: events, or `Exclusion`s, that end it; `hold_constant`: properties whose value
          must be the same in all steps.
        - `trend`: the steps by `unit`, in `dates`.
        - the days, `where` and `by` as in `query`.

        :raises ConfigError: for invalid arguments; nothing is sent then.
        :raises EventNotFoundError: for an unknown event, with similar names.
        :raises APIError: when Mixpanel rejects the call.
        """
        from_date, to_date = await self._days(from_date, to_date)
        days = on_demand.bookmarks.time_range(from_date, to_date, last, last_unit)
        bookmark = on_demand.bookmarks.funnel(
            steps, days,
            window=window, window_unit=window_unit, order=order, exclude=exclude,
            hold_constant=hold_constant, where=where, by=by, unit=unit, math=math, trend=trend,
        )  # fmt: skip
        response, timezone = await self._inline(bookmark, limit)
        result = on_demand.funnel_responses.inline_funnel(
            response, segment=_named(by), window=(window, window_unit), timezone=timezone
        )
        return self._with_link(result, ReportLink("funnels", params=lambda: bookmark))

    async def query_retention(
        self,
        born: Step | str,
        return_: Step | str,
        *,
        from_date: Day | None = None,
        to_date: Day | None = None,
        last: int | None = None,
        last_unit: TimeUnit = "day",
        unit: Literal["day", "week", "month"] = "day",
        buckets: Sequence[int] = (),
        alignment: Literal["birth", "interval_start"] = "birth",
        unbounded: Literal["none", "carry_back", "carry_forward", "consecutive_forward"] = "none",
        where: Where = None,
        by: By = None,
        math: RetentionMath = "retention_rate",
        limit: int = 3000,
    ) -> RetentionResult:
        """Compute retention that is not saved.

        - `born` and `return_`: the names of two events, or `Step`s.
        - `unit`: the length of an interval; `buckets` are ends of intervals, as (1, 3, 7).
        - `alignment`: intervals begin with each user's own event ("birth"), or with the calendar's.
        - the days, `where` and `by` as in `query`.

        :raises ConfigError: for invalid arguments; nothing is sent then.
        :raises EventNotFoundError: for an unknown event, with similar names.
        :raises APIError: when Mixpanel rejects the call.
        """
        from_date, to_date = await self._days(from_date, to_date)
        days = on_demand.bookmarks.time_range(from_date, to_date, last, last_unit)
        bookmark = on_demand.bookmarks.retention(
            born, return_, days,
            unit=unit, buckets=buckets, alignment=alignment, unbounded=unbounded,
            where=where, by=by, math=math,
        )  # fmt: skip
        response, timezone = await self._inline(bookmark, limit)
        known = {
            "born_event": born if isinstance(born, str) else born.event,
            "return_event": return_ if isinstance(return_, str) else return_.event,
            "unit": unit,
            "unbounded": unbounded != "none",
        }
        result = on_demand.retention_responses.inline_retention(
            response, known, segment=_named(by), timezone=timezone
        )
        return self._with_link(result, ReportLink("retention", params=lambda: bookmark))

    async def query_flow(
        self,
        steps: Sequence[Step | str] | Step | str,
        *,
        from_date: Day | None = None,
        to_date: Day | None = None,
        last: int | None = None,
        last_unit: TimeUnit = "day",
        forward: int = 3,
        reverse: int = 0,
        mode: Literal["sankey", "paths", "tree"] = "sankey",
        count_type: Literal["unique", "total", "session"] = "unique",
        cardinality: int = 3,
        window: int = 7,
        window_unit: Literal["second", "minute", "hour", "day", "week", "month", "session"] = "day",
        collapse_repeated: bool = False,
        hidden_events: Sequence[str] | str | None = None,
        exclude: Sequence[str] | str | None = None,
        where: Where = None,
    ) -> FlowsResult:
        """Compute what users do before and after an event; `query_flows` reads a saved report.

        - `steps`: the event, or several in their order.
        - `forward` and `reverse`: so many events after and before it, up to 5.
        - `cardinality`: so many different events each time, up to 50; others are gathered.
        - `mode`: "sankey" fills `steps`, "paths" fills `paths`, "tree" fills `trees`.
        - the days and `where` as in `query`.

        :raises ConfigError: for invalid arguments; nothing is sent then.
        :raises EventNotFoundError: for an unknown event, with similar names.
        :raises APIError: when Mixpanel rejects the call.
        """
        from_date, to_date = await self._days(from_date, to_date)
        query_type = {"sankey": "flows_sankey", "paths": "flows_top_paths", "tree": "flows"}
        if mode not in query_type:
            raise ConfigError(f"mode={mode!r} is unknown: choose {', '.join(query_type)}")
        days = on_demand.bookmarks.time_range(from_date, to_date, last, last_unit)
        bookmark = on_demand.bookmarks.flow(
            steps, days,
            forward=forward, reverse=reverse, count_type=count_type, cardinality=cardinality,
            window=window, window_unit=window_unit, collapse_repeated=collapse_repeated,
            hidden_events=hidden_events, exclude=exclude, where=where, query_type=query_type[mode],
        )  # fmt: skip
        return await self._flow(bookmark, query_type[mode])

    async def query_bookmark(
        self, bookmark: Mapping[str, Any], *, query_type: str | None = None, limit: int = 3000
    ) -> QueryResult:
        """Compute a report from its parameters, such as `BookmarkInfo.params`.

        They are sent as they are. Returns the result that fits: `InsightsResult`, `FunnelResult`,
        `RetentionResult` or `FlowsResult`. `query_type` is for flows: "flows_sankey",
        "flows_top_paths" or "flows" (a tree).

        :raises ConfigError: for what cannot be a report.
        :raises APIError: when Mixpanel rejects the call.
        """
        kind = on_demand.bookmarks.kind_of(bookmark)
        if kind == "flows":
            return await self._flow(dict(bookmark), query_type or "flows_sankey")
        if query_type is not None:
            raise ConfigError("query_type is for flows only")
        if kind == "insights":
            insights = await self._insights(bookmark, limit, _unit_of(bookmark))
            return self._with_link(insights, ReportLink(kind, params=lambda: dict(bookmark)))
        response, timezone = await self._inline(bookmark, limit)
        result: QueryResult
        if kind == "funnels":
            result = on_demand.funnel_responses.inline_funnel(response, timezone=timezone)
        else:
            known = {
                "unit": bookmark["sections"]["show"][0]["behavior"].get("retentionUnit", "day")
            }
            result = on_demand.retention_responses.inline_retention(
                response, known, timezone=timezone
            )
        return self._with_link(result, ReportLink(kind, params=lambda: dict(bookmark)))

    # ---- what they share ------------------------------------------------------------------------

    async def _inline(self, bookmark: Mapping[str, Any], limit: int) -> tuple[Any, str | None]:
        request = on_demand.requests.inline(bookmark, self._core.api.project_id, limit)
        response = await self._query(request, _events(bookmark))
        return response, await self.project_timezone()

    async def _insights(
        self, bookmark: Mapping[str, Any], limit: int, unit: str | None
    ) -> InsightsResult:
        response, timezone = await self._inline(bookmark, limit)
        result = on_demand.responses.insights(response, unit=unit, timezone=timezone)
        await self._check_events(_events(bookmark), result.series)
        return result

    async def _flow(self, bookmark: dict[str, Any], query_type: str) -> FlowsResult:
        request = on_demand.requests.inline_flows(bookmark, self._core.api.project_id, query_type)
        events = [step.get("event") for step in bookmark["steps"] if isinstance(step, dict)]
        response = await self._query(request, events)
        days = bookmark.get("date_range") or {}
        dates = [days.get(name) for name in ("from_date", "to_date")]
        first, final = (
            each if isinstance(each, str) and not each.startswith("$") else None for each in dates
        )
        count_type: Any = bookmark.get("count_type", "unique")
        result = on_demand.responses.flows(
            response,
            event=events[0] if events else None,
            dates=(first, final),
            count_type=count_type,
            timezone=await self.project_timezone(),
        )
        return self._with_link(result, ReportLink("flows", params=lambda: bookmark))


def _events(bookmark: Mapping[str, Any]) -> list[str]:
    """Return the names of the events in a report."""
    found: list[str] = []
    for each in bookmark["sections"]["show"]:
        behavior = each.get("behavior") or {}
        found += [
            one["name"]
            for one in behavior.get("behaviors") or [behavior]
            if one.get("type") == "event" and isinstance(one.get("name"), str)
        ]
    return found


def _unit_of(bookmark: Mapping[str, Any]) -> str | None:
    time = bookmark["sections"].get("time")
    unit = time[0].get("unit") if isinstance(time, list) and time else None
    return unit if isinstance(unit, str) else None


def _named(by: By) -> str | None:
    """Return what a result is broken down by: the name of a property, else the expression."""
    entries = on_demand.bookmarks.breakdowns(by)
    return str(entries[0]["propertyName"]) if entries else None
