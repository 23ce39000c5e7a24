"""Fetches of profiles, page by page: each once, its latest version, in as few calls as possible."""

import json

import httpx
import pytest

from mixpanel.data import Credentials, Workspace
from mixpanel.data.exceptions import ServerError, TableNotFoundError
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


def test_without_a_total_the_last_page_is_the_one_that_is_not_full(emu, ws):
    """Pages are fetched one by one then, and an empty one may cost a call; it is counted."""
    emu.play(page(0, "a", "b"), page(1, "c", "d"), page(2), path=ENGAGE)
    even = ws.fetch_profiles("even")
    assert (4, 3) == (even.rows, even.requests)
    emu.play(page(0, "a", "b"), page(1, "c"), path=ENGAGE)
    odd = ws.fetch_profiles("odd")
    assert (3, 2) == (odd.rows, odd.requests)
    assert 5 == calls(emu)


def test_an_impossible_total_is_ignored(emu, ws):
    """It is smaller than the page that has it."""
    emu.play(page(0, "a", "b", total=1), page(1, "c"), path=ENGAGE)
    ws.fetch_profiles()
    assert ["a", "b", "c"] == ids(ws)


@pytest.mark.parametrize(("count", "spent"), [(2000, 2), (2500, 3)])
def test_pages_have_a_thousand_profiles(count, spent):
    """This is the page size of Mixpanel."""
    with Emulator() as emu, Workspace.memory(credentials=ROBOT, base_url=emu.url) as ws:
        put(emu, count)
        result = ws.fetch_profiles()
        assert (count, spent, spent) == (result.rows, result.requests, calls(emu))
        assert count == len(set(ids(ws)))


# What fails


def test_a_failing_page_stores_nothing(emu, ws):
    """The error is typed, the table unchanged, and no file of another page is left."""
    put(emu, 5)
    ws.fetch_profiles()
    put(emu, 60)
    broken = Fault.status(200, body={"status": "ok", "results": "none"})
    emu.play(broken, path=ENGAGE, when=lambda request: b"page=3" in request.body)
    with pytest.raises(ServerError, match="page 3 of the profiles has no list"):
        ws.fetch_profiles(replace=True)
    assert 5 == len(ids(ws))
    assert ["profiles"] == [one.name for one in ws.tables()]
    assert [] == list(ws.database.parts.glob("*.ndjson"))
    assert 60 == ws.fetch_profiles(replace=True).rows


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


# Which, and what of them


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


def test_cohort_id_fetches_the_members_of_a_cohort(emu, ws):
    """With `include_all_users`, also those without a profile."""
    put(emu, 15)
    emu.set_cohorts({7: ["u-0003", "u-0012", "ghost"]})
    ws.fetch_profiles("known", cohort_id=7)
    ws.fetch_profiles("all_of_them", cohort_id=7, include_all_users=True)
    assert ["u-0003", "u-0012"] == ids(ws, "known")
    assert ["ghost", "u-0003", "u-0012"] == ids(ws, "all_of_them")


def test_output_properties_limit_what_is_fetched(emu, ws):
    """Nothing else of a profile is stored."""
    put(emu, 12, plan="team")
    ws.fetch_profiles(output_properties=["plan"])
    assert [('{"plan":"team"}',)] == ws.sql_rows("SELECT DISTINCT properties FROM profiles").rows


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
