"""Exports of tables as Parquet and CSV, to local files and object storage."""

import csv
import json
import os
import sys
from datetime import date, timedelta
from pathlib import Path

import duckdb
import pytest

from mixpanel.data._fetch.plan import Chunk, Filters, Part
from mixpanel.data.exceptions import ConfigError, UnsafeSQLError
from mixpanel.data.store import Database

DAY = date(2026, 1, 1)
MIDNIGHT = 1_767_225_600_000


@pytest.fixture
def db(tmp_path):
    """Open a database with three days of events, one of them empty."""
    with Database.open(tmp_path / "a.db") as database:
        last = DAY + timedelta(days=2)
        path = database.parts / "part"
        with path.open("w") as file:
            for n in (0, 1, 2 * 86_400_000):
                found = {"time": MIDNIGHT + n, "distinct_id": f"=u{n}", "v": 'x,"y"'}
                file.write(json.dumps({"event": "-1", "properties": found}) + "\n")
        load = database.begin_events(
            "events", filters=Filters(), mode="new", days=list(Chunk(DAY, last))
        )
        load.stage([Part(path, Chunk(DAY, last), 1, gzip=False)])
        load.finish()
        path.unlink()
        yield database


def read(pattern, columns="*"):
    query = (
        f"SELECT {columns} FROM read_parquet('{pattern}', hive_partitioning = true) ORDER BY ALL"
    )
    with duckdb.connect() as connection:
        return connection.execute(query).fetchall()


@pytest.mark.slow
def test_parquet_has_a_folder_a_day(db, tmp_path):
    """Another Parquet reader finds the same rows, and properties as plain text."""
    written = db.export_parquet("events", tmp_path / "lake")
    assert ["day=2026-01-01", "day=2026-01-03"] == sorted(
        p.name for p in (tmp_path / "lake").iterdir()
    )
    assert 2 == len(written)
    expected = db.sql_rows("SELECT * FROM events ORDER BY ALL").rows
    columns = "event_name, event_time, distinct_id, insert_id, properties"
    assert expected == read(f"{tmp_path}/lake/*/*.parquet", columns)
    by_day = read(f"{tmp_path}/lake/*/*.parquet", "day")
    assert [DAY, DAY, DAY + timedelta(days=2)] == [day for (day,) in by_day]
    assert [] == list(db.parts.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["week.parquet", "Week.PARQUET"])
def test_a_partitioned_export_to_a_path_like_a_file_is_refused(db, tmp_path, name):
    """The error names partition_by=None, which writes one file."""
    path = tmp_path / name
    for where in (path, str(path), f"memory://bucket/{name}"):
        with pytest.raises(
            ConfigError, match=r"like a file: .*; partition_by=None writes one file"
        ):
            db.export_parquet("events", where, overwrite=True)
    assert not path.exists()
    assert [str(path)] == db.export_parquet("events", path, partition_by=None)


@pytest.mark.slow
def test_overwrite_replaces_earlier_exports_only(db, tmp_path):
    """Without overwrite=True nothing is replaced, and never files that no export created."""
    lake = tmp_path / "lake"
    db.export_parquet("events", lake)
    before = sorted(lake.rglob("*.parquet"))
    with pytest.raises(ConfigError, match=r"already exists: .*; overwrite=True replaces"):
        db.export_parquet("events", lake)
    assert before == sorted(lake.rglob("*.parquet"))
    db.export_parquet("events", lake, overwrite=True)
    after = sorted(lake.rglob("*.parquet"))
    assert (2, set()) == (len(after), set(before) & set(after))
    (lake / "day=2026-01-01" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="thesis"):
        db.export_parquet("events", lake, overwrite=True)
    assert after == sorted(lake.rglob("*.parquet"))
    with pytest.raises(ConfigError, match="which is a folder"):
        db.export_csv("events", lake, overwrite=True)
    assert ["a.db", "a.db.parts", "lake"] == sorted(
        p.name for p in tmp_path.iterdir() if p.suffix != ".wal"
    )


@pytest.mark.slow
def test_a_table_without_event_time_is_exported_as_one_file(db, tmp_path):
    """Profiles have no time to partition by."""
    db.begin_profiles("users", filters=Filters(), mode="new").finish()
    with pytest.raises(ConfigError, match="partition_by=None"):
        db.export_parquet("users", tmp_path / "users")
    [written] = db.export_parquet("users", tmp_path / "new" / "users.parquet", partition_by=None)
    assert [] == read(written)
    db.export_parquet("users", written, partition_by=None, overwrite=True)


@pytest.mark.slow
@pytest.mark.parametrize("partition_by", [None, "day"])
def test_parquet_keeps_the_digits_of_long_integers(db, tmp_path, partition_by):
    """They are decimals there, as DuckDB has them in Arrow; its own export would round them."""
    number = 12345678901234567890123
    query = (
        f"SELECT event_time, {number}::HUGEINT AS big, NULL::UHUGEINT AS none FROM events LIMIT 1"
    )
    path = tmp_path / ("lake" if partition_by else "a.parquet")
    db.export_parquet(None, path, query=query, partition_by=partition_by)
    pattern = f"{path}/**/*.parquet" if partition_by else str(path)
    assert [(number, None)] == [(int(big), none) for big, none in read(pattern, "big, none")]


@pytest.mark.slow
def test_an_empty_table_is_exported_as_an_empty_folder(db, tmp_path):
    """It is not an error."""
    db.begin_events("none", filters=Filters(), mode="new", days=[DAY]).finish()
    assert [] == db.export_parquet("none", tmp_path / "lake")
    assert (tmp_path / "lake").is_dir()


@pytest.mark.slow
def test_formulas_in_csv_cells_become_text(db, tmp_path):
    """A number stays a number."""
    [written] = db.export_csv("events", tmp_path / "events.csv")
    with Path(written).open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [("-1", "'=u0"), ("-1", "'=u1"), ("-1", "'=u172800000")] == [
        (row["event_name"], row["distinct_id"]) for row in found
    ]
    assert {'{"v":"x,\\"y\\""}'} == {row["properties"] for row in found}
    [packed] = db.export_csv("events", tmp_path / "events.csv.gz")
    assert b"\x1f\x8b" == Path(packed).read_bytes()[:2]


@pytest.mark.slow
def test_a_read_only_database_can_be_exported(db, tmp_path):
    """It leaves no folder of parts."""
    db.close()
    with Database.open(tmp_path / "a.db", read_only=True) as reader:
        assert 2 == len(reader.export_parquet("events", tmp_path / "lake"))
        with pytest.raises(UnsafeSQLError):
            reader.sql_rows(f"FROM read_parquet('{tmp_path}/lake/*/*.parquet')")
    assert ["a.db", "lake"] == sorted(p.name for p in tmp_path.iterdir())


@pytest.mark.slow
def test_object_storage_goes_through_fsspec(db):
    """Files are written under new names before the old ones are deleted."""
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    try:
        written = db.export_parquet("events", "memory://bucket/lake")
        assert 2 == len(written) == len(files.find("/bucket/lake"))
        assert all(one.startswith("memory:///bucket/lake/day=2026-01-0") for one in written)
        with pytest.raises(ConfigError, match="already exists"):
            db.export_parquet("events", "memory://bucket/lake")
        again = db.export_parquet("events", "memory://bucket/lake", overwrite=True)
        assert 2 == len(files.find("/bucket/lake"))
        assert not set(written) & set(again)
        files.pipe("/bucket/lake/day=2026-01-01/thesis.txt", b"years of work")
        with pytest.raises(ConfigError, match="thesis"):
            db.export_parquet("events", "memory://bucket/lake", overwrite=True)
        assert ["memory:///bucket/x.csv"] == db.export_csv("events", "memory://bucket/x.csv")
    finally:
        files.rm("/bucket", recursive=True)
    with pytest.raises(ConfigError, match="nothing://"):
        db.export_csv("events", "nothing://x")


@pytest.mark.slow
def test_a_missing_filesystem_package_is_named(db, monkeypatch):
    """The error has the command that installs it."""
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(ConfigError, match="pip install fsspec s3fs"):
        db.export_parquet("events", "s3://bucket/lake")
    with pytest.raises(ConfigError, match="need a path with a scheme"):
        db.export_csv("events", "x.csv", storage_options={"key": "k"})


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs on Windows")
def test_an_export_never_replaces_a_device_or_a_pipe(db, tmp_path):
    """Nor a link to one, such as /dev/stdout; overwrite=True is about files."""
    fifo, link = tmp_path / "fifo", tmp_path / "link"
    os.mkfifo(fifo)
    link.symlink_to(fifo)
    for path in (fifo, link):
        for overwrite in (True, False):
            with pytest.raises(ConfigError, match="is a device or a pipe, not a file"):
                db.export_csv("events", path, overwrite=overwrite)
            with pytest.raises(ConfigError, match="is a device or a pipe, not a file"):
                db.export_parquet("events", path, partition_by=None, overwrite=overwrite)
    assert fifo.is_fifo()
    assert link.is_symlink()
