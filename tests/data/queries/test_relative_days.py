"""Days relative to today, in every method that takes days."""

import inspect
from datetime import date

import pytest

from mixpanel.data._fetch import plan
from mixpanel.data._queries.live import LiveQueries
from mixpanel.data.exceptions import ConfigError, MixpanelDataError

pytestmark = pytest.mark.anyio

ARGUMENTS = {
    "activity_feed": ("u-1",),
    "event_counts": (["A"],),
    "funnel": (5,),
    "frequency": (),
    "property_counts": ("A", "plan"),
    "query": ("A",),
    "query_flow": ("A",),
    "query_funnel": (["A", "B"],),
    "query_retention": ("A", "B"),
    "retention": ("A", "B"),
    "saved_report": (5,),
    "segmentation": ("A",),
    "segmentation_average": ("A",),
    "segmentation_numeric": ("A",),
    "segmentation_sum": ("A",),
}
MORE = {
    **{f"segmentation_{kind}": {"on": "x"} for kind in ("average", "numeric", "sum")},
    "saved_report": {"type": "funnels"},
}
METHODS = [
    name
    for name, method in inspect.getmembers(LiveQueries, inspect.iscoroutinefunction)
    if not name.startswith("_") and "from_date" in inspect.signature(method).parameters
]


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def zones(monkeypatch):
    """Make it 2026-03-31 everywhere, and record the time zones that are looked at."""
    looked_at = []

    def today(zone=None, _now=None):
        looked_at.append(zone)
        return date(2026, 3, 31)

    monkeypatch.setattr(plan, "today", today)
    return looked_at


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
async def test_queries_take_days_relative_to_the_projects_today(ws, server, zones, name):
    """They are sent as dates; the timezone costs none of the hourly queries."""
    with pytest.raises(MixpanelDataError):
        await getattr(ws, name)(
            *ARGUMENTS[name], from_date="-7d", to_date="yesterday", **MORE.get(name, {})
        )
    text = str([each.json or {**each.query, **each.form} for each in server.queries])
    assert "2026-03-24" in text
    assert "2026-03-30" in text
    assert {"Europe/Oslo"} == set(zones[:2])
    assert {"/api/app/me"} <= {each.path for each in server.sent}


async def test_dates_need_no_timezone(ws, server):
    """A query for dates does not wait for it before it is sent."""
    assert ("2026-01-01", date(2026, 1, 2)) == await ws._days("2026-01-01", date(2026, 1, 2))
    assert [] == server.sent


async def test_a_wrong_day_is_refused_with_examples(ws, server):
    """Nothing is sent."""
    with pytest.raises(ConfigError, match=r"from_date='-7x' is not a date.*-7d, -4w or -3m"):
        await ws.segmentation("A", from_date="-7x", to_date="today")
    assert [] == server.queries


async def test_the_app_api_takes_relative_days_too(ws, server, zones):
    """As annotations, and the deletion of events."""
    planned = await ws.project.annotations.plan("list", from_date="-4w", to_date="today")
    assert {"fromDate": "2026-03-03", "toDate": "2026-03-31"} == dict(planned.params)
    assert {"Europe/Oslo"} == set(zones)
