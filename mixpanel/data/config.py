"""Keep accounts in a file that only its owner can read, and say whose credentials a call uses.

The file is `~/.mp/config.toml`, or the one that `MP_CONFIG_PATH` names:

    default = "prod"

    [accounts.prod]
    username = "reports.a1b2c3.mp-service-account"
    secret = "…"
    project_id = "12345"
    region = "eu"

It may be edited by hand: comments and order stay as they are when an account is added or removed.
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

USUAL = "~/.mp/config.toml"
MOST_BYTES = 16_000_000  # of the file
LOCK_TIMEOUT = 30.0  # seconds to wait for another process that changes the file
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,99}")

_warned: set[Path] = set()


@dataclass(frozen=True, slots=True)
class AccountInfo:
    """Describe an account of the file, without its secret."""

    name: str
    username: str
    project_id: str
    region: Region
    is_default: bool


class Config:
    """Read and change the file of accounts.

    Every call reads the file anew, and every change is a new file in place of the old one, so a
    reader never sees half of it. Processes that change it at the same time take turns.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        self._chosen = path or os.environ.get("MP_CONFIG_PATH") or USUAL

    @cached_property
    def path(self) -> Path:
        """Where the file is.

        :raises ConfigError: when it is at home, and nobody knows where that is.
        """
        return expand_home(self._chosen)

    @hide_arguments
    def list_accounts(self) -> list[AccountInfo]:
        """Return all accounts in the order of the file.

        :raises ConfigError: when the file, or one account in it, is not as it should be.
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
        """Return the names of all accounts, of broken ones too."""
        return list(self._read().get("accounts", {}))

    @hide_arguments
    def default(self) -> str | None:
        """Return the name of the account that is used where none is named; an only one always is.

        :raises ConfigError: when the file names an account that is not there.
        """
        return self._default(self._read())

    @hide_arguments
    def get_account(self, name: str) -> Credentials:
        """Return the credentials of one account.

        :raises AccountNotFoundError: when there is none of that name.
        :raises ConfigError: when one of its fields is missing or cannot be.
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

        :raises AccountExistsError: when there is one of that name.
        :raises ConfigError: for a name or field that cannot be, or a file that cannot be written.
        """
        if not NAME.fullmatch(name):
            raise ConfigError(
                f"{name!r} cannot be the name of an account: letters, digits and any of _ . @ - "
                "can, up to 100 of them"
            )
        fields = {
            "username": username, "secret": secret, "project_id": project_id, "region": region
        }  # fmt: skip
        made = checked(fields, f"account {name!r}", source="argument")

        def add(config: MutableMapping[str, Any]) -> None:
            accounts = config.setdefault("accounts", {})
            if name in accounts:
                raise AccountExistsError(name)
            accounts[name] = {
                "username": made.username,
                "secret": made.secret.get_secret_value(),
                "project_id": made.project_id,
                "region": made.region,
            }
            if default or len(accounts) == 1:
                config["default"] = name

        self._change(add)

    @hide_arguments
    def remove_account(self, name: str) -> None:
        """Remove an account; when it was the default, the next one takes its place.

        :raises AccountNotFoundError: when there is none of that name.
        """

        def remove(config: MutableMapping[str, Any]) -> None:
            accounts = config.get("accounts", {})
            names = list(accounts)
            if name not in accounts:
                raise AccountNotFoundError(name, names)
            at = names.index(name)
            others = names[at + 1 :] + names[:at]
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
        """Use this account wherever none is named.

        :raises AccountNotFoundError: when there is none of that name.
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
        `MP_REGION`. A named account stands above it. `project_id` and `region` stand above that
        one field of either.

        :raises AccountNotFoundError: when there is no account of that name.
        :raises ConfigError: when there are no credentials, or only a part of them.
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
                f"{self.path} says of no account that it is the default: choose one with "
                f"`mp auth switch NAME`, or name one ({names})"
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
                f"{self.path}: default = {default!r} is the name of no account; {known}"
            )
        return str(default)

    def _read(self) -> dict[str, Any]:
        return self._parsed(self._contents())

    def _contents(self) -> str:
        try:
            # Who writes this file decides whose account is used.
            raw = read_checked(follow_own_links(self.path), max_bytes=MOST_BYTES)
            self._warn_of_readers()
            return raw.decode("utf-8-sig")
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise ConfigError(f"cannot read {self.path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"cannot read {self.path}: it is no UTF-8") from None

    def _parsed(self, text: str) -> dict[str, Any]:
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{self.path} is no TOML: {error}") from None
        except RecursionError:
            raise ConfigError(f"{self.path} nests too deeply for accounts") from None
        if not isinstance(data.get("accounts", {}), dict):
            raise ConfigError(f"{self.path}: accounts must be tables, as in [accounts.prod]")
        if not isinstance(data.get("default", ""), str):
            raise ConfigError(f"{self.path}: default must be the name of an account, in quotes")
        return data

    def _warn_of_readers(self) -> None:
        if self.path in _warned or not others_may_read(self.path):
            return
        _warned.add(self.path)
        logger.warning(
            "%s holds secrets, and others on this machine may read it: chmod 600 %s",
            self.path, self.path,
        )  # fmt: skip

    # ---- changing -------------------------------------------------------------------------------

    def _change(self, change: Callable[[MutableMapping[str, Any]], None]) -> None:
        change(self._read())  # what is refused leaves no folder behind
        try:
            # A link to a file elsewhere, as dotfiles often are, stays a link.
            target = follow_own_links(self.path)
            make_folder(target.parent)
            if self._is_usual():
                close_to_others(self.path.parent)
            lock = FileLock(target.with_name(f".{target.name}.lock"))
            if not lock.acquire(LOCK_TIMEOUT):
                raise ConfigError(
                    f"cannot write {self.path}: another process has been changing it for "
                    f"{LOCK_TIMEOUT:.0f} seconds; try again when it has ended"
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

    def _is_usual(self) -> bool:
        try:
            return self.path == expand_home(USUAL)
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
        if not same:  # a layout that tomlkit does not master; rather no change than a wrong one
            raise ConfigError(f"{self.path} cannot be changed from here: change it in an editor")
        return changed


def _tomlkit() -> ModuleType:
    try:
        import tomlkit
    except ImportError as error:
        raise ConfigError("changing accounts needs: pip install 'mixpanel-async[data]'") from error
    return tomlkit
