"""The dialects of the vendors, and of others."""

import base64
import json
from pathlib import Path

import pytest

import mixpanel.cdp
from mixpanel import ConfigurationError
from mixpanel.cdp import CUSTOMERIO, HIGHTOUCH, Dialect, SegmentComposer, WriteKey
from mixpanel.cdp._customerio.dialect import PERMISSIVE
from mixpanel.cdp._segment.dialect import batch_envelope, error_reasons
from mixpanel.credentials import Secret

AT = "2026-01-31T12:00:00.000Z"
CLASSIC, AMERICAN, EUROPEAN = WriteKey("abc"), WriteKey("sk_us_abc_1"), WriteKey("pk_eu_abc_1")


def basic(key):
    return "Basic " + base64.b64encode(f"{key}:".encode()).decode()


# ---- keys and regions ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "key", "token", "expected"),
    [
        (CUSTOMERIO, CLASSIC, None, basic("abc")),
        (CUSTOMERIO, AMERICAN, None, "Bearer sk_us_abc_1"),
        (CUSTOMERIO, EUROPEAN, None, "Bearer pk_eu_abc_1"),
        (HIGHTOUCH, CLASSIC, None, basic("abc")),
        (HIGHTOUCH, AMERICAN, None, basic("sk_us_abc_1")),
        (HIGHTOUCH, CLASSIC, Secret("token"), "Bearer token"),
    ],
)
def test_each_kind_of_key_has_its_authorization_header(dialect, key, token, expected):
    """Prefixed keys are bearer tokens at Customer.io only; an OAuth token takes precedence."""
    assert expected == dialect.headers(key, token)["Authorization"].reveal()


def test_customerio_uses_strict_mode_by_default():
    """Without the header a wrong key is answered with 200."""
    assert "1" == CUSTOMERIO.headers(CLASSIC)["X-Strict-Mode"]
    assert "X-Strict-Mode" not in PERMISSIVE.headers(CLASSIC)
    assert "X-Strict-Mode" not in HIGHTOUCH.headers(CLASSIC)


@pytest.mark.parametrize(
    ("dialect", "key", "options", "expected"),
    [
        (CUSTOMERIO, CLASSIC, {}, "https://cdp.customer.io"),
        (CUSTOMERIO, CLASSIC, {"region": "eu"}, "https://cdp-eu.customer.io"),
        (CUSTOMERIO, EUROPEAN, {}, "https://cdp-eu.customer.io"),
        (CUSTOMERIO, EUROPEAN, {"region": "us"}, "https://cdp.customer.io"),
        (CUSTOMERIO, EUROPEAN, {"base_url": "http://127.0.0.1:1/"}, "http://127.0.0.1:1"),
        (HIGHTOUCH, CLASSIC, {}, "https://us-east-1.hightouch-events.com"),
        (HIGHTOUCH, CLASSIC, {"region": "eu-west-1"}, "https://eu-west-1.hightouch-events.com"),
    ],
)
def test_the_origin_is_from_base_url_region_or_key(dialect, key, options, expected):
    """In this order: URL, region, key, the vendor's first region."""
    assert expected == dialect.origin(key, **options)


@pytest.mark.parametrize("dialect", [CUSTOMERIO, PERMISSIVE, HIGHTOUCH])
def test_the_origin_may_come_from_the_environment(dialect, monkeypatch):
    """It overrides the region, and `base_url` overrides it; each vendor has its own variable."""
    name = "MP_HIGHTOUCH_BASE_URL" if dialect is HIGHTOUCH else "MP_CUSTOMERIO_BASE_URL"
    monkeypatch.setenv(name, "http://127.0.0.1:1/x/")
    assert "http://127.0.0.1:1/x" == dialect.origin(CLASSIC, region="eu")
    assert "http://127.0.0.1:2" == dialect.origin(CLASSIC, base_url="http://127.0.0.1:2")
    other = CUSTOMERIO if dialect is HIGHTOUCH else HIGHTOUCH
    assert other.origin(CLASSIC) in other.hosts.values()
    monkeypatch.setenv(name, "http://far.example")
    with pytest.raises(ConfigurationError, match=f"{name}.*https"):
        dialect.origin(CLASSIC)
    monkeypatch.setenv(name, "")
    assert dialect.origin(CLASSIC) in dialect.hosts.values()


def test_an_unknown_region_or_unsafe_url_is_rejected():
    """At construction, with the known regions."""
    with pytest.raises(ConfigurationError, match="choose one of 'us', 'eu'"):
        CUSTOMERIO.origin(CLASSIC, region="eu-west-1")
    with pytest.raises(ConfigurationError, match="https"):
        CUSTOMERIO.origin(CLASSIC, base_url="http://cdp.customer.io")


def test_the_dialect_warns_about_a_key_of_another_region():
    """That host answers 200 and stores nothing; there is no warning for a custom host."""
    warning = CUSTOMERIO.region_warning(EUROPEAN, "https://cdp.customer.io")
    assert "region='eu'" in warning
    assert "abc" not in warning
    assert CUSTOMERIO.region_warning(EUROPEAN, "https://cdp-eu.customer.io") is None
    assert CUSTOMERIO.region_warning(EUROPEAN, "http://127.0.0.1:1") is None
    assert CUSTOMERIO.region_warning(CLASSIC, "https://cdp-eu.customer.io") is None


def test_a_write_key_is_trimmed_and_never_printed():
    """A mounted secret ends with a newline."""
    key = WriteKey(" sk_us_abc_1\n")
    assert "sk_us_abc_1" == key.reveal()
    assert "abc" not in repr(key)


@pytest.mark.parametrize("bad", ["", " \n", "a b", "a\nb", "schlüssel", None, 5])
def test_an_invalid_write_key_is_rejected(bad):
    """Before it could break a header, and without showing it."""
    with pytest.raises(ConfigurationError, match="write_key") as raised:
        WriteKey(bad)
    assert "schl" not in str(raised.value)


# ---- answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"meta":{"errors":["a","b"]}}', ["a", "b"]),
        (b'{"meta":{"error":"unauthorized"}}', ["unauthorized"]),
        (b'{"errors":[{"reason":"required","field":"userId","message":"is missing"}]}',
         ["userId: required: is missing"]),
        (b'{"code":"invalid_request","message":"no"}', ["invalid_request: no"]),
        (b'{"error":"invalid_client","error_description":"who?"}', ["invalid_client: who?"]),
        (b'{"error":{"nested":1}}', []),
        (b'"plain"', ["plain"]),
        (b"Bad Gateway\x00", ["Bad Gateway"]),
        (b"\xff", ["\ufffd"]),
        (b"", []),
        (b"{}", []),
        (b"[1]", []),
        (b"[" * 100_000, ["[" * 500]),
    ],
)  # fmt: skip
def test_every_error_format_is_parsed(body, expected):
    """Another library retried an unexpected format eleven times as a network error."""
    assert expected == error_reasons(body)


# ---- the seam -----------------------------------------------------------------------------------

SEGMENT = Dialect(
    name="Segment",
    hosts={"us": "https://api.segment.io", "eu": "https://events.eu1.segmentapis.com"},
    batch_path="/v1/batch",
    max_batch_bytes=500_000,
    envelope=HIGHTOUCH.envelope,
)
RUDDERSTACK = Dialect(
    name="RudderStack",
    hosts={"yours": "https://you.dataplane.example"},
    max_message_bytes=32 * 1024,
    max_batch_bytes=4_000_000,
    timestamp_fields=HIGHTOUCH.timestamp_fields,
)


@pytest.mark.parametrize("dialect", [CUSTOMERIO, HIGHTOUCH, SEGMENT, RUDDERSTACK])
def test_one_composer_serves_every_dialect(dialect):
    """Another vendor needs only constants and a few functions."""
    composer = SegmentComposer(dialect, now=lambda: 0.0, new_id=lambda: "ID", library={"name": "x"})
    messages = [composer.track("u", "Paid"), composer.alias("a", "u")]
    body = json.loads(dialect.batch_body(messages, AT))
    assert ["track", "alias"] == [each["type"] for each in body["batch"]]
    assert AT == body["sentAt"]
    assert dialect.origin(CLASSIC).startswith("https://")
    assert basic("abc") == dialect.headers(CLASSIC)["Authorization"].reveal()
    assert "/v1/track" == dialect.path("track")


def test_the_envelope_may_contain_the_write_key():
    """Hightouch requires it there with OAuth; Segment accepts it without a header."""
    body = json.loads(HIGHTOUCH.batch_body([], AT, 'k"1'))
    assert {"batch": [], "sentAt": AT, "writeKey": 'k"1'} == body
    assert {"batch": [], "sentAt": AT} == json.loads(b"".join(batch_envelope(AT)))


def test_each_dialect_is_short():
    """A dialect is constants and a few functions."""
    house = Path(mixpanel.cdp.__file__).parent
    for name in ("_customerio", "_hightouch"):
        assert len((house / name / "dialect.py").read_text().splitlines()) < 150
