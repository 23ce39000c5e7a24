"""Who asks about which project: checked, and with the place it was found in."""

from __future__ import annotations

import os
import re
from base64 import b64encode
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError, field_validator

from mixpanel._runtime.redaction import hide_arguments
from mixpanel.data.exceptions import ConfigError
from mixpanel.settings import Region

__all__ = ["VARIABLES", "Credentials", "checked", "from_environment", "source_of"]

VARIABLES = {
    "username": "MP_USERNAME",
    "secret": "MP_SECRET",
    "project_id": "MP_PROJECT_ID",
    "region": "MP_REGION",
}
PROJECT = re.compile(r"[A-Za-z0-9_-]{1,100}")  # it becomes part of URLs and of a file's name


class Credentials(BaseModel):
    """Identify a service account and the project it is asked about.

    `source` says where they came from: `argument`, `account prod`, `environment` or
    `default account prod`, and which single field was given beside that. `account` is the name in
    the file, None for credentials that are in none. A pickle holds the secret in clear, for
    processes of your own; nothing else shows it.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, hide_input_in_errors=True)

    username: str
    secret: SecretStr
    project_id: str
    region: Region = "us"
    source: str = "argument"
    account: str | None = None

    @field_validator("username", "secret", "project_id", mode="before")
    @classmethod
    def _text(cls, value: object) -> str:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if isinstance(text, int) and not isinstance(text, bool):
            text = str(text)  # a project id without its quotes
        if not isinstance(text, str):
            raise ValueError("must be text")  # noqa: TRY004 - pydantic takes no TypeError
        if not text.strip():
            raise ValueError("is empty")
        if not text.strip().isprintable():
            raise ValueError("holds a character that is none of a name or secret")
        return text.strip()

    @field_validator("username")
    @classmethod
    def _without_colon(cls, value: str) -> str:
        if ":" in value:
            raise ValueError("must not hold a colon")
        return value

    @field_validator("project_id")
    @classmethod
    def _one_word(cls, value: str) -> str:
        if not PROJECT.fullmatch(value):
            raise ValueError("must be the number of a project, as its settings show it")
        return value

    @field_validator("region", mode="before")
    @classmethod
    def _known(cls, value: object) -> str:
        region = value.strip().lower() if isinstance(value, str) else value
        if region not in get_args(Region):
            raise ValueError(f"must be one of {', '.join(get_args(Region))}")
        return str(region)

    def authorization(self) -> str:
        """Return the value of the `Authorization` header."""
        pair = f"{self.username}:{self.secret.get_secret_value()}"
        return "Basic " + b64encode(pair.encode()).decode("ascii")


@hide_arguments
def from_environment(given: dict[str, str | None]) -> Credentials | None:
    found = {field: os.environ.get(name, "").strip() for field, name in VARIABLES.items()}
    fields = {field: value for field, value in found.items() if value}
    needed = [field for field in VARIABLES if field != "region"]
    if not any(field in fields for field in needed):
        return None
    missing = [VARIABLES[field] for field in needed if field not in fields | given]
    if missing:
        there = " and ".join(VARIABLES[field] for field in needed if field in fields)
        raise ConfigError(
            f"the environment has {there}, but not {' and '.join(missing)}: set all of "
            "MP_USERNAME, MP_SECRET and MP_PROJECT_ID or none, or name an account"
        )
    return checked(fields | given, "the environment", source=source_of("environment", given))


def source_of(origin: str, given: dict[str, str | None] | None) -> str:
    return ", ".join([origin, *(f"{field} as given" for field in given or ())])


@hide_arguments
def checked(
    fields: dict[str, Any], where: str, *, source: str, account: str | None = None
) -> Credentials:
    """Check fields that people wrote; an error names the field and never shows a value."""
    try:
        return Credentials(**fields, source=source, account=account)
    except ValidationError as error:
        problems = [
            f"{problem['loc'][0]} "
            + ("is missing" if problem["type"] == "missing" else problem["msg"].partition(", ")[2])
            for problem in error.errors(include_url=False, include_input=False)
        ]
    raise ConfigError(f"{where}: {'; '.join(problems)}")
