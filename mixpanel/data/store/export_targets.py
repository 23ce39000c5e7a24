"""Targets of exports: local files and folders, and object storage through fsspec.

On Linux a local file has no name until it is complete, so that an export that is killed leaves
nothing behind. On other systems it has a temporary name, which the next export into the folder
removes.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

from mixpanel.data.exceptions import ConfigError, MixpanelDataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["LocalTarget", "RemoteTarget", "Target", "is_committing", "target_of"]

# Further packages that fsspec needs for a scheme.
FSSPEC_PACKAGES = {"s3": " s3fs", "s3a": " s3fs", "gs": " gcsfs", "gcs": " gcsfs", "abfs": " adlfs"}
FULL = (errno.ENOSPC, errno.EDQUOT)
FOOTER_BYTES = 65_536  # what is read of the end of a file
MAX_OPEN_FILES = 4_000  # without a name, at the same time
_EXPORTED_FILE = re.compile(r"day=[^/]+/[^/]+\.parquet")
_SYNCED_FILE = re.compile(r"day=[^/]+/part-[0-9a-f]{32}-\d+\.parquet")
_TEMPORARY = re.compile(r"\.[^/]+\.[0-9a-f]{32}")
_commits: list[object] = []  # an item for each commit in progress


def is_committing() -> bool:
    """Return True while files are being renamed, which must not be interrupted."""
    return bool(_commits)


class Target(Protocol):
    """A target for the files of an export; `url` is its name in messages."""

    url: str
    local_path: Path | None

    def check(self, *, folder: bool, overwrite: bool) -> None:
        """Raise ConfigError if the target exists and may not be replaced."""

    def files(self) -> dict[str, list[str]]:
        """Return the names of the files of each folder, after checking that all are exports."""
        ...

    def footer(self, name: str) -> bytes:
        """Return the last bytes of a file."""
        ...

    def write(self, chunks: Iterator[bytes]) -> list[str]:
        """Write a single file, the target itself."""
        ...

    def write_folder(self, files: Iterable[tuple[str, Iterator[bytes]]]) -> list[str]:
        """Write all files of a folder; replace existing files when all are complete."""
        ...

    def replace(self, name: str, chunks: Iterator[bytes]) -> str:
        """Replace one file of a folder; readers see the previous one until it is complete."""
        ...

    def remove(self, names: Iterable[str]) -> None:
        """Remove files of a folder, and folders that become empty."""


def target_of(
    path: Path | str, storage_options: Mapping[str, Any], database_path: Path | None
) -> Target:
    """Return the target for a path, which may not be the database itself.

    :raises ConfigError: if it is the database, or its scheme cannot be used.
    """
    target: Target
    if isinstance(path, str) and "://" in path:
        target = _remote(path, storage_options)
    elif storage_options:
        raise ConfigError(
            f"storage options ({', '.join(storage_options)}) need a path with a scheme, such as "
            "s3://bucket/lake"
        )
    else:
        target = LocalTarget(Path(path).expanduser().absolute())
    local_path = target.local_path
    if database_path is not None and local_path is not None:
        for file in (database_path, database_path.with_name(database_path.name + ".wal")):
            same = local_path.exists() and file.exists() and local_path.samefile(file)
            if same or local_path.resolve() == file.resolve():
                raise ConfigError(f"{path} is the database itself: use another path")
    return target


# ---- local --------------------------------------------------------------------------------------


class _NewFile:
    """A file that is being written; on Linux it has no name until it is complete."""

    def __init__(self, folder: Path) -> None:
        self.temporary: Path | None = None
        mode = 0o666  # minus the umask, as for any file of the user
        unnamed = getattr(os, "O_TMPFILE", None)
        if unnamed is not None and Path("/proc/self/fd").is_dir():
            with suppress(OSError):  # a file system without O_TMPFILE
                self.descriptor = os.open(folder, unnamed | os.O_RDWR, mode)
                return
        self.temporary = folder / f".export.{uuid4().hex}"
        self.descriptor = os.open(self.temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    @property
    def path(self) -> str:
        """The path by which this process can read the file."""
        return str(self.temporary or f"/proc/self/fd/{self.descriptor}")

    def move_to(self, path: Path) -> None:
        """Give the file a name; a file of that name is replaced."""
        source = self.temporary
        if source is None:
            is_new = not os.path.lexists(path)
            source = path if is_new else path.with_name(f".export.{uuid4().hex}")
            # With a directory Python calls linkat(), which follows the link.
            os.link(self.path, source, src_dir_fd=self.descriptor, follow_symlinks=True)
        self._close()  # Windows does not rename open files
        if source != path:
            try:
                source.replace(path)
            except BaseException:
                source.unlink(missing_ok=True)
                raise
        self.temporary = None

    def close(self) -> None:
        """Close the file, and remove it unless `move_to` has named it."""
        self._close()
        if self.temporary is not None:
            self.temporary.unlink(missing_ok=True)

    def _close(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class _Writer:
    """Write files into a folder, counting bytes for the error of a full disk."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url, self._folder, self._written = url, folder, 0
        self._free = shutil.disk_usage(folder).free

    def write(self, chunks: Iterator[bytes]) -> _NewFile:
        with self.named_in_errors():
            file = _NewFile(self._folder)
            try:
                for chunk in chunks:
                    self._written += len(chunk)
                    rest = memoryview(chunk)
                    while rest:
                        rest = rest[os.write(file.descriptor, rest) :]
            except BaseException:
                file.close()
                raise
            finally:
                chunks.close()  # type: ignore[attr-defined]
            return file

    @contextmanager
    def named_in_errors(self) -> Iterator[None]:
        """Name the target in errors of the file system instead of a temporary file."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            if error.errno in FULL:
                reason += (
                    f": the export needs more than {self._written:,} bytes, and {self._free:,} "
                    "were free"
                )
            elif error.errno == errno.EFBIG and (limit := _file_size_limit()) is not None:
                reason += f": files are limited to {limit:,} bytes (ulimit -f), and it needs more"
            raise MixpanelDataError(
                f"cannot write {self._url}: {reason}", code="EXPORT_FAILED"
            ) from error


class LocalTarget:
    """A local file or folder."""

    def __init__(self, path: Path, url: str | None = None) -> None:
        self.local_path: Path | None = path
        self.url: str = url or str(path)
        self._path = path
        self._prefix = url.removesuffix(str(path)) if url and url.endswith(str(path)) else ""

    @property
    def _folder(self) -> Path:
        """The folder itself if the path is a link to one, which may not exist yet."""
        return Path(os.path.realpath(self._path))

    def check(self, *, folder: bool, overwrite: bool) -> None:
        path = self._path
        if not path.exists() or (folder and path.is_dir() and not any(path.iterdir())):
            return
        if not path.is_dir() and not path.is_file():  # a rename would replace the device itself
            raise ConfigError(
                f"{self.url} is a device or a pipe, not a file: use another path; `csv_bytes`, and "
                "`mp export csv -` in a shell, write to a stream"
            )
        if not overwrite:
            raise _already_exists(self.url)
        if path.is_dir() != folder:
            raise ConfigError(
                f"cannot overwrite {self.url}, which is a {'folder' if path.is_dir() else 'file'}: "
                "use another path"
            )
        if folder:
            _require_only(_EXPORTED_FILE, self.url, self._names())

    def files(self) -> dict[str, list[str]]:
        if self._path.exists() and not self._path.is_dir():
            raise ConfigError(f"{self.url} is a file: use the path of a folder")
        found: list[str] = []
        for name in self._names():
            if _is_temporary(name):
                (self._path / name).unlink(missing_ok=True)
            else:
                found.append(name)
        return _by_folder(self.url, found)

    def _names(self) -> list[str]:
        """Return the names of all files and links below the folder; links are not followed."""
        names: list[str] = []
        for folder, folders, files in os.walk(self._path):
            links = [each for each in folders if Path(folder, each).is_symlink()]
            inside = (Path(folder, each) for each in (*files, *links))
            names += [each.relative_to(self._path).as_posix() for each in inside]
        return sorted(names)

    def footer(self, name: str) -> bytes:
        with (self._path / name).open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - FOOTER_BYTES))
            return file.read()

    def write(self, chunks: Iterator[bytes]) -> list[str]:
        writer = self._writer(self._path.parent)
        file = writer.write(chunks)
        with writer.named_in_errors(), _committing():
            try:
                file.move_to(self._path)
            finally:
                file.close()
        return [self._display_path(self._path)]

    def write_folder(self, files: Iterable[tuple[str, Iterator[bytes]]]) -> list[str]:
        path, parent = self._folder, self._folder.parent
        incoming = parent / f".{path.name}.{uuid4().hex}"
        previous = parent / f".{path.name}.{uuid4().hex}"
        _remove_leftovers(path)
        writer = self._writer(parent)
        waiting: list[tuple[str, _NewFile]] = []
        max_open = _max_open_files()

        def move_all() -> None:
            while waiting:
                name, file = waiting[0]
                (incoming / name).parent.mkdir(parents=True, exist_ok=True)
                file.move_to(incoming / name)
                waiting.pop(0)

        try:
            for name, chunks in files:
                waiting.append((name, writer.write(chunks)))
                if len(waiting) >= max_open:
                    with writer.named_in_errors():
                        move_all()
            with writer.named_in_errors(), _committing():
                incoming.mkdir(exist_ok=True)
                move_all()
                if path.is_dir():
                    path.rename(previous)
                incoming.replace(path)
        finally:
            for _, file in waiting:
                file.close()
            if previous.exists() and not path.exists():  # interrupted between the two renames
                previous.rename(path)
            for leftover in (incoming, previous):
                shutil.rmtree(leftover, ignore_errors=True)
        return [self._display_path(self._path / name) for name in self._names()]

    def replace(self, name: str, chunks: Iterator[bytes]) -> str:
        # Written in the folder of the file itself, which may be on another file system.
        folder = self._folder
        path = folder / name
        writer = self._writer(path.parent if path.parent.is_dir() else folder)
        file = writer.write(chunks)
        with writer.named_in_errors(), _committing():
            try:
                path.parent.mkdir(exist_ok=True)
                file.move_to(path)
            finally:
                file.close()
        return self._display_path(self._path / name)

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            path = self._path / name
            path.unlink(missing_ok=True)
            with suppress(OSError):  # not empty
                path.parent.rmdir()

    def _writer(self, folder: Path) -> _Writer:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return _Writer(self.url, folder)
        except OSError as error:
            raise MixpanelDataError(
                f"cannot write {self.url}: {error.strerror or error}", code="EXPORT_FAILED"
            ) from error

    def _display_path(self, path: Path) -> str:
        return f"{self._prefix}{path}"


@contextmanager
def _committing() -> Iterator[None]:
    mark = object()
    _commits.append(mark)
    try:
        yield
    finally:
        _commits.remove(mark)


def _max_open_files() -> int:
    """Return how many files may be open at a time: half of the limit of this process."""
    try:
        import resource
    except ImportError:  # Windows, where files have names
        return 1
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_OPEN_FILES if soft == resource.RLIM_INFINITY else min(soft // 2, MAX_OPEN_FILES)


def _file_size_limit() -> int | None:
    """Return the limit of the size of a file in bytes; None without a limit."""
    try:
        import resource
    except ImportError:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return None if soft == resource.RLIM_INFINITY else soft


def _is_temporary(name: str) -> bool:
    return _TEMPORARY.fullmatch(name.rpartition("/")[2]) is not None


def _remove_leftovers(path: Path) -> None:
    """Remove temporary folders that killed exports to `path` left next to it."""
    leftover = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{32}}")
    with suppress(OSError):
        for each in path.parent.iterdir():
            if leftover.fullmatch(each.name) and each.is_dir() and not each.is_symlink():
                names = (one.relative_to(each).as_posix() for one in each.rglob("*"))
                if all(_EXPORTED_FILE.fullmatch(name) or "/" not in name for name in names):
                    shutil.rmtree(each, ignore_errors=True)


# ---- object storage -----------------------------------------------------------------------------


def _remote(url: str, storage_options: Mapping[str, Any]) -> Target:
    scheme = url.partition("://")[0]
    try:
        fsspec_core = import_module("fsspec.core")
        files, root = fsspec_core.url_to_fs(url, **storage_options)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{scheme}:// paths need fsspec: pip install fsspec"
            f"{FSSPEC_PACKAGES.get(scheme, '')} ({error})"
        ) from error
    except ImportError as error:  # the error names the missing package
        raise ConfigError(f"cannot access {scheme}:// paths: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{url}: {error}") from error
    if "file" in (files.protocol, *files.protocol):
        return LocalTarget(Path(root).absolute(), url)
    return RemoteTarget(url, files, root)


class RemoteTarget:
    """Object storage, where an object appears when its upload is complete.

    Each file is written to the local disk first, one at a time.
    """

    def __init__(self, url: str, files: Any, root: str) -> None:
        self.local_path: Path | None = None
        self.url: str = url
        self._files, self._root = files, root.rstrip("/")
        self._existing: list[str] = []

    def check(self, *, folder: bool, overwrite: bool) -> None:
        with self._named_in_errors("read"):
            self._existing = self._files.find(self._root)
        if self._existing and not overwrite:
            raise _already_exists(self.url)
        if folder:
            names = (each.removeprefix(self._root + "/") for each in self._existing)
            _require_only(_EXPORTED_FILE, self.url, names)
        elif self._existing not in ([], [self._root]):
            raise ConfigError(f"cannot overwrite {self.url}, which is a folder: use another path")

    def files(self) -> dict[str, list[str]]:
        with self._named_in_errors("read"):
            self._existing = self._files.find(self._root)
        if self._existing == [self._root]:
            raise ConfigError(f"{self.url} is a file: use the path of a folder")
        names = [each.removeprefix(self._root + "/") for each in self._existing]
        return _by_folder(self.url, names)

    def footer(self, name: str) -> bytes:
        key = f"{self._root}/{name}"
        with self._named_in_errors("read"):
            start = max(0, self._files.size(key) - FOOTER_BYTES)
            content: bytes = self._files.cat_file(key, start=start)
            return content

    def write(self, chunks: Iterator[bytes]) -> list[str]:
        return self._write_all([("", chunks)])

    def write_folder(self, files: Iterable[tuple[str, Iterator[bytes]]]) -> list[str]:
        return self._write_all(files)

    def _write_all(self, files: Iterable[tuple[str, Iterator[bytes]]]) -> list[str]:
        """Write files, then delete the other files that existed.

        After an error, the new ones are deleted instead.
        """
        written: list[str] = []
        try:
            for name, chunks in files:
                written.append(self._key(name))
                self._put(written[-1], chunks)
        except BaseException:
            for key in set(written) - set(self._existing):
                with suppress(Exception):
                    self._files.rm_file(key)
            raise
        self._remove(set(self._existing) - set(written))
        return [self._files.unstrip_protocol(key) for key in written]

    def replace(self, name: str, chunks: Iterator[bytes]) -> str:
        self._put(self._key(name), chunks)
        return str(self._files.unstrip_protocol(self._key(name)))

    def remove(self, names: Iterable[str]) -> None:
        self._remove(map(self._key, names))

    def _remove(self, keys: Iterable[str]) -> None:
        with self._named_in_errors("change"):
            for key in keys:
                self._files.rm_file(key)

    def _key(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _put(self, key: str, chunks: Iterator[bytes]) -> None:
        folder = Path(tempfile.gettempdir())
        writer = _Writer(f"the temporary files of the export in {folder}", folder)
        file = writer.write(chunks)
        try:
            with self._named_in_errors("write"):
                self._files.makedirs(key.rpartition("/")[0], exist_ok=True)
                self._files.put_file(file.path, key)
        finally:
            file.close()

    @contextmanager
    def _named_in_errors(self, action: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            reason = error.strerror if isinstance(error, OSError) else None
            raise MixpanelDataError(
                f"cannot {action} {self.url}: {reason or error}", code="EXPORT_FAILED"
            ) from error


# ---- existing files -----------------------------------------------------------------------------


def _by_folder(url: str, names: Iterable[str]) -> dict[str, list[str]]:
    """Return the names of files by folder.

    :raises ConfigError: if one was not written by an export by day.
    """
    found: dict[str, list[str]] = {}
    for name in names:
        _require_only(_SYNCED_FILE, url, [name])
        found.setdefault(name.partition("/")[0], []).append(name)
    return found


def _already_exists(location: Path | str) -> ConfigError:
    return ConfigError(f"{location} already exists: use another path; overwrite=True replaces it")


def _require_only(exported: re.Pattern[str], location: str, inside: Iterable[str]) -> None:
    """Raise ConfigError if a folder contains anything but files of an export."""
    for name in inside:
        if not exported.fullmatch(name) and not _is_temporary(name):
            raise ConfigError(
                f"refusing to overwrite {location}: it contains {name!r}, which export_parquet did "
                "not create; remove it, or use another path"
            )
