"""Script what goes wrong: `emu.play(Fault.status(503) * 2, Fault.reset("after"))`."""

import gzip
import json
import math
import threading
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from mixpanel.emulator._server import responses
from mixpanel.emulator._server.exchange import Answer, Stage
from mixpanel.emulator._storage.request_log import RecordedRequest

__all__ = ["Fault", "Script"]

TERMINATED = b"export terminated early\n"
OTHER_WORDS = ("/api/", "/customerio/", "/hightouch/")
BODILESS = (204, 205, 304)
FLIGHT = 0.05  # seconds for what was written to arrive, before a reset discards it
PORTAL = (
    b"<!DOCTYPE html><html><head><title>Welcome to FreeWifi</title></head>"
    b"<body><h1>Sign in to use this network</h1></body></html>"
)


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that happens to one request. Multiply it to let it happen more often.

    Make one with a class method and hand it to `Emulator.play`. `times` says for how many requests
    it stays; `refused` are records (by index) it makes the server refuse.
    """

    name: str
    perform: Callable[[Stage], Awaitable[None]]
    times: float = 1
    refused: Mapping[int, str] | None = None

    @classmethod
    def latency(cls, seconds: float) -> "Fault":
        """Take the request in, then wait before answering as usual."""
        return cls(f"latency {seconds:g}", lambda stage: stage.serve(latency=seconds))

    @classmethod
    def status(
        cls,
        code: int,
        *,
        retry_after: float | str | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> "Fault":
        """Answer with a status, and ingest nothing.

        `body` may be bytes, a string, or anything JSON; without one the answer is an error in the
        words of the endpoint. `retry_after` becomes the `Retry-After` header; other `headers`, such
        as `X-RateLimit-Reset`, are sent as they are. 204, 205 and 304 have no body.

        :raises ValueError: for a status that is none from 200 to 599.
        """
        if not 200 <= code <= 599:
            raise ValueError(f"a status is a number from 200 to 599, not {code}")
        extra = dict(headers or {})

        async def perform(stage: Stage) -> None:
            await stage.read()
            sent, content = _error(code, body, stage.request.path)
            if retry_after is not None:
                wait = retry_after if isinstance(retry_after, str) else f"{retry_after:g}"
                sent.append((b"retry-after", wait.encode()))
            sent += [(name.lower().encode(), told.encode()) for name, told in extra.items()]
            await stage.send(Answer(code, sent, content))

        return cls(f"status {code}", perform)

    @classmethod
    def reset(cls, when: Literal["before", "during", "after", "answering"] = "before") -> "Fault":
        """Break the connection with a TCP reset.

        `before` the body is read, `during` its arrival, or `after` it was read *and ingested*, but
        without an answer: the client cannot know. `answering` breaks it half-way in the answer.
        """
        if when not in ("before", "during", "after", "answering"):
            raise ValueError(
                f"a reset comes before, during or after the body, or answering, not {when!r}"
            )

        async def perform(stage: Stage) -> None:
            if when == "during":
                await stage.read(some=True)
            if when == "after":
                await stage.ingest()
            if when == "answering":
                await _begin(stage, 0.5)
                await stage.wait(FLIGHT)
            await stage.reset()

        return cls(f"reset {when}", perform)

    @classmethod
    def drip(
        cls, interval: float = 0.3, *, ingested: bool = True, headers: bool = False
    ) -> "Fault":
        """Answer one byte at a time, from the first header byte on if `headers`."""

        async def perform(stage: Stage) -> None:
            answer = await _taken(stage, ingested=ingested)
            stage.request.status = answer.status
            head, body = answer.raw()
            slowly = head + body if headers else body
            if not headers:
                await stage.write(head)
            for byte in slowly:
                if not await stage.wait(interval):
                    return
                await stage.write(bytes([byte]))
            await stage.hang_up()

        return cls("drip", perform)

    @classmethod
    def silence(cls, *, ingested: bool = False) -> "Fault":
        """Read the request and never answer, until the client leaves or the emulator stops."""

        async def perform(stage: Stage) -> None:
            await _taken(stage, ingested=ingested)
            await stage.wait()

        return cls("silence", perform)

    @classmethod
    def html(cls, status: int = 200) -> "Fault":
        """Answer like a captive portal: a web page, and nothing is ingested."""

        async def perform(stage: Stage) -> None:
            await stage.read()
            await stage.send(Answer(status, [(b"content-type", b"text/html")], PORTAL))

        return cls("html", perform)

    @classmethod
    def malformed(cls, *, ingested: bool = True) -> "Fault":
        """Answer 200 `application/json` with JSON that breaks off."""

        async def perform(stage: Stage) -> None:
            await _taken(stage, ingested=ingested)
            headers = [(b"content-type", b"application/json")]
            await stage.send(Answer(200, headers, b'{"code":200,"status":'))

        return cls("malformed", perform)

    @classmethod
    def truncated(cls, *, ingested: bool = True, at: float = 1.0, declared: bool = True) -> "Fault":
        """Promise a longer answer than is sent, then close the connection.

        Of the body a share of `at` is sent, half of it at 0.5. Without `declared` the answer says
        no more than it holds, as behind a careless proxy: only its content can tell.
        """

        async def perform(stage: Stage) -> None:
            if at < 1:
                await _begin(stage, at, declared=declared)
            else:
                answer = await _taken(stage, ingested=ingested)
                stage.request.status = answer.status
                head, body = answer.raw(length=len(answer.body) + 100)
                await stage.write(head + body)
            await stage.hang_up()

        return cls("truncated", perform)

    @classmethod
    def terminated_early(cls, after: float = 0.5) -> "Fault":
        """Let an export end as long ones do at times: 200, and a last line that is no JSON.

        A share of `after` of its lines comes before that line.
        """

        async def perform(stage: Stage) -> None:
            answer = await stage.ingest()
            packed = (b"content-encoding", b"gzip") in answer.headers
            whole = gzip.decompress(answer.body) if packed else answer.body
            lines = whole.splitlines(keepends=True)
            body = b"".join([*lines[: int(len(lines) * after)], TERMINATED])
            kept = [each for each in answer.headers if each[0] != b"content-length"]
            body = gzip.compress(body, compresslevel=1) if packed else body
            await stage.send(Answer(answer.status, kept, body))

        return cls("terminated early", perform)

    @classmethod
    def partial(cls, indexes: Collection[int], message: str = "refused by a fault") -> "Fault":
        """Let the server refuse these records; strict answers list them in `failed_records`."""
        refused = dict.fromkeys(indexes, message)
        return cls("partial", lambda stage: stage.serve(), refused=refused)

    def __mul__(self, times: int) -> "Fault":
        """Let the fault happen to this many requests."""
        return replace(self, times=self.times * times)

    __rmul__ = __mul__

    def forever(self) -> "Fault":
        """Let the fault happen to every request from now on."""
        return replace(self, times=math.inf)


async def _begin(stage: Stage, share: float, *, declared: bool = True) -> None:
    """Send the head of the usual answer and a share of its body."""
    answer = await stage.ingest()
    stage.request.status = answer.status
    part = answer.body[: int(len(answer.body) * share)]
    head, _ = answer.raw(length=None if declared else len(part))
    await stage.write(head + part)


async def _taken(stage: Stage, *, ingested: bool) -> Answer:
    if ingested:
        return await stage.ingest()
    await stage.read()
    headers = [(b"content-type", b"application/json"), *stage.headers]
    return Answer(200, headers, b'{"status":1,"error":null}')


def _error(code: int, body: Any, path: str) -> tuple[list[tuple[bytes, bytes]], bytes]:
    if code in BODILESS:
        return [], b""
    if body is None and path.startswith(OTHER_WORDS):
        answer = responses.refused(path, code, f"scripted answer {code}")
        kind = answer.headers["content-type"].encode()
        return [(b"content-type", kind)], bytes(answer.body)
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
    left: float
    path: str | None
    when: Callable[[RecordedRequest], bool] | None


class Script:
    """The faults still to come, in their order."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: list[_Entry] = []

    def add(
        self,
        faults: Iterable[Fault],
        *,
        path: str | None = None,
        when: Callable[[RecordedRequest], bool] | None = None,
    ) -> None:
        """Append faults, for one path or all, and for the requests `when` says yes to."""
        with self._lock:
            self._entries += [
                _Entry(fault, fault.times, path, when) for fault in faults if fault.times
            ]

    def asks_for_body(self, path: str) -> bool:
        """Say whether a `when` wants to see this request whole before its fault is chosen."""
        with self._lock:
            return any(each.when for each in self._entries if each.path in (None, path))

    def take(self, request: RecordedRequest) -> Fault | None:
        """Use up the first fault that is meant for this request."""
        with self._lock:
            for entry in self._entries:
                if entry.path not in (None, request.path):
                    continue
                if entry.when and not entry.when(request):
                    continue
                entry.left -= 1
                if entry.left <= 0:
                    self._entries.remove(entry)
                return entry.fault
            return None

    def clear(self) -> None:
        """Forget what was still to come."""
        with self._lock:
            self._entries.clear()
