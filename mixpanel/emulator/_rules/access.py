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
            return bool(project_id) and self.takes_account(told)
        if not secret:
            return token and self.takes_token(told.username)
        if self.tokens is None and self.api_secrets is None:
            return True
        known = [*(self.api_secrets or ()), *((self.tokens or ()) if token else ())]
        return told.username in known

    def takes_account(self, told: Basic) -> bool:
        """Say whether these are the username and secret of a service account."""
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
        self._forget(now)
        if self._total + amount > self.limit:
            return False
        self._arrivals.append((now, amount))
        self._total += amount
        return True

    def wait(self, now: float) -> float:
        """Return how many seconds it takes until one more fits."""
        self._forget(now)
        if self.limit is None or self._total < self.limit:
            return 0.0
        if not self._arrivals:
            return self.seconds
        return max(0.0, self._arrivals[0][0] + self.seconds - now)

    def clear(self) -> None:
        """Forget all arrivals."""
        self._arrivals.clear()
        self._total = 0

    def _forget(self, now: float) -> None:
        while self._arrivals and self._arrivals[0][0] <= now - self.seconds:
            self._total -= self._arrivals.popleft()[1]


@dataclass(frozen=True, slots=True)
class Limits:
    """How many calls a family of endpoints takes, per project. None lets everything pass.

    `Limits.export()` and `Limits.query()` are the documented ones.
    """

    per_hour: int | None = None
    per_second: int | None = None
    concurrent: int | None = None

    @classmethod
    def export(cls) -> "Limits":
        """Return those of the raw export: 60 an hour, 3 a second, 100 at once."""
        return cls(per_hour=60, per_second=3, concurrent=100)

    @classmethod
    def query(cls) -> "Limits":
        """Return those of the Query API: 60 an hour, 5 at once."""
        return cls(per_hour=60, concurrent=5)


class Budget:
    """Count the calls of one family of endpoints against its limits."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._windows = (
            Window(self._limits.per_second, 1),
            Window(self._limits.per_hour, 3600),
        )
        self._running = 0

    def enter(self, now: float) -> float | None:
        """Take a call in, to be ended with `leave`; or return in how many seconds to try again."""
        if self._limits.concurrent is not None and self._running >= self._limits.concurrent:
            return 1.0
        wait = max(window.wait(now) for window in self._windows)
        if wait > 0:
            return wait
        for window in self._windows:
            window.takes(1, now)
        self._running += 1
        return None

    def leave(self) -> None:
        """End a call that was taken in."""
        self._running -= 1

    def clear(self) -> None:
        """Forget the calls that have ended."""
        for window in self._windows:
            window.clear()
