"""Run a local Mixpanel from the shell."""

import errno
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixpanel.cli._output.terminal import say
from mixpanel.exceptions import ConfigurationError, MixpanelException

if TYPE_CHECKING:
    from mixpanel.emulator import Emulator

PORT = 8650
EXAMPLE = (
    "Example: mp emulator --db shop.duckdb\n\n"
    "and in another shell: MP_BASE_URL=http://127.0.0.1:8650 python app.py"
)


def emulator(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Listen here; 0 takes any.")] = PORT,
    db: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Keep the data in this DuckDB file.")
    ] = None,
    load: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Begin with the events in this file, such as a raw export; may be repeated.",
        ),
    ] = None,
    flags: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help='Serve the feature flags in this JSON file, {"flags": [...]} or a list, and '
            "follow it while you edit it.",
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="Take requests from web pages of this origin, such as http://localhost:3000; may "
            "be repeated. Those of other pages are refused.",
        ),
    ] = None,
) -> None:
    """Run a local Mixpanel until Ctrl-C.

    It answers on this machine only, takes any token and any service account, and shows at its
    address in a browser what has arrived. The address is written to stdout.

    Clients of Mixpanel go to it with MP_BASE_URL, those of Customer.io and Hightouch with
    MP_CUSTOMERIO_BASE_URL=http://127.0.0.1:8650/customerio and
    MP_HIGHTOUCH_BASE_URL=http://127.0.0.1:8650/hightouch.
    """
    from mixpanel.emulator import serve

    def started(running: "Emulator") -> None:
        for path in load or ():
            loaded = running.load(path)
            say(f"Loaded {loaded:,} {'event' if loaded == 1 else 'events'} from {path}.", "dim")
        typer.echo(running.url)
        kept = "in memory, gone when it stops" if db is None else f"in {db}"
        say(f"Send to it with MP_BASE_URL={running.url}. What comes is kept {kept}.", "dim")
        say(f"Customer.io's clients: MP_CUSTOMERIO_BASE_URL={running.customerio_url}", "dim")
        say(f"Hightouch's clients: MP_HIGHTOUCH_BASE_URL={running.hightouch_url}", "dim")
        if flags is not None:
            say(f"Feature flags come from {flags}, also while you edit it.", "dim")
        say("Ctrl-C stops it.", "dim")

    try:
        serve(port, db, started=started, flags=flags, allow_origins=allow_origin or ())
    except ValueError as error:
        raise ConfigurationError(f"cannot serve {error}") from error
    except OSError as error:
        # DuckDB's own errors are of this kind too, but have no number.
        what = f"listen on port {port}" if error.errno else f"open {db}"
        why = error.strerror or str(error).partition("\n")[0]
        if error.errno == errno.EADDRINUSE:
            why += "; is another `mp emulator` running? Else take --port 0"
        raise MixpanelException(f"cannot {what}: {why}") from error
