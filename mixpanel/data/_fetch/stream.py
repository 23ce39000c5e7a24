"""Stream events and profiles without storing them, in blocks of rows.

A day is received whole, and checked to be whole, before its first event is handed out: what has
been handed out never comes again.
"""

from __future__ import annotations

import gzip
import zlib
from datetime import UTC, datetime, timedelta
from typing import IO, TYPE_CHECKING, Any, cast

import anyio
import anyio.to_thread
from pydantic_core import from_json, to_json

from mixpanel._runtime.temporary_folders import make_temporary_folder, remove_temporary_folder
from mixpanel.data._fetch.plan import Chunk, Part, chunks
from mixpanel.data._fetch.profiles import pages
from mixpanel.data._fetch.tasks import unwrap_exception_group
from mixpanel.data.exceptions import TruncatedError
from mixpanel.data.store.parts import repair_line

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from mixpanel.data._fetch.query import EventQuery, ProfileQuery
    from mixpanel.data.api import AsyncAPI

__all__ = ["event_blocks", "profile_blocks"]

Row = dict[str, Any]

ATTEMPTS = 3  # for a day whose answer is cut
BLOCK = 1 << 20  # bytes that are read, and parsed, at a time
AHEAD = (1, 2, 4)  # days received at a time: the first alone, so that its events come soon
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TAIL_BYTES = 200


async def event_blocks(
    api: AsyncAPI, asked: EventQuery, *, raw: bool = False
) -> AsyncGenerator[list[Row]]:
    """Yield blocks of events, day by day, exactly `limit` of them if there are as many."""
    left = asked.filters.limit
    todo = chunks(asked.days, api.export_budget.remaining(), size=asked.chunk_days)
    folder = await anyio.to_thread.run_sync(make_temporary_folder)
    try:
        at, round_ = 0, 0
        while at < len(todo):
            width = AHEAD[min(round_, len(AHEAD) - 1)]
            for part in await _received(api, asked, todo[at : at + width], folder):
                with await anyio.to_thread.run_sync(_opened, part) as file:
                    while block := await anyio.to_thread.run_sync(_rows, file, part, raw):
                        yield block if left is None else block[:left]
                        if left is not None:
                            left -= len(block)
                            if left <= 0:
                                return
                part.path.unlink()
            at, round_ = at + width, round_ + 1
    finally:
        remove_temporary_folder(folder)


async def _received(
    api: AsyncAPI, asked: EventQuery, todo: list[Chunk], folder: Path
) -> list[Part]:
    parts: dict[Chunk, Part] = {}

    async def receive(chunk: Chunk) -> None:
        for attempt in range(ATTEMPTS):
            got = await api.download(folder / str(chunk.from_date), asked.params(chunk))
            part = Part(got.path, chunk, got.bytes, got.gzip)
            tail = await anyio.to_thread.run_sync(_cut, part)
            if tail is None:
                parts[chunk] = part
                return
            if attempt == ATTEMPTS - 1:
                raise TruncatedError(
                    f"the export of {chunk} ended early, {ATTEMPTS} times: {tail!r}",
                    tail=tail,
                )

    with unwrap_exception_group():
        async with anyio.create_task_group() as calls:
            for chunk in todo:
                calls.start_soon(receive, chunk)
    return [parts[chunk] for chunk in todo]


def _opened(part: Part) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(part.path) if part.gzip else part.path.open("rb"))


def _cut(part: Part) -> str | None:
    """Return the last words of an export that is not whole."""
    tail = b""
    try:
        with _opened(part) as file:
            while block := file.read(BLOCK):
                tail = block if b"\n" in block[:-1] else tail + block
    except (EOFError, OSError, zlib.error):
        return "(the connection broke)"
    line = tail.rstrip(b"\n").rpartition(b"\n")[2]
    if not line or _parsed(line) is not None:
        return None
    return line[-TAIL_BYTES:].decode(errors="replace")


def _rows(file: IO[bytes], part: Part, raw: bool) -> list[Row]:  # noqa: FBT001
    rows: list[Row] = []
    for line in file.readlines(BLOCK):
        if line.strip():
            event = _parsed(line)
            if event is None:
                start = line[:TAIL_BYTES].decode(errors="replace")
                raise TruncatedError(
                    f"the export of {part.chunk} holds a line that is no event: {start!r}",
                    tail=start,
                )
            rows.append(event if raw else _event(event))
    return rows


def _parsed(line: bytes) -> Row | None:
    """Read a line, repaired if need be; None for what a fetch would not take for an event."""
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
    return event if known else None


def _event(sent: Row) -> Row:
    """Return an event as a fetch would store it: None for what it lacks."""
    properties = sent.get("properties")
    promoted: Row = {}
    if isinstance(properties, dict):
        properties = dict(properties)
        moment = _moment(properties.get("time"))
        promoted = {name: properties.pop(name, None) for name in ("distinct_id", "$insert_id")}
        if moment is not None:
            promoted["time"], _ = moment, properties.pop("time")
    return {
        "event_name": _text(sent.get("event")),
        "event_time": promoted.get("time"),
        "distinct_id": _text(promoted.get("distinct_id")),
        "insert_id": _text(promoted.get("$insert_id")),
        "properties": properties,
    }


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else to_json(value).decode()


def _moment(milliseconds: Any) -> datetime | None:
    # The call asked for milliseconds, so the unit is known.
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, (int, float, str)):
        return None
    try:
        return EPOCH + timedelta(milliseconds=float(milliseconds))
    except (OverflowError, ValueError):
        return None


async def profile_blocks(
    api: AsyncAPI, asked: ProfileQuery, *, raw: bool = False
) -> AsyncGenerator[list[Row]]:
    """Yield the profiles, page by page."""
    async for page in pages(api, asked):
        yield page.profiles if raw else list(map(_profile, page.profiles))


def _profile(sent: Row) -> Row:
    properties = sent.get("$properties")
    properties = dict(properties) if isinstance(properties, dict) else {}
    return {
        "distinct_id": _text(sent.get("$distinct_id")),
        "last_seen": properties.pop("$last_seen", None),
        "properties": properties,
    }
