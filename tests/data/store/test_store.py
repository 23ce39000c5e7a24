"""The local database: opening it, asking it, and what it refuses."""

import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import pytest

from mixpanel.data._fetch.plan import Filters
from mixpanel.data.exceptions import (
    ConfigError,
    DatabaseLockedError,
    DatabaseNotFoundError,
    MixpanelDataError,
    SQLError,
    TableNotFoundError,
    UnsafeSQLError,
)
from mixpanel.data.store import Database, connection
from mixpanel.data.store.engine import disable_progress_bar

DAY = date(2026, 1, 1)


@pytest.fixture
def db(tmp_path):
    """Open a database on disk."""
    with Database.open(tmp_path / "a.db") as database:
        yield database


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "x; drop table y",
        "a b",
        "../x",
        "a'b",
        'a"b',
        "Łódź",
        "a.b",
        "a\n",
        "_metadata",
        "_stage_x",
        "",
        None,
        7,
        "x" * 129,
    ],
)
def test_an_invalid_table_name_is_refused_everywhere(db, name):
    """Names are validated before they are quoted."""
    for ask in (
        lambda: db.begin_events(name, filters=Filters(), mode="new", days=[DAY]),
        lambda: db.begin_profiles(name, filters=Filters(), mode="new"),
        lambda: db.schema(name),
        lambda: db.sample(name),
        lambda: db.summarize(name),
        lambda: db.property_keys(name),
        lambda: db.drop(name),
        lambda: db.typed_view(name),
        lambda: db.staged_days(name, Filters(), "new"),
        lambda: db.export_csv(name, db.parts / "x.csv"),
    ):
        with pytest.raises(ConfigError, match="is not a valid table name"):
            ask()
    assert [] == db.tables()


FORBIDDEN = [
    "COPY (SELECT 1) TO '{folder}/x.csv'",
    "COPY (SELECT 1) TO '{parts}/x.csv'",
    "FROM read_csv('{secret}')",
    "FROM read_text('{secret}')",
    "FROM '{secret}'",
    "FROM glob('*')",
    "FROM glob('{folder}/*')",
    "FROM glob('{parts}/../*')",
    "FROM read_text('{parts}/../secret.csv')",
    "INSTALL httpfs",
    "LOAD httpfs",
    "ATTACH '{folder}/other.db'",
    "PRAGMA database_list",
    "SET memory_limit = '10GB'",
    "RESET memory_limit",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP TABLE _ledger",
    "DROP TABLE _ledger",
    "CREATE TABLE x AS SELECT 1",
    "CREATE TEMP TABLE x AS SELECT 1",
    "INSERT INTO _ledger (table_name) VALUES ('x')",
    "UPDATE _ledger SET rows = 1",
    "DELETE FROM _ledger",
    "EXPLAIN ANALYZE CREATE TABLE x AS SELECT 1",
    "EXPLAIN ANALYZE DELETE FROM _ledger",
    "CALL enable_logging(storage='file', storage_path='{folder}/log')",
    "FROM enable_logging(storage='file', storage_path='{folder}/log')",
    "FROM query('DROP TABLE _ledger')",
    "EXPORT DATABASE '{folder}/dump'",
    "USE memory",
    "CHECKPOINT",
    "BEGIN",
    "PREPARE p AS DROP TABLE _ledger",
    "FROM here",
    "",
    "-- nothing",
    "nonsense",
]


@pytest.mark.slow
@pytest.mark.parametrize("query", FORBIDDEN)
def test_sql_can_only_read_tables(db, tmp_path, query):
    """Files and other statements are refused in every spelling, and leave no trace."""
    here = [{"a": 1}]
    (tmp_path / "secret.csv").write_text("a,b\n1,2\n")
    before = sorted(p.name for p in tmp_path.rglob("*"))
    query = query.format(folder=tmp_path, parts=db.parts, secret=tmp_path / "secret.csv")
    with pytest.raises(SQLError):
        db.sql_rows(query)
    assert before == sorted(p.name for p in tmp_path.rglob("*"))
    assert [(0,)] == db.sql_rows("SELECT count(*) FROM _ledger").rows
    assert here == [{"a": 1}]


@pytest.mark.slow
@pytest.mark.parametrize(
    "query", [q for q in FORBIDDEN if q.startswith(("COPY (SELECT 1) TO '{f", "FROM g", "ATTACH"))]
)
def test_sql_that_writes_is_confined_to_tables(db, tmp_path, query):
    """`write=True` allows no access to files."""
    query = query.format(folder=tmp_path, parts=db.parts, secret=tmp_path / "secret.csv")
    with pytest.raises(UnsafeSQLError, match="cannot access files"):
        db.sql_rows(query, write=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("SELECT 1 AS a", [(1,)]),
        ("WITH t AS (SELECT 2 AS a) FROM t", [(2,)]),
        ("VALUES (3)", [(3,)]),
        ("SELECT ? + 1", [(5,)]),
        ("SELECT 6;", [(6,)]),
    ],
)
def test_queries_return_rows(db, query, rows):
    """These are SELECT in all its spellings."""
    assert rows == db.sql_rows(query, [4] if "?" in query else None).rows


def test_describing_statements_are_read_only(db):
    """DESCRIBE, SHOW, SUMMARIZE and EXPLAIN are allowed by default."""
    for query in ("DESCRIBE SELECT 1", "SHOW TABLES", "SUMMARIZE SELECT 1", "EXPLAIN SELECT 1"):
        assert db.sql_rows(query).columns


@pytest.mark.slow
def test_write_allows_changes(db):
    """`write=True` runs one statement that changes tables."""
    db.sql_rows("CREATE TABLE mine AS SELECT range AS i FROM range(5)", write=True)
    assert 5 == db.sql_scalar("SELECT count(*) FROM mine WHERE i < $most", {"most": 9})
    assert [("mine", "other", 5)] == [(t.name, t.type, t.row_count) for t in db.tables()]


def test_a_sql_error_has_the_position(db):
    """DuckDB's caret is kept."""
    with pytest.raises(SQLError, match=r"(?s)selec.*\^"):
        db.sql_rows("SELECT selec")
    assert None is db.sql_scalar("SELECT 1 WHERE false")


def test_a_limited_result_is_marked_as_truncated(db):
    """The flag is set only if there were more rows."""
    assert (3, True) == ((r := db.sql_rows("FROM range(9)", limit=3)).__len__(), r.truncated)
    assert (9, False) == ((r := db.sql_rows("FROM range(9)", limit=9)).__len__(), r.truncated)


def test_external_access_allows_reading_files(tmp_path):
    """It is an option of `Database.open`."""
    (tmp_path / "x.csv").write_text("a\n1\n")
    with Database.open(external_access=True) as db:
        assert [(1,)] == db.sql_rows(f"FROM read_csv('{tmp_path / 'x.csv'}')").rows
        with pytest.raises(UnsafeSQLError):
            db.sql_rows(f"COPY (SELECT 1) TO '{tmp_path / 'y.csv'}'")


@pytest.mark.slow
@pytest.mark.parametrize("read_only", [False, True])
def test_a_query_larger_than_memory_spills_to_disk(tmp_path, read_only):
    """It works without external access, in a private folder, and leaves no files."""
    Database.open(tmp_path / "a.db").close()
    with Database.open(tmp_path / "a.db", read_only=read_only, memory_limit="60MB") as db:
        assert 0o700 == db.parts.stat().st_mode & 0o777
        ranked = "SELECT row_number() OVER (ORDER BY md5(range::VARCHAR)) n FROM range(700000)"
        assert 700_000 == db.sql_scalar(f"SELECT max(n) FROM ({ranked})")
    assert ["a.db"] == [p.name for p in tmp_path.iterdir()]
    assert not db.parts.exists()


def test_pivot_without_values_is_explained(db):
    """It would be several statements."""
    db.sql_rows("CREATE TABLE x AS SELECT 'a' AS k, 1 AS v", write=True)
    assert [(1,)] == db.sql_rows("PIVOT x ON k IN ('a') USING sum(v)").rows
    with pytest.raises(UnsafeSQLError, match=r"list of values|one statement"):
        db.sql_rows("PIVOT x ON k USING sum(v)")


def test_a_missing_time_zone_package_is_explained(db, monkeypatch):
    """DuckDB before version 2 needs one for times with a zone."""
    monkeypatch.setitem(sys.modules, "pytz", None)
    zoned = "SELECT TIMESTAMPTZ '2026-01-01 00:00:00+00'"
    if duckdb.__version__.startswith("1."):
        with pytest.raises(SQLError, match="AT TIME ZONE 'UTC'"):
            db.sql_rows(zoned)
    else:
        assert datetime(2026, 1, 1, tzinfo=UTC) == db.sql_scalar(zoned)
    query = "SELECT TIMESTAMPTZ '2026-01-01 00:00:00+00' AT TIME ZONE 'UTC'"
    assert datetime(2026, 1, 1) == db.sql_scalar(query)


def test_data_frames_are_checked_like_rows(db):
    """The same statements are allowed."""
    pytest.importorskip("pandas")
    assert [{"a": 5}] == db.sql_df("SELECT ? AS a", [5]).to_dict("records")
    with pytest.raises(UnsafeSQLError):
        db.sql_df("DROP TABLE _ledger")


def test_arrow_tables_are_checked_like_rows(db):
    """The same statements are allowed."""
    pytest.importorskip("pyarrow")
    assert [{"a": 5}] == db.sql_arrow("SELECT ? AS a", [5]).to_pylist()
    with pytest.raises(UnsafeSQLError):
        db.sql_arrow("DROP TABLE _ledger")


@pytest.mark.slow
def test_polars_frames_are_checked_like_rows(db):
    """The same statements are allowed, and parameters are bound."""
    pytest.importorskip("polars")
    frame = db.sql_polars("SELECT ? AS a, '{}'::JSON AS j, NULL::TIMESTAMP AS t", [5])
    assert [{"a": 5, "j": "{}", "t": None}] == frame.to_dicts()
    assert ["a"] == db.sql_polars("SELECT 1 AS a WHERE false").columns
    with pytest.raises(UnsafeSQLError):
        db.sql_polars("DROP TABLE _ledger")


@pytest.mark.slow
@pytest.mark.parametrize("run", ["sql_df", "sql_arrow", "sql_polars"])
def test_frames_of_statements_that_write_have_the_count(db, run):
    """Each of them runs once."""
    pytest.importorskip("polars")
    db.sql_rows("CREATE TABLE one (i INTEGER)", write=True)
    for _ in range(2):
        assert (1, 1) == getattr(db, run)("INSERT INTO one VALUES (1)", write=True).shape
    assert 2 == db.sql_scalar("SELECT count(*) FROM one")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ask", "module"), [("sql_df", "pandas"), ("sql_arrow", "pyarrow"), ("sql_polars", "polars")]
)
def test_a_missing_package_is_named(db, monkeypatch, ask, module):
    """The error has the command that installs it."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        ConfigError, match=f"{module} is not installed: pip install .*, or use `sql_rows`"
    ):
        getattr(db, ask)("SELECT 1")


# ---- files --------------------------------------------------------------------------------------


def test_opening_read_only_needs_a_file(tmp_path):
    """It creates none."""
    with pytest.raises(DatabaseNotFoundError) as caught:
        Database.open(tmp_path / "none.db", read_only=True)
    assert str(tmp_path / "none.db") == caught.value.db_path
    assert [] == list(tmp_path.iterdir())


def test_a_file_that_is_not_a_database_raises(tmp_path):
    """The error is typed, and the file unchanged."""
    (tmp_path / "x.db").write_text("hello " * 1000)
    with pytest.raises(ConfigError, match="cannot be opened"):
        Database.open(tmp_path / "x.db")
    assert "hello " * 1000 == (tmp_path / "x.db").read_text()


def test_closing_is_idempotent_and_ends_queries(tmp_path):
    """The database file is kept."""
    db = Database.open(tmp_path / "deep" / "er" / "a.db")
    db.close()
    db.close()
    assert ["a.db"] == [p.name for p in (tmp_path / "deep" / "er").iterdir()]
    with pytest.raises(ConfigError, match="closed"):
        db.tables()


def test_a_database_in_memory_leaves_no_files(tmp_path, monkeypatch):
    """Its folder of parts is removed, too."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Database.open() as db:
        assert (None, 0.0, True) == (db.path, db.size_mb, db.parts.is_dir())
    assert [] == list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_read_only_database_writes_nothing(tmp_path):
    """It creates no folder, and refuses to load."""
    Database.open(tmp_path / "a.db").close()
    with Database.open(tmp_path / "a.db", read_only=True) as db:
        assert [] == db.tables()
        with pytest.raises(ConfigError, match="open read-only"):
            db.begin_events("x", filters=Filters(), mode="new", days=[DAY])
        with pytest.raises(SQLError):
            db.sql_rows("CREATE TABLE x AS SELECT 1", write=True)
    assert ["a.db"] == [p.name for p in tmp_path.iterdir()]


@pytest.mark.slow
def test_a_database_of_another_program_can_be_read(tmp_path):
    """It has no internal tables."""
    with Database.open(tmp_path / "a.db") as db:
        for name in ("_metadata", "_ledger"):
            db.connection.execute(f"DROP TABLE {name}")
        db.connection.execute("CREATE TABLE t AS SELECT 1 AS i")
    with Database.open(tmp_path / "a.db", read_only=True) as db:
        assert ["t"] == [table.name for table in db.tables()]
        assert None is db.created_at


def test_created_at_is_kept(tmp_path):
    """It is the time of the first opening."""
    before = datetime.now(UTC)
    with Database.open(tmp_path / "a.db") as db:
        first = db.created_at
    with Database.open(tmp_path / "a.db") as db:
        assert first == db.created_at
        assert db.created_at >= before.replace(microsecond=0)
        assert db.size_mb > 0


def test_one_process_can_open_a_file_twice(tmp_path, monkeypatch):
    """Both handles must be writable while both are in use."""
    monkeypatch.setattr(connection, "LOCK_TIMEOUT", 0.0)
    with Database.open(tmp_path / "a.db") as one, Database.open(tmp_path / "a.db") as two:
        assert one.tables() == two.tables()
        with pytest.raises(UnsafeSQLError):
            two.sql_rows("FROM glob('*')")
        assert [(1,)] == two.connection.execute("SELECT 1").fetchall()
        with pytest.raises(DatabaseLockedError):
            Database.open(tmp_path / "a.db", read_only=True)


HOLDER = """
import sys
from mixpanel.data.store import Database, connection
with Database.open(sys.argv[1], read_only=len(sys.argv) > 2) as db:
    kept = db.connection
    print("open", flush=True)
    sys.stdin.read()
"""


def holding(path, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_locked_database_names_its_holder(tmp_path, monkeypatch):
    """The error has the pid of the other process."""
    monkeypatch.setattr(connection, "LOCK_TIMEOUT", 0.0)
    path = tmp_path / "a.db"
    with holding(path) as holder:
        assert "open\n" == holder.stdout.readline()
        for read_only in (False, True):
            with pytest.raises(DatabaseLockedError) as caught:
                Database.open(path, read_only=read_only)
            assert (str(path), holder.pid) == (caught.value.db_path, caught.value.holding_pid)
        holder.communicate()
    Database.open(path).close()


@pytest.mark.slow
def test_read_only_processes_share_a_file(tmp_path, monkeypatch):
    """A writer is refused meanwhile."""
    monkeypatch.setattr(connection, "LOCK_TIMEOUT", 0.0)
    path = Path(tmp_path / "a.db")
    Database.open(path).close()
    with holding(path, "read") as holder:
        assert "open\n" == holder.stdout.readline()
        with Database.open(path, read_only=True) as db:
            assert 1 == db.sql_scalar("SELECT 1")
        with Database.open(path) as db, pytest.raises(DatabaseLockedError) as caught:
            db.sql_rows("CREATE TABLE t AS SELECT 1 AS i", write=True)
        assert (str(path), holder.pid) == (caught.value.db_path, caught.value.holding_pid)
        holder.communicate()


@pytest.mark.slow
def test_closing_releases_the_file_of_an_unfinished_load(tmp_path):
    """Another process could open it."""
    db = Database.open(tmp_path / "a.db")
    load = db.begin_events("events", filters=Filters(), mode="new", days=[DAY])
    db.close()
    with pytest.raises(MixpanelDataError):
        load.finish()
    with Database.open(tmp_path / "a.db", read_only=True) as again:
        assert [("events", "incomplete")] == [(t.name, t.state) for t in again.tables()]


@pytest.mark.slow
def test_dropping_is_all_or_nothing(db):
    """A missing name keeps the other tables."""
    db.sql_rows("CREATE TABLE a AS SELECT 1", write=True)
    with pytest.raises(TableNotFoundError) as caught:
        db.drop("a", "b")
    assert ("b", ["a"]) == (caught.value.table_name, caught.value.available_tables)
    db.drop("A", "a")
    assert [] == db.tables()


def test_a_notebook_without_ipywidgets_can_open_a_database():
    """DuckDB has its progress bar off there, and setting it raises."""

    class Notebook:
        def execute(self, sql):
            assert not sql.startswith("SET"), "the required package 'ipywidgets' is missing"
            return connection.execute("SELECT false")

    with duckdb.connect() as connection:
        disable_progress_bar(Notebook())
        connection.execute("SET enable_progress_bar = true")
        disable_progress_bar(connection)
        enabled = connection.execute("SELECT current_setting('enable_progress_bar')").fetchone()
        assert enabled == (False,)
