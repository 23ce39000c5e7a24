"""What imports of files share: a bar while they go on, and a file of what was refused."""

import os
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mixpanel.cli._asked import asked
from mixpanel.cli._checkpoint import keep_settled
from mixpanel.cli._render import err, megabytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Progress, TaskID

    from mixpanel.bulk import ImportProgress
    from mixpanel.exceptions import FailedRecord

COUNTABLE = 1_000_000_000  # bytes up to which counting the rows beforehand is no long wait


def apart(failed: Path | None, file: Path) -> None:
    """See to it that what is refused is not written over what is read.

    :raises typer.BadParameter: when it would be.
    """
    same = False
    with suppress(OSError):  # nobody may look: opening it says so
        same = failed is not None and failed.resolve() == file.resolve()
        same = same or (failed is not None and failed.samefile(file))
    if same:
        raise typer.BadParameter(f"{failed} is what is read: write the refused to another file")


def opened(failed: Path, start_at: int) -> FileIO:
    """Open a file for what is refused; of an earlier run what came before `start_at` stays there.

    Every line is on its way to the disk when it was written: a checkpoint may follow at once.

    :raises typer.BadParameter: when it cannot be written.
    """
    try:
        if start_at:
            keep_settled(failed, start_at)
        fresh = 0 if start_at else os.O_TRUNC
        return open(  # a path has no `opener`; appending, nobody writes over another
            failed, "ab", buffering=0, opener=lambda name, how: os.open(name, how | fresh, 0o666)
        )
    except OSError as error:
        raise typer.BadParameter(f"cannot write {failed}: {error.strerror}") from error


@contextmanager
def failures(
    file: Path | None, start_at: int, **marks: bool
) -> "Iterator[Callable[[FailedRecord], None]]":
    """Write each refused record to a file as it comes: a line of JSON with position and reason."""
    from mixpanel._json import dumps

    if file is None:
        yield lambda _: None
        return
    with opened(file, start_at) as lines:

        def write(failed: "FailedRecord") -> None:
            line, _ = dumps(
                {
                    "position": failed.index,
                    "message": failed.message,
                    "field": failed.field,
                    "insert_id": failed.insert_id,
                    "record": failed.record,
                    **marks,
                }
            )
            lines.write(line + b"\n")

        yield write


@contextmanager
def progress(
    file: Path, start_at: int, what: str = "events"
) -> "Iterator[Callable[[ImportProgress], None]]":
    """Show a bar on a terminal, and nothing anywhere else."""
    console = err()
    if asked.silent or not console.is_terminal:
        yield lambda _: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[told]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(file.name, total=_total(file), completed=start_at, told="")
        yield lambda progress: _advance(bar, task, progress, what)


def _advance(bar: "Progress", task: "TaskID", progress: "ImportProgress", what: str) -> None:
    rate = progress.imported / progress.seconds if progress.seconds else 0.0
    told = f"{progress.imported:,} {what}  {megabytes(progress.bytes_sent)}  {rate:,.0f}/s"
    if progress.failed:
        told += f"  [red]{progress.failed:,} refused[/]"
    bar.update(task, completed=progress.position, told=told)


def _total(file: Path) -> int | None:
    from mixpanel.data.store import count_rows

    if not file.name.endswith((".parquet", ".pq")) and file.stat().st_size > COUNTABLE:
        return None
    return count_rows(file)
