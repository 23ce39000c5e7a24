"""The folder of part files: find the parts to reuse, and remove stale ones.

Only files whose names have our pattern are touched: users may keep files of their own there.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

from mixpanel._runtime.private_files import make_folder
from mixpanel.data._fetch.plan import Chunk, Part

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = [
    "GZIP",
    "PLAIN",
    "complete_parts",
    "digest",
    "linked_files",
    "remove_abandoned",
    "remove_stale",
    "scratch_folder",
    "scratch_name",
    "set_aside",
    "unreadable_folder",
]

GZIP, PLAIN = ".gz", ".ndjson"

_PART_NAME = re.compile(
    r"(?P<key>(?P<table>[A-Za-z0-9]\w*)-(?:new|replace|append|sync)-[0-9a-f]{16})"
    r"_(?:(?P<first>\d{4}-\d\d-\d\d)_(?P<last>\d{4}-\d\d-\d\d)|\d+)"
    r"(?P<kind>\.gz|\.ndjson|\.partial)(?P<more>\.repaired|\.changed)?",
    re.ASCII,
)
_READ_ONLY_NAME = re.compile(r"mixpanel-(?P<pid>\d+)-[0-9a-f]{32}", re.ASCII)
_SCRATCH_NAME = re.compile(r"(?:spill|export|load|lookup)-(?P<pid>\d+)(?:-[0-9a-f]+)?", re.ASCII)


def scratch_name(purpose: str, *suffixes: str) -> str:
    """Return the name of a temporary folder of this process, which its pid marks as such."""
    return "-".join((purpose, str(os.getpid()), *suffixes))


@contextmanager
def scratch_folder(exchange: Path) -> Iterator[Path]:
    """Create a randomly named folder inside the only one that DuckDB can access; remove it at exit.

    The user's SQL runs in the same DuckDB: a file is in there only while we read or write it, under
    a path that SQL cannot guess.
    """
    folder = exchange / uuid4().hex
    for attempt in range(10):
        try:
            make_folder(folder)
            break
        except FileNotFoundError:  # another thread has just removed `exchange`
            if attempt == 9:
                raise
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # another thread is using it
            exchange.rmdir()


@contextmanager
def linked_files(exchange: Path, files: Sequence[Path]) -> Iterator[list[Path]]:
    """Link files into the folder that DuckDB can access, while the block runs."""
    with scratch_folder(exchange) as folder:
        links = [folder / str(number) for number in range(len(files))]
        for file, link in zip(files, links, strict=True):
            try:
                os.link(file, link)
            except OSError:  # a file system without hard links
                shutil.copyfile(file, link)
        yield links


def unreadable_folder(database: Path) -> Path:
    """Return the folder beside a database of lines that could not be loaded."""
    return database.with_name(database.name + ".unreadable")


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def set_aside(path: Path, target: Path) -> Path:
    """Move a file into a folder from which nothing is loaded; return its new path."""
    make_folder(target)
    return path.replace(target / (path.name + ".changed"))


def complete_parts(folder: Path, key: str) -> list[Part]:
    """Return the finished parts of an earlier load with this key, by day; remove the others."""
    parts = []
    for path, match in _part_files(folder):
        if match["key"] != key:
            continue
        chunk = _chunk(match)
        if chunk is None or match["kind"] not in (GZIP, PLAIN) or match["more"]:
            path.unlink(missing_ok=True)
            continue
        status = path.stat()
        at = datetime.fromtimestamp(status.st_mtime, UTC)
        parts.append(Part(path, chunk, status.st_size, match["kind"] == GZIP, at))
    return sorted(parts, key=lambda part: part.chunk)


def remove_stale(folder: Path, *tables: str, keep: str = "") -> None:
    """Remove the parts of these tables' loads, except those of the key `keep`.

    Temporary folders of processes that no longer run are removed too.
    """
    lowered = {table.lower() for table in tables}
    for path, match in _part_files(folder):
        if match["table"].lower() in lowered and match["key"] != keep:
            path.unlink(missing_ok=True)
    for path in _entries(folder):
        scratch_match = _SCRATCH_NAME.fullmatch(path.name)
        if scratch_match and path.is_dir() and not _is_running(int(scratch_match["pid"])):
            shutil.rmtree(path, ignore_errors=True)


def remove_abandoned(parent: Path) -> None:
    """Remove the folders of read-only databases whose processes were killed."""
    for path in _entries(parent):
        match = _READ_ONLY_NAME.fullmatch(path.name)
        if match is None or _is_running(int(match["pid"])):
            continue
        with suppress(OSError):
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid():
                shutil.rmtree(path, ignore_errors=True)


def _part_files(folder: Path) -> Iterator[tuple[Path, re.Match[str]]]:
    for path in _entries(folder):
        match = _PART_NAME.fullmatch(path.name)
        if match and path.is_file():
            yield path, match


def _entries(folder: Path) -> list[Path]:
    with suppress(OSError):
        return sorted(folder.iterdir())
    return []


def _chunk(match: re.Match[str]) -> Chunk | None:
    with suppress(ValueError, TypeError):
        chunk = Chunk(date.fromisoformat(match["first"]), date.fromisoformat(match["last"]))
        return chunk if chunk.days > 0 else None
    return None


def _is_running(pid: int) -> bool:
    if os.name != "posix" or pid <= 0:  # on Windows, os.kill() would end the process
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # it runs, and belongs to another user
    return True
