"""The memory and processors that this process may use: the machine's, or those of its container.

Linux limits a container by control groups: version 2 in `memory.max` and `cpu.max`, version 1 in
`memory.limit_in_bytes` and `cpu.cfs_quota_us`; see the kernel's documentation of cgroup-v2.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mixpanel.data.exceptions import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "available_memory",
    "available_processors",
    "memory_limit",
    "parsed_size",
    "threads",
    "version_tuple",
]

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
MEMORY_VARIABLE, THREADS_VARIABLE = "MP_MEMORY_LIMIT", "MP_THREADS"
SHARE = 0.5  # of the memory: file readers and Python use some beyond DuckDB's limit
FALLBACK_MEMORY = 1_000_000_000  # of a machine that does not say how much it has
LEAST_MEMORY = 50_000_000
MEMORY_PER_THREAD = 300_000_000  # of a load of events with 200 properties
UNLIMITED = 1 << 60  # version 1 has a number near 2**63 for no limit
MAX_THREADS = 1024
SAFE_WITH_THREADS = (1, 5)  # versions of DuckDB

_SIZE = re.compile(r"\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[KMGT]?i?B?)\s*", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def memory_limit(given: str | int | None = None) -> int:
    """Return the limit of DuckDB's memory in bytes: given, of `MP_MEMORY_LIMIT`, or half of all.

    :raises ConfigError: for a size that cannot be read, or below 50 MB.
    """
    source = "memory_limit"
    if given is None:
        given, source = os.environ.get(MEMORY_VARIABLE) or None, MEMORY_VARIABLE
    if given is None:
        return max(LEAST_MEMORY, int(available_memory() * SHARE))
    return parsed_size(given, source)


def threads(given: int | None = None, *, memory: int) -> int:
    """Return the number of DuckDB's threads: given, of `MP_THREADS`, or one a processor.

    By default there are no more than `memory` suffices for, and one with DuckDB 1.4: there, a
    statement that fails in one of several threads may wait for the others forever.

    :raises ConfigError: unless it is a whole number from 1 to 1024.
    """
    source = "threads"
    value: object = given
    if given is None:
        value, source = os.environ.get(THREADS_VARIABLE) or None, THREADS_VARIABLE
        if isinstance(value, str):
            value = int(value) if re.fullmatch(r"\s*\d{1,9}\s*", value) else value
    if value is None:
        if _duckdb_version() < SAFE_WITH_THREADS:
            return 1
        return max(1, min(available_processors(), memory // MEMORY_PER_THREAD))
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_THREADS:
        raise ConfigError(f"{source}={value!r} must be a whole number from 1 to {MAX_THREADS}")
    return value


def _duckdb_version() -> tuple[int, ...]:
    import duckdb

    return version_tuple(duckdb.__version__)


@cache
def version_tuple(version: str) -> tuple[int, ...]:
    """Return the numbers of a version such as "1.4.4"."""
    return tuple(int(each) for each in re.findall(r"\d+", version)[:3])


def parsed_size(size: str | int, source: str = "memory_limit") -> int:
    """Return a size such as "2GB", "512MiB" or a number of bytes, in bytes.

    :raises ConfigError: if it cannot be read, or is below 50 MB.
    """
    number: float | None = None
    if isinstance(size, int) and not isinstance(size, bool):
        number = size
    elif isinstance(size, str) and (found := _SIZE.fullmatch(size)):
        unit = found["unit"].upper()
        base = 1024 if "I" in unit else 1000
        number = float(found["number"]) * base ** _POWERS[unit.removesuffix("B").removesuffix("I")]
    if number is None:
        raise ConfigError(f"{source}={size!r} must be a size, such as 2GB or 512MiB")
    if number < LEAST_MEMORY:
        raise ConfigError(f"{source}={size!r} is too small: use at least 50MB")
    return int(number)


def available_memory() -> int:
    """Return the bytes of memory of the machine, or of the smallest group around this process."""
    limits = [_machine_memory(), *_limits("memory", "memory.max", "memory.limit_in_bytes")]
    return min((limit for limit in limits if 0 < limit < UNLIMITED), default=FALLBACK_MEMORY)


def available_processors() -> int:
    """Return the processors of this process, rounded up from a share of time; at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    shares = [count, *(-(-quota // period) for quota, period in _quotas() if quota > 0 < period)]
    return max(1, min(shares))


def _machine_memory() -> int:
    if hasattr(os, "sysconf"):
        with suppress(ValueError, OSError):
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(ImportError, AttributeError, OSError):
        return _windows_memory()
    return FALLBACK_MEMORY


def _windows_memory() -> int:
    import ctypes

    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong), ("load", ctypes.c_ulong),
            *((name, ctypes.c_ulonglong) for name in ("total", "free", "a", "b", "c", "d", "e")),
        )  # fmt: skip

    status = Status(length=ctypes.sizeof(Status))
    windows = ctypes.windll  # type: ignore[attr-defined,unused-ignore]
    windows.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
    return int(status.total)


def _limits(controller: str, second: str, first: str) -> Iterator[int]:
    for folder, version in _folders(controller):
        for text in _read(folder / (second if version == 2 else first)):
            if text.isdecimal():
                yield int(text)


def _quotas() -> Iterator[tuple[int, int]]:
    for folder, version in _folders("cpu"):
        if version == 2:
            words = [word for text in _read(folder / "cpu.max") for word in text.split()]
        else:
            words = [*_read(folder / "cpu.cfs_quota_us"), *_read(folder / "cpu.cfs_period_us")]
        if len(words) == 2 and all(word.isdecimal() for word in words):
            yield int(words[0]), int(words[1])


def _folders(controller: str) -> Iterator[tuple[Path, int]]:
    """Yield the folder of each group around this process, with the version of its files.

    A limit of an outer group holds too. In a container the mount often shows only its own group.
    """
    for text in _read(OWN_GROUPS):
        for line in text.splitlines():
            number, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            if number == "0" and not controllers:
                root, version = CGROUPS, 2
            elif controller in controllers.split(","):
                root, version = CGROUPS / controllers, 1
                root = root if root.is_dir() else CGROUPS / controller
            else:
                continue
            group = Path(path.lstrip("/"))
            if ".." not in group.parts:
                yield from ((root / each, version) for each in (group, *group.parents))


def _read(path: Path) -> list[str]:
    with suppress(OSError, UnicodeDecodeError):
        return [path.read_text().strip()]
    return []
