"""Load a file of events, such as a raw export, into a warehouse without validating them.

NDJSON is passed to DuckDB many lines at a time. Lines that DuckDB rejects, such as those with half
a surrogate pair, are parsed in Python: their properties are served unchanged, while in names and
ids the half is replaced by a question mark.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from mixpanel._records.json_encoding import loads
from mixpanel.emulator._rules.events import InvalidRecord, json_text, milliseconds
from mixpanel.emulator._storage.flights import load_flights
from mixpanel.emulator._storage.warehouse import EventCopy, Warehouse

BLOCK = 8 * 2**20
ROWS = 10_000
NDJSON = (".ndjson", ".jsonl", ".ndjson.gz", ".jsonl.gz")
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
DATA_SETS = {"flights": load_flights}
COLUMNS = ("token", "time", "distinct_id", "$insert_id", "ip", "mp_processing_time_ms")


def load(warehouse: Warehouse, source: str | Path, *, now: float) -> int:
    """Store every event of a file or of a data set, and return how many there were.

    :raises ValueError: a line is not an event, or the data set is not installed.
    :raises OSError: the file cannot be read.
    """
    load_data_set = DATA_SETS.get(str(source))  # no name of a file: those have a suffix
    if load_data_set is not None:
        return load_data_set(warehouse, now=now)
    return load_file(warehouse, Path(source), now=now)


def load_file(warehouse: Warehouse, path: Path, *, now: float) -> int:
    """Store every event of a file, and return how many there were.

    An event keeps its `mp_processing_time_ms`; without one it was received `now`.

    :raises ValueError: a line is not an event; those before it are stored.
    :raises OSError: the file cannot be read.
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
        from mixpanel.data.readers import read_events

        texts = map(json_text, read_events(path))
        while lines := list(islice(texts, ROWS)):
            yield lines
        return
    for block in _blocks(path):
        # Not `splitlines`: it also splits at characters that JSON strings may contain.
        lines = block.decode(errors="replace").split("\n")
        if lines := [line for line in lines if line and not line.isspace()]:
            yield lines


def _blocks(path: Path) -> Iterable[bytes]:
    """Yield blocks of some megabytes that end at the end of a line."""
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    partial_line = b""
    with opened(path, "rb") as file:
        try:
            while block := file.read(BLOCK):
                whole, newline, rest = block.rpartition(b"\n")
                if newline:
                    yield partial_line + whole
                    partial_line = rest
                else:
                    partial_line += block
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path.name} is not valid gzip: {error}") from error
    yield partial_line


def _copy(path: Path, number: int, line: str, now: float) -> EventCopy:
    """Parse one line in Python."""
    where = f"{path.name}: event {number}"
    try:
        record = loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {error}") from error
    match record:
        case {"event": str(event), "properties": {"time": time, **rest}}:
            pass
        case _:
            raise ValueError(f'{where} must be {{"event": ..., "properties": {{"time": ...}}}}')
    try:
        milliseconds_since_epoch = milliseconds(time)
    except InvalidRecord as refused:
        raise ValueError(f"{where}: {refused.message}") from refused
    distinct_id, insert_id = rest.get("distinct_id"), rest.get("$insert_id")
    received_at = rest.get("mp_processing_time_ms")
    properties = {name: value for name, value in rest.items() if name not in COLUMNS}
    # DuckDB stores valid JSON only: for anything else the original text is kept as `raw`, and a
    # repaired version is what conditions read.
    plain = json.dumps(properties, ensure_ascii=False, separators=(",", ":"))
    raw = LONE_SURROGATE.sub(lambda half: f"\\u{ord(half[0]):04x}", plain)
    has_raw = raw != plain or "NaN" in raw or "Infinity" in raw
    return EventCopy(
        _replace_surrogates(event),
        milliseconds_since_epoch,
        None if distinct_id is None else _replace_surrogates(str(distinct_id)),
        None if insert_id is None else _replace_surrogates(str(insert_id)),
        json_text({"time": time}),
        json_text(_replace_all_surrogates(properties)) if has_raw else plain,
        raw if has_raw else None,
        received_at if isinstance(received_at, int) else round(now * 1000),
    )


def _replace_all_surrogates(value: Any) -> Any:
    """Replace half surrogate pairs in a JSON value."""
    match value:
        case str():
            return _replace_surrogates(value)
        case dict():
            return {
                _replace_surrogates(name): _replace_all_surrogates(member)
                for name, member in value.items()
            }
        case list():
            return [_replace_all_surrogates(member) for member in value]
    return value


def _replace_surrogates(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
