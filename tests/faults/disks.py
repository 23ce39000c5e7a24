"""Let the disk of a spool be full, read-only, slow or damaged, and account for each message.

python -m tests.faults.disks                   all scenarios
python -m tests.faults.disks "no space"        those whose name contains this
python -m tests.faults.disks --count 500       as many damaged files as that (100)

In the first scenarios a process tracks before, while and after its disk fails: the library of
`disk.c` lets calls fail or makes them slow, `RLIMIT_FSIZE` and a small tmpfs are real. Then each
single call fails once, while messages of an earlier process are delivered. Last, bytes of files are
changed, and files are cut at each page. Nothing may raise into the caller, and each message must be
delivered, or be counted as dropped.
"""

import argparse
import asyncio
import errno
import json
import logging
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from mixpanel import AsyncBufferedConsumer, AsyncMixpanel, Limits, RetryPolicy, SpoolError
from mixpanel._delivery.spool.writer import RETRY_EVERY
from tests.faults import disk
from tests.faults.kinds import KINDS
from tests.faults.server import FaultServer, Record

BEFORE, DURING, AFTER = 50, 500, 50  # messages that a process tracks
TMPFS = 4 * 1024 * 1024
FILE_LIMIT = 150_000
SLOW = 300_000  # microseconds of each sync
EVENTS, BLOCK = 60, 6  # in a file that is damaged, and in each of its blocks
RETRIES = 2.5  # attempts of a degraded spool to write, while its disk fails
HEALS = 15.0  # seconds in which a spool must have noticed that its disk works
COLUMNS = (
    "recovered",
    "counted as dropped",
    "in the WAL",
    "in a file set aside",
    "unaccounted",
    "files set aside",
)  # of messages in damaged files
SCENARIOS = {}


@dataclass
class Outcome:
    """What came of a scenario: its figures, and what was not as promised."""

    name: str
    figures: dict = field(default_factory=dict)
    problems: list = field(default_factory=list)
    notes: list = field(default_factory=list)
    skipped: str = ""

    @property
    def ok(self):
        return not self.problems

    def expect(self, holds, problem):
        if not holds:
            self.problems.append(problem)

    def __str__(self):
        shown = ", ".join(
            f"{value:,} {name}" if isinstance(value, int) else f"{name} {value}"
            for name, value in self.figures.items()
        )
        state = f"skipped ({self.skipped})" if self.skipped else "ok" if self.ok else "FAILED"
        return "\n".join(
            [f"{self.name}: {state}: {shown}", *map(str, (*self.problems[:10], *self.notes[:10]))]
        )


def scenario(name):
    def keep(function):
        SCENARIOS[name] = function
        return function

    return keep


class NotHereError(Exception):
    """This machine cannot play a scenario."""


def run(name, *, count=100, seed=None):
    """Run one scenario and return its outcome."""
    outcome = Outcome(name)
    with tempfile.TemporaryDirectory() as folder, FaultServer() as server:
        world = World(Path(folder).resolve(), server, outcome, count, random.Random(seed))
        try:
            with world.stack:
                SCENARIOS[name](world)
        except NotHereError as error:
            outcome.skipped = str(error)
    return outcome


class World:
    """A folder, a server, and the process under test."""

    def __init__(self, folder, server, outcome, count, chance):
        self.folder, self.server, self.outcome = folder, server, outcome
        self.count, self.chance = count, chance
        self.stack = ExitStack()
        self.root = folder / "disk"
        self.root.mkdir()

    @property
    def spool(self):
        return self.root / "spool"

    def control(self):
        """Return the control of a disk whose calls may fail."""
        if not disk.IS_AVAILABLE:
            raise NotHereError("needs Linux and a C compiler")
        return disk.Control.create(self.folder / "control")

    def tmpfs(self):
        """Mount a small file system as the disk."""
        command = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS},mode=700", "tmpfs", self.root]
        if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
            raise NotHereError("a file system cannot be mounted here")
        self.stack.callback(subprocess.run, ["umount", "-l", self.root], check=True)

    def remount(self, how):
        subprocess.run(["mount", "-o", f"remount,{how}", self.root], check=True)

    def process(self):
        """Start the process under test."""
        environment = None
        if (self.folder / "control").exists():
            environment = disk.environment(
                disk.library(self.folder), self.root, control=self.folder / "control"
            )
        return self.stack.enter_context(Process(self.server.url, self.spool, environment))

    def compare(self, during, after, *, degrades=True):
        """Check what a process reported, and what arrived."""
        outcome, applied = self.outcome, self.server.record.applied
        tracked = BEFORE + DURING + AFTER
        outcome.figures |= {
            "tracked": tracked, "delivered": len(applied), "copies": sum(applied.values())
            - len(applied), "calls of on_error": after["reported"],
        }  # fmt: skip
        outcome.expect(len(applied) == tracked, f"{tracked - len(applied)} are missing")
        outcome.expect(set(applied.values()) <= {1}, "some were applied twice")
        outcome.expect(after["stats"]["delivered"] == tracked, after["stats"])
        outcome.expect(not after["degraded"], f"still degraded: {after['degraded']}")
        outcome.expect(not after["raised"] and not during["raised"], [during, after])
        if degrades:
            outcome.expect(during["refused"], "commit() did not raise")
            outcome.expect(during["degraded"], "health() does not show it")
            outcome.expect(after["reported"] == 1, f"on_error was called {after['reported']} times")
        left = list(self.root.rglob("*.db"))
        outcome.expect(not left, f"files are left: {left}")


# ---- a process whose disk fails -----------------------------------------------------------------


class Process:
    """A process that tracks in three steps, each when it is let."""

    def __init__(self, url, spool, environment):
        self._arguments = [sys.executable, "-m", "tests.faults.disks", "--work", url, str(spool)]
        self._environment = environment

    def __enter__(self):
        self._process = subprocess.Popen(
            self._arguments, env=self._environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    def step(self, command=""):
        """Let it do the next step; return what it reports."""
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the process ended"
        return json.loads(line)


async def work(url, spool):
    """Track before, while and after the disk fails; a line of the input starts each step."""
    errors, raised, latencies, number = [], [], [], 0
    consumer = AsyncBufferedConsumer(
        base_url=url, spool=spool, limits=Limits(min_free_bytes=1, flush_after=0.05),
        retry=RetryPolicy(first_wait=0.02, max_wait=0.1), durability="power",
        on_error=lambda error, _: errors.append(error),
    )  # fmt: skip
    mp = AsyncMixpanel("t", consumer)
    _, unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    for step, count in enumerate((BEFORE, DURING, AFTER)):
        is_last = step == 2
        command = (await asyncio.to_thread(sys.stdin.readline)).strip()
        if command:
            limit = int(command) if command != "-1" else unlimited
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited))
        if is_last:
            end = time.monotonic() + HEALS
            while mp.health().spool.degraded and time.monotonic() < end:
                await asyncio.sleep(0.05)
        refused, degraded, began = "", None, time.monotonic()
        for _ in range(count):
            called = time.perf_counter()
            try:
                await mp.track("u", "Visit", {"m": number, "text": "x" * 300})
            except Exception as error:
                raised.append(repr(error))
            latencies.append(time.perf_counter() - called)
            number += 1
        tracked = time.monotonic() - began
        try:
            await mp.commit()
        except SpoolError as error:
            refused = str(error)
        committed = time.monotonic() - began
        degraded = mp.health().spool.degraded
        if degraded:
            await asyncio.sleep(RETRIES * RETRY_EVERY)  # the spool tries to write again
        try:
            await mp.flush(30)
            if is_last:
                await consumer.aclose()
        except Exception as error:
            raised.append(repr(error))
        stats = mp.stats()
        report = {
            "refused": refused, "degraded": degraded, "raised": raised[:3], "tracked": tracked,
            "committed": committed, "longest": max(latencies[-count:]),
            "reported": sum(isinstance(error, SpoolError) for error in errors),
            "stats": {"accepted": stats.accepted, "delivered": stats.delivered,
                      "dropped": stats.dropped, "pending": stats.pending},
        }  # fmt: skip
        print(json.dumps(report), flush=True)


@scenario("RLIMIT_FSIZE: the kernel refuses to let the file grow")
def file_limit(world):
    process = world.process()
    process.step()
    during = process.step(str(FILE_LIMIT))
    world.compare(during, process.step("-1"))


@scenario("no space: a small tmpfs is full")
def full_tmpfs(world):
    world.tmpfs()
    process, ballast = world.process(), world.root / "ballast"
    process.step()
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    during = process.step()
    ballast.unlink()
    world.compare(during, process.step())


@scenario("read-only: the file system is, when the process starts")
def read_only(world):
    world.tmpfs()
    world.remount("ro")
    process = world.process()
    process.step()
    during = process.step()
    world.remount("rw")
    world.compare(during, process.step())


def _failing(name, error):
    @scenario(name)
    def fail(world):
        control = world.control()
        process = world.process()
        process.step()
        control.fail(error)
        during = process.step()
        control.work()
        world.compare(during, process.step())
        world.outcome.figures["calls failed"] = control.failed


_failing("no space: every call fails with ENOSPC", errno.ENOSPC)
_failing("I/O errors: every call fails with EIO", errno.EIO)
_failing("read-only: every call fails with EROFS", errno.EROFS)
_failing("quota: every call fails with EDQUOT", errno.EDQUOT)


@scenario("slow disk: each sync takes 0.3 s")
def slow(world):
    control = world.control()
    process = world.process()
    process.step()
    control.sync_us = SLOW
    during = process.step()
    control.work()
    world.compare(during, process.step(), degrades=False)
    world.outcome.expect(not during["refused"], during["refused"])
    world.outcome.expect(during["committed"] * 1e6 > SLOW, "the disk was not slow")
    # The longest call is compared with the disk, not with a clock: it must not have waited for it.
    world.outcome.expect(during["longest"] * 1e6 < SLOW, f"a call took {during['longest']:.2f} s")
    world.outcome.figures |= {
        "longest call of track": f"{during['longest'] * 1e3:.1f} ms",
        "commit()": f"{during['committed'] - during['tracked']:.2f} s",
    }


# ---- each call fails once -----------------------------------------------------------------------


def _client(url, spool, **options):
    return AsyncBufferedConsumer(
        base_url=url, spool=spool, durability="power", on_error=lambda *_: None,
        limits=Limits(min_free_bytes=1, flush_after=0.01),
        retry=RetryPolicy(first_wait=0.01, max_wait=0.05), **options,
    )  # fmt: skip


async def _leave(server, spool, markers):
    """Leave messages in a spool, as a process does that ends while the server is down."""
    server.script[:] = [KINDS["503 own"]] * 10_000
    consumer = _client(server.url, spool)
    mp = AsyncMixpanel("t", consumer)
    for group in range(0, len(markers), BLOCK):
        for marker in markers[group : group + BLOCK]:
            await mp.track("u", "Visit", {"m": marker, "text": "x" * 300})
        await mp.commit()
    await consumer.aclose(timeout=0.01)
    server.script.clear()


async def _deliver(server, spool, markers=()):
    """Track some messages, and deliver all; return the statistics."""
    consumer = _client(server.url, spool)
    mp = AsyncMixpanel("t", consumer)
    for marker in markers:
        await mp.track("u", "Visit", {"m": marker})
    with suppress(SpoolError):
        await mp.commit()
    for _ in range(50):
        await mp.flush(10)
        if not mp.stats().pending:
            break
        await asyncio.sleep(0.05)
    await consumer.aclose()
    return mp.stats()


def sweep(root, control, every):
    """In a process with `disk.c`: let the n-th call fail, for each n; print what came of it."""
    with FaultServer() as server:
        for error in (errno.ENOSPC, errno.EIO):
            number, happened = 0, True
            while happened:
                failed, problems = control.failed, []
                spool, mine = Path(root) / f"{error}-{number}", f"{errno.errorcode[error]}-{number}"
                old = [f"{mine}-old{n}" for n in range(2 * BLOCK)]
                new = [f"{mine}-new{n}" for n in range(4)]
                asyncio.run(_leave(server, spool, old))
                control.fail(error, after=number, calls=1)
                try:
                    stats = asyncio.run(_deliver(server, spool, new))
                    if stats.accepted != stats.delivered + stats.pending:
                        problems.append(str(stats))
                except Exception as raised:
                    problems.append(repr(raised))
                happened = control.failed > failed
                control.work()
                asyncio.run(_deliver(server, spool))
                record = server.record
                problems += [f"{m} is lost" for m in old + new if not record.applied[m]]
                problems += [
                    f"{m} has two keys" for m in old + new if len(record.keys.get(m, ())) > 1
                ]
                print(json.dumps([mine, len(old + new), problems]), flush=True)
                shutil.rmtree(spool, ignore_errors=True)
                number += every


@scenario("no space or I/O error: one call fails, for each call")
def each_call(world):
    world.control()
    control = world.folder / "control"
    process = subprocess.run(
        [sys.executable, "-m", "tests.faults.disks", "--sweep", world.root, "--control", control,
         "--every", str(max(1, 100 // world.count))],
        env=disk.environment(disk.library(world.folder), world.root, control=control),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    outcome, lines = world.outcome, [json.loads(line) for line in process.stdout.splitlines()]
    outcome.expect(not process.returncode, process.stderr[-500:])
    for name, _, problems in lines:
        outcome.expect(not problems, f"{name}: {problems[:3]}")
    outcome.figures |= {
        "calls": len(lines), "tracked": sum(count for _, count, _ in lines),
        "lost": sum(" is lost" in each for *_, problems in lines for each in problems),
    }  # fmt: skip


# ---- damaged files ------------------------------------------------------------------------------


def _recover(world, spool, damaged, counts, what):
    """Open a damaged spool, and account for what was in it."""
    record = world.server.record = Record()
    probe = "probe"
    try:
        stats = asyncio.run(_deliver(world.server, spool, [probe]))
    except Exception as error:
        world.outcome.problems.append(f"{what}: {error!r}")
        return
    outcome, aside = world.outcome, bool(stats.health.spool.quarantined)
    outcome.expect(set(record.applied) <= {*damaged, probe}, f"{what}: unknown messages arrived")
    outcome.expect(not record.unreadable, f"{what}: {record.unreadable[:1]}")
    outcome.expect(not stats.pending, f"{what}: {stats.pending} pending")
    for marker, keys in record.keys.items():
        outcome.expect(marker == probe or keys == damaged[marker], f"{what}: {marker} changed")
    arrived, dropped = len(record.applied), sum(stats.dropped.values())
    # It may have been committed to the file before SQLite found the damage.
    new = record.applied[probe] == 1 or (aside and dropped)
    outcome.expect(new, f"{what}: a new message was neither delivered nor counted")
    counts["recovered"] += arrived - record.applied[probe]
    counts["counted as dropped"] += dropped
    counts["files set aside"] += aside
    missing = max(0, len(damaged) + 1 - arrived - dropped)
    where = "in a file set aside" if aside else "in the WAL" if "wal" in what else "unaccounted"
    counts[where] += missing
    if missing and where == "unaccounted":
        counts["files with unaccounted"] += 1
        outcome.notes.append(f"{what}: {missing} of {len(damaged)} are not accounted for")


def _damaged(world, damage):
    """Damage copies of one spool in many ways, and open them."""
    with _filled(world) as (spool, keys):
        databases = [path for path in spool.rglob("*") if path.name.endswith((".db", "-wal"))]
        counts, number = Counter(), 0
        for what, path, content in damage(world, databases):
            with tempfile.TemporaryDirectory(dir=world.folder) as folder:
                copy = Path(folder) / "spool"
                shutil.copytree(spool, copy)
                target = copy / path.relative_to(spool)
                target.write_bytes(content)
                _recover(world, copy, keys, counts, what)
                number += 1
    world.outcome.figures |= {"files": number, "messages": number * EVENTS}
    world.outcome.figures |= {name: counts[name] for name in COLUMNS}


@contextmanager
def _filled(world):
    """Fill a spool, and yield a copy of its folder as a killed process leaves it, with its keys."""
    markers = [f"e{n}" for n in range(EVENTS)]
    server, spool, copy = world.server, world.root / "spool", world.folder / "copy"

    async def fill():
        server.script[:] = [KINDS["503 own"]] * 10_000
        consumer = _client(server.url, spool)
        mp = AsyncMixpanel("t", consumer)
        for group in range(0, EVENTS, BLOCK):
            for marker in markers[group : group + BLOCK]:
                await mp.track("u", "Visit", {"m": marker, "text": "x" * 300})
            await mp.commit()
            if group == EVENTS // 2:  # half of it in the database, half in the WAL
                path = next(spool.rglob("*.db"))
                with closing(sqlite3.connect(path)) as connection:
                    connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        shutil.copytree(spool, copy, ignore=shutil.ignore_patterns("*-shm", "*.lock"))
        await consumer.aclose(timeout=0.01)
        server.script.clear()

    asyncio.run(fill())
    server.record = Record()
    whole = world.folder / "whole"
    shutil.copytree(copy, whole)
    asyncio.run(_deliver(server, whole))
    keys = dict(server.record.keys)
    assert set(keys) == set(markers)
    yield copy, keys


@scenario("damaged: one byte of a file is changed")
def flips(world):
    def damage(world, paths):
        for number in range(world.count):
            path = world.chance.choice(paths)
            content = bytearray(path.read_bytes())
            at = world.chance.randrange(len(content))
            content[at] ^= 1 << world.chance.randrange(8)
            yield f"{number}: byte {at} of {path.suffix}", path, bytes(content)

    _damaged(world, damage)


@scenario("damaged: a file is cut at each page")
def cuts(world):
    def damage(_, paths):
        for path in paths:
            content = path.read_bytes()
            for size in range(0, len(content), disk.PAGE):
                yield f"{path.suffix} cut at {size}", path, content[:size]

    _damaged(world, damage)


def main():
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.disks", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("name", nargs="?", default="", help="only those whose name contains this")
    parser.add_argument("--count", type=int, default=100, help="damaged files (100)")
    parser.add_argument("--seed", type=int)
    for hidden in ("--work", "--sweep", "--control", "--every"):
        parser.add_argument(hidden, help=argparse.SUPPRESS, nargs=2 if hidden == "--work" else None)
    given = parser.parse_args()
    logging.disable()
    if given.work:
        asyncio.run(work(*given.work))
        return 0
    if given.sweep:
        sweep(given.sweep, disk.Control.attach(Path(given.control)), int(given.every))
        return 0
    names = [name for name in SCENARIOS if given.name in name]
    if not names:
        parser.error(f"no scenario has {given.name!r} in its name; there are {list(SCENARIOS)}")
    seed = given.seed if given.seed is not None else random.randrange(10**6)
    print(f"seed {seed}", flush=True)
    outcomes = []
    for name in names:
        outcomes.append(run(name, count=given.count, seed=seed))
        print(outcomes[-1], flush=True)
    return 0 if all(outcome.ok for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
