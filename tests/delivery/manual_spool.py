"""A spool whose writer works only when a test calls it, on a disk that can fail."""

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
    """Make buffers whose writers work only in `cycle`, on a disk that can fail."""
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


def write(buffer, *records):
    """Accept messages, and write them in one cycle."""
    for record in records:
        buffer.put(record)
    cycle(buffer)


def fail_to_write(buffer, *records):
    """The same, while the disk fails; it fails until `BrokenStore.broken` is False again."""
    BrokenStore.broken = True
    write(buffer, *records)


def delivered(buffer, batch):
    """Let a batch end with all of its messages delivered."""
    buffer.settle(batch, batch.unsettled, "delivered")
    buffer.finish(batch)


def settle_all(buffer):
    while (batch := take(buffer)) is not None:
        delivered(buffer, batch)
        cycle(buffer)


def leave(buffer, *records):
    """Let a process accept and write messages, one block each, and end; return its file."""
    for record in records:
        write(buffer, record)
    path = buffer.writer._files.own.store.path
    buffer.drop_all("closed", end_reason="closed")
    return path


def break_page_with(path, text):
    """Overwrite the page that has a text, as a bad sector does."""
    content = path.read_bytes()
    start = content.index(text) // 4096 * 4096
    path.write_bytes(content[:start] + b"\xff" * 4096 + content[start + 4096 :])


def large(n):
    """Return an event that fills a page."""
    return Record("events", b'{"n":%d,"text":"%s"}' % (n, b"x" * 3000))


def rejected(buffer):
    """Let a server reject all messages of the next batch."""
    batch = take(buffer)
    records = batch.unsettled
    buffer.settle(batch, records, "rejected")
    buffer.announce(records, "rejected")
    buffer.finish(batch)
    cycle(buffer)
