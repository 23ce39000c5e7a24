"""Report the feed of a program to an emulator, whose page shows it with what it received."""

from __future__ import annotations

import json
import threading
from http.client import HTTPConnection, HTTPException
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mixpanel._page.details import masked_headers
from mixpanel._page.routes import CHANGE_HEADER

if TYPE_CHECKING:
    from mixpanel._page.entries import Entry
    from mixpanel._page.feed import Feed

__all__ = ["Reporter"]

INTERVAL = 0.1  # seconds
RETRY_INTERVAL = 2.0
TIMEOUT = 3.0
MAX_BYTES = 4 * 2**20  # of one report
MAX_RECORD = 200_000  # characters; longer records are shortened
MAX_TEXT = 1000
MAX_MEMBERS = 100
MAX_DEPTH = 3


class Reporter:
    """Sends new and changed entries of a feed, in a thread of its own, until it is stopped."""

    def __init__(self, feed: Feed, address: str, program: str) -> None:
        self._feed = feed
        parts = urlsplit(address)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._program = program
        self._seq = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mixpanel-page", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Report the rest, and stop."""
        self._stopping.set()
        self._thread.join(TIMEOUT)

    def _run(self) -> None:
        wait = INTERVAL
        while not self._stopping.wait(wait):
            wait = INTERVAL if self._report() else RETRY_INTERVAL
        self._report()

    def _report(self) -> bool:
        """Send new and changed entries; return False if the emulator cannot be reached."""
        while True:
            found, _ = self._feed.after(self._seq)
            if not found:
                return True
            parts: list[str] = []
            size = 0
            for entry in found:
                parts.append(json.dumps(_as_report(entry), default=str))
                size += len(parts[-1])
                if size > MAX_BYTES:
                    break
            program = json.dumps(f"{self._program} {self._feed.name}")
            body = f'{{"program": {program}, "entries": [{", ".join(parts)}]}}'
            if not self._post(body.encode()):
                return False
            self._seq = found[len(parts) - 1].seq

    def _post(self, body: bytes) -> bool:
        connection = HTTPConnection(self._host, self._port, timeout=TIMEOUT)
        headers = {CHANGE_HEADER: "1", "content-type": "application/json"}
        try:
            connection.request("POST", "/live/report", body, headers)
            return connection.getresponse().status < 500
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()


def _as_report(entry: Entry) -> dict[str, Any]:
    exchange = entry.exchange
    record = entry.record if entry.size <= MAX_RECORD else _shortened(entry.record)
    return {
        "key": entry.id,
        "lane": entry.lane,
        "verdict": entry.verdict,
        "record": record,
        "reason": entry.reason,
        "status": entry.status,
        "tries": entry.tries,
        "index": entry.index,
        "count": entry.count,
        "size": entry.size,
        "method": exchange.method,
        "path": exchange.path,
        "headers": masked_headers(exchange.headers),
        "response": exchange.response_body.decode(errors="replace"),
    }


def _shortened(value: Any, depth: int = 0) -> Any:
    """Return the beginning of a long record: of its texts, lists and objects."""
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else value[:MAX_TEXT] + "…"
    if isinstance(value, dict | list) and depth > MAX_DEPTH:
        return "…"
    if isinstance(value, list):
        return [_shortened(each, depth + 1) for each in value[:MAX_MEMBERS]]
    if isinstance(value, dict):
        members = islice(value.items(), MAX_MEMBERS)
        return {name[:MAX_TEXT]: _shortened(each, depth + 1) for name, each in members}
    return value
