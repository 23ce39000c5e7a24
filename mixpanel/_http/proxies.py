"""Connection options: the caller's own httpx client, a proxy, a TLS context."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from mixpanel._runtime.redaction import hide_arguments, hide_init_arguments
from mixpanel.credentials import Secret
from mixpanel.exceptions import ConfigurationError, ConfigurationTypeError
from mixpanel.settings import check_type, is_reachable

if TYPE_CHECKING:
    import ssl

    import httpx


__all__ = ["Proxy", "TransportOptions", "check_proxy_url", "proxy_from_environment"]


class Proxy(Secret):
    """The URL of a proxy; its repr shows no user name and no password.

    :raises ConfigurationError: if it is not a proxy URL, or a SOCKS proxy without `socksio`.
    """

    __slots__ = ()

    def __init__(self, url: str, name: str = "proxy") -> None:
        super().__init__(check_proxy_url(url, name))

    @property
    def display_url(self) -> str:
        """Return the URL without user name and password."""
        return mask_credentials(self.reveal())

    def __repr__(self) -> str:
        return f"Proxy({self.display_url!r})"

    def __str__(self) -> str:
        return repr(self)


@hide_init_arguments
@dataclass(frozen=True, slots=True)
class TransportOptions:
    """How to reach the network: a client of your own, or a proxy and a TLS context.

    `client` is used as it is and never closed. Without one, the environment variables that httpx
    knows (`HTTPS_PROXY`, `NO_PROXY`, `SSL_CERT_FILE`) apply, and so do `REQUESTS_CA_BUNDLE` and
    `CURL_CA_BUNDLE`. `proxy` is given as a URL and kept as
    a `Proxy`, whose repr shows no password; options with a proxy cannot be pickled.
    """

    client: httpx.AsyncClient | None = None
    proxy: str | Proxy | None = None
    ssl_context: ssl.SSLContext | None = None
    connections: int = 32

    def __post_init__(self) -> None:
        """Check the types, and the proxy URL.

        :raises ConfigurationError: if one is not valid; the error does not show its password.
        """
        if self.client is not None and not _is_async_client(self.client):
            kind = type(self.client)
            raise ConfigurationTypeError(
                f"http_client must be an httpx.AsyncClient, not {kind.__module__}.{kind.__name__}"
            )
        if self.ssl_context is not None:
            import ssl

            check_type(self.ssl_context, "ssl_context", ssl.SSLContext)
        if self.proxy is not None and not isinstance(self.proxy, Proxy):
            object.__setattr__(self, "proxy", Proxy(self.proxy))

    def __repr__(self) -> str:
        client = "" if self.client is None else " client=yours"
        proxy = f" proxy={self.proxy.display_url!r}" if isinstance(self.proxy, Proxy) else ""
        return f"<TransportOptions{client}{proxy}>"


def _is_async_client(given: Any) -> bool:
    # By its methods: httpx is imported for the first request, and programs wrap its client.
    return not isinstance(given, type) and hasattr(given, "send") and hasattr(given, "aclose")


PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")


def check_proxy_url(text: str, name: str = "proxy") -> str:
    """Return a proxy URL unchanged, after checking it.

    :raises ConfigurationError: if it is not a proxy URL, or a SOCKS proxy without `socksio`.
    """
    if not isinstance(text, str):
        raise ConfigurationError(f"{name} must be a URL, not {type(text).__name__}")
    shown = f"{name}={mask_credentials(text)!r}"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigurationError(f"{shown} is not a URL") from None
    if not text.isascii() or not text.isprintable() or "\\" in text:
        raise ConfigurationError(
            f"{shown} contains a character that is not allowed in a URL: percent-encode user name "
            "and password, and write the host in ASCII (xn--...)"
        )
    if parts.scheme not in PROXY_SCHEMES or not is_reachable(host) or port == 0 or " " in text:
        raise ConfigurationError(
            f"{shown} must be a proxy URL, such as 'http://proxy.example:3128'"
        )
    if parts.scheme.startswith("socks") and find_spec("socksio") is None:
        raise ConfigurationError(f"{shown} needs the package socksio: install httpx[socks]")
    return text


def mask_credentials(url: str) -> str:
    """Return a URL with `***` in place of user name and password."""
    before, at, rest = url.rpartition("@")
    if not at:
        return url
    scheme, found, _ = before.partition("://")
    return f"{scheme}://***@{rest}" if found else f"***@{rest}"


@hide_arguments
def proxy_from_environment(url: str) -> Proxy | None:
    """Return the proxy that the environment names for a URL, as `HTTPS_PROXY`; None for none.

    :raises ConfigurationError: when the value is not a proxy URL.
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
