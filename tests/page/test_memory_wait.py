"""Waiting for what a program tracks in the background, without a server."""

import json
import threading

import anyio
import pytest

from mixpanel.testing import MemoryConsumer


def send(consumer, name, **properties):
    event = {"event": name, "properties": {"distinct_id": "u-17", **properties}}
    consumer.send("events", json.dumps(event))


def test_an_event_that_a_thread_tracks_is_waited_for():
    """With these properties among others."""
    consumer = MemoryConsumer()
    send(consumer, "Order Paid", amount=1)
    timer = threading.Timer(0.02, send, (consumer, "Order Paid"), {"amount": 2})
    timer.start()
    found = consumer.wait_for("Order Paid", distinct_id="u-17", amount=2)
    timer.join()
    assert 2 == found["properties"]["amount"]


async def test_an_event_that_a_task_tracks_is_waited_for(anyio_backend):
    """On asyncio and on trio."""
    consumer = MemoryConsumer()
    async with anyio.create_task_group() as group:

        async def track():
            await anyio.sleep(0.01)
            send(consumer, "Order Paid")

        group.start_soon(track)
        assert "Order Paid" == (await consumer.wait_for_async("Order Paid"))["event"]


def test_an_event_that_does_not_come_is_an_error_with_those_that_did():
    """As that of `assert_tracked`."""
    consumer = MemoryConsumer()
    send(consumer, "Order Paid", amount=1)
    with pytest.raises(TimeoutError, match="within 0 s, 'Order Paid' with amount=2 was not trac"):
        consumer.wait_for("Order Paid", amount=2, timeout=0)
