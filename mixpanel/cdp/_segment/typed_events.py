"""The frame of a typed event: fields that know their type, and where in a message they belong."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from numbers import Integral, Real
from typing import Annotated, Any, ClassVar, Literal, dataclass_transform, get_args, get_origin
from uuid import UUID

from mixpanel._records.record import mapping
from mixpanel.cdp._segment.values import id_text
from mixpanel.exceptions import ValidationError

__all__ = [
    "At",
    "Field",
    "Flag",
    "Id",
    "IdOrIds",
    "Needs",
    "Number",
    "Object",
    "Objects",
    "SemanticEvent",
    "Shape",
    "SomeId",
    "SomeText",
    "Text",
    "Texts",
    "When",
    "Whole",
    "many_of",
    "place",
]

Path = tuple[str, ...]
Needs = Literal["either", "user", "placeholder", "none"]
"""Whom an event must name: a user or anonymous id, a user id, anybody at all, or nobody."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A type as the wire has it: what to call it, which values pass, and how they are said."""

    what: str
    passes: Callable[[Any], bool]
    said: Callable[[Any], Any] = lambda value: value
    shown: Callable[[Any], str] = lambda value: type(value).__name__


def _many(passes: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, Sequence) and not _is_text(value) and all(map(passes, value))
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, (str, bytes, bytearray))


def _is_number(value: Any) -> bool:
    return isinstance(value, (Real, Decimal)) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_id(value: Any) -> bool:
    return isinstance(value, (str, UUID)) or _is_whole(value)


_ID = Rule("text, a whole number or a UUID", _is_id, lambda value: id_text(value, "an id"))
_IDS = Rule(
    "ids, or one of them",
    lambda value: _is_id(value) or _many(_is_id)(value),
    lambda value: _ID.said(value) if _is_id(value) else [_ID.said(each) for each in value],
)

# None is what an optional field is without a value; it is never sent.
Text = Annotated[str | None, Rule("text", lambda value: isinstance(value, str))]
Id = Annotated[str | int | UUID | None, _ID]
IdOrIds = Annotated[str | int | UUID | Sequence[str | int | UUID] | None, _IDS]
SomeText = Annotated[str, Rule("text", lambda value: isinstance(value, str))]  # required
SomeId = Annotated[str | int | UUID, _ID]  # required
Number = Annotated[int | float | Decimal | None, Rule("a number", _is_number)]
Whole = Annotated[int | None, Rule("a whole number", _is_whole, int)]
Flag = Annotated[bool | None, Rule("True or False", lambda value: isinstance(value, bool))]
When = Annotated[
    str | date | datetime | None, Rule("text or a date", lambda v: isinstance(v, (str, date)))
]
Object = Annotated[
    Mapping[str, Any] | None, Rule("a mapping", lambda value: isinstance(value, Mapping), dict)
]
Texts = Annotated[
    Sequence[str] | None, Rule("a list of texts", _many(lambda v: isinstance(v, str)), list)
]
Objects = Annotated[
    Sequence[Mapping[str, Any]] | None,
    Rule("a list of mappings", _many(lambda v: isinstance(v, Mapping)), list),
]


class At:
    """Where a field goes, from the top of the message: `At("context.device.token")`.

    Without one it goes among the properties, under its own name.
    """

    def __init__(self, *paths: str) -> None:
        self.paths: tuple[Path, ...] = tuple(tuple(path.split(".")) for path in paths)


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a typed event."""

    name: str
    paths: tuple[Path, ...]
    rule: Rule
    required: bool


def _field(name: str, annotation: Any, *, required: bool) -> Field:
    paths: tuple[Path, ...] = (("properties", name),)
    rule = None
    if get_origin(annotation) is Annotated:
        annotation, *extra = get_args(annotation)
        for each in extra:
            paths = each.paths if isinstance(each, At) else paths
            rule = each if isinstance(each, Rule) else rule
    if rule is None:
        rule = _one_of(annotation)
    return Field(name, paths, rule, required)


def _one_of(annotation: Any) -> Rule:
    options = [each for each in (annotation, *get_args(annotation)) if get_origin(each) is Literal]
    choices = frozenset(get_args(options[0]))
    known = ", ".join(map(repr, sorted(choices)))
    return Rule(
        f"one of {known}",
        lambda value: isinstance(value, str) and value in choices,
        shown=lambda value: f"{value!r:.40}" if isinstance(value, str) else type(value).__name__,
    )


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Shape:
    """Some fields that belong together; made of keywords, checked at once, and then frozen.

    :raises ValidationError: for a wrong type, a missing field, or one that does not exist.
    """

    known: ClassVar[Mapping[str, Field]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        known: dict[str, Field] = {}
        for parent in reversed(cls.__mro__[1:]):
            known |= vars(parent).get("known", {})
        for name, annotation in inspect.get_annotations(cls).items():
            if get_origin(annotation) is not ClassVar:  # type: ignore[comparison-overlap] # it may
                known[name] = _field(name, annotation, required=name not in vars(cls))
        cls.known = known

    def __init__(self, **given: Any) -> None:
        self.__dict__.update(self.checked(given, complete=True))

    @classmethod
    def checked(cls, given: Mapping[str, Any], *, complete: bool = False) -> dict[str, Any]:
        """Return the fields that are given, as they are sent.

        Names of the caller's own are let through unless it is to be `complete`: then every name
        must be known, and what is required be there.
        """
        problems, said = [], {}
        for name, value in given.items():
            field = cls.known.get(name)
            if value is None:
                continue
            if field is None:
                said[name] = value
            elif field.rule.passes(value):
                said[name] = field.rule.said(value)
            else:
                problems.append(f"{name} must be {field.rule.what}, not {field.rule.shown(value)}")
        if complete:
            problems += [
                f"{name} is missing"
                for name, field in cls.known.items()
                if field.required and given.get(name) is None
            ]
            problems += [cls._strange(name) for name in given if name not in cls.known]
        if problems:
            raise ValidationError([f"{cls.__name__}: {problem}" for problem in problems])
        return said

    @classmethod
    def _strange(cls, name: str) -> str:
        from difflib import get_close_matches

        near = get_close_matches(name, cls.known, 1)
        hint = f": did you mean {near[0]}?" if near else "; what is your own goes in `properties`"
        return f"there is no {name}{hint}"

    def fields(self) -> dict[str, Any]:
        """Return the fields that have a value, by name."""
        return dict(self.__dict__)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: make another one")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    __hash__: ClassVar[None] = None  # type: ignore[assignment] # its fields may be lists

    def __repr__(self) -> str:
        told = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
        return f"{type(self).__name__}({told})"


def many_of(shape: type[Shape]) -> Rule:
    """Return the rule for a list of shapes, or of mappings that have their fields."""
    return Rule(
        f"a list of {shape.__name__} or of mappings",
        _many(lambda value: isinstance(value, (shape, Mapping))),
        lambda values: [
            shape.checked(each.fields() if isinstance(each, Shape) else each) for each in values
        ],
    )


class SemanticEvent(Shape):
    """An event that destinations know by its name, to be given to `track` in place of one.

    >>> composer.track("u-17", OrderCompleted(order_id="o-1", total=12.5))  # doctest: +SKIP

    A class of your own makes your event a typed one, `class Paid(SemanticEvent, event="Paid")`.
    """

    event_name: ClassVar[str] = ""
    needs: ClassVar[Needs] = "either"
    action: ClassVar[bool] = False
    extras: ClassVar[Path] = ("properties",)

    def __init_subclass__(
        cls,
        *,
        event: str = "",
        needs: Needs | None = None,
        extras: Path | None = None,
        action: bool | None = None,
        **kwargs: Any,
    ) -> None:
        cls.event_name = event
        cls.needs = cls.needs if needs is None else needs
        cls.extras = cls.extras if extras is None else extras
        cls.action = cls.action if action is None else action
        super().__init_subclass__(**kwargs)

    def placed(self, extra: Mapping[str, Any]) -> Iterator[tuple[Path, Any]]:
        """Yield each value with its path from the top of the message, `extra` first."""
        for name, value in extra.items():
            yield (*self.extras, name), value
        for name, value in self.__dict__.items():
            for path in self.known[name].paths:
                yield path, value


def place(message: dict[str, Any], path: Path, value: Any) -> None:
    """Put a value at a path from the top of a message; objects on the way are copied first."""
    *outer, last = path
    for name in outer:
        inner = message.get(name)
        message[name] = dict(mapping(inner, name)) if inner is not None else {}
        message = message[name]
    message[last] = value
