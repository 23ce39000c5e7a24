"""Speak to a consumer that is not ours: any object with the official `send`.

It is called exactly as the official client calls it: `send(endpoint, json_message)`, and for
`/import` with a third positional `(api_key, api_secret)`.
"""

from __future__ import annotations

import inspect
import logging
import threading
from concurrent.futures import wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from mixpanel import _bridge
from mixpanel._ledger import FlushResult, Ledger
from mixpanel.credentials import ApiSecret
from mixpanel.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from mixpanel.messages import Record

__all__ = ["Custom"]


class Custom:
    """Deliver through somebody else's consumer, counting what became of it.

    Async methods are awaited. Blocking ones run in a worker thread when the caller is async, one
    call at a time, so the loop is not held up and the consumer needs no lock.
    """

    def __init__(self, consumer: Any, ledger: Ledger) -> None:
        if not callable(getattr(consumer, "send", None)):
            raise ConfigurationError(
                f"a consumer needs send(endpoint, json_message, api_key=None, api_secret=None); "
                f"{type(consumer).__name__} has none"
            )
        self._consumer = consumer
        self.ledger = ledger
        self._lock = threading.Lock()
        self._soon: set[Future[None]] = set()

    async def deliver(self, records: list[Record]) -> None:
        """Hand over records from async code."""
        for record in records:
            with self._counted():
                await self._call_async(self._consumer.send, *_arguments(record))

    def deliver_sync(self, records: list[Record]) -> None:
        """Hand over records from sync code."""
        for record in records:
            with self._counted():
                self._call_sync(self._consumer.send, *_arguments(record))

    def deliver_soon(self, record: Record) -> None:
        """Hand over a record from the home loop, without waiting."""

        async def later() -> None:
            try:
                await self.deliver([record])
            except Exception as error:
                self.ledger.say(logging.ERROR, f"a message was not delivered: {error}", key="soon")

        future = _bridge.submit(later)
        self._soon.add(future)
        future.add_done_callback(self._soon.discard)

    async def flush(self, timeout: float | None = None) -> FlushResult:
        """Wait for what is under way, and flush the consumer if it knows how."""
        await anyio.to_thread.run_sync(wait, set(self._soon), timeout)
        flush = getattr(self._consumer, "flush", None)
        if flush is not None:
            await self._call_async(flush)
        return FlushResult(0, 0, {}, self.ledger.stats().pending)

    aclose = flush

    def flush_sync(self, timeout: float | None = None) -> FlushResult:
        """Wait for what is under way, and flush the consumer if it knows how."""
        wait(set(self._soon), timeout)
        flush = getattr(self._consumer, "flush", None)
        if flush is not None:
            self._call_sync(flush)
        return FlushResult(0, 0, {}, self.ledger.stats().pending)

    async def _call_async(self, method: Any, *arguments: Any) -> None:
        if inspect.iscoroutinefunction(method):
            await method(*arguments)
            return

        def one_at_a_time() -> Any:
            with self._lock:
                return method(*arguments)

        result = await anyio.to_thread.run_sync(one_at_a_time)
        if inspect.isawaitable(result):
            await result

    def _call_sync(self, method: Any, *arguments: Any) -> None:
        result = method(*arguments)
        if inspect.isawaitable(result):
            _bridge.run(_awaited, result)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        ledger = self.ledger
        with ledger.lock:
            ledger.accepted += 1
            ledger.pending += 1
        delivered = False
        try:
            yield
            delivered = True
        finally:
            with ledger.lock:
                ledger.pending -= 1
                if delivered:
                    ledger.delivered += 1
                else:
                    ledger.dropped["raised"] += 1


async def _awaited(result: Any) -> Any:
    return await result


def _arguments(record: Record) -> tuple[Any, ...]:
    text = record.body.decode()
    if record.endpoint != "imports":
        return record.endpoint, text
    auth = record.auth
    if isinstance(auth, ApiSecret):
        return record.endpoint, text, (auth.api_key, auth._secret.reveal())
    return record.endpoint, text, (None, None)
