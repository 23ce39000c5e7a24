"""Receive responses as a stream: exports may be larger than memory, or take an hour."""

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
    needs_attention,
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

CHUNK_BYTES = 512 * 1024  # passed on at once: each chunk may need a switch to another thread
ERROR_BYTES = 64 * 1024  # read of an error response


class StreamingTransport(AsyncTransport):
    """Send requests, and hand on the body of a response while it arrives."""

    async def receive(
        self,
        request: Request,
        on_headers: Callable[[Response], Callable[[bytes], Awaitable[object]] | None],
        *,
        headers_timeout: float,
        idle_timeout: float,
        total_timeout: float,
    ) -> Response | TransportFailure:
        """Make one attempt, and pass the body to a callback in chunks.

        `on_headers` is called with a response that has no body yet. It returns an async function
        that is awaited with each chunk; or None, to have the body in the returned response, up to a
        cap. The headers must arrive within `headers_timeout` seconds, each chunk within
        `idle_timeout` after the last, and all within `total_timeout`. A body that is shorter than
        announced is a `TransportFailure`. What the callbacks raise is raised here.
        """
        outer = sys.exception()
        trace, began = SendTrace(), anyio.current_time()
        error: TransportError
        consumer_errors: list[Exception] = []  # raised by the caller's callbacks, not by httpx
        with anyio.CancelScope(deadline=began + min(headers_timeout, total_timeout)) as scope:
            try:
                response = await self._open_response(request, {"trace": trace})
                try:
                    with _collecting(consumer_errors):
                        consume = on_headers(Response(response.status_code, response.headers, b""))
                    reader = _BodyReader(
                        response,
                        scope,
                        consumer_errors,
                        idle_timeout=idle_timeout,
                        deadline=began + total_timeout,
                    )
                    success = 200 <= response.status_code < 300
                    cap = self._max_response_bytes if success else ERROR_BYTES
                    body = await (
                        reader.read_capped(cap) if consume is None else reader.read_into(consume)
                    )
                finally:
                    with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
                        await response.aclose()
                return Response(response.status_code, response.headers, body)
            except Exception as failure:  # libraries raise more than they document
                if failure in consumer_errors:
                    raise
                permanent = is_permanent(failure)
                may_have_been_sent = self._may_have_been_sent(trace, failure)
                error = TransportError(f"{describe(failure)} ({request.url.partition('?')[0]})")
                error.needs_attention = needs_attention(failure)
                error.__cause__ = as_cause(failure, outer, keep_callers=not self._owns_client)
                return TransportFailure(error, may_have_been_sent, permanent)
        assert scope.cancelled_caught
        elapsed = anyio.current_time() - began
        if elapsed >= total_timeout:
            problem, seconds = "no complete response", total_timeout
        else:
            problem, seconds = "no more data", idle_timeout
        error = RequestTimeoutError(f"{problem} within {seconds:g} s")
        return TransportFailure(error, self._may_have_been_sent(trace))


@contextmanager
def _collecting(errors: list[Exception]) -> Iterator[None]:
    """Add an exception that is raised inside the block to a list, and raise it."""
    try:
        yield
    except Exception as error:
        errors.append(error)
        raise


class _BodyReader:
    """Read the body of one response, extending the deadline while data arrives."""

    def __init__(
        self,
        response: httpx.Response,
        scope: anyio.CancelScope,
        consumer_errors: list[Exception],
        *,
        idle_timeout: float,
        deadline: float,
    ) -> None:
        self._response = response
        self._scope = scope
        self._consumer_errors = consumer_errors
        self._idle_timeout = idle_timeout
        self._deadline = deadline

    async def read_capped(self, max_bytes: int) -> bytes:
        body = bytearray()

        async def keep(chunk: bytes) -> None:
            body.extend(chunk)

        await self._read(keep, chunk_size=1, max_bytes=max_bytes)
        return bytes(body[:max_bytes])

    async def read_into(self, consume: Callable[[bytes], Awaitable[object]]) -> bytes:
        await self._read(consume, chunk_size=CHUNK_BYTES, max_bytes=None)
        return b""

    async def _read(
        self,
        consume: Callable[[bytes], Awaitable[object]],
        *,
        chunk_size: int,
        max_bytes: int | None,
    ) -> None:
        pending: list[bytes] = []
        size = total = 0
        extended_at = -self._idle_timeout
        consumer_failure: Exception | None = None
        # Leaving the loop early would leave httpx's nested generators open. So a read that has to
        # end early is cancelled while it waits, which closes them from the inside.
        with anyio.CancelScope() as stop:
            async for chunk in raw_stream(self._response):
                now = anyio.current_time()
                # Not for every chunk: moving a deadline makes the loop schedule another timer.
                if now - extended_at > min(1.0, self._idle_timeout / 8):
                    self._scope.deadline = min(self._deadline, now + self._idle_timeout)
                    extended_at = now
                if stop.cancel_called:
                    continue
                pending.append(chunk)
                size, total = size + len(chunk), total + len(chunk)
                if size >= chunk_size:
                    try:
                        with _collecting(self._consumer_errors):
                            await consume(b"".join(pending))
                    except Exception as error:
                        consumer_failure = error
                    pending, size = [], 0
                if consumer_failure is not None or (max_bytes is not None and total > max_bytes):
                    stop.cancel()
            retire_if_surplus(self._response.stream)
            if pending and consumer_failure is None:
                with _collecting(self._consumer_errors):
                    await consume(b"".join(pending))
        if consumer_failure is not None:
            raise consumer_failure
