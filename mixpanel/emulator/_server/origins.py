"""Keep other websites out of the emulator: check who sends a request, and under which name.

A page in the developer's browser can send requests to any address of this machine. Two checks stop
it: of `Host`, because with DNS rebinding a foreign name resolves to a loopback address and its page
may then read the answers, and of `Origin` and `Sec-Fetch-Site`, because simple requests are sent
across origins without asking first. SDKs and tools outside a browser send neither of the two.
"""

import ipaddress
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.types import Message, Scope, Send

from mixpanel.emulator._server import responses

Headers = list[tuple[bytes, bytes]]

REMEMBERED: Final = 64
PREFLIGHT_SECONDS: Final = b"600"
PORTS: Final = {"http": 80, "https": 443}
OWN_SITE: Final = (b"same-origin", b"none")
PAGES: Final = ("/", "/favicon.ico")
_HOST: Final = re.compile(rb"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{0,5})?")


@dataclass(frozen=True, slots=True)
class Caller:
    """What the headers of a request tell of who sends it."""

    hosts: tuple[bytes, ...] = ()
    origins: tuple[bytes, ...] = ()
    site: bytes | None = None
    asks_for: bytes | None = None
    """The headers that a preflight asks for."""
    is_preflight: bool = False

    @classmethod
    def of(cls, scope: Scope) -> "Caller":
        """Read the headers of a request."""
        hosts, origins = [], []
        told: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name == b"host":
                hosts.append(value)
            elif name == b"origin":
                origins.append(value)
            elif name == b"sec-fetch-site" or name.startswith(b"access-control-request-"):
                told[name] = value
        return cls(
            tuple(hosts),
            tuple(origins),
            told.get(b"sec-fetch-site"),
            told.get(b"access-control-request-headers"),
            scope["method"] == "OPTIONS" and b"access-control-request-method" in told,
        )


@dataclass(slots=True)
class Guard:
    """Refuse requests to foreign names, and those of pages whose origin is not allowed.

    `name` is the host that the emulator was started with, `origins` are normal (`origin_of`).
    """

    name: str
    origins: Collection[bytes] = ()
    _known: dict[bytes, bool] = field(default_factory=dict)

    def refusal(self, scope: Scope, caller: Caller) -> Response | None:
        """Return the answer to a request that is refused, None if it is not."""
        path = scope["path"]
        if not all(map(self._is_local, caller.hosts)):
            return responses.refused(
                path,
                421,
                "the emulator answers to loopback names only, such as 127.0.0.1 and localhost, "
                "and the Host header names another one",
            )
        if self._is_allowed(scope, caller):
            return None
        shown = b", ".join(caller.origins).decode("latin-1") or "another site"
        return responses.refused(
            path,
            403,
            f"the emulator takes no requests from pages of {shown[:200]}: start it with "
            "--allow-origin URL, or Emulator(allow_origins=[URL])",
        )

    def is_foreign(self, caller: Caller) -> bool:
        """Return True for a request that a page of an allowed origin sends."""
        return len(caller.origins) == 1 and caller.origins[0] in self.origins

    def _is_allowed(self, scope: Scope, caller: Caller) -> bool:
        if len(caller.origins) == 1:
            (origin,) = caller.origins
            return origin in self.origins or _is_own(origin, caller.hosts)
        if caller.origins:
            return False
        if caller.site is None or caller.site in OWN_SITE:
            return True
        # A link to the page is followed without an Origin, and does nothing.
        return scope["path"] in PAGES and scope["method"] in ("GET", "HEAD")

    def _is_local(self, host: bytes) -> bool:
        known = self._known.get(host)
        if known is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            known = self._known[host] = _is_loopback(host, self.name)
        return known


def preflight(caller: Caller) -> Response:
    """Answer a browser that asks whether a page may send a request."""
    found = Response(status_code=204)
    found.raw_headers.extend(
        [
            (b"access-control-allow-methods", b"GET, HEAD, POST, PUT"),
            (b"access-control-allow-headers", caller.asks_for or b""),
            (b"access-control-allow-private-network", b"true"),
            (b"access-control-max-age", PREFLIGHT_SECONDS),
        ]
    )
    return found


def allowing(origin: bytes) -> Headers:
    """Return the headers of an answer that a page of this origin may read.

    Mixpanel's SDK for browsers sends credentials, so the origin has to be named.
    """
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-allow-credentials", b"true"),
        (b"access-control-expose-headers", b"ETag, Retry-After"),
        (b"vary", b"Origin"),
    ]


def with_headers(send: Send, headers: Headers) -> Send:
    """Return a `send` that adds headers to an answer, unless it has them already."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            found = list(message.get("headers", []))
            found += [each for each in headers if each not in found]
            message = {**message, "headers": found}
        await send(message)

    return sending


def origin_of(text: Any) -> bytes:
    """Return an origin as browsers write it: `https://app.example`, `http://localhost:3000`.

    :raises ValueError: it is none; `null` is one, that of sandboxed pages and local files.
    """
    if text == "null":
        return b"null"
    wrong = ValueError(
        f"allow_origins takes the origins of pages, such as http://localhost:3000, not {text!r}"
    )
    if not isinstance(text, str) or not text.isascii():
        raise wrong
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in PORTS or not host or "@" in parts.netloc or "*" in host:
        raise wrong
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise wrong
    host = f"[{host}]" if ":" in host else host
    place = "" if port in (None, PORTS[parts.scheme]) else f":{port}"
    return f"{parts.scheme}://{host}{place}".encode()


def _is_own(origin: bytes, hosts: Sequence[bytes]) -> bool:
    return len(hosts) == 1 and origin == b"http://" + hosts[0].lower()


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
