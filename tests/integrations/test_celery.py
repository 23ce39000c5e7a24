"""Celery: one real worker in this process runs all tasks; `tests/runtimes` has other pools."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.signals import setup_logging

from mixpanel import AsyncMixpanel, Mixpanel, context, update_context
from mixpanel.exceptions import ConfigurationError
from mixpanel.integrations import celery as integration
from mixpanel.integrations._carried import dump_context, load_context
from mixpanel.testing import MemoryConsumer

HEADER = "mixpanel_context"
PROGRAM = Path(__file__).parent / "programs" / "celery_shop.py"

pytestmark = pytest.mark.slow


class CountingConsumer(MemoryConsumer):
    """Keep messages in memory, and count flushes."""

    flushes = 0

    def flush(self):
        """Count."""
        self.flushes += 1


def leave_logging(**_):
    """Configure nothing."""


@pytest.fixture(scope="module")
def shop():
    """Send tasks, run a worker until all are done, and return what they have tracked."""
    mp = Mixpanel("t", CountingConsumer())
    app = Celery("shop", broker="memory://", set_as_current=False)

    @app.task(shared=False)
    def track(name, user=None):
        if user:
            update_context(user, changed=True)
        mp.track(None, name)

    @app.task(shared=False, bind=True)
    def headers(self):
        mp.track(None, "Headers", {"mine": self.request.headers["mine"]})

    @app.task(shared=False, bind=True, max_retries=1)
    def fail(self):
        mp.track(None, f"Try {self.request.retries}")
        raise self.retry(exc=LookupError("again"), countdown=0)

    @app.task(shared=False)
    def chain():
        track.delay("Inner")

    integration.connect(mp)
    integration.connect()
    with context("u-1", plan="team"):
        track.delay("First")
        track.delay("Login", user="u-2")
        fail.delay()
        chain.delay()
        headers.apply_async(headers={"mine": 7})
        track.apply(args=("Eager",), kwargs={"user": "u-3"})
        mp.track(None, "After Eager")
    track.delay("Without")
    track.apply_async(args=("Bad Header",), headers={HEADER: "{"})
    track.apply_async(args=("Own Header",), headers={HEADER: '{"distinct_id": "u-9"}'})
    setup_logging.connect(leave_logging)  # or Celery removes the handlers of pytest
    with start_worker(app, perform_ping_check=False, shutdown_timeout=20) as worker:
        end = time.monotonic() + 20
        while len(mp.consumer.events) < 11 and time.monotonic() < end:
            time.sleep(0.01)
        worker.stop()
    integration.disconnect()
    setup_logging.disconnect(leave_logging)
    found = {e["event"]: e["properties"] for e in mp.consumer.events}
    return SimpleNamespace(found=found, flushes=mp.consumer.flushes)


def test_a_task_has_the_identity_of_its_sender(shop):
    """Also when it is retried, and a task that it sends."""
    assert {name: properties["distinct_id"] for name, properties in shop.found.items()} == {
        "First": "u-1",
        "Login": "u-2",
        "Try 0": "u-1",
        "Try 1": "u-1",
        "Inner": "u-1",
        "Headers": "u-1",
        "Eager": "u-3",
        "After Eager": "u-3",
        "Without": "",
        "Bad Header": "",
        "Own Header": "u-9",
    }


def test_each_task_has_its_own_properties(shop):
    """What one adds is not left for the next one."""
    assert shop.found["First"]["plan"] == shop.found["Try 1"]["plan"] == "team"
    assert shop.found["Login"]["changed"] is True
    assert "changed" not in shop.found["Try 0"]
    assert "plan" not in shop.found["Without"]


def test_headers_of_the_sender_survive(shop):
    """Those that are given to `apply_async`."""
    assert shop.found["Headers"]["mine"] == 7


def test_the_end_of_a_worker_flushes_the_client(shop):
    """Once, although `connect` was called twice."""
    assert shop.flushes == 1


@pytest.mark.parametrize("properties", [{"bad": object()}, {"long": "x" * 9000}])
def test_properties_that_cannot_travel_are_left_out(properties, caplog):
    """With a warning; the identity travels."""
    with context("u-1", properties):
        scope = load_context(dump_context())
    assert scope.distinct_id == "u-1"
    assert caplog.records or scope.properties
    if "long" in properties:
        assert scope.properties == {}
        assert "longer than 8192 bytes" in caplog.text


@pytest.mark.parametrize(
    "header", ["{", "[]", '{"distinct_id": 7}', '{"properties": [1]}', 7, b"\xff"]
)
def test_a_header_that_is_not_valid_is_ignored(header, caplog):
    """Anything may be in a broker."""
    scope = load_context(header)
    assert (scope.distinct_id, scope.properties) == (None, {})
    assert "without the context of its sender" in caplog.text


def test_an_async_client_is_refused():
    """Tasks are sync code."""
    with pytest.raises(ConfigurationError, match="AsyncBufferedConsumer"):
        integration.connect(AsyncMixpanel("t"))


def test_workers_of_a_pool_send_their_events_with_the_identity(emu, tmp_path):
    """Real processes, forked after the client was made; their tasks fail, the first ones too."""
    path = os.pathsep.join([str(PROGRAM.parents[3]), str(PROGRAM.parent)])
    environment = {**os.environ, "MP_BASE_URL": emu.url, "PYTHONPATH": path}
    options = {"cwd": tmp_path, "env": environment, "stdin": subprocess.DEVNULL}
    subprocess.run([sys.executable, PROGRAM], check=True, **options)
    quiet = ("--without-mingle", "--without-gossip", "--without-heartbeat", "-l", "critical")
    command = ("-m", "celery", "-A", "celery_shop", "worker", "-c", "2", *quiet)
    with subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, **options
    ) as process:
        try:
            end = time.monotonic() + 60
            while len(list(tmp_path.glob("done-*"))) < 8 and time.monotonic() < end:
                assert process.poll() is None
                time.sleep(0.05)
            assert emu.events() == []
            process.terminate()
            process.wait(60)
        finally:
            process.kill()
    found = sorted((e["properties"]["distinct_id"], e["properties"]["plan"]) for e in emu.events())
    assert found == [(f"u-{n}", "team") for n in range(8)]
