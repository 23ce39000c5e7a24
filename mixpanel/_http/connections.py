"""Keep one set of connections for each event loop, and close it in the loop it belongs to."""

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

LATER = 0.05  # seconds until a task that was cancelled with all others is started again
IDLE = 5.0  # seconds without a request after which connections are closed
CLOSE_TIMEOUT = 0.1  # seconds that closing may take
IN_A_THREAD = 64 * 1024  # bytes above which compressing would be felt by the loop

_inherited: list[Any] = []  # what a forked child must neither use nor close


class LoopConnections:
    """Send on the running loop's own connections.

    Each set has an attendant, a task in that loop: it closes the connections when they have
    been idle, when the consumer is closed, and when the loop ends.

    httpcore never gives back the connection of a request that is cancelled natively, nor that of
    one that is cancelled while it waits for a free connection. So requests run in tasks that only
    anyio scopes cancel, they wait for a connection here, and a set that lost one is replaced.
    """

    def __init__(
        self, transport: TransportOptions, *, deadline: float, max_response_bytes: int
    ) -> None:
        self.transport = transport
        self._deadline = deadline
        self._answer_bytes = max_response_bytes
        self._open: dict[Any, _LoopConnection] = {}
        fork.register_instance(fork.Order.LOOPS, self)

    async def send(self, request: Request) -> Response | TransportFailure:
        """Make one attempt from the running loop, for a caller who may be cancelled in any way."""
        return await self.protected(lambda: self.attempt(request))

    async def attempt(
        self, request: Request, *, on_sent: Callable[[], object] | None = None
    ) -> Response | TransportFailure:
        """Make one attempt, from a task of ours that only an anyio scope cancels.

        With `on_sent`, which is called when the request leaves, a failure tells whether it did.
        """
        try:
            return await self._used(
                lambda transport, end: transport.send(request, on_sent=on_sent, end=end)
            )
        except ConfigurationError as error:  # of the environment, which may change any time
            return TransportFailure(
                TransportError(str(error)), may_have_been_sent=False, permanent=True
            )

    async def protected(
        self, call: Callable[[], Awaitable[Response | TransportFailure]]
    ) -> Response | TransportFailure:
        """Await an attempt in a task of our own."""
        try:
            return await event_loop.in_own_task(call)
        except event_loop.TaskEndedError as error:
            return TransportFailure(TransportError(str(error)), may_have_been_sent=True)

    async def _used(
        self, use: Callable[[Any, float | None], Awaitable[Response | TransportFailure]]
    ) -> Response | TransportFailure:
        """Use this loop's connections: when one of them is free, and again on new ones if lost."""
        attended = self._here()
        attended.busy += 1
        try:
            waited = await attended.acquired(self._deadline or math.inf)
            if waited is None:
                text = f"no connection was free within {self._deadline:g} s"
                return TransportFailure(RequestTimeoutError(text), may_have_been_sent=False)
            try:
                transport = attended.transport or await self._opened(attended)
                # An attempt that had to wait has the rest of its time.
                end = anyio.current_time() + self._deadline - waited if waited else None
                reply = await attended.sent(transport, lambda: use(transport, end))
                if transport.is_exhausted and attended.transport is transport:
                    # Nobody here waits for its connections, and still none is free: they are lost.
                    attended.replace(transport)
                    transport = await self._opened(attended)
                    reply = await attended.sent(transport, lambda: use(transport, end))
                return reply
            finally:
                attended.free.release()
        finally:
            attended.busy -= 1
            attended.used = time.monotonic()

    async def warm(self) -> None:
        """Load what the first request needs now, before anybody waits for the loop."""
        first = "mixpanel._http.async_transport" not in sys.modules
        with suppress(Exception):  # the first request says what is wrong
            await self._opened(self._here())
        if first:
            gc.collect()  # else the modules just loaded are gone through while requests wait

    def _here(self) -> _LoopConnection:
        here = event_loop.running()
        assert here is not None
        attended = self._open.get(here.key)
        if attended is None:
            self._forget_dead()
            attended = self._open[here.key] = _LoopConnection(here, self.transport.connections)
            self._watch_over(attended)
        return attended

    def _watch_over(self, attended: _LoopConnection) -> None:
        def again() -> None:
            if not attended.began:  # cancelled before its first step, with all the loop's tasks
                attended.loop.call_later(LATER, lambda: self._watch_over(attended))

        attended.loop.spawn(lambda: self._attend(attended), ended=again)

    async def _opened(self, attended: _LoopConnection) -> AsyncTransport:
        # Loading httpx and the trusted certificates takes a tenth of a second: not on the loop.
        async with attended.opening:
            if attended.transport is None:
                attended.transport = await event_loop.in_worker_thread(self._made)
            return attended.transport

    def _made(self) -> AsyncTransport:
        with import_lock:
            return self._make()

    def _make(self) -> AsyncTransport:
        from mixpanel._http.async_transport import AsyncTransport

        return AsyncTransport(
            self.transport, deadline=self._deadline, max_response_bytes=self._answer_bytes
        )

    async def _attend(self, attended: _LoopConnection) -> None:
        attended.began = True
        try:
            while attended.busy or (idle := time.monotonic() - attended.used) < IDLE:
                with anyio.move_on_after(IDLE if attended.busy else IDLE - idle):
                    await attended.leave.wait()
                    break
                await attended.close_replaced()
        finally:
            if self._open.get(attended.loop.key) is attended:
                del self._open[attended.loop.key]
            with suppress(Exception), anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
                if attended.transport is not None:
                    await attended.transport.aclose()
                await attended.close_replaced(unused_only=False)
            attended.gone.set()

    async def aclose(self) -> None:
        """Close the connections of the running loop, and ask other loops to close theirs."""
        here = event_loop.running()
        for key, attended in list(self._open.items()):
            if here is not None and key == here.key:
                attended.leave.set()
                with anyio.move_on_after(CLOSE_TIMEOUT):
                    await attended.gone.wait()
            else:
                attended.used = 0.0

    def _forget_dead(self) -> None:
        """Let go of the connections of loops that are gone; collecting them closes the sockets."""
        for key, attended in list(self._open.items()):
            if not attended.loop.is_running():
                self._open.pop(key, None)
                attended.transport = None  # anyio holds on to tasks that never ended

    def after_fork(self) -> None:
        """Neither use nor close the parent's connections."""
        _inherited.extend(self._open.values())
        self._open = {}


async def sleep_out(left: Callable[[], float]) -> None:
    """Sleep until no seconds are `left`; others may lengthen the wait meanwhile."""
    for _ in range(100):
        seconds = left()
        if seconds <= 0:
            return
        await anyio.sleep(seconds)


async def send_guarded(
    guard: RequestGuard | None,
    connections: LoopConnections,
    send: Callable[[], Awaitable[Response | TransportFailure]],
) -> Response | TransportFailure:
    """Make one attempt by `send`, with whatever the gate wants before and after it."""
    if guard is None:
        return await send()
    reply = None
    with closing(guard.run()) as passage:
        while True:
            try:
                what = passage.send(reply)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            reply = None
            if isinstance(what, float):
                await anyio.sleep(what)
            else:
                reply = await (send() if what is None else connections.attempt(what))


async def build_request(api: Api, step: Send) -> Request:
    """Build a request; a large body is compressed in a thread, so the loop is never held up."""
    if not step.gzip or sum([len(record.body) for record in step.records]) < IN_A_THREAD:
        return api.request(step)
    return await event_loop.in_worker_thread(lambda: api.request(step))


class _LoopConnection:
    """One loop's connections, and what their attendant goes by."""

    def __init__(self, loop: event_loop.Loop, connections: int) -> None:
        self.loop = loop
        self.transport: AsyncTransport | None = None
        self.opening = anyio.Lock()
        self.free = anyio.Semaphore(connections)
        self.replaced: list[AsyncTransport] = []
        self.busy = 0
        self.used = time.monotonic()
        self.began = False
        self.leave = anyio.Event()
        self.gone = anyio.Event()

    async def acquired(self, timeout: float) -> float | None:
        """Wait for a free connection; return the seconds that it took, or None: it took longer."""
        try:
            self.free.acquire_nowait()
        except anyio.WouldBlock:
            began, acquired = anyio.current_time(), False
            with anyio.move_on_after(timeout):
                await self.free.acquire()
                acquired = True
            return anyio.current_time() - began if acquired else None
        return 0.0

    async def sent(
        self, transport: AsyncTransport, send: Callable[[], Awaitable[Response | TransportFailure]]
    ) -> Response | TransportFailure:
        """Make one attempt, and replace the connections if it is cancelled natively."""
        transport.in_flight += 1
        try:
            return await send()
        except anyio.get_cancelled_exc_class():
            if anyio.current_effective_deadline() > -math.inf:  # no anyio scope did that
                self.replace(transport)
            raise
        finally:
            transport.in_flight -= 1

    def replace(self, transport: AsyncTransport) -> None:
        """Have the next request open new connections; close these when nobody uses them."""
        if self.transport is transport:
            self.transport = None
        if transport not in self.replaced:
            self.replaced.append(transport)

    async def close_replaced(self, *, unused_only: bool = True) -> None:
        """Close what was replaced."""
        for transport in list(self.replaced):
            if not (unused_only and transport.in_flight):
                self.replaced.remove(transport)
                with suppress(Exception):
                    await transport.aclose()
