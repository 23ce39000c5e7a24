"""Read files that other users could have planted, or that may not be files at all.

Every check is made on the open descriptor, so that nobody can swap the file in between, and no
open waits: a FIFO without a writer is refused like any other special file.
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

PIECE = 1 << 20  # bytes read at a time
MOST_LINKS = 40  # as Linux has it


class UnsafeFileError(OSError):
    """A file that is not used because of what it is, whose it is, or who may write to it.

    `strerror` is a sentence about the file, with the remedy where there is one.
    """


def open_flags(flags: int) -> int:
    """Return the flags, with those that follow no link, wait for nobody and end with an exec."""
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
    """Refuse what is not a regular file, or could hold what somebody else wrote.

    With `owned` the file must belong to this process's user or to root, and neither its group nor
    others may write to it. Without, only a file that everybody may write to is refused.

    :raises UnsafeFileError: when the file does not pass.
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
    """Open a regular file for reading; see `check_status` for what is refused.

    :raises UnsafeFileError: when the file does not pass.
    :raises OSError: when it cannot be opened.
    """
    # A look before the open, because opening some devices already does something.
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
    """Return what a regular file holds; see `check_status` for what is refused.

    :raises UnsafeFileError: when the file does not pass.
    :raises OSError: when it cannot be read.
    """
    with open_checked(path, owned=owned, max_bytes=max_bytes) as file:
        return _read(file, path, max_bytes)


def read_at_most(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """Return what comes out of a path that somebody typed, which may well be a FIFO.

    :raises UnsafeFileError: when more than `max_bytes` come out.
    :raises OSError: when it cannot be read.
    """
    with Path(path).open("rb") as file:
        return _read(file, path, max_bytes)


def follow_own_links(path: Path) -> Path:
    """Return where a path leads, if each link at its end was made by this user or by root.

    Who made a link decides which file is used: the links of other users are not followed, as the
    kernel's `protected_symlinks` has it, but in any folder.

    :raises UnsafeFileError: for a link of another user.
    :raises OSError: when nobody may look.
    """
    for _ in range(MOST_LINKS):
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
    """Read all; a file may grow meanwhile, and what is not a file has no size to look at."""
    pieces, left = [], max_bytes + 1
    while left and (piece := file.read(min(left, PIECE))):
        pieces.append(piece)
        left -= len(piece)
    if not left:
        raise _too_large(os.fspath(path), max_bytes)
    return b"".join(pieces)


def _too_large(name: str, max_bytes: int) -> UnsafeFileError:
    return UnsafeFileError(errno.EFBIG, f"it is larger than {max_bytes:,} bytes", name)
