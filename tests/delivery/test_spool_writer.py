"""The writer of a spool, cycle by cycle: what it writes, adopts, reports and leaves behind."""

import os
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest

from mixpanel._delivery.spool import blocks, spooled_buffer, writer
from mixpanel._delivery.spool.folder import claim_orphan, spool_files
from mixpanel._delivery.spool.store import ATTEMPTED, DONE, WAITING, SpoolStore, peek
from mixpanel.credentials import ApiSecret
from mixpanel.exceptions import SpoolError
from tests.delivery import manual_spool
from tests.delivery.manual_spool import (
    break_page_with,
    commits,
    cycle,
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
from tests.delivery.test_spool_model import BrokenStore, ManualWriter

make = manual_spool.make
FULL = "database or disk is full"


class Time:
    """A clock that moves when a test says so."""

    def __init__(self):
        self.seconds = 1000.0

    def monotonic(self):
        return self.seconds


@pytest.fixture
def time(monkeypatch):
    found = Time()
    monkeypatch.setattr(writer, "time", found)
    return found


def is_awake(buffer):
    """Return True if the writer's thread has something to do, and let it wait again."""
    return buffer.writer._wakeup.acquire(blocking=False)


def reported(buffer, monkeypatch):
    """Return the list that gets the errors which `on_error` is called with."""
    found = []
    monkeypatch.setattr(buffer.stats, "report", lambda error, records: found.append(error))
    return found


def files(buffer):
    """Return the files in the folder of a destination, without that of this process."""
    own = buffer.writer._files.own
    return [path for path in spool_files(buffer.writer.folder) if path != own.store.path]


# ---- adopting -----------------------------------------------------------------------------------


def test_a_file_without_an_owner_is_adopted_before_a_new_message_is_written(make):
    """So that new messages are sent behind earlier ones, and are in a file of their own."""
    path = leave(make(), event(0), event(1))
    buffer = make()
    buffer.put(event(2))
    for _ in range(2):
        cycle(buffer)
    assert [each.store.path for each in buffer.writer._files.adopted] == [path]
    assert buffer.writer._files.own.store.path != path
    assert [one.body for one in buffer.queues["events"].unsent] == [event(n).body for n in range(3)]
    assert stored(buffer) == 1
    settle_all(buffer)
    cycle(buffer)
    assert not path.exists()
    assert (stored(buffer), buffer.disk_bytes, buffer.bytes) == (0, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_earlier_files_are_sent_in_the_order_of_their_messages(make, monkeypatch, limit):
    """All of them, also if only some are open at a time; new messages come last."""
    monkeypatch.setattr(writer, "MAX_ADOPTED", limit)
    kept = []
    for n in range(3):
        kept.append(make())
        kept[-1].put(event(n))
        cycle(kept[-1])
    for age, each in enumerate(kept):
        path = leave(each)
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE block SET created = ?", (1.7e9 + age,))
        os.utime(path, (9 - age, 9 - age) if limit == 3 else (age, age))
    buffer = make()
    cycle(buffer)
    assert buffer.stats.pending == len(buffer.writer._files.adopted) == limit
    buffer.put(event(3))
    sent = []
    for _ in range(20):
        is_awake(buffer)
        while (batch := take(buffer)) is not None:
            sent += [one.body for one in batch.records]
            delivered(buffer, batch)
        cycle(buffer)
    assert set(sent) == {event(n).body for n in range(4)}
    if limit == 3:
        assert sent == [event(n).body for n in range(4)]
    assert buffer.writer._files.adopted == files(buffer) == []
    assert buffer.adopted_bytes == 0


def test_files_of_ended_processes_are_looked_for_from_time_to_time(make, time, monkeypatch):
    """Not at each message."""
    looks = []
    monkeypatch.setattr(writer, "orphans", lambda *args, **more: looks.append(1) or [])
    buffer = make()
    cycle(buffer)
    cycle(buffer)
    time.seconds += writer.ADOPT_EVERY - 1
    cycle(buffer)
    assert len(looks) == 1
    time.seconds += 1
    cycle(buffer)
    assert len(looks) == 2


def test_a_file_that_is_in_use_is_left_alone(make):
    """Its own process sends its messages."""
    first = make()
    write(first, event(0))
    second = make()
    cycle(second)
    assert (second.stats.pending, second.writer._files.adopted) == (0, [])
    assert first.writer._files.own.store.is_there()


def test_a_file_that_another_user_could_have_planted_is_looked_at_once(make, time, monkeypatch):
    """The others are adopted."""
    path = leave(make(), event(0))
    planted = path.with_name("0" * 16 + ".v1.db")
    planted.write_bytes(b"")
    second = path.with_name("second")
    second.hardlink_to(planted)
    os.utime(planted, (0, 0))  # the oldest
    claimed = []

    def claim(each):
        claimed.append(each)
        return claim_orphan(each)

    monkeypatch.setattr(writer, "claim_orphan", claim)
    buffer = make()
    cycle(buffer)
    assert claimed == [planted, path]
    settle_all(buffer)
    for _ in range(3):
        cycle(buffer)
        time.seconds += writer.ADOPT_EVERY
    assert claimed == [planted, path]
    assert buffer.stats.snapshot().delivered == 1


def test_a_file_that_a_full_disk_cannot_lock_is_adopted_later(make, time, monkeypatch):
    """The lock is a file too."""
    leave(make(), event(0))
    problems = [OSError(28, "No space left on device")]

    def claim(path):
        if problems:
            raise problems.pop()
        return claim_orphan(path)

    monkeypatch.setattr(writer, "claim_orphan", claim)
    buffer = make()
    cycle(buffer)
    assert (buffer.stats.pending, buffer.writer.error) == (0, None)
    time.seconds += writer.ADOPT_EVERY
    cycle(buffer)
    assert buffer.stats.pending == 1


def test_a_process_that_ends_at_once_adopts_nothing(make):
    """It has only time to write what it accepted."""
    path = leave(make(), event(0))
    buffer = make()
    buffer.put(event(1))
    buffer.drop_all("closed", end_reason="closed")
    assert buffer.stats.pending == 1
    assert [peek(each).totals for each in spool_files(path.parent)] == [{"events": (1, 7)}] * 2


def test_an_earlier_file_that_cannot_be_opened_is_set_aside_and_the_next_adopted(make, monkeypatch):
    """Its lock is released, and the damage reported once."""
    path = leave(make(), event(0))
    damaged = path.with_name("0" * 16 + ".v1.db")
    damaged.write_bytes(b"not a database" * 100)
    os.utime(damaged, (0, 0))
    buffer = make()
    errors = reported(buffer, monkeypatch)
    cycle(buffer)
    assert [each.store.path for each in buffer.writer._files.adopted] == [path]
    assert (buffer.writer.quarantined, len(errors)) == (1, 1)
    assert errors[0].needs_attention
    assert "is damaged" in str(errors[0])
    assert not damaged.exists()
    assert not damaged.with_name("0" * 16 + ".lock").exists()
    assert buffer.writer.error is None


def test_a_disk_that_fails_while_a_file_is_adopted_leaves_it_for_later(make, time, monkeypatch):
    """It is neither set aside nor locked; new messages are written meanwhile."""
    path = leave(make(), event(0))

    class Failing(BrokenStore):
        def __init__(self, file, durability):
            if file == path and BrokenStore.broken:
                raise sqlite3.OperationalError("disk I/O error")
            super().__init__(file, durability)

    monkeypatch.setattr(writer, "SpoolStore", Failing)
    BrokenStore.broken = True
    buffer = make()
    cycle(buffer)
    assert buffer.writer.error is not None
    lock = claim_orphan(path)
    assert lock is not None
    lock.release()
    BrokenStore.broken = False
    time.seconds += writer.ADOPT_EVERY
    cycle(buffer)
    assert buffer.writer.error is None
    assert buffer.stats.pending == 1


def test_damage_that_is_found_while_reading_ends_the_use_of_that_file_only(make, monkeypatch):
    """It is closed, renamed, unlocked and counted; the file of this process stays."""
    path = leave(make(), *map(large, range(4)))
    break_page_with(path, b'{"n":1,')
    buffer = make()
    errors = reported(buffer, monkeypatch)
    write(buffer, event(9))
    own = buffer.writer._files.own
    assert own.store.totals() == {"events": (1, 7)}
    assert buffer.writer._files.adopted == []
    assert (buffer.adopted_bytes, len(errors)) == (0, 1)
    assert not path.with_name(f"{path.name.partition('.')[0]}.lock").exists()
    assert is_awake(buffer)
    cycle(buffer)
    assert buffer.writer._files.own is own
    assert buffer.stats.snapshot().dropped == {"corrupt": 4}


def test_what_memory_holds_of_a_damaged_file_is_written_again_block_by_block(make, monkeypatch):
    """None replaces another; they come before messages of this process, also after a restart."""
    monkeypatch.setattr(blocks, "MAX_BLOCK_MESSAGES", 1)
    leave(make(), *map(event, range(3)))
    buffer = make()
    buffer.put(event(3))
    for _ in range(2):
        cycle(buffer)
    [other] = buffer.writer._files.adopted
    buffer.writer._set_aside(buffer, other, sqlite3.DatabaseError("malformed"))
    assert buffer.memory_only == 3
    assert commits(buffer)
    assert [one.body for one in buffer.queues["events"].unsent] == [event(n).body for n in range(4)]
    found = buffer.writer._files.own.store.read("events", 0, 10, 10**6)
    assert [block.bodies for block in found] == [[event(n).body] for n in range(4)]
    settle_all(buffer)
    assert (stored(buffer), buffer.stats.pending, buffer.disk_bytes) == (0, 0, 0)


def test_a_message_that_was_written_late_is_kept_in_memory(make, monkeypatch):
    """Its place on disk was passed already: a page that is read later does not have it."""
    monkeypatch.setattr(blocks, "MAX_BLOCK_MESSAGES", 1)
    monkeypatch.setattr(spooled_buffer, "LOADED", 3)
    leave(make(), event(0))
    buffer = make()
    for n in range(1, 5):
        buffer.put(event(n))
    for _ in range(2):
        cycle(buffer)
    queue = buffer.queues["events"]
    assert (len(queue.unsent), queue.on_disk) == (5, 0)
    write(buffer, event(5))
    assert queue.on_disk == 1
    [other] = buffer.writer._files.adopted
    buffer.writer._set_aside(buffer, other, sqlite3.DatabaseError("malformed"))
    cycle(buffer)
    assert (len(queue.unsent), queue.on_disk, buffer.memory_only) == (5, 1, 0)
    settle_all(buffer)
    stats = buffer.stats.snapshot()
    assert (stats.delivered, stats.dropped, stats.pending) == (6, {}, 0)


def test_a_set_aside_file_is_closed(make):
    """It may be renamed then, also where open files cannot be; its changes are forgotten."""
    buffer = make()
    write(buffer, event(0))
    own = buffer.writer._files.own
    buffer.writer._changes.touched[take(buffer).records[0].block] = None
    buffer.writer._set_aside(buffer, own, sqlite3.DatabaseError("malformed"))
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        own.store.totals()
    assert buffer.writer._files.own is None
    cycle(buffer)
    assert not buffer.writer._changes


def test_settled_messages_leave_the_earlier_file_at_once(make):
    """Those of a block that is not finished are marked in it, so that no copy is sent."""
    first = make()
    write(first, *map(event, range(3)))
    path = leave(first)
    buffer = make(max_batch_size=2)
    cycle(buffer)
    batch = take(buffer)
    delivered(buffer, batch)
    cycle(buffer)
    with closing(SpoolStore(path)) as store:
        [found] = store.read("events", 0, 10, 10**6)
    assert (found.state, found.remaining) == (bytes([DONE, DONE, WAITING]), 1)
    leave(buffer)
    third = make()
    cycle(third)
    assert [one.body for one in third.queues["events"].unsent] == [event(2).body]
    assert third.queues["events"].unsent[0].index == 2


def test_a_change_is_written_once(make):
    """Not again with each later commit."""
    buffer = make()
    for n in range(2):
        buffer.put(event(n, "people", repeatable=False))
    cycle(buffer)
    batch = take(buffer)
    assert buffer.mark_attempted_blocking(batch.records, 0.0) is None
    assert not buffer.writer._changes
    delivered(buffer, batch)
    assert not buffer.writer._changes
    cycle(buffer)
    assert not buffer.writer._changes
    assert stored(buffer) == 0


def test_a_mark_that_comes_while_a_damaged_file_is_set_aside_fails(make, monkeypatch):
    """It is in no file then."""
    buffer = make()
    write(buffer, event(0, "people", repeatable=False))
    batch = take(buffer)
    futures = []

    def malformed(*args):
        if not futures:
            futures.append(writer.SpoolWriter.mark(buffer.writer, batch.records))
        raise sqlite3.DatabaseError("database disk image is malformed")

    monkeypatch.setattr(ManualWriter, "mark", writer.SpoolWriter.mark)
    monkeypatch.setattr(buffer.writer._files.own.store, "set_state", malformed)
    first = buffer.writer.mark(batch.records)
    cycle(buffer)
    assert "malformed" in str(first.exception())
    assert "starting a new file" in str(futures[0].exception())
    assert buffer.writer.error is None
    buffer.finish(batch)


def test_a_new_file_that_is_damaged_at_once_degrades_to_memory(make, monkeypatch):
    """As on a disk that returns other bytes than were written."""

    class Malformed(BrokenStore):
        def __init__(self, file, durability):
            raise sqlite3.DatabaseError("database disk image is malformed")

    buffer = make()
    with monkeypatch.context() as patch:
        patch.setattr(writer, "SpoolStore", Malformed)
        write(buffer, event(0))
    assert "malformed" in str(buffer.writer.error)
    assert (len(buffer.queues["events"].unsent), buffer.writer.quarantined) == (1, 0)
    assert commits(buffer)
    assert stored(buffer) == 1


def test_a_mark_in_a_file_that_proves_damaged_fails(make, monkeypatch):
    """The update waits until it is in another file."""
    leave(make(), event(0, "people", repeatable=False))
    buffer = make()
    cycle(buffer)
    [other] = buffer.writer._files.adopted

    def malformed(*args):
        raise sqlite3.DatabaseError("database disk image is malformed")

    monkeypatch.setattr(other.store, "set_state", malformed)
    batch = take(buffer)
    error = buffer.mark_attempted_blocking(batch.records, 0.0)
    assert isinstance(error, SpoolError)
    assert buffer.writer._files.adopted == []
    cycle(buffer)
    assert buffer.mark_attempted_blocking(batch.records, 0.0) is None
    [found] = buffer.writer._files.own.store.read("people", 0, 10, 10**6)
    assert found.state == bytes([ATTEMPTED])
    buffer.finish(batch)


# ---- reading ------------------------------------------------------------------------------------


def test_an_update_that_was_being_sent_is_given_up_after_a_restart(make, monkeypatch):
    """The others of its block are sent; with `repeat_ambiguous`, all are."""
    first = make()
    for n in range(3):
        first.put(event(n, "people", repeatable=n != 1))
    cycle(first)
    batch = take(first)
    first.mark_attempted_blocking(batch.records, 0.0)
    own = first.writer._files.own
    first.writer.leave_to_parent()  # it is killed
    assert first.writer._files.all() == []
    assert writer._inherited.pop()[0] == [own]
    [path] = spool_files(first.writer.folder)
    path.with_name(f"{path.name.partition('.')[0]}.lock").unlink()
    buffer = make()
    errors = []
    monkeypatch.setattr(
        buffer, "announce", lambda *args: errors.append((args[0][0].body, *args[1:]))
    )
    cycle(buffer)
    assert [one.body for one in buffer.queues["people"].unsent] == [event(0).body, event(2).body]
    assert buffer.stats.snapshot().dropped == {"ambiguous": 1}
    [(body, fate, reason, error)] = errors
    assert (body, fate, reason) == (event(1).body, "dropped", "ambiguous")
    assert "1 update(s) were being sent" in str(error)
    assert error.endpoint == "people"
    own.store.close()


@pytest.mark.parametrize("has_credentials", [False, True])
def test_a_message_whose_secret_is_gone_is_sent_only_with_other_credentials(
    make, monkeypatch, has_credentials
):
    """Without, it becomes a dead letter that says what to do."""
    leave(make(), event(0, "imports", auth=ApiSecret("secret")))
    buffer = make()
    if has_credentials:
        monkeypatch.setattr(buffer.writer, "options", replace(buffer.options, has_credentials=True))
    errors = []
    monkeypatch.setattr(buffer.stats, "report_drop", lambda *args: errors.append(args[0]))
    cycle(buffer)
    cycle(buffer)
    if has_credentials:
        [one] = buffer.queues["imports"].unsent
        assert one.auth is None
        assert buffer.stats.snapshot().dropped == {}
    else:
        assert buffer.stats.snapshot().dropped == {"no_credentials": 1}
        [letter] = buffer.writer._files.own.store.dead()
        assert letter.reason == "no_credentials"
        assert "use a service account" in letter.error


def test_a_damaged_block_is_reported_and_leaves_a_dead_letter(make, monkeypatch):
    """With the number of its messages; the writer deletes it at once."""
    path = leave(make(), event(0), event(1))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE block SET crc = crc + 1 WHERE id = (SELECT min(id) FROM block)")
    buffer = make()
    errors = reported(buffer, monkeypatch)
    cycle(buffer)
    assert is_awake(buffer)
    cycle(buffer)
    assert buffer.stats.snapshot().dropped == {"corrupt": 1}
    assert ["a block of the spool is damaged" in str(error) for error in errors] == [True]
    [letter] = buffer.writer._files.own.store.dead()
    assert (letter.reason, letter.body) == ("corrupt", b'{"damaged": 1}')
    [other] = buffer.writer._files.adopted
    assert other.store.totals() == {"events": (1, 7)}


def test_a_block_whose_additional_data_cannot_be_read_is_damaged(make):
    """The others are sent."""
    path = leave(make(), event(0), event(1))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE block SET extra = '[' WHERE id = (SELECT min(id) FROM block)")
    buffer = make()
    cycle(buffer)
    assert buffer.stats.snapshot().dropped == {"corrupt": 1}
    assert [one.body for one in buffer.queues["events"].unsent] == [event(1).body]


def test_messages_are_read_in_pages_while_memory_has_space(make, monkeypatch):
    """One page of each endpoint in a cycle; the writer stays awake for the next one."""
    monkeypatch.setattr(writer, "PAGE_MESSAGES", 1)
    monkeypatch.setattr(spooled_buffer, "LOADED", 2)
    leave(make(), *[event(n) for n in range(3)], event(9, "people"))
    buffer = make()
    cycle(buffer)
    assert (len(buffer.queues["events"].unsent), len(buffer.queues["people"].unsent)) == (1, 1)
    assert is_awake(buffer)
    cycle(buffer)
    assert len(buffer.queues["events"].unsent) == 2
    is_awake(buffer)
    cycle(buffer)
    assert (len(buffer.queues["events"].unsent), buffer.queues["events"].on_disk) == (2, 1)
    assert not is_awake(buffer)


def test_senders_are_called_when_there_is_more_to_send(make):
    """Not after each look at the disk."""
    buffer = make()
    ready = []
    buffer.attach(lambda: ready.append(1), lambda: False)
    cycle(buffer)
    assert ready == []
    write(buffer, event(0))
    assert ready == [1]
    cycle(buffer)
    assert ready == [1]
    settle_all(buffer)
    second = make()
    second.attach(lambda: ready.append(2), lambda: False)
    leave(buffer, event(1))
    cycle(second)
    assert ready[-1] == 2


def test_outcomes_and_new_messages_are_written_together(make):
    """The writer is woken for each."""
    buffer = make()
    write(buffer, event(0))
    batch = take(buffer)
    records = batch.unsettled
    buffer.settle(batch, records, "rejected")
    is_awake(buffer)
    buffer.announce(records, "rejected")
    assert is_awake(buffer)
    buffer.finish(batch)
    buffer.put(event(1))
    assert is_awake(buffer)
    cycle(buffer)
    assert (stored(buffer), buffer.writer.dead_letters) == (1, 1)
    settle_all(buffer)
    assert (stored(buffer), buffer.writer.dead_letters) == (0, 1)


def test_senders_are_called_for_one_endpoint_if_another_has_less_than_it_should(make):
    """The counts of a file may be higher than what it has."""
    path = leave(make(), event(0), event(1, "people"))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TRIGGER block_removed")
        connection.execute("DELETE FROM block WHERE id = (SELECT max(id) FROM block)")
    buffer = make()
    ready = []
    buffer.attach(lambda: ready.append(1), lambda: False)
    cycle(buffer)
    assert ready == [1]
    assert buffer.stats.snapshot().dropped == {"corrupt": 1}


# ---- a disk that fails --------------------------------------------------------------------------


def test_too_little_free_space_is_like_a_full_disk(make, time, monkeypatch):
    """The floor itself is enough; it is checked once a second, and each time while it fails."""
    buffer = make(min_free_bytes=100)
    free, looks = 100, []
    monkeypatch.setattr(writer, "free_bytes", lambda folder: looks.append(folder) or free)
    buffer.put(event(0))
    assert commits(buffer)
    assert commits(buffer)
    assert looks == [buffer.writer.folder]
    free = 99
    assert commits(buffer)
    time.seconds += writer.CHECK_SPACE_EVERY
    buffer.put(event(1))
    assert not commits(buffer)
    assert "only 99 bytes are free, and 100 must stay free" in str(buffer.writer.error)
    assert buffer.memory_only == 1
    free = None  # it is unknown
    assert commits(buffer)
    assert (buffer.memory_only, stored(buffer)) == (0, 2)


def test_a_full_disk_still_deletes_what_is_settled(make, monkeypatch):
    """Only that makes space; messages on disk are still read."""
    monkeypatch.setattr(spooled_buffer, "LOADED", 1)
    buffer = make(min_free_bytes=100)
    free = 100
    monkeypatch.setattr(writer, "free_bytes", lambda folder: free)
    monkeypatch.setattr(writer, "CHECK_SPACE_EVERY", -1.0)
    for n in range(2):
        write(buffer, event(n))
    assert buffer.queues["events"].on_disk == 1
    free = 0
    batch = take(buffer)
    delivered(buffer, batch)
    cycle(buffer)
    assert buffer.writer.error is not None
    assert stored(buffer) == 1
    assert [one.body for one in buffer.queues["events"].unsent] == [event(1).body]


def test_a_full_disk_that_cannot_delete_either_still_sends(make, monkeypatch):
    """Even a deletion needs space."""
    monkeypatch.setattr(spooled_buffer, "LOADED", 1)
    monkeypatch.setattr(writer, "CHECK_SPACE_EVERY", -1.0)
    buffer = make()
    for n in range(2):
        write(buffer, event(n))
    monkeypatch.setattr(writer, "free_bytes", lambda folder: 0)
    batch = take(buffer)
    delivered(buffer, batch)
    BrokenStore.broken = True
    cycle(buffer)
    assert buffer.writer.error is not None
    assert [one.body for one in buffer.queues["events"].unsent] == [event(1).body]


def test_a_failing_disk_is_reported_once_until_it_was_quiet(make, time, monkeypatch):
    """A disk that fails again and again does not call `on_error` each time."""
    buffer = make()
    errors = reported(buffer, monkeypatch)
    cycle(buffer)

    def fail_and_recover():
        fail_to_write(buffer, event(0))
        assert buffer.writer.error is not None
        BrokenStore.broken = False
        cycle(buffer)
        assert buffer.writer.error is None

    fail_and_recover()
    assert [each.needs_attention for each in errors] == [True]
    assert "(disk I/O error): messages are kept in memory until it can" in str(errors[0])
    time.seconds += writer.QUIET - 1
    fail_and_recover()
    assert len(errors) == 1
    time.seconds += writer.QUIET
    fail_and_recover()
    assert len(errors) == 2
    assert buffer.writer._files.own.store.meta()["recovered"]


def test_a_disk_that_failed_is_tried_again_after_a_while(make, time, monkeypatch):
    """Until then messages are sent from memory; closing tries at once."""
    monkeypatch.setattr(writer, "RETRY_EVERY", 5.0)
    buffer = make()
    cycle(buffer)
    fail_to_write(buffer, event(0))
    assert buffer.writer.wait_seconds() == 5.0
    BrokenStore.broken = False
    time.seconds += 4.9
    buffer.put(event(1))
    assert not commits(buffer)
    assert (len(buffer.queues["events"].unsent), stored(buffer)) == (2, 0)
    time.seconds += 0.1
    assert commits(buffer)
    assert stored(buffer) == 2
    assert buffer.writer.wait_seconds() == writer.ADOPT_EVERY
    fail_to_write(buffer, event(2))
    BrokenStore.broken = False
    path = leave(buffer)
    assert peek(path).totals == {"events": (3, 21)}


def test_messages_stay_in_memory_while_a_failed_disk_is_left_alone(make, time, monkeypatch):
    """They are sent from there, whatever else is on disk."""
    monkeypatch.setattr(writer, "RETRY_EVERY", 5.0)
    buffer = make()
    cycle(buffer)
    fail_to_write(buffer, event(0))
    buffer.adopted("events", 1, 7, 0.0)
    cycle(buffer)
    assert [one.body for one in buffer.queues["events"].unsent] == [event(0).body]
    buffer.lost("events", 1, "corrupt", on_disk=True)


def test_senders_are_called_for_what_only_memory_has(make):
    """Delivery continues while the disk fails."""
    buffer = make()
    cycle(buffer)
    ready = []
    buffer.attach(lambda: ready.append(1), lambda: False)
    fail_to_write(buffer, event(0))
    assert ready == [1]
    assert len(buffer.queues["events"].unsent) == 1


def test_a_message_that_is_settled_while_it_is_written_is_deleted(make, monkeypatch):
    """Its request ended during the commit."""
    buffer = make()
    cycle(buffer)
    fail_to_write(buffer, event(0))
    batch = take(buffer)
    BrokenStore.broken = False
    store = buffer.writer._files.own.store
    add = store.add

    def settle_and_add(block):
        add(block)
        buffer.settle(batch, batch.unsettled, "delivered")

    monkeypatch.setattr(store, "add", settle_and_add)
    cycle(buffer)
    buffer.finish(batch)
    cycle(buffer)
    assert stored(buffer) == 0
    assert (buffer.memory_only, buffer.unspooled, buffer.unspooled_bytes) == (0, 0, 0)
    assert buffer.stats.snapshot().balanced


def test_an_unexpected_error_degrades_to_memory(make, monkeypatch):
    """It ends neither the writer nor the delivery."""
    buffer = make()
    errors = reported(buffer, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(writer, "new_blocks", None)
        buffer.put(event(0))
        assert not commits(buffer)
    assert len(buffer.queues["events"].unsent) == 1
    assert len(errors) == 1
    assert commits(buffer)
    assert stored(buffer) == 1


def test_an_update_in_flight_from_memory_is_written_as_attempted(make):
    """After a crash it is ambiguous: it may have been applied."""
    buffer = make(max_batch_size=2)
    cycle(buffer)
    BrokenStore.broken = True
    buffer.put(event(0, "people", repeatable=False))
    write(buffer, event(1, "people"))
    batch = take(buffer)
    BrokenStore.broken = False
    is_awake(buffer)
    cycle(buffer)
    assert is_awake(buffer)
    [found] = buffer.writer._files.own.store.read("people", 0, 10, 10**6)
    assert found.state == bytes([ATTEMPTED, WAITING])
    assert (buffer.memory_only, buffer.unspooled, buffer.unspooled_bytes) == (0, 0, 0)
    delivered(buffer, batch)
    cycle(buffer)
    assert stored(buffer) == 0


# ---- the file of this process -------------------------------------------------------------------


def test_a_file_says_whose_it_is(make):
    """For `mp spool ls`."""
    buffer = make()
    cycle(buffer)
    meta = buffer.writer._files.own.store.meta()
    assert (meta["pid"], meta["durability"]) == (str(os.getpid()), "process")
    assert set(meta) == {"pid", "host", "opened", "durability"}


def test_a_file_that_was_removed_is_replaced_by_one_with_what_memory_holds(make):
    """No message is lost, none is counted twice, and nothing is set aside."""
    buffer = make()
    write(buffer, event(0))
    gone = buffer.writer._files.own.store.path
    gone.unlink()
    cycle(buffer)
    assert buffer.writer._files.own.store.path != gone
    assert (stored(buffer), buffer.writer.quarantined) == (1, 0)
    assert buffer.stats.pending == 1


def test_unused_pages_return_to_the_file_system_when_nothing_waits_on_disk(make, monkeypatch):
    """`health` shows the size of the file and its WAL."""
    monkeypatch.setattr(writer, "SHRINK_PAGES", 3)
    buffer = make()
    for n in range(8):
        buffer.put(large(n))
        cycle(buffer)
    store = buffer.writer._files.own.store
    assert buffer.writer.file_bytes == store.file_bytes()
    pages = []
    while (batch := take(buffer)) is not None:
        delivered(buffer, batch)
        cycle(buffer)
        pages.append(store.free_pages())
    for _ in range(3):
        cycle(buffer)
    assert pages[0] > 3
    assert store.free_pages() <= 3


def test_a_process_without_messages_leaves_no_file(make):
    """One with dead letters does, and the next one counts them."""
    buffer = make()
    write(buffer, event(0))
    settle_all(buffer)
    path = leave(buffer)
    assert list(path.parent.glob("*.db*")) == list(path.parent.glob("*.lock")) == []
    first = make()
    write(first, event(0))
    rejected(first)
    path = leave(first)
    assert path.exists()
    second = make()
    cycle(second)
    assert second.writer.dead_letters == 1


def test_closing_resolves_all_who_wait(make):
    """Those who come too late get an error."""
    buffer = make()
    cycle(buffer)
    future, amid = buffer.writer.request_commit(), buffer.writer.request_commit()
    buffer.writer._waiters.remove(amid)
    buffer.writer._reports.append(lambda: buffer.writer._waiters.append(amid))
    leave(buffer)
    assert buffer.writer._files.all() == []
    assert future.exception() is None
    assert "the client is closed" in str(amid.exception())
    late = buffer.writer.request_commit()
    assert "the client is closed" in str(late.exception())
    assert "the client is closed" in str(buffer.writer.mark([]).exception())


@pytest.mark.slow
def test_a_closed_writer_starts_no_thread(make, monkeypatch):
    """An open one starts one, unless it has one."""
    started = []
    monkeypatch.setattr(
        writer.native_threads, "start_thread", lambda run, name: started.append(name)
    )
    buffer = make()

    class Thread:
        alive = True

        def is_alive(self):
            return self.alive

    writer.SpoolWriter._start(buffer.writer)
    assert started == ["mixpanel-spool"]
    buffer.writer._thread = Thread()
    writer.SpoolWriter._start(buffer.writer)
    assert started == ["mixpanel-spool"]
    Thread.alive = False
    writer.SpoolWriter._start(buffer.writer)
    assert started == ["mixpanel-spool"] * 2
    leave(buffer, event(0))
    writer.SpoolWriter._start(buffer.writer)
    assert started == ["mixpanel-spool"] * 2


def test_closing_waits_for_a_thread_that_works_only_so_long(make, monkeypatch):
    """It raises nothing: what was not written in time counts as dropped."""
    buffer = make()

    class Thread:
        def is_alive(self):
            return True

    buffer.writer._thread = Thread()
    monkeypatch.setattr(spooled_buffer, "CLOSE_TIMEOUT", 0.0)
    buffer.put(event(0))
    buffer.drop_all("closed", end_reason="closed")
    assert buffer.stats.snapshot().dropped == {"closed": 1}


def test_a_collected_writer_wakes_its_thread():
    """Also if it is awake already."""
    wakeup = writer.native_threads.new_lock()
    wakeup.acquire()
    for _ in range(2):
        writer._release(writer._Files(), wakeup)
        assert not wakeup.locked()


def test_the_thread_ends_when_its_writer_is_closed(make):
    """And not before."""
    buffer = make()
    assert buffer.writer.run_cycle() is True
    buffer.writer._closing = True
    assert buffer.writer.run_cycle() is False


def test_a_process_that_never_tracked_makes_no_folder(make, tmp_path):
    """Closing writes nothing then."""
    buffer = make()
    buffer.drop_all("closed", end_reason="closed")
    assert not (tmp_path / "spool").exists()


def test_a_process_that_ends_at_once_writes_what_it_accepted(make):
    """Also if it had no file yet."""
    buffer = make()
    buffer.put(event(0))
    buffer.drop_all("closed", end_reason="closed")
    [path] = spool_files(buffer.writer.folder)
    assert peek(path).totals == {"events": (1, 7)}
    assert (buffer.stats.pending, buffer.stats.snapshot().dropped) == (1, {})


def test_a_callback_of_the_writer_cannot_wait_for_it(make):
    """It would wait for itself."""
    buffer = make()
    buffer.writer.run_cycle()
    future = buffer.writer.request_commit()
    assert "cannot wait for the spool" in str(future.exception())


def test_messages_gather_for_a_commit_unless_a_caller_waits(make, time):
    """Only so long, however often the writer is woken."""
    buffer = make()
    waits = []

    class Wakeup:
        def acquire(self, timeout):
            waits.append(timeout)
            time.seconds += writer.GROUP_WINDOW / 2

        def release(self):
            pass

    buffer.writer._wakeup = Wakeup()
    time.seconds = 0.0
    buffer.writer.gather()
    assert waits == [writer.GROUP_WINDOW, writer.GROUP_WINDOW / 2]
    waits.clear()
    buffer.writer.wake(at_once=True)
    buffer.writer.gather()
    assert waits == []
    cycle(buffer)
    assert buffer.writer._at_once is False


def test_a_file_of_this_process_that_is_damaged_is_replaced_at_once(make, monkeypatch):
    """By one with all that memory holds; the damaged one is kept."""
    buffer = make()
    write(buffer, event(0))
    own = buffer.writer._files.own

    def malformed(block):
        raise sqlite3.DatabaseError("database disk image is malformed")

    monkeypatch.setattr(own.store, "add", malformed)
    buffer.put(event(1))
    is_awake(buffer)
    cycle(buffer)
    assert is_awake(buffer)
    assert (buffer.writer.quarantined, buffer.writer.error) == (1, None)
    assert commits(buffer)
    assert buffer.writer._files.own is not own
    assert (stored(buffer), buffer.stats.pending, buffer.memory_only) == (2, 2, 0)


@pytest.mark.parametrize(("problem", "degrades"), [(FULL, False), ("disk I/O error", True)])
def test_a_full_disk_does_not_have_to_take_the_facts_about_the_owner(
    make, monkeypatch, problem, degrades
):
    """Another error of the disk counts."""

    def fails(self, **values):
        raise sqlite3.OperationalError(problem)

    monkeypatch.setattr(BrokenStore, "set_meta", fails)
    buffer = make()
    cycle(buffer)
    assert (buffer.writer.error is not None) is degrades
