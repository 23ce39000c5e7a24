"""Say which project a command is about, and who asks."""

import os
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from mixpanel.cli._render import Format

if TYPE_CHECKING:
    from mixpanel.credentials import ServiceAccountCredentials

ACCOUNT = ("MP_USERNAME", "MP_SECRET", "MP_PROJECT_ID")


class Region(StrEnum):
    """Where a project keeps its data."""

    US = "us"
    EU = "eu"
    IN = "in"


Token = Annotated[str | None, typer.Option(envvar="MP_TOKEN", help="The project's token.")]
Where = Annotated[
    Region, typer.Option(envvar="MP_REGION", help="Where the project keeps its data.")
]
Base = Annotated[
    str | None,
    typer.Option(envvar="MP_BASE_URL", help="Go to this address instead, as of `mp emulator`."),
]
Write = Annotated[Format, typer.Option("--format", help="How to write the result.")]


def account() -> "ServiceAccountCredentials | None":
    """Return the service account in the environment, where alone a secret belongs."""
    from mixpanel.credentials import ServiceAccountCredentials

    given = [os.environ.get(name, "").strip() for name in ACCOUNT]
    if not any(given[:2]):
        return None
    if not all(given):
        missing = [name for name, value in zip(ACCOUNT, given, strict=True) if not value]
        raise typer.BadParameter(f"the service account is not whole: {', '.join(missing)} missing")
    return ServiceAccountCredentials(*given)
