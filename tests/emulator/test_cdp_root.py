"""Customer.io and Hightouch at the root, for clients that drop the path of a base URL."""

import httpx
import pytest

from mixpanel.emulator import CustomerIORules, Emulator, HightouchRules

TRACK = {"type": "track", "userId": "u", "event": "Order Paid", "messageId": "m", "properties": {}}


def library(name):
    return {**TRACK, "context": {"library": {"name": name, "version": "1"}}}


@pytest.fixture
def emu():
    """A project where one write key is known to Hightouch only."""
    rules = {
        "customerio": CustomerIORules(keys=["cio", "both", "sk_us_1"]),
        "hightouch": HightouchRules(keys=["ht", "both"]),
    }
    with Emulator(**rules) as emulator:
        yield emulator


def send(emu, body, *, key="both", path="/v1/batch", **headers):
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    if path == "/v1/batch":
        body = {"batch": [body]}
    auth = (key, "") if key else None
    return httpx.post(f"{emu.url}{path}", json=body, headers=fields, auth=auth)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("vendor", "body", "options"),
    [
        ("customerio", TRACK, {"X_Strict_Mode": "1"}),
        ("customerio", TRACK, {"User_Agent": "Customer.io Node Client/5.0.1"}),
        ("customerio", TRACK, {"User_Agent": "cdp-analytics-node/latest"}),
        ("customerio", TRACK, {"key": "", "Authorization": "Bearer sk_us_1"}),
        ("customerio", TRACK, {"key": "cio"}),
        ("customerio", library("@customerio/cdp-analytics-node"), {}),
        ("hightouch", TRACK, {"User_Agent": "events-sdk-js-node/latest"}),
        ("hightouch", TRACK, {"User_Agent": "events-sdk-python/0.0.4"}),
        ("hightouch", TRACK, {"key": "ht"}),
        ("hightouch", library("@ht-sdks/events-sdk-js-node"), {}),
        ("hightouch", {**TRACK, "writeKey": "ht"}, {"key": "", "path": "/v1/track"}),
    ],
)
def test_the_vendor_is_that_of_the_client(emu, vendor, body, options):
    """By a header, else by the library or key of the body, else by who knows the write key."""
    response = send(emu, body, **options)
    assert (200, "{}") == (response.status_code, response.text)
    assert [vendor] == [each["vendor"] for each in emu.cdp_messages()]


def test_errors_are_those_of_the_vendor(emu):
    """Each in its own format."""
    refused = send(emu, {"type": "track"}, X_Strict_Mode="1")
    assert (400, ["meta"]) == (refused.status_code, [*refused.json()])
    refused = send(emu, TRACK, key="other", User_Agent="events-sdk-js-node/latest")
    assert (401, ["code", "message"]) == (refused.status_code, [*refused.json()])


def test_a_request_that_could_be_either_is_refused(emu):
    """It says where both vendors are, and keeps nothing."""
    refused = send(emu, TRACK)
    assert 404 == refused.status_code
    assert f"{emu.url}/customerio/v1 or {emu.url}/hightouch/v1" in refused.json()["error"]
    assert ([], []) == (emu.cdp_messages(), emu.cdp_dropped())
