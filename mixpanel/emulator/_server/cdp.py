"""The endpoints of customer data platforms, below separate paths; Segment's are as Hightouch's.

At the root, `/v1/...` is that vendor's whose client sent the request, by its headers and its body.

Without `X-Strict-Mode: 1` Customer.io responds 200 to invalid keys and to unreadable, invalid or
oversize messages, and drops them; with it, 400 and 401. Hightouch responds 200 to invalid messages,
drops them, and refuses everything else that is wrong; its mode may be strict or permissive.
Exceeding a rate is always 429.
"""

from collections.abc import Iterable, Mapping
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mixpanel._page.entries import RequestRecord
from mixpanel.emulator._rules.access import basic
from mixpanel.emulator._rules.cdp import (
    ENDPOINTS,
    PREFIXED,
    Body,
    HightouchRules,
    Rules,
    ValidatedMessage,
    Vendor,
    read_body,
    validate_message,
)
from mixpanel.emulator._rules.decode import RefusedRequest, decompress
from mixpanel.emulator._rules.oauth import RefusedGrant
from mixpanel.emulator._server import responses
from mixpanel.emulator._server.project import Project
from mixpanel.emulator._storage.request_log import RecordedRequest

FORM = "application/x-www-form-urlencoded"
# What the names of the vendors' own clients contain, in lower case.
CLIENTS: Mapping[Vendor, tuple[str, ...]] = {
    "hightouch": ("events-sdk", "hightouch"),
    "customerio": ("customer.io", "customerio", "cdp-analytics", "analytics-python"),
}
RECORDED_HEADERS = (
    "user-agent",
    "x-strict-mode",
    "x-retry-count",
    "content-type",
    "content-encoding",
)


def cdp_routes(project: Project) -> list[Route]:
    """Return the routes of all vendors and of Hightouch's authorization server."""
    endpoints = CdpEndpoints(project)
    handlers = {"/customerio": endpoints.customerio}
    handlers |= {f"/{vendor}": endpoints.like_hightouch for vendor in project.cdp.alike}
    return [
        Route("/hightouch/oauth/token", endpoints.token, methods=["POST"]),
        *(
            Route(f"{prefix}/v1/{each}", handler, methods=["POST"])
            for prefix, handler in handlers.items()
            for each in ENDPOINTS
        ),
        *(Route(f"/v1/{each}", endpoints.by_sender, methods=["POST"]) for each in ENDPOINTS),
    ]


def cdp_limit(project: Project, path: str) -> int | None:
    """Return the size limit of a request to a vendor, None for other paths."""
    if path.startswith("/customerio/"):
        return project.cdp.customerio.max_batch_bytes
    if path.startswith("/v1/"):
        return max(project.cdp.hightouch.max_batch_bytes, project.cdp.customerio.max_batch_bytes)
    rules = project.cdp.alike.get(path.split("/")[1])
    return None if rules is None else rules.max_batch_bytes


class CdpEndpoints:
    """The endpoints of all vendors."""

    def __init__(self, project: Project) -> None:
        self._project = project

    async def customerio(self, request: Request) -> Response:
        """POST /customerio/v1/...: errors in strict mode, otherwise always 200."""
        recorded, rules = _recorded(request), self._project.cdp.customerio
        request.state.lane = rules.vendor
        self._count(rules)
        strict = recorded.headers.get("x-strict-mode") == "1"
        key = rules.key(recorded.headers.get("authorization", ""))
        if strict and key is None:
            raise RefusedRequest(401, "Unauthorized request: write key is missing or not known")
        body = Body({}, [])
        try:
            body = self._read(recorded, rules)
            validated = _validate(body, request, rules)
        except RefusedRequest as refused:
            if strict:
                raise
            validated = [ValidatedMessage(None, len(recorded.body), refused.message)]
        if key is None or rules.is_foreign(key):
            why = "write key is not known" if key is None else "write key is for another region"
            validated = [each._replace(why=why) for each in validated]
            strict = False
        bad_ones = [strict and each.why is not None for each in validated]
        _judge(request, rules, validated, key, bad_ones)
        if strict and (bad := {i: each for i, each in enumerate(validated) if each.why}):
            self._add(recorded, rules, body, _kept(validated, rules), key)
            status, errors = _refusal(bad, recorded, rules)
            return responses.Json({"meta": {"errors": errors}}, status)
        self._add(recorded, rules, body, validated, key)
        return _accepted(rules)

    async def like_hightouch(self, request: Request) -> Response:
        """POST /hightouch/v1/...: by mode, invalid requests and messages are refused or dropped.

        /segment/v1/... and /rudderstack/v1/... are answered in the same way.
        """
        cdp = self._project.cdp
        rules = cdp.alike.get(request.url.path.split("/")[1], cdp.hightouch)
        request.state.lane = rules.vendor
        try:
            self._count(rules)
            self._ingest_hightouch(request, rules)
        except RefusedRequest as refused:
            return responses.refused_by_hightouch(
                refused.status, refused.message, rules.error_shape
            )
        return _accepted(rules)

    async def by_sender(self, request: Request) -> Response:
        """POST /v1/...: as the vendor whose client sent the request.

        :raises RefusedRequest: 404: nothing says which vendor's it is.
        """
        recorded, cdp = _recorded(request), self._project.cdp
        vendor = sender(recorded.headers) or self._sender_by_body(recorded)
        if vendor is None:
            base = str(request.base_url)
            raise RefusedRequest(
                404,
                "nothing in the request says whether it is Customer.io's or Hightouch's: send "
                f"X-Strict-Mode or writeKey, or use {base}customerio/v1 or {base}hightouch/v1",
            )
        if vendor == cdp.hightouch.vendor:
            return await self.like_hightouch(request)
        try:
            return await self.customerio(request)
        except RefusedRequest as refused:
            path = f"/{vendor}{recorded.path}"
            return responses.refused(path, refused.status, refused.message)

    def _sender_by_body(self, recorded: RecordedRequest) -> Vendor | None:
        """Return the vendor whose client made a body, or to which alone the write key is known."""
        cdp = self._project.cdp
        try:
            body = self._read(recorded, cdp.customerio)
        except RefusedRequest:
            body = Body({}, [])
        if "writeKey" in body.fields:
            return "hightouch"
        for item in body.items:
            if found := sender_of_library(item.value):
                return found
        credentials = basic(recorded.headers.get("authorization", ""))
        known: list[Vendor] = [
            rules.vendor
            for rules in (cdp.customerio, cdp.hightouch)
            if credentials and rules.keys is not None and rules.accepts_key(credentials.username)
        ]
        return known[0] if len(known) == 1 else None

    async def token(self, request: Request) -> Response:
        """POST /hightouch/oauth/token: an access token for a client assertion.

        The `Date` header has the time of the emulator's clock, which validates the assertion.
        """
        now = self._project.now()
        headers = {"date": formatdate(now, usegmt=True), "cache-control": "no-store"}
        try:
            form = _form(_recorded(request))
            audience = f"{request.base_url}hightouch/oauth"
            granted = self._project.cdp.tokens.grant(form, audience=audience, now=now)
        except RefusedGrant as refused:
            error = {"error": refused.error, "error_description": refused.description}
            return responses.Json(error, refused.status, headers)
        return responses.Json(granted, headers=headers)

    def _ingest_hightouch(self, request: Request, rules: HightouchRules) -> None:
        recorded, permissive = _recorded(request), rules.mode == "permissive"
        body, key = Body({}, []), None
        validated = [ValidatedMessage(None, len(recorded.body))]
        try:
            body = self._read(recorded, rules)
            validated = _validate(body, request, rules)
            key = self._hightouch_key(recorded, body, rules)
        except RefusedRequest as refused:
            if not permissive:
                raise
            validated = [each._replace(why=refused.message) for each in validated]
        if key is not None and rules.is_foreign(key):
            why = "write key is for another region"
            validated = [each._replace(why=why) for each in validated]
            permissive = True
        strict = rules.mode == "strict"
        bad = {
            index: each
            for index, each in enumerate(validated)
            if not permissive and each.why and (strict or each.oversize)
        }
        _judge(request, rules, validated, key, [index in bad for index in range(len(validated))])
        if bad:
            self._add(recorded, rules, body, _kept(validated, rules), key)
            status, errors = _refusal(bad, recorded, rules)
            raise RefusedRequest(status, "; ".join(errors))
        self._add(recorded, rules, body, validated, key)

    def _count(self, rules: Rules) -> None:
        if not self._project.cdp.allows_request(rules, self._project.now()):
            raise RefusedRequest(429, "too many requests for this source")

    def _read(self, recorded: RecordedRequest, rules: Rules) -> Body:
        max_size = rules.max_batch_bytes
        encoding = recorded.headers.get("content-encoding", "")
        body = decompress(recorded.body, encoding=encoding, max_size=max_size)
        if len(body) > max_size:
            message = f"request exceeds the limit of {max_size} bytes"
            raise RefusedRequest(rules.oversize_status, message)
        return read_body(body, _endpoint(recorded))

    def _hightouch_key(self, recorded: RecordedRequest, body: Body, rules: HightouchRules) -> str:
        """Return the write key: the username of HTTP Basic, else the `writeKey` of the body."""
        authorization = recorded.headers.get("authorization", "")
        scheme, _, token = authorization.partition(" ")
        credentials = basic(authorization)
        if scheme.lower() == "bearer":
            refusal = self._project.cdp.tokens.refusal(token.strip(), now=self._project.now())
            if refusal is not None:
                raise RefusedRequest(*refusal)
        elif rules.oauth.required:
            raise RefusedRequest(401, "an access token is required for this source")
        elif authorization and (credentials is None or credentials.password):
            raise RefusedRequest(401, "Authorization must be Basic with a write key, or Bearer")
        key: Any = credentials.username if credentials else body.fields.get("writeKey")
        if not rules.accepts_key(key):
            raise RefusedRequest(401, "write key is missing or not known")
        return str(key)

    def _add(
        self,
        recorded: RecordedRequest,
        rules: Rules,
        body: Body,
        validated: Iterable[ValidatedMessage],
        key: str | None,
    ) -> None:
        of_request = {
            "vendor": rules.vendor,
            "endpoint": _endpoint(recorded),
            "key": key,
            "sent_at": body.fields.get("sentAt"),
            "received_at": recorded.received_at,
            "headers": {k: recorded.headers[k] for k in RECORDED_HEADERS if k in recorded.headers},
        }
        self._project.cdp.add(
            {**of_request, "message": message, "bytes": size, "why": why}
            for message, size, why, _ in validated
        )


def sender(headers: Mapping[str, str]) -> Vendor | None:
    """Return the vendor whose client sent a request with these headers, None if they do not say.

    >>> sender({"user-agent": "events-sdk-js-node/latest"})
    'hightouch'
    """
    if "x-strict-mode" in headers:
        return "customerio"
    if found := _by_name(headers.get("user-agent", "")):
        return found
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return "customerio" if PREFIXED.match(token.strip()) else "hightouch"
    return None


def sender_of_library(message: Any) -> Vendor | None:
    """Return the vendor of the library that a message names in its context."""
    match message:
        case {"context": {"library": {"name": str(name)}}}:
            return _by_name(name)
    return None


def _by_name(text: str) -> Vendor | None:
    for vendor, names in CLIENTS.items():
        if any(name in text.lower() for name in names):
            return vendor
    return None


def _form(recorded: RecordedRequest) -> dict[str, str]:
    kind = recorded.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != FORM:
        raise RefusedGrant(415, "invalid_request", f"Content-Type must be {FORM}")
    return dict(parse_qsl(recorded.body.decode("ascii", "replace"), keep_blank_values=True))


def _validate(body: Body, request: Request, rules: Rules) -> list[ValidatedMessage]:
    """Validate each message, and reject those that a fault has selected."""
    endpoint = _endpoint(_recorded(request))
    validated = [validate_message(item, endpoint, body.fields, rules) for item in body.items]
    refused: dict[int, str] = getattr(request.state, "refuse", None) or {}
    return [
        each._replace(why=refused[index]) if index in refused else each
        for index, each in enumerate(validated)
    ]


def _judge(
    request: Request,
    rules: Rules,
    validated: list[ValidatedMessage],
    key: str | None,
    refused: list[bool],
) -> None:
    """Record the outcome of each message for the live feed; some make the response an error."""
    is_refused = rules.whole_batch and any(refused)
    found = []
    for message, _, why, _ in validated:
        number = message.get("messageId") if isinstance(message, dict) else None
        whole = "rejected with its batch, in which another message is invalid"
        known = (rules.vendor, key, number) if isinstance(number, str) else None
        found.append(RequestRecord(message, why or (whole if is_refused else None), known))
    request.state.feed_records = found, sum(each.size for each in validated)


def _kept(validated: list[ValidatedMessage], rules: Rules) -> list[ValidatedMessage]:
    """Return the messages that are accepted although others of their batch are rejected."""
    return [] if rules.whole_batch else [each for each in validated if each.why is None]


def _refusal(
    bad: Mapping[int, ValidatedMessage], recorded: RecordedRequest, rules: Rules
) -> tuple[int, list[str]]:
    """Return the status for rejected messages (by index), and the reasons of all of them."""
    where = "batch[{}]: " if _endpoint(recorded) == "batch" else ""
    errors = [where.format(index) + str(each.why) for index, each in bad.items()]
    too_large = all(each.oversize for each in bad.values())
    return rules.oversize_status if too_large else 400, errors


def _accepted(rules: Rules) -> Response:
    if rules.empty_body or rules.success_status == 204:
        return Response(status_code=rules.success_status)
    return responses.Json({}, rules.success_status)


def _endpoint(recorded: RecordedRequest) -> str:
    return recorded.path.rpartition("/")[2]


def _recorded(request: Request) -> RecordedRequest:
    recorded: RecordedRequest = request.state.recorded
    return recorded
