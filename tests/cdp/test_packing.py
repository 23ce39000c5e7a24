"""Batches are full, in order, and never a byte too large, envelope and commas included."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixpanel.cdp import CUSTOMERIO, HIGHTOUCH, Message, pack
from mixpanel.cdp._segment.batching import SENT_AT, room


def message(size, number=0):
    """Make a message of exactly so many bytes."""
    frame = b'{"type":"track","messageId":"%d","x":""}' % number
    assert size >= len(frame)
    return Message("track", frame[:-2] + b"x" * (size - len(frame)) + frame[-2:], str(number))


def body(batch, dialect, write_key=None):
    return dialect.body(batch, SENT_AT, write_key)


@pytest.mark.parametrize("write_key", [None, 'k"ü'])
def test_a_batch_may_fill_the_limit_to_the_byte_and_not_one_more(write_key):
    """With the write key in the envelope there is less room."""
    dialect = replace(HIGHTOUCH, max_batch_bytes=1000)
    most = room(dialect, write_key)
    just = [message(100), message(most - 101)]
    [batch] = pack(just, dialect, write_key).batches
    assert 1000 == len(body(batch, dialect, write_key))
    assert 2 == len(pack([message(100), message(most - 100)], dialect, write_key).batches)


@given(
    sizes=st.lists(st.integers(60, 700), max_size=40),
    limit=st.integers(300, 1500),
    items=st.integers(1, 8),
    largest=st.integers(60, 700),
)
def test_every_message_is_packed_once_in_order_within_all_limits(sizes, limit, items, largest):
    """Or set aside, when no request could carry it."""
    dialect = replace(
        CUSTOMERIO, max_batch_bytes=limit, max_batch_size=items, max_message_bytes=largest
    )
    given_ = [message(size, number) for number, size in enumerate(sizes)]
    packed = pack(given_, dialect)
    inside = [each for batch in packed.batches for each in batch]
    assert inside == [m for m in given_ if m not in packed.oversize]
    fits = min(largest, room(dialect))
    assert packed.oversize == [m for m in given_ if len(m.body) > fits]
    for batch in packed.batches:
        assert 1 <= len(batch) <= items
        sent = body(batch, dialect)
        assert len(sent) <= limit
        assert {"batch", "sentAt"} == set(json.loads(sent))
    for batch, following in zip(packed.batches, packed.batches[1:], strict=False):
        assert len(batch) == items or len(body([*batch, following[0]], dialect)) > limit


def test_oversize_does_not_hold_up_the_rest():
    """At a peer it hung flush() for ever."""
    messages = [message(100, 1), message(32_001, 2), message(32_000, 3)]
    packed = pack(iter(messages), CUSTOMERIO)
    assert [["1", "3"]] == [[m.message_id for m in batch] for batch in packed.batches]
    assert ["2"] == [m.message_id for m in packed.oversize]


def test_nothing_packs_into_nothing():
    """An empty batch is never sent."""
    assert ([], []) == pack([], CUSTOMERIO)
