"""Results of reports: rows, sums that may be made, and what is kept apart."""

import json
import pickle
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime

import pytest

from mixpanel.data import query_results
from mixpanel.data.query_results import (
    ActivityFeedResult,
    CohortInfo,
    EventCountsResult,
    FlowEdge,
    FlowNode,
    FlowsResult,
    FlowStep,
    FrequencyResult,
    FunnelResult,
    FunnelStep,
    InsightsResult,
    JQLResult,
    NumericAverageResult,
    NumericBucketResult,
    NumericSumResult,
    PropertyCountsResult,
    RetentionResult,
    SavedReportResult,
    SegmentationResult,
    UserEvent,
)

DATES = {"2026-01-01": 31, "2026-01-02": 40}
SEGMENTATION = SegmentationResult(
    "Order Paid", "2026-01-01", "2026-01-02", "day", "plan", 71,
    {"team": DATES}, timezone="US/Pacific",
)  # fmt: skip
STEPS = (FunnelStep("Opened App", 200, 1.0, 1.0), FunnelStep("Order Paid", 50, 0.25, 0.25, 640.0))
FUNNEL = FunnelResult(77, "Checkout", "2026-01-01", "2026-01-31", 0.25, STEPS)
COHORTS = (
    CohortInfo("2026-01-01", 100, (0.5, 0.25), (50, 25)),
    CohortInfo("2026-01-02", 300, (0.5,), (150,)),
)
RETENTION = RetentionResult("Signed Up", None, "2026-01-01", "2026-01-02", "day", COHORTS)
FREQUENCY = FrequencyResult(None, "2026-01-01", "2026-01-02", "week", "day", {"2026-01-01": (5, 2)})
NODES = (FlowNode("Opened App", "ANCHOR", 9, (FlowEdge("Order Paid", 1, "FORWARD", 4),)),)
FLOWS = FlowsResult(5, (FlowStep(0, NODES),))
OVERALL = {"2026-01-01": 31}
INSIGHTS = InsightsResult(
    "2026-01-01", "2026-01-01", ("$metric", "plan", "country"),
    {"Orders": {
        "$overall": {"2026-01-01": 31},
        "team": {"$overall": {"2026-01-01": 20}, "DE": {"2026-01-01": 12}},
    }},
)  # fmt: skip
RESULTS = [
    SEGMENTATION,
    EventCountsResult(("a",), "2026-01-01", "2026-01-02", "day", "general", {"a": DATES}),
    PropertyCountsResult("a", "plan", "2026-01-01", "2026-01-02", "day", "general", {"x": DATES}),
    NumericBucketResult("a", "2026-01-01", "2026-01-02", "n", "day", {"0 - 10": DATES}),
    NumericSumResult("a", "2026-01-01", "2026-01-02", "n", "day", DATES),
    NumericAverageResult("a", "2026-01-01", "2026-01-02", "n", "day", DATES),
    FUNNEL,
    RETENTION,
    FREQUENCY,
    FLOWS,
    INSIGHTS,
    SavedReportResult(5, None, None, ("$funnel",), {}, "funnel", FUNNEL),
    ActivityFeedResult(("u1",), None, None, (UserEvent("a", None, {"plan": "x"}),)),
    JQLResult(({"key": ["a", 1], "value": 3},)),
]
each_result = pytest.mark.parametrize("result", RESULTS, ids=lambda each: type(each).__name__)


@each_result
def test_every_result_is_json_a_table_and_html(result):
    """Without pandas and other optional packages."""
    json.dumps(result.to_dict(), allow_nan=False)
    assert result.to_table_dict()
    assert type(result).__name__ in repr(result)
    assert "<table>" in result._repr_html_()


@each_result
def test_empty_results_have_the_same_columns_as_full_ones(result):
    """The columns of the rows."""
    assert result._columns() in (None, list(result.to_table_dict()[0]))


@each_result
def test_every_result_is_frozen_and_can_be_pickled(result):
    """Also after its data frame was made."""
    with pytest.raises(FrozenInstanceError):
        result.timezone = "UTC"
    assert result == pickle.loads(pickle.dumps(result))


@each_result
def test_data_frames_of_all_kinds_agree(result):
    """pandas, Arrow and polars, if they are installed."""
    pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    names = list(result.df.columns)
    assert names == result.arrow().column_names
    assert len(result.df) == result.arrow().num_rows
    polars = pytest.importorskip("polars")
    assert isinstance(result.polars(), polars.DataFrame)
    assert names == result.polars().columns


def test_a_series_has_a_row_for_each_segment_and_date():
    """With column names as in Mixpanel's reports."""
    expected = [
        {"date": "2026-01-01", "segment": "team", "count": 31},
        {"date": "2026-01-02", "segment": "team", "count": 40},
    ]
    assert expected == SEGMENTATION.to_table_dict()


def test_results_are_compared_by_their_numbers():
    """Not by when and how they were computed."""
    fields = {name: getattr(SEGMENTATION, name) for name in SEGMENTATION.__dataclass_fields__}
    later = fields | {"computed_at": datetime(2026, 2, 1, tzinfo=UTC), "sql": "SELECT 1"}
    assert SegmentationResult(**later) == SEGMENTATION
    assert SegmentationResult(**fields | {"timezone": "UTC"}) != SEGMENTATION


def test_funnel_rows_are_numbered_steps_without_totals():
    """With a breakdown, those of each segment, so that rows can be added up."""
    assert [1, 2] == [row["step"] for row in FUNNEL.to_table_dict()]
    parted = FunnelResult(
        77, "Checkout", "2026-01-01", "2026-01-31", 0.25, STEPS, "plan", {"team": STEPS[:1]}
    )
    assert [("team", 1, 200)] == [
        (row["segment"], row["step"], row["count"]) for row in parted.to_table_dict()
    ]


def test_average_retention_weighs_cohorts_by_their_size():
    """Cohorts without such an interval are left out."""
    assert (0.5, 0.25) == RETENTION.average
    assert () == RetentionResult(None, None, "a", "b", "day", ()).average


def test_retention_rows_have_as_many_periods_as_the_longest_cohort():
    """A shorter cohort has None there, not 0."""
    rows = RETENTION.to_table_dict()
    assert ["cohort_date", "cohort_size", "period_0", "period_1"] == list(rows[0])
    assert rows[1]["period_1"] is None


def test_overall_numbers_are_not_among_the_rows_at_any_level():
    """Rows contain the innermost groups only."""
    assert {"Orders": OVERALL} == INSIGHTS.overall()
    expected = [
        {"metric": "Orders", "plan": "team", "country": "DE", "date": "2026-01-01", "value": 12}
    ]
    assert expected == INSIGHTS.to_table_dict()


def test_insights_are_read_without_groups_or_dates():
    """A metric contains the dates directly, or a single number."""
    plain = InsightsResult(None, None, ("$metric",), {"Orders": OVERALL, "Users": {"all": 7}})
    assert [("Orders", "2026-01-01", 31), ("Users", "all", 7)] == [
        tuple(row.values()) for row in plain.to_table_dict()
    ]
    assert {"Orders": OVERALL, "Users": {"all": 7}} == plain.overall()


def test_groups_named_like_other_columns_are_renamed():
    """No column hides another."""
    found = InsightsResult(None, None, ("$metric", "value", "value"), {"A": {"x": {"y": {"d": 1}}}})
    assert ["metric", "value_2", "value_3", "date", "value"] == list(found.to_table_dict()[0])


def test_a_property_named_event_does_not_hide_the_event():
    """In the rows of an activity feed."""
    feed = ActivityFeedResult(
        ("u1",), None, None, (UserEvent("Opened", None, {"event": "mine", "distinct_id": "u1"}),)
    )
    expected = {"event": "Opened", "time": None, "distinct_id": "u1", "event_2": "mine"}
    assert [expected] == feed.to_table_dict()
    assert 1 == feed.to_dict()["event_count"]


def test_jql_rows_of_groups_become_columns():
    """Also lists of values; all rows have all columns."""
    found = JQLResult(({"key": ["a"], "value": [1, 2]}, {"x": 5}, 7))
    assert ["key_0", "value_0", "value_1", "x", "value"] == list(found.to_table_dict()[0])
    assert 3 == found.to_dict()["row_count"]


def test_public_names_of_query_results_are_sorted_and_exist():
    """`__all__` lists what the module offers."""
    assert sorted(query_results.__all__) == query_results.__all__
    assert all(hasattr(query_results, name) for name in query_results.__all__)
