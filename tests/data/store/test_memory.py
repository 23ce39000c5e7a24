"""Loads and statements that need more memory than there is: smaller pieces, or a clear error."""

import gzip
import json
from datetime import date
from pathlib import Path

import duckdb
import pytest

from mixpanel.data._fetch.plan import Chunk, Filters, Part
from mixpanel.data.exceptions import MemoryLimitError
from mixpanel.data.store import Database, event_load, profile_load, staging

DAY = date(2026, 1, 1)
MIDNIGHT = 1_767_225_600_000


def body(rows, names):
    """Return events with many properties, and one duplicate."""
    wide = {f"property {n}": f"value {n} of a property" for n in range(names)}
    lines = []
    for n in range(rows):
        known = {"time": MIDNIGHT + n, "distinct_id": f"u{n % 9}", "$insert_id": f"i{n}", **wide}
        lines.append(json.dumps({"event": "E", "properties": known}).encode() + b"\n")
    return b"".join([*lines, lines[0]])


def load(db, folder, data, *, compressed):
    path = folder / "part"
    path.write_bytes(gzip.compress(data, 1) if compressed else data)
    running = db.begin_events("events", filters=Filters(), mode="new", days=[DAY])
    (staged,) = running.stage([Part(path, Chunk(DAY, DAY), len(data), gzip=compressed)])
    return staged, running


@pytest.mark.slow
@pytest.mark.parametrize("compressed", [True, False])
def test_a_load_without_enough_memory_goes_on_in_pieces(tmp_path, monkeypatch, compressed):
    """Nothing is lost, and duplicates in different pieces are merged."""
    monkeypatch.setattr(staging, "PIECE_BYTES", (100_000, 20_000))
    tried = []
    insert = event_load.Load._insert_files

    def counted(self, paths, *, gzip):
        tried.append(self._piece_bytes)
        insert(self, paths, gzip=gzip)
        if self._piece_bytes is None:
            raise duckdb.OutOfMemoryException("failed to allocate")

    monkeypatch.setattr(event_load.Load, "_insert_files", counted)
    with Database.open(tmp_path / "a.db", memory_limit="200MB", threads=1) as db:
        staged, running = load(db, tmp_path, body(500, 20), compressed=compressed)
        running.finish()
        assert (None, 500, 1) == (staged.error, staged.rows, staged.merged)
        assert 500 == db.sql_scalar("SELECT count(DISTINCT insert_id) FROM events")
    assert tried[:2] == [None, 100_000]
    assert len(tried) > 3


@pytest.mark.slow
@pytest.mark.parametrize("suffices", [100_000, 20_000, 0])
def test_a_load_of_profiles_without_enough_memory_goes_on_in_pieces(
    tmp_path, monkeypatch, suffices
):
    """Later pages begin with such pieces; if none fits, the error is about memory."""
    monkeypatch.setattr(staging, "PIECE_BYTES", (100_000, 20_000))
    insert = profile_load.ProfilesLoad._insert_files
    tried = []

    def limited(self, numbers, *, gzip):
        tried.append(self._piece_bytes)
        insert(self, numbers, gzip=gzip)
        if self._piece_bytes is None or self._piece_bytes > suffices:
            raise duckdb.OutOfMemoryException("failed to allocate")

    monkeypatch.setattr(profile_load.ProfilesLoad, "_insert_files", limited)
    profiles = [{"$distinct_id": f"u{n}", "$properties": {"text": "x" * 400}} for n in range(500)]
    path = tmp_path / "page"
    path.write_text("".join(json.dumps(each) + "\n" for each in [*profiles, profiles[0]]))
    with Database.open() as db:
        load = db.begin_profiles("profiles", filters=Filters(), mode="new")
        if not suffices:
            with pytest.raises(MemoryLimitError, match="memory_limit="):
                load.stage(path)
            assert [None, 100_000, 20_000] == tried
            return
        assert [501, 501] == [load.stage(path).rows, load.stage(path).rows]
        assert 500 == load.finish().rows
        assert 500 == db.sql_scalar("SELECT count(DISTINCT distinct_id) FROM profiles")
    assert (1, suffices) == (tried.count(None), tried[-1])


@pytest.mark.slow
def test_a_statement_without_enough_memory_says_what_helps(tmp_path):
    """The limit, and how to set it in Python and in a shell."""
    with Database.open(tmp_path / "a.db", memory_limit="60MB", threads=1) as db:
        with pytest.raises(MemoryLimitError, match=r"memory_limit='8GB'.*MP_MEMORY_LIMIT"):
            db.sql_rows("SELECT list(md5(range::VARCHAR)) FROM range(1000000)")
        assert 1 == db.sql_scalar("SELECT 1")


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Open a database with text that several threads cannot write within its limit at once."""
    path = tmp_path_factory.mktemp("wide") / "a.db"
    with Database.open(path, memory_limit="200MB", threads=2) as db:
        text = "repeat(md5(range::VARCHAR), 80)"
        db.sql_rows(
            f"CREATE TABLE t AS SELECT range AS n, {text} AS x FROM range(60000)", write=True
        )
        yield db


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "stream", "jsonl"])
def test_an_export_without_enough_memory_writes_fewer_rows_at_a_time(wide, tmp_path, name):
    """All rows once, in their order."""
    if name == "stream":
        with wide.csv_bytes("t") as chunks:
            written = b"".join(chunks)
    elif name == "jsonl":
        with wide.sql_copy("FROM t", "jsonl") as chunks:
            written = b"".join(chunks)
    else:
        (path,) = wide.export_csv("t", tmp_path / name)
        written = Path(path).read_bytes()
        written = gzip.decompress(written) if name.endswith("gz") else written
    lines = written.splitlines()
    if name == "jsonl":
        found = [int(line[5:].partition(b",")[0]) for line in lines]
    else:
        assert b"n,x" == lines.pop(0)
        found = [int(line.partition(b",")[0]) for line in lines]
    assert list(range(60_000)) == found


@pytest.mark.slow
def test_wide_events_load_with_many_threads_and_little_memory(tmp_path):
    """More threads than the memory suffices for."""
    with Database.open(tmp_path / "a.db", memory_limit="250MB", threads=8) as db:
        staged, running = load(db, tmp_path, body(8_000, 150), compressed=True)
        running.finish()
        assert (None, 8_000) == (staged.error, staged.rows)
        assert 1 == len(db.export_csv("events", tmp_path / "x.csv"))
        assert 1 == len(db.export_parquet("events", tmp_path / "lake"))
