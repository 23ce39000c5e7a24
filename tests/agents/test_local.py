"""The functions on the local database, without a server: hostile names and 10,000 properties."""

import json
from datetime import date

import pytest

from mixpanel._agents import local
from mixpanel._agents.overview import MAX_TOKENS, overview_of, overview_text
from mixpanel._agents.results import json_text, tokens
from mixpanel.data._fetch.plan import Chunk, Filters, Part
from mixpanel.data.exceptions import ConfigError, EventNotFoundError, PropertyNotFoundError
from mixpanel.data.store import Database

pytestmark = pytest.mark.slow
DAY = date(2026, 1, 1)
BEGAN = 1_767_225_600
NAMES = [
    "plan", "", " ", "a.b", "a/b~c", "$.plan", '"quoted"', "it's", "new\nline", "\u202ereversed",
    "🎉", "x" * 400, "'; DROP TABLE events; --", "*", "[0]", "#", "日本語", "\u0001control",
]  # fmt: skip
EVENTS = [name for name in NAMES if name]
MANY = 10_000


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """Keep a table with 10,000 properties, and with names that are more than words."""
    rows = [
        {
            "event": name,
            "properties": {
                "time": BEGAN,
                "distinct_id": f"u{n % 9}",
                "$insert_id": f"i{n}",
                **dict.fromkeys(NAMES, n),
                **{f"p{number}": 1 for number in range(n * 20, min(MANY, (n + 1) * 20))},
            },
        }
        for n, name in enumerate([*EVENTS, *["Order Paid"] * 483])
    ]
    with Database.open(tmp_path_factory.mktemp("local") / "a.db") as database:
        load = database.begin_events("events", filters=Filters(), mode="new", days=[DAY])
        path = database.parts / f"{load.key}_{DAY}_{DAY}.ndjson"
        path.write_text("\n".join(map(json.dumps, rows)) + "\n")
        [staged] = load.stage([Part(path, Chunk(DAY, DAY), path.stat().st_size, gzip=False)])
        assert staged.error is None
        load.finish()
        yield database


def test_an_overview_of_ten_thousand_properties_fits(database):
    """And counts those that it leaves out; the others keep their names."""
    facts = local.table_facts(database)
    assert MANY + len(NAMES) == facts[0]["property_count"]
    answer = overview_of({"project": "42"}, facts)
    assert tokens(json_text(answer)) <= MAX_TOKENS
    assert tokens(overview_text(answer)) <= MAX_TOKENS
    shown = len(answer["tables"][0]["properties"])
    assert f"{MANY + len(NAMES) - shown:,} properties of tables" in answer["left_out"][-1]
    assert "number" == answer["tables"][0]["properties"]["it's"]


@pytest.mark.parametrize("name", EVENTS)
def test_any_name_of_an_event_or_property_is_found(database, name):
    """It is compared as text, and never becomes SQL or a path."""
    found = local.list_events(database, search=name)
    assert name in [each["event"] for each in found["events"]]
    properties = local.list_properties(database, name, search=name)
    assert name in [each["name"] for each in properties["properties"]]
    values = local.property_values(database, name, name)
    assert 1 == values["values"][0]["count"]


def test_a_search_finds_rare_properties(database):
    """Among all of them, not only the most frequent."""
    found = local.list_properties(database, "Order Paid", search="p9999")
    assert ["p9999"] == [each["name"] for each in found["properties"]]
    assert 1 == found["total"]


def test_pages_of_properties_have_all_of_them(database):
    """Each once."""
    names, cursor = [], None
    while True:
        found = local.list_properties(database, "Order Paid", search="p9", limit=500, cursor=cursor)
        names += [each["name"] for each in found["properties"]]
        cursor = found.get("next_cursor")
        if cursor is None:
            break
    assert found["total"] == len(names) == len(set(names))


def test_what_is_found_in_some_rows_says_so(database, monkeypatch):
    """In the list of properties, and in the overview; in all rows, there is no note."""
    whole = local.list_properties(database, "Order Paid")
    assert (483, 483, False) == (whole["rows"], whole["rows_read"], "note" in whole)
    assert "properties_from" not in overview_of({}, local.table_facts(database))["tables"][0]
    monkeypatch.setattr(local, "SAMPLED", 100)
    found = local.list_properties(database, "Order Paid")
    assert (483, 100) == (found["rows"], found["rows_read"])
    assert found["note"].startswith("types and shares are those of 100 of 483 rows")
    none = local.list_properties(database, "Order Paid", search="nothing like it")
    assert (0, 100, True) == (none["total"], none["rows_read"], "note" in none)
    answer = overview_of({}, local.table_facts(database))
    assert "100 rows, chosen at random" == answer["tables"][0]["properties_from"]
    assert "properties are those of 100 rows, chosen at random" in overview_text(answer)


def test_an_unknown_name_has_similar_ones(database):
    """Of events, and of the properties of an event."""
    with pytest.raises(EventNotFoundError, match="did you mean Order Paid"):
        local.list_properties(database, "order payed")
    with pytest.raises(PropertyNotFoundError, match="did you mean plan"):
        local.property_values(database, "Plan ", "Order Paid")


def test_a_database_without_events_says_so(tmp_path):
    """An empty one has no facts."""
    with Database.open(tmp_path / "empty.db") as empty:
        assert [] == local.table_facts(empty)
        assert not local.has_events(empty)
        with pytest.raises(ConfigError) as raised:
            local.list_events(empty)
    assert "NO_LOCAL_EVENTS" == raised.value.code
