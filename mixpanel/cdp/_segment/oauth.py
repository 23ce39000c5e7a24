"""Obtain access tokens: OAuth client credentials with a signed JWT.

Nothing runs in the background. The first request that finds no valid token requests one, and the
others wait for it. A failure counts as a failed attempt of the message, so the message's retry
policy limits the retries. This is the only module that uses PyJWT.
"""

from __future__ import annotations

import re
import time
import uuid
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from mixpanel._http.request import USER_AGENT, Request
from mixpanel._http.responses import (
    Response,
    TransportFailure,
    retry_after,
)
from mixpanel._records.json_encoding import loads
from mixpanel._runtime import native_threads
from mixpanel._runtime.checked_files import read_checked
from mixpanel._runtime.redaction import hide_init_arguments
from mixpanel.cdp._segment.dialect import error_reasons
from mixpanel.credentials import Secret, checked_text
from mixpanel.exceptions import (
    AuthenticationError,
    ConfigurationError,
    ConfigurationTypeError,
    DeliveryError,
    RateLimitError,
    ServerError,
    TransportError,
)
from mixpanel.settings import checked_origin

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType

    from mixpanel.cdp._segment.rate_limit import TokenFlow

__all__ = ["AccessTokens", "OAuth"]

POLL_INTERVAL = 0.02  # seconds between checks while another request obtains the token
CLAIM_TIMEOUT = 30.0  # seconds after which that other request is assumed to have been abandoned
DEFAULT_LIFETIME = 120.0  # seconds; a token is renewed after half of its lifetime
RENEWAL_RETRY = 10.0  # seconds after a failed renewal, while the old token is still valid
FATAL_STATUSES = frozenset({400, 401, 403, 404, 415})
CLOCK_SKEW_ERRORS = ("Token is expired", "Token used before issued")
MAX_KEY_BYTES = 1_000_000
TOKEN_CHARACTERS = re.compile(r"[!-~]+")  # the characters that are valid in a header
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@hide_init_arguments
@dataclass(frozen=True, slots=True)
class OAuth:
    """The OAuth client that obtains access tokens.

    It needs an extra: `pip install 'mixpanel-async[hightouch]'`. A key given as text is kept as a
    `Secret`. A pickle contains it in clear text, for your own processes; nothing else shows it.

    :param private_key: an RSA key as PEM text, the `Path` of a file, or a function that returns the
        text; file and function are read again for each token, so that keys can be rotated.
    :param key_id: the id of the public key at the vendor.
    :param server: the authorization server, without `/token`.
    :raises ConfigurationError: for a missing value, or a key that cannot sign.
    """

    client_id: str
    private_key: str | Secret | Path | Callable[[], str] = field(repr=False)
    key_id: str
    server: str
    scope: str = "tracking_api:write"

    def __post_init__(self) -> None:
        """Validate the values; sign once to check the key."""
        for name in ("client_id", "key_id", "scope"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise ConfigurationError(f"{name} is missing; OAuth requires it")
            object.__setattr__(self, name, checked_text(value, name))
        if isinstance(self.private_key, str):
            object.__setattr__(self, "private_key", Secret(self.private_key))
        elif not isinstance(self.private_key, (Secret, Path)) and not callable(self.private_key):
            raise ConfigurationTypeError(
                "private_key must be PEM text, a Path, or a function that returns the text, not "
                f"{type(self.private_key).__name__}"
            )
        object.__setattr__(self, "server", checked_origin(self.server, "server"))
        _jwt()  # imported here rather than later on an event loop, which it would block
        if not callable(self.private_key):
            self.sign_assertion(0.0)

    def __reduce__(self) -> tuple[Any, ...]:
        key = self.private_key.reveal() if isinstance(self.private_key, Secret) else (
            self.private_key
        )  # fmt: skip
        return type(self), (self.client_id, key, self.key_id, self.server, self.scope)

    def sign_assertion(self, now: float) -> str:
        """Return the signed assertion of a token request; `now` is the server's time.

        :raises ConfigurationError: for a key that cannot sign; the message does not contain it.
        """
        jwt = _jwt()
        claims = {
            "iss": self.client_id,
            "sub": self.client_id,
            "aud": self.server,
            "iat": int(now) - 5,
            "exp": int(now) + 55,
            "jti": str(uuid.uuid4()),
        }
        try:
            return str(jwt.encode(claims, self._pem(), "RS256", {"kid": self.key_id}))
        except ConfigurationError:  # the key file cannot be read
            raise
        except Exception as error:
            kind = type(error).__name__
        # Raised outside of the `except` block: the cause may contain the key, and inside it would
        # become the context of this error.
        raise ConfigurationError(
            f"private_key cannot sign ({kind}): pass an RSA private key as PEM text, the Path of "
            "such a file, or a function that returns the text"
        )

    def _pem(self) -> str:
        if isinstance(self.private_key, Path):
            return _read_key(self.private_key)
        if isinstance(self.private_key, Secret):
            return _unescape_newlines(self.private_key.reveal())
        assert callable(self.private_key)
        return _unescape_newlines(self.private_key())


def _unescape_newlines(pem: str) -> str:
    return pem.replace("\\n", "\n")  # environment variables often hold it so


def _read_key(path: Path) -> str:
    try:
        # Mounted secrets are symbolic links, and may be owned by another user.
        return read_checked(path.resolve(), max_bytes=MAX_KEY_BYTES, owned=False).decode()
    except OSError as error:
        raise ConfigurationError(f"private_key {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigurationError(f"private_key {path}: the file is not PEM text") from None


def _jwt() -> ModuleType:
    try:
        import jwt
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "OAuth needs PyJWT: pip install 'mixpanel-async[hightouch]'"
        ) from error
    return jwt


class AccessTokens:
    """The current access token, renewed after half of its lifetime.

    Only one request at a time renews it, across event loops and threads; the others wait. A failed
    renewal is ignored while the old token is still valid.
    """

    def __init__(
        self,
        oauth: OAuth,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._oauth = oauth
        self._now = now
        self._clock = clock
        self.token: Secret | None = None
        self._renew_at = self._expires_at = 0.0
        self._claimed_until = 0.0
        self._failed: tuple[float, TransportFailure] | None = None
        self._skew = 0
        self._lock = native_threads.new_lock()

    def after_fork(self) -> None:
        """Release a claim to renew the token: the request that holds it is in the parent."""
        self._lock = native_threads.new_lock()
        self._claimed_until = 0.0

    def ensure_token(self, stale: Secret | None = None) -> TokenFlow:
        """Obtain a token other than `stale`; return the failure if that is impossible.

        A generator of steps: it yields the seconds to wait, or the request to send, and receives
        the response. The claim, a time stamp under the lock, makes one caller send the request and
        the others poll; it expires, so that a cancelled caller does not block them forever.
        """
        began = self._clock()
        while True:
            with self._lock:
                now = self._clock()
                if self._is_good(stale, now):
                    return None
                if now >= self._claimed_until:
                    claim = self._claimed_until = now + CLAIM_TIMEOUT
                    break
            yield POLL_INTERVAL
            if self._failed is not None and self._failed[0] > began:
                return self._failed[1]
        try:
            failure = yield from self._renew()
        finally:
            if self._claimed_until == claim:
                self._claimed_until = 0.0
        if failure is None or (self.token not in (None, stale) and now < self._expires_at):
            self._renew_at = max(self._renew_at, now + RENEWAL_RETRY)
            return None
        self._failed = (self._clock(), failure)
        return failure

    def _is_good(self, stale: Secret | None, now: float) -> bool:
        return self.token not in (None, stale) and now < self._renew_at

    def _renew(self) -> TokenFlow:
        skewed = False
        while True:
            try:
                request = self._request()
            except ConfigurationError as error:
                return _fatal(str(error), None)
            reply = yield request
            assert reply is not None
            if isinstance(reply, TransportFailure):
                text = f"authorization server: {reply.error}"
                return TransportFailure(
                    TransportError(text), may_have_been_sent=False, permanent=reply.permanent
                )
            self._measure_skew(reply.headers)
            if 200 <= reply.status < 300 and self._store(reply.body):
                return None
            why = "; ".join(error_reasons(reply.body))[:300]
            if skewed or not why.endswith(CLOCK_SKEW_ERRORS):
                return self._failure(reply, why)
            skewed = True  # retry once with the clock of the server

    def _request(self) -> Request:
        form = {
            "grant_type": "client_credentials",
            "client_assertion_type": ASSERTION,
            "client_assertion": self._oauth.sign_assertion(self._now() - self._skew),
            "scope": self._oauth.scope,
        }
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": USER_AGENT,
        }
        return Request("POST", f"{self._oauth.server}/token", headers, urlencode(form).encode())

    def _measure_skew(self, headers: Mapping[str, str]) -> None:
        """Measure how far the local clock is ahead of the server's, which validates the JWT."""
        try:
            theirs = parsedate_to_datetime(headers["date"]).timestamp()
        except (KeyError, ValueError, TypeError, OverflowError):
            return
        self._skew = int(self._now() - theirs)

    def _store(self, body: bytes) -> bool:
        try:
            granted: Any = loads(body)
        except (ValueError, RecursionError):
            return False
        token = granted.get("access_token") if isinstance(granted, dict) else None
        if not isinstance(token, str) or not TOKEN_CHARACTERS.fullmatch(token):
            return False
        lifetime = granted.get("expires_in")
        if isinstance(lifetime, bool) or not isinstance(lifetime, (int, float)) or lifetime <= 0:
            lifetime = DEFAULT_LIFETIME
        now = self._clock()
        self._renew_at, self._expires_at = now + lifetime / 2, now + lifetime
        self.token = Secret(token)
        return True

    def _failure(self, reply: Response, why: str) -> TransportFailure:
        status = reply.status
        text = f"authorization server: HTTP {status}" + (f": {why}" if why else "")
        if status in FATAL_STATUSES:
            return _fatal(text, status)
        error: DeliveryError = ServerError(text, status=status)
        if 200 <= status < 300:
            error = ServerError("authorization server sent no token", status=status)
        if status == 429:
            error = RateLimitError(
                text, status=status, retry_after=self._retry_delay(reply.headers)
            )
        return TransportFailure(error, may_have_been_sent=False)

    def _retry_delay(self, headers: Mapping[str, str]) -> float:
        """Return the seconds until the next attempt: those the server states, else 5."""
        seconds = retry_after(headers)
        if seconds is not None:
            return seconds
        try:
            at = float(headers["x-ratelimit-reset"]) / 1000  # milliseconds since 1970
        except (KeyError, ValueError):
            return 5.0
        wait = at - (self._now() - self._skew)
        # Some servers send seconds instead of milliseconds, which gives a time in 1970.
        return wait if 0 < wait < 3600 else 5.0


def _fatal(text: str, status: int | None) -> TransportFailure:
    return TransportFailure(
        AuthenticationError(text, status=status), may_have_been_sent=False, permanent=True
    )
