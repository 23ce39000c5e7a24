"""The sender's decisions at the end of a process and around it: see tests/faults/mutation.py."""

import asyncio
import json
import threading
import time
from types import SimpleNamespace

import pytest

from mixpanel._delivery import capture
from mixpanel._delivery import sender as sender_module
from mixpanel._delivery.buffer import Buffer, Claim
from mixpanel._delivery.sender import EXIT_RETRY, Sender
from mixpanel._delivery.stats import DeliveryStats
from mixpanel._http.ingestion import IngestionApi
from mixpanel._http.proxies import TransportOptions
from mixpanel._http.responses import Response
from mixpanel._records.record import Record
from mixpanel._runtime import native_threads, shutdown
from mixpanel.exceptions import ClosedError, ConfigurationError, RejectedError
from mixpanel.settings import Endpoints, Limits, RetryPolicy

OK = Response(200, {}, b'{"status":1,"error":null}')


class Transport:
    """Respond without a network, and keep what was sent."""

    has_sent = False

    def __init__(self):
        self.sent, self.ends, self.replies, self.closed = [], [], [], 0

    def send(self, request, *, end):
        self.sent.append([message["n"] for message in json.loads(request.content)])
        self.ends.append(end)
        return self.replies.pop(0) if self.replies else OK

    def close(self):
        self.closed += 1


class System:
    """A sender whose blocking connections are a `Transport`."""

    def __init__(self, *, background=True, buffered=True, client=None, **limits):
        limits = {"flush_after": 60.0, **limits}
        self.policy = RetryPolicy(first_wait=0.01, max_wait=0.01)
        self.sender = Sender(
            Buffer(Limits(**limits), DeliveryStats()),
            IngestionApi(Endpoints.resolve(base_url="http://127.0.0.1:9")),
            self.policy,
            TransportOptions(client=client),
            buffered=buffered,
            background=background,
        )
        self.transport = Transport()
        self.sender._make_transport = lambda: self.transport

    def accept(self, *some):
        return [self.sender.accept(event(n)) for n in some]


@pytest.fixture
def made(monkeypatch):
    """Make systems, and forget them at the end."""
    systems = []

    def make(**settings):
        systems.append(System(**settings))
        return systems[-1]

    yield make
    for each in systems:
        each.sender.buffer.drop_all("closed", end_reason="closed")
        shutdown.unregister(each.sender)
        shutdown.senders.discard(each.sender)


def event(n=0, **options):
    return Record("events", b'{"n":%d}' % n, **options)


def soon():
    return time.monotonic() + 20


def in_flight(system):
    """Take a batch as another thread does that is sending."""
    claim = Claim(lambda: True)
    system.sender.buffer.take(claim, everything=True)
    return claim


# ---- the drain at exit --------------------------------------------------------------------------


def test_the_drain_at_exit_sends_what_is_left_and_accepts_no_more(made):
    """Messages that come later count as dropped."""
    system = made(max_batch_size=2)
    system.accept(0, 1, 2)
    end = soon()
    system.sender.drain_at_exit(end)
    assert system.transport.sent == [[0, 1], [2]]
    assert system.transport.closed == 1
    assert max(system.transport.ends) <= end
    assert system.sender.dispatcher.policy is EXIT_RETRY
    assert system.sender._draining is False
    system.accept(3)
    stats = system.sender.stats.snapshot()
    assert (stats.delivered, stats.dropped, stats.pending) == (3, {"exit": 1}, 0)


@pytest.mark.slow
def test_the_drain_at_exit_ends_pauses_and_takes_back_what_no_loop_sends(made):
    """There is no later attempt."""
    system = made()
    system.accept(0, 1)
    claim = in_flight(system)
    system.sender.buffer.queues["events"].paused_until = time.monotonic() + 99
    system.sender.drain_at_exit(soon())
    assert system.transport.sent == [[0, 1]]
    assert not claim.batch.live


def test_without_messages_the_drain_at_exit_opens_no_connection(made):
    """But the sender accepts no more."""
    system = made()
    system.sender.drain_at_exit(soon())
    assert system.transport.closed == 0
    system.accept(0)
    assert system.sender.stats.snapshot().dropped == {"exit": 1}


def test_the_drain_at_exit_does_not_bypass_a_client_of_the_user(made):
    """It may be a mock; what is left counts as dropped."""
    system = made(client=object())
    system.accept(0)
    system.sender.drain_at_exit(soon())
    assert system.transport.sent == []
    assert system.sender.stats.snapshot().dropped == {"exit": 1}


def test_the_drain_at_exit_uses_the_connections_of_calling_threads(made):
    """They are open; those that a signal handler interrupted are not used."""
    system = made()
    system.sender._sync_transport = own = Transport()
    system.accept(0)
    system.sender.drain_at_exit(soon())
    assert (own.sent, system.transport.sent) == ([[0]], [])
    other = made()
    other.sender._sync_transport = own = Transport()
    other.accept(0)
    with other.sender._blocking_send():
        assert other.sender.is_interrupted
        other.sender.drain_at_exit(soon())
    assert (own.sent, other.transport.sent) == ([], [[0]])


def test_connections_that_a_signal_handler_interrupted_are_not_closed(made):
    """Their lock is held by the code below the handler: to wait for it would take for ever."""
    system = made()
    system.sender._sync_transport = own = Transport()
    with system.sender._blocking_send():
        system.sender.close_sync()
        assert own.closed == 0
    system.sender.close_sync()
    assert own.closed == 1


def test_the_drain_at_exit_is_over_at_its_end(made):
    """What could not be sent by then is dropped."""
    system = made()
    system.accept(0)
    system.sender.drain_at_exit(time.monotonic() - 1)
    assert system.transport.sent == []
    assert system.sender.stats.snapshot().dropped == {"exit": 1}


def test_the_drain_at_exit_waits_for_a_request_of_a_running_loop(made):
    """It may be delivered yet: sending it at once as well could deliver it twice."""
    system = made()
    system.accept(0)
    claim = in_flight(system)

    class Loop:
        key = object()

        def is_running(self):
            return True

    system.sender._loop = Loop()

    def finish():
        assert system.sender._loop is None  # its task takes no batch from now on
        assert system.sender._draining
        system.sender.buffer.settle(claim.batch, claim.batch.unsettled, "delivered")
        system.sender.dispatcher.finish(claim)

    timer = threading.Timer(0.1, finish)
    timer.start()
    system.sender.drain_at_exit(soon())
    timer.join()
    assert system.transport.sent == []
    assert system.sender.stats.snapshot().delivered == 1


def test_the_drain_at_exit_waits_half_of_its_time_for_others(made):
    """Then it sends what they had."""
    system = made()
    system.accept(0)
    in_flight(system)
    start = time.monotonic()
    system.sender._drain(start + 0.4, waiting=True)
    assert system.transport.sent == [[0]]
    assert time.monotonic() - start >= 0.2


# ---- an exit handler that tracks ----------------------------------------------------------------


@pytest.fixture
def discarded(made, monkeypatch):
    """A sender whose drain is over, in time for one more message."""
    system = made()
    system.sender._discard()
    monkeypatch.setattr(shutdown, "drain_deadline", soon())
    return system


def test_a_message_of_a_later_exit_handler_is_sent_at_once(discarded):
    """On the main thread, by a connection of its own."""
    assert discarded.accept(0) == [False]
    assert discarded.transport.sent == [[0]]
    assert discarded.transport.ends[0] <= shutdown.drain_deadline
    assert discarded.transport.closed == 1
    assert not discarded.sender.buffer.has_in_flight()


def test_a_message_of_a_later_exit_handler_that_fails_counts_as_dropped(discarded):
    """There is no other attempt."""
    discarded.transport.replies = [Response(401, {}, b"")]
    discarded.accept(0)
    stats = discarded.sender.stats.snapshot()
    assert (stats.pending, stats.dropped) == (0, {"exit": 1})
    assert discarded.transport.closed == 1


def test_after_the_time_of_the_drain_messages_count_as_dropped(discarded, monkeypatch):
    """Also those of other threads."""
    thread = threading.Thread(target=discarded.accept, args=(0,))
    thread.start()
    thread.join()
    monkeypatch.setattr(shutdown, "drain_deadline", time.monotonic() - 1)
    discarded.accept(1)
    assert discarded.transport.sent == []
    assert discarded.sender.stats.snapshot().dropped == {"exit": 2}


def test_a_closed_sender_raises_at_exit_as_well(discarded):
    """The message was not accepted."""
    discarded.sender.closed = True
    with pytest.raises(ClosedError):
        discarded.accept(0)
    assert discarded.transport.sent == []


# ---- a signal handler ---------------------------------------------------------------------------


def test_flushing_in_a_signal_handler_sends_at_once_and_gathers_no_more(made):
    """With the policy of an exit, for that time only."""
    system = made()
    policies = []
    send = system.transport.send

    def seen(request, *, end):
        policies.append(system.sender.dispatcher.policy)
        return send(request, end=end)

    system.transport.send = seen
    system.accept(0)
    end = soon()
    system.sender.flush_blocking(end)
    assert (system.transport.sent, policies) == ([[0]], [EXIT_RETRY])
    assert system.transport.ends[0] <= end
    assert system.transport.closed == 1
    assert system.sender.dispatcher.policy is system.policy
    system.accept(1)
    assert system.sender.buffer.due() == 1
    system.sender.flush_blocking(time.monotonic() - 1)
    assert system.transport.sent == [[0]]


def test_flushing_in_a_signal_handler_needs_messages_and_no_client_of_the_user(made):
    """Else no connection is opened."""
    system = made()
    system.sender.flush_blocking(soon())
    assert system.transport.closed == 0
    own = made(client=object())
    own.accept(0)
    own.sender.flush_blocking(soon())
    assert (own.transport.sent, own.transport.closed) == ([], 0)


def test_a_signal_handler_does_not_wait_for_the_code_that_it_interrupted(made):
    """For another thread it does."""
    system = made()
    system.accept(0)
    claim = in_flight(system)
    with system.sender._blocking_send():
        system.sender.flush_blocking(soon())
    assert system.sender.buffer.has_in_flight()

    def finish():
        system.sender.buffer.settle(claim.batch, claim.batch.unsettled, "delivered")
        system.sender.dispatcher.finish(claim)

    timer = threading.Timer(0.1, finish)
    timer.start()
    system.sender.flush_blocking(soon())
    assert not system.sender.buffer.has_in_flight()
    timer.join()


def test_only_the_outermost_blocking_send_ends_the_mark_of_its_thread(made):
    """A signal handler's may be inside of another."""
    sender = made().sender
    with sender._blocking_send():
        with sender._blocking_send():
            pass
        assert sender.is_interrupted
    assert not sender.is_interrupted


def test_a_replaced_flush_sends_at_the_end_and_has_a_result(made):
    """Without a loop and without threads."""
    system = made()
    results = []
    system.sender.flush_hooks.add(lambda: results.append(system.sender.flush_at_end()))
    system.accept(0, 1)
    system.sender.flush_blocking(soon())
    assert [(each.delivered, each.pending) for each in results] == [(2, 0)]


def test_a_flush_that_is_skipped_says_what_is_pending(made):
    """It sends nothing."""
    system = made()
    system.accept(0, 1)
    result = system.sender.skip_flush()
    assert (result.delivered, result.rejected, result.dropped, result.pending) == (0, 0, {}, 2)


# ---- fork ---------------------------------------------------------------------------------------


def test_a_forked_child_has_no_messages_and_no_connections(made, monkeypatch):
    """It keeps those of its parent from being collected, and accepts messages again."""
    system = made()
    inherited = []
    monkeypatch.setattr(sender_module, "_inherited_transports", inherited)
    calls = []

    class Guard:
        def after_fork(self):
            calls.append("guard")

    api, system.sender.api = system.sender.api, SimpleNamespace(guard=Guard())
    system.sender._sync_transport = own = Transport()
    system.sender._wake = object()
    system.sender._send_scopes.add(object())
    system.accept(0)
    with system.sender._blocking_send():
        system.sender._discard()
        system.sender._draining = True
        system.sender.after_fork()
        assert not system.sender.is_interrupted
    assert (inherited, own.closed, calls) == ([own], 0, ["guard"])
    assert system.sender._sync_transport is system.sender._loop is system.sender._wake is None
    assert system.sender._send_scopes == set()
    assert not system.sender._draining
    system.sender.api = api
    assert system.accept(1) == [True]
    assert system.sender.stats.snapshot().accepted == 1


def test_a_sender_that_was_closed_is_closed_in_the_child(made):
    """It was closed for good."""
    system = made()
    system.sender.closed = True
    system.sender.after_fork()
    with pytest.raises(ClosedError):
        system.accept(0)


# ---- registering, and connections ---------------------------------------------------------------


def test_a_sender_is_drained_at_exit_as_long_as_it_has_messages(made, monkeypatch):
    """From the first one until the last outcome."""
    calls = []
    monkeypatch.setattr(shutdown, "register", lambda sender: calls.append("register"))
    monkeypatch.setattr(shutdown, "unregister", lambda sender: calls.append("unregister"))
    system = made(background=False)
    system.accept(0, 1)
    assert calls == ["register"]
    system.sender.buffer.mark_for_flush()
    system.sender.send_due_blocking(system.transport)
    assert calls == ["register", "unregister"]


def test_a_sender_that_is_made_after_the_drain_accepts_nothing(made, monkeypatch):
    """No handler would send its messages."""
    monkeypatch.setattr(shutdown, "is_over", True)
    system = made()
    system.accept(0)
    assert system.sender.stats.snapshot().dropped == {"exit": 1}


def test_calling_threads_share_a_connection_unless_only_a_loop_can_send(made, monkeypatch):
    """So with a client of the user's own, and behind a proxy."""
    system = made()
    monkeypatch.setattr(sender_module, "getproxies", lambda: {"http": "http://127.0.0.1:9"})
    assert system.sender.sync_transport() is None
    monkeypatch.setattr(sender_module, "getproxies", dict)
    assert system.sender.sync_transport() is system.transport
    monkeypatch.setattr(sender_module, "getproxies", lambda: {"http": "http://127.0.0.1:9"})
    assert system.sender.sync_transport() is system.transport
    system.sender.close_sync()
    assert system.transport.closed == 1
    assert system.sender._sync_transport is None
    system.sender.close_sync()
    assert system.transport.closed == 1
    assert made(client=object()).sender.sync_transport() is None


def test_connections_have_the_limits_of_their_client():
    """Bytes of a response."""
    system = System(max_response_bytes=12345)
    del system.sender._make_transport
    transport = system.sender._make_transport()
    assert transport._max_response_bytes == 12345
    transport.close()


def test_a_message_that_is_delivered_directly_raises_its_error(made):
    """Later batches are not tried, and count as dropped."""
    system = made(max_batch_size=1)
    system.transport.replies = [OK, Response(400, {}, b'{"error":"bad","status":0}')]
    with pytest.raises(RejectedError):
        system.sender.deliver_blocking([event(0), event(1), event(2)], system.transport)
    stats = system.sender.stats.snapshot()
    assert system.transport.sent == [[0], [1]]
    assert (stats.delivered, stats.rejected, sum(stats.dropped.values())) == (1, 1, 1)
    assert not system.sender.is_interrupted
    system.sender.closed = True
    with pytest.raises(ClosedError):
        system.sender.deliver_blocking([event(3)], system.transport)
    with pytest.raises(ClosedError):
        asyncio.run(system.sender.deliver([event(3)]))


def test_after_the_drain_a_direct_delivery_closes_its_connection(made, monkeypatch):
    """No later handler would."""
    system = made()
    system.sender._sync_transport = own = Transport()
    system.sender.deliver_blocking([event(0)], own)
    assert own.closed == 0
    monkeypatch.setattr(shutdown, "is_over", True)
    system.sender.deliver_blocking([event(1)], own)
    assert own.closed == 1


# ---- what needs a spool -------------------------------------------------------------------------


def test_a_commit_needs_a_spool(made):
    """Unless each message is sent in its call, or a test captures it."""
    with pytest.raises(ConfigurationError, match="needs a spool"):
        made().sender.check_durable("commit()")
    assert made(buffered=False).sender.check_durable("commit()") is False
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capture, "active", lambda *_: None)
        assert made().sender.check_durable("commit()") is False


# ---- uWSGI --------------------------------------------------------------------------------------


def test_without_threads_messages_are_sent_in_requests(made, monkeypatch, caplog):
    """A warning says so once."""
    monkeypatch.setattr(sender_module, "_has_warned", False)
    for runs in (True, False, False):
        monkeypatch.setattr(native_threads, "run_between_requests", lambda runs=runs: runs)
        sender = made().sender
        sender.serve_sync_client()
        assert (sender.in_background_loop, sender.background) == (runs, runs)
    assert len([each for each in caplog.records if "uWSGI" in each.message]) == 1
    sender = made(background=False).sender
    sender.serve_sync_client()
    assert not sender.in_background_loop
