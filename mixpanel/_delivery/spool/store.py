"""One file of a spool: blocks of messages, and dead letters, in an SQLite database.

A store is used by one thread at a time. Nothing here knows about senders, threads or policies.
"""

from __future__ import annotations

import errno
import sqlite3
import sys
import time
import zlib
from array import array
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Literal, NamedTuple
from urllib.parse import quote

from mixpanel._delivery.spool.folder import FORMAT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = [
    "ATTEMPTED",
    "DONE",
    "ENDPOINTS",
    "WAITING",
    "DeadLetter",
    "Durability",
    "NewBlock",
    "SpoolStore",
    "StoredBlock",
    "is_damage",
    "is_full",
]

Durability = Literal["process", "power"]

ENDPOINTS = ("events", "imports", "people", "groups", "batch")
WAITING, DONE, ATTEMPTED = 0, 1, 2  # of one message in the state of its block
PLACE_BITS = 48  # of a block's id; the bits above them are its endpoint's number, from 1 on
PAGE_BYTES = 4096
WAL_LIMIT = 16 * 1024 * 1024
APPLICATION_ID = 0x4D505350  # "MPSP"

# Triggers keep the counts of each endpoint in `total`, with dead letters at 0, in the transaction
# that changes them: a start reads six rows instead of all messages. 48 is PLACE_BITS.

SCHEMA = """
CREATE TABLE block (
    id INTEGER PRIMARY KEY,
    created REAL NOT NULL,
    count INTEGER NOT NULL,
    remaining INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    auth TEXT,
    state BLOB,
    flags BLOB,
    lengths BLOB NOT NULL,
    extra TEXT,
    body BLOB NOT NULL
);
CREATE TABLE dead (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    at REAL NOT NULL,
    endpoint TEXT NOT NULL,
    reason TEXT NOT NULL,
    error TEXT NOT NULL,
    created REAL NOT NULL,
    repeatable INTEGER NOT NULL,
    auth TEXT,
    extra TEXT,
    body BLOB NOT NULL
);
CREATE TABLE total (
    id INTEGER PRIMARY KEY, messages INTEGER NOT NULL, bytes INTEGER NOT NULL
);
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TRIGGER block_added AFTER INSERT ON block BEGIN
    UPDATE total SET messages = messages + new.remaining, bytes = bytes + new.bytes
    WHERE id = new.id >> 48;
END;
CREATE TRIGGER block_removed AFTER DELETE ON block BEGIN
    UPDATE total SET messages = messages - old.remaining, bytes = bytes - old.bytes
    WHERE id = old.id >> 48;
END;
CREATE TRIGGER block_changed AFTER UPDATE OF remaining ON block
WHEN old.remaining <> new.remaining BEGIN
    UPDATE total SET messages = messages + new.remaining - old.remaining WHERE id = new.id >> 48;
END;
CREATE TRIGGER dead_added AFTER INSERT ON dead BEGIN
    UPDATE total SET messages = messages + 1, bytes = bytes + length(new.body) WHERE id = 0;
END;
CREATE TRIGGER dead_removed AFTER DELETE ON dead BEGIN
    UPDATE total SET messages = messages - 1, bytes = bytes - length(old.body) WHERE id = 0;
END;
INSERT INTO total VALUES (0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0), (4, 0, 0), (5, 0, 0);
"""
INSERT_BLOCK = (
    "INSERT OR REPLACE INTO block (id, created, count, remaining, bytes, crc, auth, state, flags, "
    "lengths, extra, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
INSERT_DEAD = (
    "INSERT OR IGNORE INTO dead (key, at, endpoint, reason, error, created, repeatable, auth, "
    "extra, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
SELECT_DEAD = (
    "SELECT id, key, at, endpoint, reason, error, created, repeatable, auth, extra, body FROM dead"
)


class NewBlock(NamedTuple):
    """Messages of one endpoint to be written, in order; all have the same `auth`.

    `flags` has a byte for each message, 1 if it may be sent twice; None if all may. `extra` is
    what `Codec.load` needs in addition to their bodies.
    """

    id: int
    created: float
    bodies: Sequence[bytes]
    flags: bytes | None = None
    auth: str | None = None
    extra: str | None = None


class StoredBlock(NamedTuple):
    """A block as it was read; `bodies` is None if its checksum does not match."""

    id: int
    created: float
    messages: int
    remaining: int
    size: int
    state: bytes | None
    flags: bytes | None
    auth: str | None
    extra: str | None
    bodies: list[bytes] | None


class DeadLetter(NamedTuple):
    """A message that was rejected or dropped, and why."""

    key: str  # the same for the same message, which is kept only once
    at: float
    endpoint: str
    reason: str
    error: str
    created: float
    repeatable: bool
    auth: str | None
    extra: str | None
    body: bytes
    id: int = 0


def block_id(endpoint: str, place: int) -> int:
    """Return the id of a block, which orders the blocks of each endpoint by their place."""
    return (ENDPOINTS.index(endpoint) + 1 << PLACE_BITS) | place


def place_of(id: int) -> int:  # noqa: A002
    """Return the place of a block among those of its endpoint."""
    return id & ((1 << PLACE_BITS) - 1)


def is_damage(error: BaseException) -> bool:
    """Return True if an error means that the file is damaged, not that the disk failed."""
    if isinstance(error, sqlite3.OperationalError):
        # "no such table": the header is intact, and the content is not.
        return "malformed" in str(error) or "no such table" in str(error)
    return isinstance(error, sqlite3.DatabaseError) and not isinstance(
        error, (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError)
    )


def is_full(error: BaseException) -> bool:
    """Return True if an error means that a disk has no space left."""
    if isinstance(error, sqlite3.OperationalError):
        return "full" in str(error)
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class SpoolStore:
    """An open file of a spool. The caller holds its lock, and has created it with mode 0600.

    :raises sqlite3.DatabaseError: if the file is not a database of this format, or is damaged.
    :raises sqlite3.OperationalError: if the disk fails.
    """

    def __init__(self, path: Path, durability: Durability = "process") -> None:
        self.path = path
        _check_not_emptied(path)
        # At exit another thread than the writer's may close it.
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(durability)
        except BaseException:
            self._connection.close()
            raise
        self.inode = path.stat().st_ino

    def _prepare(self, durability: Durability) -> None:
        run = self._connection.execute
        run("PRAGMA busy_timeout = 1000")
        version = run("PRAGMA user_version").fetchone()[0]
        if version == 0:
            run(f"PRAGMA page_size = {PAGE_BYTES}")
            run("PRAGMA auto_vacuum = INCREMENTAL")
        run("PRAGMA journal_mode = WAL")
        run(f"PRAGMA synchronous = {'FULL' if durability == 'power' else 'NORMAL'}")
        run(f"PRAGMA journal_size_limit = {WAL_LIMIT}")
        run("PRAGMA trusted_schema = OFF")
        run("PRAGMA recursive_triggers = ON")  # a block that is replaced is counted once
        if version == 0:
            tables = run("SELECT count(*) FROM sqlite_schema").fetchone()[0]
            if tables:
                raise sqlite3.DatabaseError("it is a database of another program")
            self._connection.executescript(
                f"BEGIN; {SCHEMA}; PRAGMA application_id = {APPLICATION_ID};"
                f"PRAGMA user_version = {FORMAT}; COMMIT"
            )
        elif version != FORMAT:
            raise sqlite3.DatabaseError(f"its format is {version}, not {FORMAT}")
        self.totals()  # fails here, and not at the first message, if the content is damaged

    # ---- counts ---------------------------------------------------------------------------------

    def totals(self) -> dict[str, tuple[int, int]]:
        """Return the number of messages and the bytes of each endpoint that has any."""
        rows = self._connection.execute("SELECT id, messages, bytes FROM total WHERE id > 0")
        return {ENDPOINTS[at - 1]: (messages, size) for at, messages, size in rows if messages}

    def dead_totals(self) -> tuple[int, int]:
        """Return the number of dead letters, and their bytes."""
        row = self._connection.execute("SELECT messages, bytes FROM total WHERE id = 0").fetchone()
        return int(row[0]), int(row[1])

    def last_place(self, endpoint: str) -> int:
        """Return the place of an endpoint's last block; 0 if there is none."""
        first, last = block_id(endpoint, 0), block_id(endpoint, (1 << PLACE_BITS) - 1)
        found = self._connection.execute(
            "SELECT max(id) FROM block WHERE id BETWEEN ? AND ?", (first, last)
        ).fetchone()[0]
        return 0 if found is None else place_of(found)

    def oldest(self, endpoints: Sequence[str] = ENDPOINTS) -> float | None:
        """Return the time at which the oldest message was written; None if there is none."""
        times = []
        for endpoint in endpoints:
            first, last = block_id(endpoint, 0), block_id(endpoint, (1 << PLACE_BITS) - 1)
            row = self._connection.execute(
                "SELECT created FROM block WHERE id BETWEEN ? AND ? ORDER BY id LIMIT 1",
                (first, last),
            ).fetchone()
            if row is not None:
                times.append(row[0])
        return min(times, default=None)

    def file_bytes(self) -> int:
        """Return the size of the file and its WAL."""
        size = 0
        for suffix in ("", "-wal"):
            with suppress(OSError):
                size += self.path.with_name(self.path.name + suffix).stat().st_size
        return size

    def is_there(self) -> bool:
        """Return False if the file was removed or replaced since it was opened."""
        try:
            return self.path.stat().st_ino == self.inode
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:  # its folder cannot be read any more; the open file still works
            return True

    def check_there(self) -> None:
        """Check that the file was not removed, so that what was committed can be found.

        :raises FileNotFoundError: if it was.
        """
        if not self.is_there():
            raise FileNotFoundError(errno.ENOENT, "the file was removed")

    def free_pages(self) -> int:
        """Return how many pages of the file are unused."""
        return int(self._connection.execute("PRAGMA freelist_count").fetchone()[0])

    # ---- writing --------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit all changes of the block together, or none of them."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # after an I/O error SQLite may have rolled back itself
                self._connection.execute("ROLLBACK")
            raise

    def add(self, block: NewBlock) -> None:
        """Write a block. It is one statement: outside of `transaction` it commits by itself."""
        body = b"".join(block.bodies)
        count = len(block.bodies)
        lengths = array("I", map(len, block.bodies))
        if sys.byteorder == "big":  # pragma: no cover - the format is little-endian
            lengths.byteswap()
        self._connection.execute(
            INSERT_BLOCK,
            (
                block.id, block.created, count, count, len(body), zlib.crc32(body), block.auth,
                None, block.flags, lengths.tobytes(), block.extra, body,
            ),
        )  # fmt: skip

    def remove(self, ids: Sequence[int]) -> None:
        """Delete blocks, all of whose messages are settled."""
        self._connection.execute(
            "DELETE FROM block WHERE id IN (SELECT value FROM json_each(?))",
            (f"[{','.join(map(str, ids))}]",),
        )

    def set_state(self, id: int, state: bytes, remaining: int) -> None:  # noqa: A002
        """Write which messages of a block are settled, and which were attempted."""
        self._connection.execute(
            "UPDATE block SET state = ?, remaining = ? WHERE id = ?", (state, remaining, id)
        )

    def add_dead(self, letters: Sequence[DeadLetter], max_bytes: int | None = None) -> int:
        """Add dead letters; return how many old ones were deleted to stay within `max_bytes`."""
        for letter in letters:
            self._connection.execute(INSERT_DEAD, letter[:-1])
        if max_bytes is None:
            return 0
        count, size = self.dead_totals()
        if size <= max_bytes:
            return 0
        last, excess = 0, size - max_bytes
        for id_, length in self._connection.execute(
            "SELECT id, length(body) FROM dead ORDER BY id"
        ):
            last, excess = id_, excess - length
            if excess <= 0:
                break
        self._connection.execute("DELETE FROM dead WHERE id <= ?", (last,))
        return count - self.dead_totals()[0]

    def remove_dead(self, ids: Sequence[int]) -> None:
        """Delete dead letters."""
        self._connection.execute(
            "DELETE FROM dead WHERE id IN (SELECT value FROM json_each(?))",
            (f"[{','.join(map(str, ids))}]",),
        )

    def clear(self) -> None:
        """Delete all messages, but no dead letters."""
        self._connection.execute("DELETE FROM block")

    def shrink(self, pages: int) -> None:
        """Return up to `pages` unused pages to the file system."""
        # Not `execute`, which would take the first step only: one page.
        self._connection.executescript(f"PRAGMA incremental_vacuum({int(pages)})")

    def set_meta(self, **values: str) -> None:
        """Write facts about the owner of the file."""
        for name, value in values.items():
            self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def meta(self) -> dict[str, str]:
        """Return the facts about the last owner of the file."""
        return dict(self._connection.execute("SELECT name, value FROM meta").fetchall())

    # ---- reading --------------------------------------------------------------------------------

    def read(
        self, endpoint: str, after: int, max_messages: int, max_bytes: int
    ) -> list[StoredBlock]:
        """Return blocks of an endpoint after a place: up to the limits, but at least one if any."""
        first, last = block_id(endpoint, after + 1), block_id(endpoint, (1 << PLACE_BITS) - 1)
        found: list[StoredBlock] = []
        messages = size = 0
        with closing(self._connection.cursor()) as cursor:
            rows = cursor.execute(
                "SELECT id, created, count, remaining, bytes, crc, state, flags, lengths, auth, "
                "extra, body FROM block WHERE id BETWEEN ? AND ? ORDER BY id",
                (first, last),
            )
            for id_, created, count, remaining, length, crc, state, flags, *rest in rows:
                lengths, auth, extra, body = rest
                bodies = _split(body, lengths, count, crc)
                found.append(
                    StoredBlock(
                        id_, created, count, remaining, length, state, flags, auth, extra, bodies
                    )
                )
                messages += count
                size += length
                if messages >= max_messages or size >= max_bytes:
                    break
        return found

    def dead(self, after: int = 0, limit: int = 1000) -> list[DeadLetter]:
        """Return dead letters in the order in which they were added."""
        rows = self._connection.execute(
            f"{SELECT_DEAD} WHERE id > ? ORDER BY id LIMIT ?", (after, limit)
        )
        return [DeadLetter._make((*row[1:], row[0])) for row in rows]

    def is_empty(self) -> bool:
        """Return True if the file has neither messages nor dead letters."""
        return not self.totals() and not self.dead_totals()[0]

    def integrity(self) -> str:
        """Return "ok", or what SQLite finds wrong with the file."""
        rows = self._connection.execute("PRAGMA integrity_check").fetchall()
        return "; ".join(str(row[0]) for row in rows)

    def close(self) -> None:
        """Close the connection; the WAL is written back and removed."""
        self._connection.close()


def _check_not_emptied(path: Path) -> None:
    """Check that a file was not truncated to nothing: SQLite would then delete its WAL.

    :raises sqlite3.DatabaseError: if it was.
    """
    wal = path.with_name(f"{path.name}-wal")
    with suppress(FileNotFoundError):
        if path.stat().st_size == 0 and wal.stat().st_size > 0:
            raise sqlite3.DatabaseError("it is empty, and its WAL is not")


def _split(body: bytes, lengths: bytes, count: int, crc: int) -> list[bytes] | None:
    sizes = array("I")
    try:
        sizes.frombytes(lengths)
    except ValueError:
        return None
    if sys.byteorder == "big":  # pragma: no cover - the format is little-endian
        sizes.byteswap()
    if len(sizes) != count or sum(sizes) != len(body) or zlib.crc32(body) != crc:
        return None
    bodies, at = [], 0
    for size in sizes:
        bodies.append(body[at : at + size])
        at += size
    return bodies


class Snapshot(NamedTuple):
    """The counts of a file, read without disturbing its owner."""

    totals: dict[str, tuple[int, int]]
    dead: tuple[int, int]
    oldest: float | None
    meta: dict[str, str]


def peek(path: Path) -> Snapshot:
    """Read the counts of a file that another process may be writing, by a read-only connection.

    :raises sqlite3.Error: if it cannot be read.
    """
    uri = f"file:{quote(str(path))}?mode=ro"
    store = SpoolStore.__new__(SpoolStore)
    store.path = path
    store._connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=1.0)
    try:
        return Snapshot(store.totals(), store.dead_totals(), store.oldest(), store.meta())
    finally:
        store.close()


def now() -> float:
    """Return the time of the wall clock, the only one that is meaningful after a restart."""
    return time.time()
