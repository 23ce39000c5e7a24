"""The folder of part files: what in it is ours, and what of that nobody will come back for.

Names we do not give are left alone: people put their own files anywhere.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from mixpanel.data.plan import Chunk, Part

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["GZIP", "PLAIN", "left_over", "scratch_name", "sweep"]

GZIP, PLAIN = ".gz", ".ndjson"

_OURS = re.compile(
    r"(?P<key>(?P<table>[A-Za-z0-9]\w*)-(?:new|replace|append|sync)-[0-9a-f]{16})"
    r"_(?:(?P<first>\d{4}-\d\d-\d\d)_(?P<last>\d{4}-\d\d-\d\d)|\d+)"
    r"(?P<kind>\.gz|\.ndjson|\.partial)(?P<repaired>\.repaired)?",
    re.ASCII,
)
_SCRATCH = re.compile(r"(?:spill|export)-(?P<pid>\d+)(?:-[0-9a-f]+)?", re.ASCII)


def scratch_name(use: str, *more: str) -> str:
    """Return the name of a folder that is of no use once this process is gone."""
    return "-".join((use, str(os.getpid()), *more))


def left_over(folder: Path, key: str) -> list[Part]:
    """Return the whole parts that an earlier load of this key left, by day; remove the others."""
    parts = []
    for path, found in _ours(folder):
        if found["key"] != key:
            continue
        chunk = _chunk(found)
        if chunk is None or found["kind"] not in (GZIP, PLAIN) or found["repaired"]:
            path.unlink(missing_ok=True)
            continue
        about = path.stat()
        at = datetime.fromtimestamp(about.st_mtime, UTC)
        parts.append(Part(path, chunk, about.st_size, found["kind"] == GZIP, at))
    return sorted(parts, key=lambda part: part.chunk)


def sweep(folder: Path, *tables: str, keep: str = "") -> None:
    """Remove the parts of these tables' loads, but those of the key to `keep`.

    What processes that are gone left of their work goes too.
    """
    lowered = {table.lower() for table in tables}
    for path, found in _ours(folder):
        if found["table"].lower() in lowered and found["key"] != keep:
            path.unlink(missing_ok=True)
    for path in _listed(folder):
        scratch = _SCRATCH.fullmatch(path.name)
        if scratch and path.is_dir() and not _alive(int(scratch["pid"])):
            shutil.rmtree(path, ignore_errors=True)


def _ours(folder: Path) -> Iterator[tuple[Path, re.Match[str]]]:
    for path in _listed(folder):
        found = _OURS.fullmatch(path.name)
        if found and path.is_file():
            yield path, found


def _listed(folder: Path) -> list[Path]:
    with suppress(OSError):
        return sorted(folder.iterdir())
    return []


def _chunk(found: re.Match[str]) -> Chunk | None:
    with suppress(ValueError, TypeError):
        chunk = Chunk(date.fromisoformat(found["first"]), date.fromisoformat(found["last"]))
        return chunk if chunk.days > 0 else None
    return None


def _alive(pid: int) -> bool:
    if os.name != "posix" or pid <= 0:  # elsewhere asking is not harmless
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # somebody else's
    return True
