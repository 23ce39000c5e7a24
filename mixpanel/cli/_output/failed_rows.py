"""What imports of files share: a bar while they go on, and a file of what was refused."""

import json
import os
import stat
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mixpanel._runtime.checked_files import follow_own_links, open_checked
from mixpanel._runtime.private_files import (
    create,
    is_being_written,
    remove_abandoned,
    write_all,
)
from mixpanel.cli._options.global_options import asked
from mixpanel.cli._output.terminal import err, megabytes
from mixpanel.exceptions import MixpanelException

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from rich.progress import Progress, TaskID

    from mixpanel.bulk import ImportProgress
    from mixpanel.exceptions import RejectedRecord

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


class UnwritableError(BaseException):
    """A file of ours takes no more. No Exception: those of a callback do not stop an import."""


class FailedRows:
    """A file of what was refused: a line of JSON for each, written as it comes.

    Every line is with the system when `write` returns, so that a killed process loses none, and on
    the disk when `sync` returns.
    """

    def __init__(self, lines: FileIO | None, marks: dict[str, bool]) -> None:
        self._lines = lines
        self._marks = marks

    def write(self, position: int, message: str, record: "Any", **more: "Any") -> None:
        """Write a refused row with its position in the file and the reason.

        :raises UnwritableError: when it cannot be written.
        """
        if self._lines is None:
            return
        from mixpanel._records.encoding import dumps

        row = {"position": position, "message": message, **more, "record": record, **self._marks}
        line, _ = dumps(row)
        try:
            write_all(self._lines, line + b"\n")
        except OSError as error:
            raise UnwritableError(f"--failed cannot be written: {error.strerror}") from error

    def write_record(self, failed: "RejectedRecord") -> None:
        """Write a record that an import reports.

        :raises UnwritableError: when it cannot be written.
        """
        self.write(
            failed.index,
            failed.message,
            failed.record,
            field=failed.field,
            insert_id=failed.insert_id,
        )

    def sync(self) -> None:
        """Have all lines on the disk.

        :raises OSError: when they cannot be.
        """
        if self._lines is not None and stat.S_ISREG(os.fstat(self._lines.fileno()).st_mode):
            os.fsync(self._lines.fileno())


@contextmanager
def failed_rows(file: Path | None, start_at: int, **marks: bool) -> "Iterator[FailedRows]":
    """Open a file for what is refused, readable by its owner only; without one nothing is written.

    It is a new file, but for what comes before `start_at` in the one of an earlier run.

    :raises typer.BadParameter: when it cannot be written, or another run writes to it.
    :raises MixpanelException: when it takes no more.
    """
    if file is None:
        yield FailedRows(None, marks)
        return
    try:
        lines = _opened(file, start_at)
    except OSError as error:
        raise typer.BadParameter(f"cannot write {file}: {error.strerror}") from error
    with lines:
        try:
            yield FailedRows(lines, marks)
        except UnwritableError as stop:
            raise MixpanelException(str(stop)) from stop


def _opened(file: Path, start_at: int) -> FileIO:
    if file.exists() and not file.is_file():  # a terminal, or >(a command)
        return FileIO(os.open(file, os.O_WRONLY | os.O_APPEND), "ab")
    file = follow_own_links(file)  # a link stays one
    if is_being_written(file):
        raise typer.BadParameter(f"another run writes to {file}: choose another file, or wait")
    remove_abandoned(file)
    with ExitStack() as stack:
        before: Iterable[bytes] = ()
        if start_at:
            with suppress(FileNotFoundError):
                before = stack.enter_context(open_checked(file))
        return create(file, (line for line in before if _position(line) < start_at))


def _position(line: bytes) -> int:
    """Return whose line it is; of one that was cut off by the end of an earlier run, none."""
    try:
        return int(json.loads(line)["position"])
    except (ValueError, KeyError, TypeError):
        return 1 << 62


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
    if progress.rejected:
        told += f"  [red]{progress.rejected:,} refused[/]"
    bar.update(task, completed=progress.position, told=told)


def _total(file: Path) -> int | None:
    from mixpanel.data.store import count_rows

    if not file.name.endswith((".parquet", ".pq")) and file.stat().st_size > COUNTABLE:
        return None
    return count_rows(file)
