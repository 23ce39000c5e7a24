"""The routes of the live page, without a server: each takes a request and returns a reply.

The emulator serves them next to its APIs, and `server` serves them from a program.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from mixpanel._page.details import details
from mixpanel._page.entries import LANES, VERDICTS, Entry, RequestRecord, summary
from mixpanel._page.filters import matches_filter, parse_filter
from mixpanel._page.stream import Stream, matches

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mixpanel._page.feed import Feed

__all__ = ["CHANGE_HEADER", "PATHS", "Incoming", "Reply", "Routes", "Source"]

STATIC = Path(__file__).parent / "static"
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/live/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/live/page.css": ("page.css", "text/css; charset=utf-8"),
}
PATHS = frozenset({
    *FILES, "/live", "/live/entry", "/live/person", "/live/flags", "/live/export", "/live/faults",
    "/live/clear", "/live/report",
})  # fmt: skip
CHANGE_HEADER = "x-live-page"
SECURITY: dict[str, str] = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
MAX_FAULT = 200  # characters
MAX_PROGRAM = 100
MAX_TEXT = 4000
MAX_REPORTED = 20_000
CONDITIONS = ("lane", "verdict", "event")


class Incoming(NamedTuple):
    """A request to the page."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """With names in lower case."""
    body: bytes = b""
    origin: str = ""
    """The address that the browser used."""


@dataclass(slots=True)
class Reply:
    """A response: with a body, or with a stream of frames."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    stream: Stream | None = None


class Source(Protocol):
    """What the page shows and does in addition to the feed."""

    def state(self) -> dict[str, Any]:
        """Return what the page always shows: its kind, faults, and the budget left."""
        ...

    def person(self, distinct_id: str) -> dict[str, Any]:
        """Return a person's profile and timeline."""
        ...

    def flags(self) -> list[dict[str, Any]]:
        """Return the feature flags."""
        ...

    def explain(self, flag_key: str, context: dict[str, Any]) -> dict[str, Any]:
        """Return how a flag is evaluated for a context."""
        ...

    def add_fault(self, text: str) -> None:
        """Script a fault; raise ValueError if its text is invalid."""
        ...

    def clear_faults(self) -> None:
        """Remove all faults."""
        ...

    def clear(self) -> None:
        """Remove all data, including the feed."""
        ...


class Refused(Exception):  # noqa: N818 - a reply, not an error
    """The request gets an error response."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message


class Routes:
    """The routes of one feed."""

    def __init__(self, feed: Feed, source: Source) -> None:
        self._feed = feed
        self._source = source
        self._handlers: dict[tuple[str, str], Callable[[Incoming], Reply]] = {
            ("GET", "/live"): self._live,
            ("GET", "/live/entry"): self._entry,
            ("GET", "/live/person"): self._person,
            ("GET", "/live/flags"): self._flags,
            ("GET", "/live/export"): self._export,
            ("POST", "/live/faults"): self._add_fault,
            ("DELETE", "/live/faults"): self._clear_faults,
            ("POST", "/live/clear"): self._clear,
            ("POST", "/live/report"): self._report,
        }
        self._reported: OrderedDict[tuple[str, int], Entry] = OrderedDict()

    def handle(self, request: Incoming) -> Reply:
        """Answer one request; the caller has checked its `Host` and `Origin`."""
        try:
            reply = self._answer(request)
        except Refused as refused:
            reply = _json({"error": refused.message}, refused.status)
        if request.method == "HEAD":
            reply.stream = None
        reply.headers = {**SECURITY, **reply.headers}
        return reply

    def _answer(self, request: Incoming) -> Reply:
        method = "GET" if request.method == "HEAD" else request.method
        if request.path in FILES:
            if method != "GET":
                raise Refused(405, f"{request.path} can only be read")
            return _file(request.path)
        handler = self._handlers.get((method, request.path))
        if handler is None:
            allowed = sorted({verb for verb, path in self._handlers if path == request.path})
            if allowed:
                raise Refused(405, f"{request.path} takes {' and '.join(allowed)} only")
            raise Refused(404, f"there is nothing at {request.path}: open / for the page")
        if method != "GET" and request.headers.get(CHANGE_HEADER) != "1":
            raise Refused(
                403, "requests that change something need the header X-Live-Page: 1, which pages "
                "of other sites cannot send"
            )  # fmt: skip
        return handler(request)

    def _live(self, request: Incoming) -> Reply:
        query = request.query
        conditions = _conditions(query)
        return Reply(
            200,
            headers={"content-type": "text/event-stream", "x-accel-buffering": "no"},
            stream=Stream(
                self._feed,
                self._state,
                last_event_id=request.headers.get("last-event-id", query.get("after", "")),
                conditions=conditions,
                full=query.get("full") in ("1", "true"),
            ),
        )

    def _state(self) -> dict[str, Any]:
        return {**self._feed.state(), **self._source.state()}

    def _entry(self, request: Incoming) -> Reply:
        text = request.query.get("id", "")
        entry = self._feed.entry(int(text)) if text.isdecimal() and len(text) < 18 else None
        if entry is None:
            raise Refused(
                404,
                "this entry is no longer in the feed, which keeps the newest: choose another one",
            )
        return _json(details(entry, request.origin))

    def _person(self, request: Incoming) -> Reply:
        distinct_id = request.query.get("distinct_id")
        if not distinct_id:
            raise Refused(400, "distinct_id is missing: use /live/person?distinct_id=u-17")
        return _json(self._source.person(distinct_id))

    def _flags(self, request: Incoming) -> Reply:
        key = request.query.get("flag")
        if key is None:
            return _json({"flags": self._source.flags()})
        try:
            context = json.loads(request.query.get("context") or "{}")
        except (ValueError, RecursionError) as error:
            raise Refused(400, f"the context is not JSON: {error}") from error
        if not isinstance(context, dict):
            raise Refused(400, 'the context must be a JSON object, as {"distinct_id": "u-17"}')
        return _json(self._source.explain(key, context))

    def _export(self, request: Incoming) -> Reply:
        conditions = _conditions(request.query)
        filters = parse_filter(request.query.get("q", ""))
        lines = [
            json.dumps({**summary(each), "record": each.record}, default=str) + "\n"
            for each in self._feed.entries()
            if matches(each, conditions) and matches_filter(each, filters)
        ]
        headers = {
            "content-type": "application/x-ndjson",
            "content-disposition": 'attachment; filename="live.ndjson"',
        }
        return Reply(200, "".join(lines).encode(), headers)

    def _add_fault(self, request: Incoming) -> Reply:
        text = _body(request).get("fault")
        if not isinstance(text, str) or not 0 < len(text) <= MAX_FAULT:
            raise Refused(400, 'send a fault, as {"fault": "503 on /track 1 time"}')
        try:
            self._source.add_fault(text)
        except ValueError as error:
            raise Refused(400, str(error)) from error
        return _json(self._source.state())

    def _clear_faults(self, _: Incoming) -> Reply:
        self._source.clear_faults()
        return _json(self._source.state())

    def _clear(self, request: Incoming) -> Reply:
        if _body(request).get("data") is True:
            self._source.clear()
        else:
            self._feed.clear()
        return _json({})

    def _report(self, request: Incoming) -> Reply:
        """Add entries that a program reports about messages that it sends."""
        body = _body(request)
        program, items = body.get("program"), body.get("entries")
        if not isinstance(program, str) or not isinstance(items, list):
            raise Refused(400, 'send {"program": NAME, "entries": [...]}')
        for item in items:
            if not isinstance(item, dict) or not isinstance(item.get("key"), int):
                raise Refused(400, "each entry must be an object whose key is an integer")
            self._add_reported(program[:MAX_PROGRAM], item)
        return _json({})

    def _add_reported(self, program: str, item: dict[str, Any]) -> None:
        lane, verdict = item.get("lane"), item.get("verdict")
        if lane not in LANES or verdict not in VERDICTS:
            raise Refused(
                400,
                f"each entry must have a lane ({', '.join(LANES)}) and a verdict "
                f"({', '.join(VERDICTS)})",
            )
        texts = {name: _text(item.get(name)) for name in ("method", "path", "response", "reason")}
        numbers = {name: _number(item.get(name)) for name in ("status", "tries", "index", "count")}
        exchange = _ReportedRequest(
            texts["method"] or "POST",
            texts["path"] or "",
            _headers(item.get("headers")),
            time.time(),
            numbers["status"],
            (texts["response"] or "").encode("utf-8", "replace"),
        )
        key = program, item["key"]
        entry = self._reported.get(key)
        if entry is None:
            size = _number(item.get("size")) or 0
            (entry,) = self._feed.add(
                exchange, lane, [RequestRecord(item.get("record"))],
                verdict=verdict, status=numbers["status"], reason=texts["reason"], stored=False,
                size=size, via=program,
            )  # fmt: skip
            self._reported[key] = entry
            if len(self._reported) > MAX_REPORTED:
                self._reported.popitem(last=False)
        self._feed.change(
            entry, exchange=exchange, verdict=verdict, status=numbers["status"],
            reason=texts["reason"], tries=numbers["tries"] or 0, index=numbers["index"] or 0,
            count=numbers["count"] or 1,
        )  # fmt: skip


def _conditions(query: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the conditions of a query: the values of each field, separated by commas."""
    found = {name: query[name].split(",") for name in CONDITIONS if query.get(name)}
    for name, known in (("lane", LANES), ("verdict", VERDICTS)):
        for value in found.get(name, ()):
            if value not in known:
                raise Refused(400, f"{name}={value[:60]} is unknown: choose {', '.join(known)}")
    return found


@dataclass(slots=True)
class _ReportedRequest:
    method: str
    path: str
    headers: dict[str, str]
    received_at: float
    status: int | None
    response_body: bytes
    query: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


def _text(value: Any) -> str | None:
    return value[:MAX_TEXT] if isinstance(value, str) else None


def _number(value: Any) -> int | None:
    is_number = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53
    return value if is_number else None


def _headers(value: Any) -> dict[str, str]:
    pairs = value if isinstance(value, list) else []
    return {
        str(pair[0])[:MAX_PROGRAM]: str(pair[1])[:MAX_TEXT]
        for pair in pairs
        if isinstance(pair, list) and len(pair) == 2
    }


def _body(request: Incoming) -> dict[str, Any]:
    try:
        found = json.loads(request.body or b"{}")
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is not JSON: {error}") from error
    return found if isinstance(found, dict) else {}


def _json(content: Any, status: int = 200) -> Reply:
    return Reply(status, _encoded(content), {"content-type": "application/json"})


def _encoded(content: Any) -> bytes:
    try:
        return json.dumps(content, default=str, allow_nan=False).encode()
    except ValueError:  # NaN or an infinity, which no browser reads
        plain = json.loads(json.dumps(content, default=str), parse_constant=str)
        return json.dumps(plain).encode()


@cache
def _read(name: str) -> bytes:
    return (STATIC / name).read_bytes()


def _file(path: str) -> Reply:
    name, kind = FILES[path]
    return Reply(200, _read(name), {"content-type": kind})
