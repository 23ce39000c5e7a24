"""A failure that only a person can mend is reported at once, whichever callbacks are set."""

import asyncio
import logging
import socket
import ssl

import httpcore
import httpx
import pytest

from mixpanel import (
    AuthenticationError,
    BufferedConsumer,
    Mixpanel,
    RetryPolicy,
    ServerError,
    TransportError,
)
from mixpanel._delivery.stats import DeliveryStats
from mixpanel._http.failures import describe, needs_attention
from mixpanel.cdp import CustomerIO, FanOut, Hightouch, Sink
from mixpanel.emulator import Fault
from mixpanel.flags import LocalFlagsConfig, RemoteFlagsConfig

CALLBACKS = ("on_error", "on_drop", "on_delivery")


def mixpanel_client(emu, **callbacks):
    callbacks.pop("on_delivery", None)
    return Mixpanel("token", BufferedConsumer(base_url=emu.url, **callbacks))


def customerio_client(emu, **callbacks):
    return CustomerIO("k", base_url=emu.customerio_url, **callbacks)


def hightouch_client(emu, **callbacks):
    return Hightouch("k", base_url=emu.hightouch_url, **callbacks)


def fan_out(emu, **callbacks):
    sink = Sink(hightouch_client(emu, **callbacks))
    return FanOut(hightouch=sink, on_error=lambda *_: None)


@pytest.mark.slow
@pytest.mark.parametrize("status", [401, 402, 403, 404, 301])
@pytest.mark.parametrize("given", [(), CALLBACKS, ("on_drop",), ("on_delivery",)])
@pytest.mark.parametrize("make", [mixpanel_client, customerio_client, hightouch_client, fan_out])
def test_a_refusal_is_logged_and_passed_to_on_error_before_a_message_is_lost(
    emu, caplog, make, given, status
):
    """With a wrong key or path messages are kept, so no other callback would be called for long."""
    calls = []
    callbacks = {name: lambda *call, name=name: calls.append((name, *call)) for name in given}
    emu.play(Fault.status(status))
    client = make(emu, **callbacks)
    with caplog.at_level(logging.ERROR, logger="mixpanel"):
        client.track("u", "E")
        client.flush(5)
    assert f"HTTP {status}" in caplog.text
    reports = [call for call in calls if call[0] == "on_error"]
    assert bool(reports) == ("on_error" in given)
    for _, error, lost in reports:
        assert (True, status, []) == (error.needs_attention, error.status, lost)
    assert {"on_error"} >= {call[0] for call in calls}
    client.close()


def test_the_drop_at_the_end_names_the_error_that_caused_it(emu, caplog):
    """Not only that the client was closed."""
    emu.play(*[Fault.status(401)] * 9)
    client = customerio_client(emu)
    client.track("u", "E")
    client.flush(5)  # until the server has refused it
    client.close(0.1)
    assert "1 message(s) dropped: closed; last error: AuthenticationError" in caplog.text


def test_an_error_before_the_last_delivery_is_not_named_at_the_end(emu, caplog):
    """It did not cause the drop."""
    stats = DeliveryStats()
    stats.report(AuthenticationError("HTTP 401"), [])
    assert "HTTP 401" in stats.drop_text("closed", 2)
    assert "2 message(s) dropped: queue_full" == stats.drop_text("queue_full", 2)
    client = customerio_client(emu, retry=RetryPolicy(first_wait=0.01))
    emu.play(Fault.status(503))
    client.track("u", "E")
    assert client.close().ok
    assert client._stats.last_error is None


def test_a_passing_error_does_not_hide_one_that_needs_attention(caplog):
    """Lines of one kind are limited to one a minute; these are of two kinds."""
    stats = DeliveryStats()
    passing, lasting = ServerError("HTTP 503", status=503), ServerError("HTTP 404", status=404)
    lasting.needs_attention = True
    other = AuthenticationError("HTTP 403", status=403)
    other.needs_attention = True
    for error in (passing, lasting, lasting, other):
        stats.report(error, [])
    logged = [(record.levelname, record.getMessage()[-3:]) for record in caplog.records]
    assert [("WARNING", "503"), ("ERROR", "404"), ("ERROR", "403")] == logged


def caused_by(cause):
    error = httpx.ConnectError("failed")
    error.__cause__ = httpcore.ConnectError(cause)
    error.__cause__.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("failure", "expected", "words"),
    [
        (caused_by(socket.gaierror(socket.EAI_NONAME, "unknown")), True, "does not know the host"),
        (caused_by(socket.gaierror(socket.EAI_AGAIN, "try again")), False, "cannot connect"),
        (caused_by(ConnectionRefusedError()), False, "cannot connect"),
        (caused_by(ssl.SSLCertVerificationError()), True, "certificate not accepted"),
        (httpx.InvalidURL("bad"), True, "InvalidURL"),
        (httpx.ReadTimeout("late"), False, "timed out"),
    ],
)
def test_transport_failures_say_whether_a_person_is_needed(failure, expected, words):
    """An unknown host and an untrusted certificate do not pass; a refused connection may."""
    assert expected is needs_attention(failure)
    assert words in describe(failure)


@pytest.mark.slow
def test_an_unknown_host_is_reported_at_once_and_tried_again(monkeypatch):
    """A laptop without a network knows no host either, so the messages are kept."""

    def unknown(*_args, **_kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    errors = []
    options = {"base_url": "https://wrong.example", "on_error": lambda *call: errors.append(call)}
    client = CustomerIO("k", **options)
    client.track("u", "E")
    assert 1 == client.flush(0.5).pending
    error, lost = errors[0]
    assert (TransportError, True, []) == (type(error), error.needs_attention, lost)
    client.close(0.05)


@pytest.mark.parametrize("shared", [False, True])
def test_polling_reports_a_refusal_that_follows_a_passing_failure(emu, caplog, tmp_path, shared):
    """Also before the first success, and when several processes share the polling."""
    emu.play(Fault.status(503), Fault.status(401), Fault.status(401))
    options = {"snapshot_path": tmp_path / "flags.json", "share_polling": True} if shared else {}
    config = LocalFlagsConfig(base_url=emu.url, **options)
    client = Mixpanel("token", local_flags_config=config)
    for failures in (1, 2, 3):
        client.local_flags._on_fetch_error(_fetch_error(client), failures)
    texts = [record.getMessage() for record in caplog.records]
    assert ["503", "401"] == [text.rpartition("HTTP ")[2][:3] for text in texts if "HTTP" in text]


def test_remote_evaluation_reports_each_reason_for_a_failure_at_once(emu, caplog):
    """The callers get the fallback, in which nothing may look at the reason."""
    emu.play(Fault.status(503), Fault.status(401), Fault.status(401))
    config = RemoteFlagsConfig(base_url=emu.url)
    with Mixpanel("token", remote_flags_config=config) as client:
        for _ in range(3):
            assert "off" == client.remote_flags.get_variant_value("f", "off", {"distinct_id": "u"})
    texts = [record.getMessage() for record in caplog.records]
    assert ["503", "401"] == [text.rpartition("HTTP ")[2][:3] for text in texts if "HTTP" in text]


def _fetch_error(client):
    with pytest.raises(Exception, match="HTTP") as raised:
        asyncio.run(client.local_flags._refresh())
    return raised.value
