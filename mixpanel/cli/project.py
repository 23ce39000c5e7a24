"""`mp project …`: what a project has saved. Its commands are made from the library's table."""

import inspect
import json
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from mixpanel._runtime.checked_files import read_at_most
from mixpanel.cli._options.live import LiveCommand, live_options
from mixpanel.cli._options.shared import with_options
from mixpanel.cli._output.format import write
from mixpanel.cli._output.terminal import ForceOption, confirm_or_abort, say
from mixpanel.cli.app import Command, Subgroup, unwrapped
from mixpanel.data._project.arguments import bound
from mixpanel.data._project.calls import PreparedCall
from mixpanel.data._project.resources import RESOURCES
from mixpanel.data._project.table import Endpoint, Field, Resource

if TYPE_CHECKING:
    from mixpanel.data.workspace import AsyncWorkspace

HELP = """
Each kind of objects is a group of its own, with list, get, create, update and delete where the API
has them; the lexicon is `events`, `properties` and `tags`. None of the commands costs one of the
hourly queries. What cannot be undone asks first, and --dry-run shows what would be sent. JSON is
given as text, as @FILE, or as - for stdin.
"""
EXAMPLE = "mp project dashboards list"
MAX_BYTES = 128 * 1024 * 1024
COLUMNS = 6  # of a table
LEFT_OUT = {"project_id", "workspace_id", "creator_id", "creator_name", "description", "token"}
METAVARS = {
    "integer": "N", "number": "N", "document": "JSON", "items": "JSON", "day": "DAY",
    "time": "TIME", "timestamp": "TIME", "id": "ID", "ids": "ID", "text": "TEXT", "texts": "TEXT",
}  # fmt: skip
# The names of options that all of `mp` uses.
SHORT = {"from_date": ["--from"], "to_date": ["--to"]}


class Listed(list[Any]):
    """Objects, whose table shows the fields that are short and set."""

    def to_table_dict(self) -> list[dict[str, Any]]:
        """Return the rows of the table."""
        fields = [*type(self[0]).model_fields] if self else []
        names = [
            name
            for name in fields
            # What is empty or False in all of them says nothing.
            if name not in LEFT_OUT and any(_cell(getattr(each, name, None)) for each in self)
        ][:COLUMNS]
        rows = [{name: _cell(getattr(each, name, None)) for name in names} for each in self]
        return rows if names else [each.to_dict() for each in self]


def _cell(value: Any) -> Any:
    return None if isinstance(value, dict | list | tuple) else value


# ---- options ------------------------------------------------------------------------------------


def _read(text: str, what: str) -> str:
    """Return the text of an argument: itself, that of `@FILE`, or stdin for `-`.

    :raises typer.BadParameter: if the file cannot be read.
    """
    try:
        if text == "-":
            return sys.stdin.read()
        if text.startswith("@"):
            return read_at_most(Path(text[1:]), MAX_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise typer.BadParameter(f"{what}: cannot read {text}: {reason}") from error
    return text


def _json(text: str, what: str) -> Any:
    content = _read(text, what)
    try:
        return json.loads(content)
    except ValueError as error:
        raise typer.BadParameter(f"{what} is not valid JSON: {error}") from error


def _number(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _parsed(known: Field, value: Any) -> Any:
    """Return the value of an option as the library takes it."""
    option = _option(known)
    match known.kind:
        case "document" | "items":
            return _json(value, option)
        case "id":
            return _number(value)
        case "ids":
            return [_number(each) for text in value for each in text.split(",") if each.strip()]
        case "text" if known.name == "csv":
            return _read(value, option)
        case "text" if known.is_secret and not known.env:
            if value != "-" and not value.startswith("@"):
                raise typer.BadParameter(
                    f"{option}: pass it as @FILE, or as - for stdin: others can read the arguments "
                    "of a command"
                )
            return _read(value, option).rstrip("\r\n")
    return value


def _option(known: Field) -> str:
    return known.name.upper() if known.positional else f"--{known.name.replace('_', '-')}"


def _parameter(known: Field) -> inspect.Parameter:
    """Return the parameter of a command for a field, as Typer reads it."""
    types: dict[str, Any] = {"integer": int, "number": float, "boolean": bool}
    is_list = known.kind in ("ids", "texts")
    kind: Any = list[str] if is_list else types.get(known.kind, str)
    choices = f" One of {', '.join(known.choices)}." if known.choices else ""
    help_text = f"{known.help}{choices}"
    default: Any = None
    if known.positional:
        metavar = known.name.upper().removesuffix("S") if is_list else known.name.upper()
        declared: Any = typer.Argument(metavar=metavar, show_default=False, help=help_text)
        default = inspect.Parameter.empty
    else:
        kind = Optional[kind]  # noqa: UP045 - Typer takes no union made at run time
        name = f"--{known.name.replace('_', '-')}"
        names = [f"{name}/--no{name[1:]}"] if known.kind == "boolean" else [name]
        names += SHORT.get(known.name, [])
        more: dict[str, Any] = {"envvar": known.env} if known.env else {}
        if known.kind != "boolean":
            more["metavar"] = METAVARS[known.kind]
        if is_list:
            help_text += " Repeatable."
        if known.required and not known.env:
            help_text += " Required."
        if known.is_secret and not known.env:
            help_text += " As @FILE, or - for stdin."
        declared = typer.Option(*names, show_default=False, help=help_text, **more)
    return inspect.Parameter(
        known.name,
        inspect.Parameter.POSITIONAL_OR_KEYWORD
        if known.positional
        else inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, declared],
    )


WriteOptions = {
    "extra": Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--json", metavar="JSON", show_default=False,
            help="Fields as a JSON object, also those without an option here.",
        ),
    ],
    "dry_run": Annotated[bool, typer.Option("--dry-run", help="Show what would be sent.")],
}  # fmt: skip


# ---- commands -----------------------------------------------------------------------------------


def _run(resource: Resource, endpoint: Endpoint, live: LiveCommand, values: dict[str, Any]) -> None:
    """Call an endpoint with the values of a command's options."""
    confirm = bool(values.pop("confirm", False))
    dry_run = bool(values.pop("dry_run", False))
    text = values.pop("extra", None)
    fields = {each.name: each for each in endpoint.arguments}
    given = {
        name: _parsed(fields[name], value)
        for name, value in values.items()
        if value is not None and value != []
    }
    extra: dict[str, Any] = {}
    if text is not None:
        extra = _named(endpoint, _json(text, "--json"), given)
    checked = bound(endpoint, f"{resource.name}.{endpoint.name}", (), given)
    if dry_run:
        live.run(
            lambda ws: getattr(ws.project, resource.name).plan(
                endpoint.name, extra=extra or None, **given
            )
        )
        return
    is_dangerous = PreparedCall(resource, endpoint, "", checked).is_dangerous
    if is_dangerous:
        which = " ".join(str(given[each.name]) for each in endpoint.arguments if each.positional)
        what = f"{resource.singular} {which}".rstrip()
        does = endpoint.summary[0].lower() + endpoint.summary[1:]
        question = f"{what}: {does} This cannot be undone. Continue?"
        confirm_or_abort(question, force=confirm, option="--yes")

    async def call(workspace: "AsyncWorkspace") -> Any:
        calls = workspace.project._calls
        return await calls.call(
            resource, endpoint, (), given, confirm=is_dangerous, extra=extra or None
        )

    _print(live, live.result_of(call), endpoint)


def _named(endpoint: Endpoint, content: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Add the fields of `--json` that are known to `given`, and return the others.

    :raises typer.BadParameter: if it is not an object.
    """
    if not isinstance(content, dict):
        raise typer.BadParameter("--json must be a JSON object")
    known = {each.name: each.name for each in endpoint.arguments if not each.positional}
    known |= {
        endpoint.name_in_requests(each): each.name
        for each in endpoint.arguments
        if not each.positional
    }
    for name, value in content.items():
        if name in known:
            given.setdefault(known[name], value)
    return {name: value for name, value in content.items() if name not in known}


def _print(live: LiveCommand, result: Any, endpoint: Endpoint) -> None:
    if result is None and endpoint.returns == "nothing":
        say("Done.", "dim")
    elif isinstance(result, str) and live.output.requested is None and live.output.jq is None:
        typer.echo(result, nl=not result.endswith("\n"))
    elif isinstance(result, list) and result and hasattr(result[0], "to_dict"):
        write(Listed(result), live.output)
    else:
        write([] if result is None else result, live.output)


def _function(resource: Resource, endpoint: Endpoint) -> Callable[..., None]:
    """Return the command of an endpoint, with its options."""

    def run(*, live: LiveCommand, **values: Any) -> None:
        _run(resource, endpoint, live, values)

    parameters = [_parameter(each) for each in endpoint.arguments]
    kinds = inspect.Parameter
    if endpoint.is_write and not endpoint.in_list:
        parameters += [
            kinds(
                name, kinds.KEYWORD_ONLY, annotation=annotation,
                default=False if name == "dry_run" else None,
            )
            for name, annotation in WriteOptions.items()
        ]  # fmt: skip
    if endpoint.danger:
        parameters.append(
            kinds("confirm", kinds.KEYWORD_ONLY, annotation=ForceOption, default=False)
        )
    parameters.append(kinds("live", kinds.KEYWORD_ONLY, annotation=LiveCommand))
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__doc__ = endpoint.summary
    run.__name__ = endpoint.name
    return with_options(live=live_options)(run)


def _example(resource: Resource, endpoint: Endpoint) -> str:
    name = endpoint.name.replace("_", "-")
    yes = "--yes" if endpoint.danger is True else ""
    return " ".join(filter(None, ["mp project", resource.command, name, endpoint.example, yes]))


def _commands(resource: Resource) -> "Iterable[Command]":
    return [
        (each.name.replace("_", "-"), _function(resource, each), _example(resource, each))
        for each in resource
    ]


@with_options(live=live_options)
def me(*, live: LiveCommand) -> None:
    """Show who the credentials belong to, and what they may use."""
    live.run(lambda ws: ws.project.me())


COMMANDS: "tuple[Command | Subgroup, ...]" = (
    ("me", me, "mp project me"),
    *(
        Subgroup(
            resource.command,
            unwrapped(resource.summary),
            _example(resource, next(iter(resource))),
            partial(_commands, resource),
        )
        for resource in RESOURCES
    ),
)
