"""Say in one number how a command ended, and in words or JSON why, for scripts to act upon."""

import json
import re
from enum import IntEnum
from typing import Any

from mixpanel.exceptions import AuthenticationError, ConfigurationError, RateLimitError

NOT_FOUND = 404
TOO_MANY_REQUESTS = 429
FACTS = ("status", "endpoint", "retry_after")  # what an error of sending knows


class ExitCode(IntEnum):
    """Every exit code of `mp`."""

    OK = 0
    ERROR = 1
    AUTHENTICATION = 2
    USAGE = 3
    NOT_FOUND = 4
    RATE_LIMITED = 5
    PARTIAL = 6  # it was done, but some records were refused
    INTERRUPTED = 130  # Ctrl-C, as shells count it


def exit_code(error: BaseException) -> ExitCode:
    """Return the exit code that an error of the package ends a command with."""
    from mixpanel.data import exceptions as data

    status = getattr(error, "status", None)
    absent = (
        data.AccountNotFoundError, data.TableNotFoundError,
        data.DatabaseNotFoundError, data.EventNotFoundError,
        data.PropertyNotFoundError, data.ReportNotFoundError,
    )  # fmt: skip
    if isinstance(error, absent):
        return ExitCode.NOT_FOUND
    if isinstance(error, data.AccountExistsError):
        return ExitCode.ERROR
    if isinstance(error, ConfigurationError | data.QueryError):
        return ExitCode.USAGE
    if isinstance(error, AuthenticationError) or status in (401, 402, 403):
        return ExitCode.AUTHENTICATION
    if status == NOT_FOUND or getattr(error, "code", None) == "FILE_NOT_FOUND":
        return ExitCode.NOT_FOUND
    if isinstance(error, RateLimitError) or status == TOO_MANY_REQUESTS:
        return ExitCode.RATE_LIMITED
    return ExitCode.ERROR


def as_dict(error: BaseException) -> dict[str, Any]:
    """Return code, message and details of any error of the package, and what was noted on it."""
    to_dict = getattr(error, "to_dict", None)
    if to_dict is not None:
        told: dict[str, Any] = to_dict()
    else:
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__.removesuffix("Error"))
        facts = {fact: getattr(error, fact, None) for fact in FACTS}
        known = {fact: value for fact, value in facts.items() if value is not None}
        told = {"code": name.upper(), "message": str(error), "details": known}
    notes = getattr(error, "__notes__", None)
    return told | {"notes": notes} if notes else told


def one_line(told: dict[str, Any]) -> str:
    """Write an error as one line of JSON, which any terminal can show."""
    return json.dumps(told, default=str)
