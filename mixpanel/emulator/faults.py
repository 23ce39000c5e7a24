"""Script faults: `emu.play(Fault.status(503) * 2, Fault.reset("after"))`."""

import gzip
import json
import math
import threading
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from mixpanel.emulator._server import responses
from mixpanel.emulator._server.exchange import BufferedResponse, RequestExchange
from mixpanel.emulator._storage.request_log import RecordedRequest

__all__ = ["Fault", "Script"]

TERMINATED = b"export terminated early\n"
OTHER_ENDPOINTS = ("/api/", "/customerio/", "/hightouch/")
BODYLESS_STATUSES = (204, 205, 304)
DELIVERY_TIME = 0.05  # seconds for written bytes to arrive: a reset would discard them
CAPTIVE_PORTAL = (
    b"<!DOCTYPE html><html><head><title>Welcome to FreeWifi</title></head>"
    b"<body><h1>Sign in to use this network</h1></body></html>"
)


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of one request; multiply it for several: `Fault.status(503) * 3`.

    Create it with a class method, and pass it to `Emulator.play`. `times` is the number of requests
    that it applies to. `refused` are the records, by index, that the server rejects, with messages.
    """

    name: str
    perform: Callable[[RequestExchange], Awaitable[None]]
    times: float = 1
    refused: Mapping[int, str] | None = None

    @classmethod
    def latency(cls, seconds: float) -> "Fault":
        """Ingest the request, then wait before responding as usual."""
        return cls(f"latency {seconds:g}", lambda exchange: exchange.serve(latency=seconds))

    @classmethod
    def status(
        cls,
        code: int,
        *,
        retry_after: float | str | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> "Fault":
        """Respond with a status, and ingest nothing.

        `body` may be bytes, a string, or any JSON value; without one the response is an error in
        the format of the endpoint. `retry_after` becomes the `Retry-After` header; other `headers`,
        such as `X-RateLimit-Reset`, are sent unchanged. 204, 205 and 304 have no body.

        :raises ValueError: the status is not between 200 and 599.
        """
        if not 200 <= code <= 599:
            raise ValueError(f"status must be between 200 and 599, not {code}")
        extra = dict(headers or {})

        async def perform(exchange: RequestExchange) -> None:
            await exchange.read()
            sent, content = _error(code, body, exchange.request.path)
            if retry_after is not None:
                wait = retry_after if isinstance(retry_after, str) else f"{retry_after:g}"
                sent.append((b"retry-after", wait.encode()))
            sent += [(name.lower().encode(), value.encode()) for name, value in extra.items()]
            await exchange.send(BufferedResponse(code, sent, content))

        return cls(f"status {code}", perform)

    @classmethod
    def reset(cls, when: Literal["before", "during", "after", "answering"] = "before") -> "Fault":
        """Break the connection with a TCP reset.

        `before` the body is read; `during` its arrival; or `after` it was read *and ingested*, but
        without a response, so that the client cannot know. `answering` breaks it half-way through
        the response.
        """
        if when not in ("before", "during", "after", "answering"):
            raise ValueError(
                f'when must be "before", "during", "after" or "answering", not {when!r}'
            )

        async def perform(exchange: RequestExchange) -> None:
            if when == "during":
                await exchange.read(some=True)
            if when == "after":
                await exchange.ingest()
            if when == "answering":
                await _send_part(exchange, 0.5)
                await exchange.wait(DELIVERY_TIME)
            await exchange.reset()

        return cls(f"reset {when}", perform)

    @classmethod
    def drip(
        cls, interval: float = 0.3, *, ingested: bool = True, headers: bool = False
    ) -> "Fault":
        """Send the response one byte at a time, including its head if `headers`."""

        async def perform(exchange: RequestExchange) -> None:
            response = await _ingest_or_fake(exchange, ingested=ingested)
            exchange.request.status = response.status
            head, body = response.raw()
            slowly = head + body if headers else body
            if not headers:
                await exchange.write(head)
            for byte in slowly:
                if not await exchange.wait(interval):
                    return
                await exchange.write(bytes([byte]))
            await exchange.hang_up()

        return cls("drip", perform)

    @classmethod
    def silence(cls, *, ingested: bool = False) -> "Fault":
        """Read the request, and never respond until the client or the emulator closes."""

        async def perform(exchange: RequestExchange) -> None:
            await _ingest_or_fake(exchange, ingested=ingested)
            await exchange.wait()

        return cls("silence", perform)

    @classmethod
    def html(cls, status: int = 200) -> "Fault":
        """Respond like a captive portal: a web page, and nothing is ingested."""

        async def perform(exchange: RequestExchange) -> None:
            await exchange.read()
            await exchange.send(
                BufferedResponse(status, [(b"content-type", b"text/html")], CAPTIVE_PORTAL)
            )

        return cls("html", perform)

    @classmethod
    def malformed(cls, *, ingested: bool = True) -> "Fault":
        """Respond 200 `application/json` with incomplete JSON."""

        async def perform(exchange: RequestExchange) -> None:
            await _ingest_or_fake(exchange, ingested=ingested)
            headers = [(b"content-type", b"application/json")]
            await exchange.send(BufferedResponse(200, headers, b'{"code":200,"status":'))

        return cls("malformed", perform)

    @classmethod
    def truncated(cls, *, ingested: bool = True, at: float = 1.0, declared: bool = True) -> "Fault":
        """Declare a longer response than is sent, then close the connection.

        `at` is the fraction of the body that is sent: half of it at 0.5. Without `declared` the
        Content-Length is that of the truncated body, as behind a faulty proxy: only its content
        shows the truncation.
        """

        async def perform(exchange: RequestExchange) -> None:
            if at < 1:
                await _send_part(exchange, at, declared=declared)
            else:
                response = await _ingest_or_fake(exchange, ingested=ingested)
                exchange.request.status = response.status
                head, body = response.raw(length=len(response.body) + 100)
                await exchange.write(head + body)
            await exchange.hang_up()

        return cls("truncated", perform)

    @classmethod
    def terminated_early(cls, after: float = 0.5) -> "Fault":
        """End an export as long ones sometimes end: 200, and a last line that is not JSON.

        `after` is the fraction of its lines that are sent before that line.
        """

        async def perform(exchange: RequestExchange) -> None:
            response = await exchange.ingest()
            packed = (b"content-encoding", b"gzip") in response.headers
            whole = gzip.decompress(response.body) if packed else response.body
            lines = whole.splitlines(keepends=True)
            body = b"".join([*lines[: int(len(lines) * after)], TERMINATED])
            kept = [each for each in response.headers if each[0] != b"content-length"]
            body = gzip.compress(body, compresslevel=1) if packed else body
            await exchange.send(BufferedResponse(response.status, kept, body))

        return cls("terminated early", perform)

    @classmethod
    def partial(cls, indexes: Collection[int], message: str = "refused by a fault") -> "Fault":
        """Reject these records; strict responses list them in `failed_records`."""
        refused = dict.fromkeys(indexes, message)
        return cls("partial", lambda exchange: exchange.serve(), refused=refused)

    def __mul__(self, times: int) -> "Fault":
        """Return the fault for this many requests."""
        return replace(self, times=self.times * times)

    __rmul__ = __mul__

    def forever(self) -> "Fault":
        """Return the fault for every request from now on."""
        return replace(self, times=math.inf)


async def _send_part(exchange: RequestExchange, share: float, *, declared: bool = True) -> None:
    """Send the head of the usual response and a fraction of its body."""
    response = await exchange.ingest()
    exchange.request.status = response.status
    part = response.body[: int(len(response.body) * share)]
    head, _ = response.raw(length=None if declared else len(part))
    await exchange.write(head + part)


async def _ingest_or_fake(exchange: RequestExchange, *, ingested: bool) -> BufferedResponse:
    if ingested:
        return await exchange.ingest()
    await exchange.read()
    headers = [(b"content-type", b"application/json"), *exchange.headers]
    return BufferedResponse(200, headers, b'{"status":1,"error":null}')


def _error(code: int, body: Any, path: str) -> tuple[list[tuple[bytes, bytes]], bytes]:
    if code in BODYLESS_STATUSES:
        return [], b""
    if body is None and path.startswith(OTHER_ENDPOINTS):
        response = responses.refused(path, code, f"scripted answer {code}")
        kind = response.headers["content-type"].encode()
        return [(b"content-type", kind)], bytes(response.body)
    if isinstance(body, bytes):
        return [], body
    if isinstance(body, str):
        return [(b"content-type", b"text/plain; charset=utf-8")], body.encode()
    if body is None:
        body = {"code": code, "error": f"scripted answer {code}", "status": responses.phrase(code)}
    return [(b"content-type", b"application/json")], json.dumps(body).encode()


@dataclass(slots=True)
class _Entry:
    fault: Fault
    remaining: float
    path: str | None
    when: Callable[[RecordedRequest], bool] | None
    share: float = 1.0
    text: str | None = None
    seen: int = 0


class Script:
    """The scripted faults that remain, in order."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: list[_Entry] = []

    def add(
        self,
        faults: Iterable[Fault],
        *,
        path: str | None = None,
        when: Callable[[RecordedRequest], bool] | None = None,
        share: float = 1.0,
        text: str | None = None,
    ) -> None:
        """Append faults, for one path or all, and for requests for which `when` returns True.

        `share` is the fraction of these requests that they apply to, evenly spread. `text` is how
        they were written.
        """
        with self._lock:
            self._entries += [
                _Entry(fault, fault.times, path, when, share, text)
                for fault in faults
                if fault.times
            ]

    def needs_body(self, path: str) -> bool:
        """Return True if a `when` needs the request's body before a fault is chosen."""
        with self._lock:
            return any(each.when for each in self._entries if each.path in (None, path))

    def take(self, request: RecordedRequest) -> Fault | None:
        """Return the first fault that applies to this request, and count it; None without one."""
        with self._lock:
            for entry in self._entries:
                if entry.path not in (None, request.path):
                    continue
                if entry.when and not entry.when(request):
                    continue
                entry.seen += 1
                if int(entry.seen * entry.share) == int((entry.seen - 1) * entry.share):
                    continue
                entry.remaining -= 1
                if entry.remaining <= 0:
                    self._entries.remove(entry)
                return entry.fault
            return None

    def remaining(self) -> list[dict[str, Any]]:
        """Return the faults that remain, in order, as the web page shows them."""
        with self._lock:
            return [
                {
                    "name": each.text or each.fault.name,
                    "path": each.path,
                    "remaining": None if each.remaining == math.inf else int(each.remaining),
                    "percent": round(each.share * 100, 1),
                    "conditional": each.when is not None,
                }
                for each in self._entries
            ]

    def clear(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._entries.clear()
