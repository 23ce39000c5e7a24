"""Send the messages of a file in order, in batches, and account for each."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixpanel.cli._cdp.input import Row, RowReader, unwrapped
from mixpanel.cli._cdp.options import RunOptions
from mixpanel.cli._cdp.source import Source
from mixpanel.cli._options.shared import require_with
from mixpanel.cli._output.exit_codes import ExitCode
from mixpanel.cli._output.failed_rows import (
    FailedRows,
    UnwritableError,
    failed_rows,
    require_distinct_paths,
)
from mixpanel.cli._output.format import delivery_summary, write
from mixpanel.cli._output.progress import progress_bar
from mixpanel.cli._output.terminal import say

if TYPE_CHECKING:
    from mixpanel._records.record import Validation
    from mixpanel.cdp import Delivery, Message, SegmentClient

MAX_PENDING = 2000  # messages in flight: while one batch is sent, the next one is filled
QUEUE_BYTES = 64_000_000  # enough for that many messages of the maximum size
SHOWN = 5  # reasons, and warnings, on a terminal
MAX_REASONS = 100  # counted separately; a reason may quote each value

Shape = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class FileOptions:
    """Where to begin in a file, and where failed rows go."""

    failed: Path | None
    start_at: int


def file_options(
    *,
    failed: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, writable=True, metavar="FILE",
            help="Write rejected rows to this file, with position and reason, for `replay`. With "
            "--start-at, earlier lines stay.",
        ),
    ] = None,
    start_at: Annotated[
        int, typer.Option(min=0, metavar="N", help="Skip N rows, to resume after an interruption.")
    ] = 0,
) -> FileOptions:  # fmt: skip
    """Return the options of a file of messages."""
    return FileOptions(failed, start_at)


def refuse_file_options(options: FileOptions) -> None:
    """Refuse the options of a file where there is none.

    :raises typer.BadParameter: if one of them is given.
    """
    require_with("--failed", options.failed, {"--file": None})
    require_with("--start-at", options.start_at or None, {"--file": None})


# ---- counting -----------------------------------------------------------------------------------


@dataclass(slots=True)
class Tally:
    """How many messages were delivered and rejected, and where to resume."""

    delivered: int = 0
    rejected: int = 0
    position: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)

    def warn(self, _kind: str, text: str) -> None:
        """Count a warning about a message."""
        _count(self.warnings, text)

    def reject(self, reason: str) -> None:
        """Count a rejected message."""
        self.rejected += 1
        _count(self.reasons, reason)


def _count(texts: Counter[str], text: str) -> None:
    if text not in texts and len(texts) >= MAX_REASONS:
        text = "other reasons"
    texts[text] += 1


@contextmanager
def _open_failed(options: FileOptions, reader: RowReader) -> Iterator[FailedRows]:
    if not reader.is_stdin:
        require_distinct_paths(options.failed, reader.path)
    with failed_rows(options.failed, options.start_at) as failed:
        yield failed


# ---- sending ------------------------------------------------------------------------------------


class _Run:
    """One pass through a file; all of it runs in the calling thread, except for the sending."""

    def __init__(self, source: Source, run: RunOptions, shape: Shape, failed: FailedRows) -> None:
        from mixpanel.cdp._segment.rows import with_message_id

        self.tally = Tally()
        self.error: Exception | None = None  # the latest error that was not a rejection
        self._settled: deque[Delivery] = deque()  # filled by the sending thread
        # Two messages may have the same id: the first one sent is the first one settled.
        self._pending: dict[str, deque[tuple[int, dict[str, Any]]]] = {}
        self._pending_count = 0
        validation: Validation = "raise" if run.fail_on_warning else "warn"
        self._composer = source.composer(validation, self.tally.warn)
        self._max_bytes = source.max_message_bytes()
        self._shape, self._with_message_id, self._failed = shape, with_message_id, failed

    def composed(self, row: Row) -> "Message | None":
        """Return the message of a row; None if it was rejected."""
        from mixpanel._records.record import checked_mapping
        from mixpanel.exceptions import ValidationError

        value, reason = row.value, row.problem
        if reason is None:
            try:
                value = self._shape(unwrapped(value))
                value = checked_mapping(value, "a message")
                if value.get("timestamp") or value.get("originalTimestamp"):
                    # An id derived from the content: sending it again makes no duplicate.
                    value = self._with_message_id(value)
                message = self._composer.from_dict(value)
                if len(message.body) <= self._max_bytes:
                    return message
                value, reason = message.decoded(), "too large"
            except ValidationError as error:
                reason = str(error)
        self.reject(row.position, reason, value)
        return None

    def reject(self, position: int, reason: str, record: Any) -> None:
        """Write a rejected row to the file of failed rows, and count it."""
        self._failed.write(position, reason, record)
        self.tally.reject(reason)

    def send(self, rows: Iterable[Row], client: "SegmentClient", show: Callable[[], None]) -> None:
        """Send rows until the end or an error, which is left in `error`."""
        from mixpanel.exceptions import AuthenticationError

        for row in rows:
            message = self.composed(row)
            # Ctrl-C may come between any two lines. So a message is pending before the position
            # moves past it: it may then be sent twice, with the same id, but never be skipped.
            if message is None:
                self.tally.position = row.position + 1
            else:
                record = message.decoded()
                pending = self._pending.setdefault(message.message_id, deque())
                pending.append((row.position, record))
                self._pending_count += 1
                self.tally.position = row.position + 1
                client.batch([record])
            self.settle()
            show()
            if self._pending_count >= MAX_PENDING:
                client.flush(None)  # returns early if retrying cannot help
                self.settle()
            if self._pending_count >= MAX_PENDING or isinstance(self.error, AuthenticationError):
                return

    def settle(self) -> None:
        """Count the messages that were delivered or rejected meanwhile."""
        while self._settled:
            delivery = self._settled.popleft()
            if delivery.fate == "dropped":
                continue  # retries ended early: it stays pending, to be sent by the next run
            entries = self._pending[delivery.message_id]
            position, record = entries[0]
            if delivery.fate == "delivered":
                self.tally.delivered += 1
            else:
                # If this cannot be written, the message stays pending.
                self.reject(position, delivery.reason, record)
            entries.popleft()
            if not entries:
                del self._pending[delivery.message_id]
            self._pending_count -= 1

    def on_error(self, error: Exception, _records: list[Any]) -> None:
        """Remember an error of delivery; rejections are reported one by one instead."""
        from mixpanel.exceptions import PayloadTooLargeError, RejectedError

        if not isinstance(error, RejectedError | PayloadTooLargeError):
            self.error = error

    def client_options(self, timeout: float) -> dict[str, Any]:
        """Return options for a client that reports to this run."""
        from mixpanel.settings import Limits

        limits = Limits(
            flush_after=0.5, request_timeout=timeout, max_queue_size=2 * MAX_PENDING,
            max_queue_bytes=QUEUE_BYTES,
        )  # fmt: skip
        return {
            "on_delivery": self._settled.append, "on_error": self.on_error,
            "on_drop": lambda *_: None, "validation": "off", "when_full": "wait",
            "limits": limits,
        }  # fmt: skip

    def rewind(self) -> bool:
        """Move the position back to the first pending message; return False if there is none."""
        if self._pending:
            first = min(entries[0][0] for entries in self._pending.values())
            self.tally.position = min(self.tally.position, first)
        return bool(self._pending)


def send_file(
    source: Source,
    run: RunOptions,
    options: FileOptions,
    file: Path,
    shape: Shape = lambda value: value,
    *,
    words: bool = False,
) -> None:
    """Send the rows of a file, each as the message that `shape` returns for it.

    With `words`, a row may be a single word, see `RowReader`.

    :raises typer.Exit: with 6 if some messages were rejected.
    :raises DeliveryError: if it could not continue, after printing the result so far.
    """
    reader = RowReader(file, words=words)
    if not run.dry_run:
        # Wrong options are reported before the failed rows of an earlier run are overwritten.
        source.client(disabled=True)
    with _open_failed(options, reader) as failed:
        state = _Run(source, run, shape, failed)
        rows = reader.rows(options.start_at)
        state.tally.position = options.start_at
        if run.dry_run:
            _show_all(state, source, rows, run)
        else:
            _send_all(state, source, rows, reader, run)
    _say_warnings(state.tally)
    if state.tally.rejected:
        raise typer.Exit(ExitCode.PARTIAL)


def _send_all(
    state: _Run, source: Source, rows: Iterator[Row], reader: RowReader, run: RunOptions
) -> None:
    started = time.monotonic()
    client = source.client(**state.client_options(source.timeout))
    tally = state.tally
    with progress_bar(reader.name) as bar:
        size = reader.size

        def show() -> None:
            text = f"{tally.delivered:,} delivered"
            if tally.rejected:
                text += f"  [red]{tally.rejected:,} rejected[/]"
            bar.update(reader.bytes_read, text, size)

        stopped = _sent(state, rows, client, show if bar.is_shown else lambda: None)
    stats = client.stats()
    data = {
        "delivered": tally.delivered, "rejected": tally.rejected, "position": tally.position,
        "requests": stats.requests, "retried": stats.retried,
        "seconds": round(time.monotonic() - started, 3), "sent_to": source.origin,
    }  # fmt: skip
    write(delivery_summary(data, tally.reasons), run.output)
    if stopped is not None:
        _say_warnings(tally)
        say(f"stopped early: resume with the same command and --start-at {tally.position}")
        raise stopped


def _sent(
    state: _Run, rows: Iterator[Row], client: "SegmentClient", show: Callable[[], None]
) -> BaseException | None:
    """Send rows and close the client; return what stopped it, None at the end of the rows."""
    from mixpanel.exceptions import DeliveryError

    stopped: BaseException | None = None
    try:
        try:
            state.send(rows, client, show)
        except (Exception, UnwritableError) as error:  # what was read before is sent all the same
            stopped = error
        client.flush(None)
    except KeyboardInterrupt as error:
        stopped = error
    try:
        if isinstance(stopped, KeyboardInterrupt):
            say("waiting for the requests in flight; Ctrl-C again ends it now")
        client.close()
    except KeyboardInterrupt as error:
        stopped = error
    try:
        state.settle()
    except UnwritableError as error:
        stopped = error
    if state.rewind() and stopped is None:
        stopped = state.error or DeliveryError("some messages could not be sent")
    return stopped


def _show_all(state: _Run, source: Source, rows: Iterator[Row], run: RunOptions) -> None:
    def messages() -> Iterator[dict[str, Any]]:
        for row in rows:
            message = state.composed(row)
            if message is not None:
                state.tally.delivered += 1
                yield message.decoded()

    write(messages(), run.output.for_stream())
    tally = state.tally
    say(
        f"dry run: nothing was sent to {source.origin}; {tally.delivered:,} would be sent, "
        f"{tally.rejected:,} rejected",
        "dim",
    )
    for reason, count in tally.reasons.most_common(SHOWN):
        say(f"{count:,} rejected: {reason}", "red")


def _say_warnings(tally: Tally) -> None:
    for text, count in tally.warnings.most_common(SHOWN):
        say(f"warning: {text}" + (f" ({count:,} times)" if count > 1 else ""), "yellow")
    more = len(tally.warnings) - SHOWN
    if more > 0:
        say(f"and {more:,} other warnings", "yellow")
