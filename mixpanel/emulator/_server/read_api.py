"""The endpoints that read: the raw export and the profile query, and the routes of the others."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from mixpanel.emulator._rules.decode import decompress
from mixpanel.emulator._rules.rate_limits import CallLimiter
from mixpanel.emulator._server import responses
from mixpanel.emulator._server.app_api import app_routes
from mixpanel.emulator._server.project import Project
from mixpanel.emulator._server.query_api import query_routes
from mixpanel.emulator._storage import export
from mixpanel.emulator._storage.profile_query import read_form
from mixpanel.emulator._storage.request_log import RecordedRequest


def read_routes(project: Project) -> list[Route]:
    """Return the routes of the endpoints that read, with the rate limits of their groups."""
    endpoints = ReadEndpoints(project)
    exports = Middleware(RateLimitMiddleware, limiter=project.exports, now=project.now)
    return [
        Route("/api/2.0/export", endpoints.export, middleware=[exports]),
        *query_routes(project, endpoints.engage),
        *app_routes(project),
    ]


class RateLimitMiddleware:
    """Respond 429 to calls above the limits; a call counts until its response was sent."""

    def __init__(self, app: ASGIApp, limiter: CallLimiter, now: Callable[[], float]) -> None:
        self._app = app
        self._budget = limiter
        self._now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one call on, or refuse it."""
        wait = self._budget.enter(self._now())
        if wait is not None:
            message = "too many requests for this project; see Retry-After"
            response = responses.refused(scope["path"], 429, message)
            response.headers["retry-after"] = str(max(1, math.ceil(wait)))
            await response(scope, receive, send)
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
        """GET /api/2.0/export: raw events, one JSON object per line."""
        project, recorded = self._project, _recorded(request)
        project.require_credentials(recorded, token=False)
        accepted = recorded.headers.get("accept-encoding", "").lower()
        return await export.respond(
            project.warehouse,
            project.export_cache,
            recorded.query,
            now=project.now(),
            gzip="gzip" in accepted,
        )

    async def engage(self, request: Request) -> Response:
        """POST /api/query/engage: one page of profiles; GET has the parameters in the URL."""
        project, recorded = self._project, _recorded(request)
        project.require_credentials(recorded, token=False)
        form: Mapping[str, Any] = recorded.query
        if recorded.method == "POST":
            encoding = recorded.headers.get("content-encoding", "")
            body = decompress(recorded.body, encoding=encoding, max_size=project.max_bytes)
            form = read_form(body, recorded.headers.get("content-type", ""))
        page = await run_in_threadpool(project.profiles.page, form, now=project.now())
        return responses.Json(page)


def _recorded(request: Request) -> RecordedRequest:
    recorded: RecordedRequest = request.state.recorded
    return recorded
