"""Where things go and how patient we are: regions, hosts, limits, retry policies."""

from __future__ import annotations

import inspect
import os
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Literal, get_args
from unicodedata import category
from urllib.parse import urlsplit

from mixpanel._runtime.redaction import conceals_arguments
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

LONGEST_HOST, LONGEST_LABEL = 253, 63  # characters
MOST_RECORDS = 2000  # in one request, of any kind
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


@conceals_arguments
def checked_origin(text: str, name: str = "base_url", *, path: bool = False) -> str:
    """Return an https URL in its usual form; plain http is taken for loopback only.

    That is without a trailing slash, capitals in the host, and the port that goes without saying;
    an international host name is in ASCII (`xn--...`). A bare host means https. With `path`, the
    URL may go on to name one endpoint.

    :raises ConfigurationError: for any other scheme, user info, a query, a fragment, or a host
        that is not one.
    """
    if not isinstance(text, str):
        raise ConfigurationTypeError(f"{name} must be a URL, not {type(text).__name__}")
    shown = f"{name}=a URL with a user name or password" if "@" in text else f"{name}={text!r}"
    if any(c.isspace() or not c.isprintable() or c == "\\" for c in text):
        raise ConfigurationError(f"{shown} holds white space, a control character or a backslash")
    try:
        parts = urlsplit(text if "://" in text else f"https://{text}")
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        # What the parser stumbled over may be half a password.
        why = "" if "@" in text else f": {error}"
        raise ConfigurationError(f"{shown} is not a URL{why}") from None
    ascii_host = _ascii_host(host, bracketed="[" in parts.netloc)
    for wrong, why in (
        (parts.scheme not in ("https", "http"), "must be an https URL"),
        ("@" in parts.netloc, "must not hold a user name or password: give them on their own"),
        (
            bool(parts.query or parts.fragment) or text.endswith(("?", "#")),
            "must not have a query or a fragment",
        ),
        (not ascii_host, "has no valid host name"),
        (port == 0, "has port 0, which no server listens on"),
        (not parts.path.isascii(), "must be ASCII after the host: percent-encode the path"),
        (
            parts.scheme == "http" and not is_loopback(host),
            "must use https: plain http is for loopback addresses only",
        ),
        (
            not path and bool(parts.path.strip("/")) and "://" not in text,
            "must be a host name alone, or a full https URL",
        ),
    ):
        if wrong:
            raise ConfigurationError(f"{shown} {why}")
    netloc = f"[{ascii_host}]" if ":" in host else str(ascii_host)
    if port is not None and port != {"https": 443, "http": 80}[parts.scheme]:
        netloc += f":{port}"
    return f"{parts.scheme}://{netloc}{parts.path.rstrip('/')}"


def check_options(owner: str, given: Iterable[str], known: Collection[str]) -> None:
    """See to it that options exist.

    :raises TypeError: naming those that do not, and what may have been meant.
    """
    strange = sorted(set(given) - set(known))
    if strange:
        from difflib import get_close_matches

        near = {name: get_close_matches(name, known, 1) for name in strange}
        told = [
            f"{name!r}" + "".join(f" (did you mean {one!r}?)" for one in near[name])
            for name in strange
        ]
        raise TypeError(f"{owner} has no option {', '.join(told)}")


def checked_callback(callback: Any, name: str) -> None:
    """See to it that a callback can be called from anywhere, without awaiting it.

    :raises ConfigurationError: for an async function, or what cannot be called at all.
    """
    if callback is None:
        return
    if not callable(callback):
        raise ConfigurationError(f"{name} must be a function, not {type(callback).__name__}")
    call = getattr(callback, "__call__", None)  # noqa: B004 - an object may be async there
    if inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(call):
        raise ConfigurationError(
            f"{name} is an async function, which nobody awaits here: give a plain function"
        )


def is_loopback(host: str) -> bool:
    """Tell whether a host name means this very machine."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def is_reachable(host: str | None) -> bool:
    """Return True if a host, as of a proxy, is an address or a name that can be looked up."""
    if not host or not host.isascii() or "%" in host or len(host) > LONGEST_HOST:
        return False
    labels = host.removesuffix(".").split(".")
    return ":" in host or all(0 < len(label) <= LONGEST_LABEL for label in labels)


def _ascii_host(host: str, *, bracketed: bool) -> str | None:
    """Return a host as it is looked up; None for what is not one, or not safe to send to."""
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
    # What the mapping of IDNA 2003 changes, as "ß" to "ss", is another name to newer resolvers;
    # symbols are none to them.
    if not host.isascii() and name != host:
        return None
    labels, spelled = ascii_host.removesuffix(".").split("."), name.removesuffix(".").split(".")
    if len(ascii_host) > LONGEST_HOST or not all(map(_is_label, labels + spelled)):
        return None
    # "2130706433" and "0x7f.1" are addresses in disguise to some resolvers.
    disguised = labels[-1].isdigit() or labels[-1].startswith("0x")
    return None if disguised else ascii_host


def _is_label(label: str) -> bool:
    if not 0 < len(label) <= LONGEST_LABEL or label[0] == "-" or label[-1] == "-":
        return False
    return all(c == "-" or c.isalnum() or category(c) in ("Mn", "Mc") for c in label)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Know the URL of every ingestion call, all of one region."""

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
        """Choose the URLs: a full `*_url`, then `base_url`, `MP_BASE_URL`, `api_host`, `region`.

        `MP_BASE_URL` stands above `api_host` and `region` so that one environment variable turns
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
    """Know where a project is read from; `ingestion` is there for lookup tables and flags."""

    query: str
    export: str
    app: str
    ingestion: str

    @classmethod
    def resolve(cls, *, region: Region, base_url: str | None = None) -> Origins:
        """Choose the origins: `base_url`, else `MP_BASE_URL`, else those of the region.

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
    """Say how often and how long to try again.

    The n-th wait (from 0) is drawn from U(0, min(`max_wait`, `first_wait` * 2**n)): full
    jitter. A server's `Retry-After` is a floor, clamped to `max_retry_after`. Trying ends
    after `attempts` (None: no such bound), and for each message by itself when it is `max_age`
    seconds old, whatever the age of others in its batch. A wait that none of them would outlive
    is cut short for one more attempt.
    """

    attempts: int | None = None
    first_wait: float = 2.0
    max_wait: float = 60.0
    max_retry_after: float = 300.0
    max_age: float = 300.0

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        :raises ConfigurationError: for a negative time, or less than one attempt.
        """
        if self.attempts is not None and self.attempts < 1:
            raise ConfigurationError(f"attempts={self.attempts!r} must be at least 1, or None")
        for name in ("first_wait", "max_wait", "max_retry_after", "max_age"):
            if not getattr(self, name) >= 0:
                raise ConfigurationError(f"{name}={getattr(self, name)!r} must not be negative")

    def wait(self, failures: int, retry_after: float | None, random: float) -> float:
        """Return the seconds to wait after so many failures (1 or more); `random` is in [0, 1)."""
        jittered = random * min(self.max_wait, self.first_wait * 2.0 ** min(failures - 1, 30))
        if retry_after is None:
            return jittered
        return max(jittered, min(retry_after, self.max_retry_after))


@dataclass(frozen=True, slots=True)
class Limits:
    """Set the bounds of one consumer.

    `max_batch_size` (messages) and `max_batch_bytes` bound one request: Mixpanel takes 2,000
    records, and its documentation names both 10 MB and 2,097,152 bytes, so 1.9 MB suits either.
    `max_queue_size` and `max_queue_bytes` bound what waits in the buffer. `request_timeout` is the
    time in seconds for one request, from connecting to the last byte of the response;
    `max_response_bytes` bounds that response. Up to `concurrency` requests for events are in flight
    at once; for profiles always one. `flush_after` is the age in seconds at which a batch is sent
    although it is not full; None: never by age.
    """

    max_batch_size: int = 2000
    max_batch_bytes: int = 1_900_000
    flush_after: float | None = 1.0
    max_queue_size: int = 50_000
    max_queue_bytes: int = 16 * 1024 * 1024
    request_timeout: float = 10.0
    max_response_bytes: int = 256 * 1024
    concurrency: int = 4

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        :raises ConfigurationError: for a bound that is not positive, or a batch over 2,000.
        """
        for name in self.__slots__:
            value = getattr(self, name)
            if (value is None and name != "flush_after") or (value is not None and not value > 0):
                raise ConfigurationError(f"{name}={value!r} must be above 0")
        if self.max_batch_size > MOST_RECORDS:
            raise ConfigurationError(f"Mixpanel takes at most {MOST_RECORDS:,} records a request")
