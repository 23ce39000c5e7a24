"""Each report over random events, beside a slow and obvious version of it in Python."""

from collections import Counter, defaultdict
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mixpanel.data.analysis.flows import DROPOFF, flows
from mixpanel.data.analysis.funnel import funnel
from mixpanel.data.analysis.numeric import (
    segmentation_average,
    segmentation_numeric,
    segmentation_sum,
)
from mixpanel.data.analysis.period import Period
from mixpanel.data.analysis.retention import frequency, retention
from mixpanel.data.analysis.segmentation import event_counts, property_counts, segmentation
from tests.data.analysis import reference
from tests.data.analysis.conftest import FETCHED, KEPT
from tests.data.analysis.reference import EPOCH, Event, Report
from tests.effort import cases

pytestmark = [pytest.mark.slow, pytest.mark.heavy]

# Days on which clocks change, by an hour, half an hour, at midnight, or by a whole day.
PLACES = [
    ("UTC", date(2026, 2, 28)),
    ("America/New_York", date(2026, 3, 8)),
    ("America/New_York", date(2026, 11, 1)),
    ("Europe/Berlin", date(2026, 3, 29)),
    ("Asia/Kolkata", date(2026, 1, 1)),
    ("Australia/Lord_Howe", date(2026, 4, 5)),
    ("America/Sao_Paulo", date(2018, 11, 4)),
    ("Pacific/Apia", date(2011, 12, 30)),
]
NAMES = ["A", "B", "C'\"; drop"]
HOUR = 3_600_000

values = st.sampled_from(
    [None, True, False, 0, 1, 1.0, 2.5, -3, 2**60, "1", "", "team", "te'am\"", "null", [1, "a"], {}]
)
properties = st.dictionaries(st.sampled_from(["plan", "n", 'we/"i~rd']), values, max_size=3)
users = st.sampled_from(["u1", "u2", "u3", "Ü'4", "", None])
insert_ids = st.sampled_from(["i1", "i2", "i3", "i4", "", None])
quick = settings(max_examples=cases(20, 400), suppress_health_check=list(HealthCheck))


@st.composite
def reports(draw, names=NAMES, most=25):
    """Draw events around a day on which a clock changes, and days to look at."""
    zone, day = draw(st.sampled_from(PLACES))
    start = (datetime.combine(day, datetime.min.time(), UTC) - EPOCH) // timedelta(milliseconds=1)
    # Few different times, so that many are the same.
    times = st.integers(-8, 30).map(lambda n: start + n * HOUR * 2 + n % 3 * 1000)
    event = st.builds(Event, st.sampled_from(names), times, users, insert_ids, properties)
    events = draw(st.lists(event, max_size=most))
    copies = draw(st.lists(st.integers(0, max(0, len(events) - 1)), max_size=3)) if events else []
    events += [events[n]._replace(properties=draw(properties)) for n in copies]
    first = day + timedelta(days=draw(st.integers(-1, 1)))
    return Report(events, zone, first, first + timedelta(days=draw(st.integers(0, 3))))


def sources(report):
    """Yield both kinds of table, with the events that each is to count."""
    yield FETCHED, report
    yield KEPT, report._replace(events=reference.latest(report.events))


def period_of(report):
    return Period.checked(report.first, report.last, report.zone)


kinds = st.sampled_from(["general", "unique", "average"])


@quick
@given(reports(), st.sampled_from(["hour", "day", "week", "month"]))
def test_buckets_follow_the_clock(report, unit):
    """Also when it skips or repeats an hour or a day."""
    assert report.buckets(unit) == period_of(report).buckets(unit)


@settings(quick, max_examples=10)
@given(reports())
def test_minutes_follow_the_clock(report):
    """One bucket each, in order."""
    report = report._replace(last=report.first)
    assert report.buckets("minute") == period_of(report).buckets("minute")


@quick
@given(reports(), st.sampled_from(["hour", "day", "week", "month"]), kinds)
def test_segmentation_agrees_with_the_reference(tables, report, unit, kind):
    """Events, users and events per user, by date."""
    tables.put(report.events)
    for source, seen in sources(report):
        query = segmentation(source, period_of(report), "A", unit=unit, type=kind)
        found = tables.run(query)
        series, _ = reference.counted(
            report, seen.within("A"), unit, kind, lambda _: "A", names=["A"]
        )
        assert series == found.series
        expected = sum(series["A"].values()) if kind == "general" else None
        assert expected == found.total


@quick
@given(reports(), kinds, st.integers(1, 4), st.sampled_from(["plan", "n", 'we/"i~rd']))
def test_segmentation_by_a_property_agrees_with_the_reference(tables, report, kind, limit, name):
    """For any values; the most frequent first, and no total beyond the limit."""
    tables.put(report.events)
    for source, seen in sources(report):
        query = segmentation(source, period_of(report), "A", on=name, type=kind, limit=limit)
        found = tables.run(query)
        series, cut = reference.counted(
            report, seen.within("A"), "day", kind, lambda e: reference.text(e, name), limit=limit
        )
        assert list(series.items()) == list(found.series.items())
        assert cut == found.limit_hit
        assert (found.total is None) == (cut or kind != "general")


@quick
@given(reports())
def test_segmentation_with_a_condition_agrees_with_the_reference(tables, report):
    """A replaced copy does not count, even if it fulfils the condition."""
    tables.put(report.events)
    where = 'properties["n"] == 1 or properties["plan"] == "team"'
    for source, seen in sources(report):
        found = tables.run(segmentation(source, period_of(report), "A", where=where))
        chosen = [
            each
            for each in seen.within("A")
            if reference.number(each, "n") == 1 or each.properties.get("plan") == "team"
        ]
        assert len(chosen) == found.total


@quick
@given(reports(), kinds, st.lists(st.sampled_from([*NAMES, "never"]), min_size=1, unique=True))
def test_event_counts_agree_with_the_reference(tables, report, kind, names):
    """In the order of the arguments, with events that never happened."""
    tables.put(report.events)
    for source, seen in sources(report):
        found = tables.run(event_counts(source, period_of(report), names, type=kind))
        series, _ = reference.counted(
            report, seen.within(), "day", kind, lambda e: e.name, names=names
        )
        assert list(series.items()) == list(found.series.items())


@quick
@given(reports(), st.lists(st.sampled_from(["1", "null", "team", "x"]), min_size=1, unique=True))
def test_property_counts_of_given_values_agree_with_the_reference(tables, report, wanted):
    """In the order of the arguments."""
    tables.put(report.events)
    for source, seen in sources(report):
        query = property_counts(source, period_of(report), "A", "plan", values=wanted)
        series, _ = reference.counted(
            report, seen.within("A"), "day", "general", lambda e: reference.text(e, "plan"),
            names=wanted,
        )  # fmt: skip
        assert list(series.items()) == list(tables.run(query).series.items())


@quick
@given(reports(), st.sampled_from(["hour", "day"]))
def test_sums_and_averages_agree_with_the_reference(tables, report, unit):
    """Values that are not numbers count as 0."""
    tables.put(report.events)
    for source, seen in sources(report):
        period = period_of(report)
        sums = tables.run(segmentation_sum(source, period, "A", on="n", unit=unit)).results
        means = tables.run(segmentation_average(source, period, "A", on="n", unit=unit)).results
        found = defaultdict(list)
        for each in seen.within("A"):
            found[report.bucket(each.time, unit)].append(reference.number(each, "n") or 0.0)
        for bucket in report.buckets(unit):
            assert pytest.approx(sum(found[bucket])) == sums.pop(bucket)
            assert pytest.approx(reference.mean(found[bucket]) or 0.0) == means.pop(bucket)
        assert not sums
        assert not means


@quick
@given(reports(), kinds, st.sampled_from([1, 0.001, 250, 1e6]))
def test_numeric_ranges_agree_with_the_reference(tables, report, kind, scale):
    """Each number is in exactly one range, and all have one round width."""
    events = [
        each._replace(properties={"n": value * scale})
        if isinstance(value := each.properties.get("n"), float)
        else each._replace(properties={"n": each.time % 97 * scale})
        for each in report.events
    ]
    report = report._replace(events=events)
    tables.put(events)
    for source, seen in sources(report):
        found = tables.run(segmentation_numeric(source, period_of(report), "A", on="n", type=kind))
        inside = seen.within("A")
        if not inside:
            assert found.series == {}
            continue
        width = reference.width_of([each.properties["n"] for each in inside])
        groups = defaultdict(list)
        for each in inside:
            groups[each.properties["n"] // width].append(each)
        expected = [
            {
                day: reference.measure(
                    [e for e in groups[number] if report.bucket(e.time, "day") == day], kind
                )
                for day in report.buckets("day")
            }
            for number in sorted(groups)
        ]
        assert expected == list(found.series.values())


@quick
@given(
    reports(most=14),
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=4),
    st.integers(1, 30),
)
def test_funnels_agree_with_the_reference(tables, report, steps, hours):
    """The reference tries all attempts, and takes the furthest, then earliest of each user."""
    tables.put(report.events)
    for source, seen in sources(report):
        query = funnel(
            source, period_of(report), steps, window=hours, window_unit="hour", on="plan",
            unit="day",
        )  # fmt: skip
        found = tables.run(query)
        tried = list(reference.attempts(seen, steps, hours * HOUR))
        nothing = ([0] * len(steps), [None] * len(steps), [None] * len(steps))
        same(reference.funnel(tried, steps).get(None, nothing), found.steps)
        by_plan = reference.funnel(tried, steps, lambda e: reference.text(e, "plan"))
        assert by_plan.keys() == found.segments.keys()
        for name, expected in by_plan.items():
            same(expected, found.segments[name])
        by_day = reference.funnel(tried, steps, lambda e: report.bucket(e.time, "day"))
        assert report.buckets("day") == list(found.dates)
        for day, shown in found.dates.items():
            same(by_day.get(day, nothing), shown)


def same(expected, steps):
    counts, gaps, totals = expected
    assert counts == [step.count for step in steps]
    for n, step in enumerate(steps):
        assert step.avg_time == (gaps[n] if gaps[n] is None else pytest.approx(gaps[n]))
        total = totals[n]
        assert step.avg_time_from_start == (total if total is None else pytest.approx(total))
        before = counts[n - 1] if n else None
        assert step.conversion_rate == (1.0 if n == 0 else counts[n] / before if before else 0.0)
        assert step.overall_conversion_rate == (counts[n] / counts[0] if counts[0] else 0.0)


@quick
@given(
    reports(),
    st.sampled_from([("A", "B"), ("A", "A"), ("A", None)]),
    st.sampled_from(["day", "week", "month"]),
    st.integers(1, 2),
    st.integers(1, 4),
    st.booleans(),
    st.booleans(),
)
def test_retention_agrees_with_the_reference(
    tables, report, events, unit, interval, count, compounded, unbounded
):
    """Intervals from each user's first event, by cohorts of the project's days."""
    tables.put(report.events)
    born, returned = (None, events[1]) if compounded else events
    for source, seen in sources(report):
        query = retention(
            source, period_of(report), born, returned, unit=unit, interval=interval,
            interval_count=count, retention_type="compounded" if compounded else "birth",
            unbounded=unbounded, on="plan",
        )  # fmt: skip
        found = tables.run(query)
        arguments = (seen, born, returned, unit, interval, count)
        options = {"compounded": compounded, "unbounded": unbounded}
        every = reference.retention(*arguments, **options).get(None)
        every = every or [(str(c), 0, [0] * (count + 1)) for c in reference.cohorts(
            report, unit, interval
        )]  # fmt: skip
        assert every == [(c.date, c.size, list(c.counts)) for c in found.cohorts]
        parts = reference.retention(
            *arguments, **options, segment=lambda e: reference.text(e, "plan")
        )
        shown = {
            name: [(c.date, c.size, list(c.counts)) for c in group]
            for name, group in found.segments.items()
        }
        assert parts == shown


@quick
@given(
    reports(),
    st.sampled_from([("day", "hour"), ("week", "day"), ("week", "hour"), ("month", "day")]),
    st.sampled_from(["A", None]),
)
def test_frequency_agrees_with_the_reference(tables, report, units, name):
    """Users by number of different hours or days; a segment counts its own events."""
    tables.put(report.events)
    unit, sub_unit = units
    for source, seen in sources(report):
        query = frequency(
            source, period_of(report), name, unit=unit, addiction_unit=sub_unit, on="plan"
        )
        found = tables.run(query)
        inside = [each for each in seen.within(name) if reference.user(each)]
        assert reference.frequency(report, inside, unit, sub_unit) == found.data
        plans = {reference.text(each, "plan") for each in inside}
        assert plans == found.segments.keys()
        for plan in plans:
            part = [each for each in inside if reference.text(each, "plan") == plan]
            assert reference.frequency(report, part, unit, sub_unit) == found.segments[plan]


MIDNIGHT = 1_772_236_800_000
# The same event two hours before the day, and at its start.
REPEATED = Report(
    [Event("A", MIDNIGHT + ms, "u1", f"i{ms}", {}) for ms in (-2 * HOUR, 0)],
    "UTC", date(2026, 2, 28), date(2026, 2, 28),
)  # fmt: skip


@quick
@example(REPEATED, 0, 1, 1, False, True, False)
@example(REPEATED, 1, 1, 1, False, True, False)
@example(REPEATED, 1, 1, 3, False, True, False)
@given(
    reports(),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(1, 30),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_flows_agree_with_the_reference(
    tables, report, reverse, forward, hours, unique, collapse, hide
):
    """A node counts the paths through it, and an edge those along it."""
    if not reverse and not forward:
        return
    tables.put(report.events)
    hidden = ["B"] if hide else []
    for source, seen in sources(report):
        query = flows(
            source, period_of(report), "A", forward=forward, reverse=reverse, window=hours,
            window_unit="hour", count_type="unique" if unique else "total", hidden_events=hidden,
            collapse_repeated=collapse, paths=1000,
        )  # fmt: skip
        found = tables.run(query)
        # What happened before does not count as an event that is repeated.
        start = period_of(report).before(timedelta(hours=hours if reverse else 0))
        first = start.replace(tzinfo=UTC).timestamp() * 1000
        near = [each for each in seen.events if each.time >= first]
        paths = reference.paths(
            seen._replace(events=near), "A", reverse, forward, hours * HOUR,
            unique=unique, collapse=collapse, hidden=hidden,
        )  # fmt: skip
        assert sum(paths.values()) == sum(path.count for path in found.paths)
        shown = Counter()
        for path in found.paths:
            shown[path.events] += path.count
        expected = Counter()
        for path, n in paths.items():
            expected[tuple(name for name in path if name is not None)] += n
        assert expected == shown
        nodes, edges = Counter(), Counter()
        for path, n in paths.items():
            at = dict(zip(range(-reverse, forward + 1), path, strict=True))
            for step, name in at.items():
                inwards = step - (step > 0) + (step < 0)
                if name is not None:
                    nodes[step, name] += n
                elif at[inwards] is not None:
                    nodes[step, DROPOFF] += n
                if step and at[inwards] is not None:
                    edges[inwards, at[inwards], step, name or DROPOFF] += n
        given_nodes = {
            (step.step, node.event): node.count
            for step in found.steps
            for node in step.nodes
            if node.count
        }
        given_edges = {
            (step.step, node.event, edge.step, edge.event): edge.count
            for step in found.steps
            for node in step.nodes
            for edge in node.edges
        }
        assert dict(nodes) == given_nodes
        assert dict(edges) == given_edges
