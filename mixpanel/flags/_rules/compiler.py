"""Compile JsonLogic rules to closures, once, when definitions load.

A rule's text is casefolded beforehand; text in the properties is casefolded here, where a rule
reads it, so that a check pays for the properties that it reads and no others. A plain comparison
also finds a property whose name is not casefolded; all else needs names that are. Inside `filter`,
`map`, `reduce`, `some`, `all` and `none`, `var` reads the current item alone, folded already.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from sys import intern
from types import CodeType
from typing import Any, Final

from mixpanel.flags._rules.budget import (
    MAX_STEPS,
    PLAIN_OPERATIONS,
    Budget,
    charge,
    charge_parsing,
    is_counting,
)
from mixpanel.flags._rules.js_values import double, fold, is_array, is_number, text, truthy, under
from mixpanel.flags._rules.limits import ITERATING, MAX_DEPTH, RuleError
from mixpanel.flags._rules.operators import BOOLEAN, OPERATORS

Closure = Callable[[Any], Any]
Test = Callable[[Any], bool]
Read = Callable[[Any], Any]
Compile = Callable[[list[Any], Read], Closure]

_NOTHING: Final = object()
_SIGNS: Final = {
    "==": "==", "===": "==", "!=": "!=", "!==": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">=",
}  # fmt: skip
_LONGEST: Final = 32  # operands of a chain that are written out


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
    if _depth(rule) > MAX_DEPTH:
        raise RuleError(f"operations are nested more than {MAX_DEPTH} deep")
    name, operands = operands_of(rule)
    if _written(rule) is not None:
        return WrittenTest(_form("and", [rule], fold))
    if name in {"and", "or"} and 0 < len(operands) <= _LONGEST:
        return WrittenTest(_form(name, operands, fold))
    return _test(rule, fold)


def _depth(rule: Any) -> int:
    depth, level = -1, [rule]
    while level and depth <= MAX_DEPTH:
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
    if read is fold and _written(node) is not None:
        return _chain("and", [node], read)
    function = OPERATORS.get(name)
    if function is None:
        raise RuleError(f"unknown operator {name!r}")
    return _applied(function, [_value(operand, read) for operand in operands])


def _test(node: Any, read: Read) -> Test:
    """Compile a node for whether it is true."""
    if is_operation(node):
        name, operands = operands_of(node)
        if name in {"and", "or"} and operands:
            return _chain(name, operands, read)
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


def _chain(name: str, operands: list[Any], read: Read) -> Test:
    """Compile operands of `and` or `or` into one function, with plain comparisons written out.

    A call for each of them would cost twice what they do. The source is made of the templates
    below: what a rule says only ever gets in as the value of a name.
    """
    if len(operands) > _LONGEST:
        tests = [_test(operand, read) for operand in operands]
        every = all if name == "and" else any
        return lambda data: every(test(data) for test in tests)
    return _form(name, operands, read).compiled()


def _form(name: str, operands: list[Any], read: Read) -> "Written":
    parts: list[str] = []
    names: dict[str, Any] = {}
    any_name = True
    for at, operand in enumerate(operands):
        clause = _written(operand) if read is fold else None
        if clause is None:
            clause, any_name = ("{test}(data)", {"test": _test(operand, read)}), False
        template, values = clause
        parts.append(template.format_map({value: f"{{{value}{at}}}" for value in values}))
        names |= {f"{value}{at}": found for value, found in values.items()}
    return Written(f"({f' {name} '.join(parts)})", names, any_name)


@dataclass(frozen=True, slots=True)
class Written:
    """A test as the source of an expression about `data`, and the values of its names.

    `any_name` tells that it needs no names that are casefolded.
    """

    source: str
    values: dict[str, Any]
    any_name: bool

    def compiled(self) -> Test:
        """Return it as a function."""
        named = self.suffixed("")
        test: Test = eval(_code(f"lambda data: {named.source}"), dict(self.values))  # noqa: S307
        return test

    def suffixed(self, suffix: str) -> "Written":
        """Return it with names that end in `suffix`, to stand beside others."""
        return Written(
            self.source.format_map({name: f"{name}{suffix}" for name in self.values}),
            {f"{name}{suffix}": value for name, value in self.values.items()},
            self.any_name,
        )


class WrittenTest:
    """A test that is written out where it is used, and compiled for itself if anybody calls it."""

    __slots__ = ("_compiled", "written")

    def __init__(self, written: Written) -> None:
        self.written = written
        self._compiled: Test | None = None

    def __call__(self, data: Any) -> bool:
        """Test properties."""
        if self._compiled is None:
            self._compiled = self.written.compiled()
        return self._compiled(data)


def written(test: Test, suffix: str) -> Written:
    """Return a test written out, or else a call of it, with names that end in `suffix`."""
    if isinstance(test, WrittenTest):
        return test.written.suffixed(suffix)
    return Written("{test}(data)", {"test": test}, any_name=False).suffixed(suffix)


@lru_cache(maxsize=1024)
def _code(source: str) -> CodeType:
    """Compile source, once for all rules of the same form."""
    return compile(source, "<rule>", "eval")


def _written(node: Any) -> tuple[str, dict[str, Any]] | None:
    """Return a template for `property, symbol, constant`, what most clauses are, and its values.

    Only where the types are the usual ones is the answer Python's own.
    """
    name, operands = operands_of(node) if is_operation(node) else ("", [])
    if len(operands) != 2 or _varies(operands[1]):
        return None
    key, constant = _plain_key(operands[0]), operands[1]
    test = _comparison(name, constant)
    if key is None or test is None:
        return None
    values = {"key": key, "constant": constant, "other": _otherwise(name, key, constant)}
    if "{texts}" in test:
        values["texts"] = frozenset(constant)
        values["spellings"] = frozenset(_spellings(constant))
    elif "{spellings}" in test:
        values["spellings"] = tuple(dict.fromkeys(_spellings([constant])))
    return test, values


def _otherwise(name: str, key: str, constant: Any) -> Callable[[Any, Any], Any]:
    """Return what decides for a value of another type, and for none under this very name."""
    slow = BOOLEAN[name]
    absent = slow(None, constant)

    def compare(value: Any) -> Any:
        return slow(fold(value), constant)

    def decide(value: Any, data: Any) -> Any:
        if value is None:
            value = under(data, key)
            if value is None:
                return absent
        # A list or dict is walked through: where nothing counts for the check as a whole, each
        # comparison has its part of the budget.
        if isinstance(value, list | tuple | dict) and not is_counting():
            return Budget(MAX_STEPS // PLAIN_OPERATIONS).run(compare, value)
        return compare(value)

    return decide


def _comparison(name: str, constant: Any) -> str | None:
    """Return a template that compares a property with a constant, by the type that it has."""
    found, sign = "type(value := data.get({key}))", _SIGNS.get(name)
    if sign == "==" and isinstance(constant, str):
        # Spellings in a tuple, not a set: a list, which has no hash, can be looked for as well.
        folded = "value.casefold() == {constant} if type(value) is str else {other}(value, data)"
        return f"((value := data.get({{key}})) in {{spellings}} or ({folded}))"
    if name == "in" and isinstance(constant, list) and all(isinstance(x, str) for x in constant):
        test, kinds = "value in {spellings} or value.casefold() in {texts}", "is str"
    elif sign is None:
        return None
    elif isinstance(constant, str):
        test, kinds = f"value.casefold() {sign} {{constant}}", "is str"
    elif isinstance(constant, bool):
        test, kinds = f"value {sign} {{constant}}", "is bool"
    elif is_number(constant):
        test, kinds = f"value {sign} {{constant}}", "is int or kind is float"
        found = f"(kind := {found})"
    else:
        return None
    return f"(({test}) if {found} {kinds} else {{other}}(value, data))"


def _spellings(texts: list[str]) -> Iterator[str]:
    """Return usual spellings of casefolded texts: who finds a text here need not casefold it."""
    for folded in texts:
        for spelled in (folded, folded.upper(), folded.title(), folded.capitalize()):
            if spelled.casefold() == folded:
                yield intern(spelled)


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
    if name is None or name == "":
        return []
    written_out = text(name)
    charge_parsing(written_out)
    return written_out.split(".")


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
            if truthy(found) is wanted:
                break
        return found

    return first


def _weight(node: Any) -> int:
    """Return the steps that evaluating a node takes, without those of iterations in it."""
    if isinstance(node, list):
        return 1 + (sum(map(_weight, node)) if any(map(_varies, node)) else 0)
    if not is_operation(node):
        return 1
    name, operands = operands_of(node)
    if name in ITERATING:  # what it does for each item, it is charged for by itself
        operands = [*operands[:1], *operands[2:3]]
    return 1 + sum(map(_weight, operands))


def _items(source: Any, logic: Any, read: Read) -> Callable[[Any], Any]:
    """Compile the list that an operator iterates, and charge for what it does with the items."""
    items, weight = _value(source, read), _weight(logic)

    def counted(data: Any) -> Any:
        found = items(data)
        if not is_array(found):
            return ()
        charge(len(found) * weight + 1)
        return found

    return counted


def _over(operands: list[Any], read: Read, finish: Callable[[Any, Test], Any]) -> Closure:
    source, *rest = operands or [None]
    logic = rest[0] if rest else None
    items, test = _items(source, logic, read), _test(logic, _as_it_is)
    return lambda data: finish(items(data), test)


def _map(operands: list[Any], read: Read) -> Closure:
    source, logic = [*operands, None, None][:2]
    items, change = _items(source, logic, read), _value(logic, _as_it_is)
    return lambda data: [change(item) for item in items(data)]


def _reduce(operands: list[Any], read: Read) -> Closure:
    source, logic, start = [*operands, None, None, None][:3]
    items, initial = _items(source, logic, read), _value(start, read)
    step = _value(logic, _as_it_is)

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


def is_plain(test: Test) -> bool:
    """Return True if a test consists of plain comparisons alone, which have no lists to walk."""
    return isinstance(test, WrittenTest) and test.written.any_name
