"""Keep the last good definitions in a file, which also lets several processes share one poller.

The file is replaced as a whole, and readable by its owner only. It decides what users see, so a
file that another user could have written is not read.
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

from mixpanel._records.json_encoding import dumps, loads
from mixpanel._runtime.checked_files import UnsafeFileError, open_checked, read_checked
from mixpanel._runtime.private_files import make_folder, remove_abandoned, write
from mixpanel._runtime.safe_logging import logger
from mixpanel.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

__all__ = ["MAX_SNAPSHOT_BYTES", "SavedDefinitions", "SnapshotFile"]

MAX_SNAPSHOT_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class SavedDefinitions:
    """The contents of a snapshot: the decoded response, its ETag and its time (epoch seconds)."""

    payload: Any
    etag: str | None
    fetched_at: float


class SnapshotFile:
    """The last good definitions of one project, in one file of at most `max_bytes`.

    :raises ConfigurationError: the path exists and is not a regular file.
    """

    def __init__(
        self, path: str | os.PathLike[str], token: str, max_bytes: int = MAX_SNAPSHOT_BYTES
    ) -> None:
        self.path = Path(path)
        self._max_bytes = max_bytes
        self._check_kind()
        self._key = hashlib.sha256(token.encode()).hexdigest()[:16]
        self._last_digest: bytes | None = None  # of what was loaded last
        self._logged_problem: str | None = None
        remove_abandoned(self.path)

    def _check_kind(self) -> None:
        try:
            if self.path.is_dir():
                problem = "is a directory: pass the path of a file"
            elif stat.S_IFMT(os.lstat(self.path).st_mode) not in (stat.S_IFREG, stat.S_IFLNK):
                problem = (
                    "is not a regular file: pass the path of one, or one that does not exist yet"
                )
            else:
                return
        except OSError:  # missing, or not accessible: `load` logs why
            return
        raise ConfigurationError(f"snapshot_path {self.path} {problem}")

    def save(self, saved: SavedDefinitions) -> None:
        """Replace the file atomically.

        :raises OSError: it cannot be written.
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
        if len(body) > self._max_bytes:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        write(self.path, body)

    def touch(self) -> None:
        """Record that the file's definitions are current, as its modification time."""
        with contextlib.suppress(OSError), self._open() as file:
            os.utime(file.fileno() if os.utime in os.supports_fd else self.path)

    def touched(self) -> float | None:
        """Return when the file was last known to be current (epoch seconds); None without one."""
        try:
            with self._open() as file:
                return os.fstat(file.fileno()).st_mtime
        except OSError:
            return None

    def _open(self) -> AbstractContextManager[IO[bytes]]:
        return open_checked(self.path, max_bytes=self._max_bytes)

    def load(self, *, only_new: bool = False) -> SavedDefinitions | None:
        """Return the file's contents; None without a usable file.

        With `only_new`, also None if they are those that were loaded last. Contents are compared,
        since a replaced file may have the same time, size and inode.
        """
        with self._problems_logged():
            body = read_checked(self.path, max_bytes=self._max_bytes)
            digest = hashlib.blake2b(body).digest()
            if only_new and digest == self._last_digest:
                return None
            with contextlib.suppress(
                ValueError, KeyError, TypeError, OverflowError, RecursionError
            ):
                data = loads(body)
                etag = data["etag"] if isinstance(data["etag"], str) else None
                saved = SavedDefinitions(data["payload"], etag, float(data["fetched_at"]))
                is_ours = data["project"] == self._key
                self._last_digest = digest
                return saved if is_ours and 0 <= saved.fetched_at <= time.time() + 60 else None
        return None

    @contextlib.contextmanager
    def _problems_logged(self) -> Iterator[None]:
        """Ignore a file that cannot be read, and log once why."""
        try:
            yield
        except FileNotFoundError:
            return
        except UnsafeFileError as error:
            problem = error.strerror
        except OSError as error:
            problem = f"it cannot be read: {error.strerror}"
        else:
            self._logged_problem = None
            return
        if problem != self._logged_problem:
            self._logged_problem = problem
            logger.warning("ignoring the flag snapshot %s: %s", self.path, problem)
