"""Temporary directories of one process, which are removed even if the process is killed.

A process holds a lock on its directory. A directory without a lock was left by a killed process; it
is removed when the next process of the same user makes one.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mixpanel._runtime import fork
from mixpanel._runtime.checked_files import open_flags
from mixpanel._runtime.file_lock import fcntl, is_same_file, lock_if_supported, try_lock
from mixpanel._runtime.private_files import make_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["make_temporary_folder", "remove_temporary_folder", "temporary_folder"]

NAME = re.compile(r"mixpanel-[0-9a-f]{16}")
ATTEMPTS = 100

_locked: dict[Path, int] = {}


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Create a directory with mode 0700, and remove it at the end of the block."""
    folder = make_temporary_folder()
    try:
        yield folder
    finally:
        remove_temporary_folder(folder)


def make_temporary_folder() -> Path:
    """Create a directory with mode 0700, and remove those that killed processes left.

    :raises OSError: when it cannot be created.
    """
    parent = Path(tempfile.gettempdir())
    _remove_abandoned(parent)
    for _ in range(ATTEMPTS):
        folder = parent / f"mixpanel-{secrets.token_hex(8)}"
        if os.path.lexists(folder):
            continue
        descriptor = -1
        # Until it is locked, another process may take it for abandoned, and remove it.
        with suppress(FileNotFoundError):
            make_folder(folder)
            if fcntl is None:
                return folder
            descriptor = os.open(folder, open_flags(os.O_RDONLY | os.O_DIRECTORY))
            if lock_if_supported(descriptor) and is_same_file(descriptor, folder):
                _locked[folder] = descriptor
                return folder
        if descriptor >= 0:
            os.close(descriptor)
    raise FileExistsError(f"could not create a temporary directory in {parent}")


def remove_temporary_folder(folder: Path) -> None:
    """Remove a directory and its content; do nothing if it is gone."""
    shutil.rmtree(folder, ignore_errors=True)
    descriptor = _locked.pop(folder, None)
    if descriptor is not None:
        os.close(descriptor)


def _remove_abandoned(parent: Path) -> None:
    if fcntl is None:  # without locks, a directory in use looks like an abandoned one
        return
    with suppress(OSError):
        for name in os.listdir(parent):  # noqa: PTH208 - names are all that is needed
            if NAME.fullmatch(name):
                with suppress(OSError):
                    _remove_if_abandoned(parent / name)


def _remove_if_abandoned(folder: Path) -> None:
    descriptor = os.open(folder, open_flags(os.O_RDONLY | os.O_DIRECTORY))
    try:
        status = os.fstat(descriptor)
        ours = status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) == stat.S_IRWXU
        if ours and try_lock(descriptor) and is_same_file(descriptor, folder):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)


def _after_fork() -> None:
    """Close the child's copies of the descriptors: a lock is held while any copy is open."""
    while _locked:
        os.close(_locked.popitem()[1])


fork.register(fork.Order.LOCKS, after_in_child=_after_fork)
