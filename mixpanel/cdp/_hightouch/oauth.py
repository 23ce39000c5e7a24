"""Get Hightouch's access tokens: OAuth client credentials, asked for with a signed JWT.

Nothing runs in the background. The first request that finds no good token asks for one, all
others meanwhile wait for that; what goes wrong becomes the outcome of an attempt, so that the
retry policy of the messages bounds it. The only room that knows PyJWT.
"""

from __future__ import annotations

import re
import threading
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
from mixpanel._records.encoding import loads
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

__all__ = ["AccessTokens", "HightouchOAuth"]

POLL_INTERVAL = 0.02  # seconds between looks whether somebody else's asking has ended
CLAIM_TIMEOUT = 30.0  # seconds after which somebody else is thought to have gone away
DEFAULT_LIFETIME = (
    120.0  # seconds, when the server does not say; half of it passes before a renewal
)
RENEWAL_RETRY = 10.0  # seconds until a renewal that failed is tried again while the token is good
FATAL_STATUSES = frozenset({400, 401, 403, 404, 415})
CLOCK_SKEW_ERRORS = ("Token is expired", "Token used before issued")
MAX_KEY_BYTES = 1_000_000
TOKEN_CHARACTERS = re.compile(r"[!-~]+")  # what a header can hold
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@hide_init_arguments
@dataclass(frozen=True, slots=True)
class HightouchOAuth:
    """Say who asks for access tokens. Needs the extra: `pip install 'mixpanel-async[hightouch]'`.

    A key given as text is kept as a `Secret`. A pickle holds it in clear, for processes of your
    own; nothing else shows it.

    :param private_key: an RSA key as PEM text, a `Path` to a file that holds it, or a function
        that returns it; file and function are read anew for each token, so that keys can rotate.
    :param key_id: the id under which Hightouch knows the public half.
    :param server: the authorization server, without `/token`.
    :raises ConfigurationError: for what is missing, or a key that cannot sign.
    """

    client_id: str
    private_key: str | Secret | Path | Callable[[], str] = field(repr=False)
    key_id: str
    server: str = "https://oauth2.hightouch.io"
    scope: str = "tracking_api:write"

    def __post_init__(self) -> None:
        """Refuse what could never get a token."""
        for name in ("client_id", "key_id", "scope"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise ConfigurationError(f"{name} is missing: OAuth needs it")
            object.__setattr__(self, name, checked_text(value, name))
        if isinstance(self.private_key, str):
            object.__setattr__(self, "private_key", Secret(self.private_key))
        elif not isinstance(self.private_key, (Secret, Path)) and not callable(self.private_key):
            raise ConfigurationTypeError(
                "private_key must be PEM text, a Path, or a function that returns the text, not "
                f"{type(self.private_key).__name__}"
            )
        object.__setattr__(self, "server", checked_origin(self.server, "server"))
        _jwt()  # now, and not on a loop
        if not callable(self.private_key):
            self.sign_assertion(0.0)

    def __reduce__(self) -> tuple[Any, ...]:
        key = self.private_key.reveal() if isinstance(self.private_key, Secret) else (
            self.private_key
        )  # fmt: skip
        return HightouchOAuth, (self.client_id, key, self.key_id, self.server, self.scope)

    def sign_assertion(self, now: float) -> str:
        """Return the assertion that a token is asked for with; `now` is the server's time.

        :raises ConfigurationError: for a key that cannot sign; it is never shown.
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
        except ConfigurationError:  # of the file
            raise
        except Exception as error:
            kind = type(error).__name__
        # Not while the cause is handled: it would be the context, and may hold the key.
        raise ConfigurationError(
            f"private_key cannot sign ({kind}): give an RSA private key as "
            "PEM text, the Path of such a file, or a function that returns it"
        )

    def _pem(self) -> str:
        if isinstance(self.private_key, Path):
            return _read_key(self.private_key)
        if isinstance(self.private_key, Secret):
            return _unescape_newlines(self.private_key.reveal())
        assert callable(self.private_key)
        return _unescape_newlines(self.private_key())


def _unescape_newlines(pem: str) -> str:
    return pem.replace("\\n", "\n")  # as environment variables often have it


def _read_key(path: Path) -> str:
    try:
        # Mounted secrets are links, and may belong to whoever mounted them.
        return read_checked(path.resolve(), max_bytes=MAX_KEY_BYTES, owned=False).decode()
    except OSError as error:
        raise ConfigurationError(f"private_key {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigurationError(f"private_key {path}: it is not PEM text") from None


def _jwt() -> ModuleType:
    try:
        import jwt
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "OAuth needs PyJWT: pip install 'mixpanel-async[hightouch]'"
        ) from error
    return jwt


class AccessTokens:
    """Hold the token of this moment, and have it renewed at half its life.

    Renewing is single-flight across loops and threads. A renewal that fails while the old token is
    still good does no harm.
    """

    def __init__(
        self,
        oauth: HightouchOAuth,
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
        self._lock = threading.Lock()

    def after_fork(self) -> None:
        """Forget who was asking: they are in the parent."""
        self._lock = threading.Lock()
        self._claimed_until = 0.0

    def ensure_token(self, stale: Secret | None = None) -> TokenFlow:
        """See to it that there is a token other than `stale`, or return why there is none."""
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
                text = f"Hightouch's authorization server: {reply.error}"
                return TransportFailure(
                    TransportError(text), may_have_been_sent=False, permanent=reply.permanent
                )
            self._measure_skew(reply.headers)
            if 200 <= reply.status < 300 and self._store(reply.body):
                return None
            why = "; ".join(error_reasons(reply.body))[:300]
            if skewed or not why.endswith(CLOCK_SKEW_ERRORS):
                return self._failure(reply, why)
            skewed = True  # once more, by the server's clock

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
        """Learn how far our clock stands from the server's."""
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
        text = f"Hightouch's authorization server: HTTP {status}" + (f": {why}" if why else "")
        if status in FATAL_STATUSES:
            return _fatal(text, status)
        error: DeliveryError = ServerError(text, status=status)
        if 200 <= status < 300:
            error = ServerError("Hightouch's authorization server sent no token", status=status)
        if status == 429:
            error = RateLimitError(
                text, status=status, retry_after=self._retry_delay(reply.headers)
            )
        return TransportFailure(error, may_have_been_sent=False)

    def _retry_delay(self, headers: Mapping[str, str]) -> float:
        """Return the seconds until the server wants to be asked again: 5 unless it says."""
        seconds = retry_after(headers)
        if seconds is not None:
            return seconds
        try:
            at = float(headers["x-ratelimit-reset"]) / 1000  # milliseconds since 1970
        except (KeyError, ValueError):
            return 5.0
        wait = at - (self._now() - self._skew)
        # In seconds, as some servers have it, it would lie half a century back.
        return wait if 0 < wait < 3600 else 5.0


def _fatal(text: str, status: int | None) -> TransportFailure:
    return TransportFailure(
        AuthenticationError(text, status=status), may_have_been_sent=False, permanent=True
    )
