"""Generate the ids by which servers de-duplicate messages."""

from __future__ import annotations

import random
from itertools import count
from typing import TYPE_CHECKING

from mixpanel._runtime import fork

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["new_hex", "new_uuid"]

SUFFIXES = tuple([f"{number:03x}" for number in range(1 << 12)])
ROWS = (1 << 36) - 1


class _UuidGenerator:
    """Generate UUIDs of version 4 as text, in a twentieth of the time of `uuid.uuid4`.

    Ids come in rows of 4,096, which differ in the last three digits. The nine digits before those
    number the rows: an odd random step visits all 2**36 numbers before it repeats one, so that no
    id of a process comes twice. All other digits are random for each row.
    """

    def __init__(self, *, dashes: bool) -> None:
        self._dash = "-" if dashes else ""
        # A generator of its own: programs that seed `random` would repeat their ids.
        self._random = random.Random()
        self._reseed()
        fork.register(fork.Order.LOCKS, after_in_child=self._reseed)

    def _reseed(self) -> None:
        self._random.seed()
        start, step = self._random.getrandbits(36), self._random.getrandbits(36) | 1
        self._rows = count(start, step)
        self._row: Iterator[str] = iter(())

    def new(self) -> str:
        """Return a new id."""
        return next(self._row, None) or self._next_row()

    def _next_row(self) -> str:
        digits, number = f"{self._random.getrandbits(72):018x}", next(self._rows) & ROWS
        parts = (
            digits[:8],
            digits[8:12],
            f"4{digits[12:15]}",
            f"a{digits[15:]}",
            f"{number:09x}",
        )
        # Two threads that reach the end of a row together each start a new one, with a number of
        # its own; the row that is assigned last is continued.
        row = map(self._dash.join(parts).__add__, SUFFIXES)
        first = next(row)
        self._row = row
        return first

    def __reduce__(self) -> tuple[object, ...]:
        # A copy of the state would generate the same ids again.
        return _generator, (bool(self._dash),)


def _generator(dashes: bool) -> _UuidGenerator:  # noqa: FBT001
    """Return this process's generator."""
    return _uuids if dashes else _hexes


_uuids = _UuidGenerator(dashes=True)
_hexes = _UuidGenerator(dashes=False)
new_uuid = _uuids.new
new_hex = _hexes.new
