"""Logins: the flow in the browser, and access tokens that are renewed once for everybody."""

import json
import logging
import os
import pickle
import stat
import subprocess
import sys
import threading
import time
import traceback
from base64 import urlsafe_b64encode
from hashlib import sha256
from urllib.parse import parse_qs, urlencode, urlsplit

import anyio
import httpx
import pytest

from mixpanel._http.proxies import TransportOptions
from mixpanel.credentials import Secret
from mixpanel.data import (
    AsyncWorkspace,
    AuthenticationError,
    ConfigError,
    LoginError,
    LoginRequiredError,
    RateLimitError,
    ServerError,
    TokenCredentials,
)
from mixpanel.data._oauth.login import LoginAttempt, RedirectListener, unused_redirect_uri
from mixpanel.data._oauth.tokens import TokenFile, Tokens
from mixpanel.data.api import AsyncAPI
from mixpanel.data.config import Config
from mixpanel.data.credentials import LoginCredentials
from mixpanel.emulator import Emulator, Fault
from mixpanel.settings import RetryPolicy
from tests.data.logins import decide, follow, log_in, server_of

TOKEN_PATH = "/oauth/token"
ONCE = RetryPolicy(attempts=1)


@pytest.fixture
def emu():
    with Emulator(service_accounts={"robot": "s3cret"}) as emulator:
        yield emulator


@pytest.fixture
def config(tmp_path):
    return Config(tmp_path / "config.toml")


@pytest.fixture
def me(emu, config):
    """Return the credentials of a login whose access token has expired."""
    config.add_login("me", log_in(emu.url), project_id="42", region="us")
    expire(config)
    emu._project.request_log.clear()
    return config.get_account("me")


def expire(config, name="me"):
    """Let the access token expire, as far as its file says."""
    file = config.token_file(name)
    file.write(file.read().lasting(0.0, time.time()))


def renewals(emu):
    return [each for each in emu.requests(TOKEN_PATH) if b"refresh_token" in each.body]


async def check(credentials, emu, **options):
    async with AsyncAPI(credentials, base_url=emu.url, retry=ONCE, **options) as api:
        await api.check()


# The flow


def test_the_question_has_the_challenge_and_never_the_verifier(emu):
    """PKCE with S256, and a state and verifier of their own for each attempt."""

    async def begin():
        attempt = LoginAttempt(server_of(emu.url), unused_redirect_uri())
        return attempt, await attempt.begin()

    pairs = [anyio.run(begin) for _ in range(2)]
    queries = [parse_qs(urlsplit(url).query) for _, url in pairs]
    for (attempt, url), query in zip(pairs, queries, strict=True):
        verifier = attempt._verifier.reveal()
        digest = urlsafe_b64encode(sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        assert ([digest], ["S256"]) == (query["code_challenge"], query["code_challenge_method"])
        assert verifier not in url
        assert 43 <= len(verifier) <= 128
    for name in ("state", "code_challenge", "client_id"):
        assert queries[0][name] != queries[1][name]


def test_a_verifier_of_another_attempt_is_refused(emu):
    """A copied code is worth nothing."""

    async def steal():
        uri = "http://localhost:1/callback"
        theirs, ours = (LoginAttempt(server_of(emu.url), uri) for _ in range(2))
        await ours.begin()
        address = await anyio.to_thread.run_sync(decide, await theirs.begin())
        ours._client_id = theirs._client_id
        await ours.finish(theirs.code_in(address))

    with pytest.raises(LoginError, match="invalid_grant: code_verifier does not match") as caught:
        anyio.run(steal)
    assert ("invalid_grant", 400) == (caught.value.reason, caught.value.status_code)


@pytest.fixture
def attempt(emu):
    made = LoginAttempt(server_of(emu.url), "http://localhost:1/callback")
    anyio.run(made.begin)
    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pasted", "words"),
    [
        ("", "not the address that the browser was sent to"),
        ("abc123", "not the address"),
        ("http://localhost:1/callback", "not the address"),
        ("http://localhost:1/callback?code=canary", "not the address"),
        ("http://localhost:1/callback?code=canary&state=other", "another attempt"),
        ("http://localhost:1/callback?error=access_denied&state=other", "another attempt"),
    ],
)
def test_only_the_address_of_this_attempt_is_accepted(attempt, pasted, words):
    """And no code is shown."""
    with pytest.raises(LoginError, match=words) as caught:
        attempt.code_in(pasted)
    assert "canary" not in str(caught.value)


def test_a_pasted_address_may_be_its_query_alone(attempt):
    """With white space around it, too."""
    query = urlencode({"code": "c", "state": attempt._state})
    for pasted in (f" http://localhost:1/callback?{query}\n", f"?{query}", query):
        assert Secret("c") == attempt.code_in(pasted)


def test_a_denied_access_is_a_login_error(attempt):
    """With the reason that the server names."""
    for reason, words in (("access_denied", "the access was denied"), ("x", "refused: x")):
        with pytest.raises(LoginError, match=f"not logged in: {words}") as caught:
            attempt.code_in("?" + urlencode({"error": reason, "state": attempt._state}))
        assert reason == caught.value.reason


@pytest.mark.slow
def test_the_listener_takes_its_own_redirect_only(emu, capfd):
    """Others are refused, and it waits on; nothing is printed."""
    with RedirectListener() as listener:
        attempt = LoginAttempt(server_of(emu.url), listener.redirect_uri)
        uri = listener.redirect_uri
        base = uri.removesuffix("/callback")
        early = follow(f"{uri}?code=x&state=")
        url = anyio.run(attempt.begin)
        found = []
        waiting = threading.Thread(target=lambda: found.append(listener.wait(attempt, 20)))
        waiting.start()
        while listener._attempt is None:
            time.sleep(0.01)
        refused = [follow(f"{uri}?code=evil&state=guess"), follow(uri), follow(f"{base}/")]
        with httpx.Client(trust_env=False) as rebound:
            headers = {"host": "evil.example"}
            refused.append(rebound.get(f"{uri}?code=evil&state={attempt._state}", headers=headers))
        address = decide(url)
        done = follow(address)
        follow(f"{uri}?code=late&state={attempt._state}")
        waiting.join()
    assert [400, 400, 400, 404, 421] == [early.status_code, *(each.status_code for each in refused)]
    assert (200, "no-store") == (done.status_code, done.headers["cache-control"])
    assert "Logged in." in done.text
    assert [parse_qs(urlsplit(address).query)["code"][0]] == [code.reveal() for code in found]
    assert ("", "") == capfd.readouterr()


def test_the_listener_gives_up(emu):
    """With what to do where the browser cannot reach this machine."""
    with RedirectListener() as listener:
        attempt = LoginAttempt(server_of(emu.url), listener.redirect_uri)
        with pytest.raises(LoginError, match=r"within 0 seconds: .*--no-browser"):
            listener.wait(attempt, 0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (Fault.status(429), RateLimitError, "429"),
        (Fault.status(503), ServerError, "503"),
        (Fault.status(200, body="<html>"), ServerError, "not JSON"),
        (Fault.status(200, body=[1]), ServerError, "not an object"),
        (Fault.status(200, body={"x": 1}), LoginError, "has no client_id"),
        (Fault.status(400, body={"error": "invalid_redirect_uri"}), LoginError, "invalid_redirect"),
        (Fault.status(404), LoginError, "404"),
    ],
)
def test_a_registration_that_fails_is_a_typed_error(emu, fault, error, words):
    """With the URL and the server's reason."""
    emu.play(fault)
    with pytest.raises(error, match=words) as caught:
        anyio.run(LoginAttempt(server_of(emu.url), unused_redirect_uri()).begin)
    assert "/oauth/mcp/register/" in str(caught.value)


# The file


def test_the_tokens_are_private(emu, config):
    """The file has mode 0600 under any umask, its folder 0700; nothing else has the tokens."""
    before = os.umask(0)
    try:
        tokens = log_in(emu.url)
        config.add_login("me", tokens, project_id="42", region="us")
    finally:
        os.umask(before)
    path = config.token_file("me").path
    modes = [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent, config.path)]
    assert [0o600, 0o700, 0o600] == modes
    secrets = {tokens.access_token.reveal(), tokens.refresh_token.reveal()}
    assert not any(secret in config.path.read_text() for secret in secrets)
    assert not any(secret in f"{tokens!r} {config.get_account('me')!r}" for secret in secrets)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(tokens)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"{", b'{"server": "x", "client_id": 1, "access_token": "t"}']
)
def test_a_damaged_file_is_one_clear_error(tmp_path, content):
    """It names the file, and the remedy."""
    path = tmp_path / "me.json"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"me\.json does not hold a login: delete it"):
        TokenFile(path).read()


def test_a_file_that_others_may_write_is_refused(me, emu, config):
    """Whoever writes it chooses where the tokens go."""
    config.token_file("me").path.chmod(0o666)
    with pytest.raises(ConfigError, match="other users may write to it"):
        anyio.run(check, me, emu)


@pytest.mark.slow
def test_a_login_is_an_account_of_the_configuration(emu, config):
    """Listed, the default if it is the first, replaced by the next login, and removed."""
    config.add_login("me", log_in(emu.url), project_id="42", region="us")
    assert ("me", "login", "42", True) == (
        config.account_info("me").name, config.account_info("me").type,
        config.account_info("me").project_id, config.account_info("me").is_default,
    )  # fmt: skip
    config.add_login("me", log_in(emu.url), project_id="43", region="us")
    assert ["43"] == [each.project_id for each in config.list_accounts()]
    config.add_account("prod", username="u", secret="s", project_id="1")
    assert "me" == config.default()
    with pytest.raises(ConfigError):
        config.add_login("prod", log_in(emu.url), project_id="1", region="us")
    assert not config.token_file("prod").path.exists()
    config.remove_account("me")
    assert ("prod", []) == (config.default(), [*config.token_file("me").path.parent.iterdir()])


def test_a_login_that_cannot_be_recorded_leaves_no_tokens(emu, config):
    """Its account is in the configuration, or there is an error and nothing is stored."""
    config.add_account("prod", username="u", secret="s", project_id="1")
    before = config.path.read_text()

    def refuse(*_arguments):
        raise ConfigError("cannot change it")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, "_changed", refuse)
        with pytest.raises(ConfigError, match="cannot change it"):
            config.add_login("me", log_in(emu.url), project_id="42", region="us")
    assert before == config.path.read_text()
    assert not config.token_file("me").path.exists()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('[mixpanel-async.logins."../x"]\nproject_id = "1"\n', "cannot be the name of an account"),
        ("[mixpanel-async.logins]\nme = 1\n", r"must be a table, as in \[mixpanel-async\.logins"),
        ("[mixpanel-async.logins.me]\nregion = 'us'\n", "project_id is missing"),
        ("[mixpanel-async]\nlogins = 1\n", "logins must be tables"),
        ("mixpanel-async = 1\n", "logins must be tables"),
    ],
)
def test_a_malformed_login_is_one_clear_error(config, table, words):
    """It names the file, and no path outside of its folder is used."""
    config.path.touch(0o600)
    config.path.write_text(table)
    with pytest.raises(ConfigError, match=words):
        config.resolve_credentials()


# Renewing


@pytest.mark.slow
@pytest.mark.anyio
async def test_an_expired_token_is_renewed_before_the_call(me, emu, config, anyio_backend):
    """The new tokens are stored, for other processes too."""
    before = config.token_file("me").read()
    await check(me, emu)
    after = config.token_file("me").read()
    assert [TOKEN_PATH, "/api/app/me"] == [each.path for each in emu.requests()]
    assert before.access_token != after.access_token
    assert before.refresh_token != after.refresh_token
    await check(me, emu)
    assert 1 == len(renewals(emu))


@pytest.mark.slow
@pytest.mark.anyio
async def test_many_tasks_renew_once(me, emu, anyio_backend):
    """Of one client, and of several."""
    async with (
        AsyncAPI(me, base_url=emu.url) as one,
        AsyncAPI(me, base_url=emu.url) as other,
        anyio.create_task_group() as tasks,
    ):
        for number in range(20):
            tasks.start_soon((one, other)[number % 2].check)
    assert 1 == len(renewals(emu))
    assert 20 == len(emu.requests("/api/app/me"))


@pytest.mark.slow
def test_many_threads_renew_once(me, emu):
    """Each with an event loop of its own."""
    threads = [threading.Thread(target=anyio.run, args=(check, me, emu)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (1, [200] * 6) == (
        len(renewals(emu)), [each.status for each in emu.requests("/api/app/me")]
    )  # fmt: skip


@pytest.mark.slow
def test_many_processes_renew_once(me, emu, config):
    """The lock beside the file is between processes."""
    code = (
        "import asyncio, sys; from mixpanel.data.api import AsyncAPI\n"
        "from mixpanel.data.config import Config\n"
        "async def check():\n"
        "    async with AsyncAPI(Config().get_account('me')) as api: await api.check()\n"
        "sys.stdin.readline()\n"
        "asyncio.run(check())"
    )
    environment = {
        **os.environ, "MP_CONFIG_PATH": str(config.path), "MP_BASE_URL": emu.url,
        "MP_LIMITS_DIR": "off",
    }  # fmt: skip
    running = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE)
        for _ in range(3)
    ]
    for each in running:
        each.stdin.write(b"\n")
        each.stdin.close()
    assert [0] * 3 == [each.wait(timeout=60) for each in running]
    assert (1, 3) == (len(renewals(emu)), len(emu.requests("/api/app/me")))


@pytest.mark.anyio
async def test_a_token_that_is_rejected_early_is_renewed_once(me, emu, config, anyio_backend):
    """The clock of this machine may be wrong: after a 401 the call is repeated with another."""
    file = config.token_file("me")
    file.write(file.read().lasting(None, 0.0))
    emu._project.logins._access.clear()
    await check(me, emu)
    assert [401, 200] == [each.status for each in emu.requests("/api/app/me")]
    assert 1 == len(renewals(emu))


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_login_that_was_revoked_names_the_command(me, emu, anyio_backend):
    """One request finds out; afterwards none is sent."""
    emu.revoke_logins()
    for _ in range(2):
        with pytest.raises(LoginRequiredError) as caught:
            await check(me, emu)
        assert "log in again with `mp auth login me`" in str(caught.value)
        assert ("LOGIN_REQUIRED", "me") == (caught.value.code, caught.value.account_name)
        assert isinstance(caught.value, AuthenticationError)
    assert 1 == len(renewals(emu))
    assert not emu.requests("/api/app/me")


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_new_token_that_is_rejected_ends_the_call(me, emu, anyio_backend):
    """It is renewed once, not for ever."""
    emu.play(Fault.status(401).forever(), path="/api/app/me")
    with pytest.raises(LoginRequiredError, match="rejects the login of account 'me'"):
        await check(me, emu)
    assert 2 == len(emu.requests("/api/app/me"))


@pytest.mark.anyio
async def test_an_unreachable_server_is_no_lost_login(me, emu, config, anyio_backend):
    """Everybody who waits gets the error of one request, and the next call tries again."""
    emu.play(Fault.status(503), path=TOKEN_PATH)
    errors = []

    async def attempt(api):
        try:
            await api.check()
        except ServerError as error:
            errors.append(error)

    async with AsyncAPI(me, base_url=emu.url, retry=ONCE) as api:
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(attempt, api)
        assert errors
        await api.check()
    assert config.token_file("me").read().refresh_token is not None


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_token_that_is_still_valid_outlasts_a_failed_renewal(
    me, emu, config, anyio_backend
):
    """It is renewed a little early, so a short outage harms nobody."""
    file = config.token_file("me")
    now = time.time()
    tokens = file.read().lasting(600.0, now)
    file.write(Tokens(**{**fields(tokens), "renew_at": now - 1}))
    emu.play(Fault.status(503), path=TOKEN_PATH)
    await check(me, emu)
    assert [503] == [each.status for each in renewals(emu)]


def fields(tokens):
    return {name: getattr(tokens, name) for name in Tokens.__slots__}


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_cancelled_caller_loses_no_login(me, emu, config, anyio_backend):
    """The server has replaced the tokens: they are stored although nobody waits any more."""
    before = config.token_file("me").read()
    emu.play(Fault.latency(0.3), path=TOKEN_PATH)
    with anyio.move_on_after(0.15):
        await check(me, emu)
    with anyio.fail_after(10):
        while config.token_file("me").read().access_token == before.access_token:
            await anyio.sleep(0.02)
    await check(me, emu)
    assert 1 == len(renewals(emu))


@pytest.mark.slow
def test_tokens_are_sent_to_their_own_server_only(me, emu):
    """Neither the access token nor the refresh token of one server is for another."""
    with Emulator() as other:
        with pytest.raises(LoginRequiredError, match=f"logged in at {emu.url}, not at {other.url}"):
            anyio.run(check, me, other)
        assert [] == other.requests()
    with pytest.raises(LoginRequiredError, match=r"not at https://eu\.mixpanel\.com"):

        async def read():
            async with AsyncWorkspace(credentials=me, region="eu") as ws:
                await ws.api.check()

        anyio.run(read)


def test_an_ended_login_says_so(me, emu, config):
    """Without a file there is nothing to renew."""
    config.token_file("me").remove()
    with pytest.raises(LoginRequiredError, match="account 'me' is logged out"):
        anyio.run(check, me, emu)
    assert [] == emu.requests()


@pytest.mark.slow
def test_a_file_that_cannot_be_written_costs_no_call(me, emu, config, caplog, monkeypatch):
    """The renewed token is used, and a warning says that the login has to be repeated."""

    def full(_self, _tokens):
        raise ConfigError("cannot write it: No space left on device")

    monkeypatch.setattr(TokenFile, "write", full)
    with caplog.at_level(logging.WARNING, "mixpanel"):
        anyio.run(check, me, emu)
    assert [
        "the renewed login of account 'me' is lost: cannot write it: No space left on device"
    ] == (caplog.messages)


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_login_reads_the_project(me, emu, tmp_path, anyio_backend):
    """Queries and exports, and the workspace names the account."""
    path = tmp_path / "ws.db"
    async with AsyncWorkspace(credentials=me, base_url=emu.url, path=path) as ws:
        assert [] == await ws.list_events()
        await ws.fetch_events("events", from_date="2026-01-01", to_date="2026-01-01")
        assert "me" == ws.info().account
    assert isinstance(me, LoginCredentials)


# Static tokens


def test_a_static_token_is_used_as_it_is(tmp_path, monkeypatch):
    """From the constructor, or from MP_OAUTH_TOKEN; a service account takes precedence."""
    monkeypatch.setenv("MP_CONFIG_PATH", str(tmp_path / "config.toml"))
    with Emulator(oauth_tokens=["canary"]) as emu:
        monkeypatch.setenv("MP_BASE_URL", emu.url)
        given = TokenCredentials(token="canary", project_id="42")
        anyio.run(check, given, emu)
        monkeypatch.setenv("MP_OAUTH_TOKEN", " canary ")
        with pytest.raises(ConfigError, match="has MP_OAUTH_TOKEN, but not MP_PROJECT_ID"):
            Config().resolve_credentials()
        monkeypatch.setenv("MP_PROJECT_ID", "42")
        assert "environment" == anyio.run(AsyncWorkspace.test_credentials).source
        wrong = TokenCredentials(token="wrong-canary", project_id="42")
        with pytest.raises(AuthenticationError, match="rejects the access token") as caught:
            anyio.run(check, wrong, emu)
        assert "mp auth login" in str(caught.value)
        monkeypatch.setenv("MP_USERNAME", "robot")
        with pytest.raises(ConfigError, match="but not MP_SECRET"):
            Config().resolve_credentials()
        monkeypatch.setenv("MP_SECRET", "s3cret")
        assert "robot" == Config().resolve_credentials().username


@pytest.mark.parametrize("token", ["", " ", "a b", "ä", "a\nb", 7.5, None])
def test_a_token_that_no_header_can_hold_is_refused(token, monkeypatch):
    """Without showing it."""
    with pytest.raises(ValueError, match="token"):
        TokenCredentials(token=token, project_id="42")


def test_a_token_in_an_answer_is_not_shown():
    """A server or a proxy may echo it."""
    with Emulator() as emu:
        emu.play(Fault.status(400, body={"error": "no: canary-static"}))
        given = TokenCredentials(token="canary-static", project_id="42")
        with pytest.raises(Exception, match="no: ") as caught:
            anyio.run(check, given, emu)
    assert "canary-static" not in f"{caught.value} {json.dumps(caught.value.to_dict(full=True))}"


def test_a_refresh_token_in_an_answer_is_not_shown(me, emu, config):
    """Neither in the error nor in its details."""
    secret = config.token_file("me").read().refresh_token.reveal()
    emu.play(Fault.status(400, body={"error": f"no {secret}"}), path=TOKEN_PATH)
    with pytest.raises(LoginError, match=r"no \*\*\*") as caught:
        anyio.run(check, me, emu)
    assert secret not in f"{caught.value} {json.dumps(caught.value.to_dict(full=True))}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "body", ['{"access_token": "canary', '["canary"]', '{"token": "canary"}', "canary"]
)
def test_a_damaged_token_response_is_not_shown(me, emu, body):
    """It may hold tokens: neither the error nor a frame of its traceback has any of it."""
    emu.play(Fault.status(200, body=body), path=TOKEN_PATH)
    with pytest.raises((ServerError, LoginError), match="/oauth/token/: ") as caught:
        anyio.run(check, me, emu)
    frames = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    without_this_test = [frame for frame in frames.stack if frame.filename != __file__]
    assert without_this_test
    shown = [str(frame.locals) for frame in without_this_test]
    assert "canary" not in f"{caught.value} {json.dumps(caught.value.to_dict(full=True))} {shown}"


def test_connections_of_a_login_use_the_options_of_the_client(me, emu):
    """A proxy or a certificate authority holds for the authorization server, too."""
    options = TransportOptions(proxy="http://127.0.0.1:9")
    with pytest.raises(ServerError, match="cannot connect"):
        anyio.run(lambda: check(me, emu, transport=options))
    assert [] == emu.requests()
