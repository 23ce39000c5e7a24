"""Fixtures that every test may use."""

import contextlib
import gc
import os
import threading

import pytest

from mixpanel import _bridge
from mixpanel.emulator import Emulator


def pytest_collection_finish():
    """Leave what importing made out of every later collection: it takes half a second to walk."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish():
    """Let plugins and the interpreter end as they would."""
    gc.unfreeze()


BACKENDS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    pytest.param(("trio", {}), id="trio"),
]


# Only tests with one of these open anything worth collecting, and collecting takes its time.
SOCKETS = {"emu", "anyio_backend"}
# trio and asgiref keep idle worker threads of their own.
POOLS = ("Trio thread", "ThreadPoolExecutor")


@pytest.fixture(params=BACKENDS)
def anyio_backend(request):
    """Run an async test once on each event loop."""
    return request.param


@pytest.fixture
def emu():
    """Start a local Mixpanel."""
    with Emulator() as emulator:
        yield emulator


@pytest.fixture(autouse=True)
def _no_base_url(monkeypatch):
    """Keep the machine's own environment out of the tests."""
    for name in [name for name in os.environ if name.startswith("MP_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _nothing_left_behind(request):
    """Leave no thread behind, and collect what a test forgot while it can still be blamed."""
    before = set(threading.enumerate())
    yield
    with contextlib.suppress(RuntimeError):
        _bridge.leave_home()
    if SOCKETS & set(request.fixturenames):
        gc.collect()
    left = {t for t in threading.enumerate() if t not in before and not t.name.startswith(POOLS)}
    for thread in left:
        thread.join(timeout=6)
    assert not {t.name for t in left if t.is_alive()}
