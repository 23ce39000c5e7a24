"""Gather the commands of `mp`, and end them all in the same way."""

import errno
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from mixpanel import __version__
from mixpanel.cli import (
    auth,
    cdp,
    demo,
    emulator,
    export,
    fetch,
    flags,
    importing,
    inspect,
    live_inspect,
    live_query,
    query,
)
from mixpanel.cli._options.global_options import ErrorFormat, asked, forget
from mixpanel.cli._options.project import account_names
from mixpanel.cli._output.exit_codes import ExitCode, as_dict, exit_code, one_line
from mixpanel.cli._output.terminal import complain, err, prose
from mixpanel.exceptions import MixpanelException

# Typer may bring a click of its own, so this is the way to its class for wrong arguments.
UsageError: Any = typer.BadParameter.__base__


HELP = {"help_option_names": ["-h", "--help"]}
# What stands in help for a value of each type; some versions of Typer write <str>.
WORDS = {"str": "TEXT", "int": "N", "float": "N", "file": "FILE", "Path": "FILE", "path": "PATH"}


def _in_words(parameters: list[Any], ctx: Any) -> list[Any]:
    """Let help show a word in capitals for each value, and nothing where there is none."""
    for one in parameters:
        if one.param_type_name == "argument":
            one.metavar = one.metavar or one.name.upper()
            one.display_type_rich = lambda **_: None  # its name says what it is
        elif one.is_flag:
            one.metavar = ""
        elif one.metavar is None and hasattr(one, "display_type"):
            kind = re.sub(r"^<(?:list\[)?|( range)?\]?>$", "", one.display_type(ctx))
            one.metavar = WORDS.get(kind, kind)
    return parameters


class Single(TyperCommand):
    """Show what a command takes as manuals do: FILE, not {FILE} <file>."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, for help and for reading what was typed."""
        return _in_words(super().get_params(ctx), ctx)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words of the line of usage."""
        pieces = super().collect_usage_pieces(ctx)
        return [re.sub(r"[{}]", "", piece).replace("...]...", "...]") for piece in pieces]


class Group(TyperGroup):
    """Show what a group takes as its commands do."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, for help and for reading what was typed."""
        return _in_words(super().get_params(ctx), ctx)


class Commands(Group):
    """End every command with what went wrong, and the exit code that tells its kind."""

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **extra: Any) -> Any:
        """Read what stands before the command."""
        forget(args)
        with _ended():
            return super().make_context(info_name, args, *more, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        with _ended():
            return super().invoke(ctx)


@contextmanager
def _ended() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except typer.Abort:  # a question was answered by no, or could not be answered
        _tell({"code": "CANCELLED", "message": "Cancelled", "details": {}}, start="")
        raise typer.Exit(ExitCode.ERROR) from None
    except UsageError as error:
        error.message = error.message.removeprefix("Value error, ")  # pydantic's words
        if asked.errors is ErrorFormat.TEXT:
            error.exit_code = ExitCode.USAGE  # where click has 2
            raise
        _tell({"code": "USAGE", "message": error.format_message(), "details": {}})
        raise typer.Exit(ExitCode.USAGE) from None
    except MixpanelException as error:
        _tell(as_dict(error) | {"message": str(error)})
        raise typer.Exit(exit_code(error)) from error
    except OSError as error:
        if error.errno == errno.EPIPE:  # whoever read the result has gone: Typer ends it quietly
            raise
        about = f": {error.filename}" if error.filename else ""
        told = {"code": "OS_ERROR", "message": f"{error.strerror or error}{about}", "details": {}}
        _tell(told)
        raise typer.Exit(ExitCode.ERROR) from error
    except ImportError as error:
        if "pip install" not in str(error):
            raise
        _tell({"code": "NOT_INSTALLED", "message": str(error), "details": {}})
        raise typer.Exit(ExitCode.ERROR) from error


def _tell(told: dict[str, Any], start: str = "mp: ") -> None:
    if asked.errors is ErrorFormat.JSON:
        err().file.write(one_line(told) + "\n")
        return
    complain(f"{start}{told['message']}")
    for note in told.get("notes", ()):
        complain(note, "dim")


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


def mp(
    context: typer.Context,
    *,
    account: Annotated[
        str | None,
        typer.Option(
            "--account", "-a", metavar="NAME", envvar="MP_ACCOUNT", autocompletion=account_names,
            help="Use this account of `mp auth list`, whatever else the environment says.",
        ),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No talk on stderr, only what went wrong.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the log of the package on stderr.")
    ] = False,
    error_format: Annotated[
        ErrorFormat,
        typer.Option(
            envvar="MP_ERROR_FORMAT",
            help="Write an error as text, or as one JSON object; then stderr has nothing else.",
        ),
    ] = ErrorFormat.TEXT,
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version.")
    ] = False,
) -> None:  # fmt: skip
    """Mixpanel from the shell: try it, run it locally, bring events in, fetch them and ask them.

    Data goes to stdout, talk to stderr. A command ends with 0 when done, 1 for an error, 2 for
    refused credentials, 3 for wrong arguments, 4 for what was not found, 5 when rate limited, 6
    when some records were refused, and 130 when interrupted.
    """
    asked.account, asked.quiet, asked.errors = account, quiet, error_format
    if verbose or asked.silent:
        context.call_on_close(_log(logging.DEBUG if verbose else logging.ERROR))


def _log(level: int) -> Callable[[], None]:
    """Write the package's log to stderr from this level on; return what undoes it."""
    logger, handler = logging.getLogger("mixpanel"), logging.StreamHandler()
    before = logger.level
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(level)

    def undo() -> None:
        logger.removeHandler(handler)
        logger.setLevel(before)

    return undo


app: typer.Typer = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings=HELP,
)
app.callback(help=prose(mp), epilog="Example: mp demo")(mp)
for _called, _command, _shown in (
    ("demo", demo.demo, demo.EXAMPLE),
    ("emulator", emulator.emulator, emulator.EXAMPLE),
):
    app.command(_called, cls=Single, help=prose(_command), epilog=_shown)(_command)

Command = tuple[str, Callable[..., None], str]  # its name, what it does, an example of it


class Lazily(Mapping[str, Any]):
    """Commands by name, each made when it is first asked for: one call needs one of them."""

    def __init__(self, commands: Iterable[Command]) -> None:
        self._makers = {
            called: cache(partial(_made, called, command, shown))
            for called, command, shown in commands
        }

    def __getitem__(self, called: str) -> Any:
        return self._makers[called]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


def _made(called: str, command: Callable[..., None], shown: str) -> Any:
    alone = typer.Typer(add_completion=False, rich_markup_mode="rich")
    # It remembers its option for help from the first time, which may be without the app around it.
    made = alone.command(
        called, cls=Single, help=prose(command), epilog=shown, context_settings=HELP
    )
    made(command)
    return typer.main.get_command(alone)


def group(name: str, about: Callable[[], None], example: str, commands: Iterable[Command]) -> None:
    """Add a group of commands, such as `mp auth`; `about` lends it its docstring."""
    made = Lazily(commands)

    class Lazy(Group):
        def __init__(self, **given: Any) -> None:
            super().__init__(**given)
            self.commands: Any = made

    inner = typer.Typer(cls=Lazy, no_args_is_help=True)
    inner.callback(help=prose(about), epilog=example)(about)
    app.add_typer(inner, name=name)


group("auth", auth.auth, auth.EXAMPLE, auth.COMMANDS)
group("fetch", fetch.fetch, fetch.EXAMPLE, fetch.COMMANDS)
group("query", query.query, query.EXAMPLE, (*query.COMMANDS, *live_query.COMMANDS))
group("inspect", inspect.inspect, inspect.EXAMPLE, (*inspect.COMMANDS, *live_inspect.COMMANDS))
group("export", export.export, export.EXAMPLE, export.COMMANDS)
group("cdp", cdp.cdp, cdp.EXAMPLE, cdp.COMMANDS)
group(
    "import", importing.imports, importing.EXAMPLE,
    [("events", importing.events, importing.EXAMPLES)],
)  # fmt: skip
group(
    "flags",
    flags.flags,
    flags.EXAMPLE,
    [
        ("list", flags.list_, flags.LIST),
        ("eval", flags.evaluate, flags.EVALUATE),
        ("explain", flags.explain, flags.EXAMPLE),
        ("lint", flags.lint, flags.LINT),
        ("watch", flags.watch, flags.WATCH),
    ],
)
