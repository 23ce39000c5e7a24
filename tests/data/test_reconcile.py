"""Counts of a fetched table, compared with Mixpanel's own."""

import json
from datetime import UTC, date, datetime, timedelta

import pytest

from mixpanel.cli._output.exit_codes import ExitCode
from mixpanel.data import Workspace
from mixpanel.data._fetch.plan import Chunk, Filters, Part, days_of, today
from mixpanel.data.exceptions import ConfigError, TableNotFoundError
from mixpanel.emulator import Fault
from tests.cli.cli_data import DAYS, EXPORT, FIRST, LAST, PER_DAY, environment, fill, runner
from tests.data.queries.fake_mixpanel import ME, FakeMixpanel

pytestmark = pytest.mark.slow

QUERIES = "/api/query/"


# ---- with an emulator ---------------------------------------------------------------------------


@pytest.fixture
def ws(emu, tmp_path, monkeypatch):
    """A workspace with three days of orders, of which the second was fetched before the last."""
    for name, value in environment(emu.url, tmp_path).items():
        monkeypatch.setenv(name, value)
    fill(emu)
    with Workspace(path=tmp_path / "shop.db") as opened:
        opened.fetch_events(from_date=FIRST, to_date=LAST)
        yield opened


def queries(emu):
    return [each for each in emu.requests() if each.path.startswith(QUERIES)]


def test_equal_counts_are_ok(emu, ws):
    """One query for all days."""
    found = ws.reconcile()
    assert found.ok
    assert [(FIRST, PER_DAY, PER_DAY, 0, "same")] == [
        (each.day, each.local, each.mixpanel, each.difference, each.state) for each in found.days
    ][:1]
    assert (3, 0, "UTC") == (len(found.days), found.difference, found.timezone)
    assert 1 == len(queries(emu))


def test_a_difference_is_found_on_its_day(emu, ws):
    """An event that arrived after the fetch, and one that was deleted here."""
    late = {"time": int(datetime(2026, 1, 2, 5, tzinfo=UTC).timestamp()), "distinct_id": "u"}
    path = ws.db_path.with_name("late.ndjson")
    path.write_text(json.dumps({"event": "Late", "properties": {**late, "$insert_id": "x"}}))
    emu.load(path)
    ws.sql_rows("DELETE FROM events WHERE insert_id IN ('i-0', 'i-1')", write=True)
    found = ws.reconcile("events")
    assert [-2, -1, 0] == [each.difference for each in found.days]
    assert ["different", "different", "same"] == [each.state for each in found.days]
    assert (False, -3) == (found.ok, found.difference)
    data = json.loads(json.dumps(found.to_dict()))
    assert (False, 24, 25) == (data["ok"], data["days"][1]["local"], data["days"][1]["mixpanel"])


@pytest.mark.parametrize(
    "filters",
    [
        {"events": ["Order Paid"]},
        {"events": ["Order Paid", "Order Shipped"]},
        {"where": 'properties["plan"] == "team"'},
        {"events": ["Order Paid"], "where": 'properties["plan"] == "team"'},
    ],
)
def test_mixpanel_counts_with_the_filters_of_the_table(emu, ws, filters):
    """In one query, too."""
    ws.fetch_events("some", from_date=FIRST, to_date=LAST, **filters)
    found = ws.reconcile("some")
    assert found.ok, found
    assert 0 < found.days[0].mixpanel < PER_DAY
    assert 1 == len(queries(emu))


@pytest.mark.parametrize(("count", "expected"), [(26, 1), (27, 2), (60, 3)])
def test_many_events_with_a_condition_are_counted_in_several_queries(emu, ws, count, expected):
    """Mixpanel's reports have 26 metrics at most."""
    names = ["Order Shipped", *(f"Other {n}" for n in range(count - 2)), "Order Paid"]
    condition = 'properties["plan"] == "team"'
    ws.fetch_events("some", from_date=FIRST, to_date=LAST, events=names, where=condition)
    found = ws.reconcile("some")
    assert found.ok, found
    assert 0 < found.days[0].mixpanel < PER_DAY
    assert expected == len(queries(emu))


def test_an_event_that_never_happened_counts_as_none(emu, ws):
    """Of a table that was fetched with its name, beside another one."""
    ws.fetch_events("some", from_date=FIRST, to_date=LAST, events=["Order Paid", "Never"])
    assert ws.reconcile("some").ok


def test_more_queries_than_an_hour_has_are_refused_before_the_first(emu, ws, monkeypatch):
    """With their number."""
    monkeypatch.setenv("MP_QUERY_LIMIT", "2")
    names = [f"Other {n}" for n in range(53)]
    ws.fetch_events("some", from_date=FIRST, to_date=LAST, events=names, where="true")
    with pytest.raises(ConfigError, match="needs 3 of the 2 queries that a project has in an hour"):
        ws.reconcile("some")
    assert [] == queries(emu)


def test_a_gap_is_not_ok(emu, ws):
    """A day that was not fetched is missing."""
    ws.fetch_events("some", from_date=FIRST, to_date=FIRST)
    ws.fetch_events("some", from_date=LAST, to_date=LAST, append=True)
    found = ws.reconcile("some")
    assert ["same", "missing", "same"] == [each.state for each in found.days]
    assert not found.ok


@pytest.mark.parametrize("day", [FIRST, LAST])
def test_an_outer_day_that_failed_is_missing(emu, ws, day):
    """It belongs to the range of the table, as its other days do."""
    failing = Fault.status(400).forever()
    emu.play(failing, path=EXPORT, when=lambda request: request.query["from_date"] == day)
    ws.fetch_events("some", from_date=FIRST, to_date=LAST, chunk_days=1, partial=True)
    found = ws.reconcile("some")
    assert {day: "missing"} == {each.day: each.state for each in found.days if each.local == 0}
    assert (3, False) == (len(found.days), found.ok)


def test_a_missing_day_without_events_is_no_difference(emu, ws):
    """Neither here nor at Mixpanel."""
    found = ws.reconcile(from_date="2025-12-31", to_date=LAST)
    assert ("missing", 0, 0) == (found.days[0].state, found.days[0].local, found.days[0].mixpanel)
    assert found.ok


def test_mp_names_a_command_that_fetches_an_earlier_day(emu, tmp_path):
    """A sync fetches days before the first of the table only from a day that is given."""
    fill(emu)
    mp = runner(environment(emu.url, tmp_path))
    mp("fetch", "events", "--from", LAST, "--to", LAST)
    earlier = mp("inspect", "reconcile", "events", "--from", FIRST, "--to", LAST)
    assert ExitCode.PARTIAL == earlier.exit_code
    command = earlier.stderr.partition("mp fetch")[2].partition(" fetches")[0].split()
    assert ["sync", "events", "--from", FIRST] == command[:4]
    mp("fetch", *command, "--to", LAST, "--yes")
    same = mp("inspect", "reconcile", "events")
    assert (ExitCode.OK, 3) == (same.exit_code, len(json.loads(same.stdout)["days"]))


def test_a_day_that_is_not_over_is_not_judged(emu, ws):
    """It is left out by default."""
    now = today()
    ws.fetch_events("now", from_date=now - timedelta(days=1), to_date=now)
    assert [str(now - timedelta(days=1))] == [each.day for each in ws.reconcile("now").days]
    shown = ws.reconcile("now", from_date="today", to_date="today")
    assert ["running"] == [each.state for each in shown.days]
    assert shown.ok


def test_tables_that_cannot_be_compared_are_refused(emu, ws):
    """Before any query."""
    with pytest.raises(TableNotFoundError):
        ws.reconcile("nothing")
    ws.sql_rows("CREATE TABLE mine AS SELECT 1 AS one", write=True)
    with pytest.raises(ConfigError, match="not fetched"):
        ws.reconcile("mine")
    ws.fetch_events("few", from_date=FIRST, to_date=LAST, limit=5)
    with pytest.raises(ConfigError, match="limit"):
        ws.reconcile("few")
    ws.fetch_events(from_date=LAST, to_date=LAST, events=["A"], append=True, mixed=True)
    with pytest.raises(ConfigError, match="several filters"):
        ws.reconcile()
    assert [] == queries(emu)


def test_mp_prints_a_table_and_ends_with_6_if_days_differ(emu, tmp_path):
    """JSON in a pipe, rows in a table and in CSV."""
    fill(emu)
    mp = runner(environment(emu.url, tmp_path))
    mp("fetch", "events", *DAYS)
    same = mp("inspect", "reconcile", "events")
    assert ExitCode.OK == same.exit_code, same.stderr
    assert json.loads(same.stdout)["ok"]
    assert "events: 3 days (UTC) as at Mixpanel\n" == same.stderr
    with Workspace.open(tmp_path / "shop.db", read_only=False) as opened:
        opened.sql_rows("DELETE FROM events WHERE insert_id = 'i-0'", write=True)
    table = mp("inspect", "reconcile", "events", "-f", "table")
    assert ExitCode.PARTIAL == table.exit_code
    for part in (FIRST, "23", "24", "-1", "different"):
        assert part in table.stdout
    assert (
        "events: 1 of 3 days (UTC) differ, -1 events in all; mp fetch sync events" in table.stderr
    )
    rows = mp("inspect", "reconcile", "events", "-f", "csv").stdout.splitlines()
    assert ["day,local,mixpanel,difference,state", f"{FIRST},23,24,-1,different"] == rows[:2]


# ---- in other time zones ------------------------------------------------------------------------


@pytest.fixture
def anyio_backend():
    return "asyncio"


def load(workspace, days, hours, zone=None, failed=()):
    """Load one event for each of these hours since 2026-01-01, as exports have them."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    lines = [
        json.dumps({
            "event": "A",
            "properties": {
                "time": int((start + timedelta(hours=hour)).timestamp() * 1000),
                "distinct_id": "u",
                "$insert_id": str(hour),
            },
        })
        for hour in hours
    ]  # fmt: skip
    first, last = days
    begun = workspace.database.begin_events(
        "events", filters=Filters(project_timezone=zone), mode="new", days=days_of(first, last)
    )
    path = workspace.database.parts / "part"
    path.write_text("".join(line + "\n" for line in lines))
    arrived = [day for day in days_of(first, last) if day not in failed]
    begun.stage([Part(path, Chunk(arrived[0], arrived[-1]), 1, gzip=False)])
    path.unlink()
    begun.finish(failed=dict.fromkeys(failed, "it failed"))


def los_angeles(counts):
    """Return a Mixpanel of a project in Los Angeles (UTC-8) with these counts by day."""
    server = FakeMixpanel()
    zone = "America/Los_Angeles"
    server["/api/app/me"] = {"results": {"projects": {"4242": {**ME, "timezone": zone}}}}
    series = {f"{day}T00:00:00-08:00": count for day, count in counts.items()}
    server["insights"] = {
        "headers": ["$metric"],
        "date_range": {"from_date": min(series), "to_date": max(series)},
        "series": {"All Events [Total Events]": series},
    }
    return server


WEEK = date(2026, 1, 1), date(2026, 1, 4)


@pytest.mark.anyio
async def test_days_are_those_of_the_project(tmp_path):
    """Exports have days of UTC, so the first day of the project is not there as a whole."""
    counts = {"2026-01-01": 24, "2026-01-02": 24, "2026-01-03": 24}
    server = los_angeles({"2025-12-31": 24, **counts, "2026-01-04": 16})
    async with server.workspace() as ws:
        ws._core.unexpanded_path = tmp_path / "la.db"
        load(ws, WEEK, range(24 * 4))
        found = await ws.reconcile()
        assert counts == {each.day: each.local for each in found.days}
        assert (True, False, "America/Los_Angeles") == (
            found.ok, found.local_time, found.timezone,
        )  # fmt: skip
        outer = await ws.reconcile(from_date="2026-01-01", to_date="2026-01-04")
        assert ["same", "same", "same", "missing"] == [each.state for each in outer.days]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("failed", "hours", "missing"),
    [(WEEK[0], range(24, 96), "2026-01-01"), (WEEK[1], range(72), "2026-01-03")],
)
async def test_outer_days_that_failed_are_missing(tmp_path, failed, hours, missing):
    """Only a day that no fetch of the range can have as a whole is left out."""
    counts = {"2026-01-01": 24, "2026-01-02": 24, "2026-01-03": 24}
    async with los_angeles({"2025-12-31": 8, **counts, "2026-01-04": 16}).workspace() as ws:
        ws._core.unexpanded_path = tmp_path / "la.db"
        load(ws, WEEK, hours, failed=[failed])
        found = await ws.reconcile()
        assert (False, list(counts)) == (found.ok, [each.day for each in found.days])
        assert [missing] == [each.day for each in found.days if each.state == "missing"]


@pytest.mark.anyio
async def test_local_times_are_noticed(tmp_path):
    """A project from before 2023 whose timezone was not passed to the fetch."""
    counts = {f"2026-01-0{day}": day for day in range(1, 5)}
    hours = [24 * (day - 1) + n for day in range(1, 5) for n in range(day)]
    async with los_angeles(counts).workspace() as ws:
        ws._core.unexpanded_path = tmp_path / "local.db"
        load(ws, WEEK, hours)
        found = await ws.reconcile()
        assert (True, True) == (found.ok, found.local_time)


@pytest.mark.anyio
async def test_a_table_with_its_timezone_is_compared_by_local_days(tmp_path):
    """Its times are true UTC, and its days those of the project."""
    counts = {f"2026-01-0{day}": day for day in range(1, 5)}
    hours = [24 * (day - 1) + n for day in range(1, 5) for n in range(day)]
    async with los_angeles(counts).workspace() as ws:
        ws._core.unexpanded_path = tmp_path / "zone.db"
        load(ws, WEEK, hours, "America/Los_Angeles")
        found = await ws.reconcile()
        assert counts == {each.day: each.local for each in found.days}
        assert (True, False) == (found.ok, found.local_time)


@pytest.mark.anyio
async def test_a_server_that_cannot_count_all_events_counts_by_name(tmp_path):
    """That costs two queries more."""
    server = los_angeles({"2026-01-01": 0})
    server["insights"] = (400, {"error": "unknown event $all_events"})
    server["events/names"] = ["A"]
    server["events"] = {"data": {"series": ["2026-01-02"], "values": {"A": {"2026-01-02": 24}}}}
    async with server.workspace() as ws:
        ws._core.unexpanded_path = tmp_path / "names.db"
        load(ws, WEEK, range(24 * 4))
        found = await ws.reconcile(from_date="2026-01-02", to_date="2026-01-02")
        assert found.ok
        assert ["insights", "events/names", "events"] == [
            each.path.removeprefix(QUERIES) for each in server.queries
        ]
