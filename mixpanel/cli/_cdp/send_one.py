"""Send one message at once, so that the server's own answer ends the command."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer

from mixpanel.cli._cdp.options import Manner
from mixpanel.cli._cdp.source import Source
from mixpanel.cli._output.format import write
from mixpanel.cli._output.terminal import say

if TYPE_CHECKING:
    from mixpanel._records.record import Validation
    from mixpanel.cdp import Message

NAMES = re.compile(r"\b(?:[a-z]+_)+id\b")  # as errors of the library have them


def send(source: Source, manner: Manner, compose: Callable[[Any], "Message"]) -> None:
    """Send what `compose` makes with the source's composer, or show it in a dry run.

    :raises typer.BadParameter: for what no server would keep.
    :raises DeliveryError: when it did not arrive.
    """
    message = _composed(source, manner, compose)
    excess = len(message.body) - source.room()
    if manner.dry_run:
        write(message.decoded(), manner.options)
        say(f"a dry run: nothing was sent to {source.origin}", "dim")
        if excess <= 0:
            return
    if excess > 0:
        name = source.dialect.name
        raise typer.BadParameter(f"the message is {excess:,} bytes larger than {name} takes")
    with source.client(send_immediately=True, validation="off") as client:
        client.batch([message.decoded()])
    told = {"kind": message.kind, "message_id": message.message_id, "sent_to": source.origin}
    write(told, manner.options)


def _composed(source: Source, manner: Manner, compose: Callable[[Any], "Message"]) -> "Message":
    from mixpanel.exceptions import ValidationError

    doubts: list[str] = []
    validation: Validation = "raise" if manner.fail_on_warning else "warn"
    try:
        message = compose(source.composer(validation, lambda _kind, text: doubts.append(text)))
    except ValidationError as error:
        raise typer.BadParameter(
            NAMES.sub(lambda name: name[0].replace("_", " "), str(error))
        ) from error
    for doubt in doubts:
        say(f"warning: {doubt}", "yellow")
    return message
