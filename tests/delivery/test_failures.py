"""Whatever the network does, every message has one outcome and the counts add up."""

import gzip
import json
import logging
import ssl
import time

import anyio
import httpx
import pytest
import respx
import trustme

from mixpanel import (
    AsyncBufferedConsumer,
    AsyncConsumer,
    AsyncMixpanel,
    AuthenticationError,
    BufferedConsumer,
    DeliveryError,
    FlushResult,
    Limits,
    Mixpanel,
    RateLimitError,
    RejectedError,
    RequestTimeoutError,
    RetryPolicy,
    ServiceAccountCredentials,
    TransportError,
    ValidationError,
)
from mixpanel._http.proxies import (
    TransportOptions,
)
from mixpanel._http.request import (
    Request,
)
from mixpanel._http.responses import (
    Response,
    TransportFailure,
)
from mixpanel._http.sync_transport import (
    SyncTransport,
)
from mixpanel.emulator import Fault

pytestmark = pytest.mark.slow

QUICK = RetryPolicy(first_wait=0.02, max_wait=0.05, max_retry_after=0.2, max_age=20)
ACCOUNT = ServiceAccountCredentials("user", "s3cr3t-canary", "42")
EACH_FAULT = [
    Fault.latency(0.05),
    Fault.status(408),
    Fault.status(429),
    Fault.status(429, retry_after=0),
    Fault.status(429, retry_after="Fri, 20 Nov 2026 10:00:00 GMT"),
    Fault.status(429, retry_after="nonsense"),
    Fault.status(500),
    Fault.status(502),
    Fault.status(503),
    Fault.status(504),
    Fault.status(524),
    Fault.status(413),
    Fault.reset("before"),
    Fault.reset("during"),
    Fault.reset("after"),
    Fault.drip(0.05),
    Fault.silence(),
    Fault.html(),
    Fault.malformed(),
    Fault.truncated(),
]


def unzipped(request):
    zipped = request.headers.get("content-encoding") == "gzip"
    return gzip.decompress(request.body) if zipped else request.body


def consumer(emu, **options):
    limits = Limits(request_timeout=0.4, flush_after=0.02)
    return AsyncBufferedConsumer(base_url=emu.url, limits=limits, retry=QUICK, **options)


@pytest.mark.anyio
@pytest.mark.parametrize("fault", EACH_FAULT, ids=lambda fault: fault.name)
async def test_after_any_fault_nothing_is_lost_or_doubled(emu, anyio_backend, fault):
    """Events and `$set` all arrive, `$add` is applied at most once, a fresh event gets through."""
    # A second 413 would meet a batch of one, which no splitting helps.
    times = 1 if fault.name == "status 413" else 2
    emu.play(fault * times, path="/track")
    emu.play(fault * times, path="/engage")
    mp = AsyncMixpanel("t", consumer(emu))
    for n in range(20):
        await mp.track("u", "Visit", {"n": n})
    await mp.people_set("u", {"plan": "team"})
    await mp.people_increment("u", {"visits": 1})
    await mp.flush(15)
    await mp.track("u", "Probe", {"n": 20})
    await mp.flush(15)
    stats = mp.stats()
    await mp.consumer.aclose()
    assert stats.balanced
    assert stats.pending == 0
    assert [e["properties"]["n"] for e in emu.events()] == list(range(21))
    assert emu.profiles()["u"]["plan"] == "team"
    applied = emu.profiles()["u"].get("visits", 0)
    ambiguous = stats.dropped.get("ambiguous", 0)
    assert applied in (0, 1)
    assert applied + ambiguous >= 1
    assert stats.delivered + ambiguous == 23


@pytest.mark.anyio
async def test_an_ambiguous_add_is_applied_once(emu, anyio_backend):
    """The server applied it, the response was lost: it is reported, and never sent again."""
    reports = []
    emu.play(Fault.reset("after"), path="/engage")
    mp = AsyncMixpanel("t", consumer(emu, on_drop=lambda why, gone: reports.append((why, gone))))
    await mp.people_increment("u", {"credits": 5})
    result = await mp.flush()
    assert result.dropped == {"ambiguous": 1}
    assert emu.profiles()["u"]["credits"] == 5
    assert reports[0][0] == "ambiguous"
    assert reports[0][1][0]["$add"] == {"credits": 5}
    await mp.consumer.aclose()


@pytest.mark.anyio
async def test_an_add_that_was_not_processed_is_sent_again(emu, anyio_backend):
    """A 429 or 503 with Mixpanel's own body means that nothing was processed."""
    emu.play(Fault.status(429), Fault.status(503), path="/engage")
    mp = AsyncMixpanel("t", consumer(emu))
    await mp.people_increment("u", {"credits": 5})
    assert (await mp.flush()).ok
    assert emu.profiles()["u"]["credits"] == 5
    await mp.consumer.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize(
    "fault",
    [
        Fault.status(503, body="<html>503 Service Temporarily Unavailable</html>"),
        Fault.status(429, body={"message": "too many requests"}),
        Fault.status(408),
    ],
    ids=["503 of a gateway", "429 of a gateway", "408"],
)
async def test_an_add_is_not_repeated_after_an_error_of_a_gateway(emu, anyio_backend, fault):
    """The server behind it may have applied the update; `$set` is sent again."""
    emu.play(fault, path="/engage")
    mp = AsyncMixpanel("t", consumer(emu))
    await mp.people_increment("u", {"credits": 5})
    await mp.people_set("u", {"plan": "team"})
    result = await mp.flush()
    assert result.dropped == {"ambiguous": 1}
    assert result.delivered == 1
    assert emu.profiles()["u"].get("credits") is None
    assert mp.stats().balanced
    await mp.consumer.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("ingestion", ["track", "import"])
async def test_one_invalid_event_does_not_hold_back_nine_valid_ones(emu, anyio_backend, ingestion):
    """Nine are delivered; with strict responses the tenth is reported with its reason."""
    reports = []
    mp = AsyncMixpanel(
        "t",
        consumer(
            emu, credentials=ACCOUNT, on_error=lambda error, gone: reports.append((error, gone))
        ),
        ingestion=ingestion,
        validation="off",
    )
    for n in range(10):
        await mp.track("anonymous" if n == 4 else "u", "Visit", {"n": n})
    result = await mp.flush()
    await mp.consumer.aclose()
    assert [e["properties"]["n"] for e in emu.events()] == [n for n in range(10) if n != 4]
    assert mp.stats().balanced
    if ingestion == "import":
        assert (result.delivered, result.rejected) == (9, 1)
        [(error, gone)] = reports
        assert isinstance(error, RejectedError)
        assert error.rejected_records[0].field
        assert error.rejected_records[0].record["properties"]["n"] == 4
        assert gone[0]["properties"]["n"] == 4


@pytest.mark.anyio
async def test_after_a_413_batches_stay_small(emu, anyio_backend):
    """The first one is split, and later ones are made to fit."""
    emu.play(Fault.status(413), path="/track")
    mp = AsyncMixpanel("t", consumer(emu))
    for n in range(100):
        await mp.track("u", "Visit", {"n": n})
    assert (await mp.flush()).ok
    learned = mp._delivery.buffer.queues["events"].max_bytes
    before = len(emu.requests("/track"))
    for n in range(100, 200):
        await mp.track("u", "Visit", {"n": n})
    assert (await mp.flush()).ok
    await mp.consumer.aclose()
    sizes = [len(unzipped(r)) for r in emu.requests("/track")[before:]]
    assert learned < 20_000
    assert max(sizes) <= learned
    assert len(emu.events()) == 200


@pytest.mark.anyio
async def test_a_429_pauses_the_whole_queue(emu, anyio_backend):
    """No second request is sent while the server asked for a pause."""
    emu.play(Fault.status(429, retry_after=1), path="/track")
    limits = Limits(request_timeout=5, max_batch_size=10)
    policy = RetryPolicy(first_wait=0.01)
    mp = AsyncMixpanel(
        "t", AsyncBufferedConsumer(10, base_url=emu.url, limits=limits, retry=policy)
    )
    for n in range(10):
        await mp.track("u", "Visit", {"n": n})
    with anyio.fail_after(5):
        while not mp.stats().retried:
            await anyio.sleep(0.005)
    for n in range(10, 60):
        await mp.track("u", "Visit", {"n": n})
    assert (await mp.flush()).ok
    await mp.consumer.aclose()
    first, second = emu.requests("/track")[:2]
    assert second.received_at - first.received_at >= 1.0
    assert len(emu.events()) == 60


@pytest.mark.anyio
async def test_wrong_credentials_keep_the_events_and_report_the_error(emu, anyio_backend):
    """A 401 needs a human: it is reported at once, nothing is lost, flush returns."""
    reports = []
    emu.play(Fault.status(401), path="/import")
    mp = AsyncMixpanel(
        "t", consumer(emu, on_error=lambda error, _: reports.append(error)), ingestion="import"
    )
    await mp.track("u", "Visit")
    result = await mp.flush()
    assert result.pending == 1
    assert isinstance(reports[0], AuthenticationError)
    assert reports[0].status == 401
    assert (await mp.flush()).ok
    await mp.consumer.aclose()


@pytest.mark.anyio
async def test_profiles_arrive_in_order_through_an_outage(emu, anyio_backend):
    """One request is in flight at a time, so the last `$set` wins."""
    emu.play(Fault.status(503), Fault.reset("after"), Fault.status(503), path="/engage")
    mp = AsyncMixpanel("t", consumer(emu, max_size=2))
    for n in range(20):
        await mp.people_set("u", {"n": n})
        await anyio.sleep(0.001)
    assert (await mp.flush()).ok
    assert emu.profiles()["u"]["n"] == 19
    await mp.consumer.aclose()


@pytest.mark.anyio
async def test_waiting_for_space_loses_nothing(emu, anyio_backend):
    """`when_full="wait"` slows the caller down instead."""
    emu.play(Fault.latency(0.02).forever())
    limits = Limits(max_queue_size=10, flush_after=0.01)
    mp = AsyncMixpanel(
        "t", AsyncBufferedConsumer(5, base_url=emu.url, limits=limits, when_full="wait")
    )
    for n in range(60):
        await mp.track("u", "Visit", {"n": n})
        assert mp.stats().pending <= 10
    assert (await mp.flush()).ok
    assert len(emu.events()) == 60
    await mp.consumer.aclose()


def test_an_outage_does_not_raise_into_sync_callers(emu):
    """A full batch that cannot be sent stays; the next flush sends it."""
    emu.play(Fault.status(503) * 3)
    retry = RetryPolicy(attempts=2, first_wait=0.01)
    mp = Mixpanel("t", BufferedConsumer(5, base_url=emu.url, retry=retry))
    for n in range(7):
        mp.track("u", "Visit", {"n": n})
    assert mp.stats().pending == 7
    while not mp.flush().ok:
        pass
    assert len(emu.events()) == 7
    mp.consumer.close()


def test_a_message_that_is_not_json_raises_at_the_callers_line(emu):
    """It never gets between valid messages."""
    consumer = BufferedConsumer(base_url=emu.url)
    for nonsense in ("not json", "[]", "[1]", b"\xff", "5"):
        with pytest.raises(ValidationError):
            consumer.send("events", nonsense)
    consumer.send("events", '{"event": "E", "properties": {"token": "t", "distinct_id": "u"}}')
    assert consumer.flush().ok
    consumer.close()
    assert len(emu.events()) == 1


def test_a_message_that_cannot_be_decoded_does_not_harm_others(emu):
    """An integer of 5,000 digits is rejected alone; the others are delivered."""
    mp = Mixpanel("t", BufferedConsumer(base_url=emu.url))
    mp.track("u", "bad", {"n": 10**5000})
    for n in range(5):
        mp.track("u", "Visit", {"n": n})
    result = mp.flush()
    mp.consumer.close()
    assert result.pending == 0
    assert len(emu.events("Visit")) == 5


def test_a_callback_that_calls_sys_exit_does_not_end_the_loop(emu):
    """All clients share the background loop."""

    def leave(*_):
        raise SystemExit("analytics broke")

    emu.play(Fault.status(400), path="/track")
    mp = Mixpanel("t", BufferedConsumer(base_url=emu.url, on_error=leave))
    mp.track("u", "Visit")
    mp.flush(2)
    mp.track("u", "Visit")
    assert mp.flush(5).ok
    mp.consumer.close()


def test_a_batch_that_is_old_enough_is_sent_with_the_next_message(emu):
    """With `flush_after` of the sync consumer."""
    mp = Mixpanel("t", BufferedConsumer(flush_after=0.02, base_url=emu.url))
    mp.track("u", "Visit")
    time.sleep(0.05)
    mp.track("u", "Visit")
    assert mp.stats().delivered == 2
    mp.consumer.close()


def test_raise_for_loss_raises_for_loss_only(emu):
    """A retry that succeeded is not a loss; a drop without an error is one."""
    emu.play(Fault.status(503))
    mp = Mixpanel("t", BufferedConsumer(base_url=emu.url, retry=QUICK))
    mp.track("u", "Visit")
    mp.flush().raise_for_loss()
    with pytest.raises(DeliveryError, match=r"0 rejected, 3 dropped \(queue_full\), 2 pending"):
        FlushResult(0, 0, {"queue_full": 3}, 2).raise_for_loss()
    with pytest.raises(DeliveryError, match=r"^1 rejected, 4 dropped \(1 closed, 3 exit\), 0 pend"):
        FlushResult(0, 1, {"exit": 3, "closed": 1}, 0).raise_for_loss()
    emu.play(Fault.status(401))
    mp.track("u", "Visit")
    with pytest.raises(AuthenticationError):
        mp.flush().raise_for_loss()
    mp.flush()
    mp.consumer.close()


# ---- at once ------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.status(401), AuthenticationError),
        (Fault.status(429, retry_after=3000), RateLimitError),
        (Fault.status(400), RejectedError),
        (Fault.silence(), RequestTimeoutError),
        (Fault.reset("before"), TransportError),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
async def test_a_consumer_that_sends_at_once_raises_a_typed_error(emu, anyio_backend, fault, error):
    """It has what the caller needs next, and no payload in its text."""
    emu.play(fault.forever())
    given = AsyncConsumer(
        base_url=emu.url, request_timeout=0.2, retry_limit=1, retry_backoff_factor=0.01
    )
    mp = AsyncMixpanel("t", given)
    with pytest.raises(error) as raised:
        await mp.track("u", "Visit", {"private": "payload-canary"})
    assert raised.value.endpoint == "events"
    assert "canary" not in str(raised.value)
    assert mp.stats().balanced
    assert mp.stats().dropped.get("raised", 0) + mp.stats().rejected >= 0
    await given.aclose()


@pytest.mark.anyio
async def test_the_error_of_one_event_is_raised_for_that_event_only(emu, anyio_backend):
    """Callers never see each other's errors."""
    given = AsyncConsumer(base_url=emu.url, credentials=ACCOUNT)
    mp = AsyncMixpanel("t", given, ingestion="import", validation="off")
    outcomes = {}

    async def visit(n):
        try:
            await mp.track("null" if n % 3 == 0 else "u", "Visit", {"n": n})
            outcomes[n] = "ok"
        except RejectedError as error:
            outcomes[n] = error.rejected_records[0].record["properties"]["n"]

    async with anyio.create_task_group() as tasks:
        for n in range(12):
            tasks.start_soon(visit, n)
    await given.aclose()
    assert outcomes == {n: n if n % 3 == 0 else "ok" for n in range(12)}


# ---- the wire -----------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_requests_are_json_arrays_with_gzip_for_events_only(emu, anyio_backend):
    """No secret is in the URL."""
    mp = AsyncMixpanel("TOKEN", consumer(emu, credentials=ACCOUNT))
    await mp.track_batch([{"event": "Visit", "properties": {"distinct_id": "u"}}] * 10)
    await mp.people_set("u", {"a": 1})
    await mp.import_data(None, "u", "Past", 1_600_000_000)
    assert (await mp.flush()).ok
    await mp.consumer.aclose()
    track, engage, imported = (emu.requests(p)[0] for p in ("/track", "/engage", "/import"))
    assert track.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in engage.headers
    assert isinstance(json.loads(engage.body), list)
    assert track.query == {"ip": "0", "verbose": "1"}
    assert imported.query["project_id"] == "42"
    assert imported.query["strict"] == "1"
    assert imported.headers["authorization"].startswith("Basic ")
    assert "authorization" not in track.headers
    for request in (track, engage, imported):
        assert request.headers["accept-encoding"] == "identity"
        assert "canary" not in str(request.query)


@pytest.mark.anyio
async def test_an_api_secret_of_one_call_authorises_that_call_only(emu, anyio_backend):
    """The official client uses it for later calls, too; this one does not."""
    mp = AsyncMixpanel("TOKEN", consumer(emu))
    await mp.import_data("key", "u", "One", 1_600_000_000, api_secret="s3cr3t")
    await mp.import_data(None, "u", "Two", 1_600_000_000)
    assert (await mp.flush()).ok
    await mp.consumer.aclose()
    one, two = emu.requests("/import")
    assert one.headers["authorization"] != two.headers["authorization"]


@pytest.mark.anyio
async def test_your_own_httpx_client_is_used_and_left_open(anyio_backend):
    """Its proxies, mounts and mocks are yours."""
    with respx.mock(base_url="https://api-eu.mixpanel.com") as mock:
        mock.post("/track").respond(200, json={"status": 1})
        async with httpx.AsyncClient() as client:
            async with AsyncMixpanel("t", region="eu", http_client=client) as mp:
                await mp.track("u", "Visit", {"long": "text" * 300})
                await mp.alias("a", "u")
            assert not client.is_closed
        assert mock.calls.call_count == 1
        assert len(json.loads(gzip.decompress(mock.calls[0].request.content))) == 2


@pytest.mark.anyio
async def test_redirects_are_not_followed(anyio_backend):
    """Credentials are sent to the configured host only."""
    with respx.mock(base_url="https://api.mixpanel.com") as mock:
        mock.post("/track").respond(302, headers={"location": "https://evil.example/"})
        async with httpx.AsyncClient(follow_redirects=True) as client:
            mp = AsyncMixpanel("t", http_client=client)
            await mp.track("u", "Visit")
            result = await mp.flush(2)
            assert result.pending == 1
            await mp.aclose(0.1)
        assert mock.calls.call_count >= 1


@pytest.mark.anyio
async def test_an_untrusted_certificate_stops_delivery(anyio_backend):
    """No downgrade, no endless retry: a typed error at once."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    tls = anyio.streams.tls.TLSListener(listener, ssl_context=context, standard_compatible=False)

    async def respond(stream):
        async with stream:
            await stream.receive()
            await stream.send(b'HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n{"status":1}')

    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tls.serve, respond)
        url = f"https://localhost:{port}"
        wary = AsyncMixpanel("t", base_url=url)
        await wary.track("u", "Visit")
        result = await wary.flush(5)
        assert (result.pending, len(result.errors)) == (1, 1)
        assert "certificate" in str(result.errors[0])
        await wary.aclose(0.2)
        async with AsyncMixpanel("t", base_url=url, ssl_context=trusting) as mp:
            await mp.track("u", "Visit")
            assert (await mp.flush(5)).ok
        tasks.cancel_scope.cancel()
    await tls.aclose()


# httpx leaves the inner generators of an unfinished response to the collector; trio says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.anyio
async def test_an_endless_response_is_cut_off(anyio_backend):
    """It takes a bounded amount of memory."""

    class Flood(httpx.AsyncByteStream):
        def __aiter__(self):
            return self

        async def __anext__(self):
            return b"x" * 65536

    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=Flood()))
    async with httpx.AsyncClient(transport=transport) as client:
        mp = AsyncMixpanel("t", AsyncConsumer(http_client=client, retry_limit=0))
        with pytest.raises(Exception, match="not from Mixpanel"):
            await mp.track("u", "Visit")
        await mp._delivery.aclose()


@pytest.mark.parametrize(
    "fault", [Fault.reset("before"), Fault.reset("after"), Fault.truncated()], ids=lambda f: f.name
)
def test_the_sync_transport_reports_failures_like_the_async_one(emu, fault):
    """It works for the next request, too."""
    emu.play(fault)
    request = Request("POST", emu.url + "/track", {"Content-Type": "application/json"}, b"[]")
    transport = SyncTransport(TransportOptions(), max_response_bytes=1000)
    assert isinstance(transport.send(request, end=time.monotonic() + 2), TransportFailure)
    assert isinstance(transport.send(request, end=time.monotonic() + 2), Response)
    transport.close()


def test_no_secret_reaches_the_logs(emu, caplog):
    """At DEBUG, through a failure and its traceback, the canary is in no line."""
    caplog.set_level(logging.DEBUG)
    emu.play(Fault.status(401).forever())
    mp = Mixpanel("t", base_url=emu.url, credentials=ACCOUNT)
    with pytest.raises(AuthenticationError) as raised:
        mp.import_data(None, "u", "E", 1_600_000_000, {"private": "payload-canary"})
    mp.close()
    assert "canary" not in caplog.text
    assert "canary" not in repr(raised.value) + str(raised.value.__dict__.get("args"))


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [AsyncMixpanel, Mixpanel])
async def test_a_bug_of_this_package_is_reported_and_the_batch_is_kept(emu, kind, caplog):
    """To `on_error`, by `health()` and in the result of a flush, besides the log."""
    reported = []
    options = {"base_url": emu.url, "on_error": lambda error, _: reported.append(error)}
    if kind is Mixpanel:
        consumer = BufferedConsumer(retry=QUICK, **options)
        mp, options = Mixpanel("t", consumer), {}
    else:
        mp = AsyncMixpanel("t", retry=QUICK, **options)
        consumer = mp.consumer
    consumer._sender.dispatcher.delivery_steps = lambda _batch: (1 / 0 for _ in "a")

    def use():
        if kind is Mixpanel:
            mp.track("u", "E")
            return mp.flush(5)
        return None

    if kind is Mixpanel:
        result = await anyio.to_thread.run_sync(use)
    else:
        await mp.track("u", "E")
        result = await mp.flush(5)
    assert (1, 0) == (result.pending, result.delivered)
    [error] = reported
    assert isinstance(error, DeliveryError)
    assert "ZeroDivisionError" in str(error)
    health = mp.health()
    assert (False, 1) == (health.ok, health.pending)
    assert str(error) in health.last_error
    assert "halted" == health.queues["events"].state
    assert "ZeroDivisionError" in caplog.text
    del consumer._sender.dispatcher.delivery_steps  # mended: the batch is sent
    for queue in consumer._sender.buffer.queues.values():
        queue.paused_until = 0.0
    if kind is Mixpanel:
        await anyio.to_thread.run_sync(mp.close)
    else:
        await mp.aclose()
    assert 1 == len(emu.events("E"))
