"""The emulator's authorization server: registration, consent, PKCE, tokens, revocation."""

import base64
import hashlib
import html
import re
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from mixpanel.emulator import Emulator

VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=")
REDIRECT = "http://localhost:50123/callback"
EXPORT = "/api/2.0/export"


class Clock:
    """The emulator's clock, which a test advances."""

    def __init__(self):
        self.now = 1_767_225_600.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def emu(clock):
    with Emulator(now=clock, service_accounts={"robot": "s3cret"}, login_lifetime=100) as emulator:
        yield emulator


@pytest.fixture
def http(emu):
    with httpx.Client(base_url=emu.url, trust_env=False) as client:
        yield client


@pytest.fixture
def client_id(http):
    made = http.post("/oauth/mcp/register/", json={"redirect_uris": [REDIRECT]})
    assert (201, [REDIRECT]) == (made.status_code, made.json()["redirect_uris"])
    return made.json()["client_id"]


def question(client_id, /, **changes):
    fields = {
        "response_type": "code", "client_id": client_id, "redirect_uri": REDIRECT,
        "state": "s & s", "code_challenge": CHALLENGE.decode(), "code_challenge_method": "S256",
    }  # fmt: skip
    return {**fields, **changes}


def decide(http, client_id, decision="allow"):
    """Press a button of the page, and return the parameters of the redirect."""
    page = http.get("/oauth/authorize/", params=question(client_id))
    inputs = re.findall(r'name="(\w+)" value="([^"]*)">', page.text)
    fields = {name: html.unescape(value) for name, value in inputs}
    headers = {"origin": str(http.base_url).rstrip("/"), "sec-fetch-site": "same-origin"}
    done = http.post("/oauth/authorize/", data={**fields, "decision": decision}, headers=headers)
    assert 302 == done.status_code
    address = done.headers["location"]
    assert address.startswith(f"{REDIRECT}?")
    return dict(parse_qsl(urlsplit(address).query))


def exchange(http, client_id, code, /, **changes):
    form = {
        "grant_type": "authorization_code", "client_id": client_id, "code": code,
        "redirect_uri": REDIRECT, "code_verifier": VERIFIER,
    }  # fmt: skip
    return http.post("/oauth/token/", data={**form, **changes})


def renew(http, client_id, refresh_token):
    form = {"grant_type": "refresh_token", "client_id": client_id, "refresh_token": refresh_token}
    return http.post("/oauth/token/", data=form)


@pytest.fixture
def tokens(http, client_id):
    return exchange(http, client_id, decide(http, client_id)["code"]).json()


def statuses(http, token):
    """Return the statuses of the app API, the Query API, profiles and the export."""
    headers, days = {"authorization": f"Bearer {token}"}, {"from_date": "2026-01-01"}
    query = {"project_id": "42", **days, "to_date": "2026-01-01"}
    return [
        http.get("/api/app/me", headers=headers).status_code,
        http.get("/api/query/cohorts/list", params=query, headers=headers).status_code,
        http.post("/api/query/engage", params=query, headers=headers).status_code,
        http.get(EXPORT, params=query, headers=headers).status_code,
    ]


@pytest.mark.slow
def test_a_login_reads_what_a_service_account_reads(http, client_id, tokens):
    """With the scope, lifetime and refresh token that OAuth has."""
    assert ("Bearer", 100.0) == (tokens["token_type"], tokens["expires_in"])
    assert [200] * 4 == statuses(http, tokens["access_token"])
    assert [401] * 4 == statuses(http, tokens["refresh_token"])
    assert [401] * 4 == statuses(http, "made-up")
    assert "s & s" == decide(http, client_id)["state"]


def test_a_denied_access_is_an_error_in_the_redirect(http, client_id):
    """With the state, and without a code."""
    assert {"error": "access_denied", "state": "s & s"} == decide(http, client_id, "deny")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"code_verifier": "w" * 43}, "code_verifier does not match"),
        ({"code_verifier": ""}, "code_verifier does not match"),
        ({"redirect_uri": REDIRECT + "x"}, "redirect_uri differs"),
        ({"code": "made-up"}, "code is unknown"),
    ],
)
def test_a_code_needs_its_verifier_and_its_redirect(http, client_id, changes, reason):
    """A code that somebody else has read is worth nothing."""
    refused = exchange(http, client_id, decide(http, client_id)["code"], **changes)
    assert (400, "invalid_grant") == (refused.status_code, refused.json()["error"])
    assert reason in refused.json()["error_description"]


def test_a_code_expires_and_is_valid_once(http, client_id, clock):
    """Using it again also revokes what it gave, because somebody has copied it."""
    code = decide(http, client_id)["code"]
    clock.now += 61
    assert "code has expired" == exchange(http, client_id, code).json()["error_description"]
    code = decide(http, client_id)["code"]
    token = exchange(http, client_id, code).json()["access_token"]
    assert 200 == statuses(http, token)[0]
    assert 400 == exchange(http, client_id, code).status_code
    assert 401 == statuses(http, token)[0]


@pytest.mark.slow
def test_an_access_token_expires_and_is_renewed(http, client_id, tokens, clock):
    """A refresh token is valid once: its successor comes with the new access token."""
    clock.now += 100
    assert [401] * 4 == statuses(http, tokens["access_token"])
    renewed = renew(http, client_id, tokens["refresh_token"])
    assert 200 == statuses(http, renewed.json()["access_token"])[0]
    again = renew(http, client_id, tokens["refresh_token"])
    assert (400, "invalid_grant") == (again.status_code, again.json()["error"])
    assert 200 == renew(http, client_id, renewed.json()["refresh_token"]).status_code


@pytest.mark.slow
def test_revoking_one_token_ends_the_login(http, client_id, tokens, emu):
    """By its owner, or in the settings; an unknown token is no error (RFC 7009)."""
    assert 200 == http.post("/oauth/revoke_token/", data={"token": "made-up"}).status_code
    assert 200 == statuses(http, tokens["access_token"])[0]
    http.post("/oauth/revoke_token/", data={"token": tokens["refresh_token"]})
    assert 401 == statuses(http, tokens["access_token"])[0]
    assert 400 == renew(http, client_id, tokens["refresh_token"]).status_code
    other = exchange(http, client_id, decide(http, client_id)["code"]).json()
    emu.revoke_logins()
    assert 401 == statuses(http, other["access_token"])[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"client_id": "made-up"}, "client_id is unknown"),
        ({"redirect_uri": "http://localhost:1/callback"}, "redirect_uri is not a registered one"),
        ({"response_type": "token"}, "response_type must be code"),
        ({"code_challenge_method": "plain"}, "PKCE is required"),
        ({"code_challenge": ""}, "PKCE is required"),
        ({"client_id": "<b>"}, "client_id is unknown"),
    ],
)
def test_an_invalid_question_is_shown_and_not_redirected(http, client_id, changes, reason):
    """A redirect could lead to whoever wrote the link."""
    page = http.get("/oauth/authorize/", params=question(client_id, **changes))
    assert (400, None) == (page.status_code, page.headers.get("location"))
    assert reason in page.text


@pytest.mark.slow
@pytest.mark.parametrize(
    "metadata",
    [
        {},
        [],
        {"redirect_uris": []},
        {"redirect_uris": ["http://evil.example/"]},
        {"redirect_uris": ["javascript:alert(1)"]},
        {"redirect_uris": ["http://localhost:1/#x"]},
        {"redirect_uris": [REDIRECT], "token_endpoint_auth_method": "client_secret_basic"},
    ],
)
def test_only_public_clients_of_this_machine_are_registered(http, metadata):
    """Or with an https address."""
    assert 400 == http.post("/oauth/mcp/register/", json=metadata).status_code
    assert 400 == http.post("/oauth/mcp/register", content=b"{").status_code


def test_other_grants_and_clients_are_refused(http, client_id):
    """With the errors that OAuth names."""
    refused = http.post("/oauth/token/", data={"client_id": client_id, "grant_type": "password"})
    assert (400, "unsupported_grant_type") == (refused.status_code, refused.json()["error"])
    refused = exchange(http, "made-up", "code")
    assert (401, "invalid_client") == (refused.status_code, refused.json()["error"])


def test_pages_of_other_sites_cannot_allow_the_access(http, client_id):
    """Nobody has pressed the button."""
    answer = http.post(
        "/oauth/authorize/",
        data={**question(client_id), "decision": "allow"},
        headers={"origin": "https://evil.example"},
    )
    assert (403, None) == (answer.status_code, answer.headers.get("location"))


@pytest.mark.slow
def test_static_access_tokens_can_be_named():
    """Without names any is accepted, unless there are service accounts."""
    for options, expected in (
        ({"oauth_tokens": ["right"]}, [200, 401]),
        ({"oauth_tokens": "right", "service_accounts": {"a": "b"}}, [200, 401]),
        ({}, [200, 200]),
        ({"service_accounts": {"a": "b"}}, [401, 401]),
    ):
        with Emulator(**options) as emu, httpx.Client(base_url=emu.url, trust_env=False) as http:
            assert expected == [statuses(http, token)[0] for token in ("right", "wrong")]
