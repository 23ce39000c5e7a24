"""Send one message at once, so that the server's response decides how the command ends."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer

from mixpanel.cli._cdp.options import RunOptions
from mixpanel.cli._cdp.source import Source
from mixpanel.cli._output.format import write
from mixpanel.cli._output.terminal import say

if TYPE_CHECKING:
    from mixpanel._records.record import Validation
    from mixpanel.cdp import Message


def send(source: Source, run: RunOptions, compose: Callable[[Any], "Message"]) -> None:
    """Send what `compose` returns for the source's composer, or print it in a dry run.

    :raises typer.BadParameter: for a message that the vendor would reject.
    :raises DeliveryError: if it was not delivered.
    """
    message = _composed(source, run, compose)
    excess = len(message.body) - source.max_message_bytes()
    if run.dry_run:
        write(message.decoded(), run.output)
        say(f"dry run: nothing was sent to {source.origin}", "dim")
        if excess <= 0:
            return
    if excess > 0:
        name = source.dialect.name
        raise typer.BadParameter(
            f"the message is {excess:,} bytes larger than {name} accepts: send less"
        )
    with source.client(send_immediately=True, validation="off") as client:
        client.batch([message.decoded()])
    result = {"kind": message.kind, "message_id": message.message_id, "sent_to": source.origin}
    write(result, run.output)


def _composed(source: Source, run: RunOptions, compose: Callable[[Any], "Message"]) -> "Message":
    from mixpanel.exceptions import ValidationError

    warnings: list[str] = []
    validation: Validation = "raise" if run.fail_on_warning else "warn"
    try:
        message = compose(source.composer(validation, lambda _kind, text: warnings.append(text)))
    except ValidationError as error:
        raise typer.BadParameter(str(error)) from error
    for each in warnings:
        say(f"warning: {each}", "yellow")
    return message
