"""Options that several commands share, declared once."""

import functools
import inspect
from collections.abc import Callable
from typing import Any


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
        raise _bad_parameter(f"{' and '.join(options)} cannot be used together")


def require_with(option: str, value: Any, others: dict[str, Any]) -> None:
    """Refuse an option that works only together with one of the others.

    :raises typer.BadParameter: if it has a value and none of the others has.
    """
    if given({option: value}) and not given(others):
        raise _bad_parameter(f"{option} needs {' or '.join(others)}")


def given(options: dict[str, Any]) -> list[str]:
    """Return the names of the options that have a value."""
    return [name for name, value in options.items() if value not in (None, False, [])]


def _bad_parameter(message: str) -> Exception:
    import typer

    return typer.BadParameter(message)
