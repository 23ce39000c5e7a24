"""Batches are full, in order, and never a byte too large, envelope and commas included."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixpanel._delivery.buffer import Claim
from mixpanel.cdp import CUSTOMERIO, HIGHTOUCH, CustomerIO, Message, WriteKey
from mixpanel.cdp._segment.batching import SENT_AT, batch_capacity
from mixpanel.cdp._segment.client import SegmentClient


def message(size, number=0):
    """Make a message of exactly so many bytes."""
    frame = b'{"type":"track","messageId":"%d","x":""}' % number
    assert size >= len(frame)
    return Message("track", frame[:-2] + b"x" * (size - len(frame)) + frame[-2:], str(number))


def batches(client, messages):
    """Return the batches in which a client would send messages, without sending them."""
    buffer = client._sender.buffer
    for each in messages:
        buffer.put(each)
    taken = []
    while (batch := buffer.take(Claim(lambda: True), everything=True)) is not None:
        taken.append(batch.records)
        buffer.settle(batch, batch.records, "delivered")
        buffer.finish(batch)
    return taken


@pytest.mark.parametrize("write_key", [None, 'k"ü'])
def test_a_batch_at_capacity_has_exactly_the_largest_allowed_body(write_key):
    """A write key in the envelope leaves less capacity for messages."""
    dialect = replace(HIGHTOUCH, max_batch_bytes=1000)
    capacity = batch_capacity(dialect, write_key)
    full = [message(100), message(capacity - 101)]
    assert 1000 == len(dialect.batch_body(full, SENT_AT, write_key))


@pytest.mark.parametrize(("spare", "expected"), [(0, 1), (-1, 2)])
def test_a_client_fills_a_batch_to_the_last_byte(spare, expected):
    """One byte more starts another batch."""
    dialect = replace(CUSTOMERIO, max_batch_bytes=1000)
    second = message(batch_capacity(dialect) - 101 - spare)
    client = SegmentClient(WriteKey("k"), dialect)
    assert expected == len(batches(client, [message(100), second]))
    client.close(0)


@pytest.mark.slow
@given(
    sizes=st.lists(st.integers(60, 250), max_size=40),
    limit=st.integers(300, 1500),
    items=st.integers(1, 8),
)
def test_every_message_is_in_one_batch_in_order_within_all_limits(sizes, limit, items):
    """A batch ends only where the next message would exceed a limit."""
    dialect = replace(CUSTOMERIO, max_batch_bytes=limit, max_batch_size=items)
    client = SegmentClient(WriteKey("k"), dialect)
    messages = [message(size, number) for number, size in enumerate(sizes)]
    found = batches(client, messages)
    assert messages == [each for batch in found for each in batch]
    for batch in found:
        assert 1 <= len(batch) <= items
        body = dialect.batch_body(batch, SENT_AT)
        assert len(body) <= limit
        assert {"batch", "sentAt"} == set(json.loads(body))
    for batch, following in pairwise(found):
        larger = dialect.batch_body([*batch, following[0]], SENT_AT)
        assert len(batch) == items or len(larger) > limit
    client.close(0)


def test_a_message_that_is_too_large_does_not_hold_up_the_others():
    """It is dropped and counted; in one vendor's own client it blocked flush() forever."""
    with CustomerIO("k") as client:
        kept = client._admitted([message(100, 1), message(32_001, 2), message(32_000, 3)])
        assert ["1", "3"] == [each.message_id for each in kept]
        assert {"too_large": 1} == client.stats().dropped
