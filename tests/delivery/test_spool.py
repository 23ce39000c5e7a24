"""Messages in a spool outlive their process, whatever the disk and the server do."""

import asyncio
import gc
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
import weakref
from contextlib import closing, suppress
from functools import partial

import pytest

from mixpanel import (
    AsyncBufferedConsumer,
    AsyncMixpanel,
    BufferedConsumer,
    ClosedError,
    ConfigurationError,
    Consumer,
    Limits,
    Mixpanel,
    QueueFullError,
    RetryPolicy,
    SpoolError,
    SyncInAsyncError,
)
from mixpanel._delivery.spool import blocks, maintenance, spooled_buffer, writer
from mixpanel._delivery.spool.folder import claim_orphan
from mixpanel._delivery.spool.store import SpoolStore
from mixpanel._runtime import shutdown
from mixpanel.cdp import AsyncCustomerIO, AsyncFanOut, CustomerIO, Sink
from tests.faults.kinds import KINDS
from tests.faults.oracle import within
from tests.faults.server import FaultServer

# A process that is killed closes nothing.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
NOWHERE = "http://127.0.0.1:9"
QUICK = RetryPolicy(first_wait=0.01, max_wait=0.05, max_age=10**6)


@pytest.fixture
def server():
    with FaultServer() as server:
        yield server


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    monkeypatch.setattr(writer, "RETRY_EVERY", 0.05)


@pytest.fixture(autouse=True)
def closed_at_the_end():
    """Close the clients that a test leaves open: no later test or exit sends their messages."""
    yield
    for each in list(writer._writers):
        each.close(5.0)
    for sender in list(shutdown.senders):
        if isinstance(sender.buffer, spooled_buffer.SpooledBuffer):
            sender.buffer.drop_all("closed", end_reason="closed")
        sender.close_sync()
    gc.collect()


def options(tmp_path, server=None, **more):
    limits = {"flush_after": 0.01, "request_timeout": 2.0, **more.pop("limits", {})}
    return {
        "base_url": NOWHERE if server is None else server.url,
        "spool": tmp_path / "spool",
        "limits": Limits(**limits),
        "retry": QUICK,
        **more,
    }


def unreachable(server):
    """Let every request fail, and prove that nothing of it was applied."""
    server.script[:] = [KINDS["503 own"]] * 10_000


def track(client, count, start=0, **more):
    """Track events, and close what async clients return: it was accepted by the call."""
    for number in range(start, start + count):
        result = client.track("u", "Visit", {"m": number}, **more)
        if result is not None:
            result.close()


async def until(condition):
    """Wait until something is true, for at most 20 s."""
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not become true")


def abandon(consumer):
    """Leave the files as a killed process would: unlocked, but neither closed nor deleted."""
    spool = consumer._sender.buffer.writer
    spool._closing = True
    with spool._io:
        for source in spool._files.all():
            os.close(source.lock._descriptor)
            source.lock._descriptor = None
        spool.leave_to_parent()
        spool._pid = -1
    spool.wake(at_once=True)


def is_free(path):
    lock = claim_orphan(path)
    if lock is not None:
        lock.release()
    return lock is not None


def files(tmp_path):
    return sorted((tmp_path / "spool").rglob("*.db"))


def dead_letters(tmp_path):
    found = []
    for path in files(tmp_path):
        with closing(sqlite3.connect(path)) as connection:
            found += connection.execute("SELECT reason, error, body FROM dead ORDER BY id")
    return [(reason, error, json.loads(body)) for reason, error, body in found]


# ---- what outlives a process --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("end", ["killed", "closed"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_next_process_delivers_what_is_left(tmp_path, server, end, backend):
    """Committed messages of any kind arrive once, in order for profiles, and no file is left."""
    import anyio

    unreachable(server)
    given = options(tmp_path, server)
    count = 200 if end == "killed" else 150

    async def first():
        limits = Limits(flush_after=1000.0)
        consumer = AsyncBufferedConsumer(**{**given, "limits": limits})
        mp = AsyncMixpanel("t", consumer)
        for number in range(50):
            await mp.track("u", "Visit", {"m": f"e{number}"})
            await mp.people_set("u", {"m": f"s{number}"})
            if end == "killed":  # closing may cut one off, which is ambiguous
                await mp.people_increment("u", {f"a{number}": 1})
            await mp.import_data(None, "u", "Visit", 1.7e9, {"m": f"i{number}"})
        await mp.commit()
        assert mp.health().spool.uncommitted == 0
        if end == "killed":
            abandon(consumer)
        else:
            result = await consumer.aclose(0.05)
            assert (result.pending, dict(result.dropped)) == (count, {})
            with pytest.raises(ClosedError):
                await mp.track("u", "Visit")

    async def second():
        async with AsyncMixpanel("t", **given) as mp:
            await mp.flush(20)
            stats = mp.stats()
            assert (stats.accepted, stats.delivered, stats.pending) == (count, count, 0)

    anyio.run(first, backend=backend)
    assert len(files(tmp_path)) == 1
    server.script.clear()
    anyio.run(second, backend=backend)
    assert set(server.record.applied.values()) == {1}
    assert len(server.record.applied) == count
    sets = [marker for marker in server.record.order if marker[0] == "s"]
    assert sets == [f"s{number}" for number in range(50)]
    assert within(10, lambda: not files(tmp_path))


@pytest.mark.slow
def test_a_sync_client_delivers_what_is_left(tmp_path, server):
    """`flush` also sends what an earlier process has left."""
    unreachable(server)
    retry = RetryPolicy(attempts=1)
    with Mixpanel("t", BufferedConsumer(**options(tmp_path, server, retry=retry))) as mp:
        track(mp, 120)
        mp.commit()
        mp.consumer.close(0.1)
    server.script.clear()
    with Mixpanel("t", BufferedConsumer(10, **options(tmp_path, server))) as mp:
        assert mp.flush(20).delivered == 120
        track(mp, 25, 200)
        assert mp.stats().delivered >= 140  # full batches were sent by the calls
        mp.consumer.close()
    assert len(server.record.applied) == 145
    assert within(10, lambda: not files(tmp_path))


def test_customer_io_messages_keep_their_kind_and_id(tmp_path, server):
    """`on_delivery` names the messages of an earlier process as that one did."""
    given = {**options(tmp_path, server), "base_url": f"{server.url}/cio"}
    unreachable(server)
    client = CustomerIO("key", **given)
    client.track("u", "Visit", {"m": "c1"}, message_id="id-1")
    client.identify("u", {"m": "c2"}, message_id="id-2")
    client.commit()
    client.close(0.05)
    server.script.clear()
    outcomes = []
    with CustomerIO("key", on_delivery=outcomes.append, **given) as client:
        client.flush(20)
    found = [(each.kind, each.message_id, each.fate) for each in outcomes]
    assert found == [("track", "id-1", "delivered"), ("identify", "id-2", "delivered")]
    assert server.record.order == ["c1", "c2"]


def test_destinations_do_not_share_messages(tmp_path, server):
    """What was tracked for one server or key is never sent to another."""
    for given in (options(tmp_path), options(tmp_path, geolocate=True)):
        mp = Mixpanel("t", BufferedConsumer(**{**given, "retry": RetryPolicy(attempts=1)}))
        track(mp, 3)
        mp.commit()
        mp.consumer.close(0.05)
    cio = CustomerIO("key", **options(tmp_path))
    cio.track("u", "Visit")
    cio.commit()
    cio.close(0.05)
    with CustomerIO("other", **{**options(tmp_path, server), "base_url": f"{server.url}/cio"}) as c:
        assert c.flush(5).pending == 0
    with Mixpanel("t", BufferedConsumer(**options(tmp_path, server))) as mp:
        assert mp.flush(5).delivered == 0
    assert not server.record.applied
    assert len({path.parent for path in files(tmp_path)}) >= 3


def test_a_running_process_adopts_the_files_of_dead_ones(tmp_path, server, monkeypatch):
    """Also when several died, one file after the other."""
    monkeypatch.setattr(writer, "ADOPT_EVERY", 0.05)

    async def main():
        dead = []
        for number in range(3):
            given = options(tmp_path, server, limits={"flush_after": 1000.0})
            consumer = AsyncBufferedConsumer(**given)
            dead.append(consumer)
            mp = AsyncMixpanel("t", consumer)
            track(mp, 10, number * 10)
            await mp.commit()
        async with AsyncMixpanel("t", **options(tmp_path, server)) as mp:
            await mp.track("u", "Visit", {"m": 99})
            await mp.flush(5)
            assert len(server.record.applied) == 1  # the others live
            for consumer in dead:
                abandon(consumer)
            for _ in range(200):
                if len(server.record.applied) == 31:
                    break
                await asyncio.sleep(0.05)
            await mp.flush(5)
            assert mp.stats().delivered == 31
        assert set(server.record.applied.values()) == {1}

    asyncio.run(main())
    assert within(10, lambda: not files(tmp_path))


def test_an_earlier_update_that_may_have_been_applied_is_not_sent_again(tmp_path, server):
    """`$add` was being sent when its process died: it becomes a dead letter; others are sent."""
    server.script[:] = [KINDS["stall after request, applied"]] * 50

    async def first():
        consumer = AsyncBufferedConsumer(**options(tmp_path, server))
        mp = AsyncMixpanel("t", consumer)
        await mp.people_increment("u", {"add-1": 1})
        await mp.people_set("u", {"m": "set-1"})
        await until(lambda: server.record.applied["add-1"])
        abandon(consumer)

    asyncio.run(first())
    server.script.clear()
    errors = []
    consumer = BufferedConsumer(**options(tmp_path, server, on_error=lambda e, _: errors.append(e)))
    with Mixpanel("t", consumer) as mp:
        mp.flush(20)
        stats = mp.stats()
        assert (stats.delivered, stats.dropped, stats.pending) == (1, {"ambiguous": 1}, 0)
        assert "were being sent when their process ended" in str(errors[0])
        consumer.close()
    assert server.record.applied["add-1"] == 1
    assert [reason for reason, _, _ in dead_letters(tmp_path)] == ["ambiguous"]


def test_an_update_whose_mark_cannot_be_written_is_not_sent(tmp_path, server, monkeypatch):
    """Without the mark, a crash could apply it twice."""
    unreachable(server)
    original = SpoolStore.set_state
    refusing = [True]

    def set_state(self, *args):
        if refusing[0]:
            raise sqlite3.OperationalError("disk I/O error")
        original(self, *args)

    async def main():
        monkeypatch.setattr(SpoolStore, "set_state", set_state)
        async with AsyncMixpanel("t", **options(tmp_path, server)) as mp:
            mp.people_increment("u", {"add-1": 1}).close()
            await mp.commit()
            server.script.clear()
            await mp.flush(0.3)
            assert not server.record.applied
            assert mp.health().spool.degraded is not None
            refusing[0] = False
            await mp.flush(10)
            assert mp.stats().delivered == 1

    asyncio.run(main())
    assert server.record.applied["add-1"] == 1


def test_a_mark_is_removed_when_nothing_was_applied(tmp_path, server):
    """The next process sends an update that was refused with proof, and did not fail otherwise."""
    server.script[:] = [KINDS["429"], *[KINDS["503 own"]] * 200]

    async def first():
        consumer = AsyncBufferedConsumer(**options(tmp_path, server))
        mp = AsyncMixpanel("t", consumer)
        mp.people_increment("u", {"add-1": 1}).close()
        await until(lambda: mp.stats().retried)
        await consumer.aclose(0.05)

    asyncio.run(first())
    server.script.clear()
    with Mixpanel("t", BufferedConsumer(**options(tmp_path, server))) as mp:
        mp.flush(20)
        assert mp.stats().dropped == {}
    assert server.record.applied["add-1"] == 1


# ---- commit and durable -------------------------------------------------------------------------


def test_durable_calls_return_when_the_message_is_on_disk(tmp_path):
    """Another connection can read it at that time, from async and from sync code."""

    def on_disk():
        count = 0
        for path in files(tmp_path):
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
                count += connection.execute("SELECT sum(count) FROM block").fetchone()[0] or 0
        return count

    async def main():
        mp = AsyncMixpanel("t", **options(tmp_path))
        await mp.track("u", "Visit", durable=True)
        assert on_disk() == 1
        await mp.people_set("u", {"a": 1}, durable=True)
        await mp.track_batch([{"event": "E", "properties": {}}] * 3, durable=True)
        await mp.alias("a", "b", durable=True)
        await mp.group_batch([{"$group_key": "k", "$group_id": "g", "$set": {}}], durable=True)
        assert on_disk() == 7
        await mp.consumer.aclose(0.05)

    asyncio.run(main())
    given = options(tmp_path, retry=RetryPolicy(attempts=1))
    mp = Mixpanel("t", BufferedConsumer(**given))
    mp.track("u", "Visit", durable=True)
    mp.people_increment("u", {"a": 1}, durable=True)
    assert on_disk() == 9
    mp.consumer.close(0.05)


def test_durable_without_a_spool_is_refused_before_the_message_is_accepted(server):
    """Except by a consumer that sends before the call returns."""
    mp = Mixpanel("t", BufferedConsumer(base_url=server.url, spool=False))
    with pytest.raises(ConfigurationError, match=r"durable=True needs a spool.*MP_SPOOL"):
        mp.track("u", "Visit", durable=True)
    with pytest.raises(ConfigurationError, match=r"commit\(\) needs a spool"):
        mp.commit()
    assert mp.stats().accepted == 0
    at_once = Mixpanel("t", Consumer(base_url=server.url))
    at_once.track("u", "Visit", {"m": 1}, durable=True)
    at_once.commit()
    assert server.record.applied[1] == 1


def test_durable_sync_calls_do_not_block_an_event_loop(tmp_path):
    """They raise, and name the async class."""

    async def main():
        mp = Mixpanel("t", BufferedConsumer(**options(tmp_path)))
        with pytest.raises(SyncInAsyncError, match="AsyncMixpanel"):
            mp.track("u", "Visit", durable=True)
        with pytest.raises(SyncInAsyncError):
            mp.commit()
        assert mp.stats().accepted == 0

    asyncio.run(main())


def test_many_durable_calls_share_commits(tmp_path, monkeypatch):
    """Those that wait at the same time are written in one transaction."""
    commits = []
    original = SpoolStore.add
    monkeypatch.setattr(
        SpoolStore, "add", lambda self, block: (commits.append(1), original(self, block))
    )

    async def main():
        mp = AsyncMixpanel("t", **options(tmp_path, durability="power"))
        await mp.track("u", "Visit", durable=True)
        commits.clear()
        await asyncio.gather(*[mp.track("u", "Visit", durable=True) for _ in range(300)])
        assert len(commits) < 30
        await mp.consumer.aclose(0.05)

    asyncio.run(main())


def test_a_fan_out_commits_all_its_sinks(tmp_path, server):
    """And shows the health of each."""

    async def main():
        cio = AsyncCustomerIO("key", **options(tmp_path))
        fan_out = AsyncFanOut(mixpanel=Sink(AsyncMixpanel("t", **options(tmp_path))), cio=Sink(cio))
        await fan_out.track("u", "Visit", {"m": 1})
        await fan_out.commit()
        health = fan_out.health()
        assert [health[name].spool.uncommitted for name in ("mixpanel", "cio")] == [0, 0]
        assert [health[name].pending for name in ("mixpanel", "cio")] == [1, 1]
        await fan_out.aclose(0.05)

    asyncio.run(main())


# ---- a backlog ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_backlog_stays_on_disk_and_is_read_in_pages(tmp_path, server, monkeypatch):
    """Memory holds a bounded number of messages, and order holds across pages and restarts."""
    monkeypatch.setattr(spooled_buffer, "LOADED", 100)
    monkeypatch.setattr(writer, "PAGE_MESSAGES", 60)
    monkeypatch.setattr(blocks, "MAX_BLOCK_MESSAGES", 25)
    given = options(tmp_path, server, limits={"max_batch_size": 30})
    unreachable(server)

    async def fill(start):
        consumer = AsyncBufferedConsumer(**given)
        mp = AsyncMixpanel("t", consumer)
        for number in range(start, start + 1000):
            mp.people_set("u", {"m": number}).close()
            if number % 90 == 0:
                await mp.commit()
        await mp.commit()
        queue = consumer._sender.buffer.queues["people"]
        assert len(queue.unsent) < 250
        assert mp.stats().pending == start + 1000
        assert mp.health().queues["people"].pending == start + 1000
        abandon(consumer)

    async def drain():
        async with AsyncMixpanel("t", **given) as mp:
            most = 0
            for number in range(2000, 2100):
                mp.people_set("u", {"m": number}).close()
            flush = asyncio.create_task(mp.flush(60))
            while not flush.done():
                queue = mp.consumer._sender.buffer.queues["people"]
                most = max(most, len(queue.unsent))
                await asyncio.sleep(0)
            assert mp.stats().delivered == 2100, mp.stats()
            assert most < 250

    asyncio.run(fill(0))
    asyncio.run(fill(1000))
    server.script.clear()
    asyncio.run(drain())
    # On a machine that is busy, a request may take too long, and its updates are sent again.
    assert list(dict.fromkeys(server.record.order)) == list(range(2100))


def test_the_age_of_a_message_survives_a_restart(tmp_path, server):
    """What is older than the policy's age when it is read back has expired."""
    unreachable(server)
    mp = Mixpanel("t", BufferedConsumer(**options(tmp_path, server, retry=RetryPolicy(1))))
    track(mp, 1)
    mp.commit()
    abandon(mp.consumer)
    with closing(sqlite3.connect(files(tmp_path)[0])) as connection, connection:
        connection.execute("UPDATE block SET created = created - 7 * 86400")
    unreachable(server)
    consumer = AsyncBufferedConsumer(**{**options(tmp_path, server), "retry": None})
    dropped = []
    consumer._sender.stats.on_drop = lambda reason, messages: dropped.append((reason, messages))

    async def main():
        mp = AsyncMixpanel("t", consumer)
        await mp.flush(5)
        assert mp.stats().dropped == {"expired": 1}
        await consumer.aclose()

    asyncio.run(main())
    assert dropped[0][1][0]["properties"]["m"] == 0
    assert dead_letters(tmp_path)[0][0] == "expired"


@pytest.mark.slow
@pytest.mark.parametrize("clock", [10.0, 4e9])
def test_a_wrong_clock_expires_nothing(tmp_path, server, monkeypatch, clock):
    """In 1970, or far in the future, an age that cannot be known counts as zero."""
    monkeypatch.setattr(blocks, "now", lambda: clock)
    mp = Mixpanel("t", BufferedConsumer(**options(tmp_path, server, retry=RetryPolicy(1))))
    unreachable(server)
    track(mp, 1)
    mp.commit()
    abandon(mp.consumer)
    server.script[:] = [KINDS["503 own"]]
    monkeypatch.undo()
    with Mixpanel("t", BufferedConsumer(**{**options(tmp_path, server), "retry": None})) as mp:
        mp.flush(20)
        assert mp.stats().delivered == 1, mp.stats()


# ---- limits -------------------------------------------------------------------------------------


def test_the_bytes_of_a_spool_are_bounded(tmp_path):
    """Further messages are dropped and counted, or refused; what was found does not count."""
    given = options(tmp_path, limits={"max_spool_bytes": 10_000})

    async def main():
        mp = AsyncMixpanel("t", **given)
        track(mp, 100)
        await mp.commit()
        stats = mp.stats()
        assert stats.dropped["queue_full"] == 100 - stats.pending
        assert stats.health.spool.bytes <= 10_000
        await mp.consumer.aclose(0.05)
        mp = AsyncMixpanel("t", **given, when_full="raise")
        await mp.commit()
        assert mp.stats().pending == stats.pending
        with pytest.raises(QueueFullError):
            await mp.track_batch([{"event": "E", "properties": {}}] * 200)
        with pytest.raises(QueueFullError):
            for _ in range(200):
                await mp.track("u", "Visit")
        await mp.consumer.aclose(0.05)

    asyncio.run(main())


def test_waiting_callers_continue_when_there_is_space(tmp_path, server):
    """With `when_full="wait"`, a full spool slows its callers down, and loses nothing."""
    given = options(tmp_path, server, limits={"max_spool_bytes": 6000, "max_queue_size": 20})

    async def main():
        async with AsyncMixpanel("t", **given, when_full="wait") as mp:
            for number in range(300):
                await mp.track("u", "Visit", {"m": number})
            await mp.flush(20)
            assert mp.stats().delivered == 300

    asyncio.run(main())
    assert len(server.record.applied) == 300


# ---- disks that fail ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("problem", ["I/O", "full", "floor", "read-only"])
def test_a_disk_that_fails_degrades_to_memory(tmp_path, server, monkeypatch, problem):
    """Messages are still sent, `on_error` is called once, `commit` raises; it ends by itself."""
    errors = []
    failing = [True]
    text = {"I/O": "disk I/O error", "full": "database or disk is full", "read-only": "readonly"}

    def broken(original):
        def call(*args, **kwargs):
            if failing[0]:
                raise sqlite3.OperationalError(text[problem])
            return original(*args, **kwargs)

        return call

    if problem == "floor":
        monkeypatch.setattr(writer, "free_bytes", lambda _: 1000 if failing[0] else 10**12)
        monkeypatch.setattr(writer, "CHECK_SPACE_EVERY", 0.0)
    else:
        monkeypatch.setattr(SpoolStore, "add", broken(SpoolStore.add))
    given = options(tmp_path, server, on_error=lambda error, _: errors.append(error))

    async def main():
        async with AsyncMixpanel("t", **given) as mp:
            track(mp, 10)
            with pytest.raises(SpoolError, match="cannot be written"):
                await mp.commit()
            health = mp.health()
            assert not health.ok
            assert health.spool.degraded
            await mp.flush(10)
            assert mp.stats().delivered == 10
            unreachable(server)
            track(mp, 10, 100)
            with suppress(SpoolError):
                await mp.commit()
            assert mp.health().spool.uncommitted == 10
            failing[0] = False
            for _ in range(100):
                await asyncio.sleep(0.02)
                if not mp.health().spool.uncommitted:
                    break
            await mp.commit()  # what was in memory only is written now
            assert mp.health().spool.degraded is None
            server.script.clear()
            await mp.flush(10)
            assert mp.stats().delivered == 20

    asyncio.run(main())
    assert len([error for error in errors if isinstance(error, SpoolError)]) == 1
    assert set(server.record.applied.values()) == {1}
    assert within(10, lambda: not files(tmp_path))


def test_a_folder_that_cannot_be_made_degrades_to_memory(tmp_path, server):
    """A folder that appears as a link after construction is not followed, and nothing crashes."""

    async def main():
        consumer = AsyncBufferedConsumer(**options(tmp_path, server))
        (tmp_path / "target").mkdir()
        (tmp_path / "spool").symlink_to(tmp_path / "target")
        mp = AsyncMixpanel("t", consumer)
        await mp.track("u", "Visit", {"m": 1})
        await mp.flush(5)
        assert "symbolic link" in mp.health().spool.degraded
        assert mp.stats().delivered == 1
        await consumer.aclose()

    asyncio.run(main())
    assert list((tmp_path / "target").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["garbage", "header", "empty table"])
def test_a_damaged_file_is_set_aside(tmp_path, server, damage):
    """It is kept under another name, reported, and a new one is started."""
    mp = Mixpanel("t", BufferedConsumer(**options(tmp_path, retry=RetryPolicy(1))))
    track(mp, 5)
    mp.commit()
    mp.consumer.close(0.05)
    assert within(10, lambda: not list((tmp_path / "spool").rglob("*-wal")))
    path = files(tmp_path)[0]
    name = path.parent.name
    if damage == "garbage":
        path.write_bytes(os.urandom(10_000))
    elif damage == "header":
        path.write_bytes(bytes(100) + path.read_bytes()[100:])
    else:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("DROP TABLE total")
    errors = []
    consumer = BufferedConsumer(**options(tmp_path, on_error=lambda e, _: errors.append(e)))
    mp = Mixpanel("t", consumer)
    track(mp, 3)
    mp.commit()
    assert mp.stats().pending == 3
    health = mp.health().spool
    assert (health.quarantined, health.degraded) == (1, None)
    consumer.close(0.05)
    kept = [each for each in (tmp_path / "spool" / name).iterdir() if ".corrupt-" in each.name]
    assert kept
    assert any("is damaged" in str(error) for error in errors)


def test_damage_while_running_loses_nothing_that_memory_holds(tmp_path, server, monkeypatch):
    """A new file gets what was in the damaged one."""
    original = SpoolStore.add
    damaged = [False]

    def add(self, block):
        if damaged[0]:
            damaged[0] = False
            raise sqlite3.DatabaseError("database disk image is malformed")
        original(self, block)

    monkeypatch.setattr(SpoolStore, "add", add)
    unreachable(server)

    async def main():
        consumer = AsyncBufferedConsumer(**options(tmp_path, server))
        mp = AsyncMixpanel("t", consumer)
        track(mp, 10)
        await mp.commit()
        damaged[0] = True
        track(mp, 10, 10)
        for _ in range(100):
            await asyncio.sleep(0.02)
            if not mp.health().spool.uncommitted:
                break
        assert mp.health().spool.quarantined == 1
        assert mp.stats().pending == 20
        abandon(consumer)

    asyncio.run(main())
    server.script.clear()
    with Mixpanel("t", BufferedConsumer(**options(tmp_path, server))) as mp:
        mp.flush(20)
    assert set(server.record.applied) == set(range(20))


def test_a_damaged_block_is_set_aside_alone(tmp_path, server, monkeypatch):
    """The other blocks of the file are delivered; the damage is counted and kept."""
    monkeypatch.setattr(writer, "GROUP_WINDOW", 60.0)  # only `commit` writes
    mp = Mixpanel("t", BufferedConsumer(**options(tmp_path, retry=RetryPolicy(1))))
    for number in range(3):
        track(mp, 4, number * 10)
        mp.commit()
    abandon(mp.consumer)
    path = files(tmp_path)[0]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "UPDATE block SET body = zeroblob(length(body)) WHERE id = "
            "(SELECT id FROM block ORDER BY id LIMIT 1 OFFSET 1)"
        )
    path.parent.rename(path.parent.with_name(_destination(tmp_path, server)))
    with Mixpanel("t", BufferedConsumer(**options(tmp_path, server))) as mp:
        mp.flush(20)
        stats = mp.stats()
        assert (stats.delivered, stats.dropped, stats.pending) == (8, {"corrupt": 4}, 0)
        mp.consumer.close()
    assert set(server.record.applied) == {0, 1, 2, 3, 20, 21, 22, 23}
    assert [reason for reason, _, _ in dead_letters(tmp_path)] == ["corrupt"]


def _destination(tmp_path, server):
    consumer = BufferedConsumer(**options(tmp_path, server))
    return consumer._sender.buffer.options.destination.folder_name


def test_a_file_that_is_deleted_is_written_again(tmp_path, server, monkeypatch):
    """What memory holds is in the new file."""
    monkeypatch.setattr(writer, "CHECK_SPACE_EVERY", 0.0)
    unreachable(server)

    async def main():
        consumer = AsyncBufferedConsumer(**options(tmp_path, server))
        mp = AsyncMixpanel("t", consumer)
        track(mp, 5)
        await mp.commit()
        for path in (tmp_path / "spool").rglob("*.db*"):
            path.unlink()
        track(mp, 5, 5)
        for _ in range(100):
            with suppress(SpoolError):
                await mp.commit()
            if not mp.health().spool.uncommitted:
                break
            await asyncio.sleep(0.02)
        abandon(consumer)

    asyncio.run(main())
    server.script.clear()
    with Mixpanel("t", BufferedConsumer(**options(tmp_path, server))) as mp:
        mp.flush(20)
    assert set(server.record.applied) == set(range(10))


# ---- dead letters -------------------------------------------------------------------------------


def test_rejected_messages_are_kept_with_the_reason_of_the_server(tmp_path, server):
    """They leave the queue in the same transaction, and are never sent again."""
    server.script[:] = [KINDS["400"]] * 3

    async def main():
        async with AsyncMixpanel("t", **options(tmp_path, server)) as mp:
            track(mp, 1)
            await mp.flush(10)
            assert mp.stats().rejected == 1
            await mp.commit()
            assert mp.health().spool.dead_letters == 1
            assert mp.stats().pending == 0

    asyncio.run(main())
    ((reason, error, message),) = dead_letters(tmp_path)
    assert (reason, message["properties"]["m"]) == ("rejected", 0)
    assert "400" in error


def test_an_api_secret_is_not_written(tmp_path, server):
    """It is used while its process lives; after that, the message is a dead letter."""
    unreachable(server)
    given = options(tmp_path, server, retry=RetryPolicy(1))
    mp = Mixpanel("t", BufferedConsumer(**given))
    mp.import_data("KEY", "u", "Visit", 1.7e9, {"m": 1}, api_secret="hunter2-hunter2")
    mp.commit()
    abandon(mp.consumer)
    for path in (tmp_path / "spool").rglob("*"):
        assert path.is_dir() or b"hunter2" not in path.read_bytes()
    server.script.clear()
    mp = Mixpanel("t", BufferedConsumer(**options(tmp_path, server)))
    mp.flush(10)
    assert mp.stats().dropped == {"no_credentials": 1}
    mp.consumer.close()
    assert not server.record.applied
    assert dead_letters(tmp_path)[0][0] == "no_credentials"
    # Moved back into its queue, it still needs credentials.
    assert maintenance.retry(tmp_path / "spool", reason=None, skipped=[]) == {"no_credentials": 1}
    mp = Mixpanel("t", BufferedConsumer(**options(tmp_path, server)))
    mp.flush(10)
    assert mp.stats().dropped == {"no_credentials": 1}
    mp.consumer.close()
    assert not server.record.applied


# ---- processes and threads ----------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_a_file_of_its_own(tmp_path, server):
    """Messages of the parent stay the parent's, and the child's end does not touch its files."""
    unreachable(server)
    consumer = AsyncBufferedConsumer(**options(tmp_path, server))
    mp = Mixpanel("t", consumer)
    track(mp, 20)
    mp.commit()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            assert mp.stats().pending == 0
            track(mp, 5, 100)
            mp.commit()
            assert len(files(tmp_path)) == 2
            gc.collect()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    track(mp, 5, 20)
    mp.commit()
    with closing(sqlite3.connect(f"file:{files(tmp_path)[0]}?mode=ro", uri=True)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    server.script.clear()
    within(20, lambda: len(server.record.applied) >= 25)
    mp.flush(10)
    with Mixpanel("t", BufferedConsumer(**options(tmp_path, server))) as other:
        other.flush(10)
    assert set(server.record.applied) == {*range(25), *range(100, 105)}


@pytest.mark.slow
def test_threads_lose_nothing(tmp_path, server):
    """Eight threads, with a spool that is read back in pages."""
    consumer = AsyncBufferedConsumer(**options(tmp_path, server))
    mp = Mixpanel("t", consumer)

    def work(start):
        track(mp, 500, start)

    threads = [threading.Thread(target=partial(work, n * 500)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    mp.flush(20)
    assert mp.stats().delivered == 4000
    assert set(server.record.applied) == set(range(4000))
    assert set(server.record.applied.values()) == {1}


def test_a_client_that_is_collected_closes_its_file(tmp_path):
    """Neither a thread nor a lock is left behind."""
    given = options(tmp_path)

    async def main():
        mp = AsyncMixpanel("t", **given)
        await mp.commit()
        assert len(files(tmp_path)) == 1
        return weakref.ref(mp.consumer._sender.buffer.writer)

    found = asyncio.run(main())
    assert within(10, lambda: gc.collect() < 0 or found() is None)
    assert within(10, lambda: is_free(*files(tmp_path)))  # its thread may run the finalizer
    mp = Mixpanel("t", BufferedConsumer(**given))
    mp.commit()
    assert len(files(tmp_path)) == 1  # the first one's was free, and is continued
    mp.consumer.close()


def test_a_callback_may_use_the_client(tmp_path, server, monkeypatch):
    """`on_error` of a spool that fails tracks and commits without waiting for itself."""
    monkeypatch.setattr(
        SpoolStore, "add", lambda *_: (_ for _ in ()).throw(sqlite3.OperationalError("disk full"))
    )
    called = []

    async def main():
        def on_error(error, _messages):
            if isinstance(error, SpoolError):
                track(mp, 1, 50)
                with suppress(SpoolError):
                    mp.consumer._sender.buffer.commit_blocking(5)
                called.append(error)

        mp = AsyncMixpanel("t", **options(tmp_path, server, on_error=on_error))
        await mp.track("u", "Visit", {"m": 1})
        await mp.flush(5)
        await until(lambda: called)
        await mp.flush(5)
        assert mp.stats().delivered == 2
        await mp.consumer.aclose()

    asyncio.run(main())


# ---- health -------------------------------------------------------------------------------------


def test_health_shows_what_each_queue_is_doing(tmp_path, server):
    """Depth, age, bytes, the last error, and what a halted queue waits for."""

    async def main():
        server.script[:] = [KINDS["401"]] * 50
        async with AsyncMixpanel("t", **options(tmp_path, server)) as mp:
            assert mp.health().ok
            assert mp.health().queues["events"].state == "idle"
            track(mp, 3)
            await mp.flush(5)
            health = mp.health()
            queue = health.queues["events"]
            assert (health.ok, health.pending, queue.state) == (False, 3, "halted")
            assert "401" in queue.error
            assert health.last_error == queue.error
            assert health.oldest_age > 0
            assert health.spool.messages == 3
            assert health.spool.bytes > 100
            assert mp.stats().health.queues["events"].state == "halted"
            json.dumps(health.as_dict())
            server.script[:] = [KINDS["503 own"]] * 50
            await mp.flush(0.2)
            assert mp.health().queues["events"].state in ("waiting", "sending")
            server.script.clear()
            await mp.flush(10)
            assert mp.health().ok
            assert mp.health().last_error is None

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.parametrize("face", ["Mixpanel", "AsyncMixpanel", "CustomerIO", "AsyncFanOut"])
def test_health_of_each_client_shows_what_an_earlier_process_left(
    tmp_path, server, monkeypatch, face
):
    """Depth, the age of the oldest, bytes, the last error, and the state of each queue."""
    unreachable(server)
    cdp = {**options(tmp_path, server), "base_url": f"{server.url}/cio"}
    plain = options(tmp_path, server)

    def made():
        if face == "Mixpanel":
            return Mixpanel("t", BufferedConsumer(**plain))
        if face == "AsyncMixpanel":
            return AsyncMixpanel("t", **plain)
        if face == "CustomerIO":
            return CustomerIO("key", **cdp)
        return AsyncFanOut(
            mp=Sink(AsyncMixpanel("t", **plain)), cio=Sink(AsyncCustomerIO("k", **cdp))
        )

    async def call(method, *arguments):
        result = await asyncio.to_thread(method, *arguments)
        if asyncio.iscoroutine(result):
            await result

    def closing_method(client):
        owner = client.consumer if face == "Mixpanel" else client
        return getattr(owner, "aclose", None) or owner.close

    async def main():
        first = made()
        track(first, 3)
        await call(first.commit)
        await call(closing_method(first), 0.05)
        monkeypatch.setattr(blocks, "now", lambda: time.time() + 3600)
        second = made()
        await call(second.commit)
        await call(second.flush, 0.2)
        healths, stats = second.health(), second.stats()
        if face == "AsyncFanOut":
            assert set(healths) == {"mp", "cio"}
            pairs = [(healths[name], stats[name].client) for name in healths]
        else:
            pairs = [(healths, stats)]
        for health, counted in pairs:
            assert (health.pending, health.spool.messages, health.spool.uncommitted) == (3, 3, 0)
            assert 3600 <= health.oldest_age < 3700
            assert health.spool.bytes > 100
            assert health.spool.file_bytes > 4096
            assert "503" in health.last_error
            (queue,) = [each for each in health.queues.values() if each.pending]
            # A sync Mixpanel sends in its calls, so nothing waits for the next attempt.
            assert queue.state in ("waiting", "sending", "gathering")[: 2 + (face == "Mixpanel")]
            assert counted.health.pending == 3
            json.dumps(health.as_dict())
        await call(closing_method(second), 0.05)

    asyncio.run(main())


def test_health_shows_the_age_of_messages_on_disk_only(tmp_path, monkeypatch):
    """Before the first page is read, and of messages that wait for the disk."""
    first = Mixpanel("t", BufferedConsumer(**options(tmp_path, retry=RetryPolicy(1))))
    track(first, 3)
    first.commit()
    first.consumer.close(0.05)
    monkeypatch.setattr(blocks, "now", lambda: time.time() + 7200)
    monkeypatch.setattr(writer.SpoolWriter, "_read_pages", lambda *_: False)
    second = Mixpanel("t", BufferedConsumer(**options(tmp_path)))
    second.commit()
    assert 7200 <= second.health().oldest_age < 7300
    second.consumer.close(0.05)
    monkeypatch.setattr(writer, "GROUP_WINDOW", 60.0)
    third = Mixpanel("t", BufferedConsumer(**options(tmp_path / "other")))
    track(third, 1)
    assert third.health().oldest_age is not None
    third.consumer.close(0.05)


def test_health_needs_no_spool(server):
    """A client with a memory buffer, or a consumer of the user's own, has it as well."""

    class Own:
        def send(self, *_):
            pass

    mp = Mixpanel("t", BufferedConsumer(base_url=server.url, spool=False))
    track(mp, 2)
    assert mp.health().queues["events"].state == "gathering"
    assert (mp.health().pending, mp.health().spool) == (2, None)
    mp.flush()
    assert mp.health().pending == 0
    assert Mixpanel("t", Own()).health().ok


# ---- the end of a program -----------------------------------------------------------------------

PROGRAM = """
import sys
from mixpanel import *
consumer = {"async": AsyncBufferedConsumer, "sync": BufferedConsumer}[sys.argv[1]]
mp = Mixpanel("t", consumer(base_url=sys.argv[2], spool=sys.argv[3]))
for number in range(130):
    mp.track("u", "Visit", {"m": number})
"""


def run_program(source, *arguments):
    command = [sys.executable, "-W", "error", "-c", source, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_program_that_ends_sends_or_keeps_its_messages(tmp_path, server, kind):
    """Without a call of `flush` or `close`: what cannot be sent is in the spool."""
    spool = tmp_path / "spool"
    unreachable(server)
    run_program(PROGRAM, kind, server.url, spool)
    with closing(sqlite3.connect(files(tmp_path)[0])) as connection:
        assert connection.execute("SELECT sum(messages) FROM total WHERE id > 0").fetchone()[0]
    server.script.clear()
    run_program(PROGRAM.replace("range(130)", "range(130, 140)"), kind, server.url, spool)
    assert set(server.record.applied) == set(range(140))
    assert files(tmp_path) == []


def test_sqlite_is_imported_only_for_a_spool():
    """A client without one neither imports it nor starts a thread."""
    run_program(
        "import sys, threading\n"
        "from mixpanel import AsyncMixpanel, BufferedConsumer, Mixpanel\n"
        "from mixpanel.cdp import CustomerIO\n"
        "AsyncMixpanel('t'), Mixpanel('t', BufferedConsumer()), CustomerIO('k')\n"
        "assert 'sqlite3' not in sys.modules\n"
        "AsyncMixpanel('t', spool='/tmp/never-made')\n"
        "assert threading.active_count() == 1\n"
    )


FULL_DISK = """
import asyncio, resource, sys
from mixpanel import AsyncMixpanel, AsyncBufferedConsumer, SpoolError
errors = []

async def main():
    consumer = AsyncBufferedConsumer(
        base_url=sys.argv[1], spool=sys.argv[2], on_error=lambda error, _: errors.append(error)
    )
    mp = AsyncMixpanel("t", consumer)
    await mp.track("u", "Visit", {"m": 0}, durable=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    for number in range(1, 5000):
        await mp.track("u", "Visit", {"m": number})
    try:
        await mp.commit()
    except SpoolError as error:
        print("refused:", error)
    assert mp.health().spool.degraded
    await mp.flush(20)
    assert mp.stats().delivered == 5000, mp.stats()
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    for _ in range(100):
        await asyncio.sleep(0.1)
        if mp.health().spool.degraded is None:
            break
    await mp.track("u", "Visit", {"m": 5000}, durable=True)
    await mp.flush(20)
    await consumer.aclose()

asyncio.run(main())
print(sum(isinstance(error, SpoolError) for error in errors), "reported")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_FSIZE as Linux has it")
def test_a_disk_that_is_really_full_degrades_to_memory(tmp_path, server):
    """The kernel refuses to write; everything is delivered, and the spool works again later."""
    done = run_program(FULL_DISK, server.url, tmp_path / "spool")
    assert "refused: the spool cannot be written" in done.stdout
    assert "1 reported" in done.stdout
    assert set(server.record.applied) == set(range(5001))
    assert files(tmp_path) == []
