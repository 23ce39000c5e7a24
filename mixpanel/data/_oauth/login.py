"""Log in as a person: the authorization code flow with PKCE (RFC 7636, RFC 8252)."""

from __future__ import annotations

import secrets
import threading
from base64 import urlsafe_b64encode
from hashlib import sha256
from hmac import compare_digest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlsplit

from mixpanel._runtime.redaction import hide_arguments
from mixpanel.credentials import Secret
from mixpanel.data.exceptions import LoginError

if TYPE_CHECKING:
    from types import TracebackType

    from mixpanel.data._oauth.server import AuthorizationServer
    from mixpanel.data._oauth.tokens import Tokens

__all__ = ["LoginAttempt", "RedirectListener", "unused_redirect_uri"]

PATH = "/callback"
HANDLER_TIMEOUT = 10.0  # seconds until a connection without a request is closed
MAX_FIELDS = 20  # of a redirect
MAX_REASON = 100  # characters of the server's error code
PAGE = b"""<!doctype html><meta charset="utf-8"><title>mp</title>
<style>body{font:1.1rem system-ui;margin:4rem auto;max-width:34rem}</style><p>%s</p>"""


class LoginAttempt:
    """One attempt to log in: `begin` returns the address to open, `finish` takes the redirect.

    The code in the redirect is worth nothing without the verifier, which stays here, and a redirect
    counts only with the `state` of this attempt.
    """

    def __init__(self, server: AuthorizationServer, redirect_uri: str) -> None:
        self._server = server
        self._redirect_uri = redirect_uri
        self._state = secrets.token_urlsafe(32)
        self._verifier = Secret(secrets.token_urlsafe(64))
        self._client_id = ""

    async def begin(self) -> str:
        """Register this client, and return the address at which the person allows the access.

        :raises LoginError: when the server refuses.
        :raises APIError: when there is no usable response.
        """
        self._client_id = await self._server.register(self._redirect_uri)
        digest = sha256(self._verifier.reveal().encode()).digest()
        return self._server.authorize_url(
            client_id=self._client_id,
            redirect_uri=self._redirect_uri,
            state=self._state,
            challenge=urlsafe_b64encode(digest).rstrip(b"=").decode(),
        )

    def is_own(self, query: str) -> bool:
        """Return True if the query of a redirect has the `state` of this attempt."""
        return compare_digest(_fields(query).get("state", "").encode(), self._state.encode())

    @hide_arguments
    def code_in(self, redirect: str) -> Secret:
        """Return the authorization code in the address that the browser was sent to.

        :raises LoginError: when the access was denied, or it is the address of something else.
        """
        query = urlsplit(redirect.strip()).query or redirect.strip().lstrip("?")
        fields = _fields(query)
        if not fields.keys() & {"code", "error"} or "state" not in fields:
            raise LoginError(
                "this is not the address that the browser was sent to: it begins with "
                f"{self._redirect_uri} and has code= and state= in it; log in once more and copy "
                "all of it"
            )
        if not self.is_own(query):
            raise LoginError(
                "this address belongs to another attempt to log in (its state differs): log in "
                "once more, and use the link of that attempt only"
            )
        if "error" in fields:
            reason = "".join(c for c in fields["error"] if c.isprintable())[:MAX_REASON]
            what = "the access was denied" if reason == "access_denied" else f"refused: {reason}"
            raise LoginError(f"not logged in: {what}", reason=reason)
        return Secret(fields["code"])

    async def finish(self, code: Secret) -> Tokens:
        """Return the tokens for a code.

        :raises LoginError: when the server refuses the code.
        :raises APIError: when there is no usable response.
        """
        return await self._server.exchange(
            client_id=self._client_id,
            code=code,
            redirect_uri=self._redirect_uri,
            verifier=self._verifier,
        )


class RedirectListener:
    """Wait on a free port of this machine for the redirect of the browser.

    Only a redirect of this attempt counts: others are refused, and it keeps waiting.
    """

    def __init__(self) -> None:
        self._done = threading.Event()
        self._redirect: Secret | None = None
        self._attempt: LoginAttempt | None = None
        listener = self

        class Handler(BaseHTTPRequestHandler):
            timeout = HANDLER_TIMEOUT

            def do_GET(self) -> None:
                listener._handle(self)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Log nothing: the path has the code in it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )

    @property
    def redirect_uri(self) -> str:
        """The address to which the browser is sent."""
        return f"http://localhost:{self._server.server_address[1]}{PATH}"

    def wait(self, attempt: LoginAttempt, timeout: float) -> Secret:
        """Return the authorization code.

        :raises LoginError: when the access was denied, or nothing came within `timeout` seconds.
        """
        self._attempt = attempt
        if not self._done.wait(timeout):
            raise LoginError(
                f"access was not granted within {timeout:.0f} seconds: log in once more, or, if "
                "the browser is on another machine, use --no-browser"
            )
        assert self._redirect is not None
        return attempt.code_in(self._redirect.reveal())

    def __enter__(self) -> Self:
        """Start listening."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        attempt, port = self._attempt, self._server.server_address[1]
        if request.headers.get("host") not in (f"localhost:{port}", f"127.0.0.1:{port}"):
            _respond(request, 421, b"This is not the address of a login.")
        elif parts.path != PATH:
            _respond(request, 404, b"There is nothing here.")
        elif attempt is None or not attempt.is_own(parts.query):
            _respond(request, 400, b"This redirect belongs to another login, and was ignored.")
        else:
            denied = "error" in _fields(parts.query)
            text = b"Not logged in." if denied else b"Logged in."
            _respond(request, 200, text + b" You can close this window and return to the terminal.")
            self._redirect = self._redirect or Secret(parts.query)
            self._done.set()


def unused_redirect_uri() -> str:
    """Return a redirect URI for a browser on another machine, which cannot reach this one."""
    return f"http://localhost:{49_152 + secrets.randbelow(16_384)}{PATH}"


def _respond(request: BaseHTTPRequestHandler, status: int, text: bytes) -> None:
    body = PAGE % text
    request.send_response(status)
    for name, value in (
        ("Content-Type", "text/html; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("Referrer-Policy", "no-referrer"),
        ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'"),
        ("Connection", "close"),
    ):
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)


def _fields(query: str) -> dict[str, str]:
    """Return the parameters of a query, none if it is not one."""
    try:
        return {k: v[0] for k, v in parse_qs(query, max_num_fields=MAX_FIELDS).items()}
    except ValueError:
        return {}
