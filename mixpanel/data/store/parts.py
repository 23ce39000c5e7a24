"""Part files: the raw body of an export as it came, and how one that DuckDB refuses is repaired."""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from pydantic_core import from_json

from mixpanel._runtime.private_files import create_replacing, make_folder
from mixpanel.data.exceptions import TruncatedError, UnreadablePartError
from mixpanel.data.store.engine import first_line

if TYPE_CHECKING:
    from pathlib import Path

    from mixpanel.data._fetch.plan import Part

__all__ = [
    "LONGEST",
    "SURE_TO_FIT",
    "Repair",
    "Staged",
    "private_file",
    "repair_line",
    "repair_part",
    "repair_text",
    "truncated",
    "unreadable",
]

TAIL_BYTES = 200
LONGEST = 16_000_000  # bytes of a line; DuckDB's limit is a little higher
SURE_TO_FIT = 2_000_000  # what loads with little memory; Mixpanel takes events of up to 1 MB
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Staged:
    """What became of a part.

    `rows` were kept, after `merged` copies of the same event were dropped; `repaired` of them held
    something that is no JSON, `without_time` have no time. `unreadable` lines were set aside, into
    the file `kept_in`. With an `error` nothing of it was kept.
    """

    rows: int = 0
    merged: int = 0
    repaired: int = 0
    without_time: int = 0
    unreadable: int = 0
    kept_in: Path | None = None
    error: TruncatedError | UnreadablePartError | None = None


@dataclass(frozen=True, slots=True)
class Repair:
    """What repairing a part took: lines that were rewritten, and lines that were set aside."""

    repaired: int = 0
    unreadable: int = 0
    kept_in: Path | None = None


def repair_part(
    part: Part, source: Path, target: Path, aside: Path, longest: int = LONGEST
) -> Repair:
    """Write the lines of a part that DuckDB cannot read as it can, from `source` into `target`.

    Lines that cannot be repaired, or have more than `longest` bytes, go as they came into a file of
    the folder `aside`.

    :raises TruncatedError: when the last line is no event, or no line is one: the body was cut, or
        is something else than an export.
    """
    kept_in = aside / f"{part.path.name.partition('.')[0]}.ndjson"
    try:
        with ExitStack() as files:
            repair = _repair(part, files, source, target, kept_in, longest)
    except BaseException:
        kept_in.unlink(missing_ok=True)
        raise
    return repair


def _repair(
    part: Part, files: ExitStack, source: Path, target: Path, kept_in: Path, longest: int
) -> Repair:
    opened: Any = gzip.open if part.gzip else open
    lines = _Lines(part, files.enter_context(opened(source, "rb")), longest)
    out = files.enter_context(private_file(target))
    kept: IO[bytes] | None = None
    repaired = good = unreadable = 0
    cut_at = first_cut = b""  # the last line, if it may be half a line; the first such line
    while line := lines.next():
        mended, defect = _mended(line, longest)
        if not mended.strip():
            continue
        if defect is None:
            good, cut_at = good + 1, b""
            repaired += mended != line
            out.write(mended if mended.endswith(b"\n") else mended + b"\n")
            continue
        cut_at = line if defect in LOOKS_CUT else b""
        first_cut = first_cut or cut_at
        unreadable += 1
        if kept is None:
            make_folder(kept_in.parent)
            kept = files.enter_context(private_file(kept_in))
        kept.write(line)
        lines.rest_into(kept)
    if cut_at or (first_cut and not good):
        raise truncated(part, cut_at or first_cut)
    return Repair(repaired, unreadable, None if kept is None else kept_in)


def unreadable(part: Part, error: Exception) -> UnreadablePartError:
    """Return the error of a part that DuckDB cannot load, though each of its lines is an event."""
    why = first_line(error) if str(error) else "a line is no event"
    return UnreadablePartError(
        f"the export of {part.chunk} cannot be loaded: {why}",
        status_code=200,
        details={"from_date": str(part.chunk.from_date), "to_date": str(part.chunk.to_date)},
    )


def truncated(part: Part, line: bytes) -> TruncatedError:
    """Return the error of a part, with the end of the line at which it stops making sense."""
    words = line.strip()[-TAIL_BYTES:].decode("utf-8", "backslashreplace")
    return TruncatedError(
        f"the export of {part.chunk} is not whole; its last words: {words!r}",
        status_code=200,
        tail=words,
        details={"from_date": str(part.chunk.from_date), "to_date": str(part.chunk.to_date)},
    )


def private_file(path: Path) -> IO[bytes]:
    """Open a file for writing that only its owner reads, in place of what has that name."""
    return os.fdopen(create_replacing(path), "wb")


class _Lines:
    """Read the lines of a part one by one, and no more of a line than DuckDB would."""

    def __init__(self, part: Part, body: IO[bytes], longest: int) -> None:
        self._part, self._body = part, body
        self._piece = longest + 1
        self._line = b""
        self._first = True

    def next(self) -> bytes:
        """Return the next line, or the beginning of one that is too long; b"" is the end."""
        line = self._read()
        if self._first:
            line, self._first = line.removeprefix(BOM), False
        return line

    def rest_into(self, file: IO[bytes]) -> None:
        """Write what is left of a line that was too long."""
        while not self._line.endswith(b"\n") and self._read():
            file.write(self._line)
        if not self._line.endswith(b"\n"):
            file.write(b"\n")

    def _read(self) -> bytes:
        before = self._line
        try:
            self._line = self._body.readline(self._piece)
        except (EOFError, OSError, zlib.error) as error:
            raise truncated(self._part, before) from error
        return self._line


# ---- one line -----------------------------------------------------------------------------------

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?\b(?:nan|inf(?:inity)?)\b', re.IGNORECASE | re.DOTALL)
_ESCAPE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a pair: one character
    r"|(?P<half>\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
    r"|\\."
    r"|(?P<control>[\x00-\x1f])"
    r"|(?P<byte>[\udc80-\udcff])",
    re.DOTALL,
)


def repair_line(line: bytes) -> bytes:
    r"""Rewrite what JSON does not allow, and nothing else.

    Half a surrogate pair becomes U+FFFD, a byte that is not UTF-8 the four characters `\xe9`, a raw
    control character its escape, and NaN and the infinities null.
    """
    text = line.strip().decode("utf-8", "surrogateescape").lstrip("\ufeff")
    return repair_text(text).encode("utf-8", "replace")


def repair_text(text: str) -> str:
    """Rewrite what JSON does not allow, as `repair_line` does."""
    return _TOKEN.sub(_repair_token, text)


def _repair_token(token: re.Match[str]) -> str:
    found = token[0]
    return _ESCAPE.sub(_repair_escape, found) if found.startswith('"') else "null"


def _repair_escape(escape: re.Match[str]) -> str:
    found = escape[0]
    if escape["half"]:
        return "\ufffd"
    if escape["control"]:
        return f"\\u{ord(found):04x}"
    if escape["byte"]:
        return f"\\\\x{ord(found) - 0xDC00:02x}"
    return found


# ---- what is wrong with a line ------------------------------------------------------------------

NOT_JSON, NO_OBJECT, NO_EVENT = "not JSON", "not an object", "not an event"
TOO_LONG, TOO_DEEP = "too long", "nested too deeply"
TWICE = "the same key twice"
LOOKS_CUT = frozenset({NOT_JSON, NO_OBJECT, NO_EVENT})  # half a line, or a server's last words


def _mended(line: bytes, longest: int) -> tuple[bytes, str | None]:
    """Return a line as DuckDB can read it, and what is wrong with it if that cannot be helped."""
    if len(line) > longest:
        return line, TOO_LONG
    defect = _defect(line)
    if defect is None:
        return line, None
    mended = repair_line(line)
    if mended == line.strip():
        return line, defect
    left = _defect(mended)
    return (mended, None) if left is None else (line if mended else mended, left)


def _defect(line: bytes) -> str | None:
    try:
        row = from_json(line, allow_inf_nan=False)
        twice = any(line.count(b'"%s"' % key.encode()) > 1 for key in KEYS) or b"\\u" in line
    except ValueError as error:
        if not any(limit in str(error) for limit in ("recursion limit", "out of range")):
            return NOT_JSON  # else it may be JSON, beyond what this parser takes
        row, twice = {}, True
    if twice:
        try:
            row = json.loads(line, object_pairs_hook=_Object, parse_int=len, parse_constant=_refuse)
        except RecursionError:
            return TOO_DEEP
        except ValueError:
            return NOT_JSON
        if isinstance(row, _Object) and row.twice:
            return TWICE
    if not isinstance(row, dict):
        return NO_OBJECT
    if all(row.get(key) is None for key in KEYS):
        return NO_EVENT
    return None


def _refuse(constant: str) -> None:
    raise ValueError(constant)


KEYS = ("event", "properties")


class _Object(dict[str, Any]):
    """An object of JSON that knows whether DuckDB would find a column in it twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        names = [name for name, _ in pairs]
        self.twice = any(names.count(key) > 1 for key in KEYS)
