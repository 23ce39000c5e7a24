"""What our own `Workspace` says to the questions that `headless_calls` puts."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from mixpanel.data import Breakdown, Exclusion, Metric, Step, Workspace, prop

DAYS: Any = {"from_date": "2026-01-01", "to_date": "2026-01-04"}
LONG: Any = {"from_date": "2025-12-01", "to_date": "2026-01-06"}
PAID, OPENED = "Order Paid", "Opened App"
INSTANT = re.compile(r"(\d{4}-\d\d-\d\d)(?:T00:00:00(?:\.0+)?(?:\+00:00|Z)?)?")
AMOUNT = 'properties["amount"] > 15'

Ours = Callable[[Workspace, Mapping[str, int]], Any]
Pair = tuple[Ours, Callable[[Any], Any]]


def figures(value: Any) -> Any:
    """Return figures without what clients may write differently: offsets, tuples, 1.0 for 1."""
    if isinstance(value, Mapping):
        return {_label(key): figures(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [figures(each) for each in value]
    if isinstance(value, float) and not isinstance(value, bool):
        return round(value, 9)
    return value


def _label(key: Any) -> str:
    found = INSTANT.fullmatch(str(key))
    return found[1] if found else str(key)


# ---- their answers ------------------------------------------------------------------------------


def whole(value: Any) -> Any:
    """Take an answer as it is."""
    return value


def part(name: str) -> Callable[[Any], Any]:
    """Take one field of an answer."""
    return lambda value: value[name]


def rows(*names: str) -> Callable[[Any], Any]:
    """Take some fields of each object of an answer."""
    return lambda value: [[each[name] for name in names] for each in value]


def steps(value: Any) -> Any:
    """Take the counts and conversion rates of the steps of a funnel."""
    return [[each["event"], each["count"]] for each in value["steps_data"]]


def segments(value: Any) -> Any:
    """Take the counts of each segment of a funnel."""
    (funnel,) = value["series"].values()
    return {
        name: [each["all"] for each in below["count"].values()] for name, below in funnel.items()
    }


def trends(value: Any) -> Any:
    """Take the counts of each date of a funnel."""
    return {name: counts for name, counts in segments(value).items() if name != "$overall"}


def cohorts(value: Any) -> Any:
    """Take the sizes and counts of the cohorts of retention."""
    return {name: [each["first"], each["counts"]] for name, each in value["cohorts"].items()}


def nodes(value: Any) -> Any:
    """Take the nodes of flows, with their counts as numbers."""
    return [
        sorted((each["event"], each["type"], int(each["totalCount"])) for each in step["nodes"])
        for step in value["steps"]
    ]


def nested(value: Any) -> Any:
    """Take the cohorts of a saved report of retention."""
    return {name: [each["first"], each["counts"]] for name, each in value["series"].items()}


# ---- our answers --------------------------------------------------------------------------------


def _steps(result: Any) -> Any:
    return [[each.event, each.count] for each in result.steps]


def _added(result: Any) -> Any:
    """Add up the counts of the dates, as headless does; ours are of the whole time."""
    dates = list(result.dates.values())
    return [
        [step.event, sum(steps[n].count for steps in dates)] for n, step in enumerate(result.steps)
    ]


def _segments(result: Any) -> Any:
    found = {name: [each.count for each in steps] for name, steps in result.segments.items()}
    return {"$overall": [each.count for each in result.steps], **found}


def _cohorts(result: Any) -> Any:
    return {each.date: [each.size, list(each.counts)] for each in result.cohorts}


def _nodes(result: Any) -> Any:
    return [
        sorted((each.event, each.type, each.count) for each in step.nodes) for step in result.steps
    ]


def saved(resource: str, *names: str) -> Pair:
    """Compare some fields of all objects of a kind."""
    return (
        lambda ws, ids: sorted(
            [getattr(each, name) for name in names] for each in getattr(ws.project, resource).list()
        ),
        lambda value: sorted(rows(*names)(value)),
    )


def one(resource: str, id_: str, name: str) -> Pair:
    """Compare one field of one object."""
    return (
        lambda ws, ids: getattr(getattr(ws.project, resource).get(ids[id_]), name)
    ), part(name)  # fmt: skip


def _query(*show: Any, **options: Any) -> Pair:
    options = DAYS | options
    return (lambda ws, ids: ws.query(list(show) or PAID, **options).series), part("series")


def _of(math: Any, **options: Any) -> Pair:
    return _query(Metric(PAID, math, property="amount", **options))


def _where(make: Callable[[Mapping[str, int]], Any]) -> Pair:
    return (
        lambda ws, ids: ws.query(PAID, where=make(ids), **DAYS).series
    ), part("series")  # fmt: skip


def _funnel(pick: Callable[[Any], Any] = _steps, theirs: Any = steps, **options: Any) -> Pair:
    given = {"steps": [OPENED, PAID], **DAYS, **options}
    return (lambda ws, ids: pick(ws.query_funnel(**given))), theirs


def _retention(**options: Any) -> Pair:
    given = {"unit": "day", **DAYS, **options}
    return (lambda ws, ids: _cohorts(ws.query_retention(OPENED, PAID, **given))), cohorts


def _flow(event: Any = OPENED, **options: Any) -> Pair:
    return (lambda ws, ids: _nodes(ws.query_flow(event, **DAYS, **options))), nodes


def _profiles(ids: Any) -> list[str]:
    return sorted(each["distinct_id"] for each in ids)


def profile_ids(value: Any) -> Any:
    """Take the ids of profiles."""
    return sorted(each["distinct_id"] for each in value["profiles"])


def raw_ids(value: Any) -> Any:
    """Take the ids of profiles as the API has them."""
    return sorted(each["$distinct_id"] for each in value)


def _raw(events: Any) -> Any:
    """Take the properties of raw events, but for the time, which clients ask in two units."""
    unlike = ("time", "mp_processing_time_ms")
    return sorted(
        json.dumps(
            [each["event"], {k: v for k, v in each["properties"].items() if k not in unlike}],
            sort_keys=True,
        )
        for each in events
    )


COMPARABLE: dict[tuple[str, str], Pair] = {
    # discovery
    ("events", ""): (lambda ws, ids: ws.list_events(), whole),
    ("properties", ""): (lambda ws, ids: ws.list_properties(PAID), whole),
    ("property_values", ""): (lambda ws, ids: ws.list_property_values("plan", PAID), whole),
    ("funnels", ""): (
        lambda ws, ids: [[each.funnel_id, each.name] for each in ws.list_funnels()],
        rows("funnel_id", "name"),
    ),
    ("cohorts", ""): (
        lambda ws, ids: [[each.id, each.name, each.count] for each in ws.list_cohorts()],
        rows("id", "name", "count"),
    ),
    ("list_bookmarks", ""): (
        lambda ws, ids: sorted([each.id, each.name, each.type] for each in ws.list_bookmarks()),
        lambda value: sorted(rows("id", "name", "type")(value)),
    ),
    ("top_events", ""): (
        lambda ws, ids: [[each.event, each.count] for each in ws.top_events()],
        rows("event", "count"),
    ),
    ("top_events", "unique"): (
        lambda ws, ids: [
            [each.event, each.count] for each in ws.top_events(type="unique", limit=1)
        ],
        rows("event", "count"),
    ),
    ("lexicon_schemas", ""): (
        lambda ws, ids: [[each.entity_type, each.name] for each in ws.lexicon_schemas()],
        rows("entity_type", "name"),
    ),
    ("lexicon_schema", ""): (
        lambda ws, ids: [ws.lexicon_schema("event", PAID).name],
        lambda value: [value["name"]],
    ),
    ("schema_graph", ""): (
        lambda ws, ids: sorted(ws.list_events_with_properties()),
        lambda value: sorted(each["name"] for each in value["events"]),
    ),
    # what is saved
    **{
        (method, "seeded"): saved(resource, *names)
        for method, resource, names in (
            ("list_dashboards", "dashboards", ("id", "title")),
            ("list_cohorts_full", "cohorts", ("id", "name")),
            ("list_bookmarks_v2", "reports", ("id", "name")),
            ("list_annotations", "annotations", ("id", "description")),
            ("list_annotation_tags", "annotation_tags", ("name",)),
            ("list_webhooks", "webhooks", ("name", "url")),
            ("list_feature_flags", "feature_flags", ("name", "key")),
            ("list_experiments", "experiments", ("name",)),
            ("list_lexicon_tags", "tags", ("name",)),
            ("list_metrics", "metrics", ("name",)),
            ("list_schema_registry", "schemas", ("name",)),
        )
    },
    ("get_dashboard", "seeded"): one("dashboards", "dashboard", "title"),
    ("get_annotation", "seeded"): one("annotations", "annotation", "description"),
    ("get_cohort", "seeded"): one("cohorts", "cohort", "name"),
    ("get_bookmark", "seeded"): one("reports", "insights", "params"),
    ("get_event_definitions", "seeded"): (
        lambda ws, ids: [each.name for each in ws.project.events.list(names=[PAID])],
        lambda value: [each["name"] for each in value],
    ),
    # streams
    ("stream_events", ""): (
        lambda ws, ids: sorted(
            [each["event_name"], each["distinct_id"]] for each in ws.stream_events(**DAYS)
        ),
        lambda value: sorted([each["event_name"], each["distinct_id"]] for each in value),
    ),
    ("stream_events", "where"): (
        lambda ws, ids: sorted(
            each["insert_id"] for each in ws.stream_events(**DAYS, events=[PAID], where=AMOUNT)
        ),
        lambda value: sorted(each["insert_id"] for each in value),
    ),
    ("stream_profiles", ""): (lambda ws, ids: _profiles(ws.stream_profiles()), _profiles),
    ("stream_profiles", "where"): (
        lambda ws, ids: _profiles(ws.stream_profiles(where='"vip" in properties["tags"]')),
        _profiles,
    ),
    ("stream_profiles", "cohort"): (
        lambda ws, ids: _profiles(ws.stream_profiles(cohort_id=ids["cohort"])),
        _profiles,
    ),
    # the documented queries
    ("segmentation", ""): (
        lambda ws, ids: ws.segmentation(PAID, **DAYS).series,
        part("series"),
    ),
    ("segmentation", "on"): (
        lambda ws, ids: ws.segmentation(PAID, **DAYS, on="plan").series,
        part("series"),
    ),
    ("segmentation", "where"): (
        lambda ws, ids: ws.segmentation(PAID, **DAYS, where=AMOUNT).series,
        part("series"),
    ),
    ("segmentation_numeric", ""): (
        lambda ws, ids: ws.segmentation_numeric(PAID, **DAYS, on="amount").series,
        part("series"),
    ),
    ("segmentation_sum", ""): (
        lambda ws, ids: ws.segmentation_sum(PAID, **DAYS, on="amount").results,
        part("results"),
    ),
    ("segmentation_average", ""): (
        lambda ws, ids: ws.segmentation_average(PAID, **DAYS, on="amount").results,
        part("results"),
    ),
    ("event_counts", ""): (
        lambda ws, ids: ws.event_counts([PAID, OPENED], **DAYS).series,
        part("series"),
    ),
    ("event_counts", "unique"): (
        lambda ws, ids: ws.event_counts([PAID, OPENED], **DAYS, type="unique", unit="week").series,
        part("series"),
    ),
    ("property_counts", ""): (
        lambda ws, ids: ws.property_counts(PAID, "plan", **DAYS).series,
        part("series"),
    ),
    ("funnel", ""): (
        lambda ws, ids: _added(ws.funnel(ids["funnel"], **DAYS, unit="day")),
        lambda value: [[each["event"], each["count"]] for each in value["steps"]],
    ),
    ("funnel", "on"): (
        lambda ws, ids: _added(ws.funnel(ids["funnel"], **DAYS, on="plan", unit="day")),
        lambda value: [[each["event"], each["count"]] for each in value["steps"]],
    ),
    ("retention", ""): (
        lambda ws, ids: [
            [each.date, each.size, list(each.retention)]
            for each in ws.retention(OPENED, PAID, **DAYS, interval_count=3).cohorts
        ],
        lambda value: rows("date", "size", "retention")(value["cohorts"]),
    ),
    ("frequency", ""): (lambda ws, ids: ws.frequency(**DAYS).data, part("data")),
    ("frequency", "monthly"): (
        lambda ws, ids: ws.frequency(**LONG, event=PAID, unit="month", addiction_unit="day").data,
        part("data"),
    ),
    ("activity_feed", ""): (
        lambda ws, ids: [each.event for each in ws.activity_feed(["u1", "u2"], **LONG).events],
        lambda value: [each["event"] for each in value["events"]],
    ),
    ("query_saved_report", ""): (
        lambda ws, ids: ws.saved_report(ids["insights"]).series,
        part("series"),
    ),
    ("query_saved_report", "retention"): (
        lambda ws, ids: _cohorts(ws.saved_report(ids["retention"]).report),
        nested,
    ),
    ("query_saved_report", "flows"): (
        lambda ws, ids: _nodes(ws.saved_report(ids["flow"]).report),
        lambda value: nodes(value["series"]),
    ),
    ("query_saved_flows", ""): (lambda ws, ids: _nodes(ws.query_flows(ids["flow"])), nodes),
    # inline insights
    **{
        ("query", math): _query(Metric(PAID, math))
        for math in ("total", "unique", "dau", "wau", "mau", "cumulative_unique", "sessions")
    },
    **{
        ("query", f"{math} of amount"): _of(math)
        for math in (
            "total",
            "average",
            "median",
            "min",
            "max",
            "p25",
            "p99",
            "unique_values",
            "numeric_summary",
            "most_frequent",
            "first_value",
        )
    },
    ("query", "saved metric"): _query(),
    ("query", "percentile"): _of("custom_percentile", percentile=80),
    ("query", "histogram"): _of("histogram", per_user="total"),
    ("query", "per user"): _of("average", per_user="total"),
    ("query", "formula"): _query(PAID, OPENED, formula="(A / B) * 100"),
    ("query", "group"): _query(by="plan"),
    ("query", "groups"): _query(by=["plan", "country"]),
    ("query", "buckets"): _query(
        by=Breakdown("amount", "number", bucket_size=10, least=0, most=50)
    ),
    ("query", "table"): _query(by="plan", chart="table"),
    ("query", "rolling"): _query(rolling=2),
    ("query", "cumulative"): _query(cumulative=True),
    ("query", "weeks"): _query(**LONG, unit="week"),
    ("query", "quarters"): _query(**LONG, unit="quarter"),
    ("query", "where equals"): _where(lambda _: prop("plan").is_in(["team", "free"])),
    ("query", "where not equals"): _where(lambda _: prop("plan") != "team"),
    ("query", "where contains"): _where(lambda _: prop("plan").contains("ea")),
    ("query", "where starts with"): _where(lambda _: prop("plan").starts_with("te")),
    ("query", "where ends with"): _where(lambda _: prop("plan").ends_with("ee")),
    ("query", "where greater"): _where(lambda _: prop("amount") > 15),
    ("query", "where at least"): _where(lambda _: prop("amount") >= 20.5),
    ("query", "where between"): _where(lambda _: prop("amount").between(10, 21)),
    ("query", "where set"): _where(lambda _: prop("plan").is_defined()),
    ("query", "where not set"): _where(lambda _: prop("plan").is_undefined()),
    ("query", "where true"): _where(lambda _: prop("gift") == True),  # noqa: E712 - builds a filter
    ("query", "any filter"): _query(
        Metric(PAID, where=(prop("plan") == "free") | (prop("amount") > 15))
    ),
    # inline funnels
    ("query_funnel", ""): _funnel(),
    ("query_funnel", "saved behavior"): _funnel(),
    ("query_funnel", "group"): _funnel(_segments, segments, by="plan"),
    ("query_funnel", "trends"): _funnel(
        lambda result: {day: [each.count for each in steps] for day, steps in result.dates.items()},
        trends,
        trend=True,
    ),
    ("query_funnel", "any order"): _funnel(steps=[PAID, OPENED], order="any"),
    ("query_funnel", "exclusions"): _funnel(exclude=[Exclusion("Refund")]),
    ("query_funnel", "held"): _funnel(hold_constant="country"),
    ("query_funnel", "window"): _funnel(window=2, window_unit="hour"),
    ("query_funnel", "step filter"): _funnel(
        steps=[OPENED, Step(PAID, where=prop("plan") == "team")]
    ),
    ("query_funnel", "totals"): _funnel(math="conversion_rate_total"),
    # inline retention
    ("query_retention", ""): _retention(),
    ("query_retention", "group"): _retention(by="country"),
    ("query_retention", "buckets"): _retention(buckets=[1, 2, 5]),
    ("query_retention", "calendar"): _retention(alignment="interval_start"),
    **{
        ("query_retention", mode): _retention(unbounded=mode)
        for mode in ("carry_back", "carry_forward", "consecutive_forward")
    },
    ("query_retention", "table"): _retention(**LONG, unit="week"),
    # inline flows
    ("query_flow", ""): _flow(),
    ("query_flow", "both ways"): _flow(PAID, forward=1, reverse=2),
    ("query_flow", "steps"): _flow([OPENED, PAID]),
    ("query_flow", "total"): _flow(count_type="total"),
    ("query_flow", "hidden"): _flow(hidden_events=["Refund"]),
    ("query_flow", "exclusions"): _flow(exclude=["Refund"]),
    ("query_flow", "where"): _flow(where=prop("country") == "NO"),
    ("query_flow", "step filter"): _flow(Step(OPENED, where=prop("country").contains("N"))),
    # profiles
    ("query_user", ""): (lambda ws, ids: _profiles(ws.stream_profiles()), profile_ids),
    ("query_user", "where"): (
        lambda ws, ids: _profiles(ws.stream_profiles(where=str(prop("plan") == "team"))),
        profile_ids,
    ),
    ("query_user", "cohort"): (
        lambda ws, ids: _profiles(ws.stream_profiles(cohort_id=ids["cohort"])),
        profile_ids,
    ),
    ("query_user", "count"): (
        lambda ws, ids: ws.engage_stats().results,
        part("aggregate_data"),
    ),
    ("query_user", "extremes"): (
        lambda ws, ids: ws.engage_stats('extremes(properties["seats"])').results,
        part("aggregate_data"),
    ),
    ("query_user", "summary"): (
        lambda ws, ids: ws.engage_stats('numeric_summary(properties["seats"])').results,
        part("aggregate_data"),
    ),
    ("query_user", "by cohort"): (
        lambda ws, ids: ws.engage_stats(segment_by_cohorts=[ids["cohort"]]).results,
        part("aggregate_data"),
    ),
    # mixpanel-utils
    ("query_engage", ""): (lambda ws, ids: _profiles(ws.stream_profiles()), raw_ids),
    ("query_engage", "where"): (
        lambda ws, ids: _profiles(ws.stream_profiles(where='"vip" in properties["tags"]')),
        raw_ids,
    ),
    ("query_engage", "selector"): (
        lambda ws, ids: _profiles(ws.stream_profiles(where='defined(properties["seats"])')),
        raw_ids,
    ),
    ("query_export", ""): (lambda ws, ids: _raw(ws.stream_events(**DAYS, raw=True)), _raw),
    ("query_export", "event"): (
        lambda ws, ids: _raw(ws.stream_events(**DAYS, events=[PAID], raw=True)),
        _raw,
    ),
    ("export_events", ""): (
        lambda ws, ids: _raw(ws.stream_events(**DAYS, raw=True)),
        lambda value: _raw(json.loads(value)),
    ),
    ("export_people", ""): (
        lambda ws, ids: _profiles(ws.stream_profiles()),
        lambda value: raw_ids(json.loads(value)),
    ),
    # parameters that were built before
    ("run_params", ""): _query(),
    ("run_funnel_params", ""): _funnel(),
    ("run_retention_params", ""): _retention(),
    ("run_flow_params", ""): _flow(),
    ("run_user_params", ""): (lambda ws, ids: _profiles(ws.stream_profiles()), profile_ids),
}


def difference(
    method: str, label: str, value: Any, ws: Workspace, ids: Mapping[str, int]
) -> str | None:
    """Return how our answer differs from theirs, "" if it does not, None without a comparison."""
    pair = COMPARABLE.get((method, label))
    if pair is None:
        return None
    ask, take = pair
    try:
        mine, theirs = figures(ask(ws, ids)), figures(take(value))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "" if mine == theirs else f"ours {mine} theirs {theirs}"
