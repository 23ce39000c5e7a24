"""Functions as a service: what is buffered is sent before the response."""

import asyncio
import inspect

import pytest

from mixpanel import AsyncBufferedConsumer, AsyncMixpanel, Mixpanel, context
from mixpanel.emulator import Fault
from mixpanel.exceptions import ConfigurationError
from mixpanel.integrations.serverless import flush_after


class LambdaContext:
    """What AWS Lambda passes as the second argument."""

    def __init__(self, seconds):
        self.seconds = seconds

    def get_remaining_time_in_millis(self):
        """Return the time until the deadline."""
        return int(self.seconds * 1000)


@pytest.fixture(params=[AsyncMixpanel, Mixpanel])
def mp(request, emu):
    """Return a client that does not send by itself in time."""
    client = request.param("t", AsyncBufferedConsumer(flush_after=3600, base_url=emu.url))
    yield client
    client.close() if request.param is Mixpanel else asyncio.run(client.aclose())


@pytest.fixture
def sync_mp(emu):
    """Return a sync client that does not send by itself in time."""
    consumer = AsyncBufferedConsumer(flush_after=3600, base_url=emu.url)
    yield Mixpanel("t", consumer)
    consumer._sender.close_sync()


@pytest.mark.slow
def test_an_async_function_flushes_either_client(emu, mp):
    """Each call in a loop of its own, as in a warm sandbox."""

    @flush_after(mp)
    async def handler(event, _context):
        sent = mp.track(event["user"], "Called")
        if sent is not None:
            await sent
        return event

    for count in (1, 2):
        event = {"user": f"u-{count}"}
        assert asyncio.run(handler(event, LambdaContext(3))) is event
        assert len(emu.events("Called")) == count


def test_a_sync_function_flushes_also_when_it_raises(emu, sync_mp):
    """The exception is its own, and the decorated function has its name and signature."""

    @flush_after(sync_mp)
    def handler(event, context):
        """Handle."""
        sync_mp.track(event["user"], "Called")
        raise LookupError(event)

    with pytest.raises(LookupError):
        handler({"user": "u-1"}, LambdaContext(3))
    assert len(emu.events("Called")) == 1
    assert (handler.__name__, handler.__doc__) == ("handler", "Handle.")
    assert list(inspect.signature(handler).parameters) == ["event", "context"]


def test_each_call_has_an_empty_context(emu, sync_mp):
    """Not the one of what calls it."""

    @flush_after(sync_mp)
    def handler():
        sync_mp.track(None, "Called")

    with context("u-1", plan="team"):
        handler()
    [event] = emu.events("Called")
    assert "plan" not in event["properties"]


@pytest.mark.parametrize(
    ("options", "seconds", "expected"),
    [
        ({}, 30.0, 2.0),
        ({}, 1.5, 1.0),
        ({"timeout": 0.3}, 30.0, 0.3),
        ({"margin": 0.0}, 1.5, 1.5),
        ({}, None, 2.0),
        ({}, 0.2, None),
    ],
)
def test_the_flush_ends_before_the_deadline(options, seconds, expected, caplog):
    """Without time it is left out, with a warning; without a deadline `timeout` holds."""
    timeouts = []

    class Spy(Mixpanel):
        def flush(self, timeout=None):
            timeouts.append(timeout)
            return super().flush(timeout)

    argument = LambdaContext(seconds) if seconds is not None else object()
    with Spy("t", AsyncBufferedConsumer()) as spy:
        flush_after(spy, **options)(lambda _event, _context: None)({}, argument)
        assert timeouts == ([] if expected is None else [expected])
    assert ("no time is left" in caplog.text) is (expected is None)


@pytest.mark.slow
def test_what_was_not_sent_waits_for_the_next_call(emu, sync_mp, caplog):
    """It is logged, the response is not changed, and nothing is lost."""
    emu.play(Fault.latency(1.0))

    @flush_after(sync_mp, timeout=0.1)
    def handler(_event):
        sync_mp.track("u-1", "Called")
        return "ok"

    assert handler({}) == "ok"
    assert "1 messages were not sent before the timeout" in caplog.text
    assert flush_after(sync_mp, timeout=10)(lambda: "ok")() == "ok"
    assert len(emu.events("Called")) == 1


def test_what_cannot_work_is_refused():
    """A sync function with an async client, and generators."""
    with pytest.raises(ConfigurationError, match="AsyncBufferedConsumer"):
        flush_after(AsyncMixpanel("t"))(lambda: None)

    def pieces():
        yield 1

    async def async_pieces():
        yield 1

    for generator in (pieces, async_pieces):
        with pytest.raises(ConfigurationError, match="generator"):
            flush_after(Mixpanel("t"))(generator)
    with pytest.raises(ConfigurationError, match="timeout=-1"):
        flush_after(Mixpanel("t"), timeout=-1)
