"""Classic queries: what is sent, and the results of the documented responses."""

import itertools
import math
import warnings
from datetime import UTC, date, datetime

import pytest

from mixpanel.data.exceptions import (
    APIError,
    ConfigError,
    EventNotFoundError,
    ExpressionError,
    JQLDeprecationWarning,
    JQLSyntaxError,
    PlanError,
    PropertyNotFoundError,
    QueryError,
    ReportNotFoundError,
    ServerError,
)
from mixpanel.data.expressions import prop, raw, to_number, user_prop
from mixpanel.data.query_results import FlowsResult, FunnelResult, InsightsResult, RetentionResult
from tests.data.queries.fake_mixpanel import InTurn

pytestmark = pytest.mark.anyio
JAN = {"from_date": "2026-01-01", "to_date": "2026-01-03"}


@pytest.fixture
def anyio_backend():
    return "asyncio"


def series(**segments):
    """Return a response of the segmentation family, with dates out of order as from Mixpanel."""
    values = {name.replace("_", " "): counts for name, counts in segments.items()}
    days = ["2026-01-03", "2026-01-01", "2026-01-02"]
    return {"data": {"series": days, "values": values}, "legend_size": len(values)}


# ---- segmentation -------------------------------------------------------------------------------


async def test_segmentation_counts_by_date(ws, server):
    """In order of date; a missing date is 0, and `total` is their sum."""
    server["segmentation"] = series(Order_Paid={"2026-01-03": 40, "2026-01-01": 31})
    result = await ws.segmentation("Order Paid", **JAN)
    assert result.series == {"Order Paid": {"2026-01-01": 31, "2026-01-02": 0, "2026-01-03": 40}}
    assert list(result.series["Order Paid"]) == ["2026-01-01", "2026-01-02", "2026-01-03"]
    assert (result.total, result.limit_hit, result.timezone) == (71, False, "Europe/Oslo")
    assert server.last.query == {
        "project_id": "4242", "event": "Order Paid", "from_date": "2026-01-01",
        "to_date": "2026-01-03", "unit": "day", "type": "general",
    }  # fmt: skip
    assert len(server.queries) == 1


@pytest.mark.parametrize(
    ("on", "sent", "named"),
    [
        ("plan", 'properties["plan"]', "plan"),
        ('say "hi"\\', 'properties["say \\"hi\\"\\\\"]', 'say "hi"\\'),
        (prop("plan"), 'properties["plan"]', "plan"),
        (user_prop("$email"), 'user["$email"]', "$email"),
        ('user["plan"]', 'user["plan"]', "plan"),
        (
            'number(properties["a"]) > 5',
            'number(properties["a"]) > 5',
            'number(properties["a"]) > 5',
        ),
        (to_number(prop("a")), 'number(properties["a"])', 'number(properties["a"])'),
        (raw("anything"), "anything", "anything"),
    ],
)
async def test_on_names_a_property_or_is_an_expression(ws, server, on, sent, named):
    """All methods quote it in the same way."""
    server["segmentation"] = series(team={"2026-01-01": 1})
    result = await ws.segmentation("Order Paid", on=on, **JAN)
    assert server.last.query["on"] == sent
    assert server.last.query["limit"] == "1000"
    assert result.segment_property == named


async def test_unique_users_are_never_added_up(ws, server):
    """A user who is active on two days is one user."""
    server["segmentation"] = series(Order_Paid={"2026-01-01": 5, "2026-01-02": 5})
    result = await ws.segmentation("Order Paid", type="unique", **JAN)
    assert result.total is None


@pytest.mark.parametrize(
    ("response", "limit"),
    [
        (series(a={"2026-01-01": 1}, b={"2026-01-01": 1}), 2),
        (series(a={"2026-01-01": 1}) | {"legend_size": 9}, 1000),
        (series(a={"2026-01-01": 1}) | {"meta": {"is_segmentation_limit_hit": True}}, 1000),
    ],
)
async def test_segmentation_reports_when_the_limit_cut_off_segments(ws, server, response, limit):
    """`total` is None then."""
    server["segmentation"] = response
    result = await ws.segmentation("Order Paid", on="plan", limit=limit, **JAN)
    assert result.limit_hit
    assert result.total is None


async def test_where_is_an_expression_or_its_text(ws, server):
    """Both are sent as text."""
    server["segmentation"] = series(Order_Paid={"2026-01-01": 1})
    await ws.segmentation("Order Paid", where=prop("plan") == "team", **JAN)
    assert server.last.query["where"] == 'properties["plan"] == "team"'
    await ws.segmentation("Order Paid", where='properties["a"] > 1', **JAN)
    assert server.last.query["where"] == 'properties["a"] > 1'


async def test_numeric_buckets_are_sorted_as_numbers(ws, server):
    """Not as text."""
    server["segmentation/numeric"] = {
        "data": {
            "series": ["2026-01-01"],
            "values": {each: {"2026-01-01": 1} for each in ("2,000 - 2,100", "10 - 20", "-5 - 0")},
        },
        "legend_size": 3,
    }
    result = await ws.segmentation_numeric("Order Paid", on="amount", **JAN)
    assert list(result.series) == ["-5 - 0", "10 - 20", "2,000 - 2,100"]
    assert result.property_expr == 'properties["amount"]'


async def test_sums_and_averages_are_read_in_order_of_date(ws, server):
    """With the time at which they were computed."""
    server["segmentation/sum"] = {
        "status": "ok", "computed_at": "2026-01-05T08:00:01.5+00:00",
        "results": {"2026-01-02": 0, "2026-01-01": 991.5},
    }  # fmt: skip
    server["segmentation/average"] = {"status": "ok", "results": {"2026-01-01": 8.64}}
    total = await ws.segmentation_sum("Order Paid", on="amount", **JAN)
    average = await ws.segmentation_average("Order Paid", on="amount", unit="hour", **JAN)
    assert list(total.results.items()) == [("2026-01-01", 991.5), ("2026-01-02", 0)]
    assert total.computed_at == datetime(2026, 1, 5, 8, 0, 1, 500000, UTC)
    assert average.results == {"2026-01-01": 8.64}
    assert server.last.query["unit"] == "hour"


async def test_several_events_are_counted_in_one_query(ws, server):
    """An event that never happened has zeros."""
    server["events"] = series(Order_Paid={"2026-01-01": 2})
    result = await ws.event_counts(["Order Paid", "Opened App"], **JAN)
    assert server.last.query["event"] == '["Order Paid","Opened App"]'
    assert result.series["Opened App"] == dict.fromkeys(result.series["Order Paid"], 0)


async def test_values_of_a_property_are_counted(ws, server):
    """A limit is always sent, and reaching it is reported."""
    server["events/properties"] = series(team={"2026-01-01": 2}, free={"2026-01-01": 1})
    whole = await ws.property_counts("Order Paid", "plan", values=["team", "free"], **JAN)
    assert server.last.query["values"] == '["team","free"]'
    assert server.last.query["limit"] == "255"
    assert not whole.limit_hit
    cut = await ws.property_counts("Order Paid", "plan", limit=2, **JAN)
    assert cut.limit_hit


# ---- funnels ------------------------------------------------------------------------------------


def steps(*counts, **more):
    return [
        {"count": count, "goal": name, "event": name, "avg_time": 60 * at or None,
         "avg_time_from_start": 60 * at or None, **more}
        for at, (name, count) in enumerate(zip(["Opened App", "Order Paid"], counts, strict=True))
    ]  # fmt: skip


async def test_a_funnel_is_one_period_by_default(ws, server):
    """So that no user is counted twice."""
    server["funnels"] = {"meta": {}, "data": {"2026-01-01": {"steps": steps(200, 50)}}}
    result = await ws.funnel(77, **JAN)
    assert server.last.query["interval"] == "3"
    assert [step.count for step in result.steps] == [200, 50]
    assert [step.conversion_rate for step in result.steps] == [1.0, 0.25]
    assert result.conversion_rate == 0.25
    assert result.steps[1].avg_time == 60
    assert result.steps[0].avg_time is None


async def test_a_funnel_by_day_keeps_its_days(ws, server):
    """Times are averages over the users who did the step."""
    server["funnels"] = {
        "data": {
            "2026-01-02": {"steps": steps(10, 10)},
            "2026-01-01": {"steps": steps(20, 5), "analysis": {}},
        }
    }
    result = await ws.funnel(77, unit="day", **JAN)
    assert "interval" not in server.last.query
    assert list(result.dates) == ["2026-01-01", "2026-01-02"]
    assert [step.count for step in result.steps] == [30, 15]
    assert result.steps[1].conversion_rate == 0.5


async def test_the_steps_of_all_users_are_not_a_segment_of_a_funnel(ws, server):
    """`$overall` is not among the segments."""
    server["funnels"] = {"data": {"2026-01-01": {"$overall": steps(30, 15), "team": steps(20, 15)}}}
    result = await ws.funnel(77, on="plan", **JAN)
    assert [step.count for step in result.steps] == [30, 15]
    assert {name: each[1].count for name, each in result.segments.items()} == {"team": 15}
    assert server.last.query["on"] == 'properties["plan"]'
    assert server.last.query["limit"] == "1000"


async def test_an_empty_funnel_has_rates_of_zero(ws, server):
    """Without a division by zero."""
    server["funnels"] = {"data": {"2026-01-01": {"steps": steps(0, 0)}}}
    result = await ws.funnel(77, **JAN)
    assert result.conversion_rate == 0.0
    server["funnels"] = {"data": {}}
    assert (await ws.funnel(77, **JAN)).steps == ()


async def test_an_unknown_funnel_without_data_raises(ws, server):
    """The error lists the saved funnels; a saved one that is empty is a result."""
    server["funnels"] = {"meta": {"dates": []}, "data": {}}
    server["funnels/list"] = [{"funnel_id": 77, "name": "Checkout"}]
    assert (await ws.funnel(77, **JAN)).steps == ()
    with pytest.raises(ReportNotFoundError, match=r"there are 77 \(Checkout\)"):
        await ws.funnel(78, **JAN)


async def test_a_funnel_has_its_name_once_it_was_listed(ws, server):
    """The response has no name, and no query is spent on it."""
    server["funnels"] = {"data": {"2026-01-01": {"steps": steps(1, 1)}}}
    server["funnels/list"] = [{"funnel_id": 77, "name": "Checkout"}]
    assert (await ws.funnel(77, **JAN)).funnel_name == ""
    assert len(server.queries) == 1
    await ws.list_funnels()
    assert (await ws.funnel(77, **JAN)).funnel_name == "Checkout"


# ---- retention and frequency --------------------------------------------------------------------

COHORTS = {
    "2026-01-02": {"first": 0, "counts": [0, 0]},
    "2026-01-01": {"first": 120, "counts": [80, 41]},
}


async def test_retention_is_read_by_date(ws, server):
    """In order, with shares of each cohort."""
    server["retention"] = COHORTS
    result = await ws.retention("Opened App", "Order Paid", **JAN)
    first, second = result.cohorts
    assert (first.date, first.size, first.counts) == ("2026-01-01", 120, (80, 41))
    assert first.retention == (80 / 120, 41 / 120)
    assert second.retention == (0.0, 0.0)
    sent = server.last.query
    assert (sent["born_event"], sent["event"]) == ("Opened App", "Order Paid")
    assert (sent["unit"], sent["interval_count"]) == ("day", "10")
    assert "interval" not in sent


async def test_retention_sends_an_interval_or_a_unit(ws, server):
    """The API rejects both together; the result has both."""
    server["retention"] = COHORTS
    result = await ws.retention("Opened App", "Order Paid", interval=7, **JAN)
    assert server.last.query["interval"] == "7"
    assert "unit" not in server.last.query
    assert (result.unit, result.interval) == ("day", 7)
    with pytest.raises(ConfigError, match="exclude each other"):
        await ws.retention("Opened App", "Order Paid", interval=2, unit="week", **JAN)


@pytest.mark.parametrize(
    "response",
    [
        {"2026-01-01": {"$overall": COHORTS["2026-01-01"], "team": COHORTS["2026-01-01"]}},
        {"$overall": COHORTS, "team": COHORTS},
    ],
)
async def test_retention_with_segments_is_read_in_both_nestings(ws, server, response):
    """Segments inside dates, or dates inside segments."""
    server["retention"] = response
    result = await ws.retention("Opened App", "Order Paid", on="plan", **JAN)
    assert result.cohorts[0].size == 120
    assert result.segments["team"][0].size == 120
    assert result.segments.keys() == {"team"}


async def test_retention_accepts_both_names_of_its_events(ws, server):
    """But not both at once."""
    server["retention"] = COHORTS
    await ws.retention(born_event="Opened App", return_event="Order Paid", **JAN)
    assert server.last.query["event"] == "Order Paid"
    await ws.retention("Opened App", **JAN)
    assert "event" not in server.last.query
    with pytest.raises(ConfigError, match="are the same"):
        await ws.retention("Opened App", born_event="Opened App", **JAN)
    with pytest.raises(ConfigError, match="first event"):
        await ws.retention(**JAN)


@pytest.mark.parametrize(
    "response",
    [{"data": {"2026-01-01": [305, 107, 60]}}, {"2026-01-01": [305, 107, 60]}],
)
async def test_frequency_is_read_in_both_forms(ws, server, response):
    """With `data` and without."""
    server["retention/addiction"] = response
    result = await ws.frequency(event="Opened App", **JAN)
    assert result.data == {"2026-01-01": (305, 107, 60)}
    assert server.last.query["addiction_unit"] == "hour"


async def test_frequency_with_segments_is_read_in_both_nestings(ws, server):
    """Segments inside dates, or dates inside segments."""
    for response in (
        {"data": {"2026-01-01": {"team": [3, 1], "$overall": [5, 2]}}},
        {"data": {"team": {"2026-01-01": [3, 1]}, "$overall": {"2026-01-01": [5, 2]}}},
    ):
        server["retention/addiction"] = response
        result = await ws.frequency(event="Opened App", on="plan", **JAN)
        assert result.segments == {"team": {"2026-01-01": (3, 1)}}
        assert result.data == {"2026-01-01": (5, 2)}


# ---- saved reports ------------------------------------------------------------------------------

BOOKMARKS = {"results": {"results": [
    {"id": 1, "name": "Trend", "type": "insights"},
    {"id": 2, "name": "Checkout", "type": "funnels"},
    {"id": 3, "name": "Come back", "type": "retention"},
    {"id": 4, "name": "Paths", "type": "flows"},
]}}  # fmt: skip
RANGE = {"from_date": "2025-12-29T00:00:00-08:00", "to_date": "2026-01-05T23:59:59.999000-08:00"}
INSIGHTS = {
    "computed_at": "2026-01-05T08:00:01", "date_range": RANGE, "headers": ["$metric"],
    "series": {
        "Order Paid - Total": {"2026-01-02T00:00:00-08:00": 4, "2026-01-01T00:00:00-08:00": 3},
    },
}  # fmt: skip
FUNNEL = {
    "headers": ["$funnel"], "date_range": RANGE,
    "series": {"Opened App → Order Paid": {
        "count": {"10. J": {"all": 1}, "9. I": {"all": 2}, "1. Opened App": {"all": "200"}},
        "avg_time": {"9. I": {"all": 30}}, "overall_conv_ratio": {}, "step_conv_ratio": {},
    }},
}  # fmt: skip
FLOWS = {
    "computed_at": "2026-01-05T08:00:01", "overallConversionRate": "NaN", "breakdowns": [],
    "metadata": {}, "flows": [{"flowSteps": [
        {"event": "Opened App", "type": "ANCHOR", "totalCount": "10"},
        {"event": "Order Paid", "type": "FORWARD", "totalCount": "4"}]}],
    "steps": [
        {"nodes": [{"event": "Signed Up", "type": "REVERSE", "totalCount": "7", "edges": []}]},
        {"nodes": [{"event": "Opened App", "type": "ANCHOR", "totalCount": "10254", "edges": [
            {"event": "Order Paid", "step": 1, "type": "FORWARD", "totalCount": "51"}]}]},
    ],
}  # fmt: skip


@pytest.fixture
def saved(server):
    server["/api/app/projects/4242/bookmarks"] = BOOKMARKS
    server["insights"] = INSIGHTS
    server["retention"] = COHORTS
    server["arb_funnels"] = FLOWS
    return server


async def test_a_saved_insights_report_has_dates_in_the_projects_timezone(ws, saved):
    """Written as the older endpoints do."""
    result = await ws.saved_report(1)
    assert isinstance(result.report, InsightsResult)
    assert result.report_type == "insights"
    assert result.report.series == {"Order Paid - Total": {"2026-01-01": 3, "2026-01-02": 4}}
    assert (result.from_date, result.to_date) == ("2025-12-29", "2026-01-05")
    assert saved.last.query == {"bookmark_id": "1", "project_id": "4242"}
    assert len(saved.queries) == 1


async def test_the_steps_of_a_saved_funnel_are_sorted_by_number(ws, saved):
    """The tenth comes after the ninth; counts may be text."""
    saved["insights"] = FUNNEL
    result = await ws.saved_report(bookmark_id=2)
    assert isinstance(result.report, FunnelResult)
    assert result.report_type == "funnel"
    assert [(step.event, step.count) for step in result.report.steps] == [
        ("Opened App", 200), ("I", 2), ("J", 1),
    ]  # fmt: skip
    assert result.report.steps[1].avg_time == 30


async def test_a_saved_funnel_with_dates_uses_the_funnels_endpoint(ws, saved):
    """The insights endpoint has no dates."""
    saved["funnels"] = {"data": {"2026-01-01": {"steps": steps(4, 2)}}}
    result = await ws.saved_report(2, **JAN)
    assert saved.last.query["funnel_id"] == "2"
    assert result.report.conversion_rate == 0.5
    assert result.from_date == "2026-01-01"


async def test_saved_retention_uses_the_retention_endpoint(ws, saved):
    """By the id of the report."""
    result = await ws.saved_report(3)
    assert saved.last.path == "/api/query/retention"
    assert isinstance(result.report, RetentionResult)
    assert result.report.cohorts[0].size == 120


async def test_saved_flows_are_read(ws, saved):
    """Counts are text, a rate may be NaN; steps count from the anchor."""
    result = await ws.saved_report(4)
    flows = result.report
    assert isinstance(flows, FlowsResult)
    assert saved.last.query["query_type"] == "flows_sankey"
    assert [step.step for step in flows.steps] == [-1, 0]
    assert flows.steps[1].nodes[0].count == 10254
    assert flows.steps[1].nodes[0].edges[0].count == 51
    assert flows.overall_conversion_rate is None
    assert (flows.paths[0].events, flows.paths[0].count) == (("Opened App", "Order Paid"), 4)
    assert (await ws.query_flows(4)).steps == flows.steps
    assert (await ws.flows(4)).bookmark_id == 4


async def test_an_unknown_report_raises_with_the_saved_reports(ws, saved):
    """Listing them costs no query."""
    saved["insights"] = (404, {"error": "no such bookmark"})
    with pytest.raises(
        ReportNotFoundError, match=r"no report 9; there are 2 \(Checkout\)"
    ) as error:
        await ws.saved_report(9)
    assert error.value.available.keys() == {1, 2, 3, 4}
    saved["insights"] = (400, {"error": "date range is broken"})
    with pytest.raises(QueryError, match="broken"):
        await ws.saved_report(1)


async def test_an_unknown_funnel_raises_with_the_saved_funnels(ws, server):
    """They are listed only then."""
    server["funnels"] = (400, {"error": "invalid funnel"})
    server["funnels/list"] = [{"funnel_id": 77, "name": "Checkout"}]
    with pytest.raises(ReportNotFoundError, match=r"no funnel 78; there are 77 \(Checkout\)"):
        await ws.funnel(78, **JAN)


# ---- users and scripts --------------------------------------------------------------------------


def feed(*events, sentinel=None):
    return {"results": {"events": list(events), "sentinel_event": sentinel}}


def event(name, time, **properties):
    return {"event": name, "properties": {"time": time, "distinct_id": "u-17", **properties}}


async def test_an_activity_feed_follows_the_cursor_backwards(ws, server):
    """Events are in order of time at the end; the cursor is sent back unchanged."""
    cursor = {"anything": [1]}
    server["stream/bookmark"] = InTurn(
        feed(event("C", 30), event("D", 40), sentinel=cursor), feed(event("A", 10), event("B", 20))
    )
    result = await ws.activity_feed("u-17", from_date="2026-01-01", to_date="2026-01-31")
    assert [each.event for each in result.events] == ["A", "B", "C", "D"]
    assert result.events[0].time == datetime(1970, 1, 1, 0, 0, 10, tzinfo=UTC)
    first, second = (sent.json for sent in server.queries)
    assert first["bookmark"]["dateRange"] == {
        "type": "between", "from": "2026-01-01", "to": "2026-01-31",
    }  # fmt: skip
    assert (first["workspace_id"], first["project_id"]) == (77, 4242)
    assert first["sentinel_event"] is None
    assert second["sentinel_event"] == cursor
    assert "project_id" not in server.last.query
    assert not result.limit_hit


async def test_an_activity_feed_stops_at_its_limit_and_reports_it(ws, server):
    """Also at the limit of calls."""
    server["stream/bookmark"] = lambda _: feed(event("A", 1), event("B", 2), sentinel={"x": 1})
    result = await ws.activity_feed(["u-1", "u-2"], limit=3)
    assert result.limit_hit
    assert len(result.events) == 3
    assert len(server.queries) == 2
    result = await ws.activity_feed(["u-1", "u-2"], max_calls=4)
    assert result.limit_hit
    assert len(server.queries) == 2 + 4


async def test_an_activity_feed_reports_the_days_it_has_read(ws, server):
    """Each call reads 30 days, the latest first."""
    pages = itertools.count()
    server["stream/bookmark"] = lambda _: feed(sentinel={"x": next(pages)})
    days = {"from_date": "2020-01-01", "to_date": "2025-12-31"}
    result = await ws.activity_feed("u-1", **days, max_calls=2)
    assert (result.limit_hit, result.read_from) == (True, "2025-11-02")
    server["stream/bookmark"] = lambda _: feed(event("A", 1), sentinel={"x": 1})
    result = await ws.activity_feed("u-1", limit=1)
    assert (result.limit_hit, result.read_from) == (True, None)


async def test_an_activity_feed_without_dates_covers_thirty_days(ws, server):
    """With a first day only, everything since."""
    server["stream/bookmark"] = feed()
    await ws.activity_feed("u-17", events=["Order Paid"], search="team")
    body = server.last.json
    assert body["bookmark"]["dateRange"]["type"] == "relative_after"
    assert (body["include_events"], body["search"]) == (["Order Paid"], "team")
    await ws.activity_feed("u-17", from_date=date(2026, 1, 1), exclude_events="Order Paid")
    assert server.last.json["bookmark"]["dateRange"] == {"type": "since", "from": "2026-01-01"}
    assert server.last.json["exclude_events"] == ["Order Paid"]


async def test_an_activity_feed_falls_back_to_the_old_endpoint(ws, server):
    """If the new one does not exist; both names of the id are read."""
    mixed = {"event": "A", "properties": {"time": 1, "$distinct_id": "u-17"}}
    untimed = {"event": "B", "properties": {}}
    server["stream/query"] = {"status": "ok", "results": {"events": [untimed, mixed]}}
    result = await ws.activity_feed("u-17", **JAN)
    assert [each.event for each in result.events] == ["A", "B"]
    assert result.events[0].properties == {"distinct_id": "u-17"}
    assert result.events[1].time is None
    assert server.last.query["distinct_ids"] == '["u-17"]'
    assert server.last.query["from_date"] == "2026-01-01"


async def test_engage_stats_computes_an_aggregate_over_profiles(ws, server):
    """With the filter under the name that this endpoint uses."""
    server["engage/stats"] = {"results": 120, "status": "ok"}
    result = await ws.engage_stats(
        where=prop("plan") == "team", cohort_id=5, segment_by_cohorts=[6]
    )
    assert result.results == 120
    assert result.to_table_dict() == [{"name": "count()", "value": 120}]
    assert server.last.form == {
        "action": "count()", "selector": 'properties["plan"] == "team"',
        "filter_by_cohort": '{"id":5}', "include_all_users": "false",
        "segment_by_cohorts": '{"6":true}',
    }  # fmt: skip


async def test_jql_runs_and_warns(ws, server):
    """With a warning class of its own, so that it can be filtered."""
    server["jql"] = [{"key": ["team"], "value": 3}]
    with pytest.warns(JQLDeprecationWarning, match="maintenance mode"):
        result = await ws.jql("function main() {}", {"a": 1})
    assert result.to_table_dict() == [{"key_0": "team", "value": 3}]
    assert server.last.form == {"script": "function main() {}", "params": '{"a":1}'}
    server["jql"] = (412, {"error": "SyntaxError: Unexpected token", "request": "/api/2.0/jql?"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", JQLDeprecationWarning)
        with pytest.raises(JQLSyntaxError, match="Unexpected token"):
            await ws.jql("function main() {")


# ---- what is wrong ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "about"),
    [
        ({"from_date": "2026-01-03", "to_date": "2026-01-01"}, "later than"),
        ({"from_date": "2026-01-01", "to_date": "2999-01-01"}, "in the future"),
        ({"from_date": "tomorrow", "to_date": "2026-01-01"}, "is not a date"),
        ({"from_date": None, "to_date": "2026-01-01"}, "is not a date"),
        ({"from_date": datetime(2026, 1, 1), "to_date": "2026-01-01"}, "without a time"),
        (JAN | {"unit": "year"}, "choose minute, hour, day, week, month"),
        (JAN | {"unit": 5}, "is unknown"),
        (JAN | {"type": "both"}, "choose general, unique, average"),
        (JAN | {"type": "unique", "unit": "hour"}, "unique users cannot be counted"),
        (JAN | {"limit": 0}, "between 1 and 10,000"),
        (JAN | {"limit": True}, "whole number"),
        (JAN | {"where": 5}, "must be an expression"),
        (JAN | {"on": 5}, "must be an expression"),
    ],
)
async def test_invalid_arguments_raise_before_anything_is_sent(ws, server, arguments, about):
    """The error says what to write instead."""
    with pytest.raises(ConfigError, match=about):
        await ws.segmentation("Order Paid", **arguments)
    assert server.sent == []


@pytest.mark.parametrize("name", ["", None, 5, "\ud800"])
async def test_an_invalid_event_name_raises_before_anything_is_sent(ws, server, name):
    """Empty text, and anything but text."""
    with pytest.raises(ConfigError):
        await ws.segmentation(name, **JAN)
    with pytest.raises(ConfigError):
        await ws.event_counts([name], **JAN)
    assert server.sent == []


async def test_a_syntax_error_in_an_expression_shows_its_position(ws, server):
    """In `where` and in `on`; nothing is sent."""
    for options in ({"where": 'properties["plan"] = "team"'}, {"on": 'properties["plan"] = 1'}):
        with pytest.raises(ExpressionError) as error:
            await ws.segmentation("Order Paid", **JAN, **options)
        assert error.value.position == 20
    assert server.sent == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"unit": "day", "interval": 2}, {"unit": "hour"}, {"interval": 0},
        {"length": 91}, {"length": 5, "length_unit": "year"}, {"length_unit": "hour"},
    ],
)  # fmt: skip
async def test_invalid_combinations_of_funnel_options_raise(ws, server, arguments):
    """Before anything is sent."""
    with pytest.raises(ConfigError):
        await ws.funnel(77, **JAN, **arguments)
    for number in (0, -1, "x", None, True, 1.5):
        with pytest.raises(ConfigError, match="positive integer"):
            await ws.funnel(number, **JAN)
    assert server.sent == []


async def test_invalid_combinations_of_feed_options_raise(ws, server):
    """Before the data view is looked up."""
    for arguments in (
        {"events": ["a"], "exclude_events": ["b"]}, {"to_date": "2026-01-01"}, {"limit": 0},
        {"search": 5},
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            await ws.activity_feed("u-17", **arguments)
    with pytest.raises(ConfigError):
        await ws.activity_feed([])
    assert server.sent == []


async def test_an_unknown_event_raises_with_similar_names(ws, server):
    """If nothing was counted; a second query finds out, once in ten minutes."""
    server["segmentation"] = {"data": {"series": [], "values": {}}, "legend_size": 0}
    for _ in range(2):
        with pytest.raises(EventNotFoundError, match="did you mean Order Paid") as error:
            await ws.segmentation("order paid", **JAN)
    assert error.value.similar_events[0] == "Order Paid"
    assert len(server.queries) == 3


async def test_an_old_list_of_names_is_reloaded_before_an_event_is_called_unknown(ws, server):
    """The event may be new."""
    server["segmentation"] = {"data": {"series": [], "values": {}}, "legend_size": 0}
    now = [0.0]
    ws._core.discovery_cache._clock = lambda: now[0]
    await ws.list_events()
    now[0] = 61.0
    server["events/names"] = ["Order Paid", "Brand New"]
    assert (await ws.segmentation("Brand New", **JAN)).series == {}


async def test_a_known_event_without_occurrences_is_not_an_error(ws, server):
    """It is among the names, so its zeros are the result."""
    server["segmentation"] = series(Signed_Up={})
    result = await ws.segmentation("Signed Up", **JAN)
    assert result.total == 0


async def test_an_event_that_the_server_rejects_is_looked_up_too(ws, server):
    """The error of the server is the cause."""
    server["funnels"] = server["segmentation/sum"] = (400, {"error": "unknown event"})
    with pytest.raises(EventNotFoundError) as error:
        await ws.segmentation_sum("Nonsense", on="amount", **JAN)
    assert isinstance(error.value.__cause__, QueryError)


async def test_an_unknown_property_raises_with_similar_names(ws, server):
    """If no event has a value of it."""
    server["segmentation"] = series(undefined={"2026-01-01": 9})
    server["events/properties/top"] = {"plan": {"count": 1}, "amount": {"count": 1}}
    with pytest.raises(PropertyNotFoundError, match="did you mean plan") as error:
        await ws.segmentation("Order Paid", on="plam", **JAN)
    assert error.value.event_name == "Order Paid"
    result = await ws.segmentation("Order Paid", on="plan", **JAN)
    assert result.total == 9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("response", "kind", "about"),
    [
        ((401, {"error": "bad secret"}), APIError, "credentials"),
        ((402, "pay"), PlanError, "plan"),
        ((403, {"error": "not allowed"}), QueryError, "not allowed"),
        ((500, {"error": "broken"}), ServerError, "broken"),
        ((503, "<html>busy</html>"), ServerError, "HTML page"),
        ((200, "<html>login</html>"), ServerError, "HTML page"),
        ((200, "no json"), ServerError, "not JSON"),
        ({"error": "bookmark is broken"}, QueryError, "bookmark is broken"),
        ({"error": {"message": "x"}}, QueryError, "x"),
        ([], ServerError, "unexpected response"),
        ({}, ServerError, "unexpected response"),
        ({"data": {"series": ["2026-01-01"], "values": {"a": {"2026-01-01": "many"}}}},
         ServerError, "not a number"),
        ({"data": {"series": {}, "values": []}}, ServerError, "unexpected response"),
    ],
)  # fmt: skip
async def test_an_invalid_response_is_a_typed_error_and_costs_one_query(
    ws, server, response, kind, about
):
    """A query that may have counted is not repeated; no secret and no payload is shown."""
    server["segmentation"] = response
    with pytest.raises(kind, match=about) as error:
        await ws.segmentation("Order Paid", where='properties["mail"] == "ann@x.example"', **JAN)
    assert [each.path for each in server.queries].count("/api/query/segmentation") == 1
    shown = f"{error.value!r} {error.value.to_dict()}"
    assert "s3cr3t" not in shown
    assert "ann@x" not in shown


async def test_a_query_is_repeated_after_a_429(ws, server):
    """A 429 does not count."""
    server["segmentation"] = InTurn((429, {"error": "rate limit"}), series(a={"2026-01-01": 1}))
    limiter = ws.api.query_limiter
    slept = []

    async def sleep(seconds):
        slept.append(seconds)
        limiter._windows._paused_until = -math.inf

    limiter._sleep = sleep
    await ws.segmentation("Order Paid", **JAN)
    assert slept
    assert len(server.queries) == 2
    assert limiter.remaining() == 59


async def test_the_timezone_is_requested_once_and_may_be_unknown(ws, server):
    """A query does not need it."""
    server["/api/app/me"] = (403, {"error": "no"})
    server["segmentation"] = series(a={"2026-01-01": 1})
    for _ in range(2):
        assert (await ws.segmentation("Order Paid", **JAN)).timezone is None
    assert [each.path for each in server.sent].count("/api/app/me") == 1


async def test_a_closed_workspace_sends_no_query(server):
    """It does not use its cache either."""
    ws = server.workspace()
    await ws.aclose()
    with pytest.raises(Exception, match="closed"):
        await ws.segmentation("Order Paid", **JAN)
    with pytest.raises(Exception, match="closed"):
        await ws.list_events()
    assert server.sent == []
