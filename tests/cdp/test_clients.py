"""The clients of Customer.io and Hightouch on every runtime, over a real socket."""

import asyncio
import inspect
import json
import os
import pydoc
import subprocess
import sys
import threading
from collections.abc import Coroutine
from typing import Any
from uuid import UUID

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixpanel import (
    AuthenticationError,
    ClosedError,
    ConfigurationError,
    Limits,
    PayloadTooLargeError,
    QueueFullError,
    RejectedError,
    RetryPolicy,
    ServerError,
    SyncInAsyncError,
    ValidationError,
)
from mixpanel._http.request import Send
from mixpanel._http.responses import (
    Response,
    ResponseOutcome,
)
from mixpanel.cdp import (
    AsyncCustomerIO,
    AsyncHightouch,
    AsyncSegmentClient,
    CustomerIO,
    CustomerIOComposer,
    Dialect,
    Hightouch,
    SegmentClient,
    SegmentComposer,
    WriteKey,
    semantic,
)
from mixpanel.credentials import Secret
from mixpanel.emulator import Emulator, Fault
from mixpanel.emulator._rules.cdp import CustomerIORules, HightouchRules
from tests.cdp.run_clients import FAST_RETRY, RUNTIMES, messages, run_calls

EU_KEY = "sk_eu_" + "0" * 32 + "_000000"
SIX = (
    lambda c: c.identify("u1", {"plan": "team"}),
    lambda c: c.track("u1", "Paid", {"amount": 1}),
    lambda c: c.page("u1", "Docs", "Start"),
    lambda c: c.screen("u1", None, "Home"),
    lambda c: c.group("u1", "g1", {"name": "Acme"}),
    lambda c: c.alias("anon", "u1"),
)
KINDS = ["identify", "track", "page", "screen", "group", "alias"]


@pytest.fixture(params=RUNTIMES)
def runtime(request):
    """Run a test on asyncio, on trio, and without a loop."""
    return request.param


@pytest.fixture(params=["customerio", "hightouch"])
def vendor(request):
    """Run a test against each vendor."""
    return request.param


# ---- delivery -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_six_calls_are_sent_in_one_batch(emu, runtime, vendor):
    """In the order they were made, each with a random UUID for its id."""
    result, stats = run_calls(runtime, emu, vendor, *SIX)
    assert (6, True, 1) == (result.delivered, result.ok, stats.requests)
    kept = emu.cdp_messages(vendor)
    assert KINDS == [entry["message"]["type"] for entry in kept]
    assert {"batch"} == {entry["endpoint"] for entry in kept}
    ids = {UUID(entry["message"]["messageId"]) for entry in kept}
    assert (6, {4}) == (len(ids), {one.version for one in ids})


@pytest.mark.slow
def test_send_immediately_uses_the_endpoint_of_each_kind(emu, runtime, vendor):
    """All six, each in a request of its own; `batch` is the seventh."""
    batch = [{"type": kind, "userId": "u2"} for kind in ("identify", "page")]
    run_calls(runtime, emu, vendor, *SIX, lambda c: c.batch(batch), send_immediately=True)
    assert [*KINDS, "batch", "batch"] == [e["endpoint"] for e in emu.cdp_messages(vendor)]
    assert [*KINDS, "identify", "page"] == [m["type"] for m in messages(emu)]
    assert [] == emu.cdp_dropped()


def test_send_immediately_raises_the_servers_error(emu, runtime):
    """The error has the server's reason and the name of the vendor."""
    emu.play(Fault.status(400, body={"meta": {"errors": ["userId is odd"]}}))
    with pytest.raises(RejectedError) as caught:
        run_calls(runtime, emu, "customerio", SIX[0], send_immediately=True)
    assert "Customer.io: HTTP 400: userId is odd" == str(caught.value)
    assert (400, "u1") == (caught.value.status, caught.value.rejected_records[0].record["userId"])


@pytest.mark.slow
def test_a_wrong_key_is_an_error_and_keeps_the_messages(runtime, vendor):
    """In the background the messages stay pending, and `flush` returns at once."""
    errors = []
    with Emulator(
        customerio=CustomerIORules(keys=["right"]), hightouch=HightouchRules(keys=["right"])
    ) as emu:
        result, stats = run_calls(
            runtime, emu, vendor, SIX[0], on_error=lambda error, _: errors.append(error)
        )
        with pytest.raises(AuthenticationError):
            run_calls(runtime, emu, vendor, SIX[0], send_immediately=True)
    assert (0, 1, 1) == (result.delivered, result.pending, stats.pending)
    assert isinstance(errors[0], AuthenticationError)
    assert "ixpanel" not in str(errors[0])


@pytest.mark.slow
@pytest.mark.parametrize("rules", [{"success_status": 204}, {"empty_body": True},
                                   {"success_status": 202}])  # fmt: skip
def test_any_2xx_even_empty_is_a_success(runtime, vendor, rules):
    """A body is not required."""
    with Emulator(customerio=CustomerIORules(**rules), hightouch=HightouchRules(**rules)) as emu:
        result, stats = run_calls(runtime, emu, vendor, *SIX)
    assert (6, 0) == (result.delivered, stats.retried)


@pytest.mark.slow
def test_an_html_page_is_not_a_success(emu, runtime, vendor):
    """A captive portal answers 200 to everything: the request is retried and the error reported."""
    emu.play(Fault.html() * 2)
    errors = []
    result, stats = run_calls(
        runtime, emu, vendor, *SIX, on_error=lambda error, _: errors.append(error)
    )
    assert (6, 2, 6) == (result.delivered, stats.retried, len(messages(emu, vendor)))
    assert [200, 200] == [error.status for error in errors]
    assert "received an HTML page, probably from a captive portal or a proxy" in str(errors[0])


@pytest.mark.slow
def test_repeated_html_pages_end_in_an_error(emu, runtime, vendor):
    """Calls that send immediately raise it; in the background it is treated as an outage."""
    emu.play(Fault.html().forever())
    with pytest.raises(ServerError, match="HTML page"):
        run_calls(runtime, emu, vendor, SIX[0], send_immediately=True)
    result, _ = run_calls(
        runtime, emu, vendor, SIX[0], on_error=lambda *_: None,
        retry=RetryPolicy(first_wait=0.01, max_age=0.1),
    )  # fmt: skip
    assert {"expired": 1} == result.dropped
    assert [] == messages(emu)


@pytest.mark.parametrize(
    ("content_type", "body", "delivered"),
    [
        ("text/html", b"", True),
        ("text/html; charset=utf-8", b"OK", True),
        ("text/html", b'{"note": "<b>"}', True),
        ("application/json", b"{}", True),
        ("text/plain", b"received < 1 s", True),
        (None, b"\xff\x00", True),
        (None, b"\xef\xbb\xbf\r\n <!doctype html>", False),
        ("application/json", "\ufeff<html>".encode("utf-16"), False),
        ("text/html", b"Sign in <a href=/>here</a>", False),
        ("Application/XHTML+xml", b"\x1f\x8b\x08", False),
    ],
)
def test_responses_that_are_classified_as_a_success(content_type, body, delivered):
    """Empty bodies, JSON and plain text; an HTML page is none, whatever its content type."""
    headers = {} if content_type is None else {"content-type": content_type}
    client = Hightouch("k", base_url="http://127.0.0.1:1")
    part = [client._composer.track("u", "Paid")]
    outcome = client._api.classify(Response(200, headers, body), part).outcome
    assert (ResponseOutcome.DELIVERED if delivered else ResponseOutcome.RETRY) is outcome


@pytest.mark.parametrize(
    ("body", "delivered"),
    [
        ({"success": True}, True),
        ({"success": True, "errors": []}, True),
        ({"errors": None, "meta": {}}, True),
        ({"meta": {"error": ""}, "note": "no failure"}, True),
        (["error"], True),
        ({"success": False}, False),
        ({"success": "false"}, False),
        ({"success": True, "errors": [{"batch_index": 0, "reason": "invalid"}]}, False),
        ({"error": "no such source"}, False),
        ({"meta": {"errors": ["no"]}}, False),
        ({"status": "error", "message": "no"}, False),
        ({"failed_records": [{"index": 0}]}, False),
    ],
)
def test_a_2xx_that_reports_a_failure_is_a_rejection(body, delivered):
    """In any format: a message that the server reports as failed is not counted as delivered."""
    client = Hightouch("k", base_url="http://127.0.0.1:1")
    part = [client._composer.track("u", "Paid")]
    judged = client._api.classify(Response(200, {}, json.dumps(body).encode()), part)
    assert judged.outcome is (ResponseOutcome.DELIVERED if delivered else ResponseOutcome.REJECTED)
    assert not judged.not_processed


json_bodies = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(0, 500)
    | st.sampled_from(["error", "failed", "ok", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["success", "error", "errors", "meta", "status", "code", "message"]),
            inner,
        )
    ),
    max_leaves=8,
).map(lambda value: json.dumps(value).encode())


@pytest.mark.slow
@given(
    st.integers(100, 650),
    st.dictionaries(st.sampled_from(["content-type", "retry-after", "date"]), st.text(max_size=9)),
    json_bodies | st.binary(max_size=30),
)
def test_any_response_is_classified(status, headers, body):
    """Only a 2xx is a delivery, everything else has an error, and no response raises."""
    client = Hightouch("k", base_url="http://127.0.0.1:1")
    part = [client._composer.track("u", "Paid")]
    judged = client._api.classify(Response(status, headers, body), part)
    assert (judged.error is None) is (judged.outcome is ResponseOutcome.DELIVERED)
    assert judged.outcome is not ResponseOutcome.DELIVERED or 200 <= status < 300


@pytest.mark.slow
def test_a_partial_success_loses_only_the_rejected_message(emu, runtime, vendor):
    """Smaller batches with the same message ids show which message failed."""
    calls = [lambda c, n=n: c.track(f"u{n}", "Visit", message_id=f"m{n}") for n in range(9)]
    emu.play(
        Fault.status(200, body={"success": False, "errors": [{"reason": "bad"}]}).forever(),
        when=lambda request: b'"m4"' in request.body,
    )
    result, stats = run_calls(runtime, emu, vendor, *calls, on_error=lambda *_: None)
    assert (8, 1) == (result.delivered, result.rejected)
    assert stats.balanced
    assert [f"m{n}" for n in range(9) if n != 4] == sorted(
        {m["messageId"] for m in messages(emu, vendor)}
    )


@pytest.mark.slow
def test_one_invalid_message_does_not_lose_the_rest_of_its_batch(emu, runtime):
    """Strict mode rejects the whole batch; halving it finds the invalid message."""
    calls = [lambda c, n=n: c.track(f"u{n}", "Visit", message_id=f"m{n}") for n in range(60)]
    emu.play(
        Fault.status(400, body={"meta": {"errors": ["no"]}}).forever(),
        when=lambda request: b'"m41"' in request.body,
    )
    reported = []
    result, stats = run_calls(runtime, emu, "customerio", *calls, on_delivery=reported.append)
    assert (59, 1) == (result.delivered, result.rejected)
    assert [f"m{n}" for n in range(60) if n != 41] == [m["messageId"] for m in messages(emu)]
    assert [("m41", "rejected", "Customer.io: HTTP 400: no")] == [
        (one.message_id, one.fate, one.reason) for one in reported if one.fate != "delivered"
    ]
    assert 60 == len({one.message_id for one in reported}) == len(reported)
    assert stats.balanced


@pytest.mark.slow
def test_order_is_kept_when_requests_fail(emu, runtime, vendor):
    """By default one request is sent at a time."""
    emu.play(Fault.status(500), Fault.status(429), Fault.status(503))
    calls = [lambda c, n=n: c.track("u", "Visit", {"n": n}) for n in range(350)]
    result, _ = run_calls(runtime, emu, vendor, *calls, limits=Limits(max_batch_size=100))
    assert 350 == result.delivered
    assert list(range(350)) == [m["properties"]["n"] for m in messages(emu)]


@pytest.mark.slow
def test_batches_stay_within_the_vendors_limits(emu, runtime, vendor):
    """475,000 bytes with envelope and commas, whatever the user's limits."""
    calls = [lambda c, n=n: c.track("u", "V", {"t": "x" * 30_000, "n": n}) for n in range(40)]
    calls += [lambda c, n=n: c.track("u", "V", {"n": n}) for n in range(2000)]
    limits = Limits(max_batch_size=2000, flush_after=5.0)
    result, _ = run_calls(runtime, emu, vendor, *calls, limits=limits)
    requests = emu.requests(f"/{vendor}/v1/batch")
    assert 2040 == result.delivered
    assert 474_000 < max(len(request.body) for request in requests) <= 475_000


@pytest.mark.parametrize("with_key", [False, True])
def test_a_batch_is_full_to_the_last_byte(with_key):
    """The buffer's limit is the capacity plus the two brackets."""
    from mixpanel.cdp._hightouch.dialect import HIGHTOUCH
    from mixpanel.cdp._segment.rate_limit import RateLimitedAuth
    from mixpanel.cdp._segment.requests import SegmentApi

    class Token:
        token = Secret("t")

    guard = RateLimitedAuth(None, Token()) if with_key else None
    api = SegmentApi(HIGHTOUCH, "http://x", WriteKey("key"), lambda: 0.0, guard)
    client = Hightouch("key", oauth=None)
    message = client._composer.track("u", "e")
    empty = len(api.request(Send([message], gzip=False)).content) - len(message.body)
    assert HIGHTOUCH.max_batch_bytes == empty + api.capacity


@pytest.mark.slow
def test_messages_that_are_too_large_are_passed_to_on_drop(emu, runtime, vendor):
    """The others are delivered, and `flush` does not wait."""
    drops = []
    result, stats = run_calls(
        runtime, emu, vendor,
        SIX[0], lambda c: c.track("u", "Big", {"t": "x" * 33_000}), SIX[1],
        on_drop=lambda reason, records: drops.append((reason, records[0]["event"])),
    )  # fmt: skip
    assert [("too_large", "Big")] == drops
    assert ({"too_large": 1}, 2) == (stats.dropped, stats.delivered)
    assert (stats.balanced, 0) == (True, result.pending)
    assert ["identify", "track"] == [m["type"] for m in messages(emu)]


@pytest.mark.slow
def test_send_immediately_raises_for_a_message_that_is_too_large(emu, runtime, vendor):
    """Without sending it, and without its content in the error."""
    with pytest.raises(PayloadTooLargeError) as caught:
        run_calls(
            runtime,
            emu,
            vendor,
            lambda c: c.track("u", "B", {"t": "x" * 33_000}),
            send_immediately=True,
        )
    assert "xxx" not in str(caught.value)
    assert [] == emu.requests(f"/{vendor}/v1/track")


def test_a_raised_message_limit_is_used(runtime):
    """Hightouch raises it to 96 KB for some customers."""
    with Emulator(hightouch=HightouchRules(max_message_bytes=96_000)) as emu:
        result, _ = run_calls(
            runtime, emu, "hightouch", lambda c: c.track("u", "Big", {"t": "x" * 33_000}),
            max_message_bytes=96_000,
        )  # fmt: skip
    assert (1, True) == (result.delivered, result.ok)


@pytest.mark.slow
def test_gzip_is_turned_off_when_the_server_rejects_it(emu, runtime, vendor):
    """No vendor documents whether every source accepts it."""
    calls = [lambda c: c.track("u", "Visit")] * 20
    emu.play(
        Fault.status(400), when=lambda request: request.headers.get("content-encoding") == "gzip"
    )
    result, _ = run_calls(runtime, emu, vendor, *calls, gzip=True)
    assert 20 == result.delivered
    encodings = [r.headers.get("content-encoding") for r in emu.requests(f"/{vendor}/v1/batch")]
    assert ["gzip", None] == encodings


@pytest.mark.slow
def test_a_repeated_request_has_the_same_message_ids(emu, runtime, vendor):
    """So the vendor can de-duplicate, also when only the response was lost."""
    emu.play(Fault.reset("after"))
    result, stats = run_calls(runtime, emu, vendor, *SIX)
    assert (6, 1) == (result.delivered, stats.retried)
    assert (12, 6) == (len(messages(emu)), len(messages(emu, unique=True)))


# ---- Customer.io --------------------------------------------------------------------------------


@pytest.mark.slow
def test_strict_mode_is_requested_by_default(emu, runtime):
    """Otherwise a wrong key or a missing id would be answered with 200."""
    run_calls(runtime, emu, "customerio", SIX[0])
    run_calls(runtime, emu, "customerio", SIX[0], strict=False)
    first, second = (entry["headers"] for entry in emu.cdp_messages())
    assert ("1", None) == (first.get("x-strict-mode"), second.get("x-strict-mode"))


@pytest.mark.slow
def test_customerio_methods_send_what_the_api_reads(emu, runtime):
    """People, devices, objects, relationships, merges, preferences, reports."""
    report = semantic.ReportDeliveryEvent(delivery_id="d", metric="opened")
    run_calls(
        runtime, emu, "customerio",
        lambda c: c.suppress_person("u"), lambda c: c.unsuppress_person("u"),
        lambda c: c.delete_person("u"), lambda c: c.unsubscribe("u"), lambda c: c.resubscribe("u"),
        lambda c: c.set_preferences("u", topics={1: True}), lambda c: c.merge("u", "v"),
        lambda c: c.register_device("u", "tok", "ios"), lambda c: c.delete_device("u", "tok"),
        lambda c: c.set_object("o", {"name": "Acme"}, object_type_id=2),
        lambda c: c.relate("u", "o", {"role": "owner"}, object_type_id=2),
        lambda c: c.unrelate("u", "o"), lambda c: c.delete_object("o"),
        lambda c: c.report_delivery(report),
        lambda c: c.report_content(semantic.ReportContentEvent(action_type="viewed_content")),
    )  # fmt: skip
    assert [] == emu.cdp_dropped()
    assert 15 == len(messages(emu))
    assert [
        "User Suppressed", "User Unsuppressed", "User Deleted", "Device Created or Updated",
        "Device Deleted", "Relationship Deleted", "Object Deleted", "Report Delivery Event",
        "Report Content Event",
    ] == [m["event"] for m in messages(emu) if m["type"] == "track"]  # fmt: skip


@pytest.mark.slow
def test_track_accepts_a_semantic_event(emu, runtime, vendor):
    """Its fields are sent at their paths, together with extra properties."""
    paid = semantic.OrderCompleted(order_id="o-1", total=12.5)
    run_calls(runtime, emu, vendor, lambda c: c.track("u", paid, {"gift": True}))
    (kept,) = messages(emu)
    assert ("Order Completed", {"order_id": "o-1", "total": 12.5, "gift": True}) == (
        kept["event"], kept["properties"],
    )  # fmt: skip


def test_a_key_of_another_region_is_rejected():
    """The server would answer 200 and store nothing."""
    with pytest.raises(ConfigurationError, match="belongs to region 'eu'") as caught:
        AsyncCustomerIO(EU_KEY, region="us")
    for written in ("https://CDP.customer.io", "https://cdp.customer.io:443", "cdp.customer.io"):
        with pytest.raises(ConfigurationError, match="belongs to region 'eu'"):
            AsyncCustomerIO(EU_KEY, base_url=written)
    assert EU_KEY not in str(caught.value)
    assert "https://cdp-eu.customer.io" in repr(CustomerIO(EU_KEY))
    assert "https://cdp.customer.io" in repr(CustomerIO("classic"))
    assert "https://cdp-eu.customer.io" in repr(CustomerIO("classic", region="eu"))


def test_prefixed_keys_use_bearer_authorization(emu, runtime):
    """And the newline of a mounted secret is stripped."""
    run_calls(runtime, emu, "customerio", SIX[0], key=f"{EU_KEY}\n")
    assert [EU_KEY] == [entry["key"] for entry in emu.cdp_messages()]


def test_clients_of_one_source_share_its_rate():
    """A second client with the same key does not double the rate."""
    made = [CustomerIO(key, base_url="http://127.0.0.1:1") for key in ("k", "k", "other")]
    one, same, other = [client._api.guard.rate_limiter for client in made]
    assert one is same
    assert one is not other


@pytest.mark.slow
def test_a_batch_has_default_context_and_integrations(emu, runtime, vendor):
    """The message's own values take precedence, and do not leak into the next message."""
    rows = [
        {"type": "track", "userId": "u", "event": "A", "context": {"ip": "::1"}},
        {"type": "track", "userId": "u", "event": "B", "integrations": {"x": False}},
    ]
    shared = {"ip": "::2", "locale": "de"}
    run_calls(runtime, emu, vendor, lambda c: c.batch(rows, shared, {"x": True, "y": True}))
    first, second = messages(emu)
    assert ("::1", "de") == (first["context"]["ip"], first["context"]["locale"])
    assert ("::2", "de") == (second["context"]["ip"], second["context"]["locale"])
    assert ({"x": True, "y": True}, {"x": False, "y": True}) == (
        first["integrations"], second["integrations"],
    )  # fmt: skip
    assert {"ip": "::1"} == rows[0]["context"]


@pytest.mark.slow
def test_an_empty_batch_is_rejected(emu, runtime, vendor):
    """An empty batch is a mistake of the caller."""
    with pytest.raises(ValidationError, match="the batch is empty"):
        run_calls(runtime, emu, vendor, lambda c: c.batch(iter(())))


@pytest.mark.slow
def test_requests_wait_for_the_rate_limit(runtime):
    """No request gets a 429, although more are made than the limit allows."""
    dialect = Dialect("Slow", {"us": "http://127.0.0.1:1"}, rate=(3, 0.3))
    # On a busy machine requests arrive closer together than they left.
    with Emulator(customerio=CustomerIORules(rate=(3, 0.1))) as emu:

        def calls(client):
            return [client.track("u", "Visit", {"n": n}) for n in range(7)]

        options = {"base_url": emu.customerio_url, "limits": Limits(max_batch_size=1)}
        if runtime == "sync":
            with SegmentClient(WriteKey("k"), dialect, **options) as client:
                calls(client)
                assert client.flush().ok
        else:

            async def go():
                async with AsyncSegmentClient(WriteKey("k"), dialect, **options) as client:
                    for call in calls(client):
                        await call
                    assert (await client.flush()).ok

            anyio.run(go, backend=runtime)
        assert 7 == len(messages(emu))
        assert [200] * 7 == [r.status for r in emu.requests("/customerio/v1/batch")]


# ---- Hightouch ----------------------------------------------------------------------------------


def test_hightouch_regions_and_contracts(emu, runtime):
    """The region is in the host, the contract's version in the context."""
    run_calls(runtime, emu, "hightouch", lambda c: c.track("u", "Paid", schema_version="1.2.0"))
    (kept,) = messages(emu)
    assert {"schemaVersion": "1.2.0"} == kept["context"]["protocols"]
    assert kept["timestamp"] == kept["originalTimestamp"]
    assert "https://eu-west-1.hightouch-events.com" in repr(Hightouch("k", region="eu-west-1"))
    with pytest.raises(ConfigurationError, match="choose one of"):
        AsyncHightouch("k", region="us")


def test_version_at_changes_the_path_of_the_schema_version(emu, runtime):
    """A workspace may use a property instead."""
    call = lambda c: c.track("u", "Paid", schema_version="2")
    run_calls(runtime, emu, "hightouch", call, version_at="properties.apiVersion")
    assert {"apiVersion": "2"} == messages(emu)[0]["properties"]


def test_hightouch_warns_about_an_action_of_customerio(emu, runtime):
    """Tracked by name it would only be stored as an event; the typed event is rejected."""
    call = lambda c: c.track("u", "User Suppressed")
    _, stats = run_calls(runtime, emu, "hightouch", call)
    assert {"doubtful": 1} == stats.warnings
    with pytest.raises(ValidationError, match="is an action of Customer"):
        run_calls(runtime, emu, "hightouch", call, validation="raise")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda c: c.track(None, "User Deleted", anonymous_id="a"), "requires a userId"),
        (lambda c: c.track("u", " User Suppressed ", anonymous_id="a"), None),
        (
            lambda c: c.track("u", "Report Delivery Event", {"deliveryId": "d", "metric": "seen"}),
            "metric must be",
        ),
        (lambda c: c.track("u", "Object Deleted", {"objectId": [1]}), "objectId must be"),
    ],
)
def test_an_action_tracked_by_its_name_is_validated_like_the_typed_event(emu, runtime, call, why):
    """A message that Customer.io would accept but ignore causes a warning."""
    _, stats = run_calls(runtime, emu, "customerio", call)
    assert ({} if why is None else {"doubtful": 1}) == stats.warnings
    if why is not None:
        with pytest.raises(ValidationError, match=why):
            run_calls(runtime, emu, "customerio", call, validation="raise")


# ---- the seam -----------------------------------------------------------------------------------


def test_a_client_can_use_any_dialect(emu):
    """Segment's dialect consists of constants."""
    segment = Dialect("Segment", {"us": "https://api.segment.io"}, max_batch_bytes=500_000)
    with SegmentClient(WriteKey("k"), segment, base_url=emu.hightouch_url) as client:
        client.track("u", "Visit", message_id="m")
    assert "m" == messages(emu)[0]["messageId"]
    assert "https://api.segment.io" in repr(AsyncSegmentClient(WriteKey("k"), segment))


# ---- acceptance ---------------------------------------------------------------------------------


def test_messages_are_serialised_when_the_method_is_called(emu):
    """Changing the dict later, or never awaiting the call, has no effect."""

    async def main():
        async with AsyncHightouch("k", base_url=emu.hightouch_url) as client:
            traits = {"n": 1}
            calling = client.identify("u", traits)
            traits["n"] = 2
            await calling

    asyncio.run(main())
    assert {"n": 1} == messages(emu)[0]["traits"]


@pytest.mark.slow
def test_a_disabled_client_validates_and_counts_but_sends_nothing(emu, runtime, vendor):
    """Invalid calls still raise."""
    _, stats = run_calls(runtime, emu, vendor, *SIX, disabled=True)
    assert ({"disabled": 6}, []) == (stats.dropped, emu.requests())
    with pytest.raises(ValidationError):
        run_calls(runtime, emu, vendor, lambda c: c.track(None, "Visit"), disabled=True)


@pytest.mark.slow
def test_default_context_is_merged_into_each_call(emu, runtime, vendor):
    """The call's own values take precedence, key by key; neither dict is modified."""
    given = {"ip": "1.1.1.1", "locale": "de"}
    run_calls(
        runtime, emu, vendor, lambda c: c.track("u", "V", context={"locale": "en"}),
        default_context=given,
    )  # fmt: skip
    context = messages(emu)[0]["context"]
    assert ("1.1.1.1", "en", "mixpanel-async") == (
        context["ip"], context["locale"], context["library"]["name"],
    )  # fmt: skip
    assert {"ip": "1.1.1.1", "locale": "de"} == given


@pytest.mark.slow
def test_a_batch_with_an_invalid_message_sends_nothing(emu, runtime, vendor):
    """The error names the message, and none was accepted."""
    values = [{"type": "track", "userId": "u", "event": "V"}, {"type": "track", "event": "V"}]
    with pytest.raises(ValidationError, match="message 1: "):
        run_calls(runtime, emu, vendor, lambda c: c.batch(values))
    assert [] == messages(emu)


@pytest.mark.parametrize("when_full", ["drop_newest", "drop_oldest", "raise"])
def test_when_full_decides_what_a_full_buffer_does(when_full):
    """And reports the affected message."""
    reported = []
    client = Hightouch(
        "k", base_url="http://127.0.0.1:9", when_full=when_full, on_delivery=reported.append,
        limits=Limits(max_queue_size=2, flush_after=None),
    )  # fmt: skip
    for name in ("a", "b"):
        client.track("u", "V", message_id=name)
    if when_full == "raise":
        with pytest.raises(QueueFullError):
            client.track("u", "V", message_id="c")
    else:
        client.track("u", "V", message_id="c")
        lost = "c" if when_full == "drop_newest" else "a"
        assert [(lost, "dropped", "queue_full")] == [
            (d.message_id, d.fate, d.reason) for d in reported
        ]
    assert 2 == client.stats().pending
    client._sender.buffer.drop_all("test")
    client.close(0)


@pytest.mark.slow
def test_waiting_for_space_in_the_buffer_loses_nothing(emu, runtime, vendor):
    """The caller is slowed down instead."""
    calls = [lambda c, n=n: c.track("u", "V", {"n": n}) for n in range(50)]
    limits = Limits(max_queue_size=7, max_batch_size=5)
    _, stats = run_calls(runtime, emu, vendor, *calls, when_full="wait", limits=limits)
    assert (50, 0) == (stats.delivered, stats.lost)


def test_a_closed_client_accepts_nothing(emu):
    """With an error."""
    client = CustomerIO("k", base_url=emu.customerio_url)
    client.close()
    with pytest.raises(ClosedError):
        client.track("u", "V")


def test_unknown_client_options_are_rejected():
    """A misspelt option must not be a silent default."""
    with pytest.raises(TypeError, match="retrys"):
        CustomerIO("k", retrys=1)
    with pytest.raises(ConfigurationError, match="when_full"):
        CustomerIO("k", when_full="block")


@pytest.mark.slow
def test_an_error_in_a_callback_does_not_stop_delivery(emu, runtime, vendor):
    """It is logged; everything else arrives."""

    def broken(*_):
        raise SystemExit("mine")

    emu.play(Fault.status(500))
    result, _ = run_calls(
        runtime, emu, vendor, *SIX, on_delivery=broken, on_error=broken, on_drop=broken
    )
    assert 6 == result.delivered


# ---- loops, threads, forks, exits ---------------------------------------------------------------


def test_one_client_serves_two_event_loops(emu):
    """Messages left by the first loop are sent by the second."""
    client = AsyncCustomerIO("k", base_url=emu.customerio_url)

    async def visit_once(n):
        await client.track("u", "Visit", {"n": n})

    asyncio.run(visit_once(1))
    anyio.run(visit_once, 2, backend="trio")
    anyio.run(client.aclose)
    assert [1, 2] == [m["properties"]["n"] for m in messages(emu)]


def test_many_threads_share_a_sync_client(emu):
    """Each message arrives once."""
    limits = Limits(max_batch_size=100)
    with Hightouch("k", base_url=emu.hightouch_url, limits=limits) as client:

        def work(thread):
            for n in range(100):
                client.track("u", "Visit", message_id=f"{thread}-{n}")

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert client.flush().ok
        assert 400 == client.stats().delivered
    assert 400 == len({m["messageId"] for m in messages(emu)}) == len(messages(emu))


def test_sync_calls_do_not_block_a_running_loop(emu):
    """Buffered calls work there; calls that would block are rejected."""
    client = Hightouch("k", base_url=emu.hightouch_url)

    async def main():
        client.track("u", "Visit")
        with pytest.raises(SyncInAsyncError):
            client.flush()
        with pytest.raises(SyncInAsyncError):
            Hightouch("k", base_url=emu.hightouch_url, send_immediately=True).track("u", "Visit")

    asyncio.run(main())
    client.close()
    assert 1 == len(messages(emu))


SCRIPT = """
import os
from mixpanel.cdp import CustomerIO
client = CustomerIO("k", base_url=os.environ["CDP_URL"])
client.track("u", "Parent")
if os.environ.get("CDP_FORK") and os.fork() == 0:
    client.track("u", "Child")
"""


@pytest.mark.slow
@pytest.mark.parametrize("fork", [False, True])
def test_pending_messages_are_sent_at_interpreter_exit(emu, fork):
    """Without `flush` or `close`; a forked child sends only its own messages."""
    if fork and not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    env = {**os.environ, "CDP_URL": emu.customerio_url, "CDP_FORK": "1" if fork else ""}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT], env=env, check=True, capture_output=True,
        timeout=120,
    )  # fmt: skip
    assert b"" == done.stderr
    expected = ["Child", "Parent"] if fork else ["Parent"]
    with anyio.from_thread.start_blocking_portal() as portal:
        for _ in range(200):  # the child outlives its parent by a moment
            if len(messages(emu)) == len(expected):
                break
            portal.call(anyio.sleep, 0.02)
    assert expected == sorted(m["event"] for m in messages(emu))


# ---- the two faces ------------------------------------------------------------------------------


def public(face):
    return {name for name in dir(face) if not name.startswith("_")}


@pytest.mark.parametrize(
    ("asynchronous", "synchronous", "composer"),
    [
        (AsyncCustomerIO, CustomerIO, CustomerIOComposer),
        (AsyncHightouch, Hightouch, SegmentComposer),
    ],
)
def test_async_and_sync_clients_have_the_methods_of_their_composer(
    asynchronous, synchronous, composer
):
    """Parameters and documentation are written once; only what is returned differs."""
    renamed = {"aclose": "close"}
    assert {renamed.get(name, name) for name in public(asynchronous)} == public(synchronous)
    for name in public(composer) - {"from_dict", "dialect"}:
        composes = inspect.signature(getattr(composer, name))
        for client, returned in ((asynchronous, Coroutine[Any, Any, None]), (synchronous, None)):
            method = getattr(client, name)
            expected = composes.replace(return_annotation=returned)
            assert expected == inspect.signature(method)
            assert method.__doc__ == getattr(composer, name).__doc__
    for name in public(asynchronous):
        assert inspect.getdoc(getattr(asynchronous, name)), name


def test_track_accepts_what_its_composer_accepts():
    """It is spelled out for speed; no parameter is missing, and the defaults are the same."""

    def parameters(function):
        _, *others = inspect.signature(function, follow_wrapped=False).parameters.values()
        return [(one.name, one.kind, one.default) for one in others]

    for client in (CustomerIO, AsyncCustomerIO, Hightouch, AsyncHightouch):
        assert parameters(client.track) == parameters(SegmentComposer.track)


@pytest.mark.parametrize(
    ("method", "returned"),
    [
        (CustomerIO.track, "-> None"),
        (CustomerIO.merge, "-> None"),
        (CustomerIO.batch, "-> None"),
        (AsyncHightouch.track, "-> collections.abc.Coroutine[Any, Any, None]"),
        (AsyncCustomerIO.merge, "-> collections.abc.Coroutine[Any, Any, None]"),
        (AsyncCustomerIO.batch, "-> collections.abc.Coroutine[Any, Any, None]"),
    ],
)
def test_help_shows_what_a_method_returns(method, returned):
    """Not the name of a type variable, nor the message that a composer would return."""
    assert returned in pydoc.plain(pydoc.render_doc(method)).replace("typing.", "")


def test_no_repr_or_error_contains_the_write_key(emu):
    """Neither a repr nor an error that the server echoes it in."""
    emu.play(Fault.status(401, body={"code": "bad_key", "message": "key hunter2-key is unknown"}))
    with (
        Hightouch("hunter2-key", base_url=emu.hightouch_url, send_immediately=True) as client,
        pytest.raises(AuthenticationError) as caught,
    ):
        client.track("u", "Visit")
    assert "hunter2" not in f"{client!r} {client._api!r} {caught.value}"


@pytest.mark.slow
@pytest.mark.parametrize("send_immediately", [False, True])
def test_a_retried_request_has_a_retry_count_header(emu, runtime, vendor, send_immediately):
    """So the server can recognise a retry."""
    emu.play(Fault.status(503), Fault.status(510))
    calls = [lambda c: c.track("u", "Visit")] * 2
    run_calls(runtime, emu, vendor, *calls, send_immediately=send_immediately)
    values = [one.headers.get("x-retry-count") for one in emu.requests()]
    assert [None, "1", "2", *[None] * send_immediately] == values


@pytest.mark.slow
def test_messages_expire_and_are_counted_after_an_outage(emu, runtime, vendor):
    """After `max_age`, with the reason, and `flush` returns."""
    emu.play(Fault.status(500).forever())
    reported = []
    result, stats = run_calls(
        runtime, emu, vendor, SIX[0], on_delivery=reported.append, on_error=lambda *_: None,
        retry=RetryPolicy(first_wait=0.01, max_age=0.1),
    )  # fmt: skip
    assert {"expired": 1} == result.dropped == stats.dropped
    assert [("dropped", "expired")] == [(one.fate, one.reason) for one in reported]
    assert FAST_RETRY.attempts is None
