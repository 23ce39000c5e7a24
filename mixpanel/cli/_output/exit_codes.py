"""The exit codes of `mp`, and errors as JSON, for scripts to act on."""

import json
import re
from enum import IntEnum
from http import HTTPStatus
from typing import Any

from mixpanel.exceptions import AuthenticationError, ConfigurationError, RateLimitError

DETAILS = ("status", "endpoint", "retry_after")  # attributes of an error of delivery
# Of failures of tools, which come from another process and have no class of their own.
USAGE_CODES = (
    "CONFIG_ERROR", "CONFIRM", "EXPRESSION_ERROR", "INVALID_ARGUMENT", "INVALID_CURSOR",
    "READ_ONLY", "SQL_ERROR", "UNKNOWN_TOOL", "UNSAFE_SQL",
)  # fmt: skip
REFUSED_CREDENTIALS = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.PAYMENT_REQUIRED,
    HTTPStatus.FORBIDDEN,
)


class ExitCode(IntEnum):
    """Every exit code of `mp`."""

    OK = 0
    ERROR = 1
    AUTHENTICATION = 2
    USAGE = 3
    NOT_FOUND = 4
    RATE_LIMITED = 5
    PARTIAL = 6  # done, but some records were rejected, or a check found problems
    INTERRUPTED = 130  # Ctrl-C: 128 + SIGINT, as shells report it


def exit_code(error: BaseException) -> ExitCode:
    """Return the exit code for an error of the package."""
    from mixpanel.data import exceptions as data

    status = getattr(error, "status", None)
    not_found = (
        data.AccountNotFoundError, data.TableNotFoundError, data.DatabaseNotFoundError,
        data.EventNotFoundError, data.PropertyNotFoundError, data.ReportNotFoundError,
        data.ObjectNotFoundError,
    )  # fmt: skip
    # From the most specific class to the most general one.
    if isinstance(error, not_found):
        return ExitCode.NOT_FOUND
    if isinstance(error, data.AccountExistsError | data.ConflictError):
        return ExitCode.ERROR
    if isinstance(error, data.PermissionDeniedError):
        return ExitCode.AUTHENTICATION
    if isinstance(error, ConfigurationError | data.QueryError):
        return ExitCode.USAGE
    if isinstance(error, AuthenticationError) or status in REFUSED_CREDENTIALS:
        return ExitCode.AUTHENTICATION
    code = str(getattr(error, "code", ""))
    if status == HTTPStatus.NOT_FOUND or code.endswith("_NOT_FOUND"):
        return ExitCode.NOT_FOUND
    if code in USAGE_CODES:
        return ExitCode.USAGE
    if isinstance(error, RateLimitError) or status == HTTPStatus.TOO_MANY_REQUESTS:
        return ExitCode.RATE_LIMITED
    return ExitCode.ERROR


def error_to_dict(error: BaseException) -> dict[str, Any]:
    """Return the code, message, details and notes of an error of the package."""
    to_dict = getattr(error, "to_dict", None)
    if to_dict is not None:
        data: dict[str, Any] = to_dict()
    else:
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__.removesuffix("Error"))
        details = {each: getattr(error, each, None) for each in DETAILS}
        known = {each: value for each, value in details.items() if value is not None}
        data = {"code": name.upper(), "message": str(error), "details": known}
    notes = getattr(error, "__notes__", None)
    return data | {"notes": notes} if notes else data


def json_line(data: dict[str, Any]) -> str:
    """Return one line of JSON in ASCII, which any terminal can show."""
    return json.dumps(data, default=str)
