"""Format SQL for people, as results show it."""

from __future__ import annotations

from textwrap import indent

__all__ = ["block", "conditions", "with_queries"]


def block(query: str) -> str:
    """Return a query in parentheses, indented on separate lines."""
    return f"(\n{indent(query, '    ')}\n)"


def conditions(*parts: str) -> str:
    """Return a WHERE clause that combines all parts with AND; empty without parts."""
    return "\nWHERE " + "\n    AND ".join(parts) if parts else ""


def with_queries(last: str, **named: str) -> str:
    """Return the query `last` with named common table expressions before it."""
    parts = ",\n".join(f"{name} AS {block(query)}" for name, query in named.items())
    return f"WITH {parts}\n{last}"
