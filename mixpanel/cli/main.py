"""Start `mp`, or say what is missing to start it."""

import os
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
    try:
        app(prog_name="mp")
    except SystemExit as end:
        sys.exit(_written(end.code))


def _written(code: str | int | None) -> str | int | None:
    """See to it that the result has left, which a full disk shows only now; return the code."""
    if sys.stdout is None:  # it was closed from the start
        return code
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python would try again at its own end, and say so in four lines.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not code and not isinstance(error, BrokenPipeError):
            print(f"mp: the result cannot be written: {error.strerror}", file=sys.stderr)
        return code or 1
    return code
