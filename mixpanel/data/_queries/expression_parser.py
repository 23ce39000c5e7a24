"""Parse Mixpanel's expression language into `Expression` objects.

The precedence is Python's, as Mixpanel documents none: `or`, `and`, `not`, comparisons, `+ -`,
`* / %`, unary `-`.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import cast

from mixpanel.data._queries.expression_nodes import (
    SOURCES,
    Constant,
    Expression,
    Function,
    Junction,
    Negative,
    Not,
    Operation,
    Property,
    Source,
    Values,
)
from mixpanel.data.exceptions import ExpressionError

__all__ = ["parsed"]

MAX_LENGTH = 100_000  # characters
MAX_DEPTH = 100  # levels of parentheses
TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)
    |(?P<name>[A-Za-z_][A-Za-z_0-9]*)
    |(?P<symbol>==|!=|<=|>=|[-+*/%<>()\[\],])""",
    re.VERBOSE | re.DOTALL,
)
ESCAPE = re.compile(r"""\\(?:u(?P<code>[0-9a-fA-F]{4})|(?P<known>[\\"'nrtbf]))""")
ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}
WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None, "undefined": None}
FUNCTIONS = ("boolean", "ceil", "datetime", "defined", "floor", "number", "round", "string")
COMPARISONS = ("==", "!=", "<=", ">=", "<", ">", "in")
TERMS, FACTORS = ("+", "-"), ("*", "/", "%")


@dataclass(frozen=True, slots=True)
class Token:
    """A token of an expression, and the position of its first character, counted from 0."""

    kind: str
    text: str
    at: int


def parsed(text: str) -> Expression:
    """Parse an expression.

    :raises ExpressionError: for a syntax error, with its position.
    """
    if not isinstance(text, str):
        raise ExpressionError(f"an expression must be text, not {type(text).__name__}")
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"the expression is longer than {MAX_LENGTH:,} characters")
    return _Parser(_tokens(text), len(text)).run()


def _tokens(text: str) -> list[Token]:
    found, at = [], 0
    while at < len(text):
        match = TOKEN.match(text, at)
        if match is None:
            raise ExpressionError(_unreadable(text[at]), position=at + 1)
        kind = str(match.lastgroup)
        if kind != "space":
            found.append(Token(kind, match[0], at))
        at = match.end()
    return found


def _unreadable(character: str) -> str:
    if character in "\"'":
        return f"the string that begins with {character} is not closed"
    if character in "&|~!":
        return f"{character!r} is for Python expressions: in text, use and, or, not"
    if character == "=":
        return "'=' is not an operator: write == for equality"
    return f"{character!r} is not part of the expression language"


class _Parser:
    def __init__(self, tokens: list[Token], length: int) -> None:
        self._tokens, self._length = tokens, length
        self._next = self._depth = 0

    def run(self) -> Expression:
        if not self._tokens:
            raise ExpressionError("the expression is empty", position=1)
        value = self._any()
        if (token := self._peek()) is not None:
            raise self._error(f"unexpected {token.text!r}", token)
        return value

    # ---- tokens ---------------------------------------------------------------------------------

    def _peek(self) -> Token | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _taken(self, *texts: str) -> Token | None:
        token = self._peek()
        if token is None or token.kind not in ("symbol", "name") or token.text not in texts:
            return None
        self._next += 1
        return token

    def _expect(self, text: str) -> None:
        if self._taken(text) is None:
            token = self._peek()
            found = "the end" if token is None else repr(token.text)
            raise self._error(f"expected {text!r}, not {found}", token)

    def _error(self, message: str, token: Token | None) -> ExpressionError:
        return ExpressionError(message, position=(self._length if token is None else token.at) + 1)

    # ---- the grammar, loosest first -------------------------------------------------------------

    def _any(self) -> Expression:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error("the expression is nested too deeply", self._peek())
        operands = [self._all()]
        while self._taken("or"):
            operands.append(self._all())
        self._depth -= 1
        return operands[0] if len(operands) == 1 else Junction("or", tuple(operands))

    def _all(self) -> Expression:
        operands = [self._negation()]
        while self._taken("and"):
            operands.append(self._negation())
        return operands[0] if len(operands) == 1 else Junction("and", tuple(operands))

    def _negation(self) -> Expression:
        count = 0
        while self._taken("not"):
            count += 1
        value = self._comparison()
        for _ in range(count):
            value = Not(value)
        return value

    def _comparison(self) -> Expression:
        left = self._terms()
        negated = self._taken("not") is not None  # as in `not in`
        operator = self._taken("in") if negated else self._taken(*COMPARISONS)
        if operator is None:
            if negated:
                raise self._error("expected `in` after `not`", self._peek())
            return left
        value: Expression = Operation(operator.text, left, self._terms())
        if negated:
            value = Not(value)
        if (again := self._taken(*COMPARISONS)) is not None:
            raise self._error("comparisons cannot be chained: join two of them with and", again)
        return value

    def _terms(self) -> Expression:
        value = self._factors()
        while (operator := self._taken(*TERMS)) is not None:
            value = Operation(operator.text, value, self._factors())
        return value

    def _factors(self) -> Expression:
        value = self._signed()
        while (operator := self._taken(*FACTORS)) is not None:
            value = Operation(operator.text, value, self._signed())
        return value

    def _signed(self) -> Expression:
        signs = 0
        while self._taken("-"):
            signs += 1
        value = self._atom()
        if signs % 2 and isinstance(value, Constant) and type(value.value) in (int, float):
            return Constant(-cast("float", value.value))
        return Negative(value) if signs % 2 else value

    def _atom(self) -> Expression:
        token = self._peek()
        if token is None:
            raise self._error("expected a value at the end", None)
        self._next += 1
        if token.kind == "string":
            return Constant(self._text(token))
        if token.kind == "number":
            return Constant(_number(token.text))
        if token.kind == "name":
            return self._named(token)
        if token.text == "(":
            value = self._any()
            self._expect(")")
            return value
        if token.text == "[":
            return self._list()
        raise self._error(f"expected a value, not {token.text!r}", token)

    def _list(self) -> Expression:
        values: list[Expression] = []
        if self._taken("]"):
            return Values(())
        while True:
            values.append(self._terms())
            if self._taken("]"):
                return Values(tuple(values))
            self._expect(",")

    def _named(self, token: Token) -> Expression:
        name = token.text
        if name in WORDS:
            return Constant(WORDS[name])
        if name in SOURCES:
            self._expect("[")
            inner = self._peek()
            if inner is None or inner.kind != "string":
                raise self._error(f'brackets must contain a string, as in {name}["plan"]', inner)
            self._next += 1
            self._expect("]")
            return self._property(self._text(inner), name, inner)
        if self._taken("("):
            if name not in FUNCTIONS:
                known = ", ".join(FUNCTIONS)
                hint = "raw(text) is sent unchecked"
                raise self._error(f"unknown function {name!r}; known are {known}; {hint}", token)
            argument = self._any()
            self._expect(")")
            return _called(name, argument)
        raise self._error(
            f'unknown name {name!r}: a property is written properties["{name}"], a string '
            f'"{name}"', token
        )  # fmt: skip

    def _property(self, name: str, source: Source, token: Token) -> Expression:
        if not name:
            raise self._error("the name of a property must not be empty", token)
        return Property(name, source)

    def _text(self, token: Token) -> str:
        text = ESCAPE.sub(_unescaped, token.text[1:-1])
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise self._error("the string contains a lone surrogate", token) from None


def _unescaped(found: re.Match[str]) -> str:
    if found["code"] is not None:
        return chr(int(found["code"], 16))
    return ESCAPED.get(found["known"], found["known"])


def _number(text: str) -> float:
    return int(text) if text.isdigit() else float(text)


def _called(name: str, argument: Expression) -> Expression:
    if name == "datetime" and isinstance(argument, Constant) and isinstance(argument.value, str):
        with suppress(ValueError):
            return Constant(datetime.fromisoformat(argument.value))
    return Function(name, argument)
