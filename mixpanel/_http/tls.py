"""Load the trusted certificates once, and never while the process forks."""

from __future__ import annotations

import encodings.idna  # noqa: F401 - else the first TLS handshake loads it, on the loop
import errno
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mixpanel._http.libraries import httpx
from mixpanel._runtime.import_lock import import_lock
from mixpanel.exceptions import ConfigurationError

if TYPE_CHECKING:
    import ssl

__all__ = ["CA_VARIABLES", "default_tls_context"]

# The first that is set applies. OpenSSL and httpx read the first two, requests (and with it the
# official client) and curl the others.
CA_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def default_tls_context() -> ssl.SSLContext:
    """Return the TLS context with the trusted certificates, made once.

    They are those of the first variable that is set of `SSL_CERT_FILE`, `SSL_CERT_DIR`,
    `REQUESTS_CA_BUNDLE` and `CURL_CA_BUNDLE`, else those of the package certifi.

    :raises ConfigurationError: when the certificates cannot be loaded.
    """
    for variable in CA_VARIABLES:
        if path := os.environ.get(variable):
            return _tls_context(variable, path)
    return _tls_context("", "")


@cache
def _tls_context(variable: str, path: str) -> ssl.SSLContext:
    # OpenSSL has locks of its own. A child that is forked while they are held hangs at its first
    # use of TLS, so forks wait for this as they wait for imports.
    with import_lock:
        try:
            return _create_tls_context(variable, path)
        except OSError as error:  # `ssl.SSLError` is one, too
            source = f"{variable}={path!r}" if variable else "the package certifi"
            raise ConfigurationError(
                f"cannot load the trusted certificates of {source} "
                f"({error.strerror or type(error).__name__}): name a file of certificates in PEM "
                f"format by {', '.join(CA_VARIABLES[:-1])} or {CA_VARIABLES[-1]}, or pass "
                "ssl_context="
            ) from error


def _create_tls_context(variable: str, path: str) -> ssl.SSLContext:
    import ssl

    if not variable:
        return httpx.create_ssl_context(trust_env=False)
    is_folder = Path(path).is_dir()
    if variable == "SSL_CERT_DIR" or (is_folder and variable != "SSL_CERT_FILE"):
        if not any(Path(folder).is_dir() for folder in path.split(os.pathsep)):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        return ssl.create_default_context(capath=path)
    return ssl.create_default_context(cafile=path)
