"""Receive answers that may be longer than memory is large, or take an hour."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio

from mixpanel._http.async_transport import (
    AsyncTransport,
    SendTrace,
    raw_stream,
)
from mixpanel._http.failures import (
    as_cause,
    describe,
    is_permanent,
)
from mixpanel._http.response_pairing import (
    CLOSE_TIMEOUT,
    retire_if_surplus,
)
from mixpanel._http.responses import (
    Response,
    TransportFailure,
)
from mixpanel.exceptions import RequestTimeoutError, TransportError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    import httpx

    from mixpanel._http.request import (
        Request,
    )

__all__ = ["StreamingTransport"]

PIECE = 512 * 1024  # bytes that are handed on at once, as each may be a trip to another thread


ERROR_BYTES = 64 * 1024  # that an answer which is no success may have


class StreamingTransport(AsyncTransport):
    """Send requests whose answers may be longer than memory is large, or take an hour."""

    async def receive(
        self,
        request: Request,
        into: Callable[[Response], Callable[[bytes], Awaitable[object]] | None],
        *,
        first: float,
        idle: float,
        overall: float,
    ) -> Response | TransportFailure:
        """Make one attempt, and hand the body on in pieces while it comes.

        `into` gets status and headers. It returns what takes the pieces; or None, to have the
        body in the answer, up to a cap. The headers must come within `first` seconds, each
        chunk within `idle` after the last, everything within `overall`. A body that ends before
        its announced end is a `Failure`; what taking a piece raises is raised here.
        """
        outer = sys.exception()
        watch, began = SendTrace(), anyio.current_time()
        error: TransportError
        theirs: list[Exception] = []  # what the code that takes the answer raised
        with anyio.CancelScope(deadline=began + min(first, overall)) as scope:
            try:
                response = await self._answer(request, {"trace": watch})
                try:
                    with _noting(theirs):
                        take = into(Response(response.status_code, response.headers, b""))
                    reading = _Reading(response, scope, theirs, idle=idle, end=began + overall)
                    success = 200 <= response.status_code < 300
                    cap = self._answer_bytes if success else ERROR_BYTES
                    body = await (reading.capped(cap) if take is None else reading.passed_on(take))
                finally:
                    with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
                        await response.aclose()
                return Response(response.status_code, response.headers, body)
            except Exception as failure:  # libraries raise more than they document
                if failure in theirs:
                    raise
                permanent = is_permanent(failure)
                may_have_been_sent = self._may_be_sent(watch, failure)
                error = TransportError(f"{describe(failure)} ({request.url.partition('?')[0]})")
                error.__cause__ = as_cause(failure, outer, keep_callers=not self._own)
                return TransportFailure(error, may_have_been_sent, permanent)
        assert scope.cancelled_caught
        took = anyio.current_time() - began
        late = "no complete answer" if took >= overall else "nothing more came"
        error = RequestTimeoutError(f"{late} within {overall if took >= overall else idle:g} s")
        return TransportFailure(error, self._may_be_sent(watch))


@contextmanager
def _noting(errors: list[Exception]) -> Iterator[None]:
    """Add what is raised inside to a list."""
    try:
        yield
    except Exception as error:
        errors.append(error)
        raise


class _Reading:
    """Read one body, pushing the deadline ahead while bytes come."""

    def __init__(
        self,
        response: httpx.Response,
        scope: anyio.CancelScope,
        theirs: list[Exception],
        *,
        idle: float,
        end: float,
    ) -> None:
        self._response = response
        self._scope = scope
        self._theirs = theirs
        self._idle = idle
        self._end = end

    async def capped(self, most: int) -> bytes:
        body = bytearray()

        async def keep(piece: bytes) -> None:
            body.extend(piece)

        await self._read(keep, piece=1, most=most)
        return bytes(body[:most])

    async def passed_on(self, take: Callable[[bytes], Awaitable[object]]) -> bytes:
        await self._read(take, piece=PIECE, most=None)
        return b""

    async def _read(
        self, take: Callable[[bytes], Awaitable[object]], *, piece: int, most: int | None
    ) -> None:
        held: list[bytes] = []
        size = seen = 0
        pushed = -self._idle
        broken: Exception | None = None
        # A loop that is left half-way leaves httpx's nested generators open. So a read that shall
        # end early is cancelled where it waits, and ends from inside.
        with anyio.CancelScope() as stop:
            async for chunk in raw_stream(self._response):
                now = anyio.current_time()
                if now - pushed > min(1.0, self._idle / 8):
                    self._scope.deadline = min(self._end, now + self._idle)
                    pushed = now
                if stop.cancel_called:
                    continue
                held.append(chunk)
                size, seen = size + len(chunk), seen + len(chunk)
                if size >= piece:
                    try:
                        with _noting(self._theirs):
                            await take(b"".join(held))
                    except Exception as error:
                        broken = error
                    held, size = [], 0
                if broken is not None or (most is not None and seen > most):
                    stop.cancel()
            retire_if_surplus(self._response.stream)
            if held and broken is None:
                with _noting(self._theirs):
                    await take(b"".join(held))
        if broken is not None:
            raise broken
