"""A client is captured because of what it is built on, not because it is known."""

import asyncio

import pytest

from mixpanel import ClosedError, Limits, MixpanelException, RetryPolicy
from mixpanel._delivery import capture, sync_delivery
from mixpanel._delivery.buffer import Buffer
from mixpanel._delivery.custom_consumer import CustomConsumer
from mixpanel._delivery.sender import Sender
from mixpanel._delivery.stats import DeliveryStats
from mixpanel._http.proxies import TransportOptions
from mixpanel._records.record import Record
from mixpanel.bulk import ImportJob, import_rows
from mixpanel.cdp import AsyncCustomerIO, CustomerIO
from mixpanel.client import AsyncMixpanel, Mixpanel
from mixpanel.testing import capture as captured


class PagerApi:
    """A server that no client of the package speaks to; a request to it fails the test."""

    guard = None

    def request(self, step):
        raise AssertionError("a captured message must not become a request")

    def classify(self, reply, part):
        from mixpanel._http.responses import classify_response

        return classify_response(reply, part)

    def takes_gzip(self, endpoint):
        return False

    def captured_as(self, endpoint):
        return f"pager.{endpoint}"


class Pager:
    """A client of a new vendor, for async code and for sync code."""

    def __init__(self, *, buffered=True, background=True):
        self.outcomes = []
        buffer = Buffer(
            Limits(),
            DeliveryStats(),
            max_in_flight={"alerts": 1},
            on_outcome=lambda records, fate, reason: self.outcomes.extend([fate] * len(records)),
        )
        self.sender = Sender(
            buffer,
            PagerApi(),
            RetryPolicy(),
            TransportOptions(),
            buffered=buffered,
            background=background,
        )

    @staticmethod
    def alert(text):
        return Record("alerts", f'{{"alert": "{text}"}}'.encode())


def texts(kept):
    return [message["alert"] for message in kept.messages("pager.alerts")]


def test_a_client_that_capture_has_never_seen_is_captured_when_it_queues():
    """From async code, from sync code, and from a callback that must not wait."""
    pager = Pager()
    waiting = Pager(background=False)

    async def main():
        assert not pager.sender.accept(pager.alert("async"))

    with captured() as kept:
        asyncio.run(main())
        sync_delivery.accept(pager.sender, pager.alert("sync"))
        sync_delivery.accept(waiting.sender, waiting.alert("sync, no background"))
        sync_delivery.enqueue(pager.sender, pager.alert("exposure"))
    assert ["async", "sync", "sync, no background", "exposure"] == texts(kept)
    stats = pager.sender.stats.snapshot()
    assert (3, 3, 0, 0) == (stats.accepted, stats.delivered, stats.pending, stats.requests)
    assert ["delivered"] * 3 == pager.outcomes


def test_a_client_that_capture_has_never_seen_is_captured_when_it_sends_at_once():
    """From async code, and from sync code without opening a connection."""
    pager = Pager(buffered=False, background=False)
    with captured() as kept:
        asyncio.run(pager.sender.deliver([pager.alert("one"), pager.alert("two")]))
        sync_delivery.deliver(pager.sender, [pager.alert("three")])
    assert ["one", "two", "three"] == texts(kept)
    assert pager.sender._sync_transport is None


def test_an_import_that_capture_has_never_seen_is_captured():
    """The result counts the rows as imported."""
    pager = Pager()
    job = ImportJob(pager.alert, PagerApi(), pager.sender.connections)
    with captured() as kept:
        result = asyncio.run(import_rows(["one", "two"], job))
    assert (2, 0) == (result.imported, result.rejected)
    assert ["one", "two"] == texts(kept)


def test_a_custom_consumer_is_not_called_while_messages_are_captured():
    """Neither awaited, nor called, nor from the background."""

    class Consumer:
        def send(self, endpoint, json_message):
            raise AssertionError("a captured message must not reach the consumer")

    adapter = CustomConsumer(Consumer(), DeliveryStats())
    record = Record("events", b'{"event": "Seen"}')
    with captured() as kept:
        asyncio.run(adapter.deliver([record]))
        adapter.deliver_sync([record])
        adapter.deliver_in_background(record)
    assert ["Seen"] * 3 == [each["event"] for each in kept.events]
    assert (3, 3) == (adapter.stats.accepted, adapter.stats.delivered)


@pytest.mark.parametrize("client", [AsyncMixpanel, Mixpanel, AsyncCustomerIO, CustomerIO, Sender])
def test_a_capture_patches_no_class(client):
    """The seam is one variable that is looked at."""
    before = [dict(vars(each)) for each in client.__mro__]
    with captured():
        assert before == [dict(vars(each)) for each in client.__mro__]


def test_a_closed_sender_raises_while_messages_are_captured():
    """Closed means closed, captured or not."""
    pager = Pager(buffered=False, background=False)
    asyncio.run(pager.sender.aclose(0))
    with captured() as kept:
        for accept in (sync_delivery.accept, lambda sender, one: sender.accept(one)):
            with pytest.raises(ClosedError):
                accept(pager.sender, pager.alert("late"))
        with pytest.raises(ClosedError):
            asyncio.run(pager.sender.deliver([pager.alert("late")]))
    assert [] == kept.messages()


def test_an_error_inside_a_capture_ends_it():
    """Clients deliver again after the block, whatever happened in it."""

    def keep(name, body):
        raise MixpanelException("no room")

    pager = Pager()
    with pytest.raises(MixpanelException, match="no room"), capture.capturing(keep):
        pager.sender.accept(pager.alert("lost"))
    assert capture.active is None
