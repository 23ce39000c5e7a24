"""How to reach the network: a client of the caller, a proxy, a TLS context."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from mixpanel._runtime.redaction import conceal_arguments, conceals_arguments
from mixpanel.credentials import Secret
from mixpanel.exceptions import ConfigurationError
from mixpanel.settings import is_reachable

if TYPE_CHECKING:
    import ssl

    import httpx


__all__ = ["Proxy", "TransportOptions", "checked_proxy", "environment_proxy"]


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

    def __str__(self) -> str:
        return repr(self)


@conceal_arguments
@dataclass(frozen=True, slots=True)
class TransportOptions:
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
