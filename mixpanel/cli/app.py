"""Gather the commands of `mp`, and end them all in the same way."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mixpanel import __version__
from mixpanel.cli import demo, emulator, flags, importing
from mixpanel.cli._exit import ExitCode, exit_code
from mixpanel.cli._render import prose, say
from mixpanel.exceptions import MixpanelException


class Commands(TyperGroup):
    """End every command with one line for its error, and the exit code that tells its kind."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except MixpanelException as error:
            say(f"mp: {error}", "red")
            raise typer.Exit(exit_code(error)) from error
        except ImportError as error:
            if "pip install" not in str(error):
                raise
            say(f"mp: {error}", "red")
            raise typer.Exit(ExitCode.ERROR) from error


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


def mp(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version.")
    ] = False,
) -> None:
    """Mixpanel from the shell: try it, run it locally, bring events in.

    Data goes to stdout, talk to stderr. A command ends with 0 when done, 1 for an error, 2 for
    wrong usage, 3 for refused credentials, 4 for what was not found, 5 when rate limited, 6 when
    some records were refused, and 130 when interrupted.
    """


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.callback(help=prose(mp), epilog="Example: mp demo")(mp)
app.command("demo", help=prose(demo.demo), epilog=demo.EXAMPLE)(demo.demo)
app.command("emulator", help=prose(emulator.emulator), epilog=emulator.EXAMPLE)(emulator.emulator)

imports = typer.Typer(no_args_is_help=True)
imports.callback(help=prose(importing.imports), epilog=importing.EXAMPLE)(importing.imports)
imports.command("events", help=prose(importing.events), epilog=importing.EXAMPLES)(importing.events)
app.add_typer(imports, name="import")

flag_commands = typer.Typer(no_args_is_help=True)
flag_commands.callback(help=prose(flags.flags), epilog=flags.EXAMPLE)(flags.flags)
for name, command, example in (
    ("list", flags.list_, flags.LIST),
    ("eval", flags.evaluate, flags.EVALUATE),
    ("explain", flags.explain, flags.EXAMPLE),
    ("lint", flags.lint, flags.LINT),
    ("watch", flags.watch, flags.WATCH),
):
    flag_commands.command(name, help=prose(command), epilog=example)(command)
app.add_typer(flag_commands, name="flags")
