"""Access tokens for Hightouch: obtained once, renewed in time, with bounded retries."""

import json
from functools import cache
from urllib.parse import parse_qs

import anyio
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from mixpanel import AuthenticationError, ConfigurationError, Limits
from mixpanel._http.request import Request
from mixpanel._http.responses import (
    Response,
    TransportFailure,
)
from mixpanel.cdp import AsyncHightouch, HightouchOAuth
from mixpanel.cdp._segment.oauth import AccessTokens
from mixpanel.cdp._segment.rate_limit import MARGIN, RateLimitedAuth, RateLimiter
from mixpanel.credentials import Secret
from mixpanel.emulator import Emulator, Fault, HightouchRules, OAuthRules
from mixpanel.exceptions import RateLimitError, ServerError, TransportError
from tests.cdp.run_clients import FAST_RETRY, RUNTIMES, messages, run_calls

pytestmark = pytest.mark.slow

TRACK = lambda c: c.track("u", "Visit")
TOKEN_PATH = "/hightouch/oauth/token"


@cache
def key_pair():
    """Return a private and a public key as PEM text; cached, because generating them is slow."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private.decode(), public.decode()


def oauth(server, key=None, **options):
    return HightouchOAuth("client", key or key_pair()[0], "key-1", server=server, **options)


@pytest.fixture(params=RUNTIMES)
def runtime(request):
    """Run a test on asyncio, on trio, and without a loop."""
    return request.param


@pytest.fixture
def emu():
    """Return an emulator that requires tokens and verifies the assertions."""
    rules = OAuthRules(clients=["client"], public_keys={"key-1": key_pair()[1]}, required=True)
    with Emulator(hightouch=HightouchRules(keys=["k"], oauth=rules)) as emulator:
        yield emulator


def token_requests(emu):
    return len(emu.requests(TOKEN_PATH))


# ---- with a server ------------------------------------------------------------------------------


@pytest.mark.parametrize("send_immediately", [False, True])
def test_one_token_serves_all_requests(emu, runtime, send_immediately):
    """It is sent in the header, and the write key in the body."""
    who = oauth(emu.hightouch_oauth_url)
    calls = [TRACK] * 5
    run_calls(
        runtime,
        emu,
        "hightouch",
        *calls,
        oauth=who,
        send_immediately=send_immediately,
        limits=Limits(max_batch_size=1),
    )
    assert (5, 1) == (len(messages(emu)), token_requests(emu))
    request = emu.requests(f"/hightouch/v1/{'track' if send_immediately else 'batch'}")[0]
    assert request.headers["authorization"].startswith("Bearer ")
    assert "k" == json.loads(request.body)["writeKey"]


def test_a_source_with_oauth_rejects_requests_without_a_token(emu, runtime):
    """So the other tests are meaningful."""
    with pytest.raises(AuthenticationError, match="access token is required"):
        run_calls(runtime, emu, "hightouch", TRACK, send_immediately=True)


@pytest.mark.parametrize("send_immediately", [False, True])
def test_a_revoked_token_is_renewed_and_the_request_repeated_once(emu, runtime, send_immediately):
    """The caller is not affected, and there is no retry delay."""
    who = oauth(emu.hightouch_oauth_url)

    def revoke(client):
        emu.revoke_tokens()
        return client.track("u", "Visit")

    if not send_immediately:
        emu.play(Fault.status(401), path="/hightouch/v1/batch")
    _, stats = run_calls(
        runtime,
        emu,
        "hightouch",
        TRACK,
        revoke,
        TRACK,
        oauth=who,
        send_immediately=send_immediately,
    )
    assert (3, 0, 2) == (stats.delivered, stats.retried, token_requests(emu))
    assert 3 == len(messages(emu))


def test_a_forbidden_key_is_permanent_after_one_renewal(emu, runtime):
    """Two 403 responses mean that the configuration is wrong."""
    who = oauth(emu.hightouch_oauth_url, scope="other")
    with pytest.raises(AuthenticationError, match="lacks the scope"):
        run_calls(runtime, emu, "hightouch", TRACK, oauth=who, send_immediately=True)
    assert (2, 2) == (token_requests(emu), len(emu.requests("/hightouch/v1/track")))


def test_an_unknown_oauth_client_is_not_retried(emu, runtime):
    """One request is made, the events stay pending, and `flush` returns."""
    errors = []
    who = HightouchOAuth("stranger", key_pair()[0], "key-1", server=emu.hightouch_oauth_url)
    result, _ = run_calls(
        runtime, emu, "hightouch", TRACK, oauth=who, on_error=lambda error, _: errors.append(error)
    )
    assert (1, 0, 401) == (result.pending, result.delivered, errors[0].status)
    assert "authorization server: HTTP 401: invalid_client" in str(errors[0])
    assert token_requests(emu) <= 3


@pytest.mark.parametrize(
    "fault",
    [
        Fault.status(500, body=b"oops"),
        Fault.status(200, body={}),
        Fault.status(200, body=b"not json"),
        Fault.status(200, body=[]),
        Fault.status(429, headers={"X-RateLimit-Reset": "1"}, retry_after=0),
        Fault.status(503, retry_after=0),
        Fault.reset("before"),
    ],
    ids=lambda fault: fault.name,
)
def test_a_failing_authorization_server_is_retried_with_backoff(emu, runtime, fault):
    """Each failure counts as a failed attempt of the batch."""
    emu.play(fault * 2, path=TOKEN_PATH)
    who = oauth(emu.hightouch_oauth_url)
    result, stats = run_calls(runtime, emu, "hightouch", TRACK, oauth=who, on_error=lambda *_: None)
    assert (1, 2, 3) == (result.delivered, stats.retried, token_requests(emu))


def test_events_expire_visibly_when_the_authorization_server_is_down(emu, runtime):
    """They expire as in any outage, and are counted as dropped."""
    emu.play(Fault.status(500, body={"no": "error"}).forever(), path=TOKEN_PATH)
    who = oauth(emu.hightouch_oauth_url)
    result, _ = run_calls(
        runtime, emu, "hightouch", TRACK, oauth=who, on_error=lambda *_: None,
        retry=type(FAST_RETRY)(first_wait=0.05, max_wait=0.05, max_age=0.3),
    )  # fmt: skip
    assert {"expired": 1} == result.dropped
    assert token_requests(emu) < 100


def test_a_wrong_local_clock_is_corrected_by_the_servers(runtime):
    """The first assertion is rejected as too early; the second uses the server's Date."""
    rules = OAuthRules(required=True)
    with Emulator(now=lambda: 1_000_000_000.0, hightouch=HightouchRules(oauth=rules)) as emu:
        who = oauth(emu.hightouch_oauth_url)
        result, stats = run_calls(runtime, emu, "hightouch", TRACK, oauth=who)
        assert (1, 0, 2) == (result.delivered, stats.retried, token_requests(emu))


def test_concurrent_requests_obtain_one_token(emu):
    """Requests wait while another one obtains the token."""
    emu.play(Fault.latency(0.1), path=TOKEN_PATH)

    async def main():
        limits = Limits(max_batch_size=1, concurrency=8)
        async with AsyncHightouch(
            "k", base_url=emu.hightouch_url, oauth=oauth(emu.hightouch_oauth_url), limits=limits,
            ordered=False,
        ) as client:  # fmt: skip
            for _ in range(16):
                await client.track("u", "Visit")
            assert (await client.flush()).ok
            assert 16 == client.stats().delivered

    anyio.run(main)
    assert 1 == token_requests(emu)


def test_the_private_key_can_be_rotated(emu, runtime, tmp_path):
    """A file or a function is read again for each token."""
    path = tmp_path / "key.pem"
    path.write_text(key_pair()[0])
    for source in (path, path.read_text, key_pair()[0].replace("\n", "\\n")):
        run_calls(
            runtime, emu, "hightouch", TRACK, send_immediately=True,
            oauth=oauth(emu.hightouch_oauth_url, source),
        )  # fmt: skip
    assert 3 == len(messages(emu))


def test_a_private_key_that_becomes_invalid_stops_only_its_messages(emu, runtime):
    """It is a delivery error that does not contain the key."""
    who = oauth(emu.hightouch_oauth_url, lambda: "hunter2")
    with pytest.raises(AuthenticationError, match="private_key cannot sign") as caught:
        run_calls(runtime, emu, "hightouch", TRACK, oauth=who, send_immediately=True)
    assert "hunter2" not in f"{caught.value} {who!r}"


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"client_id": ""}, "client_id is missing"),
        ({"key_id": " "}, "key_id is missing"),
        ({"private_key": "no key"}, "private_key cannot sign"),
        ({"server": "http://auth.example"}, "https"),
    ],
)
def test_invalid_oauth_settings_are_rejected(given, what):
    """At construction."""
    settings = {"client_id": "c", "private_key": key_pair()[0], "key_id": "k", **given}
    with pytest.raises(ConfigurationError, match=what):
        HightouchOAuth(**settings)


# ---- without one --------------------------------------------------------------------------------


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def tokens(clock=None, now=lambda: 5e8):
    return AccessTokens(oauth("https://auth.example"), now=now, clock=clock or Clock())


def granted(token, **more):
    return Response(200, {}, json.dumps({"access_token": token, **more}).encode())


def drive(steps, *replies):
    """Respond with these replies; return the requests and the result of the flow."""
    replies, requests, reply = list(replies), [], None
    while True:
        try:
            step = steps.send(reply)
        except StopIteration as end:
            assert not replies
            return requests, end.value
        requests.append(step)
        reply = replies.pop(0)


def test_the_assertion_has_the_claims_that_the_server_requires():
    """Form-encoded with the scope; valid from five seconds ago for fifty-five seconds."""
    (request,), failure = drive(tokens().ensure_token(), granted("t"))
    form = parse_qs(request.content.decode())
    assert (None, ["client_credentials"], ["tracking_api:write"]) == (
        failure, form["grant_type"], form["scope"],
    )  # fmt: skip
    assert b"scope=tracking_api%3Awrite" in request.content
    import jwt

    (assertion,) = form["client_assertion"]
    claims = jwt.decode(assertion, options={"verify_signature": False})
    assert "key-1" == jwt.get_unverified_header(assertion)["kid"]
    assert ("client", "client", "https://auth.example", 499_999_995, 500_000_055) == (
        claims["iss"], claims["sub"], claims["aud"], claims["iat"], claims["exp"],
    )  # fmt: skip
    assert "https://auth.example/token" == request.url


def test_a_token_is_renewed_after_half_of_its_lifetime():
    """It is reused until then."""
    clock = Clock()
    source = tokens(clock)
    drive(source.ensure_token(), granted("one", expires_in=100))
    clock.now += 49
    assert ([], None) == drive(source.ensure_token())
    clock.now += 2
    drive(source.ensure_token(), granted("two", expires_in=100))
    assert Secret("two") == source.token


@pytest.mark.parametrize("lifetime", [None, "soon", -1, True, 0])
def test_a_token_with_an_invalid_lifetime_is_renewed_after_a_minute(lifetime):
    """The server may omit the lifetime."""
    clock = Clock()
    source = tokens(clock)
    drive(source.ensure_token(), granted("one", expires_in=lifetime))
    clock.now += 59
    assert ([], None) == drive(source.ensure_token())
    clock.now += 2
    drive(source.ensure_token(), granted("two"))
    assert Secret("two") == source.token


def test_a_failed_renewal_is_ignored_while_the_token_is_valid():
    """The renewal is tried again some seconds later."""
    clock = Clock()
    source = tokens(clock)
    drive(source.ensure_token(), granted("one", expires_in=100))
    clock.now += 60
    _, failure = drive(source.ensure_token(), Response(500, {}, b""))
    assert (None, Secret("one")) == (failure, source.token)
    assert ([], None) == drive(source.ensure_token())
    clock.now += 45
    _, failure = drive(source.ensure_token(), Response(500, {}, b""))
    assert isinstance(failure.error, ServerError)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-ratelimit-reset": "500000007000"}, 7.0),
        ({"x-ratelimit-reset": "500000007"}, 5.0),
        ({"x-ratelimit-reset": "soon"}, 5.0),
        ({}, 5.0),
        ({"retry-after": "3"}, 3.0),
    ],
)
def test_rate_limits_of_the_authorization_server(headers, seconds):
    """They are milliseconds since 1970; seconds must not result in a negative wait."""
    _, failure = drive(tokens().ensure_token(), Response(429, headers, b""))
    assert isinstance(failure.error, RateLimitError)
    assert seconds == failure.error.retry_after
    assert not failure.permanent


def test_clock_skew_is_corrected_once():
    """Not repeatedly, whatever the server responds."""
    early = Response(400, {}, b'{"error":"invalid_request","error_description":"Token is expired"}')
    requests, failure = drive(tokens().ensure_token(), early, early)
    assert (2, True) == (len(requests), failure.permanent)


def test_requests_waiting_for_a_token_share_the_failure():
    """They do not each send a request."""
    clock = Clock()
    source = tokens(clock)
    first, second = source.ensure_token(), source.ensure_token()
    assert isinstance(next(first), Request)
    assert isinstance(next(second), float)
    clock.now += 1
    with pytest.raises(StopIteration) as ended:
        first.send(TransportFailure(TransportError("gone"), may_have_been_sent=False))
    with pytest.raises(StopIteration) as shared:
        next(second)
    assert ended.value.value is shared.value.value


def test_an_abandoned_token_request_does_not_block_the_others():
    """A cancelled request releases its claim; an abandoned claim expires."""
    clock = Clock()
    source = tokens(clock)
    first = source.ensure_token()
    next(first)
    first.close()
    assert isinstance(next(source.ensure_token()), Request)
    lost = source.ensure_token()
    next(lost)
    waiting = source.ensure_token()
    assert isinstance(next(waiting), float)
    clock.now += 31
    assert isinstance(next(waiting), Request)


def test_without_a_token_source_every_response_passes():
    """A 401 cannot be fixed by a token then."""
    reply = Response(401, {}, b"")
    assert ([None], reply) == drive(RateLimitedAuth(None, None).run(), reply)


def test_the_rate_limit_holds_in_every_window():
    """Three in two seconds, both ends included; earlier requests wait for their slot."""
    clock = Clock()
    rate_limiter = RateLimiter(3, 2.0, clock=clock)
    next_one = 2 + MARGIN
    waits = [rate_limiter.reserve() for _ in range(7)]
    assert [0, 0, 0, next_one, next_one, next_one, 2 * next_one] == pytest.approx(waits)
    assert all(later - earlier > 2.0 for earlier, later in zip(waits, waits[3:], strict=False))
    clock.now += 100
    assert [0, 0, 0, next_one] == pytest.approx([rate_limiter.reserve() for _ in range(4)])
