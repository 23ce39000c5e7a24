"""Scripted faults: what the client sees, and what the server stored."""

import json
import socket
import threading
import time

import httpx
import pytest

from mixpanel.emulator import Emulator, Fault

NOW = 1_764_000_000
EVENT = {
    "event": "Order Paid",
    "properties": {"token": "T", "time": NOW, "distinct_id": "u1", "$insert_id": "a-1"},
}


@pytest.fixture
def emu():
    """An emulator whose clock stands still."""
    with Emulator(now=lambda: NOW) as emulator:
        yield emulator


@pytest.fixture
def http(emu):
    """A client that sends to the emulator."""
    with httpx.Client(base_url=emu.url) as client:
        yield client


def track(http, **options):
    return http.post("/track?verbose=1", json=[EVENT], **options)


def raw_request(body, length=None):
    head = "POST /track HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {length or len(body)}\r\n\r\n{body}".encode()


# The script


def test_each_fault_happens_once_and_in_order(emu, http):
    """After the last one requests succeed again."""
    emu.play(Fault.status(503), Fault.status(429) * 2)
    assert [503, 429, 429, 200] == [track(http).status_code for _ in range(4)]


def test_a_fault_can_last_until_clear(emu, http):
    """It applies to every request."""
    emu.play(Fault.status(500).forever())
    assert [500] * 5 == [track(http).status_code for _ in range(5)]
    emu.clear()
    assert 200 == track(http).status_code


def test_a_fault_can_be_for_one_path(emu, http):
    """Other paths do not use it up."""
    emu.play(Fault.status(503), path="/engage")
    assert [200, 503, 200] == [
        http.post(path, json=[{**EVENT, "$token": "T"}]).status_code
        for path in ("/track", "/engage", "/engage")
    ]


def test_a_fault_can_wait_for_a_matching_request(emu, http):
    """`when` gets the request with its body."""
    emu.play(Fault.reset(), when=lambda request: len(request.records) > 1)
    assert 200 == track(http).status_code
    with pytest.raises(httpx.ReadError):
        http.post("/track", json=[EVENT, EVENT])
    assert 1 == len(emu.events(raw=True))


def test_a_fault_multiplied_by_zero_never_happens(emu, http):
    """The next request succeeds."""
    emu.play(Fault.status(500) * 0)
    assert 200 == track(http).status_code


def test_faults_do_not_apply_to_the_web_page(emu, http):
    """Viewing it does not use them up."""
    emu.play(Fault.status(500))
    assert [200, 500] == [http.get("/").status_code, track(http).status_code]


# Responses


def test_status_ingests_nothing(emu, http):
    """The error has Mixpanel's format, without Retry-After unless requested."""
    emu.play(Fault.status(503))
    answer = track(http)
    assert "Service Unavailable" == answer.json()["status"]
    assert "retry-after" not in answer.headers
    assert ([], [503]) == (emu.events(), [each.status for each in emu.requests()])


@pytest.mark.parametrize(
    ("given", "header"), [(7, "7"), (0.5, "0.5"), ("Fri, 20 Nov 2026 10:00:00 GMT",) * 2]
)
def test_status_can_have_retry_after(emu, http, given, header):
    """Seconds or a date."""
    emu.play(Fault.status(429, retry_after=given))
    assert header == track(http).headers["retry-after"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "content"),
    [(b"\x00", b"\x00"), ("no", b"no"), ({"code": 1}, b'{"code": 1}'), ([], b"[]"), ("", b"")],
)
def test_status_can_have_any_body(emu, http, body, content):
    """Bytes, text, JSON."""
    emu.play(Fault.status(502, body=body))
    assert content == track(http).content


@pytest.mark.slow
@pytest.mark.parametrize("code", [204, 304, 408, 524])
def test_any_status_can_be_scripted(emu, http, code):
    """Including those without a body or a name."""
    emu.play(Fault.status(code))
    assert code == track(http).status_code
    assert 200 == track(http).status_code


def test_latency_delays_the_usual_response(emu, http):
    """The request is ingested before the delay."""
    emu.play(Fault.latency(0.1))
    began = time.monotonic()
    assert 1 == track(http).json()["status"]
    assert time.monotonic() - began >= 0.1
    emu.clear()
    emu.play(Fault.latency(9))
    with pytest.raises(httpx.ReadTimeout):
        track(http, timeout=0.05)
    assert [EVENT] == emu.wait_for(1)


def test_html_is_a_captive_portal(emu, http):
    """200, a web page, and nothing ingested."""
    emu.play(Fault.html())
    answer = track(http)
    assert (200, "text/html") == (answer.status_code, answer.headers["content-type"])
    assert [] == emu.events()


@pytest.mark.parametrize("ingested", [True, False])
def test_malformed_is_incomplete_json(emu, http, ingested):
    """With the usual status and content type."""
    emu.play(Fault.malformed(ingested=ingested))
    answer = track(http)
    assert (200, "application/json") == (answer.status_code, answer.headers["content-type"])
    with pytest.raises(json.JSONDecodeError):
        answer.json()
    assert ingested == bool(emu.events())


@pytest.mark.parametrize("ingested", [True, False])
def test_truncated_sends_fewer_bytes_than_declared(emu, http, ingested):
    """Then the connection is closed."""
    emu.play(Fault.truncated(ingested=ingested))
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete"):
        track(http)
    assert ingested == bool(emu.events())


@pytest.mark.slow
@pytest.mark.parametrize("headers", [True, False])
def test_a_drip_arrives_completely(emu, http, headers):
    """Byte by byte."""
    emu.play(Fault.drip(0.001, headers=headers))
    assert {"status": 1, "error": None} == track(http).json()
    assert (1, 200) == (len(emu.events()), emu.requests()[0].status)


@pytest.mark.slow
def test_a_drip_outlasts_a_read_timeout(emu, http):
    """Each byte is in time, the response is not: only a total deadline helps."""
    emu.play(Fault.drip(0.03))
    began = time.monotonic()
    track(http, timeout=0.5)
    assert time.monotonic() - began > 0.5


def test_partial_rejects_the_given_records(emu, http):
    """They are listed in failed_records; the others are stored."""
    emu.play(Fault.partial([1], "because"))
    other = {**EVENT, "event": "Other"}
    answer = http.post("/import?project_id=1", json=[EVENT, other], auth=("robot", "s3cret"))
    failed = {"index": 1, "$insert_id": "a-1", "field": "", "message": "because"}
    assert (400, [failed]) == (answer.status_code, answer.json()["failed_records"])
    assert [EVENT] == emu.events()


# Connections


def test_a_reset_sends_rst(emu):
    """The client cannot mistake it for the end of the response."""
    emu.play(Fault.reset("before"))
    with socket.create_connection(("127.0.0.1", emu.port)) as connection:
        connection.sendall(raw_request("[]"))
        with pytest.raises(ConnectionResetError):
            connection.recv(100)


def test_reset_before_the_body_does_not_wait_for_it(emu):
    """The headers are enough."""
    emu.play(Fault.reset("before"))
    with socket.create_connection(("127.0.0.1", emu.port)) as connection:
        connection.sendall(raw_request("", length=100))
        with pytest.raises(ConnectionResetError):
            connection.recv(100)
    (request,) = emu.requests()
    assert (b"", None, []) == (request.body, request.status, emu.events())


def test_reset_during_the_body_has_read_some_of_it(emu):
    """Nothing of it is ingested."""
    emu.play(Fault.reset("during"))
    with socket.create_connection(("127.0.0.1", emu.port)) as connection:
        connection.sendall(raw_request("[{", length=100))
        with pytest.raises(ConnectionResetError):
            connection.recv(100)
    (request,) = emu.requests()
    assert (b"[{", None, []) == (request.body, request.status, emu.events())


def test_reset_after_the_body_still_ingests(emu, http):
    """The client cannot know, and a repeated `$add` shows."""
    update = [{"$token": "T", "$distinct_id": "u1", "$add": {"credits": 5}}]
    emu.play(Fault.reset("after"))
    with pytest.raises(httpx.ReadError):
        http.post("/engage", json=update)
    assert {"u1": {"credits": 5}} == emu.profiles()
    http.post("/engage", json=update)
    assert {"u1": {"credits": 10}} == emu.profiles()
    assert [None, 200] == [each.status for each in emu.requests()]


def test_an_unknown_kind_of_reset_is_an_error():
    """A typo is reported when the fault is created."""
    with pytest.raises(ValueError, match='when must be "before", "during"'):
        Fault.reset("later")


@pytest.mark.parametrize("ingested", [True, False])
def test_silence_never_responds(emu, http, ingested):
    """The client has to time out; the next request succeeds."""
    emu.play(Fault.silence(ingested=ingested))
    with pytest.raises(httpx.ReadTimeout):
        track(http, timeout=0.1)
    assert [EVENT] * ingested == emu.wait_for(int(ingested))
    assert [None] == [each.status for each in emu.requests()]
    assert 200 == track(http).status_code


@pytest.mark.parametrize(
    "fault", [Fault.silence(), Fault.drip(60), Fault.drip(60, headers=True), Fault.latency(60)]
)
def test_stop_aborts_a_delayed_request(fault):
    """It does not wait for a scripted minute."""
    ended: list[Exception] = []

    def send():
        try:
            httpx.post(f"{emulator.url}/track", json=[EVENT], timeout=120)
        except httpx.TransportError as error:
            ended.append(error)

    with Emulator(now=lambda: NOW) as emulator:
        emulator.play(fault)
        client = threading.Thread(target=send)
        client.start()
        while not (came := emulator.requests()) or not came[0].body:
            time.sleep(0.001)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    client.join(5)
    assert 1 == len(ended)


def test_a_client_that_disconnects_leaves_nothing_behind(emu):
    """Its incomplete request is recorded, nothing is logged or left running."""
    with socket.create_connection(("127.0.0.1", emu.port)) as connection:
        connection.sendall(raw_request("[{", length=100))
        while not emu.requests():
            time.sleep(0.001)
    emu.stop()
    assert ([None], []) == ([each.status for each in emu.requests()], emu.events())
