"""Mixpanel's reports over a table of the local database, computed by DuckDB."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from mixpanel.data._workspace.local_exploration import LocalExploration
from mixpanel.data.analysis import flows, funnel, numeric, retention, segmentation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mixpanel.data._fetch.plan import Day
    from mixpanel.data.analysis.funnel import AnyStep, WindowUnit
    from mixpanel.data.analysis.source import Condition
    from mixpanel.data.query_results import (
        CountType,
        EventCountsResult,
        FlowsResult,
        FrequencyResult,
        FunnelResult,
        HourDayUnit,
        NumericAverageResult,
        NumericBucketResult,
        NumericSumResult,
        PropertyCountsResult,
        RetentionResult,
        RetentionType,
        SegmentationResult,
        SegmentationUnit,
        TimeUnit,
    )

__all__ = ["LocalAnalysis"]


class LocalAnalysis(LocalExploration):
    """Mixpanel's reports over a table of fetched events: without calls and hourly limit.

    The results are those of the live queries, and each has the statement that computed it in
    `.sql`. Arguments that all reports have:

    - `table` is the name of the table of events.
    - Days are whole days, both ends included, of `timezone`, by default that which the table was
      fetched with, else UTC: give the project's own, or days begin at another hour than in
      Mixpanel. They may be relative to today in that zone: "today", "yesterday", "-7d", "-4w" or
      "-3m". If the table lacks some of them, an `IncompleteTableWarning` names these.
    - `on` is the name of a property, or an expression as `prop("plan")`; `where` is an expression
      as `prop("plan") == "team"`, or text: `properties["plan"] == "team"`.
    - With `profiles`, the name of a table of profiles, expressions may use `user["$email"]` too.

    :raises ConfigError: for invalid arguments.
    :raises TableNotFoundError: when there is no such table.
    :raises EventNotFoundError: when the table has no event of that name at all.
    :raises PropertyNotFoundError: when none of these events in the table has that property.
    :raises SQLError: when an expression does not suit the values it meets.
    """

    def segmentation(
        self,
        event: str,
        *,
        from_date: Day,
        to_date: Day,
        on: Condition | None = None,
        unit: SegmentationUnit = "day",
        type: CountType = "general",
        where: Condition | None = None,
        limit: int = 1000,
        table: str = "events",
        timezone: str | None = None,
        profiles: str | None = None,
    ) -> SegmentationResult:
        """Count an event by date and, with `on`, by the values of a property or expression.

        >>> ws.local.segmentation(  # doctest: +SKIP
        ...     "Order Paid", from_date="2026-01-01", to_date="2026-01-31", on="plan"
        ... )

        `type` is "general" for events, "unique" for users, or "average" for events per user. Each
        bucket is there, with 0 where nothing happened. The `limit` segments with the most events
        are returned, most frequent first; `limit_hit` says that there are more.
        """
        return self._run(
            lambda source, period: segmentation.segmentation(
                source, period, event, on=on, unit=unit, type=type, where=where, limit=limit
            ),
            from_date, to_date, table, timezone, profiles,
        )  # fmt: skip

    def event_counts(
        self,
        events: Sequence[str] | str,
        *,
        from_date: Day,
        to_date: Day,
        type: CountType = "general",
        unit: SegmentationUnit = "day",
        table: str = "events",
        timezone: str | None = None,
    ) -> EventCountsResult:
        """Count several events by date; `type` and buckets as in `segmentation`."""
        return self._run(
            lambda source, period: segmentation.event_counts(
                source, period, events, unit=unit, type=type
            ),
            from_date, to_date, table, timezone, None,
        )  # fmt: skip

    def property_counts(
        self,
        event: str,
        property_name: str,
        *,
        from_date: Day,
        to_date: Day,
        type: CountType = "general",
        unit: SegmentationUnit = "day",
        values: Sequence[str] | None = None,
        limit: int = 255,
        table: str = "events",
        timezone: str | None = None,
    ) -> PropertyCountsResult:
        """Count an event by the values of a property and date, most frequent values first.

        With `values`, only those are counted, in their order; numbers are given as text.
        """
        return self._run(
            lambda source, period: segmentation.property_counts(
                source, period, event, property_name,
                values=values, unit=unit, type=type, limit=limit,
            ),
            from_date, to_date, table, timezone, None,
        )  # fmt: skip

    def segmentation_numeric(
        self,
        event: str,
        *,
        from_date: Day,
        to_date: Day,
        on: Condition,
        unit: HourDayUnit = "day",
        where: Condition | None = None,
        type: CountType = "general",
        table: str = "events",
        timezone: str | None = None,
        profiles: str | None = None,
    ) -> NumericBucketResult:
        """Count an event by about ten numeric ranges, and by date.

        A range holds its lower bound and not its upper one; what is not a number is in none.
        """
        return self._run(
            lambda source, period: numeric.segmentation_numeric(
                source, period, event, on=on, unit=unit, type=type, where=where
            ),
            from_date, to_date, table, timezone, profiles,
        )  # fmt: skip

    def segmentation_sum(
        self,
        event: str,
        *,
        from_date: Day,
        to_date: Day,
        on: Condition,
        unit: HourDayUnit = "day",
        where: Condition | None = None,
        table: str = "events",
        timezone: str | None = None,
        profiles: str | None = None,
    ) -> NumericSumResult:
        """Sum a numeric property of an event, by date; other values count as 0."""
        return self._run(
            lambda source, period: numeric.segmentation_sum(
                source, period, event, on=on, unit=unit, where=where
            ),
            from_date, to_date, table, timezone, profiles,
        )  # fmt: skip

    def segmentation_average(
        self,
        event: str,
        *,
        from_date: Day,
        to_date: Day,
        on: Condition,
        unit: HourDayUnit = "day",
        where: Condition | None = None,
        table: str = "events",
        timezone: str | None = None,
        profiles: str | None = None,
    ) -> NumericAverageResult:
        """Average a numeric property of an event, by date; other values count as 0.

        To exclude such events, filter them: `where='defined(properties["amount"])'`.
        """
        return self._run(
            lambda source, period: numeric.segmentation_average(
                source, period, event, on=on, unit=unit, where=where
            ),
            from_date, to_date, table, timezone, profiles,
        )  # fmt: skip

    def funnel(
        self,
        steps: Sequence[str | AnyStep],
        *,
        from_date: Day,
        to_date: Day,
        window: int = 14,
        window_unit: WindowUnit = "day",
        on: Condition | None = None,
        where: Condition | None = None,
        unit: TimeUnit | None = None,
        limit: int = 1000,
        name: str = "",
        table: str = "events",
        timezone: str | None = None,
        profiles: str | None = None,
    ) -> FunnelResult:
        """Count the users who went through the steps in order, with anything in between.

        >>> ws.local.funnel(  # doctest: +SKIP
        ...     ["Opened App", Step("Order Paid", prop("amount") > 10)],
        ...     from_date="2026-01-01", to_date="2026-01-31", window=7,
        ... )

        A user enters with each first event in the period, and has from there `window` (counted in
        `window_unit`s, a month being 30 days) for the other steps, after the end of the period too.
        The attempt that reached furthest counts, the earliest of equals. Steps may happen at the
        same time; but one event is not two steps, so a step whose event stands before in the
        funnel must be later than the step before it.

        `on` parts users by their first event, and `unit` ("day", "week", "month") by when they
        entered. `where` holds for the events of all steps, a `Step`'s own `where` for its events.
        """
        return self._run(
            lambda source, period: funnel.funnel(
                source, period, steps,
                window=window, window_unit=window_unit, on=on, where=where, unit=unit,
                limit=limit, name=name,
            ),
            from_date, to_date, table, timezone, profiles,
        )  # fmt: skip

    def retention(
        self,
        born_event: str | None = None,
        return_event: str | None = None,
        *,
        from_date: Day,
        to_date: Day,
        born_where: Condition | None = None,
        return_where: Condition | None = None,
        interval: int = 1,
        interval_count: int = 10,
        unit: TimeUnit = "day",
        retention_type: RetentionType = "birth",
        unbounded: bool = False,
        on: Condition | None = None,
        limit: int = 1000,
        table: str = "events",
        timezone: str | None = None,
        profiles: str | None = None,
    ) -> RetentionResult:
        """Count the users who came back in each interval after their first event.

        >>> ws.local.retention(  # doctest: +SKIP
        ...     "Signed Up", "Order Paid", from_date="2026-01-01", to_date="2026-01-31"
        ... )

        With "birth", a user is in the cohort of the first `born_event` in the period. With
        "compounded" there is no `born_event`, and a user is in the cohort of each date with a
        `return_event`. Without a `return_event`, any event counts. Cohorts begin every `interval`
        `unit`s; a week's on Monday, a month's on its first day.

        Intervals are counted from each user's own first event, whatever the clock says: a day is
        24 hours, a week 7 days and a month 30. Interval 0 holds what follows at once, and there are
        `interval_count` more. With `unbounded`, interval N counts those who came back in N or
        later. A cohort has no intervals that begin after the last event of the table. `on` parts
        users by their first event.
        """
        until = self._last_time(table)
        return self._run(
            lambda source, period: retention.retention(
                source, period, born_event, return_event,
                born_where=born_where, return_where=return_where, unit=unit, interval=interval,
                interval_count=interval_count, retention_type=retention_type,
                unbounded=unbounded, on=on, limit=limit, until=until,
            ),
            from_date, to_date, table, timezone, profiles,
        )  # fmt: skip

    def frequency(
        self,
        *,
        from_date: Day,
        to_date: Day,
        unit: TimeUnit = "day",
        addiction_unit: HourDayUnit = "hour",
        event: str | None = None,
        where: Condition | None = None,
        on: Condition | None = None,
        limit: int = 1000,
        table: str = "events",
        timezone: str | None = None,
        profiles: str | None = None,
    ) -> FrequencyResult:
        """Count in how many hours, or on how many days, of each period users did an event.

        Without an `event`, any event counts. Element k of a period's counts is the number of users
        who were active in at least k + 1 different `addiction_unit`s of it.
        """
        return self._run(
            lambda source, period: retention.frequency(
                source, period, event,
                unit=unit, addiction_unit=addiction_unit, where=where, on=on, limit=limit,
            ),
            from_date, to_date, table, timezone, profiles,
        )  # fmt: skip

    def flows(
        self,
        event: str,
        *,
        from_date: Day,
        to_date: Day,
        forward: int = 3,
        reverse: int = 0,
        count_type: Literal["unique", "total"] = "unique",
        window: int = 7,
        window_unit: WindowUnit = "day",
        where: Condition | None = None,
        hidden_events: Sequence[str] = (),
        collapse_repeated: bool = False,
        events_per_step: int = 10,
        paths: int = 10,
        table: str = "events",
        timezone: str | None = None,
        profiles: str | None = None,
    ) -> FlowsResult:
        """Count the events that follow (`forward`) and precede (`reverse`) an event, step by step.

        With "unique", each user counts once, by the first `event` in the period; with "total", each
        of them counts. `where` chooses among them. Only what happened within `window` of it is in
        a step. Where a user did nothing more, the step has a `$dropoff`; what is not among the
        `events_per_step` most frequent events of a step is `$other`. `paths` is how many of the
        most frequent sequences are returned.
        """
        return self._run(
            lambda source, period: flows.flows(
                source, period, event,
                forward=forward, reverse=reverse, count_type=count_type, window=window,
                window_unit=window_unit, where=where, hidden_events=hidden_events,
                collapse_repeated=collapse_repeated, events_per_step=events_per_step, paths=paths,
            ),
            from_date, to_date, table, timezone, profiles,
        )  # fmt: skip
