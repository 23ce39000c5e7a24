"""The app API: `/me`, projects, and saved objects: reports, cohorts, annotations, the lexicon.

Objects are below `/api/app/projects/{id}/` or `/api/app/workspaces/{id}/`, with a slash at the end
or without; the emulator has one project, whatever its id.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

from pydantic_core import from_json
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mixpanel.emulator._rules.access import basic
from mixpanel.emulator._rules.decode import RefusedRequest, decompress
from mixpanel.emulator._server import responses
from mixpanel.emulator._server.project import Project
from mixpanel.emulator._storage.event_reports import EventReports
from mixpanel.emulator._storage.profile_query import read_form
from mixpanel.emulator._storage.request_log import RecordedRequest
from mixpanel.emulator._storage.saved_reports import WORKSPACE

SCOPED = re.compile(r"(projects|workspaces)/(\d+)/(?:workspaces/\d+/)?(.+)")
CREATED = 201
# Collections with the usual methods: list, create, read, change, delete. The longest prefix wins.
COLLECTIONS = {
    "bookmarks": "bookmarks",
    "dashboards": "dashboards",
    "cohorts": "cohorts",
    "annotations": "annotations",
    "annotations/tags": "tags",
    "webhooks": "webhooks",
    "experiments": "experiments",
    "feature-flags": "feature-flags",
    "alerts/custom": "alerts",
    "custom_properties": "custom_properties",
    "custom_events": "custom_events",
    "data-definitions/tags": "lexicon-tags",
    "data-definitions/events/drop-filters": "drop-filters",
    "data-definitions/lookup-tables": "lookup-tables",
    "data-definitions/events/deletion-requests": "deletion-requests",
    "metrics": "metrics",
    "behaviors": "behaviors",
}
REQUIRED = {
    "bookmarks": ("name", "type"),
    "dashboards": ("title",),
    "cohorts": ("name",),
    "annotations": ("date", "description"),
    "tags": ("name",),
    "webhooks": ("name", "url"),
    "experiments": ("name",),
    "feature-flags": ("name", "key"),
    "alerts": ("bookmark_id", "name"),
    "custom_properties": ("name",),
    "custom_events": ("name",),
    "lexicon-tags": ("name",),
    "metrics": ("name",),
    "behaviors": ("name",),
}
NAMES_OF_IDS = {"bookmarks": "bookmark_ids", "dashboards": "dashboard_ids", "alerts": "ids"}
LISTED_AFTER_CHANGES = ("drop-filters", "deletion-requests")  # each change returns the list
STATUSES = {"launch": "active", "force_conclude": "concluded", "decide": "decided"}
UUIDS = ("experiments", "feature-flags", "webhooks")  # their ids are text
BY_ID = ("metrics", "behaviors")  # their lists are objects by id


class Answer(NamedTuple):
    """The results of a call, its status, and whether they come without an envelope."""

    results: Any
    status: int = 200
    bare: bool = False


class Call(NamedTuple):
    """One call below a project: its method, path, parameters and body."""

    method: str
    path: str
    query: Mapping[str, str]
    body: Mapping[str, Any]
    project_id: str


def app_routes(project: Project) -> list[Route]:
    """Return the routes of the app API."""
    endpoint = AppEndpoints(project).respond
    methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    return [Route("/api/app/{path:path}", endpoint, methods=methods)]


class AppEndpoints:
    """The endpoints of the app API, for one project."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._reports = EventReports(project.warehouse)

    async def respond(self, request: Request) -> Response:
        """Respond to one call.

        :raises RefusedRequest: what is documented for wrong credentials and fields.
        """
        recorded: RecordedRequest = request.state.recorded
        username = self._username(recorded)
        path = unquote(request.scope["path"].removeprefix("/api/app/")).rstrip("/")
        answer = await run_in_threadpool(self._answer, recorded, path, username)
        if answer.status == 204:
            return Response(status_code=204)
        content = answer.results
        if not answer.bare:
            content = {"status": "ok", "results": content}
        return responses.Json(content, answer.status)

    def _username(self, recorded: RecordedRequest) -> str:
        header = recorded.headers.get("authorization", "")
        if self._project.accepts_bearer(header):
            return "bearer"
        credentials = basic(header)
        if credentials is not None and not credentials.password:
            if not self._project.access.accepts_header(header, project_id="", token=False):
                raise RefusedRequest(401, "Invalid credentials")
            return credentials.username
        return self._project.require_account(recorded)

    def _answer(self, recorded: RecordedRequest, path: str, username: str) -> Answer:
        if path == "me":
            return Answer(self._me(username))
        if path == "projects/metadata/index":
            return Answer(self._index())
        found = SCOPED.fullmatch(path)
        if found is None:
            raise RefusedRequest(404, f"there is no endpoint {recorded.path}")
        if found[1] == "projects":
            self._project.saved.add_project(found[2])
        call = Call(recorded.method, found[3], recorded.query, _body(recorded), found[2])
        if call.path == "workspaces/public":
            return Answer([_workspace(call.project_id)])
        for prefix in sorted([*HANDLERS, *COLLECTIONS], key=len, reverse=True):
            if call.path == prefix or call.path.startswith(f"{prefix}/"):
                rest = [*filter(None, call.path[len(prefix) :].split("/"))]
                if prefix in HANDLERS:
                    return HANDLERS[prefix](self, call, rest)
                return self._collection(COLLECTIONS[prefix], call, rest)
        raise RefusedRequest(404, f"there is no endpoint {recorded.path}")

    # Who and where

    def _me(self, username: str) -> dict[str, Any]:
        organization = {"id": 1, "name": "Emulator", "role": "owner", "permissions": []}
        return {
            "user_id": 1,
            "user_name": username,
            "user_email": f"{username}@example.org",
            "organizations": {"1": organization},
            "projects": {each: _project(each) for each in self._project.saved.projects},
            "workspaces": {str(WORKSPACE): _workspace(self._project.saved.projects[0])},
        }

    def _index(self) -> dict[str, Any]:
        return {
            each: {**_project(each), "workspaces": [_workspace(each)]}
            for each in self._project.saved.projects
        }

    # Objects

    def _collection(self, name: str, call: Call, rest: list[str]) -> Answer:
        """List or create objects, or change several."""
        saved = self._project.saved
        if rest and not rest[0].startswith("bulk-"):
            return self._object(name, call, rest[0], rest[1:])
        match call.method, rest:
            case "GET", []:
                return self._listed(name, call)
            case "POST", []:
                return self._created(name, call)
            case ("POST", ["bulk-delete"]) | ("DELETE", []):
                for each in _ids(name, call.body):
                    self._deleted(name, each)
                if name in LISTED_AFTER_CHANGES:
                    return Answer(self._rows(name))
                return Answer(None, 204) if rest else Answer({})
            case "POST", ["bulk-update"]:
                rows = call.body.get(name) or []
                return Answer([saved.update(name, row.get("id", ""), row) for row in rows])
            case "PATCH" | "PUT", []:
                row = saved.update(name, call.body.get("id", ""), call.body)
                return Answer(self._rows(name) if name in LISTED_AFTER_CHANGES else row)
        raise HTTPException(405)

    def _object(self, name: str, call: Call, number: str, rest: list[str]) -> Answer:
        """Read, change or delete one object."""
        saved = self._project.saved
        if rest:
            return self._aspect(name, call, number, rest[0])
        match call.method:
            case "GET":
                return Answer(self._row(name, number, call))
            case "PATCH" | "PUT":
                now = {"modified": self._project.timestamp()} if name == "bookmarks" else {}
                row = saved.update(name, number, {**call.body, **now})
                return Answer(_shown(name, row, call.project_id))
            case "POST" if not call.body.get("delete"):
                raise HTTPException(405)
        self._deleted(name, number)
        return Answer({"id": int(number)})

    def _aspect(self, name: str, call: Call, number: str, aspect: str) -> Answer:
        """Duplicate, archive or mark an object, or list what belongs to it."""
        saved, creates = self._project.saved, call.method == "POST"
        row = saved.get(name, number)
        match call.method, aspect:
            case "POST", "duplicate":
                title = call.body.get("name") or f"{row.get('name')} copy"
                copy = {key: value for key, value in row.items() if key != "id"}
                row = saved.add(name, {**copy, **call.body, "name": title})
                return Answer(_shown(name, row, call.project_id), CREATED)
            case "POST" | "DELETE", "archive":
                status = "archived" if creates else "disabled"
                row = saved.update(name, number, {"status": status})
                return Answer(_shown(name, row, call.project_id))
            case "PUT" | "PATCH", "launch" | "force_conclude" | "decide":
                row = saved.update(name, number, {**call.body, "status": STATUSES[aspect]})
                return Answer(_shown(name, row, call.project_id))
            case "POST" | "DELETE", "favorites" | "pin":
                return Answer(saved.update(name, number, {aspect: creates}))
            case "GET", "history" | "linked-dashboard-ids":
                return Answer([])
        raise HTTPException(405)

    def _listed(self, name: str, call: Call) -> Answer:
        rows = self._rows(name)
        if name == "tags":
            return Answer(rows, bare=True)
        if name == "bookmarks":
            if kind := call.query.get("type"):
                rows = [row for row in rows if row["type"] == kind]
            rows = [_shown(name, row, call.project_id) for row in rows]
            return Answer({"results": rows} if call.query.get("v") == "2" else rows)
        if name == "annotations":
            low, high = call.query.get("fromDate", ""), call.query.get("toDate", "9999")
            rows = [row for row in rows if low <= row["date"][:10] <= high]
        if name in BY_ID:
            return Answer({str(row["id"]): row for row in rows})
        return Answer([_shown(name, row, call.project_id) for row in rows])

    def _rows(self, name: str) -> list[dict[str, Any]]:
        return self._project.cohort_rows() if name == "cohorts" else self._project.saved.rows(name)

    def _row(self, name: str, number: str, call: Call) -> dict[str, Any]:
        if name == "cohorts":
            found = [row for row in self._rows(name) if str(row["id"]) == number]
            return found[0] if found else self._project.saved.get(name, number)
        return _shown(name, self._project.saved.get(name, number), call.project_id)

    def _created(self, name: str, call: Call) -> Answer:
        missing = [each for each in REQUIRED.get(name, ()) if call.body.get(each) in (None, "")]
        if missing:
            raise RefusedRequest(400, f"{', '.join(missing)}: required")
        fields = self._with_defaults(name, call)
        row = self._project.saved.add(name, fields)
        if name == "tags":
            return Answer(row, CREATED, bare=True)
        if name == "custom_events":
            return Answer({"custom_event": row}, CREATED)
        created = CREATED if name in ("annotations", "experiments") else 200
        if name in LISTED_AFTER_CHANGES:
            return Answer(self._rows(name))
        return Answer(_shown(name, row, call.project_id), created)

    def _with_defaults(self, name: str, call: Call) -> dict[str, Any]:
        """Return the fields of a new object, with those that the server adds."""
        now = self._project.timestamp()
        fields: dict[str, Any] = {**call.body}
        if name == "bookmarks":
            fields = {"description": "", "params": {}, "created": now, "modified": now, **fields}
            fields["params"] = _json(fields["params"], "params")
        elif name == "cohorts":
            fields = {"description": "", "created": now, **fields}
        elif name == "annotations":
            known = {row["id"]: row for row in self._project.saved.rows("tags")}
            tags = [known[each] for each in fields.get("tags") or () if each in known]
            fields |= {"tags": tags, "user": {"id": 1, "first_name": "A", "last_name": "B"}}
        elif name == "custom_events":
            fields["alternatives"] = _json(fields.get("alternatives") or [], "alternatives")
        elif name == "tags":
            fields |= {"project_id": int(call.project_id), "has_annotations": False}
        elif name == "feature-flags":
            fields = {"status": "disabled", "ruleset": {}, "tags": [], **fields}
        return fields

    def _deleted(self, name: str, number: int | str) -> None:
        self._project.saved.remove(name, number)
        if name == "cohorts":
            members = self._project.profiles.cohorts
            members.pop(str(number), None)
            self._project.profiles.set_cohorts(members)

    # The lexicon

    def schemas(self, call: Call, rest: list[str]) -> Answer:
        """Schemas: list, create, replace, delete; of one type, or one entry."""
        saved = self._project.saved
        kind, name = rest[0] if rest else None, "/".join(rest[1:]) or call.query.get("entity_name")
        match call.method:
            case "GET":
                found = saved.schemas(kind, name)
                if name is None:
                    return Answer(found)
                if not found:
                    raise RefusedRequest(404, f"there is no schema of {kind} {name!r}")
                return Answer(found[0]["schemaJson"])
            case "POST" | "PATCH" if kind is None:
                return self._store_schemas(call)
            case "POST" | "PATCH" | "PUT" if kind and name:
                saved.set_schema(kind, name, call.body)
                return Answer({"entityType": kind, "name": name, "schemaJson": call.body})
            case "DELETE":
                deleted = saved.delete_schemas(kind, name)
                return Answer({"deleteCount": deleted, "delete_count": deleted})
        raise HTTPException(405)

    def _store_schemas(self, call: Call) -> Answer:
        entries = call.body.get("entries")
        if not isinstance(entries, list):
            raise RefusedRequest(400, "entries must be a list")
        for each in entries:
            match each:
                case {"entityType": str(), "name": str(), "schemaJson": {}}:
                    continue
            raise RefusedRequest(400, "an entry requires entityType, name and schemaJson")
        saved = self._project.saved
        deleted = saved.delete_schemas() if call.body.get("truncate") else 0
        for each in entries:
            saved.set_schema(each["entityType"], each["name"], each["schemaJson"])
        return Answer({"added": len(entries), "deleted": deleted})

    def event_definitions(self, call: Call, rest: list[str]) -> Answer:
        """The lexicon's events: list, change."""
        return self._definitions("events", call, rest)

    def property_definitions(self, call: Call, rest: list[str]) -> Answer:
        """The lexicon's properties: list, change."""
        resource = call.query.get("resourceType", call.body.get("resourceType"))
        if call.method != "GET" and resource not in (None, "Event", "User"):
            raise RefusedRequest(400, f"resourceType must be Event or User, not {resource!r}")
        return self._definitions("properties", call, rest)

    def _definitions(self, kind: str, call: Call, rest: list[str]) -> Answer:
        saved = self._project.saved
        if rest:
            if rest[-1] == "history" or rest == ["tracking-metadata"]:
                return Answer([] if rest[-1] == "history" else {})
            raise RefusedRequest(404, f"there is no endpoint {call.path}")
        match call.method:
            case "GET":
                wanted = _wanted(call.query)
                return Answer(
                    [
                        {"id": n, "name": name, **saved.definition(kind, name)}
                        for n, name in enumerate(self._known(kind), start=1)
                        if wanted is None or name in wanted
                    ]
                )
            case "PATCH":
                rows = call.body.get(kind) or [call.body]
                for row in rows:
                    if not isinstance(row, Mapping) or not isinstance(row.get("name"), str):
                        raise RefusedRequest(400, "name is required")
                    saved.define(kind, row["name"], row)
                places = {each: n for n, each in enumerate(self._known(kind), start=1)}
                changed = [
                    {"id": places.get(row["name"], 0), **saved.definition(kind, row["name"])}
                    for row in rows
                ]
                return Answer(changed if kind in call.body else changed[0])
            case "DELETE":
                return Answer({})
        raise HTTPException(405)

    def _known(self, kind: str) -> list[str]:
        found = self._reports.property_names()
        if kind == "events":
            return sorted(found)
        return sorted({name for names in found.values() for name in names})

    def flag_limits(self, _: Call, __: list[str]) -> Answer:
        """How many feature flags there may be, and are."""
        used = len(self._project.saved.rows("feature-flags"))
        return Answer({**FLAG_LIMITS, "current_usage": used})

    def drop_filter_limits(self, _: Call, __: list[str]) -> Answer:
        """How many drop filters there may be."""
        return Answer({"filterLimit": 100})

    def bookmark_urls(self, call: Call, rest: list[str]) -> Answer:
        """Addresses of reports that are not saved: create, read."""
        saved = self._project.saved
        match call.method, rest:
            case "POST", []:
                if not isinstance(call.body.get("slug"), str):
                    raise RefusedRequest(400, "slug is required")
                return Answer(saved.add("bookmark-urls", call.body), CREATED)
            case "GET", [slug]:
                for row in saved.rows("bookmark-urls"):
                    if row["slug"] == slug:
                        return Answer(row)
                raise RefusedRequest(404, f"there is no report {slug!r}")
        raise HTTPException(405)


FLAG_LIMITS = {"limit": 100, "is_trial": False, "contract_status": "active"}
HANDLERS: dict[str, Callable[[AppEndpoints, Call, list[str]], Answer]] = {
    "schemas": AppEndpoints.schemas,
    "bookmark-urls": AppEndpoints.bookmark_urls,
    "feature-flags/limits": AppEndpoints.flag_limits,
    "data-definitions/events/drop-filters/limits": AppEndpoints.drop_filter_limits,
    "data-definitions/events": AppEndpoints.event_definitions,
    "data-definitions/properties": AppEndpoints.property_definitions,
}


def _body(recorded: RecordedRequest) -> dict[str, Any]:
    encoding = recorded.headers.get("content-encoding", "")
    body = decompress(recorded.body, encoding=encoding, max_size=2**24)
    kind = recorded.headers.get("content-type", "")
    return read_form(body, kind) if body.strip() else {}


def _json(value: Any, name: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return from_json(value)
    except ValueError as error:
        raise RefusedRequest(400, f"{name} is not valid JSON") from error


def _ids(name: str, body: Mapping[str, Any]) -> list[Any]:
    for key in (NAMES_OF_IDS.get(name, "ids"), "cohort_ids", "ids"):
        if isinstance(body.get(key), list):
            return list(body[key])
    if "id" in body:
        return [body["id"]]
    raise RefusedRequest(400, f"{NAMES_OF_IDS.get(name, 'ids')} is required")


def _wanted(query: Mapping[str, str]) -> set[str] | None:
    names = query.get("name") or query.get("names") or query.get("name[]")
    if names is None:
        return None
    found = from_json(names) if names.startswith("[") else [names]
    return set(map(str, found))


def _project(number: str) -> dict[str, Any]:
    return {
        "id": int(number),
        "name": f"Project {number}",
        "organization_id": 1,
        "timezone": "UTC",
        "domain": "http://127.0.0.1",
        "type": "PROJECT",
        "has_workspaces": True,
    }


def _workspace(project_id: str) -> dict[str, Any]:
    return {
        "id": WORKSPACE,
        "name": "All Project Data",
        "project_id": int(project_id),
        "is_default": True,
        "is_global": True,
        "is_restricted": False,
        "is_visible": True,
    }


def _shown(name: str, row: Mapping[str, Any], project_id: str) -> dict[str, Any]:
    """Return an object with the fields that the server adds."""
    if name in ("annotations", "feature-flags"):
        row = {"project_id": int(project_id), **row}
    if name == "webhooks":
        row = {"is_enabled": True, **row}
    if name in UUIDS:
        row = {**row, "id": str(row["id"])}
    if name != "bookmarks":
        return dict(row)
    return {
        "project_id": int(project_id),
        "workspace_id": WORKSPACE,
        "dashboard_id": None,
        "creator_id": 1,
        "creator_name": "Emulator",
        **row,
    }
