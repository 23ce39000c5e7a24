"""Hightouch's module-level calls: the same names, parameters and return values."""

import asyncio
import inspect
import logging
import subprocess
import sys

import pytest

from mixpanel import ConfigurationError, RejectedError, ValidationError
from mixpanel.cdp import SegmentComposer, htevents
from mixpanel.emulator import Fault
from tests.cdp.run_clients import messages
from tests.cdp.test_oauth import key_pair

SETTINGS = {
    name: value
    for name, value in vars(htevents).items()
    if name.islower() and not name.startswith("_")
    and (value is None or isinstance(value, (bool, int, float, str)))
}  # fmt: skip


@pytest.fixture(autouse=True)
def _afresh():
    """Reset the module after each test."""
    yield
    for name, value in SETTINGS.items():
        setattr(htevents, name, value)


@pytest.fixture
def ht(emu):
    """Return the module, configured for the emulator."""
    htevents.write_key, htevents.host = "k", emu.hightouch_url
    yield htevents
    htevents.shutdown()  # while there is still somebody to take what waits


def test_htevents_calls_have_the_positional_parameters_of_hightouchs_module(emu, ht):
    """Each returns whether the message was accepted, and the message."""
    assert (True, "identify") == _kind(ht.identify("u", {"plan": "team"}))
    assert (True, "track") == _kind(ht.track("u", "Paid", {"a": 1}, {"ip": "1.1.1.1"}))
    assert (True, "page") == _kind(ht.page("u", "Docs", "Start", {"a": 1}))
    assert (True, "screen") == _kind(ht.screen("u", "App", "Home", {"a": 1}))
    assert (True, "group") == _kind(ht.group("u", "g", {"name": "Acme"}))
    assert (True, "alias") == _kind(ht.alias("old", "u"))
    assert ht.flush().ok
    assert ["identify", "track", "page", "screen", "group", "alias"] == [
        m["type"] for m in messages(emu)
    ]
    assert ("1.1.1.1", "old") == (
        messages(emu)[1]["context"]["ip"], messages(emu)[5]["previousId"],
    )  # fmt: skip


def _kind(answer):
    taken, message = answer
    return taken, message["type"]


@pytest.mark.parametrize("name", ["identify", "track", "page", "screen", "group", "alias"])
def test_htevents_functions_have_the_composers_signatures(name):
    """Without `self`."""
    ours = inspect.signature(getattr(htevents, name))
    theirs = inspect.signature(getattr(SegmentComposer, name))
    assert list(theirs.parameters)[1:] == list(ours.parameters)
    assert getattr(htevents, name).__doc__


def test_htevents_requires_a_write_key():
    """The error explains how to set it."""
    with pytest.raises(ConfigurationError, match=r"htevents\.write_key"):
        htevents.track("u", "Visit")


@pytest.mark.slow
@pytest.mark.parametrize("end", ["flush", "join", "shutdown"])
def test_flush_join_and_shutdown_send_pending_messages(emu, ht, end):
    """In Hightouch's library `join` lost the queue."""
    for n in range(500):
        ht.track("u", "Visit", {"n": n, "text": "x" * 2000})
    assert getattr(ht, end)().ok
    assert 500 == len(messages(emu))
    assert len(emu.requests("/hightouch/v1/batch")) > 2


def test_after_shutdown_settings_are_read_again(emu, ht):
    """The next call creates a new client."""
    ht.track("u", "Visit")
    ht.shutdown()
    ht.write_key = "other"
    ht.track("u", "Visit")
    ht.shutdown()
    assert ["k", "other"] == [entry["key"] for entry in emu.cdp_messages()]
    assert ht.flush() is ht.shutdown() is ht.join() is None


@pytest.mark.slow
def test_htevents_on_error_is_called_once_per_lost_message(emu, ht):
    """With the lost messages; an exception that it raises is logged."""
    notes = []

    def on_error(error, batch):
        notes.append((type(error), [m["event"] for m in batch]))
        raise RuntimeError("mine")

    ht.on_error = on_error
    emu.play(Fault.status(429, retry_after=0), Fault.status(400))
    ht.track("u", "Bad")
    ht.flush()
    ht.track("u", "Good")
    ht.track("u", "Big", {"t": "x" * 40_000})
    ht.flush()
    assert (RejectedError, ["Bad"]) == notes[0]
    assert ["Big"] == notes[1][1]
    assert ["Good"] == [m["event"] for m in messages(emu)]


def test_a_call_returns_false_when_the_queue_is_full(emu, ht):
    """As in Hightouch's library, nothing is raised."""
    ht.max_queue_size = 1
    emu.play(Fault.latency(0.3))
    answers = [ht.track("u", "Visit", {"n": n})[0] for n in range(3)]
    assert [True, False, False] == answers


def test_a_call_returns_false_for_a_message_that_is_too_large(emu, ht):
    """It is dropped and reported within the call."""
    taken, message = ht.track("u", "Big", {"t": "x" * 40_000})
    assert (False, "Big") == (taken, message["event"])
    assert {"too_large": 1} == ht.default_client.stats().dropped


@pytest.mark.slow
def test_sync_mode_sends_immediately_and_retries(emu, ht):
    """Hightouch's library tried once, and could not be shut down."""
    ht.sync_mode, ht.timeout = True, 5
    emu.play(Fault.status(503, retry_after=0))
    ht.track("u", "Visit")
    assert ["track"] == [entry["endpoint"] for entry in emu.cdp_messages()]
    emu.play(Fault.status(400))
    with pytest.raises(RejectedError):
        ht.track("u", "Visit")
    assert ht.shutdown().ok


def test_send_false_validates_and_sends_nothing(emu, ht):
    """Wrong calls still raise."""
    ht.send = False
    assert ht.track("u", "Visit")[0]
    with pytest.raises(ValidationError):
        ht.track(None, "Visit")
    ht.shutdown()
    assert [] == emu.requests()


@pytest.mark.slow
def test_oauth_and_gzip_settings_reach_the_client(emu, ht):
    """All five OAuth settings."""
    ht.oauth_client_id, ht.oauth_key_id = "client", "key-1"
    ht.oauth_client_key, ht.oauth_auth_server = key_pair()[0], emu.hightouch_oauth_url
    ht.gzip = True
    for _ in range(20):
        ht.track("u", "Visit")
    assert ht.flush().ok
    (request,) = emu.requests("/hightouch/v1/batch")
    assert "gzip" == request.headers["content-encoding"]
    assert request.headers["authorization"].startswith("Bearer ")


def test_log_handler_and_debug_configure_logging(emu, ht):
    """Once, however many clients are created."""
    logger = logging.getLogger("mixpanel")
    records, level = [], logger.level
    handler = logging.Handler()
    handler.emit = records.append
    ht.log_handler, ht.debug = handler, True
    try:
        for _ in range(2):
            emu.play(Fault.status(400))
            ht.track("u", "Visit")
            ht.shutdown()
        assert ["DEBUG", "ERROR"] * 2 == [record.levelname for record in records]
        assert all("HTTP 400" in record.getMessage() for record in records)
        assert logging.DEBUG == logger.level
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        ht.log_handler = None


@pytest.mark.slow
def test_debug_logs_each_request_without_its_content(emu):
    """Without payloads, the key, or duplicate lines."""
    program = f"""
from mixpanel.cdp import htevents
htevents.write_key, htevents.host, htevents.debug = "SECRET", "{emu.hightouch_url}", True
for name in ("Visit", "Leave"):
    htevents.track("u-17", name, {{"where": "home"}})
    htevents.shutdown()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    lines = done.stderr.splitlines()
    assert 2 == len(lines), done.stderr
    for line in lines:
        assert line.startswith(f"POST {emu.hightouch_url}/v1/batch: 1 message(s), ")
        assert line.endswith(" bytes: HTTP 200")


def test_calls_from_a_running_loop_do_not_block_it(emu, ht):
    """So an async web application can use the module."""

    async def main():
        ht.track("u", "Visit")

    asyncio.run(main())
    ht.shutdown()
    assert 1 == len(messages(emu))


@pytest.mark.slow
def test_htevents_sends_pending_messages_at_exit(emu):
    """Both with one message and with a full queue."""
    source = f"""
from mixpanel.cdp import htevents
htevents.write_key, htevents.host = "k", {emu.hightouch_url!r}
for n in range(500):
    htevents.track("u", "Visit", {{"n": n, "text": "x" * 2000}})
"""
    subprocess.run([sys.executable, "-W", "error", "-c", source], check=True, timeout=120)
    assert 500 == len({m["messageId"] for m in messages(emu)}) == len(messages(emu))
