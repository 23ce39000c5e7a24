"""Progress of a fetch: what is reported, to whom, and callbacks that cannot stop the fetch."""

from __future__ import annotations

import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from mixpanel import settings
from mixpanel._runtime.safe_logging import logger
from mixpanel.data.exceptions import ConfigError
from mixpanel.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Progress", "checked_callback", "log_exceptions", "progress_line"]

T = TypeVar("T")

REDRAW_INTERVAL = 0.1  # seconds between two updates of the line


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a fetch is.

    `steps` are days of events or pages of profiles; 0 while the total is unknown. `seconds` have
    passed since the fetch began.
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
        """The estimated time left, in seconds; None before the first step and when done."""
        if not 0 < self.steps_done < self.steps:
            return None
        return self.seconds * (self.steps - self.steps_done) / self.steps_done

    def __str__(self) -> str:
        steps = f"{self.steps_done}/{self.steps}" if self.steps else str(self.steps_done)
        left = "" if self.seconds_left is None else f", {self.seconds_left:.0f} s left"
        return f"{self.table}: {steps}, {self.rows:,} rows, {self.bytes / 1e6:,.1f} MB{left}"


def checked_callback(callback: object, name: str) -> None:
    """Check that a callback is None or a plain function: nothing would await an async one.

    :raises ConfigError: naming the argument.
    """
    try:
        settings.checked_callback(callback, name)
    except ConfigurationError as error:
        raise ConfigError(str(error)) from None


def log_exceptions(callback: Callable[[T], object] | None) -> Callable[[T], None] | None:
    """Return a callback that logs its first exception and never raises one.

    KeyboardInterrupt and other exceptions that are not an `Exception` pass through.
    """
    if callback is None:
        return None
    failed = False

    def call(value: T) -> None:
        nonlocal failed
        try:
            callback(value)
        except Exception:
            # Called once a chunk: one traceback is enough to find the mistake.
            if not failed:
                logger.exception("a progress callback failed; the fetch continues")
            failed = True

    return call


@contextmanager
def progress_line(
    progress: bool | Callable[[Progress], object],  # noqa: FBT001
) -> Iterator[Callable[[Progress], object] | None]:
    """Return the progress callback: the caller's, or one that draws a line on a terminal's stderr.

    None when `progress` is False, or stderr is not a terminal. The line is erased at the end.
    """
    if callable(progress) or not progress or not _stderr_is_terminal():
        yield progress if callable(progress) else None
        return
    drawn_at = 0.0

    def draw(now: Progress) -> None:
        nonlocal drawn_at
        if now.seconds - drawn_at >= REDRAW_INTERVAL:
            drawn_at = now.seconds
            sys.stderr.write(f"\r\x1b[K{now}")
            sys.stderr.flush()

    try:
        yield draw
    finally:
        with suppress(OSError, ValueError):  # closed meanwhile, or the terminal is gone
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _stderr_is_terminal() -> bool:
    # Daemons close stderr, or have none.
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:
        return False
