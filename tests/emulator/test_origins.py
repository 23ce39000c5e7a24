"""The emulator and web pages: accepted names and origins."""

import json
import socket
from contextlib import ExitStack, closing

import httpx
import pytest

from mixpanel.emulator import Emulator, Fault

APP = "http://localhost:3000"
EVENT = json.dumps(
    {"event": "A", "properties": {"token": "t", "time": 1_764_000_000, "distinct_id": "u"}}
)
LANES = [
    ("POST", "/track"),
    ("POST", "/import"),
    ("POST", "/engage"),
    ("POST", "/groups"),
    ("GET", "/lookup-tables"),
    ("GET", "/flags"),
    ("GET", "/flags/definitions"),
    ("GET", "/api/2.0/export"),
    ("POST", "/api/query/engage"),
    ("GET", "/api/app/me"),
    ("POST", "/customerio/v1/batch"),
    ("POST", "/hightouch/v1/batch"),
    ("POST", "/hightouch/oauth/token"),
    ("GET", "/nowhere"),
    ("GET", "/"),
]


@pytest.fixture
def emu():
    """An emulator that takes requests from the pages of one origin."""
    with Emulator(now=lambda: 1_764_000_000, allow_origins=[APP]) as emulator:
        yield emulator


@pytest.fixture
def http(emu):
    """A client that sends to the emulator."""
    with httpx.Client(base_url=emu.url) as client:
        yield client


def raw_response(emu, *lines, body=b"", version="1.1", target="POST /track"):
    """Send a request as raw bytes; return the status and the rest of the response."""
    head = [f"{target} HTTP/{version}", *lines, f"Content-Length: {len(body)}"]
    if version == "1.1":
        head.append("Connection: close")
    raw = "\r\n".join([*head, "", ""]).encode("latin-1") + body
    with closing(socket.create_connection((emu.host, emu.port), timeout=5)) as connection:
        connection.sendall(raw)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    head, _, content = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), content.decode()


# ---- Host ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:8650",
        "127.8.9.10:1",
        "localhost",
        "localhost:",
        "LocalHost:8650",
        "localhost.",
        "localhost.:8650",
        "shop.localhost:3000",
        "[::1]",
        "[::1]:8650",
        "[0:0:0:0:0:0:0:1]:8650",
        "[::ffff:127.0.0.1]",
    ],
)
def test_loopback_names_are_accepted(emu, host):
    """With any port, in any case, with or without a trailing dot."""
    assert raw_response(emu, f"Host: {host}", body=EVENT.encode()) == (200, "1")
    assert len(emu.events()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "host",
    [
        "attacker.example",
        "attacker.example:8650",
        "127.0.0.1.attacker.example",
        "localhost.attacker.example",
        "notlocalhost",
        "127.0.0.1@attacker.example",
        "attacker.example@127.0.0.1",
        "0.0.0.0:8650",
        "[::]",
        "192.168.0.7",
        "[::ffff:192.168.0.7]",
        "[fe80::1]",
        "::1",
        "[127.0.0.1]",
        "[::1",
        "127.1",
        "localhost:port",
        "localhost:123456",
        "localhost..",
        "localhost, attacker.example",
        "",
    ],
)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_other_names_are_refused(emu, host, version):
    """DNS rebinding gives a page neither a response nor a way to send events."""
    status, content = raw_response(emu, f"Host: {host}", body=EVENT.encode(), version=version)
    assert status == 421
    assert "127.0.0.1" in json.loads(content)["error"]
    assert emu.events() == []
    assert emu.requests() == []


def test_several_hosts_are_refused(emu):
    """A proxy could have checked one of them, and the emulator the other."""
    for other in ("attacker.example", "127.0.0.1"):
        status, _ = raw_response(emu, "Host: 127.0.0.1", f"Host: {other}", body=EVENT.encode())
        assert status == 400
    assert emu.events() == []


def test_without_a_host_only_http_1_0_is_accepted(emu):
    """Browsers never omit it; old HTTP/1.0 tools may."""
    assert raw_response(emu, body=EVENT.encode(), version="1.0") == (200, "1")
    assert raw_response(emu, body=EVENT.encode())[0] == 400
    assert len(emu.events()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), LANES)
def test_every_endpoint_checks_the_name(http, method, path):
    """Including the web page and unknown paths."""
    refused = http.request(method, path, headers={"Host": "attacker.example"})
    assert refused.status_code == 421
    assert "Host" in refused.text


def test_an_ipv6_address_is_accepted_on_ipv6():
    """The address that the emulator was started with is one of its names."""
    with ExitStack() as stack:
        try:
            emulator = stack.enter_context(Emulator(host="::1"))
        except OSError:
            pytest.skip("no IPv6 loopback")
        assert httpx.post(f"{emulator.url}/track", content=EVENT).status_code == 200
        foreign = {"Host": "attacker.example"}
        assert httpx.post(f"{emulator.url}/track", headers=foreign).status_code == 421


# ---- Origin -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://attacker.example"},
        {"Origin": "http://localhost:3001"},
        {"Origin": "https://localhost:3000"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": f"{APP}.attacker.example"},
        {"Origin": f"{APP} https://attacker.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://attacker.example", "Sec-Fetch-Site": "same-origin"},
    ],
    ids=str,
)
@pytest.mark.parametrize(("method", "path"), [lane for lane in LANES if lane[1] != "/"])
def test_pages_of_other_origins_are_refused(emu, http, method, path, headers):
    """Simple requests have no preflight: the first one is refused, and nothing is stored."""
    emu.play(Fault.status(503))
    simple = {"Content-Type": "text/plain", **headers}
    refused = http.request(method, path, content=EVENT, headers=simple)
    assert refused.status_code == 403
    assert "--allow-origin" in refused.text
    assert "access-control-allow-origin" not in refused.headers
    assert emu.requests() == []
    assert http.post("/track", content=EVENT).status_code == 503  # the fault was not used up


def test_several_origins_are_refused(emu):
    """Even if one of them is allowed."""
    lines = ("Host: localhost", f"Origin: {APP}", "Origin: https://attacker.example")
    assert raw_response(emu, *lines, body=EVENT.encode())[0] == 403


def test_requests_that_are_not_cross_site_are_accepted(emu, http):
    """SDKs send no Origin; the emulator's own page and the address bar are recognised."""
    for headers in (
        {},
        {"Origin": emu.url},
        {"Origin": emu.url, "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ):
        assert http.post("/track", content=EVENT, headers=headers).text == "1"
    assert http.get("/", headers={"Sec-Fetch-Site": "none"}).status_code == 200


def test_a_link_to_the_web_page_works(http):
    """From any site, which cannot read the response."""
    answered = http.get("/", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"})
    assert answered.status_code == 200
    assert "access-control-allow-origin" not in answered.headers


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), LANES)
def test_an_allowed_origin_may_send_and_read(http, method, path):
    """Every response has CORS headers, including those that refuse a request."""
    answered = http.request(method, path, content=EVENT, headers={"Origin": APP})
    assert answered.status_code not in (403, 421)
    assert answered.headers["access-control-allow-origin"] == APP
    assert answered.headers["access-control-allow-credentials"] == "true"
    assert answered.headers["vary"] == "Origin"


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [Fault.status(503), Fault.status(204), Fault.html(), Fault.malformed(), Fault.drip(0.0)],
    ids=lambda fault: fault.name,
)
def test_responses_of_faults_have_cors_headers(emu, http, fault):
    """A page in development meets the same faults."""
    emu.play(fault)
    answered = http.post("/track", content=EVENT, headers={"Origin": APP})
    assert answered.headers.get_list("access-control-allow-origin") == [APP]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), LANES)
def test_a_preflight_of_an_allowed_origin_is_answered(emu, http, method, path):
    """Browsers send one before JSON or an Authorization header."""
    emu.play(Fault.status(503))
    asking = {
        "Origin": APP,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,content-type",
        "Access-Control-Request-Private-Network": "true",
    }
    answered = http.options(path, headers=asking)
    assert (answered.status_code, answered.content) == (204, b"")
    assert answered.headers["access-control-allow-origin"] == APP
    assert method in answered.headers["access-control-allow-methods"].split(", ")
    assert answered.headers["access-control-allow-headers"] == "authorization,content-type"
    assert answered.headers["access-control-allow-private-network"] == "true"
    assert emu.requests() == []
    asking["Origin"] = "https://attacker.example"
    assert http.options(path, headers=asking).status_code == 403


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("HTTP://LocalHost:3000/", "http://localhost:3000"),
        ("https://app.example:443", "https://app.example"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("null", "null"),
    ],
)
def test_origins_are_normalised(given, sent):
    """A slash, capitals or the default port do not matter."""
    with Emulator(allow_origins=given, now=lambda: 1_764_000_000) as emulator:
        url = f"{emulator.url}/track"
        assert httpx.post(url, content=EVENT, headers={"Origin": sent}).status_code == 200
        assert httpx.post(url, content=EVENT, headers={"Origin": APP + "1"}).status_code == 403


@pytest.mark.parametrize(
    "given",
    ["*", "localhost:3000", "http://", "http://a/b", "http://a?b", "ftp://a", "http://u@a", "",
     "http://*.example", "http://☃.example", "http://a:port", 3000, None],
)  # fmt: skip
def test_an_invalid_origin_is_an_error(given):
    """When the emulator is created."""
    with pytest.raises(ValueError, match="allow_origins must be origins of web pages"):
        Emulator(allow_origins=[given])


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("192.168.1.7:8650", 200),
        ("mixpanel:8650", 200),
        ("localhost", 200),
        ("evil.example", 421),
        ("evil.example:8650", 421),
        ("a b", 421),
    ],
)
def test_beyond_loopback_names_of_websites_are_still_refused(name, status):
    """Addresses and names of containers are served, but no name that another website can have."""
    with Emulator(host="0.0.0.0", allow_remote=True) as emulator:
        url = f"{emulator.url}/flags/definitions"
        found = httpx.get(url, headers={"Host": name}, auth=("T", ""))
    assert status == found.status_code


def test_a_host_beyond_loopback_must_be_an_address():
    """The URL of 0.0.0.0 is one of this machine's own."""
    with pytest.raises(ValueError, match=r"0\.0\.0\.0 for all"):
        Emulator(host="example.org", allow_remote=True)
    assert Emulator(host="0.0.0.0", allow_remote=True).url.startswith("http://127.0.0.1:")
