"""An emulator with a small shop in it, for the vendors' clients."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx

from mixpanel.data import Credentials, Workspace
from mixpanel.data._queries import bookmarks
from mixpanel.data.inline_queries import Step, TimeRange
from mixpanel.emulator import Emulator

NOW = 1_767_700_000  # 2026-01-06 11:46:40
START = 1_767_225_600  # 2026-01-01
HOUR = 3600
AUTH = ("robot", "s3cret")
PROJECT = "42"
WORKSPACE = 77


def event(name: str, who: str, day: int, hour: float, **properties: Any) -> dict[str, Any]:
    """Return an event of January 2026: `day` 0 is the first."""
    at = START + round((day * 24 + hour) * HOUR)
    fields = {"time": at, "distinct_id": who, "$insert_id": f"{name[:2]}-{who}-{at}"}
    return {"event": name, "properties": {**fields, **properties}}


def opened(who: str, day: int, hour: float, country: str) -> dict[str, Any]:
    """Return an "Opened App"."""
    return event("Opened App", who, day, hour, country=country)


EVENTS = [
    opened("u1", 0, 8, "NO"),
    event("Order Paid", "u1", 0, 9, plan="team", amount=10, country="NO", gift=True,
          items=["pen", "ink"],
          lines=[{"sku": "pen", "price": 2}, {"sku": "ink", "price": 8}],
          due="2026-01-05T00:00:00", cart={"size": 2, "code": "A"}),
    opened("u1", 1, 9, "NO"),
    event("Order Paid", "u1", 2, 9, plan="free", amount=35, country="SE", gift=False,
          items=["pad"], lines=[{"sku": "pad", "price": 35}], due="2026-01-02T00:00:00"),
    opened("u2", 0, 10, "SE"),
    event("Refund", "u2", 0, 11, amount=5),
    event("Order Paid", "u2", 0, 12, plan="free", amount=12, country="SE", items=[]),
    opened("u2", 3, 10, "SE"),
    opened("u3", 1, 7, "NO"),
    event("Order Paid", "u3", 3, 7, plan="team", amount=20.5, country="DK",
          due="2026-01-04T00:00:00"),
    event("Order Paid", "u4", 2, 1, amount="much", cart={"size": 1}),
    opened("u4", 2, 2, "DK"),
    opened("u5", 0, 23.5, "NO"),
    event("Order Paid", "u5", 1, 0.25, plan="team", amount=20, country="NO"),
    opened("u1", 5, 8, "NO"),
    opened("u2", 5, 9, "SE"),
    event("Order Paid", "u2", 5, 9.5, plan="team", amount=7, country="SE"),
]  # fmt: skip
PROFILES = {
    "u1": {"plan": "team", "seats": 3, "tags": ["vip", "new"], "$email": "u1@example.org"},
    "u2": {"plan": "free", "seats": 1, "tags": ["new"], "$email": "u2@example.org"},
    "u3": {"plan": "team", "seats": 8, "$email": "u3@example.org"},
    "u5": {"plan": "free", "seats": 2},
}
COHORT = ["u1", "u3"]
DAYS = TimeRange("2026-01-01", "2026-01-04")


@contextmanager
def shop() -> Iterator[tuple[Emulator, dict[str, int]]]:
    """Run an emulator with events, profiles and saved things; yield it and the ids of these."""
    emulator = Emulator(now=lambda: NOW, service_accounts=dict([AUTH]), tokens=["T"])
    with emulator, httpx.Client(base_url=emulator.url, auth=AUTH) as http:
        sent = http.post("/import", params={"project_id": PROJECT}, json=EVENTS)
        sent.raise_for_status()
        updates = [
            {"$token": "T", "$distinct_id": who, "$set": fields} for who, fields in PROFILES.items()
        ]
        http.post("/engage", json=updates).raise_for_status()
        emulator.add_schema("event", "Order Paid", {"description": "An order was paid."})
        ids = {
            "cohort": emulator.add_cohort("Power", COHORT),
            "funnel": emulator.add_funnel("Checkout", ["Opened App", Step("Order Paid")]),
            "insights": emulator.add_bookmark(
                "Orders", "insights", bookmarks.insights("Order Paid", DAYS)
            ),
            "retention": emulator.add_bookmark(
                "Return", "retention", bookmarks.retention("Opened App", "Order Paid", DAYS)
            ),
            "flow": emulator.add_bookmark("Flow", "flows", bookmarks.flow("Opened App", DAYS)),
        }
        with workspace(emulator) as ws:
            _save(ws, ids)
        yield emulator, ids


@contextmanager
def workspace(emulator: Emulator) -> Iterator[Workspace]:
    """Open our own workspace, with a budget for more than 60 questions."""
    credentials = Credentials(username=AUTH[0], secret=AUTH[1], project_id=PROJECT)
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.dict(os.environ, MP_QUERY_LIMIT="100000"),
        Workspace(
            path=Path(folder, "ours.db"), credentials=credentials, base_url=emulator.url,
            workspace_id=WORKSPACE, max_wait=10,
        ) as ws,
    ):  # fmt: skip
        yield ws


def _save(ws: Workspace, ids: dict[str, int]) -> None:
    """Save one of each thing by our own client, for the others to read."""
    project = ws.project
    ids["dashboard"] = project.dashboards.create(title="Monthly", description="Once a month").id
    ids["annotation"] = project.annotations.create(date="2026-01-02", description="Launch").id
    project.annotation_tags.create(name="release")
    project.webhooks.create(name="Hook", url="https://example.org/hook")
    project.feature_flags.create(
        name="New checkout", key="new-checkout", context="distinct_id", serving_method="client",
        tags=["beta"], ruleset={"variants": [], "rollout": []},
    )  # fmt: skip
    project.experiments.create(name="Blue button")
    project.tags.create(name="core")
    project.metrics.create(name="Orders", definition={"type": "simple"})
