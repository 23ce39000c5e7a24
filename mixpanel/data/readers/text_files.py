"""Text files of any encoding: opened as UTF-8, and their lines, each read alone."""

from __future__ import annotations

import codecs
import gzip
import zlib
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from mixpanel._records.rows import DuplicateKeyError, UnreadableRow, loads
from mixpanel.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from mixpanel.data.readers.options import ReadOptions

__all__ = [
    "MAX_LINE_BYTES",
    "json_lines",
    "json_row",
    "open_bytes",
    "rewritten_as_utf8",
    "text_encoding",
]

MAX_LINE_BYTES = 16_000_000  # Mixpanel accepts events of up to 1 MB
SHOWN_CHARS = 200
KEPT_CHARS = 50_000  # of a line that cannot be read, to be corrected by hand
PIECE_CHARS = 1 << 20
BOM = codecs.BOM_UTF8
# Longest first: the mark of UTF-32-LE begins with that of UTF-16-LE.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, decompressed if its name ends in .gz.

    :raises ConfigurationError: if it ends in the middle of the compressed data.
    """
    open_file: Any = gzip.open if path.name.lower().endswith(".gz") else open
    with open_file(path, "rb") as file:
        try:
            yield file
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ConfigurationError(
                f"{path.name}: the compressed data is broken or incomplete ({error}); copy the "
                "file again"
            ) from error


def text_encoding(path: Path, options: ReadOptions) -> str | None:
    """Return the encoding of a file that has to be rewritten, None for UTF-8.

    :raises ConfigurationError: for an encoding other than UTF-8 of a .zst file.
    """
    encoding = options.encoding
    if path.name.lower().endswith(".zst"):
        if encoding is not None and codecs.lookup(encoding).name not in ("utf-8", "utf-8-sig"):
            raise ConfigurationError(
                f"{path.name}: a .zst file must be UTF-8; decompress it first, as with zstd -d"
            )
        return None
    if encoding is None:
        with open_bytes(path) as file:
            start = file.read(4)
        return next((name for mark, name in MARKS if start.startswith(mark)), _unmarked(start))
    return None if codecs.lookup(encoding).name in ("utf-8", "utf-8-sig") else encoding


def _unmarked(start: bytes) -> str | None:
    """Return the encoding of a text without a mark; a file in UTF-8 begins with no zero byte."""
    if len(start) > 1 and 0 in start[:2]:
        return "utf-16-le" if start[0] else "utf-16-be"
    return None


def rewritten_as_utf8(path: Path, encoding: str, folder: Path) -> Path:
    """Write a file as UTF-8 into a folder, and return its path.

    :raises ConfigurationError: if it is not of this encoding.
    """
    name = path.name.removesuffix(".gz").removesuffix(".GZ")
    target = folder / name
    decoder = codecs.getincrementaldecoder(encoding)()
    read = 0
    with open_bytes(path) as source, target.open("wb") as out:
        try:
            while piece := source.read(PIECE_CHARS):
                out.write(decoder.decode(piece).removeprefix("\ufeff" if not read else "").encode())
                read += len(piece)
            out.write(decoder.decode(b"", final=True).encode())
        except UnicodeError as error:
            raise ConfigurationError(
                f"{path.name} is not {encoding} (near byte {read:,}: "
                f"{getattr(error, 'reason', error)}); pass another encoding="
            ) from error
    return target


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of an NDJSON file in UTF-8, one a line; empty lines are skipped."""
    with open_bytes(path) as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if number == 1:
                line = line.removeprefix(BOM)
            if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                start = line[:SHOWN_CHARS]
                while line and not line.endswith(b"\n"):  # skip the rest in pieces
                    line = file.readline(MAX_LINE_BYTES + 1)
                text = start.decode("utf-8", "replace")
                record = {"line": number, "text": text, "truncated": True}
                yield UnreadableRow(f"the line has more than {MAX_LINE_BYTES:,} bytes", record)
            elif not line.isspace():
                yield json_row(line, {"line": number})


def json_row(text: str | bytes | None, where: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object of a line, or an unreadable row with the reason, its place and its text.

    The reason has neither the place nor the text, so that equal reasons can be counted.
    """
    problem = "is not valid JSON"
    try:
        row = loads(text or b"")
        if isinstance(row, dict):
            return row
        problem = "is not a JSON object"
    except DuplicateKeyError as error:
        problem = f"is ambiguous: {error}"
    except UnicodeDecodeError:
        problem = "is not UTF-8"
    except RecursionError:
        problem = "is nested too deeply"
    except ValueError:
        pass
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    text = (text or "").strip()
    record: dict[str, Any] = {**where, "text": text[:KEPT_CHARS]}
    if len(text) > KEPT_CHARS:
        record["truncated"] = True
    return UnreadableRow(f"the line {problem}", record)
