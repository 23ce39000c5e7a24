"""Make requests of records: where each endpoint is, who asks, and how its bodies look."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

from mixpanel._delivery.retry import judge_answer
from mixpanel._records.record import joined
from mixpanel._runtime.redaction import conceal_arguments, conceals_arguments
from mixpanel._version import __version__
from mixpanel.credentials import ApiSecret, Secret, ServiceAccountCredentials
from mixpanel.exceptions import ConfigurationError
from mixpanel.settings import is_reachable

if TYPE_CHECKING:
    import ssl
    from collections.abc import Generator, Mapping
    from typing import NoReturn

    import httpx

    from mixpanel._delivery.retry import Answer, Failure, Judgement, Send
    from mixpanel._records.record import Record
    from mixpanel.credentials import Authority
    from mixpanel.settings import Endpoints

__all__ = [
    "AnyRoute",
    "Gate",
    "Proxy",
    "Request",
    "Route",
    "Transport",
    "checked_proxy",
    "environment_proxy",
]

USER_AGENT = f"mixpanel-async/{__version__}"
COMPRESSION = 1  # level 6 takes three times as long for a tenth less


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, ready to go; its repr shows neither body nor credentials.

    A header that identifies somebody is a `Secret`, which only the transport reveals. URL and body
    may hold a token, so `pickle` refuses a request.
    """

    method: str
    url: str
    headers: Mapping[str, str | Secret]
    content: bytes = b""

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.url.partition('?')[0]} {len(self.content)} bytes>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a request is not pickled: it may hold credentials")


class Proxy(Secret):
    """The URL of a proxy; its repr shows no user name and no password.

    :raises ConfigurationError: for what is none, or SOCKS without the package that speaks it.
    """

    __slots__ = ()

    def __init__(self, url: str, name: str = "proxy") -> None:
        super().__init__(checked_proxy(url, name))

    @property
    def shown(self) -> str:
        """Return the URL without user name and password."""
        return without_password(self.reveal())

    def __repr__(self) -> str:
        return f"Proxy({self.shown!r})"

    __str__ = __repr__


@conceal_arguments
@dataclass(frozen=True, slots=True)
class Transport:
    """Say how to reach the network: a client of your own, or a proxy and a TLS context.

    `client` is used as it is and never closed; without one, httpx's environment variables
    (`HTTPS_PROXY`, `NO_PROXY`, `SSL_CERT_FILE`) are heeded. `proxy` is given as a URL and kept
    as a `Proxy`, which shows no password; `pickle` refuses a transport that has one.
    """

    client: httpx.AsyncClient | None = None
    proxy: str | Proxy | None = None
    ssl_context: ssl.SSLContext | None = None
    connections: int = 32

    def __post_init__(self) -> None:
        """Refuse a proxy that cannot be one.

        :raises ConfigurationError: without ever showing its password.
        """
        if self.proxy is not None and not isinstance(self.proxy, Proxy):
            object.__setattr__(self, "proxy", Proxy(self.proxy))

    def __repr__(self) -> str:
        own = "" if self.client is None else " client=yours"
        proxy = f" proxy={self.proxy.shown!r}" if isinstance(self.proxy, Proxy) else ""
        return f"<Transport{own}{proxy}>"


PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")


def checked_proxy(text: str, name: str = "proxy") -> str:
    """Return the URL of a proxy.

    :raises ConfigurationError: for what is none, or SOCKS without the package that speaks it.
    """
    if not isinstance(text, str):
        raise ConfigurationError(f"{name} must be a URL, not {type(text).__name__}")
    shown = f"{name}={without_password(text)!r}"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigurationError(f"{shown} is not a URL") from None
    if not text.isascii() or not text.isprintable() or "\\" in text:
        raise ConfigurationError(
            f"{shown} holds a character that no URL has: percent-encode user name and password, "
            "and write the host in ASCII (xn--...)"
        )
    if parts.scheme not in PROXY_SCHEMES or not is_reachable(host) or port == 0 or " " in text:
        raise ConfigurationError(
            f"{shown} must be the URL of a proxy, such as 'http://proxy.example:3128'"
        )
    if parts.scheme.startswith("socks") and find_spec("socksio") is None:
        raise ConfigurationError(f"{shown} needs the package socksio: install httpx[socks]")
    return text


def without_password(url: str) -> str:
    """Return a URL without user name and password."""
    before, at, rest = url.rpartition("@")
    if not at:
        return url
    scheme, found, _ = before.partition("://")
    return f"{scheme}://***@{rest}" if found else f"***@{rest}"


@conceals_arguments
def environment_proxy(url: str) -> Proxy | None:
    """Return the proxy that `HTTPS_PROXY` and its like name for a URL, None for the direct way.

    :raises ConfigurationError: when it names something that cannot be one.
    """
    proxies = getproxies()
    if not proxies:
        return None
    parts = urlsplit(url)
    found = proxies.get(parts.scheme) or proxies.get("all")
    if not found or proxy_bypass(parts.hostname or ""):
        return None
    if "://" not in found:
        found = f"http://{found}"
    return Proxy(found, f"{parts.scheme.upper()}_PROXY")


class Gate(Protocol):
    """What a request passes before it leaves: a rate limit, or who hands out access tokens."""

    def passage(
        self,
    ) -> Generator[float | Request | None, Answer | Failure | None, Answer | Failure]:
        """Yield seconds to wait, requests of its own to make, and None to send the request itself.

        Requests are answered with their reply. Return what stands as the reply to the attempt.
        """
        ...

    def after_fork(self) -> None:
        """Start afresh in a forked child."""
        ...


class AnyRoute(Protocol):
    """How a sender speaks to one kind of server."""

    @property
    def gate(self) -> Gate | None:
        """Return what each request has to pass; None lets all of them leave at once."""
        ...

    def request(self, step: Send) -> Request:
        """Return the request that carries these records."""
        ...

    def judge(self, reply: Answer | Failure, part: list[Record]) -> Judgement:
        """Return what a reply means for the records that were sent."""
        ...

    def takes_gzip(self, endpoint: str) -> bool:
        """Tell whether an endpoint's bodies may be compressed."""
        ...


@dataclass(frozen=True, slots=True)
class Route:
    """Turn records of one endpoint into a request.

    Events and imports take gzip; `/engage` and `/groups` do not. `geolocate` lets Mixpanel place
    users where the request comes from, which is right on a device and wrong on a server.
    """

    endpoints: Endpoints
    credentials: ServiceAccountCredentials | None = None
    geolocate: bool = False

    @property
    def gate(self) -> None:
        """Let every request leave at once."""
        return

    def request(self, step: Send) -> Request:
        """Return the request that carries these records."""
        endpoint = step.records[0].endpoint
        body = joined(b"[", step.records, b"]")
        headers: dict[str, str | Secret] = {
            "Content-Type": "application/json",
            "User-Agent": USER_AGENT,
            "Accept-Encoding": "identity",
        }
        if step.gzip and self.takes_gzip(endpoint):
            body = gzip.compress(body, COMPRESSION, mtime=0)
            headers["Content-Encoding"] = "gzip"
        query = {"ip": "1" if self.geolocate else "0", "verbose": "1"}
        if endpoint != "events":
            query["strict"] = "1"
        if endpoint == "imports":
            authorization = self.authorize(query, step.records[0].auth)
            if authorization is not None:
                headers["Authorization"] = authorization
        return Request("POST", f"{self.endpoints.url(endpoint)}?{urlencode(query)}", headers, body)

    def judge(self, reply: Answer | Failure, part: list[Record]) -> Judgement:
        """Return what a reply means for the records that were sent."""
        return judge_answer(reply, part)

    def takes_gzip(self, endpoint: str) -> bool:
        """Tell whether an endpoint's bodies may be compressed."""
        return endpoint in ("events", "imports")

    def authorize(self, query: dict[str, str], auth: Authority | None = None) -> Secret | None:
        """Return the `Authorization` header, and add what the query needs with it."""
        if self.credentials is not None:
            query["project_id"] = self.credentials.project_id
            return Secret(self.credentials.authorization())
        if isinstance(auth, ApiSecret) and auth.api_key:
            query["api_key"] = auth.api_key
        return None if auth is None else Secret(auth.authorization())

    def __reduce__(self) -> NoReturn:
        raise TypeError("a route is not pickled: it may hold credentials")
