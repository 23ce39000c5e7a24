"""Compile JsonLogic rules, once, when definitions load: to generated code and to closures.

Comparisons of a property with a constant, and `and` and `or` of them, become source that a flag's
function has inline (see `codegen`); every other operation becomes a closure.

A rule's text is casefolded beforehand. Text in the properties is casefolded here, where a rule
reads it, so that a check pays only for the properties that it reads. A plain comparison also finds
a property whose name is not casefolded; everything else needs casefolded names. Inside `filter`,
`map`, `reduce`, `some`, `all` and `none`, `var` reads the current item, already casefolded, and
nothing else: hence the parameter `read`, which is `fold` outside of them and does nothing inside.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from mixpanel.flags._rules.budget import charge, charge_parsing
from mixpanel.flags._rules.casefolding import fold
from mixpanel.flags._rules.codegen import GeneratedTest, Test, call, comparison, join
from mixpanel.flags._rules.js_conversions import is_array, is_truthy, to_double, to_text
from mixpanel.flags._rules.limits import ITERATING, MAX_DEPTH, RuleError
from mixpanel.flags._rules.operators import BOOLEAN, OPERATORS
from mixpanel.flags._rules.syntax import (
    is_computed,
    is_operation,
    nesting_depth,
    operands_of,
    property_name,
)

Closure = Callable[[Any], Any]
Read = Callable[[Any], Any]
Compile = Callable[[list[Any], Read], Closure]

_MISSING: Final = object()
MAX_INLINE_OPERANDS: Final = 32
"""Operands of an `and` or `or` that are written out as source; more are called one by one."""


def _unchanged(value: Any) -> Any:
    return value


def compile_rule(rule: Any) -> Test:
    """Compile a casefolded rule into a test on properties with casefolded names.

    :raises RuleError: the rule is not one operation, is nested too deeply or has an unknown
        operator.
    """
    if not is_operation(rule):
        raise RuleError("a rule must be a JSON object with exactly one operator")
    if nesting_depth(rule, MAX_DEPTH) > MAX_DEPTH:
        raise RuleError(f"operations are nested more than {MAX_DEPTH} deep")
    name, operands = operands_of(rule)
    if comparison(rule) is not None:
        return _generated("and", [rule], fold)
    if name in {"and", "or"} and 0 < len(operands) <= MAX_INLINE_OPERANDS:
        return _generated(name, operands, fold)
    return _test(rule, fold)


def _value(node: Any, read: Read) -> Closure:
    """Compile a node into a function that returns its value."""
    if isinstance(node, list):
        if not any(map(is_computed, node)):
            return lambda _: node
        items = [_value(item, read) for item in node]
        return lambda data: [item(data) for item in items]
    if not is_operation(node):
        return lambda _: node
    name, operands = operands_of(node)
    special = _SPECIAL.get(name)
    if special is not None:
        return special(operands, read)
    if read is fold and comparison(node) is not None:
        return _chain("and", [node], read)
    function = OPERATORS.get(name)
    if function is None:
        raise RuleError(f"unknown operator {name!r}")
    return _apply(function, [_value(operand, read) for operand in operands])


def _test(node: Any, read: Read) -> Test:
    """Compile a node into a function that returns whether its value is true."""
    if is_operation(node):
        name, operands = operands_of(node)
        if name in {"and", "or"} and operands:
            return _chain(name, operands, read)
        if name in BOOLEAN or name in _BOOLEAN_SPECIAL:
            return _value(node, read)
    value = _value(node, read)
    return lambda data: is_truthy(value(data))


def _apply(function: Callable[..., Any], operands: list[Closure]) -> Closure:
    match operands:
        case [a]:
            return lambda data: function(a(data))
        case [a, b]:
            return lambda data: function(a(data), b(data))
        case _:
            return lambda data: function(*[operand(data) for operand in operands])


def _chain(name: str, operands: list[Any], read: Read) -> Test:
    """Compile operands of `and` or `or` into one function.

    Plain comparisons are written inline: calling each would cost twice as much as comparing.
    """
    if len(operands) > MAX_INLINE_OPERANDS:
        tests = [_test(operand, read) for operand in operands]
        combine = all if name == "and" else any
        return lambda data: combine(test(data) for test in tests)
    return _generated(name, operands, read).expression.compile()


def _generated(name: str, operands: list[Any], read: Read) -> GeneratedTest:
    expressions = []
    for operand in operands:
        # Inside an iteration `data` is an item of any type, which generated code cannot read.
        inline = comparison(operand) if read is fold else None
        expressions.append(call(_test(operand, read)) if inline is None else inline)
    return GeneratedTest(join(name, expressions))


def _var(operands: list[Any], read: Read) -> Closure:
    name, default = [*operands, None, None][:2]
    key = property_name({"var": name})
    if key is not None and read is fold and not is_computed(default):
        return lambda data: fold(data.get(key, default))
    fallback = _value(default, read)
    if is_computed(name):
        named = _value(name, read)
        return lambda data: _look_up(data, _path(named(data)), fallback, read)
    path = _path(name)
    return lambda data: _look_up(data, path, fallback, read)


def _path(name: Any) -> list[str]:
    if name is None or name == "":
        return []
    path = to_text(name)
    charge_parsing(path)
    return path.split(".")


def _look_up(data: Any, path: list[str], fallback: Closure, read: Read) -> Any:
    found = data
    for position, part in enumerate(path):
        found = _item(found, part)
        if found is _MISSING:
            return fallback(data)
        if position == 0:
            found = read(found)
    return found if path else read(found)


def _item(data: Any, part: str) -> Any:
    if isinstance(data, dict):
        return data.get(part, _MISSING)
    if is_array(data) or isinstance(data, str):
        if part == "length":
            return len(data)
        if part.isascii() and part.isdigit() and (part == "0" or part[0] != "0"):
            return data[int(part)] if len(part) < 10 and int(part) < len(data) else _MISSING
    return _MISSING


def _missing(operands: list[Any], read: Read) -> Closure:
    named = [_value(operand, read) for operand in operands]

    def missing(data: Any) -> list[Any]:
        names = [name(data) for name in named]
        return _missing_names(data, names[0] if names and is_array(names[0]) else names, read)

    return missing


def _missing_some(operands: list[Any], read: Read) -> Closure:
    required, listed = [_value(operand, read) for operand in [*operands, None, None][:2]]

    def missing_some(data: Any) -> list[Any]:
        names = listed(data)
        names = names if is_array(names) else [names]
        missing_names = _missing_names(data, names, read)
        return [] if len(names) - len(missing_names) >= to_double(required(data)) else missing_names

    return missing_some


def _missing_names(data: Any, names: Any, read: Read) -> list[Any]:
    charge(len(names))
    found = ((name, _look_up(data, _path(name), lambda _: None, read)) for name in names)
    return [name for name, value in found if value is None or value == ""]


def _if(operands: list[Any], read: Read) -> Closure:
    pairs = [
        (_test(condition, read), _value(result, read))
        for condition, result in zip(operands[::2], operands[1::2], strict=False)
    ]
    otherwise = _value(operands[-1] if len(operands) % 2 else None, read)

    def choose(data: Any) -> Any:
        for condition, result in pairs:
            if condition(data):
                return result(data)
        return otherwise(data)

    return choose


def _first(operands: list[Any], read: Read, *, wanted: bool) -> Closure:
    """Compile `and` (the first false operand, else the last) and `or` (the first true one)."""
    values = [_value(operand, read) for operand in operands]

    def first(data: Any) -> Any:
        found = None
        for value in values:
            found = value(data)
            if is_truthy(found) is wanted:
                break
        return found

    return first


def _weight(node: Any) -> int:
    """Return the steps that evaluating a node takes, without those of iterations in it."""
    if isinstance(node, list):
        return 1 + (sum(map(_weight, node)) if any(map(is_computed, node)) else 0)
    if not is_operation(node):
        return 1
    name, operands = operands_of(node)
    if name in ITERATING:  # its work for each item is charged when it runs, see `_items`
        operands = [*operands[:1], *operands[2:3]]
    return 1 + sum(map(_weight, operands))


def _items(source: Any, logic: Any, read: Read) -> Callable[[Any], Any]:
    """Compile the list that an operator iterates; it is charged for evaluating `logic` on each."""
    items, weight = _value(source, read), _weight(logic)

    def charged_items(data: Any) -> Any:
        found = items(data)
        if not is_array(found):
            return ()
        charge(len(found) * weight + 1)
        return found

    return charged_items


def _each(operands: list[Any], read: Read, finish: Callable[[Any, Test], Any]) -> Closure:
    source, *rest = operands or [None]
    logic = rest[0] if rest else None
    items, test = _items(source, logic, read), _test(logic, _unchanged)
    return lambda data: finish(items(data), test)


def _map(operands: list[Any], read: Read) -> Closure:
    source, logic = [*operands, None, None][:2]
    items, change = _items(source, logic, read), _value(logic, _unchanged)
    return lambda data: [change(item) for item in items(data)]


def _reduce(operands: list[Any], read: Read) -> Closure:
    source, logic, start = [*operands, None, None, None][:3]
    items, initial = _items(source, logic, read), _value(start, read)
    step = _value(logic, _unchanged)

    def reduced(data: Any) -> Any:
        total = initial(data)
        for item in items(data):
            total = step({"current": item, "accumulator": total})
        return total

    return reduced


_SPECIAL: Final[dict[str, Compile]] = {
    "var": _var,
    "missing": _missing,
    "missing_some": _missing_some,
    "if": _if,
    "?:": _if,
    "and": partial(_first, wanted=False),
    "or": partial(_first, wanted=True),
    "filter": partial(_each, finish=lambda items, test: [item for item in items if test(item)]),
    "all": partial(_each, finish=lambda items, test: bool(items) and all(map(test, items))),
    "some": partial(_each, finish=lambda items, test: any(map(test, items))),
    "none": partial(_each, finish=lambda items, test: not any(map(test, items))),
    "map": _map,
    "reduce": _reduce,
}
_BOOLEAN_SPECIAL: Final = frozenset({"all", "some", "none"})

KNOWN_OPERATORS: Final = frozenset(OPERATORS) | frozenset(_SPECIAL)


def value_read(properties: Any, name: str) -> Any:
    """Return what `var` reads under a name; None without such a property."""
    return _var([name], fold)(properties)
