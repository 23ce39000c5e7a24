"""The edges of the spool's decisions, each one off by one: see tests/faults/mutation.py."""

import sqlite3

import pytest

from mixpanel import Limits
from mixpanel._delivery.buffer import Claim
from mixpanel._delivery.spool import spooled_buffer, writer
from mixpanel._delivery.spool.blocks import RecordCodec
from mixpanel._delivery.spool.folder import Destination
from mixpanel._delivery.spool.options import SpoolOptions
from mixpanel._delivery.spool.spooled_buffer import SpooledBuffer
from mixpanel._delivery.stats import DeliveryStats
from mixpanel._records.record import Record
from tests.delivery.test_spool_model import BrokenStore, ManualWriter


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Make buffers whose writers work when they are told to, on a disk that can fail."""
    monkeypatch.setattr(writer, "SpoolStore", BrokenStore)
    monkeypatch.setattr(spooled_buffer, "SpoolWriter", ManualWriter)
    monkeypatch.setattr(writer, "RETRY_EVERY", -1.0)
    monkeypatch.setattr(BrokenStore, "broken", False)
    made = []

    def make(codec=None, **limits):
        options = SpoolOptions(
            tmp_path / "spool",
            Destination("mixpanel", ("x",), {}),
            "process",
            Limits(**limits),
            codec or RecordCodec(),
        )
        made.append(SpooledBuffer(options.limits, DeliveryStats(), options, clock=Clock()))
        return made[-1]

    yield make
    monkeypatch.setattr(BrokenStore, "broken", False)
    for each in made:
        each.drop_all("closed", end_reason="closed")


def event(n=0, endpoint="events", **options):
    return Record(endpoint, b'{"n":%d}' % n, **options)


def cycle(buffer):
    buffer.writer._cycle()


def commits(buffer):
    """Return True if all that was accepted is on disk."""
    future = buffer.writer.request_commit()
    cycle(buffer)
    return future.exception() is None


def deliver(buffer, one):
    claims = []
    buffer.claim_directly([one], claims, lambda: True)
    buffer.settle(claims[0].batch, claims[0].batch.unsettled, "delivered")
    buffer.finish(claims[0].batch)


def stored(buffer):
    return sum(count for count, _ in buffer.writer._files.own.store.totals().values())


def take(buffer):
    return buffer.take(Claim(lambda: True), everything=True)


def test_what_skips_the_spool_does_not_count_as_written(make):
    """A commit fails as long as the disk failed for a message, whatever is delivered directly."""
    buffer = make()
    cycle(buffer)
    BrokenStore.broken = True
    buffer.put(event(0))
    assert not commits(buffer)
    deliver(buffer, event(1))
    assert (buffer.memory_only, buffer.unspooled) == (1, 1)
    assert not commits(buffer)
    BrokenStore.broken = False
    assert commits(buffer)
    assert stored(buffer) == 1


def test_what_skipped_the_spool_and_lost_its_loop_is_sent_from_memory(make):
    """It counts neither as written nor as refused by the disk."""
    buffer = make()
    claims = []
    buffer.claim_directly([event(0)], claims, lambda: False)
    buffer.reclaim(dead_only=True)
    cycle(buffer)
    BrokenStore.broken = True
    buffer.put(event(1))
    assert not commits(buffer)
    BrokenStore.broken = False
    assert commits(buffer)
    assert (buffer.memory_only, buffer.unspooled, buffer.unspooled_bytes) == (0, 0, 0)
    assert stored(buffer) == 1
    batch = take(buffer)
    assert len(batch.records) == 2
    buffer.settle(batch, batch.unsettled, "delivered")
    buffer.finish(batch)
    cycle(buffer)
    assert buffer.stats.snapshot().balanced
    assert (stored(buffer), buffer.bytes) == (0, 0)


@pytest.fixture
def backlog(make, monkeypatch):
    """A buffer with two messages in memory, and three blocks on disk only."""
    monkeypatch.setattr(spooled_buffer, "LOADED", 2)
    buffer = make()
    for n in range(5):
        buffer.put(event(n))
        cycle(buffer)
    assert (buffer.queues["events"].on_disk, buffer.disk_bytes) == (3, 21)
    return buffer


def run(buffer, statement):
    buffer.writer._files.own.store._connection.execute(statement)


def settle_all(buffer):
    while (batch := take(buffer)) is not None:
        buffer.settle(batch, batch.unsettled, "delivered")
        buffer.finish(batch)
        cycle(buffer)


def test_damaged_blocks_take_no_space(backlog):
    """What is lost does not count against `max_spool_bytes`."""
    run(backlog, "UPDATE block SET crc = crc + 1 WHERE id = (SELECT max(id) FROM block)")
    settle_all(backlog)
    assert backlog.stats.snapshot().dropped == {"corrupt": 1}
    assert (backlog.disk_bytes, backlog.stats.pending) == (0, 0)


def test_blocks_that_are_missing_take_no_space(backlog):
    """The counts of a file may be higher than what it has."""
    run(backlog, "DROP TRIGGER block_removed")
    run(backlog, "DELETE FROM block WHERE id = (SELECT max(id) FROM block)")
    settle_all(backlog)
    assert backlog.stats.snapshot().dropped == {"corrupt": 1}
    assert (backlog.disk_bytes, backlog.stats.pending) == (0, 0)


def test_a_file_that_was_set_aside_takes_no_space(backlog):
    """What memory holds is written to a new one."""
    own = backlog.writer._files.own
    backlog.writer._set_aside(backlog, own, sqlite3.DatabaseError("malformed"))
    assert backlog.stats.snapshot().dropped == {"corrupt": 3}
    assert (backlog.disk_bytes, backlog.memory_only, backlog.unspooled_bytes) == (0, 2, 14)
    cycle(backlog)
    assert (stored(backlog), backlog.memory_only, backlog.unspooled_bytes) == (2, 0, 0)
    assert backlog.writer.quarantined == 1
