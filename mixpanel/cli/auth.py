"""`mp auth`: the accounts that other commands use."""

import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from mixpanel.cli._logins import (
    authorization_server,
    chosen_project,
    finish,
    login_row,
    only_login,
    open_browser,
    require_login,
    revoke,
    revoke_tokens,
    say_if_not_revoked,
)
from mixpanel.cli._options.global_options import global_options
from mixpanel.cli._options.project import BaseUrlOption, Region, account_names
from mixpanel.cli._options.shared import with_options
from mixpanel.cli._output.format import Format, OutputOptions, output_options, write
from mixpanel.cli._output.terminal import ForceOption, ask, complain, confirm_or_abort, say

if TYPE_CHECKING:
    from mixpanel.cli.app import Command
    from mixpanel.data.config import Config
    from mixpanel.data.credentials import AnyCredentials

HELP = """
An account is a project, and a service account or your own login for it. Accounts are stored in
~/.mp/config.toml, or the file of MP_CONFIG_PATH, readable by you alone. Mixpanel's own
mixpanel-headless has its accounts in the same file; both can use them.

A command uses the account of --account NAME, else the one in MP_USERNAME and MP_SECRET, or in
MP_OAUTH_TOKEN, with MP_PROJECT_ID and MP_REGION, else the default. `mp import` and `mp flags` never
use the default.
"""
EXAMPLE = "mp auth add prod"
ADD = """
mp auth add prod
mp auth add prod -u reports.a1b2c3.mp-service-account -p 12345 -r eu
pass show mixpanel | mp auth add prod -u reports.a1b2c3.mp-service-account -p 12345 --secret-stdin
"""
LOGIN = """
mp auth login
mp auth login me --project 12345 --region eu
mp auth login --no-browser
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


OptionalLogin = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME", show_default="all", autocompletion=account_names, help="The account."
    ),
]


@with_options(output=output_options)
def list_(*, output: OutputOptions) -> None:
    """List the accounts."""
    accounts = _config().list_accounts()
    write([asdict(each) for each in accounts], output, empty=None)
    if not accounts:
        say("no accounts yet: add one with mp auth add NAME, or log in with mp auth login", "dim")


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
    """Add a service account; the first account becomes the default.

    On a terminal, missing values are prompted for. The secret is read from stdin with
    --secret-stdin, else from MP_SECRET, else prompted for without echo. There is no option for it,
    because other users of the machine can read the arguments of a process.
    """
    from mixpanel.data.config import check_account_name
    from mixpanel.data.exceptions import AccountExistsError

    config = _config()
    if interactive and secret_stdin:
        raise typer.BadParameter(
            "--interactive and --secret-stdin cannot be used together: both read stdin"
        )
    check_account_name(name)
    if name in config.names():
        raise AccountExistsError(name)
    can_ask = interactive or (sys.stdin.isatty() and not secret_stdin)
    username = username or _prompt("Service account's user name", "--username", can_ask=can_ask)
    if project_id is None:
        project_id = _prompt_project(can_ask=can_ask)
    else:
        _check_project(project_id)
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
    added = config.account_info(name)
    write(asdict(added), output)
    say(f"added {name}{', the default' if added.is_default else ''}", "green")


def remove(name: Name, *, force: ForceOption = False) -> None:
    """Remove an account; if it was the default, the next one becomes it."""
    from mixpanel.data.exceptions import AccountNotFoundError

    config = _config()
    if name not in config.names():
        raise AccountNotFoundError(name, config.names())
    confirm_or_abort(f"Remove {name} and its secret?", force=force)
    revoked = revoke(config, name)
    config.remove_account(name)
    default = config.default()
    say(f"removed {name}" + (f"; the default is {default}" if default else ""), "green")
    say_if_not_revoked(revoked)


def switch(name: Name) -> None:
    """Make an account the default."""
    _config().set_default(name)
    say(f"the default is {name}", "green")


@with_options(output=output_options)
def login(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A name for the account.")
    ] = "me",
    *,
    project_id: Annotated[
        str | None,
        typer.Option(
            "--project", "-p", metavar="ID", show_default="your only one",
            help="The project id, a number.",
        ),
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
    no_browser: Annotated[
        bool,
        typer.Option(
            "--no-browser",
            help="Print a link to open anywhere, and paste the address it leads to.",
        ),
    ] = False,
    timeout: Annotated[
        float,
        typer.Option("--timeout", metavar="SECONDS", min=1, help="Wait this long for the browser."),
    ] = 300,
    base_url: BaseUrlOption = None,
    output: OutputOptions,
) -> None:  # fmt: skip
    """Log in as yourself, in the browser.

    The account of this login reads what you may read. Its tokens are stored beside the
    configuration file, readable by you alone, and renewed when they expire. Log in again under the
    same name to renew a login that has ended, or to choose another project.
    """
    import asyncio

    from mixpanel.data._oauth.login import LoginAttempt, RedirectListener, unused_redirect_uri

    config = _config()
    before = config.check_login(name)  # before anything is sent, and before the browser opens
    config.token_file(name).make_folder()
    where = (region.value if region else None) or (before.region if before else "us")
    if project_id is not None:
        _check_project(project_id)
    server = authorization_server(where, base_url)
    if no_browser:
        attempt = LoginAttempt(server, unused_redirect_uri())
        url = asyncio.run(attempt.begin())
        say("open this link in a browser, on any machine, and allow the access:")
        complain(url, "")
        say("the browser then shows an error, because nothing listens there: this is expected")
        code = attempt.code_in(ask("Paste the address that it shows (http://localhost…)"))
    else:
        with RedirectListener() as listener:
            attempt = LoginAttempt(server, listener.redirect_uri)
            url = asyncio.run(attempt.begin())
            open_browser(url)
            code = listener.wait(attempt, timeout)
    tokens, person = asyncio.run(finish(server, attempt, code))
    try:
        wanted = project_id or (before.project_id if before else None)
        project = chosen_project(person, wanted, where)
        config.add_login(name, tokens, project_id=project, region=where, default=default)
    except BaseException:
        asyncio.run(revoke_tokens(server, tokens))
        raise
    added = config.account_info(name)
    write({**asdict(added), "email": tokens.email}, output)
    who = f" as {tokens.email}" if tokens.email else ""
    say(f"logged in{who}: account {name}{', the default' if added.is_default else ''}", "green")


def logout(name: OptionalName = None) -> None:
    """End a login: revoke its tokens and delete them.

    The account stays, so that `mp auth login NAME` can renew it; `mp auth remove NAME` removes it.
    """
    config = _config()
    name = name or global_options.account or only_login(config)
    require_login(config, name)
    if config.token_file(name).read() is None:
        say(f"{name} is logged out already", "dim")
        return
    revoked = revoke(config, name)
    config.token_file(name).remove()
    say(f"logged out: {name}", "green")
    say_if_not_revoked(revoked)


@with_options(output=output_options)
def status(name: OptionalLogin = None, *, output: OutputOptions) -> None:
    """Show the logins: whose they are, and until when they last.

    Nothing is sent to Mixpanel; use `mp auth test` to find a login that was revoked.
    """
    config = _config()
    if name is not None:
        require_login(config, name)
    logins = [each for each in config.list_accounts() if each.type == "login"]
    chosen = [each for each in logins if name in (None, each.name)]
    rows = [login_row(config, each.name, each.project_id, each.region) for each in chosen]
    if output.format is Format.TABLE:
        # Without the server, for narrow terminals: the region implies it.
        rows = [{name: row[name] for name in row if name != "server"} for row in rows]
    write(rows, output, empty=None)
    if not chosen:
        say("no logins: log in with mp auth login", "dim")


@with_options(output=output_options)
def show(name: OptionalName = None, *, output: OutputOptions) -> None:
    """Show an account and where it comes from, without its secret."""
    credentials = _config().resolve_credentials(name or global_options.account)
    write(
        {
            "name": credentials.account,
            "type": _type(credentials),
            "username": getattr(credentials, "username", None),
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

    from mixpanel.exceptions import ConfigurationError, MixpanelException

    credentials = _config().resolve_credentials(name or global_options.account)
    try:
        asyncio.run(_check(credentials))
    except MixpanelException as error:
        if not isinstance(error, ConfigurationError):  # such as an invalid MP_BASE_URL
            error.add_note(f"the credentials come from: {credentials.source}")
        raise
    write(
        {
            "success": True,
            "account": credentials.account,
            "type": _type(credentials),
            "username": getattr(credentials, "username", None),
            "project_id": credentials.project_id,
            "region": credentials.region,
            "source": credentials.source,
        },
        output,
    )


COMMANDS: "tuple[Command, ...]" = (
    ("login", login, LOGIN),
    ("logout", logout, "mp auth logout me"),
    ("status", status, "mp auth status"),
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


async def _check(credentials: "AnyCredentials") -> None:
    from mixpanel.data.api import AsyncAPI

    api = AsyncAPI(credentials, on_wait=lambda _seconds, why: say(why, "yellow"))
    try:
        await api.check()
    finally:
        await api.aclose()


def _type(credentials: "AnyCredentials") -> str:
    from mixpanel.data.credentials import LoginCredentials, TokenCredentials

    if isinstance(credentials, LoginCredentials):
        return "login"
    return "oauth_token" if isinstance(credentials, TokenCredentials) else "service_account"


# ---- questions ----------------------------------------------------------------------------------


def _prompt(question: str, option: str, *, can_ask: bool) -> str:
    if not can_ask:
        raise typer.BadParameter(f"{option} is required when stdin is not a terminal")
    return ask(question)


def _check_project(project_id: str) -> None:
    if not _is_project(project_id):
        raise typer.BadParameter(
            f"--project must be a project id, the number in the project's settings, not "
            f"{project_id!r}"
        )


def _is_project(text: str) -> bool:
    return text.strip().isascii() and text.strip().isdigit()


def _prompt_project(*, can_ask: bool) -> str:
    while True:
        project_id = _prompt("Project id", "--project", can_ask=can_ask)
        if _is_project(project_id):
            return project_id
        say(f"{project_id!r} is not a project id: that is the number in its settings", "yellow")


def _prompt_region() -> Region:
    while True:
        region = ask("Region: us, eu or in [us]").lower() or Region.US
        if region in list(Region):
            return Region(region)
        say(
            f"{region!r} is not a region: choose us, eu or in, where the project's data is stored "
            "(other regions refuse its credentials)",
            "yellow",
        )


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
