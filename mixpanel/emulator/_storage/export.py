"""The raw export: select events, write them as lines, and compress them while they are sent.

DuckDB writes the lines in chunks of some megabytes, in worker threads: the next chunk while one is
compressed. Compressed bodies are cached, since tests and benchmarks repeat their requests.
"""

import asyncio
import re
import zlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

from pydantic_core import from_json
from starlette.responses import Response, StreamingResponse

from mixpanel.data.analysis.expressions import (
    Compiled,
    ExpressionError,
    Names,
    Value,
    compile_condition,
)
from mixpanel.emulator._rules.decode import RefusedRequest
from mixpanel.emulator._storage.warehouse import Warehouse

MEDIA_TYPE = "text/plain; charset=utf-8"
MAX_UNCOMPRESSED = 1400  # bytes; a longer body is compressed if the client accepts gzip
MAX_EVENTS = 100_000
BLOCK = 64  # events that are counted together when the export is divided into chunks
CHUNK_BYTES = 4 * 2**20
LEVEL = 1
GZIP = 31
CACHE_BYTES = 128 * 2**20

DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
JOIN_PROFILES = """
left join owners on owners.alias = e.distinct_id
left join profiles on profiles.distinct_id = coalesce(owners.distinct_id, e.distinct_id)
"""
SECONDS = Value(number="(e.time / 1000)", set_when="true", is_time=True)
DISTINCT_ID = Value(text="e.distinct_id")
NAMES = {
    "properties": Names(
        "e.properties",
        {
            "time": SECONDS,
            "$time": SECONDS,
            "distinct_id": DISTINCT_ID,
            "$distinct_id": DISTINCT_ID,
            "$insert_id": Value(text="e.insert_id"),
            "mp_processing_time_ms": Value(number="e.ingested_at::double", set_when="true"),
        },
    ),
    "event": Names(columns={"$time": SECONDS, "$name": Value(text="e.event", set_when="true")}),
    "user": Names(
        "profiles.properties",
        {"$distinct_id": Value(text="profiles.distinct_id")},
    ),
}


OVERHEAD = 200  # approximate bytes of a line besides its properties
# The properties are inserted as text, without their first brace: parsing them again would cost
# more, and `raw` is not valid JSON. Their last brace ends `properties`.
LINE = """concat(
    '{{"event":', to_json(e.event), ',"properties":{{"time":', {time},
    ',"distinct_id":' || to_json(e.distinct_id), ',"$insert_id":' || to_json(e.insert_id),
    ',"mp_processing_time_ms":', e.ingested_at,
    if(e.properties::varchar = '{{}}', '', ','), substr(coalesce(e.raw, e.properties::varchar), 2),
    '}}', chr(10)
)"""


class Selection(NamedTuple):
    """The events that an export requests, as SQL over `events e`."""

    source: str
    condition: str
    parameters: dict[str, Any]
    limit: int | None
    milliseconds: bool


class SequenceRange(NamedTuple):
    """A range of `events.seq` that is written at once; `limit` truncates the last one."""

    low: int
    high: int
    limit: int | None


def read_selection(query: Mapping[str, str], *, now: float) -> Selection:
    """Read the parameters of an export.

    :raises RefusedRequest: 400: parameters are missing or invalid.
    """
    first, last = _day(query, "from_date"), _day(query, "to_date")
    if first > last:
        raise RefusedRequest(400, f"from_date {first} is after to_date {last}")
    if last > datetime.fromtimestamp(now, UTC).date():
        raise RefusedRequest(400, "to_date cannot be later than today")
    parameters: dict[str, Any] = {"low_ms": _start(first), "high_ms": _start(last, days=1)}
    condition, source = "e.time >= $low_ms and e.time < $high_ms", "events e"
    if "event" in query:
        condition += " and e.event in (select unnest($names::varchar[]))"
        parameters["names"] = _event_names(query["event"])
    if query.get("where"):
        where = read_where(query["where"], NAMES)
        condition += f" and {where.condition}"
        parameters |= where.parameters
        source += JOIN_PROFILES if "user" in where.uses else ""
    milliseconds = query.get("time_in_ms", "").lower() in ("1", "true")
    return Selection(source, condition, parameters, _limit(query.get("limit")), milliseconds)


def read_where(text: str, names: Mapping[str, Names], *, prefix: str = "x") -> Compiled:
    """Compile a `where` condition.

    :raises RefusedRequest: 400: it is invalid.
    """
    try:
        return compile_condition(text, names, prefix=prefix)
    except ExpressionError as error:
        raise RefusedRequest(400, f"where: {error}") from error


def plan(warehouse: Warehouse, selection: Selection) -> list[SequenceRange]:
    """Divide the requested events into chunks of a few megabytes.

    :raises RefusedRequest: 400: the condition fails for these events.
    """
    # Sizes are added up by block, as a long export has millions of events. So a chunk ends where a
    # block does; `limit` truncates the last one.
    sql = (
        f"select e.seq // {BLOCK}, count(*), sum(strlen(e.properties)) from {selection.source}"
        f" where {selection.condition} group by 1 order by 1"
    )
    try:
        blocks = warehouse.query(sql, selection.parameters)
    except ValueError as error:
        raise RefusedRequest(400, f"where: {error}") from error
    ranges: list[SequenceRange] = []
    low, size, done, pending_events = None, 0, 0, 0
    for number, (block, events, weight) in enumerate(blocks, start=1):
        low = block if low is None else low
        size += weight + OVERHEAD * events
        pending_events += events
        cut = selection.limit is not None and done + pending_events >= selection.limit
        if size >= CHUNK_BYTES or number == len(blocks) or cut:
            limit = selection.limit - done if selection.limit is not None and cut else None
            ranges.append(SequenceRange(low * BLOCK, block * BLOCK + BLOCK - 1, limit))
            low, size, done, pending_events = None, 0, done + pending_events, 0
        if cut:
            break
    return ranges


def write(warehouse: Warehouse, selection: Selection, sequence_range: SequenceRange) -> bytes:
    """Return the lines of a range, in the order of arrival."""
    time = "e.time" if selection.milliseconds else "e.time // 1000"
    line = LINE.format(time=time)
    order = "" if sequence_range.limit is None else " order by e.seq limit $limit"
    sql = (
        f"select encode(string_agg(line, '')) from (select {line} as line from {selection.source}"
        f" where e.seq between $low and $high and {selection.condition}{order})"
    )
    values = {**selection.parameters, "low": sequence_range.low, "high": sequence_range.high}
    if sequence_range.limit is not None:
        values["limit"] = sequence_range.limit
    ((lines,),) = warehouse.query(sql, values)
    return lines or b""


class ExportCache:
    """Compressed bodies by request parameters and revision of the warehouse, the newest ones."""

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._size = 0
        self._bodies: OrderedDict[Any, list[bytes]] = OrderedDict()

    def get(self, key: Any) -> list[bytes] | None:
        """Return a cached body in chunks, None if it is not cached."""
        return self._bodies.get(key)

    def put(self, key: Any, body: list[bytes]) -> None:
        """Add a body, and drop the oldest ones above the limit."""
        size = sum(map(len, body))
        if size > self._max_bytes or key in self._bodies:
            return
        self._bodies[key] = body
        self._size += size
        while self._size > self._max_bytes:
            _, oldest = self._bodies.popitem(last=False)
            self._size -= sum(map(len, oldest))

    def clear(self) -> None:
        """Drop all bodies."""
        self._bodies.clear()
        self._size = 0


async def respond(
    warehouse: Warehouse,
    export_cache: ExportCache,
    query: Mapping[str, str],
    *,
    now: float,
    gzip: bool,
) -> Response:
    """Return the response to an export; errors are raised before its first byte.

    :raises RefusedRequest: 400: parameters are missing or invalid.
    """
    selection = read_selection(query, now=now)
    # Each change of the warehouse has a new revision, so nothing has to remove outdated bodies.
    key = (warehouse.revision, *sorted(query.items()))
    headers = {"content-encoding": "gzip"}
    if gzip and (known := export_cache.get(key)) is not None:
        return StreamingResponse(_replay(known), media_type=MEDIA_TYPE, headers=headers)
    ranges = await asyncio.to_thread(plan, warehouse, selection)
    chunks = _chunks(warehouse, selection, ranges)
    first = await anext(chunks, b"")
    # A body in one piece has a length, and may be too short to be worth compressing.
    if len(ranges) <= 1:
        gzip = gzip and len(first) > MAX_UNCOMPRESSED
        if not gzip:
            return Response(first, media_type=MEDIA_TYPE)
    if not gzip:
        return StreamingResponse(_prepend(first, chunks), media_type=MEDIA_TYPE)
    compressed = _compress(_prepend(first, chunks), export_cache, key)
    return StreamingResponse(compressed, media_type=MEDIA_TYPE, headers=headers)


async def _chunks(
    warehouse: Warehouse, selection: Selection, ranges: list[SequenceRange]
) -> AsyncIterator[bytes]:
    # One range ahead: DuckDB writes the next chunk while this one is compressed and sent.
    pending: asyncio.Future[bytes] | None = None
    for sequence_range in [*ranges, None]:
        ready = pending
        pending = None
        if sequence_range is not None:
            thread = asyncio.to_thread(write, warehouse, selection, sequence_range)
            pending = asyncio.ensure_future(thread)
        if ready is not None:
            yield await ready


async def _compress(
    chunks: AsyncIterator[bytes], export_cache: ExportCache, key: Any
) -> AsyncIterator[bytes]:
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, GZIP)
    body: list[bytes] = []
    size = 0
    async for chunk in chunks:
        body.append(await asyncio.to_thread(packer.compress, chunk))
        size += len(body[-1])
        yield body[-1]
        if size > CACHE_BYTES:  # too long to be cached: do not keep it in memory
            body.clear()
    body.append(packer.flush())
    yield body[-1]
    if size <= CACHE_BYTES:
        export_cache.put(key, body)


async def _prepend(first: bytes, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in chunks:
        yield chunk


async def _replay(chunks: list[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def _day(query: Mapping[str, str], name: str) -> date:
    text = query.get(name)
    if not text:
        raise RefusedRequest(400, f"{name} is required")
    try:
        if DAY.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise RefusedRequest(400, f"{name} must be a date as YYYY-MM-DD, not {text!r}")


def _start(day: date, *, days: int = 0) -> int:
    start = datetime(day.year, day.month, day.day, tzinfo=UTC) - datetime.fromtimestamp(0, UTC)
    return (start + timedelta(days=days)) // timedelta(milliseconds=1)


def _event_names(text: str) -> list[str]:
    try:
        names = from_json(text)
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        raise RefusedRequest(400, 'event must be a JSON array of names, as ["Order Paid"]')
    return names


def _limit(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= MAX_EVENTS):
        raise RefusedRequest(400, f"limit must be between 1 and {MAX_EVENTS}, not {text!r}")
    return int(text)
