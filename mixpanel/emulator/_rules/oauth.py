"""Issue Hightouch's access tokens for client assertions (JWTs signed with RS256).

Does no I/O: the clock is passed in. Signatures are verified if public keys were configured, which
needs the package `cryptography`.
"""

import base64
import binascii
import secrets
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

SCOPE = "tracking_api:write"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

Verify = Callable[[bytes, bytes], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuthRules:
    """Which clients get an access token, and for how long.

    - `clients`: the accepted client ids; None accepts any that is not empty.
    - `public_keys`: key id (the `kid` of an assertion) to public key as PEM text; None verifies no
      signatures.
    - `expires_in`: the lifetime of a token in seconds, on the emulator's clock. With None tokens do
      not expire, and the response has no `expires_in`.
    - `required`: whether events need a token; a write key alone is then answered with 401.

    :raises ImportError: there are public keys, and the package `cryptography` is not installed.
    :raises ValueError: a public key is not valid for RS256.
    """

    clients: Collection[str] | None = None
    public_keys: Mapping[str, str] | None = None
    expires_in: float | None = 3600
    required: bool = False

    def __post_init__(self) -> None:
        """Reject invalid public keys."""
        for key in (self.public_keys or {}).values():
            _verifier(key)

    def accepts_client(self, client: Any) -> bool:
        """Return True if a client id is valid."""
        return is_among(self.clients, client)

    def is_signed(self, signed: bytes, signature: bytes, key_id: Any) -> bool:
        """Return True if the key with this id made the signature, or if no keys were configured."""
        if self.public_keys is None:
            return True
        key = self.public_keys.get(key_id) if isinstance(key_id, str) else None
        return key is not None and _verifier(key)(signed, signature)


class RefusedGrant(Exception):  # noqa: N818 - a response, not an error of the emulator
    """A token request is refused, with the fields of an OAuth error."""

    def __init__(self, status: int, error: str, description: str) -> None:
        super().__init__(status, error, description)
        self.status = status
        self.error = error
        self.description = description


@dataclass(frozen=True, slots=True)
class _Token:
    scopes: frozenset[str]
    expires_at: float | None


class Tokens:
    """The issued access tokens, and the assertions that were used for them."""

    def __init__(self, rules: OAuthRules) -> None:
        self._rules = rules
        self._lock = threading.Lock()
        self._tokens: dict[str, _Token] = {}
        self._used: set[str] = set()

    def grant(self, form: Mapping[str, str], *, audience: str, now: float) -> dict[str, Any]:
        """Issue an access token, and return the token response.

        :raises RefusedGrant: 400 or 401, as OAuth specifies.
        """
        if form.get("grant_type") != "client_credentials":
            raise RefusedGrant(400, "unsupported_grant_type", "grant_type is not supported")
        if form.get("client_assertion_type") != ASSERTION:
            raise RefusedGrant(400, "invalid_request", f"client_assertion_type must be {ASSERTION}")
        scopes = frozenset(form.get("scope", "").split())
        if not scopes:
            raise RefusedGrant(400, "invalid_scope", "scope is missing")
        claims = self._claims(form.get("client_assertion", ""))
        self._validate_claims(claims, audience=audience, now=now)
        lifetime = self._rules.expires_in
        token = secrets.token_urlsafe(24)
        with self._lock:
            if claims["jti"] in self._used:
                raise RefusedGrant(400, "invalid_request", "jti was used before")
            self._used.add(claims["jti"])
            expires_at = None if lifetime is None else now + lifetime
            self._tokens[token] = _Token(scopes, expires_at)
        response = {
            "access_token": token,
            "token_type": "Bearer",
            "scope": " ".join(sorted(scopes)),
        }
        return response if lifetime is None else {**response, "expires_in": lifetime}

    def refusal(self, token: str, *, now: float) -> tuple[int, str] | None:
        """Return the status and reason to refuse events with this token; None if it is valid."""
        with self._lock:
            known = self._tokens.get(token)
        if known is None:
            return 401, "access token is unknown or revoked"
        if known.expires_at is not None and known.expires_at <= now:
            return 401, "access token has expired"
        if SCOPE not in known.scopes:
            return 403, f"access token lacks the scope {SCOPE}"
        return None

    def revoke(self) -> None:
        """Invalidate all tokens issued so far."""
        with self._lock:
            self._tokens.clear()

    def clear(self) -> None:
        """Forget tokens and assertions."""
        with self._lock:
            self._tokens.clear()
            self._used.clear()

    def _claims(self, assertion: str) -> dict[str, Any]:
        """Return the claims of an assertion, after verifying its signature."""
        signed, _, last = assertion.rpartition(".")
        try:
            head, claims = (from_json(_base64url(part)) for part in signed.split("."))
            signature = _base64url(last)
        except ValueError:
            raise RefusedGrant(400, "invalid_request", "client_assertion is not a JWT") from None
        if not isinstance(head, dict) or not isinstance(claims, dict) or head.get("alg") != "RS256":
            raise RefusedGrant(400, "invalid_request", "client_assertion must be signed by RS256")
        if not signature or not self._rules.is_signed(signed.encode(), signature, head.get("kid")):
            raise RefusedGrant(401, "invalid_client", "signature is not that of a known key")
        return claims

    def _validate_claims(self, claims: dict[str, Any], *, audience: str, now: float) -> None:
        if claims.get("iss") != claims.get("sub") or not self._rules.accepts_client(
            claims.get("sub")
        ):
            raise RefusedGrant(401, "invalid_client", "iss and sub must both be a known client id")
        if claims.get("aud") != audience:
            raise RefusedGrant(401, "invalid_client", f"aud must be {audience}")
        if not isinstance(claims.get("jti"), str) or not claims["jti"]:
            raise RefusedGrant(400, "invalid_request", "jti is missing")
        for name in ("iat", "exp"):
            if not isinstance(claims.get(name), int | float):
                raise RefusedGrant(400, "invalid_request", f"{name} is missing")
        if claims["iat"] > now:
            raise RefusedGrant(400, "invalid_request", "Token used before issued")
        if claims["exp"] <= now:
            raise RefusedGrant(400, "invalid_request", "Token is expired")


def is_among(known: Collection[str] | None, name: Any) -> bool:
    """Return True if a name is among the known ones; with None, if it is not empty."""
    if not isinstance(name, str) or not name:
        return False
    return known is None or name in ({known} if isinstance(known, str) else known)


def _base64url(part: str) -> bytes:
    try:
        return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("not base64url") from error


def _verifier(pem: str) -> Verify:
    """Return a function that verifies RS256 signatures with one public key."""
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ModuleNotFoundError as error:
        raise ImportError("verifying signatures requires: pip install cryptography") from error
    key = load_pem_public_key(pem.encode())
    if not isinstance(key, RSAPublicKey):
        raise ValueError("RS256 needs an RSA public key")  # noqa: TRY004 - the text is wrong, not its type

    def verify(signed: bytes, signature: bytes) -> bool:
        try:
            key.verify(signature, signed, PKCS1v15(), SHA256())
        except InvalidSignature:
            return False
        return True

    return verify
