"""Answer the raw export: which events were asked for, and their lines, gzipped on the way.

DuckDB writes the lines, some megabytes at a time, in worker threads: the next piece while one is
compressed. What was sent once is kept gzipped for who asks again, as tests and benchmarks do.
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
LARGEST_PLAIN = 1400  # bytes; above it a body is gzipped for who takes gzip
MOST_EVENTS = 100_000
BLOCK = 64  # events that are planned for together
PIECE = 4 * 2**20  # bytes written at a time
LEVEL = 1
GZIP = 31
REMEMBERED = 128 * 2**20

DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
USERS = """
left join owners on owners.alias = e.distinct_id
left join profiles on profiles.distinct_id = coalesce(owners.distinct_id, e.distinct_id)
"""
SECONDS = Value(number="(e.time / 1000)", set_when="true", is_time=True)
WHO = Value(text="e.distinct_id")
NAMES = {
    "properties": Names(
        "e.properties",
        {
            "time": SECONDS,
            "$time": SECONDS,
            "distinct_id": WHO,
            "$distinct_id": WHO,
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


OVERHEAD = 200  # bytes of a line beside its properties, more or less
LINE = """concat(
    '{{"event":', to_json(e.event), ',"properties":{{"time":', {time},
    ',"distinct_id":' || to_json(e.distinct_id), ',"$insert_id":' || to_json(e.insert_id),
    ',"mp_processing_time_ms":', e.ingested_at,
    if(e.properties::varchar = '{{}}', '', ','), substr(coalesce(e.raw, e.properties::varchar), 2),
    '}}', chr(10)
)"""


class Selection(NamedTuple):
    """Which events an export asks for, as SQL over `events e`."""

    source: str
    condition: str
    parameters: dict[str, Any]
    limit: int | None
    milliseconds: bool


class Window(NamedTuple):
    """A run of events, by `sequence`, that is written at a time; `limit` cuts the last one."""

    low: int
    high: int
    limit: int | None


def read_selection(query: Mapping[str, str], *, now: float) -> Selection:
    """Read the parameters of an export.

    :raises RefusedRequest: with 400, for parameters that are missing or wrong.
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
        source += USERS if "user" in where.uses else ""
    milliseconds = query.get("time_in_ms", "").lower() in ("1", "true")
    return Selection(source, condition, parameters, _limit(query.get("limit")), milliseconds)


def read_where(text: str, names: Mapping[str, Names], *, prefix: str = "x") -> Compiled:
    """Compile a `where`, or refuse the request that has it."""
    try:
        return compile_condition(text, names, prefix=prefix)
    except ExpressionError as error:
        raise RefusedRequest(400, f"where: {error}") from error


def plan(warehouse: Warehouse, selection: Selection) -> list[Window]:
    """Divide the events asked for into pieces of a few megabytes.

    :raises RefusedRequest: with 400, when the condition does not suit the events.
    """
    sql = (
        f"select e.seq // {BLOCK}, count(*), sum(strlen(e.properties)) from {selection.source}"  # noqa: S608
        f" where {selection.condition} group by 1 order by 1"
    )
    try:
        blocks = warehouse.query(sql, selection.parameters)
    except ValueError as error:
        raise RefusedRequest(400, f"where: {error}") from error
    windows: list[Window] = []
    low, size, done, here = None, 0, 0, 0
    for number, (block, events, weight) in enumerate(blocks, start=1):
        low = block if low is None else low
        size += weight + OVERHEAD * events
        here += events
        cut = selection.limit is not None and done + here >= selection.limit
        if size >= PIECE or number == len(blocks) or cut:
            limit = selection.limit - done if selection.limit is not None and cut else None
            windows.append(Window(low * BLOCK, block * BLOCK + BLOCK - 1, limit))
            low, size, done, here = None, 0, done + here, 0
        if cut:
            break
    return windows


def write(warehouse: Warehouse, selection: Selection, window: Window) -> bytes:
    """Write the lines of a window, in the order they came in."""
    time = "e.time" if selection.milliseconds else "e.time // 1000"
    line = LINE.format(time=time)
    order = "" if window.limit is None else " order by e.seq limit $limit"
    sql = (
        f"select encode(string_agg(line, '')) from (select {line} as line from {selection.source}"  # noqa: S608
        f" where e.seq between $low and $high and {selection.condition}{order})"
    )
    values = {**selection.parameters, "low": window.low, "high": window.high}
    if window.limit is not None:
        values["limit"] = window.limit
    ((lines,),) = warehouse.query(sql, values)
    return lines or b""


class Memory:
    """Bodies that were sent gzipped, by what was asked for and what was stored then."""

    def __init__(self, most: int = REMEMBERED) -> None:
        self._most = most
        self._size = 0
        self._bodies: OrderedDict[Any, list[bytes]] = OrderedDict()

    def get(self, key: Any) -> list[bytes] | None:
        """Return a body in its pieces, if it is remembered."""
        return self._bodies.get(key)

    def put(self, key: Any, body: list[bytes]) -> None:
        """Remember a body, and forget the oldest ones for it."""
        size = sum(map(len, body))
        if size > self._most or key in self._bodies:
            return
        self._bodies[key] = body
        self._size += size
        while self._size > self._most:
            _, oldest = self._bodies.popitem(last=False)
            self._size -= sum(map(len, oldest))

    def clear(self) -> None:
        """Forget everything."""
        self._bodies.clear()
        self._size = 0


async def answer(
    warehouse: Warehouse, memory: Memory, query: Mapping[str, str], *, now: float, gzip: bool
) -> Response:
    """Answer an export; what can go wrong does so before the first byte.

    :raises RefusedRequest: with 400, for parameters that are wrong.
    """
    selection = read_selection(query, now=now)
    key = (warehouse.revision, *sorted(query.items()))
    headers = {"content-encoding": "gzip"}
    if gzip and (known := memory.get(key)) is not None:
        return StreamingResponse(_each(known), media_type=MEDIA_TYPE, headers=headers)
    windows = await asyncio.to_thread(plan, warehouse, selection)
    pieces = _pieces(warehouse, selection, windows)
    first = await anext(pieces, b"")
    if len(windows) <= 1:
        gzip = gzip and len(first) > LARGEST_PLAIN
        if not gzip:
            return Response(first, media_type=MEDIA_TYPE)
    if not gzip:
        return StreamingResponse(_after(first, pieces), media_type=MEDIA_TYPE)
    zipped = _zipped(_after(first, pieces), memory, key)
    return StreamingResponse(zipped, media_type=MEDIA_TYPE, headers=headers)


async def _pieces(
    warehouse: Warehouse, selection: Selection, windows: list[Window]
) -> AsyncIterator[bytes]:
    coming: asyncio.Future[bytes] | None = None
    for window in [*windows, None]:
        written = coming
        coming = None
        if window is not None:
            thread = asyncio.to_thread(write, warehouse, selection, window)
            coming = asyncio.ensure_future(thread)
        if written is not None:
            yield await written


async def _zipped(pieces: AsyncIterator[bytes], memory: Memory, key: Any) -> AsyncIterator[bytes]:
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, GZIP)
    body: list[bytes] = []
    size = 0
    async for piece in pieces:
        body.append(await asyncio.to_thread(packer.compress, piece))
        size += len(body[-1])
        yield body[-1]
        if size > REMEMBERED:
            body.clear()
    body.append(packer.flush())
    yield body[-1]
    if size <= REMEMBERED:
        memory.put(key, body)


async def _after(first: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in pieces:
        yield piece


async def _each(pieces: list[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def _day(query: Mapping[str, str], name: str) -> date:
    told = query.get(name)
    if not told:
        raise RefusedRequest(400, f"{name} is required")
    try:
        if DAY.fullmatch(told):
            return date.fromisoformat(told)
    except ValueError:
        pass
    raise RefusedRequest(400, f"{name} must be a date as YYYY-MM-DD, not {told!r}")


def _start(day: date, *, days: int = 0) -> int:
    start = datetime(day.year, day.month, day.day, tzinfo=UTC) - datetime.fromtimestamp(0, UTC)
    return (start + timedelta(days=days)) // timedelta(milliseconds=1)


def _event_names(told: str) -> list[str]:
    try:
        names = from_json(told)
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        raise RefusedRequest(400, 'event must be a JSON array of names, as ["Order Paid"]')
    return names


def _limit(told: str | None) -> int | None:
    if told is None:
        return None
    if not (told.isascii() and told.isdecimal() and 1 <= int(told) <= MOST_EVENTS):
        raise RefusedRequest(400, f"limit must be between 1 and {MOST_EVENTS}, not {told!r}")
    return int(told)
