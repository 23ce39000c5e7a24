"""What inline reports ask for besides, beside a slow and obvious version of it in Python."""

from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixpanel.data import Exclusion
from mixpanel.data.analysis.flows import flows
from mixpanel.data.analysis.funnel import Step, funnel
from mixpanel.data.analysis.period import Period
from mixpanel.data.analysis.retention import retention
from mixpanel.data.analysis.sessions import events_in_sessions
from mixpanel.data.analysis.source import Scope
from mixpanel.data.exceptions import ConfigError
from tests.data.analysis.conftest import FETCHED
from tests.data.analysis.reference import EPOCH, Event

DAY = date(2026, 3, 2)  # a Monday
START = (datetime.combine(DAY, datetime.min.time(), UTC) - EPOCH) // timedelta(milliseconds=1)
MINUTE, HOUR = 60_000, 3_600_000
quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def at(name, who, hours, **properties):
    return Event(name, START + round(hours * HOUR), who, None, properties)


@st.composite
def histories(draw):
    """Draw events of three users over four days, many at the same time."""
    event = st.builds(
        Event,
        st.sampled_from(["A", "B", "C", "X"]),
        st.integers(0, 30).map(lambda n: START + n * 3 * HOUR),
        st.sampled_from(["u1", "u2", "u3"]),
        st.none(),
        st.sampled_from([{}, {"p": "x"}, {"p": "y"}]),
    )
    return draw(st.lists(event, max_size=16))


class Rules(NamedTuple):
    """A way to count funnels."""

    steps: list
    hours: int
    order: str = "loose"
    exclude: tuple = ()
    hold: bool = False


def reached(events, rules, last):
    """Return how many steps each user did in the best attempt."""
    best = {}
    window = rules.hours * HOUR
    for entry in events:
        names = rules.steps if rules.order == "any" else rules.steps[:1]
        if entry.name not in names or entry.time >= last:
            continue
        same = [
            each
            for each in events
            if each.user == entry.user
            and (not rules.hold or each.properties.get("p") == entry.properties.get("p"))
        ]
        times = (
            in_any_order(same, rules, entry) if rules.order == "any" else chain(same, rules, entry)
        )
        done = len([time for time in times if time is not None and time <= entry.time + window])
        for excluded, first, final in rules.exclude:
            if done <= first:
                continue
            after = [
                each.time
                for each in events
                if (each.name, each.user) == (excluded, entry.user) and each.time > times[first - 1]
            ]
            known = [time for time in times[:final] if time is not None]
            if after and not (len(known) == final and known[-1] <= min(after)):
                done = min(done, max(first, len([time for time in known if time <= min(after)])))
        best[entry.user] = max(best.get(entry.user, 0), done)
    return [sum(n > step for n in best.values()) for step in range(len(rules.steps))]


def chain(events, rules, entry):
    times = [entry.time]
    for name in rules.steps[1:]:
        later = [each.time for each in events if each.name == name and each.time >= times[-1]]
        if not later:
            return [*times, *[None] * (len(rules.steps) - len(times))]
        times.append(min(later))
    return times


def in_any_order(events, rules, entry):
    times = []
    for name in rules.steps:
        later = [each.time for each in events if each.name == name and each.time >= entry.time]
        times += [min(later)] if later and min(later) <= entry.time + rules.hours * HOUR else []
    return sorted(times) + [None] * (len(rules.steps) - len(times))


@pytest.mark.slow
@quick
@given(
    histories(),
    st.integers(1, 60),
    st.sampled_from(["loose", "any"]),
    st.booleans(),
    st.sampled_from([(), (("X", 1, 3),), (("X", 1, 2),), (("X", 2, 3), ("A", 1, 2))]),
)
def test_funnels_in_any_order_with_exclusions_and_held_properties(
    tables, events, hours, order, hold, exclude
):
    """The best attempt of each user, by how many steps it reached."""
    tables.put(events)
    rules = Rules(["A", "B", "C"], hours, order, exclude, hold)
    query = funnel(
        FETCHED, Period.checked(DAY, DAY + timedelta(days=1)), rules.steps,
        window=hours, window_unit="hour", order=order, hold=["p"] if hold else (),
        exclude=[Exclusion(*each) for each in exclude],
    )  # fmt: skip
    found = tables.run(query)
    assert reached(events, rules, START + 48 * HOUR) == [step.count for step in found.steps]


@pytest.mark.slow
@quick
@given(
    histories(),
    st.sampled_from(["none", "carry_back", "carry_forward", "consecutive_forward"]),
    st.sampled_from([(), (1, 2, 4), (2,), (1, 3)]),
    st.sampled_from(["birth", "calendar"]),
)
def test_retention_by_mode_buckets_and_calendar(tables, events, mode, buckets, alignment):
    """A user is in the intervals of the returns, or in those that follow from them."""
    tables.put(events)
    query = retention(
        FETCHED, Period.checked(DAY, DAY + timedelta(days=1)), "A", "B",
        interval_count=3, mode=mode, buckets=buckets, alignment=alignment,
    )  # fmt: skip
    found = tables.run(query)
    starts = [0, *buckets[:-1]] if buckets else [0, 1, 2, 3]
    ends = [*buckets] if buckets else [1, 2, 3, 4]
    births = {}
    for each in sorted(events, key=lambda one: one.time):
        if each.name == "A" and each.time < START + 48 * HOUR:
            births.setdefault(each.user, each.time)
    cells = defaultdict(set)
    for each in events:
        birth = births.get(each.user)
        if each.name == "B" and birth is not None and each.time >= birth:
            days = (each.time - birth) // (24 * HOUR)
            if alignment == "calendar":
                days = (each.time - START) // (24 * HOUR) - (birth - START) // (24 * HOUR)
            cells[each.user] |= {
                n
                for n, (low, high) in enumerate(zip(starts, ends, strict=True))
                if low <= days < high
            }

    def counts(who, n):
        did = cells[who]
        return {
            "none": n in did,
            "carry_back": any(cell >= n for cell in did),
            "carry_forward": any(cell <= n for cell in did),
            "consecutive_forward": {*range(n + 1)} <= did,
        }[mode]

    for day, cohort in enumerate(found.cohorts):
        born = [who for who, time in births.items() if (time - START) // (24 * HOUR) == day]
        expected = [sum(counts(who, n) for who in born) for n in range(len(starts))]
        assert (len(born), expected) == (cohort.size, list(cohort.counts))


def test_several_properties_part_a_report_together(tables):
    """A segment is a JSON list of their values."""
    tables.put([at("A", "u1", 1, p="x", q=1), at("B", "u1", 2), at("A", "u2", 1, q=2)])
    period = Period.checked(DAY, DAY)
    found = tables.run(funnel(FETCHED, period, ["A", "B"], on=("p", "q")))
    counts = {name: [step.count for step in steps] for name, steps in found.segments.items()}
    assert {'["x","1"]': [1, 1], '["undefined","2"]': [1, 0]} == counts
    assert "p, q" == found.segment_property
    cohorts = tables.run(retention(FETCHED, period, "A", "B", on=("p", "q"))).segments
    assert {'["x","1"]', '["undefined","2"]'} == cohorts.keys()


def test_a_session_ends_after_half_an_hour_and_at_midnight(tables):
    """All events of a user make it up; only those that are asked for are returned."""
    minutes = [0, 29, 58, 89, 89 + 31, 23 * 60 + 50, 24 * 60 + 5]
    events = [at("B" if n == 1 else "A", "u1", each / 60) for n, each in enumerate(minutes)]
    tables.put([*events, at("A", "u2", 0)])
    scope = Scope(FETCHED)
    start = datetime(2026, 3, 2)
    query = events_in_sessions(scope, ["A"], start, start + timedelta(days=2))
    rows = tables.connection.execute(
        f"select distinct_id, session from ({query}) order by distinct_id, time",
        scope.parameters,
    ).fetchall()
    assert [("u1", n) for n in (1, 1, 2, 3, 4, 5)] + [("u2", 1)] == rows


def test_a_funnel_may_be_within_a_session(tables):
    """The steps of another session do not count; sessions are counted, or users."""
    tables.put(
        [at("A", "u1", 1), at("B", "u1", 1.2), at("A", "u1", 5), at("A", "u2", 1), at("B", "u2", 9)]
    )
    period = Period.checked(DAY, DAY)
    options = {"within": "session"}
    found = tables.run(funnel(FETCHED, period, ["A", "B"], **options))
    assert [2, 1] == [step.count for step in found.steps]
    found = tables.run(funnel(FETCHED, period, ["A", "B"], counted="sessions", **options))
    assert [3, 1] == [step.count for step in found.steps]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "all"}, "order='all'"),
        ({"order": "any", "steps": ["A", "A"]}, "different events"),
        ({"exclude": [Exclusion("X", 2, 3)]}, "between steps 2 and 3: there are 2"),
    ],
)
def test_impossible_funnels_are_refused(options, message):
    """Before anything is computed."""
    given = {"steps": ["A", "B"], **options}
    with pytest.raises(ConfigError, match=message):
        funnel(FETCHED, Period.checked(DAY, DAY), **given)


@pytest.mark.parametrize("options", [{"buckets": (3, 1)}, {"buckets": (0, 1)}, {"mode": "all"}])
def test_impossible_retention_is_refused(options):
    """Before anything is computed."""
    with pytest.raises(ConfigError):
        retention(FETCHED, Period.checked(DAY, DAY), "A", "B", **options)


def flow_of(found):
    return [
        {(node.event, node.type): node.count for node in step.nodes if node.count}
        for step in found.steps
    ]


def test_a_flow_may_have_several_steps(tables):
    """What is between them is not shown; who does not reach the next one drops off."""
    tables.put(
        [
            *(at("A", who, 1) for who in ("u1", "u2", "u3")),
            at("X", "u1", 2), at("B", "u1", 3, p="x"), at("C", "u1", 4),
            at("B", "u2", 5, p="y"), at("B", "u2", 6, p="x"),
            at("X", "u3", 2), at("B", "u3", 30, p="x"),
        ]
    )  # fmt: skip
    period = Period.checked(DAY, DAY)
    options = {"forward": 1, "window": 1, "window_unit": "day"}
    found = tables.run(flows(FETCHED, period, "A", then=[Step("B")], **options))
    assert [
        {("A", "ANCHOR"): 3},
        {("B", "ANCHOR"): 2, ("$dropoff", "DROPOFF"): 1},
        {("C", "FORWARD"): 1, ("B", "FORWARD"): 1},
    ] == flow_of(found)
    assert {(("A", "B", "C"), 1), (("A", "B", "B"), 1), (("A",), 1)} == {
        (path.events, path.count) for path in found.paths
    }
    filtered = Step("B", 'properties["p"] == "x"')
    found = tables.run(flows(FETCHED, period, "A", then=[filtered], **options))
    assert {("C", "FORWARD"): 1, ("$dropoff", "DROPOFF"): 1} == flow_of(found)[2]
    only = 'event["$name"] != "C"'
    found = tables.run(flows(FETCHED, period, "A", then=[filtered], events_where=only, **options))
    assert {("$dropoff", "DROPOFF"): 2} == flow_of(found)[2]


def test_a_flow_may_be_of_sessions(tables):
    """Each session counts once, with what is in it alone."""
    tables.put(
        [
            at("A", "u1", 1),
            at("B", "u1", 1.2),
            at("A", "u1", 1.3),
            at("A", "u1", 5),
            at("B", "u1", 6),
        ]
    )
    found = tables.run(
        flows(FETCHED, Period.checked(DAY, DAY), "A", forward=1, count_type="session")
    )
    assert [
        {("A", "ANCHOR"): 2},
        {("B", "FORWARD"): 1, ("$dropoff", "DROPOFF"): 1},
    ] == flow_of(found)
