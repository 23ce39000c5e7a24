"""What may be wrong with the folder of a spool is refused, or handled."""

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

from mixpanel import (
    AsyncMixpanel,
    BufferedConsumer,
    ConfigurationError,
    Limits,
    Mixpanel,
    RetryPolicy,
    SpoolError,
)
from mixpanel._delivery.spool import blocks, writer
from mixpanel._delivery.spool.folder import check_folder
from tests.faults.kinds import KINDS
from tests.faults.oracle import within
from tests.faults.server import FaultServer

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
LINUX = sys.platform == "linux"
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
QUICK = RetryPolicy(first_wait=0.01, max_wait=0.05, max_age=10**6)
NOBODY = 65534


@pytest.fixture
def server():
    with FaultServer() as server:
        yield server


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    monkeypatch.setattr(writer, "RETRY_EVERY", 0.05)


def options(tmp_path, server, **more):
    return {
        "base_url": server.url,
        "spool": tmp_path / "spool",
        "limits": Limits(flush_after=0.01, request_timeout=2.0, min_free_bytes=1),
        "retry": QUICK,
        **more,
    }


def unreachable(server):
    server.script[:] = [KINDS["503 own"]] * 10_000


def files(folder):
    return sorted(folder.rglob("*.db"))


KILLED = """
import os, signal, sys
from mixpanel import *
url, folder, count, size = sys.argv[1:]
mp = Mixpanel("t", BufferedConsumer(10**6, base_url=url, spool=folder, limits=Limits(
    flush_after=1000.0, min_free_bytes=1)))
for number in range(int(count)):
    mp.track("u", "Visit", {"m": number, "text": "x" * int(size)})
    if number % 20 == 19:
        mp.commit()
mp.commit()
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(tmp_path, server, count=200, size=10):
    """Leave a file as a process that is killed does: with its WAL."""
    folder = tmp_path / "spool"
    command = [sys.executable, "-c", KILLED, server.url, str(folder), str(count), str(size)]
    done = subprocess.run(command, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    (path,) = files(folder)
    return path


def drained(tmp_path, server):
    """Start the next process; return its stats when nothing is pending."""
    with Mixpanel("t", BufferedConsumer(**options(tmp_path, server))) as mp:
        mp.flush(30)
        mp.track("u", "Visit", {"m": "new"}, durable=True)
        mp.flush(30)
        mp.consumer.close()
        return mp.stats()


# ---- damaged files ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_wal_that_is_cut_anywhere_loses_only_what_comes_after(tmp_path, server):
    """What arrives is a prefix of what was committed, and the file is not set aside."""
    path = killed(tmp_path, server)
    wal = path.with_name(path.name + "-wal")
    original, whole = path.read_bytes(), wal.read_bytes()
    path.with_name(path.name + "-shm").unlink()
    lengths = set()
    for cut in [0, 31, 32, len(whole) - 1, *random.Random(18).sample(range(len(whole)), 12)]:
        path.write_bytes(original)
        wal.write_bytes(whole[:cut])
        stats = drained(tmp_path, server)
        # Several requests are in flight at once, so the order of their arrival is not fixed.
        arrived = sorted([marker for marker in server.record.order if marker != "new"])
        assert arrived == list(range(len(arrived)))
        assert (stats.delivered, stats.pending) == (len(arrived) + 1, 0)
        assert stats.health.spool.quarantined == 0
        lengths.add(len(arrived))
        server.record.order.clear()
        assert within(10, lambda: not files(tmp_path / "spool"))
    assert len(lengths) > 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cut", "garbage"])
def test_a_file_that_is_damaged_anywhere_stops_nothing(tmp_path, server, kind):
    """What can be read arrives, the rest is counted as dropped, and new messages are delivered."""
    path = killed(tmp_path, server, 400, 500)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = path.read_bytes()
    chosen = random.Random(18)
    folder = path.parent
    for attempt in range(14):
        at = [0, 1, 100, 4096, len(whole) - 1, len(whole) // 2][attempt] if attempt < 6 else (
            chosen.randrange(len(whole))
        )  # fmt: skip
        content = whole[:at] if kind == "cut" else (
            whole[:at] + chosen.randbytes(8192) + whole[at + 8192 :]
        )[: len(whole)]  # fmt: skip
        path.write_bytes(content)
        path.chmod(0o600)
        stats = drained(tmp_path, server)
        assert stats.pending == 0, (at, stats)
        assert stats.accepted == stats.delivered + sum(stats.dropped.values())
        assert "new" in server.record.applied
        arrived = [marker for marker in server.record.order if marker != "new"]
        assert len(set(arrived)) == len(arrived)
        server.record.order.clear()
        server.record.applied.clear()
        for each in folder.iterdir():
            if each.name != "destination.json":
                each.unlink()


@pytest.mark.slow
def test_an_empty_file_with_a_wal_is_set_aside(tmp_path, server):
    """SQLite would delete the WAL, and with it all that was committed."""
    path = killed(tmp_path, server)
    wal = path.with_name(path.name + "-wal")
    size = wal.stat().st_size
    os.truncate(path, 0)
    errors = []
    consumer = BufferedConsumer(
        **options(tmp_path, server, on_error=lambda error, _: errors.append(error))
    )
    with Mixpanel("t", consumer) as mp:
        mp.track("u", "Visit", {"m": "new"})
        mp.commit()
        assert mp.health().spool.quarantined == 1
        mp.consumer.close()
    (kept,) = path.parent.glob("*.corrupt-*-wal")
    assert kept.stat().st_size == size
    assert "is damaged" in str(errors[0])


# ---- folders that change ------------------------------------------------------------------------


def test_a_folder_that_is_removed_is_made_again(tmp_path, server):
    """With everything that memory holds; no call says that a message is on disk when it is not."""
    unreachable(server)
    spool = tmp_path / "spool"

    async def main():
        mp = AsyncMixpanel("t", **options(tmp_path, server))
        for number in range(50):
            await mp.track("u", "Visit", {"m": number})
        await mp.commit()
        shutil.rmtree(spool)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            with suppress(SpoolError):
                await mp.track("u", "Visit", {"m": "after"}, durable=True)
                break
            await asyncio.sleep(0.02)
        (path,) = files(spool)
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            assert connection.execute("SELECT sum(count) FROM block").fetchone()[0] >= 51
        server.script.clear()
        await mp.flush(20)
        await mp.consumer.aclose()

    asyncio.run(main())
    assert {*range(50), "after"} <= set(server.record.applied)
    assert set(server.record.applied.values()) == {1}


AS_NOBODY = """
import asyncio, os, sys
from pathlib import Path
import mixpanel._delivery.spool.spooled_buffer, mixpanel._delivery.spool.options
import anyio._backends._asyncio, httpx, sqlite3, encodings.idna
from mixpanel import *

async def main():
    url, parent = sys.argv[1], Path(sys.argv[2])
    errors = []
    def made():
        return AsyncMixpanel(
            "t", base_url=url, spool=parent / "spool", on_error=lambda e, _: errors.append(e),
            retry=RetryPolicy(first_wait=0.01, max_wait=0.05, max_age=10**6),
            limits=Limits(flush_after=0.05, min_free_bytes=1),
        )
    mp = made()
    await mp.track("u", "Visit", {"m": 0})
    await mp.flush(20)
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    await mp.consumer.aclose(0.1)
    parent = parent / "mine"
    parent.mkdir()
    mp = made()
    await mp.track("u", "Visit", {"m": 1}, durable=True)
    inner, = (parent / "spool").iterdir()
    inner.chmod(0)
    for number in range(2, 100):
        await mp.track("u", "Visit", {"m": number})
    try:
        await mp.commit()
        print("first: on disk")
    except SpoolError as error:
        print("first:", error)
    await mp.flush(20)
    await mp.consumer.aclose()
    print("first:", mp.stats().delivered, "delivered")
    try:
        made()
    except ConfigurationError as error:
        print("refused:", error)
    inner.chmod(0o700)
    second = made()
    inner.chmod(0)
    await second.track("u", "Visit", {"m": 100})
    try:
        await second.commit()
    except SpoolError as error:
        print("second:", error)
    print("second degraded:", second.health().spool.degraded)
    await second.flush(20)
    inner.chmod(0o700)
    while second.health().spool.degraded:
        await asyncio.sleep(0.1)
    await second.track("u", "Visit", {"m": 101}, durable=True)
    await second.flush(20)
    await second.consumer.aclose()
    print("second:", second.stats().delivered, "delivered")

asyncio.run(asyncio.wait_for(main(), 60))
"""


@pytest.mark.slow
@pytest.mark.skipif(not (LINUX and IS_ROOT), reason="root ignores permissions: it has to drop them")
def test_a_folder_without_permissions_degrades_to_memory(server):
    """A running process notices nothing; a new one is refused, or delivers from memory."""
    with tempfile.TemporaryDirectory() as folder:  # others may not enter `tmp_path`
        Path(folder).chmod(0o777)
        command = [sys.executable, "-c", AS_NOBODY, server.url, folder]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    assert "first: 99 delivered" in done.stdout
    assert "first: on disk" in done.stdout  # files that are open stay usable
    assert "cannot be read: Permission denied" in done.stdout.split("refused: ")[1]
    assert "second: 2 delivered" in done.stdout
    assert set(server.record.applied) == set(range(102))


@pytest.mark.skipif(not (LINUX and IS_ROOT), reason="only root may give a folder away")
def test_a_folder_that_really_belongs_to_another_user_is_refused(tmp_path):
    """At construction, whatever its mode."""
    (tmp_path / "spool").mkdir(mode=0o700)
    os.chown(tmp_path / "spool", NOBODY, NOBODY)
    with pytest.raises(ConfigurationError, match=r"belongs to another user \(uid 65534\)"):
        check_folder(tmp_path / "spool")


# ---- clocks -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("clock", [0.0, 1e9, 4e9, 1e11])
def test_a_clock_that_is_wrong_at_the_restart_expires_nothing(tmp_path, server, monkeypatch, clock):
    """Before 2020, or more than a year after the message was written, its age is not known."""
    killed(tmp_path, server, 20)
    monkeypatch.setattr(blocks, "now", lambda: clock)
    server.script[:] = [KINDS["503 own"]]  # the age counts after a failure
    given = {**options(tmp_path, server), "retry": None}
    with Mixpanel("t", BufferedConsumer(**given)) as mp:
        mp.flush(20)
        assert (mp.stats().delivered, mp.stats().dropped) == (20, {})
        mp.consumer.close()


@pytest.mark.parametrize("clock", [0.0, 4e9])
def test_a_clock_that_jumps_while_a_process_runs_expires_nothing(
    tmp_path, server, monkeypatch, clock
):
    """The age of its own messages is measured by the monotonic clock."""
    unreachable(server)

    async def main():
        async with AsyncMixpanel("t", **{**options(tmp_path, server), "retry": None}) as mp:
            await mp.track("u", "Visit", {"m": 1}, durable=True)
            monkeypatch.setattr(time, "time", lambda: clock)
            await mp.track("u", "Visit", {"m": 2}, durable=True)
            server.script.clear()
            await mp.flush(20)
            assert (mp.stats().delivered, mp.stats().dropped) == (2, {})

    asyncio.run(main())


# ---- disks and containers -----------------------------------------------------------------------


def can_unshare():
    if not (LINUX and IS_ROOT and shutil.which("unshare") and shutil.which("mount")):
        return False
    command = ["unshare", "--pid", "--mount", "--fork", "--mount-proc", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


needs_namespaces = pytest.mark.skipif(not can_unshare(), reason="needs root, unshare and mount")

FILL = """
import os, signal, sys
from mixpanel import *
url, folder, report = sys.argv[1:]
mp = Mixpanel("t", BufferedConsumer(10**6, base_url=url, spool=folder, limits=Limits(
    flush_after=1000.0, min_free_bytes=1, max_queue_bytes=10**8)))
acknowledged = 0
try:
    while True:
        for number in range(acknowledged, acknowledged + 40):
            mp.track("u", "Visit", {"m": number, "text": os.urandom(2000).hex()})
        mp.commit()
        acknowledged += 40
except SpoolError as error:
    open(report, "w").write(f"{acknowledged} {error}")
    assert mp.health().spool.degraded
os.kill(os.getpid(), signal.SIGKILL)
"""
THEN = """
import sys
from mixpanel import *
url, folder, report = sys.argv[1:]
consumer = BufferedConsumer(base_url=url, spool=folder, limits=Limits(min_free_bytes=1))
with Mixpanel("t", consumer) as mp:
    mp.flush(60)
    assert mp.stats().pending == 0, mp.stats()
    mp.consumer.close()
"""
ON_A_SMALL_DISK = """
set -e
mount -t tmpfs -o size=6m,mode=0700 tmpfs "$1"
"$2" -c "$3" "$5" "$1/spool" "$6" || test $? = 137
df "$1" >&2
"$2" -c "$4" "$5" "$1/spool" "$6"
"""


@pytest.mark.slow
@needs_namespaces
def test_a_disk_that_fills_up_in_a_commit_loses_nothing_acknowledged(tmp_path, server):
    """A file system of 6 MB: `commit` raises, `kill -9` follows; the next start delivers all.

    No space is made in between: only sending what is there can make it.
    """
    disk, report = tmp_path / "disk", tmp_path / "report"
    disk.mkdir()
    command = [
        "unshare", "--mount", "sh", "-c", ON_A_SMALL_DISK, "sh", str(disk), sys.executable, FILL,
        THEN, server.url, str(report),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    acknowledged, text = report.read_text().split(" ", 1)
    assert int(acknowledged) > 200
    assert "full" in text or "only 0 bytes are free" in text
    assert set(range(int(acknowledged))) <= set(server.record.applied)
    assert set(server.record.applied.values()) == {1}


CONTAINER = """
import os, sys
from mixpanel import *
url, folder, first = sys.argv[1:]
mp = Mixpanel("t", BufferedConsumer(10**6, base_url=url, spool=folder, limits=Limits(
    flush_after=1000.0, min_free_bytes=1)))
for number in range(int(first), int(first) + 10):
    mp.track("u", "Visit", {"m": number})
mp.commit()
print(os.getpid(), mp.stats().accepted, flush=True)
sys.stdin.readline()
mp.flush(20)
mp.consumer.close()
print(mp.stats().delivered, flush=True)
"""


@pytest.mark.slow
@needs_namespaces
def test_containers_that_share_a_volume_do_not_take_each_others_files(tmp_path, server):
    """In pid namespaces of their own, both are process 1; what one leaves, the other adopts."""
    folder = tmp_path / "spool"

    def container(first):
        command = [
            "unshare", "--pid", "--mount", "--fork", "--mount-proc", "--kill-child",
            sys.executable, "-c", CONTAINER, server.url, str(folder), str(first),
        ]  # fmt: skip
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    with container(0) as one, container(100) as two:
        first, second = one.stdout.readline().split(), two.stdout.readline().split()
        assert (first, second) == (["1", "10"], ["1", "10"])
        assert len(files(folder)) == 2
        one.kill()
        one.wait()
        with container(200) as three:
            assert three.stdout.readline().split() == ["1", "20"]  # its own, and the first's
            for each, count in ((three, 20), (two, 10)):
                each.stdin.write("\n")
                each.stdin.flush()
                assert int(each.stdout.readline()) == count
    assert set(server.record.applied) == {*range(10), *range(100, 110), *range(200, 210)}
    assert set(server.record.applied.values()) == {1}
    assert within(10, lambda: not files(folder))
