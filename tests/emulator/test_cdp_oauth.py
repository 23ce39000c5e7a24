"""Hightouch's authorization server in the emulator: tokens and what they allow."""

import base64
import json
import sys
import uuid
from email.utils import parsedate_to_datetime

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mixpanel.emulator import Emulator, Fault, HightouchRules, OAuthRules

NOW = 1_795_000_000
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
TRACK = {"userId": "u1", "event": "Order Paid", "messageId": "m1", "writeKey": "KEY"}
KEY = generate_private_key(65537, 2048)
OTHER_KEY = generate_private_key(65537, 2048)


def pem(key):
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


class Clock:
    """A clock that a test moves."""

    now = NOW

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    """Start at a fixed moment."""
    return Clock()


@pytest.fixture
def emu(clock):
    """An emulator that knows one client and its public key."""
    oauth = OAuthRules(clients="client", public_keys={"kid": pem(KEY)}, expires_in=600)
    with Emulator(now=clock, hightouch=HightouchRules(keys="KEY", oauth=oauth)) as emulator:
        yield emulator


def based(data):
    data = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def assertion(emu, *, key=KEY, head=None, now=NOW, **claims):
    """Return a client assertion; a claim of None is omitted."""
    body = {
        "iss": "client",
        "sub": "client",
        "aud": emu.hightouch_oauth_url,
        "iat": now - 5,
        "exp": now + 55,
        "jti": str(uuid.uuid4()),
        **claims,
    }
    body = {name: value for name, value in body.items() if value is not None}
    head = {"alg": "RS256", "kid": "kid", "typ": "JWT", **(head or {})}
    signed = based(head) + b"." + based(body)
    return (signed + b"." + based(key.sign(signed, PKCS1v15(), SHA256()))).decode()


def ask(emu, signed=None, **form):
    """Request a token."""
    body = {
        "grant_type": "client_credentials",
        "client_assertion_type": ASSERTION,
        "client_assertion": assertion(emu) if signed is None else signed,
        "scope": "tracking_api:write",
        **form,
    }
    return httpx.post(f"{emu.hightouch_oauth_url}/token", data=body)


def track(emu, token):
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.post(f"{emu.hightouch_url}/v1/track", json=TRACK, headers=headers)


def token(emu, **form):
    return ask(emu, **form).json()["access_token"]


# Getting a token


def test_a_signed_assertion_gets_a_token(emu):
    """For the requested scope and the configured time, on the emulator's clock."""
    response = ask(emu)
    body = response.json()
    opaque = body.pop("access_token")
    assert {"token_type": "Bearer", "scope": "tracking_api:write", "expires_in": 600} == body
    assert NOW == parsedate_to_datetime(response.headers["date"]).timestamp()
    assert 200 == track(emu, opaque).status_code
    assert ["KEY"] == [each["key"] for each in emu.cdp_messages()]


def test_a_scope_needs_no_url_encoding(emu):
    """Existing libraries do not encode it."""
    form = (
        f"grant_type=client_credentials&client_assertion_type={ASSERTION}&scope=tracking_api:write"
    )
    headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
    body = f"{form}&client_assertion={assertion(emu)}"
    url = f"{emu.hightouch_oauth_url}/token"
    assert 200 == httpx.post(url, content=body, headers=headers).status_code


def unsigned(emu):
    return assertion(emu).rpartition(".")[0] + "."


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signed", "status", "error", "words"),
    [
        (lambda emu: assertion(emu, key=OTHER_KEY), 401, "invalid_client", "signature"),
        (lambda emu: assertion(emu, head={"kid": "x"}), 401, "invalid_client", "signature"),
        (lambda emu: assertion(emu, head={"kid": ["x"]}), 401, "invalid_client", "signature"),
        (unsigned, 401, "invalid_client", "signature"),
        (lambda emu: assertion(emu, sub="x"), 401, "invalid_client", "iss and sub"),
        (lambda emu: assertion(emu, iss="x", sub="x"), 401, "invalid_client", "iss and sub"),
        (lambda emu: assertion(emu, iss=None, sub=None), 401, "invalid_client", "iss and sub"),
        (lambda emu: assertion(emu, aud=emu.hightouch_oauth_url + "/token"), 401,
         "invalid_client", "aud must be"),
        (lambda emu: assertion(emu, head={"alg": "none"}), 400, "invalid_request", "RS256"),
        (lambda emu: assertion(emu, jti=None), 400, "invalid_request", "jti"),
        (lambda emu: assertion(emu, iat=None), 400, "invalid_request", "iat"),
        (lambda emu: assertion(emu, exp="soon"), 400, "invalid_request", "exp"),
        (lambda emu: assertion(emu, now=NOW + 6), 400, "invalid_request",
         "Token used before issued"),
        (lambda emu: assertion(emu, now=NOW - 55), 400, "invalid_request", "Token is expired"),
        (lambda emu: "no.jwt", 400, "invalid_request", "not a JWT"),
        (lambda emu: "a.b.c", 400, "invalid_request", "not a JWT"),
        (lambda emu: "é", 400, "invalid_request", "not a JWT"),
        (lambda emu: "", 400, "invalid_request", "not a JWT"),
    ],
)  # fmt: skip
def test_an_invalid_assertion_gets_no_token(emu, signed, status, error, words):
    """With an OAuth error, and the Date that corrects a client's clock."""
    response = ask(emu, signed(emu))
    body = response.json()
    assert (status, error) == (response.status_code, body["error"])
    assert words in body["error_description"]
    assert "date" in response.headers


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"client_assertion_type": ""}, "invalid_request"),
        ({"scope": " "}, "invalid_scope"),
    ],
)
def test_an_invalid_form_gets_no_token(emu, form, error):
    """Each field is validated."""
    response = ask(emu, **form)
    assert (400, error) == (response.status_code, response.json()["error"])


def test_a_token_request_is_a_form(emu):
    """JSON is 415."""
    response = httpx.post(f"{emu.hightouch_oauth_url}/token", json={})
    assert (415, "invalid_request") == (response.status_code, response.json()["error"])


def test_an_assertion_can_be_used_once(emu):
    """Its jti is remembered until the emulator is cleared."""
    signed = assertion(emu)
    assert [200, 400] == [ask(emu, signed).status_code for _ in range(2)]
    emu.clear()
    assert 200 == ask(emu, signed).status_code


def test_without_rules_any_client_and_signature_is_accepted():
    """But it must be an assertion for this server."""
    with Emulator(now=lambda: NOW) as emu:
        signed = assertion(emu, key=OTHER_KEY, iss="me", sub="me", head={"kid": "any"})
        assert 200 == ask(emu, signed).status_code
        assert 400 == ask(emu, "x.y.z").status_code


def test_a_token_may_have_no_lifetime(clock):
    """Then it does not expire."""
    oauth = OAuthRules(expires_in=None)
    with Emulator(now=clock, hightouch=HightouchRules(oauth=oauth)) as emu:
        body = ask(emu).json()
        assert "expires_in" not in body
        clock.now += 10**8
        assert 200 == track(emu, body["access_token"]).status_code


# Using it


def test_a_token_expires_on_the_emulators_clock(emu, clock):
    """At `expires_in`, not before."""
    opaque = token(emu)
    clock.now += 599
    assert 200 == track(emu, opaque).status_code
    clock.now += 1
    response = track(emu, opaque)
    body = {"code": "unauthorized", "message": "access token has expired"}
    assert (401, body) == (response.status_code, response.json())


def test_a_revoked_token_is_401_and_a_new_one_is_accepted(emu):
    """As after a rotation of keys."""
    opaque = token(emu)
    emu.revoke_tokens()
    assert [401, 200] == [track(emu, each).status_code for each in (opaque, token(emu))]


def test_a_token_without_the_scope_is_403(emu):
    """It is issued nevertheless."""
    response = track(emu, token(emu, scope="public_api:read"))
    assert (403, "forbidden") == (response.status_code, response.json()["code"])


def test_a_token_needs_the_write_key_in_the_body(emu):
    """The header has the token instead."""
    headers = {"Authorization": f"Bearer {token(emu)}"}
    body = {**TRACK, "writeKey": "WRONG"}
    url = f"{emu.hightouch_url}/v1/track"
    assert 401 == httpx.post(url, json=body, headers=headers).status_code


def test_a_token_can_be_required():
    """Then the write key alone is 401."""
    rules = HightouchRules(oauth=OAuthRules(required=True))
    with Emulator(now=lambda: NOW, hightouch=rules) as emu:
        url = f"{emu.hightouch_url}/v1/track"
        assert 401 == httpx.post(url, json=TRACK, auth=("KEY", "")).status_code
        assert 200 == track(emu, token(emu)).status_code


# Faults


@pytest.mark.slow
@pytest.mark.parametrize("status", [400, 401, 415, 429, 500])
def test_the_authorization_server_can_fail(emu, status):
    """With OAuth errors, or any other; events are still accepted."""
    path = "/hightouch/oauth/token"
    reset = str((NOW + 5) * 1000)
    emu.play(Fault.status(status, headers={"X-RateLimit-Reset": reset}), path=path)
    response = ask(emu)
    assert (status, "invalid_request") == (response.status_code, response.json()["error"])
    assert reset == response.headers["x-ratelimit-reset"]
    opaque = token(emu)
    assert (200, 2) == (track(emu, opaque).status_code, len(emu.requests(path)))


# Keys


@pytest.mark.parametrize(
    "text", ["no key", pem(ec.generate_private_key(ec.SECP256R1()))], ids=["text", "elliptic"]
)
def test_a_public_key_must_be_one_for_rs256(text):
    """The error is raised when the rules are created."""
    with pytest.raises(ValueError):
        OAuthRules(public_keys={"kid": text})


def test_verifying_signatures_needs_cryptography(monkeypatch):
    """The error has the command that installs it."""
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(ImportError, match="pip install cryptography"):
        OAuthRules(public_keys={"kid": pem(KEY)})
