"""What a fetch into an existing table counts: new, changed, unchanged and vanished events."""

import json
from datetime import UTC, datetime

import pytest

from mixpanel.data import Workspace
from mixpanel.data._fetch.plan import Chunk, Filters, Part
from mixpanel.data.store import Database

DAYS = [datetime(2026, 1, day, tzinfo=UTC).date() for day in range(1, 5)]
NOW = datetime(2026, 2, 1, tzinfo=UTC)


def line(day, number, *, hour=12, processed=0, insert_id=True, **properties):
    at = datetime(2026, 1, day, hour, tzinfo=UTC)
    own = {"time": int(at.timestamp() * 1000), "distinct_id": f"u{number}"}
    own |= {"$insert_id": f"{day}-{number}"} if insert_id else {}
    own |= {"mp_processing_time_ms": processed, **properties}
    return json.dumps({"event": "Opened", "properties": own})


@pytest.fixture
def db(tmp_path):
    with Database.open(tmp_path / "changes.db") as opened:
        yield opened


def load(db, days, mode="sync", filters=None):
    """Load exports, by day; each is staged on its own, as after a restart."""
    numbers = sorted(days)
    wanted = filters or Filters()
    begun = db.begin_events(
        "events", filters=wanted, mode=mode, days=[DAYS[n - 1] for n in numbers], now=NOW,
        mixed=mode == "append",
    )  # fmt: skip
    for number in numbers:
        path = db.parts / f"part-{number}"
        path.write_text("".join(each + "\n" for each in days[number]))
        day = DAYS[number - 1]
        [staged] = begun.stage([Part(path, Chunk(day, day), path.stat().st_size, gzip=False)])
        assert staged.error is None
        path.unlink()
    return begun.finish()


def counts(loaded):
    found = loaded.changes
    return found.new, found.changed, found.unchanged, found.vanished


@pytest.mark.slow
def test_a_new_table_has_nothing_to_compare_with(db):
    """Its rows are not counted as new."""
    assert load(db, {1: [line(1, 1)]}).changes is None


@pytest.mark.slow
def test_events_are_compared_by_their_key(db):
    """The order of properties does not matter; what did not come again has vanished."""
    load(db, {1: [line(1, n, plan="a", seats=1) for n in range(4)], 2: [line(2, 0)]})
    again = [
        line(1, 0, seats=1, plan="a"),  # the same, in another order
        line(1, 1, plan="b", seats=1),  # changed
        line(1, 7, plan="a", seats=1),  # new
    ]
    assert (1, 1, 1, 2) == counts(load(db, {1: again}))
    assert 4 == db.sql_scalar("SELECT count(*) FROM events")


@pytest.mark.slow
def test_events_without_an_insert_id_are_counted_by_their_number(db):
    """Two equal ones are two events."""
    anonymous = [line(1, 1, insert_id=False)] * 2
    load(db, {1: [*anonymous, line(1, 2, insert_id=False)]})
    assert (1, 0, 2, 1) == counts(load(db, {1: [*anonymous, anonymous[0]]}))
    assert 3 == db.sql_scalar("SELECT count(*) FROM events")
    load(db, {1: [line(1, 1, insert_id=False)] * 5})
    assert (0, 0, 2, 3) == counts(load(db, {1: anonymous}))


@pytest.mark.slow
def test_a_repeated_load_changes_nothing(db):
    """All events are as before."""
    days = {n: [line(n, i) for i in range(3)] for n in (1, 2)}
    load(db, days)
    assert (0, 0, 6, 0) == counts(load(db, days))


@pytest.mark.slow
def test_other_filters_leave_vanished_events_unknown(db):
    """Rows of the other filters are not in the export."""
    load(db, {1: [line(1, 1)]})
    loaded = load(db, {1: [line(1, 1), line(1, 2)]}, "append", Filters(events=("Opened",)))
    assert (1, 0, 1, None) == counts(loaded)
    assert 1 == loaded.merged


# ---- one event in the exports of two days -------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("first_is_latest", [True, False])
def test_an_event_in_the_exports_of_two_days_is_one_row(db, first_is_latest):
    """The copy that Mixpanel processed last is kept, and the result counts the other."""
    early, late = (9, 5) if first_is_latest else (5, 9)
    shared = {"day": 1, "number": 1, "hour": 23}
    loaded = load(
        db,
        {
            1: [line(**shared, processed=early), line(1, 2)],
            2: [line(**shared, processed=late), line(2, 2)],
        },
    )
    assert (3, 1) == (loaded.rows, loaded.merged)
    kept = "SELECT (properties->>'$.mp_processing_time_ms')::INT FROM events WHERE insert_id = ?"
    assert [(9,)] == db.sql_rows(kept, ["1-1"]).rows
    [(first, second)] = db.sql_rows(
        "SELECT sum(rows) FILTER (day = '2026-01-01'), sum(rows) FILTER (day = '2026-01-02') "
        "FROM _ledger"
    ).rows
    assert 3 == first + second


@pytest.mark.slow
def test_an_event_without_a_time_in_two_exports_is_one_row(db):
    """A missing time is a part of the key, too."""
    timeless = json.dumps({"event": "A", "properties": {"distinct_id": "u", "$insert_id": "i"}})
    loaded = load(db, {1: [timeless], 2: [timeless]})
    assert (1, 1) == (loaded.rows, loaded.merged)


@pytest.mark.slow
def test_an_event_in_the_exports_of_two_loads_is_one_row(db):
    """The later load counts the row that it replaces outside of its own days."""
    load(db, {1: [line(1, 1, hour=23), line(1, 2)]})
    loaded = load(db, {2: [line(1, 1, hour=23), line(2, 1)]})
    assert (2, 1) == (loaded.rows, loaded.merged)
    assert 3 == db.sql_scalar("SELECT count(*) FROM events")


@pytest.mark.slow
def test_a_key_that_differs_in_one_part_is_another_event(db):
    """Nothing else is merged."""
    base = {"time": 1767225600000, "distinct_id": "u", "$insert_id": "i"}
    others = [
        {"event": "A", "properties": base},
        {"event": "B", "properties": base},
        {"event": "A", "properties": base | {"time": 1767225600001}},
        {"event": "A", "properties": base | {"distinct_id": "v"}},
        {"event": "A", "properties": base | {"$insert_id": "j"}},
    ]
    lines = [json.dumps(each) for each in others]
    loaded = load(db, {2: lines[:2], 3: lines[2:4], 4: lines[4:]})
    assert (5, 0) == (loaded.rows, loaded.merged)


@pytest.mark.slow
def test_a_workspace_has_the_counts_in_its_result(tmp_path, monkeypatch):
    """A sync that has nothing to do has changed nothing."""
    for name in ("MP_USERNAME", "MP_SECRET", "MP_PROJECT_ID"):
        monkeypatch.setenv(name, "7")
    path = tmp_path / "ws.db"
    with Database.open(path) as opened:
        load(opened, {1: [line(1, 1)]})
    with Workspace(path=path) as ws:
        result = ws.sync_events(to_date=DAYS[0], lookback_days=0)
    assert (0, 0, 0, 0) == (result.new, result.changed, result.unchanged, result.vanished)
