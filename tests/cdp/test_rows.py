"""Flat rows become messages of the spec, with stable ids."""

import math
import re
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from mixpanel import ConfigurationError, ValidationError
from mixpanel.cdp._segment.rows import FlatRows, require_timestamp, with_message_id

AT = datetime(2024, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize("who", ["user_id", "userId", "User ID", "USERID"])
def test_usual_column_names_are_found_in_any_spelling(who):
    """Case and separators do not matter."""
    row = {who: "u-1", "event": "Paid", "Event Time": AT, "amount": 12.5}
    assert FlatRows("track").message(row) == {
        "type": "track",
        "userId": "u-1",
        "event": "Paid",
        "timestamp": AT,
        "properties": {"amount": 12.5},
    }


@pytest.mark.parametrize(
    ("kind", "row", "text"),
    [
        ("identify", {"user_id": 1, "plan": "team"}, {"userId": 1, "traits": {"plan": "team"}}),
        ("group", {"group_id": "g", "size": 3}, {"groupId": "g", "traits": {"size": 3}}),
        ("alias", {"previous_id": "a", "user_id": "b"}, {"previousId": "a", "userId": "b"}),
        (
            "page",
            {"anonymous_id": "a", "time": AT, "name": "Home", "category": "Docs", "url": "/"},
            {
                "anonymousId": "a",
                "timestamp": AT,
                "name": "Home",
                "category": "Docs",
                "properties": {"url": "/"},
            },
        ),
        (
            "screen",
            {"user_id": "a", "time": AT, "context": {"os": {"name": "iOS"}}},
            {"userId": "a", "timestamp": AT, "context": {"os": {"name": "iOS"}}},
        ),
    ],
)
def test_each_kind_has_its_own_columns(kind, row, text):
    """Other columns become properties or traits."""
    assert FlatRows(kind).message(row) == {"type": kind, **text}


def test_named_columns_take_precedence_over_usual_names():
    """With "" the usual column becomes a property."""
    row = {"customer": "c", "user_id": "internal", "what": "Paid", "at": AT, "context": "shop"}
    columns = {"user_id": "customer", "event": "what", "timestamp": "at", "context": ""}
    assert FlatRows("track", columns=columns).message(row) == {
        "type": "track",
        "userId": "c",
        "event": "Paid",
        "timestamp": AT,
        "properties": {"user_id": "internal", "context": "shop"},
    }


def test_event_names_all_rows():
    """A column named event becomes a property then."""
    actual = FlatRows("track", event="Paid").message({"user_id": 1, "time": 5, "event": "launch"})
    assert (actual["event"], actual["properties"]) == ("Paid", {"event": "launch"})


@pytest.mark.parametrize(
    "empty",
    [None, math.nan, np.float64("nan"), pd.NaT, pd.NA, np.datetime64("NaT", "ns")],
    ids=repr,
)
def test_empty_cells_are_left_out(empty):
    """In the representation of any table library."""
    row = {"user_id": "u", "anonymous_id": empty, "plan": empty, "age": 0, "on": False, "s": ""}
    assert FlatRows("identify").message(row) == {
        "type": "identify",
        "userId": "u",
        "traits": {"age": 0, "on": False, "s": ""},
    }


def test_arrays_are_sent_as_lists():
    """Their element-wise comparison must not count as empty."""
    row = {"user_id": "u", "scores": np.array([1.0, math.nan])}
    assert FlatRows("identify").message(row)["traits"]["scores"] is row["scores"]


@pytest.mark.parametrize(
    ("arguments", "row", "why"),
    [
        (("track",), {"user_id": 1, "event": "x"}, "track needs a column for timestamp"),
        (("track",), {"user_id": 1, "time": 1}, "give event="),
        (("group",), {"user_id": 1}, "columns={'group_id': …}"),
        (("alias",), {"user_id": 1}, "previous_id"),
        (
            ("identify", None, {"user_id": "nope"}),
            {"user_id": 1},
            "there is no column 'nope' for user_id; the rows have 'user_id'",
        ),
    ],
)
def test_a_missing_column_is_named_at_the_first_row(arguments, row, why):
    """With the existing columns, and how to name the right one."""
    with pytest.raises(ConfigurationError, match=re.escape(why)):
        FlatRows(*arguments).message(row)


def test_later_rows_may_lack_a_column():
    """Lines of NDJSON may differ in their names."""
    flat = FlatRows("track")
    flat.message({"user_id": 1, "event": "x", "time": 1})
    assert flat.message({"user_id": 1, "event": "x"}) == {
        "type": "track",
        "userId": 1,
        "event": "x",
    }


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("tracks",), "kind='tracks' must be one of 'identify', 'track'"),
        (("identify", "Paid"), "event='Paid' is for kind='track'"),
        (("identify", None, {"event": "x"}), "columns has unknown keys 'event' for identify"),
        (
            ("alias", None, {"anonymous_id": "x"}),
            "columns has unknown keys 'anonymous_id' for alias",
        ),
    ],
)
def test_invalid_columns_are_rejected_at_once(arguments, why):
    """Before any row is read."""
    with pytest.raises(ConfigurationError) as raised:
        FlatRows(*arguments)
    assert why in str(raised.value)


def test_an_alias_row_with_other_columns_is_rejected():
    """The columns would be lost silently."""
    with pytest.raises(ValidationError, match="remove 'plan'"):
        FlatRows("alias").message({"user_id": 1, "previous_id": 2, "plan": "team"})


@pytest.mark.parametrize("row", [7, "text", None, ["user_id"]])
def test_an_invalid_row_is_rejected(row):
    """The other rows are not affected."""
    with pytest.raises(ValidationError, match="must be a mapping"):
        FlatRows("identify").message(row)


def test_the_message_id_is_a_hash_of_the_content():
    """Equal rows have the same id, different rows another one; an existing id is kept."""
    one = {"type": "track", "userId": "u", "event": "x", "timestamp": AT}
    again = with_message_id({**one, "timestamp": datetime(2024, 1, 31, 12, tzinfo=UTC)})
    assert with_message_id(one)["messageId"] == again["messageId"]
    assert with_message_id(one)["messageId"] != with_message_id({**one, "userId": "v"})["messageId"]
    assert with_message_id({**one, "messageId": "m"})["messageId"] == "m"
    assert "messageId" not in one


@pytest.mark.parametrize("kind", ["track", "page", "screen"])
def test_events_and_views_require_a_timestamp(kind):
    """Otherwise they would be dated today."""
    with pytest.raises(ValidationError, match="needs a timestamp"):
        require_timestamp({"type": kind, "timestamp": None})
    assert require_timestamp({"type": kind, "originalTimestamp": "2024-01-31"})


@pytest.mark.parametrize("kind", ["identify", "group", "alias"])
def test_people_and_groups_require_no_timestamp(kind):
    """Traits are current unless they have a timestamp."""
    assert require_timestamp({"type": kind}) == {"type": kind}
