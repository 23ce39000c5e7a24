"""Concurrency of fetches: one database writer, cancellation on close, plain exceptions."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from mixpanel._runtime.safe_logging import logger
from mixpanel.data.exceptions import DatabaseLockedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["RunningFetches", "WriterThread", "unwrap_exception_group", "when_unlocked"]

T = TypeVar("T")

MAX_LOCKED = 600.0  # seconds
RETRY_EVERY = 0.05  # seconds


class WriterThread:
    """Run database work in a worker thread, one call at a time.

    DuckDB allows one writing transaction at a time, and its calls block: they must neither overlap
    nor run on the event loop.
    """

    def __init__(self) -> None:
        self._limiter: anyio.CapacityLimiter | None = None
        self._loop: object = None

    async def __call__(self, work: Callable[[], T], *, shield: bool = False) -> T:
        """Return what `work` returns. Cancelling waits until it has ended, as for a transaction.

        With `shield`, work that waits for its turn is also done before the cancellation.

        While another process has the database open, `work` is repeated, for up to ten minutes.
        """
        # A limiter belongs to one event loop, a workspace to none.
        loop = anyio.lowlevel.current_token()
        if self._limiter is None or self._loop != loop:
            self._limiter, self._loop = anyio.CapacityLimiter(1), loop
        return await when_unlocked(work, self._limiter, shield=shield)


async def when_unlocked(
    work: Callable[[], T], limiter: anyio.CapacityLimiter | None = None, *, shield: bool = False
) -> T:
    """Run database work in a worker thread, repeated while another process has the database open.

    With `shield`, a cancellation takes effect between two attempts only.

    :raises DatabaseLockedError: if it has for ten minutes.
    """
    end, was_reported = time.monotonic() + MAX_LOCKED, False
    while True:
        try:
            with anyio.CancelScope(shield=shield):
                return await anyio.to_thread.run_sync(work, limiter=limiter)
        except DatabaseLockedError as error:
            if time.monotonic() > end:
                raise
            if not was_reported:
                logger.warning("the fetch waits: %s", error)
            was_reported = True
        await anyio.sleep(RETRY_EVERY)


class RunningFetches:
    """The fetches in progress, so that they can be cancelled before the database is closed."""

    def __init__(self) -> None:
        self._fetches: set[_RunningFetch] = set()

    def __bool__(self) -> bool:
        return bool(self._fetches)

    @contextmanager
    def register(self) -> Iterator[anyio.CancelScope]:
        """Register the fetch inside the block.

        `cancelled_caught` of the returned scope is True if `cancel` ended it.
        """
        fetch = _RunningFetch(anyio.lowlevel.current_token(), anyio.CancelScope(), anyio.Event())
        self._fetches.add(fetch)
        try:
            with fetch.scope:
                yield fetch.scope
        finally:
            self._fetches.discard(fetch)
            fetch.ended.set()

    async def cancel(self) -> None:
        """Cancel the fetches on this event loop, and wait until they have cleaned up."""
        loop = anyio.lowlevel.current_token()
        fetches = [fetch for fetch in self._fetches if fetch.loop == loop]
        for fetch in fetches:
            fetch.scope.cancel()
        for fetch in fetches:
            await fetch.ended.wait()


@dataclass(frozen=True, eq=False, slots=True)
class _RunningFetch:
    loop: object
    scope: anyio.CancelScope
    ended: anyio.Event


@contextmanager
def unwrap_exception_group() -> Iterator[None]:
    """Raise the first exception of a task group in place of the group.

    The caller's `except` names the exception, and does not know that tasks were involved.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from first.__cause__
