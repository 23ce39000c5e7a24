"""What `mp spool` reads from a spool and changes in it."""

import sqlite3
from contextlib import closing

import pytest

from mixpanel import ConfigurationError
from mixpanel._delivery.spool import maintenance
from mixpanel._delivery.spool.folder import Destination, create_file, destination_folder, lock_of
from mixpanel._delivery.spool.maintenance import (
    destinations,
    export,
    files_of,
    inventory,
    purge,
    remove_damaged,
    retry,
)
from mixpanel._delivery.spool.store import (
    DONE,
    WAITING,
    DeadLetter,
    NewBlock,
    SpoolStore,
    block_id,
    peek,
    place_of,
)

THERE = Destination("mixpanel", ("there",), {"origin": "https://there"})
OTHER = Destination("segment", ("other",), {"origin": "https://other"})


@pytest.fixture
def spool(tmp_path):
    return tmp_path / "spool"


def block(place, *bodies, endpoint="events", created=1.7e9, **options):
    return NewBlock(block_id(endpoint, place), created, list(bodies), **options)


def letter(key, body=b'{"n":1}', reason="rejected", endpoint="events", **options):
    row = {"repeatable": True, "auth": None, "extra": None, **options}
    return DeadLetter(key, 1.8e9, endpoint, reason, "why", 1.7e9, body=body, **row)


def fill(spool, *blocks, dead=(), destination=THERE):
    """Leave a file, as a process that has ended; return its path."""
    path, lock = create_file(destination_folder(spool, destination))
    with closing(SpoolStore(path)) as store:
        for each in blocks:
            store.add(each)
        store.add_dead(list(dead))
        store.set_meta(pid="7")
    lock.release()
    return path


def damage(path):
    """Replace a database by something else."""
    path.write_bytes(b"not a database" * 100)


# ---- listing ------------------------------------------------------------------------------------


def test_only_folders_with_a_description_are_destinations(spool):
    """By name; others in the folder are not the spool's."""
    inner = [destination_folder(spool, each) for each in (OTHER, THERE)]
    (spool / "else").mkdir()
    (spool / "file").write_text("")
    assert destinations(spool) == sorted(inner)
    assert destinations(str(spool)) == sorted(inner)


def test_a_folder_that_is_missing_or_not_safe_is_refused(spool, tmp_path):
    """With what to do."""
    with pytest.raises(ConfigurationError, match="there is no spool at"):
        destinations(spool)
    inner = destination_folder(spool, THERE)
    inner.chmod(0o722)
    with pytest.raises(ConfigurationError, match="can be written by other users"):
        destinations(spool)
    inner.chmod(0o700)
    spool.chmod(0o722)
    with pytest.raises(ConfigurationError, match="can be written by other users"):
        destinations(spool)


def test_a_file_is_listed_with_what_is_in_it(spool):
    """Whose it is, if its process has ended, what waits since when, and its size."""
    path = fill(
        spool,
        block(1, b"12345", b"678", created=1.6e9),
        block(1, b"9", endpoint="people"),
        dead=[letter("a")],
    )
    [found] = inventory(spool)
    assert found == maintenance.SpoolFile(
        THERE.folder_name,
        "mixpanel",
        "https://there",
        path,
        "waiting",
        None,
        {"events": 2, "people": 1},
        9,
        1.6e9,
        1,
        path.stat().st_size,
        None,
    )
    assert not lock_of(path).path.exists()


def test_a_file_in_use_is_listed_with_its_process(spool):
    """It is not disturbed; its WAL belongs to its size."""
    path = fill(spool, block(1, b"1"))
    lock = lock_of(path)
    assert lock.acquire()
    with closing(SpoolStore(path)) as store:
        store.add(block(2, b"2"))
        [found] = files_of(path.parent)
        assert (found.state, found.pid, found.messages) == ("in use", "7", {"events": 2})
        assert found.file_bytes == store.file_bytes() > path.stat().st_size
    damage(path)
    [found] = files_of(path.parent)
    assert (found.state, found.pid, found.messages) == ("in use", None, {})
    assert "not a database" in found.error
    lock.release()
    [found] = files_of(path.parent)
    assert (found.state, found.file_bytes) == ("damaged", 1400)
    assert "not a database" in found.error


def test_a_file_that_cannot_be_read_now_is_not_called_damaged(spool, monkeypatch):
    """The disk may fail, or another program lock it."""
    fill(spool, block(1, b"1"))

    def busy(path):
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(maintenance, "peek", busy)
    [found] = inventory(spool)
    assert (found.state, found.error) == ("waiting", "database is locked")


def test_files_that_were_set_aside_and_newer_ones_are_listed(spool):
    """With their sizes; a folder without a description has an unknown owner."""
    folder = destination_folder(spool, THERE)
    (folder / "0123456789abcdef.v1.db.corrupt-1").write_bytes(b"12")
    (folder / "0123456789abcdef.v2.db").write_bytes(b"123")
    found = {each.state: each for each in files_of(folder)}
    assert {state: each.file_bytes for state, each in found.items()} == {"damaged": 2, "newer": 3}
    assert {each.origin for each in found.values()} == {"https://there"}
    (folder / "destination.json").write_text("{}")
    assert {(each.service, each.origin) for each in files_of(folder)} == {("unknown", "")}


def test_a_planted_file_is_listed_but_not_opened(spool):
    """A hard link could be another user's."""
    path = fill(spool, block(1, b"1"))
    path.with_name("link").hardlink_to(path)
    [found] = inventory(spool)
    assert found.state == "in use"


# ---- exporting ----------------------------------------------------------------------------------


def exported(spool, **options):
    skipped = []
    rows = list(export(spool, **{"dead": False, "waiting": False, **options}, skipped=skipped))
    return rows, skipped


def test_messages_are_exported_in_order_without_the_settled_ones(spool, monkeypatch):
    """From all endpoints and pages; what is not JSON is exported as text."""
    monkeypatch.setattr(maintenance, "PAGE_MESSAGES", 1)
    path = fill(
        spool,
        block(1, b'{"n":1}', b'{"n":2}'),
        block(2, b"\xff"),
        block(1, b'{"n":3}', endpoint="batch"),
        dead=[letter("a")],
    )
    with closing(SpoolStore(path)) as store:
        store.set_state(block_id("events", 1), bytes([DONE, WAITING]), 1)
    rows, skipped = exported(spool, waiting=True)
    common = {"service": "mixpanel", "origin": "https://there", "created": 1.7e9}
    assert rows == [
        {**common, "endpoint": "events", "message": {"n": 2}},
        {**common, "endpoint": "events", "message": "\ufffd"},
        {**common, "endpoint": "batch", "message": {"n": 3}},
    ]
    assert skipped == []
    assert exported(spool) == ([], [])


def test_dead_letters_are_exported_with_their_reason(spool):
    """And the time at which they were given up."""
    fill(spool, block(1, b"{}"), dead=[letter("a"), letter("b", b'{"n":2}', "expired")])
    rows, _ = exported(spool, dead=True)
    assert [(each["message"], each["reason"]) for each in rows] == [
        ({"n": 1}, "rejected"), ({"n": 2}, "expired"),
    ]  # fmt: skip
    assert rows[0] == {
        "service": "mixpanel", "origin": "https://there", "endpoint": "events", "created": 1.7e9,
        "message": {"n": 1}, "reason": "rejected", "error": "why", "given_up": 1.8e9,
    }  # fmt: skip


def test_a_damaged_block_is_left_out_of_an_export(spool):
    """The others are not."""
    path = fill(spool, block(1, b"1"), block(2, b"2"))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE block SET crc = crc + 1 WHERE id = (SELECT min(id) FROM block)")
    rows, _ = exported(spool, waiting=True)
    assert [each["message"] for each in rows] == [2]


def test_files_in_use_and_damaged_ones_are_skipped_and_named(spool):
    """The others are exported; no file and no lock is left by an empty one."""
    used, bad, empty, good = (fill(spool, block(1, b"%d" % n)) for n in range(4))
    fill(spool, block(1, b"7"), destination=OTHER)
    lock = lock_of(used)
    assert lock.acquire()
    damage(bad)
    with closing(SpoolStore(empty)) as store:
        store.clear()
    rows, skipped = exported(spool, waiting=True)
    assert sorted(each["message"] for each in rows) == [3, 7]
    [kept] = used.parent.glob("*.corrupt-*")
    assert sorted(skipped) == sorted([used, kept])
    assert (empty.exists(), bad.exists(), good.exists(), used.exists()) == (
        False, False, True, True,
    )  # fmt: skip
    lock.release()
    assert list(spool.rglob("*.lock")) == []


def test_a_disk_that_fails_is_not_taken_for_damage(spool, monkeypatch):
    """The file stays where it is, and its lock is released."""
    path = fill(spool, block(1, b"1"))

    def failing(each):
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(maintenance, "SpoolStore", failing)
    with pytest.raises(sqlite3.OperationalError):
        exported(spool, waiting=True)
    assert path.exists()
    assert list(spool.rglob("*.lock")) == []


# ---- changing -----------------------------------------------------------------------------------


def test_dead_letters_go_back_into_the_queue_with_all_that_they_had(spool):
    """Behind what waits there; their age counts from when they were tracked."""
    path = fill(
        spool,
        block(5, b'{"n":0}', endpoint="people"),
        dead=[
            letter("a", b'{"n":1}', endpoint="people", repeatable=False, auth="token:t"),
            letter("b", b'{"n":2}', endpoint="people", extra="[1]"),
            letter("c", b'{"n":3}', endpoint="events"),
        ],
    )
    skipped = []
    assert retry(spool, reason=None, skipped=skipped) == {"rejected": 3}
    assert skipped == []
    with closing(SpoolStore(path)) as store:
        found = store.read("people", 0, 10, 10**6)
        assert [(place_of(each.id), each.bodies) for each in found] == [
            (5, [b'{"n":0}']), (6, [b'{"n":1}']), (7, [b'{"n":2}']),
        ]  # fmt: skip
        assert [(each.flags, each.auth, each.extra, each.created) for each in found[1:]] == [
            (b"\0", "token:t", None, 1.7e9), (b"\1", None, "[1]", 1.7e9),
        ]  # fmt: skip
        [event] = store.read("events", 0, 10, 10**6)
        assert (event.flags, event.bodies) == (None, [b'{"n":3}'])
        assert store.dead() == []


def test_only_dead_letters_with_the_wanted_reason_go_back(spool):
    """Those of damaged blocks never do: they have no messages."""
    path = fill(
        spool,
        dead=[
            letter("a", reason="expired"),
            letter("b", reason="ambiguous"),
            letter("c", reason="corrupt"),
            letter("d", reason="expired", endpoint="unknown"),
        ],
    )
    assert retry(spool, reason="expired", skipped=[]) == {"expired": 1}
    with closing(SpoolStore(path)) as store:
        assert [each.key for each in store.dead()] == ["b", "c", "d"]
    assert retry(spool, reason=None, skipped=[]) == {"ambiguous": 1}
    with closing(SpoolStore(path)) as store:
        assert [each.key for each in store.dead()] == ["c", "d"]


@pytest.mark.slow
def test_more_dead_letters_than_a_page_go_back(spool):
    """And are deleted."""
    path = fill(spool, dead=[letter(str(n), b"%d" % n) for n in range(1001)])
    assert retry(spool, reason=None, skipped=[]) == {"rejected": 1001}
    assert (peek(path).totals["events"][0], peek(path).dead[0]) == (1001, 0)
    assert retry(spool, reason=None, skipped=[]) == {}


def test_purging_deletes_dead_letters_and_only_if_wanted_what_waits(spool):
    """A file that is empty then is removed; those in use are skipped."""
    path = fill(spool, block(1, b"1", b"2"), block(1, b"3", endpoint="people"), dead=[letter("a")])
    used = fill(spool, block(1, b"4"), dead=[letter("b")])
    other = fill(spool, dead=[letter("c")], destination=OTHER)
    lock = lock_of(used)
    assert lock.acquire()
    skipped = []
    assert purge(spool, waiting=False, skipped=skipped) == {"dead": 2}
    assert skipped == [used]
    assert (peek(path).totals["events"][0], peek(path).dead[0]) == (2, 0)
    assert not other.exists()
    assert purge(spool, waiting=True, skipped=[]) == {"dead": 0, "waiting": 3}
    assert not path.exists()
    assert peek(used).dead[0] == 1
    lock.release()
    assert purge(spool, waiting=True, skipped=[]) == {"dead": 1, "waiting": 1}
    assert [each.name for each in used.parent.iterdir()] == ["destination.json"]


def test_damaged_files_are_removed_with_their_companions(spool):
    """In all destinations; they are counted once."""
    for each in (THERE, OTHER):
        folder = destination_folder(spool, each)
        for name in ("a.db.corrupt-1", "b.db.corrupt-1", "a.db.corrupt-1-wal"):
            (folder / name).write_bytes(b"x")
    path = fill(spool, block(1, b"1"))
    assert remove_damaged(spool) == 4
    assert remove_damaged(spool) == 0
    assert path.exists()
    assert list(spool.rglob("*corrupt*")) == []
