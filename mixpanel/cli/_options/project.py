"""Say which project a command is about, and who asks."""

import os
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixpanel.cli._options.global_options import asked
from mixpanel.cli._output.terminal import Format

if TYPE_CHECKING:
    from mixpanel.credentials import ServiceAccountCredentials

ACCOUNT = ("MP_USERNAME", "MP_SECRET", "MP_PROJECT_ID")
WHOSE = (
    f"a service account in {', '.join(ACCOUNT)}, or mp --account NAME; "
    "the default account is not used"
)


class Region(StrEnum):
    """Where a project keeps its data."""

    US = "us"
    EU = "eu"
    IN = "in"


def _of_account(context: typer.Context, region: Region) -> Region:
    """Return the region of the account that was named, unless an option says another one."""
    source: Any = context.get_parameter_source("region")
    if asked.account is None or (source is not None and source.name == "COMMANDLINE"):
        return region
    from mixpanel.data.config import Config

    return Region(Config().get_account(asked.account).region)


def account_names(incomplete: str) -> list[str]:
    """Complete the name of an account in a shell."""
    from mixpanel.data.config import Config
    from mixpanel.exceptions import ConfigurationError

    try:
        return [name for name in Config().names() if name.startswith(incomplete)]
    except ConfigurationError:
        return []


Token = Annotated[str | None, typer.Option(envvar="MP_TOKEN", help="The project's token.")]
Where = Annotated[
    Region,
    typer.Option(
        envvar="MP_REGION", callback=_of_account, help="Where the project keeps its data."
    ),
]
Base = Annotated[
    str | None,
    typer.Option(envvar="MP_BASE_URL", help="Go to this address instead, as of `mp emulator`."),
]
Write = Annotated[Format, typer.Option("--format", help="How to write the result.")]


def account() -> "ServiceAccountCredentials | None":
    """Return the account named before the command, or else the one in the environment.

    :raises ConfigError: when there is no account of that name.
    """
    from mixpanel.credentials import ServiceAccountCredentials

    if asked.account is not None:
        from mixpanel.data.config import Config

        kept = Config().get_account(asked.account)
        return ServiceAccountCredentials(
            kept.username, kept.secret.get_secret_value(), kept.project_id
        )
    given = [os.environ.get(name, "").strip() for name in ACCOUNT]
    if not any(given[:2]):
        return None
    if not all(given):
        missing = [name for name, value in zip(ACCOUNT, given, strict=True) if not value]
        raise typer.BadParameter(f"the service account is not whole: {', '.join(missing)} missing")
    return ServiceAccountCredentials(*given)
