"""Which SQL may run: statements that read, that write tables, and none that access files."""

import hashlib
import json
import os
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta

import duckdb
import pytest

from mixpanel.data._fetch.plan import Chunk, Filters, Part
from mixpanel.data.exceptions import ConfigError, SQLError, UnsafeSQLError
from mixpanel.data.store import Database, statements

DAY = date(2026, 1, 1)
SETUP = """
CREATE TABLE t AS SELECT 1 AS i; CREATE TABLE w AS SELECT 1 AS "a b"; CREATE SEQUENCE s;
CREATE TABLE "x.y/z" AS SELECT 1 AS i;
CREATE VIEW good(a, b) AS SELECT i, i FROM t; CREATE MACRO goodm() AS TABLE FROM t;
CREATE MACRO goods(x) AS x + 1;
CREATE VIEW evil("as") AS SELECT a FROM '{parts}/p.csv'; CREATE VIEW evil2 AS FROM evil;
CREATE MACRO evilm() AS TABLE FROM read_text('{parts}/p.csv');
CREATE MACRO evils() AS (SELECT size FROM read_text('{parts}/p.csv'));
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Create a database with views and macros that read files."""
    folder = tmp_path_factory.mktemp("made")
    parts = folder / "a.db.parts"
    parts.mkdir()
    (parts / "p.csv").write_text("a,b\n1,2\n")
    with duckdb.connect(str(folder / "a.db")) as connection:
        connection.execute(SETUP.format(parts=parts))
    with Database.open(folder / "a.db") as database:
        yield database


@pytest.fixture
def db(tmp_path):
    """Open a database on disk."""
    with Database.open(tmp_path / "a.db") as database:
        yield database


def filled(query, db):
    return query.format(parts=db.parts, file=db.path)


def files(db):
    return sorted((p.name, p.is_dir() or p.read_bytes()) for p in db.parts.rglob("*"))


NOT_READING = [
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{parts}/x'",
    "explain/**/analyze copy t to '{parts}/x'",
    "EXPLAIN (ANALYZE) COPY t TO '{parts}/x'",
    "EXPLAIN (FORMAT json, ANALYZE) COPY t TO '{parts}/x'",
    "EXPLAIN (FORMAT json) COPY t TO '{parts}/x'",
    "EXPLAIN COPY t TO '{parts}/x'",
    "EXPLAIN\xa0ANALYZE\xa0COPY t TO '{parts}/x'",
    "EXPLAIN ANALYZE INSERT INTO t VALUES (3)",
    "EXPLAIN ANALYZE CREATE TABLE zz(i int)",
    "EXPLAIN ANALYZE WITH x AS (DELETE FROM t RETURNING *) FROM x",
    "WITH x AS (INSERT INTO t VALUES (2) RETURNING *) SELECT * FROM x",
    "with x as (delete from t returning *) from x",
    "with x as (update t set i=2 returning *) from x",
    "MERGE INTO t USING (SELECT 1 i) s ON t.i=s.i WHEN MATCHED THEN DELETE",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "CALL pragma_version()",
    "PRAGMA version",
    "PRAGMA json_execute_serialized_sql('x')",
    "SET VARIABLE x = 1",
    "RESET x",
    "ATTACH '{parts}/a.db'",
    "DETACH x",
    "COPY t TO '{parts}/x'",
    "COPY t FROM '{parts}/x'",
    "EXPORT DATABASE '{parts}'",
    "IMPORT DATABASE '{parts}'",
    "INSTALL json",
    "LOAD json",
    "BEGIN",
    "COMMIT",
    "CHECKPOINT",
    "VACUUM",
    "ANALYZE",
    "SELECT nextval('s')",
    "SELECT write_log('x')",
    "FROM query('select 1')",
    "FROM query_table('t')",
    "SELECT * FROM query_table('{parts}/p.csv')",
    "FROM read_text('{parts}/p.csv')",
    "FROM \"read_text\"('{parts}/p.csv')",
    "FROM main.read_text('{parts}/p.csv')",
    "FROM system.main.READ_TEXT('{parts}/p.csv')",
    "FROM read_blob('{file}')",
    "FROM read_blob('{file}.wal')",
    "FROM read_csv('{parts}/p.csv')",
    "FROM read_csv_auto('{parts}/p.csv')",
    "FROM glob('{parts}/*')",
    "FROM glob('*')",
    "FROM sniff_csv('{parts}/p.csv')",
    "FROM parquet_metadata('x')",
    "FROM parquet_scan('x')",
    "FROM '{parts}/p.csv'",
    'FROM "{parts}/p.csv"',
    'FROM "{parts}/p".csv',
    "FROM '{parts}/*.csv'",
    "FROM '{file}'",
    "SELECT (SELECT content FROM read_text('{parts}/p.csv'))",
    "SELECT * FROM t JOIN read_text('{parts}/p.csv') ON true",
    "SELECT * FROM t, LATERAL (FROM read_text('{parts}/p.csv'))",
    "WITH x AS (FROM read_text('{parts}/p.csv')) FROM x",
    "WITH x AS MATERIALIZED (FROM read_text('{parts}/p.csv')) FROM x",
    "DESCRIBE FROM '{parts}/p.csv'",
    "DESCRIBE '{parts}/p.csv'",
    "SUMMARIZE '{parts}/p.csv'",
    "SHOW '{parts}/p.csv'",
    "PIVOT '{parts}/p.csv' ON a IN (1)",
    "UNPIVOT '{parts}/p.csv' ON a",
    "TABLE '{parts}/p.csv'",
    "EXPLAIN FROM '{parts}/p.csv'",
    "EXPLAIN ANALYZE FROM read_text('{parts}/p.csv')",
    "SELECT * FROM t WHERE i IN (SELECT size FROM read_text('{parts}/p.csv'))",
    "SELECT * FROM t ORDER BY (SELECT size FROM read_text('{parts}/p.csv'))",
    "SELECT list_transform([1], x -> (SELECT size FROM read_text('{parts}/p.csv')))",
    "FROM t UNION ALL SELECT size FROM read_text('{parts}/p.csv')",
    "FROM t LIMIT (SELECT size FROM read_text('{parts}/p.csv'))",
    "VALUES ((SELECT size FROM read_text('{parts}/p.csv')))",
    "SELECT 1; SELECT 2",
    "FROM enable_logging()",
    "FROM checkpoint()",
    "FROM json_execute_serialized_sql('x')",
    "FROM arrow_scan(1,2,3)",
    "FROM pandas_scan(1)",
    "FROM read_duckdb('{file}')",
    "FROM duckdb_logs()",
    "SELECT count(*) OVER (ORDER BY (SELECT size FROM read_text('{parts}/p.csv'))) FROM t",
    "SELECT * FROM (DESCRIBE FROM '{parts}/p.csv')",
    "FROM evil",
    "FROM evilm()",
    "SELECT evils()",
    "FROM evil2",
    "FROM histogram('{parts}/p.csv', a)",
    "SELECT * FROM read_text\xa0('{parts}/p.csv')",
    "FROM\u2003'{parts}/p.csv'",
    "SELECT i FROM t QUALIFY (SELECT size FROM read_text('{parts}/p.csv'))",
    "SELECT i FROM t GROUP BY ALL HAVING (SELECT size FROM read_text('{parts}/p.csv'))",
    "FROM t TABLESAMPLE 10% (bernoulli) WHERE (SELECT size>0 FROM glob('*'))",
]


@pytest.mark.slow
@pytest.mark.parametrize("query", NOT_READING)
def test_sql_that_does_more_than_read_is_refused(prepared, query):
    """This holds for every spelling; no file is written, and no row changes."""
    before = files(prepared)
    with pytest.raises(SQLError):
        prepared.sql_rows(filled(query, prepared))
    assert before == files(prepared)
    assert [(1,)] == prepared.sql_rows("FROM t").rows


READING = [
    "SELECT 1",
    "FROM t",
    "TABLE t",
    "VALUES (1)",
    "WITH x AS (SELECT 1) FROM x",
    "with recursive r as (select 1 a union all select a+1 from r where a<3) from r",
    "DESCRIBE t",
    "DESCRIBE SELECT 1",
    "SUMMARIZE t",
    "SHOW TABLES",
    "SHOW ALL TABLES",
    "SHOW t",
    "SHOW DATABASES",
    "EXPLAIN SELECT 1",
    "EXPLAIN ANALYZE FROM t",
    "EXPLAIN (ANALYZE) FROM t",
    "EXPLAIN (FORMAT json) SELECT 1",
    "EXPLAIN (SELECT 1)",
    "EXPLAIN ((SELECT 1))",
    "PIVOT t ON i IN (1,2)",
    "UNPIVOT t ON i",
    "FROM range(3)",
    "SELECT unnest([1,2])",
    "FROM duckdb_tables()",
    "FROM information_schema.tables",
    "SELECT * FROM pg_catalog.pg_tables",
    "FROM good",
    "FROM goodm()",
    "SELECT goods(1)",
    "SELECT 'a/b.csv' , \"a b\" FROM w",
    'FROM "x.y/z"',
    "FROM main.t",
    "FROM a.main.t",
    "FROM a.t",
    "(SELECT 1)",
    "-- c\nSELECT 1 -- d",
    "/* a /* b */ c */ SELECT 1",
    "SELECT * FROM t WHERE i = $1",
    "SELECT '\xe9' AS \"\xfc\"",
    "FROM pragma_table_info('t')",
    "SELECT extract(year from date '2020-01-01'), trim(both from ' x ')",
    "SELECT struct_pack(a := 1).a",
    "SELECT * EXCLUDE (i) FROM w, t",
    "SELECT 1\xa0AS a",
    "FROM _ledger",
]


@pytest.mark.slow
@pytest.mark.parametrize("query", READING)
def test_sql_that_reads_is_allowed(prepared, query):
    """These are queries in all spellings, DESCRIBE and EXPLAIN."""
    assert prepared.sql_rows(query, [1] if "$1" in query else None).columns


NOT_CHANGING_TABLES = [
    "CREATE TABLE zz AS FROM read_text('{parts}/p.csv')",
    "INSERT INTO t SELECT size FROM read_text('{parts}/p.csv')",
    "CREATE VIEW zz AS FROM read_text('{parts}/p.csv')",
    "CREATE MACRO zz() AS TABLE FROM read_text('{parts}/p.csv')",
    "CREATE VIEW zz AS FROM '{parts}/p.csv'",
    "CREATE TABLE zz AS FROM '{parts}/p.csv'",
    'CREATE TABLE zz AS FROM "{parts}/p".csv',
    "UPDATE t SET i=(SELECT size FROM \"read_blob\"\u2003/* x */('{parts}/p.csv'))",
    "DELETE FROM t USING '{parts}/p.csv'",
    "MERGE INTO t USING '{parts}/p.csv' s ON s.a=t.i WHEN MATCHED THEN DELETE",
    "CREATE PERSISTENT SECRET s (TYPE s3)",
    "CREATE SECRET (TYPE s3)",
    "SET memory_limit='1GB'",
    "CREATE TABLE zz AS SELECT * FROM query('select 1')",
    "EXPLAIN ANALYZE CREATE TABLE zz AS FROM read_text('{parts}/p.csv')",
]
NOT_CHANGING_TABLES += [
    query
    for query in NOT_READING
    if any(word in query for word in ("COPY", "read_", "glob", "TACH", "PORT", "PRAGMA", "/p.csv"))
    or query.startswith(("PREPARE", "EXECUTE", "LOAD", "INSTALL", "FROM evil", "FROM query"))
]


@pytest.mark.slow
@pytest.mark.parametrize("query", NOT_CHANGING_TABLES)
def test_sql_that_writes_cannot_access_files(prepared, query):
    """`write=True` allows neither parts, nor the database's own file, nor any other."""
    before = files(prepared)
    with pytest.raises(SQLError):
        prepared.sql_rows(filled(query, prepared), write=True)
    assert before == files(prepared)


@pytest.mark.slow
def test_sql_that_writes_can_change_the_database(db):
    """This includes views, macros and sequences of any name."""
    db.sql_rows("CREATE TABLE t (i INT)", write=True)
    db.sql_rows("CREATE SEQUENCE s", write=True)
    for query in CHANGING:
        db.sql_rows(query, write=True)
    assert ["query", "t"] == [table.name for table in db.tables()]


CHANGING = [
    "CREATE TABLE n1 AS SELECT 1 i",
    "INSERT INTO n1 VALUES (2)",
    "UPDATE n1 SET i=3",
    "DELETE FROM n1",
    "MERGE INTO n1 USING t ON t.i=n1.i WHEN NOT MATCHED THEN INSERT VALUES (1)",
    "CREATE VIEW nv AS FROM n1",
    "CREATE MACRO nm(x) AS x",
    "ALTER TABLE n1 ADD COLUMN j int",
    "CHECKPOINT",
    "FORCE CHECKPOINT",
    "VACUUM",
    "ANALYZE",
    "DROP VIEW nv",
    "DROP TABLE n1",
    "TRUNCATE t",
    "COMMENT ON TABLE t IS 'x'",
    "SELECT nextval('s')",
    "CREATE TABLE query (i int)",
    "INSERT INTO query (i) VALUES (1)",
    "EXPLAIN ANALYZE INSERT INTO t VALUES (5)",
    "PIVOT query ON i",
    "CREATE INDEX ix ON t(i)",
    "CREATE TYPE mood AS ENUM ('a')",
    "CREATE SCHEMA sx",
    "WITH x AS (SELECT 1) INSERT INTO t FROM x",
]


@pytest.mark.slow
def test_explaining_a_copy_with_external_access_still_writes_nothing(tmp_path):
    """Reading files is allowed then; writing them needs write=True."""
    (tmp_path / "x.csv").write_text("a\n1\n")
    copy = f"EXPLAIN ANALYZE COPY (SELECT 1) TO '{tmp_path / 'y.csv'}'"
    with Database.open(tmp_path / "a.db", external_access=True) as db:
        assert [(1,)] == db.sql_rows(f"FROM '{tmp_path / 'x.csv'}'").rows
        for query in (copy, "FROM enable_logging(storage='file')", "FROM arrow_scan(1, 2, 3)"):
            with pytest.raises(UnsafeSQLError, match="write=True"):
                db.sql_rows(query)
        assert not (tmp_path / "y.csv").exists()
        db.sql_rows(copy, write=True)
        assert (tmp_path / "y.csv").exists()


LONG = "9" * 60


@pytest.mark.slow
@pytest.mark.parametrize(
    "query",
    [
        f"SELECT {LONG}",
        f"SELECT -{LONG}, 'Ж', {LONG}",
        f"EXPLAIN SELECT {LONG}",
        f"SELECT i, {2**128} FROM t WHERE i < {LONG}",
    ],
)
def test_numbers_of_more_than_128_bits_are_read(prepared, query):
    """DuckDB 2 returns no syntax tree of them."""
    assert 1 == len(prepared.sql_rows(query).rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    "query",
    [
        "SELECT nextval('s') AS n",
        "FROM read_text('{file}')",
        "FROM '{parts}/p.csv'",
        "FROM evil2",
    ],
)
def test_statements_with_such_numbers_are_checked(prepared, query):
    """The rest of them is refused as in any other statement."""
    query = filled(f"SELECT {LONG}, * FROM ({query}) AS a, (SELECT {LONG}) AS b", prepared)
    with pytest.raises(UnsafeSQLError):
        prepared.sql_rows(query)


@pytest.mark.slow
def test_a_statement_without_a_syntax_tree_is_refused(prepared, monkeypatch):
    """Whatever the reason is."""
    monkeypatch.setattr(statements._StatementCheck, "_serialized", lambda *_: "")
    with pytest.raises(UnsafeSQLError, match="no syntax tree"):
        prepared.sql_rows("SELECT 1")


@pytest.mark.slow
def test_a_very_long_statement_is_checked(db):
    """It may have some hundred thousand tokens."""
    listed = ", ".join(map(str, range(20_000)))
    assert 20_000 == db.sql_scalar(f"SELECT count(*) FROM range(30000) WHERE range IN ({listed})")


@pytest.mark.slow
@pytest.mark.parametrize(("version", "fits"), [("1.4.3", False), ("1.4.4", True), ("1.10.0", True)])
def test_a_duckdb_version_that_cannot_be_confined_is_refused(monkeypatch, version, fits):
    """The error has the command that upgrades it."""
    monkeypatch.setattr(duckdb, "__version__", version)
    if fits:
        Database.open().close()
    else:
        with pytest.raises(ConfigError, match=r"DuckDB 1\.4\.3 is too old: .*duckdb>=1\.4\.4"):
            Database.open()


# ---- part files ---------------------------------------------------------------------------------

EVENT = {"event": "E", "properties": {"time": 1_767_225_600_000, "distinct_id": "u"}}


def begun(db):
    return db.begin_events("events", filters=Filters(), mode="new", days=[DAY])


def received(db, load, content=None):
    """Leave a part as a fetch that was killed before it loaded it."""
    path = db.parts / f"{load.key}_{DAY}_{DAY}.ndjson"
    path.write_bytes(content or json.dumps(EVENT).encode() + b"\n")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    at = datetime.now(UTC) - timedelta(minutes=1)
    part = Part(path, Chunk(DAY, DAY), path.stat().st_size, False, at, digest)
    db.record_part(load, part)
    return part


def test_duckdb_cannot_access_parts(db):
    """The unchecked connection can neither read nor write them."""
    path = received(db, begun(db)).path
    for query in (
        f"FROM read_text('{path}')",
        f"FROM '{path}'",
        f"FROM glob('{db.parts}/*')",
        f"COPY (SELECT 1) TO '{path}'",
        f"EXPLAIN ANALYZE COPY (SELECT 1) TO '{db.parts}/new.csv'",
    ):
        with pytest.raises(duckdb.PermissionException):
            db.connection.execute(query)
    assert [path.name] == [p.name for p in db.parts.iterdir()]


@pytest.mark.slow
def test_a_part_is_trusted_by_its_digest(db):
    """A received part is found again, with its time of receipt."""
    load = begun(db)
    part = received(db, load)
    assert [part] == db.reusable_parts(load)
    load.stage([part])
    assert 1 == load.finish().rows
    assert 0 == db.sql_scalar("SELECT count(*) FROM _parts")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["changed", "forged"])
def test_a_part_with_another_digest_is_set_aside(db, caplog, how):
    """It is moved to the folder of unreadable lines, and logged."""
    load = begun(db)
    if how == "changed":
        path = received(db, load).path
        path.write_bytes(path.read_bytes().replace(b'"E"', b'"F"'))
    else:
        path = db.parts / f"{load.key}_{DAY}_{DAY}.ndjson"
        path.write_text(json.dumps(EVENT))
    content = path.read_bytes()
    assert [] == db.reusable_parts(load)
    [kept] = db.unreadable.iterdir()
    assert (content, False) == (kept.read_bytes(), path.exists())
    assert f"does not match what was received: moved it to {kept}" in caplog.text
    load.finish()
    db.drop("events")
    assert not db.unreadable.exists()


@pytest.mark.slow
def test_two_handles_of_a_file_load_through_one_folder(db):
    """The second finds the settings locked, and uses the folder they allow."""
    with Database.open(db.path) as other:
        load = other.begin_events("others", filters=Filters(), mode="new", days=[DAY])
        assert [None] == [one.error for one in load.stage([received(db, begun(db))])]
        assert 1 == load.finish().rows
    assert ["E"] == [row[0] for row in db.sql_rows("FROM others").rows]
    assert [] == [path for path in db.parts.iterdir() if path.is_dir()]


KILLED = """
import os, sys
from mixpanel.data.store import Database
from mixpanel.data.store.part_files import linked_files
db = Database.open(sys.argv[1])
(db.parts / "x").touch()
with linked_files(db._exchange, [db.parts / "x"]):
    print(len(list(db.parts.rglob("*"))), flush=True)
    os._exit(0)
"""


@pytest.mark.slow
def test_links_of_a_killed_process_are_removed(tmp_path):
    """The part itself is kept."""
    command = [sys.executable, "-c", KILLED, str(tmp_path / "a.db")]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "4" == output.strip()
    with Database.open(tmp_path / "a.db") as db:
        begun(db)
        assert ["x"] == [path.name for path in db.parts.rglob("*")]


ZONES = """
import sys
from datetime import datetime, timedelta, timezone
from mixpanel.data.store import Database
with Database.open(sys.argv[1]) as db:
    east = timezone(timedelta(hours=5, minutes=30))
    at = datetime(2026, 1, 1, 17, 30, tzinfo=east)  # noon in UTC
    noon = "(VALUES (TIMESTAMP '2026-01-01 12:00:00')) AS t(noon)"
    query = f"SELECT count(*) FROM {noon} WHERE noon = ?"
    recent = "SELECT count(*) FROM range(48) WHERE (now() AT TIME ZONE 'UTC')::TIMESTAMP "
    recent += "- to_hours(range) > now() - INTERVAL 150 MINUTE"
    print(db.sql_scalar(query, [at]), db.sql_scalar(recent))
"""


@pytest.mark.slow
@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kolkata"])
def test_answers_do_not_depend_on_the_time_zone_of_the_machine(tmp_path, zone):
    """Neither those about now, nor with parameters that have a time zone of their own."""
    command = [sys.executable, "-c", ZONES, str(tmp_path / "a.db")]
    run = subprocess.run(
        command, env=os.environ | {"TZ": zone}, capture_output=True, text=True, check=False
    )
    assert ("1 3\n", "") == (run.stdout, run.stderr)
