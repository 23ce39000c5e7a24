"""Bring files of events into a project."""

import asyncio
import time
from collections import Counter
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from mixpanel.cli._options.project import WHOSE, Base, Region, Token, Where, Write, account
from mixpanel.cli._output.exit_codes import ExitCode
from mixpanel.cli._output.failed_rows import (
    FailedRows,
    UnwritableError,
    apart,
    failed_rows,
    progress,
)
from mixpanel.cli._output.terminal import (
    Format,
    as_json,
    counts,
    megabytes,
    out,
    pairs,
    say,
    visible,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mixpanel import AsyncMixpanel
    from mixpanel.bulk import ImportProgress, ImportResult

EXAMPLE = "Example: mp import events events.ndjson"
EXAMPLES = """Examples:

mp import events events.ndjson

mp import events orders.csv --event "Order Paid" --time-column paid_at --failed failed.ndjson

mp import events events.parquet --dry-run
"""
SHOWN = 5  # problems, and reasons, that a person gets to see


def imports() -> None:
    """Bring files of events into a project."""


def events(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, readable=True, show_default=False, metavar="FILE",
            help="NDJSON, CSV or Parquet, as its name ends; text may be .gz or .zst.",
        ),
    ],
    *,
    token: Token = None,
    region: Where = Region.US,
    base_url: Base = None,
    event: Annotated[
        str | None, typer.Option(help="One name for every row, when no column holds it.")
    ] = None,
    event_column: Annotated[
        str | None, typer.Option(help="The event's name. [dim]Else: event, event_name, name[/]")
    ] = None,
    time_column: Annotated[
        str | None,
        typer.Option(
            help="ISO 8601 (UTC unless it says otherwise), seconds or milliseconds. "
            "[dim]Else: time, timestamp, event_time, ts[/]"
        ),
    ] = None,
    distinct_id_column: Annotated[
        str | None,
        typer.Option(help='The user; "" for none. [dim]Else: distinct_id, user_id[/]'),
    ] = None,
    insert_id_column: Annotated[
        str | None,
        typer.Option(help="The event's own id. [dim]Else: $insert_id, insert_id, id[/]"),
    ] = None,
    start_at: Annotated[
        int, typer.Option(min=0, help="Skip so many events, to go on with an import.")
    ] = 0,
    failed: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, writable=True,
            help="Write each refused event here, with its position and the reason, as NDJSON; "
            "with --start-at, those before stay there.",
        ),
    ] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, max=32, help="Requests in flight at the most.")
    ] = 20,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check every event here, and send nothing.")
    ] = False,
    format: Write = Format.TEXT,  # noqa: A002
) -> None:  # fmt: skip
    """Import the events of a file, of any age and number.

    A line of NDJSON may have the shape of Mixpanel's own exports, {"event": …, "properties": …},
    or be flat like the rows of CSV and Parquet: then columns are the event's name, time, user and
    id, and all others its properties. Times become milliseconds in UTC. Without an id column, rows
    that are alike in everything count as one event, and importing a file twice makes no copies.

    It needs the project's --token, or better a service account with the role Admin or Owner, from
    the environment, MP_USERNAME, MP_SECRET and MP_PROJECT_ID, or mp --account NAME; the default
    account is not used.
    """
    from mixpanel.data.store import Columns, read_events

    apart(failed, file)
    columns = Columns(event_column, time_column, distinct_id_column, insert_id_column, event)
    # What is wrong with any argument is said before the failed of an earlier run are written over.
    rows = _begun(read_events(file, columns))
    if dry_run:
        with failed_rows(failed, start_at) as refused:
            _check(file, rows, start_at, refused, format)
        return
    credentials = account()
    if credentials is None and not token:
        raise typer.BadParameter(f"give --token, or {WHOSE}", param_hint="--token")
    client = _client(
        # With a service account the token goes nowhere, but a client has one.
        token=token or (credentials.project_id if credentials else ""),
        credentials=credentials,
        region=region.value,
        base_url=base_url,
    )
    with failed_rows(failed, start_at) as refused:
        _import(_Import(file, rows, start_at, concurrency, refused), client, format)


def _begun(rows: "Iterator[dict[str, Any]]") -> "Iterator[dict[str, Any]]":
    """Read the first row: before it, nobody knows whether the file can be read."""
    return chain(list(islice(rows, 1)), rows)


def _client(**options: Any) -> "AsyncMixpanel":
    from mixpanel import AsyncMixpanel

    # The server judges every record; to warn of the same things here would say them twice.
    return AsyncMixpanel(validation="off", **options)


# ---- importing ----------------------------------------------------------------------------------


class _Import:
    """One run of an import, and how far it has come."""

    def __init__(
        self,
        file: Path,
        rows: "Iterator[dict[str, Any]]",
        start_at: int,
        concurrency: int,
        failed: FailedRows,
    ) -> None:
        self.file = file
        self.rows = rows
        self.start_at = start_at
        self.concurrency = concurrency
        self.failed = failed
        self.imported = 0
        self.position = start_at

    async def run(
        self, show: "Callable[[ImportProgress], None]", client: "AsyncMixpanel"
    ) -> "ImportResult":
        def told(progress: "ImportProgress") -> None:
            self.imported, self.position = progress.imported, progress.position
            show(progress)

        async with client as mp:
            return await mp.import_events(
                self.rows,
                concurrency=self.concurrency,
                start_at=self.start_at,
                on_progress=told,
                on_rejected=self.failed.write_record,
            )


def _import(run: _Import, client: "AsyncMixpanel", format: Format) -> None:  # noqa: A002
    from mixpanel.bulk import ImportInterrupted
    from mixpanel.exceptions import MixpanelException

    try:
        with progress(run.file, run.start_at) as show:
            result = asyncio.run(run.run(show, client))
    except ImportInterrupted as stopped:
        _show(stopped.result, format)
        _resume(run.file, stopped.result.position)
        raise
    except KeyboardInterrupt:
        say(f"interrupted: {run.imported:,} events were imported", "yellow")
        _resume(run.file, run.position)
        raise
    except (MixpanelException, UnwritableError):
        if run.position > run.start_at:
            _resume(run.file, run.position)
        raise
    _show(result, format)
    if not result.ok:
        raise typer.Exit(ExitCode.PARTIAL)


def _resume(file: Path, position: int) -> None:
    say(f"go on with: mp import events {file} --start-at {position}")


def _show(result: "ImportResult", format: Format) -> None:  # noqa: A002
    if format is Format.JSON:
        data = asdict(result)
        del data["rejected_records"]
        as_json(data)
        return
    rate = result.imported / result.seconds if result.seconds else 0.0
    rows = [
        ("imported", f"{result.imported:,}"),
        ("rejected", f"{result.rejected:,}"),
        ("requests", f"{result.requests:,}, {result.retried:,} of them repeated"),
        ("sent", f"{megabytes(result.bytes_sent)} in {result.seconds:.1f} s, {rate:,.0f} events/s"),
    ]
    out().print(pairs(rows))
    _show_reasons(result.reasons.items())


def _show_reasons(reasons: Any) -> None:
    common = sorted(reasons, key=lambda item: -item[1])
    if common:
        out().print("\nrejected because")
        out().print(counts((count, reason) for reason, count in common[:SHOWN]))
        if len(common) > SHOWN:
            out().print(f"and for {len(common) - SHOWN:,} other reasons", style="dim")


# ---- checking -----------------------------------------------------------------------------------


def _check(
    file: Path,
    rows: "Iterator[dict[str, Any]]",
    start_at: int,
    refused: FailedRows,
    format: Format,  # noqa: A002
) -> None:
    from mixpanel._records.composer import (
        Composer,
    )
    from mixpanel.exceptions import RejectedRecord, ValidationError

    composer = Composer("dry-run", now=time.time, new_id=str, library={}, validation="raise")
    names: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    first: list[RejectedRecord] = []
    for position, event in enumerate(rows):
        if position < start_at:
            continue
        try:
            composer.import_event(event)
            names[event["event"]] += 1
        except ValidationError as error:
            failed = RejectedRecord(position, str(error), record=event)
            reasons[failed.message] += 1
            first += [failed] if len(first) < SHOWN else []
            refused.write_record(failed)
    good, bad = names.total(), reasons.total()
    if format is Format.JSON:
        problems = [{"position": one.index, "message": one.message} for one in first]
        as_json({"good": good, "bad": bad, "events": names, "reasons": reasons, "first": problems})
    else:
        out().print(pairs([("good", f"{good:,}"), ("bad", f"{bad:,}")]))
        out().print(counts((count, name) for name, count in names.most_common(SHOWN)))
        for one in first:
            text = visible(f"{file.name}, event {one.index}: {one.message}")
            out().print(Text(text, "red"), soft_wrap=True)
    say("a dry run: nothing was sent", "dim")
    if bad:
        raise typer.Exit(ExitCode.PARTIAL)
