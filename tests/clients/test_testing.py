"""What users' tests use: a consumer in memory, a fixture, assertions that explain."""

import asyncio
import subprocess
import sys
import threading
from datetime import UTC, datetime
from decimal import Decimal
from unittest.mock import ANY

import pytest

import mixpanel
from mixpanel import (
    AsyncBufferedConsumer,
    AsyncMixpanel,
    BufferedConsumer,
    ConfigurationError,
    Mixpanel,
    MixpanelException,
    SyncInAsyncError,
)
from mixpanel.cdp import AsyncCustomerIO, CustomerIO, FanOut, Hightouch, HightouchOAuth, Sink
from mixpanel.testing import MemoryConsumer, assert_tracked, capture

pytest_plugins = ["pytester"]

NOWHERE = "http://127.0.0.1:9"


# The consumer


def test_messages_of_a_sync_client_are_kept():
    """Each kind of message is found under its name."""
    consumer = MemoryConsumer()
    mp = Mixpanel("T", consumer)
    mp.track("u-17", "Signed Up", {"plan": "team"})
    mp.people_set("u-17", {"plan": "team"})
    mp.group_set("company", "acme", {"size": 3})
    mp.import_data(None, "u-17", "Signed Up", 1_700_000_000)
    assert ["Signed Up"] == [each["event"] for each in consumer.events]
    assert ["u-17"] == [each["$distinct_id"] for each in consumer.people]
    assert ["acme"] == [each["$group_id"] for each in consumer.groups]
    assert [1_700_000_000] == [each["properties"]["time"] for each in consumer.imports]
    assert 4 == len(consumer.messages())


def test_messages_of_an_async_client_are_kept():
    """The same consumer serves both clients."""
    consumer = MemoryConsumer()

    async def main():
        async with AsyncMixpanel("T", consumer) as mp:
            await mp.track("u-17", "Signed Up")

    asyncio.run(main())
    assert 1 == len(consumer.events)


def test_clear_discards_the_messages():
    """One consumer may serve several parts of a test."""
    consumer = MemoryConsumer()
    consumer.send("events", '[{"event": "A"}, {"event": "B"}]')
    assert ["A", "B"] == [each["event"] for each in consumer.events]
    consumer.clear()
    assert [] == consumer.messages()


def test_an_unknown_endpoint_raises():
    """A misspelt endpoint must not vanish in a list that is never read."""
    with pytest.raises(MixpanelException, match="persons"):
        MemoryConsumer().send("persons", "{}")


def test_threads_share_a_consumer():
    """Nothing is lost when many threads track."""
    consumer = MemoryConsumer()
    mp = Mixpanel("T", consumer)

    def work():
        for _ in range(100):
            mp.track("u", "Worked")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 800 == len(consumer.assert_tracked("Worked", times=800))


# The assertion


@pytest.fixture
def consumer():
    """Return a consumer with three events."""
    consumer = MemoryConsumer()
    mp = Mixpanel("T", consumer)
    mp.track("u-17", "Signed Up", {"plan": "team"})
    mp.track("u-17", "Order Paid", {"amount": Decimal("12.5"), "books": ("Emma",)})
    mp.track("u-18", "Order Paid", {"amount": 3, "at": datetime(2026, 1, 1, tzinfo=UTC)})
    return consumer


def test_an_assertion_returns_the_matching_events(consumer):
    """The whole event is there for further checks."""
    (event,) = consumer.assert_tracked("Order Paid", distinct_id="u-17")
    assert "T" == event["properties"]["token"]


@pytest.mark.parametrize(
    "properties",
    [
        {"amount": 12.5},
        {"amount": Decimal("12.5")},
        {"books": ["Emma"]},
        {"books": ("Emma",)},
        {"at": datetime(2026, 1, 1, tzinfo=UTC)},
        {"amount": ANY},
    ],
)
def test_values_compare_as_they_are_sent(consumer, properties):
    """A datetime passed to track is found by that datetime, not only by its text."""
    assert consumer.assert_tracked("Order Paid", **properties)


def test_times_is_an_exact_number(consumer):
    """2 is twice, 0 is never."""
    consumer.assert_tracked("Order Paid", times=2)
    consumer.assert_tracked("Order Paid", times=0, amount=99)
    with pytest.raises(AssertionError, match=r"tracked 2 time\(s\), not 1"):
        consumer.assert_tracked("Order Paid", times=1)


def test_a_failure_shows_the_nearest_event_and_all_others(consumer):
    """The reader sees at once what differs."""
    with pytest.raises(AssertionError) as failed:
        consumer.assert_tracked("Order Paid", distinct_id="u-18", amount=4, plan="solo")
    message = str(failed.value)
    assert "'Order Paid' with amount=4, plan='solo', distinct_id='u-18' was not tracked" in message
    assert "amount: 3, expected 4" in message
    assert "plan: not there, expected 'solo'" in message
    assert "tracked (3):" in message
    assert 'Signed Up  u-17  {"plan": "team"}' in message


def test_a_failure_suggests_the_nearest_name(consumer):
    """Most wrong names are misspelt."""
    with pytest.raises(AssertionError, match="did you mean 'Signed Up'"):
        consumer.assert_tracked("Signed up")


def test_a_failure_without_any_event_says_so():
    """Nothing tracked at all is the most common surprise."""
    with pytest.raises(AssertionError, match="nothing was tracked"):
        assert_tracked("Signed Up", MemoryConsumer())


def test_a_failure_lists_the_last_twenty_events():
    """Of many events it says how many came before."""
    consumer = MemoryConsumer()
    for number in range(50):
        consumer.send("events", f'{{"event": "E{number}", "properties": {{}}}}')
    with pytest.raises(AssertionError) as failed:
        consumer.assert_tracked("Other")
    assert "30 before these" in str(failed.value)
    assert "E29" not in str(failed.value)


def test_without_a_consumer_or_capture_an_assertion_is_a_runtime_error():
    """That is a mistake in the test, not a failure of the code."""
    with pytest.raises(RuntimeError, match="mixpanel_events"):
        assert_tracked("Signed Up")


# The capture


def test_every_client_is_captured(mixpanel_events):
    """Whatever its consumer, nothing is sent."""

    async def main():
        for given in (None, AsyncBufferedConsumer(base_url=NOWHERE)):
            options = {"base_url": NOWHERE} if given is None else {}
            async with AsyncMixpanel("T", given, **options) as mp:
                await mp.track("u", "Async")
                result = await mp.flush()
                assert 0 == result.pending
                assert (1, True) == (mp.stats().delivered, mp.stats().balanced)

    asyncio.run(main())
    with Mixpanel("T", base_url=NOWHERE) as mp:
        mp.track("u", "Sync")
    with Mixpanel("T", BufferedConsumer(base_url=NOWHERE)) as mp:
        mp.people_set("u", {"a": 1})
    Mixpanel("T", MemoryConsumer()).track("u", "Sync")
    mixpanel_events.assert_tracked("Async", times=2)
    mixpanel_events.assert_tracked("Sync", times=2)
    assert 1 == len(mixpanel_events.people)


def test_a_bulk_import_is_captured(mixpanel_events):
    """Imported events count as tracked, and the result as imported."""
    mp = Mixpanel("T", base_url=NOWHERE)
    row = {"event": "Old", "properties": {"time": 1_700_000_000, "distinct_id": "u"}}
    result = mp.import_events([row, {"event": "No time", "properties": {}}])
    assert (1, 1) == (result.imported, result.rejected)
    mixpanel_events.assert_tracked("Old", distinct_id="u")
    mp.close()


def test_lookup_tables_raise_while_events_are_captured(mixpanel_events):
    """A response cannot be captured, and an invented one would be wrong."""
    mp = Mixpanel("T", base_url=NOWHERE)
    with pytest.raises(ConfigurationError, match="emulator"):
        mp.lookup_tables()
    mp.close()


def test_the_function_uses_the_innermost_capture(mixpanel_events):
    """`assert_tracked` without a consumer looks there."""
    Mixpanel("T", MemoryConsumer()).track("u", "Signed Up")
    assert assert_tracked("Signed Up") == mixpanel_events.events


def test_a_captured_client_behaves_as_in_production(mixpanel_events):
    """Closed, disabled, and sync-in-async."""
    mp = Mixpanel("T", disabled=True, base_url=NOWHERE)
    mp.track("u", "Unseen")
    mp.close()
    with pytest.raises(mixpanel.ClosedError):
        mp.track("u", "Late")

    async def wrong():
        Mixpanel("T", base_url=NOWHERE).track("u", "Blocking")

    with pytest.raises(SyncInAsyncError):
        asyncio.run(wrong())
    assert [] == mixpanel_events.messages()


def test_clients_deliver_again_after_a_capture():
    """An inner capture takes over for its length."""
    consumer = MemoryConsumer()
    mp = Mixpanel("T", consumer)
    with capture() as outer:
        with capture() as inner:
            mp.track("u", "Inner")
        mp.track("u", "Outer")
    mp.track("u", "After")
    names = [[each["event"] for each in one.events] for one in (inner, outer, consumer)]
    assert [["Inner"], ["Outer"], ["After"]] == names


# The capture of other platforms


def test_clients_of_other_platforms_are_captured(mixpanel_events):
    """Async and sync, buffered and sending at once: each message is under its vendor."""
    deliveries = []

    async def main():
        async with AsyncCustomerIO("K", base_url=NOWHERE, on_delivery=deliveries.append) as cio:
            await cio.identify("u-17", {"plan": "team"})
            await cio.track("u-17", "Order Paid", {"amount": Decimal("12.5")})
            assert (2, True) == (cio.stats().delivered, cio.stats().balanced)

    asyncio.run(main())
    with Hightouch("K", base_url=NOWHERE, send_immediately=True) as ht:
        ht.batch([{"type": "track", "userId": 18, "event": "Order Paid"}] * 2)
    assert ["identify", "track"] == [each["type"] for each in mixpanel_events.customerio]
    assert ["delivered"] * 2 == [one.fate for one in deliveries]
    assert mixpanel_events.hightouch == mixpanel_events.messages("hightouch")
    mixpanel_events.assert_tracked_at("customerio", "Order Paid", user_id="u-17", amount=12.5)
    mixpanel_events.assert_tracked_at("hightouch", "Order Paid", user_id=18, times=2)
    mixpanel_events.assert_tracked("Order Paid", times=0)


def test_a_failure_shows_what_the_platform_got(mixpanel_events):
    """With the user id, and how the nearest event differs."""
    Hightouch("K", base_url=NOWHERE).track("u-17", "Order Paid", {"amount": 3})
    with pytest.raises(AssertionError) as failed:
        mixpanel_events.assert_tracked_at("hightouch", "Order Paid", user_id="u-18", amount=3)
    message = str(failed.value)
    assert "userId: 'u-17', expected 'u-18'" in message
    assert 'Order Paid  u-17  {"amount": 3}' in message
    with pytest.raises(AssertionError, match="nothing was tracked"):
        mixpanel_events.assert_tracked_at("customerio", "Order Paid")


@pytest.mark.parametrize("send_immediately", [False, True])
def test_a_fan_out_is_captured_sink_by_sink(mixpanel_events, send_immediately):
    """One call, three messages, none of which is sent."""
    mp = Mixpanel("T", base_url=NOWHERE)
    cio = CustomerIO("K", base_url=NOWHERE, send_immediately=send_immediately)
    with FanOut(mixpanel=Sink(mp), customerio=Sink(cio)) as everywhere:
        everywhere.track("u-17", "Order Paid", {"amount": 3})
    mixpanel_events.assert_tracked("Order Paid", distinct_id="u-17", amount=3, times=1)
    mixpanel_events.assert_tracked_at("customerio", "Order Paid", amount=3, times=1)


def test_a_backfill_is_captured(mixpanel_events):
    """No access token is requested, and the result counts the messages as imported."""
    oauth = HightouchOAuth("id", lambda: "no key", "key-1")
    rows = [{"type": "track", "userId": "u", "event": "Old", "timestamp": 1_700_000_000}, {}]
    with Hightouch("K", base_url=NOWHERE, oauth=oauth) as ht:
        result = ht.backfill(rows)
    assert (1, 1) == (result.imported, result.rejected)
    mixpanel_events.assert_tracked_at("hightouch", "Old", user_id="u")


def test_a_captured_client_of_another_platform_behaves_as_in_production(mixpanel_events):
    """Closed, disabled, too large, and sync-in-async."""
    CustomerIO("K", disabled=True, base_url=NOWHERE).track("u", "Unseen")
    cio = CustomerIO("K", base_url=NOWHERE, send_immediately=True)
    with pytest.raises(mixpanel.PayloadTooLargeError):
        cio.track("u", "Big", {"text": "x" * 40_000})

    async def wrong():
        cio.track("u", "Blocking")

    with pytest.raises(SyncInAsyncError):
        asyncio.run(wrong())
    cio.close()
    with pytest.raises(mixpanel.ClosedError):
        cio.track("u", "Late")
    assert [] == mixpanel_events.messages()


# The plugin


@pytest.mark.slow
def test_pytest_finds_the_fixture_without_an_import(pytester):
    """A user's test needs no configuration, and its failure explains."""
    pytester.makepyfile(
        """
        from mixpanel import Mixpanel

        def pay(amount):
            Mixpanel("TOKEN").track("u-17", "Order Paid", {"amount": amount})

        def test_it(mixpanel_events):
            pay(12.5)
            mixpanel_events.assert_tracked("Order Paid", distinct_id="u-17", amount=12.5)

        def test_that(mixpanel_events):
            pay(3)
            mixpanel_events.assert_tracked("Order Paid", amount=12.5)
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:asyncio", "-p", "no:randomly")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*amount: 3, expected 12.5*"])


def test_importing_testing_loads_neither_pytest_nor_httpx():
    """A `MemoryConsumer` is of use without pytest, and the plugin slows no test run down."""
    code = "import sys, mixpanel.testing; print({'pytest', 'httpx', 'asgiref'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "set()" == done.stdout.strip()
