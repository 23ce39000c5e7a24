"""Remember how far a backfill came, so that the same command goes on with the rest of its file."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from mixpanel.exceptions import ConfigurationError, MixpanelException

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # on Windows, where two backfills of one file are not noticed
    fcntl = None

OFTEN = 0.5  # seconds between two writes
VERSION = 1
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

    def load(self) -> Came:
        """Return how far earlier runs came; the beginning when there were none.

        :raises ConfigurationError: when it is about another file or job, or cannot be read.
        """
        try:
            kept = json.loads(self.path.read_bytes())
            came = Came(int(kept["position"]), int(kept["refused"]))
            problem = self._problem(kept) if came.position else None  # else nothing was done yet
            if not 0 <= came.refused <= came.position:
                problem = "its numbers cannot be"
        except FileNotFoundError:
            return Came()
        except UNREADABLE as error:
            problem = f"it cannot be read ({type(error).__name__})"
        if problem is not None:
            raise ConfigurationError(
                f"{self.path} says how far an earlier backfill came, but {problem}: add --restart "
                "to begin anew, or --checkpoint for a file of its own"
            )
        return came

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
        beside = self.path.with_name(f"{self.path.name}.{os.getpid()}.new")
        try:
            beside.write_text(json.dumps(told))
            beside.replace(self.path)
        except OSError as error:
            with suppress(OSError):
                beside.unlink()
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
            kept = json.loads(self.path.read_bytes())
            ours = kept["version"] and kept["position"] is not None
        except FileNotFoundError:
            return Came()
        except UNREADABLE:
            ours = self.path.suffix == SUFFIX and self.path.is_file()
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
        lock = self.path.with_name(f".{self.path.name}.lock")
        try:
            held = _locked(lock)
        except OSError as error:
            raise self._unwritable(error) from error
        if held is None:
            raise ConfigurationError(
                f"another backfill is going on with {self.path}: wait for it, or give --checkpoint "
                "a place of its own"
            )
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
            os.close(held)

    def _unwritable(self, error: OSError) -> MixpanelException:
        return MixpanelException(
            f"{self.path} cannot be written: {error.strerror}; --checkpoint names another place"
        )


def _locked(lock: Path) -> int | None:
    """Return the descriptor of a lock file that is ours now; None when another has it."""
    while True:
        held = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        if fcntl is None:
            return held
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(held)
            return None
        with suppress(FileNotFoundError):
            if lock.stat().st_ino == os.fstat(held).st_ino:
                return held
        os.close(held)  # whoever had it has just taken it away


def keep_settled(failed: Path, position: int) -> None:
    """Leave out of a file of refusals what comes at this position or later: it is tried again.

    :raises MixpanelException: when it cannot be written.
    """
    if not failed.is_file():
        return
    failed = failed.resolve()  # a link stays one
    beside = failed.with_name(f"{failed.name}.{os.getpid()}.new")
    try:
        with failed.open("rb") as before, beside.open("wb") as after:
            after.writelines(line for line in before if _position(line) < position)
        beside.replace(failed)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise MixpanelException(f"{failed} cannot be written: {error.strerror}") from error


def _position(line: bytes) -> int:
    """Return whose line it is; of one that was cut off by the end of an earlier run, none."""
    try:
        return int(json.loads(line)["position"])
    except (ValueError, KeyError, TypeError):
        return 1 << 62
