"""Answers fit: JSON whose hidden characters are visible, pages, and an estimate of tokens."""

import json
import math
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixpanel._agents.results import (
    MARK,
    MAX_CELL,
    cut,
    decoded_cursor,
    encoded_cursor,
    json_text,
    json_value,
    page_of,
    tokens,
)
from mixpanel.data.exceptions import ConfigError

HIDDEN = "\u202e\u2066\u200b\u200f\ufeff\u2028\x7f\x9b\U000e0041\ufe0f\U000e0101\ue000\xad"


@pytest.mark.parametrize("hidden", HIDDEN)
def test_hidden_characters_are_escaped(hidden):
    """A model and a person see the same, and the value stays what it was."""
    text = json_text({"a": f"x{hidden}y"})
    assert hidden not in text
    assert f"x{hidden}y" == json.loads(text)["a"]


def test_readable_text_stays_readable():
    """Letters of any script, and emoji."""
    assert '{"a":"Größe 日本 🎉 é"}' == json_text({"a": "Größe 日本 🎉 é"})


@given(st.text())
def test_text_comes_back_as_it_was(text):
    """Also half a surrogate pair, which UTF-8 cannot express."""
    shown = json_text(text)
    assert text == json.loads(shown)
    shown.encode()


def test_values_become_the_closest_json():
    """Digits are not lost."""
    given = [math.nan, math.inf, Decimal("1.50"), Decimal("0.1234567890123456789"), Decimal("NaN")]
    assert [None, None, 1.5, "0.1234567890123456789", None] == json_value(given)
    times = [date(2026, 1, 31), datetime(2026, 1, 31, tzinfo=UTC), {1: {2}}]
    assert ["2026-01-31", "2026-01-31T00:00:00+00:00", {"1": [2]}] == json_value(times)


def test_long_values_are_cut():
    """Text, and lists and objects as their JSON; short ones stay."""
    assert ("x" * MAX_CELL, 0) == cut("x" * MAX_CELL)
    assert ("x" * MAX_CELL + MARK, 1) == cut("x" * (MAX_CELL + 1))
    assert ([1, 2], 0) == cut([1, 2])
    text, count = cut(list(range(10_000)))
    assert (True, 1) == (text.startswith("[0,1,2,"), count)


def test_a_page_holds_what_fits_and_states_the_rest():
    """At least one row, however large."""
    page = page_of(["x" * 900] * 100, {}, limit=100, total=100, max_text=5_000)
    assert 5 == len(page.rows)
    assert "5 rows of 100 (5,000 characters at most)" in page.left_out
    assert 1 == len(page_of(["x" * 900] * 9, {}, limit=9, total=9, max_text=10).rows)
    assert None is page_of([1], {}, limit=1, total=1).cursor


@pytest.mark.slow
@given(st.integers(0, 10**9), st.dictionaries(st.text(), st.text()))
def test_a_cursor_comes_back_as_its_offset(offset, scope):
    """For the call that it belongs to, and no other."""
    cursor = encoded_cursor(scope, offset)
    assert offset == decoded_cursor(cursor, scope)
    with pytest.raises(ConfigError):
        decoded_cursor(cursor, {**scope, "more": 1})


@pytest.mark.slow
@given(st.text())
def test_any_other_text_is_no_cursor(text):
    """And raises nothing else."""
    with pytest.raises(ConfigError) as raised:
        decoded_cursor(text, {})
    assert "INVALID_CURSOR" == raised.value.code


@pytest.mark.parametrize(
    ("text", "least"),
    [
        ("The quick brown fox jumps over the lazy dog.", 10),  # its words, and the full stop
        ('{"event":"Order Paid","count":24}', 12),  # words, numbers and groups of punctuation
        ("日本語", 9),  # its bytes
        ("f3b0b0c0-7fc8-d3b0", 8),
    ],
)
def test_the_estimate_of_tokens_is_rather_too_high(text, least):
    """So that a limit holds for any vocabulary of words and bytes."""
    assert least <= tokens(text) <= len(text.encode())
