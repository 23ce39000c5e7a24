"""Lay out SQL so that it can be read."""

from __future__ import annotations

from textwrap import indent

__all__ = ["block", "conditions", "with_queries"]


def block(query: str) -> str:
    """Return a query in parentheses, on lines of its own."""
    return f"(\n{indent(query, '    ')}\n)"


def conditions(*parts: str) -> str:
    """Return a WHERE clause of all parts, nothing without any."""
    return "\nWHERE " + "\n    AND ".join(parts) if parts else ""


def with_queries(last: str, **named: str) -> str:
    """Return the query `last` over others, each with its name."""
    parts = ",\n".join(f"{name} AS {block(query)}" for name, query in named.items())
    return f"WITH {parts}\n{last}"
