"""The edges of the buffer's decisions, each one off by one: see tests/faults/mutation.py."""

import sys
from collections import deque

import pytest

from mixpanel._delivery.buffer import Buffer, Claim, locked
from mixpanel._delivery.health import SpoolHealth
from mixpanel._delivery.stats import DeliveryStats
from mixpanel._records.record import Record
from mixpanel.credentials import ApiSecret
from mixpanel.exceptions import ClosedError, QueueFullError, TransportError
from mixpanel.settings import Limits
from tests.delivery.test_buffer import Clock, event, make, numbers, take

FAR = 10**6


def put(buffer, *some):
    return [buffer.put(one) for one in some]


def full_size(record, count):
    """Return the size of the request of some equal records."""
    return count * (len(record.body) + 1) + 1


def reported(when_full="drop_newest", **limits):
    """Return a buffer, and the outcomes that it reports."""
    outcomes = []
    buffer = Buffer(
        Limits(**limits),
        DeliveryStats(),
        when_full=when_full,
        clock=Clock(),
        on_outcome=lambda some, fate, why: outcomes.append((numbers(some), fate, why)),
    )
    return buffer, outcomes


# ---- in -----------------------------------------------------------------------------------------


def test_put_asks_for_a_look_at_the_first_message_and_at_each_full_batch():
    """Not at those in between: a look costs more than a message."""
    buffer = make(max_batch_size=3)
    assert put(buffer, *map(event, range(7))) == [True, False, True, False, False, True, False]


def test_put_asks_for_a_look_at_each_batch_that_is_full_by_bytes():
    """Bodies of seven bytes, in requests of twenty."""
    buffer = make(max_batch_bytes=20)
    assert put(buffer, *map(event, range(7))) == [True, False, True, False, False, True, False]


def test_a_batch_is_full_by_bytes_at_its_limit_exactly():
    """Two bodies of seven bytes fill fourteen."""
    buffer = make(max_batch_bytes=14)
    assert put(buffer, *map(event, range(4))) == [True, True, False, True]


def test_a_buffer_is_full_at_its_limit_exactly():
    """By count and by bytes."""
    for bound in ({"max_queue_size": 2}, {"max_queue_bytes": 14}):
        buffer, outcomes = reported(**bound)
        assert put(buffer, event(0), event(1), event(2)) == [True, False, False]
        assert buffer.stats.pending == 2
        assert buffer.bytes == 14
        assert outcomes == [([2], "dropped", "queue_full")]


def test_a_message_as_large_as_the_buffer_fits():
    """One byte more does not."""
    buffer = make(max_queue_bytes=7)
    buffer.put(event())
    assert buffer.stats.pending == 1
    small = make(max_queue_bytes=6)
    small.put(event())
    assert small.stats.snapshot().dropped == {"too_large": 1}


def test_as_many_of_the_oldest_are_dropped_as_the_new_one_needs():
    """The oldest of any endpoint; what is in flight stays."""
    buffer, outcomes = reported("drop_oldest", max_queue_bytes=28, max_batch_size=1)
    put(buffer, event(0), event(1, "people"), event(2), event(3))
    held = take(buffer)
    buffer.put(event(4, size=7))
    assert numbers(held.unsettled) == [0]
    assert outcomes == [([1, 2], "dropped", "queue_full")]
    assert buffer.bytes == 28
    assert [len(queue.unsent) for queue in buffer.queues.values()] == [2, 0, 0, 0]
    assert buffer.queues["events"].bytes == 21


def test_with_everything_in_flight_the_new_message_is_kept():
    """Nothing is left to drop for it."""
    buffer, outcomes = reported("drop_oldest", max_queue_size=1, max_batch_size=1)
    buffer.put(event(0))
    take(buffer)
    buffer.put(event(1))
    assert buffer.stats.pending == 2
    assert not outcomes


@pytest.mark.parametrize(("end", "reason"), [("closed", None), ("exit", "exit")])
def test_after_its_end_a_buffer_accepts_nothing(end, reason):
    """A closed one raises; at exit the message counts as dropped."""
    buffer, outcomes = reported()
    put(buffer, event(0), event(1, "people"))
    buffer.drop_all("why", end_reason=end)
    assert outcomes == [([0, 1], "dropped", "why")]
    assert (buffer.bytes, buffer.stats.pending) == (0, 0)
    assert [queue.bytes for queue in buffer.queues.values()] == [0] * 4
    if reason is None:
        with pytest.raises(ClosedError):
            buffer.put(event(2))
    else:
        buffer.put(event(2))
        assert outcomes[1:] == [([2], "dropped", "exit")]
    assert buffer.stats.snapshot().balanced


def test_a_buffer_that_dropped_all_without_an_end_still_accepts():
    """As after a failed start."""
    buffer, outcomes = reported()
    put(buffer, event(0))
    buffer.drop_all("why")
    put(buffer, event(1))
    assert buffer.stats.pending == 1
    assert buffer.stats.snapshot().dropped == {"why": 1}
    buffer.drop_all("why")
    buffer.drop_all("why")  # nothing is left to report
    assert [numbers for numbers, _, _ in outcomes] == [[0], [1]]


def test_a_group_of_messages_is_refused_as_a_whole():
    """Only if `when_full` is "raise", and only if they do not fit."""
    buffer = make("raise", max_queue_size=3, max_queue_bytes=FAR)
    buffer.put(event(0))
    buffer.ensure_space([event(1), event(2)])
    with pytest.raises(QueueFullError, match=r"none of 3 was accepted: 1 messages \(7 bytes\)"):
        buffer.ensure_space([event(1), event(2), event(3)])
    by_bytes = make("raise", max_queue_bytes=21)
    by_bytes.put(event(0))
    by_bytes.ensure_space([event(1), event(2)])
    with pytest.raises(QueueFullError):
        by_bytes.ensure_space([event(1), event(22)])
    make(max_queue_size=1).ensure_space([event(1), event(2)])


def test_a_message_as_large_as_a_buffer_that_is_in_use_may_fit_later():
    """It is not too large; with "raise" its caller may try again."""
    buffer = make("raise", max_queue_bytes=7)
    buffer.put(event(0))
    with pytest.raises(QueueFullError):
        buffer.put(event(1))


def test_a_put_that_fails_leaves_counts_that_add_up():
    """They are derived from the records."""
    buffer = make()
    buffer.put(event(0))
    buffer.bytes = 99
    with pytest.raises(KeyError):
        buffer.put(event(1, "nowhere"))
    assert (buffer.bytes, buffer.stats.pending, buffer.stats.changing) == (7, 1, False)


class Interrupting(dict):
    """Queues, the first use of which is interrupted by a signal handler."""

    handler = staticmethod(lambda: None)

    def __getitem__(self, name):
        handler, self.handler = self.handler, lambda: None
        handler()
        return super().__getitem__(name)


def test_a_message_of_a_signal_handler_follows_the_one_that_it_interrupted():
    """It is put once that is in its queue."""
    buffer = make()
    buffer.queues = queues = Interrupting(buffer.queues)
    queues.handler = lambda: buffer.put(event(1))
    buffer.put(event(0))
    assert numbers(queues["events"].unsent) == [0, 1]
    assert [one.sequence for one in queues["events"].unsent] == [1, 2]


def test_a_message_of_a_signal_handler_is_put_when_the_method_it_interrupted_ends():
    """Not before: what that method has read would change under it."""

    class Slow(Buffer):
        @locked
        def interrupted(self):
            self.put(event(0))
            return self.stats.pending

    buffer = Slow(Limits(), DeliveryStats(), clock=Clock())
    assert buffer.interrupted() == 0
    assert buffer.stats.pending == 1


class Raced(deque):
    """Messages of signal handlers, of which another thread is faster to take the last."""

    def popleft(self):
        super().popleft()
        raise IndexError


def test_two_threads_may_put_what_was_deferred():
    """Each message is put by one of them."""
    buffer = make()
    defer(buffer, event(0))
    buffer._deferred = Raced(buffer._deferred)
    buffer.mark_for_flush()
    assert buffer.stats.pending == 0


def test_each_message_that_was_deferred_and_dropped_is_reported():
    """Although the callback uses the buffer."""
    buffer, _ = reported(max_queue_size=1)
    drops = []
    buffer.stats.on_drop = lambda why, some: drops.append(some) or buffer.mark_for_flush()
    defer(buffer, event(0), event(1), event(2))
    buffer.mark_for_flush()
    assert drops == [[{"n": 1}], [{"n": 2}]]


def defer(buffer, *some):
    """Put messages as a signal handler does that interrupts a change."""
    with buffer.lock:
        buffer.stats.changing = True
        put(buffer, *some)
        buffer.stats.changing = False


def test_any_number_of_messages_may_be_deferred_any_number_of_times():
    """None of them puts the others while it is put itself."""
    buffer = make()
    for pending in (3000, 3001):
        defer(buffer, *map(event, range(pending - buffer.stats.pending)))
        buffer.mark_for_flush()
        assert buffer.stats.pending == pending
    defer(buffer, event(0))
    buffer.put(event(1))  # puts it as well
    assert buffer.stats.pending == 3003


def test_no_message_is_put_while_its_thread_holds_the_lock():
    """What interrupted code has read would change under it."""
    buffer = make()
    defer(buffer, event(0))
    with buffer.lock:
        buffer.mark_for_flush()
        assert buffer.stats.pending == 0
    buffer.mark_for_flush()
    assert buffer.stats.pending == 1


def test_a_deferred_message_that_another_signal_interrupts_stays_deferred(monkeypatch):
    """It is put at the next call."""
    buffer = make()
    defer(buffer, event(0))
    with monkeypatch.context() as patch:
        patch.setattr(buffer, "clock", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            buffer._put_deferred()
    assert len(buffer.stats.deferred) == 1
    buffer.mark_for_flush()
    assert buffer.stats.pending == 1


def test_a_message_of_a_signal_handler_waits_until_the_buffer_is_free():
    """It is put in the same call; a full buffer drops it, since its caller has returned."""
    for when_full in ("drop_newest", "raise", "wait"):
        buffer, outcomes = reported(when_full, max_queue_size=2)
        drops = []
        buffer.stats.on_drop = lambda why, some, drops=drops: drops.append((why, some))
        buffer.put(event(0))
        with buffer.lock:
            buffer.stats.changing = True  # a handler runs inside of a change
            assert put(buffer, event(1), event(2)) == [True, True]
            assert take(buffer, everything=True) is None
            assert buffer.due() == 0
            assert buffer.health().pending == 3
            buffer.stats.changing = False
        assert buffer.stats.pending == 1
        buffer.mark_for_flush()
        assert buffer.stats.pending == 2
        assert not buffer.stats.deferred
        assert outcomes == [([2], "dropped", "queue_full")]
        assert drops == [("queue_full", [{"n": 2}])]
        assert buffer.stats.snapshot().dropped == {"queue_full": 1}
        assert buffer.stats.snapshot().balanced


def test_a_deferred_message_is_dropped_when_the_buffer_closes_first():
    """There is nothing to raise to."""
    buffer, outcomes = reported()
    with buffer.lock:
        buffer.stats.changing = True
        buffer.put(event(0))
        buffer.stats.changing = False
        buffer.end_reason, buffer._max_queue_size = "closed", -1
    buffer.mark_for_flush()
    assert outcomes == [([0], "dropped", "closed")]


def test_an_exception_amid_a_change_leaves_counts_that_add_up():
    """As of a signal handler: they are derived from the records."""
    buffer = make(max_batch_size=2)
    put(buffer, *map(event, range(5)))
    batch = take(buffer)
    buffer.settle(batch, batch.records[:1], "rejected")
    buffer.bytes = buffer.stats.pending = buffer.stats.accepted = 99
    buffer.queues["events"].bytes = 7000
    batch.live = False
    batch.bytes = 99
    # The batch was not yet removed from the queue.
    buffer.queues["events"].unsent.appendleft(batch.unsettled[0])
    with pytest.raises(KeyError):
        buffer.mark_endpoint_for_flush("nowhere")
    assert (buffer.bytes, buffer.stats.pending, buffer.stats.accepted) == (28, 4, 5)
    assert buffer.queues["events"].bytes == 21
    assert numbers(buffer.queues["events"].unsent) == [2, 3, 4]
    assert (batch.live, batch.bytes) == (True, 7)
    assert not buffer.stats.changing


class Body(bytes):
    """A body of a message; a signal handler runs when its length is read."""

    handler = staticmethod(lambda: None)

    def __len__(self):
        self.handler()
        return super().__len__()


def test_a_message_of_a_signal_handler_that_interrupts_the_recount_is_counted():
    """It is put once the counts are derived."""
    buffer = make()
    body = Body(b"{}")
    put(buffer, event(0), Record("people", body))
    body.handler = lambda: vars(body).clear() or buffer.put(event(1))
    with pytest.raises(KeyError):
        buffer.mark_endpoint_for_flush("nowhere")
    assert (buffer.stats.pending, buffer.stats.accepted, buffer.bytes) == (3, 3, 16)
    assert numbers(buffer.queues["events"].unsent) == [0, 1]


# ---- what is due --------------------------------------------------------------------------------


def test_a_batch_is_as_large_as_its_limit_exactly():
    """Three bodies of seven bytes need 25 with brackets and commas."""
    for limit, count in ((full_size(event(), 3), 3), (full_size(event(), 3) - 1, 2)):
        buffer = make(max_batch_bytes=limit)
        put(buffer, *map(event, range(9)))
        batch = take(buffer, everything=True)
        assert len(batch.records) == count
        assert buffer.queues["events"].bytes == 7 * (9 - count)


def test_records_with_equal_credentials_share_a_batch():
    """Up to the last byte, even if each has an object of its own."""
    limit = full_size(event(), 3)
    for last, count in ((0, 3), (10, 2)):
        buffer = make(max_batch_bytes=limit)
        for n in (0, 1, last):
            buffer.put(event(n, "imports", auth=ApiSecret("".join(["s"] * 9))))
        assert len(take(buffer, everything=True).records) == count


def test_each_endpoint_has_its_own_limit_of_requests():
    """Profiles and groups keep their order; other services name theirs."""
    buffer = make(max_batch_size=1, concurrency=2)
    assert {name: queue.max_in_flight for name, queue in buffer.queues.items()} == {
        "events": 2, "imports": 2, "people": 1, "groups": 1,
    }  # fmt: skip
    other = Buffer(Limits(), DeliveryStats(), max_in_flight={"batch": 3})
    assert [queue.max_in_flight for queue in other.queues.values()] == [3]


def test_no_queue_is_paused_at_first():
    """Even if the clock has just begun; nor after its pause was cleared."""
    buffer = make(max_batch_size=1)
    buffer.clock.now = 0.25
    buffer.put(event(0))
    assert buffer.due() == 1
    buffer.queues["events"].paused_until = 9.0
    assert buffer.due() == 0
    buffer.clear_pauses()
    assert buffer.due() == 1


def test_as_many_batches_are_due_as_are_full():
    """One at least; no more than may be in flight."""
    buffer = make(max_batch_size=2, concurrency=3, flush_after=None)
    assert buffer.due() == 0
    buffer.put(event(0))
    assert buffer.due() == 0
    buffer.put(event(1))
    assert (buffer.due(), buffer.due_endpoints()) == (1, ["events"])
    put(buffer, *map(event, range(2, 5)))
    assert buffer.due() == 2
    put(buffer, *map(event, range(5, 20)), event(0, "people"), event(1, "people"))
    assert buffer.due() == 4
    assert buffer.due_endpoints() == ["events", "people"]
    take(buffer)
    assert buffer.due() == 3
    take(buffer), take(buffer)
    assert buffer.due() == 1


def test_batches_that_are_full_by_bytes_are_due():
    """At the limit exactly, each of them."""
    buffer = make(max_batch_bytes=14, flush_after=None)
    buffer.put(event(0))
    assert take(buffer) is None
    put(buffer, event(1))
    assert buffer.due() == 1
    put(buffer, event(2), event(3))
    assert buffer.due() == 2


def test_a_flush_makes_due_what_was_accepted_before():
    """Of every endpoint, or of one."""
    buffer = make(flush_after=None, max_batch_size=2)
    put(buffer, event(0), event(1, "people"))
    assert buffer.seconds_until_due() is None
    assert buffer.mark_endpoint_for_flush("people") == 2
    assert buffer.due_endpoints() == ["people"]
    assert buffer.seconds_until_due() == 0.0
    assert buffer.has_unsettled(2, "people")
    assert not buffer.has_unsettled(1, "people")
    assert not buffer.has_unsettled(FAR, "groups")
    assert buffer.mark_for_flush() == 2
    assert buffer.due_endpoints() == ["events", "people"]
    numbers(take(buffer).records), numbers(take(buffer).records)
    put(buffer, event(2))
    assert buffer.due() == 0
    assert buffer.seconds_until_due() is None


def test_a_process_that_ends_gathers_no_more():
    """Each message is due at once."""
    buffer = make(flush_after=None)
    buffer.stop_gathering()
    buffer.put(event(0))
    assert buffer.flush_marker == sys.maxsize
    assert take(buffer) is not None


def test_the_seconds_until_due_are_those_of_the_first_queue():
    """By age, or by the end of its pause; a queue that may not send has none."""
    buffer = make(flush_after=10.0, max_batch_size=2, concurrency=1)
    buffer.put(event(0, "people"))
    buffer.clock.now += 4
    buffer.put(event(1, "groups"))
    assert buffer.seconds_until_due() == 6.0
    buffer.queues["people"].paused_until = buffer.clock.now + 8
    assert buffer.seconds_until_due() == 8.0
    assert not buffer.due_endpoints()
    buffer.clock.now += 8
    assert buffer.due_endpoints() == ["people"]
    buffer.clock.now += 8
    assert buffer.seconds_until_due() == 0.0
    take(buffer), take(buffer)
    assert buffer.seconds_until_due() is None
    buffer.put(event(2, "people"))  # its queue has a batch in flight
    assert buffer.seconds_until_due() is None


def test_a_full_queue_is_due_as_soon_as_its_pause_ends():
    """Whether by count or by bytes."""
    for bound in ({"max_batch_size": 2}, {"max_batch_bytes": 14}):
        buffer = make(flush_after=60.0, **bound)
        put(buffer, event(0), event(1))
        buffer.queues["events"].paused_until = buffer.clock.now + 3
        assert buffer.seconds_until_due() == 3.0
        assert take(buffer) is None
        buffer.clear_pauses()
        assert buffer.seconds_until_due() == 0.0
        assert take(buffer) is not None


def test_a_pause_that_only_a_human_can_end_is_not_cleared():
    """But a flush tries its queue once more."""
    for flush in (Buffer.mark_for_flush, lambda each: each.mark_endpoint_for_flush("events")):
        buffer = make()
        buffer.put(event(0))
        queue = buffer.queues["events"]
        queue.paused_until, queue.paused_by = float("inf"), TransportError("broken")
        buffer.clear_pauses()
        assert take(buffer, everything=True) is None
        assert not buffer.has_unsettled(FAR)
        assert not buffer.health().ok
        flush(buffer)
        assert buffer.has_unsettled(FAR)
        assert (queue.paused_until, queue.paused_by) == (0.0, None)
        assert take(buffer) is not None


def test_the_batch_of_an_owner_that_is_gone_is_taken_again():
    """By `take` and by `due`; one whose owner lives is not."""
    for look in (lambda each: each.due(), lambda each: each.take(Claim(lambda: True))):
        buffer = make(max_batch_size=1, concurrency=1)
        buffer.put(event(0))
        alive = [True]
        claim = Claim(lambda alive=alive: alive[0])
        batch = buffer.take(claim)
        assert claim.batch is batch
        assert not look(buffer)
        alive[0] = False
        assert look(buffer)
        assert not batch.live
        assert buffer.has_in_flight() is bool(buffer.queues["events"].in_flight)


# ---- settling -----------------------------------------------------------------------------------


def test_settling_counts_each_fate_under_its_name():
    """Bytes and pending go down; what is left is unsettled."""
    buffer = make()
    put(buffer, *map(event, range(6)))
    batch = take(buffer, everything=True)
    one, two, three, four, *rest = batch.records
    assert buffer.settle(batch, [one], "delivered")
    assert buffer.settle(batch, [two], "rejected")
    assert buffer.settle(batch, [three], "dropped", "why")
    assert buffer.settle(batch, [four], "dropped", "why")
    assert not buffer.settle(batch, [], "delivered")
    stats = buffer.stats.snapshot()
    assert (stats.delivered, stats.rejected, stats.dropped) == (1, 1, {"why": 2})
    assert (buffer.bytes, stats.pending, batch.unsettled) == (14, 2, rest)
    assert buffer.has_in_flight()
    buffer.finish(batch)
    assert not buffer.has_in_flight()
    assert not buffer.settle(batch, rest, "delivered")
    assert buffer.queues["events"].bytes == 14


def test_outcomes_are_reported_with_their_reason():
    """That of the error, where there is no other; quietly, if the caller raises it."""
    errors, drops = [], []
    buffer, outcomes = reported()
    buffer.stats.on_error = lambda error, some: errors.append((str(error), len(some)))
    buffer.stats.on_drop = lambda why, some: drops.append((why, len(some)))
    error, some = TransportError("broken"), [event(0)]
    buffer.announce(some, "rejected", error=error)
    buffer.announce(some, "dropped", "why", error)
    buffer.announce(some, "dropped", "raised", error, quiet=True)
    buffer.announce(some, "delivered")
    assert [(fate, why) for _, fate, why in outcomes] == [
        ("rejected", "broken"),
        ("dropped", "why"),
        ("dropped", "raised"),
        ("delivered", ""),
    ]
    assert errors == [("broken", 1)] * 2
    assert drops == [("why", 1)]


def test_a_cut_off_update_is_reported_as_ambiguous():
    """Its error names how many; those that may be repeated go back."""
    buffer, outcomes = reported()
    put(buffer, event(0, "people", repeatable=False), event(1, "people"))
    put(buffer, event(2, "people", repeatable=False))
    batch = take(buffer, everything=True)
    batch.sending = batch.records[:2]
    woken = []
    buffer.watchers.add(lambda: woken.append(1))
    buffer.finish(batch)
    assert outcomes == [([0], "dropped", "ambiguous")]
    assert "1 update(s) were cut off" in str(buffer.stats.last_error)
    assert numbers(buffer.queues["people"].unsent) == [1, 2]
    assert (buffer.bytes, buffer.queues["people"].bytes) == (14, 14)
    assert woken == [1]
    assert batch.sending == batch.unsettled == []


def test_records_that_skip_the_queue_are_in_claims_by_batch():
    """Accepted, pending, and numbered like others."""
    buffer = make(max_batch_size=2, clock=Clock())
    buffer.put(event(9))
    some, claims = [*map(event, range(3)), event(3, "people")], []
    buffer.claim_directly(some, claims, lambda: True)
    assert [numbers(claim.batch.records) for claim in claims] == [[0, 1], [2], [3]]
    assert [one.sequence for one in some] == [2, 3, 4, 5]
    assert {one.enqueued_at for one in some} == {100.0}
    assert (buffer.stats.accepted, buffer.stats.pending, buffer.bytes) == (5, 5, 35)
    assert all(claim.batch.live for claim in claims)
    assert [len(queue.in_flight) for queue in buffer.queues.values()] == [2, 0, 1, 0]
    for claim in claims:
        buffer.settle(claim.batch, claim.batch.records, "delivered")
        buffer.finish(claim.batch)
    assert (buffer.stats.pending, buffer.bytes) == (1, 7)


def test_records_whose_claim_is_interrupted_were_not_accepted():
    """By Ctrl-C, whose error reaches the caller: its claims hold nothing to give back."""

    class Claims(list):
        def append(self, claim):
            super().append(claim)
            raise KeyboardInterrupt

    buffer, claims = make(), Claims()
    with pytest.raises(KeyboardInterrupt):
        buffer.claim_directly([event(0)], claims, lambda: True)
    for claim in claims:
        buffer.finish(claim.batch)
    assert not buffer.queues["events"].unsent
    assert (buffer.stats.accepted, buffer.stats.pending, buffer.bytes) == (0, 0, 0)


def test_a_lone_record_goes_back_to_the_head_of_its_queue():
    """Before those that follow it."""
    buffer = make(max_batch_size=1)
    put(buffer, event(0), event(1))
    buffer.finish(take(buffer))
    assert numbers(buffer.queues["events"].unsent) == [0, 1]


def test_dropping_all_includes_what_is_in_flight():
    """Its owner settles nothing any more."""
    buffer, outcomes = reported(max_batch_size=1)
    put(buffer, event(0), event(1))
    batch = take(buffer)
    buffer.drop_all("why")
    assert outcomes == [([0, 1], "dropped", "why")]
    assert not batch.live
    assert not buffer.has_in_flight()


def test_dropping_all_wakes_what_waits_for_the_messages():
    """They will not be delivered any more."""
    buffer, woken = make(), []
    buffer.put(event(0))
    buffer.watchers.add(lambda: woken.append(buffer.stats.pending))
    buffer.drop_all("why")
    assert woken == [0]


# ---- results and health -------------------------------------------------------------------------


def test_a_result_has_what_was_settled_since_the_snapshot():
    """And the errors since then, once."""
    buffer = make()
    put(buffer, *map(event, range(9)))
    batch = take(buffer, everything=True)
    buffer.settle(batch, batch.records[:1], "delivered")
    buffer.settle(batch, batch.unsettled[:1], "dropped", "before")
    buffer.settle(batch, batch.unsettled[:1], "rejected")
    buffer.announce([], "rejected", error=TransportError("earlier"))
    before = buffer.snapshot()
    buffer.settle(batch, batch.unsettled[:2], "delivered")
    buffer.settle(batch, batch.unsettled[:1], "rejected")
    buffer.settle(batch, batch.unsettled[:1], "dropped", "why")
    error = TransportError("broken")
    buffer.announce([], "rejected", error=error)
    result = buffer.result_since(before)
    assert (result.delivered, result.rejected, result.dropped) == (2, 1, {"why": 1})
    assert (result.pending, result.errors) == (2, (error,))
    assert buffer.result_since(buffer.snapshot()).errors == ()


def test_captured_messages_count_as_delivered():
    """A test sees the same counts."""
    buffer, outcomes = reported()
    buffer.count_captured([event(0), event(1)])
    assert buffer.stats.snapshot().delivered == 2
    assert outcomes == [([0, 1], "delivered", "")]
    assert buffer.reports_deliveries
    assert not make().reports_deliveries


def test_health_shows_what_each_queue_is_doing():
    """Idle, gathering, sending, waiting or halted, with the age of its oldest message."""
    buffer = make(max_batch_size=1, concurrency=2)
    put(buffer, *(event(n, "people") for n in range(2)), event(0), event(0, "groups"))
    take(buffer), take(buffer)
    buffer.clock.now += 3
    buffer.queues["groups"].paused_until = buffer.clock.now + 5
    buffer.queues["imports"].paused_until = buffer.clock.now + 5
    health = buffer.health()
    shown = {
        name: (each.state, each.pending, each.in_flight, each.oldest_age, each.retry_in)
        for name, each in health.queues.items()
    }
    assert shown == {
        "events": ("sending", 1, 1, 3.0, None),
        "imports": ("idle", 0, 0, None, None),
        "people": ("sending", 2, 1, 3.0, None),
        "groups": ("waiting", 1, 0, 3.0, 5.0),
    }
    assert (health.ok, health.pending, health.oldest_age) == (True, 4, 3.0)
    buffer.clock.now += 5
    assert buffer.health().queues["groups"].state == "gathering"  # its pause is just over
    put(buffer, event(9))
    buffer.clock.now += 1
    assert buffer.health().queues["events"].oldest_age == 9.0
    later = make()
    later.put(event(0))
    assert later.health().queues["events"].state == "gathering"
    later.queues["events"].paused_by = TransportError("broken")
    assert later.health().queues["events"].state == "halted"
    assert not later.health().ok


def test_the_age_of_a_buffer_is_that_of_its_oldest_message():
    """In whichever queue; also a short one."""
    buffer = make()
    buffer.put(event(0, "people"))
    buffer.clock.now += 0.25
    buffer.put(event(1))
    buffer.clock.now += 0.25
    health = buffer.stats.snapshot().health
    assert health.oldest_age == 0.5
    ages = {name: each.oldest_age for name, each in health.queues.items()}
    assert ages == {"events": 0.25, "imports": None, "people": 0.5, "groups": None}


def test_a_buffer_whose_spool_cannot_be_written_is_not_well():
    """Without a spool, and with one that is written, it is."""
    for degraded in (None, "no space left on device"):
        spool = SpoolHealth("folder", "process", 0, 0, 0, 0, 0, 0, degraded)
        buffer = make()
        buffer._spool_health = lambda spool=spool: spool
        assert buffer.health().ok is (degraded is None)
        assert buffer.health().spool is spool
    assert make().health().ok


def test_the_oldest_message_of_a_queue_may_be_in_flight():
    """A flush waits for the least sequence number."""
    buffer = make(max_batch_size=1)
    put(buffer, event(0), event(1))
    queue = buffer.queues["events"]
    assert queue.oldest_sequence() == 1
    batch = take(buffer)
    assert queue.oldest_sequence() == 1
    assert buffer.has_unsettled(1)
    assert not buffer.has_unsettled(0)
    buffer.settle(batch, batch.records, "delivered")
    assert queue.oldest_sequence() == 2
    assert not buffer.has_unsettled(1)


class Watcher:
    """An observer that keeps what it is given."""

    def __init__(self):
        self.calls = []

    def queued(self, some):
        self.calls.append(("queued", numbers(some)))

    def settled(self, some, fate, reason):
        self.calls.append(("settled", numbers(some), fate, reason))

    def discarded(self, reason, count):
        self.calls.append(("discarded", reason, count))


def test_an_observer_sees_each_message_and_its_outcome():
    """Also those that skip the queue, and those that were never accepted."""
    buffer, outcomes = reported(max_queue_size=1)
    watcher = Watcher()
    buffer.observe(watcher)
    assert buffer.put(event(0)) is True
    buffer.put(event(1))
    claims = []
    buffer.claim_directly([event(2)], claims, lambda: True)
    buffer.announce(claims[0].batch.records, "delivered")
    assert watcher.calls == [
        ("queued", [0]),
        ("queued", [1]),
        ("discarded", "queue_full", 1),
        ("settled", [1], "dropped", "queue_full"),
        ("queued", [2]),
        ("settled", [2], "delivered", ""),
    ]
    assert outcomes == [([1], "dropped", "queue_full"), ([2], "delivered", "")]
    assert len(claims) == 1
    assert buffer.stats.snapshot().dropped == {"queue_full": 1}


def test_a_forked_child_starts_with_an_empty_buffer():
    """The messages are those of its parent."""
    buffer = make(max_queue_size=1)
    put(buffer, event(0), event(1))
    buffer.watchers.add(lambda: None)
    buffer.drop_all("exit", end_reason="exit")
    buffer.stop_gathering()
    buffer.clear()
    assert (buffer.bytes, buffer.end_reason, buffer.flush_marker, buffer.watchers) == (
        0, None, 0, set(),
    )  # fmt: skip
    assert buffer.put(event(2)) is True
    assert (buffer.stats.accepted, buffer.stats.snapshot().dropped) == (1, {})
