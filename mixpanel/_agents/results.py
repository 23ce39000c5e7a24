"""Results of limited size: JSON text, and pages with a cursor and a note of the rest."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import unicodedata
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from mixpanel.data.exceptions import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = [
    "MAX_CELL",
    "MAX_ROWS",
    "MAX_TEXT",
    "Page",
    "cut",
    "decoded_cursor",
    "encoded_cursor",
    "json_text",
    "json_value",
    "page_of",
    "tokens",
]

MAX_TEXT = 40_000  # characters of a result: about 13,000 tokens, and clients cut at 25,000
MAX_ROWS = 1_000
MAX_CELL = 2_000  # characters of one value
MAX_OFFSET = 1_000_000_000
MARK = "… [cut]"
# Categories of characters that are invisible or reorder the text around them, by which data could
# hide instructions. JSON escapes make them visible without changing the value.
HIDDEN = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})


# ---- JSON ---------------------------------------------------------------------------------------


def json_text(value: Any, indent: int | None = None) -> str:
    r"""Return a value as JSON, with control, invisible and bidirectional characters escaped.

    >>> print(json_text({"plan": "te\u202eam"}))
    {"plan":"te\u202eam"}
    """
    separators = (",", ":") if indent is None else None
    text = json.dumps(
        value, ensure_ascii=False, allow_nan=False, separators=separators, indent=indent
    )
    if text.isascii():
        return text.replace("\x7f", "\\u007f")
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character.isascii():
        return "\\u007f" if character == "\x7f" else character
    hidden = unicodedata.category(character) in HIDDEN or character in "\ufe0e\ufe0f"
    hidden = hidden or "\U000e0100" <= character <= "\U000e01ef"  # selectors of variants
    return json.dumps(character)[1:-1] if hidden else character


def json_value(value: Any) -> Any:
    """Convert a Python value to the closest one of JSON; NaN and infinity become None."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        if not value.is_finite():
            return None
        # As a number, unless a float of the reader would lose digits.
        number = int(value) if value == value.to_integral_value() else float(value)
        return number if Decimal(str(number)) == value else str(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(key): json_value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_value(inner) for inner in value]
    if hasattr(value, "to_dict"):
        return json_value(value.to_dict())
    return str(value)


def cut(value: Any, characters: int = MAX_CELL) -> tuple[Any, int]:
    """Return a value of limited length, and the number of cuts.

    A list or object whose JSON is too long becomes that JSON as text, cut.
    """
    if isinstance(value, str):
        return (value, 0) if len(value) <= characters else (value[:characters] + MARK, 1)
    if not isinstance(value, list | dict):
        return value, 0
    text = json_text(value)
    return (value, 0) if len(text) <= characters else (text[:characters] + MARK, 1)


def tokens(text: str) -> int:
    """Estimate the tokens of a text; the estimate tends to be too high, not too low.

    Vocabularies differ. 2.5 letters, digits or spaces count as a token, as do 1.5 other ASCII
    characters, and each byte of other characters: a byte-level vocabulary needs no more for them.
    """
    words = sum(1 for each in text if each.isascii() and (each.isalnum() or each == " "))
    others = sum(1 for each in text if each.isascii()) - words
    beyond = len(text.encode("utf-8", "surrogatepass")) - words - others
    return math.ceil(words / 2.5 + others / 1.5 + beyond)


# ---- pages --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows of a list; `left_out` is a note of the others, and `cursor` continues with them."""

    rows: list[Any]
    left_out: str | None
    cursor: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return `left_out` and `next_cursor`, those that are set."""
        known = {"left_out": self.left_out, "next_cursor": self.cursor}
        return {name: value for name, value in known.items() if value is not None}


def page_of(
    rows: Sequence[Any],
    scope: Mapping[str, Any],
    *,
    offset: int = 0,
    limit: int,
    total: int | None = None,
    has_more: bool = False,
    max_text: int = MAX_TEXT,
    hint: str = "",
) -> Page:
    """Return as many of the rows as fit, at least one.

    `rows` begin at `offset` of a list of `total` rows, or of an unknown number of which there are
    more if `has_more`. `scope` is what the cursor holds for: the tool and its arguments. `hint`
    tells how to ask for less.
    """
    shown: list[Any] = []
    room, texts, cell = max_text, 0, MAX_CELL
    for row in rows[:limit]:
        fitting, cuts = _row_of(row)
        size = len(json_text(fitting)) + 1
        if size > max_text and isinstance(fitting, list | dict):
            # A row of very many values: each gets its share.
            cell = max(1, max_text // (2 * len(fitting)) - len(MARK))
            fitting, cuts = _row_of(row, cell)
            size = len(json_text(fitting)) + 1
        room -= size
        if room < 0 and shown:
            break
        shown.append(fitting)
        texts += cuts
    end = offset + len(shown)
    more = end < total if total is not None else has_more or len(shown) < len(rows)
    notes = []
    if more:
        of = "" if total is None else f" of {total:,}"
        after = "" if offset == 0 else f" from row {offset + 1:,}"
        reason = "" if len(shown) >= limit else f" ({max_text:,} characters at most)"
        notes.append(f"these are {len(shown):,} rows{of}{after}{reason}; pass next_cursor for more")
        if hint:
            notes.append(hint)
    if texts:
        notes.append(f"{texts:,} values were cut at {cell:,} characters, marked {MARK}")
    cursor = encoded_cursor(scope, end) if more else None
    return Page(shown, "; ".join(notes) or None, cursor)


def _row_of(row: Any, cell: int = MAX_CELL) -> tuple[Any, int]:
    """Return a row as JSON values of limited length, and the number of cuts."""
    if isinstance(row, dict):
        pairs = {str(name): cut(json_value(value), cell) for name, value in row.items()}
        return {name: value for name, (value, _) in pairs.items()}, _sum(pairs.values())
    if isinstance(row, list | tuple):
        cells = [cut(json_value(value), cell) for value in row]
        return [value for value, _ in cells], _sum(cells)
    return cut(json_value(row), cell)


def _sum(cells: Iterable[tuple[Any, int]]) -> int:
    return sum(count for _, count in cells)


def _digest(scope: Mapping[str, Any]) -> str:
    text = json.dumps(scope, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def encoded_cursor(scope: Mapping[str, Any], offset: int) -> str:
    """Return the cursor for an offset in the result of a call; `scope` has its arguments."""
    text = json.dumps([_digest(scope), offset], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decoded_cursor(cursor: str | None, scope: Mapping[str, Any]) -> int:
    """Return the offset of a cursor; 0 without one.

    :raises ConfigError: with the code INVALID_CURSOR, if it is not a cursor, or belongs to a
        call with other arguments.
    """
    if cursor is None:
        return 0
    wrong = "the cursor is invalid"
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        digest, offset = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (UnicodeError, binascii.Error, ValueError, TypeError, RecursionError):
        raise _cursor_error(wrong) from None
    if isinstance(offset, bool) or not isinstance(offset, int) or not 0 <= offset <= MAX_OFFSET:
        raise _cursor_error(wrong)
    if digest != _digest(scope):
        raise _cursor_error("the cursor belongs to a call with other arguments")
    return offset


def _cursor_error(why: str) -> ConfigError:
    return ConfigError(
        f"{why}: repeat the call without cursor, or with the arguments of the call that "
        "returned it",
        code="INVALID_CURSOR",
    )
