"""Typed tables keep their names and types while fetches keep them current."""

import json
from datetime import date, timedelta

import pytest

from mixpanel.data._fetch.plan import Chunk, Filters, Part
from mixpanel.data.exceptions import ConfigError, TableExistsError
from mixpanel.data.store import Database, typed_tables, typed_views
from mixpanel.data.store.row_ranges import row_ranges, scan

DAY = date(2026, 1, 1)
MIDNIGHT = 1_767_225_600_000


@pytest.fixture
def db():
    """Open a database in memory with events of one day."""
    with Database.open() as database:
        fetch(database, [{"id": 5, "plan": "pro"}, {"id": 6, "plan": "free", "gone": True}], "new")
        yield database


def fetch(db, sent, mode="sync", day=DAY):
    """Load the events of a day, and return the result."""
    path = db.parts / "part"
    start = MIDNIGHT + (day - DAY).days * 86_400_000
    with path.open("w") as file:
        for n, properties in enumerate(sent):
            found = {"time": start + n, "distinct_id": "u", "$insert_id": f"{day}{n}", **properties}
            file.write(json.dumps({"event": "Order", "properties": found}) + "\n")
    load = db.begin_events("events", filters=Filters(), mode=mode, days=[day])
    load.stage([Part(path, Chunk(day, day), 1, gzip=False)])
    return load.finish()


def types_of(typed):
    """Return the type of each column."""
    return {column.name: column.type for column in typed.columns}


@pytest.mark.slow
def test_a_fetch_keeps_a_typed_table_current(db):
    """Days are replaced or added; new properties get columns, and other rows stay."""
    assert (2, "events_typed") == ((first := db.typed_table("events")).rows, first.name)
    later = fetch(db, [{"id": 7, "Plan": "x", "new": 1.5}], day=DAY + timedelta(1)).typed
    assert (3, ("Plan_2", "new"), (), ()) == (later.rows, later.new, later.vanished, later.changed)
    again = fetch(db, [{"id": 8, "plan": "pro"}]).typed
    assert (2, (), ("gone",)) == (again.rows, again.new, again.vanished)
    query = 'SELECT id, plan, "Plan_2", new FROM events_typed ORDER BY id'
    assert [(7, None, "x", 1.5), (8, "pro", None, None)] == db.sql_rows(query).rows
    replaced = fetch(db, [{"id": 9}], "replace").typed
    assert (1, {"id", "plan", "gone", "Plan_2", "new"}) == (replaced.rows, set(types_of(replaced)))


@pytest.mark.slow
def test_names_and_types_do_not_drift(db):
    """A value that does not fit is counted and kept, until types are inferred again."""
    db.typed_table("events")
    big = [{"id": 2**64 + n, "PLAN": "p"} for n in range(10)]
    typed = fetch(db, big, day=DAY + timedelta(1)).typed
    assert ("BIGINT", "HUGEINT") == (types_of(typed)["id"], typed.changed[0][2])
    assert [10] == [column.outliers for column in typed.columns if column.name == "id"]
    kept = db.sql_rows("SELECT _outliers->>'$.id' FROM events_typed WHERE id IS NULL").rows
    assert {(str(2**64 + n),) for n in range(10)} == set(kept)
    assert {"plan", "PLAN_2"} <= set(types_of(db.typed_table("events")))
    inferred = db.typed_table("events", infer_again=True)
    assert ("HUGEINT", True) == (types_of(inferred)["id"], "PLAN" in types_of(inferred))
    assert 12 == db.sql_scalar("SELECT count(DISTINCT id) FROM events_typed")


@pytest.mark.slow
def test_a_stated_type_is_kept(db):
    """It is checked first, and stays when all other types are inferred again."""
    for wrong in ("INT; DROP TABLE events", "DECIMAL(40,1)", "DECIMAL(2,3)", ""):
        with pytest.raises(ConfigError, match="is not a type for 'id'"):
            db.typed_table("events", types={"id": wrong})
    typed = db.typed_table("events", types={"id": "varchar", "later": "DATE", "plan": "bigint"})
    assert ("VARCHAR", "DATE", "BIGINT") == tuple(
        types_of(typed)[k] for k in ("id", "later", "plan")
    )
    assert [("5", None), ("6", None)] == db.sql_rows("SELECT id, plan FROM events_typed").rows
    assert 2 == next(column.outliers for column in typed.columns if column.name == "plan")
    assert "VARCHAR" == types_of(db.typed_table("events", infer_again=True))["id"]
    fetched = fetch(db, [{"id": 1, "later": "2026-02-03"}], day=DAY + timedelta(1)).typed
    assert (3, 1) == (fetched.rows, db.sql_scalar("SELECT count(later) FROM events_typed"))


@pytest.mark.slow
def test_a_typed_table_has_a_name_of_its_own(db):
    """It replaces a view of its name, no other table, and is dropped with its source."""
    db.typed_view("events")
    db.typed_table("events")
    with pytest.raises(TableExistsError):
        db.typed_table("events", "events")
    db.typed_table("events", "wide")
    assert ["events", "wide"] == [table.name for table in db.tables()]
    db.drop("wide")
    assert fetch(db, [{"id": 1}]).typed is None
    db.typed_table("events")
    db.drop("events")
    assert [] == db.tables()


@pytest.mark.slow
def test_a_typed_table_that_cannot_be_refreshed_does_not_harm_the_fetch(db, monkeypatch, caplog):
    """The rows are loaded; the next fetch brings it up to date."""
    from mixpanel.data.store import typed_tables

    db.typed_table("events")
    with monkeypatch.context() as patched:
        patched.setattr(typed_tables, "_select", lambda *_: "SELECT error('disk full')")
        assert fetch(db, [{"id": 7}], day=DAY + timedelta(1)).typed is None
    assert "typed table could not be brought up to date" in caplog.text
    assert (3, 2) == tuple(
        db.sql_scalar(f"SELECT count(*) FROM {t}") for t in ("events", "events_typed")
    )
    assert 4 == fetch(db, [{"id": 8}], day=DAY + timedelta(2)).typed.rows


@pytest.mark.slow
def test_rare_properties_of_very_many_have_no_column(db, monkeypatch, caplog):
    """They are counted, and stay in `properties`."""
    from mixpanel.data.store import typed_tables, typed_views

    monkeypatch.setattr(typed_views, "MAX_COLUMNS", 2)
    db.typed_view("events", "v")
    assert {"id", "plan"} == {c.name for c in db.schema("v").columns[-2:]}
    assert (
        "v has columns for the 2 most frequent properties of events, and none for 1" in caplog.text
    )

    monkeypatch.setattr(typed_tables, "MAX_COLUMNS", 2)
    typed = db.typed_table("events")
    assert ({"id", "plan"}, 1) == (set(types_of(typed)), typed.omitted)


def info_of(db, name):
    """Return what `tables` lists about a table."""
    return next(table for table in db.tables() if table.name == name)


@pytest.mark.slow
def test_a_typed_table_is_listed_with_its_source_and_whether_it_is_current(db):
    """It is stale after a change of its source by SQL, or by a fetch that could not refresh it."""
    db.typed_table("events")
    typed = info_of(db, "events_typed")
    assert ("typed", "events", 2, "complete") == (
        typed.type, typed.source, typed.row_count, typed.state
    )  # fmt: skip
    assert ("events", None) == (info_of(db, "events").type, info_of(db, "events").source)
    for query in (
        'UPDATE main."EVENTS" SET properties = \'{"id": 1}\'',
        "DELETE FROM events WHERE rowid = 0",
        "TRUNCATE Events",
    ):
        db.sql_rows(query, write=True)
        assert "stale" == info_of(db, "events_typed").state
        assert info_of(db, "events").row_count == db.typed_table("events").rows
        assert "complete" == info_of(db, "events_typed").state
    db.sql_rows("CREATE TABLE mine AS SELECT 1 AS n", write=True)
    db.sql_rows("FROM events", write=False)
    assert "complete" == info_of(db, "events_typed").state
    db.connection.execute("INSERT INTO events(event_name) VALUES ('by hand')")
    assert "stale" == info_of(db, "events_typed").state


@pytest.mark.slow
def test_a_fetch_after_a_change_by_sql_leaves_no_old_row_in_the_typed_table(db):
    """Not even of days that were not fetched again."""
    db.typed_table("events")
    db.sql_rows("DELETE FROM events WHERE properties->>'$.id' = '5'", write=True)
    assert 2 == fetch(db, [{"id": 7}], day=DAY + timedelta(1)).typed.rows
    assert [(6,), (7,)] == db.sql_rows("SELECT id FROM events_typed ORDER BY id").rows
    db.connection.execute("DELETE FROM events WHERE properties->>'$.id' = '6'")
    assert 2 == fetch(db, [{"id": 8}], day=DAY + timedelta(2)).typed.rows
    assert [(7,), (8,)] == db.sql_rows("SELECT id FROM events_typed ORDER BY id").rows


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "threads", "ranges"), [(0, 4, 0), (9, 4, 0), (5000, 4, 3)])
def test_several_threads_scan_a_small_table(rows, threads, ranges):
    """Each row is scanned once, in its order, also after rows were deleted."""
    with Database.open(threads=threads) as database:
        connection = database.connection
        connection.execute(f"CREATE TABLE t AS SELECT range AS n FROM range({rows})")
        connection.execute("DELETE FROM t WHERE n % 7 = 3 OR n < 100 AND n > 9")
        connection.execute("CREATE VIEW v AS FROM t")
        found = row_ranges(connection, "t", ["n"])
        assert ranges == len(found)
        expected = connection.execute("FROM t").fetchall()
        assert expected == connection.execute(f"FROM {scan('t', found, 'n')}").fetchall()
        assert [] == row_ranges(connection, "v", ["n"])
        connection.execute("ALTER TABLE t RENAME n TO ROWID")  # it hides DuckDB's own
        assert [] == row_ranges(connection, "t", ["ROWID"])


@pytest.mark.slow
@pytest.mark.parametrize("limit", [typed_tables.MAX_SORTED, 0], ids=["sorted", "as scanned"])
def test_rows_of_a_typed_table_keep_the_order_of_the_table(monkeypatch, limit):
    """Whether they are sorted, or written as they are scanned."""
    monkeypatch.setattr(typed_tables, "MAX_SORTED", limit)
    with Database.open(threads=4) as database:
        connection = database.connection
        connection.execute(
            "CREATE TABLE t AS SELECT 'E' || range AS event_name, json_object('n', -range) AS "
            "properties FROM range(20000)"
        )
        assert 20_000 == database.typed_table("t").rows
        rows = connection.execute("SELECT event_name, n FROM t_typed").fetchall()
        assert [(f"E{n}", -n) for n in range(20_000)] == rows


NAMES = ["s", "n", "b0", "b1", "j0", "j1", "k", "v", "parsed", "row", "Event"]


@pytest.mark.parametrize("apart", [0, 1000], ids=["together", "apart"])
@pytest.mark.parametrize("rowid", [[], ["rowid"]], ids=["in ranges", "in one scan"])
@pytest.mark.parametrize("value", ["'text'", "{'n': 1, 's': 2, 'a': 'a struct'}", "NULL"])
def test_columns_and_properties_may_have_any_name(monkeypatch, apart, rowid, value):
    """Also names that the statements use themselves."""
    monkeypatch.setattr(typed_views, "MAX_APART", apart)
    own = [*NAMES, *rowid]
    columns = ", ".join(f"{value} AS {name}" for name in own)
    properties = {name: number for number, name in enumerate(["a", "", *own, "properties"])}
    with Database.open(threads=4) as database:
        connection = database.connection
        connection.execute(
            f"CREATE TABLE t AS SELECT {columns}, ?::JSON AS properties FROM range(5000)",
            [json.dumps(properties)],
        )
        assert bool(row_ranges(connection, "t", own)) is not bool(rowid)
        typed = database.typed_table("t", "made")
        database.typed_view("t", "seen")
        row = connection.execute(f"SELECT {', '.join(own)} FROM t LIMIT 1").fetchone()
        names = ", ".join([*own, *(f'"{column.name}"' for column in typed.columns)])
        expected = (*row, *(properties[column.property] for column in typed.columns))
        assert properties.keys() == {column.property for column in typed.columns}
        for table in ("made", "seen"):
            query = f"SELECT DISTINCT {names} FROM {table}"
            assert [expected] == connection.execute(query).fetchall()


@pytest.mark.parametrize("values", [["nan"], ["inf"], ["NaN", "-INF", "Infinity"]])
def test_numbers_that_are_not_finite_are_outliers(values):
    """SQL may store them in any case, as DuckDB does not follow JSON here."""
    with Database.open() as database:
        database.connection.execute(
            "CREATE TABLE t AS SELECT concat('{\"b\": ', unnest($1), '}')::JSON AS properties",
            [values + ["true", "false"] * 50],
        )
        [column] = database.typed_table("t").columns
        counted = 100 + len(values), len(values)
        assert ("BOOLEAN", *counted) == (column.type, column.values, column.outliers)
        kept = database.sql_rows("SELECT _outliers->>'$.b' FROM t_typed WHERE b IS NULL").rows
        assert values == [each for (each,) in kept]


def test_a_table_with_a_column_named_like_that_of_outliers_is_refused(db):
    """The typed table has a column of that name itself."""
    db.connection.execute("CREATE TABLE t AS SELECT properties, 1 AS _OUTLIERS FROM events")
    with pytest.raises(ConfigError, match=r"t has a column _OUTLIERS, .*: rename it"):
        db.typed_table("t")
