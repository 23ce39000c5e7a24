"""The live page of the emulator: what became of each record, and what the page can show and do."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from mixpanel._page.entries import CDP_LANES, Entry, Exchange, Lane, RequestRecord, lane_of
from mixpanel._page.feed import Feed
from mixpanel._page.routes import Incoming, Routes
from mixpanel._page.stream import INTERVAL, Stream
from mixpanel.emulator._fault_text import read_fault
from mixpanel.emulator._rules.events import Event, RejectedRecord
from mixpanel.emulator._server.project import Project
from mixpanel.emulator._storage.request_log import RecordedRequest

INGESTION = ("events", "imports", "profiles", "groups", *CDP_LANES)
HARMLESS_FAULTS = ("latency", "partial", "drip")
"""Faults after which the client has the usual response."""
MAX_DECODED = 4 * 2**20  # bytes of a refused request, to show its records
MAX_REFUSED = 1000
MAX_BODY = 65_536
MAX_REPORT = 16 * 2**20
MAX_POLLERS = 20
NOT_MODIFIED = 304
MAX_EVALUATIONS = 20
MAX_TIMELINE = 200
LOST = ("rejected", "faulted")
EXPOSURE = "$experiment_started"


def request_records(
    records: Sequence[Any],
    rejected: Sequence[RejectedRecord],
    accepted: Sequence[Event] | None = None,
) -> list[RequestRecord]:
    """Return the records of a request with their outcome; events with equal keys are copies."""
    reasons = {each.index: each.message for each in rejected}
    stored = None if accepted is None else iter(accepted)
    found = []
    for index, record in enumerate(records):
        if index in reasons:
            found.append(RequestRecord(record, reasons[index]))
        elif stored is None:
            found.append(RequestRecord(record))
        elif record["properties"].get("$ignore"):
            found.append(RequestRecord(record, note="not stored, as $ignore is set"))
        else:
            found.append(RequestRecord(record, key=hash(next(stored)[:4])))
    return found


class Publisher:
    """Add one request to the feed, once its outcome is known."""

    def __init__(self, feed: Feed, request: RecordedRequest, state: dict[str, Any]) -> None:
        self.fault: str | None = None
        self._feed = feed
        self._request = request
        self._state = state
        self._published = False

    def publish(self, status: int | None, body: bytes) -> None:
        """Add the records, with this status and the beginning of the response; then do nothing."""
        if self._published:
            return
        self._published = True
        if self.fault is None and status == NOT_MODIFIED and self._repeats_a_poll():
            return
        request, fault = self._request, self.fault
        lane: Lane = self._state.get("lane") or lane_of(request.path)
        found, size = self._state.get("feed_records") or (None, len(request.body))
        faulted = fault is not None and not fault.startswith(HARMLESS_FAULTS)
        refused = status is None or status >= 400
        stored = found is not None
        reason = None
        if faulted:
            lost = "stored, but the client got no usable response" if stored else "nothing stored"
            reason = f"fault {fault}: {lost}"
        elif refused and status is None:
            reason = "the connection ended before the request was complete"
        elif refused:
            reason = _reason(body) or f"status {status}"
        if found is None:
            found = self._unchecked(lane, None if faulted else reason)
        self._feed.add(
            request,
            lane,
            found,
            verdict="faulted" if faulted else None,
            status=None if faulted and stored else status,
            fault=fault,
            reason=reason if faulted or refused else None,
            stored=stored,
            size=size,
        )

    def _repeats_a_poll(self) -> bool:
        """Count a poll of unchanged flags in the entry of the one before, if it is the same."""
        request = self._request
        for entry in reversed(self._feed.entries(lane="flags")[-MAX_POLLERS:]):
            before = entry.exchange
            if before.path == request.path and _client(before) == _client(request):
                self._feed.change(entry, tries=max(1, entry.tries) + 1, last=request.received_at)
                return True
        return False

    def _unchecked(self, lane: Lane, reason: str | None) -> list[RequestRecord]:
        """Return the records of a request that no endpoint has read, all with one reason."""
        request = self._request
        if lane not in INGESTION:
            return [RequestRecord(dict(request.query), reason)]
        records = request.records[:MAX_REFUSED] if len(request.body) <= MAX_DECODED else []
        if lane in CDP_LANES and len(records) == 1 and isinstance(records[0], dict):
            batch = records[0].get("batch")
            records = batch[:MAX_REFUSED] if isinstance(batch, list) else records
        return [RequestRecord(record, reason) for record in records or [None]]


class EmulatorSource:
    """What the page shows of a project besides the feed."""

    def __init__(self, project: Project) -> None:
        self._project = project

    def state(self) -> dict[str, Any]:
        """Return the scripted faults, and what is left of the rate limits."""
        project = self._project
        now = project.now()
        return {
            "kind": "emulator",
            "faults": project.script.remaining(),
            "budget": {
                "queries": project.queries.left(now),
                "exports": project.exports.left(now),
            },
            "requests": project.request_log.seen,
        }

    def person(self, distinct_id: str) -> dict[str, Any]:
        """Return the profile, the ids, the newest events and the rejected ones of a person."""
        warehouse = self._project.warehouse
        owner = warehouse.canonical(distinct_id)
        events = warehouse.timeline(owner, MAX_TIMELINE)
        lost = [
            entry
            for entry in self._project.live.entries()
            if entry.distinct_id in (distinct_id, owner)
            and entry.verdict in LOST
            and entry.via is None
        ]
        return {
            "distinct_id": owner,
            "requested": distinct_id,
            "aliases": warehouse.aliases_of(owner),
            "profile": warehouse.profile(owner),
            "timeline": events,
            "lost": [
                {"id": entry.id, "event": entry.event, "reason": entry.reason, "at": entry.at}
                for entry in lost[-MAX_TIMELINE:]
            ],
        }

    def flags(self) -> list[dict[str, Any]]:
        """Return the flags, each with its latest evaluations by the server and exposures."""
        found = []
        evaluations = self._evaluations()
        for flag in self._project.served_flags().flags:
            key = flag.get("key") if isinstance(flag, dict) else None
            found.append({"definition": flag, "key": key, "evaluations": evaluations.get(key, [])})
        return found

    def explain(self, flag_key: str, context: dict[str, Any]) -> dict[str, Any]:
        """Return the trace of an evaluation in this process."""
        from mixpanel.flags import explain, parse_definitions

        trace = explain(parse_definitions({"flags": self._flags()}), flag_key, context)
        return {
            "flag": flag_key,
            "variant": trace.selected.variant_key,
            "value": json.dumps(trace.selected.variant_value, default=str),
            "trace": str(trace),
        }

    def add_fault(self, text: str) -> None:
        """Script a fault that is written as text."""
        fault, path, share = read_fault(text)
        self._project.script.add([fault], path=path, share=share, text=text)

    def clear_faults(self) -> None:
        """Remove all faults."""
        self._project.script.clear()

    def clear(self) -> None:
        """Remove all data; keep the flags."""
        self._project.clear()

    def _flags(self) -> list[Any]:
        return self._project.served_flags().flags

    def _evaluations(self) -> dict[Any, list[dict[str, Any]]]:
        """Return the latest evaluations by flag: of `/flags`, and exposures of clients."""
        from mixpanel.flags import explain, parse_definitions

        definitions = parse_definitions({"flags": self._flags()})
        found: dict[Any, list[dict[str, Any]]] = {}
        for entry in reversed(self._project.live.entries()):
            if entry.via is not None:  # it arrived here as well, or was sent to another server
                continue
            for key, variant in _chosen(entry).items():
                rows = found.setdefault(key, [])
                if len(rows) >= MAX_EVALUATIONS:
                    continue
                context = entry.record.get("context") if entry.lane == "flags" else None
                reason = "exposure of a client"
                if isinstance(context, dict):
                    reason = str(explain(definitions, str(key), context)).partition("\n")[0]
                rows.append(
                    {
                        "id": entry.id,
                        "at": entry.at,
                        "distinct_id": entry.distinct_id,
                        "variant": variant,
                        "reason": reason,
                    }
                )
        return found


def _chosen(entry: Entry) -> dict[Any, Any]:
    """Return the variants by flag that an entry has: the response of `/flags`, or an exposure."""
    if entry.event == EXPOSURE:
        properties = entry.properties
        return {str(properties.get("Experiment name")): properties.get("Variant name")}
    if entry.lane != "flags" or not isinstance(entry.record, dict):
        return {}
    variants = entry.record.get("variants")
    chosen = {
        key: value.get("variant_key") if isinstance(value, dict) else None
        for key, value in (variants.items() if isinstance(variants, dict) else ())
    }
    wanted = entry.record.get("flag_key")
    return chosen if wanted is None else {wanted: None, **chosen}


def live_endpoint(project: Project) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint of all routes of the page."""
    routes = Routes(project.live, EmulatorSource(project))

    async def respond(request: Request) -> Response:
        is_report = request.scope["path"] == "/live/report"
        body = await _read(request, MAX_REPORT if is_report else MAX_BODY)
        if body is None:
            return Response("the body is too long", 413)
        incoming = Incoming(
            request.method,
            request.scope["path"],
            dict(request.query_params),
            {name.lower(): value for name, value in request.headers.items()},
            body,
            str(request.base_url).rstrip("/"),
        )
        reply = routes.handle(incoming)
        if reply.stream is not None:
            return StreamingResponse(_frames(reply.stream), reply.status, reply.headers)
        return Response(reply.body, reply.status, reply.headers)

    return respond


async def _read(request: Request, limit: int) -> bytes | None:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            return None
    return bytes(body)


async def _frames(stream: Stream) -> AsyncIterator[bytes]:
    while True:
        if data := stream.poll():
            yield data
        await asyncio.sleep(INTERVAL)


def _client(request: Exchange) -> tuple[str | None, str | None]:
    return request.headers.get("user-agent"), request.headers.get("authorization")


def _reason(response: bytes) -> str:
    """Return why a request was refused, from the body of its response."""
    try:
        parsed = json.loads(response)
    except (ValueError, RecursionError):
        return response[:500].decode(errors="replace")
    match parsed:
        case {"meta": {"errors": [*messages]}}:
            return "; ".join(map(str, messages))
        case {"error_description": str(message)} | {"message": str(message)}:
            return message
        case {"meta": {"error": str(message)}} | {"error": str(message)}:
            return message
    return ""
