"""Feature flags from the emulator: definitions to poll, and remote evaluation."""

import json
import logging
import os
import re
import signal
import ssl
import subprocess
import sys
import threading

import httpx
import pytest
from typer.testing import CliRunner

from mixpanel.cli._output.exit_codes import ExitCode
from mixpanel.cli.app import app
from mixpanel.emulator import Emulator, Fault, serve
from mixpanel.flags import Snapshot, parse_definitions
from tests import peers

TOKEN = ("T", "")
ACCOUNT = ("robot", "s3cret")
USERS = [f"user-{number}" for number in range(200)]
OFFICIAL = peers.python("official")
TLS = (
    ssl.create_default_context()
)  # never used, but httpx takes longer to create one than to send a request


def flag(key="new-checkout", *rollouts, context="distinct_id", **more):
    """Define a flag with two variants; without rollouts it includes everyone."""
    return {
        "id": f"id-{key}",
        "name": key,
        "key": key,
        "status": "enabled",
        "project_id": 42,
        "context": context,
        "hash_salt": "0123456789abcdef0123456789abcdef",
        "ruleset": {
            "variants": [
                {"key": "control", "value": "off", "is_control": True, "split": 0.5},
                {"key": "treatment", "value": "on", "is_control": False, "split": 0.5},
            ],
            "rollout": list(rollouts) or [{"rollout_percentage": 1.0}],
        },
        **more,
    }


def everyone(variant):
    """A rollout that gives everyone the same variant."""
    return {"rollout_percentage": 1.0, "variant_splits": {variant: 1.0, other(variant): 0.0}}


def other(variant):
    return "control" if variant == "treatment" else "treatment"


def chosen(emulator, user="u1", *, flag_key=None, **context):
    """Request a user's flags, and return each one's variant_key."""
    params = {"context": json.dumps({"distinct_id": user, **context}), "token": "T"}
    if flag_key is not None:
        params["flag_key"] = flag_key
    response = httpx.get(f"{emulator.url}/flags", params=params, auth=TOKEN, verify=TLS)
    assert 200 == response.status_code
    return {key: each["variant_key"] for key, each in response.json()["flags"].items()}


def definitions(emulator, **headers):
    """Request the definitions with these headers."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.get(f"{emulator.url}/flags/definitions", auth=TOKEN, headers=sent)


def rewrite(path, content):
    """Write a file as an editor would, with a later modification time."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    os.utime(path, ns=(before + 10**9, before + 10**9))


# Definitions


def test_definitions_are_served_unchanged(emu):
    """Including cohorts, unknown keys and malformed flags, which clients have to handle."""
    body = {
        "flags": [flag("a", {"rollout_percentage": 1, "cohort_hash": "h"}), {"key": 5}, "é"],
        "more": 1,
    }
    emu.set_flags(body, cohorts={"h": {"u1"}})
    response = definitions(emu)
    assert (200, "application/json") == (response.status_code, response.headers["content-type"])
    assert body == response.json()


def test_there_are_no_flags_at_first(emu):
    """An empty list, as for a project without flags."""
    assert {"flags": []} == definitions(emu).json()
    assert {} == chosen(emu)


@pytest.mark.parametrize("shape", ["dict", "list", "tuple", "path", "string"])
def test_flags_may_be_a_response_a_list_or_a_file(tmp_path, shape):
    """The property returns the same as the endpoint."""
    file = tmp_path / "flags.json"
    file.write_text(json.dumps([flag()]), encoding="utf-8-sig")
    shapes = {
        "dict": {"flags": [flag()]},
        "list": [flag()],
        "tuple": (flag(),),
        "path": file,
        "string": str(file),
    }
    with Emulator(flags=shapes[shape]) as emulator:
        assert [flag()] == emulator.flags == definitions(emulator).json()["flags"]


def test_flags_are_copied(emu):
    """Changing the given or the returned ones does not change what is served."""
    mine = [flag()]
    emu.set_flags(mine)
    mine.append(flag("b"))
    emu.flags.clear()
    assert [flag()] == emu.flags


@pytest.mark.parametrize(
    "wrong", [{}, {"flags": {}}, {"flags": None}, [float("nan")], "missing.json"]
)
def test_invalid_flags_are_rejected_at_once(emu, wrong, tmp_path, monkeypatch):
    """With an error, and the flags stay as they were."""
    monkeypatch.chdir(tmp_path)
    emu.set_flags([flag()])
    with pytest.raises((ValueError, OSError)):
        emu.set_flags(wrong)
    assert [flag()] == emu.flags


def test_clear_keeps_the_flags(emu):
    """They were configured, not sent."""
    emu.set_flags([flag()])
    definitions(emu)
    emu.clear()
    assert ([flag()], []) == (emu.flags, emu.requests())


# ETag


def test_unchanged_definitions_are_304(emu):
    """The strong ETag of the body, alone, in a list, weakened by a proxy, or as a star."""
    emu.set_flags([flag()])
    tag = definitions(emu).headers["etag"]
    assert re.fullmatch(r'"[^"]+"', tag)
    for known in (tag, f'"x", {tag}', f"W/{tag}", "*"):
        response = definitions(emu, if_none_match=known)
        assert (304, tag, b"") == (response.status_code, response.headers["etag"], response.content)


def test_changed_definitions_have_another_etag(emu):
    """Changing them back restores the first one."""
    emu.set_flags([flag()])
    first = definitions(emu).headers["etag"]
    emu.set_flags([flag("b")])
    second = definitions(emu, if_none_match=first)
    assert (200, ["b"]) == (second.status_code, [each["key"] for each in second.json()["flags"]])
    assert first != second.headers["etag"]
    emu.set_flags({"flags": [flag()]})
    assert 304 == definitions(emu, if_none_match=first).status_code


def test_etags_can_be_switched_off():
    """`etag=False` sends none and ignores If-None-Match."""
    with Emulator(flags=[flag()], etag=False) as emulator:
        response = definitions(emulator, if_none_match="*")
    assert (200, None) == (response.status_code, response.headers.get("etag"))


# Credentials


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/flags", "/flags/definitions"])
@pytest.mark.parametrize(
    ("auth", "more", "status"),
    [
        (TOKEN, {}, 200),
        (ACCOUNT, {"project_id": "42"}, 200),
        (ACCOUNT, {}, 401),
        (("robot", "wrong"), {"project_id": "42"}, 401),
        (("someone", "s3cret"), {"project_id": "42"}, 401),
        (("other", ""), {}, 401),
        (("SECRET", ""), {}, 401),
        (None, {"token": "T"}, 401),
    ],
    ids=repr,
)
def test_flags_need_a_token_or_a_service_account(path, auth, more, status):
    """As Basic header only; the API secret is for other endpoints."""
    known = {"tokens": "T", "service_accounts": dict([ACCOUNT]), "api_secrets": "SECRET"}
    params = {"context": '{"distinct_id":"u1"}', **more}
    with Emulator(flags=[flag()], **known) as emulator:
        response = httpx.get(f"{emulator.url}{path}", params=params, auth=auth)
    assert status == response.status_code
    if status == 401:
        assert {"error": "Invalid credentials", "status": "error"} == response.json()


# Remote evaluation


def test_remote_evaluation_returns_the_selected_variants(emu):
    """With the documented fields, for test users and others."""
    values = {"experiment_id": "e-1", "is_experiment_active": True}
    tested = flag("tested", everyone("control"), **values)
    tested["ruleset"]["test"] = {"users": {"qa-1": "treatment"}}
    emu.set_flags([tested])
    params = {"context": '{"distinct_id":"qa-1"}'}
    response = httpx.get(f"{emu.url}/flags", params=params, auth=TOKEN)
    assert {
        "code": 200,
        "flags": {
            "tested": {
                "variant_key": "treatment",
                "variant_value": "on",
                "experiment_id": "e-1",
                "is_experiment_active": True,
                "is_qa_tester": True,
            }
        },
    } == response.json()
    assert {"tested": "control"} == chosen(emu, "u1")


@pytest.mark.slow
def test_remote_evaluation_agrees_with_local_evaluation(emu):
    """The same flags select the same variants for every user, rollouts and splits included."""
    rule = {"==": [{"var": "plan"}, "team"]}
    flags = [
        flag("all"),
        flag("some", {"rollout_percentage": 0.3}),
        flag("ruled", {"rollout_percentage": 1.0, "runtime_evaluation_rule": rule}),
        flag("by-company", context="company_id"),
    ]
    emu.set_flags(flags)
    local = parse_definitions({"flags": flags})
    for number, user in enumerate(USERS):
        context = {"custom_properties": {"plan": "Team" if number % 2 else "free"}}
        snapshot = Snapshot(local, {"distinct_id": user, **context})
        expected = {key: each.variant_key for key, each in snapshot.get_all().items()}
        assert expected == chosen(emu, user, **context)


def test_only_flags_that_include_the_user_are_returned(emu):
    """Not those with another context key, and not malformed ones."""
    emu.set_flags(
        [
            flag("in"),
            flag("out", {"rollout_percentage": 0.0}),
            flag("by-company", context="company_id"),
            flag("event", {"rollout_percentage": 1.0, "runtime_event_rule": {"event_name": "A"}}),
            {"key": "broken"},
        ]
    )
    assert ["in"] == list(chosen(emu))
    assert ["in", "by-company"] == list(chosen(emu, company_id="acme"))


def test_one_flag_can_be_requested(emu):
    """By `flag_key`; an unknown one is not returned."""
    emu.set_flags([flag("a"), flag("b")])
    assert ["b"] == list(chosen(emu, flag_key="b"))
    assert {} == chosen(emu, flag_key="c")


@pytest.mark.slow
def test_a_device_id_defaults_to_the_distinct_id(emu):
    """Flags by device then treat it as a device of that name."""
    emu.set_flags([flag(context="device_id")])
    for user in USERS[:20]:
        assert chosen(emu, user) == chosen(emu, "someone", device_id=user)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({}, "JSON"),
        ({"context": ""}, "JSON"),
        ({"context": "%7B%22distinct_id%22%3A%22u1%22%7D"}, "percent-encoded once"),
        ({"context": "[]"}, "object"),
        ({"context": "{}"}, "distinct_id"),
        ({"context": '{"distinct_id":""}'}, "distinct_id"),
        ({"context": '{"distinct_id":7}'}, "string"),
        ({"context": '{"device_id":"d1"}'}, "distinct_id"),
    ],
    ids=repr,
)
def test_a_context_needs_a_distinct_id(emu, params, why):
    """Otherwise the documented error, with the reason; a context encoded twice is not JSON."""
    response = httpx.get(f"{emu.url}/flags", params=params, auth=TOKEN)
    body = response.json()
    assert (400, "error", True) == (response.status_code, body["status"], why in body["error"])


# Cohorts


def test_a_cohort_is_decided_on_the_server(emu):
    """Its members get the rollout, others the next one; an unknown cohort has no members."""
    cohort = {**everyone("treatment"), "cohort_hash": "beta"}
    unknown = {**everyone("treatment"), "cohort_hash": "?"}
    emu.set_flags(
        [flag("first", cohort, everyone("control")), flag("only", cohort), flag("none", unknown)],
        cohorts={"beta": ["u1"], "other": {"u2"}},
    )
    assert {"first": "treatment", "only": "treatment"} == chosen(emu, "u1")
    assert {"first": "control"} == chosen(emu, "u2")


def test_a_cohort_of_one_member_may_be_a_string(emu):
    """A string is one distinct_id, not a collection of letters."""
    emu.set_flags([flag("a", {**everyone("control"), "cohort_hash": "h"})], cohorts={"h": "u1"})
    assert ({"a": "control"}, {}) == (chosen(emu, "u1"), chosen(emu, "u"))


@pytest.mark.slow
def test_rollouts_for_other_cohorts_keep_their_position(emu):
    """They are skipped but counted: the position is part of the salt."""
    second = {"rollout_percentage": 0.4}
    emu.set_flags([flag("a", {"rollout_percentage": 1.0, "cohort_hash": "h"}, second)])
    local = parse_definitions({"flags": [flag("a", {"rollout_percentage": 0.0}, second)]})
    expected = [user for user in USERS if Snapshot(local, {"distinct_id": user}).get_all()]
    assert expected == [user for user in USERS if chosen(emu, user)]


@pytest.mark.slow
@pytest.mark.parametrize("cohort_hash", [["h"], {"h": 1}, 5, None, ""])
def test_a_malformed_cohort_hash_is_ignored(emu, cohort_hash):
    """It names no cohort."""
    odd = {**everyone("treatment"), "cohort_hash": cohort_hash}
    emu.set_flags([flag("odd", odd), flag("b")], cohorts={"h": {"u1"}})
    assert "b" in chosen(emu, "u1")


# Requests and faults


def test_requests_for_flags_are_recorded(emu):
    """Like any other, with request and response."""
    emu.set_flags([flag()])
    tag = definitions(emu).headers["etag"]
    definitions(emu, if_none_match=tag)
    chosen(emu, "u1", flag_key="a")
    polls, (evaluation,) = emu.requests("/flags/definitions"), emu.requests("/flags")
    assert [("GET", 200), ("GET", 304)] == [(each.method, each.status) for each in polls]
    assert ("a", {"distinct_id": "u1"}) == (
        evaluation.query["flag_key"],
        json.loads(evaluation.query["context"]),
    )


def test_faults_apply_to_flags(emu):
    """The scripted one first, then the flags again."""
    emu.set_flags([flag()])
    emu.play(Fault.status(503), Fault.html(), Fault.malformed(), path="/flags/definitions")
    responses = [definitions(emu) for _ in range(4)]
    assert [503, 200, 200, 200] == [each.status_code for each in responses]
    assert [False, False, True] == [b"new-checkout" in each.content for each in responses[1:]]


def test_the_page_has_the_flags(emu):
    """As they are served, malformed ones too."""
    flags = [flag("<b>", {"rollout_percentage": 0.25}), {"key": "<i>"}, 7]
    emu.set_flags(flags)
    found = httpx.get(f"{emu.url}/live/flags").json()["flags"]
    assert flags == [each["definition"] for each in found]
    assert ["<b>", "<i>", None] == [each["key"] for each in found]


def test_the_page_has_the_latest_evaluations_of_a_flag(emu):
    """Those of the server with the reason, and exposures that clients sent."""
    emu.set_flags([flag("new-checkout", {"rollout_percentage": 1})])
    context = json.dumps({"distinct_id": "u-1"})
    httpx.get(f"{emu.url}/flags", params={"context": context}, auth=("T", ""))
    exposure = {"Experiment name": "new-checkout", "Variant name": "control"}
    properties = {"token": "T", "distinct_id": "u-2", **exposure}
    httpx.post(
        f"{emu.url}/track", json=[{"event": "$experiment_started", "properties": properties}]
    )
    (found,) = httpx.get(f"{emu.url}/live/flags").json()["flags"]
    seen, decided = found["evaluations"]
    assert ("u-2", "control") == (seen["distinct_id"], seen["variant"])
    assert "u-1" == decided["distinct_id"]
    assert decided["reason"].startswith("flag 'new-checkout': variant ")


def test_the_page_explains_a_flag_for_any_context(emu):
    """With the trace of `explain`; a context that is not an object is refused with an example."""
    emu.set_flags([flag("new-checkout", {"rollout_percentage": 1})])
    url, params = f"{emu.url}/live/flags", {"flag": "new-checkout"}
    answered = httpx.get(url, params={**params, "context": '{"distinct_id": "u-1"}'}).json()
    assert "rollout 0 (1): bucket" in answered["trace"]
    for wrong in ("[1]", "{"):
        refused = httpx.get(url, params={**params, "context": wrong})
        assert 400 == refused.status_code
        assert "context" in refused.json()["error"]


# A file of flags


def test_a_changed_file_is_reloaded(emu, tmp_path):
    """Editing it changes the next response and its ETag; touching it changes neither."""
    file = tmp_path / "flags.json"
    rewrite(file, [flag("a")])
    emu.set_flags(file)
    first = definitions(emu)
    rewrite(file, [flag("a")])
    assert 304 == definitions(emu, if_none_match=first.headers["etag"]).status_code
    rewrite(file, {"flags": [flag("b")]})
    assert ["b"] == list(chosen(emu))
    second = definitions(emu, if_none_match=first.headers["etag"])
    assert (200, {"flags": [flag("b")]}) == (second.status_code, second.json())


def test_a_reloaded_file_keeps_its_cohorts(emu, tmp_path):
    """They are not in the file."""
    file, cohort = tmp_path / "flags.json", {"rollout_percentage": 1.0, "cohort_hash": "h"}
    rewrite(file, [flag("a", cohort)])
    emu.set_flags(file, cohorts={"h": {"u1"}})
    rewrite(file, [flag("b", cohort)])
    assert (["b"], []) == (list(chosen(emu, "u1")), list(chosen(emu, "u2")))


@pytest.mark.slow
@pytest.mark.parametrize("broken", ['{"flags": [', '{"flags": 1}', "[NaN]", "\x00", ""])
def test_a_malformed_file_keeps_the_last_good_flags(emu, tmp_path, caplog, broken):
    """It is logged once, by name, until it is valid again."""
    file = tmp_path / "flags.json"
    rewrite(file, [flag("a")])
    emu.set_flags(file)
    rewrite(file, broken)
    with caplog.at_level(logging.WARNING, "mixpanel.emulator"):
        assert [["a"]] * 3 == [list(chosen(emu)) for _ in range(3)]
    (message,) = caplog.messages
    assert (True, True) == (
        message.startswith(f"{file}: "),
        "Keeping the previous flags" in message,
    )
    rewrite(file, [flag("b")])
    assert ["b"] == list(chosen(emu))


def test_a_removed_file_keeps_the_last_good_flags(emu, tmp_path, caplog):
    """Editors remove a file briefly when they save it."""
    file = tmp_path / "flags.json"
    rewrite(file, [flag("a")])
    emu.set_flags(file)
    file.unlink()
    assert [["a"]] * 2 == [list(chosen(emu)) for _ in range(2)]
    assert 1 == len(caplog.messages)
    rewrite(file, [flag("b")])
    assert ["b"] == list(chosen(emu))


def test_setting_other_flags_stops_reloading_a_file(emu, tmp_path):
    """The flags that were set last are served."""
    file = tmp_path / "flags.json"
    rewrite(file, [flag("a")])
    emu.set_flags(file)
    emu.set_flags([flag("b")])
    rewrite(file, [flag("c")])
    assert ["b"] == list(chosen(emu))


# Running it


@pytest.mark.slow
def test_the_emulator_imports_flag_evaluation_lazily():
    """Tests of events do not wait for it."""
    code = (
        "import sys\nfrom mixpanel.emulator import Emulator\n"
        "with Emulator(flags=[]): pass\n"
        "print({'mixpanel.flags', 'pydantic', 'json_logic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "set()" == done.stdout.strip()


def test_serve_accepts_a_file_of_flags(tmp_path):
    """As the emulator does."""
    file, seen = tmp_path / "flags.json", []
    rewrite(file, [flag("a")])

    def started(running):
        seen.extend(chosen(running))
        raise KeyboardInterrupt

    serve(flags=file, started=started)
    assert ["a"] == seen


@pytest.mark.slow
def test_mp_emulator_reloads_a_file_of_flags(tmp_path):
    """A mistake in it is reported on stderr."""
    file = tmp_path / "flags.json"
    rewrite(file, [flag("a")])
    run = "from mixpanel.cli.main import run; run()"
    command = [sys.executable, "-c", run, "emulator", "--port", "0", "--flags", str(file)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    plain = {**os.environ, "NO_COLOR": "1", "COLUMNS": "1000"}
    with subprocess.Popen(command, env=plain, **pipes) as running:
        watchdog = threading.Timer(30, running.kill)
        watchdog.start()
        url = running.stdout.readline().strip()

        def keys():
            body = httpx.get(f"{url}/flags/definitions", auth=TOKEN).json()
            return [each["key"] for each in body["flags"]]

        served = [keys()]
        rewrite(file, [flag("b")])
        served.append(keys())
        rewrite(file, "{")
        served.append(keys())
        running.send_signal(signal.SIGINT)
        _, err = running.communicate()
        watchdog.cancel()
    assert [["a"], ["b"], ["b"]] == served
    assert (0, 1) == (running.returncode, err.count("Keeping the previous flags"))
    assert f"Feature flags come from {file}" in err
    assert "Traceback" not in err


def test_mp_emulator_rejects_a_malformed_file_in_one_line(tmp_path):
    """At the start there are no last good flags."""
    file = tmp_path / "flags.json"
    file.write_text("{")
    runner = CliRunner(env={"COLUMNS": "1000", "NO_COLOR": "1"})
    result = runner.invoke(app, ["emulator", "--port", "0", "--flags", str(file)])
    assert (ExitCode.USAGE, "") == (result.exit_code, result.stdout)
    assert result.stderr.startswith(f"mp: cannot start: {file}: ")
    assert 1 == result.stderr.count("\n")


# The official SDK

SETUP = """
import json, sys
from mixpanel import LocalFlagsConfig, Mixpanel, RemoteFlagsConfig, ServiceAccountCredentials

url, users = sys.argv[1], json.loads(sys.argv[2])
account = ServiceAccountCredentials("robot", "s3cret", "42") if sys.argv[3:] else None
local, remote = LocalFlagsConfig(enable_polling=False), RemoteFlagsConfig()
mp = Mixpanel("T", None, credentials=account, local_flags_config=local, remote_flags_config=remote)
# It always uses https for its api_host.
mp.local_flags._sync_client.base_url = mp.remote_flags._sync_client.base_url = url
"""
SCRIPT = """
def keys(provider, user):
    found = provider.get_all_variants({"distinct_id": user})
    return {key: each.variant_key for key, each in found.items()}

with mp:
    mp.local_flags.start_polling_for_definitions()
    assert mp.local_flags.are_flags_ready()
    print(json.dumps([[keys(each, user) for user in users]
                      for each in (mp.local_flags, mp.remote_flags)]))
"""


def official(emulator, users, *more):
    command = [OFFICIAL, "-I", "-c", SETUP + SCRIPT, emulator.url, json.dumps(users), *more]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    return json.loads(done.stdout)


@pytest.mark.skipif(
    not OFFICIAL.exists(), reason="python -m tests.peers official makes its environment"
)
@pytest.mark.parametrize("account", [(), ("account",)], ids=["token", "service account"])
def test_the_official_sdk_reads_both_endpoints(account):
    """With token and with service account, its providers select the same variants."""
    flags = [flag("all"), flag("some", {"rollout_percentage": 0.3}), flag("by", context="group")]
    users = USERS[:30]
    with Emulator(flags=flags, tokens="T", service_accounts=dict([ACCOUNT])) as emulator:
        local, remote = official(emulator, users, *account)
        expected = [chosen(emulator, user) for user in users]
    assert (expected, expected) == (local, remote)
