"""The machinery of typed events: fields with a type, and with a path in the message."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from numbers import Integral, Real
from typing import Annotated, Any, ClassVar, Literal, dataclass_transform, get_args, get_origin
from uuid import UUID

from mixpanel._records.record import checked_mapping
from mixpanel.cdp._segment.values import id_text
from mixpanel.exceptions import ValidationError

__all__ = [
    "At",
    "Bool",
    "DateOrText",
    "Field",
    "Id",
    "IdOrIds",
    "Int",
    "Needs",
    "Number",
    "Object",
    "Objects",
    "RequiredId",
    "RequiredText",
    "SemanticEvent",
    "Text",
    "Texts",
    "TypedModel",
    "WholeNumber",
    "list_of",
    "set_path",
]

Path = tuple[str, ...]
Needs = Literal["either", "user", "placeholder", "none"]
"""The ids that an event requires: a user id or an anonymous id, a user id, any id (a placeholder
is filled in), or none."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A type of field: its description, the values it accepts, and how they are converted."""

    description: str
    accepts: Callable[[Any], bool]
    convert: Callable[[Any], Any] = lambda value: value
    describe_value: Callable[[Any], str] = lambda value: type(value).__name__


def _sequence_of(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    # Text is a sequence too, but a list of letters is never what a caller means.
    return lambda value: (
        isinstance(value, Sequence) and not _is_text(value) and all(map(accepts, value))
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, (str, bytes, bytearray))


def _is_number(value: Any) -> bool:
    return isinstance(value, (Real, Decimal)) and not isinstance(value, bool)


def _is_int(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_digits(value: Any) -> bool:
    return isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20


def _is_id(value: Any) -> bool:
    return isinstance(value, (str, UUID)) or _is_int(value)


_ID = Rule("text, a whole number or a UUID", _is_id, lambda value: id_text(value, "an id"))
_IDS = Rule(
    "an id or a list of ids",
    lambda value: _is_id(value) or _sequence_of(_is_id)(value),
    lambda value: _ID.convert(value) if _is_id(value) else [_ID.convert(each) for each in value],
)

# An optional field defaults to None and is not sent then.
Text = Annotated[str | None, Rule("text", lambda value: isinstance(value, str))]
Id = Annotated[str | int | UUID | None, _ID]
IdOrIds = Annotated[str | int | UUID | Sequence[str | int | UUID] | None, _IDS]
RequiredText = Annotated[str, Rule("text", lambda value: isinstance(value, str))]
RequiredId = Annotated[str | int | UUID, _ID]
Number = Annotated[int | float | Decimal | None, Rule("a number", _is_number)]
Int = Annotated[int | None, Rule("a whole number", _is_int, int)]
WholeNumber = Annotated[
    int | str | None,
    Rule("a whole number", lambda value: _is_int(value) or _is_digits(value), int),
]
Bool = Annotated[bool | None, Rule("True or False", lambda value: isinstance(value, bool))]
DateOrText = Annotated[
    str | date | datetime | None, Rule("text or a date", lambda v: isinstance(v, (str, date)))
]
Object = Annotated[
    Mapping[str, Any] | None, Rule("a mapping", lambda value: isinstance(value, Mapping), dict)
]
Texts = Annotated[
    Sequence[str] | None,
    Rule("a list of texts", _sequence_of(lambda v: isinstance(v, str)), list),
]
Objects = Annotated[
    Sequence[Mapping[str, Any]] | None,
    Rule("a list of mappings", _sequence_of(lambda v: isinstance(v, Mapping)), list),
]


class At:
    """The path of a field, from the top of the message: `At("context.device.token")`.

    A field without one is a property with the field's own name. With several paths, the value is
    sent at each of them.
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
        annotation, *metadata = get_args(annotation)
        for each in metadata:
            paths = each.paths if isinstance(each, At) else paths
            rule = each if isinstance(each, Rule) else rule
    if rule is None:
        rule = _literal_rule(annotation)
    return Field(name, paths, rule, required)


def _literal_rule(annotation: Any) -> Rule:
    literals = [each for each in (annotation, *get_args(annotation)) if get_origin(each) is Literal]
    choices = frozenset(get_args(literals[0]))
    return Rule(
        f"one of {', '.join(map(repr, sorted(choices)))}",
        lambda value: isinstance(value, str) and value in choices,
        describe_value=lambda value: (
            f"{value!r:.40}" if isinstance(value, str) else type(value).__name__
        ),
    )


@dataclass_transform(kw_only_default=True, frozen_default=True)
class TypedModel:
    """A frozen group of fields, created from keywords and validated at once.

    :raises ValidationError: for a wrong type, a missing required field, or an unknown field.
    """

    schema: ClassVar[Mapping[str, Field]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        schema: dict[str, Field] = {}
        for parent in reversed(cls.__mro__[1:]):
            schema |= vars(parent).get("schema", {})
        for name, annotation in inspect.get_annotations(cls).items():
            if get_origin(annotation) is not ClassVar:  # type: ignore[comparison-overlap] # it may
                schema[name] = _field(name, annotation, required=name not in vars(cls))
        cls.schema = schema

    def __init__(self, **given: Any) -> None:
        self.__dict__.update(self.validate(given, complete=True))

    @classmethod
    def validate(cls, given: Mapping[str, Any], *, complete: bool = False) -> dict[str, Any]:
        """Return the given fields as they are sent, without those that are None.

        :param complete: require the required fields and reject unknown ones. Otherwise unknown
            names pass unchanged.
        :raises ValidationError: naming every problem.
        """
        problems, converted = [], {}
        for name, value in given.items():
            field = cls.schema.get(name)
            if value is None:
                continue
            if field is None:
                converted[name] = value
            elif field.rule.accepts(value):
                converted[name] = field.rule.convert(value)
            else:
                rule = field.rule
                problems.append(
                    f"{name} must be {rule.description}, not {rule.describe_value(value)}"
                )
        if complete:
            problems += [
                f"{name} is missing"
                for name, field in cls.schema.items()
                if field.required and given.get(name) is None
            ]
            problems += [cls._unknown_field(name) for name in given if name not in cls.schema]
        if problems:
            raise ValidationError([f"{cls.__name__}: {problem}" for problem in problems])
        return converted

    @classmethod
    def _unknown_field(cls, name: str) -> str:
        from difflib import get_close_matches

        near = get_close_matches(name, cls.schema, 1)
        hint = f"did you mean {near[0]}?" if near else "pass your own fields in `properties`"
        return f"unknown field {name}; {hint}"

    def fields(self) -> dict[str, Any]:
        """Return the fields that have a value, by name."""
        return dict(self.__dict__)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: create a new one instead")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    __hash__: ClassVar[None] = None  # type: ignore[assignment] # its fields may be lists

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
        return f"{type(self).__name__}({fields})"


def list_of(model: type[TypedModel]) -> Rule:
    """Return the rule for a list of models, or of mappings with the model's fields."""
    return Rule(
        f"a list of {model.__name__} or of mappings",
        _sequence_of(lambda value: isinstance(value, (model, Mapping))),
        lambda values: [
            model.validate(each.fields() if isinstance(each, TypedModel) else each)
            for each in values
        ],
    )


class SemanticEvent(TypedModel):
    """An event that destinations know by its name; pass it to `track` instead of a name.

    >>> composer.track("u-17", OrderCompleted(order_id="o-1", total=12.5))  # doctest: +SKIP

    Subclass it to give your own events types: `class Paid(SemanticEvent, event="Paid")`.

    `needs` tells which ids the event requires. `action` marks the events that Customer.io acts on
    instead of recording them. Properties passed to `track` beside the event are put at `extras`.
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

    def with_paths(self, extra: Mapping[str, Any]) -> Iterator[tuple[Path, Any]]:
        """Yield each value with its path from the top of the message, `extra` first.

        Fields come last because they take precedence over extra properties of the same name.
        """
        for name, value in extra.items():
            yield (*self.extras, name), value
        for name, value in self.__dict__.items():
            for path in self.schema[name].paths:
                yield path, value


def set_path(message: dict[str, Any], path: Path, value: Any) -> None:
    """Set a value at a path from the top of a message, copying the objects along the path."""
    *outer, last = path
    for name in outer:
        inner = message.get(name)
        message[name] = dict(checked_mapping(inner, name)) if inner is not None else {}
        message = message[name]
    message[last] = value
