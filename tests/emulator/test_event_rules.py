"""The server's rules for events, without a server."""

import json
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixpanel.emulator._rules.events import BANNED_IDS, validate_events

NOW = 1_764_000_000
DAY = 24 * 3600
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(
    [
        *("token", "time", "distinct_id", "$insert_id", "$device_id", "$user_id", "$ignore"),
        *("$anon_id", "$identified_id", "alias", "$distinct_ids", "plan"),
    ]
)
EVENTS = st.sampled_from(["A", "$identify", "$create_alias", "$merge", "", 1])
RECORDS = JSON | st.fixed_dictionaries(
    {"event": EVENTS, "properties": st.dictionaries(NAMES, JSON, max_size=8)}
)


def event(name="Order Paid", **properties):
    sent_fields = {"token": "T", "time": NOW, "distinct_id": "u1", "$insert_id": "a-1"}
    return {"event": name, "properties": {**sent_fields, **properties}}


def without(name):
    record = event()
    del record["properties"][name]
    return record


def nested(depth):
    return {"a": nested(depth - 1)} if depth else 1


def validate(*records, endpoint="import", **options):
    return validate_events(records, endpoint=endpoint, now=NOW, **options)


def only(result):
    (stored,) = result.accepted
    return stored


def rejected_fields(*records, **options):
    return [record_error.field for record_error in validate(*records, **options).rejected]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("record", "field"),
    [
        ("text", ""),
        (None, ""),
        ({"properties": {}}, "event"),
        (event(""), "event"),
        (event("a" * 256), "event"),
        ({"event": "A"}, "properties"),
        ({"event": "A", "properties": []}, "properties"),
        (event(**{f"p{n}": n for n in range(251)}), "properties"),
        (event(**{"a" * 256: 1}), "properties"),
        (event(big={str(n): n for n in range(255)}), "properties.big"),
        (event(long=list(range(255))), "properties.long"),
        (event(deep=nested(4)), "properties.deep"),
        (event(deep=[[[[1]]]]), "properties.deep"),
        (event(many=[{str(n): "x" * 255 for n in range(i, i + 20)} for i in range(250)]), ""),
        (without("time"), "properties.time"),
        (event(time="2025-11-24"), "properties.time"),
        (event(time=True), "properties.time"),
        (event(time=10**400), "properties.time"),
        (event(time=1e300), "properties.time"),
        (event(time=365 * DAY - 1), "properties.time"),
        (event(time=NOW + 3601), "properties.time"),
        (without("$insert_id"), "properties.$insert_id"),
        (event(**{"$insert_id": "a" * 37}), "properties.$insert_id"),
        (event(**{"$insert_id": "under_score"}), "properties.$insert_id"),
        (event(**{"$insert_id": "ä"}), "properties.$insert_id"),
        (event(**{"$insert_id": ""}), "properties.$insert_id"),
        (event(**{"$insert_id": 17}), "properties.$insert_id"),
        (event(**{"$insert_id": "Anonymous"}), "properties.$insert_id"),
        (event(distinct_id=["u1"]), "properties.distinct_id"),
        (event(distinct_id=0), "properties.distinct_id"),
        (event(distinct_id=False), "properties.distinct_id"),
        (event(distinct_id={}), "properties.distinct_id"),
    ],
)
def test_a_rejected_record_names_the_invalid_field(record, field):
    """Only that record is rejected."""
    result = validate(event(), record)
    assert [(1, field)] == [
        (record_error.index, record_error.field) for record_error in result.rejected
    ]
    assert (1, 1) == (result.good, len(result.accepted))


@pytest.mark.parametrize(
    "record",
    [
        event("a" * 255),
        event(**{f"p{n}": n for n in range(250)}),
        event(**{"a" * 255: 1}),
        event(big={str(n): n for n in range(254)}),
        event(long=list(range(254))),
        event(deep=nested(3)),
        event(deep=[[[1]]]),
        event(time=365 * DAY),
        event(time=NOW + 3600),
        event(time=NOW * 1000),
        event(time=NOW + 0.123),
        event(distinct_id=""),
        event(distinct_id=17),
        event(**{"$insert_id": "A" * 36}),
    ],
)
def test_values_at_the_limits_are_accepted(record):
    """One more would not be."""
    assert [] == validate(record).rejected


@pytest.mark.slow
@given(st.sampled_from(sorted(BANNED_IDS)), st.data())
def test_banned_ids_are_banned_in_any_case(banned, data):
    """They would merge unrelated users into one."""
    spelled = "".join(data.draw(st.sampled_from([c.lower(), c.upper()])) for c in banned)
    assert ["properties.distinct_id"] == rejected_fields(event(distinct_id=spelled))


@pytest.mark.slow
@given(st.lists(RECORDS, max_size=6), st.sampled_from(["track", "import"]), st.booleans())
def test_every_record_is_validated_and_nothing_raises(records, endpoint, strict):
    """For any JSON: accepted or rejected, stored with a complete key, input unchanged."""
    before = json.dumps(records)
    result = validate(*records, endpoint=endpoint, strict=strict)
    assert len(records) == result.good + len(result.rejected)
    assert before == json.dumps(records)
    for stored in result.accepted:
        sent_fields, properties = json.loads(stored.sent_fields), json.loads(stored.properties)
        assert sent_fields.keys() <= {"token", "time"}
        assert not properties.keys() & {"token", "time", "distinct_id", "$insert_id"}
        assert isinstance(stored.time, int)


@pytest.mark.slow
@given(st.dictionaries(st.text(max_size=50), st.text() | st.integers() | st.booleans()))
def test_valid_events_are_stored_as_sent(properties):
    """Except strings, which are truncated to 255 characters."""
    record = event(**{f"p-{name}": value for name, value in properties.items()})
    sent_fields = {
        name: value[:255] if isinstance(value, str) else value
        for name, value in record["properties"].items()
        if name.startswith("p-")
    }
    stored = only(validate(record))
    assert sent_fields == json.loads(stored.properties)
    assert {"token": "T", "time": NOW} == json.loads(stored.sent_fields)


def test_the_ip_is_not_stored():
    """It is used for geolocation, and is not a property of the event."""
    stored = only(validate(event(ip="0", n=1)))
    assert {"n": 1} == json.loads(stored.properties)


def test_long_strings_are_truncated_at_any_depth():
    """To 255 characters, in lists and objects too."""
    stored = only(validate(event(a="x" * 300, b=["é" * 300], c={"d": {"e": "z" * 300}})))
    sent_fields = json.loads(stored.properties)
    assert ("x" * 255, ["é" * 255], {"d": {"e": "z" * 255}}) == (
        sent_fields["a"],
        sent_fields["b"],
        sent_fields["c"],
    )


@pytest.mark.parametrize(
    ("time", "milliseconds"),
    [
        (NOW, NOW * 1000),
        (NOW * 1000, NOW * 1000),
        (NOW * 1000 + 7, NOW * 1000 + 7),
        (NOW + 0.007, NOW * 1000 + 7),
        (float(NOW), NOW * 1000),
    ],
)
def test_time_is_seconds_or_milliseconds(time, milliseconds):
    """Depending on the size of the number."""
    assert milliseconds == only(validate(event(time=time))).time


def test_track_accepts_the_last_five_days():
    """Import accepts times since 1971."""
    edge, older = event(time=NOW - 5 * DAY), event(time=NOW - 5 * DAY - 1)
    assert [] == rejected_fields(edge, endpoint="track")
    assert ["properties.time"] == rejected_fields(older, endpoint="track")
    assert [] == rejected_fields(older, endpoint="import")


def test_an_optional_insert_id_is_generated():
    """On /track and on a lenient import, each time a new one."""
    record = without("$insert_id")
    made = [
        only(validate(record, endpoint="track")).insert_id,
        only(validate(record, endpoint="track")).insert_id,
        only(validate(record, strict=False)).insert_id,
    ]
    assert 3 == len({str(uuid.UUID(each)) for each in made})


def test_ignored_events_are_valid_and_not_stored():
    """`$ignore` drops them silently."""
    result = validate(event(**{"$ignore": True}))
    assert ([], [], 1) == (result.accepted, result.rejected, result.good)


def test_a_rejected_event_creates_no_alias():
    """Although it has both ids."""
    linked = {"$device_id": "d1", "$user_id": "u1"}
    assert {"$device:d1": "u1"} == validate(event(**linked)).aliases
    assert {} == validate(event(**linked, time=0)).aliases


def test_a_null_distinct_id_counts_as_missing():
    """The official SDK sends null for events of Simplified ID Merge."""
    assert "u9" == only(validate(event(distinct_id=None, **{"$user_id": "u9"}))).distinct_id


def test_a_fault_can_reject_valid_records():
    """By index."""
    result = validate(event(), event(), refuse={1: "because"})
    assert [(1, "a-1", "because")] == [
        (each.index, each.insert_id, each.message) for each in result.rejected
    ]
