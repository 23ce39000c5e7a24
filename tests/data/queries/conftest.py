"""A workspace before a Mixpanel that says what a test wrote for it."""

import pytest

from tests.data.queries.fake_mixpanel import FakeMixpanel


@pytest.fixture
def server():
    return FakeMixpanel()


@pytest.fixture
async def ws(server):
    async with server.workspace() as workspace:
        yield workspace
