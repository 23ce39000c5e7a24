"""`mp auth`, and what holds for every command: --account, --quiet, errors as JSON, exit codes."""

import contextlib
import json
import os
import re
import subprocess
import sys
import threading

import pytest
from typer.testing import CliRunner

from mixpanel.cli import auth
from mixpanel.cli._options.global_options import ErrorFormat, global_options, reset
from mixpanel.cli._output.exit_codes import ExitCode, error_to_dict, exit_code
from mixpanel.cli.app import app
from mixpanel.data import exceptions as data
from mixpanel.data.config import Config
from mixpanel.emulator import Emulator, Fault
from mixpanel.exceptions import ConfigurationError, RateLimitError, TransportError

ADD = ("auth", "add", "prod", "-u", "robot", "-p", "42", "-r", "eu")
WHO = {
    "name": "prod", "username": "robot", "project_id": "42", "region": "eu",
    "type": "service_account",
}  # fmt: skip
NONE_YET = "no accounts yet: add one with mp auth add NAME, or log in with mp auth login\n"
RUN = "from mixpanel.cli.main import run; run()"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "mp" / "config.toml"


@pytest.fixture
def mp(path):
    """Run the command line in this process, with accounts of its own."""
    environment = {"COLUMNS": "100", "NO_COLOR": "1", "MP_CONFIG_PATH": str(path)}

    def run(*arguments, stdin="", **env):
        runner = CliRunner(env=environment | env)
        return runner.invoke(app, list(map(str, arguments)), prog_name="mp", input=stdin)

    yield run
    reset([])


@pytest.fixture
def two(mp):
    """Keep two accounts, `prod` being the default."""
    mp(*ADD, MP_SECRET="s3cret")
    mp("auth", "add", "staging", "-u", "tester", "-p", "43", MP_SECRET="s4cret")
    return mp


# Adding


def test_add_reads_the_secret_from_stdin(mp, path):
    """Without its line break; the secret is not in the output."""
    result = mp(*ADD, "--secret-stdin", stdin="s3cret\n")
    assert ExitCode.OK == result.exit_code
    assert WHO | {"is_default": True} == json.loads(result.stdout)
    assert "added prod, the default\n" == result.stderr
    assert "s3cret" not in result.output
    assert "s3cret" == Config(path).get_account("prod").secret.get_secret_value()


def test_add_reads_the_secret_from_the_environment(mp, path):
    """A message says so, and stdin takes precedence."""
    result = mp(*ADD, MP_SECRET="s3cret")
    assert "using the secret in MP_SECRET\nadded prod, the default\n" == result.stderr
    mp("auth", "add", "b", "-u", "u", "-p", "1", "--secret-stdin", stdin="other", MP_SECRET="s3")
    secrets = [Config(path).get_account(name).secret.get_secret_value() for name in ("prod", "b")]
    assert ["s3cret", "other"] == secrets


def test_the_secret_cannot_be_an_argument(mp, path):
    """Other users of the machine can read the arguments of a process."""
    for arguments in (("--secret", "s3cret"), ("-s", "s3cret"), ("s3cret",)):
        assert ExitCode.USAGE == mp(*ADD, *arguments).exit_code
    assert not path.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-p", "42"), "--username is required"),
        (("-u", "robot"), "--project is required"),
        (("-u", "robot", "-p", "42"), "set MP_SECRET, or pipe it in with --secret-stdin"),
        (("-u", "robot", "-p", "42", "--secret-stdin"), "secret is empty"),
        (("-u", "robot", "-p", "x/y", "--secret-stdin"), "--project must be a project id"),
        (("-u", "robot", "-p", "abc", "-i"), "must be a project id"),
        (("-u", "robot", "-p", "42", "-r", "mars"), "mars"),
        (("--interactive", "--secret-stdin"), "both read stdin"),
    ],
)
def test_add_names_the_missing_option(mp, path, arguments, words):
    """When there is no terminal to prompt on."""
    result = mp("auth", "add", "prod", *arguments)
    assert (ExitCode.USAGE, "") == (result.exit_code, result.stdout)
    assert words in result.stderr
    assert not path.exists()


def test_add_interactive_prompts_for_missing_values(mp):
    """Prompts go to stderr, and an invalid region is prompted for again."""
    result = mp("auth", "add", "prod", "-i", stdin="robot\nabc\n42\nmars\nEU\ns3cret\n")
    assert "'abc' is not a project id: that is the number" in result.stderr
    assert WHO | {"is_default": True} == json.loads(result.stdout)
    assert 2 == result.stderr.count("Region: us, eu or in [us]: ")
    assert "'mars' is not a region: choose us, eu or in, where the project's" in result.stderr
    assert "s3cret" not in result.output


@pytest.mark.skipif(sys.platform == "win32", reason="needs a terminal of Unix")
def test_add_prompts_on_a_terminal_without_echoing_the_secret(path):
    """The terminal shows the questions and the other answers."""
    import pty

    environment = {**os.environ, "MP_CONFIG_PATH": str(path), "NO_COLOR": "1", "TERM": "dumb"}
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", RUN, "auth", "add", "prod"]
    ends = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    seen = b""
    answers = {b"name: ": "robot", b"id: ": "42", b"[us]: ": "eu", b"shown): ": "s3cret"}
    with subprocess.Popen(command, env=environment, start_new_session=True, **ends) as running:
        os.close(theirs)
        watchdog = threading.Timer(30, running.kill)
        watchdog.start()
        with contextlib.suppress(OSError):  # how Linux says that a terminal has ended
            while got := os.read(ours, 1024):
                seen += got
                for question in [question for question in answers if question in seen]:
                    os.write(ours, f"{answers.pop(question)}\n".encode())
    watchdog.cancel()
    os.close(ours)
    assert 0 == running.returncode, seen
    assert b"added prod" in seen
    assert b"s3cret" not in seen
    assert "s3cret" == Config(path).get_account("prod").secret.get_secret_value()


def test_an_existing_account_name_is_refused_before_any_prompt(two):
    """Nobody types a secret in vain."""
    result = two("auth", "add", "prod", "-i")
    assert (ExitCode.ERROR, "") == (result.exit_code, result.stdout)
    expected = "mp: account 'prod' already exists; remove it or choose another name\n"
    assert expected == result.stderr


# Listing, switching, removing


def test_list_shows_every_account_without_its_secret(two, path):
    """In each format."""
    accounts = json.loads(two("auth", "list").stdout)
    assert [("prod", True), ("staging", False)] == [
        (one["name"], one["is_default"]) for one in accounts
    ]
    assert "prod\nstaging\n" == two("auth", "list", "-f", "plain").stdout
    assert '"43"\n' == two("auth", "list", "--jq", ".[1].project_id").stdout
    assert "is_default" in two("auth", "list", "-f", "table").stdout
    assert "s3cret" not in two("auth", "list").output
    path.unlink()
    empty = two("auth", "list")
    assert ("[]\n", NONE_YET) == (empty.stdout, empty.stderr)


def test_switch_changes_the_default(two, path):
    """The account has to exist."""
    assert "the default is staging\n" == two("auth", "switch", "staging").stderr
    assert "staging" == Config(path).default()
    result = two("auth", "switch", "nope")
    assert ExitCode.NOT_FOUND == result.exit_code
    assert "mp: there is no account 'nope'; there are: prod, staging\n" == result.stderr


@pytest.mark.parametrize("answer", ["n\n", "\n"])
def test_remove_without_confirmation_removes_nothing(two, path, answer):
    """The exit code is 1, and stderr says that it was cancelled."""
    before = path.read_text()
    result = two("auth", "remove", "prod", stdin=answer)
    assert (ExitCode.ERROR, "") == (result.exit_code, result.stdout)
    assert "Cancelled" == result.stderr.splitlines()[-1]
    assert before == path.read_text()


def test_remove_without_a_terminal_requires_force(two, path):
    """Nothing is removed."""
    before = path.read_text()
    result = two("auth", "remove", "prod", stdin="")
    assert (ExitCode.USAGE, "") == (result.exit_code, result.stdout)
    assert "confirmation required, but stdin is not a terminal: add --force" in result.stderr
    assert before == path.read_text()


def test_remove_asks_for_confirmation(two, path):
    """Unless `--force` is given; the next account becomes the default."""
    result = two("auth", "remove", "prod", stdin="y\n")
    assert ExitCode.OK == result.exit_code
    assert result.stderr.endswith("removed prod; the default is staging\n")
    assert "removed staging\n" == two("auth", "remove", "staging", "--force").stderr
    assert [] == Config(path).names()
    assert ExitCode.NOT_FOUND == two("auth", "remove", "prod").exit_code


# Whose credentials


def test_help_says_which_commands_ignore_the_default_account(two):
    """Commands that write, or are billed, need an account that was named."""
    result = " ".join(two("auth", "--help").stdout.split())
    assert "`mp import` and `mp flags` never use the default" in result
    for command in (["import", "events"], ["flags"]):
        result = " ".join(two(*command, "--help").stdout.split())
        assert "or mp --account NAME; the default account is not used" in result


def test_the_default_account_neither_writes_nor_is_billed(two, tmp_path):
    """Only an account that was named is used."""
    file = tmp_path / "events.ndjson"
    file.write_text('{"event": "A", "time": 1767225600, "distinct_id": "u"}\n')
    for command in (["import", "events", file], ["flags", "list"]):
        result = two(*command, MP_TOKEN="", MP_BASE_URL="http://127.0.0.1:9")
        assert (ExitCode.USAGE, "") == (result.exit_code, result.stdout)
        assert "the default account is not used" in result.stderr.replace("\n", " ")


def test_show_says_where_the_credentials_come_from(two):
    """The named account, the environment, or the default; without the secret."""
    environment = {"MP_USERNAME": "env", "MP_SECRET": "s5cret", "MP_PROJECT_ID": "7"}

    def source(*arguments, **env):
        result = two(*arguments, **env)
        assert not {"s3cret", "s4cret", "s5cret"} & set(result.output.replace('"', " ").split())
        shown = json.loads(result.stdout)
        assert "********" == shown["secret"]
        return shown["name"], shown["source"]

    assert ("prod", "default account prod") == source("auth", "show")
    assert ("staging", "account staging") == source("auth", "show", "staging", **environment)
    assert ("staging", "account staging") == source("-a", "staging", "auth", "show", **environment)
    assert ("staging", "account staging") == source("auth", "show", MP_ACCOUNT="staging")
    assert (None, "environment") == source("auth", "show", **environment)
    part = two("auth", "show", MP_USERNAME="env")
    assert ExitCode.USAGE == part.exit_code
    assert "but not MP_SECRET and MP_PROJECT_ID" in part.stderr


def test_test_sends_the_credentials_to_mixpanel(two):
    """The result names the account and its source."""
    with Emulator(service_accounts={"robot": "s3cret"}) as emu:
        result = two("auth", "test", MP_BASE_URL=emu.url)
        assert (ExitCode.OK, "") == (result.exit_code, result.stderr)
        done = json.loads(result.stdout)
        assert {"success": True, "account": "prod", "source": "default account prod"}.items() <= (
            done.items()
        )
        assert ["/api/app/me"] == [request.path for request in emu.requests()]


def test_test_says_whose_credentials_were_refused(two):
    """With its exit code, as text and as JSON."""
    with Emulator(service_accounts={"robot": "s3cret"}) as emu:
        result = two("auth", "test", "staging", MP_BASE_URL=emu.url)
        assert (ExitCode.AUTHENTICATION, "") == (result.exit_code, result.stdout)
        assert result.stderr.endswith("\nthe credentials come from: account staging\n")
        result = two("-a", "staging", "auth", "test", MP_BASE_URL=emu.url, MP_ERROR_FORMAT="json")
    done = json.loads(result.stderr)
    assert "AUTH_FAILED" == done["code"]
    assert ["the credentials come from: account staging"] == done["notes"]
    assert "s4cret" not in result.output


@pytest.mark.slow
def test_test_says_that_it_waits_and_for_how_long(two):
    """After a 429, instead of waiting in silence."""
    with Emulator(service_accounts={"robot": "s3cret"}) as emu:
        emu.play(Fault.status(429, retry_after=1))
        result = two("auth", "test", MP_BASE_URL=emu.url)
        assert ExitCode.OK == result.exit_code
        assert [429, 200] == [each.status for each in emu.requests()]
    assert re.search(r"too many requests.*: waiting [12] s\n", result.stderr)


def test_an_address_without_a_scheme_is_that_of_this_machine(two):
    """As an emulator prints it, less its `http://`."""
    with Emulator(service_accounts={"robot": "s3cret"}) as emu:
        result = two("auth", "test", MP_BASE_URL=emu.url.removeprefix("http://"))
    assert (ExitCode.OK, "") == (result.exit_code, result.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("url", ["ftp://x", "http://example.com", "localhost:99999", "https://a b"])
def test_an_invalid_address_is_named(two, url):
    """It has nothing to do with the credentials."""
    result = two("auth", "test", MP_BASE_URL=url)
    assert ExitCode.USAGE == result.exit_code
    assert f"MP_BASE_URL={url!r} " in result.stderr
    assert "credentials" not in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("auth", "test"),
        ("auth", "show"),
        ("inspect", "tables"),
        ("inspect", "events"),
        ("fetch", "events", "--from", "2026-01-01", "--to", "2026-01-01"),
    ],
    ids=" ".join,
)
def test_without_an_account_each_command_says_how_to_get_one(mp, command):
    """Three ways, and no option that would fail in the same way."""
    result = mp(*command)
    assert ExitCode.USAGE == result.exit_code
    for words in ("mp auth add NAME", "mp auth login", "MP_PROJECT_ID", "MP_OAUTH_TOKEN"):
        assert words in result.stderr
    assert ("--db" in result.stderr) is (command == ("inspect", "tables"))


def test_an_import_uses_the_account_option(two, tmp_path):
    """`mp --account NAME import events` sends to its project, with its secret, in its region."""
    file = tmp_path / "events.ndjson"
    file.write_text('{"event": "A", "distinct_id": "u", "time": 1760000000, "$insert_id": "1"}\n')
    with Emulator(service_accounts={"robot": "s3cret"}, tokens=[]) as emu:
        arguments = ("--account", "prod", "import", "events", file)
        result = two(*arguments, MP_BASE_URL=emu.url, MP_USERNAME="env", MP_REGION="in")
        assert (ExitCode.OK, "") == (result.exit_code, result.stderr)
        assert "42" == emu.requests("/import")[0].query["project_id"]
    assert ExitCode.NOT_FOUND == two("-a", "nope", "import", "events", file).exit_code


def test_the_region_of_an_account_is_used(two, monkeypatch):
    """The command's own option overrides it, the environment does not."""
    from mixpanel.cli import flags

    asked_for = []
    monkeypatch.setattr(
        flags, "_provider", lambda _, region, *__: asked_for.append(region.value) or sys.exit()
    )
    two("-a", "prod", "flags", "list", MP_REGION="in")
    two("-a", "prod", "flags", "list", "--region", "us")
    two("flags", "list", MP_REGION="in")
    assert ["eu", "us", "in"] == asked_for


# What holds for every command


def test_quiet_leaves_only_errors_on_stderr(two):
    """Results and errors are still written."""
    result = two("--quiet", "auth", "switch", "staging")
    assert ("", "") == (result.stdout, result.stderr)
    assert "there is no account" in two("-q", "auth", "switch", "nope").stderr


def test_verbose_shows_the_log(two, path):
    """The logger is as before afterwards."""
    path.chmod(0o644)
    result = two("--verbose", "auth", "list")
    assert f"WARNING mixpanel: {path} contains secrets" in result.stderr
    import logging

    assert [] == logging.getLogger("mixpanel").handlers


@pytest.mark.parametrize(
    ("arguments", "env", "code", "error_code"),
    [
        (("--error-format", "json", "auth", "show", "nope"), {}, 4, "ACCOUNT_NOT_FOUND"),
        (("auth", "show"), {"MP_ERROR_FORMAT": "json"}, 3, "CONFIG_ERROR"),
        (("--error-format=json", "auth", "list", "--nope"), {}, 3, "USAGE"),
        (("--nope", "auth", "list"), {"MP_ERROR_FORMAT": "json"}, 3, "USAGE"),
        (("--error-format", "json", "auth", "list", "-f", "csv", "--jq", "."), {}, 3, None),
        (("--error-format", "json", "auth", "add", "a", "-i"), {}, 1, "CANCELLED"),
        (("--error-format", "json", "auth", "list", "--jq", "["), {}, 3, "USAGE"),
    ],
)
def test_errors_are_json_on_request(mp, arguments, env, code, error_code):
    """One object on stderr and nothing else, for programs."""
    result = mp(*arguments, **env)
    assert (code, "") == (result.exit_code, result.stdout)
    error = json.loads(result.stderr.splitlines()[-1])
    assert {"code", "message", "details"} == set(error)
    assert error_code in (error["code"], None)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (data.AccountNotFoundError("x"), ExitCode.NOT_FOUND),
        (data.TableNotFoundError("x"), ExitCode.NOT_FOUND),
        (data.DatabaseNotFoundError("x"), ExitCode.NOT_FOUND),
        (data.EventNotFoundError("x"), ExitCode.NOT_FOUND),
        (data.ConfigError("x"), ExitCode.USAGE),
        (data.QueryError("x", status_code=403), ExitCode.USAGE),
        (data.UnsafeSQLError("x"), ExitCode.USAGE),
        (data.AuthenticationError("x", status_code=401), ExitCode.AUTHENTICATION),
        (data.PlanError("x", status_code=402), ExitCode.AUTHENTICATION),
        (data.RateLimitError("x"), ExitCode.RATE_LIMITED),
        (data.ServerError("x", status_code=500), ExitCode.ERROR),
        (data.TruncatedError("x", status_code=200), ExitCode.ERROR),
        (data.AccountExistsError("x"), ExitCode.ERROR),
        (data.TableExistsError("x"), ExitCode.ERROR),
        (data.DatabaseLockedError("x", 7), ExitCode.ERROR),
        (data.InterruptedFetchError("x", [("a", "a")], "y"), ExitCode.ERROR),
    ],
)
def test_errors_of_reading_have_documented_exit_codes(error, code):
    """Scripts rely on them."""
    assert code == exit_code(error)


def test_exit_codes_have_the_documented_numbers():
    """`mp --help` lists them."""
    assert [0, 1, 2, 3, 4, 5, 6, 130] == list(ExitCode)
    assert (2, 3) == (ExitCode.AUTHENTICATION, ExitCode.USAGE)


def test_errors_of_sending_are_objects():
    """Their code is made of the class name, and details of the attributes."""
    error = RateLimitError("slow down", status=429, endpoint="events", retry_after=7.0)
    assert {
        "code": "RATE_LIMIT",
        "message": "slow down",
        "details": {"status": 429, "endpoint": "events", "retry_after": 7.0},
    } == error_to_dict(error)
    assert "TRANSPORT" == error_to_dict(TransportError("x"))["code"]
    assert "CONFIGURATION" == error_to_dict(ConfigurationError("x"))["code"]


def test_wrong_arguments_end_with_3(mp):
    """Those of `mp`, of a group and of a command; 2 means invalid credentials."""
    for arguments in (("--nope",), ("nope",), ("auth", "nope"), ("auth", "add")):
        assert ExitCode.USAGE == mp(*arguments).exit_code, arguments


def test_ctrl_c_at_a_prompt_ends_with_130(mp, monkeypatch):
    """As in any other place."""

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(auth, "ask", interrupted)
    assert ExitCode.INTERRUPTED == mp("auth", "add", "prod", "-i").exit_code


def test_global_options_do_not_outlive_a_run(monkeypatch):
    """The next run in the same process begins with the defaults."""
    monkeypatch.setenv("MP_ERROR_FORMAT", "JSON")
    reset([])
    assert ErrorFormat.JSON is global_options.error_format
    reset(["--error-format", "text"])
    assert (None, False, ErrorFormat.TEXT) == (
        global_options.account,
        global_options.quiet,
        global_options.error_format,
    )
    assert not global_options.errors_only


# Light


def test_help_and_completion_import_no_heavy_module():
    """They need no database, no HTTP client and no models."""
    code = (
        "import sys, signal\nbefore = signal.getsignal(signal.SIGINT)\nimport mixpanel.cli.app\n"
        "assert signal.getsignal(signal.SIGINT) is before\n"
        "print({'duckdb', 'pandas', 'httpx', 'pydantic', 'tomlkit', 'jq'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "set()\n" == done.stdout


@pytest.mark.slow
def test_the_shell_completes_account_names(two, path):
    """And completion can be installed."""
    assert "--install-completion" in two("--help").stdout
    words = {"COMP_WORDS": "mp auth switch s", "COMP_CWORD": "3", "_MP_COMPLETE": "complete_bash"}
    environment = {**os.environ, **words, "MP_CONFIG_PATH": str(path)}
    command = [sys.executable, "-c", RUN]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (0, "staging") == (done.returncode, done.stdout.strip())
    path.write_text("not TOML")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "" == done.stdout.strip()
