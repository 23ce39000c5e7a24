"""What an editor sees of discovery and queries. Checked by mypy, never run."""

from typing import assert_type

from mixpanel.data import (
    AsyncWorkspace,
    Expression,
    FlowsResult,
    FunnelInfo,
    FunnelResult,
    InsightsResult,
    LimitedList,
    Metric,
    RetentionResult,
    SegmentationResult,
    Step,
    Workspace,
    prop,
)
from mixpanel.data.expressions import as_expression


async def async_face(ws: AsyncWorkspace) -> None:
    names = assert_type(await ws.list_events(), LimitedList[str])
    assert_type(names.limit_hit, bool)
    assert_type(await ws.list_funnels(), list[FunnelInfo])
    first, last = "2026-01-01", "2026-01-31"
    team = assert_type((prop("plan") == "team") & ~prop("coupon").is_defined(), Expression)
    counts = await ws.segmentation("Order Paid", from_date=first, to_date=last, where=team)
    assert_type(counts, SegmentationResult)
    assert_type(await ws.query(Metric("Order Paid", "unique"), by="plan"), InsightsResult)
    assert_type(await ws.query_funnel(["Opened App", Step("Order Paid")]), FunnelResult)
    await ws.query(Metric("Order Paid", "uniques"))  # type: ignore[arg-type]  # a misspelt math
    await ws.frequency(from_date=first, to_date=last, unit="year")  # type: ignore[arg-type]


def sync_face(ws: Workspace) -> None:
    result = ws.segmentation("Order Paid", from_date="2026-01-01", to_date="2026-01-31")
    assert_type(result, SegmentationResult)
    assert_type(result.see_in_mixpanel(), str)
    assert_type(ws.query_retention("Opened App", "Order Paid"), RetentionResult)
    assert_type(ws.query_flow("Opened App"), FlowsResult)
    assert_type(as_expression(5) > 3, Expression)
    ws.list_events(5)  # type: ignore[call-arg]  # keyword only
