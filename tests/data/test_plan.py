"""Plans of fetches: which days, in how many calls."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixpanel.data._fetch import plan
from mixpanel.data._fetch.plan import Chunk, Filters, as_day, chunks, days_of, ranges, today
from mixpanel.data._fetch.query import EventQuery
from mixpanel.data.analysis.period import Period
from mixpanel.data.exceptions import ConfigError

JANUARY = days_of(date(2026, 1, 1), date(2026, 1, 31))
QUARTER = days_of(date(2026, 1, 1), date(2026, 3, 31))


def test_each_day_is_one_call_if_the_rate_limit_allows():
    """31 days and 60 calls: longer chunks would gain nothing."""
    assert [(day, day) for day in JANUARY] == [
        (c.from_date, c.to_date) for c in chunks(JANUARY, calls=60)
    ]


def test_chunks_have_several_days_if_there_are_fewer_calls():
    """90 days and 60 calls: two days for each call."""
    planned = chunks(QUARTER, calls=60)
    assert (len(planned), planned[0].days, planned[-1].days) == (45, 2, 2)


def test_chunks_never_span_a_gap():
    """Days that were fetched already are not fetched again."""
    days = [day for day in JANUARY if day.day != 10]
    assert all(date(2026, 1, 10) not in list(chunk) for chunk in chunks(days, calls=2))


@pytest.mark.slow
@given(
    st.sets(st.integers(0, 400), min_size=1, max_size=200),
    st.integers(1, 60),
    st.none() | st.integers(1, 30),
)
def test_each_day_is_in_exactly_one_chunk(offsets, calls, size):
    """Whatever the gaps and the rate limit, no day is left out or repeated."""
    days = {date(2026, 1, 1) + timedelta(days=n) for n in offsets}
    planned = chunks(days, calls, size=size)
    fetched = [day for chunk in planned for day in chunk]
    assert sorted(days) == fetched
    assert size is None or max(chunk.days for chunk in planned) <= size
    if size is None:
        assert len(planned) <= max(calls, len(ranges(days)))


WRONG_DATES = ["2026-1-1", "20260101", "2026-02-30", "", 5, None, "7d", "-7", "-7h", "+7d", "-d"]


@pytest.mark.parametrize("value", [*WRONG_DATES, "- 7d", "tomorrow", "-1.5d", "-٣d"])
def test_invalid_dates_are_refused(value):
    """The error names the argument and shows how to write a date."""
    with pytest.raises(ConfigError, match=r"from_date=.*2026-01-31.*today, yesterday, -7d"):
        as_day(value, "from_date")


@pytest.mark.parametrize(
    ("value", "day"),
    [
        ("today", "2026-03-31"),
        (" Yesterday ", "2026-03-30"),
        ("-0d", "2026-03-31"),
        ("-7d", "2026-03-24"),
        ("-4w", "2026-03-03"),
        ("-1m", "2026-02-28"),
        ("-3M", "2025-12-31"),
        ("-25m", "2024-02-29"),
        ("-2y", "2024-03-31"),
    ],
)
def test_days_may_be_relative_to_today(monkeypatch, value, day):
    """A month ago is the same day of that month, or its last."""
    monkeypatch.setattr(plan, "today", lambda _zone: date(2026, 3, 31))
    assert day == str(as_day(value, "from_date"))


def test_relative_days_are_those_of_the_time_zone(monkeypatch):
    """It is tomorrow already in the east."""
    zones = []
    monkeypatch.setattr(plan, "today", lambda zone: zones.append(zone) or date(2026, 3, 31))
    as_day("-1d", "from_date", "Asia/Tokyo")
    assert ["Asia/Tokyo"] == zones


def test_fetches_and_reports_resolve_days_in_their_own_time_zone(monkeypatch):
    """That of the argument `project_timezone`, or `timezone`."""
    zones = []
    monkeypatch.setattr(plan, "today", lambda zone: zones.append(zone) or date(2026, 3, 31))
    query = EventQuery.create(from_date="-1d", to_date="today", project_timezone="Asia/Tokyo")
    assert (date(2026, 3, 30), date(2026, 3, 31)) == query.days
    period = Period.checked("-1m", "yesterday", "Asia/Tokyo")
    assert ("2026-02-28", "2026-03-30") == (str(period.from_date), str(period.to_date))
    assert {"Asia/Tokyo"} == set(zones)


@pytest.mark.parametrize("value", ["-999999999d", "-999999999m", "-2100y"])
def test_a_relative_day_before_the_calendar_is_refused(value):
    """Python's dates begin with the year 1."""
    with pytest.raises(ConfigError, match="before the year 1"):
        as_day(value, "from_date")


def test_equal_filters_share_a_key():
    """A filter that is not set does not change the key."""
    assert Filters(events=("A",)).key() == Filters(events=("A",), where=None).key()
    assert Filters(events=("A",)).key() != Filters(events=("B",)).key()
    assert Filters().to_json() == "{}"


def test_today_is_the_date_in_the_projects_time_zone():
    """Late in the evening in UTC it is tomorrow in Tokyo."""
    evening = 1_767_222_000  # 2025-12-31 23:00 UTC
    assert today(None, evening) == date(2025, 12, 31)
    assert today("Asia/Tokyo", evening) == date(2026, 1, 1)
    with pytest.raises(ConfigError, match="Mars"):
        today("Mars/Olympus", evening)


def test_a_chunk_prints_its_range_of_dates():
    """A single day is one date."""
    assert str(Chunk(date(2026, 1, 1), date(2026, 1, 1))) == "2026-01-01"
    assert str(Chunk(date(2026, 1, 1), date(2026, 1, 2))) == "2026-01-01 to 2026-01-02"


@pytest.mark.slow
@given(st.sets(st.integers(0, 120), min_size=1, max_size=80), st.integers(0, 40))
def test_chunks_are_as_short_as_the_rate_limit_allows(offsets, calls):
    """One day less per chunk would need too many calls."""
    days = {date(2026, 1, 1) + timedelta(days=n) for n in offsets}
    size = max(chunk.days for chunk in chunks(days, calls))
    assert size == 1 or len(chunks(days, calls, size=size - 1)) > max(1, calls)


def test_thousands_of_gaps_are_planned_by_halving(monkeypatch):
    """Calls are counted a few times, not once for each possible length of a chunk."""
    counted = []
    count = plan._calls
    monkeypatch.setattr(plan, "_calls", lambda *given: counted.append(1) or count(*given))
    days = [date(2000, 1, 1) + timedelta(days=2 * n) for n in range(3000)]
    assert len(chunks(days, calls=60)) == 3000
    assert len(counted) < 20


@pytest.mark.parametrize(
    ("zone", "hour"), [(None, 0), ("Asia/Tokyo", -9), ("America/Los_Angeles", 8)]
)
def test_a_day_ends_at_midnight_in_the_projects_time_zone(zone, hour):
    """In UTC that is earlier in the east and later in the west."""
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
def test_a_received_day_is_reusable_for_a_day_or_for_good(received, now, good):
    """For good when received five days after its end; never when received in the future."""
    assert plan.is_reusable(date(2026, 1, 1), received, now, "America/Los_Angeles") == good
