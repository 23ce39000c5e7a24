"""The edges of the spool's decisions, each one off by one: see tests/faults/mutation.py."""

import asyncio
import sqlite3
import threading
from collections import deque
from contextlib import closing

import pytest

from mixpanel._delivery.buffer import Claim
from mixpanel._delivery.spool import blocks, spooled_buffer, writer
from mixpanel._delivery.spool.blocks import (
    Block,
    Credentials,
    RecordCodec,
    Source,
    dead_letter,
    new_blocks,
)
from mixpanel._delivery.spool.folder import claim_orphan, create_file
from mixpanel._delivery.spool.store import (
    ATTEMPTED,
    DONE,
    WAITING,
    DeadLetter,
    NewBlock,
    SpoolStore,
    block_id,
    is_damage,
    peek,
    place_of,
)
from mixpanel._records.record import Record
from mixpanel.credentials import ApiSecret, ProjectToken
from mixpanel.exceptions import (
    ClosedError,
    QueueFullError,
    RejectedError,
    RejectedRecord,
    SpoolError,
    TransportError,
)
from tests.delivery import manual_spool
from tests.delivery.manual_spool import (
    break_page_with,
    commits,
    cycle,
    deliver,
    delivered,
    event,
    fail_to_write,
    large,
    leave,
    rejected,
    settle_all,
    stored,
    take,
    write,
)
from tests.delivery.test_spool_model import BrokenStore

make = manual_spool.make


def test_what_skips_the_spool_does_not_count_as_written(make):
    """A commit fails as long as the disk failed for a message, whatever is delivered directly."""
    buffer = make()
    cycle(buffer)
    BrokenStore.broken = True
    buffer.put(event(0))
    assert not commits(buffer)
    deliver(buffer, event(1))
    assert (buffer.memory_only, buffer.unspooled) == (1, 1)
    assert not commits(buffer)
    BrokenStore.broken = False
    assert commits(buffer)
    assert stored(buffer) == 1


def test_what_skipped_the_spool_and_lost_its_loop_is_sent_from_memory(make):
    """It counts neither as written nor as refused by the disk."""
    buffer = make()
    claims = []
    buffer.claim_directly([event(0)], claims, lambda: False)
    buffer.reclaim(dead_only=True)
    cycle(buffer)
    BrokenStore.broken = True
    buffer.put(event(1))
    assert not commits(buffer)
    BrokenStore.broken = False
    assert commits(buffer)
    assert (buffer.memory_only, buffer.unspooled, buffer.unspooled_bytes) == (0, 0, 0)
    assert stored(buffer) == 1
    batch = take(buffer)
    assert len(batch.records) == 2
    delivered(buffer, batch)
    cycle(buffer)
    assert buffer.stats.snapshot().balanced
    assert (stored(buffer), buffer.bytes) == (0, 0)


@pytest.fixture
def backlog(make, monkeypatch):
    """A buffer with two messages in memory, and three blocks on disk only."""
    monkeypatch.setattr(spooled_buffer, "LOADED", 2)
    buffer = make()
    for n in range(5):
        write(buffer, event(n))
    assert (buffer.queues["events"].on_disk, buffer.disk_bytes) == (3, 21)
    return buffer


def run(buffer, statement):
    buffer.writer._files.own.store._connection.execute(statement)


def test_damaged_blocks_take_no_space(backlog):
    """What is lost does not count against `max_spool_bytes`."""
    run(backlog, "UPDATE block SET crc = crc + 1 WHERE id = (SELECT max(id) FROM block)")
    settle_all(backlog)
    assert backlog.stats.snapshot().dropped == {"corrupt": 1}
    assert (backlog.disk_bytes, backlog.stats.pending) == (0, 0)


def test_blocks_that_are_missing_take_no_space(backlog):
    """The counts of a file may be higher than what it has."""
    run(backlog, "DROP TRIGGER block_removed")
    run(backlog, "DELETE FROM block WHERE id = (SELECT max(id) FROM block)")
    settle_all(backlog)
    assert backlog.stats.snapshot().dropped == {"corrupt": 1}
    assert (backlog.disk_bytes, backlog.stats.pending) == (0, 0)


def test_a_file_that_was_set_aside_takes_no_space(backlog):
    """What memory holds is written to a new one."""
    own = backlog.writer._files.own
    backlog.writer._set_aside(backlog, own, sqlite3.DatabaseError("malformed"))
    assert backlog.stats.snapshot().dropped == {"corrupt": 3}
    assert (backlog.disk_bytes, backlog.memory_only, backlog.unspooled_bytes) == (0, 2, 14)
    assert backlog.unspooled == 2
    cycle(backlog)
    assert (stored(backlog), backlog.memory_only, backlog.unspooled_bytes) == (2, 0, 0)
    assert backlog.writer.quarantined == 1


# ---- a buffer with a spool ----------------------------------------------------------------------


def test_put_asks_for_a_look_at_the_first_message_and_at_each_full_batch(make):
    """Those in memory count as well as those that wait to be written."""
    buffer = make(max_batch_size=3)
    assert [buffer.put(event(n)) for n in range(4)] == [True, False, True, False]
    cycle(buffer)
    assert [buffer.put(event(n)) for n in range(3)] == [True, True, False]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "fits"),
    [({"max_queue_size": 2}, 2), ({"max_queue_bytes": 14}, 2), ({"max_spool_bytes": 14}, 2)],
)
@pytest.mark.parametrize("when_full", ["drop_newest", "raise", "wait"])
def test_a_buffer_is_full_at_its_limit_exactly(make, when_full, limits, fits):
    """Of messages and bytes that are not on disk yet, and of bytes in all."""
    outcomes, drops = [], []
    buffer = make(**limits)
    buffer.when_full, buffer._on_outcome = when_full, lambda *what: outcomes.append(what[1:])
    buffer.stats.on_drop = lambda why, some: drops.append(why)
    buffer.ensure_space([event(n) for n in range(fits)])
    for n in range(fits):
        buffer.put(event(n))
    assert buffer.stats.pending == buffer.unspooled == fits
    if when_full == "raise":
        with pytest.raises(QueueFullError, match="2 messages"):
            buffer.put(event(9))
        with pytest.raises(QueueFullError, match="none of 1 was accepted"):
            buffer.ensure_space([event(9)])
    elif when_full == "wait":
        assert buffer.put(event(9)) is None
    else:
        buffer.put(event(9))
        assert (outcomes, drops) == ([("dropped", "queue_full")], ["queue_full"])
    assert buffer.stats.snapshot().balanced
    cycle(buffer)
    if "max_spool_bytes" not in limits:
        assert buffer.put(event(9)) is not None
        assert buffer.stats.pending == fits + 1


def test_a_message_that_no_buffer_could_hold_is_too_large(make):
    """Whatever `when_full` is; one of the limit's size fits."""
    buffer = make(max_queue_bytes=7)
    buffer.put(Record("events", b'{"n":10}'))
    assert buffer.stats.snapshot().dropped == {"too_large": 1}
    buffer.put(event(1))
    assert buffer.stats.pending == 1


def test_a_group_of_messages_fits_as_a_whole(make):
    """Up to each limit."""
    for limits in ({"max_queue_size": 2}, {"max_queue_bytes": 14}, {"max_spool_bytes": 14}):
        buffer = make(**limits)
        buffer.when_full = "raise"
        buffer.ensure_space([event(0), event(1)])
        with pytest.raises(QueueFullError, match="none of 3"):
            buffer.ensure_space([event(0), event(1), event(2)])
        buffer.when_full = "wait"
        buffer.ensure_space([event(0), event(1), event(2)])


def test_the_oldest_message_may_be_anywhere(make, monkeypatch):
    """In flight, in memory, on disk only, being written or waiting to be."""
    monkeypatch.setattr(spooled_buffer, "LOADED", 1)
    buffer = make(max_batch_size=1)
    queue = buffer.queues["events"]
    assert queue.oldest_sequence() is None
    buffer.put(event(0))
    assert queue.oldest_sequence() == 1
    queue.writing, queue.staged = list(queue.staged), deque()
    assert queue.oldest_sequence() == 1
    queue.staged, queue.writing = deque(queue.writing), []
    cycle(buffer)
    write(buffer, event(1))
    assert (queue.on_disk, queue.disk_sequence) == (1, 2)
    batch = take(buffer)
    assert queue.oldest_sequence() == 1
    delivered(buffer, batch)
    assert queue.oldest_sequence() == 2


def test_memory_is_bounded_by_count_and_by_bytes(monkeypatch):
    """At the limit there is no space."""
    queue = spooled_buffer.SpoolQueue("events", 1, 1000)
    monkeypatch.setattr(spooled_buffer, "LOADED", 2)
    monkeypatch.setattr(spooled_buffer, "LOADED_BYTES", 100)
    queue.unsent, queue.bytes = deque([event(0)]), 99
    assert queue.has_space()
    queue.bytes = 100
    assert not queue.has_space()
    queue.unsent, queue.bytes = deque([event(0), event(1)]), 0
    assert not queue.has_space()


def test_new_messages_line_up_behind_those_on_disk_only(backlog):
    """Even when memory has space again."""
    batch = take(backlog)
    delivered(backlog, batch)
    write(backlog, event(5))
    order = []
    while (batch := take(backlog)) is not None:
        order += [one.decoded()["n"] for one in batch.unsettled]
        delivered(backlog, batch)
        cycle(backlog)
        cycle(backlog)
    assert order == [2, 3, 4, 5]
    assert stored(backlog) == 0


def test_messages_of_a_failed_write_are_sent_from_memory_and_written_later(make):
    """In their order; those behind a backlog wait for the disk."""
    buffer = make()
    cycle(buffer)
    BrokenStore.broken = True
    buffer.put(event(0))
    write(buffer, event(1))
    assert isinstance(buffer.writer.error, SpoolError)
    health = buffer.health()
    assert (health.ok, health.spool.uncommitted) == (False, 2)
    buffer.put(event(2))
    BrokenStore.broken = False
    cycle(buffer)
    assert (stored(buffer), buffer.memory_only) == (3, 0)
    assert [one.sequence for one in buffer.queues["events"].unsent] == [1, 2, 3]
    assert buffer.writer.error is None
    assert buffer.health().ok


def test_a_message_that_is_in_flight_from_memory_is_written_meanwhile(make):
    """Its outcome deletes it from the disk; a kill before that sends it again."""
    buffer = make()
    cycle(buffer)
    fail_to_write(buffer, event(0))
    batch = take(buffer)
    BrokenStore.broken = False
    cycle(buffer)
    assert (stored(buffer), buffer.memory_only, buffer.unspooled_bytes) == (1, 0, 0)
    delivered(buffer, batch)
    cycle(buffer)
    assert stored(buffer) == 0


def test_closing_keeps_what_is_on_disk_and_drops_the_rest(make, monkeypatch):
    """Kept messages count as pending."""
    outcomes = []
    buffer = make()
    buffer._on_outcome = lambda some, fate, why: outcomes.append((len(some), fate, why))
    write(buffer, event(0))
    fail_to_write(buffer, event(1))
    buffer.put(event(2))
    buffer.drop_all("closed", end_reason="closed")
    stats = buffer.stats.snapshot()
    assert outcomes == [(2, "dropped", "closed")]
    assert (stats.pending, stats.dropped, buffer.kept) == (1, {"closed": 2}, 1)
    assert (buffer.bytes, buffer.unspooled, buffer.memory_only) == (0, 0, 0)
    with pytest.raises(ClosedError):
        buffer.put(event(3))
    assert not commits_after_close(buffer)


def commits_after_close(buffer):
    return buffer.writer.request_commit().exception() is None


def test_the_outcome_of_each_record_is_its_own_reason(make):
    """In the dead letters: that of the server, or of the error."""
    buffer = make()
    write(buffer, *map(event, range(3)))
    batch = take(buffer)
    error = RejectedError("no", rejected_records=(RejectedRecord(0, "bad"),))
    first, second, third = batch.records
    for some, fate, reason, error in (  # noqa: B020
        ([first], "rejected", "", error),
        ([second], "dropped", "expired", TransportError("broken")),
        ([third], "dropped", "raised", None),
    ):
        buffer.settle(batch, some, fate, reason)
        buffer.announce(some, fate, reason, error)
    buffer.finish(batch)
    cycle(buffer)
    letters = buffer.writer._files.own.store.dead()
    assert [(each.reason, each.error) for each in letters] == [
        ("rejected", "bad"),
        ("expired", "broken"),
    ]
    assert buffer.writer.dead_letters == 2


def test_health_counts_what_is_on_disk(backlog):
    """Bytes and messages, apart from those that wait to be written."""
    backlog.put(event(5))
    spool = backlog.health().spool
    assert (spool.messages, spool.uncommitted, spool.bytes) == (5, 1, 35)
    assert backlog.health().pending == 6
    assert backlog.health().queues["events"].pending == 6


# ---- blocks -------------------------------------------------------------------------------------


def blocks_of(some, endpoint="events", codec=None):
    for at, one in enumerate(some, 101):
        one.sequence = at
    source = Source(None, None)
    return list(new_blocks(source, endpoint, some, codec or RecordCodec(), Credentials()))


def test_blocks_are_bounded_by_messages_and_by_bytes(monkeypatch):
    """A message that is larger than a block has one of its own."""
    monkeypatch.setattr(blocks, "MAX_BLOCK_MESSAGES", 3)
    monkeypatch.setattr(blocks, "MAX_BLOCK_BYTES", 21)
    found = blocks_of([event(n) for n in range(7)])
    assert [len(part) for _, part in found] == [3, 3, 1]
    places = [place_of(new.id) - blocks.FIRST_PLACE for new, _ in found]
    assert places == [101, 104, 107]
    monkeypatch.setattr(blocks, "MAX_BLOCK_BYTES", 20)
    assert [len(part) for _, part in blocks_of([event(n) for n in range(4)])] == [2, 2]
    monkeypatch.setattr(blocks, "MAX_BLOCK_BYTES", 6)
    assert [len(part) for _, part in blocks_of([event(n) for n in range(2)])] == [1, 1]


def test_only_profiles_and_groups_say_what_may_be_repeated():
    """Events always may."""
    for endpoint, flags in (("people", b"\1\0"), ("groups", b"\1\0"), ("events", None)):
        some = [event(0, endpoint), event(1, endpoint, repeatable=False)]
        [(new, _)] = blocks_of(some, endpoint)
        assert new.flags == flags


def test_messages_of_a_block_share_their_credentials():
    """Of imports; a secret is not written."""
    secret = ApiSecret("s3cret")
    some = [event(n, "imports", auth=auth) for n, auth in enumerate([None, secret, secret])]
    some.append(event(3, "imports", auth=ProjectToken("t")))
    found = blocks_of(some, "imports")
    assert [len(part) for _, part in found] == [1, 2, 1]
    assert found[0][0].auth is None
    assert found[1][0].auth.startswith("secret:")
    assert "s3cret" not in found[1][0].auth
    assert found[2][0].auth == "token:t"


def test_credentials_are_known_to_their_process_only():
    """Each secret has one text."""
    here, there = Credentials(), Credentials()
    one, two = ApiSecret("a"), ApiSecret("b")
    texts = [here.dump(one), here.dump(two), here.dump(one)]
    assert texts[0] == texts[2] != texts[1]
    assert [here.load(text) for text in texts] == [one, two, one]
    assert here.load(None) is here.dump(None) is None
    with pytest.raises(LookupError):
        there.load(texts[0])


def test_a_settled_message_stays_settled():
    """Marks have no effect on it; a block is done when all of its messages are."""
    block = Block(None, 1, 0.0, None, 2, bytearray(2))
    some = [event(0), event(1)]
    for index, one in enumerate(some):
        one.index = index
    block.mark(some, ATTEMPTED)
    assert bytes(block.state) == bytes([ATTEMPTED] * 2)
    assert not block.settle(some[:1])
    assert not block.settle(some[:1])
    assert block.remaining == 1
    block.mark(some, WAITING)
    assert bytes(block.state) == bytes([DONE, WAITING])
    assert block.settle(some)


def test_an_implausible_age_counts_as_zero(monkeypatch):
    """Negative, of a clock before 2020, or of more than a year."""
    now = blocks.PLAUSIBLE + 100
    monkeypatch.setattr(blocks, "now", lambda: now)
    assert blocks.age_of(now - 5) == 5
    assert blocks.age_of(now) == 0
    assert blocks.age_of(now + 5) == 0
    assert blocks.age_of(blocks.PLAUSIBLE) == 100
    assert blocks.age_of(blocks.PLAUSIBLE - 1) == 0
    monkeypatch.setattr(blocks, "now", lambda: blocks.PLAUSIBLE + 400 * 86400.0)
    assert blocks.age_of(blocks.PLAUSIBLE + 5 * 86400.0) == 0
    monkeypatch.setattr(blocks, "now", lambda: blocks.PLAUSIBLE - 1)
    assert blocks.age_of(blocks.PLAUSIBLE - 5) == 0


# ---- the store ----------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path):
    with closing(SpoolStore(tmp_path / "x.db")) as store:
        yield store


def new(place, *bodies, endpoint="events", created=1.0):
    return NewBlock(block_id(endpoint, place), created, bodies or (b"{}",))


@pytest.mark.parametrize(("durability", "level"), [("process", 1), ("power", 2)])
def test_a_file_has_the_settings_of_its_durability(tmp_path, durability, level):
    """And those by which other programs know it."""
    for _ in range(2):
        with closing(SpoolStore(tmp_path / "x.db", durability)) as store:
            found = {
                name: store._connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in (
                    "synchronous", "journal_mode", "page_size", "auto_vacuum", "user_version",
                    "application_id", "recursive_triggers", "trusted_schema", "busy_timeout",
                    "journal_size_limit",
                )
            }  # fmt: skip
        assert found == {
            "synchronous": level, "journal_mode": "wal", "page_size": 4096, "auto_vacuum": 2,
            "user_version": 1, "application_id": 0x4D505350, "recursive_triggers": 1,
            "trusted_schema": 0, "busy_timeout": 1000, "journal_size_limit": 16 * 1024 * 1024,
        }  # fmt: skip


def test_reading_stops_at_either_limit_with_one_block_at_least(store):
    """After a place, in order."""
    for place in range(1, 6):
        store.add(new(place, b"12345", b"67890"))
    store.add(new(1, endpoint="people"))

    def places(after, messages, size):
        return [place_of(each.id) for each in store.read("events", after, messages, size)]

    assert places(0, 10**6, 10**6) == [1, 2, 3, 4, 5]
    assert places(2, 10**6, 10**6) == [3, 4, 5]
    assert places(5, 10**6, 10**6) == []
    assert places(0, 0, 0) == [1]
    assert places(0, 4, 10**6) == [1, 2]
    assert places(0, 5, 10**6) == [1, 2, 3]
    assert places(0, 10**6, 20) == [1, 2]
    assert places(0, 10**6, 21) == [1, 2, 3]
    assert [store.last_place(name) for name in ("events", "people", "groups")] == [5, 1, 0]


def test_the_oldest_message_of_any_endpoint_counts(store):
    """None without one."""
    assert store.oldest() is None
    store.add(new(3, endpoint="people", created=7.0))
    store.add(new(4, endpoint="people", created=5.0))
    store.add(new(9, endpoint="batch", created=8.0))
    assert store.oldest() == 7.0
    store.remove([block_id("people", 3)])
    assert store.oldest() == 5.0


def letter(key, body):
    return DeadLetter(key, 1.0, "events", "why", "text", 2.0, True, None, None, body)


def test_dead_letters_may_take_the_limit_exactly(store):
    """The oldest are deleted until they do."""
    assert store.add_dead([letter("a", b"12345"), letter("b", b"12345")], 10) == 0
    assert store.add_dead([letter("c", b"1")], 10) == 1
    assert [each.key for each in store.dead()] == ["b", "c"]
    assert store.add_dead([letter("d", b"123456789")], 10) == 1
    assert [each.key for each in store.dead()] == ["c", "d"]
    assert store.dead_totals() == (2, 10)
    assert store.add_dead([letter("c", b"again")]) == 0
    [one, two] = store.dead()
    assert [each.key for each in store.dead(after=one.id)] == ["d"]
    assert [each.key for each in store.dead(limit=1)] == ["c"]
    assert not store.is_empty()
    store.remove_dead([one.id, two.id])
    assert store.is_empty()
    store.add(new(1))
    assert not store.is_empty()
    store.clear()
    assert store.is_empty()


def test_facts_about_the_owner_are_replaced(store):
    """By name."""
    store.set_meta(pid="1", host="a")
    store.set_meta(pid="2")
    assert store.meta() == {"pid": "2", "host": "a"}
    assert store.integrity() == "ok"
    assert store.file_bytes() > 4096
    assert store.free_pages() == 0


# ---- counts after an interruption ---------------------------------------------------------------


def test_counts_are_derived_from_the_records_after_an_exception(make, monkeypatch):
    """Wherever they are: settled, in flight, in memory, on disk only, or not written yet."""
    monkeypatch.setattr(spooled_buffer, "LOADED", 3)
    buffer = make(max_batch_size=1, concurrency=2)
    for n in range(5):
        write(buffer, event(n))
    for fate in ("delivered", "rejected"):
        batch = take(buffer)
        buffer.settle(batch, batch.unsettled, fate)
        buffer.finish(batch)
    take(buffer)
    fail_to_write(buffer, event(5, "people"))
    buffer.put(event(6))
    state = vars(buffer)
    names = ("bytes", "unspooled", "unspooled_bytes", "memory_only")
    before = {name: state[name] for name in names}
    stats = (buffer.stats.accepted, buffer.stats.pending)
    assert before["memory_only"] == 1
    buffer.bytes = buffer.unspooled = buffer.unspooled_bytes = buffer.memory_only = 99
    buffer.stats.pending = buffer.stats.accepted = 99
    with pytest.raises(KeyError):
        buffer.put(event(7, "nowhere"))
    assert {name: state[name] for name in names} == before
    assert (buffer.stats.accepted, buffer.stats.pending) == stats
    assert buffer.stats.changing is False


@pytest.mark.slow
def test_adopted_messages_need_no_space_of_their_own(make):
    """The limit of a spool is for what this process adds."""
    first = make(max_spool_bytes=14)
    first.put(event(0))
    write(first, event(1))
    first.drop_all("closed", end_reason="closed")
    second = make(max_spool_bytes=14)
    cycle(second)
    assert (second.stats.pending, second.adopted_bytes) == (2, 14)
    second.put(event(2))
    second.put(event(3))
    second.put(event(4))
    assert second.stats.snapshot().dropped == {"queue_full": 1}
    settle_all(second)
    assert (second.disk_bytes, second.bytes) == (0, 0)
    assert second.stats.snapshot().balanced


def test_a_taken_update_that_was_not_sent_is_unmarked(make):
    """It may be sent again after a restart; one that was cut off may not."""
    buffer = make()
    for n in range(2):
        buffer.put(event(n, "people", repeatable=False))
    cycle(buffer)
    batch = take(buffer)
    buffer.mark_attempted_blocking(batch.records, 0.0)
    cycle(buffer)
    batch.sending = batch.records[:1]
    buffer.finish(batch)
    cycle(buffer)
    assert buffer.stats.snapshot().dropped == {"ambiguous": 1}
    [found] = buffer.writer._files.own.store.read("people", 0, 10, 10**6)
    assert found.state == bytes([DONE, WAITING])


def test_records_of_a_failed_write_are_written_before_later_ones(make):
    """A queue is in the order of its sequence numbers."""
    buffer = make(max_batch_size=2, concurrency=3)
    cycle(buffer)
    fail_to_write(buffer, *map(event, range(2)))
    batch = take(buffer)
    BrokenStore.broken = False
    write(buffer, *map(event, range(2, 4)))
    buffer.finish(batch)
    assert [one.sequence for one in buffer.queues["events"].unsent] == [1, 2, 3, 4]
    assert (stored(buffer), buffer.memory_only, buffer.unspooled) == (4, 0, 0)
    settle_all(buffer)
    cycle(buffer)
    assert stored(buffer) == 0


def test_dead_letters_of_messages_that_were_never_written_have_a_key(make):
    """Each its own, so that none replaces another."""
    letters = [dead_letter(event(n), None, "why", "text", RecordCodec()) for n in range(2)]
    assert len({each.key for each in letters}) == 2
    assert letters[0][2:5] == ("events", "why", "text")
    buffer = make()
    write(buffer, *map(event, range(2)))
    batch = take(buffer)
    found = [dead_letter(one, one.block, "why", "text", RecordCodec()) for one in batch.records]
    assert len({each.key for each in found}) == 2
    assert [each.created for each in found] == [batch.records[0].block.created] * 2
    buffer.finish(batch)


def test_a_token_is_read_back_from_its_text():
    """After a restart as well: it is in each message anyway."""
    assert Credentials().load(Credentials().dump(ProjectToken("t"))) == ProjectToken("t")


# ---- files of earlier processes -----------------------------------------------------------------


@pytest.mark.parametrize("damaged", range(4))
def test_damage_of_an_earlier_file_takes_no_new_message_with_it(make, damaged):
    """What was committed after the restart is sent, also while earlier messages are on disk."""
    path = leave(make(), *map(large, range(4)))
    break_page_with(path, b'{"n":%d,' % damaged)
    buffer = make()
    buffer.put(event(5))
    assert commits(buffer)
    cycle(buffer)
    assert buffer.stats.snapshot().dropped == {"corrupt": 4}
    assert buffer.writer.quarantined == 1
    assert stored(buffer) == 1
    batch = take(buffer)
    assert [one.body for one in batch.records] == [event(5).body]
    delivered(buffer, batch)


def test_messages_of_an_earlier_process_free_their_space_when_they_are_settled(make):
    """The limit holds again for what this process adds: the spool does not grow for ever."""
    leave(make(), event(1), event(2), event(3))
    buffer = make(max_spool_bytes=14)
    cycle(buffer)
    assert buffer.adopted_bytes == 21
    settle_all(buffer)
    cycle(buffer)
    assert buffer.adopted_bytes == 0
    for n in range(4, 8):
        buffer.put(event(n))
    assert buffer.stats.snapshot().dropped == {"queue_full": 2}


def test_a_mark_of_an_earlier_message_is_on_disk_before_its_request_leaves(make, monkeypatch):
    """If it cannot be written, the update waits."""
    leave(make(), event(1, "people", repeatable=False))
    buffer = make()
    cycle(buffer)
    batch = take(buffer)
    source = batch.records[0].block.source
    BrokenStore.broken = True
    error = buffer.mark_attempted_blocking(batch.records, 0.0)
    assert isinstance(error, SpoolError)
    BrokenStore.broken = False
    assert buffer.mark_attempted_blocking(batch.records, 0.0) is None
    [found] = source.store.read("people", 0, 10, 10**6)
    assert found.state == bytes([ATTEMPTED])
    buffer.finish(batch)


@pytest.mark.slow
def test_a_start_on_a_full_disk_sends_what_is_there(make, monkeypatch):
    """No file of its own is needed for it; new messages wait in memory, behind earlier ones."""
    path = leave(make(), event(1))
    full = True

    class FullStore(BrokenStore):
        def __init__(self, file, durability):
            if full and file != path:
                raise sqlite3.OperationalError("database or disk is full")
            super().__init__(file, durability)

    monkeypatch.setattr(writer, "SpoolStore", FullStore)
    buffer = make()
    write(buffer, event(2))
    assert buffer.writer.error is not None
    batch = take(buffer)
    assert [one.body for one in batch.records] == [event(1).body]
    delivered(buffer, batch)
    cycle(buffer)
    assert not path.exists()
    full = False
    cycle(buffer)
    assert buffer.writer.error is None
    assert (stored(buffer), buffer.stats.pending) == (1, 1)


def test_dead_letters_of_an_earlier_process_move_to_the_file_of_this_one(make, monkeypatch):
    """A page at a time; the earlier file is removed, and all are counted meanwhile."""
    monkeypatch.setattr(writer, "PAGE_LETTERS", 2)
    first = make()
    write(first, *map(event, range(3)))
    rejected(first)
    path = leave(first)
    buffer = make()
    cycle(buffer)
    assert (path.exists(), buffer.writer.dead_letters) == (True, 3)
    assert len(buffer.writer._files.own.store.dead()) == 2
    cycle(buffer)
    cycle(buffer)
    assert (path.exists(), buffer.writer.dead_letters) == (False, 3)
    bodies = [letter.body for letter in buffer.writer._files.own.store.dead()]
    assert bodies == [event(n).body for n in range(3)]


# ---- what would be noticed late ------------------------------------------------------------------


def test_a_block_may_take_the_limit_of_bytes_exactly(monkeypatch):
    """The next message starts another one."""
    monkeypatch.setattr(blocks, "MAX_BLOCK_BYTES", 21)
    assert [len(part) for _, part in blocks_of([event(n) for n in range(4)])] == [3, 1]


def test_a_closed_source_releases_its_file_and_its_lock(tmp_path):
    """Also if the file cannot be closed any more."""
    path, lock = create_file(tmp_path)
    source = Source(SpoolStore(path), lock)
    source.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        source.store.totals()
    claimed = claim_orphan(path)
    assert claimed is not None
    claimed.release()


def test_messages_of_different_blocks_are_different_dead_letters(make):
    """Only copies of the same message share one."""
    buffer = make()
    for n in range(2):
        write(buffer, event(n))
    rejected(buffer)
    assert [each.body for each in buffer.writer._files.own.store.dead()] == [
        event(n).body for n in range(2)
    ]
    assert buffer.writer.dead_letters == 2


def test_messages_keep_their_credentials_and_whether_they_may_be_repeated(make):
    """After a restart as well."""
    leave(
        make(),
        event(0, "imports", auth=ProjectToken("t")),
        event(1, "people", repeatable=False),
        event(2, "people", repeatable=True),
    )
    buffer = make()
    cycle(buffer)
    [one] = buffer.queues["imports"].unsent
    assert one.auth == ProjectToken("t")
    assert [each.repeatable for each in buffer.queues["people"].unsent] == [False, True]


def test_only_a_damaged_file_counts_as_damage():
    """An error of the disk or of the program does not: the file stays in use."""
    damage = [
        sqlite3.DatabaseError("file is not a database"),
        sqlite3.OperationalError("database disk image is malformed"),
        sqlite3.OperationalError("no such table: block"),
    ]
    other = [
        sqlite3.OperationalError("disk I/O error"),
        sqlite3.IntegrityError("UNIQUE constraint failed"),
        sqlite3.ProgrammingError("Cannot operate on a closed database."),
        sqlite3.InterfaceError("bad parameter"),
        OSError(5, "Input/output error"),
        ValueError("malformed"),
    ]
    assert [is_damage(each) for each in damage] == [True] * 3
    assert [is_damage(each) for each in other] == [False] * 6


def test_dead_letters_stay_below_the_limit_by_every_byte(store):
    """One byte too many costs another letter."""
    letters = [letter(key, b"12345") for key in "abc"]
    assert store.add_dead(letters, 9) == 2
    assert [each.key for each in store.dead()] == ["c"]


@pytest.fixture
def opened(monkeypatch):
    """The connections that were made."""
    found = []
    connect = sqlite3.connect

    def remembered(*args, **options):
        found.append(connect(*args, **options))
        return found[-1]

    monkeypatch.setattr(sqlite3, "connect", remembered)
    return found


def test_a_file_that_was_only_looked_at_is_closed(tmp_path, opened):
    """It belongs to another process."""
    SpoolStore(tmp_path / "x.db").close()
    assert peek(tmp_path / "x.db").totals == {}
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened[-1].execute("SELECT 1")


def test_a_file_that_cannot_be_opened_is_closed(tmp_path, opened):
    """It may be renamed then, also where open files cannot be."""
    (tmp_path / "x.db").write_bytes(b"not a database" * 100)
    with pytest.raises(sqlite3.DatabaseError):
        SpoolStore(tmp_path / "x.db")
    [connection] = opened
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")


def test_another_thread_may_close_a_file(tmp_path):
    """As at the end of a program."""
    made = []
    thread = threading.Thread(target=lambda: made.append(SpoolStore(tmp_path / "x.db")))
    thread.start()
    thread.join()
    [store] = made
    store.add(new(1))
    store.close()
    with closing(SpoolStore(tmp_path / "x.db")) as store:
        assert store.totals() == {"events": (1, 2)}


def test_a_file_knows_its_size_and_whether_it_is_there(tmp_path):
    """Another file in its place is not it."""
    path = tmp_path / "x.db"
    with closing(SpoolStore(path)) as store:
        store.add(new(1))
        sizes = [each.stat().st_size for each in (path, tmp_path / "x.db-wal")]
        assert min(sizes) > 0
        assert store.file_bytes() == sum(sizes)
        assert store.is_there()
        store.check_there()
        path.rename(tmp_path / "y.db")
        assert store.file_bytes() == sizes[1]
        assert not store.is_there()
        path.write_bytes(b"")
        assert not store.is_there()
        with pytest.raises(FileNotFoundError):
            store.check_there()


def test_a_file_in_a_folder_that_cannot_be_read_is_taken_to_be_there(store, monkeypatch):
    """It is open, and still works."""

    class Hidden:
        def stat(self):
            raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(store, "path", Hidden())
        assert store.is_there()


def test_a_dead_letter_without_a_body_is_one_too(store):
    """The file is not empty."""
    store.add_dead([letter("a", b"")])
    assert not store.is_empty()


@pytest.mark.parametrize("size", [1, 100])
def test_a_file_that_was_emptied_keeps_its_wal(tmp_path, size):
    """SQLite alone would delete it."""
    path, wal = tmp_path / "x.db", tmp_path / "x.db-wal"
    path.write_bytes(b"")
    wal.write_bytes(b"")
    SpoolStore(path).close()
    path.write_bytes(b"")
    wal.write_bytes(b"x" * size)
    with pytest.raises(sqlite3.DatabaseError, match="its WAL is not"):
        SpoolStore(path)
    assert wal.stat().st_size == size


def test_the_age_of_a_new_message_is_exact(monkeypatch):
    """Also below a second."""
    monkeypatch.setattr(blocks, "now", lambda: blocks.PLAUSIBLE + 10.0)
    ages = {created: blocks.age_of(blocks.PLAUSIBLE + created) for created in (10.5, 9.5, 0, -1)}
    assert ages == {10.5: 0.0, 9.5: 0.5, 0: 10.0, -1: 0.0}


def test_the_last_place_of_an_endpoint_is_read(store):
    """It does not belong to the next endpoint."""
    last = 2**48 - 1
    store.add(new(last, endpoint="imports", created=5.0))
    store.add(new(1, endpoint="people"))
    assert [place_of(each.id) for each in store.read("imports", 0, 10, 100)] == [last]
    assert store.last_place("imports") == last
    assert store.oldest(["imports"]) == 5.0
    store.remove([block_id("imports", last)])
    assert store.read("imports", 0, 10, 100) == []
    assert store.oldest(["imports"]) is None
    assert store.last_place("imports") == 0


def test_callers_that_send_themselves_wait_for_the_disk_when_a_batch_is_full(make, monkeypatch):
    """What is in memory counts to it as well."""
    waits = []
    buffer = make(max_batch_size=2)
    monkeypatch.setattr(buffer, "_wait_until_written", lambda: waits.append(1))
    buffer.attach(lambda: None, lambda: True)
    write(buffer, event(0))
    buffer.due()
    assert waits == []
    buffer.put(event(1))
    buffer.due()
    assert waits == [1]
    buffer.attach(lambda: None, lambda: False)
    buffer.due()
    assert waits == [1]


def test_what_was_just_tracked_is_written_before_everything_is_taken(make, monkeypatch):
    """`flush` finds it; without anything to write it does not wait for the disk."""
    buffer = make()
    request, requests = buffer.writer.request_commit, []

    def commit():
        requests.append(1)
        future = request()
        cycle(buffer)
        return future

    monkeypatch.setattr(buffer.writer, "request_commit", commit)
    assert take(buffer) is None
    assert requests == []
    buffer.put(event(0))
    assert [one.body for one in take(buffer).records] == [event(0).body]
    assert requests == [1]


def test_nothing_is_accepted_amid_a_recount(make, monkeypatch):
    """A signal handler that tracks then is deferred."""
    buffer = make()
    write(buffer, event(0))
    seen = []

    def observed(record):
        seen.append(buffer.stats.changing)
        return False

    monkeypatch.setattr(spooled_buffer, "_is_refused", observed)
    buffer._recount()
    assert seen == [True]
    assert buffer.stats.changing is False


def test_messages_in_flight_are_written_in_order_whatever_was_sent_again(make):
    """Order is that of their sequence numbers, not that of their requests."""
    buffer = make(max_batch_size=1, concurrency=2)
    cycle(buffer)
    fail_to_write(buffer, *map(event, range(2)))
    first, second = take(buffer), take(buffer)
    buffer.finish(first)
    again = take(buffer)
    assert [one.sequence for one in again.records] == [1]
    assert [one.sequence for one in buffer.refused_in_flight()["events"]] == [1, 2]
    BrokenStore.broken = False
    for each in (second, again):
        buffer.finish(each)


def test_delivered_messages_leave_no_dead_letter_and_take_no_memory(make):
    """Also those that are in memory only."""
    buffer = make()
    write(buffer, event(0))
    fail_to_write(buffer, event(1))
    assert (buffer.memory_only, buffer.unspooled, buffer.unspooled_bytes) == (1, 1, 7)
    batch = take(buffer)
    records = batch.unsettled
    buffer.settle(batch, records, "delivered")
    buffer.announce(records, "delivered")
    buffer.finish(batch)
    BrokenStore.broken = False
    cycle(buffer)
    assert (buffer.memory_only, buffer.unspooled, buffer.unspooled_bytes) == (0, 0, 0)
    assert (stored(buffer), buffer.writer.dead_letters) == (0, 0)


def test_bytes_on_disk_only_follow_each_page(backlog, monkeypatch):
    """`health` shows them, and they count against the limit."""
    monkeypatch.setattr(writer, "PAGE_MESSAGES", 1)
    batch = take(backlog)
    delivered(backlog, batch)
    cycle(backlog)
    queue = backlog.queues["events"]
    assert (queue.on_disk, backlog.disk_bytes, backlog.bytes, queue.bytes) == (2, 14, 7, 7)
    assert queue.disk_sequence == queue.unsent[-1].sequence == 3
    cycle(backlog)
    assert queue.disk_sequence == queue.unsent[-1].sequence == 4


def test_the_age_of_what_was_found_is_that_of_the_oldest(make):
    """Whatever is found later."""
    buffer = make()
    queue = buffer.queues["events"]
    queue.disk_sequence = 4  # of a message of this process
    for age, size in ((3.0, 5), (5.0, 7), (1.0, 9)):
        buffer.adopted("events", 1, size, age)
    assert buffer.clock() - queue.disk_enqueued_at == 5.0
    assert (queue.on_disk, queue.disk_sequence, queue.oldest_sequence()) == (3, 0, 0)
    assert buffer.disk_bytes == buffer.adopted_bytes == 21
    assert buffer.stats.accepted == buffer.stats.pending == 3
    buffer.lost("events", 3, "corrupt", on_disk=True)


def test_each_earlier_message_frees_its_space_when_it_is_settled(make):
    """New ones do not."""
    leave(make(), event(0), event(1), event(2))
    buffer = make(max_batch_size=1)
    buffer.put(event(3, "people"))
    for _ in range(2):
        cycle(buffer)
    assert buffer.adopted_bytes == 21
    spaces = []
    while (batch := take(buffer)) is not None:
        spaces.append((batch.queue.endpoint, buffer.adopted_bytes))
        buffer.settle(batch, batch.unsettled, "delivered")
        spaces[-1] += (buffer.adopted_bytes,)
        buffer.finish(batch)
    assert [each for each in spaces if each[0] == "people"] == [("people", *[spaces[-1][1]] * 2)]
    assert [each for each in spaces if each[0] == "events"] == [
        ("events", 21, 14), ("events", 14, 7), ("events", 7, 0),
    ]  # fmt: skip


def test_a_batch_that_was_interrupted_while_it_was_taken_is_in_flight_after_a_recount(make):
    """Its outcome counts."""
    buffer = make()
    write(buffer, event(0))
    batch = take(buffer)
    batch.live, batch.bytes = False, 0
    buffer._recount()
    assert batch.bytes == 7
    assert buffer.settle(batch, batch.unsettled, "delivered")
    buffer.finish(batch)
    assert (buffer.stats.delivered, buffer.stats.pending) == (1, 0)


@pytest.mark.parametrize("endpoint", [None, "events"])
def test_a_flush_lets_the_writer_write_at_once(make, endpoint):
    """Until the client is closed; its marker is the number of the last message."""
    buffer = make()
    buffer.put(event(0))

    def flush():
        if endpoint is None:
            return buffer.mark_for_flush()
        return buffer.mark_endpoint_for_flush(endpoint)

    assert flush() == 1
    assert buffer.writer._at_once is True
    buffer.drop_all("closed", end_reason="closed")
    buffer.writer._at_once = False
    flush()
    assert buffer.writer._at_once is False


def test_a_buffer_is_started_once_it_has_a_client(make):
    """Its writer looks for messages of earlier processes; a closed one does not."""
    buffer = make()
    buffer.start()
    assert buffer.writer._wakeup.acquire(blocking=False)
    buffer.drop_all("closed", end_reason="closed")
    buffer.writer._wakeup.acquire(blocking=False)
    buffer.start()
    assert not buffer.writer._wakeup.acquire(blocking=False)


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_commit_that_takes_too_long_raises(make, kind):
    """The message stays in memory."""
    buffer = make()
    buffer.put(event(0))
    with pytest.raises(SpoolError, match="was not written within 0 s"):
        if kind == "async":
            asyncio.run(buffer.commit(0.0))
        else:
            buffer.commit_blocking(0.0)
    assert buffer.stats.pending == 1


def test_messages_of_a_failed_write_are_sent_before_later_ones(make):
    """Also before one that skipped the spool and lost its loop."""
    buffer = make()
    BrokenStore.broken = True
    buffer.put(event(0))
    buffer.claim_directly([event(1)], [], lambda: False)
    buffer.reclaim(dead_only=True)
    cycle(buffer)
    assert [one.body for one in buffer.queues["events"].unsent] == [event(0).body, event(1).body]


def test_a_message_that_could_fit_is_not_too_large(make):
    """The buffer is only full."""
    buffer = make(max_queue_bytes=7)
    buffer.put(event(0))
    buffer.put(event(1))
    assert buffer.stats.snapshot().dropped == {"queue_full": 1}


def test_who_takes_everything_waits_for_what_is_being_written(make, monkeypatch):
    """Not only for what comes after."""
    buffer = make()
    buffer.put(event(0))
    buffer.take_staged(respool=False)
    monkeypatch.setattr(buffer.writer, "wake", lambda **_: buffer.not_written())
    monkeypatch.setattr(spooled_buffer, "TAKE_TIMEOUT", 0.0)
    assert [one.body for one in take(buffer).records] == [event(0).body]


def test_what_is_being_written_is_pending(make):
    """With what was tracked since, and what is on disk."""
    buffer = make()
    for n in range(2):
        buffer.put(event(n))
    buffer.take_staged(respool=False)
    buffer.put(event(2))
    queue = buffer.queues["events"]
    assert (len(queue.writing), len(queue.staged)) == (2, 1)
    assert buffer.health().queues["events"].pending == buffer.stats.pending == 3
    buffer.not_written()


def test_nothing_is_counted_as_waiting_after_the_end(backlog):
    """It is in the spool, and still pending."""
    backlog.drop_all("closed", end_reason="closed")
    queue = backlog.queues["events"]
    assert (queue.bytes, queue.on_disk, len(queue.unsent)) == (0, 0, 0)
    assert (backlog.kept, backlog.stats.pending) == (5, 5)
    backlog._recount()
    assert backlog.stats.pending == 5


def test_a_batch_whose_owner_ended_stays_in_the_spool_at_the_end(make):
    """As what was never sent does."""
    buffer = make()
    write(buffer, event(0))
    assert buffer.take(Claim(lambda: False), everything=True) is not None
    buffer.drop_all("closed", end_reason="closed")
    assert (buffer.kept, buffer.queues["events"].in_flight) == (1, [])
    assert buffer.stats.snapshot().dropped == {}


def test_callers_do_not_wait_for_the_disk_for_messages_of_another_endpoint(make, monkeypatch):
    """Only for those that fill a batch."""
    waits = []
    buffer = make(max_batch_size=2)
    monkeypatch.setattr(buffer, "_wait_until_written", lambda: waits.append(1))
    buffer.attach(lambda: None, lambda: True)
    buffer.put(event(0))
    write(buffer, event(1))
    buffer.put(event(2, "people"))
    buffer.due()
    assert waits == []


def test_messages_after_the_end_of_the_process_are_dropped_with_that_reason(make):
    """A client that was closed raises instead."""
    buffer = make()
    buffer.drop_all("exit", end_reason="exit")
    buffer.put(event(0))
    assert buffer.stats.snapshot().dropped == {"exit": 1}


def test_the_first_message_wakes_the_writer(make):
    """The others of the same commit do not."""
    buffer = make()

    def is_awake():
        return buffer.writer._wakeup.acquire(blocking=False)

    buffer.put(event(0))
    assert is_awake()
    buffer.put(event(1))
    assert not is_awake()
    cycle(buffer)
    buffer.put(event(2))
    assert is_awake()


def test_a_signal_handler_that_tracks_amid_a_call_is_deferred(make):
    """Its message is accepted after that of the call."""
    buffer = make()

    tracked = []

    class Interrupted(dict):
        def __getitem__(self, name):
            if not tracked:
                tracked.append(buffer.put(event(1)))
            return super().__getitem__(name)

    buffer.queues = Interrupted(buffer.queues)
    buffer.put(event(0))
    buffer.queues = dict(buffer.queues)
    assert tracked == [True]
    assert [one.body for one in buffer.queues["events"].staged] == [event(0).body, event(1).body]
    assert buffer.stats.accepted == buffer.stats.pending == 2
