"""Keep accounts in a file that only its owner can read, and resolve the credentials of a call.

The file is `~/.mp/config.toml`, or the one that `MP_CONFIG_PATH` names:

    default = "prod"

    [accounts.prod]
    type = "service_account"
    region = "eu"
    default_project = "12345"
    username = "reports.a1b2c3.mp-service-account"
    secret = "…"

    [mixpanel-async.logins.me]
    region = "us"
    project_id = "12345"

It may be edited by hand: comments and order are kept when an account is added or removed.

Mixpanel's own mixpanel-headless has its accounts in the same file and refuses one that it cannot
read, so `accounts` has the form that it documents. Its service accounts and access tokens can be
used, and its active account is the default where the file names none. Older files, in which an
account has a `project_id` and no `type`, can still be read. Logins are in a table of our own; their
tokens are in `logins/NAME.json` beside the file.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from mixpanel._runtime.checked_files import follow_own_links, read_checked
from mixpanel._runtime.file_lock import FileLock
from mixpanel._runtime.private_files import (
    close_to_others,
    make_folder,
    others_may_read,
    remove_abandoned,
    write,
)
from mixpanel._runtime.redaction import hide_arguments
from mixpanel._runtime.safe_logging import logger
from mixpanel.data._oauth.tokens import TokenFile
from mixpanel.data._paths import expand_home
from mixpanel.data.credentials import (
    VARIABLES,
    Credentials,
    LoginCredentials,
    TokenCredentials,
    checked,
    from_environment,
    source_of,
)
from mixpanel.data.exceptions import AccountExistsError, AccountNotFoundError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping
    from pathlib import Path
    from types import ModuleType

    from pydantic import SecretStr

    from mixpanel.data._oauth.tokens import Tokens
    from mixpanel.data.credentials import AnyCredentials
    from mixpanel.settings import Region

__all__ = ["AccountInfo", "Config", "Credentials", "check_account_name"]

DEFAULT_PATH = "~/.mp/config.toml"
MAX_BYTES = 16_000_000  # of the file
LOCK_TIMEOUT = 30.0  # seconds to wait for another process that changes the file
# mixpanel-headless refuses a file with any other name or project.
ACCOUNT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
PROJECT_NUMBER = re.compile(r"[0-9]{1,100}")
OWN_TABLE = "mixpanel-async"
AccountType = Literal["service_account", "oauth_token", "login", "oauth_browser"]

_warned: set[Path] = set()


@dataclass(frozen=True, slots=True)
class AccountInfo:
    """An account of the file, without its secret.

    `type` is a service account, an access token, a login of ours, or a login of mixpanel-headless,
    which only that can use. `username` is None for all but service accounts, and `project_id` for
    accounts that name no project.
    """

    name: str
    username: str | None
    project_id: str | None
    region: Region
    is_default: bool
    type: AccountType = "service_account"


class Config:
    """The file of accounts.

    >>> config = Config()  # doctest: +SKIP
    >>> config.add_account("prod", username="u", secret="s", project_id="12345")  # doctest: +SKIP
    >>> config.resolve_credentials("prod").source  # doctest: +SKIP
    'account prod'

    Every call reads the file anew. Every change replaces it in one step, so that no reader sees
    half of it, and processes that change it at the same time wait for each other.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        self._chosen = path or os.environ.get("MP_CONFIG_PATH") or DEFAULT_PATH

    @cached_property
    def path(self) -> Path:
        """The path of the file.

        :raises ConfigError: when it begins with `~` and there is no home directory.
        """
        return expand_home(self._chosen)

    @hide_arguments
    def list_accounts(self) -> list[AccountInfo]:
        """Return all accounts in the order of the file.

        :raises ConfigError: when the file, or one account in it, is invalid.
        """
        data = self._read()
        default = self._default(data)
        return [self._info(data, name, default) for name in _names(data)]

    @hide_arguments
    def account_info(self, name: str) -> AccountInfo:
        """Return one account without its secret.

        :raises AccountNotFoundError: when there is none with that name.
        :raises ConfigError: when it is invalid.
        """
        data = self._read()
        return self._info(data, name, self._default(data))

    @hide_arguments
    def names(self) -> list[str]:
        """Return the names of all accounts, including invalid ones."""
        return _names(self._read())

    @hide_arguments
    def default(self) -> str | None:
        """Return the name of the default account; a single account is the default.

        :raises ConfigError: when the file names an account that does not exist.
        """
        return self._default(self._read())

    @hide_arguments
    def get_account(self, name: str) -> AnyCredentials:
        """Return the credentials of one account.

        :raises AccountNotFoundError: when there is none with that name.
        :raises ConfigError: when one of its fields is missing or invalid.
        """
        return self._account(self._read(), name)

    @hide_arguments
    def add_account(
        self,
        name: str,
        *,
        username: str,
        secret: str | SecretStr,
        project_id: str,
        region: Region = "us",
        default: bool = False,
    ) -> None:
        """Add an account; the first one becomes the default.

        :raises AccountExistsError: when there is one with that name.
        :raises ConfigError: for an invalid name or field, or a file that cannot be written.
        """
        check_account_name(name)
        fields = {
            "username": username, "secret": secret, "project_id": project_id, "region": region
        }  # fmt: skip
        where = f"account {name!r}"
        account = checked(fields, where, source="argument", kind=Credentials)
        if not PROJECT_NUMBER.fullmatch(account.project_id):
            raise ConfigError(
                f"{where}: project_id must be the number in the project's settings, not "
                f"{account.project_id!r}"
            )

        def add(config: MutableMapping[str, Any]) -> None:
            names = _names(config)
            if name in names:
                raise AccountExistsError(name)
            config.setdefault("accounts", {})[name] = {
                "type": "service_account",
                "region": account.region,
                "default_project": account.project_id,
                "username": account.username,
                "secret": account.secret.get_secret_value(),
            }
            if default or not names:
                config["default"] = name

        self._change(add)

    @hide_arguments
    def add_login(
        self,
        name: str,
        tokens: Tokens,
        *,
        project_id: str,
        region: Region,
        default: bool = False,
    ) -> None:
        """Add or renew the login of a person; the first account becomes the default.

        :raises AccountExistsError: when there is another kind of account with that name.
        :raises ConfigError: when a file cannot be written.
        """

        def add(config: MutableMapping[str, Any]) -> None:
            names = _names(config)
            login = {"region": region, "project_id": project_id}
            config.setdefault(OWN_TABLE, {}).setdefault("logins", {})[name] = login
            if default or not names:
                config["default"] = name

        is_new = self.check_login(name) is None
        add(self._read())
        self.token_file(name).write(tokens)
        try:
            self._change(add)
        except ConfigError:
            if is_new:
                self.token_file(name).remove()
            raise

    @hide_arguments
    def check_login(self, name: str) -> LoginCredentials | None:
        """Check that a login may have this name; return the one that has it, if any.

        :raises AccountExistsError: when there is another kind of account with that name.
        :raises ConfigError: for a name that no account can have, or an invalid file.
        """
        check_account_name(name)
        data = self._read()
        if name in _table(data, "accounts"):
            raise AccountExistsError(name)
        if name not in _logins(data):
            return None
        found = self._account(data, name)
        return found if isinstance(found, LoginCredentials) else None

    def token_file(self, name: str) -> TokenFile:
        """Return the file with the tokens of a login."""
        return TokenFile(self.path.parent / "logins" / f"{name}.json")

    @hide_arguments
    def remove_account(self, name: str) -> None:
        """Remove an account; if it was the default, the next one becomes the default.

        The tokens of a login are deleted with it, but not revoked.

        :raises AccountNotFoundError: when there is none with that name.
        :raises ConfigError: when mixpanel-headless needs it, or the file cannot be written.
        """

        def remove(config: MutableMapping[str, Any]) -> None:
            names = _names(config)
            if name not in names:
                raise AccountNotFoundError(name, names)
            _refuse_if_needed(config, name)
            position = names.index(name)
            others = names[position + 1 :] + names[:position]
            _delete(config, name)
            if config.get("default") == name:
                if others:
                    config["default"] = others[0]
                else:
                    del config["default"]

        is_login = name in _logins(self._read())
        self._change(remove)
        if is_login:
            self.token_file(name).remove()

    @hide_arguments
    def set_default(self, name: str) -> None:
        """Make an account the default, which is used where none is named.

        :raises AccountNotFoundError: when there is none with that name.
        """

        def switch(config: MutableMapping[str, Any]) -> None:
            names = _names(config)
            if name not in names:
                raise AccountNotFoundError(name, names)
            config["default"] = name

        self._change(switch)

    @hide_arguments
    def resolve_credentials(
        self,
        account: str | None = None,
        *,
        project_id: str | None = None,
        region: Region | None = None,
    ) -> AnyCredentials:
        """Return the credentials to use: of the named account, the environment, or the default.

        The environment is `MP_USERNAME` and `MP_SECRET`, else `MP_OAUTH_TOKEN`; and `MP_PROJECT_ID`
        and, unless it is `us`, `MP_REGION`. A named account takes precedence over it.
        `MP_PROJECT_ID` alone selects another project of the default account. `project_id` and
        `region` override the same field of whichever is used.

        :raises AccountNotFoundError: when there is no account of that name.
        :raises ConfigError: when there are no credentials, or they are incomplete.
        """
        both = {"project_id": project_id, "region": region}
        given: dict[str, str | None] = {k: v for k, v in both.items() if v is not None}
        if account is not None:
            return self._account(self._read(), account, given)
        return from_environment(given) or self._from_default(given)

    # ---- reading --------------------------------------------------------------------------------

    def _from_default(self, given: dict[str, str | None]) -> AnyCredentials:
        data = self._read()
        default = self._default(data)
        project = os.environ.get(VARIABLES["project_id"], "").strip()
        if project:  # alone: with the rest of an account it would have been used
            given = {"project_id": project, **given}
        if default is not None:
            return self._account(data, default, given, source=f"default account {default}")
        names = ", ".join(_names(data))
        if names:
            raise ConfigError(
                f"{self.path} has no default account: choose one with `mp auth switch NAME`, or "
                f"name one ({names})"
            )
        raise ConfigError(
            "there are no credentials: add a service account with `mp auth add NAME`, log in with "
            "`mp auth login`, or set MP_PROJECT_ID and either MP_USERNAME and MP_SECRET or "
            "MP_OAUTH_TOKEN"
        )

    def _account(
        self,
        data: dict[str, Any],
        name: str,
        given: dict[str, str | None] | None = None,
        *,
        source: str | None = None,
    ) -> AnyCredentials:
        fields, kind = self._fields(data, name)
        where = f"{self.path}: account {name!r}"
        fields |= given or {}
        source = source_of(source or f"account {name}", given)
        if kind == "oauth_browser":
            raise ConfigError(
                f"{where} is a login of mixpanel-headless, which only that can renew: log in with "
                "`mp auth login` under another name"
            )
        if not fields.get("project_id") and "type" in fields:
            fields["project_id"] = os.environ.get(VARIABLES["project_id"], "").strip()
            source += ", project_id from the environment"
            if not fields["project_id"]:
                raise ConfigError(
                    f"{where} names no project: set MP_PROJECT_ID, or add the line "
                    f'default_project = "12345" to [accounts.{name}]'
                )
        if kind == "login":
            fields["tokens_path"] = self.token_file(name).path
            return checked(fields, where, source=source, account=name, kind=LoginCredentials)
        if kind == "oauth_token":
            fields["token"] = self._token(fields, where)
            return checked(fields, where, source=source, account=name, kind=TokenCredentials)
        fields = {key: value for key, value in fields.items() if key in VARIABLES}
        return checked(fields, where, source=source, account=name, kind=Credentials)

    def _fields(self, data: dict[str, Any], name: str) -> tuple[dict[str, Any], AccountType]:
        """Return the fields of an account, with its project in `project_id`, and its type.

        :raises AccountNotFoundError: when there is none with that name.
        :raises ConfigError: when it is not a table, or its type is unknown.
        """
        accounts, logins = data.get("accounts", {}), _logins(data)
        where = f"{self.path}: account {name!r}"
        if name not in accounts and name not in logins:
            raise AccountNotFoundError(name, _names(data))
        if name in accounts and name in logins:
            raise ConfigError(
                f"{where} is there twice, in [accounts.{name}] and in "
                f"[{OWN_TABLE}.logins.{name}]: rename one of them"
            )
        table = logins[name] if name in logins else accounts[name]
        if not isinstance(table, dict):
            section = f"{OWN_TABLE}.logins" if name in logins else "accounts"
            raise ConfigError(f"{where} must be a table, as in [{section}.{name}]")
        fields = dict(table)
        if name in logins:
            check_account_name(name)  # it is the name of a file, too
            return fields, "login"
        kind = fields.get("type", "service_account")
        if kind not in ("service_account", "oauth_token", "oauth_browser"):
            raise ConfigError(f"{where}: type must be service_account, not {str(kind)[:40]!r}")
        if "default_project" in fields:
            fields["project_id"] = fields.pop("default_project")
        return fields, kind

    def _token(self, fields: dict[str, Any], where: str) -> Any:
        variable = fields.get("token_env")
        if not isinstance(variable, str):
            return fields.get("token")
        token = os.environ.get(variable, "").strip()
        if not token:
            raise ConfigError(f"{where} has its token in {variable}, which is not set")
        return token

    def _info(self, data: dict[str, Any], name: str, default: str | None) -> AccountInfo:
        fields, kind = self._fields(data, name)
        if "type" not in fields and kind == "service_account":
            self._account(data, name)  # our older form, in which every field was checked
        username, project = fields.get("username"), fields.get("project_id")
        return AccountInfo(
            name,
            str(username) if kind == "service_account" else None,
            None if project is None else str(project),
            str(fields.get("region", "us")).lower(),  # type: ignore[arg-type]
            name == default,
            kind,
        )

    def _default(self, data: dict[str, Any]) -> str | None:
        names, default = _names(data), data.get("default")
        if default is None:
            active = _table(data, "active").get("account")  # of mixpanel-headless
            if active in names:
                return str(active)
            return names[0] if len(names) == 1 else None
        if default not in names:
            known = f"there are: {', '.join(names)}" if names else "there are no accounts"
            raise ConfigError(
                f"{self.path}: default = {default!r} is not the name of an account; {known}"
            )
        return str(default)

    def _read(self) -> dict[str, Any]:
        return self._parsed(self._contents())

    def _contents(self) -> str:
        try:
            # Checked, because whoever can write this file decides which account is used.
            raw = read_checked(follow_own_links(self.path), max_bytes=MAX_BYTES)
            self._warn_if_readable_by_others()
            return raw.decode("utf-8-sig")
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise ConfigError(f"cannot read {self.path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"cannot read {self.path}: it is not UTF-8") from None

    def _parsed(self, text: str) -> dict[str, Any]:
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{self.path} is not valid TOML: {error}") from None
        except RecursionError:
            raise ConfigError(f"{self.path} is nested too deeply") from None
        if not isinstance(data.get("accounts", {}), dict):
            raise ConfigError(f"{self.path}: accounts must be tables, as in [accounts.prod]")
        if not isinstance(data.get("default", ""), str):
            raise ConfigError(f"{self.path}: default must be the name of an account, in quotes")
        own = data.get(OWN_TABLE, {})
        if not isinstance(own, dict) or not isinstance(own.get("logins", {}), dict):
            raise ConfigError(f"{self.path}: logins must be tables, as in [{OWN_TABLE}.logins.me]")
        return data

    def _warn_if_readable_by_others(self) -> None:
        if self.path in _warned or not others_may_read(self.path):
            return
        _warned.add(self.path)
        logger.warning(
            "%s contains secrets and is readable by other users; run: chmod 600 %s",
            self.path, self.path,
        )  # fmt: skip

    # ---- changing -------------------------------------------------------------------------------

    def _change(self, change: Callable[[MutableMapping[str, Any]], None]) -> None:
        change(self._read())  # tried first, so that a refused change creates no directory
        try:
            # Managed dotfiles are often links: the file behind the link is replaced, not the link.
            target = follow_own_links(self.path)
            make_folder(target.parent)
            if self._is_at_default_path():
                close_to_others(self.path.parent)
            lock = FileLock(target.with_name(f".{target.name}.lock"))
            if not lock.acquire(LOCK_TIMEOUT):
                raise ConfigError(
                    f"cannot write {self.path}: another process has been changing it for "
                    f"{LOCK_TIMEOUT:.0f} seconds; try again when that process has ended"
                )
            try:
                remove_abandoned(target)
                write(target, self._changed(self._contents(), change).encode())
            finally:
                lock.release()
        except OSError as error:
            name = error.filename or self.path
            where = "" if str(name) == str(self.path) else f" ({name})"
            raise ConfigError(f"cannot write {self.path}: {error.strerror}{where}") from error

    def _is_at_default_path(self) -> bool:
        try:
            return self.path == expand_home(DEFAULT_PATH)
        except ConfigError:
            return False

    def _changed(self, text: str, change: Callable[[MutableMapping[str, Any]], None]) -> str:
        tomlkit = _tomlkit()
        wanted = self._parsed(text)
        change(wanted)
        changed = ""
        try:
            document = tomlkit.parse(text)
            change(document)
            changed = tomlkit.dumps(document)
            same = tomllib.loads(changed) == wanted
        except (tomlkit.exceptions.TOMLKitError, tomllib.TOMLDecodeError, RecursionError):
            same = False
        if not same:  # a layout that tomlkit writes differently: better no change than a wrong one
            raise ConfigError(
                f"cannot change {self.path} without altering its layout: edit it by hand"
            )
        return changed


def check_account_name(name: str) -> None:
    """Check the name of a new account.

    :raises ConfigError: for a name that cannot be typed in a shell, or that mixpanel-headless
        refuses.
    """
    if not ACCOUNT_NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot be the name of an account: use letters, digits, _ and - (at most 64 "
            "characters)"
        )


def _table(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a table, an empty one if there is none."""
    table = data.get(name)
    return table if isinstance(table, dict) else {}


def _logins(data: Mapping[str, Any]) -> Mapping[str, Any]:
    return _table(_table(data, OWN_TABLE), "logins")


def _names(data: Mapping[str, Any]) -> list[str]:
    """Return the names of all accounts, in the order of the file."""
    return [*dict.fromkeys([*_table(data, "accounts"), *_logins(data)])]


def _refuse_if_needed(config: Mapping[str, Any], name: str) -> None:
    """Refuse to remove what mixpanel-headless could not do without.

    :raises ConfigError: for one of its logins, whose tokens it keeps, or one that its targets use.
    """
    if _table(_table(config, "accounts"), name).get("type") == "oauth_browser":
        raise ConfigError(
            f"account {name!r} is a login of mixpanel-headless, which has its tokens: remove it "
            f"with that, by `mp account remove {name}`"
        )
    targets = [
        target
        for target, table in _table(config, "targets").items()
        if isinstance(table, dict) and table.get("account") == name
    ]
    if targets:
        raise ConfigError(
            f"account {name!r} is used by mixpanel-headless in the target {', '.join(targets)}: "
            f"remove that first, by its `mp target remove {targets[0]}`"
        )


def _delete(config: MutableMapping[str, Any], name: str) -> None:
    """Delete an account, its tables if they become empty, and what refers to it."""
    own = config.get(OWN_TABLE, {})
    for parent, key in ((config, "accounts"), (own, "logins"), (config, OWN_TABLE)):
        table = parent.get(key, {})
        if key != OWN_TABLE and name in table:
            del table[name]
        if key in parent and not table:
            del parent[key]
    active = config.get("active", {})
    if isinstance(active, dict) and active.get("account") == name:
        # Its workspace means nothing without the account.
        for key in ("account", "workspace"):
            if key in active:
                del active[key]
        if not active:
            del config["active"]


def _tomlkit() -> ModuleType:
    try:
        import tomlkit
    except ImportError as error:
        raise ConfigError("changing accounts needs: pip install 'mixpanel-async[data]'") from error
    return tomlkit
