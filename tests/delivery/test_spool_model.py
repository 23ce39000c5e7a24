"""A buffer, its writer and its file, in any order of events and failures."""

import os
import shutil
import sqlite3
import tempfile
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mixpanel import Limits
from mixpanel._delivery.buffer import Claim
from mixpanel._delivery.spool import spooled_buffer, writer
from mixpanel._delivery.spool.blocks import RecordCodec
from mixpanel._delivery.spool.folder import Destination
from mixpanel._delivery.spool.options import SpoolOptions
from mixpanel._delivery.spool.spooled_buffer import SpooledBuffer
from mixpanel._delivery.spool.store import SpoolStore
from mixpanel._delivery.stats import DeliveryStats
from mixpanel._records.record import Record
from tests.effort import cases

pytestmark = pytest.mark.slow

LIMITS = Limits(
    max_batch_size=4, flush_after=0.001, max_queue_size=500, min_free_bytes=1, concurrency=2
)
PLACES = ("events", "people", "add")


def new_folder():
    """Return a new folder, in memory where the machine has one: thousands of files are made."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))


class ManualWriter(writer.SpoolWriter):
    """Work when the test says so, and not in a thread."""

    def _start(self):
        pass

    def mark(self, records):
        future = super().mark(records)
        if not self._closing:
            self._cycle()
        return future


class BrokenStore(SpoolStore):
    """A disk that can be switched off. It is never synced: no power fails here."""

    broken = False

    def _prepare(self, durability):
        self._connection.execute("PRAGMA synchronous = OFF")
        super()._prepare(durability)
        self._connection.execute("PRAGMA synchronous = OFF")

    def add(self, block):
        self._check()
        super().add(block)

    def set_state(self, *args):
        self._check()
        super().set_state(*args)

    def remove(self, ids):
        self._check()
        super().remove(ids)

    def _check(self):
        if BrokenStore.broken:
            raise sqlite3.OperationalError("disk I/O error")


class Spool(RuleBasedStateMachine):
    """What was committed is settled once, or still there, in order, whatever happens."""

    def __init__(self):
        super().__init__()
        self._patched = (writer.SpoolStore, spooled_buffer.SpoolWriter, spooled_buffer.LOADED)
        writer.SpoolStore, spooled_buffer.SpoolWriter = BrokenStore, ManualWriter
        spooled_buffer.LOADED = 6
        writer.RETRY_EVERY, self._retry = -1.0, writer.RETRY_EVERY
        BrokenStore.broken = False
        self.folder = new_folder()
        self.now, self.number = 1000.0, 0
        self.places = {}  # of each accepted message
        self.committed, self.settled, self.sent = set(), Counter(), Counter()
        self.order = []  # profile updates as they were delivered
        self.given_up = set()
        self.claims = []
        self.open()

    def open(self):
        options = SpoolOptions(
            self.folder, Destination("mixpanel", ("x",), {}), "process", LIMITS, RecordCodec()
        )
        stats = DeliveryStats(lambda *_: None, self._on_drop)
        self.buffer = SpooledBuffer(LIMITS, stats, options, clock=lambda: self.now)
        self.here = set()  # accepted or found by this process

    def _on_drop(self, _reason, messages):
        for message in messages:
            self.given_up.add(message["m"])
            self.settled[message["m"]] += 1

    def cycle(self):
        self.buffer.writer._cycle()
        if self.buffer.writer.error is None and not self.buffer.memory_only:
            self.committed |= self.here - set(self.settled)

    # ---- what may happen --------------------------------------------------------------------

    @rule(place=st.sampled_from(PLACES), count=st.integers(1, 5))
    def track(self, place, count):
        for _ in range(count):
            self.number += 1
            endpoint = "people" if place == "add" else place
            body = b'{"m": %d}' % self.number
            self.buffer.put(Record(endpoint, body, repeatable=place != "add"))
            self.places[self.number] = place
            self.here.add(self.number)

    @rule()
    def write(self):
        self.cycle()

    @rule(broken=st.booleans())
    def disk(self, broken):
        BrokenStore.broken = broken

    @rule(seconds=st.floats(0.01, 5.0))
    def wait(self, seconds):
        self.now += seconds

    @rule()
    def take(self):
        self.now += 0.01
        claim = Claim(lambda: True)
        batch = self.buffer.take(claim)
        if batch is None:
            return
        unsafe = [record for record in batch.records if not record.repeatable]
        if unsafe and self.buffer.mark_attempted_blocking(batch.records, 0.01) is not None:
            self.buffer.finish(batch)
            return
        batch.sending = batch.records
        self.claims.append(batch)

    @rule(place=st.sampled_from(["events", "people"]), ends=st.booleans())
    def deliver(self, place, ends):
        """Send a message that skips the spool; the loop of its caller may end first."""
        self.number += 1
        self.places[self.number] = place
        claims = []
        one = Record(place, b'{"m": %d}' % self.number)
        self.buffer.claim_directly([one], claims, lambda: not ends)
        if ends:
            self.buffer.reclaim(dead_only=True)
            return
        batch = claims[0].batch
        self._apply(one)
        self.settled[self.number] += 1
        self.buffer.settle(batch, batch.unsettled, "delivered")
        self.buffer.finish(batch)

    @precondition(lambda self: self.claims)
    @rule(at=st.integers(0, 100), fate=st.sampled_from(["delivered", "rejected", "partly", "not"]))
    def respond(self, at, fate):
        batch = self.claims.pop(at % len(self.claims))
        records = list(batch.unsettled)
        if fate in ("delivered", "partly"):
            done = records if fate == "delivered" else records[: len(records) // 2]
            for record in records:
                self._apply(record)
            if done:
                self.buffer.settle(batch, done, "delivered")
                for record in done:
                    self.settled[self._m(record)] += 1
        elif fate == "rejected":
            self.buffer.settle(batch, records, "rejected")
            self.buffer.announce(records, "rejected")
            for record in records:
                self.settled[self._m(record)] += 1
                self.given_up.add(self._m(record))
        else:
            batch.sending = []  # provably nothing was applied
        self.buffer.finish(batch)

    def _apply(self, record):
        number = self._m(record)
        self.sent[number] += 1
        assert self.places[number] != "add" or self.sent[number] == 1, "$add was sent twice"
        if self.places[number] != "events" and self.sent[number] == 1:
            self.order.append(number)

    @staticmethod
    def _m(record):
        return record.decoded()["m"]

    @rule()
    def kill(self):
        """Continue with copies of the files, as another process would find them."""
        copies = new_folder()
        for path in self.folder.rglob("*"):
            if path.is_file() and not path.name.endswith(("-shm", ".lock")):
                target = copies / path.relative_to(self.folder)
                target.parent.mkdir(mode=0o700, exist_ok=True)
                shutil.copy(path, target)
        self._let_go()
        shutil.rmtree(self.folder)
        self.folder = copies
        for path in copies.rglob("*.db"):
            with closing(sqlite3.connect(path)) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        self._reopen()

    @rule()
    def close(self):
        """End in order, and start again."""
        BrokenStore.broken = False
        self.cycle()
        for batch in self.claims:
            batch.sending = []
        self.claims.clear()
        self.buffer.drop_all("closed", end_reason="closed")
        assert self.buffer.stats.snapshot().balanced
        self._reopen()

    def _let_go(self):
        self.buffer.writer._files.close()
        self.claims.clear()

    def _reopen(self):
        BrokenStore.broken = False
        self.open()
        self.buffer.writer._adopt_at = 0.0
        for _ in range(3):
            self.buffer.writer._cycle()
            self.buffer.writer._adopt_at = 0.0
        self.here = {n for n in self.committed if n not in self.given_up}

    # ---- what always holds --------------------------------------------------------------------

    @invariant()
    def counts_hold(self):
        stats = self.buffer.stats.snapshot()
        assert stats.balanced, stats
        before = (stats.accepted, stats.pending, self.buffer.unspooled, self.buffer.memory_only)
        self.buffer._recount()
        stats = self.buffer.stats.snapshot()
        after = (stats.accepted, stats.pending, self.buffer.unspooled, self.buffer.memory_only)
        assert before == after

    @invariant()
    def a_queue_in_memory_is_in_order(self):
        for queue in self.buffer.queues.values():
            numbers = [record.sequence for record in queue.unsent]
            assert numbers == sorted(numbers)

    def teardown(self):
        try:
            self.kill()
            for _ in range(1000):
                self.cycle()
                self.take()
                while self.claims:
                    self.respond(0, "delivered")
                if not self.buffer.stats.pending and not self.buffer.writer._retired:
                    break
            self.cycle()
            assert not self.buffer.stats.pending
            for number in self.committed:
                assert self.sent[number] or number in self.given_up, f"{number} is lost"
        finally:
            self._let_go()
            shutil.rmtree(self.folder, ignore_errors=True)
            writer.SpoolStore, spooled_buffer.SpoolWriter, spooled_buffer.LOADED = self._patched
            writer.RETRY_EVERY = self._retry


TestSpool = Spool.TestCase
TestSpool.settings = settings(
    max_examples=cases(25, 1500),
    stateful_step_count=cases(30, 60),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
