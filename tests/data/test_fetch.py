"""Fetches of events into DuckDB: complete, without duplicates, and resumable."""

import json
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta

import pytest

from mixpanel.data import AsyncWorkspace, Workspace
from mixpanel.data.exceptions import (
    AuthenticationError,
    ConfigError,
    InterruptedFetchError,
    PlanError,
    QueryError,
    TableExistsError,
    TableNotFoundError,
    TruncatedError,
)
from mixpanel.emulator import Emulator, Fault

pytestmark = pytest.mark.slow

EXPORT = "/api/2.0/export"
FIRST = date(2026, 1, 1)
JANUARY = {"from_date": "2026-01-01", "to_date": "2026-01-31"}
WEEK = {"from_date": "2026-01-01", "to_date": "2026-01-07"}


@pytest.fixture
def emu(monkeypatch):
    """An emulator, with credentials in the environment."""
    account = {"MP_USERNAME": "u", "MP_SECRET": "s", "MP_PROJECT_ID": "7", "MP_REGION": "us"}
    for name, value in account.items():
        monkeypatch.setenv(name, value)
    with Emulator() as running:
        monkeypatch.setenv("MP_BASE_URL", running.url)
        yield running


@pytest.fixture
def ws(emu, tmp_path):
    """A workspace with its own database."""
    with Workspace(path=tmp_path / "ws.db") as workspace:
        yield workspace


def milliseconds(day, second=0):
    """Return a time of the n-th day, in milliseconds."""
    start = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=day, seconds=second)
    return int(start.timestamp() * 1000)


def event(name, day, number, **properties):
    return {
        "event": name,
        "properties": {
            "time": milliseconds(day, number),
            "distinct_id": f"user-{number % 7}",
            "$insert_id": f"{day}-{number}",
            "mp_processing_time_ms": milliseconds(day, number + 60),
            **properties,
        },
    }


def fill(emu, tmp_path, days, a_day=20):
    """Put events of a number of days into the emulator; every tenth day has a duplicate."""
    events = [event("Opened", day, number) for day in range(days) for number in range(a_day)]
    events += [event("Opened", day, 0, late=True) for day in range(0, days, 10)]
    for again in events[-len(range(0, days, 10)) :]:
        again["properties"]["mp_processing_time_ms"] += 5_000
    load(emu, tmp_path, events)
    return days * a_day


def load(emu, tmp_path, events):
    path = tmp_path / "source.ndjson"
    path.write_text("".join(json.dumps(one) + "\n" for one in events))
    emu.load(path)


def exported_days(emu):
    """Return the first and last day of each export call."""
    return [(r.query["from_date"], r.query["to_date"]) for r in emu.requests(EXPORT)]


def source_rows(emu):
    """Return the events in the emulator, each once, as rows."""
    return sorted(
        (e["event"], e["properties"]["time"], e["properties"]["$insert_id"]) for e in emu.events()
    )


def fetched_rows(ws, table="events"):
    return sorted(
        ws.sql_rows(f"SELECT event_name, epoch_ms(event_time), insert_id FROM {table}").rows
    )


def test_a_fetch_stores_each_event_once(emu, ws, tmp_path):
    """Copies of one event are merged, and the one processed last is kept."""
    count = fill(emu, tmp_path, 31)
    result = ws.fetch_events("events", **JANUARY, chunk_days=10)
    assert (result.rows, result.merged, result.requests) == (count, 4, 4)
    assert fetched_rows(ws) == source_rows(emu)
    late = "SELECT count(*) FROM events WHERE properties->>'$.late' = 'true'"
    assert ws.sql_scalar(late) == 4


def test_a_plan_makes_no_call(emu, ws):
    """It returns how many calls a fetch would make."""
    plan = ws.plan_events("events", from_date="2026-01-01", to_date="2026-03-31")
    assert (plan.days, plan.calls, plan.calls_left) == (90, 45, 60)
    assert emu.requests() == []


KILLED = """
import sys
from mixpanel.data import Workspace
with Workspace(path=sys.argv[1]) as ws:
    ws.fetch_events(
        "events", from_date="2026-01-01", to_date="2026-03-31", chunk_days=6,
        progress=lambda progress: print(progress.steps_done, flush=True),
    )
"""


def test_a_killed_fetch_continues_where_it_stopped(emu, tmp_path):
    """Three months, kill -9 in the middle, run again: complete, and no finished chunk twice."""
    fill(emu, tmp_path, 90)
    path = tmp_path / "killed.db"
    emu.play(Fault.silence() * 20, path=EXPORT, when=lambda r: r.query["from_date"] >= "2026-02-01")
    command = [sys.executable, "-c", KILLED, path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as killed:
        assert any(int(days_done) >= 30 for days_done in killed.stdout)
        killed.kill()
    emu.clear_faults()
    before = exported_days(emu)
    with Workspace(path=path) as ws:
        assert [table.state for table in ws.tables()] == ["incomplete"]
        plan = ws.plan_events("events", from_date="2026-01-01", to_date="2026-03-31", chunk_days=6)
        result = ws.fetch_events(
            "events", from_date="2026-01-01", to_date="2026-03-31", chunk_days=6
        )
        again = exported_days(emu)[len(before) :]
        assert 0 < plan.already_done < 90
        assert not {str(FIRST + timedelta(days=n)) for n in range(plan.already_done)} & {
            first for first, _ in again
        }
        assert result.requests == len(again)
        assert len(again) < 15
        assert fetched_rows(ws) == source_rows(emu)
        assert [table.state for table in ws.tables()] == ["complete"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault.terminated_early(),
        Fault.terminated_early(after=0),
        Fault.truncated(at=0.5),
        Fault.truncated(at=0.5, declared=False),
        Fault.reset("answering"),
        Fault.status(500),
        Fault.status(503),
        Fault.status(429, retry_after=0),
        Fault.html(),
    ],
    ids=lambda fault: fault.name,
)
def test_a_transient_fault_leaves_no_trace(emu, ws, tmp_path, fault):
    """The call is repeated, and the table equals the source."""
    fill(emu, tmp_path, 7)
    emu.play(fault, path=EXPORT)
    ws.fetch_events("events", **WEEK, chunk_days=7)
    assert fetched_rows(ws) == source_rows(emu)
    assert len(exported_days(emu)) == 2


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, QueryError),
        (401, AuthenticationError),
        (402, PlanError),
        (403, QueryError),
        (404, QueryError),
    ],
)
def test_a_rejected_call_is_raised_without_a_retry(emu, ws, tmp_path, status, error):
    """Repeating would not help; no partial table is visible."""
    fill(emu, tmp_path, 7)
    emu.play(Fault.status(status).forever(), path=EXPORT)
    with pytest.raises(error) as raised:
        ws.fetch_events("events", **WEEK, chunk_days=7)
    assert (raised.value.status_code, len(exported_days(emu))) == (status, 1)
    assert "events" not in [table.name for table in ws.tables() if table.state == "complete"]
    with pytest.raises(QueryError):
        ws.sql_rows("SELECT * FROM events")


def test_a_day_that_keeps_failing_is_named(emu, ws, tmp_path):
    """The others are kept, no partial table is visible, and the next run fetches that day alone."""
    fill(emu, tmp_path, 7)
    broken = {"when": lambda r: r.query["from_date"] == "2026-01-03", "path": EXPORT}
    emu.play(Fault.terminated_early().forever(), **broken)
    with pytest.raises(InterruptedFetchError, match="terminated early") as raised:
        ws.fetch_events("events", **WEEK)
    assert raised.value.failed_date_ranges == [("2026-01-03", "2026-01-03")]
    assert isinstance(raised.value.__cause__, TruncatedError)
    with pytest.raises(QueryError):
        ws.sql_rows("SELECT * FROM events")
    emu.clear_faults()
    before = len(exported_days(emu))
    ws.fetch_events("events", **WEEK)
    assert exported_days(emu)[before:] == [("2026-01-03", "2026-01-03")]
    assert fetched_rows(ws) == source_rows(emu)


def test_replacing_keeps_the_old_table_until_the_end(emu, ws, tmp_path):
    """A failed fetch loses no existing data."""
    fill(emu, tmp_path, 7)
    ws.fetch_events("events", **WEEK, chunk_days=7)
    emu.play(Fault.status(403), path=EXPORT)
    with pytest.raises(QueryError):
        ws.fetch_events("events", **JANUARY, chunk_days=31, replace=True)
    assert fetched_rows(ws) == source_rows(emu)
    load(emu, tmp_path, [event("Paid", 20, 1)])
    result = ws.fetch_events("events", **JANUARY, chunk_days=31, replace=True)
    assert result.rows == len(source_rows(emu)) == len(fetched_rows(ws))


def test_existing_tables_are_checked_before_any_call(emu, ws, tmp_path):
    """A refused fetch costs nothing of the rate limit."""
    fill(emu, tmp_path, 7)
    ws.fetch_events("events", **WEEK, chunk_days=7)
    before = len(exported_days(emu))
    with pytest.raises(TableExistsError):
        ws.fetch_events("events", **WEEK)
    with pytest.raises(TableNotFoundError):
        ws.fetch_events("others", **WEEK, append=True)
    with pytest.raises(ConfigError, match="filters"):
        ws.fetch_events("events", **WEEK, append=True, events=["Opened"])
    assert len(exported_days(emu)) == before


def test_appending_the_same_days_changes_nothing(emu, ws, tmp_path):
    """A day is replaced as a whole, including events without an id."""
    fill(emu, tmp_path, 7)
    anonymous = event("Nameless", 3, 5)
    del anonymous["properties"]["$insert_id"]
    load(emu, tmp_path, [anonymous, anonymous])
    ws.fetch_events("events", **WEEK, chunk_days=7)
    before = ws.sql_rows("SELECT * FROM events ORDER BY ALL").rows
    ws.fetch_events("events", **WEEK, chunk_days=7, append=True)
    assert ws.sql_rows("SELECT * FROM events ORDER BY ALL").rows == before
    assert ws.sql_scalar("SELECT count(*) FROM events WHERE insert_id IS NULL") == 2


@pytest.mark.parametrize("limit", [1, 15, 25, 1000])
def test_a_limit_is_exact(emu, ws, tmp_path, limit):
    """Neither fewer nor more, in a fetch and in a stream."""
    count = fill(emu, tmp_path, 3)
    days = {"from_date": "2026-01-01", "to_date": "2026-01-03"}
    assert ws.fetch_events("few", **days, limit=limit).rows == min(limit, count)
    assert len(fetched_rows(ws, "few")) == min(limit, count)
    streamed = list(ws.stream_events(**days, limit=limit))
    assert len(streamed) == min(limit, len(emu.events(raw=True)))


def test_an_empty_range_is_an_empty_table(emu, ws):
    """Days without events count as fetched."""
    assert ws.fetch_events("events", **WEEK, chunk_days=7).rows == 0
    assert ws.sql_scalar("SELECT count(*) FROM events") == 0


def test_filters_reach_the_server(emu, ws, tmp_path):
    """A name may contain a comma, and `where` is an expression of Mixpanel's."""
    load(
        emu,
        tmp_path,
        [
            event("Paid, at last", 0, 1, plan="team"),
            event("Paid, at last", 0, 2, plan="free"),
            event("Opened", 0, 3, plan="team"),
        ],
    )
    result = ws.fetch_events(
        "some", **WEEK, chunk_days=7,
        events=["Paid, at last"], where='properties["plan"] == "team"',
    )  # fmt: skip
    assert result.rows == 1
    assert ws.tables()[0].filters == (
        {"events": ["Paid, at last"], "where": 'properties["plan"] == "team"'},
    )


ODD = [
    {"line separator": "a\u2028b\u2029c\u0085d"},
    {"nul": "a\x00b"},
    {"half a pair": "\ud83d alone"},
    {"pair": "\U0001f600"},
    {"long": "x" * 1_000_000},
    {"deep": {"a": [{"b": [1, 2, {"c": None}]}]}},
    {"": "empty name", "$.weird[*]": 1, 'quo"te': 2, "back\\slash": 3},
    {"big": 2**63, "small": -(2**63), "tiny": 5e-324},
]


def test_odd_values_are_kept(emu, ws, tmp_path):
    """All rows arrive unchanged; only an unpaired surrogate is repaired."""
    events = [event("Odd", 0, number, **value) for number, value in enumerate(ODD)]
    path = tmp_path / "odd.ndjson"
    path.write_text("".join(json.dumps(one) + "\n" for one in events))
    raw = path.read_bytes().replace(b"\\u2028", "\u2028".encode())
    serve_raw(emu, raw)
    result = ws.fetch_events("odd", **WEEK, chunk_days=7)
    rows = ws.sql_rows("SELECT insert_id, properties FROM odd").rows
    found = {int(one.partition("-")[2]): json.loads(text) for one, text in rows}
    assert (len(found), result.repaired) == (len(ODD), 1)
    for number, value in enumerate(ODD):
        expected = {k: "\ufffd alone" if k == "half a pair" else v for k, v in value.items()}
        assert {k: found[number].get(k) for k in expected} == expected


def serve_raw(emu, body):
    """Make these bytes the next export."""
    emu.play(Fault.status(200, body=body), path=EXPORT)


def test_events_with_odd_times_and_ids_are_kept(emu, ws):
    """A value that does not fit its column is NULL there, and counted."""
    lines = [
        {"event": "A", "properties": {"time": milliseconds(0), "distinct_id": 17}},
        {"event": "B", "properties": {"time": milliseconds(0), "distinct_id": None}},
        {"event": "C", "properties": {"distinct_id": "u"}},
        {"event": "D", "properties": {"time": "yesterday", "distinct_id": "u"}},
    ]
    serve_raw(emu, b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    result = ws.fetch_events("odd", **WEEK, chunk_days=7)
    assert (result.rows, result.without_time) == (4, 2)
    assert sorted(ws.sql_rows("SELECT event_name, distinct_id FROM odd").rows, key=str) == [
        ("A", "17"),
        ("B", None),
        ("C", "u"),
        ("D", "u"),
    ]


# ---- keeping up to date -------------------------------------------------------------------------


def test_a_sync_fetches_new_days_and_those_that_may_have_changed(emu, ws, tmp_path):
    """Late events of the last days are included; repeating it changes nothing."""
    today = datetime.now(UTC).date()
    start = (today - FIRST).days - 20
    load(emu, tmp_path, [event("Opened", start + day, 1) for day in range(18)])
    until = {"to_date": today - timedelta(days=3)}
    ws.sync_events("events", from_date=today - timedelta(days=20), **until, chunk_days=30)
    late, old = event("Late", start + 16, 2), event("Too late", start + 2, 2)
    load(emu, tmp_path, [late, old, event("New", start + 20, 1)])
    before = len(exported_days(emu))
    ws.sync_events("events", chunk_days=30)
    assert exported_days(emu)[before:] == [(str(today - timedelta(days=5)), str(today))]
    names = "SELECT event_name FROM events WHERE event_name <> 'Opened' ORDER BY 1"
    assert ws.sql_rows(names).rows == [("Late",), ("New",)]
    table = ws.sql_rows("SELECT * FROM events ORDER BY ALL").rows
    ws.sync_events("events", chunk_days=30)
    assert ws.sql_rows("SELECT * FROM events ORDER BY ALL").rows == table


def test_a_first_sync_needs_a_from_date(emu, ws):
    """How far back to fetch cannot be guessed."""
    with pytest.raises(ConfigError, match="from_date"):
        ws.sync_events("events")
    assert emu.requests() == []


# ---- streams ------------------------------------------------------------------------------------


def test_a_stream_yields_each_event_as_sent(emu, ws, tmp_path):
    """Including copies; times are aware, and promoted keys are not repeated in the properties."""
    fill(emu, tmp_path, 7)
    rows = list(ws.stream_events(**WEEK))
    assert len(rows) == len(emu.events(raw=True))
    assert rows[0]["event_time"].tzinfo is UTC
    assert not {"time", "distinct_id", "$insert_id"} & rows[0]["properties"].keys()
    raw = list(ws.stream_events(**WEEK, raw=True))
    assert sorted(raw[0]) == ["event", "properties"]


def test_a_stream_yields_no_event_twice_after_a_fault(emu, ws, tmp_path):
    """A day is downloaded completely before its first event is yielded."""
    fill(emu, tmp_path, 7)
    emu.play(
        Fault.terminated_early(), Fault.truncated(at=0.5), Fault.reset("answering"), path=EXPORT
    )
    ids = [row["insert_id"] for row in ws.stream_events(**WEEK)]
    assert len(ids) == len(emu.events(raw=True))
    emu.play(Fault.terminated_early().forever(), path=EXPORT)
    with pytest.raises(TruncatedError, match="terminated early"):
        list(ws.stream_events(**WEEK))


def test_a_stream_that_is_left_early_cleans_up(emu, ws, tmp_path):
    """No files and no connections are left; an open one would raise a warning."""
    fill(emu, tmp_path, 7)
    stream = ws.stream_events(**WEEK)
    assert next(stream)["event_name"] == "Opened"
    stream.close()


# ---- async --------------------------------------------------------------------------------------


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


@pytest.mark.anyio
async def test_async_workspace_fetches_on_asyncio_and_trio(emu, tmp_path, anyio_backend):
    """Callbacks that fail do not stop the fetch."""
    fill(emu, tmp_path, 7)
    steps = []

    def fail(progress):
        steps.append(progress)
        raise RuntimeError("a callback of the caller's")

    async with AsyncWorkspace(path=tmp_path / "async.db") as ws:
        result = await ws.fetch_events("events", **WEEK, progress=fail, on_batch_complete=fail)
        assert fetched_rows(ws) == source_rows(emu)
        assert result.rows == 140
        streamed = [row async for row in ws.stream_events(**WEEK)]
        assert len(streamed) == len(emu.events(raw=True))
    assert len(steps) > 7


@pytest.mark.parametrize(
    "wrong",
    [
        {"from_date": "2026-02-01", "to_date": "2026-01-01"},
        {"from_date": "tomorrow", "to_date": "2026-01-01"},
        {**WEEK, "limit": 0},
        {**WEEK, "limit": 100_001},
        {**WEEK, "append": True, "replace": True},
        {**WEEK, "name": "a b; DROP TABLE x"},
        {**WEEK, "name": "_ledger"},
        {**WEEK, "events": [""]},
        {**WEEK, "project_timezone": "Mars/Olympus"},
        {**WEEK, "max_workers": 0},
        {**WEEK, "chunk_days": 101},
    ],
)
def test_invalid_arguments_cost_no_call(emu, ws, wrong):
    """They are refused before anything is sent."""
    with pytest.raises(ConfigError):
        ws.fetch_events(**wrong)
    assert emu.requests() == []
