"""The Query API of the emulator: our own client's live methods, and the documented answers."""

import json

import httpx
import pytest

from mixpanel.data import AsyncWorkspace, Credentials
from mixpanel.data.exceptions import QueryError
from mixpanel.emulator import Emulator, Limits

pytestmark = pytest.mark.anyio
NOW = 1_767_700_000  # 2026-01-06 11:46:40
DAY = 24 * 3600
START = 1_767_225_600  # 2026-01-01
DAYS = {"from_date": "2026-01-01", "to_date": "2026-01-04"}
AUTH = ("robot", "s3cret")
ROBOT = Credentials(username="robot", secret="s3cret", project_id="42")
FIRST = 'properties["amount"]'


def event(name, who, day, hour=0, **properties):
    at = START + day * DAY + hour * 3600
    fields = {"time": at, "distinct_id": who, "$insert_id": f"{name[:5]}-{who}-{day}-{hour}"}
    return {"event": name, "properties": {**fields, **properties}}


EVENTS = [
    event("Opened App", "u1", 0, 8),
    event("Order Paid", "u1", 0, 9, plan="team", amount=10),
    event("Opened App", "u1", 1, 9),
    event("Order Paid", "u1", 2, 9, plan="free", amount=35),
    event("Opened App", "u2", 0, 10),
    event("Opened App", "u2", 3, 10),
    event("Opened App", "u3", 1, 7),
    event("Order Paid", "u3", 3, 7, plan="team", amount=20.5),
    event("Order Paid", "u4", 2, 1, amount="much"),
]


@pytest.fixture
def anyio_backend():
    """One event loop is enough: the server is the same."""
    return "asyncio"


@pytest.fixture
def emu():
    """A project with nine events of four users."""
    with Emulator(now=lambda: NOW, service_accounts=dict([AUTH])) as emulator:
        url, sent = f"{emulator.url}/import", {"project_id": "42"}
        httpx.post(url, params=sent, json=EVENTS, auth=AUTH).raise_for_status()
        # A copy that arrived later replaces the first.
        httpx.post(url, params=sent, json=[EVENTS[1]], auth=AUTH).raise_for_status()
        yield emulator


@pytest.fixture
def http(emu):
    with httpx.Client(base_url=emu.url, auth=AUTH, params={"project_id": "42"}) as client:
        yield client


@pytest.fixture
async def ws(emu, tmp_path):
    """A workspace that has fetched the same events."""
    path = tmp_path / "local.db"
    async with AsyncWorkspace(path=path, credentials=ROBOT, base_url=emu.url) as workspace:
        await workspace.fetch_events(from_date="2026-01-01", to_date="2026-01-06")
        yield workspace


def get(http, path, **parameters):
    response = http.get(f"/api/query/{path}", params={"project_id": "42", **parameters})
    assert (200, "") == (response.status_code, "" if response.is_success else response.text)
    return response.json()


def post(http, path, body):
    return http.post(f"/api/query/{path}", json={"project_id": 42, **body}, params={})


# The same figures as local reports


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"on": "plan"},
        {"on": "plan", "limit": 2},
        {"type": "unique", "unit": "week"},
        {"type": "average", "where": 'properties["amount"] > 15'},
        {"unit": "hour"},
        {"unit": "month"},
    ],
)
async def test_segmentation_equals_the_local_report(ws, options):
    """With each type, unit and option."""
    live = await ws.segmentation("Order Paid", **DAYS, **options)
    local = ws.local.segmentation("Order Paid", **DAYS, **options)
    assert local.series == live.series
    assert (local.total, local.limit_hit) == (live.total, live.limit_hit)


@pytest.mark.slow
async def test_figures_of_numbers_equal_the_local_reports(ws):
    """Ranges, sums and averages."""
    for name in ("segmentation_sum", "segmentation_average"):
        live = await getattr(ws, name)("Order Paid", on="amount", **DAYS)
        local = getattr(ws.local, name)("Order Paid", on="amount", **DAYS)
        assert local == live
    live = await ws.segmentation_numeric("Order Paid", on="amount", **DAYS)
    assert (ws.local.segmentation_numeric("Order Paid", on="amount", **DAYS)) == live


@pytest.mark.slow
async def test_counts_equal_the_local_reports(ws):
    """Of several events, and of a property's values."""
    names = ["Order Paid", "Opened App"]
    live = await ws.event_counts(names, type="unique", **DAYS)
    assert (ws.local.event_counts(names, type="unique", **DAYS)) == live
    live = await ws.property_counts("Order Paid", "plan", **DAYS)
    assert (ws.local.property_counts("Order Paid", "plan", **DAYS)).series == live.series


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"unit": "week", "interval_count": 2},
        {"on": "plan", "interval_count": 3},
        {"unbounded": True},
        {"interval": 2, "interval_count": 2},
    ],
)
async def test_retention_equals_the_local_report(ws, options):
    """With units, intervals, segments and unbounded."""
    live = await ws.retention("Opened App", "Order Paid", **DAYS, **options)
    local = ws.local.retention("Opened App", "Order Paid", **DAYS, **options)
    assert (local.cohorts, local.segments) == (live.cohorts, live.segments)


@pytest.mark.slow
async def test_compounded_retention_equals_the_local_report(ws):
    """With one event."""
    options = {**DAYS, "retention_type": "compounded", "interval_count": 2}
    live = await ws.retention(None, "Opened App", **options)
    assert (ws.local.retention(None, "Opened App", **options)) == live


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"unit": "week", "addiction_unit": "day"}, {"on": "plan"}])
async def test_frequency_equals_the_local_report(ws, options):
    """In hours and days, and by segment."""
    live = await ws.frequency(**DAYS, **options)
    assert (ws.local.frequency(**DAYS, **options)) == live


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"on": "plan"}])
async def test_a_saved_funnel_equals_the_local_report(emu, ws, options):
    """By segment too; the window is the saved one."""
    funnel_id = emu.add_funnel("Checkout", ["Opened App", "Order Paid"], window=2)
    live = await ws.funnel(funnel_id, **DAYS, **options)
    steps = ["Opened App", "Order Paid"]
    local = ws.local.funnel(steps, window=2, **DAYS, **options)
    assert local.steps == live.steps
    assert local.segments == live.segments
    assert [3, 2] == [step.count for step in live.steps]


@pytest.mark.slow
async def test_a_funnel_by_week_equals_the_local_report(emu, ws):
    """Each week has its own best attempts."""
    funnel_id = emu.add_funnel("Checkout", ["Opened App", "Order Paid"], window=2)
    live = await ws.funnel(funnel_id, unit="day", **DAYS)
    local = ws.local.funnel(["Opened App", "Order Paid"], window=2, unit="day", **DAYS)
    assert local.dates.keys() == live.dates.keys()
    assert [[s.count for s in each] for each in local.dates.values()] == [
        [s.count for s in each] for each in live.dates.values()
    ]


# What is documented, literally


def test_segmentation_has_the_documented_shape(http):
    """At both paths, and with a slash at the end."""
    expected = {
        "data": {
            "series": ["2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04"],
            "values": {
                "Order Paid": {
                    "2026-01-01": 1,
                    "2026-01-02": 0,
                    "2026-01-03": 2,
                    "2026-01-04": 1,
                }
            },
        },
        "legend_size": 1,
    }
    for path in ("/api/query/segmentation", "/api/query/segmentation/", "/api/2.0/segmentation"):
        sent = {"project_id": "42", "event": "Order Paid", **DAYS}
        assert expected == http.get(path, params=sent).json()


def test_segments_are_text_and_limited(http):
    """With `undefined` for events without the property; the legend has one more if cut off."""
    sent = {"event": "Order Paid", **DAYS, "on": 'properties["plan"]', "limit": 2, "unit": "month"}
    answer = get(http, "segmentation", **sent)
    assert {"team": {"2026-01-01": 2}, "free": {"2026-01-01": 1}} == answer["data"]["values"]
    assert 3 == answer["legend_size"]


def test_sums_and_averages_have_the_documented_shape(http):
    """What is not a number counts as 0."""
    sent = {"event": "Order Paid", "from_date": "2026-01-03", "to_date": "2026-01-03", "on": FIRST}
    summed = get(http, "segmentation/sum", **sent)
    at = "2026-01-06T11:46:40+00:00"
    assert {"status": "ok", "computed_at": at, "results": {"2026-01-03": 35}} == summed
    average = get(http, "segmentation/average", **sent)
    assert {"status": "ok", "results": {"2026-01-03": 17.5}} == average


def test_counts_may_be_csv(http):
    """With `format=csv`."""
    sent = {"project_id": "42", "event": "Order Paid", **DAYS, "unit": "month", "format": "csv"}
    response = http.get("/api/query/segmentation", params=sent)
    assert "segment,2026-01-01\nOrder Paid,4\n" == response.text
    assert "text/csv; charset=utf-8" == response.headers["content-type"]


@pytest.mark.slow
def test_discovery_has_the_documented_shapes(http):
    """Names, properties, values; the most frequent first."""
    assert ["Opened App", "Order Paid"] == get(http, "events/names", type="general")
    top = get(http, "events/properties/top", event="Order Paid")
    assert {"amount": {"count": 5}, "plan": {"count": 4}} == top
    sent = {"event": "Order Paid", "name": "plan"}
    assert ["team", "free"] == get(http, "events/properties/values", **sent)
    names = json.dumps(["Order Paid", "Unknown"])
    counts = get(http, "events", event=names, type="general", unit="month", **DAYS)
    expected = {"Order Paid": {"2026-01-01": 4}, "Unknown": {"2026-01-01": 0}}
    assert expected == counts["data"]["values"]
    definitions = get(http, "data_definitions/events", fetch_per_event_properties="true")
    assert {
        "results": [
            {"name": "Opened App", "properties": []},
            {"name": "Order Paid", "properties": [{"name": "amount"}, {"name": "plan"}]},
        ]
    } == definitions


def test_todays_events_are_compared_with_yesterdays(emu, http):
    """As a share of yesterday's count."""
    today = [event("Opened App", "u9", 5, hour) for hour in (1, 2, 3)]
    sent = [*today, event("Opened App", "u9", 4), event("Opened App", "u8", 4)]
    http.post("/import", json=sent).raise_for_status()
    row = {"event": "Opened App", "amount": 3, "percent_change": 0.5}
    assert {"type": "general", "events": [row]} == get(http, "events/top", type="general")


@pytest.mark.slow
def test_a_funnel_has_the_documented_shape(emu, http):
    """Of one interval, with an analysis."""
    funnel_id = emu.add_funnel("Checkout", ["Opened App", "Order Paid"], id=77)
    assert [{"funnel_id": 77, "name": "Checkout"}] == get(http, "funnels/list")
    answer = get(http, "funnels", funnel_id=funnel_id, interval=4, **DAYS)
    first = {"count": 3, "goal": "Opened App", "event": "Opened App", "step_conv_ratio": 1}
    second = {"count": 2, "goal": "Order Paid", "event": "Order Paid", "step_conv_ratio": 2 / 3}
    times = {"avg_time": 88_200, "avg_time_from_start": 88_200}
    steps = [
        {**first, "overall_conv_ratio": 1, "avg_time": None, "avg_time_from_start": None},
        {**second, "overall_conv_ratio": 2 / 3, **times},
    ]
    analysis = {"completion": 2, "starting_amount": 3, "steps": 2, "worst": 1}
    expected = {"2026-01-01": {"steps": steps, "analysis": analysis}}
    assert {"meta": {"dates": ["2026-01-01"]}, "data": expected} == answer
    days = get(http, "funnels", funnel_id=funnel_id, **DAYS)["meta"]["dates"]
    assert ["2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04"] == days


def test_retention_has_the_documented_shape(http):
    """By date at the top level, with one interval more than `interval_count`."""
    sent = {"born_event": "Opened App", "event": "Order Paid", "interval_count": 2, **DAYS}
    answer = get(http, "retention", **sent)
    assert {"first": 2, "counts": [1, 0, 1]} == answer["2026-01-01"]
    assert list(answer) == sorted(answer)
    sent = {"unit": "week", "addiction_unit": "day", **DAYS}
    addiction = get(http, "retention/addiction", **sent)["data"]
    assert [4, 3, 1, 0, 0, 0, 0] == addiction["2025-12-29"]


def test_cohorts_are_listed_and_filter_profiles(emu, http):
    """Also by `engage/stats`."""
    for who, age in (("u1", 20), ("u2", 40)):
        update = {"$token": "T", "$distinct_id": who, "$set": {"age": age}}
        http.post("/engage", json=[update]).raise_for_status()
    emu.add_cohort("Power users", ["u1"], id=5)
    row = {"id": 5, "name": "Power users", "count": 1, "description": "", "is_visible": 1}
    listed = http.post("/api/query/cohorts/list", params={"project_id": "42"}).json()
    assert [{**row, "created": "2026-01-06 11:46:40", "project_id": 42}] == listed
    for action, expected in {
        "count()": 2,
        'extremes(properties["age"])': {"min": 20, "max": 40},
        'percentile(properties["age"], 50)': {"percentile": 50, "result": 30},
    }.items():
        sent = {"project_id": "42", "action": action}
        answer = http.post("/api/query/engage/stats", data=sent, params={"project_id": "42"})
        assert expected == answer.json()["results"]
    sent = {"action": "count()", "segment_by_cohorts": '{"5":true}'}
    answer = http.post("/api/query/engage/stats", data=sent, params={"project_id": "42"})
    assert {"5": 1} == answer.json()["results"]


def test_jql_is_gone(http):
    """With a text that says what to use instead."""
    response = http.post("/api/query/jql", params={"project_id": "42"}, data={"script": "x"})
    assert 410 == response.status_code
    assert "POST /api/query/insights" in response.json()["error"]


@pytest.mark.slow
async def test_the_activity_feed_is_read_page_by_page(ws, emu):
    """Backwards, each event once; the old endpoint has the same events."""
    feed = await ws.activity_feed(["u1"], from_date="2026-01-01", to_date="2026-01-04", limit=3)
    assert ["Order Paid", "Opened App", "Order Paid"] == [each.event for each in feed.events]
    body = {
        "workspace_id": 77, "distinct_ids": ["u1"], "limit": 3,
        "bookmark": {"dateRange": {"type": "between", "from": "2026-01-01", "to": "2026-01-04"}},
    }  # fmt: skip
    with httpx.Client(base_url=emu.url, auth=AUTH) as http:
        first = post(http, "stream/bookmark", body).json()["results"]
        cursor = first["sentinel_event"]
        second = post(http, "stream/bookmark", {**body, "sentinel_event": cursor}).json()["results"]
        old = get(http, "stream/query", distinct_ids='["u1"]', **DAYS)["results"]["events"]
    assert old == second["events"] + first["events"]
    assert second["sentinel_event"] is None


# Errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "parameters", "status", "message"),
    [
        ("segmentation", {}, 400, "event is required"),
        ("segmentation", {"event": "E", "from_date": "soon"}, 400, "from_date must be a date"),
        ("segmentation", {"event": "E", "unit": "year"}, 400, "unit must be one of minute, hour"),
        ("segmentation", {"event": "E", "limit": 0}, 400, "limit must be between 1 and 10000"),
        ("segmentation", {"event": "E", "where": "1 +"}, 400, "at character"),
        ("segmentation", {"event": "E", "type": "unique", "unit": "hour"}, 400, "unique users"),
        ("events", {"event": "not JSON"}, 400, "event is not valid JSON"),
        ("funnels", {"funnel_id": 9}, 404, "nothing with the id 9"),
        ("retention", {}, 400, "born_event is required"),
        ("retention", {"born_event": "E", "unit": "day", "interval": 2}, 400, "exclude each other"),
        ("insights", {"bookmark_id": 9}, 404, "nothing with the id 9"),
        ("nonsense", {}, 404, "there is no endpoint"),
        ("stream/bookmark", {}, 405, "Method Not Allowed"),
    ],
)
def test_wrong_queries_are_refused(http, path, parameters, status, message):
    """With the documented body, and what is wrong."""
    sent = {"project_id": "42", **DAYS, **parameters}
    response = http.get(f"/api/query/{path}", params=sent)
    assert status == response.status_code
    assert {"error", "status"} == response.json().keys()
    assert message in response.json()["error"]


def test_dates_may_not_be_reversed(http):
    """Nor before the year 2000."""
    for first, last in (("2026-01-02", "2026-01-01"), ("1999-12-31", "2026-01-01")):
        sent = {"project_id": "42", "event": "E", "from_date": first, "to_date": last}
        assert 400 == http.get("/api/query/segmentation", params=sent).status_code


def test_credentials_are_checked(emu, http):
    """Of the account, and that there is a project."""
    sent = {"project_id": "42"}
    wrong = httpx.get(f"{emu.url}/api/query/events/names", params=sent, auth=("robot", "no"))
    assert 401 == wrong.status_code
    assert 401 == httpx.get(f"{emu.url}/api/query/events/names", auth=AUTH).status_code


def test_plans_restrict_queries(emu, http):
    """402 without the Query API, 403 for a range that is too long ago."""
    sent = {"project_id": "42", "event": "E", **DAYS}
    emu.restrict_queries(has_query_api=False)
    assert 402 == http.get("/api/query/segmentation", params=sent).status_code
    emu.restrict_queries(history_days=3)
    response = http.get("/api/query/segmentation", params=sent)
    expected = {"error": "Date range exceeds 3 days into the past", "status": "error"}
    assert (403, expected) == (response.status_code, response.json())
    emu.restrict_queries()
    assert 200 == http.get("/api/query/segmentation", params=sent).status_code


@pytest.mark.slow
async def test_insights_may_report_errors_with_200(emu, ws):
    """On a switch; the client raises all the same."""
    emu.restrict_queries(errors_as_200=True)
    with pytest.raises(QueryError, match="is not computed by the emulator") as raised:
        await ws.query_bookmark(
            {
                "sections": {
                    "show": [
                        {
                            "type": "metric",
                            "behavior": {"type": "event", "name": "Order Paid"},
                            "measurement": {"math": "most_frequent"},
                        }
                    ]
                }
            }
        )
    assert 200 == raised.value.status_code


# Budgets


@pytest.fixture
def limited():
    """A project with three queries an hour."""
    with (
        Emulator(now=lambda: NOW, query_limits=Limits(per_hour=3, concurrent=5)) as emulator,
        httpx.Client(base_url=emulator.url, auth=AUTH) as http,
    ):
        yield http


def test_queries_state_their_limits(limited):
    """With what is left."""
    response = limited.get("/api/query/events/names", params={"project_id": "42"})
    policy = '"project";q=3;w=3600, "project-concurrency";q=5;qu="concurrent-requests"'
    assert policy == response.headers["ratelimit-policy"]
    assert '"project";r=2' == response.headers["ratelimit"]


def test_calls_are_counted_as_mixpanel_counts(limited):
    """Refusals and later pages of profiles are free; failed queries are not."""
    sent = {"project_id": "42"}

    def left(response):
        return response.headers["ratelimit"].rpartition("=")[2]

    assert "3" == left(limited.get("/api/query/events/names", params=sent, auth=("", "")))  # 401
    assert "3" == left(limited.get("/api/query/events/names"))  # of no project
    first = limited.post("/api/query/engage/", params=sent)
    assert "2" == left(first)
    page = {"session_id": first.json()["session_id"], "page": 1}
    assert "2" == left(limited.post("/api/query/engage/", params=sent, data=page))
    failed = limited.get("/api/query/segmentation", params=sent)
    assert (400, "1") == (failed.status_code, left(failed))
    assert "0" == left(limited.post("/api/2.0/cohorts/list", json={"project_id": 42}))
    refused = limited.get("/api/query/events/names", params=sent)
    assert (429, "0") == (refused.status_code, left(refused))
    assert "3600" == refused.headers["retry-after"]
