"""Which names may be meant by one that does not exist."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["similar_names"]

MOST = 5
_BETWEEN_WORDS = re.compile(r"[\s_-]+")


def similar_names(name: str, known: Iterable[str]) -> list[str]:
    """Return up to five names that are similar, most similar first.

    The same but for case; else those that contain it, shortest first; else those that share most
    words with it.
    """
    names = sorted(known)
    wanted = name.casefold()
    same = [each for each in names if each.casefold() == wanted]
    if same:
        return same[:MOST]
    containing = [each for each in names if wanted and wanted in each.casefold()]
    if containing:
        return sorted(containing, key=len)[:MOST]
    words = _words(name)
    shared = {each: len(words & _words(each)) for each in names}
    return sorted(filter(shared.__getitem__, names), key=lambda each: -shared[each])[:MOST]


def _words(name: str) -> set[str]:
    return set(_BETWEEN_WORDS.split(name.casefold())) - {""}
