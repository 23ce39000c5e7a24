"""Checked by mypy and pyright, never run: users' subclasses may override the methods of both faces.

Most sync methods are declared as twins of async ones; for a subclass they are methods like others.
"""

from collections.abc import Mapping
from typing import Any, assert_type

from mixpanel import AsyncMixpanel, ImportResult, Mixpanel
from mixpanel.cdp import AsyncCustomerIO, CustomerIO
from mixpanel.data import SegmentationResult, Workspace
from mixpanel.lookup_tables import LookupTable


class AuditedMixpanel(Mixpanel):
    """A client that adds a property to each event."""

    def track(
        self,
        distinct_id: Any,
        event_name: str,
        properties: Mapping[str, Any] | None = None,
        meta: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Track an event with its origin."""
        super().track(distinct_id, event_name, {**(properties or {}), "audited": True}, meta)

    def lookup_tables(self) -> list[LookupTable]:
        """List the tables by name."""
        return sorted(super().lookup_tables(), key=lambda table: table.name)


class AuditedCustomerIO(CustomerIO):
    """A client that normalises ids."""

    def delete_person(self, user_id: Any, *args: Any, **options: Any) -> None:
        """Delete a person by the normalised id."""
        return assert_type(super().delete_person(str(user_id), *args, **options), None)


class TeamWorkspace(Workspace):
    """A workspace that segments by plan."""

    def segmentation(self, event: str, *args: Any, **options: Any) -> SegmentationResult:
        """Segment by plan unless another property is given."""
        options.setdefault("on", "plan")
        return super().segmentation(event, *args, **options)


def types_are_kept(ws: TeamWorkspace, mp: AuditedMixpanel) -> None:
    assert_type(ws.segmentation("Order Paid"), SegmentationResult)
    assert_type(mp.import_events([]), ImportResult)


async def outcome_depends_on_the_face(sync: CustomerIO, parallel: AsyncCustomerIO) -> None:
    assert_type(sync.track("u-17", "Order Paid"), None)
    assert_type(await parallel.track("u-17", "Order Paid"), None)
    assert_type(await AsyncMixpanel("t").import_events([]), ImportResult)


class Mistaken(Workspace):
    """A subclass whose override cannot be called as the method it replaces."""

    def segmentation(self) -> int:  # type: ignore[override]
        """Take no event and return a number."""
        return 1
