"""Lines that cannot be loaded are set aside in a file and counted; the others are loaded."""

import gzip
import json
import logging
import stat
from datetime import UTC, date, datetime

import duckdb
import pytest

from mixpanel.data import Workspace
from mixpanel.data._fetch.plan import Chunk, Filters, Part
from mixpanel.data.exceptions import InterruptedFetchError, TruncatedError, UnreadablePartError
from mixpanel.data.store import Database, part_files, parts
from mixpanel.emulator import Emulator, Fault

pytestmark = pytest.mark.slow

EXPORT = "/api/2.0/export"
ENGAGE = "/api/query/engage"
DAY = date(2026, 1, 1)
ONE_DAY = {"from_date": "2026-01-01", "to_date": "2026-01-01"}
TIME = int(datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp() * 1000)
GOOD = b'{"event":"ok","properties":{"time":%d,"distinct_id":"u"}}' % TIME
REST = b'"properties":{"time":%d}}' % TIME
DEEP = b'{"event":"a","properties":' + b'{"a":' * 200_000 + b"1" + b"}" * 200_001

SET_ASIDE = {
    "event twice": b'{"event":"a","event":"b",' + REST,
    "event twice, once escaped": b'{"event":"a","\\u0065vent":"b",' + REST,
    "event twice, once null": b'{"event":null,"event":"b",' + REST,
    "properties twice": b'{"event":"a","properties":{},' + REST,
    "cut in the middle": b'{"event":"a","prop',
    "two events in one line": GOOD + GOOD,
    "two events with a CR between": GOOD + b"\r" + GOOD,
    "a number": b"5",
    "a list": b"[1,2]",
    "null": b"null",
    "an object without an event": b'{"error":"x"}',
    "a comment": b"// x",
    "a comma after it": GOOD + b",",
    "UTF-16": '{"event":"a"}'.encode("utf-16"),
    "NUL bytes": b"\x00\x00\x00",
    "single quotes": b"{'event':'a'}",
    "nested very deeply": DEEP,
}
LOADED = {
    "a NUL in a name": (b'{"event":"a\x00b",' + REST, "a\x00b"),
    "a NUL as an escape": (b'{"event":"a\\u0000b",' + REST, "a\x00b"),
    "a byte that is not UTF-8": (b'{"event":"a\xffb",' + REST, "a\\xffb"),
    "a byte order mark": (b"\xef\xbb\xbf" + GOOD, "ok"),
    "CRLF": (GOOD + b"\r", "ok"),
    "the same property twice": (b'{"event":"a","properties":{"x":1,"x":2}}', "a"),
    "another key twice": (b'{"event":"a","x":1,"x":2,' + REST, "a"),
    "a key in another case": (b'{"event":"a","Event":"b",' + REST, "a"),
    "the word twice": (b'{"event":"a","properties":{"event":"b","properties":{}}}', "a"),
    "a name that is an object": (b'{"event":{"a":1},' + REST, '{"a":1}'),
    "many digits": (b'{"event":"a","properties":{"n":' + b"9" * 5000 + b"}}", "a"),
    "nested a little deep": (
        b'{"event":"a","properties":' + b'{"a":' * 500 + b"1" + b"}" * 501,
        "a",
    ),
}


@pytest.fixture
def db(tmp_path):
    """Open a database on disk."""
    with Database.open(tmp_path / "a.db") as database:
        yield database


def load(db, body, *, gzipped=False):
    begun = db.begin_events("events", filters=Filters(), mode="new", days=[DAY])
    path = db.parts / f"{begun.key}_{DAY}_{DAY}{'.gz' if gzipped else '.ndjson'}"
    path.write_bytes(gzip.compress(body) if gzipped else body)
    [staged] = begun.stage([Part(path, Chunk(DAY, DAY), len(body), gzip=gzipped)])
    if staged.error is None:
        begun.finish()
    else:
        begun.abandon()
    return staged


def names(db):
    return [name for (name,) in db.sql_rows("SELECT event_name FROM events ORDER BY rowid").rows]


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("defect", SET_ASIDE)
def test_a_line_that_cannot_be_loaded_is_set_aside(db, defect, gzipped):
    """The file has the line unchanged and is private; the events around it are loaded."""
    line = SET_ASIDE[defect]
    staged = load(db, GOOD + b"\n" + line + b"\n\n" + GOOD + b"\n", gzipped=gzipped)
    assert (None, 2, 0, line.count(b"\n") + 1) == (
        staged.error,
        staged.rows,
        staged.repaired,
        staged.unreadable,
    )
    assert ["ok", "ok"] == names(db)
    assert line + b"\n" == staged.kept_in.read_bytes()
    assert db.unreadable == staged.kept_in.parent
    assert 0o600 == stat.S_IMODE(staged.kept_in.stat().st_mode)
    db.drop("events")
    assert not db.unreadable.exists()


@pytest.mark.parametrize("defect", LOADED)
@pytest.mark.parametrize("beside", [b"", SET_ASIDE["event twice"]], ids=["alone", "beside another"])
def test_unusual_lines_with_an_event_are_loaded(db, defect, beside):
    """This holds if another line of the part is set aside, too."""
    line, name = LOADED[defect]
    staged = load(db, GOOD + b"\n" + beside + b"\n" + line + b"\n\r\n  \n" + GOOD + b"\n")
    assert (None, 3, bool(beside)) == (staged.error, staged.rows, staged.unreadable)
    assert ["ok", name, "ok"] == names(db)


def test_a_leading_byte_order_mark_is_not_counted_as_a_repair(db):
    """All lines are loaded."""
    staged = load(db, b"\xef\xbb\xbf" + GOOD + b"\n" + GOOD)
    assert (2, 0, 0) == (staged.rows, staged.repaired, staged.unreadable)


@pytest.mark.parametrize("size", [10_000_000, 17_000_000, 40_000_000])
def test_a_line_that_is_too_long_is_set_aside(db, size):
    """A line over 16 MB is written whole to the file; a shorter one is loaded."""
    line = b'{"event":"a","properties":{"x":"' + b"y" * size + b'"}}'
    staged = load(db, GOOD + b"\n" + line + b"\n" + GOOD + b"\n")
    long = size > parts.MAX_LINE_BYTES
    assert (None, 3 - long, long) == (staged.error, staged.rows, staged.unreadable)
    if long:
        assert line + b"\n" == staged.kept_in.read_bytes()


def test_a_line_that_does_not_fit_into_memory_is_set_aside(tmp_path):
    """The other lines of its day are loaded."""
    line = b'{"event":"a","properties":{"x":"' + b"y" * 15_000_000 + b'"}}'
    with Database.open(tmp_path / "a.db", memory_limit="400MB") as db:
        staged = load(db, GOOD + b"\n" + line + b"\n" + GOOD + b"\n")
    assert (None, 2, 1) == (staged.error, staged.rows, staged.unreadable)


@pytest.mark.parametrize("body", [b"<html>\n<p>please log in\n</html>\n", b"[\n]\n", b"{}\n"])
def test_a_body_without_any_event_is_a_truncated_export(db, body):
    """It is an error page instead of a day of bad lines; nothing of it is kept."""
    staged = load(db, body)
    assert isinstance(staged.error, TruncatedError)
    assert not list(db.unreadable.glob("*"))


def test_unreadable_lines_of_a_database_in_memory_are_removed_on_close():
    """Until then they can be read."""
    with Database.open() as db:
        staged = load(db, GOOD + b"\n5\n" + GOOD)
        assert b"5\n" == staged.kept_in.read_bytes()
    assert not staged.kept_in.exists()


def test_a_part_that_cannot_be_loaded_does_not_affect_others(db, monkeypatch):
    """It is returned with a typed error, also for an unknown defect."""
    begun = db.begin_events("events", filters=Filters(), mode="new", days=[DAY, date(2026, 1, 2)])
    monkeypatch.setattr(parts, "_defect", lambda line: None)  # an unknown defect
    sent = []
    for day, line in ((DAY, SET_ASIDE["event twice"]), (date(2026, 1, 2), GOOD)):
        path = db.parts / f"{begun.key}_{day}_{day}.ndjson"
        path.write_bytes(line + b"\n")
        sent.append(Part(path, Chunk(day, day), 1, gzip=False))
    bad, good = begun.stage(sent)
    assert isinstance(bad.error, UnreadablePartError)
    assert 'duplicate key "event"' in bad.error.message
    assert (None, 1) == (good.error, good.rows)
    assert {date(2026, 1, 2)} == begun.done


# ---- fetching -----------------------------------------------------------------------------------


@pytest.fixture
def emu(monkeypatch):
    """Run an emulator, with credentials in the environment."""
    credentials = {"MP_USERNAME": "u", "MP_SECRET": "s", "MP_PROJECT_ID": "7", "MP_REGION": "us"}
    for name, value in credentials.items():
        monkeypatch.setenv(name, value)
    with Emulator() as running:
        monkeypatch.setenv("MP_BASE_URL", running.url)
        yield running


@pytest.fixture
def ws(emu, tmp_path):
    """Open a workspace with a new database."""
    with Workspace(path=tmp_path / "ws.db") as workspace:
        yield workspace


def test_a_fetch_reports_the_lines_it_set_aside_and_their_file(emu, ws, caplog):
    """They are in the result and the log, and the day is requested once."""
    bad = [SET_ASIDE["event twice"], b"5"]
    emu.play(Fault.status(200, body=b"\n".join([GOOD, *bad, GOOD, b""])), path=EXPORT)
    with caplog.at_level(logging.WARNING, "mixpanel"):
        result = ws.fetch_events("events", **ONE_DAY)
    assert (2, 2, 1) == (result.rows, result.unreadable, result.requests)
    [file] = result.unreadable_files
    assert b"\n".join([*bad, b""]) == (ws.database.unreadable / file).read_bytes()
    assert (
        f"2 lines of the export of 2026-01-01 cannot be read as events; they are kept in {file}"
        in caplog.text
    )
    assert (2, [file]) == (result.to_dict()["unreadable"], result.to_dict()["unreadable_files"])


def test_a_part_that_cannot_be_loaded_is_fetched_again_once(emu, ws, monkeypatch):
    """Then a typed error names its day, and the next call requests it again."""
    monkeypatch.setattr(parts, "_defect", lambda line: None)
    broken = Fault.status(200, body=SET_ASIDE["event twice"] + b"\n")
    emu.play(broken.forever(), path=EXPORT)
    for calls in (2, 4):
        with pytest.raises(InterruptedFetchError, match=r"cannot be loaded: .*duplicate") as raised:
            ws.fetch_events("events", **ONE_DAY)
        assert isinstance(raised.value.__cause__, UnreadablePartError)
        assert calls == len(emu.requests(EXPORT))
    emu.clear_faults()
    emu.play(broken, Fault.status(200, body=GOOD + b"\n"), path=EXPORT)
    assert 1 == ws.fetch_events("events", **ONE_DAY).rows


def test_a_reused_part_that_cannot_be_loaded_is_fetched_again(emu, ws, monkeypatch):
    """Later calls do not fail because of it."""
    begun = ws.database.begin_events("events", filters=Filters(), mode="new", days=[DAY])
    path = ws.database.parts / f"{begun.key}_{DAY}_{DAY}.ndjson"
    path.write_bytes(b'{"event":"a","event":"b"}\n')
    at = datetime(2026, 1, 20, tzinfo=UTC)
    digest = part_files.digest(path)
    ws.database.record_part(begun, Part(path, Chunk(DAY, DAY), 1, False, at, digest))
    begun.stop()
    monkeypatch.setattr(parts, "_defect", lambda line: None)
    emu.play(Fault.status(200, body=GOOD + b"\n"), path=EXPORT)
    assert 1 == ws.fetch_events("events", **ONE_DAY).rows
    assert 1 == len(emu.requests(EXPORT))


def test_a_profile_that_is_too_long_is_set_aside(emu, ws, monkeypatch):
    """It is counted and written to a file; the others of its page are loaded."""
    monkeypatch.setattr("mixpanel.data._fetch.profiles.MAX_LINE_BYTES", 1000)
    people = [
        {"$distinct_id": name, "$properties": {"x": "y" * size}}
        for name, size in (("a", 1), ("b", 2000), ("c", 1))
    ]
    body = json.dumps({"results": people, "page": 0, "page_size": 1000, "total": 3}).encode()
    emu.play(Fault.status(200, body=body), path=ENGAGE)
    result = ws.fetch_profiles("people")
    assert (2, 1) == (result.rows, result.unreadable)
    [file] = result.unreadable_files
    assert "b" == json.loads((ws.database.unreadable / file).read_text())["$distinct_id"]
    assert [("a",), ("c",)] == ws.sql_rows("SELECT distinct_id FROM people ORDER BY ALL").rows


def test_a_page_that_cannot_be_loaded_raises_a_typed_error(db):
    """It is not an error of DuckDB's own."""
    begun = db.begin_profiles("people", filters=Filters(), mode="new")
    path = db.parts / "x.ndjson"
    path.write_bytes(b'{"$distinct_id":"a","$distinct_id":"b"}\n')
    with pytest.raises(UnreadablePartError, match="a page of profiles cannot be loaded") as raised:
        begun.stage(path)
    assert not isinstance(raised.value, duckdb.Error)
    path.write_bytes(b'{"$distinct_id":"a","$properties":{}}\n')
    assert 1 == begun.stage(path).rows
