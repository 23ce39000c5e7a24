"""Read files that other users could have planted, or that may not be regular files.

Every check is made on the open descriptor, so that the file cannot be swapped in between. Opening
never blocks: a FIFO without a writer is refused like any other special file.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "UnsafeFileError",
    "check_status",
    "follow_own_links",
    "open_checked",
    "open_flags",
    "read_at_most",
    "read_checked",
]

CHUNK_BYTES = 1 << 20  # bytes read at a time
MAX_LINKS = 40  # Linux has the same limit


class UnsafeFileError(OSError):
    """The file is not used because of its type, its owner or its permissions.

    `strerror` describes the problem, and the remedy where there is one.
    """


def open_flags(flags: int) -> int:
    """Return `os.open` flags, with those that follow no link, never block and close on exec."""
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY"):
        flags |= getattr(os, name, 0)
    return flags


def check_status(
    status: os.stat_result,
    path: str | os.PathLike[str],
    *,
    owned: bool = True,
    max_bytes: int | None = None,
) -> None:
    """Check that a file is a regular one, and that no other user could have written it.

    With `owned` the file must belong to this process's user or to root, and neither its group nor
    others may write to it. Otherwise it may belong to anyone, and only others may not write to it.

    :raises UnsafeFileError: when the file fails a check.
    """
    kind, name = stat.S_IFMT(status.st_mode), os.fspath(path)
    if kind == stat.S_IFDIR:
        raise UnsafeFileError(errno.EISDIR, "it is a directory", name)
    if kind == stat.S_IFLNK:
        raise UnsafeFileError(errno.ELOOP, "it is a symbolic link: name the file itself", name)
    if kind != stat.S_IFREG:
        raise UnsafeFileError(errno.EINVAL, "it is not a regular file", name)
    if max_bytes is not None and status.st_size > max_bytes:
        raise _too_large(name, max_bytes)
    if os.name != "posix":  # Windows has neither owners nor modes here
        return
    if owned and status.st_uid not in (os.geteuid(), 0):
        problem = f"it belongs to another user (uid {status.st_uid}): remove it, or chown it"
        raise UnsafeFileError(errno.EPERM, problem, name)
    if status.st_mode & (stat.S_IWOTH | (stat.S_IWGRP if owned else 0)):
        problem = "other users may write to it: check what it holds, then chmod go-w it"
        raise UnsafeFileError(errno.EPERM, problem, name)


@contextmanager
def open_checked(
    path: str | os.PathLike[str], *, owned: bool = True, max_bytes: int | None = None
) -> Iterator[IO[bytes]]:
    """Open a regular file for reading, after the checks of `check_status`.

    :raises UnsafeFileError: when the file fails a check.
    :raises OSError: when it cannot be opened.
    """
    # Also before it is opened: opening some devices has side effects.
    check_status(os.lstat(path), path, owned=owned, max_bytes=max_bytes)
    descriptor = os.open(path, open_flags(os.O_RDONLY))
    try:
        check_status(os.fstat(descriptor), path, owned=owned, max_bytes=max_bytes)
        file = os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise
    with file:
        yield file


def read_checked(path: str | os.PathLike[str], *, max_bytes: int, owned: bool = True) -> bytes:
    """Return the content of a regular file, after the checks of `check_status`.

    :raises UnsafeFileError: when the file fails a check.
    :raises OSError: when it cannot be read.
    """
    with open_checked(path, owned=owned, max_bytes=max_bytes) as file:
        return _read(file, path, max_bytes)


def read_at_most(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """Return the content of a path that the user named, which may be a FIFO, too.

    :raises UnsafeFileError: when it is longer than `max_bytes`.
    :raises OSError: when it cannot be read.
    """
    with Path(path).open("rb") as file:
        return _read(file, path, max_bytes)


def follow_own_links(path: Path) -> Path:
    """Return the file that a path leads to, following only links of this user and of root.

    Other users' links are refused, as by the kernel's `protected_symlinks`, but in any directory:
    the owner of a link decides which file is used.

    :raises UnsafeFileError: for a link of another user, or too many links.
    :raises OSError: when a link cannot be read.
    """
    for _ in range(MAX_LINKS):
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return path
        if not stat.S_ISLNK(status.st_mode):
            return path
        if os.name == "posix" and status.st_uid not in (os.geteuid(), 0):
            problem = f"it is a symbolic link of another user (uid {status.st_uid})"
            raise UnsafeFileError(errno.EPERM, problem, str(path))
        path = path.parent / path.readlink()
    raise UnsafeFileError(errno.ELOOP, "it leads through too many symbolic links", str(path))


def _read(file: IO[bytes], path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """Read to the end, up to a limit: a file may grow meanwhile, and a FIFO has no size."""
    chunks, remaining = [], max_bytes + 1
    while remaining and (chunk := file.read(min(remaining, CHUNK_BYTES))):
        chunks.append(chunk)
        remaining -= len(chunk)
    if not remaining:
        raise _too_large(os.fspath(path), max_bytes)
    return b"".join(chunks)


def _too_large(name: str, max_bytes: int) -> UnsafeFileError:
    return UnsafeFileError(errno.EFBIG, f"it is larger than {max_bytes:,} bytes", name)
