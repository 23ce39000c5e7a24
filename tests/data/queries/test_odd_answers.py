"""Whatever JSON a server sends, it becomes a result or a typed error."""

import contextlib
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mixpanel.data._api.responses import RequestInfo
from mixpanel.data._queries import answers, cohort_answers, discovery_answers, funnel_answers
from mixpanel.data._queries.answer_values import about, check_error, count, label, number
from mixpanel.data.exceptions import MixpanelDataError
from mixpanel.data.query_results import QueryResult
from tests.effort import cases

pytestmark = pytest.mark.slow

KEYS = st.sampled_from([
    "data", "series", "values", "results", "events", "event", "properties", "time", "steps",
    "nodes", "edges", "count", "first", "counts", "$overall", "$average", "2026-01-01",
    "2026-01-02T00:00:00",
    "team", "1. Opened App", "all", "avg_time", "headers", "$funnel", "date_range", "from_date",
    "meta", "legend_size", "min_sampling_factor", "computed_at", "totalCount", "flows", "flowSteps",
    "sentinel_event", "overallConversionRate", "name", "id", "params", "schemaJson", "metadata",
    "com.mixpanel", "tags", "error", "projects", "42", "timezone", "workspaces", "is_global",
])  # fmt: skip
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.sampled_from(["NaN", "5", "-1.5", "2026-01-01", "Infinity", "1e400"]),
)  # fmt: skip
JSON = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=5)),
    max_leaves=20,
)
PARAMS = {
    "event": "Order Paid", "from_date": "2026-01-01", "to_date": "2026-01-02", "unit": "day",
    "type": "general", "limit": 3, "on": 'properties["a"]', "name": "plan", "funnel_id": 5,
    "addiction_unit": "hour", "action": "count()",
}  # fmt: skip
EVENTS = PARAMS | {"event": ["Order Paid"]}
PARSERS = {
    "segmentation": lambda a: answers.segmentation(a, PARAMS, "plan", None),
    "event_counts": lambda a: answers.event_counts(a, EVENTS, None),
    "property_counts": lambda a: answers.property_counts(a, PARAMS, None),
    "numeric_buckets": lambda a: answers.numeric_buckets(a, PARAMS, None),
    "numeric_sum": lambda a: answers.numeric_sum(a, PARAMS, None),
    "funnel": lambda a: funnel_answers.funnel(a, PARAMS, name="", segment="plan", timezone=None),
    "inline_funnel": funnel_answers.inline_funnel,
    "retention": lambda a: cohort_answers.retention(a, PARAMS, segment=None, timezone=None),
    "inline_retention": lambda a: cohort_answers.inline_retention(a, {}),
    "frequency": lambda a: cohort_answers.frequency(a, PARAMS, segment=None, timezone=None),
    "insights": answers.insights,
    "flows": answers.flows,
    "feed_page": answers.feed_page,
    "jql": lambda a: answers.jql(a, None),
    "engage_stats": lambda a: answers.engage_stats(a, PARAMS, None),
    "check_error": lambda a: check_error(a, RequestInfo("POST", "insights")),
    "kind_of_report": lambda a: answers.kind_of_report(a, "insights"),
    "names": discovery_answers.names,
    "properties": discovery_answers.properties,
    "events_with_properties": discovery_answers.events_with_properties,
    "funnels": discovery_answers.funnels,
    "cohorts": discovery_answers.cohorts,
    "bookmarks": discovery_answers.bookmarks,
    "top_events": discovery_answers.top_events,
    "schemas": discovery_answers.schemas,
    "schema": lambda a: discovery_answers.schema(a, "event", "x"),
    "timezone": lambda a: discovery_answers.timezone(a, "42"),
    "default_workspace": lambda a: discovery_answers.default_workspace(a, "42"),
}
SHAPES = st.one_of(
    JSON,
    st.fixed_dictionaries({"data": JSON}),
    st.fixed_dictionaries({"series": JSON}),
    st.fixed_dictionaries({"results": JSON}),
    st.fixed_dictionaries({"steps": JSON, "flows": JSON}),
    st.fixed_dictionaries({"data": st.fixed_dictionaries({"series": JSON, "values": JSON})}),
    st.dictionaries(st.sampled_from(["2026-01-01", "$overall", "team"]), JSON, max_size=3),
)


ODD = [
    {"results": 1},
    {"results": {"42": {"workspaces": 5}}},
    {"steps": [], "flows": [{"flowSteps": [5]}]},
    {"steps": [], "breakdowns": 5},
    {"steps": [], "trees": {"a": 1}, "metadata": []},
    {"series": {"a": {"2026-01-01": {"count": 5}}}, "headers": 5},
    {"data": {"2026-01-01": {"steps": [{"count": {}}]}}},
]


@pytest.mark.parametrize("name", sorted(PARSERS))
@settings(max_examples=cases(25, 500))
@given(SHAPES)
@example(ODD[0])
@example(ODD[1])
@example(ODD[2])
@example(ODD[3])
@example(ODD[4])
@example(ODD[5])
@example(ODD[6])
def test_no_answer_breaks_a_parser(name, answer):
    """It is a result whose rows and JSON can be made, or an error of this package."""
    with contextlib.suppress(MixpanelDataError):
        result = PARSERS[name](answer)
        if isinstance(result, QueryResult):
            json.dumps(result.to_dict(), allow_nan=False)
            result.to_table_dict()
            repr(result)


@given(JSON)
def test_what_every_result_carries_is_read_from_anything(answer):
    """Nothing there is worth failing for."""
    known = about(answer, None)
    assert isinstance(known["sampling_factor"], float)
    assert isinstance(known["limit_hit"], bool)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(5, 5), ("10254", 10254), ("-3", -3), (1.5, 1.5), ("1.5", 1.5), (True, 1)],
)
def test_numbers_are_read_as_numbers_or_text(value, expected):
    """Of the same kind."""
    assert number(value) == expected
    assert type(number(value)) is type(expected)


@pytest.mark.parametrize("value", [None, "NaN", "Infinity", float("nan")])
def test_a_count_that_is_none_is_zero(value):
    """As of a step that nobody reached."""
    assert count(value) == 0


@pytest.mark.parametrize(
    ("date", "expected"),
    [
        ("2026-01-31", "2026-01-31"),
        ("2026-01-31T00:00:00", "2026-01-31"),
        ("2026-01-31T00:00:00-08:00", "2026-01-31"),
        ("2026-01-31T13:00:00+00:00", "2026-01-31 13:00:00"),
        ("2026-01-31 13:00:00", "2026-01-31 13:00:00"),
        ("all", "all"),
        ("2,000 - 2,100", "2,000 - 2,100"),
    ],
)
def test_dates_are_written_in_one_way(date, expected):
    """That of the classic answers, in the project's own time."""
    assert label(date) == expected
