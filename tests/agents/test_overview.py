"""An overview stays within its tokens, for any tables and names."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixpanel._agents.overview import MAX_TOKENS, overview_of, overview_text
from mixpanel._agents.results import json_text, tokens

HEAD = {"project": "42", "region": "us", "timezone": "Europe/Oslo", "database": "~/.mp/data/42.db"}
NAMES = st.text(min_size=1, max_size=300)


def table(name="events", events=(), properties=(), **more):
    """Return the facts of a table."""
    return {
        "name": name,
        "type": "events",
        "rows": 1_000_000,
        "from_date": "2026-01-01",
        "to_date": "2026-01-31",
        "missing_days": [],
        "filters": [],
        "columns": {"event_name": "VARCHAR", "properties": "JSON"},
        "events": [(each, 10) for each in events],
        "properties": [{"name": each, "type": "text", "share": 1.0} for each in properties],
        **more,
    }


def fits(answer, limit=MAX_TOKENS):
    """Return True if an overview is short enough, as JSON and as text."""
    return tokens(json_text(answer)) <= limit and tokens(overview_text(answer)) <= limit


def test_a_small_project_is_shown_whole():
    """Nothing is left out, and no note says so."""
    answer = overview_of(HEAD, [table(events=["Order Paid"], properties=["plan"])])
    assert {"Order Paid": 10} == answer["tables"][0]["events"]
    assert {"plan": "text"} == answer["tables"][0]["properties"]
    assert "left_out" not in answer


def test_ten_thousand_properties_are_counted():
    """The most frequent are shown; how many are not is stated."""
    names = [f"property_{n}" for n in range(10_000)]
    answer = overview_of(HEAD, [table(events=["a", "b"], properties=names)])
    shown = answer["tables"][0]["properties"]
    assert names[: len(shown)] == [*shown]
    assert len(shown) > 100
    assert [f"{10_000 - len(shown):,} properties of tables (list_properties)"] == (
        answer["left_out"]
    )
    assert fits(answer)


def test_each_table_has_a_line_before_any_has_a_list():
    """A large table does not hide the others."""
    wide = table("big", properties=[f"p{n}" for n in range(5_000)])
    answer = overview_of(HEAD, [wide, *(table(f"t{n}") for n in range(20))])
    assert 21 == len(answer["tables"])
    assert fits(answer)


def test_a_thousand_tables_are_counted():
    """As many as fit are shown."""
    answer = overview_of(HEAD, [table(f"table_number_{n}") for n in range(1_000)])
    shown = len(answer["tables"])
    assert 10 < shown < 1_000
    assert f"{1_000 - shown:,} tables" in answer["left_out"][0]
    assert fits(answer)


def test_events_of_the_project_are_shown_with_their_properties():
    """And counted where they do not fit."""
    project = {f"Event {n}": [f"p{m}" for m in range(50)] for n in range(3_000)}
    answer = overview_of(HEAD, [], project)
    assert answer["project_events"]
    assert "events of the project" in answer["left_out"][0]
    assert fits(answer)


@pytest.mark.slow
@given(
    st.lists(NAMES, max_size=40, unique=True),
    st.lists(NAMES, max_size=400, unique=True),
    st.dictionaries(NAMES, st.lists(NAMES, max_size=20), max_size=40),
)
def test_hostile_names_fit_too(events, properties, project):
    """Long, empty of letters, of any script, invisible."""
    answer = overview_of(HEAD, [table(events=events, properties=properties)], project)
    assert fits(answer)
    json.loads(json_text(answer))


@pytest.mark.parametrize(
    "name", ["\u202e" * 300, "🎉" * 300, '"\n## Not a heading\n', "\x1b[2J", "\ud800", "[" * 200]
)
def test_a_name_cannot_break_the_text(name):
    """It stays on its line, and its hidden characters are visible."""
    answer = overview_of(HEAD, [table(events=[name], properties=[name] * 50)], {name: [name]})
    text = overview_text(answer)
    text.encode()
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert 2 == text.count("\n## ")
    assert fits(answer)


@pytest.mark.parametrize("limit", [500, 1_000, 8_000])
def test_the_limit_can_be_chosen(limit):
    """More tokens show more."""
    answer = overview_of(
        HEAD, [table(properties=[f"p{n}" for n in range(9_000)])], max_tokens=limit
    )
    assert fits(answer, limit)
    assert len(answer["tables"][0].get("properties", ())) > limit / 50
