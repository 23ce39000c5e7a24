"""`mp spool`: messages that programs keep on disk until they are delivered."""

import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixpanel.cli._options.project import service_account
from mixpanel.cli._options.shared import with_options
from mixpanel.cli._output.exit_codes import ExitCode
from mixpanel.cli._output.format import OutputOptions, TableView, output_options, write
from mixpanel.cli._output.terminal import ForceOption, confirm_or_abort, format_bytes, say
from mixpanel.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mixpanel._delivery.spool.maintenance import SpoolFile
    from mixpanel._delivery.stats import FlushResult
    from mixpanel.cli.app import Command

HELP = """
A client with spool=FOLDER, or MP_SPOOL, writes messages to files in that folder before it sends
them. The next start of the program sends the rest, so these commands are for inspection, and for
machines on which it does not start again. Files of a running process are only read.
"""
EXAMPLE = "mp spool ls --spool /var/lib/shop/spool"
LS = """
mp spool ls --spool /var/lib/shop/spool
MP_SPOOL=/var/lib/shop/spool mp spool ls --format json
"""
STATS = "mp spool stats --spool /var/lib/shop/spool"
DRAIN = """
mp spool drain --spool /var/lib/shop/spool
mp --account prod spool drain --spool /var/lib/shop/spool --timeout 600
"""
EXPORT = """
mp spool export --spool /var/lib/shop/spool --format jsonl > waiting.jsonl
mp spool export --dead --format jsonl > dead.jsonl
"""
RETRY = """
mp spool retry --reason expired
mp spool retry && mp spool drain
"""
PURGE = """
mp spool purge --dead
mp spool purge --all --force
"""

SpoolOption = Annotated[
    Path,
    typer.Option(
        "--spool", metavar="FOLDER", envvar="MP_SPOOL", show_default=False,
        help="The folder that the program passes as spool=.",
    ),
]  # fmt: skip


@with_options(output=output_options)
def ls(*, spool: SpoolOption, output: OutputOptions) -> None:
    """List the files of a spool, with the processes that use them and their messages."""
    from mixpanel._delivery.spool.maintenance import inventory

    found = inventory(spool)
    now = time.time()
    data = [
        {
            "destination": each.destination,
            "service": each.service,
            "origin": each.origin,
            "file": str(each.path),
            "state": each.state,
            "pid": each.pid,
            "messages": each.messages,
            "bytes": each.bytes,
            "oldest": _timestamp(each.oldest),
            "dead": each.dead,
            "file_bytes": each.file_bytes,
            "error": each.error,
        }
        for each in found
    ]
    rows = [
        {
            "destination": each.destination.partition("-")[0] + "-" + each.destination[-6:],
            "file": each.path.name[:8],
            "state": f"{each.state} ({each.pid})" if each.pid else each.error or each.state,
            "messages": f"{sum(each.messages.values()):,}",
            "size": format_bytes(each.bytes),
            "oldest": _age(each.oldest, now),
            "dead": f"{each.dead:,}",
        }
        for each in found
    ]
    write(TableView({"files": data}, rows), output)
    if not found:
        say("the spool is empty", "dim")


@with_options(output=output_options)
def stats(*, spool: SpoolOption, output: OutputOptions) -> None:
    """Count messages by destination and endpoint, and dead letters."""
    from mixpanel._delivery.spool.maintenance import inventory

    rows: list[dict[str, Any]] = []
    by_destination: dict[str, list[SpoolFile]] = {}
    for each in inventory(spool):
        by_destination.setdefault(each.destination, []).append(each)
    for name, files in by_destination.items():
        messages = sum((Counter(each.messages) for each in files), Counter[str]())
        ages = [each.oldest for each in files if each.oldest is not None]
        rows.append({
            "destination": name,
            "origin": files[0].origin,
            "files": len(files),
            "in_use": sum(each.state == "in use" for each in files),
            "damaged": sum(each.state == "damaged" for each in files),
            "messages": dict(messages),
            "bytes": sum(each.bytes for each in files),
            "oldest": _timestamp(min(ages, default=None)),
            "dead": sum(each.dead for each in files),
            "file_bytes": sum(each.file_bytes for each in files),
        })  # fmt: skip
    table = [
        {
            "origin": row["origin"],
            "endpoint": endpoint,
            "messages": f"{count:,}",
        }
        for row in rows
        for endpoint, count in [*sorted(row["messages"].items()), ("dead letters", row["dead"])]
    ]
    write(TableView({"destinations": rows}, table), output)


@with_options(output=output_options)
def drain(
    *,
    spool: SpoolOption,
    timeout: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="Stop after this time; the rest stays in the spool."),
    ] = 60.0,
    output: OutputOptions,
) -> None:
    """Send messages of ended processes to Mixpanel.

    Messages of a client with a service account need that account: mp --account NAME, or
    MP_USERNAME, MP_SECRET and MP_PROJECT_ID. Those for other vendors, such as Customer.io, need a
    write key, which is not in the spool: start the program that has it.
    """
    import asyncio

    from mixpanel._delivery.spool.folder import read_destination
    from mixpanel._delivery.spool.maintenance import destinations, inventory

    waiting = {
        each.destination
        for each in inventory(spool)
        if each.state == "waiting" and any(each.messages.values())
    }
    rows, incomplete = [], False
    for folder in destinations(spool):
        if folder.name not in waiting:
            continue
        result, problem = None, ""
        try:
            consumer = _consumer_of(spool, folder, read_destination(folder))
            result = asyncio.run(_send(consumer, timeout))
        except ConfigurationError as error:
            problem = str(error)
        row = {
            "destination": folder.name,
            "delivered": 0 if result is None else result.delivered,
            "rejected": 0 if result is None else result.rejected,
            "dropped": 0 if result is None else sum(result.dropped.values()),
            "pending": None if result is None else result.pending,
        }
        if result is not None and result.errors:
            problem = str(result.errors[-1])
        rows.append(row)
        incomplete |= result is None or not result.ok
        if problem:
            say(f"{folder.name}: {problem}", "yellow")
    write(rows, output)
    if not rows:
        say("nothing is waiting", "dim")
    if incomplete:
        raise typer.Exit(ExitCode.PARTIAL)


def _consumer_of(spool: Path, folder: Path, about: dict[str, str]) -> Any:
    """Return a consumer with the destination of a folder.

    :raises ConfigurationError: if it cannot be made from what is known here.
    """
    from mixpanel.consumers import AsyncBufferedConsumer

    if about.get("service") != "mixpanel":
        raise ConfigurationError(
            f"this needs the write key of {about.get('service', 'its vendor')}, which is not in "
            "the spool: start the program that has it"
        )
    credentials = service_account() if "project_id" in about else None
    consumer = AsyncBufferedConsumer(
        base_url=about["origin"],
        geolocate=about.get("geolocate") == "true",
        credentials=credentials,
        spool=spool,
    )
    name = consumer._sender.buffer.options.destination.folder_name  # type: ignore[attr-defined]
    if name != folder.name:
        if "project_id" in about:
            raise ConfigurationError(
                f"this needs the service account of project {about['project_id']}: choose it with "
                "mp --account NAME, or start the program that has it"
            )
        raise ConfigurationError(
            "this needs the URLs of its consumer, which are not in the spool: start the program "
            "that has them"
        )
    return consumer


async def _send(consumer: Any, timeout: float) -> "FlushResult":
    result: FlushResult = await consumer.flush(timeout)
    await consumer.aclose(0.0)
    return result


@with_options(output=output_options)
def export(
    *,
    spool: SpoolOption,
    dead: Annotated[
        bool, typer.Option("--dead", help="Export dead letters instead of what is waiting.")
    ] = False,
    output: OutputOptions,
) -> None:
    """Write messages as JSON; they stay in the spool.

    Files of a running process are left out.
    """
    from mixpanel._delivery.spool.maintenance import export as exported

    skipped: list[Path] = []
    write(exported(spool, dead=dead, waiting=not dead, skipped=skipped), output.for_stream())
    _say_skipped(skipped)


@with_options(output=output_options)
def retry(
    *,
    spool: SpoolOption,
    reason: Annotated[
        str | None,
        typer.Option(metavar="REASON", help="Only dead letters with this reason, such as expired."),
    ] = None,
    output: OutputOptions,
) -> None:
    """Move dead letters back into the queue, to be sent by the next start or `mp spool drain`.

    Ambiguous updates may have been applied: sending them again may apply them twice.
    """
    from mixpanel._delivery.spool.maintenance import retry as retried

    skipped: list[Path] = []
    moved = retried(spool, reason=reason, skipped=skipped)
    write([{"reason": name, "messages": count} for name, count in sorted(moved.items())], output)
    if not moved:
        say("no dead letters", "dim")
    _say_skipped(skipped)


@with_options(output=output_options)
def purge(
    *,
    spool: SpoolOption,
    dead: Annotated[bool, typer.Option("--dead", help="Delete dead letters.")] = False,
    damaged: Annotated[
        bool, typer.Option("--damaged", help="Delete damaged files that were set aside.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Also delete messages that were not sent.")
    ] = False,
    force: ForceOption = False,
    output: OutputOptions,
) -> None:
    """Delete dead letters, damaged files, or everything that is not in use."""
    from mixpanel._delivery.spool.maintenance import purge as purged
    from mixpanel._delivery.spool.maintenance import remove_damaged

    if not (dead or damaged or everything):
        raise typer.BadParameter("choose what to delete: --dead, --damaged or --all")
    what = {"messages that were not sent": everything, "dead letters": dead or everything,
            "damaged files": damaged or everything}  # fmt: skip
    names = ", ".join(name for name, chosen in what.items() if chosen)
    confirm_or_abort(f"Delete {names} in {spool}?", force=force)
    skipped: list[Path] = []
    deleted = {"waiting": 0, "dead": 0, "damaged_files": 0}
    if dead or everything:
        deleted |= purged(spool, waiting=everything, skipped=skipped)
    if damaged or everything:
        deleted["damaged_files"] = remove_damaged(spool)
    write(deleted, output)
    _say_skipped(skipped)


def _say_skipped(skipped: "Sequence[Path]") -> None:
    damaged = [path for path in skipped if ".corrupt-" in path.name]
    for path in damaged:
        say(f"a damaged file is set aside as {path}", "yellow")
    count = len(skipped) - len(damaged)
    if count:
        files = "1 file is" if count == 1 else f"{count} files are"
        say(f"{files} in use by a running process, and left out", "yellow")


def _timestamp(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()


def _age(then: float | None, now: float) -> str:
    if then is None:
        return ""
    seconds = max(0.0, now - then)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


COMMANDS: "tuple[Command, ...]" = (
    ("ls", ls, LS),
    ("stats", stats, STATS),
    ("drain", drain, DRAIN),
    ("export", export, EXPORT),
    ("retry", retry, RETRY),
    ("purge", purge, PURGE),
)
