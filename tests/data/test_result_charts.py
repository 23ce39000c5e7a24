"""Charts as text: within the terminal's width, with and without colour, whatever the names."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from mixpanel.data._figures.numbers import duration, short_number
from mixpanel.data._figures.terminal import columns_of
from mixpanel.data.exceptions import ConfigError
from mixpanel.data.exploration_results import (
    DailyCount,
    DailyCountsResult,
    EngagementBucket,
    EngagementDistributionResult,
    PropertyCoverage,
    PropertyCoverageResult,
    PropertyDistributionResult,
    PropertyValueCount,
)
from mixpanel.data.query_results import (
    ActivityFeedResult,
    CohortInfo,
    EventCountsResult,
    FlowEdge,
    FlowNode,
    FlowPath,
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
)
from tests.effort import cases

pytestmark = pytest.mark.slow

FIRST, LAST = "2026-01-01", "2026-01-31"
MONTH = {f"2026-01-{day:02}": day * 100 for day in range(1, 32)}
HOSTILE = "\x1b[31mrød\x07 日本語の名前がとても長い $x$ _y 🎉🎉 " * 3
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def segmentation(series, **more):
    return SegmentationResult("Order Paid", FIRST, LAST, "day", "plan", 1, series, **more)


STEPS = (
    FunnelStep("Opened App", 200, 1.0, 1.0),
    FunnelStep("Viewed", 90, 0.45, 0.45, 7380.0, 7380.0),
    FunnelStep(HOSTILE, 50, 0.56, 0.25, 640.0, 8020.0),
)
COHORTS = (
    CohortInfo(FIRST, 120, (0.66, 0.34, 0.0), (80, 41, 0)),
    CohortInfo("2026-01-02", 98, (0.71, 0.33), (70, 33)),
)
FLOWS = FlowsResult(
    None,
    (
        FlowStep(-1, (FlowNode("Searched", "REVERSE", 4), FlowNode("$dropoff", "DROPOFF", 6))),
        FlowStep(0, (
            FlowNode("Opened", "ANCHOR", 10, (
                FlowEdge(HOSTILE, 1, "FORWARD", 7),
                FlowEdge("Searched", -1, "REVERSE", 4),
            )),
        )),
        FlowStep(1, (FlowNode(HOSTILE, "FORWARD", 7), FlowNode("$other", "PRUNED", 3))),
    ),
    paths=(FlowPath(("Searched", "Opened", HOSTILE), 4),),
    event="Opened",
    from_date=FIRST,
    to_date=LAST,
)  # fmt: skip
RESULTS = {
    "one series": segmentation({"Order Paid": MONTH}),
    "several series": segmentation({HOSTILE: MONTH, "free": dict.fromkeys(MONTH, 7)}),
    "one date": segmentation({"team": {FIRST: 31}, HOSTILE: {FIRST: 0}}),
    "more series than shown": segmentation({f"s{n}": MONTH for n in range(30)}, limit_hit=True),
    "hours": segmentation({"a": {f"2026-01-01 {n:02}:00:00": n for n in range(24)}}),
    "negative": NumericSumResult("a", FIRST, LAST, "n", "day", {FIRST: -5.5, LAST: 1e15}),
    "average": NumericAverageResult("a", FIRST, LAST, "n", "day", MONTH, sampling_factor=0.1),
    "ranges": NumericBucketResult("a", FIRST, LAST, "n", "day", {"0 - 10": MONTH}),
    "users in ranges": NumericBucketResult(
        "a", FIRST, LAST, "n", "day", {"0 - 1": MONTH}, "unique"
    ),
    "events": EventCountsResult(("a", "b"), FIRST, LAST, "day", "unique", {"a": MONTH, "b": MONTH}),
    "properties": PropertyCountsResult("a", "p", FIRST, LAST, "day", "general", {"x": MONTH}),
    "funnel": FunnelResult(1, "", FIRST, LAST, 0.25, STEPS, window=7, window_unit="day"),
    "parted funnel": FunnelResult(1, "Buy", FIRST, LAST, 0.25, STEPS, "p", {HOSTILE: STEPS}),
    "retention": RetentionResult("A", None, FIRST, LAST, "day", COHORTS),
    "parted retention": RetentionResult(
        "A", "B", FIRST, LAST, "week", COHORTS, 2, unbounded=True, segment_property="p",
        segments={HOSTILE: COHORTS},
    ),
    "long retention": RetentionResult(
        "A", "B", FIRST, LAST, "day", (CohortInfo(FIRST, 9, (0.5,) * 90, (1,) * 90),) * 60
    ),
    "frequency": FrequencyResult("A", FIRST, LAST, "day", "hour", {FIRST: (9, 5, 1), LAST: (0, 0)}),
    "flows": FLOWS,
    "insights": InsightsResult(
        FIRST, LAST, ("$metric", "p"), {"A": {"$overall": MONTH, "x": MONTH}}
    ),
    "days": DailyCountsResult(
        FIRST, LAST, None, (DailyCount(FIRST, "a", 5), DailyCount(LAST, HOSTILE, 7))
    ),
    "values": PropertyDistributionResult(
        "a", "p", FIRST, LAST, 9,
        (PropertyValueCount(HOSTILE, 5, 55.56), PropertyValueCount(None, 4, 44.44)),
    ),
    "engagement": EngagementDistributionResult(
        FIRST, LAST, ("a",), 5, (EngagementBucket(1, "1", 5, 100.0),)
    ),
    "coverage": PropertyCoverageResult(
        "a", FIRST, LAST, 9, (PropertyCoverage(HOSTILE, 9, 0, 100.0),)
    ),
    "saved": SavedReportResult(
        5, FIRST, LAST, ("$retention",), {}, "retention",
        RetentionResult("A", None, FIRST, LAST, "day", COHORTS),
    ),
}  # fmt: skip
EMPTY = {
    "series": segmentation({}),
    "zeros": segmentation({"a": dict.fromkeys(MONTH, 0)}),
    "funnel": FunnelResult(1, "", FIRST, LAST, 0.0, ()),
    "retention": RetentionResult("A", None, FIRST, LAST, "day", ()),
    "frequency": FrequencyResult(None, FIRST, LAST, "day", "hour", {}),
    "flows": FlowsResult(None, ()),
    "insights": InsightsResult(None, None, ("$metric",), {}),
}


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("result", [*RESULTS.values(), *EMPTY.values()], ids=[*RESULTS, *EMPTY])
def test_no_line_is_wider_than_the_terminal(result, width):
    """By columns of a terminal; colour does not change the text."""
    plain = result.chart(width)
    coloured = result.chart(width, color=True)
    for line in plain.splitlines():
        assert cell_len(line) <= width
        assert "\x1b" not in line
        assert "\x07" not in line
    if not isinstance(result, (RetentionResult, FrequencyResult, SavedReportResult)):
        bare = COLOUR.sub("", coloured)  # shares are shaded without colour
        assert plain.splitlines() == [line.rstrip() for line in bare.splitlines()]


def test_a_series_shows_its_scale_and_its_dates():
    """The highest value at the top, zero at the bottom, dates below the bars."""
    lines = RESULTS["one series"].chart(80).splitlines()
    assert "Order Paid by plan" == lines[0]
    assert "events per day · 2026-01-01 to 2026-01-31" == lines[1]
    assert lines[3].startswith("3,100┤")
    assert lines[12].startswith("    0┤")
    assert "01-01" == lines[13].split()[0]


def test_bars_are_proportional_to_their_values():
    """Half the value is half the height; small values are visible, and 0 is not."""
    found = segmentation(
        {"a": {"2026-01-01": 100, "2026-01-02": 50, "2026-01-03": 0.1, "2026-01-04": 0}}
    )
    lines = [re.split("[┤│]", line)[-1] for line in found.chart(40).splitlines()]
    rows = [line for line in lines if "█" in line or "▁" in line]
    tall = [sum(row[n : n + 1] == "█" for row in rows) for n in (0, 8)]
    assert [10, 5] == tall
    assert "▁" == rows[-1][16]
    assert "▁" not in rows[-1][24:]


def test_many_dates_share_columns_and_the_chart_says_so():
    """Each column is the average of some: a sum of users would be wrong, and peaks hide dips."""
    hours = {f"2026-01-{d:02} {h:02}:00:00": h for d in range(1, 32) for h in range(24)}
    text = segmentation({"a": hours}).chart(80)
    assert "each column is the average of 11 values" in text
    assert "20┤" in text  # seven hours are left for the last: 17 to 23


def test_a_funnel_shows_counts_rates_and_times():
    """Rates are relative to the first step and to the previous step."""
    text = RESULTS["funnel"].chart(100)
    assert re.search(r"2 Viewed +█+\S* +90 +45\.0% +↳ 45\.0% +2 h 3 min", text)


def test_the_bars_of_all_segments_have_the_same_scale():
    """However long the times next to them are."""
    quick = (FunnelStep("a", 1000, 1.0, 1.0), FunnelStep("b", 1000, 1.0, 1.0, 0.0, 0.0))
    slow = (FunnelStep("a", 9, 1.0, 1.0), FunnelStep("b", 9, 1.0, 1.0, 90_000.0, 90_000.0))
    result = FunnelResult(1, "", FIRST, LAST, 1.0, slow, "p", {"x": slow, "y": quick})
    bars = [line.index("█") for line in result.chart(80).splitlines() if "█" in line]
    full = [line.count("█") for line in result.chart(80).splitlines() if "█" in line]
    assert (6, 1, 1) == (len(bars), len(set(bars)), len(set(full)))


def test_steps_of_flows_are_as_wide_as_their_names():
    """And the rows hold equally many."""
    node = FlowNode("An event with a name", "FORWARD", 1234)
    steps = tuple(FlowStep(n, (node,)) for n in range(4))
    text = FlowsResult(None, steps).chart(80)
    assert 4 == text.count("An event with a name 1,234") + text.count("An event with a name  ")
    assert [["anchor", "+1"], ["+2", "+3"]] == [
        line.split() for line in text.splitlines() if re.match(r"anchor|\+\d", line)
    ]


def test_groups_of_one_metric_are_named_without_it():
    """The title names the metric; with several metrics, each series names its own."""
    groups = {"x": MONTH, "y": MONTH}
    one = InsightsResult(FIRST, LAST, ("$metric", "p"), {"A": groups})
    assert ["x", "y"] == list(one._figure().content.series)
    two = InsightsResult(FIRST, LAST, ("$metric", "p"), {"A": groups, "B": groups})
    assert ["A · x", "A · y", "B · x", "B · y"] == list(two._figure().content.series)


@pytest.mark.parametrize(
    ("expression", "named"),
    [('properties["a \\"b\\" c"]', 'a "b" c'), ('user["x"]', "x"), ("n + 1", "n + 1"),
     ('properties["a"] + properties["b"]', 'properties["a"] + properties["b"]')],
)  # fmt: skip
def test_the_title_of_a_property_is_its_name(expression, named):
    """Other expressions are shown in full."""
    result = NumericSumResult("Paid", FIRST, LAST, expression, "day", {FIRST: 1, LAST: 2})
    assert f"Sum of {named}: Paid" == result.chart(80).splitlines()[0]


def test_a_narrow_funnel_omits_the_times():
    """Before the bars become too short to compare."""
    assert "2 h 3 min" not in RESULTS["funnel"].chart(40)


def test_retention_has_shades_without_colour():
    """Periods that have not begun yet are empty."""
    lines = RESULTS["retention"].chart(80).splitlines()
    assert "66%▓" in lines[4]
    assert lines[4].endswith("0%")
    assert lines[5].endswith("33%▒")
    assert lines[6].startswith("average")


def test_omitted_series_columns_and_rows_are_counted():
    """Below the chart."""
    assert "… 18 more series" in RESULTS["more series than shown"].chart(80)
    long = RESULTS["long retention"].chart(80)
    assert "… 21 more rows" in long
    assert "… 80 more columns" in long


@pytest.mark.parametrize(
    "result", [JQLResult(({"a": 1},)), ActivityFeedResult(("u",), None, None, ())]
)
def test_a_result_without_a_figure_raises(result):
    """The error suggests `.df`."""
    with pytest.raises(ConfigError, match=r"use \.df"):
        result.chart()


@pytest.mark.parametrize("width", [39, 0, -1, None, 80.0, True])
def test_a_chart_narrower_than_40_columns_raises(width):
    """It could not be read."""
    with pytest.raises(ConfigError, match="at least 40"):
        RESULTS["funnel"].chart(width)


# Some characters have become wide with a later version of Unicode than Python's.
LETTERS = st.characters(codec="utf-8").filter(lambda letter: cell_len(letter) <= columns_of(letter))


@settings(max_examples=cases(50, 1000))
@given(
    st.dictionaries(
        st.text(LETTERS, max_size=50),
        st.dictionaries(
            st.dates().map(str), st.floats(-1e300, 1e300) | st.integers(0, 2**70), max_size=30
        ),
        max_size=15,
    ),
    st.integers(40, 130),
)
def test_a_chart_of_any_series_fits_the_width(series, width):
    """Whatever the names and values."""
    for line in segmentation(series).chart(width).splitlines():
        assert cell_len(line) <= width


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"), (12345, "12,345"), (1_234_567, "1.235M"), (2.5e9, "2.5B"), (8.642, "8.64"),
        (-0.001, "-0.001"), (12345.6, "12,346"), (float("nan"), "-"), (3e12, "3T"),
    ],
)  # fmt: skip
def test_numbers_in_charts_are_short(value, expected):
    """A few characters each."""
    assert expected == short_number(value)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (None, ""), (0, "0 s"), (0.25, "0.25 s"), (59.6, "1 min"), (640, "10 min 40 s"),
        (7380, "2 h 3 min"), (90_061, "1 d 1 h"), (86_400, "1 d"), (86_401, "1 d"),
    ],
)  # fmt: skip
def test_durations_have_two_units_at_most(seconds, expected):
    """The two largest ones."""
    assert expected == duration(seconds)
