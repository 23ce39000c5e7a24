"""Kill a process at random points, 500 times, and account for each message that it acknowledged.

python -m tests.faults.kills                 100 kills
python -m tests.faults.kills --count 500     some minutes

A process tracks events, `$add` updates and Customer.io messages through a spool, and reports what
was committed. It is killed with SIGKILL: after a random time, or at a random call of one of the
steps in `POINTS`. The next process finds its files, and so on; the last one may finish. Between
them the server fails in its own ways. Then each acknowledged message must have been applied, or be
among the dead letters, where ambiguous updates go. The processes are forked from one that has
imported the package, so that a kill takes half a second.
"""

import argparse
import asyncio
import json
import logging
import os
import random
import select
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.kinds import KINDS
from tests.faults.server import FaultServer

BUFFER = "mixpanel._delivery.spool.spooled_buffer"
STORE = "mixpanel._delivery.spool.store"
WRITER = "mixpanel._delivery.spool.writer"
# Steps of a message's life: module, class, method. The process is killed before or after a call.
POINTS = {
    "enqueue": (BUFFER, "SpooledBuffer", "put"),
    "take what is staged": (BUFFER, "SpooledBuffer", "take_staged"),
    "write a block": (STORE, "SpoolStore", "add"),
    "write marks": (STORE, "SpoolStore", "set_state"),
    "count what was written": (BUFFER, "SpooledBuffer", "written"),
    "take a batch": (BUFFER, "SpooledBuffer", "take"),
    "send": ("mixpanel._http.connections", "LoopConnections", "attempt"),
    "acknowledge": (BUFFER, "SpooledBuffer", "settle"),
    "remove": (STORE, "SpoolStore", "remove"),
    "give up": (STORE, "SpoolStore", "add_dead"),
    "read back": (STORE, "SpoolStore", "read"),
    "claim a file": (WRITER, "SpoolWriter", "_claim"),
}  # fmt: skip
# Of the server: what it does to some requests. None of these lies about a success.
FAULTS = [
    "close on accept", "reset mid-body", "close after request", "reset after request, applied",
    "response after the deadline, applied", "cut in headers", "reset after response", "408",
    "408, applied", "429", "500", "500, applied", "502 HTML, applied", "503 own", "504, applied",
]  # fmt: skip
STARTED, ACKNOWLEDGED, TRACKED = "started", "ack", "tracked"
WAIT = 30.0  # seconds that a process may take to start


@dataclass
class Tally:
    """What came of all kills."""

    kills: int = 0
    at: Counter = field(default_factory=Counter)  # the steps at which processes were killed
    tracked: int = 0
    acknowledged: int = 0
    lost: list = field(default_factory=list)
    copies: list = field(default_factory=list)  # under a second key
    twice: list = field(default_factory=list)  # `$add` applied again
    sent_again: int = 0
    dead: int = 0
    integrity: Counter = field(default_factory=Counter)
    pending: int = 0
    seconds: float = 0.0

    @property
    def ok(self):
        clean = set(self.integrity) <= {"ok"}
        return clean and not (self.lost or self.copies or self.twice or self.pending)

    def __str__(self):
        steps = ", ".join(f"{name} {count}" for name, count in sorted(self.at.items()))
        bad = sum(self.integrity.values()) - self.integrity["ok"]
        return "\n".join(
            [
                f"{self.kills} kills in {self.seconds:.0f} s ({steps})",
                f"  tracked                        {self.tracked:>9,}",
                f"  acknowledged                   {self.acknowledged:>9,}",
                f"  acknowledged and lost          {len(self.lost):>9,}  {self.lost[:5] or ''}",
                f"  copies under another key       {len(self.copies):>9,}  {self.copies[:5] or ''}",
                f"  $add applied twice             {len(self.twice):>9,}  {self.twice[:5] or ''}",
                f"  sent again (same key)          {self.sent_again:>9,}",
                f"  dead letters                   {self.dead:>9,}",
                f"  left in the spool at the end   {self.pending:>9,}",
                f"  integrity checks               {self.integrity['ok']:>9,} ok, {bad} damaged",
            ]
        )


# ---- the process that is killed -----------------------------------------------------------------


def arm(point, nth, *, after):
    """Kill this process at the n-th call of a step."""
    from importlib import import_module

    module, kind, name = POINTS[point]
    owner = getattr(import_module(module), kind)
    original, calls = getattr(owner, name), iter(range(nth - 1, -1, -1))

    def is_last():
        return next(calls, 1) == 0

    if asyncio.iscoroutinefunction(original):

        async def call(*args, **kwargs):
            last = is_last()
            if last and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = await original(*args, **kwargs)
            if last:
                os.kill(os.getpid(), signal.SIGKILL)
            return result
    else:

        def call(*args, **kwargs):
            last = is_last()
            if last and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*args, **kwargs)
            if last:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

    setattr(owner, name, call)


def tell(what, *values):
    os.write(1, (" ".join(map(str, (what, *values))) + "\n").encode())


def clients(url, spool, durability):
    """Return a consumer, and the clients of Mixpanel and Customer.io, with a spool."""
    from mixpanel import AsyncBufferedConsumer, AsyncMixpanel, Limits, RetryPolicy
    from mixpanel.cdp import AsyncCustomerIO

    retry = RetryPolicy(first_wait=0.02, max_wait=0.1, max_age=10**6)
    limits = Limits(flush_after=0.02, max_batch_size=40, request_timeout=1.0)
    options = {"spool": spool, "durability": durability, "retry": retry}
    consumer = AsyncBufferedConsumer(base_url=url, limits=limits, **options)
    cio = AsyncCustomerIO("key", base_url=f"{url}/cio", limits=limits, **options)
    return consumer, AsyncMixpanel("t", consumer), cio


async def work(given):
    """Track for ever, and report what was committed; with `finish`, only deliver what is left."""
    chance = random.Random(given.seed)
    consumer, mp, cio = clients(given.url, given.spool, given.durability)
    async with mp, cio:
        tell(STARTED)
        number = given.first
        while not given.finish:
            made = []
            for _ in range(chance.choice([1, 1, 2, 5, 30])):
                number += 1
                kind = chance.choice(["e", "e", "a", "c"])
                marker = f"{kind}{number}"
                made.append(marker)
                if kind == "e":
                    await mp.track("u", "Visit", {"m": marker})
                elif kind == "a":
                    await mp.people_increment("u", {marker: 1})
                else:
                    await cio.track("u", "Visit", {"m": marker})
            tell(TRACKED, *made)
            if chance.random() < 0.5:
                await consumer._sender.buffer.commit()
                await cio._sender.buffer.commit()
                tell(ACKNOWLEDGED, number)
            await asyncio.sleep(chance.choice([0, 0, 0.001, 0.005, 0.02]))
        for _ in range(20):
            await mp.flush(5)
            await cio.flush(5)
            if not (mp.stats().pending or cio.stats().pending):
                break
            await asyncio.sleep(0.1)
        tell("pending", mp.stats().pending + cio.stats().pending)
    await consumer.aclose()


# ---- the process that is forked -----------------------------------------------------------------


def serve(channel):
    """Fork a process for each request: its arguments as JSON, and the descriptor it writes to."""
    import mixpanel._delivery.spool.spooled_buffer
    import mixpanel._http.sync_transport
    import mixpanel.cdp.customerio  # noqa: F401 - each child would import it otherwise
    from mixpanel._runtime import event_loop

    event_loop.load_backend("asyncio")
    logging.disable()  # each kill would log what it made ambiguous
    while True:
        data, descriptors, _, _ = socket.recv_fds(channel, 65536, 1)
        if not data:
            return
        pid = os.fork()
        if not pid:
            os.dup2(descriptors[0], 1)
            os.close(descriptors[0])
            channel.close()
            code = 1
            try:
                given = argparse.Namespace(**json.loads(data))
                if given.at:
                    arm(given.at, given.nth, after=given.after)
                asyncio.run(work(given))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(descriptors[0])
        channel.send(b"%d\n" % pid)
        _, status = os.waitpid(pid, 0)
        channel.send(b"%d\n" % os.waitstatus_to_exitcode(status))


class Forks:
    """The process that forks, and the one that it has forked."""

    def __init__(self):
        self._channel, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.kills", "--serve", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        self._lines = self._channel.makefile()
        self.pid = self.output = 0

    def start(self, **given):
        self.output, writable = os.pipe()
        socket.send_fds(self._channel, [json.dumps(given).encode()], [writable])
        os.close(writable)
        self.pid = int(self._lines.readline())

    def kill(self):
        with suppress(ProcessLookupError):  # it was faster
            os.kill(self.pid, signal.SIGKILL)

    def wait(self):
        os.close(self.output)
        return int(self._lines.readline())

    def close(self):
        self._lines.close()
        self._channel.close()
        self._process.wait(WAIT)


# ---- the harness --------------------------------------------------------------------------------


class Run:
    """All processes of one run, one after the other, and the server that they send to."""

    def __init__(self, server, folder, *, seed, durability="process"):
        self.server = server
        self.folder = Path(folder)
        self.chance = random.Random(seed)
        self.durability = durability
        self.tally = Tally()
        self.kinds = {}  # kind by number
        self.acknowledged = 0
        self.number = 0
        self.acked = []  # ranges of numbers
        self.forks = Forks()

    def start(self, **extra):
        given = {"at": "", "nth": 0, "after": False, "finish": False, **extra}
        self.forks.start(
            url=self.server.url, spool=str(self.folder), first=self.number,
            seed=self.chance.randrange(2**31), durability=self.durability, **given,
        )  # fmt: skip

    def kill_one(self):
        """Start a process, and kill it somewhere."""
        self.server.script[:] = [
            KINDS[self.chance.choice(FAULTS)] for _ in range(self.chance.choice([0, 0, 1, 3]))
        ]
        point = self.chance.choice([*POINTS, "", "", ""])
        extra, seconds = {}, self.chance.uniform(0.0, 0.25)
        if point:
            nth = self.chance.choice([1, 2, 3, 5, 8, 20])
            extra = {"at": point, "nth": nth, "after": self.chance.random() < 0.5}
            seconds = 0.6
        self.start(**extra)
        self._watch(seconds)
        code = self.forks.wait()
        if code != -signal.SIGKILL:
            raise AssertionError(f"the process ended by itself ({code})")
        self.tally.kills += 1
        self.tally.at[point if point and self._by_itself else "any time"] += 1
        self._check_integrity()

    def _watch(self, seconds):
        """Read what a process reports, and kill it `seconds` after it has started."""
        end, buffered, self._by_itself = None, b"", False
        first = self.number
        began = time.monotonic()
        while True:
            left = WAIT - (time.monotonic() - began) if end is None else end - time.monotonic()
            if left <= 0:
                self.forks.kill()
                end = time.monotonic() + WAIT
                self._by_itself = False
                continue
            ready, _, _ = select.select([self.forks.output], [], [], left)
            if not ready:
                continue
            data = os.read(self.forks.output, 65536)
            if not data:
                self._by_itself = end is None or time.monotonic() < end
                break
            buffered += data
            *lines, buffered = buffered.split(b"\n")
            for line in lines:
                what, _, value = line.decode().partition(" ")
                if what == STARTED:
                    end = time.monotonic() + seconds
                elif what == TRACKED:
                    self.kinds |= {int(marker[1:]): marker[0] for marker in value.split()}
                    self.number = max(self.number, *self.kinds)
                elif what == ACKNOWLEDGED:
                    self.number = max(self.number, int(value))
                    self.acked.append((first, int(value)))
        # It may have tracked more than it could report.
        self.number += 100

    def _check_integrity(self):
        """Check copies of the files, so that the next process finds them as they were left."""
        with tempfile.TemporaryDirectory() as copies:
            for path in self.folder.rglob("*.db"):
                for suffix in ("", "-wal"):
                    with suppress(FileNotFoundError):
                        shutil.copy(f"{path}{suffix}", copies)
                with closing(sqlite3.connect(Path(copies) / path.name)) as connection:
                    found = connection.execute("PRAGMA integrity_check").fetchone()[0]
                self.tally.integrity[found] += 1

    def finish(self):
        """Let the last process deliver what is left, and account for everything."""
        self.server.script.clear()
        self.start(finish=True)
        output = b""
        while data := os.read(self.forks.output, 65536):
            output += data
        tally, record = self.tally, self.server.record
        tally.pending = -1  # until the process says
        for line in output.decode().splitlines():
            what, _, value = line.partition(" ")
            if what == "pending":
                tally.pending = int(value)
        if self.forks.wait():
            raise AssertionError("the last process failed")
        dead = dead_letters(self.folder)
        tally.dead = len(dead)
        applied = {marker: times for marker, times in record.applied.items() if marker}
        tally.tracked = len(set(applied) | dead)
        numbers = {int(marker[1:]) for marker in set(applied) | dead}
        for first, last in self.acked:
            for number in range(first + 1, last + 1):
                tally.acknowledged += 1
                if number not in numbers:
                    tally.lost.append(number)
        tally.acknowledged = len({n for a, b in self.acked for n in range(a + 1, b + 1)})
        tally.lost = [f"{self.kinds[number]}{number}" for number in sorted(set(tally.lost))]
        tally.copies = [marker for marker, keys in record.keys.items() if len(keys) > 1]
        tally.twice = [m for m in record.unsafe if record.applied[m] > 1]
        tally.sent_again = sum(times - 1 for times in applied.values())
        return tally


def dead_letters(folder):
    """Return the markers of the dead letters in a spool."""
    markers = set()
    for path in Path(folder).rglob("*.db"):
        with closing(sqlite3.connect(path)) as connection:
            for (body,) in connection.execute("SELECT body FROM dead"):
                message = json.loads(body)
                properties = message.get("properties") or {}
                markers.add(properties.get("m") or next(iter(message["$add"])))
    return markers


def run(count, *, seed=None, durability="process", shown=lambda _: None):
    """Kill `count` processes and return the tally."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, FaultServer(deadline=1.0) as server:
        kills = Run(server, folder, seed=seed, durability=durability)
        for number in range(count):
            kills.kill_one()
            shown(number + 1)
        tally = kills.finish()
        kills.forks.close()
    tally.seconds = time.monotonic() - began
    return tally


def main():
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.kills", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--count", type=int, default=100, help="processes to kill (100)")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--durability", default="process", choices=["process", "power"])
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve is not None:
        with socket.socket(fileno=given.serve) as channel:
            serve(channel)
        return 0
    seed = given.seed if given.seed is not None else random.randrange(10**6)
    print(f"seed {seed}", flush=True)

    def shown(number):
        if sys.stderr.isatty():
            print(f"\r{number} kills", end="", file=sys.stderr, flush=True)
        elif not number % 50:
            print(f"{number} kills", flush=True)

    tally = run(given.count, seed=seed, durability=given.durability, shown=shown)
    print(tally)
    return 0 if tally.ok else 1


if __name__ == "__main__":
    sys.exit(main())
