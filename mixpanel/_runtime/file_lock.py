"""Locks on files, between processes and threads, by `flock`.

The kernel releases a lock when its holder ends, however it ends. On Windows, which has no `flock`,
every lock is acquired at once.
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

__all__ = ["FileLock", "is_same_file", "lock_if_supported", "try_lock"]

RETRY_EVERY = 0.02  # seconds between two attempts to acquire a lock
LOCKED = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES})


def try_lock(descriptor: int) -> bool:
    """Lock an open file; return False when it is locked through another descriptor.

    :raises OSError: when its file system has no locks.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in LOCKED:
            return False
        raise
    return True


def lock_if_supported(descriptor: int) -> bool:
    """Lock an open file as `try_lock` does; return True where its file system has no locks."""
    try:
        return try_lock(descriptor)
    except OSError:
        return True


def is_same_file(descriptor: int, path: Path) -> bool:
    """Return True if the open file is the one that is at the path now."""
    try:
        current = os.lstat(path)
    except OSError:
        return False
    opened = os.fstat(descriptor)
    return (current.st_dev, current.st_ino) == (opened.st_dev, opened.st_ino)


class FileLock:
    """A lock on an empty file, which only its owner may read.

    :param remove: remove the file when the lock is released.
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
        """Acquire the lock within `timeout` seconds; return True if it is held now.

        :raises UnsafeFileError: when another user could have made the file at the path.
        :raises OSError: when the file cannot be created, or its file system has no locks.
        """
        if fcntl is None or self._descriptor is not None:
            return True
        end = time.monotonic() + timeout
        while not self._try_acquire():
            remaining = end - time.monotonic()
            if remaining <= 0:
                return False
            time.sleep(min(RETRY_EVERY, remaining))
        return True

    def release(self) -> None:
        """Release the lock; do nothing if it is not held."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        try:
            if self._remove and is_same_file(descriptor, self.path):
                self.path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)

    def _try_acquire(self) -> bool:
        while True:
            descriptor = self._open()
            try:
                if not try_lock(descriptor):
                    return False
                # The last holder may have removed the file after it was opened here: try again.
                if is_same_file(descriptor, self.path):
                    self._descriptor, descriptor = descriptor, -1
                    return True
            finally:
                if descriptor >= 0:
                    os.close(descriptor)

    def _open(self) -> int:
        # Either create the file or open the one that is there, never both in one call: only a file
        # that existed before can have been planted, and needs the checks.
        while True:
            try:
                created = os.open(self.path, open_flags(os.O_RDWR | os.O_CREAT | os.O_EXCL), 0o600)
            except FileExistsError:
                pass
            else:
                _restore_owner_rights(created)
                return created
            try:
                check_status(os.lstat(self.path), self.path)
                existing = os.open(self.path, open_flags(os.O_RDWR))
            except FileNotFoundError:  # removed meanwhile
                continue
            try:
                self._check(os.fstat(existing))
            except BaseException:
                os.close(existing)
                raise
            return existing

    def _check(self, status: os.stat_result) -> None:
        check_status(status, self.path)
        if status.st_nlink > 1:
            problem = "it has a second name (hard link): remove it"
            raise UnsafeFileError(errno.EMLINK, problem, str(self.path))

    def after_fork(self) -> None:
        """Close the child's copy of the descriptor: a lock is held while any copy is open."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _restore_owner_rights(descriptor: int) -> None:
    """Undo the umask, which may have removed even the owner's rights."""
    if hasattr(os, "fchmod"):
        os.fchmod(descriptor, 0o600)
