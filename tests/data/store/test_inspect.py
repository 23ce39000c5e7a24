"""Statistics of events, properties and columns, and typed views."""

import json
from datetime import UTC, date, datetime

import pytest

from mixpanel.data._fetch.plan import Chunk, Filters, Part
from mixpanel.data.exceptions import ConfigError, TableExistsError, TableNotFoundError
from mixpanel.data.store import Database

DAY = date(2026, 1, 1)
MIDNIGHT = 1_767_225_600_000
SENT = [
    ("Order", "u1", {"amount": 12.5, "plan": "pro", "n": 1, "gift": True, "items": [1, 2]}),
    ("Order", "u2", {"amount": 7, "plan": "free", "n": -2, "mixed": "x", "event_name": "mine"}),
    ("Order", "u1", {"amount": None, "plan": "pro", "mixed": 5, "a/b~c": "odd", "Plan": "other"}),
    ("Signup", "u3", {"$email": "a@example.org", "": "nameless", "q\"'": 1, "*": 2, "a.b": 3}),
]


@pytest.fixture
def db():
    """Open a database in memory with a table of events and an empty one."""
    with Database.open() as database:
        for name, sent in (("events", SENT), ("none", [])):
            path = database.parts / "part"
            with path.open("w") as file:
                for n, (event, distinct_id, properties) in enumerate(sent):
                    found = {"time": MIDNIGHT + n, "distinct_id": distinct_id, **properties}
                    file.write(json.dumps({"event": event, "properties": found}) + "\n")
            load = database.begin_events(name, filters=Filters(), mode="new", days=[DAY])
            load.stage([Part(path, Chunk(DAY, DAY), 1, gzip=False)])
            load.finish()
        yield database


@pytest.mark.slow
def test_event_breakdown_counts_events_and_users(db):
    """The most frequent event is first; a user of several events is counted once in the total."""
    found = db.event_breakdown("EVENTS")
    assert ("events", 4, 3) == (found.table, found.total_events, found.total_users)
    assert [("Order", 3, 2, 75.0), ("Signup", 1, 1, 25.0)] == [
        (e.event_name, e.count, e.unique_users, e.pct_of_total) for e in found.events
    ]
    first = datetime(2026, 1, 1, tzinfo=UTC)
    assert (first, first.replace(microsecond=3000)) == found.date_range
    assert first == found.events[0].first_seen


@pytest.mark.slow
def test_event_breakdown_of_an_empty_table_has_no_dates(db):
    """It has no counts either."""
    found = db.event_breakdown("none")
    assert (0, 0, None, []) == (
        found.total_events, found.total_users, found.date_range, found.events
    )  # fmt: skip


@pytest.mark.slow
def test_property_keys_are_collected_from_all_rows(db):
    """They are sorted, and can be limited to one event."""
    assert sorted({key for _, _, found in SENT for key in found}) == db.property_keys("events")
    assert ["", "$email", "*", "a.b", "q\"'"] == db.property_keys("events", "Signup")
    assert [] == db.property_keys("none")


@pytest.mark.slow
def test_unique_count_does_not_exceed_the_number_of_rows(db):
    """DuckDB's estimate may be too high."""
    for rows in (100, 1_000, 5_000, 20_000):
        db.connection.execute(f"CREATE OR REPLACE TABLE t AS SELECT range AS n FROM range({rows})")
        found = db.column_stats("t", "n")
        assert found.unique_count <= rows
        assert found.unique_pct <= 100
    db.drop("t")


@pytest.mark.slow
def test_column_stats_of_columns_and_properties(db):
    """Numeric statistics need a number in every row with a value; invalid columns are refused."""
    found = db.column_stats("events", "properties->>'$.amount'")
    assert (2, 2, 50.0, "DOUBLE", 7.0, 12.5, 9.75) == (
        found.count, found.null_count, found.null_pct, found.dtype, found.min, found.max, found.mean
    )  # fmt: skip
    found = db.column_stats("events", "event_name", top_n=1)
    assert ([("Order", 3)], None, "VARCHAR") == (found.top_values, found.mean, found.dtype)
    assert [("odd", 1)] == db.column_stats("events", "properties->>'/a~1b~0c'").top_values
    assert (0, 0, []) == (
        (e := db.column_stats("none", "event_time")).count,
        e.null_pct,
        e.top_values,
    )
    for wrong in (
        "nothing",
        "1; DROP TABLE events",
        "event_name->>'$.x'",
        "properties->>'$.x' || 1",
    ):
        with pytest.raises(ConfigError, match="no column"):
            db.column_stats("events", wrong)
    for wrong in (0, True, "1; DROP TABLE events"):
        with pytest.raises(ConfigError, match="top_n"):
            db.column_stats("events", "event_name", top_n=wrong)


@pytest.mark.slow
def test_sample_summary_and_schema_describe_a_table(db):
    """They return typed results."""
    assert (2, 4) == (len(db.sample("events", 2)), len(db.sample("events")))
    with pytest.raises(ConfigError, match="whole number"):
        db.sample("events", "1; DROP TABLE events")
    found = db.summarize("events")
    assert (4, "event_name", 0.0) == (
        found.row_count, found.columns[0].column_name, found.columns[0].null_percentage
    )  # fmt: skip
    assert ["VARCHAR", "TIMESTAMP", "VARCHAR", "VARCHAR", "JSON"] == [
        column.type for column in db.schema("events").columns
    ]
    with pytest.raises(TableNotFoundError) as caught:
        db.schema("event")
    assert ("event", ["events", "none"]) == (caught.value.table_name, caught.value.available_tables)


@pytest.mark.slow
def test_typed_views_have_a_column_for_each_property(db):
    """Types are detected, unusual names work, and duplicate names get a number."""
    assert "events_typed" == db.typed_view("events")
    types = {c.name: c.type for c in db.schema("events_typed").columns}
    assert {
        "amount": "DOUBLE",
        "n": "BIGINT",
        "gift": "BOOLEAN",
        "items": "JSON",
        "mixed": "JSON",
    } == {name: types[name] for name in ("amount", "n", "gift", "items", "mixed")}
    query = (
        'SELECT sum(amount), sum(n), any_value("a/b~c"), any_value(event_name_2) FROM events_typed'
    )
    assert [(19.5, -1, "odd", "mine")] == db.sql_rows(query).rows
    row = db.sql_rows("SELECT * FROM events_typed WHERE event_name = 'Signup'").to_dicts()[0]
    assert ("nameless", 1, 2, 3) == (row["property"], row["q\"'"], row["*"], row["a.b"])
    assert {"plan", "Plan_2"} <= set(types)
    assert "none_typed" == db.typed_view("none")
    assert "mine" == db.typed_view("events", "mine")
    with pytest.raises(TableExistsError):
        db.typed_view("events", "none")
    with pytest.raises(ConfigError, match="no JSON column properties"):
        db.typed_view("events_typed")


@pytest.mark.slow
def test_drop_all_drops_one_type_or_everything(db):
    """Tables of events are dropped with their views."""
    db.typed_view("events")
    db.begin_profiles("users", filters=Filters(), mode="new").finish()
    db.drop_all("events")
    assert ["users"] == [table.name for table in db.tables()]
    db.sql_rows("CREATE TABLE mine AS SELECT 1", write=True)
    db.drop_all()
    assert [] == db.tables()
    db.drop_all()
