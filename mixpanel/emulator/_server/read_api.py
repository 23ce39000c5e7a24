"""The endpoints that read: the raw export, the profile query, and who the caller is."""

import math
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from mixpanel.emulator._rules.access import Budget
from mixpanel.emulator._rules.decode import unzipped
from mixpanel.emulator._server import responses
from mixpanel.emulator._server.project import Project
from mixpanel.emulator._storage import export
from mixpanel.emulator._storage.profile_query import read_form
from mixpanel.emulator._storage.request_log import RecordedRequest


def read_routes(project: Project) -> list[Route]:
    """Return the routes of the endpoints that read, each within the budget of its family."""
    endpoints = ReadEndpoints(project)
    exports = Middleware(Metered, budget=project.exports, now=project.now)
    queries = Middleware(Metered, budget=project.queries, now=project.now)
    return [
        Route("/api/2.0/export", endpoints.export, middleware=[exports]),
        Route("/api/query/engage", endpoints.engage, methods=["POST"], middleware=[queries]),
        Route("/api/app/me", endpoints.me),
    ]


class Metered:
    """Let a call in while its budget lasts, until its answer is sent; else 429."""

    def __init__(self, app: ASGIApp, budget: Budget, now: Callable[[], float]) -> None:
        self._app = app
        self._budget = budget
        self._now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one call in, or refuse it."""
        wait = self._budget.enter(self._now())
        if wait is not None:
            message = "too many requests for this project; see Retry-After"
            answer = responses.refused(scope["path"], 429, message)
            answer.headers["retry-after"] = str(max(1, math.ceil(wait)))
            await answer(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            self._budget.leave()


class ReadEndpoints:
    """The reading endpoints of one project."""

    def __init__(self, project: Project) -> None:
        self._project = project

    async def export(self, request: Request) -> Response:
        """GET /api/2.0/export: raw events, one JSON object a line."""
        project, recorded = self._project, _recorded(request)
        project.demand_credentials(recorded, token=False)
        accepted = recorded.headers.get("accept-encoding", "").lower()
        return await export.answer(
            project.warehouse,
            project.memory,
            recorded.query,
            now=project.now(),
            gzip="gzip" in accepted,
        )

    async def engage(self, request: Request) -> Response:
        """POST /api/query/engage: profiles, a page at a time."""
        project, recorded = self._project, _recorded(request)
        project.demand_credentials(recorded, token=False)
        encoding = recorded.headers.get("content-encoding", "")
        body = unzipped(recorded.body, encoding=encoding, room=project.max_bytes)
        told = read_form(body, recorded.headers.get("content-type", ""))
        page = await run_in_threadpool(project.profiles.page, told, now=project.now())
        return responses.Json(page)

    async def me(self, request: Request) -> Response:
        """GET /api/app/me: whose credentials these are."""
        username = self._project.demand_account(_recorded(request))
        return responses.Json({"status": "ok", "results": {"user_name": username}})


def _recorded(request: Request) -> RecordedRequest:
    recorded: RecordedRequest = request.state.recorded
    return recorded
