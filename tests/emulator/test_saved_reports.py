"""Inline and saved reports of the emulator, and the app API's objects."""

import httpx
import pytest

from mixpanel.data import AsyncWorkspace
from mixpanel.data.expressions import prop
from mixpanel.data.inline_queries import Breakdown, Metric
from mixpanel.emulator import Emulator
from tests.emulator.test_query_api import AUTH, DAYS, EVENTS, NOW, ROBOT

pytestmark = pytest.mark.anyio
APP = "/api/app/projects/42"


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
        yield emulator


@pytest.fixture
def http(emu):
    with httpx.Client(base_url=emu.url, auth=AUTH) as client:
        yield client


@pytest.fixture
async def ws(emu, tmp_path):
    """A workspace that has fetched the same events."""
    path = tmp_path / "local.db"
    async with AsyncWorkspace(path=path, credentials=ROBOT, base_url=emu.url) as workspace:
        await workspace.fetch_events(from_date="2026-01-01", to_date="2026-01-06")
        yield workspace


def results(response):
    assert response.is_success, response.text
    return response.json()["results"]


# Inline reports


@pytest.mark.slow
async def test_an_inline_total_equals_segmentation(ws):
    """By date, and with a group, whose `$overall` stands apart."""
    local = ws.local.segmentation("Order Paid", on="plan", **DAYS)
    live = await ws.query("Order Paid", by="plan", **DAYS)
    (found,) = live.series.values()
    overall = ws.local.segmentation("Order Paid", **DAYS).series["Order Paid"]
    assert {"$overall": overall, **local.series} == found
    assert ("$metric", "plan") == live.headers


@pytest.mark.slow
async def test_inline_figures_are_filtered_and_grouped_twice(ws):
    """Each level has its own `$overall`; a bar chart has one number."""
    live = await ws.query(
        Metric("Order Paid", where=prop("amount") > 5),
        by=["plan", Breakdown("amount", type="number", bucket_size=20)],
        chart="bar",
        **DAYS,
    )
    (found,) = live.series.values()
    assert {"all": 3} == found["$overall"]
    team = {"$overall": {"all": 2}, "0 - 20": {"all": 1}, "20 - 40": {"all": 1}}
    assert team == found["team"]


@pytest.mark.slow
async def test_inline_figures_of_numbers_and_formulas(ws):
    """An average, the maximum of each user's sum, and a rate of two metrics."""
    average = await ws.query(
        Metric("Order Paid", math="average", property="amount"), chart="bar", **DAYS
    )
    assert {"Order Paid [Average of amount]": {"all": 65.5 / 3}} == average.series
    most = Metric("Order Paid", math="max", property="amount", per_user="total")
    assert [{"all": 45}] == list((await ws.query(most, chart="bar", **DAYS)).series.values())
    users = [Metric("Order Paid", math="unique"), Metric("Opened App", math="unique")]
    rate = await ws.query(users, formula="(A / B) * 100", chart="bar", **DAYS)
    assert {"(A / B) * 100": {"all": 100}} == rate.series


@pytest.mark.slow
async def test_an_inline_funnel_equals_the_local_report(ws):
    """By segment too."""
    steps = ["Opened App", "Order Paid"]
    live = await ws.query_funnel(steps, window=2, by="plan", **DAYS)
    local = ws.local.funnel(steps, window=2, on="plan", **DAYS)
    assert local.steps == live.steps
    assert local.segments == live.segments


@pytest.mark.slow
async def test_inline_retention_equals_the_local_report(ws):
    """For the intervals that it has."""
    live = await ws.query_retention("Opened App", "Order Paid", **DAYS)
    local = ws.local.retention("Opened App", "Order Paid", interval_count=3, **DAYS)
    assert local.cohorts == live.cohorts


@pytest.mark.slow
async def test_inline_flows_equal_the_local_report(ws):
    """Node by node, edge by edge."""
    live = await ws.query_flow("Opened App", forward=2, cardinality=5, **DAYS)
    local = ws.local.flows("Opened App", forward=2, events_per_step=5, **DAYS)
    assert local.steps == live.steps
    assert local.paths == live.paths


async def test_a_cohort_filters_inline_reports(emu, http):
    """By its members."""
    emu.add_cohort("Power users", ["u1"], id=5)
    cohort = {"cohort": {"id": 5, "name": "Power users", "negated": False}}
    condition = {
        "value": "$cohorts", "filterType": "list", "filterOperator": "contains",
        "filterValue": [cohort], "resourceType": "events",
    }  # fmt: skip
    metric = {
        "type": "metric",
        "behavior": {"type": "event", "name": "Order Paid", "filters": []},
        "measurement": {"math": "total"},
    }
    time = {"dateRangeType": "between", "unit": "day", "value": ["2026-01-01", "2026-01-02"]}
    sections = {"show": [metric], "time": [time], "filter": [condition], "group": []}
    body = {"bookmark": {"sections": sections}, "project_id": 42}
    answer = http.post("/api/query/insights", json=body).json()
    key = "Order Paid [Total Events]"
    days = {"2026-01-01T00:00:00+00:00": 1, "2026-01-02T00:00:00+00:00": 0}
    assert {
        "computed_at": "2026-01-06T11:46:40+00:00",
        "date_range": {
            "from_date": "2026-01-01T00:00:00+00:00",
            "to_date": "2026-01-02T23:59:59.999000+00:00",
        },
        "headers": ["$metric"],
        "meta": {
            "is_segmentation_limit_hit": False,
            "min_sampling_factor": 1,
            "sub_query_count": 1,
            "report_sections": {"group": [], "show": [{"metric_key": key}]},
        },
        "series": {key: days},
    } == answer
    refused = http.post("/api/query/insights", json=body | {"queryLimits": {"limit": 50_001}})
    message = "Query limit exceeds max limit of 50000 (50001 was given)"
    assert {"error": message, "status": "error"} == refused.json()


MALFORMED = [
    1,
    {"sections": 1},
    {"sections": {"show": [{"behavior": {"type": "funnel"}}]}},
    {"sections": {"show": [{"behavior": {"name": "E"}, "measurement": "x"}]}},
    {"sections": {"show": [{"behavior": {"name": "E", "filters": [1]}}]}},
    {"sections": {"show": [{"behavior": {"name": "E"}}], "group": [{}]}},
    {
        "sections": {
            "show": [{"behavior": {"name": "E"}, "measurement": {"math": "total"}}],
            "time": [{"dateRangeType": "in the last", "window": {"value": 10**9}}],
        }
    },
]


@pytest.mark.slow
@pytest.mark.parametrize("bookmark", MALFORMED)
def test_malformed_bookmarks_are_refused(http, bookmark):
    """With 400, whatever their shape."""
    body = {"bookmark": bookmark, "project_id": 42}
    for path in ("insights", "arb_funnels"):
        assert 400 == http.post(f"/api/query/{path}", json=body).status_code


# Saved objects


@pytest.mark.slow
async def test_saved_reports_are_read_by_id(emu, ws):
    """A funnel and retention, as inline reports compute them."""
    number = emu.add_funnel("Checkout", ["Opened App", "Order Paid"])
    report = await ws.saved_report(number, **DAYS)
    assert [3, 2] == [step.count for step in report.report.steps]
    assert ["Checkout"] == [each.name for each in await ws.list_bookmarks()]


def test_reports_are_created_changed_and_deleted(http):
    """The list has two envelopes with v=2."""
    made = results(http.post(f"{APP}/bookmarks", json={"name": "A", "type": "insights", "v": 2}))
    path = f"{APP}/bookmarks/{made['id']}"
    assert "B" == results(http.patch(path, json={"name": "B"}))["name"]
    listed = results(http.get(f"{APP}/bookmarks", params={"v": 2, "type": "insights"}))
    assert ["B"] == [row["name"] for row in listed["results"]]
    assert [] == results(http.get(f"{APP}/bookmarks", params={"v": 2, "type": "flows"}))["results"]
    assert http.delete(path).is_success
    gone = http.get(path)
    assert (404, "error") == (gone.status_code, gone.json()["status"])
    assert 400 == http.post(f"{APP}/bookmarks", json={}).status_code


@pytest.mark.slow
async def test_the_lexicon_is_written_and_read(http, ws):
    """One entry, several, and none."""
    entry = {"entityType": "event", "name": "Order Paid", "schemaJson": {"description": "Paid"}}
    made = results(http.post(f"{APP}/schemas", json={"entries": [entry]}))
    assert {"added": 1, "deleted": 0} == made
    assert {"status": "ok", "results": [entry]} == http.get(f"{APP}/schemas/event/").json()
    found = await ws.lexicon_schema("event", "Order Paid")
    assert "Paid" == found.schema_json.description
    assert 404 == http.get(f"{APP}/schemas/event/Unknown").status_code


def test_annotations_are_listed_by_date(http):
    """With tags, whose list is bare."""
    tag = http.post(f"{APP}/annotations/tags/", json={"name": "release"})
    expected = {"id": 1001, "name": "release", "project_id": 42, "has_annotations": False}
    assert (201, expected) == (tag.status_code, tag.json())
    sent = {"date": "2026-01-03 00:00:00", "description": "Launch", "tags": [1001]}
    made = http.post(f"{APP}/annotations", json=sent)
    assert 201 == made.status_code
    assert ["release"] == [each["name"] for each in results(made)["tags"]]
    found = http.get(f"{APP}/annotations", params={"fromDate": "2026-01-03"})
    assert ["Launch"] == [row["description"] for row in results(found)]
    assert [] == results(http.get(f"{APP}/annotations", params={"fromDate": "2026-01-04"}))


def test_me_names_projects_and_workspaces(http):
    """Those that clients have named, with their timezone."""
    view = results(http.get(f"{APP}/workspaces/public"))[0]
    assert (77, 42, True) == (view["id"], view["project_id"], view["is_global"])
    me = results(http.get("/api/app/me/"))
    assert ("robot", "UTC") == (me["user_name"], me["projects"]["42"]["timezone"])
    assert 401 == http.get("/api/app/me", auth=("robot", "no")).status_code
