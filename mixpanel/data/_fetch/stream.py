"""Stream events and profiles without storing them, in blocks of rows.

A chunk of days is downloaded and checked to be complete before its first event is yielded. So a
retry never yields an event a second time.
"""

from __future__ import annotations

import gzip
import zlib
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import IO, TYPE_CHECKING, Any, cast

import anyio
import anyio.to_thread
from pydantic_core import from_json, to_json

from mixpanel._runtime.private_files import make_folder
from mixpanel._runtime.safe_logging import logger
from mixpanel._runtime.temporary_folders import make_temporary_folder, remove_temporary_folder
from mixpanel.data._fetch.plan import Chunk, Part, chunks
from mixpanel.data._fetch.profiles import pages
from mixpanel.data._fetch.progress import log_exceptions
from mixpanel.data._fetch.tasks import unwrap_exception_group
from mixpanel.data.exceptions import TruncatedError
from mixpanel.data.results import UnreadableLines
from mixpanel.data.store.parts import (
    has_key_twice,
    is_whole_line,
    line_end,
    private_file,
    repair_line,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path
    from typing import Self

    from mixpanel.data._fetch.query import EventQuery, ProfileQuery
    from mixpanel.data.api import AsyncAPI

__all__ = ["event_blocks", "profile_blocks"]

Row = dict[str, Any]

ATTEMPTS = 3  # for a chunk whose export is truncated
BLOCK_BYTES = 1 << 20  # read and parsed at a time
CHUNKS_AHEAD = (1, 2, 4)  # downloaded at a time: the first alone, so that its events come soon
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


async def event_blocks(
    api: AsyncAPI,
    query: EventQuery,
    unreadable_folder: Callable[[], Path],
    *,
    raw: bool = False,
    on_unreadable: Callable[[UnreadableLines], object] | None = None,
) -> AsyncGenerator[list[Row]]:
    """Yield blocks of events, day by day, exactly `limit` of them if there are as many.

    Lines that are not events are written to a file in a folder, which is created if there are any.
    """
    on_unreadable = log_exceptions(on_unreadable)
    left = query.filters.limit
    planned = chunks(query.days, api.export_limiter.remaining(), size=query.chunk_days)
    folder = await anyio.to_thread.run_sync(make_temporary_folder)
    try:
        start, round_ = 0, 0
        while start < len(planned):
            width = CHUNKS_AHEAD[min(round_, len(CHUNKS_AHEAD) - 1)]
            for part in await _download(api, query, planned[start : start + width], folder):
                unreadable = _UnreadableFile(
                    part.chunk, query.filters.key(), unreadable_folder, on_unreadable
                )
                with unreadable, await anyio.to_thread.run_sync(_open, part) as file:
                    read = partial(_read_block, file, unreadable, raw)
                    while block := await anyio.to_thread.run_sync(read):
                        yield block if left is None else block[:left]
                        if left is not None:
                            left -= len(block)
                            if left <= 0:
                                return
                part.path.unlink()
            start, round_ = start + width, round_ + 1
    finally:
        remove_temporary_folder(folder)


async def _download(
    api: AsyncAPI, query: EventQuery, planned: list[Chunk], folder: Path
) -> list[Part]:
    parts: dict[Chunk, Part] = {}

    async def download(chunk: Chunk) -> None:
        tail: str | None = None
        for attempt in range(ATTEMPTS):
            file = await api.download(folder / str(chunk.from_date), query.params(chunk))
            part = Part(file.path, chunk, file.bytes, file.gzip)
            last = await anyio.to_thread.run_sync(_truncated_line, part)
            if last is None:
                parts[chunk] = part
                return
            earlier, tail = tail, line_end(last)
            if tail == earlier and is_whole_line(last):
                parts[chunk] = part  # each download ends with it, so it is no cut connection
                return
            if attempt == ATTEMPTS - 1:
                raise TruncatedError(
                    f"the export of {chunk} was truncated {ATTEMPTS} times; it ends with {tail!r}",
                    tail=tail,
                )

    with unwrap_exception_group():
        async with anyio.create_task_group() as calls:
            for chunk in planned:
                calls.start_soon(download, chunk)
    return [parts[chunk] for chunk in planned]


def _open(part: Part) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(part.path) if part.gzip else part.path.open("rb"))


def _truncated_line(part: Part) -> bytes | None:
    """Return the last line of a truncated export; None for a complete one.

    HTTP says nothing about it: Mixpanel ends a truncated export with status 200, and a last line
    that is not an event.
    """
    tail = b""
    try:
        with _open(part) as file:
            while block := file.read(BLOCK_BYTES):
                tail = block if b"\n" in block[:-1] else tail + block
    except (EOFError, OSError, zlib.error):
        return b"(the connection broke)"
    end = b"\n" if tail.endswith(b"\n") else b""
    line = tail.rstrip(b"\n").rpartition(b"\n")[2] + end
    return None if not line.strip() or _parsed(line) is not None else line


class _UnreadableFile:
    """A file of the lines of an export that are not events; at its end, they are reported."""

    def __init__(
        self,
        chunk: Chunk,
        key: str,
        folder: Callable[[], Path],
        on_unreadable: Callable[[UnreadableLines], object] | None,
    ) -> None:
        self._chunk, self._key, self._folder = chunk, key, folder
        self._on_unreadable = on_unreadable
        self._lines = 0
        self._file: IO[bytes] | None = None
        self._path: Path | None = None

    def add(self, line: bytes) -> None:
        """Count a line, and write it unchanged."""
        if self._file is None:
            folder = self._folder()
            make_folder(folder)
            days = f"{self._chunk.from_date}_{self._chunk.to_date}"
            self._path = folder / f"stream-{self._key}_{days}.ndjson"
            self._file = private_file(self._path)
        self._file.write(line if line.endswith(b"\n") else line + b"\n")
        self._lines += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is None:
            return
        self._file.close()
        first, last = self._chunk.from_date, self._chunk.to_date
        found = UnreadableLines(first, last, self._lines, str(self._path))
        logger.warning(
            "%s lines of the export of %s cannot be read as events; they are kept in %s",
            found.lines,
            self._chunk,
            found.path,
        )
        if self._on_unreadable is not None:
            self._on_unreadable(found)


def _read_block(file: IO[bytes], unreadable: _UnreadableFile, raw: bool) -> list[Row]:  # noqa: FBT001
    """Return the next events, empty at the end of the file."""
    rows: list[Row] = []
    while not rows and (lines := file.readlines(BLOCK_BYTES)):
        for line in lines:
            event = _parsed(line) if line.strip() else {}
            if event is None:
                unreadable.add(line)
            elif event:
                rows.append(event if raw else _event(event))
    return rows


def _parsed(line: bytes) -> Row | None:
    """Parse a line, repaired if necessary; None for one that a fetch would not load as an event."""
    try:
        event = from_json(line, allow_inf_nan=False)
    except ValueError:
        try:
            event = from_json(repair_line(line), allow_inf_nan=False)
        except ValueError:
            return None
    if not isinstance(event, dict):
        return None
    known = event.get("event") is not None or event.get("properties") is not None
    return event if known and not has_key_twice(line) else None


def _event(raw: Row) -> Row:
    """Return an event as a fetch would store it, with None for what is missing."""
    properties = raw.get("properties")
    promoted: Row = {}
    if isinstance(properties, dict):
        properties = dict(properties)
        time = _datetime(properties.get("time"))
        promoted = {name: properties.pop(name, None) for name in ("distinct_id", "$insert_id")}
        if time is not None:
            promoted["time"], _ = time, properties.pop("time")
    return {
        "event_name": _text(raw.get("event")),
        "event_time": promoted.get("time"),
        "distinct_id": _text(promoted.get("distinct_id")),
        "insert_id": _text(promoted.get("$insert_id")),
        "properties": properties,
    }


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else to_json(value).decode()


def _datetime(milliseconds: Any) -> datetime | None:
    # The call asked for milliseconds, so the unit is known.
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, (int, float, str)):
        return None
    try:
        return EPOCH + timedelta(milliseconds=float(milliseconds))
    except (OverflowError, ValueError):
        return None


async def profile_blocks(
    api: AsyncAPI, query: ProfileQuery, *, raw: bool = False
) -> AsyncGenerator[list[Row]]:
    """Yield the profiles, page by page."""
    async for page in pages(api, query):
        yield page.profiles if raw else list(map(_profile, page.profiles))


def _profile(raw: Row) -> Row:
    properties = raw.get("$properties")
    properties = dict(properties) if isinstance(properties, dict) else {}
    return {
        "distinct_id": _text(raw.get("$distinct_id")),
        "last_seen": properties.pop("$last_seen", None),
        "properties": properties,
    }
