"""Part files: the raw body of an export as it came, and how one that DuckDB refuses is repaired."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from pydantic_core import from_json

from mixpanel._runtime.private_files import create_over
from mixpanel.data.exceptions import TruncatedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mixpanel.data.plan import Part

LAST_WORDS = 200


@dataclass(frozen=True, slots=True)
class Staged:
    """What became of a part.

    `rows` were kept, after `merged` copies of the same event were dropped; `repaired` of them held
    something that is no JSON, `without_time` have no time. With an `error` nothing of it was kept.
    """

    rows: int = 0
    merged: int = 0
    repaired: int = 0
    without_time: int = 0
    error: TruncatedError | None = None


def repair_part(part: Part, target: Path) -> int:
    """Write the lines of a part that DuckDB cannot read as it can; return how many were changed.

    :raises TruncatedError: for a body that was cut, and a line that is no event.
    """
    repaired = 0
    with os.fdopen(create_over(target), "wb") as out:
        for line in _lines(part):
            good = line if _is_event(line) else repair_line(line)
            if not good.strip():
                continue
            if good is not line and not _is_event(good):
                raise truncated(part, line)
            repaired += good is not line
            out.write(good if good.endswith(b"\n") else good + b"\n")
    return repaired


def truncated(part: Part, line: bytes) -> TruncatedError:
    """Return the error of a part, with the end of the line at which it stops making sense."""
    words = line.strip()[-LAST_WORDS:].decode("utf-8", "backslashreplace")
    return TruncatedError(
        f"the export of {part.chunk} is not whole; its last words: {words!r}",
        status_code=200,
        last_words=words,
        details={"from_date": str(part.chunk.from_date), "to_date": str(part.chunk.to_date)},
    )


def _lines(part: Part) -> Iterator[bytes]:
    line = b""
    opened: IO[bytes] = gzip.open(part.path) if part.gzip else part.path.open("rb")  # type: ignore[assignment]  # noqa: SIM115
    with opened as body:
        try:
            for line in body:
                yield line
        except (EOFError, OSError, zlib.error) as error:
            raise truncated(part, line) from error


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
    return repair_text(line.strip().decode("utf-8", "surrogateescape")).encode("utf-8", "replace")


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


def _is_event(line: bytes) -> bool:
    try:
        row = from_json(line, allow_inf_nan=False)
    except ValueError:
        return False
    if not isinstance(row, dict):
        return False
    return row.get("event") is not None or row.get("properties") is not None
