"""`mp spool`: messages that programs keep on disk until they are delivered."""

import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixpanel.cli._cdp.source import KEY_VARIABLES, Keys, Source, Vendor, keys_options
from mixpanel.cli._options.project import service_account
from mixpanel.cli._options.shared import with_options
from mixpanel.cli._output.exit_codes import ExitCode
from mixpanel.cli._output.format import OutputOptions, TableView, output_options, write
from mixpanel.cli._output.terminal import ForceOption, confirm_or_abort, format_bytes, say
from mixpanel.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mixpanel._delivery.sender import Sender
    from mixpanel._delivery.spool.maintenance import SpoolFile
    from mixpanel._delivery.stats import Stats
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
MP_CUSTOMERIO_WRITE_KEY=… mp spool drain --spool /var/lib/shop/spool
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

NEXT_FILE = 0.05  # seconds

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


@with_options(keys=keys_options, output=output_options)
def drain(
    *,
    spool: SpoolOption,
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="Stop each destination after this time; the rest stays in the spool.",
        ),
    ] = 60.0,
    keys: Keys,
    output: OutputOptions,
) -> None:
    """Send messages of ended processes to Mixpanel, Customer.io and the other vendors.

    Credentials are not in the spool. Messages of a client with a service account need that account:
    mp --account NAME, or MP_USERNAME, MP_SECRET and MP_PROJECT_ID. Those for Customer.io,
    Hightouch, Segment or RudderStack need the write key that they were tracked with: --write-key,
    or MP_CUSTOMERIO_WRITE_KEY and so on. They are sent to where their client sent.
    """
    from mixpanel._delivery.spool.folder import read_destination
    from mixpanel._delivery.spool.maintenance import destinations

    rows, incomplete = [], False
    for folder in destinations(spool):
        if not _is_waiting(folder):
            continue
        row = {"destination": folder.name, "delivered": 0, "rejected": 0, "dropped": 0}
        stats: Stats | None = None
        try:
            about = read_destination(folder)
            if about.get("service") == "mixpanel":
                stats, problem = _drain_mixpanel(spool, folder, about, timeout)
            else:
                stats, problem = _drain_cdp(spool, folder, about, keys, timeout)
            dropped = sum(stats.dropped.values())
            row |= {"delivered": stats.delivered, "rejected": stats.rejected, "dropped": dropped}
            incomplete |= bool(stats.rejected or dropped or stats.pending)
        except ConfigurationError as error:
            incomplete, problem = True, str(error)
        rows.append({**row, "pending": None if stats is None else stats.pending})
        if problem:
            say(f"{folder.name}: {problem}", "yellow")
    write(rows, output)
    if not rows:
        say("nothing is waiting", "dim")
    if incomplete:
        raise typer.Exit(ExitCode.PARTIAL)


def _is_waiting(folder: Path) -> bool:
    """Return True if a process that has ended left messages for a destination."""
    from mixpanel._delivery.spool.maintenance import files_of

    return any(each.state == "waiting" and any(each.messages.values()) for each in files_of(folder))


def _drain_mixpanel(
    spool: Path, folder: Path, about: dict[str, str], timeout: float
) -> "tuple[Stats, str]":
    """Send the messages of a destination at Mixpanel; return what came of them, and the last error.

    :raises ConfigurationError: without the service account that they need.
    """
    from mixpanel.consumers import AsyncBufferedConsumer

    credentials = service_account() if "project_id" in about else None
    consumer = AsyncBufferedConsumer(
        base_url=about["origin"],
        geolocate=about.get("geolocate") == "true",
        credentials=credentials,
        spool=spool,
    )
    sender = consumer._sender
    name = sender.buffer.options.destination.folder_name  # type: ignore[attr-defined]
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
    return _flush_all(sender, folder, timeout)


def _drain_cdp(
    spool: Path, folder: Path, about: dict[str, str], keys: Keys, timeout: float
) -> "tuple[Stats, str]":
    """Do as `_drain_mixpanel`, for a destination at another vendor.

    :raises ConfigurationError: without its write key.
    """
    from mixpanel._delivery.spool.folder import Destination

    service, origin = about.get("service", "unknown"), about.get("origin", "")
    if service not in set(Vendor):
        raise ConfigurationError(
            f"this needs a client of {service}, which mp does not have: start the program that "
            "has it"
        )
    vendor = Vendor(service)
    for key in keys.candidates(vendor):
        if Destination(service, (origin, key.reveal()), {}).folder_name == folder.name:
            oauth = keys.oauth() if vendor is Vendor.HIGHTOUCH else None
            client = Source(vendor, key, base_url=origin, oauth=oauth).client(
                spool=spool, retry=None
            )
            return _flush_all(client._sender, folder, timeout)
    raise ConfigurationError(
        f"this needs the write key of {service} that its messages were tracked with: give "
        f"--write-key, or set {KEY_VARIABLES[vendor]}"
    )


def _flush_all(sender: "Sender[Any]", folder: Path, timeout: float) -> "tuple[Stats, str]":
    """Send what ended processes have left in a folder, one file after the other, and close.

    Return what came of it, and the error that ended it early, or the last one; "" without any.
    """
    from mixpanel._delivery import sync_delivery

    end = time.monotonic() + timeout
    while True:
        result = sync_delivery.flush(sender, max(0.0, end - time.monotonic()))
        problem = str(result.errors[-1]) if result.errors else ""
        is_halted = any(error.needs_attention for error in result.errors)
        is_done = not sender.stats.pending and not _is_waiting(folder)
        if is_done or is_halted or time.monotonic() > end:
            break
        time.sleep(NEXT_FILE)  # in which the next file is adopted
    sync_delivery.close(sender, 0.0)
    return sender.stats.snapshot(), problem


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
    rows = [{"reason": name, "messages": count} for name, count in sorted(moved.items())]
    write(rows, output, empty=None)
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
