"""The power fails; `python -m tests.faults.power --count 500` is the whole."""

import errno
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.effort import cases
from tests.faults import disk, power

pytestmark = [
    pytest.mark.slow,
    pytest.mark.heavy,
    pytest.mark.skipif(not disk.IS_AVAILABLE, reason="needs Linux and a C compiler"),
]
SHORT = {"seconds": 0.5, "sessions": ("killed", "killed")}


@pytest.mark.parametrize("durability", ["process", "power"])
def test_acknowledged_messages_outlive_a_power_failure(durability):
    """With "power" none is lost and no `$add` is applied twice; with both, no file is damaged."""
    tally = power.run(cases(15, 300), durability=durability, seed=5, **SHORT)
    assert tally.ok, str(tally)
    assert tally.acknowledged > 100
    assert tally.checks > 5
    assert tally.recovered > 0


def test_a_disk_that_ignores_syncs_loses_messages():
    """The simulation would find a spool that does not sync."""
    tally = power.run(10, durability="power", seed=5, syncs=False, **SHORT)
    assert tally.lost


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "disk"
    root.mkdir()
    return root


def entry(what, *, inode=0, number=0, path="", other="", data=b""):
    return disk.Entry(what, inode, number, str(path), str(other), data)


def test_only_what_was_synced_is_certain(folder, tmp_path):
    """Synced content under a synced name is always there, anything else in some cases only."""
    state = disk.Disk(folder)
    inode = folder.stat().st_ino
    for each in [
        entry("c", inode=1, path=folder / "a"),
        entry("w", inode=1, data=b"x" * 1024),
        entry("s", inode=1),
        entry("s", inode=inode),
        entry("w", inode=1, number=512, data=b"y" * 512),
        entry("t", inode=1, number=512),
        entry("c", inode=2, path=folder / "b"),
    ]:
        state.apply(each)
    left = set()
    for seed in range(300):
        target = tmp_path / str(seed)
        target.mkdir()
        state.after_power_loss(target, random.Random(seed))
        content = (target / "a").read_bytes()
        assert content[:512] == b"x" * 512
        left.add((content[512:], (target / "b").exists()))
    tails = {b"", b"x" * 512, b"y" * 512}
    assert {tail for tail, _ in left} == tails
    assert {exists for _, exists in left} == {True, False}


def test_each_change_of_a_process_is_logged(folder, tmp_path):
    """Of Python as of SQLite, and with it, a replay of the log makes the same files."""
    program = """
import os, sqlite3, sys
root = sys.argv[1]
os.mkdir(f"{root}/in")
with open(f"{root}/in/.t", "wb") as file:
    file.write(b"hello")
    os.fsync(file.fileno())
os.replace(f"{root}/in/.t", f"{root}/in/t")
connection = sqlite3.connect(f"{root}/in/x.db", isolation_level=None)
connection.execute("PRAGMA journal_mode = WAL")
connection.execute("CREATE TABLE t (x)")
for _ in range(50):
    connection.execute("INSERT INTO t VALUES (zeroblob(3000))")
connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
connection.execute("DELETE FROM t")
os.write(1, b"done\\n")
os._exit(0)
"""
    shared, log = disk.library(tmp_path), tmp_path / "log"
    subprocess.run(
        [sys.executable, "-c", program, folder], check=True,
        env=disk.environment(shared, folder, log=log),
    )  # fmt: skip
    state, marks = disk.Disk(folder), []
    for each in disk.entries(log.read_bytes()):
        if each.what == "M":
            marks.append(each.data)
        else:
            state.apply(each)
    assert marks == [b"done\n"]
    inner = state.root.names["in"]
    assert set(inner.names) == {path.name for path in (folder / "in").iterdir()}
    for name, file in inner.names.items():
        if not name.endswith("-shm"):  # it is mapped
            file.sync()
            assert bytes(file.content) == Path(folder / "in" / name).read_bytes(), name


def test_calls_fail_and_are_slow_as_the_harness_says(folder, tmp_path):
    """A process meets the error of a full disk from its second call on."""
    control = disk.Control.create(tmp_path / "control")
    control.fail(errno.ENOSPC, after=2)
    program = (
        "import os, sys\n"
        "descriptor = os.open(f'{sys.argv[1]}/a', os.O_CREAT | os.O_WRONLY)\n"
        "os.write(descriptor, b'x')\n"
        "try: os.write(descriptor, b'y')\n"
        "except OSError as error: print(error.errno)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, folder], check=True, capture_output=True, text=True,
        env=disk.environment(disk.library(tmp_path), folder, control=tmp_path / "control"),
    )  # fmt: skip
    assert done.stdout.strip() == str(errno.ENOSPC)
    assert (folder / "a").read_bytes() == b"x"
    assert (control.calls, control.failed) == (3, 1)
