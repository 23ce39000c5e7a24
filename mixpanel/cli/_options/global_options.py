"""Options before the command, as in `mp --account prod --quiet …`, for the length of one run."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class ErrorFormat(StrEnum):
    """How errors are written to stderr."""

    TEXT = "text"
    JSON = "json"


@dataclass(slots=True)
class GlobalOptions:
    """What applies to the whole run of a command.

    `option_names` maps the parameters of the running command to its options, so that an error can
    name `--from` instead of `from_date`.
    """

    account: str | None = None
    quiet: bool = False
    memory_limit: str | None = None
    threads: int | None = None
    error_format: ErrorFormat = ErrorFormat.TEXT
    option_names: Mapping[str, str] = field(default_factory=dict)

    @property
    def errors_only(self) -> bool:
        """Return True if nothing but errors goes to stderr, which JSON errors imply."""
        return self.quiet or self.error_format is ErrorFormat.JSON


global_options = GlobalOptions()


def reset(arguments: list[str]) -> None:
    """Set the defaults of a new run.

    The error format is read from the raw arguments, because it applies to errors in parsing them.
    """
    global_options.account, global_options.quiet = None, False
    global_options.memory_limit = global_options.threads = None
    global_options.option_names = {}
    words = " ".join(arguments).replace("=", " ").split()
    error_format = os.environ.get("MP_ERROR_FORMAT", "")
    if "--error-format" in words[:-1]:
        error_format = words[words.index("--error-format") + 1]
    is_json = error_format.lower() == ErrorFormat.JSON
    global_options.error_format = ErrorFormat.JSON if is_json else ErrorFormat.TEXT
