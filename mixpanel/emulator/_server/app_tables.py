"""The app API's lookup tables, and the storage whose signed addresses it gives out."""

import csv
import io
import json
import uuid
import zipfile
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from mixpanel.emulator._rules import lookup_tables
from mixpanel.emulator._rules.decode import RefusedRequest
from mixpanel.emulator._server.app_calls import AppResponse, Call, Handler, numbers
from mixpanel.emulator._server.project import Project

TABLES = "data-definitions/lookup-tables"
ASYNC_FROM = 5_000_000  # bytes; larger files are read after the response, as at Mixpanel


class Tables:
    """The lookup tables of one project; the rows are those of `/lookup-tables` too."""

    def __init__(self, project: Project) -> None:
        self._project = project

    def handlers(self) -> dict[str, Handler]:
        """Return the handler of the path below the project."""
        return {TABLES: self._respond}

    def routes(self) -> list[Route]:
        """Return the routes of the storage, which needs no credentials."""
        return [Route("/storage/{kind}/{key:path}", self._storage, methods=["GET", "PUT"])]

    def _respond(self, call: Call, rest: list[str]) -> AppResponse:
        saved = self._project.saved
        if call.method == "GET":
            return self._read(call, rest)
        match call.method, rest:
            case "POST", []:
                return self._register(call)
            case "PATCH", []:
                call.require("data-group-id", "name")
                row = self._row(str(call.body["data-group-id"]))
                name = str(call.body["name"])
                self._project.warehouse.create_lookup_table(row["token"], name)
                return AppResponse(saved.update(TABLES, row["id"], {"name": name}))
            case "DELETE", []:
                for each in numbers(call.body.get("data-group-ids"), "data-group-ids"):
                    row = self._row(str(each))
                    saved.remove(TABLES, row["id"])
                    self._project.warehouse.drop_lookup_table(row["token"])
                return AppResponse(None, 204)
        raise HTTPException(405)

    def _read(self, call: Call, rest: list[str]) -> AppResponse:
        saved = self._project.saved
        match rest:
            case []:
                wanted = call.query.get("data-group-id")
                rows = [row for row in saved.rows(TABLES) if wanted in (None, str(row["id"]))]
                return AppResponse(rows)
            case ["upload-url"]:
                key = uuid.uuid4().hex
                url = f"{call.address}/storage/lookup/{key}"
                return AppResponse({"url": url, "path": f"lookup/{key}", "key": key})
            case ["upload-status"]:
                result = saved.uploads.get(f"status/{call.query.get('upload-id', '')}")
                if result is None:
                    return AppResponse({"uploadStatus": "NOT_FOUND"})
                return AppResponse({"uploadStatus": "SUCCESS", "result": json.loads(result)})
            case ["download-url"]:
                row = self._row(call.query.get("data-group-id", ""))
                return AppResponse({"url": f"{call.address}/storage/tables/{row['token']}"})
            case ["download"]:
                row = self._row(call.query.get("data-group-id", ""))
                return AppResponse(self._csv(row["token"]).decode("utf-8-sig"), bare=True)
        raise HTTPException(405)

    def _row(self, number: str) -> dict[str, Any]:
        return self._project.saved.get(TABLES, number)

    def _register(self, call: Call) -> AppResponse:
        """Make a table of what was uploaded, or replace one."""
        call.require("name", "key")
        saved, warehouse = self._project.saved, self._project.warehouse
        content = saved.uploads.get(f"lookup/{call.body['key']}")
        if content is None:
            raise RefusedRequest(400, "nothing was uploaded to this path")
        try:
            rows, failed = lookup_tables.read_table(content.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise RefusedRequest(400, f"CSV is not UTF-8: {error}") from error
        if failed:
            first = failed[0]
            raise RefusedRequest(400, f"row {first.index}: {first.message}")
        now, name = self._project.timestamp(), str(call.body["name"])
        if (number := call.body.get("data-group-id")) is not None:
            row = self._row(str(number))
            row = saved.update(TABLES, row["id"], {"name": name, "lastModifiedAt": now})
        else:
            fields: dict[str, Any] = {"name": name, "token": str(uuid.uuid4()), "createdAt": now}
            fields |= {"lastModifiedAt": now, "hasMappedProperties": False}
            row = saved.add(TABLES, fields)
        warehouse.create_lookup_table(row["token"], name)
        warehouse.replace_lookup_table(row["token"], rows)
        saved.uploads[f"tables/{row['token']}"] = content
        if len(content) >= ASYNC_FROM:
            upload = uuid.uuid4().hex
            saved.uploads[f"status/{upload}"] = json.dumps(row).encode()
            return AppResponse({"uploadId": upload})
        return AppResponse(row)

    async def _storage(self, request: Request) -> Response:
        """Store what was uploaded, or return what may be downloaded."""
        key = f"{request.path_params['kind']}/{request.path_params['key']}"
        saved = self._project.saved
        if request.method == "PUT":
            if not key.startswith("lookup/"):
                raise RefusedRequest(403, "this address is for downloads")
            body = request.state.recorded.body
            if len(body) > lookup_tables.MAX_BYTES:
                raise RefusedRequest(413, "a lookup table has at most 100 MB")
            saved.uploads[key] = body
            return Response(status_code=200)
        if key.startswith("people/"):
            return await run_in_threadpool(self._people, key)
        kind, _, token = key.partition("/")
        if kind != "tables" or token not in self._project.warehouse.lookup_tables():
            raise RefusedRequest(404, "there is nothing at this address")
        return PlainTextResponse(self._csv(token), media_type="text/csv")

    def _csv(self, token: str) -> bytes:
        """Return a table as it was uploaded, or write it as CSV if it was not uploaded here."""
        uploaded = self._project.saved.uploads.get(f"tables/{token}")
        if uploaded is not None:
            return uploaded
        rows = self._project.warehouse.lookup_tables()[token]["rows"]
        file = io.StringIO()
        names = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
        return file.getvalue().encode()

    def _people(self, key: str) -> Response:
        """Return a ZIP with the events and profiles of a retrieval."""
        found = self._project.saved.uploads.get(key)
        if found is None:
            raise RefusedRequest(404, "there is nothing at this address")
        wanted, archive = json.loads(found), io.BytesIO()
        warehouse = self._project.warehouse
        events = [each for user in wanted for each in warehouse.events(distinct_id=user)]
        people = warehouse.profiles()
        profiles = [{"$distinct_id": each, **people[each]} for each in wanted if each in people]
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("events.jsonl", "".join(f"{json.dumps(each)}\n" for each in events))
            file.writestr("profiles.jsonl", "".join(f"{json.dumps(each)}\n" for each in profiles))
        return Response(archive.getvalue(), media_type="application/zip")
