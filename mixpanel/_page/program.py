"""The live page of a program: the messages that its clients queue and send, and the responses.

The process itself serves it, or an emulator that the process reports to. This module is imported
only when a client has `debug`.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import sys
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec
from urllib.parse import parse_qsl, urlsplit

from mixpanel._http.responses import TransportFailure
from mixpanel._page.entries import BY_CHOICE, LANES, Entry, Lane, RequestRecord, Verdict
from mixpanel._page.feed import Feed
from mixpanel._page.reporter import Reporter
from mixpanel._page.server import PageServer
from mixpanel._records.json_encoding import dumps, loads
from mixpanel._runtime import fork
from mixpanel._runtime.safe_logging import logger
from mixpanel.exceptions import ConfigurationError
from mixpanel.settings import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mixpanel._delivery.custom_consumer import CustomConsumer
    from mixpanel._delivery.observer import Observer
    from mixpanel._delivery.sender import Sender
    from mixpanel._http.request import Request
    from mixpanel._http.responses import Response
    from mixpanel._records.record import Record

__all__ = ["ProgramPage", "page_of", "stop", "watch"]

PORT = 8651  # if it is free: an open tab then finds a program that is started again
MAX_WAITING = 50_000  # an import has up to 64,000 records in flight
LANE_NAMES: dict[str, Lane] = {"people": "profiles"}
FATES: dict[str, Verdict] = {
    "delivered": "accepted", "rejected": "rejected", "dropped": "dropped",
}  # fmt: skip
DISCARDED = {
    **BY_CHOICE,
    "before_send_error": "before_send raised an exception, or returned no message",
}
DROPPED = {  # the reasons of `stats().dropped`, and their texts
    "queue_full": "the queue was full",
    "expired": "given up: it was older than RetryPolicy.max_age",
    "ambiguous": "it may have arrived, and is not safe to send again",
    "too_large": "it is larger than the server or the queue takes",
    "raised": "the error was raised to the caller",
    "closed": "the client was closed first",
    "exit": "the process ended first",
    "interrupted": "the import stopped first: it can be resumed",
}
MAX_RESPONSE = 4000  # bytes
NOT_MODIFIED = 304
BAD_REQUEST = 400  # it names the records that are rejected: the others are not sent again

P = ParamSpec("P")

_lock = threading.Lock()
_pages: dict[str, ProgramPage] = {}


def watch(delivery: Sender[Any] | CustomConsumer, debug: object) -> ProgramPage:
    """Show the messages of a client on the page that `debug` names, and return the page.

    :raises ConfigurationError: unless it is True, a port, or the address of an emulator.
    """
    page = page_of(debug)
    if delivery.observer is None:
        delivery.observe(_ProgramObserver(page.feed, delivery.name_of))
    return page


def page_of(debug: object) -> ProgramPage:
    """Return the page for a value of `debug`; start it unless it runs.

    :raises ConfigurationError: if the value is invalid.
    """
    address = _address(debug)
    with _lock:
        page = _pages.get(address)
        if page is None:
            page = _pages[address] = ProgramPage(address)
        return page


def stop() -> None:
    """Stop all pages of this process."""
    with _lock:
        pages = list(_pages.values())
        _pages.clear()
    for page in pages:
        page.stop()


class ProgramPage:
    """A feed of this process, shown at `url`."""

    def __init__(self, address: str) -> None:
        self.feed = Feed()
        self._server: PageServer | None = None
        self._reporter: Reporter | None = None
        if address.isdecimal():
            self._server = PageServer(self.feed, ProgramSource(self.feed), int(address))
            self.url = self._server.url
        else:
            self._reporter = Reporter(self.feed, address, program_name())
            self.url = address
        logger.warning("the live page of this program: %s", self.url)

    def stop(self) -> None:
        """Stop serving; or report the rest, and stop reporting."""
        if self._server is not None:
            self._server.stop()
        if self._reporter is not None:
            self._reporter.stop()


class ProgramSource:
    """The data of a program's page in addition to the feed."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def state(self) -> dict[str, Any]:
        """Return the program's name and how many of its messages have no outcome yet."""
        waiting = sum(each.verdict in ("queued", "retrying") for each in self._feed.entries())
        return {"kind": "program", "program": program_name(), "waiting": waiting, "faults": []}

    def person(self, distinct_id: str) -> dict[str, Any]:
        """Return the messages of the feed that are about a person."""
        found = [each for each in self._feed.entries() if each.distinct_id == distinct_id]
        timeline = [
            {"event": each.event, "time": each.at, "properties": dict(each.properties)}
            for each in reversed(found)
        ]
        return {"distinct_id": distinct_id, "requested": distinct_id, "aliases": [],
                "profile": None, "timeline": timeline, "lost": []}  # fmt: skip

    def flags(self) -> list[dict[str, Any]]:
        """Return no flags: only an emulator has them."""
        return []

    def explain(self, flag_key: str, context: dict[str, Any]) -> dict[str, Any]:
        """Return a note that only an emulator explains flags."""
        del context
        return {"flag": flag_key, "trace": "flags are explained by the emulator's page"}

    def add_fault(self, text: str) -> None:
        """Raise ValueError: only an emulator has faults."""
        raise ValueError(f"{text!r}: only an emulator plays faults, not the page of a program")

    def clear_faults(self) -> None:
        """Do nothing: there are none."""

    def clear(self) -> None:
        """Empty the list; the program's messages are not touched."""
        self._feed.clear()


@dataclass(slots=True)
class ProgramRequest:
    """A request of a client, without its secrets."""

    method: str = "POST"
    path: str = ""
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    received_at: float = 0.0
    body: bytes = b""
    status: int | None = None
    response_body: bytes = b""


def _never_raises(method: Callable[P, None]) -> Callable[P, None]:
    """Log exceptions of an observer's method: watching must not change delivery."""

    @functools.wraps(method)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(*args, **kwargs)
        except Exception:
            logger.exception("the live page missed a message")

    return wrapper


class _ProgramObserver:
    """Adds the messages of one sender to the feed, and updates their entries."""

    def __init__(self, feed: Feed, name_of: Callable[[str], str]) -> None:
        self._feed = feed
        self._name_of = name_of
        self._pid = os.getpid()
        # Records are kept too, so that no new one gets the same `id()`.
        self._waiting: OrderedDict[int, tuple[Record, Entry]] = OrderedDict()
        self._polls: dict[str, Entry] = {}  # the latest entry of each path of flags

    @_never_raises
    def queued(self, records: Sequence[Record]) -> None:
        """Add records that are about to be queued."""
        if os.getpid() != self._pid:  # a fork: the page is the parent's
            return
        for record in records:
            if id(record) in self._waiting:
                continue
            request = ProgramRequest(path=f"({record.endpoint})", received_at=time.time())
            (entry,) = self._feed.add(
                request,
                self._lane(record.endpoint),
                [RequestRecord(record.decoded())],
                verdict="queued",
                size=len(record.body),
            )
            self._waiting[id(record)] = record, entry
            if len(self._waiting) > MAX_WAITING:
                self._waiting.popitem(last=False)

    @_never_raises
    def attempted(
        self,
        records: Sequence[Record],
        request: Request,
        retries: int,
        reply: Response | TransportFailure,
    ) -> None:
        """Set the request that carried records, and its response."""
        shown, reason = _as_sent(request, reply), _failure(reply)
        is_repeated = reason is not None and shown.status != BAD_REQUEST
        for index, record in enumerate(records):
            found = self._waiting.get(id(record))
            if found is None:
                continue
            self._feed.change(
                found[1],
                exchange=shown,
                status=shown.status,
                tries=retries + 1,
                index=index,
                count=len(records),
                last=shown.received_at,
                **({"verdict": "retrying", "reason": reason} if is_repeated else {}),
            )

    @_never_raises
    def settled(self, records: Sequence[Record], fate: str, reason: str) -> None:
        """Set the outcome of records."""
        for record in records:
            found = self._waiting.pop(id(record), None)
            if found is None:
                continue
            entry = found[1]
            why = DROPPED.get(reason, reason) or None
            if why is not None and fate == "dropped" and entry.reason is not None:
                why = f"{why}; before: {entry.reason}"
            self._feed.change(entry, verdict=FATES[fate], reason=why)

    @_never_raises
    def discarded(self, reason: str, count: int) -> None:
        """Add an entry for messages that were never queued; only their number is known."""
        if reason in DISCARDED and os.getpid() == self._pid:
            request = ProgramRequest(path=f"({reason})", received_at=time.time())
            record = {"messages": count, "reason": reason}
            self._feed.add(
                request,
                "events",
                [RequestRecord(record)],
                verdict="dropped",
                reason=DISCARDED[reason],
            )

    @_never_raises
    def refused(self, endpoint: str, message: Any, reason: str) -> None:
        """Add a message that was rejected before it was queued."""
        if os.getpid() == self._pid:
            request = ProgramRequest(path=f"({endpoint})", received_at=time.time())
            # A row that could not be composed may hold anything: objects, itself, 1,000 levels.
            content = loads(dumps(message)[0])
            self._feed.add(request, self._lane(endpoint), [RequestRecord(content, reason)])

    @_never_raises
    def requested(self, request: Request, reply: Response | TransportFailure) -> None:
        """Add a request without messages; polls of unchanged flags are one entry."""
        if os.getpid() != self._pid:
            return
        shown, reason = _as_sent(request, reply), _failure(reply)
        parts = urlsplit(request.url)
        shown.query = dict(parse_qsl(parts.query))
        lane: Lane = "flags" if "/flags" in parts.path else "tables"
        before = self._polls.get(parts.path)
        if shown.status == NOT_MODIFIED and before is not None:
            changes = {"tries": max(1, before.tries) + 1, "last": shown.received_at}
            self._feed.change(before, **changes)
            if self._feed.entry(before.id) is not None:
                return
        (entry,) = self._feed.add(
            shown,
            lane,
            [RequestRecord(_content(lane, parts.path, shown, reply))],
            verdict=None if reason is None else "faulted" if shown.status is None else "rejected",
            status=shown.status,
            reason=reason,
            stored=False,
            size=len(request.content),
        )
        self._polls[parts.path] = entry

    def _lane(self, endpoint: str) -> Lane:
        name = self._name_of(endpoint)
        return LANE_NAMES.get(name, name if name in LANES else "events")


def _as_sent(request: Request, reply: Response | TransportFailure) -> ProgramRequest:
    """Return a request for the page, without its secrets and its query."""
    parts = urlsplit(request.url)
    return ProgramRequest(
        request.method,
        f"{parts.scheme}://{parts.netloc}{parts.path}",
        {},
        {name: value if isinstance(value, str) else "••••"
         for name, value in request.headers.items()},
        time.time(),
        request.content,
        None if isinstance(reply, TransportFailure) else reply.status,
        b"" if isinstance(reply, TransportFailure) else reply.body[:MAX_RESPONSE],
    )  # fmt: skip


def _failure(reply: Response | TransportFailure) -> str | None:
    """Return why a request failed, None if it did not."""
    if isinstance(reply, TransportFailure):
        return str(reply.error)
    return f"status {reply.status}" if reply.status >= 400 else None


def _content(
    lane: Lane, path: str, request: ProgramRequest, reply: Response | TransportFailure
) -> dict[str, Any]:
    """Return what a request without messages was about, as the emulator shows it."""
    if lane != "flags":
        return {"method": request.method, "path": path}
    if path.endswith("/definitions"):
        return {"flag_key": "definitions"}
    context = _json_object(request.query.get("context"))
    answer = {} if isinstance(reply, TransportFailure) else _json_object(reply.body)
    found = {"flag_key": request.query.get("flag_key"), "context": context}
    return {**context, **found, "variants": answer.get("flags")}


def _json_object(text: str | bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(text or b"{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def program_name() -> str:
    """Return the name of the running program, and its process id."""
    name = Path(sys.argv[0]).name if sys.argv and sys.argv[0] not in ("", "-c") else "python"
    return f"{name} ({os.getpid()})"


def _address(debug: object) -> str:
    """Return a port as text, or the address of an emulator."""
    text = "1" if debug is True else str(debug).strip()
    if text.lower() in ("1", "true", "yes", "on"):
        return str(PORT)
    if text.isdecimal() and len(text) <= 5 and 1024 <= int(text) <= 65_535:
        return text
    parts = urlsplit(text)
    is_address = parts.scheme == "http" and is_loopback(parts.hostname or "")
    if is_address and parts.path in ("", "/") and not parts.query and "@" not in parts.netloc:
        return f"http://{parts.netloc}"
    raise ConfigurationError(
        f"debug={text[:100]!r} (or MP_DEBUG_PAGE) must be True or 1, a port from 1024 to 65535, or "
        "the address of an emulator on this machine, such as http://127.0.0.1:8650"
    )


def _forget() -> None:
    """Forget the pages in a forked child, which has none of their threads."""
    global _lock
    _lock = threading.Lock()
    _pages.clear()


fork.register(fork.Order.CLIENTS, after_in_child=_forget)
atexit.register(stop)

if TYPE_CHECKING:

    def _is_observer(observer: _ProgramObserver) -> Observer:
        return observer
