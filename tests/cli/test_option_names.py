"""Errors of the library in the words of the shell."""

import pytest

from mixpanel.cli._options.columns import parse_columns
from mixpanel.cli._output.option_names import in_option_names

OPTIONS = {
    "replace": "--replace",
    "from_date": "--from",
    "start_at": "--start-at",
    "where": "--where",
    "partition_by": "--partition-by",
    "event": "--event",
}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("pass replace=True", "pass --replace"),
        ("replace=True, or not", "--replace, or not"),
        ("partition_by=None writes one file", "no --partition-by writes one file"),
        ("resume with start_at=2000: no", "resume with --start-at 2000: no"),
        ("from_date='x' is not a day", "--from 'x' is not a day"),
        ("from_date is later", "--from is later"),
        ("give event=", "give --event"),
        ("give Columns(event=...)", "give --column event=COLUMN"),
        ("name it with columns={'event': …}", "name it with --column event=COLUMN"),
        ("where is it", "where is it"),
        ("there is no column 'from_date'", "there is no column 'from_date'"),
        ("properties.start_at is text", "properties.start_at is text"),
        ("my_start_at is text", "my_start_at is text"),
    ],
)
def test_arguments_become_options(message, expected):
    """Values follow, and quoted names and words of a sentence stay."""
    assert expected == in_option_names(message, OPTIONS)


def test_a_message_with_sql_keeps_its_conditions():
    """`where=` and `from_date` may be the user's own columns."""
    message = "SELECT * FROM t WHERE from_date=5: pass replace=True"
    expected = "SELECT * FROM t WHERE from_date=5: pass --replace"
    assert expected == in_option_names(message, OPTIONS, switches_only=True)


def test_without_options_a_message_stays():
    """As in an error of `mp` itself."""
    assert "replace=True" == in_option_names("replace=True", {})


def test_columns_are_given_by_role():
    """The first `=` ends the role, and an empty column is one that is not there."""
    columns = ["time=created at", "distinct_id=", "event=a=b"]
    expected = {"time": "created at", "distinct_id": "", "event": "a=b"}
    assert expected == parse_columns(columns)
    assert {} == parse_columns(None)


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        (["time"], "'time' must be ROLE=COLUMN"),
        (["time=a", "time=b"], "time is given two columns"),
        (["user=a"], "unknown role 'user': choose one of time, event"),
    ],
)
def test_a_wrong_column_is_refused(columns, why):
    """In the words of the option."""
    with pytest.raises(Exception, match=why):
        parse_columns(columns, ["time", "event"])
