"""Credentials: tokens, service accounts, API secrets. Does no I/O."""

import base64
import binascii
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hmac import compare_digest
from typing import NamedTuple


class Basic(NamedTuple):
    """The username and password of an `Authorization: Basic` header."""

    username: str
    password: str


def basic(authorization: str) -> Basic | None:
    """Read an `Authorization` header; return None if it is not Basic."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        text = base64.b64decode(value.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    username, colon, password = text.partition(":")
    return Basic(username, password) if colon and username else None


@dataclass(frozen=True, slots=True)
class Access:
    """The credentials that a project accepts. None accepts any that are not empty."""

    tokens: Collection[str] | None = None
    service_accounts: Mapping[str, str] | None = None
    api_secrets: Collection[str] | None = None
    oauth_tokens: Collection[str] | None = None

    def accepts_token(self, token: str) -> bool:
        """Return True if a project token is valid."""
        return bool(token) if self.tokens is None else token in self.tokens

    def accepts_header(
        self, authorization: str, *, project_id: str, token: bool = True, secret: bool = True
    ) -> bool:
        """Return True if a Basic header has valid credentials.

        Three forms are documented: a service account, with `project_id` in the query; and, each
        with an empty password, the project's token (if `token` is True) or its API secret (if
        `secret` is True).
        """
        credentials = basic(authorization)
        if credentials is None:
            return False
        if credentials.password:
            return bool(project_id) and self.accepts_account(credentials)
        if not secret:
            return token and self.accepts_token(credentials.username)
        if self.tokens is None and self.api_secrets is None:
            return True
        known = [*(self.api_secrets or ()), *((self.tokens or ()) if token else ())]
        return credentials.username in known

    def accepts_bearer(self, token: str) -> bool:
        """Return True if a static access token is valid.

        Unless tokens are named, any is, or none if service accounts are.
        """
        if self.oauth_tokens is not None:
            return token in self.oauth_tokens
        return self.service_accounts is None and bool(token)

    def accepts_account(self, credentials: Basic) -> bool:
        """Return True for the username and secret of a service account."""
        if self.service_accounts is None:
            return True
        secret = self.service_accounts.get(credentials.username)
        return secret is not None and compare_digest(secret.encode(), credentials.password.encode())
