"""Inline queries: the bookmarks that are sent, and the results of their responses."""

import pytest

from mixpanel.data._queries import bookmarks
from mixpanel.data._queries.bookmarks import time_range
from mixpanel.data.exceptions import ConfigError, EventNotFoundError, ExpressionError, QueryError
from mixpanel.data.expressions import prop, user_prop
from mixpanel.data.inline_queries import Breakdown, Exclusion, Formula, Metric, Step
from mixpanel.data.query_results import FlowsResult, FunnelResult, InsightsResult, RetentionResult
from tests.data.queries.test_live import FLOWS

pytestmark = pytest.mark.anyio
JAN = {"from_date": "2026-01-01", "to_date": "2026-01-31"}
RANGE = time_range("2026-01-01", "2026-01-31", None)
PLAIN = {"type": "event", "resourceType": "events", "filtersDeterminer": "all", "filters": []}
PLAN = {
    "resourceType": "events", "filterType": "string", "defaultType": "string",
    "filterOperator": "equals", "filterValue": ["team"], "value": "plan",
}  # fmt: skip


@pytest.fixture
def anyio_backend():
    return "asyncio"


def insights(series, **more):
    return {
        "computed_at": "2026-01-05T08:00:01.5",
        "date_range": {
            "from_date": "2026-01-01T00:00:00-08:00",
            "to_date": "2026-01-02T23:59:59.999000-08:00",
        },
        "headers": ["$metric"],
        "meta": {"is_segmentation_limit_hit": False, "min_sampling_factor": 1},
        "series": series,
        **more,
    }


# ---- what is sent -------------------------------------------------------------------------------


async def test_the_name_of_an_event_makes_a_report(ws, server):
    """The project is in the body and not in the URL; a limit is always sent."""
    server["insights"] = insights({"Order Paid [Total Events]": {"2026-01-01T00:00:00-08:00": 31}})
    await ws.query("Order Paid", **JAN)
    assert server.last.query == {}
    assert server.last.json == {
        "project_id": 4242,
        "queryLimits": {"limit": 3000},
        "bookmark": {
            "sections": {
                "show": [
                    {
                        "type": "metric",
                        "behavior": PLAIN | {"name": "Order Paid"},
                        "measurement": {"math": "total"},
                    }
                ],
                "time": [
                    {
                        "dateRangeType": "between",
                        "unit": "day",
                        "value": ["2026-01-01", "2026-01-31"],
                    }
                ],
                "filter": [],
                "group": [],
            },
            "displayOptions": {"chartType": "line", "analysis": "linear"},
        },
    }
    assert len(server.queries) == 1


def test_filters_groups_and_relative_dates_are_sent_as_in_bookmarks():
    """With the exact field names."""
    report = bookmarks.insights(
        Metric("Order Paid", "average", property=prop("amount"), per_user="total"),
        time_range(None, None, 7),
        where=(prop("plan") == "team") & (user_prop("age") > 30),
        by=["plan", Breakdown("amount", type="number", bucket_size=50, least=0, most=500)],
        chart="bar",
        rolling=7,
    )
    sections = report["sections"]
    assert sections["show"][0]["measurement"] == {
        "math": "average",
        "property": {"name": "amount", "resourceType": "events"},
        "perUserAggregation": "total",
    }
    assert sections["time"] == [
        {"dateRangeType": "in the last", "unit": "day", "window": {"unit": "day", "value": 7}}
    ]
    assert sections["filter"][0] == PLAN
    assert sections["filter"][1]["resourceType"] == "people"
    assert sections["group"] == [
        {
            "value": "plan", "propertyName": "plan", "resourceType": "events",
            "propertyType": "string", "propertyDefaultType": "string",
        },
        {
            "value": "amount", "propertyName": "amount", "resourceType": "events",
            "propertyType": "number", "propertyDefaultType": "number",
            "customBucket": {"bucketSize": 50, "min": 0, "max": 500},
        },
    ]  # fmt: skip
    assert report["displayOptions"] == {
        "chartType": "bar", "analysis": "rolling", "rollingWindowSize": 7,
    }  # fmt: skip


def test_metrics_that_a_formula_uses_are_hidden():
    """Other metrics stay visible."""
    report = bookmarks.insights(
        ["Order Paid", Metric("Opened App", "unique"), "Signed Up"], RANGE, formula="(A / B) * 100"
    )
    show = report["sections"]["show"]
    assert [each.get("isHidden", False) for each in show] == [True, True, False, False]
    assert show[3] == {
        "type": "formula", "definition": "(A / B) * 100",
        "measurement": {}, "referencedMetrics": [],
    }  # fmt: skip
    named = bookmarks.insights(["a", Formula("A * 2", label="Twice")], RANGE)
    assert named["sections"]["show"][1]["name"] == "Twice"


def test_a_metric_may_have_its_own_condition():
    """Its filters are combined by all or by any."""
    metric = Metric(
        "Order Paid",
        where=(prop("plan") == "team") | (prop("amount") > 5),
        label="Big",
        hidden=True,
    )
    [shown] = bookmarks.insights(metric, RANGE)["sections"]["show"]
    assert shown["behavior"]["filtersDeterminer"] == "any"
    assert len(shown["behavior"]["filters"]) == 2
    assert shown["behavior"]["renamed"] == "Big"
    assert shown["isHidden"]


def test_a_funnel_is_sent_as_a_behavior():
    """With its steps, window, exclusions and properties held constant."""
    report = bookmarks.funnel(
        ["Opened App", Step("Order Paid", where=prop("plan") == "team", label="Paid")],
        RANGE,
        window=7,
        exclude=["Refund", Exclusion("Cancel", 1, 2)],
        hold_constant="order_id",
        where=prop("plan") == "team",
        by="plan",
    )
    [shown] = report["sections"]["show"]
    behavior = shown["behavior"]
    assert (behavior["type"], behavior["conversionWindowDuration"]) == ("funnel", 7)
    assert behavior["behaviors"][0] == PLAIN | {
        "id": None, "name": "Opened App", "funnelOrder": "loose",
    }  # fmt: skip
    assert behavior["behaviors"][1]["filters"] == [PLAN]
    assert behavior["exclusions"] == [
        {"event": "Refund", "steps": {"from": 1, "to": 2}},
        {"event": "Cancel", "steps": {"from": 1, "to": 2}},
    ]
    assert behavior["aggregateBy"] == [{"value": "order_id", "resourceType": "events"}]
    assert shown["measurement"] == {
        "math": "conversion_rate_unique", "property": None, "stepIndex": None,
    }  # fmt: skip
    assert report["sections"]["filter"] == [PLAN]
    assert report["sections"]["formula"] == []
    assert report["displayOptions"]["chartType"] == "funnel-steps"


def test_retention_is_sent_as_a_behavior():
    """Of two events."""
    report = bookmarks.retention(
        "Opened App", "Order Paid", RANGE, unit="week", buckets=[1, 3, 7], unbounded="carry_back"
    )
    behavior = report["sections"]["show"][0]["behavior"]
    assert behavior["type"] == "retention"
    assert [each["name"] for each in behavior["behaviors"]] == ["Opened App", "Order Paid"]
    assert (behavior["retentionUnit"], behavior["retentionCustomBucketSizes"]) == (
        "week",
        [1, 3, 7],
    )
    assert behavior["retentionUnboundedMode"] == "carry_back"
    assert report["displayOptions"]["chartType"] == "retention-curve"


def test_a_flow_is_sent_as_one_flat_object():
    """The first step looks back, the last one forward; filters of steps have their own form."""
    flow = bookmarks.flow(
        ["Opened App", Step("Order Paid", where=prop("amount") > 5)],
        time_range(None, None, 30),
        forward=3, reverse=1, where=prop("plan") == "team", hidden_events="Ping",
    )  # fmt: skip
    first, second = flow["steps"]
    assert (first["forward"], first["reverse"]) == (0, 1)
    assert (second["forward"], second["reverse"]) == (3, 0)
    assert second["property_filter_params_list"] == [
        {
            "property": {"name": "amount", "source": "properties", "type": "number"},
            "type": "number",
            "selected_property_type": "number",
            "filter": {"operator": ">", "operand": "5"},
        }
    ]
    assert flow["date_range"] == {
        "type": "in the last", "from_date": {"unit": "day", "value": 30}, "to_date": "$now",
    }  # fmt: skip
    [child] = flow["filter_by_event"]["children"]
    assert child == {"propertyName": "plan"} | {k: v for k, v in PLAN.items() if k != "value"}
    assert flow["hidden_events"] == ["Ping"]
    assert "sections" not in flow
    with pytest.raises(ExpressionError, match="starts with"):
        bookmarks.flow(Step("a", where=prop("x").starts_with("y")), RANGE)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: bookmarks.insights([], RANGE),
        lambda: bookmarks.insights([5], RANGE),
        lambda: bookmarks.insights(["a"] * 27, RANGE),
        lambda: bookmarks.insights("a", RANGE, formula="A / B"),
        lambda: bookmarks.insights("a", RANGE, formula="1 + 1"),
        lambda: bookmarks.insights("a", RANGE, unit="minute"),
        lambda: bookmarks.insights("a", RANGE, chart="pie"),
        lambda: bookmarks.insights("a", RANGE, rolling=7, cumulative=True),
        lambda: bookmarks.insights("a", RANGE, by=prop("a") + 1),
        lambda: bookmarks.insights("a", RANGE, where=(prop("a") == 1) | (prop("b") == 2)),
        lambda: Metric("a", "average"),
        lambda: Metric("a", "nonsense"),
        lambda: Metric("a", "dau", per_user="total"),
        lambda: Metric("a", "custom_percentile", property="x"),
        lambda: Metric("a", "custom_percentile", property="x", percentile=100),
        lambda: Metric("a", percentile=5),
        lambda: Metric(""),
        lambda: Breakdown("a", bucket_size=5),
        lambda: Breakdown("a", type="number", bucket_size=0),
        lambda: Step(None),
        lambda: bookmarks.funnel(["a"], RANGE),
        lambda: bookmarks.funnel(["a"] * 101, RANGE),
        lambda: bookmarks.funnel(["a", 5], RANGE),
        lambda: bookmarks.funnel(["a", "b"], RANGE, window=368),
        lambda: bookmarks.funnel(["a", "b"], RANGE, window=1, window_unit="second"),
        lambda: bookmarks.funnel(["a", "b"], RANGE, window_unit="year"),
        lambda: bookmarks.funnel(["a", "b"], RANGE, hold_constant=list("abcd")),
        lambda: bookmarks.funnel(["a", "b"], RANGE, exclude=[Exclusion("c", 2, 2)]),
        lambda: bookmarks.retention("a", "b", RANGE, unit="hour"),
        lambda: bookmarks.retention("a", "b", RANGE, buckets=[3, 1]),
        lambda: bookmarks.retention("a", "b", RANGE, unbounded="always"),
        lambda: bookmarks.flow([], RANGE),
        lambda: bookmarks.flow("a", RANGE, forward=6),
        lambda: bookmarks.flow("a", RANGE, forward=0),
        lambda: bookmarks.flow("a", RANGE, cardinality=51),
        lambda: time_range("2026-01-01", None, None),
        lambda: time_range("2026-01-01", "2026-01-02", 5),
        lambda: time_range(None, None, 0),
        lambda: time_range(None, None, 5, "year"),
        lambda: bookmarks.kind_of([]),
        lambda: bookmarks.kind_of({}),
        lambda: bookmarks.kind_of({"sections": {"show": []}}),
        lambda: bookmarks.kind_of({"sections": 5}),
    ],
)
def test_impossible_reports_raise_config_error(make):
    """When they are built, before anything is sent."""
    with pytest.raises(ConfigError):
        make()


# ---- what comes back ----------------------------------------------------------------------------


async def test_overall_is_not_among_the_rows_of_groups(ws, server):
    """Rows can be added up; `overall()` returns the totals of the server."""
    dates = {"2026-01-02T00:00:00-08:00": 9, "2026-01-01T00:00:00-08:00": 31}
    team = {"2026-01-01T00:00:00-08:00": 20}
    server["insights"] = insights(
        {"Order Paid": {"$overall": dates, "team": team}}, headers=["$metric", "plan"]
    )
    result = await ws.query("Order Paid", by="plan", **JAN)
    assert isinstance(result, InsightsResult)
    assert result.overall() == {"Order Paid": {"2026-01-01": 31, "2026-01-02": 9}}
    assert result.to_table_dict() == [
        {"metric": "Order Paid", "plan": "team", "date": "2026-01-01", "value": 20}
    ]
    assert (result.from_date, result.to_date) == ("2026-01-01", "2026-01-02")
    assert (result.unit, result.timezone) == ("day", "Europe/Oslo")
    assert result.computed_at.isoformat() == "2026-01-05T08:00:01.500000+00:00"


async def test_a_result_has_the_sampling_factor_and_limit_of_the_response(ws, server):
    """As `sampling_factor` and `limit_hit`."""
    meta = {"is_segmentation_limit_hit": True, "min_sampling_factor": 0.1}
    server["insights"] = insights({"a": {"all": 5}}, meta=meta)
    result = await ws.query("Order Paid", chart="bar", last=7)
    assert result.limit_hit
    assert result.sampling_factor == 0.1
    assert result.unit is None
    assert result.to_table_dict() == [{"metric": "a", "date": "all", "value": 5}]


FIGURES = {
    "count": {"1. Opened App": {"all": 200}, "2. Order Paid": {"all": 50}},
    "step_conv_ratio": {}, "overall_conv_ratio": {},
    "avg_time": {"2. Order Paid": {"all": 640.5}},
    "avg_time_from_start": {"2. Order Paid": {"all": 640.5}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("below", "counts", "segments", "dates"),
    [
        (FIGURES, [200, 50], {}, []),
        ({"$overall": FIGURES, "team": FIGURES}, [200, 50], {"team"}, []),
        ({"2026-01-01T00:00:00": FIGURES, "2026-01-02T00:00:00": FIGURES}, [400, 100], {},
         ["2026-01-01", "2026-01-02"]),
    ],
)  # fmt: skip
async def test_inline_funnels_are_read_in_every_nesting(ws, server, below, counts, segments, dates):
    """Plain, by group, and by date."""
    server["insights"] = insights({"Opened App → Order Paid": below})
    result = await ws.query_funnel(["Opened App", "Order Paid"], window=7, **JAN)
    assert isinstance(result, FunnelResult)
    assert [step.count for step in result.steps] == counts
    assert result.steps[1].avg_time == 640.5
    assert result.conversion_rate == 0.25
    assert result.segments.keys() == set(segments)
    assert list(result.dates) == dates
    assert (result.window, result.window_unit) == (7, "day")


COHORT = {"first": 120, "counts": [80, 41], "rates": [0.66, 0.34]}


@pytest.mark.parametrize("grouped", [False, True])
async def test_inline_retention_is_read_in_every_nesting(ws, server, grouped):
    """The average that the server adds is not a cohort."""
    dates = {"2026-01-01T00:00:00+00:00": COHORT, "$average": COHORT}
    below = {"$overall": dates, "iOS": dates} if grouped else dates
    server["insights"] = insights({"A and then B": below}, headers=["$retention"])
    result = await ws.query_retention("Opened App", Step("Order Paid"), unit="week", **JAN)
    assert isinstance(result, RetentionResult)
    assert [(each.date, each.size) for each in result.cohorts] == [("2026-01-01", 120)]
    assert result.segments.keys() == ({"iOS"} if grouped else set())
    assert (result.unit, result.born_event, result.return_event) == (
        "week", "Opened App", "Order Paid",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "query_type"),
    [("sankey", "flows_sankey"), ("paths", "flows_top_paths"), ("tree", "flows")],
)
async def test_an_inline_flow_has_its_own_endpoint(ws, server, mode, query_type):
    """With a query type for each mode."""
    server["arb_funnels"] = FLOWS
    result = await ws.query_flow("Opened App", mode=mode, **JAN)
    assert isinstance(result, FlowsResult)
    assert server.last.json["query_type"] == query_type
    assert server.last.json["project_id"] == 4242
    assert (result.event, result.from_date) == ("Opened App", "2026-01-01")
    with pytest.raises(ConfigError, match="choose sankey"):
        await ws.query_flow("Opened App", mode="pie")


async def test_query_bookmark_sends_parameters_unchanged(ws, server):
    """The response is read as the kind of report that they describe."""
    server["insights"] = insights({"a → b": FIGURES})
    funnel = bookmarks.funnel(["a", "b"], RANGE) | {"future": True}
    result = await ws.query_bookmark(funnel)
    assert isinstance(result, FunnelResult)
    assert server.last.json["bookmark"] == funnel
    server["insights"] = insights({"a": {"2026-01-01": COHORT}})
    result = await ws.query_bookmark(bookmarks.retention("a", "b", RANGE, unit="month"))
    assert isinstance(result, RetentionResult)
    assert result.unit == "month"
    server["insights"] = insights({"a": {"2026-01-01": 5}})
    result = await ws.query_bookmark(bookmarks.insights("a", RANGE, unit="week"))
    assert isinstance(result, InsightsResult)
    assert result.unit == "week"
    server["arb_funnels"] = FLOWS
    assert isinstance(await ws.query_bookmark(bookmarks.flow("a", RANGE)), FlowsResult)
    with pytest.raises(ConfigError, match="flows only"):
        await ws.query_bookmark(funnel, query_type="flows")


async def test_an_unknown_event_in_an_inline_report_raises(ws, server):
    """Whether the response is empty or an error with status 200."""
    server["insights"] = insights({"Nonsense": {}})
    with pytest.raises(EventNotFoundError):
        await ws.query("Nonsense", **JAN)
    server["insights"] = {"error": "Query limit exceeds max limit of 50000 (90000 was given)"}
    with pytest.raises(QueryError, match="exceeds max limit") as error:
        await ws.query("Order Paid", **JAN)
    assert error.value.status_code == 200


async def test_errors_contain_no_values_of_filters(ws, server):
    """Even if the server repeats them, as filters may contain personal data."""
    server["insights"] = (400, {"error": "cannot compare with ann@x.example"})
    with pytest.raises(QueryError, match="cannot compare with") as error:
        await ws.query("Order Paid", where=prop("mail") == "ann@x.example", **JAN)
    assert "ann@x" not in f"{error.value!r} {error.value.to_dict()}"
    server["insights"] = {"error": "cannot compare with ann@x.example"}
    with pytest.raises(QueryError, match="cannot compare with") as error:
        await ws.query("Order Paid", where=prop("mail") == "ann@x.example", **JAN)
    assert "ann@x" not in f"{error.value!r} {error.value.to_dict()}"


@pytest.mark.parametrize("limit", [0, 50_001, None, True])
async def test_an_invalid_limit_raises_before_a_query_is_sent(ws, server, limit):
    """The server would count the query."""
    if limit is not None:
        with pytest.raises(ConfigError, match="between 1 and 50,000"):
            await ws.query("Order Paid", limit=limit, **JAN)
    assert server.sent == []
