"""Typed tables survive values at limits, changes by SQL, little memory and wrong arguments."""

import json
import threading
from datetime import date, datetime

import duckdb
import pytest

from mixpanel.data.exceptions import (
    ConfigError,
    MemoryLimitError,
    MixpanelDataError,
    SQLError,
    TableExistsError,
    UnsafeSQLError,
)
from mixpanel.data.store import Database, property_types, typed_tables


@pytest.fixture
def db():
    """Open a database in memory whose tables are scanned in ranges."""
    with Database.open(threads=4) as database:
        yield database


def create(db, *properties, name="t"):
    """Create a table of events with these properties, as JSON text or as objects."""
    texts = [each if isinstance(each, str) else json.dumps(each) for each in properties]
    db.connection.execute(
        f"CREATE TABLE {name} AS SELECT 'e' AS event_name, unnest($1)::JSON AS properties", [texts]
    )


def rows(db, query):
    """Return the rows of a query."""
    return db.sql_rows(query).rows


# ---- values -------------------------------------------------------------------------------------


def test_an_outlier_is_kept_whole(db):
    """With the nulls inside of it."""
    value = {"x": None, "y": {"z": [None, {"a": None}]}}
    create(db, *({"a": n} for n in range(20)), {"a": value})
    db.typed_table("t")
    assert [({"a": value},)] == [
        (json.loads(kept),) for (kept,) in rows(db, "SELECT _outliers FROM t_typed WHERE a IS NULL")
    ]


def test_the_least_integer_of_128_bits_beside_fractions_is_an_outlier(db):
    """DuckDB cannot negate it."""
    create(db, *({"a": n + 0.5} for n in range(20)), {"a": -(2**127)})
    [column] = db.typed_table("t").columns
    assert ("DOUBLE", 21, 1) == (column.type, column.values, column.outliers)
    db.typed_view("t", "v")
    assert 20 == db.sql_scalar("SELECT count(a) FROM v")


def test_a_decimal_has_each_digit_or_is_an_outlier(db):
    """DuckDB's JSON rounds fractions of more than 15 digits, as any program that reads doubles."""
    short = [f"{n}.25" for n in range(20)]
    create(db, *(f'{{"a": {text}}}' for text in [*short, "99999999999999.99", "0.00012"]))
    [column] = db.typed_table("t", types={"a": "DECIMAL(18,2)"}).columns
    assert 2 == column.outliers
    found = rows(db, "SELECT CAST(a AS VARCHAR) FROM t_typed WHERE a IS NOT NULL")
    assert short == [text for (text,) in found]


def test_decimals_are_not_merged_whatever_the_other_values_are(db):
    """Ids beside fractions that were rounded have no type that holds both."""
    texts = ["9007199254740993", "12345678901234567.12", "12345678901234567.89"]
    for others in (["1.25"] * 9, ["1.25"] * 20 + ['"x"']):
        create(db, *(f'{{"a": {text}}}' for text in texts + others), name="many")
        [column] = db.typed_table("many").columns
        assert not column.type.startswith("DECIMAL") or column.outliers >= 2
        db.drop("many")


def test_a_date_or_time_says_what_the_text_says_or_is_an_outlier(db):
    """A time with an offset is converted to UTC."""
    texts = {
        "2026-02-03": (date(2026, 2, 3), datetime(2026, 2, 3)),
        "2026-02-03 00:00:00": (date(2026, 2, 3), datetime(2026, 2, 3)),
        "2026-02-03T10:11:12.5": (None, datetime(2026, 2, 3, 10, 11, 12, 500_000)),
        "2026-02-03T10:00:00+05:00": (None, datetime(2026, 2, 3, 5)),
        "2026-02-03T10:00:00.123456000Z": (None, datetime(2026, 2, 3, 10, 0, 0, 123_456)),
        "2026-02-03T10:00:00.1234567Z": (None, None),
        "epoch": (None, None),
        "infinity": (None, None),
        "soon": (None, None),
    }
    create(db, *({"day": text, "second": text} for text in texts))
    typed = db.typed_table("t", types={"day": "DATE", "second": "TIMESTAMP"})
    assert list(texts.values()) == rows(db, "SELECT day, second FROM t_typed")
    assert {"day": 7, "second": 4} == {column.name: column.outliers for column in typed.columns}


@pytest.mark.slow
def test_many_columns_with_outliers_are_built(db):
    """The time to plan the statement does not grow with the square of their number."""
    create(db, *({f"p{n}": n if row else "x" for n in range(400)} for row in range(20)))
    assert {1} == {column.outliers for column in db.typed_table("t").columns}


# ---- changes by SQL -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE t ADD COLUMN plan INT",
        "ALTER TABLE t ADD COLUMN mine INT",
        "ALTER TABLE t_typed DROP COLUMN plan",
        "INSERT INTO t SELECT 'e', '{\"plan\": \"new\"}'",
        "DROP TABLE t_typed",
    ],
)
def test_a_refresh_builds_the_table_again_after_a_change_by_sql(db, change):
    """Also if a column of the table now has the name of a property's column."""
    create(db, {"plan": "pro"}, {"plan": "free"})
    db.typed_table("t")
    db.connection.execute(change)  # without a record
    if "INSERT" not in change:
        with db._query_cursor() as cursor:
            typed_tables.mark_stale(cursor, "t", [date(2026, 1, 1)])
    [column] = db.refresh_typed("t").columns
    sent = rows(db, "SELECT properties->>'$.plan' FROM t")
    assert sent == rows(db, f'SELECT "{column.name}" FROM t_typed')
    assert ("VARCHAR", len(sent)) == (column.type, column.values)
    assert db.refresh_typed("t") is None


def test_a_view_that_cannot_be_read_is_listed_as_broken(db):
    """Others are listed and dropped nevertheless."""
    create(db, {"plan": "pro"})
    db.typed_table("t")
    db.connection.execute("CREATE VIEW v AS SELECT plan FROM t_typed")
    db.typed_table("t", "wide")
    assert {"t": "complete", "v": "broken", "wide": "complete"} == {
        table.name: table.state for table in db.tables()
    }
    db.drop_all()
    assert [] == db.tables()


def test_a_view_or_table_does_not_replace_its_own_source(db):
    """Nor another table, in any case."""
    create(db, {"plan": "pro"})
    db.connection.execute("CREATE VIEW v AS FROM t")
    for make in (db.typed_view, db.typed_table):
        with pytest.raises(TableExistsError):
            make("v", "V")
        with pytest.raises(TableExistsError):
            make("v", "T")
    assert [("e", "pro")] == rows(db, "SELECT event_name, properties->>'$.plan' FROM v")


@pytest.mark.parametrize("kind", ["TABLE", "VIEW"])
def test_a_table_or_view_of_the_user_is_not_replaced_or_dropped(db, kind):
    """Although a typed table had its name, until SQL dropped it."""
    create(db, {"plan": "pro"})
    db.typed_table("t")
    db.sql_rows("DROP TABLE t_typed", write=True)
    db.sql_rows(f"CREATE {kind} T_typed AS SELECT 42 AS mine", write=True)
    db.sql_rows("INSERT INTO t SELECT 'e', '{}'", write=True)
    assert db.refresh_typed("t") is None
    for make in (db.typed_table, db.typed_view):
        with pytest.raises(TableExistsError):
            make("t")
    assert {"t", "T_typed"} == {table.name for table in db.tables() if table.source is None}
    assert "other_name" == db.typed_table("t", "other_name").name
    db.drop("t")
    assert [(42,)] == rows(db, "FROM t_typed")


def test_a_typed_view_is_made_again_and_replaced_by_a_typed_table(db):
    """Whatever the columns of its table are."""
    db.connection.execute("CREATE TABLE t AS SELECT '{}'::JSON AS properties")
    with pytest.raises(ConfigError, match="no properties"):
        db.typed_view("t")
    for properties in ('{"price": 1}', '{"plan": "pro"}'):
        db.connection.execute("INSERT INTO t VALUES (?)", [properties])
        assert "t_typed" == db.typed_view("t")
    assert 1 == db.sql_scalar("SELECT count(plan) FROM t_typed")
    assert ("t_typed", 3) == ((made := db.typed_table("t")).name, made.rows)


# ---- several threads, and a database that is read-only ------------------------------------------


def test_threads_that_build_one_typed_table_wait_for_each_other(db):
    """And for a refresh; DuckDB would refuse one of two such transactions."""
    create(db, *({"a": n} for n in range(5_000)))
    start, failed = threading.Barrier(4), []

    def build():
        start.wait()
        for make in (db.typed_table, db.refresh_typed, db.typed_table):
            try:
                make("t")
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == failed
    assert [("t", 5_000), ("t_typed", 5_000)] == [(e.name, e.row_count) for e in db.tables()]


def test_of_two_conflicting_statements_one_says_to_run_it_again(db):
    """Its error is DuckDB's, with what to do."""
    create(db, {"a": 1})
    db.connection.execute("BEGIN")
    db.connection.execute("UPDATE t SET event_name = 'other'")
    with pytest.raises(SQLError, match=r"(?i)conflict.*\n.*run it again"):
        db.sql_rows("UPDATE t SET event_name = 'mine'", write=True)
    db.connection.execute("ALTER TABLE t ADD COLUMN x INT")
    with pytest.raises(MixpanelDataError, match=r"(?i)conflict.*run it again"):
        db.drop("t")
    db.connection.execute("ROLLBACK")


@pytest.mark.parametrize(
    "change",
    [
        lambda db: db.typed_table("t"),
        lambda db: db.typed_view("t"),
        lambda db: db.drop("t"),
        lambda db: db.drop_all(),
        lambda db: db.sql_rows("DROP TABLE t", write=True),
        lambda db: db.sql_df("INSERT INTO t SELECT 'e', '{}'", write=True),
    ],
)
def test_a_read_only_database_says_how_to_change_it(tmp_path, change):
    """Statements of its users as well; one in another database that was attached differs."""
    with Database.open(tmp_path / "a.db") as db:
        create(db, {"plan": "pro"})
    with Database.open(tmp_path / "a.db", read_only=True) as db:
        with pytest.raises((ConfigError, UnsafeSQLError), match="open it with read_only=False"):
            change(db)
        assert 1 == db.sql_scalar("SELECT count(*) FROM t")


# ---- memory and arguments -----------------------------------------------------------------------


def test_a_scan_in_ranges_that_needs_too_much_memory_is_repeated_without_them(db, monkeypatch):
    """Several threads need more memory than one."""
    collect, sources = property_types.collect, []

    def limited(connection, source):
        sources.append(source)
        if "UNION" in source:
            raise duckdb.OutOfMemoryException("failed to allocate (50.0 MiB/50.0 MiB used)")
        return collect(connection, source)

    monkeypatch.setattr(property_types, "collect", limited)
    create(db, *({"n": n} for n in range(5000)))
    assert 5000 == db.typed_table("t").rows
    db.typed_view("t", "v")
    assert (4, 5000) == (len(sources), db.sql_scalar("SELECT count(n) FROM v"))
    monkeypatch.setattr(property_types, "collect", lambda *_: limited(None, "UNION"))
    with pytest.raises(MemoryLimitError, match="allow more"):
        db.typed_table("t")


def test_a_stated_type_has_a_column_however_many_others_there_are(db, monkeypatch):
    """Also if the typed table had none for its property before."""
    monkeypatch.setattr(typed_tables, "MAX_COLUMNS", 2)
    create(db, {"a": 1, "b": 2, "z": "2026-01-01"}, {"a": 1, "b": 2})
    assert ["a", "b"] == [column.name for column in db.typed_table("t").columns]
    typed = db.typed_table("t", types={"z": "DATE"})
    assert ("DATE", 1, 0) == (typed.columns[-1].type, typed.columns[-1].values, typed.omitted)


@pytest.mark.parametrize("types", [["a"], "a", {1: "BIGINT"}, {None: "BIGINT"}])
def test_types_that_are_no_mapping_of_names_are_refused(db, types):
    """With an example."""
    create(db, {"a": 1})
    with pytest.raises(ConfigError, match=r"must name a type .* as in \{'amount': 'DECIMAL"):
        db.typed_table("t", types=types)


def test_the_width_of_a_decimal_is_checked(db):
    """And written without leading zeros."""
    create(db, {"a": 1.5})
    with pytest.raises(ConfigError, match="is not a type for 'a'"):
        db.typed_table("t", types={"a": "DECIMAL(0,0)"})
    assert "DECIMAL(5,1)" == db.typed_table("t", types={"a": "decimal(05, 01)"}).columns[0].type
