"""The `Authorization` header of each request, with a login's access token renewed in time.

Renewing invalidates the tokens before, so it must happen once: whoever holds the lock beside the
file of the tokens renews them, and everyone else, in whichever task, thread or process, waits and
reads the file.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from mixpanel._runtime import event_loop
from mixpanel._runtime.safe_logging import logger
from mixpanel.credentials import Secret
from mixpanel.data._api.responses import REJECTED
from mixpanel.data._oauth.server import AuthorizationServer
from mixpanel.data._oauth.tokens import TokenFile, Tokens
from mixpanel.data.credentials import LoginCredentials, TokenCredentials
from mixpanel.data.exceptions import (
    APIError,
    ConfigError,
    LoginError,
    LoginRequiredError,
    MixpanelDataError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from mixpanel.data._api.download import StreamingConnections
    from mixpanel.data.credentials import AnyCredentials, Credentials

__all__ = ["LoginAuthorization", "StaticAuthorization", "authorization_of"]

POLL = 0.05  # seconds between two looks at what the one who renews has done
MAX_WAIT = 90.0  # seconds to wait for another process that renews
SETTLE = 5.0  # seconds that closing waits for a renewal under way
ENDED = frozenset({"invalid_grant", "invalid_client", "unauthorized_client"})
ON_401 = (
    "Mixpanel rejects the access token (401): it is wrong, has expired or belongs to another "
    "region; set a new one, or log in with `mp auth login`"
)


def authorization_of(
    credentials: AnyCredentials, origin: str, connections: StreamingConnections
) -> StaticAuthorization | LoginAuthorization:
    """Return what authorizes the requests of these credentials to an origin."""
    if isinstance(credentials, LoginCredentials):
        return LoginAuthorization(credentials, AuthorizationServer(origin, connections))
    return StaticAuthorization(credentials)


class StaticAuthorization:
    """A header that never changes, of a service account or an access token."""

    def __init__(self, credentials: Credentials | TokenCredentials) -> None:
        self._header = Secret(credentials.authorization())
        self.on_401: str = ON_401 if isinstance(credentials, TokenCredentials) else REJECTED

    def secrets(self) -> tuple[Secret, ...]:
        """Return what no error may show."""
        return (self._header,)

    async def current(self) -> Secret:
        """Return the header."""
        return self._header

    async def renew(self, stale: Secret) -> bool:  # noqa: ARG002 - as for a login
        """Return False: there is no other header."""
        return False

    def rejected(self, error: APIError) -> APIError:
        """Return the error for credentials that Mixpanel rejects."""
        return error

    async def settle(self) -> None:
        """Return at once: nothing is renewed."""


class LoginAuthorization:
    """The access token of a login."""

    def __init__(
        self,
        credentials: LoginCredentials,
        server: AuthorizationServer,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.account: str = credentials.account or "login"
        self.on_401: str = f"Mixpanel rejects the login of account {self.account!r} (401)"
        self._server = server
        self._file = TokenFile(credentials.tokens_path)
        self._now = now
        self._tokens: Tokens | None = None
        self._seen: deque[Secret] = deque(maxlen=4)
        self._failure: tuple[float, APIError] | None = None
        self._under_way = 0

    def secrets(self) -> tuple[Secret, ...]:
        """Return what no error may show: the headers that were used lately."""
        return tuple(self._seen)

    async def current(self) -> Secret:
        """Return the header; renews the token shortly before it expires.

        :raises LoginRequiredError: when the login has expired, was revoked, or ended.
        :raises APIError: when the token cannot be renewed.
        """
        tokens = self._tokens or await self._read()
        if not tokens.is_fresh(self._now()):
            tokens = await self._renewed(tokens.access_token)
        return self._header(tokens)

    async def renew(self, stale: Secret) -> bool:
        """Replace the header that Mixpanel has rejected; return True.

        :raises LoginRequiredError: when there is none.
        :raises APIError: when the token cannot be renewed.
        """
        rejected = Secret(stale.reveal().removeprefix("Bearer "))
        self._header(await self._renewed(rejected, is_rejected=True))
        return True

    def rejected(self, error: APIError) -> APIError:
        """Return the error for a login that Mixpanel rejects."""
        known = {
            "status_code": error.status_code,
            "response_body": error.response_body,
            "request_method": error.request_method,
            "request_url": error.request_url,
        }
        return LoginRequiredError(error.message, account_name=self.account, **known)

    async def settle(self) -> None:
        """Wait until a renewal under way is stored: the tokens before it are worth nothing."""
        with anyio.move_on_after(SETTLE, shield=True):
            while self._under_way:  # noqa: ASYNC110 - it may be in another event loop
                await anyio.sleep(POLL)

    def _header(self, tokens: Tokens) -> Secret:
        self._tokens = tokens
        header = Secret(f"Bearer {tokens.access_token.reveal()}")
        if header not in self._seen:
            self._seen.append(header)
        return header

    async def _read(self) -> Tokens:
        tokens = await anyio.to_thread.run_sync(self._file.read)
        if tokens is None:
            raise LoginRequiredError(
                f"account {self.account!r} is logged out", account_name=self.account
            )
        if tokens.server != self._server.origin:
            raise LoginRequiredError(
                f"account {self.account!r} is logged in at {tokens.server}, not at "
                f"{self._server.origin}",
                account_name=self.account,
            )
        return tokens

    async def _renewed(self, stale: Secret, *, is_rejected: bool = False) -> Tokens:
        """Return tokens other than `stale`, or the same if they are still valid and must do."""
        began = time.monotonic()
        while True:
            tokens = await self._read()
            if self._is_good(tokens, stale):
                return tokens
            if tokens.refresh_token is None:
                if tokens.is_valid(self._now()) and not is_rejected:
                    return tokens
                raise self._ended()
            # In a task of its own: if the caller is cancelled after the server has replaced the
            # tokens, they must still be stored.
            renewed = await event_loop.in_own_task(lambda: self._try_renew(stale))
            if renewed is not None:
                return renewed
            if self._failure is not None and self._failure[0] >= began:
                if tokens.is_valid(self._now()) and not is_rejected:
                    return tokens
                raise self._failure[1]
            if time.monotonic() > began + MAX_WAIT:
                raise MixpanelDataError(
                    f"another process has been renewing the login of account {self.account!r} for "
                    f"{MAX_WAIT:.0f} seconds: try again when it has ended",
                    code="LOGIN_LOCKED",
                )
            await anyio.sleep(POLL)

    async def _try_renew(self, stale: Secret) -> Tokens | None:
        """Renew the tokens; return None if someone else does it, or it has failed."""
        lock = self._file.lock()
        try:
            if not lock.acquire():
                return None
        except OSError as error:
            # Without locks, several processes may renew at once, and all but one log out.
            logger.warning("cannot lock %s: %s", self._file.path, error.strerror)
        renewed = None
        self._under_way += 1
        try:
            with anyio.CancelScope(shield=True):
                tokens = await self._read()
                good = self._is_good(tokens, stale)
                renewed = tokens if good else await self._renew(tokens)
        finally:
            self._under_way -= 1
            lock.release()
        return renewed

    async def _renew(self, tokens: Tokens) -> Tokens | None:
        if tokens.refresh_token is None:
            return None
        try:
            renewed = await self._server.renew(tokens)
        except LoginError as error:
            if error.reason not in ENDED:
                self._failure = (time.monotonic(), error)
                return None
            # No process need try these tokens again.
            await self._store(replace(tokens, refresh_token=None).lasting(0.0, self._now()))
            raise self._ended(error) from None
        except APIError as error:
            self._failure = (time.monotonic(), error)
            return None
        await self._store(renewed)
        return renewed

    async def _store(self, tokens: Tokens) -> None:
        try:
            await anyio.to_thread.run_sync(self._file.write, tokens)
        except ConfigError as error:
            logger.warning("the renewed login of account %r is lost: %s", self.account, error)

    def _is_good(self, tokens: Tokens, stale: Secret) -> bool:
        return tokens.access_token != stale and tokens.is_fresh(self._now())

    def _ended(self, cause: LoginError | None = None) -> LoginRequiredError:
        message = f"the login of account {self.account!r} has expired or was revoked"
        if cause is None:
            return LoginRequiredError(message, account_name=self.account)
        known = {
            "status_code": cause.status_code,
            "request_method": cause.request_method,
            "request_url": cause.request_url,
        }
        return LoginRequiredError(message, account_name=self.account, **known)
