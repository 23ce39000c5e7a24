"""Remember what was asked for before the command: `mp --account prod --quiet …`."""

import os
from dataclasses import dataclass
from enum import StrEnum


class ErrorFormat(StrEnum):
    """How a command says what went wrong."""

    TEXT = "text"
    JSON = "json"


@dataclass(slots=True)
class Asked:
    """What holds for the whole run of a command."""

    account: str | None = None
    quiet: bool = False
    errors: ErrorFormat = ErrorFormat.TEXT

    @property
    def silent(self) -> bool:
        """Tell whether to leave out all talk: errors in JSON stand alone on stderr."""
        return self.quiet or self.errors is ErrorFormat.JSON


asked = Asked()


def forget(arguments: list[str]) -> None:
    """Begin anew, knowing only how to say that the arguments themselves are wrong."""
    asked.account, asked.quiet = None, False
    words = " ".join(arguments).replace("=", " ").split()
    wanted = os.environ.get("MP_ERROR_FORMAT", "")
    if "--error-format" in words[:-1]:
        wanted = words[words.index("--error-format") + 1]
    asked.errors = ErrorFormat.JSON if wanted.lower() == ErrorFormat.JSON else ErrorFormat.TEXT
