"""The checkpoint of a backfill, from which the same command resumes."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixpanel._runtime.checked_files import UnsafeFileError, read_checked
from mixpanel._runtime.file_lock import FileLock
from mixpanel._runtime.private_files import remove_abandoned, write
from mixpanel.exceptions import ConfigurationError, MixpanelException

SAVE_INTERVAL = 0.5  # seconds between two writes
VERSION = 1
MAX_BYTES = 1_000_000
SUFFIX = ".backfill"
MAX_REASONS = 100  # distinct ones counted; a reason may quote a value
MAX_REASON_CHARS = 1000
OTHER_REASONS = "other reasons"
UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError, AttributeError,
)  # fmt: skip


@dataclass(slots=True)
class Progress:
    """How far a backfill is: each row before `position` was delivered or rejected."""

    position: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    _rejected_ahead: list[tuple[int, str]] = field(default_factory=list)

    @property
    def rejected(self) -> int:
        """Return how many rows were rejected."""
        return self.reasons.total()

    @property
    def delivered(self) -> int:
        """Return how many rows were delivered."""
        return self.position - self.rejected

    def reject(self, position: int, reason: str) -> None:
        """Record that a row was rejected; rows before it may still be in flight."""
        self._rejected_ahead.append((position, reason[:MAX_REASON_CHARS]))

    def advance(self, position: int) -> None:
        """Record that all rows before this position are settled."""
        self.position = position
        ahead = []
        for each in self._rejected_ahead:
            if each[0] >= position:
                ahead.append(each)
                continue
            is_counted = each[1] in self.reasons or len(self.reasons) < MAX_REASONS
            self.reasons[each[1] if is_counted else OTHER_REASONS] += 1
        self._rejected_ahead = ahead


class Checkpoint:
    """A small file beside the rows that holds their progress.

    It is valid for one state of the file and for one `job`: the destination and the meaning of the
    columns.
    """

    def __init__(self, path: Path, file: Path, job: Mapping[str, Any]) -> None:
        status = file.stat()
        self.path = path
        self._file = {"size": status.st_size, "modified": status.st_mtime_ns}
        self._job = dict(job)
        self._saved_at = 0.0
        # Called before each write: the rejected rows that a checkpoint counts must be on the disk
        # first, or a crash between the two would lose them.
        self.before_save: Callable[[], object] = lambda: None

    def load(self) -> Progress:
        """Return the progress of an earlier run, none if there was no run.

        :raises ConfigurationError: if it is for another file or job, or cannot be read.
        """
        progress = Progress()
        try:
            saved = self._read()
            rejected = int(saved["rejected"])
            reasons = {str(k): int(v) for k, v in saved.get("reasons", {}).items()}
            # A checkpoint of an earlier release has no reasons.
            reasons = reasons or ({"rejected before": rejected} if rejected else {})
            progress = Progress(int(saved["position"]), Counter(reasons))
            problem = self._mismatch(saved) if progress.position else None
            if not 0 <= rejected == progress.rejected <= progress.position:
                problem = "its numbers are inconsistent"
        except FileNotFoundError:
            return progress
        except OSError as error:
            problem = f"it cannot be read: {error.strerror}"
        except UNREADABLE as error:
            problem = f"it cannot be read ({type(error).__name__})"
        if problem is not None:
            raise ConfigurationError(
                f"cannot resume from {self.path}: {problem}. Add --restart to start over, or "
                "--checkpoint FILE for another checkpoint"
            )
        return progress

    def _read(self) -> Any:
        # A checkpoint that another user can write would decide which rows are never sent.
        return json.loads(read_checked(self.path, max_bytes=MAX_BYTES))

    def _mismatch(self, saved: Mapping[str, Any]) -> str | None:
        if saved["version"] != VERSION:
            return "another version wrote it"
        if saved["file"] != self._file:
            return "the file has changed since"
        job, before = self._job, saved["job"]
        names = [name for name in {**job, **before} if before.get(name) != job.get(name)]
        return f"it is for another {', '.join(sorted(names))}" if names else None

    def save_sometimes(self, progress: Progress) -> None:
        """Save the progress if the last write was long enough ago."""
        if time.monotonic() - self._saved_at >= SAVE_INTERVAL:
            self.save(progress)

    def save(self, progress: Progress) -> None:
        """Save the progress, atomically.

        :raises MixpanelException: if it cannot be written.
        """
        data = {
            "version": VERSION,
            "file": self._file,
            "job": self._job,
            "position": progress.position,
            "rejected": progress.rejected,
            "reasons": progress.reasons,
        }
        try:
            self.before_save()
            write(self.path, json.dumps(data).encode())
        except OSError as error:
            raise self._unwritable(error) from error
        self._saved_at = time.monotonic()

    def delete(self) -> None:
        """Delete the file, when there is nothing left to resume."""
        self.path.unlink(missing_ok=True)

    def restart(self) -> Progress:
        """Return no progress, whatever an earlier run saved; `save` overwrites it.

        :raises ConfigurationError: for a file that no backfill wrote.
        """
        try:
            saved = self._read()
            is_checkpoint = saved["version"] and saved["position"] is not None
        except FileNotFoundError:
            return Progress()
        except UnsafeFileError as error:
            raise ConfigurationError(f"cannot read {self.path}: {error.strerror}") from error
        except UNREADABLE:
            is_checkpoint = self.path.suffix == SUFFIX
        if not is_checkpoint:
            raise ConfigurationError(
                f"refusing to overwrite {self.path}, which is not a checkpoint: give --checkpoint "
                "another path"
            )
        return Progress()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from resuming the same file.

        :raises ConfigurationError: if another process is running.
        """
        lock = FileLock(self.path.with_name(f".{self.path.name}.lock"), remove=True)
        try:
            if not lock.acquire():
                raise ConfigurationError(
                    f"another backfill is using {self.path}: wait for it, or give --checkpoint "
                    "another path"
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
            f"cannot write the checkpoint {self.path}: {error.strerror}. Give --checkpoint another "
            "path"
        )
