"""Verification and parsing of webhooks."""

import hashlib
import hmac
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixpanel import ConfigurationError, MixpanelException
from mixpanel.cdp import webhooks
from mixpanel.cdp.webhooks import (
    METRICS,
    DeliveryEvent,
    PayloadError,
    PersonEvent,
    SignatureError,
    StaleError,
    WebhookError,
    WebhookEvent,
)
from mixpanel.credentials import Secret

KEY = "signing-key"
NOW = 1_764_000_000
PAYLOAD = {
    "event_id": "01E",
    "object_type": "email",
    "metric": "clicked",
    "timestamp": NOW - 9,
    "data": {
        "customer_id": 17,
        "identifiers": {"id": "17", "email": "x@y.example", "cio_id": None},
        "delivery_id": "d-1",
        "recipient": "x@y.example",
        "campaign_id": 23,
        "href": "https://y.example",
        "brand_new": {"a": 1},
    },
}
BODY = json.dumps(PAYLOAD).encode()


def signed(body=BODY, key=KEY, timestamp=NOW):
    """Sign as the vendor documents it: HMAC-SHA256 of `v0:<timestamp>:<body>`, in hex."""
    digest = hmac.new(key.encode(), f"v0:{timestamp}:".encode() + body, hashlib.sha256)
    return {"X-CIO-Timestamp": str(timestamp), "X-CIO-Signature": digest.hexdigest()}


def renamed(headers, change):
    return {change(name): value for name, value in headers.items()}


@pytest.mark.parametrize(
    "headers",
    [
        signed(),
        renamed(signed(), str.lower),
        renamed(signed(), str.title),
        list(signed().items()),
        [(name.lower().encode(), value.encode()) for name, value in signed().items()],
        {**signed(), "X-CIO-Signature": "v0=" + signed()["X-CIO-Signature"]},
        {**signed(), "X-CIO-Signature": signed()["X-CIO-Signature"].upper()},
        webhooks.sign(BODY, KEY, NOW),
    ],
)
def test_a_valid_signature_is_accepted_with_any_form_of_headers(headers):
    """Any case, mapping or pairs, text or bytes, with and without the prefix."""
    event = webhooks.receive(BODY, headers, KEY, now=NOW)
    assert "email_clicked" == event.name


@pytest.mark.parametrize("key", [KEY, Secret(KEY), f"{KEY}\n", ["new", KEY], (KEY, Secret("old"))])
def test_a_key_may_be_one_of_several(key):
    """During a key rotation."""
    webhooks.verify(BODY, signed(), key, now=NOW)


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({}, "no header x-cio-timestamp"),
        ({"X-CIO-Timestamp": str(NOW)}, "no header x-cio-signature"),
        (signed(key="another"), "does not match"),
        (signed(BODY + b" "), "does not match"),
        ({**signed(), "X-CIO-Timestamp": str(NOW + 1)}, "does not match"),
        ({**signed(), "X-CIO-Signature": ""}, "does not match"),
        ({**signed(), "X-CIO-Signature": "ü" * 64}, "does not match"),
        ({**signed(), "X-CIO-Timestamp": "now\udcff"}, "does not match"),
        ({**signed(), "X-CIO-Signature": "\udcff"}, "does not match"),
        (signed(timestamp="soon"), "not a number of seconds"),
        (signed(timestamp="9" * 30), "not a number of seconds"),
        (signed(timestamp="-5"), "not a number of seconds"),
        ({**signed(), "X-CIO-Timestamp": [str(NOW)]}, "x-cio-timestamp must be text, not list"),
        ({**signed(), "X-CIO-Timestamp": NOW}, "x-cio-timestamp must be text, not int"),
        ({**signed(), "X-CIO-Signature": None}, "x-cio-signature must be text, not NoneType"),
        ({**signed(), "X-CIO-Signature": [b"a"]}, "x-cio-signature must be text, not list"),
        ({1: "x", None: "y"}, "no header x-cio-timestamp"),
        ([("X-CIO-Timestamp",)], "pairs of a name and a value"),
        (["X-CIO-Timestamp"], "pairs of a name and a value"),
        ([3], "pairs of a name and a value"),
        (None, "pairs of a name and a value"),
    ],
)
def test_an_invalid_signature_is_rejected(headers, words):
    """With a typed error that contains neither the key nor the valid signature."""
    with pytest.raises(SignatureError, match=words) as raised:
        webhooks.receive(BODY, headers, KEY, now=NOW)
    assert KEY not in str(raised.value)
    assert signed()["X-CIO-Signature"] not in str(raised.value)


@pytest.mark.parametrize(
    ("away", "fresh"), [(300, True), (-300, True), (301, False), (-301, False)]
)
def test_a_signature_outside_of_the_tolerance_is_rejected(away, fresh):
    """Five minutes in both directions, against replayed requests."""
    if fresh:
        webhooks.verify(BODY, signed(timestamp=NOW + away), KEY, now=NOW)
        return
    with pytest.raises(StaleError, match=r"301 s (after|before) the local time"):
        webhooks.verify(BODY, signed(timestamp=NOW + away), KEY, now=NOW)
    webhooks.verify(BODY, signed(timestamp=NOW + away), KEY, now=NOW, tolerance=301)


def test_an_old_request_with_an_invalid_signature_is_reported_as_invalid():
    """Age is reported only for a valid signature."""
    with pytest.raises(SignatureError) as raised:
        webhooks.verify(BODY, signed(key="another", timestamp=1), KEY, now=NOW)
    assert SignatureError is type(raised.value)


@pytest.mark.parametrize("key", ["", " ", [], ["", KEY], KEY.encode(), [KEY.encode()], [None]])
def test_an_invalid_signing_key_is_a_configuration_error(key):
    """With an empty key anyone could sign."""
    with pytest.raises(ConfigurationError, match="the signing key"):
        webhooks.verify(BODY, signed(key=""), key, now=NOW)


def test_a_text_body_is_a_type_error():
    """Text that a framework decoded may differ from the signed bytes."""
    with pytest.raises(TypeError, match="raw bytes"):
        webhooks.verify(BODY.decode(), signed(), KEY, now=NOW)


@pytest.mark.slow
@given(st.binary(max_size=40), st.binary(max_size=40))
def test_only_the_signed_body_passes(body, other):
    """Byte for byte."""
    headers = webhooks.sign(body, KEY, NOW)
    webhooks.verify(body, headers, KEY, now=NOW)
    if other != body:
        with pytest.raises(SignatureError):
            webhooks.verify(other, headers, KEY, now=NOW)


# ---- events -------------------------------------------------------------------------------------


def test_a_delivery_event_has_properties_for_its_fields():
    """Other fields are kept in `data`; the repr contains no personal data."""
    event = webhooks.parse(BODY)
    assert isinstance(event, DeliveryEvent)
    assert ("01E", "email_clicked", True) == (event.event_id, event.name, event.known)
    assert datetime.fromtimestamp(NOW - 9, UTC) == event.timestamp
    assert ("17", "d-1", "23", "https://y.example") == (
        event.customer_id, event.delivery_id, event.campaign_id, event.href,
    )  # fmt: skip
    assert {"id": "17", "email": "x@y.example"} == event.identifiers
    assert [None] * 6 == [
        event.broadcast_id, event.newsletter_id, event.transactional_message_id, event.action_id,
        event.subject, event.failure_message,
    ]  # fmt: skip
    assert {"a": 1} == event.data["brand_new"]
    assert PAYLOAD == event.payload
    assert "x@y" not in repr(event)


def test_a_person_event_has_its_own_type():
    """It has no delivery fields."""
    data = {"identifiers": {"id": "u", "email": "x@y.example"}}
    body = json.dumps({**PAYLOAD, "object_type": "customer", "metric": "subscribed", "data": data})
    event = webhooks.parse(body.encode())
    assert isinstance(event, PersonEvent)
    assert ("u", "x@y.example") == (event.customer_id, event.email_address)


def test_the_54_documented_events_are_known():
    """13 of email, 3 of people, 8 SMS, 11 push, 7 in-app, 6 Slack, 6 webhooks."""
    assert [13, 3, 8, 11, 7, 6, 6] == [len(metrics) for metrics in METRICS.values()]
    for object_type, metrics in METRICS.items():
        for metric in metrics:
            body = json.dumps({**PAYLOAD, "object_type": object_type, "metric": metric})
            event = webhooks.parse(body.encode())
            assert event.known
            assert f"{object_type}_{metric}" == event.name
            assert WebhookEvent is not type(event)


@pytest.mark.parametrize(
    "change", [{"object_type": "whatsapp"}, {"metric": "read"}, {"object_type": None}, {"data": 5}]
)
def test_unknown_events_are_parsed(change):
    """A 4xx would pause later events for an hour."""
    event = webhooks.parse(json.dumps({**PAYLOAD, **change}).encode())
    assert event.known == ("data" in change)
    assert "01E" == event.event_id


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "JSON list"),
        (b"{}", "lacks event_id, metric, timestamp"),
        (json.dumps({**PAYLOAD, "metric": ""}).encode(), "lacks metric"),
        (json.dumps({**PAYLOAD, "timestamp": "soon"}).encode(), "not a number of seconds"),
        (json.dumps({**PAYLOAD, "timestamp": 1e300}).encode(), "not a number of seconds"),
        (json.dumps({**PAYLOAD, "timestamp": float("nan")}).encode(), "not a number of seconds"),
    ],
)
def test_a_malformed_event_is_rejected(body, words):
    """With a typed error of the package."""
    with pytest.raises(PayloadError, match=words) as raised:
        webhooks.parse(body)
    assert isinstance(raised.value, WebhookError)
    assert isinstance(raised.value, MixpanelException)
