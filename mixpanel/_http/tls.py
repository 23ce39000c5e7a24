"""Load the trusted certificates once, and never while the process forks."""

from __future__ import annotations

import encodings.idna  # noqa: F401 - else the first TLS handshake loads it, on the loop
from functools import cache
from typing import TYPE_CHECKING

import httpx

from mixpanel._runtime.import_lock import import_lock
from mixpanel.exceptions import ConfigurationError

if TYPE_CHECKING:
    import ssl

__all__ = ["default_tls_context"]


@cache
def default_tls_context() -> ssl.SSLContext:
    """Return the TLS context with httpx's default certificates, made once.

    :raises ConfigurationError: when the certificates cannot be loaded.
    """
    # OpenSSL has locks of its own. A child that is forked while they are held hangs at its first
    # use of TLS, so forks wait for this as they wait for imports.
    with import_lock:
        return _create_tls_context()


def _create_tls_context() -> ssl.SSLContext:
    try:
        return httpx.create_ssl_context()
    except OSError as error:  # `ssl.SSLError` is one, too
        raise ConfigurationError(
            f"cannot load the trusted certificates ({error.strerror or type(error).__name__}): "
            "check SSL_CERT_FILE and SSL_CERT_DIR, or pass ssl_context="
        ) from error
