"""Backfill: any number of past messages, each counted, resumable, without duplicates."""

import json
from base64 import b64encode
from functools import partial

import anyio
import pandas as pd
import pytest

from mixpanel import ClosedError, ConfigurationError, Limits, RejectedError, RetryPolicy
from mixpanel.bulk import ImportInterrupted
from mixpanel.cdp import AsyncCustomerIO, CustomerIO, Hightouch, HightouchOAuth
from mixpanel.emulator import CustomerIORules, Emulator, Fault, HightouchRules, OAuthRules
from tests.cdp.run_clients import FACES, RUNTIMES, messages
from tests.cdp.test_oauth import key_pair

pytestmark = pytest.mark.slow

QUICK = RetryPolicy(first_wait=0.01, max_wait=0.05, max_age=20.0)
MANY = {"limits": Limits(max_batch_size=100)}  # requests, of few messages
AT = 1_700_000_000


def past_message_composer(count, **more):
    for n in range(count):
        yield {
            "type": "track",
            "userId": f"u-{n % 50}",
            "event": "Order Paid",
            "timestamp": AT + n,
            "properties": {"n": n, **more},
        }


def backfilled(runtime, emu, vendor, rows, options=None, **arguments):
    """Backfill from asyncio, trio or plain sync code."""
    asynchronous, synchronous = FACES[vendor]
    options = {"base_url": getattr(emu, f"{vendor}_url"), **(options or {})}
    arguments = {"retry": QUICK, **arguments}
    if runtime == "sync":
        with synchronous("k", **options) as client:
            return client.backfill(rows, **arguments)

    async def go():
        async with asynchronous("k", **options) as client:
            return await client.backfill(rows, **arguments)

    return anyio.run(go, backend=runtime)


def numbers(emu, vendor):
    return sorted(one["properties"]["n"] for one in messages(emu, vendor, unique=True))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("vendor", FACES)
def test_backfill_sends_every_row_of_a_generator_with_its_timestamp(emu, runtime, vendor):
    """In batches of the dialect's size, with the timestamps of the rows."""
    result = backfilled(runtime, emu, vendor, past_message_composer(2001))
    assert (result.imported, result.rejected, result.position) == (2001, 0, 2001)
    assert (result.ok, result.requests) == (True, 2)
    assert numbers(emu, vendor) == list(range(2001))
    assert {one["timestamp"][:10] for one in messages(emu, vendor)} == {"2023-11-14"}


@pytest.mark.parametrize(
    ("limits", "requests", "largest"),
    [
        (Limits(max_batch_size=30), 4, 30),
        (Limits(max_batch_size=2000), 1, 100),
        (Limits(max_batch_bytes=1), 100, 1),
    ],
)
def test_backfill_batches_stay_within_the_clients_limits(emu, limits, requests, largest):
    """Limits below the vendor's apply; a single message is always sent."""
    result = backfilled(
        "asyncio", emu, "customerio", past_message_composer(100), {"limits": limits}
    )
    assert (result.imported, result.requests) == (100, requests)
    sizes = [len(json.loads(r.body)["batch"]) for r in emu.requests("/customerio/v1/batch")]
    assert (max(sizes), sum(sizes)) == (largest, 100)


@pytest.mark.parametrize("vendor", FACES)
def test_backfill_delivers_each_message_once_despite_faults(emu, vendor):
    """After 429, 5xx and lost responses, each message is stored under one id."""
    emu.play(
        Fault.status(429, retry_after=0),
        Fault.reset("after"),
        Fault.status(503),
        Fault.status(500),
        Fault.reset("before"),
    )
    result = backfilled("asyncio", emu, vendor, past_message_composer(3000), MANY)
    assert (result.imported, result.retried) == (3000, 5)
    assert numbers(emu, vendor) == list(range(3000))


def test_repeating_a_backfill_sends_the_same_message_ids(emu):
    """The id is made of the content."""
    for _ in range(2):
        assert backfilled("asyncio", emu, "customerio", past_message_composer(250)).imported == 250
    assert len(messages(emu, "customerio")) == 500
    assert numbers(emu, "customerio") == list(range(250))


def test_an_invalid_row_is_reported_and_the_others_arrive(emu):
    """With position, reason and record; a message that is too large is not sent."""

    def rows():
        yield from past_message_composer(120)
        yield {"type": "track", "userId": "u", "event": "No time"}
        yield {"type": "tracks"}
        yield {**next(past_message_composer(1)), "properties": {"text": "x" * 32_000}}
        yield "no row at all"

    reported = []
    result = backfilled("asyncio", emu, "customerio", rows(), on_rejected=reported.append)
    assert (result.imported, result.rejected, result.position) == (120, 4, 124)
    by_position = {one.index: one.message for one in result.rejected_records}
    assert "needs a timestamp" in by_position[120]
    assert "type must be one of" in by_position[121]
    assert "the message is larger than Customer.io accepts" == by_position[122]
    assert "must be a mapping" in by_position[123]
    assert tuple(reported) == result.rejected_records
    assert result.rejected_records[0].record == {"type": "track", "userId": "u", "event": "No time"}


def test_a_batch_rejected_by_strict_mode_is_split_until_the_row_is_found(emu):
    """The batch is halved until the invalid message is alone; the others arrive."""

    rows = list(past_message_composer(300))
    del rows[77]["userId"]
    rows[77] |= {"event": "User Deleted", "anonymousId": "a"}  # only the server finds fault with it
    result = backfilled("asyncio", emu, "customerio", rows, options={"validation": "off"})
    assert (result.imported, result.rejected) == (299, 1)
    [refused] = result.rejected_records
    assert refused.index == 77
    assert "userId is required by User Deleted" in refused.message
    assert refused.record["event"] == "User Deleted"
    assert numbers(emu, "customerio") == [n for n in range(300) if n != 77]


def test_a_wrong_key_stops_a_backfill_and_reports_where_to_resume():
    """Nothing before the position is missing."""
    with Emulator(customerio=CustomerIORules(keys={"good"})) as emu:
        with pytest.raises(ImportInterrupted) as raised:
            backfilled("asyncio", emu, "customerio", past_message_composer(1000))
        assert (raised.value.status, raised.value.result.position) == (401, 0)
        assert "start_at=0" in str(raised.value)


def test_a_backfill_resumes_at_its_position(emu):
    """`start_at` skips the rows that were settled before."""
    emu.play(Fault.latency(0.0) * 4, Fault.status(401).forever())
    with pytest.raises(ImportInterrupted) as raised:
        backfilled("asyncio", emu, "customerio", past_message_composer(1000), MANY, concurrency=1)
    at = raised.value.result.position
    assert at == raised.value.result.imported == 400
    emu.clear_faults()
    result = backfilled(
        "asyncio", emu, "customerio", past_message_composer(1000), MANY, start_at=at
    )
    assert (result.imported, result.position) == (600, 1000)
    assert numbers(emu, "customerio") == list(range(1000))


def test_rows_of_a_dataframe_can_be_backfilled(emu):
    """Columns are named or found; missing values are left out; timestamps are kept."""
    frame = pd.DataFrame(
        {
            "customer": ["u-1", "u-2"],
            "paid_at": pd.to_datetime(["2024-01-31 12:00", "2024-02-01 00:00"]),
            "amount": [12.5, None],
            "coupon": [None, "SPRING"],
        }
    )
    result = backfilled(
        "asyncio", emu, "hightouch", frame.to_dict("records"),
        kind="track", event="Order Paid", columns={"user_id": "customer", "timestamp": "paid_at"},
    )  # fmt: skip
    assert result.ok
    values = [
        (one["userId"], one["timestamp"], one["properties"]) for one in messages(emu, "hightouch")
    ]
    assert values == [
        ("u-1", "2024-01-31T12:00:00.000Z", {"amount": 12.5}),
        ("u-2", "2024-02-01T00:00:00.000Z", {"coupon": "SPRING"}),
    ]


def test_a_missing_column_stops_a_backfill_before_anything_is_sent(emu):
    """It is an error of the call, not of a row."""
    with pytest.raises(ConfigurationError, match="track needs a column for timestamp"):
        backfilled("asyncio", emu, "customerio", [{"user_id": 1, "event": "x"}], kind="track")
    assert emu.requests("/customerio/v1/batch") == []


@pytest.mark.parametrize("arguments", [{"event": "x"}, {"columns": {}}])
def test_columns_and_event_require_a_kind(emu, arguments):
    """Without a kind, rows are complete messages."""
    with pytest.raises(ConfigurationError, match="pass kind= as well"):
        backfilled("asyncio", emu, "customerio", [], **arguments)


def test_backfill_reports_progress_and_is_not_counted_in_stats(emu):
    """The client's other messages are sent meanwhile."""
    seen = []

    async def go():
        async with AsyncCustomerIO("k", base_url=emu.customerio_url, **MANY) as cio:
            await cio.track("u", "Now")
            result = await cio.backfill(past_message_composer(500), on_progress=seen.append)
            await cio.flush()
            return result, cio.stats()

    result, stats = anyio.run(go)
    assert (result.imported, stats.accepted, stats.delivered) == (500, 1, 1)
    assert seen[-1].position == seen[-1].imported == 500
    assert [now.position for now in seen] == sorted(now.position for now in seen)
    assert len(seen) == 5


def test_backfill_with_oauth_has_a_valid_token_in_each_request():
    """A token that is revoked during the backfill is renewed once."""
    rules = HightouchRules(oauth=OAuthRules(required=True))
    with Emulator(hightouch=rules) as emu:
        who = HightouchOAuth("c", key_pair()[0], "key-1", server=emu.hightouch_oauth_url)

        def rows():
            for n, row in enumerate(past_message_composer(2000)):
                if n == 1500:
                    emu.revoke_tokens()
                yield row

        result = backfilled("asyncio", emu, "hightouch", rows(), {"oauth": who, **MANY})
        assert result.imported == 2000
        assert numbers(emu, "hightouch") == list(range(2000))
        assert len(emu.requests("/hightouch/oauth/token")) == 2


def test_backfill_falls_back_to_uncompressed_bodies(emu):
    """After the first rejection, gzip is not tried again."""
    emu.play(Fault.status(400), when=lambda request: "content-encoding" in request.headers)
    options = {"gzip": True, **MANY}
    result = backfilled(
        "asyncio", emu, "customerio", past_message_composer(900), options, concurrency=1
    )
    assert result.imported == 900
    encodings = [r.headers.get("content-encoding") for r in emu.requests("/customerio/v1/batch")]
    assert encodings[:2] == ["gzip", None]
    assert (len(encodings), set(encodings[1:])) == (10, {None})


def test_a_client_that_sends_immediately_backfills_in_batches(emu):
    """Also a last batch of one message, so that sizes and responses are alike."""
    with CustomerIO("k", base_url=emu.customerio_url, send_immediately=True, **MANY) as cio:
        assert cio.backfill(past_message_composer(101)).requests == 2
    assert {entry["endpoint"] for entry in emu.cdp_messages("customerio")} == {"batch"}


def test_a_closed_client_rejects_a_backfill(emu):
    """Its connections are closed."""
    cio = Hightouch("k", base_url=emu.hightouch_url)
    cio.close()
    with pytest.raises(ClosedError):
        cio.backfill(past_message_composer(1))


def test_a_disabled_client_validates_a_backfill_and_sends_nothing(emu):
    """As it does for any other call."""
    result = backfilled(
        "asyncio", emu, "customerio", past_message_composer(10), options={"disabled": True}
    )
    assert (result.imported, result.rejected, emu.requests()) == (0, 0, [])


def test_sync_backfill_has_the_parameters_and_help_of_the_async_one():
    """The example is the same without `await`."""
    assert CustomerIO.backfill.__doc__ == AsyncCustomerIO.backfill.__doc__.replace("await ", "")
    assert partial(CustomerIO.backfill).func.__wrapped__ is AsyncCustomerIO.backfill


def test_the_position_never_exceeds_the_rows_that_were_sent(emu):
    """Also while a batch is being filled, so resuming there skips no row."""
    seen, sent = [], []

    async def slow():
        for n, row in enumerate(past_message_composer(2500)):
            if n in (1200, 2300):
                await anyio.sleep(0.3)  # what is in flight lands meanwhile
                seen.append((n, result_so_far[-1].position if result_so_far else 0))
            yield row

    result_so_far = []

    async def go():
        limits = Limits(max_batch_size=100)
        async with AsyncCustomerIO("k", base_url=emu.customerio_url, limits=limits) as cio:
            return await cio.backfill(slow(), on_progress=result_so_far.append)

    assert anyio.run(go).position == 2500
    assert seen == [(1200, 1200), (2300, 2300)] or all(at <= n - n % 100 for n, at in seen), (
        seen,
        sent,
    )


def test_an_interrupt_in_a_callback_ends_a_backfill(emu):
    """Ctrl-C and sys.exit() reach the caller, also from a callback of the sync client."""
    rows = [
        {**row, "event": "" if n % 3 == 0 else "E"}
        for n, row in enumerate(past_message_composer(1000))
    ]
    with CustomerIO("k", base_url=emu.customerio_url) as cio:
        for stop in (KeyboardInterrupt, SystemExit):
            for name in ("on_progress", "on_rejected"):
                reported = []

                def callback(one, stop=stop, reported=reported):
                    reported.append(one)
                    raise stop

                with pytest.raises(stop):
                    cio.backfill(rows, **{name: callback})
                assert len(reported) == 1


def test_an_error_of_the_row_source_is_reported_with_its_position(emu):
    """The rows before the error were sent and are counted."""

    def rows():
        yield from past_message_composer(250)
        raise ConfigurationError("the file ends in the middle")

    with pytest.raises(ImportInterrupted, match="ends in the middle") as raised:
        backfilled("asyncio", emu, "customerio", rows())
    assert raised.value.result.position == raised.value.result.imported == 250


@pytest.mark.parametrize("runtime", ["asyncio", "trio"])
def test_a_row_generator_is_closed_when_a_backfill_ends_early(runtime):
    """Its `finally` runs before the call returns."""
    closed = []

    async def rows():
        try:
            for row in past_message_composer(5000):
                yield row
        finally:
            closed.append(True)

    with Emulator(customerio=CustomerIORules(keys={"good"})) as emu:
        with pytest.raises(ImportInterrupted):
            backfilled(runtime, emu, "customerio", rows(), concurrency=1)
        assert closed == [True]


def test_progress_is_reported_while_every_row_is_rejected(emu):
    """So a checkpoint advances, too."""
    seen = []
    rows = [{"type": "track", "userId": "u"}] * 3000
    result = backfilled("asyncio", emu, "customerio", rows, on_progress=seen.append)
    assert (result.rejected, result.position) == (3000, 3000)
    assert len(seen) >= 5


@pytest.mark.parametrize(
    ("rows", "arguments", "why"),
    [
        ("text", {}, "rows must be an iterable of mappings, not a str"),
        ({"type": "track"}, {}, "not a dict"),
        ([], {"concurrency": "8"}, "concurrency='8' must be a whole number"),
        ([], {"start_at": 1.5}, "start_at=1.5 must be a whole number"),
        ([], {"start_at": 3}, "start_at=3 is beyond the source, which has 0 rows"),
    ],
)
def test_invalid_arguments_of_a_backfill_are_rejected(emu, rows, arguments, why):
    """At once, with a message."""
    with pytest.raises(ConfigurationError, match=why):
        backfilled("asyncio", emu, "customerio", rows, **arguments)


def test_no_error_contains_a_write_key_in_any_form():
    """Not even in the encoding of the header."""
    key = "a-long-write-key"
    header = b64encode(f"{key}:".encode()).decode()
    with Emulator() as emu:
        data = {"meta": {"error": f"who is {key}, or Basic {header}?"}}
        emu.play(Fault.status(400, body=data))
        cio = CustomerIO(key, base_url=emu.customerio_url, send_immediately=True)
        with cio, pytest.raises(RejectedError) as raised:
            cio.track("u", "x")
    assert "who is ***, or Basic ***?" in str(raised.value)
