"""Defects of other libraries for these two vendors, which do not occur here.

The numbers are those of the list of defects that the tests were written from: S for what both
forks of Segment's library share, C for Customer.io's, H for Hightouch's.
"""

import json
import logging
import re
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from importlib.metadata import distribution, packages_distributions
from pathlib import PurePosixPath
from uuid import UUID

import anyio
import pytest

from mixpanel import Limits, RejectedError, ValidationError
from mixpanel.cdp import CustomerIO, Hightouch, HightouchOAuth
from mixpanel.emulator import Emulator, Fault
from tests.cdp.run_clients import RUNTIMES, messages, run_calls
from tests.cdp.test_oauth import key_pair

pytestmark = pytest.mark.slow


@pytest.fixture(params=RUNTIMES)
def runtime(request):
    """Run a test on asyncio, on trio, and without a loop."""
    return request.param


@pytest.fixture(params=["customerio", "hightouch"])
def vendor(request):
    """Run a test against each vendor."""
    return request.param


FACES = {"customerio": CustomerIO, "hightouch": Hightouch}


def made(emu, vendor, **options):
    return FACES[vendor]("k", base_url=getattr(emu, f"{vendor}_url"), **options)


# ---- S: both forks ------------------------------------------------------------------------------


def test_concurrent_requests_lose_no_message(emu, runtime, vendor):
    """The other libraries joined only one of three threads, and lost the messages of the others."""
    calls = [lambda c, n=n: c.track("u", "Visit", {"n": n}) for n in range(500)]
    few = Limits(max_batch_size=10, concurrency=4)
    result, _ = run_calls(runtime, emu, vendor, *calls, ordered=False, limits=few)
    assert 500 == result.delivered
    assert list(range(500)) == sorted(m["properties"]["n"] for m in messages(emu))


def test_closing_sends_the_whole_queue(emu, vendor):
    """The other libraries stopped after the current batch: 1 of 500 arrived."""
    client = made(emu, vendor, limits=Limits(max_batch_size=100))
    for n in range(500):
        client.track("u", "Visit", {"n": n})
    client.close()
    assert list(range(500)) == [m["properties"]["n"] for m in messages(emu)]


def test_a_client_that_sends_immediately_can_be_closed(emu, vendor):
    """The other libraries raised TypeError, as there was no thread to join."""
    client = made(emu, vendor, send_immediately=True)
    client.track("u", "Visit")
    assert client.close().ok


def test_flush_returns_after_a_message_that_is_too_large(emu, vendor):
    """The other libraries waited for it forever."""
    client = made(emu, vendor, on_drop=lambda *_: None)
    client.track("u", "Big", {"t": "x" * 40_000})
    assert client.flush(5).pending == 0
    client.close()


@pytest.mark.parametrize("ago", [timedelta(0), timedelta(hours=-5), timedelta(days=400)])
def test_naive_datetimes_are_utc(emu, runtime, vendor, ago):
    """The other libraries guessed: some landed five hours in the future."""
    timestamp = datetime(2026, 3, 1, 12, 30) - ago
    run_calls(runtime, emu, vendor, lambda c: c.track("u", "Visit", timestamp=timestamp))
    actual = datetime.fromisoformat(messages(emu)[0]["timestamp"])
    assert timestamp.replace(tzinfo=UTC) == actual


def test_unusual_values_are_converted_and_not_dropped(emu, runtime, vendor):
    """The other libraries dropped the whole key for one UUID in it."""

    @dataclass
    class Price:
        amount: Decimal

    class Plan(Enum):
        TEAM = "team"

    given = {
        "uuid": UUID(int=1), "path": PurePosixPath("/a"), "list": [UUID(int=2), 1],
        "price": Price(Decimal("1.5")), "plan": Plan.TEAM, "set": {1}, "bytes": b"\xff",
        "delta": timedelta(seconds=90),
    }  # fmt: skip
    run_calls(runtime, emu, vendor, lambda c: c.track("u", "Visit", given))
    kept = messages(emu)[0]["properties"]
    assert given.keys() == kept.keys()
    assert None not in kept.values()
    assert [str(UUID(int=2)), 1] == kept["list"]


def test_zero_is_a_valid_id_and_empty_text_is_not(emu, runtime, vendor):
    """The other libraries rejected 0, and accepted True, NaN and an event without a name."""
    run_calls(runtime, emu, vendor, lambda c: c.track(0, "Visit"))
    assert "0" == messages(emu)[0]["userId"]
    for bad in (True, float("nan"), 1j, "", None):
        with pytest.raises(ValidationError):
            run_calls(runtime, emu, vendor, lambda c, bad=bad: c.track(bad, "Visit"))
    with pytest.raises(ValidationError):
        run_calls(runtime, emu, vendor, lambda c: c.track("u", ""))


def test_the_callers_dicts_are_not_modified(emu, runtime, vendor):
    """The other libraries wrote into the context and overwrote its library."""
    context = {"library": {"name": "mine"}}
    run_calls(runtime, emu, vendor, lambda c: c.track("u", "Visit", context=context))
    assert {"library": {"name": "mine"}} == context
    assert {"name": "mine"} == messages(emu)[0]["context"]["library"]


def test_no_request_exceeds_the_limits(emu, runtime, vendor):
    """The other libraries sent one of 507,751 bytes, which Customer.io drops with a 200."""
    calls = [lambda c: c.track("u", "Visit", {"t": "x" * 31_500})] * 35
    result, _ = run_calls(runtime, emu, vendor, *calls)
    assert 35 == result.delivered
    assert max(len(r.body) for r in emu.requests(f"/{vendor}/v1/batch")) <= 475_000


@pytest.mark.parametrize("body", [b"", b"oops", b"[]", b'{"meta":{"errors":["x"]}}', b'{"a":1}'])
def test_a_rejection_in_any_format_is_not_retried(emu, runtime, vendor, body):
    """The other libraries took a missing `code` for a network error, and tried eleven times."""
    emu.play(Fault.status(400, body=body).forever())
    result, stats = run_calls(runtime, emu, vendor, lambda c: c.track("u", "Visit"))
    assert (1, 0, 1) == (result.rejected, stats.retried, len(emu.requests()))


def test_bodies_are_compact_json(emu, runtime, vendor):
    """The other libraries wrote NaN, which is not JSON, and three times the bytes for an emoji."""
    run_calls(
        runtime, emu, vendor, lambda c: c.track("u", "Visit", {"n": float("nan"), "t": "🎈" * 300})
    )
    body = emu.requests(f"/{vendor}/v1/batch")[0].body

    def refuse(name):
        raise AssertionError(name)

    json.loads(body, parse_constant=refuse)
    assert ("🎈" * 300).encode() in body


def test_flush_and_close_respect_their_timeout(emu, vendor):
    """The other libraries had no timeout; a dead server blocked a program for 17 minutes."""
    emu.play(Fault.status(503).forever())
    client = made(emu, vendor, on_error=lambda *_: None)
    client.track("u", "Visit")
    assert 1 == client.flush(0.05).pending
    assert {"closed": 1} == client.close(0.05).dropped


def test_no_log_contains_a_payload_or_a_key(emu, runtime, vendor, caplog):
    """The other libraries logged whole messages, and Hightouch's the write key too."""
    caplog.set_level(logging.DEBUG, "mixpanel")
    emu.play(Fault.status(500), Fault.status(400))
    run_calls(
        runtime, emu, vendor, lambda c: c.track("canary", "Visit"),
        lambda c: c.track("u", "Big", {"t": "canary" * 9000}), key="hunter2-hunter2",
    )  # fmt: skip
    ours = [record.getMessage() for record in caplog.records if record.name == "mixpanel"]
    assert len(ours) >= 2
    assert not [text for text in ours if "canary" in text or "hunter2" in text]


# ---- C: Customer.io's ---------------------------------------------------------------------------


def test_an_exception_in_on_error_does_not_stop_the_sender(emu, runtime):
    """The other libraries lost their only thread, and flush hung."""

    def broken(*_):
        raise RuntimeError("mine")

    emu.play(Fault.status(400))
    calls = [lambda c: c.track("u", "Visit")] * 3
    result, _ = run_calls(runtime, emu, "customerio", calls[0], on_error=broken)
    assert 1 == result.rejected
    result, _ = run_calls(runtime, emu, "customerio", *calls, on_error=broken)
    assert 3 == result.delivered


def test_the_package_does_not_install_foreign_modules():
    """The other libraries install a foreign top-level package, and pin unneeded dependencies."""
    actual = distribution("mixpanel-async")
    needed = {re.match(r"[\w-]+", one)[0].lower() for one in actual.requires or ()}
    assert not needed & {"requests", "backoff", "monotonic", "python-dateutil"}
    assert not {"customerio", "hightouch"} & {
        name for name, owners in packages_distributions().items() if "mixpanel-async" in owners
    }


def test_a_wrong_key_is_not_counted_as_delivered(runtime):
    """The other libraries reported a successful upload."""
    from mixpanel.emulator import CustomerIORules

    with Emulator(customerio=CustomerIORules(keys=["right"])) as emu:
        result, _ = run_calls(runtime, emu, "customerio", lambda c: c.track("u", "Visit"))
    assert (0, 1) == (result.delivered, result.pending)


def test_requests_identify_this_library(emu, runtime, vendor):
    """The other libraries used the name of the library that they were forked from."""
    run_calls(runtime, emu, vendor, lambda c: c.track("u", "Visit"))
    (entry,) = emu.cdp_messages()
    assert entry["headers"]["user-agent"].startswith("mixpanel-async/")
    assert "mixpanel-async" == entry["message"]["context"]["library"]["name"]


# ---- H: Hightouch's -----------------------------------------------------------------------------


@contextmanager
def a_proxy():
    """Act as a proxy: accept one request, answer 200, and record its first line."""
    seen = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            connection, _ = listener.accept()
            with connection:
                seen.append(connection.recv(65536).partition(b"\r\n")[0])
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                connection.settimeout(5)
                while connection.recv(65536):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", seen
        thread.join()


def test_requests_use_the_configured_proxy(runtime, vendor):
    """The other libraries ignored the setting."""
    with a_proxy() as (address, seen):

        class Elsewhere:
            customerio_url = hightouch_url = "http://localhost:9"

        result, _ = run_calls(
            runtime, Elsewhere, vendor, lambda c: c.track("u", "Visit"), proxy=address
        )
    assert 1 == result.delivered
    assert [b"POST http://localhost:9/v1/batch HTTP/1.1"] == seen


def test_a_401_renews_the_access_token_and_a_400_does_not(emu, runtime):
    """The other library kept a revoked token, and discarded a valid one."""
    who = HightouchOAuth("c", key_pair()[0], "key-1", server=emu.hightouch_oauth_url)

    def revoke(client):
        emu.revoke_tokens()
        return client.track("u", "Visit")

    calls = [lambda c: c.track("u", "Visit"), revoke]
    run_calls(runtime, emu, "hightouch", *calls, oauth=who, send_immediately=True)
    assert (2, 2) == (len(messages(emu)), len(emu.requests("/hightouch/oauth/token")))
    emu.clear()
    emu.play(Fault.status(400), path="/hightouch/v1/batch")
    run_calls(runtime, emu, "hightouch", *calls[:1] * 2, oauth=who, limits=Limits(max_batch_size=1))
    assert 1 == len(messages(emu))
    assert 1 == len(emu.requests("/hightouch/oauth/token"))


@pytest.mark.parametrize(
    "fault",
    [
        Fault.status(400, body={"odd": "shape"}),
        Fault.status(429, headers={"X-RateLimit-Reset": "1764000000"}),
        Fault.status(200, body={"no": "token"}),
    ],
    ids=["error without error", "reset in seconds", "200 without a token"],
)
def test_no_response_of_the_authorization_server_causes_a_busy_loop(emu, runtime, fault):
    """The other library used a whole core, or blocked, forever."""
    emu.play(fault.forever(), path="/hightouch/oauth/token")
    who = HightouchOAuth("c", key_pair()[0], "key-1", server=emu.hightouch_oauth_url)
    result, _ = run_calls(
        runtime, emu, "hightouch", lambda c: c.track("u", "Visit"), oauth=who, flush_timeout=0.2,
        close_timeout=0.05, on_error=lambda *_: None, retry=None,
    )  # fmt: skip
    assert (0, 1) == (result.delivered, result.pending)
    assert len(emu.requests("/hightouch/oauth/token")) < 10


def test_the_retry_wait_starts_anew_after_each_outage(emu, runtime):
    """The other libraries never reset their retry count."""
    who = HightouchOAuth("c", key_pair()[0], "key-1", server=emu.hightouch_oauth_url)
    emu.play(Fault.status(500) * 4, path="/hightouch/oauth/token")

    def outage(client):
        emu.revoke_tokens()
        emu.play(Fault.status(500) * 4, path="/hightouch/oauth/token")
        return client.track("u", "Visit")

    calls = [lambda c: c.track("u", "Visit"), outage]
    result, stats = run_calls(
        runtime, emu, "hightouch", *calls, oauth=who, on_error=lambda *_: None
    )
    assert (2, 0) == (stats.delivered, result.pending)


def test_the_error_for_a_large_message_is_readable(emu, vendor):
    """In the other libraries it was a tuple of format string and arguments with the message."""
    with made(emu, vendor, send_immediately=True) as client, pytest.raises(Exception) as caught:
        client.track("u", "Big", {"t": "x" * 40_000}, message_id="m-1")
    name = client._api.dialect.name
    assert str(caught.value).startswith("<Message track m-1 ")
    assert f"bytes larger than {name} takes: it was not sent" in str(caught.value)


def test_a_group_message_needs_no_person_at_customerio(emu, runtime):
    """The other library required one."""
    run_calls(runtime, emu, "customerio", lambda c: c.group(None, "g", {"name": "Acme"}))
    assert "g" == messages(emu)[0]["groupId"]


def test_object_types_are_sent_in_the_traits(emu, runtime):
    """At the top of a message they are ignored, and every object becomes type 1."""
    run_calls(runtime, emu, "customerio", lambda c: c.set_object("o", object_type_id=3))
    assert "3" == messages(emu)[0]["traits"]["object_type_id"]


def test_suppressing_is_not_unsubscribing(emu, runtime):
    """A trait does not delete a person."""
    run_calls(runtime, emu, "customerio", lambda c: c.suppress_person("u"))
    assert ("track", "User Suppressed") == (messages(emu)[0]["type"], messages(emu)[0]["event"])


def test_an_empty_200_response_is_a_success(runtime):
    """The other libraries failed to decode it."""
    from mixpanel.emulator import CustomerIORules

    with Emulator(customerio=CustomerIORules(empty_body=True)) as emu:
        run_calls(
            runtime, emu, "customerio", lambda c: c.track("u", "Visit"), send_immediately=True
        )
        assert 1 == len(messages(emu))


def test_send_immediately_names_the_rejected_message(emu, runtime, vendor):
    """With its record, for a dead-letter file."""
    emu.play(Fault.status(400))
    with pytest.raises(RejectedError) as caught:
        run_calls(runtime, emu, vendor, lambda c: c.track("u", "Visit"), send_immediately=True)
    assert "Visit" == caught.value.rejected_records[0].record["event"]


def test_cancelling_a_flush_loses_nothing(emu):
    """The sender continues, and pending messages stay pending."""
    from mixpanel.cdp import AsyncCustomerIO

    emu.play(Fault.latency(0.2))

    async def main():
        async with AsyncCustomerIO("k", base_url=emu.customerio_url) as client:
            await client.track("u", "Visit")
            with anyio.move_on_after(0.05):
                await client.flush()
            return await client.aclose()

    anyio.run(main)
    assert 1 == len(messages(emu))
