"""Subclasses of the consumers that redact, filter or log: their own methods are always called."""

import gc
import json
import os
import subprocess
import sys
import textwrap
import weakref
from unittest import mock

import anyio
import pytest

from mixpanel import (
    AsyncBufferedConsumer,
    AsyncConsumer,
    AsyncMixpanel,
    BufferedConsumer,
    ConfigurationError,
    Consumer,
    FlushResult,
    Mixpanel,
    testing,
)
from mixpanel.integrations._serving import flush_all

MAIL = "ada@example.org"


def redacted(json_message):
    message = json.loads(json_message)
    for part in (message.get("properties", {}), message.get("$set", {})):
        part.pop("mail", None)
    return json.dumps(message)


class Redacting(Consumer):
    def send(self, endpoint, json_message, api_key=None, api_secret=None):
        super().send(endpoint, redacted(json_message), api_key, api_secret)


class BufferedRedacting(BufferedConsumer):
    def send(self, endpoint, json_message, api_key=None, api_secret=None):
        super().send(endpoint, redacted(json_message), api_key, api_secret)


class AsyncRedacting(AsyncConsumer):
    async def send(self, endpoint, json_message, api_key=None, api_secret=None):
        await super().send(endpoint, redacted(json_message), api_key, api_secret)


class AsyncBufferedRedacting(AsyncBufferedConsumer):
    async def send(self, endpoint, json_message, api_key=None, api_secret=None):
        await super().send(endpoint, redacted(json_message), api_key, api_secret)


class Grandchild(BufferedRedacting):
    """Replaces nothing itself."""


ALL = [Redacting, BufferedRedacting, AsyncRedacting, AsyncBufferedRedacting, Grandchild]


def calls(mp):
    return [
        lambda: mp.track("u", "Tracked", {"mail": MAIL}),
        lambda: mp.track_batch([{"event": "Batched", "properties": {"mail": MAIL}}] * 2),
        lambda: mp.import_data("key", "u", "Imported", 1_700_000_000, {"mail": MAIL}),
        lambda: mp.people_set("u", {"mail": MAIL}),
        lambda: mp.alias("a", "u"),
    ]


def sent(emu):
    bodies = [request.body.decode() for request in emu.requests()]
    assert bodies
    return "".join(bodies)


def close(consumer):
    if isinstance(consumer, Consumer):
        consumer.close()
    else:
        anyio.run(consumer.aclose)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ALL)
def test_each_message_of_a_sync_client_goes_through_send(emu, kind):
    """Whichever method it comes from, and whichever consumer delivers it."""
    consumer = kind(base_url=emu.url)
    with Mixpanel("t", consumer) as mp:
        for call in calls(mp):
            call()
    close(consumer)
    assert MAIL not in sent(emu)
    assert {e["event"] for e in emu.events()} >= {"Tracked", "Batched", "Imported"}
    assert (mp.stats().accepted, mp.stats().delivered, mp.stats().pending) == (6, 6, 0)


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("kind", ALL)
async def test_each_message_of_an_async_client_goes_through_send(emu, anyio_backend, kind):
    """A blocking `send` runs in a worker thread."""
    consumer = kind(base_url=emu.url)
    async with AsyncMixpanel("t", consumer) as mp:
        for call in calls(mp):
            await call()
    if isinstance(consumer, Consumer):
        consumer._sender.close_sync()
    await consumer._sender.aclose()
    assert MAIL not in sent(emu)
    assert {e["event"] for e in emu.events()} >= {"Tracked", "Batched", "Imported"}
    assert (mp.stats().accepted, mp.stats().delivered, mp.stats().pending) == (6, 6, 0)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [BufferedRedacting, AsyncBufferedRedacting])
async def test_a_sync_client_in_a_running_loop_goes_through_send(emu, anyio_backend, kind):
    """Without blocking the loop."""
    mp = Mixpanel("t", kind(base_url=emu.url))
    mp.track("u", "Tracked", {"mail": MAIL})
    await anyio.to_thread.run_sync(mp.close)
    await mp.consumer._sender.aclose()
    assert MAIL not in sent(emu)
    assert [e["event"] for e in emu.events()] == ["Tracked"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Redacting, BufferedRedacting, AsyncBufferedRedacting])
def test_exposures_go_through_send(emu, kind):
    """They are delivered in the background, but not around the consumer's own methods."""
    consumer = kind(base_url=emu.url)
    mp = Mixpanel("t", consumer)
    mp._track_exposure("u", "$experiment_started", {"mail": MAIL})
    mp.close()
    close(consumer)
    assert MAIL not in sent(emu)
    assert [e["event"] for e in emu.events()] == ["$experiment_started"]


def test_what_send_leaves_out_is_not_sent(emu):
    """A filter drops messages by not passing them on; what it raises reaches the caller."""

    class Filtering(Consumer):
        def send(self, endpoint, json_message, *more):
            if "Internal" in json_message:
                return
            if "Wrong" in json_message:
                raise KeyError("own")
            super().send(endpoint, json_message, *more)

    mp = Mixpanel("t", Filtering(base_url=emu.url))
    mp.track("u", "Internal")
    mp.track("u", "Kept")
    with pytest.raises(KeyError, match="own"):
        mp.track("u", "Wrong")
    mp.close()
    mp.consumer.close()
    assert [e["event"] for e in emu.events()] == ["Kept"]
    assert mp.stats().accepted == 1


@pytest.mark.parametrize("patch", ["class", "object", "subclass method deliver"])
def test_a_method_replaced_later_is_called_as_well(patch):
    """As `unittest.mock` replaces it, in the class or in the object."""
    if patch == "class":
        mp = Mixpanel("t")
        with mock.patch.object(Consumer, "send") as send:
            mp.track("u", "E")
    elif patch == "object":
        mp = Mixpanel("t", BufferedConsumer())
        mp.consumer.send = send = mock.Mock()
        mp.track("u", "E")
    else:
        send = mock.Mock()

        class Own(Consumer):
            deliver = send

        Mixpanel("t", Own()).track("u", "E")
    send.assert_called_once()


def test_a_bulk_import_does_not_bypass_send():
    """It is refused, and the error names what to use."""
    with pytest.raises(ConfigurationError, match="before_send="):
        Mixpanel("t", Redacting()).import_events([{"event": "E", "properties": {"time": 1}}])


def test_a_test_captures_messages_before_any_send():
    """With `capture`, nothing leaves, whatever the subclass does."""
    mp = Mixpanel("t", Redacting())
    with testing.capture() as captured:
        mp.track("u", "E", {"mail": MAIL})
    captured.assert_tracked("E", mail=MAIL)
    assert mp.stats().accepted == 1


# ---- flush and _flush_endpoint ------------------------------------------------------------------


class Logging(BufferedConsumer):
    """With the hooks of the official class, in their official form."""

    def __init__(self, *arguments, **options):
        self.log = []
        super().__init__(*arguments, **options)

    def flush(self):
        self.log.append("flush")
        super().flush()

    def _flush_endpoint(self, endpoint):
        self.log.append(endpoint)
        super()._flush_endpoint(endpoint)


ENDPOINTS = ["events", "people", "groups", "imports"]


def test_a_full_batch_goes_through_the_hook_of_its_endpoint(emu):
    """And takes no other endpoint's messages with it."""
    consumer = Logging(2, base_url=emu.url)
    mp = Mixpanel("t", consumer)
    mp.people_set("u", {"a": 1})
    mp.track("u", "A")
    assert consumer.log == []
    mp.track("u", "B")
    assert consumer.log == ["events"]
    assert (len(emu.events()), len(emu.profiles())) == (2, 0)
    consumer.close()
    assert len(emu.profiles()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("end", ["flush", "close", "with", "consumer.flush", "consumer.close"])
def test_each_way_to_flush_calls_the_hooks(emu, end):
    """`flush()` of the subclass, which has no timeout, and from it each endpoint's."""
    consumer = Logging(base_url=emu.url)
    mp = Mixpanel("t", consumer)
    mp.track("u", "A")
    if end == "with":
        with mp:
            pass
    else:
        owner = consumer if end.startswith("consumer") else mp
        getattr(owner, end.rpartition(".")[2])()
    assert consumer.log[0] == "flush"
    assert sorted(consumer.log[1:]) == sorted(ENDPOINTS)
    assert len(emu.events()) == 1
    consumer.close()


def test_a_replaced_flush_keeps_the_result(emu):
    """The client returns what was delivered, even if the subclass returns nothing."""
    consumer = Logging(base_url=emu.url)
    mp = Mixpanel("t", consumer)
    mp.track("u", "A")
    assert mp.flush() == FlushResult(1, 0, {}, 0)
    mp.track("u", "A")
    assert mp.close() == FlushResult(1, 0, {}, 0)
    consumer.close()


@pytest.mark.anyio
async def test_an_async_client_calls_a_replaced_flush(emu, anyio_backend):
    """When it is flushed, and when it is closed."""

    class Counting(AsyncBufferedConsumer):
        flushed = 0

        async def flush(self, timeout=None):
            self.flushed += 1
            return await super().flush(timeout)

    consumer = Counting(base_url=emu.url)
    async with AsyncMixpanel("t", consumer) as mp:
        await mp.track("u", "A")
        assert (await mp.flush()).delivered == 1
    assert consumer.flushed == 2
    await consumer.aclose()


@pytest.mark.anyio
async def test_in_a_running_loop_a_full_batch_goes_through_the_hook(emu, anyio_backend):
    """In the background, without blocking the loop."""
    consumer = Logging(2, base_url=emu.url)
    mp = Mixpanel("t", consumer)
    mp.track("u", "A")
    mp.track("u", "B")
    with anyio.fail_after(10):
        while not consumer.log or mp.stats().pending:
            await anyio.sleep(0.01)
    assert consumer.log == ["events"]
    await consumer._sender.aclose()
    assert len(emu.events()) == 2


@pytest.mark.slow
def test_at_the_end_of_the_process_the_hooks_are_called(emu):
    """And what they leave is sent all the same."""
    program = """
        import sys
        from mixpanel import BufferedConsumer, Mixpanel

        class Logging(BufferedConsumer):
            def flush(self):
                print("flush")
                super().flush()

            def _flush_endpoint(self, endpoint):
                print(endpoint)
                if endpoint == "events":
                    super()._flush_endpoint(endpoint)
                if endpoint == "people":
                    raise KeyError("own")

        mp = Mixpanel("t", Logging(base_url=sys.argv[1]))
        mp.track("u", "A")
        mp.people_set("u", {"a": 1})
    """
    command = [sys.executable, "-c", textwrap.dedent(program), emu.url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split()[:2] == ["flush", "events"]
    assert "flush() of Logging failed at exit" in done.stderr
    assert (len(emu.events()), len(emu.profiles())) == (1, 1)


# ---- the end of the process ---------------------------------------------------------------------

# Each class prints its name in its own `flush`.
PROGRAM = """
import os, signal, sys
import anyio, trio
from mixpanel import *
from mixpanel import cdp
import mixpanel.cdp.htevents

class AsyncOne(AsyncBufferedConsumer):
    async def flush(self, timeout=None):
        print("AsyncOne")
        await anyio.sleep(0.01)
        return await super().flush(timeout)

class Failing(AsyncBufferedConsumer):
    async def flush(self):
        print("Failing")
        raise KeyError("own")

class AsyncClient(AsyncMixpanel):
    async def flush(self, timeout=None):
        print("AsyncClient")
        await trio.lowlevel.checkpoint()
        return await super().flush(timeout)

class Client(Mixpanel):
    def flush(self, timeout=None):
        print("Client")
        return super().flush(timeout)

class Hightouch(cdp.Hightouch):
    def flush(self, timeout=None):
        print("Hightouch")
        return super().flush(timeout)

class CustomerIO(cdp.AsyncCustomerIO):
    async def flush(self, timeout=None):
        print("CustomerIO")
        return await super().flush(timeout)

class DropIn(cdp.htevents.Client):
    def flush(self, timeout=None):
        print("DropIn")
        return super().flush(timeout)

class Endless(AsyncBufferedConsumer):
    async def flush(self):
        print("Endless")
        await super().flush()
        await anyio.sleep(600)

later = Limits(flush_after=60)
if sys.argv[1] == "endless":
    sync = [Mixpanel("t", Endless(flush_after=60))]
else:
    sync = [
        Mixpanel("t", AsyncOne(limits=later)), Mixpanel("t", Failing(limits=later)),
        Client("t", AsyncBufferedConsumer(limits=later)), Hightouch("t", limits=later),
        DropIn("t", upload_interval=60),
    ]
    on_trio, on_asyncio = AsyncClient("t", limits=later), CustomerIO("t", limits=later)
    anyio.run(on_trio.track, "u", "A", backend="trio")
    anyio.run(on_asyncio.track, "u", "A")
for client in sync:
    client.track("u", "A")
"""
SIGNAL = """
{before}
flush_on_signal()
os.kill(os.getpid(), signal.SIGTERM)
"""
ENDS = {
    "exit": "",
    "signal": SIGNAL.format(before=""),
    "signal with a handler": SIGNAL.format(
        before="signal.signal(signal.SIGTERM, lambda *_: os._exit(0))"
    ),
    "signal in a loop": """
async def main():
    flush_on_signal()
    os.kill(os.getpid(), signal.SIGTERM)
    await anyio.sleep(60)

anyio.run(main)
""",
}
NAMES = "AsyncClient AsyncOne Client CustomerIO DropIn Failing Hightouch"


def run_to_end(emu, end, *arguments):
    """Run a program that ends in some way; return its output and the messages that came."""
    done = subprocess.run(
        [sys.executable, "-u", "-c", PROGRAM + end, *arguments],
        env={**os.environ, "MP_BASE_URL": emu.url, "MP_CUSTOMERIO_BASE_URL": emu.customerio_url,
             "MP_HIGHTOUCH_BASE_URL": emu.hightouch_url},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    came = [event["event"] for event in emu.events()]
    came += [entry["message"]["event"] for entry in emu.cdp_messages(None)]
    return " ".join(sorted(done.stdout.split())), done.stderr, came


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
def test_the_flush_of_a_subclass_is_called_when_the_process_ends(emu, end):
    """Of consumers and clients, sync and async, at exit and by a signal; the rest is sent too."""
    names, errors, came = run_to_end(emu, ENDS[end], "all")
    assert (names, came) == (NAMES, ["A"] * 7), errors
    assert errors.count("flush() of Failing failed at exit") == errors.count("Traceback") == 1


@pytest.mark.slow
def test_a_flush_that_never_returns_does_not_keep_the_process(emu):
    """It has the time that the end of any process has."""
    assert run_to_end(emu, ENDS["signal in a loop"], "endless") == ("Endless", "", ["A"])


@pytest.mark.slow
def test_the_end_of_a_job_calls_the_flush_of_a_subclass(emu):
    """As of RQ, whose processes run no exit handlers; what an async `send` has in hand, too."""

    class Own(AsyncBufferedRedacting):
        flushed = 0

        async def flush(self, timeout=None):
            self.flushed += 1
            return await super().flush(timeout)

    async def track():
        mp.track("u", "A", {"mail": MAIL})

    consumer = Own(base_url=emu.url, flush_after=60)
    mp = Mixpanel("t", consumer)
    anyio.run(track)
    flush_all(10)
    assert (consumer.flushed, [event["event"] for event in emu.events()]) == (1, ["A"])
    close(consumer)


def test_a_client_that_shares_a_consumer_is_not_kept_by_it():
    """A program may make one for each request; its `flush` is called while it lives."""

    class Own(Mixpanel):
        def flush(self, timeout=None):
            raise AssertionError

    consumer = BufferedConsumer()
    kept = weakref.ref(Own("t", consumer))
    gc.collect()
    assert kept() is None
    Own("t", consumer)
    gc.collect()
    Own("t", consumer)
    assert len(consumer._sender.flush_hooks._methods) <= 2


# ---- _write_request -----------------------------------------------------------------------------


class Writing(Consumer):
    """With the hook of the official class, which gets each request of a `Consumer`."""

    def __init__(self, *arguments, **options):
        self.log = []
        super().__init__(*arguments, **options)

    def _write_request(self, request_url, json_message, api_key=None, api_secret=None, *more):
        self.log.append((request_url.rpartition("/")[2], api_key, api_secret, *more))
        return super()._write_request(
            request_url, redacted(json_message), api_key, api_secret, *more
        )


class OldWriting(Consumer):
    """As written for versions before 5.0, which passed no endpoint."""

    log = ()

    def _write_request(self, request_url, json_message, api_key=None, api_secret=None):
        return super()._write_request(request_url, redacted(json_message), api_key, api_secret)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Writing, OldWriting])
def test_each_request_of_a_consumer_goes_through_write_request(emu, kind):
    """From whichever method of the client, exposures included."""
    consumer = kind(base_url=emu.url)
    with Mixpanel("t", consumer) as mp:
        for call in calls(mp):
            call()
        mp._track_exposure("u", "$experiment_started", {"mail": MAIL})
    close(consumer)
    assert MAIL not in sent(emu)
    expected = {"Tracked", "Batched", "Imported", "$experiment_started"}
    assert {e["event"] for e in emu.events()} >= expected
    if kind is Writing:
        assert ("track", None, None, "events") in consumer.log
        assert ("import", ("key", None), None, "imports") in consumer.log
        assert ("engage", None, None, "people") in consumer.log


@pytest.mark.anyio
async def test_an_async_client_goes_through_write_request(emu, anyio_backend):
    """In a worker thread."""
    consumer = Writing(base_url=emu.url)
    async with AsyncMixpanel("t", consumer) as mp:
        await mp.track("u", "Tracked", {"mail": MAIL})
    await consumer._sender.aclose()
    assert MAIL not in sent(emu)
    assert [e["event"] for e in emu.events()] == ["Tracked"]


def test_write_request_may_be_replaced_by_a_mock():
    """After the client was made, as tests of programs do."""
    mp = Mixpanel("t")
    with mock.patch.object(Consumer, "_write_request") as write:
        mp.track("u", "E")
    url, message, *more = write.call_args.args
    assert url.endswith("/track")
    assert json.loads(message)["event"] == "E"
    assert more == [None, None, "events"]


def test_write_request_sends_to_the_urls_of_its_consumer_only(emu):
    """Another URL is refused, and the error names the parameters for it."""
    consumer = Consumer(base_url=emu.url)
    message = '[{"event": "A", "properties": {"token": "t"}}]'
    assert consumer._write_request(f"{emu.url}/track", message) is True
    with pytest.raises(ConfigurationError, match="events_url="):
        consumer._write_request("https://example.org/track", "{}")
    with pytest.raises(ConfigurationError, match="events_url="):
        consumer._write_request(f"{emu.url}/engage", "{}", endpoint="events")
    consumer.close()


def test_a_buffered_consumer_warns_that_it_does_not_call_write_request(caplog):
    """As in the official package; here the warning names what it calls."""

    class Own(BufferedConsumer):
        def _write_request(self, *_):
            raise AssertionError

    Own()
    assert "replace send instead" in caplog.text
