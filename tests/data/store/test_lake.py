"""Folders of Parquet by day that are kept up to date, and exports that fail or are killed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest

from mixpanel.data.exceptions import ConfigError, MixpanelDataError
from mixpanel.data.store import Database

CREATE = """
CREATE TABLE events AS
SELECT 'e' || n AS event_name, TIMESTAMP '2026-01-01' + n * INTERVAL 6 HOUR AS event_time,
    json_object('n', n)::JSON AS properties
FROM range(12) AS r(n)
"""  # four events on each of three days
DAYS = ["2026-01-01", "2026-01-02", "2026-01-03"]
CLI = "from mixpanel.cli.main import run; run()"


@pytest.fixture
def db(tmp_path):
    """Open a database with three days of events."""
    with Database.open(tmp_path / "a.db") as database:
        database.sql_rows(CREATE, write=True)
        yield database


def change(db, *statements):
    for statement in statements:
        db.sql_rows(statement, write=True)


def files(folder):
    """Return the inode of each file by its path."""
    return {str(p): p.stat().st_ino for p in folder.rglob("*") if not p.is_dir()}


def rows(folder):
    query = (
        "SELECT event_name, event_time, properties, CAST(day AS VARCHAR) "
        f"FROM read_parquet('{folder}/*/*.parquet', hive_partitioning = true) ORDER BY ALL"
    )
    with duckdb.connect() as connection:
        return connection.execute(query).fetchall()


def expected(db):
    query = (
        "SELECT event_name, event_time, CAST(properties AS VARCHAR), "
        "CAST(CAST(event_time AS DATE) AS VARCHAR) FROM events ORDER BY ALL"
    )
    return db.sql_rows(query).rows


# ---- what is written ----------------------------------------------------------------------------


@pytest.mark.slow
def test_only_days_that_changed_are_written(db, tmp_path):
    """The others are the same files as before; days that are gone have no folder any more."""
    lake = tmp_path / "new" / "lake"
    first = db.sync_parquet("events", lake)
    assert (tuple(DAYS), 0, ()) == (first.written, first.kept, first.removed)
    assert sorted(files(lake)) == sorted(first.paths)
    before = files(lake)
    again = db.sync_parquet("events", str(lake))
    assert ((), 3, (), ()) == (again.written, again.kept, again.removed, again.paths)
    assert before == files(lake)
    change(
        db,
        "DELETE FROM events WHERE event_time < '2026-01-02'",
        "UPDATE events SET properties = '{\"n\":-1}' WHERE event_name = 'e5'",
        "INSERT INTO events VALUES ('new', '2026-02-01', '{}')",
    )
    third = db.sync_parquet("events", lake)
    assert ("2026-01-02", "2026-02-01") == third.written
    assert (1, ("2026-01-01",)) == (third.kept, third.removed)
    assert expected(db) == rows(lake)
    after = files(lake)
    assert 3 == len(after)
    # A changed day keeps its name, so that no reader finds two files of it.
    assert {name for name in before if "01-02" in name} == {n for n in after if "01-02" in n}
    assert [each for each in before.items() if "01-03" in each[0]] == [
        each for each in after.items() if "01-03" in each[0]
    ]
    assert not (lake / "day=2026-01-01").exists()


@pytest.mark.slow
def test_the_order_of_rows_does_not_matter(db, tmp_path):
    """A sync that fetches the same events again writes nothing; equal rows count each."""
    db.sync_parquet("events", tmp_path / "lake")
    change(db, "CREATE OR REPLACE TABLE events AS FROM events ORDER BY event_name DESC")
    assert 3 == db.sync_parquet("events", tmp_path / "lake").kept
    change(db, "INSERT INTO events FROM events", "INSERT INTO events FROM events")
    assert 3 == len(db.sync_parquet("events", tmp_path / "lake").written)
    assert 48 == len(rows(tmp_path / "lake"))


@pytest.mark.slow
def test_a_full_export_is_the_start_of_an_incremental_one(db, tmp_path):
    """Its files have fingerprints, too; and overwriting works after a sync."""
    db.export_parquet("events", tmp_path / "lake")
    assert 3 == db.sync_parquet("events", tmp_path / "lake").kept
    db.export_parquet("events", tmp_path / "lake", overwrite=True)
    assert 3 == db.sync_parquet("events", tmp_path / "lake").kept
    assert expected(db) == rows(tmp_path / "lake")


@pytest.mark.slow
def test_other_columns_rewrite_each_day(db, tmp_path):
    """One folder never has files of two layouts."""
    db.sync_parquet("events", tmp_path / "lake")
    change(db, "ALTER TABLE events ADD COLUMN plan VARCHAR")
    assert 3 == len(db.sync_parquet("events", tmp_path / "lake").written)
    change(db, "ALTER TABLE events ALTER plan TYPE INTEGER")
    assert 3 == len(db.sync_parquet("events", tmp_path / "lake").written)


@pytest.mark.slow
def test_rows_without_a_time_have_a_folder_too(db, tmp_path):
    """Named as in Hive; and times before the common era or infinite lose no row."""
    change(
        db,
        "INSERT INTO events VALUES ('none', NULL, '{}'), ('bc', '0044-03-15 (BC)', '{}'), "
        "('ever', 'infinity', '{}'), ('never', '-infinity', '{}')",
    )
    lake = tmp_path / "lake"
    assert 7 == len(db.sync_parquet("events", lake).written)
    assert 7 == db.sync_parquet("events", lake).kept
    assert (lake / "day=__HIVE_DEFAULT_PARTITION__").is_dir()
    with duckdb.connect() as connection:
        query = f"SELECT count(*) FROM read_parquet('{lake}/*/*.parquet')"
        assert (16,) == connection.execute(query).fetchone()
    change(db, "DELETE FROM events WHERE event_time IS NULL")
    assert ("__HIVE_DEFAULT_PARTITION__",) == db.sync_parquet("events", lake).removed


@pytest.mark.slow
@pytest.mark.parametrize("type_", ["DATE", "TIMESTAMPTZ", "TIMESTAMP_NS", "TIMESTAMP_S", "VARCHAR"])
def test_times_of_any_type_make_days(db, tmp_path, type_):
    """In UTC; each row is in one of them."""
    change(db, f"ALTER TABLE events ALTER event_time TYPE {type_}")
    assert tuple(DAYS) == db.sync_parquet("events", tmp_path / "lake").written
    assert 3 == db.sync_parquet("events", tmp_path / "lake").kept
    with duckdb.connect() as connection:
        query = f"SELECT count(*) FROM read_parquet('{tmp_path}/lake/*/*.parquet')"
        assert (12,) == connection.execute(query).fetchone()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("type_", "before", "after"),
    [
        ("INTEGER[]", "[]", "NULL"),
        ("STRUCT(a INTEGER)", "{'a': NULL}", "NULL"),
        ("MAP(INTEGER, INTEGER)", "MAP {}", "NULL"),
        ("INTERVAL", "INTERVAL '1 month'", "INTERVAL '30 days'"),
        ("INTERVAL[]", "[INTERVAL '1 month']", "[INTERVAL '30 days']"),
        ("DOUBLE", "'0.0'", "'-0.0'"),
        ("FLOAT", "'nan'", "'-nan'"),
        ("DOUBLE[]", "[0.0]", "['-0.0'::DOUBLE]"),
        ("TIMESTAMP_NS", "'2026-01-01'", "'2026-01-01 00:00:00.000000001'"),
        ("VARCHAR", "''", "NULL"),
    ],
)
def test_values_that_look_alike_are_changes(db, tmp_path, type_, before, after):
    """DuckDB's hash is the same for many of them."""
    change(db, f"ALTER TABLE events ADD COLUMN x {type_}", f"UPDATE events SET x = {before}")
    db.sync_parquet("events", tmp_path / "lake")
    change(db, f"UPDATE events SET x = {after} WHERE event_name = 'e5'")
    assert ("2026-01-02",) == db.sync_parquet("events", tmp_path / "lake").written


@pytest.mark.slow
def test_the_last_nanosecond_belongs_to_its_day(db, tmp_path):
    """A change of it is written; a cast to DATE would round it up to the next day."""
    change(
        db,
        "ALTER TABLE events ALTER event_time TYPE TIMESTAMP_NS",
        "INSERT INTO events VALUES ('last', '2026-01-03 23:59:59.999999999', '{}')",
    )
    lake = tmp_path / "lake"
    assert tuple(DAYS) == db.sync_parquet("events", lake).written
    change(db, "UPDATE events SET properties = '{\"n\": 1}' WHERE event_name = 'last'")
    assert ("2026-01-03",) == db.sync_parquet("events", lake).written
    assert ("last", '{"n": 1}') in [(name, properties) for name, _, properties, _ in rows(lake)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("type_", "time", "day"),
    [
        ("TIMESTAMP", "294247-01-10 01:00:00", "294247-01-10"),
        ("TIMESTAMP", "290309-12-22 (BC) 01:00:00", "290309-12-22%20%28BC%29"),
        ("DATE", "5881580-07-10", "5881580-07-10"),
        ("TIMESTAMP_NS", "2262-04-11 12:00:00", "2262-04-11"),
        ("TIMESTAMP_NS", "1677-09-21 12:00:00", "1677-09-21"),
    ],
)
def test_the_first_and_last_possible_days_are_written(db, tmp_path, type_, time, day):
    """No day before or after them can be computed."""
    change(
        db,
        f"ALTER TABLE events ALTER event_time TYPE {type_}",
        f"INSERT INTO events VALUES ('far', '{time}', '{{}}')",
    )
    assert 4 == len(db.sync_parquet("events", tmp_path / "lake").written)
    with duckdb.connect() as connection:
        query = f"SELECT event_name FROM read_parquet('{tmp_path}/lake/day={day}/*.parquet')"
        assert [("far",)] == connection.execute(query).fetchall()


@pytest.mark.slow
@pytest.mark.parametrize("read_only", [True, False])
def test_views_and_queries_are_exported_by_day(db, tmp_path, read_only):
    """Each is read once; a random one is written as it was seen."""
    change(db, "CREATE VIEW v AS SELECT *, random() AS x FROM events")
    with Database.open(tmp_path / "b.db") as copied:
        copied.sql_rows(CREATE, write=True)
        copied.sql_rows("CREATE VIEW v AS SELECT * FROM events", write=True)
    with Database.open(tmp_path / "b.db", read_only=read_only) as reader:
        assert 3 == len(reader.sync_parquet("v", tmp_path / "lake").written)
        assert 3 == reader.sync_parquet("v", tmp_path / "lake").kept
        query = "FROM events WHERE event_name <> 'e0'"
        assert 1 == len(reader.sync_parquet(None, tmp_path / "lake", query=query).written)
        assert 3 == len(reader.export_parquet(None, tmp_path / "other", query=query))
        assert (
            []
            == reader.sql_rows(
                "SELECT 1 FROM duckdb_tables() WHERE starts_with(table_name, '_export')"
            ).rows
        )
    assert 3 == len(db.sync_parquet("v", tmp_path / "random").written)
    assert 12 == len(rows(tmp_path / "random"))


@pytest.mark.slow
def test_broken_and_further_files_of_a_day_are_replaced(db, tmp_path):
    """A file that was cut short, one of another day, and two files in one folder."""
    lake = tmp_path / "lake"
    one, two, three = map(Path, db.sync_parquet("events", lake).paths)
    one.write_bytes(one.read_bytes()[:-100])
    shutil.copy(three, two)
    shutil.copy(three, three.with_name(f"part-{'0' * 32}-1.parquet"))
    done = db.sync_parquet("events", lake)
    assert tuple(DAYS) == done.written
    assert expected(db) == rows(lake)
    assert 3 == len(files(lake)) == db.sync_parquet("events", lake).kept


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "thesis.txt",
        "day=2026-01-01/thesis.txt",
        "day=2026-01-01/part-00000-c0ffee.snappy.parquet",
        "day=2020-01-01/deeper/part-0.parquet",
    ],
)
def test_a_folder_with_other_files_is_refused(db, tmp_path, name):
    """Nothing in it is changed."""
    lake = tmp_path / "lake"
    db.sync_parquet("events", lake)
    (lake / name).parent.mkdir(parents=True, exist_ok=True)
    (lake / name).write_text("years of work")
    before = files(lake)
    change(db, "DELETE FROM events")
    with pytest.raises(ConfigError, match=r"refusing to overwrite .*which export_parquet did not"):
        db.sync_parquet("events", lake)
    assert before == files(lake)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_are_not_followed(db, tmp_path):
    """Neither to delete what they point to, nor to write there."""
    lake, real = tmp_path / "lake", tmp_path / "real"
    db.sync_parquet("events", lake)
    (lake / "day=2026-01-01").rename(real)
    (lake / "day=2026-01-01").symlink_to(real)
    with pytest.raises(ConfigError, match="refusing to overwrite"):
        db.sync_parquet("events", lake)
    assert 1 == len(files(real))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("kind", ["export", "sync"])
def test_a_link_to_a_folder_stays_a_link(db, tmp_path, kind, exists):
    """The folder that it points to is written."""
    link, real = tmp_path / "here" / "lake", tmp_path / "disk" / "real"
    link.parent.mkdir()
    link.symlink_to(real)
    if exists:
        db.export_parquet("events", real)
    written = (
        db.export_parquet("events", link, overwrite=True)
        if kind == "export"
        else db.sync_parquet("events", link).paths
    )
    assert len(written) == (0 if exists and kind == "sync" else 3)
    assert all(path.startswith(str(link)) for path in written)
    assert (True, 3) == (link.is_symlink(), len(files(real)))
    assert ([link], [real]) == ([*link.parent.iterdir()], [*real.parent.iterdir()])


def test_what_is_no_folder_by_day_is_refused(db, tmp_path):
    """A file, a path like one, a table without times, and both a table and a query."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="is a file: use the path of a folder"):
        db.sync_parquet("events", tmp_path / "file")
    with pytest.raises(ConfigError, match="named like a file"):
        db.sync_parquet("events", tmp_path / "lake.parquet")
    with pytest.raises(ConfigError, match="only tables with a column event_time"):
        db.sync_parquet(None, tmp_path / "lake", query="SELECT 1 AS i")
    with pytest.raises(ConfigError, match="pass one of them"):
        db.sync_parquet("events", tmp_path / "lake", query="SELECT 1 AS i")
    assert "x" == (tmp_path / "file").read_text()
    assert not (tmp_path / "lake").exists()


@pytest.mark.slow
def test_other_engines_read_the_folder(db, tmp_path):
    """polars and pyarrow find the same rows, also after a sync."""
    polars, dataset = pytest.importorskip("polars"), pytest.importorskip("pyarrow.dataset")
    lake = tmp_path / "lake"
    db.sync_parquet("events", lake)
    change(db, "DELETE FROM events WHERE event_name = 'e11'")
    db.sync_parquet("events", lake)
    assert 11 == polars.read_parquet(lake, hive_partitioning=True).height
    assert 11 == dataset.dataset(lake, partitioning="hive").count_rows()


@pytest.mark.slow
def test_object_storage_is_kept_up_to_date(db):
    """Only changed objects are written; a foreign one is refused."""
    fsspec = pytest.importorskip("fsspec")
    storage = fsspec.filesystem("memory")
    try:
        first = db.sync_parquet("events", "memory://bucket/lake")
        assert 3 == len(first.paths) == len(storage.find("/bucket/lake"))
        change(db, "DELETE FROM events WHERE event_time < '2026-01-01 07:00'")
        change(db, "DELETE FROM events WHERE event_time >= '2026-01-03'")
        again = db.sync_parquet("events", "memory://bucket/lake")
        assert ((DAYS[0],), 1, (DAYS[2],)) == (again.written, again.kept, again.removed)
        assert set(again.paths) < set(first.paths)
        assert 2 == len(storage.find("/bucket/lake"))
        storage.pipe("/bucket/lake/thesis.txt", b"years of work")
        with pytest.raises(ConfigError, match="refusing to overwrite memory://bucket/lake"):
            db.sync_parquet("events", "memory://bucket/lake")
    finally:
        storage.rm("/bucket", recursive=True)


@pytest.mark.slow
def test_a_failed_remote_export_removes_what_it_wrote(db, monkeypatch):
    """The error names the address, and the earlier export is complete."""
    fsspec = pytest.importorskip("fsspec")
    storage = fsspec.filesystem("memory")
    put, calls = type(storage).put_file, []

    def failing(self, source, key, **options):
        calls.append(key)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return put(self, source, key, **options)

    try:
        first = db.export_parquet("events", "memory://bucket/lake")
        monkeypatch.setattr(type(storage), "put_file", failing)
        with pytest.raises(MixpanelDataError, match="cannot write memory://bucket/lake: No space"):
            db.export_parquet("events", "memory://bucket/lake", overwrite=True)
        found = [storage.unstrip_protocol(key) for key in storage.find("/bucket/lake")]
        assert sorted(first) == sorted(found)
    finally:
        storage.rm("/bucket", recursive=True)


def test_csv_is_compressed_as_gzip_only(db, tmp_path):
    """Another ending would name a file that it is not."""
    for suffix in ("zst", "bz2", "XZ"):
        with pytest.raises(ConfigError, match=r"compressed as \.gz only"):
            db.export_csv("events", tmp_path / f"events.csv.{suffix}")
    assert [] == [p for p in tmp_path.iterdir() if "csv" in p.name]


# ---- a full disk --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory):
    """Mount a disk of one megabyte, where that is allowed."""
    folder = tmp_path_factory.mktemp("small")
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, check=False).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "gz", "parquet", "folder", "sync", "remote"])
def test_a_full_disk_is_named_with_what_was_needed(db, small_disk, kind):
    """It is the target's, with its free bytes; nothing is left there, or beside the database."""
    big = (
        "SELECT md5(n::VARCHAR) || md5('x' || n) AS a, TIMESTAMP '2026-01-01' + n * INTERVAL 1 "
        "SECOND AS event_time FROM range(200_000) AS r(n)"
    )
    path = small_disk / "lake"
    with pytest.raises(MixpanelDataError) as caught:
        if kind in ("csv", "gz"):
            path = small_disk / f"events.csv{'.gz' * (kind == 'gz')}"
            db.export_csv(None, path, query=big)
        elif kind == "parquet":
            db.export_parquet(None, path, query=big, partition_by=None)
        elif kind == "folder":
            db.export_parquet(None, path, query=big)
        elif kind == "sync":
            db.sync_parquet(None, path, query=big)
        else:
            pytest.importorskip("fsspec")
            path = f"file://{path}"
            db.export_parquet(None, path, query=big)
    message = str(caught.value)
    assert message.startswith(f"cannot write {path}: No space left on device: the export needs ")
    assert "EXPORT_FAILED" == caught.value.code
    free = message.partition(" bytes, and ")[2].partition(" were free")[0]
    assert 900_000 < int(free.removesuffix(" bytes").replace(",", "")) <= 1_048_576
    left = [p for p in small_disk.rglob("*") if p.is_file()]
    if kind == "sync":  # the days that were complete
        assert all(p.name.startswith("part-") for p in left)
        shutil.rmtree(path)
    else:
        assert [] == [*small_disk.iterdir()]
    assert [] == [*db.parts.iterdir()]


# ---- killed -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Make a database whose exports take some seconds."""
    path = tmp_path_factory.mktemp("many") / "many.db"
    with Database.open(path) as database:
        database.sql_rows(
            "CREATE TABLE events AS SELECT TIMESTAMP '2026-01-01' + n * INTERVAL 5 SECOND "
            "AS event_time, md5(n::VARCHAR) AS a FROM range(600_000) AS r(n)", write=True,
        )  # fmt: skip
    return path


COMMANDS = {
    "gz": ("csv", "events", "events.csv.gz"),
    "folder": ("parquet", "events", "lake", "--partition-by", "day"),
    "sync": ("parquet", "events", "lake", "--partition-by", "day", "--incremental"),
}


@pytest.mark.heavy
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="files without a name are of Linux")
@pytest.mark.parametrize("kind", COMMANDS)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_killed_export_leaves_nothing(many, tmp_path, kind, number):
    """A sync leaves the days that are complete, and the next one writes the others."""
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "tmp").mkdir()
    environ = {**os.environ, "MP_DB": str(many), "TMPDIR": str(tmp_path / "tmp")}
    command = [sys.executable, "-c", CLI, "export", *COMMANDS[kind]]
    with subprocess.Popen(
        command, env=environ, cwd=target, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_until(lambda: is_writing(process.pid, target) or process.poll() is not None)
        process.send_signal(number)
        out, err = process.communicate()
    left = [p.relative_to(target).as_posix() for p in target.rglob("*") if not p.is_dir()]
    if process.returncode == 0:  # it was faster
        assert left
    else:
        code = -9 if number == signal.SIGKILL else 128 + number
        assert (code, "") == (process.returncode, out), err
        assert "Traceback" not in err
        assert kind == "sync" or [] == [*target.iterdir()]
        assert all("/day=" in f"/{each}" and "/part-" in each for each in left)
        if number != signal.SIGKILL:
            assert [] == [*(tmp_path / "tmp").iterdir()]
    if kind == "sync":
        with Database.open(many, read_only=True) as database:
            done = database.sync_parquet("events", target / "lake")
            assert len(left) == done.kept
            assert 35 == done.kept + len(done.written)


def wait_until(is_true):
    end = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.005)


def is_writing(pid, folder):
    """Return True if a process has a file without a name open below a folder."""
    try:
        links = [each.readlink() for each in Path(f"/proc/{pid}/fd").iterdir()]
        return any(f"{folder}/" in str(each) and "(deleted)" in str(each) for each in links)
    except OSError:
        return False


@pytest.mark.slow
def test_leftovers_of_other_systems_are_removed(db, tmp_path, monkeypatch):
    """Where files need a name while they are written, the next export removes what was left."""
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    lake = tmp_path / "lake"
    db.sync_parquet("events", lake)
    change(db, "DELETE FROM events WHERE event_name = 'e0'")
    assert 1 == len(db.sync_parquet("events", lake).written)
    (lake / "day=2026-01-01" / f".export.{'a' * 32}").write_text("half")
    assert 3 == db.sync_parquet("events", lake).kept
    assert 3 == len(files(lake))
    leftover = tmp_path / f".lake.{'b' * 32}"
    (leftover / "day=2026-01-01").mkdir(parents=True)
    (leftover / "day=2026-01-01" / "part-0.parquet").write_text("half")
    db.export_parquet("events", lake, overwrite=True)
    assert not leftover.exists()
    assert 3 == len(files(lake))
    assert 1 == len(db.export_csv("events", tmp_path / "e.csv.gz"))
    assert ["a.db", "a.db.parts", "e.csv.gz", "lake"] == sorted(
        p.name for p in tmp_path.iterdir() if p.suffix != ".wal"
    )


# ---- the command line ---------------------------------------------------------------------------


@pytest.mark.slow
def test_mp_says_how_many_days_were_written(db, tmp_path):
    """In one line on stderr."""
    path, lake = db.path, tmp_path / "lake"
    db.close()

    def mp(*arguments):
        command = [sys.executable, "-c", CLI, "export", "parquet", "events", str(lake), *arguments]
        environ = {**os.environ, "MP_DB": str(path), "NO_COLOR": "1", "COLUMNS": "200"}
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)

    options = ("--partition-by", "day", "--incremental")
    first, second = mp(*options), mp(*options)
    assert (0, "") == (first.returncode, first.stdout)
    assert f"brought {lake} up to date with events: 3 days written, 0 kept, 0 removed\n" == (
        first.stderr
    )
    assert "0 days written, 3 kept, 0 removed\n" in second.stderr
    wrong = mp("--incremental")
    assert 3 == wrong.returncode
    assert "--incremental needs --partition-by day" in wrong.stderr
