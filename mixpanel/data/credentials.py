"""Credentials of a service account and its project, validated, with where they were found."""

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
PROJECT_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")  # it is part of URLs and of a file name


class Credentials(BaseModel):
    """A service account and its project.

    `source` is where they were found: `argument`, `account prod`, `environment` or
    `default account prod`, followed by the fields that an argument overrode. `account` is the name
    in the configuration file, None for credentials from elsewhere. A pickle contains the secret in
    clear text, for processes of your own; nothing else shows it.
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
            text = str(text)  # a project id written without quotes
        if not isinstance(text, str):
            raise ValueError("must be text")  # noqa: TRY004 - pydantic takes no TypeError
        if not text.strip():
            raise ValueError("is empty")
        if not text.strip().isprintable():
            raise ValueError("contains an unprintable character")
        return text.strip()

    @field_validator("username")
    @classmethod
    def _without_colon(cls, value: str) -> str:
        if ":" in value:
            raise ValueError("must not contain a colon")
        return value

    @field_validator("project_id")
    @classmethod
    def _one_word(cls, value: str) -> str:
        if not PROJECT_ID.fullmatch(value):
            raise ValueError("must be a project id, as shown in the project's settings")
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
def from_environment(overrides: dict[str, str | None]) -> Credentials | None:
    """Return the credentials in the environment; None if no variable is set.

    :raises ConfigError: when only some of the variables are set, or one is invalid.
    """
    found = {field: os.environ.get(name, "").strip() for field, name in VARIABLES.items()}
    fields = {field: value for field, value in found.items() if value}
    needed = [field for field in VARIABLES if field != "region"]
    if not any(field in fields for field in needed):
        return None
    missing = [VARIABLES[field] for field in needed if field not in fields | overrides]
    if missing:
        present = " and ".join(VARIABLES[field] for field in needed if field in fields)
        raise ConfigError(
            f"the environment has {present}, but not {' and '.join(missing)}: set all of "
            "MP_USERNAME, MP_SECRET and MP_PROJECT_ID or none, or name an account"
        )
    source = source_of("environment", overrides)
    return checked(fields | overrides, "the environment", source=source)


def source_of(origin: str, overrides: dict[str, str | None] | None) -> str:
    """Return the text of `Credentials.source`."""
    return ", ".join([origin, *(f"{field} overridden" for field in overrides or ())])


@hide_arguments
def checked(
    fields: dict[str, Any], where: str, *, source: str, account: str | None = None
) -> Credentials:
    """Return credentials made from fields; `where` begins the error.

    :raises ConfigError: naming each invalid field, and never showing a value.
    """
    try:
        return Credentials(**fields, source=source, account=account)
    except ValidationError as error:
        problems = [
            f"{problem['loc'][0]} "
            + ("is missing" if problem["type"] == "missing" else problem["msg"].partition(", ")[2])
            for problem in error.errors(include_url=False, include_input=False)
        ]
    raise ConfigError(f"{where}: {'; '.join(problems)}")
