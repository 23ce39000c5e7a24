"""Keep the calls of a project in a file, so that all processes of a user share its limits.

The file holds what `RateWindows` holds in memory. Each access is a short transaction under a lock,
which the kernel releases when its holder ends. If the file cannot be used, the process counts its
own calls only; a query never fails because of it.
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
MAX_BYTES = 4 * 1024 * 1024
# Seconds to wait for the transactions of other processes. They take milliseconds, but on a machine
# with more work than processors their holders may have to wait for their turn.
LOCK_TIMEOUT = 10.0
UNSHARED_SECONDS = 60.0  # seconds until a file that could not be used is tried again
CLOCK_SKEW = 60.0  # seconds a start may be in the future; more means that the clock was set back
LONGEST_CALL = 2 * HOUR  # seconds after which any call has ended
LIMITS_EXPIRE_AFTER = 7 * 24 * HOUR  # seconds


def shared_file(origin: str, project_id: str, family: str) -> Path | None:
    """Return the file in which a project's calls are counted; None if processes do not share.

    It is in the folder `MP_LIMITS_DIR`, by default `~/.mp/limits`; "off" shares nothing. A server
    on this machine, such as the emulator, forgets its counts when it restarts, so its calls are
    shared only if `MP_LIMITS_DIR` is set.
    """
    named = os.environ.get("MP_LIMITS_DIR", "").strip()
    parts = urlsplit(origin)
    if fcntl is None or named.lower() == "off" or (not named and is_loopback(parts.hostname or "")):
        return None
    try:
        folder = Path(named or FOLDER).expanduser()
    except RuntimeError:  # there is no home directory
        return None
    host = "".join(c if c.isalnum() or c in ".-" else "_" for c in parts.netloc.lower())
    return folder / host / f"{project_id}-{family}.json"


_running_here: set[str] = set()  # keys of the running calls of this process


class SharedRateWindows(RateWindows):
    """`RateWindows` that other processes share; its clock is the time of day."""

    is_shared = True

    def __init__(self, path: Path, *windows: tuple[int, float], concurrent: int) -> None:
        super().__init__(*windows, concurrent=concurrent)
        self._path = path
        self._defaults = list(windows), concurrent
        self._limits_read_at = -math.inf
        self._now = time.time()  # the last reading of the clock
        self._lock = FileLock(path.with_name(path.name + ".lock"))
        self._unshared_until = -math.inf
        self._depth = 0

    # ---- what `RateWindows` does, in a transaction ----------------------------------------------

    def next_start(self, now: float, *, counted: bool = True) -> float:
        """See `RateWindows.next_start`."""
        with self._transaction(now, change=False):
            return super().next_start(now, counted=counted)

    def expected_start(self, position: int, now: float, *, counted: bool = True) -> float:
        """See `RateWindows.expected_start`."""
        with self._transaction(now, change=False):
            return super().expected_start(position, now, counted=counted)

    def try_start(self, now: float, *, counted: bool = True) -> Start | float:
        """See `RateWindows.try_start`."""
        with self._transaction(now):
            return super().try_start(self._not_before_last(now), counted=counted)

    def start(self, now: float, *, counted: bool = True) -> Start:
        """See `RateWindows.start`."""
        with self._transaction(now):
            started = super().start(self._not_before_last(now), counted=counted)
            _running_here.add(started.key)
            return started

    def end(self, start: Start) -> None:
        """See `RateWindows.end`."""
        # First, so that later transactions see that the call has ended even if this one fails.
        _running_here.discard(start.key)
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

    def reject(self, start: Start, now: float, retry_after: float | None) -> None:
        """See `RateWindows.reject`."""
        with self._transaction(now):
            super().reject(start, now, retry_after)

    def reject_for_concurrency(self, now: float, retry_after: float | None) -> None:
        """See `RateWindows.reject_for_concurrency`."""
        with self._transaction(now):
            super().reject_for_concurrency(now, retry_after)

    def pause(self, now: float, seconds: float) -> None:
        """See `RateWindows.pause`."""
        with self._transaction(now):
            super().pause(now, seconds)

    def update_limits(self, now: float, quotas: Sequence[Quota]) -> None:
        """See `RateWindows.update_limits`; the limits are kept for a week."""
        with self._transaction(now):
            before = list(self._limits), self._concurrent
            super().update_limits(now, quotas)
            if (self._limits, self._concurrent) != before or self._limits_read_at > -math.inf:
                self._limits_read_at = now

    def remaining(self, now: float) -> int | None:
        """See `RateWindows.remaining`."""
        with self._transaction(now, change=False):
            return super().remaining(now)

    def next_return(self, now: float) -> float | None:
        """See `RateWindows.next_return`."""
        with self._transaction(now, change=False):
            return super().next_return(now)

    def restart(self) -> None:
        """Forget a transaction of the parent; running calls are known by their process."""
        self._depth = 0

    # ---- the file -------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self, now: float | None = None, *, change: bool = True) -> Iterator[None]:
        """Read the file, and write it back at the end; a nested transaction joins the outer one."""
        if self._depth or time.monotonic() < self._unshared_until:
            yield
            return
        if not self._open(now):
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

    def _open(self, now: float | None) -> bool:
        """Lock and read the file; return False if it cannot be used."""
        try:
            make_folder(self._path.parent)
            if not self._lock.acquire(LOCK_TIMEOUT):
                raise TimeoutError("another process holds its lock")
            try:
                self._load(now)
            except BaseException:
                self._lock.release()
                raise
        except OSError as error:
            self._stop_sharing(error)
            return False
        return True

    def _stop_sharing(self, error: OSError) -> None:
        if self._unshared_until == -math.inf:
            logger.warning(
                "%s cannot be used (%s): this process counts only its own calls to Mixpanel",
                self._path,
                error.strerror or error,
            )
        self._unshared_until = time.monotonic() + UNSHARED_SECONDS

    def _load(self, now: float | None) -> None:
        try:
            data = json.loads(read_checked(self._path, max_bytes=MAX_BYTES))
        except FileNotFoundError:
            data = None
        except ValueError:
            logger.warning(
                "%s is damaged: the calls of this hour are counted from zero", self._path
            )
            data = None
        now = self._now = self._now if now is None else now
        try:
            self._restore(
                data if isinstance(data, dict) and data.get("version") == VERSION else {}, now
            )
        except (TypeError, ValueError, KeyError, AttributeError):
            logger.warning(
                "%s is damaged: the calls of this hour are counted from zero", self._path
            )
            self._restore({}, now)

    def _restore(self, data: dict[str, Any], now: float) -> None:
        """Restore the state from the file; a clock set back delays calls by up to an hour."""
        (windows, concurrent), limits = self._defaults, data.get("server_limits") or {}
        at = float(limits.get("at", -math.inf))
        is_current = now - LIMITS_EXPIRE_AFTER < at <= now + HOUR
        self._limits_read_at = at if is_current else -math.inf
        self._limits = [(int(c), float(s)) for c, s in limits["windows"]] if is_current else windows
        self._concurrent = int(limits["concurrent"]) if is_current else concurrent
        self._starts = sorted(
            (Start(_past(float(at), now), str(key)) for key, at in data.get("starts", [])),
            key=lambda start: start.at,
        )
        self._prune(now)
        self._running = {}
        for key, (at, pid, counted) in data.get("running", {}).items():
            if now - float(at) < LONGEST_CALL and _is_running(key, int(pid)):
                self._running[key] = Start(float(at), str(key), bool(counted), int(pid))
        until = now + HOUR
        self._paused_until = min(_time(data.get("paused_until")), until)
        self._concurrency_paused_until = min(_time(data.get("concurrency_paused_until")), until)
        self._rejected_at = min(_time(data.get("rejected_at")), now)
        self._rejections, self._concurrency_rejections = (
            int(data.get("rejections", 0)),
            int(data.get("concurrency_rejections", 0)),
        )
        probe = data.get("probe")
        self._probe = probe if probe in self._running else None

    def _not_before_last(self, now: float) -> float:
        """Return a time no earlier than the last start: others may have started since `now`."""
        return max(now, self._starts[-1].at) if self._starts else now

    def _save(self) -> None:
        limits = {
            "at": self._limits_read_at,
            "windows": self._limits,
            "concurrent": self._concurrent,
        }
        data = {
            "version": VERSION,
            "server_limits": limits if self._limits_read_at > -math.inf else None,
            "starts": [(start.key, start.at) for start in self._starts],
            "running": {
                key: (start.at, start.pid or os.getpid(), start.counted)
                for key, start in self._running.items()
            },
            "paused_until": _stored(self._paused_until),
            "concurrency_paused_until": _stored(self._concurrency_paused_until),
            "rejected_at": _stored(self._rejected_at),
            "rejections": self._rejections,
            "concurrency_rejections": self._concurrency_rejections,
            "probe": self._probe,
        }
        try:
            _overwrite(self._path, json.dumps(data, separators=(",", ":")).encode())
        except OSError as error:
            self._stop_sharing(error)


def _overwrite(path: Path, content: bytes) -> None:
    """Write a file in place: replacing it for each call would block the loop for the disk."""
    descriptor = os.open(path, open_flags(os.O_WRONLY | os.O_CREAT), 0o600)
    try:
        check_status(os.fstat(descriptor), path)
        written = os.write(descriptor, content)
        if written < len(content):
            raise OSError("the disk is full")
        os.ftruncate(descriptor, written)
    finally:
        os.close(descriptor)


def _is_running(key: str, pid: int) -> bool:
    return key in _running_here if pid == os.getpid() else _is_alive(pid)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _past(at: float, now: float) -> float:
    return at if at <= now + CLOCK_SKEW else now


def _time(value: float | None) -> float:
    return -math.inf if value is None else float(value)


def _stored(value: float) -> float | None:
    return value if math.isfinite(value) else None
