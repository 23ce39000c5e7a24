"""`mp import`: files of events into a project."""

import time
from collections import Counter
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixpanel.cli._options.columns import parse_columns
from mixpanel.cli._options.project import (
    CREDENTIALS_HINT,
    BaseUrlOption,
    Region,
    RegionOption,
    TokenOption,
    service_account,
)
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

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mixpanel import AsyncMixpanel
    from mixpanel.bulk import ImportProgress, ImportResult
    from mixpanel.cli.app import Command

HELP = ""
EXAMPLE = "mp import events events.ndjson"
EXAMPLES = """
mp import events events.ndjson
mp import events orders.csv --event "Order Paid" --column time=paid_at --failed failed.ndjson
mp import events events.parquet --dry-run
mp import events sales.csv --event Sale --type amount=number --date-format "%d/%m/%Y" --encoding cp1252
"""  # noqa: E501 - a command is one line
ROLES = ("event", "time", "distinct_id", "insert_id", "properties")
SHOWN = 5  # problems of a dry run


@with_options(reading=reading_options, output=output_options)
def events(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True, readable=True, show_default=False, metavar="FILE",
            help="NDJSON, CSV or Parquet, by its extension; text may be .gz or .zst. Or a folder "
            "that `mp export parquet` wrote.",
        ),
    ],
    *,
    token: TokenOption = None,
    region: RegionOption = Region.US,
    base_url: BaseUrlOption = None,
    event: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The event name of every row, instead of a column."),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=COLUMN",
            help="Use this column for event, time, distinct_id, insert_id or properties; "
            "repeatable. distinct_id= is for events without a user. By default, columns with the "
            "usual names are used.",
        ),
    ] = None,
    start_at: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Skip N rows, to resume an import."),
    ] = 0,
    failed: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", dir_okay=False, writable=True,
            help="Write rejected events, and CSV lines with too many or too few cells, to this "
            "file, as NDJSON with position and reason. Correct them, and import it with the same "
            "options. With --start-at, earlier lines stay.",
        ),
    ] = None,
    concurrency: Annotated[
        int, typer.Option(metavar="N", min=1, max=32, help="Maximum number of requests at once.")
    ] = 20,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Validate every event, and send nothing.")
    ] = False,
    reading: Reading,
    output: OutputOptions,
) -> None:  # fmt: skip
    """Import the events of a file, of any age and number.

    A line of NDJSON is an event as Mixpanel exports it, {"event": …, "properties": …}, or flat like
    a row of CSV or Parquet, where the columns that have no role become properties. The usual names
    are event, event_name, name; time, timestamp, event_time, ts; distinct_id, user_id; $insert_id,
    insert_id, id. A column named properties that holds JSON objects becomes the properties again,
    as in what `mp export` and Mixpanel's data pipelines write.

    A time is ISO 8601, in UTC unless it has an offset, or a number of seconds or milliseconds.
    Importing a file twice makes no duplicates; without an insert_id, identical rows count as one
    event.

    It needs --token, or better a service account with the role Admin or Owner: in MP_USERNAME,
    MP_SECRET and MP_PROJECT_ID, or mp --account NAME; the default account is not used.
    """
    from mixpanel.data.readers import Columns, read_events

    require_distinct_paths(failed, file)
    columns = Columns(**parse_columns(column, ROLES), event_name=event)
    # All arguments are checked before the failed rows of an earlier run are overwritten.
    rows = _with_first_row_read(read_events(file, columns, reading.read_options(failed)))
    if dry_run:
        with failed_rows(failed, start_at) as rejected:
            _check(file, rows, start_at, rejected, output)
        return
    credentials = service_account()
    if credentials is None and not token:
        raise typer.BadParameter(f"give --token, or {CREDENTIALS_HINT}", param_hint="--token")
    client = _client(
        # A client needs a token, but with a service account it is not sent.
        token=token or (credentials.project_id if credentials else ""),
        credentials=credentials,
        region=region.value,
        base_url=base_url,
    )
    with failed_rows(failed, start_at) as rejected:
        _import(_Import(file, rows, start_at, concurrency, rejected), client, output)


COMMANDS: "tuple[Command, ...]" = (("events", events, EXAMPLES),)


def _with_first_row_read(rows: "Iterator[dict[str, Any]]") -> "Iterator[dict[str, Any]]":
    """Read the first row, which raises if the file cannot be read; yield it again."""
    with ragged_lines_explained():
        return chain(list(islice(rows, 1)), rows)


def _client(**options: Any) -> "AsyncMixpanel":
    from mixpanel import AsyncMixpanel

    # The server validates every event; warnings about the same problems would repeat them. What is
    # in the spool of `MP_SPOOL` belongs to programs.
    return AsyncMixpanel(validation="off", spool=False, **options)


# ---- importing ----------------------------------------------------------------------------------


class _Import:
    """One run of an import, and its progress."""

    def __init__(
        self,
        file: Path,
        rows: "Iterator[dict[str, Any]]",
        start_at: int,
        concurrency: int,
        rejected: FailedRows,
    ) -> None:
        self.file = file
        self.rows = rows
        self.start_at = start_at
        self.concurrency = concurrency
        self.rejected = rejected
        self.imported = 0
        self.position = start_at

    async def run(
        self, show: "Callable[[ImportProgress], None]", client: "AsyncMixpanel"
    ) -> "ImportResult":
        def on_progress(progress: "ImportProgress") -> None:
            self.imported, self.position = progress.imported, progress.position
            show(progress)

        async with client as mp:
            return await mp.import_events(
                self.rows,
                concurrency=self.concurrency,
                start_at=self.start_at,
                keep_rejected=0,  # each is written when it is reported
                on_progress=on_progress,
                on_rejected=self.rejected.write_record,
            )


def _import(run: _Import, client: "AsyncMixpanel", output: OutputOptions) -> None:
    import asyncio

    from mixpanel.bulk import ImportInterrupted
    from mixpanel.exceptions import MixpanelException

    try:
        with progress_bar(run.file.name) as bar:
            reporter = ImportReporter(bar, run.file, "events")
            result = asyncio.run(run.run(reporter.progress, client))
    except ImportInterrupted as stopped:
        _write_result(stopped.result, output)
        raise  # its message says where to resume
    except KeyboardInterrupt:
        say(f"interrupted: {run.imported:,} events were imported", "yellow")
        _say_how_to_resume(run.position)
        raise
    except (MixpanelException, UnwritableError):
        if run.position > run.start_at:
            _say_how_to_resume(run.position)
        raise
    _write_result(result, output)
    if not result.ok:
        raise typer.Exit(ExitCode.PARTIAL)


def _say_how_to_resume(position: int) -> None:
    say(f"resume with the same command and --start-at {position}")


def _write_result(result: "ImportResult", output: OutputOptions) -> None:
    data = {
        "imported": result.imported,
        "rejected": result.rejected,
        "position": result.position,
        "requests": result.requests,
        "retried": result.retried,
        "bytes_sent": result.bytes_sent,
        "seconds": round(result.seconds, 3),
    }
    write(delivery_summary(data, result.reasons), output)


# ---- checking -----------------------------------------------------------------------------------


def _check(
    file: Path,
    rows: "Iterator[dict[str, Any]]",
    start_at: int,
    rejected: FailedRows,
    output: OutputOptions,
) -> None:
    """Validate every row by the documented rules, as the server would."""
    from mixpanel._records.composer import Composer
    from mixpanel.exceptions import RejectedRecord, ValidationError

    composer = Composer("dry-run", now=time.time, new_id=str, library={}, validation="raise")
    names: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    problems: list[RejectedRecord] = []
    for position, event in enumerate(rows):
        if position < start_at:
            continue
        try:
            composer.import_event(event)
            names[event["event"]] += 1
        except ValidationError as error:
            failed = RejectedRecord(position, str(error), record=error.record or event)
            reasons[failed.message] += 1
            problems += [failed] if len(problems) < SHOWN else []
            rejected.write_record(failed)
    counts = {"valid": names.total(), "invalid": reasons.total()}
    first = [{"position": each.index, "message": each.message} for each in problems]
    data = counts | {"events": names, "reasons": reasons, "problems": first}
    by_name = {f"event: {name}": count for name, count in names.most_common(SHOWN)}
    write(TableView(data, counts | by_name), output)
    for each in problems:
        say(f"{file.name}, event {each.index}: {each.message}", "red")
    say("dry run: nothing was sent", "dim")
    if reasons:
        raise typer.Exit(ExitCode.PARTIAL)
