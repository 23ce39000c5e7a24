"""Read the syntax of JsonLogic rules: operations, their operands and the properties they name."""

from collections.abc import Iterator
from typing import Any


def is_operation(node: Any) -> bool:
    """Return True if a node is an operation: a dict with exactly one key, as in JavaScript."""
    return isinstance(node, dict) and len(node) == 1


def operands_of(node: dict[str, Any]) -> tuple[str, list[Any]]:
    """Split an operation into its operator and its operands; a single operand needs no list."""
    ((name, operands),) = node.items()
    return name, operands if isinstance(operands, list) else [operands]


def children_of(node: Any) -> list[Any]:
    """Return the operands of an operation or the items of a list; a constant has none."""
    if is_operation(node):
        return operands_of(node)[1]
    return node if isinstance(node, list) else []


def is_computed(node: Any) -> bool:
    """Return True if a node's value depends on an operation, False for a constant."""
    return is_operation(node) or (isinstance(node, list) and any(map(is_computed, node)))


def nesting_depth(rule: Any, limit: int) -> int:
    """Return how deep operations and lists are nested; it stops counting above `limit`."""
    # Level by level rather than recursively: a hostile rule may be nested deeper than the stack.
    depth, level = -1, [rule]
    while level and depth <= limit:
        depth += 1
        level = [child for node in level for child in children_of(node)]
    return depth


def property_name(node: Any) -> str | None:
    """Return the property that `{"var": "name"}` reads; None for a path or with a default."""
    if not (is_operation(node) and "var" in node):
        return None
    name = node["var"]
    if isinstance(name, list) and len(name) == 1:
        name = name[0]
    return name if isinstance(name, str) and name and "." not in name else None


def operators_used(rule: Any) -> list[str]:
    """Return the operators that a rule uses."""
    return [operands_of(node)[0] for node in _operations(rule)]


def names_read(rule: Any) -> list[str]:
    """Return the names that a rule's `var` operations read; computed names are left out."""
    reads = [operands for name, operands in map(operands_of, _operations(rule)) if name == "var"]
    return list(dict.fromkeys(each[0] for each in reads if each and isinstance(each[0], str)))


def _operations(rule: Any) -> Iterator[dict[str, Any]]:
    pending = [rule]
    while pending:
        node = pending.pop()
        if is_operation(node):
            yield node
        pending += reversed(children_of(node))
