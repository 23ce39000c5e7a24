"""The app API over HTTP: documented shapes and statuses, both slashes, and what is kept."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from mixpanel.emulator import Emulator

AUTH = ("robot", "s3cret")
SEEDS = Path(__file__).parents[1] / "data" / "project" / "seeds.json"
APP = "/api/app"
PROJECT = f"{APP}/projects/4242"
BEARER = {"Authorization": "Bearer t0ken"}


@pytest.fixture
def emu():
    with Emulator(service_accounts=None, tokens={"T"}) as emulator:
        emulator.seed(SEEDS)
        yield emulator


@pytest.fixture
def http(emu):
    with httpx.Client(base_url=emu.url, auth=AUTH) as client:
        yield client


def test_both_spellings_of_a_path_are_answered(http):
    """With a slash at the end, and without."""
    for path in ("dashboards", "data-definitions/events", "feature-flags/limits", "metrics"):
        first, second = http.get(f"{PROJECT}/{path}"), http.get(f"{PROJECT}/{path}/")
        assert (200, first.json()) == (second.status_code, second.json())


SHAPES = [
    ("GET", f"{PROJECT}/annotations/tags", None, 200, [{"id": 1022}]),
    ("POST", f"{PROJECT}/annotations/tags/", {"name": "x"}, 201, {"name": "x"}),
    ("DELETE", f"{PROJECT}/annotations/1004", None, 200, {"results": {"id": 1004}}),
    ("GET", f"{PROJECT}/metrics", None, 200, {"results": {"1007": {"name": "Paid"}}}),
    ("GET", f"{PROJECT}/metrics/1007", None, 200, {"results": {"1007": {"name": "Paid"}}}),
    ("DELETE", f"{PROJECT}/metrics/1007", None, 501, {"status": "error"}),
    ("DELETE", f"{PROJECT}/metrics", {"metrics": [{"id": 1007}]}, 204, None),
    ("POST", f"{PROJECT}/metrics", {"name": "Paid", "definition": {"a": 1}}, 409, {}),
    ("POST", f"{PROJECT}/bookmarks/bulk-delete", {"bookmark_ids": [1001]}, 204, None),
    ("GET", f"{PROJECT}/bookmarks/1001/linked-dashboard-ids", None, 200, {"results": [1002]}),
    ("POST", f"{PROJECT}/dashboards", {}, 400, {"error": "title: required"}),
    ("GET", f"{PROJECT}/dashboards/1", None, 404, {"status": "error"}),
    ("PUT", f"{PROJECT}/dashboards/1002/pin", None, 405, {"status": "error"}),
    ("GET", f"{PROJECT}/nothing", None, 404, {"status": "error"}),
    ("GET", f"{PROJECT}/webhooks/", None, 200, {"results": [{"id": "1005"}]}),
    ("GET", f"{PROJECT}/workspaces/77/feature-flags/1009/", None, 200, {"results": {"id": "1009"}}),
    ("GET", f"{PROJECT}/feature-flags/limits/", None, 200, {"results": {"current_usage": 1}}),
    ("POST", f"{PROJECT}/alerts/custom/bulk-delete/", {"alert_ids": [1006]}, 204, None),
    ("GET", f"{PROJECT}/alerts/custom/alert-count/", None, 200, {"results": {"alert_limit": 100}}),
    (
        "PATCH", f"{PROJECT}/data-definitions/properties/",
        {"name": "plan", "resourceType": "event"}, 400, {},
    ),
    (
        "GET", f"{PROJECT}/data-definitions/events/drop-filters/limits/", None, 200,
        {"results": {"filterLimit": 100}},
    ),
    (
        "DELETE", f"{PROJECT}/data-definitions/events/drop-filters/", {"id": 1013}, 200,
        {"results": []},
    ),
    (
        "GET", f"{PROJECT}/data-definitions/events/?custom_event=true", None, 200,
        {"results": [{"customEventId": 1015}]},
    ),
    (
        "GET", f"{PROJECT}/custom_properties/1014/", None, 200,
        {"results": {"customPropertyId": 1014}},
    ),
    (
        "GET", f"{APP}/organizations/1/service-accounts/1018", None, 200,
        {"id": 1018, "username": "reader"},
    ),
    ("DELETE", f"{APP}/organizations/1/service-accounts/1018", None, 204, None),
    ("POST", f"{APP}/organizations/1/service-accounts", {"username": "x", "role": "king"}, 400, {}),
    (
        "PATCH", f"{PROJECT}/warehouse-sources/imports/1021", {"run_every": 5}, 400,
        {"error": "paused: required"},
    ),
    (
        "PATCH", f"{PROJECT}/warehouse-sources/imports/1021", {"paused": True, "run_every": 5}, 400,
        {},
    ),
    (
        "PUT", f"{PROJECT}/warehouse-sources/imports/1021/manual-sync", None, 200,
        {"results": {"run_id": "run-1021-1"}},
    ),
    (
        "GET", f"{PROJECT}/business-context/chain", None, 200,
        {"results": {"project_context": "A shop"}},
    ),
    ("POST", f"{PROJECT}/replays/sign/bulk", {"replays": []}, 403, {"status": "error"}),
    (
        "GET", f"{PROJECT}/schemas/event/Order%20Paid", None, 200,
        {"results": {"description": "Paid"}},
    ),
    ("DELETE", f"{PROJECT}/schemas", None, 200, {"results": {"delete_count": 1}}),
]  # fmt: skip


def within(expected, found):
    """Return True if everything expected was found, at any depth."""
    if isinstance(expected, dict):
        return all(name in found and within(value, found[name]) for name, value in expected.items())
    if isinstance(expected, list):
        return len(expected) == len(found) and all(map(within, expected, found))
    return expected == found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "path", "body", "status", "expected"), SHAPES, ids=[f"{e[0]} {e[1]}" for e in SHAPES]
)
def test_answers_have_the_documented_shapes(http, method, path, body, status, expected):
    """In an envelope or without one, as objects, lists or mappings by id."""
    answer = http.request(method, path, json=body)
    assert status == answer.status_code, answer.text
    if expected is None:
        assert b"" == answer.content
    else:
        assert within(expected, answer.json()), answer.text


def test_secrets_are_not_given_out_again(http):
    """Neither a webhook's password nor a service account's secret."""
    assert "pa55word" not in http.get(f"{PROJECT}/webhooks").text
    accounts = f"{APP}/organizations/1/service-accounts"
    made = http.post(accounts, json={"username": "x", "role": "admin"}).json()["results"]
    assert made["token"] not in http.get(accounts).text
    assert made["token"] not in http.get(f"{accounts}/{made['id']}").text


def test_requests_of_people_need_a_token_of_the_project_and_of_oauth(http):
    """Else 401, in both cases."""
    path, sent = f"{APP}/data-retrievals/v3.0/", {"distinct_ids": ["u-1"]}
    assert 401 == http.post(path, params={"token": "T"}, json=sent).status_code
    with httpx.Client(base_url=http.base_url, headers=BEARER) as bearer:
        assert 401 == bearer.post(path, params={"token": "U"}, json=sent).status_code
        made = bearer.post(path, params={"token": "T"}, json=sent)
        assert (201, {"task_id"}) == (made.status_code, set(made.json()["results"]))
        assert 400 == bearer.post(path, params={"token": "T"}, json={}).status_code
        many = {"distinct_ids": [str(n) for n in range(2001)]}
        assert 400 == bearer.post(path, params={"token": "T"}, json=many).status_code
        unknown = bearer.get(f"{APP}/data-deletions/v3.0/1", params={"token": "T"})
        assert 404 == unknown.status_code


def test_a_flag_that_was_made_is_served(emu, http):
    """With its variants, once it is enabled; with a new salt if that is reset; not if archived."""
    variants = [{"key": "on", "value": True, "is_control": False, "split": 1.0}]
    rollout = [{"rollout_percentage": 1.0}]
    flag = {
        "name": "New", "key": "new", "context": "distinct_id", "status": "enabled",
        "serving_method": "remote_or_local", "tags": [],
        "ruleset": {"variants": variants, "rollout": rollout},
    }  # fmt: skip
    flags = f"{PROJECT}/workspaces/77/feature-flags"
    made = http.post(f"{flags}/", json=flag).json()["results"]
    query = {"context": '{"distinct_id": "u-1"}', "token": "T"}
    served = httpx.get(f"{emu.url}/flags", params=query, auth=("T", "")).json()["flags"]
    assert ("on", True) == (served["new"]["variant_key"], served["new"]["variant_value"])
    assert ["cart", "new"] == [each["key"] for each in emu.flags]
    changed = http.put(f"{flags}/{made['id']}/", json={**flag, "reset_hash_salt": True}).json()
    assert changed["results"]["hash_salt"] != made["hash_salt"]
    http.post(f"{flags}/{made['id']}/archive/")
    assert ["cart"] == [each["key"] for each in emu.flags]
    emu.set_flags([{"key": "cart", "name": "Set"}])
    assert ["Set"] == [each["name"] for each in emu.flags]


def test_a_report_on_a_board_is_a_copy(http):
    """Which taking it off removes from the board."""
    board = f"{PROJECT}/dashboards/1002"
    params = {"source_bookmark_id": 1001}
    add = {"action": "create", "content_type": "report", "content_params": params}
    before = set(http.get(board).json()["results"]["contents"])
    contents = http.patch(board, json={"content": add}).json()["results"]["contents"]
    (copy,) = set(contents) - before
    remove = {"action": "delete", "content_type": "report", "content_id": int(copy)}
    after = http.patch(board, json={"content": remove}).json()["results"]["contents"]
    assert before == set(after)
    assert 400 == http.patch(board, json={"content": {"action": "jump"}}).status_code


def test_storage_addresses_need_no_credentials_and_are_limited(emu, http):
    """What was uploaded cannot be read there, and nothing else can be written."""
    tables = f"{PROJECT}/data-definitions/lookup-tables/"
    target = http.get(f"{tables}upload-url/").json()["results"]
    assert 200 == httpx.put(target["url"], content=b"a\n1\n").status_code
    assert 404 == httpx.get(target["url"]).status_code
    assert 403 == httpx.put(f"{emu.url}/storage/tables/x", content=b"a").status_code
    form = {"name": "T", "path": target["path"], "key": target["key"]}
    made = http.post(tables, data=form).json()["results"]
    direct = http.get(f"{tables}download/", params={"data-group-id": made["id"]})
    assert (200, "a\n1\n") == (direct.status_code, direct.text)
    assert 400 == http.post(tables, data={**form, "key": "none"}).status_code


def test_a_seeded_lookup_table_can_be_downloaded(http):
    """Written anew from its rows."""
    tables = f"{PROJECT}/data-definitions/lookup-tables/"
    found = http.get(f"{tables}download/", params={"data-group-id": 1016}).text
    assert ["sku,title", "A1,Green tea"] == found.splitlines()


@pytest.mark.slow
def test_saved_objects_are_kept_in_the_file_of_the_database(tmp_path):
    """With their ids; a removed one stays removed."""
    path = tmp_path / "project.duckdb"
    with Emulator(db=path) as first:
        first.seed(SEEDS)
        with httpx.Client(base_url=first.url, auth=AUTH) as http:
            http.delete(f"{PROJECT}/dashboards/1002")
            made = http.post(f"{PROJECT}/dashboards", json={"title": "Kept"}).json()["results"]
            http.patch(f"{PROJECT}/dashboards/{made['id']}", json={"title": "Changed"})
    with Emulator(db=path) as second, httpx.Client(base_url=second.url, auth=AUTH) as http:
        boards = http.get(f"{PROJECT}/dashboards").json()["results"]
        assert [(made["id"], "Changed")] == [(each["id"], each["title"]) for each in boards]
        assert "A shop" in http.get(f"{PROJECT}/business-context").text
        again = http.post(f"{PROJECT}/dashboards", json={"title": "New"}).json()["results"]
        assert again["id"] > made["id"]
        second.clear()
        assert [] == http.get(f"{PROJECT}/dashboards").json()["results"]
    with Emulator(db=path) as third, httpx.Client(base_url=third.url, auth=AUTH) as http:
        assert [] == http.get(f"{PROJECT}/dashboards").json()["results"]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="the end is a signal")
def test_the_command_takes_seeds(tmp_path):
    """From a file, before it prints its address."""
    script = "import sys; from mixpanel.cli.main import run; run()"
    running = subprocess.Popen(
        [sys.executable, "-c", script, "emulator", "--port", "0", "--seed", str(SEEDS)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "NO_COLOR": "1"},
    )  # fmt: skip
    with running:
        try:
            said = running.stdout.readline()
            url = re.search(r"http://\S+", running.stdout.readline())[0]
            boards = httpx.get(f"{url}{PROJECT}/dashboards", auth=AUTH).json()["results"]
        finally:
            running.send_signal(signal.SIGINT)
            running.wait(10)
    assert re.fullmatch(r"Saved \d+ objects of \S+seeds\.json\.\n", said)
    assert ["Weekly"] == [each["title"] for each in boards]
