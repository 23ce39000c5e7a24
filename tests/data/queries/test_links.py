"""Results can be opened as reports in Mixpanel."""

import pickle
import re

import pytest

from mixpanel import SyncInAsyncError
from mixpanel._runtime import background_loop
from mixpanel.data.exceptions import ConfigError, ExpressionError
from mixpanel.data.expressions import prop, to_number
from mixpanel.data.query_results import SegmentationResult
from tests.data.queries.test_live import COHORTS, FLOWS, INSIGHTS, JAN, series, steps

pytestmark = pytest.mark.anyio
SLUG = r"#[0-9A-Za-z_-]{12}"
PLACE = "https://mixpanel.com/project/4242/view/77/app/"


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def server(server):
    server["/api/app/projects/4242/bookmark-urls/"] = {"status": "ok", "results": {}}
    server["segmentation"] = series(Order_Paid={"2026-01-01": 1})
    server["segmentation/sum"] = {"results": {"2026-01-01": 1}}
    server["retention"] = COHORTS
    server["retention/addiction"] = {"data": {"2026-01-01": [1]}}
    server["funnels"] = {"data": {"2026-01-01": {"steps": steps(4, 2)}}}
    server["insights"] = INSIGHTS
    server["arb_funnels"] = FLOWS
    return server


async def test_the_address_of_a_saved_report_needs_no_call(ws, server):
    """It contains the id of the report."""
    addresses = [
        await ws.see_in_mixpanel(await ws.funnel(77, **JAN)),
        await ws.see_in_mixpanel(await ws.query_flows(4)),
        await ws.see_in_mixpanel(await ws.saved_report(3, type="retention")),
        await ws.see_in_mixpanel(await ws.saved_report(1, type="insights")),
    ]
    assert addresses == [
        f"{PLACE}funnels#view/77", f"{PLACE}flows#report/4",
        f"{PLACE}retention#report/3", f"{PLACE}insights#report/1",
    ]  # fmt: skip
    assert not [each for each in server.sent if "bookmark-urls" in each.path]


async def test_see_in_mixpanel_creates_an_address_for_an_unsaved_report(ws, server):
    """With parameters that show the same; it costs no query."""
    result = await ws.segmentation("Order Paid", on="plan", where=prop("amount") > 5, **JAN)
    queries = len(server.queries)
    address = await ws.see_in_mixpanel(result)
    assert re.fullmatch(re.escape(f"{PLACE}insights") + SLUG, address)
    body = server.sent[-1].json
    assert address.endswith("#" + body["slug"])
    assert body["type"] == "insights"
    shown = body["params"]["sections"]
    assert shown["show"][0]["behavior"]["filters"][0]["value"] == "amount"
    assert shown["group"][0]["value"] == "plan"
    assert shown["time"][0]["value"] == ["2026-01-01", "2026-01-03"]
    assert server.sent[-1].query == {}
    assert len(server.queries) == queries


async def test_sums_retention_and_inline_reports_can_be_seen_in_mixpanel(ws, server):
    """Each as a report of its kind."""
    total = await ws.segmentation_sum("Order Paid", on="amount", **JAN)
    kept = await ws.retention("Opened App", "Order Paid", **JAN)
    inline = await ws.query("Order Paid", **JAN)
    flow = await ws.query_flow("Opened App", **JAN)
    kinds = []
    for result in (total, kept, inline, flow):
        await ws.see_in_mixpanel(result)
        kinds.append(server.sent[-1].json["type"])
    assert kinds == ["insights", "retention", "insights", "flows"]


async def test_see_in_mixpanel_raises_for_results_without_a_report(ws):
    """With the reason."""
    frequency = await ws.frequency(**JAN)
    with pytest.raises(ConfigError, match="FrequencyResult"):
        await ws.see_in_mixpanel(frequency)
    with pytest.raises(ConfigError, match="no report"):
        frequency.see_in_mixpanel()
    computed = await ws.segmentation("Order Paid", on=to_number(prop("amount")), **JAN)
    with pytest.raises(ExpressionError, match="inline queries take a property"):
        await ws.see_in_mixpanel(computed)
    average = await ws.segmentation("Order Paid", type="average", **JAN)
    with pytest.raises(ConfigError, match="average number of events per user"):
        await ws.see_in_mixpanel(average)
    weekly = await ws.retention("Opened App", "Order Paid", interval=7, **JAN)
    with pytest.raises(ConfigError, match="units"):
        await ws.see_in_mixpanel(weekly)


async def test_see_in_mixpanel_of_a_result_raises_in_an_event_loop(ws):
    """The error names what to await."""
    result = await ws.funnel(77, **JAN)
    with pytest.raises(SyncInAsyncError, match=r"await workspace\.see_in_mixpanel\(result\)"):
        result.see_in_mixpanel()


def test_see_in_mixpanel_of_a_result_works_in_sync_code(server):
    """On the background loop of the workspace."""
    ws = server.workspace()
    result = background_loop.run(ws.funnel, 77, **JAN)
    assert result.see_in_mixpanel() == f"{PLACE}funnels#view/77"
    background_loop.run(ws.aclose)


async def test_see_in_mixpanel_of_a_local_result_raises():
    """Also of a result that was pickled, which belongs to no workspace."""
    result = SegmentationResult(
        event="a", from_date="2026-01-01", to_date="2026-01-01", unit="day",
        segment_property=None, total=0, series={},
    )  # fmt: skip
    with pytest.raises(ConfigError, match="computed locally"):
        result.see_in_mixpanel()


async def test_the_link_of_a_result_is_not_a_field(ws):
    """It is neither compared nor pickled."""
    one, other = await ws.funnel(77, **JAN), await ws.funnel(77, **JAN)
    assert one == other
    assert not [name for name in one.to_dict() if "link" in name or "address" in name]
    again = pickle.loads(pickle.dumps(one))
    assert again == one
    with pytest.raises(ConfigError):
        again.see_in_mixpanel()


@pytest.mark.parametrize(
    ("public", "index", "expected"),
    [
        ({"results": [{"id": 1}, {"id": 2, "is_default": True}]}, None, 2),
        ({"results": [{"id": 1, "is_default": True}, {"id": 2, "is_global": True}]}, None, 2),
        (
            (403, {}),
            {"results": {"4242": {"workspaces": {"9": {"id": 9, "is_default": True}}}}},
            9,
        ),
        ((403, {}), (403, {}), None),
    ],
)
async def test_the_data_view_is_looked_up(ws, server, public, index, expected):
    """The view of the whole project; a service account may have no access to one of the lists."""
    server["/api/app/projects/4242/workspaces/public"] = public
    server["/api/app/projects/metadata/index"] = index
    address = await ws.see_in_mixpanel(await ws.funnel(77, **JAN))
    view = "" if expected is None else f"/view/{expected}"
    assert address == f"https://mixpanel.com/project/4242{view}/app/funnels#view/77"


@pytest.mark.parametrize("given", ["argument", "environment"])
async def test_a_data_view_may_be_set(server, monkeypatch, given):
    """By argument, or by `MP_WORKSPACE_ID`."""
    if given == "environment":
        monkeypatch.setenv("MP_WORKSPACE_ID", "12")
    options = {"workspace_id": 12} if given == "argument" else {}
    async with server.workspace(**options) as ws:
        address = await ws.see_in_mixpanel(await ws.funnel(77, **JAN))
    assert "/view/12/" in address
    assert not [each for each in server.sent if "workspaces" in each.path]
