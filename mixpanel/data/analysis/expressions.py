"""Translate Mixpanel's expression language (`where`, `on`) to DuckDB SQL; no I/O.

The type of a value may differ from row to row, while an SQL column has one type. So each part of an
expression becomes up to three columns, one for each type it may have; a row in which all of them
are NULL is undefined. The rules of the language then follow from those of SQL: an operation on
mixed types has a NULL operand, and is NULL. Strings and names become parameters, never SQL text.

Mixpanel does not document the following; we chose: Python's precedence; null and undefined are
equal to each other and to nothing else; lists and objects are set, but equal to nothing; `boolean`
of a number is undefined.

Functions whose names begin with `_` are not part of the language: the filters of inline reports,
which know more comparisons, become expressions with them.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "Compiled",
    "ExpressionError",
    "Names",
    "Value",
    "compile_condition",
    "compile_expression",
    "property_in",
]

MAX_LENGTH = 20_000  # characters of an expression
MAX_SQL = 500_000  # characters of one column of its SQL

# The grammar is Python's except for escapes: a backslash before any other character is literal.
ESCAPE = re.compile(r"""\\(?:u[0-9a-fA-F]{4}|[\\"'nrtbf]|(?P<lone>.))""", re.DOTALL)
NUMERIC = "('BIGINT', 'UBIGINT', 'HUGEINT', 'UHUGEINT', 'DOUBLE')"
DECIMAL = r"^\s*[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?\s*$"
WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None, "undefined": None}
PAIRS = {"_starts_with": "starts_with", "_ends_with": "ends_with"}
ARITHMETIC: dict[type[ast.operator], str] = {ast.Sub: "-", ast.Mult: "*"}
DIVISION: dict[type[ast.operator], str] = {ast.Div: "/", ast.Mod: "%"}
ORDER: dict[type[ast.cmpop], str] = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}


class ExpressionError(ValueError):
    """An expression has a syntax error; `position` is the character, counted from 1."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(f"{message} (at character {position})")
        self.message: str = message
        self.position: int = position


@dataclass(frozen=True, slots=True)
class Value:
    """Part of an expression as SQL: a column for each type it may have, None for other types.

    In any row, at most one of them is not NULL. `set_when` is SQL for "is set", if it is not enough
    to check them. With `is_time`, the number is in seconds, and strings with a date compare to it.
    `members` are the values of a list, NULL for anything else: a list is set, but has none of the
    columns.
    """

    number: str | None = None
    text: str | None = None
    boolean: str | None = None
    set_when: str | None = None
    is_time: bool = False
    members: str | None = None

    @property
    def is_set(self) -> str:
        """SQL that is true if the value is neither null nor undefined, else false (never NULL)."""
        if self.set_when is not None:
            return self.set_when
        columns = [each for each in (self.number, self.text, self.boolean) if each is not None]
        return "(" + " or ".join(f"{each} is not null" for each in columns or ["null"]) + ")"


@dataclass(frozen=True, slots=True)
class Names:
    """How names in brackets are looked up, as in `properties["plan"]`.

    Names in `columns` have SQL of their own; others are members of the SQL column `json`, or
    unknown without one.
    """

    json: str | None = None
    columns: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Compiled:
    """An expression as SQL: its value, its parameters by name, and the `Names` it uses."""

    value: Value
    parameters: dict[str, Any]
    uses: frozenset[str]

    @property
    def condition(self) -> str:
        """SQL that is true if the expression is true, else false (never NULL)."""
        return f"coalesce({self.value.boolean or 'null'}, false)"


def compile_expression(text: str, names: Mapping[str, Names], *, prefix: str = "x") -> Compiled:
    """Compile an expression such as `properties["plan"] == "team" and defined(user["$email"])`.

    `names` are the words that may come before brackets; names of parameters begin with `prefix`.

    :raises ExpressionError: for a syntax error.
    """
    compiler = _Compiler(text, names, prefix)
    return Compiled(compiler.run(), compiler.parameters, frozenset(compiler.uses))


def compile_condition(text: str, names: Mapping[str, Names], *, prefix: str = "x") -> Compiled:
    """Compile an expression that must be a condition, such as `where`.

    :raises ExpressionError: for a syntax error, and an expression that is never a boolean.
    """
    compiled = compile_expression(text, names, prefix=prefix)
    value = compiled.value
    if value.boolean is None and (value.number is not None or value.text is not None):
        raise ExpressionError("a condition must be true or false, not a number or a string", 1)
    return compiled


def property_in(text: str) -> tuple[str, str] | None:
    """Return `("properties", "plan")` for `properties["plan"]`, None for any other expression."""
    try:
        match ast.parse(_source(text), mode="eval").body:
            case ast.Subscript(value=ast.Name(id=of), slice=ast.Constant(value=str(name))):
                return of, _joined(name)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass
    return None


class _Compiler:
    def __init__(self, text: str, names: Mapping[str, Names], prefix: str) -> None:
        self._source = _source(text)
        self._names = names
        self._prefix = prefix
        self.parameters: dict[str, Any] = {}
        self.uses: set[str] = set()

    def run(self) -> Value:
        if len(self._source) > MAX_LENGTH:
            raise ExpressionError(f"expression is longer than {MAX_LENGTH} characters", MAX_LENGTH)
        try:
            return self._value(ast.parse(self._source, mode="eval").body)
        except SyntaxError as error:
            raise ExpressionError(f"cannot read: {error.msg}", error.offset or 1) from error
        except (RecursionError, MemoryError) as error:
            raise ExpressionError("expression is nested too deeply", 1) from error
        except ExpressionError:
            raise
        except ValueError as error:
            raise ExpressionError(f"cannot read: {error}", 1) from error

    def _error(self, message: str, node: ast.AST) -> ExpressionError:
        before = self._source.encode()[: getattr(node, "col_offset", 0)]
        return ExpressionError(message, len(before.decode()) + 1)

    def _value(self, node: ast.expr) -> Value:
        value = self._compiled(node)
        longest = max(len(each or "") for each in (value.number, value.text, value.boolean))
        if longest > MAX_SQL:
            raise self._error("expression is too complex", node)
        return value

    def _compiled(self, node: ast.expr) -> Value:  # noqa: C901  # the grammar, a line each
        match node:
            case ast.Constant(value=value):
                return self._constant(value, node)
            case ast.Name(id=name) if name in WORDS:
                return self._constant(WORDS[name], node)
            case ast.Name(id=name):
                hint = f'a property is written properties["{name}"], a string "{name}"'
                raise self._error(f"unknown name {name!r}: {hint}", node)
            case ast.Subscript(value=ast.Name(id=of), slice=ast.Constant(value=str(name))):
                return self._named(of, name, node)
            case ast.Subscript():
                raise self._error('brackets hold one string, as in properties["plan"]', node)
            case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]):
                return self._called(name, argument, node)
            case ast.Call(func=ast.Name(id="_any_item" | "_all_items" as name), keywords=[]):
                return self._items(name, node)
            case ast.Call(func=ast.Name(id=name), args=[one, other], keywords=[]) if name in PAIRS:
                text, part = self._value(one).text, self._value(other).text
                return Value(boolean=text and part and f"{PAIRS[name]}({text}, {part})")
            case ast.Call():
                raise self._error("a function takes one value", node)
            case ast.BinOp(left=left, op=op, right=right):
                return self._binary(self._value(left), op, self._value(right), node)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                number = self._value(operand).number
                return Value(number=number and f"(-{number})")
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return _negated(self._value(operand))
            case ast.BoolOp(op=op, values=operands):
                word = "and" if isinstance(op, ast.And) else "or"
                parts = [self._operand(each, word) for each in operands]
                return _always(f"({f' {word} '.join(parts)})")
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                return self._compared(left, op, right, node)
            case ast.Compare():
                raise self._error("comparisons cannot be chained: join them with and", node)
            case ast.List():
                raise self._error("a list stands on the right of `in` only", node)
        raise self._error(f"{type(node).__name__} is not part of the expression language", node)

    def _constant(self, value: Any, node: ast.AST) -> Value:
        if value is None:
            return Value(set_when="false")
        if isinstance(value, bool):
            return _always("true" if value else "false")
        if isinstance(value, str):
            return Value(
                text=f"{self._parameter(self._text(value, node))}::varchar", set_when="true"
            )
        if isinstance(value, (int, float)):
            return Value(number=self._number(value, node), set_when="true")
        raise self._error(f"{value!r} is not part of the expression language", node)

    def _number(self, value: float, node: ast.AST) -> str:
        try:
            return f"{self._parameter(float(value))}::double"
        except OverflowError as error:
            raise self._error("number is too large", node) from error

    def _text(self, value: str, node: ast.AST) -> str:
        try:
            return _joined(value)
        except UnicodeDecodeError as error:
            raise self._error("string holds an unpaired surrogate", node) from error

    def _parameter(self, value: Any) -> str:
        name = f"{self._prefix}{len(self.parameters)}"
        self.parameters[name] = value
        return f"${name}"

    def _named(self, of: str, name: str, node: ast.AST) -> Value:
        if of not in self._names:
            known = ", ".join(f'{each}["..."]' for each in self._names)
            raise self._error(f"unknown name {of!r}: there are {known}", node)
        self.uses.add(of)
        names = self._names[of]
        if name in names.columns:
            return names.columns[name]
        if names.json is None:
            known = ", ".join(map(repr, names.columns)) or "none"
            raise self._error(f"{of} has no {name!r}; it has {known}", node)
        pointer = "/" + self._text(name, node).replace("~", "~0").replace("/", "~1")
        return _member(names.json, self._parameter(pointer))

    def _called(self, name: str, argument: ast.expr, node: ast.AST) -> Value:
        if name == "datetime":
            return self._datetime(argument)
        if name in ("floor", "ceil", "round"):
            number = self._value(argument).number
            return Value(number=number and f"{name}({number})")
        function = FUNCTIONS.get(name)
        if function is None:
            known = ", ".join(sorted((*FUNCTIONS, "datetime", "floor", "ceil", "round")))
            raise self._error(f"unknown function {name!r}; there are {known}", node)
        return function(self._value(argument))

    def _items(self, name: str, node: ast.Call) -> Value:
        """Compile `_any_item(list, "key", ["value", ...], ...)`: one object of a list has them."""
        match node.args:
            case [of, *pairs] if pairs and len(pairs) % 2 == 0:
                members = self._value(of).members or "null::json[]"
            case _:
                raise self._error(f"{name} takes a list, and keys with their values", node)
        conditions = []
        for key, wanted in zip(pairs[::2], pairs[1::2], strict=True):
            match key, wanted:
                case ast.Constant(value=str(text)), ast.List(elts=[*elements]):
                    values = [str(getattr(each, "value", "")) for each in elements]
                case _:
                    raise self._error("keys are strings, and their values lists", node)
            pointer = self._parameter("/" + text.replace("~", "~0").replace("/", "~1"))
            found = f"json_extract_string(each, {pointer})"
            conditions.append(f"list_contains({self._parameter(values)}::varchar[], {found})")
        having = f"len([1 for each in {members} if coalesce({' and '.join(conditions)}, false)])"
        enough = f"= len({members})" if name == "_all_items" else "> 0"
        return Value(boolean=f"(len({members}) > 0 and {having} {enough})")

    def _datetime(self, argument: ast.expr) -> Value:
        if not (isinstance(argument, ast.Constant) and isinstance(argument.value, str)):
            return Value(number=_as_time(self._value(argument)), is_time=True)
        try:
            time = datetime.fromisoformat(argument.value)
        except ValueError as error:
            raise self._error(
                f"{argument.value!r} is not an ISO 8601 date or time", argument
            ) from error
        time = time if time.tzinfo else time.replace(tzinfo=UTC)
        return Value(number=self._number(time.timestamp(), argument), set_when="true", is_time=True)

    def _binary(self, left: Value, op: ast.operator, right: Value, node: ast.AST) -> Value:
        number = left.number and right.number
        if isinstance(op, ast.Add):
            text = left.text and right.text
            return Value(
                number=number and f"({left.number} + {right.number})",
                text=text and f"({left.text} || {right.text})",
            )
        if (sign := ARITHMETIC.get(type(op))) is not None:
            return Value(number=number and f"({left.number} {sign} {right.number})")
        if (sign := DIVISION.get(type(op))) is not None:
            return Value(number=number and f"({left.number} {sign} nullif({right.number}, 0))")
        raise self._error("there are only the operators + - * / %", node)

    def _operand(self, node: ast.expr, word: str) -> str:
        value = self._value(node)
        if value.number is None and value.text is None:
            return f"coalesce({value.boolean or 'null'}, false)"
        if value.boolean is None and value.set_when == "true":
            raise self._error(f"`{word}` joins conditions, not a number or a string", node)
        boolean = value.boolean or "null::boolean"
        failure = f"error('`{word}` joins conditions, and found a value that is not a boolean')"
        return (
            f"case when {boolean} is not null then {boolean}"
            f" when {value.is_set} then {failure}::boolean else false end"
        )

    def _compared(self, left: ast.expr, op: ast.cmpop, right: ast.expr, node: ast.AST) -> Value:
        one = self._value(left)
        if isinstance(op, (ast.In, ast.NotIn)):
            found = self._found(one, right)
            return _negated(found) if isinstance(op, ast.NotIn) else found
        other = self._value(right)
        if isinstance(op, (ast.Eq, ast.NotEq)):
            same = _same(one, other)
            return _negated(same) if isinstance(op, ast.NotEq) else same
        sign = ORDER.get(type(op))
        if sign is None:
            raise self._error("there are only the comparisons == != < <= > >= in", node)
        numbers = [one.number, other.number]
        if one.is_time or other.is_time:
            numbers = [_as_time(one), _as_time(other)]
        return Value(boolean=f"({numbers[0]} {sign} {numbers[1]})" if all(numbers) else None)

    def _found(self, value: Value, right: ast.expr) -> Value:
        if isinstance(right, ast.List):
            parts = [str(_same(value, self._value(each)).boolean) for each in right.elts]
            return _always(f"({' or '.join(parts)})" if parts else "false")
        other = self._value(right)
        within = other.text and value.text and f"contains({other.text}, {value.text})"
        if other.members is None:
            return Value(boolean=within)
        return Value(
            boolean=f"case when {other.members} is not null"
            f" then {_is_member(value, other.members)} else {within or 'null::boolean'} end"
        )


def _joined(text: str) -> str:
    """Join surrogate pairs, such as `\\ud83d\\ude00`; a lone surrogate raises a ValueError."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16")


def _source(text: str) -> str:
    return ESCAPE.sub(_escaped, re.sub(r"[\r\n]", " ", text)).lstrip()


def _escaped(found: re.Match[str]) -> str:
    return found[0] if found["lone"] is None else "\\" + found[0]


def _always(boolean: str) -> Value:
    return Value(boolean=boolean, set_when="true")


def _member(json: str, pointer: str) -> Value:
    kind = f"json_type({json}, {pointer})"
    member = f"json_extract_string({json}, {pointer})"
    return Value(
        number=f"(case when {kind} in {NUMERIC} then {member}::double end)",
        text=f"(case when {kind} = 'VARCHAR' then {member} end)",
        boolean=f"(case when {kind} = 'BOOLEAN' then {member}::boolean end)",
        set_when=f"(coalesce({kind}, 'NULL') != 'NULL')",
        members=f"(case when {kind} = 'ARRAY'"
        f" then json_extract(json_extract({json}, {pointer}), '$[*]') end)",
    )


def _is_member(value: Value, members: str) -> str:
    """Return SQL that is true if a list contains a value of the same type."""
    found = [
        f"list_contains([{cast} for each in {members} if json_type(each) in {kinds}], {column})"
        for column, kinds, cast in (
            (value.number, NUMERIC, "each::double"),
            (value.text, "('VARCHAR')", "each ->> '$'"),
            (value.boolean, "('BOOLEAN')", "each::boolean"),
        )
        if column is not None
    ]
    if not found:
        return "null::boolean"
    # For a value that is not set, versions of DuckDB differ in what an empty list contains.
    found.append(f"case when {members} is not null then false end")
    return f"coalesce({', '.join(found)})"


def _negated(value: Value) -> Value:
    boolean = value.boolean
    if value.number is None and value.text is None:
        return _always(f"coalesce(not {boolean or 'null'}, true)")
    if boolean is None and value.set_when == "true":
        return Value()
    boolean = boolean or "null::boolean"
    return Value(
        boolean=f"case when {boolean} is not null then not {boolean}"
        f" when not {value.is_set} then true end"
    )


def _same(one: Value, other: Value) -> Value:
    pairs = [
        (one.number, other.number),
        (one.text, other.text),
        (one.boolean, other.boolean),
    ]
    if one.is_time or other.is_time:
        pairs[0] = (_as_time(one), _as_time(other))
    equal = [f"{mine} = {its}" for mine, its in pairs if mine is not None and its is not None]
    if "true" not in (one.set_when, other.set_when):
        equal.append(f"not ({one.is_set} or {other.is_set})")
    return _always(f"coalesce({', '.join([*equal, 'false'])})")


def _as_time(value: Value) -> str | None:
    if value.text is None:
        return value.number
    read = f"epoch(try_cast({value.text} as timestamp))"
    return read if value.number is None else f"coalesce({value.number}, {read})"


def _defined(value: Value) -> Value:
    return _always(value.is_set)


def _as_string(value: Value) -> Value:
    columns = [
        value.text,
        value.number and f"regexp_replace(({value.number})::varchar, '\\.0$', '')",
        value.boolean and f"({value.boolean})::varchar",
    ]
    return Value(text=_first(columns))


def _as_number(value: Value) -> Value:
    columns = [
        value.number,
        value.text and f"try_cast(nullif(regexp_extract({value.text}, '{DECIMAL}'), '') as double)",
        value.boolean and f"({value.boolean})::integer::double",
    ]
    return Value(number=_first(columns))


def _as_boolean(value: Value) -> Value:
    word = value.text and f"case {value.text} when 'true' then true when 'false' then false end"
    return Value(boolean=_first([value.boolean, word]))


def _first(columns: list[str | None]) -> str | None:
    present = [each for each in columns if each is not None]
    return f"coalesce({', '.join(present)})" if present else None


FUNCTIONS: dict[str, Callable[[Value], Value]] = {
    "defined": _defined,
    "string": _as_string,
    "number": _as_number,
    "boolean": _as_boolean,
}
