"""Regions and hosts, limits of a consumer, and retry policies."""

from __future__ import annotations

import inspect
import os
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Literal, get_args
from unicodedata import category
from urllib.parse import urlsplit

from mixpanel._runtime.redaction import hide_arguments
from mixpanel.exceptions import ConfigurationError, ConfigurationTypeError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

__all__ = [
    "Endpoint",
    "Endpoints",
    "Family",
    "Limits",
    "Origins",
    "Region",
    "RetryPolicy",
    "WhenFull",
]

Region = Literal["us", "eu", "in"]
Endpoint = Literal["events", "people", "groups", "imports"]
Family = Literal["query", "export", "app"]
WhenFull = Literal["drop_newest", "drop_oldest", "wait", "raise"]

MAX_HOST_LENGTH, MAX_LABEL_LENGTH = 253, 63  # characters
MAX_RECORDS = 2000  # in one request, of any kind
ENDPOINTS: tuple[Endpoint, ...] = get_args(Endpoint)
PATHS: dict[Endpoint, str] = {
    "events": "/track",
    "people": "/engage",
    "groups": "/groups",
    "imports": "/import",
}
INGESTION_HOSTS: dict[Region, str] = {
    "us": "api.mixpanel.com",
    "eu": "api-eu.mixpanel.com",
    "in": "api-in.mixpanel.com",
}
QUERY_HOSTS: dict[Region, str] = {  # and of the app API
    "us": "mixpanel.com",
    "eu": "eu.mixpanel.com",
    "in": "in.mixpanel.com",
}
EXPORT_HOSTS: dict[Region, str] = {
    "us": "data.mixpanel.com",
    "eu": "data-eu.mixpanel.com",
    "in": "data-in.mixpanel.com",
}


@hide_arguments
def checked_origin(text: str, name: str = "base_url", *, path: bool = False) -> str:
    """Return an https URL in its normal form; plain http is accepted for loopback only.

    The normal form has no trailing slash, no capitals in the host and no default port; an
    international host name is in ASCII (`xn--...`). A bare host means https, or http for loopback.
    With `path`, the URL may have a path of its own without a scheme, too.

    :raises ConfigurationError: for any other scheme, user info, a query, a fragment, or an
        invalid host.
    """
    if not isinstance(text, str):
        raise ConfigurationTypeError(f"{name} must be a URL, not {type(text).__name__}")
    shown = f"{name}=a URL with a user name or password" if "@" in text else f"{name}={text!r}"
    if any(c.isspace() or not c.isprintable() or c == "\\" for c in text):
        raise ConfigurationError(
            f"{shown} contains white space, a control character or a backslash"
        )
    try:
        parts = urlsplit(text if "://" in text else f"https://{text}")
        host, port = parts.hostname or "", parts.port
        if "://" not in text and is_loopback(host) and port != 443:
            parts = parts._replace(scheme="http")
    except ValueError as error:
        # The parser's message may quote a part of a password.
        problem = "" if "@" in text else f": {error}"
        raise ConfigurationError(f"{shown} is not a URL{problem}") from None
    ascii_host = _ascii_host(host, bracketed="[" in parts.netloc)
    for is_wrong, problem in (
        (parts.scheme not in ("https", "http"), "must be an https URL"),
        ("@" in parts.netloc, "must not contain a user name or password: pass them separately"),
        (
            bool(parts.query or parts.fragment) or text.endswith(("?", "#")),
            "must not have a query or a fragment",
        ),
        (not ascii_host, "has no valid host name"),
        (port == 0, "has port 0, on which no server can listen"),
        (not parts.path.isascii(), "must be ASCII after the host: percent-encode the path"),
        (
            parts.scheme == "http" and not is_loopback(host),
            "must use https: plain http is allowed for loopback addresses only",
        ),
        (
            not path and bool(parts.path.strip("/")) and "://" not in text,
            "must be a host name alone, or a full https URL",
        ),
    ):
        if is_wrong:
            raise ConfigurationError(f"{shown} {problem}")
    netloc = f"[{ascii_host}]" if ":" in host else str(ascii_host)
    if port is not None and port != {"https": 443, "http": 80}[parts.scheme]:
        netloc += f":{port}"
    return f"{parts.scheme}://{netloc}{parts.path.rstrip('/')}"


def check_options(owner: str, given: Iterable[str], known: Collection[str]) -> None:
    """Check that all given options are known.

    :raises TypeError: naming those that are not, with the nearest known name.
    """
    unknown = sorted(set(given) - set(known))
    if unknown:
        from difflib import get_close_matches

        near = {name: get_close_matches(name, known, 1) for name in unknown}
        names = [
            f"{name!r}" + "".join(f" (did you mean {one!r}?)" for one in near[name])
            for name in unknown
        ]
        raise TypeError(f"{owner} has no option {', '.join(names)}")


def checked_callback(callback: Any, name: str) -> None:
    """Check that a callback is None or a plain function.

    :raises ConfigurationError: for an async function, or an object that is not callable.
    """
    if callback is None:
        return
    if not callable(callback):
        raise ConfigurationError(f"{name} must be a function, not {type(callback).__name__}")
    call = getattr(callback, "__call__", None)  # noqa: B004 - an object may be async there
    if inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(call):
        raise ConfigurationError(
            f"{name} is an async function, which would never be awaited: pass a plain function"
        )


def check_type(value: Any, name: str, kind: type, what: str = "") -> None:
    """Check that a setting is None or of a type, which `what` names in the error.

    :raises ConfigurationTypeError: if it is neither.
    """
    if value is not None and not isinstance(value, kind):
        expected = what or f"a {kind.__name__}"
        raise ConfigurationTypeError(f"{name} must be {expected}, not {type(value).__name__}")


def check_number(value: Any, name: str, *, whole: bool = False) -> None:
    """Check that a setting is a number; with `whole`, one without a fraction.

    :raises ConfigurationTypeError: if it is not.
    """
    is_number = isinstance(value, (int, float)) or hasattr(type(value), "__index__")
    is_whole = not isinstance(value, float) or value.is_integer()
    if isinstance(value, bool) or not is_number or (whole and not is_whole):
        expected = "a whole number" if whole else "a number"
        raise ConfigurationTypeError(f"{name}={value!r} must be {expected}")


def check_minimum(
    value: Any,
    name: str,
    *,
    above: float | None = None,
    at_least: float | None = None,
    whole: bool = False,
) -> None:
    """Check that a setting is a number above one, or at least as large.

    :raises ConfigurationError: if it is not.
    """
    check_number(value, name, whole=whole)
    if above is not None and not value > above:
        raise ConfigurationError(f"{name}={value!r} must be above {above}")
    if at_least is not None and not value >= at_least:
        raise ConfigurationError(f"{name}={value!r} must be at least {at_least}")


def is_loopback(host: str) -> bool:
    """Return True if a host is this machine: `localhost` or a loopback address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def is_reachable(host: str | None) -> bool:
    """Return True if a host is an address, or a name that DNS could resolve."""
    if not host or not host.isascii() or "%" in host or len(host) > MAX_HOST_LENGTH:
        return False
    labels = host.removesuffix(".").split(".")
    return ":" in host or all(0 < len(label) <= MAX_LABEL_LENGTH for label in labels)


def _ascii_host(host: str, *, bracketed: bool) -> str | None:
    """Return a host in the form that DNS takes; None if it is invalid or not safe to send to."""
    if "%" in host:  # the zone of an address, or an encoded character
        return None
    try:
        address = ip_address(host)
    except ValueError:
        return None if bracketed else _ascii_name(host)
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        return None
    return host


def _ascii_name(host: str) -> str | None:
    try:
        ascii_host = host.encode("idna").decode("ascii")
        name = ascii_host.encode().decode("idna")
    except UnicodeError:
        return None
    # A name that IDNA 2003 changes, as "ß" to "ss", is a different name under IDNA 2008; symbols
    # are not allowed there.
    if not host.isascii() and name != host:
        return None
    labels, spelled = ascii_host.removesuffix(".").split("."), name.removesuffix(".").split(".")
    if len(ascii_host) > MAX_HOST_LENGTH or not all(map(_is_label, labels + spelled)):
        return None
    # Some resolvers read "2130706433" and "0x7f.1" as IP addresses.
    is_numeric = labels[-1].isdigit() or labels[-1].startswith("0x")
    return None if is_numeric else ascii_host


def _is_label(label: str) -> bool:
    if not 0 < len(label) <= MAX_LABEL_LENGTH or label[0] == "-" or label[-1] == "-":
        return False
    return all(c == "-" or c.isalnum() or category(c) in ("Mn", "Mc") for c in label)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The URLs of the ingestion API in one region."""

    events: str
    people: str
    groups: str
    imports: str
    origin: str

    @classmethod
    def resolve(
        cls,
        *,
        region: Region | None = None,
        api_host: str | None = None,
        base_url: str | None = None,
        events_url: str | None = None,
        people_url: str | None = None,
        import_url: str | None = None,
        groups_url: str | None = None,
    ) -> Endpoints:
        """Return the URLs by the first that is given of `*_url`, `base_url`, `MP_BASE_URL`,
        `api_host` and `region`.

        `MP_BASE_URL` comes before `api_host` and `region`, so that one environment variable points
        an unchanged program to the emulator or a proxy.

        :raises ConfigurationError: for an unknown region or a URL that is not safe to send to.
        """
        if region is not None and not (isinstance(region, str) and region in INGESTION_HOSTS):
            known = ", ".join(map(repr, INGESTION_HOSTS))
            raise ConfigurationError(f"region={region!r} is unknown; choose one of {known}")
        environment = os.environ.get("MP_BASE_URL")
        if base_url is not None:
            origin = checked_origin(base_url)
        elif environment:
            origin = checked_origin(environment, "MP_BASE_URL")
        elif api_host is not None:
            origin = checked_origin(api_host, "api_host")
        else:
            origin = f"https://{INGESTION_HOSTS[region or 'us']}"

        def url(given: str | None, name: str, endpoint: Endpoint) -> str:
            if given is None:
                return origin + PATHS[endpoint]
            return checked_origin(given, name, path=True)

        return cls(
            events=url(events_url, "events_url", "events"),
            people=url(people_url, "people_url", "people"),
            groups=url(groups_url, "groups_url", "groups"),
            imports=url(import_url, "import_url", "imports"),
            origin=origin,
        )

    def url(self, endpoint: str) -> str:
        """Return the URL of one endpoint."""
        return str(getattr(self, endpoint))


@dataclass(frozen=True, slots=True)
class Origins:
    """The origins of the APIs of one region; `ingestion` serves lookup tables and flags, too."""

    query: str
    export: str
    app: str
    ingestion: str

    @classmethod
    def resolve(cls, *, region: Region, base_url: str | None = None) -> Origins:
        """Return the origins: `base_url`, else `MP_BASE_URL`, else those of the region.

        :raises ConfigurationError: for an unknown region or a URL that is not safe to send to.
        """
        if not isinstance(region, str) or region not in QUERY_HOSTS:
            known = ", ".join(map(repr, QUERY_HOSTS))
            raise ConfigurationError(f"region={region!r} is unknown; choose one of {known}")
        environment = os.environ.get("MP_BASE_URL")
        if base_url is not None:
            return cls(*[checked_origin(base_url)] * 4)
        if environment:
            return cls(*[checked_origin(environment, "MP_BASE_URL")] * 4)
        hosts = QUERY_HOSTS, EXPORT_HOSTS, QUERY_HOSTS, INGESTION_HOSTS
        return cls(*[f"https://{family[region]}" for family in hosts])


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often to retry, and how long to wait in between.

    The wait before retry n (from 0) is random between 0 and min(`max_wait`, `first_wait` * 2**n)
    seconds: exponential backoff with full jitter. The server's `Retry-After` is a lower bound, up
    to `max_retry_after` seconds. Retries end after `attempts` in all (None: no limit), and for each
    message when it is `max_age` seconds old, whatever the age of the others in its batch. A wait
    that would outlast all messages of a batch is cut short, for one last attempt.
    """

    attempts: int | None = None
    first_wait: float = 2.0
    max_wait: float = 60.0
    max_retry_after: float = 300.0
    max_age: float = 300.0

    def __post_init__(self) -> None:
        """Check the values.

        :raises ConfigurationError: for a negative time, or less than one attempt.
        """
        if self.attempts is not None:
            check_minimum(self.attempts, "attempts", at_least=1, whole=True)
        for name in ("first_wait", "max_wait", "max_retry_after", "max_age"):
            check_minimum(getattr(self, name), name, at_least=0)

    def wait(self, failures: int, retry_after: float | None, random: float) -> float:
        """Return the seconds to wait after a number of failures (from 1); `random` in [0, 1)."""
        jittered = random * min(self.max_wait, self.first_wait * 2.0 ** min(failures - 1, 30))
        if retry_after is None:
            return jittered
        return max(jittered, min(retry_after, self.max_retry_after))


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one consumer.

    :param max_batch_size: records in one request; Mixpanel accepts 2,000.
    :param max_batch_bytes: bytes of one request, uncompressed. Mixpanel's documentation has both
        10 MB and 2,097,152 bytes; the default stays below either.
    :param flush_after: age in seconds at which a batch is sent before it is full; None for never.
    :param max_queue_size: messages that may wait in the buffer.
    :param max_queue_bytes: bytes that may wait in the buffer.
    :param request_timeout: seconds of one attempt, from connecting to the last byte of the
        response.
    :param max_response_bytes: bytes that are read of a response.
    :param concurrency: requests with events that may run at once; those with profile updates
        always run one at a time, so that their order holds.
    :param max_spool_bytes: bytes of messages that this process may have in its spool, beside those
        that it found there; `max_queue_size` and `max_queue_bytes` then limit only what is not on
        disk yet.
    :param min_free_bytes: bytes of the disk that stay free; with less, the spool is not written.
    :param max_dead_letter_bytes: bytes of dead letters; the oldest are deleted first.
    """

    max_batch_size: int = 2000
    max_batch_bytes: int = 1_900_000
    flush_after: float | None = 1.0
    max_queue_size: int = 50_000
    max_queue_bytes: int = 16 * 1024 * 1024
    request_timeout: float = 10.0
    max_response_bytes: int = 256 * 1024
    concurrency: int = 4
    max_spool_bytes: int = 256 * 1024 * 1024
    min_free_bytes: int = 64 * 1024 * 1024
    max_dead_letter_bytes: int = 64 * 1024 * 1024

    def __post_init__(self) -> None:
        """Check the values.

        :raises ConfigurationError: for a limit that is not positive, or a batch over 2,000.
        """
        for name in self.__slots__:
            value = getattr(self, name)
            if value is None and name == "flush_after":
                continue
            is_time = name in ("flush_after", "request_timeout")
            check_minimum(value, name, above=0, whole=not is_time)
        if self.max_batch_size > MAX_RECORDS:
            raise ConfigurationError(
                f"max_batch_size={self.max_batch_size!r} must be at most {MAX_RECORDS:,}, "
                "Mixpanel's limit for one request"
            )
