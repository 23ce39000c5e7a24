"""A call with `durable=True` has returned: its message is on disk, whichever client was called."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from mixpanel import (
    AsyncMixpanel,
    BufferedConsumer,
    ConfigurationError,
    Limits,
    Mixpanel,
    PayloadTooLargeError,
    QueueFullError,
    RetryPolicy,
    SpoolError,
    SyncInAsyncError,
)
from mixpanel._delivery.spool.store import SpoolStore
from mixpanel.cdp import (
    AsyncCustomerIO,
    AsyncFanOut,
    AsyncHightouch,
    CustomerIO,
    FanOut,
    Hightouch,
    Sink,
)
from tests.faults.oracle import within
from tests.faults.server import FaultServer

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
NOWHERE = "http://127.0.0.1:9"
ONCE = RetryPolicy(attempts=1)


@pytest.fixture
def server():
    with FaultServer() as server:
        yield server


def options(tmp_path, **more):
    limits = {"flush_after": 1000.0, "request_timeout": 2.0, **more.pop("limits", {})}
    given = {"base_url": NOWHERE, "spool": tmp_path / "spool", "retry": ONCE}
    return {**given, "limits": Limits(**limits), **more}


def on_disk(tmp_path):
    """Return the messages in a spool as another process would find them."""
    found = []
    for path in sorted((tmp_path / "spool").rglob("*.db")):
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            for lengths, body in connection.execute("SELECT lengths, body FROM block ORDER BY id"):
                at = 0
                for size in memoryview(lengths).cast("I"):
                    found.append(json.loads(body[at : at + size]))
                    at += size
    return found


def kinds(tmp_path):
    return [message["type"] for message in on_disk(tmp_path)]


# ---- every call ---------------------------------------------------------------------------------


def test_each_call_of_an_async_client_can_wait_for_the_disk(tmp_path):
    """Those of the spec, `batch`, and Customer.io's own."""

    async def main():
        cio = AsyncCustomerIO("key", **options(tmp_path))
        await cio.identify("u", {"plan": "team"}, durable=True)
        await cio.track("u", "Visit", durable=True)
        await cio.page("u", durable=True)
        await cio.screen("u", durable=True)
        await cio.group("u", "g", durable=True)
        await cio.alias("anonymous", "u", durable=True)
        expected = ["identify", "track", "page", "screen", "group", "alias"]
        assert kinds(tmp_path) == expected
        await cio.batch([{"type": "track", "userId": "u", "event": "E"}] * 3, durable=True)
        await cio.unsubscribe("u", durable=True)
        await cio.register_device("u", "token", platform="ios", durable=True)
        await cio.merge("u", "v", durable=True)
        assert kinds(tmp_path)[6:] == ["track"] * 3 + ["identify", "track", "alias"]
        assert "durable" not in json.dumps(on_disk(tmp_path))
        await cio.aclose(0.05)

    asyncio.run(main())


def test_each_call_of_a_sync_client_can_wait_for_the_disk(tmp_path):
    """The same methods, without await."""
    hightouch = Hightouch("key", **options(tmp_path))
    hightouch.track("u", "Visit", durable=True)
    assert kinds(tmp_path) == ["track"]
    hightouch.identify("u", {"plan": "team"}, durable=True)
    hightouch.batch([{"type": "page", "userId": "u"}], durable=True)
    assert kinds(tmp_path) == ["track", "identify", "page"]
    hightouch.close(0.05)


def test_a_call_that_is_not_durable_does_not_wait(tmp_path):
    """The default: the message is on disk some milliseconds later."""

    async def main():
        cio = AsyncCustomerIO("key", **options(tmp_path))
        cio.track("u", "Visit", durable=False).close()
        await cio.track("u", "Visit", durable=True)  # and what was accepted before it
        assert len(on_disk(tmp_path)) == 2
        await cio.aclose(0.05)

    asyncio.run(main())


def test_a_fan_out_waits_for_the_disks_of_all_sinks(tmp_path):
    """Of those that receive the call."""

    async def main():
        fan_out = AsyncFanOut(
            mixpanel=Sink(AsyncMixpanel("t", **options(tmp_path / "a"))),
            cio=Sink(AsyncCustomerIO("key", **options(tmp_path / "b"))),
            orders=Sink(AsyncHightouch("key", **options(tmp_path / "c")), events=["Order *"]),
        )
        await fan_out.track("u", "Visit", {"m": 1}, durable=True)
        assert [len(on_disk(tmp_path / name)) for name in "abc"] == [1, 1, 0]
        await fan_out.identify("u", {"plan": "team"}, durable=True)
        await fan_out.track("u", "Order Paid", durable=True)
        assert [len(on_disk(tmp_path / name)) for name in "abc"] == [3, 3, 2]
        assert {each.accepted for each in fan_out.stats().values()} == {3, 2}
        await fan_out.aclose(0.05)

    asyncio.run(main())
    with FanOut(cio=Sink(CustomerIO("key", **options(tmp_path / "d")))) as fan_out:
        fan_out.page("u", durable=True)
        assert kinds(tmp_path / "d") == ["page"]
        fan_out.close(0.05)


# ---- what is refused ----------------------------------------------------------------------------


def test_durable_needs_a_spool(tmp_path, server):
    """Nothing is accepted without one; a client that sends at once has delivered."""
    plain = {"base_url": f"{server.url}/cio", "spool": False}
    client = CustomerIO("key", **plain)
    with pytest.raises(ConfigurationError, match=r"durable=True needs a spool.*MP_SPOOL"):
        client.track("u", "Visit", durable=True)
    assert client.stats().accepted == 0
    with FanOut(
        cio=Sink(client, keep_open=True), spooled=Sink(CustomerIO("other", **options(tmp_path)))
    ) as fan_out:
        with pytest.raises(ConfigurationError, match=r"^cio: durable=True needs a spool"):
            fan_out.track("u", "Visit", durable=True)
        with pytest.raises(ConfigurationError, match=r"^cio: commit\(\) needs a spool"):
            fan_out.commit()
        assert fan_out.stats()["spooled"].received == 0
        fan_out.close(0.05)
    at_once = CustomerIO("key", **plain, send_immediately=True)
    at_once.track("u", "Visit", {"m": 1}, durable=True)
    assert server.record.applied[1] == 1
    at_once.close()


def test_durable_sync_calls_do_not_block_an_event_loop(tmp_path):
    """They raise before the message is accepted."""

    async def main():
        client = CustomerIO("key", **options(tmp_path))
        with pytest.raises(SyncInAsyncError, match="CustomerIO with durable=True"):
            client.track("u", "Visit", durable=True)
        fan_out = FanOut(cio=Sink(client))
        with pytest.raises(SyncInAsyncError, match="FanOut with durable=True"):
            fan_out.track("u", "Visit", durable=True)
        assert client.stats().accepted == 0

    asyncio.run(main())


@pytest.mark.parametrize("face", ["cdp", "mixpanel"])
@pytest.mark.parametrize("limit", [{"max_spool_bytes": 1000}, {"max_queue_size": 2}])
def test_a_message_that_is_dropped_is_not_reported_as_durable(tmp_path, face, limit):
    """With `when_full="drop_newest"`, which raises nothing for other calls."""
    given = options(tmp_path, limits=limit)
    if face == "cdp":
        client, many = CustomerIO("key", **given), {"type": "track", "userId": "u", "event": "E"}
        batch, close = client.batch, client.close
    else:
        client = Mixpanel("t", BufferedConsumer(1000, **given))
        many, batch, close = {"event": "E", "properties": {}}, client.track_batch, None
    rows = [many] * 50
    with pytest.raises(QueueFullError, match=r"of 50 message\(s\) were dropped"):
        batch(rows, durable=True)
    dropped = client.stats().dropped["queue_full"]
    assert len(on_disk(tmp_path)) == 50 - dropped > 0
    (close or client.consumer.close)(0.05)


def test_an_async_durable_call_reports_what_was_dropped(tmp_path):
    """Also for a fan-out, which keeps other errors of a sink from its caller."""

    async def main():
        given = options(tmp_path, limits={"max_spool_bytes": 400})
        mp, cio = AsyncMixpanel("t", **given), AsyncCustomerIO("key", **given)
        fan_out = AsyncFanOut(mixpanel=Sink(mp), cio=Sink(cio))
        for client in (mp, cio):
            with pytest.raises(QueueFullError, match="not on disk"):
                for number in range(5):
                    await client.track("u", "Visit", {"m": number}, durable=True)
        with pytest.raises(ExceptionGroup) as raised:
            await fan_out.track("u", "Visit", durable=True)
        assert [type(error) for error in raised.value.exceptions] == [QueueFullError] * 2
        await fan_out.aclose(0.05)

    asyncio.run(main())


def test_a_message_that_is_too_large_is_refused(tmp_path):
    """It is dropped, so it is not on disk; the others of its batch are."""
    client = CustomerIO("key", **options(tmp_path))
    large = {"type": "track", "userId": "u", "event": "E", "properties": {"text": "x" * 40_000}}
    with pytest.raises(PayloadTooLargeError, match="bytes larger than Customer"):
        client.batch([large, {"type": "page", "userId": "u"}], durable=True)
    assert kinds(tmp_path) == ["page"]
    assert client.stats().dropped == {"too_large": 1}
    client.close(0.05)


def test_a_message_that_a_hook_drops_is_not_waited_for(tmp_path):
    """It was dropped on purpose, as all are by a disabled client."""
    client = CustomerIO("key", **options(tmp_path, before_send=lambda _kind, _message: None))
    client.track("u", "Visit", durable=True)
    client.close(0.05)
    disabled = CustomerIO("key", **options(tmp_path, disabled=True))
    disabled.track("u", "Visit", durable=True)
    disabled.close(0.05)
    mp = Mixpanel("t", BufferedConsumer(**options(tmp_path)), disabled=True)
    mp.track("u", "Visit", durable=True)
    mp.consumer.close(0.05)
    assert on_disk(tmp_path) == []


def test_a_disk_that_fails_is_reported_to_each_durable_call(tmp_path, monkeypatch):
    """The message stays in memory; a fan-out raises for the sink whose disk failed."""

    async def main():
        cio = AsyncCustomerIO("key", **options(tmp_path / "a"))
        mp = AsyncMixpanel("t", **options(tmp_path / "b"))
        fan_out = AsyncFanOut(mixpanel=Sink(mp), cio=Sink(cio))
        await fan_out.track("u", "Visit", durable=True)
        original = SpoolStore.add

        def add(self, block):
            if self.path.is_relative_to(tmp_path / "a"):
                raise sqlite3.OperationalError("disk I/O error")
            original(self, block)

        monkeypatch.setattr(SpoolStore, "add", add)
        with pytest.raises(SpoolError, match="disk I/O error"):
            await cio.track("u", "Visit", durable=True)
        with pytest.raises(SpoolError, match="disk I/O error"):
            await fan_out.track("u", "Visit", durable=True)
        assert len(on_disk(tmp_path / "b")) == 2
        stats = fan_out.stats()
        assert [stats[name].accepted for name in ("mixpanel", "cio")] == [2, 2]
        assert cio.health().spool.degraded
        assert cio.stats().pending == 3
        monkeypatch.undo()
        await fan_out.aclose(0.05)

    asyncio.run(main())


# ---- kill -9 ------------------------------------------------------------------------------------

PROGRAM = """
import asyncio, sys
from mixpanel import *
from mixpanel.cdp import *

face, url, folder = sys.argv[1:]
options = {"base_url": url, "spool": folder, "limits": Limits(flush_after=1000.0)}

def report(number):
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()

async def asynchronous():
    cio = AsyncCustomerIO("key", **options)
    client = AsyncFanOut(cio=Sink(cio)) if face == "async fan-out" else cio
    for number in range(100_000):
        await client.track("u", "Visit", {"m": number}, durable=True)
        report(number)

def synchronous():
    cio = CustomerIO("key", **options)
    client = FanOut(cio=Sink(cio)) if face == "fan-out" else cio
    for number in range(100_000):
        client.track("u", "Visit", {"m": number}, durable=True)
        report(number)

asyncio.run(asynchronous()) if face.startswith("async") else synchronous()
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("face", ["async", "sync", "async fan-out", "fan-out"])
def test_what_a_killed_process_has_acknowledged_is_delivered_by_the_next(tmp_path, server, face):
    """Each call that returned before `kill -9`, in order, and once."""
    url, folder = f"{server.url}/cio", tmp_path / "spool"
    command = [sys.executable, "-c", PROGRAM, face, url, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        acknowledged = [int(process.stdout.readline()) for _ in range(100)]
        os.kill(process.pid, signal.SIGKILL)
        acknowledged += [int(line) for line in process.stdout if line.endswith("\n")]
    assert not server.record.applied
    with CustomerIO("key", base_url=url, spool=folder) as client:
        client.flush(30)
        assert client.stats().pending == 0
    arrived = server.record.order
    assert arrived == list(range(len(arrived)))
    assert len(arrived) - len(acknowledged) in (0, 1)  # one may have been on disk, not reported
    assert within(10, lambda: not list(folder.rglob("*.db")))
