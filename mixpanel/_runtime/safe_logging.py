"""The package's logger, whose methods never raise.

Handlers and filters belong to the application. An exception in one of them must not interrupt the
delivery of messages, for example between a response and the update of the statistics.
"""

from __future__ import annotations

import logging
import sys
import traceback
from contextlib import suppress
from typing import Any

__all__ = ["SafeLogger", "logger", "standard_logger"]


class SafeLogger:
    """A wrapper of a standard logger that prints the exceptions of handlers to stderr.

    It prints them if `logging.raiseExceptions` is set, as the standard library does. Only
    KeyboardInterrupt is raised.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - the standard library's name
        """Return True if a message of this level would be logged."""
        return self._logger.isEnabledFor(level)

    def log(self, level: int, message: str, *args: Any, exc_info: Any = None) -> None:
        """Log a message; never raises."""
        self._emit(level, message, args, exc_info)

    def _emit(self, level: int, message: str, args: tuple[Any, ...], exc_info: Any) -> None:
        try:
            # `stacklevel=3` skips this method and the one that called it, such as `debug`.
            self._logger.log(level, message, *args, exc_info=exc_info, stacklevel=3)
        except KeyboardInterrupt:
            raise
        except BaseException:
            if logging.raiseExceptions and sys.stderr is not None:
                with suppress(Exception):
                    sys.stderr.write("--- A log handler failed ---\n")
                    traceback.print_exc(file=sys.stderr)

    def debug(self, message: str, *args: Any, exc_info: Any = None) -> None:
        """Log at DEBUG; never raises."""
        self._emit(logging.DEBUG, message, args, exc_info)

    def warning(self, message: str, *args: Any, exc_info: Any = None) -> None:
        """Log at WARNING; never raises."""
        self._emit(logging.WARNING, message, args, exc_info)

    def error(self, message: str, *args: Any, exc_info: Any = None) -> None:
        """Log at ERROR; never raises."""
        self._emit(logging.ERROR, message, args, exc_info)

    def exception(self, message: str, *args: Any) -> None:
        """Log at ERROR with the exception that is being handled; never raises."""
        self._emit(logging.ERROR, message, args, exc_info=True)


logger = SafeLogger("mixpanel")
standard_logger: logging.Logger = logging.getLogger("mixpanel")
