"""The requests received, for tests to read and for the web page to show."""

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from mixpanel.emulator._rules.decode import decode_records


@dataclass(slots=True)
class RecordedRequest:
    """One request, as it was received.

    `path` has no slash at its end, whether or not it was sent with one. `body` holds the bytes as
    received, still compressed if they were (of an incomplete request, the bytes that arrived).
    `status` is that of the response, None without one so far; `response_body` its body if the
    status is 400 or above.
    """

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    received_at: float
    body: bytes = field(default=b"", repr=False)
    status: int | None = None
    response_body: bytes = field(default=b"", repr=False)

    @property
    def records(self) -> list[Any]:
        """The decoded events or updates of the body; empty if it cannot be decoded."""
        return decode_records(self.body, self.headers)


class RequestLog:
    """The newest requests, in the order of arrival.

    Above `limit` requests, or `max_bytes` of bodies, the oldest are dropped; `seen` counts all.
    """

    def __init__(self, limit: int = 10_000, max_bytes: int = 256 * 2**20) -> None:
        self._limit = limit
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._requests: deque[RecordedRequest] = deque()
        self._bytes = 0
        self.seen = 0

    def add(self, request: RecordedRequest) -> None:
        """Add a request whose body has not been read yet."""
        with self._lock:
            self.seen += 1
            self._requests.append(request)
            self._drop_oldest()

    def set_body(self, request: RecordedRequest, body: bytes) -> None:
        """Set the body of a request, or as much of it as has arrived."""
        with self._lock:
            self._bytes += len(body) - len(request.body)
            request.body = body
            self._drop_oldest()

    def requests(self, path: str | None = None) -> list[RecordedRequest]:
        """Return the requests in the log, of one path or of all."""
        with self._lock:
            return [each for each in self._requests if path is None or each.path == path]

    def clear(self) -> None:
        """Forget all requests."""
        with self._lock:
            self._requests.clear()
            self._bytes = self.seen = 0

    def _drop_oldest(self) -> None:
        while len(self._requests) > self._limit or (
            self._bytes > self._max_bytes and len(self._requests) > 1
        ):
            self._bytes -= len(self._requests.popleft().body)
