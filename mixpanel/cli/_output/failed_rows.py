"""The file of `--failed`: each row that was rejected or could not be read, with the reason."""

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
from mixpanel.exceptions import MixpanelException

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from mixpanel.exceptions import RejectedRecord

AFTER_ALL_ROWS = 1 << 62  # the position of a line that has none


def require_distinct_paths(output: Path | None, source: Path) -> None:
    """Refuse to write over the file that is read.

    :raises typer.BadParameter: if both paths are the same file, also by a link.
    """
    if output is None:
        return
    is_same = False
    with suppress(OSError):  # a path that cannot be looked up is reported when it is opened
        is_same = output.resolve() == source.resolve() or output.samefile(source)
    if is_same:
        raise typer.BadParameter(f"{output} is the file that is read: write to another one")


class UnwritableError(BaseException):
    """A file that records the progress cannot be written.

    Not an `Exception`, because those of a callback are logged and the import continues.
    """


class FailedRows:
    """A file of failed rows, one line of JSON each, written as they come.

    A line has left the process when `write` returns, so that a killed process loses none; it is on
    the disk when `sync` returns.
    """

    def __init__(self, file: FileIO | None, marks: dict[str, bool]) -> None:
        self._file = file
        self._marks = marks

    def write(self, position: int, message: str, record: "Any", **details: "Any") -> None:
        """Write a row with its position in the source and the reason.

        :raises UnwritableError: if it cannot be written.
        """
        if self._file is None:
            return
        row = {"position": position, "message": message, **details, "record": record} | self._marks
        if self._marks.get("past"):  # messages keep the zone and the microseconds of times
            from mixpanel.cdp._segment import values

            line, _ = values.dumps(row)
        else:
            from mixpanel._records import json_encoding

            line, _ = json_encoding.dumps(row)
        try:
            write_all(self._file, line + b"\n")
        except OSError as error:
            raise UnwritableError(f"cannot write the file of --failed: {error.strerror}") from error

    def write_record(self, rejected: "RejectedRecord") -> None:
        """Write a record that an import reports.

        :raises UnwritableError: if it cannot be written.
        """
        self.write(
            rejected.index,
            rejected.message,
            rejected.record,
            field=rejected.field,
            insert_id=rejected.insert_id,
        )

    def sync(self) -> None:
        """Flush all lines to the disk.

        :raises OSError: if that fails.
        """
        # A pipe or a terminal has no disk to flush to.
        if self._file is not None and stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
            os.fsync(self._file.fileno())


@contextmanager
def failed_rows(path: Path | None, start_at: int, **marks: bool) -> "Iterator[FailedRows]":
    """Open a new file for failed rows, readable by its owner only; without a path nothing is kept.

    Lines of an earlier run stay if their position is before `start_at`. `marks` are added to each
    line.

    :raises typer.BadParameter: if it cannot be opened, or another process writes to it.
    :raises MixpanelException: if it cannot be written later.
    """
    if path is None:
        yield FailedRows(None, marks)
        return
    try:
        file = _opened(path, start_at)
    except OSError as error:
        raise typer.BadParameter(f"cannot write {path}: {error.strerror}") from error
    with file:
        try:
            yield FailedRows(file, marks)
        except UnwritableError as error:
            raise MixpanelException(str(error)) from error


def _opened(path: Path, start_at: int) -> FileIO:
    if path.exists() and not path.is_file():  # a terminal, or a pipe of >(command)
        return FileIO(os.open(path, os.O_WRONLY | os.O_APPEND), "ab")
    path = follow_own_links(path)  # write through a link, do not replace it
    if is_being_written(path):
        raise typer.BadParameter(
            f"another process writes to {path}: choose another file, or wait for it"
        )
    remove_abandoned(path)
    with ExitStack() as stack:
        earlier: Iterable[bytes] = ()
        if start_at:
            with suppress(FileNotFoundError):
                earlier = stack.enter_context(open_checked(path))
        return create(path, (line for line in earlier if _position(line) < start_at))


def _position(line: bytes) -> int:
    """Return the position in a line; a line that a killed run left incomplete is not kept."""
    try:
        return int(json.loads(line)["position"])
    except (ValueError, KeyError, TypeError):
        return AFTER_ALL_ROWS
