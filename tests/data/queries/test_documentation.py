"""The examples of docs/queries.md run as they stand."""

import re
from pathlib import Path

import httpx
import pytest

from mixpanel._http.proxies import TransportOptions
from mixpanel.data import Workspace
from mixpanel.data.api import AsyncAPI
from tests.data.queries.fake_mixpanel import ROBOT
from tests.data.queries.test_inline import FIGURES, insights
from tests.data.queries.test_live import BOOKMARKS, COHORTS, FLOWS, feed, series, steps

PAGE = (Path(__file__).parents[3] / "docs" / "queries.md").read_text()
BLOCKS = re.findall(r"^```python\n(.+?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def serving(server):
    """Respond to every request of the page."""
    report = {"sections": {"show": [{"behavior": {"type": "event", "name": "Order Paid"}}]}}
    for row in BOOKMARKS["results"]["results"]:
        row["params"] = report
    server["/api/app/projects/4242/bookmarks"] = BOOKMARKS
    server["/api/app/projects/4242/bookmark-urls/"] = {"status": "ok"}
    server["events/properties/top"] = {"plan": {"count": 1}}
    server["events/properties/values"] = ["team"]
    server["data_definitions/events"] = {"results": []}
    server["funnels/list"] = [{"funnel_id": 77, "name": "Checkout"}]
    server["cohorts/list"] = []
    server["segmentation"] = series(NO={"2026-01-01": 1})
    server["segmentation/sum"] = {"results": {"2026-01-01": 1}}
    server["funnels"] = {"data": {"2026-01-01": {"team": steps(4, 2), "$overall": steps(4, 2)}}}
    server["retention"] = COHORTS
    server["retention/addiction"] = {"data": {"2026-01-01": [1]}}
    server["stream/bookmark"] = feed()
    server["arb_funnels"] = FLOWS

    def computed(sent):
        if sent.json is None:
            return insights({"a": {"2026-01-01": 1}})
        kind = sent.json["bookmark"]["sections"]["show"][0]["behavior"]["type"]
        below = {"funnel": FIGURES, "retention": COHORTS, "event": {"2026-01-01": 1}}[kind]
        return insights({"a": below})

    server["insights"] = computed
    return server


def test_every_example_of_the_documentation_runs(serving, monkeypatch):
    """In order, in one session; every request has a prepared response."""
    made = []

    def workspace():
        ws = Workspace(credentials=ROBOT, path="unused.db")
        client = httpx.AsyncClient(transport=httpx.MockTransport(serving))
        ws._core._api = AsyncAPI(ROBOT, transport=TransportOptions(client=client))
        made.append(ws)
        return ws

    names = {}
    monkeypatch.setattr("mixpanel.data.Workspace", workspace)
    for block in BLOCKS:
        exec(compile(block, "docs/queries.md", "exec"), names)
    made[0].close()
    assert len(BLOCKS) == 3
    assert {sent.method for sent in serving.sent} == {"GET", "POST"}


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(MP_[A-Z_]+)`", PAGE))))
def test_every_documented_variable_is_read_by_the_code(name):
    """None is only documented."""
    package = Path(__file__).parents[3] / "mixpanel"
    assert any(name in path.read_text() for path in package.rglob("*.py"))
