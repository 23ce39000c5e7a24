"""`mp cdp validate` and `mp cdp ping`: check a file, and the way to the vendor."""

import time
from collections.abc import Iterator
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import typer

from mixpanel.cli._cdp.input import MessagesFile, RowReader, unwrapped
from mixpanel.cli._cdp.source import Source, source_options
from mixpanel.cli._options.shared import with_options
from mixpanel.cli._output.exit_codes import ExitCode
from mixpanel.cli._output.format import OutputOptions, output_options, write
from mixpanel.cli._output.terminal import say

if TYPE_CHECKING:
    from mixpanel.cdp import Message

VALIDATE = """
mp cdp validate messages.ndjson --to hightouch
mp cdp validate failed.ndjson --to customerio --format csv
"""
PING = "mp cdp ping --to customerio"


@with_options(source=source_options, output=output_options)
def validate(file: MessagesFile, *, source: Source, output: OutputOptions) -> None:
    """Validate a file by the vendor's rules, and send nothing.

    Rows are messages, as `batch` takes them, or lines of a `--failed` file. Warnings count as
    problems too: values that lose precision or are dropped in JSON, and names that look like
    misspelled semantic events. Ends with 6 if there are problems.
    """
    counts = {"valid": 0, "invalid": 0}
    write(_problems(RowReader(file), source, counts), output)
    style = "red" if counts["invalid"] else "dim"
    say(f"{counts['valid']:,} valid, {counts['invalid']:,} invalid", style)
    if counts["invalid"]:
        raise typer.Exit(ExitCode.PARTIAL)


def _problems(
    reader: RowReader, source: Source, counts: dict[str, int]
) -> Iterator[dict[str, Any]]:
    from mixpanel.exceptions import ValidationError

    composer, max_bytes = source.composer("raise"), source.max_message_bytes()
    for row in reader.rows():
        found = [] if row.problem is None else [row.problem]
        if not found:
            try:
                excess = len(composer.from_dict(unwrapped(row.value)).body) - max_bytes
                if excess > 0:
                    found = [f"{excess:,} bytes larger than {source.dialect.name} accepts"]
            except ValidationError as error:
                found = error.problems
        counts["invalid" if found else "valid"] += 1
        for problem in found:
            yield {"where": row.where, "position": row.position, "problem": problem}


# ---- ping ---------------------------------------------------------------------------------------


@with_options(source=source_options, output=output_options)
def ping(*, source: Source, output: OutputOptions) -> None:
    """Test the write key and the connection, and measure the time.

    No vendor has an endpoint for this, so it sends a message that is incomplete on purpose and is
    not stored. Customer.io accepts the key and then rejects the message with 400. The others, and
    Customer.io with --permissive, answer 200 to anything: that shows a working connection, but not
    a valid key; with OAuth, also that a token was granted.

    Ends with 2 if the key is refused. There is one attempt, unless --retries allows more.
    """
    status, response, seconds = _send_incomplete(source)
    result = {
        "to": source.vendor.value,
        "origin": source.origin,
        "region": source.region_in_use,
        "key": "accepted" if _proves_key(source, status) else "not proven",
        **({"access_token": "granted"} if source.oauth is not None else {}),
        "response": response,
        "seconds": round(seconds, 3),
    }
    write(result, output)
    _explain(source, status)


def _send_incomplete(source: Source) -> tuple[int | None, str, float]:
    """Return the status of a rejection, the response in words, and the seconds it took.

    :raises DeliveryError: if the key is refused, or there is no response.
    """
    import mixpanel._http.async_transport  # noqa: F401 - its import is not part of the measurement
    from mixpanel.exceptions import RejectedError

    status, response = None, "it accepted an incomplete message"
    once, message = replace(source, retries=source.retries or 0), _incomplete(source)
    with once.client(send_immediately=True) as client:
        started = time.perf_counter()
        try:
            client._deliver([message])  # the public methods do not send invalid messages
        except RejectedError as error:
            status, response = error.status, str(error)
        seconds = time.perf_counter() - started
    return status, response, seconds


def _incomplete(source: Source) -> "Message":
    """Return a `track` message without an event name."""
    from mixpanel.cdp import Message
    from mixpanel.cdp._segment.values import dumps

    complete = source.composer().track(None, "ping", anonymous_id="ping")
    fields = {name: value for name, value in complete.decoded().items() if name != "event"}
    body, _ = dumps(fields)
    return Message("track", body, complete.message_id)


def _proves_key(source: Source, status: int | None) -> bool:
    return source.is_strict and status == HTTPStatus.BAD_REQUEST


def _explain(source: Source, status: int | None) -> None:
    """Say what the response means.

    :raises DeliveryError: for a response that the vendor would not give.
    """
    name = source.dialect.name
    if _proves_key(source, status):
        say(f"the key is valid: {name} accepted it and rejected an incomplete message", "green")
    elif not source.is_strict:
        token = " and a token was granted" if source.oauth is not None else ""
        say(
            f"the connection works{token}, but {name} may give this response to a wrong key too",
            "yellow",
        )
    else:
        from mixpanel.exceptions import DeliveryError

        raise DeliveryError(
            f"unexpected response: {name} rejects an incomplete message with 400. Check that the "
            "key belongs to this --region, and that --base-url is right"
        )
