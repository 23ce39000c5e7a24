"""Describe why no answer came, without showing a secret."""

from __future__ import annotations

import encodings.idna  # noqa: F401 - TLS loads it with the first name, on a loop
import ssl
from contextlib import suppress

import httpcore
import httpx

from mixpanel._runtime.redaction import without_frames

__all__ = ["NOT_SENT", "as_cause", "describe", "is_hopeless"]

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
    """Return a failure as the cause of our error: without frames, and not if it quotes a header."""
    kind = httpcore.LocalProtocolError, httpx.LocalProtocolError, UnicodeError
    if isinstance(failure, kind):
        return None
    return without_frames(failure, outer, keep_callers=keep_callers)


def describe(failure: Exception) -> str:
    """Name a transport failure in words that hold neither URL nor payload."""
    names = {
        "ConnectError": "cannot connect",
        "ConnectTimeout": "cannot connect in time",
        "PoolTimeout": "no free connection",
        "ReadTimeout": "no answer in time",
        "WriteTimeout": "could not send in time",
        "ReadError": "the connection broke before the answer came",
        "WriteError": "the connection broke while sending",
        "RemoteProtocolError": "the server closed the connection or did not speak HTTP",
        "ProxyError": "the proxy refused",
        "SpokeFirst": "the server sent something, or closed, before the request was sent",
        "LocalProtocolError": "the URL or a header is not fit for HTTP",
    }
    if isinstance(failure, UnicodeError):
        return names["LocalProtocolError"]
    text = names.get(type(failure).__name__, type(failure).__name__)
    if _is_refused_by_proxy(failure):
        return "the proxy wants a user name and password, or others (407)"
    return f"TLS certificate not accepted: {text}" if _is_certificate(failure) else text


def is_hopeless(failure: BaseException) -> bool:
    if isinstance(failure, (UnicodeError, httpx.InvalidURL)):
        return True
    return _is_certificate(failure) or _is_refused_by_proxy(failure)


def _is_refused_by_proxy(failure: BaseException) -> bool:
    return type(failure).__name__ == "ProxyError" and str(failure).startswith("407")


def _is_certificate(failure: BaseException) -> bool:
    seen: BaseException | None = failure
    for _ in range(8):
        if seen is None:
            return False
        if isinstance(seen, ssl.SSLCertVerificationError):
            return True
        with suppress(Exception):  # of a caller's own, which has no text
            if "CERTIFICATE_VERIFY_FAILED" in str(seen):
                return True
        seen = seen.__cause__ or seen.__context__
    return False
