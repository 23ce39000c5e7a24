"""Paths as people write them, and what to say of a file that cannot be written."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mixpanel.data.exceptions import ConfigError, MixpanelDataError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["expand_home", "write_errors"]

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def expand_home(path: Path | str) -> Path:
    """Return a path with the home folder in place of the `~` that it begins with, if it does.

    :raises ConfigError: when there is no home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"cannot expand {path}: there is no home folder; set HOME, or give an absolute path"
        ) from None


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn the error of a file that cannot be written into one that names the file and a remedy.

    :raises MixpanelDataError: DISK_FULL, or FILE_NOT_WRITTEN for another cause.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in FULL
        why = "the disk is full: make room there, and" if full else f"{error.strerror or error};"
        raise MixpanelDataError(
            f"{path} cannot be written: {why} run the same call again",
            code="DISK_FULL" if full else "FILE_NOT_WRITTEN",
            details={"path": str(path)},
        ) from error
