"""Expand `~` in paths, and turn failed writes into clear errors."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mixpanel.data.exceptions import ConfigError, MixpanelDataError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["default_database", "expand_home", "write_errors"]

DATABASES = Path("~/.mp/data")

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def expand_home(path: Path | str) -> Path:
    """Return a path with its leading `~` replaced by the home directory.

    :raises ConfigError: when there is no home directory.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"cannot expand {path}: no home directory; set HOME or use an absolute path"
        ) from None


def default_database(project_id: str) -> Path:
    """Return the database file of a project: that of `MP_DB`, else `~/.mp/data/PROJECT.db`."""
    return Path(os.environ.get("MP_DB") or DATABASES / f"{project_id}.db")


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Raise an error with the file and a remedy for an OSError in the block.

    :raises MixpanelDataError: with the code DISK_FULL, or FILE_NOT_WRITTEN for another cause.
    """
    try:
        yield
    except OSError as error:
        is_full = error.errno in DISK_FULL
        reason = "the disk is full: free some space" if is_full else f"{error.strerror or error}:"
        remedy = "and repeat the call" if is_full else "correct that and repeat the call"
        raise MixpanelDataError(
            f"cannot write {path}: {reason} {remedy}",
            code="DISK_FULL" if is_full else "FILE_NOT_WRITTEN",
            details={"path": str(path)},
        ) from error
