"""One call, several sinks: `AsyncFanOut`, and `FanOut`, the same for sync code.

    async with AsyncFanOut(
        mixpanel=Sink(AsyncMixpanel("TOKEN"), group_key="company"),
        customerio=Sink(AsyncCustomerIO("KEY"), events=["Order *"], consent="marketing"),
        hightouch=Sink(AsyncHightouch("KEY"), sample=0.1),
    ) as everywhere:
        await everywhere.track("u-17", "Order Paid", {"amount": 12.5}, consent={"marketing"})

Every sink says the same: one person, one moment, one id of the message.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import anyio

from mixpanel._delivery.awaitables import YIELD_EVERY, done, turn
from mixpanel._delivery.custom_consumer import CustomConsumer
from mixpanel._runtime import background_loop
from mixpanel._runtime.signatures import returning
from mixpanel.cdp._fanout.base import ConsentOf, OnRefusal, Outlet, Sink, _FanOut
from mixpanel.cdp._fanout.stats import SinkStats
from mixpanel.cdp._segment.client import AsyncSegmentClient, SegmentClient
from mixpanel.client import AsyncMixpanel, Mixpanel
from mixpanel.consumers import CLOSE_TIMEOUT, FLUSH_TIMEOUT

if TYPE_CHECKING:
    from mixpanel._delivery.stats import FlushResult
    from mixpanel._records.record import Record
    from mixpanel.cdp._fanout.methods import CallOptions
    from mixpanel.cdp._segment.dialect import Kind
    from mixpanel.cdp._segment.values import UserId

__all__ = ["AsyncFanOut", "FanOut", "Sink", "SinkStats"]


@returning(Coroutine[Any, Any, None])
class AsyncFanOut(_FanOut[Coroutine[Any, Any, None]]):
    """Send each call to several async clients, on asyncio or trio.

    A sink that sends in the background has accepted its message when the method is *called*. One
    that sends at once, or waits for room, is served when the call is awaited, which takes as long
    as the slowest of them. `async with` enters the clients, and flushes and closes them.

    :param consent: told whom a call is about (user id, else anonymous id), returns the purposes
        agreed to, for calls that do not say. It must not wait; when it fails, nothing is agreed to.
    :param on_error: `on_error(sink, error)` is told what one sink alone did not take.
    :param sinks: by the name that `integrations` and `stats()` have for each.
    :raises ConfigurationError: for what cannot be meant, such as a sync client.
    """

    _kinds = (AsyncMixpanel, AsyncSegmentClient)

    def __init__(
        self,
        *,
        consent: ConsentOf | None = None,
        on_error: OnRefusal | None = None,
        **sinks: Sink[AsyncMixpanel | AsyncSegmentClient],
    ) -> None:
        super().__init__(sinks, consent, on_error)

    @staticmethod
    def _waits(client: Any) -> bool:
        if isinstance(client, AsyncSegmentClient):
            sender = client._sender
        elif isinstance(client._delivery, CustomConsumer):
            return True
        else:
            sender = client._delivery
        return not sender.background or sender.buffer.when_full == "wait"

    def _everywhere(
        self, kind: Kind, user_id: UserId | None, options: CallOptions, **said: Any
    ) -> Coroutine[Any, Any, None]:
        ready = self._ready(self._call(kind, user_id, options, said), options.get("consent"))
        waiting = []
        for outlet, records in ready:
            if outlet.waits:
                waiting.append((outlet, records))
                continue
            with self._handing(outlet):
                # Accepted by the call itself; what one would await is the turn given below.
                outlet.client._deliver(records).close()
        if waiting:
            return self._landing(waiting)
        self._calls += 1
        return done() if self._calls % YIELD_EVERY else turn()

    async def _landing(self, waiting: list[tuple[Outlet, list[Record]]]) -> None:
        async with anyio.create_task_group() as tasks:
            for outlet, records in waiting[1:]:
                tasks.start_soon(self._land, outlet, records)
            await self._land(*waiting[0])

    async def _land(self, outlet: Outlet, records: list[Record]) -> None:
        with self._handing(outlet):
            await outlet.client._deliver(records)

    async def flush(self, timeout: float | None = FLUSH_TIMEOUT) -> dict[str, FlushResult]:
        """Send everything accepted so far, to all sinks at once; return what became of it by sink.

        What a consumer of your own raises is raised when all are done.
        """
        return await self._from_all(lambda outlet: outlet.client.flush(timeout))

    async def aclose(self, timeout: float | None = CLOSE_TIMEOUT) -> dict[str, FlushResult]:
        """Flush and close all sinks at once; return what became of what was waiting, by sink.

        Returns within `timeout` seconds plus 0.25, whatever the servers do, and takes that time
        even when the surrounding scope is cancelled. Sinks to `keep_open` are only flushed.
        """
        self._closed = True

        def end(outlet: Outlet) -> Coroutine[Any, Any, FlushResult]:
            finish = outlet.client.flush if outlet.keep_open else outlet.client.aclose
            ended: Coroutine[Any, Any, FlushResult] = finish(timeout)
            return ended

        results: dict[str, FlushResult] = {}
        with anyio.CancelScope(shield=True):
            results = await self._from_all(end)
        return results  # noqa: RET504 - to type checkers a scope may swallow what leaves it

    async def _from_all(
        self, ask: Callable[[Outlet], Coroutine[Any, Any, FlushResult]]
    ) -> dict[str, FlushResult]:
        results: dict[str, FlushResult] = {}
        errors: list[Exception] = []

        async def answer(outlet: Outlet) -> None:
            try:
                results[outlet.name] = await ask(outlet)
            except Exception as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            for outlet in self._outlets:
                tasks.start_soon(answer, outlet)
        _raise_all(errors)
        return {outlet.name: results[outlet.name] for outlet in self._outlets}

    async def __aenter__(self) -> Self:
        try:
            for outlet in self._outlets:
                if not outlet.keep_open:
                    await outlet.client.__aenter__()
        except BaseException:
            await self.aclose(0)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


@returning(None)
class FanOut(_FanOut[None]):
    """Send each call to several sync clients, one after the other; see `AsyncFanOut`.

    :raises SyncInAsyncError: on the thread of a running event loop, when a sink may wait, and from
        `flush` and `close`.
    :raises ConfigurationError: for what cannot be meant, such as an async client.
    """

    _kinds = (Mixpanel, SegmentClient)

    def __init__(
        self,
        *,
        consent: ConsentOf | None = None,
        on_error: OnRefusal | None = None,
        **sinks: Sink[Mixpanel | SegmentClient],
    ) -> None:
        super().__init__(sinks, consent, on_error)
        self._may_wait = any(outlet.waits for outlet in self._outlets)

    @staticmethod
    def _waits(client: Any) -> bool:
        if isinstance(client, SegmentClient):
            sender = client._sender
            return not sender.background or sender.buffer.when_full == "wait"
        return not isinstance(client._delivery, CustomConsumer)

    def _everywhere(
        self, kind: Kind, user_id: UserId | None, options: CallOptions, **said: Any
    ) -> None:
        if self._may_wait:
            background_loop.refuse_in_async("FanOut")
        ready = self._ready(self._call(kind, user_id, options, said), options.get("consent"))
        for outlet, records in ready:
            with self._handing(outlet):
                outlet.client._deliver(records)

    def flush(self, timeout: float | None = FLUSH_TIMEOUT) -> dict[str, FlushResult]:
        """Send everything accepted so far, to all sinks at once; return what became of it by sink.

        What a consumer of your own raises is raised when all are done.
        """
        background_loop.refuse_in_async("FanOut.flush")
        return self._from_all(lambda outlet: outlet.client.flush(timeout))

    def close(self, timeout: float | None = CLOSE_TIMEOUT) -> dict[str, FlushResult]:
        """Flush and close all sinks at once; return what became of what was waiting, by sink.

        Sinks to `keep_open` are only flushed.
        """
        background_loop.refuse_in_async("FanOut.close")
        self._closed = True

        def end(outlet: Outlet) -> FlushResult:
            finish = outlet.client.flush if outlet.keep_open else outlet.client.close
            result: FlushResult = finish(timeout)
            return result

        return self._from_all(end)

    def _from_all(self, ask: Callable[[Outlet], FlushResult]) -> dict[str, FlushResult]:
        results: dict[str, FlushResult] = {}
        errors: list[Exception] = []

        def answer(outlet: Outlet) -> None:
            try:
                results[outlet.name] = ask(outlet)
            except Exception as error:
                errors.append(error)

        with ThreadPoolExecutor(len(self._outlets), "mixpanel-fanout") as threads:
            for outlet in self._outlets:
                if not _is_custom(outlet.client):
                    threads.submit(answer, outlet)
            for outlet in self._outlets:
                if _is_custom(outlet.client):
                    answer(outlet)  # here: many a consumer works in no other thread
        _raise_all(errors)
        return {outlet.name: results[outlet.name] for outlet in self._outlets}

    def __enter__(self) -> Self:
        try:
            for outlet in self._outlets:
                if not outlet.keep_open:
                    outlet.client.__enter__()
        except BaseException:
            self.close(0)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_custom(client: Any) -> bool:
    return isinstance(client, Mixpanel) and isinstance(client._delivery, CustomConsumer)


def _raise_all(errors: list[Exception]) -> None:
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ExceptionGroup("several sinks failed", errors)
