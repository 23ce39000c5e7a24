"""The message of each call of the Segment spec, and the errors raised at the call."""

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from pathlib import PurePosixPath
from uuid import UUID

import numpy as np
import pandas as pd
import pytest

from mixpanel import ConfigurationError, ValidationError
from mixpanel._delivery.buffer import Buffer
from mixpanel._delivery.stats import DeliveryStats
from mixpanel.cdp import CUSTOMERIO, HIGHTOUCH, Dialect, SegmentComposer
from mixpanel.cdp._customerio.composer import CustomerIOComposer
from mixpanel.settings import Limits

NOW = 1_764_000_000.25
STAMP = "2025-11-24T16:00:00.250Z"
LIBRARY = {"name": "ours", "version": "1"}
UUID_ = UUID("12345678-1234-5678-1234-567812345678")
PLAIN = Dialect("Plain", {"us": "https://cdp.example"})


def composer(dialect=CUSTOMERIO, **options):
    return SegmentComposer(
        dialect, now=lambda: NOW, new_id=lambda: "ID", library=LIBRARY, **options
    )


def customerio(**options):
    return CustomerIOComposer(
        CUSTOMERIO, now=lambda: NOW, new_id=lambda: "ID", library=LIBRARY, **options
    )


def sent(message):
    return json.loads(message.body)


def common(kind, **own):
    """Return the common fields of a message to Customer.io."""
    return {
        "type": kind,
        "messageId": "ID",
        "timestamp": STAMP,
        "context": {"library": LIBRARY},
        **own,
    }


CALLS = [
    (
        lambda c: c.identify("u", {"plan": "team"}),
        common("identify", userId="u", traits={"plan": "team"}),
    ),
    (lambda c: c.identify(anonymous_id="a"), common("identify", anonymousId="a")),
    (
        lambda c: c.identify(traits={"email": "x@y.example"}),
        common("identify", userId="", traits={"email": "x@y.example"}),
    ),
    (
        lambda c: c.track("u", "Paid", {"amount": 3}),
        common("track", userId="u", event="Paid", properties={"amount": 3}),
    ),
    (
        lambda c: c.track(None, "Renamed", group_id=7),
        common("track", event="Renamed", groupId="7"),
    ),
    (
        lambda c: c.page("u", "Docs", "Home", {"url": "/"}, anonymous_id="a"),
        common(
            "page", userId="u", anonymousId="a", category="Docs", name="Home",
            properties={"url": "/", "category": "Docs"},
        ),
    ),
    (
        lambda c: c.screen(anonymous_id="a", name="Main"),
        common("screen", anonymousId="a", name="Main"),
    ),
    (
        lambda c: c.group("u", "acme", {"size": 3}),
        common("group", userId="u", groupId="acme", traits={"size": 3}),
    ),
    (lambda c: c.group(None, "acme"), common("group", groupId="acme")),
    (lambda c: c.alias("old", "new"), common("alias", userId="new", previousId="old")),
]  # fmt: skip


@pytest.mark.parametrize(("call", "expected"), CALLS)
def test_each_method_composes_the_message_of_the_spec(call, expected):
    """Absent ids are left out rather than sent as null."""
    assert expected == sent(call(composer()))


@pytest.mark.parametrize(("call", "expected"), CALLS)
def test_from_dict_composes_the_same_messages_as_the_methods(call, expected):
    """A message that is read back from a file is the message that was written."""
    message = call(composer())
    assert expected == sent(composer().from_dict(json.loads(message.body)))


def test_a_message_has_its_kind_and_id():
    """The sender needs both without reading the body; the repr holds nothing of the payload."""
    message = composer().track("secret-user", "Paid", message_id="m-1")
    assert ("track", "m-1", True) == (message.kind, message.message_id, message.repeatable)
    assert "secret" not in repr(message)


def test_a_single_body_has_sent_at_and_no_type():
    """The path of the endpoint implies the type."""
    body = json.loads(CUSTOMERIO.single_body(composer().identify("u"), "2026-01-31T12:00:00.000Z"))
    expected = common("identify", userId="u", sentAt="2026-01-31T12:00:00.000Z")
    del expected["type"]
    assert expected == body


def test_hightouch_gets_both_timestamps():
    """Its documentation requires originalTimestamp, its own library sends timestamp."""
    message = sent(composer(HIGHTOUCH).track("u", "Paid"))
    assert (STAMP, STAMP) == (message["timestamp"], message["originalTimestamp"])


def test_messages_use_the_buffer_of_the_mixpanel_client():
    """There is no second queue: the same buffer stores and counts them."""
    stats = DeliveryStats()
    buffer = Buffer(Limits(), stats, max_in_flight={"batch": 1})
    buffer.put(composer().track("u", "Paid"))
    assert (1, 1) == (stats.snapshot().accepted, stats.snapshot().pending)


# ---- frozen -------------------------------------------------------------------------------------


def test_arguments_are_copied_and_not_modified():
    """Also the `library` in the caller's context."""
    properties, context = {"tags": ["a"]}, {"library": {"name": "theirs"}, "ip": "::1"}
    message = composer(default_context={"locale": "de"}).track("u", "Paid", properties, context)
    properties["tags"].append("b")
    assert {"library": {"name": "theirs"}, "ip": "::1"} == context
    assert ["a"] == sent(message)["properties"]["tags"]
    assert {"locale": "de", "library": {"name": "theirs"}, "ip": "::1"} == sent(message)["context"]


def test_later_changes_of_the_default_context_have_no_effect():
    """Its conversion losses are noted with every message, like those of any value."""
    notes, given = [], {"place": {"lat": float("nan")}, "seen": datetime(2026, 1, 31)}
    actual = composer(default_context=given, note=lambda *what: notes.append(what))
    given["place"]["lat"] = 52.5
    context = {
        "library": LIBRARY, "place": {"lat": None}, "seen": "2026-01-31T00:00:00.000Z",
    }  # fmt: skip
    assert context == sent(actual.track("u", "Paid"))["context"]
    assert {**context, "ip": "::1"} == sent(actual.track("u", "Paid", None, {"ip": "::1"}))[
        "context"
    ]
    assert [("coerced", "a number was not finite")] * 2 == notes
    with pytest.raises(ValidationError, match="not finite"):
        composer(default_context={"x": float("inf")}, validation="raise").track("u", "Paid")


# ---- ids ----------------------------------------------------------------------------------------


class Colour(StrEnum):
    RED = "red"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (0, "0"),
        (17, "17"),
        ("u", "u"),
        (UUID_, str(UUID_)),
        (Colour.RED, "red"),
        (10**30, "1" + "0" * 30),
    ],
)
def test_ids_become_text_and_zero_is_valid(given, expected):
    """Other libraries reject the user 0."""
    assert expected == sent(composer().track(given, "Paid"))["userId"]


@pytest.mark.parametrize(
    "bad", ["", "  ", True, 1.5, 1j, Decimal("1.5"), float("inf"), ["u"], object()]
)
def test_invalid_ids_are_rejected(bad):
    """Nobody's id is a fraction, a list or empty."""
    for call in (
        lambda c: c.track(bad, "Paid"),
        lambda c: c.identify("u", anonymous_id=bad),
        lambda c: c.group("u", bad),
        lambda c: c.alias(bad, "u"),
    ):
        with pytest.raises(ValidationError, match="_id"):
            call(composer())


@pytest.mark.parametrize("whole", [17.0, Decimal(17), Decimal("17.00")])
def test_a_whole_float_is_a_whole_number_and_counted(whole):
    """A column with missing values turns 17 into 17.0, which would be another person."""
    notes = []
    counting = customerio(note=lambda kind, text: notes.append((kind, text)))
    assert sent(counting.track(whole, "Paid"))["userId"] == "17"
    assert sent(counting.identify("u", anonymous_id=whole))["anonymousId"] == "17"
    assert sent(counting.group("u", whole))["groupId"] == "17"
    assert sent(counting.track("u", "Paid", group_id=whole))["groupId"] == "17"
    assert sent(counting.alias(whole, "u"))["previousId"] == "17"
    assert sent(counting.unsubscribe(whole))["userId"] == "17"
    assert sent(counting.set_object(whole, object_type_id=whole))["groupId"] == "17"
    for call in (counting.unrelate, counting.relate):
        assert "17.0" not in str(sent(call("u", whole, object_type_id=whole)))
    assert "17.0" not in str(sent(counting.delete_object(whole, object_type_id=whole)))
    assert [kind for kind, _ in notes] == ["coerced"] * 14
    with pytest.raises(ValidationError, match="sent as '17'"):
        composer(validation="raise").track(whole, "Paid")


@pytest.mark.parametrize("missing", [float("nan"), Decimal("NaN"), pd.NA, pd.NaT])
def test_a_missing_id_is_no_id(missing):
    """Of several ids one is enough; what is left out is counted."""
    notes = []
    counting = customerio(note=lambda kind, text: notes.append(kind))
    message = sent(counting.track(missing, "Paid", anonymous_id="a", group_id=missing))
    assert not {"userId", "groupId"} & message.keys()
    assert notes == ["coerced"]
    for call in (
        lambda c: c.track(missing, "Paid"),
        lambda c: c.group("u", missing),
        lambda c: c.alias(missing, "u"),
        lambda c: c.unsubscribe(missing),
    ):
        with pytest.raises(ValidationError, match="_id"):
            call(customerio())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda c: c.track(None, "Paid"), "user_id or an anonymous_id"),
        (lambda c: c.identify(), "user_id or an anonymous_id"),
        (lambda c: c.page(), "user_id or an anonymous_id"),
        (lambda c: c.screen(), "user_id or an anonymous_id"),
        (lambda c: c.group("u", None), "group_id is missing"),
        (lambda c: c.alias(None, "u"), "previous_id is missing"),
        (lambda c: c.alias("u", None), "user_id is missing"),
        (lambda c: c.alias("u", "u"), "nothing to merge"),
        (lambda c: c.track("u", ""), "event name is empty"),
        (lambda c: c.track("u", " "), "event name is empty"),
        (lambda c: c.track("u", 5), "must be text, not int"),
        (lambda c: c.track("u", "Paid", ["a"]), "properties must be a mapping"),
        (lambda c: c.track("u", "Paid", ""), "properties must be a mapping"),
        (lambda c: c.identify("u", [("a", 1)]), "traits must be a mapping"),
        (lambda c: c.track("u", "Paid", context="x"), "context must be a mapping"),
        (lambda c: c.track("u", "Paid", integrations=["All"]), "integrations must be a mapping"),
        (lambda c: c.track("u", "Paid", message_id=""), "message_id is empty"),
        (lambda c: c.page("u", 5), "category must be text"),
        (lambda c: c.track("u", "Paid", schema_version="1"), "does not support schema_version"),
        (lambda c: c.from_dict({}), "type must be one of"),
        (lambda c: c.from_dict("x"), "a message must be a mapping"),
        (lambda c: c.from_dict({"type": "track", "userId": "u"}), "event name is missing"),
        (
            lambda c: c.from_dict({"type": "identify", "userId": "u", "event": "E"}),
            "have no 'event'",
        ),
        (lambda c: c.from_dict({"type": "group", "userId": "u"}), "group_id is missing"),
    ],
)
def test_invalid_messages_are_rejected_at_the_call(call, words):
    """With a typed error that says what was wrong, in every mode."""
    with pytest.raises(ValidationError, match=words):
        call(composer(validation="off"))


def test_hightouch_requires_a_person_where_customerio_does_not():
    """The dialects differ in the ids that a group and an identify message require."""
    for call in (
        lambda c: c.group(None, "acme"),
        lambda c: c.identify(traits={"email": "x@y.example"}),
        lambda c: c.track(None, "Renamed", group_id="acme"),
    ):
        with pytest.raises(ValidationError, match="requires a user_id or an anonymous_id"):
            call(composer(HIGHTOUCH))


def test_a_dialect_may_not_support_a_kind():
    """Then the call raises an error."""
    only = replace(PLAIN, kinds=frozenset({"track"}))
    with pytest.raises(ValidationError, match="Plain does not support alias"):
        composer(only).alias("a", "b")


# ---- time ---------------------------------------------------------------------------------------

BERLIN = timezone(timedelta(hours=1))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (datetime(2026, 1, 31, 12), "2026-01-31T12:00:00.000Z"),
        (datetime(2026, 1, 31, 12, 0, 0, 123_999), "2026-01-31T12:00:00.123Z"),
        (datetime(2026, 1, 31, 12, tzinfo=BERLIN), "2026-01-31T11:00:00.000Z"),
        (date(2026, 1, 31), "2026-01-31T00:00:00.000Z"),
        ("2026-01-31T12:00:00+01:00", "2026-01-31T11:00:00.000Z"),
        ("2026-01-31", "2026-01-31T00:00:00.000Z"),
        (1_764_000_000, "2025-11-24T16:00:00.000Z"),
        (1_764_000_000_250, STAMP),
        (datetime(1970, 1, 1), "1970-01-01T00:00:00.000Z"),
    ],
)
def test_timestamps_are_utc_to_the_millisecond(given, expected):
    """A naive datetime is UTC and never shifted, whatever the zone of the machine."""
    assert expected == sent(composer().track("u", "Paid", timestamp=given))["timestamp"]


@pytest.mark.parametrize(
    "seconds", [0, 1.25, 1_764_000_000.1239, 1_764_000_000.9999999, 253_402_300_799.5, -0.25, -1.5]
)
def test_clock_times_are_formatted_as_by_datetime(seconds):
    """Also where a fraction rounds up to the next second, and before 1970."""
    clock = SegmentComposer(PLAIN, now=lambda: seconds, new_id=lambda: "ID", library=LIBRARY)
    expected = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    assert expected.replace("+00:00", "Z") == sent(clock.track("u", "Paid"))["timestamp"]


@pytest.mark.parametrize("bad", ["yesterday", "", True, float("inf"), 10**30, [1], object()])
def test_invalid_timestamps_are_rejected(bad):
    """They are neither guessed nor replaced by the current time."""
    with pytest.raises(ValidationError, match="timestamp must be a datetime"):
        composer().track("u", "Paid", timestamp=bad)


@pytest.mark.parametrize(
    ("serial", "shown"),
    [(45661.4, "2025-01-04 09:36"), (45661, "2025-01-04"), ("45661.4", "2025-01-04 09:36")],
)
def test_a_serial_date_of_a_spreadsheet_is_refused_by_name(serial, shown):
    """As seconds it would be an event of 1970; the error shows the date that was meant."""
    with pytest.raises(ValidationError, match=f"serial date .*{shown}"):
        composer().track("u", "Paid", timestamp=serial)


@pytest.mark.parametrize(
    "moment", [np.datetime64("2026-01-31T12:00:00"), pd.Timestamp("2026-01-31T12:00:00")]
)
def test_times_of_numpy_and_pandas_are_timestamps_and_values(moment):
    """Without a conversion by the caller."""
    message = sent(composer().track("u", "Paid", {"at": moment}, timestamp=moment))
    assert message["timestamp"] == message["properties"]["at"] == "2026-01-31T12:00:00.000Z"


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC), "2026-01-31T12:00:00.123456Z"),
        (datetime(2026, 1, 31, 12, 0, 0, 1), "2026-01-31T12:00:00.000001Z"),
        (datetime(2026, 1, 31, 12, 0, 0, 5000), "2026-01-31T12:00:00.005Z"),
        (datetime(2026, 1, 31, 12, tzinfo=BERLIN), "2026-01-31T12:00:00.000+01:00"),
    ],
)
def test_datetimes_keep_their_microseconds_and_offset(moment, text):
    """As properties and traits; nothing of them is lost in silence."""
    strict = composer(validation="raise")
    assert sent(strict.track("u", "Paid", {"at": moment}))["properties"]["at"] == text
    assert sent(strict.identify("u", {"at": [moment]}))["traits"]["at"] == [text]


@pytest.mark.parametrize("lossy", [Decimal("0.1234567890123456789012"), composer])
def test_what_json_cannot_hold_is_counted(lossy):
    """Digits beyond those of a number, and functions."""
    notes = []
    composer(note=lambda kind, text: notes.append(kind)).track("u", "Paid", {"value": lossy})
    assert notes == ["coerced"]
    with pytest.raises(ValidationError):
        composer(validation="raise").track("u", "Paid", {"value": lossy})


def test_nat_as_a_timestamp_is_now_and_null_as_a_value():
    """NaT is an instance of datetime, but a missing one."""
    assert sent(composer().track("u", "Paid", timestamp=pd.NaT))["timestamp"] == STAMP
    assert sent(composer().track("u", "Paid", timestamp=float("nan")))["timestamp"] == STAMP
    message = composer().track("u", "Paid", {"a": pd.NaT, "b": pd.Timestamp(0)})
    assert {"a": None, "b": "1970-01-01T00:00:00.000Z"} == sent(message)["properties"]


def test_from_dict_uses_the_original_timestamp():
    """Other libraries use this name in their exports."""
    message = {"type": "track", "userId": 1, "event": "E", "originalTimestamp": "2026-01-31"}
    assert "2026-01-31T00:00:00.000Z" == sent(composer().from_dict(message))["timestamp"]


# ---- values -------------------------------------------------------------------------------------


@dataclass
class Point:
    x: int


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (UUID_, str(UUID_)),
        ([UUID_], [str(UUID_)]),
        (Decimal("12.5"), 12.5),
        (Fraction(1, 2), 0.5),
        (datetime(2026, 1, 31, 12, 0, 0, 5000), "2026-01-31T12:00:00.005Z"),
        (datetime(2026, 1, 31, 12, tzinfo=BERLIN), "2026-01-31T12:00:00.000+01:00"),
        (date(2026, 1, 31), "2026-01-31"),
        (timedelta(minutes=1), 60.0),
        (PurePosixPath("/a"), "/a"),
        (Colour.RED, "red"),
        ({3, 1}, [1, 3]),
        ((1, 2), [1, 2]),
        (b"text", "text"),
        (b"\xff\x00", "/wA="),
        (Point(1), {"x": 1}),
        (float("nan"), None),
        (float("inf"), None),
        ("grüß 😀", "grüß 😀"),
    ],
)
def test_values_are_coerced_and_never_dropped(given, expected):
    """Other libraries drop a whole list for one UUID in it."""
    message = composer().track("u", "Paid", {"value": given})
    assert {"value": expected} == sent(message)["properties"]


def test_text_is_sent_as_utf8():
    """Escapes would triple an emoji's bytes against the limit of 32,000."""
    assert "😀".encode() in composer().track("u", "😀").body


def test_conversion_losses_are_noted_or_raised():
    """NaN is sent as null, which is worth a warning."""
    notes = []
    actual = composer(note=lambda kind, text: notes.append((kind, text)))
    actual.track("u", "Paid", {"value": float("nan")})
    assert [("coerced", "a number was not finite")] == notes
    with pytest.raises(ValidationError, match="not finite"):
        composer(validation="raise").track("u", "Paid", {"value": float("nan")})


def test_advice_is_noted_or_raised():
    """A suspicious name is sent anyway, because it may be intended."""
    notes = []
    options = {"advice": lambda _event: lambda message: [f"{message['event']}?"]}
    composer(note=lambda *what: notes.append(what), **options).track("u", "Pad")
    composer(note=lambda *what: notes.append(what), validation="off", **options).track("u", "Pad")
    assert [("doubtful", "Pad?")] == notes
    with pytest.raises(ValidationError, match="Pad"):
        composer(validation="raise", **options).track("u", "Pad")


def test_integrations_are_sent_with_the_message():
    """`All: False` turns off the destinations that are not named."""
    message = composer().track("u", "Paid", integrations={"All": False, "Mixpanel": True})
    assert {"All": False, "Mixpanel": True} == sent(message)["integrations"]


# ---- contracts ----------------------------------------------------------------------------------


def test_schema_version_is_sent_at_its_path():
    """At Hightouch's default path, merged with the caller's context."""
    message = composer(HIGHTOUCH).track(
        "u", "Paid", context={"ip": "::1", "protocols": {"a": 1}}, schema_version="1.2.0"
    )
    context = {"library": LIBRARY, "ip": "::1", "protocols": {"a": 1, "schemaVersion": "1.2.0"}}
    assert context == sent(message)["context"]


@pytest.mark.parametrize("path", ["properties.apiVersion", "traits.apiVersion"])
def test_schema_version_may_be_a_property_or_a_trait(path):
    """A workspace may configure another path; every kind has the one or the other."""
    actual = composer(replace(HIGHTOUCH, schema_version_path=path))
    given = {"amount": 1}
    for message in (
        actual.track("u", "Paid", given, schema_version="2"),
        actual.page("u", None, "Docs", given, schema_version="2"),
        actual.screen("u", None, "Home", given, schema_version="2"),
        actual.identify("u", given, schema_version="2"),
        actual.group("u", "g", given, schema_version="2"),
    ):
        where = "traits" if message.kind in ("identify", "group") else "properties"
        assert {"amount": 1, "apiVersion": "2"} == sent(message)[where]
    assert {"amount": 1} == given
    with pytest.raises(ValidationError, match="does not support schema_version"):
        composer(CUSTOMERIO).identify("u", schema_version="2")


@pytest.mark.parametrize("path", ["", "context", "context.", "event.version", "apiVersion"])
def test_an_invalid_schema_version_path_is_rejected(path):
    """No contract would find the version there."""
    with pytest.raises(ConfigurationError, match="must be a path in a message"):
        replace(HIGHTOUCH, schema_version_path=path)


# ---- settings -----------------------------------------------------------------------------------


def test_invalid_composer_settings_are_rejected():
    """At construction."""
    with pytest.raises(ConfigurationError, match="validation"):
        composer(validation="loud")
    with pytest.raises(ValidationError, match="default_context"):
        composer(default_context="x")


@pytest.mark.slow
def test_importing_the_package_loads_nothing_heavy():
    """Submodules are loaded when a name is first used."""
    source = """
import sys, mixpanel.cdp as cdp
assert not {"httpx", "anyio", "asyncio", "mixpanel._records.record"} & set(sys.modules)
assert set(cdp.__all__) <= set(dir(cdp))
for name in cdp.__all__:
    assert getattr(cdp, name) is not None
assert not {"httpx", "jwt"} & set(sys.modules)
try:
    cdp.nonsense
except AttributeError:
    pass
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", source], check=True)


def test_naive_times_do_not_follow_the_zone_of_the_machine(monkeypatch):
    """Other libraries guess, and produce times five hours in the future."""
    import time

    monkeypatch.setenv("TZ", "America/Lima")
    time.tzset()
    try:
        message = composer().track("u", "Paid", timestamp=datetime(2026, 1, 31, 12))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert datetime(2026, 1, 31, 12, tzinfo=UTC) == datetime.fromisoformat(
        sent(message)["timestamp"]
    )
