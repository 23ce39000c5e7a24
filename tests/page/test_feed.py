"""The feed: what is kept, what a reader gets, and what is a duplicate."""

import json
import threading

import pytest

from mixpanel._page.entries import RequestRecord
from mixpanel._page.feed import Feed
from mixpanel._page.stream import Stream
from tests.page.test_entries import event, exchange


def add(feed, *names, key=None, **options):
    judged = [RequestRecord(event(name), key=key) for name in names]
    return feed.add(exchange(), "events", judged, **options)


def names(entries):
    return [each.event for each in entries]


class Clock:
    """A clock that a test moves."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def frames(data: bytes):
    """Return server-sent events as (event, id, data)."""
    found = []
    for part in data.decode().split("\n\n"):
        fields = dict(line.partition(": ")[::2] for line in part.splitlines())
        if "data" in fields:
            found.append((fields.get("event"), fields.get("id"), json.loads(fields["data"])))
    return found


def test_the_newest_entries_are_kept():
    """Older ones are dropped, and a reader that was too slow learns how many it lost."""
    feed = Feed(size=3)
    add(feed, *"abcde")
    found, lost = feed.after(0)
    assert (["c", "d", "e"], 2) == (names(found), lost)
    assert ([], 0) == feed.after(found[-1].seq)


def test_of_a_request_with_more_records_than_are_kept_all_are_counted():
    """And all that were rejected are looked at."""
    feed = Feed(size=3)
    judged = [RequestRecord(event("a"), "no" if n == 0 else None, key=n % 4) for n in range(6)]
    added = feed.add(exchange(), "events", judged)
    assert [0, 3, 4, 5] == [each.index for each in added]
    assert (["a"] * 3, 3) == (names(feed.after(0)[0]), feed.after(0)[1])
    totals = feed.state()["totals"]
    assert (1, 4, 1) == (totals["rejected"], totals["accepted"], totals["duplicate"])
    assert ["rejected"] == [each["kind"] for each in feed.state()["problems"]][:1]


def test_large_records_push_out_older_ones():
    """The last one is kept, however large."""
    feed = Feed(max_bytes=1000)
    add(feed, "a", size=600)
    add(feed, "b", size=600)
    assert ["b"] == names(feed.entries())
    add(feed, "c", size=6000)
    assert ["c"] == names(feed.entries())


def test_a_reader_continues_where_it_was():
    """By the id of the last frame that it got."""
    feed = Feed()
    add(feed, "a")
    stream = Stream(feed, dict)
    reset, (_, number, data), _ = frames(stream.poll())
    assert "reset" == reset[0]
    assert ["a"] == [each["event"] for each in data["entries"]]
    add(feed, "b")
    again = Stream(feed, dict, last_event_id=number)
    (_, _, data), _ = frames(again.poll())
    assert ["b"] == [each["event"] for each in data["entries"]]


@pytest.mark.parametrize("number", ["", "nonsense", "other.1", "9", ".", "x.-1", f"x.{10**30}"])
def test_an_id_of_another_feed_begins_anew(number):
    """As after the restart of the server."""
    feed = Feed()
    add(feed, "a")
    reset, (_, _, data), _ = frames(Stream(feed, dict, last_event_id=number).poll())
    assert "reset" == reset[0]
    assert 1 == len(data["entries"])


def test_entries_come_in_one_frame_however_many():
    """5,000 entries a second are ten frames."""
    feed = Feed(size=1000)
    stream = Stream(feed, dict)
    stream.poll()
    add(feed, *map(str, range(500)))
    ((_, _, data),) = frames(stream.poll())
    assert 500 == len(data["entries"])
    assert b"" == stream.poll()


def test_a_quiet_stream_has_a_heartbeat():
    """Proxies and browsers would close it otherwise."""
    clock = Clock()
    stream = Stream(Feed(), dict, clock=clock)
    stream.poll()
    clock.now += 14
    assert b"" == stream.poll()
    clock.now += 1
    assert stream.poll().startswith(b":")


def test_counts_come_at_most_once_a_second_and_only_changed_ones():
    """They are as large as many entries."""
    clock, feed = Clock(), Feed()
    stream = Stream(feed, lambda: {"seen": feed.seq}, clock=clock)
    stream.poll()
    add(feed, "a")
    assert [None] == [each[0] for each in frames(stream.poll())]
    clock.now += 1
    assert [("state", None, {"seen": 1})] == frames(stream.poll())
    clock.now += 1
    assert b"" == stream.poll()


def test_a_reader_may_choose_what_it_gets():
    """By lane, verdict and event, with records or without."""
    feed = Feed()
    add(feed, "a", "b")
    stream = Stream(feed, dict, conditions={"event": ["b", "c"]}, full=True)
    _, (_, _, data), _ = frames(stream.poll())
    assert [event("b")] == [each["record"] for each in data["entries"]]


def test_a_changed_entry_comes_once_more():
    """With the same id, and after all others."""
    feed = Feed()
    first, second = add(feed, "a", "b", verdict="queued")
    seq = feed.seq
    feed.change(first, verdict="accepted", status=200)
    found, lost = feed.after(seq)
    assert ([first], 0) == (found, lost)
    assert [first.id, second.id] == [each.id for each in feed.entries()]


def test_hostile_text_stays_inside_its_frame():
    """Line ends, halves of characters and control characters are escaped."""
    feed = Feed()
    hostile = "\n\ndata: x\r\u2028\ud83d\u202e\0"
    add(feed, hostile)
    data = Stream(feed, dict).poll()
    assert data.isascii()
    assert hostile == frames(data)[1][2]["entries"][0]["event"]


def test_records_with_one_key_are_copies():
    """The first is accepted, unless it was not stored."""
    feed = Feed()
    add(feed, "a", key=1, verdict="faulted", stored=False)
    add(feed, "a", key=1)
    add(feed, "a", key=1)
    assert ["faulted", "accepted", "duplicate"] == [each.verdict for each in feed.entries()]


def test_a_copy_of_what_a_broken_request_stored_is_a_duplicate():
    """As the client repeats it."""
    feed = Feed()
    add(feed, "a", key=1, verdict="faulted")
    (copy,) = add(feed, "a", key=1)
    assert "duplicate" == copy.verdict


def test_counts_are_by_second():
    """Of the last minute, and in total."""
    clock = Clock()
    feed = Feed(clock=clock)
    add(feed, "a", "b", size=100)
    clock.now += 1
    feed.add(exchange(), "events", [RequestRecord(None, "no")])
    state = feed.state()
    assert [2, 0] == state["rates"]["accepted"][-2:]
    assert [0, 1] == state["rates"]["rejected"][-2:]
    assert (2, 1, 100) == tuple(state["totals"][each] for each in ("accepted", "rejected", "bytes"))
    clock.now += 60
    assert 60 * [0] == feed.state()["rates"]["accepted"]


def test_clearing_is_seen_by_readers():
    """Entries, counts, problems and known keys are forgotten."""
    feed = Feed()
    add(feed, "a", key=1)
    stream = Stream(feed, feed.state)
    stream.poll()
    feed.clear()
    (kind, _, _), (other, _, state) = frames(stream.poll())
    assert ("reset", "state") == (kind, other)
    assert ([], 0) == (state["problems"], state["kept"])
    (entry,) = add(feed, "a", key=1)
    assert "accepted" == entry.verdict
    assert 0 == feed.after(0)[1]


def test_threads_may_add_and_read_at_the_same_time():
    """Each reader gets each entry once, in order."""
    feed = Feed(size=10_000)
    threads = [
        threading.Thread(target=lambda: [add(feed, "a", "b") for _ in range(200)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    seen, seq = [], 0
    while any(thread.is_alive() for thread in threads) or feed.after(seq)[0]:
        found, _ = feed.after(seq)
        seen += [each.id for each in found]
        seq = found[-1].seq if found else seq
    for thread in threads:
        thread.join()
    assert list(range(1, 1601)) == seen
