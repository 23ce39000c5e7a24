"""Checked by mypy, never run: what their users see of workspaces and fetches."""

from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, assert_type

from mixpanel.data import (
    AsyncWorkspace,
    CredentialsCheck,
    FetchPlan,
    FetchResult,
    Progress,
    Workspace,
)


def show(_progress: Progress) -> None:
    """Show the progress of a fetch."""


async def async_workspace() -> None:
    async with AsyncWorkspace.ephemeral("prod", max_wait=0, external_access=True) as ws:
        assert_type(ws, AsyncWorkspace)
        first, last = "2026-01-01", "2026-01-02"
        fetch: Coroutine[Any, Any, FetchResult] = ws.fetch_events(from_date=first, to_date=last)
        assert_type(await fetch, FetchResult)
        await ws.fetch_events("e", from_date=first, to_date=last, progress=show, events=["A"])
        assert_type(await ws.plan_sync("e", lookback_days=3), FetchPlan)
        assert_type(await ws.test_credentials(), CredentialsCheck)
        assert_type(ws.stream_profiles(cohort_id=1), AsyncIterator[dict[str, Any]])


def sync_workspace() -> None:
    with Workspace.memory(read_only=False, workspace_id=1) as ws:
        assert_type(ws, Workspace)
        assert_type(ws.fetch_profiles(distinct_ids=["u"], append=True), FetchResult)
        assert_type(ws.sync_events(from_date="2026-01-01"), FetchResult)
        events = ws.stream_events(from_date="2026-01-01", to_date="2026-01-02", raw=True)
        assert_type(events, Iterator[dict[str, Any]])
        assert_type(Workspace.test_credentials("prod"), CredentialsCheck)


def mistakes(ws: Workspace) -> None:
    ws.fetch_events("e", to_date="2026-01-02")  # type: ignore[call-arg]
    ws.fetch_events(from_date=1, to_date="2026-01-02")  # type: ignore[arg-type]
    ws.fetch_profiles(cohort="x")  # type: ignore[call-arg]
    ws.stream_events(from_date="2026-01-01", to_date="2026-01-02", append=True)  # type: ignore[call-arg]
    Workspace.memory(max_wiat=1)  # type: ignore[call-arg]
