"""Inspect, export, retry and delete the messages of a spool, for `mp spool`.

Files of a running process are only read, by a connection that cannot write.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mixpanel._delivery.spool.folder import (
    DESCRIPTION,
    check_folder,
    checked_path,
    claim_orphan,
    newer_files,
    quarantine,
    quarantined,
    read_destination,
    remove_file,
    spool_files,
)
from mixpanel._delivery.spool.store import (
    DONE,
    ENDPOINTS,
    NewBlock,
    SpoolStore,
    block_id,
    is_damage,
    peek,
    place_of,
)
from mixpanel._runtime.checked_files import UnsafeFileError
from mixpanel.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mixpanel._delivery.spool.store import DeadLetter

__all__ = [
    "SpoolFile",
    "destinations",
    "export",
    "files_of",
    "inventory",
    "purge",
    "remove_damaged",
    "retry",
]

PAGE_MESSAGES = 5000
PAGE_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class SpoolFile:
    """One file of a spool.

    `state` is "in use" (by a running process), "waiting" (its process has ended), "damaged", or
    "newer" (written by a newer version of this package, which alone can read it).
    """

    destination: str
    service: str
    origin: str
    path: Path
    state: str
    pid: str | None = None
    messages: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    oldest: float | None = None
    dead: int = 0
    file_bytes: int = 0
    error: str | None = None


def destinations(spool: object) -> list[Path]:
    """Return the folders of the destinations in a spool.

    :raises ConfigurationError: if there is no spool at the path, or it is not safe to use.
    """
    folder = checked_path(spool)
    check_folder(folder)
    if not folder.is_dir():
        raise ConfigurationError(
            f"there is no spool at {folder}: pass the folder of a spool, or set MP_SPOOL"
        )
    found = [each for each in sorted(folder.iterdir()) if (each / DESCRIPTION).is_file()]
    for each in found:
        check_folder(each)
    return found


def inventory(spool: object) -> list[SpoolFile]:
    """Return all files of a spool, by destination."""
    return [each for folder in destinations(spool) for each in files_of(folder)]


def files_of(folder: Path) -> list[SpoolFile]:
    """Return the files of one destination."""
    about = read_destination(folder)
    common = (folder.name, about.get("service", "unknown"), about.get("origin", ""))
    found = [_describe(path, *common) for path in spool_files(folder)]
    damaged, newer = quarantined(folder), newer_files(folder)
    for state, paths in (("damaged", damaged), ("newer", newer)):
        for path in paths:
            with suppress(FileNotFoundError):
                found.append(SpoolFile(*common, path, state, file_bytes=path.stat().st_size))
    return found


def _describe(path: Path, destination: str, service: str, origin: str) -> SpoolFile:
    state, error = "in use", None
    size = sum(
        each.stat().st_size for each in (path, path.with_name(f"{path.name}-wal")) if each.exists()
    )
    with suppress(UnsafeFileError):
        lock = claim_orphan(path)
        if lock is not None:
            state = "waiting"
            lock.release()
    try:
        found = peek(path)
    except sqlite3.Error as problem:
        error = str(problem)
        state = "damaged" if state == "waiting" and is_damage(problem) else state
        return SpoolFile(destination, service, origin, path, state, file_bytes=size, error=error)
    return SpoolFile(
        destination,
        service,
        origin,
        path,
        state,
        found.meta.get("pid") if state == "in use" else None,
        {name: messages for name, (messages, _) in found.totals.items()},
        sum(total for _, total in found.totals.values()),
        found.oldest,
        found.dead[0],
        size,
    )


@contextmanager
def _opened(path: Path, skipped: list[Path]) -> Iterator[SpoolStore | None]:
    """Open a file whose process has ended, under its lock.

    Yields None for a file that is in use, and for a damaged one, which is set aside; its path is
    added to `skipped`. A file that is empty afterwards is removed.
    """
    lock = claim_orphan(path)
    if lock is None:
        skipped.append(path)
        yield None
        return
    try:
        try:
            store = SpoolStore(path)
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            skipped.append(quarantine(path))
            yield None
            return
        try:
            yield store
            empty = store.is_empty()
        finally:
            store.close()
        if empty:
            remove_file(path)
    finally:
        lock.release()


def export(
    spool: object, *, dead: bool, waiting: bool, skipped: list[Path]
) -> Iterator[dict[str, Any]]:
    """Yield the messages of all files that are not in use; add the other files to `skipped`."""
    for folder in destinations(spool):
        about = read_destination(folder)
        for path in spool_files(folder):
            with _opened(path, skipped) as store:
                if store is None:
                    continue
                common = {"service": about.get("service"), "origin": about.get("origin")}
                if waiting:
                    for row in _waiting(store):
                        yield common | row
                if dead:
                    for letter in _letters(store):
                        yield common | _row(
                            letter.endpoint, letter.created, letter.body, letter.reason,
                            letter.error, letter.at,
                        )  # fmt: skip


def _waiting(store: SpoolStore) -> Iterator[dict[str, Any]]:
    for endpoint in ENDPOINTS:
        place = 0
        while page := store.read(endpoint, place, PAGE_MESSAGES, PAGE_BYTES):
            for block in page:
                place = place_of(block.id)
                state = block.state or bytes(block.messages)
                for index, body in enumerate(block.bodies or ()):
                    if state[index] != DONE:
                        yield _row(endpoint, block.created, body)


def _row(
    endpoint: str,
    created: float,
    body: bytes,
    reason: str | None = None,
    error: str | None = None,
    given_up: float | None = None,
) -> dict[str, Any]:
    try:
        message = json.loads(body)
    except ValueError:
        message = body.decode("utf-8", "replace")
    row = {"endpoint": endpoint, "created": created, "message": message}
    if reason is not None:
        row |= {"reason": reason, "error": error, "given_up": given_up}
    return row


def _letters(store: SpoolStore) -> Iterator[DeadLetter]:
    last = 0
    while page := store.dead(last):
        yield from page
        last = page[-1].id


def retry(spool: object, *, reason: str | None, skipped: list[Path]) -> Counter[str]:
    """Move dead letters back into the queues; return how many, by reason.

    Dead letters of damaged blocks have no messages to send, and stay.
    """
    moved: Counter[str] = Counter()
    for folder in destinations(spool):
        for path in spool_files(folder):
            with _opened(path, skipped) as store:
                if store is None:
                    continue
                for letter in list(_letters(store)):
                    wanted = reason in (None, letter.reason)
                    if wanted and letter.reason != "corrupt" and letter.endpoint in ENDPOINTS:
                        _requeue(store, letter)
                        moved[letter.reason] += 1
    return moved


def _requeue(store: SpoolStore, letter: DeadLetter) -> None:
    flags = None
    if letter.endpoint in ("people", "groups"):
        flags = bytes([bool(letter.repeatable)])
    place = store.last_place(letter.endpoint) + 1
    block = NewBlock(
        block_id(letter.endpoint, place),
        letter.created,
        [letter.body],
        flags,
        letter.auth,
        letter.extra,
    )
    with store.transaction():
        store.add(block)
        store.remove_dead([letter.id])


def purge(spool: object, *, waiting: bool, skipped: list[Path]) -> Counter[str]:
    """Delete dead letters, and with `waiting` also messages that were not sent; return how many."""
    deleted: Counter[str] = Counter()
    for folder in destinations(spool):
        for path in spool_files(folder):
            with _opened(path, skipped) as store:
                if store is None:
                    continue
                letters = [letter.id for letter in _letters(store)]
                store.remove_dead(letters)
                deleted["dead"] += len(letters)
                if waiting:
                    deleted["waiting"] += sum(count for count, _ in store.totals().values())
                    store.clear()
    return deleted


def remove_damaged(spool: object) -> int:
    """Delete the damaged files that were set aside; return how many."""
    count = 0
    for folder in destinations(spool):
        for path in quarantined(folder):
            remove_file(path)
            count += 1
    return count
