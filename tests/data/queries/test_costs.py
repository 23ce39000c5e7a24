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
    """Pages after the first do not count, and do not wait for the hourly limit."""
    server["engage"] = lambda sent: page(int(sent.form.get("page", 0)))
    found = [row async for row in ws.stream_profiles()]
    assert len(found) == 6
    assert len(server.queries) == 3
    assert ws.api.query_limiter.remaining() == 59


@pytest.mark.parametrize("status", [401, 402])
async def test_a_query_with_invalid_credentials_does_not_count(ws, server, status):
    """Mixpanel does not count it either."""
    server["segmentation"] = (status, {"error": "no"})
    with pytest.raises(Exception, match=str(status)):
        await ws.segmentation("Order Paid", **JAN)
    assert ws.api.query_limiter.remaining() == 60


async def test_a_failed_query_counts(ws, server):
    """Mixpanel counts it, too."""
    server["segmentation"] = (500, {"error": "broken"})
    with pytest.raises(Exception, match="broken"):
        await ws.segmentation("Order Paid", **JAN)
    assert ws.api.query_limiter.remaining() == 59


async def test_the_limit_in_the_headers_of_a_response_is_adopted(ws, server):
    """For a project whose limit was raised."""

    def raised_limit(_sent):
        rejected = response(series(a={"2026-01-01": 1}))
        rejected.headers["RateLimit-Policy"] = '"project";q=400;w=3600'
        return rejected

    server["segmentation"] = raised_limit
    await ws.segmentation("Order Paid", **JAN)
    assert ws.api.query_limiter.remaining() == 399


async def test_with_max_wait_zero_the_error_has_the_time_of_the_next_start(server):
    """Nothing is sent."""
    async with server.workspace() as ws:
        ws.api._max_wait = 0.0
        ws.api.query_limiter._windows.pause(ws.api.query_limiter._clock(), 1200)
        with pytest.raises(RateLimitError) as error:
            await ws.segmentation("Order Paid", **JAN)
    assert error.value.sent is False
    wait = (error.value.next_slot_at - datetime.now(UTC)).total_seconds()
    assert 1100 < wait < 1300
    assert server.queries == []


async def test_a_429_with_a_longer_wait_than_max_wait_raises(server):
    """The error says that the call was sent, and when the next may start."""
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
    """Or None for the default of 65 minutes."""
    with pytest.raises(ConfigError, match="max_wait"):
        server.workspace(max_wait=wait)


@pytest.mark.parametrize("view", [-1, "x", 1.5, True])
def test_a_workspace_id_must_be_a_positive_integer(server, view):
    """As the project's settings show it."""
    with pytest.raises(ConfigError, match="workspace_id"):
        server.workspace(workspace_id=view)


async def test_max_wait_of_a_workspace_applies_to_all_its_calls(server):
    """Of every kind."""
    async with AsyncWorkspace(credentials=ROBOT, path="unused.db", max_wait=7) as ws:
        assert ws.api._max_wait == 7
    async with AsyncWorkspace(credentials=ROBOT, path="unused.db") as ws:
        assert ws.api._max_wait == 3900
