"""Load the trusted certificates once, and never while the process forks."""

from __future__ import annotations

import encodings.idna  # noqa: F401 - TLS loads it with the first name, on a loop
from functools import cache
from typing import TYPE_CHECKING

import httpx

from mixpanel._runtime.import_lock import loading
from mixpanel.exceptions import ConfigurationError

if TYPE_CHECKING:
    import ssl

__all__ = ["default_tls"]


@cache
def default_tls() -> ssl.SSLContext:
    # OpenSSL has locks of its own: a child that is forked while they are held hangs at its first
    # use, so a fork waits for this as it does for imports.
    with loading:
        return _made_tls()


def _made_tls() -> ssl.SSLContext:
    try:
        return httpx.create_ssl_context()
    except OSError as error:  # of `ssl` too
        raise ConfigurationError(
            f"cannot load the trusted certificates ({error.strerror or type(error).__name__}): "
            "check SSL_CERT_FILE and SSL_CERT_DIR, or pass ssl_context="
        ) from error
