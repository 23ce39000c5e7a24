"""Compute formulas and running figures of inline reports. Does no I/O."""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from mixpanel.emulator._rules.decode import RefusedRequest

SIGNS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}


def formula(definition: str, metrics: Mapping[str, Any]) -> Any:
    """Compute a formula of metrics, as `(A / B) * 100`, for each group and date.

    :raises RefusedRequest: 400: it is malformed.
    """
    try:
        tree = ast.parse(definition.strip(), mode="eval").body
        return _evaluated(tree, metrics)
    except (SyntaxError, ValueError, KeyError, RecursionError) as error:
        raise RefusedRequest(400, f"formula {definition!r} cannot be computed") from error


def _evaluated(node: ast.expr, metrics: Mapping[str, Any]) -> Any:
    match node:
        case ast.Name(id=name):
            return metrics[name]
        case ast.Constant(value=int() | float() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _combined(operator.sub, 0, _evaluated(operand, metrics))
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return _combined(_divided, _evaluated(left, metrics), _evaluated(right, metrics))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in SIGNS:
            sign = SIGNS[type(op)]
            return _combined(sign, _evaluated(left, metrics), _evaluated(right, metrics))
    raise ValueError("not part of a formula")


def _divided(one: float, other: float) -> float:
    return one / other if other else 0.0


def _combined(sign: Callable[[float, float], float], one: Any, other: Any) -> Any:
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: _combined(sign, one.get(key, 0), other.get(key, 0)) for key in one | other}
    if isinstance(one, dict):
        return {key: _combined(sign, each, other) for key, each in one.items()}
    if isinstance(other, dict):
        return {key: _combined(sign, one, each) for key, each in other.items()}
    return sign(one or 0, other or 0)


def leaves(below: Any, change: Callable[[dict[str, float]], dict[str, float]]) -> Any:
    """Change the dates of each group."""
    if isinstance(below, dict) and any(isinstance(each, dict) for each in below.values()):
        return {key: leaves(each, change) for key, each in below.items()}
    return change(below)


def cumulative(dates: dict[str, float]) -> dict[str, float]:
    """Return the running totals of dates."""
    total: float = 0
    found = {}
    for day, n in dates.items():
        total += n or 0
        found[day] = total
    return found


def rolling(dates: dict[str, float], size: int) -> dict[str, float]:
    """Return moving averages, each over up to `size` dates."""
    values = [each or 0 for each in dates.values()]
    return {
        day: sum(values[max(0, n - size + 1) : n + 1]) / len(values[max(0, n - size + 1) : n + 1])
        for n, day in enumerate(dates)
    }
