"""Check who may send what, and how much of it: tokens, service accounts, secrets, rate limits.

A room without I/O: the clock is passed in.
"""

import base64
import binascii
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from hmac import compare_digest
from typing import NamedTuple


class Basic(NamedTuple):
    """What an `Authorization: Basic` header says."""

    username: str
    password: str


def basic(authorization: str) -> Basic | None:
    """Read an `Authorization` header, or return None when it is not Basic."""
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
    """The credentials a project takes. None takes anything that is not empty."""

    tokens: Collection[str] | None = None
    service_accounts: Mapping[str, str] | None = None
    api_secrets: Collection[str] | None = None

    def takes_token(self, token: str) -> bool:
        """Say whether a project token found in a record is good."""
        return bool(token) if self.tokens is None else token in self.tokens

    def takes_header(
        self, authorization: str, *, project_id: str, token: bool = True, secret: bool = True
    ) -> bool:
        """Say whether a Basic header lets a request in.

        Three forms are documented: a service account with `project_id` in the query, and, each with
        an empty password, the project's token or its API secret, where `token` and `secret` allow.
        """
        told = basic(authorization)
        if told is None:
            return False
        if told.password:
            return bool(project_id) and self._takes_account(told)
        if not secret:
            return token and self.takes_token(told.username)
        if self.tokens is None and self.api_secrets is None:
            return True
        known = [*(self.api_secrets or ()), *((self.tokens or ()) if token else ())]
        return told.username in known

    def _takes_account(self, told: Basic) -> bool:
        if self.service_accounts is None:
            return True
        secret = self.service_accounts.get(told.username)
        return secret is not None and compare_digest(secret.encode(), told.password.encode())


@dataclass(slots=True)
class Window:
    """Count what arrives in a rolling window of `seconds`; None as `limit` lets everything pass."""

    limit: int | None
    seconds: float
    _arrivals: deque[tuple[float, int]] = field(default_factory=deque)
    _total: int = 0

    def takes(self, amount: int, now: float) -> bool:
        """Count an arrival and say whether it still fits; what does not fit is not counted."""
        if self.limit is None:
            return True
        while self._arrivals and self._arrivals[0][0] <= now - self.seconds:
            self._total -= self._arrivals.popleft()[1]
        if self._total + amount > self.limit:
            return False
        self._arrivals.append((now, amount))
        self._total += amount
        return True

    def clear(self) -> None:
        """Forget all arrivals."""
        self._arrivals.clear()
        self._total = 0
