"""One file of a spool: blocks, their counts, and dead letters."""

import os
import sqlite3
from contextlib import closing

import pytest

from mixpanel._delivery.spool.store import (
    ATTEMPTED,
    DONE,
    DeadLetter,
    NewBlock,
    SpoolStore,
    block_id,
    is_damage,
    peek,
    place_of,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "0123456789abcdef.v1.db"


def new_block(place, *bodies, endpoint="events", **options):
    return NewBlock(block_id(endpoint, place), 1.7e9, list(bodies), **options)


def letter(key, body=b"{}", reason="rejected"):
    return DeadLetter(
        key, 1.8e9, "events", reason, "why", 1.7e9, repeatable=True, auth=None, extra=None,
        body=body,
    )  # fmt: skip


def test_blocks_are_read_as_they_were_written(path):
    """Bodies of any bytes, flags, credentials and extras come back after the file was closed."""
    bodies = [b'{"a": 1}', b"", b"\x00\n,", "ü".encode() * 5000]
    with closing(SpoolStore(path)) as store:
        store.add(new_block(7, *bodies, flags=b"\1\0\1\1", auth="token:t", extra="[1,2,3,4]"))
    with closing(SpoolStore(path)) as store:
        (block,) = store.read("events", 0, 100, 10**6)
        assert block.bodies == bodies
        assert (block.flags, block.auth, block.extra) == (b"\1\0\1\1", "token:t", "[1,2,3,4]")
        assert place_of(block.id) == 7
        assert store.integrity() == "ok"


def test_each_endpoint_is_read_in_its_own_order(path):
    """Pages continue after a place, and hold no other endpoint's messages."""
    with closing(SpoolStore(path)) as store:
        for place in (3, 1, 2):
            store.add(new_block(place, b"e%d" % place))
            store.add(new_block(place, b"p%d" % place, endpoint="people"))
        first = store.read("events", 0, 2, 10**6)
        assert [block.bodies for block in first] == [[b"e1"], [b"e2"]]
        assert [block.bodies for block in store.read("events", 2, 2, 10**6)] == [[b"e3"]]
        assert store.read("imports", 0, 2, 10**6) == []
        assert (store.last_place("people"), store.last_place("groups")) == (3, 0)


def test_counts_follow_every_change(path):
    """A start reads the number of messages without reading the messages."""
    with closing(SpoolStore(path)) as store:
        store.add(new_block(1, b"aa", b"bb", b"cc"))
        store.add(new_block(2, b"dd"))
        assert store.totals() == {"events": (4, 8)}
        store.set_state(block_id("events", 1), bytes([DONE, ATTEMPTED, 0]), 2)
        assert store.totals()["events"][0] == 3
        store.add(new_block(2, b"dd"))  # written again after an unclear failure
        assert store.totals()["events"][0] == 3
        store.remove([block_id("events", 1)])
        assert store.totals() == {"events": (1, 2)}
        store.remove([block_id("events", 2)])
        assert store.is_empty()


def test_a_failed_transaction_changes_nothing(path):
    """A dead letter and the removal of its message are written together, or not at all."""
    with closing(SpoolStore(path)) as store:
        store.add(new_block(1, b"a"))
        with pytest.raises(ZeroDivisionError), store.transaction():
            store.add_dead([letter("k")])
            store.remove([block_id("events", 1)])
            raise ZeroDivisionError
        assert store.totals() == {"events": (1, 1)}
        assert store.dead() == []


def test_dead_letters_are_bounded_and_kept_once(path):
    """The oldest are deleted first, and the same message is kept once."""
    with closing(SpoolStore(path)) as store, store.transaction():
        deleted = store.add_dead([letter(str(n), b"x" * 100) for n in range(10)], 550)
        store.add_dead([letter("9", b"x" * 100)], 550)
        assert deleted == 5
        assert [each.key for each in store.dead()] == ["5", "6", "7", "8", "9"]
        assert store.dead_totals() == (5, 500)
        store.remove_dead([store.dead()[0].id])
        assert store.dead_totals() == (4, 400)


def test_a_changed_byte_is_found(path):
    """A block whose checksum does not match has no bodies; the others are intact."""
    with closing(SpoolStore(path)) as store:
        store.add(new_block(1, b"secret-marker"))
        store.add(new_block(2, b"fine"))
    data = path.read_bytes()
    path.write_bytes(data.replace(b"secret-marker", b"secret-mXrker"))
    with closing(SpoolStore(path)) as store:
        damaged, fine = store.read("events", 0, 10, 10**6)
        assert damaged.bodies is None
        assert fine.bodies == [b"fine"]


@pytest.mark.parametrize(
    "content", [b"not a database at all" * 100, b"SQLite format 3\0" + bytes(4080)]
)
def test_a_file_that_is_no_database_is_damage(path, content):
    """It is set aside, not retried like a disk that is full."""
    path.write_bytes(content)
    with pytest.raises(sqlite3.DatabaseError) as caught:
        SpoolStore(path)
    assert is_damage(caught.value)


def test_a_database_of_another_program_is_not_used(path):
    """Nothing is written to a database with other tables, or of another format."""
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE t (x)")
    before = path.read_bytes()
    with pytest.raises(sqlite3.DatabaseError, match="another program"):
        SpoolStore(path)
    assert path.read_bytes()[100:] == before[100:]  # the header names the journal mode
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 9")
    with pytest.raises(sqlite3.DatabaseError, match="format is 9"):
        SpoolStore(path)


@pytest.mark.parametrize("error", ["disk I/O error", "database or disk is full", "readonly"])
def test_a_failing_disk_is_not_damage(error):
    """The file is kept, and written again when the disk works."""
    assert not is_damage(sqlite3.OperationalError(error))


def test_a_truncated_wal_loses_only_its_end(path, tmp_path):
    """What was committed before the cut is still there, and the file is intact."""
    store = SpoolStore(path)
    for place in range(1, 21):
        store.add(new_block(place, b"x" * 3000))
    copy = tmp_path / "copy.v1.db"
    wal = path.with_name(path.name + "-wal").read_bytes()
    copy.write_bytes(path.read_bytes())
    copy.with_name(copy.name + "-wal").write_bytes(wal[: len(wal) * 2 // 3 + 17])
    store.close()
    with closing(SpoolStore(copy)) as found:
        assert found.integrity() == "ok"
        places = [place_of(block.id) for block in found.read("events", 0, 100, 10**9)]
        assert places == list(range(1, len(places) + 1))
        assert 5 < len(places) < 20
        assert found.totals()["events"][0] == len(places)


def test_peeking_does_not_disturb_the_owner(path):
    """Counts of a file in use are read by a connection that cannot write."""
    with closing(SpoolStore(path)) as store:
        store.set_meta(pid=str(os.getpid()))
        store.add(new_block(1, b"a", b"b"))
        found = peek(path)
        assert found.totals == {"events": (2, 2)}
        assert found.oldest == 1.7e9
        assert found.meta == {"pid": str(os.getpid())}
        store.add(new_block(2, b"c"))
        assert store.totals() == {"events": (3, 3)}


def test_unused_pages_return_to_the_file_system(path):
    """After a backlog the file shrinks."""
    with closing(SpoolStore(path)) as store:
        for place in range(1, 50):
            store.add(new_block(place, b"x" * 100_000))
        store.remove([block_id("events", place) for place in range(1, 50)])
        assert store.free_pages() > 1000
        store.shrink(10_000)
        assert store.free_pages() == 0
