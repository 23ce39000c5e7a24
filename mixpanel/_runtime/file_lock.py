"""Keep processes and threads apart with a lock on a file.

The kernel gives the lock back when its holder ends, however it ends. Where there is no `flock`,
on Windows, nobody is kept apart.
"""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING

from mixpanel._runtime import fork
from mixpanel._runtime.checked_files import UnsafeFileError, check_status, open_flags

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None

__all__ = ["FileLock", "is_same_file", "try_lock"]

RETRY_EVERY = 0.02  # seconds between two attempts of who waits
TAKEN = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES})


def try_lock(descriptor: int) -> bool:
    """Lock an open file; return False when it is locked through another descriptor.

    :raises OSError: when its file system has no locks.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in TAKEN:
            return False
        raise
    return True


def is_same_file(descriptor: int, path: Path) -> bool:
    """Return True if the open file is the one at the path, and not one that was there before."""
    try:
        there = os.lstat(path)
    except OSError:
        return False
    ours = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


class FileLock:
    """A lock that lies in an empty file, readable by its owner only.

    :param remove: remove the file with the lock; else it stays for the next one.
    """

    def __init__(self, path: Path, *, remove: bool = False) -> None:
        self.path = path
        self._remove = remove
        self._descriptor: int | None = None
        fork.register_instance(fork.Order.LOCKS, self)

    @property
    def is_held(self) -> bool:
        """Return True while this object holds the lock."""
        return self._descriptor is not None

    def acquire(self, timeout: float = 0.0) -> bool:
        """Take the lock, waiting up to `timeout` seconds for it; return True if it is held now.

        :raises UnsafeFileError: when what lies at the path could be somebody else's.
        :raises OSError: when the file cannot be made, or its file system has no locks.
        """
        if fcntl is None or self._descriptor is not None:
            return True
        end = time.monotonic() + timeout
        while not self._attempt():
            left = end - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(RETRY_EVERY, left))
        return True

    def release(self) -> None:
        """Give the lock back; does nothing when it is not held."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        try:
            if self._remove and is_same_file(descriptor, self.path):
                self.path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)

    def _attempt(self) -> bool:
        while True:
            descriptor = self._open()
            try:
                if not try_lock(descriptor):
                    return False
                # A holder that removed the file leaves a lock on nothing: the new file is tried.
                if is_same_file(descriptor, self.path):
                    self._descriptor, descriptor = descriptor, -1
                    return True
            finally:
                if descriptor >= 0:
                    os.close(descriptor)

    def _open(self) -> int:
        while True:
            try:
                made = os.open(self.path, open_flags(os.O_RDWR | os.O_CREAT | os.O_EXCL), 0o600)
            except FileExistsError:
                pass
            else:
                _restore_owner_rights(made)
                return made
            try:
                check_status(os.lstat(self.path), self.path)
                found = os.open(self.path, open_flags(os.O_RDWR))
            except FileNotFoundError:  # removed meanwhile
                continue
            try:
                self._check(os.fstat(found))
            except BaseException:
                os.close(found)
                raise
            return found

    def _check(self, status: os.stat_result) -> None:
        check_status(status, self.path)
        if status.st_nlink > 1:
            problem = "it has a second name, a hard link: remove it"
            raise UnsafeFileError(errno.EMLINK, problem, str(self.path))

    def after_fork(self) -> None:
        """Close the copy of a forked child: the lock lives as long as any copy is open."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _restore_owner_rights(descriptor: int) -> None:
    """Undo what the umask took, which may be even the owner's rights."""
    if hasattr(os, "fchmod"):
        os.fchmod(descriptor, 0o600)
