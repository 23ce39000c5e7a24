"""Log people in: an authorization server with PKCE (RFC 6749, 7009, 7591, 7636).

Does no I/O: the clock is passed in.
"""

import base64
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest
from typing import Any
from urllib.parse import urlencode, urlsplit

from mixpanel.emulator._rules.oauth import RefusedGrant

CODE_LIFETIME = 60.0  # seconds
CHALLENGE_LENGTH = 43  # of a SHA-256 in base64url
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Client:
    """A registered client: public, so without a secret."""

    client_id: str
    redirect_uris: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AccessRequest:
    """A client's request for access, which a person allows or denies."""

    client_id: str
    redirect_uri: str
    state: str
    challenge: str
    scope: str

    def redirect(self, **fields: str) -> str:
        """Return the address to which the browser is sent."""
        query = urlencode({**fields, **({"state": self.state} if self.state else {})})
        return f"{self.redirect_uri}?{query}"


@dataclass(frozen=True, slots=True)
class _Code:
    request: AccessRequest
    expires_at: float


@dataclass(slots=True)
class _Login:
    client_id: str
    scope: str
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class _Token:
    login: _Login
    expires_at: float


@dataclass(slots=True)
class Logins:
    """The registered clients, and the codes and tokens that were issued to them.

    An access token is valid for `lifetime` seconds. A refresh token is valid once, and each renewal
    returns another. Using an authorization code twice revokes what it gave.
    """

    lifetime: float = 36_000.0
    _clients: dict[str, Client] = field(default_factory=dict)
    _codes: dict[str, _Code] = field(default_factory=dict)
    _used: dict[str, _Login] = field(default_factory=dict)
    _access: dict[str, _Token] = field(default_factory=dict)
    _refresh: dict[str, _Login] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def register(self, metadata: Any) -> dict[str, Any]:
        """Register a client, and return its metadata.

        :raises RefusedGrant: 400.
        """
        uris = metadata.get("redirect_uris") if isinstance(metadata, dict) else None
        if not isinstance(uris, list) or not uris or not all(map(_is_redirect_uri, uris)):
            why = "redirect_uris must be a list of https or loopback addresses"
            raise RefusedGrant(400, "invalid_redirect_uri", why)
        if metadata.get("token_endpoint_auth_method", "none") != "none":
            why = "token_endpoint_auth_method must be none"
            raise RefusedGrant(400, "invalid_client_metadata", why)
        client = Client(secrets.token_urlsafe(16), tuple(uris))
        with self._lock:
            self._clients[client.client_id] = client
        return {
            "client_id": client.client_id,
            "redirect_uris": uris,
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "token_endpoint_auth_method": "none",
        }

    def read_request(self, fields: Mapping[str, str]) -> AccessRequest:
        """Return a valid request for access.

        :raises RefusedGrant: 400; the browser must not be redirected.
        """
        client = self._clients.get(fields.get("client_id", ""))
        if client is None:
            raise RefusedGrant(400, "invalid_client", "client_id is unknown: register first")
        if fields.get("redirect_uri") not in client.redirect_uris:
            raise RefusedGrant(400, "invalid_request", "redirect_uri is not a registered one")
        if fields.get("response_type") != "code":
            raise RefusedGrant(400, "unsupported_response_type", "response_type must be code")
        challenge = fields.get("code_challenge", "")
        method = fields.get("code_challenge_method")
        if method != "S256" or len(challenge) != CHALLENGE_LENGTH:
            why = "PKCE is required: code_challenge_method must be S256"
            raise RefusedGrant(400, "invalid_request", why)
        return AccessRequest(
            client.client_id,
            fields["redirect_uri"],
            fields.get("state", ""),
            challenge,
            fields.get("scope", ""),
        )

    def allow(self, request: AccessRequest, *, now: float) -> str:
        """Return the address with the authorization code to which the browser is sent."""
        code = secrets.token_urlsafe(24)
        with self._lock:
            self._codes[code] = _Code(request, now + CODE_LIFETIME)
        return request.redirect(code=code)

    def grant(self, form: Mapping[str, str], *, now: float) -> dict[str, Any]:
        """Return the token response for a code or a refresh token.

        :raises RefusedGrant: 400 or 401, as OAuth specifies.
        """
        with self._lock:
            if form.get("client_id") not in self._clients:
                raise RefusedGrant(401, "invalid_client", "client_id is unknown")
            if form.get("grant_type") == "authorization_code":
                return self._issue(self._login_of_code(form, now), now)
            if form.get("grant_type") == "refresh_token":
                return self._issue(self._login_of_refresh(form), now)
        raise RefusedGrant(400, "unsupported_grant_type", "grant_type is not supported")

    def revoke(self, token: str) -> None:
        """Invalidate all tokens of the login that a token belongs to; unknown ones are ignored."""
        with self._lock:
            known = self._access.get(token)
            login = known.login if known else self._refresh.get(token)
            if login is not None:
                login.revoked = True

    def revoke_all(self) -> None:
        """Invalidate all tokens."""
        with self._lock:
            for login in [*self._refresh.values(), *(each.login for each in self._access.values())]:
                login.revoked = True

    def accepts(self, token: str, *, now: float) -> bool | None:
        """Return True for a valid access token, False for an invalid one, None if unknown here."""
        with self._lock:
            known = self._access.get(token)
            if known is None:
                return False if token in self._refresh else None
            return not known.login.revoked and now < known.expires_at

    def clear(self) -> None:
        """Forget clients, codes and tokens."""
        with self._lock:
            for kept in (self._clients, self._codes, self._used, self._access, self._refresh):
                kept.clear()

    def _login_of_code(self, form: Mapping[str, str], now: float) -> _Login:
        text = form.get("code", "")
        if text in self._used:
            self._used[text].revoked = True
            raise RefusedGrant(400, "invalid_grant", "code was used before")
        code = self._codes.pop(text, None)
        if code is None:
            raise RefusedGrant(400, "invalid_grant", "code is unknown")
        request = code.request
        if code.expires_at <= now:
            raise RefusedGrant(400, "invalid_grant", "code has expired")
        same = request.client_id, request.redirect_uri
        if same != (form["client_id"], form.get("redirect_uri")):
            raise RefusedGrant(400, "invalid_grant", "client_id or redirect_uri differs")
        if not _is_verifier(form.get("code_verifier", ""), request.challenge):
            raise RefusedGrant(400, "invalid_grant", "code_verifier does not match")
        login = self._used[text] = _Login(request.client_id, request.scope)
        return login

    def _login_of_refresh(self, form: Mapping[str, str]) -> _Login:
        login = self._refresh.pop(form.get("refresh_token", ""), None)
        if login is None or login.revoked or login.client_id != form["client_id"]:
            raise RefusedGrant(400, "invalid_grant", "refresh_token is unknown, used or revoked")
        return login

    def _issue(self, login: _Login, now: float) -> dict[str, Any]:
        access, refresh = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        self._access[access] = _Token(login, now + self.lifetime)
        self._refresh[refresh] = login
        return {
            "access_token": access,
            "token_type": "Bearer",
            "expires_in": self.lifetime,
            "refresh_token": refresh,
            "scope": login.scope,
        }


def _is_verifier(verifier: str, challenge: str) -> bool:
    digest = base64.urlsafe_b64encode(sha256(verifier.encode()).digest()).rstrip(b"=")
    return compare_digest(digest, challenge.encode())


def _is_redirect_uri(uri: Any) -> bool:
    if not isinstance(uri, str):
        return False
    try:
        parts = urlsplit(uri)
    except ValueError:
        return False
    loopback = parts.scheme == "http" and parts.hostname in LOOPBACK
    return (parts.scheme == "https" or loopback) and not parts.fragment
