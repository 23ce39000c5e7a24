"""`mp flags`: list, evaluate, explain, lint, watch."""

import json
import signal
import subprocess
import sys

import pytest

from mixpanel.emulator import Emulator, Fault
from tests.cli.cli_data import runner, wait_until
from tests.flags.test_local import flag

USER = '{"distinct_id": "u-17", "custom_properties": {"plan": "Team"}}'


def mp(*arguments, emu=None, env=None):
    """Run `mp` in this process, the emulator and a token in the environment."""
    environment = {"NO_COLOR": "1", "COLUMNS": "100", **(env or {})}
    if emu is not None:
        environment |= {"MP_BASE_URL": emu.url, "MP_TOKEN": "t"}
    return runner(environment)(*arguments)


@pytest.fixture
def defined():
    ruled = flag("ruled", value="blue")
    ruled["ruleset"]["rollout"][0]["runtime_evaluation_rule"] = {"==": [{"var": "plan"}, "team"]}
    return {"flags": [flag(), ruled]}


@pytest.fixture
def file(tmp_path, defined):
    path = tmp_path / "flags.json"
    path.write_text(json.dumps(defined))
    return str(path)


def test_list_shows_the_flags(emu, defined, file):
    """From Mixpanel or from a file."""
    emu.set_flags(defined)
    fetched = mp("flags", "list", emu=emu)
    assert "checkout" in fetched.stdout
    assert "ruled" in fetched.stdout
    listed = json.loads(mp("flags", "list", "--file", file, "--format", "json").stdout)
    assert [one["key"] for one in listed["flags"]] == ["checkout", "ruled"]


@pytest.mark.slow
@pytest.mark.parametrize("remote", [[], ["--remote"]])
def test_eval_returns_the_variant(emu, defined, remote):
    """Evaluated here or by Mixpanel; no exposure is reported."""
    emu.set_flags(defined)
    done = mp("flags", "eval", "ruled", "--context", USER, *remote, emu=emu)
    assert json.loads(done.stdout)["value"] == "blue"
    result = json.loads(
        mp("flags", "eval", "ruled", "--context", USER, "--format", "json", *remote, emu=emu).stdout
    )
    assert (result["variant"], result["value"]) == ("on", "blue")
    assert result["source"] == ("remote" if remote else "local")
    assert emu.events(raw=True) == []


def test_eval_of_an_unknown_flag_ends_with_4(file):
    """The reason is in the result, and on stderr."""
    done = mp("flags", "eval", "nope", "--context", USER, "--file", file)
    assert (done.exit_code, json.loads(done.stdout)["reason"]) == (4, "FLAG_NOT_FOUND")
    assert "FLAG_NOT_FOUND" in done.stderr


def test_explain_shows_buckets_and_clauses(file):
    """For each rollout, as text or as JSON."""
    explain = ("flags", "explain", "ruled", "--context", USER, "--file", file)
    for form in ("plain", "table"):
        done = mp(*explain, "--format", form)
        assert "bucket" in done.stdout
        assert "plan = 'team'" in done.stdout
    (rollout,) = json.loads(mp(*explain).stdout)["rollouts"]
    assert (rollout["bucket"], rollout["variant_key"]) >= (0, "on")
    assert mp("flags", "explain", "nope", "--context", USER, "--file", file).exit_code == 4


def test_lint_reports_and_ends_with_6(tmp_path, file):
    """Without problems it ends with 0."""
    assert mp("flags", "lint", file).exit_code == 0
    assert mp("flags", "lint", "--file", file).exit_code == 0
    odd = flag("odd")
    odd["ruleset"]["rollout"][0]["cohort_hash"] = "abc"
    odd["ruleset"]["variants"][0]["split"] = 0.5
    path = tmp_path / "odd.json"
    path.write_text(json.dumps({"flags": [odd]}))
    done = mp("flags", "lint", str(path))
    assert done.exit_code == 6
    problems = json.loads(done.stdout)["problems"]
    assert ("odd", 0, "for a cohort") in [
        (one["flag"], one["rollout"], one["message"]) for one in problems
    ]
    table = mp("flags", "lint", str(path), "--format", "table").stdout
    assert "for a cohort" in table
    assert {one["flag"] for one in problems} == {"odd"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("list", "--file"),
        ("eval", "checkout", "--context", USER, "--file"),
        ("explain", "checkout", "--context", USER, "--file"),
        ("lint",),
    ],
)
def test_a_file_of_flags_is_an_object_or_a_list(tmp_path, command):
    """Each command reports anything else in the same words, with the file's name."""
    path = tmp_path / "flags.json"
    path.write_text(json.dumps([flag()]))
    assert mp("flags", *command, str(path)).exit_code == 0
    for neither in ("7", "{}", '{"flags": 7}'):
        path.write_text(neither)
        done = mp("flags", *command, str(path))
        assert (done.exit_code, done.stdout) == (3, "")
        assert done.stderr == f'mp: {path} must hold {{"flags": [...]}} or a list of flags\n'


def test_eval_names_the_missing_context_key(file):
    """In words, and with the library's reason."""
    done = mp("flags", "eval", "checkout", "--context", "{}", "--file", file)
    assert (done.exit_code, json.loads(done.stdout)["variant"]) == (0, None)
    assert done.stderr == (
        "no variant: the context has no distinct_id, which this flag needs (MISSING_CONTEXT_KEY)\n"
    )


def test_watch_counts_the_flags(emu):
    """In the singular for one."""
    watch = ("flags", "watch", "--seconds", "0")
    emu.set_flags([flag()])
    assert mp(*watch, emu=emu).stderr == "watching 1 flag, Ctrl-C stops\n"
    emu.set_flags([flag(), flag("fresh")])
    assert mp(*watch, emu=emu).stderr == "watching 2 flags, Ctrl-C stops\n"


@pytest.mark.slow
def test_watch_prints_changes_as_they_happen(emu, defined):
    """Added, changed and removed flags."""
    emu.set_flags(defined)
    command = [sys.executable, "-c", "from mixpanel.cli.main import run; run()", "flags", "watch"]
    options = ["--interval", "0.2", "--seconds", "60", "--token", "t", "--base-url", emu.url]
    with subprocess.Popen(command + options, stdout=subprocess.PIPE, text=True) as process:
        wait_until(lambda: len(emu.requests("/flags/definitions")) >= 2)
        emu.set_flags([flag(value=False), flag("fresh")])
        changes = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == ""
    assert sorted((one["change"], one["flag"]) for one in changes) == [
        ("added", "fresh"),
        ("changed", "checkout"),
        ("removed", "ruled"),
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["list"], 3, "the project is missing"),
        (["eval", "x", "--context", "{"], 3, "not valid JSON"),
        (["eval", "x", "--context", "[]"], 3, "must be an object"),
        (["eval", "x", "--context", "@missing.json"], 3, "cannot read missing.json"),
        (["list"], 3, "or use mp --account NAME; the default account is not used"),
        (["list", "--format", "text"], 3, "'text' is not one of 'table', 'json', 'jsonl'"),
        (["watch", "--format", "csv"], 3, "use --format jsonl, table or plain"),
    ],
)
def test_invalid_input_is_reported_in_one_line(arguments, code, words):
    """Without a traceback."""
    done = mp("flags", *arguments, env={"MP_BASE_URL": "", "MP_TOKEN": ""})
    assert done.exit_code == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("remote", [[], ["--remote"]])
def test_a_service_account_is_enough(defined, remote):
    """It needs no token; an incomplete account is a mistake."""
    account = {"MP_USERNAME": "robot", "MP_SECRET": "s3cret", "MP_PROJECT_ID": "42"}
    arguments = ["flags", "eval", "ruled", "--context", USER, *remote]
    with Emulator(tokens=[], service_accounts={"robot": "s3cret"}, flags=defined) as emu:
        env = {**account, "MP_BASE_URL": emu.url, "MP_TOKEN": ""}
        assert json.loads(mp(*arguments, env=env).stdout)["value"] == "blue"
        assert emu.requests()[0].query["project_id"] == "42"
        done = mp(*arguments, env={**env, "MP_PROJECT_ID": ""})
    assert done.exit_code == 3
    assert "MP_PROJECT_ID" in done.stderr


@pytest.mark.parametrize("command", [["list"], ["eval", "x", "--context", USER, "--remote"]])
def test_an_unreachable_host_is_named_once(command):
    """The request is not shown: its query holds the token."""
    nowhere = {"MP_BASE_URL": "http://127.0.0.1:9", "MP_TOKEN": "t0ken"}
    done = mp("flags", *command, env=nowhere)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.count("http://127.0.0.1:9: cannot connect") == 1
    assert done.stderr.count("\n") == 1
    assert "t0ken" not in done.stderr


def test_refused_credentials_end_with_2(emu):
    """After a 401 for the definitions."""
    emu.play(Fault.status(401).forever())
    done = mp("flags", "list", emu=emu)
    assert done.exit_code == 2
    assert "Traceback" not in done.stderr
