r"""Keep spreadsheets from running text of a CSV file as a formula, whoever writes the file.

A cell runs when it begins with one of `= + - @`, also in their fullwidth and small forms, which
Excel and LibreOffice of East Asian locales read alike, and behind white space or invisible
characters, which they drop. A tab or a line end in front of it does the same, so such text is
guarded too. Guarded text has a `'` in front, which spreadsheets take for "this is text".
"""

from __future__ import annotations

import re

__all__ = ["guarded", "guarded_sql"]

# Python and DuckDB's RE2 read both expressions alike: no \s, \d or \u, which differ.
_SKIPPED = r"\x00-\x20\x7f-\xa0" + "\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff"
_STARTS = r"=+\-@" + "\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u2212"
_RUNS = rf"^([\t\r\n]|[{_SKIPPED}]*[{_STARTS}])"
_NUMBER = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
_runs, _number = re.compile(_RUNS), re.compile(_NUMBER)


def guarded(text: str) -> str:
    """Return text for a cell of CSV; numbers stay as they are."""
    return f"'{text}" if _runs.match(text) and not _number.fullmatch(text) else text


def guarded_sql(expression: str) -> str:
    """Return the SQL that does to a value, as text, what `guarded` does."""
    text = f"CAST({expression} AS VARCHAR)"
    runs = f"regexp_matches({text}, {_literal(_RUNS)})"
    number = f"regexp_full_match({text}, {_literal(_NUMBER)})"
    return f"CASE WHEN {runs} AND NOT {number} THEN '''' || {text} ELSE {text} END"


def _literal(pattern: str) -> str:
    return "'" + pattern.replace("'", "''") + "'"
