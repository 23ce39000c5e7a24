"""The streaming JSON reader: arrays and objects, in chunks of any size."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixpanel._records.json_stream import JSONStream

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def in_chunks(data, size):
    """Return a stream that reads this many bytes at a time."""
    source = io.BytesIO(data)
    return JSONStream(source.read(size), lambda _count: source.read(size))


def items(stream):
    found = [stream.value() for _ in stream.members("[", "]")]
    assert "" == stream.peek()
    return found


@pytest.mark.slow
@given(st.lists(VALUES, max_size=6), st.integers(1, 9), st.sampled_from([None, 1]))
def test_an_array_is_read_in_chunks_of_any_size(values, size, indent):
    """A chunk may end in a number, a character of several bytes, or an escape."""
    data = json.dumps(values, ensure_ascii=False, indent=indent).encode("utf-8", "surrogatepass")
    try:
        data.decode()
    except UnicodeDecodeError:
        return  # an unpaired surrogate is no UTF-8
    assert values == items(in_chunks(data, size))


def test_the_members_of_an_object_are_read_one_by_one():
    """Names and values, with a nested array read as a stream too."""
    stream = JSONStream(b' {"a": 1, "batch": [1, "\xc3\xa9"], "b": {}} ')
    found = {}
    for _ in stream.members("{", "}"):
        name = stream.value()
        stream.take(":")
        is_array = stream.peek() == "["
        found[name] = (
            [stream.sized_value() for _ in stream.members("[", "]")] if is_array else stream.value()
        )
    assert {"a": 1, "batch": [(1, 1), ("é", 4)], "b": {}} == found


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"[1 2]", r"\] expected, not 2"),
        (b"[1", r"\] expected, not the end"),
        (b"{}", r"\[ expected, not {"),
        (b"[1,]", "Expecting value"),
        (b'["a', "Unterminated string"),
        (b'["\xff"]', "can't decode"),
        (b'["\xc3', "can't decode"),
    ],
)
def test_invalid_json_is_a_value_error(data, why):
    """So is text that is not UTF-8, or that ends inside a character."""
    with pytest.raises(ValueError, match=why):
        items(in_chunks(data, 2))


def test_a_value_without_an_end_does_not_fill_the_memory():
    """Reading stops soon after the maximum length."""
    read = []

    def endless(count):
        read.append(count)
        return b"x" * count

    stream = JSONStream(b'["', endless, max_value_chars=100_000)
    with pytest.raises(ValueError, match="Unterminated"):
        items(stream)
    assert sum(read) < 400_000


def test_deep_nesting_is_a_recursion_error():
    """It is the interpreter's limit."""
    with pytest.raises(RecursionError):
        items(JSONStream(b"[" * 200_000))
