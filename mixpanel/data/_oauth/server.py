"""Call Mixpanel's authorization server: register, exchange a code, renew and revoke tokens."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from mixpanel._http.request import USER_AGENT, Request
from mixpanel._http.responses import Response
from mixpanel._records.json_encoding import loads
from mixpanel.credentials import Secret
from mixpanel.data._api import responses
from mixpanel.data._api.responses import RequestInfo
from mixpanel.data._oauth.tokens import Tokens
from mixpanel.data.credentials import TOKEN_CHARACTERS
from mixpanel.data.exceptions import APIError, LoginError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mixpanel.data._api.download import StreamingConnections

__all__ = ["AuthorizationServer"]

TIMEOUT = 30.0  # seconds for one request
# The scope that clients register with. The person allows all of it or nothing.
SCOPE = (
    "projects analysis events insights segmentation retention data:read funnels flows "
    "data_definitions dashboard_reports bookmarks"
)
MAX_REASON = 300  # characters of the server's explanation


class AuthorizationServer:
    """The authorization server of one region, below the origin of Mixpanel's web application.

    The client is public: it has no secret, and proves with PKCE that it began the login. Tokens go
    to this server only.
    """

    def __init__(
        self,
        origin: str,
        connections: StreamingConnections,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.origin = origin
        self._connections = connections
        self._now = now

    async def register(self, redirect_uri: str) -> str:
        """Register a client with this redirect URI, and return its id (RFC 7591).

        :raises LoginError: when the server refuses, or returns no id.
        :raises APIError: when there is no usable response.
        """
        body = {
            "client_name": "mixpanel-async",
            "redirect_uris": [redirect_uri],
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "token_endpoint_auth_method": "none",
            "scope": SCOPE,
        }
        path = "/oauth/mcp/register/"
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        fields = await self._send("POST", self.origin + path, headers, json.dumps(body).encode)
        client_id = fields.get("client_id")
        if not isinstance(client_id, str) or not client_id:
            raise LoginError(f"POST {self.origin}{path}: the response has no client_id")
        return client_id

    def authorize_url(
        self, *, client_id: str, redirect_uri: str, state: str, challenge: str
    ) -> str:
        """Return the address at which a person allows the access."""
        query = {
            "response_type": "code",
            "client_id": client_id,
            "redirect_uri": redirect_uri,
            "state": state,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        return f"{self.origin}/oauth/authorize/?{urlencode(query)}"

    async def exchange(
        self, *, client_id: str, code: Secret, redirect_uri: str, verifier: Secret
    ) -> Tokens:
        """Return the tokens for an authorization code.

        :raises LoginError: when the server refuses the code or the verifier.
        :raises APIError: when there is no usable response.
        """
        form: dict[str, str | Secret] = {
            "grant_type": "authorization_code",
            "client_id": client_id,
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        return await self._obtain(form, Tokens(self.origin, client_id, Secret("")))

    async def renew(self, tokens: Tokens) -> Tokens:
        """Return new tokens for a refresh token; the old ones may be invalid afterwards.

        :raises LoginError: with `reason` "invalid_grant" when the login has expired or was revoked.
        :raises APIError: when there is no usable response.
        """
        assert tokens.refresh_token is not None
        form: dict[str, str | Secret] = {
            "grant_type": "refresh_token",
            "client_id": tokens.client_id,
            "refresh_token": tokens.refresh_token,
        }
        return await self._obtain(form, tokens)

    async def revoke(self, tokens: Tokens) -> None:
        """Invalidate the tokens (RFC 7009).

        :raises APIError: when the server does not confirm it.
        """
        kinds = {"refresh_token": tokens.refresh_token, "access_token": tokens.access_token}
        for hint, token in kinds.items():
            if token is not None:
                form: dict[str, str | Secret] = {
                    "token": token,
                    "token_type_hint": hint,
                    "client_id": tokens.client_id,
                }
                await self._post_form("/oauth/revoke_token/", form)

    async def me(self, tokens: Tokens) -> dict[str, Any]:
        """Return the person and their projects, as `/api/app/me` has them.

        :raises APIError: when the call fails.
        """
        url = f"{self.origin}/api/app/me"
        authorization = Secret(f"Bearer {tokens.access_token.reveal()}")
        fields = await self._send(
            "GET", url, {"Authorization": authorization}, bytes, authorization
        )
        results = fields.get("results")
        return results if isinstance(results, dict) else {}

    async def _obtain(self, form: Mapping[str, str | Secret], before: Tokens) -> Tokens:
        tokens = self._tokens(await self._post_form("/oauth/token/", form), before)
        if tokens is None:
            raise LoginError(f"POST {self.origin}/oauth/token/: the response has no access token")
        return tokens

    def _tokens(self, fields: Mapping[str, Any], before: Tokens) -> Tokens | None:
        access, refresh = fields.get("access_token"), fields.get("refresh_token")
        if not isinstance(access, str) or not TOKEN_CHARACTERS.fullmatch(access):
            return None
        lifetime = fields.get("expires_in")
        is_number = isinstance(lifetime, (int, float)) and not isinstance(lifetime, bool)
        is_renewed = isinstance(refresh, str) and refresh
        return replace(
            before,
            access_token=Secret(access),
            refresh_token=Secret(str(refresh)) if is_renewed else before.refresh_token,
            scope=str(fields.get("scope") or before.scope),
        ).lasting(float(lifetime or 0) if is_number else None, self._now())

    async def _post_form(self, path: str, form: Mapping[str, str | Secret]) -> dict[str, Any]:
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json",
        }
        secrets = [value for value in form.values() if isinstance(value, Secret)]
        # No local variable holds the content: a crash reporter would send it.
        return await self._send(
            "POST", self.origin + path, headers, lambda: _encoded(form), *secrets
        )

    async def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str | Secret],
        content: Callable[[], bytes],
        *secrets: Secret,
    ) -> dict[str, Any]:
        standard = {"Accept-Encoding": "identity", "User-Agent": USER_AGENT}
        request = Request(method, url, {**standard, **headers}, content())
        info = RequestInfo(method, url, secrets=lambda: secrets)
        result = await self._connections.receive(
            request, lambda _head: None, first=TIMEOUT, idle=TIMEOUT, overall=TIMEOUT
        )
        if isinstance(result, Response) and 400 <= result.status < 500:
            refusal = _refusal(info, result)
            if refusal is not None:
                raise refusal
        if not isinstance(result, Response) or not responses.is_success(result):
            raise responses.to_error(info, result)
        parsed = _parsed(info, result)
        if isinstance(parsed, str):
            # Even a damaged body may hold tokens, so the error has none.
            raise responses.unexpected_body(info, Response(result.status, {}, b""), parsed)
        return parsed


def _parsed(info: RequestInfo, response: Response) -> dict[str, Any] | str:
    """Return the JSON object of a response, or what is wrong with it."""
    try:
        fields = responses.parse_json(info, response)
    except APIError:
        return "a body that is not JSON"
    if fields is None:
        return {}
    return fields if isinstance(fields, dict) else "JSON that is not an object"


def _encoded(form: Mapping[str, str | Secret]) -> bytes:
    fields = {k: v.reveal() if isinstance(v, Secret) else v for k, v in form.items()}
    return urlencode(fields).encode()


def _refusal(info: RequestInfo, response: Response) -> APIError | None:
    """Return the error for an OAuth error (RFC 6749, 5.2); None for other responses."""
    try:
        body = loads(response.body)
    except (ValueError, RecursionError):
        return None
    reason = body.get("error") if isinstance(body, dict) else None
    if not isinstance(reason, str) or "/oauth/" not in info.url or response.status == 429:
        return None
    described = body.get("error_description")
    shown = [_shown(info, each) for each in (reason, described) if isinstance(each, str) and each]
    message = info.text(f"HTTP {response.status}", ": ".join(shown))
    return LoginError(message, reason=shown[0] if shown else "", **info.error_fields(response))


def _shown(info: RequestInfo, text: str) -> str:
    text = info.without_secrets(text)[:MAX_REASON]
    return "".join(c if c.isprintable() else " " for c in text)
