"""Look before sending: is a file good, and is the way to the source open?"""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import typer

from mixpanel.cli._cdp.input import MessagesFile, Reading, unwrapped
from mixpanel.cli._cdp.options import sharing
from mixpanel.cli._cdp.source import Source, of_source
from mixpanel.cli._output.exit_codes import ExitCode
from mixpanel.cli._output.format import As, Jq, Options, write
from mixpanel.cli._output.terminal import say

if TYPE_CHECKING:
    from mixpanel.cdp import Message

VALIDATE = """Examples:

mp cdp validate messages.ndjson --to hightouch

mp cdp validate messages.ndjson --to customerio --format table
"""
PING = "Example: mp cdp ping --to customerio"
INCOMPLETE = 400  # the status that says so


@sharing(source=of_source)
def validate(file: MessagesFile, *, source: Source, format: As = None, jq: Jq = None) -> None:  # noqa: A002
    """Check the messages of a file by the vendor's rules, without sending anything.

    They have the shape that `batch` takes, or are lines that --failed wrote. What is merely
    doubtful counts as a problem too: values that lose something on the way to JSON, and names that
    are nearly those of a semantic event. Ends with 6 when there are problems.
    """
    options = Options(format, jq)
    counts = {"good": 0, "bad": 0}
    write(_problems(Reading(file), source, counts), options)
    say(f"{counts['good']:,} good, {counts['bad']:,} bad", "red" if counts["bad"] else "dim")
    if counts["bad"]:
        raise typer.Exit(ExitCode.PARTIAL)


def _problems(reading: Reading, source: Source, counts: dict[str, int]) -> Iterator[dict[str, Any]]:
    from mixpanel.exceptions import ValidationError

    composer, room = source.composer("raise"), source.room()
    for row in reading.rows():
        found = [] if row.problem is None else [row.problem]
        if not found:
            try:
                excess = len(composer.from_dict(unwrapped(row.value)).body) - room
                if excess > 0:
                    found = [f"{excess:,} bytes larger than {source.dialect.name} takes"]
            except ValidationError as error:
                found = error.problems
        counts["bad" if found else "good"] += 1
        for problem in found:
            yield {"where": row.where, "position": row.position, "problem": problem}


# ---- ping ---------------------------------------------------------------------------------------


@sharing(source=of_source)
def ping(*, source: Source, format: As = None, jq: Jq = None) -> None:  # noqa: A002
    """Try whether the write key is good and the way open, and say how long that took.

    No vendor has a call for it, so this sends a message that is incomplete on purpose: nobody keeps
    it. Customer.io takes the key, and then refuses the message with 400. Where 200 is the answer to
    anything, as with --permissive and at Hightouch, it proves that the way is open, and nothing of
    the key; with OAuth, that a token was granted.

    Ends with 2 when the key is refused. It is tried once, unless --retries says more.
    """
    options = Options(format, jq)
    status, said, seconds = _answered(source)
    told = {
        "to": source.vendor.value,
        "origin": source.origin,
        "region": source.said_region,
        "key": "taken" if _is_proof(source, status) else "not proven",
        **({"access_token": "granted"} if source.oauth is not None else {}),
        "answer": said,
        "seconds": round(seconds, 3),
    }
    write(told, options)
    _explain(source, status)


def _answered(source: Source) -> tuple[int | None, str, float]:
    """Return how an incomplete message is answered: a refusal's status, the words, the seconds.

    :raises DeliveryError: when the key is refused, or there is no answer.
    """
    import mixpanel._http.async_transport  # noqa: F401 - loading it is not part of the way there
    from mixpanel.exceptions import RejectedError

    status, said = None, "it took an incomplete message"
    once, message = replace(source, retries=source.retries or 0), _incomplete(source)
    with once.client(send_immediately=True) as client:
        began = time.perf_counter()
        try:
            client._deliver([message])  # as no verb makes one that is no good
        except RejectedError as error:
            status, said = error.status, str(error)
        seconds = time.perf_counter() - began
    return status, said, seconds


def _incomplete(source: Source) -> "Message":
    """Return a `track` that does not say what happened."""
    from mixpanel.cdp import Message
    from mixpanel.cdp._segment.values import dumps

    whole = source.composer().track(None, "ping", anonymous_id="ping")
    body, _ = dumps({name: it for name, it in whole.decoded().items() if name != "event"})
    return Message("track", body, whole.message_id)


def _is_proof(source: Source, status: int | None) -> bool:
    return source.is_strict and status == INCOMPLETE


def _explain(source: Source, status: int | None) -> None:
    """Say what the answer means, and end with an error where it cannot be right."""
    name = source.dialect.name
    if _is_proof(source, status):
        say(f"the key is good: {name} took it, and refused an incomplete message", "green")
    elif not source.is_strict:
        token = " and a token was granted" if source.oauth is not None else ""
        say(
            f"the way is open{token}, but a key of another source, or of none, may be answered "
            "the same",
            "yellow",
        )
    else:
        from mixpanel.exceptions import DeliveryError

        raise DeliveryError(
            f"{name} refuses an incomplete message with 400, and this answer is another: is the "
            "key of this --region, and --base-url the right address?"
        )
