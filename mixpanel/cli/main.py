"""The entry point of `mp`."""

import os
import sys

INTERRUPTED = 130  # ExitCode.INTERRUPTED, which could not be imported yet
INSTALL = "mp needs: pip install 'mixpanel-async[cli]'"


def run() -> None:
    """Run the command line and end the process with its exit code."""
    try:
        from mixpanel.cli.app import app

        app(prog_name="mp")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("typer", "rich"):
            raise
        print(INSTALL, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:  # while modules are imported
        sys.exit(INTERRUPTED)
    except SystemExit as end:
        sys.exit(_flushed(end.code))


def _flushed(code: str | int | None) -> str | int | None:
    """Flush stdout and return the exit code, 1 if the result could not be written.

    A full disk may report its error only now. A reader that stops early, as `head` does, is fine.
    """
    if sys.stdout is None:  # closed by the parent process
        return code
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python would flush again at exit and print a traceback of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return code
        if not code:
            print(f"mp: cannot write the result: {error.strerror}", file=sys.stderr)
        return code or 1
    return code
