"""Compare our surface with that of mixpanel_data: `python -m tests.data.surface` writes the page.

The names are in `surface.toml`; what we have is read from the classes and from the commands.
"""

import inspect
import tomllib
from pathlib import Path

import typer.main

from mixpanel.cli.app import app
from mixpanel.data import AsyncAPI, Workspace

HERE = Path(__file__)
PAGE = HERE.parents[2] / "docs" / "workspace-methods.md"
SURFACE = tomllib.loads(HERE.with_suffix(".toml").read_text())
INSTEAD, NOTES = SURFACE["instead"], SURFACE["notes"]
HEAD = """# Methods and commands of mixpanel_data

Code and scripts written for `mixpanel_data` find its methods and commands here under their names.
This page lists each of them with its status: *present* with all parameters or options, *partial*
without some of them, *moved* to the name in the note, or *missing*. It is written by
`python -m tests.data.surface`. Ours usually take more parameters, and every method of `Workspace`
that calls Mixpanel is also one of `AsyncWorkspace`.
"""


def our_parameters(name):
    """Return the parameters of a method, None if there is none of this name."""
    if name == "Workspace":
        return set(inspect.signature(Workspace).parameters)
    path = name.removeprefix("Workspace.")
    if path.startswith("api."):
        owner, path = AsyncAPI, path.removeprefix("api.")
        if path in ("project_id", "region"):
            return set() if path in inspect.getsource(owner.__init__) else None
    else:
        owner = Workspace
    found = getattr(owner, path, None)
    if found is None:
        return None
    return set(inspect.signature(found).parameters) if callable(found) else set()


def our_options(name):
    """Return the options of a command and `ARGUMENT 1` and so on; None without a command."""
    command = typer.main.get_command(app) if isinstance(app, typer.Typer) else app
    for word in name.split():
        command = command.commands.get(word) if hasattr(command, "commands") else None
        if command is None:
            return None
    found, count = set(), 0
    for each in command.params:
        found |= {*each.opts, *each.secondary_opts}
        if each.param_type_name == "argument":
            count += 1
            found.add(f"ARGUMENT {count}")
    return found


def status(name, wanted, ours):
    """Return the status of one row, and what to know about it."""
    note = NOTES.get(name, "")
    if ours is None:
        instead = INSTEAD.get(name, "")
        return "moved" if instead else "missing", instead
    words, count = [], 0
    for word in wanted.split():
        count += word.isupper()  # the name of an argument, which is not part of the surface
        words.append((word, f"ARGUMENT {count}" if word.isupper() else word))
    lacking = [word for word, key in words if key not in ours]
    if lacking:
        without = f"without `{'`, `'.join(lacking)}`"
        return "partial", f"{without}; {note}" if note else without
    return "present", note


def rows():
    """Return the tables of the page: title, and rows of name, status and note."""
    methods = [
        (name, *status(name, wanted, our_parameters(name)))
        for name, wanted in SURFACE["methods"].items()
    ]
    commands = [
        (f"mp {name}", *status(name, wanted, our_options(name)))
        for name, wanted in SURFACE["commands"].items()
    ]
    return {"Methods": methods, "Commands": commands}


def page():
    """Return the page."""
    parts = [HEAD]
    for title, found in rows().items():
        present = sum(each[1] == "present" for each in found)
        parts.append(f"## {title}\n\n{present} of {len(found)} are present.\n")
        lines = ["| name | status | note |", "|---|---|---|"]
        lines += [
            f"| `{name}` | {state if state == 'present' else f'**{state}**'} | {note} |"
            for name, state, note in found
        ]
        parts.append("\n".join(line.replace(" |  |", " | |") for line in lines) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
    for title, found in rows().items():
        print(title, [each for each in found if each[1] != "present"])
