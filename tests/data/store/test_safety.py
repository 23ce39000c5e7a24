"""Safety of the local database: concurrency, permissions, paths and other files in its folder."""

import csv
import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from mixpanel.data._fetch.plan import Chunk, Filters, Part
from mixpanel.data.exceptions import ConfigError, SQLError, TableExistsError
from mixpanel.data.store import Database

DAY = date(2026, 1, 1)
NEXT = DAY + timedelta(days=1)
NONE = Filters()
EVENT = {"event": "E", "properties": {"time": 1_767_225_600_000, "distinct_id": "u"}}


@pytest.fixture
def db(tmp_path):
    """Open a database on disk."""
    with Database.open(tmp_path / "a.db") as database:
        yield database


def begin(db, name="events", filters=NONE, mode="new", days=(DAY,), **more):
    return db.begin_events(name, filters=filters, mode=mode, days=days, **more)


def part(db, name="part", received_at=None, **properties):
    """Write one event of DAY as a part file."""
    path = db.parts / name
    sent = {**EVENT, "properties": {**EVENT["properties"], **properties}}
    path.write_text(json.dumps(sent) + "\n")
    return Part(path, Chunk(DAY, DAY), 1, gzip=False, received_at=received_at)


# ---- concurrency --------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_table_has_one_load_at_a_time(db, tmp_path):
    """A second one is refused, also from another handle; other tables are not affected."""
    load = begin(db, filters=Filters(events=("A",)))
    with Database.open(tmp_path / "a.db") as other:
        for handle in (db, other):
            for filters in (Filters(events=("A",)), Filters(events=("B",))):
                with pytest.raises(ConfigError, match="a fetch into events is running"):
                    begin(handle, "events", filters)
            with pytest.raises(ConfigError, match="is running"):
                handle.begin_profiles("events", filters=NONE, mode="new")
        begin(other, "others").abandon()
    assert 1 == load.stage([part(db)])[0].rows
    assert 1 == load.finish().rows
    assert set() == begin(db, mode="replace").done


@pytest.mark.slow
@pytest.mark.parametrize("end", ["stop", "abandon", "finish"])
def test_a_load_can_begin_after_the_last_one_ended(db, end):
    """The ended one cannot be used further."""
    load = begin(db)
    getattr(load, end)()
    with pytest.raises(ConfigError, match="has ended"):
        load.stage([part(db)])
    with pytest.raises(ConfigError, match="has ended"):
        load.finish()
    begin(db, mode="replace").abandon()


@pytest.mark.slow
def test_closing_the_database_ends_its_loads(tmp_path):
    """The next handle finds the staged days."""
    with Database.open(tmp_path / "a.db") as db:
        load = begin(db)
        load.stage([part(db)])
    with Database.open(tmp_path / "a.db") as db:
        assert {DAY} == begin(db).done
    assert {DAY} != load.days - {DAY}


@pytest.mark.slow
def test_databases_in_memory_are_independent():
    """Both can load a table of one name."""
    with Database.open() as one, Database.open() as two:
        loads = [begin(one), begin(two)]
        assert [0, 0] == [load.finish().rows for load in loads]


@pytest.mark.slow
def test_a_table_cannot_be_dropped_during_a_load(db):
    """The staged rows are kept."""
    load = begin(db)
    load.stage([part(db)])
    for drop in (lambda: db.drop("Events"), db.drop_all):
        with pytest.raises(ConfigError, match="is running"):
            drop()
    assert 1 == load.finish().rows


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["new", "replace", "sync"])
def test_a_table_created_during_a_load_is_not_replaced(db, mode):
    """The load raises, and keeps its staged rows."""
    load = begin(db, mode=mode)
    load.stage([part(db)])
    db.sql_rows("CREATE TABLE Events AS SELECT 42 AS mine", write=True)
    with pytest.raises(TableExistsError):
        load.finish()
    assert [(42,)] == db.sql_rows("FROM events").rows
    assert {DAY} == load.done
    db.sql_rows("DROP TABLE Events", write=True)
    assert 1 == load.finish().rows


@pytest.mark.slow
def test_many_threads_can_open_one_file_at_once(tmp_path):
    """None of them fails."""
    together, failed = threading.Barrier(8), []

    def opening():
        together.wait()
        try:
            Database.open(tmp_path / "a.db").close()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=opening) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == failed


def test_closing_a_handle_keeps_the_folder_of_others(tmp_path):
    """The last one removes it."""
    with Database.open(tmp_path / "a.db") as one:
        Database.open(tmp_path / "a.db").close()
        assert one.parts.is_dir()
    assert ["a.db"] == [path.name for path in tmp_path.iterdir()]


# ---- paths and permissions ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["[x]", "a*b", "**", "[", "it's", "a b", '"q"', "{a,b}", "ž"])
def test_a_folder_can_have_any_name(tmp_path, name):
    """Folders that the name would match as a glob pattern are not read."""
    folder = tmp_path / name
    for sibling in ("x", "axb", "q"):
        (tmp_path / sibling / "k.db.parts").mkdir(parents=True)
        (tmp_path / sibling / "k.db.parts" / "part").write_text(json.dumps(EVENT))
    with Database.open(folder / "k.db") as db:
        load = begin(db)
        assert [None] == [staged.error for staged in load.stage([part(db)])]
        assert 1 == load.finish().rows
        assert 1 == len(db.export_csv("events", folder / "[x] *.csv"))
        assert 1 == len(db.export_parquet("events", folder / "[x] *"))


def test_a_path_that_duckdb_misreads_is_refused(tmp_path):
    """DuckDB reads options after a ?, and the data would be lost."""
    with pytest.raises(ConfigError, match=r"contains a \?"):
        Database.open(tmp_path / "a?b" / "k.db")
    assert [] == list(tmp_path.iterdir())


PRIVATE = """
import os, stat, sys
from pathlib import Path
os.umask(int(sys.argv[2], 8))
from mixpanel.data.store import Database
path = Path(sys.argv[1]) / "new" / "a.db"
with Database.open(path) as db:
    for n in range(2):
        db.sql_rows(f"CREATE TABLE t{n} AS SELECT 1", write=True)
        found = [p for p in path.parent.rglob("*")] + [path.parent]
        print(sorted({oct(stat.S_IMODE(p.stat().st_mode)) for p in found}), len(found))
        db.sql_rows("CHECKPOINT", write=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
@pytest.mark.parametrize("umask", ["000", "022", "777"])
def test_a_database_is_private_to_its_owner(tmp_path, umask):
    """This covers the file, its write-ahead log and the folders, with any umask."""
    command = [sys.executable, "-c", PRIVATE, str(tmp_path), umask]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert ["['0o600', '0o700'] 4"] * 2 == output.splitlines()


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_changed_permissions_are_kept(tmp_path):
    """The write-ahead log gets those of the database."""
    path = tmp_path / "a.db"
    Database.open(path).close()
    path.chmod(0o640)
    with Database.open(path) as db:
        db.sql_rows("CREATE TABLE t AS SELECT 1", write=True)
        modes = [stat.S_IMODE(p.stat().st_mode) for p in (path, tmp_path / "a.db.wal")]
        assert [0o640, 0o640] == modes


# ---- the folder of parts ------------------------------------------------------------------------


def names(db):
    return sorted(path.name for path in db.parts.iterdir())


def left(db, name):
    (db.parts / name).write_text(json.dumps(EVENT) + "\n")
    return name


@pytest.mark.slow
def test_beginning_a_load_removes_stale_files(db):
    """Parts of other filters and files of dead processes go; other tables' and users' stay."""
    key = begin(db).key
    other = f"events-new-{'0' * 16}"
    kept = [
        left(db, f"{key}_{DAY}_{DAY}.gz"),
        left(db, f"others-new-{'0' * 16}_{DAY}_{DAY}.gz"),
        left(db, "events-notes.txt"),
        left(db, f"{key}_x.ndjson"),
        f"spill-{os.getpid()}",
    ]
    for day in ("_2026-01-01_2026-01-01.gz", "_3.ndjson", "_2026-01-01_2026-01-01.partial"):
        left(db, other + day)
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    for folder in (f"spill-{dead.pid}", f"export-{dead.pid}-ab", f"spill-{os.getpid()}"):
        (db.parts / folder).mkdir()
        (db.parts / folder / "x").touch()
    begin(db)
    assert sorted(kept) == names(db)


@pytest.mark.slow
def test_dropping_a_table_drops_its_parts(db):
    """Parts of all filters are removed, and those of other tables stay."""
    begin(db).finish()
    left(db, f"events-append-{'0' * 16}_{DAY}_{DAY}.gz")
    other = left(db, f"others-append-{'0' * 16}_{DAY}_{DAY}.gz")
    db.drop("EVENTS")
    assert [other] == names(db)
    begin(db, "others").finish()
    left(db, other)
    db.drop_all()
    assert [] == names(db)


def test_reusable_parts_are_found_by_name(db):
    """Complete parts have their days and time; others and folders are ignored."""
    load = begin(db, days=[DAY, NEXT])
    whole = left(db, f"{load.key}_{DAY}_{NEXT}.ndjson")
    digest = hashlib.sha256((db.parts / whole).read_bytes()).hexdigest()
    at = datetime.fromtimestamp(1000, UTC)
    sent = Part(db.parts / whole, Chunk(DAY, NEXT), 1, gzip=False, received_at=at, digest=digest)
    db.record_part(load, sent)
    left(db, f"{load.key}_{DAY}_{DAY}.partial")
    left(db, f"{load.key}_2026-13-01_2026-13-02.gz")
    strange = left(db, f"{load.key}_x.ndjson")
    (db.parts / f"{load.key}_{NEXT}_{NEXT}.gz").mkdir()
    [found] = db.reusable_parts(load)
    assert (Chunk(DAY, NEXT), False) == (found.chunk, found.gzip)
    assert at == found.received_at
    kept = [whole, strange, f"{load.key}_{NEXT}_{NEXT}.gz", "events.lock"]
    assert sorted(kept) == names(db)


@pytest.mark.slow
def test_the_age_of_a_day_counts_from_its_receipt(db):
    """It does not count from a later load; a time in the future is not accepted."""
    load = begin(db)
    at = datetime(2026, 1, 2, 3, tzinfo=UTC)
    load.stage([part(db, received_at=at)])
    load.finish()
    assert {DAY: at} == db.fetched_days("events")
    ahead = begin(db, "ahead", now=datetime(2099, 1, 1, tzinfo=UTC))
    ahead.stage([part(db)])
    assert set() == db.staged_days("ahead", NONE, "new")
    ahead.stop()
    assert set() == begin(db, "ahead").done


# ---- databases of other programs ----------------------------------------------------------------


@pytest.mark.slow
def test_a_database_without_a_fetch_log_can_be_read(tmp_path):
    """Tables of the previous package have no days."""
    with duckdb.connect(str(tmp_path / "old.db")) as old:
        old.execute("CREATE TABLE events AS SELECT 1 AS i")
        columns = "table_name VARCHAR, type VARCHAR, fetched_at TIMESTAMP, from_date DATE"
        old.execute(f"CREATE TABLE _metadata ({columns}, to_date DATE, row_count BIGINT)")
        old.execute("INSERT INTO _metadata VALUES ('events', 'events', now(), NULL, NULL, 1)")
    with Database.open(tmp_path / "old.db", read_only=True) as db:
        assert ["events"] == [table.name for table in db.tables()]
        assert {} == db.fetched_days("events")
        assert set() == db.staged_days("events", NONE, "new")


@pytest.mark.slow
def test_dropping_needs_no_metadata(db):
    """A table that is not recorded can be dropped."""
    db.sql_rows("CREATE TABLE t AS SELECT 1", write=True)
    for own in ("_metadata", "_ledger"):
        db.connection.execute(f"DROP TABLE {own}")
    db.drop("t")
    assert [] == db.tables()


def test_sql_that_is_not_text_raises_a_sql_error(db):
    """This includes an unpaired surrogate."""
    for query in ("SELECT '\ud800'", "\udfff", 5, None, b"SELECT 1"):
        with pytest.raises(SQLError):
            db.sql_rows(query)
    with pytest.raises(SQLError):
        db.sql_rows("SELECT ?", ["\ud800"])


# ---- exports ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_export_does_not_write_over_the_database(db, tmp_path):
    """This holds for links and other spellings of its path."""
    begin(db).finish()
    (tmp_path / "link").symlink_to(db.path)
    (tmp_path / "hard").hardlink_to(db.path)
    (tmp_path / "folder").mkdir()
    own = [db.path, tmp_path / "link", tmp_path / "hard", tmp_path / "folder" / ".." / "a.db"]
    own += [tmp_path / "a.db.wal", str(db.path)]
    for path in own:
        with pytest.raises(ConfigError, match="the database itself"):
            db.export_csv("events", path, overwrite=True)
        with pytest.raises(ConfigError, match="the database itself"):
            db.export_parquet("events", path, partition_by=None, overwrite=True)


@pytest.mark.slow
def test_an_export_through_fsspec_does_not_write_over_the_database(db):
    """A URL can point to a local file."""
    pytest.importorskip("fsspec")
    begin(db).finish()
    with pytest.raises(ConfigError, match="the database itself"):
        db.export_csv("events", f"file://{db.path}", overwrite=True)


@pytest.mark.slow
def test_an_interrupted_export_keeps_the_old_files(db, tmp_path, monkeypatch):
    """This holds between the two renames, too."""
    load = begin(db)
    load.stage([part(db)])
    load.finish()
    lake = tmp_path / "lake"
    before = db.export_parquet("events", lake)

    def interrupted(self, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "replace", interrupted)
        db.export_parquet("events", lake, overwrite=True)
    assert before == sorted(str(path) for path in lake.rglob("*.parquet"))
    assert [] == [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_formulas_in_csv_headers_and_after_white_space_become_text(db, tmp_path):
    """Numbers stay numbers."""
    db.sql_rows(
        """CREATE TABLE t AS SELECT unnest([e'\\n=1+1', ' =1', '=1', e'\\r@x', '-5', 'a=1']) AS a,
        1 AS "=HYPERLINK(1)", -2 AS "plain" """,
        write=True,
    )
    [written] = db.export_csv("t", tmp_path / "t.csv")
    with Path(written).open(newline="") as file:
        header, *found = csv.reader(file)
    assert ["a", "'=HYPERLINK(1)", "plain"] == header
    assert ["'\n=1+1", "' =1", "'=1", "'\r@x", "-5", "a=1"] == [row[0] for row in found]
    assert {"-2"} == {row[2] for row in found}
