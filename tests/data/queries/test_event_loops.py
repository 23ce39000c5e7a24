"""Queries and discovery work in every event loop."""

import anyio
import pytest

from tests.data.queries.fake_mixpanel import ROBOT
from tests.data.queries.test_live import JAN, series

pytestmark = pytest.mark.anyio


async def test_queries_run_in_every_event_loop(server, anyio_backend):
    """Several at a time, in asyncio, uvloop and trio."""
    server["segmentation"] = series(Order_Paid={"2026-01-01": 1})
    results = []
    async with server.workspace() as ws:

        async def one():
            results.append(await ws.segmentation("Order Paid", **JAN))

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(one)
            tasks.start_soon(ws.list_events)
        assert ws.api.project_id == ROBOT.project_id
    assert [result.total for result in results] == [1] * 5
    assert len(server.queries) == 6
