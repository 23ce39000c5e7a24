"""Keep one connection pool for each event loop, and close it in the loop it belongs to."""

from __future__ import annotations

import gc
import math
import sys
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import anyio

from mixpanel._http.responses import (
    TransportFailure,
)
from mixpanel._runtime import event_loop, fork
from mixpanel._runtime.import_lock import import_lock
from mixpanel.exceptions import ConfigurationError, RequestTimeoutError, TransportError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mixpanel._http.async_transport import AsyncTransport
    from mixpanel._http.proxies import (
        TransportOptions,
    )
    from mixpanel._http.request import (
        Api,
        Request,
        RequestGuard,
        Send,
    )
    from mixpanel._http.responses import (
        Response,
    )

__all__ = ["LoopConnections", "build_request", "send_guarded", "sleep_out"]

RESTART_DELAY = 0.05  # seconds until a closer task that was cancelled is started again
IDLE_TIMEOUT = 5.0  # seconds without a request after which connections are closed
CLOSE_TIMEOUT = 0.1  # seconds that closing may take
COMPRESS_IN_THREAD = 64 * 1024  # bytes above which compressing would hold up the loop

_inherited: list[Any] = []  # pools of the parent, which a forked child neither uses nor closes


class LoopConnections:
    """Connection pools, one for each event loop that sends.

    Each pool has a closer, a task in its loop that closes the connections when they are idle, when
    the consumer is closed, and when the loop ends.

    httpcore never frees the connection of a request that is cancelled natively (by
    `asyncio.Task.cancel`), nor the place of one that is cancelled while it waits for a free
    connection. So requests run in tasks that only anyio scopes cancel, they wait for a free
    connection here, and a pool that lost a connection is replaced.
    """

    def __init__(
        self, transport: TransportOptions, *, deadline: float, max_response_bytes: int
    ) -> None:
        self.transport = transport
        self._deadline = deadline
        self._max_response_bytes = max_response_bytes
        self._by_loop: dict[Any, _LoopPool] = {}
        fork.register_instance(fork.Order.LOOPS, self)

    async def send(self, request: Request) -> Response | TransportFailure:
        """Make one attempt from the running loop; the caller may be cancelled in any way."""
        return await self.send_in_own_task(lambda: self.attempt(request))

    async def attempt(
        self, request: Request, *, on_sent: Callable[[], object] | None = None
    ) -> Response | TransportFailure:
        """Make one attempt, in a task that only an anyio scope cancels.

        `on_sent` is called when the request is sent. With it, a failure states whether it was.
        """
        try:
            return await self._with_transport(
                lambda transport, end: transport.send(request, on_sent=on_sent, end=end)
            )
        except ConfigurationError as error:  # from environment variables, read at the first request
            return TransportFailure(
                TransportError(str(error)), may_have_been_sent=False, permanent=True
            )

    async def send_in_own_task(
        self, call: Callable[[], Awaitable[Response | TransportFailure]]
    ) -> Response | TransportFailure:
        """Await an attempt in a task of its own, which the caller's native cancellation spares."""
        try:
            return await event_loop.in_own_task(call)
        except event_loop.TaskEndedError as error:
            return TransportFailure(TransportError(str(error)), may_have_been_sent=True)

    async def _with_transport(
        self, use: Callable[[Any, float | None], Awaitable[Response | TransportFailure]]
    ) -> Response | TransportFailure:
        """Wait for a free connection and use it; once more on a new pool if all were lost."""
        pool = self._pool_of_running_loop()
        pool.in_use += 1
        try:
            waited = await pool.acquire(self._deadline or math.inf)
            if waited is None:
                text = f"no connection was free within {self._deadline:g} s"
                return TransportFailure(RequestTimeoutError(text), may_have_been_sent=False)
            try:
                transport = pool.transport or await self._open_transport(pool)
                # The wait for a connection counts towards the attempt's deadline.
                end = anyio.current_time() + self._deadline - waited if waited else None
                response = await pool.send(transport, lambda: use(transport, end))
                if transport.is_exhausted and pool.transport is transport:
                    # The semaphore says that a connection is free, httpcore that none is: its
                    # missing ones are lost.
                    pool.retire(transport)
                    transport = await self._open_transport(pool)
                    response = await pool.send(transport, lambda: use(transport, end))
                return response
            finally:
                pool.slots.release()
        finally:
            pool.in_use -= 1
            pool.last_used = time.monotonic()

    async def warm(self) -> None:
        """Load what the first request needs, before the loop is busy."""
        is_first_load = "mixpanel._http.async_transport" not in sys.modules
        with suppress(Exception):  # the first request reports the error
            await self._open_transport(self._pool_of_running_loop())
        if is_first_load:
            gc.collect()  # else the garbage collector would visit the new modules during requests

    def _pool_of_running_loop(self) -> _LoopPool:
        loop = event_loop.running_loop()
        assert loop is not None
        pool = self._by_loop.get(loop.key)
        if pool is None:
            self._forget_dead()
            pool = self._by_loop[loop.key] = _LoopPool(loop, self.transport.connections)
            self._start_closer(pool)
        return pool

    def _start_closer(self, pool: _LoopPool) -> None:
        def restart() -> None:
            # Code that cancels all tasks of a loop may cancel this one before its first step.
            if not pool.has_started:
                pool.loop.call_later(RESTART_DELAY, lambda: self._start_closer(pool))

        pool.loop.spawn(lambda: self._close_when_idle(pool), on_done=restart)

    async def _open_transport(self, pool: _LoopPool) -> AsyncTransport:
        # In a thread: loading httpx and the trusted certificates takes a tenth of a second.
        async with pool.open_lock:
            if pool.transport is None:
                pool.transport = await event_loop.in_worker_thread(self._create_holding_import_lock)
            return pool.transport

    def _create_holding_import_lock(self) -> AsyncTransport:
        with import_lock:
            return self._create_transport()

    def _create_transport(self) -> AsyncTransport:
        from mixpanel._http.async_transport import AsyncTransport

        return AsyncTransport(
            self.transport, deadline=self._deadline, max_response_bytes=self._max_response_bytes
        )

    async def _close_when_idle(self, pool: _LoopPool) -> None:
        """Wait until the pool is idle or stopped, and close it: the task that owns its end.

        The connections have to be closed in the loop that opened them, also when that loop ends.
        """
        pool.has_started = True
        try:
            remaining = IDLE_TIMEOUT
            while (
                pool.in_use or (remaining := pool.last_used + IDLE_TIMEOUT - time.monotonic()) > 0
            ):
                with anyio.move_on_after(IDLE_TIMEOUT if pool.in_use else remaining):
                    await pool.stop.wait()
                    break
                await pool.close_retired()
        finally:
            # Also when the task is cancelled, as `asyncio.run` does at the end of its loop. A new
            # request may have replaced the pool already.
            if self._by_loop.get(pool.loop.key) is pool:
                del self._by_loop[pool.loop.key]
            with suppress(Exception), anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
                if pool.transport is not None:
                    await pool.transport.aclose()
                await pool.close_retired(unused_only=False)
            pool.closed.set()

    async def aclose(self) -> None:
        """Close the connections of the running loop, and have other loops close theirs soon."""
        loop = event_loop.running_loop()
        for key, pool in list(self._by_loop.items()):
            if loop is not None and key == loop.key:
                pool.stop.set()
                with anyio.move_on_after(CLOSE_TIMEOUT):
                    await pool.closed.wait()
            else:
                pool.last_used = 0.0

    def _forget_dead(self) -> None:
        """Drop the pools of loops that have ended; garbage collection closes their sockets."""
        for key, pool in list(self._by_loop.items()):
            if not pool.loop.is_running():
                self._by_loop.pop(key, None)
                pool.transport = None  # anyio keeps references to tasks that never ended

    def after_fork(self) -> None:
        """Keep the parent's pools aside in a forked child, which must not close them either."""
        _inherited.extend(self._by_loop.values())
        self._by_loop = {}


async def sleep_out(remaining: Callable[[], float]) -> None:
    """Sleep until `remaining()` returns no more seconds; it may be extended meanwhile."""
    for _ in range(100):
        seconds = remaining()
        if seconds <= 0:
            return
        await anyio.sleep(seconds)


async def send_guarded(
    guard: RequestGuard | None,
    connections: LoopConnections,
    send: Callable[[], Awaitable[Response | TransportFailure]],
) -> Response | TransportFailure:
    """Make one attempt by `send`, and all that its guard requires before and after it."""
    if guard is None:
        return await send()
    response = None
    with closing(guard.run()) as steps:
        while True:
            try:
                step = steps.send(response)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            response = None
            if isinstance(step, float | int):
                await anyio.sleep(step)
            else:
                response = await (send() if step is None else connections.attempt(step))


async def build_request(api: Api, step: Send) -> Request:
    """Return the request of a step; large bodies are compressed in a thread, not on the loop."""
    if not step.gzip or sum([len(record.body) for record in step.records]) < COMPRESS_IN_THREAD:
        return api.request(step)
    return await event_loop.in_worker_thread(lambda: api.request(step))


class _LoopPool:
    """The connections of one loop, and the state of the task that closes them."""

    def __init__(self, loop: event_loop.Loop, connections: int) -> None:
        self.loop = loop
        self.transport: AsyncTransport | None = None
        self.open_lock = anyio.Lock()
        self.slots = anyio.Semaphore(connections)
        self.retired: list[AsyncTransport] = []
        self.in_use = 0
        self.last_used = time.monotonic()
        self.has_started = False
        self.stop = anyio.Event()
        self.closed = anyio.Event()

    async def acquire(self, timeout: float) -> float | None:
        """Wait for a free connection; return the seconds that it took, None after `timeout`."""
        try:
            self.slots.acquire_nowait()
        except anyio.WouldBlock:
            began, acquired = anyio.current_time(), False
            with anyio.move_on_after(timeout):
                await self.slots.acquire()
                acquired = True
            return anyio.current_time() - began if acquired else None
        return 0.0

    async def send(
        self, transport: AsyncTransport, send: Callable[[], Awaitable[Response | TransportFailure]]
    ) -> Response | TransportFailure:
        """Make one attempt, and retire the transport if it is cancelled natively."""
        transport.in_flight += 1
        try:
            return await send()
        except anyio.get_cancelled_exc_class():
            # A cancelled anyio scope has a deadline of -inf; else it was `Task.cancel`.
            if anyio.current_effective_deadline() > -math.inf:
                self.retire(transport)
            raise
        finally:
            transport.in_flight -= 1

    def retire(self, transport: AsyncTransport) -> None:
        """Open new connections for the next request; close these when they are unused."""
        if self.transport is transport:
            self.transport = None
        if transport not in self.retired:
            self.retired.append(transport)

    async def close_retired(self, *, unused_only: bool = True) -> None:
        """Close retired transports: with `unused_only`, those without a request in flight."""
        for transport in list(self.retired):
            if not (unused_only and transport.in_flight):
                self.retired.remove(transport)
                with suppress(Exception):
                    await transport.aclose()
