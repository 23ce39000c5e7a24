"""The types of `ws.project`, in both workspaces."""

from typing import assert_type

from mixpanel.data import (
    AsyncWorkspace,
    Dashboard,
    Items,
    Me,
    PlannedCall,
    Report,
    Workspace,
)


def sync(ws: Workspace) -> None:
    """Each resource has its model."""
    boards = ws.project.dashboards.list()
    assert_type(boards, Items[Dashboard])
    assert_type(boards[0].title, str | None)
    assert_type(ws.project.reports.get(1), Report)
    assert_type(ws.project.dashboards.plan("delete", 1), PlannedCall)
    assert_type(ws.project.me(), Me)


async def asynchronous(ws: AsyncWorkspace) -> None:
    """With await."""
    assert_type(await ws.project.dashboards.create(title="x"), Dashboard)
    assert_type(await ws.project.dashboards.list(), Items[Dashboard])
    await ws.project.dashboards.delete(1, confirm=True)
