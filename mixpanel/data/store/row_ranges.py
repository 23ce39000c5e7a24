"""Scan a small table with several threads.

DuckDB assigns whole row groups of 122,880 rows to the threads of a scan. A table of wide events has
few of them, although parsing its JSON takes long. So the rows are selected as a UNION ALL of
ranges, each of which is scanned by a thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mixpanel.data.store import tables
from mixpanel.data.store.quoting import quoted

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = ["parallel_source"]

ROW_GROUP = 122_880
VECTOR = 2_048  # rows that DuckDB processes at a time
MAX_RANGES = 8


def parallel_source(connection: DuckDBPyConnection, table: str) -> str:
    """Return an SQL source, for FROM, with the rows of a table in their order."""
    is_view = tables.names(connection).get(table, True)
    columns = {column.name.lower() for column in tables.schema(connection, table).columns}
    ranges = [] if is_view or "rowid" in columns else _ranges(connection, table)
    if len(ranges) < 2:
        return quoted(table)
    selected = (
        f"SELECT * FROM {quoted(table)} WHERE rowid >= {first} AND rowid < {end}"
        for first, end in ranges
    )
    return f"({' UNION ALL '.join(selected)})"


def _ranges(connection: DuckDBPyConnection, table: str) -> list[tuple[int, int]]:
    """Return the start and end of each range of rows; fewer than two if a plain scan is better."""
    last, threads = connection.execute(
        f"SELECT coalesce(max(rowid), -1), current_setting('threads') FROM {quoted(table)}"
    ).fetchone() or (-1, 1)
    if last >= ROW_GROUP * threads:
        return []
    size = -(-(last + 1) // min(threads, MAX_RANGES))
    size = max(VECTOR, -(-size // VECTOR) * VECTOR)
    return [(first, first + size) for first in range(0, last + 1, size)]
