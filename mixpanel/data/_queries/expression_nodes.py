"""The parts of an expression, each of which renders itself in Mixpanel's expression language."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Literal, get_args

from mixpanel.data.exceptions import ExpressionError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import NoReturn, TypeGuard

__all__ = [
    "Expression",
    "ExpressionError",
    "Property",
    "as_expression",
    "ceil",
    "defined",
    "event_prop",
    "floor",
    "prop",
    "raw",
    "round_",
    "to_boolean",
    "to_number",
    "to_string",
    "user_prop",
]

Source = Literal["properties", "user", "event", "behaviors"]
Value = str | int | float | Decimal | bool | date | datetime
SOURCES: tuple[Source, ...] = get_args(Source)
ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
NEXT_DAY = timedelta(days=1)


class Expression:
    """A value or condition that Mixpanel computes for each event or profile.

    Comparisons and operators return expressions. `str()` renders Mixpanel's expression language.
    """

    __slots__ = ()

    def __hash__(self) -> int:
        return object.__hash__(self)

    # ---- comparisons ----------------------------------------------------------------------------

    def __eq__(self, other: object) -> Expression:  # type: ignore[override]
        """Return the condition that both are equal; with None, that this is not set."""
        return ~self.is_defined() if other is None else Operation("==", self, as_expression(other))

    def __ne__(self, other: object) -> Expression:  # type: ignore[override]
        """Return the condition that both differ; with None, that this is set."""
        return self.is_defined() if other is None else Operation("!=", self, as_expression(other))

    def __lt__(self, other: object) -> Expression:
        return Operation("<", self, as_expression(other))

    def __le__(self, other: object) -> Expression:
        return Operation("<=", self, as_expression(other))

    def __gt__(self, other: object) -> Expression:
        return Operation(">", self, as_expression(other))

    def __ge__(self, other: object) -> Expression:
        return Operation(">=", self, as_expression(other))

    def is_in(self, values: Iterable[Value]) -> Expression:
        """Return the condition that this equals one of the values.

        :raises ExpressionError: for an empty list.
        """
        if isinstance(values, (str, bytes)):
            raise ExpressionError(
                f"is_in takes a list of values, not the text {values!r}; to search in text, use "
                "contains()"
            )
        each = tuple(as_expression(value) for value in values)
        if not each:
            raise ExpressionError("is_in needs at least one value")
        if any(isinstance(one, Constant) and _is_day(one.value) for one in each):
            days = tuple(Operation("==", self, one) for one in each)
            return days[0] if len(days) == 1 else Junction("or", days)
        return Operation("in", self, Values(each))

    def contains(self, text: str) -> Expression:
        """Return the condition that this string contains `text`."""
        if not isinstance(text, str):
            raise ExpressionError(f"contains takes text, not {type(text).__name__}")
        return Operation("in", Constant(text), self)

    def between(self, least: Value, most: Value) -> Expression:
        """Return the condition that this is between two values, both included."""
        return (self >= least) & (self <= most)

    def starts_with(self, text: str) -> Expression:
        """Return the condition that this begins with `text`; for inline queries only."""
        return Operation("starts with", self, Constant(text))

    def ends_with(self, text: str) -> Expression:
        """Return the condition that this ends with `text`; for inline queries only."""
        return Operation("ends with", self, Constant(text))

    def is_defined(self) -> Expression:
        """Return the condition that this is set: neither null nor missing."""
        return Function("defined", self)

    def is_undefined(self) -> Expression:
        """Return the condition that this is null or missing."""
        return Not(self.is_defined())

    # ---- logic and arithmetic -------------------------------------------------------------------

    def __and__(self, other: Expression) -> Expression:
        return _joined("and", self, other)

    def __or__(self, other: Expression) -> Expression:
        return _joined("or", self, other)

    def __invert__(self) -> Expression:
        return self.operand if isinstance(self, Not) else Not(self)

    def __add__(self, other: object) -> Expression:
        return Operation("+", self, as_expression(other))

    def __sub__(self, other: object) -> Expression:
        return Operation("-", self, as_expression(other))

    def __mul__(self, other: object) -> Expression:
        return Operation("*", self, as_expression(other))

    def __truediv__(self, other: object) -> Expression:
        return Operation("/", self, as_expression(other))

    def __mod__(self, other: object) -> Expression:
        return Operation("%", self, as_expression(other))

    def __radd__(self, other: object) -> Expression:
        return Operation("+", as_expression(other), self)

    def __rsub__(self, other: object) -> Expression:
        return Operation("-", as_expression(other), self)

    def __rmul__(self, other: object) -> Expression:
        return Operation("*", as_expression(other), self)

    def __rtruediv__(self, other: object) -> Expression:
        return Operation("/", as_expression(other), self)

    def __neg__(self) -> Expression:
        return Negative(self)

    # ---- what Python would do, and this cannot --------------------------------------------------

    def __bool__(self) -> NoReturn:
        """Reject `and`, `or`, `not`, `in` and chained comparisons.

        :raises ExpressionError: always.
        """
        raise ExpressionError(
            "an expression is neither true nor false in Python: join conditions with & | ~ (each "
            "in parentheses), use is_in([...]) or contains(text) for `in`, and between(a, b) for "
            "a < x < b"
        )

    def __contains__(self, _item: object) -> NoReturn:
        raise ExpressionError("write prop(...).contains(text) instead of `text in prop(...)`")

    def __iter__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} is not iterable")

    def __str__(self) -> str:
        raise NotImplementedError

    def __repr__(self) -> str:
        try:
            return f"<Expression {self}>"
        except ExpressionError as error:
            return f"<Expression: {error}>"


# ---- the parts of an expression ------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Property(Expression):
    """A property, with the object in which it is looked up."""

    name: str
    source: Source = "properties"

    def __post_init__(self) -> None:
        """Check name and source.

        :raises ExpressionError: for an empty name, or text that cannot be encoded.
        """
        if not isinstance(self.name, str) or not self.name:
            raise ExpressionError(
                f"the name of a property must be non-empty text, not {self.name!r}"
            )
        if self.source not in SOURCES:
            raise ExpressionError(f"source={self.source!r} is unknown: use {', '.join(SOURCES)}")
        quoted(self.name)

    def __str__(self) -> str:
        return f"{self.source}[{quoted(self.name)}]"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Constant(Expression):
    """A literal; None is `undefined` in the language."""

    value: Value | None

    def __str__(self) -> str:
        value = self.value
        if value is None:
            return "undefined"
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, str):
            return quoted(value)
        if isinstance(value, datetime):
            return _timestamp_text(value)
        if isinstance(value, date):
            return f'datetime("{value}")'
        return _number(value)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Values(Expression):
    """A list, the right operand of `in`."""

    values: tuple[Expression, ...]

    def __str__(self) -> str:
        return f"[{', '.join(map(str, self.values))}]"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Operation(Expression):
    """An operator with two operands."""

    operator: str
    left: Expression
    right: Expression

    def __str__(self) -> str:
        if self.operator in ("starts with", "ends with"):
            raise ExpressionError(
                f"Mixpanel's expression language has no {self.operator!r}: inline queries do, "
                "see query(); or use contains()"
            )
        if isinstance(self.right, Constant) and _is_day(self.right.value):
            return self._of_day(self.right.value)
        return f"{_inner(self.left)} {self.operator} {_inner(self.right)}"

    def _of_day(self, day: date) -> str:
        """Compare with a whole day."""
        value, begins = _inner(self.left), Constant(day)
        if day == date.max:
            raise ExpressionError(f"{day} is the last possible date: compare with an earlier one")
        ends = Constant(day + NEXT_DAY)
        match self.operator:
            case "==":
                return f"({value} >= {begins}) and ({value} < {ends})"
            case "!=":
                return f"not (({value} >= {begins}) and ({value} < {ends}))"
            case "<" | ">=":
                return f"{value} {self.operator} {begins}"
            case "<=":
                return f"{value} < {ends}"
            case ">":
                return f"{value} >= {ends}"
        raise ExpressionError(f"a date cannot be used with {self.operator!r}: pass a datetime")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Junction(Expression):
    """Conditions joined by `and` or by `or`."""

    word: Literal["and", "or"]
    operands: tuple[Expression, ...]

    def __str__(self) -> str:
        return f" {self.word} ".join(f"({operand})" for operand in self.operands)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Not(Expression):
    """The negation of a condition."""

    operand: Expression

    def __str__(self) -> str:
        return f"not {_inner(self.operand)}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Negative(Expression):
    """A number with its sign changed."""

    operand: Expression

    def __str__(self) -> str:
        return f"-{_inner(self.operand)}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Function(Expression):
    """A call of one of the language's functions, which have one argument."""

    name: str
    argument: Expression

    def __str__(self) -> str:
        return f"{self.name}({self.argument})"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Raw(Expression):
    """Expression text that is sent unchanged."""

    text: str

    def __str__(self) -> str:
        return self.text


# ---- making them --------------------------------------------------------------------------------


def prop(name: str) -> Property:
    """Return a property of the event; in queries of profiles, one of the profile."""
    return Property(name)


def user_prop(name: str) -> Property:
    """Return a property of the profile of the user who did the event."""
    return Property(name, "user")


def event_prop(name: str) -> Property:
    """Return a field of the event itself, as `$time`; for exports."""
    return Property(name, "event")


def defined(value: Expression) -> Expression:
    """Return the condition that a value is set."""
    return as_expression(value).is_defined()


def to_number(value: Expression) -> Expression:
    """Return a value converted to a number; undefined if it cannot be."""
    return Function("number", as_expression(value))


def to_string(value: Expression) -> Expression:
    """Return a value converted to a string."""
    return Function("string", as_expression(value))


def to_boolean(value: Expression) -> Expression:
    """Return a value converted to a boolean: only "true" and "false" can be."""
    return Function("boolean", as_expression(value))


def floor(value: Expression) -> Expression:
    """Return a number rounded down."""
    return Function("floor", as_expression(value))


def ceil(value: Expression) -> Expression:
    """Return a number rounded up."""
    return Function("ceil", as_expression(value))


def round_(value: Expression) -> Expression:
    """Return a number rounded to the nearest integer."""
    return Function("round", as_expression(value))


def raw(text: str) -> Expression:
    """Return expression text as an expression without parsing it, for syntax `parse` rejects."""
    if not isinstance(text, str) or not text.strip():
        raise ExpressionError("raw() takes the text of an expression")
    return Raw(text)


def as_expression(value: object) -> Expression:
    """Return an expression unchanged, and any other value as a literal.

    :raises ExpressionError: for a type that the language does not have.
    """
    if isinstance(value, Expression):
        return value
    if isinstance(value, bool) or value is None:
        return Constant(value)
    if isinstance(value, str):
        quoted(value)
        return Constant(value)
    if isinstance(value, (int, float, Decimal)):
        if not math.isfinite(value):
            raise ExpressionError(f"{value} cannot be compared with")
        return Constant(value)
    if isinstance(value, date):
        return Constant(value)
    raise ExpressionError(
        f"an expression cannot contain a {type(value).__name__}: use text, a number, a boolean, a "
        "date or a datetime"
    )


# ---- rendering ----------------------------------------------------------------------------------


def quoted(text: str) -> str:
    """Return text as a string literal.

    >>> print(quoted('5" disk'))
    "5\\" disk"

    :raises ExpressionError: for a lone surrogate, which UTF-8 cannot encode.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ExpressionError(
            f"{text!r} contains a lone surrogate, which cannot be encoded"
        ) from None
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if character in ESCAPES:
        return ESCAPES[character]
    return f"\\u{ord(character):04x}" if character < " " or character == "\x7f" else character


def _is_day(value: object) -> TypeGuard[date]:
    return isinstance(value, date) and not isinstance(value, datetime)


def _number(value: float | Decimal) -> str:
    text = format(value, "f") if isinstance(value, Decimal) else repr(value)
    return f"({text})" if text.startswith("-") else text


def _timestamp_text(value: datetime) -> str:
    if value.tzinfo is None:
        return f'datetime("{value.replace(microsecond=0).isoformat()}")'
    return f"datetime({math.floor(value.timestamp())})"


def _joined(word: Literal["and", "or"], left: Expression, right: object) -> Expression:
    if not isinstance(right, Expression):
        raise ExpressionError(
            f"{word} joins two conditions, but {right!r} is none: put each comparison in "
            'parentheses, as in (prop("plan") == "team") & (prop("amount") > 5)'
        )
    each = [
        operand
        for side in (left, right)
        for operand in (
            side.operands if isinstance(side, Junction) and side.word == word else (side,)
        )
    ]
    return Junction(word, tuple(each))


def _inner(part: Expression) -> str:
    """Render a part of a larger expression."""
    alone = isinstance(part, (Property, Constant, Function, Values))
    return str(part) if alone else f"({part})"
