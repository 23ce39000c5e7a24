"""The folder of part files: what in it is ours, and what of that nobody will come back for.

Names we do not give are left alone: people put their own files anywhere.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
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
    "digest",
    "exposed",
    "left_over",
    "scratch",
    "scratch_name",
    "set_aside",
    "sweep",
]

GZIP, PLAIN = ".gz", ".ndjson"

_OURS = re.compile(
    r"(?P<key>(?P<table>[A-Za-z0-9]\w*)-(?:new|replace|append|sync)-[0-9a-f]{16})"
    r"_(?:(?P<first>\d{4}-\d\d-\d\d)_(?P<last>\d{4}-\d\d-\d\d)|\d+)"
    r"(?P<kind>\.gz|\.ndjson|\.partial)(?P<more>\.repaired|\.changed)?",
    re.ASCII,
)
_SCRATCH = re.compile(r"(?:spill|export|load)-(?P<pid>\d+)(?:-[0-9a-f]+)?", re.ASCII)


def scratch_name(use: str, *more: str) -> str:
    """Return the name of a folder that is of no use once this process is gone."""
    return "-".join((use, str(os.getpid()), *more))


@contextmanager
def scratch(exchange: Path) -> Iterator[Path]:
    """Make a folder of a random name in the only one that DuckDB reaches, and remove it again.

    SQL of users runs in the same DuckDB, so there is nothing in there at any other time.
    """
    folder = exchange / uuid4().hex
    for last in range(10):
        try:
            make_folder(folder)
            break
        except FileNotFoundError:  # somebody who was done removed the outer one just now
            if last == 9:
                raise
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # somebody else is using it
            exchange.rmdir()


@contextmanager
def exposed(exchange: Path, files: Sequence[Path]) -> Iterator[list[Path]]:
    """Link files to where DuckDB may read them, for as long as they are loaded."""
    with scratch(exchange) as folder:
        links = [folder / str(number) for number in range(len(files))]
        for file, link in zip(files, links, strict=True):
            try:
                os.link(file, link)
            except OSError:  # a file system without links
                shutil.copyfile(file, link)
        yield links


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def set_aside(path: Path, target: Path) -> Path:
    """Move a file into a folder where nothing is loaded from; return where it is now."""
    make_folder(target)
    return path.replace(target / (path.name + ".changed"))


def left_over(folder: Path, key: str) -> list[Part]:
    """Return the whole parts that an earlier load of this key left, by day; remove the others."""
    parts = []
    for path, found in _ours(folder):
        if found["key"] != key:
            continue
        chunk = _chunk(found)
        if chunk is None or found["kind"] not in (GZIP, PLAIN) or found["more"]:
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
