"""`ws.local`: reports over tables that were fetched, on both faces of a workspace."""

from datetime import date

import httpx
import pytest

from mixpanel.data import AsyncWorkspace, Credentials, Step, Workspace, prop, user_prop
from mixpanel.data._workspace.local_analysis import LocalAnalysis
from mixpanel.data.exceptions import (
    ConfigError,
    EventNotFoundError,
    IncompleteTableWarning,
    PropertyNotFoundError,
    SQLError,
    TableNotFoundError,
)
from mixpanel.emulator import Emulator

ROBOT = Credentials(username="robot", secret="s3cret", project_id="42")
DAYS = {"from_date": "2026-01-01", "to_date": "2026-01-03"}
HOUR = 3_600_000
BEGAN = 1_767_225_600_000  # 2026-01-01 in UTC


def event(name, hours, user, **properties):
    known = {"time": BEGAN + round(hours * HOUR), "distinct_id": user}
    return {
        "event": name,
        "properties": known | {"$insert_id": f"{name[0]}-{hours}-{user}"} | properties,
    }


EVENTS = [
    event("Opened App", 1, "u1", plan="team"),
    event("Opened App", 2, "u2", plan="free"),
    event("Order Paid", 3, "u1", amount=10),
    event("Opened App", 30, "u1", plan="team"),
    event("Order Paid", 31, "u2", amount=20),
]


@pytest.fixture(scope="module")
def ws():
    """Fetch the events and two profiles from an emulator."""
    with Emulator() as emu, Workspace.memory(credentials=ROBOT, base_url=emu.url) as workspace:
        sent = httpx.post(
            f"{emu.url}/import?strict=1&project_id=42", json=EVENTS, auth=("robot", "s3cret")
        )
        assert 200 == sent.status_code
        people = [
            {"$token": "T", "$distinct_id": f"u{n}", "$set": {"city": city}}
            for n, city in ((1, "Porto"), (2, "Oslo"))
        ]
        assert 200 == httpx.post(f"{emu.url}/engage", json=people).status_code
        workspace.fetch_events(**DAYS, progress=False)
        workspace.fetch_events("old", **DAYS, project_timezone="US/Pacific", progress=False)
        workspace.fetch_profiles("people", progress=False)
        yield workspace


@pytest.mark.slow
def test_each_report_runs_on_a_fetched_table(ws):
    """One after another, on the same table."""
    found = ws.local.segmentation("Opened App", **DAYS, on="plan")
    assert ({"team": 2, "free": 1}, 3) == (
        {name: sum(dates.values()) for name, dates in found.series.items()},
        found.total,
    )
    steps = ws.local.funnel(["Opened App", "Order Paid"], **DAYS).steps
    assert [2, 2] == [step.count for step in steps]
    cohorts = ws.local.retention("Opened App", "Order Paid", **DAYS).cohorts
    assert (2, 1, 1) == (cohorts[0].size, *cohorts[0].counts[:2])
    assert (2, 1) == ws.local.frequency(**DAYS).data["2026-01-01"][:2]
    assert ["Order Paid"] == [
        node.event for node in ws.local.flows("Opened App", **DAYS, forward=1).steps[1].nodes
    ]
    assert 2 == sum(ws.local.event_counts("Order Paid", **DAYS).series["Order Paid"].values())
    assert ["team", "free"] == list(ws.local.property_counts("Opened App", "plan", **DAYS).series)
    assert 20.0 == ws.local.segmentation_sum("Order Paid", **DAYS, on="amount").results[
        "2026-01-02"
    ]  # fmt: skip
    assert 10.0 == ws.local.segmentation_average("Order Paid", **DAYS, on="amount").results[
        "2026-01-01"
    ]  # fmt: skip
    assert ["10 - 11", "20 - 21"] == list(
        ws.local.segmentation_numeric("Order Paid", **DAYS, on="amount").series
    )


@pytest.mark.slow
def test_exploration_runs_on_a_fetched_table(ws):
    """The reports that used to need JQL."""
    plans = ws.local.property_distribution("Opened App", "plan", **DAYS)
    assert [("team", 2), ("free", 1)] == [(each.value, each.count) for each in plans.values]
    amounts = ws.local.numeric_summary("Order Paid", "amount", **DAYS)
    assert (2, 30.0, 15.0) == (amounts.count, amounts.sum, amounts.percentiles[50])
    assert 4 == len(ws.local.daily_counts(**DAYS).counts)
    assert 2 == ws.local.engagement_distribution(**DAYS).total_users
    coverage = ws.local.property_coverage("Opened App", ["plan", "x"], **DAYS).coverage
    assert [100.0, 0.0] == [each.coverage_percentage for each in coverage]


def test_the_sql_of_a_local_result_can_be_run(ws):
    """By `ws.sql_rows`, which only reads."""
    found = ws.local.funnel([Step("Opened App", prop("plan") == "team")], **DAYS)
    assert 1 == ws.sql_rows(found.sql).rows[0][3][0]


def test_profiles_are_joined_if_an_expression_uses_them(ws):
    """As `user["city"]`."""
    found = ws.local.segmentation("Opened App", **DAYS, on=user_prop("city"), profiles="people")
    assert {"Porto": 2, "Oslo": 1} == {n: sum(d.values()) for n, d in found.series.items()}
    with pytest.raises(ConfigError, match=r"unknown name 'user'"):
        ws.local.segmentation("Opened App", **DAYS, on='user["city"]')


def test_the_default_timezone_is_that_of_the_fetch(ws):
    """Another one changes where days begin."""
    assert "UTC" == ws.local.segmentation("Opened App", **DAYS).timezone
    assert "US/Pacific" == ws.local.segmentation("Opened App", **DAYS, table="old").timezone
    tokyo = ws.local.segmentation("Opened App", **DAYS, timezone="Asia/Tokyo")
    assert {"2026-01-01": 2, "2026-01-02": 1, "2026-01-03": 0} == tokyo.series["Opened App"]


@pytest.mark.slow
def test_an_event_that_the_table_lacks_raises_with_similar_names(ws):
    """One that only happened at other times has zeros."""
    with pytest.raises(EventNotFoundError, match=r"did you mean Opened App\?") as caught:
        ws.local.segmentation("opened app", **DAYS)
    assert ["Opened App"] == caught.value.similar_events
    with pytest.raises(EventNotFoundError):
        ws.local.funnel(["Opened App", "Paid"], **DAYS)
    with pytest.raises(EventNotFoundError):
        ws.local.retention("Opened App", "Never", **DAYS)
    with pytest.raises(EventNotFoundError):
        ws.local.flows("Never", **DAYS)
    before = {"from_date": "2025-01-01", "to_date": "2025-01-01"}
    with pytest.warns(IncompleteTableWarning, match="events lacks 2025-01-01, so"):
        assert 0 == ws.local.segmentation("Opened App", **before).total


def test_days_beyond_the_table_up_to_today_raise_a_warning(ws):
    """Its `missing` has their ranges; days to come cannot be fetched."""
    days = {"from_date": "2025-12-30", "to_date": "2026-01-01"}
    with pytest.warns(IncompleteTableWarning) as caught:
        ws.local.segmentation("Opened App", **days)
    (warning,) = [each.message for each in caught]
    assert ("events", ((date(2025, 12, 30), date(2025, 12, 31)),)) == (
        warning.table_name,
        warning.missing,
    )
    assert caught[0].filename == __file__
    ws.local.segmentation("Opened App", from_date="9000-01-01", to_date="9000-01-02")


@pytest.mark.slow
def test_a_property_that_the_event_lacks_raises_with_similar_names(ws):
    """Also if other events have it; but not if no event was counted."""
    for ask in (
        lambda: ws.local.segmentation("Opened App", **DAYS, on="plam"),
        lambda: ws.local.segmentation("Opened App", **DAYS, on=prop("plam")),
        lambda: ws.local.property_counts("Opened App", "plam", **DAYS),
        lambda: ws.local.property_distribution("Opened App", "plam", **DAYS),
    ):
        with pytest.raises(PropertyNotFoundError, match=r"did you mean plan\?"):
            ask()
    with pytest.raises(PropertyNotFoundError):
        ws.local.segmentation("Opened App", **DAYS, on="amount")
    before = {"from_date": "2025-01-01", "to_date": "2025-01-01"}
    with pytest.warns(IncompleteTableWarning):
        assert {} == ws.local.segmentation("Opened App", **before, on="plam").series
    expression = 'number(properties["plan"])'
    assert ["undefined"] == list(ws.local.segmentation("Opened App", **DAYS, on=expression).series)


def test_a_report_needs_an_existing_table_of_events(ws):
    """Names are those of tables, in any case."""
    with pytest.raises(TableNotFoundError):
        ws.local.segmentation("Opened App", **DAYS, table="missing")
    with pytest.raises(ConfigError, match="no column event_name or"):
        ws.local.segmentation("Opened App", **DAYS, table="people")
    with pytest.raises(ConfigError, match="is not a valid table name"):
        ws.local.segmentation("Opened App", **DAYS, table='x"; drop table events')
    assert 3 == ws.local.segmentation("Opened App", **DAYS, table="EVENTS").total


@pytest.mark.slow
def test_an_expression_of_the_wrong_type_raises(ws):
    """Mixpanel rejects it, too."""
    with pytest.raises(SQLError, match="joins conditions"):
        ws.local.segmentation("Opened App", **DAYS, where='properties["plan"] and true')


def test_invalid_arguments_of_local_reports_are_typed_errors(ws):
    """Dates and steps."""
    with pytest.raises(ConfigError, match="is later than"):
        ws.local.segmentation("Opened App", from_date="2026-01-02", to_date="2026-01-01")
    for steps in (None, 7, [None], []):
        with pytest.raises(ConfigError):
            ws.local.funnel(steps, **DAYS)


def test_both_workspaces_have_local_reports():
    """They are plain methods, as they wait for no server."""
    assert isinstance(AsyncWorkspace.local, property)
    assert AsyncWorkspace.local is Workspace.local
    assert "segmentation" in dir(LocalAnalysis)
