"""Turn the responses of discovery calls into results."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from mixpanel.data._queries.response_values import as_list, as_object, count, number
from mixpanel.data.discovery import (
    BookmarkInfo,
    FunnelInfo,
    LexiconDefinition,
    LexiconMetadata,
    LexiconProperty,
    LexiconSchema,
    SavedCohort,
    TopEvent,
)

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["similar"]

SIMILAR = 5  # names that an error suggests


def names(response: Any) -> list[str]:
    """Return names or values."""
    return [str(each) for each in as_list(response, "the response")]


def properties(response: Any) -> list[str]:
    """Return the names of an event's properties."""
    return [str(each) for each in as_object(response, "the response")]


def events_with_properties(response: Any) -> dict[str, list[str]]:
    """Return the properties of each event."""
    rows = as_list(as_object(response, "the response").get("results"), "results")
    return {
        str(row.get("name")): sorted(
            str(each.get("name") if isinstance(each, dict) else each)
            for each in as_list(row.get("properties") or [], "properties")
        )
        for row in sorted(rows, key=lambda row: str(as_object(row, "an event").get("name")))
    }


def funnels(response: Any) -> list[FunnelInfo]:
    """Return the saved funnels, sorted by name."""
    rows = [as_object(row, "a funnel") for row in as_list(response, "the response")]
    each = [FunnelInfo(count(row.get("funnel_id")), str(row.get("name", ""))) for row in rows]
    return sorted(each, key=lambda one: one.name)


def cohorts(response: Any) -> list[SavedCohort]:
    """Return the saved cohorts, sorted by name."""
    rows = [as_object(row, "a cohort") for row in as_list(response, "the response")]
    each = [
        SavedCohort(
            id=count(row.get("id")),
            name=str(row.get("name", "")),
            count=count(row.get("count")),
            description=str(row.get("description") or ""),
            created=row.get("created"),
            is_visible=bool(row.get("is_visible", True)),
        )
        for row in rows
    ]
    return sorted(each, key=lambda one: one.name)


def bookmarks(response: Any) -> list[BookmarkInfo]:
    """Return the saved reports, sorted by name; `results` may contain another `results`."""
    found = response
    while isinstance(found, dict) and "results" in found:
        found = found["results"]
    rows = [as_object(row, "a report") for row in as_list(found, "results")]
    each = [
        BookmarkInfo(
            id=count(row.get("id")),
            name=str(row.get("name") or ""),
            type=str(row.get("type") or ""),
            project_id=row.get("project_id"),
            created=row.get("created"),
            modified=row.get("modified"),
            workspace_id=row.get("workspace_id"),
            dashboard_id=row.get("dashboard_id"),
            description=row.get("description"),
            creator_id=row.get("creator_id"),
            creator_name=row.get("creator_name"),
            params=row["params"] if isinstance(row.get("params"), dict) else {},
        )
        for row in rows
    ]
    return sorted(each, key=lambda one: (one.name, one.id))


def top_events(response: Any) -> list[TopEvent]:
    """Return today's most frequent events."""
    rows = as_list(as_object(response, "the response").get("events"), "events")
    return [
        TopEvent(
            event=str(as_object(row, "an event").get("event")),
            count=count(row.get("amount")),
            percent_change=float(number(row.get("percent_change") or 0)),
        )
        for row in rows
    ]


# ---- the lexicon --------------------------------------------------------------------------------


def schemas(response: Any) -> list[LexiconSchema]:
    """Return the lexicon's entries, sorted by type and name."""
    rows = as_list(as_object(response, "the response").get("results"), "results")
    each = [
        LexiconSchema(
            entity_type=str(as_object(row, "an entry").get("entityType", "")),
            name=str(row.get("name", "")),
            schema_json=_definition(row.get("schemaJson")),
        )
        for row in rows
    ]
    return sorted(each, key=lambda one: (one.entity_type, one.name))


def schema(response: Any, entity_type: str, name: str) -> LexiconSchema | None:
    """Return one entry, which may be inside `results`; None if there is none."""
    found = response
    if isinstance(found, dict) and "results" in found:
        found = found["results"]
    if isinstance(found, list):
        found = found[0] if found else None
    if isinstance(found, dict) and "schemaJson" in found:
        found = found["schemaJson"]
    if found is None:
        return None
    return LexiconSchema(entity_type, name, _definition(found))


def _definition(value: Any) -> LexiconDefinition:
    data = as_object(value or {}, "a schema")
    return LexiconDefinition(
        description=data.get("description"),
        properties={
            str(name): LexiconProperty(
                type=inner.get("type"),
                description=inner.get("description"),
                metadata=_metadata(inner.get("metadata")),
            )
            for name, inner in as_object(data.get("properties") or {}, "properties").items()
            if isinstance(inner, dict)
        },
        metadata=_metadata(data.get("metadata")),
    )


def _metadata(value: Any) -> LexiconMetadata | None:
    data = value.get("com.mixpanel") if isinstance(value, dict) else None
    if not isinstance(data, dict):
        return None
    return LexiconMetadata(
        source=data.get("$source"),
        display_name=data.get("displayName"),
        tags=tuple(data.get("tags") or ()),
        hidden=bool(data.get("hidden")),
        dropped=bool(data.get("dropped")),
        contacts=tuple(data.get("contacts") or ()),
        team_contacts=tuple(data.get("teamContacts") or ()),
    )


# ---- the project --------------------------------------------------------------------------------


def timezone(response: Any, project_id: str) -> str | None:
    """Return a project's timezone from the response of `/api/app/me`."""
    results = as_object(response, "the response").get("results")
    projects = results.get("projects") if isinstance(results, dict) else None
    project = projects.get(project_id) if isinstance(projects, dict) else None
    found = project.get("timezone") if isinstance(project, dict) else None
    return found if isinstance(found, str) and found else None


def default_workspace(response: Any, project_id: str) -> int | None:
    """Return the data view of the whole project, from a list or a mapping by project."""
    results = response.get("results") if isinstance(response, dict) else None
    if isinstance(results, dict):
        project = results.get(project_id)
        results = project.get("workspaces") if isinstance(project, dict) else None
        results = list(results.values()) if isinstance(results, dict) else results
    views = results if isinstance(results, list) else []
    rows = [row for row in views if isinstance(row, dict) and row.get("id")]
    for mark in ("is_global", "is_default"):
        for row in rows:
            if row.get(mark):
                return count(row["id"])
    return count(rows[0]["id"]) if rows else None


# ---- names that were not found ------------------------------------------------------------------


def similar(name: str, known: Collection[str]) -> list[str]:
    """Return the most similar names, the most similar first.

    >>> similar("order paid", ["Order Paid", "Order Placed", "Signed Up"])
    ['Order Paid', 'Order Placed']
    """
    lower = {each.casefold(): each for each in reversed(list(known))}
    wanted = name.casefold()
    found = [lower[wanted]] if wanted in lower else []
    found += sorted((one for key, one in lower.items() if wanted in key), key=len)
    found += [lower[each] for each in get_close_matches(wanted, lower, SIMILAR, 0.6)]
    words = _words(wanted)
    sharing = [(len(words & _words(key)), one) for key, one in lower.items()]
    found += [one for shared, one in sorted(sharing, key=lambda pair: -pair[0]) if shared]
    return list(dict.fromkeys(found))[:SIMILAR]


def _words(text: str) -> set[str]:
    return set(text.replace("_", " ").replace("-", " ").split())
