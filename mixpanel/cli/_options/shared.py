"""Options that several commands share, declared once."""

import csv
import functools
import inspect
from collections.abc import Callable
from typing import Any

import typer


def with_options(
    **factories: Callable[..., Any],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the options that each factory declares to a command, and pass it what they return.

    A factory declares options in its signature, as a command does, and returns one object made of
    them, which the command takes as the keyword argument of that name:

        @with_options(source=source_options, output=output_options)
        def ping(*, source: Source, output: OutputOptions) -> None: ...
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command)
        own = [each for name, each in signature.parameters.items() if name not in factories]
        added = {
            name: list(inspect.signature(factory).parameters.values())
            for name, factory in factories.items()
        }

        @functools.wraps(command)
        def run(**values: Any) -> None:
            made = {
                name: factories[name](**{each.name: values[each.name] for each in parameters})
                for name, parameters in added.items()
            }
            command(**{each.name: values[each.name] for each in own}, **made)

        # Typer reads the options from the signature of what it is given.
        parameters = [*own, *(each for group in added.values() for each in group)]
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return decorate


def refuse_together(options: dict[str, Any]) -> None:
    """Refuse more than one of these options, given as names and values.

    :raises typer.BadParameter: if two or more of them have a value.
    """
    if len(given(options)) > 1:
        raise typer.BadParameter(f"{' and '.join(options)} cannot be used together")


def require_with(option: str, value: Any, others: dict[str, Any]) -> None:
    """Refuse an option that works only together with one of the others.

    :raises typer.BadParameter: if it has a value and none of the others has.
    """
    if given({option: value}) and not given(others):
        raise typer.BadParameter(f"{option} needs {' or '.join(others)}")


def given(options: dict[str, Any]) -> list[str]:
    """Return the names of the options that have a value."""
    return [name for name, value in options.items() if value not in (None, False, [])]


def argument_or_option(name: str, argument: Any, option: Any) -> Any:
    """Return a value that can be given as an argument or as an option.

    :raises typer.BadParameter: if it is missing, or both are given and differ.
    """
    if argument is not None and option is not None and argument != option:
        raise typer.BadParameter(f"{name} is given twice: {argument} and {option}")
    value = argument or option
    if not value:
        raise typer.BadParameter(f"{name} is missing")
    return value


def parse_names(context: typer.Context, values: list[str] | None) -> list[str] | None:
    """Split the names of an option at commas; a name with a comma is quoted, as in CSV.

    :raises typer.BadParameter: for an unclosed quote.
    """
    if not values or context.resilient_parsing:
        return values
    try:
        rows = [next(csv.reader([each], skipinitialspace=True, strict=True), []) for each in values]
    except csv.Error as error:
        raise typer.BadParameter(f"unclosed quote: {', '.join(values)}") from error
    return [name.strip() for row in rows for name in row if name.strip()]
