"""Whatever JSON a server sends, it becomes a result or a typed error."""

import contextlib
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mixpanel.data._api.responses import RequestInfo
from mixpanel.data._queries import (
    discovery_responses,
    funnel_responses,
    responses,
    retention_responses,
)
from mixpanel.data._queries.response_values import check_error, common_fields, count, label, number
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
    "segmentation": lambda a: responses.segmentation(a, PARAMS, "plan", None),
    "event_counts": lambda a: responses.event_counts(a, EVENTS, None),
    "property_counts": lambda a: responses.property_counts(a, PARAMS, None),
    "numeric_buckets": lambda a: responses.numeric_buckets(a, PARAMS, None),
    "numeric_sum": lambda a: responses.numeric_sum(a, PARAMS, None),
    "funnel": lambda a: funnel_responses.funnel(a, PARAMS, name="", segment="plan", timezone=None),
    "inline_funnel": funnel_responses.inline_funnel,
    "retention": lambda a: retention_responses.retention(a, PARAMS, segment=None, timezone=None),
    "inline_retention": lambda a: retention_responses.inline_retention(a, {}),
    "frequency": lambda a: retention_responses.frequency(a, PARAMS, segment=None, timezone=None),
    "insights": responses.insights,
    "flows": responses.flows,
    "feed_page": responses.feed_page,
    "jql": lambda a: responses.jql(a, None),
    "engage_stats": lambda a: responses.engage_stats(a, PARAMS, None),
    "check_error": lambda a: check_error(a, RequestInfo("POST", "insights")),
    "kind_of_report": lambda a: responses.kind_of_report(a, "insights"),
    "names": discovery_responses.names,
    "properties": discovery_responses.properties,
    "events_with_properties": discovery_responses.events_with_properties,
    "funnels": discovery_responses.funnels,
    "cohorts": discovery_responses.cohorts,
    "bookmarks": discovery_responses.bookmarks,
    "top_events": discovery_responses.top_events,
    "schemas": discovery_responses.schemas,
    "schema": lambda a: discovery_responses.schema(a, "event", "x"),
    "timezone": lambda a: discovery_responses.timezone(a, "42"),
    "default_workspace": lambda a: discovery_responses.default_workspace(a, "42"),
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
def test_any_response_is_a_result_or_a_typed_error(name, response):
    """A result has rows and JSON, whatever the response contains."""
    with contextlib.suppress(MixpanelDataError):
        result = PARSERS[name](response)
        if isinstance(result, QueryResult):
            json.dumps(result.to_dict(), allow_nan=False)
            result.to_table_dict()
            repr(result)


@given(JSON)
def test_common_fields_are_read_from_any_response(response):
    """Malformed metadata does not fail a query."""
    known = common_fields(response, None)
    assert isinstance(known["sampling_factor"], float)
    assert isinstance(known["limit_hit"], bool)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(5, 5), ("10254", 10254), ("-3", -3), (1.5, 1.5), ("1.5", 1.5), (True, 1)],
)
def test_numbers_are_read_as_numbers_or_text(value, expected):
    """Integers stay integers."""
    assert number(value) == expected
    assert type(number(value)) is type(expected)


@pytest.mark.parametrize("value", [None, "NaN", "Infinity", float("nan")])
def test_a_missing_count_is_zero(value):
    """Such as of a step that no user reached."""
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
    """As by the older endpoints, in the project's timezone."""
    assert label(date) == expected
