"""Send the messages of a file in order, in batches, and account for each."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixpanel.cli._cdp.input import Reading, Row
from mixpanel.cli._cdp.options import Manner
from mixpanel.cli._cdp.source import Source
from mixpanel.cli._options.database import Shown
from mixpanel.cli._options.fetching import need
from mixpanel.cli._options.global_options import asked
from mixpanel.cli._output.exit_codes import ExitCode
from mixpanel.cli._output.failed_rows import FailedRows, UnwritableError, apart, failed_rows
from mixpanel.cli._output.format import write
from mixpanel.cli._output.terminal import err, say

if TYPE_CHECKING:
    from mixpanel._records.record import Validation
    from mixpanel.cdp import Delivery, Message, SegmentClient

WAITING = 2000  # messages under way at the most: while one batch is sent, the next one fills
ROOM = 64_000_000  # bytes, as many as so many messages can have
SHOWN = 5  # reasons, and warnings, that a person gets to see
DIFFERENT = 100  # reasons that are counted; a reason may name each value

Shape = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Many:
    """Where to begin in a file, and where what is refused goes."""

    failed: Path | None
    start_at: int


def of_many(
    *,
    failed: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, writable=True, metavar="FILE",
            help="Write each refused one here, with position, reason and record, for `replay`; "
            "with --start-at, those before stay there.",
        ),
    ] = None,
    start_at: Annotated[
        int, typer.Option(min=0, metavar="N", help="Skip so many, to go on after an interruption.")
    ] = 0,
) -> Many:  # fmt: skip
    """Return where to begin, and where what is refused goes."""
    return Many(failed, start_at)


# ---- what is counted ----------------------------------------------------------------------------


@dataclass(slots=True)
class Tally:
    """How many messages fared how, and where to go on."""

    delivered: int = 0
    refused: int = 0
    position: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)

    def note(self, _kind: str, text: str) -> None:
        """Count what is doubtful about a message."""
        _count(self.warnings, text)

    def refuse(self, reason: str) -> None:
        """Count a message that was refused."""
        self.refused += 1
        _count(self.reasons, reason)


def _count(texts: Counter[str], text: str) -> None:
    if text not in texts and len(texts) >= DIFFERENT:
        text = "other reasons"
    texts[text] += 1


@contextmanager
def _failures(many: Many, reading: Reading) -> Iterator[FailedRows]:
    """Write what is refused to a file, as it comes."""
    if many.failed is not None and not reading.is_stdin:
        apart(many.failed, reading.path)
    with failed_rows(many.failed, many.start_at) as rows:
        yield rows


# ---- sending ------------------------------------------------------------------------------------


class _Run:
    """One run through a file; all of it happens in the calling thread, but for the sending."""

    def __init__(self, source: Source, manner: Manner, shape: Shape, failed: FailedRows) -> None:
        from mixpanel.cdp._segment.rows import with_message_id

        self.tally = Tally()
        self.error: Exception | None = None  # the latest trouble on the way
        self._told: deque[Delivery] = deque()  # filled by the sending thread
        self._open: dict[str, deque[tuple[int, dict[str, Any]]]] = {}
        self._waiting = 0
        validation: Validation = "raise" if manner.fail_on_warning else "warn"
        self._composer, self._room = source.composer(validation, self.tally.note), source.room()
        self._shape, self._identified, self._failed = shape, with_message_id, failed

    def composed(self, row: Row) -> "Message | None":
        """Return the message of a row; None when it was refused."""
        from mixpanel._records.record import mapping
        from mixpanel.exceptions import ValidationError

        value, why = row.value, row.problem
        if why is None:
            try:
                value = self._shape(value)
                value = mapping(value, "a message")
                if value.get("timestamp") or value.get("originalTimestamp"):
                    # So that what is sent again after an interruption makes no copies.
                    value = self._identified(value)
                message = self._composer.from_dict(value)
                if len(message.body) <= self._room:
                    return message
                value, why = message.decoded(), "too large"
            except ValidationError as error:
                why = str(error)
        self.refuse(row.position, why, value)
        return None

    def refuse(self, position: int, why: str, record: Any) -> None:
        """Count one that is not kept, and write it down."""
        self._failed.write(position, why, record)
        self.tally.refuse(why)

    def send(self, rows: Iterable[Row], client: "SegmentClient", show: Callable[[], None]) -> None:
        """Send rows while that goes well; leave in `error` why it does not."""
        from mixpanel.exceptions import AuthenticationError

        for row in rows:
            message = self.composed(row)
            # Ctrl-C may come at any moment: what is open is tried again, what is not is settled.
            if message is None:
                self.tally.position = row.position + 1
            else:
                record = message.decoded()
                self._open.setdefault(message.message_id, deque()).append((row.position, record))
                self._waiting += 1
                self.tally.position = row.position + 1
                client.batch([record])
            self.settle()
            show()
            if self._waiting >= WAITING:
                client.flush(None)  # comes back early when only a human can help
                self.settle()
            if self._waiting >= WAITING or isinstance(self.error, AuthenticationError):
                return

    def settle(self) -> None:
        """Take in what became of messages meanwhile."""
        while self._told:
            told = self._told.popleft()
            if told.fate == "dropped":
                continue  # it was not tried to the end: it stays open
            entries = self._open[told.message_id]
            position, record = entries[0]
            if told.fate == "delivered":
                self.tally.delivered += 1
            else:
                self.refuse(position, told.reason, record)  # one that cannot be written stays open
            entries.popleft()
            if not entries:
                del self._open[told.message_id]
            self._waiting -= 1

    def heard(self, error: Exception, _records: list[Any]) -> None:
        """Remember what is in the way; what is refused is told one by one."""
        from mixpanel.exceptions import PayloadTooLargeError, RejectedError

        if not isinstance(error, RejectedError | PayloadTooLargeError):
            self.error = error

    def options(self, timeout: float) -> dict[str, Any]:
        """Return what a client needs, to tell this run what happens."""
        from mixpanel.settings import Limits

        limits = Limits(
            flush_after=0.5,
            request_timeout=timeout,
            max_queue_size=2 * WAITING,
            max_queue_bytes=ROOM,
        )
        return {
            "on_delivery": self._told.append, "on_error": self.heard,
            "on_drop": lambda *_: None, "validation": "off", "when_full": "wait",
            "limits": limits,
        }  # fmt: skip

    def is_open(self) -> bool:
        """Tell whether messages are left, and go back to the first of them."""
        if self._open:
            first = min(entries[0][0] for entries in self._open.values())
            self.tally.position = min(self.tally.position, first)
        return bool(self._open)


def alone(many: Many) -> None:
    """Refuse the options of a file where there is none.

    :raises typer.BadParameter: when there are some.
    """
    need("--failed", many.failed, {"--file": None})
    need("--start-at", many.start_at or None, {"--file": None})


def send_many(
    source: Source,
    manner: Manner,
    many: Many,
    file: Path,
    shape: Shape = lambda value: value,
    *,
    words: bool = False,
) -> None:
    """Send the rows of a file, each as the message that `shape` makes of it; see `Reading`.

    :raises typer.Exit: with 6 when some were refused.
    :raises DeliveryError: when it could not go on; how far it came is said before.
    """
    reading = Reading(file, words=words)
    if not manner.dry_run:
        source.client(disabled=True)  # what is wrong is said before the failed are written over
    with _failures(many, reading) as failed:
        run = _Run(source, manner, shape, failed)
        rows = reading.rows(many.start_at)
        run.tally.position = many.start_at
        if manner.dry_run:
            _show_all(run, source, rows, manner)
        else:
            _send_all(run, source, rows, reading, manner)
    _warn(run.tally)
    if run.tally.refused:
        raise typer.Exit(ExitCode.PARTIAL)


def _send_all(
    run: _Run, source: Source, rows: Iterator[Row], reading: Reading, manner: Manner
) -> None:
    began = time.monotonic()
    client = source.client(**run.options(source.timeout))
    with _progress(reading, run.tally) as show:
        stopped = _sent(run, rows, client, show)
    tally, stats = run.tally, client.stats()
    told = {
        "delivered": tally.delivered, "refused": tally.refused, "position": tally.position,
        "requests": stats.requests, "retried": stats.retried,
        "seconds": round(time.monotonic() - began, 3), "sent_to": source.origin,
    }  # fmt: skip
    shown = told | {f"refused: {reason}": n for reason, n in tally.reasons.most_common(SHOWN)}
    write(Shown(told | {"reasons": dict(tally.reasons)}, shown), manner.options)
    if stopped is not None:
        _warn(tally)
        say(f"it stopped early; go on with the same command and --start-at {tally.position}")
        raise stopped


def _sent(
    run: _Run, rows: Iterator[Row], client: "SegmentClient", show: Callable[[], None]
) -> BaseException | None:
    """Send rows and close; return what stopped it, if anything did."""
    from mixpanel.exceptions import DeliveryError

    stopped: BaseException | None = None
    try:
        try:
            run.send(rows, client, show)
        except (Exception, UnwritableError) as error:  # what came before is sent all the same
            stopped = error
        client.flush(None)
    except KeyboardInterrupt as error:
        stopped = error
    try:
        if isinstance(stopped, KeyboardInterrupt):
            say("finishing what is under way; once more to leave it")
        client.close()
    except KeyboardInterrupt as error:
        stopped = error
    try:
        run.settle()
    except UnwritableError as error:
        stopped = error
    if run.is_open() and stopped is None:
        stopped = run.error or DeliveryError("not everything could be sent")
    return stopped


def _show_all(run: _Run, source: Source, rows: Iterator[Row], manner: Manner) -> None:
    def messages() -> Iterator[dict[str, Any]]:
        for row in rows:
            message = run.composed(row)
            if message is not None:
                run.tally.delivered += 1
                yield message.decoded()

    write(messages(), manner.streamed)
    tally = run.tally
    say(
        f"a dry run: nothing was sent to {source.origin}; {tally.delivered:,} would be, "
        f"{tally.refused:,} would not",
        "dim",
    )
    for reason, count in tally.reasons.most_common(SHOWN):
        say(f"{count:,} refused: {reason}", "red")


def _warn(tally: Tally) -> None:
    for text, count in tally.warnings.most_common(SHOWN):
        say(f"warning: {text}" + (f" ({count:,} times)" if count > 1 else ""), "yellow")
    more = len(tally.warnings) - SHOWN
    if more > 0:
        say(f"and {more:,} other warnings", "yellow")


@contextmanager
def _progress(reading: Reading, tally: Tally) -> Iterator[Callable[[], None]]:
    """Show a bar on a terminal, and nothing anywhere else."""
    console = err()
    if asked.silent or not console.is_terminal:
        yield lambda: None
        return
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[told]}"),
    )
    with Progress(*columns, console=console, transient=True, expand=True) as bar:
        task = bar.add_task(reading.name, total=reading.size, told="")

        def show() -> None:
            told = f"{tally.delivered:,} delivered"
            if tally.refused:
                told += f"  [red]{tally.refused:,} refused[/]"
            bar.update(task, completed=reading.read, told=told)

        yield show
