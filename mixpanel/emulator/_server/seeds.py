"""Seed a project with saved objects: from a mapping, or from a file of JSON or YAML."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from mixpanel._runtime.checked_files import read_at_most
from mixpanel.data._queries import bookmarks
from mixpanel.data.inline_queries import TimeRange
from mixpanel.emulator._rules import lookup_tables
from mixpanel.emulator._server.app_administration import ACCOUNTS, CONTEXT, IMPORTS
from mixpanel.emulator._server.app_lexicon import DELETIONS, SETTINGS
from mixpanel.emulator._server.app_tables import TABLES
from mixpanel.emulator._server.project import Project

SeedSource = Mapping[str, Any] | str | Path
"""Objects by their kind, as `{"dashboards": [{"title": "Weekly"}]}`, or the path of a file."""

MAX_BYTES = 64 * 1024 * 1024
# The names are those of `ws.project`.
COLLECTIONS = {
    "reports": "bookmarks",
    "report_links": "bookmark-urls",
    "dashboards": "dashboards",
    "annotations": "annotations",
    "annotation_tags": "annotations/tags",
    "webhooks": "webhooks",
    "alerts": "alerts/custom",
    "metrics": "metrics",
    "behaviors": "behaviors",
    "feature_flags": "feature-flags",
    "experiments": "experiments",
    "tags": "data-definitions/tags",
    "anomalies": "anomalies",
    "drop_filters": "data-definitions/events/drop-filters",
    "custom_properties": "custom_properties",
    "custom_events": "custom_events",
    "event_deletions": DELETIONS,
    "service_accounts": ACCOUNTS,
    "retrievals": "data-retrievals",
    "deletions": "data-deletions",
    "warehouse_imports": IMPORTS,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "reports": {"description": "", "params": {}},
    "annotations": {"tags": [], "user": None},
    "retrievals": {"status": "SUCCESS", "distinct_ids": []},
    "deletions": {"status": "STAGING", "distinct_ids": []},
    "event_deletions": {"deletedEventsCount": 0, "requestingUser": {"id": 1}, "filters": None},
    "anomalies": {
        "status": "open",
        "anomalyClass": "Event",
        "actualCount": 0,
        "predictedUpper": 0,
        "predictedLower": 0,
        "percentVariance": "0",
        "project": 1,
    },
}


def read_seeds(source: SeedSource) -> Mapping[str, Any]:
    """Return the objects of a mapping or a file, by their kind.

    :raises OSError: the file cannot be read.
    :raises ValueError: it is neither JSON nor YAML, or not a mapping.
    """
    found: Any = source
    if isinstance(source, str | Path):
        text = read_at_most(Path(source), MAX_BYTES)
        is_yaml = Path(source).suffix.lower() in (".yaml", ".yml")
        try:
            found = _yaml(text) if is_yaml else from_json(text, allow_inf_nan=False)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
    if not isinstance(found, Mapping):
        raise ValueError('seeds must be an object, as {"dashboards": [{"title": "Weekly"}]}')  # noqa: TRY004 - a file's content
    return found


def _yaml(text: bytes) -> Any:
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise ValueError("YAML needs: pip install pyyaml; or write the seeds as JSON") from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML: {error}") from error


class Seeder:
    """Put saved objects into a project."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._special: dict[str, Callable[[Any], int]] = {
            "cohorts": self._cohorts,
            "funnels": self._funnels,
            "events": lambda rows: self._definitions("events", rows),
            "properties": lambda rows: self._definitions("properties", rows),
            "schemas": self._schemas,
            "lookup_tables": self._lookup_tables,
            "business_context": self._context,
            "schema_enforcement": self._enforcement,
        }

    def add(self, source: SeedSource) -> int:
        """Add the objects, and return how many there are.

        :raises ValueError: an object lacks what it needs, or its kind is unknown.
        """
        seeds = read_seeds(source)
        unknown = [name for name in seeds if name not in COLLECTIONS and name not in self._special]
        if unknown:
            known = ", ".join([*COLLECTIONS, *self._special])
            raise ValueError(f"{unknown[0]!r} is no kind of saved objects: there are {known}")
        for name, rows in seeds.items():
            if name not in ("business_context", "schema_enforcement"):
                _check_rows(name, rows)
        return sum(self._add(name, rows) for name, rows in seeds.items())

    def _add(self, name: str, rows: Any) -> int:
        if name in self._special:
            return self._special[name](rows)
        now = self._project.timestamp()
        for row in rows:
            fields = {**DEFAULTS.get(name, {}), "created": now, **row}
            if name == "drop_filters" and "eventName" in fields:
                fields["event_name"] = fields.pop("eventName")
            made = self._project.saved.add(COLLECTIONS[name], fields, id_=_id(name, row))
            if name in ("retrievals", "deletions"):
                known = {"tracking_id": str(made["id"])}
                self._project.saved.update(COLLECTIONS[name], made["id"], known)
        return len(rows)

    def _cohorts(self, rows: Sequence[Mapping[str, Any]]) -> int:
        project = self._project
        members = project.profiles.cohorts
        for row in rows:
            fields = {"description": "", "created": project.timestamp(), **row}
            people = fields.pop("members", None)
            made = project.saved.add("cohorts", fields, id_=_id("cohorts", row))
            if people is not None:
                members[str(made["id"])] = [str(each) for each in people]
        project.profiles.set_cohorts(members)
        return len(rows)

    def _funnels(self, rows: Sequence[Mapping[str, Any]]) -> int:
        for row in rows:
            window = {"window": row.get("window", 14), "window_unit": row.get("window_unit", "day")}
            params = bookmarks.funnel(_needed(row, "steps"), TimeRange(last=30), **window)
            fields = {"name": _needed(row, "name"), "type": "funnels", "params": params}
            now = {"created": self._project.timestamp(), "modified": self._project.timestamp()}
            self._project.saved.add("bookmarks", {**fields, **now}, id_=_id("funnels", row))
        return len(rows)

    def _definitions(self, kind: str, rows: Sequence[Mapping[str, Any]]) -> int:
        for row in rows:
            self._project.saved.define(kind, str(_needed(row, "name")), row)
        return len(rows)

    def _schemas(self, rows: Sequence[Mapping[str, Any]]) -> int:
        for row in rows:
            kind, name = str(_needed(row, "entityType")), str(_needed(row, "name"))
            self._project.saved.set_schema(kind, name, _needed(row, "schemaJson"))
        return len(rows)

    def _lookup_tables(self, rows: Sequence[Mapping[str, Any]]) -> int:
        project, now = self._project, self._project.timestamp()
        for row in rows:
            text, name = str(_needed(row, "csv")), str(_needed(row, "name"))
            parsed, failed = lookup_tables.read_table(text)
            if failed:
                raise ValueError(f"lookup table {name!r}: {failed[0].message}")
            token = str(row.get("token") or uuid.uuid4())
            fields = {"name": name, "token": token, "createdAt": now, "lastModifiedAt": now}
            project.saved.add(TABLES, fields, id_=_id("lookup_tables", row))
            project.warehouse.create_lookup_table(token, name)
            project.warehouse.replace_lookup_table(token, parsed)
        return len(rows)

    def _context(self, texts: Any) -> int:
        if not isinstance(texts, Mapping) or not texts.keys() <= {"project", "organization"}:
            raise ValueError('business_context must be {"project": "...", "organization": "..."}')
        for level, text in texts.items():
            self._project.saved.define(CONTEXT, level, {"content": str(text)})
        return len(texts)

    def _enforcement(self, settings: Any) -> int:
        if not isinstance(settings, Mapping):
            raise ValueError("schema_enforcement must be an object")  # noqa: TRY004 - as above
        self._project.saved.add(SETTINGS, {"state": "ingested", **settings}, id_=1)
        return 1


def _check_rows(name: str, rows: Any) -> None:
    if not isinstance(rows, Sequence) or isinstance(rows, str):
        raise ValueError(f"{name} must be a list")  # noqa: TRY004 - a file's content
    for row in rows:
        if not isinstance(row, Mapping):
            raise ValueError(f"{name} must be a list of objects")  # noqa: TRY004 - a file's content
        _id(name, row)


def _id(name: str, row: Mapping[str, Any]) -> int | None:
    number = row.get("id")
    if number is not None and (
        isinstance(number, bool) or not isinstance(number, int) or number < 0
    ):
        raise ValueError(f"{name}: id={number!r} must be a whole number")
    return number


def _needed(row: Mapping[str, Any], name: str) -> Any:
    if row.get(name) in (None, ""):
        raise ValueError(f"{name} is missing in {dict(row)!r:.80}")
    return row[name]
