"""Fetches of profiles, page by page: each once, its latest version, in as few calls as possible."""

import json
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from mixpanel.data import Credentials, Workspace
from mixpanel.data.exceptions import ConfigError, PlanError, ServerError, TableNotFoundError
from mixpanel.emulator import Emulator, Fault

ENGAGE = "/api/query/engage"
ROBOT = Credentials(username="robot", secret="s3cret", project_id="42")
NOW = 1_764_000_000
WEEKLY = [{"window": "7d", "name": "opens", "event_selectors": [{"event": "Opened"}]}]


@pytest.fixture
def emu():
    """An emulator whose pages have ten profiles."""
    with Emulator(page_size=10, now=lambda: NOW) as running:
        yield running


@pytest.fixture
def ws(emu):
    """A workspace on that emulator, in memory."""
    with Workspace.memory(credentials=ROBOT, base_url=emu.url) as workspace:
        yield workspace


def put(emu, count, **properties):
    updates = [
        {"$token": "T", "$distinct_id": f"u-{n:04}", "$set": {"n": n, **properties}}
        for n in range(count)
    ]
    for start in range(0, count, 2000):
        httpx.post(f"{emu.url}/engage", json=updates[start : start + 2000]).raise_for_status()


def ids(ws, table="profiles"):
    return [
        distinct_id
        for (distinct_id,) in ws.sql_rows(f"SELECT distinct_id FROM {table} ORDER BY 1").rows
    ]


def calls(emu):
    return len(emu.requests(ENGAGE))


def page(index, *profiles, size=2, **more):
    """Return the body of a page, without a total unless it is given."""
    body = {"status": "ok", "page": index, "page_size": size, "session_id": "s", **more}
    results = [{"$distinct_id": who, "$properties": {}} for who in profiles]
    return Fault.status(200, body=body | {"results": results})


# How many calls


@pytest.mark.slow
@pytest.mark.parametrize(("count", "spent"), [(0, 1), (9, 1), (10, 1), (11, 2), (20, 2), (71, 8)])
def test_no_call_is_spent_on_an_empty_page(emu, ws, count, spent):
    """The first page has the total, so a full last page is known to be the last."""
    put(emu, count)
    result = ws.fetch_profiles()
    assert (count, spent, spent) == (result.rows, result.requests, calls(emu))
    assert [f"u-{n:04}" for n in range(count)] == ids(ws)


@pytest.mark.slow
def test_each_page_is_fetched_once(emu, ws):
    """Several concurrently after the first, all in one session, and reported in order."""
    put(emu, 75)
    reported, steps = [], []
    ws.fetch_profiles(on_page_complete=reported.append, progress=steps.append, max_workers=3)
    forms = [dict(httpx.QueryParams(one.body.decode())) for one in emu.requests(ENGAGE)]
    assert [str(n) for n in range(8)] == sorted(form.get("page", "0") for form in forms)
    assert 1 == len({form["session_id"] for form in forms[1:]})
    assert [(n, 8) for n in range(8)] == [(one.page_index, one.total_pages) for one in reported]
    assert 75 == reported[-1].cumulative_rows
    assert [(n, 8 if n else 0) for n in range(9)] == [(one.steps_done, one.steps) for one in steps]


@pytest.mark.slow
def test_without_a_total_the_last_page_is_the_one_that_is_not_full(emu, ws):
    """Pages are fetched one by one then, and an empty one may cost a call; it is counted."""
    emu.play(page(0, "a", "b"), page(1, "c", "d"), page(2), path=ENGAGE)
    even = ws.fetch_profiles("even")
    assert (4, 3) == (even.rows, even.requests)
    emu.play(page(0, "a", "b"), page(1, "c"), path=ENGAGE)
    odd = ws.fetch_profiles("odd")
    assert (3, 2) == (odd.rows, odd.requests)
    assert 5 == calls(emu)


@pytest.mark.slow
def test_an_impossible_total_is_ignored(emu, ws):
    """It is smaller than the page that has it."""
    emu.play(page(0, "a", "b", total=1), page(1, "c"), path=ENGAGE)
    ws.fetch_profiles()
    assert ["a", "b", "c"] == ids(ws)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "spent"), [(2000, 2), (2500, 3)])
def test_pages_have_a_thousand_profiles(count, spent):
    """This is the page size of Mixpanel."""
    with Emulator() as emu, Workspace.memory(credentials=ROBOT, base_url=emu.url) as ws:
        put(emu, count)
        result = ws.fetch_profiles()
        assert (count, spent, spent) == (result.rows, result.requests, calls(emu))
        assert count == len(set(ids(ws)))


# What fails


@pytest.mark.slow
def test_a_failing_page_leaves_the_table_and_keeps_the_other_pages(emu, ws):
    """The error is typed, and the next call fetches only what is missing."""
    put(emu, 5)
    ws.fetch_profiles()
    put(emu, 60)
    broken = Fault.status(200, body={"status": "ok", "results": "none"})
    emu.play(broken, path=ENGAGE, when=lambda request: b"page=3" in request.body)
    with pytest.raises(ServerError, match="page 3 of the profiles has no list"):
        ws.fetch_profiles(replace=True, max_workers=1)
    assert 5 == len(ids(ws))
    assert [("profiles", "profiles", "complete"), ("profiles", "profiles", "incomplete")] == [
        (one.name, one.type, one.state) for one in ws.tables()
    ]
    assert [] == list(ws.database.parts.glob("*.ndjson"))
    before = calls(emu)
    resumed = ws.fetch_profiles(replace=True)
    assert (60, 6) == (resumed.rows, resumed.chunks)
    assert ["3", "4", "5"] == sorted(pages_asked(emu)[before:])
    assert 3 == resumed.requests
    assert ["complete"] == [one.state for one in ws.tables()]


@pytest.mark.slow
def test_invalid_text_and_numbers_are_repaired_and_counted(emu, ws):
    """Half an emoji or NaN in one profile does not affect the others, as with events."""
    half = {"$distinct_id": "half", "$properties": {"name": "\ud83d!", "\udc00": 1}}
    nan = {"$distinct_id": "nan", "$properties": {"score": float("nan"), "note": "NaN"}}
    good = {"$distinct_id": "good", "$properties": {"name": "\U0001f600", "note": "Infinity"}}
    body = json.dumps({"page": 0, "page_size": 10, "total": 3, "results": [half, nan, good]})
    emu.play(Fault.status(200, body=body), path=ENGAGE)
    result = ws.fetch_profiles()
    assert (3, 2) == (result.rows, result.repaired)
    rows = ws.sql_rows("SELECT distinct_id, properties FROM profiles ORDER BY 1").rows
    assert {
        "good": {"name": "\U0001f600", "note": "Infinity"},
        "half": {"name": "\ufffd!", "\ufffd": 1},
        "nan": {"score": None, "note": "NaN"},
    } == {who: json.loads(properties) for who, properties in rows}


# Interrupted fetches

KILLED = """
import os, signal, sys
from mixpanel.data import Credentials, Workspace

robot = Credentials(username="robot", secret="s3cret", project_id="42")
with Workspace(path=sys.argv[1], credentials=robot, base_url=sys.argv[2]) as ws:
    ws.fetch_profiles(
        max_workers=int(sys.argv[4]),
        on_page_complete=lambda page: page.page_index == int(sys.argv[3])
        and os.kill(os.getpid(), signal.SIGKILL),
    )
"""


def pages_asked(emu):
    """Return the number of the page of each request."""
    forms = [dict(httpx.QueryParams(one.body.decode())) for one in emu.requests(ENGAGE)]
    return [form.get("page", "0") for form in forms]


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", [0, 3, 6])
def test_a_killed_fetch_costs_one_query_and_fetches_no_page_twice(emu, tmp_path, killed_at):
    """It continues in the same session of the server, in another process."""
    put(emu, 65)
    path = tmp_path / "killed.db"
    command = [sys.executable, "-c", KILLED, str(path), emu.url, str(killed_at), "1"]
    assert -signal.SIGKILL == subprocess.run(command, check=False).returncode
    before = calls(emu)
    with Workspace(path=path, credentials=ROBOT, base_url=emu.url) as ws:
        plan = ws.plan_profiles()
        assert (0, killed_at + 1, 7) == (plan.calls, plan.pages_done, plan.pages)
        reported = []
        result = ws.fetch_profiles(on_page_complete=reported.append)
        assert [f"u-{n:04}" for n in range(65)] == ids(ws)
        assert ["complete"] == [one.state for one in ws.tables()]
    assert (65, 7, 7 - before) == (result.rows, result.chunks, result.requests)
    assert list(range(7)) == [one.page_index for one in reported]
    assert [str(n) for n in range(7)] == sorted(pages_asked(emu))
    assert 1 == sum(page == "0" for page in pages_asked(emu))


@pytest.mark.slow
def test_a_fetch_killed_with_several_requests_under_way_keeps_what_was_reported(emu, tmp_path):
    """Only pages that were still under way are requested again, and they are free."""
    put(emu, 95)
    path = tmp_path / "killed.db"
    command = [sys.executable, "-c", KILLED, str(path), emu.url, "4", "5"]
    assert -signal.SIGKILL == subprocess.run(command, check=False).returncode
    with Workspace(path=path, credentials=ROBOT, base_url=emu.url) as ws:
        assert 95 == ws.fetch_profiles().rows
        assert 95 == len(set(ids(ws)))
    asked = pages_asked(emu)
    assert {str(n) for n in range(5)} <= {page for page in asked if asked.count(page) == 1}


@pytest.mark.slow
def test_an_interrupted_fetch_starts_over_when_its_session_has_expired(emu, ws, caplog):
    """One more query is spent, and nothing of the old pages is left."""
    interrupt(emu, ws)
    httpx.post(f"{emu.url}/engage", json=[{"$token": "T", "$distinct_id": "u-0000", "$delete": ""}])
    expired = Fault.status(400, body={"error": "session_id is not known, or has expired"})
    emu.play(expired, path=ENGAGE, when=lambda request: b"page=" in request.body)
    result = ws.fetch_profiles()
    assert (34, 4) == (result.rows, result.chunks)
    assert "u-0000" not in ids(ws)
    assert "starts over" in caplog.text


@pytest.mark.slow
def test_only_an_equal_and_recent_query_is_resumed(emu, ws):
    """Another one starts over, as does one after an hour."""
    interrupt(emu, ws)
    assert 0 == ws.plan_profiles().calls
    assert 1 == ws.plan_profiles(where='properties["n"] > 3').calls
    assert 1 == ws.plan_profiles(output_properties=["n"]).calls
    write = "UPDATE _pages SET received_at = received_at - INTERVAL '61 minutes'"
    ws.connection.execute(write)
    assert 1 == ws.plan_profiles().calls
    assert 35 == ws.fetch_profiles().rows


def interrupt(emu, ws):
    """Fetch two pages of four, and fail at the third."""
    put(emu, 35)
    broken = Fault.status(200, body={"status": "ok", "results": "none"})
    emu.play(broken, path=ENGAGE, when=lambda request: b"page=2" in request.body)
    with pytest.raises(ServerError):
        ws.fetch_profiles(max_workers=1)


@pytest.mark.slow
def test_a_fetch_that_fails_at_once_leaves_nothing(emu, ws):
    """There is no page to resume after."""
    emu.play(Fault.status(402), path=ENGAGE)
    with pytest.raises(PlanError):
        ws.fetch_profiles()
    assert [] == ws.tables()


# What changed


@pytest.mark.slow
def test_the_result_counts_new_changed_unchanged_and_vanished_profiles(emu, ws):
    """The order of keys is no change; `append` keeps what vanished, `replace` removes it."""
    put(emu, 12, plan="free")
    first = ws.fetch_profiles()
    assert (None, None, None, None) == (first.new, first.changed, first.unchanged, first.vanished)
    reordered = '{"plan":"free","n":5}'
    reorder = f"UPDATE profiles SET properties = '{reordered}' WHERE distinct_id = 'u-0005'"
    ws.sql_rows(reorder, write=True)
    change(emu)
    appended = ws.fetch_profiles(append=True)
    expected = (1, 2, 9, 1, ("u-0003",))
    assert expected == counts(appended)
    assert "u-0003" in ids(ws)
    replaced = ws.fetch_profiles(replace=True)
    assert (0, 0, 12, 1, ("u-0003",)) == counts(replaced)
    assert "u-0003" not in ids(ws)
    some = ws.fetch_profiles(append=True, distinct_ids=["u-0001"], mixed=True)
    assert (0, 0, 1, None, ()) == counts(some)


def counts(result):
    return result.new, result.changed, result.unchanged, result.vanished, result.vanished_ids


def change(emu):
    """Change two profiles, delete one and add one."""
    updates = [
        {"$distinct_id": "u-0001", "$set": {"plan": "team"}},
        {"$distinct_id": "u-0002", "$set": {"plan": "team"}},
        {"$distinct_id": "u-0003", "$delete": ""},
        {"$distinct_id": "u-9999", "$set": {"plan": "team"}},
    ]
    body = [{"$token": "T", "$ignore_time": True, **update} for update in updates]
    httpx.post(f"{emu.url}/engage", json=body).raise_for_status()


@pytest.mark.slow
def test_a_sync_fetches_what_was_seen_since(tmp_path):
    """The first one fetches all; a second one only what changed, for one query."""
    clock = [time.time() - 10 * 86400]
    with (
        Emulator(page_size=10, now=lambda: clock[0]) as emu,
        Workspace(path=tmp_path / "a.db", credentials=ROBOT, base_url=emu.url) as ws,
    ):
        put(emu, 25, plan="free")
        assert None is ws.plan_profile_sync().since
        assert 25 == ws.sync_profiles().rows
        clock[0] = time.time()
        put(emu, 3, plan="team")
        plan = ws.plan_profile_sync(lookback_days=2)
        assert 1 == plan.calls
        assert plan.since < datetime.now(UTC) - timedelta(days=2)
        synced = ws.sync_profiles(lookback_days=2)
        assert (3, 1) == (synced.rows, synced.requests)
        assert (0, 3, 0, None, ()) == counts(synced)
        teams = "SELECT count(*) FROM profiles WHERE properties->>'$.plan' = 'team'"
        assert (25, 3) == (len(ids(ws)), ws.sql_scalar(teams))
        with pytest.raises(ConfigError, match="other filters"):
            ws.sync_profiles(where='properties["n"] > 3')


@pytest.mark.slow
def test_the_past_of_a_profile_can_be_queried(emu, ws):
    """Each fetch adds the versions that are new to it, and marks what it no longer finds."""
    put(emu, 12, plan="free")
    ws.fetch_profiles()
    change(emu)
    ws.fetch_profiles(replace=True, history=True)
    versions = "SELECT count(*) FROM profiles_history"
    assert 12 + 4 == ws.sql_scalar(versions)
    ws.fetch_profiles(replace=True)
    assert 12 + 4 == ws.sql_scalar(versions)
    first, last = ws.sql_rows("SELECT min(as_of), max(as_of) FROM profiles_history").rows[0]

    def plans(moment):
        return ws.sql_rows(
            "SELECT properties->>'$.plan', count(*) FROM profiles_as_of(?) GROUP BY 1 ORDER BY 1",
            [moment],
        ).rows

    assert [("free", 12)] == plans(first)
    assert [("free", 9), ("team", 3)] == plans(last)
    assert [] == plans(first - timedelta(days=1))
    ws.drop("profiles")
    assert [("profiles_history", "other")] == [(one.name, one.type) for one in ws.tables()]
    ws.drop("profiles_history")
    assert [] == ws.tables()


@pytest.mark.slow
def test_a_typed_table_of_a_history_is_kept_current(emu, ws):
    """Each fetch of the profiles adds the versions that it found."""
    put(emu, 12, plan="free")
    ws.fetch_profiles(history=True)
    assert 12 == ws.typed_table("profiles_history").rows
    change(emu)
    ws.fetch_profiles(replace=True)
    assert 3 == ws.sql_scalar("SELECT count(*) FROM profiles_history_typed WHERE plan = 'team'")


@pytest.mark.slow
def test_a_table_of_your_own_is_not_taken_for_a_history(emu, ws):
    """Before any request."""
    ws.sql_rows("CREATE TABLE profiles_history AS SELECT 1 AS i", write=True)
    with pytest.raises(ConfigError, match="profiles_history is a table of your own"):
        ws.fetch_profiles(history=True)
    assert 0 == calls(emu)
    ws.fetch_profiles()
    assert 1 == ws.sql_scalar("SELECT i FROM profiles_history")


# Which, and what of them


@pytest.mark.slow
def test_appending_updates_a_table(emu, ws):
    """The latest version of a profile is kept; deleted ones stay, too."""
    with pytest.raises(TableNotFoundError):
        ws.fetch_profiles(append=True)
    put(emu, 15, plan="free")
    ws.fetch_profiles()
    put(emu, 12, plan="team")
    ws.fetch_profiles(append=True, distinct_ids=["u-0001", "u-0011", "u-0014"], mixed=True)
    plans = "SELECT distinct_id FROM profiles WHERE properties->>'$.plan' = 'team' ORDER BY 1"
    assert [("u-0001",), ("u-0011",)] == ws.sql_rows(plans).rows
    assert 15 == len(ids(ws))


@pytest.mark.slow
def test_group_id_fetches_profiles_of_a_group(emu, ws):
    """Instead of those of users."""
    companies = [
        {"$token": "T", "$group_key": "company", "$group_id": name, "$set": {"seats": 3}}
        for name in ("acme", "zorg")
    ]
    httpx.post(f"{emu.url}/groups", json=companies).raise_for_status()
    put(emu, 3)
    ws.fetch_profiles("companies", group_id="company")
    assert ["acme", "zorg"] == ids(ws, "companies")


@pytest.mark.slow
def test_cohort_id_fetches_the_members_of_a_cohort(emu, ws):
    """With `include_all_users`, also those without a profile."""
    put(emu, 15)
    emu.set_cohorts({7: ["u-0003", "u-0012", "ghost"]})
    ws.fetch_profiles("known", cohort_id=7)
    ws.fetch_profiles("all_of_them", cohort_id=7, include_all_users=True)
    assert ["u-0003", "u-0012"] == ids(ws, "known")
    assert ["ghost", "u-0003", "u-0012"] == ids(ws, "all_of_them")


@pytest.mark.slow
def test_output_properties_limit_what_is_fetched(emu, ws):
    """Nothing else of a profile is stored."""
    put(emu, 12, plan="team")
    ws.fetch_profiles(output_properties=["plan"])
    assert [('{"plan":"team"}',)] == ws.sql_rows("SELECT DISTINCT properties FROM profiles").rows


@pytest.mark.slow
def test_behaviors_select_users_by_what_they_did(emu, ws):
    """Counted back from `as_of_timestamp`, on every page."""
    put(emu, 30)
    events = [
        {
            "event": "Opened",
            "properties": {"time": NOW - 3600, "distinct_id": f"u-{n:04}", "$insert_id": f"i{n}"},
        }
        for n in range(12)
    ]
    robot = ("robot", "s3cret")
    sent = httpx.post(f"{emu.url}/import?strict=1&project_id=42", json=events, auth=robot)
    assert 200 == sent.status_code
    options = {"behaviors": WEEKLY, "where": 'behaviors["opens"] > 0', "as_of_timestamp": NOW}
    result = ws.fetch_profiles(**options)
    assert (12, 2) == (result.rows, result.requests)


@pytest.mark.slow
def test_an_empty_list_of_ids_makes_no_call(emu, ws):
    """It does not select every profile."""
    put(emu, 3)
    assert 0 == ws.fetch_profiles(distinct_ids=[]).rows
    assert 0 == calls(emu)


# Streams


def test_a_stream_has_every_profile(emu, ws):
    """A missing id is None, not a text."""
    put(emu, 25)
    assert [f"u-{n:04}" for n in range(25)] == [one["distinct_id"] for one in ws.stream_profiles()]
    odd = [{"$distinct_id": None, "$properties": None}, {"$distinct_id": 7}]
    body = {"page": 0, "page_size": 10, "total": 2, "results": odd}
    emu.play(Fault.status(200, body=body), path=ENGAGE)
    rows = list(ws.stream_profiles())
    assert [(None, {}), ("7", {})] == [(one["distinct_id"], one["properties"]) for one in rows]
