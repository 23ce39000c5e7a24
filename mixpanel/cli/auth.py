"""Keep the accounts that other commands ask Mixpanel with."""

import asyncio
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from mixpanel.cli._options.global_options import asked
from mixpanel.cli._options.project import Region, account_names
from mixpanel.cli._output.format import As, Jq, Options, write
from mixpanel.cli._output.terminal import Force, ask, say, sure

if TYPE_CHECKING:
    from mixpanel.data.config import Config, Credentials

EXAMPLE = "Example: mp auth add prod"
ADD = """Examples:

mp auth add prod

mp auth add prod --username reports.a1b2c3.mp-service-account --project 12345 --region eu

pass show mixpanel | mp auth add prod -u reports.a1b2c3.mp-service-account -p 12345 --secret-stdin
"""
HIDDEN = "********"

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", show_default=False, autocompletion=account_names, help="The account."
    ),
]
AnyName = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME", show_default=False, autocompletion=account_names,
        help="The account. [dim]Else the one that other commands would use[/]",
    ),
]  # fmt: skip


def auth() -> None:
    """Keep the accounts that other commands ask Mixpanel with.

    An account is a service account and a project, kept in ~/.mp/config.toml or the file that
    MP_CONFIG_PATH names, readable by you alone. A command uses the account of --account NAME, or
    else the one in the environment, MP_USERNAME, MP_SECRET, MP_PROJECT_ID and MP_REGION, or else
    the default. `mp import` and `mp flags` never use the default: of the accounts kept here, only
    one that --account names.
    """


def list_(*, format: As = None, jq: Jq = None) -> None:  # noqa: A002
    """List the accounts that are kept."""
    options = Options(format, jq)
    accounts = _config().list_accounts()
    write([asdict(one) for one in accounts], options)
    if not accounts:
        say("no accounts yet: mp auth add NAME", "dim")


def add(
    name: Annotated[str, typer.Argument(show_default=False, help="What to call it.")],
    *,
    username: Annotated[
        str | None, typer.Option("--username", "-u", help="The service account's user name.")
    ] = None,
    project: Annotated[
        str | None, typer.Option("--project", "-p", help="The project's id, a number.")
    ] = None,
    region: Annotated[
        Region | None,
        typer.Option("--region", "-r", show_default="us", help="Where the project keeps its data."),
    ] = None,
    default: Annotated[
        bool, typer.Option("--default", "-d", help="Use it wherever none is named.")
    ] = False,
    secret_stdin: Annotated[
        bool, typer.Option("--secret-stdin", help="Read the secret from stdin.")
    ] = False,
    interactive: Annotated[
        bool,
        typer.Option("--interactive", "-i", help="Ask for what is missing, on no terminal too."),
    ] = False,
    format: As = None,  # noqa: A002
    jq: Jq = None,
) -> None:
    """Keep an account; the first one becomes the default.

    What is missing is asked for on a terminal. The secret comes from stdin with --secret-stdin,
    else from MP_SECRET, else it is asked for and not shown; it is never an argument, where
    everybody's process list would show it.
    """
    from mixpanel.data.exceptions import AccountExistsError

    options, config = Options(format, jq), _config()
    if interactive and secret_stdin:
        raise typer.BadParameter("--secret-stdin leaves no stdin to answer --interactive on")
    if name in config.names():
        raise AccountExistsError(name)
    can_ask = interactive or (sys.stdin.isatty() and not secret_stdin)
    username = username or _asked("Service account's user name", "--username", can_ask=can_ask)
    project = project or _asked("Project id", "--project", can_ask=can_ask)
    if region is None and can_ask:
        region = _asked_region()
    config.add_account(
        name,
        username=username,
        secret=_secret(stdin=secret_stdin, can_ask=can_ask),
        project_id=project,
        region=(region or Region.US).value,
        default=default,
    )
    added = next(one for one in config.list_accounts() if one.name == name)
    write(asdict(added), options)
    say(f"added {name}{', the default' if added.is_default else ''}", "green")


def remove(name: Name, *, force: Force = False) -> None:
    """Forget an account; when it was the default, the next one takes its place."""
    from mixpanel.data.exceptions import AccountNotFoundError

    config = _config()
    if name not in config.names():
        raise AccountNotFoundError(name, config.names())
    sure(f"Forget {name} and its secret?", force=force)
    config.remove_account(name)
    now = config.default()
    say(f"removed {name}" + (f"; the default is {now}" if now else ""), "green")


def switch(name: Name) -> None:
    """Make an account the default."""
    _config().set_default(name)
    say(f"the default is {name}", "green")


def show(name: AnyName = None, *, format: As = None, jq: Jq = None) -> None:  # noqa: A002
    """Show an account and where it comes from; never its secret."""
    options = Options(format, jq)
    found = _config().resolve_credentials(name or asked.account)
    write(
        {
            "name": found.account,
            "username": found.username,
            "secret": HIDDEN,
            "project_id": found.project_id,
            "region": found.region,
            "source": found.source,
        },
        options,
    )


def check(name: AnyName = None, *, format: As = None, jq: Jq = None) -> None:  # noqa: A002
    """Ask Mixpanel whether it takes an account.

    It says where the credentials came from, and costs none of the project's 60 queries an hour.
    """
    from mixpanel.exceptions import MixpanelException

    options = Options(format, jq)
    found = _config().resolve_credentials(name or asked.account)
    try:
        asyncio.run(_asked_mixpanel(found))
    except MixpanelException as error:
        error.add_note(f"the credentials are those of: {found.source}")
        raise
    write(
        {
            "success": True,
            "account": found.account,
            "username": found.username,
            "project_id": found.project_id,
            "region": found.region,
            "source": found.source,
        },
        options,
    )


COMMANDS: tuple[tuple[str, Callable[..., None], str], ...] = (
    ("list", list_, "Example: mp auth list --format table"),
    ("add", add, ADD),
    ("remove", remove, "Example: mp auth remove staging"),
    ("switch", switch, "Example: mp auth switch prod"),
    ("show", show, "Example: mp auth show"),
    ("test", check, "Example: mp auth test prod"),
)


def _config() -> "Config":
    from mixpanel.data.config import Config

    return Config()


async def _asked_mixpanel(credentials: "Credentials") -> None:
    from mixpanel.data.api import AsyncAPI

    api = AsyncAPI(credentials)
    try:
        await api.check()
    finally:
        await api.aclose()


def _asked(question: str, option: str, *, can_ask: bool) -> str:
    if not can_ask:
        raise typer.BadParameter(f"give {option}: there is no terminal to ask on")
    return ask(question)


def _asked_region() -> Region:
    while True:
        region = ask("Region, us, eu or in [us]").lower() or Region.US
        if region in list(Region):
            return Region(region)


def _secret(*, stdin: bool, can_ask: bool) -> str:
    if stdin:
        return sys.stdin.read().strip()
    from_environment = os.environ.get("MP_SECRET", "").strip()
    if from_environment:
        say("the secret is the one in MP_SECRET", "dim")
        return from_environment
    if not can_ask:
        raise typer.BadParameter(
            "where is the secret? set MP_SECRET, or pipe it in with --secret-stdin"
        )
    return ask("Secret (not shown)", hidden=True)
