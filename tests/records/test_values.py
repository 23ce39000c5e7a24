"""One rule for missing values, ids and times, whichever library the value comes from."""

import json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from uuid import UUID

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from mixpanel import Mixpanel, ValidationError
from mixpanel._records.json_encoding import dumps
from mixpanel._records.values import is_missing, plain_id, serial_date, to_api_time

NOW = 1_764_000_000.25

MISSING = {
    "None": None,
    "float nan": float("nan"),
    "Decimal NaN": Decimal("NaN"),
    "Decimal sNaN": Decimal("sNaN"),
    "numpy nan": np.float64("nan"),
    "numpy float32 nan": np.float32("nan"),
    "numpy float16 nan": np.float16("nan"),
    "numpy longdouble nan": np.longdouble("nan"),
    "numpy array of one nan": np.array(np.nan),
    "numpy NaT": np.datetime64("NaT", "s"),
    "numpy timedelta NaT": np.timedelta64("NaT", "s"),
    "numpy masked": np.ma.masked,
    "pandas NA": pd.NA,
    "pandas NaT": pd.NaT,
    "pyarrow null": pa.scalar(None),
    "pyarrow null integer": pa.scalar(None, pa.int64()),
    "pyarrow null text": pa.scalar(None, pa.string()),
    "pyarrow null time": pa.scalar(None, pa.timestamp("ms")),
}
PRESENT = {
    "zero": 0, "False": False, "empty text": "", "text nan": "nan", "infinity": float("inf"),
    "Decimal": Decimal(0), "numpy zero": np.int64(0), "numpy time": np.datetime64("2026-01-01"),
    "numpy empty": np.array([]), "numpy two": np.array([np.nan, np.nan]), "list": [None],
    "pandas time": pd.Timestamp(0), "pyarrow zero": pa.scalar(0), "dict": {},
    "data frame": pd.DataFrame({"a": [1]}), "series": pd.Series([None]),
}  # fmt: skip


class Plan(Enum):
    TEAM = "team"


class Kept:
    def __init__(self):
        self.messages = []

    def send(self, _endpoint, json_message, *_):
        self.messages.append(json.loads(json_message))


@pytest.fixture
def kept():
    return Kept()


@pytest.fixture
def mp(kept):
    client = Mixpanel("t", kept)
    client._now = lambda: NOW
    return client


def missing(test):
    return pytest.mark.parametrize("value", MISSING.values(), ids=MISSING)(test)


@missing
def test_each_kind_of_missing_value_is_recognised(value):
    """By its type, without importing the library."""
    assert is_missing(value)


@pytest.mark.slow
@pytest.mark.parametrize("value", PRESENT.values(), ids=PRESENT)
def test_no_other_value_is_missing(value):
    """Zero, false and empty are values."""
    assert not is_missing(value)


@missing
def test_a_missing_id_is_no_user(mp, kept, value):
    """It is sent as empty and counted, so that unknown users do not become one."""
    mp.track(value, "E")
    mp.import_data(None, value, "E", NOW - 99)
    mp.people_set(value, {"a": 1})
    mp.group_set("company", value, {"a": 1})
    mp.alias(value, value)
    mp.track_batch([{"event": "E", "properties": {"distinct_id": value}}])
    event, imported, person, group, alias, batched = kept.messages
    for one in (event, imported, batched):
        assert one["properties"]["distinct_id"] == ""
    assert person["$distinct_id"] == ""
    assert group["$group_id"] == ""
    assert {alias["properties"][name] for name in ("distinct_id", "alias")} == {""}
    assert mp.stats().warnings["invalid"] >= 5
    if value is not None:
        assert mp.stats().warnings["coerced"] >= 6


@missing
def test_a_missing_id_beside_a_device_is_left_out(mp, kept, value):
    """The server derives the user from the device then."""
    mp.track(value, "E", device_id="d", user_id=value)
    properties = kept.messages[0]["properties"]
    assert properties["$device_id"] == "d"
    assert not {"distinct_id", "$user_id"} & properties.keys()


@missing
def test_a_missing_property_is_null(mp, kept, value):
    """At any depth, as key too; JSON has no other word for it."""
    mp.track("u", "E", {"a": value, "b": [value, {"c": value}]})
    mp.people_set("u", {"a": value, "b": [value]})
    assert kept.messages[0]["properties"].items() >= {"a": None, "b": [None, {"c": None}]}.items()
    assert kept.messages[1]["$set"] == {"a": None, "b": [None]}


@missing
def test_a_missing_time_is_now(mp, kept, value):
    """As an argument and as a property, of events and of profiles."""
    mp.track("u", "E", time=value)
    mp.track("u", "E", {"time": value})
    mp.people_set("u", {"a": 1}, time=value)
    assert [one["properties"]["time"] for one in kept.messages[:2]] == [NOW, NOW]
    assert kept.messages[2]["$time"] == NOW


@missing
def test_an_import_needs_a_time_that_is_not_missing(mp, value):
    """An event of the past is never dated today."""
    with pytest.raises(ValidationError, match="needs its time"):
        mp._composer.import_event({"event": "E", "properties": {"time": value}})


# ---- ids ----------------------------------------------------------------------------------------

IDS = [
    (17.0, "17"),
    (np.float64(17), "17"),
    (np.float32(17), "17"),
    (Decimal("17.00"), "17"),
    (pa.scalar(17.0), "17"),
    (1e15, "1000000000000000"),
]
PLAIN_IDS = [
    ("17.0", "17.0"),
    (17, "17"),
    (np.int64(5), "5"),
    (pa.scalar("u"), "u"),
    (np.str_("u"), "u"),
    (b"u", "u"),
    (Plan.TEAM, "team"),
    (17.5, "17.5"),
    (Fraction(1, 2), "1/2"),
    (UUID(int=5), str(UUID(int=5))),
]


@pytest.mark.parametrize(
    ("given", "text", "notes"),
    [(*each, 5) for each in IDS] + [(*each, 0) for each in PLAIN_IDS],
)
def test_an_id_is_the_text_that_a_person_would_write(mp, kept, given, text, notes):
    """For events, profiles, groups and links alike; a whole float is counted."""
    mp.track(given, "E")
    mp.import_data(None, given, "E", NOW - 99)
    mp.people_set(given, {"a": 1})
    mp.group_set("company", given, {"a": 1})
    mp.merge(None, given, "other")
    event, imported, person, group, merged = kept.messages
    assert event["properties"]["distinct_id"] == imported["properties"]["distinct_id"] == text
    assert (person["$distinct_id"], group["$group_id"]) == (text, text)
    assert merged["properties"]["$distinct_ids"] == [text, "other"]
    assert mp.stats().warnings.get("coerced", 0) == notes


def test_a_dedupe_key_makes_the_same_id_for_17_and_17_0(mp, kept):
    """A table with missing values does not make other events of the same rows."""
    for given in (17, 17.0, "17", np.int64(17)):
        mp.track(given, "E", dedupe_key="k", time=NOW)
    assert len({one["properties"]["$insert_id"] for one in kept.messages}) == 1


@pytest.mark.parametrize("given", [["acme"], ("acme",), {"id": 1}])
def test_a_group_id_that_is_no_single_id_is_reported(mp, given):
    """An event may belong to several groups; a group profile has one id."""
    mp.group_set("company", given, {"a": 1})
    assert mp.stats().warnings["invalid"] == 1


def test_an_id_that_is_not_finite_is_no_id():
    """Infinity is nobody."""
    assert plain_id(float("inf"), "distinct_id") == ("", "distinct_id was not finite")


# ---- times --------------------------------------------------------------------------------------

MOMENT = datetime(2026, 1, 31, 12, tzinfo=UTC)
MILLISECONDS = 1_769_860_800_000
TIMES = [
    (MOMENT, MILLISECONDS),
    (MOMENT.replace(tzinfo=None), MILLISECONDS),
    (MOMENT.astimezone(timezone(timedelta(hours=5))), MILLISECONDS),
    ("2026-01-31T12:00:00Z", MILLISECONDS),
    ("2026-01-31 12:00:00", MILLISECONDS),
    ("2026-01-31T14:00:00+02:00", MILLISECONDS),
    (date(2026, 1, 31), MILLISECONDS - 12 * 3_600_000),
    ("2026-01-31", MILLISECONDS - 12 * 3_600_000),
    (pd.Timestamp("2026-01-31T12:00:00"), MILLISECONDS),
    (np.datetime64("2026-01-31T12:00:00"), MILLISECONDS),
    (np.datetime64("2026-01-31T12:00:00.000000000"), MILLISECONDS),
    (np.datetime64("2026-01-31"), MILLISECONDS - 12 * 3_600_000),
    (pa.scalar(MOMENT), MILLISECONDS),
    (np.int64(1_769_860_800), 1_769_860_800),
    (np.float64(1_769_860_800.5), 1_769_860_800.5),
    (Decimal("1769860800.5"), 1_769_860_800.5),
    (Decimal(1_769_860_800), 1_769_860_800),
    (pa.scalar(1_769_860_800), 1_769_860_800),
    (1_769_860_800.5, 1_769_860_800.5),
]


@pytest.mark.parametrize(("given", "sent"), TIMES)
def test_a_time_of_any_type_is_sent_as_a_number(given, sent):
    """And is valid in mode "raise", wherever it is given."""
    kept = Kept()
    mp = Mixpanel("t", kept, validation="raise")
    mp._now = lambda: MILLISECONDS / 1000 + 60
    mp.track("u", "E", time=given)
    mp.track("u", "E", {"time": given})
    mp.import_data(None, "u", "E", given)
    mp.people_set("u", {"a": 1}, time=given)
    times = [one.get("$time") or one["properties"]["time"] for one in kept.messages]
    assert times == [sent] * 4
    imported = mp._composer.import_event(
        {"event": "E", "properties": {"time": given, "distinct_id": "u"}}
    )
    assert json.loads(imported.body)["properties"]["time"] == sent


@pytest.mark.parametrize("given", ["soon", [1], {}, True, object()])
def test_what_is_no_time_is_reported(mp, given):
    """It is not guessed at."""
    mp.track("u", "E", time=given)
    assert mp.stats().warnings["invalid"] == 1
    with pytest.raises(ValidationError, match="time must be"):
        Mixpanel("t", Kept(), validation="raise").track("u", "E", time=given)


def test_to_api_time_keeps_numbers():
    """Seconds and milliseconds are told apart by the server."""
    assert to_api_time(5) == 5
    assert to_api_time(5.5) == 5.5


@pytest.mark.parametrize(
    ("serial", "shown"),
    [
        (45661.4, "2025-01-04 09:36"),
        (45661, "2025-01-04"),
        (Decimal("45661.4"), "2025-01-04 09:36"),
    ],
)
def test_a_serial_date_of_a_spreadsheet_is_refused_by_name(serial, shown):
    """As seconds it would be an event of 1970; the error shows the date that was meant."""
    mp = Mixpanel("t", Kept())
    with pytest.raises(ValidationError, match=f"serial date .*{shown}"):
        mp.import_data(None, "u", "E", serial)
    with pytest.raises(ValidationError, match=f"serial date .*{shown}"):
        mp._composer.import_event({"event": "E", "properties": {"time": serial}})


@pytest.mark.parametrize("number", [0, 5, 12345, 29_951, 73_051, 1_700_000_000, True, "45661", -1])
def test_other_numbers_are_no_serial_dates(number):
    """Only days of 1982 to 2099."""
    assert serial_date(number) == ""


# ---- numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Decimal(1234567890123456789012), b"1234567890123456789012"),
        (Decimal("0.1"), b"0.1"),
        (Decimal("5.00"), b"5.0"),
        (Decimal("1E+3"), b"1000.0"),
    ],
)
def test_a_decimal_that_a_number_can_hold_is_kept(value, text):
    """Whole ones to the last digit."""
    assert dumps({"a": value}) == (b'{"a":' + text + b"}", [])


@pytest.mark.parametrize("text", ["0.1234567890123456789012", "1.00000000000000001"])
def test_a_decimal_with_more_digits_is_counted(text):
    """It is rounded to what JSON's readers keep."""
    assert dumps({"a": Decimal(text)})[1] == [
        "a Decimal has more digits than a number of JSON: it was rounded"
    ]


def test_scalars_of_libraries_are_their_values(mp, kept):
    """Of numpy and pyarrow, in properties."""
    mp.track(
        "u",
        "E",
        {"a": np.int64(5), "b": np.bool_(True), "c": pa.scalar("x"), "d": pa.scalar([1, None]),
         "e": np.datetime64("2026-01-31T12:00:00"), "f": pa.scalar(MOMENT)},
    )  # fmt: skip
    given = {name: kept.messages[0]["properties"][name] for name in "abcdef"}
    moment = "2026-01-31T12:00:00"
    assert given == {"a": 5, "b": True, "c": "x", "d": [1, None], "e": moment, "f": moment}
    assert not mp.stats().warnings


def test_a_function_is_null_and_counted(mp, kept):
    """Its text would be an address in memory."""
    mp.track("u", "E", {"a": test_a_function_is_null_and_counted})
    assert kept.messages[0]["properties"]["a"] is None
    assert mp.stats().warnings == {"coerced": 1}
