"""Hosts, credentials, limits and retry policies."""

import contextlib
import copy
import pickle

import pytest

from mixpanel import (
    AsyncMixpanel,
    BufferedConsumer,
    ConfigurationError,
    Consumer,
    Limits,
    Mixpanel,
    RetryPolicy,
    ServiceAccountCredentials,
)
from mixpanel.credentials import ApiSecret, Secret
from mixpanel.settings import Endpoints, checked_origin

CANARY = "s3cr3t-canary"


@pytest.mark.parametrize(
    ("region", "host"),
    [
        (None, "api.mixpanel.com"),
        ("us", "api.mixpanel.com"),
        ("eu", "api-eu.mixpanel.com"),
        ("in", "api-in.mixpanel.com"),
    ],
)
def test_a_region_holds_for_every_call(region, host):
    """Every endpoint, alias and merge included, goes to the one host."""
    endpoints = Endpoints.resolve(region=region)
    assert endpoints.events == f"https://{host}/track"
    assert endpoints.people == f"https://{host}/engage"
    assert endpoints.groups == f"https://{host}/groups"
    assert endpoints.imports == f"https://{host}/import"


def test_the_most_specific_setting_wins(monkeypatch):
    """A full URL, then base_url, then MP_BASE_URL, then api_host, then region."""
    both = Endpoints.resolve(base_url="http://localhost:9", events_url="https://own.example/e")
    assert both.events == "https://own.example/e"
    assert both.people == "http://localhost:9/engage"
    monkeypatch.setenv("MP_BASE_URL", "http://127.0.0.1:1")
    assert Endpoints.resolve(region="eu").events == "http://127.0.0.1:1/track"
    assert Endpoints.resolve(base_url="https://b.example").events == "https://b.example/track"
    monkeypatch.delenv("MP_BASE_URL")
    assert Endpoints.resolve(api_host="a.example", region="eu").events == "https://a.example/track"


HOSTILE = [
    "http://api.mixpanel.com",
    "http://169.254.169.254",
    "https://169.254.169.254/latest",
    "api.mixpanel.com@evil.example",
    "https://user:pw@api.mixpanel.com",
    "https://api.mixpanel.com?x=1",
    "https://api.mixpanel.com#f",
    "https://api.mixpanel.com?",
    "https://",
    "",
    " ",
    "file:///etc/passwd",
    "ftp://api.mixpanel.com",
    "javascript:alert(1)",
    "https://api.mixpanel.com\r\nX-Evil: 1",
    "https://api mixpanel.com",
    "https://api.mixpanel.com\\@evil.example",
    "https://-bad.example",
    "https://a..b",
    "https://2130706433",
    "https://0x7f000001",
    "https://0x7f.1",
    "https://127.1",
    "https://[::ffff:0:0:1::1]",
    "https://[::]",
    "https://0.0.0.0",
    "https://224.0.0.1",
    "https://api.mixpanel.com:99999",
    "https://api.mixpanel.com:abc",
    "https://exa_mple.com",
    "https://%65vil.example",
    "api.mixpanel.com/../evil",
    "//evil.example",
    "https:///evil.example",
    "http://localhost.evil.example",
    "http://[fe80::1]",
    "http://10.0.0.1",
    "http://192.168.1.1",
    "\thttps://api.mixpanel.com",
    "https://api.mixpanel.com\x00",
]


@pytest.mark.parametrize("url", HOSTILE)
def test_hostile_origins_are_refused(url):
    """https only, plain http on loopback only, nothing hidden in the URL."""
    with pytest.raises(ConfigurationError):
        checked_origin(url)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("api.mixpanel.com", "https://api.mixpanel.com"),
        ("https://proxy.example/mixpanel/", "https://proxy.example/mixpanel"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://localhost", "http://localhost"),
        ("http://[::1]:80", "http://[::1]"),
        ("https://API.Mixpanel.com:443/", "https://api.mixpanel.com"),
        ("https://api.mixpanel.com:80", "https://api.mixpanel.com:80"),
        ("https://10.0.0.7:8443", "https://10.0.0.7:8443"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("localhost:8650", "http://localhost:8650"),
        ("127.0.0.1:8650/", "http://127.0.0.1:8650"),
        ("[::1]:8650", "http://[::1]:8650"),
        ("localhost", "http://localhost"),
        ("localhost:443", "https://localhost"),
        ("https://localhost:8650", "https://localhost:8650"),
        ("10.0.0.7:8443", "https://10.0.0.7:8443"),
    ],
)
def test_valid_origins_are_accepted(url, origin):
    """Bare hosts mean https, but those of this machine http."""
    assert checked_origin(url) == origin


@pytest.mark.parametrize(
    "make",
    [
        lambda: Mixpanel(""),
        lambda: Mixpanel(None),
        lambda: AsyncMixpanel("t", region="mars"),
        lambda: AsyncMixpanel("t", ingestion="carrier pigeon"),
        lambda: AsyncMixpanel("t", validation="maybe"),
        lambda: AsyncMixpanel("t", sample_rate=0),
        lambda: AsyncMixpanel("t", when_full="explode"),
        lambda: AsyncMixpanel("t", Consumer(), region="eu"),
        lambda: AsyncMixpanel("t", object()),
        lambda: Consumer(verify_cert=False),
        lambda: Consumer(request_timeout=0),
        lambda: BufferedConsumer(0),
        lambda: BufferedConsumer(True),
        lambda: BufferedConsumer(flush_after=-1),
        lambda: Limits(max_batch_size=0),
        lambda: Limits(max_batch_size=2001),
        lambda: Limits(request_timeout=-1),
        lambda: RetryPolicy(first_wait=-1),
        lambda: RetryPolicy(attempts=0),
    ],
)
def test_invalid_settings_are_refused_at_construction(make):
    """Not at the first event, hours later."""
    with pytest.raises(ConfigurationError):
        make()


@pytest.mark.parametrize("make", [Consumer, lambda **o: Mixpanel("t", **o)])
def test_a_misspelt_option_is_named(make):
    """A typo is not swallowed by `**options`."""
    with pytest.raises(TypeError, match="regoin"):
        make(regoin="eu")


def test_credentials_check_their_parts():
    """The official class's checks."""
    account = ServiceAccountCredentials(" me ", f" {CANARY} ", "42")
    assert account.to_http_basic_auth() == ("me", CANARY)
    assert (account.username, account.secret, account.project_id) == ("me", CANARY, "42")
    with pytest.raises(TypeError):
        ServiceAccountCredentials("me", CANARY, 42)
    with pytest.raises(ValueError):
        ServiceAccountCredentials("me", "  ", "42")


@pytest.mark.parametrize(
    "holder",
    [
        ServiceAccountCredentials("me", CANARY, "42"),
        ApiSecret(CANARY),
        Secret(CANARY),
        Consumer(credentials=ServiceAccountCredentials("me", CANARY, "42")),
        Mixpanel("t", credentials=ServiceAccountCredentials("me", CANARY, "42")),
        AsyncMixpanel("t", credentials=ServiceAccountCredentials("me", CANARY, "42"))._delivery.api,
    ],
    ids=lambda holder: type(holder).__name__,
)
def test_a_secret_is_never_shown(holder):
    """Not in repr, str, format, dir() values or a pickle, except those for other processes."""
    shown = repr(holder) + str(holder) + f"{holder!s:>3}" + repr(getattr(holder, "__dict__", ""))
    assert CANARY not in shown
    if isinstance(holder, ServiceAccountCredentials):
        assert holder == pickle.loads(pickle.dumps(holder))
        return
    if isinstance(holder, (Consumer, Mixpanel)):  # see tests/clients/test_copies.py
        return
    with contextlib.suppress(TypeError, AttributeError, pickle.PicklingError):
        assert CANARY.encode() not in pickle.dumps(holder)


def test_a_secret_compares_by_value_and_cannot_be_pickled():
    """A copy is the secret itself."""
    assert Secret("a") == Secret("a") != Secret("b")
    assert Secret("a") == copy.deepcopy(Secret("a")) == copy.copy(Secret("a"))
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(Secret("a"))


def test_full_jitter_grows_and_is_capped():
    """U(0, min(cap, first * 2**n)), with Retry-After as a clamped lower bound."""
    policy = RetryPolicy(first_wait=2, max_wait=60)
    assert [policy.wait(n, None, 1.0) for n in (1, 2, 5, 6, 1000)] == [2, 4, 32, 60, 60]
    assert policy.wait(1, None, 0.0) == 0
    assert policy.wait(1, 7.0, 0.0) == 7
    assert policy.wait(1, 1e9, 0.0) == 300
