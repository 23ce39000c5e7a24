"""Deliver through a consumer of the user's own: any object with the official `send`.

It is called exactly as the official client calls it: `send(endpoint, json_message)`, and for
`/import` with a third positional argument, `(api_key, api_secret)`.
"""

from __future__ import annotations

import atexit
import inspect
import logging
import threading
import time
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio
from anyio.lowlevel import RunVar

from mixpanel._delivery import capture
from mixpanel._delivery.flush_hooks import timeout_of
from mixpanel._delivery.stats import DeliveryStats, FlushResult
from mixpanel._runtime import background_loop, event_loop, fork, native_threads, shutdown
from mixpanel.credentials import ApiSecret
from mixpanel.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from concurrent.futures import Future

    from mixpanel._delivery.observer import Observer
    from mixpanel._records.record import Record

__all__ = ["CustomConsumer", "ReplacedSend", "wait_until"]

POLL_INTERVAL = 0.01  # seconds
RAISED = ("dropped", "the consumer raised an exception")

_adapters: weakref.WeakSet[CustomConsumer] = weakref.WeakSet()


class CustomConsumer:
    """Deliver through a user's consumer and count the outcomes.

    Async methods of the consumer are awaited. Blocking ones run in a worker thread when the caller
    is async, one call at a time: the event loop is not blocked, no other work waits for a worker
    thread, and the consumer needs no lock.
    """

    def __init__(self, consumer: Any, stats: DeliveryStats) -> None:
        if not callable(getattr(consumer, "send", None)):
            raise ConfigurationError(
                f"a consumer needs send(endpoint, json_message, api_key=None, api_secret=None); "
                f"{type(consumer).__name__} has none"
            )
        self._consumer = consumer
        self.stats = stats
        self.observer: Observer | None = None
        self.reset()
        _adapters.add(self)

    def reset(self) -> None:
        """Start without calls in progress, as after a fork: the child has none of the threads."""
        self._lock = threading.Lock()  # between loops; within one loop, `_limiter` does its work
        self._limiter: RunVar[anyio.CapacityLimiter] = RunVar("mixpanel_custom")
        self._in_background: set[Future[None]] = set()

    def observe(self, observer: Observer) -> None:
        """Report each message from now on."""
        self.observer = observer
        count_dropped = self.stats.count_dropped

        def observed_count(reason: str, count: int = 1) -> None:
            count_dropped(reason, count)
            observer.discarded(reason, count)

        self.stats.count_dropped = observed_count  # type: ignore[method-assign]

    @staticmethod
    def name_of(endpoint: str) -> str:
        """Return the name of an endpoint's messages outside, which is its own."""
        return endpoint

    async def deliver(self, records: list[Record]) -> None:
        """Hand over records from async code."""
        if self._captures(records):
            return
        for record in records:
            with self._counted(record):
                await self._call_async(self._consumer.send, *_arguments(record))

    def deliver_sync(self, records: list[Record]) -> None:
        """Hand over records from sync code."""
        if self._captures(records):
            return
        for record in records:
            with self._counted(record):
                self._call_sync(self._consumer.send, *_arguments(record))

    def deliver_in_background(self, record: Record) -> None:
        """Hand over a record from the background loop, without waiting."""
        if self._captures([record]):
            return

        async def deliver() -> None:
            try:
                await self.deliver([record])
            except Exception as error:
                text = f"a message was not delivered: {error}"
                self.stats.log_limited(logging.ERROR, text, key="background")

        # `atexit` calls what was registered last first: register again on each call, so that
        # `_at_exit` waits for these messages before the background loop is stopped.
        atexit.unregister(_at_exit)
        atexit.register(_at_exit)
        future = background_loop.submit(deliver)
        self._in_background.add(future)
        future.add_done_callback(self._in_background.discard)

    def _captures(self, records: list[Record]) -> bool:
        keep = capture.active
        if keep is None:
            return False
        for record in records:
            keep(record.endpoint, record.body)
        self.stats.count_captured(len(records))
        return True

    async def flush(self, timeout: float | None = None) -> FlushResult:
        """Wait for calls in progress, then flush the consumer if it has `flush`.

        When the timeout (in seconds) passes, a blocking `flush` continues in its worker thread.
        """
        with anyio.move_on_after(timeout) as scope:
            await self._wait_for_background()
            flush = getattr(self._consumer, "flush", None)
            if flush is not None:
                await self._call_async(flush, abandon=True)
        if scope.cancelled_caught:
            text = f"the consumer did not flush within {timeout:g} s"
            self.stats.log_limited(logging.WARNING, text, key="flush")
        return FlushResult(0, 0, {}, self.stats.snapshot().pending)

    aclose = flush

    async def _wait_for_background(self) -> None:
        while any(not future.done() for future in set(self._in_background)):  # noqa: ASYNC110
            await anyio.sleep(POLL_INTERVAL)

    def flush_sync(self, timeout: float | None = None) -> FlushResult:
        """Wait for calls in progress, then flush the consumer in this thread if it has `flush`."""
        native_threads.wait_for_all(set(self._in_background), timeout)
        flush = getattr(self._consumer, "flush", None)
        if flush is not None:
            self._call_sync(flush)
        return FlushResult(0, 0, {}, self.stats.snapshot().pending)

    def wait(self, timeout: float | None) -> None:
        """Wait for calls in progress."""
        if self._in_background:
            native_threads.wait_for_all(set(self._in_background), timeout)

    async def wait_async(self, timeout: float | None) -> None:
        """Wait for calls in progress."""
        if self._in_background:
            with anyio.move_on_after(timeout):
                await self._wait_for_background()

    async def call_flush(self, timeout: float | None) -> Any:
        """Call the consumer's own `flush`, and return what it returns."""
        flush = self._consumer.flush
        return await self._call_async(flush, *timeout_of(flush, timeout), abandon=True)

    def call_flush_sync(self, timeout: float | None) -> Any:
        """Call the consumer's own `flush` in this thread, and return what it returns."""
        flush = self._consumer.flush
        return self._call_sync(flush, *timeout_of(flush, timeout))

    async def _call_async(self, method: Any, *arguments: Any, abandon: bool = False) -> Any:
        if inspect.iscoroutinefunction(method):
            return await method(*arguments)

        def one_at_a_time() -> Any:
            with self._lock:
                return method(*arguments)

        # A limiter of its own: waiting calls take no thread from anyio's shared pool.
        limiter = self._limiter.get(None)
        if limiter is None:
            limiter = anyio.CapacityLimiter(1)
            self._limiter.set(limiter)
        result = await event_loop.in_worker_thread(
            one_at_a_time, limiter=limiter, abandon_on_cancel=abandon
        )
        return await result if inspect.isawaitable(result) else result

    def _call_sync(self, method: Any, *arguments: Any) -> Any:
        result = method(*arguments)
        return background_loop.run(_awaited, result) if inspect.isawaitable(result) else result

    @contextmanager
    def _counted(self, record: Record) -> Iterator[None]:
        """Count a message as pending inside the block; after it as delivered, or as raised."""
        stats, observer = self.stats, self.observer
        if observer is not None:
            observer.queued([record])
        with stats.lock:
            stats.accepted += 1
            stats.pending += 1
        delivered = False
        try:
            yield
            delivered = True
        finally:
            with stats.lock:
                stats.pending -= 1
                if delivered:
                    stats.delivered += 1
                else:
                    stats.dropped["raised"] = stats.dropped.get("raised", 0) + 1
            if observer is not None:
                observer.settled([record], *(("delivered", "") if delivered else RAISED))


class ReplacedSend(CustomConsumer):
    """Hand messages to the `send` that a subclass of this package's consumers has of its own.

    The consumer's sender counts what its original `send` gets; what a filter drops before is
    counted nowhere.
    """

    def deliver_sync(self, records: list[Record]) -> None:
        """Hand over records from sync code; an async `send` is not waited for in a running loop."""
        if (
            inspect.iscoroutinefunction(self._consumer.send)
            and event_loop.is_running()
            and not event_loop.is_interactive()
        ):
            for record in records:
                self.deliver_in_background(record)
        else:
            super().deliver_sync(records)

    @contextmanager
    def _counted(self, record: Record) -> Iterator[None]:  # noqa: ARG002
        yield


def _at_exit() -> None:
    """Wait for calls in progress as long as the last drain may take; log those that are lost."""
    for adapter, late in wait_until(time.monotonic() + shutdown.EXIT_TIMEOUT):
        text = f"{len(late)} message(s) dropped: exit"
        adapter.stats.log_limited(logging.ERROR, text, key="exit")
        adapter._in_background.difference_update(late)


def wait_until(end: float) -> list[tuple[CustomConsumer, Collection[Future[None]]]]:
    """Wait for calls in progress until `end`; return those that still are, by adapter."""
    found = []
    for adapter in list(_adapters):
        left = max(0.0, end - time.monotonic())
        late = native_threads.wait_for_all(set(adapter._in_background), left)
        if late:
            found.append((adapter, late))
    return found


shutdown.wait_first(wait_until)


def _after_fork() -> None:
    for adapter in list(_adapters):
        adapter.reset()


fork.register(fork.Order.SENDERS, after_in_child=_after_fork)


async def _awaited(result: Any) -> Any:
    return await result


def _arguments(record: Record) -> tuple[Any, ...]:
    text = record.body.decode()
    if record.endpoint != "imports":
        return record.endpoint, text
    auth = record.auth
    if isinstance(auth, ApiSecret):
        return record.endpoint, text, (auth.api_key, auth._secret.reveal())
    return record.endpoint, text, (auth.api_key if auth is not None else None, None)
