"""Write files for their owner alone: whole or not at all, and never through somebody's link.

A new file is written beside the old one, under a random name that nobody can foresee, and takes
its place at the end. Its writer holds a lock on it meanwhile: what a killed writer leaves is
locked by nobody, and `remove_abandoned` removes it.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
from contextlib import contextmanager, suppress
from io import FileIO
from typing import TYPE_CHECKING

from mixpanel._runtime.checked_files import check_status, open_flags
from mixpanel._runtime.file_lock import fcntl, is_same_file, try_lock

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

__all__ = [
    "close_to_others",
    "create",
    "create_replacing",
    "is_being_written",
    "make_folder",
    "others_may_read",
    "remove_abandoned",
    "restrict",
    "write",
    "write_all",
]

OTHERS = 0o077  # the permission bits of everybody but the owner
BLOCK = 1 << 20  # bytes written at a time
ATTEMPTS = 100  # at a name that nobody has, before it is somebody's attack
LONGEST_NAME = 200  # bytes of a file's name that its temporary file repeats; systems allow 255


# ---- files --------------------------------------------------------------------------------------


def write(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Put a new file in place of the old one: all of it on the disk, or nothing.

    What was at the path is replaced, not followed, be it a link to another file.

    :raises UnsafeFileError: when a folder, a device or a FIFO is at the path.
    :raises OSError: when the file cannot be written.
    """
    create(path, [content] if isinstance(content, bytes) else content).close()


def create(path: Path, content: Iterable[bytes] = ()) -> FileIO:
    """Put a new file in place of the old one, as `write` does, and return it to append to.

    It stays locked until it is closed; see `try_lock`.
    """
    _refuse_special(path)
    with _temporary(path) as (file, temporary):
        for block in _blocks(content):
            write_all(file, block)
        os.fsync(file.fileno())
        if os.name == "nt":  # pragma: no cover - an open file cannot be renamed there
            file.close()
        temporary.replace(path)
    _sync(path.parent)
    return FileIO(path, "ab") if file.closed else file


def _blocks(content: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in larger pieces: a call for each line of many would take long."""
    pieces, size = [], 0
    for piece in content:
        pieces.append(piece)
        size += len(piece)
        if size >= BLOCK:
            yield b"".join(pieces)
            pieces, size = [], 0
    yield b"".join(pieces)


def write_all(file: FileIO, piece: bytes) -> None:
    """Write all of it: an unbuffered file may take less at a time.

    :raises OSError: when it cannot be written.
    """
    rest = memoryview(piece)
    while rest:
        rest = rest[file.write(rest) or 0 :]


def create_replacing(path: Path) -> int:
    """Make an empty file in place of what is at the path, and return its open descriptor.

    For files that are checked when they are read, and need not be whole.

    :raises UnsafeFileError: when a folder, a device or a FIFO is at the path.
    :raises OSError: when it cannot be made, or something took its place at once.
    """
    _refuse_special(path)
    path.unlink(missing_ok=True)
    descriptor = os.open(path, open_flags(os.O_WRONLY | os.O_CREAT | os.O_EXCL), 0o600)
    if hasattr(os, "fchmod"):
        os.fchmod(descriptor, 0o600)  # the umask may have taken even the owner's rights
    return descriptor


def is_being_written(path: Path) -> bool:
    """Return True if `create` gave this file to somebody who still has it open."""
    with suppress(OSError):
        descriptor = os.open(path, open_flags(os.O_RDONLY))
        try:
            regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
            return regular and not try_lock(descriptor)
        finally:
            os.close(descriptor)
    return False


def remove_abandoned(path: Path) -> None:
    """Remove what killed writers of this file left beside it; never what one still writes.

    What is not a regular file of this user, under a name as given here, is left alone.
    """
    if fcntl is None:  # without locks nobody knows whether a writer still lives
        return
    ours = re.compile(rf"\.{re.escape(_stem(path))}\.[0-9a-f]{{16}}\.tmp")
    with suppress(OSError):
        for name in os.listdir(path.parent):  # noqa: PTH208 - names are all that is needed
            if ours.fullmatch(name):
                with suppress(OSError):
                    _remove_if_abandoned(path.with_name(name))


def _remove_if_abandoned(temporary: Path) -> None:
    descriptor = os.open(temporary, open_flags(os.O_RDONLY))
    try:
        status = os.fstat(descriptor)
        ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
        if (
            ours
            and status.st_nlink == 1
            and try_lock(descriptor)
            and is_same_file(descriptor, temporary)
        ):
            temporary.unlink()
    finally:
        os.close(descriptor)


def _refuse_special(path: Path) -> None:
    """Refuse to replace what is neither a file nor a link: as root, a device would be gone."""
    with suppress(FileNotFoundError):
        status = os.lstat(path)
        if not stat.S_ISLNK(status.st_mode) and not stat.S_ISREG(status.st_mode):
            check_status(status, path)


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[FileIO, Path]]:
    """Open a file beside the path, and remove it if it does not take the path's place."""
    file, temporary = _begin(path)
    try:
        yield file, temporary
    except BaseException:
        file.close()
        with suppress(OSError):
            temporary.unlink()
        raise


def _begin(path: Path) -> tuple[FileIO, Path]:
    flags = open_flags(os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL)
    for attempt in range(ATTEMPTS):
        temporary = path.with_name(f".{_stem(path)}.{secrets.token_hex(8)}.tmp")
        try:
            descriptor = os.open(temporary, flags, 0o600)
        except FileExistsError:
            if attempt == ATTEMPTS - 1:
                raise
            continue
        file = FileIO(descriptor, "ab")
        try:
            if hasattr(os, "fchmod"):
                os.fchmod(descriptor, 0o600)  # the umask may have taken even the owner's rights
            # Between its making and its lock, somebody may have taken it for abandoned.
            if _is_locked(descriptor) and is_same_file(descriptor, temporary):
                return file, temporary
        except BaseException:
            file.close()
            with suppress(OSError):
                temporary.unlink()
            raise
        file.close()
    raise FileExistsError(f"no temporary file beside {path} could be kept")


def _is_locked(descriptor: int) -> bool:
    try:
        return try_lock(descriptor)
    except OSError:  # a file system without locks, where nothing is taken for abandoned
        return True


def _stem(path: Path) -> str:
    name = path.name
    if len(os.fsencode(name)) <= LONGEST_NAME:
        return name
    return hashlib.sha256(os.fsencode(name)).hexdigest()


def _sync(folder: Path) -> None:
    """Have the new name on the disk; where that cannot be, the file is there all the same."""
    if os.name != "posix":
        return
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# ---- rights -------------------------------------------------------------------------------------


def others_may_read(path: Path) -> bool:
    """Return True if anybody but its owner has a right to a file."""
    return os.name == "posix" and bool(path.stat().st_mode & OTHERS)


def restrict(path: Path, mode: int) -> None:
    """Give a regular file of this user this mode; a link, and a file of others, stay as they are.

    The file is not opened for reading or writing: to close it would end the locks that this process
    has on it, as databases have.

    :raises OSError: when there is no such file.
    """
    flags = getattr(os, "O_PATH", None)
    if flags is None:  # no Linux: the check and the change are two steps
        if _is_own_file(os.lstat(path)):
            path.chmod(mode)
        return
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if _is_own_file(os.fstat(descriptor)):
            try:
                os.chmod(f"/proc/self/fd/{descriptor}", mode)  # noqa: PTH101 - a descriptor
            except FileNotFoundError:  # no /proc here
                path.chmod(mode)
    finally:
        os.close(descriptor)


def _is_own_file(status: os.stat_result) -> bool:
    if os.name != "posix":
        return stat.S_ISREG(status.st_mode)
    own = status.st_uid == os.geteuid() and status.st_nlink == 1
    return own and stat.S_ISREG(status.st_mode)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, that only their owner enters, whatever the umask.

    Those that are there already stay as they are.
    """
    for path in reversed([folder, *folder.parents]):
        if path.exists():
            continue
        path.mkdir(mode=0o700, exist_ok=True)
        # No umask opens it to others; one may have taken the owner's rights.
        if os.name == "posix" and os.lstat(path).st_mode & stat.S_IRWXU != stat.S_IRWXU:
            path.chmod(0o700)


def close_to_others(folder: Path) -> None:
    """Let nobody else enter a folder of this user; one behind a link stays as it is."""
    if os.name != "posix":
        return
    with suppress(OSError):
        descriptor = os.open(folder, open_flags(os.O_RDONLY | os.O_DIRECTORY))
        try:
            if os.fstat(descriptor).st_uid == os.geteuid():
                os.fchmod(descriptor, 0o700)
        finally:
            os.close(descriptor)
