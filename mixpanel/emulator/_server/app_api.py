"""The app API: `/me`, projects, and everything that a project has saved.

Objects are below `/api/app/projects/{id}/` or `/api/app/workspaces/{id}/`, with a slash at the end
or without; the emulator has one project, whatever its id.
"""

import re
from typing import Any
from urllib.parse import unquote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from mixpanel.emulator._rules.access import basic
from mixpanel.emulator._rules.decode import RefusedRequest
from mixpanel.emulator._server import responses
from mixpanel.emulator._server.app_administration import ORGANIZATION, Administration
from mixpanel.emulator._server.app_calls import (
    NO_CONTENT,
    AppResponse,
    Call,
    Handler,
    read_body,
    read_names,
)
from mixpanel.emulator._server.app_collections import COLLECTIONS, Collections
from mixpanel.emulator._server.app_content import Content
from mixpanel.emulator._server.app_lexicon import Lexicon
from mixpanel.emulator._server.app_tables import Tables
from mixpanel.emulator._server.project import Project
from mixpanel.emulator._storage.request_log import RecordedRequest
from mixpanel.emulator._storage.saved_reports import WORKSPACE

SCOPED = re.compile(r"(projects|workspaces)/(\d+)/(?:workspaces/\d+/)?(.+)")
PRIVACY = re.compile(r"(data-retrievals|data-deletions)/v3\.0(?:/(.+))?")
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def app_routes(project: Project) -> list[Route]:
    """Return the routes of the app API."""
    endpoints = AppEndpoints(project)
    return [
        Route("/api/app/{path:path}", endpoints.respond, methods=METHODS),
        *endpoints.tables.routes(),
    ]


class AppEndpoints:
    """The endpoints of the app API, for one project."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._collections = Collections(project)
        self._administration = Administration(project)
        self.tables = Tables(project)
        self._handlers: dict[str, Handler] = {
            **Content(project, self._collections).handlers(),
            **Lexicon(project).handlers(),
            **self.tables.handlers(),
            **self._administration.handlers(),
        }
        # The longest prefix wins.
        self._prefixes = sorted([*self._handlers, *COLLECTIONS], key=len, reverse=True)

    async def respond(self, request: Request) -> Response:
        """Respond to one call.

        :raises RefusedRequest: what is documented for wrong credentials and fields.
        """
        recorded: RecordedRequest = request.state.recorded
        # The raw path: an event's name may have a slash, sent as %2F.
        raw = request.scope.get("raw_path") or request.scope["path"].encode()
        path = raw.decode().partition("?")[0].removeprefix("/api/app/").rstrip("/")
        username = self._username(recorded, path)
        address = f"{request.url.scheme}://{request.url.netloc}"
        names = read_names(request.url.query)
        response = await run_in_threadpool(self._respond, recorded, path, username, names, address)
        if response.status == NO_CONTENT:
            return Response(status_code=NO_CONTENT)
        content = response.results
        if response.bare and isinstance(content, str):
            return PlainTextResponse(content, media_type="text/csv")
        if not response.bare:
            content = {"status": "ok", "results": content}
        return responses.Json(content, response.status)

    def _username(self, recorded: RecordedRequest, path: str) -> str:
        header = recorded.headers.get("authorization", "")
        if self._project.accepts_bearer(header):
            return "bearer"
        if PRIVACY.fullmatch(path):
            raise RefusedRequest(401, "this API requires an OAuth token")
        credentials = basic(header)
        if credentials is not None and not credentials.password:
            if not self._project.access.accepts_header(header, project_id="", token=False):
                raise RefusedRequest(401, "Invalid credentials")
            return credentials.username
        return self._project.require_account(recorded)

    def _respond(
        self,
        recorded: RecordedRequest,
        path: str,
        username: str,
        names: tuple[str, ...],
        address: str,
    ) -> AppResponse:
        if path == "me":
            return AppResponse(self._me(username))
        if path == "projects/metadata/index":
            return AppResponse(self._index())
        method, query, body = recorded.method, recorded.query, read_body(recorded)
        if found := PRIVACY.fullmatch(path):
            call = Call(method, path, query, body, "", address=address)
            return self._administration.privacy(found[1], call, _parts(found[2]))
        if found := re.fullmatch(r"organizations/\d+/(.+)", path):
            call = Call(method, found[1], query, body, "")
            return self._administration.organization(call, _parts(found[1]))
        found = SCOPED.fullmatch(path)
        if found is None:
            raise RefusedRequest(404, f"there is no endpoint {recorded.path}")
        call = Call(method, found[3], query, body, found[2], names, address)
        return self._saved(found[1], call)

    def _saved(self, scope: str, call: Call) -> AppResponse:
        """Respond to a call about what a project has saved."""
        if scope == "projects":
            self._project.saved.add_project(call.project_id)
        else:
            call = call._replace(project_id=self._project.saved.projects[-1])
        if call.path == "workspaces/public":
            return AppResponse([_workspace(call.project_id)])
        for prefix in self._prefixes:
            if call.path == prefix or call.path.startswith(f"{prefix}/"):
                rest = _parts(call.path[len(prefix) :])
                if prefix in self._handlers:
                    return self._handlers[prefix](call, rest)
                return self._collections.respond(prefix, call, rest)
        raise RefusedRequest(404, f"there is no endpoint {call.path}")

    # Who and where

    def _me(self, username: str) -> dict[str, Any]:
        organization = {"id": ORGANIZATION, "name": "Emulator", "role": "owner", "permissions": []}
        return {
            "user_id": 1,
            "user_name": username,
            "user_email": f"{username}@example.org",
            "organizations": {str(ORGANIZATION): organization},
            "projects": {each: _project(each) for each in self._project.saved.projects},
            "workspaces": {str(WORKSPACE): _workspace(self._project.saved.projects[0])},
        }

    def _index(self) -> dict[str, Any]:
        return {
            each: {**_project(each), "workspaces": [_workspace(each)]}
            for each in self._project.saved.projects
        }


def _parts(path: str | None) -> list[str]:
    return [unquote(each) for each in (path or "").split("/") if each]


def _project(number: str) -> dict[str, Any]:
    return {
        "id": int(number),
        "name": f"Project {number}",
        "organization_id": ORGANIZATION,
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
