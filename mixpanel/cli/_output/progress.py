"""Show how far a fetch has come, and what it waits for: on terminals only, on stderr."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mixpanel.cli._options.global_options import asked
from mixpanel.cli._output.terminal import err, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rich.console import RenderableType
    from rich.progress import Progress as RichProgress
    from rich.text import Text

    from mixpanel.data._fetch.progress import Progress
    from mixpanel.data.results import BatchProgress

OFTEN = 1000  # records of a stream between two counts


class Teller:
    """Say on single lines what a fetch waits for."""

    def progress(self, now: "Progress") -> None:
        """Take in how far it is."""

    def batch(self, now: "BatchProgress") -> None:
        """Take in that some days have ended, well or not."""

    def wait(self, _seconds: float, why: str) -> None:
        """Take in that it waits for room in the project's budget of calls."""
        say(why, "yellow")


class _Bar(Teller):
    """Show how far a fetch is as a bar, and count down what it waits for."""

    def __init__(self, unit: str) -> None:
        self._bar: RichProgress | None = None
        self._unit = unit
        self._now: Progress | None = None
        self._failed = 0
        self._why, self._until = "", 0.0

    def begin(self, bar: "RichProgress", name: str) -> None:
        """Take what to draw on; the first thing to tell starts it, so that no mistake flashes."""
        self._bar, self._task = bar, bar.add_task(name, total=None, told="[dim]asking[/]")

    def progress(self, now: "Progress") -> None:
        self._now = now
        self._draw()

    def batch(self, now: "BatchProgress") -> None:
        self._failed += not now.success

    def wait(self, seconds: float, why: str) -> None:
        until = time.monotonic() + seconds
        if until > self._until:
            self._why, self._until = why, until
            if self._bar is not None:
                self._bar.start()
            self._draw()

    def waits(self) -> "Iterable[Text]":
        """Return the line that counts down, while there is something to wait for."""
        from rich.text import Text

        left = self._until - time.monotonic()
        if left > 0:
            yield Text(f"{self._why} ({_clock(left)} left)", "yellow")

    def _draw(self) -> None:
        now = self._now
        if now is None or self._bar is None:
            return
        self._bar.start()
        steps = f"{now.steps_done}/{now.steps}" if now.steps else f"{now.steps_done}"
        told = f"{steps} {self._unit}  {now.rows:,} rows  {now.bytes / 1e6:,.1f} MB"
        self._bar.update(
            self._task,
            completed=now.steps_done,
            total=now.steps or None,
            told=told + self._end(now),
        )

    def _end(self, now: "Progress") -> str:
        if self._failed:
            return f"  [red]{self._failed} calls failed[/]"
        if now.steps and now.steps_done >= now.steps:
            return "  storing"
        if now.seconds_left is None or self._until > time.monotonic():
            return ""
        return f"  {_clock(now.seconds_left)} left"


@contextmanager
def told(name: str, unit: str, *, quietly: bool = False) -> Iterator[Teller]:
    """Show a bar on a terminal, unless told to be quiet; anywhere else only what is waited for."""
    console = err()
    if quietly or asked.silent or not console.is_terminal:
        yield Teller()
        return
    from rich.progress import BarColumn, Progress, TextColumn

    shown = _Bar(unit)

    class Bar(Progress):
        def get_renderables(self) -> "Iterable[RenderableType]":
            yield from super().get_renderables()
            yield from shown.waits()

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[told]}"),
    )
    bar = Bar(*columns, console=console, transient=True, expand=True)
    shown.begin(bar, name)
    try:
        yield shown
    finally:
        if bar.live.is_started:
            bar.stop()


@contextmanager
def counted(what: str) -> "Iterator[Callable[[int], None]]":
    """Show on a terminal how many records were streamed; not between them, when they go there."""
    console = err()
    if asked.silent or not console.is_terminal or sys.stdout.isatty():
        yield lambda _: None
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn

    columns = SpinnerColumn(), TextColumn("{task.description}")
    # Rich would write what goes to stdout on its own console, which is stderr here.
    options: Any = {"console": console, "transient": True, "redirect_stdout": False}
    with Progress(*columns, **options) as bar:
        task = bar.add_task(f"{what}  [dim]asking[/]", total=None)

        def tell(count: int) -> None:
            if count % OFTEN == 0:
                bar.update(task, description=f"{count:,} {what}")

        yield tell


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
