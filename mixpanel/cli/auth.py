"""`mp auth`: the accounts that other commands use."""

import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from mixpanel.cli._options.global_options import global_options
from mixpanel.cli._options.project import Region, account_names
from mixpanel.cli._options.shared import with_options
from mixpanel.cli._output.format import OutputOptions, output_options, write
from mixpanel.cli._output.terminal import ForceOption, ask, confirm_or_abort, say

if TYPE_CHECKING:
    from mixpanel.cli.app import Command
    from mixpanel.data.config import Config, Credentials

HELP = """
An account is a service account and a project. Accounts are stored in ~/.mp/config.toml, or the file
of MP_CONFIG_PATH, readable by you alone.

A command uses the account of --account NAME, else the one in MP_USERNAME, MP_SECRET, MP_PROJECT_ID
and MP_REGION, else the default. `mp import` and `mp flags` never use the default.
"""
EXAMPLE = "mp auth add prod"
ADD = """
mp auth add prod
mp auth add prod -u reports.a1b2c3.mp-service-account -p 12345 -r eu
pass show mixpanel | mp auth add prod -u reports.a1b2c3.mp-service-account -p 12345 --secret-stdin
"""
HIDDEN = "********"

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", show_default=False, autocompletion=account_names, help="The account."
    ),
]
OptionalName = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME", show_default="the one other commands use", autocompletion=account_names,
        help="The account.",
    ),
]  # fmt: skip


@with_options(output=output_options)
def list_(*, output: OutputOptions) -> None:
    """List the accounts."""
    accounts = _config().list_accounts()
    write([asdict(each) for each in accounts], output)
    if not accounts:
        say("no accounts yet: add one with mp auth add NAME", "dim")


@with_options(output=output_options)
def add(
    name: Annotated[
        str, typer.Argument(metavar="NAME", show_default=False, help="A name for the account.")
    ],
    *,
    username: Annotated[
        str | None,
        typer.Option("--username", "-u", metavar="NAME", help="The service account's user name."),
    ] = None,
    project_id: Annotated[
        str | None,
        typer.Option("--project", "-p", metavar="ID", help="The project id, a number."),
    ] = None,
    region: Annotated[
        Region | None,
        typer.Option(
            "--region", "-r", metavar="REGION", show_default="us",
            help="Where the project's data is stored: us, eu or in.",
        ),
    ] = None,
    default: Annotated[
        bool, typer.Option("--default", "-d", help="Make it the default account.")
    ] = False,
    secret_stdin: Annotated[
        bool, typer.Option("--secret-stdin", help="Read the secret from stdin.")
    ] = False,
    interactive: Annotated[
        bool,
        typer.Option(
            "--interactive", "-i",
            help="Prompt for missing values even if stdin is not a terminal.",
        ),
    ] = False,
    output: OutputOptions,
) -> None:  # fmt: skip
    """Add an account; the first one becomes the default.

    On a terminal, missing values are prompted for. The secret is read from stdin with
    --secret-stdin, else from MP_SECRET, else prompted for without echo. There is no option for it,
    because other users of the machine can read the arguments of a process.
    """
    from mixpanel.data.exceptions import AccountExistsError

    config = _config()
    if interactive and secret_stdin:
        raise typer.BadParameter(
            "--interactive and --secret-stdin cannot be used together: both read stdin"
        )
    if name in config.names():
        raise AccountExistsError(name)
    can_ask = interactive or (sys.stdin.isatty() and not secret_stdin)
    username = username or _prompt("Service account's user name", "--username", can_ask=can_ask)
    project_id = project_id or _prompt("Project id", "--project", can_ask=can_ask)
    if region is None and can_ask:
        region = _prompt_region()
    config.add_account(
        name,
        username=username,
        secret=_secret(stdin=secret_stdin, can_ask=can_ask),
        project_id=project_id,
        region=(region or Region.US).value,
        default=default,
    )
    added = next(each for each in config.list_accounts() if each.name == name)
    write(asdict(added), output)
    say(f"added {name}{', the default' if added.is_default else ''}", "green")


def remove(name: Name, *, force: ForceOption = False) -> None:
    """Remove an account; if it was the default, the next one becomes it."""
    from mixpanel.data.exceptions import AccountNotFoundError

    config = _config()
    if name not in config.names():
        raise AccountNotFoundError(name, config.names())
    confirm_or_abort(f"Remove {name} and its secret?", force=force)
    config.remove_account(name)
    default = config.default()
    say(f"removed {name}" + (f"; the default is {default}" if default else ""), "green")


def switch(name: Name) -> None:
    """Make an account the default."""
    _config().set_default(name)
    say(f"the default is {name}", "green")


@with_options(output=output_options)
def show(name: OptionalName = None, *, output: OutputOptions) -> None:
    """Show an account and where it comes from, without its secret."""
    credentials = _config().resolve_credentials(name or global_options.account)
    write(
        {
            "name": credentials.account,
            "username": credentials.username,
            "secret": HIDDEN,
            "project_id": credentials.project_id,
            "region": credentials.region,
            "source": credentials.source,
        },
        output,
    )


@with_options(output=output_options)
def check(name: OptionalName = None, *, output: OutputOptions) -> None:
    """Test an account against Mixpanel.

    The result says where the credentials came from. It uses none of the project's 60 queries an
    hour.
    """
    import asyncio

    from mixpanel.exceptions import MixpanelException

    credentials = _config().resolve_credentials(name or global_options.account)
    try:
        asyncio.run(_check(credentials))
    except MixpanelException as error:
        error.add_note(f"the credentials come from: {credentials.source}")
        raise
    write(
        {
            "success": True,
            "account": credentials.account,
            "username": credentials.username,
            "project_id": credentials.project_id,
            "region": credentials.region,
            "source": credentials.source,
        },
        output,
    )


COMMANDS: "tuple[Command, ...]" = (
    ("list", list_, "mp auth list"),
    ("add", add, ADD),
    ("remove", remove, "mp auth remove staging"),
    ("switch", switch, "mp auth switch prod"),
    ("show", show, "mp auth show"),
    ("test", check, "mp auth test prod"),
)


def _config() -> "Config":
    from mixpanel.data.config import Config

    return Config()


async def _check(credentials: "Credentials") -> None:
    from mixpanel.data.api import AsyncAPI

    api = AsyncAPI(credentials)
    try:
        await api.check()
    finally:
        await api.aclose()


def _prompt(question: str, option: str, *, can_ask: bool) -> str:
    if not can_ask:
        raise typer.BadParameter(f"{option} is required when stdin is not a terminal")
    return ask(question)


def _prompt_region() -> Region:
    while True:
        region = ask("Region: us, eu or in [us]").lower() or Region.US
        if region in list(Region):
            return Region(region)


def _secret(*, stdin: bool, can_ask: bool) -> str:
    if stdin:
        return sys.stdin.read().strip()
    from_environment = os.environ.get("MP_SECRET", "").strip()
    if from_environment:
        say("using the secret in MP_SECRET", "dim")
        return from_environment
    if not can_ask:
        raise typer.BadParameter(
            "the secret is missing: set MP_SECRET, or pipe it in with --secret-stdin"
        )
    return ask("Secret (not shown)", hidden=True)
