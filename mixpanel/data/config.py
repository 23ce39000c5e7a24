"""Keep accounts in a file that only its owner can read, and resolve the credentials of a call.

The file is `~/.mp/config.toml`, or the one that `MP_CONFIG_PATH` names:

    default = "prod"

    [accounts.prod]
    username = "reports.a1b2c3.mp-service-account"
    secret = "…"
    project_id = "12345"
    region = "eu"

It may be edited by hand: comments and order are kept when an account is added or removed.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

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
from mixpanel.data._paths import expand_home
from mixpanel.data.credentials import VARIABLES, Credentials, checked, from_environment, source_of
from mixpanel.data.exceptions import AccountExistsError, AccountNotFoundError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping
    from pathlib import Path
    from types import ModuleType

    from pydantic import SecretStr

    from mixpanel.settings import Region

__all__ = ["AccountInfo", "Config", "Credentials"]

DEFAULT_PATH = "~/.mp/config.toml"
MAX_BYTES = 16_000_000  # of the file
LOCK_TIMEOUT = 30.0  # seconds to wait for another process that changes the file
ACCOUNT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,99}")

_warned: set[Path] = set()


@dataclass(frozen=True, slots=True)
class AccountInfo:
    """An account of the file, without its secret."""

    name: str
    username: str
    project_id: str
    region: Region
    is_default: bool


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
        found = [self._account(data, name) for name in data.get("accounts", {})]
        return [
            AccountInfo(
                one.account or "", one.username, one.project_id, one.region, one.account == default
            )
            for one in found
        ]

    @hide_arguments
    def names(self) -> list[str]:
        """Return the names of all accounts, including invalid ones."""
        return list(self._read().get("accounts", {}))

    @hide_arguments
    def default(self) -> str | None:
        """Return the name of the default account; a single account is the default.

        :raises ConfigError: when the file names an account that does not exist.
        """
        return self._default(self._read())

    @hide_arguments
    def get_account(self, name: str) -> Credentials:
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
        if not ACCOUNT_NAME.fullmatch(name):
            raise ConfigError(
                f"{name!r} cannot be the name of an account: use letters, digits and any of "
                "_ . @ - (at most 100 characters)"
            )
        fields = {
            "username": username, "secret": secret, "project_id": project_id, "region": region
        }  # fmt: skip
        account = checked(fields, f"account {name!r}", source="argument")

        def add(config: MutableMapping[str, Any]) -> None:
            accounts = config.setdefault("accounts", {})
            if name in accounts:
                raise AccountExistsError(name)
            accounts[name] = {
                "username": account.username,
                "secret": account.secret.get_secret_value(),
                "project_id": account.project_id,
                "region": account.region,
            }
            if default or len(accounts) == 1:
                config["default"] = name

        self._change(add)

    @hide_arguments
    def remove_account(self, name: str) -> None:
        """Remove an account; if it was the default, the next one becomes the default.

        :raises AccountNotFoundError: when there is none with that name.
        """

        def remove(config: MutableMapping[str, Any]) -> None:
            accounts = config.get("accounts", {})
            names = list(accounts)
            if name not in accounts:
                raise AccountNotFoundError(name, names)
            position = names.index(name)
            others = names[position + 1 :] + names[:position]
            del accounts[name]
            if not others:
                del config["accounts"]
            if config.get("default") == name:
                if others:
                    config["default"] = others[0]
                else:
                    del config["default"]

        self._change(remove)

    @hide_arguments
    def set_default(self, name: str) -> None:
        """Make an account the default, which is used where none is named.

        :raises AccountNotFoundError: when there is none with that name.
        """

        def switch(config: MutableMapping[str, Any]) -> None:
            accounts = config.get("accounts", {})
            if name not in accounts:
                raise AccountNotFoundError(name, accounts)
            config["default"] = name

        self._change(switch)

    @hide_arguments
    def resolve_credentials(
        self,
        account: str | None = None,
        *,
        project_id: str | None = None,
        region: Region | None = None,
    ) -> Credentials:
        """Return the credentials to use: of the named account, the environment, or the default.

        The environment is `MP_USERNAME`, `MP_SECRET`, `MP_PROJECT_ID` and, unless it is `us`,
        `MP_REGION`. A named account takes precedence over it. `project_id` and `region` override
        the same field of whichever is used.

        :raises AccountNotFoundError: when there is no account of that name.
        :raises ConfigError: when there are no credentials, or they are incomplete.
        """
        both = {"project_id": project_id, "region": region}
        given: dict[str, str | None] = {k: v for k, v in both.items() if v is not None}
        if account is not None:
            return self._account(self._read(), account, given)
        return from_environment(given) or self._from_default(given)

    # ---- reading --------------------------------------------------------------------------------

    def _from_default(self, given: dict[str, str | None]) -> Credentials:
        data = self._read()
        default = self._default(data)
        if default is not None:
            return self._account(data, default, given, source=f"default account {default}")
        names = ", ".join(data.get("accounts", {}))
        if names:
            raise ConfigError(
                f"{self.path} has no default account: choose one with `mp auth switch NAME`, or "
                f"name one ({names})"
            )
        raise ConfigError(
            "there are no credentials: add an account with `mp auth add NAME`, or set "
            "MP_USERNAME, MP_SECRET and MP_PROJECT_ID"
        )

    def _account(
        self,
        data: dict[str, Any],
        name: str,
        given: dict[str, str | None] | None = None,
        *,
        source: str | None = None,
    ) -> Credentials:
        accounts = data.get("accounts", {})
        if name not in accounts:
            raise AccountNotFoundError(name, accounts)
        where = f"{self.path}: account {name!r}"
        if not isinstance(accounts[name], dict):
            raise ConfigError(f"{where} must be a table, as in [accounts.{name}]")
        fields = {key: value for key, value in accounts[name].items() if key in VARIABLES}
        return checked(
            fields | (given or {}),
            where,
            source=source_of(source or f"account {name}", given),
            account=name,
        )

    def _default(self, data: dict[str, Any]) -> str | None:
        accounts, default = data.get("accounts", {}), data.get("default")
        if default is None:
            return next(iter(accounts)) if len(accounts) == 1 else None
        if default not in accounts:
            known = f"there are: {', '.join(accounts)}" if accounts else "there are no accounts"
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


def _tomlkit() -> ModuleType:
    try:
        import tomlkit
    except ImportError as error:
        raise ConfigError("changing accounts needs: pip install 'mixpanel-async[data]'") from error
    return tomlkit
