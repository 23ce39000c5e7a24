"""Make the ids of messages: a server keeps one of two messages that have the same."""

from __future__ import annotations

import os
from itertools import count
from typing import TYPE_CHECKING

from mixpanel._accepting import ids

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["new_id"]

_ENDINGS = tuple([f"{number:03x}" for number in range(1 << 12)])
ROWS = (1 << 36) - 1
_row: Iterator[str]
_rows: Iterator[int]


def new_id() -> str:
    """Return a UUID's text, of version 4, in a tenth of the time that `uuid` takes.

    They come in rows of 4,096 that differ in the last three digits. The nine before those number
    the rows in steps drawn for this process, through all that there are, so that no id comes
    twice; all others are drawn anew for each row.
    """
    return next(_row, None) or _next_row()


def _next_row() -> str:
    global _row
    drawn, number = f"{ids.getrandbits(72):018x}", next(_rows) & ROWS
    same = f"{drawn[:8]}-{drawn[8:12]}-4{drawn[12:15]}-a{drawn[15:]}-{number:09x}"
    # Of two threads that come to an end of a row at once, each gets its own: one is cut short.
    row = map(same.__add__, _ENDINGS)
    told = next(row)
    _row = row
    return told


def _begin() -> None:
    global _row, _rows
    _row, _rows = iter(()), count(ids.getrandbits(36), ids.getrandbits(36) | 1)


_begin()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin)
