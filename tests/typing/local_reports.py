"""What an editor and a type checker see of local reports. Checked by mypy, never run."""

from typing import assert_type

from mixpanel.data import (
    AsyncWorkspace,
    FlowsResult,
    FrequencyResult,
    FunnelResult,
    NumericSumResult,
    PropertyDistributionResult,
    RetentionResult,
    SegmentationResult,
    Step,
    Workspace,
    prop,
)
from mixpanel.data.analysis.funnel import funnel
from mixpanel.data.analysis.period import Period
from mixpanel.data.analysis.query import Query
from mixpanel.data.analysis.source import EventSource


def reports(ws: Workspace) -> None:
    found = ws.local.segmentation("E", from_date="2026-01-01", to_date="2026-01-02", on="plan")
    assert_type(found, SegmentationResult)
    assert_type(found.series, dict[str, dict[str, float]])
    assert_type(found.sql, str | None)
    assert_type(found.chart(100, color=True), str)
    ws.local.segmentation("E", from_date="2026-01-01", to_date="2026-01-02", unit="year")  # type: ignore[arg-type]
    steps = ws.local.funnel(
        ["A", Step("B", where=prop("amount") > 10)], from_date="2026-01-01", to_date="2026-01-02"
    )
    assert_type(steps, FunnelResult)


def others(ws: AsyncWorkspace) -> None:
    first, last = "2026-01-01", "2026-01-02"
    assert_type(ws.local.retention("A", from_date=first, to_date=last), RetentionResult)
    assert_type(ws.local.frequency(from_date=first, to_date=last), FrequencyResult)
    assert_type(ws.local.flows("A", from_date=first, to_date=last), FlowsResult)
    assert_type(
        ws.local.segmentation_sum("A", from_date=first, to_date=last, on="n"), NumericSumResult
    )
    assert_type(
        ws.local.property_distribution("A", "plan", from_date=first, to_date=last),
        PropertyDistributionResult,
    )


def builders() -> None:
    query = funnel(EventSource("events"), Period.checked("2026-01-01", "2026-01-02"), ["A"])
    assert_type(query, Query[FunnelResult])
    assert_type(query.read([]), FunnelResult)
