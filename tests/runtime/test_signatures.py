"""What inherited methods look like at run time, in the async and in the sync class."""

import sys
from unittest.mock import AsyncMock, create_autospec

import pytest
from starlette.background import BackgroundTasks

from mixpanel import AsyncMixpanel, Mixpanel
from mixpanel.cdp import AsyncCustomerIO, AsyncFanOut, CustomerIO, FanOut
from mixpanel.testing import capture

if sys.version_info >= (3, 12):
    from inspect import iscoroutinefunction
else:  # `inspect` knows no marks yet
    from asyncio import iscoroutinefunction

ASYNC = [AsyncMixpanel, AsyncCustomerIO, AsyncFanOut]
SYNC = [Mixpanel, CustomerIO, FanOut]


@pytest.mark.parametrize("kind", ASYNC)
def test_methods_of_async_clients_count_as_coroutine_functions(kind):
    """Also those whose body serves the sync client."""
    assert iscoroutinefunction(kind.track)


@pytest.mark.parametrize("kind", SYNC)
def test_methods_of_sync_clients_count_as_plain_functions(kind):
    """They share the body of the async client's."""
    assert not iscoroutinefunction(kind.track)


def test_mocks_of_an_async_client_can_be_awaited():
    """`create_autospec` knows which methods return coroutines."""
    assert isinstance(create_autospec(AsyncMixpanel, instance=True).track, AsyncMock)


@pytest.mark.anyio
async def test_a_background_task_of_starlette_awaits_track():
    """It would call a plain function in a thread, and never await what that returns."""
    with capture() as captured:
        async with AsyncMixpanel("t") as mp:
            tasks = BackgroundTasks()
            tasks.add_task(mp.track, "u-17", "Order Paid")
            await tasks()
    assert ["Order Paid"] == [each["event"] for each in captured.events]
