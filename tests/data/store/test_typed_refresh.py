"""A typed table that fetches keep current equals one that is built from all rows again."""

import json
from collections import Counter
from datetime import date, timedelta

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mixpanel.data._fetch.plan import Chunk, Filters, Part
from mixpanel.data.store import Database
from tests.data.store.test_typed_values import properties_of_events

FIRST = date(2026, 1, 1)
MIDNIGHT = 1_767_225_600_000
DAY_MS = 86_400_000
CHANGES = (
    "DELETE FROM events WHERE rowid % 3 = 0",
    'UPDATE events SET properties = \'{"plan": [1], "sql": 5}\' WHERE rowid % 4 = 1',
    "INSERT INTO events(event_name, properties) VALUES ('by hand', '{\"id\": 0.5}')",
)

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["sync", "append", "replace", "sql"]),
        st.integers(0, 3),  # the day, or the change
        properties_of_events(),
        st.sampled_from(["same ids", "other ids", "no ids"]),
    ),
    min_size=1,
    max_size=5,
)


@pytest.fixture(scope="module")
def db():
    """Open a database in memory."""
    with Database.open() as database:
        yield database


def load(db, mode, day, rows, ids):
    """Load events of a day; of each ten, one has no time, and one a time of the next day."""
    path = db.parts / "part"
    path.parent.mkdir(parents=True, exist_ok=True)
    start = MIDNIGHT + (day - FIRST).days * DAY_MS
    with path.open("w") as file:
        for n, row in enumerate(rows):
            known = {"distinct_id": "u", "time": start + n + (n % 10 == 7) * DAY_MS}
            if n % 10 == 9:
                known["time"] = None
            if ids != "no ids":
                known["$insert_id"] = f"{n}" if ids == "same ids" else f"{day}{n}"
            file.write(json.dumps({"event": "Order", "properties": row | known}) + "\n")
    loading = db.begin_events("events", filters=Filters(), mode=mode, days=[day])
    loading.stage([Part(path, Chunk(day, day), 1, gzip=False)])
    return loading.finish()


def content(db, table):
    """Return the rows of a table, each as a mapping of the columns that have a value."""
    found = db.sql_rows(f"FROM {table}").to_dicts()
    rows = ({k: v for k, v in row.items() if v is not None} for row in found)
    return Counter(json.dumps(row, sort_keys=True, default=repr) for row in rows)


@pytest.mark.slow
@pytest.mark.heavy
@settings(max_examples=12, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(properties_of_events(), STEPS)
def test_an_incremental_refresh_equals_a_full_build(db, first, steps):
    """The same rows, values, outliers and counts, in the same columns."""
    if db.tables():
        db.drop_all()
    load(db, "new", FIRST, first, "same ids")
    db.typed_table("events")
    refreshed = None
    for kind, number, rows, ids in steps:
        if kind == "sql":
            db.sql_rows(CHANGES[number % len(CHANGES)], write=True)
            refreshed = db.refresh_typed("events")
        else:
            refreshed = load(db, kind, FIRST + timedelta(days=number), rows, ids).typed
        assert refreshed is not None
        assert db.sql_scalar("SELECT count(*) FROM events") == refreshed.rows
    before = content(db, "events_typed")
    built = db.typed_table("events")  # with the recorded columns, from all rows
    assert before == content(db, "events_typed")
    assert built.columns == refreshed.columns
