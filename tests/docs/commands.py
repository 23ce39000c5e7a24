"""The reference of the `mp` command, made from the commands themselves."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import typer

from mixpanel.cli._output.exit_codes import ExitCode
from mixpanel.cli.app import app
from tests.docs.pages import DOCS

PAGE, PROJECT_PAGE = DOCS / "commands.md", DOCS / "commands-project.md"
MEANING = {
    ExitCode.OK: "success",
    ExitCode.ERROR: "an error that has no code of its own",
    ExitCode.AUTHENTICATION: "invalid credentials, or no permission",
    ExitCode.USAGE: "invalid arguments, settings or SQL",
    ExitCode.NOT_FOUND: "there is no such account, table, event, file or object",
    ExitCode.RATE_LIMITED: "the hourly limit is used up, and `--max-wait` is shorter than the wait",
    ExitCode.PARTIAL: "done, but some records were rejected, or a check found problems",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C",
}
WITH_VALUE = ("-a", "--account", "--error-format", "--memory-limit", "--threads")
HEAD = """\
# Commands

Every command of `mp`, with its options, as `mp COMMAND --help` shows them.
[From the shell](shell.md) is a tour. `mp project`, with a command for each method of `ws.project`,
has [a page of its own](commands-project.md). `python -m tests.docs write` writes this page.

Results go to stdout, messages to stderr. `--format` is `table`, `json`, `jsonl`, `csv` or `plain`:
by default a table on a terminal and JSON in a pipe; `--jq` selects parts of the JSON.

## Exit codes

| code | meaning |
|---|---|
"""
PROJECT_HEAD = """\
# Commands of mp project

`mp project` has a command for each method of [`ws.project`](project-data.md), for people and
scripts. Exit codes and formats are those of [all commands](commands.md). `python -m tests.docs
write` writes this page.
"""


class Command(NamedTuple):
    """A command or group: its words, and click's object."""

    words: str
    command: Any
    is_group: bool


def commands(group: Any = None, words: str = "mp") -> Iterator[Command]:
    """Yield each group and command, each group before its commands."""
    command = typer.main.get_command(app) if group is None else group
    below = getattr(command, "commands", None) or {}
    yield Command(words, command, bool(below))
    for name in below:
        yield from commands(below[name], f"{words} {name}")


def examples_of(command: Any) -> list[str]:
    """Return the examples in the help of a command."""
    return [line.strip() for line in (command.epilog or "").strip().splitlines() if line.strip()]


def typed_in(text: str) -> Iterator[str]:
    """Yield what pages type after `mp`, in blocks of code and in spans of it."""
    for line in re.sub(r"\\\n(?:> )?", " ", text).splitlines():
        yield from re.findall(r"`(mp [^`]+)`", line)
        if re.match(r"(?:\$ |[\w/*, ]*[\d*] +|[A-Z_]+=\S+ )*(?:mp) [a-z-]", line):
            for part in re.split(r"&&|\|\|?|;|>", line):
                found = re.search(r"(?:^|\s)(mp [a-z-].*)", part)
                if found:
                    yield found[1]


@cache
def _by_words() -> dict[str, Any]:
    return {each.words: each.command for each in commands()}


def unknown(text: str) -> list[str]:
    """Return the commands and options in a page that `mp` does not have."""
    known = _by_words()
    everywhere = {option for one in known["mp"].params for option in one.opts} | {"-h", "--help"}
    problems = []
    for typed in typed_in(text):
        words, command = "mp", known["mp"]
        rest = typed.split(" # ")[0].split()[1:]
        while rest and rest[0].startswith("-"):
            takes_value = rest[0] in (
                "-a",
                "--account",
                "--error-format",
                "--memory-limit",
                "--threads",
            )
            rest = rest[2 if takes_value and "=" not in rest[0] else 1 :]
        while rest and getattr(command, "commands", None):
            if not re.fullmatch(r"[a-z][a-z-]*", rest[0]):
                break  # a placeholder, such as COMMAND or …
            words = f"{words} {rest.pop(0)}"
            if words not in known:
                problems.append(f"there is no command {words!r}: {typed}")
                break
            command = known[words]
        else:
            options = {o for one in command.params for o in (*one.opts, *one.secondary_opts)}
            problems += [
                f"{words} has no option {token}: {typed}"
                for token in (each.split("=")[0].rstrip(",.)`") for each in rest)
                if re.fullmatch(r"--[a-z][a-z-]*", token) and token not in options | everywhere
            ]
    return problems


def without_example() -> list[str]:
    """Return the commands whose help has no example that uses them."""
    return [
        each.words
        for each in commands()
        if not each.is_group
        and not any(each.words in " ".join(line.split()) for line in examples_of(each.command))
    ]


def without_help() -> list[str]:
    """Return the commands, and the options of commands, that say nothing of themselves."""
    found = [each.words for each in commands() if not (each.command.help or "").strip()]
    for each in commands():
        found += [
            f"{each.words} {parameter.opts[0]}"
            for parameter in each.command.params
            if parameter.param_type_name == "option"
            and not parameter.hidden
            and not (parameter.help or "").strip()
        ]
    return found


def _described(
    each: Command, *, above: int = 0, but: frozenset[str] = frozenset()
) -> Iterator[str]:
    """Yield the lines of a command; `but` are rows that the top of the page has for all."""
    yield f"{'##' if each.words.count(' ') < 2 + above else '###'} {each.words}"
    yield ""
    yield _escaped((each.command.help or "").strip())
    yield ""
    rows = [row for row in _rows(each) if row not in but]
    if rows and not each.is_group:
        yield "| | |"
        yield "|---|---|"
        yield from rows
        yield ""
    examples = examples_of(each.command)
    if examples:
        yield "```text"
        yield from examples
        yield "```"
        yield ""


def _rows(each: Command) -> list[str]:
    return [_row(parameter) for parameter in each.command.params if not _hidden(parameter)]


def _hidden(parameter: Any) -> bool:
    return getattr(parameter, "hidden", False) or parameter.name == "help"


def _row(parameter: Any) -> str:
    """Return one line of the table: names, value, help, default and variable."""
    metavar = parameter.metavar or ""
    if parameter.param_type_name == "argument":
        names = f"`{metavar or parameter.name.upper()}`"
    else:
        names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
        if metavar and not getattr(parameter, "is_flag", False):
            names += f" `{metavar}`"
    text = " ".join((getattr(parameter, "help", "") or "").split())
    if getattr(parameter, "required", False):
        text += " Required." if parameter.param_type_name == "option" else ""
    variable = getattr(parameter, "envvar", None)
    if variable:
        text += f" Or `{variable}`."
    return f"| {_cell(names)} | {_cell(_escaped(text))} |"


def _cell(text: str) -> str:
    return text.strip().replace("|", "\\|")


def _escaped(text: str) -> str:
    """Return help as Markdown: what looks like HTML is kept as text."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part
        if part.startswith("`")
        else part.replace("<", "&lt;").replace("*", "\\*").replace("[", "\\[")
        for part in parts
    )


def written() -> dict[Any, str]:
    """Return the text of both pages."""
    rows = [f"| {code.value} | {MEANING[code]} |" for code in ExitCode]
    everything = list(commands())
    project = [each for each in everything if each.words.startswith("mp project")]
    others = [each for each in everything if each not in project]
    root = others[0]
    lines = [HEAD.rstrip("\n"), *rows, "", "## Options of every command", ""]
    lines += ["They come before the command: `mp --quiet fetch sync`.", "", "| | |", "|---|---|"]
    lines += [*_rows(root), ""]
    for each in others[1:]:
        lines += _described(each)
    shared = [set(_rows(each)) for each in project if not each.is_group]
    common = frozenset(set.intersection(*shared))
    below = [PROJECT_HEAD, "## Options of all of them", "", "| | |", "|---|---|"]
    below += [*(row for row in _rows(project[-1]) if row in common), ""]
    for each in project[1:]:
        below += _described(each, above=1, but=common)
    return {
        PAGE: "\n".join(lines).rstrip("\n") + "\n",
        PROJECT_PAGE: "\n".join(below).rstrip("\n") + "\n",
    }
