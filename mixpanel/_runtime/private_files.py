"""Write files that only their owner may read: atomically, and never through a link.

A new file is written beside the old one under a random name, and replaces it at the end. Its writer
holds a lock on it meanwhile. A temporary file without a lock was left by a killed writer;
`remove_abandoned` removes it.
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
from mixpanel._runtime.file_lock import fcntl, is_same_file, lock_if_supported, try_lock

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
    "sync_folder",
    "write",
    "write_all",
]

OTHERS = 0o077  # the permission bits of group and others
BLOCK = 1 << 20  # bytes written at a time
ATTEMPTS = 100  # to find an unused random name
MAX_STEM = 200  # bytes of a file's name that its temporary file repeats; systems allow 255


# ---- files --------------------------------------------------------------------------------------


def write(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Replace a file atomically: after a crash there is the old content or all of the new.

    A link at the path is replaced, not followed.

    :raises UnsafeFileError: when a directory, a device or a FIFO is at the path.
    :raises OSError: when the file cannot be written.
    """
    create(path, [content] if isinstance(content, bytes) else content).close()


def create(path: Path, content: Iterable[bytes] = ()) -> FileIO:
    """Replace a file as `write` does, and return it, open for appending.

    It stays locked until it is closed; see `try_lock`.
    """
    _refuse_special(path)
    with _temporary(path) as (file, temporary):
        for block in _blocks(content):
            write_all(file, block)
        os.fsync(file.fileno())
        # The rename is what makes it atomic: before it the old file is complete, after it the new.
        if os.name == "nt":  # pragma: no cover - an open file cannot be renamed there
            file.close()
        temporary.replace(path)
    sync_folder(path.parent)
    return FileIO(path, "ab") if file.closed else file


def _blocks(content: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in larger blocks: one write for each line would be slow."""
    chunks, size = [], 0
    for chunk in content:
        chunks.append(chunk)
        size += len(chunk)
        if size >= BLOCK:
            yield b"".join(chunks)
            chunks, size = [], 0
    yield b"".join(chunks)


def write_all(file: FileIO, chunk: bytes) -> None:
    """Write all bytes; a single `write` of an unbuffered file may write only some.

    :raises OSError: when they cannot be written.
    """
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) or 0 :]


def create_replacing(path: Path) -> int:
    """Replace what is at the path by an empty file, and return its open descriptor.

    For files that need not be complete, because they are checked when they are read.

    :raises UnsafeFileError: when a directory, a device or a FIFO is at the path.
    :raises OSError: when the file cannot be created.
    """
    _refuse_special(path)
    path.unlink(missing_ok=True)
    descriptor = os.open(path, open_flags(os.O_WRONLY | os.O_CREAT | os.O_EXCL), 0o600)
    if hasattr(os, "fchmod"):
        os.fchmod(descriptor, 0o600)  # the umask may have removed even the owner's rights
    return descriptor


def is_being_written(path: Path) -> bool:
    """Return True if a file that `create` returned is still open, in any process."""
    with suppress(OSError):
        descriptor = os.open(path, open_flags(os.O_RDONLY))
        try:
            regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
            return regular and not try_lock(descriptor)
        finally:
            os.close(descriptor)
    return False


def remove_abandoned(path: Path) -> None:
    """Remove the temporary files that killed writers of this file left beside it.

    Only regular files of this user are removed, and none that is still being written.
    """
    if fcntl is None:  # without locks, a file in use looks like an abandoned one
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
    """Refuse to replace what is neither a file nor a link: root could replace a device."""
    with suppress(FileNotFoundError):
        status = os.lstat(path)
        if not stat.S_ISLNK(status.st_mode) and not stat.S_ISREG(status.st_mode):
            check_status(status, path)


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[FileIO, Path]]:
    """Open a temporary file beside the path, and remove it if the block fails."""
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
                os.fchmod(descriptor, 0o600)  # the umask may have removed even the owner's rights
            # Until it was locked, another process may have taken it for abandoned and removed it.
            if lock_if_supported(descriptor) and is_same_file(descriptor, temporary):
                return file, temporary
        except BaseException:
            file.close()
            with suppress(OSError):
                temporary.unlink()
            raise
        file.close()
    raise FileExistsError(f"could not create a temporary file beside {path}")


def _stem(path: Path) -> str:
    name = path.name
    if len(os.fsencode(name)) <= MAX_STEM:
        return name
    return hashlib.sha256(os.fsencode(name)).hexdigest()


def sync_folder(folder: Path) -> None:
    """Flush a directory to disk, so that the names in it survive a crash; errors are ignored."""
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
    """Return True if group or others have any permission on a file."""
    return os.name == "posix" and bool(path.stat().st_mode & OTHERS)


def restrict(path: Path, mode: int) -> None:
    """Set the mode of a regular file of this user; links and others' files stay as they are.

    The file is not opened for reading or writing: closing it would release the POSIX locks that
    this process has on it, such as a database's.

    :raises OSError: when there is no such file.
    """
    flags = getattr(os, "O_PATH", None)
    if flags is None:  # not Linux: check and change are two steps
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
    """Create a directory and its missing parents with mode 0700, whatever the umask.

    Existing ones stay as they are. New ones survive a power failure.
    """
    for path in reversed([folder, *folder.parents]):
        if path.exists():
            continue
        path.mkdir(mode=0o700, exist_ok=True)
        # The umask cannot add permissions for others, but may have removed the owner's.
        if os.name == "posix" and os.lstat(path).st_mode & stat.S_IRWXU != stat.S_IRWXU:
            path.chmod(0o700)
        sync_folder(path.parent)


def close_to_others(folder: Path) -> None:
    """Set mode 0700 on a directory of this user; do nothing if the path is a link."""
    if os.name != "posix":
        return
    with suppress(OSError):
        descriptor = os.open(folder, open_flags(os.O_RDONLY | os.O_DIRECTORY))
        try:
            if os.fstat(descriptor).st_uid == os.geteuid():
                os.fchmod(descriptor, 0o700)
        finally:
            os.close(descriptor)
