"""Keep the tokens of a login in a file that only its owner can read."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

from mixpanel._records.json_encoding import loads
from mixpanel._runtime.checked_files import read_checked
from mixpanel._runtime.file_lock import FileLock
from mixpanel._runtime.private_files import close_to_others, make_folder, remove_abandoned, write
from mixpanel.credentials import Secret
from mixpanel.data.exceptions import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["TokenFile", "Tokens"]

EARLY = 60.0  # seconds before its expiry at which an access token is renewed,
PART = 0.1  # but no more than this part of its lifetime
MAX_BYTES = 1_000_000  # of a file


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one login; neither repr nor pickle shows them.

    `server` is the authorization server, the only one that gets them. `expires_at` and `renew_at`
    are in seconds since 1970, None if the server did not say. Without a `refresh_token`, the login
    ends with the access token.
    """

    server: str
    client_id: str
    access_token: Secret
    refresh_token: Secret | None = None
    expires_at: float | None = None
    renew_at: float | None = None
    scope: str = ""
    email: str | None = None

    def is_fresh(self, now: float) -> bool:
        """Return True if the access token need not be renewed."""
        return self.renew_at is None or now < self.renew_at

    def is_valid(self, now: float) -> bool:
        """Return True if the access token has not expired."""
        return self.expires_at is None or now < self.expires_at

    def lasting(self, lifetime: float | None, now: float) -> Tokens:
        """Return the tokens with an access token that expires in so many seconds."""
        if lifetime is None:
            return replace(self, expires_at=None, renew_at=None)
        early = min(EARLY, lifetime * PART)
        return replace(self, expires_at=now + lifetime, renew_at=now + lifetime - early)

    def to_json(self) -> bytes:
        """Return the content of the file."""
        fields = {
            "server": self.server,
            "client_id": self.client_id,
            "access_token": self.access_token.reveal(),
            "refresh_token": self.refresh_token.reveal() if self.refresh_token else None,
            "expires_at": self.expires_at,
            "renew_at": self.renew_at,
            "scope": self.scope,
            "email": self.email,
        }
        return (json.dumps(fields, indent=1) + "\n").encode()

    def __reduce__(self) -> NoReturn:
        raise TypeError("Tokens cannot be pickled: other processes read them from their file")


class TokenFile:
    """The file of one login. It is replaced in one step, so no reader sees half of it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Tokens | None:
        """Return the tokens, None if there is no file.

        :raises ConfigError: when the file cannot be used.
        """
        try:
            raw = read_checked(self.path, max_bytes=MAX_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(f"cannot read {self.path}: {error.strerror}") from None
        tokens = _parsed(raw)
        if tokens is None:
            raise ConfigError(f"{self.path} does not hold a login: delete it, and log in again")
        return tokens

    def write(self, tokens: Tokens) -> None:
        """Replace the tokens.

        :raises ConfigError: when the file cannot be written.
        """
        try:
            self.make_folder()
            remove_abandoned(self.path)
            write(self.path, tokens.to_json())
        except OSError as error:
            raise ConfigError(f"cannot write {self.path}: {error.strerror}") from None

    def make_folder(self) -> None:
        """Create the directory, for the owner only.

        :raises OSError: when it cannot be created.
        """
        make_folder(self.path.parent)
        close_to_others(self.path.parent)

    def remove(self) -> None:
        """Delete the file and its lock, if they exist.

        :raises ConfigError: when it cannot be deleted.
        """
        try:
            self.path.unlink(missing_ok=True)
            self._lock_path.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot delete {self.path}: {error.strerror}") from None

    def lock(self) -> FileLock:
        """Return the lock of whoever renews the tokens, in this process or another."""
        return FileLock(self._lock_path)

    @property
    def _lock_path(self) -> Path:
        return self.path.with_name(f".{self.path.name}.lock")

    def __repr__(self) -> str:
        return f"<TokenFile {self.path}>"


def _parsed(raw: bytes) -> Tokens | None:
    try:
        fields: Any = loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    texts = [fields.get(name) for name in ("server", "client_id", "access_token")]
    if not all(isinstance(text, str) and text for text in texts):
        return None
    refresh, email = fields.get("refresh_token"), fields.get("email")
    return Tokens(
        server=fields["server"],
        client_id=fields["client_id"],
        access_token=Secret(fields["access_token"]),
        refresh_token=Secret(refresh) if isinstance(refresh, str) and refresh else None,
        expires_at=_number(fields.get("expires_at")),
        renew_at=_number(fields.get("renew_at")),
        scope=str(fields.get("scope") or ""),
        email=email if isinstance(email, str) else None,
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
