"""Start `mp`, or say what is missing to start it."""

import sys


def run() -> None:
    """Run the command line and end the process with its exit code."""
    try:
        from mixpanel.cli.app import app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("typer", "rich"):
            raise
        print("mp needs: pip install 'mixpanel-async[cli]'", file=sys.stderr)
        sys.exit(1)
    app(prog_name="mp")
