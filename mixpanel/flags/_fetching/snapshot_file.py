"""Keep the last good definitions on disk, and let several processes share one poller.

The snapshot is replaced as a whole, readable by its owner only. It decides what users see, so
nothing is read that another user could have written. The lease is a lock on a file beside it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mixpanel._records.encoding import dumps, loads
from mixpanel._runtime.checked_files import UnsafeFileError, open_checked, read_checked
from mixpanel._runtime.private_files import make_folder, remove_abandoned, write
from mixpanel._runtime.safe_logging import logger
from mixpanel.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

__all__ = ["LARGEST", "SavedDefinitions", "SnapshotFile"]

LARGEST = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class SavedDefinitions:
    """What a snapshot holds: the decoded answer, its ETag, and when it was fetched (epoch)."""

    payload: Any
    etag: str | None
    fetched_at: float


class SnapshotFile:
    """The last good definitions of one project in one file, of at most `largest` bytes.

    :raises ConfigurationError: when something else than a file is at the path.
    """

    def __init__(self, path: str | os.PathLike[str], token: str, largest: int = LARGEST) -> None:
        self.path = Path(path)
        self._largest = largest
        self._check_kind()
        self._key = hashlib.sha256(token.encode()).hexdigest()[:16]
        self._seen: bytes | None = None  # the digest of what was loaded last
        self._problem: str | None = None  # that was warned of last
        remove_abandoned(self.path)

    def _check_kind(self) -> None:
        try:
            if self.path.is_dir():
                problem = "is a directory: name a file in it"
            elif stat.S_IFMT(os.lstat(self.path).st_mode) not in (stat.S_IFREG, stat.S_IFLNK):
                problem = "is not a regular file: name one, or a path where nothing is yet"
            else:
                return
        except OSError:  # not there yet, or not for us to see: reading it says why
            return
        raise ConfigurationError(f"snapshot_path {self.path} {problem}")

    def save(self, saved: SavedDefinitions) -> None:
        """Replace the file; whoever reads meanwhile sees the old one or the new one.

        :raises OSError: when it cannot be written.
        """
        make_folder(self.path.parent)
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
        write(self.path, body)

    def touch(self) -> None:
        """Record that the file's definitions are still current."""
        with contextlib.suppress(OSError), self._opened() as file:
            os.utime(file.fileno() if os.utime in os.supports_fd else self.path)

    def touched(self) -> float | None:
        """Return when the file was last known to be current (epoch)."""
        try:
            with self._opened() as file:
                return os.fstat(file.fileno()).st_mtime
        except OSError:
            return None

    def _opened(self) -> AbstractContextManager[IO[bytes]]:
        return open_checked(self.path, max_bytes=self._largest)

    def load(self, *, only_new: bool = False) -> SavedDefinitions | None:
        """Return what the file holds; None without a usable file, or if it is what was seen last.

        Whether it is new, its content decides: time, size and inode may all be those of before.
        """
        with self._problems_logged():
            body = read_checked(self.path, max_bytes=self._largest)
            digest = hashlib.blake2b(body).digest()
            if only_new and digest == self._seen:
                return None
            with contextlib.suppress(
                ValueError, KeyError, TypeError, OverflowError, RecursionError
            ):
                data = loads(body)
                etag = data["etag"] if isinstance(data["etag"], str) else None
                saved = SavedDefinitions(data["payload"], etag, float(data["fetched_at"]))
                mine = data["project"] == self._key
                self._seen = digest
                return saved if mine and 0 <= saved.fetched_at <= time.time() + 60 else None
        return None

    @contextlib.contextmanager
    def _problems_logged(self) -> Iterator[None]:
        """Pass over a file that cannot be read, and log once why it is not used."""
        try:
            yield
        except FileNotFoundError:
            return
        except UnsafeFileError as error:
            problem = error.strerror
        except OSError as error:
            problem = f"it cannot be read: {error.strerror}"
        else:
            self._problem = None
            return
        if problem != self._problem:
            self._problem = problem
            logger.warning("the flag snapshot %s is not used: %s", self.path, problem)
