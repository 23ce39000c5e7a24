"""The `mp` command: its groups, its help, and how a command ends.

Conventions for every command:

- A module of this folder is one group: `inspect.py` holds `mp inspect …`. It is imported when the
  group is used, so that `mp --help` stays fast; `GROUPS` below has its line of help. `HELP` of the
  module continues that line, `EXAMPLE` is one example of the group, and `COMMANDS` lists each
  command as (name, function, examples), one example a line.
- The docstring of a function is its help. Each option has a help text, and a metavar if it takes a
  value: NAME, ID, N, DAY, FILE, URL, SECONDS, JSON, TEXT.
- Results go to stdout through `write`, in the format of `--format` and `--jq`, which every command
  with a result has: `@with_options(output=output_options)`. The default is a table on a terminal
  and JSON in a pipe. A `TableView` shows other rows in the table than in the JSON, and
  `output.for_stream()` is for rows that come one by one.
- Messages go to stderr through `say`, and `--quiet` silences them.
- A command raises errors of the package, or `typer.BadParameter` for a wrong argument; `exit_code`
  gives the exit code, and `in_option_names` rewrites `replace=True` to `--replace` by the name of
  the command's parameter. So call a parameter what the library calls the argument.
- What cannot be undone asks first: `ForceOption` and `confirm_or_abort`.
- A command that takes long shows a `progress_bar`. Rows that fail go to `failed_rows`, the file of
  `--failed`. Columns of a table are mapped by `--column ROLE=COLUMN` and `parse_columns`.
- With `--dry-run` nothing is sent and nothing is written.
"""

import errno
import inspect
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module
from typing import Annotated, Any, NamedTuple, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from mixpanel._version import __version__
from mixpanel.cli._options.global_options import ErrorFormat, global_options, reset
from mixpanel.cli._options.project import account_names
from mixpanel.cli._output.exit_codes import ExitCode, error_to_dict, exit_code, json_line
from mixpanel.cli._output.option_names import in_option_names
from mixpanel.cli._output.terminal import complain
from mixpanel.exceptions import MixpanelException

Command = tuple[str, Callable[..., None], str]  # its name, its function, its examples


class Subgroup(NamedTuple):
    """A group inside a group: its name, its help, an example, and what makes its commands."""

    name: str
    help: str
    example: str
    commands: "Callable[[], Iterable[Command]]"


# Name, module, and the first line of the help, which `mp --help` shows without the module.
GROUPS = (
    ("demo", "demo", "See a small shop's day arrive in a local Mixpanel."),
    ("emulator", "emulator", "Run a local Mixpanel server until Ctrl-C."),
    ("auth", "auth", "Manage the accounts that other commands use."),
    ("import", "importing", "Import files of events into a project."),
    ("fetch", "fetch", "Fetch events and profiles into a local database."),
    ("query", "query", "Query Mixpanel, or the local database with SQL."),
    ("inspect", "inspect", "Look at a project and at the local database; drop tables."),
    ("export", "export", "Export tables of the local database to files."),
    ("flags", "flags", "List, evaluate and check feature flags."),
    ("project", "project", "Read and change what a project has saved: boards, flags, events."),
    ("spool", "spool", "Inspect, send, retry and delete messages that programs keep on disk."),
    ("schema", "schema", "Print the project and the local tables, short enough for a model."),
    ("docs", "docs", "Print a page of the documentation."),
    ("mcp", "mcp", "Serve a project and its local tables to agents, over MCP."),
    ("cdp", "cdp", "Send to Customer.io, Hightouch, Segment and RudderStack."),
)
HELP_OPTIONS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
# What click and this package write of a file to read that is not there.
MISSING_FILE = re.compile(
    r"\b(file|path) .*does not exist|neither a file|cannot read .*: No such file",
    re.IGNORECASE | re.DOTALL,
)
UNBROKEN = "\N{NON-BREAKING HYPHEN}"
CLICK_USAGE = 2  # the exit code of click's and Typer's errors of usage
EXAMPLE = "mp demo"


# ---- help ---------------------------------------------------------------------------------------


class _SectionedHelp:
    """Help with options under the headings of their panels, and examples that are not wrapped.

    Both methods are click's own extension points. Without Rich's boxes help fits into 80 columns,
    and Rich is not imported for it.
    """

    epilog: str | None
    get_params: Any

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options, by heading."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            heading = getattr(parameter, "rich_help_panel", None) or "Options"
            if parameter.param_type_name == "argument":
                # Without its type: the name says what it is.
                heading, record = "Arguments", (record[0].partition(" ")[0], record[1])
            sections.setdefault(heading, []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                # Values such as ap-south-1 are not broken at their hyphens.
                kept = [(names, text.replace("-", UNBROKEN)) for names, text in records]
                start = len(formatter.buffer)
                formatter.write_dl(kept)
                formatter.buffer[start:] = [
                    each.replace(UNBROKEN, "-") for each in formatter.buffer[start:]
                ]

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - as click calls it
        """Write the examples, each on a line of its own, as it can be copied."""
        lines = (self.epilog or "").strip().splitlines()
        if lines:
            with formatter.section("Examples" if len(lines) > 1 else "Example"):
                for line in lines:
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


class _Command(_SectionedHelp, TyperCommand):
    def invoke(self, ctx: Any) -> Any:
        """Run the command, and remember its options and arguments for errors."""
        global_options.option_names = {
            str(each.name).rstrip("_"): each.opts[0]
            if each.param_type_name == "option"
            else each.metavar or str(each.name).upper()
            for each in self.params
        }
        return super().invoke(ctx)


class _Group(_SectionedHelp, TyperGroup):
    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, and then the commands."""
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - as click calls it
        """Write the first line of each command's help, wrapped instead of cut off."""
        with formatter.section("Commands"):
            formatter.write_dl(self.command_summaries())

    def command_summaries(self) -> list[tuple[str, str]]:
        """Return the names of the commands with the first line of their help."""
        return [
            (name, (command.help or "").partition("\n\n")[0])
            for name, command in self.commands.items()
        ]


class _Root(_Group):
    """The group of all groups; every command runs inside its `invoke`."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands: Any = _Lazy({group[0]: partial(_load, *group) for group in GROUPS})

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **extra: Any) -> Any:
        """Parse the global options."""
        reset(args)
        with _ended():
            return super().make_context(info_name, args, *more, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with _ended():
            return super().invoke(ctx)

    def command_summaries(self) -> list[tuple[str, str]]:
        """Return the names and summaries of the groups, without importing them."""
        return [(name, summary) for name, _, summary in GROUPS]


def unwrapped(text: str | None) -> str:
    """Return a docstring with each paragraph on one line, to be wrapped for any terminal."""
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def show_help(context: typer.Context) -> None:
    """Print help when a group is called without a command."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


# ---- commands, made when they are used ----------------------------------------------------------


class _Lazy(Mapping[str, Any]):
    """Commands by name, each built on first use: one run needs one of them."""

    def __init__(self, makers: Mapping[str, Callable[[], Any]]) -> None:
        self._makers = {name: cache(maker) for name, maker in makers.items()}

    def __getitem__(self, name: str) -> Any:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


def _load(_name: str, module_name: str, summary: str) -> Any:
    """Import a module and return its command or group."""
    module = import_module(f"mixpanel.cli.{module_name}")
    if hasattr(module, "COMMAND"):
        return _command(*module.COMMAND)
    return _group(f"{summary}\n\n{module.HELP}", module.EXAMPLE, module.COMMANDS)


def _maker(entry: Command | Subgroup) -> Callable[[], Any]:
    if isinstance(entry, Subgroup):
        return lambda: _group(entry.help, entry.example, entry.commands())
    return partial(_command, *entry)


def _command(name: str, function: Callable[..., None], examples: str) -> Any:
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    # Typer caches the help option when it is first built, which may be outside of the root.
    app.command(
        name, cls=_Command, help=unwrapped(function.__doc__), epilog=examples.strip(),
        context_settings=HELP_OPTIONS,
    )(function)  # fmt: skip
    return typer.main.get_command(app)


def _group(help_text: str, example: str, commands: Iterable[Command | Subgroup]) -> Any:
    made = _Lazy({each[0]: _maker(each) for each in commands})

    class Lazy(_Group):
        def __init__(self, **attributes: Any) -> None:
            super().__init__(**attributes)
            self.commands: Any = made

    app = typer.Typer(cls=Lazy, add_completion=False, rich_markup_mode=None)
    app.callback(
        help=unwrapped(help_text), epilog=example, invoke_without_command=True,
        context_settings=HELP_OPTIONS,
    )(show_help)  # fmt: skip
    return typer.main.get_command(app)


# ---- how a command ends -------------------------------------------------------------------------


@contextmanager
def _ended() -> Iterator[None]:
    """Report an error on stderr, and end with the exit code of its kind."""
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except typer.Abort:  # a question was answered with no, or not at all
        _report({"code": "CANCELLED", "message": "Cancelled", "details": {}}, prefix="")
        raise typer.Exit(ExitCode.ERROR) from None
    except MixpanelException as error:
        data = error_to_dict(error) | {"message": _message(error)}
        if "notes" in data:
            options = global_options.option_names
            data["notes"] = [in_option_names(note, options) for note in data["notes"]]
        _report(data)
        raise typer.Exit(exit_code(error)) from error
    except OSError as error:
        if error.errno == errno.EPIPE:  # the reader of stdout has read enough, as `head` does
            raise typer.Exit from None
        where = f": {error.filename}" if error.filename else ""
        message = f"{error.strerror or error}{where}"
        _report({"code": "OS_ERROR", "message": message, "details": {}})
        raise typer.Exit(ExitCode.ERROR) from error
    except ImportError as error:
        if "pip install" not in str(error):
            raise
        _report({"code": "NOT_INSTALLED", "message": str(error), "details": {}})
        raise typer.Exit(ExitCode.ERROR) from error
    except Exception as error:
        _end_usage_error(error)


def _end_usage_error(error: Any) -> NoReturn:
    """Report an error of usage, and raise anything else as it is.

    Some versions of Typer bring a click of their own, so there is no class to import for all errors
    of usage; they share an exit code.
    """
    if getattr(error, "exit_code", None) != CLICK_USAGE or not hasattr(error, "format_message"):
        raise error
    # "Value error, " is pydantic's.
    message = error.message.removeprefix("Value error, ")
    is_missing = MISSING_FILE.search(message) is not None
    error.message = in_option_names(message, global_options.option_names)
    end = ExitCode.NOT_FOUND if is_missing else ExitCode.USAGE
    if global_options.error_format is ErrorFormat.TEXT:
        error.exit_code = end
        raise error
    code = "FILE_NOT_FOUND" if is_missing else "USAGE"
    _report({"code": code, "message": error.format_message(), "details": {}})
    raise typer.Exit(end) from None


def _message(error: MixpanelException) -> str:
    from mixpanel.data.exceptions import QueryError

    # The message of a query may quote SQL, where `limit=5` is no option.
    return in_option_names(
        str(error), global_options.option_names, switches_only=isinstance(error, QueryError)
    )


def _report(error: dict[str, Any], prefix: str = "mp: ") -> None:
    if global_options.error_format is ErrorFormat.JSON:
        typer.echo(json_line(error), err=True)
        return
    complain(f"{prefix}{error['message']}")
    for note in error.get("notes", ()):
        complain(note, "dim")


# ---- mp itself ----------------------------------------------------------------------------------


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


def mp(
    context: typer.Context,
    *,
    account: Annotated[
        str | None,
        typer.Option(
            "--account", "-a", metavar="NAME", envvar="MP_ACCOUNT", autocompletion=account_names,
            help="Use this account of `mp auth list`, before the environment's.",
        ),
    ] = None,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", help="Print errors only; no progress or status messages."
        ),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Write the package's debug log to stderr.")
    ] = False,
    error_format: Annotated[
        ErrorFormat,
        typer.Option(
            metavar="FORMAT", envvar="MP_ERROR_FORMAT",
            help="Write errors as text, or as json with nothing else on stderr.",
        ),
    ] = ErrorFormat.TEXT,
    memory_limit: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", envvar="MP_MEMORY_LIMIT",
            show_default="half of the machine's or container's",
            help="The memory of the local database, such as 2GB.",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            metavar="N", envvar="MP_THREADS", show_default="one a processor",
            help="The threads of the local database.",
        ),
    ] = None,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:  # fmt: skip
    """Mixpanel from the shell: a demo, a local server, imports, fetches and SQL.

    Results go to stdout: a table on a terminal, JSON in a pipe. Messages go to stderr. Exit codes:
    0 done, 1 error, 2 invalid credentials, 3 wrong usage, 4 not found, 5 rate limited, 6 some
    records rejected, 130 interrupted.
    """
    global_options.account, global_options.quiet = account, quiet
    global_options.memory_limit, global_options.threads = memory_limit, threads
    global_options.error_format = error_format
    if verbose or global_options.errors_only:
        context.call_on_close(_log_to_stderr(logging.DEBUG if verbose else logging.ERROR))
    show_help(context)


def _log_to_stderr(level: int) -> Callable[[], None]:
    """Write the package's log to stderr from this level on; return a function that stops it."""
    logger, handler = logging.getLogger("mixpanel"), logging.StreamHandler()
    level_before = logger.level
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(level)

    def undo() -> None:
        logger.removeHandler(handler)
        logger.setLevel(level_before)

    return undo


app: typer.Typer = typer.Typer(
    cls=_Root, pretty_exceptions_enable=False, rich_markup_mode=None, context_settings=HELP_OPTIONS
)
app.callback(help=unwrapped(mp.__doc__), epilog=EXAMPLE, invoke_without_command=True)(mp)
