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


def judge(*records, endpoint="import", **options):
    return validate_events(records, endpoint=endpoint, now=NOW, **options)


def only(judgement):
    (stored,) = judgement.accepted
    return stored


def refused(*records, **options):
    return [refusal.field for refusal in judge(*records, **options).rejected]


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
def test_a_rule_names_the_field_that_breaks_it(record, field):
    """And refuses that record only."""
    judgement = judge(event(), record)
    assert [(1, field)] == [(refusal.index, refusal.field) for refusal in judgement.rejected]
    assert (1, 1) == (judgement.good, len(judgement.accepted))


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
def test_the_limits_themselves_pass(record):
    """One more would not."""
    assert [] == judge(record).rejected


@given(st.sampled_from(sorted(BANNED_IDS)), st.data())
def test_banned_ids_are_banned_in_any_case(banned, data):
    """They would merge strangers into one user."""
    spelled = "".join(data.draw(st.sampled_from([c.lower(), c.upper()])) for c in banned)
    assert ["properties.distinct_id"] == refused(event(distinct_id=spelled))


@given(st.lists(RECORDS, max_size=6), st.sampled_from(["track", "import"]), st.booleans())
def test_every_record_is_judged_and_nothing_raises(records, endpoint, strict):
    """Whatever JSON comes: good or refused, what is stored has a whole key, and input is spared."""
    before = json.dumps(records)
    judgement = judge(*records, endpoint=endpoint, strict=strict)
    assert len(records) == judgement.good + len(judgement.rejected)
    assert before == json.dumps(records)
    for stored in judgement.accepted:
        sent_fields, properties = json.loads(stored.sent_fields), json.loads(stored.properties)
        assert sent_fields.keys() <= {"token", "time"}
        assert not properties.keys() & {"token", "time", "distinct_id", "$insert_id"}
        assert isinstance(stored.time, int)


@given(st.dictionaries(st.text(max_size=50), st.text() | st.integers() | st.booleans()))
def test_what_keeps_the_rules_is_stored_as_it_was_sent(properties):
    """All but strings, which are cut at 255 characters."""
    record = event(**{f"p-{name}": value for name, value in properties.items()})
    sent_fields = {
        name: value[:255] if isinstance(value, str) else value
        for name, value in record["properties"].items()
        if name.startswith("p-")
    }
    stored = only(judge(record))
    assert sent_fields == json.loads(stored.properties)
    assert {"token": "T", "time": NOW} == json.loads(stored.sent_fields)


def test_the_address_is_read_and_not_stored():
    """`ip` says where an event was, and is no property of it."""
    stored = only(judge(event(ip="0", n=1)))
    assert {"n": 1} == json.loads(stored.properties)


def test_long_strings_are_cut_wherever_they_are():
    """At 255 characters, in lists and objects too."""
    stored = only(judge(event(a="x" * 300, b=["é" * 300], c={"d": {"e": "z" * 300}})))
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
    """The size of the number tells."""
    assert milliseconds == only(judge(event(time=time))).time


def test_track_takes_the_last_five_days():
    """Import takes anything since 1971."""
    edge, older = event(time=NOW - 5 * DAY), event(time=NOW - 5 * DAY - 1)
    assert [] == refused(edge, endpoint="track")
    assert ["properties.time"] == refused(older, endpoint="track")
    assert [] == refused(older, endpoint="import")


def test_a_missing_insert_id_is_made_up_where_it_may_be_missing():
    """On /track and on a lenient import, each time a new one."""
    record = without("$insert_id")
    made = [
        only(judge(record, endpoint="track")).insert_id,
        only(judge(record, endpoint="track")).insert_id,
        only(judge(record, strict=False)).insert_id,
    ]
    assert 3 == len({str(uuid.UUID(each)) for each in made})


def test_ignored_events_are_good_and_gone():
    """`$ignore` drops in silence."""
    judgement = judge(event(**{"$ignore": True}))
    assert ([], [], 1) == (judgement.accepted, judgement.rejected, judgement.good)


def test_a_refused_event_tells_no_alias():
    """Both ids are there, but the event is not stored."""
    linked = {"$device_id": "d1", "$user_id": "u1"}
    assert {"$device:d1": "u1"} == judge(event(**linked)).aliases
    assert {} == judge(event(**linked, time=0)).aliases


def test_a_null_distinct_id_is_none():
    """The official SDK sends null for events of Simplified ID Merge."""
    assert "u9" == only(judge(event(distinct_id=None, **{"$user_id": "u9"}))).distinct_id


def test_chosen_records_are_refused():
    """A fault may refuse what is good."""
    judgement = judge(event(), event(), refuse={1: "because"})
    assert [(1, "a-1", "because")] == [
        (each.index, each.insert_id, each.message) for each in judgement.rejected
    ]
