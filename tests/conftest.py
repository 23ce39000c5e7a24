"""Fixtures that every test may use."""

import contextlib
import gc
import os
import signal
import threading
import time
from importlib.metadata import version

import pytest
import trustme

from mixpanel._runtime import background_loop
from mixpanel.data._api import rate_limits
from mixpanel.emulator import Emulator
from tests import effort, order

effort.load_profile()


def pytest_configure(config):
    """Handle Ctrl-C again if the process was started with SIGINT ignored, as in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if tuple(int(part) for part in version("anyio").split(".")[:2]) < (4, 16):
        # Before 4.16, a connection of anyio that was cancelled as it was made is closed only when
        # it is collected.
        config.addinivalue_line(
            "filterwarnings",
            "ignore:.*_SelectorTransport.__del__:pytest.PytestUnraisableExceptionWarning",
        )


def pytest_ignore_collect(collection_path, config):
    """Leave out files of whose tests `-m` selects none: each worker would import them first."""
    chosen = config.option.markexpr
    if not chosen or collection_path.suffix != ".py":
        return None
    return order.has_none(collection_path.read_text(encoding="utf-8"), chosen) or None


@pytest.hookimpl(trylast=True)  # in the order, and without the tests, that plugins decide
def pytest_collection_modifyitems(config, items):
    """Begin with the tests that take long: at the end, the other workers would wait for them."""
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    items[:] = order.long_ones_first(items, workers)


def pytest_collection_finish():
    """Exclude imported modules from garbage collection, which takes half a second to walk them."""
    _freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    """Exclude what each test file leaves, too: modules loaded late, and what pytest keeps."""
    done = yield
    if nextitem is None or nextitem.path != item.path:
        _freeze()
    return done


def _freeze():
    gc.collect()
    gc.freeze()


def pytest_sessionfinish():
    """Restore garbage collection for plugins and the interpreter's exit."""
    gc.unfreeze()


BACKENDS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop", marks=pytest.mark.slow),
    pytest.param(("trio", {}), id="trio", marks=pytest.mark.slow),
]


# Only tests with one of these fixtures open sockets, and a garbage collection takes time.
SOCKETS = {"emu", "anyio_backend"}
# trio, anyio and asgiref keep idle worker threads of their own, and asyncio one for each process
# that runs, which a fixture may keep for its next test.
POOLS = ("Trio thread", "ThreadPoolExecutor", "AnyIO worker thread", "asyncio-waitpid")


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
    """Reset the rate limits: an emulator may get the port of an earlier one."""
    rate_limits._shared.clear()


@pytest.fixture(scope="session", autouse=True)
def _one_authority(tmp_path_factory):
    """Trust one certificate authority: reading the machine's costs each client 30 ms."""
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
