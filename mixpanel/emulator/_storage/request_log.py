"""Remember the requests that came, for tests to read and for the page to show."""

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from mixpanel.emulator._rules.decode import decoded


@dataclass(slots=True)
class RecordedRequest:
    """One request as it came over the wire.

    `body` holds the bytes as received, compressed if they were (for a request cut short: what had
    come by then). `status` is what was answered, None while there is no answer or none was given;
    `answer` the answer's body, kept when the status is 400 or above.
    """

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    received_at: float
    body: bytes = field(default=b"", repr=False)
    status: int | None = None
    answer: bytes = field(default=b"", repr=False)

    @property
    def records(self) -> list[Any]:
        """Decode the events or updates of the body; empty when it cannot be read."""
        return decoded(self.body, self.headers)


class Journal:
    """The newest requests, in the order of their arrival.

    Beyond `limit` requests or `max_bytes` of bodies the oldest are forgotten; `seen` counts all.
    """

    def __init__(self, limit: int = 10_000, max_bytes: int = 256 * 2**20) -> None:
        self._limit = limit
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._requests: deque[RecordedRequest] = deque()
        self._bytes = 0
        self.seen = 0

    def add(self, request: RecordedRequest) -> None:
        """Remember a request that has just begun."""
        with self._lock:
            self.seen += 1
            self._requests.append(request)
            self._forget()

    def fill(self, request: RecordedRequest, body: bytes) -> None:
        """Remember what came of a request's body."""
        with self._lock:
            self._bytes += len(body) - len(request.body)
            request.body = body
            self._forget()

    def requests(self, path: str | None = None) -> list[RecordedRequest]:
        """Return the remembered requests, of one path or of all."""
        with self._lock:
            return [each for each in self._requests if path is None or each.path == path]

    def clear(self) -> None:
        """Forget all requests."""
        with self._lock:
            self._requests.clear()
            self._bytes = self.seen = 0

    def _forget(self) -> None:
        while len(self._requests) > self._limit or (
            self._bytes > self._max_bytes and len(self._requests) > 1
        ):
            self._bytes -= len(self._requests.popleft().body)
