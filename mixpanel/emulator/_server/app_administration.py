"""The app API's accounts, privacy requests, imports from warehouses and business context."""

import json
import secrets
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException

from mixpanel.emulator._rules.decode import RefusedRequest
from mixpanel.emulator._server.app_calls import (
    CREATED,
    NO_CONTENT,
    AppResponse,
    Call,
    Handler,
    numbers,
)
from mixpanel.emulator._server.project import Project

ACCOUNTS, IMPORTS, CONTEXT = "service-accounts", "warehouse-sources/imports", "business-context"
ROLES = ("owner", "admin", "analyst", "consumer")
RUN_EVERY = (0, 3_600_000_000_000, 86_400_000_000_000, 604_800_000_000_000)
MODES = ("time_based", "mirror_mode", "full_sync", "one_time")
REQUIRED = {
    "event-stream": ("time_column_name",),
    "people": ("user_column_name",),
    "groups": ("group_key", "group_id_column"),
    "lookup-table": ("mixpanel_property", "property_key_column_name"),
}
ORGANIZATION = 1
RUNS = 30
CANCELLABLE = ("PENDING", "STAGING")


class Administration:
    """Calls about accounts, people and imports, for one project."""

    def __init__(self, project: Project) -> None:
        self._project = project

    def handlers(self) -> dict[str, Handler]:
        """Return the handler of each path below the project."""
        return {
            ACCOUNTS: self._accounts_of_project,
            IMPORTS: self._imports,
            CONTEXT: self._context_of_project,
        }

    # Organizations

    def organization(self, call: Call, rest: list[str]) -> AppResponse:
        """Respond to a call below an organization.

        :raises RefusedRequest: 404: it has no such path.
        """
        match rest:
            case ["service-accounts", *more]:
                return self._accounts(call, more)
            case ["business-context"]:
                return self._context(call, "organization", {"organization_id": ORGANIZATION})
        raise RefusedRequest(404, f"there is no endpoint {call.path}")

    def _accounts(self, call: Call, rest: list[str]) -> AppResponse:
        saved = self._project.saved
        match call.method, rest:
            case "GET", []:
                return AppResponse([_account(row) for row in saved.rows(ACCOUNTS)])
            case "POST", []:
                return self._create_account(call)
            case "POST", ["add-to-project"]:
                ids = numbers(call.body.get("service_account_ids"), "service_account_ids")
                for number in ids:
                    row = saved.get(ACCOUNTS, number)
                    added = [*row.get("projects", ()), *(call.body.get("projects") or ())]
                    saved.update(ACCOUNTS, number, {"projects": added})
                return AppResponse({})
            case "POST", ["remove-from-project"]:
                for each in call.body.get("projects") or ():
                    for number in numbers(each.get("service_account_ids"), "service_account_ids"):
                        row = saved.get(ACCOUNTS, number)
                        left = [one for one in row.get("projects", ()) if one["id"] != each["id"]]
                        saved.update(ACCOUNTS, number, {"projects": left})
                return AppResponse({})
            case "GET", [number]:
                return AppResponse(_account(saved.get(ACCOUNTS, number)), bare=True)
            case "DELETE", [number]:
                saved.remove(ACCOUNTS, number)
                return AppResponse(None, NO_CONTENT)
        raise HTTPException(405)

    def _create_account(self, call: Call) -> AppResponse:
        call.require("username", "role")
        if call.body["role"] not in ROLES:
            raise RefusedRequest(400, f"role must be one of {', '.join(ROLES)}")
        now = self._project.timestamp()
        fields = {"expires": None, "projects": [], **call.body, "created": now, "last_used": None}
        fields["creator"] = "Emulator"
        row = self._project.saved.add(ACCOUNTS, fields)
        # Only this response has the secret, which is not kept.
        return AppResponse({**_account(row), "token": secrets.token_hex(16)}, CREATED)

    def _accounts_of_project(self, call: Call, rest: list[str]) -> AppResponse:
        if rest or call.method != "GET":
            raise HTTPException(405)
        rows = []
        for row in self._project.saved.rows(ACCOUNTS):
            for each in row.get("projects", ()):
                if str(each.get("id")) == call.project_id:
                    role = {"role": each.get("role"), "target_type": "individual"}
                    email = f"{row['username']}@serviceaccount.example"
                    rows.append({**_account(row), **role, "email": email})
        return AppResponse(rows)

    # Business context

    def _context_of_project(self, call: Call, rest: list[str]) -> AppResponse:
        known = {"project_id": call.project_id}
        if rest == ["chain"] and call.method == "GET":
            saved = self._project.saved
            texts = {
                name: saved.definition(CONTEXT, level).get("content", "")
                for name, level in (
                    ("org_context", "organization"),
                    ("project_context", "project"),
                )
            }
            return AppResponse(texts)
        if rest:
            raise HTTPException(405)
        return self._context(call, "project", known)

    def _context(self, call: Call, level: str, known: Mapping[str, Any]) -> AppResponse:
        saved = self._project.saved
        if call.method == "PUT":
            if not isinstance(call.body.get("content"), str):
                raise RefusedRequest(400, "content: required")
            saved.define(CONTEXT, level, {"content": call.body["content"]})
        elif call.method != "GET":
            raise HTTPException(405)
        content = saved.definition(CONTEXT, level).get("content", "")
        return AppResponse({"level": level, "content": content, **known})

    # Requests of people

    def privacy(self, kind: str, call: Call, rest: list[str]) -> AppResponse:
        """Respond to `/data-retrievals/v3.0/` and `/data-deletions/v3.0/`.

        :raises RefusedRequest: 401 without a valid project token.
        """
        if not self._project.access.accepts_token(call.query.get("token", "")):
            raise RefusedRequest(401, "token is missing, or not one of this project")
        saved = self._project.saved
        match call.method, rest:
            case "POST", []:
                return self._requested(kind, call)
            case "GET", [number]:
                return AppResponse(saved.get(kind, number))
            case "DELETE", [number] if kind == "data-deletions":
                if saved.get(kind, number)["status"] not in CANCELLABLE:
                    raise HTTPException(405, "the deletion has begun already")
                saved.update(kind, number, {"status": "REVOKED"})
                return AppResponse(None, NO_CONTENT)
        raise HTTPException(405)

    def _requested(self, kind: str, call: Call) -> AppResponse:
        ids = call.body.get("distinct_ids")
        most = 2000 if kind == "data-retrievals" else 1999
        if not isinstance(ids, list) or not ids:
            raise RefusedRequest(400, "distinct_ids must be a list")
        if len(ids) > most:
            raise RefusedRequest(400, f"distinct_ids: at most {most}")
        law = call.body.get("compliance_type", "GDPR")
        if law not in ("GDPR", "CCPA"):
            raise RefusedRequest(400, "compliance_type must be GDPR or CCPA")
        saved = self._project.saved
        known = {"compliance_type": law, "distinct_ids": ids, "distinct_id_count": len(ids)}
        known |= {"date_requested": self._project.timestamp(), "requesting_user": "Emulator"}
        row = saved.add(kind, {**known, "status": "STAGING"})
        fields: dict[str, Any] = {"tracking_id": str(row["id"])}
        if kind == "data-retrievals":
            key = secrets.token_hex(16)
            saved.uploads[f"people/{key}.zip"] = json.dumps([str(each) for each in ids]).encode()
            link = f"{call.address}/storage/people/{key}.zip"
            fields |= {"status": "SUCCESS", "results": link, "destination_url": link}
        saved.update(kind, row["id"], fields)
        return AppResponse({"task_id": str(row["id"])}, CREATED)

    # Imports

    def _imports(self, call: Call, rest: list[str]) -> AppResponse:
        saved = self._project.saved
        match call.method, rest:
            case "GET", []:
                return AppResponse([_import(row) for row in saved.rows(IMPORTS)])
            case "POST", [kind] if kind in REQUIRED:
                return self._create_import(call, kind)
            case "GET", [number]:
                return AppResponse(_import(saved.get(IMPORTS, number)))
            case "PATCH", [number]:
                if not isinstance(call.body.get("paused"), bool):
                    raise RefusedRequest(400, "paused: required")
                _check_interval(call.body)
                return AppResponse(_import(saved.update(IMPORTS, number, call.body)))
            case "DELETE", [number]:
                saved.remove(IMPORTS, number)
                return AppResponse({})
            case "PUT", [number, "manual-sync"]:
                return self._run(number)
            case "GET", [number, "history"]:
                return AppResponse(saved.get(IMPORTS, number).get("runs", [])[:RUNS])
        raise HTTPException(405)

    def _create_import(self, call: Call, kind: str) -> AppResponse:
        call.require("warehouse_source_id", "table_params", "sync_mode", *REQUIRED[kind])
        if call.body["sync_mode"] not in MODES:
            raise RefusedRequest(400, f"sync_mode must be one of {', '.join(MODES)}")
        _check_interval(call.body)
        if kind == "event-stream" and not {"event_name", "event_column_name"} & call.body.keys():
            raise RefusedRequest(400, "event_name or event_column_name: required")
        fields = {"paused": False, "run_every": 0, **call.body, "is_deleted": False}
        fields |= {"created": self._project.timestamp(), "creator_id": 1, "last_dispatch": None}
        fields |= {"creator_name": "Emulator", "import_type": kind.replace("-", "_")}
        return AppResponse(_import(self._project.saved.add(IMPORTS, fields)), CREATED)

    def _run(self, number: str) -> AppResponse:
        saved, now = self._project.saved, self._project.timestamp()
        row = saved.get(IMPORTS, number)
        run = {"status": "SUCCEEDED", "start_time": now, "end_time": now, "num_events_imported": 0}
        runs = [run, *row.get("runs", [])]
        saved.update(IMPORTS, number, {"runs": runs, "last_dispatch": now})
        return AppResponse({"run_id": f"run-{number}-{len(runs)}"})


def _check_interval(body: Mapping[str, Any]) -> None:
    if "run_every" in body and body["run_every"] not in RUN_EVERY:
        raise RefusedRequest(400, f"run_every must be one of {', '.join(map(str, RUN_EVERY))}")


def _account(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("projects", "token")}


def _import(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "runs"}
