"""The terminal: messages on stderr, questions, and the small charts of the demo.

Rich is imported where something is printed with it, so that help and plain JSON do not pay for it.
"""

import os
import re
import sys
from collections.abc import Iterable, Sequence
from getpass import getpass
from typing import TYPE_CHECKING, Annotated

import typer

from mixpanel.cli._options.global_options import global_options

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
BAR = "▇"
SPARKS = "▁▂▃▄▅▆▇█"

ForceOption = Annotated[
    bool, typer.Option("--yes", "-y", "--force", help="Do not ask for confirmation.")
]


def is_plain() -> bool:
    """Return True if `MP_PLAIN` is set, for output without colour in the plain format."""
    return os.environ.get("MP_PLAIN", "") not in ("", "0")


def stdout_console() -> "Console":
    """Return the console for results."""
    return _console()


def stderr_console() -> "Console":
    """Return the console for messages."""
    return _console(stderr=True)


def _console(*, stderr: bool = False) -> "Console":
    from rich.console import Console

    class PipedConsole(Console):
        def on_broken_pipe(self) -> None:
            """Raise the error, which `mp` expects of any output, instead of ending with 1."""
            raise  # noqa: PLE0704 - Rich calls it while it handles the error

    return PipedConsole(stderr=stderr, highlight=False, no_color=is_plain() or None)


def escape_controls(text: str) -> str:
    """Return text with control characters escaped, because a terminal acts on some of them.

    Line ends and tabs stay.
    """
    return CONTROL_CHARACTERS.sub(lambda found: repr(found[0])[1:-1], text)


def say(text: str, style: str = "") -> None:
    """Print a message on stderr, unless `--quiet` or JSON errors are on."""
    if not global_options.errors_only:
        complain(text, style)


def complain(text: str, style: str = "red") -> None:
    """Print an error on stderr, also with `--quiet`."""
    from rich.text import Text

    stderr_console().print(Text(escape_controls(text), style), soft_wrap=True)


# ---- questions ----------------------------------------------------------------------------------


def ask(question: str, *, hidden: bool = False) -> str:
    """Ask on stderr and return the line typed; `hidden` does not echo it.

    :raises typer.Abort: if stdin ends without a line.
    """
    from rich.text import Text

    prompt = f"{question}: "
    try:
        if hidden and sys.stdin is not None and sys.stdin.isatty():
            return getpass(prompt).strip()
        # input() would write the prompt to stdout.
        stderr_console().print(Text(prompt), end="", soft_wrap=True)
        line = "" if sys.stdin is None else sys.stdin.readline()
    except EOFError:
        line = ""
    if not (line and sys.stdin is not None and sys.stdin.isatty()):
        stderr_console().print()  # no echoed line end has moved the cursor
    if not line:
        raise typer.Abort
    return line.strip()


def stdin_is_terminal() -> bool:
    """Return True if someone can answer a question."""
    try:
        return sys.stdin is not None and sys.stdin.isatty()
    except ValueError:  # closed
        return False


def confirm_or_abort(question: str, *, force: bool, option: str = "--force") -> None:
    """Ask for confirmation of what cannot be undone, unless `force`, which `option` sets.

    :raises typer.BadParameter: if stdin is not a terminal and holds no answer.
    :raises typer.Abort: if the answer is not yes.
    """
    if force:
        return
    try:
        answer = ask(f"{question} [y/N]")
    except typer.Abort:
        if sys.stdin is not None and sys.stdin.isatty():
            raise
        raise typer.BadParameter(
            f"confirmation required, but stdin is not a terminal: add {option}"
        ) from None
    if answer.lower() not in ("y", "yes"):
        raise typer.Abort


# ---- tables and charts --------------------------------------------------------------------------


def key_value_table(rows: Iterable[tuple[str, str]]) -> "Table":
    """Return a table of names and values without borders."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(escape_controls(value)))
    return table


def bar_chart(rows: Iterable[tuple[str, int]], width: int = 32) -> "Table":
    """Return a bar chart of counts; the longest bar has `width` characters."""
    from rich.table import Table
    from rich.text import Text

    rows = list(rows)
    largest = max((count for _, count in rows), default=1)
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(no_wrap=True)
    for name, count in rows:
        bar = BAR * max(1, round(width * count / largest))
        table.add_row(Text(escape_controls(name)), f"{count:,}", Text(bar, "cyan"))
    return table


def sparkline(values: Sequence[int], width: int = 56, *, full: int = 1) -> str:
    """Return numbers as one line of small bars; long rows are reduced to their local maxima.

    A bar is full at the largest number, or at `full` if that is larger.
    """
    step = -(-len(values) // width) or 1
    maxima = [max(values[start : start + step]) for start in range(0, len(values), step)]
    largest = max([full, *maxima])
    return "".join(SPARKS[round(value / largest * (len(SPARKS) - 1))] for value in maxima)


def format_bytes(count: int) -> str:
    """Return a number of bytes in KB or MB."""
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count / 1000:,.1f} KB"
