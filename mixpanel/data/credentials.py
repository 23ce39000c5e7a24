"""Credentials of a project, validated, with where they were found.

A service account (`Credentials`), an access token that never changes (`TokenCredentials`), or the
login of a person (`LoginCredentials`), whose access token is renewed.
"""

from __future__ import annotations

import os
import re
from base64 import b64encode
from pathlib import Path  # noqa: TC003 - pydantic needs it at run time
from typing import Any, ClassVar, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError, field_validator

from mixpanel._runtime.redaction import hide_arguments, hide_init_arguments
from mixpanel.data.exceptions import ConfigError
from mixpanel.settings import Region

__all__ = [
    "TOKEN_VARIABLE",
    "VARIABLES",
    "AnyCredentials",
    "Credentials",
    "LoginCredentials",
    "ProjectCredentials",
    "TokenCredentials",
    "checked",
    "from_environment",
    "source_of",
]

VARIABLES = {
    "username": "MP_USERNAME",
    "secret": "MP_SECRET",
    "project_id": "MP_PROJECT_ID",
    "region": "MP_REGION",
}
TOKEN_VARIABLE = "MP_OAUTH_TOKEN"  # noqa: S105 - the name of a variable
PROJECT_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")  # it is part of URLs and of a file name
TOKEN_CHARACTERS = re.compile(r"[!-~]+")  # what an HTTP header can hold, without spaces

Fields = TypeVar("Fields", bound="ProjectCredentials")


class ProjectCredentials(BaseModel):
    """What all credentials have: the project, its region, and where they were found.

    `source` is `argument`, `account prod`, `environment` or `default account prod`, followed by the
    fields that an argument overrode. `account` is the name in the configuration file, None for
    credentials from elsewhere.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, hide_input_in_errors=True)

    project_id: str
    region: Region = "us"
    source: str = "argument"
    account: str | None = None

    @field_validator("username", "secret", "token", "project_id", mode="before", check_fields=False)
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


@hide_init_arguments
class Credentials(ProjectCredentials):
    """A service account and its project.

    A pickle contains the secret in clear text, for processes of your own; nothing else shows it.
    """

    username: str
    secret: SecretStr

    @field_validator("username")
    @classmethod
    def _without_colon(cls, value: str) -> str:
        if ":" in value:
            raise ValueError("must not contain a colon")
        return value

    def authorization(self) -> str:
        """Return the value of the `Authorization` header."""
        pair = f"{self.username}:{self.secret.get_secret_value()}"
        return "Basic " + b64encode(pair.encode()).decode("ascii")


@hide_init_arguments
class TokenCredentials(ProjectCredentials):
    """An OAuth access token (bearer) that is used as it is, and a project.

    >>> TokenCredentials(token="…", project_id="12345", region="eu")  # doctest: +SKIP

    It is not renewed: when it expires, calls raise `AuthenticationError`. A pickle contains the
    token in clear text, for processes of your own; nothing else shows it.
    """

    token: SecretStr

    @field_validator("token")
    @classmethod
    def _in_a_header(cls, value: SecretStr) -> SecretStr:
        if not TOKEN_CHARACTERS.fullmatch(value.get_secret_value()):
            raise ValueError("contains a space or a character that is not ASCII")
        return value

    def authorization(self) -> str:
        """Return the value of the `Authorization` header."""
        return f"Bearer {self.token.get_secret_value()}"


class LoginCredentials(ProjectCredentials):
    """The login of a person, made by `mp auth login`, and a project.

    The tokens are in the file `tokens_path`; the access token is renewed when it expires.
    """

    tokens_path: Path


AnyCredentials = Credentials | TokenCredentials | LoginCredentials


@hide_arguments
def from_environment(overrides: dict[str, str | None]) -> AnyCredentials | None:
    """Return the credentials in the environment; None if no name, secret or token is set.

    A service account takes precedence over the token in `MP_OAUTH_TOKEN`.

    :raises ConfigError: when only some of the variables are set, or one is invalid.
    """
    found = {field: os.environ.get(name, "").strip() for field, name in VARIABLES.items()}
    fields = {field: value for field, value in found.items() if value}
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    source = source_of("environment", overrides)
    if token and "username" not in fields and "secret" not in fields:
        project = {k: v for k, v in (fields | overrides).items() if k in ("project_id", "region")}
        if "project_id" not in project:
            raise ConfigError(
                f"the environment has {TOKEN_VARIABLE}, but not MP_PROJECT_ID: set it to the id of "
                "the project to read"
            )
        return checked(
            {**project, "token": token}, "the environment", source=source, kind=TokenCredentials
        )
    needed = [field for field in VARIABLES if field != "region"]
    if not fields.keys() & {"username", "secret"}:
        return None
    missing = [VARIABLES[field] for field in needed if field not in fields | overrides]
    if missing:
        present = " and ".join(VARIABLES[field] for field in needed if field in fields)
        raise ConfigError(
            f"the environment has {present}, but not {' and '.join(missing)}: set all of "
            "MP_USERNAME, MP_SECRET and MP_PROJECT_ID or none, or name an account"
        )
    return checked(fields | overrides, "the environment", source=source, kind=Credentials)


def source_of(origin: str, overrides: dict[str, str | None] | None) -> str:
    """Return the text of `Credentials.source`."""
    return ", ".join([origin, *(f"{field} overridden" for field in overrides or ())])


@hide_arguments
def checked(
    fields: dict[str, Any],
    where: str,
    *,
    source: str,
    account: str | None = None,
    kind: type[Fields],
) -> Fields:
    """Return credentials of a kind, made from fields; `where` begins the error.

    :raises ConfigError: naming each invalid field, and never showing a value.
    """
    try:
        return kind(**fields, source=source, account=account)
    except ValidationError as error:
        problems = [
            f"{problem['loc'][0]} "
            + ("is missing" if problem["type"] == "missing" else problem["msg"].partition(", ")[2])
            for problem in error.errors(include_url=False, include_input=False)
        ]
    raise ConfigError(f"{where}: {'; '.join(problems)}")
