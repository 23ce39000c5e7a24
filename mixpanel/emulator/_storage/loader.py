"""Fill a warehouse from a file of events, such as a raw export: no windows, no limits, no judging.

NDJSON goes to DuckDB many lines at a time. Lines that DuckDB takes for broken, as those with half a
surrogate pair are, go through Python: their properties are served as they came, while in names and
ids a ? stands for the half.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from mixpanel._records.encoding import loads
from mixpanel.emulator._rules.events import Refused, json_text, milliseconds
from mixpanel.emulator._storage.warehouse import Copy, Warehouse

BLOCK = 8 * 2**20
ROWS = 10_000
NDJSON = (".ndjson", ".jsonl", ".ndjson.gz", ".jsonl.gz")
HALF = re.compile("[\ud800-\udfff]")
TAKEN = ("token", "time", "distinct_id", "$insert_id", "ip", "mp_processing_time_ms")


def load_file(warehouse: Warehouse, path: Path, *, now: float) -> int:
    """Store every event of a file and return how many there were.

    An event keeps its `mp_processing_time_ms`; one without has come `now`.

    :raises ValueError: for a line that is no event; those before it are stored.
    :raises OSError: for a file that cannot be read.
    """
    loaded = 0
    for lines in _lines(path):
        try:
            warehouse.add_lines(lines, now=now)
        except ValueError:
            copies = [_copy(path, loaded + n, line, now) for n, line in enumerate(lines, start=1)]
            warehouse.add_copies(copies)
        loaded += len(lines)
    return loaded


def _lines(path: Path) -> Iterator[list[str]]:
    if not path.name.lower().endswith(NDJSON):
        from mixpanel.data.store import read_events

        texts = map(json_text, read_events(path))
        while lines := list(islice(texts, ROWS)):
            yield lines
        return
    for block in _blocks(path):
        # Not `splitlines`: JSON may hold what that takes for the end of a line.
        lines = block.decode(errors="replace").split("\n")
        if lines := [line for line in lines if line and not line.isspace()]:
            yield lines


def _blocks(path: Path) -> Iterable[bytes]:
    """Read some megabytes at a time, each up to the end of a line."""
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    left = b""
    with opened(path, "rb") as file:
        try:
            while block := file.read(BLOCK):
                whole, newline, rest = block.rpartition(b"\n")
                if newline:
                    yield left + whole
                    left = rest
                else:
                    left += block
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path.name} is not valid gzip: {error}") from error
    yield left


def _copy(path: Path, number: int, line: str, now: float) -> Copy:
    """Read one line the slow way."""
    where = f"{path.name}: event {number}"
    try:
        told = loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {error}") from error
    match told:
        case {"event": str(event), "properties": {"time": time, **rest}}:
            pass
        case _:
            raise ValueError(f'{where} must be {{"event": ..., "properties": {{"time": ...}}}}')
    try:
        at = milliseconds(time)
    except Refused as refused:
        raise ValueError(f"{where}: {refused.message}") from refused
    who, which = rest.get("distinct_id"), rest.get("$insert_id")
    came = rest.get("mp_processing_time_ms")
    properties = {name: value for name, value in rest.items() if name not in TAKEN}
    plain = json.dumps(properties, ensure_ascii=False, separators=(",", ":"))
    raw = HALF.sub(lambda half: f"\\u{ord(half[0]):04x}", plain)
    odd = raw != plain or "NaN" in raw or "Infinity" in raw
    return Copy(
        _whole(event),
        at,
        None if who is None else _whole(str(who)),
        None if which is None else _whole(str(which)),
        json_text({"time": time}),
        json_text(_repaired(properties)) if odd else plain,
        raw if odd else None,
        came if isinstance(came, int) else round(now * 1000),
    )


def _repaired(value: Any) -> Any:
    """Return a value without halves of surrogate pairs."""
    match value:
        case str():
            return _whole(value)
        case dict():
            return {_whole(name): _repaired(member) for name, member in value.items()}
        case list():
            return [_repaired(member) for member in value]
    return value


def _whole(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
