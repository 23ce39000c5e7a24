"""Send a file of the past to Customer.io or Hightouch, and go on where it stopped."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixpanel.cli._cdp.checkpoint import SUFFIX, Came, Checkpoint
from mixpanel.cli._cdp.options import sharing
from mixpanel.cli._cdp.source import AGAIN, Source, of_source
from mixpanel.cli._options.database import Shown
from mixpanel.cli._output.exit_codes import ExitCode
from mixpanel.cli._output.failed_rows import (
    FailedRows,
    UnwritableError,
    apart,
    failed_rows,
    progress,
)
from mixpanel.cli._output.format import As, Jq, Options, write
from mixpanel.cli._output.terminal import say
from mixpanel.exceptions import MixpanelException

if TYPE_CHECKING:
    from mixpanel.bulk import ImportProgress, ImportResult
    from mixpanel.cdp import SegmentClient
    from mixpanel.cdp._segment.rows import FlatRows
    from mixpanel.exceptions import RejectedRecord

EXAMPLE = """Examples:

mp cdp backfill history.ndjson --failed failed.ndjson

mp cdp backfill orders.csv --kind track --event "Order Paid" --column user_id=customer --column timestamp=paid_at

mp cdp backfill people.parquet --kind identify --to hightouch --dry-run
"""  # noqa: E501 - a command is one line
SHOWN = 5  # reasons, and problems of a dry run, that a person gets to see


class Kind(StrEnum):
    """What the rows of a table are."""

    IDENTIFY = "identify"
    TRACK = "track"
    PAGE = "page"
    SCREEN = "screen"
    GROUP = "group"
    ALIAS = "alias"


def _columns(named: list[str] | None) -> list[str] | None:
    roles: list[str] = []
    for each in named or ():
        role, found, _ = each.partition("=")
        if not found:
            raise typer.BadParameter(f"{each!r} must be as in user_id=customer")
        if role in roles:
            raise typer.BadParameter(f"{role} is given two columns")
        roles.append(role)
    return named


@dataclass(frozen=True, slots=True)
class _Rows:
    """A file, and what its rows are."""

    file: Path
    kind: Kind | None
    event: str | None
    columns: dict[str, str]

    @property
    def job(self) -> dict[str, Any]:
        """Return what `backfill` is told of the rows."""
        if self.kind is None:
            return {}
        return {"kind": self.kind.value, "event": self.event, "columns": self.columns}

    def flat(self) -> "FlatRows | None":
        """Return who knows the columns; None when the rows are messages.

        :raises ConfigurationError: for a name that this kind does not have.
        """
        from mixpanel.cdp._segment.rows import FlatRows

        return FlatRows(**self.job) if self.kind is not None else None

    def read(self) -> Iterator[Any]:
        """Yield the rows.

        :raises ConfigurationError: for a file that cannot be read.
        """
        from mixpanel.data.store import read_rows

        flat = self.flat()

        # As it stands: a guess would change an id, a name of digits, or a date of another country.
        return read_rows(self.file, lambda names: flat.require_columns(names) if flat else ())


@sharing(source=of_source)
def backfill(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, readable=True, show_default=False, metavar="FILE",
            help="NDJSON, CSV or Parquet, as its name ends; text may be .gz or .zst.",
        ),
    ],
    *,
    kind: Annotated[
        Kind | None,
        typer.Option(
            show_default="messages, each with its type", help="What the rows of a table are."
        ),
    ] = None,
    event: Annotated[
        str | None, typer.Option(help="One name for every track, when no column holds it.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHAT=COLUMN", callback=_columns,
            help="Which column holds what, as in user_id=customer; user_id= says that none does. "
            "[dim]Else: user_id, userId, User ID, and so on[/]",
        ),
    ] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, max=32, help="Requests in flight at the most.")
    ] = 8,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, show_default="FILE.backfill",
            help="Remember here how far it came; gone when all of it is done.",
        ),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew, whatever the checkpoint says.")
    ] = False,
    failed: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, writable=True, metavar="FILE",
            help="Write each refused message here, with position and reason, for `replay`.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check every row here, and send nothing.")
    ] = False,
    source: Source,
    format: As = None,  # noqa: A002
    jq: Jq = None,
) -> None:  # fmt: skip
    """Send a file of messages of the past, with the times that they have.

    Without --kind each row is a message as `batch` takes it. With it, rows are a table: columns are
    the person, the time and so on, and all others properties, of identify and group traits. What
    was done or seen needs its timestamp. A row without an id gets one made of its content, so that
    sending it again makes no copies, and rows that are alike in everything count once.

    Interrupted, or killed, the same command goes on where it was. Several requests go at once and
    in no order; the vendor's rate is kept. Ends with 6 when some messages were refused.
    """
    options = Options(format, jq)
    rows = _Rows(file, kind, event, dict(each.split("=", 1) for each in column or ()))
    if kind is None and (event is not None or column):
        raise typer.BadParameter("--event and --column are for tables: say which --kind they hold")
    place = checkpoint or file.with_name(f"{file.name}{SUFFIX}")
    for written in (failed, place):
        apart(written, file)
    if failed is not None:
        apart(place, failed)
    rows.flat()
    if dry_run:
        with failed_rows(failed, 0, past=True) as refused:
            _check(source, rows, refused, options)
        return
    which = hashlib.sha256(source.key().reveal().encode()).hexdigest()[:12]
    job = {
        "to": source.vendor.value,
        "source": which,
        "sent_to": source.origin,
        **rows.job,
    }
    kept = Checkpoint(place, file, job)
    with kept.alone():
        came = kept.anew() if restart else kept.load()
        _send(source, rows, kept, came, failed, concurrency, options)


# ---- sending ------------------------------------------------------------------------------------


def _send(
    source: Source,
    rows: _Rows,
    kept: Checkpoint,
    came: Came,
    failed: Path | None,
    concurrency: int,
    options: Options,
) -> None:
    from mixpanel.bulk import ImportInterrupted

    if came.position:
        say(
            f"going on at row {came.position:,}: {came.delivered:,} delivered and "
            f"{came.refused:,} refused before"
        )
    with source.client() as client, failed_rows(failed, came.position, past=True) as refused:
        kept.before_save = refused.sync
        kept.save(came)  # while nothing was sent, not being able to is no loss
        try:
            result = _sent(client, source, rows, concurrency, came, kept, refused)
        except ImportInterrupted as stopped:
            came.reach(stopped.result.position)
            _stopped(kept, came)
            why = stopped.__cause__
            raise why if isinstance(why, MixpanelException) else _unreadable(rows, why) from stopped
        except BaseException:
            _stopped(kept, came)
            raise
    came.reach(result.position)
    kept.done()
    _show(result, came, source, options)
    if came.refused:
        raise typer.Exit(ExitCode.PARTIAL)


def _sent(
    client: "SegmentClient",
    source: Source,
    rows: _Rows,
    concurrency: int,
    came: Came,
    kept: Checkpoint,
    failed: FailedRows,
) -> "ImportResult":
    from mixpanel.settings import RetryPolicy

    def refused(one: "RejectedRecord") -> None:
        failed.write_record(one)
        came.refuse(one.index)

    again = AGAIN if source.retries is None else source.retries
    with progress(rows.file, came.position, "messages") as show:

        def told(now: "ImportProgress") -> None:
            came.reach(now.position)
            try:
                kept.keep(came)
            except MixpanelException as error:
                raise UnwritableError(str(error)) from error
            show(now)

        return client.backfill(
            rows.read(),
            **rows.job,
            concurrency=concurrency,
            start_at=came.position,
            on_progress=told,
            on_rejected=refused,
            retry=RetryPolicy(attempts=1 + again, first_wait=0.5, max_age=math.inf),
        )


def _unreadable(rows: _Rows, why: BaseException | None) -> MixpanelException:
    return MixpanelException(f"{rows.file} cannot be read on: {why}")


def _stopped(kept: Checkpoint, came: Came) -> None:
    if not came.position:
        kept.done()
        return
    with suppress(MixpanelException):  # what stopped it is what there is to say
        kept.save(came)
    say(f"it stopped at row {came.position:,}: the same command goes on there", "yellow")


def _show(result: "ImportResult", came: Came, source: Source, options: Options) -> None:
    told = {
        "delivered": came.delivered,
        "refused": came.refused,
        "requests": result.requests,
        "retried": result.retried,
        "seconds": round(result.seconds, 3),
        "sent_to": source.origin,
    }
    common = sorted(result.reasons.items(), key=lambda item: -item[1])
    shown = told | {f"refused: {reason}": count for reason, count in common[:SHOWN]}
    write(Shown(told | {"reasons": dict(result.reasons)}, shown), options)


# ---- checking -----------------------------------------------------------------------------------


def _check(
    source: Source,
    rows: _Rows,
    refused: FailedRows,
    options: Options,
) -> None:
    """Compose every row as it would be sent, and say what would come of it."""
    first: list[RejectedRecord] = []
    reasons: Counter[str] = Counter()

    def failed(one: "RejectedRecord") -> None:
        reasons[one.message] += 1
        first.extend([one] if len(first) < SHOWN else [])
        refused.write_record(one)

    from mixpanel.credentials import Secret

    anybody = replace(source, write_key=source.write_key or Secret("dry-run"))
    with anybody.client(disabled=True) as client:
        result = client.backfill(rows.read(), **rows.job, on_rejected=failed)
        warnings = dict(client.stats().warnings)
    told = {
        "good": result.position - result.rejected,
        "bad": result.rejected,
        "reasons": dict(reasons.most_common(100)),
        "warnings": warnings,
        "would_go_to": source.origin,
        "example": _example(source, rows),
    }
    write(Shown(told, {name: told[name] for name in ("good", "bad", "would_go_to")}), options)
    for one in first:
        say(f"{rows.file.name}, row {one.index}: {one.message}", "red")
    say("a dry run: nothing was sent", "dim")
    if result.rejected:
        raise typer.Exit(ExitCode.PARTIAL)


def _example(source: Source, rows: _Rows) -> dict[str, Any] | None:
    """Return the first message that would be sent, to see whether the columns are right."""
    from mixpanel.cdp._segment.rows import with_message_id
    from mixpanel.exceptions import ValidationError

    flat, composer = rows.flat(), source.composer("off")
    for row in rows.read():
        with suppress(ValidationError):
            return composer.from_dict(
                with_message_id(row if flat is None else flat.message(row))
            ).decoded()
    return None
