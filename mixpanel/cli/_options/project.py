"""Options that choose the project, and the credentials for `mp import` and `mp flags`."""

import os
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixpanel.cli._options.global_options import global_options

if TYPE_CHECKING:
    from mixpanel.credentials import ServiceAccountCredentials

ACCOUNT_VARIABLES = ("MP_USERNAME", "MP_SECRET", "MP_PROJECT_ID")
CREDENTIALS_HINT = (
    f"set {', '.join(ACCOUNT_VARIABLES)} to a service account, or use mp --account NAME; "
    "the default account is not used"
)


class Region(StrEnum):
    """Where a project's data is stored."""

    US = "us"
    EU = "eu"
    IN = "in"


def _region_of_account(context: typer.Context, region: Region) -> Region:
    """Return the region of the account of `mp --account`, unless `--region` is given."""
    source: Any = context.get_parameter_source("region")
    is_typed = source is not None and source.name == "COMMANDLINE"
    if global_options.account is None or is_typed:
        return region
    from mixpanel.data.config import Config

    return Region(Config().get_account(global_options.account).region)


def account_names(incomplete: str) -> list[str]:
    """Return the account names that complete what was typed, for the shell."""
    from mixpanel.data.config import Config
    from mixpanel.exceptions import ConfigurationError

    try:
        return [name for name in Config().names() if name.startswith(incomplete)]
    except ConfigurationError:
        return []


TokenOption = Annotated[
    str | None, typer.Option(metavar="TOKEN", envvar="MP_TOKEN", help="The project token.")
]
RegionOption = Annotated[
    Region,
    typer.Option(
        metavar="REGION", envvar="MP_REGION", callback=_region_of_account,
        help="Where the project's data is stored: us, eu or in.",
    ),
]  # fmt: skip
BaseUrlOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL", envvar="MP_BASE_URL",
        help="Send requests to this address, such as that of `mp emulator`.",
    ),
]  # fmt: skip


def service_account() -> "ServiceAccountCredentials | None":
    """Return the service account of `mp --account`, or the one in the environment, if any.

    :raises ConfigError: if there is no service account of that name.
    :raises typer.BadParameter: if the environment holds only a part of one.
    """
    from mixpanel.credentials import ServiceAccountCredentials

    if global_options.account is not None:
        from mixpanel.data.config import Config
        from mixpanel.data.credentials import Credentials
        from mixpanel.data.exceptions import ConfigError

        account = Config().get_account(global_options.account)
        if not isinstance(account, Credentials):
            raise ConfigError(
                f"account {global_options.account!r} is not a service account, which this command "
                "needs: add one with `mp auth add NAME`"
            )
        return ServiceAccountCredentials(
            account.username, account.secret.get_secret_value(), account.project_id
        )
    values = [os.environ.get(name, "").strip() for name in ACCOUNT_VARIABLES]
    # A project id alone is no account: other commands read it too.
    if not any(values[:2]):
        return None
    if not all(values):
        missing = [name for name, value in zip(ACCOUNT_VARIABLES, values, strict=True) if not value]
        raise typer.BadParameter(f"the service account is incomplete: set {', '.join(missing)}")
    return ServiceAccountCredentials(*values)
