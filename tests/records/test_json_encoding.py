"""Every line of the conversion table, and hostile values."""

import dataclasses
import enum
import json
import math
import uuid
from collections import OrderedDict
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from ipaddress import ip_address
from pathlib import PurePosixPath
from types import MappingProxyType

import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixpanel import DatetimeSerializer, json_dumps
from mixpanel._records.json_encoding import dumps, plain_depth


class Plan(enum.Enum):
    TEAM = "team"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Address:
    city: str
    since: date


class Model(pydantic.BaseModel):
    name: str
    when: datetime


class Opaque:
    def __str__(self):
        return "opaque" * 1000


def sent(value, **options):
    body, notes = dumps({"v": value}, **options)
    return json.loads(body)["v"], notes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (datetime(2026, 1, 31, 12, 0, 5, 999), "2026-01-31T12:00:05"),
        (datetime(2026, 1, 31, 5, 0, tzinfo=timezone(timedelta(hours=9))), "2026-01-30T20:00:00"),
        (datetime(2026, 1, 31, tzinfo=UTC), "2026-01-31T00:00:00"),
        (date(2026, 1, 31), "2026-01-31"),
        (time(12, 30), "12:30:00"),
        (timedelta(minutes=1, milliseconds=500), 60.5),
        (Decimal("12.5"), 12.5),
        (Fraction(1, 4), 0.25),
        (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (PurePosixPath("a/b"), "a/b"),
        (ip_address("127.0.0.1"), "127.0.0.1"),
        (Plan.TEAM, "team"),
        (Level.HIGH, 3),
        (b"text", "text"),
        (b"\xff\x00", "/wA="),
        ({3, 1, 2}, [1, 2, 3]),
        ((1, (2, 3)), [1, [2, 3]]),
        (range(3), [0, 1, 2]),
        ((n for n in range(2)), [0, 1]),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (OrderedDict(a={"b": Plan.TEAM}), {"a": {"b": "team"}}),
        (Address("Bern", date(2026, 1, 1)), {"city": "Bern", "since": "2026-01-01"}),
        (Model(name="m", when=datetime(2026, 1, 1)), {"name": "m", "when": "2026-01-01T00:00:00"}),
        (np.int64(7), 7),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.str_("x"), "x"),
        ({1: "a", None: "b"}, {"1": "a", "null": "b"}),
        (10**40, 10**40),
        (None, None),
        ("ünï€𝄞", "ünï€𝄞"),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_lossless_conversions_leave_no_note(given, expected):
    """Every line of the conversion table that keeps the value."""
    assert sent(given) == (expected, [])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (math.nan, None),
        (math.inf, None),
        ([1, -math.inf], [1, None]),
        (np.float64("nan"), None),
        (Decimal("NaN"), None),
        ("a\ud800b", "a\ufffdb"),
        ({"\udfff": 1}, {"\ufffd": 1}),
        (Opaque(), "opaque" * 170 + "opaq"),
    ],
    ids=str,
)
def test_lossy_conversions_leave_a_note(given, expected):
    """`null`, U+FFFD and text instead of a value."""
    value, notes = sent(given)
    assert value == expected
    assert len(notes) == 1


def test_cycles_and_depth_end():
    """A cycle is cut, not followed."""
    loop = {}
    loop["self"] = loop
    value, notes = sent(loop)
    assert notes
    assert json.dumps(value).count("self") <= 20
    deep = leaf = []
    for _ in range(100_000):
        leaf.append([])
        leaf = leaf[0]
    assert sent(deep)[1]


def test_the_word_nan_in_a_text_stays_text():
    """The fast path does not change texts."""
    assert sent("NaN Infinity") == ("NaN Infinity", [])


@pytest.mark.parametrize("raising", ["__str__", "items", "__iter__"])
def test_a_value_that_raises_becomes_null(raising):
    """Hostile objects cost a note, not an exception."""

    def boom(*_):
        raise RuntimeError("boom")

    kind = type("Hostile", (dict,) if raising == "items" else (), {raising: boom})
    value, notes = sent(kind())
    assert value is None
    assert "RuntimeError" in notes[0]


def test_a_custom_serializer_encodes_its_own_types():
    """The official `serializer=` works; NaN and surrogates are cleaned after it."""

    class Mine(DatetimeSerializer):
        def default(self, o):
            return "mine" if isinstance(o, Opaque) else super().default(o)

    assert sent(Opaque(), serializer=Mine) == ("mine", [])
    assert sent([Opaque(), math.nan], serializer=Mine)[0] == ["mine", None]
    assert sent("a\ud800", serializer=Mine)[0] == "a\ufffd"
    assert sent(datetime(2026, 1, 1), serializer=Mine) == ("2026-01-01T00:00:00", [])
    with pytest.raises(TypeError):
        dumps({"v": object()}, Mine)


def test_json_dumps_is_compact():
    """The official function of that name."""
    assert json_dumps({"a": [1, 2]}) == '{"a":[1,2]}'
    when = {"t": datetime(2026, 1, 1, 1, 2, 3)}
    assert json_dumps(when, cls=DatetimeSerializer) == '{"t":"2026-01-01T01:02:03"}'


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary(max_size=20)
    | st.datetimes(timezones=st.none() | st.just(UTC))
    | st.dates()
    | st.decimals()
    | st.uuids()
    | st.sampled_from([Plan.TEAM, Level.HIGH, np.int32(1), np.float64("nan"), "\ud83d", object()])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5) | st.integers() | st.none(), inner, max_size=4)
        | st.tuples(inner, inner)
    ),
    max_leaves=12,
)


@pytest.mark.slow
@given(st.dictionaries(st.text(max_size=8), values, max_size=6))
def test_anything_becomes_strict_json(properties):
    """No exception, no bare NaN, valid UTF-8."""
    body, _notes = dumps(properties)

    def refuse(word):
        raise AssertionError(word)

    json.loads(body.decode("utf-8"), parse_constant=refuse)


@pytest.mark.slow
@given(st.dictionaries(st.text(max_size=5), values, max_size=4))
def test_plain_data_survives_the_standard_library(properties):
    """What is called plain is read back unchanged."""
    if plain_depth(properties):
        json.dumps(properties)
