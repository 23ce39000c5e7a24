"""The app API's lexicon: events, properties, schemas and their enforcement, deletions."""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

from starlette.exceptions import HTTPException

from mixpanel.emulator._rules.decode import RefusedRequest
from mixpanel.emulator._server.app_calls import AppResponse, Call, Handler, numbers, read_json
from mixpanel.emulator._server.project import Project
from mixpanel.emulator._storage.event_reports import EventReports

EXPORTS = ("All Events and Properties", "All User Profile Properties")
DELETIONS = "data-definitions/events/deletion-requests"
SETTINGS = "schema-enforcement"


class Lexicon:
    """The lexicon of one project."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._reports = EventReports(project.warehouse)

    def handlers(self) -> dict[str, Handler]:
        """Return the handler of each path below the project."""
        return {
            "schemas": self._schemas,
            "data-definitions/events": self._events,
            "data-definitions/properties": self._properties,
            "data-definitions/export": self._export,
            "data-definitions/schema": self._enforcement,
            "data-definitions/audit": self._audit,
            "data-definitions/audit-events-only": self._audit,
            "data-definitions/data-volume-anomalies": self._anomalies,
            "data-definitions/events/drop-filters/limits": lambda *_: AppResponse(
                {"filterLimit": 100}
            ),
            DELETIONS: self._deletions,
            "custom_events": self._custom_events,
            "custom_properties/validate": self._validate,
        }

    # Schemas

    def _schemas(self, call: Call, rest: list[str]) -> AppResponse:
        """Schemas: list, create, replace, delete; of one type, or one entry."""
        saved = self._project.saved
        kind, name = rest[0] if rest else None, "/".join(rest[1:]) or call.query.get("entity_name")
        match call.method:
            case "GET":
                found = saved.schemas(kind, name)
                if name is None:
                    return AppResponse(found)
                if not found:
                    raise RefusedRequest(404, f"there is no schema of {kind} {name!r}")
                return AppResponse(found[0]["schemaJson"])
            case "POST" | "PATCH" if kind is None:
                return self._store_schemas(call)
            case "POST" | "PUT" if kind and name:
                saved.set_schema(kind, name, call.body)
                return AppResponse({"entityType": kind, "name": name, "schemaJson": call.body})
            case "PATCH" if kind and name:
                known = saved.schemas(kind, name)
                merged = _merged(known[0]["schemaJson"] if known else {}, call.body)
                saved.set_schema(kind, name, merged)
                return AppResponse({"entityType": kind, "name": name, "schemaJson": merged})
            case "DELETE":
                deleted = saved.delete_schemas(kind, name)
                return AppResponse({"deleteCount": deleted, "delete_count": deleted})
        raise HTTPException(405)

    def _store_schemas(self, call: Call) -> AppResponse:
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
        if call.method == "PATCH":
            done = [
                {"entityType": each["entityType"], "name": each["name"], "status": "ok"}
                for each in entries
            ]
            return AppResponse(done)
        return AppResponse({"added": len(entries), "deleted": deleted})

    def _enforcement(self, call: Call, rest: list[str]) -> AppResponse:
        saved = self._project.saved
        now = saved.rows(SETTINGS)
        if rest or call.method not in ("GET", "POST", "PATCH", "PUT", "DELETE"):
            raise HTTPException(405)
        if call.method in ("POST", "PUT"):
            call.require("ruleEvent")
        if not now and call.method != "POST":
            if call.method == "GET":
                return AppResponse({})
            raise RefusedRequest(404, "schemas are not enforced")
        match call.method:
            case "POST":
                row = saved.add(SETTINGS, {**call.body, "state": "ingested"}, id_=1)
            case "GET":
                row = now[0]
            case "DELETE":
                saved.remove(SETTINGS, now[0]["id"])
                return AppResponse({})
            case _:
                row = saved.update(SETTINGS, now[0]["id"], call.body)
        return AppResponse(row)

    def _audit(self, call: Call, _: list[str]) -> AppResponse:
        """Events that have no schema, once there are schemas."""
        if call.method != "GET":
            raise HTTPException(405)
        known = {row["name"] for row in self._project.saved.schemas("event")}
        counts = self._reports.property_names() if known else {}
        violations = [
            {
                "violation": "Unexpected Event",
                "name": name,
                "event": name,
                "count": self._count(name),
            }
            for name in sorted(counts)
            if name not in known
        ]
        computed_at = datetime.fromtimestamp(self._project.now(), UTC).isoformat()
        return AppResponse([violations, {"computed_at": computed_at}])

    def _count(self, name: str) -> int:
        return len(self._project.warehouse.events(name))

    def _anomalies(self, call: Call, rest: list[str]) -> AppResponse:
        saved = self._project.saved
        match call.method, rest:
            case "GET", []:
                rows = saved.rows("anomalies")
                if status := call.query.get("status"):
                    rows = [row for row in rows if row.get("status") == status]
                return AppResponse({"anomalies": rows})
            case "PATCH", []:
                return AppResponse(saved.update("anomalies", call.body.get("id", ""), call.body))
            case "PATCH", ["bulk"]:
                several = call.body.get("anomalies") or []
                for each in several:
                    if not isinstance(each, Mapping):
                        raise RefusedRequest(400, "anomalies must be objects")
                    changes = {**each, "status": call.body.get("status")}
                    saved.update("anomalies", each.get("id", ""), changes)
                return AppResponse({"updated": len(several)})
        raise HTTPException(405)

    # Events and properties

    def _events(self, call: Call, rest: list[str]) -> AppResponse:
        if not rest and (call.query.get("custom_event") == "true" or "customEventId" in call.body):
            return self._custom_definition(call)
        return self._definitions("events", call, rest)

    def _properties(self, call: Call, rest: list[str]) -> AppResponse:
        rows = call.body.get("properties") or [call.body]
        for row in rows if isinstance(rows, list) else ():
            resource = row.get("resourceType", call.query.get("resourceType"))
            if resource not in (None, "Event", "User"):
                raise RefusedRequest(400, f"resourceType must be Event or User, not {resource!r}")
        return self._definitions("properties", call, rest)

    def _definitions(self, kind: str, call: Call, rest: list[str]) -> AppResponse:
        saved = self._project.saved
        if rest == ["tracking-metadata"]:
            name = call.query.get("event_name", "")
            return AppResponse({"event_name": name, "count": self._count(name)})
        if len(rest) > 1 and rest[-1] == "history":
            return AppResponse(saved.changes(kind, "/".join(rest[:-1])))
        if rest:
            raise RefusedRequest(404, f"there is no endpoint {call.path}")
        match call.method:
            case "GET":
                return AppResponse(self._listed(kind, call))
            case "PATCH":
                rows = call.body.get(kind) or [call.body]
                for row in rows:
                    if not isinstance(row, Mapping) or not isinstance(row.get("name"), str):
                        raise RefusedRequest(400, "name is required")
                    saved.define(kind, row["name"], row)
                    fields = sorted(key for key in row if key != "name")
                    saved.log_change(kind, row["name"], self._project.timestamp(), fields)
                by_name = {row["name"]: row for row in self._rows(kind)}
                changed = [by_name[row["name"]] for row in rows]
                return AppResponse(changed if kind in call.body else changed[0])
            case "DELETE":
                call.require("name")
                saved.undefine(kind, str(call.body["name"]))
                return AppResponse({})
        raise HTTPException(405)

    def _listed(self, kind: str, call: Call) -> list[dict[str, Any]]:
        rows = self._rows(kind)
        if call.names:
            rows = [row for row in rows if row["name"] in call.names]
        resource = call.query.get("resourceType")
        if kind == "properties" and resource:
            rows = [row for row in rows if row["resourceType"] == resource]
        return rows

    def _rows(self, kind: str) -> list[dict[str, Any]]:
        """Return what was seen or described, with what the lexicon holds about it."""
        found = self._reports.property_names()
        described = self._project.saved.definitions(kind)
        seen: dict[str, dict[str, Any]] = {name: {} for name in found}
        if kind == "properties":
            seen = {name: {"resourceType": "Event"} for names in found.values() for name in names}
            for properties in self._project.warehouse.profiles().values():
                seen |= {name: {"resourceType": "User"} for name in properties if name not in seen}
        rows = []
        for number, name in enumerate(sorted({*seen, *described}), start=1):
            default = {"resourceType": "Event"} if kind == "properties" else {}
            fields: dict[str, Any] = {**default, **seen.get(name, {}), **described.get(name, {})}
            rows.append({"id": number, **fields, "name": name})
        return rows

    def _export(self, call: Call, _: list[str]) -> AppResponse:
        if call.method != "GET":
            raise HTTPException(405)
        wanted = read_json(call.query.get("export_type", "[]"), "export_type")
        return AppResponse({"export_type": wanted, "status": "the emulator sends no mail"})

    # Custom events and properties

    def _custom_events(self, call: Call, rest: list[str]) -> AppResponse:
        if rest or call.method != "POST":
            raise HTTPException(405)
        call.require("name")
        fields = {**call.body}
        fields["alternatives"] = read_json(fields.get("alternatives") or [], "alternatives")
        return AppResponse({"custom_event": self._project.saved.add("custom_events", fields)})

    def _custom_definition(self, call: Call) -> AppResponse:
        """Custom events as rows of the lexicon: list, change, delete."""
        saved = self._project.saved
        if call.method == "GET":
            return AppResponse([_custom(row) for row in saved.rows("custom_events")])
        number = call.body.get("customEventId", "")
        if call.method == "DELETE":
            saved.remove("custom_events", number)
            return AppResponse({})
        fields = {key: value for key, value in call.body.items() if key != "customEventId"}
        return AppResponse(_custom(saved.update("custom_events", number, fields)))

    def _validate(self, call: Call, _: list[str]) -> AppResponse:
        if call.method != "POST":
            raise HTTPException(405)
        call.require("name", "resourceType")
        return AppResponse({"valid": True})

    # Deletion of events

    def _deletions(self, call: Call, rest: list[str]) -> AppResponse:
        saved = self._project.saved
        match call.method, rest:
            case "GET", []:
                pass
            case "POST", []:
                self._check_range(call)
                row = {**call.body, "status": "Submitted", "deletedEventsCount": 0}
                row |= {"created": self._project.timestamp(), "displayName": row["eventName"]}
                saved.add(DELETIONS, {**row, "requestingUser": {"id": 1}})
            case "POST", ["preview-filters"]:
                self._check_range(call)
                return AppResponse(
                    [{"eventName": call.body["eventName"], "count": self._matching(call)}]
                )
            case "DELETE", []:
                for number in numbers(call.body.get("id"), "id"):
                    saved.get(DELETIONS, number)
                    saved.update(DELETIONS, number, {"status": "Cancelled"})
            case _:
                raise HTTPException(405)
        return AppResponse(saved.rows(DELETIONS))

    def _check_range(self, call: Call) -> None:
        call.require("eventName", "fromDate", "toDate")
        try:
            days = [
                date.fromisoformat(str(call.body[each])[:10]) for each in ("fromDate", "toDate")
            ]
        except ValueError as error:
            raise RefusedRequest(400, "fromDate and toDate must be dates") from error
        if days[0] > days[1]:
            raise RefusedRequest(400, "fromDate is after toDate")

    def _matching(self, call: Call) -> int:
        low, high = str(call.body["fromDate"])[:10], str(call.body["toDate"])[:10]
        times = (
            each["properties"]["time"]
            for each in self._project.warehouse.events(str(call.body["eventName"]))
        )
        return sum(low <= _day(each) <= high for each in times)


def _day(time: float) -> str:
    seconds = time / 1000 if time > 1e11 else time
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def _custom(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "customEventId": row["id"]}


def _merged(now: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object with changes at any depth; null clears a key."""
    merged = dict(now)
    for name, value in changes.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, Mapping) and isinstance(merged.get(name), Mapping):
            merged[name] = _merged(merged[name], value)
        else:
            merged[name] = value
    return merged
