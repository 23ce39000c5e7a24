"""Rows of `mp cdp` from a file or stdin: lines of JSON, or one JSON array.

A line that cannot be read is a row with a problem, so that it is reported with its position and the
rest is sent. One row is in memory at a time.
"""

import gzip
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from mixpanel._records.json_stream import JSONStream
from mixpanel.exceptions import MixpanelException

MAX_ROW_BYTES = 1 << 20  # ten times the largest message that a vendor accepts
BOM = b"\xef\xbb\xbf"
# An id on a line of its own; anything else may be a row of a table, or broken JSON.
WORD = re.compile(r"""[^\s,;|"'{}\[\]]+""")
SHOWN_BYTES = 100  # of a line that is too long


def _readable(path: Path | None) -> Path | None:
    """Refuse a path that cannot be read; Typer's own check does not know `-`."""
    if path is not None and str(path) != "-":
        if not path.exists():
            raise typer.BadParameter(f"file {str(path)!r} does not exist")
        if path.is_dir():
            raise typer.BadParameter(f"{str(path)!r} is a folder")
    return path


FILE_HELP = "lines of JSON or one JSON array; may be .gz, and - is stdin."
MessagesFile = Annotated[
    Path,
    typer.Argument(
        metavar="FILE|-", callback=_readable, show_default=False, help=f"Messages: {FILE_HELP}"
    ),
]
RowsFileOption = Annotated[
    Path | None,
    typer.Option(
        "--file", metavar="FILE|-", callback=_readable,
        help=f"Send one message for each row: {FILE_HELP}",
    ),
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file.

    `position` counts lines, or items of an array, from 0; `where` names the same place for people.
    `problem` says why the row could not be read, and `value` is its text then.
    """

    position: int
    where: str
    value: Any
    problem: str | None = None


class RowReader:
    """Reads rows from a file, or from stdin if the path is `-`.

    With `words`, a line that is a single word instead of JSON is that word.
    """

    def __init__(self, path: Path, *, words: bool = False) -> None:
        self.path = path
        self._words = words
        self.is_stdin = str(path) == "-"
        self.name = "stdin" if self.is_stdin else path.name
        self._raw: IO[bytes] | None = None

    @property
    def size(self) -> int | None:
        """Return the size of the file in bytes, None if it is not known."""
        if self.is_stdin or not self.path.is_file():
            return None
        return self.path.stat().st_size or None

    @property
    def bytes_read(self) -> int:
        """Return how many bytes of the file were read."""
        return 0 if self._raw is None or not self._raw.seekable() else self._raw.tell()

    def rows(self, start_at: int = 0) -> Iterator[Row]:
        """Yield the rows from this position on; empty lines are skipped.

        :raises MixpanelException: if the file ends in the middle of a gzip stream or an array.
        """
        position = 0
        try:
            with self._opened() as stream:
                # A byte order mark may precede a line of the maximum length.
                first = stream.readline(len(BOM))
                if first == BOM:
                    first = stream.readline(MAX_ROW_BYTES)
                elif not first.endswith(b"\n"):
                    first += stream.readline(MAX_ROW_BYTES - len(first))
                while first and first.isspace():
                    position += 1
                    first = stream.readline(MAX_ROW_BYTES)
                is_array = first.lstrip().startswith(b"[")
                parse = _parse_line_or_word if self._words else _parse_line
                found = (
                    _items(first, stream) if is_array else _lines(first, stream, position, parse)
                )
                for position, value, problem in found:
                    if position >= start_at:
                        where = f"[{position}]" if is_array else f":{position + 1}"
                        yield Row(position, self.name + where, value, problem)
        except (OSError, EOFError, zlib.error) as error:
            raise MixpanelException(
                f"cannot read {self.name} beyond position {position}: {error}"
            ) from error

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        if self.is_stdin:
            yield standard_input()
            return
        with self.path.open("rb") as raw:
            self._raw = raw
            if self.path.suffix == ".gz":
                with gzip.open(raw) as stream:
                    yield stream  # type: ignore[misc] # it reads bytes
            else:
                yield raw


def standard_input() -> IO[bytes]:
    """Return stdin as bytes.

    :raises typer.BadParameter: if it is closed, as it may be under cron.
    """
    if sys.stdin is None:
        raise typer.BadParameter("- is stdin, which is closed")
    return sys.stdin.buffer


def unwrapped(value: Any) -> Any:
    """Return the message in a line of a `--failed` file; any other value as it is.

    The text of a line that could not be read is read again. A message that a backfill rejected
    still needs its timestamp, and gets an id derived from its content.

    :raises ValidationError: if such a message has no timestamp, or the record is a row of a table.
    """
    from mixpanel._records.failed_rows import FailedRecord

    if not isinstance(value, dict) or "record" not in value or "type" in value:
        return value
    record = value["record"]
    texts = ({"line", "text"}, {"row", "text"})  # of a line that a backfill could not read
    if isinstance(record, dict) and record.keys() in texts:
        record = record["text"]
    if isinstance(record, str):
        parsed, problem = _parse_line(record.encode("utf-8", "surrogatepass"))
        record = record if problem is not None else parsed
    if not value.get("past"):
        return FailedRecord(record) if isinstance(record, dict) else record
    from mixpanel._records.record import checked_mapping
    from mixpanel.cdp._segment.rows import require_timestamp, with_message_id
    from mixpanel.exceptions import ValidationError

    message = checked_mapping(record, "a message")
    if "type" not in message:
        problem = (
            "the record is a row of a table: read this file with mp cdp backfill, and the options "
            "of the run that wrote it"
        )
        raise ValidationError([problem])
    return with_message_id(require_timestamp(message))


Parsed = tuple[Any, str | None]  # a value, and why it could not be read
Found = Iterator[tuple[int, Any, str | None]]


def _lines(
    line: bytes, stream: IO[bytes], position: int, parse: Callable[[bytes], Parsed]
) -> Found:
    while line:
        if len(line) == MAX_ROW_BYTES and not line.endswith(b"\n"):
            text = line[:SHOWN_BYTES].decode("utf-8", "replace")
            while len(line) == MAX_ROW_BYTES and not line.endswith(b"\n"):
                line = stream.readline(MAX_ROW_BYTES)  # skip the rest in pieces
            yield position, text, f"the line has more than {MAX_ROW_BYTES:,} bytes"
        elif not line.isspace():
            yield (position, *parse(line))
        position += 1
        line = stream.readline(MAX_ROW_BYTES)


def _parse_line(line: bytes) -> Parsed:
    try:
        return json.loads(line.decode()), None
    except (ValueError, RecursionError) as error:
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        return text, f"the line is not valid JSON: {_reason(error)}"


def _parse_line_or_word(line: bytes) -> Parsed:
    value, problem = _parse_line(line)
    if problem is not None and WORD.fullmatch(word := str(value).strip()):
        return word, None
    return value, problem


def _items(first: bytes, stream: IO[bytes]) -> Found:
    """Yield the items of an array as they are read.

    :raises MixpanelException: for invalid JSON, after which the next item cannot be found.
    """
    position = 0
    where = "the array"
    try:
        text = JSONStream(first, stream.read, max_value_chars=MAX_ROW_BYTES)
        for _ in text.members("[", "]"):
            where = f"item {position} of the array"
            value = text.value()
            where = f"the array after item {position}"
            yield position, value, None
            position += 1
        has_more = bool(text.peek())
    except (ValueError, RecursionError) as error:
        raise MixpanelException(f"{where} is not valid JSON: {_reason(error)}") from error
    if has_more:
        raise MixpanelException(
            "there is more text after the array: lines of JSON have no brackets around them"
        )


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    return str(error)
