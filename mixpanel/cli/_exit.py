"""Say in one number how a command ended, for scripts to act upon."""

from enum import IntEnum

from mixpanel.exceptions import AuthenticationError, ConfigurationError

NOT_FOUND = 404
TOO_MANY_REQUESTS = 429


class ExitCode(IntEnum):
    """Every exit code of `mp`."""

    OK = 0
    ERROR = 1
    USAGE = 2
    AUTHENTICATION = 3
    NOT_FOUND = 4
    RATE_LIMITED = 5
    PARTIAL = 6  # it was done, but some records were refused
    INTERRUPTED = 130  # Ctrl-C, as shells count it


def exit_code(error: BaseException) -> ExitCode:
    """Return the exit code that an error of the package ends a command with."""
    status = getattr(error, "status", None)
    if isinstance(error, AuthenticationError) or status in (401, 402, 403):
        return ExitCode.AUTHENTICATION
    if isinstance(error, ConfigurationError):
        return ExitCode.USAGE
    if status == NOT_FOUND:
        return ExitCode.NOT_FOUND
    if status == TOO_MANY_REQUESTS:
        return ExitCode.RATE_LIMITED
    return ExitCode.ERROR
