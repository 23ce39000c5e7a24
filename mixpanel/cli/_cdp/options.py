"""Options that the commands of `mp cdp` share: the fields of a message, and how to run."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from mixpanel._runtime.checked_files import read_at_most
from mixpanel.cli._cdp.input import standard_input
from mixpanel.cli._output.format import FormatOption, JqOption, OutputOptions

MAX_FILE_BYTES = 16_000_000  # of @FILE; a message has at most 500 KB
SECONDS = re.compile(r"\d{9,}(\.\d+)?")  # a shorter number may be a date, such as 20260131


# ---- values typed as text -----------------------------------------------------------------------


def parse_json_object(text: str) -> dict[str, Any]:
    """Return a JSON object from the text itself, from `@FILE`, or from stdin for `-`.

    :raises typer.BadParameter: for anything else.
    """
    if text == "-":
        source, where = standard_input().read(), "stdin"
    elif text.startswith("@"):
        source, where = _content(Path(text[1:]).expanduser()), text[1:]
    else:
        source, where = text.encode("utf-8", "surrogateescape"), "this"
    try:
        value = json.loads(source.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError) as error:
        hint = "; put single quotes around it in the shell" if where == "this" else ""
        raise typer.BadParameter(f"{where} is not valid JSON: {error}{hint}") from error
    if not isinstance(value, dict):
        raise typer.BadParameter(f'{where} must be an object, such as {{"plan": "team"}}')
    return value


def text_or_file(text: str) -> str:
    """Return a text as it is, or the content of `@FILE`."""
    if not text.startswith("@"):
        return text
    return _content(Path(text[1:]).expanduser()).decode("utf-8", "replace")


def parse_timestamp(text: str) -> str | float:
    """Return a time: ISO 8601 text, or a number of seconds or milliseconds since 1970.

    :raises typer.BadParameter: for anything else.
    """
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
        return read_at_most(path, MAX_FILE_BYTES)
    except OSError as error:
        raise typer.BadParameter(f"cannot read {path}: {error.strerror}") from error


def json_option(help: str) -> Any:
    """Return an option that takes a JSON object."""
    return typer.Option(parser=parse_json_object, metavar="JSON|@FILE|-", help=help)


# ---- the fields of a message --------------------------------------------------------------------

Json = dict[str, Any]
UserIdOption = Annotated[
    str | None, typer.Option(metavar="ID", show_default=False, help="The person's user id.")
]
AnonymousIdOption = Annotated[
    str | None,
    typer.Option(metavar="ID", show_default=False, help="The anonymous (pre-login) id."),
]


def common_fields(
    *,
    context: Annotated[
        Json | None, json_option("Context of the message, such as ip or locale.")
    ] = None,
    timestamp: Annotated[
        Any,
        typer.Option(
            parser=parse_timestamp, metavar="TIME", show_default="now",
            help="When it happened: ISO 8601, UTC without an offset, or seconds since 1970.",
        ),
    ] = None,
    integrations: Annotated[
        Json | None, json_option('The destinations that get it: {"All": false, "Slack": true}.')
    ] = None,
    message_id: Annotated[
        str | None,
        typer.Option(
            metavar="ID", show_default="a new one", help="Message id, used for de-duplication."
        ),
    ] = None,
) -> dict[str, Any]:  # fmt: skip
    """Return the fields that any message may have, by their names in the Segment spec."""
    fields = {
        "context": context, "timestamp": timestamp, "integrations": integrations,
        "messageId": message_id,
    }  # fmt: skip
    return {name: value for name, value in fields.items() if value is not None}


# ---- how to run ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Whether to send, what to do about warnings, and how to write the result."""

    dry_run: bool
    fail_on_warning: bool
    output: OutputOptions


def run_options(
    *,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Validate, print what would be sent, and send nothing."),
    ] = False,
    fail_on_warning: Annotated[
        bool, typer.Option("--fail-on-warning", help="Reject messages that have warnings.")
    ] = False,
    format: FormatOption = None,
    jq: JqOption = None,
) -> RunOptions:
    """Return how to run the command.

    :raises ConfigurationError: for `--jq` with a format that it does not work on.
    """
    return RunOptions(dry_run, fail_on_warning, OutputOptions(format, jq))
