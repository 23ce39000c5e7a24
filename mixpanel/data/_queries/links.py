"""Addresses at which Mixpanel shows a report, for a browser."""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ReportLink", "new_slug", "saved_address", "unsaved_address"]

ReportKind = Literal["insights", "funnels", "retention", "flows"]
SAVED = {"insights": "report", "funnels": "view", "retention": "report", "flows": "report"}
ALPHABET = string.ascii_letters + string.digits + "_-"


@dataclass(frozen=True, slots=True)
class ReportLink:
    """The report that shows a result: a saved one, or one that `params` describe.

    `params` is called only when the report is opened, as it raises for some queries.
    """

    kind: ReportKind
    bookmark_id: int | None = None
    params: Callable[[], dict[str, Any]] | None = None


def new_slug() -> str:
    """Return a random slug of twelve characters for a report that is not saved."""
    return "".join(secrets.choice(ALPHABET) for _ in range(12))


def saved_address(
    origin: str, project_id: str, view: int | None, kind: str, bookmark_id: int
) -> str:
    """Return the address of a saved report."""
    return f"{_app(origin, project_id, view)}/{kind}#{SAVED[kind]}/{bookmark_id}"


def unsaved_address(origin: str, project_id: str, view: int | None, kind: str, slug: str) -> str:
    """Return the address of a report that is not saved."""
    return f"{_app(origin, project_id, view)}/{kind}#{slug}"


def _app(origin: str, project_id: str, view: int | None) -> str:
    of_view = "" if view is None else f"/view/{view}"
    return f"{origin}/project/{project_id}{of_view}/app"
