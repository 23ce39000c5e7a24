"""The arguments of tools: a JSON Schema derived from each method, and validation."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, NamedTuple, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from mixpanel._agents.errors import ToolFailure
from mixpanel.data._queries.discovery_responses import similar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Tool", "tool_of_method", "validated"]

HIDDEN = ("self", "progress")  # parameters that the model does not pass
MAX_PROBLEMS = 5


class Tool(NamedTuple):
    """A tool: its name, title, description and arguments, and the hints of MCP about it.

    `writes` is True if it changes the local database, `open_world` if it calls Mixpanel.
    """

    name: str
    title: str
    description: str
    arguments: type[BaseModel]
    writes: bool
    open_world: bool

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the arguments, without redundant parts."""
        found: dict[str, Any] = _compact(self.arguments.model_json_schema())
        return {"type": "object", "properties": {}, **found, "additionalProperties": False}


def tool_of_method(
    method: Callable[..., Any], title: str, names: Mapping[str, Any], *, writes: bool, closed: bool
) -> Tool:
    """Return the tool of a method; `names` is the namespace of its annotations."""
    hints = get_type_hints(method, globalns=dict(names), include_extras=True)
    fields: dict[str, Any] = {
        parameter.name: (
            hints[parameter.name],
            ... if parameter.default is parameter.empty else parameter.default,
        )
        for parameter in inspect.signature(method).parameters.values()
        if parameter.name not in HIDDEN
    }
    model = create_model(method.__name__, __config__=ConfigDict(extra="forbid"), **fields)
    description = " ".join(inspect.cleandoc(method.__doc__ or "").split())
    return Tool(method.__name__, title, description, model, writes, not closed)


def validated(tool: Tool, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with their defaults.

    :raises ToolFailure: naming each that is unknown, missing or wrong.
    """
    try:
        model = tool.arguments.model_validate(dict(arguments))
    except ValidationError as error:
        known = list(tool.arguments.model_fields)
        wrong = [_problem(each, known) for each in error.errors()[:MAX_PROBLEMS]]
        step = f"{tool.name} takes {', '.join(known) or 'no arguments'}"
        raise ToolFailure("INVALID_ARGUMENT", "; ".join(wrong), step) from None
    return {name: getattr(model, name) for name in tool.arguments.model_fields}


def _problem(error: Any, known: list[str]) -> str:
    name = ".".join(map(str, error["loc"]))[:80]
    if error["type"] == "extra_forbidden":
        close = similar(name, known)
        return f"there is no argument {name}" + (f"; did you mean {close[0]}?" if close else "")
    if error["type"] == "missing":
        return f"{name} is missing"
    message = error["msg"].replace("Input should", "should").replace("String should", "should")
    return f"{name} {message[:1].lower()}{message[1:200]}"


def _compact(schema: Any) -> Any:
    """Return a JSON Schema without titles, empty defaults, and null as an alternative."""
    if isinstance(schema, list):
        return [_compact(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {}
    for name, value in schema.items():
        if name == "title" and isinstance(value, str):
            continue
        if name == "default" and value in (None, "", [], {}):
            continue
        found[name] = (
            {key: _compact(inner) for key, inner in value.items()}
            if name == "properties"
            else _compact(value)
        )
    options = [each for each in found.get("anyOf", ()) if each != {"type": "null"}]
    if len(options) == 1:
        del found["anyOf"]
        found = {**options[0], **found}
    return found
