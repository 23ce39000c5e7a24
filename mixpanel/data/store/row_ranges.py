"""Scan a small table with several threads.

DuckDB assigns whole row groups of 122,880 rows to the threads of a scan. A table of wide events has
few of them, although parsing its JSON takes long. So the rows are selected as a UNION ALL of
ranges, each of which is scanned by a thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from mixpanel.data.exceptions import MemoryLimitError
from mixpanel.data.store import tables
from mixpanel.data.store.quoting import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from duckdb import DuckDBPyConnection

T = TypeVar("T")

__all__ = ["row_ranges", "scan", "with_enough_memory"]

ROW_GROUP = 122_880
VECTOR = 2_048  # rows that DuckDB processes at a time: only the last range may have fewer
MAX_RANGES = 8


def row_ranges(connection: DuckDBPyConnection, table: str, columns: Collection[str]) -> list[range]:
    """Return the ranges of rows to scan, in their order; none if a plain scan is better.

    Views have no `rowid`, and one of the table's own `columns` may have that name.
    """
    if tables.names(connection).get(table, True) or "rowid" in map(str.lower, columns):
        return []
    last, threads = connection.execute(
        f"SELECT coalesce(max(rowid), -1), current_setting('threads') FROM {quoted(table)}"
    ).fetchone() or (-1, 1)
    if last >= ROW_GROUP * threads:
        return []
    size = max(VECTOR, -(-(last + 1) // min(threads, MAX_RANGES)))
    ranges = [range(first, first + size) for first in range(0, last + 1, size)]
    return ranges if len(ranges) > 1 else []


def scan(table: str, ranges: Sequence[range], columns: str, where: str = "true") -> str:
    """Return a subquery, for FROM, of the rows of a table in these ranges; of all without ranges.

    `columns` is its SELECT list, `where` a condition that the rows meet. DuckDB scans the ranges in
    parallel if the outer query aggregates or sorts; otherwise it keeps the order of the rows, and
    scans one range after another.
    """
    query = f"SELECT {columns} FROM {quoted(table)} WHERE ({where})"
    parts = (f"{query} AND rowid >= {each.start} AND rowid < {each.stop}" for each in ranges)
    return f"({' UNION ALL '.join(parts) or query})"


def with_enough_memory(ranges: Sequence[range], attempt: Callable[[Sequence[range]], T]) -> T:
    """Return the result of an attempt with ranges or, if that needs too much memory, without.

    :raises MemoryLimitError: if the memory does not suffice for a plain scan either.
    """
    try:
        return attempt(ranges)
    except MemoryLimitError:
        if not ranges:
            raise
    return attempt(())
