"""Fetches some days of which fail: what is kept, what is named, and what the next fetch does."""

import json
import warnings
from datetime import UTC, date, datetime, timedelta

import pytest

from mixpanel.data import Workspace
from mixpanel.data._api import rate_limits
from mixpanel.data.exceptions import (
    IncompleteTableWarning,
    InterruptedFetchError,
    QueryError,
    RequestLimitError,
    TableExistsError,
)
from mixpanel.emulator import Emulator, Fault

pytestmark = pytest.mark.slow

EXPORT = "/api/2.0/export"
WEEK = {"from_date": "2026-01-01", "to_date": "2026-01-07"}
THIRD = "2026-01-03"


@pytest.fixture
def emu(monkeypatch):
    """An emulator, with credentials in the environment; exports are not limited per second."""

    def hourly(**time):
        return rate_limits.ApiRateLimiter("exports", (60, 3600.0), concurrent=100, **time)

    monkeypatch.setitem(rate_limits._MAKERS, "export", hourly)
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


def event(day, number, name="Opened", hour=12, **properties):
    at = datetime.combine(day, datetime.min.time(), UTC) + timedelta(hours=hour, seconds=number)
    return {
        "event": name,
        "properties": {
            "time": int(at.timestamp() * 1000),
            "distinct_id": f"u{number % 3}",
            "$insert_id": f"{day}-{number}",
            **properties,
        },
    }


def load(emu, tmp_path, events):
    path = tmp_path / "source.ndjson"
    path.write_text("".join(json.dumps(one) + "\n" for one in events))
    emu.load(path)


def fill(emu, tmp_path, first=date(2026, 1, 1), days=7, a_day=5):
    load(emu, tmp_path, [event(first + timedelta(n), i) for n in range(days) for i in range(a_day)])


def breaks(emu, fault, *days, **play):
    """Let every export that covers one of the days fail."""

    def covers(request):
        return any(request.query["from_date"] <= day <= request.query["to_date"] for day in days)

    emu.play(fault.forever(), path=EXPORT, when=covers, **play)


def exported(emu, after=0):
    return [(r.query["from_date"], r.query["to_date"]) for r in emu.requests(EXPORT)][after:]


def rows_by_day(ws, table="events"):
    query = f"SELECT CAST(event_time AS DATE)::VARCHAR, count(*) FROM {table} GROUP BY 1 ORDER BY 1"
    return dict(ws.sql_rows(query).rows)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault.terminated_early(), "terminated early"),
        (Fault.status(400), "HTTP 400"),
        (Fault.status(403), "HTTP 403"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_partial_fetch_has_the_other_days_and_names_the_gap(emu, ws, tmp_path, fault, reason):
    """In the result and in the list of tables, with the reason."""
    fill(emu, tmp_path)
    breaks(emu, fault, THIRD)
    result = ws.fetch_events(**WEEK, partial=True)
    [failed] = result.failed
    assert (THIRD, THIRD, "missing") == (failed.from_date, failed.to_date, failed.state)
    assert reason in failed.reason
    assert (30, 6, True) == (result.rows, result.chunks, result.has_failures)
    assert ((THIRD, THIRD),) == result.failed_date_ranges == result.gaps
    assert THIRD not in rows_by_day(ws)
    [table] = ws.tables()
    gap = date.fromisoformat(THIRD)
    assert ("partial", ((gap, gap),)) == (table.state, table.gaps)
    assert json.loads(json.dumps(result.to_dict(), default=str))["failed"][0]["from_date"] == THIRD


def test_the_next_fetch_fills_the_gap_only(emu, ws, tmp_path):
    """The same call, which otherwise refuses a table that exists."""
    fill(emu, tmp_path)
    breaks(emu, Fault.status(400), THIRD)
    ws.fetch_events(**WEEK, partial=True)
    emu.clear_faults()
    before = len(exported(emu))
    assert ws.plan_events(**WEEK).chunks == ((date(2026, 1, 3), date(2026, 1, 3)),)
    result = ws.fetch_events(**WEEK)
    assert [(THIRD, THIRD)] == exported(emu, before)
    assert (5, 5, ()) == (result.rows, result.new, result.failed)
    assert {f"2026-01-{n:02}": 5 for n in range(1, 8)} == rows_by_day(ws)
    [table] = ws.tables()
    assert ("complete", ()) == (table.state, table.gaps)
    with pytest.raises(TableExistsError):
        ws.fetch_events(**WEEK)


def test_a_gap_that_stays_is_no_error_with_partial(emu, ws, tmp_path):
    """Also when it is the only day to fetch; without `partial` it is one."""
    fill(emu, tmp_path)
    breaks(emu, Fault.status(400), THIRD)
    ws.fetch_events(**WEEK, partial=True)
    again = ws.fetch_events(**WEEK, partial=True)
    assert (0, ((THIRD, THIRD),)) == (again.rows, again.gaps)
    assert f"failed='{THIRD} to {THIRD} missing'" in repr(again)
    with pytest.raises(InterruptedFetchError):
        ws.fetch_events(**WEEK)
    assert ["partial"] == [table.state for table in ws.tables()]
    emu.clear_faults()
    breaks(emu, Fault.terminated_early(), THIRD)
    with pytest.raises(InterruptedFetchError, match="no other day was fetched either"):
        ws.fetch_events("other", from_date=THIRD, to_date=THIRD, partial=True)
    assert ["events"] == [table.name for table in ws.tables()]


def test_a_partial_sync_updates_the_other_days(emu, ws, tmp_path):
    """A day that cannot be refreshed keeps its rows, and is fetched again next time."""
    today = datetime.now(UTC).date()
    first = today - timedelta(days=3)
    fill(emu, tmp_path, first, 4)
    ws.sync_events(from_date=first)
    broken = str(first + timedelta(days=1))
    load(emu, tmp_path, [event(first + timedelta(n), 9, "Late") for n in range(4)])
    breaks(emu, Fault.terminated_early(), broken)
    result = ws.sync_events(partial=True)
    assert () == result.gaps
    assert [(broken, "outdated")] == [(each.from_date, each.state) for each in result.failed]
    assert {str(first + timedelta(n)): 5 if n == 1 else 6 for n in range(4)} == rows_by_day(ws)
    assert (3, 0, 15, 0) == (result.new, result.changed, result.unchanged, result.vanished)
    assert ["complete"] == [table.state for table in ws.tables()]
    emu.clear_faults()
    assert 1 == ws.sync_events().new
    assert {6} == set(rows_by_day(ws).values())


def test_a_first_day_that_fails_is_not_forgotten(emu, ws, tmp_path):
    """A later sync without a first day begins with it."""
    fill(emu, tmp_path)
    breaks(emu, Fault.status(403), "2026-01-01")
    ws.sync_events(**WEEK, partial=True)
    emu.clear_faults()
    before = len(exported(emu))
    ws.sync_events(to_date="2026-01-07")
    assert [("2026-01-01", "2026-01-01")] == exported(emu, before)


def test_a_rejected_day_does_not_lose_the_others(emu, ws, tmp_path):
    """Without `partial` there is no table yet; the next fetch gets the missing day alone."""
    fill(emu, tmp_path)
    breaks(emu, Fault.status(400, body={"error": "No luck"}), THIRD)
    with pytest.raises(InterruptedFetchError, match=r"2026-01-03 .*No luck.*partial=True"):
        ws.fetch_events(**WEEK)
    assert ["incomplete"] == [table.state for table in ws.tables()]
    emu.clear_faults()
    before = len(exported(emu))
    assert 35 == ws.fetch_events(**WEEK).rows
    assert [(THIRD, THIRD)] == exported(emu, before)


def test_a_query_that_mixpanel_rejects_is_not_tried_for_every_day(emu, ws):
    """Its error is raised as it is, and no table appears, also with `partial`."""
    emu.play(Fault.status(400, body={"error": "where: unknown function"}).forever(), path=EXPORT)
    with pytest.raises(QueryError, match="unknown function"):
        ws.fetch_events(
            from_date="2026-01-01", to_date="2026-03-01", where="f()", partial=True, max_workers=2
        )
    assert len(exported(emu)) <= 5
    assert [] == [table for table in ws.tables() if table.state != "incomplete"]


def test_a_bad_day_of_a_long_chunk_is_found(emu, ws, tmp_path):
    """The chunk is divided, so that one day does not take its neighbours with it."""
    fill(emu, tmp_path, days=30)
    breaks(emu, Fault.status(400), "2026-01-17")
    month = {"from_date": "2026-01-01", "to_date": "2026-01-30", "chunk_days": 10}
    result = ws.fetch_events(**month, partial=True)
    assert (("2026-01-17", "2026-01-17"),) == result.failed_date_ranges
    assert 29 == len(rows_by_day(ws))
    assert len(exported(emu)) <= 3 + 2 * 4


@pytest.mark.parametrize("fault", [Fault.terminated_early(), Fault.status(403)])
def test_a_bad_day_of_a_single_chunk_is_found(emu, ws, tmp_path, fault):
    """Also if no other chunk shows that the query is accepted."""
    fill(emu, tmp_path)
    breaks(emu, fault, THIRD, "2026-01-05")
    result = ws.fetch_events(**WEEK, partial=True, chunk_days=7)
    assert ((THIRD, THIRD), ("2026-01-05", "2026-01-05")) == result.gaps
    assert 5 == len(rows_by_day(ws))


def test_days_before_those_of_the_plan_do_not_keep_the_others_out(emu, ws, tmp_path):
    """However many of the first days are rejected."""
    fill(emu, tmp_path, days=12)
    old = [f"2026-01-0{day}" for day in range(1, 6)]
    breaks(emu, Fault.status(403, body={"error": "Date range exceeds 7 days into the past"}), *old)
    days = {"from_date": "2026-01-01", "to_date": "2026-01-12", "max_workers": 1}
    result = ws.fetch_events(**days, partial=True)
    assert 7 == len(rows_by_day(ws))
    assert sorted(old) == sorted(each.from_date for each in result.failed)


def test_days_that_failed_before_are_tried_last(emu, ws, tmp_path):
    """So that three of them in a row do not keep the later days from being tried at all."""
    fill(emu, tmp_path, days=20)
    bad = [f"2026-01-{day:02}" for day in range(1, 7)]
    breaks(emu, Fault.terminated_early(), *bad)
    days = {"from_date": "2026-01-01", "to_date": "2026-01-20", "max_workers": 1}
    with pytest.raises(InterruptedFetchError):
        ws.fetch_events(**days)
    result = ws.fetch_events(**days, partial=True)
    assert 14 == len(rows_by_day(ws))
    named = {
        str(date.fromisoformat(first) + timedelta(days=n))
        for first, last in result.failed_date_ranges
        for n in range((date.fromisoformat(last) - date.fromisoformat(first)).days + 1)
    }
    assert set(bad) == named


def test_a_partial_replacement_keeps_a_table_that_has_the_day(emu, ws, tmp_path):
    """Replacing it would lose the day."""
    fill(emu, tmp_path)
    ws.fetch_events(**WEEK)
    breaks(emu, Fault.status(403), THIRD)
    with pytest.raises(InterruptedFetchError, match="the old table has these days, and stays"):
        ws.fetch_events(**WEEK, replace=True, partial=True)
    assert 7 == len(rows_by_day(ws))
    emu.clear_faults()
    assert 35 == ws.fetch_events(**WEEK, replace=True).rows


def test_reports_over_a_gap_warn(emu, ws, tmp_path):
    """The warning names the days; a report of other days does not warn."""
    fill(emu, tmp_path)
    breaks(emu, Fault.status(400), THIRD)
    ws.fetch_events(**WEEK, partial=True)
    with pytest.warns(IncompleteTableWarning, match=r"events lacks 2026-01-03") as caught:
        ws.local.daily_counts(**WEEK)
    assert caught[0].filename == __file__
    with pytest.warns(IncompleteTableWarning):
        ws.local.segmentation("Opened", **WEEK)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ws.local.daily_counts(from_date="2026-01-04", to_date="2026-01-07")


# ---- days that have not begun -------------------------------------------------------------------


@pytest.mark.parametrize("chunk_days", [None, 10])
def test_a_day_that_has_not_begun_for_the_project_does_not_fail_the_sync(
    emu, ws, tmp_path, chunk_days
):
    """West of UTC, before midnight: the other days are complete, and today is fetched next time."""
    today = datetime.now(UTC).date()
    first = today - timedelta(days=3)
    fill(emu, tmp_path, first, 4)
    message = {"error": "to_date cannot be later than today"}
    breaks(emu, Fault.status(400, body=message), str(today))
    result = ws.sync_events(from_date=first, chunk_days=chunk_days)
    assert [(str(today), "future")] == [(each.from_date, each.state) for each in result.failed]
    assert "time zone" in result.failed[0].reason
    assert not result.has_failures
    assert {str(first + timedelta(n)): 5 for n in range(3)} == rows_by_day(ws)
    [table] = ws.tables()
    assert ("complete", (), today - timedelta(days=1)) == (table.state, table.gaps, table.to_date)
    again = ws.sync_events(lookback_days=0)
    assert ["future"] == [each.state for each in again.failed]
    emu.clear_faults()
    assert today in [last for _, last in ws.plan_sync(lookback_days=0).chunks]
    ws.sync_events()
    assert 4 == len(rows_by_day(ws))


def test_a_fetch_of_a_day_that_has_not_begun_says_what_to_do(emu, ws):
    """Nothing else was accepted, so the rejection is an error, with a hint."""
    breaks(emu, Fault.status(400), str(datetime.now(UTC).date()))
    day = datetime.now(UTC).date()
    with pytest.raises(QueryError) as raised:
        ws.fetch_events(from_date=day, to_date=day)
    assert "project_timezone=" in raised.value.__notes__[0]
    assert "to_date=" in raised.value.__notes__[0]


# ---- requests -----------------------------------------------------------------------------------


def test_a_fetch_keeps_to_its_number_of_requests(emu, ws, tmp_path):
    """Needing more is an error before the first one."""
    with pytest.raises(RequestLimitError, match=r"needs 7 requests.*max_requests=6") as raised:
        ws.fetch_events(**WEEK, max_requests=6)
    assert (7, 6) == (raised.value.requests, raised.value.max_requests)
    assert ([], []) == (exported(emu), ws.tables())
    assert 0 == ws.fetch_events(**WEEK, max_requests=7).rows
    with pytest.raises(RequestLimitError):
        ws.sync_events(to_date="2026-03-31", max_requests=10)
    assert 7 == len(exported(emu))
