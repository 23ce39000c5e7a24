"""What is wrong with the records that arrive."""

import pytest

from mixpanel._page.entries import RequestRecord
from mixpanel._page.feed import Feed
from mixpanel._page.problems import KINDS
from tests.page.test_entries import event, exchange

NOW = 1_764_000_000
GOOD = {"time": NOW, "$insert_id": "i-1"}


def kinds(*records, lane="events", reason=None, status=200):
    """Return the kinds of problems that records have together."""
    feed = Feed()
    feed.add(exchange(), lane, [RequestRecord(each, reason) for each in records], status=status)
    return [each["kind"] for each in feed.state()["problems"]]


def test_an_old_event_is_a_problem_also_where_the_server_accepts_it():
    """Mixpanel's /track responds with success to an event that it discards; /import takes it."""
    old, recent = good(time=NOW - 6 * 86_400), good(time=NOW - 4 * 86_400)
    feed = Feed()
    for lane, record in (("events", recent), ("imports", old), ("events", old)):
        feed.add(exchange(received_at=NOW), lane, [RequestRecord(record, None)], status=200)
    (problem,) = feed.state()["problems"]
    assert problem["kind"] == "too-old"
    assert [each["text"] for each in problem["examples"]] == [
        "'Order Paid' happened 6 days before it was sent"
    ]


def good(name="Order Paid", **properties):
    return event(name, **{**GOOD, **properties})


def test_a_good_event_has_no_problem():
    """Nor do many of them."""
    assert [] == kinds(good(), good("Signed Up"), good(amount=1), good(amount=2.5))


@pytest.mark.parametrize(
    ("records", "kind"),
    [
        ([event(time=NOW)], "insert-id"),
        ([good(time=NOW / 1000)], "time-unit"),
        ([good(time=NOW * 10**6)], "time-unit"),
        ([good(paid_at=NOW), good(paid_at=NOW * 1000)], "time-unit"),
        ([good(text="x" * 256)], "too-long"),
        ([good(amount=1), good(amount="1")], "mixed-types"),
        ([good("Order Paid"), good("order_paid")], "similar-names"),
        ([good("Subscription Started"), good("Subscription Startd")], "similar-names"),
        ([good(distinct_id="undefined")], "banned-id"),
        ([good(distinct_id="[object Object]")], "banned-id"),
    ],
)
def test_each_problem_is_found(records, kind):
    """In one event, or by comparing several."""
    assert [kind] == kinds(*records)


@pytest.mark.parametrize(
    ("reason", "status", "kind"),
    [
        ("'properties.time' is invalid: older than five days, use /import", 200, "too-old"),
        ("'properties.time' is invalid: more than one hour in the future", 200, "future"),
        ("'properties.distinct_id' is invalid: 'null' is not allowed as an id", 200, "banned-id"),
        ("Invalid credentials", 401, "credentials"),
        ("request exceeds max limit of 2000 records", 413, "too-large"),
        ("Project exceeded rate limits. Retry with exponential backoff.", 429, "rate"),
        ("record must be an object", 200, "rejected"),
    ],
)
def test_a_rejection_has_a_kind(reason, status, kind):
    """By its reason, else by the status of the response."""
    assert [kind] == kinds(good(), reason=reason, status=status)


def test_a_request_that_cannot_be_read_has_a_kind():
    """It has no records."""
    assert ["unreadable"] == kinds(None, reason="invalid JSON: EOF", status=400)


@pytest.mark.parametrize(
    "names",
    [
        ("Step 1 Completed", "Step 2 Completed"),
        ("Signed In", "Signed Up"),
        ("Flight Departed", "Flight Arrived"),
        ("$identify", "$Identify"),
    ],
)
def test_names_that_are_meant_to_differ_are_no_problem(names):
    """Numbers, other words, and the names of Mixpanel itself."""
    assert [] == kinds(*map(good, names))


def test_the_usual_type_is_no_problem():
    """Only the values that differ from most of the others are."""
    feed = Feed()
    values = [1, 2, 3, "4", 5]
    judged = [RequestRecord(good(amount=value)) for value in values]
    entries = feed.add(exchange(), "events", judged)
    assert [False, False, False, True, False] == [bool(each.notes) for each in entries]
    (problem,) = feed.state()["problems"]
    assert "amount is a string here and a number in others" == problem["examples"][0]["text"]
    assert entries[3].id == problem["examples"][0]["id"]


def test_a_message_with_a_number_as_timestamp_is_a_problem():
    """Customer data platforms take ISO 8601."""
    message = {"type": "track", "event": "E", "userId": "u", "messageId": "m", "timestamp": NOW}
    assert ["time-unit"] == kinds(message, lane="customerio")


def test_problems_have_a_meaning_and_a_remedy():
    """Errors come first, and examples are few."""
    feed = Feed()
    judged = [RequestRecord(event(f"E{n}", time=NOW, text="x" * 300)) for n in range(20)]
    feed.add(exchange(), "events", judged)
    feed.add(exchange(), "events", [RequestRecord(None, "no")], status=400)
    found = feed.state()["problems"]
    assert ["error", "warning", "warning"] == [each["severity"] for each in found]
    assert [1, 20, 20] == [each["count"] for each in found]
    assert max(len(each["examples"]) for each in found) == 5
    assert all(each["meaning"] and each["remedy"] for each in found)
    assert {each["kind"] for each in found} <= set(KINDS)


@pytest.mark.parametrize("reported_first", [True, False])
@pytest.mark.parametrize("lane", ["events", "profiles"])
def test_a_message_that_is_reported_and_arrives_is_counted_once(reported_first, lane):
    """A program attached to the emulator that it sends to causes no problem twice."""
    feed = Feed()
    record = event(time=NOW, text="x" * 300)
    if lane == "profiles":
        record = {"$distinct_id": "u", "$set": {"text": "x" * 300}}
    for via in ("app.py (7)", None) if reported_first else (None, "app.py (7)"):
        feed.add(exchange(received_at=NOW), lane, [RequestRecord(record)], status=200, via=via)
    assert {1} == {each["count"] for each in feed.state()["problems"]}
    assert all(each.notes for each in feed.entries())
    feed.add(exchange(received_at=NOW), lane, [RequestRecord(record)], status=200)
    assert {2} == {each["count"] for each in feed.state()["problems"]}


@pytest.mark.slow
def test_comparing_is_bounded():
    """Names of events and properties without end need no more memory."""
    feed = Feed()
    for n in range(30):
        judged = [RequestRecord(good(f"{n} {m} x", **{f"p{n}-{m}": 1})) for m in range(200)]
        feed.add(exchange(), "events", judged)
    problems = feed._problems
    assert len(problems._names) <= 1000
    assert len(problems._types) <= 2000


@pytest.mark.slow
def test_counting_is_bounded():
    """Messages with a problem without end need no more memory."""
    feed = Feed()
    for n in range(0, 24_000, 200):
        judged = [RequestRecord(event(f"{m} x", time=NOW)) for m in range(n, n + 200)]
        feed.add(exchange(received_at=NOW), "events", judged)
    assert len(feed._problems._counted) <= 20_000
