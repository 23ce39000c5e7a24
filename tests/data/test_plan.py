"""Which days a fetch takes, and in how many calls."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixpanel.data._fetch import plan
from mixpanel.data._fetch.plan import Chunk, Filters, as_day, chunks, days_of, ranges, today
from mixpanel.data.exceptions import ConfigError

JANUARY = days_of(date(2026, 1, 1), date(2026, 1, 31))
QUARTER = days_of(date(2026, 1, 1), date(2026, 3, 31))


def test_a_day_is_a_call_while_that_fits():
    """31 days and 60 calls: nothing is gained by longer chunks."""
    assert [(day, day) for day in JANUARY] == [
        (c.from_date, c.to_date) for c in chunks(JANUARY, calls=60)
    ]


def test_longer_chunks_when_days_outnumber_calls():
    """90 days and 60 calls: two days a call."""
    planned = chunks(QUARTER, calls=60)
    assert (len(planned), planned[0].days, planned[-1].days) == (45, 2, 2)


def test_chunks_never_span_a_gap():
    """Days that are there already are not asked for again."""
    days = [day for day in JANUARY if day.day != 10]
    assert all(date(2026, 1, 10) not in list(chunk) for chunk in chunks(days, calls=2))


@given(
    st.sets(st.integers(0, 400), min_size=1, max_size=200),
    st.integers(1, 60),
    st.none() | st.integers(1, 30),
)
def test_each_day_is_fetched_once(offsets, calls, size):
    """Whatever the gaps and the budget, no day is left out and none comes twice."""
    days = {date(2026, 1, 1) + timedelta(days=n) for n in offsets}
    planned = chunks(days, calls, size=size)
    fetched = [day for chunk in planned for day in chunk]
    assert sorted(days) == fetched
    assert size is None or max(chunk.days for chunk in planned) <= size
    if size is None:
        assert len(planned) <= max(calls, len(ranges(days)))


@pytest.mark.parametrize("value", ["2026-1-1", "20260101", "yesterday", "2026-02-30", "", 5, None])
def test_what_is_no_day_is_refused(value):
    """The error names the argument and shows how to write one."""
    with pytest.raises(ConfigError, match=r"from_date=.*2026-01-31"):
        as_day(value, "from_date")


def test_equal_filters_share_a_key():
    """Order of days has no part in it, and what is not set does not count."""
    assert Filters(events=("A",)).key() == Filters(events=("A",), where=None).key()
    assert Filters(events=("A",)).key() != Filters(events=("B",)).key()
    assert Filters().to_json() == "{}"


def test_the_projects_day_follows_its_time_zone():
    """Late in the evening UTC it is tomorrow in Tokyo."""
    evening = 1_767_222_000  # 2025-12-31 23:00 UTC
    assert today(None, evening) == date(2025, 12, 31)
    assert today("Asia/Tokyo", evening) == date(2026, 1, 1)
    with pytest.raises(ConfigError, match="Mars"):
        today("Mars/Olympus", evening)


def test_a_chunk_reads_as_a_person_writes_it():
    """One day is one date."""
    assert str(Chunk(date(2026, 1, 1), date(2026, 1, 1))) == "2026-01-01"
    assert str(Chunk(date(2026, 1, 1), date(2026, 1, 2))) == "2026-01-01 to 2026-01-02"


@given(st.sets(st.integers(0, 120), min_size=1, max_size=80), st.integers(0, 40))
def test_chunks_are_as_short_as_the_budget_allows(offsets, calls):
    """One day less a chunk would cost too many calls."""
    days = {date(2026, 1, 1) + timedelta(days=n) for n in offsets}
    size = max(chunk.days for chunk in chunks(days, calls))
    assert size == 1 or len(chunks(days, calls, size=size - 1)) > max(1, calls)


def test_thousands_of_gaps_are_planned_by_halving(monkeypatch):
    """The runs are counted a few times only, not once for each length of a chunk."""
    counted = []
    count = plan._calls
    monkeypatch.setattr(plan, "_calls", lambda *given: counted.append(1) or count(*given))
    days = [date(2000, 1, 1) + timedelta(days=2 * n) for n in range(3000)]
    assert len(chunks(days, calls=60)) == 3000
    assert len(counted) < 20


@pytest.mark.parametrize(
    ("zone", "hour"), [(None, 0), ("Asia/Tokyo", -9), ("America/Los_Angeles", 8)]
)
def test_a_day_ends_at_the_projects_midnight(zone, hour):
    """In UTC that is earlier in the east, later in the west."""
    midnight = datetime(2026, 1, 2, tzinfo=UTC)
    assert midnight + timedelta(hours=hour) == plan.end_of_day(date(2026, 1, 1), zone)


@pytest.mark.parametrize(
    ("received", "now", "good"),
    [
        (datetime(2026, 1, 7, 8, tzinfo=UTC), datetime(2026, 9, 1, tzinfo=UTC), True),
        (datetime(2026, 1, 7, 7, tzinfo=UTC), datetime(2026, 9, 1, tzinfo=UTC), False),
        (datetime(2026, 1, 6, tzinfo=UTC), datetime(2026, 1, 6, 12, tzinfo=UTC), True),
        (datetime(2099, 1, 6, tzinfo=UTC), datetime(2026, 1, 6, 12, tzinfo=UTC), False),
    ],
)
def test_what_was_received_holds_a_day_or_for_good(received, now, good):
    """For good when it came five days after its day was over; never from times to come."""
    assert plan.is_reusable(date(2026, 1, 1), received, now, "America/Los_Angeles") == good
