"""Show things: data on stdout, talk on stderr, colour and movement on terminals only."""

import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from getpass import getpass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixpanel.cli._options.global_options import asked

UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
BAR = "▇"
SPARKS = "▁▂▃▄▅▆▇█"

Force = Annotated[bool, typer.Option("--force", "--yes", "-y", help="Do not ask first.")]


class Format(StrEnum):
    """How a command writes its result."""

    TEXT = "text"
    JSON = "json"


def plain() -> bool:
    """Tell whether the environment asks for plain output, by `MP_PLAIN`."""
    return os.environ.get("MP_PLAIN", "") not in ("", "0")


def out() -> Console:
    """Return the console for data."""
    return Console(highlight=False, no_color=plain() or None)


def err() -> Console:
    """Return the console for talk."""
    return Console(stderr=True, highlight=False, no_color=plain() or None)


def visible(text: str) -> str:
    """Return text with control characters escaped: a terminal would obey some of them.

    Line ends and tabs stay.
    """
    return UNSEEN.sub(lambda found: repr(found[0])[1:-1], text)


def say(text: str, style: str = "") -> None:
    """Tell the person at the terminal something, unless they asked for quiet."""
    if not asked.silent:
        complain(text, style)


def complain(text: str, style: str = "red") -> None:
    """Tell what went wrong, also to those who asked for quiet."""
    err().print(Text(visible(text), style), soft_wrap=True)


def ask(question: str, *, hidden: bool = False) -> str:
    """Ask the person at the terminal; what they type is not shown if it is to stay hidden.

    :raises typer.Abort: when stdin ends without an answer.
    """
    prompt = f"{question}: "
    try:
        if hidden and sys.stdin is not None and sys.stdin.isatty():
            return getpass(prompt).strip()
        err().print(Text(prompt), end="", soft_wrap=True)  # input() would write to stdout
        line = "" if sys.stdin is None else sys.stdin.readline()
    except EOFError:
        line = ""
    if not (line and sys.stdin is not None and sys.stdin.isatty()):
        err().print()  # nobody has pressed Return on this screen
    if not line:
        raise typer.Abort
    return line.strip()


def confirm(question: str) -> bool:
    """Ask for a yes; anything else is a no."""
    return ask(f"{question} [y/N]").lower() in ("y", "yes")


def sure(question: str, *, force: bool, option: str = "--force") -> None:
    """Ask before what cannot be undone, unless the `option` was given.

    :raises typer.BadParameter: when there is nobody to ask.
    :raises typer.Abort: when the answer is not yes.
    """
    if force:
        return
    try:
        answer = confirm(question)
    except typer.Abort:
        if sys.stdin is not None and sys.stdin.isatty():
            raise
        raise typer.BadParameter(
            f"nobody is there to be asked: add {option} if it is meant"
        ) from None
    if not answer:
        raise typer.Abort


def json_visible(text: str) -> str:
    """Return JSON with the control characters escaped that JSON allows in a string."""
    return re.sub(r"[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", text)


def as_json(data: Mapping[str, Any]) -> None:
    """Write data for machines: one JSON object on stdout."""
    print(json_visible(json.dumps(data, ensure_ascii=False, indent=2, default=str)))


def prose(function: Callable[..., object]) -> str:
    """Return a command's docstring with its paragraphs unwrapped, for any width of terminal."""
    paragraphs = (inspect.getdoc(function) or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def pairs(rows: Iterable[tuple[str, str]]) -> Table:
    """Make a table of names and values, without any lines."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(visible(value)))
    return table


def counts(rows: Iterable[tuple[int, str]]) -> Table:
    """Make a table of how often each thing happened."""
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    table.add_column(overflow="fold")
    for count, what in rows:
        table.add_row(f"{count:,}", Text(visible(what)))
    return table


def bars(rows: Iterable[tuple[str, int]], width: int = 32) -> Table:
    """Make a bar chart of counts, the longest bar as long as `width`."""
    rows = list(rows)
    most = max((count for _, count in rows), default=1)
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(no_wrap=True)
    for name, count in rows:
        bar = BAR * max(1, round(width * count / most))
        table.add_row(Text(visible(name)), f"{count:,}", Text(bar, "cyan"))
    return table


def megabytes(count: int) -> str:
    """Write a number of bytes for people."""
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count / 1000:,.1f} KB"


def sparkline(values: Sequence[int], width: int = 56, *, full: int = 1) -> str:
    """Draw numbers as one line of little bars; of a long row, the highest of each few.

    A bar is full at the highest number, or at `full` if that is higher.
    """
    few = -(-len(values) // width) or 1
    highest = [max(values[at : at + few]) for at in range(0, len(values), few)]
    most = max([full, *highest])
    return "".join(SPARKS[round(value / most * (len(SPARKS) - 1))] for value in highest)
