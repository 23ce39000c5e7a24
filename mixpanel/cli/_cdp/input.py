"""Read messages from a file or stdin, one after another: lines of JSON, or one array of it.

A row that cannot be read is a row all the same, so that it is refused with its position and the
rest goes on. What is held at a time is one row.
"""

import gzip
import json
import re
import sys
import zlib
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from mixpanel.exceptions import MixpanelException

LONGEST = 1 << 20  # bytes of a row; the largest message that anybody takes has a tenth of it
BOM = b"\xef\xbb\xbf"
SPACE = re.compile(r"[ \t\r\n]*")
WORD = re.compile(r"""[^\s,;|"'{}\[\]]+""")  # anything else may be a row of a table, or broken JSON


def _there(path: Path | None) -> Path | None:
    """Refuse what cannot be read; Typer's own check does not know `-`."""
    if path is not None and str(path) != "-":
        if not path.exists():
            raise typer.BadParameter(f"file {str(path)!r} does not exist")
        if path.is_dir():
            raise typer.BadParameter(f"{str(path)!r} is a folder")
    return path


ROWS = "lines of JSON, or one array of it; may be .gz, and - is stdin."
MessagesFile = Annotated[
    Path,
    typer.Argument(metavar="FILE|-", callback=_there, show_default=False, help=f"Messages: {ROWS}"),
]
RowsFile = Annotated[
    Path | None,
    typer.Option("--file", metavar="FILE|-", callback=_there, help=f"Send each of: {ROWS}"),
]


@dataclass(frozen=True, slots=True)
class Row:
    """One message of a file, or what stands there instead.

    `position` counts from 0, lines or items of an array; `where` is for people. `problem` says why
    it could not be read; `value` is then its text.
    """

    position: int
    where: str
    value: Any
    problem: str | None = None


class Reading:
    """A file, or stdin when it is `-`, and how many bytes of it were read.

    With `words`, a line that is a single word, and no JSON, is that word.
    """

    def __init__(self, path: Path, *, words: bool = False) -> None:
        self.path = path
        self._words = words
        self.is_stdin = str(path) == "-"
        self.name = "stdin" if self.is_stdin else path.name
        self._raw: IO[bytes] | None = None

    @property
    def size(self) -> int | None:
        """Return how many bytes there are to read, if that can be known."""
        if self.is_stdin or not self.path.is_file():
            return None
        return self.path.stat().st_size or None

    @property
    def read(self) -> int:
        """Return how many bytes were read."""
        return 0 if self._raw is None or not self._raw.seekable() else self._raw.tell()

    def rows(self, start_at: int = 0) -> Iterator[Row]:
        """Yield the rows from this position on; empty lines are passed over.

        :raises MixpanelException: when the file ends in the middle of something.
        """
        position = 0
        try:
            with self._opened() as stream:
                first = stream.readline(len(BOM))
                if first == BOM:
                    first = stream.readline(LONGEST)
                elif not first.endswith(b"\n"):
                    first += stream.readline(LONGEST - len(first))
                while first and first.isspace():
                    position += 1
                    first = stream.readline(LONGEST)
                is_array = first.lstrip().startswith(b"[")
                read = _parsed_or_word if self._words else _parsed
                found = _items(first, stream) if is_array else _lines(first, stream, position, read)
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

    :raises typer.BadParameter: when it was closed from the start.
    """
    if sys.stdin is None:
        raise typer.BadParameter("- is stdin, which is closed")
    return sys.stdin.buffer


def unwrapped(value: Any) -> Any:
    """Return the message in a line that `--failed` wrote; any other as it is.

    One that a backfill refused is still of the past: it needs its timestamp, and its id is made of
    its content.

    :raises ValidationError: when it has no timestamp.
    """
    if not isinstance(value, dict) or "record" not in value or "type" in value:
        return value
    if not value.get("past"):
        return value["record"]
    from mixpanel._records.record import mapping
    from mixpanel.cdp._segment.rows import require_timestamp, with_message_id

    return with_message_id(require_timestamp(mapping(value["record"], "a message")))


Found = Iterator[tuple[int, Any, str | None]]


def _lines(
    line: bytes, stream: IO[bytes], position: int, read: Callable[[bytes], tuple[Any, str | None]]
) -> Found:
    while line:
        if len(line) == LONGEST and not line.endswith(b"\n"):
            text = line[:100].decode("utf-8", "replace")
            while len(line) == LONGEST and not line.endswith(b"\n"):
                line = stream.readline(LONGEST)
            yield position, text, f"the line has more than {LONGEST:,} bytes"
        elif not line.isspace():
            yield (position, *read(line))
        position += 1
        line = stream.readline(LONGEST)


def _parsed(line: bytes) -> tuple[Any, str | None]:
    try:
        return json.loads(line.decode()), None
    except (ValueError, RecursionError) as error:
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        return text, f"the line is no JSON: {_why(error)}"


def _parsed_or_word(line: bytes) -> tuple[Any, str | None]:
    value, problem = _parsed(line)
    if problem is not None and WORD.fullmatch(word := str(value).strip()):
        return word, None
    return value, problem


def _items(first: bytes, stream: IO[bytes]) -> Found:
    """Yield the items of an array as its text comes.

    :raises MixpanelException: for what is no array; what follows a fault cannot be told apart.
    """
    text = _Text(first, stream)
    text.take("[")
    position = 0
    if text.next() != "]":
        while True:
            yield position, text.value(position), None
            position += 1
            if text.next() != ",":
                break
            text.take(",")
    text.take("]", f"after item {position - 1}")
    if text.next():
        raise MixpanelException("the file goes on after its array: lines of JSON need no brackets")


class _Text:
    """The part of a JSON text that was not taken yet, a little of it at a time."""

    def __init__(self, first: bytes, stream: IO[bytes]) -> None:
        self._utf8 = getincrementaldecoder("utf-8")()
        self._stream = stream
        self._text = self._decoded(first)
        self._at = 0
        self._json = json.JSONDecoder()

    def next(self) -> str:
        """Return the next letter that is no space; "" at the end."""
        while True:
            space = SPACE.match(self._text, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, wanted: str, where: str = "") -> None:
        """Pass over this letter, and refuse any other."""
        if self.next() != wanted:
            raise MixpanelException(f"the array is no JSON: {wanted} expected {where}".rstrip())
        self._at += 1

    def value(self, position: int) -> Any:
        """Return the item that begins here."""
        self.next()
        while True:
            try:
                value, end = self._json.raw_decode(self._text, self._at)
            except RecursionError as error:
                raise MixpanelException(f"item {position} of the array is too deep") from error
            except ValueError as error:
                # It may merely go on in what was not read yet.
                if len(self._text) - self._at > LONGEST or not self._more():
                    why = f"item {position} of the array is no JSON: {_why(error)}"
                    raise MixpanelException(why) from error
                continue
            if end < len(self._text) or not self._more():
                self._at = end
                return value

    def _more(self) -> bool:
        chunk = self._stream.read(1 << 16)
        if not chunk:
            return False
        self._text = self._text[self._at :] + self._decoded(chunk)
        self._at = 0
        return True

    def _decoded(self, chunk: bytes) -> str:
        try:
            return self._utf8.decode(chunk)
        except UnicodeDecodeError as error:
            raise MixpanelException("the array is no UTF-8") from error


def _why(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is too deep"
    if isinstance(error, UnicodeDecodeError):
        return "it is no UTF-8"
    return str(error)
