"""The filter of the page as text, such as `user:u-17 -lane:queries paid`. Does no I/O.

`static/page.js` has the same language for the list; a test compares both.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from mixpanel._page.entries import summary

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mixpanel._page.entries import Entry

__all__ = ["Condition", "matches_filter", "parse_filter"]

MAX_FILTER = 4000  # characters
# White space as JavaScript has it, which is not what Python's \s matches.
SPACE = "\t-\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
PART = re.compile(rf'(-?)(?:([a-z]+):)?((?:"[^"]*"?|[^{SPACE}"])+)')
VALUE = re.compile(r'"([^"]*)"?|([^,"]+)')
SEARCHED = ("event", "distinct_id", "lane", "verdict", "reason", "path", "insert_id", "fault",
            "preview")  # fmt: skip
FIELDS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "lane": lambda entry: entry["lane"],
    "verdict": lambda entry: entry["verdict"],
    "event": lambda entry: entry["event"],
    "user": lambda entry: entry["distinct_id"],
    "problem": lambda entry: entry["problems"],
    "path": lambda entry: entry["path"],
    "status": lambda entry: "none" if entry["status"] is None else str(entry["status"]),
    "fault": lambda entry: entry["fault"],
    "id": lambda entry: entry["insert_id"],
    "via": lambda entry: "here" if entry["via"] is None else entry["via"],
}


class Condition(NamedTuple):
    """A field with its allowed values, or else a word; `negated` with a minus before it."""

    negated: bool
    field: str | None = None
    values: Sequence[str] = ()
    word: str = ""


def parse_filter(text: str) -> list[Condition]:
    """Return the conditions of a filter; no text is an error.

    >>> parse_filter('-lane:queries,flags "order paid"')[1].word
    'order paid'
    """
    found = []
    for match in PART.finditer(text[:MAX_FILTER]):
        minus, field, value = match.groups()
        if field in FIELDS:
            values = [quoted or plain for quoted, plain in VALUE.findall(value)]
            if values := [each.lower() for each in values if each]:
                found.append(Condition(minus == "-", field, values))
            continue
        word = match[0][len(minus) :].replace('"', "").lower()
        found.append(Condition(minus == "-" and len(match[0]) > 1, word=word))
    return found


def matches_filter(entry: Entry, conditions: Sequence[Condition]) -> bool:
    """Return True if an entry meets all conditions."""
    if not conditions:
        return True
    shown = summary(entry)
    text = " ".join(str(shown[name] or "") for name in SEARCHED).lower()
    for condition in conditions:
        if condition.field is None:
            found = condition.word in text
        else:
            value = FIELDS[condition.field](shown)
            have = value if isinstance(value, list) else [(value or "").lower()]
            found = any(wanted in have for wanted in condition.values)
        if found == condition.negated:
            return False
    return True
