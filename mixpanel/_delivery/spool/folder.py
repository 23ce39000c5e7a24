"""The folders of a spool: which are safe to use, and which files in them have no owner."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import stat
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mixpanel._runtime import private_files
from mixpanel._runtime.checked_files import UnsafeFileError, open_flags, read_checked
from mixpanel._runtime.file_lock import FileLock
from mixpanel.exceptions import ConfigurationError, ConfigurationTypeError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "FORMAT",
    "Destination",
    "check_folder",
    "checked_path",
    "claim_orphan",
    "create_file",
    "destination_folder",
    "free_bytes",
    "lock_of",
    "newer_files",
    "orphans",
    "quarantine",
    "quarantined",
    "read_destination",
    "remove_file",
    "spool_files",
]

FORMAT = 1  # of the database; a file of a newer format is left alone
FILE_NAME = re.compile(r"([0-9a-f]{16})\.v(\d+)\.db")
DESCRIPTION = "destination.json"
MAX_DESCRIPTION_BYTES = 64 * 1024
NETWORK_FILE_SYSTEMS = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ncpfs", "9p", "ceph", "glusterfs", "lustre",
    "fuse.sshfs", "fuse.s3fs", "fuse.glusterfs", "fuse.rclone", "fuse.gcsfuse",
})  # fmt: skip
MOUNTS = Path("/proc/self/mountinfo")


@dataclass(frozen=True, slots=True)
class Destination:
    """Where the messages of a folder go: a server, and who sends to it.

    `identity` is what must be equal for two senders to share messages. It may contain secrets, so
    only a digest of it is written; `description` is written as it is.
    """

    service: str  # "mixpanel", "customerio", …
    identity: tuple[str, ...]
    description: Mapping[str, str]

    @property
    def folder_name(self) -> str:
        """Return the name of the destination's folder."""
        digest = hashlib.sha256("\0".join((self.service, *self.identity)).encode()).hexdigest()
        return f"{self.service}-{digest[:16]}"


# ---- which folders are safe ---------------------------------------------------------------------


def checked_path(path: object, name: str = "spool") -> Path:
    """Return the path of a spool as an absolute one.

    :raises ConfigurationError: for what is not a path, or an empty one.
    """
    if not isinstance(path, (str, os.PathLike)) or isinstance(path, bytes):
        raise ConfigurationTypeError(
            f"{name} must be the path of a folder, not {type(path).__name__}"
        )
    text = os.fspath(path)
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise ConfigurationError(f"{name}={text!r} must be the path of a folder")
    return Path(text).expanduser().absolute()


def check_folder(folder: Path, name: str = "spool") -> None:
    """Check that a folder, if it exists, is safe for a spool.

    :raises ConfigurationError: for a symbolic link, a file, a folder of another user or one that
        other users may write to, and a network file system, which has no reliable locks.
    """
    try:
        status = os.lstat(folder)
    except FileNotFoundError:
        check_file_system(_nearest(folder), folder, name)
        return
    except OSError as error:
        raise ConfigurationError(
            f"{name}={str(folder)!r} cannot be used: {error.strerror}"
        ) from error
    shown = f"{name}={str(folder)!r}"
    if stat.S_ISLNK(status.st_mode):
        raise ConfigurationError(f"{shown} is a symbolic link: use the path of its target")
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigurationError(f"{shown} is not a folder: use another path")
    if os.name == "posix":
        if status.st_uid != os.geteuid():
            raise ConfigurationError(
                f"{shown} belongs to another user (uid {status.st_uid}): use a folder of your own, "
                "or chown it"
            )
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ConfigurationError(
                f"{shown} can be written by other users: check its content, then run chmod go-w"
            )
    check_file_system(folder, folder, name)


def check_file_system(existing: Path, folder: Path, name: str = "spool") -> None:
    """Check that a folder is on a local file system.

    :raises ConfigurationError: if it is not.
    """
    kind = file_system_of(existing)
    if kind in NETWORK_FILE_SYSTEMS:
        raise ConfigurationError(
            f"{name}={str(folder)!r} is on a network file system ({kind}), where locks are not "
            "reliable: use a folder on a local disk"
        )


def file_system_of(path: Path) -> str | None:
    """Return the type of the file system of a path, such as "ext4"; None where it is unknown."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        device = path.stat().st_dev
        wanted = f"{os.major(device)}:{os.minor(device)}"
        for line in MOUNTS.read_text(errors="replace").splitlines():
            before, _, after = line.partition(" - ")
            fields = before.split()
            if len(fields) > 2 and fields[2] == wanted and after:
                return after.split()[0]
    except OSError:
        pass
    return None


def _nearest(folder: Path) -> Path:
    return next(each for each in (folder, *folder.parents) if each.exists())


def destination_folder(folder: Path, destination: Destination) -> Path:
    """Create the folder of a destination and its description; return its path.

    :raises ConfigurationError: if a folder is not safe, or has files of a newer version.
    :raises OSError: if it cannot be created.
    """
    check_folder(folder)
    inner = folder / destination.folder_name
    check_folder(inner)
    check_versions(inner)
    private_files.make_folder(inner)
    # Again: another user may have created them between the check and `make_folder`.
    check_folder(folder)
    check_folder(inner)
    description = inner / DESCRIPTION
    if not description.exists():
        content = {"service": destination.service, **destination.description}
        private_files.write(description, json.dumps(content, sort_keys=True).encode() + b"\n")
    # Also if they exist: whoever created them may not have synced their names. Without that, a
    # power failure removes the folder with all that was committed in it.
    private_files.sync_folder(folder)
    private_files.sync_folder(folder.parent)
    return inner


def newer_files(folder: Path) -> list[Path]:
    """Return the files of a destination that a newer version has written."""
    matches = map(FILE_NAME.fullmatch, _names(folder))
    return [folder / match[0] for match in matches if match and int(match[2]) > FORMAT]


def check_versions(folder: Path) -> None:
    """Check that this version can read all files of a destination.

    :raises ConfigurationError: if one was written by a newer version.
    """
    for path in newer_files(folder):
        version = path.name.split(".")[1].removeprefix("v")
        raise ConfigurationError(
            f"{path} was written by a newer version of this package (format {version}; this one "
            f"reads {FORMAT}): upgrade, or use another spool folder"
        )


def read_destination(folder: Path) -> dict[str, str]:
    """Return the description of a destination; an empty one if it cannot be read."""
    try:
        found = json.loads(
            read_checked(folder / DESCRIPTION, max_bytes=MAX_DESCRIPTION_BYTES).decode()
        )
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(name): str(value) for name, value in found.items()}


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 - names are all that is needed
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be read: {error.strerror}") from error


# ---- files and their owners ---------------------------------------------------------------------


def spool_files(folder: Path) -> list[Path]:
    """Return the database files of a destination that this version can read, oldest first."""
    found = []
    for name in _names(folder):
        match = FILE_NAME.fullmatch(name)
        if match and int(match[2]) <= FORMAT:
            with suppress(OSError):
                status = os.lstat(folder / name)
                if stat.S_ISREG(status.st_mode):
                    found.append((status.st_mtime, folder / name))
    return [path for _, path in sorted(found)]


def quarantined(folder: Path) -> list[Path]:
    """Return the damaged files that were set aside."""
    names = [name for name in _names(folder) if ".corrupt-" in name]
    return [folder / name for name in names if not name.endswith(("-wal", "-shm"))]


def lock_of(path: Path) -> FileLock:
    """Return the lock of a database file, not acquired yet."""
    return FileLock(path.with_name(f"{path.name.partition('.')[0]}.lock"), remove=True)


def create_file(folder: Path) -> tuple[Path, FileLock]:
    """Create an empty database file with mode 0600; return its path, and its lock, acquired.

    :raises OSError: if it cannot be created.
    """
    while True:
        path = folder / f"{secrets.token_hex(8)}.v{FORMAT}.db"
        lock = lock_of(path)
        # The lock before the file: other processes adopt files that are not locked.
        if path.exists() or not lock.acquire():
            continue
        try:
            descriptor = os.open(path, open_flags(os.O_RDWR | os.O_CREAT | os.O_EXCL), 0o600)
            try:
                if hasattr(os, "fchmod"):
                    os.fchmod(descriptor, 0o600)  # the umask may have removed the owner's rights
            finally:
                os.close(descriptor)
        except BaseException:
            lock.release()
            raise
        return path, lock


def orphans(folder: Path, *, exclude: frozenset[Path] = frozenset()) -> list[Path]:
    """Return the files whose process may have ended; `claim_orphan` finds out."""
    return [path for path in spool_files(folder) if path not in exclude]


def claim_orphan(path: Path) -> FileLock | None:
    """Lock the file of a process that has ended; return None if it is in use, or gone.

    :raises UnsafeFileError: if another user could have planted it.
    """
    lock = lock_of(path)
    if not lock.acquire():
        return None
    try:
        for each in (path, *_companions(path)):
            check_own(each)
    except FileNotFoundError:
        lock.release()
        return None
    except BaseException:
        lock.release()
        raise
    return lock


def check_own(path: Path) -> None:
    """Check that a file is a regular one of this user; `-wal` and `-shm` may be missing.

    :raises FileNotFoundError: if the database itself is gone.
    :raises UnsafeFileError: if it is a link, or belongs to another user.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        if path.suffix == ".db":
            raise
        return
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeFileError(errno.EINVAL, "it is not a regular file", str(path))
    if os.name == "posix" and (status.st_uid != os.geteuid() or status.st_nlink != 1):
        raise UnsafeFileError(
            errno.EPERM, "it belongs to another user, or is a hard link", str(path)
        )


def _companions(path: Path) -> tuple[Path, ...]:
    return tuple(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))


def remove_file(path: Path) -> None:
    """Remove a database that is closed, with its companions. Its lock must be held."""
    for each in (*_companions(path), path):
        with suppress(FileNotFoundError):
            each.unlink()


def quarantine(path: Path) -> Path:
    """Rename a damaged database and its companions, which must be closed; return the new path."""
    target = path.with_name(f"{path.name}.corrupt-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}")
    number = 0
    while target.exists():
        number += 1
        target = target.with_name(f"{target.name.rpartition('.corrupt-')[0]}.corrupt-{number}")
    for suffix in ("-wal", "-shm", ""):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(target.with_name(target.name + suffix))
    return target


def free_bytes(folder: Path) -> int | None:
    """Return the bytes that this user may still write to a disk; None where it is unknown."""
    if not hasattr(os, "statvfs"):
        return None
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
