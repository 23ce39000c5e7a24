"""`mp auth login`, `logout` and `status`, against the emulator's authorization server."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import mixpanel
from mixpanel.cli import auth
from mixpanel.cli._options.global_options import reset
from mixpanel.cli._output.exit_codes import ExitCode
from mixpanel.cli.app import app
from mixpanel.data.config import Config
from mixpanel.emulator import Emulator, Fault
from mixpanel.emulator._rules.access import Access
from tests.data.logins import Browser, decide

ALLOWED = {
    "name": "me", "type": "login", "username": None, "project_id": "4242", "region": "us",
    "is_default": True, "email": "bearer@example.org",
}  # fmt: skip


@pytest.fixture
def emu():
    with Emulator(service_accounts={"robot": "s3cret"}) as emulator:
        yield emulator


@pytest.fixture
def path(tmp_path):
    return tmp_path / "mp" / "config.toml"


@pytest.fixture
def mp(path, emu):
    """Run the command line in this process, with accounts of its own."""
    environment = {
        "COLUMNS": "100", "NO_COLOR": "1", "MP_CONFIG_PATH": str(path), "MP_BASE_URL": emu.url,
    }  # fmt: skip

    def run(*arguments, stdin="", **env):
        runner = CliRunner(env=environment | env)
        return runner.invoke(app, list(map(str, arguments)), prog_name="mp", input=stdin)

    yield run
    reset([])


@pytest.fixture
def browser(monkeypatch):
    """Replace the browser by one that allows the access; return what replaces it again."""

    def use(*arguments, **options):
        made.append(Browser(*arguments, **options))
        return made[-1]

    made = []
    use()
    monkeypatch.setattr("webbrowser.get", lambda: made[-1])
    yield use
    for each in made:
        for thread in each.threads:
            thread.join()


@pytest.mark.slow
def test_login_opens_the_browser_and_stores_an_account(mp, browser, path, emu):
    """Of the only project; the link is printed, and no token is."""
    done = mp("auth", "login")
    assert (ExitCode.OK, ALLOWED) == (done.exit_code, json.loads(done.stdout))
    assert f"\n{emu.url}/oauth/authorize/?response_type=code&" in done.stderr
    assert done.stderr.endswith("logged in as bearer@example.org: account me, the default\n")
    tokens = Config(path).token_file("me").read()
    assert tokens.access_token.reveal() not in done.output
    assert tokens.refresh_token.reveal() not in done.output
    tested = json.loads(mp("auth", "test").stdout)
    assert ("login", "default account me") == (tested["type"], tested["source"])
    assert "********" == json.loads(mp("auth", "show").stdout)["secret"]
    assert ["me"] == [each["name"] for each in json.loads(mp("auth", "list").stdout)]


def test_login_without_a_browser_takes_the_pasted_address(mp, emu):
    """Of a browser on any machine."""
    printed = []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auth, "complain", lambda text, _style: printed.append(text))
        patch.setattr(auth, "ask", lambda _question: decide(printed[-1]))
        done = mp("auth", "login", "--no-browser")
    assert (ExitCode.OK, ALLOWED) == (done.exit_code, json.loads(done.stdout))
    assert "open this link in a browser, on any machine" in done.stderr
    assert 1 == len(printed)


@pytest.mark.slow
def test_login_says_where_to_open_the_link_without_a_browser(mp, monkeypatch):
    """A machine without a display has none, and one for the terminal is not started."""
    import webbrowser

    monkeypatch.delenv("BROWSER", raising=False)
    monkeypatch.setattr("webbrowser.get", lambda: webbrowser.GenericBrowser("lynx"))
    done = mp("auth", "login", "--timeout", "1")
    assert (ExitCode.AUTHENTICATION, "") == (done.exit_code, done.stdout)
    assert "open this link in a browser on this machine" in done.stderr
    assert "access was not granted within 1 seconds" in done.stderr
    assert "--no-browser" in done.stderr


@pytest.mark.slow
def test_a_denied_access_stores_nothing(mp, browser, path):
    """With the exit code of refused credentials."""
    browser("deny")
    done = mp("auth", "login")
    assert (ExitCode.AUTHENTICATION, "") == (done.exit_code, done.stdout)
    assert done.stderr.endswith("mp: not logged in: the access was denied\n")
    assert not path.exists()
    assert [] == [*path.parent.glob("logins/*")]


@pytest.mark.slow
def test_a_project_must_be_one_of_theirs(mp, browser, emu, path):
    """Nothing is stored, and the tokens are revoked again."""
    done = mp("auth", "login", "--project", "7")
    assert (ExitCode.AUTHENTICATION, "") == (done.exit_code, done.stdout)
    assert "this person cannot read project 7; there are: 4242" in done.stderr
    assert emu.requests("/oauth/revoke_token")
    emu._project.saved.add_project("43")
    done = mp("auth", "login")
    assert ExitCode.USAGE == done.exit_code
    assert "choose a project with --project; there are: 4242" in done.stderr
    assert not path.exists()
    done = mp("auth", "login", "--project", "43")
    assert "43" == json.loads(done.stdout)["project_id"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("a.b",), ExitCode.USAGE, "cannot be the name of an account"),
        (("--project", "abc"), ExitCode.USAGE, "must be a project id"),
        (("--region", "mars"), ExitCode.USAGE, "mars"),
        (("--base-url", "ftp://x"), ExitCode.USAGE, "must be an https URL"),
        (("prod",), ExitCode.ERROR, "account 'prod' already exists"),
    ],
)
def test_what_cannot_work_is_refused_before_the_browser_opens(mp, browser, arguments, code, words):
    """Nobody allows an access in vain."""
    mp("auth", "add", "prod", "-u", "robot", "-p", "42", MP_SECRET="s3cret")
    used = browser()
    done = mp("auth", "login", *arguments)
    assert (code, "") == (done.exit_code, done.stdout)
    assert words in done.stderr
    assert [] == used.opened


@pytest.mark.slow
def test_a_server_that_fails_is_a_clear_error(mp, browser, emu):
    """Before the browser opens, and after it."""
    emu.play(Fault.status(503), path="/oauth/mcp/register")
    done = mp("auth", "login")
    assert ExitCode.ERROR == done.exit_code
    assert "HTTP 503" in done.stderr
    emu.play(Fault.status(400, body={"error": "invalid_grant"}), path="/oauth/token")
    done = mp("auth", "login")
    assert ExitCode.AUTHENTICATION == done.exit_code
    assert "/oauth/token/: HTTP 400: invalid_grant\n" in done.stderr


@pytest.mark.slow
def test_a_second_login_replaces_the_first(mp, browser, path):
    """It keeps project and default, and may change the project."""
    mp("auth", "login")
    first = Config(path).token_file("me").read().access_token
    done = mp("auth", "login")
    assert (ExitCode.OK, ALLOWED) == (done.exit_code, json.loads(done.stdout))
    assert first != Config(path).token_file("me").read().access_token
    assert 1 == len(json.loads(mp("auth", "list").stdout))


@pytest.mark.slow
def test_status_shows_each_login_and_until_when(mp, browser, emu, path):
    """Without asking Mixpanel."""
    empty = mp("auth", "status")
    assert ("[]\n", "no logins: log in with mp auth login\n") == (empty.stdout, empty.stderr)
    mp("auth", "login")
    mp("auth", "login", "other")
    emu._project.request_log.clear()
    rows = json.loads(mp("auth", "status").stdout)
    assert [("me", "logged in"), ("other", "logged in")] == [
        (each["name"], each["state"]) for each in rows
    ]
    assert ("bearer@example.org", emu.url) == (rows[0]["email"], rows[0]["server"])
    assert rows[0]["expires_at"]
    assert ["other"] == [each["name"] for each in json.loads(mp("auth", "status", "other").stdout)]
    Config(path).token_file("other").remove()
    assert "logged out" == json.loads(mp("auth", "status", "other").stdout)[0]["state"]
    assert [] == emu.requests()
    assert ExitCode.NOT_FOUND == mp("auth", "status", "nope").exit_code


@pytest.mark.slow
def test_a_revoked_login_names_the_command_to_renew_it(mp, browser, emu):
    """With the exit code of refused credentials, and afterwards status knows, too."""
    mp("auth", "login", "me")
    emu.revoke_logins()
    done = mp("auth", "test")
    assert (ExitCode.AUTHENTICATION, "") == (done.exit_code, done.stdout)
    assert "log in again with `mp auth login me`" in done.stderr
    assert "expired" == json.loads(mp("auth", "status").stdout)[0]["state"]
    assert ExitCode.OK == mp("auth", "login", "me").exit_code
    assert ExitCode.OK == mp("auth", "test").exit_code


@pytest.mark.slow
def test_logout_revokes_and_deletes_the_tokens(mp, browser, emu, path):
    """The account stays, to log in again; a second logout does nothing."""
    mp("auth", "login")
    token = Config(path).token_file("me").read().access_token.reveal()
    done = mp("auth", "logout")
    assert (ExitCode.OK, "logged out: me\n") == (done.exit_code, done.stderr)
    assert [] == [*path.parent.glob("logins/*")]
    assert False is emu._project.logins.accepts(token, now=emu._project.now())
    assert "me is logged out already\n" == mp("auth", "logout").stderr
    done = mp("auth", "test")
    assert "account 'me' is logged out: log in again with `mp auth login me`" in done.stderr


@pytest.mark.slow
def test_logout_without_the_server_says_that_nothing_was_revoked(mp, browser, emu, path):
    """The tokens are deleted all the same."""
    mp("auth", "login")
    emu.play(Fault.status(404), path="/oauth/revoke_token")
    done = mp("auth", "logout")
    assert ExitCode.OK == done.exit_code
    assert "the server did not confirm that the tokens are revoked" in done.stderr
    assert [] == [*path.parent.glob("logins/*")]


def test_logout_is_for_logins(mp):
    """A service account has nothing to log out of."""
    mp("auth", "add", "prod", "-u", "robot", "-p", "42", MP_SECRET="s3cret")
    for arguments, words in ((("prod",), "'prod' is not a login"), ((), "there are no logins")):
        done = mp("auth", "logout", *arguments)
        assert ExitCode.USAGE == done.exit_code
        assert words in done.stderr


@pytest.mark.slow
def test_removing_a_login_ends_it(mp, browser, emu, path):
    """The tokens are revoked and deleted."""
    mp("auth", "login")
    done = mp("auth", "remove", "me", "--force")
    assert (ExitCode.OK, "removed me\n") == (done.exit_code, done.stderr)
    assert emu.requests("/oauth/revoke_token")
    assert ([], []) == (Config(path).names(), [*path.parent.glob("logins/*")])


@pytest.mark.slow
def test_a_login_does_not_import_events(mp, browser, tmp_path):
    """That needs a service account, and the error says so."""
    mp("auth", "login")
    file = tmp_path / "events.ndjson"
    file.write_text('{"event": "A", "time": 1767225600, "distinct_id": "u"}\n')
    done = mp("-a", "me", "import", "events", file)
    assert ExitCode.USAGE == done.exit_code
    assert "account 'me' is not a service account" in done.stderr


DOCUMENTED = re.findall(
    r"^\$ mp (.*)$",
    (Path(__file__).parents[2] / "docs/authentication.md").read_text(),
    re.MULTILINE,
)


@pytest.mark.slow
def test_the_documented_commands_work(mp, browser, emu):
    """In their order, against the emulator."""
    emu._project.saved.add_project("12345")
    emu._project.access = Access(None, {"reports.a1b2c3.mp-service-account": "s3cret"})
    assert len(DOCUMENTED) > 8
    for command in DOCUMENTED:
        arguments = command.split()
        if command == "auth login":
            arguments += ["--project", "4242"]  # there are two projects here
        done = mp(*arguments, MP_SECRET="s3cret")
        assert (command, ExitCode.OK) == (command, done.exit_code), done.stderr


def test_the_command_has_another_name():
    """Where another package's command is called `mp`, too."""
    command = [sys.executable, "-m", "mixpanel.cli", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{mixpanel.__version__}\n" == done.stdout
