"""Repeated fetches: two at once, the parts of an interrupted one, and complete days."""

import asyncio
import hashlib
import json
from datetime import UTC, date, datetime, timedelta

import pytest

from mixpanel.data import AsyncWorkspace, Workspace
from mixpanel.data._fetch import events
from mixpanel.data._fetch.plan import Chunk, Part
from mixpanel.data._fetch.query import EventQuery, ProfileQuery
from mixpanel.data.exceptions import ConfigError, TableExistsError
from mixpanel.data.store.event_load import Load
from mixpanel.emulator import Emulator, Fault

pytestmark = pytest.mark.slow

EXPORT = "/api/2.0/export"
DAY = date(2026, 1, 1)
ONE_DAY = {"from_date": "2026-01-01", "to_date": "2026-01-01"}


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


def event(name):
    noon = int(datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp() * 1000)
    return {"event": name, "properties": {"time": noon, "distinct_id": "u", "$insert_id": name}}


def load(emu, tmp_path, *names):
    path = tmp_path / "source.ndjson"
    path.write_text("".join(json.dumps(event(name)) + "\n" for name in names))
    emu.load(path)


def exported_days(emu):
    return [(r.query["from_date"], r.query["to_date"]) for r in emu.requests(EXPORT)]


# ---- two at once --------------------------------------------------------------------------------


def test_two_fetches_into_one_table_do_not_mix(emu, tmp_path):
    """The second is refused before any call, also through another workspace."""
    load(emu, tmp_path, "A", "B")
    emu.play(Fault.latency(0.5), path=EXPORT)  # the first has not ended when the others begin

    async def run():
        path = tmp_path / "ws.db"
        async with AsyncWorkspace(path=path) as ws, AsyncWorkspace(path=path) as other:
            ended = await asyncio.gather(
                *(
                    each.fetch_events("events", **ONE_DAY, events=[name])
                    for each, name in ((ws, "A"), (ws, "B"), (other, "B"))
                ),
                return_exceptions=True,
            )
            return ended, ws.sql_rows("SELECT DISTINCT event_name FROM events").rows, ws.tables()

    ended, found, [table] = asyncio.run(run())
    refused = [one for one in ended if isinstance(one, ConfigError)]
    assert (2, 1) == (len(refused), len(found))
    assert all("a fetch into events is running" in str(one) for one in refused)
    assert table.filters == ({"events": [found[0][0]]},)
    assert 1 == len(exported_days(emu))


def test_a_table_created_during_a_fetch_is_kept(emu, ws, tmp_path):
    """Once it is renamed, the fetch can be finished without another call."""
    load(emu, tmp_path, "A")

    def meanwhile(_):
        ws.sql_rows("CREATE TABLE IF NOT EXISTS events AS SELECT 42 AS mine", write=True)

    with pytest.raises(
        TableExistsError, match="with replace=True to replace it or append=True to add"
    ):
        ws.fetch_events("events", **ONE_DAY, on_batch_complete=meanwhile)
    assert [(42,)] == ws.sql_rows("FROM events").rows
    ws.sql_rows("ALTER TABLE events RENAME TO mine", write=True)
    assert 1 == ws.fetch_events("events", **ONE_DAY).rows
    assert 1 == len(exported_days(emu))


# ---- what is left over --------------------------------------------------------------------------


def leave_parts(ws, first, last, at):
    """Leave parts of days as a fetch does that is killed before it has loaded them."""
    wanted = EventQuery.create("events", from_date=first, to_date=last)
    begun = ws.database.begin_events("events", filters=wanted.filters, mode="new", days=wanted.days)
    begun.stop()
    for day in wanted.days:
        path = ws.database.parts / f"{begun.key}_{day}_{day}.ndjson"
        path.write_text(json.dumps(event("left")) + "\n")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        part = Part(path, Chunk(day, day), 1, gzip=False, received_at=at, digest=digest)
        ws.database.record_part(begun, part)


def test_left_over_parts_keep_the_time_they_were_received(emu, ws):
    """Days count as fetched when the file was written, however late it is loaded."""
    at = datetime(2026, 1, 20, tzinfo=UTC)
    leave_parts(ws, DAY, DAY, at)
    assert 1 == ws.fetch_events("events", **ONE_DAY).rows
    assert [] == exported_days(emu)
    assert {DAY: at} == ws.database.fetched_days("events")


def test_left_over_parts_are_loaded_together(emu, ws, monkeypatch):
    """DuckDB then reads several files at a time."""
    days = DAY, DAY + timedelta(2)
    leave_parts(ws, *days, datetime(2026, 1, 20, tzinfo=UTC))
    loads, stage = [], Load.stage

    def recording(self, parts):
        loads.append(len(parts))
        return stage(self, parts)

    monkeypatch.setattr(Load, "stage", recording)
    ws.fetch_events("events", from_date=days[0], to_date=days[1])
    assert ([], [3]) == (exported_days(emu), loads)


@pytest.mark.parametrize(
    "at", [datetime(2026, 1, 2, 1, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC)]
)
def test_left_over_parts_that_may_be_incomplete_are_fetched_again(emu, ws, tmp_path, at):
    """Received too early for late events, or at a time in the future."""
    load(emu, tmp_path, "A")
    leave_parts(ws, DAY, DAY, at)
    ws.fetch_events("events", **ONE_DAY)
    assert [("A",)] == ws.sql_rows("SELECT event_name FROM events").rows
    assert [("2026-01-01", "2026-01-01")] == exported_days(emu)


def test_unknown_files_among_the_parts_are_ignored(emu, ws, tmp_path):
    """Names without dates, invalid dates, and directories."""
    load(emu, tmp_path, "A")
    leave_parts(ws, DAY, DAY, datetime(2026, 1, 2, tzinfo=UTC))
    [part] = ws.database.parts.glob("events-*")
    key = part.name.partition("_")[0]
    for name in ("x", "2026-01-01_x", "2026-13-01_2026-13-01", "2026-02-01_2026-01-01"):
        part.with_name(f"{key}_{name}.ndjson").touch()
    part.with_name(f"{key}_2026-01-02_2026-01-02.gz").mkdir()
    assert 1 == ws.fetch_events("events", **ONE_DAY).rows


# ---- keeping up to date -------------------------------------------------------------------------


def create_fetched_table(ws, day, at, **filters):
    """Create a table of one day that was fetched at the given time."""
    wanted = EventQuery.create("events", from_date=day, to_date=day, **filters)
    begun = ws.database.begin_events("events", filters=wanted.filters, mode="new", days=[day])
    path = ws.database.parts / "part"
    path.write_text(json.dumps(event("A")) + "\n")
    begun.stage([Part(path, Chunk(day, day), 1, gzip=False, received_at=at)])
    path.unlink()
    begun.finish()


def days_to_sync(ws, lookback_days=0, **more):
    more = {"from_date": None, "to_date": DAY, **more}
    return list(
        events.create_sync_query(ws.database, "events", lookback_days=lookback_days, **more).days
    )


@pytest.mark.parametrize(
    ("zone", "lookback", "hours", "lacking"),
    [
        (None, 0, 24, []),
        (None, 0, 23, [DAY]),
        ("America/Los_Angeles", 0, 31, [DAY]),
        ("America/Los_Angeles", 0, 32, []),
        ("Asia/Tokyo", 0, 15, []),
        ("Asia/Tokyo", 0, 14, [DAY]),
        ("Asia/Tokyo", 2, 62, [DAY]),
        ("Asia/Tokyo", 2, 63, []),
    ],
)
def test_a_day_is_complete_after_midnight_in_the_projects_time_zone(
    ws, zone, lookback, hours, lacking
):
    """The lookback is counted from then."""
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=hours)
    create_fetched_table(ws, DAY, at, project_timezone=zone)
    assert lacking == days_to_sync(ws, lookback, project_timezone=zone)


def test_a_day_fetched_in_the_future_is_fetched_again(ws):
    """A clock that was wrong does not keep a day for ever."""
    create_fetched_table(ws, DAY, datetime(2099, 1, 1, tzinfo=UTC))
    assert [DAY] == days_to_sync(ws)


def test_a_sync_checks_its_filters_even_if_no_day_is_missing(emu, ws):
    """Other filters are refused every time, not only when days are fetched."""
    create_fetched_table(ws, DAY, datetime(2026, 2, 1, tzinfo=UTC))
    days = {"to_date": DAY, "lookback_days": 0}
    for other in ({"events": ["B"]}, {"where": "true"}):
        with pytest.raises(ConfigError, match=r"other filters \(none\).*another table name$"):
            ws.sync_events("events", **days, **other)  # which has no `mixed` to suggest
    with pytest.raises(ConfigError, match="project_timezone"):
        ws.sync_events("events", **days, project_timezone="Asia/Tokyo")
    assert 0 == ws.sync_events("events", **days).rows
    ws.fetch_events("events", **ONE_DAY, events=["B"], append=True, mixed=True)
    with pytest.raises(ConfigError, match="other filters"):
        ws.sync_events("events", **days)


def test_a_sync_can_be_planned(emu, ws):
    """The plan makes no call, and for a table that is up to date there is nothing to do."""
    create_fetched_table(ws, DAY, datetime(2026, 2, 1, tzinfo=UTC))
    until = date(2026, 3, 31)
    plan = ws.plan_sync("events", lookback_days=0, to_date=until)
    assert (89, date(2026, 1, 2), until) == (plan.days, plan.from_date, plan.to_date)
    nothing = ws.plan_sync("events", lookback_days=0, to_date=DAY)
    assert (0, 0, ()) == (nothing.days, nothing.calls, nothing.chunks)
    assert [] == emu.requests()


# ---- arguments ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"limit": "5"},
        {"limit": 1.5},
        {"events": 5},
        {"events": [5]},
        {"events": ["\ud800"]},
        {"where": "\ud800"},
        {"where": 5},
        {"max_workers": "5"},
        {"chunk_days": "5"},
        {"project_timezone": 5},
    ],
)
def test_errors_for_events_name_the_invalid_argument(wrong):
    """Whatever the type of its value."""
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        EventQuery.create("events", from_date=DAY, to_date=DAY, **wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"where": "\ud800"},
        {"group_id": 5},
        {"distinct_id": "\ud800"},
        {"output_properties": 5},
        {"max_workers": "5"},
        {"as_of_timestamp": "5"},
    ],
)
def test_errors_for_profiles_name_the_invalid_argument(wrong):
    """Whatever the type of its value."""
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ProfileQuery.create(**wrong)


@pytest.mark.parametrize("wrong", [-1, True, "5", 1.5, 10**9])
def test_lookback_days_must_be_a_number_of_days(emu, ws, wrong):
    """Not text, and not longer than a century."""
    with pytest.raises(ConfigError, match="lookback_days"):
        ws.sync_events("events", lookback_days=wrong, from_date=DAY)
    assert [] == emu.requests()
