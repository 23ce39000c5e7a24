"""Part files, the raw bodies of exports: repair lines that DuckDB cannot load."""

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

from mixpanel._records.json_stream import SPACE
from mixpanel._runtime.private_files import create_replacing, make_folder
from mixpanel.data.exceptions import TruncatedError, UnreadablePartError
from mixpanel.data.store.engine import error_message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mixpanel.data._fetch.plan import Part

__all__ = [
    "MAX_LINE_BYTES",
    "SAFE_LINE_BYTES",
    "Repair",
    "Staged",
    "has_key_twice",
    "is_whole_line",
    "line_end",
    "pieces",
    "private_file",
    "repair_line",
    "repair_part",
    "repair_text",
    "truncated_error",
    "unreadable_error",
]

TAIL_BYTES = 200
MAX_LINE_BYTES = 16_000_000  # DuckDB's own limit is slightly higher
SAFE_LINE_BYTES = 2_000_000  # loads with little memory; Mixpanel accepts events of up to 1 MB
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Staged:
    """The result of staging a part.

    `rows` were kept, after `merged` duplicates were dropped; `repaired` of them were not valid
    JSON, `without_time` have no time. `unreadable` lines were set aside in the file `kept_in`. With
    an `error` nothing of the part was kept.
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
    """The result of repairing a part: lines that were rewritten, and lines that were set aside."""

    repaired: int = 0
    unreadable: int = 0
    kept_in: Path | None = None


def repair_part(
    part: Part,
    source: Path,
    target: Path,
    unreadable_folder: Path,
    max_bytes: int = MAX_LINE_BYTES,
) -> Repair:
    """Copy a part from `source` to `target`, rewriting lines that DuckDB cannot read.

    Lines that cannot be repaired, or have more than `max_bytes`, are written unchanged to a
    file in `unreadable_folder`.

    :raises TruncatedError: if the last line is not an event, or no line is one: the body was
        truncated, or is not an export. A last line that is a whole but broken event is set aside if
        an earlier download ended with it, too: a connection would break elsewhere.
    """
    kept_in = unreadable_folder / f"{part.path.name.partition('.')[0]}.ndjson"
    try:
        with ExitStack() as files:
            repair = _repair(part, files, source, target, kept_in, max_bytes)
    except BaseException:
        kept_in.unlink(missing_ok=True)
        raise
    return repair


def _repair(
    part: Part, files: ExitStack, source: Path, target: Path, kept_in: Path, max_bytes: int
) -> Repair:
    open_file: Any = gzip.open if part.gzip else open
    lines = _Lines(part, files.enter_context(open_file(source, "rb")), max_bytes)
    out = files.enter_context(private_file(target))
    unreadable_file: IO[bytes] | None = None
    repaired = good_lines = unreadable = 0
    truncated_at = first_truncated = b""  # ends of a body: see below
    while line := lines.next():
        repaired_line, defect = _check_line(line, max_bytes)
        if not repaired_line.strip():
            continue
        if defect is None:
            good_lines, truncated_at = good_lines + 1, b""
            repaired += repaired_line != line
            out.write(repaired_line if repaired_line.endswith(b"\n") else repaired_line + b"\n")
            continue
        is_permanent = (
            defect == NOT_JSON and line_end(line) == part.earlier_end and is_whole_line(line)
        )
        truncated_at = line if defect in POSSIBLY_TRUNCATED and not is_permanent else b""
        first_truncated = first_truncated or truncated_at
        unreadable += 1
        if unreadable_file is None:
            make_folder(kept_in.parent)
            unreadable_file = files.enter_context(private_file(kept_in))
        unreadable_file.write(line)
        lines.copy_rest_to(unreadable_file)
    # An export has neither a length nor an end mark. A cut connection shows only as a bad last
    # line; a body of bad lines alone is an error page. One between good lines is set aside.
    if truncated_at or (first_truncated and not good_lines):
        raise truncated_error(part, truncated_at or first_truncated)
    return Repair(repaired, unreadable, None if unreadable_file is None else kept_in)


def pieces(
    source: Path, size: int, truncated: Callable[[bytes], Exception], *, gzipped: bool
) -> Iterator[Path]:
    """Yield files with a few whole lines of `source` each, which end when the next one begins.

    :raises Exception: what `truncated` returns for the last bytes of a compressed, truncated file.
    """
    piece = source.with_name(source.name + ".piece")
    open_file: Any = gzip.open if gzipped else open
    block = b""
    try:
        with open_file(source, "rb") as body:
            while block := body.read(size):
                block += body.readline()
                with private_file(piece) as file:
                    file.write(block)
                yield piece
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise truncated(block) from error
    finally:
        piece.unlink(missing_ok=True)


def line_end(line: bytes) -> str:
    """Return the end of a line, for a message."""
    return line.strip()[-TAIL_BYTES:].decode("utf-8", "backslashreplace")


def is_whole_line(line: bytes) -> bool:
    """Return True for a line that begins as an event and has an end, whatever is between."""
    stripped = line.strip()
    begins = stripped.startswith(b"{") and stripped[1:].lstrip().startswith((b'"event"', b'"prop'))
    return begins and (line.endswith(b"\n") or stripped.endswith(b"}"))


def unreadable_error(part: Part, error: Exception) -> UnreadablePartError:
    """Return the error for a part that DuckDB cannot load, for no known defect of a line."""
    reason = error_message(error) if str(error) else "a line is not an event"
    return UnreadablePartError(
        f"the export of {part.chunk} cannot be loaded: {reason}",
        status_code=200,
        details={"from_date": str(part.chunk.from_date), "to_date": str(part.chunk.to_date)},
    )


def truncated_error(part: Part, line: bytes) -> TruncatedError:
    """Return the error for a truncated part, with the end of its last line."""
    tail = line_end(line)
    return TruncatedError(
        f"the export of {part.chunk} is truncated; it ends with {tail!r}",
        status_code=200,
        tail=tail,
        details={"from_date": str(part.chunk.from_date), "to_date": str(part.chunk.to_date)},
    )


def private_file(path: Path) -> IO[bytes]:
    """Open a file for writing with access for its owner only, replacing an existing one."""
    return os.fdopen(create_replacing(path), "wb")


class _Lines:
    """Read the lines of a part one by one, each only as far as DuckDB would."""

    def __init__(self, part: Part, body: IO[bytes], max_bytes: int) -> None:
        self._part, self._body = part, body
        self._read_size = max_bytes + 1
        self._line = b""
        self._first = True

    def next(self) -> bytes:
        """Return the next line, or the beginning of one that is too long; b"" at the end."""
        line = self._read()
        if self._first:
            line, self._first = line.removeprefix(BOM), False
        return line

    def copy_rest_to(self, file: IO[bytes]) -> None:
        """Write the rest of a line that was too long, piece by piece."""
        while not self._line.endswith(b"\n") and self._read():
            file.write(self._line)
        if not self._line.endswith(b"\n"):
            file.write(b"\n")

    def _read(self) -> bytes:
        before = self._line
        try:
            self._line = self._body.readline(self._read_size)
        except (EOFError, OSError, zlib.error) as error:
            raise truncated_error(self._part, before) from error
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

    An unpaired surrogate becomes U+FFFD, a byte that is not UTF-8 the four characters `\xe9`, a raw
    control character its escape, and NaN and the infinities null.
    """
    text = line.strip().decode("utf-8", "surrogateescape").lstrip("\ufeff")
    return repair_text(text).encode("utf-8", "replace")


def repair_text(text: str) -> str:
    """Rewrite what JSON does not allow, as for `repair_line`."""
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

NOT_JSON, NOT_AN_OBJECT, NOT_AN_EVENT = "not JSON", "not an object", "not an event"
TOO_LONG, TOO_DEEP = "too long", "nested too deeply"
DUPLICATE_KEY = "the same key twice"
# Defects of half a line, and of an error message of the server instead of an event.
POSSIBLY_TRUNCATED = frozenset({NOT_JSON, NOT_AN_OBJECT, NOT_AN_EVENT})


def _check_line(line: bytes, max_bytes: int) -> tuple[bytes, str | None]:
    """Return a line in a form that DuckDB can read, or unchanged with its defect."""
    if len(line) > max_bytes:
        return line, TOO_LONG
    defect = _defect(line)
    if defect is None:
        return _with_unique_properties(line), None
    repaired_line = repair_line(line)
    if repaired_line == line.strip():
        return line, defect
    remaining = _defect(repaired_line)
    if remaining is None:
        return _with_unique_properties(repaired_line), None
    return (line if repaired_line else b""), remaining  # the caller skips an empty line


def _defect(line: bytes) -> str | None:
    try:
        row = from_json(line, allow_inf_nan=False)
        has_duplicates = (
            any(line.count(b'"%s"' % key.encode()) > 1 for key in KEYS) or b"\\u" in line
        )
    except ValueError as error:
        if not any(limit in str(error) for limit in ("recursion limit", "out of range")):
            return NOT_JSON  # otherwise valid JSON that exceeds a limit of this parser
        row, has_duplicates = {}, True
    if has_duplicates:
        try:
            row = json.loads(
                line,
                object_pairs_hook=_PairTrackingObject,
                parse_int=len,
                parse_constant=_reject_constant,
            )
        except RecursionError:
            return TOO_DEEP
        except ValueError:
            return NOT_JSON
        if isinstance(row, _PairTrackingObject) and row.has_duplicates:
            return DUPLICATE_KEY
    if not isinstance(row, dict):
        return NOT_AN_OBJECT
    if all(row.get(key) is None for key in KEYS):
        return NOT_AN_EVENT
    return None


def has_key_twice(line: bytes) -> bool:
    """Return True for an event that names its `event` or its `properties` twice."""
    may_have = b"\\u" in line or any(line.count(b'"%s"' % key.encode()) > 1 for key in KEYS)
    return may_have and _defect(line) == DUPLICATE_KEY


def _with_unique_properties(line: bytes) -> bytes:
    """Return an event without earlier values of a property that it has twice, else unchanged.

    As of any JSON object, the last one counts. DuckDB would read the first. Values keep their text.
    """
    text = line.decode()
    for key, (start, end) in _members(text, text.index("{")):
        if key != "properties" or text[start] != "{":
            continue
        found = list(_members(text, start))
        unique = dict(found)
        if len(unique) == len(found):
            return line
        kept = ",".join(f"{_json(name)}:{text[slice(*unique[name])]}" for name in unique)
        return (text[:start] + "{" + kept + "}" + text[end:]).encode()
    return line


def _members(text: str, at: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the names of an object, which begins at `at`, and where their values are."""
    at = _skip(text, at + 1)
    while text[at] != "}":
        name, at = _VALUES.raw_decode(text, at)
        start = _skip(text, _skip(text, at) + 1)
        _, end = _VALUES.raw_decode(text, start)
        yield name, (start, end)
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    found = SPACE.match(text, at)
    return at if found is None else found.end()


def _json(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def _reject_constant(constant: str) -> None:
    raise ValueError(constant)


KEYS = ("event", "properties")
_VALUES = json.JSONDecoder(parse_int=len, parse_float=len)  # numbers are read for their place only


class _PairTrackingObject(dict[str, Any]):
    """A JSON object that records whether a key DuckDB reads occurs twice, which it refuses."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        names = [name for name, _ in pairs]
        self.has_duplicates = any(names.count(key) > 1 for key in KEYS)
