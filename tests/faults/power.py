"""Cut the power at random points, hundreds of times, and account for each acknowledged message.

python -m tests.faults.power                              100 cuts for each durability
python -m tests.faults.power --count 500 --durability power

A library between a process and its disk (`disk.c`) logs each write, truncation, new or removed
name, and each sync that succeeded, while the process tracks through a spool, is killed, and is
started again. A power failure is then a place in that log: what was synced before it is on the
disk, and of what was not, a random part, down to single sectors of a write. New and removed names
count as durable only after their folder was synced. The spool opens what is left and delivers it.

With `durability="power"`, each message that was acknowledged before the cut must have been applied,
or be among the dead letters, and no `$add` may be applied twice. With `"process"` the last ones may
be lost; they are counted, and all files must be intact.
"""

import argparse
import asyncio
import json
import logging
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults import disk, kills
from tests.faults.kinds import KINDS
from tests.faults.server import FaultServer, Record

APPLIED = "applied"
SESSIONS = ("killed", "killed", "ended", "killed")  # how the processes of a recording end
WAIT = 30.0  # seconds that a process may take to start


@dataclass
class Tally:
    """What came of all power failures of one durability."""

    durability: str
    cuts: int = 0
    acknowledged: int = 0  # the sum over all cuts
    lost: list = field(default_factory=list)
    cuts_with_loss: int = 0
    copies: list = field(default_factory=list)  # under a second key
    twice: list = field(default_factory=list)  # `$add` applied again
    damaged: list = field(default_factory=list)
    recovered: int = 0  # messages that came from the spool
    checks: int = 0
    entries: int = 0  # of the log
    syncs: int = 0
    seconds: float = 0.0

    @property
    def ok(self):
        if self.damaged or self.copies:
            return False
        return self.durability == "process" or not (self.lost or self.twice)

    @property
    def figures(self):
        return {
            "durability": self.durability, "cuts": self.cuts, "acknowledged": self.acknowledged,
            "lost": len(self.lost), "cuts_with_loss": self.cuts_with_loss,
            "copies": len(self.copies), "add_twice": len(self.twice),
            "damaged": len(self.damaged), "integrity_checks": self.checks,
            "recovered": self.recovered,
        }  # fmt: skip

    def __str__(self):
        promise = "may be" if self.durability == "process" else "must be 0"
        rows = [
            ("acknowledged before", self.acknowledged, ""),
            (f"of these lost ({promise})", len(self.lost), self.lost),
            ("recovered from the spool", self.recovered, ""),
            ("copies under another key", len(self.copies), self.copies),
            ("$add applied twice", len(self.twice), self.twice),
            ("integrity checks", self.checks, ""),
            ("damaged", len(self.damaged), self.damaged),
        ]
        lines = [f"  {name:34}{count:>9,}  {some[:5] or ''}" for name, count, some in rows]
        title = (
            f'durability="{self.durability}": {self.cuts} power failures, {self.cuts_with_loss} of '
            f"them with loss, among {self.entries:,} changes and syncs, in {self.seconds:.0f} s"
        )
        return "\n".join([title, *(line.rstrip() for line in lines)])


# ---- recording ----------------------------------------------------------------------------------


class LoggedRecord(Record):
    """A server's record that is also written to the log, in the order of events."""

    log = -1

    def apply(self, endpoint, messages):
        before = Counter(self.applied)
        super().apply(endpoint, messages)
        what = [
            [marker, [repr(key) for key in self.keys[marker]], marker in self.unsafe, times]
            for marker, times in (self.applied - before).items()
        ]
        os.write(self.log, disk.mark(f"{APPLIED} {json.dumps(what)}\n".encode()))


class Recorder:
    """The processes of one recording, one after the other."""

    def __init__(self, folder, server, *, seed, durability):
        self.folder = Path(folder)
        self.root = self.folder / "disk"
        self.root.mkdir()
        self.log = self.folder / "log"
        self.server = server
        self.durability = durability
        self.chance = random.Random(seed)
        self.library = disk.library(folder)

    def record(self, seconds, sessions=SESSIONS):
        """Run all sessions, of about `seconds` each; return the entries of the log."""
        descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            self.server.record = LoggedRecord()
            self.server.record.log = descriptor
            for number, end in enumerate(sessions):
                self.server.script[:] = [
                    KINDS[self.chance.choice(kills.FAULTS)]
                    for _ in range(0 if end == "ended" else self.chance.randrange(10, 80))
                ]
                self._run(number * 1_000_000, end, seconds * self.chance.uniform(0.5, 1.5))
        finally:
            self.server.record = Record()
            os.close(descriptor)
        return list(disk.entries(self.log.read_bytes()))

    def _run(self, first, end, seconds):
        given = {
            "url": self.server.url, "spool": str(self.root / "spool"), "first": first,
            "seed": self.chance.randrange(2**31), "durability": self.durability,
            "finish": end == "ended",
        }  # fmt: skip
        before = self.log.stat().st_size
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.power", "--work", json.dumps(given)],
            env=disk.environment(self.library, self.root, log=self.log),
        )
        try:
            self._await_start(process, before)
            if end == "killed":
                time.sleep(seconds)
                assert process.poll() is None, "the process ended by itself"
            else:
                assert process.wait(60) == 0, "the process failed"
        finally:
            process.kill()
            code = process.wait()
        assert end == "ended" or code == -signal.SIGKILL, code

    def _await_start(self, process, before):
        began = f"{kills.STARTED}\n".encode()
        end = time.monotonic() + WAIT
        with self.log.open("rb") as file:
            while time.monotonic() < end and process.poll() is None:
                file.seek(before)
                if began in file.read():
                    return
                time.sleep(0.02)
        raise AssertionError("the process did not start")


# ---- the power failures -------------------------------------------------------------------------


@dataclass
class Before:
    """What was known outside of the process up to a place of the log."""

    tracked: dict = field(default_factory=dict)  # marker by number
    acknowledged: set = field(default_factory=set)  # markers
    applied: Counter = field(default_factory=Counter)
    keys: dict = field(default_factory=dict)
    unsafe: set = field(default_factory=set)
    _pending: list = field(default_factory=list)
    _text: str = ""

    def apply(self, entry):
        """Follow a mark; return True if it acknowledges messages."""
        what, _, value = entry.data.decode().strip().partition(" ")
        if what == kills.STARTED:
            self._pending.clear()
        elif what == kills.TRACKED:
            self._pending += value.split()
        elif what == kills.ACKNOWLEDGED:
            self.acknowledged.update(self._pending)
            self._pending.clear()
            return True
        elif what == APPLIED:
            for marker, keys, unsafe, times in json.loads(value):
                self.applied[marker] += times
                self.keys.setdefault(marker, set()).update(keys)
                if unsafe:
                    self.unsafe.add(marker)
        return False


def places(entries, count, chance):
    """Return places of a log: half of them anywhere, half soon after an acknowledgement."""
    acknowledged = [
        number for number, entry in enumerate(entries, 1)
        if entry.what == "M" and entry.data.startswith(kills.ACKNOWLEDGED.encode())
    ]  # fmt: skip
    assert acknowledged, "nothing was acknowledged"
    # The first commits: their files and folders are new.
    found = [acknowledged[n] for n in range(min(count // 10, len(acknowledged)))]
    while len(found) < count:
        if len(found) % 2:
            found.append(chance.randrange(1, len(entries) + 1))
        else:
            at = chance.choice(acknowledged) + chance.choice([0, 0, 1, 2, 5])
            found.append(min(len(entries), at))
    return sorted(found)


def cut(entries, recorder, count, tally, chance, *, syncs=True, shown=lambda _: None):
    """Cut the power `count` times, and add what came of it to the tally."""
    state, before, done = disk.Disk(recorder.root, syncs=syncs), Before(), 0
    tally.entries += len(entries)
    tally.syncs += sum(entry.what == "s" for entry in entries)
    for place in places(entries, count, chance):
        for entry in entries[done:place]:
            if entry.what == "M":
                before.apply(entry)
            else:
                state.apply(entry)
        done = place
        with tempfile.TemporaryDirectory(dir=recorder.folder) as folder:
            state.after_power_loss(folder, chance)
            _recover(Path(folder) / "spool", recorder, before, tally, f"place {place}")
        tally.cuts += 1
        shown(tally)


def _recover(spool, recorder, before, tally, where):
    """Check the files, deliver what is in them, and compare."""
    for path in spool.rglob("*.db"):
        found = _integrity(path)
        tally.checks += 1
        if found != "ok":
            tally.damaged.append(f"{where}: {path.name}: {found}")
    record = recorder.server.record = Record()
    recorder.server.script.clear()
    consumer, mp, cio = kills.clients(recorder.server.url, str(spool), recorder.durability)
    asyncio.run(_deliver(consumer, mp, cio, tally, where))
    dead = kills.dead_letters(spool)
    tally.acknowledged += len(before.acknowledged)
    tally.recovered += len(record.applied) + len(dead)
    lost = [m for m in before.acknowledged
            if not before.applied[m] and not record.applied[m] and m not in dead]  # fmt: skip
    tally.lost += [f"{marker} ({where})" for marker in sorted(lost)]
    tally.cuts_with_loss += bool(lost)
    for marker, keys in record.keys.items():
        if len(before.keys.get(marker, set()) | {repr(key) for key in keys}) > 1:
            tally.copies.append(f"{marker} ({where})")
    for marker in before.unsafe | record.unsafe:
        if before.applied[marker] + record.applied[marker] > 1:
            tally.twice.append(f"{marker} ({where})")


def _integrity(path):
    """Check a copy of a database: opening it would change it."""
    with tempfile.TemporaryDirectory() as copies:
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                shutil.copy(f"{path}{suffix}", copies)
        with closing(sqlite3.connect(Path(copies) / path.name)) as connection:
            try:
                return connection.execute("PRAGMA integrity_check").fetchone()[0]
            except sqlite3.Error as error:
                return str(error)


async def _deliver(consumer, mp, cio, tally, where):
    async with mp, cio:
        await consumer._sender.buffer.commit()  # the spool is open
        await cio._sender.buffer.commit()
        for _ in range(20):
            await mp.flush(5)
            await cio.flush(5)
            if not (mp.stats().pending or cio.stats().pending):
                break
        for client in (mp, cio):
            stats = client.stats()
            if stats.pending:
                tally.damaged.append(f"{where}: {stats.pending} pending")
            if stats.dropped.get("corrupt") or stats.health.spool.quarantined:
                tally.damaged.append(f"{where}: {stats.dropped}, {stats.health.spool}")
    await consumer.aclose()


def run(
    count, *, durability, seed=None, seconds=1.5, sessions=SESSIONS, syncs=True,
    shown=lambda _: None,
):  # fmt: skip
    """Record as often as needed for `count` power failures of one durability; return the tally."""
    began, tally = time.monotonic(), Tally(durability)
    chance = random.Random(seed)
    logging.disable()
    try:
        while tally.cuts < count:
            with tempfile.TemporaryDirectory() as folder, FaultServer(deadline=1.0) as server:
                # What the server has applied is compared with the folder at the same path.
                recorder = Recorder(
                    Path(folder).resolve(), server, seed=chance.random(), durability=durability
                )
                entries = recorder.record(seconds, sessions)
                cuts = min(100, count - tally.cuts)
                cut(entries, recorder, cuts, tally, chance, syncs=syncs, shown=shown)
    finally:
        logging.disable(logging.NOTSET)
    tally.seconds = time.monotonic() - began
    return tally


def main():
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.power", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--count", type=int, default=100, help="power failures of each (100)")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--durability", choices=["process", "power"], help="both by default")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        logging.disable()
        asyncio.run(kills.work(argparse.Namespace(**json.loads(given.work))))
        return 0
    if not disk.IS_AVAILABLE:
        print("this needs Linux and a C compiler", file=sys.stderr)
        return 2
    seed = given.seed if given.seed is not None else random.randrange(10**6)
    print(f"seed {seed}", flush=True)

    def shown(tally):
        if sys.stderr.isatty():
            print(f"\r{tally.cuts} power failures", end="", file=sys.stderr, flush=True)

    ok = True
    for durability in [given.durability] if given.durability else ["process", "power"]:
        tally = run(given.count, durability=durability, seed=seed, shown=shown)
        print(tally, flush=True)
        ok = ok and tally.ok
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
