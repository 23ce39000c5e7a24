"""`mp cdp backfill`: send a file of past messages, and resume where it stopped."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixpanel._records.failed_rows import FailedRecord
from mixpanel._records.rows import UnreadableRow
from mixpanel.cli._cdp.checkpoint import SUFFIX, Checkpoint, Progress
from mixpanel.cli._cdp.source import FILE_RETRIES, Source, source_options
from mixpanel.cli._options.columns import parse_columns
from mixpanel.cli._options.reading import Reading, ragged_lines_explained, reading_options
from mixpanel.cli._options.shared import with_options
from mixpanel.cli._output.exit_codes import ExitCode
from mixpanel.cli._output.failed_rows import (
    FailedRows,
    UnwritableError,
    failed_rows,
    require_distinct_paths,
)
from mixpanel.cli._output.format import (
    OutputOptions,
    TableView,
    delivery_summary,
    output_options,
    write,
)
from mixpanel.cli._output.progress import ImportReporter, progress_bar
from mixpanel.cli._output.terminal import say
from mixpanel.exceptions import ConfigurationError, MixpanelException

if TYPE_CHECKING:
    from mixpanel.bulk import ImportProgress, ImportResult
    from mixpanel.cdp import SegmentClient
    from mixpanel.cdp._segment.rows import FlatRows
    from mixpanel.exceptions import RejectedRecord

EXAMPLES = """
mp cdp backfill history.ndjson --failed failed.ndjson
mp cdp backfill orders.csv --kind track --event "Order Paid" --column user_id=customer --column timestamp=paid_at
mp cdp backfill people.parquet --kind identify --to hightouch --dry-run
"""  # noqa: E501 - a command is one line
SHOWN = 5  # problems of a dry run
MAX_REASONS = 100


class Kind(StrEnum):
    """What the rows of a table are."""

    IDENTIFY = "identify"
    TRACK = "track"
    PAGE = "page"
    SCREEN = "screen"
    GROUP = "group"
    ALIAS = "alias"


@dataclass(frozen=True, slots=True)
class _Rows:
    """A file, and what its rows are."""

    file: Path
    kind: Kind | None
    event: str | None
    columns: dict[str, str]
    reading: Reading
    failed: Path | None

    @property
    def job(self) -> dict[str, Any]:
        """Return the arguments of `SegmentClient.backfill` that describe the rows."""
        if self.kind is None:
            return {}
        return {"kind": self.kind.value, "event": self.event, "columns": self.columns}

    def flat(self) -> "FlatRows | None":
        """Return the mapping of the columns; None if the rows are messages.

        :raises ConfigurationError: for a role that this kind does not have.
        """
        from mixpanel.cdp._segment.rows import FlatRows

        return FlatRows(**self.job) if self.kind is not None else None

    def read(self, *, quiet: bool = False) -> Iterator[Any]:
        """Yield the rows; with `quiet`, without warnings about the types of columns.

        :raises ConfigurationError: if the file cannot be read.
        """
        from mixpanel.data.readers import format_of, read_rows

        flat = self.flat()
        time_type = "text" if self.reading.date_format is None else "date"

        def types(names: tuple[str, ...]) -> dict[str, str]:
            # Mapped columns stay text: a guessed type would change ids such as 007, or dates.
            roles = flat.require_columns(names) if flat else {}
            return {
                column: time_type if role == "timestamp" else "text"
                for column, role in roles.items()
            }

        options = self.reading.read_options(self.failed)
        if quiet:
            options = replace(options, on_mixed=lambda _: None)
        rows = read_rows(self.file, types, options)
        with ragged_lines_explained():
            first = list(islice(rows, 1))
        if self.reading.date_format is None or format_of(self.file) == "csv":
            return chain(first, rows)
        if not first or not isinstance(first[0], FailedRecord | UnreadableRow):
            raise ConfigurationError(
                f"--date-format is for CSV files: write the times of {self.file.name} in ISO 8601, "
                "or as seconds or milliseconds since 1970"
            )
        return (self._with_timestamp(row, flat) for row in chain(first, rows))

    def _with_timestamp(self, row: Any, flat: "FlatRows | None") -> Any:
        """Return a failed row of a table with its timestamp as a time."""
        from mixpanel.cdp._segment.rows import is_failed_message
        from mixpanel.data.readers.options import converted

        if flat is None or isinstance(row, UnreadableRow) or is_failed_message(row, flat.kind):
            return row
        for column, role in flat.match_columns(tuple(row)).items():
            if role == "timestamp" and isinstance(row[column], str):
                try:
                    row[column] = converted(column, row[column], "date", self.reading.date_format)
                except ValueError as error:
                    return UnreadableRow(str(error), row)
        return row


@with_options(reading=reading_options, source=source_options, output=output_options)
def backfill(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, readable=True, show_default=False, metavar="FILE",
            help="NDJSON, CSV or Parquet, by its extension; text may be .gz or .zst.",
        ),
    ],
    *,
    kind: Annotated[
        Kind | None,
        typer.Option(
            metavar="KIND", show_default="rows are messages with a type",
            help="What the rows of a table are: identify, track, page, screen, group or alias.",
        ),
    ] = None,
    event: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The event name of every row, instead of a column."),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=COLUMN",
            help="Use this column for user_id, timestamp, event and so on; repeatable. user_id= "
            "says that no column has it. By default, columns with the usual names are used: "
            "user_id, userId, User ID.",
        ),
    ] = None,
    concurrency: Annotated[
        int, typer.Option(metavar="N", min=1, max=32, help="Maximum number of requests at once.")
    ] = 8,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", dir_okay=False, show_default="FILE.backfill",
            help="Where to store the progress; deleted when everything is sent.",
        ),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start over, ignoring the checkpoint.")
    ] = False,
    failed: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, writable=True, metavar="FILE",
            help="Write rejected messages, and CSV lines with too many or too few cells, to this "
            "file, with position and reason. Correct them, and read it with the same options.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Validate every row, and send nothing.")
    ] = False,
    reading: Reading,
    source: Source,
    output: OutputOptions,
) -> None:  # fmt: skip
    """Send a file of past messages with their own timestamps.

    Without --kind each row is a message, as `batch` takes it. With --kind, rows are a table: some
    columns have a role, such as user_id or timestamp, and all others become properties, or traits
    of identify and group. Track, page and screen need a timestamp. A row without a message id gets
    one derived from its content, so that sending it again makes no duplicates, and identical rows
    count once.

    After an interruption or a crash, run the same command again to resume. Requests are sent
    concurrently and in no order, within the vendor's rate limit. Ends with 6 if some messages were
    rejected.
    """
    rows = _Rows(file, kind, event, parse_columns(column), reading, failed)
    if kind is None and (event is not None or column):
        raise typer.BadParameter("--event and --column need --kind")
    path = checkpoint or file.with_name(f"{file.name}{SUFFIX}")
    for each in (failed, path):
        require_distinct_paths(each, file)
    if failed is not None:
        require_distinct_paths(path, failed)
    rows.flat()  # raises before anything is written
    if dry_run:
        with failed_rows(failed, 0, past=True) as rejected:
            _check(source, rows, rejected, output)
        return
    # The checkpoint says which key was used, without being a copy of it.
    key_digest = hashlib.sha256(source.key().reveal().encode()).hexdigest()[:12]
    job = {
        "to": source.vendor.value,
        "source": key_digest,
        "sent_to": source.origin,
        **rows.job,
        **reading.job,
    }
    saved = Checkpoint(path, file, job)
    with saved.locked():
        progress = saved.restart() if restart else saved.load()
        _send(source, rows, saved, progress, failed, concurrency, output)


# ---- sending ------------------------------------------------------------------------------------


def _send(
    source: Source,
    rows: _Rows,
    saved: Checkpoint,
    progress: Progress,
    failed: Path | None,
    concurrency: int,
    output: OutputOptions,
) -> None:
    from mixpanel.bulk import ImportInterrupted

    if progress.position:
        say(
            f"resuming at row {progress.position:,}: {progress.delivered:,} delivered and "
            f"{progress.rejected:,} rejected before"
        )
    with source.client() as client, failed_rows(failed, progress.position, past=True) as rejected:
        saved.before_save = rejected.sync
        saved.save(progress)  # fails, if it has to, before anything is sent
        try:
            result = _sent(client, source, rows, concurrency, progress, saved, rejected)
        except ImportInterrupted as stopped:
            progress.advance(stopped.result.position)
            _save_stopped(saved, progress)
            cause = stopped.__cause__
            if isinstance(cause, MixpanelException):
                raise cause from stopped
            raise MixpanelException(f"cannot read the rest of {rows.file}: {cause}") from stopped
        except BaseException:
            _save_stopped(saved, progress)
            raise
    progress.advance(result.position)
    saved.delete()
    _write_result(result, progress, source, output)
    if progress.rejected:
        raise typer.Exit(ExitCode.PARTIAL)


def _sent(
    client: "SegmentClient",
    source: Source,
    rows: _Rows,
    concurrency: int,
    progress: Progress,
    saved: Checkpoint,
    rejected: FailedRows,
) -> "ImportResult":
    from mixpanel.settings import RetryPolicy

    def on_rejected(record: "RejectedRecord") -> None:
        rejected.write_record(record)
        progress.reject(record.index, record.message)

    retries = FILE_RETRIES if source.retries is None else source.retries
    with progress_bar(rows.file.name) as bar:
        reporter = ImportReporter(bar, rows.file, "messages")

        def on_progress(now: "ImportProgress") -> None:
            progress.advance(now.position)
            try:
                saved.save_sometimes(progress)
            except MixpanelException as error:
                # An exception of a callback is only logged, and this has to stop the backfill.
                raise UnwritableError(str(error)) from error
            reporter.progress(now)

        return client.backfill(
            rows.read(),
            **rows.job,
            concurrency=concurrency,
            start_at=progress.position,
            on_progress=on_progress,
            on_rejected=on_rejected,
            retry=RetryPolicy(attempts=1 + retries, first_wait=0.5, max_age=math.inf),
        )


def _save_stopped(saved: Checkpoint, progress: Progress) -> None:
    if not progress.position:
        saved.delete()
        return
    with suppress(MixpanelException):  # the error that stopped it is the one to report
        saved.save(progress)
    say(f"stopped at row {progress.position:,}: run the same command again to resume", "yellow")


def _write_result(
    result: "ImportResult", progress: Progress, source: Source, output: OutputOptions
) -> None:
    data = {
        "delivered": progress.delivered,
        "rejected": progress.rejected,
        "requests": result.requests,
        "retried": result.retried,
        "seconds": round(result.seconds, 3),
        "sent_to": source.origin,
    }
    write(delivery_summary(data, progress.reasons), output)


# ---- checking -----------------------------------------------------------------------------------


def _check(source: Source, rows: _Rows, rejected: FailedRows, output: OutputOptions) -> None:
    """Compose every row as it would be sent, and count the problems."""
    problems: list[RejectedRecord] = []
    reasons: Counter[str] = Counter()

    def on_rejected(record: "RejectedRecord") -> None:
        reasons[record.message] += 1
        problems.extend([record] if len(problems) < SHOWN else [])
        rejected.write_record(record)

    from mixpanel.credentials import Secret

    with_key = replace(source, write_key=source.write_key or Secret("dry-run"))
    with with_key.client(disabled=True) as client:
        result = client.backfill(rows.read(), **rows.job, on_rejected=on_rejected)
        warnings = dict(client.stats().warnings)
    data = {
        "valid": result.position - result.rejected,
        "invalid": result.rejected,
        "reasons": dict(reasons.most_common(MAX_REASONS)),
        "warnings": warnings,
        "would_go_to": source.origin,
        "example": _example(source, rows),
    }
    shown = {name: data[name] for name in ("valid", "invalid", "would_go_to")}
    write(TableView(data, shown), output)
    for each in problems:
        say(f"{rows.file.name}, row {each.index}: {each.message}", "red")
    say("dry run: nothing was sent", "dim")
    if result.rejected:
        raise typer.Exit(ExitCode.PARTIAL)


def _example(source: Source, rows: _Rows) -> dict[str, Any] | None:
    """Return the first message that would be sent, to show how the columns are mapped."""
    from mixpanel.cdp._segment.rows import with_message_id
    from mixpanel.exceptions import ValidationError

    flat, composer = rows.flat(), source.composer("off")
    for row in rows.read(quiet=True):
        with suppress(ValidationError):
            return composer.from_dict(
                with_message_id(row if flat is None else flat.message(row))
            ).decoded()
    return None
