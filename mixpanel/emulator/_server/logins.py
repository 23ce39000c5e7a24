"""The authorization server: registration, the page of consent, tokens, revocation.

Without a browser, `POST /oauth/authorize/` with `decision=allow` or `deny` is what its page sends.
"""

from html import escape
from urllib.parse import parse_qsl

from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from mixpanel.emulator._rules.oauth import RefusedGrant
from mixpanel.emulator._server import responses
from mixpanel.emulator._server.project import Project
from mixpanel.emulator._storage.request_log import RecordedRequest

FORM = "application/x-www-form-urlencoded"
HEADERS = {"cache-control": "no-store"}
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Allow access?</title>
<style>body{{font:1.1rem system-ui;margin:4rem auto;max-width:34rem}}
button{{font:inherit;padding:.4rem 1.2rem;margin-right:.6rem}}</style>
<h1>Allow access?</h1>
<p>A program on this machine requests to read the emulator as you. It waits at
<code>{redirect_uri}</code>.</p>
<form method="post" action="/oauth/authorize/">{fields}
<button name="decision" value="allow">Allow</button>
<button name="decision" value="deny">Deny</button></form></html>
"""


def login_routes(project: Project) -> list[Route]:
    """Return the routes of the authorization server."""
    endpoints = LoginEndpoints(project)
    routes = {
        "/oauth/mcp/register": (endpoints.register, ["POST"]),
        "/oauth/authorize": (endpoints.authorize, ["GET", "POST"]),
        "/oauth/token": (endpoints.token, ["POST"]),
        "/oauth/revoke_token": (endpoints.revoke, ["POST"]),
    }
    return [Route(path, endpoint, methods=methods) for path, (endpoint, methods) in routes.items()]


class LoginEndpoints:
    """The endpoints of the authorization server."""

    def __init__(self, project: Project) -> None:
        self._project = project

    async def register(self, request: Request) -> Response:
        """POST /oauth/mcp/register/: a client id."""
        try:
            metadata = from_json(_recorded(request).body)
        except ValueError:
            metadata = None
        try:
            return responses.Json(self._project.logins.register(metadata), 201, HEADERS)
        except RefusedGrant as refused:
            return _refusal(refused)

    async def authorize(self, request: Request) -> Response:
        """GET /oauth/authorize/: the page of consent; POST: the decision that was made on it."""
        recorded, logins = _recorded(request), self._project.logins
        is_decision = recorded.method == "POST"
        fields = _form(recorded) if is_decision else recorded.query
        try:
            wanted = logins.read_request(fields)
        except RefusedGrant as refused:
            text = f"{refused.error}: {refused.description}"
            return HTMLResponse(f"<p>{escape(text)}</p>", refused.status, HEADERS)
        if not is_decision:
            inputs = [
                f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
                for name, value in recorded.query.items()
            ]
            page = PAGE.format(redirect_uri=escape(wanted.redirect_uri), fields="".join(inputs))
            return HTMLResponse(page, headers={**HEADERS, "x-frame-options": "DENY"})
        if fields.get("decision") == "allow":
            address = logins.allow(wanted, now=self._project.now())
        else:
            address = wanted.redirect(error="access_denied")
        return RedirectResponse(address, 302, HEADERS)

    async def token(self, request: Request) -> Response:
        """POST /oauth/token/: tokens for an authorization code or a refresh token."""
        try:
            granted = self._project.logins.grant(_form(_recorded(request)), now=self._project.now())
        except RefusedGrant as refused:
            return _refusal(refused)
        return responses.Json(granted, headers=HEADERS)

    async def revoke(self, request: Request) -> Response:
        """POST /oauth/revoke_token/: always 200, as RFC 7009 specifies."""
        self._project.logins.revoke(_form(_recorded(request)).get("token", ""))
        return responses.Json({}, headers=HEADERS)


def _refusal(refused: RefusedGrant) -> Response:
    body = {"error": refused.error, "error_description": refused.description}
    return responses.Json(body, refused.status, HEADERS)


def _form(recorded: RecordedRequest) -> dict[str, str]:
    kind = recorded.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != FORM:
        return {}
    return dict(parse_qsl(recorded.body.decode("ascii", "replace"), keep_blank_values=True))


def _recorded(request: Request) -> RecordedRequest:
    recorded: RecordedRequest = request.state.recorded
    return recorded
