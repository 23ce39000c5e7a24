"""Read from Mixpanel for an agent; each function returns a result of limited size."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mixpanel._agents.results import decoded_cursor, page_of
from mixpanel.data.exceptions import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mixpanel.data.workspace import AsyncWorkspace

__all__ = [
    "budget",
    "list_events",
    "list_properties",
    "property_values",
    "search_saved",
]


def budget(workspace: AsyncWorkspace) -> dict[str, int]:
    """Return how many calls are left in this hour, according to the calls of this machine.

    `next_query_in_s` and `next_export_in_s` are the seconds until one more is free, if any is used.
    """
    api = workspace.api
    found = {
        "queries_left_this_hour": api.query_limiter.remaining(),
        "exports_left_this_hour": api.export_limiter.remaining(),
    }
    for name, limiter in (("query", api.query_limiter), ("export", api.export_limiter)):
        seconds = limiter.seconds_to_next()
        if seconds is not None:
            found[f"next_{name}_in_s"] = math.ceil(seconds)
    return found


async def list_events(
    workspace: AsyncWorkspace, *, search: str, limit: int, cursor: str | None
) -> dict[str, Any]:
    """Return the names of the project's events."""
    names = await workspace.list_events()
    return _names("events", names, {"tool": "list_events", "search": search}, limit, cursor)


async def list_properties(
    workspace: AsyncWorkspace, event: str, *, search: str, limit: int, cursor: str | None
) -> dict[str, Any]:
    """Return the names of an event's properties."""
    names = await workspace.list_properties(event)
    scope = {"tool": "list_properties", "event": event, "search": search}
    return {"event": event, **_names("properties", names, scope, limit, cursor)}


async def property_values(
    workspace: AsyncWorkspace,
    property: str,
    event: str,
    *,
    limit: int,
    cursor: str | None,
) -> dict[str, Any]:
    """Return values of a property, the most frequent first."""
    values = await workspace.list_property_values(property, event, 1_000)
    scope = {"tool": "property_values", "event": event, "property": property, "search": ""}
    named = {"event": event, "property": property}
    return {**named, **_names("values", values, scope, limit, cursor)}


def _names(
    field: str, names: Any, scope: Mapping[str, Any], limit: int, cursor: str | None
) -> dict[str, Any]:
    offset = decoded_cursor(cursor, scope)
    wanted = str(scope["search"]).casefold()
    found = [name for name in names if wanted in name.casefold()]
    page = page_of(found[offset:], scope, offset=offset, limit=limit, total=len(found))
    result: dict[str, Any] = {"source": "Mixpanel", field: page.rows, "total": len(found)}
    result |= page.to_dict()
    if names.limit_hit:
        note = f"Mixpanel returns {len(names):,} names at most; there may be others"
        result["left_out"] = "; ".join(filter(None, [result.get("left_out"), note]))
    return result


async def search_saved(
    workspace: AsyncWorkspace, type_: str, *, search: str, limit: int, cursor: str | None
) -> dict[str, Any]:
    """Return saved reports, funnels and cohorts, with their ids.

    :raises ConfigError: for an unknown type.
    """
    rows: list[dict[str, Any]] = []
    if type_ in ("all", "report"):
        rows += [
            {"type": each.type, "id": each.id, "name": each.name, "modified": each.modified}
            for each in await workspace.list_bookmarks()
        ]
    if type_ in ("all", "funnel"):
        rows += [
            {"type": "saved funnel", "id": each.id, "name": each.name}
            for each in await workspace.list_funnels()
        ]
    if type_ in ("all", "cohort"):
        rows += [
            {"type": "cohort", "id": each.id, "name": each.name, "users": each.count}
            for each in await workspace.list_cohorts()
        ]
    if type_ not in ("all", "report", "funnel", "cohort"):
        raise ConfigError(f"type must be all, report, funnel or cohort, not {type_[:40]!r}")
    scope = {"tool": "search_saved", "type": type_, "search": search}
    offset = decoded_cursor(cursor, scope)
    found = [each for each in rows if search.casefold() in str(each["name"]).casefold()]
    page = page_of(found[offset:], scope, offset=offset, limit=limit, total=len(found))
    return {"source": "Mixpanel", "saved": page.rows, "total": len(found), **page.to_dict()}
