"""Keep the calls of a project in a file, so that all processes of a user share its budget.

The file holds what `RateWindows` holds in memory. Each look at it is one short transaction under a
lock, which the kernel releases when its holder ends. Where the file cannot be used, the process
counts for itself, as before; a query never fails for it.
"""

from __future__ import annotations

import json
import math
import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mixpanel._runtime.checked_files import check_status, open_flags, read_checked
from mixpanel._runtime.file_lock import FileLock, fcntl
from mixpanel._runtime.private_files import make_folder
from mixpanel._runtime.safe_logging import logger
from mixpanel.data._api.rate_windows import HOUR, RateWindows, Start
from mixpanel.settings import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mixpanel.data._api.quota import Quota

__all__ = ["SharedRateWindows", "shared_file"]

FOLDER = Path("~/.mp/limits")
VERSION = 1
MOST_BYTES = 4 * 1024 * 1024
LOCKED = 1.0  # seconds to wait for another process's look at the file
ALONE = 60.0  # seconds to do without a file that cannot be used
SKEW = 60.0  # seconds by which a start may lie ahead; more means that a clock was put back
LONGEST_CALL = 2 * HOUR  # seconds after which a call under way has surely ended
REMEMBERED = 7 * 24 * HOUR  # seconds for which a limit that the server named is believed


def shared_file(origin: str, project_id: str, family: str) -> Path | None:
    """Return the file of a project's budget; None where processes count for themselves.

    It lies in `MP_LIMITS_DIR`, by default `~/.mp/limits`; "off" shares nothing. A server on this
    machine, such as the emulator, begins with a full budget each time it starts: its calls are
    shared only in a folder that was named.
    """
    named = os.environ.get("MP_LIMITS_DIR", "").strip()
    parts = urlsplit(origin)
    if fcntl is None or named.lower() == "off" or (not named and is_loopback(parts.hostname or "")):
        return None
    try:
        folder = Path(named or FOLDER).expanduser()
    except RuntimeError:  # there is no home folder
        return None
    host = "".join(c if c.isalnum() or c in ".-" else "_" for c in parts.netloc.lower())
    return folder / host / f"{project_id}-{family}.json"


_here: set[str] = set()  # the calls of this process that are under way


class SharedRateWindows(RateWindows):
    """`RateWindows` that other processes share; its clock is the time of day."""

    is_shared = True

    def __init__(self, path: Path, *windows: tuple[int, float], concurrent: int) -> None:
        super().__init__(*windows, concurrent=concurrent)
        self._path = path
        self._given = list(windows), concurrent
        self._learnt_at = -math.inf
        self._now = time.time()  # as the clock was read last
        self._lock = FileLock(path.with_name(path.name + ".lock"))
        self._alone_until = -math.inf
        self._depth = 0

    # ---- what `RateWindows` does, in a transaction ----------------------------------------------

    def opens(self, now: float, *, counted: bool = True) -> float:
        """See `RateWindows.opens`."""
        with self._transaction(now, change=False):
            return super().opens(now, counted=counted)

    def opens_for(self, position: int, now: float, *, counted: bool = True) -> float:
        """See `RateWindows.opens_for`."""
        with self._transaction(now, change=False):
            return super().opens_for(position, now, counted=counted)

    def try_start(self, now: float, *, counted: bool = True) -> Start | float:
        """See `RateWindows.try_start`."""
        with self._transaction(now):
            return super().try_start(self._in_order(now), counted=counted)

    def start(self, now: float, *, counted: bool = True) -> Start:
        """See `RateWindows.start`."""
        with self._transaction(now):
            started = super().start(self._in_order(now), counted=counted)
            _here.add(started.key)
            return started

    def end(self, start: Start) -> None:
        """See `RateWindows.end`."""
        # First of all: without the file now, later looks at it know that the call has ended.
        _here.discard(start.key)
        with self._transaction():
            super().end(start)

    def accept(self, start: Start) -> None:
        """See `RateWindows.accept`."""
        with self._transaction():
            super().accept(start)

    def uncount(self, start: Start) -> None:
        """See `RateWindows.uncount`."""
        with self._transaction():
            super().uncount(start)

    def refuse(self, start: Start, now: float, retry_after: float | None) -> None:
        """See `RateWindows.refuse`."""
        with self._transaction(now):
            super().refuse(start, now, retry_after)

    def crowd(self, now: float, retry_after: float | None) -> None:
        """See `RateWindows.crowd`."""
        with self._transaction(now):
            super().crowd(now, retry_after)

    def hold(self, now: float, seconds: float) -> None:
        """See `RateWindows.hold`."""
        with self._transaction(now):
            super().hold(now, seconds)

    def learn(self, now: float, quotas: Sequence[Quota]) -> None:
        """See `RateWindows.learn`; what is learnt is remembered for a week."""
        with self._transaction(now):
            before = list(self._windows), self._concurrent
            super().learn(now, quotas)
            if (self._windows, self._concurrent) != before or self._learnt_at > -math.inf:
                self._learnt_at = now

    def remaining(self, now: float) -> int | None:
        """See `RateWindows.remaining`."""
        with self._transaction(now, change=False):
            return super().remaining(now)

    def restart(self) -> None:
        """Forget a look at the file that the parent had begun; calls are known by their process."""
        self._depth = 0

    # ---- the file -------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self, now: float | None = None, *, change: bool = True) -> Iterator[None]:
        """Work on what the file holds, and write it back; one inside another is one with it."""
        if self._depth or time.monotonic() < self._alone_until:
            yield
            return
        if not self._opened(now):
            yield
            return
        self._depth += 1
        try:
            yield
            if change:
                self._save()
        finally:
            self._depth -= 1
            self._lock.release()

    def _opened(self, now: float | None) -> bool:
        """Take the lock and read the file; return False where that cannot be."""
        try:
            make_folder(self._path.parent)
            if not self._lock.acquire(LOCKED):
                raise TimeoutError("another process holds its lock")
            try:
                self._load(now)
            except BaseException:
                self._lock.release()
                raise
        except OSError as error:
            self._do_without(error)
            return False
        return True

    def _do_without(self, error: OSError) -> None:
        if self._alone_until == -math.inf:
            logger.warning(
                "%s cannot be used (%s): this process counts its calls to Mixpanel for itself",
                self._path,
                error.strerror or error,
            )
        self._alone_until = time.monotonic() + ALONE

    def _load(self, now: float | None) -> None:
        try:
            data = json.loads(read_checked(self._path, max_bytes=MOST_BYTES))
        except FileNotFoundError:
            data = None
        except ValueError:
            logger.warning("%s is damaged: the calls of this hour are counted anew", self._path)
            data = None
        now = self._now = self._now if now is None else now
        try:
            self._take(
                data if isinstance(data, dict) and data.get("version") == VERSION else {}, now
            )
        except (TypeError, ValueError, KeyError, AttributeError):
            logger.warning("%s is damaged: the calls of this hour are counted anew", self._path)
            self._take({}, now)

    def _take(self, data: dict[str, Any], now: float) -> None:
        """Take over the file's content; a clock set back delays calls by an hour at most."""
        (windows, concurrent), learnt = self._given, data.get("learnt") or {}
        at = float(learnt.get("at", -math.inf))
        believed = now - REMEMBERED < at <= now + HOUR
        self._learnt_at = at if believed else -math.inf
        self._windows = [(int(c), float(s)) for c, s in learnt["windows"]] if believed else windows
        self._concurrent = int(learnt["concurrent"]) if believed else concurrent
        self._starts = sorted(
            (Start(_past(float(at), now), str(key)) for key, at in data.get("starts", [])),
            key=lambda start: start.at,
        )
        self._prune(now)
        self._running = {}
        for key, (at, pid, counted) in data.get("running", {}).items():
            if now - float(at) < LONGEST_CALL and _is_under_way(key, int(pid)):
                self._running[key] = Start(float(at), str(key), bool(counted), int(pid))
        until = now + HOUR
        self._held_until = min(_time(data.get("held_until")), until)
        self._crowded_until = min(_time(data.get("crowded_until")), until)
        self._rejected_at = min(_time(data.get("refused_at")), now)
        self._rejections, self._crowds = int(data.get("refusals", 0)), int(data.get("crowds", 0))
        scout = data.get("scout")
        self._scout = scout if scout in self._running else None

    def _in_order(self, now: float) -> float:
        """Return a time no earlier than the last start: others began while the lock was awaited."""
        return max(now, self._starts[-1].at) if self._starts else now

    def _save(self) -> None:
        learnt = {
            "at": self._learnt_at,
            "windows": self._windows,
            "concurrent": self._concurrent,
        }
        data = {
            "version": VERSION,
            "learnt": learnt if self._learnt_at > -math.inf else None,
            "starts": [(start.key, start.at) for start in self._starts],
            "running": {
                key: (start.at, start.pid or os.getpid(), start.counted)
                for key, start in self._running.items()
            },
            "held_until": _stored(self._held_until),
            "crowded_until": _stored(self._crowded_until),
            "refused_at": _stored(self._rejected_at),
            "refusals": self._rejections,
            "crowds": self._crowds,
            "scout": self._scout,
        }
        try:
            _overwrite(self._path, json.dumps(data, separators=(",", ":")).encode())
        except OSError as error:
            self._do_without(error)


def _overwrite(path: Path, content: bytes) -> None:
    """Write a file in place: a new one for each call would cost a disk's time, on the loop."""
    descriptor = os.open(path, open_flags(os.O_WRONLY | os.O_CREAT), 0o600)
    try:
        check_status(os.fstat(descriptor), path)
        written = os.write(descriptor, content)
        if written < len(content):
            raise OSError("the disk is full")
        os.ftruncate(descriptor, written)
    finally:
        os.close(descriptor)


def _is_under_way(key: str, pid: int) -> bool:
    return key in _here if pid == os.getpid() else _is_alive(pid)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _past(at: float, now: float) -> float:
    return at if at <= now + SKEW else now


def _time(value: float | None) -> float:
    return -math.inf if value is None else float(value)


def _stored(value: float) -> float | None:
    return value if math.isfinite(value) else None
