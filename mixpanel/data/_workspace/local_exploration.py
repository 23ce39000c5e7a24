"""Explore the events of a local table: values, numbers, days and users."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mixpanel.data._workspace.local_reports import LocalReports
from mixpanel.data.analysis import exploration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mixpanel.data._fetch.plan import Day
    from mixpanel.data.exploration_results import (
        DailyCountsResult,
        EngagementDistributionResult,
        NumericPropertySummaryResult,
        PropertyCoverageResult,
        PropertyDistributionResult,
    )

__all__ = ["LocalExploration"]


class LocalExploration(LocalReports):
    """Reports that used to need JQL; common arguments are those of `LocalAnalysis`."""

    def property_distribution(
        self,
        event: str,
        property_name: str,
        *,
        from_date: Day,
        to_date: Day,
        limit: int = 20,
        table: str = "events",
        timezone: str | None = None,
    ) -> PropertyDistributionResult:
        """Count the values of a property, most frequent first, without missing ones and null.

        Percentages are those of all values, those past the `limit` too.
        """
        return self._run(
            lambda source, period: exploration.property_distribution(
                source, period, event, property_name, limit=limit
            ),
            from_date, to_date, table, timezone, None,
        )  # fmt: skip

    def numeric_summary(
        self,
        event: str,
        property_name: str,
        *,
        from_date: Day,
        to_date: Day,
        percentiles: Sequence[int] | None = None,
        table: str = "events",
        timezone: str | None = None,
    ) -> NumericPropertySummaryResult:
        """Summarise the numbers of a property; default `percentiles`: 25, 50, 75, 90, 95 and 99."""
        return self._run(
            lambda source, period: exploration.numeric_summary(
                source, period, event, property_name, percentiles=percentiles
            ),
            from_date, to_date, table, timezone, None,
        )  # fmt: skip

    def daily_counts(
        self,
        *,
        from_date: Day,
        to_date: Day,
        events: Sequence[str] | str | None = None,
        table: str = "events",
        timezone: str | None = None,
    ) -> DailyCountsResult:
        """Count events by day: the given ones, or all."""
        return self._run(
            lambda source, period: exploration.daily_counts(source, period, events),
            from_date, to_date, table, timezone, None,
        )  # fmt: skip

    def engagement_distribution(
        self,
        *,
        from_date: Day,
        to_date: Day,
        events: Sequence[str] | str | None = None,
        buckets: Sequence[int] | None = None,
        table: str = "events",
        timezone: str | None = None,
    ) -> EngagementDistributionResult:
        """Count users by their number of events; `buckets` are lower bounds, as [1, 2, 5, 10]."""
        return self._run(
            lambda source, period: exploration.engagement_distribution(
                source, period, events, buckets=buckets
            ),
            from_date, to_date, table, timezone, None,
        )  # fmt: skip

    def property_coverage(
        self,
        event: str,
        properties: Sequence[str] | str,
        *,
        from_date: Day,
        to_date: Day,
        table: str = "events",
        timezone: str | None = None,
    ) -> PropertyCoverageResult:
        """Count how many of an event's occurrences have each property; null counts as missing."""
        return self._run(
            lambda source, period: exploration.property_coverage(
                source, period, event, properties
            ),
            from_date, to_date, table, timezone, None,
        )  # fmt: skip
