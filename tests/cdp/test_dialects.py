"""The dialects of the vendors, and of others."""

import asyncio
import base64
import json
from pathlib import Path

import pytest

import mixpanel.cdp
from mixpanel import ConfigurationError, ValidationError
from mixpanel.cdp import (
    CUSTOMERIO,
    HIGHTOUCH,
    RUDDERSTACK,
    SEGMENT,
    AsyncRudderStack,
    AsyncSegment,
    AsyncSegmentClient,
    Dialect,
    RudderStack,
    Segment,
    SegmentClient,
    SegmentComposer,
    SegmentOAuth,
    WriteKey,
    semantic,
)
from mixpanel.cdp._customerio.dialect import PERMISSIVE
from mixpanel.cdp._segment.dialect import batch_envelope, error_reasons
from mixpanel.credentials import Secret
from tests.cdp.test_oauth import key_pair

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


@pytest.mark.parametrize("dialect", [CUSTOMERIO, HIGHTOUCH, SEGMENT, RUDDERSTACK])
def test_one_composer_serves_every_dialect(dialect):
    """Another vendor needs only constants and a few functions."""
    composer = SegmentComposer(dialect, now=lambda: 0.0, new_id=lambda: "ID", library={"name": "x"})
    messages = [composer.track("u", "Paid"), composer.alias("a", "u")]
    body = json.loads(dialect.batch_body(messages, AT))
    assert ["track", "alias"] == [each["type"] for each in body["batch"]]
    assert AT == body["sentAt"]
    if dialect.hosts:
        assert dialect.origin(CLASSIC).startswith("https://")
    assert basic("abc") == dialect.headers(CLASSIC)["Authorization"].reveal()
    assert "/v1/track" == dialect.path("track")


def test_the_envelope_may_contain_the_write_key():
    """Hightouch requires it there with OAuth; Segment accepts it without a header."""
    body = json.loads(HIGHTOUCH.batch_body([], AT, 'k"1'))
    assert {"batch": [], "sentAt": AT, "writeKey": 'k"1'} == body
    assert {"batch": [], "sentAt": AT} == json.loads(b"".join(batch_envelope(AT)))


def batch_last(sent_at, write_key):
    """Return an envelope whose messages come last."""
    key = "" if write_key is None else f'"writeKey":"{write_key}",'
    return f'{{{key}"sentAt":"{sent_at}","tags":[],"messages":['.encode(), b"]}"


def bare(_sent_at, _write_key):
    """Return an envelope with nothing but the messages."""
    return b'{"batch":[', b"]}"


@pytest.mark.parametrize(
    ("envelope", "expected"),
    [
        (batch_envelope, {"sentAt": AT}),
        (batch_last, {"sentAt": AT, "tags": []}),
        (bare, {}),
    ],
)
def test_an_envelope_may_have_its_messages_anywhere(envelope, expected):
    """Batches and single messages are valid JSON, with the fields of the envelope."""
    dialect = Dialect("Any", {"us": "https://any.example"}, envelope=envelope)
    composer = SegmentComposer(dialect, now=lambda: 0.0, new_id=lambda: "ID", library={"name": "x"})
    message = composer.track("u", "Paid")
    batch = json.loads(dialect.batch_body([message, message], AT))
    [messages] = [value for value in batch.values() if isinstance(value, list) and value]
    assert [message.decoded()] * 2 == messages
    single = json.loads(dialect.single_body(message, AT))
    assert expected | {k: v for k, v in message.decoded().items() if k != "type"} == single


@pytest.mark.parametrize(
    "envelope",
    [
        lambda _at, _key: (b"[", b"]"),
        lambda _at, _key: (b'{"batch":', b"}"),
        lambda _at, _key: (b'{"batch":[', b"]"),
        lambda _at, _key: ('{"batch":[', "]}"),
        lambda _at, _key: b'{"batch":[]}',
    ],
)
def test_an_envelope_that_is_not_json_is_rejected(envelope):
    """When the dialect is made, not when the first batch is refused."""
    with pytest.raises(ConfigurationError, match=r'envelope of Any .*"batch":'):
        Dialect("Any", {"us": "https://any.example"}, envelope=envelope)


def test_a_dialect_without_hosts_needs_the_url_of_the_customer(monkeypatch):
    """The error says how to give it."""
    monkeypatch.delenv("MP_RUDDERSTACK_BASE_URL", raising=False)
    with pytest.raises(ConfigurationError, match="pass base_url= or set MP_RUDDERSTACK_BASE_URL"):
        RudderStack("k")
    assert "https://you.example" == RUDDERSTACK.origin(CLASSIC, base_url="https://you.example")
    with pytest.raises(ConfigurationError, match="RudderStack has no host"):
        RUDDERSTACK.origin(CLASSIC, region="us")
    with pytest.raises(ConfigurationError, match=r"pass base_url=$"):
        Dialect("Any", {}).origin(CLASSIC)
    with pytest.raises(ConfigurationError, match=r"hosts.*https"):
        Dialect("Any", {"us": "http://any.example"})
    monkeypatch.setenv("MP_RUDDERSTACK_BASE_URL", "https://mine.example")
    assert "https://mine.example" == RUDDERSTACK.origin(CLASSIC)


def test_a_dialect_may_change_every_message():
    """RudderStack reads the traits of a person in the context, and a channel."""
    dialect = RUDDERSTACK
    composer = SegmentComposer(dialect, now=lambda: 0.0, new_id=lambda: "ID", library={"name": "x"})
    traits = {"plan": {"name": "team"}}
    identified = composer.identify("u", traits, {"ip": "::1"}).decoded()
    assert {"library": {"name": "x"}, "ip": "::1", "traits": traits} == identified["context"]
    assert "traits" not in identified
    assert {"plan": {"name": "team"}} == traits
    message = composer.group("u", "g", {"size": 3})
    grouped = message.decoded()
    assert ("server", {"size": 3}) == (grouped["channel"], grouped["traits"])
    assert grouped["timestamp"] == grouped["originalTimestamp"]
    again = composer.from_dict(identified)
    assert identified == again.decoded()
    assert "traits" not in composer.track("u", "Paid").decoded()["context"]
    single = json.loads(dialect.single_body(message, AT))
    assert ("g", AT) == (single["groupId"], single["sentAt"])
    assert "type" not in single


@pytest.mark.parametrize(
    ("asynchronous", "synchronous", "dialect"),
    [(AsyncSegment, Segment, SEGMENT), (AsyncRudderStack, RudderStack, RUDDERSTACK)],
)
def test_segment_and_rudderstack_have_clients(emu, asynchronous, synchronous, dialect):
    """With everything that the other vendors' clients have."""
    vendor = dialect.name.lower()
    url = getattr(emu, f"{vendor}_url")
    with synchronous("k", base_url=url) as client:
        client.track("u", "Paid", {"amount": 1})
        client.identify(anonymous_id="a")
        assert client.flush().ok
        with pytest.raises(ValidationError, match=f"action of Customer.io; {dialect.name}"):
            client.track("u", semantic.UserDeleted())

    async def main():
        async with asynchronous("k", base_url=url, send_immediately=True) as client:
            await client.track("u", "Paid")

    asyncio.run(main())
    assert ["batch", "batch", "track"] == [each["endpoint"] for each in emu.cdp_messages(vendor)]
    assert [] == emu.cdp_messages("hightouch")
    assert issubclass(asynchronous, AsyncSegmentClient)
    assert issubclass(synchronous, SegmentClient)


@pytest.mark.slow
def test_any_dialect_has_oauth_by_public_names(emu):
    """With an access token in the header the write key is in the body."""
    oauth = SegmentOAuth("client", key_pair()[0], "key-1", server=emu.hightouch_oauth_url)
    with SegmentClient(
        WriteKey("k"), SEGMENT, oauth=oauth, base_url=emu.hightouch_url, region="eu"
    ) as client:
        client.track("u", "Paid")
        assert client.flush().ok
    [request] = emu.requests("/hightouch/v1/batch")
    assert request.headers["authorization"].startswith("Bearer ")
    assert "k" == json.loads(request.body)["writeKey"]
    with pytest.raises(ConfigurationError, match="oauth must be an OAuth, not str"):
        SegmentClient(WriteKey("k"), SEGMENT, oauth="token")


def test_each_dialect_is_short():
    """A dialect is constants and a few functions."""
    house = Path(mixpanel.cdp.__file__).parent
    for name in (
        "_customerio/dialect.py", "_hightouch/dialect.py", "segment.py", "rudderstack.py",
    ):  # fmt: skip
        assert len((house / name).read_text().splitlines()) < 100
