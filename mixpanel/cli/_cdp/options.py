"""Declare once the options that many commands of `mp cdp` share.

A function declares them in its signature and makes one object of them; a command names it, and
gets that object in place of the options:

    @sharing(source=of_source)
    def ping(*, source: Source) -> None: ...
"""

import functools
import inspect
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from mixpanel._runtime.checked_files import read_at_most
from mixpanel.cli._cdp.input import standard_input
from mixpanel.cli._output.format import As, Format, Jq, Options

MOST_BYTES = 16_000_000  # of @FILE; a message has at most 500 KB
SECONDS = re.compile(r"\d{9,}(\.\d+)?")  # a shorter number may be a date, as 20260131


def sharing(**makers: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command take the options of these functions too, and be given what they return."""

    def shared(command: Callable[..., None]) -> Callable[..., None]:
        whole = inspect.signature(command)
        own = [each for name, each in whole.parameters.items() if name not in makers]
        theirs = {
            name: list(inspect.signature(maker).parameters.values())
            for name, maker in makers.items()
        }

        @functools.wraps(command)
        def run(**given: Any) -> None:
            made = {
                name: makers[name](**{each.name: given[each.name] for each in options})
                for name, options in theirs.items()
            }
            command(**{each.name: given[each.name] for each in own}, **made)

        parameters = [*own, *(each for options in theirs.values() for each in options)]
        run.__signature__ = whole.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return shared


# ---- what is typed as text ----------------------------------------------------------------------


def json_object(text: str) -> dict[str, Any]:
    """Read an object from JSON, from `@FILE`, or from stdin when it is `-`."""
    if text == "-":
        source, where = standard_input().read(), "stdin"
    elif text.startswith("@"):
        source, where = _content(Path(text[1:]).expanduser()), text[1:]
    else:
        source, where = text.encode("utf-8", "surrogateescape"), "this"
    try:
        value = json.loads(source.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError) as error:
        hint = "; single quotes around it keep the shell away" if where == "this" else ""
        raise typer.BadParameter(f"{where} is no JSON: {error}{hint}") from error
    if not isinstance(value, dict):
        raise typer.BadParameter(f'{where} must be an object, such as {{"plan": "team"}}')
    return value


def text_or_file(text: str) -> str:
    """Return a text as it is, or the content of `@FILE`."""
    if not text.startswith("@"):
        return text
    return _content(Path(text[1:]).expanduser()).decode("utf-8", "replace")


def moment(text: str) -> str | float:
    """Return a moment: ISO 8601, or seconds or milliseconds since 1970."""
    from mixpanel.cdp._segment.values import timestamp_text
    from mixpanel.exceptions import ValidationError

    value = float(text) if SECONDS.fullmatch(text) else text
    try:
        timestamp_text(value)
    except ValidationError as error:
        raise typer.BadParameter(
            f"{text!r} must be ISO 8601, or seconds or milliseconds since 1970"
        ) from error
    return value


def _content(path: Path) -> bytes:
    try:
        return read_at_most(path, MOST_BYTES)
    except OSError as error:
        raise typer.BadParameter(f"cannot read {path}: {error.strerror}") from error


def json_option(help: str) -> Any:  # noqa: A002 - as Typer calls it
    """Declare an option that takes a JSON object."""
    return typer.Option(parser=json_object, metavar="JSON|@FILE|-", help=help)


# ---- what goes around any message ---------------------------------------------------------------

Json = dict[str, Any]
UserId = Annotated[
    str | None, typer.Option(metavar="ID", show_default=False, help="The person it is about.")
]
AnonymousId = Annotated[
    str | None,
    typer.Option(metavar="ID", show_default=False, help="Who it was before one knew."),
]


def of_around(
    *,
    context: Annotated[
        Json | None, json_option("What is known of the circumstances, as ip or locale.")
    ] = None,
    timestamp: Annotated[
        Any,
        typer.Option(
            parser=moment, metavar="WHEN", show_default="now",
            help="When it happened: ISO 8601, in UTC unless it says otherwise, or seconds.",
        ),
    ] = None,
    integrations: Annotated[
        Json | None, json_option('Which destinations get it, as {"All": false, "Slack": true}.')
    ] = None,
    message_id: Annotated[
        str | None,
        typer.Option(metavar="ID", show_default="a new one", help="By which copies are known."),
    ] = None,
) -> dict[str, Any]:  # fmt: skip
    """Return what stands around any message, by the names of the wire."""
    around = {
        "context": context, "timestamp": timestamp, "integrations": integrations,
        "messageId": message_id,
    }  # fmt: skip
    return {name: value for name, value in around.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Manner:
    """How to go about it, and how to write the result."""

    dry_run: bool
    fail_on_warning: bool
    options: Options
    streamed: Options  # for a result of many rows


def of_manner(
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check, show what would be sent, and send nothing.")
    ] = False,
    fail_on_warning: Annotated[
        bool, typer.Option("--fail-on-warning", help="Refuse what is merely doubtful, too.")
    ] = False,
    format: As = None,  # noqa: A002
    jq: Jq = None,
) -> Manner:
    """Return how to go about it.

    :raises ConfigurationError: for `--jq` with a format that it does not work on.
    """
    options = Options(format, jq)
    unsaid = format is None and options.written is Format.JSON
    streamed = Options(Format.JSONL if unsaid else format, jq)
    return Manner(dry_run, fail_on_warning, options, streamed)
