"""Write files that hold secrets: for their owner alone, whole or not at all, one writer a time.

Also: where a person's home is, and what to say when a disk takes no more.
"""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mixpanel.data.exceptions import ConfigError, MixpanelDataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # pragma: no cover - Windows, where two writers are not kept apart
    fcntl = None

OTHERS = 0o077  # the permission bits of everybody but the owner
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def expanded(path: Path | str) -> Path:
    """Return a path with the home it begins with, if it begins with `~`.

    :raises ConfigError: when nobody says where that home is.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{path} begins in a home folder that nobody knows: set HOME, or give a whole path"
        ) from None


@contextmanager
def on_disk(path: Path) -> Iterator[None]:
    """Say of a file that cannot be written which one it is, and what to do.

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


def others_may_read(path: Path) -> bool:
    """Tell whether anybody but its owner has a right to a file."""
    return os.name == "posix" and bool(path.stat().st_mode & OTHERS)


def make_folder(folder: Path, *, ours: bool) -> None:
    """Make a folder that only its owner can enter, whatever the umask; leave those of others."""
    for path in reversed([folder, *folder.parents]):
        if not path.exists():
            path.mkdir(mode=0o700, exist_ok=True)
            path.chmod(0o700)
    if ours:
        folder.chmod(0o700)


@contextmanager
def turn(target: Path) -> Iterator[None]:
    """Wait until no other process or thread is changing the file."""
    lock = target.with_name(f".{target.name}.lock")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        lock.chmod(0o600)
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write(target: Path, text: str) -> None:
    """Put a new file in place of the old one: all of it, or nothing."""
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            temporary.chmod(0o600)  # the umask may have taken even the owner's rights
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
