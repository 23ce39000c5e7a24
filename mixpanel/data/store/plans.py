"""DuckDB's plans of queries: whether one returns many rows for each row that it reads."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = ["multiplies_rows"]

GROWTH = 4  # the rows of a join, for each row of its larger side
_LATERAL = ("UNNEST", "INOUT_FUNCTION")  # they return the elements of a list in a row
# They keep their rows, in memory or on disk, and return them in batches of an ordinary size.
_KEEP_ROWS = ("ORDER_BY", "TOP_N", "WINDOW", "CTE_SCAN", "RECURSIVE_CTE", "REC_CTE")
_ALL_PAIRS = ("CROSS_PRODUCT", "BLOCKWISE_NL_JOIN")  # without an estimate, or only a low one
_AT_MOST_ONE = ("SEMI", "ANTI", "MARK", "SINGLE")  # row for each row of one side


def multiplies_rows(connection: DuckDBPyConnection, query: str) -> bool:
    """Return True if a batch of rows that is read becomes many more, by DuckDB's estimates.

    Then an operator that holds a batch until it is complete needs memory for all of them. A join
    whose estimate is too low is not recognized.
    """
    rows = connection.execute(f"EXPLAIN (FORMAT json) {query}").fetchall()
    try:
        nodes: list[dict[str, Any]] = json.loads(rows[-1][-1], strict=False)
    except (ValueError, RecursionError):  # too deep
        return False
    while nodes:
        node = nodes.pop()
        name, children = node["name"].strip(), node["children"]
        if name in _LATERAL or _is_growing_join(node):
            return True
        if name == "CTE":  # the first child is stored; the second reads it
            nodes.append(children[-1])
        elif name not in _KEEP_ROWS and not name.endswith(("_GROUP_BY", "_AGGREGATE")):
            nodes += children
    return False


def _is_growing_join(node: dict[str, Any]) -> bool:
    name = node["name"].strip()
    if not name.endswith(("_JOIN", "CROSS_PRODUCT")):
        return False
    if str(node["extra_info"].get("Join Type", "")).endswith(_AT_MOST_ONE):
        return False
    sides = [_estimate(child) for child in node["children"][:2]]
    if name in _ALL_PAIRS:
        return min(sides) > GROWTH
    return _estimate(node) > GROWTH * max(sides)


def _estimate(node: dict[str, Any]) -> int:
    """Return the estimated number of rows; a node without an estimate has those of its children."""
    estimate = node["extra_info"].get("Estimated Cardinality")
    if estimate not in (None, "0"):  # 0 is unknown as well
        return int(estimate)
    return max((_estimate(child) for child in node["children"]), default=1)
