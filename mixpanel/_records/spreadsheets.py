r"""Keep spreadsheets from evaluating text in a CSV file as a formula (CSV injection).

A cell is a formula if it begins with one of `= + - @`. Excel and LibreOffice in East Asian locales
also accept their fullwidth and small forms, and skip leading white space and invisible characters.
A leading tab or line end is treated the same way. Such text gets a `'` in front, which spreadsheets
read as "this is text".
"""

from __future__ import annotations

import re

__all__ = ["guarded", "guarded_sql"]

# Both expressions mean the same to Python and to DuckDB's RE2: \s, \d and \u would differ.
_SKIPPED = r"\x00-\x20\x7f-\xa0" + "\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff"
_FORMULA_STARTS = r"=+\-@" + "\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u2212"
_FORMULA = rf"^([\t\r\n]|[{_SKIPPED}]*[{_FORMULA_STARTS}])"
_NUMBER = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
_formula, _number = re.compile(_FORMULA), re.compile(_NUMBER)


def guarded(text: str) -> str:
    """Return text that is safe in a CSV cell; numbers stay as they are."""
    return f"'{text}" if _formula.match(text) and not _number.fullmatch(text) else text


def guarded_sql(expression: str) -> str:
    """Return the SQL expression for `guarded` of another expression's text."""
    text = f"CAST({expression} AS VARCHAR)"
    is_formula = f"regexp_matches({text}, {_literal(_FORMULA)})"
    is_number = f"regexp_full_match({text}, {_literal(_NUMBER)})"
    # Most text begins with a letter, a digit or a brace, which is faster to see than to match.
    first = f"unicode({text})"
    is_harmless = f"{first} BETWEEN 48 AND 57 OR {first} BETWEEN 65 AND 126"
    return (
        f"CASE WHEN {is_harmless} THEN {text} "
        f"WHEN {is_formula} AND NOT {is_number} THEN '''' || {text} ELSE {text} END"
    )


def _literal(pattern: str) -> str:
    return "'" + pattern.replace("'", "''") + "'"
