"""Inline reports of the emulator, beyond what has a local twin; their answers over the wire."""

import httpx
import pytest

from mixpanel.data import Breakdown, Metric, Step, prop
from mixpanel.data._queries import bookmarks
from mixpanel.data.inline_queries import TimeRange
from mixpanel.emulator import Emulator

NOW = 1_767_700_000  # 2026-01-06 11:46:40
START = 1_767_225_600  # 2026-01-01
DAYS = TimeRange("2026-01-01", "2026-01-03")
AUTH = ("robot", "s3cret")


def event(name, who, hour, **properties):
    fields = {"time": START + round(hour * 3600), "distinct_id": who}
    return {"event": name, "properties": {**fields, **properties}}


EVENTS = [
    event("A", "u1", 1, p="x", q="1", n=3, lines=[{"sku": "pen"}, {"sku": "ink"}]),
    event("A", "u1", 1.2, p="x", q="2", n=14),
    event("B", "u1", 1.3, p="y"),
    event("A", "u2", 2, p="xy", q="1", n=40, lines=[{"sku": "pen"}]),
    event("A", "u3", 26, p="z", n=5),
    event("A", "u1", 50, p="x", q="1", n=8),
    event("B", "u3", 51),
    event("A", "u9", -140),  # six days before
]


@pytest.fixture(scope="module")
def emu():
    """A project with a week's events, and a cohort."""
    with Emulator(now=lambda: NOW, service_accounts=dict([AUTH])) as emulator:
        for number, each in enumerate(EVENTS):
            each["properties"]["$insert_id"] = f"insert-{number}"
        sent = {"project_id": "42"}
        url = f"{emulator.url}/import"
        httpx.post(url, params=sent, json=EVENTS, auth=AUTH).raise_for_status()
        emulator.add_cohort("Power", ["u1", "u3"], id=5)
        bar(emulator)  # starts the server's worker thread, which serves all tests
        yield emulator


def ask(emu, bookmark, path="insights", **more):
    body = {"project_id": 42, "bookmark": bookmark, "queryLimits": {"limit": 3000}, **more}
    return httpx.post(f"{emu.url}/api/query/{path}", json=body, auth=AUTH)


def series(emu, bookmark):
    response = ask(emu, bookmark)
    assert (200, "") == (response.status_code, "" if response.is_success else response.text)
    (found,) = response.json()["series"].values()
    return found


def bar(emu, *show, **options):
    return series(emu, bookmarks.insights(list(show) or "A", DAYS, chart="bar", **options))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("math", "expected"),
    [
        ("dau", [2, 1, 1]),
        ("wau", [3, 3, 3]),  # u9 of six days before is there on the first day alone
        ("mau", [3, 4, 4]),
        ("cumulative_unique", [2, 3, 3]),
        ("sessions", [2, 1, 1]),
    ],
)
def test_users_and_sessions_by_day(emu, math, expected):
    """Of the days before as well, where a week or a month reaches back."""
    found = series(emu, bookmarks.insights(Metric("A", math), DAYS))
    assert expected == list(found.values())


def test_users_of_a_week_are_those_of_each_group(emu):
    """And of all groups together."""
    found = series(emu, bookmarks.insights(Metric("A", "cumulative_unique"), DAYS, by="p"))
    assert {"$overall": [2, 3, 3], "x": [1, 1, 1], "xy": [1, 1, 1], "z": [0, 1, 1]} == {
        name: list(dates.values()) for name, dates in found.items()
    }


def test_a_histogram_counts_users_by_the_range_of_their_figure(emu):
    """Ranges have a round width; the last header names them."""
    metric = Metric("A", "histogram", property="n", per_user="total")
    bookmark = bookmarks.insights(metric, DAYS, chart="bar")
    assert {"$overall": {"all": 3}, "5 - 10": {"all": 1}, "25 - 30": {"all": 1},
            "40 - 45": {"all": 1}} == series(emu, bookmark)  # fmt: skip
    assert ["$metric", "$histogram"] == ask(emu, bookmark).json()["headers"]


def test_each_group_is_by_its_own_property(emu):
    """One level each, with an `$overall`."""
    found = bar(emu, by=["p", "q"])
    assert {"all": 5} == found["$overall"]
    assert {"$overall": {"all": 3}, "1": {"all": 2}, "2": {"all": 1}} == found["x"]


def test_numbers_beyond_the_buckets_have_groups_of_their_own(emu):
    """Below the least and from the most on."""
    found = bar(emu, by=Breakdown("n", "number", bucket_size=10, least=4, most=20))
    assert {"$overall": 5, "0 - 10": 2, "< 4": 1, "10 - 20": 1, ">= 20": 1} == {
        name: each["all"] for name, each in found.items()
    }


def test_a_group_may_be_a_cohort(emu):
    """An event is in each cohort of its user, or in the opposite."""
    cohorts = [{"id": 5, "name": "Power"}, {"id": 5, "name": "Power", "negated": True}]
    bookmark = bookmarks.insights("A", DAYS, chart="bar")
    bookmark["sections"]["group"] = [{"cohorts": cohorts}]
    assert {"$overall": {"all": 5}, "Power": {"all": 4}, "Not In Power": {"all": 1}} == series(
        emu, bookmark
    )


def test_a_metric_may_be_a_cohort_or_several_events(emu):
    """Its size at each date; the events of all names."""
    bookmark = bookmarks.insights("A", DAYS)
    show = bookmark["sections"]["show"][0]
    show["behavior"] = {"type": "cohort", "id": 5, "name": "Power"}
    assert [2, 2, 2] == list(series(emu, bookmark).values())
    filtered = {"name": "B", "filters": [{"value": "p", "filterOperator": "is set"}]}
    show["behavior"] = {"type": "simple", "behaviors": [{"name": "A"}, filtered]}
    assert [4, 1, 1] == list(series(emu, bookmark).values())


def test_a_report_may_name_saved_metrics_and_behaviors(emu):
    """With changes of the report's own."""

    def save(kind, definition):
        fields = {"name": f"{kind} {definition}", "definition": definition}
        response = httpx.post(f"{emu.url}/api/app/projects/42/{kind}", json=fields, auth=AUTH)
        ((number, _),) = response.json()["results"].items()
        return int(number)

    event = {"type": "event", "name": "A"}
    metric = save("metrics", {"behavior": event, "measurement": {"math": "total"}})
    bookmark = bookmarks.insights("A", DAYS, chart="bar")
    entry = {"type": "metric", "id": metric}
    bookmark["sections"]["show"] = [entry]
    assert {"all": 5} == series(emu, bookmark)
    bookmark["sections"]["show"] = [entry | {"overrides": {"measurement": {"math": "unique"}}}]
    assert {"all": 3} == series(emu, bookmark)
    steps = bookmarks.funnel(["A", "B"], DAYS)
    behavior = save("behaviors", {"behavior": steps["sections"]["show"][0]["behavior"]})
    expected = series(emu, steps)
    steps["sections"]["show"][0]["behavior"] = {"type": "funnel", "id": behavior}
    assert expected == series(emu, steps)
    bookmark["sections"]["show"] = [{"type": "metric", "id": 99}]
    assert 404 == ask(emu, bookmark).status_code


def filtered(operator, value, **more):
    return {"resourceType": "events", "value": "p", "filterOperator": operator,
            "filterValue": value, **more}  # fmt: skip


def of_lines(quantifier, operator="true"):
    item = {"value": "sku", "filterOperator": "equals", "filterValue": ["pen"]}
    entry = filtered(operator, True, listQuantifier=quantifier, listItemFilters=[item])
    return entry | {"value": "lines"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("filter_", "expected"),
    [
        (filtered("starts with", "x"), 4),
        (filtered("ends with", "y"), 1),
        (filtered("ends with", ["y", "z"]), 2),
        (of_lines("any"), 2),
        (of_lines("all"), 1),
        (of_lines("any", "false"), 3),
    ],
)
def test_filters_of_the_ends_of_texts_and_of_objects(emu, filter_, expected):
    """As the web interface has them."""
    bookmark = bookmarks.insights("A", DAYS, chart="bar")
    bookmark["sections"]["filter"] = [filter_]
    assert {"all": expected} == series(emu, bookmark)


def test_a_flow_is_filtered_and_shown_as_a_tree(emu):
    """Counts are texts; a branch is what followed."""
    bookmark = bookmarks.flow(
        ["A", Step("B", where=prop("p") == "y")], DAYS, forward=1, window=1, query_type="flows"
    )
    found = ask(emu, bookmark, "arb_funnels", query_type="flows").json()
    assert ["ANCHOR", "ANCHOR"] == [step["nodes"][0]["type"] for step in found["steps"][:2]]
    (tree,) = found["trees"]
    assert tree["root"]["step"] is None
    (anchor,) = tree["root"]["children"]
    assert ("3", "2", "1") == (
        anchor["totalCount"], anchor["dropOffTotalCount"], anchor["convertedTotalCount"],
    )  # fmt: skip
    assert ["B"] == [each["step"]["event"] for each in anchor["children"]]
    bookmark = bookmarks.flow("A", DAYS, forward=1, window=1, where=prop("p").is_defined())
    bookmark["filter_by_cohort"] = {"id": 5, "negated": False}
    found = ask(emu, bookmark, "arb_funnels", query_type="flows_sankey").json()
    assert ("2", []) == (found["steps"][0]["nodes"][0]["totalCount"], found["trees"])


def changed(bookmark, **behavior):
    bookmark["sections"]["show"][0]["behavior"] |= behavior
    return bookmark


def measured(bookmark, **measurement):
    bookmark["sections"]["show"][0]["measurement"] |= measurement
    return bookmark


FREQUENCY = {"behavior": {"behaviorType": "$frequency"}, "filterOperator": "is at least"}
COMPARED = {"displayOptions": {"timeComparison": {"type": "relative", "value": "week"}}}


@pytest.mark.slow
@pytest.mark.parametrize(
    "bookmark",
    [
        measured(bookmarks.insights("A", DAYS), math="most_frequent"),
        measured(bookmarks.insights("A", DAYS, unit="week"), math="wau"),
        bookmarks.insights("A", DAYS) | COMPARED,
        bookmarks.funnel(["A", "B"], DAYS) | COMPARED,
        bookmarks.retention("A", "B", DAYS) | COMPARED,
        measured(bookmarks.funnel(["A", "B"], DAYS), math="conversion_rate_total"),
        changed(bookmarks.funnel(["A", "B"], DAYS), funnelReentryMode="aggressive"),
        measured(bookmarks.retention("A", "B", DAYS), math="total"),
        changed(bookmarks.insights("A", DAYS), type="funnel", behaviors=[{"name": "A"}],
                funnelOrder="all"),
        bookmarks.funnel(["A", "B"], DAYS, by=Breakdown("n", "number", bucket_size=10)),
    ],
)  # fmt: skip
def test_what_is_not_computed_is_refused(emu, bookmark):
    """Rather than answered with other figures."""
    response = ask(emu, bookmark)
    assert 400 == response.status_code
    assert response.json()["error"]


@pytest.mark.parametrize("section", ["filter", "group"])
def test_frequencies_are_refused(emu, section):
    """They would be counted in each bucket."""
    bookmark = bookmarks.insights("A", DAYS)
    bookmark["sections"][section] = [{"value": "A Frequency", **FREQUENCY}]
    response = ask(emu, bookmark)
    assert (400, True) == (response.status_code, "frequency" in response.json()["error"])


@pytest.mark.parametrize(
    "changes",
    [
        {"exclusions": ["B"]},
        {"segments": [{"value": "p"}]},
        {"count_type": "session"},
        {"conversion_window": {"unit": "session", "value": 1}},
        {"steps": ["A"]},
    ],
)
def test_flows_that_are_not_computed_are_refused(emu, changes):
    """With a reason."""
    response = ask(emu, bookmarks.flow("A", DAYS) | changes, "arb_funnels")
    assert 400 == response.status_code
