"""The words of the table of endpoints: fields, endpoints and resources. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mixpanel.data.project import ProjectObject

__all__ = [
    "Endpoint",
    "Field",
    "Kind",
    "Resource",
    "boolean",
    "changing",
    "choice",
    "creating",
    "day",
    "deleting",
    "document",
    "getting",
    "ids",
    "integer",
    "items",
    "listing",
    "number",
    "object_id",
    "text",
    "texts",
    "time",
    "timestamp",
]  # fmt: skip

Kind = Literal[
    "text", "integer", "number", "boolean", "document", "items", "texts", "ids", "id", "day",
    "time", "timestamp",
]  # fmt: skip
Place = Literal["body", "query", "path", "none"]
Returns = Literal["object", "list", "nothing", "value"]
PLACEHOLDER = re.compile(r"\{(\w+)\}")
# Filled in from the workspace, not from arguments.
KNOWN_PLACEHOLDERS = frozenset({"scope", "project", "view"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One argument of an endpoint: its name, what it accepts and where it is sent."""

    name: str
    kind: Kind
    help: str
    required: bool = False
    alias: str = ""
    choices: tuple[str, ...] = ()
    place: Place = "body"
    positional: bool = False
    is_secret: bool = False
    env: str = ""  # an environment variable with the default
    joined: bool = False  # several values are sent as one text with commas
    as_text: bool = False  # lists and objects are sent as JSON text


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One call of the app API.

    `path` is below `/api/app/`. `inside` are the keys below `results` that lead to the object. With
    `merge`, a change is sent with the fields that the object has already, because the server
    replaces it as a whole. `danger` is True for what cannot be undone, or names the fields that
    make it so. `body` makes the JSON of the fields, where that is not simply an object of them.
    `run` replaces the call by several.
    """

    name: str
    method: str
    path: str
    summary: str
    fields: tuple[Field, ...] = ()
    returns: Returns = "object"
    model: type[ProjectObject] | None = None
    inside: tuple[str, ...] = ()
    constant: Mapping[str, Any] = field(default_factory=dict)
    query: Mapping[str, Any] = field(default_factory=dict)
    form: bool = False
    camel: bool = False
    merge: bool = False
    danger: bool | tuple[str, ...] = False
    body: Callable[[dict[str, Any]], Any] | None = None
    run: Callable[..., Any] | None = None
    in_list: bool = False  # there is no call for one object: it is looked up in the list
    fallback: str = ""
    fallback_inside: tuple[str, ...] = ()
    cursor: str = "cursor"
    example: str = ""

    @property
    def is_write(self) -> bool:
        """True if the call changes something, or may."""
        return self.method != "GET" or (self.run is not None and self.danger is not False)

    @property
    def arguments(self) -> list[Field]:
        """Return all fields, those of the path included, in the order in which they are passed."""
        named = {each.name: each for each in self.fields}
        in_path = [
            named.get(name) or object_id(name, place="path", positional=True, required=True)
            for name in PLACEHOLDER.findall(self.path)
            if name not in KNOWN_PLACEHOLDERS
        ]
        known = {each.name for each in in_path}
        rest = [each for each in self.fields if each.name not in known]
        ordered = [*in_path, *rest]
        return sorted(ordered, key=lambda each: not each.positional)

    def name_in_requests(self, known: Field) -> str:
        """Return the name under which a field is sent."""
        if known.alias:
            return known.alias
        if not self.camel:
            return known.name
        first, *rest = known.name.split("_")
        return first + "".join(word.capitalize() for word in rest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A kind of object: its name, its model and its endpoints."""

    name: str
    singular: str
    summary: str
    model: type[ProjectObject]
    endpoints: tuple[Endpoint, ...]
    key: str = "id"  # what identifies an object in a list
    sample: str = ""  # an id for the example of a `get` that looks in the list

    def __iter__(self) -> Iterator[Endpoint]:
        """Iterate over the endpoints, with a `get` for what can be listed only."""
        names = {each.name for each in self.endpoints}
        for each in self.endpoints:
            yield each
            if each.name == "list" and "get" not in names and self.key:
                yield self._found_in_list(each)

    def _found_in_list(self, listed: Endpoint) -> Endpoint:
        which = object_id(self.key, f"Its {self.key}.", positional=True, required=True)
        example = next((each.example for each in self.endpoints if each.name == "update"), "")
        example = self.sample or example.partition(" --")[0]
        return Endpoint(
            name="get", method="GET", path=listed.path, summary=f"Show one {self.singular}.",
            fields=(which,), in_list=True, example=example,
        )  # fmt: skip

    def find(self, name: str) -> Endpoint | None:
        """Return the endpoint of a name, None if there is none."""
        return next((each for each in self if each.name == name), None)

    @property
    def command(self) -> str:
        """The name of the group in `mp project`."""
        return self.name.replace("_", "-")


# ---- fields -------------------------------------------------------------------------------------


def text(name: str, help: str, **more: Any) -> Field:  # noqa: A002 - as Typer calls it
    """Return a field of text."""
    return Field(name=name, kind="text", help=help, **more)


def choice(name: str, choices: tuple[str, ...], help: str, **more: Any) -> Field:  # noqa: A002
    """Return a field with one of these values."""
    return Field(name=name, kind="text", help=help, choices=choices, **more)


def integer(name: str, help: str, **more: Any) -> Field:  # noqa: A002
    """Return a field with a whole number."""
    return Field(name=name, kind="integer", help=help, **more)


def number(name: str, help: str, **more: Any) -> Field:  # noqa: A002
    """Return a field with a number."""
    return Field(name=name, kind="number", help=help, **more)


def boolean(name: str, help: str, **more: Any) -> Field:  # noqa: A002
    """Return a field that is true or false."""
    return Field(name=name, kind="boolean", help=help, **more)


def document(name: str, help: str, **more: Any) -> Field:  # noqa: A002
    """Return a field with a JSON object."""
    return Field(name=name, kind="document", help=help, **more)


def items(name: str, help: str, **more: Any) -> Field:  # noqa: A002
    """Return a field with a JSON array."""
    return Field(name=name, kind="items", help=help, **more)


def texts(name: str, help: str, **more: Any) -> Field:  # noqa: A002
    """Return a field with several texts."""
    return Field(name=name, kind="texts", help=help, **more)


def ids(name: str, help: str, **more: Any) -> Field:  # noqa: A002
    """Return a field with the ids of several objects."""
    return Field(name=name, kind="ids", help=help, **more)


def object_id(name: str = "id", help: str = "Its id.", **more: Any) -> Field:  # noqa: A002
    """Return a field with the id of one object."""
    return Field(name=name, kind="id", help=help, **more)


def day(name: str, help: str, **more: Any) -> Field:  # noqa: A002
    """Return a field with a day."""
    return Field(name=name, kind="day", help=help, **more)


def time(name: str, help: str, **more: Any) -> Field:  # noqa: A002
    """Return a field with a time of the project's timezone."""
    return Field(name=name, kind="time", help=help, **more)


def timestamp(name: str, help: str, **more: Any) -> Field:  # noqa: A002
    """Return a field with a point in time, in ISO 8601."""
    return Field(name=name, kind="timestamp", help=help, **more)


# ---- the usual endpoints ------------------------------------------------------------------------


def listing(path: str, summary: str, *fields: Field, **more: Any) -> Endpoint:
    """Return the endpoint that lists objects; its fields are sent in the query."""
    filters = tuple(replace(each, place="query") for each in fields)
    known = {"name": "list", "returns": "list", **more}
    return Endpoint(method="GET", path=path, summary=summary, fields=filters, **known)


def getting(path: str, summary: str, **more: Any) -> Endpoint:
    """Return the endpoint that reads one object."""
    return Endpoint(name="get", method="GET", path=path, summary=summary, **more)


def creating(path: str, summary: str, *fields: Field, **more: Any) -> Endpoint:
    """Return the endpoint that creates an object."""
    known = {"name": "create", "method": "POST", **more}
    return Endpoint(path=path, summary=summary, fields=fields, **known)


def changing(path: str, summary: str, *fields: Field, **more: Any) -> Endpoint:
    """Return the endpoint that changes an object."""
    known = {"name": "update", "method": "PATCH", **more}
    return Endpoint(path=path, summary=summary, fields=fields, **known)


def deleting(path: str, summary: str, *fields: Field, **more: Any) -> Endpoint:
    """Return the endpoint that deletes an object."""
    known = {"name": "delete", "method": "DELETE", "returns": "nothing", "danger": True, **more}
    return Endpoint(path=path, summary=summary, fields=fields, **known)
