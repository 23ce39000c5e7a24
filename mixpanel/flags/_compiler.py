"""Compile JsonLogic rules to closures, once, when definitions load.

A rule's text is casefolded beforehand; text in the properties is casefolded here, where a rule
reads it, so that a check pays for the properties that it reads and no others. Inside `filter`,
`map`, `reduce`, `some`, `all` and `none`, `var` reads the current item alone, folded already.
"""

import operator
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from mixpanel.flags._operators import BOOLEAN, OPERATORS
from mixpanel.flags._values import double, fold, is_array, is_number, text, truthy

Closure = Callable[[Any], Any]
Test = Callable[[Any], bool]
Read = Callable[[Any], Any]
Compile = Callable[[list[Any], Read], Closure]

DEEPEST: Final = 64
"""How many operations a rule may nest: far more than any rule has, far less than a stack holds."""

_NOTHING: Final = object()
_QUICK: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "==": operator.eq,
    "===": operator.eq,
    "!=": operator.ne,
    "!==": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class RuleError(ValueError):
    """Say why a rule cannot be compiled."""


def _as_it_is(value: Any) -> Any:
    return value


def is_operation(node: Any) -> bool:
    """Tell whether a node is an operation: a dict with exactly one key, as in JavaScript."""
    return isinstance(node, dict) and len(node) == 1


def operands_of(node: dict[str, Any]) -> tuple[str, list[Any]]:
    """Split an operation into its operator and its operands; a lone operand needs no list."""
    ((name, operands),) = node.items()
    return name, operands if isinstance(operands, list) else [operands]


def compile_closures(rule: Any) -> Test:
    """Compile a rule whose text is casefolded into a test on properties whose keys are.

    :raises RuleError: the rule is not one operation, is nested too deeply or names an unknown
        operator.
    """
    if not is_operation(rule):
        raise RuleError("a rule must be a JSON object with exactly one operator")
    if _depth(rule) > DEEPEST:
        raise RuleError(f"operations are nested more than {DEEPEST} deep")
    return _test(rule, fold)


def _depth(rule: Any) -> int:
    depth, level = -1, [rule]
    while level and depth <= DEEPEST:
        depth += 1
        level = [child for node in level for child in _children(node)]
    return depth


def _children(node: Any) -> list[Any]:
    if is_operation(node):
        return operands_of(node)[1]
    return node if isinstance(node, list) else []


def _value(node: Any, read: Read) -> Closure:
    """Compile a node for the value that it has."""
    if isinstance(node, list):
        if not any(map(_varies, node)):
            return lambda _: node
        items = [_value(item, read) for item in node]
        return lambda data: [item(data) for item in items]
    if not is_operation(node):
        return lambda _: node
    name, operands = operands_of(node)
    special = _SPECIAL.get(name)
    if special is not None:
        return special(operands, read)
    if name in BOOLEAN:
        quick = _comparison_with_constant(name, operands) if read is fold else None
        if quick is not None:
            return quick
    function = OPERATORS.get(name)
    if function is None:
        raise RuleError(f"unknown operator {name!r}")
    return _applied(function, [_value(operand, read) for operand in operands])


def _test(node: Any, read: Read) -> Test:
    """Compile a node for whether it is true."""
    if is_operation(node):
        name, operands = operands_of(node)
        if name in {"and", "or"} and operands:
            return _chain(name, [_test(operand, read) for operand in operands])
        if name in BOOLEAN or name in _BOOLEAN_SPECIAL:
            return _value(node, read)
    value = _value(node, read)
    return lambda data: truthy(value(data))


def _varies(node: Any) -> bool:
    return is_operation(node) or (isinstance(node, list) and any(map(_varies, node)))


def _applied(function: Callable[..., Any], operands: list[Closure]) -> Closure:
    match operands:
        case [a]:
            return lambda data: function(a(data))
        case [a, b]:
            return lambda data: function(a(data), b(data))
        case _:
            return lambda data: function(*[operand(data) for operand in operands])


def _chain(name: str, tests: list[Test]) -> Test:
    if name == "or":
        return lambda data: any(test(data) for test in tests)
    match tests:
        case [a]:
            return a
        case [a, b]:
            return lambda data: a(data) and b(data)
        case [a, b, c]:
            return lambda data: a(data) and b(data) and c(data)
        case _:
            return lambda data: all(test(data) for test in tests)


def _comparison_with_constant(name: str, operands: list[Any]) -> Test | None:
    """Compile `property, symbol, constant`, what most clauses are, without detours."""
    if len(operands) != 2 or _varies(operands[1]):
        return None
    key, constant, slow = _plain_key(operands[0]), operands[1], BOOLEAN[name]
    if key is None:
        return None

    def decide(data: Any) -> bool:
        return slow(fold(data.get(key)), constant)

    if name == "in" and isinstance(constant, list) and all(isinstance(i, str) for i in constant):
        return _is_listed(key, frozenset(constant), decide)
    quick = _QUICK.get(name)
    if quick is None:
        return None
    if isinstance(constant, str):
        equal = quick is operator.eq
        return _is_text(key, constant, decide) if equal else _of_text(key, constant, quick, decide)
    if isinstance(constant, bool):
        return _of_kinds((bool, bool), key, constant, quick, decide)
    return _of_kinds((int, float), key, constant, quick, decide) if is_number(constant) else None


def _is_listed(key: str, texts: frozenset[str], decide: Test) -> Test:
    def is_listed(data: Any) -> bool:
        try:
            return data[key].casefold() in texts
        except (KeyError, AttributeError):
            return decide(data)

    return is_listed


def _is_text(key: str, constant: str, decide: Test) -> Test:
    def is_text(data: Any) -> bool:
        try:
            return data[key].casefold() == constant  # type: ignore[no-any-return]
        except (KeyError, AttributeError):
            return decide(data)

    return is_text


def _of_text(key: str, constant: str, quick: Callable[[Any, Any], bool], decide: Test) -> Test:
    def of_text(data: Any) -> bool:
        value = data.get(key)
        return quick(value.casefold(), constant) if type(value) is str else decide(data)

    return of_text


def _of_kinds(
    kinds: tuple[type, type],
    key: str,
    constant: float,
    quick: Callable[[Any, Any], bool],
    decide: Test,
) -> Test:
    one, other = kinds

    def of_kinds(data: Any) -> bool:
        value = data.get(key)
        kind = type(value)
        return quick(value, constant) if kind is one or kind is other else decide(data)

    return of_kinds


def _plain_key(node: Any) -> str | None:
    """Return the property that `{"var": "name"}` reads, when it is no path and has no default."""
    if not (is_operation(node) and "var" in node):
        return None
    name = (
        node["var"][0] if isinstance(node["var"], list) and len(node["var"]) == 1 else node["var"]
    )
    return name if isinstance(name, str) and name and "." not in name else None


def _var(operands: list[Any], read: Read) -> Closure:
    name, default = [*operands, None, None][:2]
    key = _plain_key({"var": name})
    if key is not None and read is fold and not _varies(default):
        return lambda data: fold(data.get(key, default))
    fallback = _value(default, read)
    if _varies(name):
        named = _value(name, read)
        return lambda data: _look_up(data, _path(named(data)), fallback, read)
    path = _path(name)
    return lambda data: _look_up(data, path, fallback, read)


def _path(name: Any) -> list[str]:
    return [] if name is None or name == "" else text(name).split(".")


def _look_up(data: Any, path: list[str], fallback: Closure, read: Read) -> Any:
    found = data
    for position, part in enumerate(path):
        found = _part(found, part)
        if found is _NOTHING:
            return fallback(data)
        if position == 0:
            found = read(found)
    return found if path else read(found)


def _part(data: Any, part: str) -> Any:
    if isinstance(data, dict):
        return data.get(part, _NOTHING)
    if is_array(data) or isinstance(data, str):
        if part == "length":
            return len(data)
        if part.isascii() and part.isdigit() and (part == "0" or part[0] != "0"):
            return data[int(part)] if len(part) < 10 and int(part) < len(data) else _NOTHING
    return _NOTHING


def _missing(operands: list[Any], read: Read) -> Closure:
    named = [_value(operand, read) for operand in operands]

    def missing(data: Any) -> list[Any]:
        names = [name(data) for name in named]
        return _absent(data, names[0] if names and is_array(names[0]) else names, read)

    return missing


def _missing_some(operands: list[Any], read: Read) -> Closure:
    needed, listed = [_value(operand, read) for operand in [*operands, None, None][:2]]

    def missing_some(data: Any) -> list[Any]:
        names = listed(data)
        names = names if is_array(names) else [names]
        absent = _absent(data, names, read)
        return [] if len(names) - len(absent) >= double(needed(data)) else absent

    return missing_some


def _absent(data: Any, names: Any, read: Read) -> list[Any]:
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
            if truthy(found) is wanted:
                break
        return found

    return first


def _over(operands: list[Any], read: Read, finish: Callable[[list[Any], Test], Any]) -> Closure:
    source, *logic = operands or [None]
    items, test = _value(source, read), _test(logic[0] if logic else None, _as_it_is)

    def over(data: Any) -> Any:
        found = items(data)
        return finish(found if is_array(found) else [], test)

    return over


def _map(operands: list[Any], read: Read) -> Closure:
    source, logic = [*operands, None, None][:2]
    items, change = _value(source, read), _value(logic, _as_it_is)

    def changed(data: Any) -> list[Any]:
        found = items(data)
        return [change(item) for item in found] if is_array(found) else []

    return changed


def _reduce(operands: list[Any], read: Read) -> Closure:
    source, logic, start = [*operands, None, None, None][:3]
    items, initial, step = _value(source, read), _value(start, read), _value(logic, _as_it_is)

    def reduced(data: Any) -> Any:
        total, found = initial(data), items(data)
        for item in found if is_array(found) else []:
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
    "filter": partial(_over, finish=lambda items, test: [item for item in items if test(item)]),
    "all": partial(_over, finish=lambda items, test: bool(items) and all(map(test, items))),
    "some": partial(_over, finish=lambda items, test: any(map(test, items))),
    "none": partial(_over, finish=lambda items, test: not any(map(test, items))),
    "map": _map,
    "reduce": _reduce,
}
_BOOLEAN_SPECIAL: Final = frozenset({"all", "some", "none"})

KNOWN_OPERATORS: Final = frozenset(OPERATORS) | frozenset(_SPECIAL)


def operators_used(rule: Any) -> list[str]:
    """Return the operators that a rule uses."""
    return [operands_of(node)[0] for node in _operations(rule)]


def names_read(rule: Any) -> list[str]:
    """Return the names that a rule's `var` operations read, as far as they are written in it."""
    reads = [operands for name, operands in map(operands_of, _operations(rule)) if name == "var"]
    return list(dict.fromkeys(each[0] for each in reads if each and isinstance(each[0], str)))


def _operations(rule: Any) -> Iterator[dict[str, Any]]:
    pending = [rule]
    while pending:
        node = pending.pop()
        if is_operation(node):
            yield node
        pending += reversed(_children(node))


def value_read(properties: Any, name: str) -> Any:
    """Return what `var` reads under a name, None if there is nothing."""
    return _var([name], fold)(properties)
