"""What calls cost, and how long a workspace waits for them."""

from datetime import UTC, datetime

import pytest

from mixpanel.data import AsyncWorkspace
from mixpanel.data.exceptions import ConfigError, RateLimitError
from tests.data.queries.fake_mixpanel import ROBOT, response
from tests.data.queries.test_live import JAN, series

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


def page(index, of=3):
    profiles = [{"$distinct_id": f"u-{index}-{n}", "$properties": {}} for n in range(2)]
    return {
        "page": index,
        "page_size": 2,
        "session_id": "s-1",
        "total": 2 * of,
        "results": profiles,
    }


async def test_all_pages_of_profiles_cost_one_query(ws, server):
    """Those after the first are free, and pass a budget that is spent."""
    server["engage"] = lambda sent: page(int(sent.form.get("page", 0)))
    found = [row async for row in ws.stream_profiles()]
    assert len(found) == 6
    assert len(server.queries) == 3
    assert ws.api.query_limiter.remaining() == 59


@pytest.mark.parametrize("status", [401, 402])
async def test_refused_credentials_cost_nothing(ws, server, status):
    """Mixpanel does not count them."""
    server["segmentation"] = (status, {"error": "no"})
    with pytest.raises(Exception, match=str(status)):
        await ws.segmentation("Order Paid", **JAN)
    assert ws.api.query_limiter.remaining() == 60


async def test_a_failed_query_costs_one(ws, server):
    """Mixpanel counts what failed there."""
    server["segmentation"] = (500, {"error": "broken"})
    with pytest.raises(Exception, match="broken"):
        await ws.segmentation("Order Paid", **JAN)
    assert ws.api.query_limiter.remaining() == 59


async def test_the_limit_of_a_response_is_taken_over(ws, server):
    """Of a project whose limit was raised."""

    def answer(_sent):
        answered = response(series(a={"2026-01-01": 1}))
        answered.headers["RateLimit-Policy"] = '"project";q=400;w=3600'
        return answered

    server["segmentation"] = answer
    await ws.segmentation("Order Paid", **JAN)
    assert ws.api.query_limiter.remaining() == 399


async def test_who_does_not_want_to_wait_is_given_the_time(server):
    """With `max_wait=0`, before anything is sent."""
    async with server.workspace() as ws:
        ws.api._max_wait = 0.0
        ws.api.query_limiter.penalize(1200)
        with pytest.raises(RateLimitError) as error:
            await ws.segmentation("Order Paid", **JAN)
    assert error.value.sent is False
    wait = (error.value.next_slot_at - datetime.now(UTC)).total_seconds()
    assert 1100 < wait < 1300
    assert server.queries == []


async def test_a_refusal_that_would_be_waited_for_too_long_was_sent(server):
    """And says when the next call may be made."""
    server["segmentation"] = response({"error": "spent"}, 429, {"Retry-After": "1800"})
    async with server.workspace() as ws:
        ws.api._max_wait = 60.0
        with pytest.raises(RateLimitError, match="spent") as error:
            await ws.segmentation("Order Paid", **JAN)
    assert error.value.sent is True
    assert error.value.next_slot_at is not None
    assert error.value.retry_after >= 1800


@pytest.mark.parametrize("wait", [-1, "5", True])
def test_max_wait_is_a_number_of_seconds(server, wait):
    """Or None for the usual 65 minutes."""
    with pytest.raises(ConfigError, match="max_wait"):
        server.workspace(max_wait=wait)


@pytest.mark.parametrize("view", [-1, "x", 1.5, True])
def test_a_data_view_is_a_number(server, view):
    """As its settings show it."""
    with pytest.raises(ConfigError, match="workspace_id"):
        server.workspace(workspace_id=view)


async def test_a_workspace_hands_on_how_long_it_waits(server):
    """To everything that it asks."""
    async with AsyncWorkspace(credentials=ROBOT, path="unused.db", max_wait=7) as ws:
        assert ws.api._max_wait == 7
    async with AsyncWorkspace(credentials=ROBOT, path="unused.db") as ws:
        assert ws.api._max_wait == 3900
