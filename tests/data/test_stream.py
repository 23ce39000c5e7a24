"""Streams yield the events that a fetch would store, and no others."""

import json
from pathlib import Path

import pytest

from mixpanel.data import Credentials, Workspace
from mixpanel.data.exceptions import TruncatedError
from mixpanel.emulator import Fault

EXPORT = "/api/2.0/export"
ROBOT = Credentials(username="robot", secret="s3cret", project_id="42")
DAY = {"from_date": "2026-01-01", "to_date": "2026-01-01"}
GOOD = b'{"event":"Opened","properties":{"time":1767225600000,"distinct_id":"u","$insert_id":"g"}}'


@pytest.fixture
def ws(emu):
    """A workspace in memory, on an emulator."""
    with Workspace.memory(credentials=ROBOT, base_url=emu.url) as workspace:
        yield workspace


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        b'{"event":"Opened"}',
        b'{"event":"Opened","properties":null}',
        b'{"properties":{"time":1767225600000,"distinct_id":"u"}}',
        b'{"event":null,"properties":{"distinct_id":null,"$insert_id":null}}',
        b'{"event":"Opened","properties":[1,2]}',
        b'{"event":"Opened","properties":{"time":"soon","distinct_id":7,"$insert_id":8,"n":1}}',
        b'{"event":"Opened","properties":{"time":"1767225600000"}}',
        b'{"event":"Caf\xe9","properties":{"time":1767225600000,"at":"\xff"}}',
        b'{"event":"Opened","properties":{"name":"\\ud83d!","score":NaN,"raw":"a\x01b"}}',
    ],
)
def test_an_odd_event_is_streamed_as_it_would_be_fetched(emu, ws, line):
    """Missing values are None and repairs are the same; the events around it are unchanged."""
    for body in (line + b"\n" + GOOD + b"\n", GOOD + b"\n" + line + b"\n"):
        emu.play(Fault.status(200, body=body))
        streamed = list(ws.stream_events(**DAY))
        emu.play(Fault.status(200, body=body))
        assert 2 == ws.fetch_events(**DAY, replace=True).rows
        columns = "event_name, epoch_ms(event_time), distinct_id, insert_id, properties"
        fetched = ws.sql_rows(f"SELECT {columns} FROM events").rows
        assert sorted_json(map(stored, fetched)) == sorted_json(map(as_row, streamed))


def stored(row):
    *columns, properties = row
    return [*columns, None if properties is None else json.loads(properties)]


def as_row(event):
    time = event.pop("event_time")
    milliseconds = None if time is None else round(time.timestamp() * 1000)
    name, *others = event.values()
    return [name, milliseconds, *others]


def sorted_json(rows):
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("last", [b'{"event":"Open', b'{"error":"terminated early"}', b"[]", b"no"])
def test_a_last_line_that_is_not_an_event_is_a_truncated_export(emu, ws, last):
    """The day is downloaded again, and the final error has the end of the export."""
    whole, cut = (Fault.status(200, body=GOOD + b"\n" + end) for end in (b"", last))
    emu.play(cut, whole, path=EXPORT)
    assert ["g"] == [one["insert_id"] for one in ws.stream_events(**DAY)]
    emu.play(cut.forever(), path=EXPORT)
    with pytest.raises(TruncatedError) as caught:
        list(ws.stream_events(**DAY))
    assert last.decode() == caught.value.tail


def test_raw_events_are_repaired_too(emu, ws):
    """Otherwise they are as Mixpanel sent them."""
    body = b'{"event":"Caf\xe9","properties":{"score":NaN,"time":1}}\n'
    emu.play(Fault.status(200, body=body))
    expected = {"event": "Caf\\xe9", "properties": {"score": None, "time": 1}}
    assert [expected] == list(ws.stream_events(**DAY, raw=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    "broken",
    [
        b'{"event":"Opened","properties":{"name":"a "quote"","time":1767225600000}}\n',
        b'{"event":"Opened","properties":{"name":"cut\n',
    ],
    ids=["quote", "cut"],
)
@pytest.mark.parametrize("where", ["first", "middle", "last", "alone"])
def test_a_permanently_broken_line_is_set_aside(emu, ws, caplog, broken, where):
    """Each download has it, so it is counted and named, and the rest of the day is kept."""
    good = GOOD + b"\n"
    body = {
        "first": broken + good, "middle": good + broken + good.replace(b'"g"', b'"h"'),
        "last": good + broken, "alone": broken,
    }[where]  # fmt: skip
    ids = {"first": ["g"], "middle": ["g", "h"], "last": ["g"], "alone": []}[where]
    emu.play(Fault.status(200, body=body).forever(), path=EXPORT)
    reports = []
    streamed = ws.stream_events(**DAY, on_unreadable=reports.append)
    assert ids == [one["insert_id"] for one in streamed]
    (report,) = reports
    assert (1, DAY["from_date"], DAY["to_date"]) == (
        report.lines, str(report.from_date), str(report.to_date)
    )  # fmt: skip
    assert broken == Path(report.path).read_bytes()
    assert f"cannot be read as events; they are kept in {report.path}" in caplog.text
    result = ws.fetch_events(**DAY)
    assert (len(ids), 1) == (result.rows, result.unreadable)
    (kept,) = result.unreadable_files
    assert broken == Path(kept).read_bytes()


def test_lines_that_a_stream_sets_aside_are_kept_beside_the_database(emu, tmp_path, caplog):
    """Also when it stops at its limit, or the callback fails."""
    path, broken = tmp_path / "a.db", b'{"event":"Opened","properties":{"name":"cut\n'
    emu.play(Fault.status(200, body=broken * 2 + GOOD + b"\n").forever(), path=EXPORT)

    def fail(report):
        raise ValueError(report.lines)

    with Workspace(path=path, credentials=ROBOT, base_url=emu.url) as ws:
        assert 1 == len(list(ws.stream_events(**DAY, limit=1, on_unreadable=fail)))
        (kept,) = (tmp_path / "a.db.unreadable").iterdir()
        assert broken * 2 == kept.read_bytes()
        assert 0o600 == kept.stat().st_mode & 0o777
        assert "callback failed" in caplog.text
    assert not path.exists()
