"""Describe why no response came, without showing a secret."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress

from mixpanel._http.libraries import httpcore, httpx
from mixpanel._runtime.redaction import strip_tracebacks

__all__ = ["NOT_SENT", "as_cause", "describe", "is_permanent", "needs_attention"]

# What a resolver answers about a name that does not exist, or has no address.
UNKNOWN_NAMES = frozenset(
    getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA") if hasattr(socket, name)
)

NOT_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
    httpx.InvalidURL,
    UnicodeError,
)


def as_cause(
    failure: Exception, outer: BaseException | None, *, keep_callers: bool = False
) -> Exception | None:
    """Return a failure for use as `__cause__`: without frames; None if its text quotes a header."""
    kind = httpcore.LocalProtocolError, httpx.LocalProtocolError, UnicodeError
    if isinstance(failure, kind):
        return None
    return strip_tracebacks(failure, outer, keep_callers=keep_callers)


def describe(failure: Exception) -> str:
    """Return a description of a transport failure that holds neither URL nor payload."""
    names = {
        "ConnectError": "cannot connect",
        "ConnectTimeout": "timed out while connecting",
        "PoolTimeout": "no free connection",
        "ReadTimeout": "timed out while waiting for the response",
        "WriteTimeout": "timed out while sending",
        "ReadError": "the connection broke before the response was complete",
        "WriteError": "the connection broke while sending",
        "RemoteProtocolError": "the server closed the connection or did not speak HTTP",
        "ProxyError": "the proxy refused the request",
        "UnsolicitedDataError": "the server sent data, or closed, before the request was sent",
        "LocalProtocolError": "the URL or a header is not valid in HTTP",
    }
    if isinstance(failure, UnicodeError):
        return names["LocalProtocolError"]
    text = names.get(type(failure).__name__, type(failure).__name__)
    if _is_refused_by_proxy(failure):
        return "the proxy requires a user name and password, or rejected those given (407)"
    if _is_unknown_host(failure):
        return f"{text}: DNS does not know the host name"
    return f"{text}: {_certificate_problem(failure)}" if _is_certificate(failure) else text


def _certificate_problem(failure: BaseException) -> str:
    """Return why the server's certificate is not accepted, and the remedy for a private one."""
    seen: BaseException | None = failure
    reason = ""
    for _ in range(8):
        if seen is None or reason:
            break
        reason = getattr(seen, "verify_message", "")
        seen = seen.__cause__ or seen.__context__
    return (
        f"TLS certificate not accepted{f' ({reason})' if reason else ''}; if a private authority "
        "issued it, name the authority's certificate in PEM format by SSL_CERT_FILE, "
        "REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE, or pass ssl_context="
    )


def is_permanent(failure: BaseException) -> bool:
    """Return True if trying again cannot help: a bad URL, certificate or proxy password."""
    if isinstance(failure, (UnicodeError, httpx.InvalidURL)):
        return True
    return _is_certificate(failure) or _is_refused_by_proxy(failure)


def needs_attention(failure: BaseException) -> bool:
    """Return True if a failure will hardly end by itself: a permanent one, or an unknown host.

    An unknown host is tried again nevertheless: a machine without a network knows no names either.
    """
    return is_permanent(failure) or _is_unknown_host(failure)


def _is_unknown_host(failure: BaseException) -> bool:
    seen: BaseException | None = failure
    for _ in range(8):
        if seen is None:
            return False
        if isinstance(seen, socket.gaierror) and seen.errno in UNKNOWN_NAMES:
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _is_refused_by_proxy(failure: BaseException) -> bool:
    return type(failure).__name__ == "ProxyError" and str(failure).startswith("407")


def _is_certificate(failure: BaseException) -> bool:
    seen: BaseException | None = failure
    for _ in range(8):
        if seen is None:
            return False
        if isinstance(seen, ssl.SSLCertVerificationError):
            return True
        with suppress(Exception):  # an exception of the caller's may fail to produce a text
            if "CERTIFICATE_VERIFY_FAILED" in str(seen):
                return True
        seen = seen.__cause__ or seen.__context__
    return False
