"""A disk that loses what was not synced, is slow, or fails: `disk.c`, and a model of its log.

`disk.c` is loaded into a process and sees every change that it, and the SQLite in it, makes in one
folder. `replay` reads its log; `Disk` knows from it what a power failure may leave of the folder.
"""

import ctypes
import mmap
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SOURCE = Path(__file__).with_name("disk.c")
COMPILER = shutil.which("cc") or shutil.which("gcc")
IS_AVAILABLE = COMPILER is not None and sys.platform == "linux"
HEADER = struct.Struct("<IcQQHH")
PAGE, SECTOR = 4096, 512


def library(folder):
    """Compile `disk.c` into a folder; return the path of the library."""
    path = Path(folder) / "disk.so"
    command = [COMPILER, "-shared", "-fPIC", "-O2", "-U_FORTIFY_SOURCE", "-pthread"]
    subprocess.run([*command, "-o", path, SOURCE], check=True)
    return path


class Control(ctypes.Structure):
    """What the calls of a process do, changed while it runs: `struct control` of `disk.c`."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("calls", "fail_from", "fail_calls", "error", "sync_us", "write_us", "failed")
    ]

    @classmethod
    def create(cls, path):
        """Return the control that a new file contains."""
        path.write_bytes(bytes(mmap.PAGESIZE))
        return cls.attach(path)

    @classmethod
    def attach(cls, path):
        """Return the control in a file."""
        with path.open("r+b") as file:
            return cls.from_buffer(mmap.mmap(file.fileno(), mmap.PAGESIZE))

    def fail(self, error, *, after=0, calls=2**62):
        """Let calls fail with an errno, beginning `after` calls from now."""
        self.error, self.fail_calls = error, calls
        self.fail_from = self.calls + 1 + after

    def work(self):
        """Let all calls succeed, at once."""
        self.fail_from = self.sync_us = self.write_us = 0


def environment(shared, root, *, log=None, control=None):
    """Return the environment of a process whose files in `root` are on this disk."""
    found = {**os.environ, "LD_PRELOAD": str(shared), "FAULTS_ROOT": str(root)}
    if log is not None:
        found["FAULTS_LOG"] = str(log)
    if control is not None:
        found["FAULTS_CONTROL"] = str(control)
    return found


# ---- the log ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the log."""

    what: str
    inode: int
    number: int  # offset, or size
    path: str
    other: str
    data: bytes


def entries(content: bytes) -> Iterator[Entry]:
    """Yield the entries of a log."""
    at = 0
    while at + HEADER.size <= len(content):
        size, what, inode, number, first, second = HEADER.unpack_from(content, at)
        at += HEADER.size
        path, other = content[at : at + first], content[at + first : at + first + second]
        at += first + second
        yield Entry(
            what.decode(), inode, number, os.fsdecode(path), os.fsdecode(other),
            content[at : at + size],
        )  # fmt: skip
        at += size


def mark(data: bytes) -> bytes:
    """Return a mark as a line of the log, for another process that appends to it."""
    return HEADER.pack(len(data), b"M", 0, 0, 0, 0) + data


# ---- the model ----------------------------------------------------------------------------------


@dataclass(slots=True)
class File:
    """A file: what is certainly on the disk, and what was changed since it was synced."""

    content: bytearray = field(default_factory=bytearray)
    changes: list = field(default_factory=list)  # (offset, data), or (size, None)

    def sync(self):
        for change in self.changes:
            _change(self.content, *change)
        self.changes.clear()

    def after_power_loss(self, chance):
        """Return what may be left: with any part of the changes, some of them torn."""
        content = bytearray(self.content)
        survival = chance.choice(["nothing", "all", "first", "pages", "sectors"])
        kept = chance.choice([0.1, 0.5, 0.9])
        last = chance.randrange(len(self.changes) + 1)
        for number, (offset, data) in enumerate(self.changes):
            if survival == "nothing" or (survival == "first" and number > last):
                break
            if survival == "all" or (survival == "first" and number < last):
                _change(content, offset, data)
            elif survival == "first":  # the write that was in progress
                part = (
                    None if data is None else data[: chance.randrange(len(data) + 1) // 512 * 512]
                )
                if part:
                    _change(content, offset, part)
            elif data is None:
                if chance.random() < kept:
                    _change(content, offset, None)
            else:
                unit = PAGE if survival == "pages" else SECTOR
                start = 0
                while start < len(data):
                    end = min(len(data), (offset + start) // unit * unit + unit - offset)
                    if chance.random() < kept:
                        _change(content, offset + start, data[start:end])
                    start = end
        return bytes(content)


def _change(content, offset, data):
    if data is None:
        size = offset
        if size < len(content):
            del content[size:]
        else:
            content.extend(bytes(size - len(content)))
        return
    if offset > len(content):
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


@dataclass(slots=True)
class Folder:
    """A folder: the names that are certainly on the disk, and changes since it was synced."""

    names: dict = field(default_factory=dict)  # as the process sees them
    durable: dict = field(default_factory=dict)
    changes: list = field(default_factory=list)  # dicts of name: file, or None

    def change(self, **names):
        _rename(self.names, names)
        self.changes.append(names)

    def sync(self):
        self.durable = dict(self.names)
        self.changes.clear()

    def after_power_loss(self, chance):
        """Return the names that may be left: file systems keep the order of these changes."""
        found = dict(self.durable)
        kept = chance.choice([0, len(self.changes), chance.randrange(len(self.changes) + 1)])
        for names in self.changes[:kept]:
            _rename(found, names)
        return found


def _rename(found, names):
    for name, file in names.items():
        if file is None:
            found.pop(name, None)
        else:
            found[name] = file


class Disk:
    """A folder that exists and is empty, and all that a log says about it.

    With `syncs=False` it is a disk that lies: nothing is ever certain.
    """

    def __init__(self, root, *, syncs=True):
        self.path = str(root)
        self.syncs = syncs
        self.root = Folder()
        self._by_inode = {Path(root).stat().st_ino: self.root}

    def apply(self, entry):
        """Follow one entry."""
        what = entry.what
        if what == "w":
            self._by_inode[entry.inode].changes.append((entry.number, entry.data))
        elif what == "t":
            self._by_inode[entry.inode].changes.append((entry.number, None))
        elif what == "s":
            if self.syncs:
                self._by_inode[entry.inode].sync()
        elif what in ("c", "d"):
            made = self._by_inode[entry.inode] = File() if what == "c" else Folder()
            folder, name = self._place(entry.path)
            folder.change(**{name: made})
        elif what == "u":
            folder, name = self._place(entry.path)
            folder.change(**{name: None})
        elif what == "r":
            (folder, name), (target, new) = self._place(entry.path), self._place(entry.other)
            assert folder is target, entry
            folder.change(**{name: None, new: folder.names[name]})

    def _place(self, path):
        folder = self.root
        *parents, name = Path(path).relative_to(self.path).parts
        for each in parents:
            folder = folder.names[each]
        return folder, name

    def after_power_loss(self, target, chance):
        """Write into an empty folder what a power failure now may leave; return what it lost."""
        _write(self.root, Path(target), chance)


def _write(folder, target, chance):
    for name, found in folder.after_power_loss(chance).items():
        path = target / name
        if isinstance(found, Folder):
            path.mkdir(mode=0o700)
            _write(found, path, chance)
            continue
        content = found.after_power_loss(chance)
        if name.endswith("-shm"):  # it is mapped, never synced, and means nothing after a restart
            content = chance.choice([b"", bytes(len(content)), chance.randbytes(len(content))])
        path.write_bytes(content)
        path.chmod(0o600)
