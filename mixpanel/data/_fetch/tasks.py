"""How fetching works beside the event loop: one writer, guarded callbacks, single errors."""

from __future__ import annotations

import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from mixpanel import settings
from mixpanel._runtime.safe_logging import logger
from mixpanel.data.exceptions import ConfigError
from mixpanel.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "Progress",
    "RunningFetches",
    "Writer",
    "checked_callback",
    "guarded",
    "terminal_line",
    "unwrap_exception_group",
]

T = TypeVar("T")

REDRAWN = 0.1  # seconds between two drawings of a line


@dataclass(frozen=True, slots=True)
class Progress:
    """Say how far a fetch has come.

    `steps` are days of events or pages of profiles; 0 while nobody knows how many there are.
    """

    table: str
    steps_done: int
    steps: int
    rows: int
    bytes: int
    calls: int
    seconds: float

    @property
    def seconds_left(self) -> float | None:
        """Return about how many seconds are left; None while nobody can know."""
        if not 0 < self.steps_done < self.steps:
            return None
        return self.seconds * (self.steps - self.steps_done) / self.steps_done

    def __str__(self) -> str:
        steps = f"{self.steps_done}/{self.steps}" if self.steps else str(self.steps_done)
        left = "" if self.seconds_left is None else f", {self.seconds_left:.0f} s left"
        return f"{self.table}: {steps}, {self.rows:,} rows, {self.bytes / 1e6:,.1f} MB{left}"


class Writer:
    """Work on the database in one thread at a time, without holding up the event loop."""

    def __init__(self) -> None:
        self._turn: anyio.CapacityLimiter | None = None
        self._loop: object = None

    async def __call__(self, work: Callable[[], T]) -> T:
        """Run `work` in a worker thread; a transaction is waited for, even when cancelled."""
        loop = anyio.lowlevel.current_token()
        if self._turn is None or self._loop != loop:
            self._turn, self._loop = anyio.CapacityLimiter(1), loop
        return await anyio.to_thread.run_sync(work, limiter=self._turn)


class RunningFetches:
    """What is fetched just now, so that it can be ended before the database is closed."""

    def __init__(self) -> None:
        self._all: set[_Work] = set()

    def __bool__(self) -> bool:
        return bool(self._all)

    @contextmanager
    def work(self) -> Iterator[anyio.CancelScope]:
        """Take note of the work within; when it was ended, its scope has caught that."""
        one = _Work(anyio.lowlevel.current_token(), anyio.CancelScope(), anyio.Event())
        self._all.add(one)
        try:
            with one.scope:
                yield one.scope
        finally:
            self._all.discard(one)
            one.ended.set()

    async def end(self) -> None:
        """Cancel what is under way on this event loop, and wait until it is in order."""
        here = anyio.lowlevel.current_token()
        ours = [one for one in self._all if one.loop == here]
        for one in ours:
            one.scope.cancel()
        for one in ours:
            await one.ended.wait()


@dataclass(frozen=True, eq=False, slots=True)
class _Work:
    loop: object
    scope: anyio.CancelScope
    ended: anyio.Event


def checked_callback(callback: object, name: str) -> None:
    """Refuse what cannot be called, and an async function: nobody would await it.

    :raises ConfigError: naming the argument.
    """
    try:
        settings.checked_callback(callback, name)
    except ConfigurationError as error:
        raise ConfigError(str(error)) from None


def guarded(callback: Callable[[T], object] | None) -> Callable[[T], None] | None:
    """Keep what a caller's callback raises from stopping the work; the first time is logged."""
    if callback is None:
        return None
    failed = False

    def called(value: T) -> None:
        nonlocal failed
        try:
            callback(value)
        except Exception:
            if not failed:
                logger.exception("a callback failed; the fetch goes on")
            failed = True

    return called


@contextmanager
def unwrap_exception_group() -> Iterator[None]:
    """Raise the first error of a task group by itself: what a caller's `except` names."""
    try:
        yield
    except BaseExceptionGroup as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from first.__cause__


@contextmanager
def terminal_line(
    progress: bool | Callable[[Progress], object],  # noqa: FBT001
) -> Iterator[Callable[[Progress], object] | None]:
    """Return who is told about progress: the caller's function, or one line on a terminal."""
    if callable(progress) or not progress or not _on_terminal():
        yield progress if callable(progress) else None
        return
    told = 0.0

    def tell(now: Progress) -> None:
        nonlocal told
        if now.seconds - told >= REDRAWN:
            told = now.seconds
            sys.stderr.write(f"\r\x1b[K{now}")
            sys.stderr.flush()

    try:
        yield tell
    finally:
        with suppress(OSError, ValueError):  # closed meanwhile, or the terminal is gone
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _on_terminal() -> bool:
    # Daemons close stderr, or have none.
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:
        return False
