"""Progress on stderr: one bar for every command, on terminals only."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from mixpanel.cli._options.global_options import global_options
from mixpanel.cli._output.terminal import format_bytes, say, stderr_console

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from rich.console import RenderableType
    from rich.progress import Progress as RichProgress
    from rich.text import Text

    from mixpanel.bulk import ImportProgress
    from mixpanel.data._fetch.progress import Progress as FetchProgress
    from mixpanel.data.results import BatchProgress

MAX_COUNTED_BYTES = 1_000_000_000  # counting the rows of a larger text file takes too long


class ProgressBar:
    """A bar that appears with its first update; off a terminal nothing is drawn."""

    def __init__(self, name: str, bar: "RichProgress | None" = None) -> None:
        self._bar = bar
        # Not drawn yet: an error before the first update leaves no trace of a bar.
        self._task = None if bar is None else bar.add_task(name, total=None, text="")
        self._wait_reason, self._wait_until = "", 0.0

    @property
    def is_shown(self) -> bool:
        """Return True if updates are drawn."""
        return self._bar is not None

    @property
    def is_waiting(self) -> bool:
        """Return True while a countdown runs."""
        return self._wait_until > time.monotonic()

    def update(self, completed: int, text: str, total: int | None = None) -> None:
        """Draw how far it is, with a text in Rich's markup; without a total the bar pulses."""
        if self._bar is not None and self._task is not None:
            self._bar.start()
            self._bar.update(self._task, completed=completed, total=total, text=text)

    def count_down(self, seconds: float, reason: str) -> None:
        """Show why and how long there is nothing to do; the longest of several waits counts."""
        until = time.monotonic() + seconds
        if self._bar is not None and until > self._wait_until:
            self._wait_reason, self._wait_until = reason, until
            self._bar.start()

    def wait_line(self) -> "Iterable[Text]":
        """Return the line below the bar while there is something to wait for."""
        from rich.text import Text

        left = self._wait_until - time.monotonic()
        if left > 0:
            yield Text(f"{self._wait_reason} ({format_clock(left)} left)", "yellow")


@contextmanager
def progress_bar(name: str, *, quiet: bool = False) -> Iterator[ProgressBar]:
    """Yield a bar, which draws nothing off a terminal, with `--quiet`, or if `quiet`."""
    console = stderr_console()
    if quiet or global_options.errors_only or not console.is_terminal:
        yield ProgressBar(name)
        return
    from rich.progress import BarColumn, Progress, TextColumn

    class WithCountdown(Progress):
        countdown: ProgressBar | None = None

        def get_renderables(self) -> "Iterable[RenderableType]":
            yield from super().get_renderables()
            if self.countdown is not None:
                yield from self.countdown.wait_line()

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[text]}"),
    )
    # Rich would print what goes to stdout on its own console, which is stderr here.
    options: Any = {"console": console, "transient": True, "redirect_stdout": False}
    bar = WithCountdown(*columns, expand=True, **options)
    bar.countdown = ProgressBar(name, bar)
    try:
        yield bar.countdown
    finally:
        if bar.live.is_started:
            bar.stop()


class FetchReporter:
    """Shows the progress and the waits of a fetch; without a bar, waits are lines on stderr."""

    def __init__(self, bar: ProgressBar, unit: str = "") -> None:
        self._bar = bar
        self._unit = unit
        self._failed_calls = 0
        self._latest: FetchProgress | None = None

    def progress(self, now: "FetchProgress") -> None:
        """Draw how far the fetch is."""
        self._latest = now
        steps = f"{now.steps_done}/{now.steps}" if now.steps else f"{now.steps_done}"
        text = f"{steps} {self._unit}  {now.rows:,} rows  {now.bytes / 1e6:,.1f} MB"
        self._bar.update(now.steps_done, text + self._state(now), now.steps or None)

    def batch(self, now: "BatchProgress") -> None:
        """Count the calls that failed."""
        self._failed_calls += not now.success

    def wait(self, seconds: float, reason: str) -> None:
        """Show that the fetch waits for the project's rate limit."""
        if not self._bar.is_shown:
            say(reason, "yellow")
            return
        self._bar.count_down(seconds, reason)
        if self._latest is not None:
            self.progress(self._latest)

    def _state(self, now: "FetchProgress") -> str:
        if self._failed_calls:
            return f"  [red]{self._failed_calls} calls failed[/]"
        if now.steps and now.steps_done >= now.steps:
            return "  storing"
        if now.seconds_left is None or self._bar.is_waiting:
            return ""
        return f"  {format_clock(now.seconds_left)} left"


class ImportReporter:
    """Shows the progress of an import or a backfill of a file, in rows."""

    def __init__(self, bar: ProgressBar, file: "Path", what: str) -> None:
        self._bar = bar
        self._what = what
        self._total = _row_count(file) if bar.is_shown else None

    def progress(self, now: "ImportProgress") -> None:
        """Draw how far the import is."""
        if not self._bar.is_shown:
            return
        rate = now.imported / now.seconds if now.seconds else 0.0
        text = f"{now.imported:,} {self._what}  {format_bytes(now.bytes_sent)}  {rate:,.0f}/s"
        if now.rejected:
            text += f"  [red]{now.rejected:,} rejected[/]"
        if self._total is not None and rate:
            text += f"  {format_clock((self._total - now.position) / rate)} left"
        self._bar.update(now.position, text, self._total)


def _row_count(file: "Path") -> int | None:
    from mixpanel.data.readers import count_rows
    from mixpanel.exceptions import ConfigurationError

    if not file.name.endswith((".parquet", ".pq")) and file.stat().st_size > MAX_COUNTED_BYTES:
        return None
    with suppress(ConfigurationError):  # of an encoding or a line that only the import can read
        return count_rows(file)
    return None


def format_clock(seconds: float) -> str:
    """Return seconds as 1:02:03, or 2:03 below an hour."""
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
