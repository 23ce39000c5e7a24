"""Protect the emulator from other websites: check the origin of a request and the name it uses.

A web page in the developer's browser can send requests to any address of this machine. Two checks
stop it. `Host` is checked because with DNS rebinding another site's name resolves to a loopback
address, and its pages could read the responses. `Origin` and `Sec-Fetch-Site` are checked because
browsers send simple requests to other origins without a preflight. SDKs and tools outside a browser
send neither of these two headers.
"""

import ipaddress
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.types import Message, Scope, Send

from mixpanel._page.routes import PATHS
from mixpanel.emulator._server import responses

Headers = list[tuple[bytes, bytes]]

MAX_CACHED_HOSTS: Final = 64
PREFLIGHT_SECONDS: Final = b"600"
PORTS: Final = {"http": 80, "https": 443}
OWN_SITE: Final = (b"same-origin", b"none")
FAVICON: Final = "/favicon.ico"
_HOST: Final = re.compile(rb"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{0,5})?")


@dataclass(frozen=True, slots=True)
class Caller:
    """The headers of a request that identify its sender."""

    hosts: tuple[bytes, ...] = ()
    origins: tuple[bytes, ...] = ()
    site: bytes | None = None
    requested_headers: bytes | None = None
    """The headers that a preflight requests."""
    is_preflight: bool = False

    @classmethod
    def of(cls, scope: Scope) -> "Caller":
        """Read the headers of a request."""
        hosts, origins = [], []
        fetch_headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name == b"host":
                hosts.append(value)
            elif name == b"origin":
                origins.append(value)
            elif name == b"sec-fetch-site" or name.startswith(b"access-control-request-"):
                fetch_headers[name] = value
        return cls(
            tuple(hosts),
            tuple(origins),
            fetch_headers.get(b"sec-fetch-site"),
            fetch_headers.get(b"access-control-request-headers"),
            scope["method"] == "OPTIONS" and b"access-control-request-method" in fetch_headers,
        )


@dataclass(slots=True)
class Guard:
    """Refuse requests to names that are not local, and those of pages of other origins.

    `name` is the host that the emulator was started with; `origins` are the allowed ones, as
    `origin_of` returns them. With `allow_remote`, addresses and names without a dot, such as those
    of containers, are served too: another website can have neither.
    """

    name: str
    origins: Collection[bytes] = ()
    allow_remote: bool = False
    _find_session: dict[bytes, bool] = field(default_factory=dict)

    def refusal(self, scope: Scope, caller: Caller) -> Response | None:
        """Return the response that refuses a request, None if it is allowed."""
        path = scope["path"]
        if not all(map(self._is_local, caller.hosts)):
            return responses.refused(
                path,
                421,
                "the Host header is not a loopback name such as 127.0.0.1 or localhost: the "
                "emulator serves no others"
                + (" but addresses and names without a dot" if self.allow_remote else ""),
            )
        if self._is_allowed(scope, caller):
            if self.is_foreign(caller) and _changes_page(scope):
                message = "pages of allowed origins may read the live page, but change nothing"
                return responses.refused(path, 403, message)
            return None
        shown = b", ".join(caller.origins).decode("latin-1") or "another site"
        return responses.refused(
            path,
            403,
            f"requests from pages of {shown[:200]} are not allowed: start the emulator with "
            "--allow-origin URL, or Emulator(allow_origins=[URL])",
        )

    def is_foreign(self, caller: Caller) -> bool:
        """Return True for a request from a page of an allowed origin."""
        return len(caller.origins) == 1 and caller.origins[0] in self.origins

    def _is_allowed(self, scope: Scope, caller: Caller) -> bool:
        if len(caller.origins) == 1:
            (origin,) = caller.origins
            return origin in self.origins or _is_own(origin, caller.hosts)
        if caller.origins:
            return False
        if caller.site is None or caller.site in OWN_SITE:
            return True
        # Following a link to the web page sends no Origin, and has no effect.
        return scope["path"] in ("/", FAVICON) and scope["method"] in ("GET", "HEAD")

    def _is_local(self, host: bytes) -> bool:
        is_local = self._find_session.get(host)
        if is_local is None:
            if len(self._find_session) >= MAX_CACHED_HOSTS:
                self._find_session.clear()
            is_local = _is_loopback(host, self.name) or (self.allow_remote and _is_internal(host))
            self._find_session[host] = is_local
        return is_local


def is_page_path(path: str) -> bool:
    """Return True for the web page and its feed, which are neither recorded nor broken by faults.

    >>> is_page_path("/live/faults")
    True
    """
    return path in PATHS or path == FAVICON


def preflight(caller: Caller) -> Response:
    """Return the response to a CORS preflight."""
    found = Response(status_code=204)
    found.raw_headers.extend(
        [
            (b"access-control-allow-methods", b"GET, HEAD, POST, PUT"),
            (b"access-control-allow-headers", caller.requested_headers or b""),
            (b"access-control-allow-private-network", b"true"),
            (b"access-control-max-age", PREFLIGHT_SECONDS),
        ]
    )
    return found


def cors_headers(origin: bytes) -> Headers:
    """Return the CORS headers of a response that a page of this origin may read.

    Mixpanel's browser SDK sends credentials, for which `*` is not sufficient.
    """
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-allow-credentials", b"true"),
        (b"access-control-expose-headers", b"ETag, Retry-After"),
        (b"vary", b"Origin"),
    ]


def with_headers(send: Send, headers: Headers) -> Send:
    """Return a `send` that adds headers to a response, unless it has them already."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            found = list(message.get("headers", []))
            found += [each for each in headers if each not in found]
            message = {**message, "headers": found}
        await send(message)

    return sending


def origin_of(text: Any) -> bytes:
    """Return an origin as browsers send it: `https://app.example`, `http://localhost:3000`.

    `null` is an origin too: that of sandboxed pages and local files.

    :raises ValueError: it is not an origin.
    """
    if text == "null":
        return b"null"
    error = ValueError(
        f"allow_origins must be origins of web pages, such as http://localhost:3000, not {text!r}"
    )
    if not isinstance(text, str) or not text.isascii():
        raise error
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise error from None
    if parts.scheme not in PORTS or not host or "@" in parts.netloc or "*" in host:
        raise error
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise error
    host = f"[{host}]" if ":" in host else host
    place = "" if port in (None, PORTS[parts.scheme]) else f":{port}"
    return f"{parts.scheme}://{host}{place}".encode()


def _changes_page(scope: Scope) -> bool:
    return is_page_path(scope["path"]) and scope["method"] not in ("GET", "HEAD", "OPTIONS")


def _is_own(origin: bytes, hosts: Sequence[bytes]) -> bool:
    return len(hosts) == 1 and origin == b"http://" + hosts[0].lower()


def _is_internal(host: bytes) -> bool:
    found = _HOST.fullmatch(host.lower())
    if found is None:
        return False
    name = found[1].decode()
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return "." not in name and "[" not in name
    return True


def _is_loopback(host: bytes, own_name: str) -> bool:
    found = _HOST.fullmatch(host.lower())
    if found is None:
        return False
    name = found[1].decode().removesuffix(".")
    if name in ("localhost", own_name.lower()) or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    if (address.version == 6) is not name.startswith("["):
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
