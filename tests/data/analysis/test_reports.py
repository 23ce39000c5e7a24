"""Reports by hand: what each says of a few events, and what is refused."""

import re
from datetime import UTC, date, datetime, timedelta

import pytest

from mixpanel import data
from mixpanel.data.analysis.expressions import Names, compile_condition, compile_expression
from mixpanel.data.analysis.flows import DROPOFF, OTHER, flows
from mixpanel.data.analysis.funnel import Step, funnel
from mixpanel.data.analysis.numeric import (
    segmentation_average,
    segmentation_numeric,
    segmentation_sum,
)
from mixpanel.data.analysis.period import Period
from mixpanel.data.analysis.retention import frequency, retention
from mixpanel.data.analysis.segmentation import event_counts, property_counts, segmentation
from mixpanel.data.analysis.source import EventSource
from mixpanel.data.exceptions import ConfigError, ExpressionError
from mixpanel.data.expressions import prop
from tests.data.analysis.conftest import FETCHED, KEPT
from tests.data.analysis.reference import EPOCH, Event

JANUARY = Period.checked("2026-01-01", "2026-01-03")


def at(text):
    """Return milliseconds of a time in UTC."""
    return (datetime.fromisoformat(text).replace(tzinfo=UTC) - EPOCH) // timedelta(milliseconds=1)


def event(name, time, user="u1", insert_id=None, **properties):
    return Event(name, at(time), user, insert_id, properties)


SHOP = [
    event("Opened", "2026-01-01 10:00", "u1", plan="team"),
    event("Opened", "2026-01-01 11:00", "u2", plan="free"),
    event("Opened", "2026-01-02 10:00", "u1", plan="free"),
    event("Paid", "2026-01-01 12:00", "u1", amount=10),
    event("Paid", "2026-01-02 12:00", "u1", amount=30),
    event("Paid", "2026-01-03 12:00", "u3", amount="30"),
]


@pytest.fixture(autouse=True)
def _shop(tables):
    tables.put(SHOP)


def test_unique_users_have_no_total(tables):
    """A user who is active on two days would be counted twice."""
    found = tables.run(segmentation(FETCHED, JANUARY, "Opened", type="unique"))
    assert {"2026-01-01": 2, "2026-01-02": 1, "2026-01-03": 0} == found.series["Opened"]
    assert found.total is None
    assert 3 == tables.run(segmentation(FETCHED, JANUARY, "Opened")).total


def test_the_sql_of_a_result_can_be_run_by_hand(tables):
    """Its parameters are literals."""
    query = segmentation(FETCHED, JANUARY, "Opened", on="plan", where='properties["plan"] != "x"')
    found = tables.run(query)
    assert found == tables.run_as_shown(query)
    assert query.sql == found.sql
    assert not re.search(r"\$\w", found.sql)
    assert "UTC" == found.timezone
    assert found.computed_at.tzinfo is UTC


def test_segments_beyond_the_limit_are_reported(tables):
    """The total is None then, as a part is missing."""
    found = tables.run(segmentation(FETCHED, JANUARY, "Opened", on="plan", limit=1))
    assert (["free"], True, None) == (list(found.series), found.limit_hit, found.total)


def test_days_begin_in_the_timezone_of_the_project(tables):
    """Half past midnight in Oslo is the day before in UTC."""
    tables.put([event("Opened", "2026-01-01 23:30")])
    oslo = Period.checked("2026-01-02", "2026-01-02", "Europe/Oslo")
    assert {"2026-01-02": 1} == tables.run(segmentation(FETCHED, oslo, "Opened")).series["Opened"]


def test_a_repeated_hour_is_one_bucket(tables):
    """Mixpanel writes hours without their offset."""
    tables.put([event("A", "2026-10-25 00:30"), event("A", "2026-10-25 01:30")])
    berlin = Period.checked("2026-10-25", "2026-10-25", "Europe/Berlin")
    found = tables.run(segmentation(FETCHED, berlin, "A", unit="hour")).series["A"]
    assert (24, 2) == (len(found), found["2026-10-25 02:00:00"])


HOSTILE = [
    "A'; DROP TABLE fetched; --",
    'q"uote',
    "$event0 $x1_ {0} %s",
    "back\\slash",
    "line\nbreak",
    "nul\x00inside",
    "Ünïcödé 🎉",
    "properties",
    "a/b~c~0d~1",
    " ",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_names(tables, name):
    """Of events and properties, and as values, also in the SQL that is shown."""
    rows = [event(name, "2026-01-01 10:00")._replace(properties={name: name})]
    if "\x00" not in name:  # DuckDB's JSON holds none
        tables.put(rows)
        query = segmentation(FETCHED, JANUARY, name, on=name)
        assert {name: 1} == {k: v["2026-01-01"] for k, v in tables.run(query).series.items()}
        assert tables.run(query) == tables.run_as_shown(query)
        counts = tables.run(property_counts(FETCHED, JANUARY, name, name, values=[name]))
        assert 1 == counts.series[name]["2026-01-01"]
    for query in (
        segmentation(FETCHED, JANUARY, name, on=name),
        funnel(FETCHED, JANUARY, [name, name]),
        retention(FETCHED, JANUARY, name, name),
        frequency(FETCHED, JANUARY, name),
        flows(FETCHED, JANUARY, name, hidden_events=["x'y"]),
    ):
        tables.run(query)
        tables.run_as_shown(query)


def test_a_property_named_like_an_expression_is_an_expression(tables):
    """`on` takes names and expressions; `property_counts` takes names only."""
    tables.put([event("A", "2026-01-01 10:00")._replace(properties={'properties["x"]': "odd"})])
    period = Period.checked("2026-01-01", "2026-01-01")
    by_expression = tables.run(segmentation(FETCHED, period, "A", on='properties["x"]'))
    assert ["undefined"] == list(by_expression.series)
    by_name = tables.run(property_counts(FETCHED, period, "A", 'properties["x"]'))
    assert ["odd"] == list(by_name.series)


@pytest.mark.parametrize(
    ("on", "expected"),
    [
        ('properties["amount"] > 20', {"true": 1, "false": 1, "undefined": 1}),
        ('number(properties["amount"])', {"30": 2, "10": 1}),
        ('string(properties["amount"])', {"30": 2, "10": 1}),
        ('event["$name"]', {"Paid": 3}),
        ('properties["distinct_id"]', {"u1": 2, "u3": 1}),
        ('properties["nothing"]', {"undefined": 3}),
    ],
)
def test_segments_of_expressions_are_text(tables, on, expected):
    """Also numbers and booleans; a missing value is "undefined"."""
    found = tables.run(segmentation(FETCHED, JANUARY, "Paid", on=on))
    assert expected == {name: sum(dates.values()) for name, dates in found.series.items()}


def test_reports_accept_compiled_expressions(tables):
    """As from the emulator, which has its own names."""
    names = {"properties": Names("properties")}
    where = compile_condition('properties["amount"] == 10', names)
    on = compile_expression('properties["amount"]', names, prefix="y")
    assert 1 == tables.run(segmentation(KEPT, JANUARY, "Paid", where=where, on=on)).total


def test_reports_accept_python_expressions(tables):
    """With everything quoted; the result names the property."""
    found = tables.run(
        segmentation(FETCHED, JANUARY, "Opened", on=prop("plan"), where=prop("plan") != 'x"')
    )
    assert ("plan", {"free", "team"}) == (found.segment_property, set(found.series))
    paid = data.Step("Paid", prop("amount") >= 30, "dear")
    steps = tables.run(funnel(FETCHED, JANUARY, ["Opened", paid])).steps
    assert [(2, None), (1, "dear")] == [(step.count, step.label) for step in steps]
    with pytest.raises(ExpressionError, match="starts with"):
        segmentation(FETCHED, JANUARY, "Paid", where=prop("plan").starts_with("t"))


def test_user_properties_need_profiles(tables):
    """A source without profiles raises."""
    with pytest.raises(ConfigError, match=r"unknown name 'user'"):
        segmentation(FETCHED, JANUARY, "Paid", on='user["plan"]')
    source = EventSource("(SELECT *, properties AS profile FROM fetched)", profile="profile")
    found = tables.run(segmentation(source, JANUARY, "Paid", where='user["amount"] == 10'))
    assert 1 == found.total


def test_numbers_stored_as_text_count_as_zero(tables):
    """Unless the expression converts them."""
    last = "2026-01-03"
    found = tables.run(segmentation_sum(FETCHED, JANUARY, "Paid", on="amount"))
    assert {"2026-01-01": 10, "2026-01-02": 30, last: 0} == found.results
    converted = 'number(properties["amount"])'
    assert 30 == tables.run(
        segmentation_average(FETCHED, JANUARY, "Paid", on=converted)
    ).results[last]  # fmt: skip


def test_numeric_ranges_are_named_as_in_mixpanel(tables):
    """With thousands separators; a range includes its lower bound."""
    amounts = [2000, 2099.5, 2100, 2950]
    tables.put([event("Paid", "2026-01-01 10:00", amount=n) for n in amounts])
    day = Period.checked("2026-01-01", "2026-01-01")
    found = tables.run(segmentation_numeric(FETCHED, day, "Paid", on="amount"))
    assert {"2,000 - 2,100": 2, "2,100 - 2,200": 1, "2,900 - 3,000": 1} == {
        name: dates["2026-01-01"] for name, dates in found.series.items()
    }
    tables.put([event("Paid", "2026-01-01 10:00", amount=n) for n in (0.25, -0.1, 0.25)])
    found = tables.run(segmentation_numeric(FETCHED, day, "Paid", on="amount"))
    assert ["-0.1 - -0.05", "0.25 - 0.3"] == list(found.series)
    tables.put([event("Paid", "2026-01-01 10:00", amount=n) for n in (1e308, -1e308, 5)])
    found = tables.run(segmentation_numeric(FETCHED, day, "Paid", on="amount"))
    assert 3 == sum(dates["2026-01-01"] for dates in found.series.values())


def test_a_funnel_takes_the_attempt_that_reached_furthest(tables):
    """Not the first attempt, if that ran out of time."""
    tables.put([
        event("Opened", "2026-01-01 10:00"),
        event("Opened", "2026-01-02 10:00"),
        event("Paid", "2026-01-02 10:30"),
    ])  # fmt: skip
    steps = ["Opened", "Paid"]
    found = tables.run(funnel(FETCHED, JANUARY, steps, window=1, window_unit="hour"))
    assert [(1, None), (1, 1800.0)] == [(step.count, step.avg_time) for step in found.steps]
    assert 1.0 == found.conversion_rate


def test_the_window_of_a_funnel_extends_beyond_the_last_day(tables):
    """A step exactly at its end is in time."""
    tables.put([event("Opened", "2026-01-03 23:00"), event("Paid", "2026-01-04 01:00")])
    two = tables.run(funnel(FETCHED, JANUARY, ["Opened", "Paid"], window=2, window_unit="hour"))
    one = tables.run(funnel(FETCHED, JANUARY, ["Opened", "Paid"], window=1, window_unit="hour"))
    assert (1.0, 0.0) == (two.conversion_rate, one.conversion_rate)


def test_one_event_is_not_two_steps_of_a_funnel(tables):
    """The same event must happen again later; others may be at the same time."""
    tables.put([event("A", "2026-01-01 10:00"), event("B", "2026-01-01 10:00")])
    assert [1, 0] == counts(tables.run(funnel(FETCHED, JANUARY, ["A", "A"])))
    assert [1, 1] == counts(tables.run(funnel(FETCHED, JANUARY, ["B", "A"])))
    assert [1, 1, 0] == counts(tables.run(funnel(FETCHED, JANUARY, ["A", "B", "A"])))


def counts(found):
    return [step.count for step in found.steps]


def test_steps_of_a_funnel_have_conditions_and_labels(tables):
    """In addition to a condition for all steps."""
    steps = [Step("Opened", 'properties["plan"] == "team"'), Step("Paid", label="bought")]
    found = tables.run(funnel(FETCHED, JANUARY, steps))
    assert [1, 1] == counts(found)
    assert "bought" == found.steps[1].label
    every = tables.run(funnel(FETCHED, JANUARY, ["Opened", "Paid"], where='"x" == "y"'))
    assert [0, 0] == counts(every)


def test_funnel_segments_beyond_the_limit_are_reported(tables):
    """Those with most users are kept."""
    found = tables.run(funnel(FETCHED, JANUARY, ["Opened"], on="plan", limit=1))
    assert (["free"], True) == (list(found.segments), found.limit_hit)
    assert 2 == found.steps[0].count


@pytest.mark.slow
def test_a_table_may_have_the_name_of_a_common_table_expression(tables):
    """It is qualified with its schema."""
    for name in ("events", "births", "returns", "step1", "attempts", "sequence", "paths", "active"):
        tables.connection.execute(f"CREATE OR REPLACE VIEW {name} AS FROM fetched")
        source = EventSource(f'main."{name}"')
        assert 3 == tables.run(segmentation(source, JANUARY, "Opened", on="plan")).total
        assert [2, 1] == counts(tables.run(funnel(source, JANUARY, ["Opened", "Paid"])))
        tables.run(retention(source, JANUARY, "Opened", on="plan"))
        tables.run(frequency(source, JANUARY))
        tables.run(flows(source, JANUARY, "Opened"))


def test_retention_is_counted_from_the_first_event_of_each_user(tables):
    """In steps of 24 hours, not days, so later intervals may have more users than earlier ones."""
    tables.put([
        event("Opened", "2026-01-01 20:00", "u1"),
        event("Opened", "2026-01-01 08:00", "u2"),
        event("Paid", "2026-01-02 10:00", "u1"),  # within 24 hours
        event("Paid", "2026-01-02 10:00", "u2"),  # after them
        event("Paid", "2026-01-02 22:00", "u1"),
    ])  # fmt: skip
    query = retention(FETCHED, JANUARY, "Opened", "Paid", interval_count=1)
    first = tables.run(query).cohorts[0]
    assert ("2026-01-01", 2, (1, 2), (0.5, 1.0)) == (
        first.date, first.size, first.counts, first.retention
    )  # fmt: skip
    unbounded = retention(FETCHED, JANUARY, "Opened", "Paid", interval_count=1, unbounded=True)
    assert (2, 2) == tables.run(unbounded).cohorts[0].counts


def test_long_retention_intervals_do_not_overflow(tables):
    """The last interval may end after the last possible date."""
    period = Period.checked("9998-12-01", "9998-12-30")
    query = retention(FETCHED, period, "A", unit="month", interval=3, interval_count=730)
    assert 731 == len(tables.run(query).cohorts[0].counts)


def test_flows_have_other_events_and_drop_offs(tables):
    """Rare events of a step are one node, and users who did nothing more another."""
    tables.put([
        event("A", "2026-01-01 10:00", "u1"), event("B", "2026-01-01 10:01", "u1"),
        event("A", "2026-01-01 10:00", "u2"), event("B", "2026-01-01 10:01", "u2"),
        event("A", "2026-01-01 10:00", "u3"), event("C", "2026-01-01 10:01", "u3"),
        event("A", "2026-01-01 10:00", "u4"),
    ])  # fmt: skip
    found = tables.run(flows(FETCHED, JANUARY, "A", forward=1, events_per_step=1, paths=1))
    anchor, after = found.steps
    assert [("A", "ANCHOR", 4)] == [(n.event, n.type, n.count) for n in anchor.nodes]
    expected = [("B", "FORWARD", 2), (OTHER, "PRUNED", 1), (DROPOFF, "DROPOFF", 1)]
    assert expected == [(n.event, n.type, n.count) for n in after.nodes]
    assert expected == [(e.event, e.type, e.count) for e in anchor.nodes[0].edges]
    assert [(("A", "B"), 2)] == [(path.events, path.count) for path in found.paths]


def test_reports_of_an_empty_table_are_zeros(tables):
    """For each report."""
    tables.put([])
    for query in (
        segmentation(FETCHED, JANUARY, "A"),
        segmentation(KEPT, JANUARY, "A", on="plan"),
        event_counts(KEPT, JANUARY, ["A", "B"]),
        property_counts(KEPT, JANUARY, "A", "plan"),
        segmentation_sum(KEPT, JANUARY, "A", on="n"),
        segmentation_numeric(KEPT, JANUARY, "A", on="n"),
        funnel(KEPT, JANUARY, ["A", "B"], on="plan", unit="day"),
        retention(KEPT, JANUARY, "A", on="plan"),
        frequency(KEPT, JANUARY, on="plan"),
        flows(KEPT, JANUARY, "A", reverse=1),
    ):
        found = tables.run(query)
        numbers = [v for row in found.to_table_dict() for k, v in row.items() if "count" in k]
        assert not any(numbers)


@pytest.mark.parametrize(
    "dates",
    [
        ("2026-01-02", "2026-01-01"),
        ("tomorrow", "2026-01-01"),
        ("2026-13-01", "2026-13-02"),
        (20260101, "2026-01-02"),
        (None, None),
        (datetime(2026, 1, 1), "2026-01-02"),
        (date.min, date.min),
        (date.max, date.max),
    ],
)
def test_invalid_dates_raise(dates):
    """Reversed, of another type, or outside the range of dates."""
    with pytest.raises(ConfigError):
        Period.checked(*dates)


@pytest.mark.parametrize(("unit", "days"), [("minute", 367), ("hour", 3661)])
def test_too_many_buckets_raise(unit, days):
    """Before any SQL runs."""
    first = date(2026, 1, 1)
    period = Period.checked(first, first + timedelta(days=days - 1))
    with pytest.raises(ConfigError, match="use a longer unit"):
        segmentation(FETCHED, period, "A", unit=unit)
    fits = Period.checked(first, first + timedelta(days=days - 2))
    assert segmentation(FETCHED, fits, "A", unit=unit).statement


@pytest.mark.parametrize("zone", ["Mars/Base", "../etc/passwd", "", 7, "+01:00"])
def test_unknown_timezones_raise(zone):
    """None means UTC."""
    assert "UTC" == Period.checked("2026-01-01", "2026-01-01").timezone
    with pytest.raises(ConfigError, match=r"timezone=.* is not a timezone"):
        Period.checked("2026-01-01", "2026-01-01", zone)


BAD = {
    "no event": lambda: segmentation(FETCHED, JANUARY, ""),
    "event of another type": lambda: segmentation(FETCHED, JANUARY, 7),
    "half a character": lambda: segmentation(FETCHED, JANUARY, "\ud800"),
    "half a character in on": lambda: segmentation(FETCHED, JANUARY, "A", on="\ud800"),
    "escaped half": lambda: segmentation(FETCHED, JANUARY, "A", on='properties["\\ud800"]'),
    "unit": lambda: segmentation(FETCHED, JANUARY, "A", unit="year"),
    "unit of another type": lambda: segmentation(FETCHED, JANUARY, "A", unit=["day"]),
    "type": lambda: segmentation(FETCHED, JANUARY, "A", type="median"),
    "limit 0": lambda: segmentation(FETCHED, JANUARY, "A", on="x", limit=0),
    "limit": lambda: segmentation(FETCHED, JANUARY, "A", on="x", limit=10_001),
    "limit True": lambda: segmentation(FETCHED, JANUARY, "A", on="x", limit=True),
    "limit None": lambda: segmentation(FETCHED, JANUARY, "A", on="x", limit=None),
    "empty on": lambda: segmentation(FETCHED, JANUARY, "A", on=""),
    "on of another type": lambda: segmentation(FETCHED, JANUARY, "A", on=7),
    "where": lambda: segmentation(FETCHED, JANUARY, "A", where='properties["x"] =='),
    "where of another type": lambda: segmentation(FETCHED, JANUARY, "A", where=7),
    "where that is a number": lambda: segmentation(FETCHED, JANUARY, "A", where="1"),
    "event in on": lambda: segmentation(FETCHED, JANUARY, "A", on='event["plan"]'),
    "no events": lambda: event_counts(FETCHED, JANUARY, []),
    "events of another type": lambda: event_counts(FETCHED, JANUARY, 7),
    "events with a bad one": lambda: event_counts(FETCHED, JANUARY, ["A", None]),
    "values": lambda: property_counts(FETCHED, JANUARY, "A", "x", values="abc"),
    "values of another type": lambda: property_counts(FETCHED, JANUARY, "A", "x", values=[1]),
    "no values": lambda: property_counts(FETCHED, JANUARY, "A", "x", values=[]),
    "no property": lambda: property_counts(FETCHED, JANUARY, "A", ""),
    "week": lambda: segmentation_sum(FETCHED, JANUARY, "A", on="x", unit="week"),
    "text": lambda: segmentation_sum(FETCHED, JANUARY, "A", on='string(properties["x"])'),
    "no steps": lambda: funnel(FETCHED, JANUARY, []),
    "steps of another type": lambda: funnel(FETCHED, JANUARY, 7),
    "one text": lambda: funnel(FETCHED, JANUARY, "AB"),
    "101 steps": lambda: funnel(FETCHED, JANUARY, ["A"] * 101),
    "step of another type": lambda: funnel(FETCHED, JANUARY, ["A", 7]),
    "step where": lambda: funnel(FETCHED, JANUARY, [Step("A", "nonsense")]),
    "window 0": lambda: funnel(FETCHED, JANUARY, ["A"], window=0),
    "window": lambda: funnel(FETCHED, JANUARY, ["A"], window=368),
    "window 1.5": lambda: funnel(FETCHED, JANUARY, ["A"], window=1.5),
    "window unit": lambda: funnel(FETCHED, JANUARY, ["A"], window_unit="fortnight"),
    "funnel unit": lambda: funnel(FETCHED, JANUARY, ["A"], unit="hour"),
    "no birth": lambda: retention(FETCHED, JANUARY, None),
    "birth of compounded": lambda: retention(
        FETCHED, JANUARY, "A", "B", retention_type="compounded"
    ),
    "retention type": lambda: retention(FETCHED, JANUARY, "A", retention_type="first"),
    "interval": lambda: retention(FETCHED, JANUARY, "A", interval=91),
    "interval 0": lambda: retention(FETCHED, JANUARY, "A", interval=0),
    "interval count": lambda: retention(FETCHED, JANUARY, "A", interval_count=0),
    "frequency unit": lambda: frequency(FETCHED, JANUARY, unit="hour"),
    "addiction unit": lambda: frequency(FETCHED, JANUARY, addiction_unit="week"),
    "no flow": lambda: flows(FETCHED, JANUARY, "A", forward=0),
    "forward": lambda: flows(FETCHED, JANUARY, "A", forward=6),
    "hidden anchor": lambda: flows(FETCHED, JANUARY, "A", hidden_events=["A"]),
    "count type": lambda: flows(FETCHED, JANUARY, "A", count_type="sessions"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", BAD)
def test_invalid_arguments_of_reports_raise(case):
    """Before any SQL runs, with an error that names them."""
    with pytest.raises(ConfigError):
        BAD[case]()


def test_an_expression_error_in_a_report_has_its_position():
    """The character, counted from 1."""
    with pytest.raises(
        ExpressionError, match=r"where=.*unknown name 'nonsense'.*at character 4"
    ) as caught:
        segmentation(FETCHED, JANUARY, "A", where="1 +nonsense")
    assert 4 == caught.value.position
