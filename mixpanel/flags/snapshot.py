"""Keep the last good definitions on disk, and let several processes share one poller.

The snapshot is replaced as a whole (written aside, then renamed), readable by its owner only. The
lease is a lock on a file beside it: the kernel gives it back when its holder ends, however it ends.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixpanel._json import dumps, loads
from mixpanel.exceptions import ConfigurationError

if TYPE_CHECKING:
    from types import ModuleType

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows: each process polls for itself
    fcntl = None

__all__ = ["Lease", "Saved", "SnapshotFile"]

LARGEST = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Saved:
    """What a snapshot holds: the decoded answer, its ETag, and when it was fetched (epoch)."""

    payload: Any
    etag: str | None
    fetched_at: float


class SnapshotFile:
    """The last good definitions of one project in one file, of at most `largest` bytes.

    :raises ConfigurationError: when the path is that of a directory.
    """

    def __init__(self, path: str | os.PathLike[str], token: str, largest: int = LARGEST) -> None:
        self.path = Path(path)
        self._largest = largest
        if self.path.is_dir():
            raise ConfigurationError(f"snapshot_path {self.path} is a directory: name a file in it")
        self._key = hashlib.sha256(token.encode()).hexdigest()[:16]
        self._seen: tuple[int, int] | None = None

    def save(self, saved: Saved) -> None:
        """Replace the file; whoever reads meanwhile sees the old one or the new one.

        :raises OSError: when it cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        body, _ = dumps(
            {
                "project": self._key,
                "fetched_at": saved.fetched_at,
                "etag": saved.etag,
                "payload": saved.payload,
            }
        )
        if len(body) > self._largest:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(body)
            Path(name).replace(self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise

    def touch(self) -> None:
        """Say that the file's definitions are still current."""
        with contextlib.suppress(OSError):
            os.utime(self.path)

    def touched(self) -> float | None:
        """Return when the file was last known to be current (epoch)."""
        try:
            return self.path.stat().st_mtime
        except OSError:
            return None

    def load(self, *, only_new: bool = False) -> Saved | None:
        """Return what the file holds; None without a usable file, or if it is the one seen last."""
        try:
            handle = os.open(self.path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        except OSError:
            return None
        try:
            status = os.fstat(handle)
            stamp = (status.st_ino, status.st_size)
            if (only_new and stamp == self._seen) or status.st_size > self._largest:
                return None
            with os.fdopen(handle, "rb", closefd=False) as file:
                data = loads(file.read())
            etag = data["etag"] if isinstance(data["etag"], str) else None
            saved = Saved(data["payload"], etag, float(data["fetched_at"]))
            mine = data["project"] == self._key
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None
        finally:
            os.close(handle)
        self._seen = stamp
        return saved if mine and 0 <= saved.fetched_at <= time.time() + 60 else None


class Lease:
    """The right to poll for all processes that share a snapshot."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._file: int | None = None
        _leases.add(self)

    def acquire(self) -> bool:
        """Take the lease if nobody has it; tell whether it is ours."""
        if fcntl is None:
            return True
        if self._file is not None:
            return True
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            return False
        self._file = handle
        return True

    def release(self) -> None:
        """Give the lease back."""
        self._close()

    def _close(self) -> None:
        handle, self._file = self._file, None
        if handle is not None:
            os.close(handle)


_leases: weakref.WeakSet[Lease] = weakref.WeakSet()


def _after_fork() -> None:
    """Close the child's copies: the lock lives as long as any copy of its file is open."""
    for lease in list(_leases):
        lease.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
