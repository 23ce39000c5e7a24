"""Write files that hold secrets: for their owner alone, whole or not at all, one writer a time."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # pragma: no cover - Windows, where two writers are not kept apart
    fcntl = None

OTHERS = 0o077  # the permission bits of everybody but the owner


def others_may_read(path: Path) -> bool:
    """Tell whether anybody but its owner has a right to a file."""
    return os.name == "posix" and bool(path.stat().st_mode & OTHERS)


def make_folder(folder: Path, *, ours: bool) -> None:
    """Make a folder that only its owner can enter, whatever the umask; leave those of others."""
    for path in reversed([folder, *folder.parents]):
        if not path.exists():
            path.mkdir(mode=0o700, exist_ok=True)
            path.chmod(0o700)
    if ours:
        folder.chmod(0o700)


@contextmanager
def turn(target: Path) -> Iterator[None]:
    """Wait until no other process or thread is changing the file."""
    lock = target.with_name(f".{target.name}.lock")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        lock.chmod(0o600)
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write(target: Path, text: str) -> None:
    """Put a new file in place of the old one: all of it, or nothing."""
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            temporary.chmod(0o600)  # the umask may have taken even the owner's rights
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
