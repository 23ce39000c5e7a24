"""What a local database withstands: odd paths, odd files beside it, two at a time, other eyes."""

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


# ---- two at a time ------------------------------------------------------------------------------


def test_only_one_load_at_a_time_gets_a_table(db, tmp_path):
    """Neither other filters nor another handle mix theirs in; other tables are free."""
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


@pytest.mark.parametrize("end", ["stop", "abandon", "finish"])
def test_a_load_that_ended_lets_the_next_one_in(db, end):
    """And cannot be gone on with itself."""
    load = begin(db)
    getattr(load, end)()
    with pytest.raises(ConfigError, match="has ended"):
        load.stage([part(db)])
    with pytest.raises(ConfigError, match="has ended"):
        load.finish()
    begin(db, mode="replace").abandon()


def test_a_load_ends_with_its_database(tmp_path):
    """The next handle finds what was staged."""
    with Database.open(tmp_path / "a.db") as db:
        load = begin(db)
        load.stage([part(db)])
    with Database.open(tmp_path / "a.db") as db:
        assert {DAY} == begin(db).done
    assert {DAY} != load.days - {DAY}


def test_two_databases_in_memory_have_nothing_in_common():
    """Each has a table of that name."""
    with Database.open() as one, Database.open() as two:
        loads = [begin(one), begin(two)]
        assert [0, 0] == [load.finish().rows for load in loads]


def test_a_table_cannot_be_dropped_under_a_load(db):
    """What is staged stays."""
    load = begin(db)
    load.stage([part(db)])
    for drop in (lambda: db.drop("Events"), db.drop_all):
        with pytest.raises(ConfigError, match="is running"):
            drop()
    assert 1 == load.finish().rows


@pytest.mark.parametrize("mode", ["new", "replace", "sync"])
def test_a_table_made_meanwhile_is_not_dropped(db, mode):
    """The load refuses to take its place, and what is staged waits."""
    load = begin(db, mode=mode)
    load.stage([part(db)])
    db.sql_rows("CREATE TABLE Events AS SELECT 42 AS mine", write=True)
    with pytest.raises(TableExistsError):
        load.finish()
    assert [(42,)] == db.sql_rows("FROM events").rows
    assert {DAY} == load.done
    db.sql_rows("DROP TABLE Events", write=True)
    assert 1 == load.finish().rows


def test_one_file_may_be_opened_by_many_threads_at_once(tmp_path):
    """Each gets a handle; none meets one that is half open."""
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


def test_closing_one_handle_leaves_the_other_its_folder(tmp_path):
    """Only the last one removes it."""
    with Database.open(tmp_path / "a.db") as one:
        Database.open(tmp_path / "a.db").close()
        assert one.parts.is_dir()
    assert ["a.db"] == [path.name for path in tmp_path.iterdir()]


# ---- paths and other eyes -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["[x]", "a*b", "**", "[", "it's", "a b", '"q"', "{a,b}", "ž"])
def test_a_folder_may_have_any_name(tmp_path, name):
    """A folder that the name would match as a pattern is not looked into."""
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
    """Behind a ? it looks for options, and would lose what was written."""
    with pytest.raises(ConfigError, match=r"has a \? in it"):
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


@pytest.mark.skipif(os.name != "posix", reason="rights are of POSIX")
@pytest.mark.parametrize("umask", ["000", "022", "777"])
def test_a_database_is_its_owners_alone(tmp_path, umask):
    """Whatever the umask: the file, what waits to be written into it, and the folders."""
    command = [sys.executable, "-c", PRIVATE, str(tmp_path), umask]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert ["['0o600', '0o700'] 4"] * 2 == said.splitlines()


@pytest.mark.skipif(os.name != "posix", reason="rights are of POSIX")
def test_rights_that_somebody_gave_are_kept(tmp_path):
    """Who shares a database shares what waits beside it."""
    path = tmp_path / "a.db"
    Database.open(path).close()
    path.chmod(0o640)
    with Database.open(path) as db:
        db.sql_rows("CREATE TABLE t AS SELECT 1", write=True)
        modes = [stat.S_IMODE(p.stat().st_mode) for p in (path, tmp_path / "a.db.wal")]
        assert [0o640, 0o640] == modes


# ---- what lies in the folder of parts -----------------------------------------------------------


def names(db):
    return sorted(path.name for path in db.parts.iterdir())


def left(db, name):
    (db.parts / name).write_text(json.dumps(EVENT) + "\n")
    return name


def test_beginning_a_load_sweeps_what_nobody_comes_back_for(db):
    """Parts of other filters and of dead processes go; those of other tables and strangers stay."""
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


def test_dropping_a_table_drops_its_parts(db):
    """Of every filter, and of no other table."""
    begin(db).finish()
    left(db, f"events-append-{'0' * 16}_{DAY}_{DAY}.gz")
    other = left(db, f"others-append-{'0' * 16}_{DAY}_{DAY}.gz")
    db.drop("EVENTS")
    assert [other] == names(db)
    begin(db, "others").finish()
    left(db, other)
    db.drop_all()
    assert [] == names(db)


def test_what_is_left_over_is_read_by_its_name(db):
    """Whole parts come with their days and age; what is broken or a folder is passed over."""
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
    assert sorted([whole, strange, f"{load.key}_{NEXT}_{NEXT}.gz"]) == names(db)


def test_a_day_counts_from_when_it_was_received(db):
    """Not from when a later run loaded it; a moment to come does not count."""
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


# ---- databases of others ------------------------------------------------------------------------


def test_a_database_without_a_ledger_is_read(tmp_path):
    """Tables of the package before this one have no days."""
    with duckdb.connect(str(tmp_path / "old.db")) as old:
        old.execute("CREATE TABLE events AS SELECT 1 AS i")
        columns = "table_name VARCHAR, type VARCHAR, fetched_at TIMESTAMP, from_date DATE"
        old.execute(f"CREATE TABLE _metadata ({columns}, to_date DATE, row_count BIGINT)")
        old.execute("INSERT INTO _metadata VALUES ('events', 'events', now(), NULL, NULL, 1)")
    with Database.open(tmp_path / "old.db", read_only=True) as db:
        assert ["events"] == [table.name for table in db.tables()]
        assert {} == db.fetched_days("events")
        assert set() == db.staged_days("events", NONE, "new")


def test_dropping_needs_no_metadata(db):
    """A table without a note of it can go."""
    db.sql_rows("CREATE TABLE t AS SELECT 1", write=True)
    for own in ("_metadata", "_ledger"):
        db.connection.execute(f"DROP TABLE {own}")
    db.drop("t")
    assert [] == db.tables()


def test_half_a_character_in_sql_is_an_error_of_sql(db):
    """As anything else that is no text."""
    for query in ("SELECT '\ud800'", "\udfff", 5, None, b"SELECT 1"):
        with pytest.raises(SQLError):
            db.sql_rows(query)
    with pytest.raises(SQLError):
        db.sql_rows("SELECT ?", ["\ud800"])


# ---- exports ------------------------------------------------------------------------------------


def test_an_export_does_not_write_over_the_database(db, tmp_path):
    """Under whatever name it is reached."""
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


def test_nor_does_one_through_fsspec(db):
    """A scheme may lead here, too."""
    pytest.importorskip("fsspec")
    begin(db).finish()
    with pytest.raises(ConfigError, match="the database itself"):
        db.export_csv("events", f"file://{db.path}", overwrite=True)


def test_an_interrupted_export_keeps_the_old_one(db, tmp_path, monkeypatch):
    """Between the two renames neither is in place."""
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


def test_neither_headers_nor_hidden_formulas_of_a_csv_run(db, tmp_path):
    """Also behind white space; numbers stay numbers."""
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
