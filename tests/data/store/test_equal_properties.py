"""A property that an event has twice: the last one counts, in a table as in a stream."""

import gzip
import json
from datetime import date

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixpanel.data import Workspace
from mixpanel.data._fetch import stream
from mixpanel.data._fetch.plan import Chunk, Filters, Part
from mixpanel.data.store import Database, parts
from mixpanel.emulator import Emulator, Fault

DAY = date(2026, 1, 1)
NOON = 1_767_268_800_000
ONE_DAY = {"from_date": "2026-01-01", "to_date": "2026-01-01"}
VALUES = ["1", '"a,b"', '"}"', '{"x": [1, {"y": 2}]}', "null", "1234567890123456789", "[ ]"]
NAMES = ["a", "b", "time", "distinct_id", "$insert_id", "é", "A", "x y"]
KEYS = [json.dumps(name) for name in NAMES] + [r'"\u0074ime"', r'"\u0061"', '"é"', r'"\u00e9"']
SPACES = st.sampled_from(["", " ", "\t"])


@st.composite
def events(draw):
    """Return the text of an event, of which properties may occur several times."""
    pairs = draw(st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(VALUES)), max_size=8))
    space = draw(SPACES)
    inside = ",".join(f"{key}{space}:{space}{value}{space}" for key, value in pairs)
    before = draw(st.sampled_from(["", '"x":[{"time":1},{"time":2}],', '"properties ":{},']))
    return f'{{{before}"event":"A",{space}"properties":{space}{{{space}{inside}}}}}'


def stored(db, body, *, gzipped):
    begun = db.begin_events("events", filters=Filters(), mode="replace", days=[DAY])
    path = db.parts / f"{begun.key}_{DAY}_{DAY}{'.gz' if gzipped else '.ndjson'}"
    path.write_bytes(gzip.compress(body) if gzipped else body)
    [staged] = begun.stage([Part(path, Chunk(DAY, DAY), len(body), gzip=gzipped)])
    assert staged.error is None
    begun.finish()
    found = db.sql_rows("SELECT * FROM events ORDER BY rowid").rows
    return staged, [
        (name, at, user, key, json.loads(properties)) for name, at, user, key, properties in found
    ]


@pytest.fixture(scope="module")
def db(tmp_path_factory):
    """Open one database for all examples."""
    with Database.open(tmp_path_factory.mktemp("db") / "a.db") as database:
        yield database


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(events(), min_size=1, max_size=4, unique=True), st.booleans())
def test_a_table_and_a_stream_have_the_same_events(db, lines, gzipped):
    """Whatever occurs twice, the last one counts; such events are counted as repaired."""
    body = "\n".join(lines).encode() + b"\n"
    staged, found = stored(db, body, gzipped=gzipped)

    def twice(line):
        pairs = []
        json.loads(line, object_pairs_hook=lambda each: pairs.append(each) or dict(each))
        top = dict(pairs[-1])["properties"]
        return any(len({k for k, _ in each}) < len(each) for each in pairs if dict(each) == top)

    streamed = [stream._event(stream._parsed(line.encode())) for line in lines]
    expected = [
        (each["event_name"], each["event_time"], each["distinct_id"], each["insert_id"])
        for each in streamed
    ]
    if staged.merged == 0:
        plain = [(n, None if t is None else t.replace(tzinfo=None), *r) for n, t, *r in expected]
        assert [row[:4] for row in found] == [(name, at, *rest) for name, at, *rest in plain]
        assert [row[4] for row in found] == [each["properties"] for each in streamed]
    assert staged.repaired == sum(map(twice, lines))


@pytest.mark.slow
def test_the_texts_of_other_values_stay(db):
    """Digits, spaces and nested objects are not written anew."""
    line = '{"event":"A","properties":{"n":1,"n":9223372036854775807,"o":{"x": "1.0 "}}}'
    stored(db, line.encode() + b"\n", gzipped=False)
    (text,) = db.sql_rows("SELECT properties FROM events").rows[0]
    assert text == '{"n":9223372036854775807,"o":{"x":"1.0 "}}'


@pytest.mark.parametrize(
    "line",
    [
        '{"event":"A","event":"B","properties":{}}',
        r'{"event":"A","properties":{},"\u0065vent":"B"}',
    ],
)
def test_an_event_with_two_names_is_in_neither(line):
    """A fetch sets it aside, and a stream too."""
    assert stream._parsed(line.encode()) is None
    assert parts.has_key_twice(line.encode())


@pytest.mark.slow
def test_counts_come_with_the_result_of_a_fetch(monkeypatch, tmp_path):
    """As of other lines that were repaired."""
    for name, value in {"USERNAME": "u", "SECRET": "s", "PROJECT_ID": "7"}.items():
        monkeypatch.setenv(f"MP_{name}", value)
    line = b'{"event":"A","properties":{"time":1,"plan":"free","time":%d,"plan":"team"}}\n' % NOON
    with Emulator() as emu, Workspace(base_url=emu.url, path=tmp_path / "a.db") as ws:
        emu.play(Fault.status(200, body=line).forever(), path="/api/2.0/export")
        result = ws.fetch_events("events", **ONE_DAY, progress=False)
        assert (result.rows, result.repaired, result.without_time) == (1, 1, 0)
        plan = ws.sql_scalar(
            "SELECT properties->>'plan' FROM events WHERE event_time >= '2026-01-01'"
        )
        (streamed,) = ws.stream_events(**ONE_DAY)
        assert (plan, streamed["properties"]) == ("team", {"plan": "team"})
