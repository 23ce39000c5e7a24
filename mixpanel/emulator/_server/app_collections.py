"""Collections of saved objects: list, create, read, change, delete, and their own calls."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException

from mixpanel.emulator._rules.decode import RefusedRequest
from mixpanel.emulator._server.app_calls import (
    CREATED,
    NO_CONTENT,
    AppResponse,
    Call,
    chosen_ids,
    numbers,
    read_json,
)
from mixpanel.emulator._server.project import Project
from mixpanel.emulator._storage.saved_reports import WORKSPACE

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How a collection differs from the others.

    `ids` is the field of several ids in a body. `by_id`: lists, and single objects, are mappings
    by id. `text_ids`: ids are text. `lists_changes`: each change returns the whole list.
    `unique`: a second object of one name is refused with 409. `hidden` fields are never sent.
    """

    required: tuple[str, ...] = ()
    ids: str = "ids"
    created: int = 200
    defaults: Mapping[str, Any] | None = None
    by_id: bool = False
    text_ids: bool = False
    lists_changes: bool = False
    unique: bool = False
    bare: bool = False
    hidden: tuple[str, ...] = ()
    inside: str = ""  # the key below `results` of a created object


ALERT = {"paused": False, "subscriptions": [], "valid": True, "condition": {}, "frequency": 86_400}
FLAG = {
    "status": "disabled",
    "ruleset": {},
    "tags": [],
    "context": "distinct_id",
    "description": "",
}
FLAG_REQUIRED = ("name", "key")
# By the path below the project; the longest prefix wins.
COLLECTIONS: dict[str, Rules] = {
    "bookmarks": Rules(required=("name", "type"), ids="bookmark_ids"),
    "dashboards": Rules(required=("title",), ids="dashboard_ids", defaults={"description": ""}),
    "cohorts": Rules(required=("name",), ids="cohort_ids", defaults={"description": ""}),
    "annotations": Rules(required=("date", "description"), created=CREATED),
    "annotations/tags": Rules(required=("name",), created=CREATED, bare=True),
    "webhooks": Rules(
        required=("name", "url"), text_ids=True, hidden=("password",),
        defaults={"is_enabled": True, "auth_type": None},
    ),
    "experiments": Rules(
        required=("name",), created=CREATED, text_ids=True, defaults={"status": "draft"}
    ),
    "feature-flags": Rules(required=FLAG_REQUIRED, text_ids=True, defaults=FLAG),
    "alerts/custom": Rules(required=("bookmark_id", "name"), ids="alert_ids", defaults=ALERT),
    "custom_properties": Rules(required=("name", "resourceType")),
    "data-definitions/tags": Rules(required=("name",)),
    "data-definitions/events/drop-filters": Rules(
        required=("event_name",), lists_changes=True, defaults={"active": True, "filters": []}
    ),
    "metrics": Rules(required=("name", "definition"), ids="metrics", by_id=True, unique=True),
    "behaviors": Rules(required=("name",), ids="behaviors", by_id=True, unique=True),
}  # fmt: skip
STATUSES = {"launch": "active", "force_conclude": "concluded", "decide": "success"}
CREATOR = {"creator_id": 1, "creator_name": "Emulator"}


class Collections:
    """The collections of one project."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._aspects: dict[tuple[str, str], Callable[[str, Call, Row], AppResponse]] = {
            ("POST", "duplicate"): self._duplicate,
            ("POST", "archive"): self._archive,
            ("DELETE", "archive"): self._restore,
            ("PUT", "launch"): self._decide,
            ("PUT", "force_conclude"): self._decide,
            ("PATCH", "decide"): self._decide,
            ("POST", "favorites"): self._mark,
            ("DELETE", "favorites"): self._mark,
            ("POST", "pin"): self._mark,
            ("DELETE", "pin"): self._mark,
            ("PUT", "test-users"): self._test_users,
            ("GET", "history"): self._history,
            ("GET", "linked-dashboard-ids"): self._boards_of,
            ("GET", "erf"): self._exchange,
            ("GET", "blueprint-config"): lambda *_: AppResponse({"variables": {}}),
        }

    def respond(self, name: str, call: Call, rest: list[str]) -> AppResponse:
        """Respond to a call of the collection `name`; `rest` are the parts of its path."""
        rules = COLLECTIONS[name]
        match call.method, rest:
            case "GET", []:
                return self._list(name, call)
            case "POST", []:
                if name == "data-definitions/tags" and call.body.get("delete"):
                    return self._delete_named(name, call)
                return self._create(name, call)
            case ("POST", ["bulk-delete"]) | ("DELETE", []):
                return self._delete_several(name, call, bulk=bool(rest))
            case ("POST", ["bulk-update"]) | ("PATCH" | "PUT", []):
                return self._change_several(name, call, bulk=bool(rest))
            case "DELETE", [_] if rules.by_id:
                raise RefusedRequest(501, "delete several, by a list of ids")
            case _, [number]:
                return self._object(name, call, number)
            case _, [number, aspect, *more]:
                return self._aspect(name, call, number, aspect, more)
        raise HTTPException(405)

    def rows(self, name: str) -> list[Row]:
        """Return all objects of a collection."""
        if name == "cohorts":
            return self._project.cohort_rows()
        return self._project.saved.rows(name)

    def row(self, name: str, number: str) -> Row:
        """Return one object.

        :raises RefusedRequest: 404: there is none of this id.
        """
        if name == "cohorts":
            found = [row for row in self.rows(name) if str(row["id"]) == number]
            if found:
                return found[0]
        return self._project.saved.get(name, number)

    def shown(self, name: str, row: Mapping[str, Any], call: Call) -> Row:
        """Return an object with the fields that the server adds, as it is sent."""
        rules = COLLECTIONS[name]
        known: Row = {"id": row["id"], **(rules.defaults or {}), **row}
        known = {key: value for key, value in known.items() if key not in rules.hidden}
        if name in ("bookmarks", "annotations", "feature-flags", "annotations/tags"):
            known = {"id": row["id"], "project_id": int(call.project_id), **known}
        if name == "bookmarks":
            known = {"workspace_id": WORKSPACE, "dashboard_id": None, **CREATOR} | known
        elif name == "dashboards":
            known = {"is_private": False, "is_restricted": False, **CREATOR, **known}
        elif name == "custom_properties":
            known = {"customPropertyId": known["id"], "isVisible": True, **known}
        elif rules.lists_changes:
            known = {"displayName": None, **known, "eventName": known.get("event_name")}
            del known["event_name"]
        elif name == "alerts/custom":
            known = {"bookmark": {"id": known.get("bookmark_id")}, **known}
        if rules.text_ids:
            known["id"] = str(known["id"])
        return known

    # Several objects

    def _list(self, name: str, call: Call) -> AppResponse:
        rules, query = COLLECTIONS[name], call.query
        rows = [self.shown(name, row, call) for row in self.rows(name)]
        if (wanted := chosen_ids(query)) is not None:
            rows = [row for row in rows if str(row["id"]) in wanted]
        if name == "bookmarks":
            if kind := query.get("type"):
                rows = [row for row in rows if row["type"] == kind]
            return AppResponse({"results": rows} if query.get("v") == "2" else rows)
        if name == "annotations":
            low, high = query.get("fromDate", ""), query.get("toDate", "9999")
            rows = [row for row in rows if low <= row["date"][:10] <= high]
        if name in ("feature-flags", "experiments") and query.get("include_archived") != "true":
            rows = [row for row in rows if row.get("status") != "archived"]
        if name == "alerts/custom" and (number := query.get("bookmark_id")):
            rows = [row for row in rows if str(row.get("bookmark_id")) == number]
        if rules.by_id:
            return AppResponse({str(row["id"]): row for row in rows})
        return AppResponse(rows, bare=rules.bare)

    def _create(self, name: str, call: Call) -> AppResponse:
        rules = COLLECTIONS[name]
        call = _in_snake_case(call) if rules.lists_changes else call
        call.require(*rules.required)
        known = {row.get("name") for row in self.rows(name)}
        if rules.unique and call.body["name"] in known:
            raise RefusedRequest(409, f"{call.body['name']!r} exists already")
        row = self._project.saved.add(name, self._with_defaults(name, call))
        if rules.lists_changes:
            return self._list(name, call)
        made = self.shown(name, row, call)
        if rules.by_id:
            return AppResponse({str(row["id"]): made})
        return AppResponse(made, rules.created, bare=rules.bare)

    def _with_defaults(self, name: str, call: Call) -> Row:
        """Return the fields of a new object, with those that the server adds."""
        now = self._project.timestamp()
        fields: Row = {**call.body}
        fields.pop("v", None)
        if name == "bookmarks":
            fields = {"description": "", "params": {}, "created": now, "modified": now, **fields}
            fields["params"] = read_json(fields["params"], "params")
        elif name == "dashboards":
            fields = {"created": now, "modified": now, **fields, "contents": {}}
            fields |= _layout(fields.pop("rows", None) or [])
        elif name == "annotations":
            fields |= {"tags": self._tags(fields.get("tags"))}
            fields["user"] = {"id": 1, "first_name": "A", "last_name": "B"}
        elif name == "feature-flags":
            fields = {"created": now, "modified": now, "hash_salt": secrets.token_hex(16), **fields}
        elif name == "annotations/tags":
            fields |= {"project_id": int(call.project_id), "has_annotations": False}
        elif name in ("metrics", "behaviors"):
            what = fields.get("definition") or fields.get("behavior") or {}
            if name == "behaviors" and not what:
                raise RefusedRequest(400, "definition: required")
            kind = what.get("type", "simple") if isinstance(what, Mapping) else "simple"
            fields = {"type": kind, "definition": what, "description": "", "created": now, **fields}
        elif name not in ("cohorts", "data-definitions/tags"):
            fields = {"created": now, "modified": now, **fields}
        else:
            fields = {"created": now, **fields} if name == "cohorts" else fields
        return fields

    def _tags(self, wanted: Any) -> list[Row]:
        known = {row["id"]: row for row in self.rows("annotations/tags")}
        return [known[each] for each in wanted or () if each in known]

    def _delete_several(self, name: str, call: Call, *, bulk: bool) -> AppResponse:
        rules = COLLECTIONS[name]
        if not bulk and not rules.by_id and not rules.lists_changes:
            raise HTTPException(405)
        found = call.body.get(rules.ids, call.body.get("ids", call.body.get("id")))
        for each in numbers(found, rules.ids):
            self._delete(name, each["id"] if isinstance(each, Mapping) else each)
        if rules.lists_changes:
            return self._list(name, call)
        return AppResponse(None, NO_CONTENT)

    def _delete_named(self, name: str, call: Call) -> AppResponse:
        call.require("name")
        for row in self.rows(name):
            if row["name"] == call.body["name"]:
                self._delete(name, row["id"])
                return AppResponse({})
        raise RefusedRequest(404, "there is none of this name")

    def _change_several(self, name: str, call: Call, *, bulk: bool) -> AppResponse:
        rules = COLLECTIONS[name]
        if not bulk and not rules.by_id and not rules.lists_changes:
            raise HTTPException(405)
        rows = call.body.get(name.rpartition("/")[2]) or [call.body]
        if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
            raise RefusedRequest(400, f"{name} must be a list of objects")
        changed = [self._change(name, str(row.get("id", "")), row) for row in rows]
        if rules.lists_changes:
            return self._list(name, call)
        several = [self.shown(name, row, call) for row in changed]
        return AppResponse({str(row["id"]): row for row in several} if rules.by_id else several)

    # One object

    def _object(self, name: str, call: Call, number: str) -> AppResponse:
        rules = COLLECTIONS[name]
        match call.method:
            case "GET":
                row = self.shown(name, self.row(name, number), call)
            case "PATCH" | "PUT":
                row = self.shown(name, self._change(name, number, call.body), call)
            case "DELETE":
                self._delete(name, number)
                return AppResponse({"id": int(number) if number.isdecimal() else number})
            case _:
                raise HTTPException(405)
        return AppResponse({str(row["id"]): row} if rules.by_id else row)

    def _change(self, name: str, number: str, fields: Mapping[str, Any]) -> Row:
        saved, now = self._project.saved, self._project.timestamp()
        changes = {key: value for key, value in fields.items() if key not in ("id", "v")}
        if "eventName" in changes and COLLECTIONS[name].lists_changes:
            changes["event_name"] = changes.pop("eventName")
        row = self.row(name, number)
        if name in ("bookmarks", "dashboards", "alerts/custom", "feature-flags", "experiments"):
            changes["modified"] = now
        if changes.pop("reset_hash_salt", False):
            changes["hash_salt"] = secrets.token_hex(16)
        if name == "annotations" and "tags" in changes:
            changes["tags"] = self._tags(changes["tags"])
        if name == "dashboards" and "content" in changes:
            changes |= self._with_content(row, changes.pop("content"))
        if name == "behaviors" and "behavior" in changes:
            changes["definition"] = changes["behavior"]
        saved.log_change(name, number, now, sorted(changes))
        if name == "cohorts" and not saved.has(name, number):
            return saved.add(name, {**row, **changes}, id_=row["id"])
        return saved.update(name, number, changes)

    def _with_content(self, board: Row, content: Any) -> Row:
        """Return a board's contents with one report more, or less."""
        contents = dict(board.get("contents") or {})
        match content:
            case {"action": "create", "content_params": {"source_bookmark_id": source}}:
                row = self._project.saved.get("bookmarks", str(source))
                copy = {key: value for key, value in row.items() if key != "id"}
                made = self._project.saved.add("bookmarks", {**copy, "dashboard_id": board["id"]})
                contents[str(made["id"])] = {"content_type": "report", "source": source}
            case {"action": "delete", "content_id": number}:
                mine = [key for key, each in contents.items() if each.get("source") == number]
                for key in {str(number), *mine} & contents.keys():
                    del contents[key]
            case _:
                raise RefusedRequest(400, "content requires an action and what it is about")
        return {"contents": contents}

    def _delete(self, name: str, number: int | str) -> None:
        if name != "cohorts":
            self._project.saved.remove(name, number)
            return
        members = self._project.profiles.cohorts
        is_saved = self._project.saved.has(name, number)
        if is_saved or str(number) not in members:
            self._project.saved.remove(name, number)
        members.pop(str(number), None)
        self._project.profiles.set_cohorts(members)

    # What belongs to one object

    def _aspect(
        self, name: str, call: Call, number: str, aspect: str, more: list[str]
    ) -> AppResponse:
        row = self.row(name, number)
        if aspect in ("text-cards", "report-links") and len(more) == 1 and call.method == "PATCH":
            return AppResponse(
                {"id": int(more[0]) if more[0].isdecimal() else more[0], **call.body}
            )
        found = self._aspects.get((call.method, aspect))
        if found is None or more:
            raise HTTPException(405)
        return found(name, call, row)

    def _duplicate(self, name: str, call: Call, row: Row) -> AppResponse:
        title = call.body.get("name") or f"{row.get('name')} copy"
        copy = {key: value for key, value in row.items() if key not in ("id", "hash_salt")}
        if name == "feature-flags":
            copy["hash_salt"] = secrets.token_hex(16)
        if "key" in copy:
            copy["key"] = f"{copy['key']}-copy"
        row = self._project.saved.add(name, {**copy, **call.body, "name": title})
        return AppResponse(self.shown(name, row, call), CREATED)

    def _archive(self, name: str, call: Call, row: Row) -> AppResponse:
        return AppResponse(
            self.shown(name, self._change(name, row["id"], {"status": "archived"}), call)
        )

    def _restore(self, name: str, call: Call, row: Row) -> AppResponse:
        status = "disabled" if name == "feature-flags" else "draft"
        return AppResponse(
            self.shown(name, self._change(name, row["id"], {"status": status}), call)
        )

    def _decide(self, name: str, call: Call, row: Row) -> AppResponse:
        aspect = call.path.rpartition("/")[2]
        now = self._project.timestamp()
        dates = {"launch": {"start_date": now}, "force_conclude": {"end_date": now}}
        status = STATUSES[aspect]
        if aspect == "decide":
            status = "success" if call.body.get("success") else "fail"
        changes = {**dates.get(aspect, {}), **call.body, "status": status}
        return AppResponse(self.shown(name, self._change(name, row["id"], changes), call))

    def _mark(self, name: str, call: Call, row: Row) -> AppResponse:
        is_marked = call.method == "POST"
        changes: Row = {"is_favorited": is_marked}
        if call.path.endswith("pin"):
            changes = {"pinned_date": self._project.timestamp() if is_marked else None}
        return AppResponse(self.shown(name, self._change(name, row["id"], changes), call))

    def _test_users(self, name: str, call: Call, row: Row) -> AppResponse:
        users = call.body.get("users")
        if not isinstance(users, Mapping):
            raise RefusedRequest(400, "users must be an object")
        ruleset = {**(row.get("ruleset") or {}), "test": {"users": dict(users)}}
        return AppResponse(
            self.shown(name, self._change(name, row["id"], {"ruleset": ruleset}), call)
        )

    def _history(self, name: str, _: Call, row: Row) -> AppResponse:
        changes = self._project.saved.changes(name, row["id"])
        if name == "feature-flags":
            events = [[each["time"], each["fields"]] for each in changes]
            return AppResponse({"events": events, "count": len(events)})
        pages = {"next_cursor": None, "previous_cursor": None, "page_size": 100}
        return AppResponse(
            {"results": [] if name == "alerts/custom" else changes, "pagination": pages}
        )

    def _boards_of(self, _: str, __: Call, row: Row) -> AppResponse:
        return AppResponse(boards_with(self._project, row["id"]))

    def _exchange(self, name: str, call: Call, row: Row) -> AppResponse:
        return AppResponse({"version": 1, "object": self.shown(name, row, call)})


def _in_snake_case(call: Call) -> Call:
    """Return the call with the name of its event as drop filters are sent it, or received."""
    body = dict(call.body)
    if "eventName" in body:
        body["event_name"] = body.pop("eventName")
    return call._replace(body=body)


def boards_with(project: Project, report_id: int) -> list[int]:
    """Return the ids of the boards that show a report, or a copy of it."""
    copies = {str(report_id)}
    found = []
    for board in project.saved.rows("dashboards"):
        contents = board.get("contents") or {}
        sources = {str(each.get("source")) for each in contents.values()}
        if copies & {*contents, *sources}:
            found.append(board["id"])
    report = project.saved.get("bookmarks", report_id)
    if report.get("dashboard_id") is not None:
        found.append(report["dashboard_id"])
    return sorted(set(found))


def _layout(rows: Any) -> Row:
    """Return the contents of a new board."""
    contents: Row = {}
    for row in rows if isinstance(rows, list) else ():
        for each in row.get("contents") or () if isinstance(row, Mapping) else ():
            params = each.get("content_params") or {}
            number = str(len(contents) + 1)
            contents[number] = {
                "content_type": each.get("content_type"),
                "source": params.get("source_bookmark_id"),
                **params,
            }
    return {"contents": contents}
