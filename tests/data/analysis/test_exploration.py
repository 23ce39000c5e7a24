"""Looking around in a table: values, numbers, days, users, and what is missing."""

import json
import math
from collections import Counter
from statistics import pstdev

import pytest
from hypothesis import given

from mixpanel.data.analysis.exploration import (
    daily_counts,
    engagement_distribution,
    numeric_summary,
    property_coverage,
    property_distribution,
)
from mixpanel.data.analysis.period import Period
from mixpanel.data.exceptions import ConfigError
from tests.data.analysis import reference
from tests.data.analysis.conftest import FETCHED, KEPT
from tests.data.analysis.test_reports_at_random import period_of, quick, reports, sources

pytestmark = pytest.mark.slow

JANUARY = Period.checked("2026-01-01", "2026-01-03")


@quick
@given(reports())
def test_distributions_and_coverage_agree_with_the_reference(tables, report):
    """Each value once, by type; null counts as missing."""
    tables.put(report.events)
    for source, seen in sources(report):
        found = tables.run(property_distribution(source, period_of(report), "A", "n", limit=3))
        values = [each.properties.get("n") for each in seen.within("A")]
        known = Counter(json.dumps(value) for value in values if value is not None)
        # Numbers are equal whatever their form, and unequal to booleans.
        merged = Counter()
        for text, n in known.items():
            merged[text.removesuffix(".0")] += n
        assert sum(merged.values()) == found.total_count
        shown = {json.dumps(each.value): each.count for each in found.values}
        assert all(merged[text] == n for text, n in shown.items())
        counts = [each.count for each in found.values]
        assert sorted(merged.values(), reverse=True)[:3] == counts
        assert found.limit_hit == (len(merged) > 3)
        coverage = tables.run(property_coverage(source, period_of(report), "A", ["n", "plan"]))
        assert sum(value is not None for value in values) == coverage.coverage[0].defined_count
        assert len(values) == coverage.total_events
        assert len(values) == sum(
            (coverage.coverage[1].defined_count, coverage.coverage[1].null_count)
        )


@quick
@given(reports())
def test_numeric_summaries_agree_with_the_reference(tables, report):
    """Of numbers only, with interpolated percentiles."""
    tables.put(report.events)
    for source, seen in sources(report):
        query = numeric_summary(source, period_of(report), "A", "n", percentiles=[0, 50, 100])
        found = tables.run(query)
        numbers = [
            number
            for each in seen.within("A")
            if (number := reference.number(each, "n")) is not None
        ]
        assert len(numbers) == found.count
        assert pytest.approx(sum(numbers)) == found.sum
        if not numbers:
            assert (None, None, None) == (found.min, found.avg, found.percentiles[50])
            continue
        assert (min(numbers), max(numbers)) == (found.min, found.max)
        assert pytest.approx(sum(numbers) / len(numbers)) == found.avg
        assert pytest.approx(pstdev(numbers), rel=1e-6, abs=1e-6) == found.stddev
        ordered, middle = sorted(numbers), (len(numbers) - 1) / 2
        low, high = ordered[math.floor(middle)], ordered[math.ceil(middle)]
        expected = {0: ordered[0], 50: (low + high) / 2, 100: ordered[-1]}
        assert pytest.approx(expected) == found.percentiles


@quick
@given(reports())
def test_daily_counts_and_engagement_agree_with_the_reference(tables, report):
    """Events by day, and users by number of events; each user is in one bucket."""
    tables.put(report.events)
    for source, seen in sources(report):
        found = tables.run(daily_counts(source, period_of(report)))
        expected = Counter((report.bucket(e.time, "day"), e.name) for e in seen.within())
        assert dict(expected) == {(each.date, each.event): each.count for each in found.counts}
        query = engagement_distribution(source, period_of(report), buckets=[1, 2, 4])
        users = Counter(e.user for e in seen.within() if reference.user(e))
        found = tables.run(query)
        assert len(users) == found.total_users
        assert [
            sum(n == 1 for n in users.values()),
            sum(2 <= n < 4 for n in users.values()),
            sum(n >= 4 for n in users.values()),
        ] == [bucket.user_count for bucket in found.buckets]
        assert ["1", "2-3", "4+"] == [bucket.bucket_label for bucket in found.buckets]


def test_rows_of_exploration_results_are_the_items_of_their_lists(tables):
    """As in data frames and tables."""
    tables.put([])
    queries = (
        property_distribution(KEPT, JANUARY, "A", "plan"),
        numeric_summary(KEPT, JANUARY, "A", "n", percentiles=[50]),
        daily_counts(KEPT, JANUARY, ["A"]),
        engagement_distribution(KEPT, JANUARY, "A"),
        property_coverage(KEPT, JANUARY, "A", "distinct_id"),
    )
    columns = [tables.run(query)._columns() for query in queries]
    assert ["value", "count", "percentage"] == columns[0]
    assert ["count", "min", "max", "sum", "avg", "stddev", "p50"] == columns[1]
    (row,) = tables.run(queries[1]).to_table_dict()
    assert (0, None, 0.0, None) == (row["count"], row["min"], row["sum"], row["p50"])
    assert [{"property": "distinct_id", "defined_count": 0, "null_count": 0,
             "coverage_percentage": 0.0}] == tables.run(queries[4]).to_table_dict()  # fmt: skip
    for query in queries:
        assert tables.run(query) == tables.run_as_shown(query)


def test_percentages_include_values_beyond_the_limit(tables):
    """They are shares of all values."""
    plans = ["a", "a", "b", "c"]
    tables.put([
        reference.Event("A", 1_767_225_600_000, "u", None, {"plan": plan}) for plan in plans
    ])  # fmt: skip
    found = tables.run(property_distribution(FETCHED, JANUARY, "A", "plan", limit=1))
    assert [("a", 2, 50.0)] == [(v.value, v.count, v.percentage) for v in found.values]
    assert (4, True) == (found.total_count, found.limit_hit)


BAD = {
    "property": lambda: property_distribution(FETCHED, JANUARY, "A", 7),
    "limit": lambda: property_distribution(FETCHED, JANUARY, "A", "x", limit=0),
    "percentile": lambda: numeric_summary(FETCHED, JANUARY, "A", "x", percentiles=[101]),
    "percentile of another type": lambda: numeric_summary(
        FETCHED, JANUARY, "A", "x", percentiles=["50"]
    ),
    "events": lambda: daily_counts(FETCHED, JANUARY, []),
    "buckets": lambda: engagement_distribution(FETCHED, JANUARY, buckets=[2, 5]),
    "falling buckets": lambda: engagement_distribution(FETCHED, JANUARY, buckets=[1, 5, 2]),
    "no buckets": lambda: engagement_distribution(FETCHED, JANUARY, buckets=[]),
    "buckets of another type": lambda: engagement_distribution(FETCHED, JANUARY, buckets=5),
    "no properties": lambda: property_coverage(FETCHED, JANUARY, "A", []),
    "properties of another type": lambda: property_coverage(FETCHED, JANUARY, "A", 7),
    "property of another type": lambda: property_coverage(FETCHED, JANUARY, "A", [7]),
}


@pytest.mark.parametrize("case", BAD)
def test_invalid_arguments_of_exploration_raise(case):
    """Before any SQL runs."""
    with pytest.raises(ConfigError):
        BAD[case]()
