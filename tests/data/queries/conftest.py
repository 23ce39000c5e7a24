"""A workspace connected to a fake Mixpanel."""

import pytest

from tests.data.queries.fake_mixpanel import FakeMixpanel


@pytest.fixture
def server():
    return FakeMixpanel()


@pytest.fixture
async def ws(server):
    async with server.workspace() as workspace:
        yield workspace
