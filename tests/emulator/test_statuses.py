"""Statuses that Python has no name for, on every endpoint of the emulator."""

import http.client

import httpx
import pytest

from mixpanel import DeliveryError, RetryPolicy
from mixpanel.cdp import CustomerIO, Hightouch
from mixpanel.emulator import CustomerIORules, Emulator, Fault, HightouchRules

NOW = 1_795_000_000
UNNAMED = (460, 499, 509, 512, 529, 530, 599)
TRACK = {"userId": "u1", "event": "Order Paid", "messageId": "m1"}
WIRES = {
    "/track": "POST",
    "/import": "POST",
    "/engage": "POST",
    "/groups": "POST",
    "/lookup-tables": "GET",
    "/flags": "GET",
    "/flags/definitions": "GET",
    "/api/2.0/export": "GET",
    "/api/query/engage": "POST",
    "/api/app/projects": "GET",
    "/customerio/v1/track": "POST",
    "/customerio/v1/batch": "POST",
    "/hightouch/v1/track": "POST",
    "/hightouch/v1/batch": "POST",
    "/hightouch/oauth/token": "POST",
}


@pytest.fixture(scope="module")
def emu():
    """An emulator for all the tests here: each uses up its faults."""
    with Emulator(now=lambda: NOW) as emulator:
        yield emulator


@pytest.fixture(scope="module")
def http_client(emu):
    """One client, so that a broken connection would show."""
    with httpx.Client(base_url=emu.url) as client:
        yield client


@pytest.mark.slow
@pytest.mark.parametrize("path", WIRES)
@pytest.mark.parametrize("status", [200, 299, 399, 400, 408, 418, 503, *UNNAMED])
def test_a_status_can_be_scripted_on_every_endpoint(emu, http_client, path, status):
    """With a name or without, and with a body."""
    emu.play(Fault.status(status), path=path)
    response = http_client.request(WIRES[path], path)
    assert (status, True) == (response.status_code, bool(response.content))


@pytest.mark.slow
def test_every_status_can_be_scripted(emu, http_client):
    """From 200 to 599, without breaking the connection."""
    path, statuses = "/hightouch/v1/track", range(200, 600)
    emu.play(*map(Fault.status, statuses), path=path)
    answers = [http_client.post(path) for _ in statuses]
    assert list(statuses) == [each.status_code for each in answers]
    assert [204, 205, 304] == [each.status_code for each in answers if not each.content]


@pytest.mark.slow
@pytest.mark.parametrize("status", UNNAMED)
def test_an_unnamed_status_has_the_phrase_of_its_class(emu, http_client, status):
    """In the format of each endpoint."""
    name = "Client Error" if status < 500 else "Server Error"
    code, message = name.lower().replace(" ", "_"), f"scripted answer {status}"
    bodies = {
        "/track": {"code": status, "error": message, "status": name},
        "/customerio/v1/track": {"meta": {"error": message}},
        "/hightouch/v1/track": {"code": code, "message": message},
        "/hightouch/oauth/token": {"error": "invalid_request", "error_description": message},
    }
    for path, expected in bodies.items():
        emu.play(Fault.status(status), path=path)
        assert expected == http_client.post(path).json()


@pytest.mark.parametrize("status", [204, 205, 304])
def test_some_statuses_never_have_a_body(emu, http_client, status):
    """Whatever was scripted, as HTTP requires."""
    emu.play(Fault.status(status, body={"error": "no"}, retry_after=3), path="/track")
    response = http_client.post("/track")
    assert (status, b"", "3") == (
        response.status_code,
        response.content,
        response.headers["retry-after"],
    )


@pytest.mark.parametrize("status", [0, 100, 199, 600, -1])
def test_an_invalid_status_is_an_error(status):
    """A typo is reported when the fault is created."""
    with pytest.raises(ValueError, match="between 200 and 599"):
        Fault.status(status)


@pytest.mark.slow
@pytest.mark.parametrize("vendor", ["customerio", "hightouch"])
@pytest.mark.parametrize("status", UNNAMED)
def test_clients_report_an_unnamed_status(emu, vendor, status):
    """Not a broken connection."""
    client = {"customerio": CustomerIO, "hightouch": Hightouch}[vendor]
    emu.play(Fault.status(status), path=f"/{vendor}/v1/track")
    once = {
        "base_url": f"{emu.url}/{vendor}",
        "send_immediately": True,
        "retry": RetryPolicy(attempts=1),
    }
    with client("KEY", **once) as cdp, pytest.raises(DeliveryError) as caught:
        cdp.track("u1", "Order Paid")
    assert status == caught.value.status


@pytest.mark.slow
@pytest.mark.parametrize("status", UNNAMED)
def test_rules_may_choose_an_unnamed_status(status):
    """For oversize messages."""
    rules = {"max_batch_bytes": 10, "oversize_status": status}
    options = {"customerio": CustomerIORules(**rules), "hightouch": HightouchRules(**rules)}
    with Emulator(now=lambda: NOW, **options) as emu:
        for url in (emu.customerio_url, emu.hightouch_url):
            headers = {"X-Strict-Mode": "1"}
            response = httpx.post(f"{url}/v1/track", json=TRACK, auth=("KEY", ""), headers=headers)
            assert status == response.status_code


@pytest.mark.parametrize(("status", "reason"), [(200, "OK"), (299, "Successful")])
def test_a_truncated_response_has_an_unnamed_status(status, reason):
    """There the emulator writes the head of the response itself."""
    with Emulator(now=lambda: NOW, hightouch=HightouchRules(success_status=status)) as emu:
        emu.play(Fault.drip(0))
        connection = http.client.HTTPConnection(emu.host, emu.port)
        body = b'{"userId": "u1", "event": "x", "messageId": "m1", "writeKey": "KEY"}'
        connection.request("POST", "/hightouch/v1/track", body)
        response = connection.getresponse()
        assert (status, reason, b"{}") == (response.status, response.reason, response.read())
        connection.close()
