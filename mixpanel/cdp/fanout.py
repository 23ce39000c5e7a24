"""Send one call to several destinations: `AsyncFanOut`, and `FanOut` for sync code.

    async with AsyncFanOut(
        mixpanel=Sink(AsyncMixpanel("TOKEN"), group_key="company"),
        customerio=Sink(AsyncCustomerIO("KEY"), events=["Order *"], consent="marketing"),
        hightouch=Sink(AsyncHightouch("KEY"), sample=0.1),
    ) as fan_out:
        await fan_out.track("u-17", "Order Paid", {"amount": 12.5}, consent={"marketing"})

Every sink receives the same person, timestamp and message id.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import anyio

from mixpanel._delivery.awaitables import YIELD_EVERY, already_done, yield_to_loop
from mixpanel._delivery.custom_consumer import CustomConsumer
from mixpanel._delivery.sender import Sender
from mixpanel._runtime import background_loop
from mixpanel._runtime.signatures import returning
from mixpanel.cdp._fanout.base import ConsentOf, Destination, OnSinkError, Sink, _FanOut
from mixpanel.cdp._fanout.stats import SinkStats
from mixpanel.cdp._segment.client import AsyncSegmentClient, SegmentClient
from mixpanel.client import AsyncMixpanel, Mixpanel
from mixpanel.consumers import CLOSE_TIMEOUT, FLUSH_TIMEOUT

if TYPE_CHECKING:
    from mixpanel._delivery.stats import FlushResult
    from mixpanel._records.record import BeforeSend, Record
    from mixpanel.cdp._fanout.methods import CallOptions
    from mixpanel.cdp._segment.message import Kind
    from mixpanel.cdp._segment.values import UserId

__all__ = ["AsyncFanOut", "FanOut", "Sink", "SinkStats"]


@returning(Coroutine[Any, Any, None])
class AsyncFanOut(_FanOut[Coroutine[Any, Any, None]]):
    """Send each call to several async clients, on asyncio or trio.

    A client that sends in the background accepts its message when the method is *called*. Clients
    that send immediately, or wait for space in their buffer, get it when the call is awaited, all
    of them concurrently. `async with` enters the clients, and flushes and closes them at the end.

    :param consent: `consent(person_id)` returns the purposes that a person agreed to; it is called
        for calls without a `consent` of their own, with the user id, else the anonymous id. It must
        not block. If it raises, the person counts as not having agreed to anything.
    :param on_error: `on_error(sink, error)` is called when a single sink rejects a call.
    :param before_send: `before_send(kind, message)` returns the message, changed or not, or None to
        drop the call. It gets the message of the spec, before the sinks translate it; each client
        may have a `before_send` of its own in addition. A typed event whose fields it changes is
        sent as an event of that name.
    :param sinks: the sinks; the names are used in `integrations` and `stats()`.
    :raises ConfigurationError: for an invalid sink, such as one with a sync client.
    """

    _client_types = (AsyncMixpanel, AsyncSegmentClient)

    def __init__(
        self,
        *,
        consent: ConsentOf | None = None,
        on_error: OnSinkError | None = None,
        before_send: BeforeSend | None = None,
        **sinks: Sink[AsyncMixpanel | AsyncSegmentClient],
    ) -> None:
        super().__init__(sinks, consent, on_error, before_send)

    @staticmethod
    def _may_block(client: Any) -> bool:
        if isinstance(client, AsyncSegmentClient):
            sender = client._sender
        elif isinstance(client._delivery, CustomConsumer):
            return True
        else:
            sender = client._delivery
        return not sender.background or sender.buffer.when_full == "wait"

    def _fan_out(
        self, kind: Kind, user_id: UserId | None, options: CallOptions, **arguments: Any
    ) -> Coroutine[Any, Any, None]:
        durable = options.get("durable")
        if durable:
            self._check_durable("durable=True")
        ready = self._compose_all(
            self._new_call(kind, user_id, options, arguments), options.get("consent")
        )
        errors: dict[str, Exception] | None = {} if durable else None
        waiting = []
        for destination, records in ready:
            if destination.may_block:
                waiting.append((destination, records))
                continue
            with self._counted(destination, errors):
                # Calling `_deliver` accepts the records. Awaiting it would only yield to the event
                # loop, which happens once for all sinks below.
                destination.client._deliver(records).close()
        if errors is not None:
            return self._commit_all(ready, waiting, errors)
        if waiting:
            return self._deliver_waiting(waiting)
        self._calls += 1
        return already_done() if self._calls % YIELD_EVERY else yield_to_loop()

    async def _commit_all(
        self,
        ready: list[tuple[Destination, list[Record]]],
        waiting: list[tuple[Destination, list[Record]]],
        errors: dict[str, Exception],
    ) -> None:
        """Deliver to the sinks that wait, and wait until all have the call on disk."""
        if waiting:
            await self._deliver_waiting(waiting, errors)

        async def commit(destination: Destination, records: list[Record]) -> None:
            try:
                await destination.client._commit_records(records)
            except Exception as error:
                errors[destination.name] = error

        async with anyio.create_task_group() as tasks:
            for destination, records in ready:
                if destination.name not in errors:
                    tasks.start_soon(commit, destination, records)
        _raise_all(list(errors.values()))

    async def _deliver_waiting(
        self,
        waiting: list[tuple[Destination, list[Record]]],
        errors: dict[str, Exception] | None = None,
    ) -> None:
        async with anyio.create_task_group() as tasks:
            for destination, records in waiting[1:]:
                tasks.start_soon(self._deliver_to, destination, records, errors)
            await self._deliver_to(*waiting[0], errors)

    async def _deliver_to(
        self,
        destination: Destination,
        records: list[Record],
        errors: dict[str, Exception] | None = None,
    ) -> None:
        with self._counted(destination, errors):
            await destination.client._deliver(records)

    async def flush(self, timeout: float | None = FLUSH_TIMEOUT) -> dict[str, FlushResult]:
        """Send everything accepted so far, to all sinks concurrently; return the results by sink.

        Errors of your own consumers are raised after all sinks have finished.
        """
        return await self._call_all(lambda destination: destination.client.flush(timeout))

    async def commit(self, timeout: float | None = FLUSH_TIMEOUT) -> None:
        """Wait until everything accepted so far is on disk, in the spools of all sinks.

        :raises SpoolError: if the disk failed, or did not respond within the timeout.
        :raises ConfigurationError: if a sink has no spool.
        """
        self._check_durable("commit()")
        errors: list[Exception] = []

        async def commit(destination: Destination) -> None:
            try:
                await destination.client.commit(timeout)
            except Exception as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            for destination in self._destinations:
                tasks.start_soon(commit, destination)
        _raise_all(errors)

    async def aclose(self, timeout: float | None = CLOSE_TIMEOUT) -> dict[str, FlushResult]:
        """Flush and close all sinks concurrently; return the results by sink.

        Returns within `timeout` seconds plus 0.25, whatever the servers do, also when the
        surrounding scope is cancelled. Sinks with `keep_open` are only flushed.
        """
        self._closed = True

        def close_one(destination: Destination) -> Coroutine[Any, Any, FlushResult]:
            client = destination.client
            finish = client.flush if destination.keep_open else client.aclose
            result: Coroutine[Any, Any, FlushResult] = finish(timeout)
            return result

        results: dict[str, FlushResult] = {}
        with anyio.CancelScope(shield=True):
            results = await self._call_all(close_one)
        return results  # noqa: RET504 - mypy assumes that a scope may suppress exceptions

    async def _call_all(
        self, call: Callable[[Destination], Coroutine[Any, Any, FlushResult]]
    ) -> dict[str, FlushResult]:
        results: dict[str, FlushResult] = {}
        errors: list[Exception] = []

        async def collect(destination: Destination) -> None:
            try:
                results[destination.name] = await call(destination)
            except Exception as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            for destination in self._destinations:
                tasks.start_soon(collect, destination)
        _raise_all(errors)
        return {destination.name: results[destination.name] for destination in self._destinations}

    async def __aenter__(self) -> Self:
        try:
            for destination in self._destinations:
                if not destination.keep_open:
                    await destination.client.__aenter__()
        except BaseException:
            await self.aclose(0)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


@returning(None)
class FanOut(_FanOut[None]):
    """Send each call to several sync clients, one after the other; see `AsyncFanOut`.

    >>> with FanOut(hightouch=Sink(Hightouch("KEY"))) as fan_out:  # doctest: +SKIP
    ...     fan_out.track("u-17", "Order Paid", {"amount": 12.5})

    :raises SyncInAsyncError: from `flush` and `close` on the thread of a running event loop, and
        from the calls if a sink may block.
    :raises ConfigurationError: for an invalid sink, such as one with an async client.
    """

    _client_types = (Mixpanel, SegmentClient)

    def __init__(
        self,
        *,
        consent: ConsentOf | None = None,
        on_error: OnSinkError | None = None,
        before_send: BeforeSend | None = None,
        **sinks: Sink[Mixpanel | SegmentClient],
    ) -> None:
        super().__init__(sinks, consent, on_error, before_send)

    @staticmethod
    def _may_block(client: Any) -> bool:
        if isinstance(client, SegmentClient):
            return not client._sender.buffered
        return isinstance(client._delivery, Sender) and not client._delivery.buffered

    def _fan_out(
        self, kind: Kind, user_id: UserId | None, options: CallOptions, **arguments: Any
    ) -> None:
        if self._may_wait:
            background_loop.refuse_in_async("FanOut")
        durable = options.get("durable")
        if durable:
            background_loop.refuse_in_async("FanOut with durable=True")
            self._check_durable("durable=True")
        ready = self._compose_all(
            self._new_call(kind, user_id, options, arguments), options.get("consent")
        )
        errors: dict[str, Exception] | None = {} if durable else None
        for destination, records in ready:
            with self._counted(destination, errors):
                destination.client._deliver(records)
        if errors is not None:
            self._commit_all(ready, errors)

    def _commit_all(
        self, ready: list[tuple[Destination, list[Record]]], errors: dict[str, Exception]
    ) -> None:
        """Wait until all sinks have the call on disk."""
        for destination, records in ready:
            if destination.name in errors:
                continue
            try:
                destination.client._commit_records(records)
            except Exception as error:
                errors[destination.name] = error
        _raise_all(list(errors.values()))

    def flush(self, timeout: float | None = FLUSH_TIMEOUT) -> dict[str, FlushResult]:
        """Send everything accepted so far, to all sinks concurrently; return the results by sink.

        Errors of your own consumers are raised after all sinks have finished.
        """
        background_loop.refuse_in_async("FanOut.flush")
        return self._call_all(lambda destination: destination.client.flush(timeout))

    def commit(self, timeout: float | None = FLUSH_TIMEOUT) -> None:
        """Wait until everything accepted so far is on disk, in the spools of all sinks.

        :raises SpoolError: if the disk failed, or did not respond within the timeout.
        :raises ConfigurationError: if a sink has no spool.
        """
        background_loop.refuse_in_async("FanOut.commit")
        self._check_durable("commit()")
        errors: list[Exception] = []
        for destination in self._destinations:
            try:
                destination.client.commit(timeout)
            except Exception as error:
                errors.append(error)
        _raise_all(errors)

    def close(self, timeout: float | None = CLOSE_TIMEOUT) -> dict[str, FlushResult]:
        """Flush and close all sinks concurrently; return the results by sink.

        Sinks with `keep_open` are only flushed.
        """
        background_loop.refuse_in_async("FanOut.close")
        self._closed = True

        def close_one(destination: Destination) -> FlushResult:
            finish = destination.client.flush if destination.keep_open else destination.client.close
            result: FlushResult = finish(timeout)
            return result

        return self._call_all(close_one)

    def _call_all(self, call: Callable[[Destination], FlushResult]) -> dict[str, FlushResult]:
        results: dict[str, FlushResult] = {}
        errors: list[Exception] = []

        def collect(destination: Destination) -> None:
            try:
                results[destination.name] = call(destination)
            except Exception as error:
                errors.append(error)

        with ThreadPoolExecutor(len(self._destinations), "mixpanel-fanout") as threads:
            for destination in self._destinations:
                if not _is_custom(destination.client):
                    threads.submit(collect, destination)
            for destination in self._destinations:
                if _is_custom(destination.client):
                    # On this thread: consumers are often bound to one, such as sqlite3's.
                    collect(destination)
        _raise_all(errors)
        return {destination.name: results[destination.name] for destination in self._destinations}

    def __enter__(self) -> Self:
        try:
            for destination in self._destinations:
                if not destination.keep_open:
                    destination.client.__enter__()
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
