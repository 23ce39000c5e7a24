"""The `mp` command as a whole: its help, its exit codes, what it loads, and `mp emulator`."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from itertools import takewhile

import httpx
import pytest
import typer
from typer.testing import CliRunner

import mixpanel
from mixpanel import (
    AuthenticationError,
    ConfigurationError,
    DeliveryError,
    MixpanelException,
    RateLimitError,
    ServerError,
    TransportError,
    ValidationError,
)
from mixpanel.cli._output.exit_codes import ExitCode, exit_code
from mixpanel.cli.app import GROUPS, app
from mixpanel.emulator import Emulator


def commands(command=None, path=("mp",)):
    """Walk all commands, groups included, as (what one types, command)."""
    command = command or typer.main.get_command(app)
    yield " ".join(path), command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


COMMANDS = list(commands())


def python(code, *arguments):
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


RUN = "from mixpanel.cli.main import run; run()"


def without(package):
    """Return code that acts as if a package were not installed."""
    return f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == "{package}":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""


@pytest.fixture
def mp():
    """Run the command line in this process."""
    runner = CliRunner(env={"COLUMNS": "100", "NO_COLOR": "1"})
    return lambda *arguments: runner.invoke(app, arguments, prog_name="mp")


# Help


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "command"),
    COMMANDS,
    ids=lambda value: getattr(value, "name", None) or str(value),
)
def test_every_command_is_documented(typed, command):
    """Each has a help text, an example of itself, and a text for every option."""
    assert command.help, f"{typed} has no help"
    assert f"{typed} " in f"{command.epilog} ", f"{typed} shows no example"
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{typed} does not explain {parameter.name}"


@pytest.mark.slow
@pytest.mark.parametrize(("typed", "command"), COMMANDS, ids=lambda value: str(value)[:30])
def test_each_option_names_its_value(typed, command):
    """The help shows NAME, N or FILE, not a Python type."""
    context = command.make_context(typed, [], resilient_parsing=True)
    for parameter in command.params:
        record = parameter.get_help_record(context)
        is_argument = parameter.param_type_name == "argument"
        assert is_argument or not re.search(r"<(list|str|int|float|file|path)\b", record[0]), record
        assert not is_argument or parameter.metavar, f"{typed} {parameter.name}"


@pytest.mark.slow
@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("typed", [typed for typed, _ in COMMANDS])
def test_help_fits_the_terminal(typed, width):
    """No line is longer than the terminal, except examples, which are lines to copy."""
    runner = CliRunner(env={"COLUMNS": str(width), "NO_COLOR": "1"})
    shown = runner.invoke(app, [*typed.split()[1:], "--help"], prog_name="mp").stdout
    text = re.split(r"^Examples?:$", shown, flags=re.MULTILINE)[0]
    assert max(map(len, text.splitlines())) <= width
    assert re.search(r"-h, --help +Show this message and exit", shown)
    if "Commands:" in text:
        assert "..." not in text.partition("Commands:")[2], "a line of help is cut off"


def test_help_breaks_no_value_at_its_hyphens(mp):
    """A value is copied as it stands."""
    assert "ap-south-1" in mp("cdp", "ping", "--help").stdout


def test_the_summary_of_a_group_is_the_first_line_of_its_help():
    """`mp --help` shows it without importing the group."""
    root = typer.main.get_command(app)
    for name, _, summary in GROUPS:
        assert root.commands[name].help.startswith(f"{summary}"), name


def test_every_command_with_a_result_has_format_and_jq():
    """Both options come together, and only commands without a result lack them."""
    for typed, command in COMMANDS:
        options = {each.name: each for each in command.params}
        assert ("format" in options) is ("jq" in options), typed
        if typed.split()[1:2] != ["emulator"] and not hasattr(command, "commands"):
            without_result = {
                "mp demo", "mp auth logout", "mp auth remove", "mp auth switch",
                "mp inspect typed-view", "mp inspect drop", "mp inspect drop-all",
                "mp export parquet", "mp export csv",
            }  # fmt: skip
            assert ("format" in options) is (typed not in without_result), typed


def test_confirmation_has_one_option():
    """It is spelled alike everywhere: `--yes`, `-y`, or `--force`."""
    spellings = {
        tuple(each.opts)
        for _, command in COMMANDS
        for each in command.params
        if each.name in ("force", "yes") or "--yes" in each.opts
    }
    assert {("--yes", "-y", "--force")} == spellings


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("inspect sample", "How many rows."),
        ("fetch profiles", "Only these profiles; repeatable."),
        ("emulator", '{"flags": [...]} or a list'),
        ("emulator", "Accept requests from web pages of this origin"),
        ("emulator", "MP_CUSTOMERIO_BASE_URL=http://127.0.0.1:8650/customerio"),
        ("emulator", "MP_HIGHTOUCH_BASE_URL=http://127.0.0.1:8650/hightouch"),
    ],
)
def test_help_explains_in_whole_sentences(mp, typed, words):
    """A reader who has not seen the code understands it."""
    shown = mp(*typed.split(), "--help").stdout
    assert words in " ".join(shown.replace("│", " ").split())


@pytest.mark.slow
@pytest.mark.parametrize("group", [(), ("auth",), ("cdp",), ("import",)])
def test_a_call_without_a_command_prints_help(mp, group):
    """It goes to stdout, and the exit code is 0."""
    result = mp(*group)
    assert (ExitCode.OK, "") == (result.exit_code, result.stderr)
    assert mp(*group, "--help").stdout == result.stdout
    assert "Commands:" in result.stdout


def test_version_prints_the_version_alone(mp):
    """Scripts can read it."""
    assert f"{mixpanel.__version__}\n" == mp("--version").stdout


@pytest.mark.slow
def test_help_imports_no_heavy_module():
    """Help needs no HTTP client, no database, no server and no Rich."""
    code = (
        "import sys\nfrom mixpanel.cli.main import run\n"
        "try:\n    run()\nexcept SystemExit:\n    pass\n"
        "heavy = {'httpx', 'duckdb', 'starlette', 'uvicorn', 'asgiref', 'rich', 'asyncio'}\n"
        "print(heavy & set(sys.modules), file=sys.stderr)"
    )
    for arguments in (["--help"], ["import", "--help"], ["flags", "eval", "--help"]):
        assert "set()" == python(code, *arguments).stderr.strip(), arguments


# Errors


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MixpanelException("x"), ExitCode.ERROR),
        (ValidationError(["x"]), ExitCode.ERROR),
        (TransportError("x"), ExitCode.ERROR),
        (ServerError("x", status=500), ExitCode.ERROR),
        (ConfigurationError("x"), ExitCode.USAGE),
        (AuthenticationError("x", status=401), ExitCode.AUTHENTICATION),
        (DeliveryError("x", status=403), ExitCode.AUTHENTICATION),
        (ServerError("x", status=404), ExitCode.NOT_FOUND),
        (RateLimitError("x", status=429), ExitCode.RATE_LIMITED),
    ],
)
def test_the_exit_code_tells_the_kind_of_error(error, code):
    """Scripts can tell a wrong password from a server that is down."""
    assert code == exit_code(error)


@pytest.mark.slow
def test_without_the_cli_extra_mp_says_what_to_install():
    """`pip install mixpanel-async` alone installs the command, but not its dependencies."""
    for missing, command in (("typer", ["--help"]), ("rich", ["auth", "list", "-f", "table"])):
        done = python(without(missing) + RUN, *command)
        assert (1, "") == (done.returncode, done.stdout)
        assert "mp needs: pip install 'mixpanel-async[cli]'\n" == done.stderr


@pytest.mark.slow
def test_without_the_emulator_extra_mp_says_what_to_install():
    """The extra `cli` alone cannot run the emulator."""
    done = python(without("starlette") + RUN, "emulator")
    assert 1 == done.returncode
    assert "mp: the emulator needs: pip install 'mixpanel-async[emulator]'\n" == done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full disk here")  # noqa: PTH110
@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["flags", "--help"]])
def test_a_full_disk_is_reported_in_one_line(arguments):
    """The disk may report it only when the command is done."""
    command = [sys.executable, "-c", RUN, *arguments]
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False
        )
    assert 1 == done.returncode
    assert done.stderr.startswith("mp: ")
    assert done.stderr.endswith("No space left on device\n")
    assert 1 == done.stderr.count("\n")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGPIPE")
@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_a_reader_that_stops_early_is_no_error(form):
    """As `head` does, in every format."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-c", RUN, "docs", "--format", form],
            stdout=closed, stderr=subprocess.PIPE, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert (0, "") == (done.returncode, done.stderr)


MISSING = [
    ("import", "events", "none.ndjson", "--token", "T"),
    ("emulator", "--load", "none.ndjson"),
    ("emulator", "--flags", "none.json"),
    ("query", "jql", "none.js"),
    ("query", "sql", "--file", "none.sql"),
    ("flags", "list", "--file", "none.json"),
    ("cdp", "validate", "none.ndjson"),
    ("cdp", "backfill", "none.csv", "--kind", "track"),
    ("project", "dashboards", "create", "--json", "@none.json"),
]


@pytest.mark.parametrize("arguments", MISSING, ids=" ".join)
def test_a_missing_file_is_not_found_in_every_command(mp, arguments):
    """With one exit code, and one code in JSON."""
    assert ExitCode.NOT_FOUND == mp(*arguments).exit_code
    done = mp("--error-format", "json", *arguments)
    assert (ExitCode.NOT_FOUND, "FILE_NOT_FOUND") == (
        done.exit_code,
        json.loads(done.stderr)["code"],
    )


# mp emulator


def test_a_port_in_use_is_reported_in_one_line(mp):
    """There is no traceback, and the message says what to do."""
    with Emulator() as other:
        result = mp("emulator", "--port", str(other.port))
    assert (1, "") == (result.exit_code, result.stdout)
    assert (
        f"mp: cannot listen on port {other.port}: Address already in use; "
        "if another `mp emulator` is running, use --port 0\n"
    ) == result.stderr


def test_an_emulator_database_that_cannot_be_opened_is_reported_in_one_line(mp, tmp_path):
    """The folder may not exist, or another emulator may have the file open."""
    db = tmp_path / "none" / "shop.duckdb"
    result = mp("emulator", "--port", "0", "--db", str(db))
    assert (1, "") == (result.exit_code, result.stdout)
    assert result.stderr.startswith(f"mp: cannot open {db}: ")
    assert 1 == result.stderr.count("\n")


def test_an_invalid_origin_is_refused(mp):
    """Nothing is opened before."""
    result = mp("emulator", "--port", "0", "--allow-origin", "localhost:3000")
    assert ExitCode.USAGE == result.exit_code
    assert (
        "--allow-origin must be origins of web pages, such as http://localhost:3000, not"
        in result.stderr
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--fault", "50x on /track"], "'50x on /track' is not a fault"),
        (["--service-account", "robot"], "write NAME:SECRET"),
        (["--service-account", ":s3cret"], "an empty name or secret"),
        (["--host", "example.org"], "must be an address of this machine"),
    ],
)
def test_invalid_options_of_the_emulator_are_refused(mp, options, words):
    """Before it starts, and without a secret in the message."""
    result = mp("emulator", "--port", "0", *options)
    assert (ExitCode.USAGE, "") == (result.exit_code, result.stdout)
    assert words in " ".join(result.stderr.replace("│", " ").split())
    assert "s3cret" not in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_emulator_runs_until_it_is_stopped(tmp_path, how):
    """Its address alone is on stdout, stopping it is no error, and the data is kept."""
    db = tmp_path / "shop.duckdb"
    command = [sys.executable, "-c", RUN, "emulator", "--port", "0", "--db", str(db)]
    command += ["--allow-origin", "http://a.example", "--allow-origin", "http://localhost:3000"]
    command += ["-v", "--token", "T", "--service-account", "robot:s3cret", "--host", "0.0.0.0"]
    command += ["--fault", "429 on /groups 50%"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env={**os.environ, "NO_COLOR": "1"}, **pipes) as running:
        watchdog = threading.Timer(30, running.kill)
        watchdog.start()
        url = running.stdout.readline().strip()
        event = {"event": "Signed Up", "properties": {"token": "T", "distinct_id": "u"}}
        assert 200 == httpx.post(f"{url}/track", json=[event]).status_code
        for origin, status in (("http://localhost:3000", 200), ("http://b.example", 403)):
            page = {"Origin": origin}
            assert status == httpx.post(f"{url}/track", json=[], headers=page).status_code
        for token, status in (("wrong", 401), ("T", 200)):
            sent = [{"$token": token, "$distinct_id": "u", "$set": {}}]
            assert status == httpx.post(f"{url}/engage", json=sent).status_code
        for secret, status in (("wrong", 401), ("s3cret", 200)):
            auth = ("robot", secret)
            assert status == httpx.get(f"{url}/api/app/me", auth=auth).status_code
        track = {"type": "track", "userId": "u", "event": "E", "messageId": "m-1"}
        batch = {"batch": [track, {**track, "messageId": "m-2"}]}
        key = ("WRITE_KEY", "")
        assert 200 == httpx.post(f"{url}/segment/v1/batch", json=batch, auth=key).status_code
        found = [httpx.post(f"{url}/groups", json=[]).status_code for _ in range(4)]
        assert [200, 429, 200, 429] == found
        result = [*takewhile(lambda line: "stops it" not in line, running.stderr)]
        running.send_signal(how)
        out, err = running.stdout.read(), running.stderr.read()
        code = running.wait()
        watchdog.cancel()
    assert (0, "") == (code, out)
    err = "".join(result) + err
    assert f" MP_BASE_URL={url}." in err
    assert f" MP_CUSTOMERIO_BASE_URL={url}/customerio\n" in err
    assert f" MP_HIGHTOUCH_BASE_URL={url}/hightouch\n" in err
    assert "Traceback" not in err
    assert "Warning: it listens on 0.0.0.0, beyond this machine" in err
    assert "Fault: 429 on /groups 50%." in err
    assert re.search(r"^\d\d:\d\d:\d\d  POST  /track  200  \d+ B  1 record$", err, re.MULTILINE)
    assert re.search(r"  POST  /segment/v1/batch  200  \d+ B  2 records$", err, re.MULTILINE)
    assert re.search(r"  GET   /api/app/me  401  .*Invalid credentials", err)
    with Emulator(db=db) as again:
        assert 1 == len(again.events())
