"""The buffer stays within its limits, and its counts add up."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mixpanel._delivery.buffer import Buffer, Claim
from mixpanel._delivery.stats import DeliveryStats
from mixpanel._records.record import Record
from mixpanel.credentials import ApiSecret
from mixpanel.exceptions import QueueFullError
from mixpanel.settings import Limits
from tests.effort import cases


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def make(when_full="drop_newest", clock=None, on_drop=None, **limits):
    return Buffer(
        Limits(**limits),
        DeliveryStats(on_drop=on_drop),
        when_full=when_full,
        clock=clock or Clock(),
    )


def event(n=0, endpoint="events", size=0, **options):
    return Record(endpoint, b'{"n":%d%s}' % (n, b" " * size), **options)


def take(buffer, **how):
    return buffer.take(Claim(lambda: True), **how)


def numbers(records):
    return [record.decoded()["n"] for record in records]


def test_a_batch_is_due_by_count():
    """It is due as soon as it has `max_batch_size` records."""
    buffer = make(max_batch_size=3)
    buffer.put(event(0))
    buffer.put(event(1))
    assert take(buffer) is None
    buffer.put(event(2))
    assert numbers(take(buffer).records) == [0, 1, 2]


def test_a_batch_is_due_by_bytes_and_packs_byte_exactly():
    """The JSON array of a batch never exceeds the limit, brackets and commas included."""
    buffer = make(max_batch_bytes=100)
    for n in range(30):
        buffer.put(event(n))
    sizes = []
    while (batch := take(buffer, everything=True)) is not None:
        body = b"[" + b",".join(record.body for record in batch.records) + b"]"
        sizes.append(len(body))
        buffer.settle(batch, batch.records, "delivered")
        buffer.finish(batch)
    assert max(sizes) <= 100
    assert sizes[0] + len(event(9).body) + 1 > 100


def test_a_batch_is_due_by_age():
    """The oldest record of a queue decides."""
    clock = Clock()
    buffer = make(clock=clock, flush_after=1.0)
    buffer.put(event())
    clock.now += 0.4
    assert take(buffer) is None
    assert buffer.seconds_until_due() == pytest.approx(0.6)
    clock.now += 0.6
    assert take(buffer) is not None


def test_a_record_larger_than_a_batch_is_sent_alone():
    """The server rejects it; packing does not get stuck on it."""
    buffer = make(max_batch_bytes=50)
    buffer.put(event(0, size=100))
    buffer.put(event(1))
    assert numbers(take(buffer, everything=True).records) == [0]


def test_profiles_have_one_request_in_flight_and_events_several():
    """A retried older `$set` never overtakes a newer one."""
    buffer = make(max_batch_size=1, concurrency=2)
    for n in range(3):
        buffer.put(event(n))
        buffer.put(event(n, "people"))
    taken = [take(buffer) for _ in range(4)]
    assert [batch and batch.queue.endpoint for batch in taken] == [
        "events",
        "events",
        "people",
        None,
    ]


def test_records_with_different_credentials_are_in_different_batches():
    """Credentials of one call never authorise another's events."""
    buffer = make()
    secret = ApiSecret("s")
    for n, auth in enumerate([None, secret, secret, None]):
        buffer.put(event(n, "imports", auth=auth))
    batches = []
    while (batch := take(buffer, everything=True)) is not None:
        batches.append(numbers(batch.records))
        buffer.settle(batch, batch.records, "delivered")
        buffer.finish(batch)
    assert batches == [[0], [1, 2], [3]]


@pytest.mark.parametrize("bound", [{"max_queue_size": 2}, {"max_queue_bytes": 20}])
@pytest.mark.parametrize(
    ("when_full", "kept", "dropped"),
    [("drop_newest", [10, 11], [12]), ("drop_oldest", [11, 12], [10])],
)
def test_a_full_buffer_drops_and_reports_messages(bound, when_full, kept, dropped):
    """Bounded by count and by bytes; what is dropped is counted and passed to `on_drop`."""
    drops = []
    buffer = make(when_full, on_drop=lambda why, gone: drops.append((why, gone)), **bound)
    for n in (10, 11, 12):
        buffer.put(event(n))
    assert numbers(take(buffer, everything=True).records) == kept
    assert drops == [("queue_full", [{"n": dropped[0]}])]
    assert buffer.stats.snapshot().dropped == {"queue_full": 1}
    assert buffer.stats.snapshot().balanced


def test_a_full_buffer_raises_or_returns_none():
    """With `when_full` "raise" and "wait"; neither message counts as accepted."""
    buffer = make("raise", max_queue_size=1)
    buffer.put(event())
    with pytest.raises(QueueFullError):
        buffer.put(event())
    waiting = make("wait", max_queue_size=1)
    waiting.put(event())
    assert waiting.put(event()) is None
    assert buffer.stats.accepted == waiting.stats.accepted == 1


def test_a_record_larger_than_the_whole_buffer_is_dropped_as_too_large():
    """No flush would make space for it."""
    buffer = make("raise", max_queue_bytes=50)
    buffer.put(event(size=100))
    assert buffer.stats.snapshot().dropped == {"too_large": 1}


def test_batches_that_return_in_another_order_are_queued_in_their_own():
    """The head is the oldest message: a flush waits for it."""
    buffer = make(max_batch_size=2, concurrency=2)
    for n in range(5):
        buffer.put(event(n))
    first, second = take(buffer), take(buffer)
    buffer.finish(first)
    buffer.finish(second)
    queue = buffer.queues["events"]
    assert numbers(queue.unsent) == [0, 1, 2, 3, 4]
    assert queue.oldest_sequence() == 1


def test_finishing_a_batch_returns_unsettled_records_in_order():
    """They are at the head of their queue again."""
    buffer = make(max_batch_size=4)
    for n in range(6):
        buffer.put(event(n))
    batch = take(buffer)
    buffer.settle(batch, [batch.records[1]], "rejected")
    buffer.finish(batch)
    assert numbers(take(buffer, everything=True).records) == [0, 2, 3, 4]


def test_an_unrepeatable_update_that_was_being_sent_is_ambiguous():
    """It may have been applied: it is counted, and never sent again."""
    buffer = make()
    buffer.put(event(0, "people", repeatable=False))
    buffer.put(event(1, "people"))
    batch = take(buffer, everything=True)
    batch.sending = batch.records
    buffer.finish(batch)
    assert buffer.stats.snapshot().dropped == {"ambiguous": 1}
    assert numbers(take(buffer, everything=True).records) == [1]


def test_a_reclaimed_batch_settles_nothing_twice():
    """After `reclaim`, outcomes that its old owner reports are not counted."""
    buffer = make()
    buffer.put(event())
    lost = take(buffer, everything=True)
    buffer.reclaim()
    again = take(buffer, everything=True)
    buffer.settle(lost, lost.records, "delivered")
    assert buffer.stats.delivered == 0
    buffer.settle(again, again.records, "delivered")
    assert buffer.stats.snapshot().balanced
    assert buffer.stats.delivered == 1


class BufferMachine(RuleBasedStateMachine):
    """Whatever happens in whatever order, counts and bytes add up."""

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        self.buffer = make(
            "drop_oldest",
            self.clock,
            max_batch_size=3,
            max_batch_bytes=60,
            max_queue_size=8,
            max_queue_bytes=150,
        )
        self.in_flight = []
        self.n = 0

    @rule(endpoint=st.sampled_from(["events", "people", "imports"]), safe=st.booleans())
    def put(self, endpoint, safe):
        self.n += 1
        self.buffer.put(event(self.n, endpoint, repeatable=safe))

    @rule(everything=st.booleans())
    def take(self, everything):
        batch = take(self.buffer, everything=everything)
        if batch:
            self.in_flight.append(batch)

    @rule(data=st.data(), fate=st.sampled_from(["delivered", "rejected", "dropped"]))
    def settle(self, data, fate):
        if self.in_flight:
            batch = data.draw(st.sampled_from(self.in_flight))
            some = (
                data.draw(st.lists(st.sampled_from(batch.unsettled), unique=True))
                if batch.unsettled
                else []
            )
            self.buffer.settle(batch, some, fate, "why")

    @rule(data=st.data(), cut=st.booleans())
    def finish(self, data, cut):
        if self.in_flight:
            batch = self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1)))
            batch.sending = batch.unsettled if cut else []
            self.buffer.finish(batch)

    @rule()
    def reclaim(self):
        self.buffer.reclaim()

    @rule()
    def drop_all(self):
        self.buffer.drop_all("exit")

    @rule(seconds=st.floats(0, 2))
    def wait(self, seconds):
        self.clock.now += seconds

    @invariant()
    def balanced(self):
        stats = self.buffer.stats.snapshot()
        queues = self.buffer.queues.values()
        held = [r for queue in queues for r in queue.unsent]
        held += [r for queue in queues for batch in queue.in_flight for r in batch.unsettled]
        assert stats.balanced
        assert stats.pending == len(held)
        assert self.buffer.bytes == sum(len(r.body) for r in held)
        for queue in queues:
            assert queue.bytes == sum(len(r.body) for r in queue.unsent)
            assert [r.sequence for r in queue.unsent] == sorted(
                r.sequence for r in queue.unsent
            ) or queue.max_in_flight > 1


TestBuffer = BufferMachine.TestCase
TestBuffer.pytestmark = [pytest.mark.slow]
TestBuffer.settings = settings(max_examples=cases(100, 2000), stateful_step_count=40)
