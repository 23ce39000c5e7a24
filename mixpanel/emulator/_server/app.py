"""The emulator's ASGI app: ingestion, lookup tables, flags; more endpoints in `read_api` and `cdp`.

`build_app` wraps the endpoints in a middleware that records every request and plays faults.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from mixpanel._page.entries import RequestRecord
from mixpanel._page.routes import PATHS
from mixpanel.emulator._rules import decode, lookup_tables
from mixpanel.emulator._rules.decode import RefusedRequest
from mixpanel.emulator._rules.events import Event, ValidationResult, validate_events
from mixpanel.emulator._rules.profiles import validate_updates
from mixpanel.emulator._server import responses
from mixpanel.emulator._server.cdp import cdp_limit, cdp_routes
from mixpanel.emulator._server.exchange import ClientDisconnected, RequestExchange
from mixpanel.emulator._server.live import Publisher, live_endpoint, request_records
from mixpanel.emulator._server.logins import login_routes
from mixpanel.emulator._server.origins import (
    Caller,
    Guard,
    Headers,
    cors_headers,
    is_page_path,
    preflight,
    with_headers,
)
from mixpanel.emulator._server.project import Project
from mixpanel.emulator._server.read_api import read_routes
from mixpanel.emulator._storage.flags import read_context
from mixpanel.emulator._storage.request_log import RecordedRequest

FORM_GROWTH = 3  # percent-encoding turns one byte into at most three
FORM_FIELDS = 1024
_FUNCTION = re.compile(r"[A-Za-z_$][\w$]*(\.[A-Za-z_$][\w$]*)*", re.ASCII)


@dataclass(slots=True)
class _Sent:
    """A decoded request to an ingestion endpoint."""

    records: list[Any]
    form: dict[str, str] | None
    query: dict[str, str]
    size: int

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return a 0/1 parameter of the query, else of the form."""
        value = self.query.get(name, (self.form or {}).get(name))
        return default if value is None else value in ("1", "true")

    @property
    def callback(self) -> str | None:
        """The function that a script of a page wants to be called with the response (JSONP)."""
        name = self.query.get("callback", (self.form or {}).get("callback"))
        return name if name is not None and _FUNCTION.fullmatch(name) else None


def build_app(project: Project, guard: Guard) -> ASGIApp:
    """Return the ASGI app of a project; `guard` decides which requests it accepts."""
    endpoints = Endpoints(project)
    live = live_endpoint(project)
    routes = [
        *(Route(path, live, methods=["GET", "POST", "DELETE"]) for path in sorted(PATHS)),
        Route("/track", endpoints.track, methods=["POST"]),
        Route("/import", endpoints.import_, methods=["POST"]),
        Route("/engage", endpoints.engage, methods=["POST"]),
        Route("/groups", endpoints.groups, methods=["POST"]),
        Route("/lookup-tables", endpoints.list_lookup_tables),
        Route("/lookup-tables/{table_id}", endpoints.replace_lookup_table, methods=["PUT"]),
        Route("/flags", endpoints.evaluate_flags),
        Route("/flags/definitions", endpoints.flag_definitions),
        *read_routes(project),
        *cdp_routes(project),
        *login_routes(project),
    ]
    handlers: dict[Any, Any] = {RefusedRequest: _refuse, HTTPException: _refuse_route}
    return RecordingMiddleware(
        Starlette(routes=routes, exception_handlers=handlers), project, guard
    )


async def _refuse(request: Request, refused: RefusedRequest) -> Response:
    return responses.refused(request.url.path, refused.status, refused.message)


async def _refuse_route(request: Request, error: HTTPException) -> Response:
    message = f"{error.detail}: {request.method} {request.url.path}"
    return responses.refused(request.url.path, error.status_code, message)


class RecordingMiddleware:
    """Record each request, and play the next fault that applies to it."""

    def __init__(self, app: ASGIApp, project: Project, guard: Guard) -> None:
        self._app = app
        self._project = project
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; trailing slashes of its path are ignored."""
        allowed: Headers = []
        if scope["type"] == "http":
            caller = Caller.of(scope)
            path = _without_origin(scope["path"], caller.hosts)
            scope = {**scope, "path": path.rstrip("/") or "/"}
            refusal = self._guard.refusal(scope, caller)
            if refusal is not None:
                await refusal(scope, receive, send)
                return
            if self._guard.is_foreign(caller):
                allowed = cors_headers(caller.origins[0])
                send = with_headers(send, allowed)
                if caller.is_preflight:
                    await preflight(caller)(scope, receive, send)
                    return
        if scope["type"] != "http" or is_page_path(scope["path"]):
            await self._app(scope, receive, send)
            return
        project = self._project
        asgi_request = Request(scope)
        request = RecordedRequest(
            method=asgi_request.method,
            path=scope["path"],
            query=dict(asgi_request.query_params),
            headers=dict(asgi_request.headers),
            received_at=project.now(),
        )
        project.request_log.add(request)
        state = scope.setdefault("state", {})
        state["recorded"] = request
        limit = _body_limit(project, request.path)
        publisher = Publisher(project.live, request, state)
        exchange = RequestExchange(
            self._app,
            scope,
            receive,
            send,
            request=request,
            request_log=project.request_log,
            limit=limit,
            latency=project.latency,
            publish=publisher.publish,
            headers=allowed,
        )
        try:
            if project.script.needs_body(request.path):
                await exchange.read()
            fault = project.script.take(request)
            if fault is None:
                await exchange.serve()
            else:
                state["refuse"] = fault.refused
                publisher.fault = fault.name
                await fault.perform(exchange)
        except ClientDisconnected:
            pass
        finally:
            publisher.publish(None, b"")
            if project.on_request is not None:
                project.on_request(request)


def _limit(project: Project, path: str) -> int:
    """Return the documented size limit of an endpoint, in uncompressed bytes."""
    if path.startswith(("/lookup-tables", "/storage/")):
        return lookup_tables.MAX_BYTES
    return cdp_limit(project, path) or project.max_bytes


def _body_limit(project: Project, path: str) -> int:
    return _limit(project, path) * FORM_GROWTH + FORM_FIELDS


class Endpoints:
    """The endpoints of one project."""

    def __init__(self, project: Project) -> None:
        self._project = project

    async def track(self, request: Request) -> Response:
        """POST /track: events, with a project token; succeeds if at least one record is valid."""
        project, sent = self._project, self._read(request)
        self._count(sent)
        result = validate_events(
            sent.records,
            endpoint="track",
            now=project.now(),
            address=_address(request),
            accepts=project.access.accepts_token,
            refuse=_records_to_reject(request),
        )
        _publish_events(request, sent, result)
        _require_token(result)
        project.warehouse.add_aliases(result.aliases)
        project.warehouse.add_events(result.accepted, now=project.now())
        return _accepted(sent, result)

    async def import_(self, request: Request) -> Response:
        """POST /import: events, with Basic credentials; lists the rejected records if `strict`."""
        project, recorded = self._project, _recorded(request)
        self._project.require_credentials(recorded)
        sent = self._read(request)
        self._count(sent)
        strict = sent.flag("strict", default=True)
        result = validate_events(
            sent.records,
            endpoint="import",
            now=project.now(),
            strict=strict,
            address=_address(request),
            refuse=_records_to_reject(request),
        )
        _publish_events(request, sent, result)
        project.warehouse.add_aliases(result.aliases)
        project.warehouse.add_events(result.accepted, now=project.now())
        form = sent.form is not None and sent.flag("verbose")
        response = responses.imported_form if form else responses.imported
        return response(result.good, result.rejected, strict=strict)

    async def engage(self, request: Request) -> Response:
        """POST /engage: updates of user profiles."""
        return self._update(request, groups=False)

    async def groups(self, request: Request) -> Response:
        """POST /groups: updates of group profiles."""
        return self._update(request, groups=True)

    async def list_lookup_tables(self, request: Request) -> Response:
        """GET /lookup-tables: ids and names."""
        self._project.require_credentials(_recorded(request), token=False)
        tables = self._project.warehouse.lookup_tables()
        results = [{"id": each, "name": table["name"]} for each, table in tables.items()]
        return responses.Json({"code": 200, "status": "OK", "results": results})

    async def replace_lookup_table(self, request: Request) -> Response:
        """PUT /lookup-tables/{id}: replace a table by CSV."""
        project, recorded = self._project, _recorded(request)
        self._project.require_credentials(recorded, token=False)
        if not project.replacements.try_add(1, project.now()):
            raise RefusedRequest(429, "lookup tables accept 100 replacements in 24 hours")
        table_id = request.path_params["table_id"]
        if table_id not in project.warehouse.lookup_tables():
            raise RefusedRequest(404, f"lookup table {table_id} does not exist")
        body = self._decompress(recorded)
        if len(body) > lookup_tables.MAX_BYTES:
            raise decode.too_large(lookup_tables.MAX_BYTES)
        try:
            rows, failed = lookup_tables.read_table(body.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise RefusedRequest(400, f"CSV is not UTF-8: {error}") from error
        if failed:
            failures = [asdict(each) for each in failed]
            response = {"code": 400, "error": responses.PARTIAL, "status": "Bad Request"}
            return responses.Json({**response, "failed_records": failures}, 400)
        project.warehouse.replace_lookup_table(table_id, rows)
        return responses.Json({"code": 200, "status": "OK"})

    async def flag_definitions(self, request: Request) -> Response:
        """GET /flags/definitions: all flags, for SDKs that evaluate locally."""
        project, recorded = self._project, _recorded(request)
        self._project.require_credentials(recorded, secret=False)
        request.state.feed_records = [RequestRecord({"flag_key": "definitions"})], 0
        body = project.served_flags().body
        if not project.etag:
            return Response(body, media_type=responses.Json.media_type)
        return responses.tagged(body, known=recorded.headers.get("if-none-match", ""))

    async def evaluate_flags(self, request: Request) -> Response:
        """GET /flags: the variants for one context."""
        recorded = _recorded(request)
        self._project.require_credentials(recorded, secret=False)
        context = read_context(recorded.query.get("context"))
        key = recorded.query.get("flag_key")
        chosen = self._project.served_flags().decide(context, key)
        evaluation = {**context, "flag_key": key, "context": context, "variants": chosen}
        request.state.feed_records = [RequestRecord(evaluation)], 0
        return responses.Json({"code": 200, "flags": chosen})

    def _update(self, request: Request, *, groups: bool) -> Response:
        project, recorded = self._project, _recorded(request)
        if recorded.headers.get("content-encoding", "identity").lower() != "identity":
            raise RefusedRequest(415, f"{recorded.path} does not accept a Content-Encoding")
        sent = self._read(request)
        result = validate_updates(
            sent.records,
            groups=groups,
            now=project.now(),
            accepts=project.access.accepts_token,
            refuse=_records_to_reject(request),
        )
        request.state.feed_records = request_records(sent.records, result.rejected), sent.size
        _require_token(result)
        project.warehouse.apply(result.accepted, groups=groups)
        return _accepted(sent, result)

    def _read(self, request: Request) -> _Sent:
        project, recorded = self._project, _recorded(request)
        body = self._decompress(recorded)
        payload = decode.payload(body, recorded.headers.get("content-type", ""))
        if len(payload.text) > project.max_bytes:
            raise decode.too_large(project.max_bytes)
        records = decode.records(payload)
        if len(records) > project.max_records:
            raise RefusedRequest(413, f"request exceeds max limit of {project.max_records} records")
        return _Sent(records, payload.form, recorded.query, len(payload.text))

    def _decompress(self, recorded: RecordedRequest) -> bytes:
        max_size = _body_limit(self._project, recorded.path)
        encoding = recorded.headers.get("content-encoding", "")
        body = decode.decompress(recorded.body, encoding=encoding, max_size=max_size)
        if len(body) > max_size:
            raise decode.too_large(_limit(self._project, recorded.path))
        return body

    def _count(self, sent: _Sent) -> None:
        project = self._project
        if not project.rate.try_add(len(sent.records), project.now()):
            raise RefusedRequest(
                429, "Project exceeded rate limits. Retry with exponential backoff."
            )


def _without_origin(path: str, hosts: Sequence[bytes]) -> str:
    """Return the path of a target that is a whole URL, as clients send it to a proxy.

    One of another host than the header's stays as it is, and is not found.
    """
    for host in hosts:
        origin = "http://" + host.decode("latin-1").lower()
        for start in (origin, "/" + origin):
            if path.lower().startswith(start + "/"):
                return path[len(start) :]
    return path


def _recorded(request: Request) -> RecordedRequest:
    recorded: RecordedRequest = request.state.recorded
    return recorded


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _records_to_reject(request: Request) -> dict[int, str] | None:
    refuse: dict[int, str] | None = getattr(request.state, "refuse", None)
    return refuse


def _publish_events(request: Request, sent: _Sent, result: ValidationResult[Event]) -> None:
    request.state.feed_records = (
        request_records(sent.records, result.rejected, result.accepted),
        sent.size,
    )


def _require_token(result: ValidationResult[Any]) -> None:
    if result.unauthorized and not result.good:
        raise RefusedRequest(401, "Invalid or missing project token")


def _accepted(sent: _Sent, result: ValidationResult[Any]) -> Response:
    response = responses.accepted(
        result.good,
        result.rejected,
        strict=sent.flag("strict"),
        verbose=sent.flag("verbose"),
        empty=not sent.records,
    )
    if sent.flag("img"):
        return responses.pixel()
    return response if sent.callback is None else responses.script(sent.callback, response)
