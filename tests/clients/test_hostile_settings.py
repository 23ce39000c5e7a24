"""Invalid settings are refused at construction, by an error of this package."""

import contextlib

import anyio
import httpcore
import httpx
import pytest

from mixpanel import (
    AsyncBufferedConsumer,
    AsyncConsumer,
    AsyncMixpanel,
    BufferedConsumer,
    ConfigurationError,
    Consumer,
    Mixpanel,
    ServiceAccountCredentials,
    ValidationError,
)
from mixpanel._http.proxies import (
    TransportOptions,
)
from mixpanel.cdp import AsyncCustomerIO, CustomerIO, Hightouch, HightouchOAuth, webhooks
from mixpanel.credentials import ApiSecret
from mixpanel.data import Credentials, Workspace
from mixpanel.data.api import AsyncAPI
from mixpanel.emulator import Emulator
from mixpanel.exceptions import MixpanelException
from mixpanel.flags.types import LocalFlagsConfig, RemoteFlagsConfig
from mixpanel.settings import Limits, RetryPolicy, checked_origin

NO_TEXT = [None, 7, 1.5, b"https://h.example", ["https://h.example"], {}, object(), True]
HOSTS = {
    "a snowman": "☃.net",
    "a snowman in ASCII": "xn--n3h.net",
    "an emoji": "💩.la",
    "punycode that is none": "xn--\x61\x61\x61\x61.example",
    "a sharp s, which two standards map apart": "faß.de",
    "a zero-width joiner": "a\u200db.example",
    "a direction mark": "a\u202eb.example",
    "fullwidth digits": "\uff11\uff12\uff17.0.0.1",
    "an ideographic full stop": "a。example",
    "a lone surrogate": "a\udc80.example",
    "a label of 64": "a" * 64 + ".example",
    "a name of 300": ".".join(["a" * 49] * 6),
    "an empty label": "a..example",
    "a hyphen first": "-a.example",
    "NUL": "a\0.example",
    "CR and LF": "a.example\r\nHost: b",
    "a tab": "a\t.example",
    "DEL": "a\x7f.example",
    "percent-encoding": "a%2eexample",
    "an address zone": "[fe80::1%25eth0]",
    "brackets around a name": "[v1.example]",
    "an open bracket": "[::1",
    "port 0": "a.example:0",
    "port 99999": "a.example:99999",
    "a port of letters": "a.example:http",
    "a port of other digits": "a.example:٣",
    "a negative port": "a.example:-1",
    "a space": "a b.example",
    "a user": "user:pw@a.example",
    "nothing": "",
    "only a scheme": "https://",
    "another scheme": "ftp://a.example",
    "a path that is not ASCII": "https://a.example/é",
}
ORIGINS = {
    "base_url": lambda url: Consumer(base_url=url),
    "api_host": lambda url: BufferedConsumer(api_host=url),
    "events_url": lambda url: AsyncConsumer(events_url=url),
    "import_url": lambda url: AsyncConsumer(import_url=url),
    "a buffered consumer": lambda url: AsyncBufferedConsumer(base_url=url),
    "a client": lambda url: AsyncMixpanel("t", base_url=url),
    "flags": lambda url: Mixpanel("t", remote_flags_config=RemoteFlagsConfig(base_url=url)),
    "flags' api_host": lambda url: Mixpanel("t", local_flags_config=LocalFlagsConfig(api_host=url)),
    "data": lambda url: AsyncAPI(
        Credentials(username="u", secret="s", project_id="1"), base_url=url
    ),
    "customerio": lambda url: CustomerIO("k", base_url=url),
    "hightouch": lambda url: Hightouch("k", base_url=url),
    "oauth": lambda url: HightouchOAuth("c", lambda: "", "k", server=url),
}
NONE_IS_A_DEFAULT = set(ORIGINS) - {"oauth"}


@pytest.mark.slow
@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
@pytest.mark.parametrize("make", ORIGINS.values(), ids=ORIGINS)
def test_an_invalid_host_is_refused_at_construction(make, host):
    """By a ConfigurationError, and not later by an error of the HTTP library."""
    if host == "" and make is ORIGINS["flags' api_host"]:
        return  # means the default, as for the official client
    with pytest.raises(ConfigurationError):
        make(host)
    if "://" not in host and host:
        with pytest.raises(ConfigurationError):
            make(f"https://{host}/x")


@pytest.mark.slow
@pytest.mark.parametrize("given", NO_TEXT, ids=lambda given: type(given).__name__)
@pytest.mark.parametrize("name", ORIGINS)
def test_a_url_of_another_type_is_refused(name, given):
    """Also as a TypeError."""
    if given is None and name in NONE_IS_A_DEFAULT:
        with contextlib.suppress(ConfigurationError):
            ORIGINS[name](given)
        return
    with pytest.raises(ConfigurationError):
        ORIGINS[name](given)


@pytest.mark.parametrize(
    "url",
    [
        "https://bücher.example/x",
        "https://例え.テスト",
        "https://a.example:8443/a%20b",
        "https://[2001:db8::1]:444",
        "http://[::1]:8080",
        "HTTPS://A.Example:443/",
        "a.example.",
    ],
)
def test_an_accepted_origin_is_valid_in_every_http_library(url):
    """In ASCII, so that no later request fails because of it."""
    origin = checked_origin(url)
    assert origin.isascii()
    assert httpx.URL(origin).host
    assert httpcore.URL(origin + "/track").host


TEXTS = {
    "a lone surrogate": "s\udc80",
    "NUL": "s\0s",
    "CR and LF": "s\r\nX-Injected: 1",
    "a line separator": "s\u2028s",
    "DEL": "s\x7fs",
    "nothing": "",
    "white space": " \t ",
}
NAMES = {
    "token": Mixpanel,
    "token of an async client": AsyncMixpanel,
    "username": lambda text: ServiceAccountCredentials(text, "s", "1"),
    "secret": lambda text: ServiceAccountCredentials("u", text, "1"),
    "project_id": lambda text: ServiceAccountCredentials("u", "s", text),
    "api_secret": ApiSecret,
    "write_key": CustomerIO,
    "write_key of an async client": AsyncCustomerIO,
    "write_key of hightouch": Hightouch,
    "client_id": lambda text: HightouchOAuth(text, lambda: "", "k"),
    "key_id": lambda text: HightouchOAuth("c", lambda: "", text),
    "scope": lambda text: HightouchOAuth("c", lambda: "", "k", scope=text),
    "private_key": lambda text: HightouchOAuth("c", text, "k"),
    "proxy": lambda text: Consumer(proxy=text),
    "proxy's password": lambda text: TransportOptions(proxy=f"http://u:{text}@h"),
}


@pytest.mark.slow
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("name", NAMES)
def test_a_name_or_secret_that_no_header_can_hold_is_refused(name, text):
    """Nothing that would break a header, and nothing that cannot be encoded."""
    if name == "proxy's password" and text == "":
        return  # a user without a password
    with pytest.raises(ConfigurationError) as caught:
        NAMES[name](text)
    assert "\udc80" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "given", [None, 7, b"bytes", ["list"], {}, True], ids=lambda given: type(given).__name__
)
@pytest.mark.parametrize("name", sorted(set(NAMES) - {"proxy's password"}))
def test_a_name_or_secret_of_another_type_is_refused(name, given):
    """The error names its type."""
    if name == "proxy" and given is None:
        return  # means none
    with pytest.raises(ConfigurationError):
        NAMES[name](given)


@pytest.mark.parametrize("secret", ["pässwörd", "пароль", "密码", "a b", "a:b", "%41"])
def test_a_secret_beyond_ascii_is_sent_as_utf8(secret):
    """As in RFC 7617 for Basic authentication."""
    import base64

    header = ServiceAccountCredentials("ü", secret, "1").authorization()
    assert header.isascii()
    assert base64.b64decode(header.partition(" ")[2]).decode() == f"ü:{secret}"


@pytest.mark.parametrize(
    "given",
    ["http://h:0", "http://h:99999", "http://☃.net", "http://a..b", "http://h%2e", "http://h\\x",
     "http://" + "a" * 64 + ".example", "socks5://h:port", "http://[::1", 7, b"http://h", ""],
)  # fmt: skip
def test_an_invalid_proxy_is_refused_at_construction(given):
    """By clients and by the data API."""
    for make in (Consumer, AsyncConsumer, BufferedConsumer):
        with pytest.raises(ConfigurationError):
            make(proxy=given)
    with pytest.raises(ConfigurationError):
        CustomerIO("k", proxy=given)


@pytest.mark.parametrize("table_id", ["", "a/b", "..", ".", "a\udc80", "a\r\n", None, 7, b"x", " "])
def test_an_invalid_lookup_table_id_is_refused(table_id):
    """It cannot lead to another path."""

    async def attempt():
        account = ServiceAccountCredentials("u", "s", "1")
        consumer = AsyncConsumer(credentials=account, base_url="http://127.0.0.1:9")
        with pytest.raises(ConfigurationError, match="table_id"):
            await AsyncMixpanel("t", consumer).replace_lookup_table(table_id, "a\r\n1")

    anyio.run(attempt)


@pytest.mark.parametrize(
    ("name", "value"),
    [("X-A", "é"), ("X-A", "a\r\nb"), ("X-A", 7), ("X-A", None), ("X-A", b"x"), ("X A", "a"),
     ("X-é", "a"), ("", "a"), (7, "a"), ("Authorization", "a"), ("X-A:", "a")],
)  # fmt: skip
def test_an_invalid_header_of_the_caller_is_refused(name, value):
    """Before a request is made with it."""
    api = AsyncAPI(Credentials(username="u", secret="s", project_id="1"))

    async def attempt():
        with pytest.raises(ConfigurationError, match="header"):
            await api.request("GET", "/api/app/me", headers={name: value})
        await api.aclose()

    anyio.run(attempt)


@pytest.mark.parametrize("given", [None, 7, b"k", [], "", "k\udc80", [b"k"], [None]])
def test_an_invalid_signing_key_is_refused(given):
    """None of these is the sender's mistake."""
    with pytest.raises(ConfigurationError):
        webhooks.verify(b"{}", {"x-cio-timestamp": "0"}, given, now=0.0)


@pytest.mark.parametrize("message", ['{"a": "\udc80"}', None, 7, [], b"\xff", "[]", "{"])
def test_a_raw_message_that_is_not_json_is_refused(message):
    """By the consumer that it is passed to."""
    with pytest.raises(ValidationError):
        Consumer().send("events", message)


@pytest.mark.parametrize("key", [("a",), ("a", "b", "c"), ("k", 7), ("k", b"s"), ("k\0", "s")])
def test_an_api_key_of_another_shape_is_refused(key):
    """It is a key, or a tuple of a key and its secret."""
    with pytest.raises(ConfigurationError):
        Consumer().send("imports", "{}", key)


@pytest.mark.parametrize("region", ["mars", 7, [], {}, b"us", "US"])
def test_an_unknown_region_is_refused(region):
    """Of any type."""
    with pytest.raises(ConfigurationError):
        Consumer(region=region)
    for vendor in (CustomerIO, Hightouch):
        with pytest.raises(ConfigurationError):
            vendor("k", region=region or "mars")


@pytest.mark.parametrize(
    "address",
    [{"host": "0.0.0.0"}, {"host": "☃"},
     {"host": b"\x7f\x00\x00\x01"}, {"host": None}, {"port": -1},
     {"port": 99999}, {"port": "80"}, {"port": None}, {"port": True}],
)  # fmt: skip
def test_an_invalid_address_of_the_emulator_is_refused(address):
    """Before it listens."""
    with pytest.raises(ConfigurationError):
        Emulator(**address)


def test_a_workspace_with_invalid_settings_has_a_repr():
    """A crash reporter calls it on the half-constructed object."""
    assert repr(Workspace.__new__(Workspace)) == "<Workspace>"
    with pytest.raises(MixpanelException):
        Workspace(credentials=ServiceAccountCredentials("u", "s", "1"), project_id="a/b")


# ---- settings of another type -------------------------------------------------------------------


def local_flags(**settings):
    return Mixpanel("t", Consumer(), local_flags_config=LocalFlagsConfig(**settings))


def remote_flags(**settings):
    return Mixpanel("t", Consumer(), remote_flags_config=RemoteFlagsConfig(**settings))


def client(**settings):
    return Mixpanel("t", Consumer(), **settings)


def customerio(**settings):
    return CustomerIO("k", **settings)


def hightouch(**settings):
    return Hightouch("k", **settings)


NO_NUMBER = ("x", None, [], True, object())
TRANSPORT = {
    "retry": (3, "x", {}, (1, 2)),
    "limits": (5, "x", object()),
    "http_client": (5, "x", httpx.AsyncClient, httpx.HTTPTransport()),
    "ssl_context": (True, "cert.pem"),
}
NUMBERS = {
    RetryPolicy: ("first_wait", "max_wait", "max_retry_after", "max_age"),
    Limits: ("max_batch_size", "request_timeout", "concurrency"),
    local_flags: ("exposure_time_to_live", "remembered_exposures", "request_timeout_in_seconds"),
    remote_flags: ("cache_time_to_live", "cached_contexts", "request_timeout_in_seconds"),
}
WRONG = [
    *((make, TRANSPORT) for make in (Consumer, BufferedConsumer, AsyncConsumer)),
    *((make, TRANSPORT) for make in (AsyncBufferedConsumer, customerio)),
    *((make, dict.fromkeys(names, (*NO_NUMBER, -1))) for make, names in NUMBERS.items()),
    (RetryPolicy, {"attempts": ("x", 1.5, 0, True)}),
    (Limits, {"flush_after": ("x", 0)}),
    (local_flags, {"exposure_executor": (5, "x")}),
    (customerio, {"max_message_bytes": ("x", 1.5)}),
    (hightouch, {"version_at": (5, {}, [])}),
    (Consumer, {
        "credentials": (("user", "secret", "42"), "x"),
        "retry_limit": ("4", None, 1.5),
        "retry_backoff_factor": ("x", None),
        "request_timeout": ((3, 5), "x"),
    }),
    (client, {
        "sample_rate": NO_NUMBER,
        "sample_weight": (5, b"x"),
        "super_properties": (5, "x", [1]),
        "serializer": (5, "x"),
        "local_flags_config": ({}, RemoteFlagsConfig(), True),
        "remote_flags_config": ({}, LocalFlagsConfig()),
    }),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        pytest.param(make, name, value, id=f"{make.__name__}-{name}-{number}")
        for make, names in WRONG
        for name, values in names.items()
        for number, value in enumerate(values)
    ],
)
def test_a_setting_of_another_type_is_refused(make, name, value):
    """At construction, not when the first request fails; the error names the setting."""
    shown = "schema_version_path" if name == "version_at" else name
    with pytest.raises(ConfigurationError, match=rf"{shown}.* must "):
        make(**{name: value})


@pytest.mark.parametrize("value", [2, 2.0, float("inf")])
def test_numbers_of_both_types_are_accepted(value):
    """A whole number may be a float without a fraction; a time may be infinite."""
    assert value == RetryPolicy(max_wait=value).max_wait
    if value == 2:
        assert 2 == RetryPolicy(attempts=value).attempts == Limits(concurrency=value).concurrency
