"""Remember how far a backfill came, so that the same command goes on with the rest of its file."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixpanel._runtime.checked_files import UnsafeFileError, read_checked
from mixpanel._runtime.file_lock import FileLock
from mixpanel._runtime.private_files import remove_abandoned, write
from mixpanel.exceptions import ConfigurationError, MixpanelException

OFTEN = 0.5  # seconds between two writes
VERSION = 1
MOST_BYTES = 1_000_000
SUFFIX = ".backfill"
UNREADABLE = (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError)


@dataclass(slots=True)
class Came:
    """How far a backfill came: of the rows before `position` each was delivered or refused."""

    position: int = 0
    refused: int = 0
    _ahead: list[int] = field(default_factory=list)

    @property
    def delivered(self) -> int:
        """Return how many were delivered."""
        return self.position - self.refused

    def refuse(self, position: int) -> None:
        """Take in that a row was refused; others before it may still be on their way."""
        self._ahead.append(position)

    def reach(self, position: int) -> None:
        """Take in that all rows before this one are settled."""
        self.position = position
        self.refused += sum(one < position for one in self._ahead)
        self._ahead = [one for one in self._ahead if one >= position]


class Checkpoint:
    """A small file beside the large one: rows up to its position are settled for good.

    It belongs to one file, as it was, and to one `job`: where it goes, and what its columns mean.
    """

    def __init__(self, path: Path, file: Path, job: Mapping[str, Any]) -> None:
        status = file.stat()
        self.path = path
        self._file = {"size": status.st_size, "modified": status.st_mtime_ns}
        self._job = dict(job)
        self._written = 0.0
        # Called before each write: what the checkpoint counts must be on the disk before it is.
        self.before_save: Callable[[], object] = lambda: None

    def load(self) -> Came:
        """Return how far earlier runs came; the beginning when there were none.

        :raises ConfigurationError: when it is about another file or job, or cannot be read.
        """
        came = Came()
        try:
            kept = self._read()
            came = Came(int(kept["position"]), int(kept["refused"]))
            problem = self._problem(kept) if came.position else None  # else nothing was done yet
            if not 0 <= came.refused <= came.position:
                problem = "its numbers cannot be"
        except FileNotFoundError:
            return came
        except OSError as error:
            problem = f"it cannot be read: {error.strerror}"
        except UNREADABLE as error:
            problem = f"it cannot be read ({type(error).__name__})"
        if problem is not None:
            raise ConfigurationError(
                f"{self.path} says how far an earlier backfill came, but {problem}: add --restart "
                "to begin anew, or --checkpoint for a file of its own"
            )
        return came

    def _read(self) -> Any:
        # What somebody else wrote here would decide which rows are never sent.
        return json.loads(read_checked(self.path, max_bytes=MOST_BYTES))

    def _problem(self, kept: Mapping[str, Any]) -> str | None:
        if kept["version"] != VERSION:
            return "another version wrote it"
        if kept["file"] != self._file:
            return "the file has changed since"
        job, before = self._job, kept["job"]
        other = [name for name in {**job, **before} if before.get(name) != job.get(name)]
        return f"with another {', '.join(sorted(other))}" if other else None

    def keep(self, came: Came) -> None:
        """Write how far it is, but not too often."""
        if time.monotonic() - self._written >= OFTEN:
            self.save(came)

    def save(self, came: Came) -> None:
        """Write how far it is, whole or not at all.

        :raises MixpanelException: when it cannot be written.
        """
        told = {
            "version": VERSION,
            "file": self._file,
            "job": self._job,
            "position": came.position,
            "refused": came.refused,
        }
        try:
            self.before_save()
            write(self.path, json.dumps(told).encode())
        except OSError as error:
            raise self._unwritable(error) from error
        self._written = time.monotonic()

    def done(self) -> None:
        """Forget it: there is nothing to go on with."""
        self.path.unlink(missing_ok=True)

    def anew(self) -> Came:
        """Return the beginning, whatever an earlier run wrote; `save` writes over it.

        :raises ConfigurationError: for a file that no backfill wrote.
        """
        try:
            kept = self._read()
            ours = kept["version"] and kept["position"] is not None
        except FileNotFoundError:
            return Came()
        except UnsafeFileError as error:
            raise ConfigurationError(f"cannot read {self.path}: {error.strerror}") from error
        except UNREADABLE:
            ours = self.path.suffix == SUFFIX
        if not ours:
            raise ConfigurationError(
                f"{self.path} is no checkpoint: give --checkpoint another place"
            )
        return Came()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let no other process go on with the same file meanwhile.

        :raises ConfigurationError: when one does.
        """
        lock = FileLock(self.path.with_name(f".{self.path.name}.lock"), remove=True)
        try:
            if not lock.acquire():
                raise ConfigurationError(
                    f"another backfill is going on with {self.path}: wait for it, or give "
                    "--checkpoint a place of its own"
                )
            remove_abandoned(self.path)
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            yield
        finally:
            lock.release()

    def _unwritable(self, error: OSError) -> MixpanelException:
        return MixpanelException(
            f"{self.path} cannot be written: {error.strerror}; --checkpoint names another place"
        )
