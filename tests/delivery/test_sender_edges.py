"""The sender's decisions at the end of a process and around it: see tests/faults/mutation.py."""

import asyncio
import json
import logging
import math
import threading
import time
from types import SimpleNamespace

import anyio
import anyio.lowlevel
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
from mixpanel._runtime import background_loop, native_threads, shutdown
from mixpanel.exceptions import (
    ClosedError,
    ConfigurationError,
    QueueFullError,
    RejectedError,
    SpoolError,
    TransportError,
)
from mixpanel.settings import Endpoints, Limits, RetryPolicy

OWN_CLIENT = SimpleNamespace(send=None, aclose=None)  # as of the user; it is never used
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


class Connections:
    """Respond in an event loop without a network; while `holding`, no request gets a response."""

    def __init__(self, client):
        self.transport = TransportOptions(client=client)
        self.sent, self.replies = [], []
        self.holding, self.cancelled, self.closed = False, 0, 0
        self.changed = asyncio.Event()

    async def attempt(self, request, *, on_sent=None):
        self.sent.append([message["n"] for message in json.loads(request.content)])
        try:
            while self.holding:
                await self.changed.wait()
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            raise
        return self.replies.pop(0) if self.replies else OK

    def release(self):
        self.holding = False
        self.changed.set()

    async def aclose(self):
        self.closed += 1


class Durable(Buffer):
    """As a buffer with a spool, in which a commit finds a message of an earlier process."""

    is_durable = True

    def __init__(self, *settings):
        super().__init__(*settings)
        self.calls, self.failure, self.unwritten = [], None, []

    def attach(self, on_ready, in_caller):
        self.on_ready, self.in_caller = on_ready, in_caller

    def start(self):
        self.calls.append("start")

    async def commit(self, timeout=None):
        self.calls.append(("commit", timeout))
        self.put(event(9, "people"))
        if self.failure is not None:
            raise self.failure

    def commit_blocking(self, timeout=None):
        self.calls.append(("commit_blocking", timeout))

    def take(self, claim, *, everything=False):
        while everything and self.unwritten:
            self.put(self.unwritten.pop())
        return super().take(claim, everything=everything)


class Loop:
    """An event loop of another thread, which runs nothing yet."""

    backend = "other"

    def __init__(self, *, running=True):
        self.key, self.running, self.soon, self.later = object(), running, [], []

    def is_running(self):
        return self.running

    def call_soon(self, callback):
        self.soon.append(callback)

    def call_later(self, seconds, callback):
        self.later.append((seconds, callback))


class Between:
    """A lock that another thread was faster to get: `act` is what it did."""

    def __init__(self, lock, act):
        self.lock, self.act = lock, act

    def __enter__(self):
        act, self.act = self.act, lambda: None
        act()
        return self.lock.__enter__()

    def __exit__(self, *error):
        return self.lock.__exit__(*error)


class System:
    """A sender whose connections are a `Transport`, and in an event loop `Connections`."""

    def __init__(self, *, background=True, buffered=True, client=None, kind=Buffer, **limits):
        limits = {"flush_after": 60.0, **limits}
        self.policy = RetryPolicy(first_wait=0.01, max_wait=0.01)
        self.sender = Sender(
            kind(Limits(**limits), DeliveryStats()),
            IngestionApi(Endpoints.resolve(base_url="http://127.0.0.1:9")),
            self.policy,
            TransportOptions(client=client),
            buffered=buffered,
            background=background,
        )
        self.transport = Transport()
        self.sender._make_transport = lambda: self.transport
        self.connections = Connections(client)
        self.sender.connections = self.sender.dispatcher._connections = self.connections

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


def event(n=0, endpoint="events", **options):
    return Record(endpoint, b'{"n":%d}' % n, **options)


def soon():
    return time.monotonic() + 20


def run(main):
    """Run an async function, which may wait for ever if the sender is broken."""

    async def limited():
        with anyio.fail_after(5):
            return await main()

    return asyncio.run(limited())


async def turns(count=50):
    """Let the tasks of this loop do what they can without time passing."""
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


def sleeps_of(monkeypatch, act=lambda: None):
    """Return the sleeps of blocking code, each of which calls a function instead."""
    sleeps = []

    def sleep(seconds):
        sleeps.append(seconds)
        act()

    clock = SimpleNamespace(monotonic=time.monotonic, sleep=sleep)
    monkeypatch.setattr(sender_module, "time", clock)
    return sleeps


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
    system.sender._loop = Loop(running=False)
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
    system = made(client=OWN_CLIENT)
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


def test_the_drain_at_exit_waits_for_no_loop_that_has_ended(made, monkeypatch):
    """Nor for the code that a signal handler interrupted: both give nothing back."""
    sleeps = sleeps_of(monkeypatch)
    ended = made()
    ended.sender._loop = Loop(running=False)
    ended.accept(0)
    in_flight(ended)
    ended.sender.drain_at_exit(soon())
    interrupted = made()
    interrupted.sender._loop = Loop()
    interrupted.accept(0)
    in_flight(interrupted)
    with interrupted.sender._blocking_send():
        interrupted.sender.drain_at_exit(soon())
    assert (ended.transport.sent, interrupted.transport.sent, sleeps) == ([[0]], [[0]], [])


def test_a_drain_inside_the_senders_own_loop_does_not_wait_for_it(made, monkeypatch):
    """It runs nothing meanwhile."""
    sleeps = sleeps_of(monkeypatch)
    system = made(max_batch_size=1)

    async def main():
        system.connections.holding = True
        system.accept(0)
        await turns()
        assert system.connections.sent == [[0]]
        system.sender.drain_at_exit(soon())

    run(main)
    assert (system.transport.sent, sleeps) == ([[0]], [])


def test_the_drain_at_exit_waits_for_a_thread_that_sends_without_a_loop(made, monkeypatch):
    """Its request may be delivered yet."""
    system = made(background=False)
    system.accept(0)
    claim = in_flight(system)

    def finish():
        system.sender.buffer.settle(claim.batch, claim.batch.unsettled, "delivered")
        system.sender.dispatcher.finish(claim)

    sleeps = sleeps_of(monkeypatch, finish)
    system.sender.drain_at_exit(soon())
    assert (system.transport.sent, len(sleeps)) == ([], 1)
    assert system.sender.stats.snapshot().delivered == 1


def test_the_drain_at_exit_sends_what_another_thread_gives_back(made, monkeypatch):
    """It waits for that, since nothing else would send it."""
    system = made(max_batch_size=1, concurrency=2)
    system.accept(0, 1)
    claims = []
    send = system.transport.send

    def send_while_another_takes(request, *, end):
        if not claims:
            claims.append(in_flight(system))
        return send(request, end=end)

    system.transport.send = send_while_another_takes
    sleeps = sleeps_of(monkeypatch, lambda: system.sender.dispatcher.finish(claims[0]))
    system.sender.drain_at_exit(time.monotonic() + 2)
    assert (system.transport.sent, len(sleeps)) == ([[0], [1]], 1)


@pytest.mark.parametrize("end", [Sender.drain_at_exit, Sender.flush_blocking])
def test_what_a_signal_handler_tracks_while_counts_are_read_is_sent_at_the_end(made, end):
    """Even if there is no other message; replaced `flush` methods see it as well."""
    system = made()
    results = []
    system.sender.flush_hooks.add(lambda: results.append(system.sender.stats.pending))
    with system.sender.buffer.lock:
        system.sender.stats.changing = True
        system.accept(0)
        system.sender.stats.changing = False
    assert system.sender.stats.pending == 0
    end(system.sender, soon())
    assert (system.transport.sent, results) == ([[0]], [1])


def test_a_replaced_flush_sends_at_exit_without_waiting_for_others(made, monkeypatch):
    """The drain after it has the rest of the time."""
    sleeps = sleeps_of(monkeypatch)
    system = made()
    results = []
    system.sender.flush_hooks.add(lambda: results.append(system.sender.flush_at_end()))
    system.accept(0)
    in_flight(system)
    system.sender.drain_at_exit(soon())
    assert ([each.delivered for each in results], sleeps) == ([1], [])


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
    shutdown.drain_deadline = 0.0
    discarded.accept(1)
    assert discarded.sender.stats.snapshot().dropped == {"exit": 1}


def test_a_message_of_a_later_exit_handler_does_not_bypass_a_client_of_the_user(discarded):
    """It counts as dropped."""
    discarded.connections.transport = TransportOptions(client=OWN_CLIENT)
    discarded.accept(0)
    assert (discarded.transport.sent, discarded.transport.closed) == ([], 0)
    assert discarded.sender.stats.snapshot().dropped == {"exit": 1}


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
    assert (discarded.transport.sent, discarded.transport.closed) == ([], 0)
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
    own = made(client=OWN_CLIENT)
    own.accept(0)
    own.sender.flush_blocking(soon())
    assert (own.transport.sent, own.transport.closed) == ([], 0)


def test_a_signal_handler_does_not_wait_for_the_code_that_it_interrupted(made, monkeypatch):
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

    sleeps = sleeps_of(monkeypatch, finish)
    system.sender.flush_blocking(time.monotonic() + 2)
    assert not system.sender.buffer.has_in_flight()
    assert len(sleeps) == 1


def test_a_signal_handler_sends_all_batches(made):
    """One after the other, although none of them is full."""
    system = made(max_batch_size=2)
    for n in range(3):
        system.sender.accept(event(n))
        system.sender.accept(event(n + 10, "people"))
    system.sender.flush_blocking(soon())
    assert system.transport.sent == [[0, 1], [2], [10, 11], [12]]


def test_a_signal_handler_in_the_senders_own_loop_does_not_wait_for_it(made, monkeypatch):
    """It runs nothing meanwhile; what it sends is left to it."""
    sleeps = sleeps_of(monkeypatch)
    system = made(max_batch_size=1)

    async def main():
        system.connections.holding = True
        system.accept(0)
        await turns()
        assert system.sender.sends_in_this_loop
        system.sender.flush_blocking(time.monotonic() + 1)
        system.connections.release()
        await turns()

    run(main)
    assert (system.connections.sent, system.transport.sent, sleeps) == ([[0]], [], [])


def test_a_signal_handler_flushes_every_sender(made, monkeypatch):
    """Also those that are in no loop."""
    monkeypatch.setattr(shutdown, "senders", set())
    systems = [made(), made(background=False)]
    for n, system in enumerate(systems):
        system.accept(n)
    shutdown.flush()
    assert [system.transport.sent for system in systems] == [[[0]], [[1]]]


def test_a_sender_knows_whether_a_signal_handler_interrupted_its_buffer(made):
    """Then the handler must not wait."""
    sender = made().sender
    assert not sender.holds_lock()
    with sender.buffer.lock:
        assert sender.holds_lock()
        assert sender.is_interrupted
    assert not sender.is_interrupted


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


def test_a_replaced_async_flush_sends_at_the_end_from_its_thread(made):
    """Its own `flush` needs no connection of an event loop."""
    system = made()
    results = []

    async def flush():
        results.append(await system.sender.flush())

    system.sender.flush_hooks.add(flush)
    system.accept(0, 1)
    system.sender.flush_blocking(soon())
    assert (system.transport.sent, system.connections.sent) == ([[0, 1]], [])
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


def test_a_child_that_is_forked_in_a_replaced_flush_is_not_in_it(made):
    """A flush there waits for its own messages as ever."""
    system = made()
    calls = []

    def flush():
        calls.append(system.sender.flush_hooks.are_called_at_end)
        system.sender.after_fork()
        calls.append(system.sender.flush_hooks.are_called_at_end)

    system.sender.flush_hooks.add(flush)
    system.accept(0)
    system.sender.flush_blocking(soon())
    assert calls == [True, False]


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


def test_a_caller_that_sends_what_is_due_sends_every_batch(made):
    """Each of those that are full."""
    system = made(background=False, max_batch_size=1)
    system.accept(0, 1, 2)
    system.sender.send_due_blocking(system.transport)
    assert system.transport.sent == [[0], [1], [2]]


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
    monkeypatch.setattr(sender_module, "getproxies", dict)
    assert made(client=OWN_CLIENT).sender.sync_transport() is None
    other = made()
    other.connections.transport = TransportOptions(proxy="http://127.0.0.1:9")
    assert other.sender.sync_transport() is None


def test_threads_that_send_at_the_same_time_share_one_connection(made, monkeypatch):
    """That of the one that is first."""
    monkeypatch.setattr(sender_module, "getproxies", dict)
    sender = made().sender
    first = Transport()
    sender.buffer.lock = Between(
        sender.buffer.lock, lambda: setattr(sender, "_sync_transport", first)
    )
    assert sender.sync_transport() is first


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
    assert made(kind=Durable).sender.check_durable("commit()") is True


def test_a_commit_waits_for_the_disk_up_to_its_timeout(made):
    """In a loop and in a thread; not in a signal handler, which may have interrupted the write."""
    system = made(kind=Durable)
    asyncio.run(system.sender.commit(3.0))
    system.sender.commit_blocking(4.0)
    with system.sender._blocking_send():
        system.sender.commit_blocking(5.0)
    calls = [("commit", 3.0), ("commit_blocking", 4.0)]
    assert system.sender.buffer.calls == calls
    plain = made(buffered=False).sender
    asyncio.run(plain.commit())
    plain.commit_blocking()


@pytest.mark.parametrize("failure", [None, SpoolError("no space")])
def test_a_flush_sends_what_the_spool_has_as_well(made, failure):
    """After its disk failed, what is in memory."""
    system = made(kind=Durable)
    system.sender.buffer.failure = failure

    async def main():
        system.accept(0)
        result = await system.sender.flush()
        assert (result.delivered, result.pending) == (2, 0)

    run(main)
    assert system.connections.sent == [[0], [9]]


@pytest.mark.parametrize("end", [Sender.drain_at_exit, Sender.flush_blocking])
def test_at_its_end_a_process_sends_what_the_spool_is_still_writing(made, end):
    """It waits for the disk."""
    system = made(kind=Durable)
    system.accept(0)
    system.sender.buffer.unwritten.append(event(1))
    end(system.sender, soon())
    assert system.transport.sent == [[0, 1]]


def test_messages_of_an_earlier_process_are_sent_without_another_message(made):
    """As soon as the client starts, or when they are read; without a task, in the next call."""

    async def main(act, *, background, kind):
        system = made(background=background, kind=kind)
        act(system.sender)
        await turns()
        return system.sender.has_loop, getattr(system.sender.buffer, "calls", [])

    def start(sender):
        sender.start()

    def ready(sender):
        assert sender.buffer.in_caller() is not sender.background
        sender.buffer.on_ready()

    for act, calls in ((start, ["start"]), (ready, [])):
        for background in (True, False):
            work = main(act, background=background, kind=Durable)
            assert asyncio.run(work) == (background, calls)
    assert asyncio.run(main(start, background=True, kind=Buffer)) == (False, [])


def test_a_message_that_was_dropped_is_reported_to_callers_that_rely_on_it(made):
    """With how many were accepted; in a signal handler they are not yet."""
    sender = made(max_queue_size=1).sender
    records = [event(0), event(1)]
    for record in records:
        sender.accept(record)
    sender.check_accepted(records[:1])
    with pytest.raises(QueueFullError, match="1 of 2 message") as caught:
        sender.check_accepted(records)
    assert caught.value.accepted == 1
    with sender._blocking_send():
        sender.check_accepted(records)


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


# ---- the background task ------------------------------------------------------------------------


def test_a_full_batch_is_sent_at_once_by_the_task_in_the_loop(made):
    """It starts with the first message, and waits for more."""
    system = made(max_batch_size=2)
    assert not system.sender.has_loop

    async def main():
        assert system.accept(0) == [True]
        assert system.sender.has_loop
        await turns()
        assert system.connections.sent == []
        assert system.accept(1) == [True]
        await turns()
        assert system.connections.sent == [[0, 1]]
        assert system.sender._send_scopes == set()
        system.sender.wake()
        await turns()
        assert system.sender.has_loop  # it has nothing to send, but waits for a while

    run(main)
    assert not system.sender.has_loop


def test_without_a_background_task_no_message_starts_one(made):
    """Its caller sends."""
    system = made(background=False)

    async def main():
        system.accept(0, 1)
        await turns()
        assert not system.sender.has_loop

    run(main)


def test_profiles_are_sent_one_batch_after_the_other(made):
    """The next one as soon as the one before it has its response."""
    system = made(max_batch_size=1)

    async def main():
        system.connections.holding = True
        for n in range(3):
            system.sender.accept(event(n, "people"))
        await turns()
        assert system.connections.sent == [[0]]
        system.connections.release()
        await turns()
        assert system.connections.sent == [[0], [1], [2]]

    run(main)


async def until(condition):
    while not condition():
        await anyio.sleep(0.001)


def test_a_message_that_is_old_enough_is_sent_without_another_one(made, monkeypatch):
    """The task wakes by itself."""
    monkeypatch.setattr(sender_module, "IDLE_TIMEOUT", math.inf)
    system = made(flush_after=0.02)

    async def main():
        system.accept(0)
        await until(lambda: system.connections.sent == [[0]])

    run(main)


def test_a_task_that_is_idle_ends_and_the_next_message_starts_another(made, monkeypatch):
    """A loop that sends nothing has no task."""
    monkeypatch.setattr(sender_module, "IDLE_TIMEOUT", 0.01)
    system = made(max_batch_size=1)

    async def main():
        for n in range(2):
            system.accept(n)
            await until(lambda: not system.sender.has_loop)
        assert system.connections.sent == [[0], [1]]

    run(main)


def test_a_message_that_comes_as_the_task_ends_is_sent(made, monkeypatch):
    """The task looks once more under the lock."""
    monkeypatch.setattr(sender_module, "IDLE_TIMEOUT", math.inf)
    system = made(max_batch_size=1)

    async def main():
        system.accept(0)
        await turns()
        monkeypatch.setattr(sender_module, "IDLE_TIMEOUT", 0.0)
        system.sender.wake()
        # Of another thread, which has not woken the task yet. This runs once the task waits.
        asyncio.get_running_loop().call_soon(system.sender.buffer.put, event(1))
        await turns()
        assert system.connections.sent == [[0], [1]]
        assert not system.sender.has_loop

    run(main)


def test_an_idle_loop_takes_the_task_from_no_other_loop(made, monkeypatch):
    """Loops may run by turns."""
    monkeypatch.setattr(sender_module, "IDLE_TIMEOUT", 0.01)
    system = made(max_batch_size=1)
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()

    async def send(n):
        system.accept(n)
        await until(lambda: len(system.connections.sent) == n + 1)

    async def idle():
        await until(lambda: len(asyncio.all_tasks()) == 1)

    try:
        first.run_until_complete(send(0))
        monkeypatch.setattr(sender_module, "IDLE_TIMEOUT", math.inf)
        second.run_until_complete(send(1))
        first.run_until_complete(idle())
        assert system.sender._loop.key is second
        monkeypatch.setattr(sender_module, "IDLE_TIMEOUT", 0.01)
        second.run_until_complete(send(2))
        second.run_until_complete(idle())
        assert system.sender._loop is None
    finally:
        first.close()
        second.close()


def test_a_task_that_fails_is_logged_and_starts_again(made, monkeypatch, caplog):
    """A bug of the package must not stop delivery."""
    monkeypatch.setattr(sender_module, "RESTART_DELAY", 0.0)
    system = made(max_batch_size=1)
    due = system.sender.buffer.due

    def broken():
        system.sender.buffer.due = due
        raise ZeroDivisionError

    system.sender.buffer.due = broken

    async def main():
        with caplog.at_level(logging.ERROR):
            system.accept(0)
            await until(lambda: system.connections.sent == [[0]])

    run(main)
    found = [(each.name, each.exc_info[0]) for each in caplog.records]
    assert found == [("mixpanel", ZeroDivisionError)]  # and none of asyncio


def test_a_task_that_was_cancelled_starts_again_where_messages_are_left(made):
    """In the same loop, after a while; not in one that has ended, nor in the drain at exit."""
    system = made()
    sender = system.sender
    for pending, draining, running, starts in (
        (True, False, True, 1),
        (False, False, True, 0),
        (True, True, True, 0),
        (True, False, False, 0),
    ):
        sender.stats.pending, sender._draining = int(pending), draining
        loop = sender._loop = Loop(running=running)
        sender._task_ended(loop)
        assert sender._loop is None
        assert len(loop.later) == starts
        if starts:
            (seconds, callback), woken = loop.later[0], []
            assert seconds == sender_module.RESTART_DELAY
            sender.wake = lambda woken=woken: woken.append(1)
            callback()
            sender.stats.pending = 0  # another loop has sent them
            callback()
            assert woken == [1]
            del sender.wake
    other = sender._loop = Loop()
    sender._task_ended(Loop())
    assert sender._loop is other


def test_a_message_that_fills_no_batch_does_not_wake_the_task(made):
    """It would only find that nothing is due."""
    system = made()
    system.accept(0)
    loop = system.sender._loop = Loop()
    assert system.accept(1) == [False]
    assert loop.soon == []
    system.sender.wake()
    assert len(loop.soon) == 1


@pytest.mark.parametrize("before", [None, Loop(running=False)])
def test_any_message_starts_the_task_where_no_loop_has_it(made, before):
    """The first one may have come without a loop, or in one that has ended."""
    system = made(max_batch_size=2)
    system.accept(0)
    system.sender._loop = before
    system.sender.flush_hooks.backend = "trio"

    async def main():
        system.sender.buffer.limits = Limits(max_batch_size=3, flush_after=60.0)
        assert system.accept(1) == [False]
        assert system.sender.sends_in_this_loop
        assert system.sender.flush_hooks.backend == "asyncio"

    run(main)


def test_the_batch_of_a_loop_that_ended_is_sent_by_the_next_loop(made):
    """One that a living thread sends is left to it."""
    system = made(max_batch_size=1, concurrency=4)
    system.accept(0, 1)
    alive = in_flight(system)
    system.sender.buffer.take(Claim(lambda: False))
    system.sender._loop = Loop(running=False)

    async def main():
        system.accept(2)
        await turns()
        assert system.connections.sent == [[1], [2]]
        assert alive.batch.live

    run(main)


def test_no_task_starts_where_nothing_is_accepted_or_another_loop_has_it(made):
    """Nor where another loop is faster, or in the drain at exit."""

    async def main():
        ended, draining, busy, slower = (made() for _ in range(4))
        ended.sender._discard()
        draining.sender._draining = True
        for each in (ended, draining):
            each.sender.start_here()
            assert each.sender._loop is None
        loop = busy.sender._loop = Loop()
        busy.sender.start_here()
        assert busy.sender._loop is loop
        slower.sender.buffer.lock = Between(
            slower.sender.buffer.lock, lambda: setattr(slower.sender, "_loop", loop)
        )
        slower.sender.start_here()
        assert slower.sender._loop is loop
        assert len(asyncio.all_tasks()) == 1

    run(main)


def test_a_sender_knows_whether_it_sends_in_the_running_loop(made):
    """Not in that of another thread, nor where no loop runs."""
    system = made()

    async def main():
        assert not system.sender.sends_in_this_loop
        system.accept(0)
        assert system.sender.sends_in_this_loop
        own, system.sender._loop = system.sender._loop, Loop()
        assert not system.sender.sends_in_this_loop
        system.sender._loop = own

    run(main)
    for loop, runs in ((Loop(), True), (Loop(running=False), False), (None, False)):
        system.sender._loop = loop
        assert not system.sender.sends_in_this_loop
        assert system.sender.has_loop is runs


def test_a_task_takes_no_batch_once_another_loop_or_the_drain_has_its_place(made):
    """The process could end before it is sent."""
    system = made(max_batch_size=1)
    system.accept(0)
    claim, loop = Claim(lambda: True), Loop()
    assert system.sender._take_in(loop, claim) is None
    system.sender._loop = loop
    assert system.sender._take_in(loop, claim) is claim.batch
    assert claim.batch is not None


def test_a_sync_client_sends_in_the_background_loop(made, monkeypatch):
    """Nothing starts it before there is a message; the message counts even if it cannot start."""
    calls = []
    monkeypatch.setattr(background_loop, "call_on_background_loop", calls.append)
    system = made()
    system.sender.in_background_loop = True
    system.sender.wake()
    assert calls == []
    system.accept(0, 1)
    assert calls == [system.sender.start_here] * 2
    deferred = made()
    deferred.sender.in_background_loop = True
    with deferred.sender.buffer.lock:
        deferred.sender.stats.changing = True
        deferred.accept(0)
        deferred.sender.stats.changing = False
    assert len(calls) == 3
    for error in (RuntimeError("can't start new thread"), OSError("too many open files")):

        def broken(callback, error=error):
            raise error

        monkeypatch.setattr(background_loop, "call_on_background_loop", broken)
        assert system.accept(2) == [False]
    assert system.sender.stats.pending == 4


# ---- on request ---------------------------------------------------------------------------------


async def cancel_others(*tasks):
    """Cancel all tasks of this loop but this one and some others."""
    for each in asyncio.all_tasks() - {asyncio.current_task(), *tasks}:
        each.cancel()
    await turns()


def test_a_direct_delivery_sends_its_messages_now(made):
    """And raises if it is cancelled from outside: they may not have arrived."""
    system = made(max_batch_size=2)

    async def main():
        await system.sender.deliver([event(0), event(1), event(2)])
        assert system.connections.sent == [[0, 1], [2]]
        system.connections.holding = True
        delivery = asyncio.create_task(system.sender.deliver([event(3)]))
        await turns()
        await cancel_others(delivery)
        with pytest.raises(TransportError, match="cancelled"):
            await delivery

    run_alone(main)
    stats = system.sender.stats.snapshot()
    assert (stats.delivered, stats.dropped, stats.pending) == (3, {"raised": 1}, 0)


def test_a_direct_delivery_in_a_loop_raises_its_error(made):
    """Later batches are not tried, and count as dropped."""
    system = made(max_batch_size=1)
    system.connections.replies = [OK, Response(400, {}, b'{"error":"bad","status":0}')]
    with pytest.raises(RejectedError):
        asyncio.run(system.sender.deliver([event(0), event(1), event(2)]))
    stats = system.sender.stats.snapshot()
    assert system.connections.sent == [[0], [1]]
    assert (stats.delivered, stats.rejected, stats.dropped) == (1, 1, {"raised": 1})


def run_alone(main):
    """Run an async function whose task has no parent that is cancelled with the others."""
    asyncio.run(main())


def test_messages_that_are_due_stay_queued_when_their_task_is_cancelled(made):
    """By code that cancels all tasks of the loop; no error reaches the caller."""
    system = made(background=False, max_batch_size=1)
    system.accept(0, 1)

    async def main():
        system.connections.holding = True
        sending = asyncio.create_task(system.sender.send_due())
        await turns()
        await cancel_others(sending)
        await sending
        assert (system.sender.stats.pending, system.sender.buffer.has_in_flight()) == (2, False)
        system.connections.release()
        await system.sender.send_due()
        assert system.connections.sent == [[0], [0], [1]]

    run_alone(main)


def test_a_flush_wakes_the_task_and_returns_as_soon_as_all_is_settled(made, monkeypatch):
    """It does not wait for its own next look."""
    monkeypatch.setattr(sender_module, "LOOP_CHECK_INTERVAL", math.inf)
    system = made(max_batch_size=2, concurrency=1)

    async def main():
        system.accept(0, 1, 2)
        await turns()
        result = await system.sender.flush()
        assert (result.delivered, result.pending) == (1, 0)
        assert system.connections.sent == [[0, 1], [2]]
        assert system.sender.buffer.watchers == set()

    run(main)


def test_a_flush_of_one_endpoint_leaves_the_others(made):
    """They are gathered as before."""
    for background in (True, False):
        system = made(background=background)

        async def main(system=system):
            system.accept(0)
            system.sender.accept(event(1, "people"))
            result = await system.sender.flush(endpoint="people")
            assert (result.delivered, result.pending) == (1, 1)
            assert system.connections.sent == [[1]]

        run(main)


def test_a_flush_starts_the_task_here_when_its_loop_has_ended(made, monkeypatch):
    """Nothing else would say so."""
    monkeypatch.setattr(sender_module, "LOOP_CHECK_INTERVAL", 0.0)
    system = made()
    system.accept(0)
    loop = system.sender._loop = Loop()

    async def main():
        flush = asyncio.create_task(system.sender.flush())
        await turns()
        assert not flush.done()
        loop.running = False
        result = await flush
        assert result.delivered == 1

    run(main)


def test_a_flush_that_waits_does_not_keep_the_processor_busy(made, monkeypatch):
    """It looks again when something has changed."""
    monkeypatch.setattr(sender_module, "LOOP_CHECK_INTERVAL", math.inf)
    system = made(max_batch_size=1, concurrency=1)
    looks = []
    unsettled = system.sender.buffer.has_unsettled
    system.sender.buffer.has_unsettled = lambda *mark: looks.append(mark) or unsettled(*mark)

    async def main():
        system.accept(0, 1)
        await turns()
        assert system.connections.sent == [[0], [1]]
        system.connections.holding = True
        system.accept(2)
        flush = asyncio.create_task(system.sender.flush())
        await turns()
        system.sender.buffer.notify()
        await turns()
        before = len(looks)
        await turns()
        assert len(looks) == before
        system.connections.release()
        assert (await flush).delivered == 1

    run(main)


def test_a_flush_in_its_own_task_waits_for_a_pause(made, monkeypatch):
    """Without looking all the time; and for no longer than it lasts."""
    system = made(background=False)
    system.accept(0)
    queue = system.sender.buffer.queues["events"]
    looks = []
    due = system.sender.buffer.due
    system.sender.buffer.due = lambda: looks.append(1) or due()

    async def main():
        queue.paused_until = time.monotonic() + 60
        result = await system.sender.flush(0.05)
        assert (result.delivered, result.pending, len(looks)) == (0, 1, 1)
        monkeypatch.setattr(sender_module, "LOOK_INTERVAL", 0.0)
        flush = asyncio.create_task(system.sender.flush())
        await turns()
        queue.paused_until = 0.0
        assert (await flush).delivered == 1

    run(main)


def test_a_flush_waits_for_what_another_task_is_sending(made):
    """Up to its timeout; what is sent is not sent twice."""
    system = made(background=False)
    system.accept(0)
    claim = in_flight(system)

    async def main():
        result = await system.sender.flush(0.05)
        assert (result.delivered, result.pending) == (0, 1)
        flush = asyncio.create_task(system.sender.flush())
        await turns()
        system.sender.buffer.settle(claim.batch, claim.batch.unsettled, "delivered")
        assert (await flush).delivered == 1
        assert system.connections.sent == []

    run(main)


def test_waiting_for_space_sends_what_is_queued(made, monkeypatch):
    """Even if it would not be due for a long time."""
    monkeypatch.setattr(sender_module, "LOOK_INTERVAL", math.inf)
    system = made()

    async def main():
        system.accept(0)
        await turns()
        await system.sender.wait_for_space()
        assert system.connections.sent == [[0]]
        assert system.sender.buffer.watchers == set()

    run(main)


# ---- closing ------------------------------------------------------------------------------------


def test_closing_sends_what_is_left_and_closes_all_connections(made, monkeypatch):
    """Then nothing is accepted any more, whether directly or by the buffer."""
    released = []
    system = made()
    own = system.sender._sync_transport = Transport()

    async def main():
        system.accept(0)
        monkeypatch.setattr(shutdown, "unregister", released.append)
        with anyio.CancelScope() as scope:
            scope.cancel()
            result = await system.sender.aclose()
        assert (result.delivered, result.pending, result.dropped) == (1, 0, {})
        with pytest.raises(ClosedError):
            await system.sender.deliver([event(1)])

    run(main)
    assert system.connections.sent == [[0]]
    assert (system.connections.closed, own.closed) == (1, 1)
    assert released[-1] is system.sender
    for accept in (system.sender.accept, system.sender.buffer.put):
        with pytest.raises(ClosedError):
            accept(event(2))


def test_while_a_client_closes_it_accepts_nothing(made):
    """What came later would be dropped."""
    system = made(max_batch_size=1)

    async def main():
        system.connections.holding = True
        system.accept(0)
        closing = asyncio.create_task(system.sender.aclose())
        await turns()
        with pytest.raises(ClosedError):
            system.accept(1)
        system.connections.release()
        assert (await closing).delivered == 1

    run(main)


def test_closing_cancels_the_requests_that_are_not_finished_in_time(made):
    """Their messages are dropped as closed."""
    system = made(max_batch_size=1)

    async def main():
        system.connections.holding = True
        system.accept(0)
        await turns()
        result = await system.sender.aclose(0)
        assert system.connections.cancelled == 1
        assert (result.delivered, result.pending, result.dropped) == (0, 0, {"closed": 1})

    run(main)


def test_closing_drops_what_a_thread_is_still_sending(made):
    """Without a task in a loop there is none to cancel; nothing is left for the drain at exit."""
    system = made(background=False)
    system.accept(0)
    in_flight(system)
    assert system.sender in shutdown._with_messages
    result = asyncio.run(system.sender.aclose(0))
    assert (result.pending, result.dropped) == (0, {"closed": 1})
    assert system.sender not in shutdown._with_messages


# ---- captured by a test, and observed -----------------------------------------------------------


def test_a_captured_message_is_kept_instead_of_sent(made, monkeypatch):
    """Whether it would be queued or delivered directly; a closed client raises as ever."""
    kept = []
    monkeypatch.setattr(capture, "active", lambda name, body: kept.append((name, body)))
    system = made()
    assert system.accept(0) == [False]
    asyncio.run(system.sender.deliver([event(1)]))
    assert kept == [("events", b'{"n":0}'), ("events", b'{"n":1}')]
    stats = system.sender.stats.snapshot()
    assert (stats.accepted, stats.delivered) == (2, 2)
    assert system.connections.sent == []
    assert not system.sender.buffer.queues["events"].unsent
    system.sender.closed = True
    with pytest.raises(ClosedError):
        asyncio.run(system.sender.deliver([event(2)]))
    assert len(kept) == 2


def test_an_observer_sees_messages_and_requests(made):
    """From the first one; it knows endpoints by the names of their vendor."""
    calls = []
    names = ("queued", "attempted", "settled")
    observer = SimpleNamespace(**{name: lambda *_, name=name: calls.append(name) for name in names})
    system = made()
    system.sender.observe(observer)
    assert system.sender.observer is observer
    assert system.sender.name_of("events") == "events"
    system.accept(0)
    system.sender.flush_blocking(soon())
    assert calls == ["queued", "attempted", "settled"]
