"""The client for Mixpanel's reading APIs, against a server that plays a scripted conversation."""

import asyncio
import contextlib
import errno
import gzip
import hashlib
import json
import os
import socket
import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import anyio
import pytest

from mixpanel import AsyncMixpanel
from mixpanel._http.proxies import (
    TransportOptions,
)
from mixpanel._runtime import background_loop
from mixpanel.data._api import download, rate_limits
from mixpanel.data._api.rate_limits import ApiRateLimiter
from mixpanel.data.api import AsyncAPI, Downloaded
from mixpanel.data.config import Credentials
from mixpanel.data.exceptions import (
    AuthenticationError,
    ConfigError,
    JQLSyntaxError,
    MixpanelDataError,
    PlanError,
    QueryError,
    RateLimitError,
    ServerError,
)
from mixpanel.exceptions import ClosedError
from mixpanel.settings import Origins, RetryPolicy

ACCOUNT = Credentials(username="robot", secret="s3cr3t-words", project_id="42", region="us")
DAY = {"from_date": "2026-01-01", "to_date": "2026-01-01"}
OK = b'{"status":"ok"}'


def response(status=200, body=OK, **headers):
    """Return the bytes of one response."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunked(*pieces, whole=True):
    """Return an export in chunks; without `whole` the last chunk is missing."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return head + body + (b"0\r\n\r\n" if whole else b"")


class Server:
    """Send the scripted responses, then `OK` for ever; None closes the connection."""

    def __init__(self):
        self.script, self.seen, self._threads = [], [], []
        self._open = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._spawn(self._listen)

    def _spawn(self, target, *args):
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _listen(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.add(connection)
                self._spawn(self._serve, connection)

    def _serve(self, connection):
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as lines:
            while first := lines.readline():
                method, target, _ = first.decode().split()
                headers = {}
                while (line := lines.readline().decode().strip()) != "":
                    name, _, value = line.partition(":")
                    headers[name.lower()] = value.strip()
                body = lines.read(int(headers.get("content-length", 0)))
                self.seen.append((method, urlsplit(target), headers, body))
                step = self.script.pop(0) if self.script else response()
                if step is None:
                    break
                if not callable(step):
                    connection.sendall(step)
                elif step(connection) == "close":
                    break
        self._open.discard(connection)

    @property
    def open_connections(self):
        return len(self._open)

    def query(self, index=-1):
        return {k: v[0] for k, v in parse_qs(self.seen[index][1].query).items()}

    def close(self):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join(5)


class Clock:
    """A clock that advances only by sleeping."""

    def __init__(self):
        self.now, self.slept = 1000.0, []

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds
        await anyio.lowlevel.checkpoint()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(autouse=True)
def _own_budgets():
    yield
    rate_limits._shared.clear()


@pytest.fixture
def make(server, clock):
    """Return a factory of API clients that use the clock."""

    def make(**options):
        options = {"base_url": server.url, "sleep": clock.sleep, "random": lambda: 1.0} | options
        api = AsyncAPI(ACCOUNT, **options)
        api.export_limiter = ApiRateLimiter.export(clock=clock, sleep=clock.sleep)
        api.query_limiter = ApiRateLimiter.query(clock=clock, sleep=clock.sleep)
        return api

    return make


# ---- asking -------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_query_carries_project_and_credentials(make, server, anyio_backend):
    """Lists are sent as JSON and None is left out; a second query reuses the connection."""
    server.script = [response(body=b'["Order Paid"]')]
    async with make() as api:
        names = await api.query("events/names", params={"type": "general", "x": None, "y": ["a b"]})
        await api.query("/engage", form={"where": 'properties["a"] == 1', "all": True})
        assert api.query_limiter.remaining() == 58
        assert server.open_connections == 1
    assert names == ["Order Paid"]
    (get, url, headers, _), (post, second, form_headers, form) = server.seen
    assert (get, url.path) == ("GET", "/api/query/events/names")
    assert server.query(0) == {"type": "general", "y": '["a b"]', "project_id": "42"}
    assert headers["authorization"] == ACCOUNT.authorization()
    assert (post, second.path) == ("POST", "/api/query/engage")
    assert server.query() == {"project_id": "42"}
    assert form_headers["content-type"] == "application/x-www-form-urlencoded"
    assert parse_qs(form.decode()) == {"where": ['properties["a"] == 1'], "all": ["true"]}


@pytest.mark.anyio
async def test_gzip_responses_are_decompressed(make, server, anyio_backend):
    """Also large ones, and those with several gzip members."""
    rows = json.dumps([{"n": n} for n in range(20_000)]).encode()
    compressed = gzip.compress(rows[:70_000]) + gzip.compress(rows[70_000:])
    server.script = [response(body=compressed, Content_Encoding="gzip")]
    async with make() as api:
        assert len(await api.query("engage")) == 20_000


@pytest.mark.anyio
async def test_several_event_loops_may_share_an_api_client(make, server, anyio_backend):
    """Two runs and the background loop: each has its own connections."""
    api = make()
    assert await api.query("events") == {"status": "ok"}

    def in_own_thread():
        for _ in range(2):
            asyncio.run(api.query("events"))
        background_loop.run(api.check)

    await anyio.to_thread.run_sync(in_own_thread)
    await api.aclose()
    assert len(server.seen) == 4
    with pytest.raises(ClosedError):
        await api.query("events")


@pytest.mark.anyio
async def test_checking_credentials_costs_no_query(make, server, anyio_backend):
    """Rejected credentials are an AuthenticationError, whether Mixpanel sends 401 or 403."""
    server.script = [response(), response(401, b"no"), response(403, b'{"error":"not yours"}')]
    async with make() as api:
        await api.check()
        for _ in range(2):
            with pytest.raises(AuthenticationError):
                await api.check()
        assert api.query_limiter.remaining() == 60
    assert {seen[1].path for seen in server.seen} == {"/api/app/me"}


# ---- what answers mean --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, b'{"error":"bad date"}', QueryError),
        (400, b'{"error":"Unable to authenticate request"}', AuthenticationError),
        (401, b'{"error":"who?"}', AuthenticationError),
        (402, b"pay", PlanError),
        (403, b"no", QueryError),
        (404, b"<html>", QueryError),
        (405, b"", QueryError),
        (412, b'{"error":"SyntaxError: line 1"}', JQLSyntaxError),
        (422, b"no", QueryError),
        (302, b"", ServerError),
        (501, b"", ServerError),
        (200, b"<html><title>Sign in</title>", ServerError),
        (200, b'{"half":', ServerError),
    ],
)
async def test_permanent_failures_are_raised_without_a_retry(
    make, server, clock, anyio_backend, status, body, kind
):
    """The error has its own class, the status, the URL and the first bytes of the response."""
    server.script = [response(status, body, Location="http://127.0.0.1:1/")]
    async with make() as api:
        with pytest.raises(kind) as raised:
            await api.query("segmentation", params={"where": "x"})
    error = raised.value
    assert type(error) is kind
    assert (len(server.seen), clock.slept) == (1, [])
    assert error.status_code == status
    assert error.response_body == body.decode()
    assert error.request_url == f"{server.url}/api/query/segmentation"


@pytest.mark.anyio
@pytest.mark.parametrize(
    "step", [response(500), response(503), response(408), response(524, b"<p>"), None]
)
async def test_transient_failures_are_retried(make, server, clock, anyio_backend, step):
    """The waits grow; in the end it is a `ServerError`."""
    server.script = [step, step]
    async with make() as api:
        assert await api.query("events") == {"status": "ok"}
        assert clock.slept == [1, 2]
        server.script = [step] * 5
        with pytest.raises(ServerError) as raised:
            await api.query("events")
    assert len(server.seen) == 3 + 5
    assert (raised.value.__cause__ is None) == (step is not None)


@pytest.mark.anyio
async def test_errors_contain_neither_secrets_nor_filters(make, server, anyio_backend):
    """Even when the server echoes the request."""
    echo = {"error": f"{ACCOUNT.authorization()} s3cr3t-words: no 'anna@example.org' in u-17"}
    server.script = [response(400, json.dumps(echo).encode())]
    filters = {"where": 'properties["email"] == "anna@example.org"', "distinct_ids": ["u-17"]}
    async with make() as api:
        with pytest.raises(QueryError) as raised:
            await api.query("engage", form=filters)
        shown = f"{api!r}{raised.value!r}{raised.value}{raised.value.to_dict()}"
    assert str(raised.value).endswith("HTTP 400: Basic *** ***: no '...' in ...")
    assert "s3cr3t" not in shown + raised.value.response_body
    assert "anna" not in shown
    assert raised.value.request_params == filters
    assert "robot" not in repr(api)


# ---- the limiter ---------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry_After": "700"}, 700),
        (
            {
                "Retry_After": "Wed, 21 Oct 2026 07:40:00 GMT",
                "Date": "Wed, 21 Oct 2026 07:28:00 GMT",
            },
            720,
        ),
        ({}, 5),
    ],
)
async def test_a_429_makes_every_call_wait_and_is_announced(
    make, server, clock, anyio_backend, headers, seconds
):
    """As long as the server asks, in both forms of Retry-After."""
    waits = []
    server.script = [response(429, b"slow down", **headers)]
    async with make(on_wait=lambda seconds, why: waits.append((seconds, why))) as api:
        assert await api.query("events") == {"status": "ok"}
    [(waited, why)] = waits
    assert seconds <= waited <= seconds + 1
    assert sum(clock.slept) == waited
    assert why.startswith("Mixpanel reports too many queries of this project: waiting ")


@pytest.mark.anyio
async def test_too_many_exports_at_once_is_a_rate_limit(
    make, server, clock, anyio_backend, tmp_path
):
    """Although Mixpanel may send a 400."""
    server.script = [response(400, b"too many export requests in progress for this project")]
    async with make() as api:
        got = await api.download(tmp_path / "part", DAY)
    assert got.attempts == 2
    assert clock.slept == [5]


@pytest.mark.anyio
async def test_max_wait_limits_the_wait_for_a_rate_limit(make, server, clock, anyio_backend):
    """After about an hour of 429s, the server's own error is raised; `max_wait=0` does not wait."""
    server.script = [response(429, b'{"error":"Query rate limit exceeded"}')] * 40
    async with make() as api:
        with pytest.raises(RateLimitError, match="Query rate limit exceeded") as raised:
            await api.query("events")
        assert raised.value.status_code == 429
        assert raised.value.retry_after > 0
        assert 3000 < sum(clock.slept) <= 65 * 60
        assert len(server.seen) < 12
    async with make(max_wait=0) as hasty:
        with pytest.raises(RateLimitError):
            await hasty.query("events")
    assert len(server.seen) < 13


@pytest.mark.anyio
async def test_the_sixty_first_query_waits_for_the_hour(make, server, clock, anyio_backend):
    """A foreseeable 429 is avoided."""
    async with make() as api:
        for _ in range(61):
            await api.query("events")
    assert [seconds > 3600 for seconds in clock.slept] == [True]


# ---- downloads ----------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("is_gzip", [True, False])
async def test_an_export_is_saved_byte_for_byte(make, server, anyio_backend, tmp_path, is_gzip):
    """Compressed or not; only the owner can read the file."""
    body = b'{"event":"\xe2\x80\xa8"}\n' * 100_000
    sent = gzip.compress(body, 1) if is_gzip else body
    server.script = [response(body=sent, **({"Content_Encoding": "gzip"} if is_gzip else {}))]
    counts = []
    async with make() as api:
        got = await api.download(tmp_path / "part", DAY | {"event": ["a"]}, on_bytes=counts.append)
        assert api.export_limiter.remaining() == 59
    digest = hashlib.sha256(sent).hexdigest()
    assert got == Downloaded(tmp_path / "part", len(sent), is_gzip, 1, digest)
    assert got.path.read_bytes() == sent
    assert got.path.stat().st_mode & 0o777 == 0o600
    assert sum(counts) == len(sent)
    assert server.seen[0][1].path == "/api/2.0/export"
    assert server.seen[0][2]["accept-encoding"] == "gzip"
    assert server.query() == DAY | {"event": '["a"]', "project_id": "42"}


@pytest.mark.anyio
async def test_a_day_without_events_is_an_empty_file(make, server, anyio_backend, tmp_path):
    """An empty export is not an error."""
    server.script = [response(body=b"")]
    async with make() as api:
        got = await api.download(tmp_path / "part", DAY)
    assert (got.bytes, got.path.read_bytes()) == (0, b"")


@pytest.mark.anyio
async def test_a_broken_download_starts_again(make, server, clock, anyio_backend, tmp_path):
    """From the first byte; `on_bytes` gets a negative number for the failed attempt."""
    counts, line = [], b'{"event":"a"}\n'
    too_short = response(body=line * 90_000)[:-1000]
    server.script = [
        lambda c: c.sendall(chunked(line * 50_000, whole=False)) or "close",
        lambda c: c.sendall(too_short) or "close",
        response(503, b"busy"),
        chunked(line),
    ]
    async with make() as api:
        got = await api.download(tmp_path / "part", DAY, on_bytes=counts.append)
    digest = hashlib.sha256(line).hexdigest()
    assert got == Downloaded(tmp_path / "part", len(line), False, 4, digest)
    assert got.path.read_bytes() == line
    assert sum(counts) == len(line)
    assert min(counts) < -500_000


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("step", "kind"),
    [
        (response(402), PlanError),
        (response(403), QueryError),
        (response(200, b"<html>", Content_Type="text/html"), ServerError),
        (response(200, b"x", Content_Encoding="br"), ServerError),
        (chunked(b"x" * 600_000, whole=False), ServerError),
    ],
)
async def test_a_failed_download_leaves_no_file(make, server, anyio_backend, tmp_path, step, kind):
    """Not even a part of one; an existing file is kept if no byte arrived."""
    (tmp_path / "before").write_bytes(b"mine")
    server.script = [lambda c: c.sendall(step) or "close"] * 5
    async with make() as api:
        with pytest.raises(kind):
            await api.download(tmp_path / "part", DAY)
        if kind is PlanError:
            server.script = [step]
            with pytest.raises(kind):
                await api.download(tmp_path / "before", DAY)
    assert [path.name for path in tmp_path.iterdir()] == ["before"]


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_silent_server_times_out(make, server, anyio_backend, tmp_path):
    """`idle` applies between two pieces of an export, `timeout` to a query; then it is retried."""
    leave = threading.Event()

    def stall(connection):
        connection.sendall(chunked(b"a\n", whole=False))
        leave.wait(10)
        return "close"

    def silence(_connection):
        leave.wait(10)
        return "close"

    server.script = [stall, chunked(b"b\n"), silence]
    async with make() as api:
        got = await api.download(tmp_path / "part", DAY, idle=0.2)
        assert (got.attempts, got.path.read_bytes()) == (2, b"b\n")
        assert await api.request("GET", "/api/query/events", timeout=0.2) == {"status": "ok"}
    leave.set()


@pytest.mark.anyio
async def test_a_cancelled_download_ends_at_once(make, server, anyio_backend, tmp_path):
    """It leaves no file and no connection, and frees its slot in the rate limit."""
    leave, begun = threading.Event(), anyio.Event()

    def endless(connection):
        connection.sendall(chunked(b"a\n" * 300_000, whole=False))
        leave.wait(10)
        return "close"

    server.script = [endless]
    async with make() as api, anyio.create_task_group() as tasks:

        async def fetch():
            await api.download(tmp_path / "part", DAY, on_bytes=lambda _: begun.set())

        tasks.start_soon(fetch)
        await begun.wait()
        tasks.cancel_scope.cancel()
    assert not leave.is_set()
    assert len(server.seen) == 1
    assert list(tmp_path.iterdir()) == []
    assert api.export_limiter._windows._free == 100
    leave.set()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("number", "code", "why"),
    [
        (errno.ENOSPC, "DISK_FULL", "the disk is full: free some space and repeat"),
        (errno.EACCES, "FILE_NOT_WRITTEN", "Permission denied: correct that and repeat"),
    ],
)
async def test_an_unwritable_file_is_one_clear_error(
    make, server, anyio_backend, tmp_path, monkeypatch, number, code, why
):
    """It is not treated as a failure of the server, ends the transfer, and names the file."""

    def fail(_file, _piece):
        raise OSError(number, os.strerror(number))

    server.script = [response(body=b"x" * 3_000_000)]
    path = tmp_path / "part"
    async with make() as api:
        with monkeypatch.context() as broken:
            broken.setattr(download, "os", SimpleNamespace(**vars(os) | {"write": fail}))
            with pytest.raises(MixpanelDataError, match=why) as caught:
                await api.download(path, DAY)
        assert (code, {"path": str(path)}) == (caught.value.code, caught.value.details)
        assert not path.exists()
        assert await api.query("events") == {"status": "ok"}
    assert len(server.seen) == 2


# ---- the escape hatch ---------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/api/query/events",
        "//evil.example/api",
        "https://mixpanel.com/api/query/events",  # this API speaks to a base_url alone
        "@evil.example/",
        ".evil.example/",
        "/api\r\nX: y",
        "/api\\x",
        "",
    ],
)
async def test_credentials_are_sent_to_no_other_host(make, server, anyio_backend, url):
    """A URL on another host is refused before anything is sent."""
    async with make() as api:
        with pytest.raises(ConfigError):
            await api.request("GET", url)
        for lookalike in (server.url + "0/x", server.url + "@evil.example/", server.url):
            with pytest.raises(ConfigError):
                await api.request("GET", lookalike)
        with pytest.raises(ConfigError, match="header"):
            await api.request("GET", "/api/app/me", headers={"Authorization": "Basic x"})
    assert server.seen == []


@pytest.mark.anyio
async def test_any_endpoint_can_be_called(make, server, anyio_backend):
    """By path or URL, with JSON; the rate limit is that of its family."""
    server.script = [response(204, b"")]
    async with make() as api:
        assert await api.request("DELETE", f"{server.url}/api/app/annotations/1?x=1") is None
        await api.request("post", "/api/app/x", json_body={"a": ["é"]}, headers={"X-Y": "z"})
        assert api.query_limiter.remaining() == 60
        await api.request("GET", "/api/2.0/events?project_id=7")
        assert api.query_limiter.remaining() == 59
        with pytest.raises(ConfigError, match="family"):
            await api.request("GET", "/x", family="other")
    assert server.query(0) == {"x": "1"}
    method, _, headers, body = server.seen[1]
    assert (method, headers["x-y"], json.loads(body)) == ("POST", "z", {"a": ["é"]})
    assert server.query() == {"project_id": "7"}


@pytest.mark.anyio
async def test_a_post_that_may_change_something_is_not_repeated(make, server, anyio_backend):
    """A POST to the app API whose response got lost may have taken effect."""
    server.script = [None, response(500)]
    async with make() as api:
        for _ in range(2):
            with pytest.raises(ServerError):
                await api.request("POST", "/api/app/annotations", json_body={})
    assert len(server.seen) == 2


@pytest.mark.anyio
async def test_a_failed_connection_is_a_server_error(clock, anyio_backend):
    """After the usual retries, with the transport's error as the cause."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    retry = RetryPolicy(attempts=2)
    async with AsyncAPI(ACCOUNT, base_url=url, retry=retry, sleep=clock.sleep) as api:
        with pytest.raises(ServerError, match="cannot connect") as raised:
            await api.query("events", params={"where": "private"})
    assert raised.value.status_code == 0
    assert str(raised.value) == f"GET {url}/api/query/events: no response: cannot connect"
    assert raised.value.to_dict()["message"] == str(raised.value)
    assert len(clock.slept) == 1


def test_hosts_are_those_of_the_region(monkeypatch):
    """Each family has its own; `MP_BASE_URL` and `base_url` take precedence."""
    assert Origins.resolve(region="us") == Origins(
        "https://mixpanel.com",
        "https://data.mixpanel.com",
        "https://mixpanel.com",
        "https://api.mixpanel.com",
    )
    assert Origins.resolve(region="eu").query == "https://eu.mixpanel.com"
    assert Origins.resolve(region="in").export == "https://data-in.mixpanel.com"
    monkeypatch.setenv("MP_BASE_URL", "http://127.0.0.1:1")
    assert Origins.resolve(region="eu").app == "http://127.0.0.1:1"
    assert Origins.resolve(region="eu", base_url="https://x.example").app == "https://x.example"
    with pytest.raises(ConfigError):
        AsyncAPI(ACCOUNT, base_url="http://mixpanel.com")


def test_api_clients_of_one_project_share_its_rate_limits():
    """Those of another project have their own."""
    other = ACCOUNT.model_copy(update={"project_id": "43"})
    one, two, three = (
        AsyncAPI(ACCOUNT),
        AsyncAPI(ACCOUNT, transport=TransportOptions()),
        AsyncAPI(other),
    )
    assert one.export_limiter is two.export_limiter
    assert one.query_limiter is not three.query_limiter


# ---- the emulator -------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_tracked_events_can_be_exported(emu, anyio_backend, tmp_path):
    """The API client and the emulator agree on every endpoint."""
    async with AsyncMixpanel("42", base_url=emu.url) as client:
        await client.track("u-1", "Order Paid", {"amount": 12})
        await client.people_set("u-1", {"plan": "team"})
        await client.flush()
    today = datetime.now(tz=UTC).date()
    days = {"from_date": str(today - timedelta(days=1)), "to_date": str(today)}
    async with AsyncAPI(ACCOUNT, base_url=emu.url) as api:
        await api.check()
        got = await api.download(tmp_path / "part", days | {"event": ["Order Paid"]})
        profiles = await api.query("engage", form={"distinct_id": "u-1"})
    assert got.gzip is False
    assert json.loads(got.path.read_bytes())["properties"]["amount"] == 12
    assert profiles["results"][0]["$properties"]["plan"] == "team"
