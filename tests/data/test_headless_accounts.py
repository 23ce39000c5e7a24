"""The file of accounts that mixpanel-headless shares with us: read both ways, never broken."""

import json
import os
import subprocess
import sys

import pytest

from mixpanel.data.config import AccountInfo, Config
from mixpanel.data.credentials import Credentials, TokenCredentials
from mixpanel.data.exceptions import AccountExistsError, ConfigError
from tests import peers

# As mixpanel-headless 0.4 writes it.
SAMPLE = """\
[active]
account = "team"
workspace = 77

[accounts.team]
type = "service_account"
region = "eu"
default_project = "3713224"
username = "sa.demo"
secret = "canary-team"

[accounts.nowhere]
type = "service_account"
region = "us"
username = "sa.other"
secret = "canary-nowhere"

[accounts.me]
type = "oauth_browser"
region = "us"
default_project = "12345"

[accounts.ci]
type = "oauth_token"
region = "in"
default_project = "9"
token = "canary-ci"

[accounts.agent]
type = "oauth_token"
region = "us"
default_project = "9"
token_env = "AGENT_TOKEN"

[targets.ecom]
account = "ci"
project = "9"

[settings]
custom_header = "x"
"""
NEW = {"username": "robot", "secret": "s3cret", "project_id": "42"}


@pytest.fixture
def config(tmp_path):
    return at(tmp_path / "config.toml", SAMPLE)


def at(path, text):
    path.touch(0o600)
    path.write_text(text)
    return Config(path)


# Reading its file


def test_all_of_its_accounts_are_listed(config):
    """Also those that only it can use; its active account is our default."""
    assert [
        AccountInfo("team", "sa.demo", "3713224", "eu", is_default=True),
        AccountInfo("nowhere", "sa.other", None, "us", is_default=False),
        AccountInfo("me", None, "12345", "us", is_default=False, type="oauth_browser"),
        AccountInfo("ci", None, "9", "in", is_default=False, type="oauth_token"),
        AccountInfo("agent", None, "9", "us", is_default=False, type="oauth_token"),
    ] == config.list_accounts()


def test_its_service_accounts_and_tokens_can_be_used(config, monkeypatch):
    """With their project and region; a token may be in a variable."""
    team = config.resolve_credentials()
    assert isinstance(team, Credentials)
    assert ("sa.demo", "canary-team", "3713224", "eu") == (
        team.username, team.secret.get_secret_value(), team.project_id, team.region
    )  # fmt: skip
    assert "default account team" == team.source
    monkeypatch.setenv("AGENT_TOKEN", " canary-agent ")
    for name, header in (("ci", "Bearer canary-ci"), ("agent", "Bearer canary-agent")):
        found = config.get_account(name)
        assert isinstance(found, TokenCredentials)
        assert header == found.authorization()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("me", "is a login of mixpanel-headless.*`mp auth login` under another name"),
        ("nowhere", 'names no project: set MP_PROJECT_ID, or add the line default_project = "'),
        ("agent", "has its token in AGENT_TOKEN, which is not set"),
    ],
)
def test_what_cannot_be_used_says_what_to_do(config, name, words):
    """Without a secret."""
    with pytest.raises(ConfigError, match=words) as caught:
        config.get_account(name)
    assert "canary" not in str(caught.value)


def test_mp_project_id_names_the_project_of_an_account_without_one(config, monkeypatch):
    """And, alone, another project of the default account; of no other account."""
    monkeypatch.setenv("MP_PROJECT_ID", "7")
    found = [config.get_account("nowhere"), config.resolve_credentials(), config.get_account("ci")]
    assert ["7", "7", "9"] == [each.project_id for each in found]
    assert "account nowhere, project_id from the environment" == found[0].source
    assert "default account team, project_id overridden" == found[1].source


# Changing its file


def test_an_account_is_added_in_its_form(config):
    """With the fields that it documents, and the rest of the file as it was."""
    before = config.path.read_text()
    config.add_account("prod", **NEW)
    added = config.path.read_text()
    assert before.split("[targets")[0].strip() in added
    assert "team" == config.default()
    assert AccountInfo("prod", "robot", "42", "us", is_default=False) == config.account_info("prod")
    text = added.partition("[accounts.prod]\n")[2].partition("\n[")[0].strip()
    assert {"type", "region", "default_project", "username", "secret"} == {
        line.split(" = ")[0] for line in text.splitlines()
    }
    config.remove_account("prod")
    assert before.split() == config.path.read_text().split()


@pytest.mark.parametrize(
    ("name", "fields", "error"),
    [
        ("team", {}, AccountExistsError),
        ("a.b", {}, ConfigError),
        ("a@b", {}, ConfigError),
        ("x" * 65, {}, ConfigError),
        ("new", {"project_id": "abc"}, ConfigError),
        ("new", {"region": "mars"}, ConfigError),
    ],
)
def test_what_it_would_refuse_is_refused_before_anything_is_written(config, name, fields, error):
    """It refuses the whole file for one account with a name or project of another form."""
    with pytest.raises(error):
        config.add_account(name, **NEW | fields)
    assert SAMPLE == config.path.read_text()
    assert [config.path] == list(config.path.parent.iterdir())


def test_a_default_of_ours_comes_before_its_active_account(config):
    """Its own stays as it was."""
    config.set_default("ci")
    assert "ci" == config.default()
    assert 'account = "team"' in config.path.read_text()


def test_what_it_needs_is_not_removed(config):
    """Neither a login, whose tokens it keeps, nor an account that one of its targets names."""
    for name, words in (("me", "mp account remove me"), ("ci", "mp target remove ecom")):
        with pytest.raises(ConfigError, match=words):
            config.remove_account(name)
    assert SAMPLE == config.path.read_text()


def test_removing_its_active_account_leaves_no_reference_to_it(config):
    """As its own command does."""
    config.remove_account("team")
    assert "[active]" not in config.path.read_text()
    assert config.default() is None


def test_an_unknown_type_affects_that_account_alone(tmp_path):
    """It may be of a later version."""
    config = at(tmp_path / "config.toml", SAMPLE + '\n[accounts.later]\ntype = "passkey"\n')
    config.add_account("prod", **NEW)
    assert "sa.demo" == config.get_account("team").username
    with pytest.raises(ConfigError, match="type must be service_account, not 'passkey'"):
        config.get_account("later")


def test_an_invalid_neighbour_is_no_error_after_writing(tmp_path):
    """The account is added, or there is an error and nothing is."""
    config = at(tmp_path / "config.toml", '[accounts.old]\nusername = "u"\n')
    config.add_account("prod", **NEW)
    assert "42" == config.account_info("prod").project_id


def test_an_account_and_a_login_of_one_name_are_an_error(config):
    """Neither is taken for the other."""
    with config.path.open("a") as file:
        file.write('\n[mixpanel-async.logins.team]\nregion = "us"\nproject_id = "1"\n')
    with pytest.raises(ConfigError, match="is there twice"):
        config.get_account("team")


# With mixpanel-headless itself

LOCK = peers.LOCKS / "headless.txt"
HEADLESS = peers.python("headless") if LOCK.exists() else None
needs_headless = pytest.mark.skipif(
    HEADLESS is None or not HEADLESS.exists(),
    reason="python -m tests.peers headless makes its environment",
)


def headless(path, source):
    """Run code with its configuration `cm`, and return what it prints as JSON."""
    lines = [
        "import json", "from mixpanel_headless._internal.config import ConfigManager",
        "cm = ConfigManager()", source,
    ]  # fmt: skip
    environment = {name: os.environ[name] for name in ("PATH",) if name in os.environ}
    environment |= {"MP_CONFIG_PATH": str(path), "HOME": str(path.parent)}
    done = subprocess.run(
        [HEADLESS, "-c", "\n".join(lines)], env=environment, capture_output=True, text=True,
        cwd=path.parent, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_headless
@pytest.mark.slow
def test_both_can_read_and_change_one_file(tmp_path):
    """Accounts that either adds are the other's, and a change by either keeps all of them."""
    path = tmp_path / "config.toml"
    ours = Config(path)
    ours.add_account("ours", **NEW, region="eu")
    path.write_text(
        path.read_text() + '\n[mixpanel-async.logins.login]\nregion = "us"\nproject_id = "1"\n'
    )
    theirs = headless(
        path,
        "cm.add_account('theirs', type='service_account', region='in', default_project='7',\n"
        "    username='sa', secret='hush')\n"
        "cm.add_account('token', type='oauth_token', region='us', token='bearer')\n"
        "cm.set_active(account='theirs')\n"
        "account = cm.get_account('ours')\n"
        "print(json.dumps([[each.name for each in cm.list_accounts()], account.username,\n"
        "    account.secret.get_secret_value(), account.default_project, account.region]))",
    )
    assert [["ours", "theirs", "token"], "robot", "s3cret", "42", "eu"] == theirs
    assert ["ours", "theirs", "token", "login"] == ours.names()
    found = ours.get_account("theirs")
    assert ("sa", "hush", "7", "in") == (
        found.username, found.secret.get_secret_value(), found.project_id, found.region
    )  # fmt: skip
    assert "ours" == ours.default()
    assert 0o600 == path.stat().st_mode & 0o777

    ours.add_account("second", **NEW)
    ours.set_default("second")
    ours.remove_account("theirs")
    left = headless(
        path,
        "cm.update_account('ours', region='us')\n"
        "print(json.dumps([[each.name for each in cm.list_accounts()],\n"
        "    cm.get_active().account]))",
    )
    assert [["ours", "second", "token"], None] == left
    assert "us" == ours.get_account("ours").region
    assert "second" == ours.default()


@needs_headless
@pytest.mark.slow
def test_our_command_line_uses_its_file(tmp_path):
    """`mp auth list` and `mp auth add` with the file that it has made."""
    path = tmp_path / "config.toml"
    headless(
        path,
        "cm.add_account('team', type='service_account', region='us', username='sa',\n"
        "    secret='hush')\n"
        "cm.add_account('me', type='oauth_browser', region='us')\n"
        "cm.set_active(account='team')\n"
        "print('{}')",
    )
    run = [sys.executable, "-c", "from mixpanel.cli.main import run; run()"]
    environment = {**os.environ, "MP_CONFIG_PATH": str(path), "MP_SECRET": "s3cret"}

    def mp(*arguments):
        return subprocess.run(
            [*run, *arguments], env=environment, capture_output=True, text=True, check=True
        ).stdout

    assert ["team", "me"] == [each["name"] for each in json.loads(mp("auth", "list"))]
    mp("auth", "add", "prod", "-u", "robot", "-p", "42")
    names = headless(path, "print(json.dumps([each.name for each in cm.list_accounts()]))")
    assert ["me", "prod", "team"] == names
