"""The file of accounts, and the resolution of credentials."""

import logging
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from pydantic import ValidationError

from mixpanel.data import Workspace
from mixpanel.data import config as config_module
from mixpanel.data.config import AccountInfo, Config, Credentials
from mixpanel.data.exceptions import AccountExistsError, AccountNotFoundError, ConfigError

SECRET = "hunter2-\"é'\\ #="
PROD = {"username": "robot", "secret": SECRET, "project_id": "42", "region": "eu"}
BY_HAND = """\
# the accounts of the shop
default = "prod"

[accounts.prod]  # used for everything
username = "robot"
secret = "s3cret"  # until May
project_id = "42"
region = "eu"

[accounts.staging]
username = "tester"
secret = "s4cret"
project_id = 43

[colours]
sky = "blue"
"""


@pytest.fixture
def config(tmp_path):
    return Config(tmp_path / "mp" / "config.toml")


@pytest.fixture
def by_hand(tmp_path):
    """Return a configuration that was written by hand."""
    path = tmp_path / "config.toml"
    path.write_text(BY_HAND)
    path.chmod(0o600)
    return Config(path)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


# The file


def test_an_account_can_be_read_back(config):
    """All fields are kept; the region is in lower case, and a secret may have any characters."""
    config.add_account("prod", **PROD | {"region": "EU"})
    found = config.get_account("prod")
    assert ("robot", SECRET, "42", "eu") == (
        found.username, found.secret.get_secret_value(), found.project_id, found.region
    )  # fmt: skip
    assert [AccountInfo("prod", "robot", "42", "eu", is_default=True)] == config.list_accounts()


@pytest.mark.parametrize("umask", [0, 0o022, 0o777])
def test_file_and_directory_are_private_under_any_umask(tmp_path, umask):
    """Other users can neither read the file nor enter the directories created for it."""
    config = Config(tmp_path / "new" / "mp" / "config.toml")
    before = os.umask(umask)
    try:
        config.add_account("prod", **PROD)
        config.add_account("other", **PROD)
    finally:
        os.umask(before)
    assert 0o600 == mode(config.path)
    assert (0o700, 0o700) == (mode(config.path.parent), mode(config.path.parent.parent))
    assert {0o600} == {mode(path) for path in config.path.parent.iterdir()}


def test_permissions_of_an_existing_directory_are_kept(tmp_path):
    """Only `~/.mp` belongs to the package, so only its permissions are changed."""
    tmp_path.chmod(0o755)
    Config(tmp_path / "config.toml").add_account("prod", **PROD)
    assert 0o755 == mode(tmp_path)


def test_the_default_directory_becomes_private(tmp_path, monkeypatch):
    """Even if something else created it with other permissions."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".mp").mkdir(mode=0o755)
    Config().add_account("prod", **PROD)
    assert (0o700, 0o600) == (mode(tmp_path / ".mp"), mode(tmp_path / ".mp" / "config.toml"))


def test_mp_config_path_names_the_file(tmp_path, monkeypatch):
    """`~` is the home directory, and an explicit path takes precedence."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MP_CONFIG_PATH", "~/other.toml")
    assert tmp_path / "other.toml" == Config().path
    assert tmp_path / "mine.toml" == Config("~/mine.toml").path


def test_a_file_readable_by_others_is_warned_about_once(by_hand, caplog):
    """The next change makes it private."""
    by_hand.path.chmod(0o644)
    with caplog.at_level(logging.WARNING, "mixpanel"):
        by_hand.get_account("prod")
        Config(by_hand.path).list_accounts()
    assert [f"chmod 600 {by_hand.path}"] == [
        message.partition("run: ")[2] for message in caplog.messages
    ]
    by_hand.set_default("staging")
    assert 0o600 == mode(by_hand.path)
    config_module._warned.discard(by_hand.path)


def test_a_change_keeps_the_rest_of_a_hand_written_file(by_hand):
    """Comments, order and tables of other programs stay."""
    by_hand.add_account("third", **PROD)
    by_hand.set_default("staging")
    by_hand.remove_account("third")
    changed = by_hand.path.read_text()
    assert BY_HAND.replace('default = "prod"', 'default = "staging"').split() == changed.split()


@pytest.mark.parametrize(
    "text",
    [
        'accounts = {old = {username = "u", secret = "s", project_id = "1"}}\n',
        '\ufeff[accounts.old]\r\nusername="u"\r\nsecret="s"\r\nproject_id="1"\r\n[x]\r\ny=1\r\n',
        '[accounts.old]\nusername="u"\nsecret="s"\nproject_id="1"\n[x]\n[accounts."a b.c"]\n',
    ],
)
def test_any_layout_of_toml_can_be_changed(tmp_path, text):
    """Inline or scattered tables, Windows line ends: all accounts can be read back."""
    config = Config(tmp_path / "config.toml")
    config.path.touch(0o600)
    config.path.write_bytes(text.encode())
    config.add_account("new", **PROD, default=True)
    assert ("42", "1") == (
        config.get_account("new").project_id,
        config.get_account("old").project_id,
    )
    config.remove_account("new")
    assert "old" == config.names()[0]
    assert "new" not in config.names()


def test_a_layout_that_cannot_be_written_back_is_not_changed(tmp_path):
    """No change is better than one that means something else."""
    text = 'accounts.old.username = "u"\naccounts.old.secret = "s"\naccounts.old.project_id = 1\n'
    config = Config(tmp_path / "config.toml")
    config.path.touch(0o600)
    config.path.write_text(text)
    with pytest.raises(ConfigError, match="edit it by hand"):
        config.add_account("new", **PROD, default=True)
    assert text == config.path.read_text()
    assert "u" == config.get_account("old").username


def test_a_link_to_the_file_stays_a_link(tmp_path):
    """Managed dotfiles are often links."""
    kept = tmp_path / "dotfiles" / "mp.toml"
    kept.parent.mkdir()
    (tmp_path / "config.toml").symlink_to(kept)
    Config(tmp_path / "config.toml").add_account("prod", **PROD)
    assert (tmp_path / "config.toml").is_symlink()
    assert ["prod"] == Config(kept).names()


def test_a_failed_write_leaves_the_old_file(by_hand, monkeypatch):
    """It is complete, and no temporary file is left."""

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match=r"cannot write .*config\.toml: No space left"):
        by_hand.add_account("third", **PROD)
    assert BY_HAND == by_hand.path.read_text()
    assert {"config.toml", ".config.toml.lock"} == {p.name for p in by_hand.path.parent.iterdir()}


@pytest.mark.slow
def test_concurrent_changes_are_all_kept(config):
    """Threads and processes wait for each other."""
    code = """
import sys
from mixpanel.data.config import Config
for number in range(5):
    name = f"{sys.argv[2]}-{number}"
    Config(sys.argv[1]).add_account(name, username="u", secret="s", project_id="1")
"""
    others = [
        subprocess.Popen([sys.executable, "-c", code, str(config.path), name]) for name in "ab"
    ]
    threads = [
        threading.Thread(target=Config(config.path).add_account, args=(f"t-{n}",), kwargs=PROD)
        for n in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [0, 0] == [other.wait(timeout=120) for other in others]
    wanted = {f"{name}-{n}" for name in "ab" for n in range(5)} | {f"t-{n}" for n in range(10)}
    assert wanted == set(config.names())


# Default


def test_the_first_account_is_the_default(config):
    """Until another one is made the default."""
    config.add_account("one", **PROD)
    config.add_account("two", **PROD)
    assert "one" == config.default()
    config.set_default("two")
    assert [False, True] == [one.is_default for one in config.list_accounts()]
    config.add_account("three", **PROD, default=True)
    assert "three" == config.default()


def test_removing_the_default_account_makes_the_next_one_the_default(config):
    """The one after it, else the first; none when no account is left."""
    for name in ("one", "two", "three"):
        config.add_account(name, **PROD)
    config.set_default("two")
    for removed, then in (("two", "three"), ("three", "one"), ("one", None)):
        config.remove_account(removed)
        assert then == config.default()
    assert [] == config.list_accounts()
    assert "" == config.path.read_text().strip()


def test_existing_and_unknown_names_raise_their_own_errors(by_hand, tmp_path):
    """The error lists the accounts; a refused change creates no file."""
    with pytest.raises(AccountExistsError):
        by_hand.add_account("prod", **PROD)
    for call in (by_hand.remove_account, by_hand.set_default, by_hand.get_account):
        with pytest.raises(AccountNotFoundError) as caught:
            call("nope")
        assert ["prod", "staging"] == caught.value.available_accounts
    with pytest.raises(AccountNotFoundError):
        Config(tmp_path / "none" / "config.toml").set_default("prod")
    assert not (tmp_path / "none").exists()


# What cannot be


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("username", " ", "username is empty"),
        ("username", "a:b", "username must not contain a colon"),
        ("secret", "", "secret is empty"),
        ("secret", "hunter2\nx", "secret contains an unprintable character"),
        ("secret", "hunter2\ud83d", "secret contains an unprintable character"),
        ("project_id", "../../etc", "project_id must be a project id"),
        ("region", "hunter2", "region must be one of us, eu, in"),
    ],
)
def test_invalid_fields_are_refused(config, field, value, why):
    """The field is named, its value is not shown, and nothing is written."""
    with pytest.raises(ConfigError, match=why) as caught:
        config.add_account("prod", **PROD | {field: value})
    assert "hunter2" not in f"{caught.value!r} {caught.value.__context__!r}"
    assert not config.path.exists()


@pytest.mark.parametrize("name", ["", "a b", "../x", "a\n", "-x", "x" * 101])
def test_names_that_need_quoting_are_refused(config, name):
    """A name is typed in shells, and printed."""
    with pytest.raises(ConfigError, match="cannot be the name of an account"):
        config.add_account(name, **PROD)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("default = prod\n", "config.toml is not valid TOML: .*line 1"),
        ("[accounts.prod]\nsecret = 'hunter2\n", "config.toml is not valid TOML: "),
        ("accounts = 3\n", "accounts must be tables"),
        ("default = 3\n", "default must be the name of an account"),
        (
            "default = 'nope'\n[accounts.prod]\n",
            "'nope' is not the name of an account; there are: prod",
        ),
        ("[accounts]\nprod = 'hunter2'\n", "account 'prod' must be a table"),
        (
            "[accounts.prod]\nusername='u'\nsecret=['hunter2']\n",
            "account 'prod': project_id is missing; secret must be text",
        ),
        (
            "[accounts.prod]\nusername='u'\nsecret='hunter2'\nproject_id='1'\nregion='mars'\n",
            "account 'prod': region must be one of us, eu, in",
        ),
    ],
)
def test_a_malformed_file_is_one_clear_error(tmp_path, text, why):
    """It names file, account and field, and never shows a secret."""
    config = Config(tmp_path / "config.toml")
    config.path.touch(0o600)
    config.path.write_text(text)
    with pytest.raises(ConfigError, match=why) as caught:
        config.resolve_credentials()
    shown = f"{caught.value} {caught.value.to_dict()} {caught.value.__context__!r}"
    assert str(config.path) in str(caught.value)
    assert "hunter2" not in shown


def test_an_unreadable_file_is_one_clear_error(tmp_path):
    """A directory, or bytes that are not text."""
    with pytest.raises(ConfigError, match="cannot read"):
        Config(tmp_path).list_accounts()
    path = tmp_path / "config.toml"
    path.touch(0o600)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="it is not UTF-8"):
        Config(path).list_accounts()


def test_an_invalid_account_does_not_affect_the_others(by_hand):
    """Others can be used, and it can be removed."""
    by_hand.path.write_text(BY_HAND.replace('username = "tester"', "username = 7.5"))
    assert "42" == by_hand.get_account("prod").project_id
    by_hand.remove_account("staging")
    assert ["prod"] == by_hand.names()


# Whose credentials


def test_a_named_account_takes_precedence_over_the_environment(by_hand, monkeypatch):
    """The environment takes precedence over the default account."""
    account = {"MP_USERNAME": "env", "MP_SECRET": "e", "MP_PROJECT_ID": "7", "MP_REGION": "IN"}
    for name, value in account.items():
        monkeypatch.setenv(name, value)
    named, found = by_hand.resolve_credentials("staging"), by_hand.resolve_credentials()
    assert ("tester", "43", "us") == (named.username, named.project_id, named.region)
    assert ("account staging", "staging") == (named.source, named.account)
    assert ("env", "7", "in") == (found.username, found.project_id, found.region)
    assert ("environment", None) == (found.source, found.account)
    for name in account:
        monkeypatch.delenv(name)
    found = by_hand.resolve_credentials()
    assert ("robot", "default account prod", "prod") == (
        found.username, found.source, found.account
    )  # fmt: skip


def test_single_fields_can_be_overridden(by_hand, monkeypatch):
    """Of an account or the environment; the source names them."""
    found = by_hand.resolve_credentials("prod", project_id="99", region="us")
    assert ("robot", "99", "us") == (found.username, found.project_id, found.region)
    assert "account prod, project_id overridden, region overridden" == found.source
    monkeypatch.setenv("MP_USERNAME", "env")
    monkeypatch.setenv("MP_SECRET", "e")
    found = by_hand.resolve_credentials(project_id="99")
    assert ("env", "99", "us") == (found.username, found.project_id, found.region)
    assert "environment, project_id overridden" == found.source


@pytest.mark.parametrize(
    ("there", "missing"),
    [
        ({"MP_USERNAME": "u"}, "MP_SECRET and MP_PROJECT_ID"),
        ({"MP_SECRET": "hunter2"}, "MP_USERNAME and MP_PROJECT_ID"),
        ({"MP_USERNAME": "u", "MP_SECRET": "hunter2", "MP_PROJECT_ID": " "}, "MP_PROJECT_ID"),
    ],
)
def test_an_incomplete_environment_is_an_error(by_hand, monkeypatch, there, missing):
    """Falling back to the default account would hide it; a named account needs no variables."""
    for name, value in there.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"but not {missing}: set all") as caught:
        by_hand.resolve_credentials()
    assert "hunter2" not in str(caught.value)
    assert "42" == by_hand.resolve_credentials("prod").project_id


def test_a_region_alone_does_not_count_as_credentials(by_hand, monkeypatch):
    """It may be set for sending events, and an account has its own region."""
    monkeypatch.setenv("MP_REGION", "in")
    assert "eu" == by_hand.resolve_credentials().region


def test_a_single_account_is_the_default(by_hand):
    """Of two accounts, one must be chosen."""
    text = BY_HAND.replace('default = "prod"\n', "")
    by_hand.path.write_text(text)
    with pytest.raises(ConfigError, match=r"mp auth switch NAME`, or name one \(prod, staging\)"):
        by_hand.resolve_credentials()
    by_hand.remove_account("staging")
    assert "default account prod" == by_hand.resolve_credentials().source


def test_missing_credentials_are_an_error_with_its_remedies(config):
    """Add an account, log in, or set the environment."""
    with pytest.raises(ConfigError, match=r"auth add NAME`, log in .*, or set MP_PROJECT_ID and"):
        config.resolve_credentials()


# Credentials


def test_credentials_never_show_their_secret():
    """Neither in a repr or str, nor in the error for invalid ones."""
    credentials = Credentials(username="u", secret="hunter2", project_id="1")
    assert "Basic dTpodW50ZXIy" == credentials.authorization()
    assert "argument" == credentials.source
    assert "hunter2" not in f"{credentials!r} {credentials} {credentials.model_dump_json()}"
    with pytest.raises(ValidationError) as caught:
        Credentials(username="u", secret="hunter2\n\n.", project_id="1")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ValidationError):
        credentials.username = "other"


# Special files, and no home directory


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_only_a_regular_file_is_read(tmp_path, monkeypatch, kind):
    """Reading a pipe would wait for a writer."""
    path = Path(os.devnull) if kind == "device" else tmp_path / "config.toml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    monkeypatch.setenv("MP_CONFIG_PATH", str(path))
    why = "it is a directory" if kind == "folder" else "it is not a regular file"
    for ask in (Config().list_accounts, lambda: Config().add_account("prod", **PROD)):
        with pytest.raises(ConfigError, match=f"cannot read {path}: {why}"):
            ask()


def test_a_deeply_nested_file_is_refused(tmp_path):
    """It is an error, not a crash of the parser."""
    path = tmp_path / "config.toml"
    path.touch(0o600)
    path.write_text("a = " + "[" * 100_000)
    for ask in (Config(path).list_accounts, lambda: Config(path).add_account("prod", **PROD)):
        with pytest.raises(ConfigError, match=r"nested too deeply|is not valid TOML"):
            ask()


def test_a_home_directory_is_needed_only_for_the_default_paths(monkeypatch, tmp_path):
    """Credentials in the environment and an explicit path need none."""
    for name, value in {"USERNAME": "u", "SECRET": "s", "PROJECT_ID": "42"}.items():
        monkeypatch.setenv(f"MP_{name}", value)
    monkeypatch.setattr(Path, "expanduser", _without_home)
    assert "42" == Config().resolve_credentials().project_id
    with Workspace.memory() as ws:
        assert 1 == ws.sql_scalar("SELECT 1")
    with Workspace(path=tmp_path / "ws.db") as ws:
        assert tmp_path / "ws.db" == ws.db_path
    with Workspace() as ws, pytest.raises(ConfigError, match="set HOME or use an absolute path"):
        ws.tables()
    with pytest.raises(ConfigError, match=r"cannot expand ~/\.mp/config\.toml"):
        Config().list_accounts()


def _without_home(path):
    if str(path).startswith("~"):
        raise RuntimeError("Could not determine home directory.")
    return path
