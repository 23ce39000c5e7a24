"""Fixtures that every test may use."""

import contextlib
import gc
import os
import signal
import threading
import time

import hypothesis
import pytest
import trustme

from mixpanel._runtime import background_loop
from mixpanel.data._api import rate_limits
from mixpanel.emulator import Emulator

# No example has a time limit: machines are shared. None is kept: a run leaves no file behind.
hypothesis.settings.register_profile("mixpanel", deadline=None, database=None)
hypothesis.settings.load_profile("mixpanel")


def pytest_configure():
    """Take Ctrl-C back where whoever started us in the background had it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish():
    """Leave what importing made out of every later collection: it takes half a second to walk."""
    _freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    """Leave out as well what each file left: modules loaded late, and what pytest remembers."""
    done = yield
    if nextitem is None or nextitem.path != item.path:
        _freeze()
    return done


def _freeze():
    gc.collect()
    gc.freeze()


def pytest_sessionfinish():
    """Let plugins and the interpreter end as they would."""
    gc.unfreeze()


BACKENDS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop", marks=pytest.mark.slow),
    pytest.param(("trio", {}), id="trio", marks=pytest.mark.slow),
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
def _own_budget():
    """Forget who called where: an emulator may get the port of one that is gone."""
    rate_limits._shared.clear()


@pytest.fixture(scope="session", autouse=True)
def _one_authority(tmp_path_factory):
    """Trust one authority, not the machine's: to read those costs each client 30 ms."""
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    trustme.CA().cert_pem.write_to_path(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(path))
        yield


@pytest.fixture(autouse=True)
def _no_base_url(monkeypatch):
    """Keep the machine's own environment out of the tests."""
    for name in [name for name in os.environ if name.startswith("MP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MP_LIMITS_DIR", "off")


@pytest.fixture(autouse=True)
def _nothing_left_behind(request):
    """Join the threads of each test, and collect its garbage while failures still name the test."""
    before = set(threading.enumerate())
    yield
    with contextlib.suppress(RuntimeError):
        background_loop.stop_background_loop()
    if SOCKETS & set(request.fixturenames):
        gc.collect()
    end = time.monotonic() + 6
    while left := {t.name for t in set(threading.enumerate()) - before if not _is_idle(t)}:
        if time.monotonic() > end:
            break
        time.sleep(0.01)
    assert not left


def _is_idle(thread):
    # A worker of a pool has the name of its job while it works, and its pool's when it waits.
    return not thread.is_alive() or thread.name.startswith(POOLS)
