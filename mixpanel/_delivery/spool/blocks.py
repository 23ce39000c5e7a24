"""Blocks of messages in memory, and the open files that they are stored in."""

from __future__ import annotations

import json
import secrets
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol

from mixpanel._delivery.spool.store import DONE, DeadLetter, NewBlock, block_id, now
from mixpanel._records.record import Record
from mixpanel.credentials import ApiSecret, ProjectToken

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mixpanel._delivery.spool.store import SpoolStore, StoredBlock
    from mixpanel._runtime.file_lock import FileLock
    from mixpanel.credentials import Authority

__all__ = [
    "Block",
    "Codec",
    "Credentials",
    "RecordCodec",
    "Source",
    "age_of",
    "by_block",
    "dead_letter",
    "key_of",
    "new_blocks",
    "restored",
]

MAX_BLOCK_MESSAGES = 2000
MAX_BLOCK_BYTES = 2_000_000
FIRST_PLACE = 1 << 40  # plus the sequence number of a message of this process
PLAUSIBLE = 1577836800.0  # 2020-01-01: before it, a clock is wrong
PLAUSIBLE_AGE = 366 * 86400.0  # seconds: of an older message, a clock is wrong too

_auth = attrgetter("auth")
_block = attrgetter("block")


class Codec(Protocol):
    """Serialize what a kind of record has in addition to its body, and restore it."""

    def dump(self, records: Sequence[Record]) -> str | None:
        """Return a JSON array with one item per record, None if all have only a body."""
        ...

    def load(self, endpoint: str, body: bytes, extra: Any) -> Record:
        """Return the record with this body and its item of that array."""
        ...


class RecordCodec:
    """The codec of Mixpanel's records, which have only a body."""

    def dump(self, records: Sequence[Record]) -> str | None:  # noqa: ARG002
        """Return None."""
        return None

    def load(self, endpoint: str, body: bytes, extra: Any) -> Record:  # noqa: ARG002
        """Return the record with this body."""
        return Record(endpoint, body)


class Credentials:
    """Convert the authorization of a message to text without secrets, and back.

    A project token is in the message anyway. A secret is never written: a number replaces it, which
    only this process can resolve.
    """

    def __init__(self) -> None:
        self._session = secrets.token_hex(8)
        self._texts: dict[ApiSecret, str] = {}
        self._secrets: dict[str, ApiSecret] = {}

    def dump(self, auth: Authority | None) -> str | None:
        """Return the text that represents an authority."""
        if auth is None:
            return None
        if isinstance(auth, ProjectToken):
            return f"token:{auth.token}"
        text = self._texts.get(auth)
        if text is None:
            text = self._texts[auth] = f"secret:{self._session}:{len(self._texts)}"
            self._secrets[text] = auth
        return text

    def load(self, text: str | None) -> Authority | None:
        """Return the authority that a text represents.

        :raises LookupError: for a secret of another process.
        """
        if text is None:
            return None
        if text.startswith("token:"):
            return ProjectToken(text.removeprefix("token:"))
        return self._secrets[text]


class Source:
    """An open file: its store, its lock, and for each endpoint which messages are on disk only.

    `left` counts the messages that were not read into memory yet; `position` is the place of the
    last block that was. An adopted file, of an earlier process, gets no new blocks.
    """

    def __init__(self, store: SpoolStore, lock: FileLock, *, is_adopted: bool = False) -> None:
        self.store = store
        self.lock = lock
        self.is_adopted = is_adopted
        self.inherited = 0  # blocks whose messages are of earlier processes
        self.dead = 0  # dead letters in the file
        self.oldest = float("inf")  # when its oldest message was written, if it is adopted
        self.left: dict[str, int] = {}
        self.position: dict[str, int] = {}

    def new_place(self, sequence: int) -> int:
        """Return the place of a new block, by the sequence number of its first message.

        Messages of earlier processes have none: those of a damaged file, which memory still holds,
        are written again before all others.
        """
        if sequence:
            return FIRST_PLACE + sequence
        self.inherited += 1
        return self.inherited

    def close(self) -> None:
        """Close the file and release its lock."""
        try:
            self.store.close()
        finally:
            self.lock.release()


class Block:
    """The state of a block in memory: which of its messages are settled or attempted.

    Only the thread of the writer changes it, so it needs no lock.
    """

    __slots__ = ("auth", "created", "id", "remaining", "source", "state")

    def __init__(
        self,
        source: Source,
        id: int,  # noqa: A002
        created: float,
        auth: str | None,
        remaining: int,
        state: bytearray,
    ) -> None:
        self.source = source
        self.id = id
        self.created = created
        self.auth = auth
        self.remaining = remaining
        self.state = state

    def settle(self, records: Sequence[Record]) -> bool:
        """Mark messages as settled; return True if all are."""
        state = self.state
        for record in records:
            if state[record.index] != DONE:
                state[record.index] = DONE
                self.remaining -= 1
        return self.remaining <= 0

    def mark(self, records: Sequence[Record], state: int) -> None:
        """Set the state of messages that are not settled."""
        for record in records:
            if self.state[record.index] != DONE:
                self.state[record.index] = state


def by_block(records: Iterable[Record]) -> Iterator[tuple[Block, list[Record]]]:
    """Yield runs of records of the same block; skip records that are not in a block."""
    for block, run in groupby(records, _block):
        if block is not None:
            yield block, list(run)


def new_blocks(
    source: Source,
    endpoint: str,
    records: list[Record],
    codec: Codec,
    credentials: Credentials,
) -> Iterator[tuple[NewBlock, list[Record]]]:
    """Yield records of one endpoint as blocks to be written, in order."""
    # Only `imports` may have credentials of their own, which all messages of a block share.
    for auth, group in groupby(records, _auth) if endpoint == "imports" else [(None, records)]:
        run = list(group)
        while run:
            part, size = run[:MAX_BLOCK_MESSAGES], 0
            bodies = [record.body for record in part]
            if sum(map(len, bodies)) > MAX_BLOCK_BYTES:
                for count, body in enumerate(bodies):
                    size += len(body)
                    if size > MAX_BLOCK_BYTES and count:
                        part, bodies = part[:count], bodies[:count]
                        break
            run = run[len(part) :]
            flags = None
            if endpoint in ("people", "groups"):
                flags = bytes([record.repeatable for record in part])
            id_ = block_id(endpoint, source.new_place(part[0].sequence))
            yield (
                NewBlock(id_, now(), bodies, flags, credentials.dump(auth), codec.dump(part)),
                part,
            )


def restored(
    block: Block, stored: StoredBlock, endpoint: str, codec: Codec, auth: Authority | None
) -> list[Record]:
    """Return the records of a block that are not settled.

    :raises ValueError: if their additional data cannot be read.
    """
    assert stored.bodies is not None
    extras = [None] * stored.messages if stored.extra is None else json.loads(stored.extra)
    if len(extras) != stored.messages:
        raise ValueError(f"{len(extras)} items of additional data for {stored.messages} messages")
    state, flags = block.state, stored.flags
    records = []
    for index, (body, extra) in enumerate(zip(stored.bodies, extras, strict=True)):
        if state[index] == DONE:
            continue
        record = codec.load(endpoint, body, extra)
        record.auth = auth
        if flags is not None:
            record.repeatable = bool(flags[index])
        record.block = block
        record.index = index
        records.append(record)
    return records


def age_of(created: float) -> float:
    """Return the seconds since a time of the wall clock; 0 if a clock is implausible."""
    age = now() - created
    if created < PLAUSIBLE or not 0 <= age <= PLAUSIBLE_AGE:
        return 0.0
    return age


def key_of(block: Block) -> str:
    """Return a key that no other block has: ids are used again once a file is empty."""
    return f"{block.source.store.path.name[:16]}-{block.id}-{block.created:.6f}"


def dead_letter(
    record: Record, block: Block | None, reason: str, error: str, codec: Codec
) -> DeadLetter:
    """Return a record as a dead letter."""
    if block is None:
        key, created, auth = secrets.token_hex(16), now(), None
    else:
        key = f"{key_of(block)}-{record.index}"
        created, auth = block.created, block.auth
    return DeadLetter(
        key, now(), record.endpoint, reason, error, created, record.repeatable, auth,
        codec.dump([record]), record.body,
    )  # fmt: skip
