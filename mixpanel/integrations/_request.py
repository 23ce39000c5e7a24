"""What the events of a request carry: who made it, and where."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict
from urllib.parse import quote, urlsplit

from mixpanel._records.context import IDENTITY
from mixpanel._records.record import checked_mapping
from mixpanel._records.values import is_missing, plain_id
from mixpanel._runtime.safe_logging import logger
from mixpanel.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Identity", "IdentityOrId", "RequestOptions", "RequestSettings"]

MAX_LENGTH = 255  # characters of a property's value, which Mixpanel truncates there
SAFE_IN_PATH = "/:@!$&'()*+,;=~"
LOG_INTERVAL = 60.0  # seconds
HOST = re.compile(r"[A-Za-z0-9_.-]+(:\d+)?|\[[0-9A-Fa-f:.]+\](:\d+)?")


_failures: dict[str, tuple[float, int]] = {}  # when each callback's was logged, and how many since


class Identity(TypedDict, total=False):
    """The user of a request: `distinct_id`, or `device_id` and `user_id` (Simplified ID Merge)."""

    distinct_id: object
    device_id: object
    user_id: object


IdentityOrId: TypeAlias = "Identity | str | int | None"


class RequestOptions(TypedDict, total=False):
    """Keyword options of the middleware for all frameworks.

    - `request_properties`: add `$current_url`, `$referrer` and `$referring_domain` to the events of
      a request, without query strings (default True).
    - `client_ip`: add the client's address as `ip`, from which Mixpanel derives the location
      (default False).
    - `trusted_proxies`: how many proxies of your own append to `X-Forwarded-For`; without any, the
      header is ignored (default 0).
    """

    request_properties: bool
    client_ip: bool
    trusted_proxies: int


@dataclass(frozen=True, slots=True)
class RequestSettings:
    """Checked `RequestOptions`.

    :raises ConfigurationError: for values of other types, or a negative number of proxies.
    """

    request_properties: bool = True
    client_ip: bool = False
    trusted_proxies: int = 0

    def __post_init__(self) -> None:
        for name in ("request_properties", "client_ip"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise ConfigurationError(f"{name}={value!r} must be True or False")
        proxies = self.trusted_proxies
        if isinstance(proxies, bool) or not isinstance(proxies, int) or proxies < 0:
            raise ConfigurationError(
                f"trusted_proxies={proxies!r} must be the number of your own proxies that append "
                "to X-Forwarded-For: 0, 1, 2, …"
            )
        if proxies and not self.client_ip:
            raise ConfigurationError("trusted_proxies has an effect with client_ip=True only")

    def properties(
        self,
        *,
        scheme: str,
        host: str,
        path: str | bytes,
        referrer: str,
        peer: str | None,
        forwarded: str,
    ) -> dict[str, Any]:
        """Return the properties of a request; text that is not valid is left out."""
        found: dict[str, Any] = {}
        if self.request_properties:
            if HOST.fullmatch(host):
                raw = path.encode(errors="replace") if isinstance(path, str) else path
                url = f"{scheme}://{host}{quote(raw, safe=SAFE_IN_PATH)}"
                found["$current_url"] = url[:MAX_LENGTH]
            found.update(_referrer(referrer))
        if self.client_ip and (address := client_address(peer, forwarded, self.trusted_proxies)):
            found["ip"] = address
        return found


def _referrer(referrer: str) -> dict[str, str]:
    try:
        parts = urlsplit(referrer)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return {}
    host = parts.hostname or ""
    shown = f"[{host}]" if ":" in host else host
    if parts.scheme not in ("http", "https") or not HOST.fullmatch(shown):
        return {}
    path = quote(parts.path, safe=SAFE_IN_PATH + "%", errors="replace")
    return {
        "$referrer": f"{parts.scheme}://{shown}{port}{path}"[:MAX_LENGTH],
        "$referring_domain": shown[:MAX_LENGTH],
    }


def client_address(peer: str | None, forwarded: str, trusted_proxies: int) -> str | None:
    """Return the client's address, or None if it is unknown or no valid address.

    Each proxy appends the address that its request came from, so the client's is the entry that
    the first of the trusted proxies wrote. With fewer entries than proxies, the header has
    another origin and is ignored.
    """
    address = peer or ""
    entries = [entry.strip() for entry in forwarded.split(",")] if forwarded else []
    if 0 < trusted_proxies <= len(entries):
        address = entries[-trusted_proxies]
    if address.startswith("["):  # "[2001:db8::1]:443"
        address = address[1:].partition("]")[0]
    elif address.count(":") == 1:  # "192.0.2.1:443"
        address = address.partition(":")[0]
    try:
        return str(ip_address(address))
    except ValueError:
        return None


def identity_of(found: Any) -> tuple[str | None, str | None, str | None]:
    """Return `(distinct_id, device_id, user_id)` of what a callback returned.

    :raises ConfigurationError: for anything but an id, None, or a mapping with these keys.
    """
    if found is None:
        return None, None, None
    if hasattr(found, "keys"):
        if unknown := set(found) - set(IDENTITY):
            raise ConfigurationError(
                f"identify returned {', '.join(sorted(map(repr, unknown)))}: "
                f"the keys of an identity are {', '.join(IDENTITY)}"
            )
        return _text(found, "distinct_id"), _text(found, "device_id"), _text(found, "user_id")
    if hasattr(found, "__await__"):
        # Without this Python warns, later and at no useful line, that it was never awaited.
        found.close()
        raise ConfigurationError("identify returned a coroutine, which cannot be awaited here")
    return _text({"distinct_id": found}, "distinct_id"), None, None


def mapping_of(found: Any) -> Mapping[str, Any]:
    """Return the properties that a callback returned.

    :raises ValidationError: for anything but a mapping or None.
    """
    return {} if found is None else checked_mapping(found)


def _text(found: Mapping[str, Any], name: str) -> str | None:
    value = found.get(name)
    return None if is_missing(value) else plain_id(value, name)[0]


def call_safely(callback: Callable[..., Any] | None, *args: Any, convert: Any = None) -> Any:
    """Return the converted result of a callback; log what it raises, and return None."""
    if callback is None:
        return None
    try:
        found = callback(*args)
        return found if convert is None else convert(found)
    except Exception:
        log_failure(callback)
        return None


def log_failure(callback: Callable[..., Any]) -> None:
    """Log the exception of a callback, at most once a minute for each callback."""
    name = getattr(callback, "__qualname__", None) or type(callback).__name__
    now = time.monotonic()
    last, suppressed = _failures.get(name, (-math.inf, 0))
    if now - last < LOG_INTERVAL:
        _failures[name] = last, suppressed + 1
        return
    _failures[name] = now, 0
    more = f" ({suppressed} more failures were not logged)" if suppressed else ""
    logger.exception("%s failed: events of its request lack what it returns%s", name, more)


def checked_callback(callback: Any, name: str) -> Any:
    """Return a callback or None.

    :raises ConfigurationError: for anything else.
    """
    if callback is not None and not callable(callback):
        raise ConfigurationError(f"{name} must be a function, not {type(callback).__name__}")
    return callback
